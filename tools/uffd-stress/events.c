/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress events: the address space changes while faults are in flight, on another region of
 * the same handle and where it can be on the same one. After each change, missing and write-protect
 * faults of each page are counted again.
 */
#include "events.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static const struct event_case *const cases[] = {
	&event_fork_alone, &event_fork_served, &event_remap, &event_discard,
	&event_chaos,	   &event_unmap,       &event_alias,
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static const char *const ways[] = { "threads", "caller" };

/* ---- Faults in flight ---- */

static void *poke(void *arg)
{
	const struct poker *p = arg;
	struct events *e = p->e;
	struct arena *a = &e->busy;
	struct rng r = rng_make(e->o->seed + e->round, p->index);
	size_t nr;

	watchdog_enter("poker", p->index);
	while (!atomic_load(&e->stop)) {
		nr = rng_below(&r, a->pages);
		events_touch(a, nr, nr + 1);
		if (rng_next(&r) % 16 == 0)
			arena_protect(a, nr, nr + 1);
	}
	watchdog_leave();
	return NULL;
}

void events_poke(struct events *e)
{
	unsigned int i;

	atomic_store(&e->stop, false);
	for (i = 0; i < POKERS; i++) {
		e->poker[i].e = e;
		e->poker[i].index = i;
		if (pthread_create(&e->poker[i].thread, NULL, poke, &e->poker[i])) {
			out_fail("a thread does not start");
			mem_hugepages_restore();
			_Exit(EXIT_HARNESS);
		}
	}
}

/* Then the busy arena must be in order: each page there, and protection works once for each. */
void events_calm(struct events *e)
{
	struct arena *a = &e->busy;
	int i;

	atomic_store(&e->stop, true);
	watchdog_rest("waits for the pokers");
	for (i = 0; i < POKERS; i++)
		pthread_join(e->poker[i].thread, NULL);
	watchdog_step("goes on", 0);
	events_touch(a, 0, a->pages);
	arena_protect(a, 0, a->pages);
	arena_reset(a, 0, a->pages);
	events_touch(a, 0, a->pages);
	arena_expect(a, 0, a->pages, 0, 1, "of the busy area, at the end");
	arena_check(a, 0, a->pages);
}

bool events_wait(struct arena *a, uint32_t kind, uint32_t count)
{
	const struct timespec tick = { 0, 100000 };
	int i;

	for (i = 0; i < 50000; i++) {
		if (atomic_load(&a->events[kind]) >= count)
			return true;
		nanosleep(&tick, NULL);
	}
	arena_fail(a, "event %" PRIu32 " came %" PRIu32 " times, want %" PRIu32, kind,
		   atomic_load(&a->events[kind]), count);
	return false;
}

void events_touch(struct arena *a, size_t from, size_t to)
{
	for (; from < to; from++) {
		watchdog_step("touches page", from);
		page_touch(arena_page(a, from));
	}
}

/* ---- One case ---- */

static int open_both(struct events *e, const struct event_case *c)
{
	struct uffdwp_opts more = {
		.sz = sizeof(more),
		.required = c->features | (e->kind == MEM_THP ? UFFDWP_FEATURE_MOVE : 0),
		.forked = c->forked,
		.forked_arg = e,
	};
	int rc = server_start(&e->server, e->o, e->kind, e->serve, true, &more);

	if (rc)
		return rc;
	e->a.copies = e->busy.copies = c->copies;
	e->a.later = c->later;
	rc = arena_watch(&e->a, e->server.h);
	if (!rc)
		rc = arena_watch(&e->busy, e->server.h);
	if (rc)
		server_close(&e->server);
	return rc;
}

static int map_both(struct events *e)
{
	int rc = arena_map(&e->a, e->kind, e->o->size / 2);

	/* Unmapping knows what of the second was mapped only once it has been tried. */
	return exit_worse(arena_map(&e->busy, e->kind, e->o->size / 8), rc);
}

static int run_case(struct events *e, const struct event_case *c, struct tally *t)
{
	int rc = map_both(e);
	bool good;

	if (!rc)
		rc = open_both(e, c);
	if (!rc) {
		c->run(e);
		if (!tally_add(t, e->server.h))
			arena_fail(&e->a, "workers' statistics exceed the sum of all");
		good = server_close(&e->server);
		e->a.h = e->busy.h = NULL;
		if (!good)
			arena_fail(&e->a, "the handle does not close cleanly");
		rc = exit_worse(arena_result(&e->a), arena_result(&e->busy));
	}
	arena_unmap(&e->busy);
	arena_unmap(&e->a);
	if (rc == EXIT_WRONG)
		out_fail("%s: failed in case %s, served by %s", mem_name(e->kind), c->name,
			 ways[e->serve]);
	return rc;
}

