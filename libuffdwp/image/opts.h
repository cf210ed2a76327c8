/* SPDX-License-Identifier: MIT */
/* What the files of libuffdwp-image share: options, reasons, small arithmetic. */
#ifndef UFFDWP_IMAGE_OPTS_H
#define UFFDWP_IMAGE_OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define UFFDWP_PUBLIC __attribute__((visibility("default")))

/* Copies an option struct of the caller's size into ours: 0, -EINVAL, -E2BIG. from NULL: defaults. */
int uffdwp__image_opts(void *to, size_t to_size, const void *from, size_t min_size);

/* Copies a result to a struct of the caller's size, which it has set: 0 or -EINVAL. */
int uffdwp__image_result(void *to, const void *from, size_t from_size, size_t min_size);

/* Where to say what is wrong. */
struct uffdwp__why {
	char *buf;
	size_t size;
};

/* Returns err, having said why. */
#define REFUSE(why, err, ...)                                                 \
	do {                                                                  \
		if ((why)->buf && (why)->size)                                \
			(void)snprintf((why)->buf, (why)->size, __VA_ARGS__); \
		return err;                                                   \
	} while (0)

/* The size of a struct up to and with a field: what a caller must at least know of it. */
#define SIZE_UP_TO(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline bool is_pow2(uint64_t x)
{
	return x && !(x & (x - 1));
}

/* Up to a multiple of a power of two. False: too large. */
static inline bool round_up(uint64_t x, uint64_t to, uint64_t *out)
{
	if (__builtin_add_overflow(x, to - 1, out))
		return false;
	*out &= ~(to - 1);
	return true;
}

#endif
