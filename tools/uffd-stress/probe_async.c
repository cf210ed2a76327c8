/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: UFFD_FEATURE_WP_ASYNC and PAGEMAP_SCAN.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ASYNC UFFD_FEATURE_WP_ASYNC
#define SCAN_REARM (UX_PM_SCAN_WP_MATCHING | UX_PM_SCAN_CHECK_WPASYNC)
#define PAGES 8
/* For hugetlb every page is 2 MiB of the machine's reserve. */
#define FEW 4

static void touch(const struct probe_area *a, size_t i)
{
	probe_done(probe_write(probe_at(a, i)));
}

static size_t written(const struct probe_area *a)
{
	return probe_written(a, a->p, a->len, false);
}

static void no_message(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, FEW, ASYNC);
	PROBE_CHECK(written(&a) == 0, "%zu pages are written before any was", written(&a));
	touch(&a, 1);
	probe_silent(a.fd);
	PROBE_CHECK(probe_written(&a, probe_at(&a, 1), a.page, false) == 1,
		    "the page is not written");
	PROBE_CHECK(probe_written(&a, probe_at(&a, 2), a.page, false) == 0,
		    "the next page is written");
}

static void collect(PROBE_ARGS)
{
	struct probe_area a;
	size_t n;

	probe_arm(&a, kind, FEW, ASYNC);
	touch(&a, 0);
	touch(&a, 2);
	n = probe_written(&a, a.p, a.len, true);
	PROBE_CHECK(n == 2, "%zu pages are written, expected 2", n);
	PROBE_CHECK(written(&a) == 0, "%zu pages are written after they were collected",
		    written(&a));
	touch(&a, 2);
	n = probe_written(&a, a.p, a.len, true);
	PROBE_CHECK(n == 1, "%zu pages are written, expected 1", n);
}

/* ---- Atomicity: a counter a page, and a shadow of what the scans have seen ---- */

struct race {
	struct probe_area a;
	atomic_bool stop;
	atomic_uint writes;
};

static struct race race;

PROBE_RACES static long writer(struct probe_job *job)
{
	unsigned int n = 0;

	(void)job;
	while (!atomic_load(&race.stop)) {
		volatile uint64_t *p = (volatile uint64_t *)probe_at(&race.a, n++ % PAGES);

		*p = *p + 1;
	}
	atomic_store(&race.writes, n);
	return 0;
}

/* The page's counter when it was last reported; what is written later must be reported again. */
PROBE_RACES static void take(uint64_t *shadow, const struct ux_page_region *vec, long n)
{
	uint64_t addr;
	long i;

	for (i = 0; i < n; i++) {
		for (addr = vec[i].start; addr < vec[i].end; addr += race.a.page)
			shadow[(addr - (uintptr_t)race.a.p) / race.a.page] = *(
				volatile uint64_t *)(uintptr_t)addr;
	}
}

static long collect_into(uint64_t *shadow)
{
	struct ux_page_region vec[PAGES];
	struct probe_scan s = { .flags = SCAN_REARM, .mask = UX_PAGE_IS_WRITTEN };
	long n;

	s.ret = UX_PAGE_IS_WRITTEN;
	s.vec = vec;
	s.vec_len = PAGES;
	n = probe_scan(0, &s, race.a.p, PAGES * race.a.page);
	PROBE_CHECK(n >= 0, "PAGEMAP_SCAN: %s", strerror((int)-n));
	take(shadow, vec, n);
	return n;
}

PROBE_RACES static void never_lost(PROBE_ARGS)
{
	uint64_t shadow[PAGES];
	struct probe_job *w;
	unsigned int scans, i;

	probe_arm(&race.a, kind, PAGES, ASYNC);
	collect_into(shadow);
	for (i = 0; i < PAGES; i++)
		shadow[i] = *(volatile uint64_t *)probe_at(&race.a, i);
	w = probe_start(writer, 0, 0);
	for (scans = 0; scans < 5000; scans++)
		collect_into(shadow);
	atomic_store(&race.stop, true);
	probe_done(w);
	collect_into(shadow);
	for (i = 0; i < PAGES; i++)
		PROBE_CHECK(shadow[i] == *(volatile uint64_t *)probe_at(&race.a, i),
			    "a write to page %u was not reported", i);
	probe_note("%u writes raced %u collections", atomic_load(&race.writes), scans);
}

