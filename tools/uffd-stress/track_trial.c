/* SPDX-License-Identifier: MIT */
/*
 * One trial of uffd-stress track, see track.h: maps and tracks memory as the plan says, lets
 * writers, the disturber and the collectors loose on it, and compares at the end.
 */
#include "system.h"
#include "track.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define PASSES_LEAST 4
#define KHUGEPAGED "/sys/kernel/mm/transparent_hugepage/khugepaged/"

/* ---- Set-up ---- */

static const struct {
	const char *name;
	uint32_t serve, mechanism;
} ways[TRACK_MODES] = {
	[TRACK_ASYNC] = { "async", UFFDWP_SERVE_THREADS, UFFDWP_TRACK_ASYNC },
	[TRACK_SYNC] = { "sync", UFFDWP_SERVE_THREADS, UFFDWP_TRACK_SYNC },
	[TRACK_CALLER] = { "caller", UFFDWP_SERVE_CALLER, UFFDWP_TRACK_SYNC },
	[TRACK_SIGBUS] = { "sigbus", UFFDWP_SERVE_SIGBUS, UFFDWP_TRACK_SIGBUS },
};

const char *track_mode_name(enum track_mode m)
{
	return ways[m].name;
}

/* Before the tracker starts, some of the memory is there, and some never was. */
static void populate(struct trial *t)
{
	struct rng rng = rng_make(t->plan.seed, 1000);
	size_t at;

	for (at = 0; at < t->mem.size; at += t->mem.page_size) {
		watchdog_step("fills", at);
		if (rng_below(&rng, 4) < t->plan.populate)
			word_write(t->mem.addr + at, rng_next(&rng));
	}
}

/* Neighbours, of random lengths. */
static void cut_regions(struct trial *t)
{
	struct rng rng = rng_make(t->plan.seed, 3000);
	unsigned int i, n = t->plan.regions;

	t->first[n] = t->books.units;
	for (i = 1; i < n; i++)
		t->first[i] = t->books.units * i / n - rng_below(&rng, t->books.units / n / 2 + 1);
}

static int add_regions(struct trial *t)
{
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro),
		.page_size = t->plan.huge ? HUGE_SIZE : t->mem.page_size,
		.mode = UFFDWP_MODE_WP,
	};
	unsigned int i;
	int rc = 0;

	for (i = 0; !rc && i < t->plan.regions; i++) {
		ro.addr = (uintptr_t)t->books.addr + t->first[i] * t->books.unit;
		ro.len = (t->first[i + 1] - t->first[i]) * t->books.unit;
		rc = uffdwp_region_add(t->server.h, &ro, &t->regions[i]);
	}
	if (!rc)
		return EXIT_PASS;
	verdict_fail(&t->v, "uffdwp_region_add: %s", strerror(-rc));
	return EXIT_WRONG;
}

static int open_handle(struct trial *t)
{
	struct uffdwp_opts more = {
		.sz = sizeof(more),
		.faults = t->plan.mode == TRACK_SIGBUS ? UFFDWP_FAULTS_USER : UFFDWP_FAULTS_ANY,
		.threads = t->plan.alone,
	};

	if (t->plan.mode == TRACK_ASYNC)
		more.required |= UFFDWP_FEATURE_WP_ASYNC;
	if (t->plan.events)
		more.required |= UFFDWP_FEATURE_EVENT_REMOVE;
	return server_start(&t->server, t->o, t->plan.kind, ways[t->plan.mode].serve,
			    t->plan.events || t->plan.seed & 1, &more);
}

static int start_track(struct trial *t)
{
	char reason[256] = "";
	struct uffdwp_track_opts to = {
		.sz = sizeof(to),
		.granule = t->plan.granule,
		.reason = reason,
		.reason_size = sizeof(reason),
	};
	int rc = uffdwp_track_start(&t->track, t->regions, t->plan.regions, &to);

	if (rc) {
		verdict_fail(&t->v, "uffdwp_track_start: %s (%s)", reason, strerror(-rc));
		return EXIT_WRONG;
	}
	t->info.sz = sizeof(t->info);
	rc = uffdwp_track_info(t->track, &t->info);
	if (!rc && t->info.mechanism == ways[t->plan.mode].mechanism &&
	    t->info.regions == t->plan.regions)
		return EXIT_PASS;
	verdict_fail(&t->v, "asked for mechanism %u, obtained %u (%d)",
		     ways[t->plan.mode].mechanism, t->info.mechanism, rc);
	return EXIT_WRONG;
}

