/* SPDX-License-Identifier: MIT */
/*
 * Writing images: what was given is what is read, whatever the options; pages written again, and zeros after
 * data; ends that are not complete leave the old file and nothing else; a forked child leaves everything.
 */
#include "image_dir.h"

#include <sys/file.h>

static struct dir dir;
static struct content content;

static void begin_test(void)
{
	dir_make(&dir, NULL);
	content_make(&content, 1);
}

static void end_test(int files)
{
	ck_assert_int_eq(dir_entries(&dir, false), files);
	content_free(&content);
	dir_remove(&dir);
}

static const struct uffdwp_image_opts ways[] = {
	{ .sz = sizeof(ways[0]) },
	{ .sz = sizeof(ways[0]), .buffered = 1 },
	{ .sz = sizeof(ways[0]), .depth = 1, .mode = 0640 },
	{ .sz = sizeof(ways[0]), .depth = 1024, .pid = -1 },
};

START_TEST(round_trip)
{
	const struct uffdwp_image_opts *o = &ways[_i];
	struct uffdwp_image_stats st = { .sz = sizeof(st) };
	struct image_maker m;
	struct stat file;
	uint64_t data = 0;

	begin_test();
	umask(022);
	ck_assert_int_eq(image_begin(&m, dir.image, o, content.part, PARTS), 0);
	for (uint32_t i = 0; i < PARTS; i++) {
		ck_assert_int_eq(image_put_part(&m, i, &content.part[i]), 0);
		data += content.part[i].len;
	}
	/* Under its name only at the end. */
	ck_assert_int_eq(access(dir.image, F_OK), -1);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	ck_assert_int_eq(uffdwp_image_sink_stats(&m.sink, &st), 0);
	ck_assert_uint_eq(st.direct, !o->buffered && dir_direct(&dir));
	ck_assert_uint_gt(st.writes, 0);
	ck_assert_uint_gt(st.bytes, data / 2);
	ck_assert_uint_lt(st.bytes, data);
	image_free(&m);
	content_check(&content, dir.image);
	ck_assert_int_eq(stat(dir.image, &file), 0);
	ck_assert_uint_eq(file.st_mode & 07777, o->mode ? o->mode : 0600);
	ck_assert_uint_eq((uint64_t)file.st_size, st.file_size);
	/* ext4 of Linux 5.10 counts some only later. */
	ck_assert_uint_le(st.file_bytes, (uint64_t)file.st_blocks * 512);
	ck_assert_uint_gt(st.file_bytes, 0);
	/* Zeros are holes; the page cache may not have been given its blocks yet. */
	ck_assert_uint_lt(st.file_bytes, data);
	end_test(1);
}
END_TEST

/* As precopy does: pages again and again, data becomes zeros and zeros data. */
START_TEST(rewrites)
{
	uint64_t x = 88172645463325252u, page = 4096;
	struct image_part *p = &content.part[0];
	struct image_maker m;
	struct content want;

	begin_test();
	content_make(&want, 100);
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, want.part, PARTS), 0);
	for (uint32_t i = 0; i < PARTS; i++)
		ck_assert_int_eq(image_put_part(&m, i, &want.part[i]), 0);
	for (int i = 0; i < 2000; i++) {
		uint64_t at, n;
		char *to;

		x = x * 6364136223846793005u + 1442695040888963407u;
		at = (x >> 33) % (p->len / page) * page;
		n = (1 + (x >> 20) % 8) * page;
		n = n < p->len - at ? n : p->len - at;
		to = (char *)(uintptr_t)want.part[0].data + at;
		/* Two writes of a page may not be in flight together. */
		ck_assert_int_eq(image_drain(&m), 0);
		if (x >> 60 & 1) {
			memset(to, 0, n);
			ck_assert_int_eq(image_zero(&m, 0, at, n), 0);
		} else {
			memcpy(to, p->data + at, n);
			ck_assert_int_eq(image_put(&m, 0, at, to, n), 0);
		}
	}
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	image_free(&m);
	content_check(&want, dir.image);
	content_free(&want);
	end_test(1);
}
END_TEST

/* What faults save, then the sweep between: few writes come of it, and single pages still are where they belong. */
START_TEST(scattered)
{
	struct uffdwp_image_stats st = { .sz = sizeof(st) };
	uint64_t page = 4096, pages = 192;
	struct uffdwp_image *img;
	struct image_part part;
	struct image_maker m;
	char *data, *got;

	begin_test();
	part = content.part[0];
	data = malloc(pages * page);
	got = malloc(pages * page);
	ck_assert(data && got);
	image_fill(data, pages * page, 3, 0);
	part.len = pages * page;
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, &part, 1), 0);
	/* 5 has no divisor in common with 64: every third page once, in no order. */
	for (uint64_t i = 0; i < pages / 3; i++) {
		uint64_t at = i * 5 % (pages / 3) * 3 * page;

		ck_assert_int_eq(image_put(&m, 0, at, data + at, page), 0);
	}
	for (uint64_t at = page; at < pages * page; at += 3 * page)
		for (uint64_t k = 0; k < 2 * page; k += page)
			ck_assert_int_eq(image_put(&m, 0, at + k, data + at + k, page), 0);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	ck_assert_int_eq(uffdwp_image_sink_stats(&m.sink, &st), 0);
	ck_assert_uint_eq(st.bytes, pages * page);
	ck_assert_uint_le(st.writes, pages / 12);
	image_free(&m);
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	ck_assert_int_eq(uffdwp_image_read(img, 0, 0, got, pages * page, NULL), 0);
	ck_assert_int_eq(memcmp(got, data, pages * page), 0);
	uffdwp_image_close(img);
	free(data);
	free(got);
	end_test(1);
}
END_TEST

