/* SPDX-License-Identifier: MIT */
/*
 * What a tracker forbids while it is there, what it refuses, and what becomes of it when the
 * handle fails or the address space changes.
 */
#include "../common/track.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	(void)ctx;
	return 0;
}

/* ---- Who may be where ---- */

static void refused(struct tracked *k, const struct uffdwp_track_opts *opts, int want)
{
	struct uffdwp_track_opts o = { .sz = sizeof(o) };
	struct uffdwp_track *track = (void *)&o;
	char reason[256] = "";

	if (opts)
		o = *opts;
	o.sz = sizeof(o);
	o.reason = reason;
	o.reason_size = sizeof(reason);
	CHECK_EQ(uffdwp_track_start(&track, &k->r, 1, &o), want);
	CHECK(!track);
	CHECK(reason[0]);
}

static void busy(struct live *t, enum track_way way)
{
	uint64_t addr = (uintptr_t)t->mem.addr, done = 77;
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct tracked k;

	tracked_begin(&k, t, way, 0);
	tracked_write(&k, 1);
	refused(&k, NULL, -EBUSY);
	CHECK_EQ(uffdwp_protect(k.r, addr, t->page, &done), -EBUSY);
	CHECK_EQ(done, 0);
	CHECK_EQ(uffdwp_unprotect(k.r, addr, t->page, NULL), -EBUSY);
	if (way != WAY_ASYNC) { /* it has neither */
		CHECK_EQ(uffdwp_sweep(k.r, addr, t->page, NULL), -EBUSY);
		CHECK_EQ(uffdwp_release(k.r, addr, t->page, NULL), -EBUSY);
	}
	CHECK_EQ(uffdwp_region_set_ops(k.r, &ops, NULL), -EBUSY);
	CHECK_EQ(uffdwp_region_remove(k.r), -EBUSY);
	CHECK_EQ(uffdwp_close(k.h), -EBUSY);
	/* Nothing of it has changed anything. */
	tracked_write(&k, 2);
	tracked_expect(&k, 1, 3);
	tracked_stop(&k);
	CHECK_EQ(uffdwp_protect(k.r, addr, t->page, NULL), 0);
	CHECK_EQ(uffdwp_unprotect(k.r, addr, t->page, NULL), 0);
	CHECK_EQ(uffdwp_region_remove(k.r), 0);
	tracked_close(&k);
}

static void busy_async(struct live *t)
{
	busy(t, WAY_ASYNC);
}

static void busy_sync(struct live *t)
{
	busy(t, WAY_SYNC);
}

static void busy_sigbus(struct live *t)
{
	busy(t, WAY_SIGBUS);
}

/*
 * A region with a write operation of the program's own has no room for a tracker, until it is
 * taken away.
 */
static void own_operation(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct tracked k;

	tracked_open(&k, t, WAY_SYNC, 0);
	CHECK_EQ(uffdwp_region_set_ops(k.r, &ops, NULL), 0);
	refused(&k, NULL, -EBUSY);
	CHECK_EQ(uffdwp_region_set_ops(k.r, NULL, NULL), 0);
	tracked_start(&k, 0);
	tracked_write(&k, 0);
	tracked_expect(&k, 0, 1);
	tracked_close(&k);
}

/* ---- What the handle can not ---- */

static void mechanisms(struct live *t, enum track_way way)
{
	static const uint32_t of[WAYS] = { UFFDWP_TRACK_ASYNC, UFFDWP_TRACK_SYNC, UFFDWP_TRACK_SYNC,
					   UFFDWP_TRACK_SIGBUS };
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	struct uffdwp_track_opts o = { .require = 0 };
	struct tracked k;

	tracked_open(&k, t, way, 0);
	for (uint32_t m = UFFDWP_TRACK_ASYNC; m <= UFFDWP_TRACK_SIGBUS; m++) {
		o.mechanism = m;
		if (m != of[way])
			refused(&k, &o, -EOPNOTSUPP);
	}
	o.mechanism = UFFDWP_TRACK_AUTO;
	o.require = UFFDWP_TRACK_REMOVES;
	refused(&k, &o, -EOPNOTSUPP);
	o.require = UFFDWP_TRACK_DISCARDS;
	if (way != WAY_ASYNC)
		refused(&k, &o, -EOPNOTSUPP);
	o.require = UFFDWP_TRACK_KERNEL_WRITES;
	if (way == WAY_SIGBUS)
		refused(&k, &o, -EOPNOTSUPP);
	tracked_start(&k, 0);
	CHECK_EQ(uffdwp_track_info(k.track, &info), 0);
	CHECK_EQ(info.sees, (way == WAY_ASYNC ? UFFDWP_TRACK_DISCARDS : 0) |
				    (way == WAY_SIGBUS ? 0 : UFFDWP_TRACK_KERNEL_WRITES));
	tracked_close(&k);
}

