/* SPDX-License-Identifier: MIT */
/*
 * The pool: threads that serve.
 *
 * DESIGN
 *
 * Faults of one address space are served best by one thread as long as operations are quick: the
 * kernel changes its page tables one at a time anyhow, and each further thread costs wake-ups. So
 * there is a leader, which waits on the userfaultfd always, and others that help when it is not
 * enough. One of these, who has the token, is the scout:
 *
 *	state    waits for                 leaves it when
 *	leader   messages                  stop
 *	parked   the token                 it gets the token: scout
 *	scout    the leader to begin, then the leader does not get on (its operation takes long), or falls behind:
 *	         naps; for messages while  gives the token away, so that another one scouts, and serves
 *	         the leader is stuck, or
 *	         after a long rest
 *	serving  nothing                   there is nothing to do, or the leader gets on again: scout if the token
 *	                                   is still there, else parked
 *
 * A scout naps while the leader is at work, longer and longer while it was not needed. So a slow operation holds
 * other faults up for some milliseconds at most, and quick ones are not disturbed: who polls a
 * userfaultfd is woken by each of its faults, at the cost of who faulted, also if the message is gone by
 * the time that it looks.
 *
 * All wait with poll(), not epoll: it is in the userfaultfd's queue only while it waits, and the
 * leader seldom does under load, as it reads again before it waits. An epoll would be called at
 * each message.
 *
 * The token is the count of an eventfd in semaphore mode. The eventfd `kick` says that the stash
 * is not empty, or that the pool stops; all wait for it too.
 *
 * Who owns what: the pool and its threads' counters are one mapping, made before the first
 * thread, freed after the last. A thread writes only its own part. Starting and stopping are done
 * by the thread that opens and closes.
 *
 *	edge              who             how
 *	new -> running    the thread      start hook returned 0; counted under the start mutex
 *	new -> failed     the thread      start hook refused; likewise, and the pool is stopped by who starts it
 *	running -> ended  the thread      stop is set and kick was written, after the batch at hand
 *
 * stop is set before kick is written and never cleared, and kick is not left empty once it is:
 * every thread sees it. Nobody reads messages then; who closes releases every page and thread
 * itself.
 *
 * Placement: a fault costs two context switches if the serving thread runs on the CPU of the
 * thread that faulted, and two wake-ups of idle CPUs if it does not, which is several times as
 * much on virtual machines. For threads that may run anywhere the scheduler finds a place. But if
 * they are bound to a CPU, it still moves the serving thread to an idle one; FOLLOW sees that
 * from their affinity, and binds the leader there.
 */
#include "pool.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>

#include "call.h"
#include "fault.h"
#include "sys.h"
#include "util.h"

/* Batches between two looks at where a faulting thread is bound, and how many looks must agree. */
#define LOOK_EVERY 64
#define LOOKS 4

/* A scout's pause before it judges, and a batch that takes so long calls for help. */
#define HOLD_MIN_US 50
#define HOLD_MAX_US 5000
#define SLOW_NS 50000
#define REST_NS 100000000

struct worker {
	struct uffdwp__pool *pool;
	struct uffdwp__stats stats;
	struct uffdwp__server server;
	pthread_t thread;
	int cpu;	   /* bound there, -1: not */
	int seen;	   /* the CPU at the last look */
	unsigned int look; /* batches until the next one */
	unsigned int same; /* looks that agreed */
	unsigned int hold_us;
	_Atomic bool behind; /* its last batch was full, or took long */
	cpu_set_t allowed;   /* as the thread began */
};

struct uffdwp__pool {
	struct uffdwp *h;
	int token;
	/* The leader is not waiting for messages; the scout waits for that, by begun. */
	_Atomic bool busy, scout_rests;
	sem_t begun;
	pthread_mutex_t start_lock;
	pthread_cond_t started;
	unsigned int answers; /* under start_lock */
	int err;	      /* the first thread's that refused */
	unsigned int n;	      /* threads there are */
	size_t size;
	struct worker w[];
};

