/* SPDX-License-Identifier: MIT */
/* Runs of neighbouring writes: each is a list of pieces, and becomes one vectored write. */
#include "gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "opts.h"

#define RUN_MAX (UINT64_C(512) << 10)	/* a longer one does not wait */
#define RUN_MEMORY (UINT64_C(64) << 10) /* the same in memory: it is in the CPU's cache still */
#define KEPT_MAX (UFFDWP__SLICES / 2)
#define BITS_MIN 6
#define BITS_MAX 16

/* A write of the snapshot's, alone or the first of a run. */
struct uffdwp__gathered {
	struct uffdwp__io io; /* first: the queue gives it back */
	struct uffdwp__edge begin, end;
	struct uffdwp__gathered *older, *newer; /* among the runs that wait */
	struct uffdwp__gathered *next, *last;	/* in the run; or among the spare */
	struct uffdwp_sink_write *w;
	struct iovec *vector; /* of a run that is written; malloc */
};

/* ---- What is where ---- */

static struct uffdwp__edge **bucket(const struct uffdwp__gather *g, uint64_t at)
{
	return &g->edges[at * UINT64_C(0x9e3779b97f4a7c15) >> (64 - g->bits)];
}

static struct uffdwp__gathered *run_at(const struct uffdwp__gather *g, uint64_t at)
{
	struct uffdwp__edge *e = *bucket(g, at);

	while (e && e->at != at)
		e = e->next;
	return e ? e->run : NULL;
}

static void put_edge(struct uffdwp__gather *g, struct uffdwp__edge *e, struct uffdwp__gathered *run,
		     uint64_t at)
{
	struct uffdwp__edge **b = bucket(g, at);

	*e = (struct uffdwp__edge){ at, run, *b };
	*b = e;
}

static void drop_edge(struct uffdwp__gather *g, const struct uffdwp__edge *e)
{
	struct uffdwp__edge **b = bucket(g, e->at);

	while (*b != e)
		b = &(*b)->next;
	*b = e->next;
}

/* As the newest: a run that grows is one that is worth waiting for. */
static void put_run(struct uffdwp__gather *g, struct uffdwp__gathered *r)
{
	r->newer = NULL;
	r->older = g->newest;
	*(r->older ? &r->older->newer : &g->oldest) = r;
	g->newest = r;
	put_edge(g, &r->begin, r, r->io.offset);
	put_edge(g, &r->end, r, r->io.offset + r->io.len);
}

static void drop_run(struct uffdwp__gather *g, struct uffdwp__gathered *r)
{
	*(r->older ? &r->older->newer : &g->oldest) = r->newer;
	*(r->newer ? &r->newer->older : &g->newest) = r->older;
	drop_edge(g, &r->begin);
	drop_edge(g, &r->end);
}

/* ---- Memory that is kept ---- */

static uint32_t *kept_in(struct uffdwp__gather *g, const struct uffdwp__gathered *p)
{
	uint64_t at = (uintptr_t)p->w->data - (uintptr_t)g->staging;

	return &g->kept[min_u64(at / g->slice_size, UFFDWP__SLICES - 1)];
}

static void keep(struct uffdwp__gather *g, const struct uffdwp__gathered *p)
{
	g->nkept += !(*kept_in(g, p))++;
}

static void keep_no_more(struct uffdwp__gather *g, const struct uffdwp__gathered *p)
{
	g->nkept -= !--*kept_in(g, p);
}

/* ---- Writing a run ---- */

/* Its buffers; those that lie in a row as one. */
static unsigned int collect(const struct uffdwp__gathered *r, struct iovec *iov)
{
	unsigned int n = 0;

	for (const struct uffdwp__gathered *p = r; p; p = p->next) {
		struct iovec *last = &iov[n - 1];

		if (n && (char *)last->iov_base + last->iov_len == p->w->data)
			last->iov_len += p->w->len;
		else
			iov[n++] = (struct iovec){ (void *)(uintptr_t)p->w->data, p->w->len };
	}
	return n;
}

/* Without memory for the vector one by one. */
static void write_pieces(struct uffdwp__gather *g, struct uffdwp__gathered *p)
{
	struct uffdwp__gathered *next;

	for (uint64_t offset = p->io.offset; p; p = next) {
		next = p->next;
		p->next = NULL;
		p->io = (struct uffdwp__io){ .buf = (void *)(uintptr_t)p->w->data,
					     .offset = offset,
					     .len = p->w->len,
					     .write = true };
		offset += p->w->len;
		g->writes++;
		uffdwp__queue_add(g->queue, &p->io);
	}
}

