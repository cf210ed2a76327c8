/* SPDX-License-Identifier: MIT */
/*
 * A tracker: one way to learn which pages were written since the last look. Trackers take turns on
 * one mapping: start (everything clean), then writers and collects, stop. Each collect's answer is
 * compared with what was written, so one that reports nothing, or everything, does not count.
 */
#ifndef TRACKER_H
#define TRACKER_H

#include <uffdwp/track.h>

#include "bench.h"
#include "side.h"

struct tracker;

struct tracker_kind {
	const char *name;
	unsigned int serve; /* enum bench_serve; of the library's, else 0 */
	/* -errno with a reason means that it is not supported here. */
	int (*open)(struct tracker *t, char *reason, size_t size);
	void (*start)(struct tracker *t);
	/* Leaves in found what was written, in order of addresses; starts the next epoch. */
	void (*collect)(struct tracker *t);
	void (*stop)(struct tracker *t);
	void (*close)(struct tracker *t);
	/* The i-th range that was found. */
	struct uffdwp_track_range (*range)(const struct tracker *t, size_t i);
	/* Adds the faults served since the last time to the CPUs that served them. NULL: nobody, or the writers. */
	void (*served)(struct tracker *t, unsigned long cpus[BENCH_CPUS_MAX]);
	bool in_writers; /* the writing threads serve their own faults */
};

struct tracker {
	const struct tracker_kind *kind;
	const struct mem *mem;
	/* Room for what a collect finds in the worst case, shared by all: every other page. */
	void *found;
	size_t room; /* entries, of the largest kind */
	size_t nfound;
	void *state;
};

/* In what the library and the handlers fill in, and what the kernel does. */
struct uffdwp_track_range tracker_range(const struct tracker *t, size_t i);

extern const struct tracker_kind tracker_async, tracker_sync, tracker_sigbus; /* tracker-lib.c */
extern const struct tracker_kind tracker_raw;				      /* tracker-raw.c */
/* tracker-signal.c; libsigsegv's name is NULL where the tool was built without it. */
extern const struct tracker_kind tracker_mprotect, tracker_sigsegv;

#endif
