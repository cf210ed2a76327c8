/* SPDX-License-Identifier: MIT */
/* What a round of uffd-stress snapshot is like, drawn from its seed: see snapshot.h. */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AREA_MIN ((size_t)64 << 10)
#define HUGE_SIZE ((size_t)2 << 20)
#define BIT(n) (1u << (n))

const struct way_traits ways[WAYS] = {
	[WAY_COW_THREADS] = { "cow threads", UFFDWP_SNAPSHOT_COW, UFFDWP_SERVE_THREADS, false },
	[WAY_COW_CALLER] = { "cow caller", UFFDWP_SNAPSHOT_COW, UFFDWP_SERVE_CALLER, false },
	[WAY_COW_SIGBUS] = { "cow sigbus", UFFDWP_SNAPSHOT_COW, UFFDWP_SERVE_SIGBUS, false },
	[WAY_PRECOPY_THREADS] = { "precopy-sync threads", UFFDWP_SNAPSHOT_PRECOPY,
				  UFFDWP_SERVE_THREADS, false },
	[WAY_PRECOPY_CALLER] = { "precopy-sync caller", UFFDWP_SNAPSHOT_PRECOPY,
				 UFFDWP_SERVE_CALLER, false },
	[WAY_PRECOPY_SIGBUS] = { "precopy-sync sigbus", UFFDWP_SNAPSHOT_PRECOPY,
				 UFFDWP_SERVE_SIGBUS, false },
	[WAY_PRECOPY_ASYNC] = { "precopy-async threads", UFFDWP_SNAPSHOT_PRECOPY,
				UFFDWP_SERVE_THREADS, true },
};

static bool is_hugetlb(enum mem_kind kind)
{
	return kind == MEM_HUGETLB_SHARED || kind == MEM_HUGETLB_PRIVATE;
}

static bool one_in(struct rng *rng, unsigned int n)
{
	return rng_below(rng, n) == 0;
}

static unsigned int up_to(struct rng *rng, unsigned int n)
{
	return (unsigned int)rng_below(rng, n + 1);
}

/* ---- A round ---- */

/* As many small ones as large ones, by orders of magnitude. */
static size_t draw_size(struct rng *rng, size_t most, enum mem_kind kind)
{
	size_t size = AREA_MIN;

	while (size * 2 <= most && rng_below(rng, 5))
		size *= 2;
	size -= rng_below(rng, size / 2) / 4096 * 4096;
	if (kind == MEM_THP)
		return (size + HUGE_SIZE - 1) / HUGE_SIZE * HUGE_SIZE;
	return is_hugetlb(kind) && size < 4 * HUGE_SIZE ? 4 * HUGE_SIZE : size;
}

/* The first is of the kind that was asked for; others may be of one that needs no hugepages. */
static void draw_areas(struct plan *p, const struct stress_opts *o, struct rng *rng)
{
	static const enum mem_kind more[] = { MEM_ANON, MEM_THP, MEM_SHMEM, MEM_MEMFD_PRIVATE };
	unsigned int i;

	p->areas = 1 + up_to(rng, AREAS_MAX - 1);
	for (i = 0; i < p->areas; i++) {
		p->kinds[i] = i && one_in(rng, 3) ? more[rng_below(rng, 4)] : p->kind;
		p->sizes[i] = draw_size(rng, o->size / p->areas, p->kinds[i]);
	}
}

/* Whether every area's discards can be seen by the snapshot, and by a tracker. */
static bool sees_dontneed(const struct plan *p)
{
	bool anonymous = true;
	unsigned int i;

	for (i = 0; i < p->areas; i++)
		anonymous = anonymous && (p->kinds[i] == MEM_ANON || p->kinds[i] == MEM_THP);
	/* Else nobody can tell what of memory a discard has met, but by its event. */
	anonymous = anonymous && mem_shows_wp();
	if (p->removes)
		return true;
	return anonymous && (!p->track || ways[p->way].async);
}

/*
 * Where missing faults are caught, who saves a page that was discarded in between waits for it to
 * be placed, by who may be himself: so there nothing is discarded past the library.
 */
