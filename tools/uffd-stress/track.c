/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress track: for each memory type, trials of dirty tracking in each way of tracking, with
 * all that happens in them, and how, drawn from the seed. The oracle is in track.h.
 */
#include "track.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PASSES 24
#define HUGE_SIZE ((size_t)2 << 20)

/* What the trials of one memory type have done. */
struct sum {
	unsigned int trials[TRACK_MODES];
	uint64_t passes, calls, reported, acts[WRITER_ACTS], disturbed[DISTURB_KINDS];
};

/* ---- Plans ---- */

/* Granules that leave some units to choose from. */
static size_t choose_granule(struct rng *rng, const struct stress_opts *o, bool hugetlb)
{
	static const size_t sizes[] = { 0, 0, 0, 16384, 65536, HUGE_SIZE };
	size_t g = sizes[rng_below(rng, sizeof(sizes) / sizeof(sizes[0]))];

	return hugetlb || g > o->size / 8 ? 0 : g;
}

/* The same for one memory type and way of tracking whatever others are run besides. */
static struct track_plan make_plan(const struct stress_opts *o, enum mem_kind kind,
				   enum track_mode mode, unsigned int nr)
{
	struct rng rng = rng_make(o->seed,
				  nr * MEM_KINDS * TRACK_MODES + kind * TRACK_MODES + mode);
	bool hugetlb = kind == MEM_HUGETLB_SHARED || kind == MEM_HUGETLB_PRIVATE;
	struct track_plan p = { .kind = kind, .mode = mode, .passes = PASSES };

	p.seed = rng_next(&rng);
	p.granule = choose_granule(&rng, o, hugetlb);
	p.huge = kind == MEM_THP && p.granule == HUGE_SIZE && rng_below(&rng, 2);
	p.regions = 1 + (unsigned int)rng_below(&rng, REGIONS_MAX);
	p.collectors = 1 + (unsigned int)rng_below(&rng, COLLECTORS_MAX);
	p.writers = 2 + (unsigned int)rng_below(&rng, 3);
	p.populate = (unsigned int)rng_below(&rng, 5);
	p.events = mode != TRACK_SIGBUS && rng_below(&rng, 3) == 0;
	p.swap = !hugetlb && rng_below(&rng, 4) == 0;
	p.zram = rng_below(&rng, 2);
	p.alone = rng_below(&rng, 3) == 0;
	return p;
}

static void name_trial(struct trial *t, unsigned int nr)
{
	const struct track_plan *p = &t->plan;

	snprintf(t->v.name, sizeof(t->v.name), "%s %s trial %u%s%s%s", mem_name(p->kind),
		 track_mode_name(p->mode), nr, p->events ? " events" : "", p->swap ? " swap" : "",
		 p->alone ? " one serves" : "");
}

/* ---- One memory type ---- */

static void add_up(struct sum *s, const struct trial *t)
{
	unsigned int i;

	s->trials[t->plan.mode]++;
	s->passes += atomic_load(&t->passes);
	s->calls += atomic_load(&t->calls);
	s->reported += atomic_load(&t->reported);
	for (i = 0; i < WRITER_ACTS; i++)
		s->acts[i] += atomic_load(&t->writers.acts[i]);
	for (i = 0; i < DISTURB_KINDS; i++)
		s->disturbed[i] += atomic_load(&t->disturb.count[i]);
}

static int run_trial(const struct stress_opts *o, enum mem_kind kind, enum track_mode mode,
		     uint64_t end, struct sum *s)
{
	struct trial *t = calloc(1, sizeof(*t));
	unsigned int nr = s->trials[mode];
	int rc;

	if (!t) {
		out_fail("no memory");
		return EXIT_HARNESS;
	}
	t->o = o;
	t->mem.fd = -1;
	t->end = end;
	t->plan = make_plan(o, kind, mode, nr);
	name_trial(t, nr);
	out_progress(o, "%s", t->v.name);
	rc = track_trial(t);
	if (rc == EXIT_WRONG)
		out_fail("%s: failed: granule %zu, %u regions, %u collectors, %u writers; alone: "
			 "--mem=%s --mode=%s --size=%zuK --bounces=%u --seed=%" PRIu64,
			 t->v.name, t->plan.granule, t->plan.regions, t->plan.collectors,
			 t->plan.writers, mem_name(kind), track_mode_name(mode), o->size >> 10,
			 nr + 1, o->seed);
	add_up(s, t);
	free(t);
	return rc;
}

