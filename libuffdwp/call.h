/* SPDX-License-Identifier: MIT */
/* What the floors above need of the calls: protecting, and delivering pages. */
#ifndef UFFDWP_CALL_H
#define UFFDWP_CALL_H

#include "core.h"
#include "piece.h"

/*
 * Protects or unprotects a locked piece, and unlocks it: what was not done goes back to what it was. by: the layer
 * that it is for, or NULL.
 */
int uffdwp__piece_protect(struct uffdwp__piece *p, bool on, const struct uffdwp__layer *by,
			  uint64_t *done);

/* uffdwp_protect() and uffdwp_unprotect() without their checks. */
int uffdwp__protect_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool on,
			  const struct uffdwp__layer *by, uint64_t *done);

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

int uffdwp__error(struct uffdwp *h);

#endif
