/* SPDX-License-Identifier: MIT */
/*
 * What track.h promises of its calls, under every mechanism: peek and reset, stopping and going
 * on, bitmaps, parts, granules, collects at the same time, what counts as written and what does
 * not.
 */
#include "../common/track.h"

#include <errno.h>
#include <stdlib.h>

/* ---- Peek and reset ---- */

static void peek(struct live *t, enum track_way way)
{
	unsigned char *dirty = malloc(t->pages);
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	struct tracked k;

	CHECK(dirty);
	tracked_begin(&k, t, way, 0);
	tracked_expect(&k, 0, 0);
	for (size_t i = 1; i < 4; i++)
		tracked_write(&k, i);
	for (int n = 0; n < 3; n++) {
		CHECK_EQ(tracked_peek(&k, dirty), 3 * t->page);
		CHECK(!dirty[0] && dirty[1] && dirty[2] && dirty[3]);
	}
	/* A write after it is in the same epoch. */
	tracked_write(&k, 4);
	tracked_expect(&k, 1, 5);
	CHECK_EQ(tracked_peek(&k, dirty), 0);
	tracked_expect(&k, 0, 0);
	CHECK_EQ(uffdwp_track_info(k.track, &info), 0);
	CHECK_EQ(info.collects, 3);
	CHECK_EQ(info.bytes, 4 * t->page);
	tracked_close(&k);
	free(dirty);
}

static void reset(struct live *t, enum track_way way)
{
	uint64_t addr = (uintptr_t)t->mem.addr;
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	struct tracked k;

	tracked_begin(&k, t, way, 0);
	for (size_t i = 0; i < 6; i++)
		tracked_write(&k, i);
	CHECK_EQ(uffdwp_track_reset(k.track, k.r, addr, 2 * t->page), 0);
	tracked_expect(&k, 2, 6);
	for (int how = 0; how < 3; how++) {
		tracked_write(&k, 1);
		tracked_write(&k, t->pages - 1);
		CHECK_EQ(how == 0   ? uffdwp_track_reset(k.track, NULL, 0, 0)
			 : how == 1 ? uffdwp_track_reset(k.track, k.r, 0, 0)
				    : uffdwp_track_collect(k.track, NULL),
			 0);
		tracked_expect(&k, 0, 0);
		/* Watched again. */
		tracked_write(&k, 1);
		tracked_expect(&k, 1, 2);
	}
	/* What was reset was reported to nobody. */
	CHECK_EQ(uffdwp_track_info(k.track, &info), 0);
	CHECK_EQ(info.bytes, 7 * t->page);
	tracked_close(&k);
}

/* ---- Stopping early ---- */

/* Every second page of the first so many, so that each is a range of its own. */
static size_t write_alternate(struct tracked *k)
{
	size_t n = 0;

	for (size_t i = 0; i < k->pages && n < 30; i += 2, n++)
		tracked_write(k, i);
	return n;
}

static void expect_alternate(const struct tracked *k, const unsigned char *dirty, size_t n)
{
	for (size_t i = 0; i < k->pages; i++)
		CHECK_EQ(dirty[i], i % 2 == 0 && i / 2 < n);
}

/* Bounded, and gone on with. */
static void bounded(struct live *t, enum track_way way)
{
	unsigned char *dirty = calloc(1, t->pages);
	struct uffdwp_track_query q = { .max = 3 * t->page - 1 };
	struct tracked k;
	size_t n, calls = 0;

	CHECK(dirty);
	tracked_begin(&k, t, way, 0);
	n = write_alternate(&k);
	do {
		CHECK(tracked_query(&k, &q, false, dirty) <= 3 * t->page);
		calls++;
	} while (q.resume);
	CHECK(calls >= n / 3);
	expect_alternate(&k, dirty, n);
	tracked_expect(&k, 0, 0);
	tracked_close(&k);
	free(dirty);
}

