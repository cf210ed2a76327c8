/* SPDX-License-Identifier: MIT */
/*
 * The sink of uffd-stress snapshot: it takes its time, finishes writes in any order, fails where
 * the plan says so, and checks what the library owes a sink: see struct uffdwp_sink.
 */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NAPS_US 150000 /* in all */

static void wrong(struct sink_state *k, const char *what, uint64_t offset)
{
	verdict_fail(&k->round->v, "sink: %s (offset %#" PRIx64 ")", what, offset);
}

static void nap(struct sink_state *k)
{
	uint64_t us = k->plan.delay_us ? rng_below(&k->rng, k->plan.delay_us) : 0;
	const struct timespec t = { 0, (long)us * 1000 };

	if (k->naps_us + us > NAPS_US)
		return;
	k->naps_us += us;
	nanosleep(&t, NULL);
}

/* ---- Every call ---- */

/* Whether this one fails: then it goes on to. */
static int fails(struct sink_state *k, enum sink_op op)
{
	int none = 0;

	if (k->plan.fails != op || k->calls[op]++ < k->plan.fails_after)
		return 0;
	atomic_compare_exchange_strong(&k->failed, &none, k->plan.error);
	return k->plan.error;
}

static void enter(struct sink_state *k, const char *what)
{
	if (atomic_fetch_add(&k->inside, 1))
		wrong(k, "two calls at once", 0);
	if (!atomic_load(&k->begun) || atomic_load(&k->ended))
		wrong(k, what, 0);
	nap(k);
	if (k->plan.touches && !atomic_load(&k->round->pause.on))
		scribe_touch(round_sink(k->round));
}

static int leave(struct sink_state *k, int ret)
{
	atomic_fetch_sub(&k->inside, 1);
	return ret;
}

/* NULL: the range is none. */
static struct area *range_of(struct sink_state *k, uint32_t region, uint64_t offset, uint64_t len)
{
	struct area *a = &k->round->area[region];

	if (region < k->round->plan.areas && len && offset % a->page == 0 && len % a->page == 0 &&
	    offset < a->mem.size && len <= a->mem.size - offset)
		return a;
	wrong(k, "a range that is none", offset);
	return NULL;
}

static void count(struct sink_state *k, struct area *a, uint64_t offset, uint64_t len, bool flying)
{
	size_t i;

	for (i = offset / a->page; i < (offset + len) / a->page; i++) {
		if (atomic_load(&a->sink.times[i]) < UINT8_MAX &&
		    atomic_fetch_add(&a->sink.times[i], 1) && !k->rewrites)
			wrong(k, "a page is given twice", i * a->page);
		if (atomic_exchange(&a->sink.flying[i], flying))
			wrong(k, "a page is given that is in flight", i * a->page);
	}
}

/* ---- Writes ---- */

/* Different for different data: it must not change as long as it is in flight. */
static uint64_t sum_of(const struct uffdwp_sink_write *w)
{
	uint64_t sum = w->offset, v;
	size_t i;

	for (i = 0; i < w->len; i += 8) {
		memcpy(&v, (const char *)w->data + i, 8);
		sum = (sum ^ v) * UINT64_C(0x100000001b3);
	}
	return sum;
}

static void take(struct sink_state *k, const struct uffdwp_sink_write *w)
{
	struct area *a = &k->round->area[w->region];

	memcpy(a->sink.image + w->offset, w->data, w->len);
}

static void finish(struct sink_state *k, struct uffdwp_sink_write *w)
{
	struct area *a = &k->round->area[w->region];
	uint64_t sum = (uintptr_t)w->sink_data[0];
	int err = fails(k, OP_DONE);
	size_t i;

	if ((uintptr_t)w->sink_data[1] != (uintptr_t)k || sum_of(w) != sum)
		wrong(k, "data changed in flight", w->offset);
	take(k, w);
	for (i = w->offset / a->page; i < (w->offset + w->len) / a->page; i++)
		atomic_store(&a->sink.flying[i], 0);
	atomic_fetch_sub(&k->in_flight, 1);
	w->done(w, err);
}

/* Any of those in flight. */
static struct uffdwp_sink_write *pick(struct sink_state *k)
{
	struct uffdwp_sink_write *w = NULL;
	unsigned int i;

	pthread_mutex_lock(&k->lock);
	if (k->queued) {
		i = (unsigned int)rng_below(&k->done_rng, k->queued);
		w = k->queue[i];
		k->queue[i] = k->queue[--k->queued];
	}
	pthread_mutex_unlock(&k->lock);
	return w;
}

