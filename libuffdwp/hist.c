/* SPDX-License-Identifier: MIT */
/*
 * The latency histogram. Counters are relaxed: a reader may see a sample in one of them and not yet
 * in another, which shifts a percentile by one sample for the moment and nothing else.
 */
#include "hist.h"

#include "util.h"

#define SUB 8 /* buckets an octave */
#define SUB_BITS 3

unsigned int uffdwp__hist_index(uint64_t value)
{
	unsigned int e;

	if (value < SUB)
		return (unsigned int)value;
	e = 63 - (unsigned int)__builtin_clzll(value);
	e = (e - SUB_BITS + 1) * SUB + (value >> (e - SUB_BITS) & (SUB - 1));
	return e < UFFDWP_HIST_BUCKETS ? e : UFFDWP_HIST_BUCKETS - 1;
}

uint64_t uffdwp__hist_upper(unsigned int index)
{
	unsigned int e;

	if (index < SUB)
		return index;
	if (index >= UFFDWP_HIST_BUCKETS - 1)
		return UINT64_MAX;
	e = index / SUB - 1;
	return ((uint64_t)(SUB + index % SUB + 1) << e) - 1;
}

static void add(_Atomic uint64_t *c, uint64_t n, int shared)
{
	if (shared)
		atomic_fetch_add_explicit(c, n, memory_order_relaxed);
	else
		atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
				      memory_order_relaxed);
}

void uffdwp__hist_record(struct uffdwp__hist *h, uint64_t value, uint64_t times, int shared)
{
	uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);

	add(&h->bucket[uffdwp__hist_index(value)], times, shared);
	add(&h->count, times, shared);
	add(&h->sum, value * times, shared);
	while (unlikely(value > max) &&
	       !atomic_compare_exchange_weak_explicit(&h->max, &max, value, memory_order_relaxed,
						      memory_order_relaxed))
		;
}

void uffdwp__hist_add(struct uffdwp_hist *to, const struct uffdwp__hist *from)
{
	to->count += atomic_load_explicit(&from->count, memory_order_relaxed);
	to->sum += atomic_load_explicit(&from->sum, memory_order_relaxed);
	to->max = max_u64(to->max, atomic_load_explicit(&from->max, memory_order_relaxed));
	for (unsigned int i = 0; i < UFFDWP_HIST_BUCKETS; i++)
		to->bucket[i] += atomic_load_explicit(&from->bucket[i], memory_order_relaxed);
}

UFFDWP_PUBLIC uint64_t uffdwp_hist_percentile(const struct uffdwp_hist *hist, double p)
{
	uint64_t total = 0, seen = 0, want;

	if (!hist)
		return 0;
	for (unsigned int i = 0; i < UFFDWP_HIST_BUCKETS; i++)
		total += hist->bucket[i];
	if (!total)
		return 0;
	if (!(p > 0)) /* also NaN */
		p = 0;
	want = p >= 100 ? total : (uint64_t)((double)total * p / 100);
	if (want < total && (double)want < (double)total * p / 100)
		want++;
	want = max_u64(want, 1);
	for (unsigned int i = 0; i < UFFDWP_HIST_BUCKETS; i++) {
		seen += hist->bucket[i];
		if (seen >= want)
			return min_u64(uffdwp__hist_upper(i), hist->max);
	}
	return hist->max;
}
