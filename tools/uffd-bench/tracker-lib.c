/* SPDX-License-Identifier: MIT */
/*
 * The library's trackers, as a program would use them that follows the header: a handle opened for one
 * mechanism, a region, a tracker, and collects into an array of ranges.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tracker.h"

struct lib {
	struct uffdwp *handle;
	struct uffdwp_region *region;
	struct uffdwp_track *track;
	pid_t tids[UFFDWP_THREADS_MAX]; /* of the pool */
	uint64_t seen[UFFDWP_THREADS_MAX];
};

static int note_tid(unsigned int worker, void *arg)
{
	struct lib *l = arg;

	l->tids[worker] = (pid_t)syscall(SYS_gettid);
	return 0;
}

static int open_lib(struct tracker *t, struct uffdwp_opts *o, char *reason, size_t size)
{
	struct lib *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		die("memory", ENOMEM);
	o->sz = sizeof(*o);
	o->required |= mem_wp_features(t->mem->kind);
	o->reason = reason;
	o->reason_size = size;
	o->thread_start = o->serve == UFFDWP_SERVE_THREADS ? note_tid : NULL;
	o->thread_arg = l;
	err = uffdwp_open(&l->handle, o);
	if (err) {
		free(l);
		return err;
	}
	t->state = l;
	return 0;
}

static int open_async(struct tracker *t, char *reason, size_t size)
{
	struct uffdwp_opts o = { .required = UFFDWP_FEATURE_WP_ASYNC };

	return open_lib(t, &o, reason, size);
}

static int open_sync(struct tracker *t, char *reason, size_t size)
{
	struct uffdwp_opts o = { .serve = UFFDWP_SERVE_THREADS };

	return open_lib(t, &o, reason, size);
}

static int open_sigbus(struct tracker *t, char *reason, size_t size)
{
	struct uffdwp_opts o = { .serve = UFFDWP_SERVE_SIGBUS };

	return open_lib(t, &o, reason, size);
}

static uint32_t mechanism(const struct tracker *t)
{
	switch (t->kind->serve) {
	case SERVE_ASYNC:
		return UFFDWP_TRACK_ASYNC;
	case SERVE_SIGBUS:
		return UFFDWP_TRACK_SIGBUS;
	default:
		return UFFDWP_TRACK_SYNC;
	}
}

static void start(struct tracker *t)
{
	const struct mem *m = t->mem;
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)m->addr,
					.len = m->size,
					.page_size = m->page_size,
					.mode = UFFDWP_MODE_WP };
	struct uffdwp_track_opts how = { .sz = sizeof(how), .mechanism = mechanism(t) };
	struct lib *l = t->state;
	int err = uffdwp_region_add(l->handle, &o, &l->region);

	if (err)
		die("uffdwp_region_add", -err);
	err = uffdwp_track_start(&l->track, &l->region, 1, &how);
	if (err)
		die("uffdwp_track_start", -err);
}

static void collect(struct tracker *t)
{
	struct lib *l = t->state;
	struct uffdwp_track_query q = { .sz = sizeof(q), .ranges = t->found, .nranges = t->room };
	int err = uffdwp_track_collect(l->track, &q);

	if (err || q.resume)
		die("uffdwp_track_collect", err ? -err : ENOSPC);
	t->nfound = q.filled;
}

static void stop(struct tracker *t)
{
	struct lib *l = t->state;
	int err = uffdwp_track_stop(l->track);

	if (!err)
		err = uffdwp_region_remove(l->region);
	if (!err)
		err = uffdwp_error(l->handle);
	if (err)
		die("uffdwp_track_stop", -err);
}

static void close_lib(struct tracker *t)
{
	struct lib *l = t->state;
	int err = uffdwp_close(l->handle);

	if (err)
		die("uffdwp_close", -err);
	free(l);
}

/* Where a thread ran last: what it was before the thread went to sleep. -1: not to be had. */
static int last_cpu(pid_t tid)
{
	char path[64], line[1024], *at;
	int cpu = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	at = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	/* The name, which may hold anything, is the second field; the CPU is the 39th. */
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	if (at)
		cpu = (int)strtol(at, NULL, 10);
	return cpu < BENCH_CPUS_MAX ? cpu : -1;
}

static void served(struct tracker *t, unsigned long cpus[BENCH_CPUS_MAX])
{
	struct lib *l = t->state;
	struct uffdwp_stats st = { .sz = sizeof(st) };

	for (unsigned int i = 0; i < UFFDWP_THREADS_MAX && l->tids[i]; i++) {
		int cpu = last_cpu(l->tids[i]);

		if (uffdwp_stats(l->handle, i, &st) == 0 && cpu >= 0)
			cpus[cpu] += st.write - l->seen[i];
		l->seen[i] = st.write;
	}
}

struct uffdwp_track_range tracker_range(const struct tracker *t, size_t i)
{
	return ((const struct uffdwp_track_range *)t->found)[i];
}

const struct tracker_kind tracker_async = { .name = "ours async",
					    .serve = SERVE_ASYNC,
					    .open = open_async,
					    .start = start,
					    .collect = collect,
					    .stop = stop,
					    .close = close_lib,
					    .range = tracker_range };
const struct tracker_kind tracker_sync = { .name = "ours sync",
					   .serve = SERVE_THREADS,
					   .open = open_sync,
					   .start = start,
					   .collect = collect,
					   .stop = stop,
					   .close = close_lib,
					   .range = tracker_range,
					   .served = served };
const struct tracker_kind tracker_sigbus = { .name = "ours sigbus",
					     .serve = SERVE_SIGBUS,
					     .open = open_sigbus,
					     .start = start,
					     .collect = collect,
					     .stop = stop,
					     .close = close_lib,
					     .range = tracker_range,
					     .in_writers = true };
