/* SPDX-License-Identifier: MIT */
/*
 * A tracker and a snapshot on one region: neither takes from the other what it has to know. The
 * snapshot is what the memory was during the pause, and the tracker reports what was written,
 * whoever of the two looked first.
 */
#include "../common/snap.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <uffdwp/track.h>

struct both {
	struct snap c;
	struct uffdwp_track *track;
	unsigned char *dirty;
};

static int on_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	struct both *b = arg;
	size_t page = b->c.t->page, i = (addr - uffdwp_region_addr(r)) / page;

	memset(b->dirty + i, 1, len / page);
	return 0;
}

static void collect(struct both *b)
{
	struct uffdwp_track_query q = { .sz = sizeof(q), .range = on_range, .arg = b };

	CHECK_EQ(uffdwp_track_collect(b->track, &q), 0);
}

/* Exactly every step-th page. */
static void expect(struct both *b, size_t step)
{
	struct live *t = b->c.t;

	memset(b->dirty, 0, t->pages);
	collect(b);
	for (size_t i = 0; i < t->pages; i++) {
		if (b->dirty[i] != (step && i % step == 0))
			FAIL("page %zu is %s", i, b->dirty[i] ? "reported" : "not reported");
	}
}

static void write_every(struct live *t, size_t step)
{
	for (size_t i = 0; i < t->pages; i += step)
		live_store(t->mem.addr + i * t->page, i + step);
}

static void start_with(struct both *b, struct live *t, int mode, uint64_t features)
{
	memset(b, 0, sizeof(*b));
	b->dirty = calloc(1, t->pages);
	CHECK(b->dirty);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&b->c, t, mode, features);
	CHECK_EQ(uffdwp_track_start(&b->track, &b->c.r, 1, NULL), 0);
}

static void start(struct both *b, struct live *t, int mode)
{
	start_with(b, t, mode, 0);
}

static void finish(struct both *b)
{
	CHECK_EQ(uffdwp_track_stop(b->track), 0);
	snap_close(&b->c);
	free(b->dirty);
}

/* What was written is still to be told after the snapshot has armed, sealed, saved, and ended. */
static void given_on(struct live *t, int mode)
{
	struct uffdwp_snapshot_opts o = { .by_caller = 0 };
	struct both b;

	start(&b, t, mode);
	snap_new(&b.c, &o);
	write_every(t, 3);
	CHECK_EQ(uffdwp_snapshot_arm(b.c.s), 0);
	expect(&b, 3);
	expect(&b, 0);
	write_every(t, 2);
	CHECK_EQ(snap_seal(&b.c), 0);
	expect(&b, 2);
	write_every(t, 5);
	snap_check_complete(&b.c);
	expect(&b, 5);
	write_every(t, 2);
	expect(&b, 2);
	finish(&b);
}

/*
 * Collected while it arms, seals and saves: it is complete, and what was told is what was written.
 */
static void with_writers(struct live *t, int mode)
{
	struct uffdwp_snapshot_opts o = { .by_caller = 0 };
	struct both b;

	start(&b, t, mode);
	snap_new(&b.c, &o);
	snap_writers_start(&b.c);
	collect(&b);
	CHECK_EQ(uffdwp_snapshot_arm(b.c.s), 0);
	for (int i = 0; i < 10; i++)
		collect(&b);
	CHECK_EQ(snap_seal(&b.c), 0);
	for (int i = 0; i < 10; i++)
		collect(&b);
	snap_check_complete(&b.c);
	finish(&b);
}

/* A tracker that begins in between takes nothing from the snapshot, nor does one that ends. */
static void begun_late(struct live *t, int mode)
{
	struct uffdwp_snapshot_opts o = { .by_caller = 0 };
	struct both b;

	start(&b, t, mode);
	CHECK_EQ(uffdwp_track_stop(b.track), 0);
	snap_new(&b.c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(b.c.s), 0);
	write_every(t, 3);
	CHECK_EQ(uffdwp_track_start(&b.track, &b.c.r, 1, NULL), 0);
	expect(&b, 0);
	CHECK_EQ(uffdwp_track_stop(b.track), 0);
	write_every(t, 5);
	CHECK_EQ(uffdwp_track_start(&b.track, &b.c.r, 1, NULL), 0);
	CHECK_EQ(snap_seal(&b.c), 0);
	write_every(t, 2);
	snap_check_complete(&b.c);
	expect(&b, 2);
	finish(&b);
}

