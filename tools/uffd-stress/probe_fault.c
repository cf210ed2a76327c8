/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: how write faults are told, and to whom.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define REG_WP UFFDIO_REGISTER_MODE_WP

static void flags(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 1, 0);
	w = probe_write(a.p + a.page / 2 + 123);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.len);
	probe_done(w);
}

static void exact(PROBE_ARGS)
{
	char *at;
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 1, UFFD_FEATURE_EXACT_ADDRESS);
	at = a.p + a.page / 2 + 123;
	w = probe_write(at);
	probe_fault_message(a.fd, at, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.len);
	probe_done(w);
}

static void thread_id(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;
	struct uffd_msg msg;

	probe_arm(&a, kind, 1, UFFD_FEATURE_THREAD_ID);
	w = probe_write(a.p);
	probe_event_message(a.fd, &msg, UFFD_EVENT_PAGEFAULT);
	PROBE_CHECK((int)msg.arg.pagefault.feat.ptid == w->tid, "thread %u, expected %d",
		    msg.arg.pagefault.feat.ptid, w->tid);
	probe_release_range(a.fd, a.p, a.len);
	probe_done(w);
}

/* ---- Many at once ---- */

static ssize_t read_all(int fd, struct uffd_msg *msg, size_t n)
{
	ssize_t got = read(fd, msg, n * sizeof(*msg));

	return got < 0 ? -errno : got / (ssize_t)sizeof(*msg);
}

static void start_writers(const struct probe_area *a, struct probe_job **w, bool same_page)
{
	size_t i;

	for (i = 0; i < THREADS; i++) {
		w[i] = probe_write(same_page ? a->p + i : probe_at(a, i));
		probe_sleeps(w[i]);
	}
}

static void many_messages(PROBE_ARGS)
{
	struct uffd_msg msg[THREADS * 2];
	struct probe_job *w[THREADS];
	struct probe_area a;
	ssize_t n;
	int i;

	probe_arm(&a, kind, THREADS, 0);
	start_writers(&a, w, false);
	n = read_all(a.fd, msg, THREADS * 2);
	PROBE_CHECK(n == THREADS, "one read gave %zd messages, expected %d", n, THREADS);
	probe_release_range(a.fd, a.p, a.len);
	for (i = 0; i < THREADS; i++)
		probe_done(w[i]);
}

static void one_page(PROBE_ARGS)
{
	struct uffd_msg msg[THREADS * 2];
	struct probe_job *w[THREADS];
	struct probe_area a;
	ssize_t n;
	int i;

	probe_arm(&a, kind, 1, 0);
	start_writers(&a, w, true);
	n = read_all(a.fd, msg, THREADS * 2);
	PROBE_CHECK(n == THREADS, "%zd messages, expected %d", n, THREADS);
	probe_release_range(a.fd, a.p, a.page);
	for (i = 0; i < THREADS; i++)
		probe_done(w[i]);
	probe_silent(a.fd);
}

static void released_before_read(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;
	struct uffd_msg msg;
	ssize_t n;

	probe_arm(&a, kind, 1, 0);
	w = probe_write(a.p);
	probe_pending(a.fd);
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
	n = read_all(a.fd, &msg, 1);
	PROBE_CHECK(n == -EAGAIN, "read gave %zd, expected -EAGAIN", n);
}

static void remove_after_fault(PROBE_ARGS)
{
	struct probe_job *discard, *w;
	struct probe_area a;
	struct uffd_msg msg;

	probe_arm(&a, kind, 2, UFFD_FEATURE_EVENT_REMOVE);
	discard = probe_madvise(a.p, a.page, MADV_DONTNEED);
	probe_sleeps(discard);
	w = probe_write(probe_at(&a, 1));
	probe_sleeps(w);
	probe_fault_message(a.fd, probe_at(&a, 1), PROBE_WP_FLAGS);
	probe_event_message(a.fd, &msg, UFFD_EVENT_REMOVE);
	probe_done(discard);
	probe_release_range(a.fd, a.p, a.len);
	probe_done(w);
}

