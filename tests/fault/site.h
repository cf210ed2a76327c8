/* SPDX-License-Identifier: MIT */
/*
 * Included before every source of the library, by the build of tests/fault alone: it marks where the library
 * calls the system, so that the supervisor, who sees every system call of the process, knows which are the
 * library's, and which line made them. Nothing else changes: a call fails in the kernel, by seccomp(2).
 *
 * Sites are found by the linker: a line that is new is one more, if it calls one of the functions below. FAULT_SYSTEM
 * is set for the files that make system calls; the others start threads and install a handler.
 */
#ifndef TESTS_FAULT_SITE_H
#define TESTS_FAULT_SITE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef FAULT_URING
#include <liburing.h>
#include <sys/file.h>
#include <sys/random.h>
#endif

struct fault_site {
	const char *call, *file, *function;
	int line;
};

/* Marks the calling thread: in this site, from here on. The mark before is given back. */
uint32_t fault_enter(const struct fault_site *const *here);
/* Takes the mark away. Whether a call was made to fail meanwhile; errno stays. */
bool fault_leave(uint32_t before);

/*
 * Two that are no errors of the system, and that it gives nobody: the call is to do a part of what it was asked for, or
 * nothing, and to say so. The supervisor can not do that for the caller, so he tells him to.
 */
#define FAULT_SHORT EXFULL
#define FAULT_ZERO ENOANO

/* Of n bytes the part that is done, in pieces that files and tables come in; all where there are too few. */
size_t fault_part(size_t n);

/* In FAULT_CALL's place of what is done although it failed: part is the call once more, for fault_part(). */
#define FAULT_PARTLY(part)                               \
	fault_ret_ = fault_ret_ >= 0	    ? fault_ret_ \
		     : errno == FAULT_SHORT ? (part)     \
		     : errno == FAULT_ZERO  ? 0          \
					    : fault_ret_

/*
 * What the kernel completes is no system call. So a call that does nothing is made for it (COMPLETION in errors.c) as it
 * is queued; if that fails, the completion will. What is to be short is queued so.
 */
struct io_uring;
struct io_uring_cqe;
struct io_uring_sqe;
int fault_queue(struct io_uring_sqe *sqe, void *io);
int fault_peek(struct io_uring *ring, struct io_uring_cqe **cqe);

/* What the kernel does although it says that it failed. */
void fault_closed(int fd);
void fault_unmapped(void *p, size_t size);

#define FAULT_CALL(fn, although, ...)                                                   \
	__extension__({                                                                 \
		static const struct fault_site fault_site_ = { #fn, __FILE__, __func__, \
							       __LINE__ };              \
		static const struct fault_site *fault_here_                             \
			__attribute__((section("fault_sites"), used)) = &fault_site_;   \
		uint32_t fault_before_ = fault_enter(&fault_here_);                     \
		__typeof__((fn)(__VA_ARGS__)) fault_ret_ = (fn)(__VA_ARGS__);           \
		if (fault_leave(fault_before_))                                         \
			although;                                                       \
		fault_ret_;                                                             \
	})

#ifdef FAULT_LIBRARY
#define pthread_create(...) FAULT_CALL(pthread_create, (void)0, __VA_ARGS__)
#define sigaction(...) FAULT_CALL(sigaction, (void)0, __VA_ARGS__)
#endif

#ifdef FAULT_SYSTEM
#define open(...) FAULT_CALL(open, (void)0, __VA_ARGS__)
#define openat(...) FAULT_CALL(openat, (void)0, __VA_ARGS__)
#define close(fd) FAULT_CALL(close, fault_closed(fd), fd)
#define dup3(...) FAULT_CALL(dup3, (void)0, __VA_ARGS__)
#define ioctl(...) FAULT_CALL(ioctl, (void)0, __VA_ARGS__)
#define syscall(...) FAULT_CALL(syscall, (void)0, __VA_ARGS__)
#define fcntl(...) FAULT_CALL(fcntl, (void)0, __VA_ARGS__)
#define readlink(...) FAULT_CALL(readlink, (void)0, __VA_ARGS__)
#define fstat(...) FAULT_CALL(fstat, (void)0, __VA_ARGS__)
#define poll(...) FAULT_CALL(poll, (void)0, __VA_ARGS__)
#define eventfd(...) FAULT_CALL(eventfd, (void)0, __VA_ARGS__)
#define epoll_create1(...) FAULT_CALL(epoll_create1, (void)0, __VA_ARGS__)
#define epoll_ctl(...) FAULT_CALL(epoll_ctl, (void)0, __VA_ARGS__)
#define read(fd, p, n) FAULT_CALL(read, FAULT_PARTLY(read(fd, p, fault_part(n))), fd, p, n)
#define write(...) FAULT_CALL(write, (void)0, __VA_ARGS__)
#define pread(fd, p, n, at) \
	FAULT_CALL(pread, FAULT_PARTLY(pread(fd, p, fault_part(n), at)), fd, p, n, at)
