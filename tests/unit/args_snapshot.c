/* SPDX-License-Identifier: MIT */
/*
 * Arguments of snapshots and of the library's sinks: each wrong one is refused, with its name and
 * what would be right, and nothing is left behind: the region can be used, and the sink was not
 * begun.
 */
#include "args.h"

#include <unistd.h>
#include <uffdwp/snapshot.h>

static int begun;

static int sink_begin(void *ctx, const struct uffdwp_sink_layout *l)
{
	(void)ctx, (void)l;
	begun++;
	return 0;
}

static int sink_write(void *ctx, struct uffdwp_sink_write *w)
{
	(void)ctx, (void)w;
	return 0;
}

static const struct uffdwp_sink good = { .sz = sizeof(good),
					 .begin = sink_begin,
					 .write = sink_write };
static const struct uffdwp_sink no_write = { .sz = sizeof(good), .begin = sink_begin };
static const struct uffdwp_sink no_sz = { .begin = sink_begin, .write = sink_write };

static const struct row {
	struct uffdwp_snapshot_opts o;
	const char *name, *value;
} rows[] = {
	{ { .strategy = 3, .sink = &good }, "strategy", "3" },
	{ { .strategy = UINT32_MAX, .sink = &good }, "strategy", "4294967295" },
	{ { .by_caller = 2, .sink = &good }, "by_caller", "2" },
	{ { .reserved = 1, .sink = &good }, "reserved", "1" },
	{ { .sink = NULL }, "sink", "NULL" },
	{ { .sink = &no_write }, "sink->write", "NULL" },
	{ { .sink = &no_sz }, "sink->sz", "0" },
	{ { .staging = 1, .sink = &good }, "staging", "1" },
	{ { .staging = UFFDWP_SNAPSHOT_STAGING_MIN - 1, .sink = &good }, "staging", "1048575" },
};

START_TEST(refused)
{
	struct uffdwp_snapshot_opts o = rows[_i].o;
	struct uffdwp_snapshot *s = (void *)&o;
	char reason[256] = "";
	struct args a;

	args_open(&a);
	o.sz = sizeof(o);
	o.reason = reason;
	o.reason_size = sizeof(reason);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, &o), -EINVAL);
	ck_assert_ptr_null(s);
	args_reason(reason, rows[_i].name, rows[_i].value);
	ck_assert_int_eq(begun, 0);
	ck_assert_int_eq(uffdwp_protect(a.r, a.addr, LEN, NULL), 0);
	args_close(&a);
}
END_TEST

START_TEST(sizes)
{
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &good };
	struct uffdwp_snapshot *s;
	struct args a;
	void *longer;

	args_open(&a);
	o.sz = sizeof(o) - 1;
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, &o), -EINVAL);
	o.sz = sizeof(o);
	longer = args_longer(&o, sizeof(o), 1);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, longer), -E2BIG);
	free(longer);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, longer), 0);
	free(longer);
	ck_assert_int_eq(begun, 1);
	ck_assert_int_eq(uffdwp_snapshot_free(s), 0);
	args_close(&a);
}
END_TEST

START_TEST(wrong_regions)
{
	char reason[256];
	struct uffdwp_snapshot_opts o = {
		.sz = sizeof(o), .sink = &good, .reason = reason, .reason_size = sizeof(reason)
	};
	struct uffdwp_region *two[2];
	struct uffdwp_snapshot *s;
	struct args a, b;

	args_open(&a);
	args_open(&b);
	ck_assert_int_eq(uffdwp_snapshot_new(NULL, &a.r, 1, &o), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, NULL, 1, &o), -EINVAL);
	args_reason(reason, "n", "1");
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 0, &o), -EINVAL);
	args_reason(reason, "n", "0");
	two[0] = NULL;
	ck_assert_int_eq(uffdwp_snapshot_new(&s, two, 1, &o), -EINVAL);
	args_reason(reason, "regions[0]", "NULL");
	two[0] = a.r;
	two[1] = NULL;
	ck_assert_int_eq(uffdwp_snapshot_new(&s, two, 2, &o), -EINVAL);
	args_reason(reason, "regions[1]", "NULL");
	two[1] = a.r;
	ck_assert_int_eq(uffdwp_snapshot_new(&s, two, 2, &o), -EINVAL);
	args_reason(reason, "regions[1]", "regions[0]");
	two[1] = b.r;
	ck_assert_int_eq(uffdwp_snapshot_new(&s, two, 2, &o), -EINVAL);
	args_reason(reason, "regions[1]", "another handle");
	ck_assert_int_eq(begun, 0);
	args_close(&b);
	args_close(&a);
}
END_TEST

