/* SPDX-License-Identifier: MIT */
/*
 * What this kernel gives, and what stands in for what it lacks: each is tried, and must be as
 * uffdwp_info() says, or be refused with a reason that names it. `capability NAME VALUE` lines tell
 * tests/kernels.sh, which knows what each kernel must have.
 */
#include "../common/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/uapi-extra.h"

#define SIZE ((size_t)2 << 20) /* a huge page */

static void capability(const char *name, const char *of, const char *value)
{
	printf("capability %s%s %s\n", name, of, value);
}

static const char *yes_no(bool yes)
{
	return yes ? "yes" : "no";
}

/* ---- Features ---- */

static const struct {
	uint64_t bit;
	const char *name, *word; /* word: in the reason of a refusal */
} features[] = {
	{ UFFDWP_FEATURE_PAGEFAULT_FLAG_WP, "wp", "PAGEFAULT_FLAG_WP" },
	{ UFFDWP_FEATURE_EVENT_FORK, "event-fork", "EVENT_FORK" },
	{ UFFDWP_FEATURE_EVENT_REMAP, "event-remap", "EVENT_REMAP" },
	{ UFFDWP_FEATURE_EVENT_REMOVE, "event-remove", "EVENT_REMOVE" },
	{ UFFDWP_FEATURE_EVENT_UNMAP, "event-unmap", "EVENT_UNMAP" },
	{ UFFDWP_FEATURE_MISSING_HUGETLBFS, "missing-hugetlbfs", "MISSING_HUGETLBFS" },
	{ UFFDWP_FEATURE_MISSING_SHMEM, "missing-shmem", "MISSING_SHMEM" },
	{ UFFDWP_FEATURE_SIGBUS, "sigbus", "SIGBUS" },
	{ UFFDWP_FEATURE_THREAD_ID, "thread-id", "THREAD_ID" },
	{ UFFDWP_FEATURE_MINOR_HUGETLBFS, "minor-hugetlbfs", "MINOR_HUGETLBFS" },
	{ UFFDWP_FEATURE_MINOR_SHMEM, "minor-shmem", "MINOR_SHMEM" },
	{ UFFDWP_FEATURE_EXACT_ADDRESS, "exact-address", "EXACT_ADDRESS" },
	{ UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM, "wp-hugetlbfs-shmem", "WP_HUGETLBFS_SHMEM" },
	{ UFFDWP_FEATURE_WP_UNPOPULATED, "wp-unpopulated", "WP_UNPOPULATED" },
	{ UFFDWP_FEATURE_POISON, "poison", "POISON" },
	{ UFFDWP_FEATURE_WP_ASYNC, "wp-async", "WP_ASYNC" },
	{ UFFDWP_FEATURE_MOVE, "move", "MOVE" },
	/* The library knows no name for these; it must not take them for its own. */
	{ UINT64_C(1) << 17, "rwp", NULL },
	{ UINT64_C(1) << 18, "rwp-async", NULL },
};

static uint64_t supported(void)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_CALLER, 0);
	struct uffdwp_info info;

	live_info(h, &info);
	capability("source", "", info.source == UFFDWP_SOURCE_DEVICE ? "device" : "syscall");
	CHECK_EQ(info.populates, !(info.features & UFFDWP_FEATURE_WP_UNPOPULATED));
	CHECK_EQ(info.features & UFFDWP_FEATURE_WP_ASYNC, 0);
	CHECK_EQ(uffdwp_close(h), 0);
	return info.supported;
}

static void require(uint64_t bit, const char *word, bool has)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = bit == UFFDWP_FEATURE_SIGBUS ? UFFDWP_SERVE_SIGBUS
								       : UFFDWP_SERVE_CALLER,
				 .required = bit,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct uffdwp_info info;
	struct uffdwp *h;
	int err = uffdwp_open(&h, &o);

	if (!has) {
		CHECK_EQ(err, -EOPNOTSUPP);
		if (!strstr(reason, word))
			FAIL("no word of %s in the reason: %s", word, reason);
		return;
	}
	if (err)
		FAIL("%s: %s", word, reason);
	live_info(h, &info);
	CHECK(info.features & bit);
	CHECK_EQ(info.async, bit == UFFDWP_FEATURE_WP_ASYNC);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void each_feature(struct live *t)
{
	uint64_t have = supported();

	(void)t;
	if (geteuid())
		live_skip("not root, and EVENT_FORK needs CAP_SYS_PTRACE");
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		bool has = have & features[i].bit;

		if (features[i].word)
			require(features[i].bit, features[i].word, has);
		capability("feature-", features[i].name, yes_no(has));
	}
}

/* A descriptor that catches the faults of user mode alone, which needs no privilege. */
static void user_mode(struct live *t)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .faults = UFFDWP_FAULTS_USER,
				 .serve = UFFDWP_SERVE_CALLER,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct uffdwp_info info;
	struct uffdwp *h;
	int err = uffdwp_open(&h, &o);

	(void)t;
	if (err) {
		CHECK_EQ(err, -EOPNOTSUPP);
		CHECK(strstr(reason, "5.11"));
	} else {
		live_info(h, &info);
		CHECK_EQ(info.faults, UFFDWP_FAULTS_USER);
		CHECK_EQ(uffdwp_close(h), 0);
	}
	capability("user-mode-only", "", yes_no(!err));
}

/* ---- Memory ---- */

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	atomic_fetch_add((_Atomic int *)ctx, 1);
	return 0;
}

static const struct uffdwp_ops counting = { .sz = sizeof(counting), .write = on_write };

