/* SPDX-License-Identifier: MIT */
/*
 * A snapshot's life: making it, arming, sealing, driving it to its end, its verdict.
 *
 * DESIGN
 *
 * Who does what. The caller's threads arm and seal. From the seal on one thread drives: the
 * snapshot's own (the saver), or whoever steps or waits. It alone calls the sink, sweeps, and ends
 * the snapshot. Serving threads, which may be signal handlers, save the pages whose first write
 * they serve. Anybody may cancel.
 *
 * Locks. `lock` is the driver's: arm, seal, a step, the saver's turn; the sink is called under it
 * alone. `end_lock` is for those that wait for the end. Neither is ever taken in an operation, nor
 * while pages are BUSY; the order is lock, then the core's, then end_lock. No page is BUSY while
 * the sink is called.
 *
 *	phase    left by            when                                   under
 *	new      arm, seal                                                 lock
 *	armed    seal               its caller has paused the writers      lock
 *	sealed   the driver         stop is set                            lock
 *	ended                       (new and armed go here too, by stop)
 *
 *	stop     set by             when
 *	running  anybody            cancelled: the caller, a lost page, an event; or failed: sink,
 *	                            handle, system
 *	running  the driver         complete: see below
 *
 * stop is set once; the first verdict stays, but for a sink that can not publish what is complete.
 *
 *	a page after the seal (cow)   who may take it on             its state, and bits
 *	protected, not saved          fault, sweep, event, discard   ARMED -> BUSY
 *	being saved                   who made it BUSY               saved is set before BUSY ends
 *	held: staging was full        the driver, or who stops:      BUSY, held set
 *	                              who clears its held bit
 *	saved, protected              fault, sweep                   ARMED -> BUSY -> FREE
 *	saved, released               nobody                         FREE
 *
 * Invariants.
 *  1. saved changes only while the page is BUSY, by who made it so, and once: a page is saved once.
 *  2. A page is not released before it is saved, unless the snapshot is stopped or the handle has
 *     failed; then it is not complete.
 *  3. saved is set only after it was proven that the page was protected, and not discarded, until
 *     after it was copied (snapshot_look.c). At the seal nobody writes, which proves it too.
 *  4. Complete: every page is saved, every queue is empty, nothing is in flight, the sink took it
 *     all. Who sees unsaved at 0 sees all that was queued: pages are queued before they count as
 *     saved.
 *  5. Whoever is held goes on: by the driver when there is room, by who stops it, or by itself, if
 *     it became held while that one looked (hold() in snapshot_save.c).
 *
 * The driver's own faults (a sink may write to the memory) have a part of staging to themselves:
 * nobody else could make room for them.
 *
 * A snapshot in a forked child is inert, as its handle: there is no saver, no staging.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "call.h"
#include "fault.h"
#include "handle.h"
#include "piece.h"
#include "snapshot_cow.h"
#include "snapshot_event.h"
#include "snapshot_precopy.h"
#include "snapshot_save.h"
#include "snapshot_sink.h"
#include "sys.h"
#include "util.h"

#define STAGING_MAX (UINT64_C(64) << 20) /* by default */
#define STAGING_PART 100		 /* of the memory */
#define SETTLE_PAGES 8			 /* cow's: each costs the pause 1.5 us */
#define SETTLE_BYTES (UINT64_C(1) << 20) /* precopy's: another pass looks at all there is */
#define PASSES 8
#define RUN_BYTES (UINT64_C(64) << 10) /* that a sequential writer's fault takes along */
#define IDLE_MS 10
#define SERVE_US 200 /* between two looks of one who waits and serves */
/* A collect that gives up loses nothing; a snapshot would be lost, to a CPU or a disk that stands still. */
#define PATIENCE_NS UINT64_C(5000000000)
#define BACK_NS 1000000 /* a look at the faults so often */
#define BACK_PAGES 25	/* saved by faults since the last look: too many to sweep */
#define BACK_PAGE_NS \
	250 /* at most for each page of the memory, a quarter of what saving it takes */

/* ---- Ending ---- */

/* Who has begun to stop it sets the fields at once. */
static void wait_verdict(struct uffdwp_snapshot *s)
{
	for (unsigned int k = 0; atomic_load_explicit(&s->stop, memory_order_acquire) == 1; k++)
		uffdwp__pause(k);
}

/* ---- Results ---- */

static uint64_t counted(const struct uffdwp_snapshot *s, enum uffdwp__snapshot_counter i)
{
	return atomic_load_explicit(&s->c[i], memory_order_relaxed);
}

