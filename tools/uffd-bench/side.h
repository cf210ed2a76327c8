/* SPDX-License-Identifier: MIT */
/*
 * A side of a contest: one way to save each page before its first write. Sides take turns on one
 * arena of memory: attach (register and protect, not timed), writers write every page (timed),
 * detach. What was saved is compared after every turn, so a fast wrong answer does not count.
 */
#ifndef SIDE_H
#define SIDE_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <uffdwp.h>

#include "bench.h"

/* ---- arena.c: the memory written, and the pages saved from it ---- */

struct arena {
	struct mem mem;
	char *copy; /* as large as mem */
	size_t pages;
	uint64_t generation; /* what the coming turn writes; what is saved must be the one before */
	bool copying;
	struct {
		_Alignas(64) atomic_ulong pages;
	} served[BENCH_CPUS_MAX]; /* by the CPU that served them */
};

struct arena *arena_new(enum mem_kind kind, size_t size, bool copying, int *error);
void arena_free(struct arena *a);
void arena_begin(struct arena *a);
/* Ends the program with EXIT_WRONG if a page was not saved, twice saved, or saved wrong. */
void arena_verify(struct arena *a, const char *side);

/* Notes on which CPU a handler served pages, in every side alike. */
static inline void arena_count(struct arena *a, size_t pages)
{
	atomic_fetch_add_explicit(&a->served[sched_getcpu() % BENCH_CPUS_MAX].pages, pages,
				  memory_order_relaxed);
}

/* The handler's work in the sides that do not use the library. */
static inline void arena_save(struct arena *a, size_t offset)
{
	if (a->copying)
		memcpy(a->copy + offset, a->mem.addr + offset, a->mem.page_size);
	arena_count(a, 1);
}

/* ---- writers.c ---- */

struct writers {
	unsigned int count;
	bool unpinned;	       /* else writer i is on cpus_nth(i) */
	const uint32_t *order; /* of the pages that are written; each writer has its part */
	size_t pages;
};

/* An order for writers_run(), random within each writer's part; free() it. */
uint32_t *writers_order(size_t pages, unsigned int count, bool random);
/* Writes value to every page once. What a write costs its writer on average, in ns. */
double writers_run(const struct writers *w, const struct mem *m, uint64_t value);
/* Their CPUs, in words. */
void writers_name(const struct writers *w, char *out, size_t size);
/* The part of n that writer i has. */
static inline size_t writers_part(size_t n, unsigned int i, unsigned int count)
{
	return n * i / count;
}

/* ---- sides ---- */

struct side;

struct side_kind {
	const char *name;
	/* Descriptors and handler threads. -errno with a reason means that it is not supported here. */
	int (*open)(struct side *s, char *reason, size_t size);
	void (*attach)(struct side *s);
	void (*detach)(struct side *s);
	void (*close)(struct side *s);
	/* NULL if it keeps no statistics. */
	void (*stats)(struct side *s, struct uffdwp_stats *st);
};

struct side {
	const struct side_kind *kind;
	enum bench_place place;
	unsigned int run; /* pages a fault, 0 or 1: one */
	struct arena *arena;
	const struct writers *writers;
	void *state;
};

extern const struct side_kind side_lib_threads, side_lib_caller, side_lib_sigbus; /* side-lib.c */
extern const struct side_kind side_raw_read, side_raw_poll;			  /* side-raw.c */
extern const struct side_kind side_raw_sigbus, side_mprotect; /* side-signal.c */

/* How many handlers a fixed placement has, and the CPU of each, -1 for the scheduler's choice. */
unsigned int side_handlers(const struct side *s, int cpus[BENCH_WRITERS_MAX]);

/* A userfaultfd for the peers, or -errno; mode is O_NONBLOCK or 0. */
int raw_open(const struct mem *m, uint64_t features, int mode);
void raw_attach(int uffd, const struct mem *m);
void raw_detach(int uffd, const struct mem *m);
/* Unprotect one page and wake its writers. Safe in a signal handler. */
int raw_release(int uffd, uint64_t page, size_t len);

/* ---- handlers.c: threads that serve ---- */

struct handlers {
	pthread_t threads[BENCH_WRITERS_MAX];
	unsigned int count;
};

/* Starts a thread on a CPU, or anywhere if cpu is -1. Failing ends the program. */
void thread_start(pthread_t *t, int cpu, void *(*run)(void *), void *arg);
void handlers_start(struct handlers *h, const struct side *s, void *(*run)(void *), void *arg);
void handlers_join(struct handlers *h);

/* What a thread does that waits for its descriptor and for the end. */
struct poller {
	int fd, stop;
	void (*serve)(void *ctx);
	void *ctx;
	struct handlers handlers;
};

void poller_start(struct poller *p, const struct side *s);
void poller_stop(struct poller *p);

/* ---- contest.c ---- */

#define CONTEST_SIDES_MAX ROUNDS_SIDES_MAX

struct target {
	double limit;
	const char *text; /* NULL: the row only informs */
};

struct contest {
	struct side side[CONTEST_SIDES_MAX];
	const struct target *target[CONTEST_SIDES_MAX]; /* of the first side against this one */
	struct rounds play;				/* of one figure: ns a page */
	char on[CONTEST_SIDES_MAX][16];			/* the CPUs that served, in words */
	unsigned long served[CONTEST_SIDES_MAX][BENCH_CPUS_MAX];
	struct uffdwp_stats stats; /* of the first side */
};

/* Measures. 0, or -errno of a side that could not be opened, with the reason. */
int contest_run(struct contest *c, struct arena *a, const struct writers *w, char *reason,
		size_t size);
void contest_free(struct contest *c);

/* ---- footprint.c ---- */

/* Lists or measures the library's bookkeeping for a watched range; prints its rows. */
int footprint_report(const struct bench_opts *o);

#endif
