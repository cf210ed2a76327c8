/* SPDX-License-Identifier: MIT */
/*
 * The calls on a range of a region: each with every wrong range, with NULL, with unknown flags, and on a
 * region or handle that does not have what they need. done is 0 whenever an argument is refused.
 */
#include "args.h"

#include <stdbool.h>

static char page_buf[PAGE];

/* All of them have the same shape, once flags and sources are given. */
static int do_copy(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	return uffdwp_copy(r, addr, page_buf, len, 0, done);
}

static int do_zeropage(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	return uffdwp_zeropage(r, addr, len, 0, done);
}

static int do_continue(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	return uffdwp_continue(r, addr, len, 0, done);
}

static int do_move(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	return uffdwp_move(r, addr, (uintptr_t)page_buf & -(uintptr_t)PAGE, len, done);
}

static int do_wake(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	if (done)
		*done = 0;
	return uffdwp_wake(r, addr, len);
}

static int do_discard(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	return uffdwp_discard(r, addr, len, UFFDWP_DISCARD_DONTNEED, done);
}

static const struct call {
	const char *name;
	int (*fn)(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);
} calls[] = {
	{ "protect", uffdwp_protect },
	{ "unprotect", uffdwp_unprotect },
	{ "sweep", uffdwp_sweep },
	{ "release", uffdwp_release },
	{ "copy", do_copy },
	{ "zeropage", do_zeropage },
	{ "continue", do_continue },
	{ "move", do_move },
	{ "poison", uffdwp_poison },
	{ "wake", do_wake },
	{ "populate", uffdwp_populate },
	{ "discard", do_discard },
};

/* Relative to the region. Some wrap around the address space, one end or both. */
static const struct range {
	uint64_t addr, len;
} ranges[] = {
	{ 0, 0 },
	{ LEN - PAGE, 0 },
	{ 0, 1 },
	{ 0, PAGE - 1 },
	{ 0, PAGE + 1 },
	{ 1, PAGE },
	{ PAGE / 2, PAGE },
	{ -(uint64_t)PAGE, PAGE },
	{ -(uint64_t)PAGE, 2 * PAGE },
	{ LEN, PAGE },
	{ LEN - PAGE, 2 * PAGE },
	{ 0, LEN + PAGE },
	{ 0, -(uint64_t)PAGE },
	{ PAGE, -(uint64_t)PAGE },
	{ LEN / 2, UINT64_MAX - PAGE + 1 },
	{ UINT64_C(1) << 63, PAGE },
};

START_TEST(ranges_refused)
{
	const struct call *c = &calls[_i];
	struct args a;

	args_open(&a);
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		uint64_t done = 77, addr = a.addr + ranges[i].addr, len = ranges[i].len;
		int err = c->fn(a.r, addr, len, &done);

		ck_assert_msg(err == -EINVAL, "%s, range %zu: %d", c->name, i, err);
		ck_assert_msg(!done, "%s, range %zu: done is %llu", c->name, i,
			      (unsigned long long)done);
		ck_assert_int_eq(c->fn(a.r, addr, len, NULL), -EINVAL);
	}
	/* Absolute addresses: nothing is added to these. */
	ck_assert_int_eq(c->fn(a.r, 0, PAGE, NULL), -EINVAL);
	ck_assert_int_eq(c->fn(a.r, -(uint64_t)PAGE, PAGE, NULL), -EINVAL);
	args_close(&a);
}
END_TEST

START_TEST(null_region)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		uint64_t done = 77;

		ck_assert_msg(calls[i].fn(NULL, 0, PAGE, &done) == -EINVAL, "%s", calls[i].name);
		ck_assert_msg(!done, "%s", calls[i].name);
		ck_assert_int_eq(calls[i].fn(NULL, 0, PAGE, NULL), -EINVAL);
	}
	ck_assert_int_eq(uffdwp_read(NULL, 0, page_buf, 1, NULL), -EINVAL);
}
END_TEST

START_TEST(flags)
{
	static const uint32_t bad[] = { 2, 4, UFFDWP_COPY_WP | 2, 1u << 31, UINT32_MAX };
	struct args a;

	args_open(&a);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t done = 77;

		ck_assert_int_eq(uffdwp_copy(a.r, a.addr, page_buf, PAGE, bad[i], &done), -EINVAL);
		ck_assert_uint_eq(done, 0);
		ck_assert_int_eq(uffdwp_zeropage(a.r, a.addr, PAGE, bad[i], NULL), -EINVAL);
		ck_assert_int_eq(uffdwp_continue(a.r, a.addr, PAGE, bad[i], NULL), -EINVAL);
		if (bad[i] > UFFDWP_DISCARD_REMOVE)
			ck_assert_int_eq(uffdwp_discard(a.r, a.addr, PAGE, bad[i], NULL), -EINVAL);
	}
	args_close(&a);
}
END_TEST

