/* SPDX-License-Identifier: MIT */
/*
 * For the tests of bad arguments: a handle and a region to call on, option structs with a tail that a
 * newer header might have, and the check that a refusal says what was wrong.
 */
#ifndef TESTS_UNIT_ARGS_H
#define TESTS_UNIT_ARGS_H

#include <check.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <uffdwp.h>

#define PAGE 4096u
#define PAGES 16u
#define LEN ((uint64_t)PAGES * PAGE)
#define TAIL 16u /* bytes by which the struct of a newer header is longer */

struct args {
	struct uffdwp *h;
	struct uffdwp_region *r;
	char *mem;
	uint64_t addr;
};

/* Served by the caller: nothing runs by itself, so what is seen is the call's own doing. */
static inline void args_open_as(struct args *a, uint32_t serve, uint32_t mode)
{
	struct uffdwp_opts o = { .sz = sizeof(o), .serve = serve };
	struct uffdwp_region_opts ro = { .sz = sizeof(ro), .len = LEN, .mode = mode };

	a->mem = mmap(NULL, LEN + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	ck_assert_ptr_ne(a->mem, MAP_FAILED);
	a->addr = (uintptr_t)a->mem + PAGE; /* so that there is a page before it, and one behind */
	ck_assert_int_eq(uffdwp_open(&a->h, &o), 0);
	ro.addr = a->addr;
	ck_assert_int_eq(uffdwp_region_add(a->h, &ro, &a->r), 0);
}

static inline void args_open(struct args *a)
{
	args_open_as(a, UFFDWP_SERVE_CALLER, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING);
}

static inline void args_close(struct args *a)
{
	ck_assert_int_eq(uffdwp_close(a->h), 0);
	munmap(a->mem, LEN + 2 * PAGE);
}

/* A copy with a longer tail; its last byte is last. free() it. */
static inline void *args_longer(const void *opts, size_t size, char last)
{
	char *p = calloc(1, size + TAIL);
	size_t longer = size + TAIL;

	ck_assert_ptr_nonnull(p);
	memcpy(p, opts, size);
	memcpy(p, &longer, sizeof(longer)); /* sz comes first in all of them */
	p[size + TAIL - 1] = last;
	return p;
}

/* The argument, its value, and what would be right. */
static inline void args_reason(const char *reason, const char *name, const char *value)
{
	static const char *const right[] = { "must be", "needs", "can not",
					     "alone",	"take",	 "beyond" };
	int told = 0;

	ck_assert_msg(strstr(reason, name), "no word of %s in: %s", name, reason);
	ck_assert_msg(strstr(reason, value), "no value %s in: %s", value, reason);
	for (size_t i = 0; i < sizeof(right) / sizeof(right[0]) && !told; i++)
		told = strstr(reason, right[i]) != NULL;
	ck_assert_msg(told, "not told what would be right: %s", reason);
}

/* Plain tests, and one that is run once for each row of a table (loop may be NULL). */
static inline int args_run(const char *name, const TTest *const *tests, size_t n, const TTest *loop,
			   size_t rows)
{
	Suite *s = suite_create(name);
	TCase *c = tcase_create(name);
	SRunner *r;
	int failed;

	tcase_set_timeout(c, 60);
	for (size_t i = 0; i < n; i++)
		tcase_add_test(c, tests[i]);
	if (loop)
		tcase_add_loop_test(c, loop, 0, (int)rows);
	suite_add_tcase(s, c);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

#endif
