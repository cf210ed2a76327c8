/* SPDX-License-Identifier: MIT */
/*
 * Writes of one file that wait for their neighbours. What faults save is single pages from all over memory, and
 * leaves holes in what comes in order: as they come they would be many small writes, which is what disks
 * are slow at. So each waits until it is part of a run that is worth a write of its own.
 *
 * What waits keeps its memory, in staging. That is counted in slices, because staging is used again by large
 * pieces, however little of one is still needed: when too many are kept, the oldest runs go as they
 * are. One thread at a time.
 */
#ifndef UFFDWP_IMAGE_GATHER_H
#define UFFDWP_IMAGE_GATHER_H

#include <uffdwp/snapshot.h>

#include "queue.h"

#define UFFDWP__SLICES 64

/* A run's beginning or end, found by where in the file it is; no two waiting runs have the same. */
struct uffdwp__edge {
	uint64_t at;
	struct uffdwp__gathered *run;
	struct uffdwp__edge *next;
};

struct uffdwp__gather {
	struct uffdwp__queue *queue;
	char *staging;
	uint64_t slice_size, run_size;
	uint64_t writes;	       /* to the file */
	uint32_t kept[UFFDWP__SLICES]; /* pieces that wait in each */
	unsigned int nkept;	       /* slices that have any */
	struct uffdwp__edge **edges;   /* by a hash of their place */
	unsigned int bits;	       /* of the hash */
	struct uffdwp__gathered *oldest, *newest;
	struct uffdwp__gathered *spare;
};

/* queue is borrowed. 0 or -ENOMEM. */
int uffdwp__gather_init(struct uffdwp__gather *g, struct uffdwp__queue *queue, void *staging,
			uint64_t staging_size);

/* What still waits is forgotten; nothing may be in flight. Also of one that is all zeros. */
void uffdwp__gather_exit(struct uffdwp__gather *g);

/* Takes a write, which goes to offset in the file and is told when it is done: 0 or -ENOMEM. */
int uffdwp__gather_add(struct uffdwp__gather *g, struct uffdwp_sink_write *w, uint64_t offset);

/*
 * Tells those that are done. If none is, waits about ms milliseconds for one; and because there is nothing else
 * to do then, what waits for its neighbours goes.
 */
void uffdwp__gather_wait(struct uffdwp__gather *g, int ms);

/* Nothing waits, nothing is in flight. */
bool uffdwp__gather_idle(const struct uffdwp__gather *g);

#endif
