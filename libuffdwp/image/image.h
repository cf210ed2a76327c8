/* SPDX-License-Identifier: MIT */
/* An open image, as the reader and restore see it. */
#ifndef UFFDWP_IMAGE_IMAGE_H
#define UFFDWP_IMAGE_IMAGE_H

#include <uffdwp/image.h>

#include "table.h"

struct uffdwp_image {
	int fd;	    /* through the page cache, with an offset of its own if that could be had */
	int direct; /* the same file, for O_DIRECT; or -1 */
	struct uffdwp__meta meta;
	struct uffdwp__table table;
	uint64_t file_bytes;
};

/* A run of pages of one region. */
struct uffdwp__run {
	uint32_t region;
	uint64_t first, n; /* pages */
};

/* Entries of n > 0 pages of a region, from the first on. */
static inline const uint32_t *uffdwp__entries_at(const struct uffdwp_image *img, uint32_t region,
						 uint64_t first, uint64_t n)
{
	return uffdwp__table_entries(&img->table, img->meta.regions[region].first + first, n);
}

/* Bytes of it that are not zeros, as far as is known. */
uint64_t uffdwp__data_bytes(const struct uffdwp_image *img, const struct uffdwp__run *r);

static inline uint64_t uffdwp__run_offset(const struct uffdwp_image *img,
					  const struct uffdwp__run *r)
{
	return img->meta.regions[r->region].offset + (r->first << img->meta.shift);
}

/* How many pages from the run's beginning on are of the kind of the first one, zeros or not. */
uint64_t uffdwp__run_same(const struct uffdwp_image *img, const struct uffdwp__run *r);

/*
 * The first page of the run, read to buf, whose checksum is wrong; r->n: none. Pages that are zeros are
 * made so.
 */
uint64_t uffdwp__run_check(const struct uffdwp_image *img, const struct uffdwp__run *r, void *buf);

/* Reads the run through the page cache, zeros too, and checks it. In *good pages that are right. */
int uffdwp__run_read(const struct uffdwp_image *img, const struct uffdwp__run *r, void *buf,
		     uint64_t *good);

#endif
