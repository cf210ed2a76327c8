/* SPDX-License-Identifier: MIT */
/*
 * Saving pages: from memory to staging, and into the queue for the sink. What serving threads do
 * here may run in a signal handler: it takes no lock, and waits for nobody.
 */
#include "snapshot_save.h"

#include <errno.h>

#include "call.h"
#include "piece.h"
#include "sys.h"
#include "util.h"

/* ---- Bits ---- */

static uint64_t mask(uint64_t i, uint64_t n)
{
	return (n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << (i % 64);
}

/* Sets or clears; returns how many were not so before. */
static uint64_t change_bits(_Atomic uint64_t *w, uint64_t first, uint64_t n, bool on)
{
	uint64_t changed = 0;

	for (uint64_t k; n; first += k, n -= k) {
		uint64_t m, old;

		k = min_u64(n, 64 - first % 64);
		m = mask(first, k);
		/* seq_cst: see hold() for held; for saved the page's state orders. */
		old = on ? atomic_fetch_or_explicit(&w[first / 64], m, memory_order_seq_cst)
			 : atomic_fetch_and_explicit(&w[first / 64], ~m, memory_order_seq_cst);
		changed += (uint64_t)__builtin_popcountll((on ? ~old : old) & m);
	}
	return changed;
}

/* The first page at or after i, before end, whose bit is as asked, or end. */
static uint64_t next_bit(const _Atomic uint64_t *bits, uint64_t i, uint64_t end, bool on)
{
	while (i < end) {
		uint64_t w = atomic_load_explicit(&bits[i / 64], memory_order_relaxed);

		w = (on ? w : ~w) >> (i % 64);
		if (w)
			return min_u64(i + (uint64_t)__builtin_ctzll(w), end);
		i = (i | 63) + 1;
	}
	return end;
}

uint64_t uffdwp__snapshot_unsaved(const struct uffdwp__part *p, uint64_t i, uint64_t end)
{
	return next_bit(p->saved, i, end, false);
}

uint64_t uffdwp__snapshot_unsaved_run(const struct uffdwp__part *p, uint64_t i, uint64_t max)
{
	return next_bit(p->saved, i, i + max, true) - i;
}

void uffdwp__snapshot_set_saved(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint64_t changed = change_bits(p->saved, first, n, true);

	/* Release: pairs with the acquire where the driver sees that all are saved. */
	atomic_fetch_sub_explicit(&p->s->unsaved, changed, memory_order_acq_rel);
}

/* ---- Stopping ---- */

void uffdwp__snapshot_stop(struct uffdwp_snapshot *s, uint32_t verdict, uint32_t why, int err,
			   const struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint32_t running = 0;

	if (!atomic_compare_exchange_strong_explicit(&s->stop, &running, 1, memory_order_seq_cst,
						     memory_order_relaxed))
		return;
	s->verdict = verdict;
	s->why = why;
	s->error = err;
	if (p && n) {
		s->stop_addr = s->layout[p->index].addr + uffdwp__part_bytes(p, first);
		s->stop_len = uffdwp__part_bytes(p, n);
	}
	/* Release: pairs with the acquire in set_by_now(). */
	atomic_store_explicit(&s->stop, 2, memory_order_release);
	uffdwp__snapshot_resume(s);
	uffdwp__snapshot_kick(s);
	sem_post(&s->work);
}

void uffdwp__snapshot_stop_error(struct uffdwp_snapshot *s, int err, const struct uffdwp__part *p,
				 uint64_t first, uint64_t n)
{
	int handle = uffdwp__error(s->h);

	if (handle)
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_HANDLE, handle,
				      NULL, 0, 0);
	else if (err == -ESRCH)
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_PROCESS, 0,
				      NULL, 0, 0);
	else if (err == -ENOENT || err == -EFAULT)
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_UNMAPPED, 0,
				      p, first, n);
	else
		uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_SYSTEM, err, p,
				      first, n);
}

int uffdwp__snapshot_check(struct uffdwp__part *p, int err, uint64_t first, uint64_t n)
{
	if (unlikely(err && err != -ECANCELED))
		uffdwp__snapshot_stop_error(p->s, err, p, first, n);
	return err;
}

