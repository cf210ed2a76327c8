/* SPDX-License-Identifier: MIT */
/*
 * The library's sides: the same job through uffdwp.h, as a program would write it that follows the
 * documentation, in the three ways of serving.
 */
#include <errno.h>
#include <stdlib.h>

#include "side.h"

struct lib {
	struct uffdwp *handle;
	struct uffdwp_region *region;
	struct poller poller;
};

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct arena *a = ctx;

	arena_count(a, f->len / a->mem.page_size);
	return a->copying ? uffdwp_read(r, f->addr, a->copy + f->offset, f->len, NULL) : 0;
}

static uint32_t placement(const struct side *s)
{
	switch (s->place) {
	case PLACE_SCHED:
		return UFFDWP_PLACE_SCHED;
	case PLACE_FOLLOW:
		return UFFDWP_PLACE_FOLLOW;
	case PLACE_PIN_SAME:
	case PLACE_PIN_ONE:
	case PLACE_PIN_OTHER:
		return UFFDWP_PLACE_PIN;
	default:
		return UFFDWP_PLACE_AUTO;
	}
}

static int open_lib(struct side *s, uint32_t serve, char *reason, size_t size)
{
	int cpus[BENCH_WRITERS_MAX];
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .required = mem_wp_features(s->arena->mem.kind),
				 .serve = serve,
				 .reason = reason,
				 .reason_size = size };
	struct lib *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		die("memory", ENOMEM);
	if (serve == UFFDWP_SERVE_THREADS)
		o.placement = placement(s);
	if (o.placement == UFFDWP_PLACE_PIN) {
		o.threads = side_handlers(s, cpus);
		o.ncpus = o.threads;
		o.cpus = cpus;
	}
	err = uffdwp_open(&l->handle, &o);
	if (err) {
		free(l);
		return err;
	}
	s->state = l;
	return 0;
}

static int open_threads(struct side *s, char *reason, size_t size)
{
	return open_lib(s, UFFDWP_SERVE_THREADS, reason, size);
}

static int open_sigbus(struct side *s, char *reason, size_t size)
{
	return open_lib(s, UFFDWP_SERVE_SIGBUS, reason, size);
}

static void dispatch(void *ctx)
{
	struct lib *l = ctx;
	int n = uffdwp_dispatch(l->handle);

	if (n < 0)
		die("uffdwp_dispatch", -n);
}

static int open_caller(struct side *s, char *reason, size_t size)
{
	int err = open_lib(s, UFFDWP_SERVE_CALLER, reason, size);
	struct lib *l = s->state;

	if (err)
		return err;
	l->poller.fd = uffdwp_fd(l->handle);
	l->poller.serve = dispatch;
	l->poller.ctx = l;
	poller_start(&l->poller, s);
	return 0;
}

static void attach(struct side *s)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	const struct mem *m = &s->arena->mem;
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)m->addr,
					.len = m->size,
					.page_size = m->page_size,
					.mode = UFFDWP_MODE_WP,
					.run = s->run,
					.ops = &ops,
					.ctx = s->arena };
	struct lib *l = s->state;
	int err = uffdwp_region_add(l->handle, &o, &l->region);

	if (err)
		die("uffdwp_region_add", -err);
	err = uffdwp_protect(l->region, o.addr, o.len, NULL);
	if (err)
		die("uffdwp_protect", -err);
}

static void detach(struct side *s)
{
	struct lib *l = s->state;
	int err = uffdwp_region_remove(l->region);

	if (!err)
		err = uffdwp_error(l->handle);
	if (err)
		die("uffdwp_region_remove", -err);
}

static void close_lib(struct side *s)
{
	struct lib *l = s->state;
	int err = uffdwp_close(l->handle);

	if (err)
		die("uffdwp_close", -err);
	free(l);
}

static void close_caller(struct side *s)
{
	struct lib *l = s->state;

	poller_stop(&l->poller);
	close_lib(s);
}

static void stats(struct side *s, struct uffdwp_stats *st)
{
	struct lib *l = s->state;
	int err;

	st->sz = sizeof(*st);
	err = uffdwp_stats(l->handle, UFFDWP_ALL_WORKERS, st);
	if (err)
		die("uffdwp_stats", -err);
}

const struct side_kind side_lib_threads = { .name = "ours",
					    .open = open_threads,
					    .attach = attach,
					    .detach = detach,
					    .close = close_lib,
					    .stats = stats };
const struct side_kind side_lib_caller = { .name = "ours",
					   .open = open_caller,
					   .attach = attach,
					   .detach = detach,
					   .close = close_caller,
					   .stats = stats };
const struct side_kind side_lib_sigbus = { .name = "ours",
					   .open = open_sigbus,
					   .attach = attach,
					   .detach = detach,
					   .close = close_lib,
					   .stats = stats };
