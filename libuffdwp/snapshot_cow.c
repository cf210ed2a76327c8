/* SPDX-License-Identifier: MIT */
/*
 * Copy on write. Armed, a write is only marked. The seal copies what is marked, or protects it
 * again, whichever is shorter; from then on a page is saved by whoever gets it first: the fault of
 * its first write, or the sweep, which goes over all of it in order.
 *
 * The sweep copies little at a time, because a writer of one of these pages waits for all of them,
 * and releases much at a time, because each release is a system call, and one that covers a huge
 * page leaves it whole. In between pages are saved and still protected: a write there costs its
 * fault, and no copy.
 */
#include "snapshot_cow.h"

#include <errno.h>
#include <string.h>

#include "call.h"
#include "piece.h"
#include "snapshot_save.h"
#include "snapshot_sink.h"
#include "sys.h"
#include "util.h"

#define ARM_BYTES (UINT64_C(64) << 20)	  /* between two looks whether to stop */
#define COPY_BYTES (UINT64_C(128) << 10)  /* copied while their writers wait */
#define RELEASE_BYTES (UINT64_C(2) << 20) /* released in one call, aligned */
#define PIECES 64			  /* of the sweep, at a time */
/* In units of what protecting one page more costs (some 100 ns), about. */
#define COPY_COST 4
#define CALL_COST 7
#define GAP 256 /* the same while the program runs on other CPUs */

static uint64_t pages_of(const struct uffdwp__part *p, uint64_t bytes)
{
	return max_u64(bytes >> p->layer.r->shift, 1);
}

/* ---- Arming ---- */

static int protect_all(struct uffdwp__part *p)
{
	uint64_t step = pages_of(p, ARM_BYTES), n;
	int err = 0;

	for (uint64_t i = 0; !err && i < p->layer.pages; i += n) {
		n = min_u64(step, p->layer.pages - i);
		err = uffdwp__snapshot_stopped(p->s) ? -ECANCELED
						     : uffdwp__layer_protect(&p->layer, i, n, true);
		uffdwp__snapshot_check(p, err, i, n);
	}
	return err;
}

/*
 * Marks go before the pages are protected, which waits for who has one of them: what is written in between is marked
 * again, or protected.
 */
static int rearm(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	int err;

	uffdwp__layer_unmark(&p->layer, first, n);
	err = uffdwp__layer_protect(&p->layer, first, n, true);
	if (err)
		uffdwp__layer_mark(&p->layer, first, n);
	return err;
}

/*
 * Protects the marked pages of a window again, and those between them where that costs less than one more
 * call, with the TLB flush that it sends to the writers' CPUs.
 */
static int rearm_window(struct uffdwp__part *p, uint64_t at, uint64_t n)
{
	const uint64_t *bits = p->s->bits;
	uint64_t i = 0, run, first = 0, end = 0;
	int err = 0;

	while (!err && uffdwp__next_run(bits, n, &i, &run)) {
		if (end && i - end > GAP) {
			err = rearm(p, at + first, end - first);
			end = 0;
		}
		first = end ? first : i;
		end = i += run;
	}
	return err || !end ? err : rearm(p, at + first, end - first);
}

static int rearm_pages(struct uffdwp__part *p, uint64_t i, uint64_t end)
{
	uint64_t looked = 0;
	int err = 0;

	for (; !err && i < end; i += looked) {
		err = uffdwp__snapshot_stopped(p->s)
			      ? -ECANCELED
			      : uffdwp__layer_collect(&p->layer, i,
						      min_u64(end - i, UFFDWP__LOCK_MAX),
						      UINT64_MAX, false, p->s->bits, &looked);
		if (!err)
			err = rearm_window(p, i, looked);
		uffdwp__snapshot_check(p, err, i, end - i);
	}
	return err;
}

static int rearm_all(struct uffdwp__part *p)
{
	uint64_t blocks = (p->layer.pages + UFFDWP__BLOCK - 1) / UFFDWP__BLOCK;
	int err = 0;

	for (uint64_t at = 0; !err && at < blocks; at += 64) {
		uint64_t n = min_u64(blocks - at, 64), i = 0, run;
		uint64_t taken = uffdwp__layer_take_blocks(&p->layer, at / 64);

		for (; !err && uffdwp__next_run(&taken, n, &i, &run); i += run)
			err = rearm_pages(p, (at + i) * UFFDWP__BLOCK,
					  min_u64((at + i + run) * UFFDWP__BLOCK, p->layer.pages));
		if (err)
			uffdwp__layer_put_blocks(&p->layer, at / 64, taken);
	}
	return err;
}

