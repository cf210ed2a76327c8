/* SPDX-License-Identifier: MIT */
/*
 * The course of one bounce, see bounce.h: opens and registers, steers lockers and copiers through
 * the phases, and compares every count and byte.
 */
#include "bounce.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLD_MAX 10

void bounce_fail(struct bounce *b, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (atomic_fetch_add(&b->failures, 1) >= TOLD_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	out_fail("%s bounce %" PRIu64 ": %s", mem_name(b->kind), b->round, text);
	if (b->server.h && uffdwp_error(b->server.h) < 0)
		out_fail("the handle: %s", strerror(-uffdwp_error(b->server.h)));
}

uint32_t bounce_expected(const struct bounce *b, size_t nr, int phase)
{
	uint32_t placed = b->staging ? 0 : 1;

	switch (phase) {
	case PHASE_FIRST:
	case PHASE_SECOND:
		return placed;
	case PHASE_AGAIN:
		return placed + 1;
	case PHASE_LAST:
		return in_first_half(b, nr) ? 2 : 1;
	default:
		return 0;
	}
}

/* ---- Checks while nothing is protected ---- */

static void check_half(struct bounce *b, bool first, int phase)
{
	uint32_t missing, written, want;
	size_t nr;

	for (nr = 0; nr < b->pages; nr++) {
		if (in_first_half(b, nr) != first)
			continue;
		missing = atomic_load(&b->missing[nr]);
		written = atomic_load(&b->written[nr]);
		want = bounce_expected(b, nr, phase);
		if (!missing || written != want)
			bounce_fail(b,
				    "page %zu: %" PRIu32 " missing and %" PRIu32
				    " write faults after phase %d, want some and %" PRIu32,
				    nr, missing, written, phase, want);
	}
}

static void check_stats(struct bounce *b)
{
	struct uffdwp_stats st = { .sz = sizeof(st) };
	uint64_t missing = 0, written = 0;
	size_t nr;

	for (nr = 0; nr < b->pages; nr++) {
		missing += atomic_load(&b->missing[nr]);
		written += atomic_load(&b->written[nr]);
	}
	if (uffdwp_stats(b->server.h, UFFDWP_ALL_WORKERS, &st) || st.missing < missing ||
	    st.op_pages != written || (b->o->run == 1 && st.write < written) || st.strays ||
	    st.minor)
		bounce_fail(b,
			    "statistics: missing %" PRIu64 ", write %" PRIu64
			    ", pages written %" PRIu64 ", strays %" PRIu64 ", minor %" PRIu64
			    "; counted %" PRIu64 " and %" PRIu64,
			    st.missing, st.write, st.op_pages, st.strays, st.minor, missing,
			    written);
	if ((b->serve == UFFDWP_SERVE_SIGBUS) != !st.reads)
		bounce_fail(b, "%" PRIu64 " reads of messages", st.reads);
}

static void check_pages(struct bounce *b)
{
	size_t nr, bad;

	for (nr = 0; nr < b->pages; nr++) {
		watchdog_step("compares page", nr);
		if (!page_check(bounce_page(b, b->dst, nr), b->page, nr, b->shadow[nr], &bad))
			bounce_fail(b, "page %zu: wrong at byte %zu after the bounce", nr, bad);
	}
}

/* Protecting and releasing whole huge pages must not have split them. */
static void check_huge(struct bounce *b)
{
	size_t huge;

	if (!b->staging)
		return;
	huge = mem_thp_bytes(b->dst);
	if (huge < b->dst->size)
		bounce_fail(b, "%zu of %zu bytes are in huge pages", huge, b->dst->size);
}

/* ---- Phases ---- */

static void collect(struct bounce *b, sem_t *sem, const char *what)
{
	unsigned int i;

	for (i = 0; i < b->slices; i++) {
		watchdog_rest(what);
		while (sem_wait(sem) && errno == EINTR)
			;
	}
	watchdog_step("steers", 0);
}

/* The copiers' next step, under the lockers that are still in the phase before. */
static void copiers_step(struct bounce *b)
{
	unsigned int i;

	for (i = 0; i < b->slices; i++)
		sem_post(&b->slice[i].go);
	collect(b, &b->copied, "waits for the copiers");
}

static void steer(struct bounce *b)
{
	collect(b, &b->passed, "waits for the lockers, phase FIRST");
	check_half(b, true, PHASE_FIRST);
	copiers_step(b);
	atomic_store(&b->phase, PHASE_AGAIN);
	collect(b, &b->passed, "waits for the lockers, phase AGAIN");
	check_half(b, true, PHASE_AGAIN);
	copiers_step(b);
	atomic_store(&b->phase, PHASE_SECOND);
	collect(b, &b->passed, "waits for the lockers, phase SECOND");
	check_half(b, false, PHASE_SECOND);
	copiers_step(b);
	if (b->staging) {
		atomic_store(&b->phase, PHASE_LAST);
		collect(b, &b->passed, "waits for the lockers, phase LAST");
	}
	atomic_store(&b->phase, PHASE_END);
}

/* ---- Set-up ---- */

static void reset(struct bounce *b)
{
	unsigned int i;
	size_t nr;

	atomic_store(&b->phase, PHASE_FIRST);
	for (nr = 0; nr < b->pages; nr++) {
		atomic_store(&b->missing[nr], 0);
		atomic_store(&b->written[nr], 0);
		atomic_store(&b->asked_once[nr], false);
	}
	sem_init(&b->passed, 0, 0);
	sem_init(&b->copied, 0, 0);
	for (i = 0; i < b->slices; i++) {
		b->slice[i].b = b;
		b->slice[i].index = i;
		atomic_store(&b->slice[i].tail, 0);
		for (nr = 0; nr < b->slice_pages; nr++)
			atomic_store(&b->slice[i].queue[nr], 0);
		sem_init(&b->slice[i].go, 0, 0);
		sem_init(&b->slice[i].asked, 0, 0);
	}
}

static int add_region(struct bounce *b)
{
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro),
		.addr = (uintptr_t)b->dst->addr,
		.len = b->dst->size,
		.page_size = b->page,
		.mode = UFFDWP_MODE_MISSING | UFFDWP_MODE_WP,
		.run = b->o->run,
		.ops = &bounce_ops,
		.ctx = b,
	};
	struct uffdwp_info info = { .sz = sizeof(info) };
	int rc;

	/* A marker in a huge page's place would make the move a copy of small pages. */
	uffdwp_info(b->server.h, &info);
	b->marks = !info.populates && !b->staging;
	rc = uffdwp_region_add(b->server.h, &ro, &b->region);
	if (rc) {
		out_fail("%s: uffdwp_region_add: %s", mem_name(b->kind), strerror(-rc));
		return EXIT_WRONG;
	}
	return EXIT_PASS;
}

