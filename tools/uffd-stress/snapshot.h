/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress snapshot: threads that write to some areas, one that disturbs them, and snapshots
 * of all of them, one after the other, whose every verdict is checked.
 *
 * THE ORACLE. Every word of the memory has one owner, a writer, the disturber or the sink; the
 * value says which word it is, and the how-manieth write of its owner. What the owner wrote last
 * is kept outside of the memory (area.expect). Who changes words of others (discards, pages of
 * zeros) keeps all writers out meanwhile. So at each pause, and at the end, every byte of the
 * program's memory is known. Only in the wild part of an area discards and writers race: there a
 * word is zero, or something that was written to it.
 *
 *	complete	the image is, in every byte, the copy that was taken while writers and the
 *			disturber were paused at the seal; the sink was given every page, with cow once
 *	not complete	the reason, the range and the error are of something that was really done
 *			while this snapshot existed (struct cause, struct sink_state), and done by then
 *	nothing done	that may cancel: complete
 *
 * The copy is that of the memory, from before the seal or after it; or, because reading makes
 * pages present, what is kept outside.
 *
 * What may cancel: uffdwp_snapshot_cancel(), freeing it too early, an error of the sink, memory
 * that is unmapped or moved, a discard past the library. What can not be seen is not done: see
 * the caveats in uffdwp/snapshot.h. Nothing else may.
 */
#ifndef STRESS_SNAPSHOT_H
#define STRESS_SNAPSHOT_H

#include "disturb.h"
#include "pause.h"
#include "serve.h"
#include "stress.h"
#include "writers.h"

#include <uffdwp/snapshot.h>
#include <uffdwp/track.h>

#define AREAS_MAX 3
#define SCRIBES_MAX 4
#define CAUSES_MAX 256

/* ---- The plan of a round; all from its seed ---- */

enum way {
	WAY_COW_THREADS,
	WAY_COW_CALLER,
	WAY_COW_SIGBUS,
	WAY_PRECOPY_THREADS,
	WAY_PRECOPY_CALLER,
	WAY_PRECOPY_SIGBUS,
	WAY_PRECOPY_ASYNC,
	WAYS
};

struct way_traits {
	const char *name;
	uint32_t strategy, serve;
	bool async;
};

extern const struct way_traits ways[WAYS];

/* What the disturber does besides what disturb.h has. */
enum act {
	ACT_DISCARD,  /* uffdwp_discard() */
	ACT_WIPE,     /* pages become zeros, by stores or by read(2) */
	ACT_COLLAPSE, /* all of a huge page is written, then MADV_COLLAPSE */
	ACT_OTHER,    /* of disturb.h */
	ACT_DONTNEED, /* from here on what may cancel: past the library */
	ACT_REMOVE,
	ACT_UNMAP,
	ACT_MOVE,
	ACTS
};

#define ACT_CAUSES (1u << ACT_DONTNEED | 1u << ACT_REMOVE | 1u << ACT_UNMAP | 1u << ACT_MOVE)

struct plan {
	enum mem_kind kind; /* of the first area */
	enum way way;
	uint64_t seed;
	unsigned int areas, laps, scribes;
	enum mem_kind kinds[AREAS_MAX];
	size_t sizes[AREAS_MAX];
	bool hostile; /* things are done that may cancel */
	bool huge;    /* the pages of THP's regions are huge ones */
	bool missing; /* missing faults are caught too */
	bool removes; /* UFFDWP_FEATURE_EVENT_REMOVE */
	bool moves;   /* UFFDWP_FEATURE_EVENT_REMAP and _UNMAP */
	bool track;   /* a tracker besides */
	bool wild;    /* a part of each area is wild */
	bool swap, zram;
	bool alone;	       /* one thread serves, if nobody says how many */
	unsigned int populate; /* of 4 parts of the memory, how many are there at first */
	unsigned int acts;     /* of the disturber, bit mask of enum act, */
	unsigned int others;   /* and of enum disturbance */
};

