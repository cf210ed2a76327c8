/* SPDX-License-Identifier: MIT */
/* Layers as their owners use them: attach, protect, collect, detach. The design is in layer.h. */
#ifndef UFFDWP_COLLECT_H
#define UFFDWP_COLLECT_H

#include "layer.h"
#include "uapi.h"

/* Words that have a bit for each page that one collect looks at. */
#define UFFDWP__COLLECT_WORDS (UFFDWP__COLLECT_MAX / 64)

/*
 * Attach, with run, granule, write and event filled in. No mark is set, nothing is protected by it.
 * -EBUSY: there is one of this kind, or a write operation; -EOPNOTSUPP: not UFFDWP_MODE_WP; errors of
 * opening the pagemap, where it is needed; -ENOMEM. Not from operations. On failure nothing is left.
 */
int uffdwp__layer_attach(struct uffdwp__layer *l, struct uffdwp_region *r, enum uffdwp__who who);

/*
 * Detach: when it returns, nobody uses it. The last layer unprotects the region. Pages put off by
 * UFFDWP_LATER must have been resumed. In a forked child it only frees.
 */
void uffdwp__layer_detach(struct uffdwp__layer *l);

/* From now on one fault takes along so many pages: see run in layer.h. */
void uffdwp__layer_set_run(struct uffdwp__layer *l, uint32_t run);

/* Whether another layer is on the region: then pages stay protected when this one is done. */
bool uffdwp__layer_shared(const struct uffdwp__layer *l);

/* Protects, or unprotects if no other layer is there, pages that are mapped. Does not touch marks. */
int uffdwp__layer_protect(struct uffdwp__layer *l, uint64_t first, uint64_t n, bool on);

/* Without async protection: they count as not written from here on. Protects nothing. */
void uffdwp__layer_unmark(struct uffdwp__layer *l, uint64_t first, uint64_t n);

/*
 * For a snapshot, whose memory has few marks: the first page from i on that is in a block of UFFDWP__BLOCK pages where
 * uffdwp__layer_collect() may find something; not less than the layer's pages: there is none.
 */
uint64_t uffdwp__layer_next(const struct uffdwp__layer *l, uint64_t i);

/*
 * Which of the blocks 64 * w to 64 * w + 63 are such, as bits, also beyond the last page. They count as clean from here
 * on: who takes them goes over all their marks after this, or puts back those that are left.
 */
uint64_t uffdwp__layer_take_blocks(struct uffdwp__layer *l, uint64_t w);
void uffdwp__layer_put_blocks(struct uffdwp__layer *l, uint64_t w, uint64_t bits);

/*
 * Which of the pages from first on were written since they were last taken, as bits, bit 0 for first.
 * n is cut to what lies between two multiples of UFFDWP__COLLECT_MAX. take: clear their marks and protect
 * them again, in one step for each page. Stops soon after max pages were found. *looked: so many
 * pages were looked at, also after an error, when what is in bits counts. -ENOENT: memory is not mapped, or
 * not the region's any more.
 */
int uffdwp__layer_collect(struct uffdwp__layer *l, uint64_t first, uint64_t n, uint64_t max,
			  bool take, uint64_t *bits, uint64_t *looked);

/*
 * With async protection: protects pages that were never there and that a collect passes over. Those are
 * pages of hugetlb, and of older kernels (6.12 does it, 6.18 does not) whatever has no page table yet. Else they
 * would be told when they are only read. What another layer has to know of them is told to it.
 */
int uffdwp__layer_cover(struct uffdwp__layer *l, uint64_t first, uint64_t n);

/*
 * The same straight from the kernel, where nothing is to be put together: the pages written as up to nv
 * runs in v, from start to before end. How many; *next: where it stopped, which is after first. -EAGAIN: not
 * possible for these pages now, nothing was done.
 */
int uffdwp__layer_scan(struct uffdwp__layer *l, uint64_t first, uint64_t end, uint64_t max,
		       bool take, struct uffdwp__page_region *v, uint64_t nv, uint64_t *next);

/* Goes on with pages that write() had put off: marks, release. */
void uffdwp__layer_resume(struct uffdwp__layer *l, uint64_t first, uint64_t n);

#endif