static void mechanisms_async(struct live *t)
{
	mechanisms(t, WAY_ASYNC);
}

static void mechanisms_sync(struct live *t)
{
	mechanisms(t, WAY_SYNC);
}

static void mechanisms_caller(struct live *t)
{
	mechanisms(t, WAY_CALLER);
}

static void mechanisms_sigbus(struct live *t)
{
	mechanisms(t, WAY_SIGBUS);
}

/* With what is required, the start succeeds. */
static void required(struct live *t)
{
	struct uffdwp_track_opts o = { .sz = sizeof(o),
				       .require = UFFDWP_TRACK_KERNEL_WRITES |
						  UFFDWP_TRACK_DISCARDS | UFFDWP_TRACK_REMOVES };
	struct tracked k;

	tracked_open(&k, t, WAY_SYNC, UFFDWP_FEATURE_EVENT_REMOVE);
	CHECK_EQ(uffdwp_track_start(&k.track, &k.r, 1, &o), 0);
	tracked_close(&k);
}

/* ---- A failed handle ---- */

static int fail_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	(void)ctx;
	return -EIO;
}

static void *touch(void *arg)
{
	(void)live_load(arg);
	return NULL;
}

/* Memory beside the tracked one, whose operation fails the handle: a collect says so. */
static void failed(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = fail_missing };
	struct uffdwp_opts uo = { .sz = sizeof(uo),
				  .required = mem_wp_features(t->mem.kind),
				  .masked = UFFDWP_FEATURE_POISON };
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	char *beside = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)beside,
					.len = 4096,
					.mode = UFFDWP_MODE_MISSING,
					.ops = &ops };
	struct uffdwp_region *r, *other;
	struct uffdwp_track *track;
	struct uffdwp *h;
	pthread_t thread;

	CHECK(beside != MAP_FAILED);
	CHECK_EQ(uffdwp_open(&h, &uo), 0);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);
	CHECK_EQ(uffdwp_region_add(h, &o, &other), 0);
	CHECK_EQ(uffdwp_track_start(&track, &r, 1, NULL), 0);
	live_store(t->mem.addr, 1);
	CHECK_EQ(uffdwp_track_collect(track, &q), 0);
	CHECK_EQ(q.bytes, t->page);
	live_thread(&thread, touch, beside);
	live_join(thread);
	CHECK_EQ(uffdwp_error(h), -EIO);
	/* Nobody sleeps, and nobody is told that all is clean. */
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	CHECK_EQ(uffdwp_track_collect(track, &q), -EIO);
	CHECK_EQ(uffdwp_track_peek(track, &q), -EIO);
	CHECK_EQ(uffdwp_track_collect(track, NULL), -EIO);
	CHECK_EQ(uffdwp_track_stop(track), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	munmap(beside, 4096);
}

/* ---- From an operation ---- */

struct inside {
	struct tracked k;
	_Atomic int calls;
};

static int on_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct inside *c = ctx;
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	struct uffdwp_track *track;

	CHECK_EQ(uffdwp_track_collect(c->k.track, &q), -EDEADLK);
	CHECK_EQ(uffdwp_track_peek(c->k.track, &q), -EDEADLK);
	CHECK_EQ(uffdwp_track_reset(c->k.track, NULL, 0, 0), -EDEADLK);
	CHECK_EQ(uffdwp_track_stop(c->k.track), -EDEADLK);
	CHECK_EQ(uffdwp_track_start(&track, &r, 1, NULL), -EDEADLK);
	atomic_fetch_add(&c->calls, 1);
	return uffdwp_zeropage(r, f->addr, f->len, 0, NULL);
}

