/* SPDX-License-Identifier: MIT */
/*
 * Handles: making, starting, asking and ending them. Each step of opening is undone by
 * uffdwp__destroy(), which takes a handle in any state.
 */
#include "handle.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "call.h"
#include "fault.h"
#include "pool.h"
#include "region.h"
#include "sigbus.h"
#include "sys.h"
#include "util.h"

#define STR2(x) #x
#define STR(x) STR2(x)

#define BATCH_DEFAULT 16
#define SAMPLE_DEFAULT 8
#define THREADS_DEFAULT 8
#define DISPATCH_MAX 32 /* messages, after which the caller gets its turn */

UFFDWP_PUBLIC const char *uffdwp_version(void)
{
	return STR(UFFDWP_VERSION_MAJOR) "." STR(UFFDWP_VERSION_MINOR) "." STR(
		UFFDWP_VERSION_PATCH);
}

/* ---- Making and ending ---- */

__cold void uffdwp__destroy(struct uffdwp *h, bool inert)
{
	if (inert) {
		uffdwp__pool_drop(h);
		uffdwp__sigbus_drop(h);
	} else {
		uffdwp__pool_stop(h);
		uffdwp__regions_detach(h);
		uffdwp__sigbus_remove(h);
	}
	uffdwp__regions_free(h);
	if (h->epoll >= 0)
		uffdwp__sys_close(h->epoll);
	if (h->kick >= 0)
		uffdwp__sys_close(h->kick);
	if (h->fd >= 0)
		uffdwp__sys_close(h->fd);
	if (h->scout >= 0)
		uffdwp__sys_close(h->scout);
	uffdwp__stash_close(h);
	uffdwp__sys_free((void *)h->alive, uffdwp__sys_page_size());
	uffdwp__sys_free(h, sizeof(*h));
}

static int make_child(struct uffdwp *parent, int fd, struct uffdwp **out);

__cold struct uffdwp *uffdwp__create(void)
{
	struct uffdwp *h = uffdwp__sys_alloc(sizeof(*h));

	if (!h)
		return NULL;
	h->fd = h->kick = h->epoll = h->scout = -1;
	h->stats.shared = 1;
	h->child = make_child;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->stash_lock, NULL);
	h->alive = uffdwp__sys_alloc(uffdwp__sys_page_size());
	if (!h->alive || uffdwp__sys_wipe_on_fork((void *)h->alive, uffdwp__sys_page_size()) ||
	    uffdwp__table_reserve(h, 1)) {
		uffdwp__destroy(h, false);
		return NULL;
	}
	atomic_store_explicit(h->alive, 1, memory_order_relaxed);
	return h;
}

/* The thread IDs of another process may be those of another PID namespace. */
__cold static bool may_follow(const struct uffdwp *h)
{
	return h->features & UFFDWP_FEATURE_THREAD_ID && h->source != UFFDWP_SOURCE_ADOPTED;
}

__cold void uffdwp__set_opts(struct uffdwp *h, const struct uffdwp_opts *o)
{
	bool pool = o->serve == UFFDWP_SERVE_THREADS;

	h->serve = o->serve;
	if (h->serve == UFFDWP_SERVE_SIGBUS)
		h->faults = UFFDWP_FAULTS_USER;
	h->blocking = o->blocking;
	h->batch = o->batch ? o->batch : BATCH_DEFAULT;
	h->sample = o->sample ? o->sample : SAMPLE_DEFAULT;
	h->threads = !pool	  ? 0
		     : o->threads ? o->threads
				  : (uint32_t)min_u64(uffdwp__sys_cpus(), THREADS_DEFAULT);
	h->thread_start = o->thread_start;
	h->thread_arg = o->thread_arg;
	h->forked = o->forked;
	h->forked_arg = o->forked_arg;
	h->placement = o->placement;
	if (!pool)
		h->placement = UFFDWP_PLACE_SCHED;
	else if (!o->placement)
		h->placement = may_follow(h) ? UFFDWP_PLACE_FOLLOW : UFFDWP_PLACE_SCHED;
}