/* Not among those that wait. */
static void write_run(struct uffdwp__gather *g, struct uffdwp__gathered *r)
{
	unsigned int pieces = 0;

	for (struct uffdwp__gathered *p = r; p; p = p->next) {
		keep_no_more(g, p);
		pieces++;
	}
	r->vector = pieces > 1 ? malloc(pieces * sizeof(*r->vector)) : NULL;
	if (!r->vector) {
		write_pieces(g, r);
		return;
	}
	r->io.iov = r->vector;
	r->io.niov = collect(r, r->vector);
	/* A single one can be a registered one. */
	r->io.buf = r->io.niov == 1 ? r->vector->iov_base : NULL;
	g->writes++;
	uffdwp__queue_add(g->queue, &r->io);
}

static void write_oldest(struct uffdwp__gather *g)
{
	struct uffdwp__gathered *r = g->oldest;

	drop_run(g, r);
	write_run(g, r);
}

/* ---- What the sink calls ---- */

int uffdwp__gather_init(struct uffdwp__gather *g, struct uffdwp__queue *queue, void *staging,
			uint64_t staging_size)
{
	memset(g, 0, sizeof(*g));
	g->queue = queue;
	g->staging = staging;
	g->slice_size = staging_size / UFFDWP__SLICES + 1;
	g->run_size = queue->depth ? min_u64(RUN_MAX, staging_size / 16) : RUN_MEMORY;
	/* About one for each page of staging. */
	for (g->bits = BITS_MIN; g->bits < BITS_MAX && staging_size >> 12 >> g->bits; g->bits++)
		;
	g->edges = calloc((size_t)1 << g->bits, sizeof(void *));
	return g->edges ? 0 : -ENOMEM;
}

static void free_run(struct uffdwp__gathered *r)
{
	struct uffdwp__gathered *next;

	for (; r; r = next) {
		next = r->next;
		free(r);
	}
}

void uffdwp__gather_exit(struct uffdwp__gather *g)
{
	struct uffdwp__gathered *newer;

	for (struct uffdwp__gathered *r = g->oldest; r; r = newer) {
		newer = r->newer;
		free_run(r);
	}
	free_run(g->spare);
	free(g->edges);
	memset(g, 0, sizeof(*g));
}

static struct uffdwp__gathered *piece_get(struct uffdwp__gather *g)
{
	struct uffdwp__gathered *p = g->spare;

	if (!p)
		return malloc(sizeof(*p));
	g->spare = p->next;
	return p;
}

/* b goes on where a ends. */
static struct uffdwp__gathered *join(struct uffdwp__gathered *a, struct uffdwp__gathered *b)
{
	a->last->next = b;
	a->last = b->last;
	a->io.len += b->io.len;
	return a;
}

/* With what waits on both sides of it. */
static struct uffdwp__gathered *join_neighbours(struct uffdwp__gather *g,
						struct uffdwp__gathered *r)
{
	struct uffdwp__gathered *before = run_at(g, r->io.offset);
	struct uffdwp__gathered *after = run_at(g, r->io.offset + r->io.len);

	if (after) {
		drop_run(g, after);
		join(r, after);
	}
	if (!before)
		return r;
	drop_run(g, before);
	return join(before, r);
}

int uffdwp__gather_add(struct uffdwp__gather *g, struct uffdwp_sink_write *w, uint64_t offset)
{
	struct uffdwp__gathered *r = piece_get(g);

	if (!r)
		return -ENOMEM;
	*r = (struct uffdwp__gathered){ .io = { .offset = offset, .len = w->len, .write = true },
					.last = r,
					.w = w };
	keep(g, r);
	r = join_neighbours(g, r);
	if (r->io.len >= g->run_size)
		write_run(g, r);
	else
		put_run(g, r);
	while (g->nkept > KEPT_MAX)
		write_oldest(g);
	return 0;
}

/* A run was written, or could not be. */
static void finished(struct uffdwp__gather *g, struct uffdwp__gathered *p)
{
	struct uffdwp__gathered *next;
	int err = p->io.err;

	free(p->vector);
	for (; p; p = next) {
		struct uffdwp_sink_write *w = p->w;

		next = p->next;
		p->next = g->spare;
		g->spare = p;
		w->done(w, err);
	}
}

/* While it is waited for: as many as the kernel does at a time, or, where each is done at once, some. */
static bool may_write(const struct uffdwp__gather *g, uint64_t done)
{
	if (!g->queue->uring)
		return done < RUN_MAX;
	return g->queue->inflight < g->queue->depth / 2 + 1 && !g->queue->finished.head;
}

void uffdwp__gather_wait(struct uffdwp__gather *g, int ms)
{
	struct uffdwp__io *io = uffdwp__queue_take(g->queue, 0);

	if (!io && ms) {
		for (uint64_t done = 0; g->oldest && may_write(g, done);) {
			done += g->oldest->io.len;
			write_oldest(g);
		}
		io = uffdwp__queue_take(g->queue, ms);
	}
	for (; io; io = uffdwp__queue_take(g->queue, 0))
		finished(g, (struct uffdwp__gathered *)io);
}

bool uffdwp__gather_idle(const struct uffdwp__gather *g)
{
	return !g->oldest && uffdwp__queue_idle(g->queue);
}
