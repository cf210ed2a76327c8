/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: what discards and changes of a mapping leave of its protection.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static void dontneed(const struct probe_area *a, int advice)
{
	if (madvise(a->p, a->len, advice))
		probe_unsupported("madvise %d: %s", advice, strerror(errno));
}

static void dontneed_drops(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, row->arg);
	dontneed(&a, MADV_DONTNEED);
	PROBE_CHECK(!probe_is_wp(a.p), "the bit is still set");
	probe_escapes(&a, 0);
}

static void dontneed_keeps(PROBE_ARGS)
{
	bool shared = PROBE_BIT(kind) & PROBE_SHARED;
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	dontneed(&a, MADV_DONTNEED);
	PROBE_CHECK(probe_is_wp(a.p), "the bit is gone");
	PROBE_CHECK(probe_get(a.p) == (shared ? PROBE_BYTE(0) : 0), "the content is wrong");
	probe_caught(&a, 0);
}

static void remove_keeps(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	dontneed(&a, MADV_REMOVE);
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
	probe_caught(&a, 0);
}

static void punch_keeps(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	PROBE_CHECK(!fallocate(a.m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			       (off_t)a.page),
		    "fallocate: %s", strerror(errno));
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
	probe_caught(&a, 0);
}

static void truncated(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	PROBE_CHECK(!ftruncate(a.m.fd, 0) && !ftruncate(a.m.fd, (off_t)a.len), "ftruncate: %s",
		    strerror(errno));
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
	if (kind == MEM_SHMEM)
		return probe_caught(&a, 0);
	probe_escapes(&a, 0);
}

/* Until memory is short nothing happens to the page. */
static void free_keeps(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	dontneed(&a, MADV_FREE);
	PROBE_CHECK(probe_get(a.p) == PROBE_BYTE(0) && probe_is_wp(a.p),
		    "the page or its protection is gone");
	probe_caught(&a, 0);
}

static void missing_again(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;

	probe_map(&a, kind, 2);
	probe_fill(&a);
	a.fd = probe_uffd(mem_wp_features(kind) | mem_missing_features(kind));
	probe_must_register(a.fd, a.p, a.len,
			    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(&a);
	dontneed(&a, (int)row->arg);
	r = probe_read(a.p);
	probe_fault_message(a.fd, a.p, 0);
	probe_expect_err(probe_copy(a.fd, a.p, probe_source(&a, 7), a.page, 0, NULL), 0,
			 "UFFDIO_COPY");
	PROBE_CHECK(probe_done(r) == 7, "the content is wrong");
}

static void mprotect_keeps(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	PROBE_CHECK(!mprotect(a.p, a.len, PROT_NONE) && !mprotect(a.p, a.len, PROT_READ) &&
			    !mprotect(a.p, a.len, PROT_READ | PROT_WRITE),
		    "mprotect: %s", strerror(errno));
	probe_caught(&a, 0);
}

/* An ordinary SIGSEGV, before userfaultfd hears of it. */
static void mprotect_first(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	PROBE_CHECK(!mprotect(a.p, a.len, PROT_READ), "mprotect: %s", strerror(errno));
	PROBE_CHECK(probe_touch(a.p, true) == SIGSEGV, "no SIGSEGV came");
	probe_silent(a.fd);
}

/* It fills a private writable mapping by writing, so that nothing has to be copied later. */
static void mlock_private(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 1, 0);
	j = probe_call(SYS_mlock, (long)a.p, (long)a.page, 0, 0, 0);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.len);
	probe_done(j);
}

static void mlock_shared(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 1, 0);
	j = probe_call(SYS_mlock, (long)a.p, (long)a.page, 0, 0, 0);
	probe_done(j);
	if (j->ret)
		probe_unsupported("mlock: %s", strerror((int)-j->ret));
	probe_silent(a.fd);
	probe_caught(&a, 0);
}

static void split_keeps(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 4, 0);
	PROBE_CHECK(!madvise(probe_at(&a, 1), a.page, MADV_DONTFORK), "madvise: %s",
		    strerror(errno));
	probe_caught(&a, 0);
	probe_caught(&a, 1);
	probe_caught(&a, 2);
}

