/* SPDX-License-Identifier: MIT */
/* Trackers for tests, see track.h. */
#include "track.h"

#include <errno.h>
#include <stdlib.h>

static const struct {
	const char *name;
	uint32_t serve, mechanism;
} ways[WAYS] = {
	[WAY_ASYNC] = { "async", UFFDWP_SERVE_THREADS, UFFDWP_TRACK_ASYNC },
	[WAY_SYNC] = { "sync", UFFDWP_SERVE_THREADS, UFFDWP_TRACK_SYNC },
	[WAY_CALLER] = { "caller", UFFDWP_SERVE_CALLER, UFFDWP_TRACK_SYNC },
	[WAY_SIGBUS] = { "sigbus", UFFDWP_SERVE_SIGBUS, UFFDWP_TRACK_SIGBUS },
};

const char *way_name(enum track_way way)
{
	return ways[way].name;
}

void tracked_open(struct tracked *k, struct live *t, enum track_way way, uint64_t features)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .required = features | mem_wp_features(t->mem.kind),
				 .serve = ways[way].serve,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct uffdwp_info info;
	int err;

	memset(k, 0, sizeof(*k));
	k->t = t;
	k->way = way;
	k->page = k->unit = t->page;
	k->pages = t->pages;
	if (way == WAY_ASYNC)
		o.required |= UFFDWP_FEATURE_WP_ASYNC;
	if (way == WAY_SIGBUS)
		o.faults = UFFDWP_FAULTS_USER;
	err = uffdwp_open(&k->h, &o);
	if (err == -EOPNOTSUPP && way == WAY_SIGBUS)
		live_skip("%s", reason);
	if (err)
		FAIL("uffdwp_open: %s: %s", strerror(-err), reason);
	live_info(k->h, &info);
	CHECK_EQ(info.serve, o.serve);
	CHECK_EQ(info.async, way == WAY_ASYNC);
	live_serve(&k->server, k->h);
	k->r = live_region(t, k->h, UFFDWP_MODE_WP, 1, NULL, NULL);
}

void tracked_start(struct tracked *k, uint64_t granule)
{
	char reason[256] = "";
	struct uffdwp_track_opts o = { .sz = sizeof(o),
				       .mechanism = ways[k->way].mechanism,
				       .granule = granule,
				       .reason = reason,
				       .reason_size = sizeof(reason) };
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	int err = uffdwp_track_start(&k->track, &k->r, 1, &o);

	if (err)
		FAIL("uffdwp_track_start: %s: %s", strerror(-err), reason);
	if (granule)
		k->unit = granule;
	CHECK_EQ(uffdwp_track_info(k->track, &info), 0);
	CHECK_EQ(info.mechanism, ways[k->way].mechanism);
	CHECK_EQ(info.regions, 1);
}

void tracked_begin(struct tracked *k, struct live *t, enum track_way way, uint64_t granule)
{
	tracked_open(k, t, way, 0);
	tracked_start(k, granule);
}

void tracked_stop(struct tracked *k)
{
	CHECK_EQ(uffdwp_track_stop(k->track), 0);
	k->track = NULL;
}

void tracked_close(struct tracked *k)
{
	if (k->track)
		tracked_stop(k);
	CHECK_EQ(uffdwp_error(k->h), 0);
	live_serve_stop(&k->server);
	CHECK_EQ(uffdwp_close(k->h), 0);
}

struct sink {
	struct tracked *k;
	unsigned char *dirty;
	uint64_t last, bytes;
};

/* Whole units of the region, in order. */
static int on_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	struct sink *s = arg;
	struct tracked *k = s->k;
	uint64_t off = addr - uffdwp_region_addr(k->r);

	CHECK(r == k->r);
	CHECK(len > 0 && addr >= s->last);
	CHECK_EQ(off % k->unit, 0);
	CHECK_EQ(len % k->unit, 0);
	CHECK(off + len <= k->pages * k->page);
	s->last = addr + len;
	s->bytes += len;
	for (uint64_t i = off / k->page; s->dirty && i < (off + len) / k->page; i++)
		s->dirty[i] = 1;
	return 0;
}

uint64_t tracked_query(struct tracked *k, struct uffdwp_track_query *q, bool peek,
		       unsigned char *dirty)
{
	struct sink s = { k, dirty, 0, 0 };

	q->sz = sizeof(*q);
	q->range = on_range;
	q->arg = &s;
	CHECK_EQ(peek ? uffdwp_track_peek(k->track, q) : uffdwp_track_collect(k->track, q), 0);
	CHECK_EQ(q->bytes, s.bytes);
	return s.bytes;
}

static uint64_t ask(struct tracked *k, bool peek, unsigned char *dirty)
{
	struct uffdwp_track_query q = { .region = NULL };
	uint64_t n;

	memset(dirty, 0, k->pages);
	n = tracked_query(k, &q, peek, dirty);
	CHECK_EQ(q.resume, 0);
	return n;
}

uint64_t tracked_collect(struct tracked *k, unsigned char *dirty)
{
	return ask(k, false, dirty);
}

uint64_t tracked_peek(struct tracked *k, unsigned char *dirty)
{
	return ask(k, true, dirty);
}

void tracked_expect(struct tracked *k, size_t from, size_t to)
{
	unsigned char *dirty = malloc(k->pages);

	CHECK(dirty);
	tracked_collect(k, dirty);
	for (size_t i = 0; i < k->pages; i++) {
		if (dirty[i] != (i >= from && i < to))
			FAIL("%s: page %zu is %s; %zu to %zu were written", way_name(k->way), i,
			     dirty[i] ? "reported" : "not reported", from, to);
	}
	free(dirty);
}

void tracked_write(struct tracked *k, size_t i)
{
	live_store(k->t->mem.addr + i * k->page + 64, i + 1);
}