/* ---- What PAGEMAP_SCAN takes and gives ---- */

static void sync_range(PROBE_ARGS)
{
	struct probe_scan s = { .flags = SCAN_REARM, .mask = UX_PAGE_IS_WRITTEN };
	struct ux_page_region vec[4];
	struct probe_area a;
	long n;

	s.ret = UX_PAGE_IS_WRITTEN;
	s.vec = vec;
	s.vec_len = 4;
	probe_arm(&a, kind, 2, 0);
	n = probe_scan(0, &s, a.p, a.len);
	PROBE_CHECK(n == -EPERM, "PAGEMAP_SCAN with CHECK_WPASYNC: %ld", n);
	s.flags = 0;
	n = probe_scan(0, &s, a.p, a.len);
	PROBE_CHECK(n == 0, "a protected page is reported as written: %ld", n);
	probe_caught(&a, 0);
	n = probe_scan(0, &s, a.p, a.page);
	PROBE_CHECK(n == 1, "a released page is not reported as written: %ld", n);
}

static void walk_end(PROBE_ARGS)
{
	struct probe_scan s = { .mask = UX_PAGE_IS_WRITTEN, .ret = UX_PAGE_IS_WRITTEN };
	struct ux_page_region vec[1];
	struct probe_area a;
	size_t seen = 0;
	char *at;

	probe_arm(&a, kind, PAGES, ASYNC);
	touch(&a, 1);
	touch(&a, 3);
	touch(&a, 5);
	s.vec = vec;
	s.vec_len = 1;
	for (at = a.p; at < a.p + a.len; at = (char *)(uintptr_t)s.walk_end)
		seen += (size_t)probe_scan(0, &s, at, (size_t)(a.p + a.len - at));
	PROBE_CHECK(seen == 3, "%zu regions, expected 3", seen);
}

static void max_pages(PROBE_ARGS)
{
	struct probe_scan s = { .mask = UX_PAGE_IS_WRITTEN,
				.ret = UX_PAGE_IS_WRITTEN,
				.max_pages = 2 };
	struct ux_page_region vec[4];
	struct probe_area a;
	size_t i;
	long n;

	probe_arm(&a, kind, PAGES, ASYNC);
	for (i = 0; i < 4; i++)
		touch(&a, i);
	s.vec = vec;
	s.vec_len = 4;
	n = probe_scan(0, &s, a.p, a.len);
	PROBE_CHECK(n == 1 && vec[0].end - vec[0].start == 2 * a.page, "%ld regions", n);
	PROBE_CHECK(s.walk_end == vec[0].end, "walk_end is not where it stopped");
}

static void categories(PROBE_ARGS)
{
	uint64_t want = UX_PAGE_IS_WPALLOWED | UX_PAGE_IS_PRESENT, got;
	struct probe_area a;

	if (kind == MEM_THP || PROBE_BIT(kind) & PROBE_HUGETLB)
		want |= UX_PAGE_IS_HUGE;
	if (PROBE_BIT(kind) & PROBE_SHARED)
		want |= UX_PAGE_IS_FILE;
	probe_arm(&a, kind, 2, ASYNC);
	got = probe_categories(&a, 0);
	PROBE_CHECK(got == want, "a protected page has %#llx, expected %#llx",
		    (unsigned long long)got, (unsigned long long)want);
}

