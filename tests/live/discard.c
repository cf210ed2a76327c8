/* SPDX-License-Identifier: MIT */
/*
 * Discards go through the library and save first: a protected page's content reaches the write
 * operation before it is gone, by either way of discarding, also while threads write or pages are placed.
 */
#include "../common/live.h"

#include <errno.h>
#include <stdlib.h>

struct test {
	struct live *t;
	char *before, *saved;
	_Atomic uint32_t *calls;
	_Atomic int removes, stop;
};

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	for (uint64_t i = 0; i < f->len / c->t->page; i++)
		atomic_fetch_add(&c->calls[f->offset / c->t->page + i], 1);
	return uffdwp_read(r, f->addr, c->saved + f->offset, f->len, NULL);
}

static int on_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	if (e->kind == UFFDWP_EVENT_REMOVE)
		atomic_fetch_add(&c->removes, 1);
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save, .event = on_event };

static void setup(struct test *c, struct live *t)
{
	memset(c, 0, sizeof(*c));
	c->t = t;
	c->before = malloc(t->mem.size);
	c->saved = calloc(1, t->mem.size);
	c->calls = calloc(t->pages, sizeof(*c->calls));
	CHECK(c->before && c->saved && c->calls);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	memcpy(c->before, t->mem.addr, t->mem.size);
}

static void teardown(struct test *c)
{
	free(c->before);
	free(c->saved);
	free(c->calls);
}

/* The first half is unprotected, so only the second is to be saved. What is left reads as left. */
static void discard(struct live *t, uint32_t how, bool keeps, uint64_t required)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, required | mem_wp_features(t->mem.kind));
	uint64_t addr = (uintptr_t)t->mem.addr, half = t->pages / 2 * t->page, done = 0;
	struct uffdwp_region *r;
	struct uffdwp_stats st;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &c);
	CHECK_EQ(uffdwp_protect(r, addr + half, t->mem.size - half, NULL), 0);
	CHECK_EQ(uffdwp_discard(r, addr, t->mem.size, how, &done), 0);
	CHECK_EQ(done, t->mem.size);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(atomic_load(&c.calls[i]), i >= t->pages / 2);
	CHECK_EQ(memcmp(c.saved + half, c.before + half, t->mem.size - half), 0);
	for (size_t i = 0; i < t->mem.size; i += 8)
		CHECK_EQ(live_load(t->mem.addr + i), keeps ? live_load(c.before + i) : 0);
	/* Released: no call for what is written now; and protected again, it is watched again. */
	live_store(t->mem.addr + half, 1);
	CHECK_EQ(atomic_load(&c.calls[t->pages / 2]), 1);
	live_protect(t, r);
	live_store(t->mem.addr + half, 2);
	CHECK_EQ(atomic_load(&c.calls[t->pages / 2]), 2);
	live_stats(h, &st);
	CHECK_EQ(st.remove > 0, required != 0);
	CHECK_EQ(atomic_load(&c.removes) > 0, required != 0);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

static void dontneed(struct live *t)
{
	bool keeps = t->mem.kind == MEM_SHMEM || t->mem.kind == MEM_HUGETLB_SHARED;

	discard(t, UFFDWP_DISCARD_DONTNEED, keeps, 0);
}

static void dontneed_event(struct live *t)
{
	bool keeps = t->mem.kind == MEM_SHMEM || t->mem.kind == MEM_HUGETLB_SHARED;

	discard(t, UFFDWP_DISCARD_DONTNEED, keeps, UFFDWP_FEATURE_EVENT_REMOVE);
}

static void removed(struct live *t)
{
	discard(t, UFFDWP_DISCARD_REMOVE, false, 0);
}

static void removed_event(struct live *t)
{
	discard(t, UFFDWP_DISCARD_REMOVE, false, UFFDWP_FEATURE_EVENT_REMOVE);
}

/* Private memory has no content elsewhere to remove. Nothing may have been saved or lost. */
static void impossible(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	struct uffdwp_region *r;
	uint64_t done = 1;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &c);
	live_protect(t, r);
	CHECK_EQ(uffdwp_discard(r, (uintptr_t)t->mem.addr, t->mem.size, UFFDWP_DISCARD_REMOVE,
				&done),
		 -EINVAL);
	CHECK_EQ(done, 0);
	CHECK_EQ(memcmp(t->mem.addr, c.before, t->mem.size), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

static void *write_on(void *arg)
{
	struct test *c = arg;
	uint64_t rnd = 1;

	while (!atomic_load(&c->stop))
		live_store(c->t->mem.addr + live_random(&rnd) % c->t->pages * c->t->page, rnd);
	return NULL;
}

/* Each protected page is saved once, whoever comes first, and what is saved is what was protected. */
static void with_writers(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	struct uffdwp_region *r;
	pthread_t writer;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_WP, 16, &ops, &c);
	live_protect(t, r);
	live_thread(&writer, write_on, &c);
	for (size_t i = 0; i < t->pages; i += 2)
		CHECK_EQ(uffdwp_discard(r, (uintptr_t)t->mem.addr + i * t->page, 2 * t->page,
					UFFDWP_DISCARD_DONTNEED, NULL),
			 0);
	atomic_store(&c.stop, 1);
	live_join(writer);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(atomic_load(&c.calls[i]), 1);
	CHECK_EQ(memcmp(c.saved, c.before, t->mem.size), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE
#define READERS 2
#define ROUNDS 100

static void *read_on(void *arg)
{
	struct test *c = arg;
	uint64_t rnd = (uintptr_t)&rnd;

	while (!atomic_load(&c->stop))
		(void)live_load(c->t->mem.addr + live_random(&rnd) % c->t->pages * c->t->page);
	return NULL;
}

/*
 * The discard has the pages, and goes on when its event is read: by the one thread that serves, which is asked to place
 * one of them.
 */
static void while_missing(struct live *t)
{
	bool shared = t->mem.kind == MEM_SHMEM || t->mem.kind == MEM_HUGETLB_SHARED;
	struct uffdwp_opts o = { .sz = sizeof(o), .serve = UFFDWP_SERVE_THREADS, .threads = 1 };
	uint64_t addr = (uintptr_t)t->mem.addr;
	struct test c = { .t = t };
	struct uffdwp_region *r;
	pthread_t reader[READERS];
	struct uffdwp *h;

	o.required = REMOVE | mem_wp_features(t->mem.kind) | mem_missing_features(t->mem.kind);
	h = live_open_opts(&o);
	r = live_region(t, h, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, 1, NULL, NULL);
	for (int i = 0; i < READERS; i++)
		live_thread(&reader[i], read_on, &c);
	for (int i = 0; i < ROUNDS; i++) {
		int err = uffdwp_discard(r, addr, t->mem.size,
					 shared ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED,
					 NULL);

		/* Busy: who places a page got no CPU for a second. If it hangs, the handle fails. */
		if (err != -EBUSY)
			CHECK_EQ(err, 0);
	}
	atomic_store(&c.stop, 1);
	for (int i = 0; i < READERS; i++)
		live_join(reader[i]);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "dontneed", dontneed, KINDS_ALL, 0, 0 },
	{ "dontneed/event", dontneed_event, KINDS_ALL, REMOVE, 0 },
	{ "remove", removed, KINDS_SHARED, 0, 0 },
	{ "remove/event", removed_event, KINDS_SHARED, REMOVE, 0 },
	{ "impossible", impossible, KINDS_ANON, 0, 0 },
	{ "with-writers", with_writers, KINDS_ALL, 0, 0 },
	{ "while-missing", while_missing, KINDS_ALL, REMOVE, 0 },
};

LIVE_MAIN(cases)
