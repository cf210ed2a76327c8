/* SPDX-License-Identifier: MIT */
/*
 * The table of an open image: a checksum for each page, or that it is zeros. The index was read and checked when the
 * image was opened; a block of the table is read when a page of its is asked for the first time.
 *
 * A block that can not be read, or is not what the index says, makes its pages LOST: data with a checksum that
 * none has, so that they are never given out. Threads that need a block at the same time each read and check it;
 * one of them puts it where all look. Nothing is locked, since faults come here.
 */
#ifndef UFFDWP_IMAGE_TABLE_H
#define UFFDWP_IMAGE_TABLE_H

#include <stdatomic.h>

#include "format.h"

struct uffdwp__blocks {
	_Atomic uint64_t lost; /* pages that are LOST and that the index did not count as data */
	_Atomic uint8_t state[];
};

enum { UFFDWP__BLOCK_ABSENT, UFFDWP__BLOCK_COMING, UFFDWP__BLOCK_THERE };

struct uffdwp__table {
	int fd; /* borrowed */
	const struct uffdwp__meta *meta;
	struct uffdwp__index *index; /* meta->index_size bytes */
	uint32_t *entries;	     /* meta->table_size bytes */
	struct uffdwp__blocks *blocks;
};

/* -EBADMSG: the file ends before. */
int uffdwp__read_all(int fd, void *buf, uint64_t len, uint64_t offset);

/* 0 or -errno; -EBADMSG with the reason. Close it in any case. */
int uffdwp__table_open(struct uffdwp__table *t, int fd, const struct uffdwp__meta *m,
		       struct uffdwp__why *why);
void uffdwp__table_close(struct uffdwp__table *t);

/* A block that is not all zeros. */
void uffdwp__table_load(const struct uffdwp__table *t, uint64_t block);

/* n > 0 entries from the first one on. */
static inline const uint32_t *uffdwp__table_entries(const struct uffdwp__table *t, uint64_t first,
						    uint64_t n)
{
	for (uint64_t b = first / UFFDWP__BLOCK; b <= (first + n - 1) / UFFDWP__BLOCK; b++)
		/* Acquire: pairs with the release in uffdwp__table_load(). */
		if (t->index[b].data &&
		    atomic_load_explicit(&t->blocks->state[b], memory_order_acquire) !=
			    UFFDWP__BLOCK_THERE)
			uffdwp__table_load(t, b);
	return t->entries + first;
}

#endif
