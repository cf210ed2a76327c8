/* SPDX-License-Identifier: MIT */
/*
 * Placing pages that are missing: by copying, as zeros, from the page cache, by moving, as
 * poison.
 */
#include <errno.h>

#include "piece.h"
#include "sys.h"
#include "util.h"

enum place { PLACE_COPY, PLACE_ZERO, PLACE_CONTINUE, PLACE_MOVE, PLACE_POISON };

/*
 * MOVE can neither protect nor replace a marker; where src is ours, copying and discarding comes
 * to the same.
 */
static int64_t move_protected(struct uffdwp_region *r, uint64_t addr, uint64_t src)
{
	int64_t n;

	if (r->h->source == UFFDWP_SOURCE_ADOPTED)
		return -EOPNOTSUPP;
	n = uffdwp__sys_copy(r->h->fd, addr, src, r->kernel_page, true);
	if (n > 0)
		uffdwp__sys_discard((void *)(uintptr_t)src, (size_t)n, false);
	return n;
}

/*
 * To ZEROPAGE, MOVE and POISON a page that is not there but marked as protected is there already. With async protection
 * the kernel alone knows of marks, and they are to stay.
 */
static bool may_be_marker(const struct uffdwp_region *r, int64_t n)
{
	return unlikely(n == -EEXIST) && r->mode & UFFDWP_MODE_WP &&
	       r->h->features & UFFDWP_FEATURE_WP_ASYNC;
}

/*
 * Else a mark on a page that is not booked as protected was carried away by a move while its page was released. False:
 * it can not be, or stays. A page that is there is not protected, and remains so; poison remains too. All that one state
 * stands for: a part of a huge page would be split off.
 */
static bool unmarked(const struct uffdwp_region *r, uint64_t addr, int64_t n)
{
	if (likely(n != -EEXIST) || !r->pages.n)
		return false;
	addr -= uffdwp__offset_of(r, addr) & (r->page_size - 1);
	return !uffdwp__sys_unmark(r->h->fd, addr, r->page_size);
}

/* ZEROPAGE can not protect, and hugetlb does not have it. */
static int64_t place_zeros(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool wp)
{
	int fd = r->h->fd;
	int64_t n;

	if (!wp && r->kernel_page == uffdwp__sys_page_size()) {
		n = uffdwp__sys_zeropage(fd, addr, len);
		if (unmarked(r, addr, n))
			n = uffdwp__sys_zeropage(fd, addr, len);
		if (!may_be_marker(r, n))
			return n;
		wp = true;
	}
	return uffdwp__sys_copy(fd, addr, (uintptr_t)r->zeros, r->kernel_page, wp);
}

static int64_t place_moved(struct uffdwp_region *r, uint64_t addr, uint64_t src, uint64_t len,
			   bool wp)
{
	int64_t n = wp ? -EEXIST : uffdwp__sys_move(r->h->fd, addr, src, len);

	if (!wp && unmarked(r, addr, n))
		n = uffdwp__sys_move(r->h->fd, addr, src, len);
	return wp || may_be_marker(r, n) ? move_protected(r, addr, src) : n;
}

static int64_t place_once(struct uffdwp_region *r, enum place what, uint64_t addr, uint64_t src,
			  uint64_t len, bool wp)
{
	int fd = r->h->fd;

	switch (what) {
	case PLACE_COPY:
		return uffdwp__sys_copy(fd, addr, src, len, wp);
	case PLACE_ZERO:
		return place_zeros(r, addr, len, wp);
	case PLACE_CONTINUE:
		return uffdwp__sys_continue(fd, addr, len, wp);
	case PLACE_MOVE:
		return place_moved(r, addr, src, len, wp);
	default:
		return uffdwp__sys_poison(fd, addr, len);
	}
}

/* A page was there already: the call that failed on it woke nobody. */
static void page_found(struct uffdwp_region *r, uint64_t addr)
{
	uffdwp__count(&r->h->stats, COUNT_EEXIST, 1);
	uffdwp__wake(r->h, addr, r->kernel_page);
}

/*
 * Places [addr, addr + len), up to a page that is there already: -EEXIST then, if one state
 * stands for that page alone; within a larger one it is passed over.
 */