/* ---- Memory ---- */

struct area {
	struct mem mem; /* addr follows mremap(2) */
	unsigned int index;
	struct books books; /* its gates; addr follows too */
	struct disturb other;
	struct uffdwp_region *r;
	size_t page, pages;  /* of the region */
	size_t words;	     /* in all */
	size_t wild;	     /* from this page on */
	size_t gone, gone_n; /* pages that were unmapped */
	bool hole_is_ours;   /* their place still is */
	uint64_t *expect;
	char *copy;	 /* at the seal */
	uint64_t was_at; /* when the snapshot was made */
	struct {
		char *image;
		_Atomic uint8_t *times, *flying; /* for each page: given, in flight */
	} sink;
	char *replica; /* of the tracker */
};

/* The value of a word at its owner's write nr seq, from 1 on. Never 0. */
uint64_t value_of(unsigned int area, size_t word, uint32_t seq);

static inline char *area_at(const struct area *a, size_t page)
{
	return a->mem.addr + page * a->page;
}

static inline bool area_is_gone(const struct area *a, size_t page)
{
	return page - a->gone < a->gone_n;
}

/* ---- What may end a snapshot ---- */

struct cause {
	enum act what;
	unsigned int area;
	size_t from, to; /* pages */
	unsigned int lap;
	_Atomic unsigned int until; /* the lap in which it was done; UINT_MAX: it is not yet */
};

/* ---- The sink ---- */

enum sink_kind { SINK_OWN, SINK_MEMORY, SINK_FILE, SINK_KINDS };
enum sink_later { LATER_NEVER, LATER_THREAD, LATER_WAIT, LATER_MODES };
enum sink_op { OP_NONE, OP_BEGIN, OP_WRITE, OP_ZERO, OP_WAIT, OP_DONE, OP_SEALED, OP_END, OPS };

struct sink_plan {
	enum sink_kind kind;
	enum sink_later later;
	bool no_zero, has_wait,
		touches;       /* zero() NULL; wait() besides a thread; it writes to the memory */
	unsigned int delay_us; /* at most, at each call */
	enum sink_op fails;
	unsigned int fails_after; /* calls of that operation */
	int error;
};

/* More than there are pages in the largest staging. */
#define QUEUE_MAX 32768

struct round;

struct sink_state {
	struct uffdwp_sink sink;
	struct sink_plan plan;
	struct round *round;
	struct rng rng;	     /* of the calls, which come one at a time */
	struct rng done_rng; /* of what completes */
	_Atomic unsigned int inside, begun, ended, freed, sealed;
	_Atomic int failed; /* the first error that it returned */
	_Atomic unsigned int in_flight;
	unsigned int calls[OPS];
	uint64_t wrote, zeroed, naps_us;
	char *staging;
	size_t staging_size;
	bool rewrites;
	int fd; /* of SINK_FILE */
	struct uffdwp_snapshot_result end;
	/* of what completes later */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct uffdwp_sink_write *queue[QUEUE_MAX];
	unsigned int queued;
	uint64_t finished;
	bool stop;
	pthread_t thread;
};

/* ---- A lap: one snapshot ---- */

struct lap_plan {
	uint32_t strategy; /* the way's, or UFFDWP_SNAPSHOT_AUTO */
	bool by_caller;
	uint64_t staging, rate, settle;
	uint32_t passes;
	unsigned int arms;
	enum { COPY_BEFORE, COPY_AFTER, COPY_EXPECTED, COPIES } copy;
	bool free_early, cancel;
	unsigned int cancel_phase, cancel_us;
	struct sink_plan sink;
};

enum phase { PHASE_NEW, PHASE_ARM, PHASE_SEAL, PHASE_SEALED, PHASE_END };

