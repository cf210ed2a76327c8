/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: what the kernel's own moving of memory leaves of protection: swap,
 * compaction, khugepaged, KSM. Where the kernel acts in its own time, unprotected memory
 * beside the watched one shows that it has.
 */
#include "probe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define KHUGE "/sys/kernel/mm/transparent_hugepage/khugepaged/"
#define KSM "/sys/kernel/mm/ksm/"
#define SWAP_PAGES 64
#define HUGE_SIZE ((size_t)2 << 20)

/* ---- Swap ---- */

/* Of memory that was filled; shared memory leaves no trace in pagemap when it goes. */
static bool is_swapped(const char *addr)
{
	return !(probe_pagemap(addr) & UX_PM_PRESENT);
}

static size_t count_swapped(const struct probe_area *a)
{
	size_t n = 0, i;

	for (i = 0; i < a->len / a->page; i++)
		n += is_swapped(probe_at(a, i));
	return n;
}

/* A page that is in swap now, after some pushing. */
static size_t page_out(const struct probe_area *a)
{
	size_t i;
	int try;

	for (try = 0; try < 50 && !count_swapped(a); try++) {
		PROBE_CHECK(!madvise(a->p, a->len, MADV_PAGEOUT), "MADV_PAGEOUT: %s",
			    strerror(errno));
		probe_nap(10);
	}
	for (i = 0; i < a->len / a->page; i++) {
		if (is_swapped(probe_at(a, i)))
			return i;
	}
	probe_unsupported("nothing could be swapped out");
}

static void swap_keeps(PROBE_ARGS)
{
	struct probe_area a;
	size_t i;

	probe_swap();
	probe_arm(&a, kind, SWAP_PAGES, 0);
	i = page_out(&a);
	probe_note("%zu of %zu pages were swapped out", count_swapped(&a), a.len / a.page);
	PROBE_CHECK(probe_is_wp(probe_at(&a, i)), "the bit is gone from the swapped page");
	PROBE_CHECK(probe_get(probe_at(&a, i)) == PROBE_BYTE(i), "the content is wrong");
	PROBE_CHECK(probe_is_wp(probe_at(&a, i)), "the bit is gone after reading it in");
	probe_caught(&a, i);
}

static void swap_write(PROBE_ARGS)
{
	struct probe_area a;
	size_t i;

	probe_swap();
	probe_arm(&a, kind, SWAP_PAGES, 0);
	i = page_out(&a);
	probe_caught(&a, i);
}

/* Protecting and releasing a page that is not in memory. */
static void swap_protect(PROBE_ARGS)
{
	struct probe_area a;
	size_t i;

	probe_swap();
	probe_map(&a, kind, SWAP_PAGES);
	probe_fill(&a);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	i = page_out(&a);
	probe_protect_all(&a);
	PROBE_CHECK(is_swapped(probe_at(&a, i)), "protecting read it in");
	probe_release_range(a.fd, probe_at(&a, i), a.page);
	probe_escapes(&a, i);
	probe_protect_range(a.fd, probe_at(&a, i), a.page);
	PROBE_CHECK(!madvise(a.p, a.len, MADV_PAGEOUT), "MADV_PAGEOUT: %s", strerror(errno));
	probe_caught(&a, i);
}

static void swap_async(PROBE_ARGS)
{
	struct probe_area a;
	size_t i, n;

	probe_swap();
	probe_arm(&a, kind, SWAP_PAGES, UFFD_FEATURE_WP_ASYNC);
	i = page_out(&a);
	n = probe_written(&a, a.p, a.len, false);
	PROBE_CHECK(n == 0, "swapping made %zu pages written", n);
	PROBE_CHECK(probe_get(probe_at(&a, i)) == PROBE_BYTE(i), "the content is wrong");
	n = probe_written(&a, a.p, a.len, false);
	PROBE_CHECK(n == 0, "reading from swap made %zu pages written", n);
}

/* ---- Compaction ---- */

/* 16 MiB, each page with its frame's number before. */
#define MOVE_PAGES 4096

static uint64_t frames[MOVE_PAGES];

static void note_frames(const struct probe_area *a)
{
	size_t i;

	for (i = 0; i < MOVE_PAGES; i++)
		frames[i] = probe_pagemap(probe_at(a, i)) & UX_PM_PFN;
	if (!frames[0])
		probe_unsupported("pagemap shows no frame numbers, which takes CAP_SYS_ADMIN");
}

/* Which pages have moved, by their frames' numbers. */
static size_t moved(const struct probe_area *a, size_t *one)
{
	size_t n = 0, i;

	for (i = 0; i < MOVE_PAGES; i++) {
		uint64_t e = probe_pagemap(probe_at(a, i));

		PROBE_CHECK(e & UX_PM_WP || probe_is_wp(probe_at(a, i)),
			    "the bit is gone from page %zu%s", i,
			    (e & UX_PM_PFN) == frames[i] ? "" : ", which moved");
		if ((e & UX_PM_PFN) == frames[i])
			continue;
		*one = i;
		n++;
	}
	return n;
}