/* ---- The kernel as the writer ---- */

static struct probe_job *kernel_write(char *to, size_t len)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	PROBE_CHECK(zero >= 0, "/dev/zero: %s", strerror(errno));
	return probe_call(SYS_read, zero, (long)to, (long)len, 0, 0);
}

static void kernel_mode(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;
	long n;

	probe_arm(&a, kind, 1, 0);
	r = kernel_write(a.p, 100);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.page);
	n = probe_done(r);
	PROBE_CHECK(n == 100, "read(2) returned %ld", n);
	PROBE_CHECK(probe_get(a.p) == 0, "its write is lost");
}

static void efault(struct probe_area *a)
{
	long n = probe_done(kernel_write(a->p, 100));

	PROBE_CHECK(n == -EFAULT, "read(2) returned %ld, expected -EFAULT", n);
	probe_silent(a->fd);
	PROBE_CHECK(probe_get(a->p) == PROBE_BYTE(0), "the page changed");
}

static void user_mode_only(PROBE_ARGS)
{
	struct probe_area a;
	struct uffdio_api api;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	a.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (a.fd < 0)
		probe_unsupported("UFFD_USER_MODE_ONLY: %s", strerror(errno));
	probe_expect_err(probe_handshake(a.fd, mem_wp_features(kind), &api), 0, "UFFDIO_API");
	probe_must_register(a.fd, a.p, a.len, REG_WP);
	probe_protect_all(&a);
	efault(&a);
	probe_caught(&a, 0);
}

static void sigbus_kernel(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, UFFD_FEATURE_SIGBUS);
	efault(&a);
}

static void sigbus_user(PROBE_ARGS)
{
	struct probe_area a;
	int sig;

	probe_arm(&a, kind, 2, UFFD_FEATURE_SIGBUS);
	sig = probe_touch(a.p, true);
	PROBE_CHECK(sig == SIGBUS, "the write gave signal %d", sig);
	probe_silent(a.fd);
	PROBE_CHECK(!probe_touch(a.p, false), "a read gave a signal");
	probe_release_range(a.fd, a.p, a.page);
	PROBE_CHECK(!probe_touch(a.p, true), "a write to the released page gave a signal");
}

static void sigbus_blocked(PROBE_ARGS)
{
	struct probe_area a;
	sigset_t set;
	int status;
	pid_t pid = probe_fork();

	if (!pid) {
		sigemptyset(&set);
		sigaddset(&set, SIGBUS);
		sigprocmask(SIG_BLOCK, &set, NULL);
		probe_arm(&a, kind, 1, UFFD_FEATURE_SIGBUS);
		probe_touch(a.p, true);
		_exit(0);
	}
	PROBE_CHECK(probe_ends(pid, &status), "the writer hangs");
	PROBE_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "the writer ended with %#x",
		    (unsigned int)status);
}

/* ---- Copy-on-write ---- */

/* A child that shares all pages with this process until it is killed. */
static void share_by_fork(void)
{
	if (!probe_fork()) {
		for (;;)
			pause();
	}
}

static void before_cow(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, 0);
	share_by_fork();
	probe_caught(&a, 0);
	probe_release_range(a.fd, a.p, a.len);
	probe_protect_all(&a);
	probe_caught(&a, 1);
}

/* What the child sees is not touched by what the parent writes when it is released. */
static void cow_after(PROBE_ARGS)
{
	struct probe_area a;
	int go[2];
	pid_t pid;
	char c;

	probe_arm(&a, kind, 1, 0);
	PROBE_CHECK(!pipe(go), "pipe: %s", strerror(errno));
	pid = probe_fork();
	if (!pid) {
		close(go[1]);
		_exit(read(go[0], &c, 1) == 1 ? probe_get(a.p) : 1);
	}
	probe_caught(&a, 0);
	PROBE_CHECK(write(go[1], "g", 1) == 1, "write: %s", strerror(errno));
	PROBE_CHECK(probe_reap(pid) == PROBE_BYTE(0), "the child sees the parent's write");
}

