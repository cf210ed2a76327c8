/* SPDX-License-Identifier: MIT */
/* What the page tables tell of pages that were copied, or need not be. */
#ifndef UFFDWP_SNAPSHOT_LOOK_H
#define UFFDWP_SNAPSHOT_LOOK_H

#include "snapshot_core.h"

enum uffdwp__saved {
	UFFDWP__SAVED,
	UFFDWP__NO_ROOM, /* staging is full */
	UFFDWP__UNSURE,	 /* whether it was still there: events are under way */
	UFFDWP__LOST,	 /* it was not */
};

/* What the pagemap can tell. */
void uffdwp__snapshot_learn(struct uffdwp_snapshot *s);

/* Whether page tables tell that a page was not discarded: of anonymous memory, since Linux 5.14. */
bool uffdwp__snapshot_proves(const struct uffdwp__part *p);

/* Of BUSY pages that were protected, after they were copied: SAVED, UNSURE, LOST. */
enum uffdwp__saved uffdwp__snapshot_prove(struct uffdwp__part *p, uint64_t first, uint64_t n);

/*
 * Which of protected pages were never there, and so are zeros, as bits. False: that can not be
 * told, and bits are not set.
 */
bool uffdwp__snapshot_unpopulated(struct uffdwp__part *p, uint64_t first, uint64_t n,
				  uint64_t *bits);

#endif
