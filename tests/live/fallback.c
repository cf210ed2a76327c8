/* SPDX-License-Identifier: MIT */
/*
 * What older kernels, and containers, lack, taken away here by masking features and by filters: what stands in for
 * it runs, or the refusal says what is missing.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../common/deny.h"
#include "../common/live.h"
#include "../common/snap.h"
#include "common/uapi-extra.h"
#include <uffdwp/snapshot.h>
#include <uffdwp/track.h>

/* ---- What no option and no filter takes away: the Makefile puts these before the library's calls ---- */

#define PM_WP (UINT64_C(1) << 57)

struct uffdwp__scan;
int64_t __wrap_uffdwp__sys_pagemap_read(int fd, uint64_t addr, uint64_t *entries, uint64_t n);
int64_t __real_uffdwp__sys_pagemap_read(int fd, uint64_t addr, uint64_t *entries, uint64_t n);
int __wrap_uffdwp__sys_pagemap_scan(int fd, struct uffdwp__scan *arg);
int __real_uffdwp__sys_pagemap_scan(int fd, struct uffdwp__scan *arg);
int __wrap_uffdwp__sys_writeprotect(int fd, uint64_t addr, uint64_t len, bool on);
int __real_uffdwp__sys_writeprotect(int fd, uint64_t addr, uint64_t len, bool on);

static bool pagemap_is_old;
static _Atomic uint64_t seam; /* where a mapping ends, and the next begins */
static _Atomic int refused;

int64_t __wrap_uffdwp__sys_pagemap_read(int fd, uint64_t addr, uint64_t *entries, uint64_t n)
{
	int64_t got = __real_uffdwp__sys_pagemap_read(fd, addr, entries, n);

	for (int64_t i = 0; i < got && pagemap_is_old; i++)
		entries[i] &= ~PM_WP;
	return got;
}

int __wrap_uffdwp__sys_pagemap_scan(int fd, struct uffdwp__scan *arg)
{
	return pagemap_is_old ? -ENOTTY : __real_uffdwp__sys_pagemap_scan(fd, arg);
}

int __wrap_uffdwp__sys_writeprotect(int fd, uint64_t addr, uint64_t len, bool on)
{
	uint64_t at = atomic_load(&seam);

	if (addr < at && at < addr + len) {
		atomic_fetch_add(&refused, 1);
		return -ENOENT;
	}
	return __real_uffdwp__sys_writeprotect(fd, addr, len, on);
}

/* ---- Where the descriptor comes from ---- */

static uint32_t source_of(struct uffdwp_opts o)
{
	struct uffdwp *h = live_open_opts(&o);
	struct uffdwp_info info;

	live_info(h, &info);
	CHECK_EQ(uffdwp_close(h), 0);
	return info.source;
}

static void no_device(struct live *t)
{
	struct uffdwp_opts o = { .sz = sizeof(o), .source = UFFDWP_SOURCE_DEVICE };
	struct uffdwp *h;

	(void)t;
	if (access("/dev/userfaultfd", R_OK | W_OK))
		live_skip(
			"no /dev/userfaultfd (Linux 6.1): refused by name, and replaced by the system call");
	deny(SYS_ioctl, 1, (uint32_t)USERFAULTFD_IOC_NEW, EPERM);
	CHECK_EQ(source_of((struct uffdwp_opts){ .threads = 1 }), UFFDWP_SOURCE_SYSCALL);
	CHECK_EQ(uffdwp_open(&h, &o), -EPERM);
}

static void no_syscall(struct live *t)
{
	struct uffdwp_opts o = { .sz = sizeof(o), .source = UFFDWP_SOURCE_SYSCALL };
	struct uffdwp *h;

	(void)t;
	if (access("/dev/userfaultfd", R_OK | W_OK))
		live_skip(
			"no /dev/userfaultfd (Linux 6.1): refused by name, and replaced by the system call");
	deny(SYS_userfaultfd, -1, 0, ENOSYS);
	CHECK_EQ(source_of((struct uffdwp_opts){ .threads = 1 }), UFFDWP_SOURCE_DEVICE);
	CHECK_EQ(uffdwp_open(&h, &o), -ENOSYS);
}

/* ---- Protection ---- */

