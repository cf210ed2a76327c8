/* SPDX-License-Identifier: MIT */
/* Whether a verdict is true: the oracle of snapshot.h. */
#include "snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const verdicts[] = { "running", "complete", "cancelled", "failed" };
static const char *const whys[] = { "none", "caller", "discarded", "unmapped", "moved",
				    "sink", "handle", "process",   "system" };

static void is_false(struct round *r, const char *why_not)
{
	const struct uffdwp_snapshot_result *res = &r->now.res;

	verdict_fail(&r->v,
		     "lap %u: %s (%s, error %" PRId32 ", range %#" PRIx64 "+%#" PRIx64 "): %s",
		     r->now.nr, verdicts[res->verdict & 3], whys[res->why % 9], res->error,
		     res->addr, res->len, why_not);
}

/* ---- Complete ---- */

static size_t difference(const struct area *a, size_t page)
{
	const char *image = a->sink.image + page * a->page, *copy = a->copy + page * a->page;
	size_t i;

	for (i = 0; i < a->page && image[i] == copy[i]; i++)
		;
	return i;
}

static void compare(struct round *r, struct area *a)
{
	uint64_t is, was;
	size_t page, at;
	char text[160];

	for (page = 0; page < a->pages; page++) {
		if (!memcmp(a->sink.image + page * a->page, a->copy + page * a->page, a->page))
			continue;
		at = difference(a, page) / 8 * 8;
		memcpy(&is, a->sink.image + page * a->page + at, 8);
		memcpy(&was, a->copy + page * a->page + at, 8);
		snprintf(text, sizeof(text),
			 "the image of area %u page %zu holds %#" PRIx64
			 " at byte %zu, not %#" PRIx64 " (given %u times)",
			 a->index, page, is, at, was, atomic_load(&a->sink.times[page]));
		is_false(r, text);
	}
}

static void check_sink(struct round *r)
{
	const struct sink_state *k = r->now.sink;
	unsigned int i;
	size_t page;

	if (k->plan.kind != SINK_OWN)
		return;
	if (r->now.res.saved != k->wrote || r->now.res.zero != k->zeroed)
		is_false(r, "its counts are not those of the sink");
	if (!atomic_load(&k->sealed))
		is_false(r, "the sink was not told of the seal");
	for (i = 0; i < r->plan.areas; i++) {
		for (page = 0; page < r->area[i].pages; page++) {
			if (!atomic_load(&r->area[i].sink.times[page]))
				is_false(r, "a page was never given to the sink");
		}
	}
}

static void check_complete(struct round *r)
{
	const struct uffdwp_snapshot_result *res = &r->now.res;
	unsigned int i;

	if (res->why || res->error || res->addr || res->len)
		is_false(r, "with a reason");
	if (!r->now.sealed_try || r->now.seal_rc || r->now.arm_rc)
		is_false(r, "without a seal");
	/* Of one freed early the verdict is what end() was told, before it failed. */
	if (atomic_load(&r->now.sink->failed) &&
	    !(r->now.freed_early && r->now.sink->plan.fails == OP_END))
		is_false(r, "though the sink failed");
	if (atomic_load(&r->now.cancelled_before_seal))
		is_false(r, "though it was cancelled before the seal");
	check_sink(r);
	for (i = 0; i < r->plan.areas; i++)
		compare(r, &r->area[i]);
}

/* ---- Not complete ---- */

/* Whether something of the acts was done in this lap to what the range is about. */
static bool caused(struct round *r, unsigned int acts)
{
	uint64_t addr = r->now.res.addr, len = r->now.res.len;
	unsigned int i;

	for (i = 0; i < r->plan.areas; i++) {
		const struct area *a = &r->area[i];

		if (len && addr >= a->was_at && addr + len <= a->was_at + a->mem.size)
			return cause_of(r, acts, i, (addr - a->was_at) / a->page,
					(addr + len - a->was_at + a->page - 1) / a->page);
	}
	return false;
}

static bool any_cause(struct round *r)
{
	unsigned int i;

	for (i = 0; i < r->plan.areas; i++) {
		if (cause_of(r, ACT_CAUSES, i, 0, r->area[i].pages))
			return true;
	}
	return r->now.freed_early || atomic_load(&r->now.cancels) ||
	       atomic_load(&r->now.sink->failed);
}