/* What callers of uffdwp_dispatch() poll: messages, and the stash where there is one. */
__cold static int caller_epoll(struct uffdwp *h)
{
	int err;

	if (!h->stash)
		return 0;
	h->epoll = uffdwp__sys_epoll();
	if (h->epoll < 0)
		return h->epoll;
	err = uffdwp__sys_epoll_add(h->epoll, h->fd, EPOLLIN);
	return err ? err : uffdwp__sys_epoll_add(h->epoll, h->kick, EPOLLIN);
}

__cold int uffdwp__start(struct uffdwp *h, const struct uffdwp_opts *o)
{
	int err = 0;

	if (h->features & UFFDWP__EVENTS) {
		h->stash = uffdwp__sys_alloc(UFFDWP__STASH * sizeof(*h->stash));
		if (!h->stash)
			FAIL(-ENOMEM, "out of memory");
	}
	h->kick = uffdwp__sys_eventfd(false);
	if (h->kick < 0)
		FAIL(h->kick, "eventfd: %s", strerror(-h->kick));
	if (h->serve == UFFDWP_SERVE_THREADS)
		err = uffdwp__pool_start(h, o->cpus,
					 o->placement == UFFDWP_PLACE_PIN ? o->ncpus : 0);
	else if (h->serve == UFFDWP_SERVE_CALLER)
		err = caller_epoll(h);
	else
		err = uffdwp__sigbus_add(h);
	if (err && h->thread_start && h->refused)
		FAIL(err, "thread_start: refused, in thread %u", h->refused - 1);
	if (err)
		FAIL(err, "serving could not be started: %s", strerror(-err));
	return 0;
}

UFFDWP_PUBLIC __cold int uffdwp_close(struct uffdwp *h)
{
	int err = uffdwp__check(h);

	if (!h)
		return 0;
	if (!err && uffdwp__serving(h))
		return -EDEADLK;
	if (!err && atomic_load_explicit(&h->nlayers, memory_order_relaxed))
		return -EBUSY;
	uffdwp__destroy(h, err == -ECHILD);
	return 0;
}

/* ---- The child of a fork ---- */

__cold static int child_region(struct uffdwp *child, const struct uffdwp__entry *e)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = e->base,
					.len = e->r->size,
					.page_size = e->r->page_size,
					.mode = e->r->mode,
					.run = e->r->own_run,
					.armed = 1,
					.ops = &uffdwp__program(e->r)->ops,
					.ctx = uffdwp__program(e->r)->ctx };
	struct uffdwp_region *r = uffdwp__region_new(child, &o, e->r->kernel_page);

	if (!r)
		return -ENOMEM;
	r->head = e->start - e->base;
	r->len = e->end - e->start;
	uffdwp__region_link(child, r);
	return 0;
}

/* Under the parent's lock, so that its table stays as it is. */
__cold static int child_regions(struct uffdwp *child, struct uffdwp *parent)
{
	const struct uffdwp__table *t = atomic_load_explicit(&parent->table, memory_order_relaxed);
	int err = uffdwp__table_reserve(child, t->n + 1);

	for (uint32_t i = 0; !err && i < t->n; i++)
		err = child_region(child, &t->e[i]);
	return err;
}

/* What a serving thread makes when it reads that a child was forked; owns fd on success. */
static int make_child(struct uffdwp *parent, int fd, struct uffdwp **out)
{
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = UFFDWP_SERVE_CALLER,
				 .batch = parent->batch,
				 .sample = parent->sample,
				 .forked = parent->forked,
				 .forked_arg = parent->forked_arg };
	struct uffdwp *h = uffdwp__create();
	int err;

	if (!h)
		return -ENOMEM;
	h->source = UFFDWP_SOURCE_ADOPTED;
	h->faults = parent->faults;
	h->features = parent->features;
	h->ioctls = parent->ioctls;
	uffdwp__set_opts(h, &o);
	pthread_mutex_lock(&parent->lock);
	err = child_regions(h, parent);
	pthread_mutex_unlock(&parent->lock);
	if (!err && uffdwp__sys_nonblock(fd, true) < 0)
		err = -EBADF;
	h->fd = fd;
	if (!err)
		err = uffdwp__start(h, &o);
	if (err) {
		h->fd = -1; /* the caller closes it, which releases the child */
		uffdwp__destroy(h, false);
		return err;
	}
	*out = h;
	return 0;
}

