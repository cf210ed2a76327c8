/* SPDX-License-Identifier: MIT */
/* Reading much of an image, many pieces at a time: for verify, eager restore and prefetch. */
#ifndef UFFDWP_IMAGE_FILL_H
#define UFFDWP_IMAGE_FILL_H

#include "image.h"

struct uffdwp__fill {
	const struct uffdwp_image *img;
	unsigned int depth; /* reads in flight */
	uint64_t chunk;	    /* bytes of one, at most; a multiple of each region's page size */
	bool buffered;	    /* through the page cache */
	bool huge;	    /* buffers in huge pages, not registered: to be moved away */
	void *arg;
	/* The next run to read, of at most chunk bytes. False: that was all. */
	bool (*next)(void *arg, struct uffdwp__run *run);
	/* Where to read it to; NULL: to one of the fill's buffers. */
	void *(*to)(void *arg, const struct uffdwp__run *run);
	/* It is in buf, not checked; or err. buf is used again afterwards. */
	void (*got)(void *arg, const struct uffdwp__run *run, void *buf, int err);
	/* Whether another one may be read now, while so many, at least one, are in flight; NULL: yes. */
	bool (*more)(void *arg, unsigned int inflight);
};

/* Returns when next() has said so and all was got: 0, or -errno when it could not begin. */
int uffdwp__fill_run(const struct uffdwp__fill *f);

/*
 * A walk over runs of pages that are not zeros, in whole units of so many pages, with small gaps between
 * them taken along.
 */
struct uffdwp__walk {
	const struct uffdwp_image *img;
	uint32_t region;
	uint64_t page, end; /* where it is, where it stops in this region */
};

/* The next run of at most max pages, a multiple of unit. False: there is none before end. */
bool uffdwp__walk_next(struct uffdwp__walk *w, uint64_t unit, uint64_t max,
		       struct uffdwp__run *run);

#endif
