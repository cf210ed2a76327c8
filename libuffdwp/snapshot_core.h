/* SPDX-License-Identifier: MIT */
/*
 * A snapshot as its own files see it: its state, and the driver's rest. The design is in
 * snapshot.c; the files build on each other in this order:
 *
 *	snapshot_core      the state, waking and resting
 *	snapshot_look      what page tables prove
 *	snapshot_save      pages to staging, by faults too; holding them; stopping
 *	snapshot_event     discards and unmapping
 *	snapshot_sink      staging to the sink
 *	snapshot_cow       the strategies
 *	snapshot_precopy
 *	snapshot           life and verdict
 */
#ifndef UFFDWP_SNAPSHOT_CORE_H
#define UFFDWP_SNAPSHOT_CORE_H

#include <pthread.h>
#include <semaphore.h>

#include "collect.h"
#include "hist.h"
#include "staging.h"
#include "uffdwp/snapshot.h"

enum uffdwp__phase {
	UFFDWP__NEW,
	UFFDWP__ARMED_ONCE,
	UFFDWP__SEALED,
	UFFDWP__ENDED,
};

enum uffdwp__snapshot_counter {
	SNAP_SAVED,
	SNAP_ZERO,
	SNAP_BY_FAULT,
	SNAP_BY_SWEEP,
	SNAP_BY_SEAL,
	SNAP_HELD,
	SNAP_PASSES,
	SNAP_ARM_NS,
	SNAP_PAUSE_NS,
	SNAP_TOTAL_NS,
	SNAP_SEALED_NS,
	SNAP_COUNTERS,
};

#define UFFDWP__WAITS 64 /* buckets of when held pages began to be held */

/* One region of a snapshot. */
struct uffdwp__part {
	struct uffdwp__layer layer; /* first: its operations are given it */
	struct uffdwp_snapshot *s;
	uint32_t index;
	uint32_t page_units; /* of staging */
	uint32_t step;	     /* base pages that one entry of the pagemap stands for */
	bool anonymous;	     /* all of it private memory without a file */
	/* A bit a page, changed only while the page is BUSY. */
	_Atomic uint64_t *saved;
	_Atomic uint64_t *held; /* its write() said LATER, and nobody has resumed it */
};

struct uffdwp_snapshot {
	struct uffdwp *h;
	uint32_t n, strategy;
	bool by_caller, async, threaded, begun;
	uint64_t rate, settle;
	uint32_t passes;
	size_t size; /* of this mapping */
	uint64_t bytes, pages, largest;
	struct uffdwp_sink sink;
	struct uffdwp_sink_region *layout;

	/* What a pagemap tells here: see snapshot_save.c. */
	bool can_scan, has_wp_bit;
	uint64_t marker;

	_Atomic uint32_t phase; /* enum uffdwp__phase */
	_Atomic uint32_t stop;	/* 0: runs; 1: being ended; 2: the fields below are set */
	uint32_t verdict, why;
	int32_t error;
	uint64_t stop_addr, stop_len;

	pthread_mutex_t lock; /* who drives */
	_Atomic uintptr_t driver;
	_Atomic int driver_tid;
	pthread_t thread;
	sem_t work; /* there is something to drive: the seal, or the end */
	sem_t wake;
	_Atomic uint32_t idle;
	pthread_mutex_t end_lock;
	pthread_cond_t ended;

	/* The driver's, under the lock. */
	uint64_t started, next_sweep;
	uint64_t back_until, back_from, back_bytes; /* see stands_back() */
	bool emptying;
	uint32_t at_part;
	uint64_t at_page;
	uint64_t released; /* pages of that part: up to there those that are saved were */
	bool told_sealed;
	struct {
		uint32_t part;
		uint64_t page, n;
	} zeros; /* found, and not yet told the sink */
	uint32_t in_flight;
	uint64_t bits[UFFDWP__COLLECT_WORDS];

	_Alignas(64) _Atomic uint64_t unsaved; /* pages */
	_Atomic uint64_t nheld;
	_Atomic uint64_t hold[UFFDWP__WAITS]; /* us since started << 16 | pages */
	_Atomic uint64_t c[SNAP_COUNTERS];
	struct uffdwp__hist waits;
	struct uffdwp__staging staging;
	struct uffdwp__part part[];
};

static inline void uffdwp__snapshot_count(struct uffdwp_snapshot *s,
					  enum uffdwp__snapshot_counter i, uint64_t n)
{
	/* Relaxed: counters order nothing. */
	atomic_fetch_add_explicit(&s->c[i], n, memory_order_relaxed);
}

static inline bool uffdwp__snapshot_stopped(const struct uffdwp_snapshot *s)
{
	/* seq_cst: pairs with uffdwp__snapshot_stop(): see hold(). */
	return atomic_load_explicit(&s->stop, memory_order_seq_cst);
}

static inline enum uffdwp__phase uffdwp__snapshot_phase(const struct uffdwp_snapshot *s)
{
	/* Acquire: pairs with the release where the phase changes. */
	return atomic_load_explicit(&s->phase, memory_order_acquire);
}

static inline uint64_t uffdwp__part_bytes(const struct uffdwp__part *p, uint64_t n)
{
	return n << p->layer.r->shift;
}

/* Wakes whoever drives, if it waits. From anywhere. */
void uffdwp__snapshot_kick(struct uffdwp_snapshot *s);
/* Waits for a kick, at most so long. */
void uffdwp__snapshot_idle(struct uffdwp_snapshot *s, unsigned int us);

/* The same, also while there is something to hand over; not while somebody is held. */
void uffdwp__snapshot_nap(struct uffdwp_snapshot *s, unsigned int us);

/* Bytes were saved in the background: when the next may be. */
void uffdwp__snapshot_pace(struct uffdwp_snapshot *s, uint64_t bytes);

/* Runs of set bits: the next at or after *i, before n; false: there is none. */
bool uffdwp__next_run(const uint64_t *bits, uint64_t n, uint64_t *i, uint64_t *len);

#endif
