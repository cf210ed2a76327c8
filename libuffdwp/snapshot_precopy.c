/* SPDX-License-Identifier: MIT */
/*
 * Precopy. Arming writes all pages out while the program runs and its writes are noted, then those
 * that were written meanwhile, and so on; the seal copies what is left. No write waits after it.
 *
 * A page may be written while it is copied: then it is noted, and copied again. Each pass is over,
 * in the sink too, before the next begins: so two writes of a page are never under way together.
 */
#include "snapshot_precopy.h"

#include <errno.h>
#include <string.h>

#include "piece.h"
#include "snapshot_save.h"
#include "snapshot_sink.h"
#include "sys.h"
#include "util.h"

#define VERIFY 65536 /* pages */

/* ---- Copying out ---- */

/*
 * Units for n pages: waits for the sink if there are none. At the seal what is in staging goes there first, and no
 * more of it than has to, as it takes part of the pause.
 */
static uint32_t units_for(struct uffdwp__part *p, uint64_t n)
{
	struct uffdwp_snapshot *s = p->s;
	uint32_t unit;
	bool fresh;

	while ((unit = uffdwp__staging_take(&s->staging, (uint32_t)n * p->page_units, UFFDWP__OWN,
					    &fresh)) == UFFDWP__NONE) {
		if (s->in_flight)
			uffdwp__snapshot_wait_sink(s, 10);
		else
			uffdwp__snapshot_hand_filled(s, s->staging.size / 8);
	}
	return unit;
}

static int copy_pages(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit)
{
	int err = uffdwp__snapshot_read(p, first, n, unit);

	if (err)
		uffdwp__staging_put(&p->s->staging, unit, (uint32_t)n * p->page_units);
	return uffdwp__snapshot_check(p, err, first, n);
}

/* At the seal pages stay in staging as long as there is room. */
static int copy_out(struct uffdwp__part *p, uint64_t first, uint64_t n, bool sealing)
{
	struct uffdwp_snapshot *s = p->s;
	uint64_t most = s->staging.per_chunk / p->page_units;
	int err = 0;

	for (uint64_t k; !err && n; first += k, n -= k) {
		uint32_t unit;

		k = min_u64(n, most);
		unit = units_for(p, k);
		err = copy_pages(p, first, k, unit);
		if (err)
			break;
		uffdwp__snapshot_count(s, sealing ? SNAP_BY_SEAL : SNAP_BY_SWEEP,
				       uffdwp__part_bytes(p, k));
		if (sealing) {
			uffdwp__snapshot_queue(p, first, k, unit);
		} else {
			uffdwp__snapshot_hand(p, first, k, unit);
			uffdwp__snapshot_reap(s);
		}
	}
	return err;
}

/* Not faster than the caller wants. */
static void keep_pace(struct uffdwp_snapshot *s, uint64_t bytes)
{
	uint64_t now;

	uffdwp__snapshot_pace(s, bytes);
	while ((now = uffdwp__sys_now()) < s->next_sweep && !uffdwp__snapshot_stopped(s))
		uffdwp__snapshot_idle(s, (unsigned int)min_u64((s->next_sweep - now) / 1000 + 1,
							       10000));
}

/* ---- The first pass: everything ---- */

/* From here on its writes are noted. */
static int begin_noting(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint64_t looked;
	int err = 0;

	if (!p->s->async)
		return uffdwp__layer_protect(&p->layer, first, n, true);
	for (uint64_t i = 0; !err && i < n; i += looked)
		err = uffdwp__layer_collect(&p->layer, first + i, n - i, UINT64_MAX, true,
					    p->s->bits, &looked);
	return err;
}

static int copy_populated(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	struct uffdwp_snapshot *s = p->s;
	uint64_t i = 0, k;
	int err = 0;

	if (!s->sink.zero || !uffdwp__snapshot_unpopulated(p, first, n, s->bits))
		return copy_out(p, first, n, false);
	while (!err && i < n) {
		bool absent = s->bits[i / 64] >> (i % 64) & 1;

		for (k = 1; i + k < n && (s->bits[(i + k) / 64] >> ((i + k) % 64) & 1) == absent;)
			k++;
		if (absent)
			uffdwp__snapshot_zero(p, first + i, k);
		else
			err = copy_out(p, first + i, k, false);
		i += k;
	}
	return err;
}