/* Two pages that were only read show the same frame, unless the kernel has no zero page for them. */
static void category_zero(PROBE_ARGS)
{
	struct probe_area a;
	uint64_t frame[2], got;

	probe_watch(&a, kind, 2, ASYNC, UFFDIO_REGISTER_MODE_WP);
	for (size_t i = 0; i < 2; i++) {
		(void)probe_get(probe_at(&a, i));
		frame[i] = probe_pagemap(probe_at(&a, i)) & UX_PM_PFN;
	}
	got = probe_categories(&a, 0);
	if (!(got & UX_PAGE_IS_PFNZERO) && !frame[0])
		probe_unsupported("pagemap shows no frame numbers, which takes CAP_SYS_ADMIN");
	if (!(got & UX_PAGE_IS_PFNZERO) && frame[0] != frame[1])
		probe_unsupported(
			"this kernel maps no zero page: what is read gets a page of its own");
	PROBE_CHECK(got & UX_PAGE_IS_PFNZERO, "it says %#llx", (unsigned long long)got);
}

static void markers(PROBE_ARGS)
{
	bool hugetlb = PROBE_BIT(kind) & PROBE_HUGETLB;
	struct probe_area a;
	size_t n;

	probe_watch(&a, kind, 2, ASYNC, UFFDIO_REGISTER_MODE_WP);
	n = written(&a);
	PROBE_CHECK(n == (hugetlb ? 0 : a.len / a.page), "%zu pages are written before protecting",
		    n);
	probe_protect_all(&a);
	PROBE_CHECK(written(&a) == 0, "%zu pages are written after protecting", written(&a));
	touch(&a, 1);
	probe_silent(a.fd);
	PROBE_CHECK(written(&a) == 1, "%zu pages are written, expected 1", written(&a));
}

/* So much that some of it has no page table. */
static void no_page_table(PROBE_ARGS)
{
	struct probe_area a;
	size_t all;

	probe_watch(&a, kind, (unsigned int)((4 << 20) / getpagesize()), ASYNC,
		    UFFDIO_REGISTER_MODE_WP);
	all = a.len / a.page;
	PROBE_CHECK(written(&a) == all, "%zu of %zu pages are written before protecting",
		    written(&a), all);
	PROBE_CHECK(probe_written(&a, a.p, a.len, true) == all, "a scan does not find all pages");
	for (size_t i = 0; i < all; i++)
		(void)probe_get(a.p + i * a.page);
	PROBE_CHECK(written(&a) == 0, "%zu pages that were only read are written", written(&a));
}

/* ---- Discards ---- */

static void dontneed_written(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, FEW, ASYNC);
	PROBE_CHECK(!madvise(a.p, a.page, MADV_DONTNEED), "madvise: %s", strerror(errno));
	PROBE_CHECK(probe_written(&a, a.p, a.page, false) == 1, "the page is not written");
}

static void expect_unreported(const struct probe_area *a)
{
	PROBE_CHECK(probe_written(a, a->p, a->page, false) == 0, "the page is reported as written");
	PROBE_CHECK(!probe_get(a->p), "the content is still there");
}

static void loss_unreported(PROBE_ARGS)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct probe_area a;

	probe_arm(&a, kind, 2, ASYNC);
	if (row->arg)
		PROBE_CHECK(!madvise(a.p, a.page, (int)row->arg), "madvise: %s", strerror(errno));
	else
		PROBE_CHECK(!fallocate(a.m.fd, mode, 0, (off_t)a.page), "fallocate: %s",
			    strerror(errno));
	expect_unreported(&a);
}

static void truncate_unreported(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, ASYNC);
	PROBE_CHECK(!ftruncate(a.m.fd, 0) && !ftruncate(a.m.fd, (off_t)a.len), "ftruncate: %s",
		    strerror(errno));
	expect_unreported(&a);
}

/* ---- Huge pages ---- */

static void thp_splits(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, ASYNC);
	PROBE_CHECK(probe_is_huge(&a), "protecting split it");
	touch(&a, 3);
	PROBE_CHECK(!probe_is_huge(&a), "the write did not split it");
	PROBE_CHECK(written(&a) == 1, "%zu pages are written, expected 1", written(&a));
}

