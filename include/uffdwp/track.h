/* SPDX-License-Identifier: MIT */
/*
 * uffdwp/track.h - dirty tracking: which pages were written since the last look.
 *
 *	struct uffdwp_opts opts = { .sz = sizeof(opts), .optional = UFFDWP_FEATURE_WP_ASYNC };
 *	struct uffdwp_region_opts o = { .sz = sizeof(o), .addr = (uintptr_t)mem, .len = len,
 *					.mode = UFFDWP_MODE_WP };
 *	struct uffdwp_track_query q = { .sz = sizeof(q), .range = seen };
 *	uffdwp_open(&h, &opts);
 *	uffdwp_region_add(h, &o, &r);
 *	uffdwp_track_start(&t, &r, 1, NULL);
 *	...
 *	uffdwp_track_collect(t, &q);	// calls seen() with each range written; the next epoch begins
 *
 * The promise: a page that is written after uffdwp_track_start() returned is reported by a collect
 * that ends after the write. For each page, reporting it and beginning its next epoch is one atomic
 * step: a write is in this epoch or in the next, never in neither. Contents read after a collect
 * hold every write that it reported.
 *
 * Which mechanism tracks is decided by how the handle was opened; all have the same semantics:
 *
 *	async	.optional or .required = UFFDWP_FEATURE_WP_ASYNC (Linux 6.7): the kernel notes
 *		writes in its page tables. A first write costs a tenth of what the others cost.
 *	sync	a pool of threads, or the program's own loop, marks the page and releases it
 *	sigbus	.serve = UFFDWP_SERVE_SIGBUS: marked in the thread that writes. A write by the
 *		kernel, as by read(2), fails with EFAULT.
 *
 * Caveats: those of uffdwp.h, and:
 * - A discard counts as a write where it is seen. Through uffdwp_discard() it always is. Past it,
 *   async sees MADV_DONTNEED of anonymous memory; sync and sigbus see it with
 *   UFFDWP_FEATURE_EVENT_REMOVE only, and without that feature they can also lose writes to the
 *   discarded pages. MADV_REMOVE is seen with UFFDWP_FEATURE_EVENT_REMOVE only. A hole punched, or
 *   a truncation, through the file is never seen.
 * - A page may be reported although it was not written: twice after a discard, in
 *   each collect after an event told of a discard of a file's memory (before Linux 5.14, any), a neighbour within
 *   its granule, a page placed by uffdwp_copy() without UFFDWP_COPY_WP, one that the kernel
 *   migrates while async collects it, in sync one that several threads wrote to at once, and in
 *   two epochs one whose write is under way between them. Without these, and with pages of the base size, a page that was not written is not
 *   reported.
 */
#ifndef UFFDWP_TRACK_H
#define UFFDWP_TRACK_H

#include <uffdwp.h>

