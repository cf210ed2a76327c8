/* SPDX-License-Identifier: MIT */
/*
 * Tracking: a page that was written is reported by a collect that succeeds after it, whatever failed before; an
 * error loses nothing.
 */
#include "scenes.h"

#include <uffdwp/track.h>

#include "scene.h"

#define ROUNDS 3
#define TRIES 4

struct track {
	struct uffdwp *h;
	struct uffdwp_region *r;
	struct uffdwp_track *t;
	struct live_server server;
	char *mem;
	bool pending[PAGES];
};

static int seen(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	struct track *k = arg;

	(void)r;
	for (uint64_t i = (addr - (uintptr_t)k->mem) / PAGE; len; i++, len -= PAGE)
		k->pending[i] = false;
	return 0;
}

static void write_some(struct track *k, unsigned int round)
{
	struct scene_writer w;

	scene_write(&w, k->mem, PAGES, 1 + round, round);
	scene_written(&w);
	for (size_t i = 0; i < PAGES; i += 1 + round)
		k->pending[i] = true;
}

/* After the call: the handle may have failed meanwhile. */
static bool collected(struct track *k, const char *function, int err)
{
	return scene_good(function, err,
			  (const int[]){ ENOENT, EBUSY, ESRCH, EAGAIN, -scene_error(k->h), 0 });
}

/* An error that comes once is over at the next try. One that stays must stay an error. */
static void collect(struct track *k)
{
	struct uffdwp_track_query q = { .sz = sizeof(q), .range = seen, .arg = k };
	bool good = false;
	int err;

	for (int i = 0; i < TRIES && !good && !scene_error(k->h); i++) {
		q.resume = 0;
		err = uffdwp_track_collect(k->t, &q);
		good = collected(k, "uffdwp_track_collect", err);
	}
	for (size_t i = 0; good && i < PAGES; i++)
		if (k->pending[i])
			FAIL("page %zu was written, and not reported", i);
	if (!good && !fault_current->on && !scene_error(k->h))
		FAIL("one failure, and no collect succeeds");
}

static void peek(struct track *k)
{
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	int err = uffdwp_track_peek(k->t, &q);

	collected(k, "uffdwp_track_peek", err);
}

static bool start(struct track *k)
{
	char reason[256] = "";
	struct uffdwp_track_opts o = { .sz = sizeof(o),
				       .reason = reason,
				       .reason_size = sizeof(reason) };
	int err = uffdwp_track_start(&k->t, &k->r, 1, &o);

	CHECK_EQ(!k->t, !!err);
	CHECK_EQ(!reason[0], !err);
	return scene_good("uffdwp_track_start", err,
			  (const int[]){ EOPNOTSUPP, EBUSY, EMFILE, EACCES, EAGAIN, ENOENT, ESRCH,
					 ECANCELED, 0 });
}

static bool begin(struct track *k, struct uffdwp_opts *o)
{
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .len = PAGES * PAGE,
					 .mode = UFFDWP_MODE_WP };

	memset(k, 0, sizeof(*k));
	scene_begin();
	k->mem = scene_map(PAGES, MAP_PRIVATE);
	ro.addr = (uintptr_t)k->mem;
	if (!scene_open(&k->h, o))
		return false;
	live_serve(&k->server, k->h);
	return scene_add(k->h, &ro, &k->r) && start(k);
}

static void end(struct track *k)
{
	if (k->t)
		CHECK_EQ(uffdwp_track_stop(k->t), 0);
	if (k->h) {
		live_serve_stop(&k->server);
		CHECK_EQ(uffdwp_close(k->h), 0);
	}
	/* Nobody protects it any more. */
	for (size_t i = 0; i < PAGES; i++)
		scene_fill(k->mem + i * PAGE, 0);
	scene_unmap(k->mem, PAGES);
	scene_end();
}

static void track(struct uffdwp_opts o)
{
	static struct track k;

	if (begin(&k, &o)) {
		for (unsigned int round = 0; round < ROUNDS; round++) {
			write_some(&k, round);
			peek(&k);
			collect(&k);
		}
	}
	end(&k);
}

static void track_async(void)
{
	track((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER,
				    .required = UFFDWP_FEATURE_WP_ASYNC });
}

static void track_threads(void)
{
	track((struct uffdwp_opts){ .threads = 2 });
}

static void track_caller(void)
{
	track((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER });
}

static void track_sigbus(void)
{
	track((struct uffdwp_opts){ .serve = UFFDWP_SERVE_SIGBUS });
}

/* Pages discarded past the library: suspects, which the page tables clear or not. */
static void track_discards(void)
{
	struct uffdwp_opts o = { .threads = 2, .required = UFFDWP_FEATURE_EVENT_REMOVE };
	static struct track k;

	if (begin(&k, &o)) {
		write_some(&k, 0);
		collect(&k);
		CHECK_EQ(madvise(k.mem, 2 * PAGE, MADV_DONTNEED), 0);
		write_some(&k, 2);
		k.pending[1] = false;
		collect(&k);
		collect(&k);
	}
	end(&k);
}

const struct fault_scenario scenes_track[] = {
	{ "track-async", track_async, false },	     { "track-threads", track_threads, false },
	{ "track-caller", track_caller, false },     { "track-sigbus", track_sigbus, false },
	{ "track-discards", track_discards, false }, { NULL, NULL, false },
};