static int place_run(struct uffdwp_region *r, enum place what, uint64_t addr, uint64_t src,
		     uint64_t len, bool wp, uint64_t *done)
{
	struct uffdwp__wait w = { 0 };

	*done = 0;
	while (*done < len) {
		int64_t n = place_once(r, what, addr + *done, src + *done, len - *done, wp);

		if (likely(n > 0)) {
			*done += (uint64_t)n;
			w.count = 0;
		} else if (n == -EEXIST && r->kernel_page < r->page_size) {
			page_found(r, addr + *done);
			*done += r->kernel_page;
		} else if (n != -EAGAIN || !uffdwp__wait_events(r->h, &w)) {
			return (int)n;
		}
	}
	return 0;
}

/* How many pages of the piece, from i on, want the same protection. */
static uint64_t same_kind(const struct uffdwp__piece *p, uint64_t i, bool any)
{
	uint64_t n = 1;

	while (i + n < p->n &&
	       (any || uffdwp__piece_was_armed(p, i + n) == uffdwp__piece_was_armed(p, i)))
		n++;
	return n;
}

/*
 * Poison can not replace a mark: see unmarked(). armed: as the books say, and so it is again if there is a page.
 */
__cold static bool poison_marker(struct uffdwp_region *r, uint64_t addr, bool armed)
{
	struct uffdwp__wait w = { 0 };
	uint64_t done;
	int64_t n;

	do {
		n = uffdwp__sys_unmark(r->h->fd, addr, r->page_size);
		if (!n)
			n = uffdwp__sys_poison(r->h->fd, addr, r->page_size);
	} while (n == -EAGAIN && uffdwp__wait_events(r->h, &w));
	if (n <= 0 && armed)
		uffdwp__writeprotect(r->h, addr, r->page_size, r->kernel_page, true, &done);
	return n > 0;
}

/*
 * Places pages from i on that want the same protection, and unlocks them; what was there stays as
 * it was.
 */
static int place_some(struct uffdwp__piece *p, enum place what, uint64_t src, uint64_t i,
		      bool protect, uint64_t *done)
{
	struct uffdwp_region *r = p->r;
	bool keep = what != PLACE_POISON, armed;
	bool wp = keep && (protect || uffdwp__piece_was_armed(p, i));
	uint64_t n = same_kind(p, i, protect || !keep);
	int err = place_run(r, what, p->addr + (i << r->shift), src + (i << r->shift),
			    n << r->shift, wp, done);
	*done &= ~(r->page_size - 1);
	n = *done >> r->shift;
	uffdwp__piece_unlock(p, i, n, wp ? UFFDWP__ARMED : UFFDWP__FREE);
	if (err != -EEXIST)
		return err;
	armed = uffdwp__piece_was_armed(p, i + n);
	if (what == PLACE_POISON && r->pages.n &&
	    poison_marker(r, p->addr + ((i + n) << r->shift), armed))
		armed = false;
	uffdwp__piece_unlock(p, i + n, 1, armed ? UFFDWP__ARMED : UFFDWP__FREE);
	page_found(r, p->addr + ((i + n) << r->shift));
	*done += r->page_size;
	return 0;
}

static int place_piece(struct uffdwp__piece *p, enum place what, uint64_t src, bool protect,
		       uint64_t *done)
{
	int err = 0;
	uint64_t n;

	for (*done = 0; !err && *done < p->len; *done += n)
		err = place_some(p, what, src, *done >> p->r->shift, protect, &n);
	if (err)
		uffdwp__piece_restore(p, *done >> p->r->shift);
	return err;
}

/*
 * After ENOENT: an event may say where the memory is now, that was read since `before` and is not
 * carried out yet; then it is, and the caller looks again: 0. Not in an operation, which the event may
 * be waiting for. -EAGAIN: it was not carried out in time, and nobody knows.
 */
__cold static int moved_on(struct uffdwp *h, uint32_t before)
{
	struct uffdwp__wait w = { 0 };
	uint32_t now;

	if (uffdwp__serving(h))
		return -ENOENT;
	now = uffdwp__events_now(h);
	if (now == before)
		return -ENOENT;
	while (!uffdwp__events_reached(h, now))
		if (!uffdwp__wait(&w, UFFDWP__BUSY_NS))
			return -EAGAIN;
	return 0;
}

