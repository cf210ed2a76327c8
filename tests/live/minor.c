/* SPDX-License-Identifier: MIT */
/*
 * Minor faults: the page is in the page cache, put there through a second mapping of the same memory,
 * and not yet in this one. Continued by an operation or by default, with and without protection.
 */
#include "../common/live.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct test {
	struct live *t;
	char *second; /* the same memory, not registered */
	uint32_t flags;
	_Atomic uint32_t *minor, *writes;
	_Atomic uint32_t refused; /* UFFDWP_COPY_WP, by a kernel that can not */
};

static int on_minor(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	int err;

	if (f->kind != UFFDWP_FAULT_MINOR || f->mem != c->second + f->offset)
		return -EPROTO;
	/* What a migration does: bring the content up to date, then let the reader see it. */
	live_store(c->second + f->offset, f->offset + 1);
	atomic_fetch_add(&c->minor[f->offset / c->t->page], 1);
	err = uffdwp_continue(r, f->addr, f->len, c->flags, NULL);
	if (err != -EOPNOTSUPP || !c->flags)
		return err;
	atomic_fetch_add(&c->refused, 1);
	return uffdwp_continue(r, f->addr, f->len, 0, NULL);
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	uint64_t value;

	atomic_fetch_add(&c->writes[f->offset / c->t->page], 1);
	/* Through mem, the second mapping. */
	if (uffdwp_read(r, f->addr, &value, sizeof(value), NULL) || value != f->offset + 1)
		return -EPROTO;
	return 0;
}

static void setup(struct test *c, struct live *t)
{
	memset(c, 0, sizeof(*c));
	c->t = t;
	c->minor = calloc(t->pages, sizeof(*c->minor));
	c->writes = calloc(t->pages, sizeof(*c->writes));
	c->second = mmap(NULL, t->mem.size, PROT_READ | PROT_WRITE, MAP_SHARED, t->mem.fd, 0);
	CHECK(c->minor && c->writes && c->second != MAP_FAILED);
	live_fill(c->second, t->mem.size, t->seed);
}

static void teardown(struct test *c)
{
	munmap(c->second, c->t->mem.size);
	free(c->minor);
	free(c->writes);
}

static struct uffdwp_region *add(struct test *c, struct uffdwp *h, uint32_t mode,
				 const struct uffdwp_ops *ops)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)c->t->mem.addr,
					.len = c->t->mem.size,
					.mem = c->second,
					.page_size = c->t->page,
					.mode = mode,
					.ops = ops,
					.ctx = c };
	struct uffdwp_region *r;

	CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
	return r;
}

static uint64_t minor_feature(struct live *t)
{
	return t->mem.kind == MEM_SHMEM ? UFFDWP_FEATURE_MINOR_SHMEM
					: UFFDWP_FEATURE_MINOR_HUGETLBFS;
}

static void run(struct live *t, uint32_t serve, uint32_t flags)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .minor = on_minor, .write = on_write };
	uint32_t mode = UFFDWP_MODE_MINOR | (flags ? UFFDWP_MODE_WP : 0);
	struct uffdwp *h = live_open(serve, minor_feature(t) | mem_wp_features(t->mem.kind));
	struct live_server s;
	struct uffdwp_stats st;
	struct uffdwp_info info;
	bool wp = false;
	struct test c;

	live_info(h, &info);
	setup(&c, t);
	c.flags = flags;
	add(&c, h, mode, &ops);
	live_serve(&s, h);
	for (size_t i = 0; i < t->pages; i++) {
		char *p = t->mem.addr + i * t->page;

		CHECK_EQ(live_load(p), i * t->page + 1);
		CHECK_EQ(atomic_load(&c.minor[i]), 1);
		CHECK_EQ(atomic_load(&c.writes[i]), 0);
		wp = flags && !atomic_load(&c.refused);
		live_store(p, 7);
		CHECK_EQ(atomic_load(&c.writes[i]), wp);
		CHECK_EQ(live_load(c.second + i * t->page), 7);
	}
	live_stats(h, &st);
	CHECK_EQ(st.minor, t->pages);
	/* A write may come while its page is still being placed: it is woken, and comes again. */
	CHECK_EQ(st.write - st.duplicates, wp ? t->pages : 0);
	CHECK_EQ(st.missing, 0);
	CHECK_EQ(uffdwp_error(h), 0);
	/* The mode and the feature came with the same kernel. */
	if (info.features & UFFDWP_FEATURE_WP_UNPOPULATED)
		CHECK_EQ(c.refused, 0);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
	CHECK_EQ(c.refused, flags && !wp ? t->pages : 0);
	teardown(&c);
	if (flags && !wp)
		live_skip("no UFFDIO_CONTINUE_MODE_WP (Linux 6.4): refused, and continued without");
}

static void continue_threads(struct live *t)
{
	run(t, UFFDWP_SERVE_THREADS, 0);
}

static void continue_wp_threads(struct live *t)
{
	run(t, UFFDWP_SERVE_THREADS, UFFDWP_COPY_WP);
}

static void continue_wp_caller(struct live *t)
{
	run(t, UFFDWP_SERVE_CALLER, UFFDWP_COPY_WP);
}

static void continue_wp_sigbus(struct live *t)
{
	run(t, UFFDWP_SERVE_SIGBUS, UFFDWP_COPY_WP);
}

/* No operation: continued; and a whole range at once, twice. */
static void defaults(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, minor_feature(t));
	uint64_t addr = (uintptr_t)t->mem.addr, done = 0;
	struct uffdwp_region *r;
	struct uffdwp_stats st;
	struct test c;

	setup(&c, t);
	r = add(&c, h, UFFDWP_MODE_MINOR, NULL);
	CHECK_EQ(live_load(t->mem.addr + 8), live_load(c.second + 8));
	live_stats(h, &st);
	CHECK_EQ(st.minor, 1);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(uffdwp_continue(r, addr, t->mem.size, 0, &done), 0);
		CHECK_EQ(done, t->mem.size);
	}
	CHECK_EQ(memcmp(t->mem.addr, c.second, t->mem.size), 0);
	live_stats(h, &st);
	CHECK_EQ(st.minor, 1);
	CHECK(st.eexist >= t->pages);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

/* Memory without a page cache has no minor faults. */
static void anonymous(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)t->mem.addr,
					.len = t->mem.size,
					.mode = UFFDWP_MODE_MINOR };
	struct uffdwp_region *r = (void *)&o;
	int err = uffdwp_region_add(h, &o, &r);

	CHECK(err == -EINVAL || err == -EOPNOTSUPP);
	CHECK(!r);
	CHECK_EQ(uffdwp_close(h), 0);
}

#define MINOR (UFFDWP_FEATURE_MINOR_SHMEM | UFFDWP_FEATURE_MINOR_HUGETLBFS)
static const struct live_case cases[] = {
	{ "continue/threads", continue_threads, KINDS_SHARED, MINOR, 0 },
	{ "continue-wp/threads", continue_wp_threads, KINDS_SHARED, MINOR, 0 },
	{ "continue-wp/caller", continue_wp_caller, KINDS_SHARED, MINOR, 0 },
	{ "continue-wp/sigbus", continue_wp_sigbus, KINDS_SHARED, MINOR, 0 },
	{ "defaults", defaults, KINDS_SHARED, MINOR, 0 },
	{ "anonymous", anonymous, BIT(MEM_ANON), MINOR, 0 },
};

LIVE_MAIN(cases)
