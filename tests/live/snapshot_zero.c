/* SPDX-License-Identifier: MIT */
/*
 * Zeros: pages that hold zeros are told to the sink as such, in ranges; memory that was never
 * populated stays so. Sequential writers get their neighbours saved with one fault. What the
 * snapshot itself takes is little.
 */
#include "../common/snap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Every fourth run of eight pages has data, with one byte of it at a different place in each. */
static size_t fill_some(struct live *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->pages; i++) {
		if (i / 8 % 4 == 1) {
			t->mem.addr[i * t->page + (i * 977) % t->page] = 1;
			n++;
		}
	}
	return n;
}

static void zeros(struct live *t, int mode, bool arm)
{
	struct uffdwp_snapshot_opts o = { 0 };
	struct snap c;
	size_t n;

	memset(t->mem.addr, 1, t->mem.size);
	memset(t->mem.addr, 0, t->mem.size);
	n = fill_some(t);
	snap_open(&c, t, mode, 0);
	snap_new(&c, &o);
	if (arm)
		CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	CHECK_EQ(c.res.saved, n * t->page);
	CHECK_EQ(c.res.zero, (t->pages - n) * t->page);
	CHECK(atomic_load(&c.sink.zeros) <= (int)(t->pages / 32 + 2));
	snap_close(&c);
}

static void zeros_cow(struct live *t)
{
	zeros(t, SNAP_COW_THREADS, true);
	zeros(t, SNAP_COW_SIGBUS, false);
}

static void zeros_precopy(struct live *t)
{
	zeros(t, SNAP_PRE_ASYNC, true);
	zeros(t, SNAP_PRE_ASYNC, false);
	zeros(t, SNAP_PRE_SYNC, true);
}

/* Zeros that were something else in the pass before. */
static void zeroed_again(struct live *t)
{
	struct uffdwp_snapshot_opts o = { 0 };
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, SNAP_PRE_ASYNC, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	memset(t->mem.addr + t->page, 0, t->page);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	memset(t->mem.addr + 3 * t->page, 0, 2 * t->page);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	CHECK_EQ(c.res.zero, 3 * t->page);
	snap_close(&c);
}

/* Pages that a process has, by its pagemap: the zero page is not one. */
static size_t populated(const struct live *t)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	CHECK(fd >= 0);
	for (size_t i = 0; i < t->mem.size / 4096; i++) {
		uint64_t e;

		CHECK_EQ(pread(fd, &e, 8, (off_t)(((uintptr_t)t->mem.addr / 4096 + i) * 8)), 8);
		n += e >> 63;
	}
	close(fd);
	return n;
}

static bool privileged(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	static char here = 1;
	uint64_t e = 0;

	CHECK_EQ(pread(fd, &e, 8, (off_t)((uintptr_t)&here / 4096 * 8)), 8);
	close(fd);
	return e & ((UINT64_C(1) << 55) - 1);
}

