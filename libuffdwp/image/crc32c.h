/* SPDX-License-Identifier: MIT */
/*
 * CRC-32C (Castagnoli), as in iSCSI, ext4 and SSE4.2: polynomial 0x1edc6f41, reflected, begun with and
 * finished by all ones.
 */
#ifndef UFFDWP_IMAGE_CRC32C_H
#define UFFDWP_IMAGE_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of buf, going on from crc, the result of an earlier call; 0 to begin. */
uint32_t uffdwp__crc32c(uint32_t crc, const void *buf, size_t len);

/* Of each of n pages of page_size bytes, a multiple of 8: faster than one by one. */
void uffdwp__crc32c_pages(const void *buf, size_t page_size, size_t n, uint32_t *crcs);

/* The same by tables alone, for machines without the instruction, and to compare. */
uint32_t uffdwp__crc32c_portable(uint32_t crc, const void *buf, size_t len);

/* Whether this machine has the instruction. */
bool uffdwp__crc32c_fast(void);

#endif