static unsigned int possible_causes(const struct plan *p)
{
	unsigned int acts = 0;

	if (sees_dontneed(p) && !p->missing)
		acts |= BIT(ACT_DONTNEED);
	if (p->removes && !p->missing)
		acts |= BIT(ACT_REMOVE);
	if (p->moves && !p->track)
		acts |= BIT(ACT_UNMAP) | BIT(ACT_MOVE);
	return acts;
}

static unsigned int draw_acts(const struct plan *p, struct rng *rng)
{
	unsigned int acts = 0, causes = possible_causes(p), i;

	for (i = 0; i < ACTS; i++) {
		if (BIT(i) & ACT_CAUSES ? p->hostile && one_in(rng, 2) && causes & BIT(i)
					: !one_in(rng, 3))
			acts |= BIT(i);
	}
	return acts;
}

struct plan make_plan(const struct stress_opts *o, enum mem_kind kind, enum way way, uint64_t seed)
{
	struct rng rng = rng_make(seed, kind * WAYS + way);
	bool events = ways[way].serve != UFFDWP_SERVE_SIGBUS;
	struct plan p = { .kind = kind, .way = way, .seed = seed };

	draw_areas(&p, o, &rng);
	p.laps = 1 + up_to(&rng, 2);
	p.scribes = 1 + up_to(&rng, SCRIBES_MAX - 1);
	p.hostile = rng_below(&rng, 8) < 3;
	p.huge = kind == MEM_THP && one_in(&rng, 3);
	p.missing = one_in(&rng, 4);
	p.removes = events && one_in(&rng, 3);
	p.moves = events && one_in(&rng, 3);
	p.track = one_in(&rng, 4);
	p.wild = one_in(&rng, 4);
	p.populate = up_to(&rng, 4);
	p.acts = draw_acts(&p, &rng);
	p.swap = one_in(&rng, 8);
	p.zram = one_in(&rng, 2);
	p.others = (unsigned int)rng_next(&rng) & (BIT(DISTURB_MPROTECT) | BIT(DISTURB_SPLIT) |
						   BIT(DISTURB_FORK) | BIT(DISTURB_COMPACT));
	if (p.swap)
		p.others |= BIT(DISTURB_SWAP);
	p.alone = one_in(&rng, 3);
	return p;
}

void plan_print(const struct plan *p, char *buf, size_t size)
{
	char areas[128] = "";
	unsigned int i;
	size_t n = 0;

	for (i = 0; i < p->areas; i++)
		n += (size_t)snprintf(areas + n, sizeof(areas) - n, "%s%s:%zuK", i ? "," : "",
				      mem_name(p->kinds[i]), p->sizes[i] >> 10);
	snprintf(buf, size, "areas %s, populated %u/4, %u writers, acts %#x+%#x%s%s%s%s%s%s%s%s%s",
		 areas, p->populate, p->scribes, p->acts, p->others, p->hostile ? ", hostile" : "",
		 p->huge ? ", huge" : "", p->missing ? ", missing" : "",
		 p->removes ? ", removes" : "", p->moves ? ", moves" : "",
		 p->track ? ", track" : "", p->wild ? ", wild" : "", p->swap ? ", swap" : "",
		 p->alone ? ", one serves" : "");
}

/* ---- A lap ---- */

static void draw_sink(struct sink_plan *k, const struct plan *p, struct rng *rng)
{
	static const int errors[] = { -ENOSPC, -EIO, -EDQUOT };

	k->kind = one_in(rng, 8) ? 1 + up_to(rng, SINK_KINDS - 2) : SINK_OWN;
	k->later = up_to(rng, LATER_MODES - 1);
	k->no_zero = one_in(rng, 4);
	k->has_wait = one_in(rng, 2);
	if (one_in(rng, 2))
		k->delay_us = 1 + up_to(rng, 3000);
	if (!p->hostile || k->kind != SINK_OWN || rng_below(rng, 3))
		return;
	k->fails = 1 + up_to(rng, OPS - 2);
	k->fails_after = one_in(rng, 2) ? 0 : up_to(rng, 40);
	k->error = errors[rng_below(rng, 3)];
}

