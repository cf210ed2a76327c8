/* SPDX-License-Identifier: MIT */
/* For the tests of images: a directory of their own, content in memory, and comparing with it. */
#ifndef TESTS_UNIT_IMAGE_DIR_H
#define TESTS_UNIT_IMAGE_DIR_H

#include "args.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uffdwp/image.h>

#include "../common/image.h"

struct dir {
	char path[200], image[256];
};

static inline void dir_make(struct dir *d, const char *where)
{
	const char *tmp = where ? where : getenv("TMPDIR");

	(void)snprintf(d->path, sizeof(d->path), "%s/uffdwp-image-XXXXXX", tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(d->path));
	(void)snprintf(d->image, sizeof(d->image), "%s/vm.img", d->path);
}

/* Entries besides "." and ".."; removes them if asked. */
static inline int dir_entries(const struct dir *d, bool remove_them)
{
	DIR *dp = opendir(d->path);
	struct dirent *e;
	int n = 0;

	ck_assert_ptr_nonnull(dp);
	while ((e = readdir(dp))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		n++;
		if (remove_them)
			ck_assert_int_eq(unlinkat(dirfd(dp), e->d_name, 0), 0);
	}
	closedir(dp);
	return n;
}

static inline void dir_remove(const struct dir *d)
{
	dir_entries(d, true);
	ck_assert_int_eq(rmdir(d->path), 0);
}

static inline bool dir_direct(const struct dir *d)
{
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/probe", d->path);
	fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
	unlink(path);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

#define PARTS 3

/* Three regions: mixed, with huge pages, one page; in no order of addresses. */
struct content {
	struct image_part part[PARTS];
};

static inline void content_make(struct content *c, uint64_t seed)
{
	static const struct image_part shape[PARTS] = {
		{ 0x7f0000400000, 300 * 4096, 4096, NULL },
		{ 0x100000000, 4u << 20, 2u << 20, NULL },
		{ 0x7f0000000000, 4096, 4096, NULL },
	};

	for (int i = 0; i < PARTS; i++) {
		char *data = malloc(shape[i].len);

		ck_assert_ptr_nonnull(data);
		image_fill(data, shape[i].len, seed + (uint64_t)i, i == 2 ? 0 : 3);
		c->part[i] = shape[i];
		c->part[i].data = data;
	}
}

static inline void content_free(struct content *c)
{
	for (int i = 0; i < PARTS; i++)
		free((void *)(uintptr_t)c->part[i].data);
}

/* The image at path opens, and holds exactly this. */
static inline void content_check(const struct content *c, const char *path)
{
	struct uffdwp_image_info info = { .sz = sizeof(info) };
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = sizeof(why) };
	struct uffdwp_image *img;
	int err = uffdwp_image_open(&img, path, &o);

	ck_assert_msg(!err, "open: %s: %s", strerror(-err), why);
	ck_assert_int_eq(uffdwp_image_info(img, &info), 0);
	ck_assert_uint_eq(info.regions, PARTS);
	ck_assert_uint_eq(info.sealed_ns, IMAGE_SEALED);
	for (uint32_t i = 0; i < PARTS; i++) {
		struct uffdwp_image_region r = { .sz = sizeof(r) };
		uint64_t len = c->part[i].len, bad = 7;
		char *got = malloc(len);

		ck_assert_ptr_nonnull(got);
		ck_assert_int_eq(uffdwp_image_region(img, i, &r), 0);
		ck_assert_uint_eq(r.addr, c->part[i].addr);
		ck_assert_uint_eq(r.len, len);
		ck_assert_uint_eq(r.page_size, c->part[i].page_size);
		ck_assert_int_eq(uffdwp_image_read(img, i, 0, got, len, &bad), 0);
		ck_assert_uint_eq(bad, 7);
		ck_assert_int_eq(memcmp(got, c->part[i].data, len), 0);
		free(got);
	}
	ck_assert_int_eq(uffdwp_image_verify(img, NULL), 0);
	uffdwp_image_close(img);
}

#endif
