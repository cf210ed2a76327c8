/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress track: writers, a disturber, and collectors of one tracker, whose every answer is
 * checked against the writers' books.
 *
 * THE ORACLE. The tracked memory is cut in units (pages, or the tracker's granules), and each
 * collector has some of them for its own. A pass is one collect of all of its units, in one call
 * or in several with resumption. Each unit's epoch ends at some moment within the pass. Around a
 * pass the collector reads each unit's counters (writers.h): before it, D writes were done; after
 * it, B writes had begun. D' and B' are those of the pass in which the unit's epoch ended last,
 * B'' of the one before:
 *
 *	lost	not reported, though D > B': a write began after the last pass, and ended before this one
 *	lost	reported neither in this pass nor in the last, though D > B'': a write began after the
 *		last pass but one, and ended before this one. (It is not enough that one ended after the
 *		last pass began: its store may be older than its end.)
 *	invented reported, though B = D': all writes that have begun by now ended before the last pass
 *		began, so they are of an earlier epoch. Not for units where something that may look like a
 *		write has happened since the pass before the last (discards are told up to twice), nor for those of
 *		file memory that were discarded with UFFDWP_FEATURE_EVENT_REMOVE on.
 *	peeked	not reported, though a peek since the last pass did report it
 *
 * Where threads serve faults, a page that two of them wrote to at once is told again if the second
 * message was read before the first was served, and is looked at after the page was collected: in the next
 * epoch, or in a later one where its thread gets no CPU. So nothing is called invented there of a unit with more
 * than one write in one of the CROWDED epochs before.
 *
 * With async tracking a page that the kernel migrates just when it is collected is told again:
 * PAGEMAP_SCAN sets the protection in the migration entry, and where that is a writable one, it is
 * lost when the page has arrived (remove_migration_pte() in mm/migrate.c, 6.18). So nothing is
 * called invented there while pages of the system are migrated.
 *
 * With async tracking of hugetlb memory a write may be told with a discard that comes after it,
 * once that is done: while a discard is on the way, a unit that is not reported keeps its D' and
 * B' for the next pass.
 *
 * A pass that is given up in the middle says nothing of units that it did not report: they keep
 * their D' and B'. A reset counts as a report of all its units.
 *
 * The replica. After each pass the collector copies what was reported to a replica, as a migration
 * would. Where no write is on the way the replica must be equal to the memory, byte by byte: after
 * each pass some units are compared, and when everybody has stopped and collected once more, all
 * of them. So a lost write is found even where the counters can not decide, and one that is told
 * too early, before its content is there, as well.
 */
#ifndef TRACK_H
#define TRACK_H

#include "disturb.h"
#include "serve.h"
#include "writers.h"

#include <uffdwp/track.h>

#define REGIONS_MAX 3
#define COLLECTORS_MAX 3
#define BASE_PAGE ((size_t)4096) /* the finest that a bitmap can be asked for */

/* The way of tracking: bits of stress_opts.track_modes. */
enum track_mode { TRACK_ASYNC, TRACK_SYNC, TRACK_CALLER, TRACK_SIGBUS, TRACK_MODES };

const char *track_mode_name(enum track_mode m);

/* Units [from, to) of one region. */
struct part {
	unsigned int region;
	size_t from, to;
};

/* What a collector knows of a unit; see above. before and after are of the pass that is running. */
struct unit {
	uint64_t done, begun, begun_first; /* D', B', B'' */
	uint64_t moved[2]; /* pages migrated before the last pass, and the one before */
	uint64_t calm[2];  /* disturbances over before the last pass, and the one before */
	uint64_t before, calm_before; /* D, and disturbances over, before this pass */
	unsigned int crowded;	      /* epochs left in which nothing is called invented */
	bool reported, peeked;	      /* in the last pass, since the last pass */
	bool hit;		      /* in this pass */
};

struct trial;

struct collector {
	struct trial *t;
	unsigned int index, nparts;
	struct part parts[REGIONS_MAX];
	struct rng rng;
	uint64_t *bitmap;
	uint64_t bytes; /* reported to it */
	uint64_t moved; /* pages that the system had migrated before this pass */
	pthread_t thread;
	/* of the call that is running */
	const struct part *part;
	uint64_t last_end;
	bool whole; /* of the tracker, in order of regions */
};

/* How a trial goes; all from the seed. */
struct track_plan {
	enum mem_kind kind;
	enum track_mode mode;
	uint64_t seed;
	size_t granule; /* 0: the page */
	bool huge;	/* the region's pages are huge ones, and so is the granule */
	unsigned int regions, collectors, writers, passes;
	unsigned int populate; /* of 4 parts of the memory, how many are there at the start */
	bool events;	       /* UFFDWP_FEATURE_EVENT_REMOVE */
	bool swap, zram;
	bool alone; /* one thread serves, if nobody says how many */
};

struct trial {
	const struct stress_opts *o;
	struct track_plan plan;
	struct verdict v;
	struct mem mem;
	struct server server;
	struct uffdwp_region *regions[REGIONS_MAX];
	size_t first[REGIONS_MAX + 1]; /* unit of each region, and the end */
	struct uffdwp_track *track;
	struct uffdwp_track_info info;
	struct books books;
	struct writers writers;
	struct disturb disturb;
	struct collector collectors[COLLECTORS_MAX];
	struct unit *units;
	char *replica;
	uint64_t end;	   /* monotonic ns: passes behind the fourth begin before it */
	_Atomic bool last; /* nobody writes any more: collect once more */
	_Atomic uint64_t passes, calls, reported;
};

/*
 * track_pass.c: one pass over all that the collector has. whole: not given up, no peek, no reset.
 */
void track_pass(struct collector *c, bool whole);
/* What the system has done so far that makes pages be told once more. */
uint64_t track_migrations(const struct trial *t);
/* All units go to the replica; nobody may write. moved: migrations before the tracker started. */
void track_baseline(struct trial *t, uint64_t moved);
/* Compares all of the replica; nobody may write. */
void track_compare(struct trial *t);

/* track_trial.c: one trial, an exit code. */
int track_trial(struct trial *t);

#endif