/* ---- Following ---- */

static void bind_to(struct worker *w, int cpu)
{
	int err = cpu < 0 ? uffdwp__sys_affinity_set(&w->allowed, sizeof(w->allowed))
			  : uffdwp__sys_affinity_one(cpu);

	if (err)
		return;
	w->cpu = cpu;
	uffdwp__count(&w->stats, COUNT_MOVES, 1);
}

static void follow(struct worker *w)
{
	int cpu;

	if (likely(w->look--) || !w->server.last_tid)
		return;
	w->look = w->same < LOOKS ? LOOK_EVERY / LOOKS : LOOK_EVERY;
	cpu = uffdwp__sys_thread_cpu((int)w->server.last_tid);
	if (cpu >= 0 && !CPU_ISSET(cpu, &w->allowed))
		cpu = -1;
	w->same = cpu == w->seen ? w->same + 1 : 0;
	w->seen = cpu;
	if (w->same >= LOOKS && cpu != w->cpu)
		bind_to(w, cpu);
}

/* ---- Serving ---- */

/* seq_cst: see uffdwp__pool_stop() and uffdwp__give_up(), after which there is nothing to serve. */
static bool stopping(const struct worker *w)
{
	const struct uffdwp *h = w->pool->h;

	return atomic_load_explicit(&h->stopping, memory_order_seq_cst) ||
	       atomic_load_explicit(&h->given_up, memory_order_seq_cst);
}

/*
 * Until fd is readable, or kick. False: stop. Where poll() does not work (it fails under
 * RLIMIT_NOFILE 0 or 1, as sandboxes set it, and for a descriptor that another process has made a
 * blocking one), by looking now and then.
 */
static bool wait_for(const struct worker *w, int fd)
{
	if (!stopping(w) && uffdwp__sys_poll(fd, w->pool->h->kick))
		uffdwp__sys_sleep_us(200);
	return !stopping(w);
}

/* One batch. False: nothing was there. */
static bool serve_once(struct worker *w)
{
	struct uffdwp *h = w->pool->h;
	int n = uffdwp__serve(&w->server);

	if (unlikely(n < 0))
		uffdwp__fail(h, n);
	/* Relaxed: only advice for the scout. */
	atomic_store_explicit(&w->behind,
			      n == (int)h->batch || (n > 0 && w->server.last_ns > SLOW_NS),
			      memory_order_relaxed);
	return n > 0;
}

/* The leader posts if it has taken the mark; a scout that has taken it back gets no post. */
static bool take_mark(struct uffdwp__pool *p)
{
	return atomic_exchange_explicit(&p->scout_rests, false, memory_order_seq_cst);
}

/* seq_cst: one of leader and scout sees what the other has set. */
static void set_busy(struct uffdwp__pool *p)
{
	atomic_store_explicit(&p->busy, true, memory_order_seq_cst);
	if (unlikely(atomic_load_explicit(&p->scout_rests, memory_order_seq_cst)) && take_mark(p))
		sem_post(&p->begun);
}

static bool wait_to_lead(struct worker *w)
{
	bool more;

	atomic_store_explicit(&w->pool->busy, false, memory_order_seq_cst);
	more = wait_for(w, w->pool->h->fd);
	set_busy(w->pool);
	return more;
}

/*
 * Reads again before it waits: a thread that is released on this CPU runs before the releasing
 * call returns, and its next fault is there already.
 */
static void lead(struct worker *w)
{
	bool follows = w->pool->h->placement == UFFDWP_PLACE_FOLLOW;

	while (wait_to_lead(w))
		while (serve_once(w) && !stopping(w))
			if (follows)
				follow(w);
}

/* Whether the leader has done nothing since it had read so often, or can not keep up. */
static bool leader_needs(const struct worker *w, uint64_t reads)
{
	const struct worker *leader = &w->pool->w[0];

	return uffdwp__counted(&leader->stats, COUNT_READS) == reads ||
	       atomic_load_explicit(&leader->behind, memory_order_relaxed);
}

