/* SPDX-License-Identifier: MIT */
/*
 * Staging: chunks are had and given back, each once, also by many threads at once; runs of units
 * never overlap; what is kept for faults is kept; lists lose nothing; zeros are told from what has
 * one bit.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "staging.h"

#define MIB (UINT64_C(1) << 20)

START_TEST(shapes)
{
	static const struct {
		uint64_t size, unit, largest;
	} shape[] = { { MIB, 4096, 4096 },	   { 64 * MIB, 4096, 4096 },
		      { MIB + 1, 4096, 4096 },	   { MIB, 2 * MIB, 2 * MIB },
		      { 64 * MIB, 4096, 2 * MIB }, { 100 * MIB + 4096, 4096, 4096 } };

	for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
		struct uffdwp__staging st;

		ck_assert_int_eq(uffdwp__staging_init(&st, shape[i].size, shape[i].unit,
						      shape[i].largest),
				 0);
		ck_assert_uint_ge(st.size, shape[i].size);
		ck_assert_uint_ge(st.chunks, 4);
		ck_assert_uint_eq(st.size, st.unit * st.units);
		ck_assert_uint_eq(st.units, st.chunks * st.per_chunk);
		ck_assert_uint_ge(st.per_chunk * st.unit, shape[i].largest);
		ck_assert_uint_lt(st.keep[UFFDWP__OWN], st.keep[UFFDWP__FAULT]);
		ck_assert_uint_lt(st.keep[UFFDWP__FAULT], st.keep[UFFDWP__SWEEP]);
		ck_assert_uint_lt(st.keep[UFFDWP__SWEEP], st.chunks);
		uffdwp__staging_free(&st, false);
	}
}
END_TEST

/* Each level gets what the one before left to it, and no more. */
START_TEST(levels)
{
	struct uffdwp__staging st;
	uint32_t got[UFFDWP__LEVELS] = { 0 }, all[16], n = 0;

	ck_assert_int_eq(uffdwp__staging_init(&st, MIB, 4096, 4096), 0);
	ck_assert_uint_eq(st.chunks, 16);
	for (int level = 0; level < UFFDWP__LEVELS; level++) {
		uint32_t unit;

		while ((unit = uffdwp__staging_chunk(&st, (enum uffdwp__level)level)) !=
		       UFFDWP__NONE) {
			ck_assert_uint_lt(n, 16);
			all[n++] = unit;
			got[level]++;
		}
		ck_assert_uint_eq(n, st.chunks - st.keep[level]);
		ck_assert_uint_gt(got[level], 0);
	}
	ck_assert_uint_eq(uffdwp__staging_peak(&st), st.size);
	for (uint32_t i = 0; i < n; i++)
		uffdwp__staging_put(&st, all[i], st.per_chunk);
	ck_assert_uint_eq(st.nfree, 16);
	uffdwp__staging_free(&st, false);
}
END_TEST

/* A chunk is free again when the last of its units is back, whoever took which. */
START_TEST(units)
{
	struct uffdwp__staging st;
	uint32_t a, b, c;
	bool fresh;

	ck_assert_int_eq(uffdwp__staging_init(&st, MIB, 4096, 4096), 0);
	a = uffdwp__staging_take(&st, 3, UFFDWP__FAULT, &fresh);
	ck_assert(fresh);
	b = uffdwp__staging_take(&st, 12, UFFDWP__FAULT, &fresh);
	ck_assert(!fresh);
	ck_assert_uint_eq(b, a + 3);
	/* Two do not fit any more: another chunk, and the last unit of this one is lost. */
	c = uffdwp__staging_take(&st, 2, UFFDWP__FAULT, &fresh);
	ck_assert(fresh);
	ck_assert_uint_ne(c / st.per_chunk, a / st.per_chunk);
	ck_assert_uint_eq(st.nfree, 14);
	uffdwp__staging_put(&st, b, 12);
	ck_assert_uint_eq(st.nfree, 14);
	uffdwp__staging_put(&st, a, 3);
	ck_assert_uint_eq(st.nfree, 15);
	/* The one that is filled stays so. */
	uffdwp__staging_put(&st, c, 2);
	ck_assert_uint_eq(st.nfree, 15);
	ck_assert_uint_eq(uffdwp__staging_take(&st, 14, UFFDWP__FAULT, &fresh), c + 2);
	uffdwp__staging_put(&st, c + 2, 14);
	/* Own faults fill a chunk of their own. */
	uffdwp__staging_take(&st, 1, UFFDWP__OWN, &fresh);
	ck_assert(fresh);
	uffdwp__staging_free(&st, false);
}
END_TEST

