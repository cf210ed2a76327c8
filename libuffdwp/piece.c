/* SPDX-License-Identifier: MIT */
/*
 * Pieces of ranges: checking arguments, waiting within bounds, locking pages and giving them up; and what needs no
 * states: protecting, waking, giving memory back, or the descriptor.
 */
#include "piece.h"

#include <errno.h>

#include "sys.h"
#include "util.h"

#define EAGAIN_NS UINT64_C(5000000000)
#define AT_ONCE 256   /* tries between two reads */
#define READ_EVERY 32 /* the same, of who waits for a page */

/* ---- Waiting for something that another thread does, but not for ever ---- */

/* False when the time is over. */
bool uffdwp__wait(struct uffdwp__wait *w, uint64_t limit)
{
	uint64_t now = uffdwp__sys_now();

	if (!w->count)
		w->until = now + limit;
	uffdwp__pause(w->count++);
	return now < w->until;
}

/* After EAGAIN: an event is unread, or was read and its thread has not run yet. */
bool uffdwp__wait_events(struct uffdwp *h, struct uffdwp__wait *w)
{
	/*
	 * Whoever caused the event that was read last runs on just now, on another CPU, perhaps
	 * to cause the next: the call goes through only in between.
	 */
	if (w->tries++ % AT_ONCE)
		return true;
	uffdwp__count(&h->stats, COUNT_EAGAIN, 1);
	uffdwp__stash_fill(h);
	return uffdwp__wait(w, EAGAIN_NS);
}

/*
 * Who has the page, as a discard, may be waiting for an event to be read, and nobody else be there to read it. Which
 * lets it go on; the event is carried out by who serves next.
 */
bool uffdwp__wait_page(struct uffdwp *h, struct uffdwp__wait *w, uint64_t limit)
{
	if (w->tries++ % READ_EVERY == READ_EVERY - 1)
		uffdwp__stash_fill(h);
	return uffdwp__wait(w, limit);
}

/* ---- Protection without states ---- */

static int writeprotect_once(struct uffdwp *h, uint64_t addr, uint64_t len, bool on)
{
	struct uffdwp__wait w = { 0 };
	int err;

	do
		err = uffdwp__sys_writeprotect(h->fd, addr, len, on);
	while (unlikely(err == -EAGAIN) && uffdwp__wait_events(h, &w));
	return err;
}

/*
 * ENOENT does not say where, and leaves what is before it done: halving finds the page. Nothing
 * is done twice but the part that failed.
 */
int uffdwp__writeprotect(struct uffdwp *h, uint64_t addr, uint64_t len, uint64_t page, bool on,
			 uint64_t *done)
{
	uint64_t step = len;

	*done = 0;
	while (*done < len) {
		uint64_t n = min_u64(step, len - *done);
		int err = writeprotect_once(h, addr + *done, n, on);

		if (likely(!err)) {
			*done += n;
		} else if (err != -ENOENT || n <= page) {
			return err;
		} else {
			step = (n / 2 + page - 1) & ~(page - 1);
		}
	}
	return 0;
}

__cold void uffdwp__unprotect_all(struct uffdwp *h, uint64_t addr, uint64_t len, uint64_t page)
{
	uint64_t piece = max_u64(UFFDWP__PIECE, page);

	for (uint64_t pos = 0; pos < len;) {
		uint64_t n = min_u64(piece - (addr + pos) % piece, len - pos), done;
		int err = uffdwp__writeprotect(h, addr + pos, n, page, false, &done);

		pos += done;
		if (err == -ENOENT)
			pos += page;
		else if (err)
			return;
	}
}

void uffdwp__wake(struct uffdwp *h, uint64_t addr, uint64_t len)
{
	int err;

	uffdwp__count(&h->stats, COUNT_WAKES, 1);
	err = uffdwp__sys_wake(h->fd, addr, len);
	/* Refused for ever, as by a filter: who sleeps there would sleep on. */
	if (unlikely(err))
		uffdwp__give_up(h, err);
}

/*
 * Leaves no thread asleep: unregistering alone wakes nobody who waits on a protected page, and a
 * thread that is woken while the range is registered would sleep again. Unregistering drops
 * protection since Linux 6.0; it does not wait for events to be read, as unprotecting does.
 */
__cold void uffdwp__let_go(struct uffdwp_region *r, uint64_t addr, uint64_t len)
{
	if (r->mode & UFFDWP_MODE_WP && !(r->h->features & UFFDWP_FEATURE_WP_UNPOPULATED))
		uffdwp__unprotect_all(r->h, addr, len, r->kernel_page);
	uffdwp__sys_unregister(r->h->fd, addr, len);
	uffdwp__wake(r->h, addr, len);
}

/* ---- Giving the descriptor up ---- */

/* Missing pages that can be made an error are; a page that is there stops a call, and is passed over. */
__cold static void poison_missing(const struct uffdwp__entry *e)
{
	const struct uffdwp *h = e->r->h;
	uint64_t pos = e->start;

	if (!uffdwp__places(e->r) ||
	    (!(h->features & UFFDWP_FEATURE_POISON) && h->source != UFFDWP_SOURCE_ADOPTED))
		return;
	while (pos < e->end) {
		int64_t n = uffdwp__sys_poison(h->fd, pos, e->end - pos);

		if (n < 0 && n != -EEXIST)
			return;
		pos += n > 0 ? (uint64_t)n : e->r->kernel_page;
	}
}

