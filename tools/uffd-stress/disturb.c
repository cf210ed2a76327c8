/* SPDX-License-Identifier: MIT */
/* What happens to memory besides writes, see disturb.h. */
#include "disturb.h"
#include "system.h"

#include "../common/uapi-extra.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define BIT(n) (1u << (n))

static const char *const names[DISTURB_KINDS] = {
	[DISTURB_DISCARD] = "discard", [DISTURB_DONTNEED] = "dontneed",
	[DISTURB_REMOVE] = "remove",   [DISTURB_MPROTECT] = "mprotect",
	[DISTURB_SPLIT] = "split",     [DISTURB_COLLAPSE] = "collapse",
	[DISTURB_FORK] = "fork",       [DISTURB_SWAP] = "swap",
	[DISTURB_COMPACT] = "compact",
};

const char *disturb_name(enum disturbance d)
{
	return names[d];
}

static bool is_shared(enum mem_kind kind)
{
	return kind == MEM_SHMEM || kind == MEM_HUGETLB_SHARED;
}

static bool is_hugetlb(enum mem_kind kind)
{
	return kind == MEM_HUGETLB_SHARED || kind == MEM_HUGETLB_PRIVATE;
}

unsigned int disturb_possible(enum mem_kind kind)
{
	unsigned int kinds = BIT(DISTURB_DISCARD) | BIT(DISTURB_MPROTECT) | BIT(DISTURB_FORK);

	if (kind == MEM_THP)
		kinds |= BIT(DISTURB_COLLAPSE) | BIT(DISTURB_SPLIT);
	if (!is_hugetlb(kind))
		kinds |= BIT(DISTURB_COMPACT);
	return kinds;
}

/* ---- One of each ---- */

struct span {
	size_t from, to; /* units */
};

/* Some units of one region, and mostly few. */
static struct span choose(struct disturb *d, size_t most)
{
	struct books *b = d->b;
	size_t from = rng_below(&d->rng, b->units), n = 1 + rng_below(&d->rng, most), end;
	struct uffdwp_region *r = uffdwp_region_find(d->h, (uintptr_t)b->addr + from * b->unit);

	end = (size_t)(uffdwp_region_addr(r) + uffdwp_region_len(r) - (uintptr_t)b->addr) / b->unit;
	return (struct span){ from, from + n < end ? from + n : end };
}

static char *at(const struct disturb *d, size_t unit)
{
	return d->b->addr + unit * d->b->unit;
}

static size_t bytes(const struct disturb *d, struct span s)
{
	return (s.to - s.from) * d->b->unit;
}

static int by_library(struct disturb *d, struct span s)
{
	bool removes = is_shared(d->mem->kind) && rng_next(&d->rng) & 1;
	uint64_t addr = (uintptr_t)at(d, s.from);

	return uffdwp_discard(uffdwp_region_find(d->h, addr), addr, bytes(d, s),
			      removes ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED, NULL);
}

/*
 * A discard is a write, and may be told twice. One that fails stays begun for ever, so that nothing
 * is expected of its units.
 */
static bool discard(struct disturb *d, enum disturbance what)
{
	struct span s = choose(d, 8);
	int err;

	books_stir(d->b, s.from, s.to);
	books_begin(d->b, s.from, s.to);
	if (what == DISTURB_DISCARD)
		err = by_library(d, s);
	else
		err = madvise(at(d, s.from), bytes(d, s),
			      what == DISTURB_REMOVE ? MADV_REMOVE : MADV_DONTNEED)
			      ? -errno
			      : 0;
	if (err) {
		/* hugetlb memory can be discarded since 5.18 */
		if (err != -EINVAL || !is_hugetlb(d->mem->kind))
			verdict_fail(d->v, "%s of units %zu to %zu: %s", names[what], s.from, s.to,
				     strerror(-err));
		return false;
	}
	books_end(d->b, s.from, s.to);
	books_calm(d->b, s.from, s.to);
	return true;
}

/* Who reads is not disturbed; writers stay away. */
static bool read_only(struct disturb *d, enum disturbance what)
{
	struct span s = choose(d, 256);
	size_t len = what == DISTURB_SPLIT ? d->b->page : bytes(d, s);
	bool good;

	books_shut(d->b, s.from, s.to);
	good = !mprotect(at(d, s.from), len, PROT_READ) &&
	       !mprotect(at(d, s.from), len, PROT_READ | PROT_WRITE);
	books_open(d->b, s.from, s.to);
	if (!good)
		verdict_fail(d->v, "mprotect of unit %zu: %s", s.from, strerror(errno));
	return good;
}