static uint64_t marked_bytes(const struct uffdwp__part *p)
{
	const struct uffdwp__layer *l = &p->layer;
	uint64_t n = 0;

	for (size_t w = 0; w < l->marks_size / sizeof(*l->marks); w++)
		n += (uint64_t)__builtin_popcountll(
			atomic_load_explicit(&l->marks[w], memory_order_relaxed));
	return uffdwp__part_bytes(p, n);
}

static int for_parts(struct uffdwp_snapshot *s, int (*fn)(struct uffdwp__part *p))
{
	int err = 0;

	for (uint32_t k = 0; !err && k < s->n; k++)
		err = fn(&s->part[k]);
	return err;
}

/*
 * What is left marked is what the program writes most: the seal copies it, so that it does not fault
 * again.
 */
int uffdwp__cow_arm(struct uffdwp_snapshot *s, bool again)
{
	uint64_t before = UINT64_MAX, bytes;
	int err = again ? 0 : for_parts(s, protect_all);

	for (uint32_t pass = 0; !err && pass < s->passes; pass++) {
		bytes = 0;
		for (uint32_t k = 0; k < s->n; k++)
			bytes += marked_bytes(&s->part[k]);
		if (bytes <= s->settle || bytes > before / 4 * 3)
			break;
		before = bytes;
		err = for_parts(s, rearm_all);
		uffdwp__snapshot_count(s, SNAP_PASSES, 1);
	}
	return err;
}

/* ---- The seal ---- */

/* Where pages may be missing they are placed first: whoever places one must not find it locked. */
static void make_present(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	struct uffdwp_region *r = p->layer.r;
	char byte;

	if (!uffdwp__places(r))
		return;
	for (uint64_t pos = 0; pos < uffdwp__part_bytes(p, n); pos += r->kernel_page)
		uffdwp_read(r, uffdwp__addr_of(r, first) + pos, &byte, 1, NULL);
}

/*
 * The writers are paused: what is there is what was there. False: there is no room, or somebody has a
 * page: who served a write that is over and has not let go yet, a tracker that collects, a discard, which has
 * saved it.
 */
static bool copy_marked(struct uffdwp__part *p, uint64_t first, uint64_t n, int *err)
{
	struct uffdwp_snapshot *s = p->s;
	uint32_t units = (uint32_t)n * p->page_units, unit;
	struct uffdwp_region *r = p->layer.r;
	struct uffdwp__piece piece;
	bool fresh, alone;

	if (units > s->staging.per_chunk)
		return false;
	unit = uffdwp__staging_take(&s->staging, units, UFFDWP__SWEEP, &fresh);
	if (unit == UFFDWP__NONE)
		return false;
	make_present(p, first, n);
	*err = uffdwp__piece_lock(&piece, r, uffdwp__addr_of(r, first), uffdwp__part_bytes(p, n),
				  p->layer.patience);
	if (*err) {
		uffdwp__staging_put(&s->staging, unit, units);
		return true;
	}
	alone = piece.n == n && uffdwp__snapshot_unsaved_run(p, first, n) == n;
	if (alone)
		*err = uffdwp__snapshot_read(p, first, n, unit);
	if (*err || !alone) {
		uffdwp__staging_put(&s->staging, unit, units);
		uffdwp__piece_restore(&piece, 0);
		return *err;
	}
	uffdwp__snapshot_queue(p, first, n, unit);
	uffdwp__snapshot_set_saved(p, first, n);
	uffdwp__piece_restore(&piece, 0);
	uffdwp__snapshot_count(s, SNAP_BY_SEAL, uffdwp__part_bytes(p, n));
	return true;
}

/* What lies between the first and the last marked page of a block. */
struct marked {
	uint64_t bits[UFFDWP__BLOCK / 64];
	uint64_t first, span, pages;
};

static void measure(struct marked *m, uint64_t n)
{
	uint64_t i = 0, run, end = 0;

	m->pages = 0;
	for (; uffdwp__next_run(m->bits, n, &i, &run); i = end) {
		m->first = m->pages ? m->first : i;
		m->pages += run;
		end = i + run;
	}
	m->span = m->pages ? end - m->first : 0;
}

/*
 * One call that protects the whole span, or a copy of each marked page. Who is copied does not
 * fault either when it is written next, which hot pages soon are.
 */
static int seal_block(struct uffdwp__part *p, uint64_t at, uint64_t n, struct marked *m)
{
	bool copy, room = true;
	uint64_t i = 0, run;
	int err = 0;

	measure(m, n);
	copy = p->layer.r->page_size == uffdwp__sys_page_size() &&
	       m->pages * COPY_COST <= m->span + CALL_COST;
	for (; copy && !err && room && uffdwp__next_run(m->bits, n, &i, &run); i += run)
		room = copy_marked(p, at + i, run, &err);
	if (err || !m->pages || (copy && room))
		return err;
	return uffdwp__layer_protect(&p->layer, at + m->first, m->span, true);
}