/* ---- Signals ---- */

static atomic_int handled;

static void count_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&handled, 1);
}

static void interrupt(struct probe_job *job)
{
	struct sigaction sa = { .sa_handler = count_signal, .sa_flags = SA_RESTART };

	sigaction(SIGUSR1, &sa, NULL);
	syscall(SYS_tgkill, getpid(), job->tid, SIGUSR1);
}

static void signal_refaults(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 1, 0);
	w = probe_write(a.p);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	interrupt(w);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.page);
	probe_done(w);
	PROBE_CHECK(atomic_load(&handled) == 1, "the handler did not run");
}

/* The messages that come in a tenth of a second, or until the first one has come. */
static unsigned int count_messages(int fd)
{
	struct uffd_msg msg;
	unsigned int n = 0, i;

	for (i = 0; i < 100 || (!n && i < PROBE_WAIT_MS); i++) {
		while (n < 100000 && read(fd, &msg, sizeof(msg)) > 0)
			n++;
		probe_nap(1);
	}
	return n;
}

static void signal_in_kernel(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *r;
	unsigned int n;

	probe_arm(&a, kind, 1, 0);
	r = kernel_write(a.p, 100);
	probe_fault_message(a.fd, a.p, PROBE_WP_FLAGS);
	interrupt(r);
	n = count_messages(a.fd);
	PROBE_CHECK(n, "the message was not repeated");
	PROBE_CHECK(probe_spins(r), "the thread sleeps");
	PROBE_CHECK(!atomic_load(&handled), "the handler ran");
	probe_release_range(a.fd, a.p, a.page);
	PROBE_CHECK(probe_done(r) == 100, "read(2) returned %ld", r->ret);
	PROBE_CHECK(atomic_load(&handled) == 1, "the handler did not run after the release");
	probe_note("%u messages in 0.1 s or more", n);
}

static void kill_sleeper(PROBE_ARGS)
{
	struct probe_area a;
	pid_t pid;
	int ready[2], status;
	char c;

	PROBE_CHECK(!pipe(ready), "pipe: %s", strerror(errno));
	pid = probe_fork();
	if (!pid) {
		probe_arm(&a, kind, 1, 0);
		kernel_write(a.p, 1);
		probe_write(a.p);
		if (write(ready[1], "r", 1) == 1)
			*a.p = 1;
		_exit(1);
	}
	close(ready[1]); /* so that the read ends if the child does */
	PROBE_CHECK(read(ready[0], &c, 1) == 1, "the child did not start");
	probe_nap(20);
	kill(pid, SIGKILL);
	PROBE_CHECK(probe_ends(pid, &status) && WIFSIGNALED(status), "SIGKILL did not end it");
}

