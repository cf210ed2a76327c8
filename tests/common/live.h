/* SPDX-License-Identifier: MIT */
/*
 * What every test on real memory needs: a table of cases, each run on each memory type in a process
 * of its own, with a time limit, its descriptors and threads counted before and after, and a skip
 * that says why.
 */
#ifndef TESTS_LIVE_H
#define TESTS_LIVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <uffdwp.h>

#include "common/mem.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LIVE_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define LIVE_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define LIVE_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define LIVE_TSAN 1
#endif
#if defined(LIVE_ASAN) || defined(LIVE_TSAN)
#define LIVE_SLOWER 4
#else
#define LIVE_SLOWER 1
#endif

#define BIT(n) (1u << (n))
#define KINDS_NONE 0u /* the case brings its own memory, or needs none: it runs once */
#define KINDS_ALL (BIT(MEM_KINDS) - 1)
#define KINDS_HUGETLB (BIT(MEM_HUGETLB_SHARED) | BIT(MEM_HUGETLB_PRIVATE))
#define KINDS_ANON (BIT(MEM_ANON) | BIT(MEM_THP))
#define KINDS_SHARED (BIT(MEM_SHMEM) | BIT(MEM_HUGETLB_SHARED))

struct live {
	struct mem mem; /* mapped before the case, unmapped after it; nothing is populated */
	size_t page, pages;
	const char *name;
	uint64_t seed;
};

struct live_case {
	const char *name;
	void (*run)(struct live *t);
	unsigned int kinds;
	uint64_t features; /* besides what the memory needs for write protection and missing faults */
	unsigned int seconds; /* 0: 20; more under a sanitizer */
};

/* Runs the table; arguments restrict it to cases whose name begins so. The exit code of main(). */
int live_main(int argc, char **argv, const struct live_case *cases, size_t n);
#define LIVE_MAIN(cases)                                                                 \
	int main(int argc, char **argv)                                                  \
	{                                                                                \
		return live_main(argc, argv, cases, sizeof(cases) / sizeof((cases)[0])); \
	}

/* A failed check ends the case's process at once: nothing behind it can be trusted to terminate. */
_Noreturn void live_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void live_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void live_needs_wp_bit(void); /* of the pagemap, Linux 5.14; else skips */
/* Whether a forked child can write to what it has of the memory; else skips. */
bool live_can_fork(const struct live *t, struct uffdwp *h);
void live_needs_fork(const struct live *t, struct uffdwp *h);
#define FAIL(...) live_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond)                        \
	do {                               \
		if (!(cond))               \
			FAIL("%s", #cond); \
	} while (0)
#define CHECK_EQ(got, want)                                                                \
	do {                                                                               \
		long long got_ = (long long)(got), want_ = (long long)(want);              \
		if (got_ != want_)                                                         \
			FAIL("%s is %lld, should be %s = %lld", #got, got_, #want, want_); \
	} while (0)

/* Deterministic from the seed that is printed; UFFDWP_SEED replays it. */
uint64_t live_random(uint64_t *state);

/* Fills with bytes that differ from page to page and from seed to seed. */
void live_fill(void *p, size_t len, uint64_t seed);

/* Opens or ends the test; checks that the way of serving is the one asked for. */
struct uffdwp *live_open(uint32_t serve, uint64_t required);
struct uffdwp *live_open_opts(struct uffdwp_opts *o);

/* The whole memory of the test as one region. */
struct uffdwp_region *live_region(struct live *t, struct uffdwp *h, uint32_t mode, uint32_t run,
				  const struct uffdwp_ops *ops, void *ctx);
void live_protect(struct live *t, struct uffdwp_region *r);

void live_stats(struct uffdwp *h, struct uffdwp_stats *st); /* once they have settled */
int live_poison_code(void); /* of the SIGBUS that a poisoned page gives on this kernel */
void live_info(struct uffdwp *h, struct uffdwp_info *info);

/* Entries of a directory of /proc; the threads of this process, once there are not more than want (0: now). */
int live_count(const char *dir);
int live_count_threads(int want);

/* Prints where each thread of a process sleeps. */
void live_report(pid_t pid);

/* A thread that serves a handle opened with UFFDWP_SERVE_CALLER; nothing for the other ways. */
struct live_server {
	struct uffdwp *h;
	pthread_t thread;
	int stop; /* eventfd */
	bool running;
};
void live_serve(struct live_server *s, struct uffdwp *h);
void live_serve_stop(struct live_server *s);

void live_thread(pthread_t *t, void *(*fn)(void *), void *arg);
void live_join(pthread_t t);

/* Runs fn(arg) in a thread and waits until it sleeps in a page fault on the userfaultfd. */
struct live_sleeper {
	pthread_t thread;
	_Atomic int tid, done;
	void *(*fn)(void *);
	void *arg;
};
void live_sleeper(struct live_sleeper *s, void *(*fn)(void *), void *arg);
bool live_asleep(struct live_sleeper *s); /* in the kernel's fault handler, now */

/* Polls until *v reaches want; the case's time limit is the only other way out. */
void live_until(_Atomic int *v, int want);
void live_msleep(unsigned int ms);

/* For a case that wants more memory than most: it is halved with UFFDWP_BRIEF. Maps it anew. */
void live_at_least(struct live *t, size_t size);

/* Whether UFFDWP_BRIEF is set, as in emulated machines, which are many times slower. */
bool live_brief(void);
/* How often to do what is done n times to meet by chance: a quarter then. */
unsigned int live_times(unsigned int n);

static inline const char *live_serve_name(uint32_t serve)
{
	static const char *const names[] = { "threads", "caller", "sigbus" };

	return names[serve];
}

/* The memory of a test is written while handlers read it: one relaxed word is the race-free way. */
static inline void live_store(void *p, uint64_t v)
{
	atomic_store_explicit((_Atomic uint64_t *)p, v, memory_order_relaxed);
}

static inline uint64_t live_load(const void *p)
{
	return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_relaxed);
}

#endif
