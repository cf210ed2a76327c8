/* SPDX-License-Identifier: MIT */
/*
 * Protecting, unprotecting, and what both serve: delivering pages to the write operation, once
 * each.
 */
#include "call.h"

#include <errno.h>

#include "access.h"
#include "layer.h"
#include "piece.h"
#include "sys.h"
#include "util.h"

/* ---- Protect and unprotect ---- */

int uffdwp__piece_protect(struct uffdwp__piece *p, bool on, const struct uffdwp__layer *by,
			  uint64_t *done)
{
	struct uffdwp_region *r = p->r;
	uint64_t ok = 0;
	int err = 0;

	if (on && by)
		uffdwp__layer_doubt(by, p->first, p->n);
	if (on && r->populate)
		err = uffdwp__populate_piece(r, p->addr, p->len, &ok);
	if (!err)
		err = uffdwp__writeprotect(r->h, p->addr, p->len, r->kernel_page, on, done);
	*done &= ~(r->page_size - 1);
	uffdwp__piece_unlock(p, 0, *done >> r->shift, on ? UFFDWP__ARMED : UFFDWP__FREE);
	if (err)
		uffdwp__piece_restore(p, *done >> r->shift);
	return err;
}

int uffdwp__protect_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool on,
			  const struct uffdwp__layer *by, uint64_t *done)
{
	int err = 0;

	for (uint64_t pos = 0, n = 0; !err && pos < len; pos += n) {
		struct uffdwp__piece p;

		n = 0;
		err = uffdwp__piece_lock(&p, r, addr + pos, len - pos,
					 by && on ? by->patience : UFFDWP__BUSY_NS);
		if (!err)
			err = uffdwp__piece_protect(&p, on, by, &n);
		if (done)
			*done += n;
	}
	return err;
}

/* -EBUSY: what is protected is the layers' to decide. */
static int protect(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool on, uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);

	if (err)
		return err;
	if (!(r->mode & UFFDWP_MODE_WP))
		return -EOPNOTSUPP;
	return uffdwp__layered(r) ? -EBUSY : uffdwp__protect_range(r, addr, len, on, NULL, done);
}

UFFDWP_PUBLIC int uffdwp_protect(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				 uint64_t *done)
{
	int err = protect(r, addr, len, true, done);

	/*
	 * A handle that failed delivers nothing: what was protected after it did so would be for
	 * nothing.
	 */
	if (!err && unlikely(uffdwp__error(r->h))) {
		uffdwp__protect_range(r, addr, len, false, NULL, NULL);
		err = -ECANCELED;
	}
	return err;
}

UFFDWP_PUBLIC int uffdwp_unprotect(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				   uint64_t *done)
{
	return protect(r, addr, len, false, done);
}

/* ---- Delivering pages to the write operation ---- */

int uffdwp__error(struct uffdwp *h)
{
	return atomic_load_explicit(&h->error, memory_order_relaxed);
}

/* Every page that can be had: those that are BUSY are released by who has them. */
__cold static void release_region(struct uffdwp_region *r)
{
	for (uint64_t i = 0; (i = uffdwp__pages_next(&r->pages, i, r->pages.n)) < r->pages.n;) {
		uint64_t n = uffdwp__pages_claim(&r->pages, i, uffdwp__piece_pages(r));

		if (n)
			uffdwp__release(r, i, n, &r->h->stats);
		i += n ? n : 1;
	}
}

__cold void uffdwp__fail(struct uffdwp *h, int err)
{
	int none = 0;
	const struct uffdwp__table *t;
	unsigned int phase;

	/* Relaxed: nobody reads anything else by it. */
	if (!atomic_compare_exchange_strong_explicit(&h->error, &none, err, memory_order_relaxed,
						     memory_order_relaxed))
		return;
	phase = uffdwp__enter(h);
	t = atomic_load_explicit(&h->table, memory_order_seq_cst);
	for (uint32_t i = 0; i < t->n; i++)
		release_region(t->e[i].r);
	uffdwp__leave(h, phase);
}

/* Of pages that are not at addr any more; of one that was moved, faults at the new place may have been put off. */
__cold static void unlock_gone(struct uffdwp_region *r, uint64_t first, uint64_t n, uint64_t addr,
			       enum uffdwp__state state)
{
	uffdwp__pages_unlock(&r->pages, first, n, state);
	uffdwp__wake(r->h, addr, n << r->shift);
	if (addr != uffdwp__addr_of(r, first))
		uffdwp__wake(r->h, uffdwp__addr_of(r, first), n << r->shift);
}

