/* SPDX-License-Identifier: MIT */
/*
 * One bounce: the pages of one area are placed in the other while lockers work in it.
 *
 * DESIGN. The area is cut in slices, one a CPU, each with a copier; lockers, also one a CPU, visit
 * either all slices (racing) or their own. A visit locks the page and counts in it and in a shadow
 * outside. No page is there at the start, and a page is only placed after a fault asked for it: by
 * the fault operation itself or left to the copier, which gets every page once and so often finds
 * it there already. In each phase every locker passes over all of its pages and then goes on
 * visiting at random, so that the copiers protect under running writers:
 *
 *   phase    pages          come protected    visits so far gave     then the copiers
 *   FIRST    first half     yes               1 write fault a page   protect the first half again
 *   AGAIN    first half     -                 2                      mark a quarter not yet there
 *   SECOND   second half    yes, or by mark   1                      protect what did not come so
 *   LAST     all            only where huge pages are placed by moving, which can not protect
 *
 * What the write operations counted is checked for each page before each protection and at the end:
 * exactly once for each protection. The one thread that starts a bounce steers it by semaphores.
 */
#ifndef BOUNCE_H
#define BOUNCE_H

#include "page.h"
#include "serve.h"
#include "stress.h"

#include <semaphore.h>

#define SLICES_MAX 8

enum bounce_phase { PHASE_FIRST, PHASE_AGAIN, PHASE_SECOND, PHASE_LAST, PHASE_END };

struct slice {
	struct bounce *b;
	unsigned int index;
	pthread_t locker, copier;
	sem_t go;	       /* copier: the next step */
	sem_t asked;	       /* pages in queue */
	_Atomic size_t tail;   /* of queue; the copier alone knows its head */
	_Atomic size_t *queue; /* page number + 1, each page of the slice once */
};

struct bounce {
	const struct stress_opts *o;
	enum mem_kind kind;
	unsigned int mode;     /* BOUNCE_* */
	uint32_t serve;	       /* enum uffdwp_serve */
	uint64_t round;	       /* number of this bounce */
	struct mem *src, *dst; /* the second is watched */
	struct mem *staging;   /* huge pages on their way; NULL where pages are copied */
	size_t page;	       /* size of one */
	size_t pages, slice_pages;
	unsigned int slices;
	bool marks; /* missing pages can be protected without placing them */
	struct server server;
	struct uffdwp_region *region;
	uint64_t *shadow;	   /* counter of each page, under the page's mutex */
	_Atomic uint32_t *missing; /* calls of each page's operations in this bounce */
	_Atomic uint32_t *written;
	_Atomic bool *asked_once;
	sem_t passed, copied; /* lockers and copiers that have done their part of a phase */
	_Atomic int phase;
	_Atomic unsigned int failures;
	struct slice slice[SLICES_MAX];
};

/* Counts a failure and prints the first ones. */
void bounce_fail(struct bounce *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* How often the write operation must have been called for a page once a pass of a phase is over. */
uint32_t bounce_expected(const struct bounce *b, size_t nr, int phase);

/* bounce_ops.c: the operations, and placing a page as its number demands. */
extern const struct uffdwp_ops bounce_ops;
int bounce_place(struct bounce *b, struct uffdwp_region *r, size_t nr);
bool bounce_marked(const struct bounce *b, size_t nr);

/* bounce_threads.c */
void *bounce_locker(void *slice);
void *bounce_copier(void *slice);

/* Runs one bounce from src to dst: EXIT_PASS or another exit code. t gets its statistics. */
int bounce_once(struct bounce *b, struct tally *t);

static inline void *bounce_page(const struct bounce *b, const struct mem *m, size_t nr)
{
	return m->addr + nr * b->page;
}

static inline bool in_first_half(const struct bounce *b, size_t nr)
{
	return nr % b->slice_pages < b->slice_pages / 2;
}

#endif