static size_t present(const struct live *t)
{
	unsigned char *vec = calloc(t->pages, 1);
	size_t n = 0;

	CHECK(vec);
	CHECK_EQ(mincore(t->mem.addr, t->mem.size, vec), 0);
	for (size_t i = 0; i < t->pages; i++)
		n += vec[i] & 1;
	free(vec);
	return n;
}

/* Linux before 5.14, and before 6.4: each page is read, through the kernel. */
static void no_populate_read(struct live *t)
{
	struct uffdwp_opts o = { .threads = 1, .masked = UFFDWP_FEATURE_WP_UNPOPULATED };
	struct uffdwp *h = live_open_opts(&o);
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);
	struct uffdwp_stats st;

	deny(SYS_madvise, 2, MADV_POPULATE_READ, EINVAL);
	CHECK_EQ(madvise(t->mem.addr, t->page, MADV_POPULATE_READ), -1);
	CHECK_EQ(present(t), 0);
	live_protect(t, r);
	CHECK_EQ(present(t), t->pages);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	live_stats(h, &st);
	CHECK(st.write > 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* Linux before 5.19: private memory without a file can, and nothing else. */
static void no_shmem(struct live *t)
{
	struct uffdwp_opts o = { .threads = 1, .masked = UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdwp *h = live_open_opts(&o);
	char reason[256] = "";
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)t->mem.addr,
					 .len = t->mem.size,
					 .page_size = t->page,
					 .mode = UFFDWP_MODE_WP,
					 .reason = reason,
					 .reason_size = sizeof(reason) };
	struct uffdwp_region *r;

	if (BIT(t->mem.kind) & KINDS_ANON) {
		CHECK_EQ(uffdwp_region_add(h, &ro, &r), 0);
		live_protect(t, r);
	} else {
		CHECK_EQ(uffdwp_region_add(h, &ro, &r), -EOPNOTSUPP);
		CHECK(strstr(reason, "WP_HUGETLBFS_SHMEM"));
	}
	CHECK_EQ(uffdwp_close(h), 0);
}

static int count_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	_Atomic uint32_t *writes = ctx;

	for (uint64_t at = 0; at < f->len; at += uffdwp_region_page_size(r))
		atomic_fetch_add(&writes[(f->offset + at) / uffdwp_region_page_size(r)], 1);
	return 0;
}

static void write_each(struct live *t, _Atomic uint32_t *writes, uint32_t want)
{
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(atomic_load(&writes[i]), want);
}

/* Linux before 6.3 refuses a range of two mappings, and does not say where the second begins. */
static void no_seams(struct live *t)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = count_write };
	struct uffdwp_opts o = { .threads = 1 };
	struct uffdwp *h = live_open_opts(&o);
	_Atomic uint32_t *writes = calloc(t->pages, sizeof(*writes));
	struct uffdwp_region *r;

	CHECK(writes);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, (void *)writes);
	atomic_store(&seam, (uintptr_t)t->mem.addr + (t->pages / 3 + 1) * t->page);
	live_protect(t, r);
	write_each(t, writes, 1);
	live_protect(t, r);
	CHECK_EQ(uffdwp_unprotect(r, (uintptr_t)t->mem.addr, t->mem.size, NULL), 0);
	write_each(t, writes, 1);
	CHECK(atomic_load(&refused) >= 3);
	CHECK_EQ(uffdwp_close(h), 0);
	free((void *)writes);
}

/* ---- Tracking and snapshots ---- */

static void track_once(struct live *t, struct uffdwp_region *r, uint32_t mechanism)
{
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	struct uffdwp_track *track;

	CHECK_EQ(uffdwp_track_start(&track, &r, 1, NULL), 0);
	CHECK_EQ(uffdwp_track_info(track, &info), 0);
	CHECK_EQ(info.mechanism, mechanism);
	live_store(t->mem.addr, 1);
	CHECK_EQ(uffdwp_track_collect(track, &q), 0);
	CHECK_EQ(q.bytes, t->page);
	CHECK_EQ(uffdwp_track_stop(track), 0);
}

static void shoot_once(struct live *t, struct uffdwp_region *r, uint32_t strategy)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	void *copies[] = { malloc(t->mem.size) };
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &sink };
	struct uffdwp_snapshot *s;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	CHECK_EQ(uffdwp_sink_memory(&sink, copies, 1), 0);
	CHECK_EQ(uffdwp_snapshot_new(&s, &r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_arm(s), 0);
	CHECK_EQ(uffdwp_snapshot_seal(s), 0);
	CHECK_EQ(uffdwp_snapshot_wait(s, &res), 0);
	CHECK_EQ(res.verdict, UFFDWP_SNAPSHOT_COMPLETE);
	CHECK_EQ(res.strategy, strategy);
	CHECK_EQ(memcmp(copies[0], t->mem.addr, t->mem.size), 0);
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	free(copies[0]);
}

