/* SPDX-License-Identifier: MIT */
/*
 * Placing missing pages, in operations and by calls, populating and discarding: what was reported as done is there
 * with its content, what was not is asked for again.
 */
#include "scenes.h"

#include "scene.h"

#define SOURCE UINT64_C(0x5000)
#define WRITTEN UINT64_C(0x6000)

struct place {
	struct uffdwp *h;
	struct uffdwp_region *r;
	struct live_server server;
	char *mem, *source, *movable;
	_Atomic int saved;
};

#define CALL_ERRORS EAGAIN, ENOENT, ESRCH, EBUSY, ECANCELED

/* ---- In operations ---- */

static int place_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	const struct place *p = ctx;

	return uffdwp_copy(r, f->addr, p->source + f->offset, f->len, UFFDWP_COPY_WP, NULL);
}

static int count_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct place *p = ctx;
	char page[PAGE];

	if (uffdwp_read(r, f->addr, page, PAGE, NULL) ||
	    !scene_holds(page, SOURCE + f->offset / PAGE))
		return -EIO;
	atomic_fetch_add(&p->saved, 1);
	return 0;
}

static int place_minor(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)ctx;
	return uffdwp_continue(r, f->addr, f->len, 0, NULL);
}

static bool begin(struct place *p, struct uffdwp_opts o, uint32_t mode, int map)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops),
				  .missing = place_missing,
				  .write = count_write,
				  .minor = place_minor };
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .len = PAGES * PAGE, .mode = mode, .ops = &ops, .ctx = p
	};

	memset(p, 0, sizeof(*p));
	scene_begin();
	p->mem = scene_map(PAGES, map);
	p->source = scene_map(PAGES, MAP_PRIVATE);
	p->movable = scene_map(PAGES, MAP_PRIVATE);
	for (size_t i = 0; i < PAGES; i++) {
		scene_fill(p->source + i * PAGE, SOURCE + i);
		scene_fill(p->movable + i * PAGE, SOURCE + i);
	}
	ro.addr = (uintptr_t)p->mem;
	if (!scene_open(&p->h, &o))
		return false;
	live_serve(&p->server, p->h);
	return scene_add(p->h, &ro, &p->r);
}

static void end(struct place *p)
{
	if (p->r)
		CHECK_EQ(uffdwp_region_remove(p->r), 0);
	if (p->h) {
		live_serve_stop(&p->server);
		CHECK_EQ(uffdwp_close(p->h), 0);
	}
	scene_unmap(p->movable, PAGES);
	scene_unmap(p->source, PAGES);
	scene_unmap(p->mem, PAGES);
	scene_end();
}

/* A handle that failed gives poison, or zeros: a page must not be touched then. */
static void touch_all(struct place *p)
{
	struct scene_writer w;

	scene_write(&w, p->mem, PAGES, 1, WRITTEN);
	scene_written(&w);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(scene_holds(p->mem + i * PAGE, WRITTEN + i));
	if (!scene_error(p->h))
		CHECK_EQ(atomic_load(&p->saved), PAGES);
}

/* Poison of a failed handle kills who touches it; without, the pages are zeros. */
static void missing(uint32_t serve, int map)
{
	static struct place p;

	if (begin(&p, (struct uffdwp_opts){ .serve = serve, .masked = UFFDWP_FEATURE_POISON },
		  UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, map))
		touch_all(&p);
	end(&p);
}

static void missing_threads(void)
{
	missing(UFFDWP_SERVE_THREADS, MAP_PRIVATE);
}

static void missing_caller(void)
{
	missing(UFFDWP_SERVE_CALLER, MAP_SHARED);
}

static void missing_sigbus(void)
{
	missing(UFFDWP_SERVE_SIGBUS, MAP_PRIVATE);
}

/* ---- Minor faults ---- */

/* The pages are in the page cache, by a second mapping, and not in this one. */
static void minor(void)
{
	static struct place p;
	char *other;

	if (!begin(&p, (struct uffdwp_opts){ .threads = 1, .masked = UFFDWP_FEATURE_POISON },
		   UFFDWP_MODE_MINOR, MAP_SHARED)) {
		end(&p);
		return;
	}
	other = mremap(p.mem, 0, PAGES * PAGE, MREMAP_MAYMOVE);
	CHECK(other != MAP_FAILED);
	for (size_t i = 0; i < PAGES; i++)
		scene_fill(other + i * PAGE, SOURCE + i);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(scene_holds(p.mem + i * PAGE, SOURCE + i));
	scene_unmap(other, PAGES);
	end(&p);
}

/* ---- Calls ---- */

static uint64_t at(const struct place *p, size_t page)
{
	return (uintptr_t)p->mem + page * PAGE;
}