/* ---- Saving ---- */

/*
 * From addr: moved or unmapped, of which the event will tell. What is at the old place then is not protected, as if it
 * had been discarded. To protect it again harms nobody: its page is BUSY, and released.
 */
static bool gone(struct uffdwp__part *p, uint64_t first, uint64_t n, uint64_t addr)
{
	const uint64_t events = UFFDWP_FEATURE_EVENT_REMAP | UFFDWP_FEATURE_EVENT_UNMAP;
	struct uffdwp_region *r = p->layer.r;
	uint64_t done;

	if (!(r->h->features & events))
		return false;
	/* Another layer is not to take what is protected here for what was never written. */
	uffdwp__layer_doubt(&p->layer, first, n);
	for (uint64_t pos = 0; pos < uffdwp__part_bytes(p, n); pos += r->kernel_page)
		if (uffdwp__writeprotect(r->h, addr + pos, r->kernel_page, r->kernel_page, true,
					 &done) == -ENOENT)
			return true;
	return addr != uffdwp__addr_of(r, first);
}

static enum uffdwp__saved lost(struct uffdwp__part *p, uint64_t first, uint64_t n, uint64_t addr)
{
	int err = uffdwp__error(p->s->h);

	if (!err && gone(p, first, n, addr))
		uffdwp__snapshot_stop_error(p->s, -ENOENT, p, first, n);
	else if (err)
		uffdwp__snapshot_stop(p->s, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_HANDLE, err,
				      NULL, 0, 0);
	else
		uffdwp__snapshot_stop(p->s, UFFDWP_SNAPSHOT_CANCELLED,
				      UFFDWP_SNAPSHOT_WHY_DISCARDED, 0, p, first, n);
	return UFFDWP__LOST;
}

/* The range is right: where the region does not reach, it was cut or moved, and the snapshot is told next. */
int uffdwp__snapshot_read(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit)
{
	struct uffdwp_region *r = p->layer.r;
	int err = uffdwp_read(r, uffdwp__addr_of(r, first),
			      uffdwp__staging_at(&p->s->staging, unit), uffdwp__part_bytes(p, n),
			      NULL);

	return unlikely(err == -EINVAL) ? -ENOENT : err;
}

enum uffdwp__saved uffdwp__snapshot_copy(struct uffdwp__part *p, uint64_t first, uint64_t n,
					 uint32_t unit)
{
	uint64_t addr = uffdwp__addr_of(p->layer.r, first);
	enum uffdwp__saved ret;
	int err = uffdwp__snapshot_read(p, first, n, unit);

	if (unlikely(err)) {
		uffdwp__snapshot_stop_error(p->s, err, p, first, n);
		return UFFDWP__LOST;
	}
	ret = uffdwp__snapshot_prove(p, first, n);
	return ret == UFFDWP__LOST ? lost(p, first, n, addr) : ret;
}

void uffdwp__snapshot_queue(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit)
{
	struct uffdwp__node *node = &p->s->staging.node[unit];

	node->w.region = p->index;
	node->w.offset = uffdwp__part_bytes(p, first);
	node->w.len = uffdwp__part_bytes(p, n);
	uffdwp__list_push(&p->s->staging.filled, node);
}

static enum uffdwp__saved save_run(struct uffdwp__part *p, uint64_t first, uint64_t n,
				   enum uffdwp__level level, enum uffdwp__snapshot_counter who)
{
	struct uffdwp_snapshot *s = p->s;
	uint32_t units = (uint32_t)n * p->page_units;
	enum uffdwp__saved ret;
	bool fresh;
	uint32_t unit = uffdwp__staging_take(&s->staging, units, level, &fresh);