/* Half a set of threads could neither go on nor be stopped. */
static void start(pthread_t *t, void *(*fn)(void *), struct slice *s)
{
	if (pthread_create(t, NULL, fn, s)) {
		out_fail("a thread does not start");
		mem_hugepages_restore();
		_Exit(EXIT_HARNESS);
	}
}

static void run_threads(struct bounce *b)
{
	unsigned int i;

	for (i = 0; i < b->slices; i++) {
		start(&b->slice[i].copier, bounce_copier, &b->slice[i]);
		start(&b->slice[i].locker, bounce_locker, &b->slice[i]);
	}
	steer(b);
	for (i = 0; i < b->slices; i++) {
		pthread_join(b->slice[i].locker, NULL);
		pthread_join(b->slice[i].copier, NULL);
	}
}

static void check_after(struct bounce *b, struct tally *t)
{
	check_half(b, true, b->staging ? PHASE_LAST : PHASE_AGAIN);
	check_half(b, false, b->staging ? PHASE_LAST : PHASE_SECOND);
	check_stats(b);
	check_huge(b);
	if (!tally_add(t, b->server.h))
		bounce_fail(b, "workers' statistics exceed the sum of all");
}

/* Half of the bounces leave the region to uffdwp_close(). */
static void tear_down(struct bounce *b)
{
	int rc;

	watchdog_step("tears down", b->round);
	if (b->round & 1) {
		rc = uffdwp_region_remove(b->region);
		if (rc)
			bounce_fail(b, "uffdwp_region_remove: %s", strerror(-rc));
	}
	if (!server_close(&b->server))
		bounce_fail(b, "the handle does not close cleanly");
}

int bounce_once(struct bounce *b, struct tally *t)
{
	int rc;

	reset(b);
	rc = server_start(&b->server, b->o, b->kind, b->serve, b->mode & BOUNCE_POLL,
			  &(struct uffdwp_opts){
				  .sz = sizeof(struct uffdwp_opts),
				  .required = b->staging ? UFFDWP_FEATURE_MOVE : 0,
				  /* lockers touch pages in user mode only */
				  .faults = UFFDWP_FAULTS_ANY,
			  });
	if (rc)
		return rc;
	rc = add_region(b);
	if (rc) {
		server_close(&b->server);
		return rc;
	}
	run_threads(b);
	check_after(b, t);
	tear_down(b);
	check_pages(b);
	return atomic_load(&b->failures) ? EXIT_WRONG : EXIT_PASS;
}
