/* SPDX-License-Identifier: MIT */
/*
 * What every call on pages does: all of them lock the states of the pages, call the kernel, set
 * the new states, and wake whoever faulted meanwhile (see bitmap.h): a fault on a locked page is
 * put off, its thread sleeps on in the kernel's queue until that wake.
 *
 * Long ranges go in pieces: the kernel holds the address space's lock over each call.
 */
#ifndef UFFDWP_PIECE_H
#define UFFDWP_PIECE_H

#include "core.h"

#define UFFDWP__PIECE (UINT64_C(16) << 20)
#define UFFDWP__BUSY_NS UINT64_C(1000000000) /* that a call waits for a page somebody has */

/* Waiting for what another thread does, but not for ever. Begins zeroed. */
struct uffdwp__wait {
	unsigned int count, tries;
	uint64_t until;
};

/* False when the limit, in ns, is over. */
bool uffdwp__wait(struct uffdwp__wait *w, uint64_t limit);

/*
 * After EAGAIN: an event is unread, or was read and its thread has not run yet. False after five
 * seconds.
 */
bool uffdwp__wait_events(struct uffdwp *h, struct uffdwp__wait *w);

/* A page that stays BUSY. Reads events, which who has it may wait for. False when the limit, in ns, is over. */
bool uffdwp__wait_page(struct uffdwp *h, struct uffdwp__wait *w, uint64_t limit);

/* Protects or unprotects without looking at states; *done bytes. Waits for events to be read. */
int uffdwp__writeprotect(struct uffdwp *h, uint64_t addr, uint64_t len, uint64_t page, bool on,
			 uint64_t *done);

/* Gives memory of a region back to the kernel: unprotected, unregistered, nobody asleep. */
void uffdwp__let_go(struct uffdwp_region *r, uint64_t addr, uint64_t len);

/* Unprotects all that can be, over whatever holes there are. */
void uffdwp__unprotect_all(struct uffdwp *h, uint64_t addr, uint64_t len, uint64_t page);

/* Threads that sleep there look again. Gives the handle up if even that is refused. */
void uffdwp__wake(struct uffdwp *h, uint64_t addr, uint64_t len);

/* Where not even uffdwp__fail() can be done: gives up the descriptor, which releases every thread. */
void uffdwp__give_up(struct uffdwp *h, int err);

/* 0, or why the arguments of a public call are wrong; *done is 0 then and always. */
int uffdwp__check_range(const struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);
int uffdwp__check_pages(const struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

static inline uint64_t uffdwp__offset_of(const struct uffdwp_region *r, uint64_t addr)
{
	return addr - atomic_load_explicit(&r->base, memory_order_relaxed);
}

static inline uint64_t uffdwp__page_of(const struct uffdwp_region *r, uint64_t addr)
{
	return uffdwp__offset_of(r, addr) >> r->shift;
}

/* The pages of a piece. */
static inline uint64_t uffdwp__piece_pages(const struct uffdwp_region *r)
{
	return r->page_size < UFFDWP__PIECE ? UFFDWP__PIECE >> r->shift : 1;
}

/* An index is made from an address that was checked before; the region may have moved between. */
static inline bool uffdwp__in_pages(const struct uffdwp_region *r, uint64_t first, uint64_t n)
{
	return first < r->pages.n && n <= r->pages.n - first;
}

static inline uint64_t uffdwp__addr_of(const struct uffdwp_region *r, uint64_t page)
{
	return atomic_load_explicit(&r->base, memory_order_acquire) + (page << r->shift);
}

/* Whether a page still is, by the books, where an operation was told that it is. */
static inline bool uffdwp__page_is_at(const struct uffdwp_region *r, uint64_t page, uint64_t addr)
{
	return addr == uffdwp__addr_of(r, page) &&
	       addr - uffdwp__start_of(r) < atomic_load_explicit(&r->len, memory_order_relaxed);
}

struct uffdwp__piece {
	struct uffdwp_region *r;
	uint64_t addr, len; /* bytes of this piece */
	uint64_t first, n;  /* its pages, locked if the region has states */
	uint64_t prev[UFFDWP__PREV_WORDS];
};

/*
 * Locks as many pages as can be from addr on, at least one; waits for one that is BUSY, limit ns. -EBUSY:
 * in vain; -ENOENT: it is not there.
 */
int uffdwp__piece_lock(struct uffdwp__piece *p, struct uffdwp_region *r, uint64_t addr,
		       uint64_t len, uint64_t limit);

/* Gives up n pages from page i of the piece on. */
void uffdwp__piece_unlock(struct uffdwp__piece *p, uint64_t i, uint64_t n,
			  enum uffdwp__state state);

/* The same from page i to the end, back to what they were. */
void uffdwp__piece_restore(struct uffdwp__piece *p, uint64_t i);

bool uffdwp__piece_was_armed(const struct uffdwp__piece *p, uint64_t i);

#endif