#define THREADS 4
#define ROUNDS 20000

static struct uffdwp__staging shared;
static _Atomic uint32_t *owner; /* of each unit */
static _Atomic int clashes;

static void *taker(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg, rnd = me * 2654435761u + 1;

	for (int i = 0; i < ROUNDS; i++) {
		uint32_t n = (rnd = rnd * 1664525 + 1013904223) >> 16 & 7, unit;
		bool fresh;

		n++;
		unit = uffdwp__staging_take(&shared, n, UFFDWP__FAULT, &fresh);
		if (unit == UFFDWP__NONE)
			continue;
		for (uint32_t k = unit; k < unit + n; k++)
			clashes += atomic_exchange(&owner[k], me) != 0;
		for (uint32_t k = unit; k < unit + n; k++)
			clashes += atomic_exchange(&owner[k], 0) != me;
		uffdwp__staging_put(&shared, unit, n);
	}
	return NULL;
}

START_TEST(many_takers)
{
	pthread_t t[THREADS];

	ck_assert_int_eq(uffdwp__staging_init(&shared, MIB, 4096, 4096), 0);
	owner = calloc(shared.units, sizeof(*owner));
	ck_assert_ptr_nonnull((void *)owner);
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, taker, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(clashes, 0);
	/* All but the chunk that is being filled, unless its last unit was taken. */
	ck_assert_uint_ge(shared.nfree, shared.chunks - 1);
	free((void *)owner);
	uffdwp__staging_free(&shared, false);
}
END_TEST

static _Atomic uint32_t list;

static void *pusher(void *arg)
{
	uint32_t first = (uint32_t)(uintptr_t)arg;

	for (uint32_t i = first; i < shared.units; i += THREADS)
		uffdwp__list_push(&list, &shared.node[i]);
	return NULL;
}

START_TEST(lists)
{
	pthread_t t[THREADS];
	uint32_t seen = 0, last[THREADS] = { 0 };

	ck_assert_int_eq(uffdwp__staging_init(&shared, 4 * MIB, 4096, 4096), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, pusher, (void *)i), 0);
	while (seen < shared.units) {
		struct uffdwp__node *n = uffdwp__list_take(&list, &shared);

		for (; n; n = uffdwp__list_next(n), seen++) {
			uint32_t i = uffdwp__node_index(n);

			/* The oldest first. */
			ck_assert_uint_ge(i + 1, last[i % THREADS] + 1);
			last[i % THREADS] = i;
		}
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_ptr_null(uffdwp__list_take(&list, &shared));
	uffdwp__staging_free(&shared, false);
}
END_TEST

START_TEST(zeros)
{
	char *p = calloc(1, 8192);

	ck_assert_ptr_nonnull(p);
	for (size_t n = 64; n <= 8192; n += 64)
		ck_assert(uffdwp__is_zero(p, n));
	for (size_t i = 0; i < 8192; i++) {
		p[i] = (char)(1 << (i % 8));
		ck_assert(!uffdwp__is_zero(p, 8192));
		ck_assert(i < 4096 ? uffdwp__is_zero(p + 4096, 4096) : uffdwp__is_zero(p, 4096));
		p[i] = 0;
	}
	free(p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("staging");
	TCase *c = tcase_create("staging");
	SRunner *r;
	int failed;

	tcase_set_timeout(c, 60);
	tcase_add_test(c, shapes);
	tcase_add_test(c, levels);
	tcase_add_test(c, units);
	tcase_add_test(c, many_takers);
	tcase_add_test(c, lists);
	tcase_add_test(c, zeros);
	suite_add_tcase(s, c);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