static uint64_t total(const struct plan *p)
{
	uint64_t n = 0;
	unsigned int i;

	for (i = 0; i < p->areas; i++)
		n += p->sizes[i];
	return n;
}

static void draw_options(struct lap_plan *l, const struct plan *p, struct rng *rng)
{
	l->strategy = one_in(rng, 4) ? UFFDWP_SNAPSHOT_AUTO : ways[p->way].strategy;
	/* Auto takes precopy on an async handle only. */
	if (ways[p->way].strategy == UFFDWP_SNAPSHOT_PRECOPY && !ways[p->way].async)
		l->strategy = UFFDWP_SNAPSHOT_PRECOPY;
	l->by_caller = one_in(rng, 3);
	l->staging = UFFDWP_SNAPSHOT_STAGING_MIN << (one_in(rng, 2) ? 0 : up_to(rng, 5));
	if (one_in(rng, 16))
		l->staging = 0;
	if (one_in(rng, 4))
		l->rate = total(p) * (5 + up_to(rng, 95));
	l->settle = one_in(rng, 2) ? 0 : 4096 << up_to(rng, 8);
	l->passes = one_in(rng, 2) ? 0 : 1 + up_to(rng, 4);
	l->arms = one_in(rng, 4) ? up_to(rng, 3) : 1;
}

/*
 * A page that is held for want of staging, or until an event is carried out, is held until the
 * driver goes on: which must not wait for it then. So its sink writes only where neither can be.
 */
static bool may_touch(const struct lap_plan *l, const struct plan *p)
{
	uint64_t staging = l->staging ? l->staging : UFFDWP_SNAPSHOT_STAGING_MIN;

	return ways[p->way].serve != UFFDWP_SERVE_SIGBUS && !p->removes && staging / 4 > total(p);
}

struct lap_plan make_lap(const struct plan *p, struct rng *rng)
{
	struct lap_plan l = { .arms = 1 };

	draw_options(&l, p, rng);
	draw_sink(&l.sink, p, rng);
	l.sink.touches = may_touch(&l, p) && one_in(rng, 2);
	l.copy = up_to(rng, COPIES - 1);
	if (p->wild && l.copy == COPY_EXPECTED)
		l.copy = COPY_AFTER;
	l.free_early = p->hostile && one_in(rng, 8);
	l.cancel = p->hostile && one_in(rng, 4);
	l.cancel_phase = up_to(rng, PHASE_SEALED);
	l.cancel_us = one_in(rng, 2) ? up_to(rng, 300) : up_to(rng, 20000);
	return l;
}

void lap_print(const struct lap_plan *l, char *buf, size_t size)
{
	static const char *const kinds[] = { "own", "memory", "file" };
	static const char *const later[] = { "", " later", " in wait" };
	static const char *const ops[] = { "",	   "begin", "write",  "zero",
					   "wait", "done",  "sealed", "end" };
	static const char *const copies[] = { "before", "after", "expected" };
	const struct sink_plan *k = &l->sink;
	char fails[64] = "", cancel[64] = "";

	if (k->fails)
		snprintf(fails, sizeof(fails), ", %s fails with %d after %u", ops[k->fails],
			 k->error, k->fails_after);
	if (l->cancel)
		snprintf(cancel, sizeof(cancel), ", cancel %u us after phase %u", l->cancel_us,
			 l->cancel_phase);
	snprintf(buf, size,
		 "%u arms%s, staging %" PRIu64 "K, rate %" PRIu64 "K/s, settle %" PRIu64
		 "K, passes %u, copy %s, sink %s%s%s%s%s, delays %u us%s%s%s",
		 l->arms, l->by_caller ? ", by caller" : "", l->staging >> 10, l->rate >> 10,
		 l->settle >> 10, l->passes, copies[l->copy], kinds[k->kind],
		 k->kind == SINK_OWN ? later[k->later] : "", k->no_zero ? " without zero" : "",
		 k->has_wait ? " with wait" : "", k->touches ? " that writes" : "", k->delay_us,
		 fails, cancel, l->free_early ? ", freed early" : "");
}
