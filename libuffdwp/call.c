/* SPDX-License-Identifier: MIT */
/*
 * The calls on a region's pages. All of them lock the states of the pages, call the kernel, set the
 * new states, and wake whoever faulted meanwhile (see bitmap.h): a fault on a locked page is put off,
 * its thread sleeps on in the kernel's queue until that wake. Unprotecting wakes by itself.
 *
 * Long ranges go in pieces of PIECE bytes: the kernel holds the address space's lock over each call.
 */
#include "call.h"

#include <errno.h>
#include <string.h>

#include "sys.h"
#include "util.h"

#define PIECE (UINT64_C(16) << 20)
#define EAGAIN_NS UINT64_C(5000000000)
#define EBUSY_NS UINT64_C(1000000000)

/* ---- Waiting for something that another thread does, but not for ever ---- */

struct wait {
	unsigned int count;
	uint64_t until;
};

/* False when the time is over. */
static bool wait_a_little(struct wait *w, uint64_t limit)
{
	uint64_t now = uffdwp__sys_now();

	if (!w->count)
		w->until = now + limit;
	uffdwp__pause(w->count++);
	return now < w->until;
}

/* After EAGAIN: an event is unread, or was read and its thread has not run yet. */
static bool wait_for_events(struct uffdwp *h, struct wait *w)
{
	uffdwp__count(&h->stats, COUNT_EAGAIN, 1);
	uffdwp__stash_fill(h);
	return wait_a_little(w, EAGAIN_NS);
}

static void wake(struct uffdwp *h, uint64_t addr, uint64_t len)
{
	uffdwp__count(&h->stats, COUNT_WAKES, 1);
	uffdwp__sys_wake(h->fd, addr, len);
}

/* ---- Protection without states ---- */

