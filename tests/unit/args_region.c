/* SPDX-License-Identifier: MIT */
/* Regions: each argument of adding, removing, finding and asking about them, one wrong at a time. */
#include "args.h"

#define BOTH (UFFDWP_MODE_MISSING | UFFDWP_MODE_WP)

/* What is wrong; addr and len are relative to the memory. */
static const struct bad {
	const char *name, *value;
	int64_t addr;
	uint64_t len, page_size;
	uint32_t mode, run, armed;
	int err;
} table[] = {
	{ "mode", "0x0", 0, LEN, 0, 0, 0, 0, -EINVAL },
	{ "mode", "0x8", 0, LEN, 0, 8, 0, 0, -EINVAL },
	{ "mode", "0xa", 0, LEN, 0, 8 | UFFDWP_MODE_WP, 0, 0, -EINVAL },
	{ "mode", "0xffffffff", 0, LEN, 0, UINT32_MAX, 0, 0, -EINVAL },
	{ "addr", "0x", 1, LEN, 0, BOTH, 0, 0, -EINVAL },
	{ "addr", "0x", -8, LEN, 0, BOTH, 0, 0, -EINVAL },
	{ "addr", "0x", PAGE / 2, LEN, 0, BOTH, 0, 0, -EINVAL },
	{ "len", "0", 0, 0, 0, BOTH, 0, 0, -EINVAL },
	{ "len", "1", 0, 1, 0, BOTH, 0, 0, -EINVAL },
	{ "len", "4097", 0, PAGE + 1, 0, BOTH, 0, 0, -EINVAL },
	{ "len", "18446744073709547520", 0, -(uint64_t)PAGE, 0, BOTH, 0, 0, -EINVAL },
	{ "page_size", "1", 0, LEN, 1, BOTH, 0, 0, -EINVAL },
	{ "page_size", "2048", 0, LEN, PAGE / 2, BOTH, 0, 0, -EINVAL },
	{ "page_size", "12288", 0, 3 * PAGE, 3 * PAGE, BOTH, 0, 0, -EINVAL },
	{ "len", "69632", 0, LEN + PAGE, 2 * PAGE, BOTH, 0, 0, -EINVAL },
	{ "run", "513", 0, LEN, 0, BOTH, UFFDWP_RUN_MAX + 1, 0, -EINVAL },
	{ "run", "4294967295", 0, LEN, 0, BOTH, UINT32_MAX, 0, -EINVAL },
	{ "armed", "2", 0, LEN, 0, BOTH, 0, 2, -EINVAL },
};

static char *memory(void)
{
	/* Aligned to more than a page, so that only what the table says is unaligned. */
	char *p = mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return (char *)(((uintptr_t)p + LEN - 1) & -(uintptr_t)LEN);
}

static struct uffdwp *handle(uint32_t serve)
{
	struct uffdwp_opts o = { .sz = sizeof(o), .serve = serve };
	struct uffdwp *h;

	ck_assert_int_eq(uffdwp_open(&h, &o), 0);
	return h;
}

START_TEST(out_of_range)
{
	const struct bad *b = &table[_i];
	char reason[256] = "";
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)memory() + (uint64_t)b->addr,
					.len = b->len,
					.page_size = b->page_size,
					.mode = b->mode,
					.run = b->run,
					.armed = b->armed,
					.reason = reason,
					.reason_size = sizeof(reason) };
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp_region *r = (void *)&o;

	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), b->err);
	ck_assert_ptr_null(r);
	args_reason(reason, b->name, b->value);
	o.reason = NULL;
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), b->err);
	ck_assert_int_eq(uffdwp_info(h, &info), 0);
	ck_assert_uint_eq(info.regions, 0);
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