/* Contiguous units for each, in whatever regions they are. */
static void share_out(struct trial *t)
{
	unsigned int n = t->plan.collectors, i, r;

	for (i = 0; i < n; i++) {
		struct collector *c = &t->collectors[i];
		size_t from = t->books.units * i / n, to = t->books.units * (i + 1) / n;

		c->t = t;
		c->index = i;
		c->rng = rng_make(t->plan.seed, 2000 + i);
		for (r = 0; r < t->plan.regions; r++) {
			size_t a = from > t->first[r] ? from : t->first[r];
			size_t b = to < t->first[r + 1] ? to : t->first[r + 1];

			if (a < b)
				c->parts[c->nparts++] = (struct part){ r, a, b };
		}
	}
}

static int alloc_books(struct trial *t)
{
	size_t unit = t->plan.granule ? t->plan.granule : t->mem.page_size, i;
	int rc = books_make(&t->books, t->mem.addr, t->mem.size, t->mem.page_size, unit);

	if (rc)
		return rc;
	cut_regions(t);
	share_out(t);
	t->units = calloc(t->books.units, sizeof(*t->units));
	t->replica = aligned_alloc(64, t->mem.size);
	if (!t->units || !t->replica)
		rc = EXIT_HARNESS;
	for (i = 0; !rc && i < t->plan.collectors; i++) {
		/* A bit for each of the smallest pages that it may have. */
		t->collectors[i].bitmap = calloc(t->mem.size / BASE_PAGE / 64 + 1, 8);
		if (!t->collectors[i].bitmap)
			rc = EXIT_HARNESS;
	}
	if (rc)
		out_fail("no memory");
	return rc;
}

static void release(struct trial *t)
{
	unsigned int i;

	for (i = 0; i < COLLECTORS_MAX; i++)
		free(t->collectors[i].bitmap);
	free(t->replica);
	free(t->units);
	books_free(&t->books);
	mem_unmap(&t->mem);
}

/* ---- The threads ---- */

static void nap(uint64_t ns)
{
	const struct timespec ts = { 0, (long)ns };

	nanosleep(&ts, NULL);
}

static void *collect_on(void *arg)
{
	struct collector *c = arg;
	unsigned int i;

	watchdog_enter("collector", c->index);
	for (i = 0; i < c->t->plan.passes && (i < PASSES_LEAST || now_ns() < c->t->end); i++) {
		track_pass(c, false);
		watchdog_step("rests", i);
		nap(rng_below(&c->rng, 3000000));
	}
	watchdog_leave();
	return NULL;
}

static void *collect_last(void *arg)
{
	struct collector *c = arg;

	watchdog_enter("collector", c->index);
	track_pass(c, true);
	watchdog_leave();
	return NULL;
}

static void run_collectors(struct trial *t, void *(*fn)(void *))
{
	unsigned int i;

	for (i = 0; i < t->plan.collectors; i++)
		thread_start(&t->collectors[i].thread, fn, &t->collectors[i]);
	watchdog_rest("waits for the collectors");
	for (i = 0; i < t->plan.collectors; i++)
		pthread_join(t->collectors[i].thread, NULL);
	watchdog_step("goes on", 0);
}

static bool kernel_writes(const struct trial *t)
{
	return t->info.sees & UFFDWP_TRACK_KERNEL_WRITES;
}

/* What the tracker says that it sees is done, and what it does not see is not. */
static unsigned int disturbances(const struct trial *t)
{
	enum mem_kind kind = t->plan.kind;
	unsigned int kinds = disturb_possible(kind);
	bool anon = kind == MEM_ANON || kind == MEM_THP;
	bool shared = kind == MEM_SHMEM || kind == MEM_HUGETLB_SHARED;

	if (t->info.sees & UFFDWP_TRACK_DISCARDS && anon)
		kinds |= 1u << DISTURB_DONTNEED;
	if (t->info.sees & UFFDWP_TRACK_REMOVES && shared)
		kinds |= 1u << DISTURB_REMOVE;
	if (t->plan.swap)
		kinds |= 1u << DISTURB_SWAP;
	return kinds;
}

