/* SPDX-License-Identifier: MIT */
/*
 * Dirty tracking. A tracker is one layer on each of its regions (layer.h), which knows what was written
 * under every mechanism; what is here gives it out, as ranges or as a bitmap, in granules, within bounds.
 *
 * Pages are taken in pieces of up to UFFDWP__COLLECT_MAX, as bits. What then does not fit, or is behind a
 * callback that said stop, is marked again: it is protected already, so that it is reported by the next
 * collect is all that it takes.
 */
#include <errno.h>
#include <string.h>
#include <uffdwp/track.h>

#include "call.h"
#include "collect.h"
#include "handle.h"
#include "piece.h"
#include "sys.h"
#include "util.h"

#define RUNS 512 /* of pages, that the kernel tells at once */

struct uffdwp_track {
	struct uffdwp *h;
	uint64_t granule;
	uint32_t mechanism, n;
	_Atomic uint64_t collects, bytes;
	size_t size; /* of the tracker itself */
	struct uffdwp__layer layers[];
};

/* ---- Starting ---- */

__cold static uint32_t mechanism_of(const struct uffdwp *h)
{
	if (h->features & UFFDWP_FEATURE_WP_ASYNC)
		return UFFDWP_TRACK_ASYNC;
	return h->serve == UFFDWP_SERVE_SIGBUS ? UFFDWP_TRACK_SIGBUS : UFFDWP_TRACK_SYNC;
}

__cold static uint32_t sees(const struct uffdwp *h)
{
	bool async = h->features & UFFDWP_FEATURE_WP_ASYNC;
	bool event = h->features & UFFDWP_FEATURE_EVENT_REMOVE;
	uint32_t s = 0;

	if (async || h->faults == UFFDWP_FAULTS_KERNEL)
		s |= UFFDWP_TRACK_KERNEL_WRITES;
	if (async || event)
		s |= UFFDWP_TRACK_DISCARDS;
	return event ? s | UFFDWP_TRACK_REMOVES : s;
}

__cold static int check_opts(const struct uffdwp *h, const struct uffdwp_track_opts *o)
{
	static const char *const names[] = { "auto", "async", "sync", "sigbus" };
	uint32_t have = mechanism_of(h);
	uint32_t all = UFFDWP_TRACK_KERNEL_WRITES | UFFDWP_TRACK_DISCARDS | UFFDWP_TRACK_REMOVES;

	if (o->mechanism > UFFDWP_TRACK_SIGBUS)
		FAIL(-EINVAL, "mechanism %u: must be one of enum uffdwp_track_mechanism",
		     o->mechanism);
	if (o->require & ~all)
		FAIL(-EINVAL,
		     "require 0x%x: must be of UFFDWP_TRACK_KERNEL_WRITES, _DISCARDS, _REMOVES",
		     o->require);
	if (o->mechanism && o->mechanism != have)
		FAIL(-EOPNOTSUPP, "mechanism %s: the handle was opened for %s", names[o->mechanism],
		     names[have]);
	if (o->require & ~sees(h))
		FAIL(-EOPNOTSUPP,
		     "require 0x%x: the handle does not see 0x%x; kernel writes need UFFDWP_FAULTS_KERNEL, "
		     "discards WP_ASYNC or EVENT_REMOVE, removes EVENT_REMOVE",
		     o->require, o->require & ~sees(h));
	if (o->granule && (!is_pow2(o->granule) || o->granule > UFFDWP_TRACK_GRANULE_MAX))
		FAIL(-EINVAL, "granule %llu: must be a power of two, at most %llu",
		     (unsigned long long)o->granule, (unsigned long long)UFFDWP_TRACK_GRANULE_MAX);
	return 0;
}

__cold static int check_region(const struct uffdwp *h, const struct uffdwp_region *r, size_t i,
			       const struct uffdwp_track_opts *o)
{
	if (!r)
		FAIL(-EINVAL, "regions[%zu]: NULL", i);
	if (r->h != h)
		FAIL(-EINVAL, "regions[%zu]: of another handle than regions[0]", i);
	if (!(r->mode & UFFDWP_MODE_WP))
		FAIL(-EOPNOTSUPP, "regions[%zu]: without UFFDWP_MODE_WP", i);
	if (o->granule && (o->granule < r->page_size || r->size % o->granule))
		FAIL(-EINVAL,
		     "granule %llu: regions[%zu] has pages of %llu and a length of %llu, which must be "
		     "a multiple of it",
		     (unsigned long long)o->granule, i, (unsigned long long)r->page_size,
		     (unsigned long long)r->size);
	return 0;
}

