/* SPDX-License-Identifier: MIT */
/*
 * The lockers and copiers of a bounce, see bounce.h for the phases. Their last step is known to the
 * watchdog.
 */
#include "bounce.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void wait_for(sem_t *sem, const char *what)
{
	watchdog_rest(what);
	while (sem_wait(sem) && errno == EINTR)
		;
	watchdog_step("goes on after waiting", 0);
}

/* ---- Lockers ---- */

struct locker {
	struct bounce *b;
	unsigned int index;
	struct rng rng;
	size_t *order; /* the pages of this phase */
	size_t n;
};

static bool in_phase(const struct bounce *b, size_t nr, int phase)
{
	return phase == PHASE_LAST || in_first_half(b, nr) == (phase != PHASE_SECOND);
}

static void shuffle(struct locker *l)
{
	size_t i, j, t;

	for (i = l->n; i > 1; i--) {
		j = rng_below(&l->rng, i);
		t = l->order[i - 1];
		l->order[i - 1] = l->order[j];
		l->order[j] = t;
	}
}

static void choose_pages(struct locker *l, int phase)
{
	const struct bounce *b = l->b;
	size_t nr = 0, end = b->pages;

	if (!(b->mode & BOUNCE_RACING)) {
		nr = l->index * b->slice_pages;
		end = nr + b->slice_pages;
	}
	for (l->n = 0; nr < end; nr++) {
		if (in_phase(b, nr, phase))
			l->order[l->n++] = nr;
	}
	if (b->mode & BOUNCE_RANDOM)
		shuffle(l);
}

/* Sometimes it reads first, for a missing fault that is no write. */
static void visit(struct locker *l, size_t nr, int phase)
{
	struct bounce *b = l->b;
	struct page *p = bounce_page(b, b->dst, nr);
	uint32_t written;

	watchdog_step("visits page", nr);
	if (rng_next(&l->rng) % 4 == 0)
		page_glance(p);
	if (!page_visit(p, b->page, nr, &b->shadow[nr]))
		bounce_fail(b, "page %zu: its counter is not the shadow's, phase %d", nr, phase);
	written = atomic_load(&b->written[nr]);
	if (written < bounce_expected(b, nr, phase))
		bounce_fail(b, "page %zu: written with %" PRIu32 " write faults, phase %d", nr,
			    written, phase);
}

static void run_phase(struct locker *l, int phase)
{
	struct bounce *b = l->b;
	size_t i;

	choose_pages(l, phase);
	for (i = 0; i < l->n; i++)
		visit(l, l->order[i], phase);
	sem_post(&b->passed);
	/* The page may be protected or not here, so nothing is expected of it. */
	while (atomic_load(&b->phase) == phase)
		visit(l, l->order[rng_below(&l->rng, l->n)], PHASE_END);
}

void *bounce_locker(void *arg)
{
	struct slice *s = arg;
	struct bounce *b = s->b;
	struct locker l = { .b = b, .index = s->index };
	int phase;

	watchdog_enter("locker", s->index);
	l.rng = rng_make(b->o->seed ^ b->round << 8, s->index);
	l.order = malloc(b->pages * sizeof(*l.order));
	if (!l.order)
		abort();
	for (phase = PHASE_FIRST; phase != PHASE_END; phase = atomic_load(&b->phase))
		run_phase(&l, phase);
	free(l.order);
	watchdog_leave();
	return NULL;
}

/* ---- Copiers ---- */

static size_t next_asked(struct slice *s, size_t head)
{
	size_t nr;

	wait_for(&s->asked, "waits for a page to be asked for");
	/* The place in the queue may have been taken by one who has not written to it yet. */
	while (!(nr = atomic_load(&s->queue[head])))
		;
	return nr - 1;
}

static void place_half(struct slice *s, size_t from, size_t to)
{
	struct bounce *b = s->b;
	size_t nr;
	int rc;

	for (; from < to; from++) {
		nr = next_asked(s, from);
		watchdog_step("places page", nr);
		/* A handler that was preempted has it: the watchdog knows when that is too long. */
		do
			rc = bounce_place(b, b->region, nr);
		while (rc == -EBUSY);
		if (rc)
			bounce_fail(b, "page %zu: not placed: %s", nr, strerror(-rc));
	}
}

/* A slice's pages from (inclusive) to (exclusive). */
static void protect(struct slice *s, size_t from, size_t to)
{
	struct bounce *b = s->b;
	uint64_t first = (uintptr_t)bounce_page(b, b->dst, s->index * b->slice_pages + from);
	uint64_t len = (to - from) * b->page, done = 0;
	int rc;

	watchdog_step("protects from page", s->index * b->slice_pages + from);
	rc = uffdwp_protect(b->region, first, len, &done);
	if (rc || done != len)
		bounce_fail(b, "slice %u: protecting pages %zu to %zu: %s, %" PRIu64 " bytes done",
			    s->index, from, to, strerror(-rc), done);
}

void *bounce_copier(void *arg)
{
	struct slice *s = arg;
	struct bounce *b = s->b;
	size_t all = b->slice_pages, half = all / 2;

	watchdog_enter("copier", s->index);
	place_half(s, 0, half);
	wait_for(&s->go, "waits for the end of phase FIRST");
	protect(s, 0, half);
	sem_post(&b->copied);
	wait_for(&s->go, "waits for the end of phase AGAIN");
	if (b->marks)
		protect(s, all - all / 4, all);
	sem_post(&b->copied);
	place_half(s, half, all);
	wait_for(&s->go, "waits for the end of phase SECOND");
	if (b->staging)
		protect(s, 0, all);
	sem_post(&b->copied);
	watchdog_leave();
	return NULL;
}