START_TEST(null)
{
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER);
	struct uffdwp_region_opts o = { .sz = sizeof(o), .len = LEN, .mode = BOTH };
	struct uffdwp_region *r = (void *)&o;

	o.addr = (uintptr_t)memory();
	ck_assert_int_eq(uffdwp_region_add(NULL, &o, &r), -EINVAL);
	ck_assert_ptr_null(r);
	r = (void *)&o;
	ck_assert_int_eq(uffdwp_region_add(h, NULL, &r), -EINVAL);
	ck_assert_ptr_null(r);
	ck_assert_int_eq(uffdwp_region_add(h, &o, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_region_remove(NULL), -EINVAL);
	ck_assert_ptr_null(uffdwp_region_find(NULL, o.addr));
	ck_assert_ptr_null(uffdwp_region_find(h, o.addr));
	ck_assert_uint_eq(uffdwp_region_addr(NULL), 0);
	ck_assert_uint_eq(uffdwp_region_len(NULL), 0);
	ck_assert_uint_eq(uffdwp_region_page_size(NULL), 0);
	ck_assert_ptr_null(uffdwp_region_ctx(NULL));
	ck_assert_ptr_null(uffdwp_region_handle(NULL));
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

START_TEST(opts_sizes)
{
	const size_t sizes[] = { 0, 1, sizeof(size_t), offsetof(struct uffdwp_region_opts, ctx) };
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER);
	struct uffdwp_region_opts o = { .sz = sizeof(o), .len = LEN, .mode = BOTH }, *longer;
	struct uffdwp_region *r;

	o.addr = (uintptr_t)memory();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		o.sz = sizes[i];
		r = (void *)&o;
		ck_assert_int_eq(uffdwp_region_add(h, &o, &r), -EINVAL);
		ck_assert_ptr_null(r);
	}
	o.sz = sizeof(o);
	longer = args_longer(&o, sizeof(o), 1);
	ck_assert_int_eq(uffdwp_region_add(h, longer, &r), -E2BIG);
	ck_assert_ptr_null(r);
	free(longer);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_region_add(h, longer, &r), 0);
	ck_assert_ptr_nonnull(r);
	free(longer);
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

START_TEST(ops_sizes)
{
	const size_t sizes[] = { 0, 1, sizeof(size_t), sizeof(struct uffdwp_ops) - 1 };
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER);
	struct uffdwp_ops ops = { .sz = sizeof(ops) }, *longer;
	char reason[256] = "";
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.len = LEN,
					.mode = BOTH,
					.ops = &ops,
					.reason = reason,
					.reason_size = sizeof(reason) };
	struct uffdwp_region *r;

	o.addr = (uintptr_t)memory();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		ops.sz = sizes[i];
		r = (void *)&o;
		ck_assert_int_eq(uffdwp_region_add(h, &o, &r), -EINVAL);
		ck_assert_ptr_null(r);
		ck_assert(strstr(reason, "ops"));
	}
	ops.sz = sizeof(ops);
	o.ops = longer = args_longer(&ops, sizeof(ops), 1);
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), -E2BIG);
	ck_assert_ptr_null(r);
	free(longer);
	o.ops = longer = args_longer(&ops, sizeof(ops), 0);
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), 0);
	free(longer);
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

/* Every way of overlapping; and touching, which is allowed. */
START_TEST(overlaps)
{
	static const struct {
		unsigned int first, n;
		int err;
	} rows[] = { { 4, 4, -EEXIST }, { 0, 16, -EEXIST }, { 5, 1, -EEXIST }, { 4, 1, -EEXIST },
		     { 7, 1, -EEXIST }, { 2, 3, -EEXIST },  { 7, 4, -EEXIST }, { 3, 6, -EEXIST },
		     { 0, 4, 0 },	{ 8, 8, 0 } };
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER);
	char reason[256] = "", *mem = memory();
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)mem + 4 * PAGE,
					.len = 4 * PAGE,
					.mode = UFFDWP_MODE_WP,
					.reason = reason,
					.reason_size = sizeof(reason) };
	struct uffdwp_region *r;

	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		o.addr = (uintptr_t)mem + rows[i].first * PAGE;
		o.len = rows[i].n * PAGE;
		ck_assert_int_eq(uffdwp_region_add(h, &o, &r), rows[i].err);
		ck_assert(!r == !!rows[i].err);
		ck_assert(!rows[i].err || strstr(reason, "overlap"));
	}
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

