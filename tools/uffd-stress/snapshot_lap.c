/* SPDX-License-Identifier: MIT */
/* One snapshot of uffd-stress snapshot, from its beginning to its end. */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

static void nap_us(uint64_t us)
{
	const struct timespec t = { 0, (long)us * 1000 };

	nanosleep(&t, NULL);
}

static void enter_phase(struct lap *l, enum phase phase)
{
	atomic_store(&l->phase, phase);
}

/* ---- Cancelling ---- */

static void *cancel_late(void *arg)
{
	struct round *r = arg;
	struct lap *l = &r->now;
	int rc;

	watchdog_enter("canceller", 0);
	while (atomic_load(&l->phase) < l->plan.cancel_phase) {
		watchdog_rest("waits for its moment");
		nap_us(50);
	}
	nap_us(l->plan.cancel_us);
	watchdog_step("cancels", l->nr);
	atomic_store(&l->cancels, true);
	rc = uffdwp_snapshot_cancel(l->s);
	if (rc)
		verdict_fail(&r->v, "uffdwp_snapshot_cancel: %s", strerror(-rc));
	atomic_store(&l->cancelled_before_seal, atomic_load(&l->phase) < PHASE_SEAL);
	watchdog_leave();
	return NULL;
}

/* ---- Making it ---- */

static int make(struct round *r)
{
	struct lap *l = &r->now;
	struct uffdwp_region *regions[AREAS_MAX];
	char reason[256] = "";
	struct uffdwp_snapshot_opts so = {
		.sz = sizeof(so),
		.strategy = l->plan.strategy,
		.by_caller = l->plan.by_caller,
		.sink = &l->sink->sink,
		.staging = l->plan.staging,
		.rate = l->plan.rate,
		.settle = l->plan.settle,
		.passes = l->plan.passes,
		.reason = reason,
		.reason_size = sizeof(reason),
	};
	unsigned int i;
	int rc;

	for (i = 0; i < r->plan.areas; i++) {
		regions[i] = r->area[i].r;
		r->area[i].was_at = (uintptr_t)r->area[i].mem.addr;
	}
	rc = uffdwp_snapshot_new(&l->s, regions, r->plan.areas, &so);
	if (rc && (rc != l->plan.sink.error || l->plan.sink.fails != OP_BEGIN))
		verdict_fail(&r->v, "uffdwp_snapshot_new: %s (%s)", reason, strerror(-rc));
	if (!rc && atomic_load(&l->sink->failed))
		verdict_fail(&r->v,
			     "uffdwp_snapshot_new: the sink's begin() failed, and it did not");
	return rc;
}

/* Of what is not whole none can be made. */
static bool has_hole(const struct round *r)
{
	bool hole = false;
	unsigned int i;

	for (i = 0; i < r->plan.areas; i++)
		hole = hole || r->area[i].gone_n;
	return hole;
}

/* Where areas are must be known when it is made: they can not move, or go, meanwhile. */
static int make_in_place(struct round *r)
{
	bool pauses = r->plan.acts & (1u << ACT_MOVE | 1u << ACT_UNMAP);
	int rc;

	watchdog_step("makes a snapshot", r->now.nr);
	if (pauses)
		pause_begin(&r->pause);
	rc = has_hole(r) ? -ENOENT : make(r);
	if (pauses)
		pause_end(&r->pause);
	/* Of a sink that was not taken over. */
	if (rc && r->now.plan.sink.kind != SINK_OWN)
		r->now.sink->sink.free(r->now.sink->sink.ctx);
	return rc;
}

/* ---- Up to the seal ---- */

/* A call that failed has ended it, or found it ended. */
static void check_ended(struct round *r, int rc, const char *what)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };

	if (!rc)
		return;
	rc = uffdwp_snapshot_wait(r->now.s, &res);
	if (rc || res.verdict == UFFDWP_SNAPSHOT_RUNNING || res.verdict == UFFDWP_SNAPSHOT_COMPLETE)
		verdict_fail(&r->v, "%s failed, and the verdict is %" PRIu32 " (%d)", what,
			     res.verdict, rc);
}