/*
 * Protecting a page again, because it was written before the seal, must not hide that it was
 * discarded since. What no event tells of is seen of anonymous memory alone.
 */
static void discarded(struct live *t, int mode)
{
	struct uffdwp_snapshot_opts o = { .by_caller = 1 };
	struct both b;

	live_needs_wp_bit();
	start(&b, t, mode);
	snap_new(&b.c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(b.c.s), 0);
	write_every(t, 1);
	CHECK_EQ(snap_seal(&b.c), 0);
	CHECK_EQ(madvise(t->mem.addr + t->pages / 2 * t->page, t->page, MADV_DONTNEED), 0);
	collect(&b);
	snap_check_verdict(&b.c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_DISCARDED, 0);
	finish(&b);
}

/*
 * A discard whose event was read can be held up before the content goes: its thread waits for the address space,
 * which another one has all the time, and once it gets that, for its CPU, which is the test's own.
 */
struct hold_up {
	pthread_t thread;
	_Atomic int stop;
};

static void *keep_busy(void *arg)
{
	struct hold_up *u = arg;
	size_t size = 64 << 20;
	char *m = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK(m != MAP_FAILED);
	for (int i = 0; !atomic_load(&u->stop); i++)
		CHECK_EQ(mprotect(m, size, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ), 0);
	munmap(m, size);
	return NULL;
}

static void *discard_idly(void *arg)
{
	struct live *t = arg;
	struct sched_param none = { 0 };

	CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_IDLE, &none), 0);
	CHECK_EQ(madvise(t->mem.addr, t->page, MADV_DONTNEED), 0);
	return NULL;
}

/* Its event is read, and the page collected, before the content goes. False: it went first. */
static bool discard_after_collect(struct both *b)
{
	struct live *t = b->c.t;
	struct pollfd p = { .fd = uffdwp_fd(b->c.h), .events = POLLIN };
	pthread_t thread;
	bool late;

	live_serve(&b->c.server, b->c.h);
	live_store(t->mem.addr, t->seed | 1);
	live_serve_stop(&b->c.server);
	CHECK_EQ(pthread_create(&thread, NULL, discard_idly, t), 0);
	CHECK_EQ(poll(&p, 1, -1), 1);
	while (uffdwp_dispatch(b->c.h) > 0)
		;
	collect(b);
	late = live_load(t->mem.addr);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	return late;
}

static void hold_up_discard(struct both *b)
{
	struct sched_param first = { .sched_priority = 1 }, none = { 0 };
	struct hold_up u = { 0 };
	cpu_set_t before, one;
	int tries = 0;

	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &first) == EPERM)
		live_skip("SCHED_FIFO is not permitted");
	CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_OTHER, &none), 0);
	CHECK_EQ(pthread_create(&u.thread, NULL, keep_busy, &u), 0);
	CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
	CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_FIFO, &first), 0);
	do
		CHECK(tries++ < 1000);
	while (!discard_after_collect(b));
	CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_OTHER, &none), 0);
	CHECK_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
	atomic_store(&u.stop, 1);
	CHECK_EQ(pthread_join(u.thread, NULL), 0);
}

/* That a page is protected again, by the snapshot, must not hide from the tracker that it was discarded. */
static void announced(struct live *t, uint32_t strategy)
{
	struct uffdwp_snapshot_opts o = { .by_caller = 1, .strategy = strategy };
	struct both b;

	start_with(&b, t, SNAP_COW_CALLER, UFFDWP_FEATURE_EVENT_REMOVE);
	live_serve_stop(&b.c.server);
	snap_new(&b.c, &o);
	/* Precopy protects all at first, and then what it copies again. */
	if (strategy == UFFDWP_SNAPSHOT_PRECOPY)
		CHECK_EQ(uffdwp_snapshot_arm(b.c.s), 0);
	hold_up_discard(&b);
	CHECK_EQ(uffdwp_snapshot_arm(b.c.s), 0);
	memset(b.dirty, 0, t->pages);
	collect(&b);
	CHECK(b.dirty[0]);
	CHECK_EQ(uffdwp_snapshot_cancel(b.c.s), 0);
	finish(&b);
}

