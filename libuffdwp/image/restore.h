/* SPDX-License-Identifier: MIT */
/*
 * An image being brought into memory.
 *
 * DESIGN
 *
 * Memory arrives in units: pages of the size that the region had. Each unit that is not all zeros is
 * placed once, by whoever claims it:
 *
 *	free ──claim──▶ claimed ──placed──▶ placed
 *
 * A fault claims first and then reads, so that other threads' faults on the unit do not read it again;
 * the prefetch reads first and claims what nobody has claimed meanwhile, so that a fault never waits for
 * its long queue. A fault on a claimed unit is left to who has claimed it: placing wakes. A fault on a
 * placed unit means that the program has discarded it since: it gets zeros, never old data.
 *
 * A claim that can not be carried out is given back and its sleepers are woken, to fault again.
 *
 * Fault operations use buffers that were mapped before, and take no lock but for the buffers, and, once, the
 * one that tells the end. Threads in uffdwp_restore_wait() and the prefetch share that one.
 */
#ifndef UFFDWP_IMAGE_RESTORE_H
#define UFFDWP_IMAGE_RESTORE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "fill.h"

#define UFFDWP__HUGE (UINT64_C(2) << 20)
#define UFFDWP__WINDOW_MAX (UINT64_C(512) << 10) /* bytes that one fault reads, at most */

/* One region. */
struct uffdwp__target {
	struct uffdwp_restore *rs;
	_Atomic(struct uffdwp_region *) r; /* NULL: eager */
	uint32_t index;			   /* in the image */
	_Atomic uint64_t base;		   /* where offset 0 is now: it follows mremap(2) */
	unsigned int shift;		   /* of a unit */
	uint64_t units;
	uint64_t unit_pages; /* of the image's page size */
	/* Where the library has what is left of the region, as the last event told. */
	_Atomic uint64_t told;
	_Atomic uint64_t *claimed, *placed, *poisoned; /* a bit a unit; poisoned: before it is */
	_Atomic uint64_t put_off; /* faults left to who has claimed their unit */
	_Atomic bool moves;	  /* units can be moved into place, and stay huge pages */
	/* Where a sequential reader faults next, and how far it is served then. */
	_Atomic uint64_t expected, window;
};

/* What a fault asked for: n is stored last, 0 until then. */
struct uffdwp__asked {
	uint32_t region;
	_Atomic uint32_t n; /* units */
	uint64_t unit;
};

struct uffdwp_restore {
	const struct uffdwp_image *img;
	struct uffdwp *h;
	struct uffdwp_restore_opts o;
	pid_t owner;
	bool local;	/* this process's memory */
	uint32_t flags; /* UFFDWP_COPY_WP or 0 */
	uint64_t unit_max;

	struct uffdwp__target *targets;
	uint32_t ntargets;		    /* that were added */
	struct uffdwp_restore_range *order; /* a copy of the caller's */

	/* Buffers of fault operations. */
	char *map, *buffers;
	size_t map_size, buffer_size;
	unsigned int nbuffers;
	_Atomic uint64_t buffers_free; /* bits */
	sem_t buffers_sem;

	struct uffdwp__asked *asked; /* room for each unit */
	uint64_t asked_max;
	_Atomic uint64_t nasked;

	uint64_t size; /* of the image's data */
	_Atomic uint64_t bytes, by_fault, by_prefetch, faults, damaged;
	_Atomic int error;
	uint64_t began_ns, start_ns;
	_Atomic uint64_t done_ns;

	pthread_t thread;
	bool has_thread; /* to be joined */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool filling; /* somebody runs the fill; under the lock */
	bool filled;  /* it was run, or runs, and nothing was given back since; under the lock */
	_Atomic bool stop, hurry; /* the fill: end; forget the rate */
	/* The fill's own. */
	struct uffdwp__walk walk;
	size_t next_order;
	bool given_back; /* it ends, as units were given back until later */
	uint64_t fill_began_ns, fill_bytes, fill_faults;
	unsigned int fill_window; /* reads in flight, for now */
};

uint64_t uffdwp__now_ns(void);

/* Bytes to be placed; what a damaged part of the table has made unknown counts too. */
static inline uint64_t uffdwp__restore_size(const struct uffdwp_restore *rs)
{
	return rs->size + (atomic_load(&rs->img->table.blocks->lost) << rs->img->meta.shift);
}

/* Keeps the first error. */
void uffdwp__restore_error(struct uffdwp_restore *rs, int err);

/* restore_place.c */

enum uffdwp__claim { UFFDWP__CLAIM_MINE, UFFDWP__CLAIM_TAKEN, UFFDWP__CLAIM_PLACED };
enum uffdwp__claim uffdwp__claim(struct uffdwp__target *t, uint64_t unit);
bool uffdwp__claimed(const struct uffdwp__target *t, uint64_t unit);
bool uffdwp__placed(const struct uffdwp__target *t, uint64_t unit);
bool uffdwp__poisoned(const struct uffdwp__target *t, uint64_t unit);

/* Whether the unit has a page that is not zeros. */
bool uffdwp__unit_data(const struct uffdwp__target *t, uint64_t unit);

/* Who places: a fault, and where its memory begins; or the fill, or who waits for the end. */
struct uffdwp__placer {
	bool fault;
	uint64_t base;
};

/*
 * Claimed units: buf holds them. Places and, on failure, gives them back. What is not mapped any more counts as
 * placed; -ENOENT if that is the first unit. -EAGAIN: not where it was, and given back; always so for a fault.
 */
int uffdwp__place(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
		  uint64_t n, void *buf);
int uffdwp__place_zeros(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
			uint64_t n);

/* Claimed units, read to buf, checked, and placed; damaged ones are made inaccessible. */
int uffdwp__fetch(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
		  uint64_t n, void *buf);

/* A buffer of rs->buffer_size bytes; waits for one. */
char *uffdwp__buffer_get(struct uffdwp_restore *rs);
void uffdwp__buffer_put(struct uffdwp_restore *rs, char *buf);

/* restore_fault.c */
extern const struct uffdwp_ops uffdwp__restore_ops;

/* For regions whose rest could not be read, nor poisoned: who asks fails. */
extern const struct uffdwp_ops uffdwp__lost_ops;

/* restore_fill.c */

/* Everything that is not there yet, in the calling thread. 0 or -errno. */
int uffdwp__restore_fill(struct uffdwp_restore *rs);

/* The same for eager: straight to memory. */
int uffdwp__restore_eager(struct uffdwp_restore *rs);

#endif
