/* SPDX-License-Identifier: MIT */
/*
 * Copy before write against a shadow: threads write random words, every page is saved before its
 * first write, and the saved image must be the memory at the instant of protection; for every way of
 * serving, with and without runs of pages, with and without a sweep alongside.
 */
#include "../common/live.h"

#include <stdlib.h>

#define WRITERS 3
#define MEMORY_WORD(t, i) ((uint64_t *)(t)->mem.addr + (i))

struct cbw {
	struct live *t;
	struct uffdwp_region *r;
	char *before, *saved;
	uint64_t *shadow;
	_Atomic uint32_t *calls; /* a page */
	_Atomic uint32_t swept, bad;
	unsigned int writes;
	size_t words;
};

struct writer {
	struct cbw *c;
	pthread_t thread;
	uint64_t rnd;
	size_t id;
};

static _Thread_local bool sweeping;

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct cbw *c = ctx;
	uint64_t first = f->offset / c->t->page, n = f->len / c->t->page;

	if (f->kind != UFFDWP_FAULT_WRITE || r != c->r || (uintptr_t)f->mem != f->addr ||
	    f->addr != (uintptr_t)c->t->mem.addr + f->offset || !n || f->len % c->t->page ||
	    first + n > c->t->pages || (sweeping && f->tid))
		atomic_store(&c->bad, 1);
	for (uint64_t i = first; i < first + n; i++)
		atomic_fetch_add(&c->calls[i], 1);
	if (sweeping)
		atomic_fetch_add(&c->swept, (uint32_t)n);
	return uffdwp_read(r, f->addr, c->saved + f->offset, f->len, NULL);
}

/* Each writer has words of its own, so the shadow needs no lock. */
static void *write_random(void *arg)
{
	struct writer *w = arg;
	struct cbw *c = w->c;

	for (unsigned int i = 0; i < c->writes; i++) {
		size_t at = live_random(&w->rnd) % (c->words / WRITERS) * WRITERS + w->id;
		uint64_t value = live_random(&w->rnd);

		live_store(MEMORY_WORD(c->t, at), value);
		c->shadow[at] = value;
	}
	return NULL;
}

static void setup(struct cbw *c, struct live *t)
{
	memset(c, 0, sizeof(*c));
	c->t = t;
	c->words = t->mem.size / 8;
	c->writes = live_times(20000);
	c->before = malloc(t->mem.size);
	c->saved = calloc(1, t->mem.size);
	c->shadow = malloc(t->mem.size);
	c->calls = calloc(t->pages, sizeof(*c->calls));
	CHECK(c->before && c->saved && c->shadow && c->calls);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	memcpy(c->before, t->mem.addr, t->mem.size);
	memcpy(c->shadow, t->mem.addr, t->mem.size);
}

static void teardown(struct cbw *c)
{
	free(c->before);
	free(c->saved);
	free(c->shadow);
	free(c->calls);
}

/* What was written is there; what was saved is what was before; each page once or not at all. */
static void verify(struct cbw *c, bool all)
{
	size_t page = c->t->page;

	CHECK_EQ(memcmp(c->t->mem.addr, c->shadow, c->t->mem.size), 0);
	for (size_t i = 0; i < c->t->pages; i++) {
		bool changed = memcmp(c->shadow + i * page / 8, c->before + i * page, page);
		uint32_t calls = atomic_load(&c->calls[i]);

		if (calls != (changed || all) && !(calls == 1 && !changed))
			FAIL("page %zu: saved %u times, changed %d", i, calls, changed);
		if (calls && memcmp(c->saved + i * page, c->before + i * page, page))
			FAIL("page %zu: what was saved is not what was there", i);
	}
}