static void announced_cow(struct live *t)
{
	announced(t, UFFDWP_SNAPSHOT_COW);
}

static void announced_precopy(struct live *t)
{
	announced(t, UFFDWP_SNAPSHOT_PRECOPY);
}

/*
 * The rest of a granule may never have been there: who serves the write must not wait for it to be placed, by himself.
 */
static void granule_absent(struct live *t)
{
	struct uffdwp_snapshot_opts o = { .by_caller = 0 };
	struct uffdwp_track_opts to = { .sz = sizeof(to), .granule = 4 * t->page };
	struct both b = { .dirty = NULL };
	struct snap *c = &b.c;

	snap_open(c, t, SNAP_COW_CALLER, mem_missing_features(t->mem.kind));
	CHECK_EQ(uffdwp_region_remove(c->r), 0);
	c->r = live_region(t, c->h, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, 1, NULL, NULL);
	CHECK_EQ(uffdwp_track_start(&b.track, &c->r, 1, &to), 0);
	live_store(t->mem.addr, t->seed | 1);
	snap_new(c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c->s), 0);
	atomic_store(&c->sink.gate, 1);
	CHECK_EQ(uffdwp_snapshot_seal(c->s), 0);
	live_until(&c->sink.waiting, 1);
	live_store(t->mem.addr, 0);
	live_store(t->mem.addr + t->page, 1);
	snap_go(c);
	snap_wait(c);
	CHECK_EQ(c->res.verdict, UFFDWP_SNAPSHOT_COMPLETE);
	CHECK_EQ(live_load(c->sink.copy), t->seed | 1);
	CHECK_EQ(live_load(c->sink.copy + t->page), 0);
	b.dirty = calloc(1, t->pages);
	CHECK(b.dirty);
	collect(&b);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(b.dirty[i], i < 4);
	CHECK_EQ(uffdwp_error(c->h), 0);
	finish(&b);
}

#define CASES(mode)                                 \
	static void mode##_given_on(struct live *t) \
	{                                           \
		given_on(t, SNAP_##mode);           \
	}                                           \
	static void mode##_writers(struct live *t)  \
	{                                           \
		with_writers(t, SNAP_##mode);       \
	}                                           \
	static void mode##_late(struct live *t)     \
	{                                           \
		begun_late(t, SNAP_##mode);         \
	}
CASES(COW_THREADS)
CASES(COW_CALLER)
CASES(COW_SIGBUS)
CASES(PRE_ASYNC)
CASES(PRE_SYNC)

#define DISCARDED(mode)                              \
	static void mode##_discarded(struct live *t) \
	{                                            \
		discarded(t, SNAP_##mode);           \
	}
DISCARDED(COW_THREADS)
DISCARDED(COW_CALLER)
DISCARDED(COW_SIGBUS)

#define ROWS(mode)                                                     \
	{ #mode "/given-on", mode##_given_on, KINDS_ALL, 0, 0 },       \
		{ #mode "/writers", mode##_writers, KINDS_ALL, 0, 0 }, \
	{                                                              \
#mode "/late", mode##_late, KINDS_ALL, 0, 0            \
	}
static const struct live_case cases[] = {
	ROWS(COW_THREADS),
	ROWS(COW_CALLER),
	ROWS(COW_SIGBUS),
	ROWS(PRE_ASYNC),
	ROWS(PRE_SYNC),
	{ "COW_THREADS/discarded", COW_THREADS_discarded, KINDS_ANON, 0, 0 },
	{ "COW_CALLER/discarded", COW_CALLER_discarded, KINDS_ANON, 0, 0 },
	{ "COW_SIGBUS/discarded", COW_SIGBUS_discarded, KINDS_ANON, 0, 0 },
	{ "granule-absent", granule_absent, KINDS_ALL & ~KINDS_HUGETLB,
	  UFFDWP_FEATURE_WP_UNPOPULATED, 10 },
	{ "announced/cow", announced_cow, KINDS_ANON, UFFDWP_FEATURE_EVENT_REMOVE, 0 },
	{ "announced/precopy", announced_precopy, KINDS_ANON, UFFDWP_FEATURE_EVENT_REMOVE, 0 },
};

LIVE_MAIN(cases)
