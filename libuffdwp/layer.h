/* SPDX-License-Identifier: MIT */
/*
 * Layers: what a snapshot and a tracker have on a region, in the place of a write operation of the
 * program's own. Both may be there at once.
 *
 * DESIGN
 *
 * A layer has one mark a page: written since this layer last collected it. Without async protection a
 * page that is ARMED is protected, for whichever layer; its first write is delivered to the layers in
 * their order: first the snapshot saves it, then every layer's mark is set, then it is released. With
 * async protection the kernel holds the marks, for all layers together: who takes them from there gives
 * them to the other layers' marks, under the stripe's lock, so that no layer can look in between.
 *
 * Invariant without async: a page that a layer has protected is ARMED, BUSY, or marked. Marks are
 * set, and taken by a collect, only while the page is BUSY, so that taking a page's mark and protecting it again is
 * one step to whoever writes. Who does not care about the write, but only that the page is protected, may take the mark before it
 * protects: protecting waits for who has the page. With async: a page is protected, or written in the kernel's books, or
 * marked.
 *
 * A REMOVE event is read before the content goes, and with anonymous memory's content goes its
 * protection: a page that was taken in between is not protected any more, or has changed without a
 * write. So it is a suspect from then on, and each collect looks in the pagemap whether it is still
 * protected; if not, or if that proves nothing, as of memory of a file, or after another layer has protected
 * it again, it counts as written.
 *
 * Serving threads, collect and discard use layers as readers of the table (core.h), and detaching
 * waits for them.
 */
#ifndef UFFDWP_LAYER_H
#define UFFDWP_LAYER_H

#include "core.h"

struct uffdwp__layer {
	struct uffdwp_region *r;
	enum uffdwp__who who;
	uint32_t run;	   /* most pages that one fault releases; 1: only those that were written */
	uint32_t granule;  /* pages, a power of two: one fault releases all of its granule */
	uint64_t patience; /* ns that it waits for a page which somebody has */
	int pagemap;	   /* of the process that is watched, or -1 */
	bool anonymous;
	bool holes; /* the kernel's scan passes over what has no page table */
	/*
	 * BUSY pages [first, first + n) are about to be written, discarded, or let go: keep what they
	 * are. Called by serving threads and by uffdwp_discard(). 0, or UFFDWP_LATER: not now; the layer
	 * calls uffdwp__layer_resume() for exactly these pages, later. NULL: nothing to keep.
	 */
	int (*write)(struct uffdwp__layer *l, uint64_t first, uint64_t n,
		     const struct uffdwp_fault *f);
	/*
	 * BUSY pages that were ARMED are about to be protected again for another layer: after that
	 * protection does not prove any more that they were not discarded. 0; -EAGAIN: not now. NULL: it
	 * does not matter.
	 */
	int (*keep)(struct uffdwp__layer *l, uint64_t first, uint64_t n);
	/* An event that meets the region; see uffdwp_event. NULL: ignore. */
	void (*event)(struct uffdwp__layer *l, const struct uffdwp_event *e);
	uint64_t pages;		 /* in the region */
	_Atomic uint64_t *marks; /* one bit a page, the lowest first */
	/* One bit for so many pages, where marks may be. NULL: a tracker without async, which has marks everywhere. */
	_Atomic uint64_t *blocks;
	_Atomic uint64_t *suspects;  /* the same, only with EVENT_REMOVE */
	_Atomic uint32_t suspicious; /* 1: there is a suspect */
	size_t marks_size;	     /* bytes of each */
	size_t blocks_size;
};

#define UFFDWP__BLOCK 512 /* pages: a cache line of marks */
#define UFFDWP__COLLECT_MAX \
	65536 /* most pages that one collect looks at, and that have a stripe in common */

static inline pthread_mutex_t *uffdwp__stripe(struct uffdwp_region *r, uint64_t page)
{
	return &r->stripe[page / UFFDWP__COLLECT_MAX % UFFDWP__STRIPES];
}

/* In a reader section: delivers BUSY pages to all layers, and marks them. 0 or UFFDWP_LATER. */
int uffdwp__layers_write(struct uffdwp_region *r, uint64_t first, uint64_t n,
			 const struct uffdwp_fault *f);

/* In a reader section: an event that meets the region. */
void uffdwp__layers_event(struct uffdwp_region *r, const struct uffdwp_event *e);

/*
 * BUSY pages are about to be protected again for one layer: they may have been discarded, with an event, since another
 * one took them, and their protection proves nothing to that one from here on. To it they are written, if they are
 * suspects, or while it is not known which pages are: an event is read and not carried out. What is discarded after
 * this has a mark of its own, by its event, which nobody takes while the pages are BUSY.
 */
void uffdwp__layer_doubt(const struct uffdwp__layer *by, uint64_t first, uint64_t n);

/* Marks pages for one layer, or, in a reader section, for all that are on the region. */
void uffdwp__layer_mark(struct uffdwp__layer *l, uint64_t first, uint64_t n);
void uffdwp__layers_mark(struct uffdwp_region *r, uint64_t first, uint64_t n);

#endif
