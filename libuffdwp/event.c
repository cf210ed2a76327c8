/* SPDX-License-Identifier: MIT */
/*
 * Events. What each guarantees (Linux, fs/userfaultfd.c; the probe of uffd-stress checks it):
 *
 *	REMAP   after the move; the caller of mremap waits until it is read; then UNMAP for the old place
 *	REMOVE  before the content goes, but reading it lets it go
 *	UNMAP   after the unmapping
 *	FORK    before fork returns in the parent
 *
 * Page faults are handed out before events that were queued earlier.
 *
 * Each region that an event meets is changed under the lock, then its operation is called as a
 * reader, so that it can not be freed meanwhile.
 */
#include "event.h"

#include <errno.h>

#include "call.h"
#include "layer.h"
#include "sys.h"
#include "util.h"

struct change {
	uint32_t kind, number;
	uint64_t start, end, to;
};

/* Whether a region was there when the event was read. */
static bool concerns(const struct change *c, const struct uffdwp_region *r)
{
	return (int32_t)(c->number - r->born) > 0;
}

static void tell(struct uffdwp *h, struct uffdwp_region *r, const struct uffdwp_event *e)
{
	const struct uffdwp__program *p = uffdwp__program(r);
	int slot, ret;

	uffdwp__layers_event(r, e);
	if (!p->ops.event || uffdwp__error(h))
		return;
	slot = uffdwp__serving_begin(h);
	ret = p->ops.event(r, e, p->ctx);
	uffdwp__serving_end(h, slot);
	if (ret)
		uffdwp__fail(h, ret < 0 ? ret : -EINVAL);
}

/* ---- The books; under the lock ---- */

static void cut(struct uffdwp *h, struct uffdwp_region *r, uint64_t start, uint64_t end)
{
	if (!uffdwp__table_cut(h, r, start, end))
		atomic_store_explicit(&r->gone, true, memory_order_relaxed);
}

/* ---- One region ---- */

/* What is not there any more has nothing to deliver: whole granules only. */
static void forget(struct uffdwp_region *r, uint64_t start, uint64_t end)
{
	uint64_t base = atomic_load_explicit(&r->base, memory_order_relaxed);
	uint64_t i = (start - base + r->page_size - 1) >> r->shift;
	uint64_t stop = (end - base) >> r->shift;

	while (r->pages.n && (i = uffdwp__pages_next(&r->pages, i, stop)) < stop) {
		uint64_t n = uffdwp__pages_claim(&r->pages, i, stop - i);

		if (n)
			uffdwp__pages_unlock(&r->pages, i, n, UFFDWP__FREE);
		i += n ? n : 1;
	}
}

static void apply(struct uffdwp *h, struct uffdwp_region *r, const struct change *c,
		  const struct uffdwp_event *e)
{
	if (c->kind == UFFDWP_EVENT_REMAP && e->whole)
		uffdwp__table_move(h, r, c->to - c->start);
	else if (c->kind == UFFDWP_EVENT_REMAP || c->kind == UFFDWP_EVENT_UNMAP)
		cut(h, r, e->addr, e->addr + e->len);
}

/*
 * The first region at or after *cursor that c meets: changes it, tells it. False when there is
 * none.
 */
static bool next_region(struct uffdwp *h, const struct change *c, uint64_t *cursor)
{
	const struct uffdwp__table *t;
	struct uffdwp_region *r = NULL;
	struct uffdwp_event e = { .kind = c->kind };
	unsigned int phase;

	pthread_mutex_lock(&h->lock);
	t = atomic_load_explicit(&h->table, memory_order_relaxed);
	for (uint32_t i = 0; i < t->n && !r; i++) {
		if (t->e[i].start >= c->end || t->e[i].end <= *cursor || !concerns(c, t->e[i].r))
			continue;
		r = t->e[i].r;
		e.addr = max_u64(t->e[i].start, c->start);
		e.len = min_u64(t->e[i].end, c->end) - e.addr;
		e.whole = e.len == atomic_load_explicit(&r->len, memory_order_relaxed);
		e.to = c->kind == UFFDWP_EVENT_REMAP ? c->to + (e.addr - c->start) : 0;
		*cursor = e.addr + e.len;
		apply(h, r, c, &e);
	}
	phase = uffdwp__enter(h); /* before the lock is given up: r can not be freed from here on */
	pthread_mutex_unlock(&h->lock);
	if (r)
		tell(h, r, &e);
	/* Who sleeps at an address that is gone is woken by nobody else, and not by the kernel. */
	if (r && c->kind != UFFDWP_EVENT_REMOVE)
		uffdwp__wake(h, e.addr, e.len);
	if (r && c->kind == UFFDWP_EVENT_REMAP && !e.whole)
		uffdwp__let_go(r, e.to, e.len); /* what moved away alone is nobody's */
	if (r && (c->kind == UFFDWP_EVENT_UNMAP || (c->kind == UFFDWP_EVENT_REMAP && !e.whole)))
		forget(r, e.addr, e.addr + e.len);
	uffdwp__leave(h, phase);
	return r;
}

