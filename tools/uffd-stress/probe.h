/* SPDX-License-Identifier: MIT */
/*
 * What the checks of `uffd-stress probe` are made of. A check runs in a process of its own and ends
 * it by probe_fail() or probe_unsupported(); returning is a pass. So a check never cleans up: its
 * descriptors, threads, mappings and children go with the process. What it changes in the system
 * goes through probe_setting() and probe_swap(), which are put back whatever happens.
 */
#ifndef PROBE_H
#define PROBE_H

#include "../common/mem.h"
#include "../common/uapi-extra.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROBE_BIT(kind) (1u << (kind))
#define PROBE_ANON (PROBE_BIT(MEM_ANON) | PROBE_BIT(MEM_THP))
#define PROBE_SHMEM PROBE_BIT(MEM_SHMEM)
#define PROBE_PRIVATE PROBE_BIT(MEM_MEMFD_PRIVATE)
#define PROBE_HUGETLB (PROBE_BIT(MEM_HUGETLB_SHARED) | PROBE_BIT(MEM_HUGETLB_PRIVATE))
#define PROBE_SHARED (PROBE_SHMEM | PROBE_BIT(MEM_HUGETLB_SHARED))
#define PROBE_FILES (PROBE_SHMEM | PROBE_PRIVATE | PROBE_HUGETLB)
#define PROBE_SMALL (PROBE_ANON | PROBE_SHMEM | PROBE_PRIVATE)
#define PROBE_ALL (PROBE_ANON | PROBE_FILES)

/* How long what has to happen may take, on a machine that has other work. */
#define PROBE_WAIT_MS 4000

/* What a check gets; many need neither. */
#define PROBE_ARGS                                           \
	const struct probe_row *row __attribute__((unused)), \
		enum mem_kind kind __attribute__((unused))

struct probe_row {
	const char *id;	     /* group.name */
	const char *promise; /* what PASS says, one sentence */
	const char *since;   /* Linux version from which it holds */
	const char *library; /* how libuffdwp works around it; NULL: it need not */
	uint64_t needs;	     /* UFFD_FEATURE_*, besides what write protection of the memory needs */
	unsigned int kinds;  /* bit mask of memory kinds, a run for each; 0: one run without */
	unsigned int secs;   /* limit; 0: 10 */
	uint64_t arg;	     /* for checks that serve several rows */
	void (*check)(const struct probe_row *row, enum mem_kind kind);
};

struct probe_group {
	const char *name, *title;
	const struct probe_row *rows;
	size_t n;
};

extern const struct probe_group probe_open, probe_protect, probe_thp, probe_fault, probe_place,
	probe_move, probe_event, probe_discard, probe_escape, probe_teardown, probe_async,
	probe_reclaim;

/* ---- The verdict (probe_run.c) ---------------------------------------- */

/* From good to bad. */
enum probe_verdict { PROBE_NONE, PROBE_PASS, PROBE_UNSUPPORTED, PROBE_FAIL, PROBE_ERROR };

struct probe_outcome {
	atomic_int verdict;
	char text[240];
};

/*
 * Runs one check and fills in its verdict, with its end, whatever it was: a return, a signal,
 * the time limit.
 */
void probe_run_row(const struct probe_row *row, enum mem_kind kind, struct probe_outcome *out);