/* Linux before 6.7. */
static void no_async(struct live *t)
{
	struct uffdwp_opts o = { .threads = 1,
				 .optional = UFFDWP_FEATURE_WP_ASYNC,
				 .masked = UFFDWP_FEATURE_WP_ASYNC };
	struct uffdwp *h = live_open_opts(&o);
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);

	track_once(t, r, UFFDWP_TRACK_SYNC);
	shoot_once(t, r, UFFDWP_SNAPSHOT_COW);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* A filter that does not know the ioctl, which the kernel has as long as it has WP_ASYNC. */
static void no_scan(struct live *t)
{
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = UFFDWP_SERVE_CALLER,
				 .required = UFFDWP_FEATURE_WP_ASYNC };
	struct uffdwp_opts sync = { .threads = 1 };
	struct uffdwp_track *track;
	struct uffdwp_region *r;
	struct uffdwp *h;

	deny(SYS_ioctl, 1, (uint32_t)UX_PAGEMAP_SCAN, ENOTTY);
	CHECK_EQ(uffdwp_open(&h, &o), 0);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);
	CHECK_EQ(uffdwp_track_start(&track, &r, 1, NULL), -EOPNOTSUPP);
	CHECK_EQ(uffdwp_close(h), 0);
	h = live_open_opts(&sync);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);
	track_once(t, r, UFFDWP_TRACK_SYNC);
	shoot_once(t, r, UFFDWP_SNAPSHOT_COW);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void begin_old(struct snap *c, struct live *t)
{
	struct uffdwp_snapshot_opts o = { 0 };

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(c, t, SNAP_COW_THREADS, UFFDWP_FEATURE_EVENT_REMOVE);
	snap_new(c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c->s), 0);
	snap_hold(c);
}

/*
 * Linux before 5.14: the pagemap does not show protection. So nobody can prove that a page was saved before its
 * discard, and a discard past the library cancels; through it, nothing is lost.
 */
static void no_wp_bit(struct live *t)
{
	uint32_t how = BIT(t->mem.kind) & KINDS_SHARED ? UFFDWP_DISCARD_REMOVE
						       : UFFDWP_DISCARD_DONTNEED;
	int raw = BIT(t->mem.kind) & KINDS_SHARED ? MADV_REMOVE : MADV_DONTNEED;
	char *at = t->mem.addr + 3 * t->page;
	struct snap c;

	pagemap_is_old = true;
	begin_old(&c, t);
	CHECK_EQ(uffdwp_discard(c.r, (uintptr_t)at, 2 * t->page, how, NULL), 0);
	snap_go(&c);
	snap_check_complete(&c);
	snap_close(&c);

	begin_old(&c, t);
	live_store(at, 1);
	live_store(at + t->page, 1);
	CHECK_EQ(madvise(at, 2 * t->page, raw), 0);
	snap_go(&c);
	snap_check_complete(&c);
	snap_close(&c);

	begin_old(&c, t);
	CHECK_EQ(madvise(at, 2 * t->page, raw), 0);
	snap_go(&c);
	snap_check_verdict(&c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_DISCARDED, 0);
	CHECK_EQ(c.res.addr, (uintptr_t)at);
	snap_close(&c);
}

static const struct live_case cases[] = {
	{ "no-device", no_device, KINDS_NONE, 0, 0 },
	{ "no-syscall", no_syscall, KINDS_NONE, 0, 0 },
	{ "no-populate-read", no_populate_read, BIT(MEM_ANON), 0, 0 },
	{ "no-shmem", no_shmem, KINDS_ALL, 0, 0 },
	{ "no-async", no_async, KINDS_ALL, 0, 0 },
	{ "no-seams", no_seams, KINDS_ALL, 0, 0 },
	{ "no-wp-bit", no_wp_bit, KINDS_ALL, UFFDWP_FEATURE_EVENT_REMOVE, 0 },
	{ "no-scan", no_scan, KINDS_ALL, UFFDWP_FEATURE_WP_ASYNC, 0 },
};

LIVE_MAIN(cases)
