/* SPDX-License-Identifier: MIT */
/*
 * A snapshot of another process's memory: its userfaultfd came over a socket, its pages are read by
 * its pid. It writes before and after the seal; or it ends before all is saved. Or it means harm: it has kept the
 * descriptor.
 */
#include "../common/live.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <uffdwp/snapshot.h>
#include <unistd.h>

/* ---- The other process ---- */

static void peer_fork(struct live *t)
{
	pid_t pid = fork();
	int status;

	for (size_t i = 0; !pid && i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, ~i);
	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		_exit(99);
}

/* Takes the messages, and does nothing about them. */
static void *steal(void *arg)
{
	struct pollfd p = { .fd = *(int *)arg, .events = POLLIN };
	struct uffd_msg msg;

	for (;;)
		if (poll(&p, 1, -1) < 0 || (read(p.fd, &msg, sizeof(msg)) < 0 && errno != EAGAIN))
			_exit(99);
	return NULL;
}

static void peer_steal(int fd)
{
	static pthread_t thief;
	static int from;

	from = fd;
	if (pthread_create(&thief, NULL, steal, &from))
		_exit(99);
}

static void peer_unregister(struct live *t, int fd)
{
	struct uffdio_range range = { (uintptr_t)t->mem.addr, t->mem.size };

	if (ioctl(fd, UFFDIO_UNREGISTER, &range))
		_exit(99);
}

static void peer_does(struct live *t, int fd, char command)
{
	for (size_t i = 0; command == 'w' && i < t->pages; i += 2)
		live_store(t->mem.addr + i * t->page, i + 1);
	if (command == 'd' && madvise(t->mem.addr + t->page, t->page, MADV_DONTNEED))
		_exit(99);
	if (command == 'f')
		peer_fork(t);
	if (command == 'u' && munmap(t->mem.addr + t->page, t->page))
		_exit(99);
	if (command == 'b' && fcntl(fd, F_SETFL, 0))
		_exit(99);
	if (command == 's')
		peer_steal(fd);
	if (command == 'r')
		peer_unregister(t, fd);
}

/*
 * Each command is a letter: w writes every other page, d discards a page, u unmaps it, f forks, b makes the descriptor
 * a blocking one, s steals its messages, r ends the registration; it is answered when done.
 */
static _Noreturn void peer(struct live *t, int sock, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	char command;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		_exit(99);
	/* The number is enough: the parent takes it by pidfd_getfd(). */
	if (write(sock, &fd, sizeof(fd)) != sizeof(fd))
		_exit(99);
	while (read(sock, &command, 1) == 1) {
		peer_does(t, fd, command);
		if (write(sock, "k", 1) != 1)
			break;
	}
	_exit(0);
}

/* ---- This process ---- */

struct test {
	struct live *t;
	pid_t pid;
	int sock;
	struct uffdwp *h;
	struct uffdwp_region *r;
	struct uffdwp_snapshot *s;
	struct uffdwp_sink sink;
	char *copy, *shadow;
	_Atomic int gate, waiting;
	int (*write)(void *ctx, struct uffdwp_sink_write *w);
	void *write_ctx;
};

static int hold_sealed(void *ctx, uint64_t realtime)
{
	struct test *c = ctx;

	(void)realtime;
	while (atomic_load(&c->gate)) {
		atomic_store(&c->waiting, 1);
		live_msleep(1);
	}
	return 0;
}

static int take(void *ctx, struct uffdwp_sink_write *w)
{
	struct test *c = ctx;

	memcpy(c->copy + w->offset, w->data, w->len);
	return 0;
}

static int take_fd(struct test *c)
{
	int fd, pidfd, got;

	CHECK_EQ(read(c->sock, &fd, sizeof(fd)), sizeof(fd));
	pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (pidfd < 0)
		live_skip("no pidfd_open: %s", strerror(errno));
	got = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (got < 0)
		live_skip("no pidfd_getfd: %s", strerror(errno));
	close(pidfd);
	return got;
}

static void command(struct test *c, char what)
{
	char answer;

	CHECK_EQ(write(c->sock, &what, 1), 1);
	CHECK_EQ(read(c->sock, &answer, 1), 1);
}

static void setup(struct test *c, struct live *t, uint64_t extra)
{
	uint64_t features = UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | UFFDWP_FEATURE_THREAD_ID |
			    UFFDWP_FEATURE_WP_UNPOPULATED | mem_wp_features(t->mem.kind) | extra;
	struct uffdwp_adopt_opts ao = { .sz = sizeof(ao),
					.features = features,
					.opts = { .sz = sizeof(ao.opts) } };
	/* The sink is held while pages are saved: all of memory has to fit. */
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .sink = &c->sink,
					  .staging = t->mem.size + t->mem.size / 2 +
						     UFFDWP_SNAPSHOT_STAGING_MIN };
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)t->mem.addr,
					 .len = t->mem.size,
					 .page_size = t->page,
					 .mode = UFFDWP_MODE_WP };
	int sv[2], fd;

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->copy = malloc(t->mem.size);
	c->shadow = malloc(t->mem.size);
	CHECK(c->copy && c->shadow);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	c->pid = fork();
	CHECK(c->pid >= 0);
	if (!c->pid) {
		close(sv[0]);
		peer(t, sv[1], features);
	}
	close(sv[1]);
	c->sock = sv[0];
	fd = take_fd(c);
	ao.pid = c->pid;
	CHECK_EQ(uffdwp_adopt(&c->h, fd, &ao), 0);
	CHECK_EQ(uffdwp_region_add(c->h, &ro, &c->r), 0);
	c->sink = (struct uffdwp_sink){
		.sz = sizeof(c->sink), .ctx = c, .write = take, .sealed = hold_sealed
	};
	CHECK_EQ(uffdwp_snapshot_new(&c->s, &c->r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c->s), 0);
	command(c, 'w');
	/* It waits for a command now: paused. */
	CHECK_EQ(uffdwp_read(c->r, (uintptr_t)t->mem.addr, c->shadow, t->mem.size, NULL), 0);
	atomic_store(&c->gate, 1);
	CHECK_EQ(uffdwp_snapshot_seal(c->s), 0);
	live_until(&c->waiting, 1);
}