/* All that the pause owes to the size of memory is a bit for each block. */
static int seal_part(struct uffdwp__part *p)
{
	struct marked m;
	uint64_t looked;
	int err = 0;

	for (uint64_t i = 0; !err && (i = uffdwp__layer_next(&p->layer, i)) < p->layer.pages;
	     i += looked) {
		uint64_t n = UFFDWP__BLOCK - i % UFFDWP__BLOCK;

		err = uffdwp__layer_collect(&p->layer, i, min_u64(p->layer.pages - i, n),
					    UINT64_MAX, false, m.bits, &looked);
		if (!err)
			err = seal_block(p, i, looked, &m);
		uffdwp__snapshot_check(p, err, i, looked ? looked : 1);
	}
	return err;
}

int uffdwp__cow_seal(struct uffdwp_snapshot *s, bool armed)
{
	int err = armed ? 0 : for_parts(s, protect_all);

	return err ? err : for_parts(s, seal_part);
}

/* ---- The sweep ---- */

struct run {
	struct uffdwp__part *p;
	uint64_t first, n;
	uint32_t unit; /* UFFDWP__NONE: zeros */
};

#define RUNS (COPY_BYTES / 4096)

struct sweep {
	struct run run[RUNS];
	uint32_t runs;
	uint32_t unit, left; /* of the chunk */
};

/* At once, while it is in the CPU's cache: a sink may put neighbours together. */
static void hand_runs(struct sweep *w)
{
	for (uint32_t i = 0; i < w->runs; i++) {
		struct run *r = &w->run[i];

		if (r->unit == UFFDWP__NONE)
			uffdwp__snapshot_zero(r->p, r->first, r->n);
		else
			uffdwp__snapshot_hand(r->p, r->first, r->n, r->unit);
	}
	w->runs = 0;
}

/* Unsaved BUSY pages, all of them there or none of them. False: not now, or not at all. */
static bool save_same(struct sweep *w, struct uffdwp__part *p, uint64_t first, uint64_t n,
		      bool absent)
{
	struct run *r = &w->run[w->runs];
	uint32_t units = (uint32_t)n * p->page_units;

	*r = (struct run){ .p = p, .first = first, .n = n, .unit = UFFDWP__NONE };
	if (!absent) {
		if (units > w->left || uffdwp__snapshot_copy(p, first, n, w->unit))
			return false;
		r->unit = w->unit;
		w->unit += units;
		w->left -= units;
		uffdwp__snapshot_count(p->s, SNAP_BY_SWEEP, uffdwp__part_bytes(p, n));
	} else if (!p->s->sink.zero) {
		if (units > w->left)
			return false;
		r->unit = w->unit;
		memset(uffdwp__staging_at(&p->s->staging, w->unit), 0, uffdwp__part_bytes(p, n));
		w->unit += units;
		w->left -= units;
	}
	w->runs++;
	uffdwp__snapshot_set_saved(p, first, n);
	return true;
}

