/* SPDX-License-Identifier: MIT */
/*
 * A watched area and the source of its pages, for sigbus and events: missing pages are placed
 * protected by the fault operation itself, write faults are counted, and each page knows by page.h
 * what it must hold. Several arenas may be on one handle.
 */
#ifndef ARENA_H
#define ARENA_H

#include "page.h"
#include "serve.h"
#include "stress.h"

#include <uffdwp.h>

#include <stdatomic.h>

#define EVENT_KINDS 4 /* UFFDWP_EVENT_* count from 1 */

struct arena {
	enum mem_kind kind;
	size_t page, pages;  /* huge pages for THP, which are placed by moving */
	struct mem src, dst; /* dst.addr follows mremap(), */
	_Atomic(char *) at;  /* and so does this, which operations read */
	_Atomic(struct uffdwp *)
		h; /* the handle that watches dst; another one in a fault is a child's */
	struct uffdwp_region *region;
	uint64_t *shadow;
	_Atomic uint32_t *missing, *written;		 /* calls for each page */
	_Atomic uint32_t *child_missing, *child_written; /* for a forked child's pages */
	bool later;	/* missing pages are placed by somebody else */
	bool in_thread; /* faults must be served in the thread that arena_visit() runs in */
	bool copies;	/* huge pages are copied too: after fork() they can not be moved */
	_Atomic uint32_t events[EVENT_KINDS];
	struct uffdwp_event last; /* event; under the lock */
	pthread_mutex_t lock;
	_Atomic unsigned int failures;
};

void arena_fail(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Maps both areas for at least size bytes and fills the source: an exit code. Unmap in any case. */
int arena_map(struct arena *a, enum mem_kind kind, size_t size);
void arena_unmap(struct arena *a);

/* Registers dst, all missing, with counts at zero. An exit code. */
int arena_watch(struct arena *a, struct uffdwp *h);

/* 1 where placed pages come protected, 0 where they are moved in and must be protected later. */
uint32_t arena_placed(const struct arena *a);

struct page *arena_page(const struct arena *a, size_t nr);

/* Locks and counts in pages [from, to), each with a read before if glance. */
void arena_visit(struct arena *a, size_t from, size_t to, bool glance);

/* Protects pages [from, to). */
void arena_protect(struct arena *a, size_t from, size_t to);

/* After a discard: the pages [from, to) are missing, their next content is the source's. */
bool arena_refill(struct arena *a, size_t from, size_t to);

/* The last event of this arena. */
struct uffdwp_event arena_last_event(struct arena *a);

/* Sets the counts of pages [from, to) to zero. */
void arena_reset(struct arena *a, size_t from, size_t to);

/* Fails unless each page of [from, to) has so many calls; missing UINT32_MAX: at least one. */
#define ARENA_SOME UINT32_MAX
void arena_expect(struct arena *a, size_t from, size_t to, uint32_t missing, uint32_t written,
		  const char *when);

/* Compares every byte of pages [from, to). */
void arena_check(struct arena *a, size_t from, size_t to);

/* Fails if huge pages of THP were split; a fork() may do that. */
void arena_check_huge(struct arena *a);

int arena_result(const struct arena *a);

#endif
