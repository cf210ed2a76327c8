/* SPDX-License-Identifier: MIT */
/* Making and ending regions, for handles. */
#ifndef UFFDWP_REGION_H
#define UFFDWP_REGION_H

#include "core.h"

/* Makes a region without registering it; for regions of forked children too. */
struct uffdwp_region *uffdwp__region_new(struct uffdwp *h, const struct uffdwp_region_opts *o,
					 uint64_t kernel_page);
void uffdwp__region_free(struct uffdwp_region *r);

/* Under the lock: it belongs to the handle, and is found, from now on. */
void uffdwp__region_link(struct uffdwp *h, struct uffdwp_region *r);

/*
 * All of them, at the end of a handle: release and unregister; then, when nobody serves any more,
 * free.
 */
void uffdwp__regions_detach(struct uffdwp *h);
void uffdwp__regions_free(struct uffdwp *h);

#endif
