/* SPDX-License-Identifier: MIT */
/*
 * CRC-32C against the vectors of RFC 3720, B.4 and the check value of the catalogues; and the
 * instruction against the tables, for all alignments, lengths and ways to cut.
 */
#include "args.h"

#include "image/crc32c.h"

#define BUF (3 * 4096 + 64)

static unsigned char buf[BUF];

static void fill(void)
{
	uint64_t x = 88172645463325252u;

	for (size_t i = 0; i < sizeof(buf); i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		buf[i] = (unsigned char)(x >> 56);
	}
}

static void expect(const void *data, size_t len, uint32_t want)
{
	ck_assert_uint_eq(uffdwp__crc32c(0, data, len), want);
	ck_assert_uint_eq(uffdwp__crc32c_portable(0, data, len), want);
}

START_TEST(vectors)
{
	unsigned char up[32], down[32], ones[32], zeros[32] = { 0 };

	memset(ones, 0xff, sizeof(ones));
	for (unsigned char i = 0; i < 32; i++) {
		up[i] = i;
		down[i] = (unsigned char)(31 - i);
	}
	expect("", 0, 0);
	expect("123456789", 9, 0xe3069283);
	expect(zeros, 32, 0x8a9136aa);
	expect(ones, 32, 0x62a8ab43);
	expect(up, 32, 0x46dd794e);
	expect(down, 32, 0x113fdb5c);
}
END_TEST

START_TEST(same_by_both)
{
	fill();
	for (size_t from = 0; from < 16; from++)
		for (size_t len = 0; len < 200; len++)
			ck_assert_uint_eq(uffdwp__crc32c(7, buf + from, len),
					  uffdwp__crc32c_portable(7, buf + from, len));
}
END_TEST

START_TEST(in_parts)
{
	uint32_t whole;

	fill();
	whole = uffdwp__crc32c(0, buf, 1000);
	for (size_t cut = 0; cut <= 1000; cut++) {
		uint32_t crc = uffdwp__crc32c(0, buf, cut);

		ck_assert_uint_eq(uffdwp__crc32c(crc, buf + cut, 1000 - cut), whole);
	}
}
END_TEST

START_TEST(pages)
{
	static const size_t sizes[] = { 8, 512, 4096 };
	uint32_t crcs[9];

	fill();
	for (size_t s = 0; s < 3; s++)
		for (size_t n = 0; n <= 8 && n * sizes[s] <= BUF; n++) {
			memset(crcs, 0xa5, sizeof(crcs));
			uffdwp__crc32c_pages(buf, sizes[s], n, crcs);
			for (size_t i = 0; i < n; i++)
				ck_assert_uint_eq(crcs[i],
						  uffdwp__crc32c_portable(0, buf + i * sizes[s],
									  sizes[s]));
			ck_assert_uint_eq(crcs[n], 0xa5a5a5a5);
		}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { vectors, same_by_both, in_parts, pages };

	return args_run("image_crc32c", tests, sizeof(tests) / sizeof(tests[0]), NULL, 0);
}