	if (unlikely(unit == UFFDWP__NONE))
		return UFFDWP__NO_ROOM;
	ret = uffdwp__snapshot_copy(p, first, n, unit);
	if (unlikely(ret)) {
		uffdwp__staging_put(&s->staging, unit, units);
		return ret;
	}
	uffdwp__snapshot_count(s, who, uffdwp__part_bytes(p, n));
	uffdwp__snapshot_queue(p, first, n, unit);
	/* After it is queued: who sees that all is saved sees the queue. */
	uffdwp__snapshot_set_saved(p, first, n);
	/* Once a chunk is enough: it is not urgent, and a wake-up costs as much as the rest. */
	if (unlikely(fresh || !atomic_load_explicit(&s->unsaved, memory_order_relaxed)))
		uffdwp__snapshot_kick(s);
	return UFFDWP__SAVED;
}

enum uffdwp__saved uffdwp__snapshot_save(struct uffdwp__part *p, uint64_t first, uint64_t n,
					 enum uffdwp__level level,
					 enum uffdwp__snapshot_counter who)
{
	uint64_t end = first + n, most = p->s->staging.per_chunk / p->page_units;
	enum uffdwp__saved ret = UFFDWP__SAVED;

	while (!ret && (first = uffdwp__snapshot_unsaved(p, first, end)) < end) {
		n = uffdwp__snapshot_unsaved_run(p, first, min_u64(end - first, most));
		ret = save_run(p, first, n, level, who);
		first += n;
	}
	return ret;
}

/* ---- Holding ---- */

/*
 * How long writers are held: in buckets, each the time of its oldest page. A wait is told too long
 * if the bucket has not been empty since, never too short.
 */
static void hold_since(struct uffdwp_snapshot *s, uint64_t page, uint64_t since)
{
	_Atomic uint64_t *b = &s->hold[page % UFFDWP__WAITS];
	uint64_t old = atomic_load_explicit(b, memory_order_relaxed), new;

	do
		new = old ? old + 1 : (since - s->started) / 1000 << 16 | 1;
	while (!atomic_compare_exchange_weak_explicit(b, &old, new, memory_order_relaxed,
						      memory_order_relaxed));
}

static uint64_t held_for(struct uffdwp_snapshot *s, uint64_t page, uint64_t now)
{
	_Atomic uint64_t *b = &s->hold[page % UFFDWP__WAITS];
	uint64_t old = atomic_load_explicit(b, memory_order_relaxed), new;

	do
		new = (old & 0xffff) > 1 ? old - 1 : 0;
	while (!atomic_compare_exchange_weak_explicit(b, &old, new, memory_order_relaxed,
						      memory_order_relaxed));
	return now - s->started - (old >> 16) * 1000;
}

/* Pages whose bits in held the caller has cleared: their writers go on. */
static void let_go(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint64_t now = uffdwp__sys_now(), longest = 0;

	for (uint64_t i = first; i < first + n; i++)
		longest = max_u64(longest, held_for(p->s, i, now));
	uffdwp__hist_record(&p->s->waits, longest, 1, 1);
	atomic_fetch_sub_explicit(&p->s->nheld, n, memory_order_relaxed);
	uffdwp__layer_resume(&p->layer, first, n);
}

/*
 * The bits are set before it is looked whether the snapshot was stopped, and whoever stops it looks
 * for bits after: one of the two lets go.
 */
static void hold(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	struct uffdwp_snapshot *s = p->s;

	atomic_fetch_add_explicit(&s->nheld, n, memory_order_seq_cst);
	change_bits(p->held, first, n, true);
	if (unlikely(uffdwp__snapshot_stopped(s)))
		uffdwp__snapshot_resume(s);
	uffdwp__snapshot_kick(s);
}

/* Takes the next run of held pages at or after *i: it is the caller's then. */
static uint64_t take_held(struct uffdwp__part *p, uint64_t *i)
{
	uint64_t end = p->layer.pages, n = 0, most = p->s->staging.per_chunk / p->page_units;

	*i = next_bit(p->held, *i, end, true);
	/* One by one: another thread may take some of them too. */
	while (*i + n < end && n < most && change_bits(p->held, *i + n, 1, false))
		n++;
	if (!n && *i < end)
		(*i)++;
	return n;
}

