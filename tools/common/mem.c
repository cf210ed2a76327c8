/* SPDX-License-Identifier: MIT */
/*
 * Memory of every type that userfaultfd knows, see mem.h. Hugepages are reserved relative to what
 * is there, under a lock on the sysfs file itself, so several programs at once leave the number
 * as it was. Only one place gives them back: a guard process outside this one's session, which
 * acts when it is told to or when this process is gone, whatever killed it.
 */
#include "mem.h"

#include <uffdwp.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define HUGE_DIR "/sys/kernel/mm/hugepages/hugepages-2048kB/"

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static const char *const names[MEM_KINDS] = {
	[MEM_ANON] = "anon",
	[MEM_THP] = "thp",
	[MEM_SHMEM] = "shmem",
	[MEM_MEMFD_PRIVATE] = "memfd-private",
	[MEM_HUGETLB_SHARED] = "hugetlb",
	[MEM_HUGETLB_PRIVATE] = "hugetlb-private",
};

const char *mem_name(enum mem_kind kind)
{
	return names[kind];
}

static int kind_of(const char *name, size_t len)
{
	int i;

	for (i = 0; i < MEM_KINDS; i++) {
		if (strlen(names[i]) == len && !memcmp(names[i], name, len))
			return i;
	}
	return -1;
}

unsigned int mem_parse(const char *list)
{
	unsigned int mask = 0;
	size_t len;
	int kind;

	if (!strcmp(list, "all"))
		return (1u << MEM_KINDS) - 1;
	for (;; list += len + 1) {
		len = strcspn(list, ",");
		kind = kind_of(list, len);
		if (kind < 0)
			return 0;
		mask |= 1u << kind;
		if (!list[len])
			return mask;
	}
}

static bool is_hugetlb(enum mem_kind kind)
{
	return kind == MEM_HUGETLB_SHARED || kind == MEM_HUGETLB_PRIVATE;
}

static bool is_anon(enum mem_kind kind)
{
	return kind == MEM_ANON || kind == MEM_THP;
}

uint64_t mem_wp_features(enum mem_kind kind)
{
	/*
	 * A private mapping of a memfd is a shmem mapping to the kernel, until its pages are
	 * copied.
	 */
	if (is_anon(kind))
		return UFFDWP_FEATURE_PAGEFAULT_FLAG_WP;
	return UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM;
}

uint64_t mem_missing_features(enum mem_kind kind)
{
	if (is_anon(kind))
		return 0;
	return is_hugetlb(kind) ? UFFDWP_FEATURE_MISSING_HUGETLBFS : UFFDWP_FEATURE_MISSING_SHMEM;
}

bool mem_shows_wp(void)
{
	unsigned int major = 0, minor = 0;
	struct utsname u;

	if (uname(&u) || sscanf(u.release, "%u.%u", &major, &minor) != 2)
		return false;
	return major > 5 || (major == 5 && minor >= 14);
}

/* ---- Mapping ---- */

static size_t round_up(size_t size, size_t to)
{
	return (size + to - 1) & ~(to - 1);
}