static void unpopulated(struct live *t, int mode)
{
	struct uffdwp_snapshot_opts o = { 0 };
	struct uffdwp_info info;
	size_t before, n;
	struct snap c;

	if (!privileged())
		live_skip("frames are not shown: no CAP_SYS_ADMIN");
	n = fill_some(t);
	before = populated(t);
	CHECK(before < t->pages || t->mem.kind == MEM_THP);
	snap_open(&c, t, mode, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	/* Not populated then, and written before the seal; and after it. */
	live_store(t->mem.addr + (t->pages - 1) * t->page, 7);
	snap_writers_pause(&c);
	for (size_t i = 0; i < t->pages; i++) /* not by reading what is not there */
		memset(c.shadow + i * t->page, 0, t->page);
	for (size_t i = 0; i < t->pages; i++)
		if (i / 8 % 4 == 1 || i == t->pages - 1)
			memcpy(c.shadow + i * t->page, t->mem.addr + i * t->page, t->page);
	atomic_store(&c.sink.gate, 1);
	CHECK_EQ(uffdwp_snapshot_seal(c.s), 0);
	live_store(t->mem.addr + 2 * t->page, 9);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(c.res.saved >= (n + 1) * t->page, 1);
	CHECK_EQ(c.res.saved + c.res.zero >= t->mem.size, 1);
	live_info(c.h, &info);
	/* Before 6.4 what is not there can not be protected, and all of it is made present. */
	if (t->mem.kind == MEM_ANON)
		CHECK_EQ(populated(t),
			 info.supported & UFFDWP_FEATURE_WP_UNPOPULATED ? before + 2 : t->pages);
	snap_close(&c);
}

static void unpopulated_cow(struct live *t)
{
	unpopulated(t, SNAP_COW_THREADS);
}

static void unpopulated_precopy(struct live *t)
{
	unpopulated(t, SNAP_PRE_ASYNC);
}

static void unpopulated_sync(struct live *t)
{
	unpopulated(t, SNAP_PRE_SYNC);
}

/* ---- Neighbours ---- */

static void neighbours(struct live *t, uint32_t serve_mode)
{
	struct uffdwp_snapshot_opts o = { .staging = 8u << 20 };
	struct uffdwp_stats st;
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, (int)serve_mode, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	live_stats(c.h, &st);
	/*
	 * Sixteen pages a fault once it is known that the writer is sequential. Of several threads another may serve
	 * the next fault while a release is not in the books yet.
	 */
	if (serve_mode != SNAP_COW_THREADS)
		CHECK(st.write < t->pages / 8);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(c.res.by_fault, t->mem.size);
	CHECK_EQ(c.res.by_sweep, 0);
	/* Few writes, because what lies in a row is one. */
	CHECK(atomic_load(&c.sink.writes) <= (int)(t->mem.size / (128 << 10)) + 2);
	snap_close(&c);
}

static void neighbours_threads(struct live *t)
{
	neighbours(t, SNAP_COW_THREADS);
}

static void neighbours_caller(struct live *t)
{
	neighbours(t, SNAP_COW_CALLER);
}

static void neighbours_sigbus(struct live *t)
{
	neighbours(t, SNAP_COW_SIGBUS);
}

/* Scattered pages come alone. */
static void scattered(struct live *t)
{
	struct uffdwp_snapshot_opts o = { .staging = 4u << 20 };
	uint64_t n = 0;
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, SNAP_COW_THREADS, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	for (size_t i = 0; i < t->pages; i += 3, n++)
		live_store(t->mem.addr + i * t->page, i);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(c.res.by_fault, n * t->page);
	CHECK_EQ(c.res.by_sweep, (t->pages - n) * t->page);
	CHECK_EQ(c.res.waits.count, n);
	snap_close(&c);
}

/* ---- Memory ---- */

static void small_books(struct live *t)
{
	size_t size = 1u << 30;
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .addr = (uintptr_t)mem, .len = size, .mode = UFFDWP_MODE_WP
	};
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct snap_sink k = { .fail_begin = 0 };
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &k.sink, .staging = 8u << 20 };
	struct uffdwp_region *r;
	struct uffdwp_snapshot *s;
	uint64_t books;

	(void)t;
	CHECK(mem != MAP_FAILED);
	CHECK_EQ(uffdwp_region_add(h, &ro, &r), 0);
	snap_sink_init(&k, size, 4096);
	CHECK_EQ(uffdwp_snapshot_new(&s, &r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_poll(s, &res), 0);
	books = res.memory - (8u << 20);
	/* Three bits a page; and what staging needs, which is as large as that. */
	CHECK(books < size / 10000 + (8u << 20) / 32 + (64u << 10));
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	/* By default a hundredth. */
	o.staging = 0;
	CHECK_EQ(uffdwp_snapshot_new(&s, &r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_poll(s, &res), 0);
	CHECK(res.memory >= size / 100 && res.memory < size / 100 + size / 1000);
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	snap_sink_end(&k);
	CHECK_EQ(uffdwp_close(h), 0);
	munmap(mem, size);
}

#define ROW(name, kinds)                 \
	{                                \
#name, name, kinds, 0, 0 \
	}

static const struct live_case cases[] = {
	ROW(zeros_cow, KINDS_ALL),
	ROW(zeros_precopy, KINDS_ALL),
	ROW(zeroed_again, KINDS_ALL),
	ROW(unpopulated_cow, KINDS_ANON),
	ROW(unpopulated_precopy, KINDS_ANON),
	ROW(unpopulated_sync, KINDS_ANON),
	ROW(neighbours_threads, KINDS_ALL & ~KINDS_HUGETLB),
	ROW(neighbours_caller, KINDS_ALL & ~KINDS_HUGETLB),
	ROW(neighbours_sigbus, KINDS_ALL & ~KINDS_HUGETLB),
	ROW(scattered, KINDS_ALL),
	ROW(small_books, KINDS_NONE),
};

LIVE_MAIN(cases)
