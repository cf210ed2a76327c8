/* SPDX-License-Identifier: MIT */
/*
 * Discards, unmapping and moving during a snapshot: what can be saved in time is, the rest ends it.
 */
#include "snapshot_event.h"

#include "piece.h"
#include "snapshot_save.h"
#include "util.h"

/* Saves what of a range about to be discarded is not saved, as far as it can be done now. */
static void save_range(struct uffdwp__part *p, uint64_t first, uint64_t end)
{
	struct uffdwp_region *r = p->layer.r;

	while (!uffdwp__snapshot_stopped(p->s) &&
	       (first = uffdwp__snapshot_unsaved(p, first, end)) < end) {
		uint64_t n = uffdwp__snapshot_unsaved_run(p, first, min_u64(end - first, 16));

		bool ok = true;

		n = uffdwp__pages_claim(&r->pages, first, n);
		if (n)
			ok = !uffdwp__snapshot_save(p, first, n, UFFDWP__FAULT, SNAP_BY_FAULT);
		if (n && uffdwp__pages_unlock(&r->pages, first, n, UFFDWP__ARMED))
			uffdwp__wake(r->h, uffdwp__addr_of(r, first), uffdwp__part_bytes(p, n));
		if (!ok)
			return;
		first += n ? n : 1;
	}
}

/*
 * Anonymous memory proves itself: what is copied after the discard is found unprotected. So here
 * what can be saved in time is, and nothing is decided. Of file memory, and where the kernel does not tell, a page that is not saved by
 * now may be gone, and nothing will tell.
 */
static void discarded(struct uffdwp__part *p, uint64_t first, uint64_t end)
{
	uint64_t i;

	if (uffdwp__snapshot_proves(p)) {
		save_range(p, first, end);
		return;
	}
	i = uffdwp__snapshot_unsaved(p, first, end);
	if (i < end)
		uffdwp__snapshot_stop(p->s, UFFDWP_SNAPSHOT_CANCELLED,
				      UFFDWP_SNAPSHOT_WHY_DISCARDED, 0, p, i,
				      uffdwp__snapshot_unsaved_run(p, i, end - i));
}

/* Of what went away, or moved, before it was saved there is no image. */
static void gone(struct uffdwp__part *p, const struct uffdwp_event *e, uint64_t first, uint64_t end)
{
	bool sealed = uffdwp__snapshot_phase(p->s) == UFFDWP__SEALED;
	uint64_t i = first;

	if (sealed && p->s->strategy == UFFDWP_SNAPSHOT_PRECOPY)
		return;
	if (sealed)
		i = uffdwp__snapshot_unsaved(p, first, end);
	if (i < end)
		uffdwp__snapshot_stop(p->s, UFFDWP_SNAPSHOT_CANCELLED,
				      e->kind == UFFDWP_EVENT_REMAP ? UFFDWP_SNAPSHOT_WHY_MOVED
								    : UFFDWP_SNAPSHOT_WHY_UNMAPPED,
				      0, p, i, end - i);
}

/*
 * The event tells old addresses, and a region that was moved has its new base already. Before the
 * seal a discard is a write, which the layer has marked.
 */
void uffdwp__snapshot_event(struct uffdwp__layer *l, const struct uffdwp_event *e)
{
	struct uffdwp__part *p = (struct uffdwp__part *)l;
	uint64_t base = atomic_load_explicit(&l->r->base, memory_order_relaxed), first, end;

	if (uffdwp__snapshot_stopped(p->s))
		return;
	if (e->kind == UFFDWP_EVENT_REMAP && e->whole)
		base -= e->to - e->addr;
	first = (e->addr - base) >> l->r->shift;
	end = min_u64(((e->addr + e->len - 1 - base) >> l->r->shift) + 1, l->pages);
	if (e->kind != UFFDWP_EVENT_REMOVE)
		gone(p, e, first, end);
	else if (p->s->strategy == UFFDWP_SNAPSHOT_COW &&
		 uffdwp__snapshot_phase(p->s) == UFFDWP__SEALED)
		discarded(p, first, end);
}
