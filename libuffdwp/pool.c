/* SPDX-License-Identifier: MIT */
/*
 * The pool: threads that serve.
 *
 * DESIGN
 *
 * Each thread waits in an epoll of its own for two descriptors. The userfaultfd is added EPOLLEXCLUSIVE, so one
 * message wakes one thread; a thread that is busy is passed over, so the others join when there is more to do than
 * one can. The eventfd `kick` says that the stash is not empty, or that the pool stops.
 *
 * Who owns what: the pool and its threads' counters are one mapping, made before the first thread, freed after the
 * last. A thread writes only its own part. Starting and stopping are done by the thread that opens and closes.
 *
 *	edge              who             how
 *	new -> running    the thread      start hook returned 0; counted under the start mutex
 *	new -> failed     the thread      start hook refused; likewise, and the pool is stopped by who starts it
 *	running -> ended  the thread      stop is set and kick was written, after the batch at hand
 *
 * stop is set before kick is written and never cleared, and kick is not emptied once it is: every thread sees it.
 * Nobody reads messages then; who closes releases every page and thread itself.
 *
 * Placement: a fault costs two context switches if the serving thread runs on the CPU of the thread that
 * faulted, and two wake-ups of idle CPUs if it does not, which is several times as much on virtual
 * machines. The scheduler prefers the idle CPU. So FOLLOW looks now and then, in /proc, where the threads run whose
 * faults are served, and moves there.
 */
#include "pool.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>

#include "call.h"
#include "fault.h"
#include "sys.h"
#include "util.h"

/* Batches between two looks at the CPU: few after a move, many when nothing changes. */
#define LOOK_MIN 16
#define LOOK_MAX 1024

struct worker {
	struct uffdwp__pool *pool;
	struct uffdwp__stats stats;
	struct uffdwp__server server;
	pthread_t thread;
	int epoll;
	int cpu;	    /* pinned there, -1: not */
	unsigned int look;  /* batches between two looks */
	unsigned int until; /* the next one */
	cpu_set_t allowed;  /* as the thread began */
};

struct uffdwp__pool {
	struct uffdwp *h;
	_Atomic bool stop;
	pthread_mutex_t start_lock;
	pthread_cond_t started;
	unsigned int answers; /* under start_lock */
	int err;	      /* the first thread's that refused */
	unsigned int n;	      /* threads there are */
	size_t size;
	struct worker w[];
};

/* ---- Following ---- */

static void move_to(struct worker *w, int cpu)
{
	if (cpu == w->cpu || !CPU_ISSET(cpu, &w->allowed))
		return;
	if (uffdwp__sys_affinity_one(cpu))
		return;
	w->cpu = cpu;
	w->look = LOOK_MIN;
	uffdwp__count(&w->stats, COUNT_MOVES, 1);
}

static void follow(struct worker *w)
{
	int cpu;

	if (likely(w->until--) || !w->server.last_tid)
		return;
	cpu = uffdwp__sys_thread_cpu((int)w->server.last_tid);
	w->look = w->look * 2 < LOOK_MAX ? w->look * 2 : LOOK_MAX;
	if (cpu >= 0 && cpu < CPU_SETSIZE)
		move_to(w, cpu);
	w->until = w->look;
}

/* ---- A thread ---- */

static int begin(struct worker *w)
{
	struct uffdwp *h = w->pool->h;
	int err = 0;

	uffdwp__sys_affinity_get(&w->allowed, sizeof(w->allowed));
	if (h->placement == UFFDWP_PLACE_PIN)
		err = uffdwp__sys_affinity_one(w->cpu);
	if (!err && h->thread_start)
		err = h->thread_start(w->server.worker, h->thread_arg);
	return err > 0 ? -ECANCELED : err;
}

static void answer(struct uffdwp__pool *p, int err)
{
	pthread_mutex_lock(&p->start_lock);
	p->answers++;
	if (err && !p->err)
		p->err = err;
	pthread_cond_signal(&p->started);
	pthread_mutex_unlock(&p->start_lock);
}

/* Until the stash is empty: whoever fills it later kicks again. */
static int serve_once(struct worker *w)
{
	struct uffdwp *h = w->pool->h;
	int n;

	do {
		if (unlikely(atomic_load_explicit(&h->stashed, memory_order_relaxed)))
			uffdwp__sys_eventfd_clear(h->kick);
		n = uffdwp__serve(&w->server);
	} while (unlikely(n > 0 && atomic_load_explicit(&h->stashed, memory_order_relaxed)));
	return n;
}

static void serve(struct worker *w)
{
	bool follows = w->pool->h->placement == UFFDWP_PLACE_FOLLOW;

	for (;;) {
		int n = uffdwp__sys_epoll_wait(w->epoll);

		/* Acquire: pairs with the release in stop. */
		if (atomic_load_explicit(&w->pool->stop, memory_order_acquire))
			return;
		if (likely(!n))
			n = serve_once(w);
		if (unlikely(n < 0)) {
			uffdwp__fail(w->pool->h, n);
			return;
		}
		if (n > 0 && follows)
			follow(w);
	}
}

static void *run(void *arg)
{
	struct worker *w = arg;
	int err = begin(w);

	answer(w->pool, err);
	if (!err)
		serve(w);
	return NULL;
}

/* ---- Starting ---- */

__cold static int worker_init(struct worker *w, struct uffdwp__pool *p, uint32_t i, int cpu)
{
	struct uffdwp *h = p->h;
	int err;

	w->pool = p;
	w->cpu = cpu;
	w->look = LOOK_MIN;
	w->server = (struct uffdwp__server){ .h = h, .st = &w->stats, .worker = i };
	w->epoll = uffdwp__sys_epoll();
	if (w->epoll < 0)
		return w->epoll;
	err = uffdwp__sys_epoll_add(w->epoll, h->fd, EPOLLIN | EPOLLEXCLUSIVE);
	if (!err)
		err = uffdwp__sys_epoll_add(w->epoll, h->kick, EPOLLIN);
	if (err)
		uffdwp__sys_close(w->epoll);
	return err;
}

/* The threads inherit the mask: a signal never interrupts serving, nor finds its handler on protected memory. */
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
	char name[16] = "uffdwp/";
	int err = worker_init(w, p, p->n, cpu);

	if (err)
		return err;
	err = worker_create(w);
	if (err) {
		uffdwp__sys_close(w->epoll);
		return err;
	}
	name[7] = (char)('0' + p->n / 10);
	name[8] = (char)('0' + p->n % 10);
	pthread_setname_np(w->thread, name);
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
	h->pool = p;
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

	for (unsigned int i = 0; i < p->n; i++)
		uffdwp__sys_close(p->w[i].epoll);
	h->pool = NULL;
	uffdwp__sys_free(p, p->size);
}

__cold void uffdwp__pool_stop(struct uffdwp *h)
{
	struct uffdwp__pool *p = h->pool;

	if (!p)
		return;
	atomic_store_explicit(&p->stop, true, memory_order_release);
	uffdwp__sys_eventfd_add(h->kick);
	for (unsigned int i = 0; i < p->n; i++)
		pthread_join(p->w[i].thread, NULL);
	pthread_mutex_destroy(&p->start_lock);
	pthread_cond_destroy(&p->started);
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
