/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: placing missing pages, and what it does to their protection.
 */
#include "probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define REG_WP UFFDIO_REGISTER_MODE_WP
#define REG_MISSING UFFDIO_REGISTER_MODE_MISSING
#define COPY_WP UFFDIO_COPY_MODE_WP
#define COPY_DONTWAKE UFFDIO_COPY_MODE_DONTWAKE

static void watch_both(struct probe_area *a, enum mem_kind kind, unsigned int pages,
		       uint64_t features)
{
	probe_watch(a, kind, pages, features | mem_missing_features(kind), REG_WP | REG_MISSING);
}

static void must_copy(const struct probe_area *a, size_t i, unsigned char byte, uint64_t mode)
{
	probe_expect_err(probe_copy(a->fd, probe_at(a, i), probe_source(a, byte), a->page, mode,
				    NULL),
			 0, "UFFDIO_COPY");
}

/* ---- UFFDIO_COPY ---- */

static void copy_wakes(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;

	watch_both(&a, kind, 1, 0);
	r = probe_read(a.p);
	probe_fault_message(a.fd, a.p, 0);
	must_copy(&a, 0, 7, COPY_DONTWAKE);
	probe_sleeps(r);
	probe_expect_err(probe_wake(a.fd, a.p, a.page), 0, "UFFDIO_WAKE");
	PROBE_CHECK(probe_done(r) == 7, "the content is wrong");
}

static void copy_wp(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	watch_both(&a, kind, 1, 0);
	w = probe_write(a.p);
	probe_fault_message(a.fd, a.p, UFFD_PAGEFAULT_FLAG_WRITE);
	must_copy(&a, 0, 7, COPY_WP);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	PROBE_CHECK(probe_get(a.p) == 7, "the content is wrong");
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
}

static void copy_wp_unregistered(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 1, mem_missing_features(kind), REG_MISSING);
	probe_expect_err(probe_copy(a.fd, a.p, probe_source(&a, 1), a.page, COPY_WP, NULL), -EINVAL,
			 "UFFDIO_COPY");
}

static void copy_exists(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;
	int64_t done = 0;

	watch_both(&a, kind, 1, 0);
	r = probe_read(a.p);
	probe_fault_message(a.fd, a.p, 0);
	must_copy(&a, 0, 7, COPY_DONTWAKE);
	probe_expect_err(probe_copy(a.fd, a.p, probe_source(&a, 8), a.page, 0, &done), -EEXIST,
			 "UFFDIO_COPY");
	PROBE_CHECK(done == -EEXIST, "copy is %lld, expected -EEXIST", (long long)done);
	probe_sleeps(r);
	probe_expect_err(probe_wake(a.fd, a.p, a.page), 0, "UFFDIO_WAKE");
	PROBE_CHECK(probe_done(r) == 7, "the content is wrong");
}

