/* SPDX-License-Identifier: MIT */
/*
 * A libFuzzer target: any bytes as an image. Opening must refuse or give an image that can be read within its
 * bounds. The first byte says whether the checksums of the rest are made right first, which is how the fuzzer
 * gets behind them.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uffdwp/image.h>

#include "fuzz.h"
#include "image/format.h"

#define SIZE_MAX_FUZZ (1u << 20)

/* The index of the table as it is said to lie, right before it; false: not inside. */
static bool fix_index(uint8_t *buf, size_t size, size_t crc_at)
{
	uint64_t offset, bytes, index_bytes;
	struct uffdwp__index_crc crc;

	if (crc_at + 36 > size)
		return false;
	memcpy(&offset, buf + crc_at + 24, 8);
	memcpy(&bytes, buf + crc_at + 32, 8);
	if (offset > size || bytes > size - offset || bytes % 4096)
		return false;
	index_bytes = (bytes / 4096 * sizeof(struct uffdwp__index) + 4095) & ~UINT64_C(4095);
	if (index_bytes > offset)
		return false;
	uffdwp__index_crc_begin(&crc, 4096);
	for (uint64_t at = 0; at < bytes; at += 4096) {
		uint32_t block[UFFDWP__BLOCK];
		struct uffdwp__index x;

		memcpy(block, buf + offset + at, sizeof(block));
		x = uffdwp__index_of(block);
		memcpy(buf + offset - index_bytes + at / 4096 * sizeof(x), &x, sizeof(x));
	}
	for (uint64_t at = offset - index_bytes; at < offset; at += 4096)
		uffdwp__index_crc_add(&crc, buf + at);
	memcpy(buf + crc_at + 4, &crc.crc, 4);
	return true;
}

static void fix(uint8_t *buf, size_t size)
{
	uint64_t header_size = 0;
	size_t crc_at = uffdwp__meta_crc_at(buf, size, &header_size);
	uint32_t crc;

	if (!crc_at)
		return;
	fix_index(buf, size, crc_at);
	crc = uffdwp__meta_crc(buf, header_size, crc_at);
	memcpy(buf + crc_at, &crc, 4);
}

/* An image that was opened holds what it says. */
static void use(struct uffdwp_image *img)
{
	struct uffdwp_image_info info = { .sz = sizeof(info) };
	struct uffdwp_image_damage damage = { .sz = sizeof(damage) };
	static char buf[3 * 4096];
	uint64_t data = 0;

	if (uffdwp_image_info(img, &info) || !info.regions || info.size >= info.file_size)
		abort();
	for (uint32_t i = 0; i < info.regions; i++) {
		struct uffdwp_image_region r = { .sz = sizeof(r) };
		uint64_t n;

		if (uffdwp_image_region(img, i, &r) || !r.len || r.offset + r.len > info.file_size)
			abort();
		n = r.len < sizeof(buf) ? r.len : sizeof(buf);
		(void)uffdwp_image_read(img, i, r.len - n, buf, n, NULL);
		(void)uffdwp_image_read(img, i, 1, buf, n - 1, NULL);
		data += r.data;
	}
	if (data != info.data || (uffdwp_image_verify(img, &damage) != 0) != (damage.bytes != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct uffdwp_image_open_opts o = { .sz = sizeof(o) };
	struct uffdwp_image *img;
	char why[64] = "";
	uint8_t *copy;
	int fd;

	if (!size || size > SIZE_MAX_FUZZ)
		return 0;
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	copy = malloc(size);
	if (fd < 0 || !copy)
		abort();
	memcpy(copy, data + 1, size - 1);
	if (data[0] & 1)
		fix(copy, size - 1);
	if (write(fd, copy, size - 1) != (ssize_t)(size - 1))
		abort();
	o.reason = why;
	o.reason_size = sizeof(why);
	if (!uffdwp_image_fdopen(&img, fd, &o)) {
		use(img);
		uffdwp_image_close(img);
	} else if (size > 1 && !why[0]) {
		/* Nothing here can fail for another reason than what is in the file. */
		abort();
	}
	free(copy);
	close(fd);
	return 0;
}