START_TEST(not_wp)
{
	char reason[256];
	struct uffdwp_snapshot_opts o = {
		.sz = sizeof(o), .sink = &good, .reason = reason, .reason_size = sizeof(reason)
	};
	struct uffdwp_snapshot *s;
	struct args a;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_MISSING);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, &o), -EOPNOTSUPP);
	args_reason(reason, "regions[0]", "UFFDWP_MODE_WP");
	args_close(&a);
}
END_TEST

static int write_op(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r, (void)f, (void)ctx;
	return 0;
}

START_TEST(has_operation)
{
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &good };
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = write_op };
	struct uffdwp_snapshot *s;
	struct args a;

	args_open(&a);
	ck_assert_int_eq(uffdwp_region_set_ops(a.r, &ops, NULL), 0);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, &o), -EBUSY);
	ck_assert_ptr_null(s);
	ck_assert_int_eq(begun, 0);
	args_close(&a);
}
END_TEST

START_TEST(null_snapshot)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };

	ck_assert_int_eq(uffdwp_snapshot_arm(NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_seal(NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_wait(NULL, &res), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_poll(NULL, &res), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_step(NULL, 1), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_cancel(NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_free(NULL), 0);
}
END_TEST

START_TEST(results)
{
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &good };
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) - 1 };
	struct uffdwp_snapshot *s;
	struct args a;

	args_open(&a);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, &o), 0);
	ck_assert_int_eq(uffdwp_snapshot_poll(s, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_poll(s, &res), -EINVAL);
	ck_assert_int_eq(uffdwp_snapshot_wait(s, &res), -EINVAL);
	res.sz = sizeof(res);
	ck_assert_int_eq(uffdwp_snapshot_poll(s, &res), 0);
	ck_assert_uint_eq(res.sz, sizeof(res));
	ck_assert_uint_eq(res.verdict, UFFDWP_SNAPSHOT_RUNNING);
	ck_assert_uint_eq(res.size, LEN);
	ck_assert_int_eq(uffdwp_snapshot_wait(s, &res), -EDEADLK);
	ck_assert_int_eq(uffdwp_snapshot_step(s, 1), -EOPNOTSUPP);
	ck_assert_int_eq(uffdwp_snapshot_free(s), 0);
	args_close(&a);
}
END_TEST

START_TEST(sinks)
{
	struct uffdwp_sink k;
	void *copy = NULL;
	int p[2];

	ck_assert_int_eq(uffdwp_sink_memory(NULL, &copy, 1), -EINVAL);
	ck_assert_int_eq(uffdwp_sink_memory(&k, NULL, 1), -EINVAL);
	ck_assert_int_eq(uffdwp_sink_memory(&k, &copy, 1), -EINVAL);
	copy = &k;
	ck_assert_int_eq(uffdwp_sink_memory(&k, &copy, 0), -EINVAL);
	ck_assert_ptr_null(k.ctx);
	ck_assert_int_eq(uffdwp_sink_memory(&k, &copy, 1), 0);
	k.free(k.ctx);
	ck_assert_int_eq(uffdwp_sink_file(NULL, 0), -EINVAL);
	ck_assert_int_eq(uffdwp_sink_file(&k, -1), -EBADF);
	ck_assert_int_eq(pipe(p), 0);
	ck_assert_int_eq(uffdwp_sink_file(&k, p[1]), -EINVAL);
	close(p[0]);
	close(p[1]);
}
END_TEST

/* As many copies as regions. */
START_TEST(copies)
{
	char copy[LEN];
	void *two[2] = { copy, copy };
	struct uffdwp_sink k;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &k };
	struct uffdwp_snapshot *s;
	struct args a;

	args_open(&a);
	ck_assert_int_eq(uffdwp_sink_memory(&k, two, 2), 0);
	ck_assert_int_eq(uffdwp_snapshot_new(&s, &a.r, 1, &o), -EINVAL);
	ck_assert_ptr_null(s);
	k.free(k.ctx);
	args_close(&a);
}
END_TEST

int main(void)
{
	const TTest *tests[] = { sizes,		not_wp,	 has_operation, null_snapshot,
				 wrong_regions, results, sinks,		copies };

	return args_run("args_snapshot", tests, sizeof(tests) / sizeof(tests[0]), refused,
			sizeof(rows) / sizeof(rows[0]));
}
