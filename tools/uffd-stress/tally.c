/* SPDX-License-Identifier: MIT */
/*
 * Statistics of several handles added up, and their print. Adding also checks that the workers'
 * counters and those of all agree.
 */
#include "serve.h"

#include <inttypes.h>
#include <string.h>

/* Everything between sz and latency is a counter. */
#define FIRST offsetof(struct uffdwp_stats, missing)
#define COUNTERS ((offsetof(struct uffdwp_stats, latency) - FIRST) / sizeof(uint64_t))

static void hist_add(struct uffdwp_hist *to, const struct uffdwp_hist *from)
{
	size_t i;

	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
	for (i = 0; i < UFFDWP_HIST_BUCKETS; i++)
		to->bucket[i] += from->bucket[i];
}

static void stats_add(struct uffdwp_stats *to, const struct uffdwp_stats *from)
{
	uint64_t *t = &to->missing;
	const uint64_t *f = &from->missing;
	size_t i;

	for (i = 0; i < COUNTERS; i++)
		t[i] += f[i];
	hist_add(&to->latency, &from->latency);
}

static bool bounded(const struct uffdwp_stats *sum, const struct uffdwp_stats *all)
{
	return sum->missing <= all->missing && sum->write <= all->write &&
	       sum->reads <= all->reads && sum->op_pages <= all->op_pages &&
	       sum->latency.count <= all->latency.count;
}

bool tally_add(struct tally *t, struct uffdwp *h)
{
	struct uffdwp_stats one = { .sz = sizeof(one) }, all = { .sz = sizeof(all) }, sum;
	unsigned int i;

	memset(&sum, 0, sizeof(sum));
	for (i = 0; i < UFFDWP_THREADS_MAX && !uffdwp_stats(h, i, &one); i++) {
		stats_add(&t->worker[i], &one);
		stats_add(&sum, &one);
		if (i >= t->workers)
			t->workers = i + 1;
	}
	if (uffdwp_stats(h, UFFDWP_ALL_WORKERS, &all))
		return false;
	stats_add(&t->all, &all);
	return bounded(&sum, &all);
}

static double us(const struct uffdwp_hist *hist, double percent)
{
	return (double)uffdwp_hist_percentile(hist, percent) / 1000;
}

static void print_line(const struct stress_opts *o, const char *who, unsigned int i,
		       const struct uffdwp_stats *s)
{
	uint64_t messages = s->missing + s->write + s->minor;

	out_say(o,
		"    %-7s %2u: missing %8" PRIu64 "  write %8" PRIu64 "  duplicates %6" PRIu64
		"  eexist %6" PRIu64 "  messages/read %4.1f  p50 %6.1f  p99 %7.1f  max %8.1f us\n",
		who, i, s->missing, s->write, s->duplicates, s->eexist,
		s->reads ? (double)messages / (double)s->reads : 0.0, us(&s->latency, 50),
		us(&s->latency, 99), us(&s->latency, 100));
}

void tally_print(const struct stress_opts *o, const struct tally *t)
{
	unsigned int i;

	for (i = 0; i < t->workers; i++)
		print_line(o, "handler", i, &t->worker[i]);
	print_line(o, "total", t->workers, &t->all);
}

void tally_json(const struct stress_opts *o, const struct tally *t)
{
	const struct uffdwp_stats *s = &t->all;

	json_u64(o, "missing", s->missing);
	json_u64(o, "write", s->write);
	json_u64(o, "duplicates", s->duplicates);
	json_u64(o, "eexist", s->eexist);
	json_u64(o, "eagain", s->eagain);
	json_u64(o, "reads", s->reads);
	json_u64(o, "op_pages", s->op_pages);
	json_u64(o, "p50_ns", uffdwp_hist_percentile(&s->latency, 50));
	json_u64(o, "p99_ns", uffdwp_hist_percentile(&s->latency, 99));
	json_u64(o, "p999_ns", uffdwp_hist_percentile(&s->latency, 99.9));
	json_u64(o, "max_ns", s->latency.max);
}