static bool bit(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

/* What of locked pages [first, first + n) is not saved. */
static void save_locked(struct sweep *w, struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint64_t absent[RUNS / 64 + 1] = { 0 }, end = first + n, i = first, k;

	uffdwp__snapshot_unpopulated(p, first, n, absent);
	while ((i = uffdwp__snapshot_unsaved(p, i, end)) < end) {
		bool a = bit(absent, i - first);
		uint64_t run = uffdwp__snapshot_unsaved_run(p, i, end - i);

		for (k = 1; k < run && bit(absent, i + k - first) == a;)
			k++;
		if (!save_same(w, p, i, k, a))
			return;
		i += k;
	}
}

static void unlock(struct uffdwp__part *p, uint64_t first, uint64_t n, const uint64_t *prev)
{
	struct uffdwp_region *r = p->layer.r;

	for (uint64_t i = 0, k; i < n; i += k) {
		bool armed = uffdwp__prev_armed(prev, first, first + i);

		for (k = 1; i + k < n && uffdwp__prev_armed(prev, first, first + i + k) == armed;)
			k++;
		if (uffdwp__pages_unlock(&r->pages, first + i, k,
					 armed ? UFFDWP__ARMED : UFFDWP__FREE))
			uffdwp__wake(r->h, uffdwp__addr_of(r, first + i), uffdwp__part_bytes(p, k));
	}
}

/*
 * A page that is neither saved nor protected has been released by somebody else: the handle failed,
 * or the page was unmapped.
 */
static void check_armed(struct uffdwp__part *p, uint64_t first, uint64_t n, const uint64_t *prev)
{
	int err = uffdwp__error(p->s->h);

	for (uint64_t i = first; (i = uffdwp__snapshot_unsaved(p, i, first + n)) < first + n; i++) {
		if (likely(uffdwp__prev_armed(prev, first, i)))
			continue;
		uffdwp__snapshot_stop(
			p->s, err ? UFFDWP_SNAPSHOT_FAILED : UFFDWP_SNAPSHOT_CANCELLED,
			err ? UFFDWP_SNAPSHOT_WHY_HANDLE : UFFDWP_SNAPSHOT_WHY_UNMAPPED, err,
			err ? NULL : p, i, 1);
		return;
	}
}

/* Returns how many pages from first on have been dealt with, at least one. */
static uint64_t sweep_pages(struct sweep *w, struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint64_t prev[RUNS / 32 + 2], got;

	make_present(p, first, n);
	got = uffdwp__pages_lock(&p->layer.r->pages, first, n, prev);
	/* Whoever has it saves it; if not, the next round does. */
	if (!got)
		return 1;
	check_armed(p, first, got, prev);
	if (likely(!uffdwp__snapshot_stopped(p->s)))
		save_locked(w, p, first, got);
	unlock(p, first, got, prev);
	hand_runs(w);
	return got;
}

/* ---- Releasing what is saved ---- */

static bool all_saved(const struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	return uffdwp__snapshot_unsaved(p, first, first + n) == first + n;
}

/*
 * Whether another layer wants them protected is asked while they are locked: one that comes later
 * finds them released, and protects them itself.
 */
static void release_range(struct uffdwp__part *p, uint64_t first, uint64_t end, bool all)
{
	struct uffdwp_region *r = p->layer.r;
	uint64_t prev[UFFDWP__PREV_WORDS], got, step = pages_of(p, RELEASE_BYTES);

	while ((first = uffdwp__pages_next(&r->pages, first, end)) < end) {
		uint64_t stop = min_u64((first / step + 1) * step, end);

		got = uffdwp__pages_lock(&r->pages, first, stop - first, prev);
		if (got && !uffdwp__layer_shared(&p->layer) && (all || all_saved(p, first, got)))
			uffdwp__release(r, first, got, &r->h->stats);
		else if (got)
			unlock(p, first, got, prev);
		first += got ? got : 1;
	}
}

void uffdwp__cow_release(struct uffdwp_snapshot *s)
{
	for (uint32_t k = 0; k < s->n; k++)
		if (s->part[k].layer.r->pages.n)
			release_range(&s->part[k], 0, s->part[k].layer.pages, true);
}

/* Whole windows behind the sweep, or what is left of the region. */
static void release_behind(struct uffdwp_snapshot *s, struct uffdwp__part *p, bool rest)
{
	uint64_t step = pages_of(p, RELEASE_BYTES);
	uint64_t to = rest ? p->layer.pages : s->at_page / step * step;

	if (to <= s->released)
		return;
	release_range(p, s->released, to, false);
	s->released = to;
}

/* ---- Going on ---- */

/* The next pages that are not saved. NULL: the end was reached, and the next round begins. */
static struct uffdwp__part *next_pages(struct uffdwp_snapshot *s, uint64_t *first, uint64_t *n)
{
	for (; s->at_part < s->n; s->at_part++) {
		struct uffdwp__part *p = &s->part[s->at_part];

		*first = uffdwp__snapshot_unsaved(p, s->at_page, p->layer.pages);
		if (*first < p->layer.pages) {
			uint64_t step = pages_of(p, COPY_BYTES);

			*n = min_u64((*first / step + 1) * step, p->layer.pages) - *first;
			return p;
		}
		release_behind(s, p, true);
		s->at_page = s->released = 0;
	}
	s->at_part = 0;
	return NULL;
}

bool uffdwp__cow_sweep(struct uffdwp_snapshot *s)
{
	struct uffdwp__staging *st = &s->staging;
	struct sweep w = { .runs = 0 };
	struct uffdwp__part *p;
	uint64_t first, n;
	int pieces = 0;

	w.unit = uffdwp__staging_chunk(st, UFFDWP__SWEEP);
	if (w.unit == UFFDWP__NONE)
		return false;
	w.left = st->per_chunk;
	while (pieces < PIECES && !uffdwp__snapshot_stopped(s) && (p = next_pages(s, &first, &n))) {
		n = min_u64(n, w.left / p->page_units);
		if (!n)
			break;
		s->at_page = first + sweep_pages(&w, p, first, n);
		release_behind(s, p, false);
		pieces++;
	}
	uffdwp__snapshot_pace(s, (uint64_t)(st->per_chunk - w.left) * st->unit);
	uffdwp__staging_put(st, w.unit, w.left);
	return pieces;
}