static uint64_t memory_of(const struct uffdwp_snapshot *s)
{
	uint64_t n = s->size + s->staging.size + s->staging.books_size;

	for (uint32_t k = 0; k < s->n; k++)
		n += s->part[k].layer.marks_size * (s->part[k].layer.suspects ? 2 : 1) +
		     s->part[k].layer.blocks_size;
	return n;
}

static void fill_result(struct uffdwp_snapshot *s, struct uffdwp_snapshot_result *res)
{
	*res = (struct uffdwp_snapshot_result){
		.sz = sizeof(*res),
		.strategy = s->strategy,
		.sealed_ns = counted(s, SNAP_SEALED_NS),
		.arm_ns = counted(s, SNAP_ARM_NS),
		.pause_ns = counted(s, SNAP_PAUSE_NS),
		.total_ns = counted(s, SNAP_TOTAL_NS),
		.size = s->bytes,
		.saved = counted(s, SNAP_SAVED),
		.zero = counted(s, SNAP_ZERO),
		.by_fault = counted(s, SNAP_BY_FAULT),
		.by_sweep = counted(s, SNAP_BY_SWEEP),
		.by_seal = counted(s, SNAP_BY_SEAL),
		.staging_peak = uffdwp__staging_peak(&s->staging),
		.memory = memory_of(s),
		.passes = (uint32_t)counted(s, SNAP_PASSES),
		.held = (uint32_t)counted(s, SNAP_HELD),
	};
	uffdwp__hist_add(&res->waits, &s->waits);
}

/* Only of a snapshot that is being ended: before, another thread may set these. */
static void fill_verdict(const struct uffdwp_snapshot *s, struct uffdwp_snapshot_result *res)
{
	res->verdict = s->verdict;
	res->why = s->why;
	res->error = s->error;
	res->addr = s->stop_addr;
	res->len = s->stop_len;
}

static int give_result(struct uffdwp_snapshot *s, struct uffdwp_snapshot_result *res)
{
	bool ended = uffdwp__snapshot_phase(s) == UFFDWP__ENDED;
	struct uffdwp_snapshot_result r;
	size_t sz;

	if (!res)
		return ended;
	sz = res->sz;
	fill_result(s, &r);
	if (ended)
		fill_verdict(s, &r);
	r.sz = sz;
	memcpy(res, &r, min_u64(sz, sizeof(r)));
	return ended;
}

/* ---- Driving ---- */

static bool program_serves(const struct uffdwp_snapshot *s)
{
	return s->h->serve == UFFDWP_SERVE_CALLER && !s->h->blocking;
}

/*
 * Where the program serves, the thread that waits here may be the one that does: who waits for it, and the snapshot that
 * waits for an event, would wait for ever. False: there was nothing to do, or it is not its business.
 */
static bool serve_meanwhile(const struct uffdwp_snapshot *s)
{
	return program_serves(s) && uffdwp_dispatch(s->h) > 0;
}

/* Relaxed: see level_of() in snapshot_save.c. */
static void set_driver(struct uffdwp_snapshot *s, uintptr_t self, int tid)
{
	atomic_store_explicit(&s->driver, self, memory_order_relaxed);
	atomic_store_explicit(&s->driver_tid, tid, memory_order_relaxed);
}

static void begin_driving(struct uffdwp_snapshot *s)
{
	pthread_mutex_lock(&s->lock);
	set_driver(s, (uintptr_t)pthread_self(), uffdwp__sys_tid());
}

static void end_driving(struct uffdwp_snapshot *s)
{
	set_driver(s, 0, 0);
	pthread_mutex_unlock(&s->lock);
}

static void tell_sealed(struct uffdwp_snapshot *s)
{
	int err = 0;

	if (s->told_sealed)
		return;
	s->told_sealed = true;
	if (s->sink.sealed)
		err = s->sink.sealed(s->sink.ctx, counted(s, SNAP_SEALED_NS));
	if (err)
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_SINK,
				      err < 0 ? err : -EINVAL, NULL, 0, 0);
}