static int place_range(struct uffdwp_region *r, enum place what, uint64_t addr, uint64_t src,
		       uint64_t len, uint32_t flags, uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);
	uint32_t events;

	if (err)
		return err;
	if (flags & ~UFFDWP_COPY_WP)
		return -EINVAL;
	if (flags & UFFDWP_COPY_WP && !(r->mode & UFFDWP_MODE_WP))
		return -EOPNOTSUPP;
	for (uint64_t pos = 0, n = 0; !err && pos < len; pos += n) {
		struct uffdwp__piece p;

		n = 0;
		events = atomic_load_explicit(&r->h->events_done, memory_order_acquire);
		err = uffdwp__piece_lock(&p, r, addr + pos, len - pos, UFFDWP__BUSY_NS);
		if (!err)
			err = place_piece(&p, what, src + pos, flags & UFFDWP_COPY_WP, &n);
		if (unlikely(err == -ENOENT))
			err = moved_on(r->h, events);
		if (done)
			*done += n;
	}
	return err;
}

UFFDWP_PUBLIC int uffdwp_copy(struct uffdwp_region *r, uint64_t addr, const void *src, uint64_t len,
			      uint32_t flags, uint64_t *done)
{
	if (!src) {
		if (done)
			*done = 0;
		return -EINVAL;
	}
	return place_range(r, PLACE_COPY, addr, (uintptr_t)src, len, flags, done);
}

UFFDWP_PUBLIC int uffdwp_zeropage(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				  uint32_t flags, uint64_t *done)
{
	if (r && !r->zeros) {
		int err = uffdwp__check_pages(r, addr, len, done);

		return err ? err : -EOPNOTSUPP; /* without MISSING there is nothing to place */
	}
	return place_range(r, PLACE_ZERO, addr, 0, len, flags, done);
}

UFFDWP_PUBLIC int uffdwp_continue(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				  uint32_t flags, uint64_t *done)
{
	return place_range(r, PLACE_CONTINUE, addr, 0, len, flags, done);
}

static int need_feature(const struct uffdwp_region *r, uint64_t addr, uint64_t len,
			uint64_t feature, uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);

	/* What an adopted descriptor's kernel can do is known only by trying. */
	if (!err && !(r->h->features & feature) && r->h->source != UFFDWP_SOURCE_ADOPTED)
		err = -EOPNOTSUPP;
	return err;
}

UFFDWP_PUBLIC int uffdwp_move(struct uffdwp_region *r, uint64_t addr, uint64_t src, uint64_t len,
			      uint64_t *done)
{
	int err = need_feature(r, addr, len, UFFDWP_FEATURE_MOVE, done);

	if (!err && src & (r->page_size - 1))
		err = -EINVAL;
	/* What can not be moved is copied and discarded, and the event of that would wait for this thread. */
	if (!err && r->h->features & UFFDWP_FEATURE_EVENT_REMOVE && uffdwp__serving(r->h) &&
	    uffdwp__watches(r->h, src, len))
		err = -EDEADLK;
	if (err)
		return err;
	err = place_range(r, PLACE_MOVE, addr, src, len, 0, done);
	/*
	 * The arguments were checked: what is left is memory that can not be moved, or no such
	 * call.
	 */
	return err == -ENOTTY || err == -EINVAL ? -EOPNOTSUPP : err;
}

UFFDWP_PUBLIC int uffdwp_poison(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				uint64_t *done)
{
	int err = need_feature(r, addr, len, UFFDWP_FEATURE_POISON, done);

	if (!err)
		err = place_range(r, PLACE_POISON, addr, 0, len, 0, done);
	return err == -ENOTTY ? -EOPNOTSUPP : err;
}

UFFDWP_PUBLIC int uffdwp_wake(struct uffdwp_region *r, uint64_t addr, uint64_t len)
{
	int err = uffdwp__check_pages(r, addr, len, NULL);

	if (err)
		return err;
	uffdwp__count(&r->h->stats, COUNT_WAKES, 1);
	return uffdwp__sys_wake(r->h->fd, addr, len);
}
