/* SPDX-License-Identifier: MIT */
/*
 * Where the descriptor comes from and whose faults it catches: each source, as root and as nobody, with
 * the reasons that a refusal gives; kernel-mode writes served, or failing with EFAULT in user mode.
 */
#include "../common/live.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534

struct expect {
	uint32_t source, faults;
	int err; /* or 0 */
	uint32_t got_source, got_faults;
	const char *words[2]; /* in the reason */
};

static void expect_open(const struct expect *e)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .source = e->source,
				 .faults = e->faults,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct uffdwp *h = (void *)&o;
	struct uffdwp_info info;
	int err = uffdwp_open(&h, &o);

	if (err != e->err)
		FAIL("source %u faults %u: %d (%s), should be %d", e->source, e->faults, err,
		     reason, e->err);
	for (int i = 0; i < 2; i++) {
		if (e->words[i] && !strstr(reason, e->words[i]))
			FAIL("source %u faults %u: no word of %s in the reason: %s", e->source,
			     e->faults, e->words[i], reason);
	}
	if (err) {
		CHECK(!h);
		return;
	}
	live_info(h, &info);
	CHECK_EQ(info.source, e->got_source);
	CHECK_EQ(info.faults, e->got_faults);
	CHECK(info.features & UFFDWP_FEATURE_PAGEFAULT_FLAG_WP);
	CHECK((info.supported & info.features) == info.features);
	CHECK(info.ioctls & UINT64_C(1) << 0x3f);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* What an old kernel lacks. A device node that is not there is a fact; the flag must be tried. */
static bool has_node(void)
{
	return !access("/dev/userfaultfd", F_OK);
}

static bool has_user_mode(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || errno != EINVAL;
}

static void expect_table(const struct expect *e, size_t n)
{
	for (size_t i = 0; i < n; i++)
		expect_open(&e[i]);
}

/* Before Linux 6.1: the system call stands in where that is allowed. */
static void root_without_node(void)
{
	static const struct expect table[] = {
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_KERNEL,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
		{ UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_ANY,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
		{ UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_KERNEL,
		  -ENOENT,
		  0,
		  0,
		  { "/dev/userfaultfd", "6.1" } },
		{ UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_ANY,
		  -ENOENT,
		  0,
		  0,
		  { "/dev/userfaultfd", "6.1" } },
	};

	expect_table(table, sizeof(table) / sizeof(table[0]));
}

/* Before Linux 5.11: refused, and not replaced by faults that were not asked for. */
static void without_user_mode(void)
{
	static const struct expect table[] = {
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_USER,
		  -EOPNOTSUPP,
		  0,
		  0,
		  { "user-mode", "5.11" } },
		{ UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_USER,
		  -EOPNOTSUPP,
		  0,
		  0,
		  { "user-mode", "5.11" } },
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_ANY,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
	};

	expect_table(table, sizeof(table) / sizeof(table[0]));
}