/* Whether it became complete. Acquire: pairs with the release in uffdwp__snapshot_set_saved(). */
static bool all_done(struct uffdwp_snapshot *s)
{
	int err;

	if (atomic_load_explicit(&s->unsaved, memory_order_acquire))
		return false;
	uffdwp__snapshot_hand_filled(s, UINT64_MAX);
	uffdwp__snapshot_flush_zeros(s);
	uffdwp__snapshot_reap(s);
	if (s->in_flight)
		return false;
	err = uffdwp__error(s->h);
	uffdwp__snapshot_stop(s, err ? UFFDWP_SNAPSHOT_FAILED : UFFDWP_SNAPSHOT_COMPLETE,
			      err ? UFFDWP_SNAPSHOT_WHY_HANDLE : UFFDWP_SNAPSHOT_WHY_NONE, err,
			      NULL, 0, 0);
	return true;
}

/*
 * Whether the CPUs are left to the faults, of which there are most in the first moments. A release sends a TLB flush to
 * every other CPU on which the process runs, and waits for it, which makes a fault two to three times as
 * dear while the driver is at work. So it does not sweep then, and what faults have saved waits in staging until that
 * is nearly full.
 */
static bool stands_back(struct uffdwp_snapshot *s)
{
	uint64_t now, bytes;

	if (likely(!s->back_until))
		return false;
	now = uffdwp__sys_now();
	if (now >= s->back_until) {
		s->back_until = 0;
		return false;
	}
	if (now - s->back_from < BACK_NS)
		return true;
	bytes = counted(s, SNAP_BY_FAULT);
	if ((bytes - s->back_bytes) / s->largest * BACK_NS < BACK_PAGES * (now - s->back_from))
		s->back_until = 0;
	s->back_from = now;
	s->back_bytes = bytes;
	return s->back_until;
}

/* As any thread that serves: what is for the driver's own faults is not for those that it serves. */
static void serve_as_driver(struct uffdwp_snapshot *s)
{
	if (!s->by_caller || !program_serves(s))
		return;
	set_driver(s, 0, 0);
	serve_meanwhile(s);
	set_driver(s, (uintptr_t)pthread_self(), uffdwp__sys_tid());
}

/* Once staging is nearly full it is emptied, and not a little. */
static void look_at_staging(struct uffdwp_snapshot *s)
{
	uint32_t nfree = atomic_load_explicit(&s->staging.nfree, memory_order_relaxed);
	uint32_t chunks = s->staging.chunks;

	s->emptying = nfree < (s->emptying ? chunks - chunks / 4 : chunks / 8 + 2);
}

/* Nothing but time makes it go on. */
static bool waits_for_faults(struct uffdwp_snapshot *s)
{
	/* seq_cst: pairs with hold(). */
	return s->back_until && !s->emptying &&
	       !atomic_load_explicit(&s->nheld, memory_order_seq_cst);
}

/* Does what there is to do now. False: nothing. */
static bool drive_once(struct uffdwp_snapshot *s)
{
	int err = 0;
	bool any, back = stands_back(s);

	tell_sealed(s);
	if (back)
		look_at_staging(s);
	if (waits_for_faults(s))
		return false;
	if (s->sink.wait && s->in_flight)
		err = s->sink.wait(s->sink.ctx, 0);
	if (err < 0)
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_SINK, err,
				      NULL, 0, 0);
	any = uffdwp__snapshot_reap(s);
	any |= atomic_load_explicit(&s->nheld, memory_order_seq_cst) && uffdwp__snapshot_resume(s);
	any |= uffdwp__snapshot_hand_filled(s, UINT64_MAX);
	if (!back && s->strategy == UFFDWP_SNAPSHOT_COW && uffdwp__sys_now() >= s->next_sweep &&
	    atomic_load_explicit(&s->unsaved, memory_order_relaxed))
		any |= uffdwp__cow_sweep(s);
	return any;
}

static void rest(struct uffdwp_snapshot *s)
{
	bool sweeping = atomic_load_explicit(&s->unsaved, memory_order_relaxed);

	if (waits_for_faults(s)) {
		uffdwp__snapshot_nap(s, BACK_NS / 1000);
		return;
	}
	/*
	 * What sweeps waits for staging, for its pace, or for a page that somebody else has for a
	 * moment.
	 */
	if (s->in_flight)
		uffdwp__snapshot_wait_sink(s, sweeping ? 1 : IDLE_MS);
	else
		uffdwp__snapshot_idle(s, sweeping ? 1000 : IDLE_MS * 1000);
}