/*
 * A page that can not be unprotected because it is not there (unmapped, moved, its process gone) has had its operation
 * all the same: if it is protected where it is now, its next write is released without one. Threads are woken to find
 * out for themselves. Any other refusal would be the same for ever, as of a filter that forbids the call.
 */
static int release_pages(struct uffdwp_region *r, uint64_t first, uint64_t n)
{
	uint64_t addr = uffdwp__addr_of(r, first), done;
	int err = uffdwp__sys_writeprotect(r->h->fd, addr, n << r->shift, false);

	if (unlikely(err))
		err = uffdwp__writeprotect(r->h, addr, n << r->shift, r->kernel_page, false, &done);
	if (likely(!err)) {
		/*
		 * The kernel puts a thread to sleep by the write bit, which a page that is still to be copied
		 * (private hugetlb, the zero page, after fork) does not get back here: a thread that came after
		 * the wake-up above, and whose message was put off before this unlock, sleeps.
		 */
		if (unlikely(uffdwp__pages_unlock(&r->pages, first, n, UFFDWP__FREE)))
			uffdwp__wake(r->h, addr, n << r->shift);
		return 0;
	}
	uffdwp__unprotect_all(r->h, addr, n << r->shift, r->kernel_page);
	unlock_gone(r, first, n, addr, UFFDWP__FREE);
	if (err != -ENOENT && err != -ESRCH && err != -EAGAIN)
		uffdwp__give_up(r->h, err);
	return err;
}

/* Counted before anybody runs on, so that a program at rest has its exact numbers. */
int uffdwp__release(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp__stats *st)
{
	uffdwp__count(st, COUNT_RESOLVES, 1);
	return release_pages(r, first, n);
}

static void fill_fault(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp_fault *f)
{
	uintptr_t mem;

	/* Before mem, which is moved first. */
	f->addr = uffdwp__addr_of(r, first);
	mem = atomic_load_explicit(&r->mem, memory_order_relaxed);
	f->offset = first << r->shift;
	f->len = n << r->shift;
	f->mem = mem ? (char *)mem + f->offset : NULL;
	f->kind = UFFDWP_FAULT_WRITE;
	f->write = 1;
}

/* One page called for and released is the common case, and one counter: see stats.h. */
static void count_delivery(struct uffdwp__stats *st, uint64_t n, bool released)
{
	if (likely(n == 1 && released)) {
		uffdwp__count(st, COUNT_SINGLES, 1);
		return;
	}
	uffdwp__count(st, COUNT_OP_CALLS, 1);
	uffdwp__count(st, COUNT_OP_PAGES, n);
	uffdwp__count(st, COUNT_RESOLVES, released);
}

/*
 * The kernel has it there no more. It may have been moved, of which the event will tell, or is just being told: then
 * it is protected where it is now. The table is looked at before the address, which changes first.
 */
__cold static void give_back(struct uffdwp_region *r, uint64_t page, uint64_t addr)
{
	const struct uffdwp__entry *e = uffdwp__lookup(r->h, addr);
	bool listed = e && e->r == r, moved = addr != uffdwp__addr_of(r, page);
	bool keep = r->h->features & UFFDWP_FEATURE_EVENT_REMAP && (listed || moved);

	unlock_gone(r, page, 1, addr, keep ? UFFDWP__ARMED : UFFDWP__FREE);
}

/* -ENOENT, -ESRCH: nothing of the page is there for the kernel. Since 6.3 a range may have holes, so by parts. */
__cold static int ask_kernel(struct uffdwp_region *r, uint64_t addr)
{
	int err = -ENOENT;

	for (uint64_t pos = 0, done; err == -ENOENT && pos < r->page_size; pos += r->kernel_page)
		err = uffdwp__writeprotect(r->h, addr + pos, r->kernel_page, r->kernel_page, true,
					   &done);
	return err;
}

/*
 * The write operation has failed. Of a page that was unmapped or moved before it came to read it that is nobody's
 * failure: each page is asked about by itself then, where it is now. -ENOENT: one could not be, and
 * if it is anywhere it is protected there. -ESRCH: the process that had it has ended.
 */
__cold static int refused(struct uffdwp_region *r, uint64_t first, uint64_t n,
			  struct uffdwp_fault *f, struct uffdwp__stats *st, int err)
{
	uint64_t addr = f->addr;
	bool moved = addr != uffdwp__addr_of(r, first);
	int there = 0, ret = 0;

