/* SPDX-License-Identifier: MIT */
/* Staging, without locks and without a system call: the design is in staging.h. */
#include "staging.h"

#include <errno.h>
#include <string.h>

#include "sys.h"
#include "util.h"

#define CHUNK_MAX (UINT64_C(1) << 20)
#define CHUNKS_MIN 16
#define NO_CHUNK ((uint64_t)UFFDWP__NONE << 32)

/* ---- Making it ---- */

/* A power of two of pages: of the largest, or a sixteenth of it all. */
__cold static uint64_t chunk_bytes(uint64_t size, uint64_t largest)
{
	uint64_t chunk = largest;

	while (chunk * 2 <= CHUNK_MAX && chunk * 2 * CHUNKS_MIN <= size)
		chunk *= 2;
	return chunk;
}

__cold static size_t books_bytes(const struct uffdwp__staging *st)
{
	return st->units * sizeof(*st->node) + (st->chunks + 63) / 64 * sizeof(*st->free) +
	       st->chunks * sizeof(*st->left);
}

__cold static void init_books(struct uffdwp__staging *st, void *books)
{
	uffdwp__sys_populate(books, st->books_size);
	st->node = books;
	st->free = (_Atomic uint64_t *)(st->node + st->units);
	st->left = (_Atomic uint32_t *)(st->free + (st->chunks + 63) / 64);
	for (uint32_t c = 0; c < st->chunks; c++)
		st->free[c / 64] |= UINT64_C(1) << (c % 64);
	for (uint32_t i = 0; i < st->units; i++)
		st->node[i].st = st;
	st->fill[0] = st->fill[1] = NO_CHUNK;
	st->nfree = st->least = st->chunks;
	st->keep[UFFDWP__OWN] = 0;
	st->keep[UFFDWP__FAULT] = st->chunks / CHUNKS_MIN ? st->chunks / CHUNKS_MIN : 1;
	st->keep[UFFDWP__SWEEP] = st->keep[UFFDWP__FAULT] + max_u64(st->chunks / 4, 1);
}

__cold int uffdwp__staging_init(struct uffdwp__staging *st, uint64_t size, uint64_t unit,
				uint64_t largest)
{
	uint64_t chunk = chunk_bytes(size, largest);
	void *books;

	memset(st, 0, sizeof(*st));
	if (size / chunk >= UINT32_MAX / (chunk / unit))
		return -ENOMEM;
	st->unit = unit;
	st->chunks = (uint32_t)max_u64((size + chunk - 1) / chunk, 4);
	st->per_chunk = (uint32_t)(chunk / unit);
	st->units = st->chunks * st->per_chunk;
	st->size = st->chunks * chunk;
	st->books_size = books_bytes(st);
	st->mem = uffdwp__sys_alloc_staging(st->size);
	books = uffdwp__sys_alloc(st->books_size);
	if (!st->mem || !books) {
		uffdwp__sys_free(st->mem, st->size);
		uffdwp__sys_free(books, st->books_size);
		memset(st, 0, sizeof(*st));
		return -ENOMEM;
	}
	init_books(st, books);
	return 0;
}

__cold void uffdwp__staging_free(struct uffdwp__staging *st, bool child)
{
	if (!child)
		uffdwp__sys_free(st->mem, st->size);
	uffdwp__sys_free(st->node, st->books_size);
	st->mem = NULL;
	st->node = NULL;
}

/* ---- Chunks ---- */

/* There is a bit for whoever got a number from nfree. */
static uint32_t find_chunk(struct uffdwp__staging *st)
{
	for (uint32_t i = 0;; i = (i + 1) % ((st->chunks + 63) / 64)) {
		uint64_t w = atomic_load_explicit(&st->free[i], memory_order_relaxed);

		while (w) {
			/* Acquire: pairs with the release in uffdwp__staging_put(). */
			if (atomic_compare_exchange_weak_explicit(&st->free[i], &w, w & (w - 1),
								  memory_order_acquire,
								  memory_order_relaxed))
				return i * 64 + (uint32_t)__builtin_ctzll(w);
		}
	}
}

static void note_least(struct uffdwp__staging *st, uint32_t n)
{
	uint32_t least = atomic_load_explicit(&st->least, memory_order_relaxed);

	while (n < least &&
	       !atomic_compare_exchange_weak_explicit(&st->least, &least, n, memory_order_relaxed,
						      memory_order_relaxed))
		;
}

