/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress snapshot: for each memory type, rounds of snapshots in each way of taking and
 * serving them, with all that happens in them, and how, drawn from the seed. The oracle is in
 * snapshot.h.
 */
#include "snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the rounds of one memory type have done. */
struct sum {
	unsigned int rounds, verdicts[4], quiet, by_why[16];
	uint64_t acts[ACTS], writes[SCRIBE_ACTS], others[DISTURB_KINDS], collects, held, by_fault;
};

static const char *const act_names[ACTS] = { "discard",	 "wipe",   "collapse", "other",
					     "dontneed", "remove", "unmap",    "move" };
static const char *const why_names[] = { "none", "caller", "discarded", "unmapped", "moved",
					 "sink", "handle", "process",	"system" };

/* ---- One round ---- */

static void add_up(struct sum *s, const struct round *r)
{
	unsigned int i, k;

	s->rounds++;
	s->quiet += r->quiet;
	s->held += r->held;
	s->by_fault += r->by_fault;
	s->collects += atomic_load(&r->collects);
	for (i = 0; i < 4; i++)
		s->verdicts[i] += r->verdicts[i];
	for (i = 0; i < 16; i++)
		s->by_why[i] += r->by_why[i];
	for (i = 0; i < ACTS; i++)
		s->acts[i] += atomic_load(&r->acts[i]);
	for (i = 0; i < SCRIBE_ACTS; i++)
		s->writes[i] += atomic_load(&r->writes[i]);
	for (k = 0; k < r->plan.areas; k++) {
		for (i = 0; i < DISTURB_KINDS; i++)
			s->others[i] += atomic_load(&r->area[k].other.count[i]);
	}
}

static const char *strategy_name(enum way way, char buf[16])
{
	snprintf(buf, 16, "%.*s", (int)strcspn(ways[way].name, " "), ways[way].name);
	return buf;
}

/* What it is, and how to run it alone. */
static void describe(struct round *r)
{
	const struct plan *p = &r->plan;
	char text[256], strategy[16];

	plan_print(p, text, sizeof(text));
	snprintf(r->about, sizeof(r->about),
		 "%s: %s; alone: --mem=%s --strategy=%s --serve=%s --size=%zuK --bounces=1 "
		 "--seed=%" PRIu64,
		 r->v.name, text, mem_name(p->kind), strategy_name(p->way, strategy),
		 strchr(ways[p->way].name, ' ') + 1, r->o->size >> 10, p->seed);
}

static void explain(const struct round *r)
{
	char text[512];

	lap_print(&r->now.plan, text, sizeof(text));
	out_fail("%s: failed in lap %u of %u: %s", r->v.name, r->now.nr, r->plan.laps, text);
	out_fail("%s", r->about);
}

static int run_round(const struct stress_opts *o, enum mem_kind kind, enum way way, uint64_t seed,
		     struct sum *s)
{
	struct round *r = calloc(1, sizeof(*r));
	int rc;

	if (!r) {
		out_fail("no memory");
		return EXIT_HARNESS;
	}
	r->o = o;
	r->plan = make_plan(o, kind, way, seed);
	snprintf(r->v.name, sizeof(r->v.name), "%s %s round %u", mem_name(kind), ways[way].name,
		 s->rounds);
	out_progress(o, "%s", r->v.name);
	describe(r);
	watchdog_case(r->about);
	rc = round_run(r);
	watchdog_case(NULL);
	if (rc == EXIT_WRONG)
		explain(r);
	add_up(s, r);
	free(r);
	return rc;
}

/* ---- One memory type ---- */

static void tell(const struct stress_opts *o, const char *name, const struct sum *s, int rc)
{
	unsigned int i;

	out_say(o,
		"%-15s %4u rounds, %u complete, %u cancelled, %u failed (%u undisturbed), %" PRIu64
		" KiB by faults, %" PRIu64 " held: %s\n  ended by",
		name, s->rounds, s->verdicts[UFFDWP_SNAPSHOT_COMPLETE],
		s->verdicts[UFFDWP_SNAPSHOT_CANCELLED], s->verdicts[UFFDWP_SNAPSHOT_FAILED],
		s->quiet, s->by_fault >> 10, s->held, exit_word(rc));
	for (i = 1; i < sizeof(why_names) / sizeof(why_names[0]); i++) {
		if (s->by_why[i])
			out_say(o, " %s %u", why_names[i], s->by_why[i]);
	}
	out_say(o, "; writes %" PRIu64 ", by read(2) %" PRIu64 ", by process_vm_writev %" PRIu64,
		s->writes[SCRIBE_STORE], s->writes[SCRIBE_READ2], s->writes[SCRIBE_VMWRITE]);
	for (i = 0; i < ACTS; i++) {
		if (s->acts[i] && i != ACT_OTHER)
			out_say(o, ", %s %" PRIu64, act_names[i], s->acts[i]);
	}
	for (i = 0; i < DISTURB_KINDS; i++) {
		if (s->others[i])
			out_say(o, ", %s %" PRIu64, disturb_name((enum disturbance)i),
				s->others[i]);
	}
	out_say(o, "\n");
}

