/* SPDX-License-Identifier: MIT */
/*
 * Rows of results: a table for people in a hundred columns, one JSON object a line for programs.
 * A row compares the two sides round by round, because only neighbours in time saw the same noise.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct spread spread_of(double *v, size_t n)
{
	struct spread s = { 0, 0, 0 };

	if (n == 0)
		return s;
	qsort(v, n, sizeof(*v), ascending);
	s.median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
	s.min = v[0];
	s.max = v[n - 1];
	return s;
}

static struct spread spread_of_copy(const double *values, unsigned int n)
{
	double copy[BENCH_ROUNDS_MAX];

	memcpy(copy, values, n * sizeof(*copy));
	return spread_of(copy, n);
}

static struct spread spread_of_ratios(const struct row *r)
{
	double ratio[BENCH_ROUNDS_MAX];

	for (unsigned int i = 0; i < r->rounds; i++)
		ratio[i] = r->theirs[i] > 0 ? r->ours[i] / r->theirs[i] : 0;
	return spread_of(ratio, r->rounds);
}

/* Three digits, and a share of 0.00006 as 6.0e-05. */
static const char *ratio_text(char *buf, size_t size, double v)
{
	snprintf(buf, size,
		 v < 0.001   ? "%.6f"
		 : v < 0.095 ? "%.3f"
		 : v < 9.95  ? "%.2f"
			     : "%.1f",
		 v);
	return buf;
}

static void print_string(const char *key, const char *value)
{
	printf("\"%s\":", key);
	if (!value) {
		printf("null,");
		return;
	}
	putchar('"');
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			putchar('\\');
		putchar(*value);
	}
	printf("\",");
}

static void print_json(const struct row *r, const struct spread *ours, const struct spread *theirs,
		       const struct spread *ratio, bool ok)
{
	printf("{\"schema\":1,");
	print_string("bench", r->bench);
	print_string("case", r->name);
	print_string("serve", r->serve);
	print_string("peer", r->peer);
	print_string("unit", r->unit);
	printf("\"ours\":%.1f,\"theirs\":%.1f,", ours->median, theirs->median);
	printf("\"ratio\":%.6g,\"ratio_min\":%.6g,\"ratio_max\":%.6g,", ratio->median, ratio->min,
	       ratio->max);
	printf("\"rounds\":%u,", r->rounds);
	print_string("target", r->target);
	printf("\"ok\":%s,", r->target ? ok ? "true" : "false" : "null");
	print_string("writers_on", r->writers_on);
	print_string("ours_on", r->ours_on);
	printf("\"theirs_on\":\"%s\"}\n", r->theirs_on);
	fflush(stdout);
}

static const char *verdict(const struct row *r, bool ok)
{
	if (!r->target)
		return "";
	return ok ? " ok" : " MISS";
}

static void print_line(const struct row *r, const struct spread *ours, const struct spread *theirs,
		       const struct spread *ratio, bool ok)
{
	char mid[16], min[16], max[16], range[34] = "-", cpus[48];

	ratio_text(min, sizeof(min), ratio->min);
	ratio_text(max, sizeof(max), ratio->max);
	if (r->rounds > 1)
		snprintf(range, sizeof(range), "%s-%s", min, max);
	snprintf(cpus, sizeof(cpus), "%s/%s/%s", r->writers_on, r->ours_on, r->theirs_on);
	printf("%-22s %-18s %7.0f %7.0f %6s %-10s %-11s %7s%s\n", r->name, r->peer, ours->median,
	       theirs->median, ratio_text(mid, sizeof(mid), ratio->median), range, cpus,
	       r->target ? r->target : "-", verdict(r, ok));
	fflush(stdout);
}

bool report_row(const struct row *r, bool json)
{
	struct spread ours = spread_of_copy(r->ours, r->rounds);
	struct spread theirs = spread_of_copy(r->theirs, r->rounds);
	struct spread ratio = spread_of_ratios(r);
	bool ok = !r->target || (r->more ? ratio.median >= r->limit : ratio.median <= r->limit);

	(json ? print_json : print_line)(r, &ours, &theirs, &ratio, ok);
	return ok;
}

void report_header(const char *title, bool json)
{
	if (json)
		return;
	printf("%s\n", title);
	printf("%-22s %-18s %7s %7s %6s %-10s %-11s %7s\n", "case", "against", "ours", "theirs",
	       "ratio", "min-max", "cpus w/o/t", "target");
	fflush(stdout);
}

void report_note(bool json, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(json ? stderr : stdout, fmt, args);
	va_end(args);
}