	for (uint64_t i = 0; i < n && !moved && there != -ENOENT && there != -ESRCH; i++)
		there = ask_kernel(r, addr + (i << r->shift));
	if (!moved && there != -ENOENT && there != -ESRCH) {
		count_delivery(st, n, true);
		uffdwp__fail(r->h, err);
		release_pages(r, first, n);
		return 0;
	}
	if (!moved && n == 1) {
		give_back(r, first, addr);
		return there;
	}
	for (uint64_t i = 0; i < n; i++) {
		int one = uffdwp__deliver(r, first + i, 1, f, st);

		ret = one < 0 ? one : ret;
	}
	return ret;
}

int uffdwp__deliver(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp_fault *f,
		    struct uffdwp__stats *st)
{
	const struct uffdwp__program *p = uffdwp__program(r);
	int ret;

	if ((!p->ops.write && !uffdwp__layered(r)) || unlikely(uffdwp__error(r->h))) {
		uffdwp__release(r, first, n, st);
		return 0;
	}
	fill_fault(r, first, n, f);
	ret = p->ops.write ? p->ops.write(r, f, p->ctx) : uffdwp__layers_write(r, first, n, f);
	if (unlikely(ret && ret != UFFDWP_LATER))
		return refused(r, first, n, f, st, ret < 0 ? ret : -EINVAL);
	count_delivery(st, n, ret != UFFDWP_LATER);
	if (ret == UFFDWP_LATER)
		return ret;
	release_pages(r, first, n);
	return 0;
}

/* ---- Sweep, release, discard ---- */

static uint64_t armed_run(const struct uffdwp_region *r, uint64_t i, uint64_t max)
{
	uint64_t n = 0;

	while (n < max && uffdwp__pages_get(&r->pages, i + n) == UFFDWP__ARMED)
		n++;
	return n;
}

/*
 * Where pages may be missing, the operation must not be the first to read one: the fault would
 * wait for the page, and who places it for the operation. In user mode, so that it is served in
 * each way of serving.
 */
static void make_present(struct uffdwp_region *r, uint64_t first, uint64_t n)
{
	uint64_t addr = uffdwp__addr_of(r, first);
	char byte;

	if (!uffdwp__places(r))
		return;
	for (uint64_t pos = 0; pos < n << r->shift; pos += r->kernel_page)
		uffdwp_read(r, addr + pos, &byte, 1, NULL);
}

static int sweep_one(struct uffdwp_region *r, uint64_t i, uint64_t end, struct uffdwp__wait *w,
		     uint64_t *next)
{
	struct uffdwp_fault f = { .worker = UFFDWP_NO_WORKER };
	uint64_t n = min_u64(end - i, uffdwp__layered(r) ? UFFDWP_RUN_MAX : r->own_run);
	unsigned int phase;
	int err = 0;

	make_present(r, i, armed_run(r, i, n));
	phase = uffdwp__enter(r->h);
	n = uffdwp__pages_claim(&r->pages, i, n);
	if (n)
		err = uffdwp__deliver(r, i, n, &f, &r->h->stats);
	uffdwp__leave(r->h, phase);
	*next = err < 0 ? i : i + n;
	if (err < 0) {
		if (err == -ESRCH || !uffdwp__wait_page(r->h, w, UFFDWP__BUSY_NS))
			return err;
	} else if (n) {
		w->count = 0;
	} else if (uffdwp__pages_get(&r->pages, i) >= UFFDWP__BUSY &&
		   !uffdwp__wait_page(r->h, w, UFFDWP__BUSY_NS)) {
		return -EBUSY;
	}
	return uffdwp__error(r->h) ? -ECANCELED : 0;
}

static int sweep_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	struct uffdwp__wait w = { 0 };
	uint64_t first, i, end, busy = UINT64_MAX;
	int slot, err = uffdwp__error(r->h) ? -ECANCELED : 0;

	if (err)
		return err;
	first = i = uffdwp__page_of(r, addr);
	end = first + (len >> r->shift);
	if (!uffdwp__in_pages(r, first, end - first))
		return -ENOENT;
	slot = uffdwp__serving_begin(r->h);
	while (!err && (i = uffdwp__pages_next(&r->pages, i, end)) < end) {
		w.count = i == busy ? w.count : 0;
		busy = i;
		err = sweep_one(r, i, end, &w, &i);
	}
	uffdwp__serving_end(r->h, slot);
	if (!err && uffdwp__error(r->h))
		err = -ECANCELED;
	if (done)
		*done = (min_u64(i, end) - first) << r->shift;
	return err;
}

UFFDWP_PUBLIC int uffdwp_sweep(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);

	if (err)
		return err;
	if (!r->pages.n)
		return -EOPNOTSUPP;
	return uffdwp__layered(r) ? -EBUSY : sweep_range(r, addr, len, done);
}