static void publish(struct uffdwp_snapshot *s)
{
	struct uffdwp_snapshot_result r;
	int err = 0;

	fill_result(s, &r);
	fill_verdict(s, &r);
	if (s->begun && s->sink.end)
		err = s->sink.end(s->sink.ctx, &r);
	s->begun = false;
	if (err && s->verdict == UFFDWP_SNAPSHOT_COMPLETE) {
		s->verdict = UFFDWP_SNAPSHOT_FAILED;
		s->why = UFFDWP_SNAPSHOT_WHY_SINK;
		s->error = err < 0 ? err : -EINVAL;
	}
}

/* Nobody is kept waiting for the sink: pages first. */
static void finish(struct uffdwp_snapshot *s)
{
	wait_verdict(s);
	uffdwp__snapshot_resume(s);
	if (s->async) {
		for (uint32_t k = 0; k < s->n; k++)
			if (!uffdwp__layer_shared(&s->part[k].layer))
				uffdwp__layer_protect(&s->part[k].layer, 0, s->part[k].layer.pages,
						      false);
	} else {
		uffdwp__cow_release(s);
	}
	uffdwp__snapshot_hand_filled(s, UINT64_MAX);
	uffdwp__snapshot_drain(s);
	if (s->started)
		uffdwp__snapshot_count(s, SNAP_TOTAL_NS, uffdwp__sys_now() - s->started);
	publish(s);
	pthread_mutex_lock(&s->end_lock);
	/* Release: pairs with uffdwp__snapshot_phase(): who sees the end sees the result. */
	atomic_store_explicit(&s->phase, UFFDWP__ENDED, memory_order_release);
	pthread_cond_broadcast(&s->ended);
	pthread_mutex_unlock(&s->end_lock);
}

/*
 * Drives until `until` (ns), or with patience 0 until there is nothing to do now. Whether the
 * snapshot has ended. One that is not sealed has nothing to be driven.
 */
static bool drive(struct uffdwp_snapshot *s, uint64_t until, bool patient)
{
	bool ended, more = true;

	begin_driving(s);
	while (more && uffdwp__snapshot_phase(s) != UFFDWP__ENDED) {
		serve_as_driver(s);
		if (uffdwp__snapshot_stopped(s)) {
			finish(s);
		} else if (uffdwp__snapshot_phase(s) != UFFDWP__SEALED) {
			break;
		} else if (!drive_once(s) && !all_done(s)) {
			more = patient;
			if (patient)
				rest(s);
			else if (waits_for_faults(s))
				uffdwp__snapshot_nap(s, BACK_NS / 1000);
			/* Before it is left: a sink may begin only when it is waited for. */
			else if (s->in_flight)
				uffdwp__snapshot_wait_sink(s, 1);
		}
		more = more && (uffdwp__snapshot_stopped(s) || uffdwp__sys_now() < until);
	}
	ended = uffdwp__snapshot_phase(s) == UFFDWP__ENDED;
	end_driving(s);
	return ended;
}

/* ---- The saver ---- */

static void *saver(void *arg)
{
	struct uffdwp_snapshot *s = arg;

	uffdwp__sys_thread_name("uffdwp-saver");
	/* Woken by the seal, it would else preempt its caller before the writers are resumed. */
	uffdwp__sys_thread_batch(true);
	do {
		while (sem_wait(&s->work))
			;
		/* It is to be there when a write is over. */
		uffdwp__sys_thread_batch(false);
	} while (!drive(s, UINT64_MAX, true));
	return NULL;
}

/* Its faults may be SIGBUS's: that one stays open. */
__cold static int start_saver(struct uffdwp_snapshot *s)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&s->thread, NULL, saver, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->threaded = !err;
	return -err;
}

/* ---- Making one ---- */

__cold static int check_opts(const struct uffdwp_snapshot_opts *o)
{
	if (o->strategy > UFFDWP_SNAPSHOT_PRECOPY)
		FAIL(-EINVAL, "strategy %u: must be UFFDWP_SNAPSHOT_AUTO, _COW or _PRECOPY",
		     o->strategy);
	if (o->by_caller > 1)
		FAIL(-EINVAL, "by_caller %u: must be 0 or 1", o->by_caller);
	if (o->reserved)
		FAIL(-EINVAL, "reserved %u: must be 0", o->reserved);
	if (!o->sink)
		FAIL(-EINVAL, "sink NULL: a snapshot needs one");
	if (o->sink->sz != sizeof(*o->sink))
		FAIL(-EINVAL, "sink->sz %zu: must be sizeof(struct uffdwp_sink), %zu", o->sink->sz,
		     sizeof(*o->sink));
	if (!o->sink->write)
		FAIL(-EINVAL, "sink->write NULL: a sink needs it");
	if (o->staging && o->staging < UFFDWP_SNAPSHOT_STAGING_MIN)
		FAIL(-EINVAL, "staging %llu: must be at least %llu, or 0",
		     (unsigned long long)o->staging,
		     (unsigned long long)UFFDWP_SNAPSHOT_STAGING_MIN);
	return 0;
}

