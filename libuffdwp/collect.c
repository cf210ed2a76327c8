/* SPDX-License-Identifier: MIT */
/*
 * Collecting what was written. Without async protection marks are taken run by run, each while its pages
 * are locked; with it PAGEMAP_SCAN (Linux 6.7) takes them out of the page tables and protects again
 * in one step, and marks hold only what the kernel does not: what another layer took, and discards.
 */
#include "collect.h"

#include <errno.h>
#include <string.h>

#include "call.h"
#include "piece.h"
#include "sys.h"
#include "util.h"

#define VEC 512			     /* ranges a scan */
#define SCAN_MAX (UINT64_C(1) << 20) /* pages a scan: while it lasts, mmap(2) waits */
#define LOOK 512		     /* pagemap entries a read */
#define PM_WP 57		     /* of a pagemap entry: protected (5.14) */
/* With these, what is not there any more is told by an event. */
#define TOLD (UFFDWP_FEATURE_EVENT_REMAP | UFFDWP_FEATURE_EVENT_UNMAP)

static bool is_async(const struct uffdwp_region *r)
{
	return r->h->features & UFFDWP_FEATURE_WP_ASYNC;
}

/* ---- Attaching ---- */

/* Of no page: the kernel has it together with WP_ASYNC, a filter may not. */
__cold static int can_scan(const struct uffdwp__layer *l)
{
	uint64_t addr = uffdwp__start_of(l->r);
	struct uffdwp__scan a = { .size = sizeof(a), .start = addr, .end = addr };
	int n = uffdwp__sys_pagemap_scan(l->pagemap, &a);

	return n == -ENOTTY ? -EOPNOTSUPP : n < 0 ? n : 0;
}

/*
 * Whether a scan tells of memory that has no page table, as that of a huge page which was discarded: Linux 6.18 does,
 * 6.12 does not. Asked of memory under a userfaultfd of its own; it does not if that can not be had.
 */
__cold static bool tells_holes(int pagemap)
{
	uint64_t page = uffdwp__sys_page_size(), table = page * (page / sizeof(uint64_t)), got,
		 start;
	void *mem = uffdwp__sys_alloc_zeros(2 * table);
	int fd = uffdwp__sys_open_own();
	struct uffdwp__page_region v;
	struct uffdwp__scan a = { .size = sizeof(a),
				  .vec = (uintptr_t)&v,
				  .vec_len = 1,
				  .category_mask = UFFDWP__PAGE_IS_WRITTEN,
				  .return_mask = UFFDWP__PAGE_IS_WRITTEN };
	bool tells;

	start = ((uintptr_t)mem + table - 1) & ~(table - 1);
	a.start = start;
	a.end = start + table;
	tells = mem && fd >= 0 &&
		!uffdwp__sys_api(fd, UFFDWP_FEATURE_WP_UNPOPULATED | UFFDWP_FEATURE_WP_ASYNC, &got,
				 &got) &&
		!uffdwp__sys_register(fd, start, table, UFFDIO_REGISTER_MODE_WP, &got) &&
		uffdwp__sys_pagemap_scan(pagemap, &a) == 1;
	if (fd >= 0)
		uffdwp__sys_close(fd);
	uffdwp__sys_free(mem, 2 * table);
	return tells;
}

__cold static int open_pagemap(struct uffdwp__layer *l)
{
	struct uffdwp *h = l->r->h;
	int pid = atomic_load_explicit(&h->pid, memory_order_relaxed);
	bool ours = h->source != UFFDWP_SOURCE_ADOPTED;

	l->pagemap = ours || pid ? uffdwp__sys_pagemap_open(ours ? 0 : pid) : -EOPNOTSUPP;
	if (is_async(l->r)) {
		l->holes = l->pagemap >= 0 && l->r->kernel_page == uffdwp__sys_page_size() &&
			   (!ours || !tells_holes(l->pagemap));
		return l->pagemap < 0 ? l->pagemap : can_scan(l);
	}
	if (l->pagemap >= 0)
		return 0;
	l->pagemap = -1;
	return 0;
}

