/* SPDX-License-Identifier: MIT */
/*
 * The system calls. Nothing here knows a region or a handle. Every wrapper turns errno into a
 * return value at once, because serving threads may be signal handlers, whose caller wants errno
 * back as it was.
 */
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "uapi.h"
#include "util.h"

#define RETRY(call)                               \
	__extension__({                           \
		long r_;                          \
		do                                \
			r_ = (long)(call);        \
		while (r_ < 0 && errno == EINTR); \
		r_ < 0 ? -errno : r_;             \
	})

/* A wake-up that is lost is a thread that sleeps: so often, whatever the error. */
#define WAKE_TRIES 16

/* ---- Descriptors ---- */

__cold int uffdwp__sys_open_device(bool user_mode_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (user_mode_only ? UFFD_USER_MODE_ONLY : 0);
	int dev = (int)RETRY(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
	int fd;

	if (dev < 0)
		return dev;
	fd = (int)RETRY(ioctl(dev, USERFAULTFD_IOC_NEW, flags));
	close(dev);
	return fd;
}

__cold int uffdwp__sys_open_syscall(bool user_mode_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (user_mode_only ? UFFD_USER_MODE_ONLY : 0);

	return (int)RETRY(syscall(SYS_userfaultfd, flags));
}

__cold int uffdwp__sys_open_own(void)
{
	int fd = uffdwp__sys_open_syscall(true);

	return fd < 0 ? uffdwp__sys_open_device(true) : fd;
}

__cold int uffdwp__sys_api(int fd, uint64_t features, uint64_t *got, uint64_t *ioctls)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int err = (int)RETRY(ioctl(fd, UFFDIO_API, &api));

	*got = err ? 0 : api.features;
	*ioctls = err ? 0 : api.ioctls;
	return err;
}

__cold int uffdwp__sys_cloexec(int fd)
{
	return (int)RETRY(fcntl(fd, F_SETFD, FD_CLOEXEC));
}

__cold int uffdwp__sys_nonblock(int fd, bool on)
{
	int flags = (int)RETRY(fcntl(fd, F_GETFL));
	long err;

	if (flags < 0)
		return flags;
	err = RETRY(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
	return err ? (int)err : !!(flags & O_NONBLOCK);
}

/*
 * The whole name: that of a file, or a memfd, is chosen by who made it, and what it holds would be taken for messages
 * of the kernel. Before its handshake a userfaultfd polls as an error; a blocking one always does.
 */
__cold int uffdwp__sys_is_uffd(int fd)
{
	char path[32], link[64] = "";
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int was, err;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, link, sizeof(link) - 1) < 0)
		return errno == ENOENT ? -EBADF : -errno;
	if (strcmp(link, "anon_inode:[userfaultfd]") != 0)
		return -EINVAL;
	was = uffdwp__sys_nonblock(fd, true);
	if (was < 0)
		return was;
	err = (int)RETRY(poll(&p, 1, 0));
	uffdwp__sys_nonblock(fd, was);
	return err < 0 ? err : !(p.revents & POLLERR);
}

__cold int uffdwp__sys_replace(int fd, int by)
{
	int err = (int)RETRY(dup3(by, fd, O_CLOEXEC));

	return err < 0 ? err : 0;
}

/* EINTR from close(2) on Linux means closed. */
__cold int uffdwp__sys_close(int fd)
{
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

__cold int uffdwp__sys_eventfd(bool semaphore)
{
	return (int)RETRY(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0)));
}

int uffdwp__sys_eventfd_add(int fd)
{
	uint64_t one = 1;
	long n = -1;

	for (int i = 0; n < 0 && i < WAKE_TRIES; i++)
		n = RETRY(write(fd, &one, sizeof(one)));
	return n < 0 ? (int)n : 0;
}

int uffdwp__sys_eventfd_clear(int fd)
{
	uint64_t value;
	long n = RETRY(read(fd, &value, sizeof(value)));

	return n < 0 ? (int)n : 0;
}

__cold int uffdwp__sys_epoll(void)
{
	return (int)RETRY(epoll_create1(EPOLL_CLOEXEC));
}