static void from_operation(struct live *t)
{
	struct inside c = { .calls = 0 };
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = on_missing };
	char *beside = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)beside,
					.len = 4096,
					.mode = UFFDWP_MODE_MISSING,
					.ops = &ops,
					.ctx = &c };
	struct uffdwp_region *r;
	pthread_t thread;

	CHECK(beside != MAP_FAILED);
	tracked_begin(&c.k, t, WAY_SYNC, 0);
	CHECK_EQ(uffdwp_region_add(c.k.h, &o, &r), 0);
	live_thread(&thread, touch, beside);
	live_join(thread);
	CHECK_EQ(atomic_load(&c.calls), 1);
	tracked_write(&c.k, 0);
	tracked_expect(&c.k, 0, 1);
	tracked_close(&c.k);
	munmap(beside, 4096);
}

/* ---- Several regions ---- */

#define REGIONS 3

struct seen {
	struct uffdwp_region *r[REGIONS];
	uint64_t bytes[REGIONS];
	int last;
};

static int on_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	struct seen *s = arg;
	int i = 0;

	while (i < REGIONS && s->r[i] != r)
		i++;
	CHECK(i < REGIONS && i >= s->last);
	CHECK(addr >= uffdwp_region_addr(r) &&
	      addr + len <= uffdwp_region_addr(r) + uffdwp_region_len(r));
	s->bytes[i] += len;
	s->last = i;
	return 0;
}

/* Given out of order of addresses; told in the order that they were given in. */
static void several(struct live *t, enum track_way way)
{
	static const size_t order[REGIONS] = { 1, 2, 0 };
	struct tracked k;
	struct seen s = { .last = 0 };
	struct uffdwp_track_query q = { .sz = sizeof(q), .range = on_range, .arg = &s };
	size_t per = t->pages / REGIONS;
	struct uffdwp_track_info info = { .sz = sizeof(info) };

	tracked_open(&k, t, way, 0);
	CHECK_EQ(uffdwp_region_remove(k.r), 0);
	for (size_t i = 0; i < REGIONS; i++) {
		struct uffdwp_region_opts o = {
			.sz = sizeof(o),
			.addr = (uintptr_t)t->mem.addr + order[i] * per * t->page,
			.len = per * t->page,
			.page_size = t->page,
			.mode = UFFDWP_MODE_WP,
		};

		CHECK_EQ(uffdwp_region_add(k.h, &o, &s.r[i]), 0);
	}
	CHECK_EQ(uffdwp_track_start(&k.track, s.r, REGIONS, NULL), 0);
	CHECK_EQ(uffdwp_track_info(k.track, &info), 0);
	CHECK_EQ(info.regions, REGIONS);
	for (size_t i = 0; i < REGIONS * per; i += 2)
		live_store(t->mem.addr + i * t->page, i + 1);
	/* One of them, then the rest, bounded. */
	q.region = s.r[2];
	CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	CHECK(s.bytes[2] && !s.bytes[0] && !s.bytes[1]);
	q.region = NULL;
	q.max = t->page;
	s.last = 0;
	do
		CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	while (q.resume);
	for (size_t i = 0; i < REGIONS; i++) {
		size_t from = order[i] * per;

		CHECK_EQ(s.bytes[i], (per + (from % 2 == 0)) / 2 * t->page);
	}
	CHECK_EQ(uffdwp_track_collect(k.track, &q), 0);
	CHECK_EQ(q.bytes, 0);
	CHECK_EQ(uffdwp_track_stop(k.track), 0);
	k.track = NULL;
	tracked_close(&k);
}

static void several_async(struct live *t)
{
	several(t, WAY_ASYNC);
}

static void several_sync(struct live *t)
{
	several(t, WAY_SYNC);
}

static void several_sigbus(struct live *t)
{
	several(t, WAY_SIGBUS);
}

/* ---- The address space changes ---- */

#define EVENTS (UFFDWP_FEATURE_EVENT_REMAP | UFFDWP_FEATURE_EVENT_UNMAP)

