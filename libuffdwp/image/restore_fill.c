/* SPDX-License-Identifier: MIT */
/*
 * What nobody has asked for yet: in the recorded order first, then from the first page to the last, in
 * large pieces. Eager restore reads straight to where it belongs.
 */
#include "restore.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#define CHUNK (UINT64_C(1) << 20)
#define PIECE (UINT64_C(256) << 10) /* placed at once: who waits for a page waits for so much */
#define DEPTH 8
#define NS UINT64_C(1000000000)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static struct uffdwp__target *target(struct uffdwp_restore *rs, const struct uffdwp__run *run)
{
	return &rs->targets[run->region];
}

/* ---- What to read next ---- */

/* When the rate allows the next read. */
static uint64_t due_ns(const struct uffdwp_restore *rs)
{
	if (!rs->o.rate || atomic_load(&rs->stop) || atomic_load(&rs->hurry))
		return 0;
	return rs->fill_began_ns + (uint64_t)((double)rs->fill_bytes * NS / (double)rs->o.rate);
}

/* Sleeps as long as the rate wants, or until there is hurry. */
static void obey_rate(struct uffdwp_restore *rs)
{
	struct timespec ts;
	uint64_t due;

	if (!due_ns(rs))
		return;
	pthread_mutex_lock(&rs->lock);
	while ((due = due_ns(rs)) > uffdwp__now_ns()) {
		/* The condition's clock is CLOCK_MONOTONIC, as that of now. */
		ts.tv_sec = (time_t)(due / NS);
		ts.tv_nsec = (long)(due % NS);
		pthread_cond_timedwait(&rs->cond, &rs->lock, &ts);
	}
	pthread_mutex_unlock(&rs->lock);
}

static void walk_to(struct uffdwp_restore *rs, uint32_t region, uint64_t page, uint64_t end)
{
	rs->walk.region = region;
	rs->walk.page = page;
	rs->walk.end = end;
}

/* The walk goes on with the next recorded range, or region. False: all were there. */
static bool walk_on(struct uffdwp_restore *rs)
{
	const struct uffdwp__meta *m = &rs->img->meta;

	if (rs->next_order < rs->o.norder) {
		const struct uffdwp_restore_range *o = &rs->order[rs->next_order++];
		const struct uffdwp__target *t = &rs->targets[o->region];
		uint64_t first = o->offset >> t->shift, last = (o->offset + o->len - 1) >> t->shift;

		walk_to(rs, o->region, first * t->unit_pages, (last + 1) * t->unit_pages);
		return true;
	}
	if (rs->next_order < rs->o.norder + m->nregions) {
		uint32_t region = (uint32_t)(rs->next_order++ - rs->o.norder);

		walk_to(rs, region, 0, m->regions[region].len >> m->shift);
		return true;
	}
	return false;
}

/* Leaves out what is claimed at both ends. False: all of it is. */
static bool trim(const struct uffdwp__target *t, struct uffdwp__run *run)
{
	uint64_t unit = t->unit_pages;

	while (run->n && uffdwp__claimed(t, run->first / unit)) {
		run->first += unit;
		run->n -= unit;
	}
	while (run->n && uffdwp__claimed(t, (run->first + run->n) / unit - 1))
		run->n -= unit;
	return run->n;
}

static bool next(void *arg, struct uffdwp__run *run)
{
	struct uffdwp_restore *rs = arg;
	unsigned int shift = rs->img->meta.shift;

	obey_rate(rs);
	for (;;) {
		const struct uffdwp__target *t = &rs->targets[rs->walk.region];
		uint64_t chunk = rs->unit_max > CHUNK ? rs->unit_max : CHUNK;

		if (atomic_load(&rs->stop) || rs->given_back)
			return false;
		if (!uffdwp__walk_next(&rs->walk, t->unit_pages, chunk >> shift, run)) {
			if (!walk_on(rs))
				return false;
		} else if (!t->r || trim(t, run)) {
			rs->fill_bytes += run->n << shift;
			return true;
		}
	}
}

static bool more(void *arg, unsigned int inflight)
{
	struct uffdwp_restore *rs = arg;

	return due_ns(rs) <= uffdwp__now_ns() && (rs->o.depth || inflight < rs->fill_window);
}

/*
 * A fault's read waits behind what is in flight: little, at first and while there are faults; more and
 * more while there are none.
 */
static void adapt(struct uffdwp_restore *rs)
{
	uint64_t faults = atomic_load_explicit(&rs->faults, memory_order_relaxed);

	if (faults != rs->fill_faults)
		rs->fill_window = rs->fill_window / 2 ? rs->fill_window / 2 : 1;
	else if (rs->fill_window < DEPTH)
		rs->fill_window++;
	rs->fill_faults = faults;
}

/* ---- Placing what was read ---- */

/* Claims units from *unit on that nobody has and that are not zeros; 0: there are none before end. */
static uint64_t claim_run(struct uffdwp__target *t, uint64_t *unit, uint64_t end)
{
	uint64_t n = 0;

	while (*unit < end &&
	       !(uffdwp__unit_data(t, *unit) && uffdwp__claim(t, *unit) == UFFDWP__CLAIM_MINE))
		++*unit;
	if (*unit == end)
		return 0;
	do {
		n++;
	} while (*unit + n < end && uffdwp__unit_data(t, *unit + n) &&
		 uffdwp__claim(t, *unit + n) == UFFDWP__CLAIM_MINE);
	return n;
}