__cold static int make_marks(struct uffdwp__layer *l)
{
	l->pages = l->r->size >> l->r->shift;
	l->marks_size = (l->pages + 63) / 64 * sizeof(uint64_t);
	l->marks = uffdwp__sys_alloc(l->marks_size);
	/* Where marks are few, or who looks for them may have no time. */
	if (is_async(l->r) || l->who == UFFDWP__SNAPSHOT) {
		l->blocks_size = (l->pages / UFFDWP__BLOCK / 64 + 1) * sizeof(uint64_t);
		l->blocks = uffdwp__sys_alloc(l->blocks_size);
		if (!l->blocks)
			return -ENOMEM;
	}
	if (l->r->h->features & UFFDWP_FEATURE_EVENT_REMOVE) {
		l->anonymous = l->r->h->source != UFFDWP_SOURCE_ADOPTED &&
			       uffdwp__sys_is_anonymous(uffdwp__start_of(l->r)) == 1;
		l->suspects = uffdwp__sys_alloc(l->marks_size);
		if (!l->suspects)
			return -ENOMEM;
	}
	return l->marks ? 0 : -ENOMEM;
}

__cold static void layer_free(struct uffdwp__layer *l)
{
	if (l->pagemap >= 0)
		uffdwp__sys_close(l->pagemap);
	uffdwp__sys_free((void *)l->marks, l->marks_size);
	uffdwp__sys_free((void *)l->suspects, l->marks_size);
	uffdwp__sys_free((void *)l->blocks, l->blocks_size);
	l->pagemap = -1;
	l->marks = l->suspects = l->blocks = NULL;
}

/* What faults take along, by the layers that are there; under the lock. */
static void set_window(struct uffdwp_region *r)
{
	const struct uffdwp__layer *s = uffdwp__layer(r, UFFDWP__SNAPSHOT);
	const struct uffdwp__layer *t = uffdwp__layer(r, UFFDWP__TRACK);
	uint32_t run = s || t ? UFFDWP_RUN_MAX : r->own_run;

	if (s && s->run > 1 && !t)
		run = s->run;
	atomic_store_explicit(&r->run, run, memory_order_relaxed);
	atomic_store_explicit(&r->exact, t || (s && s->run == 1), memory_order_relaxed);
	atomic_store_explicit(&r->granule,
			      t	  ? t->granule
			      : s ? s->granule
				  : 1,
			      memory_order_relaxed);
}

