/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: what UFFDIO_WRITEPROTECT does, refuses and leaves undone.
 */
#include "probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define WP UFFDIO_WRITEPROTECT_MODE_WP
#define DONTWAKE UFFDIO_WRITEPROTECT_MODE_DONTWAKE
#define REG_WP UFFDIO_REGISTER_MODE_WP
#define REG_MISSING UFFDIO_REGISTER_MODE_MISSING

static void arguments(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 2, 0, REG_WP);
	probe_expect_err(probe_wp(a.fd, a.p, a.page, WP | DONTWAKE), -EINVAL, "WP with DONTWAKE");
	probe_expect_err(probe_wp(a.fd, a.p, a.page, 4), -EINVAL, "an unknown mode");
	probe_expect_err(probe_wp(a.fd, a.p, 0, WP), -EINVAL, "length 0");
	probe_expect_err(probe_wp(a.fd, a.p + 8, a.page, WP), -EINVAL, "an unaligned address");
	probe_expect_err(probe_wp(a.fd, a.p, a.page - 8, WP), -EINVAL, "an unaligned length");
}

static void hugetlb_alignment(PROBE_ARGS)
{
	struct probe_area a;
	size_t small = (size_t)getpagesize();

	probe_watch(&a, kind, 2, 0, REG_WP);
	probe_expect_err(probe_wp(a.fd, a.p + small, a.page, WP), -EINVAL,
			 "a small page's address");
	probe_expect_err(probe_wp(a.fd, a.p, small, WP), -EINVAL, "a small page's length");
}

static void unregistered(PROBE_ARGS)
{
	struct probe_area a;

	probe_map(&a, kind, 1);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_expect_err(probe_wp(a.fd, a.p, a.page, WP), -ENOENT, "protecting");
}

static void without_wp(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 1, mem_missing_features(kind), REG_MISSING);
	probe_expect_err(probe_wp(a.fd, a.p, a.page, WP), -ENOENT, "protecting");
}

static void prefix(PROBE_ARGS)
{
	size_t half;
	struct probe_area a;

	probe_map(&a, kind, 4);
	probe_fill(&a);
	half = a.len / 2;
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, half, REG_WP);
	probe_expect_err(probe_wp(a.fd, a.p, a.len, WP), -ENOENT, "protecting both halves");
	probe_caught(&a, 0);
	probe_caught(&a, half / a.page - 1);
}

static void hole(PROBE_ARGS)
{
	struct probe_area a;

	probe_map(&a, kind, 4);
	probe_fill(&a);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, REG_WP);
	PROBE_CHECK(!munmap(probe_at(&a, 1), a.page), "munmap: %s", strerror(errno));
	probe_expect_err(probe_wp(a.fd, a.p, a.len, WP), 0, "protecting around the hole");
	probe_caught(&a, 0);
	probe_caught(&a, 2);
	probe_expect_err(probe_wp(a.fd, probe_at(&a, 1), a.page, WP), -ENOENT,
			 "protecting the hole");
}

/* ---- Waking ---- */

static struct probe_job *caught_writer(const struct probe_area *a)
{
	struct probe_job *w = probe_write(a->p);

	probe_fault_message(a->fd, a->p, PROBE_WP_FLAGS);
	return w;
}

static void no_wake(PROBE_ARGS)
{
	struct probe_job *w;
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	w = caught_writer(&a);
	probe_protect_range(a.fd, a.p, a.page);
	probe_sleeps(w);
	probe_silent(a.fd);
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
}

static void dont_wake(PROBE_ARGS)
{
	struct probe_job *w;
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	w = caught_writer(&a);
	probe_expect_err(probe_wp(a.fd, a.p, a.page, DONTWAKE), 0, "unprotecting with DONTWAKE");
	probe_sleeps(w);
	probe_expect_err(probe_wake(a.fd, a.p, a.page), 0, "UFFDIO_WAKE");
	probe_done(w);
	probe_silent(a.fd);
}

static void wake_again(PROBE_ARGS)
{
	struct probe_job *w;
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	w = caught_writer(&a);
	probe_expect_err(probe_wake(a.fd, a.p, a.page), 0, "UFFDIO_WAKE");
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	PROBE_CHECK(probe_get(a.p) == PROBE_BYTE(0), "the page changed while it was protected");
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
}