static int first_pass(struct uffdwp__part *p)
{
	struct uffdwp_snapshot *s = p->s;
	uint64_t step = s->staging.per_chunk / p->page_units, n;
	int err = s->async ? uffdwp__layer_cover(&p->layer, 0, p->layer.pages) : 0;

	uffdwp__snapshot_check(p, err, 0, p->layer.pages);
	for (uint64_t i = 0; !err && i < p->layer.pages; i += n) {
		n = min_u64(step, p->layer.pages - i);
		if (uffdwp__snapshot_stopped(s))
			return -ECANCELED;
		err = uffdwp__snapshot_check(p, begin_noting(p, i, n), i, n);
		if (!err)
			err = copy_populated(p, i, n);
		keep_pace(s, uffdwp__part_bytes(p, n));
	}
	return err;
}

/* ---- Later passes: what was written ---- */

static int copy_written(struct uffdwp__part *p, bool sealing, uint64_t *bytes)
{
	struct uffdwp_snapshot *s = p->s;
	uint64_t looked, n;
	int err = 0;

	for (uint64_t i = 0; !err && i < p->layer.pages; i += looked) {
		uint64_t found = 0;

		if (uffdwp__snapshot_stopped(s))
			return -ECANCELED;
		err = uffdwp__layer_collect(&p->layer, i, p->layer.pages - i, UINT64_MAX, !sealing,
					    s->bits, &looked);
		uffdwp__snapshot_check(p, err, i, p->layer.pages - i);
		for (uint64_t k = 0; !err && uffdwp__next_run(s->bits, looked, &k, &n); k += n) {
			err = copy_out(p, i + k, n, sealing);
			found += n;
		}
		*bytes += uffdwp__part_bytes(p, found);
		if (!sealing)
			keep_pace(s, uffdwp__part_bytes(p, found));
	}
	return err;
}

static int pass(struct uffdwp_snapshot *s, bool first, uint64_t *bytes)
{
	int err = 0;

	*bytes = 0;
	for (uint32_t k = 0; !err && k < s->n; k++)
		err = first ? first_pass(&s->part[k]) : copy_written(&s->part[k], false, bytes);
	uffdwp__snapshot_flush_zeros(s);
	uffdwp__snapshot_drain(s);
	uffdwp__snapshot_count(s, SNAP_PASSES, 1);
	return err;
}

int uffdwp__precopy_arm(struct uffdwp_snapshot *s, bool again)
{
	uint64_t before = UINT64_MAX, bytes;
	int err = again ? 0 : pass(s, true, &bytes);

	for (uint32_t k = 0; !err && k < s->passes; k++) {
		err = pass(s, false, &bytes);
		if (bytes <= s->settle || bytes > before / 4 * 3)
			break;
		before = bytes;
	}
	return err;
}

/* ---- The seal ---- */

/*
 * Without async protection a discard that went past the library leaves a page that counts as
 * protected and is not: it counts as written. Looked at in halves, because nearly all are what they
 * should be.
 */
static void mark_lost(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	if (uffdwp__snapshot_prove(p, first, n) != UFFDWP__LOST)
		return;
	if (n == 1) {
		uffdwp__layer_mark(&p->layer, first, 1);
		return;
	}
	mark_lost(p, first, n / 2);
	mark_lost(p, first + n / 2, n - n / 2);
}

static void mark_all_lost(struct uffdwp__part *p)
{
	const struct uffdwp__pages *pages = &p->layer.r->pages;
	uint64_t i = 0, n;

	while ((i = uffdwp__pages_next(pages, i, pages->n)) < pages->n) {
		for (n = 0; i + n < pages->n && n < VERIFY &&
			    uffdwp__pages_get(pages, i + n) == UFFDWP__ARMED;)
			n++;
		if (n)
			mark_lost(p, i, n);
		else /* who has it may be about to protect it again */
			uffdwp__layer_mark(&p->layer, i, 1);
		i += n ? n : 1;
	}
}

int uffdwp__precopy_seal(struct uffdwp_snapshot *s, bool armed)
{
	uint64_t bytes = 0;
	int err = 0;

	for (uint32_t k = 0; !err && k < s->n; k++) {
		struct uffdwp__part *p = &s->part[k];

		if (armed && !s->async && p->anonymous)
			mark_all_lost(p);
		err = armed ? copy_written(p, true, &bytes) : copy_out(p, 0, p->layer.pages, true);
	}
	return err;
}