#ifdef __cplusplus
extern "C" {
#endif

struct uffdwp_track; /* a tracker: one observer of some regions, with epochs of its own */

enum uffdwp_track_mechanism {
	UFFDWP_TRACK_AUTO = 0, /* the handle's */
	UFFDWP_TRACK_ASYNC,
	UFFDWP_TRACK_SYNC,
	UFFDWP_TRACK_SIGBUS,
};

/* What a tracker must be able to see, besides user-mode writes. */
#define UFFDWP_TRACK_KERNEL_WRITES 1u /* system calls that write to the memory */
#define UFFDWP_TRACK_DISCARDS 2u      /* MADV_DONTNEED of anonymous memory, past uffdwp_discard() */
#define UFFDWP_TRACK_REMOVES 4u	      /* MADV_REMOVE, past uffdwp_discard() */

struct uffdwp_track_opts {
	size_t sz;
	uint32_t mechanism; /* enum uffdwp_track_mechanism; another than the handle's: -EOPNOTSUPP */
	uint32_t require;   /* UFFDWP_TRACK_*; what the handle can not: -EOPNOTSUPP */
	/*
	 * Bytes that are reported, and with sync and sigbus released, together: a power of two from
	 * the regions' page size to UFFDWP_TRACK_GRANULE_MAX. Coarser means fewer faults, less
	 * precision. 0: the page size of each region.
	 */
	uint64_t granule;
	/* Where a failed call says in words what is wrong with which option; may be NULL. */
	char *reason;
	size_t reason_size;
};

#define UFFDWP_TRACK_GRANULE_MAX (UINT64_C(2) << 20)

/*
 * Begin to track n regions of one handle, without a write operation of the program's own. On
 * return every page is clean. The tracker belongs to the caller, who ends it with
 * uffdwp_track_stop() before the regions are removed or the handle is closed (these are -EBUSY
 * until then). While a region is tracked, uffdwp_protect(), uffdwp_unprotect(), uffdwp_sweep() and
 * uffdwp_release() on it are -EBUSY. One tracker a region; a snapshot may run besides it.
 * -EINVAL: an argument, see opts.reason; -E2BIG: see uffdwp.h; -EOPNOTSUPP: the handle or a region
 * can not; -EBUSY: a region has a tracker, or a write operation; -EDEADLK: called from an
 * operation; -EACCES: /proc/PID/pagemap can not be read; -ENOMEM, -EMFILE; errors of uffdwp_protect(). Thread-safe.
 */
int uffdwp_track_start(struct uffdwp_track **out, struct uffdwp_region *const *regions, size_t n,
		       const struct uffdwp_track_opts *opts);

/* A range of whole granules, where faults arrive. */
struct uffdwp_track_range {
	uint64_t addr, len;
};

/*
 * What is asked, and what came back. Results go to every one of range, ranges and bitmap that is
 * set; with none, pages are only counted.
 */
struct uffdwp_track_query {
	size_t sz;
	struct uffdwp_region *region; /* NULL: all, in the order of uffdwp_track_start() */
	/*
	 * A part of the region, in whole granules; 0, 0: all of it. With UFFDWP_FEATURE_EVENT_UNMAP and
	 * _REMAP nothing is reported of what is not there any more; without, it is -ENOENT.
	 */
	uint64_t addr, len;
	/* Stop after so many bytes were reported, at the next granule's end; 0: no bound. */
	uint64_t max;
	/*
	 * Called in the calling thread with each range, in order of addresses. Not 0: stop after this
	 * range. It may write to tracked memory, unless the calling thread is the one that serves faults.
	 */
	int (*range)(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg);
	void *arg;
	/* An array; the call stops when it is full. */
	struct uffdwp_track_range *ranges;
	size_t nranges;
	/*
	 * As KVM_GET_DIRTY_LOG lays it out: bit n % 64 of little-endian word n / 64 is page n after
	 * addr, or after the region's first page when addr and len are 0. Bits are only ever set, by
	 * relaxed atomic operations on words: several threads may collect into one bitmap. Region must
	 * be set.
	 */
	uint64_t *bitmap;
	uint64_t bitmap_page; /* bytes a bit, a power of two, at most the granule; 0: the base page */
	/*
	 * In: 0, or where the last call stopped. Out: where this one stopped, to go on with the same
	 * query; 0: all was looked at.
	 */
	uint64_t resume;
	/* Results, also when the call fails. */
	uint64_t bytes; /* reported */
	size_t filled;	/* entries of ranges */
};

/*
 * Report what was written since the last collect, or since the start, and begin the next epoch. q
 * may be NULL: the same as uffdwp_track_reset() of everything. Stopping early loses nothing:
 * what was not reported will be.
 * -EINVAL: an argument; -ENOENT: memory is not mapped any more; -EBUSY: a page stayed in an operation for
 * a second; -ESRCH: the process that is watched has ended; the handle's error if it failed: from then
 * on every page counts as written.
 * After any error, what was reported counts; the rest is still to be reported. Thread-safe; threads
 * that collect disjoint parts do not wait for each other. Not from an operation (-EDEADLK).
 */
int uffdwp_track_collect(struct uffdwp_track *t, struct uffdwp_track_query *q);

/* The same without beginning an epoch: nothing changes. */
int uffdwp_track_peek(struct uffdwp_track *t, struct uffdwp_track_query *q);

/* Begin the next epoch without a report. r NULL: everything; addr, len 0: all of r. */
int uffdwp_track_reset(struct uffdwp_track *t, struct uffdwp_region *r, uint64_t addr,
		       uint64_t len);

struct uffdwp_track_info {
	size_t sz;
	uint32_t mechanism; /* ASYNC, SYNC or SIGBUS: which one runs */
	uint32_t sees;	    /* UFFDWP_TRACK_* */
	uint32_t regions;
	uint32_t reserved;
	uint64_t collects; /* and resets, so far */
	uint64_t bytes;	   /* reported so far by collects */
	uint64_t memory;   /* bytes that the tracker itself takes */
};

/* Set info->sz = sizeof(*info) first. -EINVAL: NULL, or sz smaller than the first version's. Thread-safe. */
int uffdwp_track_info(struct uffdwp_track *t, struct uffdwp_track_info *info);

/*
 * End: pages are unprotected, unless a snapshot runs on them. Frees t; NULL is allowed. -EDEADLK:
 * called from an operation. In a forked child it frees the child's copy. Nobody else may use t
 * during or after it.
 */
int uffdwp_track_stop(struct uffdwp_track *t);

#ifdef __cplusplus
}
#endif

#endif
