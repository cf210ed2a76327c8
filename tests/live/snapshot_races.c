/* SPDX-License-Identifier: MIT */
/*
 * Snapshot after snapshot, while threads write, discard past the library, and discard through it,
 * at random: the verdict must be true each time. Complete means equal; if all discards are the
 * library's it is complete.
 */
#include "../common/snap.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE

struct discarder {
	struct snap *c;
	pthread_t thread;
	bool coordinated;
	uint64_t rnd;
	_Atomic int paused;
};

static bool removes(const struct live *t)
{
	return BIT(t->mem.kind) & KINDS_SHARED;
}

static void discard_one(struct discarder *d)
{
	struct live *t = d->c->t;
	size_t first = live_random(&d->rnd) % t->pages;
	size_t n = 1 + live_random(&d->rnd) % 4;
	char *at = t->mem.addr + first * t->page;
	int err;

	n = first + n > t->pages ? t->pages - first : n;
	if (!d->coordinated) {
		CHECK_EQ(madvise(at, n * t->page, removes(t) ? MADV_REMOVE : MADV_DONTNEED), 0);
		return;
	}
	err = uffdwp_discard(d->c->r, (uintptr_t)at, n * t->page,
			     removes(t) ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED, NULL);
	/* While staging is full for more than a second. */
	CHECK(!err || err == -EBUSY);
}

static void *discard_main(void *arg)
{
	struct discarder *d = arg;

	while (!atomic_load(&d->c->stop)) {
		if (atomic_load(&d->c->pause)) {
			atomic_store(&d->paused, 1);
			while (atomic_load(&d->c->pause))
				live_msleep(1);
			atomic_store(&d->paused, 0);
		}
		discard_one(d);
		if (live_random(&d->rnd) % 4 == 0)
			live_msleep(1);
	}
	return NULL;
}

static bool one(struct live *t, int mode, uint64_t features, bool coordinated, uint64_t seed)
{
	struct uffdwp_snapshot_opts o = { .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct discarder d = { .coordinated = coordinated, .rnd = seed };
	bool complete;
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, seed);
	snap_open(&c, t, mode, features);
	c.seed = seed;
	c.sink.later = seed & 1;
	c.sequential = seed & 2;
	snap_new(&c, &o);
	d.c = &c;
	snap_writers_start(&c);
	live_thread(&d.thread, discard_main, &d);
	if (seed & 4)
		CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_writers_pause(&c);
	live_until(&d.paused, 1);
	CHECK_EQ(snap_seal(&c), 0);
	snap_wait(&c);
	complete = c.res.verdict == UFFDWP_SNAPSHOT_COMPLETE;
	if (complete)
		snap_check_complete(&c);
	else if (coordinated || c.res.verdict != UFFDWP_SNAPSHOT_CANCELLED ||
		 c.res.why != UFFDWP_SNAPSHOT_WHY_DISCARDED || !c.res.len)
		FAIL("verdict %u, why %u, error %d, range %#llx+%#llx", c.res.verdict, c.res.why,
		     c.res.error, (unsigned long long)c.res.addr, (unsigned long long)c.res.len);
	snap_writers_stop(&c);
	live_join(d.thread);
	snap_close(&c);
	return complete;
}

static void run(struct live *t, int mode, uint64_t features, bool coordinated)
{
	unsigned int complete = 0, rounds = live_times(24 / LIVE_SLOWER);

	for (unsigned int i = 0; i < rounds; i++)
		complete += one(t, mode, features, coordinated, t->seed + i);
	printf("  %u of %u complete\n", complete, rounds);
	if (coordinated || snap_modes[mode].features)
		CHECK_EQ(complete, rounds);
}

static void cow_blind(struct live *t)
{
	live_needs_wp_bit();
	run(t, SNAP_COW_THREADS, 0, false);
}

static void cow_sigbus(struct live *t)
{
	live_needs_wp_bit();
	run(t, SNAP_COW_SIGBUS, 0, false);
}

static void cow_told(struct live *t)
{
	run(t, SNAP_COW_THREADS, REMOVE, false);
}

static void cow_coordinated(struct live *t)
{
	run(t, SNAP_COW_THREADS, 0, true);
	run(t, SNAP_COW_THREADS, REMOVE, true);
}

static void async_blind(struct live *t)
{
	run(t, SNAP_PRE_ASYNC, 0, false);
}

static void async_told(struct live *t)
{
	run(t, SNAP_PRE_ASYNC, REMOVE, false);
}

static void sync_told(struct live *t)
{
	run(t, SNAP_PRE_SYNC, REMOVE, false);
}

#define ROW(name, kinds, features)               \
	{                                        \
#name, name, kinds, features, 60 \
	}

static const struct live_case cases[] = {
	ROW(cow_blind, KINDS_ANON, 0),	   ROW(cow_sigbus, KINDS_ANON, 0),
	ROW(cow_told, KINDS_ALL, REMOVE),  ROW(cow_coordinated, KINDS_ALL, REMOVE),
	ROW(async_blind, KINDS_ANON, 0),   ROW(async_told, KINDS_ALL, REMOVE),
	ROW(sync_told, KINDS_ALL, REMOVE),
};

LIVE_MAIN(cases)
