/* SPDX-License-Identifier: MIT */
/*
 * Exactly once: a page is delivered once between its protection and its release, however many threads
 * write to it, and again after each new protection, also when writers never pause for it.
 */
#include "../common/live.h"

#include <stdlib.h>

#define WRITERS 3
#define EPOCHS 12
#define LIVE_EPOCHS 60
#define LIVE_PAGES 24 /* few, so that protecting and writing meet on one page all the time */

/* ---- Writers stop between the epochs: counts are exact ---- */

struct once {
	struct live *t;
	_Atomic uint32_t *calls;
	char *saved;
};

struct once_writer {
	struct once *o;
	pthread_t thread;
	uint64_t rnd;
	size_t id;
};

static int once_save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct once *o = ctx;

	for (uint64_t i = 0; i < f->len / o->t->page; i++)
		atomic_fetch_add(&o->calls[f->offset / o->t->page + i], 1);
	return uffdwp_read(r, f->addr, o->saved + f->offset, f->len, NULL);
}

/* All writers write to all pages, each to a word of its own, in an order of its own. */
static void *once_write(void *arg)
{
	struct once_writer *w = arg;
	struct live *t = w->o->t;
	size_t start = live_random(&w->rnd) % t->pages;

	for (size_t i = 0; i < t->pages; i++) {
		size_t page = w->id & 1 ? (start + i) % t->pages
					: (start + t->pages - i) % t->pages;

		live_store(t->mem.addr + page * t->page + w->id * 8, live_random(&w->rnd));
	}
	return NULL;
}

static void once_epoch(struct once *o, struct uffdwp_region *r, char *before)
{
	struct once_writer w[WRITERS];
	struct live *t = o->t;

	for (size_t i = 0; i < t->pages; i++)
		atomic_store(&o->calls[i], 0);
	live_protect(t, r);
	memcpy(before, t->mem.addr, t->mem.size);
	for (size_t i = 0; i < WRITERS; i++) {
		w[i] = (struct once_writer){ .o = o, .rnd = t->seed ^ i, .id = i };
		live_thread(&w[i].thread, once_write, &w[i]);
	}
	for (size_t i = 0; i < WRITERS; i++)
		live_join(w[i].thread);
	for (size_t i = 0; i < t->pages; i++) {
		if (atomic_load(&o->calls[i]) != 1)
			FAIL("page %zu was delivered %u times", i, atomic_load(&o->calls[i]));
	}
	CHECK_EQ(memcmp(before, o->saved, t->mem.size), 0);
}

static void once(struct live *t, uint32_t serve, uint32_t run)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = once_save };
	struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));
	struct once o = { .t = t };
	char *before = malloc(t->mem.size);
	struct uffdwp_region *r;
	unsigned int epochs = live_times(EPOCHS);
	struct uffdwp_stats st;
	struct live_server s;

	o.calls = calloc(t->pages, sizeof(*o.calls));
	o.saved = malloc(t->mem.size);
	CHECK(o.calls && o.saved && before);
	live_serve(&s, h);
	r = live_region(t, h, UFFDWP_MODE_WP, run, &ops, &o);
	for (unsigned int i = 0; i < epochs; i++) /* the first one on pages never populated */
		once_epoch(&o, r, before);
	live_stats(h, &st);
	CHECK_EQ(st.op_pages, epochs * t->pages);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
	free(o.calls);
	free(o.saved);
	free(before);
}

/* ---- Writers never stop: each page carries a sequence number ---- */

/*
 * lb[e][p] is what page p held at the latest when protect number e began. Whoever sees epoch e (published
 * after protect returned) and then writes p must have had it delivered since, so with a content of at
 * least lb[e][p]. A missing delivery leaves an older content in saved[p].
 */
struct seq {
	struct live *t;
	_Atomic uint64_t saved[LIVE_PAGES], done[LIVE_PAGES], lb[LIVE_EPOCHS + 1][LIVE_PAGES];
	_Atomic uint32_t calls[LIVE_PAGES], backwards;
	_Atomic int epoch, stop, checks[2];
};

struct seq_writer {
	struct seq *s;
	pthread_t thread;
	size_t first;
};

static int seq_save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct seq *s = ctx;

	for (uint64_t off = 0; off < f->len; off += s->t->page) {
		uint64_t p = (f->offset + off) / s->t->page, value;
		int err = uffdwp_read(r, f->addr + off, &value, sizeof(value), NULL);

		if (err)
			return err;
		if (atomic_exchange(&s->saved[p], value) > value)
			atomic_store(&s->backwards, 1);
		atomic_fetch_add(&s->calls[p], 1);
	}
	return 0;
}

static void *seq_write(void *arg)
{
	struct seq_writer *w = arg;
	struct seq *s = w->s;

	for (uint64_t v = 1; !atomic_load(&s->stop); v++) {
		for (size_t p = w->first; p < s->t->pages; p += 2) {
			int e = atomic_load(&s->epoch);

			live_store(s->t->mem.addr + p * s->t->page, v);
			atomic_store(&s->done[p], v);
			if (e && atomic_load(&s->saved[p]) < atomic_load(&s->lb[e][p]))
				FAIL("page %zu, epoch %d: the write of %llu was not delivered", p,
				     e, (unsigned long long)v);
			atomic_fetch_add(&s->checks[w->first], e > 0);
		}
	}
	return NULL;
}

