/* SPDX-License-Identifier: MIT */
/*
 * CRC-32C by the processor's instruction where it has one, else by tables of eight bytes at a time. The
 * instruction takes three cycles and can be begun in each, so pages are done three at a time: then
 * nothing needs to be combined afterwards.
 */
#include "crc32c.h"

#include <pthread.h>
#include <string.h>

#define POLY UINT32_C(0x82f63b78) /* reflected */

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLY : 0);
		table[0][i] = crc;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (int k = 1; k < 8; k++)
			table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

static inline uint64_t load64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

uint32_t uffdwp__crc32c_portable(uint32_t crc, const void *buf, size_t len)
{
	const unsigned char *p = buf;

	pthread_once(&table_once, make_table);
	crc = ~crc;
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t v = load64(p) ^ crc;

		crc = 0;
		for (int k = 0; k < 8; k++, v >>= 8)
			crc ^= table[7 - k][v & 0xff];
	}
	for (; len; p++, len--)
		crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xff];
	return ~crc;
}

#if defined(__x86_64__)

bool uffdwp__crc32c_fast(void)
{
	return __builtin_cpu_supports("sse4.2");
}

__attribute__((target("sse4.2"))) static uint32_t one(uint32_t crc, const unsigned char *p,
						      size_t len)
{
	uint64_t c = ~crc;

	for (; len >= 8; p += 8, len -= 8)
		c = __builtin_ia32_crc32di(c, load64(p));
	for (; len; p++, len--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p);
	return ~(uint32_t)c;
}

__attribute__((target("sse4.2"))) static void three(const unsigned char *p, size_t size,
						    uint32_t *crcs)
{
	uint64_t a = UINT32_MAX, b = UINT32_MAX, c = UINT32_MAX;

	for (size_t i = 0; i < size; i += 8) {
		a = __builtin_ia32_crc32di(a, load64(p + i));
		b = __builtin_ia32_crc32di(b, load64(p + size + i));
		c = __builtin_ia32_crc32di(c, load64(p + 2 * size + i));
	}
	crcs[0] = ~(uint32_t)a;
	crcs[1] = ~(uint32_t)b;
	crcs[2] = ~(uint32_t)c;
}

#else

bool uffdwp__crc32c_fast(void)
{
	return false;
}

static uint32_t one(uint32_t crc, const unsigned char *p, size_t len)
{
	return uffdwp__crc32c_portable(crc, p, len);
}

static void three(const unsigned char *p, size_t size, uint32_t *crcs)
{
	for (size_t i = 0; i < 3; i++)
		crcs[i] = one(0, p + i * size, size);
}

#endif

uint32_t uffdwp__crc32c(uint32_t crc, const void *buf, size_t len)
{
	return uffdwp__crc32c_fast() ? one(crc, buf, len) : uffdwp__crc32c_portable(crc, buf, len);
}

void uffdwp__crc32c_pages(const void *buf, size_t page_size, size_t n, uint32_t *crcs)
{
	const unsigned char *p = buf;
	size_t i = 0;

	if (uffdwp__crc32c_fast())
		for (; i + 3 <= n; i += 3)
			three(p + i * page_size, page_size, crcs + i);
	for (; i < n; i++)
		crcs[i] = uffdwp__crc32c(0, p + i * page_size, page_size);
}