static int run_threads(struct trial *t)
{
	int rc;

	t->writers = (struct writers){ .b = &t->books,
				       .v = &t->v,
				       .n = t->plan.writers,
				       .kernel = kernel_writes(t),
				       .seed = t->plan.seed };
	t->disturb = (struct disturb){ .b = &t->books,
				       .v = &t->v,
				       .mem = &t->mem,
				       .h = t->server.h,
				       .kinds = disturbances(t),
				       .seed = t->plan.seed };
	rc = writers_start(&t->writers);
	if (rc)
		return rc;
	disturb_start(&t->disturb);
	run_collectors(t, collect_on);
	disturb_stop(&t->disturb);
	writers_stop(&t->writers);
	run_collectors(t, collect_last);
	track_compare(t);
	return EXIT_PASS;
}

/* ---- The end ---- */

static void check_info(struct trial *t)
{
	uint64_t bytes = 0;
	unsigned int i;

	for (i = 0; i < t->plan.collectors; i++)
		bytes += t->collectors[i].bytes;
	t->info.sz = sizeof(t->info);
	if (uffdwp_track_info(t->track, &t->info) || t->info.bytes != bytes)
		verdict_fail(&t->v,
			     "uffdwp_track_info says %" PRIu64 " bytes, reported were %" PRIu64,
			     t->info.bytes, bytes);
}

static void tear_down(struct trial *t)
{
	int rc;

	watchdog_step("tears down", 0);
	if (t->track) {
		check_info(t);
		rc = uffdwp_track_stop(t->track);
		if (rc)
			verdict_fail(&t->v, "uffdwp_track_stop: %s", strerror(-rc));
		t->track = NULL;
	}
	if (!server_close(&t->server))
		verdict_fail(&t->v, "the handle does not close cleanly");
}

static int track_memory(struct trial *t)
{
	uint64_t moved = track_migrations(t);
	int rc = open_handle(t);

	if (rc)
		return rc;
	rc = add_regions(t);
	if (!rc)
		rc = start_track(t);
	if (!rc) {
		track_baseline(t, moved);
		rc = run_threads(t);
	}
	tear_down(t);
	return rc;
}

/* Khugepaged at work all the time, and swap; undone by system_end(). */
static bool change_system(struct trial *t)
{
	int err;

	watchdog_rest("waits for another program that changes the system");
	err = system_begin();
	watchdog_step("changes the system", 0);
	if (!err)
		err = system_swap_on(t->plan.zram);
	if (!err && t->plan.kind == MEM_THP) {
		err = system_set(KHUGEPAGED "scan_sleep_millisecs", "1");
		if (!err)
			err = system_set(KHUGEPAGED "pages_to_scan", "100000");
	}
	if (err)
		out_say(t->o, "%s: skipped: swap: %s\n", t->v.name, strerror(-err));
	return !err;
}

/* A few pages of the largest. */
static size_t area_size(const struct trial *t)
{
	bool hugetlb = t->plan.kind == MEM_HUGETLB_SHARED || t->plan.kind == MEM_HUGETLB_PRIVATE;
	size_t least = hugetlb ? 8 * HUGE_SIZE : 0;

	return t->o->size > least ? t->o->size : least;
}

int track_trial(struct trial *t)
{
	int rc;

	if (t->plan.swap)
		t->plan.swap = change_system(t);
	rc = area_map(&t->mem, t->plan.kind, area_size(t));
	if (!rc)
		rc = alloc_books(t);
	if (!rc) {
		populate(t);
		rc = track_memory(t);
	}
	release(t);
	if (system_end())
		verdict_fail(&t->v, "the system's settings were not put back");
	if (atomic_load(&t->v.failures))
		return EXIT_WRONG;
	return rc;
}