static int later(struct sink_state *k, struct uffdwp_sink_write *w)
{
	w->sink_data[0] = (void *)(uintptr_t)sum_of(w);
	w->sink_data[1] = k;
	atomic_fetch_add(&k->in_flight, 1);
	pthread_mutex_lock(&k->lock);
	k->queue[k->queued++] = w;
	pthread_cond_broadcast(&k->cond);
	pthread_mutex_unlock(&k->lock);
	return UFFDWP_SINK_LATER;
}

static bool at_once(struct sink_state *k)
{
	return k->plan.later == LATER_NEVER || rng_below(&k->rng, 4) == 0;
}

static int on_write(void *ctx, struct uffdwp_sink_write *w)
{
	struct sink_state *k = ctx;
	bool now = at_once(k);
	struct area *a;
	int err;

	enter(k, "write() before the beginning, or after the end");
	a = range_of(k, w->region, w->offset, w->len);
	if ((const char *)w->data < k->staging ||
	    (const char *)w->data + w->len > k->staging + k->staging_size)
		wrong(k, "data outside of staging", w->offset);
	if (w->sink_data[0] || w->sink_data[1] || !w->done)
		wrong(k, "a write that is not new", w->offset);
	err = fails(k, OP_WRITE);
	if (err || !a)
		return leave(k, err);
	count(k, a, w->offset, w->len, !now);
	k->wrote += w->len;
	if (!now)
		return leave(k, later(k, w));
	take(k, w);
	return leave(k, 0);
}

static int on_zero(void *ctx, uint32_t region, uint64_t offset, uint64_t len)
{
	struct sink_state *k = ctx;
	struct area *a;
	int err;

	enter(k, "zero() before the beginning, or after the end");
	a = range_of(k, region, offset, len);
	err = fails(k, OP_ZERO);
	if (err || !a)
		return leave(k, err);
	count(k, a, offset, len, false);
	k->zeroed += len;
	memset(a->sink.image + offset, 0, len);
	return leave(k, 0);
}

/* ---- Later ---- */

static void *finish_on(void *arg)
{
	struct sink_state *k = arg;
	struct uffdwp_sink_write *w;
	bool stop = false;

	watchdog_enter("sink", 0);
	while (!stop) {
		watchdog_rest("has nothing in flight");
		pthread_mutex_lock(&k->lock);
		while (!k->queued && !k->stop)
			pthread_cond_wait(&k->cond, &k->lock);
		stop = k->stop && !k->queued;
		pthread_mutex_unlock(&k->lock);
		watchdog_step("finishes a write", 0);
		if (rng_below(&k->done_rng, 4) == 0 && k->plan.delay_us)
			usleep((useconds_t)rng_below(&k->done_rng, k->plan.delay_us));
		w = pick(k);
		if (w)
			finish(k, w);
		pthread_mutex_lock(&k->lock);
		k->finished++;
		pthread_cond_broadcast(&k->cond);
		pthread_mutex_unlock(&k->lock);
	}
	watchdog_leave();
	return NULL;
}

static void wait_finished(struct sink_state *k, unsigned int ms)
{
	struct timespec t;
	uint64_t seen;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&k->lock);
	seen = k->finished;
	while (k->finished == seen && k->queued && !pthread_cond_timedwait(&k->cond, &k->lock, &t))
		;
	pthread_mutex_unlock(&k->lock);
}

static int on_wait(void *ctx, unsigned int ms)
{
	struct sink_state *k = ctx;
	struct uffdwp_sink_write *w;
	int err;

	enter(k, "wait() before the beginning, or after the end");
	err = fails(k, OP_WAIT);
	if (k->plan.later == LATER_THREAD) {
		if (ms && !err)
			wait_finished(k, ms);
		return leave(k, err);
	}
	/* With an error some stay in flight until the next call. */
	w = ms || rng_below(&k->rng, 2) ? pick(k) : NULL;
	if (w)
		finish(k, w);
	return leave(k, err);
}

/* ---- Beginning and end ---- */

static int on_begin(void *ctx, const struct uffdwp_sink_layout *l)
{
	struct sink_state *k = ctx;
	struct round *r = k->round;
	unsigned int i;
	int err;

	if (atomic_fetch_add(&k->begun, 1))
		wrong(k, "begin() twice", 0);
	if (l->sz != sizeof(*l) || l->nregions != r->plan.areas || !l->staging || !l->staging_size)
		wrong(k, "a layout that is none", 0);
	for (i = 0; i < l->nregions && i < r->plan.areas; i++) {
		const struct area *a = &r->area[i];

		if (l->regions[i].addr != a->was_at || l->regions[i].len != a->mem.size ||
		    l->regions[i].page_size != a->page)
			wrong(k, "a region in the layout is not what it is", l->regions[i].addr);
	}
	k->staging = l->staging;
	k->staging_size = l->staging_size;
	k->rewrites = l->rewrites;
	if (k->rewrites != (ways[r->plan.way].strategy == UFFDWP_SNAPSHOT_PRECOPY))
		wrong(k, "rewrites without precopy, or the other way round", 0);
	err = fails(k, OP_BEGIN);
	return err;
}

