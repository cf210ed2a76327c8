/* SPDX-License-Identifier: MIT */
/*
 * Memory that moves, grows or goes while the library works on it, and limits that are lowered under
 * it: nothing crashes, nothing sleeps for ever, nothing is delivered to the wrong region.
 */
#include "../common/live.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 64u
#define HUGE (2u << 20)
#define REMAP UFFDWP_FEATURE_EVENT_REMAP
#define FIXED (MREMAP_MAYMOVE | MREMAP_FIXED)

struct test {
	struct uffdwp *h;
	struct uffdwp_region *r;
	_Atomic int calls, stop, rounds, named;
};

static char *map(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static struct uffdwp_region *add(struct uffdwp *h, char *p, size_t len, uint64_t page,
				 uint32_t mode, const struct uffdwp_ops *ops, void *ctx)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)p,
					.len = len,
					.page_size = page,
					.mode = mode,
					.ops = ops,
					.ctx = ctx };
	struct uffdwp_region *r;

	CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
	return r;
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	uint64_t word;

	(void)r;
	atomic_fetch_add(&c->calls, 1);
	/* The memory may have moved on since: an error, but no crash, and not the handle's end. */
	(void)uffdwp_read(r, f->addr, &word, sizeof(word), NULL);
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };

static void *work_on(void *arg)
{
	struct test *c = arg;

	while (!atomic_load(&c->stop)) {
		uint64_t addr = uffdwp_region_addr(c->r);

		uffdwp_protect(c->r, addr, PAGES * PAGE, NULL);
		uffdwp_sweep(c->r, addr, PAGES * PAGE, NULL);
		atomic_fetch_add(&c->rounds, 1);
	}
	return NULL;
}

/* To and fro, while another thread protects, sweeps and reads by the address that it knew. */
static void while_working(struct live *t)
{
	char *room = map(4 * PAGES * PAGE), *at = room, *to = room + 2 * PAGES * PAGE;
	struct test c = { 0 };
	pthread_t worker;

	(void)t;
	c.h = live_open(UFFDWP_SERVE_THREADS, REMAP);
	live_fill(at, PAGES * PAGE, 1);
	c.r = add(c.h, at, PAGES * PAGE, 0, UFFDWP_MODE_WP, &ops, &c);
	live_thread(&worker, work_on, &c);
	for (int i = 0; i < 1000 || atomic_load(&c.rounds) < 10; i++) {
		char *next = at;

		CHECK_EQ((uintptr_t)mremap(at, PAGES * PAGE, PAGES * PAGE, FIXED, to),
			 (uintptr_t)to);
		at = to;
		to = next;
		for (unsigned int p = 0; p < PAGES; p += 7)
			live_store(at + p * PAGE, (uint64_t)i);
		/* While it moves without a pause calls are refused, for five seconds. */
		if (i % 64 == 63)
			live_msleep(1);
	}
	atomic_store(&c.stop, 1);
	live_join(worker);
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(room, 4 * PAGES * PAGE);
}

/* Moved onto a part of another region, which then has that part no more. */
static void onto_another(struct live *t)
{
	struct test a = { 0 }, b = { 0 };
	char *from = map(4 * PAGE), *other = map(8 * PAGE);

	(void)t;
	memset(from, 1, 4 * PAGE);
	memset(other, 2, 8 * PAGE);
	a.h = live_open(UFFDWP_SERVE_THREADS, REMAP);
	a.r = add(a.h, from, 4 * PAGE, 0, UFFDWP_MODE_WP, &ops, &a);
	b.r = add(a.h, other, 8 * PAGE, 0, UFFDWP_MODE_WP, &ops, &b);
	CHECK_EQ(uffdwp_protect(a.r, (uintptr_t)from, 4 * PAGE, NULL), 0);
	CHECK_EQ(uffdwp_protect(b.r, (uintptr_t)other, 8 * PAGE, NULL), 0);
	CHECK_EQ((uintptr_t)mremap(from, 4 * PAGE, 4 * PAGE, FIXED, other + 2 * PAGE),
		 (uintptr_t)other + 2 * PAGE);
	while (uffdwp_region_addr(a.r) != (uintptr_t)other + 2 * PAGE)
		live_msleep(1);
	for (int i = 0; i < 8; i++)
		live_store(other + i * PAGE, 3);
	CHECK_EQ(atomic_load(&a.calls), 4);
	CHECK_EQ(atomic_load(&b.calls), 4);
	CHECK(uffdwp_region_find(a.h, (uintptr_t)other + 3 * PAGE) == a.r);
	CHECK(uffdwp_region_find(a.h, (uintptr_t)other + 7 * PAGE) == b.r);
	CHECK_EQ(uffdwp_close(a.h), 0);
	munmap(other, 8 * PAGE);
}

/* The kernel registers what a region grows by, too; it is nobody's, and must not sleep for ever. */
static void grown(struct live *t)
{
	static const uint32_t serves[] = { UFFDWP_SERVE_THREADS, UFFDWP_SERVE_CALLER };

	(void)t;
	for (int i = 0; i < 2; i++) {
		char *room = map(PAGES * PAGE), *p;
		struct live_server s;
		struct uffdwp *h;

		CHECK_EQ(munmap(room + 16 * PAGE, (PAGES - 16) * PAGE), 0);
		h = live_open(serves[i], REMAP);
		live_serve(&s, h);
		add(h, room, 16 * PAGE, 0, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, NULL, NULL);
		live_store(room, 1);
		p = mremap(room, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE);
		CHECK(p != MAP_FAILED);
		for (int page = 0; page < 32; page++)
			live_store(p + page * PAGE, 1);
		live_serve_stop(&s);
		CHECK_EQ(uffdwp_error(h), 0);
		CHECK_EQ(uffdwp_close(h), 0);
		munmap(p, 32 * PAGE);
	}
}

