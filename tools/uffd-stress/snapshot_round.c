/* SPDX-License-Identifier: MIT */
/*
 * One round of uffd-stress snapshot: maps memory as the plan says, lets the threads loose on it,
 * takes snapshots, and looks whether the memory is what it should be at the end.
 */
#include "snapshot.h"
#include "system.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_handle(struct round *r)
{
	const struct plan *p = &r->plan;
	uint32_t serve = ways[p->way].serve;
	struct uffdwp_opts more = {
		.sz = sizeof(more),
		.faults = serve == UFFDWP_SERVE_SIGBUS ? UFFDWP_FAULTS_USER : UFFDWP_FAULTS_KERNEL,
		.threads = p->alone,
	};
	unsigned int i;

	for (i = 0; i < p->areas; i++)
		more.required |= mem_wp_features(p->kinds[i]) |
				 (p->missing ? mem_missing_features(p->kinds[i]) : 0);
	if (ways[p->way].async)
		more.required |= UFFDWP_FEATURE_WP_ASYNC;
	if (p->removes)
		more.required |= UFFDWP_FEATURE_EVENT_REMOVE;
	if (p->moves)
		more.required |= UFFDWP_FEATURE_EVENT_REMAP | UFFDWP_FEATURE_EVENT_UNMAP;
	return server_start(&r->server, r->o, p->kind, serve, p->removes || p->moves || p->seed & 1,
			    &more);
}

static void make_owners(struct round *r)
{
	unsigned int i;

	r->owners = r->plan.scribes + 2;
	for (i = 0; i < r->owners; i++)
		r->scribe[i] = (struct scribe){
			.round = r, .index = i, .rng = rng_make(r->plan.seed, 2000 + i), .fd = -1
		};
}

static void run_laps(struct round *r)
{
	unsigned int nr;

	for (nr = 1; nr <= r->plan.laps && !atomic_load(&r->v.failures); nr++)
		lap_run(r, nr);
}

static int run_threads(struct round *r)
{
	int rc = scribes_start(r);

	if (rc)
		return rc;
	disturber_start(r);
	run_laps(r);
	atomic_store(&r->stop, true);
	scribes_stop(r);
	disturber_stop(r);
	return EXIT_PASS;
}

static void tear_down(struct round *r)
{
	unsigned int i;
	int rc;

	for (i = 0; i < r->plan.areas; i++) {
		watchdog_step("removes a region", i);
		rc = r->area[i].r && !(r->plan.seed >> 1 & 1) ? uffdwp_region_remove(r->area[i].r)
							      : 0;
		if (rc)
			verdict_fail(&r->v, "uffdwp_region_remove: %s", strerror(-rc));
	}
	if (!server_close(&r->server))
		verdict_fail(&r->v, "the handle does not close cleanly");
	for (i = 0; i < r->owners; i++) {
		if (r->scribe[i].fd >= 0)
			close(r->scribe[i].fd);
	}
}

static int snapshot_memory(struct round *r)
{
	int rc = open_handle(r);

	if (rc)
		return rc;
	rc = areas_watch(r);
	if (!rc)
		rc = watcher_start(r);
	if (!rc) {
		rc = run_threads(r);
		watcher_stop(r);
		areas_check(r, false, "at the end");
	}
	tear_down(r);
	return rc;
}

/* Undone by system_end(). */
static bool swap_on(struct round *r)
{
	int err;

	watchdog_rest("waits for others that change the system");
	err = system_begin();
	if (!err)
		err = system_swap_on(r->plan.zram);
	watchdog_step("goes on", 0);
	if (err)
		out_say(r->o, "%s: skipped: swap: %s\n", r->v.name, strerror(-err));
	return !err;
}

int round_run(struct round *r)
{
	int rc;

	if (r->plan.swap && !swap_on(r))
		r->plan.others &= ~(1u << DISTURB_SWAP);
	pause_init(&r->pause);
	make_owners(r);
	r->now.sink = calloc(1, sizeof(*r->now.sink));
	rc = r->now.sink ? areas_map(r) : EXIT_HARNESS;
	if (!rc)
		rc = snapshot_memory(r);
	areas_free(r);
	free(r->now.sink);
	pause_destroy(&r->pause);
	if (system_end())
		verdict_fail(&r->v, "the system's settings were not put back");
	return atomic_load(&r->v.failures) ? EXIT_WRONG : rc;
}
