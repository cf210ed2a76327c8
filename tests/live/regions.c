/* SPDX-License-Identifier: MIT */
/*
 * Thousands of regions: every address finds its own and no gap finds any, faults reach the right
 * one, and look-ups go on undisturbed while others are added and removed.
 */
#include "../common/live.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define REGIONS 10000u
#define PAGE 4096u
#define STABLE 50u

struct test {
	struct uffdwp *h;
	char *mem; /* region i is page 2i + 1, so there is a gap before and behind each */
	size_t len;
	uint32_t n;
	struct uffdwp_region *r[REGIONS];
	_Atomic uint32_t calls[REGIONS];
	uint32_t order[REGIONS];
	_Atomic int stop, lookups;
};

static char *page_of(struct test *c, uint32_t i)
{
	return c->mem + (2 * i + 1) * (size_t)PAGE;
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	_Atomic uint32_t *calls = ctx;

	if (f->offset || f->len != PAGE || f->addr != uffdwp_region_addr(r))
		return -EPROTO;
	atomic_fetch_add(calls, 1);
	return 0;
}

static void add(struct test *c, uint32_t i)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)page_of(c, i),
					.len = PAGE,
					.mode = UFFDWP_MODE_WP,
					.ops = &ops,
					.ctx = &c->calls[i] };

	CHECK_EQ(uffdwp_region_add(c->h, &o, &c->r[i]), 0);
	CHECK_EQ(uffdwp_protect(c->r[i], o.addr, o.len, NULL), 0);
}

