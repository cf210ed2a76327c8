/* SPDX-License-Identifier: MIT */
/*
 * Every system call of the library. All return 0 or more, or -errno. EINTR is retried here, and
 * what a kernel version does differently is handled here. EAGAIN of the userfaultfd calls is the
 * caller's: only it knows who reads the events.
 */
#ifndef UFFDWP_SYS_H
#define UFFDWP_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uffd_msg;
struct uffdwp__scan;

/* Descriptors */
int uffdwp__sys_open_device(bool user_mode_only);  /* a new userfaultfd from /dev/userfaultfd */
int uffdwp__sys_open_syscall(bool user_mode_only); /* a new one from userfaultfd(2) */
int uffdwp__sys_open_own(void); /* from either, of user mode alone: to try something out */
int uffdwp__sys_api(int fd, uint64_t features, uint64_t *got, uint64_t *ioctls);
int uffdwp__sys_cloexec(int fd);
int uffdwp__sys_nonblock(int fd, bool on); /* returns what it was */
int uffdwp__sys_is_uffd(int fd);	   /* 1: with its handshake done, 0: not yet */
int uffdwp__sys_replace(int fd, int by);   /* closes fd, whose number then means the same as by */
int uffdwp__sys_close(int fd);
int uffdwp__sys_eventfd(bool semaphore);
int uffdwp__sys_eventfd_add(int fd);
int uffdwp__sys_eventfd_clear(int fd);
int uffdwp__sys_epoll(void);
int uffdwp__sys_epoll_add(int ep, int fd, uint32_t events);
int uffdwp__sys_poll(int a, int b); /* until one of the two is readable; -EIO: not to be had of a */

/* The userfaultfd. Counts are bytes done; 0 bytes never is success. */
int uffdwp__sys_read(int fd, struct uffd_msg *msg,
		     unsigned int max); /* messages, 0 when none or interrupted */
/* Whatever O_NONBLOCK is. -EOPNOTSUPP before Linux 6.10. */
int uffdwp__sys_read_nowait(int fd, struct uffd_msg *msg, unsigned int max);
int uffdwp__sys_register(int fd, uint64_t addr, uint64_t len, uint64_t mode, uint64_t *ioctls);
int uffdwp__sys_unregister(int fd, uint64_t addr, uint64_t len);
int uffdwp__sys_wake(int fd, uint64_t addr, uint64_t len);
int uffdwp__sys_writeprotect(int fd, uint64_t addr, uint64_t len, bool on);
int uffdwp__sys_unmark(int fd, uint64_t addr, uint64_t len); /* unprotects without a wake-up */
int64_t uffdwp__sys_copy(int fd, uint64_t addr, uint64_t src, uint64_t len, bool wp);
int64_t uffdwp__sys_zeropage(int fd, uint64_t addr, uint64_t len);
int64_t uffdwp__sys_continue(int fd, uint64_t addr, uint64_t len, bool wp);
int64_t uffdwp__sys_move(int fd, uint64_t addr, uint64_t src, uint64_t len);
int64_t uffdwp__sys_poison(int fd, uint64_t addr, uint64_t len);

/* Memory */
uint64_t uffdwp__sys_page_size(void);
void *uffdwp__sys_alloc(size_t size); /* zeroed pages, not from malloc; NULL if there are none */
void *uffdwp__sys_alloc_zeros(size_t size); /* only to be read */
void uffdwp__sys_free(void *p, size_t size);
int uffdwp__sys_wipe_on_fork(void *p, size_t size);
void *uffdwp__sys_alloc_staging(size_t size);	 /* populated, not inherited by children */
void uffdwp__sys_populate(void *p, size_t size); /* of ours, for writing */
int uffdwp__sys_populate_read(void *p, size_t size);
int uffdwp__sys_discard(void *p, size_t size, bool remove);
int64_t uffdwp__sys_read_process(int pid, uint64_t addr, void *buf, size_t len);

/* The pagemap of a process, or of the calling one. */
int uffdwp__sys_pagemap_open(int pid);
/* Entries of n pages from addr on: how many were read. */
int64_t uffdwp__sys_pagemap_read(int fd, uint64_t addr, uint64_t *entries, uint64_t n);
int uffdwp__sys_pagemap_scan(int fd, struct uffdwp__scan *arg); /* ranges found (6.7) */

/* Threads */
int uffdwp__sys_pid(void);
void uffdwp__sys_thread_batch(bool on); /* the calling thread's: SCHED_BATCH, or SCHED_OTHER */
void uffdwp__sys_thread_name(const char *name); /* the calling thread's, at most 15 characters */
void uffdwp__sys_yield(void);
void uffdwp__sys_sleep_us(unsigned int us);
uint64_t uffdwp__sys_now(void);	     /* ns, CLOCK_MONOTONIC */
uint64_t uffdwp__sys_realtime(void); /* ns, CLOCK_REALTIME */
int uffdwp__sys_tid(void);
unsigned int uffdwp__sys_cpus(void);
int uffdwp__sys_affinity_get(void *set, size_t size);
int uffdwp__sys_affinity_set(const void *set, size_t size);
int uffdwp__sys_affinity_one(int cpu);
int uffdwp__sys_thread_cpu(int tid); /* the one that a thread is bound to; -ENODATA: not to one */

/* What the memory at addr is: 1 anonymous, 0 of a file. In a time that grows with the mappings. */
int uffdwp__sys_is_anonymous(uint64_t addr);
/* The same by a userfaultfd that is not used for anything else (5.14). */
int uffdwp__sys_takes_no_minor(int fd, uint64_t addr, uint64_t len);
/* Whether a process (0: this one) has private memory without a file in all of a range: 1, 0. */
int uffdwp__sys_all_anonymous(int pid, uint64_t addr, uint64_t len);

/* Plain files */
int uffdwp__sys_write_at(int fd, const void *buf, size_t len, uint64_t offset); /* all of it */
int uffdwp__sys_truncate(int fd, uint64_t len);
int uffdwp__sys_make_hole(int fd, uint64_t offset, uint64_t len);
int uffdwp__sys_sync(int fd);
int uffdwp__sys_is_file(int fd); /* 0: a plain file; -EBADF, -EINVAL */

#endif