struct lap {
	struct lap_plan plan;
	unsigned int nr;
	struct rng rng;
	struct uffdwp_snapshot *s;
	struct uffdwp_snapshot_result res;
	struct sink_state *sink;
	int arm_rc, seal_rc;
	_Atomic unsigned int phase;
	_Atomic bool cancels; /* uffdwp_snapshot_cancel() may have been called */
	_Atomic bool cancelled_before_seal;
	bool sealed_try, freed_early; /* the seal was called; freed without a wait */
	pthread_t canceller;
};

/* ---- A round ---- */

/* Who writes: the writers, the disturber, the sink. */
struct scribe {
	struct round *round;
	unsigned int index; /* among the owners */
	struct rng rng;
	uint32_t seq;
	int fd; /* what it lets the kernel read from */
	pthread_t thread;
};

enum scribe_act { SCRIBE_STORE, SCRIBE_READ2, SCRIBE_VMWRITE, SCRIBE_LOOK, SCRIBE_ACTS };

struct round {
	const struct stress_opts *o;
	struct plan plan;
	struct verdict v;
	char about[768]; /* all of that in words */
	struct server server;
	struct area area[AREAS_MAX];
	unsigned int owners;
	struct scribe scribe[SCRIBES_MAX + 2];
	struct pause pause;
	_Atomic bool stop;
	_Atomic bool sealed;	  /* the snapshot of now is */
	_Atomic unsigned int lap; /* nr of the one that runs */
	struct lap now;
	struct cause cause[CAUSES_MAX];
	_Atomic unsigned int causes;
	/* the tracker */
	struct uffdwp_track *track;
	pthread_t watcher;
	_Atomic bool watch_stop;
	/* what was done */
	_Atomic uint64_t acts[ACTS], writes[SCRIBE_ACTS], collects;
	unsigned int verdicts[4], quiet, by_why[16];
	uint64_t held, by_fault;
};

static inline struct scribe *round_disturber(struct round *r)
{
	return &r->scribe[r->plan.scribes];
}

static inline struct scribe *round_sink(struct round *r)
{
	return &r->scribe[r->plan.scribes + 1];
}

/* snapshot_plan.c: everything random about a round and a lap, but for what threads choose. */
struct plan make_plan(const struct stress_opts *o, enum mem_kind kind, enum way way, uint64_t seed);
struct lap_plan make_lap(const struct plan *p, struct rng *rng);
/* In one line. */
void plan_print(const struct plan *p, char *buf, size_t size);
void lap_print(const struct lap_plan *l, char *buf, size_t size);

/* snapshot_write.c */
int scribes_start(struct round *r);
void scribes_stop(struct round *r);
/* Writes a word of s's own near a word of a; gate is held, or all writers are away. */
void scribe_store(struct scribe *s, struct area *a, size_t near);
/* The same at a random place, if that is possible without waiting. */
void scribe_touch(struct scribe *s);

/* snapshot_disturb.c: the thread that does plan.acts */
void disturber_start(struct round *r);
void disturber_stop(struct round *r);
/* Whether something of the acts may have ended the lap, about pages [from, to) of area. */
bool cause_of(struct round *r, unsigned int acts, unsigned int area, size_t from, size_t to);

/* snapshot_area.c */
int areas_map(struct round *r);
void areas_free(struct round *r);
int areas_watch(struct round *r);
/* Takes the copy of all areas while nobody writes. */
void areas_copy(struct round *r, bool expected);
/* Compares the memory, or the copies of it, with what is expected. */
void areas_check(struct round *r, bool copies, const char *when);

/* snapshot_sink.c */
int sink_start(struct sink_state *k, struct round *r, const struct sink_plan *plan, uint64_t seed);
void sink_stop(struct sink_state *k);

/* snapshot_lap.c: one snapshot from its beginning to its end. */
void lap_run(struct round *r, unsigned int nr);

/* snapshot_judge.c: what must be true of it. */
void lap_judge(struct round *r);

/* snapshot_watch.c: the tracker besides. */
int watcher_start(struct round *r);
void watcher_stop(struct round *r);

/* snapshot_round.c: an exit code. */
int round_run(struct round *r);

#endif