/* A region that moves is tracked on, at its new address; what was written before is told there. */
static void moved(struct live *t, enum track_way way)
{
	char *to = mmap(NULL, t->mem.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct tracked k;

	CHECK(to != MAP_FAILED);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	tracked_open(&k, t, way, EVENTS);
	tracked_start(&k, 0);
	tracked_write(&k, 3);
	CHECK_EQ(mremap(t->mem.addr, t->mem.size, t->mem.size, MREMAP_MAYMOVE | MREMAP_FIXED, to) ==
			 to,
		 1);
	t->mem.addr = to;
	tracked_write(&k, 4);
	while (uffdwp_region_addr(k.r) != (uintptr_t)to)
		live_msleep(1);
	tracked_expect(&k, 3, 5);
	tracked_write(&k, 9);
	tracked_expect(&k, 9, 10);
	tracked_close(&k);
}

/* What is cut out has nothing to tell, also when it was written; the rest goes on. */
static void cut(struct live *t, enum track_way way)
{
	unsigned char *dirty = calloc(1, t->pages);
	size_t from = 2, to = t->pages / 2;
	struct tracked k;

	CHECK(dirty);
	tracked_open(&k, t, way, EVENTS);
	tracked_start(&k, 0);
	for (size_t i = 0; i < t->pages; i += 2)
		tracked_write(&k, i);
	CHECK_EQ(munmap(t->mem.addr + from * t->page, (to - from) * t->page), 0);
	tracked_collect(&k, dirty);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(dirty[i], i % 2 == 0 && (i < from || i >= to));
	tracked_write(&k, from - 1);
	tracked_write(&k, to);
	tracked_collect(&k, dirty);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(dirty[i], i == from - 1 || i == to);
	tracked_close(&k);
	free(dirty);
}

static void moved_async(struct live *t)
{
	moved(t, WAY_ASYNC);
}

static void moved_sync(struct live *t)
{
	moved(t, WAY_SYNC);
}

static void moved_caller(struct live *t)
{
	moved(t, WAY_CALLER);
}

static void cut_async(struct live *t)
{
	cut(t, WAY_ASYNC);
}

static void cut_sync(struct live *t)
{
	cut(t, WAY_SYNC);
}

static void cut_caller(struct live *t)
{
	cut(t, WAY_CALLER);
}

#define ASYNC UFFDWP_FEATURE_WP_ASYNC
#define SOME (BIT(MEM_ANON) | BIT(MEM_SHMEM) | BIT(MEM_HUGETLB_SHARED))
static const struct live_case cases[] = {
	{ "busy/async", busy_async, SOME, ASYNC, 0 },
	{ "busy/sync", busy_sync, SOME, 0, 0 },
	{ "busy/sigbus", busy_sigbus, SOME, 0, 0 },
	{ "own-operation", own_operation, SOME, 0, 0 },
	{ "mechanisms/async", mechanisms_async, SOME, ASYNC, 0 },
	{ "mechanisms/sync", mechanisms_sync, SOME, 0, 0 },
	{ "mechanisms/caller", mechanisms_caller, SOME, 0, 0 },
	{ "mechanisms/sigbus", mechanisms_sigbus, SOME, 0, 0 },
	{ "required", required, SOME, UFFDWP_FEATURE_EVENT_REMOVE, 0 },
	{ "failed", failed, SOME, 0, 0 },
	{ "from-operation", from_operation, SOME, 0, 0 },
	{ "several/async", several_async, SOME, ASYNC, 0 },
	{ "several/sync", several_sync, SOME, 0, 0 },
	{ "several/sigbus", several_sigbus, SOME, 0, 0 },
	{ "moved/async", moved_async, KINDS_ALL & ~KINDS_HUGETLB, ASYNC | EVENTS, 0 },
	{ "moved/sync", moved_sync, KINDS_ALL & ~KINDS_HUGETLB, EVENTS, 0 },
	{ "moved/caller", moved_caller, KINDS_ALL & ~KINDS_HUGETLB, EVENTS, 0 },
	{ "cut/async", cut_async, KINDS_ALL, ASYNC | EVENTS, 0 },
	{ "cut/sync", cut_sync, KINDS_ALL, EVENTS, 0 },
	{ "cut/caller", cut_caller, KINDS_ALL, EVENTS, 0 },
};

LIVE_MAIN(cases)