static void teardown(struct test *c)
{
	int status;

	CHECK_EQ(uffdwp_snapshot_free(c->s), 0);
	CHECK_EQ(uffdwp_close(c->h), 0);
	close(c->sock);
	CHECK_EQ(waitpid(c->pid, &status, 0), c->pid);
	CHECK(!status || WIFSIGNALED(status));
	free(c->copy);
	free(c->shadow);
}

static void check(struct test *c, uint32_t verdict, uint32_t why)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };

	CHECK_EQ(uffdwp_snapshot_wait(c->s, &res), 0);
	if (res.verdict != verdict || res.why != why)
		FAIL("verdict %u, why %u, error %d: should be %u, %u", res.verdict, res.why,
		     res.error, verdict, why);
	if (verdict == UFFDWP_SNAPSHOT_COMPLETE)
		CHECK_EQ(memcmp(c->copy, c->shadow, c->t->mem.size), 0);
}

/* A snapshot with commands between the seal and saving. */
static void with(struct live *t, uint64_t extra, const char *commands, uint32_t verdict,
		 uint32_t why)
{
	struct test c;

	setup(&c, t, extra);
	for (; *commands; commands++)
		command(&c, *commands);
	atomic_store(&c.gate, 0);
	check(&c, verdict, why);
	teardown(&c);
}

static void complete(struct live *t, uint64_t extra, const char *commands)
{
	with(t, extra, commands, UFFDWP_SNAPSHOT_COMPLETE, UFFDWP_SNAPSHOT_WHY_NONE);
}

static void complete_cow(struct live *t)
{
	complete(t, 0, "w");
}

static void complete_async(struct live *t)
{
	complete(t, UFFDWP_FEATURE_WP_ASYNC, "w");
}

static void discards(struct live *t)
{
	with(t, 0, "d", UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_DISCARDED);
}

static void dies(struct live *t)
{
	siginfo_t info;
	struct test c;

	setup(&c, t, 0);
	CHECK_EQ(kill(c.pid, SIGKILL), 0);
	CHECK_EQ(waitid(P_PID, (id_t)c.pid, &info, WEXITED | WNOWAIT), 0);
	atomic_store(&c.gate, 0);
	check(&c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_PROCESS);
	teardown(&c);
}

/* ---- What means harm ---- */

/* The child has pages of its own; what it writes to shared memory nobody sees. */
static void forks(struct live *t)
{
	complete(t, 0, "fw");
}

static void unmaps(struct live *t)
{
	with(t, 0, "u", UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_UNMAPPED);
}

static bool reads_nowait(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg msg;
	struct iovec v = { &msg, sizeof(msg) };
	ssize_t n;

	CHECK(fd >= 0 && !ioctl(fd, UFFDIO_API, &api));
	n = preadv2(fd, &v, 1, -1, RWF_NOWAIT);
	CHECK(n < 0 && (errno == EAGAIN || errno == EOPNOTSUPP));
	close(fd);
	return errno == EAGAIN;
}

/* Nobody sleeps in read(2) for it: what is written is saved, and the handle closes. */
static void blocks(struct live *t)
{
	if (!reads_nowait())
		live_skip("no RWF_NOWAIT of a userfaultfd (Linux 6.10)");
	complete(t, 0, "bw");
}

/* Writers sleep until the sweep has come by. */
static void steals(struct live *t)
{
	struct test c;

	setup(&c, t, 0);
	command(&c, 's');
	atomic_store(&c.gate, 0);
	command(&c, 'w');
	check(&c, UFFDWP_SNAPSHOT_COMPLETE, UFFDWP_SNAPSHOT_WHY_NONE);
	teardown(&c);
}

/* It writes without a trace: whatever the verdict is, there is one, and all ends. */
static void unregisters(struct live *t)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct test c;

	setup(&c, t, 0);
	command(&c, 'r');
	command(&c, 'w');
	atomic_store(&c.gate, 0);
	CHECK_EQ(uffdwp_snapshot_wait(c.s, &res), 0);
	printf("verdict %u, why %u, error %d\n", res.verdict, res.why, res.error);
	CHECK(uffdwp_protect(c.r, (uintptr_t)t->mem.addr, t->mem.size, NULL) < 0);
	teardown(&c);
}

static const struct live_case cases[] = {
	{ "complete/cow", complete_cow, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "complete/async", complete_async, KINDS_ALL, UFFDWP_FEATURE_WP_ASYNC, 0 },
	{ "discards", discards, KINDS_ANON, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "dies", dies, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "forks", forks, KINDS_ALL & ~KINDS_SHARED, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "unmaps", unmaps, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "blocks", blocks, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "steals", steals, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "unregisters", unregisters, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
};

LIVE_MAIN(cases)