/* The kernel makes no huge page where anything is protected, so all of it is written first. */
static bool collapse(struct disturb *d)
{
	struct books *b = d->b;
	size_t off = rng_below(&d->rng, d->mem->size / HUGE_SIZE) * HUGE_SIZE, i;

	for (i = off; i < off + HUGE_SIZE; i += b->page) {
		watchdog_step("writes a huge page", i / b->unit);
		books_write(b, i + rng_below(&d->rng, b->page / 8) * 8, rng_next(&d->rng) | 1);
	}
	return !madvise(b->addr + off, HUGE_SIZE, MADV_COLLAPSE);
}

static void nap(long ns)
{
	const struct timespec t = { 0, ns };

	nanosleep(&t, NULL);
}

#define CHILD_PAGES 8

/*
 * What it writes nobody must see; shared memory it only reads. A sanitizer would wait in it for
 * threads that it does not have: nothing of one may run here.
 */
__attribute__((no_sanitize("thread"))) _Noreturn static void child(volatile uint64_t *const *words,
								   bool writes)
{
	const struct timespec t = { 0, 2000000 };
	size_t i;

	for (i = 0; i < CHILD_PAGES; i++) {
		if (writes)
			*words[i] = 1;
		else
			(void)*words[i];
	}
	syscall(SYS_nanosleep, &t, NULL);
	for (;;)
		syscall(SYS_exit_group, 0);
}

/* Private hugetlb stays protected in a child of Linux 6.1, which would sleep for ever: the probe's row event.none-fork. */
static bool child_writes(struct disturb *d)
{
	struct uffdwp_info info = { .sz = sizeof(info) };

	if (d->mem->kind != MEM_HUGETLB_PRIVATE)
		return !is_shared(d->mem->kind);
	return !uffdwp_info(d->h, &info) && info.supported & UFFDWP_FEATURE_WP_UNPOPULATED;
}

/* Not fork(): the locks that it takes may be held by threads that wait for this one's memory. */
static bool fork_child(struct disturb *d)
{
	size_t i, pages = d->mem->size / d->b->page;
	volatile uint64_t *words[CHILD_PAGES];
	bool writes = child_writes(d);
	pid_t pid;
	int status;

	for (i = 0; i < CHILD_PAGES; i++)
		words[i] = (uint64_t *)(void *)(d->b->addr +
						rng_below(&d->rng, pages) * d->b->page);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		child(words, writes);
	if (pid < 0) {
		verdict_fail(d->v, "fork: %s", strerror(errno));
		return false;
	}
	status = watchdog_child(pid);
	if (status)
		verdict_fail(d->v, "the forked child ended with %d", status);
	return !status;
}

static bool page_out(struct disturb *d)
{
	struct span s = choose(d, 512);

	return !madvise(at(d, s.from), bytes(d, s), MADV_PAGEOUT);
}

/* All of the system's, which takes long: rarely. Not permitted: never. */
static bool compact(struct disturb *d)
{
	if (rng_below(&d->rng, 64))
		return false;
	if (!system_write("/proc/sys/vm/compact_memory", "1"))
		return true;
	d->kinds &= ~BIT(DISTURB_COMPACT);
	return false;
}

bool disturb_once(struct disturb *d, enum disturbance what)
{
	watchdog_step(names[what], atomic_load(&d->count[what]));
	switch (what) {
	case DISTURB_DISCARD:
	case DISTURB_DONTNEED:
	case DISTURB_REMOVE:
		return discard(d, what);
	case DISTURB_MPROTECT:
	case DISTURB_SPLIT:
		return read_only(d, what);
	case DISTURB_COLLAPSE:
		return collapse(d);
	case DISTURB_FORK:
		return fork_child(d);
	case DISTURB_SWAP:
		return page_out(d);
	default:
		return compact(d);
	}
}

/* ---- The thread ---- */

static void *disturb_main(void *arg)
{
	struct disturb *d = arg;
	enum disturbance what;

	watchdog_enter("disturber", 0);
	while (!atomic_load(&d->stop)) {
		what = (enum disturbance)rng_below(&d->rng, DISTURB_KINDS);
		if (!(d->kinds & BIT(what)))
			continue;
		if (disturb_once(d, what))
			atomic_fetch_add(&d->count[what], 1);
		watchdog_step("rests", 0);
		nap((long)rng_below(&d->rng, 500000));
	}
	watchdog_leave();
	return NULL;
}

void disturb_start(struct disturb *d)
{
	d->rng = rng_make(d->seed, UINT32_MAX);
	atomic_store(&d->stop, false);
	thread_start(&d->thread, disturb_main, d);
}

void disturb_stop(struct disturb *d)
{
	atomic_store(&d->stop, true);
	watchdog_rest("waits for the disturber");
	pthread_join(d->thread, NULL);
	watchdog_step("goes on", 0);
}