/* A region of huge pages, at an address that is no multiple of them any more. */
static void huge_unaligned(struct live *t)
{
	char *room = map(8ul * HUGE),
	     *from = (char *)(((uintptr_t)room + HUGE - 1) & -(uintptr_t)HUGE);
	char *to = from + 4ul * HUGE + PAGE;
	struct test c = { 0 };

	(void)t;
	memset(from, 1, HUGE);
	c.h = live_open(UFFDWP_SERVE_THREADS, REMAP);
	c.r = add(c.h, from, HUGE, HUGE, UFFDWP_MODE_WP, &ops, &c);
	CHECK_EQ((uintptr_t)mremap(from, HUGE, HUGE, FIXED, to), (uintptr_t)to);
	while (uffdwp_region_addr(c.r) != (uintptr_t)to)
		live_msleep(1);
	CHECK_EQ(uffdwp_protect(c.r, (uintptr_t)to, HUGE, NULL), 0);
	live_store(to + 9 * PAGE, 2);
	CHECK_EQ(atomic_load(&c.calls), 1);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(room, 8ul * HUGE);
}

/* A monitor that lowers its limits after it has opened everything. */
static void no_descriptors(struct live *t)
{
	struct rlimit none = { 0, 0 }, old;
	struct test c = { 0 };
	char *p = map(PAGE);

	(void)t;
	c.h = live_open(UFFDWP_SERVE_THREADS, 0);
	c.r = add(c.h, p, PAGE, 0, UFFDWP_MODE_WP, &ops, &c);
	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	none.rlim_max = old.rlim_max;
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (int i = 1; i <= 20; i++) {
		CHECK_EQ(uffdwp_protect(c.r, (uintptr_t)p, PAGE, NULL), 0);
		live_msleep(2);
		live_store(p, (uint64_t)i);
		CHECK_EQ(atomic_load(&c.calls), i);
	}
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(p, PAGE);
}

static int name_it(unsigned int worker, void *arg)
{
	(void)worker;
	(void)arg;
	return prctl(PR_SET_NAME, "mine") ? -errno : 0;
}

static int check_name(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	char name[16] = "";

	(void)r;
	(void)f;
	if (prctl(PR_GET_NAME, name) || strcmp(name, "mine"))
		return -EPROTO;
	atomic_fetch_add(&c->named, 1);
	return 0;
}

/* The hook's name for a thread is the last word. */
static void names(struct live *t)
{
	static const struct uffdwp_ops named = { .sz = sizeof(named), .write = check_name };
	char *p = map(PAGE);

	(void)t;
	for (int i = 0; i < 50; i++) {
		struct uffdwp_opts o = { .threads = 2, .thread_start = name_it };
		struct test c = { .h = live_open_opts(&o) };

		c.r = add(c.h, p, PAGE, 0, UFFDWP_MODE_WP, &named, &c);
		CHECK_EQ(uffdwp_protect(c.r, (uintptr_t)p, PAGE, NULL), 0);
		live_store(p, 1);
		CHECK_EQ(uffdwp_error(c.h), 0);
		CHECK_EQ(atomic_load(&c.named), 1);
		CHECK_EQ(uffdwp_close(c.h), 0);
	}
	munmap(p, PAGE);
}

/* Poisoning leaves a page that is there alone, and its protection with it. */
static void poison_present(struct live *t)
{
	struct test c = { 0 };
	char *p = map(PAGE);

	(void)t;
	live_store(p, 1);
	c.h = live_open(UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_POISON);
	c.r = add(c.h, p, PAGE, 0, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, &ops, &c);
	CHECK_EQ(uffdwp_protect(c.r, (uintptr_t)p, PAGE, NULL), 0);
	CHECK_EQ(uffdwp_poison(c.r, (uintptr_t)p, PAGE, NULL), 0);
	CHECK_EQ(live_load(p), 1);
	live_store(p, 2);
	CHECK_EQ(atomic_load(&c.calls), 1);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(p, PAGE);
}

/* A large region of which nothing is left goes without a look at each of its pages. */
static void unmapped_behind(struct live *t)
{
	size_t len = (size_t)1 << 30;
	struct test c = { 0 };
	char *p = map(len);

	(void)t;
	c.h = live_open(UFFDWP_SERVE_THREADS, 0);
	c.r = add(c.h, p, len, 0, UFFDWP_MODE_WP, &ops, &c);
	CHECK_EQ(munmap(p, len), 0);
	CHECK_EQ(uffdwp_region_remove(c.r), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

#define ROW(name, fn, features)                    \
	{                                          \
		name, fn, KINDS_NONE, features, 10 \
	}
static const struct live_case cases[] = {
	ROW("while-working", while_working, REMAP),
	ROW("onto-another", onto_another, REMAP),
	ROW("grown", grown, REMAP),
	ROW("huge-unaligned", huge_unaligned, REMAP),
	ROW("no-descriptors", no_descriptors, 0),
	ROW("names", names, 0),
	ROW("poison-present", poison_present, UFFDWP_FEATURE_POISON),
	ROW("unmapped-behind", unmapped_behind, 0),
};

LIVE_MAIN(cases)