static int add(struct uffdwp *h, const struct mem *m, uint32_t mode, char *reason, void *ctx,
	       struct uffdwp_region **r)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)m->addr,
					.len = m->size,
					.page_size = m->page_size,
					.mode = mode,
					.ops = &counting,
					.ctx = ctx,
					.reason = reason,
					.reason_size = 256 };

	return uffdwp_region_add(h, &o, r);
}

/* Every kind of memory, filled: its writes are caught, or it is refused because of what it is. */
static void protects(enum mem_kind kind)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp_region *r;
	_Atomic int calls = 0;
	char reason[256] = "";
	struct mem m;
	int err = mem_map(&m, kind, SIZE);

	if (err)
		FAIL("%s: %s", mem_name(kind), strerror(-err));
	for (size_t i = 0; i < m.size; i += m.page_size)
		live_store(m.addr + i, i);
	err = add(h, &m, UFFDWP_MODE_WP, reason, &calls, &r);
	if (err) {
		CHECK_EQ(err, -EOPNOTSUPP);
		CHECK(strstr(reason, "5.19"));
	} else {
		CHECK_EQ(uffdwp_protect(r, (uintptr_t)m.addr, m.size, NULL), 0);
		for (size_t i = 0; i < m.size; i += m.page_size)
			live_store(m.addr + i, 1);
		CHECK_EQ(atomic_load(&calls), m.size / m.page_size);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	mem_unmap(&m);
	capability("protects-", mem_name(kind), yes_no(!err));
}

static bool is_present(const char *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	CHECK(fd >= 0);
	CHECK_EQ(pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)addr / 4096 * 8)), 8);
	close(fd);
	return entry & UX_PM_PRESENT;
}

/* Anonymous pages that were never there: marked by the kernel, or filled in by the library. */
static void never_there(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp_region *r;
	struct uffdwp_info info;
	_Atomic int calls = 0;
	char *page;
	size_t n = 0;

	live_info(h, &info);
	CHECK_EQ(add(h, &t->mem, UFFDWP_MODE_WP, NULL, &calls, &r), 0);
	CHECK_EQ(uffdwp_protect(r, (uintptr_t)t->mem.addr, t->mem.size, NULL), 0);
	for (size_t i = 0; i < t->pages; i++)
		n += is_present(t->mem.addr + i * t->page);
	CHECK_EQ(n, info.populates ? t->pages : 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 1);
	CHECK_EQ(atomic_load(&calls), t->pages);
	CHECK_EQ(uffdwp_close(h), 0);
	page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	capability("never-there", "",
		   !info.populates			     ? "marked"
		   : madvise(page, 4096, MADV_POPULATE_READ) ? "filled-by-reading"
							     : "filled-by-madvise");
	munmap(page, 4096);
}

/* Content of the page cache that is mapped when it is asked for. */
static void has_minor(enum mem_kind kind)
{
	uint64_t need = kind == MEM_SHMEM ? UFFDWP_FEATURE_MINOR_SHMEM
					  : UFFDWP_FEATURE_MINOR_HUGETLBFS;
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp_region *r;
	struct uffdwp_info info;
	struct uffdwp_stats st;
	char reason[256], *second;
	struct mem m;
	int err;

	CHECK_EQ(mem_map(&m, kind, SIZE), 0);
	second = mmap(NULL, m.size, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
	CHECK(second != MAP_FAILED);
	live_store(second, 7);
	live_info(h, &info);
	err = add(h, &m, UFFDWP_MODE_MINOR, reason, NULL, &r);
	if (info.features & need) {
		CHECK_EQ(err, 0);
		CHECK_EQ(live_load(m.addr), 7);
		live_stats(h, &st);
		CHECK_EQ(st.minor, 1);
	} else {
		CHECK(err == -EINVAL || err == -EOPNOTSUPP);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	munmap(second, m.size);
	mem_unmap(&m);
	capability("minor-", mem_name(kind), yes_no(!err));
}

static void each_memory(struct live *t)
{
	int huge = mem_hugepages_reserve(SIZE);

	(void)t;
	for (int kind = 0; kind < MEM_KINDS; kind++) {
		if (!huge || !(BIT(kind) & KINDS_HUGETLB))
			protects((enum mem_kind)kind);
		if (BIT(kind) & KINDS_SHARED && (!huge || kind == MEM_SHMEM))
			has_minor((enum mem_kind)kind);
	}
	if (huge)
		live_skip("hugepages can not be had: %s", strerror(-huge));
	mem_hugepages_restore();
}

/* PAGEMAP_SCAN, which asynchronous tracking is collected with; it came with the feature. */
static void scan(struct live *t)
{
	struct ux_scan arg = { .size = sizeof(arg),
			       .start = (uintptr_t)t->mem.addr,
			       .end = (uintptr_t)t->mem.addr + t->mem.size };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), err;
	struct uffdwp *h = live_open(UFFDWP_SERVE_CALLER, 0);
	struct uffdwp_info info;

	CHECK(fd >= 0);
	err = ioctl(fd, UX_PAGEMAP_SCAN, &arg) < 0 ? errno : 0;
	close(fd);
	live_info(h, &info);
	CHECK_EQ(uffdwp_close(h), 0);
	CHECK_EQ(err, info.supported & UFFDWP_FEATURE_WP_ASYNC ? 0 : ENOTTY);
	capability("pagemap-scan", "", yes_no(!err));
}

static const struct live_case cases[] = {
	{ "features", each_feature, KINDS_NONE, 0, 5 },
	{ "user-mode", user_mode, KINDS_NONE, 0, 5 },
	{ "memory", each_memory, KINDS_NONE, 0, 0 },
	{ "never-there", never_there, BIT(MEM_ANON), 0, 5 },
	{ "scan", scan, BIT(MEM_ANON), 0, 5 },
};

LIVE_MAIN(cases)
