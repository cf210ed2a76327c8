/* SPDX-License-Identifier: MIT */
/* Layers as seen from below: writes, discards and events reach them here. The design is in layer.h. */
#include "layer.h"

#include "piece.h"
#include "util.h"

/* Bits [first, first + n) of a bitmap; relaxed: the page's state, or the stripe, orders them. */
static void set_bits(_Atomic uint64_t *w, uint64_t first, uint64_t n)
{
	while (n) {
		uint64_t off = first % 64, k = min_u64(n, 64 - off);
		uint64_t m = (k == 64 ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1) << off;

		/* Most writes of a page that counts as written already come from faults that raced. */
		if ((atomic_load_explicit(&w[first / 64], memory_order_relaxed) & m) != m)
			atomic_fetch_or_explicit(&w[first / 64], m, memory_order_relaxed);
		first += k;
		n -= k;
	}
}

void uffdwp__layer_mark(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	if (!n || first >= l->pages)
		return;
	n = min_u64(n, l->pages - first);
	set_bits(l->marks, first, n);
	/*
	 * Always, and after the marks: pairs with who takes the bit. Whoever clears the bit after this sees the
	 * marks, and if it was cleared before, it is set again.
	 */
	for (uint64_t b = first / UFFDWP__BLOCK; l->blocks && b <= (first + n - 1) / UFFDWP__BLOCK;
	     b++)
		atomic_fetch_or_explicit(&l->blocks[b / 64], UINT64_C(1) << (b % 64),
					 memory_order_release);
}

void uffdwp__layers_mark(struct uffdwp_region *r, uint64_t first, uint64_t n)
{
	for (int who = 0; who < UFFDWP__LAYERS; who++) {
		struct uffdwp__layer *l = uffdwp__layer(r, who);

		if (l)
			uffdwp__layer_mark(l, first, n);
	}
}

int uffdwp__layers_write(struct uffdwp_region *r, uint64_t first, uint64_t n,
			 const struct uffdwp_fault *f)
{
	for (int who = 0; who < UFFDWP__LAYERS; who++) {
		struct uffdwp__layer *l = uffdwp__layer(r, who);

		/* Only the first layer ever puts off, so who resumes has nothing left to ask. */
		if (l && l->write && l->write(l, first, n, f) == UFFDWP_LATER)
			return UFFDWP_LATER;
	}
	uffdwp__layers_mark(r, first, n);
	return 0;
}

static void suspect(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	uffdwp__layer_mark(l, first, n);
	if (!l->suspects || first >= l->pages)
		return;
	set_bits(l->suspects, first, min_u64(n, l->pages - first));
	/* Pairs with the acquire in uffdwp__layer_collect(). */
	atomic_store_explicit(&l->suspicious, 1, memory_order_release);
}

static bool is_suspect(const struct uffdwp__layer *l, uint64_t page)
{
	return atomic_load_explicit(&l->suspects[page / 64], memory_order_relaxed) >> (page % 64) &
	       1;
}

static void doubt(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	if (!uffdwp__events_settled(l->r->h)) {
		uffdwp__layer_mark(l, first, n);
		return;
	}
	/* Pairs with suspect(). */
	if (!atomic_load_explicit(&l->suspicious, memory_order_acquire))
		return;
	for (uint64_t i = first; i < first + n; i++)
		if (is_suspect(l, i))
			uffdwp__layer_mark(l, i, 1);
}

void uffdwp__layer_doubt(const struct uffdwp__layer *by, uint64_t first, uint64_t n)
{
	unsigned int phase;

	/* With async protection the kernel's books tell what is not protected any more. */
	if (!by->suspects || !by->r->pages.n)
		return;
	phase = uffdwp__enter(by->r->h);
	for (int who = 0; who < UFFDWP__LAYERS; who++) {
		struct uffdwp__layer *l = uffdwp__layer(by->r, who);

		if (l && l != by && l->suspects)
			doubt(l, first, n);
	}
	uffdwp__leave(by->r->h, phase);
}

/* The pages of an event, also those that it meets in part. */
static void suspect_range(struct uffdwp__layer *l, const struct uffdwp_event *e)
{
	uint64_t first = uffdwp__page_of(l->r, e->addr);
	uint64_t last = uffdwp__page_of(l->r, e->addr + e->len - 1);

	suspect(l, first, last - first + 1);
}

void uffdwp__layers_event(struct uffdwp_region *r, const struct uffdwp_event *e)
{
	for (int who = 0; who < UFFDWP__LAYERS; who++) {
		struct uffdwp__layer *l = uffdwp__layer(r, who);

		if (l && e->kind == UFFDWP_EVENT_REMOVE)
			suspect_range(l, e);
		if (l && l->event)
			l->event(l, e);
	}
}
