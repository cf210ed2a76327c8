/* SPDX-License-Identifier: MIT */
/* Bad arguments of restore, each refused with words, and nothing stays registered. */
#include "image_dir.h"

#include "image/format.h"

static struct dir dir;
static struct uffdwp_image *img;
static struct uffdwp *h;
static uint64_t addrs[2];
static char pages[4 * 4096];

static void begin_test(void)
{
	struct image_part part[2] = { { 0x10000, 2 * 4096, 4096, pages },
				      { 0x20000, 4 * 4096, 4096, pages } };
	struct uffdwp_opts o = { .sz = sizeof(o), .serve = UFFDWP_SERVE_CALLER };

	dir_make(&dir, NULL);
	image_fill(pages, sizeof(pages), 1, 0);
	ck_assert_int_eq(image_make(dir.image, NULL, part, 2), 0);
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	ck_assert_int_eq(uffdwp_open(&h, &o), 0);
	for (int i = 0; i < 2; i++) {
		void *p = mmap(NULL, part[i].len, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ck_assert_ptr_ne(p, MAP_FAILED);
		addrs[i] = (uintptr_t)p;
	}
}

static uint32_t regions(void)
{
	struct uffdwp_info info = { .sz = sizeof(info) };

	ck_assert_int_eq(uffdwp_info(h, &info), 0);
	return info.regions;
}

static void end_test(void)
{
	ck_assert_uint_eq(regions(), 0);
	munmap((void *)(uintptr_t)addrs[0], 2 * 4096);
	munmap((void *)(uintptr_t)addrs[1], 4 * 4096);
	ck_assert_int_eq(uffdwp_close(h), 0);
	uffdwp_image_close(img);
	dir_remove(&dir);
}

static void refused(struct uffdwp_restore_opts *o, int err, const char *name, const char *value)
{
	struct uffdwp_restore *rs = (void *)(uintptr_t)8;
	char why[256] = "";

	o->sz = sizeof(*o);
	o->reason = why;
	o->reason_size = sizeof(why);
	ck_assert_int_eq(uffdwp_restore_start(&rs, o), err);
	o->reason = NULL;
	ck_assert_ptr_null(rs);
	/* The core's own words have tests of their own. */
	if (value)
		args_reason(why, name, value);
	else
		ck_assert_msg(strstr(why, name), "\"%s\" has no \"%s\"", why, name);
	ck_assert_uint_eq(regions(), 0);
}

START_TEST(options)
{
	struct uffdwp_restore_range bad[] = { { .region = 2, .len = 1 },
					      { .region = 0, .len = 0 },
					      { .region = 0, .offset = 8192, .len = 1 },
					      { .region = 1, .offset = 1, .len = UINT64_MAX } };
	struct uffdwp_restore_opts o;

	begin_test();
#define BASE .image = img, .handle = h, .addrs = addrs
	o = (struct uffdwp_restore_opts){ .handle = h };
	refused(&o, -EINVAL, "image", "");
	o = (struct uffdwp_restore_opts){ .image = img };
	refused(&o, -EINVAL, "handle", "eager 1");
	o = (struct uffdwp_restore_opts){ BASE, .eager = 2 };
	refused(&o, -EINVAL, "eager", "2");
	o = (struct uffdwp_restore_opts){ BASE, .eager = 1 };
	refused(&o, -EINVAL, "eager", "1");
	o = (struct uffdwp_restore_opts){ BASE, .protect = 3 };
	refused(&o, -EINVAL, "protect", "3");
	o = (struct uffdwp_restore_opts){ BASE, .prefetch = 2 };
	refused(&o, -EINVAL, "prefetch", "2");
	o = (struct uffdwp_restore_opts){ BASE, .buffered = 2 };
	refused(&o, -EINVAL, "buffered", "2");
	o = (struct uffdwp_restore_opts){ BASE, .depth = 257 };
	refused(&o, -EINVAL, "depth", "257");
	o = (struct uffdwp_restore_opts){ BASE, .norder = 1 };
	refused(&o, -EINVAL, "norder", "1");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		o = (struct uffdwp_restore_opts){ BASE, .order = &bad[i], .norder = 1 };
		refused(&o, -EINVAL, "order[0]", "must be");
	}
	end_test();
}
END_TEST