static void readers(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	PROBE_CHECK(probe_done(probe_read(a.p)) == PROBE_BYTE(0), "the content is wrong");
	probe_silent(a.fd);
	probe_caught(&a, 0);
}

/* ---- While events are pending ---- */

static struct probe_job *cause(const struct probe_area *a, uint64_t feature)
{
	long at = (long)a->p, page = (long)a->page;

	if (feature == UFFD_FEATURE_EVENT_FORK)
		return probe_fork_job(NULL);
	if (feature == UFFD_FEATURE_EVENT_REMAP)
		return probe_call(SYS_mremap, at, page, page, MREMAP_MAYMOVE | MREMAP_FIXED,
				  (long)probe_at(a, 3));
	if (feature == UFFD_FEATURE_EVENT_UNMAP)
		return probe_call(SYS_munmap, at, page, 0, 0, 0);
	return probe_madvise(a->p, a->page, MADV_DONTNEED);
}

/* Pages far from the event are refused as well. */
static void pending_event(PROBE_ARGS)
{
	struct probe_area a, copy;
	struct uffd_msg msg;
	struct probe_job *j;
	int i, err = -EAGAIN;

	probe_arm(&a, kind, 4, row->arg);
	probe_map(&copy, kind, 1);
	probe_must_register(a.fd, copy.p, copy.len, REG_MISSING | REG_WP);
	j = cause(&a, row->arg);
	probe_pending(a.fd);
	probe_expect_err(probe_wp(a.fd, probe_at(&a, 2), a.page, WP), -EAGAIN, "protecting");
	probe_expect_err(probe_wp(a.fd, probe_at(&a, 2), a.page, 0), -EAGAIN, "unprotecting");
	probe_expect_err(probe_copy(a.fd, copy.p, probe_source(&copy, 1), copy.page, 0, NULL),
			 -EAGAIN, "UFFDIO_COPY");
	PROBE_CHECK(probe_message(a.fd, &msg, PROBE_WAIT_MS), "no event came");
	probe_done(j);
	for (i = 0; i < 1000 && err == -EAGAIN; i++)
		err = probe_wp(a.fd, probe_at(&a, 2), a.page, WP);
	probe_expect_err(err, 0, "protecting after the event was read");
}

/*
 * The reader has the CPU of the thread that caused the event and is not preempted, so
 * that thread can not have run when the reader asks.
 */
static void after_read(PROBE_ARGS)
{
	struct sched_param fifo = { .sched_priority = 1 }, other = { 0 };
	struct probe_area a;
	struct uffd_msg msg;
	struct probe_job *j;
	cpu_set_t cpu;
	int err;

	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	sched_setaffinity(0, sizeof(cpu), &cpu);
	probe_arm(&a, kind, 2, UFFD_FEATURE_EVENT_REMOVE);
	j = probe_madvise(a.p, a.page, MADV_DONTNEED);
	probe_pending(a.fd);
	if (sched_setscheduler(0, SCHED_FIFO, &fifo))
		probe_unsupported("SCHED_FIFO: %s", strerror(errno));
	if (read(a.fd, &msg, sizeof(msg)) != (ssize_t)sizeof(msg))
		probe_fail("no event came");
	err = probe_wp(a.fd, probe_at(&a, 1), a.page, WP);
	sched_setscheduler(0, SCHED_OTHER, &other);
	probe_expect_err(err, -EAGAIN, "protecting just after the event was read");
	probe_done(j);
	probe_expect_err(probe_wp(a.fd, probe_at(&a, 1), a.page, WP), 0, "protecting later");
}

/* ---- Pages that are not there ---- */

static void unpopulated(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 2, 0, REG_WP);
	probe_protect_range(a.fd, a.p, a.len);
	probe_escapes(&a, 1);
}

static void marker(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 2, row->arg, REG_WP);
	probe_protect_all(&a);
	probe_caught(&a, 1);
}

static void marker_read(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 1, row->arg, REG_WP);
	probe_protect_all(&a);
	PROBE_CHECK(probe_done(probe_read(a.p)) == 0, "the page does not read as zeros");
	probe_silent(a.fd);
	probe_caught(&a, 0);
}