_Noreturn void probe_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void probe_unsupported(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Said with a PASS. */
void probe_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define PROBE_CHECK(cond, ...)                   \
	do {                                     \
		if (!(cond))                     \
			probe_fail(__VA_ARGS__); \
	} while (0)

/* err is what a call returned, 0 or -errno; want likewise. */
void probe_expect_err(int err, int want, const char *what);

/* fork(), with a child that does not survive this process. */
pid_t probe_fork(void);
/*
 * The bare system call, for threads whose fork() sleeps until this process reads the event: the C
 * library's holds malloc's locks meanwhile.
 */
pid_t probe_fork_bare(void);
/* Its exit status within PROBE_WAIT_MS, or the row fails. */
int probe_reap(pid_t pid);
/* Whether it ends within PROBE_WAIT_MS, and how. */
bool probe_ends(pid_t pid, int *status);

/* ---- userfaultfd (probe_uffd.c) --------------------------------------- */

/* A descriptor without the handshake, from the device node or the system call; flags: O_*. */
int probe_descriptor(int flags);
/* The handshake: 0 or -errno; *api is what came back. */
int probe_handshake(int fd, uint64_t features, struct uffdio_api *api);
/* Both, non-blocking; the row is unsupported where it is not permitted. */
int probe_uffd(uint64_t features);
/* Which features the kernel has; -errno in *err if it can not be asked. */
uint64_t probe_features(int *err);

/* The ioctls: 0 or -errno, and the bytes done where the kernel tells. */
int probe_register(int fd, const void *addr, size_t len, uint64_t mode, uint64_t *ioctls);
int probe_unregister(int fd, const void *addr, size_t len);
int probe_wp(int fd, const void *addr, size_t len, uint64_t mode);
int probe_wake(int fd, const void *addr, size_t len);
int probe_copy(int fd, void *dst, const void *src, size_t len, uint64_t mode, int64_t *done);
int probe_zero(int fd, void *dst, size_t len, uint64_t mode, int64_t *done);
int probe_continue(int fd, void *dst, size_t len, uint64_t mode, int64_t *done);
int probe_poison(int fd, void *dst, size_t len, int64_t *done);
int probe_move_pages(int fd, void *dst, void *src, size_t len, uint64_t mode, int64_t *done);

/* These must succeed, else the row fails. */
void probe_must_register(int fd, const void *addr, size_t len, uint64_t mode);
void probe_protect_range(int fd, const void *addr, size_t len);
void probe_release_range(int fd, const void *addr, size_t len);

/* Waits up to ms for a message. */
bool probe_message(int fd, struct uffd_msg *msg, int ms);
/* The next message must be of this kind. */
void probe_event_message(int fd, struct uffd_msg *msg, uint8_t event);
/* The next message must be a page fault there with these flags. */
void probe_fault_message(int fd, const void *addr, uint64_t flags);
/* Something can be read; what it is stays unread. */
void probe_pending(int fd);
/* Nothing can be read, and nothing comes. */
void probe_silent(int fd);

#define PROBE_WP_FLAGS (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE)

/* ---- Memory (probe_area.c) -------------------------------------------- */

struct probe_area {
	struct mem m;
	char *p;     /* = m.addr */
	size_t page; /* = m.page_size */
	size_t len;  /* = m.size: 2 MiB at least for THP */
	int fd;	     /* userfaultfd on it, or -1 */
};

/* The byte that page i is filled with, and the one that writers write. */
#define PROBE_BYTE(i) ((unsigned char)(0x40 + (i) % 61))
#define PROBE_NEW 0xeeu

void probe_map(struct probe_area *a, enum mem_kind kind, unsigned int pages);
void probe_fill(struct probe_area *a);
/* Mapped and registered, not filled. */
void probe_watch(struct probe_area *a, enum mem_kind kind, unsigned int pages, uint64_t features,
		 uint64_t mode);
/* Filled, registered for write protection, all of it protected. */
void probe_arm(struct probe_area *a, enum mem_kind kind, unsigned int pages, uint64_t features);

/* Protects it, and looks whether that is so. */
void probe_protect_all(const struct probe_area *a);

static inline char *probe_at(const struct probe_area *a, size_t i)
{
	return a->p + i * a->page;
}

/*
 * For what looks at memory whose writer sleeps in its fault, which ThreadSanitizer takes for one
 * that has written.
 */
#define PROBE_RACES __attribute__((no_sanitize("thread"), noinline, unused))

PROBE_RACES static unsigned char probe_get(const char *addr)
{
	return *(const volatile unsigned char *)addr;
}

/* A page-aligned source with this byte, as long as the area's page. */
const char *probe_source(const struct probe_area *a, unsigned char byte);

/* The entry in this process's pagemap. */
uint64_t probe_pagemap(const void *addr);
bool probe_is_wp(const void *addr);
bool probe_shows_wp(void); /* whether this kernel's pagemap tells of protection (5.14) */
/* AnonHugePages of the area. */
bool probe_is_huge(const struct probe_area *a);

/* A write to page i gives a message; released, it goes through. */
void probe_caught(const struct probe_area *a, size_t i);
/* A write to page i goes through without a message. */
void probe_escapes(const struct probe_area *a, size_t i);

/* ---- Threads (probe_job.c) -------------------------------------------- */

struct probe_job {
	pthread_t thread;
	bool joined;
	atomic_int state; /* 0: not begun, 1: running, 2: done */
	int tid;
	long ret;
	long arg[6];
	long (*fn)(struct probe_job *job);
};

struct probe_job *probe_start(long (*fn)(struct probe_job *job), long a, long b);
struct probe_job *probe_write(const void *addr); /* writes PROBE_NEW */
struct probe_job *probe_read(const void *addr);	 /* returns the byte */
/* fork()s in a thread, and the child writes there unless it is NULL; returns the child's status. */
struct probe_job *probe_fork_job(const void *addr);
/* A system call in a thread; returns what it did or -errno. */
struct probe_job *probe_call(long nr, long a, long b, long c, long d, long e);
struct probe_job *probe_madvise(const void *addr, size_t len, int advice);

/* It must end within PROBE_WAIT_MS; returns its value. */
long probe_done(struct probe_job *job);
bool probe_is_done(struct probe_job *job, int ms);
/* It must sleep, and go on sleeping. */
void probe_sleeps(struct probe_job *job);
/* Whether it is busy, and not done: false once it is done, or gets no CPU time for PROBE_WAIT_MS. */
bool probe_spins(struct probe_job *job);

void probe_nap(int ms);

/* ---- Signals (probe_job.c) -------------------------------------------- */

/* Reads or writes and returns 0 or the signal that came (SIGBUS, SIGSEGV). */
int probe_touch(char *addr, bool write);

/* ---- PAGEMAP_SCAN (probe_scan.c) -------------------------------------- */

struct probe_scan {
	uint64_t flags, mask, anyof, ret, max_pages;
	struct ux_page_region *vec;
	size_t vec_len;
	uint64_t walk_end; /* out */
};

/* Of process pid (0: this one). The number of regions, or -errno. */
long probe_scan(pid_t pid, struct probe_scan *s, const void *addr, size_t len);
/* How many pages of the range were written since; they are protected again if rearm. */
size_t probe_written(const struct probe_area *a, const void *addr, size_t len, bool rearm);
/* What PAGEMAP_SCAN says of one page. */
uint64_t probe_categories(const struct probe_area *a, size_t i);

/* ---- The system (probe_system.c) -------------------------------------- */

/* Everything done here is undone when the row's process and its children are gone. */
void probe_setting(const char *path, const char *value);
/* Writes what has no state to put back, like compact_memory. */
void probe_command(const char *path, const char *value);
void probe_swap(void);
long probe_number(const char *path);
/* The pipe that stays open until everything is undone; the runner sets it before a row. */
extern int probe_undone;

#endif
