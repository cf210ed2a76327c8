/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: who may open a userfaultfd, and what the handshake says.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define NODE "/dev/userfaultfd"
#define SYSCTL "/proc/sys/vm/unprivileged_userfaultfd"
#define NOBODY 65534
#define CAP_SYS_PTRACE_BIT (1u << 19)

static int by_syscall(int flags)
{
	int fd = (int)syscall(SYS_userfaultfd, flags);

	return fd < 0 ? -errno : fd;
}

/* The node itself, or unsupported: it may be absent from a container's /dev. */
static int open_node(void)
{
	int node = open(NODE, O_RDWR | O_CLOEXEC);

	if (node < 0)
		probe_unsupported(NODE ": %s", strerror(errno));
	return node;
}

static int by_node(int node, int flags)
{
	int fd = ioctl(node, USERFAULTFD_IOC_NEW, flags);

	return fd < 0 ? -errno : fd;
}

static void become_nobody(void)
{
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		probe_unsupported("becoming a plain user: %s", strerror(errno));
}

static void node_gives(PROBE_ARGS)
{
	int node = open_node(), fd = by_node(node, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api;

	PROBE_CHECK(fd >= 0, "USERFAULTFD_IOC_NEW: %s", strerror(-fd));
	probe_expect_err(probe_handshake(fd, 0, &api), 0, "UFFDIO_API");
}

static void syscall_gives(PROBE_ARGS)
{
	int fd = by_syscall(O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api;

	if (fd == -EPERM)
		probe_unsupported("the system call is not permitted here");
	PROBE_CHECK(fd >= 0, "userfaultfd: %s", strerror(-fd));
	probe_expect_err(probe_handshake(fd, 0, &api), 0, "UFFDIO_API");
}

/* Who was given the open node needs nothing more, for faults of the kernel neither. */
static void node_suffices(PROBE_ARGS)
{
	int node = open_node(), fd;

	become_nobody();
	fd = by_node(node, O_CLOEXEC);
	PROBE_CHECK(fd >= 0, "a plain user with the node open got: %s", strerror(-fd));
}

static void node_mode(PROBE_ARGS)
{
	struct stat st;
	bool all;

	if (stat(NODE, &st))
		probe_unsupported(NODE ": %s", strerror(errno));
	all = (st.st_mode & 06) == 06;
	become_nobody();
	PROBE_CHECK((open(NODE, O_RDWR | O_CLOEXEC) >= 0) == all,
		    "a plain user opening it, mode %03o: %s", (unsigned int)st.st_mode & 0777,
		    all ? strerror(errno) : "succeeded");
}

static void deny_syscall(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0))
		probe_unsupported("seccomp: %s", strerror(errno));
}

static void node_beside_seccomp(PROBE_ARGS)
{
	int node, fd;

	node = open_node();
	deny_syscall();
	PROBE_CHECK(by_syscall(O_CLOEXEC) == -EPERM, "the filter did not deny the system call");
	fd = by_node(node, O_CLOEXEC);
	PROBE_CHECK(fd >= 0, "the node: %s", strerror(-fd));
}

static void plain_user(PROBE_ARGS)
{
	bool may = probe_number(SYSCTL);
	int fd;

	become_nobody();
	fd = by_syscall(O_CLOEXEC);
	PROBE_CHECK(may ? fd >= 0 : fd == -EPERM, "with " SYSCTL " %d a plain user got: %d", may,
		    fd);
	fd = by_syscall(O_CLOEXEC | UFFD_USER_MODE_ONLY);
	PROBE_CHECK(fd >= 0, "UFFD_USER_MODE_ONLY: %s", strerror(-fd));
}

static void unknown_flag(PROBE_ARGS)
{
	int fd = by_syscall(O_CLOEXEC | 0x2);

	if (fd == -EPERM)
		probe_unsupported("the system call is not permitted here");
	PROBE_CHECK(fd == -EINVAL, "an unknown flag: %d, expected -EINVAL", fd);
}

/* ---- Handshake ---- */

static void unknown_feature(PROBE_ARGS)
{
	int fd = probe_descriptor(0);
	struct uffdio_api api;

	probe_expect_err(probe_handshake(fd, UINT64_C(1) << 63, &api), -EINVAL, "UFFDIO_API");
	PROBE_CHECK(!api.api && !api.features && !api.ioctls, "the struct is not zeroed");
}