static void marker_pagemap(PROBE_ARGS)
{
	uint64_t want = UX_PM_WP, e;
	struct probe_area a;

	probe_watch(&a, kind, 1, row->arg, REG_WP);
	probe_protect_all(&a);
	e = probe_pagemap(a.p);
	if (!(PROBE_BIT(kind) & PROBE_HUGETLB))
		want |= UX_PM_SWAPPED;
	PROBE_CHECK((e & (UX_PM_WP | UX_PM_SWAPPED | UX_PM_PRESENT)) == want,
		    "the pagemap entry is %#llx", (unsigned long long)e);
}

static void marker_missing(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_watch(&a, kind, 1, row->arg | mem_missing_features(kind), REG_WP | REG_MISSING);
	probe_protect_all(&a);
	w = probe_write(a.p);
	probe_fault_message(a.fd, a.p, UFFD_PAGEFAULT_FLAG_WRITE);
	probe_expect_err(probe_copy(a.fd, a.p, probe_source(&a, 1), a.page, UFFDIO_COPY_MODE_WP,
				    NULL),
			 0, "UFFDIO_COPY");
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
}

static void zero_page(PROBE_ARGS)
{
	struct probe_area a;
	size_t i;

	probe_watch(&a, kind, 4, 0, REG_WP);
	for (i = 0; i < a.len / a.page; i++)
		probe_get(probe_at(&a, i));
	probe_protect_all(&a);
	probe_caught(&a, 1);
	PROBE_CHECK(!probe_get(probe_at(&a, 2)), "the zero page was written");
}

static void populate_read(PROBE_ARGS)
{
	struct probe_area a;

	probe_watch(&a, kind, 4, 0, REG_WP);
	if (madvise(a.p, a.len, MADV_POPULATE_READ))
		probe_unsupported("MADV_POPULATE_READ: %s", strerror(errno));
	probe_protect_all(&a);
	probe_caught(&a, 1);
}

static void pagemap_bit(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	PROBE_CHECK(probe_is_wp(a.p) && probe_is_wp(probe_at(&a, 1)), "the bit is not set");
	probe_release_range(a.fd, a.p, a.page);
	PROBE_CHECK(!probe_is_wp(a.p), "the bit is set on a released page");
	PROBE_CHECK(probe_is_wp(probe_at(&a, 1)), "the bit is gone from the next page");
}

#define PENDING(name, what, feature)                                                              \
	{                                                                                         \
		.id = "protect.pending-" name,                                                    \
		.promise = "While " what " is unread, UFFDIO_WRITEPROTECT and UFFDIO_COPY are "   \
			   "EAGAIN, on every page of the process.",                               \
		.since = "4.18",                                                                  \
		.library = "retries, backing off; the serving threads keep reading meanwhile.",   \
		.needs = (feature), .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM, .arg = (feature), \
		.check = pending_event,                                                           \
	}

#define ANON_POPULATES \
	"uses WP_UNPOPULATED, and populates by reading first where the kernel lacks it."

