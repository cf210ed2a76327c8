/* SPDX-License-Identifier: MIT */
/*
 * What happens at the faults of a bounce, and how a page is placed. These run in whatever serves
 * the faults, also in a signal handler: they count in atomics, post semaphores, and call the
 * library.
 */
#include "bounce.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* The last quarter of a slice, where missing pages can be protected before they come. */
bool bounce_marked(const struct bounce *b, size_t nr)
{
	return b->marks && nr % b->slice_pages >= b->slice_pages - b->slice_pages / 4;
}

/*
 * A huge page stays one only if it is moved; the page moved is a copy, because the
 * source is still compared with. Only the copier calls it then, so the staging page is its own.
 */
static int place_huge(struct bounce *b, struct uffdwp_region *r, size_t nr, uint64_t to)
{
	void *stage = bounce_page(b, b->staging, nr);

	memcpy(stage, bounce_page(b, b->src, nr), b->page);
	return uffdwp_move(r, to, (uintptr_t)stage, b->page, NULL);
}

int bounce_place(struct bounce *b, struct uffdwp_region *r, size_t nr)
{
	uint64_t to = (uintptr_t)bounce_page(b, b->dst, nr), done = 0;
	uint32_t flags = bounce_marked(b, nr) ? 0 : UFFDWP_COPY_WP;
	int rc;

	if (b->staging)
		return place_huge(b, r, nr, to);
	rc = uffdwp_copy(r, to, bounce_page(b, b->src, nr), b->page, flags, &done);
	if (!rc && done != b->page)
		bounce_fail(b, "page %zu: copy succeeded with %" PRIu64 " bytes", nr, done);
	return rc;
}

static void ask(struct bounce *b, size_t nr)
{
	struct slice *s = &b->slice[nr / b->slice_pages];

	if (atomic_exchange(&b->asked_once[nr], true))
		return;
	atomic_store(&s->queue[atomic_fetch_add(&s->tail, 1)], nr + 1);
	sem_post(&s->asked);
}

/* Which of the two places a page changes from bounce to bounce. */
static bool left_to_copier(const struct bounce *b, size_t nr)
{
	struct rng r = rng_make(b->o->seed ^ b->round, nr);

	return b->staging || rng_next(&r) & 1;
}

static bool plausible(struct bounce *b, const struct uffdwp_fault *f, size_t pages)
{
	if (f->offset % b->page == 0 && f->offset + f->len <= b->dst->size && f->len &&
	    f->len <= pages * b->page && f->addr == (uintptr_t)b->dst->addr + f->offset &&
	    f->mem == b->dst->addr + f->offset)
		return true;
	bounce_fail(b,
		    "fault kind %u with impossible address %#" PRIx64 " offset %" PRIu64
		    " length %" PRIu64,
		    f->kind, f->addr, f->offset, f->len);
	return false;
}

static int on_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct bounce *b = ctx;
	size_t nr = f->offset / b->page;
	int rc;

	if (!plausible(b, f, 1))
		return UFFDWP_LATER;
	atomic_fetch_add(&b->missing[nr], 1);
	ask(b, nr);
	if (left_to_copier(b, nr))
		return UFFDWP_LATER;
	rc = bounce_place(b, r, nr);
	/* The copier has been about to place it for long: then that one will wake. */
	return rc == -EBUSY ? UFFDWP_LATER : rc;
}

/* Nobody has written to it since it was placed, so it is still what it was copied from. */
static void compare(struct bounce *b, struct uffdwp_region *r, size_t nr)
{
	const char *src = bounce_page(b, b->src, nr);
	uint64_t at = (uintptr_t)bounce_page(b, b->dst, nr);
	char buf[4096];
	size_t i;
	int rc;

	for (i = 0; i < b->page; i += sizeof(buf)) {
		rc = uffdwp_read(r, at + i, buf, sizeof(buf), NULL);
		if (rc || memcmp(buf, src + i, sizeof(buf))) {
			bounce_fail(b, "page %zu: not what was copied, before its first write", nr);
			return;
		}
	}
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct bounce *b = ctx;
	size_t nr = f->offset / b->page, end = nr + f->len / b->page;

	if (!plausible(b, f, b->o->run))
		return 0;
	for (; nr < end; nr++) {
		if (!atomic_fetch_add(&b->written[nr], 1) && !b->staging && b->mode & BOUNCE_VERIFY)
			compare(b, r, nr);
	}
	return 0;
}

const struct uffdwp_ops bounce_ops = {
	.sz = sizeof(bounce_ops),
	.missing = on_missing,
	.write = on_write,
};