static void failed_handshake(PROBE_ARGS)
{
	int fd = probe_descriptor(0);
	struct uffdio_api api;

	probe_expect_err(probe_handshake(fd, UINT64_C(1) << 63, &api), -EINVAL, "UFFDIO_API");
	probe_expect_err(probe_handshake(fd, 0, &api), 0, "UFFDIO_API again");
}

static void second_handshake(PROBE_ARGS)
{
	int fd = probe_descriptor(0);
	struct uffdio_api api;

	probe_expect_err(probe_handshake(fd, 0, &api), 0, "UFFDIO_API");
	probe_expect_err(probe_handshake(fd, UFFD_FEATURE_THREAD_ID, &api), -EINVAL,
			 "the second UFFDIO_API");
}

/* The answer does not depend on the question. */
static void handshake_lists_all(PROBE_ARGS)
{
	struct uffdio_api none, one;

	probe_expect_err(probe_handshake(probe_descriptor(0), 0, &none), 0, "UFFDIO_API");
	probe_expect_err(probe_handshake(probe_descriptor(0), UFFD_FEATURE_THREAD_ID, &one), 0,
			 "UFFDIO_API");
	PROBE_CHECK(none.features == one.features, "features %#llx and %#llx",
		    (unsigned long long)none.features, (unsigned long long)one.features);
}

static void before_handshake(PROBE_ARGS)
{
	int fd = probe_descriptor(O_NONBLOCK);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct probe_area a;
	struct uffd_msg msg;

	probe_map(&a, MEM_ANON, 1);
	probe_expect_err(probe_register(fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP, NULL), -EINVAL,
			 "UFFDIO_REGISTER");
	PROBE_CHECK(read(fd, &msg, sizeof(msg)) < 0 && errno == EINVAL, "read did not give EINVAL");
	PROBE_CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLERR, "poll gave %#x", p.revents);
}

/* 0 or -errno of the system's capget and capset, without libcap. */
static int drop_ptrace(void)
{
	struct {
		uint32_t version;
		int pid;
	} header = { 0x20080522, 0 };
	struct {
		uint32_t effective, permitted, inheritable;
	} data[2];

	if (syscall(SYS_capget, &header, data))
		return -errno;
	data[0].effective &= ~CAP_SYS_PTRACE_BIT;
	data[0].permitted &= ~CAP_SYS_PTRACE_BIT;
	return syscall(SYS_capset, &header, data) ? -errno : 0;
}

static void fork_needs_ptrace(PROBE_ARGS)
{
	struct uffdio_api api;
	int fd = probe_descriptor(0), err;

	err = probe_handshake(probe_descriptor(0), UFFD_FEATURE_EVENT_FORK, &api);
	if (err == -EPERM)
		probe_unsupported("this process has no CAP_SYS_PTRACE to drop");
	probe_expect_err(err, 0, "UFFDIO_API with the capability");
	probe_expect_err(drop_ptrace(), 0, "dropping CAP_SYS_PTRACE");
	probe_expect_err(probe_handshake(fd, UFFD_FEATURE_EVENT_FORK, &api), -EPERM,
			 "UFFDIO_API without the capability");
}

static void syscall_needs_ptrace(PROBE_ARGS)
{
	bool may = probe_number(SYSCTL);
	int fd;

	probe_expect_err(drop_ptrace(), 0, "dropping CAP_SYS_PTRACE");
	fd = by_syscall(O_CLOEXEC);
	PROBE_CHECK(may ? fd >= 0 : fd == -EPERM, "without CAP_SYS_PTRACE: %d", fd);
}

static void blocking_poll(PROBE_ARGS)
{
	int fd = probe_descriptor(0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct uffdio_api api;

	probe_expect_err(probe_handshake(fd, 0, &api), 0, "UFFDIO_API");
	PROBE_CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLERR, "poll gave %#x", p.revents);
	PROBE_CHECK(!fcntl(fd, F_SETFL, O_NONBLOCK) && !poll(&p, 1, 0), "O_NONBLOCK does not help");
}

