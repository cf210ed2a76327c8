/* SPDX-License-Identifier: MIT */
/*
 * Missing pages placed by moving them from elsewhere in the same process: the content arrives, the
 * source is a hole afterwards, and memory that can not be moved to says so.
 */
#include "../common/live.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE

struct test {
	struct live *t;
	char *src, *copy;
	_Atomic uint32_t missing;
};

static int on_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	atomic_fetch_add(&c->missing, 1);
	return uffdwp_move(r, f->addr, (uintptr_t)c->src + f->offset, f->len, NULL);
}

static void setup(struct test *c, struct live *t)
{
	memset(c, 0, sizeof(*c));
	c->t = t;
	c->copy = malloc(t->mem.size);
	c->src = mmap(NULL, t->mem.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	CHECK(c->copy && c->src != MAP_FAILED);
	madvise(c->src, t->mem.size, MADV_NOHUGEPAGE);
	live_fill(c->src, t->mem.size, t->seed);
	memcpy(c->copy, c->src, t->mem.size);
}

static void teardown(struct test *c)
{
	munmap(c->src, c->t->mem.size);
	free(c->copy);
}

static void verify(struct test *c)
{
	CHECK_EQ(memcmp(c->t->mem.addr, c->copy, c->t->mem.size), 0);
	for (size_t i = 0; i < c->t->mem.size; i += 8)
		CHECK_EQ(live_load(c->src + i), 0);
}

static void by_fault(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = on_missing };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_MOVE);
	struct test c;

	setup(&c, t);
	live_region(t, h, UFFDWP_MODE_MISSING, 1, &ops, &c);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), live_load(c.copy + i * t->page));
	CHECK_EQ(atomic_load(&c.missing), t->pages);
	CHECK_EQ(uffdwp_error(h), 0);
	verify(&c);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

static void in_bulk(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_CALLER, UFFDWP_FEATURE_MOVE);
	struct uffdwp_region *r;
	uint64_t done = 0;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, NULL, &c);
	CHECK_EQ(uffdwp_move(r, (uintptr_t)t->mem.addr, (uintptr_t)c.src, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
	verify(&c);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

/* Only private anonymous memory can be moved to; and only where the feature is. */
static void impossible(struct live *t)
{
	struct uffdwp_opts o = { .masked = t->mem.kind == MEM_ANON ? UFFDWP_FEATURE_MOVE : 0 };
	struct uffdwp *h = live_open_opts(&o);
	struct uffdwp_region *r;
	uint64_t done = 1;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_MISSING, 1, NULL, NULL);
	CHECK_EQ(uffdwp_move(r, (uintptr_t)t->mem.addr, (uintptr_t)c.src, t->page, &done),
		 -EOPNOTSUPP);
	CHECK_EQ(done, 0);
	CHECK_EQ(memcmp(c.src, c.copy, t->mem.size), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

/* From memory that is watched itself, what can not be moved would be discarded, and its event wait for who serves. */
static int on_missing_watched(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	atomic_fetch_add(&c->missing, uffdwp_move(r, f->addr, (uintptr_t)c->src + f->offset, f->len,
						  NULL) == -EDEADLK);
	return uffdwp_zeropage(r, f->addr, f->len, 0, NULL);
}

static void from_region(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = on_missing_watched };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_MOVE | REMOVE);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.len = t->mem.size,
					.mode = UFFDWP_MODE_WP };
	struct uffdwp_region *r, *from;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, &ops, &c);
	live_protect(t, r);
	o.addr = (uintptr_t)c.src;
	CHECK_EQ(uffdwp_region_add(h, &o, &from), 0);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), 0);
	CHECK_EQ(atomic_load(&c.missing), t->pages);
	CHECK_EQ(memcmp(c.src, c.copy, t->mem.size), 0);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

static const struct live_case cases[] = {
	{ "by-fault", by_fault, KINDS_ANON, UFFDWP_FEATURE_MOVE, 0 },
	{ "in-bulk", in_bulk, KINDS_ANON, UFFDWP_FEATURE_MOVE, 0 },
	{ "from-region", from_region, BIT(MEM_ANON), UFFDWP_FEATURE_MOVE | REMOVE, 0 },
	{ "impossible", impossible, BIT(MEM_ANON) | BIT(MEM_SHMEM) | KINDS_HUGETLB,
	  UFFDWP_FEATURE_MOVE, 0 },
};

LIVE_MAIN(cases)