static const struct probe_row rows[] = {
	{ .id = "fault.flags",
	  .promise = "A write to a protected page gives a message with the flags WRITE and WP, and "
		     "the page's address.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = flags },
	{ .id = "fault.exact-address",
	  .promise = "With EXACT_ADDRESS the message has the address of the byte.",
	  .since = "5.18",
	  .library = "does not ask for it; masks addresses when it was adopted with it.",
	  .needs = UFFD_FEATURE_EXACT_ADDRESS,
	  .kinds = PROBE_ALL,
	  .check = exact },
	{ .id = "fault.thread-id",
	  .promise = "With THREAD_ID the message tells the thread that faults.",
	  .since = "4.14",
	  .needs = UFFD_FEATURE_THREAD_ID,
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = thread_id },
	{ .id = "fault.many-messages",
	  .promise = "One read() returns all the messages its buffer holds.",
	  .since = "4.3",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = many_messages },
	{ .id = "fault.one-page",
	  .promise = "Threads that fault on one page give a message each; one unprotect wakes all.",
	  .since = "5.7",
	  .library = "the first message saves the page, the others count as duplicates.",
	  .kinds = PROBE_ALL,
	  .check = one_page },
	{ .id = "fault.released-before-read",
	  .promise = "After POLLIN, read() may say EAGAIN: a page that is released takes its "
		     "message back.",
	  .since = "4.3",
	  .library = "takes EAGAIN for nothing to do.",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = released_before_read },
	{ .id = "fault.before-remove",
	  .promise = "Messages are not in order: page faults are handed out before an earlier "
		     "REMOVE.",
	  .since = "4.11",
	  .library = "does not rely on the order of faults and events.",
	  .needs = UFFD_FEATURE_EVENT_REMOVE,
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = remove_after_fault },
	{ .id = "fault.kernel-mode",
	  .promise = "A write by the kernel (read(2) into the page) waits for the release and "
		     "succeeds.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = kernel_mode },
	{ .id = "fault.user-mode-only",
	  .promise = "With USER_MODE_ONLY the kernel's writes fail with EFAULT and no message; "
		     "those of the program are caught.",
	  .since = "5.11",
	  .library = "none possible; uffdwp_info() tells that kernel faults are not caught.",
	  .kinds = PROBE_ALL,
	  .check = user_mode_only },
	{ .id = "fault.sigbus-kernel",
	  .promise = "With UFFD_FEATURE_SIGBUS the kernel's writes fail with EFAULT.",
	  .since = "5.7",
	  .library = "none possible; said in the documentation of UFFDWP_SERVE_SIGBUS.",
	  .needs = UFFD_FEATURE_SIGBUS,
	  .kinds = PROBE_ALL,
	  .check = sigbus_kernel },
	{ .id = "fault.sigbus-user",
	  .promise = "With UFFD_FEATURE_SIGBUS a write to a protected page is a SIGBUS, not a "
		     "message.",
	  .since = "5.7",
	  .needs = UFFD_FEATURE_SIGBUS,
	  .kinds = PROBE_ALL,
	  .check = sigbus_user },
	{ .id = "fault.sigbus-blocked",
	  .promise = "Where SIGBUS is blocked, it kills the process, whatever handler there is.",
	  .since = "4.14",
	  .library = "none possible. Said in uffdwp(7).",
	  .needs = UFFD_FEATURE_SIGBUS,
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = sigbus_blocked },
	{ .id = "fault.before-cow",
	  .promise = "After fork, a write to a page that is shared is caught before it is copied, "
		     "whether it was protected before the fork or after.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = before_cow },
	{ .id = "fault.cow-after",
	  .promise = "Released, the writer of private memory gets its own copy: the forked child "
		     "keeps the old content.",
	  .since = "5.7",
	  .kinds = PROBE_ANON | PROBE_PRIVATE | PROBE_BIT(MEM_HUGETLB_PRIVATE),
	  .check = cow_after },
	{ .id = "fault.signal-refaults",
	  .promise = "A signal interrupts a program's fault: its handler runs, and the write "
		     "faults again with a message of its own.",
	  .since = "4.3",
	  .library = "serves every message; the page is saved once.",
	  .kinds = PROBE_ALL,
	  .check = signal_refaults },
	{ .id = "fault.signal-in-kernel",
	  .promise = "A signal does not interrupt the kernel's fault: its handler runs after the "
		     "release. Until then the thread does not sleep any more: it spins and repeats "
		     "its message.",
	  .since = "4.3",
	  .library = "serves every message; the repeated ones count as duplicates.",
	  .kinds = PROBE_ALL,
	  .check = signal_in_kernel },
	{ .id = "fault.kill",
	  .promise = "SIGKILL ends threads that sleep in faults nobody serves.",
	  .since = "4.3",
	  .kinds = PROBE_BIT(MEM_ANON) | PROBE_SHMEM,
	  .check = kill_sleeper },
};

const struct probe_group probe_fault = {
	.name = "fault",
	.title = "how write faults are told, and to whom",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
