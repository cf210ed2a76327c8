/* SPDX-License-Identifier: MIT */
/*
 * Counters. Each serving thread has a set of its own, which only it writes; one more set, shared,
 * takes what threads outside the pool do. Summed when somebody asks.
 */
#ifndef UFFDWP_STATS_H
#define UFFDWP_STATS_H

#include "hist.h"
#include "uffdwp.h"

/* In the order of struct uffdwp_stats. */
enum uffdwp__counter {
	COUNT_MISSING,
	COUNT_WRITE,
	COUNT_MINOR,
	COUNT_DUPLICATES,
	COUNT_STRAYS,
	COUNT_REMAP,
	COUNT_REMOVE,
	COUNT_UNMAP,
	COUNT_FORK,
	COUNT_READS,
	COUNT_OP_CALLS,
	COUNT_OP_PAGES,
	COUNT_RESOLVES,
	COUNT_WAKES,
	COUNT_EAGAIN,
	COUNT_EEXIST,
	COUNT_MOVES,
	COUNT_SINGLES, /* not public: one op_calls, one op_pages, one resolves */
	COUNTERS
};

struct uffdwp__stats {
	_Alignas(64) _Atomic uint64_t c[COUNTERS];
	struct uffdwp__hist latency;
	int shared;
};

/* Relaxed: counters order nothing. One writer needs no locked instruction. */
static inline void uffdwp__count(struct uffdwp__stats *s, enum uffdwp__counter i, uint64_t n)
{
	if (s->shared)
		atomic_fetch_add_explicit(&s->c[i], n, memory_order_relaxed);
	else
		atomic_store_explicit(&s->c[i],
				      atomic_load_explicit(&s->c[i], memory_order_relaxed) + n,
				      memory_order_relaxed);
}

static inline uint64_t uffdwp__counted(const struct uffdwp__stats *s, enum uffdwp__counter i)
{
	return atomic_load_explicit(&s->c[i], memory_order_relaxed);
}

void uffdwp__stats_add(struct uffdwp_stats *to, const struct uffdwp__stats *from);

#endif
