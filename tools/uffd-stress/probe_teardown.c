/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: unregistering, registering again, closing, and stopping a reader.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REG_WP UFFDIO_REGISTER_MODE_WP
#define REG_MISSING UFFDIO_REGISTER_MODE_MISSING

static struct probe_job *sleeping_writer(const struct probe_area *a)
{
	struct probe_job *w = probe_write(a->p);

	probe_fault_message(a->fd, a->p, PROBE_WP_FLAGS);
	return w;
}

static void unregister_sleeps(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 1, 0);
	w = sleeping_writer(&a);
	probe_expect_err(probe_unregister(a.fd, a.p, a.len), 0, "UFFDIO_UNREGISTER");
	probe_sleeps(w);
	probe_expect_err(probe_wake(a.fd, a.p, a.len), 0, "UFFDIO_WAKE");
	probe_done(w);
	probe_silent(a.fd);
}

static void unregister_wakes(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	a.fd = probe_uffd(mem_wp_features(kind) | mem_missing_features(kind));
	probe_must_register(a.fd, a.p, a.len, REG_WP | REG_MISSING);
	probe_protect_all(&a);
	w = sleeping_writer(&a);
	probe_expect_err(probe_unregister(a.fd, a.p, a.len), 0, "UFFDIO_UNREGISTER");
	probe_done(w);
}

static void unregister_drops(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	probe_expect_err(probe_unregister(a.fd, a.p, a.len), 0, "UFFDIO_UNREGISTER");
	PROBE_CHECK(!probe_is_wp(a.p), "the bit is still set");
	probe_escapes(&a, 0);
	probe_must_register(a.fd, a.p, a.len, REG_WP);
	probe_escapes(&a, 0);
}

static void second_uffd(PROBE_ARGS)
{
	struct probe_area a;
	int other;

	probe_arm(&a, kind, 1, 0);
	other = probe_uffd(mem_wp_features(kind));
	probe_expect_err(probe_register(other, a.p, a.len, REG_WP, NULL), -EBUSY,
			 "UFFDIO_REGISTER");
	probe_caught(&a, 0);
}

/* Refused from 7.3 on; before, a bit without a handler is left. */
static void strands(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;
	int err;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	a.fd = probe_uffd(mem_wp_features(kind) | mem_missing_features(kind));
	probe_must_register(a.fd, a.p, a.len, REG_WP);
	probe_protect_all(&a);
	err = probe_register(a.fd, a.p, a.len, REG_MISSING, NULL);
	if (err == -EBUSY) {
		probe_note("this kernel refuses it (EBUSY)");
		return probe_caught(&a, 0);
	}
	probe_expect_err(err, 0, "UFFDIO_REGISTER without write protection");
	PROBE_CHECK(probe_is_wp(a.p), "the bit is gone");
	w = probe_write(a.p);
	probe_note("this kernel lets it, and the writer %s", probe_spins(w) ? "spins" : "goes on");
	probe_silent(a.fd);
}

static void register_keeps(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	probe_must_register(a.fd, a.p, a.len, REG_WP);
	probe_caught(&a, 0);
}

static void read_only_shared(PROBE_ARGS)
{
	struct probe_area a;
	char path[64];
	void *p;
	int ro;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", a.m.fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	p = mmap(NULL, a.len, PROT_READ, MAP_SHARED, ro, 0);
	PROBE_CHECK(ro >= 0 && p != MAP_FAILED, "a read-only mapping: %s", strerror(errno));
	a.fd = probe_uffd(mem_wp_features(kind) | mem_missing_features(kind));
	probe_expect_err(probe_register(a.fd, p, a.len, REG_WP, NULL), -EPERM, "UFFDIO_REGISTER");
}

static void register_partial(PROBE_ARGS)
{
	struct probe_area a;

	probe_map(&a, kind, 4);
	probe_fill(&a);
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, probe_at(&a, 1), a.page, REG_WP);
	probe_protect_range(a.fd, probe_at(&a, 1), a.page);
	probe_escapes(&a, 0);
	probe_caught(&a, 1);
	probe_escapes(&a, 2);
}

/* A file on disk, in the page cache: not what write protection is for. */
static void plain_file(PROBE_ARGS)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;

	PROBE_CHECK(fd >= 0 && p != MAP_FAILED, "mapping a file: %s", strerror(errno));
	if (row->needs)
		features |= row->needs;
	probe_expect_err(probe_register(probe_uffd(features), p, 4096, REG_WP, NULL), -EINVAL,
			 "UFFDIO_REGISTER");
}

/* ---- Closing ---- */

static void close_releases(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 2, 0);
	w = sleeping_writer(&a);
	close(a.fd);
	probe_done(w);
	PROBE_CHECK(probe_get(a.p) == PROBE_NEW, "the write is lost");
	PROBE_CHECK(!probe_is_wp(probe_at(&a, 1)), "the bit of the next page is still set");
	probe_done(probe_write(probe_at(&a, 1)));
}

static void unserved_sleeps(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 1, 0);
	w = probe_write(a.p);
	probe_sleeps(w);
	probe_nap(200);
	probe_sleeps(w);
}

