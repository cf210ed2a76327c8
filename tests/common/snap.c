/* SPDX-License-Identifier: MIT */
/* Behind snap.h. */
#include "snap.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

const struct snap_mode snap_modes[SNAP_MODES] = {
	[SNAP_COW_THREADS] = { "cow/threads", UFFDWP_SERVE_THREADS, 0, UFFDWP_SNAPSHOT_COW },
	[SNAP_COW_CALLER] = { "cow/caller", UFFDWP_SERVE_CALLER, 0, UFFDWP_SNAPSHOT_COW },
	[SNAP_COW_SIGBUS] = { "cow/sigbus", UFFDWP_SERVE_SIGBUS, 0, UFFDWP_SNAPSHOT_COW },
	[SNAP_PRE_ASYNC] = { "precopy/async", UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_WP_ASYNC,
			     UFFDWP_SNAPSHOT_PRECOPY },
	[SNAP_PRE_SYNC] = { "precopy/sync", UFFDWP_SERVE_THREADS, 0, UFFDWP_SNAPSHOT_PRECOPY },
};

/* ---- The sink ---- */

static void note(struct snap_sink *k, uint64_t offset, uint64_t len)
{
	if (!len || offset % k->page || len % k->page || offset + len > k->size) {
		atomic_store(&k->bad, 1);
		return;
	}
	for (uint64_t i = offset / k->page; i < (offset + len) / k->page; i++)
		atomic_fetch_add(&k->times[i], 1);
}

static int sink_begin(void *ctx, const struct uffdwp_sink_layout *l)
{
	struct snap_sink *k = ctx;

	atomic_fetch_add(&k->begun, 1);
	k->rewrites = l->rewrites;
	if (l->sz != sizeof(*l) || l->nregions != 1 || l->regions[0].len != k->size ||
	    l->regions[0].page_size != k->page || !l->staging || !l->staging_size)
		atomic_store(&k->bad, 1);
	return k->fail_begin;
}

static bool spent(struct snap_sink *k)
{
	if (k->fail_after) {
		k->fail_after--;
		return false;
	}
	return true;
}

static void take(struct snap_sink *k, struct uffdwp_sink_write *w)
{
	memcpy(k->copy + w->offset, w->data, w->len);
}

static int sink_write(void *ctx, struct uffdwp_sink_write *w)
{
	struct snap_sink *k = ctx;

	atomic_fetch_add(&k->writes, 1);
	if (k->fail_write && spent(k))
		return k->fail_write;
	note(k, w->offset, w->len);
	k->wrote += w->len;
	if (w->sink_data[0] || w->sink_data[1] || !w->done)
		atomic_store(&k->bad, 1);
	if (!k->later && !k->in_wait) {
		take(k, w);
		return 0;
	}
	pthread_mutex_lock(&k->lock);
	if (k->queued == sizeof(k->queue) / sizeof(k->queue[0]))
		FAIL("too many writes in flight");
	k->queue[k->queued++] = w;
	atomic_fetch_add(&k->in_flight, 1);
	pthread_cond_signal(&k->cond);
	pthread_mutex_unlock(&k->lock);
	return UFFDWP_SINK_LATER;
}

static void finish_newest(struct snap_sink *k)
{
	struct uffdwp_sink_write *w = NULL;

	pthread_mutex_lock(&k->lock);
	if (k->queued)
		w = k->queue[--k->queued];
	pthread_mutex_unlock(&k->lock);
	if (!w)
		return;
	take(k, w);
	atomic_fetch_sub(&k->in_flight, 1);
	w->done(w, 0);
}

static void *later_main(void *arg)
{
	struct snap_sink *k = arg;
	bool stop = false;

	while (!stop) {
		pthread_mutex_lock(&k->lock);
		while (!k->queued && !k->stop)
			pthread_cond_wait(&k->cond, &k->lock);
		stop = k->stop && !k->queued;
		pthread_mutex_unlock(&k->lock);
		sched_yield(); /* so that more than one is queued */
		finish_newest(k);
	}
	return NULL;
}

static int sink_wait(void *ctx, unsigned int ms)
{
	struct snap_sink *k = ctx;

	(void)ms;
	if (!k->in_wait)
		FAIL("wait() of a sink that has none");
	finish_newest(k);
	return 0;
}

static int sink_zero(void *ctx, uint32_t region, uint64_t offset, uint64_t len)
{
	struct snap_sink *k = ctx;

	if (region)
		atomic_store(&k->bad, 1);
	atomic_fetch_add(&k->zeros, 1);
	if (k->fail_zero && spent(k))
		return k->fail_zero;
	note(k, offset, len);
	k->zeroed += len;
	memset(k->copy + offset, 0, len);
	return 0;
}

static int sink_sealed(void *ctx, uint64_t realtime)
{
	struct snap_sink *k = ctx;

	if (!realtime)
		atomic_store(&k->bad, 1);
	atomic_fetch_add(&k->sealed, 1);
	while (atomic_load(&k->gate)) {
		atomic_store(&k->waiting, 1);
		live_msleep(1);
	}
	return k->fail_sealed;
}