static uint64_t leader_reads(const struct worker *w)
{
	return uffdwp__counted(&w->pool->w[0].stats, COUNT_READS);
}

/* Until the leader begins. False: it has not for a while. It stays busy when it has ended. */
static bool rest(struct uffdwp__pool *p)
{
	uint64_t until = uffdwp__sys_realtime() + REST_NS;
	const struct timespec t = { .tv_sec = (time_t)(until / 1000000000),
				    .tv_nsec = (long)(until % 1000000000) };

	atomic_store_explicit(&p->scout_rests, true, memory_order_seq_cst);
	if (!atomic_load_explicit(&p->busy, memory_order_seq_cst) && !sem_timedwait(&p->begun, &t))
		return true;
	if (take_mark(p))
		return atomic_load_explicit(&p->busy, memory_order_relaxed);
	while (sem_wait(&p->begun))
		;
	return true;
}

/* Whether the leader was at it for the whole nap. */
static bool leader_is_stuck(const struct worker *w, uint64_t reads)
{
	return atomic_load_explicit(&w->pool->busy, memory_order_relaxed) && leader_needs(w, reads);
}

/*
 * Until there is something to do that the leader does not do. False: stop. When it has had nothing to do for a
 * while the scout waits for messages too: the leader may be bound to a CPU that it does not get.
 */
static bool scout(struct worker *w)
{
	struct uffdwp__pool *p = w->pool;

	while (!stopping(w)) {
		uint64_t reads = leader_reads(w);
		bool woken = !atomic_load_explicit(&p->busy, memory_order_relaxed) && !rest(p);

		if (woken && !wait_for(w, p->h->fd))
			return false;
		/* What the leader has begun with is older. */
		if (!woken)
			reads = leader_reads(w);
		uffdwp__sys_sleep_us(w->hold_us);
		if (woken && leader_needs(w, reads))
			return true;
		if (leader_is_stuck(w, reads) && wait_for(w, p->h->fd) && leader_is_stuck(w, reads))
			return true;
		w->hold_us = (unsigned int)min_u64(w->hold_us * 2, HOLD_MAX_US);
	}
	return false;
}

static void help(struct worker *w)
{
	uint64_t reads = leader_reads(w);

	uffdwp__sys_eventfd_add(w->pool->token);
	if (!serve_once(w)) {
		w->hold_us = (unsigned int)min_u64(w->hold_us * 2, HOLD_MAX_US);
		return;
	}
	w->hold_us = HOLD_MIN_US;
	while (!stopping(w) && leader_needs(w, reads) && (reads = leader_reads(w), serve_once(w)))
		;
}

static bool take_token(const struct worker *w)
{
	return !uffdwp__sys_eventfd_clear(w->pool->token);
}

static void assist(struct worker *w)
{
	while (wait_for(w, w->pool->token)) {
		if (!take_token(w)) {
			serve_once(w); /* it was kick */
			continue;
		}
		do {
			if (!scout(w))
				return;
			help(w);
		} while (take_token(w));
	}
}

static int begin(struct worker *w)
{
	struct uffdwp *h = w->pool->h;
	char name[] = "uffdwp/00";
	int err = 0;

	name[7] += (char)(w->server.worker / 10);
	name[8] += (char)(w->server.worker % 10);
	uffdwp__sys_thread_name(name);
	uffdwp__sys_affinity_get(&w->allowed, sizeof(w->allowed));
	if (h->placement == UFFDWP_PLACE_PIN)
		err = uffdwp__sys_affinity_one(w->cpu);
	if (!err && h->thread_start)
		err = h->thread_start(w->server.worker, h->thread_arg);
	return err > 0 ? -ECANCELED : err;
}

static void answer(struct worker *w, int err)
{
	struct uffdwp__pool *p = w->pool;

	pthread_mutex_lock(&p->start_lock);
	p->answers++;
	if (err && !p->err) {
		p->err = err;
		p->h->refused = 1 + w->server.worker;
	}
	pthread_cond_signal(&p->started);
	pthread_mutex_unlock(&p->start_lock);
}