uint32_t uffdwp__staging_chunk(struct uffdwp__staging *st, enum uffdwp__level level)
{
	uint32_t n = atomic_load_explicit(&st->nfree, memory_order_relaxed), c;

	do {
		if (n <= st->keep[level])
			return UFFDWP__NONE;
		/*
		 * Acquire: pairs with the release in uffdwp__staging_put(), which sets the bit
		 * before.
		 */
	} while (!atomic_compare_exchange_weak_explicit(&st->nfree, &n, n - 1, memory_order_acquire,
							memory_order_relaxed));
	note_least(st, n - 1);
	c = find_chunk(st);
	atomic_store_explicit(&st->left[c], st->per_chunk, memory_order_relaxed);
	return c * st->per_chunk;
}

uint32_t uffdwp__staging_take(struct uffdwp__staging *st, uint32_t n, enum uffdwp__level level,
			      bool *fresh)
{
	_Atomic uint64_t *fill = &st->fill[level == UFFDWP__OWN];
	uint64_t old = atomic_load_explicit(fill, memory_order_relaxed);

	*fresh = false;
	for (;;) {
		uint32_t chunk = (uint32_t)(old >> 32), used = (uint32_t)old, unit;

		if (chunk != UFFDWP__NONE && used + n <= st->per_chunk) {
			/* Acquire: pairs with the release below, so that left was set. */
			if (atomic_compare_exchange_weak_explicit(fill, &old, old + n,
								  memory_order_acquire,
								  memory_order_relaxed))
				return chunk * st->per_chunk + used;
			continue;
		}
		unit = uffdwp__staging_chunk(st, level);
		if (unit == UFFDWP__NONE)
			return unit;
		if (!atomic_compare_exchange_strong_explicit(
			    fill, &old, (uint64_t)(unit / st->per_chunk) << 32 | n,
			    memory_order_acq_rel, memory_order_relaxed)) {
			uffdwp__staging_put(st, unit, st->per_chunk);
			continue;
		}
		if (chunk != UFFDWP__NONE && used < st->per_chunk)
			uffdwp__staging_put(st, chunk * st->per_chunk, st->per_chunk - used);
		*fresh = true;
		return unit;
	}
}

void uffdwp__staging_put(struct uffdwp__staging *st, uint32_t unit, uint32_t n)
{
	uint32_t c = unit / st->per_chunk;

	/*
	 * Releases what was read from the units, and acquires that from the others: who takes it
	 * next writes.
	 */
	if (!n || atomic_fetch_sub_explicit(&st->left[c], n, memory_order_acq_rel) != n)
		return;
	atomic_fetch_or_explicit(&st->free[c / 64], UINT64_C(1) << (c % 64), memory_order_release);
	atomic_fetch_add_explicit(&st->nfree, 1, memory_order_release);
}

uint64_t uffdwp__staging_peak(const struct uffdwp__staging *st)
{
	uint32_t least = atomic_load_explicit(&st->least, memory_order_relaxed);

	return (st->chunks - least) * (st->per_chunk * st->unit);
}

/* ---- Lists ---- */

void uffdwp__list_push(_Atomic uint32_t *list, struct uffdwp__node *n)
{
	uint32_t head = atomic_load_explicit(list, memory_order_relaxed);

	/* seq_cst: pairs with uffdwp__list_take(), and see uffdwp__snapshot_kick(). */
	do
		n->next = head;
	while (!atomic_compare_exchange_weak_explicit(list, &head, uffdwp__node_index(n) + 1,
						      memory_order_seq_cst, memory_order_relaxed));
}

struct uffdwp__node *uffdwp__list_take(_Atomic uint32_t *list, struct uffdwp__staging *st)
{
	uint32_t i = atomic_load_explicit(list, memory_order_relaxed), last = 0;

	if (!i)
		return NULL;
	i = atomic_exchange_explicit(list, 0, memory_order_seq_cst);
	while (i) {
		struct uffdwp__node *n = &st->node[i - 1];
		uint32_t next = n->next;

		n->next = last;
		last = i;
		i = next;
	}
	return last ? &st->node[last - 1] : NULL;
}

/* ---- Zeros ---- */

/* The first line tells of most pages that are not; the rest is what the C library does fastest. */
bool uffdwp__is_zero(const void *p, size_t n)
{
	const uint64_t *w = p;
	uint64_t any = 0;

	for (int i = 0; i < 8; i++)
		any |= w[i];
	return !any && !memcmp(p, (const char *)p + 64, n - 64);
}
