/* SPDX-License-Identifier: MIT */
/*
 * Pages that were never there are protected too: by markers, which take no memory, or on a kernel
 * without them (masked here) by populating first. And the populate call by itself.
 */
#include "../common/live.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

/* How many of the test's pages are in the page table. */
static size_t present(struct live *t)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	uint64_t entry;

	CHECK(fd >= 0);
	for (size_t i = 0; i < t->pages; i++) {
		off_t at = (off_t)(((uintptr_t)t->mem.addr + i * t->page) / 4096 * 8);

		CHECK_EQ(pread(fd, &entry, 8, at), 8);
		n += !!(entry & PAGEMAP_PRESENT);
	}
	close(fd);
	return n;
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	_Atomic uint32_t *calls = ctx;

	atomic_fetch_add(&calls[f->offset / uffdwp_region_page_size(r)], 1);
	return 0;
}

static void protect_never_touched(struct live *t, uint64_t masked)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct uffdwp_opts o = { .masked = masked };
	struct uffdwp *h = live_open_opts(&o);
	_Atomic uint32_t *calls = calloc(t->pages, sizeof(*calls));
	bool anon = BIT(t->mem.kind) & KINDS_ANON;
	struct uffdwp_region *r;
	struct uffdwp_info info;

	CHECK(calls);
	live_info(h, &info);
	CHECK_EQ(info.populates, masked != 0);
	CHECK_EQ(info.features & masked, 0);
	CHECK_EQ(info.supported & masked, 0);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, calls);
	CHECK_EQ(present(t), 0);
	live_protect(t, r);
	CHECK_EQ(present(t), masked && anon ? t->pages : 0);
	for (size_t i = 0; i < t->pages; i++) {
		CHECK_EQ(live_load(t->mem.addr + i * t->page), 0);
		CHECK_EQ(atomic_load(&calls[i]), 0);
		live_store(t->mem.addr + i * t->page, 1);
		CHECK_EQ(atomic_load(&calls[i]), 1);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	free(calls);
}

static void markers(struct live *t)
{
	protect_never_touched(t, 0);
}

static void populates(struct live *t)
{
	protect_never_touched(t, UFFDWP_FEATURE_WP_UNPOPULATED);
}

static void call(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	uint64_t addr = (uintptr_t)t->mem.addr, half = t->pages / 2 * t->page, done = 0;
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);
	struct uffdwp_stats st;

	CHECK_EQ(present(t), 0);
	CHECK_EQ(uffdwp_populate(r, addr, half, &done), 0);
	CHECK_EQ(done, half);
	if (t->mem.kind != MEM_THP) /* reading one page may bring the huge zero page */
		CHECK_EQ(present(t), t->pages / 2);
	CHECK_EQ(uffdwp_populate(r, addr, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
	CHECK_EQ(present(t), t->pages);
	live_stats(h, &st);
	CHECK_EQ(st.write, 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* Missing pages are asked for like any other access; the pool serves them meanwhile. */
static void call_missing(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_missing_features(t->mem.kind));
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_MISSING, 1, NULL, NULL);
	struct uffdwp_stats st;
	uint64_t done = 0;

	CHECK_EQ(uffdwp_populate(r, (uintptr_t)t->mem.addr, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
	CHECK_EQ(present(t), t->pages);
	live_stats(h, &st);
	CHECK(st.missing >= t->pages);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* Protected pages stay protected when they are populated. */
static void call_armed(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	_Atomic uint32_t *calls = calloc(t->pages, sizeof(*calls));
	struct uffdwp_region *r;

	CHECK(calls);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, calls);
	live_protect(t, r);
	CHECK_EQ(uffdwp_populate(r, (uintptr_t)t->mem.addr, t->mem.size, NULL), 0);
	for (size_t i = 0; i < t->pages; i++) {
		CHECK_EQ(atomic_load(&calls[i]), 0);
		live_store(t->mem.addr + i * t->page, 1);
		CHECK_EQ(atomic_load(&calls[i]), 1);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	free(calls);
}

static const struct live_case cases[] = {
	{ "markers", markers, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "populates", populates, KINDS_ALL, 0, 0 },
	{ "call", call, KINDS_ALL, 0, 0 },
	{ "call-missing", call_missing, KINDS_ALL, 0, 0 },
	{ "call-armed", call_armed, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
};

LIVE_MAIN(cases)