static void as_root(struct live *t)
{
	static const struct expect table[] = {
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_KERNEL,
		  0,
		  UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
		{ UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_KERNEL,
		  0,
		  UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
		{ UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_KERNEL,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_ANY,
		  0,
		  UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_KERNEL,
		  { 0 } },
		{ UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_USER,
		  0,
		  UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_USER,
		  { 0 } },
		{ UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_USER,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_USER,
		  { 0 } },
	};

	(void)t;
	if (!has_node()) {
		if (geteuid())
			live_skip("not root");
		root_without_node();
		if (!has_user_mode())
			without_user_mode();
		live_skip(
			"no /dev/userfaultfd (Linux 6.1): refused by name, and replaced by the system call");
	}
	if (access("/dev/userfaultfd", R_OK | W_OK))
		live_skip("/dev/userfaultfd: %s", strerror(errno));
	expect_table(table, sizeof(table) / sizeof(table[0]));
}

static void become_nobody(void)
{
	if (geteuid())
		live_skip("not root, so can not become another user");
	CHECK_EQ(setgroups(0, NULL), 0);
	CHECK_EQ(setresgid(NOBODY, NOBODY, NOBODY), 0);
	CHECK_EQ(setresuid(NOBODY, NOBODY, NOBODY), 0);
	/* The change of user hides /proc/self from itself, where the runner counts. */
	CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
	if (!access("/dev/userfaultfd", R_OK | W_OK))
		live_skip("/dev/userfaultfd is open to everybody here");
}

static int sysctl_value(void)
{
	FILE *f = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");
	int value = -1;

	if (f && fscanf(f, "%d", &value) != 1)
		value = -1;
	if (f)
		fclose(f);
	return value;
}

static void as_nobody(struct live *t)
{
	static const struct expect table[] = {
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_KERNEL,
		  -EPERM,
		  0,
		  0,
		  { "unprivileged_userfaultfd", "/dev/userfaultfd" } },
		{ UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_KERNEL,
		  -EPERM,
		  0,
		  0,
		  { "unprivileged_userfaultfd", "CAP_SYS_PTRACE" } },
		{ UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_KERNEL,
		  -EACCES,
		  0,
		  0,
		  { "/dev/userfaultfd", NULL } },
		{ UFFDWP_SOURCE_DEVICE,
		  UFFDWP_FAULTS_USER,
		  -EACCES,
		  0,
		  0,
		  { "/dev/userfaultfd", NULL } },
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_ANY,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_USER,
		  { 0 } },
		{ UFFDWP_SOURCE_AUTO,
		  UFFDWP_FAULTS_USER,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_USER,
		  { 0 } },
		{ UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_ANY,
		  0,
		  UFFDWP_SOURCE_SYSCALL,
		  UFFDWP_FAULTS_USER,
		  { 0 } },
	};

	(void)t;
	become_nobody();
	/* 5.2 to 5.10 have the sysctl, and 1 as its default. */
	if (sysctl_value() == 1 && !has_user_mode()) {
		without_user_mode();
		live_skip("no user-mode only faults (Linux 5.11): refused");
	}
	if (sysctl_value())
		live_skip("vm.unprivileged_userfaultfd is not 0");
	if (!has_node())
		live_skip("no /dev/userfaultfd (Linux 6.1), whose permissions are half of this");
	expect_table(table, sizeof(table) / sizeof(table[0]));
}

/* The fork event is a privilege of its own. */
static void fork_as_nobody(struct live *t)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .faults = UFFDWP_FAULTS_USER,
				 .required = UFFDWP_FEATURE_EVENT_FORK,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct uffdwp *h = (void *)&o;

	(void)t;
	become_nobody();
	if (!has_user_mode() && sysctl_value() == 1)
		o.faults = UFFDWP_FAULTS_KERNEL;
	else if (!has_user_mode())
		live_skip("no user-mode only faults (Linux 5.11)");
	CHECK_EQ(uffdwp_open(&h, &o), -EPERM);
	CHECK(!h);
	CHECK(strstr(reason, "CAP_SYS_PTRACE"));
}

static int count_writes(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	atomic_fetch_add((_Atomic int *)ctx, 1);
	return 0;
}

static const struct uffdwp_ops counting = { .sz = sizeof(counting), .write = count_writes };

/* read(2) from a pipe to every page: what the kernel writes is a write, or an error. */
static void kernel_writes(struct live *t, struct uffdwp *h, bool served)
{
	struct uffdwp_region *r;
	struct live_server s;
	_Atomic int calls = 0;
	int pipes[2];

	CHECK_EQ(pipe2(pipes, O_CLOEXEC), 0);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, &counting, &calls);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	live_protect(t, r);
	live_serve(&s, h);
	for (size_t i = 0; i < t->pages; i++) {
		char *p = t->mem.addr + i * t->page;
		uint64_t before = live_load(p), value = ~before;
		ssize_t n;

		CHECK_EQ(write(pipes[1], &value, 8), 8);
		n = read(pipes[0], p, 8);
		if (served) {
			CHECK_EQ(n, 8);
			CHECK_EQ(live_load(p), value);
		} else {
			CHECK(n < 0 && errno == EFAULT);
			CHECK_EQ(live_load(p), before);
		}
		CHECK_EQ(atomic_load(&calls), served ? i + 1 : i);
		/* A user-mode write is served in any case. */
		live_store(p, 1);
		CHECK_EQ(atomic_load(&calls), i + 1);
		if (!served)
			CHECK_EQ(read(pipes[0], p, 8), 8);
	}
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	close(pipes[0]);
	close(pipes[1]);
}