/* ---- Asking ---- */

UFFDWP_PUBLIC int uffdwp_error(struct uffdwp *h)
{
	int err = uffdwp__check(h);

	return err ? err : uffdwp__error(h);
}

__cold static void fill_info(struct uffdwp *h, struct uffdwp_info *i)
{
	i->features = h->features;
	i->supported = h->supported;
	i->ioctls = h->ioctls;
	i->source = h->source;
	i->faults = h->faults;
	i->serve = h->serve;
	i->placement = h->placement;
	i->threads = h->threads;
	i->batch = h->batch;
	i->async = !!(h->features & UFFDWP_FEATURE_WP_ASYNC);
	i->populates = !(h->features & UFFDWP_FEATURE_WP_UNPOPULATED);
	i->error = uffdwp__error(h);
	i->regions = atomic_load_explicit(&h->nregions, memory_order_relaxed);
}

UFFDWP_PUBLIC __cold int uffdwp_info(struct uffdwp *h, struct uffdwp_info *info)
{
	struct uffdwp_info i = { 0 };
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (!info || info->sz < sizeof(i))
		return -EINVAL;
	i.sz = info->sz;
	fill_info(h, &i);
	memcpy(info, &i, sizeof(i));
	return 0;
}

UFFDWP_PUBLIC __cold int uffdwp_stats(struct uffdwp *h, uint32_t worker, struct uffdwp_stats *st)
{
	struct uffdwp_stats sum = { 0 };
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (!st || st->sz < sizeof(sum) || (worker != UFFDWP_ALL_WORKERS && worker >= h->threads))
		return -EINVAL;
	sum.sz = st->sz;
	for (uint32_t i = 0; i < h->threads; i++)
		if (worker == UFFDWP_ALL_WORKERS || worker == i)
			uffdwp__stats_add(&sum, uffdwp__pool_stats(h, i));
	if (worker == UFFDWP_ALL_WORKERS)
		uffdwp__stats_add(&sum, &h->stats);
	memcpy(st, &sum, sizeof(sum));
	return 0;
}

/* ---- Serving by the caller ---- */

UFFDWP_PUBLIC int uffdwp_fd(struct uffdwp *h)
{
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (h->serve != UFFDWP_SERVE_CALLER || h->blocking)
		return -EOPNOTSUPP;
	return h->epoll >= 0 ? h->epoll : h->fd;
}

UFFDWP_PUBLIC int uffdwp_dispatch(struct uffdwp *h)
{
	struct uffdwp__server s = { .h = h, .worker = UFFDWP_NO_WORKER };
	int err = uffdwp__check(h), n, sum = 0;

	if (err)
		return err;
	if (h->serve != UFFDWP_SERVE_CALLER)
		return -EOPNOTSUPP;
	if (unlikely(uffdwp__serving(h)))
		return -EDEADLK;
	s.st = &h->stats;
	/* Whoever was released has often faulted again by now: sooner read than polled for. */
	do {
		n = uffdwp__serve(&s);
		sum += n > 0 ? n : 0;
	} while (n > 0 && sum < DISPATCH_MAX && !h->blocking);
	if (unlikely(n < 0))
		uffdwp__fail(h, n);
	err = uffdwp__error(h);
	return err ? err : sum;
}

bool uffdwp__settle(struct uffdwp *h, uint64_t limit)
{
	uint32_t now = uffdwp__events_now(h);
	struct uffdwp__wait w = { 0 };

	while (!uffdwp__events_reached(h, now)) {
		if (h->serve == UFFDWP_SERVE_CALLER)
			uffdwp_dispatch(h);
		if (!uffdwp__wait(&w, limit))
			return false;
	}
	return true;
}

UFFDWP_PUBLIC int uffdwp_set_pid(struct uffdwp *h, int32_t pid)
{
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (pid < 0)
		return -EINVAL;
	if (h->source != UFFDWP_SOURCE_ADOPTED)
		return -EOPNOTSUPP;
	atomic_store_explicit(&h->pid, pid, memory_order_relaxed);
	return 0;
}
