/* SPDX-License-Identifier: MIT */
/*
 * What each type of memory does to a tracker: huge pages, discards that go through the library and
 * past it, fork, and how much the books take.
 */
#include "../common/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* ---- Huge pages ---- */

static void fill_huge(struct live *t)
{
	live_fill(t->mem.addr, t->mem.size, t->seed);
	if (mem_thp_bytes(&t->mem) != t->mem.size)
		live_skip("the kernel gave %zu of %zu bytes in huge pages", mem_thp_bytes(&t->mem),
			  t->mem.size);
}

/*
 * Tracked in base pages: protecting and collecting leave huge pages whole, the first write splits
 * the one that it meets, and one base page is told.
 */
static void thp_small(struct live *t, enum track_way way)
{
	struct tracked k;

	fill_huge(t);
	tracked_begin(&k, t, way, 0);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	tracked_expect(&k, 0, 0);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	tracked_write(&k, 5);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size - HUGE_PAGE);
	tracked_expect(&k, 5, 6);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size - HUGE_PAGE);
	tracked_close(&k);
}

/*
 * With huge pages as the region's they are told whole; where the library releases them, they stay
 * whole too.
 */
static void thp_whole(struct live *t, enum track_way way)
{
	struct tracked k;
	size_t split = way == WAY_ASYNC ? HUGE_PAGE : 0;

	live_at_least(t, 2 * HUGE_PAGE);
	fill_huge(t);
	t->page = HUGE_PAGE;
	t->pages = t->mem.size / HUGE_PAGE;
	tracked_begin(&k, t, way, 0);
	tracked_write(&k, 1);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size - split);
	tracked_expect(&k, 1, 2);
	live_store(t->mem.addr + HUGE_PAGE + 12345 * 8, 1);
	tracked_expect(&k, 1, 2);
	tracked_expect(&k, 0, 0);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size - split);
	tracked_close(&k);
}

/* Written and collected all over, huge pages stay huge. */
static void thp_rewritten(struct live *t, enum track_way way)
{
	struct tracked k;

	tracked_open(&k, t, way, 0);
	fill_huge(t);
	tracked_start(&k, 0);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(uffdwp_track_reset(k.track, NULL, 0, 0), 0);
		CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	}
	tracked_close(&k);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
}

/* ---- Discards ---- */

static bool is_shared(const struct live *t)
{
	return BIT(t->mem.kind) & KINDS_SHARED;
}

static char *page(struct live *t, size_t i)
{
	return t->mem.addr + i * t->page;
}

/* Through the library it is always told; then a second time at most. */
static void discard(struct live *t, enum track_way way, uint32_t how, uint64_t features)
{
	unsigned char *dirty = malloc(t->pages);
	struct tracked k;

	CHECK(dirty);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	tracked_open(&k, t, way, features);
	tracked_start(&k, 0);
	for (int round = 0; round < 3; round++) {
		tracked_write(&k, 3);
		CHECK_EQ(uffdwp_discard(k.r, (uintptr_t)page(t, 2), 2 * t->page, how, NULL), 0);
		tracked_expect(&k, 2, 4);
		tracked_collect(&k, dirty);
		for (size_t i = 0; i < t->pages; i++)
			CHECK(!dirty[i] || (i >= 2 && i < 4));
		if (!features) {
			/* Reading brings the pages back, which is no write. */
			tracked_expect(&k, 0, 0);
			(void)live_load(page(t, 2));
			(void)live_load(page(t, 3));
			tracked_expect(&k, 0, 0);
		}
		/* Discarded or not, the next write is told. */
		tracked_write(&k, 2);
		CHECK(tracked_collect(&k, dirty) >= t->page);
		CHECK(dirty[2]);
	}
	tracked_close(&k);
	free(dirty);
}

static void through_dontneed(struct live *t, enum track_way way)
{
	discard(t, way, UFFDWP_DISCARD_DONTNEED, 0);
}

static void through_remove(struct live *t, enum track_way way)
{
	if (is_shared(t))
		discard(t, way, UFFDWP_DISCARD_REMOVE, 0);
}

static void through_event(struct live *t, enum track_way way)
{
	if (way == WAY_SIGBUS)
		return;
	discard(t, way, UFFDWP_DISCARD_DONTNEED, UFFDWP_FEATURE_EVENT_REMOVE);
	if (is_shared(t))
		discard(t, way, UFFDWP_DISCARD_REMOVE, UFFDWP_FEATURE_EVENT_REMOVE);
}