static int writeprotect_once(struct uffdwp *h, uint64_t addr, uint64_t len, bool on)
{
	struct wait w = { 0 };
	int err;

	do
		err = uffdwp__sys_writeprotect(h->fd, addr, len, on);
	while (unlikely(err == -EAGAIN) && wait_for_events(h, &w));
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
	uint64_t piece = max_u64(PIECE, page);

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

/* ---- Arguments ---- */

static int check_range(const struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
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
	start = atomic_load_explicit(&r->addr, memory_order_relaxed);
	size = atomic_load_explicit(&r->len, memory_order_relaxed);
	if (!len || addr < start || addr - start >= size || len > size - (addr - start))
		return -EINVAL;
	return 0;
}

static int check_pages(const struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	int err = check_range(r, addr, len, done);

	if (!err && ((addr | len) & (r->page_size - 1)))
		err = -EINVAL;
	return err;
}

static inline uint64_t page_of(const struct uffdwp_region *r, uint64_t addr)
{
	return (addr - atomic_load_explicit(&r->base, memory_order_relaxed)) >> r->shift;
}

static inline uint64_t addr_of(const struct uffdwp_region *r, uint64_t page)
{
	return atomic_load_explicit(&r->base, memory_order_relaxed) + (page << r->shift);
}

/* ---- Locking a piece of a range ---- */

struct piece {
	struct uffdwp_region *r;
	uint64_t addr, len; /* bytes of this piece */
	uint64_t first, n;  /* its pages, locked if the region has states */
	uint64_t prev[UFFDWP__PREV_WORDS];
};

/* Locks as much as can be from addr on, at least a page; waits for a page that is BUSY. */
static int piece_lock(struct piece *p, struct uffdwp_region *r, uint64_t addr, uint64_t len)
{
	uint64_t most = max_u64(PIECE, r->page_size);
	struct wait w = { 0 };

	p->r = r;
	p->addr = addr;
	p->len = min_u64(len, most - (addr & (most - 1)));
	p->first = page_of(r, addr);
	p->n = p->len >> r->shift;
	if (!r->pages.n)
		return 0;
	for (;;) {
		p->n = uffdwp__pages_lock(&r->pages, p->first,
					  min_u64(p->len >> r->shift, UFFDWP__LOCK_MAX), p->prev);
		if (p->n)
			break;
		if (!wait_a_little(&w, EBUSY_NS))
			return -EBUSY;
	}
	p->len = p->n << r->shift;
	return 0;
}

/* Gives up n pages from page i of the piece on. */
static void piece_unlock(struct piece *p, uint64_t i, uint64_t n, enum uffdwp__state state)
{
	struct uffdwp_region *r = p->r;

	if (!r->pages.n || !n)
		return;
	if (uffdwp__pages_unlock(&r->pages, p->first + i, n, state))
		wake(r->h, addr_of(r, p->first + i), n << r->shift);
}

static bool piece_was_armed(const struct piece *p, uint64_t i)
{
	return p->r->pages.n && uffdwp__prev_armed(p->prev, p->first, p->first + i);
}

/* From page i on back to what they were. */
static void piece_restore(struct piece *p, uint64_t i)
{
	for (; i < p->n; i++)
		piece_unlock(p, i, 1, piece_was_armed(p, i) ? UFFDWP__ARMED : UFFDWP__FREE);
}

/* ---- Protect and unprotect ---- */

static int populate_piece(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

static int piece_protect(struct piece *p, bool on, uint64_t *done)
{
	struct uffdwp_region *r = p->r;
	uint64_t ok = 0;
	int err = 0;

	if (on && r->populate)
		err = populate_piece(r, p->addr, p->len, &ok);
	if (!err)
		err = uffdwp__writeprotect(r->h, p->addr, p->len, r->kernel_page, on, done);
	*done &= ~(r->page_size - 1);
	piece_unlock(p, 0, *done >> r->shift, on ? UFFDWP__ARMED : UFFDWP__FREE);
	if (err)
		piece_restore(p, *done >> r->shift);
	return err;
}

static int protect_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, bool on,
			 uint64_t *done)
{
	int err = check_pages(r, addr, len, done);

	if (err)
		return err;
	if (!(r->mode & UFFDWP_MODE_WP))
		return -EOPNOTSUPP;
	for (uint64_t pos = 0, n = 0; !err && pos < len; pos += n) {
		struct piece p;

		n = 0;
		err = piece_lock(&p, r, addr + pos, len - pos);
		if (!err)
			err = piece_protect(&p, on, &n);
		if (done)
			*done += n;
	}
	return err;
}

UFFDWP_PUBLIC int uffdwp_protect(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				 uint64_t *done)
{
	int err = protect_range(r, addr, len, true, done);

	/* A handle that failed delivers nothing: what was protected after it did so would be for nothing. */
	if (!err && unlikely(uffdwp__error(r->h))) {
		protect_range(r, addr, len, false, done);
		err = -ECANCELED;
	}
	return err;
}

UFFDWP_PUBLIC int uffdwp_unprotect(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				   uint64_t *done)
{
	return protect_range(r, addr, len, false, done);
}

/* ---- Placing pages ---- */

enum place { PLACE_COPY, PLACE_ZERO, PLACE_CONTINUE, PLACE_MOVE, PLACE_POISON };

static int64_t place_once(struct uffdwp_region *r, enum place what, uint64_t addr, uint64_t src,
			  uint64_t len, bool wp)
{
	int fd = r->h->fd;

	switch (what) {
	case PLACE_COPY:
		return uffdwp__sys_copy(fd, addr, src, len, wp);
	case PLACE_ZERO:
		/* ZEROPAGE can not protect, and hugetlb does not have it. */
		if (wp || r->kernel_page > uffdwp__sys_page_size())
			return uffdwp__sys_copy(fd, addr, (uintptr_t)r->zeros, r->kernel_page, wp);
		return uffdwp__sys_zeropage(fd, addr, len);
	case PLACE_CONTINUE:
		return uffdwp__sys_continue(fd, addr, len, wp);
	case PLACE_MOVE:
		return wp ? -EOPNOTSUPP : uffdwp__sys_move(fd, addr, src, len);
	default:
		return uffdwp__sys_poison(fd, addr, len);
	}
}

/* A page was there already: the call that failed on it woke nobody. */
static void page_found(struct uffdwp_region *r, uint64_t addr)
{
	uffdwp__count(&r->h->stats, COUNT_EEXIST, 1);
	wake(r->h, addr, r->kernel_page);
}

/*
 * Places [addr, addr + len), up to a page that is there already: -EEXIST then, if one state stands for that page
 * alone; within a larger one it is passed over.
 */
static int place_run(struct uffdwp_region *r, enum place what, uint64_t addr, uint64_t src,
		     uint64_t len, bool wp, uint64_t *done)
{
	struct wait w = { 0 };

	*done = 0;
	while (*done < len) {
		int64_t n = place_once(r, what, addr + *done, src + *done, len - *done, wp);

		if (likely(n > 0)) {
			*done += (uint64_t)n;
			w.count = 0;
		} else if (n == -EEXIST && r->kernel_page < r->page_size) {
			page_found(r, addr + *done);
			*done += r->kernel_page;
		} else if (n != -EAGAIN || !wait_for_events(r->h, &w)) {
			return (int)n;
		}
	}
	return 0;
}

/* How many pages of the piece, from i on, want the same protection. */
static uint64_t same_kind(const struct piece *p, uint64_t i, bool any)
{
	uint64_t n = 1;

	while (i + n < p->n && (any || piece_was_armed(p, i + n) == piece_was_armed(p, i)))
		n++;
	return n;
}

/* Places pages from i on that want the same protection, and unlocks them; what was there stays as it was. */
static int place_some(struct piece *p, enum place what, uint64_t src, uint64_t i, bool protect,
		      uint64_t *done)
{
	struct uffdwp_region *r = p->r;
	bool keep = what != PLACE_POISON;
	bool wp = keep && (protect || piece_was_armed(p, i));
	uint64_t n = same_kind(p, i, protect || !keep);
	int err = place_run(r, what, p->addr + (i << r->shift), src + (i << r->shift),
			    n << r->shift, wp, done);

	*done &= ~(r->page_size - 1);
	n = *done >> r->shift;
	piece_unlock(p, i, n, wp ? UFFDWP__ARMED : UFFDWP__FREE);
	if (err != -EEXIST)
		return err;
	piece_unlock(p, i + n, 1, piece_was_armed(p, i + n) ? UFFDWP__ARMED : UFFDWP__FREE);
	page_found(r, p->addr + ((i + n) << r->shift));
	*done += r->page_size;
	return 0;
}

static int place_piece(struct piece *p, enum place what, uint64_t src, bool protect, uint64_t *done)
{
	int err = 0;
	uint64_t n;

	for (*done = 0; !err && *done < p->len; *done += n)
		err = place_some(p, what, src, *done >> p->r->shift, protect, &n);
	if (err)
		piece_restore(p, *done >> p->r->shift);
	return err;
}

static int place_range(struct uffdwp_region *r, enum place what, uint64_t addr, uint64_t src,
		       uint64_t len, uint32_t flags, uint64_t *done)
{
	int err = check_pages(r, addr, len, done);

	if (err)
		return err;
	if (flags & ~UFFDWP_COPY_WP)
		return -EINVAL;
	if (flags & UFFDWP_COPY_WP && !(r->mode & UFFDWP_MODE_WP))
		return -EOPNOTSUPP;
	for (uint64_t pos = 0, n = 0; !err && pos < len; pos += n) {
		struct piece p;

		n = 0;
		err = piece_lock(&p, r, addr + pos, len - pos);
		if (!err)
			err = place_piece(&p, what, src + pos, flags & UFFDWP_COPY_WP, &n);
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
		int err = check_pages(r, addr, len, done);

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
	int err = check_pages(r, addr, len, done);

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
	if (!err)
		err = place_range(r, PLACE_MOVE, addr, src, len, 0, done);
	/* The arguments were checked: what is left is memory that can not be moved, or no such call. */
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
	int err = check_pages(r, addr, len, NULL);

	if (err)
		return err;
	uffdwp__count(&r->h->stats, COUNT_WAKES, 1);
	return uffdwp__sys_wake(r->h->fd, addr, len);
}

/* ---- Reading and populating ---- */

/*
 * The one way in which the library reads a program's page. A page whose writer sleeps in a fault is not being
 * written, but ThreadSanitizer can not know; so this one function is not instrumented.
 */
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

#ifdef UNDER_TSAN
__attribute__((no_sanitize("thread"), noinline)) static void copy_memory(void *to, const void *from,
									 size_t n)
{
	volatile const unsigned char *f = from;
	unsigned char *t = to;

	while (n && ((uintptr_t)f & 7)) {
		*t++ = *f++;
		n--;
	}
	for (; n >= 8; n -= 8, t += 8, f += 8) {
		uint64_t w = *(volatile const uint64_t *)f;

		__builtin_memcpy(t, &w, 8);
	}
	while (n--)
		*t++ = *f++;
}
#else
static inline void copy_memory(void *to, const void *from, size_t n)
{
	memcpy(to, from, n);
}
#endif

UFFDWP_PUBLIC int uffdwp_read(struct uffdwp_region *r, uint64_t addr, void *buf, uint64_t len,
			      uint64_t *done)
{
	int err = check_range(r, addr, len, done);
	uintptr_t mem;
	uint64_t got = 0;

	if (err || !buf)
		return err ? err : -EINVAL;
	mem = atomic_load_explicit(&r->mem, memory_order_relaxed);
	if (likely(mem)) {
		copy_memory(buf,
			    (const char *)mem +
				    (addr - atomic_load_explicit(&r->base, memory_order_relaxed)),
			    len);
		got = len;
	} else if (!r->h->pid) {
		return -EOPNOTSUPP;
	}
	while (got < len) {
		int64_t n = uffdwp__sys_read_process(r->h->pid, addr + got, (char *)buf + got,
						     len - got);

		if (n <= 0) {
			err = n ? (int)n : -EFAULT;
			break;
		}
		got += (uint64_t)n;
	}
	if (done)
		*done = got;
	return err;
}

/* Without MADV_POPULATE_READ (5.14): by reading each page, through the kernel, so that a bad one is an error. */
static int populate_by_reading(struct uffdwp_region *r, int pid, uint64_t addr, uint64_t len,
			       uint64_t *done)
{
	for (*done = 0; *done < len; *done += r->kernel_page) {
		char byte;
		int64_t n = uffdwp__sys_read_process(pid, addr + *done, &byte, 1);

		if (n != 1)
			return n ? (int)n : -EFAULT;
	}
	return 0;
}

static int populate_piece(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	int err;

	*done = 0;
	if (!r->mem_is_addr)
		return r->h->pid ? populate_by_reading(r, r->h->pid, addr, len, done) : -EOPNOTSUPP;
	err = uffdwp__sys_populate_read((void *)(uintptr_t)addr, len);
	if (err == -EINVAL || err == -ENOSYS || err == -EPERM)
		err = populate_by_reading(r, uffdwp__sys_pid(), addr, len, done);
	else if (!err)
		*done = len;
	return err;
}

UFFDWP_PUBLIC int uffdwp_populate(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				  uint64_t *done)
{
	int err = check_pages(r, addr, len, done);

	for (uint64_t pos = 0, n = 0; !err && pos < len; pos += n) {
		uint64_t most = max_u64(PIECE, r->page_size);

		err = populate_piece(r, addr + pos, min_u64(most, len - pos), &n);
		if (done)
			*done += n;
	}
	return err;
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
		uint64_t n = uffdwp__pages_claim(&r->pages, i, UFFDWP__LOCK_MAX);

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

/*
 * A page that can not be unprotected because it is not there (unmapped, moved, its process gone) keeps its
 * state if it was moved: it is protected still. Threads are woken to find out for themselves.
 */
int uffdwp__release(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp__stats *st)
{
	uint64_t addr = addr_of(r, first), done;
	int err;

	/* Counted before anybody runs on, so that a program at rest has its exact numbers. */
	uffdwp__count(st, COUNT_RESOLVES, 1);
	err = uffdwp__writeprotect(r->h, addr, n << r->shift, r->kernel_page, false, &done);
	if (likely(!err)) {
		uffdwp__pages_unlock(&r->pages, first, n, UFFDWP__FREE);
		return 0;
	}
	uffdwp__unprotect_all(r->h, addr, n << r->shift, r->kernel_page);
	uffdwp__pages_unlock(&r->pages, first, n,
			     addr == addr_of(r, first) ? UFFDWP__FREE : UFFDWP__ARMED);
	wake(r->h, addr, n << r->shift);
	return err;
}

int uffdwp__deliver(struct uffdwp_region *r, uint64_t first, uint64_t n, struct uffdwp_fault *f,
		    struct uffdwp__stats *st)
{
	int ret = 0;

	if (r->ops.write && likely(!uffdwp__error(r->h))) {
		uintptr_t mem = atomic_load_explicit(&r->mem, memory_order_relaxed);

		f->addr = addr_of(r, first);
		f->offset = first << r->shift;
		f->len = n << r->shift;
		f->mem = mem ? (char *)mem + f->offset : NULL;
		f->kind = UFFDWP_FAULT_WRITE;
		f->write = 1;
		uffdwp__count(st, COUNT_OP_CALLS, 1);
		uffdwp__count(st, COUNT_OP_PAGES, n);
		ret = r->ops.write(r, f, r->ctx);
		if (ret == UFFDWP_LATER)
			return ret;
		if (unlikely(ret))
			uffdwp__fail(r->h, ret < 0 ? ret : -EINVAL);
	}
	uffdwp__release(r, first, n, st);
	return 0;
}

/* ---- Sweep, release, discard ---- */

static int sweep_one(struct uffdwp_region *r, uint64_t i, uint64_t end, struct wait *w,
		     uint64_t *next)
{
	struct uffdwp_fault f = { .worker = UFFDWP_NO_WORKER };
	uint64_t n = uffdwp__pages_claim(&r->pages, i, min_u64(end - i, r->run));

	*next = i + n;
	if (n) {
		w->count = 0;
		uffdwp__deliver(r, i, n, &f, &r->h->stats);
	} else if (uffdwp__pages_get(&r->pages, i) >= UFFDWP__BUSY && !wait_a_little(w, EBUSY_NS)) {
		return -EBUSY;
	}
	return uffdwp__error(r->h) ? -ECANCELED : 0;
}

UFFDWP_PUBLIC int uffdwp_sweep(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	int err = check_pages(r, addr, len, done);
	struct wait w = { 0 };
	uint64_t first, i, end;
	int slot;

	if (!err && uffdwp__error(r->h))
		err = -ECANCELED;
	if (err)
		return err;
	if (!r->pages.n)
		return -EOPNOTSUPP;
	first = i = page_of(r, addr);
	end = first + (len >> r->shift);
	slot = uffdwp__serving_begin(r->h);
	while (!err && (i = uffdwp__pages_next(&r->pages, i, end)) < end)
		err = sweep_one(r, i, end, &w, &i);
	uffdwp__serving_end(r->h, slot);
	if (!err && uffdwp__error(r->h))
		err = -ECANCELED;
	if (done)
		*done = (min_u64(i, end) - first) << r->shift;
	return err;
}

UFFDWP_PUBLIC int uffdwp_release(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				 uint64_t *done)
{
	int err = check_pages(r, addr, len, done);
	uint64_t first, n;

	if (err)
		return err;
	if (!r->pages.n)
		return -EOPNOTSUPP;
	first = page_of(r, addr);
	n = len >> r->shift;
	for (uint64_t i = 0; i < n; i++)
		if (uffdwp__pages_get(&r->pages, first + i) < UFFDWP__BUSY)
			return -EINVAL;
	for (uint64_t pos = 0; pos < n && !err;) {
		uint64_t k = min_u64(n - pos, UFFDWP__LOCK_MAX);

		err = uffdwp__release(r, first + pos, k, &r->h->stats);
		pos += err ? 0 : k;
		if (done)
			*done = pos << r->shift;
	}
	return err;
}

UFFDWP_PUBLIC int uffdwp_discard(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint32_t how,
				 uint64_t *done)
{
	int err = check_pages(r, addr, len, done);

	if (err)
		return err;
	if (how > UFFDWP_DISCARD_REMOVE)
		return -EINVAL;
	if (!r->mem_is_addr)
		return -EOPNOTSUPP;
	if (r->h->features & UFFDWP_FEATURE_EVENT_REMOVE && uffdwp__serving(r->h))
		return -EDEADLK;
	if (r->pages.n)
		err = uffdwp_sweep(r, addr, len, NULL);
	if (!err)
		err = uffdwp__sys_discard((void *)(uintptr_t)addr, len,
					  how == UFFDWP_DISCARD_REMOVE);
	if (!err && done)
		*done = len;
	return err;
}
