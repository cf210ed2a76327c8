/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: which changes of content write protection sees, and which it
 * does not.
 */
#include "probe.h"
#include "probe_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* The content changed, nobody was told, and the page is protected as before. */
static void unseen(const struct probe_area *a)
{
	probe_silent(a->fd);
	PROBE_CHECK(probe_get(a->p) == PROBE_NEW, "the content did not change");
	PROBE_CHECK(probe_is_wp(a->p), "the page is not protected any more");
	probe_caught(a, 0);
}

/* The call waits for the release, and its write is there after it. */
static void seen(const struct probe_area *a, struct probe_job *job, long want)
{
	long ret;

	probe_fault_message(a->fd, a->p, PROBE_WP_FLAGS);
	PROBE_CHECK(probe_get(a->p) == PROBE_BYTE(0), "the page changed while it was protected");
	probe_release_range(a->fd, a->p, a->page);
	ret = probe_done(job);
	PROBE_CHECK(ret == want, "the call returned %ld, expected %ld", ret, want);
	PROBE_CHECK(probe_get(a->p) == PROBE_NEW, "the write is lost");
}

static void second_mapping(PROBE_ARGS)
{
	struct probe_area a;
	char *other;

	probe_arm(&a, kind, 1, 0);
	other = mmap(NULL, a.len, PROT_READ | PROT_WRITE, MAP_SHARED, a.m.fd, 0);
	PROBE_CHECK(other != MAP_FAILED, "mmap: %s", strerror(errno));
	probe_done(probe_write(other));
	unseen(&a);
}

static void file_write(PROBE_ARGS)
{
	const unsigned char byte = PROBE_NEW;
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	PROBE_CHECK(pwrite(a.m.fd, &byte, 1, 0) == 1, "pwrite: %s", strerror(errno));
	unseen(&a);
}

static void forked_child(PROBE_ARGS)
{
	struct probe_area a;
	pid_t pid;

	probe_arm(&a, kind, 1, 0);
	pid = probe_fork();
	if (!pid) {
		*a.p = (char)PROBE_NEW;
		_exit(0);
	}
	probe_reap(pid);
	unseen(&a);
}

/* ---- Files to read from ---- */

static int make_file(const char *dir, int flags)
{
	static unsigned char block[4096] __attribute__((aligned(4096)));
	char path[64];
	int fd, direct;

	snprintf(path, sizeof(path), "%s/uffd-stress.XXXXXX", dir);
	fd = mkstemp(path);
	if (fd < 0)
		probe_unsupported("%s: %s", path, strerror(errno));
	memset(block, PROBE_NEW, sizeof(block));
	PROBE_CHECK(write(fd, block, sizeof(block)) == (ssize_t)sizeof(block), "write: %s",
		    strerror(errno));
	fsync(fd);
	direct = open(path, O_RDONLY | O_CLOEXEC | flags);
	unlink(path);
	if (direct < 0)
		probe_unsupported("%s: opening: %s", dir, strerror(errno));
	return direct;
}

static void direct_read(PROBE_ARGS)
{
	int fd = make_file("/var/tmp", O_DIRECT);
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	seen(&a, probe_call(SYS_pread64, fd, (long)a.p, 4096, 0, 0), 4096);
}

/* ---- io_uring ---- */

static void uring_fixed(PROBE_ARGS)
{
	int fd = make_file("/tmp", 0);
	struct probe_uring u;
	struct probe_area a;
	long n;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	probe_uring_open(&u);
	probe_expect_err(probe_uring_pin(&u, a.p, a.page), 0, "IORING_REGISTER_BUFFERS");
	a.fd = probe_uffd(mem_wp_features(kind));
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(&a);
	n = probe_uring_read(&u, fd, a.p, 4096, 1);
	PROBE_CHECK(n == 4096, "the read gave %ld", n);
	unseen(&a);
}

static long do_pin(struct probe_job *job)
{
	struct probe_uring u;

	probe_uring_open(&u);
	return probe_uring_pin(&u, (void *)job->arg[0], (size_t)job->arg[1]);
}