/* What the tracker says that it sees past the library, and what not. */
static uint32_t sees(struct tracked *k)
{
	struct uffdwp_track_info info = { .sz = sizeof(info) };

	CHECK_EQ(uffdwp_track_info(k->track, &info), 0);
	return info.sees;
}

/* All of an area, and some pages of it. */
static void past_dontneed(struct live *t, enum track_way way, uint64_t features)
{
	struct tracked k;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	tracked_open(&k, t, way, features);
	tracked_start(&k, 0);
	CHECK_EQ(!!(sees(&k) & UFFDWP_TRACK_DISCARDS), way == WAY_ASYNC || features);
	CHECK_EQ(madvise(page(t, 2), 3 * t->page, MADV_DONTNEED), 0);
	tracked_expect(&k, 2, 5);
	CHECK_EQ(uffdwp_track_reset(k.track, NULL, 0, 0), 0);
	CHECK_EQ(madvise(t->mem.addr, t->mem.size, MADV_DONTNEED), 0);
	tracked_expect(&k, 0, t->pages);
	CHECK_EQ(uffdwp_track_reset(k.track, NULL, 0, 0), 0);
	tracked_write(&k, 7);
	if (mem_shows_wp() || way == WAY_ASYNC)
		tracked_expect(&k, 7, 8);
	else /* what was discarded is reported again, as nobody can tell whether it was written since (5.14) */
		tracked_expect(&k, 0, t->pages);
	tracked_close(&k);
}

static void past_async(struct live *t)
{
	past_dontneed(t, WAY_ASYNC, 0);
}

static void past_async_event(struct live *t)
{
	past_dontneed(t, WAY_ASYNC, UFFDWP_FEATURE_EVENT_REMOVE);
}

static void past_sync_event(struct live *t)
{
	past_dontneed(t, WAY_SYNC, UFFDWP_FEATURE_EVENT_REMOVE);
}

static void past_caller_event(struct live *t)
{
	past_dontneed(t, WAY_CALLER, UFFDWP_FEATURE_EVENT_REMOVE);
}

/* MADV_REMOVE is seen with its event, and only so: the man page says what is missed. */
static void past_remove(struct live *t, enum track_way way)
{
	struct tracked k;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	tracked_begin(&k, t, way, 0);
	CHECK_EQ(sees(&k) & UFFDWP_TRACK_REMOVES, 0);
	CHECK_EQ(madvise(page(t, 2), t->page, MADV_REMOVE), 0);
	CHECK_EQ(live_load(page(t, 2)), 0);
	tracked_expect(&k, 0, 0);
	/* What is written there is. */
	tracked_write(&k, 2);
	tracked_expect(&k, 2, 3);
	tracked_close(&k);
	if (way == WAY_SIGBUS)
		return;
	live_fill(t->mem.addr, t->mem.size, t->seed);
	tracked_open(&k, t, way, UFFDWP_FEATURE_EVENT_REMOVE);
	tracked_start(&k, 0);
	CHECK(sees(&k) & UFFDWP_TRACK_REMOVES);
	CHECK_EQ(madvise(page(t, 2), t->page, MADV_REMOVE), 0);
	tracked_expect(&k, 2, 3);
	tracked_close(&k);
}

/* A hole punched through the file is seen by nobody; through the library it is. */
static void hole(struct live *t, enum track_way way)
{
	struct tracked k;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	tracked_begin(&k, t, way, 0);
	CHECK_EQ(fallocate(t->mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)(2 * t->page), (off_t)t->page),
		 0);
	CHECK_EQ(live_load(page(t, 2)), 0);
	tracked_expect(&k, 0, 0);
	CHECK_EQ(uffdwp_discard(k.r, (uintptr_t)page(t, 4), t->page, UFFDWP_DISCARD_REMOVE, NULL),
		 0);
	CHECK_EQ(live_load(page(t, 4)), 0);
	tracked_expect(&k, 4, 5);
	tracked_close(&k);
}

/* ---- Fork ---- */

