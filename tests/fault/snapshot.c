/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: COMPLETE means that the sink has every byte as it was at the seal; what fails makes another verdict, or
 * an error that is documented, and the program writes on undisturbed in any case.
 */
#include "scenes.h"

#include <uffdwp/snapshot.h>
#include <uffdwp/track.h>

#include "scene.h"

#define BEFORE UINT64_C(0x1100)
#define ARMED UINT64_C(0x2200)
#define AFTER UINT64_C(0x3300)
/* Of opening it. */
#define PAGEMAP_ERRORS EMFILE, EACCES, ENOENT, ESRCH

struct shot {
	struct uffdwp *h;
	struct uffdwp_region *r;
	struct uffdwp_track *t;
	struct uffdwp_snapshot *s;
	struct uffdwp_sink sink;
	struct live_server server;
	char *mem, *copy;
	int file; /* -1: to memory */
	uint32_t by_caller;
};

static bool begin(struct shot *k, struct uffdwp_opts *o, bool file)
{
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .len = PAGES * PAGE,
					 .mode = UFFDWP_MODE_WP };

	scene_begin();
	k->mem = scene_map(PAGES, MAP_PRIVATE);
	k->copy = scene_map(PAGES, MAP_PRIVATE);
	k->file = file ? memfd_create("image", MFD_CLOEXEC) : -1;
	/* The last page was never there. */
	for (size_t i = 0; i + 1 < PAGES; i++)
		scene_fill(k->mem + i * PAGE, BEFORE + i);
	ro.addr = (uintptr_t)k->mem;
	if (!scene_open(&k->h, o))
		return false;
	live_serve(&k->server, k->h);
	return scene_add(k->h, &ro, &k->r);
}

static void end(struct shot *k)
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
	if (k->file >= 0)
		close(k->file);
	scene_unmap(k->copy, PAGES);
	scene_unmap(k->mem, PAGES);
	scene_end();
}

static bool make_sink(struct shot *k)
{
	void *copies[] = { k->copy };

	return k->file >= 0 ? GOOD(uffdwp_sink_file(&k->sink, k->file), EBADF)
			    : GOOD(uffdwp_sink_memory(&k->sink, copies, 1), ENOMEM);
}

static bool make(struct shot *k, uint32_t strategy)
{
	char reason[256] = "";
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .strategy = strategy,
					  .sink = &k->sink,
					  .by_caller = k->by_caller,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN,
					  .reason = reason,
					  .reason_size = sizeof(reason) };
	int err;

	if (!make_sink(k))
		return false;
	err = uffdwp_snapshot_new(&k->s, &k->r, 1, &o);
	CHECK_EQ(!k->s, !!err);
	CHECK_EQ(!reason[0], !err);
	if (err && k->sink.free)
		k->sink.free(k->sink.ctx);
	return scene_good("uffdwp_snapshot_new", err,
			  k->file >= 0 ? (const int[]){ EOPNOTSUPP, EAGAIN, PAGEMAP_ERRORS, EIO,
							ENOSPC, 0 }
				       : (const int[]){ EOPNOTSUPP, EAGAIN, PAGEMAP_ERRORS, 0 });
}

static void check_copy(struct shot *k, const uint64_t *sealed)
{
	if (k->file >= 0)
		CHECK_EQ(pread(k->file, k->copy, PAGES * PAGE, 0), PAGES * PAGE);
	for (size_t i = 0; i < PAGES; i++)
		if (!scene_holds(k->copy + i * PAGE, sealed[i]))
			FAIL("complete, and page %zu is not what it was", i);
}

static void check_result(struct shot *k, const struct uffdwp_snapshot_result *res, bool sealed,
			 const uint64_t *at_seal)
{
	if (!sealed)
		CHECK(res->verdict != UFFDWP_SNAPSHOT_COMPLETE);
	CHECK(res->verdict != UFFDWP_SNAPSHOT_RUNNING);
	if (res->verdict == UFFDWP_SNAPSHOT_COMPLETE)
		check_copy(k, at_seal);
	else if (fault_current->site < 0)
		FAIL("verdict %u, why %u, error %d", res->verdict, res->why, res->error);
	if (res->verdict == UFFDWP_SNAPSHOT_FAILED)
		CHECK(res->error < 0);
}

