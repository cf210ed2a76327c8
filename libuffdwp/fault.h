/* SPDX-License-Identifier: MIT */
/*
 * Serving: from messages, or signals, to operations and releases. The one path of all three ways.
 */
#ifndef UFFDWP_FAULT_H
#define UFFDWP_FAULT_H

#include "core.h"

/* Who serves: a thread of the pool, a caller of uffdwp_dispatch(), a signal handler. */
struct uffdwp__server {
	struct uffdwp *h;
	struct uffdwp__stats *st;
	uint32_t worker;
	uint32_t last_tid; /* of the threads served last, 0 if unknown */
	uint64_t last_ns;  /* how long the last batch that was timed took */
};

/* Whether to time this batch: two looks at the clock are some percent of a fault. */
static inline bool uffdwp__sampled(const struct uffdwp__stats *st, enum uffdwp__counter what,
				   uint32_t sample)
{
	return sample == 1 || uffdwp__counted(st, what) % sample == 0;
}

/*
 * Whoever serves a write reads the page next, so its first lines, and its translation, are
 * fetched while the books are looked up; the hardware goes on from there by itself. An address
 * that is not in this process does no harm.
 */
static inline void uffdwp__prefetch(uint64_t addr)
{
	uintptr_t page = (uintptr_t)addr & ~(uintptr_t)4095;

	for (unsigned int i = 0; i < 4; i++)
		__builtin_prefetch((const void *)(page + 64 * i));
}

/*
 * Reads once, without waiting, and serves what came. The number of messages, or -errno from
 * reading.
 */
int uffdwp__serve(struct uffdwp__server *s);

/*
 * In a reader section: a write fault on a page, with want - 1 more that faulted right behind it.
 * Returns what the page was, with in *n how many pages from it on are released now; BUSY: none,
 * another thread has it.
 */
enum uffdwp__state uffdwp__serve_write(struct uffdwp__server *s, struct uffdwp_region *r,
				       uint64_t page, uint64_t want, uint32_t tid, uint64_t *n);

/* In a reader section: a missing or minor fault. 0: placed, UFFDWP_LATER, or -errno: it was not. */
int uffdwp__serve_absent(struct uffdwp__server *s, struct uffdwp_region *r, uint64_t page,
			 enum uffdwp_fault_kind kind, bool write, uint32_t tid);

#endif