static void check_cancelled(struct round *r)
{
	const struct uffdwp_snapshot_result *res = &r->now.res;
	bool is_true = false;

	if (res->why == UFFDWP_SNAPSHOT_WHY_CALLER)
		is_true = (atomic_load(&r->now.cancels) || r->now.freed_early) && !res->len;
	else if (res->why == UFFDWP_SNAPSHOT_WHY_DISCARDED)
		is_true = caused(r, 1u << ACT_DONTNEED | 1u << ACT_REMOVE);
	else if (res->why == UFFDWP_SNAPSHOT_WHY_MOVED)
		is_true = caused(r, 1u << ACT_MOVE);
	/* What is moved is not there any more, before the event says why. */
	else if (res->why == UFFDWP_SNAPSHOT_WHY_UNMAPPED)
		is_true = caused(r, 1u << ACT_UNMAP | 1u << ACT_MOVE);
	if (!is_true)
		is_false(r, "nothing of that kind was done there");
	if (res->error)
		is_false(r, "with an error");
}

static void check_failed(struct round *r)
{
	const struct uffdwp_snapshot_result *res = &r->now.res;

	if (res->why != UFFDWP_SNAPSHOT_WHY_SINK)
		is_false(r, "only the sink could make it fail");
	else if (!res->error || res->error != atomic_load(&r->now.sink->failed))
		is_false(r, "the sink's error was another one");
}

/* ---- All ---- */

static uint64_t total(const struct round *r)
{
	uint64_t n = 0;
	unsigned int i;

	for (i = 0; i < r->plan.areas; i++)
		n += r->area[i].mem.size;
	return n;
}

/* What the sink was told is the result, unless it could not publish it then. */
static void check_told(struct round *r)
{
	const struct sink_state *k = r->now.sink;
	bool unpublished = k->plan.fails == OP_END && atomic_load(&k->failed);

	if (k->plan.kind != SINK_OWN)
		return;
	if (atomic_load(&k->begun) != 1 || atomic_load(&k->ended) != 1 ||
	    atomic_load(&k->freed) != 1)
		is_false(r, "the sink was not begun, ended and freed once each");
	if (r->now.freed_early)
		r->now.res = k->end;
	if (k->end.verdict != r->now.res.verdict &&
	    !(unpublished && k->end.verdict == UFFDWP_SNAPSHOT_COMPLETE))
		is_false(r, "the sink was told another verdict");
}

static void check_result(struct round *r)
{
	const struct uffdwp_snapshot_result *res = &r->now.res;
	bool sealed = r->now.sealed_try && !r->now.seal_rc;

	if (res->size != total(r) || res->strategy != ways[r->plan.way].strategy)
		is_false(r, "its size or strategy is not that of the snapshot");
	if (!!res->sealed_ns != sealed)
		is_false(r,
			 sealed ? "sealed, and it has no instant" : "not sealed, and it has one");
	if (res->staging_peak > res->memory)
		is_false(r, "more staging than memory");
}

static void count(struct round *r)
{
	const struct uffdwp_snapshot_result *res = &r->now.res;

	r->verdicts[res->verdict & 3]++;
	r->by_why[res->why % 16]++;
	r->held += res->held;
	r->by_fault += res->by_fault;
}

void lap_judge(struct round *r)
{
	struct uffdwp_snapshot_result *res = &r->now.res;

	watchdog_step("judges", r->now.nr);
	check_told(r);
	/* The library's own sinks do not say what became of it. */
	if (r->now.freed_early && r->now.plan.sink.kind != SINK_OWN)
		return;
	count(r);
	check_result(r);
	if (!any_cause(r))
		r->quiet++;
	if (!any_cause(r) && res->verdict != UFFDWP_SNAPSHOT_COMPLETE)
		is_false(r, "nothing was done that may end it");
	else if (res->verdict == UFFDWP_SNAPSHOT_COMPLETE)
		check_complete(r);
	else if (res->verdict == UFFDWP_SNAPSHOT_CANCELLED)
		check_cancelled(r);
	else if (res->verdict == UFFDWP_SNAPSHOT_FAILED)
		check_failed(r);
	else
		is_false(r, "it has ended");
}
