/* SPDX-License-Identifier: MIT */
/*
 * What the cases of uffd-stress events share: two arenas on one handle, the one whose address space
 * changes, and one in which pokers keep faults in flight all the while.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include "arena.h"
#include "serve.h"
#include "stress.h"

#define POKERS 2

struct poker {
	struct events *e;
	unsigned int index;
	pthread_t thread;
};

struct events {
	const struct stress_opts *o;
	enum mem_kind kind;
	uint32_t serve;
	unsigned int round;
	struct server server;
	struct arena a;	   /* of the case */
	struct arena busy; /* of the pokers */
	_Atomic bool stop;
	struct poker poker[POKERS];
};

struct event_case {
	const char *name;
	uint64_t features;
	void (*forked)(struct uffdwp *parent, struct uffdwp *child, void *arg);
	void (*run)(struct events *e);
	bool copies;	    /* huge pages can not be moved in it */
	bool later;	    /* its missing pages are placed by somebody else than the operation */
	unsigned int kinds; /* bit mask of the memory that has it; 0: all */
};

extern const struct event_case event_fork_alone, event_fork_served, event_remap, event_discard,
	event_chaos, event_unmap, event_alias;

/* Between the two the pokers write to all of busy, which is protected over and over. */
void events_poke(struct events *e);
void events_calm(struct events *e);

/* Waits until the arena has seen so many events of a kind. */
bool events_wait(struct arena *a, uint32_t kind, uint32_t count);

/* A change that leaves the content: adds nothing to the page's counter. */
void events_touch(struct arena *a, size_t from, size_t to);

#endif
