/* SPDX-License-Identifier: MIT */
/*
 * For the tests of dirty tracking: a tracker on the memory of a test under each mechanism, and
 * collecting into one byte a page.
 */
#ifndef TESTS_TRACK_H
#define TESTS_TRACK_H

#include "live.h"

#include <uffdwp/track.h>

enum track_way { WAY_ASYNC, WAY_SYNC, WAY_CALLER, WAY_SIGBUS, WAYS };

struct tracked {
	struct live *t;
	enum track_way way;
	size_t page; /* of the region */
	size_t unit; /* granule, or page */
	size_t pages;
	struct uffdwp *h;
	struct live_server server;
	struct uffdwp_region *r;
	struct uffdwp_track *track;
};

/* Opens a handle for the way, serves it, and adds all of the test's memory as one region. */
void tracked_open(struct tracked *k, struct live *t, enum track_way way, uint64_t features);
/* Tracks the region, and checks which mechanism runs. */
void tracked_start(struct tracked *k, uint64_t granule);
void tracked_stop(struct tracked *k); /* the tracker */
void tracked_close(
	struct tracked *k); /* it too, if it is there, and the handle, which must be well */

/* Both of the first two. */
void tracked_begin(struct tracked *k, struct live *t, enum track_way way, uint64_t granule);

const char *way_name(enum track_way way);

/*
 * Adds what q reports to dirty, a byte a base page of the memory (NULL: only asks). Bytes
 * reported.
 */
uint64_t tracked_query(struct tracked *k, struct uffdwp_track_query *q, bool peek,
		       unsigned char *dirty);
/* The same of everything, into a dirty that is cleared first. */
uint64_t tracked_collect(struct tracked *k, unsigned char *dirty);
uint64_t tracked_peek(struct tracked *k, unsigned char *dirty);

/*
 * Collects, and fails unless exactly pages [from, to) of the region are reported; to == from:
 * none.
 */
void tracked_expect(struct tracked *k, size_t from, size_t to);

/* Writes a word to page i. */
void tracked_write(struct tracked *k, size_t i);

#endif