static long read_blocking(struct probe_job *job)
{
	struct uffd_msg msg;
	ssize_t n = read((int)job->arg[0], &msg, sizeof(msg));

	return n < 0 ? -errno : n;
}

static void close_under_reader(PROBE_ARGS)
{
	int fd = probe_descriptor(0);
	struct uffdio_api api;
	struct probe_job *j;

	probe_expect_err(probe_handshake(fd, 0, &api), 0, "UFFDIO_API");
	j = probe_start(read_blocking, fd, 0);
	probe_sleeps(j);
	syscall(SYS_close, fd); /* close() in a race with read() is what ThreadSanitizer reports */
	probe_nap(200);
	probe_sleeps(j);
}

static long poll_both(struct probe_job *job)
{
	struct pollfd p[2] = {
		{ .fd = (int)job->arg[0], .events = POLLIN },
		{ .fd = (int)job->arg[1], .events = POLLIN },
	};

	return poll(p, 2, -1) == 1 && p[1].revents & POLLIN;
}

static void stopped_by_eventfd(PROBE_ARGS)
{
	int stop = eventfd(0, EFD_CLOEXEC);
	struct probe_job *j = probe_start(poll_both, probe_uffd(0), stop);
	uint64_t one = 1;

	probe_sleeps(j);
	PROBE_CHECK(write(stop, &one, sizeof(one)) == sizeof(one), "eventfd: %s", strerror(errno));
	PROBE_CHECK(probe_done(j) == 1, "the eventfd did not end the poll");
}

static const struct probe_row rows[] = {
	{ .id = "teardown.unregister-sleeps",
	  .promise = "UFFDIO_UNREGISTER of a range registered for write protection alone does not "
		     "wake writers that sleep there; UFFDIO_WAKE still does.",
	  .since = "5.7",
	  .library = "wakes after it unregisters.",
	  .kinds = PROBE_ALL,
	  .check = unregister_sleeps },
	{ .id = "teardown.unregister-wakes",
	  .promise = "Registered for missing faults too, it does wake them.",
	  .since = "5.7",
	  .library = "wakes in any case.",
	  .kinds = PROBE_ALL,
	  .check = unregister_wakes },
	{ .id = "teardown.unregister-drops",
	  .promise = "UFFDIO_UNREGISTER drops the protection; registering again does not bring it "
		     "back.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = unregister_drops },
	{ .id = "teardown.second-uffd",
	  .promise = "A second userfaultfd on the same memory is EBUSY.",
	  .since = "4.3",
	  .library = "-EBUSY from uffdwp_region_add().",
	  .kinds = PROBE_ALL,
	  .check = second_uffd },
	{ .id = "teardown.register-keeps",
	  .promise = "Registering the same range again in the same mode keeps its protection.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = register_keeps },
	{ .id = "teardown.strands",
	  .promise = "Registering again without write protection strands the bits of protected "
		     "pages. Their writers go on, or spin (hugetlb), with no message; Linux 7.3 "
		     "refuses it.",
	  .since = "5.7",
	  .library = "never does; a region has one mode until it is removed.",
	  .kinds = PROBE_ALL,
	  .check = strands },
	{ .id = "teardown.part",
	  .promise = "A part of a mapping can be registered; the rest is not watched.",
	  .since = "5.7",
	  .kinds = PROBE_ALL & ~PROBE_BIT(MEM_THP),
	  .check = register_partial },
	{ .id = "teardown.read-only-shared",
	  .promise = "A shared mapping of a file opened read-only can not be registered (EPERM).",
	  .since = "5.0",
	  .library = "-EPERM from uffdwp_region_add().",
	  .kinds = PROBE_SHARED,
	  .check = read_only_shared },
	{ .id = "teardown.plain-file",
	  .promise = "Mappings of files on disk can not be registered for synchronous protection "
		     "(EINVAL).",
	  .since = "5.7",
	  .check = plain_file },
	{ .id = "teardown.close-releases",
	  .promise = "close() lets sleeping writers go on, unprotected, and drops all protection.",
	  .since = "5.7",
	  .library = "a handler that fails releases everybody, and says so in uffdwp_error().",
	  .kinds = PROBE_ALL,
	  .check = close_releases },
	{ .id = "teardown.unserved",
	  .promise = "As long as the descriptor is open and nobody reads, writers sleep.",
	  .since = "5.7",
	  .library = "a handler that fails releases everybody.",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = unserved_sleeps },
	{ .id = "teardown.close-under-reader",
	  .promise = "close() does not end another thread's blocking read().",
	  .since = "4.3",
	  .library = "serving threads wait by epoll, with an eventfd to end it.",
	  .check = close_under_reader },
	{ .id = "teardown.eventfd",
	  .promise = "poll() on the descriptor and an eventfd can be ended by the eventfd.",
	  .since = "4.3",
	  .check = stopped_by_eventfd },
};

const struct probe_group probe_teardown = {
	.name = "teardown",
	.title = "registering, unregistering, closing, stopping a reader",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