static int sink_end(void *ctx, const struct uffdwp_snapshot_result *res)
{
	struct snap_sink *k = ctx;

	if (atomic_load(&k->in_flight))
		atomic_store(&k->bad, 1);
	atomic_fetch_add(&k->ended, 1);
	k->end = *res;
	return k->fail_end;
}

static void sink_free(void *ctx)
{
	struct snap_sink *k = ctx;

	atomic_fetch_add(&k->freed, 1);
}

void snap_sink_init(struct snap_sink *k, size_t size, size_t page)
{
	k->sink = (struct uffdwp_sink){ .sz = sizeof(k->sink),
					.ctx = k,
					.begin = sink_begin,
					.write = sink_write,
					.zero = sink_zero,
					.sealed = sink_sealed,
					.end = sink_end,
					.free = sink_free };
	k->size = size;
	k->page = page;
	k->copy = malloc(size);
	k->times = calloc(size / page, 1);
	CHECK(k->copy && k->times);
	memset(k->copy, 0xee, size);
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->cond, NULL);
	if (k->in_wait)
		k->sink.wait = sink_wait;
	if (k->later)
		live_thread(&k->thread, later_main, k);
}

void snap_sink_end(struct snap_sink *k)
{
	if (k->later) {
		pthread_mutex_lock(&k->lock);
		k->stop = true;
		pthread_cond_signal(&k->cond);
		pthread_mutex_unlock(&k->lock);
		live_join(k->thread);
	}
	CHECK_EQ(atomic_load(&k->bad), 0);
	free(k->copy);
	free((void *)k->times);
}

/* ---- The writers ---- */

struct writer {
	struct snap *c;
	uint64_t rnd;
	size_t at;
};

static void write_some(struct writer *w)
{
	struct snap *c = w->c;
	size_t pages = c->hot ? c->t->pages * c->hot / 100 : c->t->pages;

	pages = pages ? pages : 1;
	for (int i = 0; i < 16; i++) {
		size_t page = c->sequential ? w->at++ % pages : live_random(&w->rnd) % pages;
		size_t word = live_random(&w->rnd) % (c->t->page / 8);

		live_store(c->t->mem.addr + page * c->t->page + word * 8, live_random(&w->rnd));
	}
	atomic_fetch_add(&c->writes, 16);
}

static void *writer_main(void *arg)
{
	struct snap *c = arg;
	struct writer w = { .c = c };
	int me = atomic_fetch_add(&c->go, 1);
	bool gentle = live_brief();

	w.rnd = c->seed * 31 + (uint64_t)me;
	w.at = c->t->pages * (size_t)me / SNAP_WRITERS;
	while (!atomic_load(&c->stop)) {
		if (atomic_load(&c->pause)) {
			atomic_fetch_add(&c->paused, 1);
			while (atomic_load(&c->pause))
				live_msleep(1);
			atomic_fetch_sub(&c->paused, 1);
		}
		write_some(&w);
		/* Or who emulates CPUs has none left for what they disturb. */
		if (gentle)
			live_msleep(1);
	}
	return NULL;
}

void snap_writers_start(struct snap *c)
{
	for (int i = 0; i < SNAP_WRITERS; i++)
		live_thread(&c->writer[i], writer_main, c);
	c->writing = true;
	live_until(&c->go, SNAP_WRITERS);
}

void snap_writers_pause(struct snap *c)
{
	if (!c->writing)
		return;
	atomic_store(&c->pause, 1);
	live_until(&c->paused, SNAP_WRITERS);
}

void snap_writers_resume(struct snap *c)
{
	atomic_store(&c->pause, 0);
	while (atomic_load(&c->paused))
		live_msleep(1);
}

void snap_writers_stop(struct snap *c)
{
	if (!c->writing)
		return;
	atomic_store(&c->stop, 1);
	for (int i = 0; i < SNAP_WRITERS; i++)
		live_join(c->writer[i]);
	c->writing = false;
}

/* ---- The snapshot ---- */

void snap_open(struct snap *c, struct live *t, int mode, uint64_t features)
{
	struct uffdwp_opts o = { .serve = snap_modes[mode].serve };
	struct uffdwp_info info;

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->seed = t->seed;
	c->mode = &snap_modes[mode];
	o.required = mem_wp_features(t->mem.kind) | features;
	if (c->mode->features) {
		char reason[256] = "";

		o.sz = sizeof(o);
		o.required |= c->mode->features;
		o.reason = reason;
		o.reason_size = sizeof(reason);
		if (uffdwp_open(&c->h, &o))
			live_skip("no async protection: %s", reason);
	} else {
		o.threads = o.serve == UFFDWP_SERVE_THREADS ? 2 : 0;
		c->h = live_open_opts(&o);
	}
	live_info(c->h, &info);
	CHECK_EQ(info.async, !!c->mode->features);
	live_serve(&c->server, c->h);
	c->r = live_region(t, c->h, UFFDWP_MODE_WP, 1, NULL, NULL);
	c->shadow = malloc(t->mem.size);
	CHECK(c->shadow);
}

