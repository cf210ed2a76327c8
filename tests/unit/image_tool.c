/* SPDX-License-Identifier: MIT */
/* uffd-image: what it prints, what it writes, and its exit codes. */
#include "image_dir.h"

static struct dir dir;
static struct content content;
static char out[1 << 16], err[1 << 16];

static void slurp(const char *name, char *to, size_t size)
{
	char path[300];
	FILE *f;
	size_t n;

	(void)snprintf(path, sizeof(path), "%s/%s", dir.path, name);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	n = fread(to, 1, size - 1, f);
	to[n] = '\0';
	fclose(f);
	ck_assert_int_eq(unlink(path), 0);
}

/* Runs it with arguments in which %s is the image; leaves its output in out and err. */
static int tool(const char *args)
{
	const char *build = getenv("BUILD");
	char with[1024], command[2048];
	int status;

	(void)snprintf(with, sizeof(with), args, dir.image, dir.path);
	(void)snprintf(command, sizeof(command), "%s/uffd-image %s >%s/out 2>%s/err",
		       build ? build : "build", with, dir.path, dir.path);
	status = system(command);
	ck_assert(WIFEXITED(status));
	slurp("out", out, sizeof(out));
	slurp("err", err, sizeof(err));
	return WEXITSTATUS(status);
}

static void expect(const char *args, int code, const char *in_out, const char *in_err)
{
	int got = tool(args);

	ck_assert_msg(got == code, "%s: exit %d: %s%s", args, got, out, err);
	ck_assert_msg(strstr(out, in_out), "%s: \"%s\" has no \"%s\"", args, out, in_out);
	ck_assert_msg(strstr(err, in_err), "%s: \"%s\" has no \"%s\"", args, err, in_err);
	ck_assert(in_out[0] || !out[0]);
	ck_assert(in_err[0] || !err[0]);
}

static void begin_test(void)
{
	dir_make(&dir, NULL);
	content_make(&content, 1);
	ck_assert_int_eq(image_make(dir.image, NULL, content.part, PARTS), 0);
}

static void end_test(void)
{
	content_free(&content);
	dir_remove(&dir);
}

START_TEST(info)
{
	begin_test();
	expect("info %s", 0, "region 1 0x100000000, 4194304 bytes, pages of 2097152", "");
	expect("info %s", 0, "sealed   2023-11-14T22:13:20.123456789Z", "");
	expect("info --json %s", 0, "\"ok\":true,\"version\":2", "");
	expect("info %s --json", 0, "{\"schema\":1,\"region\":2,\"addr\":139637976727552,", "");
	end_test();
}
END_TEST

START_TEST(verify)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	struct uffdwp_image *img;
	int fd;

	begin_test();
	expect("verify %s", 0, "as they were written", "");
	expect("verify --json %s", 0, "\"ok\":true", "");
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	ck_assert_int_eq(uffdwp_image_region(img, 2, &r), 0);
	uffdwp_image_close(img);
	fd = open(dir.image, O_WRONLY);
	ck_assert_int_eq(pwrite(fd, "damage", 6, (off_t)r.offset + 100), 6);
	close(fd);
	expect("verify %s", 1, "", "4096 bytes damaged, the first in region 2 at offset 0");
	expect("verify --json %s", 1, "\"ok\":false", "damaged");
	expect("extract --region=2 --output=%2$s/r %1$s", 1, "", "region 2 at offset 0");
	ck_assert_int_eq(dir_entries(&dir, false), 1);
	ck_assert_int_eq(truncate(dir.image, 100000), 0);
	expect("verify %s", 1, "", "truncated: 100000 bytes");
	expect("info --json %s", 1, "\"error\":\"truncated", "truncated");
	end_test();
}
END_TEST

START_TEST(extract)
{
	struct stat st;
	char path[300];

	begin_test();
	for (uint32_t i = 0; i < PARTS; i++) {
		uint64_t len = content.part[i].len;
		char args[100], *got = malloc(len);
		int fd;

		ck_assert_ptr_nonnull(got);
		(void)snprintf(args, sizeof(args), "extract --region=%u --output=%%2$s/r %%1$s", i);
		expect(args, 0, "", "");
		(void)snprintf(path, sizeof(path), "%s/r", dir.path);
		fd = open(path, O_RDONLY);
		ck_assert_int_eq(fstat(fd, &st), 0);
		ck_assert_uint_eq((uint64_t)st.st_size, len);
		ck_assert_int_eq(read(fd, got, len), (ssize_t)len);
		ck_assert_int_eq(memcmp(got, content.part[i].data, len), 0);
		close(fd);
		(void)snprintf(args, sizeof(args),
			       "extract --region=%u %%1$s | cmp - %%2$s/r && true", i);
		expect(args, 0, "", "");
		free(got);
	}
	ck_assert_int_eq(unlink(path), 0);
	end_test();
}
END_TEST

START_TEST(misuse)
{
	begin_test();
	expect("--help", 0, "usage: uffd-image", "");
	expect("--version", 0, uffdwp_version(), "");
	expect("", 2, "", "no command");
	expect("inform %s", 2, "", "no such command: inform");
	expect("info", 2, "", "needs one FILE");
	expect("info %s %s", 2, "", "needs one FILE");
	expect("info --wrong %s", 2, "", "--help");
	expect("info --region=1 %s", 2, "", "for extract alone");
	expect("extract --json %s", 2, "", "for info and verify alone");
	expect("extract %s", 2, "", "3 regions: --region must say which");
	expect("extract --region=3 %s", 2, "", "3 regions, from 0 on");
	expect("extract --region=x %s", 2, "", "must be a number");
	expect("info /nowhere/vm.img", 99, "", "/nowhere/vm.img");
	expect("extract --region=2 --output=/nowhere/x %s", 99, "", "/nowhere/x");
	expect("extract --region=2 --output=/dev/full %s", 99, "", "/dev/full: No space");
	expect("info /proc/self/exe", 1, "", "not a core file");
	end_test();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { info, verify, extract, misuse };

	return args_run("image_tool", tests, sizeof(tests) / sizeof(tests[0]), NULL, 0);
}
