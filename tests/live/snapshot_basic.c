/* SPDX-License-Identifier: MIT */
/*
 * A snapshot of memory that threads write is what the memory was while they were paused: both
 * strategies, every way of serving, every memory type, armed once, twice, or not at all, with few
 * pages and with all of them written, saved by a thread or by the caller.
 */
#include "../common/snap.h"

#include <errno.h>

static void run(struct live *t, int mode, int arms, unsigned int hot, bool sequential,
		bool by_caller)
{
	struct uffdwp_snapshot_opts o = { .by_caller = by_caller };
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, mode, 0);
	c.hot = hot;
	c.sequential = sequential;
	snap_new(&c, &o);
	snap_writers_start(&c);
	for (int i = 0; i < arms; i++)
		CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(uffdwp_snapshot_wait(c.s, NULL), -EDEADLK);
	CHECK_EQ(snap_seal(&c), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), -EALREADY);
	CHECK_EQ(uffdwp_snapshot_seal(c.s), -EALREADY);
	CHECK_EQ(uffdwp_snapshot_step(c.s, 0) < 0, !by_caller);
	snap_check_complete(&c);
	CHECK_EQ(c.res.zero, 0);
	CHECK_EQ(!c.res.arm_ns, !arms);
	snap_close(&c);
}

#define CASES(mode)                                       \
	static void mode##_armed(struct live *t)          \
	{                                                 \
		run(t, SNAP_##mode, 1, 10, false, false); \
	}                                                 \
	static void mode##_all(struct live *t)            \
	{                                                 \
		run(t, SNAP_##mode, 1, 0, false, false);  \
	}                                                 \
	static void mode##_sequential(struct live *t)     \
	{                                                 \
		run(t, SNAP_##mode, 1, 0, true, false);   \
	}                                                 \
	static void mode##_twice(struct live *t)          \
	{                                                 \
		run(t, SNAP_##mode, 2, 10, false, false); \
	}                                                 \
	static void mode##_unarmed(struct live *t)        \
	{                                                 \
		run(t, SNAP_##mode, 0, 0, false, false);  \
	}                                                 \
	static void mode##_by_caller(struct live *t)      \
	{                                                 \
		run(t, SNAP_##mode, 1, 0, false, true);   \
	}
CASES(COW_THREADS)
CASES(COW_CALLER)
CASES(COW_SIGBUS)
CASES(PRE_ASYNC)
CASES(PRE_SYNC)

/* ---- One thread ---- */

static _Atomic bool discarded;

static void *discard_all(void *arg)
{
	struct snap *c = arg;
	int err;

	for (size_t i = 0; i < c->t->pages; i++) {
		/* Busy: who has the page got no CPU for a second. */
		do
			err = uffdwp_discard(c->r, (uintptr_t)c->t->mem.addr + i * c->t->page,
					     c->t->page, UFFDWP_DISCARD_DONTNEED, NULL);
		while (err == -EBUSY);
		CHECK_EQ(err, 0);
	}
	atomic_store(&discarded, true);
	return NULL;
}

/*
 * Nobody serves but the thread that takes the snapshot and waits for it: while it waits, writers fault, and discards
 * wait for their events to be read, and the snapshot for them to be carried out.
 */
static void alone(struct live *t, bool by_caller)
{
	struct uffdwp_snapshot_opts o = { .by_caller = by_caller };
	pthread_t discarder;
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, SNAP_COW_CALLER, UFFDWP_FEATURE_EVENT_REMOVE);
	live_serve_stop(&c.server);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	live_thread(&discarder, discard_all, &c);
	snap_writers_start(&c);
	snap_check_complete(&c);
	while (!atomic_load(&discarded))
		CHECK(uffdwp_dispatch(c.h) >= 0);
	live_join(discarder);
	snap_close(&c);
}

static void alone_saver(struct live *t)
{
	alone(t, false);
}

static void alone_by_caller(struct live *t)
{
	alone(t, true);
}

#define ROW(mode, what)                                         \
	{                                                       \
#mode "/" #what, mode##_##what, KINDS_ALL, 0, 0 \
	}
#define ROWS(mode)                                                                 \
	ROW(mode, armed), ROW(mode, all), ROW(mode, sequential), ROW(mode, twice), \
		ROW(mode, unarmed), ROW(mode, by_caller)

static const struct live_case cases[] = {
	ROWS(COW_THREADS),
	ROWS(COW_CALLER),
	ROWS(COW_SIGBUS),
	ROWS(PRE_ASYNC),
	ROWS(PRE_SYNC),
	{ "alone/saver", alone_saver, KINDS_ALL, UFFDWP_FEATURE_EVENT_REMOVE, 0 },
	{ "alone/by_caller", alone_by_caller, KINDS_ALL, UFFDWP_FEATURE_EVENT_REMOVE, 0 },
};

LIVE_MAIN(cases)