START_TEST(structs)
{
	struct uffdwp_restore_opts o, *longer;
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	struct uffdwp_restore *rs;

	begin_test();
	o = (struct uffdwp_restore_opts){ .sz = sizeof(o), BASE, .prefetch = 1 };
	ck_assert_int_eq(uffdwp_restore_start(NULL, &o), -EINVAL);
	ck_assert_int_eq(uffdwp_restore_start(&rs, NULL), -EINVAL);
	longer = args_longer(&o, sizeof(o), 1);
	ck_assert_int_eq(uffdwp_restore_start(&rs, longer), -E2BIG);
	free(longer);
	o.sz = 16;
	ck_assert_int_eq(uffdwp_restore_start(&rs, &o), -EINVAL);
	o.sz = sizeof(o);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_restore_start(&rs, longer), 0);
	free(longer);
	ck_assert_uint_eq(regions(), 2);
	ck_assert_int_eq(uffdwp_restore_stats(NULL, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_restore_stats(rs, NULL), -EINVAL);
	st.sz = 8;
	ck_assert_int_eq(uffdwp_restore_stats(rs, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_restore_wait(NULL, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_restore_order(NULL, NULL, 0), -EINVAL);
	ck_assert_int_eq(uffdwp_restore_order(rs, NULL, 1), -EINVAL);
	ck_assert_ptr_null(uffdwp_restore_region(NULL, 0));
	ck_assert_ptr_null(uffdwp_restore_region(rs, 2));
	ck_assert_int_eq(uffdwp_restore_free(rs, 3), -EINVAL);
	ck_assert_uint_eq(regions(), 2);
	ck_assert_int_eq(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	ck_assert_int_eq(memcmp((void *)(uintptr_t)addrs[1], pages, sizeof(pages)), 0);
	ck_assert_int_eq(uffdwp_restore_free(NULL, UFFDWP_RESTORE_KEEP), 0);
	end_test();
}
END_TEST

/* The second region can not be added: the first one goes again. */
START_TEST(half)
{
	struct uffdwp_restore_opts o;
	uint64_t was;

	begin_test();
	was = addrs[1];
	addrs[1] = 0x1000;
	o = (struct uffdwp_restore_opts){ BASE };
	refused(&o, -EINVAL, "region 1: addr 0x1000", NULL);
	addrs[1] = addrs[0];
	o = (struct uffdwp_restore_opts){ BASE };
	refused(&o, -EEXIST, "region 1: addr", NULL);
	addrs[1] = was;
	end_test();
}
END_TEST

START_TEST(sigbus)
{
	struct uffdwp_opts ho = { .sz = sizeof(ho), .serve = UFFDWP_SERVE_SIGBUS };
	struct uffdwp_restore_opts o;
	struct uffdwp *was;

	begin_test();
	was = h;
	ck_assert_int_eq(uffdwp_open(&h, &ho), 0);
	o = (struct uffdwp_restore_opts){ BASE };
	refused(&o, -EOPNOTSUPP, "handle", "SIGBUS");
	ck_assert_int_eq(uffdwp_close(h), 0);
	h = was;
	end_test();
}
END_TEST

/* An image of another machine can be read, but not be used. */
START_TEST(other_machine)
{
	struct uffdwp_image_info info = { .sz = sizeof(info) };
	struct uffdwp_restore_opts o;
	uint64_t header_size = 0;
	char header[8192], byte;
	size_t crc_at;
	uint32_t crc;
	int fd;

	begin_test();
	fd = open(dir.image, O_RDWR);
	ck_assert_int_eq(pread(fd, header, sizeof(header), 0), sizeof(header));
	header[18] = 2; /* e_machine: SPARC */
	crc_at = uffdwp__meta_crc_at(header, sizeof(header), &header_size);
	ck_assert_uint_gt(crc_at, 0);
	crc = uffdwp__meta_crc(header, header_size, crc_at);
	memcpy(header + crc_at, &crc, sizeof(crc));
	ck_assert_int_eq(pwrite(fd, header, sizeof(header), 0), sizeof(header));
	uffdwp_image_close(img);
	ck_assert_int_eq(uffdwp_image_fdopen(&img, fd, NULL), 0);
	close(fd);
	ck_assert_int_eq(uffdwp_image_info(img, &info), 0);
	ck_assert_uint_eq(info.machine, 2);
	ck_assert_int_eq(uffdwp_image_read(img, 1, 77, &byte, 1, NULL), 0);
	ck_assert_int_eq(byte, pages[77]);
	o = (struct uffdwp_restore_opts){ BASE };
	refused(&o, -EOPNOTSUPP, "machine 2", "must be");
	end_test();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { options, structs, half, sigbus, other_machine };

	return args_run("args_restore", tests, sizeof(tests) / sizeof(tests[0]), NULL, 0);
}