/* What gdb sees of pages that became zeros are zeros, and they take no room. */
START_TEST(zeros_are_holes)
{
	struct image_part *p = &content.part[1];
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	struct uffdwp_image *img;
	struct image_maker m;
	char *raw;
	int fd;

	begin_test();
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	ck_assert_int_eq(image_put_part(&m, 1, p), 0);
	ck_assert_int_eq(image_drain(&m), 0);
	ck_assert_int_eq(image_zero(&m, 1, 0, p->len), 0);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	image_free(&m);
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	ck_assert_int_eq(uffdwp_image_region(img, 1, &r), 0);
	ck_assert_uint_eq(r.data, 0);
	uffdwp_image_close(img);
	fd = open(dir.image, O_RDONLY);
	raw = malloc(p->len);
	ck_assert_ptr_nonnull(raw);
	ck_assert_int_eq(pread(fd, raw, p->len, (off_t)r.offset), (ssize_t)p->len);
	ck_assert(!raw[0] && !memcmp(raw, raw + 1, p->len - 1));
	/* At the end of the file, behind region 1, is one page of region 2. */
	ck_assert_int_ge(lseek(fd, (off_t)r.offset, SEEK_DATA) < 0
				 ? (off_t)(r.offset + p->len)
				 : lseek(fd, (off_t)r.offset, SEEK_DATA),
			 (off_t)(r.offset + p->len));
	close(fd);
	free(raw);
	end_test(1);
}
END_TEST

/* Every end that is not complete, at each stage, leaves the old image and nothing else. */
START_TEST(not_complete)
{
	static const uint32_t verdicts[] = { UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_FAILED };
	struct content other;
	struct image_maker m;

	begin_test();
	content_make(&other, 50);
	ck_assert_int_eq(image_make(dir.image, NULL, content.part, PARTS), 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(image_begin(&m, dir.image, NULL, other.part, PARTS), 0);
		ck_assert_int_eq(image_put_part(&m, 0, &other.part[0]), 0);
		ck_assert_int_eq(dir_entries(&dir, false), 2);
		ck_assert_int_eq(image_end(&m, verdicts[i]), 0);
		ck_assert_int_eq(dir_entries(&dir, false), 1);
		image_free(&m);
	}
	/* Freed without an end, and without a beginning. */
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, other.part, PARTS), 0);
	image_free(&m);
	ck_assert_int_eq(dir_entries(&dir, false), 1);
	ck_assert_int_eq(uffdwp_image_sink(&m.sink, dir.image, NULL), 0);
	ck_assert_int_eq(dir_entries(&dir, false), 2);
	m.sink.free(m.sink.ctx);
	content_check(&content, dir.image);
	/* And a complete one replaces it. */
	ck_assert_int_eq(image_make(dir.image, NULL, other.part, PARTS), 0);
	content_check(&other, dir.image);
	content_free(&other);
	end_test(1);
}
END_TEST

/* A forked child that frees its copy must not take the parent's file away. */
START_TEST(fork_child)
{
	struct image_maker m;
	int status;
	pid_t pid;

	begin_test();
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	for (uint32_t i = 0; i < PARTS; i++)
		ck_assert_int_eq(image_put_part(&m, i, &content.part[i]), 0);
	ck_assert_int_eq(image_drain(&m), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		image_free(&m);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	image_free(&m);
	content_check(&content, dir.image);
	end_test(1);
}
END_TEST

/* The temporary file is locked while its writer lives. */
START_TEST(lock)
{
	struct image_maker m;
	struct dirent *e;
	DIR *d;
	int found = 0;

	begin_test();
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	d = opendir(dir.path);
	while ((e = readdir(d))) {
		int fd;

		if (strncmp(e->d_name, ".vm.img.", 8) != 0)
			continue;
		ck_assert_uint_eq(strlen(e->d_name), 8 + 6);
		fd = openat(dirfd(d), e->d_name, O_RDONLY);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), -1);
		close(fd);
		found++;
	}
	closedir(d);
	ck_assert_int_eq(found, 1);
	image_free(&m);
	end_test(0);
}
END_TEST