/* Memory that is not there, not ours, or not writable as it would have to be. */
START_TEST(memory_of_the_wrong_kind)
{
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER), *other = handle(UFFDWP_SERVE_CALLER);
	struct uffdwp_info info = { .sz = sizeof(info) };
	char *mem = memory();
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .addr = (uintptr_t)mem, .len = LEN, .mode = UFFDWP_MODE_WP
	};
	struct uffdwp_region *r;

	ck_assert_int_eq(uffdwp_region_add(other, &o, &r), 0);
	r = (void *)&o;
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), -EBUSY);
	ck_assert_ptr_null(r);
	ck_assert_int_eq(uffdwp_close(other), 0);
	/* Now it is free. */
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), 0);
	ck_assert_int_eq(uffdwp_region_remove(r), 0);
	/* Nothing there at all, and the code of this program. */
	munmap(mem, LEN);
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), -EINVAL);
	ck_assert_ptr_null(r);
	o.addr = (uintptr_t)uffdwp_open & -(uintptr_t)PAGE;
	o.len = PAGE;
	ck_assert_int_eq(uffdwp_info(h, &info), 0);
	/* Before Linux 5.19 no file can be, and the library does not look at which it is. */
	ck_assert_int_eq(uffdwp_region_add(h, &o, &r),
			 info.features & UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM ? -EINVAL : -EOPNOTSUPP);
	ck_assert_ptr_null(r);
	/* Anonymous memory has no page cache for minor faults. */
	o.addr = (uintptr_t)memory();
	o.mode = UFFDWP_MODE_MINOR;
	ck_assert_int_lt(uffdwp_region_add(h, &o, &r), 0);
	ck_assert_ptr_null(r);
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

START_TEST(sigbus_modes)
{
	char reason[256] = "";
	struct uffdwp *h = handle(UFFDWP_SERVE_SIGBUS);
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)memory(),
					.len = LEN,
					.mode = UFFDWP_MODE_MINOR | UFFDWP_MODE_MISSING,
					.reason = reason,
					.reason_size = sizeof(reason) };
	struct uffdwp_region *r = (void *)&o;

	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), -EOPNOTSUPP);
	ck_assert_ptr_null(r);
	args_reason(reason, "mode", "0x5");
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

/* What a region says of itself. */
START_TEST(asked)
{
	struct uffdwp *h = handle(UFFDWP_SERVE_CALLER);
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .addr = (uintptr_t)memory(), .len = LEN, .mode = BOTH, .ctx = &h
	};
	struct uffdwp_region *r;

	ck_assert_int_eq(uffdwp_region_add(h, &o, &r), 0);
	ck_assert_uint_eq(uffdwp_region_addr(r), o.addr);
	ck_assert_uint_eq(uffdwp_region_len(r), LEN);
	ck_assert_uint_eq(uffdwp_region_page_size(r), PAGE);
	ck_assert_ptr_eq(uffdwp_region_ctx(r), &h);
	ck_assert_ptr_eq(uffdwp_region_handle(r), h);
	ck_assert_ptr_eq(uffdwp_region_find(h, o.addr + LEN - 1), r);
	ck_assert_ptr_null(uffdwp_region_find(h, o.addr + LEN));
	ck_assert_ptr_null(uffdwp_region_find(h, o.addr - 1));
	ck_assert_int_eq(uffdwp_region_remove(r), 0);
	ck_assert_ptr_null(uffdwp_region_find(h, o.addr));
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		null, opts_sizes, ops_sizes, overlaps, memory_of_the_wrong_kind, sigbus_modes, asked
	};

	return args_run("args_region", tests, sizeof(tests) / sizeof(tests[0]), out_of_range,
			sizeof(table) / sizeof(table[0]));
}
