/* SPDX-License-Identifier: MIT */
/*
 * The state of every page of a region, two bits each, and who may change it.
 *
 *	state      the page in the page table           who may act on it
 *	FREE       not protected by us                   anybody, after locking
 *	ARMED      protected, its first write to come    anybody, after claiming
 *	BUSY       being changed                         the thread that made it so
 *	CONTENDED  BUSY, and a fault on it was put off   the same; it must wake the page's threads
 *
 * Invariant: a page's protection changes only while its state is BUSY or CONTENDED, and only by the
 * thread that took it there. So a page is delivered once for each time that it was protected, and a
 * late release can not undo a newer protection.
 */
#ifndef UFFDWP_BITMAP_H
#define UFFDWP_BITMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum uffdwp__state {
	UFFDWP__FREE = 0,
	UFFDWP__ARMED = 1,
	UFFDWP__BUSY = 2,
	UFFDWP__CONTENDED = 3,
};

/* Most pages that one lock may take, and the words that remember what they were. */
#define UFFDWP__LOCK_MAX 4096
#define UFFDWP__PREV_WORDS (UFFDWP__LOCK_MAX / 32 + 1)

struct uffdwp__pages {
	uint64_t n;
	_Atomic uint64_t *w; /* 32 pages a word, the lowest bits first */
};

size_t uffdwp__pages_bytes(uint64_t n);

/* Every page to state; only while nobody else uses the map. */
void uffdwp__pages_fill(struct uffdwp__pages *p, enum uffdwp__state state);

enum uffdwp__state uffdwp__pages_get(const struct uffdwp__pages *p, uint64_t i);

/*
 * A fault came on page i. FREE or ARMED: it was that, now it is BUSY and the caller's. BUSY:
 * another thread has it, which will wake whoever sleeps there.
 */
enum uffdwp__state uffdwp__pages_fault(struct uffdwp__pages *p, uint64_t i);

/* Makes ARMED pages from first on BUSY, until one is not, or max is reached. Returns how many. */
uint64_t uffdwp__pages_claim(struct uffdwp__pages *p, uint64_t first, uint64_t max);

/*
 * Makes FREE and ARMED pages from first on BUSY, until one is BUSY already or max (at most
 * UFFDWP__LOCK_MAX) is reached. Returns how many, their states before in prev, which is read by
 * uffdwp__prev_armed().
 */
uint64_t uffdwp__pages_lock(struct uffdwp__pages *p, uint64_t first, uint64_t max, uint64_t *prev);

/* From BUSY or CONTENDED to state; true if any was CONTENDED: wake their threads then. */
bool uffdwp__pages_unlock(struct uffdwp__pages *p, uint64_t first, uint64_t n,
			  enum uffdwp__state state);

/* The index of the first page in [first, end) that is not FREE, or end. */
uint64_t uffdwp__pages_next(const struct uffdwp__pages *p, uint64_t first, uint64_t end);

/* How many pages directly before i are FREE, at most max (at most 64). */
uint64_t uffdwp__pages_behind(const struct uffdwp__pages *p, uint64_t i, uint64_t max);

/* Whether page i was ARMED when a lock that began at first took it. */
static inline bool uffdwp__prev_armed(const uint64_t *prev, uint64_t first, uint64_t i)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.*): whoever has pages locked has prev filled */
	return prev[i / 32 - first / 32] >> (i % 32 * 2) & 1;
}

#endif
