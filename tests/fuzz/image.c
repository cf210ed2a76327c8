/* SPDX-License-Identifier: MIT */
/*
 * A libFuzzer target: any bytes as an image. Opening must refuse or give an image that can be read within its
 * bounds, and restored: what is not damaged as it is read, and nothing else. The first byte says whether the
 * checksums of the rest are made right first, which is how the fuzzer gets behind them, and how to restore.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uffdwp/image.h>

#include "fuzz.h"
#include "image/format.h"

#define SIZE_MAX_FUZZ (1u << 20)
#define FIX 1u
#define EAGER 2u
#define LAZY 4u
#define RESTORED_MAX 8 /* regions, which is enough */

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

/* An image that was opened holds what it says. Returns whether pages are damaged. */
static bool use(struct uffdwp_image *img, uint32_t *regions)
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
	*regions = info.regions;
	return damage.bytes != 0;
}

/* ---- Restoring ---- */

struct place {
	char *map;
	size_t size;
	uint64_t addr;
};

/* Memory as aligned as the image says that it was. */
static void map_place(struct place *p, const struct uffdwp_image_region *r)
{
	p->size = r->len + r->page_size;
	p->map = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FUZZ_REQUIRE(p->map != MAP_FAILED);
	p->addr = ((uintptr_t)p->map + r->page_size - 1) / r->page_size * r->page_size;
}

/* Each page is what reading it gives; what can not be read is not looked at, nobody may. */
static void compare(const struct uffdwp_image *img, uint32_t region, const struct place *p)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	char *page;

	FUZZ_REQUIRE(!uffdwp_image_region(img, region, &r));
	page = malloc(r.page_size);
	FUZZ_REQUIRE(page);
	for (uint64_t at = 0; at < r.len; at += r.page_size) {
		if (!uffdwp_image_read(img, region, at, page, r.page_size, NULL))
			FUZZ_REQUIRE(!memcmp((char *)(uintptr_t)p->addr + at, page, r.page_size));
	}
	free(page);
}

static int restore_to(struct uffdwp_restore_opts *o, const struct place *places, uint32_t n)
{
	struct uffdwp_opts ho = { .sz = sizeof(ho), .serve = UFFDWP_SERVE_THREADS, .threads = 1 };
	struct uffdwp_restore *rs;
	struct uffdwp *h = NULL;
	int rc;

	if (!o->eager)
		FUZZ_REQUIRE(!uffdwp_open(&h, &ho));
	o->handle = h;
	rc = uffdwp_restore_start(&rs, o);
	if (!rc) {
		rc = uffdwp_restore_wait(rs, NULL);
		for (uint32_t i = 0; i < n; i++)
			compare(o->image, i, &places[i]);
		FUZZ_REQUIRE(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE) == rc);
	}
	if (h)
		FUZZ_REQUIRE(!uffdwp_close(h));
	return rc;
}

/* Whether verify found damage is what a restore says, too. */
static void restore(struct uffdwp_image *img, uint32_t n, bool eager, bool damaged)
{
	struct place places[RESTORED_MAX];
	uint64_t addrs[RESTORED_MAX];
	char why[128] = "";
	struct uffdwp_restore_opts o = {
		.sz = sizeof(o),
		.image = img,
		.addrs = addrs,
		.eager = eager,
		.reason = why,
		.reason_size = sizeof(why),
	};
	int rc;

	for (uint32_t i = 0; i < n; i++) {
		struct uffdwp_image_region r = { .sz = sizeof(r) };

		FUZZ_REQUIRE(!uffdwp_image_region(img, i, &r));
		map_place(&places[i], &r);
		addrs[i] = places[i].addr;
	}
	rc = restore_to(&o, places, n);
	if (rc == -EOPNOTSUPP) /* of another machine */
		FUZZ_REQUIRE(why[0]);
	else
		FUZZ_REQUIRE(rc == (damaged ? -EBADMSG : 0));
	for (uint32_t i = 0; i < n; i++)
		munmap(places[i].map, places[i].size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct uffdwp_image_open_opts o = { .sz = sizeof(o) };
	struct uffdwp_image *img;
	char why[64] = "";
	bool damaged;
	uint8_t *copy;
	uint32_t n;
	int fd;

	if (!size || size > SIZE_MAX_FUZZ)
		return 0;
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	copy = malloc(size);
	if (fd < 0 || !copy)
		abort();
	memcpy(copy, data + 1, size - 1);
	if (data[0] & FIX)
		fix(copy, size - 1);
	if (write(fd, copy, size - 1) != (ssize_t)(size - 1))
		abort();
	o.reason = why;
	o.reason_size = sizeof(why);
	if (!uffdwp_image_fdopen(&img, fd, &o)) {
		damaged = use(img, &n);
		if (n <= RESTORED_MAX && data[0] & (EAGER | LAZY))
			restore(img, n, data[0] & EAGER, damaged);
		uffdwp_image_close(img);
	} else if (size > 1 && !why[0]) {
		/* Nothing here can fail for another reason than what is in the file. */
		abort();
	}
	free(copy);
	close(fd);
	return 0;
}