void snap_new(struct snap *c, struct uffdwp_snapshot_opts *o)
{
	char reason[256] = "";
	int err;

	snap_sink_init(&c->sink, c->t->mem.size, c->t->page);
	o->sz = sizeof(*o);
	o->sink = &c->sink.sink;
	if (!o->strategy && c->mode->strategy == UFFDWP_SNAPSHOT_PRECOPY && !c->mode->features)
		o->strategy = UFFDWP_SNAPSHOT_PRECOPY;
	/* A sink that is held takes nothing: all of memory has to fit. */
	if (!o->staging)
		o->staging = c->t->mem.size + c->t->mem.size / 2 + UFFDWP_SNAPSHOT_STAGING_MIN;
	o->reason = reason;
	o->reason_size = sizeof(reason);
	err = uffdwp_snapshot_new(&c->s, &c->r, 1, o);
	if (err != c->sink.fail_begin)
		FAIL("uffdwp_snapshot_new: %d, %s", err, reason);
	CHECK(!c->s == !!err);
}

void snap_close(struct snap *c)
{
	snap_writers_stop(c);
	CHECK_EQ(uffdwp_snapshot_free(c->s), 0);
	CHECK_EQ(atomic_load(&c->sink.freed), c->s != NULL);
	CHECK_EQ(atomic_load(&c->sink.ended), atomic_load(&c->sink.begun) && !c->sink.fail_begin);
	live_serve_stop(&c->server);
	CHECK_EQ(uffdwp_region_remove(c->r), 0);
	CHECK_EQ(uffdwp_close(c->h), 0);
	snap_sink_end(&c->sink);
	free(c->shadow);
}

void snap_hold(struct snap *c)
{
	atomic_store(&c->sink.gate, 1);
	CHECK_EQ(snap_seal(c), 0);
	live_until(&c->sink.waiting, 1);
}

void snap_go(struct snap *c)
{
	atomic_store(&c->sink.gate, 0);
}

int snap_seal(struct snap *c)
{
	int err;

	snap_writers_pause(c);
	memcpy(c->shadow, c->t->mem.addr, c->t->mem.size);
	err = uffdwp_snapshot_seal(c->s);
	snap_writers_resume(c);
	return err;
}

void snap_wait(struct snap *c)
{
	c->res.sz = sizeof(c->res);
	CHECK_EQ(uffdwp_snapshot_wait(c->s, &c->res), 0);
	CHECK(c->res.verdict != UFFDWP_SNAPSHOT_RUNNING);
	CHECK_EQ(c->res.strategy, c->mode->strategy);
	CHECK_EQ(c->res.size, c->t->mem.size);
	CHECK_EQ(atomic_load(&c->sink.ended), 1);
	CHECK_EQ(c->sink.rewrites, c->mode->strategy == UFFDWP_SNAPSHOT_PRECOPY);
	CHECK_EQ(uffdwp_snapshot_poll(c->s, &c->res), 1);
}

void snap_check_verdict(struct snap *c, uint32_t verdict, uint32_t why, int error)
{
	snap_wait(c);
	if (c->res.verdict != verdict || c->res.why != why || c->res.error != error)
		FAIL("verdict %u, why %u, error %d (range %#llx+%#llx): should be %u, %u, %d",
		     c->res.verdict, c->res.why, c->res.error, (unsigned long long)c->res.addr,
		     (unsigned long long)c->res.len, verdict, why, error);
}

void snap_check_complete(struct snap *c)
{
	size_t page = c->t->page;

	snap_check_verdict(c, UFFDWP_SNAPSHOT_COMPLETE, UFFDWP_SNAPSHOT_WHY_NONE, 0);
	for (size_t i = 0; i < c->t->pages; i++) {
		unsigned int times = atomic_load(&c->sink.times[i]);

		if (memcmp(c->sink.copy + i * page, c->shadow + i * page, page))
			FAIL("page %zu of the image is not as it was at the seal (given %u times)",
			     i, times);
		if (!times || (times > 1 && c->mode->strategy == UFFDWP_SNAPSHOT_COW))
			FAIL("page %zu was given to the sink %u times", i, times);
	}
	CHECK_EQ(c->res.addr, 0);
	CHECK_EQ(c->res.len, 0);
	CHECK(c->res.sealed_ns && c->res.pause_ns && c->res.total_ns);
	CHECK_EQ(c->res.saved, c->sink.wrote);
	CHECK_EQ(c->res.zero, c->sink.zeroed);
	CHECK_EQ(atomic_load(&c->sink.sealed), 1);
	CHECK_EQ(c->sink.end.verdict, UFFDWP_SNAPSHOT_COMPLETE);
}