UFFDWP_PUBLIC int uffdwp_release(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				 uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);
	uint64_t first, n;

	if (err)
		return err;
	if (!r->pages.n)
		return -EOPNOTSUPP;
	if (uffdwp__layered(r))
		return -EBUSY;
	first = uffdwp__page_of(r, addr);
	n = len >> r->shift;
	if (!uffdwp__in_pages(r, first, n))
		return -ENOENT;
	for (uint64_t i = 0; i < n; i++)
		if (uffdwp__pages_get(&r->pages, first + i) < UFFDWP__BUSY)
			return -EINVAL;
	for (uint64_t pos = 0; pos < n && !err;) {
		uint64_t k = min_u64(n - pos, uffdwp__piece_pages(r));

		err = uffdwp__release(r, first + pos, k, &r->h->stats);
		pos += err ? 0 : k;
		if (done)
			*done = pos << r->shift;
	}
	return err;
}

/* Not a reader during the discard: its event may wait for who waits for readers. */
static void mark(struct uffdwp_region *r, uint64_t first, uint64_t n)
{
	unsigned int phase = uffdwp__enter(r->h);

	uffdwp__layers_mark(r, first, n);
	uffdwp__leave(r->h, phase);
}

/*
 * With async protection nobody holds the pages. Those of hugetlb that are not there count neither as
 * written nor as protected, and a read would make them written: protect them. What was written before
 * that is in the marks, which nobody looks at in between.
 */
static int protect_holes(struct uffdwp_region *r, uint64_t first, uint64_t n)
{
	uint64_t end = first + n, done = 0;
	int err = 0;

	if (r->pages.n || r->kernel_page == uffdwp__sys_page_size())
		return 0;
	for (uint64_t i = first; !err && i < end; i += n) {
		n = min_u64(end, (i / UFFDWP__COLLECT_MAX + 1) * UFFDWP__COLLECT_MAX) - i;
		pthread_mutex_lock(uffdwp__stripe(r, i));
		err = uffdwp__writeprotect(r->h, uffdwp__addr_of(r, i), n << r->shift,
					   r->kernel_page, true, &done);
		mark(r, i, n);
		pthread_mutex_unlock(uffdwp__stripe(r, i));
	}
	return err;
}

/*
 * The pages are BUSY while their content goes, so that no layer protects them in between: an anonymous page
 * loses its protection with its content. False: one is ARMED (again), and has to be delivered first.
 */
static bool discard_piece(struct uffdwp__piece *p, bool remove, int *err)
{
	struct uffdwp_region *r = p->r;

	for (uint64_t i = 0; i < p->n && r->pages.n; i++) {
		if (!uffdwp__piece_was_armed(p, i))
			continue;
		uffdwp__piece_restore(p, 0);
		return false;
	}
	/* What the kernel's books say of the pages may go with them: see protect_holes(). */
	mark(r, p->first, p->n);
	*err = uffdwp__sys_discard((void *)(uintptr_t)p->addr, p->len, remove);
	mark(r, p->first, p->n);
	if (!*err && uffdwp__layered(r))
		*err = protect_holes(r, p->first, p->n);
	uffdwp__piece_unlock(p, 0, p->n, UFFDWP__FREE);
	return true;
}

static int discard_some(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool remove,
			uint64_t *n)
{
	struct uffdwp__piece p;
	bool ok = false;
	int err = 0;

	*n = 0;
	while (!err && !ok) {
		if (r->pages.n)
			err = sweep_range(r, addr, min_u64(len, UFFDWP__PIECE), NULL);
		if (!err)
			err = uffdwp__piece_lock(&p, r, addr, len, UFFDWP__BUSY_NS);
		if (err)
			return err;
		ok = discard_piece(&p, remove, &err);
	}
	if (!err)
		*n = p.len;
	return err;
}

UFFDWP_PUBLIC int uffdwp_discard(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint32_t how,
				 uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);

	if (err)
		return err;
	if (how > UFFDWP_DISCARD_REMOVE)
		return -EINVAL;
	if (!r->mem_is_addr)
		return -EOPNOTSUPP;
	if (r->h->features & UFFDWP_FEATURE_EVENT_REMOVE && uffdwp__serving(r->h))
		return -EDEADLK;
	for (uint64_t pos = 0, n; !err && pos < len; pos += n) {
		err = discard_some(r, addr + pos, len - pos, how == UFFDWP_DISCARD_REMOVE, &n);
		if (done)
			*done += n;
	}
	return err;
}