__cold static int check_region(const struct uffdwp_snapshot_opts *o, struct uffdwp *h,
			       struct uffdwp_region *const *regions, size_t i)
{
	struct uffdwp_region *r = regions[i];

	if (!r || r->h != h)
		FAIL(-EINVAL, "regions[%zu] %s: must be a region of the same handle as the first",
		     i, r ? "of another handle" : "NULL");
	for (size_t k = 0; k < i; k++)
		if (regions[k] == r)
			FAIL(-EINVAL, "regions[%zu] is regions[%zu]: must be another one", i, k);
	if (!(r->mode & UFFDWP_MODE_WP))
		FAIL(-EOPNOTSUPP, "regions[%zu]: needs UFFDWP_MODE_WP", i);
	if (!atomic_load_explicit(&r->mem, memory_order_relaxed) &&
	    !atomic_load_explicit(&h->pid, memory_order_relaxed))
		FAIL(-EOPNOTSUPP, "regions[%zu]: can not be read: needs mem, or the handle's pid",
		     i);
	if (atomic_load_explicit(&r->len, memory_order_relaxed) != r->size)
		FAIL(-EINVAL, "regions[%zu]: a part of it is unmapped: must be whole", i);
	return 0;
}

__cold static int check_regions(const struct uffdwp_snapshot_opts *o,
				struct uffdwp_region *const *regions, size_t n)
{
	struct uffdwp *h;
	int err;

	if (!regions || !n || n > UINT16_MAX)
		FAIL(-EINVAL, "n %zu: must be from 1 to %u, with regions", n, UINT16_MAX);
	if (!regions[0])
		FAIL(-EINVAL, "regions[0] NULL: must be a region");
	h = regions[0]->h;
	err = uffdwp__check(h);
	if (err)
		return err;
	if (uffdwp__serving(h))
		FAIL(-EDEADLK, "called from an operation: can not wait there");
	for (size_t i = 0; !err && i < n; i++)
		err = check_region(o, h, regions, i);
	if (!err && o->strategy == UFFDWP_SNAPSHOT_COW && h->features & UFFDWP_FEATURE_WP_ASYNC)
		FAIL(-EOPNOTSUPP, "strategy cow: needs a handle without UFFDWP_FEATURE_WP_ASYNC");
	return err;
}

static size_t bitmap_bytes(const struct uffdwp_region *r)
{
	return ((r->size >> r->shift) + 63) / 64 * sizeof(uint64_t);
}

__cold static struct uffdwp_snapshot *alloc_snapshot(struct uffdwp_region *const *regions, size_t n)
{
	size_t size = sizeof(struct uffdwp_snapshot) + n * sizeof(struct uffdwp__part) +
		      n * sizeof(struct uffdwp_sink_region);
	struct uffdwp_snapshot *s;
	char *at;

	for (size_t i = 0; i < n; i++)
		size += 2 * bitmap_bytes(regions[i]);
	s = uffdwp__sys_alloc(size);
	if (!s)
		return NULL;
	/* The seal and the faults are not to be the first to touch it. */
	uffdwp__sys_populate(s, size);
	s->size = size;
	s->n = (uint32_t)n;
	s->layout = (struct uffdwp_sink_region *)&s->part[n];
	at = (char *)&s->layout[n];
	for (size_t i = 0; i < n; i++) {
		s->part[i].saved = (_Atomic uint64_t *)at;
		at += bitmap_bytes(regions[i]);
		s->part[i].held = (_Atomic uint64_t *)at;
		at += bitmap_bytes(regions[i]);
	}
	return s;
}