/* ---- One memory type ---- */

static bool runs(const struct stress_opts *o, enum mem_kind kind, uint32_t way,
		 const struct event_case *c)
{
	return o->serves & 1u << way && (!c->kinds || c->kinds & 1u << kind);
}

static unsigned int count_cases(const struct stress_opts *o, enum mem_kind kind)
{
	unsigned int n = 0, way, i;

	for (way = 0; way <= UFFDWP_SERVE_CALLER; way++) {
		for (i = 0; i < CASES; i++)
			n += runs(o, kind, way, cases[i]);
	}
	return n;
}

static void tell(const struct stress_opts *o, enum mem_kind kind, unsigned int rounds,
		 const struct tally *t, int rc)
{
	out_say(o, "%-15s %6u rounds of %u cases: %s\n", mem_name(kind), rounds,
		count_cases(o, kind), exit_word(rc));
	out_say(o,
		"    events: fork %" PRIu64 "  remap %" PRIu64 "  remove %" PRIu64
		"  unmap %" PRIu64 ", EAGAIN retries %" PRIu64 "\n",
		t->all.fork, t->all.remap, t->all.remove, t->all.unmap, t->all.eagain);
	tally_print(o, t);
	json_begin(o);
	json_str(o, "mem", mem_name(kind));
	json_u64(o, "rounds", rounds);
	json_u64(o, "cases", count_cases(o, kind));
	tally_json(o, t);
	json_u64(o, "fork", t->all.fork);
	json_u64(o, "remap", t->all.remap);
	json_u64(o, "remove", t->all.remove);
	json_u64(o, "unmap", t->all.unmap);
	json_str(o, "result", exit_word(rc));
	json_end(o);
}

/* Both ways in each round, as far as they were asked for. */
static int one_round(struct events *e, struct tally *t)
{
	size_t i;
	int rc = EXIT_PASS;

	for (e->serve = 0; e->serve <= UFFDWP_SERVE_CALLER; e->serve++) {
		for (i = 0; !rc && i < CASES; i++) {
			if (!runs(e->o, e->kind, e->serve, cases[i]))
				continue;
			out_progress(e->o, "%s: round %u, %s by %s", mem_name(e->kind),
				     e->round + 1, cases[i]->name, ways[e->serve]);
			rc = run_case(e, cases[i], t);
		}
	}
	return rc;
}

static int events_kind(const struct stress_opts *o, enum mem_kind kind, uint64_t end)
{
	unsigned int limit = o->bounces ? o->bounces : o->duration ? UINT32_MAX : 2;
	struct events *e = calloc(1, sizeof(*e));
	struct tally *t = calloc(1, sizeof(*t));
	struct census before = census_take();
	int rc = EXIT_PASS;

	if (!e || !t) {
		out_fail("no memory");
		free(e);
		free(t);
		return EXIT_HARNESS;
	}
	e->o = o;
	e->kind = kind;
	for (; !rc && e->round < limit && (!e->round || now_ns() < end); e->round++)
		rc = one_round(e, t);
	if (!census_same(&before, mem_name(kind)))
		rc = EXIT_WRONG;
	tell(o, kind, e->round, t, rc);
	free(t);
	free(e);
	return rc;
}

static int list(const struct stress_opts *o)
{
	unsigned int kind, way;
	size_t i;

	for (kind = 0; kind < MEM_KINDS; kind++) {
		for (way = 0; way <= UFFDWP_SERVE_CALLER; way++) {
			for (i = 0; o->kinds & 1u << kind && i < CASES; i++) {
				if (!runs(o, kind, way, cases[i]))
					continue;
				printf("%s %s %s\n", mem_name(kind), cases[i]->name, ways[way]);
			}
		}
	}
	return EXIT_PASS;
}

int events_run(const struct stress_opts *o)
{
	uint64_t share = o->duration * UINT64_C(1000000000) /
			 (uint64_t)__builtin_popcount(o->kinds);
	unsigned int kind;
	int rc = EXIT_PASS;

	if (o->list)
		return list(o);
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (o->kinds & 1u << kind)
			rc = exit_worse(rc, events_kind(o, kind,
							share ? now_ns() + share : UINT64_MAX));
	}
	return rc;
}