static void tell_json(const struct stress_opts *o, const char *name, const struct sum *s, int rc)
{
	char key[32];
	unsigned int i;

	json_begin(o);
	json_str(o, "mem", name);
	json_u64(o, "rounds", s->rounds);
	json_u64(o, "complete", s->verdicts[UFFDWP_SNAPSHOT_COMPLETE]);
	json_u64(o, "cancelled", s->verdicts[UFFDWP_SNAPSHOT_CANCELLED]);
	json_u64(o, "failed", s->verdicts[UFFDWP_SNAPSHOT_FAILED]);
	json_u64(o, "undisturbed", s->quiet);
	json_u64(o, "bytes_by_fault", s->by_fault);
	json_u64(o, "held", s->held);
	json_u64(o, "writes", s->writes[SCRIBE_STORE]);
	json_u64(o, "kernel_writes", s->writes[SCRIBE_READ2] + s->writes[SCRIBE_VMWRITE]);
	json_u64(o, "collects", s->collects);
	for (i = 1; i < sizeof(why_names) / sizeof(why_names[0]); i++) {
		snprintf(key, sizeof(key), "why_%s", why_names[i]);
		json_u64(o, key, s->by_why[i]);
	}
	for (i = 0; i < ACTS; i++) {
		snprintf(key, sizeof(key), "did_%s", act_names[i]);
		json_u64(o, key, s->acts[i]);
	}
	json_str(o, "result", exit_word(rc));
	json_end(o);
}

static bool wanted(const struct stress_opts *o, enum way way)
{
	unsigned int strategy = ways[way].strategy == UFFDWP_SNAPSHOT_COW ? STRATEGY_COW
				: ways[way].async			  ? STRATEGY_ASYNC
									  : STRATEGY_SYNC;

	return o->strategies & strategy && o->serves & 1u << ways[way].serve;
}

static unsigned int wanted_ways(const struct stress_opts *o)
{
	unsigned int mask = 0, way;

	for (way = 0; way < WAYS; way++) {
		if (wanted(o, (enum way)way))
			mask |= 1u << way;
	}
	return mask;
}

/*
 * Every way in turn; one that is not possible here is tried once, and said so. The first round
 * has the seed itself.
 */
static int run_ways(const struct stress_opts *o, enum mem_kind kind, uint64_t end, struct sum *s)
{
	struct rng seeds = rng_make(o->seed, 10000 + kind);
	unsigned int mask = wanted_ways(o), n = 0, way;
	unsigned int limit = o->bounces	   ? o->bounces
			     : o->duration ? UINT32_MAX
					   : 2 * (unsigned int)__builtin_popcount(mask);
	int rc = EXIT_PASS, one;

	while (mask && n < limit) {
		for (way = 0; way < WAYS && n < limit && (!n || now_ns() < end); way++) {
			if (!(mask & 1u << way))
				continue;
			one = run_round(o, kind, (enum way)way, n ? rng_next(&seeds) : o->seed, s);
			n++;
			rc = exit_worse(rc, one);
			if (one == EXIT_UNSUPPORTED)
				mask &= ~(1u << way);
			else if (one)
				return rc;
		}
		if (now_ns() >= end)
			break;
	}
	return rc;
}

static int snapshot_kind(const struct stress_opts *o, enum mem_kind kind, uint64_t end)
{
	struct census before = census_take();
	struct sum s;
	int rc;

	memset(&s, 0, sizeof(s));
	rc = run_ways(o, kind, end, &s);
	if (!census_same(&before, mem_name(kind)))
		rc = EXIT_WRONG;
	tell(o, mem_name(kind), &s, rc);
	tell_json(o, mem_name(kind), &s, rc);
	return rc;
}

/* ---- All ---- */

static int list(const struct stress_opts *o)
{
	unsigned int kind, way;

	for (kind = 0; kind < MEM_KINDS; kind++) {
		for (way = 0; o->kinds & 1u << kind && way < WAYS; way++) {
			if (wanted(o, (enum way)way))
				printf("%s %s\n", mem_name((enum mem_kind)kind), ways[way].name);
		}
	}
	return EXIT_PASS;
}

int snapshot_run(const struct stress_opts *o)
{
	uint64_t share = o->duration * UINT64_C(1000000000) /
			 (uint64_t)__builtin_popcount(o->kinds);
	unsigned int kind;
	int rc = EXIT_PASS;

	if (o->list)
		return list(o);
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (o->kinds & 1u << kind)
			rc = exit_worse(rc, snapshot_kind(o, (enum mem_kind)kind,
							  share ? now_ns() + share : UINT64_MAX));
	}
	return rc;
}
