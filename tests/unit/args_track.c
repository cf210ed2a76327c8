/* SPDX-License-Identifier: MIT */
/* Tracking: each argument of starting, asking, resetting and stopping, one wrong at a time. */
#include "args.h"

#include <uffdwp/track.h>

static void start(struct args *a, struct uffdwp_track **t)
{
	args_open_as(a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	ck_assert_int_eq(uffdwp_track_start(t, &a->r, 1, NULL), 0);
}

static void stop(struct args *a, struct uffdwp_track *t)
{
	ck_assert_int_eq(uffdwp_track_stop(t), 0);
	args_close(a);
}

/* ---- Start ---- */

static const struct bad {
	const char *name, *value;
	uint32_t mechanism, require;
	uint64_t granule;
	int err;
} table[] = {
	{ "mechanism", "4", 4, 0, 0, -EINVAL },
	{ "mechanism", "4294967295", UINT32_MAX, 0, 0, -EINVAL },
	{ "require", "0x8", 0, 8, 0, -EINVAL },
	{ "require", "0xffffffff", 0, UINT32_MAX, 0, -EINVAL },
	{ "granule", "12288", 0, 0, 3 * PAGE, -EINVAL },
	{ "granule", "2048", 0, 0, PAGE / 2, -EINVAL },
	{ "granule", "1", 0, 0, 1, -EINVAL },
	{ "granule", "4194304", 0, 0, 2 * UFFDWP_TRACK_GRANULE_MAX, -EINVAL },
	{ "granule", "9223372036854775808", 0, 0, UINT64_C(1) << 63, -EINVAL },
	/* no multiple of it is the region's length */
	{ "granule", "131072", 0, 0, 2 * LEN, -EINVAL },
	{ "mechanism", "async", UFFDWP_TRACK_ASYNC, 0, 0, -EOPNOTSUPP },
	{ "mechanism", "sigbus", UFFDWP_TRACK_SIGBUS, 0, 0, -EOPNOTSUPP },
	{ "require", "0x2", 0, UFFDWP_TRACK_DISCARDS, 0, -EOPNOTSUPP },
	{ "require", "0x4", 0, UFFDWP_TRACK_REMOVES, 0, -EOPNOTSUPP },
};

START_TEST(options)
{
	const struct bad *b = &table[_i];
	char reason[256] = "";
	struct uffdwp_track_opts o = { .sz = sizeof(o),
				       .mechanism = b->mechanism,
				       .require = b->require,
				       .granule = b->granule,
				       .reason = reason,
				       .reason_size = sizeof(reason) };
	struct uffdwp_track *t = (void *)&o;
	struct args a;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, &o), b->err);
	ck_assert_ptr_null(t);
	ck_assert_msg(strstr(reason, b->name) && strstr(reason, b->value),
		      "no word of %s %s in: %s", b->name, b->value, reason);
	o.reason = NULL;
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, &o), b->err);
	/* Nothing was left behind: the region can be tracked, and removed. */
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, NULL), 0);
	stop(&a, t);
}
END_TEST

START_TEST(sizes)
{
	struct uffdwp_track_opts o = { .sz = sizeof(o) }, *longer;
	struct uffdwp_track *t;
	struct args a;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	o.sz = 0;
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, &o), -EINVAL);
	ck_assert_ptr_null(t);
	o.sz = sizeof(size_t);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, &o), -EINVAL);
	longer = args_longer(&o, sizeof(o), 1);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, longer), -E2BIG);
	free(longer);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, longer), 0);
	free(longer);
	stop(&a, t);
}
END_TEST

START_TEST(regions)
{
	struct uffdwp_region *none[1] = { NULL }, *twice[2], *mixed[2];
	struct uffdwp_track *t = (void *)none;
	struct args a, b;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	args_open_as(&b, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	ck_assert_int_eq(uffdwp_track_start(NULL, &a.r, 1, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_track_start(&t, NULL, 1, NULL), -EINVAL);
	ck_assert_ptr_null(t);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 0, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_track_start(&t, none, 1, NULL), -EINVAL);
	mixed[0] = a.r;
	mixed[1] = NULL;
	ck_assert_int_eq(uffdwp_track_start(&t, mixed, 2, NULL), -EINVAL);
	mixed[1] = b.r;
	ck_assert_int_eq(uffdwp_track_start(&t, mixed, 2, NULL), -EINVAL);
	/* The second time it has a tracker: of the first nothing is left. */
	twice[0] = twice[1] = a.r;
	ck_assert_int_eq(uffdwp_track_start(&t, twice, 2, NULL), -EBUSY);
	ck_assert_ptr_null(t);
	args_close(&b);
	args_close(&a);
}
END_TEST

START_TEST(wrong_mode)
{
	char reason[256] = "";
	struct uffdwp_track_opts o = { .sz = sizeof(o),
				       .reason = reason,
				       .reason_size = sizeof(reason) };
	struct uffdwp_track *t;
	struct args a;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_MISSING);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, &o), -EOPNOTSUPP);
	ck_assert_ptr_null(t);
	ck_assert_msg(strstr(reason, "UFFDWP_MODE_WP"), "%s", reason);
	args_close(&a);
}
END_TEST

/* ---- Collect and peek ---- */

typedef int ask_fn(struct uffdwp_track *, struct uffdwp_track_query *);
static ask_fn *const asks[] = { uffdwp_track_collect, uffdwp_track_peek };