static void *run(void *arg)
{
	struct worker *w = arg;
	int err = begin(w), slot;

	answer(w, err);
	slot = uffdwp__serving_begin(w->pool->h);
	if (!err && w->server.worker == 0)
		lead(w);
	else if (!err)
		assist(w);
	/* From here on no scout rests. */
	if (w->server.worker == 0)
		set_busy(w->pool);
	uffdwp__serving_end(w->pool->h, slot);
	return NULL;
}

/* ---- Starting ---- */

__cold static void worker_init(struct worker *w, struct uffdwp__pool *p, uint32_t i, int cpu)
{
	w->pool = p;
	w->cpu = cpu;
	w->seen = -1;
	w->look = LOOK_EVERY / LOOKS;
	w->hold_us = HOLD_MIN_US;
	w->server = (struct uffdwp__server){ .h = p->h, .st = &w->stats, .worker = i };
}

/*
 * The threads inherit the mask: a signal never interrupts serving, nor finds its handler on
 * protected memory.
 */
__cold static int worker_create(struct worker *w)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&w->thread, NULL, run, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

__cold static int start_one(struct uffdwp__pool *p, int cpu)
{
	struct worker *w = &p->w[p->n];
	int err;

	worker_init(w, p, p->n, cpu);
	err = worker_create(w);
	if (err)
		return err;
	p->n++;
	return 0;
}

__cold static int wait_started(struct uffdwp__pool *p)
{
	int err;

	pthread_mutex_lock(&p->start_lock);
	while (p->answers < p->n)
		pthread_cond_wait(&p->started, &p->start_lock);
	err = p->err;
	pthread_mutex_unlock(&p->start_lock);
	return err;
}

__cold int uffdwp__pool_start(struct uffdwp *h, const int *cpus, size_t ncpus)
{
	size_t size = sizeof(struct uffdwp__pool) + h->threads * sizeof(struct worker);
	struct uffdwp__pool *p = uffdwp__sys_alloc(size);
	int err = 0, later;

	if (!p)
		return -ENOMEM;
	p->h = h;
	p->size = size;
	pthread_mutex_init(&p->start_lock, NULL);
	pthread_cond_init(&p->started, NULL);
	sem_init(&p->begun, 0, 0);
	h->pool = p;
	p->token = uffdwp__sys_eventfd(true);
	err = p->token < 0 ? p->token : uffdwp__sys_eventfd_add(p->token);
	while (!err && p->n < h->threads)
		err = start_one(p, ncpus ? cpus[p->n % ncpus] : -1);
	later = wait_started(p);
	err = err ? err : later;
	if (err)
		uffdwp__pool_stop(h);
	return err;
}

/* ---- Stopping ---- */

__cold static void pool_free(struct uffdwp *h)
{
	struct uffdwp__pool *p = h->pool;

	if (p->token >= 0)
		uffdwp__sys_close(p->token);
	h->pool = NULL;
	uffdwp__sys_free(p, p->size);
}

__cold void uffdwp__pool_stop(struct uffdwp *h)
{
	struct uffdwp__pool *p = h->pool;

	if (!p)
		return;
	/*
	 * seq_cst, and before the kick: who empties the stash, and with it kick, sees it and
	 * kicks again.
	 */
	atomic_store_explicit(&h->stopping, true, memory_order_seq_cst);
	uffdwp__sys_eventfd_add(h->kick);
	for (unsigned int i = 0; i < p->n; i++)
		pthread_join(p->w[i].thread, NULL);
	pthread_mutex_destroy(&p->start_lock);
	pthread_cond_destroy(&p->started);
	sem_destroy(&p->begun);
	pool_free(h);
}

__cold void uffdwp__pool_drop(struct uffdwp *h)
{
	if (h->pool)
		pool_free(h);
}

const struct uffdwp__stats *uffdwp__pool_stats(const struct uffdwp *h, uint32_t worker)
{
	return h->pool && worker < h->pool->n ? &h->pool->w[worker].stats : NULL;
}
