/* SPDX-License-Identifier: MIT */
/* What the floors above need of the calls: delivering pages, and releasing without states. */
#ifndef UFFDWP_CALL_H
#define UFFDWP_CALL_H

#include "core.h"
#include "piece.h"

/* Protects or unprotects without looking at states; *done bytes. Waits for events to be read. */
int uffdwp__writeprotect(struct uffdwp *h, uint64_t addr, uint64_t len, uint64_t page, bool on,
			 uint64_t *done);

/*
 * Protects or unprotects a locked piece, and unlocks it: what was not done goes back to what it was. by: the layer
 * that it is for, or NULL.
 */
int uffdwp__piece_protect(struct uffdwp__piece *p, bool on, const struct uffdwp__layer *by,
			  uint64_t *done);

/* uffdwp_protect() and uffdwp_unprotect() without their checks. */
int uffdwp__protect_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool on,
			  const struct uffdwp__layer *by, uint64_t *done);

/* Gives memory of a region back to the kernel: unprotected, unregistered, nobody asleep. */
void uffdwp__let_go(struct uffdwp_region *r, uint64_t addr, uint64_t len);

/* Unprotects all that can be, over whatever holes there are. */
void uffdwp__unprotect_all(struct uffdwp *h, uint64_t addr, uint64_t len, uint64_t page);

/*
 * The pages [first, first + n) are BUSY and the caller's: call the write operation, release them.
 * 0, or UFFDWP_LATER: they stay BUSY.
 */
int uffdwp__deliver(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp_fault *f,
		    struct uffdwp__stats *st);

/* Releases BUSY pages: unprotect, wake, FREE. */
int uffdwp__release(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp__stats *st);

/* The first fatal error stays; every protected page is released. */
void uffdwp__fail(struct uffdwp *h, int err);

/* The same where not even that can be done: gives up the descriptor, which releases every thread. */
void uffdwp__give_up(struct uffdwp *h, int err);

int uffdwp__error(struct uffdwp *h);

#endif