static void thp_scan_whole(PROBE_ARGS)
{
	struct probe_area a;
	size_t n;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	a.fd = probe_uffd(ASYNC | mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	n = probe_written(&a, a.p, a.len, true);
	PROBE_CHECK(n == a.len / a.page, "%zu pages are written", n);
	PROBE_CHECK(probe_is_huge(&a), "collecting split it");
	PROBE_CHECK(written(&a) == 0, "it is not protected");
}

/* ---- Other kernels' and processes' memory ---- */

static void kernel_write(PROBE_ARGS)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct probe_area a;

	probe_arm(&a, kind, 2, ASYNC);
	PROBE_CHECK(read(zero, a.p, 1) == 1, "read: %s", strerror(errno));
	PROBE_CHECK(written(&a) == 1, "%zu pages are written, expected 1", written(&a));
}

static void file_write_unreported(PROBE_ARGS)
{
	const unsigned char byte = PROBE_NEW;
	struct probe_area a;

	probe_arm(&a, kind, 1, ASYNC);
	PROBE_CHECK(pwrite(a.m.fd, &byte, 1, 0) == 1, "pwrite: %s", strerror(errno));
	PROBE_CHECK(probe_get(a.p) == PROBE_NEW && written(&a) == 0, "it is reported as written");
}

/* The child has the memory and writes when it is told to, this process collects. */
static void other_process(PROBE_ARGS)
{
	struct ux_page_region vec[4];
	struct probe_scan s = { .flags = SCAN_REARM, .mask = UX_PAGE_IS_WRITTEN };
	struct probe_area a;
	int go[2];
	pid_t pid;
	long n;
	char c;

	probe_map(&a, kind, FEW);
	PROBE_CHECK(!pipe(go), "pipe: %s", strerror(errno));
	pid = probe_fork();
	if (!pid) {
		probe_fill(&a);
		a.fd = probe_uffd(ASYNC | mem_wp_features(kind));
		probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
		probe_protect_all(&a);
		touch(&a, 2);
		c = write(go[1], "g", 1) == 1 ? 0 : 1;
		for (;;)
			pause();
	}
	close(go[1]); /* so that the read ends if the child does */
	PROBE_CHECK(read(go[0], &c, 1) == 1, "the child failed");
	s.ret = UX_PAGE_IS_WRITTEN;
	s.vec = vec;
	s.vec_len = 4;
	n = probe_scan(pid, &s, a.p, a.len);
	PROBE_CHECK(n == 1 && vec[0].start == (uintptr_t)probe_at(&a, 2) &&
			    vec[0].end == vec[0].start + a.page,
		    "PAGEMAP_SCAN of the other process: %ld regions", n);
	PROBE_CHECK(probe_scan(pid, &s, a.p, a.len) == 0, "the page was not protected again");
}

