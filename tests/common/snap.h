/* SPDX-License-Identifier: MIT */
/*
 * What the tests of snapshots share: a handle and a region opened as the case asks, writers that
 * can be paused, a sink that can be made slow, late or broken, and the comparison with a copy taken
 * during the pause.
 */
#ifndef TESTS_SNAP_H
#define TESTS_SNAP_H

#include <uffdwp/snapshot.h>

#include "live.h"

#define SNAP_WRITERS 3

/* How the memory is watched: which handle, and which strategy must run on it. */
struct snap_mode {
	const char *name;
	uint32_t serve;
	uint64_t features;
	uint32_t strategy; /* that must run */
};

enum {
	SNAP_COW_THREADS,
	SNAP_COW_CALLER,
	SNAP_COW_SIGBUS,
	SNAP_PRE_ASYNC,
	SNAP_PRE_SYNC,
	SNAP_MODES
};
extern const struct snap_mode snap_modes[SNAP_MODES];

/* What a sink does besides keeping the bytes. */
struct snap_sink {
	struct uffdwp_sink sink;
	char *copy;
	size_t size;
	_Atomic unsigned char *times; /* each page was given, by write() or zero() */
	size_t page;
	int fail_begin, fail_write, fail_zero, fail_sealed, fail_end; /* -errno */
	unsigned int fail_after; /* writes or zeros that still succeed */
	bool later;		 /* done() is called by another thread, the newest first */
	bool in_wait;		 /* or within wait() */
	_Atomic int gate;	 /* 1: sealed() does not return before it is 0: nothing is swept */
	_Atomic int begun, ended, freed, sealed, writes, zeros, waiting, in_flight, bad;
	uint32_t rewrites;
	uint64_t wrote, zeroed;
	struct uffdwp_snapshot_result end;
	/* Of later. */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct uffdwp_sink_write *queue[4096];
	unsigned int queued;
	bool stop;
};
void snap_sink_init(struct snap_sink *k, size_t size, size_t page);
void snap_sink_end(struct snap_sink *k);

struct snap {
	struct live *t;
	const struct snap_mode *mode;
	struct uffdwp *h;
	struct uffdwp_region *r;
	struct uffdwp_snapshot *s;
	struct snap_sink sink;
	struct live_server server;
	struct uffdwp_snapshot_result res;
	char *shadow; /* the memory during the pause */
	pthread_t writer[SNAP_WRITERS];
	_Atomic int pause, paused, stop, go;
	_Atomic uint64_t writes;
	uint64_t seed;
	unsigned int hot; /* of the pages, in per cent, are written; 0: all */
	bool sequential, writing;
};

/* Opens everything but the snapshot; opts with more features than the mode's. */
void snap_open(struct snap *c, struct live *t, int mode, uint64_t features);
/* The snapshot, with the sink of c in it. */
void snap_new(struct snap *c, struct uffdwp_snapshot_opts *o);
/* Ends it all. */
void snap_close(struct snap *c);

void snap_writers_start(struct snap *c);
void snap_writers_pause(struct snap *c);
void snap_writers_resume(struct snap *c);
void snap_writers_stop(struct snap *c);

/* Seals with the sweep held back: only faults save, until snap_go(). */
void snap_hold(struct snap *c);
void snap_go(struct snap *c);

/* Pauses writers, takes the shadow, seals, lets them go on. Returns what the seal did. */
int snap_seal(struct snap *c);
/* Waits, and checks what must hold of every result. */
void snap_wait(struct snap *c);
/* Complete, and equal to the shadow. */
void snap_check_complete(struct snap *c);
void snap_check_verdict(struct snap *c, uint32_t verdict, uint32_t why, int error);

#endif