static void arm(struct round *r)
{
	struct lap *l = &r->now;
	unsigned int i;

	enter_phase(l, PHASE_ARM);
	for (i = 0; !l->arm_rc && i < l->plan.arms; i++) {
		watchdog_step("arms", i);
		l->arm_rc = uffdwp_snapshot_arm(l->s);
		if (rng_below(&l->rng, 2))
			nap_us(rng_below(&l->rng, 10000));
	}
	check_ended(r, l->arm_rc, "uffdwp_snapshot_arm");
}

static void seal(struct round *r)
{
	struct lap *l = &r->now;

	enter_phase(l, PHASE_SEAL);
	l->sealed_try = true;
	pause_begin(&r->pause);
	if (l->plan.copy == COPY_BEFORE)
		areas_copy(r, false);
	watchdog_step("seals", l->nr);
	l->seal_rc = uffdwp_snapshot_seal(l->s);
	atomic_store(&r->sealed, !l->seal_rc);
	if (!l->seal_rc && l->plan.copy != COPY_BEFORE)
		areas_copy(r, l->plan.copy == COPY_EXPECTED);
	if (!l->seal_rc && l->plan.copy != COPY_EXPECTED)
		areas_check(r, true, "at the seal");
	pause_end(&r->pause);
	enter_phase(l, PHASE_SEALED);
	check_ended(r, l->seal_rc, "uffdwp_snapshot_seal");
}

/* ---- After it ---- */

static void look(struct round *r)
{
	struct lap *l = &r->now;
	int rc;

	l->res.sz = sizeof(l->res);
	rc = uffdwp_snapshot_poll(l->s, &l->res);
	if (rc < 0 || (rc == 0) != (l->res.verdict == UFFDWP_SNAPSHOT_RUNNING))
		verdict_fail(&r->v, "uffdwp_snapshot_poll gives %d, and verdict %" PRIu32, rc,
			     l->res.verdict);
}

static void drive(struct round *r)
{
	struct lap *l = &r->now;
	unsigned int n = l->plan.by_caller ? (unsigned int)rng_below(&l->rng, 50) : 0, i;
	int rc = 0;

	for (i = 0; !rc && i < n; i++) {
		watchdog_step("steps", i);
		rc = uffdwp_snapshot_step(l->s, (unsigned int)rng_below(&l->rng, 4));
	}
	if (rc < 0)
		verdict_fail(&r->v, "uffdwp_snapshot_step: %s", strerror(-rc));
	look(r);
}

static void end(struct round *r)
{
	struct lap *l = &r->now;
	int rc;

	drive(r);
	if (l->plan.free_early) {
		l->freed_early = true;
		return;
	}
	watchdog_step("waits for the end", l->nr);
	l->res.sz = sizeof(l->res);
	rc = uffdwp_snapshot_wait(l->s, &l->res);
	if (rc)
		verdict_fail(&r->v, "uffdwp_snapshot_wait: %s", strerror(-rc));
}

static void release(struct round *r)
{
	struct lap *l = &r->now;
	int rc;

	enter_phase(l, PHASE_END);
	if (l->plan.cancel) {
		watchdog_rest("waits for the canceller");
		pthread_join(l->canceller, NULL);
	}
	watchdog_step("frees", l->nr);
	rc = uffdwp_snapshot_free(l->s);
	if (rc)
		verdict_fail(&r->v, "uffdwp_snapshot_free: %s", strerror(-rc));
	atomic_store(&r->sealed, false);
}

static void run(struct round *r)
{
	struct lap *l = &r->now;

	if (l->plan.cancel)
		thread_start(&l->canceller, cancel_late, r);
	arm(r);
	/* Freed without a seal, or after it. */
	if (!l->plan.free_early || rng_below(&l->rng, 2))
		seal(r);
	if (l->sealed_try || l->plan.free_early)
		end(r);
	release(r);
}

void lap_run(struct round *r, unsigned int nr)
{
	struct sink_state *sink = r->now.sink;
	struct lap *l = &r->now;
	int rc;

	memset(l, 0, sizeof(*l));
	l->sink = sink;
	l->nr = nr;
	l->rng = rng_make(r->plan.seed, 4000 + nr);
	l->plan = make_lap(&r->plan, &l->rng);
	atomic_store(&r->lap, nr);
	if (sink_start(sink, r, &l->plan.sink, rng_next(&l->rng)))
		return;
	rc = make_in_place(r);
	if (!rc)
		run(r);
	sink_stop(sink);
	if (!rc)
		lap_judge(r);
}