__cold static void init_part(struct uffdwp_snapshot *s, size_t i, struct uffdwp_region *r)
{
	struct uffdwp__part *p = &s->part[i];
	uint64_t addr = uffdwp__start_of(r);
	int pid = s->h->source == UFFDWP_SOURCE_ADOPTED ? s->h->pid : 0;

	p->s = s;
	p->index = (uint32_t)i;
	p->step = (uint32_t)(r->kernel_page / uffdwp__sys_page_size());
	p->anonymous = uffdwp__sys_all_anonymous(pid, addr, r->size) == 1;
	p->layer.run = p->layer.granule = 1;
	p->layer.patience = PATIENCE_NS;
	p->layer.write = uffdwp__snapshot_write;
	p->layer.keep = uffdwp__snapshot_keep;
	p->layer.event = uffdwp__snapshot_event;
	s->layout[i] = (struct uffdwp_sink_region){ addr, r->size, r->page_size };
	s->bytes += r->size;
	s->pages += r->size >> r->shift;
	s->largest = max_u64(s->largest, r->page_size);
}

__cold static void init(struct uffdwp_snapshot *s, struct uffdwp_region *const *regions,
			const struct uffdwp_snapshot_opts *o)
{
	s->h = regions[0]->h;
	s->async = s->h->features & UFFDWP_FEATURE_WP_ASYNC;
	s->strategy = o->strategy ? o->strategy
		      : s->async  ? UFFDWP_SNAPSHOT_PRECOPY
				  : UFFDWP_SNAPSHOT_COW;
	s->by_caller = o->by_caller;
	s->rate = o->rate;
	s->settle = o->settle;
	s->passes = o->passes ? o->passes : PASSES;
	s->sink = *o->sink;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->end_lock, NULL);
	pthread_cond_init(&s->ended, NULL);
	sem_init(&s->work, 0, 0);
	sem_init(&s->wake, 0, 0);
	for (uint32_t i = 0; i < s->n; i++)
		init_part(s, i, regions[i]);
	if (s->strategy == UFFDWP_SNAPSHOT_COW)
		s->unsaved = s->pages;
	if (!s->settle)
		s->settle = s->strategy == UFFDWP_SNAPSHOT_COW ? s->largest * SETTLE_PAGES
							       : SETTLE_BYTES;
}

__cold static int init_staging(struct uffdwp_snapshot *s, uint64_t size)
{
	uint64_t unit = s->largest;
	int err;

	for (uint32_t i = 0; i < s->n; i++)
		unit = min_u64(unit, s->layout[i].page_size);
	if (!size)
		size = min_u64(max_u64(s->bytes / STAGING_PART, UFFDWP_SNAPSHOT_STAGING_MIN),
			       STAGING_MAX);
	err = uffdwp__staging_init(&s->staging, size, unit, s->largest);
	for (uint32_t i = 0; !err && i < s->n; i++)
		s->part[i].page_units = (uint32_t)(s->layout[i].page_size / unit);
	return err;
}

__cold static void undo(struct uffdwp_snapshot *s, uint32_t attached, bool child)
{
	while (attached)
		uffdwp__layer_detach(&s->part[--attached].layer);
	uffdwp__staging_free(&s->staging, child);
	if (!child) {
		pthread_mutex_destroy(&s->lock);
		pthread_mutex_destroy(&s->end_lock);
		pthread_cond_destroy(&s->ended);
		sem_destroy(&s->work);
		sem_destroy(&s->wake);
	}
	uffdwp__sys_free(s, s->size);
}

__cold static int begin_sink(struct uffdwp_snapshot *s)
{
	struct uffdwp_sink_layout l = { .sz = sizeof(l),
					.regions = s->layout,
					.nregions = s->n,
					.staging = s->staging.mem,
					.staging_size = s->staging.size,
					.rewrites = s->strategy == UFFDWP_SNAPSHOT_PRECOPY };
	int err = s->sink.begin ? s->sink.begin(s->sink.ctx, &l) : 0;

	s->begun = !err;
	return err > 0 ? -EINVAL : err;
}

__cold static int begin(struct uffdwp_snapshot *s, struct uffdwp_region *const *regions,
			const struct uffdwp_snapshot_opts *o, uint32_t *attached)
{
	int err = init_staging(s, o->staging);

	if (err)
		FAIL(err, "staging: out of memory");
	uffdwp__snapshot_learn(s);
	for (*attached = 0; !err && *attached < s->n; *attached += !err)
		err = uffdwp__layer_attach(&s->part[*attached].layer, regions[*attached],
					   UFFDWP__SNAPSHOT);
	if (err == -EBUSY)
		FAIL(err,
		     "regions[%u]: has a snapshot or a write operation, and can have one alone",
		     *attached);
	if (err)
		FAIL(err, "regions[%u]: can not be watched: %s", *attached, strerror(-err));
	err = begin_sink(s);
	if (err)
		FAIL(err, "sink->begin: %s", strerror(-err));
	err = s->by_caller ? 0 : start_saver(s);
	if (err)
		FAIL(err, "no thread: %s", strerror(-err));
	return 0;
}

