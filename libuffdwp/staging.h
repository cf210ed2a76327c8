/* SPDX-License-Identifier: MIT */
/*
 * Staging: memory for pages on their way to a sink, mapped and populated before anything is
 * protected, because who takes from it may be a signal handler.
 *
 * DESIGN
 *
 * It is divided into units of the smallest page, and these into chunks. A chunk is free, or
 * somebody's as a whole, or being filled: then any number of threads take runs of units from it,
 * one compare-and-swap each. It is free again when all of its units were put back, those never
 * taken included; so a chunk waits for its slowest unit, and nothing is ever searched.
 *
 *	word      what it says                            changed by
 *	nfree     chunks that can be had                  who takes a chunk (before its bit), who
 *	                                                  frees one (after)
 *	free      a bit a chunk                           the same
 *	left      units of a chunk that are not back      who puts back; who took the chunk sets it
 *	fill      the chunk being filled and its units    who takes a run
 *
 * Some chunks are kept from the sweep for faults, and one from those for faults that whoever
 * empties staging has itself. Every unit has a node, to be queued by its index: lists are pushed by
 * any thread and taken as a whole, so that they need no lock.
 */
#ifndef UFFDWP_STAGING_H
#define UFFDWP_STAGING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uffdwp/snapshot.h"

#define UFFDWP__NONE UINT32_MAX

/* What a chunk is for: each may use what the one before may, and more. */
enum uffdwp__level { UFFDWP__SWEEP, UFFDWP__FAULT, UFFDWP__OWN, UFFDWP__LEVELS };

struct uffdwp__node {
	struct uffdwp_sink_write w; /* first: the sink hands it back */
	struct uffdwp__staging *st;
	uint32_t next; /* 1 + index, 0: the last */
	int32_t err;
};

struct uffdwp__staging {
	char *mem;
	size_t size;
	uint64_t unit; /* bytes */
	uint32_t units, chunks, per_chunk;
	uint32_t keep[UFFDWP__LEVELS];
	struct uffdwp__node *node; /* one a unit */
	_Atomic uint64_t *free;
	_Atomic uint32_t *left;
	size_t books_size;
	_Alignas(64) _Atomic uint64_t fill[2]; /* chunk << 32 | units taken; faults, own faults */
	_Atomic uint32_t nfree, least;	       /* least: the fewest there ever were */
	_Alignas(64) _Atomic uint32_t filled, done; /* lists of nodes */
};

/* At least size bytes; pages are of unit to largest bytes. -ENOMEM. */
int uffdwp__staging_init(struct uffdwp__staging *st, uint64_t size, uint64_t unit,
			 uint64_t largest);
/* In a forked child only the books are there. */
void uffdwp__staging_free(struct uffdwp__staging *st, bool child);

/* The first unit of a chunk, or UFFDWP__NONE. */
uint32_t uffdwp__staging_chunk(struct uffdwp__staging *st, enum uffdwp__level level);

/* n units in a row, at most a chunk's, or UFFDWP__NONE. *fresh: a chunk was begun with it. */
uint32_t uffdwp__staging_take(struct uffdwp__staging *st, uint32_t n, enum uffdwp__level level,
			      bool *fresh);

/* Units of one chunk are not needed any more. */
void uffdwp__staging_put(struct uffdwp__staging *st, uint32_t unit, uint32_t n);

/* Bytes that were taken at most, in whole chunks. */
uint64_t uffdwp__staging_peak(const struct uffdwp__staging *st);

static inline char *uffdwp__staging_at(const struct uffdwp__staging *st, uint32_t unit)
{
	return st->mem + unit * st->unit;
}

static inline uint32_t uffdwp__node_index(const struct uffdwp__node *n)
{
	return (uint32_t)(n - n->st->node);
}

/* What was written to the node before is seen by who takes the list. */
void uffdwp__list_push(_Atomic uint32_t *list, struct uffdwp__node *n);
/* The oldest first; NULL: empty. */
struct uffdwp__node *uffdwp__list_take(_Atomic uint32_t *list, struct uffdwp__staging *st);
static inline struct uffdwp__node *uffdwp__list_next(const struct uffdwp__node *n)
{
	return n->next ? &n->st->node[n->next - 1] : NULL;
}

/* Whether n bytes, a multiple of 64, are all zero. */
bool uffdwp__is_zero(const void *p, size_t n);

#endif