/*
 * Compaction moves pages from the low end of a zone to free ones at its high end. Every other
 * page is given back, so that there is something to gain.
 */
static void fill_thinly(struct probe_area *a)
{
	char *junk = mmap(NULL, a->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i;

	PROBE_CHECK(junk != MAP_FAILED, "mmap: %s", strerror(errno));
	madvise(junk, a->len, MADV_NOHUGEPAGE);
	for (i = 0; i < a->len / a->page; i++) {
		memset(probe_at(a, i), PROBE_BYTE(i), a->page);
		junk[i * a->page] = 1;
	}
	munmap(junk, a->len);
}

static void arm_thinly(struct probe_area *a, enum mem_kind kind)
{
	probe_map(a, kind, MOVE_PAGES);
	fill_thinly(a);
	a->fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a->fd, a->p, a->len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_range(a->fd, a->p, a->len);
	note_frames(a);
}

/* Each try has memory of its own, which may lie better. */
static void compact_keeps(PROBE_ARGS)
{
	struct probe_area a;
	size_t n = 0, one = 0;
	int try;

	for (try = 0; try < 8 && !n; try++) {
		arm_thinly(&a, kind);
		probe_command("/proc/sys/vm/compact_memory", "1");
		n = moved(&a, &one);
	}
	if (!n)
		probe_unsupported("compaction moved none of the pages");
	probe_note("compaction moved %zu of %d pages", n, MOVE_PAGES);
	probe_caught(&a, one);
}

/* ---- khugepaged ---- */

/* Small pages where a huge one would fit and is allowed. */
static void map_collapsible(struct probe_area *a, enum mem_kind kind)
{
	size_t page = (size_t)getpagesize();
	char *p = mmap(NULL, 2 * HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	PROBE_CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	probe_map(a, kind, (unsigned int)(HUGE_SIZE / page));
	p = (char *)(((uintptr_t)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	PROBE_CHECK(mremap(a->p, a->len, a->len, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p,
		    "mremap: %s", strerror(errno));
	a->p = a->m.addr = p;
	memset(a->p, PROBE_BYTE(0), a->len);
}

static void allow_huge(const struct probe_area *a)
{
	if (madvise(a->p, a->len, MADV_HUGEPAGE))
		probe_unsupported("MADV_HUGEPAGE: %s", strerror(errno));
}

static void hurry_khugepaged(void)
{
	probe_setting(KHUGE "scan_sleep_millisecs", "1");
	probe_setting(KHUGE "alloc_sleep_millisecs", "1");
	probe_setting(KHUGE "pages_to_scan", "100000");
	probe_setting(KHUGE "defrag", "1");
}

static void wait_collapse(const struct probe_area *control)
{
	int i;

	for (i = 0; i < 500 && !probe_is_huge(control); i++)
		probe_nap(10);
	if (!probe_is_huge(control))
		probe_unsupported("khugepaged did not collapse even unprotected memory in 5 s");
}

/*
 * The watched memory is registered with khugepaged first, so it was scanned when the other has
 * been.
 */
static void khugepaged_leaves(PROBE_ARGS)
{
	struct probe_area a, control;
	long scans;
	int i;

	/*
	 * First: the guard process that it forks would share the pages, and khugepaged avoids
	 * that.
	 */
	hurry_khugepaged();
	map_collapsible(&a, kind);
	map_collapsible(&control, kind);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(&a);
	allow_huge(&a);
	allow_huge(&control);
	wait_collapse(&control);
	scans = probe_number(KHUGE "full_scans");
	for (i = 0; i < 500 && probe_number(KHUGE "full_scans") < scans + 2; i++)
		probe_nap(10);
	PROBE_CHECK(!mem_thp_bytes(&a.m), "khugepaged collapsed the protected pages");
	probe_caught(&a, 3);
	probe_caught(&a, 4);
}

static void collapse(PROBE_ARGS)
{
	struct probe_area a, control;
	int err;

	map_collapsible(&a, kind);
	map_collapsible(&control, kind);
	allow_huge(&a);
	allow_huge(&control);
	err = madvise(control.p, control.len, MADV_COLLAPSE) ? errno : 0;
	if (err)
		probe_unsupported("MADV_COLLAPSE of unprotected memory: %s", strerror(err));
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_range(a.fd, probe_at(&a, 3), a.page);
	err = madvise(a.p, a.len, MADV_COLLAPSE) ? errno : 0;
	PROBE_CHECK(err == EINVAL, "MADV_COLLAPSE: %s", err ? strerror(err) : "success");
	PROBE_CHECK(!mem_thp_bytes(&a.m), "it was collapsed");
	probe_caught(&a, 3);
	probe_escapes(&a, 4);
}

/* ---- KSM ---- */

static uint64_t frame(const char *p)
{
	return probe_pagemap(p) & UX_PM_PFN;
}

static void hurry_ksm(void)
{
	probe_setting(KSM "sleep_millisecs", "1");
	probe_setting(KSM "pages_to_scan", "10000");
	if (!access(KSM "smart_scan", F_OK)) /* Linux 6.7 */
		probe_setting(KSM "smart_scan", "0");
	probe_setting(KSM "run", "1");
}

/* Three equal pages: two that nobody protects show that KSM has come by. */
static bool merged(const char *p, const char *q)
{
	int i;

	for (i = 0; i < 500 && frame(p) != frame(q); i++)
		probe_nap(10);
	return frame(p) == frame(q);
}

static void ksm(PROBE_ARGS)
{
	struct probe_area a, control;

	probe_map(&a, kind, 2);
	probe_map(&control, kind, 2);
	memset(a.p, 0x5a, a.len);
	memset(control.p, 0x5a, control.len);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(&a);
	if (!frame(a.p))
		probe_unsupported("pagemap shows no frame numbers, which takes CAP_SYS_ADMIN");
	if (madvise(a.p, a.len, MADV_MERGEABLE) || madvise(control.p, control.len, MADV_MERGEABLE))
		probe_unsupported("MADV_MERGEABLE: %s", strerror(errno));
	hurry_ksm();
	if (!merged(control.p, probe_at(&control, 1)))
		probe_unsupported("KSM did not merge even unprotected pages in 5 s");
	PROBE_CHECK(merged(a.p, control.p), "KSM left the protected page alone");
	PROBE_CHECK(!probe_is_wp(a.p), "the bit survived");
	probe_escapes(&a, 0);
}

static void ksm_unmergeable(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	if (madvise(a.p, a.len, MADV_MERGEABLE) || madvise(a.p, a.len, MADV_UNMERGEABLE))
		probe_unsupported("MADV_MERGEABLE: %s", strerror(errno));
	probe_silent(a.fd);
	probe_caught(&a, 0);
}

#define NO_HUGETLB (PROBE_ANON | PROBE_SHMEM | PROBE_PRIVATE)

static const struct probe_row rows[] = {
	{ .id = "reclaim.swap",
	  .promise = "Protection survives swapping out and in.",
	  .since = "5.7",
	  .kinds = NO_HUGETLB,
	  .secs = 30,
	  .check = swap_keeps },
	{ .id = "reclaim.swap-write",
	  .promise = "A write to a protected page in swap is caught.",
	  .since = "5.7",
	  .kinds = NO_HUGETLB,
	  .secs = 30,
	  .check = swap_write },
	{ .id = "reclaim.swap-protect",
	  .promise = "Pages in swap can be protected and released, and stay there.",
	  .since = "5.7",
	  .kinds = NO_HUGETLB,
	  .secs = 30,
	  .check = swap_protect },
	{ .id = "reclaim.swap-async",
	  .promise = "Swapping is not reported as writing.",
	  .since = "6.7",
	  .needs = UFFD_FEATURE_WP_ASYNC,
	  .kinds = NO_HUGETLB,
	  .secs = 30,
	  .check = swap_async },
	{ .id = "reclaim.compaction",
	  .promise = "Protection survives migration by compaction.",
	  .since = "5.7, shared memory 6.2",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM | PROBE_PRIVATE,
	  .secs = 60,
	  .check = compact_keeps },
	{ .id = "reclaim.khugepaged",
	  .promise = "khugepaged does not collapse protected pages into a huge one.",
	  .since = "5.7",
	  .kinds = PROBE_BIT(MEM_ANON),
	  .secs = 30,
	  .check = khugepaged_leaves },
	{ .id = "reclaim.collapse",
	  .promise = "MADV_COLLAPSE over a single protected page is refused (EINVAL).",
	  .since = "6.1",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = collapse },
	{ .id = "reclaim.ksm",
	  .promise = "KSM merges protected pages, and their protection is lost.",
	  .since = "5.7",
	  .library = "none: madvise(MADV_UNMERGEABLE) what you protect. Said in the header's "
		     "caveats.",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_PRIVATE,
	  .secs = 30,
	  .check = ksm },
	{ .id = "reclaim.ksm-unmergeable",
	  .promise = "MADV_UNMERGEABLE does not count as a write, and keeps protection.",
	  .since = "5.7",
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = ksm_unmergeable },
};

const struct probe_group probe_reclaim = {
	.name = "reclaim",
	.title = "swap, compaction, khugepaged, KSM",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
