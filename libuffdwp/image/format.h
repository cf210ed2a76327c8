/* SPDX-License-Identifier: MIT */
/*
 * The image file: what lies where, writing the header, and reading it back with suspicion. The layout in
 * bytes is in uffdwp_image(3), FORMAT; everything is little-endian.
 *
 *	0		ELF header, program headers, notes: the header, all of it under one CRC
 *	page-aligned	the index: eight bytes for each block of the table, under one CRC
 *	page-aligned	the table: four bytes for each page of memory, in the order of the regions
 *	page-aligned	the regions, one after another, zeros as holes
 *
 * A reader needs the header and the index, which is a millionth of the memory, and of the table what belongs
 * to the pages that it wants. All offsets follow from the size of the header and the lengths of the regions, so the reader computes
 * them again and refuses a file that says anything else.
 */
#ifndef UFFDWP_IMAGE_FORMAT_H
#define UFFDWP_IMAGE_FORMAT_H

#include "opts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "numbers in the file are copied as they are");
_Static_assert(sizeof(void *) == 8, "the file is ELF64");

#define UFFDWP__IMAGE_VERSION 2
#define UFFDWP__NOTE_NAME "uffdwp"
#define UFFDWP__NOTE_TYPE 0x55464457
#define UFFDWP__REGIONS_MAX 16384
#define UFFDWP__HEADER_MAX (4u << 20)

/* Entries of the table that are no checksum; checksums that look like them get bit 1 set. */
#define UFFDWP__PAGE_ZERO 0  /* zeros, a hole */
#define UFFDWP__PAGE_STALE 1 /* zeros, but not a hole yet: only while the image is written */
#define UFFDWP__PAGE_LOST 1  /* nobody knows: only in a reader, whose table is damaged there */

#define UFFDWP__BLOCK 1024 /* entries of the table that have one in the index */

/* A block of the table, as the index has it. */
struct uffdwp__index {
	uint32_t crc;  /* of its 4096 bytes */
	uint32_t data; /* entries that are not UFFDWP__PAGE_ZERO; 0: a hole, and crc is 0 */
};

struct uffdwp__extent {
	uint64_t addr, len, page_size;
	uint64_t offset; /* in the file */
	uint64_t first;	 /* its first page's entry in the table */
	uint64_t data;	 /* bytes that are not zeros */
};

struct uffdwp__meta {
	uint32_t version, flags, machine, page_size;
	unsigned int shift; /* of page_size */
	uint32_t nregions;
	struct uffdwp__extent *regions; /* malloc */
	uint64_t sealed_ns;
	uint64_t header_size, index_offset, index_size, table_offset, table_size, file_size;
	uint64_t pages, size; /* of all regions */
	uint32_t index_crc;
};

/* What gdb wants to know besides memory. */
struct uffdwp__process {
	int32_t pid; /* -1: none is known */
	size_t auxv_size;
	char auxv[2048];
};

/* Reads it from /proc; what can not be read is left out. */
void uffdwp__process_read(struct uffdwp__process *p, int32_t pid);

uint32_t uffdwp__machine(void);

/*
 * From the regions' addr, len and page_size, and meta's page_size: everything else about where things lie.
 * notes: bytes of other notes than ours. 0, or -EINVAL with the reason.
 */
int uffdwp__meta_layout(struct uffdwp__meta *m, uint64_t notes, struct uffdwp__why *why);
uint64_t uffdwp__process_notes_size(const struct uffdwp__process *p);

static inline uint64_t uffdwp__blocks(const struct uffdwp__meta *m)
{
	return m->table_size / (UFFDWP__BLOCK * sizeof(uint32_t));
}

/* Writes the header to buf, which has m->header_size bytes. */
void uffdwp__meta_encode(const struct uffdwp__meta *m, const struct uffdwp__process *p, void *buf);

/* How many bytes of a file its header takes, as its beginning says; at most UFFDWP__HEADER_MAX. */
uint64_t uffdwp__meta_need(const void *buf, size_t len);

/*
 * Reads a header: len bytes from the beginning of a file of file_size bytes, all of them or as many
 * as uffdwp__meta_need() said. 0, -EBADMSG, -EOPNOTSUPP, with the reason, or -ENOMEM. Free m->regions then.
 */
int uffdwp__meta_decode(struct uffdwp__meta *m, const void *buf, size_t len, uint64_t file_size,
			struct uffdwp__why *why);

/* Where the checksum of a header lies, for tests that damage the rest; 0: nowhere. */
size_t uffdwp__meta_crc_at(const void *buf, size_t len, uint64_t *header_size);
uint32_t uffdwp__meta_crc(const void *buf, size_t header_size, size_t crc_at);

/* The checksum of one page as an entry of the table. */
static inline uint32_t uffdwp__entry(uint32_t crc)
{
	return crc < 2 ? crc | 2 : crc;
}

/* Of a block of the table. */
struct uffdwp__index uffdwp__index_of(const uint32_t *block);

/* Of n pages at once. */
void uffdwp__entries(const void *buf, uint32_t page_size, uint64_t n, uint32_t *entries);

/* The checksum of the index: the CRC of the CRCs of its pages, so that holes in it cost little. */
struct uffdwp__index_crc {
	uint32_t crc, zero, page_size;
};
void uffdwp__index_crc_begin(struct uffdwp__index_crc *t, uint32_t page_size);
void uffdwp__index_crc_add(struct uffdwp__index_crc *t, const void *page); /* NULL: zeros */

#endif