static bool resume_run(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	enum uffdwp__saved ret = UFFDWP__SAVED;

	if (!uffdwp__snapshot_stopped(p->s))
		ret = uffdwp__snapshot_save(p, first, n, UFFDWP__FAULT, SNAP_BY_FAULT);
	if (ret == UFFDWP__NO_ROOM || ret == UFFDWP__UNSURE) {
		change_bits(p->held, first, n, true);
		if (!uffdwp__snapshot_stopped(p->s))
			return false;
		uffdwp__snapshot_resume(p->s);
		return true;
	}
	let_go(p, first, n);
	return true;
}

bool uffdwp__snapshot_resume(struct uffdwp_snapshot *s)
{
	bool any = false, room = true;

	for (uint32_t k = 0; room && k < s->n; k++) {
		struct uffdwp__part *p = &s->part[k];

		for (uint64_t i = 0, n; room && i < p->layer.pages; i += n) {
			/* seq_cst: pairs with the one in hold(). */
			if (!atomic_load_explicit(&s->nheld, memory_order_seq_cst))
				return any;
			n = take_held(p, &i);
			if (!n)
				continue;
			room = resume_run(p, i, n);
			any = any || room;
		}
	}
	return any;
}

/* ---- The layer's operations ---- */

/* A fault of the driver itself, which nobody but the driver could make room for. */
static enum uffdwp__level level_of(struct uffdwp_snapshot *s, const struct uffdwp_fault *f)
{
	/* Relaxed: only ever equal in the driver's own thread, or while it sleeps. */
	if (f->tid ? (int)f->tid == atomic_load_explicit(&s->driver_tid, memory_order_relaxed)
		   : (uintptr_t)pthread_self() ==
			     atomic_load_explicit(&s->driver, memory_order_relaxed))
		return UFFDWP__OWN;
	return UFFDWP__FAULT;
}

int uffdwp__snapshot_write(struct uffdwp__layer *l, uint64_t first, uint64_t n,
			   const struct uffdwp_fault *f)
{
	struct uffdwp__part *p = (struct uffdwp__part *)l;
	struct uffdwp_snapshot *s = p->s;
	enum uffdwp__saved ret;
	uint64_t since;

	if (s->strategy == UFFDWP_SNAPSHOT_PRECOPY || uffdwp__snapshot_phase(s) != UFFDWP__SEALED ||
	    uffdwp__snapshot_stopped(s))
		return 0;
	since = uffdwp__sys_now();
	ret = uffdwp__snapshot_save(p, first, n, level_of(s, f), SNAP_BY_FAULT);
	if (ret == UFFDWP__NO_ROOM || ret == UFFDWP__UNSURE) {
		for (uint64_t i = first; i < first + n; i++)
			hold_since(s, i, since);
		if (ret == UFFDWP__NO_ROOM)
			uffdwp__snapshot_count(s, SNAP_HELD, 1);
		hold(p, first, n);
		return UFFDWP_LATER;
	}
	uffdwp__hist_record(&s->waits, uffdwp__sys_now() - since, 1, 1);
	return 0;
}

int uffdwp__snapshot_keep(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	struct uffdwp__part *p = (struct uffdwp__part *)l;
	bool sealed = uffdwp__snapshot_phase(p->s) == UFFDWP__SEALED;
	enum uffdwp__saved ret;

	if (uffdwp__snapshot_stopped(p->s))
		return 0;
	if (p->s->strategy == UFFDWP_SNAPSHOT_PRECOPY && p->anonymous)
		uffdwp__layer_mark(l, first, n);
	if (p->s->strategy == UFFDWP_SNAPSHOT_PRECOPY || !sealed ||
	    uffdwp__snapshot_unsaved(p, first, first + n) == first + n)
		return 0;
	/* A page that is missing would have to be placed first, and not while it is BUSY. */
	if (uffdwp__places(l->r))
		return -EAGAIN;
	ret = uffdwp__snapshot_save(p, first, n, UFFDWP__FAULT, SNAP_BY_FAULT);
	return ret == UFFDWP__NO_ROOM || ret == UFFDWP__UNSURE ? -EAGAIN : 0;
}