static const struct probe_row rows[] = {
	{ .id = "discard.dontneed-drops",
	  .promise = "MADV_DONTNEED of anonymous memory drops its protection.",
	  .since = "5.7",
	  .library = "uffdwp_discard() saves first; the pages are protected again by "
		     "uffdwp_protect().",
	  .kinds = PROBE_ANON,
	  .check = dontneed_drops },
	{ .id = "discard.dontneed-drops-marker",
	  .promise = "With WP_UNPOPULATED too, MADV_DONTNEED of anonymous memory drops its "
		     "protection.",
	  .since = "6.4",
	  .library = "uffdwp_discard() saves first; the pages are protected again by "
		     "uffdwp_protect().",
	  .needs = UFFD_FEATURE_WP_UNPOPULATED,
	  .arg = UFFD_FEATURE_WP_UNPOPULATED,
	  .kinds = PROBE_ANON,
	  .check = dontneed_drops },
	{ .id = "discard.dontneed-keeps",
	  .promise = "MADV_DONTNEED of shmem and hugetlb keeps the protection, in private mappings "
		     "too, where the content is lost.",
	  .since = "5.19",
	  .kinds = PROBE_FILES,
	  .check = dontneed_keeps },
	{ .id = "discard.remove-keeps",
	  .promise = "MADV_REMOVE destroys the content and keeps the protection.",
	  .since = "5.19",
	  .library = "uffdwp_discard() saves first.",
	  .kinds = PROBE_SHARED,
	  .check = remove_keeps },
	{ .id = "discard.punch-keeps",
	  .promise = "Punching a hole into the file keeps the protection.",
	  .since = "5.19",
	  .kinds = PROBE_SHARED,
	  .check = punch_keeps },
	{ .id = "discard.truncate",
	  .promise = "Truncating the file and growing it again keeps the protection of shmem, and "
		     "drops that of hugetlb.",
	  .since = "5.19",
	  .library = "none possible: do not truncate what is watched.",
	  .kinds = PROBE_SHARED,
	  .check = truncated },
	{ .id = "discard.free-keeps",
	  .promise = "MADV_FREE keeps content and protection until memory is short.",
	  .since = "5.7",
	  .kinds = PROBE_ANON,
	  .check = free_keeps },
	{ .id = "discard.missing-again-anon",
	  .promise = "After MADV_DONTNEED the page is missing again: its next access is a MISSING "
		     "fault.",
	  .since = "5.7",
	  .kinds = PROBE_ANON,
	  .arg = MADV_DONTNEED,
	  .check = missing_again },
	{ .id = "discard.missing-again-file",
	  .promise = "After MADV_REMOVE the page is missing again: its next access is a MISSING "
		     "fault.",
	  .since = "5.19",
	  .kinds = PROBE_SHARED,
	  .arg = MADV_REMOVE,
	  .check = missing_again },
	{ .id = "discard.mprotect-keeps",
	  .promise = "mprotect to none, to read-only and back keeps the protection.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = mprotect_keeps },
	{ .id = "discard.mprotect-first",
	  .promise = "A write that mprotect forbids is a SIGSEGV and not a message.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = mprotect_first },
	{ .id = "discard.mlock-private",
	  .promise = "mlock of a private writable mapping writes to its pages: protected ones "
		     "fault.",
	  .since = "5.7",
	  .kinds = PROBE_ANON | PROBE_PRIVATE,
	  .check = mlock_private },
	{ .id = "discard.mlock-shared",
	  .promise = "mlock of a shared mapping does not count as a write, and keeps the "
		     "protection.",
	  .since = "5.19",
	  .kinds = PROBE_SHMEM,
	  .check = mlock_shared },
	{ .id = "discard.split-keeps",
	  .promise = "Splitting the mapping (an madvise of a part) keeps protection and "
		     "registration.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = split_keeps },
};

const struct probe_group probe_discard = {
	.name = "discard",
	.title = "what discards and changes of a mapping leave of its protection",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
