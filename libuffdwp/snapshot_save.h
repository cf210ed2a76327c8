/* SPDX-License-Identifier: MIT */
/* Stopping, and saving pages to staging. */
#ifndef UFFDWP_SNAPSHOT_SAVE_H
#define UFFDWP_SNAPSHOT_SAVE_H

#include "snapshot_look.h"

/* Ends it, unless something else has: what for, and about which pages (n 0: none). */
void uffdwp__snapshot_stop(struct uffdwp_snapshot *s, uint32_t verdict, uint32_t why, int err,
			   const struct uffdwp__part *p, uint64_t first, uint64_t n);

/* The same because of what a call said. */
void uffdwp__snapshot_stop_error(struct uffdwp_snapshot *s, int err, const struct uffdwp__part *p,
				 uint64_t first, uint64_t n);

/* The same, if it said anything; returns it. */
int uffdwp__snapshot_check(struct uffdwp__part *p, int err, uint64_t first, uint64_t n);

/* Reads pages to the units from unit on. -ENOENT: they are not there, or not where they were. */
int uffdwp__snapshot_read(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit);

/*
 * Copies BUSY pages to the units from unit on, and proves that they were still there. LOST: it has
 * stopped the snapshot.
 */
enum uffdwp__saved uffdwp__snapshot_copy(struct uffdwp__part *p, uint64_t first, uint64_t n,
					 uint32_t unit);

/* Pages that lie in staging go into the queue for the sink. */
void uffdwp__snapshot_queue(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit);

/* Pages [first, first + n) that are BUSY are saved from now on. */
void uffdwp__snapshot_set_saved(struct uffdwp__part *p, uint64_t first, uint64_t n);

/* The next page at or after i, before end, that is not saved; and how many follow that are not. */
uint64_t uffdwp__snapshot_unsaved(const struct uffdwp__part *p, uint64_t i, uint64_t end);
uint64_t uffdwp__snapshot_unsaved_run(const struct uffdwp__part *p, uint64_t i, uint64_t max);

/* Copies, books, and queues what of BUSY pages is not saved yet. */
enum uffdwp__saved uffdwp__snapshot_save(struct uffdwp__part *p, uint64_t first, uint64_t n,
					 enum uffdwp__level level,
					 enum uffdwp__snapshot_counter who);

/* The write operation of the layer. */
int uffdwp__snapshot_write(struct uffdwp__layer *l, uint64_t first, uint64_t n,
			   const struct uffdwp_fault *f);

/* Another layer protects BUSY pages again: saves them, or copies them once more. */
int uffdwp__snapshot_keep(struct uffdwp__layer *l, uint64_t first, uint64_t n);

/*
 * Goes on with what writes wait for, as far as there is room; of a stopped snapshot all. Whether
 * any.
 */
bool uffdwp__snapshot_resume(struct uffdwp_snapshot *s);

#endif