static void setup(struct test *c, uint64_t seed)
{
	c->n = live_times(REGIONS);
	c->h = live_open(UFFDWP_SERVE_THREADS, 0);
	c->len = (2 * c->n + 1) * (size_t)PAGE;
	c->mem = mmap(NULL, c->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(c->mem != MAP_FAILED);
	for (uint32_t i = 0; i < c->n; i++) {
		uint32_t j = (uint32_t)(live_random(&seed) % (i + 1));

		c->order[i] = c->order[j];
		c->order[j] = i;
	}
}

static void verify_lookup(struct test *c)
{
	for (uint32_t i = 0; i < c->n; i++) {
		uint64_t addr = (uintptr_t)page_of(c, i);

		CHECK(uffdwp_region_find(c->h, addr) == c->r[i]);
		CHECK(uffdwp_region_find(c->h, addr + PAGE - 1) == c->r[i]);
		CHECK(!uffdwp_region_find(c->h, addr - 1));
		CHECK(!uffdwp_region_find(c->h, addr + PAGE));
		if (!c->r[i])
			continue;
		CHECK_EQ(uffdwp_region_addr(c->r[i]), addr);
		CHECK_EQ(uffdwp_region_len(c->r[i]), PAGE);
		CHECK_EQ(uffdwp_region_page_size(c->r[i]), PAGE);
		CHECK(uffdwp_region_ctx(c->r[i]) == &c->calls[i]);
		CHECK(uffdwp_region_handle(c->r[i]) == c->h);
	}
	CHECK(!uffdwp_region_find(c->h, 0) && !uffdwp_region_find(c->h, UINT64_MAX));
}

static void verify_faults(struct test *c)
{
	for (uint32_t i = 0; i < c->n; i++) {
		uint32_t before = atomic_load(&c->calls[i]);

		live_store(page_of(c, i), i);
		live_store(page_of(c, i) + PAGE, i);
		CHECK_EQ(atomic_load(&c->calls[i]), before + (c->r[i] != NULL));
	}
	CHECK_EQ(uffdwp_error(c->h), 0);
}

static void many(struct live *t)
{
	struct test *c = calloc(1, sizeof(*c));
	struct uffdwp_info info;
	struct uffdwp_stats st;

	CHECK(c);
	setup(c, t->seed);
	for (uint32_t i = 0; i < c->n; i++)
		add(c, c->order[i]);
	live_info(c->h, &info);
	CHECK_EQ(info.regions, c->n);
	verify_lookup(c);
	verify_faults(c);
	for (uint32_t i = 0; i < c->n; i += 2) {
		CHECK_EQ(uffdwp_region_remove(c->r[c->order[i]]), 0);
		c->r[c->order[i]] = NULL;
	}
	live_info(c->h, &info);
	CHECK_EQ(info.regions, c->n / 2);
	for (uint32_t i = 0; i < c->n; i++) {
		if (c->r[i])
			CHECK_EQ(uffdwp_protect(c->r[i], (uintptr_t)page_of(c, i), PAGE, NULL), 0);
	}
	verify_lookup(c);
	verify_faults(c);
	live_stats(c->h, &st);
	CHECK_EQ(st.strays, 0);
	CHECK_EQ(st.op_calls, c->n + c->n / 2);
	CHECK_EQ(uffdwp_close(c->h), 0);
	munmap(c->mem, c->len);
	free(c);
}

static void *look_up(void *arg)
{
	struct test *c = arg;

	while (!atomic_load(&c->stop)) {
		for (uint32_t i = 0; i < STABLE; i++) {
			uint64_t addr = (uintptr_t)page_of(c, i * 7);

			if (uffdwp_region_find(c->h, addr + 17) != c->r[i * 7] ||
			    uffdwp_region_find(c->h, addr - 1))
				FAIL("region %u is not found while others come and go", i * 7);
		}
		atomic_fetch_add(&c->lookups, 1);
	}
	return NULL;
}

/* Some regions stay, those between them come and go. */
static void churn(struct live *t)
{
	struct test *c = calloc(1, sizeof(*c));
	uint32_t rounds = live_brief() ? 2 : 10;
	pthread_t readers[2];

	CHECK(c);
	setup(c, t->seed);
	for (uint32_t i = 0; i < STABLE; i++)
		add(c, i * 7);
	for (int i = 0; i < 2; i++)
		live_thread(&readers[i], look_up, c);
	for (uint32_t round = 0; round < rounds || atomic_load(&c->lookups) < 10; round++) {
		for (uint32_t i = 0; i < STABLE * 7; i++) {
			if (i % 7)
				add(c, i);
		}
		live_store(page_of(c, 5), 1);
		CHECK_EQ(atomic_load(&c->calls[5]), round + 1);
		for (uint32_t i = 0; i < STABLE * 7; i++) {
			if (i % 7)
				CHECK_EQ(uffdwp_region_remove(c->r[i]), 0);
		}
	}
	atomic_store(&c->stop, 1);
	for (int i = 0; i < 2; i++)
		live_join(readers[i]);
	CHECK_EQ(uffdwp_close(c->h), 0);
	munmap(c->mem, c->len);
	free(c);
}

/* Neighbours that touch: each keeps its own pages, also where runs of pages are allowed. */
static void adjacent(struct live *t)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	_Atomic uint32_t *calls = calloc(t->pages, sizeof(*calls));

	CHECK(calls);
	for (size_t i = 0; i < t->pages; i++) {
		struct uffdwp_region_opts o = { .sz = sizeof(o),
						.addr = (uintptr_t)t->mem.addr + i * t->page,
						.len = t->page,
						.mode = UFFDWP_MODE_WP,
						.run = UFFDWP_RUN_MAX,
						.ops = &ops,
						.ctx = &calls[i] };
		struct uffdwp_region *r;

		CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
		CHECK_EQ(uffdwp_protect(r, o.addr, o.len, NULL), 0);
	}
	for (size_t i = 0; i < t->pages; i++) {
		live_store(t->mem.addr + i * t->page, 1);
		for (size_t j = 0; j < t->pages; j++)
			CHECK_EQ(atomic_load(&calls[j]), j <= i);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	free(calls);
}

static int count_pages(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	atomic_fetch_add((_Atomic uint32_t *)ctx, (uint32_t)(f->len / uffdwp_region_page_size(r)));
	return 0;
}

/*
 * A region over several mappings, which advice for a part of it makes of one. Before Linux 6.3 a call
 * for more than one of them protects, or releases, nothing.
 */
static void split(struct live *t)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = count_pages };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	_Atomic uint32_t calls = 0;
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, UFFDWP_RUN_MAX, &ops, &calls);
	uint64_t addr = (uintptr_t)t->mem.addr;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	for (size_t i = 1; i < t->pages; i += 3)
		CHECK_EQ(madvise(t->mem.addr + i * t->page, t->page, MADV_DONTDUMP), 0);
	live_protect(t, r);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	CHECK_EQ(atomic_load(&calls), t->pages);
	live_protect(t, r);
	CHECK_EQ(uffdwp_sweep(r, addr, t->mem.size, NULL), 0);
	CHECK_EQ(atomic_load(&calls), 2 * t->pages);
	live_protect(t, r);
	CHECK_EQ(uffdwp_unprotect(r, addr, t->mem.size, NULL), 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	CHECK_EQ(atomic_load(&calls), 2 * t->pages);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "many", many, KINDS_NONE, 0, 30 },
	{ "churn", churn, KINDS_NONE, 0, 60 },
	{ "adjacent", adjacent, BIT(MEM_ANON) | BIT(MEM_SHMEM), 0, 0 },
	{ "split", split, KINDS_ALL, 0, 0 },
};

LIVE_MAIN(cases)