static void kernel_faults(struct live *t)
{
	kernel_writes(t, live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind)), true);
}

static void kernel_faults_caller(struct live *t)
{
	kernel_writes(t, live_open(UFFDWP_SERVE_CALLER, mem_wp_features(t->mem.kind)), true);
}

static void user_faults(struct live *t)
{
	struct uffdwp_opts o = { .faults = UFFDWP_FAULTS_USER,
				 .required = mem_wp_features(t->mem.kind) };

	if (!has_user_mode())
		live_skip("no user-mode only faults (Linux 5.11)");
	kernel_writes(t, live_open_opts(&o), false);
}

static void sigbus_faults(struct live *t)
{
	kernel_writes(t, live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind)), false);
}

/* nobody works too, in user mode. */
static void user_as_nobody(struct live *t)
{
	struct uffdwp_opts o = { .faults = UFFDWP_FAULTS_ANY,
				 .required = mem_wp_features(t->mem.kind) };
	char reason[256] = "";
	struct uffdwp_info info;
	struct uffdwp *h;

	become_nobody();
	o.sz = sizeof(o);
	o.reason = reason;
	o.reason_size = sizeof(reason);
	if (uffdwp_open(&h, &o))
		FAIL("uffdwp_open: %s", reason);
	live_info(h, &info);
	if (sysctl_value() == 1) {
		CHECK_EQ(info.faults, UFFDWP_FAULTS_KERNEL);
		kernel_writes(t, h, true);
		return;
	}
	CHECK_EQ(info.faults, UFFDWP_FAULTS_USER);
	kernel_writes(t, h, false);
}

/* No descriptor left. */
static void no_descriptor(struct live *t)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o), .reason = reason, .reason_size = sizeof(reason) };
	struct rlimit old, low;
	struct uffdwp *h = (void *)&o;

	(void)t;
	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (unsigned int free_fds = 0; free_fds < 3; free_fds++) {
		int next = dup(0), err;

		CHECK(next >= 0);
		close(next);
		low = (struct rlimit){ (rlim_t)next + free_fds, old.rlim_max };
		CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
		err = uffdwp_open(&h, &o);
		CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
		/* How many it needs is its own affair: one for the userfaultfd at least. */
		if (!free_fds || err) {
			CHECK_EQ(err, -EMFILE);
			CHECK(!h);
			CHECK(reason[0]);
		} else {
			CHECK_EQ(uffdwp_close(h), 0);
		}
	}
}

static const struct live_case cases[] = {
	{ "root", as_root, KINDS_NONE, 0, 5 },
	{ "nobody", as_nobody, KINDS_NONE, 0, 5 },
	{ "nobody/fork-event", fork_as_nobody, KINDS_NONE, UFFDWP_FEATURE_EVENT_FORK, 5 },
	{ "nobody/user-faults", user_as_nobody, KINDS_ALL, 0, 5 },
	{ "kernel-faults/threads", kernel_faults, KINDS_ALL, 0, 5 },
	{ "kernel-faults/caller", kernel_faults_caller, KINDS_ALL, 0, 5 },
	{ "user-faults", user_faults, KINDS_ALL, 0, 5 },
	{ "sigbus-faults", sigbus_faults, KINDS_ALL, UFFDWP_FEATURE_SIGBUS, 5 },
	{ "no-descriptor", no_descriptor, KINDS_NONE, 0, 5 },
};

LIVE_MAIN(cases)
