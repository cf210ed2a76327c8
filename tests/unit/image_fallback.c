/* SPDX-License-Identifier: MIT */
/*
 * Images where something is missing: io_uring, memory that may be locked, O_DIRECT; and where writing fails:
 * a full disk, an I/O error. Each test runs in a process of its own, whose rights it takes away.
 */
#include "image_dir.h"

#include <seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/vfs.h>

static struct dir dir;
static struct content content;

static void forbid(const char *name, int err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(seccomp_rule_add(f, SCMP_ACT_ERRNO((uint32_t)err),
					  seccomp_syscall_resolve_name(name), 0),
			 0);
	ck_assert_int_eq(seccomp_load(f), 0);
	seccomp_release(f);
}

static struct uffdwp_image_stats write_all_parts(uint32_t depth)
{
	struct uffdwp_image_opts o = { .sz = sizeof(o), .depth = depth };
	struct uffdwp_image_stats st = { .sz = sizeof(st) };
	struct image_maker m;

	ck_assert_int_eq(image_begin(&m, dir.image, &o, content.part, PARTS), 0);
	for (uint32_t i = 0; i < PARTS; i++)
		ck_assert_int_eq(image_put_part(&m, i, &content.part[i]), 0);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	ck_assert_int_eq(uffdwp_image_sink_stats(&m.sink, &st), 0);
	image_free(&m);
	content_check(&content, dir.image);
	return st;
}

static void end_test(int files)
{
	ck_assert_int_eq(dir_entries(&dir, false), files);
	content_free(&content);
	dir_remove(&dir);
}

/* As containers do, and the sysctl io_uring_disabled. */
START_TEST(no_uring)
{
	static const int errors[] = { EPERM, ENOSYS, ENOMEM };

	dir_make(&dir, NULL);
	content_make(&content, 1);
	forbid("io_uring_setup", errors[_i]);
	ck_assert_uint_eq(write_all_parts(32).registered, 0);
	end_test(1);
}
END_TEST

START_TEST(no_locked_memory)
{
	struct rlimit none = { 0 };

	dir_make(&dir, NULL);
	content_make(&content, 1);
	if (geteuid()) {
		printf("SKIP no_locked_memory: not root, whose limit it would be\n");
	} else {
		ck_assert_int_eq(chmod(dir.path, 0777), 0);
		ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &none), 0);
		ck_assert_int_eq(setresuid(65534, 65534, 0), 0);
		ck_assert_uint_eq(write_all_parts(32).registered, 0);
		ck_assert_int_eq(setresuid(0, 0, 0), 0);
	}
	end_test(geteuid() ? 0 : 1);
}
END_TEST

START_TEST(uring_registers)
{
	dir_make(&dir, NULL);
	content_make(&content, 1);
	if (geteuid())
		printf("SKIP uring_registers: not root, whom nothing limits\n");
	else
		ck_assert_uint_eq(write_all_parts(32).registered, 1);
	end_test(geteuid() ? 0 : 1);
}
END_TEST

START_TEST(tmpfs)
{
	struct statfs fs;

	dir_make(&dir, "/dev/shm");
	ck_assert_int_eq(statfs(dir.path, &fs), 0);
	ck_assert_int_eq(fs.f_type, 0x01021994);
	content_make(&content, 1);
	if (!geteuid())
		ck_assert_uint_eq(write_all_parts(32).registered, 1);
	ck_assert_uint_eq(write_all_parts(0).registered, 0);
	end_test(1);
}
END_TEST

/* A file system that is full: the error is told, the old image stays, nothing else does. */
START_TEST(disk_full)
{
	struct image_maker m;
	int err = 0;

	dir_make(&dir, NULL);
	content_make(&content, 1);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", dir.path, "tmpfs", 0, "size=6m")) {
		printf("SKIP disk_full: mount: %s\n", strerror(errno));
		end_test(0);
		return;
	}
	write_all_parts(0);
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	for (uint32_t i = 0; !err && i < PARTS; i++)
		err = image_put_part(&m, i, &content.part[i]);
	err = err ? err : image_drain(&m);
	ck_assert_int_eq(err, -ENOSPC);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_FAILED), -ENOSPC);
	image_free(&m);
	ck_assert_int_eq(dir_entries(&dir, false), 1);
	content_check(&content, dir.image);
	ck_assert_int_eq(umount2(dir.path, MNT_DETACH), 0);
	end_test(0);
}
END_TEST

