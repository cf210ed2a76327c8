/* SPDX-License-Identifier: MIT */
/*
 * A thread that does to watched memory whatever else may happen to it while others write: discards,
 * mprotect, huge pages that form and split, fork, swap, compaction. What is a write, or may
 * be taken for one, goes into the books of writers.h.
 */
#ifndef DISTURB_H
#define DISTURB_H

#include "writers.h"

#include <uffdwp.h>

enum disturbance {
	DISTURB_DISCARD,  /* uffdwp_discard(), a write */
	DISTURB_DONTNEED, /* MADV_DONTNEED past the library, a write */
	DISTURB_REMOVE,	  /* MADV_REMOVE past the library, a write */
	DISTURB_MPROTECT, /* read-only and back; on one small page, which splits a huge one, */
	DISTURB_SPLIT,	  /* or some */
	DISTURB_COLLAPSE, /* all of a huge page is written, then MADV_COLLAPSE */
	DISTURB_FORK,	  /* a child that writes to its copy */
	DISTURB_SWAP,	  /* MADV_PAGEOUT */
	DISTURB_COMPACT,  /* of the system's memory */
	DISTURB_KINDS
};

struct disturb {
	struct books *b;
	struct verdict *v;
	const struct mem *mem;
	struct uffdwp *h;
	unsigned int kinds; /* bit mask of what is done */
	uint64_t seed;
	_Atomic bool stop;
	_Atomic uint64_t count[DISTURB_KINDS]; /* that really happened */
	struct rng rng;
	pthread_t thread;
};

const char *disturb_name(enum disturbance d);

/* What can be done to the memory, less what depends on who watches: DONTNEED, REMOVE; and SWAP. */
unsigned int disturb_possible(enum mem_kind kind);

/* One of these, in the calling thread, which is no other's; whether it really happened. */
bool disturb_once(struct disturb *d, enum disturbance what);

/* All above count is set. */
void disturb_start(struct disturb *d);
void disturb_stop(struct disturb *d);

#endif