__cold static struct uffdwp_track *track_new(struct uffdwp *h, size_t n, uint64_t granule)
{
	size_t size = sizeof(struct uffdwp_track) + n * sizeof(struct uffdwp__layer);
	struct uffdwp_track *t = n < UINT32_MAX ? uffdwp__sys_alloc(size) : NULL;

	if (!t)
		return NULL;
	t->h = h;
	t->granule = granule;
	t->mechanism = mechanism_of(h);
	t->size = size;
	return t;
}

__cold static void track_free(struct uffdwp_track *t)
{
	while (t->n)
		uffdwp__layer_detach(&t->layers[--t->n]);
	uffdwp__sys_free(t, t->size);
}

__cold static int attach(struct uffdwp_track *t, struct uffdwp_region *r)
{
	struct uffdwp__layer *l = &t->layers[t->n];
	int err;

	l->run = 1;
	l->patience = UFFDWP__BUSY_NS;
	l->granule = t->granule ? (uint32_t)(t->granule >> r->shift) : 1;
	err = uffdwp__layer_attach(l, r, UFFDWP__TRACK);
	if (err)
		return err;
	t->n++;
	return 0;
}

/* As if all of it had been written, and were collected: what a snapshot has to know is told to it. */
__cold static int take_all(struct uffdwp__layer *l)
{
	uint64_t bits[UFFDWP__COLLECT_WORDS], looked = 0;
	int err = 0;

	uffdwp__layer_mark(l, 0, l->pages);
	for (uint64_t i = 0; !err && i < l->pages; i += looked)
		err = uffdwp__layer_collect(l, i, l->pages - i, UINT64_MAX, true, bits, &looked);
	return err;
}

/* What is written from here on is marked, or in the kernel's books. */
__cold static int protect_all(struct uffdwp_track *t)
{
	bool async = t->h->features & UFFDWP_FEATURE_WP_ASYNC;
	int err = 0;

	for (uint32_t i = 0; !err && i < t->n; i++) {
		struct uffdwp__layer *l = &t->layers[i];

		err = async || uffdwp__layer_shared(l)
			      ? take_all(l)
			      : uffdwp__layer_protect(l, 0, l->pages, true);
		if (!err && async)
			err = uffdwp__layer_cover(l, 0, l->pages);
	}
	return err ? err : uffdwp__error(t->h);
}

__cold static int start(struct uffdwp_track *t, struct uffdwp_region *const *regions, size_t n,
			const struct uffdwp_track_opts *o)
{
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		err = attach(t, regions[i]);
		if (err == -EBUSY)
			FAIL(err, "regions[%zu]: has a tracker, or a write operation", i);
		if (err)
			FAIL(err, "regions[%zu]: %s", i, strerror(-err));
	}
	err = protect_all(t);
	if (err)
		FAIL(err, "the memory could not be protected: %s", strerror(-err));
	return 0;
}

UFFDWP_PUBLIC __cold int uffdwp_track_start(struct uffdwp_track **out,
					    struct uffdwp_region *const *regions, size_t n,
					    const struct uffdwp_track_opts *opts)
{
	struct uffdwp_track_opts copy, *o = &copy;
	struct uffdwp_track *t;
	int err;

	if (out)
		*out = NULL;
	err = uffdwp__opts(o, sizeof(*o), opts, offsetof(struct uffdwp_track_opts, reason));
	if (err)
		return err;
	if (!out || !regions || !n || !regions[0])
		FAIL(-EINVAL, "out, regions and regions[0] must not be NULL, n must not be 0");
	err = uffdwp__check(regions[0]->h);
	if (err)
		return err;
	if (uffdwp__serving(regions[0]->h))
		FAIL(-EDEADLK, "called from a fault operation");
	err = check_opts(regions[0]->h, o);
	for (size_t i = 0; i < n && !err; i++)
		err = check_region(regions[0]->h, regions[i], i, o);
	if (err)
		return err;
	t = track_new(regions[0]->h, n, o->granule);
	if (!t)
		FAIL(-ENOMEM, "out of memory");
	err = start(t, regions, n, o);
	if (err)
		track_free(t);
	else
		*out = t;
	return err;
}

UFFDWP_PUBLIC __cold int uffdwp_track_stop(struct uffdwp_track *t)
{
	if (!t)
		return 0;
	if (!uffdwp__check(t->h) && uffdwp__serving(t->h))
		return -EDEADLK;
	track_free(t);
	return 0;
}

/* ---- Giving out ---- */