/* Given up after each call: begun anew it goes on where there is something left. */
static void given_up(struct live *t, enum track_way way)
{
	unsigned char *dirty = calloc(1, t->pages);
	struct tracked k;
	uint64_t got;
	size_t n;

	CHECK(dirty);
	tracked_begin(&k, t, way, 0);
	n = write_alternate(&k);
	do {
		struct uffdwp_track_query q = { .max = 2 * t->page };

		got = tracked_query(&k, &q, false, dirty);
	} while (got);
	expect_alternate(&k, dirty, n);
	tracked_expect(&k, 0, 0);
	tracked_close(&k);
	free(dirty);
}

static void fill_arrays(struct live *t, struct tracked *k, bool look_only, size_t n)
{
	struct uffdwp_track_range ranges[4];
	struct uffdwp_track_query q = { .sz = sizeof(q), .ranges = ranges, .nranges = 4 };
	unsigned char *dirty = calloc(1, t->pages);
	size_t sum = 0;

	CHECK(dirty);
	do {
		CHECK_EQ(look_only ? uffdwp_track_peek(k->track, &q)
				   : uffdwp_track_collect(k->track, &q),
			 0);
		CHECK(q.filled <= 4);
		CHECK_EQ(q.bytes, q.filled * t->page);
		for (size_t i = 0; i < q.filled; i++) {
			CHECK_EQ(ranges[i].len, t->page);
			dirty[(ranges[i].addr - (uintptr_t)t->mem.addr) / t->page] = 1;
		}
		sum += q.filled;
	} while (q.resume);
	CHECK_EQ(sum, n);
	expect_alternate(k, dirty, n);
	free(dirty);
}

static void full_array(struct live *t, enum track_way way)
{
	struct tracked k;
	size_t n;

	tracked_begin(&k, t, way, 0);
	n = write_alternate(&k);
	fill_arrays(t, &k, true, n);
	fill_arrays(t, &k, false, n);
	tracked_expect(&k, 0, 0);
	tracked_close(&k);
}

static int stop_at_once(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	uint64_t *sum = arg;

	(void)r;
	(void)addr;
	*sum += len;
	return 1;
}

/* Each call gives one range. What comes after it is neither lost nor clean. */
static void stopped(struct live *t, enum track_way way)
{
	uint64_t sum = 0;
	struct uffdwp_track_query q = { .sz = sizeof(q), .range = stop_at_once, .arg = &sum };
	struct tracked k;
	size_t n, calls = 0;

	tracked_begin(&k, t, way, 0);
	n = write_alternate(&k);
	do {
		CHECK_EQ(uffdwp_track_peek(k.track, &q), 0);
		calls++;
	} while (q.resume);
	CHECK_EQ(calls, n);
	CHECK_EQ(sum, n * t->page);
	sum = 0;
	for (size_t i = 0; i < n; i++) {
		q.resume = 0;
		CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
		CHECK_EQ(q.bytes, t->page);
		CHECK_EQ(sum, (i + 1) * t->page);
		/* A page that is behind stays as it is. */
		tracked_write(&k, 2 * (n - 1));
	}
	tracked_expect(&k, 2 * (n - 1), 2 * n - 1);
	tracked_close(&k);
}

/* ---- Bitmaps ---- */

static bool bit(const uint64_t *bits, size_t i)
{
	return ((const unsigned char *)bits)[i / 8] >> i % 8 & 1;
}

/* As KVM lays it out; ORed into what is there; nothing beyond the last page is touched. */
static void bitmap(struct live *t, enum track_way way)
{
	size_t words = t->pages / 64 + 2, from = 1, n = t->pages - 2;
	uint64_t *bits = malloc(words * 8), *before = malloc(words * 8);
	struct tracked k;
	struct uffdwp_track_query q = { .sz = sizeof(q), .bitmap_page = t->page };

	CHECK(bits && before);
	for (size_t i = 0; i < words; i++)
		bits[i] = before[i] = UINT64_C(0x8000000000000010) << i % 4;
	tracked_begin(&k, t, way, 0);
	for (size_t i = 0; i < t->pages; i += 3)
		tracked_write(&k, i);
	q.region = k.r;
	q.addr = (uintptr_t)t->mem.addr + from * t->page;
	q.len = n * t->page;
	q.bitmap = bits;
	CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	for (size_t i = 0; i < words * 64; i++)
		CHECK_EQ(bit(bits, i), bit(before, i) || (i < n && (i + from) % 3 == 0));
	/* What is outside of the part is still to be told: its first page, and perhaps its last. */
	CHECK_EQ(uffdwp_track_peek(k.track, &(struct uffdwp_track_query){ .sz = sizeof(q) }), 0);
	memset(bits, 0, words * 8);
	q.addr = q.len = 0;
	CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	for (size_t i = 0; i < words * 64; i++)
		CHECK_EQ(bit(bits, i), i < t->pages && i % 3 == 0 && (i == 0 || i > n));
	tracked_close(&k);
	free(bits);
	free(before);
}

