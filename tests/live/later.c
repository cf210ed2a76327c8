/* SPDX-License-Identifier: MIT */
/*
 * UFFDWP_LATER: an operation keeps its pages, their writers sleep until uffdwp_release(), which a
 * thread of the program calls when the page is safe; or until the region or the handle goes.
 */
#include "../common/live.h"

#include <errno.h>

struct test {
	struct live *t;
	struct uffdwp_region *r;
	_Atomic int calls, from_sweep;
	_Atomic uint64_t addr, len;
};

static _Thread_local bool sweeping;

static int keep(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	atomic_store(&c->addr, f->addr);
	atomic_store(&c->len, f->len);
	atomic_fetch_add(sweeping ? &c->from_sweep : &c->calls, 1);
	return UFFDWP_LATER;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = keep };

static void *write_third(void *arg)
{
	struct live *t = arg;

	live_store(t->mem.addr + 2 * t->page, 9);
	return NULL;
}

static void begin(struct test *c, struct live *t, uint32_t serve, struct uffdwp **h,
		  struct live_server *s)
{
	memset(c, 0, sizeof(*c));
	c->t = t;
	*h = live_open(serve, mem_wp_features(t->mem.kind));
	live_serve(s, *h);
	c->r = live_region(t, *h, UFFDWP_MODE_WP, 1, &ops, c);
	live_protect(t, c->r);
}

static void release(struct live *t, uint32_t serve)
{
	struct live_sleeper a, b;
	struct live_server s;
	struct uffdwp *h;
	struct test c;
	uint64_t done = 0, third = (uintptr_t)t->mem.addr + 2 * t->page;

	begin(&c, t, serve, &h, &s);
	live_sleeper(&a, write_third, t);
	live_sleeper(&b, write_third, t);
	live_until(&c.calls, 1);
	live_msleep(20);
	CHECK(!atomic_load(&a.done) && !atomic_load(&b.done));
	CHECK_EQ(atomic_load(&c.calls), 1); /* once, for two writers */
	CHECK_EQ(atomic_load(&c.addr), third);
	CHECK_EQ(live_load(t->mem.addr + 2 * t->page), 0);
	/* Not held: its neighbour; then nothing at all may have been released. */
	CHECK_EQ(uffdwp_release(c.r, third + t->page, t->page, &done), -EINVAL);
	CHECK_EQ(done, 0);
	/* Others are held up by it, and told after a second. */
	CHECK_EQ(uffdwp_protect(c.r, third, t->page, &done), -EBUSY);
	CHECK_EQ(done, 0);
	CHECK(!atomic_load(&a.done));
	CHECK_EQ(uffdwp_release(c.r, third, t->page, &done), 0);
	CHECK_EQ(done, t->page);
	live_join(a.thread);
	live_join(b.thread);
	CHECK_EQ(live_load(t->mem.addr + 2 * t->page), 9);
	CHECK_EQ(uffdwp_release(c.r, third, t->page, NULL), -EINVAL);
	CHECK_EQ(atomic_load(&c.calls), 1);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void release_threads(struct live *t)
{
	release(t, UFFDWP_SERVE_THREADS);
}

static void release_caller(struct live *t)
{
	release(t, UFFDWP_SERVE_CALLER);
}

/* Held pages do not keep a region from being removed, or a handle from being closed. */
static void gone(struct live *t, bool only_region)
{
	struct live_sleeper a;
	struct live_server s;
	struct uffdwp *h;
	struct test c;

	begin(&c, t, UFFDWP_SERVE_THREADS, &h, &s);
	live_sleeper(&a, write_third, t);
	live_until(&c.calls, 1);
	if (only_region) {
		CHECK_EQ(uffdwp_region_remove(c.r), 0);
		live_join(a.thread);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	if (!only_region)
		live_join(a.thread);
	CHECK_EQ(live_load(t->mem.addr + 2 * t->page), 9);
}

static void removed(struct live *t)
{
	gone(t, true);
}

static void closed(struct live *t)
{
	gone(t, false);
}

/* A second is waited for pages that are held, not one for each region. */
static void closed_many(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .len = t->page, .mode = UFFDWP_MODE_WP, .ops = &ops
	};
	struct test c = { .t = t };
	struct uffdwp_region *r;

	o.ctx = &c;
	for (size_t i = 0; i < 16; i++) {
		o.addr = (uintptr_t)t->mem.addr + i * t->page;
		CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
		CHECK_EQ(uffdwp_protect(r, o.addr, t->page, NULL), 0);
		CHECK_EQ(uffdwp_sweep(r, o.addr, t->page, NULL), 0);
	}
	CHECK_EQ(atomic_load(&c.calls), 16);
	CHECK_EQ(uffdwp_close(h), 0);
	live_store(t->mem.addr, 1);
}

/* A sweep goes past pages that its operation keeps, and they stay protected until released. */
static void from_sweep(struct live *t)
{
	struct live_sleeper a;
	struct live_server s;
	struct uffdwp *h;
	struct test c;
	uint64_t done = 0;

	begin(&c, t, UFFDWP_SERVE_THREADS, &h, &s);
	sweeping = true;
	CHECK_EQ(uffdwp_sweep(c.r, (uintptr_t)t->mem.addr, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
	CHECK_EQ(atomic_load(&c.from_sweep), t->pages);
	live_sleeper(&a, write_third, t);
	live_msleep(20);
	CHECK(!atomic_load(&a.done));
	CHECK_EQ(uffdwp_release(c.r, (uintptr_t)t->mem.addr, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
	live_join(a.thread);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 3);
	CHECK_EQ(atomic_load(&c.calls), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "release/threads", release_threads, KINDS_ALL, 0, 5 },
	{ "release/caller", release_caller, KINDS_ALL, 0, 5 },
	{ "removed", removed, KINDS_ALL, 0, 5 },
	{ "closed", closed, KINDS_ALL, 0, 5 },
	{ "closed/many", closed_many, BIT(MEM_ANON), 0, 5 },
	{ "sweep", from_sweep, KINDS_ALL, 0, 5 },
};

LIVE_MAIN(cases)