static void copy_partial(PROBE_ARGS)
{
	struct probe_area a;
	int64_t done = 0;
	char *src;

	watch_both(&a, kind, 4, 0);
	must_copy(&a, 2, 7, 0);
	src = mmap(NULL, 4 * a.page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	PROBE_CHECK(src != MAP_FAILED, "mmap: %s", strerror(errno));
	probe_expect_err(probe_copy(a.fd, a.p, src, 4 * a.page, 0, &done), -EAGAIN, "UFFDIO_COPY");
	PROBE_CHECK(done == 2 * (int64_t)a.page, "copy is %lld, expected two pages",
		    (long long)done);
}

static void copy_gone(PROBE_ARGS)
{
	struct probe_area a;
	const char *src;

	watch_both(&a, kind, 4, 0);
	src = probe_source(&a, 1);
	PROBE_CHECK(!munmap(a.p, a.len), "munmap: %s", strerror(errno));
	probe_expect_err(probe_copy(a.fd, a.p, src, a.page, 0, NULL), -ENOENT, "into a hole");
	probe_map(&a, kind, 1);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_expect_err(probe_copy(a.fd, a.p, src, a.page, 0, NULL), -ENOENT,
			 "into unregistered memory");
}

/* The child leaves its userfaultfd with the parent and ends. */
static void copy_dead(PROBE_ARGS)
{
	struct probe_area a;
	int status;
	pid_t pid;

	probe_map(&a, kind, 1);
	a.fd = -1;
	pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (!pid) {
		a.fd = probe_uffd(mem_wp_features(kind) | mem_missing_features(kind));
		probe_must_register(a.fd, a.p, a.len, REG_WP | REG_MISSING);
		_exit(a.fd);
	}
	PROBE_CHECK(pid > 0 && probe_ends(pid, &status), "the child did not end");
	a.fd = WEXITSTATUS(status);
	probe_expect_err(probe_copy(a.fd, a.p, probe_source(&a, 1), a.page, 0, NULL), -ESRCH,
			 "UFFDIO_COPY");
	probe_expect_err(probe_wp(a.fd, a.p, a.page, 0), -ESRCH, "UFFDIO_WRITEPROTECT");
}

/* What copying first and protecting after lets through. */
static void two_steps(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	watch_both(&a, kind, 1, 0);
	w = probe_write(a.p);
	probe_fault_message(a.fd, a.p, UFFD_PAGEFAULT_FLAG_WRITE);
	must_copy(&a, 0, 7, COPY_DONTWAKE);
	probe_done(probe_write(a.p + 1));
	probe_silent(a.fd);
	probe_protect_range(a.fd, a.p, a.page);
	probe_expect_err(probe_wake(a.fd, a.p, a.page), 0, "UFFDIO_WAKE");
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	PROBE_CHECK(probe_get(a.p + 1) == PROBE_NEW, "the other write did not get in");
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
}

/* ---- Markers ---- */

static void copy_marker(PROBE_ARGS)
{
	struct probe_area a;

	watch_both(&a, kind, 2, row->arg);
	probe_protect_all(&a);
	must_copy(&a, 0, 7, 0);
	must_copy(&a, 1, 7, COPY_WP);
	probe_escapes(&a, 0);
	probe_caught(&a, 1);
}

static void zero_marker(PROBE_ARGS)
{
	struct probe_area a;
	int64_t done = 0;

	watch_both(&a, kind, 1, row->arg);
	probe_protect_all(&a);
	probe_expect_err(probe_zero(a.fd, a.p, a.page, 0, &done), -EEXIST, "UFFDIO_ZEROPAGE");
	PROBE_CHECK(done == -EEXIST, "zeropage is %lld, expected -EEXIST", (long long)done);
	PROBE_CHECK(probe_is_wp(a.p), "the protection is gone");
}

/* shmem has no zero page: it places a page of its own, as UFFDIO_COPY does. */
static void zero_erases(PROBE_ARGS)
{
	struct probe_area a;

	watch_both(&a, kind, 1, row->arg);
	probe_protect_all(&a);
	probe_expect_err(probe_zero(a.fd, a.p, a.page, 0, NULL), 0, "UFFDIO_ZEROPAGE");
	probe_escapes(&a, 0);
}

/* ---- UFFDIO_ZEROPAGE ---- */

static void zero_modes(PROBE_ARGS)
{
	struct probe_area a;

	watch_both(&a, kind, 1, 0);
	probe_expect_err(probe_zero(a.fd, a.p, a.page, 2, NULL), -EINVAL,
			 "UFFDIO_ZEROPAGE with mode 2");
	probe_expect_err(probe_zero(a.fd, a.p, a.page, 0, NULL), 0, "UFFDIO_ZEROPAGE");
	probe_escapes(&a, 0);
}

static void zero_hugetlb(PROBE_ARGS)
{
	struct probe_area a;
	uint64_t ioctls = 0;
	int64_t done;

	probe_map(&a, kind, 1);
	a.fd = probe_uffd(mem_wp_features(kind) | mem_missing_features(kind));
	probe_expect_err(probe_register(a.fd, a.p, a.len, REG_WP | REG_MISSING, &ioctls), 0,
			 "UFFDIO_REGISTER");
	PROBE_CHECK(!(ioctls & 1u << UX_NR_ZEROPAGE), "UFFDIO_REGISTER offers ZEROPAGE");
	probe_expect_err(probe_zero(a.fd, a.p, a.page, 0, &done), -EINVAL, "UFFDIO_ZEROPAGE");
}

/* ---- UFFDIO_CONTINUE ---- */

static uint64_t minor_feature(enum mem_kind kind)
{
	return kind == MEM_SHMEM ? UFFD_FEATURE_MINOR_SHMEM : UFFD_FEATURE_MINOR_HUGETLBFS;
}

/* Memory whose pages are in the page cache and not in this mapping. */
static void watch_minor(struct probe_area *a, enum mem_kind kind, unsigned int pages)
{
	char *other;

	probe_map(a, kind, pages);
	other = mmap(NULL, a->len, PROT_READ | PROT_WRITE, MAP_SHARED, a->m.fd, 0);
	PROBE_CHECK(other != MAP_FAILED, "mmap: %s", strerror(errno));
	memset(other, PROBE_BYTE(0), a->len);
	a->fd = probe_uffd(minor_feature(kind) | mem_wp_features(kind));
	probe_must_register(a->fd, a->p, a->len, UFFDIO_REGISTER_MODE_MINOR | REG_WP);
}

static void minor_fault(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;
	int64_t done = 0;

	watch_minor(&a, kind, 1);
	r = probe_read(a.p);
	probe_fault_message(a.fd, a.p, UFFD_PAGEFAULT_FLAG_MINOR);
	probe_expect_err(probe_continue(a.fd, a.p, a.page, 0, &done), 0, "UFFDIO_CONTINUE");
	PROBE_CHECK(probe_done(r) == PROBE_BYTE(0), "the content is wrong");
	probe_expect_err(probe_continue(a.fd, a.p, a.page, 0, &done), -EEXIST,
			 "UFFDIO_CONTINUE again");
	probe_escapes(&a, 0);
}

static void continue_wp(PROBE_ARGS)
{
	struct probe_area a;

	watch_minor(&a, kind, 1);
	probe_expect_err(probe_continue(a.fd, a.p, a.page, UX_CONTINUE_MODE_WP, NULL), 0,
			 "UFFDIO_CONTINUE with WP");
	probe_caught(&a, 0);
}

/* A minor fault comes first; after a plain CONTINUE nothing is left of the marker. */
static void continue_marker(PROBE_ARGS)
{
	struct probe_area a;

	watch_minor(&a, kind, 2);
	probe_protect_all(&a);
	probe_expect_err(probe_continue(a.fd, a.p, a.page, 0, NULL), 0, "UFFDIO_CONTINUE");
	probe_expect_err(probe_continue(a.fd, probe_at(&a, 1), a.page, UX_CONTINUE_MODE_WP, NULL),
			 0, "UFFDIO_CONTINUE with WP");
	probe_escapes(&a, 0);
	probe_caught(&a, 1);
}

/* ---- UFFDIO_POISON ---- */

static void poison(PROBE_ARGS)
{
	struct probe_area a;
	int sig;

	watch_both(&a, kind, 2, UFFD_FEATURE_POISON);
	must_copy(&a, 1, 7, 0);
	probe_expect_err(probe_poison(a.fd, probe_at(&a, 1), a.page, NULL), -EEXIST,
			 "poisoning a page that is there");
	probe_expect_err(probe_poison(a.fd, a.p, a.page, NULL), 0, "UFFDIO_POISON");
	sig = probe_touch(a.p, false);
	PROBE_CHECK(sig == SIGBUS, "reading the page gave signal %d", sig);
	probe_silent(a.fd);
}

static void poison_marker(PROBE_ARGS)
{
	struct probe_area a;

	watch_both(&a, kind, 1, UFFD_FEATURE_POISON | row->arg);
	probe_protect_all(&a);
	probe_expect_err(probe_poison(a.fd, a.p, a.page, NULL), -EEXIST, "UFFDIO_POISON");
}

static void poison_undone(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;

	watch_both(&a, kind, 1, UFFD_FEATURE_POISON);
	probe_expect_err(probe_poison(a.fd, a.p, a.page, NULL), 0, "UFFDIO_POISON");
	PROBE_CHECK(!madvise(a.p, a.page, MADV_DONTNEED), "MADV_DONTNEED: %s", strerror(errno));
	r = probe_read(a.p);
	probe_fault_message(a.fd, a.p, 0);
	must_copy(&a, 0, 7, 0);
	PROBE_CHECK(probe_done(r) == 7, "the content is wrong");
}

#define UNPOPULATED UFFD_FEATURE_WP_UNPOPULATED

static const struct probe_row rows[] = {
	{ .id = "place.copy-dontwake",
	  .promise = "UFFDIO_COPY with DONTWAKE places the page and leaves its readers asleep.",
	  .since = "4.3",
	  .kinds = PROBE_ALL,
	  .check = copy_wakes },
	{ .id = "place.copy-wp",
	  .promise = "COPY_MODE_WP places the page protected: its writer is caught again, as a "
		     "write.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = copy_wp },
	{ .id = "place.copy-wp-unregistered",
	  .promise = "COPY_MODE_WP in memory that is not registered for write protection is "
		     "EINVAL.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = copy_wp_unregistered },
	{ .id = "place.copy-exists",
	  .promise = "Where a page is already, UFFDIO_COPY is EEXIST (in `copy` too) and wakes "
		     "nobody.",
	  .since = "4.3",
	  .library = "counts the page as done and wakes the range itself.",
	  .kinds = PROBE_ALL,
	  .check = copy_exists },
	{ .id = "place.copy-partial",
	  .promise = "A copy that stops in between is EAGAIN, and `copy` has the bytes done.",
	  .since = "4.3",
	  .library = "goes on from there.",
	  .kinds = PROBE_ALL,
	  .check = copy_partial },
	{ .id = "place.copy-gone",
	  .promise = "Into unmapped or unregistered memory UFFDIO_COPY is ENOENT.",
	  .since = "4.3",
	  .kinds = PROBE_ALL,
	  .check = copy_gone },
	{ .id = "place.copy-dead",
	  .promise = "For a process that has ended, UFFDIO_COPY and UFFDIO_WRITEPROTECT are ESRCH.",
	  .since = "4.13",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = copy_dead },
	{ .id = "place.two-steps",
	  .promise = "UFFDIO_COPY and then UFFDIO_WRITEPROTECT is not atomic, even with DONTWAKE: "
		     "other threads write in between, unseen.",
	  .since = "5.7",
	  .library = "UFFDWP_COPY_WP is one step.",
	  .kinds = PROBE_ALL,
	  .check = two_steps },
	{ .id = "place.copy-marker",
	  .promise = "A plain UFFDIO_COPY to a page that was protected before it was there erases "
		     "the protection; with COPY_MODE_WP it stays.",
	  .since = "6.4",
	  .library = "places with COPY_MODE_WP what it knows to be protected.",
	  .needs = UNPOPULATED,
	  .arg = UNPOPULATED,
	  .kinds = PROBE_ALL,
	  .check = copy_marker },
	{ .id = "place.zero-marker",
	  .promise = "UFFDIO_ZEROPAGE to a page that was protected before it was there is EEXIST.",
	  .since = "6.4",
	  .library = "copies zeros there instead.",
	  .needs = UNPOPULATED,
	  .arg = UNPOPULATED,
	  .kinds = PROBE_ANON | PROBE_PRIVATE,
	  .check = zero_marker },
	{ .id = "place.zero-marker-shmem",
	  .promise = "UFFDIO_ZEROPAGE to a page of shmem that was protected before it was there "
		     "erases the protection.",
	  .since = "6.4",
	  .library = "copies zeros with COPY_MODE_WP there instead.",
	  .needs = UNPOPULATED,
	  .arg = UNPOPULATED,
	  .kinds = PROBE_SHMEM,
	  .check = zero_erases },
	{ .id = "place.zero-modes",
	  .promise = "UFFDIO_ZEROPAGE has no WP mode; its page is not protected.",
	  .since = "5.7",
	  .library = "copies zeros by UFFDIO_COPY where protection is asked for.",
	  .kinds = PROBE_SMALL,
	  .check = zero_modes },
	{ .id = "place.zero-hugetlb",
	  .promise = "hugetlb has no UFFDIO_ZEROPAGE: it is not in the list of ioctls, and EINVAL.",
	  .since = "4.11",
	  .library = "copies zeros by UFFDIO_COPY.",
	  .kinds = PROBE_HUGETLB,
	  .check = zero_hugetlb },
	{ .id = "place.continue",
	  .promise = "A page in the cache that is not in the mapping is a MINOR fault; "
		     "UFFDIO_CONTINUE maps it unprotected, a second time is EEXIST.",
	  .since = "5.14",
	  .needs = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS,
	  .kinds = PROBE_SHARED,
	  .check = minor_fault },
	{ .id = "place.continue-wp",
	  .promise = "CONTINUE_MODE_WP maps the page protected.",
	  .since = "6.4",
	  .needs = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS | UNPOPULATED,
	  .kinds = PROBE_SHARED,
	  .check = continue_wp },
	{ .id = "place.continue-marker",
	  .promise = "A plain UFFDIO_CONTINUE erases protection from before, CONTINUE_MODE_WP "
		     "keeps it.",
	  .since = "6.4",
	  .library = "continues with CONTINUE_MODE_WP what it knows to be protected.",
	  .needs = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS | UNPOPULATED,
	  .kinds = PROBE_SHARED,
	  .check = continue_marker },
	{ .id = "place.poison",
	  .promise = "UFFDIO_POISON makes access to a missing page a SIGBUS; a page that is there "
		     "is EEXIST.",
	  .since = "6.6",
	  .needs = UFFD_FEATURE_POISON,
	  .kinds = PROBE_ALL,
	  .check = poison },
	{ .id = "place.poison-undone",
	  .promise = "MADV_DONTNEED takes the poison away: the page is missing again.",
	  .since = "6.6",
	  .needs = UFFD_FEATURE_POISON,
	  .kinds = PROBE_ALL,
	  .check = poison_undone },
	{ .id = "place.poison-marker",
	  .promise = "UFFDIO_POISON of a page that was protected before it was there is EEXIST.",
	  .since = "6.6",
	  .library = "unprotects before it poisons.",
	  .needs = UFFD_FEATURE_POISON | UNPOPULATED,
	  .arg = UNPOPULATED,
	  .kinds = PROBE_ALL,
	  .check = poison_marker },
};

const struct probe_group probe_place = {
	.name = "place",
	.title = "placing missing pages, and what it does to their protection",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
