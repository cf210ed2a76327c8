/* SPDX-License-Identifier: MIT */
/*
 * A tracker besides the snapshots: what it reports is copied to a replica, which must be equal to
 * the memory when nobody writes any more and it has reported once more. Now and then a new one
 * begins.
 */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

static struct area *area_of(struct round *r, const struct uffdwp_region *region)
{
	unsigned int i;

	for (i = r->plan.areas; i > 1; i--) {
		if (r->area[i - 1].r == region)
			break;
	}
	return &r->area[i ? i - 1 : 0];
}

static void copy_range(struct area *a, size_t at, size_t len)
{
	uint64_t v;
	size_t i;

	for (i = at; i < at + len; i += 8) {
		v = word_read(a->mem.addr + i);
		memcpy(a->replica + i, &v, 8);
	}
}

static int written(struct uffdwp_region *region, uint64_t addr, uint64_t len, void *arg)
{
	struct area *a = area_of(arg, region);

	watchdog_step("copies what was written", addr);
	copy_range(a, addr - (uintptr_t)a->mem.addr, len);
	return 0;
}

/*
 * Of pages that are held, because the sink is slow, nobody can tell for now: later then. At the last nobody holds
 * one, but who serves may get no CPU for a second.
 */
static void collect(struct round *r, bool last)
{
	struct uffdwp_track_query q = { .sz = sizeof(q), .range = written, .arg = r };
	unsigned int tries = 0;
	int rc;

	watchdog_step("collects", atomic_load(&r->collects));
	do
		rc = uffdwp_track_collect(r->track, &q);
	while (rc == -EBUSY && last && ++tries < 10);
	if (rc && (rc != -EBUSY || last))
		verdict_fail(&r->v, "uffdwp_track_collect: %s", strerror(-rc));
	atomic_fetch_add(&r->collects, 1);
}

/*
 * What is written from here on is reported, so what was there may be copied after it. False: not
 * now, or not at all.
 */
static bool begin(struct round *r)
{
	struct uffdwp_region *regions[AREAS_MAX];
	unsigned int i;
	int rc;

	for (i = 0; i < r->plan.areas; i++)
		regions[i] = r->area[i].r;
	rc = uffdwp_track_start(&r->track, regions, r->plan.areas, NULL);
	if (rc && rc != -EBUSY)
		verdict_fail(&r->v, "uffdwp_track_start: %s", strerror(-rc));
	for (i = 0; !rc && i < r->plan.areas; i++)
		copy_range(&r->area[i], 0, r->area[i].mem.size);
	return !rc;
}

static void end(struct round *r)
{
	int rc = uffdwp_track_stop(r->track);

	r->track = NULL;
	if (rc)
		verdict_fail(&r->v, "uffdwp_track_stop: %s", strerror(-rc));
}

static void *watch_on(void *arg)
{
	struct rng rng = rng_make(((struct round *)arg)->plan.seed, 6000);
	struct round *r = arg;

	watchdog_enter("watcher", 0);
	while (!atomic_load(&r->watch_stop)) {
		const struct timespec t = { 0, (long)rng_below(&rng, 8000000) };

		watchdog_step("begins", 0);
		if (r->track || begin(r))
			collect(r, false);
		watchdog_step("rests", 0);
		nanosleep(&t, NULL);
		if (r->track && rng_below(&rng, 16) == 0)
			end(r);
	}
	watchdog_leave();
	return NULL;
}

int watcher_start(struct round *r)
{
	if (!r->plan.track)
		return EXIT_PASS;
	if (!begin(r))
		return EXIT_WRONG;
	thread_start(&r->watcher, watch_on, r);
	return EXIT_PASS;
}

static void compare(struct round *r, const struct area *a)
{
	uint64_t is, has;
	size_t i;

	for (i = 0; i < a->mem.size; i += 8) {
		is = word_read(a->mem.addr + i);
		memcpy(&has, a->replica + i, 8);
		if (is == has)
			continue;
		verdict_fail(&r->v,
			     "the tracker lost a write: area %u page %zu byte %zu holds %#" PRIx64
			     ", and the replica %#" PRIx64,
			     a->index, i / a->page, i % a->page, is, has);
		i |= a->page - 8;
	}
}

/* Everybody else has stopped. */
void watcher_stop(struct round *r)
{
	unsigned int i;

	if (!r->plan.track)
		return;
	atomic_store(&r->watch_stop, true);
	watchdog_rest("waits for the watcher");
	pthread_join(r->watcher, NULL);
	watchdog_step("goes on", 0);
	if (!r->track)
		return;
	collect(r, true);
	for (i = 0; i < r->plan.areas; i++)
		compare(r, &r->area[i]);
	end(r);
}