UFFDWP_PUBLIC __cold int uffdwp_snapshot_new(struct uffdwp_snapshot **out,
					     struct uffdwp_region *const *regions, size_t n,
					     const struct uffdwp_snapshot_opts *opts)
{
	struct uffdwp_snapshot_opts copy;
	const struct uffdwp_snapshot_opts *o = &copy;
	struct uffdwp_snapshot *s;
	uint32_t attached = 0;
	int err;

	if (!out)
		return -EINVAL;
	*out = NULL;
	err = uffdwp__opts(&copy, sizeof(copy), opts, sizeof(copy));
	if (!err)
		err = check_opts(o);
	if (!err)
		err = check_regions(o, regions, n);
	if (err)
		return err;
	s = alloc_snapshot(regions, n);
	if (!s)
		FAIL(-ENOMEM, "out of memory");
	init(s, regions, o);
	err = begin(s, regions, o, &attached);
	if (!err) {
		*out = s;
		return 0;
	}
	if (s->begun) {
		s->verdict = UFFDWP_SNAPSHOT_FAILED;
		s->why = UFFDWP_SNAPSHOT_WHY_SYSTEM;
		s->error = err;
		publish(s);
	}
	undo(s, attached, false);
	return err;
}

/* ---- Arming and sealing ---- */

static int check_call(const struct uffdwp_snapshot *s)
{
	int err = s ? uffdwp__check(s->h) : -EINVAL;

	return err ? err : uffdwp__serving(s->h) ? -EDEADLK : 0;
}

/* Under the lock: 0 while there may be a seal yet. */
static int before_seal(const struct uffdwp_snapshot *s)
{
	if (uffdwp__snapshot_phase(s) == UFFDWP__SEALED)
		return -EALREADY;
	return uffdwp__snapshot_stopped(s) ? counted(s, SNAP_SEALED_NS) ? -EALREADY : -ECANCELED
					   : 0;
}

static void note_start(struct uffdwp_snapshot *s, uint64_t now)
{
	if (!s->started)
		s->started = now;
}

/*
 * What went wrong is the verdict; a snapshot that was stopped meanwhile is cancelled, whatever it
 * was.
 */
static int outcome(struct uffdwp_snapshot *s, int err)
{
	if (err && err != -ECANCELED)
		uffdwp__snapshot_stop_error(s, err, NULL, 0, 0);
	if (!err && uffdwp__error(s->h))
		uffdwp__snapshot_stop_error(s, uffdwp__error(s->h), NULL, 0, 0);
	return !err && uffdwp__snapshot_stopped(s) ? -ECANCELED : err;
}

UFFDWP_PUBLIC int uffdwp_snapshot_arm(struct uffdwp_snapshot *s)
{
	int err = check_call(s);
	uint64_t begun;
	bool again;

	if (err)
		return err;
	begin_driving(s);
	err = before_seal(s);
	if (!err) {
		begun = uffdwp__sys_now();
		note_start(s, begun);
		again = uffdwp__snapshot_phase(s) == UFFDWP__ARMED_ONCE;
		err = s->strategy == UFFDWP_SNAPSHOT_COW ? uffdwp__cow_arm(s, again)
							 : uffdwp__precopy_arm(s, again);
		err = outcome(s, err);
		if (!err)
			atomic_store_explicit(&s->phase, UFFDWP__ARMED_ONCE, memory_order_release);
		uffdwp__snapshot_count(s, SNAP_ARM_NS, uffdwp__sys_now() - begun);
	}
	end_driving(s);
	return err;
}

/*
 * After the seal a sequential writer's fault takes pages along; before it that would be more to
 * seal.
 */
static void widen(struct uffdwp_snapshot *s)
{
	for (uint32_t k = 0; s->strategy == UFFDWP_SNAPSHOT_COW && k < s->n; k++) {
		struct uffdwp__part *p = &s->part[k];
		uint64_t run = min_u64(RUN_BYTES >> p->layer.r->shift,
				       s->staging.per_chunk / p->page_units);

		if (run > 1)
			uffdwp__layer_set_run(&p->layer, (uint32_t)min_u64(run, UFFDWP_RUN_MAX));
	}
}