#define pwrite(fd, p, n, at) \
	FAULT_CALL(pwrite, FAULT_PARTLY(pwrite(fd, p, fault_part(n), at)), fd, p, n, at)
#define preadv(...) FAULT_CALL(preadv, (void)0, __VA_ARGS__)
#define preadv2(...) FAULT_CALL(preadv2, (void)0, __VA_ARGS__)
#define pwritev(...) FAULT_CALL(pwritev, (void)0, __VA_ARGS__)
#define lseek(...) FAULT_CALL(lseek, (void)0, __VA_ARGS__)
#define fsync(...) FAULT_CALL(fsync, (void)0, __VA_ARGS__)
#define fdatasync(...) FAULT_CALL(fdatasync, (void)0, __VA_ARGS__)
#define ftruncate(...) FAULT_CALL(ftruncate, (void)0, __VA_ARGS__)
#define fallocate(...) FAULT_CALL(fallocate, (void)0, __VA_ARGS__)
#define posix_fadvise(...) FAULT_CALL(posix_fadvise, (void)0, __VA_ARGS__)
#define sync_file_range(...) FAULT_CALL(sync_file_range, (void)0, __VA_ARGS__)
#define linkat(...) FAULT_CALL(linkat, (void)0, __VA_ARGS__)
#define renameat(...) FAULT_CALL(renameat, (void)0, __VA_ARGS__)
#define unlinkat(...) FAULT_CALL(unlinkat, (void)0, __VA_ARGS__)
#define mmap(...) FAULT_CALL(mmap, (void)0, __VA_ARGS__)
#define munmap(p, size) FAULT_CALL(munmap, fault_unmapped(p, size), p, size)
#define madvise(...) FAULT_CALL(madvise, (void)0, __VA_ARGS__)
#define process_vm_readv(...) FAULT_CALL(process_vm_readv, (void)0, __VA_ARGS__)
#define prctl(...) FAULT_CALL(prctl, (void)0, __VA_ARGS__)
#define sched_getaffinity(...) FAULT_CALL(sched_getaffinity, (void)0, __VA_ARGS__)
#define sched_setaffinity(...) FAULT_CALL(sched_setaffinity, (void)0, __VA_ARGS__)
#define sched_setscheduler(...) FAULT_CALL(sched_setscheduler, (void)0, __VA_ARGS__)
#define fopen(...) FAULT_CALL(fopen, (void)0, __VA_ARGS__)
#define getline(...) FAULT_CALL(getline, (void)0, __VA_ARGS__)
#endif

#ifdef FAULT_URING
#define flock(...) FAULT_CALL(flock, (void)0, __VA_ARGS__)
#define fstatat(...) FAULT_CALL(fstatat, (void)0, __VA_ARGS__)
#define getrandom(...) FAULT_CALL(getrandom, (void)0, __VA_ARGS__)
#define mprotect(...) FAULT_CALL(mprotect, (void)0, __VA_ARGS__)
#define io_uring_queue_init(...) FAULT_CALL(io_uring_queue_init, (void)0, __VA_ARGS__)
#define io_uring_register_buffers(...) FAULT_CALL(io_uring_register_buffers, (void)0, __VA_ARGS__)
#define io_uring_submit(...) FAULT_CALL(io_uring_submit, (void)0, __VA_ARGS__)
#define io_uring_submit_and_wait_timeout(...) \
	FAULT_CALL(io_uring_submit_and_wait_timeout, (void)0, __VA_ARGS__)
#define io_uring_sqe_set_data(...) FAULT_CALL(fault_queue, (void)0, __VA_ARGS__)
#define io_uring_peek_cqe(...) FAULT_CALL(fault_peek, (void)0, __VA_ARGS__)
#endif

#endif