/* Each of the calls at the end fails in turn. */
START_TEST(end_fails)
{
	static const char *const calls[] = { "fsync", "renameat", "pwrite64" };
	struct uffdwp_snapshot_result r = { .sz = sizeof(r), .verdict = UFFDWP_SNAPSHOT_COMPLETE };
	struct content other;
	struct image_maker m;

	dir_make(&dir, NULL);
	content_make(&content, 1);
	content_make(&other, 50);
	write_all_parts(0);
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, other.part, PARTS), 0);
	for (uint32_t i = 0; i < PARTS; i++)
		ck_assert_int_eq(image_put_part(&m, i, &other.part[i]), 0);
	ck_assert_int_eq(image_drain(&m), 0);
	forbid(calls[_i], EIO);
	ck_assert_int_eq(m.sink.end(m.sink.ctx, &r), -EIO);
	image_free(&m);
	ck_assert_int_eq(dir_entries(&dir, false), 1);
	content_check(&content, dir.image);
	content_free(&other);
	end_test(1);
}
END_TEST

/*
 * An I/O error of a page is the write's, and the end that follows throws the file away. Large writes
 * without io_uring; small ones, which are no matter for it.
 */
START_TEST(write_fails)
{
	struct image_maker m;

	/* tmpfs has O_DIRECT since Linux 6.6. */
	dir_make(&dir, _i == 1 ? "/var/tmp" : NULL);
	content_make(&content, 1);
	if (_i == 0)
		forbid("io_uring_setup", EPERM);
	if (_i == 1 && !dir_direct(&dir)) {
		printf("SKIP write_fails: no O_DIRECT in %s\n", dir.path);
		end_test(0);
		return;
	}
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	forbid("pwritev", EIO);
	ck_assert_int_eq(image_put(&m, 0, 0, content.part[0].data, 4096), 0);
	ck_assert_int_eq(image_drain(&m), -EIO);
	image_end(&m, UFFDWP_SNAPSHOT_FAILED);
	image_free(&m);
	end_test(0);
}
END_TEST

/* A file system without holes: zeros are written. */
START_TEST(no_punch)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	struct image_part *p = &content.part[0];
	struct uffdwp_image *img;
	struct image_maker m;
	char raw[4096];
	int fd;

	dir_make(&dir, NULL);
	content_make(&content, 1);
	ck_assert_int_eq(image_begin(&m, dir.image, NULL, content.part, PARTS), 0);
	ck_assert_int_eq(image_put_part(&m, 0, p), 0);
	ck_assert_int_eq(image_drain(&m), 0);
	ck_assert_int_eq(image_zero(&m, 0, 0, p->len), 0);
	forbid("fallocate", EOPNOTSUPP);
	ck_assert_int_eq(image_end(&m, UFFDWP_SNAPSHOT_COMPLETE), 0);
	image_free(&m);
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	ck_assert_int_eq(uffdwp_image_region(img, 0, &r), 0);
	uffdwp_image_close(img);
	fd = open(dir.image, O_RDONLY);
	for (uint64_t at = 0; at < p->len; at += sizeof(raw)) {
		ck_assert_int_eq(pread(fd, raw, sizeof(raw), (off_t)(r.offset + at)), sizeof(raw));
		ck_assert(!raw[0] && !memcmp(raw, raw + 1, sizeof(raw) - 1));
	}
	close(fd);
	end_test(1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("image_fallback");
	TCase *t = tcase_create("image_fallback");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, no_uring, 0, 3);
	tcase_add_loop_test(t, end_fails, 0, 3);
	tcase_add_test(t, no_locked_memory);
	tcase_add_test(t, uring_registers);
	tcase_add_test(t, tmpfs);
	tcase_add_test(t, disk_full);
	tcase_add_loop_test(t, write_fails, 0, 2);
	tcase_add_test(t, no_punch);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	/* Each test takes away rights that the next one needs. */
	srunner_set_fork_status(r, CK_FORK);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