struct report {
	struct uffdwp_track *t;
	struct uffdwp_track_query *q;
	struct uffdwp__layer *l;
	uint64_t origin;       /* page of bit 0 of the bitmap */
	uint64_t run, run_end; /* pages that are not given out yet, run == run_end: none */
	bool take, stop;
};

/* Relaxed: who reads the bitmap knows by other means when a collect is over. */
static void or_word(uint64_t *w, uint64_t bits)
{
	if ((__atomic_load_n(w, __ATOMIC_RELAXED) & bits) != bits)
		__atomic_fetch_or(w, bits, __ATOMIC_RELAXED);
}

static uint64_t little_endian(uint64_t w)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return __builtin_bswap64(w);
#else
	return w;
#endif
}

static void to_bitmap(const struct report *p, uint64_t first, uint64_t end)
{
	uint64_t per = p->q->bitmap_page, shift = p->l->r->shift;
	uint64_t i = ((first - p->origin) << shift) / per,
		 stop = ((end - p->origin) << shift) / per;

	for (uint64_t k; i < stop; i += k) {
		uint64_t m;

		k = min_u64(stop - i, 64 - i % 64);
		m = (k == 64 ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1) << (i % 64);
		or_word(&p->q->bitmap[i / 64], little_endian(m));
	}
}

/* The run is complete: to whoever wants it. */
static void flush(struct report *p)
{
	struct uffdwp_track_query *q = p->q;
	struct uffdwp_region *r = p->l->r;
	uint64_t addr = uffdwp__addr_of(r, p->run), len = (p->run_end - p->run) << r->shift;

	if (!len)
		return;
	q->bytes += len;
	if (q->bitmap)
		to_bitmap(p, p->run, p->run_end);
	if (q->ranges) {
		q->ranges[q->filled++] = (struct uffdwp_track_range){ addr, len };
		p->stop |= q->filled == q->nranges;
	}
	if (q->range && q->range(r, addr, len, q->arg))
		p->stop = true;
	p->run = p->run_end;
}

/* Whether pages from first on may still be given out; how many of them. */
static uint64_t room(struct report *p, uint64_t first, uint64_t n)
{
	uint64_t left, pending = (p->run_end - p->run) << p->l->r->shift;

	if (first != p->run_end) {
		flush(p);
		pending = 0;
	}
	if (p->stop)
		return 0;
	if (!p->q->max)
		return n;
	/* In whole granules, at least one. */
	left = p->q->max > p->q->bytes + pending ? p->q->max - p->q->bytes - pending : 0;
	left = (left + (UINT64_C(1) << p->l->r->shift) - 1) >> p->l->r->shift;
	left = (left + p->l->granule - 1) & ~(uint64_t)(p->l->granule - 1);
	return min_u64(n, left);
}

/* Pages [first, end) in whole granules: how many were taken into the report. */
static uint64_t add(struct report *p, uint64_t first, uint64_t end)
{
	uint64_t n = room(p, first, end - first);

	if (n) {
		if (first != p->run_end)
			p->run = first;
		p->run_end = first + n;
	}
	return n;
}

static uint64_t next_bit(const uint64_t *bits, uint64_t i, uint64_t n, bool set)
{
	while (i < n) {
		uint64_t w = (set ? bits[i / 64] : ~bits[i / 64]) >> (i % 64);

		if (w)
			return min_u64(n, i + (uint64_t)__builtin_ctzll(w));
		i = (i | 63) + 1;
	}
	return n;
}

/*
 * Gives out the bits of pages [base, base + n); *next is where it stopped. What is not given out is marked again.
 */
static void give_out(struct report *p, uint64_t base, const uint64_t *bits, uint64_t n,
		     uint64_t *next)
{
	uint64_t granule = p->l->granule, got, i = 0, end;

	*next = base + n;
	while ((i = next_bit(bits, i, n, true)) < n) {
		end = next_bit(bits, i, n, false);
		i = (base + i) & ~(granule - 1);
		end = (base + end + granule - 1) & ~(granule - 1);
		/* Its granule may have been given out with the run before. */
		i = max_u64(i, p->run_end);
		got = i < end ? add(p, i, end) : 0;
		if (i < end && got < end - i) {
			*next = i + got;
			break;
		}
		i = end - base;
	}
	for (i = *next > base ? *next - base : 0; p->take && (i = next_bit(bits, i, n, true)) < n;
	     i = end) {
		end = next_bit(bits, i, n, false);
		uffdwp__layer_mark(p->l, base + i, end - i);
	}
}

/* ---- Collecting ---- */

