/* SPDX-License-Identifier: MIT */
/*
 * Page states, changed 32 at a time by compare-and-swap of whole words. Claiming acquires and
 * unlocking releases: who finds a page FREE or ARMED sees all that its last holder did.
 */
#include "bitmap.h"

#include "util.h"

#define PER_WORD 32
#define LOW UINT64_C(0x5555555555555555) /* the lower bit of every page */

size_t uffdwp__pages_bytes(uint64_t n)
{
	return (n + PER_WORD - 1) / PER_WORD * sizeof(uint64_t);
}

/* Both bits of n pages from off on. */
static inline uint64_t mask(unsigned int off, uint64_t n)
{
	uint64_t m = n >= PER_WORD ? ~UINT64_C(0) : (UINT64_C(1) << (2 * n)) - 1;

	return m << (2 * off);
}

static inline uint64_t in_word(uint64_t i, uint64_t n)
{
	return min_u64(n, PER_WORD - i % PER_WORD);
}

/* The number of pages before the first set bit of x, whose lowest page is at off. */
static inline uint64_t run_before(uint64_t x, unsigned int off, uint64_t n)
{
	x >>= 2 * off;
	return x ? min_u64(n, (uint64_t)__builtin_ctzll(x) / 2) : n;
}

static inline bool swap(_Atomic uint64_t *w, uint64_t *old, uint64_t new)
{
	/* Acquires from, and releases to, the other changes of the word. */
	return atomic_compare_exchange_weak_explicit(w, old, new, memory_order_acq_rel,
						     memory_order_acquire);
}

void uffdwp__pages_fill(struct uffdwp__pages *p, enum uffdwp__state state)
{
	for (uint64_t i = 0; i < p->n; i += PER_WORD)
		atomic_store_explicit(&p->w[i / PER_WORD], state * (LOW & mask(0, p->n - i)),
				      memory_order_relaxed);
}

enum uffdwp__state uffdwp__pages_get(const struct uffdwp__pages *p, uint64_t i)
{
	uint64_t w = atomic_load_explicit(&p->w[i / PER_WORD], memory_order_acquire);

	return w >> (2 * (i % PER_WORD)) & 3;
}

enum uffdwp__state uffdwp__pages_fault(struct uffdwp__pages *p, uint64_t i)
{
	_Atomic uint64_t *w = &p->w[i / PER_WORD];
	unsigned int sh = 2 * (i % PER_WORD);
	uint64_t old = atomic_load_explicit(w, memory_order_relaxed);

	for (;;) {
		enum uffdwp__state s = old >> sh & 3;
		uint64_t to = s >= UFFDWP__BUSY ? UFFDWP__CONTENDED : UFFDWP__BUSY;

		/*
		 * A CONTENDED page is written too: the acquire and release must be with the
		 * present holder.
		 */
		if (swap(w, &old, (old & ~(UINT64_C(3) << sh)) | to << sh))
			return s >= UFFDWP__BUSY ? UFFDWP__BUSY : s;
	}
}

uint64_t uffdwp__pages_claim(struct uffdwp__pages *p, uint64_t first, uint64_t max)
{
	uint64_t got = 0;

	max = first < p->n ? min_u64(max, p->n - first) : 0;
	while (got < max) {
		uint64_t i = first + got, n = in_word(i, max - got), k;
		_Atomic uint64_t *w = &p->w[i / PER_WORD];
		uint64_t old = atomic_load_explicit(w, memory_order_relaxed);

		do {
			k = run_before(old ^ LOW, i % PER_WORD, n);
			if (!k)
				return got;
		} while (!swap(w, &old, old ^ mask(i % PER_WORD, k)));
		got += k;
		if (k < n)
			break;
	}
	return got;
}

uint64_t uffdwp__pages_lock(struct uffdwp__pages *p, uint64_t first, uint64_t max, uint64_t *prev)
{
	uint64_t got = 0;

	while (got < max) {
		uint64_t i = first + got, n = in_word(i, max - got), k, m;
		_Atomic uint64_t *w = &p->w[i / PER_WORD];
		uint64_t old = atomic_load_explicit(w, memory_order_relaxed);

		do {
			k = run_before(old & ~LOW, i % PER_WORD, n);
			if (!k)
				return got;
			m = mask(i % PER_WORD, k);
		} while (!swap(w, &old, (old & ~m) | (m & ~LOW)));
		if (!got || i % PER_WORD == 0)
			prev[i / PER_WORD - first / PER_WORD] = 0;
		prev[i / PER_WORD - first / PER_WORD] |= old & m;
		got += k;
		if (k < n)
			break;
	}
	return got;
}

bool uffdwp__pages_unlock(struct uffdwp__pages *p, uint64_t first, uint64_t n,
			  enum uffdwp__state state)
{
	uint64_t contended = 0;

	for (uint64_t i = first, end = first + n; i < end;) {
		uint64_t k = in_word(i, end - i), m = mask(i % PER_WORD, k);
		_Atomic uint64_t *w = &p->w[i / PER_WORD];
		uint64_t old = atomic_load_explicit(w, memory_order_relaxed);

		while (!swap(w, &old, (old & ~m) | (m & (state * LOW))))
			;
		contended |= old & old >> 1 & LOW & m;
		i += k;
	}
	return contended;
}

uint64_t uffdwp__pages_next(const struct uffdwp__pages *p, uint64_t first, uint64_t end)
{
	while (first < end) {
		uint64_t n = in_word(first, end - first);
		uint64_t w = atomic_load_explicit(&p->w[first / PER_WORD], memory_order_acquire);
		uint64_t k = run_before(w, first % PER_WORD, n);

		first += k;
		if (k < n)
			break;
	}
	return first;
}

uint64_t uffdwp__pages_behind(const struct uffdwp__pages *p, uint64_t i, uint64_t max)
{
	uint64_t got = 0;

	while (got < max && got < i) {
		uint64_t last = i - got - 1, n = last % PER_WORD + 1;
		uint64_t w = atomic_load_explicit(&p->w[last / PER_WORD], memory_order_relaxed);
		uint64_t x = w << (2 * (PER_WORD - n));
		uint64_t k = x ? (uint64_t)__builtin_clzll(x) / 2 : n;

		got += k;
		if (k < n)
			break;
	}
	return min_u64(got, max);
}
