/* SPDX-License-Identifier: MIT */
/*
 * The latency histogram against the samples themselves: every percentile within 12.5 % of the exact one,
 * never below it, never above the maximum; and the buckets cover all values without a gap.
 */
#include "args.h"

#include "hist.h"

#include <math.h>

#define SAMPLES 5000

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static int order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The largest value whose rank is within p percent: the definition, on sorted samples. */
static uint64_t exact(const uint64_t *sorted, size_t n, double p)
{
	size_t rank = (size_t)ceil(p / 100 * (double)n);

	return sorted[rank ? rank - 1 : 0];
}

/* Within an eighth above the exact value, and at most max. */
static void close_to(uint64_t got, uint64_t want, uint64_t max, double p)
{
	ck_assert_msg(got >= want && got <= max && got - want <= want / 8,
		      "p%g: %llu, exactly %llu, max %llu", p, (unsigned long long)got,
		      (unsigned long long)want, (unsigned long long)max);
}

static void compare(uint64_t *samples, size_t n)
{
	static const double ps[] = { 0, 0.01, 1, 10, 25, 50, 75, 90, 99, 99.9, 99.99, 100 };
	struct uffdwp__hist inside = { 0 };
	struct uffdwp_hist hist = { 0 };
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		uffdwp__hist_record(&inside, samples[i], 1, (int)(i & 1));
		sum += samples[i];
	}
	uffdwp__hist_add(&hist, &inside);
	qsort(samples, n, sizeof(*samples), order);
	ck_assert_uint_eq(hist.count, n);
	ck_assert_uint_eq(hist.sum, sum);
	ck_assert_uint_eq(hist.max, samples[n - 1]);
	for (size_t i = 0; i < sizeof(ps) / sizeof(ps[0]); i++)
		close_to(uffdwp_hist_percentile(&hist, ps[i]), exact(samples, n, ps[i]), hist.max,
			 ps[i]);
	ck_assert_uint_eq(uffdwp_hist_percentile(&hist, 100), hist.max);
}

/* As wide as uint64_t nanoseconds that anything takes: up to the last bucket's own range. */
START_TEST(random_samples)
{
	static const unsigned int bits[] = { 3, 4, 8, 14, 20, 32, 40 };
	uint64_t samples[SAMPLES], seed = UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)_i;

	for (size_t i = 0; i < SAMPLES; i++)
		samples[i] = next(&seed) >> (64 - bits[_i]);
	compare(samples, SAMPLES);
	/* All octaves at once, as latencies are. */
	for (size_t i = 0; i < SAMPLES; i++) {
		uint64_t width = next(&seed) % 40 + 1;

		samples[i] = next(&seed) >> (64 - width);
	}
	compare(samples, 1 + (size_t)_i * 500);
}
END_TEST

START_TEST(single_values)
{
	for (unsigned int bit = 0; bit < 41; bit++) {
		for (int d = -1; d <= 1; d++) {
			uint64_t v = (UINT64_C(1) << bit) + (uint64_t)d;

			compare(&v, 1);
		}
	}
}
END_TEST

/* The extremes have a place, too; the last bucket takes all that is beyond. */
START_TEST(extremes)
{
	static const uint64_t values[] = { 0, 1, 7, 8, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX };

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct uffdwp__hist inside = { 0 };
		struct uffdwp_hist hist = { 0 };

		ck_assert_uint_lt(uffdwp__hist_index(values[i]), UFFDWP_HIST_BUCKETS);
		uffdwp__hist_record(&inside, values[i], 3, 0);
		uffdwp__hist_add(&hist, &inside);
		ck_assert_uint_eq(hist.count, 3);
		ck_assert_uint_eq(hist.max, values[i]);
		ck_assert_uint_eq(uffdwp_hist_percentile(&hist, 50), values[i]);
		ck_assert_uint_eq(uffdwp_hist_percentile(&hist, 100), values[i]);
	}
}
END_TEST

/* Each bucket begins where the one before ends, and is at most an eighth of its values wide. */
START_TEST(buckets)
{
	uint64_t first = 0;

	for (unsigned int i = 0; i < UFFDWP_HIST_BUCKETS; i++) {
		uint64_t upper = uffdwp__hist_upper(i);

		ck_assert_uint_ge(upper, first);
		ck_assert_uint_eq(uffdwp__hist_index(first), i);
		ck_assert_uint_eq(uffdwp__hist_index(upper), i);
		if (i + 1 < UFFDWP_HIST_BUCKETS)
			ck_assert_uint_le(upper - first, first / 8);
		first = upper + 1;
	}
	ck_assert_uint_eq(uffdwp__hist_index(UINT64_MAX), UFFDWP_HIST_BUCKETS - 1);
}
END_TEST

START_TEST(arguments)
{
	struct uffdwp__hist inside = { 0 };
	struct uffdwp_hist hist = { 0 };

	ck_assert_uint_eq(uffdwp_hist_percentile(NULL, 50), 0);
	ck_assert_uint_eq(uffdwp_hist_percentile(&hist, 0), 0);
	ck_assert_uint_eq(uffdwp_hist_percentile(&hist, 100), 0);
	for (uint64_t v = 100; v < 200; v++)
		uffdwp__hist_record(&inside, v, 1, 0);
	uffdwp__hist_add(&hist, &inside);
	ck_assert_uint_eq(uffdwp_hist_percentile(&hist, -1), uffdwp_hist_percentile(&hist, 0));
	ck_assert_uint_eq(uffdwp_hist_percentile(&hist, 1e300), 199);
	ck_assert_uint_eq(uffdwp_hist_percentile(&hist, INFINITY), 199);
	ck_assert_uint_ge(uffdwp_hist_percentile(&hist, NAN), 100);
	ck_assert_uint_le(uffdwp_hist_percentile(&hist, NAN), 199);
	/* Two histograms added are one. */
	uffdwp__hist_add(&hist, &inside);
	ck_assert_uint_eq(hist.count, 200);
	ck_assert_uint_eq(hist.max, 199);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { single_values, extremes, buckets, arguments };

	return args_run("hist", tests, sizeof(tests) / sizeof(tests[0]), random_samples, 7);
}