/* Gives out runs of pages; *next: where it stopped, else unchanged. What is left is marked again. */
static void give_runs(struct report *p, const struct uffdwp__page_region *v, int n, uint64_t *next)
{
	for (int i = 0; i < n; i++) {
		uint64_t got = add(p, v[i].start, v[i].end);

		if (likely(got == v[i].end - v[i].start))
			continue;
		*next = v[i].start + got;
		for (; p->take && i < n; i++, got = 0)
			uffdwp__layer_mark(p->l, v[i].start + got, v[i].end - v[i].start - got);
		return;
	}
}

/* Pages until the bound of the query, which is not reached yet. */
static uint64_t pages_left(const struct report *p)
{
	uint64_t done = p->q->bytes + ((p->run_end - p->run) << p->l->r->shift);

	return ((p->q->max - done - 1) >> p->l->r->shift) + 1;
}

/* Most ranges that are still wanted: one may be pending. */
static uint64_t runs_left(const struct report *p)
{
	uint64_t left = p->q->nranges - p->q->filled - (p->run < p->run_end);

	return p->q->ranges && left < RUNS ? left + !left : RUNS;
}

/*
 * False: not possible for these pages, with this granule, now. Only a callback can stop early without
 * telling before.
 */
static bool scan_pages(struct report *p, uint64_t i, uint64_t end, uint64_t max, uint64_t *next)
{
	struct uffdwp__page_region v[RUNS];
	int n;

	if (p->l->granule > 1)
		return false;
	if (!p->q->range)
		max = UINT64_MAX;
	if (p->q->max)
		max = min_u64(max, pages_left(p));
	n = uffdwp__layer_scan(p->l, i, end, max, p->take, v, runs_left(p), next);
	if (n > 0)
		give_runs(p, v, n, next);
	return n >= 0;
}

/*
 * What may stop early is given little at first: pages taken in vain are protected, and marked, for nothing.
 */
static uint64_t first_max(const struct uffdwp_track_query *q)
{
	return q->range || q->ranges || q->max ? 256 : UINT64_MAX;
}

static bool full(const struct report *p)
{
	uint64_t pending = (p->run_end - p->run) << p->l->r->shift;

	return p->q->max && p->q->max <= p->q->bytes + pending;
}

/* Pages [i, end) of the layer; *next is where it stopped. */
static int collect_pages(struct report *p, uint64_t i, uint64_t end, uint64_t *next)
{
	uint64_t bits[UFFDWP__COLLECT_WORDS], looked, max = first_max(p->q);
	int err = 0;

	*next = i;
	while (!err && *next < end && !p->stop) {
		uint64_t stop = end, granule = p->l->granule;

		i = *next;
		if (full(p)) {
			/* What is left of a granule that was given out is of the same epoch. */
			if (!(i & (granule - 1)))
				break;
			stop = min_u64(end, (i | (granule - 1)) + 1);
		}
		if (scan_pages(p, i, stop, max, next)) {
			max = max < UINT64_MAX / 4 ? max * 4 : max;
			continue;
		}
		err = uffdwp__layer_collect(p->l, i, stop - i, max, p->take, bits, &looked);
		give_out(p, i, bits, looked, next);
		if (*next < i + looked)
			break;
		max = max < UINT64_MAX / 4 ? max * 4 : max;
	}
	flush(p);
	return err;
}

/* A query without its defaults; its regions are layers [first, last). */
static int check_query(struct uffdwp_track *t, struct uffdwp_track_query *q, uint32_t *first,
		       uint32_t *last)
{
	uint64_t granule;

	*first = 0;
	*last = t->n;
	if (q->region) {
		while (*first < t->n && t->layers[*first].r != q->region)
			++*first;
		if (*first == t->n)
			return -EINVAL;
		*last = *first + 1;
	}
	if ((q->addr || q->len || q->bitmap) && !q->region)
		return -EINVAL;
	if (q->ranges && !q->nranges)
		return -EINVAL;
	if (!q->bitmap_page)
		q->bitmap_page = uffdwp__sys_page_size();
	granule = (uint64_t)t->layers[*first].granule << t->layers[*first].r->shift;
	if (q->bitmap && (!is_pow2(q->bitmap_page) || q->bitmap_page > granule))
		return -EINVAL;
	if (q->addr || q->len) {
		if (uffdwp__check_range(q->region, q->addr, q->len, NULL) ||
		    (uffdwp__offset_of(q->region, q->addr) | q->len) % granule)
			return -EINVAL;
	}
	return 0;
}