/* Bits for base pages where a page is larger: as many as it has. */
static void fine_bitmap(struct live *t, enum track_way way)
{
	size_t per = t->page / 4096, words = t->pages * per / 64;
	uint64_t *bits = calloc(words, 8);
	struct tracked k;
	struct uffdwp_track_query q = { .sz = sizeof(q), .bitmap = bits };

	CHECK(bits && per > 1);
	tracked_begin(&k, t, way, 0);
	q.region = k.r;
	tracked_write(&k, 1);
	CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	for (size_t i = 0; i < words * 64; i++)
		CHECK_EQ(bit(bits, i), i / per == 1);
	memset(bits, 0, words * 8);
	tracked_write(&k, 1);
	q.bitmap_page = t->page / 2;
	CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	for (size_t i = 0; i < words * 64; i++)
		CHECK_EQ(bit(bits, i), i / 2 == 1);
	tracked_close(&k);
	free(bits);
}

/* ---- Parts ---- */

static void parts(struct live *t, enum track_way way)
{
	uint64_t addr = (uintptr_t)t->mem.addr, half = t->pages / 2;
	unsigned char *dirty = calloc(1, t->pages);
	struct tracked k;
	struct uffdwp_track_query q = { .len = half * t->page };

	CHECK(dirty);
	tracked_begin(&k, t, way, 0);
	for (size_t i = half - 2; i < half + 3; i++)
		tracked_write(&k, i);
	q.region = k.r;
	q.addr = addr + half * t->page;
	CHECK_EQ(tracked_query(&k, &q, false, dirty), 3 * t->page);
	CHECK(!dirty[half - 1] && dirty[half] && dirty[half + 2]);
	/* The other half was not looked at. */
	tracked_expect(&k, half - 2, half);
	tracked_close(&k);
	free(dirty);
}

#define COLLECTORS 3
#define ROUNDS 40

struct crowd {
	struct tracked k;
	_Atomic uint32_t *reported; /* times, each page */
	_Atomic int stop;
};

struct member {
	struct crowd *c;
	size_t from, to;
	pthread_t thread;
};

static int count_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	struct member *m = arg;
	size_t page = m->c->k.page, i = (addr - uffdwp_region_addr(r)) / page;

	if (i < m->from || i + len / page > m->to)
		FAIL("pages %zu and on are not of the part %zu to %zu", i, m->from, m->to);
	for (size_t n = len / page; n; n--, i++)
		atomic_fetch_add(&m->c->reported[i], 1);
	return 0;
}

static void *collect_part(void *arg)
{
	struct member *m = arg;
	struct tracked *k = &m->c->k;
	struct uffdwp_track_query q = { .sz = sizeof(q),
					.region = k->r,
					.addr = (uintptr_t)k->t->mem.addr + m->from * k->page,
					.len = (m->to - m->from) * k->page,
					.range = count_range,
					.arg = m };

	do
		CHECK_EQ(uffdwp_track_collect(k->track, &q), 0);
	while (!atomic_load(&m->c->stop));
	return NULL;
}

static bool was_written(size_t i, size_t pages)
{
	for (size_t round = 0; round < ROUNDS; round++) {
		if (round * 7 % pages == i)
			return true;
	}
	return false;
}

/*
 * Each round one write, which one of the collectors sees. It may be told twice: the page may be
 * protected again before the writer that it was released for has run.
 */