static void verify_stats(struct cbw *c, struct uffdwp *h, uint32_t serve)
{
	struct uffdwp_stats st;
	uint64_t pages = 0;

	for (size_t i = 0; i < c->t->pages; i++)
		pages += atomic_load(&c->calls[i]);
	live_stats(h, &st);
	CHECK_EQ(st.op_pages, pages);
	CHECK(st.op_calls > 0 && st.op_calls <= pages);
	CHECK(pages == atomic_load(&c->swept) || st.write > 0);
	CHECK_EQ(st.missing, 0);
	CHECK_EQ(st.strays, 0);
	if (serve == UFFDWP_SERVE_SIGBUS)
		CHECK_EQ(st.reads, 0);
	else
		CHECK(!st.write == !st.reads);
}

static void run(struct live *t, uint32_t serve, uint32_t run_pages, bool sweep)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));
	uint64_t addr = (uintptr_t)t->mem.addr, done = 0;
	struct writer w[WRITERS];
	struct live_server s;
	struct cbw c;

	setup(&c, t);
	c.r = live_region(t, h, UFFDWP_MODE_WP, run_pages, &ops, &c);
	live_protect(t, c.r);
	live_serve(&s, h);
	for (size_t i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .c = &c, .rnd = t->seed + i, .id = i };
		live_thread(&w[i].thread, write_random, &w[i]);
	}
	if (sweep) {
		sweeping = true;
		CHECK_EQ(uffdwp_sweep(c.r, addr, t->mem.size, &done), 0);
		CHECK_EQ(done, t->mem.size);
	}
	for (size_t i = 0; i < WRITERS; i++)
		live_join(w[i].thread);
	CHECK_EQ(atomic_load(&c.bad), 0);
	CHECK_EQ(uffdwp_error(h), 0);
	verify(&c, sweep);
	verify_stats(&c, h, serve);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_region_remove(c.r), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

#define CASE(serve, n, sweep)                                \
	static void serve##_run##n##_##sweep(struct live *t) \
	{                                                    \
		enum { THREADS, CALLER, SIGBUS };            \
		run(t, serve, n, !strcmp(#sweep, "sweep"));  \
	}
#define CASES(serve)          \
	CASE(serve, 1, only)  \
	CASE(serve, 1, sweep) \
	CASE(serve, 16, only) CASE(serve, 16, sweep) CASE(serve, 512, only) CASE(serve, 512, sweep)
CASES(THREADS)
CASES(CALLER)
CASES(SIGBUS)

/* A thread of the test, THP: the mode must really be the one that the name says. */
static void thp_is_huge(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)t->mem.addr,
					.len = t->mem.size,
					.page_size = 2u << 20,
					.mode = UFFDWP_MODE_WP,
					.ops = &ops };
	struct cbw c;

	t->page = 2u << 20;
	t->pages = t->mem.size / t->page;
	setup(&c, t);
	o.ctx = &c;
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	CHECK_EQ(uffdwp_region_add(h, &o, &c.r), 0);
	CHECK_EQ(uffdwp_region_page_size(c.r), t->page);
	live_protect(t, c.r);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size); /* kept whole by protecting */
	live_store(t->mem.addr + 12345 * 8, 1);
	c.shadow[12345] = 1;
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size); /* and by its release */
	verify(&c, false);
	CHECK_EQ(atomic_load(&c.calls[0]), 1);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

#define ROW(serve, n, sweep)                                                            \
	{                                                                               \
#serve "/run=" #n "/" #sweep, serve##_run##n##_##sweep, KINDS_ALL, 0, 0 \
	}
#define ROWS(serve)                                                                             \
	ROW(serve, 1, only), ROW(serve, 1, sweep), ROW(serve, 16, only), ROW(serve, 16, sweep), \
		ROW(serve, 512, only), ROW(serve, 512, sweep)

static const struct live_case cases[] = {
	ROWS(THREADS),
	ROWS(CALLER),
	ROWS(SIGBUS),
	{ "thp-is-huge", thp_is_huge, BIT(MEM_THP), 0, 0 },
};

LIVE_MAIN(cases)