__cold static int publish(struct uffdwp__layer *l)
{
	struct uffdwp_region *r = l->r;
	struct uffdwp *h = r->h;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (uffdwp__layer(r, l->who) || uffdwp__program(r)->ops.write) {
		err = -EBUSY;
	} else {
		/* Pairs with uffdwp__layer(): a collect that does not see it is over after the wait. */
		atomic_store_explicit(&r->layer[l->who], l, memory_order_seq_cst);
		set_window(r);
		atomic_fetch_add_explicit(&h->nlayers, 1, memory_order_relaxed);
		uffdwp__readers_wait(&h->readers);
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}

__cold int uffdwp__layer_attach(struct uffdwp__layer *l, struct uffdwp_region *r,
				enum uffdwp__who who)
{
	int err;

	l->r = r;
	l->who = who;
	l->pagemap = -1;
	if (!(r->mode & UFFDWP_MODE_WP))
		return -EOPNOTSUPP;
	err = make_marks(l);
	if (!err)
		err = open_pagemap(l);
	if (!err)
		err = publish(l);
	if (err)
		layer_free(l);
	return err;
}

/* What is FREE already, nearly all of a snapshot's memory at its end, costs nothing. */
__cold static void unprotect_all(struct uffdwp__layer *l)
{
	const struct uffdwp__pages *pages = &l->r->pages;
	uint64_t i = 0, n;

	if (!pages->n)
		uffdwp__layer_protect(l, 0, l->pages, false);
	for (; (i = uffdwp__pages_next(pages, i, pages->n)) < pages->n; i += n) {
		for (n = 1; n < UFFDWP__LOCK_MAX && i + n < pages->n &&
			    uffdwp__pages_get(pages, i + n) != UFFDWP__FREE;)
			n++;
		uffdwp__layer_protect(l, i, n, false);
	}
}

/* Unprotects under the lock: another layer may come next, and protects what is its own by then. */
__cold void uffdwp__layer_detach(struct uffdwp__layer *l)
{
	struct uffdwp_region *r = l->r;

	if (!uffdwp__check(r->h)) {
		pthread_mutex_lock(&r->h->lock);
		atomic_store_explicit(&r->layer[l->who], NULL, memory_order_seq_cst);
		set_window(r);
		uffdwp__readers_wait(&r->h->readers);
		if (!uffdwp__layered(r))
			unprotect_all(l);
		pthread_mutex_unlock(&r->h->lock);
		atomic_fetch_sub_explicit(&r->h->nlayers, 1, memory_order_relaxed);
	}
	layer_free(l);
}

void uffdwp__layer_set_run(struct uffdwp__layer *l, uint32_t run)
{
	pthread_mutex_lock(&l->r->h->lock);
	l->run = run;
	set_window(l->r);
	pthread_mutex_unlock(&l->r->h->lock);
}

static struct uffdwp__layer *other_layer(const struct uffdwp__layer *l)
{
	return uffdwp__layer(l->r, l->who == UFFDWP__TRACK ? UFFDWP__SNAPSHOT : UFFDWP__TRACK);
}

bool uffdwp__layer_shared(const struct uffdwp__layer *l)
{
	return other_layer(l);
}

/* ---- Parts: what of a region is there ---- */

/* The first part of the region at or after page i, as pages. False: there is none. */
static bool next_part(const struct uffdwp_region *r, uint64_t i, uint64_t *first, uint64_t *end)
{
	unsigned int phase = uffdwp__enter(r->h);
	const struct uffdwp__table *t = atomic_load_explicit(&r->h->table, memory_order_seq_cst);

	*first = *end = UINT64_MAX;
	for (uint32_t k = 0; k < t->n; k++) {
		const struct uffdwp__entry *e = &t->e[k];
		uint64_t from = (e->start - e->base) >> r->shift;
		uint64_t to = (e->end - e->base + r->page_size - 1) >> r->shift;

		if (e->r != r || to <= i || from >= *first)
			continue;
		*first = max_u64(from, i);
		*end = to;
	}
	uffdwp__leave(r->h, phase);
	return *first != UINT64_MAX;
}

int uffdwp__layer_protect(struct uffdwp__layer *l, uint64_t first, uint64_t n, bool on)
{
	struct uffdwp_region *r = l->r;
	uint64_t end = first + n, stop;
	int err = 0;

	for (uint64_t i = first; !err && i < end && next_part(r, i, &i, &stop) && i < end;) {
		uint64_t done, k = min_u64(stop, end) - i;

		err = uffdwp__protect_range(r, uffdwp__addr_of(r, i), k << r->shift, on, l, &done);
		i += done >> r->shift;
		/* Unmapped with no event to tell: nothing is there to protect. */
		if (err == -ENOENT || err == -EBUSY) {
			i += err == -ENOENT || !on;
			err = err == -EBUSY && on ? err : 0;
		}
	}
	return err;
}

/* ---- Bits ---- */

static void set_bits(uint64_t *bits, uint64_t i, uint64_t n)
{
	for (uint64_t k; n; i += k, n -= k) {
		k = min_u64(n, 64 - i % 64);
		bits[i / 64] |= (k == 64 ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1) << (i % 64);
	}
}

static uint64_t mask(uint64_t i, uint64_t end)
{
	uint64_t k = min_u64(end - i, 64 - i % 64);

	return (k == 64 ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1) << (i % 64);
}

/* The first bit set in [i, end), or end. Acquire: of a block's bit, to see the marks of who set it. */
static uint64_t next_mark(const _Atomic uint64_t *marks, uint64_t i, uint64_t end)
{
	while (i < end) {
		uint64_t w = atomic_load_explicit(&marks[i / 64], memory_order_acquire) &
			     mask(i, end);

		if (w)
			return (i & ~UINT64_C(63)) + (uint64_t)__builtin_ctzll(w);
		i = (i | 63) + 1;
	}
	return end;
}

static uint64_t mark_run(const _Atomic uint64_t *marks, uint64_t i, uint64_t max)
{
	uint64_t n = 0;

	while (n < max) {
		uint64_t w = ~atomic_load_explicit(&marks[(i + n) / 64], memory_order_relaxed) >>
			     ((i + n) % 64);

		if (w)
			return min_u64(n + (uint64_t)__builtin_ctzll(w), max);
		n += 64 - (i + n) % 64;
	}
	return min_u64(n, max);
}

/* Takes, or looks at, the marks of [i, end) a word at a time, and sets their bits, bit 0 for base. */
static uint64_t take_marks(struct uffdwp__layer *l, uint64_t i, uint64_t end, bool take,
			   uint64_t base, uint64_t *bits)
{
	uint64_t found = 0;

	for (; i < end; i = (i | 63) + 1) {
		uint64_t m = mask(i, end), w;

		w = atomic_load_explicit(&l->marks[i / 64], memory_order_relaxed) & m;
		if (likely(!w))
			continue;
		if (take)
			w = atomic_fetch_and_explicit(&l->marks[i / 64], ~m, memory_order_relaxed) &
			    m;
		found += (uint64_t)__builtin_popcountll(w);
		for (; w && bits; w &= w - 1)
			set_bits(bits, (i & ~UINT64_C(63)) + (uint64_t)__builtin_ctzll(w) - base,
				 1);
	}
	return found;
}

void uffdwp__layer_unmark(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	take_marks(l, first, first + n, true, first, NULL);
}

/* ---- Blocks ---- */

/* The first page in [i, end) that is in a block that may have marks, or end. */
static uint64_t next_marked(const struct uffdwp__layer *l, uint64_t i, uint64_t end)
{
	uint64_t b = next_mark(l->blocks, i / UFFDWP__BLOCK, (end - 1) / UFFDWP__BLOCK + 1);

	return min_u64(max_u64(b * UFFDWP__BLOCK, i), end);
}

/* As take_marks(), for memory that seldom has any. A block all of which is taken has none from here on. */
static void take_blocks(struct uffdwp__layer *l, uint64_t i, uint64_t end, bool take, uint64_t base,
			uint64_t *bits)
{
	for (uint64_t stop; i < end && (i = next_marked(l, i, end)) < end; i = stop) {
		uint64_t b = i / UFFDWP__BLOCK;

		stop = min_u64((b + 1) * UFFDWP__BLOCK, end);
		if (take && i % UFFDWP__BLOCK == 0 &&
		    (stop % UFFDWP__BLOCK == 0 || stop == l->pages))
			/* Pairs with uffdwp__layer_mark(): the marks of who set the bit are seen. */
			atomic_fetch_and_explicit(&l->blocks[b / 64], ~(UINT64_C(1) << (b % 64)),
						  memory_order_acquire);
		take_marks(l, i, stop, take, base, bits);
	}
}

uint64_t uffdwp__layer_next(const struct uffdwp__layer *l, uint64_t i)
{
	uint64_t at = i < l->pages ? next_marked(l, i, l->pages) : i;

	/* Suspects are written if the pagemap says so, which their marks do not. Pairs with suspect(). */
	if (unlikely(atomic_load_explicit(&l->suspicious, memory_order_acquire)))
		at = next_mark(l->suspects, i, at);
	return at;
}

uint64_t uffdwp__layer_take_blocks(struct uffdwp__layer *l, uint64_t w)
{
	/* Pairs with uffdwp__layer_mark(), as above, and with suspect(). */
	uint64_t bits = atomic_exchange_explicit(&l->blocks[w], 0, memory_order_acquire);

	return likely(!atomic_load_explicit(&l->suspicious, memory_order_acquire)) ? bits
										   : UINT64_MAX;
}

void uffdwp__layer_put_blocks(struct uffdwp__layer *l, uint64_t w, uint64_t bits)
{
	atomic_fetch_or_explicit(&l->blocks[w], bits, memory_order_release);
}

/* ---- Suspects ---- */

/* Whether a page that may have been discarded can still not change unseen. */
static bool proven(const struct uffdwp__layer *l, uint64_t entry)
{
	/* A page of a file that is gone comes back by a read, with other content and protected as before. */
	return l->anonymous && (is_async(l->r) || entry >> PM_WP & 1);
}

static void check_some(struct uffdwp__layer *l, uint64_t i, uint64_t n)
{
	uint64_t entries[LOOK], per = l->r->page_size / uffdwp__sys_page_size();
	bool sure = l->pagemap >= 0;

	for (uint64_t page = i; page < i + n; page++) {
		uint64_t k, got = min_u64(per, LOOK);

		if (!(atomic_load_explicit(&l->suspects[page / 64], memory_order_relaxed) >>
			      (page % 64) &
		      1))
			continue;
		sure = sure && uffdwp__sys_pagemap_read(l->pagemap, uffdwp__addr_of(l->r, page),
							entries, got) == (int64_t)got;
		for (k = 0; sure && k < got && proven(l, entries[k]); k++)
			;
		if (!sure || k < got)
			uffdwp__layer_mark(l, page, 1);
	}
}

static void check_suspects(struct uffdwp__layer *l, uint64_t i, uint64_t end)
{
	/* Pairs with suspect(). */
	if (likely(!atomic_load_explicit(&l->suspicious, memory_order_acquire)))
		return;
	while ((i = next_mark(l->suspects, i, end)) < end) {
		uint64_t n = mark_run(l->suspects, i, end - i);

		check_some(l, i, n);
		i += n;
	}
}

/* ---- Collecting without async ---- */

/* Whether the other layer, if there is one, can do without the proof that pages are still protected. */
static bool others_keep(const struct uffdwp__layer *l, const struct uffdwp__piece *p)
{
	unsigned int phase = uffdwp__enter(l->r->h);
	struct uffdwp__layer *o = other_layer(l);
	bool ok = true;

	for (uint64_t i = 0, k; ok && o && o->keep && i < p->n; i += k) {
		bool armed = uffdwp__piece_was_armed(p, i);

		for (k = 1; i + k < p->n && uffdwp__piece_was_armed(p, i + k) == armed;)
			k++;
		ok = !armed || !o->keep(o, p->first + i, k);
	}
	uffdwp__leave(l->r->h, phase);
	return ok;
}

/* Takes a run of marked pages and protects it; *n is how many at last, none after an error. */
static int retake(struct uffdwp__layer *l, uint64_t i, uint64_t *n)
{
	struct uffdwp_region *r = l->r;
	struct uffdwp__piece p;
	uint64_t done = 0;
	int err = uffdwp__piece_lock(&p, r, uffdwp__addr_of(r, i), *n << r->shift, l->patience);

	*n = 0;
	if (err)
		return err;
	/* The region was moved in between. */
	if (unlikely(p.first != i)) {
		uffdwp__piece_restore(&p, 0);
		return 0;
	}
	/* They count as written now, and the next time too. */
	if (unlikely(!others_keep(l, &p))) {
		uffdwp__piece_restore(&p, 0);
		*n = p.n;
		return 0;
	}
	take_marks(l, i, i + p.n, true, i, NULL);
	err = uffdwp__piece_protect(&p, true, l, &done);
	*n = done >> r->shift;
	if (*n < p.n)
		uffdwp__layer_mark(l, i + *n, p.n - *n);
	return err;
}

static int collect_marks(struct uffdwp__layer *l, uint64_t first, uint64_t end, uint64_t max,
			 uint64_t base, uint64_t *bits, uint64_t *looked)
{
	uint64_t i = first, found = 0;
	int err = 0;

	while (!err && found < max && (i = next_mark(l->marks, i, end)) < end) {
		uint64_t n = mark_run(l->marks, i, min_u64(end - i, max - found));

		err = retake(l, i, &n);
		set_bits(bits, i - base, n);
		found += n;
		i += n;
	}
	*looked = min_u64(i, end) - first;
	return err;
}

/* ---- Collecting with async ---- */

struct scan {
	struct uffdwp__layer *l;
	uint64_t base; /* of the bits */
	uint64_t *bits;
	uint64_t found, max;
	bool take;
};

/* The pages of a range of written memory. */
static void found(struct scan *s, const struct uffdwp__page_region *v)
{
	struct uffdwp_region *r = s->l->r;
	uint64_t first = uffdwp__page_of(r, v->start), last = uffdwp__page_of(r, v->end - 1);

	set_bits(s->bits, first - s->base, last - first + 1);
	s->found += last - first + 1;
	if (s->take && other_layer(s->l))
		uffdwp__layer_mark(other_layer(s->l), first, last - first + 1);
}

/* One scan of [addr, end): *next is where it stopped. */
static int scan_once(struct scan *s, uint64_t addr, uint64_t end, uint64_t *next)
{
	struct uffdwp__page_region vec[VEC];
	struct uffdwp__scan a = { .size = sizeof(a),
				  .start = addr,
				  .end = end,
				  .vec = (uintptr_t)vec,
				  .vec_len = VEC,
				  .category_mask = UFFDWP__PAGE_IS_WRITTEN,
				  .return_mask = UFFDWP__PAGE_IS_WRITTEN };
	const struct uffdwp_region *r = s->l->r;
	int n;

	if (s->take)
		a.flags = UFFDWP__SCAN_WP_MATCHING;
	a.flags |= UFFDWP__SCAN_CHECK_WPASYNC;
	/* Within a granule of several pages a scan must not stop. */
	if (r->page_size == uffdwp__sys_page_size() && s->max - s->found < end - addr)
		a.max_pages = s->max - s->found;
	n = uffdwp__sys_pagemap_scan(s->l->pagemap, &a);
	*next = n < 0 ? addr : a.walk_end;
	for (int i = 0; i < n; i++)
		found(s, &vec[i]);
	return n < 0 ? n : *next > addr ? 0 : -ESRCH;
}

/* A process that has ended has no page tables: nothing would ever be found written. */
static int has_memory(const struct uffdwp__layer *l)
{
	uint64_t entry, addr = uffdwp__start_of(l->r);
	int64_t n = uffdwp__sys_pagemap_read(l->pagemap, addr, &entry, 1);

	return n < 0 ? (int)n : n ? 0 : -ESRCH;
}

static int collect_kernel(struct uffdwp__layer *l, uint64_t first, uint64_t end, uint64_t max,
			  bool take, uint64_t base, uint64_t *bits, uint64_t *looked)
{
	struct scan s = { .l = l, .base = base, .bits = bits, .max = max, .take = take };
	struct uffdwp_region *r = l->r;
	pthread_mutex_t *stripe = uffdwp__stripe(r, first);
	uint64_t addr = uffdwp__addr_of(r, first), stop = uffdwp__addr_of(r, end);
	int err = 0;

	pthread_mutex_lock(stripe);
	while (!err && addr < stop && s.found < max)
		err = scan_once(&s, addr, stop, &addr);
	/* In whole pages: of one that was scanned in part, what was found counts. */
	*looked = (addr - uffdwp__addr_of(r, first)) >> r->shift;
	if (!err)
		take_blocks(l, first, first + *looked, take, base, bits);
	pthread_mutex_unlock(stripe);
	if (!err && r->h->source == UFFDWP_SOURCE_ADOPTED)
		err = has_memory(l);
	return err == -EPERM ? -ENOENT : err; /* memory of another kind is there now */
}

/*
 * A layer whose marks are the kernel's alone, which no other layer shares while this reader section
 * lasts: nothing is left to do between the kernel's answer and the caller.
 */
static bool is_plain(const struct uffdwp__layer *l, uint64_t first, uint64_t end)
{
	return is_async(l->r) && l->r->page_size == uffdwp__sys_page_size() &&
	       l->r->h->source != UFFDWP_SOURCE_ADOPTED && !uffdwp__layer_shared(l) &&
	       !atomic_load_explicit(&l->suspicious, memory_order_acquire) &&
	       next_marked(l, first, end) == end;
}

/* Ranges of addresses into pages, also those that they meet in part. */
static void to_pages(struct uffdwp__page_region *v, int n, const struct uffdwp_region *r,
		     uint64_t first, uint64_t addr)
{
	for (int i = 0; i < n; i++) {
		v[i].start = first + ((v[i].start - addr) >> r->shift);
		v[i].end = first + ((v[i].end - addr + r->page_size - 1) >> r->shift);
	}
}

/* ---- What a scan passes over ---- */

/* Runs of memory that is neither there nor marked, of one part; *next: where it stopped. */
static int scan_absent(struct uffdwp__layer *l, uint64_t first, uint64_t end,
		       struct uffdwp__page_region *v, uint64_t *next)
{
	const uint64_t there = UFFDWP__PAGE_IS_PRESENT | UFFDWP__PAGE_IS_SWAPPED;
	struct uffdwp_region *r = l->r;
	unsigned int phase = uffdwp__enter(r->h);
	uint64_t addr = uffdwp__addr_of(r, first), walked;
	struct uffdwp__scan a = { .size = sizeof(a),
				  .start = addr,
				  .end = addr + (min_u64(end - first, SCAN_MAX) << r->shift),
				  .vec = (uintptr_t)v,
				  .vec_len = VEC,
				  .category_inverted = there,
				  .category_mask = there,
				  .return_mask = UFFDWP__PAGE_IS_PRESENT };
	int n = uffdwp__sys_pagemap_scan(l->pagemap, &a);

	/* In whole pages, and on in any case: what is not mapped any more is not there to protect. */
	walked = n < 0 ? 0 : (a.walk_end - addr) >> r->shift;
	*next = first + max_u64(walked, 1);
	to_pages(v, n, r, first, addr);
	uffdwp__leave(r->h, phase);
	return n;
}

static void mark_other(const struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	unsigned int phase = uffdwp__enter(l->r->h);
	struct uffdwp__layer *o = other_layer(l);

	if (o)
		uffdwp__layer_mark(o, first, n);
	uffdwp__leave(l->r->h, phase);
}

/*
 * This wipes out what the kernel has noted: to who else wants to know, all is written. Under the stripe, so that nobody
 * looks in between.
 */
static int cover(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	pthread_mutex_t *stripe = uffdwp__stripe(l->r, first);
	int err;

	pthread_mutex_lock(stripe);
	err = uffdwp__layer_protect(l, first, n, true);
	mark_other(l, first, n);
	pthread_mutex_unlock(stripe);
	return err;
}

int uffdwp__layer_cover(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	struct uffdwp__page_region v[VEC];
	uint64_t i = first, end = first + n, stop, next, done = first;
	int err = 0;

	for (; !err && i < end && next_part(l->r, i, &i, &stop) && i < end; i = next) {
		int runs = scan_absent(l, i, min_u64(stop, end), v, &next);

		err = runs < 0 ? runs : 0;
		for (int k = 0; !err && k < runs; k++) {
			/* Several of them may be in one page of the region. */
			uint64_t at = max_u64(v[k].start, done), to;

			for (; !err && at < v[k].end; at = done = to) {
				to = min_u64(v[k].end,
					     (at / UFFDWP__COLLECT_MAX + 1) * UFFDWP__COLLECT_MAX);
				err = cover(l, at, to - at);
			}
		}
	}
	return err;
}

/*
 * Where all was protected once, what is absent was discarded since: it counts as written. That a page is busy does not
 * matter: it is told again the next time.
 */
static int collect_holes(struct uffdwp__layer *l, uint64_t first, uint64_t end, bool take,
			 uint64_t base, uint64_t *bits)
{
	struct uffdwp__page_region v[VEC];
	uint64_t i = first, next;
	int err = 0;

	for (; !err && i < end; i = next) {
		int runs = scan_absent(l, i, end, v, &next);

		err = runs < 0 ? runs : 0;
		for (int k = 0; !err && k < runs; k++) {
			uint64_t from = max_u64(v[k].start, first), to = min_u64(v[k].end, end);

			set_bits(bits, from - base, to - from);
			if (take)
				err = cover(l, from, to - from);
			err = err == -EBUSY ? 0 : err;
		}
	}
	return err;
}

static bool has_holes(struct uffdwp__layer *l, uint64_t first, uint64_t end)
{
	struct uffdwp__page_region v[VEC];
	uint64_t next;

	return scan_absent(l, first, end, v, &next) != 0;
}

/* ---- Straight from the kernel ---- */

int uffdwp__layer_scan(struct uffdwp__layer *l, uint64_t first, uint64_t end, uint64_t max,
		       bool take, struct uffdwp__page_region *v, uint64_t nv, uint64_t *next)
{
	struct uffdwp_region *r = l->r;
	unsigned int phase = uffdwp__enter(r->h);
	struct uffdwp__scan a = { .size = sizeof(a),
				  .flags = UFFDWP__SCAN_CHECK_WPASYNC |
					   (take ? UFFDWP__SCAN_WP_MATCHING : 0),
				  .vec = (uintptr_t)v,
				  .vec_len = nv,
				  .max_pages = min_u64(max, UFFDWP__COLLECT_MAX),
				  .category_mask = UFFDWP__PAGE_IS_WRITTEN,
				  .return_mask = UFFDWP__PAGE_IS_WRITTEN };
	uint64_t i, stop;
	int n = -EAGAIN;

	*next = end;
	if (!next_part(r, first, &i, &stop) || i >= end) {
		n = 0;
	} else if (is_plain(l, i, stop = min_u64(min_u64(stop, end), i + SCAN_MAX)) &&
		   !(l->holes && has_holes(l, i, stop))) {
		a.start = uffdwp__addr_of(r, i);
		a.end = uffdwp__addr_of(r, stop);
		n = uffdwp__sys_pagemap_scan(l->pagemap, &a);
		*next = i + ((a.walk_end - a.start) >> r->shift);
		if (n < 0 || *next == i)
			n = -EAGAIN;
		to_pages(v, n, r, i, a.start);
	}
	uffdwp__leave(r->h, phase);
	return n;
}

/* ---- Both ---- */

static int collect_part(struct uffdwp__layer *l, uint64_t first, uint64_t end, uint64_t max,
			bool take, uint64_t base, uint64_t *bits, uint64_t *looked)
{
	unsigned int phase;
	int err;

	check_suspects(l, first, end);
	if (is_async(l->r)) {
		phase = uffdwp__enter(l->r->h);
		err = collect_kernel(l, first, end, max, take, base, bits, looked);
		uffdwp__leave(l->r->h, phase);
		if (!err && unlikely(l->holes))
			err = collect_holes(l, first, first + *looked, take, base, bits);
		return err;
	}
	if (take)
		return collect_marks(l, first, end, max, base, bits, looked);
	take_marks(l, first, end, false, base, bits);
	*looked = end - first;
	return 0;
}

int uffdwp__layer_collect(struct uffdwp__layer *l, uint64_t first, uint64_t n, uint64_t max,
			  bool take, uint64_t *bits, uint64_t *looked)
{
	uint64_t end = min_u64(first + n, (first / UFFDWP__COLLECT_MAX + 1) * UFFDWP__COLLECT_MAX);
	struct uffdwp__wait w = { 0 };
	uint64_t i = first, stop, k;
	int err = 0;

	end = min_u64(end, l->pages);
	memset(bits, 0, (end - first + 63) / 64 * sizeof(*bits));
	while (i < end && next_part(l->r, i, &i, &stop) && i < end) {
		stop = min_u64(stop, end);
		err = collect_part(l, i, stop, max, take, first, bits, &k);
		i += k;
		if (err == -ENOENT && l->r->h->features & TOLD && uffdwp__wait_events(l->r->h, &w))
			continue;
		if (err || i < stop)
			break;
	}
	*looked = min_u64(i, end) - first;
	return err;
}

void uffdwp__layer_resume(struct uffdwp__layer *l, uint64_t first, uint64_t n)
{
	unsigned int phase = uffdwp__enter(l->r->h);

	uffdwp__layers_mark(l->r, first, n);
	uffdwp__release(l->r, first, n, &l->r->h->stats);
	uffdwp__leave(l->r->h, phase);
}