/* Any file can be tracked that way, where synchronous protection is refused. */
static void any_file(PROBE_ARGS)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct probe_area a = { .page = 4096, .len = 4096 };

	a.p = mmap(NULL, a.len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	PROBE_CHECK(fd >= 0 && a.p != MAP_FAILED, "mapping a file: %s", strerror(errno));
	a.page = (size_t)getpagesize();
	a.fd = probe_uffd(ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(&a);
	PROBE_CHECK(written(&a) == 0, "the page is written");
	touch(&a, 0);
	PROBE_CHECK(written(&a) == 1, "the write is not reported");
}

static void implies_unpopulated(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 2, ASYNC, UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(&a);
	PROBE_CHECK(probe_is_wp(a.p), "the page was not marked");
}

static const struct probe_row rows[] = {
	{ .id = "async.no-message",
	  .promise = "With WP_ASYNC the kernel resolves the write itself; PAGEMAP_SCAN tells the "
		     "page.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = no_message },
	{ .id = "async.implies-unpopulated",
	  .promise = "WP_ASYNC implies WP_UNPOPULATED.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ANON,
	  .check = implies_unpopulated },
	{ .id = "async.collect",
	  .promise = "PM_SCAN_WP_MATCHING tells what was written and protects it again.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = collect },
	{ .id = "async.never-lost",
	  .promise = "Telling and protecting again is one atomic step: no write in a race with it "
		     "is lost.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_SMALL,
	  .check = never_lost },
	{ .id = "async.sync-range",
	  .promise = "On synchronous protection CHECK_WPASYNC is EPERM; without it PAGEMAP_SCAN "
		     "tells which pages are not protected.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = sync_range },
	{ .id = "async.walk-end",
	  .promise = "A scan whose vector is full stops; walk_end is where to go on.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_SMALL,
	  .check = walk_end },
	{ .id = "async.max-pages",
	  .promise = "max_pages ends a scan in the middle of a run, and walk_end says where.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_SMALL,
	  .check = max_pages },
	{ .id = "async.categories",
	  .promise = "PAGEMAP_SCAN tells protectable, present, huge and file pages.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = categories },
	{ .id = "async.zero-page",
	  .promise = "PAGEMAP_SCAN tells the zero page (PFNZERO).",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = category_zero },
	{ .id = "async.markers",
	  .promise = "Pages that were never there count as written until they are protected "
		     "(except those of hugetlb); then their first write is told.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = markers },
	{ .id = "async.no-page-table",
	  .promise = "The same of memory that has no page table yet, when it is protected by a scan.",
	  .since = "6.18",
	  .library = "such memory is looked for, and protected by UFFDIO_WRITEPROTECT.",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL & ~PROBE_HUGETLB,
	  .check = no_page_table },
	{ .id = "async.dontneed-anon",
	  .promise = "Anonymous pages discarded by MADV_DONTNEED are reported as written.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ANON,
	  .check = dontneed_written },
	{ .id = "async.remove-unreported",
	  .promise = "Content destroyed by MADV_REMOVE is not reported.",
	  .since = "6.7",
	  .library = "uffdwp_discard() saves first.",
	  .needs = ASYNC,
	  .kinds = PROBE_SHARED,
	  .arg = MADV_REMOVE,
	  .check = loss_unreported },
	{ .id = "async.punch-unreported",
	  .promise = "Content destroyed by punching a hole is not reported.",
	  .since = "6.7",
	  .library = "none possible: discard by uffdwp_discard().",
	  .needs = ASYNC,
	  .kinds = PROBE_SHARED,
	  .check = loss_unreported },
	{ .id = "async.dontneed-private-unreported",
	  .promise = "Content of private mappings of files destroyed by MADV_DONTNEED is not "
		     "reported.",
	  .since = "6.7",
	  .library = "uffdwp_discard() saves first.",
	  .needs = ASYNC,
	  .kinds = PROBE_PRIVATE | PROBE_BIT(MEM_HUGETLB_PRIVATE),
	  .arg = MADV_DONTNEED,
	  .check = loss_unreported },
	{ .id = "async.truncate-unreported",
	  .promise = "Content destroyed by truncation is not reported.",
	  .since = "6.7",
	  .library = "none possible: do not truncate what is watched.",
	  .needs = ASYNC,
	  .kinds = PROBE_SHARED,
	  .check = truncate_unreported },
	{ .id = "async.file-write-unreported",
	  .promise = "A pwrite() to the file is not reported.",
	  .since = "6.7",
	  .library = "none possible. Said in the header's caveats.",
	  .needs = ASYNC,
	  .kinds = PROBE_SHMEM,
	  .check = file_write_unreported },
	{ .id = "async.kernel-write",
	  .promise = "Writes by the kernel (read(2) into the page) are reported.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = kernel_write },
	{ .id = "async.thp-splits",
	  .promise = "The first write to a protected huge page splits it; its other pages stay "
		     "clean.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_BIT(MEM_THP),
	  .check = thp_splits },
	{ .id = "async.thp-collect",
	  .promise = "Collecting a huge page as a whole keeps it whole.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_BIT(MEM_THP),
	  .check = thp_scan_whole },
	{ .id = "async.other-process",
	  .promise = "PAGEMAP_SCAN works, and protects again, on another process's pagemap.",
	  .since = "6.7",
	  .needs = ASYNC,
	  .kinds = PROBE_ALL,
	  .check = other_process },
	{ .id = "async.any-file",
	  .promise = "Private mappings of files on disk can be tracked, which synchronous "
		     "protection refuses.",
	  .since = "6.7",
	  .needs = ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	  .check = any_file },
};

const struct probe_group probe_async = {
	.name = "async",
	.title = "asynchronous protection and PAGEMAP_SCAN",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
