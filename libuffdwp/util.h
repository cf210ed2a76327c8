/* SPDX-License-Identifier: MIT */
/* Small macros and inline functions that know nothing of the library. */
#ifndef UFFDWP_UTIL_H
#define UFFDWP_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UFFDWP_PUBLIC __attribute__((visibility("default")))

#ifndef __cold
#define __cold __attribute__((cold))
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline bool is_pow2(uint64_t x)
{
	return x && !(x & (x - 1));
}

#endif