__cold int uffdwp__sys_epoll_add(int ep, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data = { .fd = fd } };

	return (int)RETRY(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

int uffdwp__sys_poll(int a, int b)
{
	struct pollfd p[2] = { { .fd = a, .events = POLLIN }, { .fd = b, .events = POLLIN } };
	long n = RETRY(poll(p, 2, -1));

	if (n < 0)
		return (int)n;
	/* So says a userfaultfd that is not O_NONBLOCK any more. */
	return p[0].revents & POLLERR ? -EIO : 0;
}

/* ---- The userfaultfd ---- */

static int messages(ssize_t n)
{
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return (int)(n / (ssize_t)sizeof(struct uffd_msg));
}

int uffdwp__sys_read(int fd, struct uffd_msg *msg, unsigned int max)
{
	return messages(read(fd, msg, max * sizeof(*msg)));
}

int uffdwp__sys_read_nowait(int fd, struct uffd_msg *msg, unsigned int max)
{
	struct iovec v = { msg, max * sizeof(*msg) };

	return messages(preadv2(fd, &v, 1, -1, RWF_NOWAIT));
}

__cold int uffdwp__sys_register(int fd, uint64_t addr, uint64_t len, uint64_t mode,
				uint64_t *ioctls)
{
	struct uffdio_register reg = { .range = { addr, len }, .mode = mode };
	int err = (int)RETRY(ioctl(fd, UFFDIO_REGISTER, &reg));

	*ioctls = err ? 0 : reg.ioctls;
	return err;
}

__cold int uffdwp__sys_unregister(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = { addr, len };

	return (int)RETRY(ioctl(fd, UFFDIO_UNREGISTER, &range));
}

int uffdwp__sys_wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = { addr, len };
	long err = -1;

	for (int i = 0; err && i < WAKE_TRIES; i++)
		err = RETRY(ioctl(fd, UFFDIO_WAKE, &range));
	return (int)err;
}