static int seal(struct uffdwp_snapshot *s)
{
	uint64_t begun = uffdwp__sys_now(), instant = uffdwp__sys_realtime();
	bool armed = uffdwp__snapshot_phase(s) == UFFDWP__ARMED_ONCE;
	int err;

	note_start(s, begun);
	/* Of what was discarded, unmapped or moved before the instant, all that can be told is told. */
	if (!uffdwp__settle(s->h, PATIENCE_NS))
		return outcome(s, -EBUSY);
	/* From here on a write saves its page first; there should be none. */
	atomic_store_explicit(&s->phase, UFFDWP__SEALED, memory_order_release);
	err = s->strategy == UFFDWP_SNAPSHOT_COW ? uffdwp__cow_seal(s, armed)
						 : uffdwp__precopy_seal(s, armed);
	err = outcome(s, err);
	if (!err)
		uffdwp__snapshot_count(s, SNAP_SEALED_NS, instant);
	widen(s);
	s->back_from = uffdwp__sys_now();
	if (s->strategy == UFFDWP_SNAPSHOT_COW)
		s->back_until = s->back_from + s->pages * BACK_PAGE_NS;
	uffdwp__snapshot_count(s, SNAP_PAUSE_NS, s->back_from - begun);
	return err;
}

UFFDWP_PUBLIC int uffdwp_snapshot_seal(struct uffdwp_snapshot *s)
{
	int err = check_call(s);

	if (err)
		return err;
	begin_driving(s);
	err = before_seal(s);
	if (!err)
		err = seal(s);
	end_driving(s);
	sem_post(&s->work);
	return err;
}

/* ---- To the end ---- */

static int check_result(const struct uffdwp_snapshot *s, const struct uffdwp_snapshot_result *res)
{
	int err = s ? uffdwp__check(s->h) : -EINVAL;

	return err ? err : res && res->sz < sizeof(*res) ? -EINVAL : 0;
}

UFFDWP_PUBLIC int uffdwp_snapshot_poll(struct uffdwp_snapshot *s,
				       struct uffdwp_snapshot_result *res)
{
	int err = res ? check_result(s, res) : -EINVAL;

	return err ? err : give_result(s, res);
}

UFFDWP_PUBLIC int uffdwp_snapshot_step(struct uffdwp_snapshot *s, unsigned int ms)
{
	int err = check_call(s);

	if (err)
		return err;
	if (!s->by_caller)
		return -EOPNOTSUPP;
	return drive(s, uffdwp__sys_now() + ms * UINT64_C(1000000), false);
}

static void wait_ended(struct uffdwp_snapshot *s)
{
	if (s->by_caller) {
		while (!drive(s, UINT64_MAX, true))
			;
		return;
	}
	while (program_serves(s) && uffdwp__snapshot_phase(s) != UFFDWP__ENDED)
		if (!serve_meanwhile(s))
			uffdwp__sys_sleep_us(SERVE_US);
	pthread_mutex_lock(&s->end_lock);
	while (uffdwp__snapshot_phase(s) != UFFDWP__ENDED)
		pthread_cond_wait(&s->ended, &s->end_lock);
	pthread_mutex_unlock(&s->end_lock);
}

UFFDWP_PUBLIC int uffdwp_snapshot_wait(struct uffdwp_snapshot *s,
				       struct uffdwp_snapshot_result *res)
{
	int err = check_result(s, res);

	if (!err)
		err = check_call(s);
	if (err)
		return err;
	if (uffdwp__snapshot_phase(s) < UFFDWP__SEALED && !uffdwp__snapshot_stopped(s))
		return -EDEADLK;
	wait_ended(s);
	give_result(s, res);
	return 0;
}

UFFDWP_PUBLIC int uffdwp_snapshot_cancel(struct uffdwp_snapshot *s)
{
	int err = s ? uffdwp__check(s->h) : -EINVAL;

	if (!err)
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_CALLER, 0,
				      NULL, 0, 0);
	return err;
}

UFFDWP_PUBLIC __cold int uffdwp_snapshot_free(struct uffdwp_snapshot *s)
{
	int err = s ? uffdwp__check(s->h) : 0;

	if (!s)
		return 0;
	if (err == -ECHILD) {
		undo(s, s->n, true);
		return 0;
	}
	if (uffdwp__serving(s->h))
		return -EDEADLK;
	uffdwp_snapshot_cancel(s);
	wait_ended(s);
	if (s->threaded)
		pthread_join(s->thread, NULL);
	if (s->sink.free)
		s->sink.free(s->sink.ctx);
	undo(s, s->n, false);
	return 0;
}