static void tell(const struct stress_opts *o, const char *name, const struct sum *s, int rc)
{
	unsigned int i, trials = 0;

	for (i = 0; i < TRACK_MODES; i++)
		trials += s->trials[i];
	out_say(o,
		"%-15s %4u trials (%u async, %u sync, %u caller, %u sigbus), %" PRIu64
		" passes, %" PRIu64 " units reported: %s\n",
		name, trials, s->trials[TRACK_ASYNC], s->trials[TRACK_SYNC],
		s->trials[TRACK_CALLER], s->trials[TRACK_SIGBUS], s->passes, s->reported,
		exit_word(rc));
	out_say(o, "  writes %" PRIu64 ", by the kernel %" PRIu64 ", reads %" PRIu64,
		s->acts[WRITER_STORE], s->acts[WRITER_KERNEL], s->acts[WRITER_READ]);
	for (i = 0; i < DISTURB_KINDS; i++) {
		if (s->disturbed[i])
			out_say(o, ", %s %" PRIu64, disturb_name((enum disturbance)i),
				s->disturbed[i]);
	}
	out_say(o, "\n");
}

static void tell_json(const struct stress_opts *o, const char *name, const struct sum *s, int rc)
{
	char key[32];
	unsigned int i;

	json_begin(o);
	json_str(o, "mem", name);
	for (i = 0; i < TRACK_MODES; i++)
		json_u64(o, track_mode_name((enum track_mode)i), s->trials[i]);
	json_u64(o, "passes", s->passes);
	json_u64(o, "calls", s->calls);
	json_u64(o, "reported", s->reported);
	json_u64(o, "writes", s->acts[WRITER_STORE]);
	json_u64(o, "kernel_writes", s->acts[WRITER_KERNEL]);
	json_u64(o, "reads", s->acts[WRITER_READ]);
	for (i = 0; i < DISTURB_KINDS; i++) {
		snprintf(key, sizeof(key), "did_%s", disturb_name((enum disturbance)i));
		json_u64(o, key, s->disturbed[i]);
	}
	json_str(o, "result", exit_word(rc));
	json_end(o);
}

/* Of the time that is left, what each of so many trials may take. */
static uint64_t share_of(uint64_t end, unsigned int trials)
{
	uint64_t now = now_ns();

	return end == UINT64_MAX || now >= end ? end : now + (end - now) / trials;
}

/*
 * Every way of tracking in turn, and at least once: where time is short trials are cut, not ways.
 * One that is not possible here is tried once, and said so.
 */
static int run_modes(const struct stress_opts *o, enum mem_kind kind, uint64_t end, struct sum *s)
{
	unsigned int modes = o->track_modes, n = 0, m,
		     all = (unsigned int)__builtin_popcount(modes);
	unsigned int limit = o->bounces ? o->bounces : o->duration ? UINT32_MAX : 2 * all;
	unsigned int trials; /* share the time that is left */
	int rc = EXIT_PASS, one;

	while (modes && n < limit && (n < all || now_ns() < end)) {
		for (m = 0; m < TRACK_MODES && n < limit && (n < all || now_ns() < end); m++) {
			if (!(modes & 1u << m))
				continue;
			trials = o->bounces ? limit - n : n < all ? all - n : 1;
			one = run_trial(o, kind, (enum track_mode)m, share_of(end, trials), s);
			n++;
			rc = exit_worse(rc, one);
			if (one == EXIT_UNSUPPORTED)
				modes &= ~(1u << m);
			else if (one)
				return rc;
		}
	}
	return rc;
}

static int track_kind(const struct stress_opts *o, enum mem_kind kind, uint64_t end)
{
	struct census before = census_take();
	struct sum s;
	int rc;

	memset(&s, 0, sizeof(s));
	rc = run_modes(o, kind, end, &s);
	if (!census_same(&before, mem_name(kind)))
		rc = EXIT_WRONG;
	tell(o, mem_name(kind), &s, rc);
	tell_json(o, mem_name(kind), &s, rc);
	return rc;
}

/* ---- All ---- */

static int list(const struct stress_opts *o)
{
	unsigned int kind, m;

	for (kind = 0; kind < MEM_KINDS; kind++) {
		for (m = 0; o->kinds & 1u << kind && m < TRACK_MODES; m++) {
			if (o->track_modes & 1u << m)
				printf("%s %s\n", mem_name(kind), track_mode_name(m));
		}
	}
	return EXIT_PASS;
}

int track_run(const struct stress_opts *o)
{
	uint64_t share = o->duration * UINT64_C(1000000000) /
			 (uint64_t)__builtin_popcount(o->kinds);
	unsigned int kind;
	int rc = EXIT_PASS;

	if (o->list)
		return list(o);
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (o->kinds & 1u << kind)
			rc = exit_worse(rc,
					track_kind(o, kind, share ? now_ns() + share : UINT64_MAX));
	}
	return rc;
}
