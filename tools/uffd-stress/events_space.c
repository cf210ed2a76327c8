/* SPDX-License-Identifier: MIT */
/*
 * mremap(), discards and munmap() while faults are in flight: that the event tells what happened,
 * and that each page faults afterwards as its new state demands.
 */
#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define MOVES 4

static bool is_shared(const struct arena *a)
{
	return a->kind == MEM_SHMEM || a->kind == MEM_HUGETLB_SHARED;
}

static void expect_event(struct arena *a, uint32_t kind, uint32_t count, size_t from, size_t to,
			 const char *base)
{
	uint64_t addr = (uintptr_t)base + from * a->page, len = (to - from) * a->page;
	struct uffdwp_event last;
	bool whole = from == 0 && to == a->pages;

	if (!events_wait(a, kind, count))
		return;
	last = arena_last_event(a);
	if (last.kind != kind || last.addr != addr || last.len != len || (whole && !last.whole))
		arena_fail(a,
			   "event %" PRIu32 " at %#" PRIx64 " for %" PRIu64 " bytes, whole %" PRIu32
			   "; want %" PRIu32 " at %#" PRIx64 " for %" PRIu64,
			   last.kind, last.addr, last.len, last.whole, kind, addr, len);
}

/* ---- mremap ---- */

/* Somewhere else, as aligned as huge pages demand. */
static void *free_place(size_t size)
{
	char *p = mmap(NULL, size + HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t head;

	if (p == MAP_FAILED)
		return NULL;
	head = -(uintptr_t)p & (HUGE_SIZE - 1);
	munmap(p, size + HUGE_SIZE);
	return p + head;
}

static bool move(struct arena *a, uint32_t count)
{
	char *old = a->dst.addr, *to = free_place(a->dst.size), *now;

	watchdog_step("calls mremap", count);
	if (!to)
		return false;
	now = mremap(old, a->dst.size, a->dst.size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (now == MAP_FAILED) {
		arena_fail(a, "mremap: %s", strerror(errno));
		return false;
	}
	a->dst.addr = now;
	atomic_store(&a->at, now);
	/* At once, before anybody may have noticed. */
	arena_visit(a, 0, 2, false);
	expect_event(a, UFFDWP_EVENT_REMAP, count, 0, a->pages, old);
	if (arena_last_event(a).to != (uintptr_t)now ||
	    uffdwp_region_addr(a->region) != (uintptr_t)now ||
	    uffdwp_region_find(a->h, (uintptr_t)now) != a->region ||
	    uffdwp_region_find(a->h, (uintptr_t)old) == a->region)
		arena_fail(a, "the region has not moved from %p to %p", (void *)old, (void *)now);
	return true;
}

/* Pages that were there keep their protection, missing ones are asked for at the new place. */
static void run_remap(struct events *e)
{
	struct arena *a = &e->a;
	size_t half = a->pages / 2;
	uint32_t i;

	events_poke(e);
	for (i = 1; i <= MOVES; i++) {
		arena_visit(a, 0, half, true);
		arena_protect(a, 0, half);
		arena_reset(a, 0, half);
		if (!move(a, i))
			break;
		arena_visit(a, 0, half, false);
		arena_expect(a, 0, half, 0, 1, "after mremap");
		arena_expect(a, half, a->pages, 0, 0, "of pages nobody touched");
	}
	arena_visit(a, half, a->pages, true);
	arena_expect(a, half, a->pages, ARENA_SOME, arena_placed(a), "at the new place");
	events_calm(e);
	arena_check(a, 0, a->pages);
	arena_check_huge(a);
}

const struct event_case event_remap = {
	.name = "mremap",
	.features = UFFDWP_FEATURE_EVENT_REMAP,
	.run = run_remap,
};

/* ---- Discards ---- */

/* Through the library: protected pages have their write operation before their content goes. */
static void discard_safely(struct arena *a, size_t from, size_t to)
{
	uint32_t how = is_shared(a) ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED;
	uint64_t done = 0, len = (to - from) * a->page;
	int rc;

	watchdog_step("calls uffdwp_discard", from);
	rc = uffdwp_discard(a->region, (uintptr_t)arena_page(a, from), len, how, &done);
	if (rc || done != len)
		arena_fail(a, "uffdwp_discard: %s, %" PRIu64 " bytes done", strerror(-rc), done);
	expect_event(a, UFFDWP_EVENT_REMOVE, 1, from, to, a->dst.addr);
	arena_expect(a, from, to, 0, 1, "by uffdwp_discard");
}

/* Behind its back: the event is all that it hears. */
static void discard_raw(struct arena *a, size_t from, size_t to)
{
	watchdog_step("calls madvise", from);
	if (madvise(arena_page(a, from), (to - from) * a->page,
		    is_shared(a) ? MADV_REMOVE : MADV_DONTNEED))
		arena_fail(a, "madvise: %s", strerror(errno));
	expect_event(a, UFFDWP_EVENT_REMOVE, 2, from, to, a->dst.addr);
	arena_expect(a, from, to, 0, 0, "by madvise");
}

/* Discarded pages are missing, come back from the source, and fault as new ones do. */
static void expect_new(struct arena *a, size_t from, size_t to)
{
	arena_refill(a, from, to);
	arena_reset(a, from, to);
	arena_visit(a, from, to, true);
	arena_expect(a, from, to, ARENA_SOME, arena_placed(a), "after a discard");
}

static void prepare(struct arena *a)
{
	arena_visit(a, 0, a->pages, true);
	arena_protect(a, 0, a->pages);
	arena_reset(a, 0, a->pages);
}

static void run_discard(struct events *e)
{
	struct arena *a = &e->a;
	size_t quarter = a->pages / 4;

	prepare(a);
	events_poke(e);
	discard_safely(a, 0, quarter);
	discard_raw(a, quarter, 2 * quarter);
	/*
	 * What was not discarded is protected as before, what was is new. Moved pages need their
	 * source back.
	 */
	arena_visit(a, 2 * quarter, a->pages, false);
	arena_expect(a, 2 * quarter, a->pages, 0, 1, "beside a discard");
	expect_new(a, 0, 2 * quarter);
	events_calm(e);
	arena_check(a, 0, a->pages);
}

const struct event_case event_discard = {
	.name = "discard",
	.features = UFFDWP_FEATURE_EVENT_REMOVE,
	.run = run_discard,
	.copies = true, /* a page that was discarded under protection can not be moved in */
};

/* ---- Discards under writers ---- */

struct writer {
	struct events *e;
	_Atomic bool stop;
};

/*
 * Of pages that are discarded meanwhile only the faults matter, so nothing is locked or compared.
 */
static void *write_wildly(void *arg)
{
	struct writer *w = arg;
	struct arena *a = &w->e->a;
	struct rng r = rng_make(w->e->o->seed, 77);

	watchdog_enter("writer", 0);
	while (!atomic_load(&w->stop)) {
		size_t nr = rng_below(&r, a->pages);

		events_touch(a, nr, nr + 1);
	}
	watchdog_leave();
	return NULL;
}

static void disturb(struct events *e, struct rng *r)
{
	struct arena *a = &e->a;
	size_t from = rng_below(r, a->pages - 1), n = 1 + rng_below(r, a->pages / 4);
	uint64_t at = (uintptr_t)arena_page(a, from);
	int rc = 0;

	if (from + n > a->pages)
		n = a->pages - from;
	watchdog_step("disturbs from page", from);
	switch (rng_below(r, 3)) {
	case 0:
		rc = madvise(arena_page(a, from), n * a->page,
			     is_shared(a) ? MADV_REMOVE : MADV_DONTNEED);
		break;
	case 1:
		rc = uffdwp_discard(a->region, at, n * a->page,
				    is_shared(a) ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED,
				    NULL);
		break;
	default:
		rc = uffdwp_protect(a->region, at, n * a->page, NULL);
	}
	if (rc)
		arena_fail(a, "a disturbance of %zu pages from %zu on: %d", n, from, rc);
}

static void run_chaos(struct events *e)
{
	struct rng r = rng_make(e->o->seed, e->round);
	struct writer w = { .e = e };
	struct arena *a = &e->a;
	pthread_t t;
	int i;

	events_poke(e);
	if (pthread_create(&t, NULL, write_wildly, &w)) {
		arena_fail(a, "a thread does not start");
		return;
	}
	for (i = 0; i < 200; i++)
		disturb(e, &r);
	atomic_store(&w.stop, true);
	watchdog_rest("waits for the writer");
	pthread_join(t, NULL);
	watchdog_step("goes on", 0);
	events_touch(a, 0, a->pages);
	arena_protect(a, 0, a->pages);
	arena_reset(a, 0, a->pages);
	events_touch(a, 0, a->pages);
	arena_expect(a, 0, a->pages, 0, 1, "when the discards were over");
	events_calm(e);
}

const struct event_case event_chaos = {
	.name = "chaos",
	.features = UFFDWP_FEATURE_EVENT_REMOVE,
	.run = run_chaos,
	.copies = true, /* what was moved once could not come again */
};

/* ---- munmap ---- */

/*
 * Its faults are the kernel's, in a read(2) into the page, so that losing the page is an error
 * and not a signal.
 */
static void *write_until_gone(void *arg)
{
	struct writer *w = arg;
	struct arena *a = &w->e->a;
	size_t nr, from = a->pages / 2;
	struct rng r = rng_make(w->e->o->seed, 78);
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	watchdog_enter("writer", 1);
	do {
		nr = from + rng_below(&r, a->pages - from);
		watchdog_step("reads into page", nr);
	} while (read(fd, (char *)arena_page(a, nr) + 64, 8) == 8);
	close(fd);
	watchdog_leave();
	return NULL;
}

static void unmap(struct arena *a, size_t from, size_t to, uint32_t count)
{
	watchdog_step("calls munmap", from);
	if (munmap(arena_page(a, from), (to - from) * a->page))
		arena_fail(a, "munmap: %s", strerror(errno));
	expect_event(a, UFFDWP_EVENT_UNMAP, count, from, to, a->dst.addr);
}

static void unmap_under_writer(struct events *e)
{
	struct arena *a = &e->a;
	struct writer w = { .e = e };
	size_t half = a->pages / 2;
	pthread_t t;

	if (pthread_create(&t, NULL, write_until_gone, &w)) {
		arena_fail(a, "a thread does not start");
		return;
	}
	usleep(2000);
	unmap(a, half, a->pages, 1);
	watchdog_rest("waits for the writer");
	pthread_join(t, NULL);
	watchdog_step("goes on", 0);
}

static void run_unmap(struct events *e)
{
	struct arena *a = &e->a;
	size_t half = a->pages / 2;
	int rc;

	arena_visit(a, 0, half, true);
	events_poke(e);
	unmap_under_writer(e);
	if (uffdwp_region_len(a->region) != half * a->page)
		arena_fail(a, "the region has %" PRIu64 " bytes after its half was unmapped",
			   uffdwp_region_len(a->region));
	arena_protect(a, 0, half);
	arena_reset(a, 0, half);
	arena_visit(a, 0, half, false);
	arena_expect(a, 0, half, 0, 1, "after the other half was unmapped");
	arena_check(a, 0, half);
	unmap(a, 0, half, 2);
	rc = uffdwp_region_remove(a->region);
	if (rc)
		arena_fail(a, "removing a region with nothing left: %s", strerror(-rc));
	/* So that its place is not unmapped again, when somebody else may be there. */
	a->dst.addr = NULL;
	events_calm(e);
}

const struct event_case event_unmap = {
	.name = "munmap",
	.features = UFFDWP_FEATURE_EVENT_UNMAP,
	.run = run_unmap,
};
