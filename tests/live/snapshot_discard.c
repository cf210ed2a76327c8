/* SPDX-License-Identifier: MIT */
/*
 * Discards during a snapshot. Through uffdwp_discard() it is complete. Past the library it is
 * complete where the page was saved before, or where the discard was before the seal and could be
 * seen; else it is cancelled, with the range. It is never complete and wrong.
 */
#include "../common/snap.h"

#include <errno.h>
#include <sys/mman.h>

#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE

static char *page_at(const struct live *t, size_t i)
{
	return t->mem.addr + i * t->page;
}

static void begin(struct snap *c, struct live *t, int mode, uint64_t features)
{
	struct uffdwp_snapshot_opts o = { 0 };

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(c, t, mode, features);
	snap_new(c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c->s), 0);
}

static void discard(struct live *t, size_t first, size_t n, int how)
{
	CHECK_EQ(madvise(page_at(t, first), n * t->page, how), 0);
}

/* The range of the verdict must be of what was discarded. */
static void check_cancelled(struct snap *c, size_t first, size_t n)
{
	uint64_t addr = (uintptr_t)page_at(c->t, first);

	snap_check_verdict(c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_DISCARDED, 0);
	if (!c->res.len || c->res.addr >= addr + n * c->t->page || c->res.addr + c->res.len <= addr)
		FAIL("cancelled for %#llx+%#llx, discarded was %#llx+%#zx",
		     (unsigned long long)c->res.addr, (unsigned long long)c->res.len,
		     (unsigned long long)addr, n * c->t->page);
	/* The program is undisturbed. */
	for (size_t i = 0; i < c->t->pages; i++)
		live_store(page_at(c->t, i), i);
}

/* ---- Coordinated ---- */

static void coordinated(struct live *t, int mode, uint64_t features, bool sealed)
{
	bool shared = BIT(t->mem.kind) & KINDS_SHARED;
	uint32_t how = shared ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED;
	size_t n = t->pages / 2;
	uint64_t done = 0;
	struct snap c;

	begin(&c, t, mode, features);
	if (sealed)
		snap_hold(&c);
	CHECK_EQ(uffdwp_discard(c.r, (uintptr_t)page_at(t, 1), n * t->page, how, &done), 0);
	CHECK_EQ(done, n * t->page);
	if (!sealed)
		CHECK_EQ(snap_seal(&c), 0);
	snap_go(&c);
	snap_check_complete(&c);
	if (t->mem.kind != MEM_MEMFD_PRIVATE && t->mem.kind != MEM_HUGETLB_PRIVATE)
		CHECK_EQ(live_load(page_at(t, 1)), 0);
	snap_close(&c);
}

static void coordinated_cow(struct live *t)
{
	coordinated(t, SNAP_COW_THREADS, 0, true);
	coordinated(t, SNAP_COW_THREADS, 0, false);
}

static void coordinated_sigbus(struct live *t)
{
	coordinated(t, SNAP_COW_SIGBUS, 0, true);
}

static void coordinated_events(struct live *t)
{
	coordinated(t, SNAP_COW_THREADS, REMOVE, true);
	coordinated(t, SNAP_COW_THREADS, REMOVE, false);
}

static void coordinated_precopy(struct live *t)
{
	coordinated(t, SNAP_PRE_ASYNC, 0, true);
	coordinated(t, SNAP_PRE_ASYNC, 0, false);
	coordinated(t, SNAP_PRE_SYNC, 0, false);
}

/* ---- Past the library, after the seal ---- */

/* Saved by a write before it is discarded: the image has it. */
static void saved_before(struct live *t, int mode, uint64_t features, int how)
{
	struct snap c;

	begin(&c, t, mode, features);
	snap_hold(&c);
	for (size_t i = 2; i < 5; i++)
		live_store(page_at(t, i), 1);
	discard(t, 2, 3, how);
	snap_go(&c);
	snap_check_complete(&c);
	snap_close(&c);
}

static void saved_before_anon(struct live *t)
{
	saved_before(t, SNAP_COW_THREADS, 0, MADV_DONTNEED);
	saved_before(t, SNAP_COW_SIGBUS, 0, MADV_DONTNEED);
	saved_before(t, SNAP_COW_THREADS, REMOVE, MADV_DONTNEED);
}

static void saved_before_shared(struct live *t)
{
	saved_before(t, SNAP_COW_THREADS, REMOVE, MADV_REMOVE);
}

static void lost(struct live *t, int mode, int how, bool touch)
{
	struct snap c;

	begin(&c, t, mode, 0);
	snap_hold(&c);
	discard(t, 3, 2, how);
	if (touch)
		live_store(page_at(t, 3), 1); /* there again, and not protected */
	snap_go(&c);
	check_cancelled(&c, 3, 2);
	snap_close(&c);
}