static void reads(PROBE_ARGS)
{
	int fd = probe_uffd(0);
	struct uffd_msg msg;

	PROBE_CHECK(read(fd, &msg, sizeof(msg)) < 0 && errno == EAGAIN, "read did not give EAGAIN");
	PROBE_CHECK(read(fd, &msg, sizeof(msg) - 1) < 0 && errno == EINVAL,
		    "a short read did not give EINVAL");
	PROBE_CHECK(sizeof(msg) == 32, "a message has %zu bytes", sizeof(msg));
}

/* ---- Features ---- */

static uint64_t offered(void)
{
	struct uffdio_api api;

	probe_expect_err(probe_handshake(probe_descriptor(0), 0, &api), 0, "UFFDIO_API");
	return api.features;
}

/* Since is the first version that has it; vendors' kernels may have it sooner, or not at all. */
static void feature(PROBE_ARGS)
{
	struct uffdio_api api;

	if (!(offered() & row->arg))
		probe_unsupported("this kernel does not offer it");
	probe_expect_err(probe_handshake(probe_descriptor(0), row->arg, &api), 0, "UFFDIO_API");
}

static bool kernel_is(unsigned int major, unsigned int minor)
{
	unsigned int ma = 0, mi = 0;
	struct utsname u;

	PROBE_CHECK(!uname(&u) && sscanf(u.release, "%u.%u", &ma, &mi) == 2, "uname: %s",
		    u.release);
	return ma > major || (ma == major && mi >= minor);
}

static void rwp(PROBE_ARGS)
{
	uint64_t both = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC, has = offered() & both;
	struct uffdio_api api;

	if (has) {
		probe_note("offered: %#llx", (unsigned long long)has);
		return probe_expect_err(probe_handshake(probe_descriptor(0), has, &api), 0,
					"UFFDIO_API");
	}
	PROBE_CHECK(!kernel_is(7, 3), "Linux 7.3 or later, and it is not offered");
	probe_note("not offered by this kernel, and refused");
	probe_expect_err(probe_handshake(probe_descriptor(0), UFFD_FEATURE_RWP, &api), -EINVAL,
			 "UFFDIO_API");
}

#define FEATURE(name, says, version, bit)                                                  \
	{                                                                                  \
		.id = "open.feature-" name, .promise = says, .since = version, .arg = bit, \
		.check = feature,                                                          \
	}