static void for_each(struct uffdwp *h, struct change c)
{
	uint64_t cursor = c.start;

	while (cursor < c.end && next_region(h, &c, &cursor))
		;
}

/* ---- Fork ---- */

/*
 * Closing wakes the child's threads. It unprotects the child's memory too, but before Linux 6.9 the marks
 * stay in the page table, and a write to a marked page of hugetlb then faults for ever.
 */
static void leave_alone(struct uffdwp *h, int fd)
{
	const struct uffdwp__table *t;

	pthread_mutex_lock(&h->lock);
	t = atomic_load_explicit(&h->table, memory_order_relaxed);
	for (uint32_t i = 0; i < t->n; i++) {
		uint64_t start = t->e[i].start, len = t->e[i].end - start;

		if (!(t->e[i].r->mode & UFFDWP_MODE_WP))
			continue;
		/* Before 6.0 unregistering leaves them too. */
		if (!(h->features & UFFDWP_FEATURE_WP_UNPOPULATED))
			uffdwp__sys_writeprotect(fd, start, len, false);
		uffdwp__sys_unregister(fd, start, len);
	}
	pthread_mutex_unlock(&h->lock);
	uffdwp__sys_close(fd);
}

static void forked(struct uffdwp *h, int fd)
{
	struct uffdwp *child;
	int err, slot;

	if (!h->forked) {
		leave_alone(h, fd);
		return;
	}
	err = h->child(h, fd, &child);
	if (err) {
		leave_alone(h, fd);
		uffdwp__fail(h, err);
		return;
	}
	slot = uffdwp__serving_begin(h);
	h->forked(h, child, h->forked_arg);
	uffdwp__serving_end(h, slot);
}

static void carry_out(struct uffdwp *h, struct uffdwp__stats *st, const struct uffd_msg *m)
{
	struct change c = { .number = m->reserved3 };

	switch (m->event) {
	case UFFD_EVENT_FORK:
		uffdwp__count(st, COUNT_FORK, 1);
		forked(h, (int)m->arg.fork.ufd);
		return;
	case UFFD_EVENT_REMAP:
		uffdwp__count(st, COUNT_REMAP, 1);
		c.kind = UFFDWP_EVENT_REMAP;
		c.start = m->arg.remap.from;
		c.end = m->arg.remap.from + m->arg.remap.len;
		c.to = m->arg.remap.to;
		/* Nothing is moved onto itself: it would be met again where it is now. */
		if (c.to - c.start < m->arg.remap.len || c.start - c.to < m->arg.remap.len)
			return;
		/*
		 * What was there is unmapped; with EVENT_UNMAP that is told later, which is too
		 * late.
		 */
		for_each(h, (struct change){ UFFDWP_EVENT_UNMAP, c.number, c.to,
					     c.to + m->arg.remap.len, 0 });
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		uffdwp__count(st, m->event == UFFD_EVENT_REMOVE ? COUNT_REMOVE : COUNT_UNMAP, 1);
		c.kind = m->event == UFFD_EVENT_REMOVE ? UFFDWP_EVENT_REMOVE : UFFDWP_EVENT_UNMAP;
		c.start = m->arg.remove.start;
		c.end = m->arg.remove.end;
		break;
	default: /* a newer kernel's, which was not asked for */
		return;
	}
	for_each(h, c);
}

/*
 * Without a stash there is no order of events, as there are to be none: the process that the descriptor came from has
 * told of other features than it has obtained. What it maps where is not known any more.
 */
__cold static void unannounced(struct uffdwp *h, const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_FORK)
		leave_alone(h, (int)m->arg.fork.ufd);
	if (m->event == UFFD_EVENT_FORK || m->event == UFFD_EVENT_REMAP ||
	    m->event == UFFD_EVENT_REMOVE || m->event == UFFD_EVENT_UNMAP)
		uffdwp__fail(h, -EPROTO);
}

void uffdwp__serve_event(struct uffdwp *h, struct uffdwp__stats *st, const struct uffd_msg *m)
{
	if (unlikely(!h->stash)) {
		unannounced(h, m);
		return;
	}
	uffdwp__events_turn(h, m->reserved3);
	carry_out(h, st, m);
	uffdwp__events_done(h, m->reserved3);
}