static void uring_pin_later(PROBE_ARGS)
{
	struct pollfd p = { .events = POLLIN };
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 1, 0);
	j = probe_start(do_pin, (long)a.p, (long)a.page);
	p.fd = a.fd;
	if (!poll(&p, 1, PROBE_WAIT_MS))
		probe_fail("no message came, and registering gave %ld", probe_done(j));
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.page);
	probe_expect_err((int)probe_done(j), 0, "IORING_REGISTER_BUFFERS");
}

static long do_uring_read(struct probe_job *job)
{
	struct probe_uring u;

	probe_uring_open(&u);
	return probe_uring_read(&u, (int)job->arg[1], (void *)job->arg[0], 4096, 0);
}

static void uring_plain(PROBE_ARGS)
{
	int fd = make_file("/tmp", 0);
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	seen(&a, probe_start(do_uring_read, (long)a.p, fd), 4096);
}

/* ---- Other processes ---- */

static long do_vm_writev(struct probe_job *job)
{
	long n = process_vm_writev(getpid(), (struct iovec *)job->arg[0], 1,
				   (struct iovec *)job->arg[1], 1, 0);

	return n < 0 ? -errno : n;
}

static void vm_writev(PROBE_ARGS)
{
	static unsigned char byte = PROBE_NEW;
	static struct iovec local = { &byte, 1 };
	struct iovec remote;
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	remote.iov_base = a.p;
	remote.iov_len = 1;
	seen(&a, probe_start(do_vm_writev, (long)&local, (long)&remote), 1);
}

static void proc_mem(PROBE_ARGS)
{
	static const unsigned char byte = PROBE_NEW;
	struct probe_area a;
	struct probe_job *j;
	int fd;

	probe_arm(&a, kind, 1, 0);
	fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		probe_unsupported("/proc/self/mem: %s", strerror(errno));
	j = probe_call(SYS_pwrite64, fd, (long)&byte, 1, (long)a.p, 0);
	probe_done(j);
	PROBE_CHECK(j->ret == -EIO, "pwrite returned %ld, expected -EIO", j->ret);
	probe_silent(a.fd);
	PROBE_CHECK(probe_get(a.p) == PROBE_BYTE(0), "the content changed");
	probe_caught(&a, 0);
}

static const struct probe_row rows[] = {
	{ .id = "escape.second-mapping",
	  .promise = "A write through a second mapping of the file is not seen.",
	  .since = "5.19",
	  .library = "none possible: protect every mapping. Said in the header's caveats.",
	  .kinds = PROBE_SHARED,
	  .check = second_mapping },
	{ .id = "escape.file-write",
	  .promise = "A pwrite() to the file is not seen.",
	  .since = "5.19",
	  .library = "none possible. Said in the header's caveats.",
	  .kinds = PROBE_SHMEM,
	  .check = file_write },
	{ .id = "escape.forked-child",
	  .promise = "A write of a forked child to MAP_SHARED memory is not seen without "
		     "EVENT_FORK.",
	  .since = "5.19",
	  .library = "with EVENT_FORK the child gets a handle of its own.",
	  .kinds = PROBE_SHARED,
	  .check = forked_child },
	{ .id = "escape.uring-fixed",
	  .promise = "io_uring's writes to a buffer registered before are not seen: its pages are "
		     "pinned.",
	  .since = "5.7",
	  .library = "none possible. Said in the header's caveats.",
	  .kinds = PROBE_ALL,
	  .check = uring_fixed },
	{ .id = "escape.uring-pin-caught",
	  .promise = "Registering protected memory as an io_uring buffer is caught like a write.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = uring_pin_later },
	{ .id = "escape.uring-read-caught",
	  .promise = "io_uring's read into plain memory is caught.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = uring_plain },
	{ .id = "escape.direct-read-caught",
	  .promise = "An O_DIRECT read(2) that begins after protecting is caught.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = direct_read },
	{ .id = "escape.vm-writev-caught",
	  .promise = "process_vm_writev(2) is caught.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = vm_writev },
	{ .id = "escape.proc-mem-fails",
	  .promise = "A write to /proc/PID/mem, as debuggers do, fails with EIO on a protected "
		     "page, with no message.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = proc_mem },
};

const struct probe_group probe_escape = {
	.name = "escape",
	.title = "which changes of content write protection sees, and which escape it",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
