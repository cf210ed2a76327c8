/* SPDX-License-Identifier: MIT */
/* Asking a handle: info, error, stats, descriptor and dispatch, with each argument wrong in turn. */
#include "args.h"

START_TEST(null_handle)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp_stats st = { .sz = sizeof(st) };

	ck_assert_int_eq(uffdwp_info(NULL, &info), -EINVAL);
	ck_assert_int_eq(uffdwp_stats(NULL, UFFDWP_ALL_WORKERS, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_error(NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_fd(NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_dispatch(NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_close(NULL), 0);
}
END_TEST

/* A size that is too small is refused, a larger one gets as much as there is and nothing behind it. */
START_TEST(info_sizes)
{
	const size_t sizes[] = { 0, 1, sizeof(size_t), sizeof(struct uffdwp_info) - 1 };
	char buf[sizeof(struct uffdwp_info) + TAIL];
	struct uffdwp_info *info = (void *)buf, ok = { .sz = sizeof(ok) };
	struct args a;

	args_open(&a);
	ck_assert_int_eq(uffdwp_info(a.h, NULL), -EINVAL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		memset(buf, '#', sizeof(buf));
		info->sz = sizes[i];
		ck_assert_int_eq(uffdwp_info(a.h, info), -EINVAL);
		for (size_t j = sizeof(size_t); j < sizeof(buf); j++)
			ck_assert_int_eq(buf[j], '#');
	}
	ck_assert_int_eq(uffdwp_info(a.h, &ok), 0);
	ck_assert_uint_eq(ok.regions, 1);
	ck_assert_uint_eq(ok.threads, 0);
	memset(buf, '#', sizeof(buf));
	info->sz = sizeof(buf);
	ck_assert_int_eq(uffdwp_info(a.h, info), 0);
	ck_assert_uint_eq(info->features, ok.features);
	for (size_t j = sizeof(*info); j < sizeof(buf); j++)
		ck_assert(buf[j] == '#' || buf[j] == 0);
	args_close(&a);
}
END_TEST

START_TEST(stats_sizes)
{
	const size_t sizes[] = { 0, 1, sizeof(size_t), sizeof(struct uffdwp_stats) - 1 };
	struct uffdwp_stats *st = calloc(1, sizeof(*st) + TAIL);
	struct args a;

	ck_assert_ptr_nonnull(st);
	args_open(&a);
	ck_assert_int_eq(uffdwp_stats(a.h, UFFDWP_ALL_WORKERS, NULL), -EINVAL);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		st->sz = sizes[i];
		ck_assert_int_eq(uffdwp_stats(a.h, UFFDWP_ALL_WORKERS, st), -EINVAL);
	}
	st->sz = sizeof(*st) + TAIL;
	ck_assert_int_eq(uffdwp_stats(a.h, UFFDWP_ALL_WORKERS, st), 0);
	ck_assert_uint_eq(st->missing + st->write + st->minor + st->reads, 0);
	args_close(&a);
	free(st);
}
END_TEST

START_TEST(stats_worker)
{
	struct uffdwp_stats st = { .sz = sizeof(st) };
	struct uffdwp_opts o = { .sz = sizeof(o), .threads = 3 };
	struct uffdwp *h;
	struct args a;

	ck_assert_int_eq(uffdwp_open(&h, &o), 0);
	for (uint32_t i = 0; i < 3; i++)
		ck_assert_int_eq(uffdwp_stats(h, i, &st), 0);
	ck_assert_int_eq(uffdwp_stats(h, 3, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_stats(h, UFFDWP_THREADS_MAX, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_stats(h, UINT32_MAX - 1, &st), -EINVAL);
	ck_assert_int_eq(uffdwp_stats(h, UFFDWP_ALL_WORKERS, &st), 0);
	ck_assert_int_eq(uffdwp_close(h), 0);
	/* Where there is no pool there is no worker 0. */
	args_open(&a);
	ck_assert_int_eq(uffdwp_stats(a.h, 0, &st), -EINVAL);
	args_close(&a);
}
END_TEST

START_TEST(fd_and_dispatch)
{
	static const uint32_t serves[] = { UFFDWP_SERVE_THREADS, UFFDWP_SERVE_SIGBUS };
	struct uffdwp_opts o = { .serve = UFFDWP_SERVE_CALLER, .blocking = 1 };
	struct uffdwp *h;
	struct args a;

	for (int i = 0; i < 2; i++) {
		args_open_as(&a, serves[i], UFFDWP_MODE_WP);
		ck_assert_int_eq(uffdwp_fd(a.h), -EOPNOTSUPP);
		ck_assert_int_eq(uffdwp_dispatch(a.h), -EOPNOTSUPP);
		ck_assert_int_eq(uffdwp_error(a.h), 0);
		args_close(&a);
	}
	o.sz = sizeof(o);
	ck_assert_int_eq(uffdwp_open(&h, &o), 0);
	ck_assert_int_eq(uffdwp_fd(h), -EOPNOTSUPP);
	ck_assert_int_eq(uffdwp_close(h), 0);
	args_open(&a);
	ck_assert_int_ge(uffdwp_fd(a.h), 0);
	ck_assert_int_eq(uffdwp_fd(a.h), uffdwp_fd(a.h));
	ck_assert_int_eq(uffdwp_dispatch(a.h), 0);
	args_close(&a);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { null_handle, info_sizes, stats_sizes, stats_worker,
				       fd_and_dispatch };

	return args_run("args_info", tests, sizeof(tests) / sizeof(tests[0]), NULL, 0);
}