START_TEST(sources)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct args a;
	uint64_t done = 77;
	bool move;

	args_open(&a);
	ck_assert_int_eq(uffdwp_info(a.h, &info), 0);
	move = info.features & UFFDWP_FEATURE_MOVE;
	ck_assert_int_eq(uffdwp_copy(a.r, a.addr, NULL, PAGE, 0, &done), -EINVAL);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(uffdwp_move(a.r, a.addr, (uintptr_t)a.mem + 1, PAGE, NULL),
			 move ? -EINVAL : -EOPNOTSUPP);
	/* Nothing is mapped there. */
	ck_assert_int_eq(uffdwp_move(a.r, a.addr, 0, PAGE, &done), move ? -ENOENT : -EOPNOTSUPP);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_lt(uffdwp_move(a.r, a.addr, -(uint64_t)PAGE, 2 * PAGE, NULL), 0);
	/* A source that can not be read: an error, and nothing was placed. */
	done = 77;
	ck_assert_int_eq(uffdwp_copy(a.r, a.addr, (void *)8, PAGE, 0, &done), -EFAULT);
	ck_assert_uint_eq(done, 0);
	args_close(&a);
}
END_TEST

/* Without protection, nothing can be protected; without the page cache, nothing continued. */
START_TEST(wrong_mode)
{
	struct args a;
	uint64_t done = 77;

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_MISSING);
	ck_assert_int_eq(uffdwp_protect(a.r, a.addr, PAGE, &done), -EOPNOTSUPP);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(uffdwp_copy(a.r, a.addr, page_buf, PAGE, UFFDWP_COPY_WP, NULL),
			 -EOPNOTSUPP);
	ck_assert_int_eq(uffdwp_zeropage(a.r, a.addr, PAGE, UFFDWP_COPY_WP, NULL), -EOPNOTSUPP);
	args_close(&a);
}
END_TEST

START_TEST(release_nothing_held)
{
	struct args a;
	uint64_t done = 77;

	args_open(&a);
	ck_assert_int_eq(uffdwp_release(a.r, a.addr, PAGE, &done), -EINVAL);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(uffdwp_protect(a.r, a.addr, LEN, NULL), 0);
	ck_assert_int_eq(uffdwp_release(a.r, a.addr, LEN, NULL), -EINVAL);
	args_close(&a);
}
END_TEST

/* A read needs no alignment, only to be inside. */
START_TEST(read_ranges)
{
	static const struct range bad[] = { { -(uint64_t)1, 1 },      { LEN, 1 },
					    { LEN - 1, 2 },	      { 0, LEN + 1 },
					    { 0, UINT64_MAX },	      { 1, UINT64_MAX },
					    { UINT64_C(1) << 63, 1 }, { 0, 0 } };
	struct args a;
	uint64_t done = 77;
	char buf[8];

	args_open_as(&a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		done = 77;
		ck_assert_int_eq(uffdwp_read(a.r, a.addr + bad[i].addr, buf, bad[i].len, &done),
				 -EINVAL);
		ck_assert_uint_eq(done, 0);
	}
	ck_assert_int_eq(uffdwp_read(a.r, a.addr, NULL, 1, NULL), -EINVAL);
	for (unsigned int i = 0; i < 32; i++)
		a.mem[PAGE + LEN - 32 + i] = (char)('A' + i);
	for (unsigned int i = 0; i < 24; i++) {
		ck_assert_int_eq(uffdwp_read(a.r, a.addr + LEN - 32 + i, buf, 1 + i % 8, &done), 0);
		ck_assert_uint_eq(done, 1 + i % 8);
		ck_assert_mem_eq(buf, a.mem + PAGE + LEN - 32 + i, 1 + i % 8);
	}
	args_close(&a);
}
END_TEST

/* The whole of a region at once is right, for each call that needs no more than that. */
START_TEST(whole)
{
	struct args a;
	uint64_t done = 0;

	args_open(&a);
	ck_assert_int_eq(uffdwp_zeropage(a.r, a.addr, LEN, 0, &done), 0);
	ck_assert_uint_eq(done, LEN);
	ck_assert_int_eq(uffdwp_protect(a.r, a.addr, LEN, &done), 0);
	ck_assert_uint_eq(done, LEN);
	ck_assert_int_eq(uffdwp_sweep(a.r, a.addr, LEN, &done), 0);
	ck_assert_uint_eq(done, LEN);
	ck_assert_int_eq(uffdwp_protect(a.r, a.addr, LEN, NULL), 0);
	ck_assert_int_eq(uffdwp_unprotect(a.r, a.addr, LEN, &done), 0);
	ck_assert_uint_eq(done, LEN);
	ck_assert_int_eq(uffdwp_populate(a.r, a.addr, LEN, &done), 0);
	ck_assert_uint_eq(done, LEN);
	ck_assert_int_eq(uffdwp_wake(a.r, a.addr, LEN), 0);
	ck_assert_int_eq(uffdwp_discard(a.r, a.addr, LEN, UFFDWP_DISCARD_DONTNEED, &done), 0);
	ck_assert_uint_eq(done, LEN);
	args_close(&a);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { null_region,	     flags,	  sources, wrong_mode,
				       release_nothing_held, read_ranges, whole };

	return args_run("args_calls", tests, sizeof(tests) / sizeof(tests[0]), ranges_refused,
			sizeof(calls) / sizeof(calls[0]));
}