/* Relative names, also after a change of the directory; names as long as can be. */
START_TEST(names)
{
	char name[256], *cwd = getcwd(NULL, 0);
	struct image_maker m;

	begin_test();
	memset(name, 'x', 255);
	name[255] = '\0';
	ck_assert_int_eq(chdir(dir.path), 0);
	ck_assert_int_eq(image_begin(&m, name, NULL, content.part, PARTS), 0);
	ck_assert_int_eq(chdir("/"), 0);
	for (uint32_t i = 0; i < PARTS; i++)
		ck_assert_int_eq(image_put_part(&m, i, &content.part[i]), 0);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	image_free(&m);
	ck_assert_int_eq(chdir(dir.path), 0);
	content_check(&content, name);
	ck_assert_int_eq(chdir(cwd), 0);
	free(cwd);
	end_test(1);
}
END_TEST

/* Writes outside of the layout are refused, and spoil nothing. */
START_TEST(outside)
{
	struct image_maker m;

	begin_test();
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	ck_assert_int_eq(image_put(&m, PARTS, 0, content.part[0].data, 4096), -EINVAL);
	ck_assert_int_eq(image_put(&m, 2, 4096, content.part[0].data, 4096), -EINVAL);
	ck_assert_int_eq(image_put(&m, 0, 100, content.part[0].data, 4096), -EINVAL);
	ck_assert_int_eq(image_zero(&m, 0, 0, content.part[0].len + 4096), -EINVAL);
	ck_assert_int_eq(image_zero(&m, 0, UINT64_MAX - 4095, 8192), -EINVAL);
	for (uint32_t i = 0; i < PARTS; i++)
		ck_assert_int_eq(image_put_part(&m, i, &content.part[i]), 0);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	image_free(&m);
	content_check(&content, dir.image);
	end_test(1);
}
END_TEST

struct refusal {
	const char *path; /* below the directory */
	struct uffdwp_image_opts o;
	int err;
	const char *word;
};

static const struct refusal refusals[] = {
	{ "", { 0 }, -EINVAL, "names no file" },
	{ ".", { 0 }, -EINVAL, "names no file" },
	{ "none/vm.img", { 0 }, -ENOENT, "none" },
	{ "sub", { 0 }, -EISDIR, "not a regular file" },
	{ "pipe", { 0 }, -EINVAL, "not a regular file" },
	{ "vm.img", { .depth = 1025 }, -EINVAL, "depth 1025: must be" },
	{ "vm.img", { .buffered = 2 }, -EINVAL, "buffered 2: must be" },
	{ "vm.img", { .mode = 01777 }, -EINVAL, "mode 01777: must be" },
};

START_TEST(refused)
{
	struct uffdwp_image_opts o;
	char path[256], why[256];

	begin_test();
	(void)snprintf(path, sizeof(path), "%s/sub", dir.path);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/pipe", dir.path);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		struct uffdwp_sink sink = { .sz = 1 };

		o = refusals[i].o;
		o.sz = sizeof(o);
		o.reason = why;
		o.reason_size = sizeof(why);
		why[0] = '\0';
		(void)snprintf(path, sizeof(path), "%s/%s", dir.path, refusals[i].path);
		ck_assert_int_eq(uffdwp_image_sink(&sink, path, &o), refusals[i].err);
		ck_assert_msg(strstr(why, refusals[i].word), "\"%s\" has no \"%s\"", why,
			      refusals[i].word);
		ck_assert_ptr_null(sink.ctx);
	}
	ck_assert_int_eq(dir_entries(&dir, false), 2);
	(void)snprintf(path, sizeof(path), "%s/sub", dir.path);
	ck_assert_int_eq(rmdir(path), 0);
	end_test(1);
}
END_TEST

START_TEST(arguments)
{
	struct uffdwp_image_opts o = { .sz = sizeof(o) }, *longer;
	struct uffdwp_image_stats st = { .sz = sizeof(st) };
	struct uffdwp_sink sink;

	begin_test();
	ck_assert_int_eq(uffdwp_image_sink(NULL, dir.image, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_sink(&sink, NULL, NULL), -EINVAL);
	o.sz = 8;
	ck_assert_int_eq(uffdwp_image_sink(&sink, dir.image, &o), -EINVAL);
	o.sz = sizeof(o);
	longer = args_longer(&o, sizeof(o), 1);
	ck_assert_int_eq(uffdwp_image_sink(&sink, dir.image, longer), -E2BIG);
	free(longer);
	memset(&sink, 0, sizeof(sink));
	ck_assert_int_eq(uffdwp_image_sink_stats(&sink, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_image_sink_stats(NULL, &st), -EINVAL);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_image_sink(&sink, dir.image, longer), 0);
	free(longer);
	ck_assert_int_eq(uffdwp_image_sink_stats(&sink, NULL), -EINVAL);
	st.sz = 8;
	ck_assert_int_eq(uffdwp_image_sink_stats(&sink, &st), -EINVAL);
	sink.free(sink.ctx);
	end_test(0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { rewrites,   scattered, zeros_are_holes, not_complete,
				       fork_child, lock,      names,	       outside,
				       refused,	   arguments };

	return args_run("image_write", tests, sizeof(tests) / sizeof(tests[0]), round_trip,
			sizeof(ways) / sizeof(ways[0]));
}