/*
 * What is not registered does not fault. And with the last descriptor of a userfaultfd the kernel drops its
 * protection and wakes everybody, also who waits for an event to be read. Its number stays in use, so that no
 * other file of the program comes by it; who polls the old one holds it until kicked.
 */
__cold void uffdwp__give_up(struct uffdwp *h, int err)
{
	const struct uffdwp__table *t;
	unsigned int phase;
	int none = 0;

	atomic_compare_exchange_strong_explicit(&h->error, &none, err, memory_order_relaxed,
						memory_order_relaxed);
	/* seq_cst, and before the kick: who is woken by that sees it. */
	if (atomic_exchange_explicit(&h->given_up, true, memory_order_seq_cst))
		return;
	phase = uffdwp__enter(h);
	t = atomic_load_explicit(&h->table, memory_order_seq_cst);
	for (uint32_t i = 0; i < t->n; i++) {
		poison_missing(&t->e[i]);
		/* This wakes too, where a filter refuses to, and a program's loop holds the descriptor in poll(2). */
		if (t->e[i].r->mode & UFFDWP_MODE_WP)
			uffdwp__sys_writeprotect(h->fd, t->e[i].start, t->e[i].end - t->e[i].start,
						 false);
		uffdwp__let_go(t->e[i].r, t->e[i].start, t->e[i].end - t->e[i].start);
	}
	uffdwp__leave(h, phase);
	uffdwp__sys_replace(h->fd, h->kick);
	uffdwp__sys_eventfd_add(h->kick);
}

/* ---- Arguments ---- */

int uffdwp__check_range(const struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	uint64_t start, size;
	int err;

	if (done)
		*done = 0;
	if (!r)
		return -EINVAL;
	err = uffdwp__check(r->h);
	if (err)
		return err;
	if (atomic_load_explicit(&r->gone, memory_order_relaxed))
		return -ENOENT;
	start = uffdwp__start_of(r);
	size = atomic_load_explicit(&r->len, memory_order_relaxed);
	if (!len || addr < start || addr - start >= size || len > size - (addr - start))
		return -EINVAL;
	return 0;
}

int uffdwp__check_pages(const struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	int err = uffdwp__check_range(r, addr, len, done);

	if (!err && unlikely(atomic_load_explicit(&r->h->given_up, memory_order_relaxed)))
		err = -ECANCELED;
	/* A region of huge granules may have moved to where they are not aligned any more. */
	if (!err && ((uffdwp__offset_of(r, addr) | len) & (r->page_size - 1)))
		err = -EINVAL;
	return err;
}

/* ---- Locking a piece of a range ---- */

/* False: the first page is BUSY. */
static bool lock_some(struct uffdwp__piece *p, struct uffdwp_region *r, uint64_t addr, uint64_t len)
{
	uint64_t most = max_u64(UFFDWP__PIECE, r->page_size);

	p->r = r;
	p->addr = addr;
	p->len = min_u64(len, most - (uffdwp__offset_of(r, addr) & (most - 1)));
	p->first = uffdwp__page_of(r, addr);
	p->n = p->len >> r->shift;
	if (!r->pages.n)
		return true;
	/* It may have moved since the arguments were checked. */
	if (!uffdwp__in_pages(r, p->first, p->n)) {
		p->n = 0;
		return true;
	}
	p->n = uffdwp__pages_lock(&r->pages, p->first, min_u64(p->n, UFFDWP__LOCK_MAX), p->prev);
	p->len = p->n << r->shift;
	return p->n;
}

int uffdwp__piece_lock(struct uffdwp__piece *p, struct uffdwp_region *r, uint64_t addr,
		       uint64_t len, uint64_t limit)
{
	struct uffdwp__wait w = { 0 };

	while (!lock_some(p, r, addr, len))
		if (!uffdwp__wait_page(r->h, &w, limit))
			return -EBUSY;
	return p->n ? 0 : -ENOENT;
}

void uffdwp__piece_unlock(struct uffdwp__piece *p, uint64_t i, uint64_t n, enum uffdwp__state state)
{
	struct uffdwp_region *r = p->r;

	if (!r->pages.n || !n)
		return;
	/* Relaxed, and before the state, which orders: see try_again() in sigbus.c. */
	if (state == UFFDWP__ARMED && r->h->serve == UFFDWP_SERVE_SIGBUS)
		atomic_fetch_add_explicit(&r->protections, 1, memory_order_relaxed);
	if (uffdwp__pages_unlock(&r->pages, p->first + i, n, state))
		uffdwp__wake(r->h, uffdwp__addr_of(r, p->first + i), n << r->shift);
}

bool uffdwp__piece_was_armed(const struct uffdwp__piece *p, uint64_t i)
{
	return p->r->pages.n && uffdwp__prev_armed(p->prev, p->first, p->first + i);
}

void uffdwp__piece_restore(struct uffdwp__piece *p, uint64_t i)
{
	for (; i < p->n; i++)
		uffdwp__piece_unlock(p, i, 1,
				     uffdwp__piece_was_armed(p, i) ? UFFDWP__ARMED : UFFDWP__FREE);
}
