/* SPDX-License-Identifier: MIT */
/*
 * From staging to the sink, by the one thread that drives: finding zeros, merging neighbours,
 * counting what is in flight, waiting for it. No page is held in any of this, so a sink may take
 * its time.
 */
#include "snapshot_sink.h"

#include <errno.h>

#include "snapshot_save.h"
#include "sys.h"
#include "util.h"

static struct uffdwp_snapshot *snapshot_of(struct uffdwp__staging *st)
{
	return (struct uffdwp_snapshot *)((char *)st - offsetof(struct uffdwp_snapshot, staging));
}

static void sink_failed(struct uffdwp_snapshot *s, int err)
{
	uffdwp__snapshot_stop(s, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_SINK,
			      err < 0 ? err : -EINVAL, NULL, 0, 0);
}

/* ---- Writes ---- */

/* From any thread, also within write() and wait(): the driver does the rest. */
static void write_done(struct uffdwp_sink_write *w, int err)
{
	struct uffdwp__node *node = (struct uffdwp__node *)w;
	struct uffdwp__staging *st = node->st;

	node->err = err;
	uffdwp__list_push(&st->done, node);
	uffdwp__snapshot_kick(snapshot_of(st));
}

static void finished(struct uffdwp_snapshot *s, struct uffdwp__node *node, int err)
{
	s->in_flight--;
	if (unlikely(err))
		sink_failed(s, err);
	uffdwp__staging_put(&s->staging, uffdwp__node_index(node),
			    (uint32_t)(node->w.len / s->staging.unit));
}

static void write_out(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit)
{
	struct uffdwp_snapshot *s = p->s;
	struct uffdwp__node *node = &s->staging.node[unit];
	uint64_t len = uffdwp__part_bytes(p, n);
	int err;

	node->w = (struct uffdwp_sink_write){ .region = p->index,
					      .offset = uffdwp__part_bytes(p, first),
					      .len = len,
					      .data = uffdwp__staging_at(&s->staging, unit),
					      .done = write_done };
	s->in_flight++;
	err = uffdwp__snapshot_stopped(s) ? 0 : s->sink.write(s->sink.ctx, &node->w);
	uffdwp__snapshot_count(s, SNAP_SAVED, len);
	if (err != UFFDWP_SINK_LATER)
		finished(s, node, err);
}

bool uffdwp__snapshot_reap(struct uffdwp_snapshot *s)
{
	struct uffdwp__node *n = uffdwp__list_take(&s->staging.done, &s->staging), *next;
	bool any = n;

	for (; n; n = next) {
		next = uffdwp__list_next(n);
		finished(s, n, n->err);
	}
	return any;
}

void uffdwp__snapshot_wait_sink(struct uffdwp_snapshot *s, unsigned int ms)
{
	int err;

	if (!s->sink.wait) {
		uffdwp__snapshot_idle(s, ms * 1000);
	} else {
		err = s->sink.wait(s->sink.ctx, ms);
		if (unlikely(err < 0))
			sink_failed(s, err);
		/* A sink that can not wait any more is not asked without a pause. */
		if (unlikely(err < 0))
			uffdwp__snapshot_idle(s, 1000);
	}
	uffdwp__snapshot_reap(s);
}

void uffdwp__snapshot_drain(struct uffdwp_snapshot *s)
{
	uffdwp__snapshot_reap(s);
	while (s->in_flight)
		uffdwp__snapshot_wait_sink(s, 10);
}

/* ---- Zeros ---- */

void uffdwp__snapshot_flush_zeros(struct uffdwp_snapshot *s)
{
	struct uffdwp__part *p = &s->part[s->zeros.part];
	int err;

	if (!s->zeros.n)
		return;
	err = uffdwp__snapshot_stopped(s)
		      ? 0
		      : s->sink.zero(s->sink.ctx, p->index, uffdwp__part_bytes(p, s->zeros.page),
				     uffdwp__part_bytes(p, s->zeros.n));
	s->zeros.n = 0;
	if (unlikely(err))
		sink_failed(s, err);
}

/* Neighbours are told as one range. */
void uffdwp__snapshot_zero(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	struct uffdwp_snapshot *s = p->s;

	uffdwp__snapshot_count(s, SNAP_ZERO, uffdwp__part_bytes(p, n));
	if (s->zeros.n && (s->zeros.part != p->index || s->zeros.page + s->zeros.n != first))
		uffdwp__snapshot_flush_zeros(s);
	if (!s->zeros.n) {
		s->zeros.part = p->index;
		s->zeros.page = first;
	}
	s->zeros.n += n;
}

/* ---- Handing over ---- */

static bool page_is_zero(const struct uffdwp__part *p, uint32_t unit)
{
	return p->s->sink.zero &&
	       uffdwp__is_zero(uffdwp__staging_at(&p->s->staging, unit), uffdwp__part_bytes(p, 1));
}

void uffdwp__snapshot_hand(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit)
{
	uint64_t i = 0, k;

	while (i < n) {
		uint32_t u = unit + (uint32_t)i * p->page_units;
		bool zero = page_is_zero(p, u);

		for (k = 1; i + k < n && page_is_zero(p, u + (uint32_t)k * p->page_units) == zero;)
			k++;
		if (zero) {
			uffdwp__snapshot_zero(p, first + i, k);
			uffdwp__staging_put(&p->s->staging, u, (uint32_t)k * p->page_units);
		} else {
			write_out(p, first + i, k, u);
		}
		i += k;
	}
}

bool uffdwp__snapshot_hand_filled(struct uffdwp_snapshot *s, uint64_t most)
{
	struct uffdwp__staging *st = &s->staging;
	struct uffdwp__node *node = uffdwp__list_take(&st->filled, st);
	bool any = node;
	uint64_t done = 0;

	while (node && done < most) {
		struct uffdwp__part *p = &s->part[node->w.region];
		uint64_t offset = node->w.offset, len = node->w.len;
		uint32_t unit = uffdwp__node_index(node);

		/* What a sequential writer's faults saved lies in a row, here and there. */
		for (node = uffdwp__list_next(node);
		     node && node->w.region == p->index && node->w.offset == offset + len &&
		     uffdwp__node_index(node) == unit + len / st->unit &&
		     uffdwp__node_index(node) % st->per_chunk;
		     node = uffdwp__list_next(node))
			len += node->w.len;
		uffdwp__snapshot_hand(p, offset >> p->layer.r->shift, len >> p->layer.r->shift,
				      unit);
		done += len;
	}
	for (struct uffdwp__node *next; node; node = next) {
		next = uffdwp__list_next(node);
		uffdwp__list_push(&st->filled, node);
	}
	return any;
}