/* What the memory holds at the seal: the first pages are written between arming and sealing. */
static void shoot(struct shot *k)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	uint64_t at_seal[PAGES];
	struct scene_writer w;
	bool sealed;
	int armed;

	for (size_t i = 0; i < PAGES; i++)
		at_seal[i] = i < 3 ? ARMED + i : i + 1 < PAGES ? BEFORE + i : 0;
	armed = uffdwp_snapshot_arm(k->s);
	scene_write(&w, k->mem, 3, 1, ARMED);
	scene_written(&w);
	sealed = !uffdwp_snapshot_seal(k->s);
	CHECK(!armed || !sealed);
	scene_write(&w, k->mem, PAGES, 2, AFTER);
	scene_written(&w);
	/* Without a seal it has ended already, or is about to. */
	CHECK_EQ(uffdwp_snapshot_wait(k->s, &res), 0);
	check_result(k, &res, sealed, at_seal);
	for (size_t i = 0; i < PAGES; i += 2)
		CHECK(scene_holds(k->mem + i * PAGE, AFTER + i));
	CHECK_EQ(uffdwp_snapshot_free(k->s), 0);
}

static void snapshot(struct uffdwp_opts o, uint32_t strategy, bool file, bool tracked)
{
	static struct shot k;

	k.by_caller = o.serve == UFFDWP_SERVE_SIGBUS;
	if (begin(&k, &o, file)) {
		if (tracked)
			GOOD(uffdwp_track_start(&k.t, &k.r, 1, NULL), EOPNOTSUPP, EBUSY, EMFILE,
			     EAGAIN, ENOENT, ESRCH, EACCES);
		if (make(&k, strategy))
			shoot(&k);
	}
	end(&k);
}

static void cow_memory(void)
{
	snapshot((struct uffdwp_opts){ .threads = 2 }, UFFDWP_SNAPSHOT_COW, false, false);
}

static void cow_file(void)
{
	snapshot((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER }, UFFDWP_SNAPSHOT_COW, true,
		 true);
}

static void cow_sigbus(void)
{
	snapshot((struct uffdwp_opts){ .serve = UFFDWP_SERVE_SIGBUS }, UFFDWP_SNAPSHOT_COW, false,
		 false);
}

static void precopy_file(void)
{
	snapshot((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER,
				       .required = UFFDWP_FEATURE_WP_ASYNC },
		 UFFDWP_SNAPSHOT_PRECOPY, true, false);
}

static void precopy_tracked(void)
{
	snapshot((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER,
				       .required = UFFDWP_FEATURE_WP_ASYNC },
		 UFFDWP_SNAPSHOT_PRECOPY, false, true);
}

/* Who loses CAP_SYS_ADMIN, or runs where events are on, asks the page tables in other ways. */
static void cow_events(void)
{
	snapshot((struct uffdwp_opts){ .threads = 2,
				       .required = UFFDWP_FEATURE_EVENT_REMOVE |
						   UFFDWP_FEATURE_EVENT_UNMAP |
						   UFFDWP_FEATURE_EVENT_REMAP },
		 UFFDWP_SNAPSHOT_COW, true, true);
}

const struct fault_scenario scenes_snapshot[] = {
	{ "snapshot-cow", cow_memory, false },
	{ "snapshot-cow-file", cow_file, false },
	{ "snapshot-cow-sigbus", cow_sigbus, false },
	{ "snapshot-cow-events", cow_events, false },
	{ "snapshot-precopy", precopy_file, false },
	{ "snapshot-precopy-tracked", precopy_tracked, false },
	{ NULL, NULL, false },
};