static const struct probe_row rows[] = {
	{ .id = "protect.arguments",
	  .promise = "WP with DONTWAKE, unknown modes, unaligned or empty ranges are EINVAL.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = arguments },
	{ .id = "protect.hugetlb-alignment",
	  .promise = "hugetlb ranges that are not multiples of the huge page are EINVAL.",
	  .since = "5.19",
	  .kinds = PROBE_HUGETLB,
	  .library = "a region of hugetlb memory has the huge page for its page size.",
	  .check = hugetlb_alignment },
	{ .id = "protect.unregistered",
	  .promise = "Protecting memory that is not registered is ENOENT.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = unregistered },
	{ .id = "protect.not-wp",
	  .promise = "Protecting memory registered for missing faults alone is ENOENT.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = without_wp },
	{ .id = "protect.prefix",
	  .promise = "Protecting is not atomic: ENOENT in mid-range leaves what is before "
		     "protected.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .library = "goes in pieces and tells how far it came.",
	  .check = prefix },
	{ .id = "protect.hole",
	  .promise = "Unmapped holes in the range are skipped silently; nothing but a hole is "
		     "ENOENT.",
	  .since = "6.3",
	  .kinds = PROBE_SMALL & ~PROBE_BIT(MEM_THP),
	  .check = hole },
	{ .id = "protect.read",
	  .promise = "Reading a protected page does not fault.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = readers },
	{ .id = "protect.pagemap",
	  .promise = "Bit 57 of /proc/PID/pagemap tells the pages that are protected.",
	  .since = "5.14",
	  .kinds = PROBE_ALL,
	  .check = pagemap_bit },
	{ .id = "protect.no-wake",
	  .promise = "Protecting again does not wake a writer that sleeps; unprotecting does.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = no_wake },
	{ .id = "protect.dontwake",
	  .promise = "Unprotecting with DONTWAKE leaves the writer asleep until UFFDIO_WAKE.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = dont_wake },
	{ .id = "protect.wake-refaults",
	  .promise = "UFFDIO_WAKE without unprotecting only makes the writer fault again.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = wake_again },
	PENDING("remove", "a REMOVE event", UFFD_FEATURE_EVENT_REMOVE),
	PENDING("remap", "a REMAP event", UFFD_FEATURE_EVENT_REMAP),
	PENDING("unmap", "an UNMAP event", UFFD_FEATURE_EVENT_UNMAP),
	PENDING("fork", "a FORK event", UFFD_FEATURE_EVENT_FORK),
	{ .id = "protect.pending-after-read",
	  .promise = "EAGAIN goes on after the event is read, until the thread that caused it has "
		     "run.",
	  .since = "4.18",
	  .library = "retries, backing off, so that the other thread gets the CPU.",
	  .needs = UFFD_FEATURE_EVENT_REMOVE,
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = after_read },
	{ .id = "protect.unpopulated",
	  .promise = "Without WP_UNPOPULATED, anonymous pages that were never there are silently "
		     "not protected.",
	  .since = "5.7",
	  .library = ANON_POPULATES,
	  .kinds = PROBE_ANON,
	  .check = unpopulated },
	{ .id = "protect.zero-page",
	  .promise = "An anonymous page that was only read (the zero page) counts as populated.",
	  .since = "5.7",
	  .kinds = PROBE_ANON,
	  .check = zero_page },
	{ .id = "protect.populate-read",
	  .promise = "MADV_POPULATE_READ is enough to make anonymous memory protectable.",
	  .since = "5.14",
	  .kinds = PROBE_ANON,
	  .check = populate_read },
	{ .id = "protect.marker-anon",
	  .promise = "With WP_UNPOPULATED, anonymous pages that were never there are protected.",
	  .since = "6.4",
	  .needs = UFFD_FEATURE_WP_UNPOPULATED,
	  .arg = UFFD_FEATURE_WP_UNPOPULATED,
	  .kinds = PROBE_ANON,
	  .check = marker },
	{ .id = "protect.marker-file",
	  .promise = "shmem and hugetlb pages that were never there are protected without "
		     "WP_UNPOPULATED, private mappings of them too.",
	  .since = "5.19",
	  .kinds = PROBE_FILES,
	  .check = marker },
	{ .id = "protect.marker-read",
	  .promise = "Reading a protected page that was never there fills it and keeps it "
		     "protected.",
	  .since = "6.4",
	  .needs = UFFD_FEATURE_WP_UNPOPULATED,
	  .arg = UFFD_FEATURE_WP_UNPOPULATED,
	  .kinds = PROBE_ALL,
	  .check = marker_read },
	{ .id = "protect.marker-missing",
	  .promise = "Where missing faults are caught too, a protected page that was never there "
		     "faults as missing first, then as write-protected.",
	  .since = "6.4",
	  .needs = UFFD_FEATURE_WP_UNPOPULATED,
	  .arg = UFFD_FEATURE_WP_UNPOPULATED,
	  .kinds = PROBE_ALL,
	  .check = marker_missing },
	{ .id = "protect.marker-pagemap",
	  .promise = "Protected pages that were never there show as swapped in pagemap, except "
		     "those of hugetlb.",
	  .since = "6.4",
	  .needs = UFFD_FEATURE_WP_UNPOPULATED,
	  .arg = UFFD_FEATURE_WP_UNPOPULATED,
	  .kinds = PROBE_ALL,
	  .check = marker_pagemap },
};

const struct probe_group probe_protect = {
	.name = "protect",
	.title = "what UFFDIO_WRITEPROTECT does, refuses and leaves undone",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