/* 0 if the parent's tracker refuses everything here, and its memory can be written freely. */
static int child(struct tracked *k)
{
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	struct uffdwp_track_info info = { .sz = sizeof(info) };

	if (uffdwp_track_collect(k->track, &q) != -ECHILD)
		return 1;
	if (uffdwp_track_peek(k->track, &q) != -ECHILD)
		return 2;
	if (uffdwp_track_reset(k->track, NULL, 0, 0) != -ECHILD)
		return 3;
	if (uffdwp_track_info(k->track, &info) != -ECHILD)
		return 4;
	for (size_t i = 0; i < k->pages && !is_shared(k->t); i++)
		tracked_write(k, i);
	if (uffdwp_track_stop(k->track))
		return 5;
	return uffdwp_close(k->h) ? 6 : 0;
}

static void forked(struct live *t, enum track_way way)
{
	struct tracked k;
	int status;
	pid_t pid;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	tracked_begin(&k, t, way, 0);
	live_needs_fork(t, k.h);
	tracked_write(&k, 1);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		_exit(child(&k));
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	/* Nothing of it is seen here, and what is written here still is. */
	tracked_expect(&k, 1, 2);
	tracked_write(&k, 2);
	tracked_expect(&k, 2, 3);
	tracked_close(&k);
}

/* ---- The books ---- */

#define BIG ((size_t)1 << 30)

/* At most one ten-thousandth of the memory, whatever of it is there. */
static void books(enum track_way way, uint64_t features)
{
	struct live t = { .mem = { .kind = MEM_ANON, .fd = -1 },
			  .page = 4096,
			  .pages = BIG / 4096 };
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	struct tracked k;

	t.mem.addr = mmap(NULL, BIG, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(t.mem.addr != MAP_FAILED);
	t.mem.size = BIG;
	CHECK_EQ(madvise(t.mem.addr, BIG, MADV_NOHUGEPAGE), 0);
	tracked_open(&k, &t, way, features);
	tracked_start(&k, 0);
	CHECK_EQ(uffdwp_track_info(k.track, &info), 0);
	CHECK(info.memory > 0 && info.memory <= BIG / 10000);
	tracked_write(&k, t.pages - 1);
	tracked_expect(&k, t.pages - 1, t.pages);
	tracked_close(&k);
	munmap(t.mem.addr, BIG);
}

static void books_async(struct live *t)
{
	(void)t;
	books(WAY_ASYNC, 0);
}

static void books_sync(struct live *t)
{
	(void)t;
	books(WAY_SYNC, UFFDWP_FEATURE_EVENT_REMOVE);
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

ALL(thp_small)
ALL(thp_whole)
ALL(thp_rewritten)
ALL(through_dontneed)
ALL(through_remove)
ALL(through_event)
ALL(past_remove)
ALL(hole)
ALL(forked)

#define ASYNC UFFDWP_FEATURE_WP_ASYNC
#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE
#define ROWS(fn, name, kinds)                                                                     \
	{ name "/async", fn##_async, kinds, ASYNC, 0 }, { name "/sync", fn##_sync, kinds, 0, 0 }, \
		{ name "/caller", fn##_caller, kinds, 0, 0 },                                     \
	{                                                                                         \
		name "/sigbus", fn##_sigbus, kinds, 0, 0                                          \
	}

static const struct live_case cases[] = {
	ROWS(thp_small, "thp-small", BIT(MEM_THP)),
	ROWS(thp_whole, "thp-whole", BIT(MEM_THP)),
	ROWS(thp_rewritten, "thp-rewritten", BIT(MEM_THP)),
	ROWS(through_dontneed, "discard", KINDS_ALL),
	ROWS(through_remove, "discard-remove", KINDS_SHARED),
	ROWS(through_event, "discard-event", KINDS_ALL),
	{ "past-dontneed/async", past_async, KINDS_ANON, ASYNC, 0 },
	{ "past-dontneed/async-event", past_async_event, KINDS_ANON, ASYNC | REMOVE, 0 },
	{ "past-dontneed/sync-event", past_sync_event, KINDS_ANON, REMOVE, 0 },
	{ "past-dontneed/caller-event", past_caller_event, KINDS_ANON, REMOVE, 0 },
	ROWS(past_remove, "past-remove", BIT(MEM_SHMEM)),
	ROWS(hole, "hole", KINDS_SHARED),
	ROWS(forked, "fork", KINDS_ALL),
	{ "books/async", books_async, KINDS_NONE, ASYNC, 0 },
	{ "books/sync", books_sync, KINDS_NONE, REMOVE, 0 },
};

LIVE_MAIN(cases)