static const struct uffdwp__placer fill = { .fault = false };

/* Units that are right: buf holds them. */
static int place_good(struct uffdwp__target *t, uint64_t unit, uint64_t n, char *buf)
{
	uint64_t end = unit + n, begin = unit;
	int err = 0;

	while (!err && (n = claim_run(t, &unit, end))) {
		err = uffdwp__place(t, &fill, unit, n, buf + ((unit - begin) << t->shift));
		err = err == -ENOENT ? 0 : err;
		unit += n;
	}
	return err;
}

/* One unit that is not: read again, by the way that says for sure, and is for faults too. */
static int place_bad(struct uffdwp__target *t, uint64_t unit, char *buf)
{
	int err = 0;

	if (uffdwp__unit_data(t, unit) && uffdwp__claim(t, unit) == UFFDWP__CLAIM_MINE)
		err = uffdwp__fetch(t, &fill, unit, 1, buf);
	return err == -ENOENT ? 0 : err;
}

static int place_piece(struct uffdwp__target *t, uint64_t unit, uint64_t n, char *buf, bool failed)
{
	const struct uffdwp_image *img = t->rs->img;
	int err = 0;

	for (uint64_t pos = 0, good; !err && pos < n; pos += good) {
		struct uffdwp__run run = { t->index, (unit + pos) * t->unit_pages,
					   (n - pos) * t->unit_pages };
		char *at = buf + (pos << t->shift);

		good = failed ? 0 : uffdwp__run_check(img, &run, at) / t->unit_pages;
		if (good)
			err = place_good(t, unit + pos, good, at);
		if (!err && pos + good < n) {
			err = place_bad(t, unit + pos + good, at);
			good++;
		}
	}
	return err;
}

static void got(void *arg, const struct uffdwp__run *run, void *buf, int err)
{
	struct uffdwp_restore *rs = arg;
	struct uffdwp__target *t = target(rs, run);
	uint64_t unit = run->first / t->unit_pages, n = run->n / t->unit_pages, piece;
	bool failed = err;

	adapt(rs);
	err = 0;
	for (uint64_t pos = 0; !err && pos < n; pos += piece) {
		piece = PIECE >> t->shift ? PIECE >> t->shift : 1;
		piece = min_u64(piece, n - pos);
		err = place_piece(t, unit + pos, piece, (char *)buf + (pos << t->shift), failed);
	}
	/* Given back until an event is carried out: who waits for the end begins again. */
	if (err == -EAGAIN) {
		rs->given_back = true;
	} else if (err) {
		uffdwp__restore_error(rs, err);
		atomic_store(&rs->stop, true);
	}
}

static bool any_moves(const struct uffdwp_restore *rs)
{
	for (uint32_t i = 0; i < rs->ntargets; i++)
		if (atomic_load(&rs->targets[i].moves))
			return true;
	return false;
}

static void fill_begin(struct uffdwp_restore *rs)
{
	rs->walk = (struct uffdwp__walk){ .img = rs->img };
	rs->next_order = 0;
	rs->given_back = false;
	rs->fill_bytes = 0;
	rs->fill_faults = 0;
	rs->fill_window = 1;
	rs->fill_began_ns = uffdwp__now_ns();
}

int uffdwp__restore_fill(struct uffdwp_restore *rs)
{
	struct uffdwp__fill f = { .img = rs->img,
				  .depth = rs->o.depth ? rs->o.depth : DEPTH,
				  .chunk = rs->unit_max > CHUNK ? rs->unit_max : CHUNK,
				  .buffered = rs->o.buffered,
				  .huge = any_moves(rs),
				  .arg = rs,
				  .next = next,
				  .got = got,
				  .more = more };

	fill_begin(rs);
	return uffdwp__fill_run(&f);
}

/* ---- Eager ---- */

static void *to_memory(void *arg, const struct uffdwp__run *run)
{
	struct uffdwp_restore *rs = arg;
	unsigned int shift = rs->img->meta.shift;
	void *to = (void *)(uintptr_t)(atomic_load(&target(rs, run)->base) + (run->first << shift));

	/* Else the read would fault on each page of it, where it is a copy and no direct one. */
	(void)madvise(to, run->n << shift, MADV_POPULATE_WRITE);
	return to;
}

static void got_in_place(void *arg, const struct uffdwp__run *run, void *buf, int err)
{
	struct uffdwp_restore *rs = arg;

	if (!err && uffdwp__run_check(rs->img, run, buf) != run->n)
		err = -EBADMSG;
	atomic_fetch_add(&rs->bytes, uffdwp__data_bytes(rs->img, run));
	if (err) {
		uffdwp__restore_error(rs, err);
		atomic_store(&rs->stop, true);
	}
}

int uffdwp__restore_eager(struct uffdwp_restore *rs)
{
	struct uffdwp__fill f = { .img = rs->img,
				  .depth = rs->o.depth ? rs->o.depth : DEPTH,
				  .chunk = CHUNK,
				  .buffered = rs->o.buffered,
				  .arg = rs,
				  .next = next,
				  .to = to_memory,
				  .got = got_in_place };
	int err;

	fill_begin(rs);
	err = uffdwp__fill_run(&f);
	return err ? err : atomic_load(&rs->error);
}