/* Relative to the region, whose granule is four pages here. */
static const struct {
	uint64_t addr, len;
} parts[] = {
	{ 0, PAGE },
	{ PAGE, 4 * PAGE },
	{ 0, 5 * PAGE },
	{ 0, LEN + 4 * PAGE },
	{ LEN, 4 * PAGE },
	{ -(uint64_t)(4 * PAGE), 4 * PAGE },
	{ 0, 1 },
	{ 0, 0 },
	{ 4 * PAGE, -(uint64_t)(4 * PAGE) },
	{ 0, UINT64_MAX },
};

START_TEST(query_parts)
{
	struct uffdwp_track_opts o = { .sz = sizeof(o), .granule = 4 * PAGE };
	struct uffdwp_track *t;
	struct args a;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	ck_assert_int_eq(uffdwp_track_start(&t, &a.r, 1, &o), 0);
	for (size_t k = 0; k < 2; k++) {
		for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
			struct uffdwp_track_query q = { .sz = sizeof(q),
							.region = a.r,
							.addr = a.addr + parts[i].addr,
							.len = parts[i].len };

			ck_assert_msg(asks[k](t, &q) == -EINVAL, "part %zu", i);
			/* Whatever else, a part needs a region. */
			q.region = NULL;
			ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		}
	}
	stop(&a, t);
}
END_TEST

START_TEST(queries)
{
	struct uffdwp_track_range range;
	struct uffdwp_track *t;
	uint64_t bits[1] = { 0 };
	struct args a, b;

	start(&a, &t);
	args_open_as(&b, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	for (size_t k = 0; k < 2; k++) {
		struct uffdwp_track_query q = { .sz = sizeof(q) }, *longer;

		ck_assert_int_eq(asks[k](NULL, &q), -EINVAL);
		q.region = b.r;
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		q.region = NULL;
		q.bitmap = bits;
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		q.region = a.r;
		q.bitmap_page = 3 * PAGE;
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		q.bitmap_page = 2 * PAGE; /* more than the granule */
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		q.bitmap_page = 0;
		q.ranges = &range;
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		q.nranges = 1;
		ck_assert_int_eq(asks[k](t, &q), 0);
		q.sz = 0;
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		q.sz = sizeof(q) - 1;
		ck_assert_int_eq(asks[k](t, &q), -EINVAL);
		longer = args_longer(&q, sizeof(q), 1);
		ck_assert_int_eq(asks[k](t, longer), -E2BIG);
		free(longer);
		longer = args_longer(&q, sizeof(q), 0);
		ck_assert_int_eq(asks[k](t, longer), 0);
		free(longer);
	}
	ck_assert_uint_eq(bits[0], 0);
	ck_assert_int_eq(uffdwp_track_peek(t, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_track_collect(NULL, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_track_collect(t, NULL), 0);
	args_close(&b);
	stop(&a, t);
}
END_TEST

/* What comes back, and only that, is written: also by a newer program's longer struct. */
START_TEST(results)
{
	struct uffdwp_track_query q = { .sz = sizeof(q), .bytes = 77, .filled = 77 }, before;
	struct uffdwp_track *t;
	struct args a;

	start(&a, &t);
	before = q;
	ck_assert_int_eq(uffdwp_track_collect(t, &q), 0);
	before.bytes = before.filled = before.resume = 0;
	ck_assert_mem_eq(&q, &before, sizeof(q));
	/* A place to go on from that lies behind the end: all was looked at. */
	q.resume = UINT64_MAX;
	ck_assert_int_eq(uffdwp_track_collect(t, &q), 0);
	ck_assert_uint_eq(q.resume, 0);
	stop(&a, t);
}
END_TEST

/* ---- The rest ---- */

START_TEST(resets)
{
	struct uffdwp_track *t;
	struct args a, b;

	start(&a, &t);
	args_open_as(&b, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	ck_assert_int_eq(uffdwp_track_reset(NULL, NULL, 0, 0), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, b.r, 0, 0), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, NULL, a.addr, PAGE), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, a.r, a.addr, PAGE + 1), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, a.r, a.addr + 1, PAGE), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, a.r, a.addr, 0), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, a.r, a.addr + LEN, PAGE), -EINVAL);
	ck_assert_int_eq(uffdwp_track_reset(t, a.r, a.addr, PAGE), 0);
	args_close(&b);
	stop(&a, t);
}
END_TEST

START_TEST(infos)
{
	struct uffdwp_track_info info = { .sz = sizeof(info) };
	struct uffdwp_track *t;
	struct args a;

	start(&a, &t);
	ck_assert_int_eq(uffdwp_track_info(NULL, &info), -EINVAL);
	ck_assert_int_eq(uffdwp_track_info(t, NULL), -EINVAL);
	info.sz = sizeof(info) - 1;
	ck_assert_int_eq(uffdwp_track_info(t, &info), -EINVAL);
	info.sz = sizeof(info) + 64; /* of a newer program: it knows how much to expect of us */
	ck_assert_int_eq(uffdwp_track_info(t, &info), 0);
	ck_assert_uint_eq(info.sz, sizeof(info) + 64);
	ck_assert_uint_eq(info.mechanism, UFFDWP_TRACK_SYNC);
	ck_assert_uint_eq(info.regions, 1);
	ck_assert_uint_eq(info.collects, 0);
	ck_assert_uint_eq(info.bytes, 0);
	ck_assert_uint_gt(info.memory, 0);
	ck_assert_int_eq(uffdwp_track_stop(NULL), 0);
	stop(&a, t);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { sizes,	regions, wrong_mode, query_parts,
				       queries, results, resets,     infos };

	return args_run("args_track", tests, sizeof(tests) / sizeof(tests[0]), options,
			sizeof(table) / sizeof(table[0]));
}