/* Pages [0, 1) copied, [1, 2) zeros, [2, 3) moved, [3, 4) copied and protected, [4, 5) poisoned. */
static void calls(void)
{
	static struct place p;
	uint64_t done[5] = { 0 };

	if (begin(&p, (struct uffdwp_opts){ .threads = 1 }, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP,
		  MAP_PRIVATE)) {
		GOOD(uffdwp_protect(p.r, at(&p, 5), 2 * PAGE, NULL), CALL_ERRORS, ECANCELED);
		GOOD(uffdwp_copy(p.r, at(&p, 0), p.source, PAGE, 0, &done[0]), CALL_ERRORS, ENOSPC);
		GOOD(uffdwp_zeropage(p.r, at(&p, 1), PAGE, 0, &done[1]), CALL_ERRORS, ENOSPC);
		GOOD(uffdwp_move(p.r, at(&p, 2), (uintptr_t)p.movable + 2 * PAGE, PAGE, &done[2]),
		     CALL_ERRORS, ENOSPC, EOPNOTSUPP);
		GOOD(uffdwp_copy(p.r, at(&p, 3), p.source + 3 * PAGE, PAGE, UFFDWP_COPY_WP,
				 &done[3]),
		     CALL_ERRORS, ENOSPC);
		GOOD(uffdwp_poison(p.r, at(&p, 4), PAGE, &done[4]), CALL_ERRORS);
		GOOD(uffdwp_poison(p.r, at(&p, 5), PAGE, NULL), CALL_ERRORS);
		GOOD(uffdwp_move(p.r, at(&p, 6), (uintptr_t)p.movable + 6 * PAGE, PAGE, NULL),
		     CALL_ERRORS, ENOSPC, EOPNOTSUPP);
		GOOD(uffdwp_wake(p.r, at(&p, 0), PAGES * PAGE), CALL_ERRORS);
		CHECK(!done[0] || scene_holds(p.mem, SOURCE));
		CHECK(!done[1] || scene_holds(p.mem + PAGE, 0));
		CHECK(!done[2] || scene_holds(p.mem + 2 * PAGE, SOURCE + 2));
		CHECK(!done[3] || scene_holds(p.mem + 3 * PAGE, SOURCE + 3));
		if (done[3]) {
			scene_fill(p.mem + 3 * PAGE, WRITTEN);
			if (!scene_error(p.h))
				CHECK_EQ(atomic_load(&p.saved), 1);
		}
	}
	end(&p);
}

/* ---- Populating and discarding ---- */

static void discard(int map, uint32_t how)
{
	static struct place p;
	uint64_t done = 0;

	if (begin(&p, (struct uffdwp_opts){ .threads = 1 }, UFFDWP_MODE_WP, map)) {
		if (GOOD(uffdwp_populate(p.r, at(&p, 0), PAGES * PAGE, &done), CALL_ERRORS, EFAULT))
			CHECK_EQ(done, PAGES * PAGE);
		for (size_t i = 0; i < PAGES; i++)
			scene_fill(p.mem + i * PAGE, SOURCE + i);
		if (!GOOD(uffdwp_protect(p.r, at(&p, 0), PAGES * PAGE, NULL), CALL_ERRORS,
			  ECANCELED))
			uffdwp_unprotect(p.r, at(&p, 0), PAGES * PAGE, NULL);
		done = 0;
		GOOD(uffdwp_discard(p.r, at(&p, 0), PAGES * PAGE, how, &done), CALL_ERRORS,
		     ECANCELED, ENOSPC);
		for (size_t i = 0; i < PAGES; i++)
			CHECK(scene_holds(p.mem + i * PAGE, i < done / PAGE ? 0 : SOURCE + i) ||
			      (i >= done / PAGE && scene_holds(p.mem + i * PAGE, 0)));
	}
	end(&p);
}

static void discard_anonymous(void)
{
	discard(MAP_PRIVATE, UFFDWP_DISCARD_DONTNEED);
}

static void discard_shared(void)
{
	discard(MAP_SHARED, UFFDWP_DISCARD_REMOVE);
}

/* Without MADV_POPULATE_READ: by reading. The filter can not know the kernel's version, but a call's place. */
static void populate_old(void)
{
	static struct place p;
	uint64_t done = 0;

	if (begin(&p, (struct uffdwp_opts){ .threads = 1, .masked = UFFDWP_FEATURE_WP_UNPOPULATED },
		  UFFDWP_MODE_WP, MAP_PRIVATE)) {
		if (GOOD(uffdwp_protect(p.r, at(&p, 0), PAGES * PAGE, &done), CALL_ERRORS,
			 ECANCELED, EFAULT))
			CHECK_EQ(done, PAGES * PAGE);
		else if (fault_current->nr == SYS_madvise && fault_current->error == EINVAL)
			FAIL("a kernel without MADV_POPULATE_READ is not done without it");
		for (size_t i = 0; i < PAGES; i++)
			scene_fill(p.mem + i * PAGE, WRITTEN);
	}
	end(&p);
}

const struct fault_scenario scenes_place[] = {
	{ "missing-threads", missing_threads, false },
	{ "missing-caller", missing_caller, false },
	{ "missing-sigbus", missing_sigbus, false },
	{ "minor", minor, false },
	{ "calls", calls, false },
	{ "discard-anon", discard_anonymous, false },
	{ "discard-shared", discard_shared, false },
	{ "populate-old", populate_old, false },
	{ NULL, NULL, false },
};