/* Where the kernel puts a mapping is only page-aligned: take more and cut both ends off. */
static void *map_aligned(size_t size, size_t align)
{
	char *p, *start;
	size_t head, tail;

	p = mmap(NULL, size + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return p;
	head = -(uintptr_t)p & (align - 1);
	start = p + head;
	tail = align - head;
	if (head)
		munmap(p, head);
	if (tail)
		munmap(start + size, tail);
	return start;
}

static void *map_anon(struct mem *m)
{
	bool thp = m->kind == MEM_THP;
	void *p = map_aligned(m->size, thp ? HUGE_SIZE : m->page_size);

	/* A kernel without THP refuses the advice; for MEM_THP mem_thp_bytes() tells. */
	if (p != MAP_FAILED)
		madvise(p, m->size, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

static void *map_memfd(struct mem *m)
{
	bool priv = m->kind == MEM_MEMFD_PRIVATE || m->kind == MEM_HUGETLB_PRIVATE;
	unsigned int flags = MFD_CLOEXEC;
	void *p;

	if (is_hugetlb(m->kind))
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	m->fd = memfd_create(names[m->kind], flags);
	if (m->fd < 0 || ftruncate(m->fd, (off_t)m->size))
		return MAP_FAILED;
	p = mmap(NULL, m->size, PROT_READ | PROT_WRITE, priv ? MAP_PRIVATE : MAP_SHARED, m->fd, 0);
	if (p != MAP_FAILED && !is_hugetlb(m->kind))
		madvise(p, m->size, MADV_NOHUGEPAGE);
	return p;
}

int mem_map(struct mem *m, enum mem_kind kind, size_t size)
{
	void *p;
	int err;

	memset(m, 0, sizeof(*m));
	m->kind = kind;
	m->fd = -1;
	m->page_size = is_hugetlb(kind) ? HUGE_SIZE : (size_t)sysconf(_SC_PAGESIZE);
	m->size = round_up(size, kind == MEM_THP ? HUGE_SIZE : m->page_size);
	p = is_anon(kind) ? map_anon(m) : map_memfd(m);
	if (p != MAP_FAILED) {
		m->addr = p;
		return 0;
	}
	err = -errno;
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	return err;
}

void mem_unmap(struct mem *m)
{
	if (m->addr)
		munmap(m->addr, m->size);
	if (m->fd >= 0)
		close(m->fd);
	m->addr = NULL;
	m->fd = -1;
}

size_t mem_thp_bytes(const struct mem *m)
{
	uint64_t first = (uintptr_t)m->addr, end = first + m->size, lo, hi, kib, sum = 0;
	FILE *f = fopen("/proc/self/smaps", "re");
	bool inside = false;
	char line[512];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &lo, &hi) == 2)
			inside = lo < end && hi > first;
		else if (inside && sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
			sum += kib << 10;
	}
	fclose(f);
	return sum;
}

/* ---- Hugepages ---- */

static struct {
	pid_t owner; /* who reserved: a forked child does not give back */
	int sock;    /* to the guard */
} reserved = { 0, -1 };

static long read_long(const char *path)
{
	char buf[32];
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return -EIO;
	buf[n] = '\0';
	return strtol(buf, NULL, 10);
}

/* nr_hugepages as read includes surplus pages, as written it does not. */
static long persistent(void)
{
	return read_long(HUGE_DIR "nr_hugepages") - read_long(HUGE_DIR "surplus_hugepages");
}

static int write_number(int fd, long n)
{
	char buf[32];
	int len = snprintf(buf, sizeof(buf), "%ld", n);

	return pwrite(fd, buf, (size_t)len, 0) == len ? 0 : -errno;
}

/*
 * Adds delta pages to the pool, or nothing. The lock is held from reading to writing, and goes
 * with the descriptor if this process dies.
 */
static int adjust(long delta)
{
	int fd = open(HUGE_DIR "nr_hugepages", O_RDWR | O_CLOEXEC), err;
	long old;

	if (fd < 0)
		return errno == EACCES || errno == EROFS ? -EPERM : -errno;
	while (flock(fd, LOCK_EX) && errno == EINTR)
		;
	old = persistent();
	if (old + delta < 0)
		delta = -old;
	err = write_number(fd, old + delta);
	if (!err && persistent() < old + delta) {
		write_number(fd, old);
		err = -ENOMEM;
	}
	close(fd);
	return err;
}

/* Fragmented memory often yields after compaction. */
static int adjust_hard(long delta)
{
	int err = adjust(delta), fd;

	if (err != -ENOMEM)
		return err;
	fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!write(fd, "1", 1);
		close(fd);
	}
	return adjust(delta);
}

/* Out of the session: a terminal's signals must not end it before its work is done. */
static void guard(int sock, int pidfd, long pages)
{
	struct pollfd p[2] = {
		{ .fd = sock, .events = POLLIN },
		{ .fd = pidfd, .events = POLLIN },
	};
	sigset_t all;
	int err;

	setsid();
	/* Not by the program's name, by which it may be killed as well. */
	prctl(PR_SET_NAME, "hugepage-guard");
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	if (write(sock, "r", 1) != 1) /* ready: from here on it can be relied upon */
		_exit(1);
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	err = adjust(-pages);
	_exit(err ? 1 : 0);
}

/* A grandchild, so that wait(-1) of the program never sees it. */
static int guard_start(long pages)
{
	int pair[2], pidfd, status;
	pid_t pid;
	char ready;

	pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (pidfd < 0)
		return -errno;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		close(pidfd);
		return -errno;
	}
	pid = fork();
	if (!pid) {
		if (!fork()) {
			close(pair[0]);
			guard(pair[1], pidfd, pages);
		}
		_exit(0);
	}
	close(pair[1]);
	close(pidfd);
	if (pid > 0)
		waitpid(pid, &status, 0);
	if (pid < 0 || read(pair[0], &ready, 1) != 1) {
		close(pair[0]);
		return -EAGAIN;
	}
	reserved.sock = pair[0];
	return 0;
}

/* Only signal-safe calls: it also runs in the handler below. */
void mem_hugepages_restore(void)
{
	int sock = reserved.sock;
	char end;

	if (sock < 0 || reserved.owner != getpid())
		return;
	reserved.sock = -1;
	shutdown(sock, SHUT_WR);
	while (read(sock, &end, 1) < 0 && errno == EINTR)
		;
	close(sock);
}

/* So that they are back before whoever waits for this process hears of its end. */
static void on_signal(int sig)
{
	mem_hugepages_restore();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void catch_signals(void)
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP, SIGABRT };
	struct sigaction sa, old;
	size_t i;

	memset(&sa, 0, sizeof(sa));
	sa.sa_handler = on_signal;
	for (i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++) {
		if (!sigaction(sigs[i], NULL, &old) && old.sa_handler == SIG_DFL)
			sigaction(sigs[i], &sa, NULL);
	}
}

int mem_hugepages_reserve(size_t bytes)
{
	long pages = (long)(round_up(bytes, HUGE_SIZE) / HUGE_SIZE);
	int err = adjust_hard(pages);

	if (err == -EPERM && read_long(HUGE_DIR "free_hugepages") >= pages)
		return 0; /* somebody else provided for us */
	if (err)
		return err;
	reserved.owner = getpid();
	err = guard_start(pages);
	if (err) {
		adjust(-pages);
		return err;
	}
	catch_signals();
	atexit(mem_hugepages_restore);
	return 0;
}