int uffdwp__sys_writeprotect(int fd, uint64_t addr, uint64_t len, bool on)
{
	struct uffdio_writeprotect wp = { .range = { addr, len },
					  .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	return (int)RETRY(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
}

int uffdwp__sys_unmark(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_writeprotect wp = { .range = { addr, len },
					  .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE };

	return (int)RETRY(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
}

/*
 * A call that placed a part says so in the struct and fails with EAGAIN; one that placed nothing
 * has -errno there, or, where it never looked at the memory, what was there before: 0.
 */
static int64_t placed(long ret, int64_t count)
{
	if (count > 0)
		return count;
	return ret < 0 ? ret : count < 0 ? count : -EAGAIN;
}

int64_t uffdwp__sys_copy(int fd, uint64_t addr, uint64_t src, uint64_t len, bool wp)
{
	struct uffdio_copy c = {
		.dst = addr, .src = src, .len = len, .mode = wp ? UFFDWP__COPY_WP : 0
	};
	long ret = RETRY(ioctl(fd, UFFDIO_COPY, &c));

	return placed(ret, c.copy);
}

int64_t uffdwp__sys_zeropage(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_zeropage z = { .range = { addr, len } };
	long ret = RETRY(ioctl(fd, UFFDIO_ZEROPAGE, &z));

	return placed(ret, z.zeropage);
}

int64_t uffdwp__sys_continue(int fd, uint64_t addr, uint64_t len, bool wp)
{
	struct uffdwp__continue c = { .range = { addr, len },
				      .mode = wp ? UFFDWP__CONTINUE_WP : 0 };
	long ret = RETRY(ioctl(fd, UFFDWP__IOC_CONTINUE, &c));

	/* Kernels without CONTINUE_MODE_WP reject the mode; arguments were checked before. */
	if (ret == -EINVAL && wp)
		return -EOPNOTSUPP;
	return placed(ret, c.mapped);
}

int64_t uffdwp__sys_move(int fd, uint64_t addr, uint64_t src, uint64_t len)
{
	struct uffdwp__move m = { .dst = addr, .src = src, .len = len };
	long ret = RETRY(ioctl(fd, UFFDWP__IOC_MOVE, &m));

	return placed(ret, m.move);
}

int64_t uffdwp__sys_poison(int fd, uint64_t addr, uint64_t len)
{
	struct uffdwp__poison p = { .range = { addr, len } };
	long ret = RETRY(ioctl(fd, UFFDWP__IOC_POISON, &p));

	return placed(ret, p.updated);
}

/* ---- Memory ---- */

__cold uint64_t uffdwp__sys_page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

__cold void *uffdwp__sys_alloc(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

__cold void *uffdwp__sys_alloc_zeros(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

__cold void *uffdwp__sys_alloc_staging(size_t size)
{
	char *p = uffdwp__sys_alloc(size);

	if (!p)
		return NULL;
	madvise(p, size, MADV_DONTFORK);
	madvise(p, size, MADV_HUGEPAGE);
	uffdwp__sys_populate(p, size);
	return p;
}

/* Linux before 5.14 has no call for it, and what is made here is small. */
__cold void uffdwp__sys_populate(void *p, size_t size)
{
	volatile char *at = p;

	for (size_t i = 0; i < size; i += 4096)
		at[i] = at[i];
}

__cold void uffdwp__sys_free(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

__cold int uffdwp__sys_wipe_on_fork(void *p, size_t size)
{
	return (int)RETRY(madvise(p, size, MADV_WIPEONFORK));
}

/*
 * Linux before 5.14 says EINVAL; so does memory that can not be read: reading it tells them
 * apart.
 */
int uffdwp__sys_populate_read(void *p, size_t size)
{
	return (int)RETRY(madvise(p, size, MADV_POPULATE_READ));
}

int uffdwp__sys_discard(void *p, size_t size, bool remove)
{
	return (int)RETRY(madvise(p, size, remove ? MADV_REMOVE : MADV_DONTNEED));
}

int64_t uffdwp__sys_read_process(int pid, uint64_t addr, void *buf, size_t len)
{
	struct iovec to = { buf, len };
	struct iovec from = { (void *)(uintptr_t)addr, len };

	return RETRY(process_vm_readv(pid, &to, 1, &from, 1, 0));
}

/* ---- Pagemap ---- */

__cold int uffdwp__sys_pagemap_open(int pid)
{
	char path[32] = "/proc/self/pagemap";

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	return (int)RETRY(open(path, O_RDONLY | O_CLOEXEC));
}

int64_t uffdwp__sys_pagemap_read(int fd, uint64_t addr, uint64_t *entries, uint64_t n)
{
	int64_t got = RETRY(pread(fd, entries, n * sizeof(*entries),
				  (off_t)(addr / uffdwp__sys_page_size() * sizeof(*entries))));

	return got < 0 ? got : got / (int64_t)sizeof(*entries);
}

int uffdwp__sys_pagemap_scan(int fd, struct uffdwp__scan *arg)
{
	return (int)RETRY(ioctl(fd, UFFDWP__IOC_SCAN, arg));
}

/* ---- Threads ---- */

int uffdwp__sys_pid(void)
{
	return getpid();
}

__cold void uffdwp__sys_thread_name(const char *name)
{
	prctl(PR_SET_NAME, name);
}

__cold void uffdwp__sys_thread_batch(bool on)
{
	struct sched_param none = { 0 };

	sched_setscheduler(0, on ? SCHED_BATCH : SCHED_OTHER, &none);
}

void uffdwp__sys_yield(void)
{
	sched_yield();
}

void uffdwp__sys_sleep_us(unsigned int us)
{
	struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L };

	nanosleep(&t, NULL);
}

uint64_t uffdwp__sys_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t uffdwp__sys_realtime(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int uffdwp__sys_tid(void)
{
	return (int)syscall(SYS_gettid);
}

__cold unsigned int uffdwp__sys_cpus(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;
	return (unsigned int)CPU_COUNT(&set);
}

__cold int uffdwp__sys_affinity_get(void *set, size_t size)
{
	return (int)RETRY(sched_getaffinity(0, size, set));
}

int uffdwp__sys_affinity_set(const void *set, size_t size)
{
	return (int)RETRY(sched_setaffinity(0, size, set));
}

int uffdwp__sys_affinity_one(int cpu)
{
	cpu_set_t set;

	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return -EINVAL;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return uffdwp__sys_affinity_set(&set, sizeof(set));
}

int uffdwp__sys_thread_cpu(int tid)
{
	cpu_set_t set;

	if (sched_getaffinity(tid, sizeof(set), &set))
		return -errno;
	if (CPU_COUNT(&set) != 1)
		return -ENODATA;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set))
			return cpu;
	return -ENODATA;
}

/* proc(5): a line of maps is "start-end perms offset dev inode path"; inode 0 has no file. */
struct maps_line {
	uint64_t start, end, inode;
	unsigned int field;
};

__cold static void maps_char(struct maps_line *l, char c)
{
	uint64_t digit = c >= 'a' ? (uint64_t)(c - 'a') + 10 : (uint64_t)(c - '0');

	if (c == ' ' || (c == '-' && l->field == 0))
		l->field++;
	else if (l->field == 0)
		l->start = l->start << 4 | digit;
	else if (l->field == 1)
		l->end = l->end << 4 | digit;
	else if (l->field == 5)
		l->inode = l->inode * 10 + digit;
}

/* 1: all of [addr, end) is anonymous; 0: not all is. Lines are sorted; a read may end in one. */
__cold static int maps_anonymous(int fd, uint64_t addr, uint64_t end)
{
	struct maps_line l = { 0 };
	char buf[4096];
	long n;

	while ((n = RETRY(read(fd, buf, sizeof(buf)))) > 0) {
		for (long i = 0; i < n; i++) {
			maps_char(&l, buf[i]);
			if (buf[i] != '\n')
				continue;
			if (addr < l.end && (addr < l.start || l.inode))
				return addr < l.start ? -ENOENT : 0;
			if (addr < l.end)
				addr = l.end;
			if (addr >= end)
				return 1;
			memset(&l, 0, sizeof(l));
		}
	}
	return n < 0 ? (int)n : -ENOENT;
}

__cold static int maps_ask(const char *path, uint64_t addr, uint64_t end)
{
	int fd = (int)RETRY(open(path, O_RDONLY | O_CLOEXEC)), ret;

	if (fd < 0)
		return fd;
	ret = maps_anonymous(fd, addr, end);
	close(fd);
	return ret;
}

__cold int uffdwp__sys_is_anonymous(uint64_t addr)
{
	return maps_ask("/proc/self/maps", addr, addr + 1);
}

__cold int uffdwp__sys_all_anonymous(int pid, uint64_t addr, uint64_t len)
{
	char path[32] = "/proc/self/maps";

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	return maps_ask(path, addr, addr + len) == 1;
}

/*
 * Minor faults are for memory with a page cache; registering anything else is refused, and changes
 * nothing. Who faults meanwhile is woken by unregistering.
 */
__cold int uffdwp__sys_takes_no_minor(int fd, uint64_t addr, uint64_t len)
{
	uint64_t ioctls;
	int err = uffdwp__sys_register(fd, addr, len, UFFDWP__REGISTER_MINOR, &ioctls);

	if (!err)
		err = uffdwp__sys_unregister(fd, addr, len);
	return err == -EINVAL ? 1 : err;
}

/* ---- Plain files ---- */

int uffdwp__sys_write_at(int fd, const void *buf, size_t len, uint64_t offset)
{
	const char *p = buf;

	while (len) {
		int64_t n = RETRY(pwrite(fd, p, len, (off_t)offset));

		if (n <= 0)
			return n ? (int)n : -ENOSPC;
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int uffdwp__sys_truncate(int fd, uint64_t len)
{
	return (int)RETRY(ftruncate(fd, (off_t)len));
}

int uffdwp__sys_make_hole(int fd, uint64_t offset, uint64_t len)
{
	return (int)RETRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
				    (off_t)len));
}

int uffdwp__sys_sync(int fd)
{
	return (int)RETRY(fsync(fd));
}

__cold int uffdwp__sys_is_file(int fd)
{
	struct stat st;

	if (RETRY(fstat(fd, &st)))
		return -EBADF;
	return S_ISREG(st.st_mode) ? 0 : -EINVAL;
}