static void at_once(struct live *t, enum track_way way)
{
	struct crowd c = { .reported = calloc(t->pages, sizeof(*c.reported)) };
	struct member m[COLLECTORS];
	uint32_t before;

	CHECK(c.reported);
	tracked_begin(&c.k, t, way, 0);
	for (size_t i = 0; i < COLLECTORS; i++) {
		m[i] = (struct member){ &c, t->pages * i / COLLECTORS,
					t->pages * (i + 1) / COLLECTORS, 0 };
		live_thread(&m[i].thread, collect_part, &m[i]);
	}
	for (int round = 0; round < ROUNDS; round++) {
		size_t i = (size_t)round * 7 % t->pages;

		before = atomic_load(&c.reported[i]);
		tracked_write(&c.k, i);
		while (atomic_load(&c.reported[i]) == before)
			live_msleep(1);
	}
	atomic_store(&c.stop, 1);
	for (size_t i = 0; i < COLLECTORS; i++)
		live_join(m[i].thread);
	/* What was never written nobody was told of. */
	for (size_t i = 0; i < t->pages; i++)
		CHECK(!atomic_load(&c.reported[i]) || was_written(i, t->pages));
	tracked_close(&c.k);
	free((void *)c.reported);
}

/* ---- Granules ---- */

/* The whole granule is told, and watched again as a whole. */
static void granules(struct live *t, enum track_way way)
{
	size_t per = 4, last = t->pages - 1;
	struct tracked k;

	tracked_begin(&k, t, way, per * t->page);
	for (int round = 0; round < 3; round++) {
		tracked_write(&k, 5);
		tracked_expect(&k, 4, 8);
		tracked_write(&k, last);
		tracked_write(&k, last - 3);
		tracked_expect(&k, t->pages - per, t->pages);
		for (size_t i = 7; i < 10; i++)
			tracked_write(&k, i);
		tracked_expect(&k, 4, 12);
		tracked_expect(&k, 0, 0);
	}
	tracked_close(&k);
}

/* Bounds go up to the granule's end, and its pages are not told again. */
static void granule_bounded(struct live *t, enum track_way way)
{
	size_t per = 4;
	unsigned char *dirty = calloc(1, t->pages);
	struct tracked k;
	struct uffdwp_track_query q = { .max = t->page };

	CHECK(dirty);
	tracked_begin(&k, t, way, per * t->page);
	for (size_t i = 0; i < 3 * per; i++)
		tracked_write(&k, i);
	for (size_t g = 0; g < 3; g++) {
		q.resume = 0;
		CHECK_EQ(tracked_query(&k, &q, false, dirty), per * t->page);
		for (size_t i = 0; i < t->pages; i++)
			CHECK_EQ(dirty[i], i < (g + 1) * per);
	}
	tracked_expect(&k, 0, 0);
	tracked_close(&k);
	free(dirty);
}

/*
 * A call that is full within its last granule, by however many pages the library takes at once: no
 * page of what was given out is left for the next one.
 */
static void granule_rest(struct live *t, enum track_way way)
{
	size_t per = 4;
	struct uffdwp_track_query q = { .max = 0 };
	struct tracked k;

	live_at_least(t, 4u << 20);
	tracked_begin(&k, t, way, per * t->page);
	for (size_t n = 60; n < 130; n++) {
		/* Words of bits are where it matters. */
		if (live_brief() && n % 64 > 3 && n % 64 < 61)
			continue;
		for (size_t i = 0; i < n * per; i++) {
			if (i % per != per - 1)
				tracked_write(&k, i);
		}
		q.max = n * per * t->page;
		q.resume = 0;
		CHECK_EQ(tracked_query(&k, &q, false, NULL), q.max);
		tracked_expect(&k, 0, 0);
	}
	tracked_close(&k);
}

/* With sync and sigbus one fault releases the granule; async keeps its books by the page. */
static void granule_faults(struct live *t, enum track_way way)
{
	size_t per = 8;
	struct uffdwp_stats st;
	struct tracked k;

	tracked_begin(&k, t, way, per * t->page);
	for (size_t i = 0; i < 4 * per; i++)
		tracked_write(&k, i);
	live_stats(k.h, &st);
	CHECK_EQ(st.write, way == WAY_ASYNC ? 0 : 4);
	tracked_expect(&k, 0, 4 * per);
	tracked_close(&k);
}

/* ---- What is no write ---- */