/* The pages of layer l that are meant. */
static void pages_of(const struct uffdwp__layer *l, const struct uffdwp_track_query *q,
		     uint64_t *first, uint64_t *end)
{
	*first = q->addr || q->len ? uffdwp__page_of(l->r, q->addr) : 0;
	*end = q->addr || q->len ? *first + (q->len >> l->r->shift) : l->pages;
	*end = min_u64(*end, l->pages);
}

/*
 * The resumption cookie is a page number, 1 added, counted over all regions of the tracker, so that it stays
 * valid when a region moves.
 */
static int collect_all(struct uffdwp_track *t, struct uffdwp_track_query *q, bool take,
		       uint32_t from, uint32_t last)
{
	uint64_t resume = q->resume, before = 0, next = 0;
	int err = 0;

	q->resume = 0;
	for (uint32_t k = 0; k < last; before += t->layers[k++].pages) {
		struct report p = { .t = t, .q = q, .l = &t->layers[k], .take = take };
		uint64_t first, end;

		if (k < from)
			continue;
		pages_of(p.l, q, &first, &end);
		p.origin = q->addr || q->len ? first : 0;
		if (resume && resume - 1 >= before + end)
			continue;
		if (resume)
			first = max_u64(first, resume - 1 > before ? resume - 1 - before : 0);
		err = collect_pages(&p, first, end, &next);
		/* Who goes on after an error meets it again, also if it was at the very end. */
		if (err)
			next = min_u64(next, end - p.l->granule);
		/* A stop at the very end of the last region is no stop. */
		if (err || next < end || (p.stop && k + 1 < last)) {
			q->resume = 1 + before + next;
			break;
		}
	}
	return err;
}

/* report: what is taken counts as told to somebody. */
static int collect(struct uffdwp_track *t, struct uffdwp_track_query *from, bool take, bool report)
{
	struct uffdwp_track_query q;
	uint32_t first, last;
	int err = t && from ? uffdwp__check(t->h) : -EINVAL;

	if (!err)
		err = uffdwp__opts(&q, sizeof(q), from, sizeof(q));
	if (!err && uffdwp__serving(t->h))
		err = -EDEADLK;
	if (!err)
		err = check_query(t, &q, &first, &last);
	if (err)
		return err;
	q.bytes = 0;
	q.filled = 0;
	err = uffdwp__error(t->h);
	if (!err)
		err = uffdwp__settle(t->h, UFFDWP__BUSY_NS) ? 0 : -EBUSY;
	if (!err)
		err = collect_all(t, &q, take, first, last);
	if (!err)
		err = uffdwp__error(t->h);
	if (take)
		atomic_fetch_add_explicit(&t->collects, 1, memory_order_relaxed);
	if (take && report)
		atomic_fetch_add_explicit(&t->bytes, q.bytes, memory_order_relaxed);
	from->resume = q.resume;
	from->bytes = q.bytes;
	from->filled = q.filled;
	return err;
}

UFFDWP_PUBLIC int uffdwp_track_collect(struct uffdwp_track *t, struct uffdwp_track_query *q)
{
	return q ? collect(t, q, true, true) : uffdwp_track_reset(t, NULL, 0, 0);
}

UFFDWP_PUBLIC int uffdwp_track_peek(struct uffdwp_track *t, struct uffdwp_track_query *q)
{
	return collect(t, q, false, true);
}

UFFDWP_PUBLIC int uffdwp_track_reset(struct uffdwp_track *t, struct uffdwp_region *r, uint64_t addr,
				     uint64_t len)
{
	struct uffdwp_track_query q = { .sz = sizeof(q), .region = r, .addr = addr, .len = len };

	return collect(t, &q, true, false);
}

/* ---- Asking ---- */

UFFDWP_PUBLIC __cold int uffdwp_track_info(struct uffdwp_track *t, struct uffdwp_track_info *info)
{
	struct uffdwp_track_info i = { 0 };
	int err = t ? uffdwp__check(t->h) : -EINVAL;

	if (err)
		return err;
	if (!info || info->sz < sizeof(i))
		return -EINVAL;
	i.sz = info->sz;
	i.mechanism = t->mechanism;
	i.sees = sees(t->h);
	i.regions = t->n;
	/* Relaxed: counters order nothing. */
	i.collects = atomic_load_explicit(&t->collects, memory_order_relaxed);
	i.bytes = atomic_load_explicit(&t->bytes, memory_order_relaxed);
	i.memory = t->size;
	for (uint32_t k = 0; k < t->n; k++)
		i.memory += t->layers[k].marks_size * (t->layers[k].suspects ? 2 : 1);
	memcpy(info, &i, sizeof(i));
	return 0;
}