static int on_sealed(void *ctx, uint64_t realtime_ns)
{
	struct sink_state *k = ctx;

	enter(k, "sealed() before the beginning, or after the end");
	if (!realtime_ns || atomic_fetch_add(&k->sealed, 1))
		wrong(k, "sealed() without an instant, or twice", 0);
	return leave(k, fails(k, OP_SEALED));
}

static int on_end(void *ctx, const struct uffdwp_snapshot_result *res)
{
	struct sink_state *k = ctx;

	enter(k, "end() before the beginning, or twice");
	if (atomic_load(&k->in_flight))
		wrong(k, "end() with writes in flight", 0);
	k->end = *res;
	atomic_store(&k->ended, 1);
	/* Of what is not complete there is nothing to publish. */
	return leave(k, res->verdict == UFFDWP_SNAPSHOT_COMPLETE ? fails(k, OP_END) : 0);
}

static void on_free(void *ctx)
{
	struct sink_state *k = ctx;

	if (atomic_load(&k->begun) && !atomic_load(&k->ended))
		wrong(k, "free() without end()", 0);
	atomic_fetch_add(&k->freed, 1);
}

/* ---- Set-up ---- */

static int start_own(struct sink_state *k)
{
	bool wait = k->plan.later == LATER_WAIT || k->plan.has_wait;

	k->sink = (struct uffdwp_sink){ .sz = sizeof(k->sink),
					.ctx = k,
					.begin = on_begin,
					.write = on_write,
					.zero = k->plan.no_zero ? NULL : on_zero,
					.wait = wait ? on_wait : NULL,
					.sealed = on_sealed,
					.end = on_end,
					.free = on_free };
	if (k->plan.later == LATER_THREAD)
		thread_start(&k->thread, finish_on, k);
	return 0;
}

static int start_memory(struct sink_state *k)
{
	void *copies[AREAS_MAX];
	unsigned int i;

	for (i = 0; i < k->round->plan.areas; i++)
		copies[i] = k->round->area[i].sink.image;
	return uffdwp_sink_memory(&k->sink, copies, k->round->plan.areas);
}

static int start_file(struct sink_state *k)
{
	k->fd = memfd_create("image", MFD_CLOEXEC);
	return k->fd < 0 ? -errno : uffdwp_sink_file(&k->sink, k->fd);
}

int sink_start(struct sink_state *k, struct round *r, const struct sink_plan *plan, uint64_t seed)
{
	unsigned int i;
	int err;

	memset(k, 0, offsetof(struct sink_state, queue));
	k->queued = 0;
	k->finished = 0;
	k->stop = false;
	k->fd = -1;
	k->plan = *plan;
	k->round = r;
	k->rng = rng_make(seed, 5000);
	k->done_rng = rng_make(seed, 5001);
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->cond, NULL);
	for (i = 0; i < r->plan.areas; i++) {
		struct area *a = &r->area[i];

		memset(a->sink.image, 0xee, a->mem.size);
		memset((void *)a->sink.times, 0, a->pages);
		memset((void *)a->sink.flying, 0, a->pages);
	}
	err = plan->kind == SINK_OWN	  ? start_own(k)
	      : plan->kind == SINK_MEMORY ? start_memory(k)
					  : start_file(k);
	if (err)
		verdict_fail(&r->v, "the sink: %s", strerror(-err));
	return err;
}

/* What the file sink has written is the image. */
static void read_file(struct sink_state *k)
{
	off_t at = 0;
	unsigned int i;

	for (i = 0; i < k->round->plan.areas; i++) {
		struct area *a = &k->round->area[i];

		if (pread(k->fd, a->sink.image, a->mem.size, at) != (ssize_t)a->mem.size)
			memset(a->sink.image, 0xee, a->mem.size);
		at += (off_t)a->mem.size;
	}
}

void sink_stop(struct sink_state *k)
{
	if (k->plan.kind == SINK_OWN && k->plan.later == LATER_THREAD) {
		pthread_mutex_lock(&k->lock);
		k->stop = true;
		pthread_cond_broadcast(&k->cond);
		pthread_mutex_unlock(&k->lock);
		watchdog_rest("waits for the sink's thread");
		pthread_join(k->thread, NULL);
		watchdog_step("goes on", 0);
	}
	if (k->fd >= 0) {
		read_file(k);
		close(k->fd);
	}
	pthread_cond_destroy(&k->cond);
	pthread_mutex_destroy(&k->lock);
}