static void lost_anon(struct live *t)
{
	live_needs_wp_bit();
	lost(t, SNAP_COW_THREADS, MADV_DONTNEED, false);
	lost(t, SNAP_COW_THREADS, MADV_DONTNEED, true);
	lost(t, SNAP_COW_SIGBUS, MADV_DONTNEED, true);
	lost(t, SNAP_COW_CALLER, MADV_DONTNEED, false);
}

/* All of it at once takes the page tables along. */
static void lost_all(struct live *t)
{
	struct snap c;

	live_needs_wp_bit();
	begin(&c, t, SNAP_COW_THREADS, 0);
	snap_hold(&c);
	discard(t, 0, t->pages, MADV_DONTNEED);
	snap_go(&c);
	check_cancelled(&c, 0, t->pages);
	snap_close(&c);
}

/* With the event a page is saved in time, or the snapshot is cancelled; either is true. */
static void told_anon(struct live *t)
{
	struct snap c;

	begin(&c, t, SNAP_COW_THREADS, REMOVE);
	snap_hold(&c);
	discard(t, 3, 2, MADV_DONTNEED);
	snap_go(&c);
	snap_wait(&c);
	if (c.res.verdict == UFFDWP_SNAPSHOT_COMPLETE)
		snap_check_complete(&c);
	else
		check_cancelled(&c, 3, 2);
	snap_close(&c);
}

static void told_shared(struct live *t)
{
	struct snap c;

	begin(&c, t, SNAP_COW_THREADS, REMOVE);
	snap_hold(&c);
	discard(t, 3, 2, MADV_REMOVE);
	snap_go(&c);
	check_cancelled(&c, 3, 2);
	snap_close(&c);
}

/* After the seal precopy has it all. */
static void precopy_after(struct live *t)
{
	struct snap c;

	begin(&c, t, SNAP_PRE_ASYNC, REMOVE);
	snap_hold(&c);
	discard(t, 3, 2, BIT(t->mem.kind) & KINDS_SHARED ? MADV_REMOVE : MADV_DONTNEED);
	snap_go(&c);
	snap_check_complete(&c);
	snap_close(&c);
}

/* ---- Past the library, before the seal ---- */

static void before(struct live *t, int mode, uint64_t features, bool arm_again)
{
	struct snap c;

	begin(&c, t, mode, features);
	discard(t, 3, 2, BIT(t->mem.kind) & KINDS_SHARED ? MADV_REMOVE : MADV_DONTNEED);
	live_store(page_at(t, 4) + 8, 5);
	if (arm_again)
		CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(page_at(t, i), i);
	snap_check_complete(&c);
	snap_close(&c);
}

static void before_told(struct live *t)
{
	before(t, SNAP_COW_THREADS, REMOVE, false);
	before(t, SNAP_COW_THREADS, REMOVE, true);
	before(t, SNAP_COW_CALLER, REMOVE, false);
	before(t, SNAP_PRE_ASYNC, REMOVE, false);
	before(t, SNAP_PRE_SYNC, REMOVE, false);
}

/* Without the event: asynchronous protection tells, and precopy looks. */
static void before_precopy(struct live *t)
{
	before(t, SNAP_PRE_ASYNC, 0, false);
	before(t, SNAP_PRE_ASYNC, 0, true);
	before(t, SNAP_PRE_SYNC, 0, false);
}

static void before_cow(struct live *t)
{
	struct snap c;

	live_needs_wp_bit();
	begin(&c, t, SNAP_COW_THREADS, 0);
	discard(t, 3, 2, MADV_DONTNEED);
	CHECK_EQ(snap_seal(&c), 0);
	check_cancelled(&c, 3, 2);
	snap_close(&c);
}

static void before_all(struct live *t)
{
	struct snap c;

	begin(&c, t, SNAP_PRE_ASYNC, 0);
	discard(t, 0, t->pages, MADV_DONTNEED);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	snap_close(&c);
}

#define ROW(name, kinds, features)              \
	{                                       \
#name, name, kinds, features, 0 \
	}

static const struct live_case cases[] = {
	ROW(coordinated_cow, KINDS_ALL, 0),
	ROW(coordinated_sigbus, KINDS_ALL, 0),
	ROW(coordinated_events, KINDS_ALL, REMOVE),
	ROW(coordinated_precopy, KINDS_ALL, 0),
	ROW(saved_before_anon, KINDS_ANON, 0),
	ROW(saved_before_shared, KINDS_SHARED, REMOVE),
	ROW(lost_anon, KINDS_ANON, 0),
	ROW(lost_all, KINDS_ANON, 0),
	ROW(told_anon, KINDS_ANON, REMOVE),
	ROW(told_shared, KINDS_SHARED, REMOVE),
	ROW(precopy_after, KINDS_ALL, REMOVE),
	ROW(before_told, KINDS_ALL, REMOVE),
	ROW(before_precopy, KINDS_ANON, 0),
	ROW(before_cow, KINDS_ANON, 0),
	ROW(before_all, KINDS_ANON, 0),
};

LIVE_MAIN(cases)