/* Memory that never was there begins clean, and reading it leaves it so. */
static void reads(struct live *t, enum track_way way)
{
	struct tracked k;

	tracked_begin(&k, t, way, 0);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), 0);
	tracked_expect(&k, 0, 0);
	tracked_write(&k, 2);
	for (size_t i = 0; i < t->pages; i++)
		(void)live_load(t->mem.addr + i * t->page);
	tracked_expect(&k, 2, 3);
	tracked_close(&k);
}

/* The same where there are no page tables either. */
static void reads_far(struct live *t, enum track_way way)
{
	struct live far = *t;

	CHECK_EQ(mem_map(&far.mem, t->mem.kind, 8 << 20), 0);
	far.pages = far.mem.size / far.page;
	reads(&far, way);
	mem_unmap(&far.mem);
}

/*
 * Written before the start: clean. Never there: a write is told. A tracker after a tracker begins
 * anew.
 */
static void again(struct live *t, enum track_way way)
{
	struct tracked k;

	tracked_open(&k, t, way, 0);
	for (size_t i = 0; i < t->pages / 2; i++)
		tracked_write(&k, i);
	for (int n = 0; n < 3; n++) {
		tracked_start(&k, 0);
		tracked_expect(&k, 0, 0);
		tracked_write(&k, 0);
		tracked_write(&k, 1);
		tracked_expect(&k, 0, 2);
		tracked_write(&k, t->pages - 1);
		tracked_stop(&k);
		/* Not watched, no fault: with nobody to serve it would hang. */
		tracked_write(&k, 0);
	}
	tracked_close(&k);
}

#define ALL(fn)                                 \
	static void fn##_async(struct live *t)  \
	{                                       \
		fn(t, WAY_ASYNC);               \
	}                                       \
	static void fn##_sync(struct live *t)   \
	{                                       \
		fn(t, WAY_SYNC);                \
	}                                       \
	static void fn##_caller(struct live *t) \
	{                                       \
		fn(t, WAY_CALLER);              \
	}                                       \
	static void fn##_sigbus(struct live *t) \
	{                                       \
		fn(t, WAY_SIGBUS);              \
	}

ALL(peek)
ALL(reset)
ALL(bounded)
ALL(given_up)
ALL(full_array)
ALL(stopped)
ALL(bitmap)
ALL(fine_bitmap)
ALL(parts)
ALL(at_once)
ALL(granules)
ALL(granule_bounded)
ALL(granule_rest)
ALL(granule_faults)
ALL(reads)
ALL(reads_far)
ALL(again)

#define SMALL (KINDS_ALL & ~KINDS_HUGETLB)
#define ROWS(fn, name, kinds)                                             \
	{ name "/async", fn##_async, kinds, UFFDWP_FEATURE_WP_ASYNC, 0 }, \
		{ name "/sync", fn##_sync, kinds, 0, 0 },                 \
		{ name "/caller", fn##_caller, kinds, 0, 0 },             \
	{                                                                 \
		name "/sigbus", fn##_sigbus, kinds, 0, 0                  \
	}

static const struct live_case cases[] = {
	ROWS(peek, "peek", KINDS_ALL),
	ROWS(reset, "reset", KINDS_ALL),
	ROWS(bounded, "bounded", KINDS_ALL),
	ROWS(given_up, "given-up", KINDS_ALL),
	ROWS(full_array, "full-array", KINDS_ALL),
	ROWS(stopped, "stopped", KINDS_ALL),
	ROWS(bitmap, "bitmap", KINDS_ALL),
	ROWS(fine_bitmap, "fine-bitmap", KINDS_HUGETLB),
	ROWS(parts, "parts", KINDS_ALL),
	ROWS(at_once, "at-once", KINDS_ALL),
	ROWS(granules, "granules", SMALL),
	ROWS(granule_bounded, "granule-bounded", SMALL),
	ROWS(granule_rest, "granule-rest", BIT(MEM_THP)),
	ROWS(granule_faults, "granule-faults", SMALL),
	ROWS(reads, "reads", KINDS_ALL),
	ROWS(reads_far, "reads-far", SMALL),
	ROWS(again, "again", KINDS_ALL),
};

LIVE_MAIN(cases)