/* Until both writers have written n more of their pages. */
static void seq_wait(struct seq *s, size_t n)
{
	for (int i = 0; i < 2; i++)
		live_until(&s->checks[i], atomic_load(&s->checks[i]) + (int)n);
}

static void seq_protect(struct seq *s, struct uffdwp_region *r, int e)
{
	for (size_t p = 0; p < s->t->pages; p++)
		atomic_store(&s->lb[e][p], atomic_load(&s->done[p]));
	live_protect(s->t, r);
	atomic_store(&s->epoch, e);
	/* Most epochs follow at once; with some, both writers are known to have written; in the first, all. */
	if (e == 1)
		seq_wait(s, s->t->pages / 2 + 1);
	else if (e % 4 == 0)
		seq_wait(s, 1);
}

static void seq_verify(struct seq *s)
{
	uint64_t calls = 0;

	CHECK_EQ(atomic_load(&s->backwards), 0);
	for (size_t p = 0; p < s->t->pages; p++) {
		calls += atomic_load(&s->calls[p]);
		if (atomic_load(&s->calls[p]) > LIVE_EPOCHS)
			FAIL("page %zu: delivered %u times in %d epochs", p,
			     atomic_load(&s->calls[p]), LIVE_EPOCHS);
	}
	CHECK(calls >= 2 * s->t->pages); /* in the first epoch, and in the last */
}

static void seq(struct live *t, uint32_t serve, uint32_t run)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = seq_save };
	struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));
	struct seq *s = calloc(1, sizeof(*s));
	struct seq_writer w[2];
	struct uffdwp_region *r;
	struct live_server server;
	size_t whole = t->mem.size;

	CHECK(s);
	if (t->pages > LIVE_PAGES) {
		t->pages = LIVE_PAGES;
		t->mem.size = t->pages * t->page;
	}
	s->t = t;
	r = live_region(t, h, UFFDWP_MODE_WP, run, &ops, s);
	live_serve(&server, h);
	for (size_t i = 0; i < 2; i++) {
		w[i] = (struct seq_writer){ .s = s, .first = i };
		live_thread(&w[i].thread, seq_write, &w[i]);
	}
	for (int e = 1; e <= (int)live_times(LIVE_EPOCHS); e++)
		seq_protect(s, r, e);
	seq_wait(s, t->pages / 2 + 1);
	atomic_store(&s->stop, 1);
	live_join(w[0].thread);
	live_join(w[1].thread);
	seq_verify(s);
	live_serve_stop(&server);
	CHECK_EQ(uffdwp_region_remove(r), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	t->mem.size = whole;
	free(s);
}

/* ---- Unprotect releases without a call ---- */

static void unprotect(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = once_save };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	struct once o = { .t = t };
	uint64_t addr = (uintptr_t)t->mem.addr, half = t->pages / 2 * t->page, done = 0;
	struct uffdwp_region *r;

	o.calls = calloc(t->pages, sizeof(*o.calls));
	o.saved = malloc(t->mem.size);
	CHECK(o.calls && o.saved);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &o);
	live_protect(t, r);
	CHECK_EQ(uffdwp_unprotect(r, addr, half, &done), 0);
	CHECK_EQ(done, half);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(atomic_load(&o.calls[i]), i >= t->pages / 2);
	/* A sweep has nothing left to do. */
	CHECK_EQ(uffdwp_sweep(r, addr, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(atomic_load(&o.calls[i]), i >= t->pages / 2);
	CHECK_EQ(uffdwp_close(h), 0);
	free(o.calls);
	free(o.saved);
}

#define CASE(what, serve, n)                             \
	static void what##_##serve##_##n(struct live *t) \
	{                                                \
		what(t, UFFDWP_SERVE_##serve, n);        \
	}
CASE(once, THREADS, 1)
CASE(once, THREADS, 16)
CASE(once, CALLER, 512)
CASE(once, SIGBUS, 1)
CASE(once, SIGBUS, 16)
CASE(seq, THREADS, 1)
CASE(seq, THREADS, 16)
CASE(seq, CALLER, 1)
CASE(seq, CALLER, 16)
CASE(seq, SIGBUS, 1)
CASE(seq, SIGBUS, 16)

#define ROW(what, serve, n)                                                    \
	{                                                                      \
#what "/" #serve "/" #n, what##_##serve##_##n, KINDS_ALL, 0, 0 \
	}
static const struct live_case cases[] = {
	ROW(once, THREADS, 1), ROW(once, THREADS, 16), ROW(once, CALLER, 512),
	ROW(once, SIGBUS, 1),  ROW(once, SIGBUS, 16),  ROW(seq, THREADS, 1),
	ROW(seq, THREADS, 16), ROW(seq, CALLER, 1),    ROW(seq, CALLER, 16),
	ROW(seq, SIGBUS, 1),   ROW(seq, SIGBUS, 16),   { "unprotect", unprotect, KINDS_ALL, 0, 0 },
};

LIVE_MAIN(cases)