static const struct probe_row rows[] = {
	{ .id = "open.node",
	  .promise = "/dev/userfaultfd hands out descriptors.",
	  .since = "6.1",
	  .check = node_gives },
	{ .id = "open.syscall",
	  .promise = "userfaultfd(2) hands out descriptors.",
	  .since = "4.3",
	  .check = syscall_gives },
	{ .id = "open.node-seccomp",
	  .promise = "A seccomp filter that denies the system call leaves the device node: the two "
		     "are separate permissions.",
	  .since = "6.1",
	  .library = "tries the node, then the system call; the reason of a failed open names "
		     "both.",
	  .check = node_beside_seccomp },
	{ .id = "open.node-mode",
	  .promise = "The device node asks for its file permissions only.",
	  .since = "6.1",
	  .check = node_mode },
	{ .id = "open.node-suffices",
	  .promise = "A plain user with the open device node catches the kernel's faults too.",
	  .since = "6.1",
	  .check = node_suffices },
	{ .id = "open.plain-user",
	  .promise = "Where vm.unprivileged_userfaultfd is 0, the system call gives a plain user "
		     "nothing but UFFD_USER_MODE_ONLY, and EPERM without it.",
	  .since = "5.11",
	  .library = "UFFDWP_FAULTS_ANY falls back to user mode and says so.",
	  .check = plain_user },
	{ .id = "open.syscall-ptrace",
	  .promise = "Where vm.unprivileged_userfaultfd is 0, catching the kernel's faults by the "
		     "system call needs CAP_SYS_PTRACE, and no other capability of root's.",
	  .since = "5.2",
	  .check = syscall_needs_ptrace },
	{ .id = "open.unknown-flag",
	  .promise = "An unknown flag of the system call is EINVAL.",
	  .since = "4.3",
	  .check = unknown_flag },
	{ .id = "open.unknown-feature",
	  .promise = "UFFDIO_API with a feature that the kernel lacks is EINVAL and zeroes the "
		     "struct, so it does not tell which one.",
	  .since = "4.3",
	  .library = "asks on a throwaway descriptor with no features first.",
	  .check = unknown_feature },
	{ .id = "open.failed-handshake",
	  .promise = "After a failed UFFDIO_API the descriptor can try again.",
	  .since = "4.3",
	  .check = failed_handshake },
	{ .id = "open.second-handshake",
	  .promise = "A second UFFDIO_API after a successful one is impossible (EINVAL).",
	  .since = "4.3",
	  .library = "asks on a throwaway descriptor with no features first.",
	  .check = second_handshake },
	{ .id = "open.lists-all",
	  .promise = "UFFDIO_API answers with every feature the kernel has, whatever was asked "
		     "for.",
	  .since = "4.11",
	  .check = handshake_lists_all },
	{ .id = "open.before-handshake",
	  .promise = "Before UFFDIO_API, read and the other ioctls are EINVAL and poll gives "
		     "POLLERR.",
	  .since = "4.3",
	  .check = before_handshake },
	{ .id = "open.fork-ptrace",
	  .promise = "UFFD_FEATURE_EVENT_FORK needs CAP_SYS_PTRACE, else UFFDIO_API is EPERM.",
	  .since = "5.4",
	  .check = fork_needs_ptrace },
	{ .id = "open.blocking-poll",
	  .promise = "poll() on a blocking userfaultfd gives POLLERR; with O_NONBLOCK it waits.",
	  .since = "4.3",
	  .library = "opens non-blocking, and makes an adopted descriptor so.",
	  .check = blocking_poll },
	{ .id = "open.read-sizes",
	  .promise = "A message has 32 bytes; a shorter read is EINVAL, with nothing there it is "
		     "EAGAIN.",
	  .since = "4.3",
	  .check = reads },
	FEATURE("wp", "UFFD_FEATURE_PAGEFAULT_FLAG_WP is offered.", "5.7",
		UFFD_FEATURE_PAGEFAULT_FLAG_WP),
	FEATURE("events", "UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE, _UNMAP are offered.", "4.11",
		UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
			UFFD_FEATURE_EVENT_UNMAP),
	FEATURE("missing", "UFFD_FEATURE_MISSING_SHMEM and _HUGETLBFS are offered.", "4.11",
		UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS),
	FEATURE("sigbus", "UFFD_FEATURE_SIGBUS is offered.", "4.14", UFFD_FEATURE_SIGBUS),
	FEATURE("thread-id", "UFFD_FEATURE_THREAD_ID is offered.", "4.14", UFFD_FEATURE_THREAD_ID),
	FEATURE("minor", "UFFD_FEATURE_MINOR_HUGETLBFS (5.13) and _SHMEM (5.14) are offered.",
		"5.14", UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM),
	FEATURE("exact-address", "UFFD_FEATURE_EXACT_ADDRESS is offered.", "5.18",
		UFFD_FEATURE_EXACT_ADDRESS),
	FEATURE("wp-hugetlbfs-shmem", "UFFD_FEATURE_WP_HUGETLBFS_SHMEM is offered.", "5.19",
		UFFD_FEATURE_WP_HUGETLBFS_SHMEM),
	FEATURE("wp-unpopulated", "UFFD_FEATURE_WP_UNPOPULATED is offered.", "6.4",
		UFFD_FEATURE_WP_UNPOPULATED),
	FEATURE("poison", "UFFD_FEATURE_POISON is offered.", "6.6", UFFD_FEATURE_POISON),
	FEATURE("wp-async", "UFFD_FEATURE_WP_ASYNC is offered.", "6.7", UFFD_FEATURE_WP_ASYNC),
	FEATURE("move", "UFFD_FEATURE_MOVE is offered.", "6.8", UFFD_FEATURE_MOVE),
	{ .id = "open.feature-rwp",
	  .promise = "UFFD_FEATURE_RWP and RWP_ASYNC (read and write protection) are offered from "
		     "7.3 on, and refused before.",
	  .since = "7.3",
	  .check = rwp },
};

const struct probe_group probe_open = {
	.name = "open",
	.title = "who may open a userfaultfd, and what the handshake says",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
