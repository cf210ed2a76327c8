/* SPDX-License-Identifier: MIT */
/*
 * What live_snapshot.c prints: for each way to save the store, how its threads fared before, during and
 * after; side by side, with the figures to look at first in bold on a terminal.
 */
#ifndef KV_REPORT_H
#define KV_REPORT_H

#include <stdio.h>
#include <unistd.h>

#include "kv.h"

struct kv_run {
	const char *title;
	struct kv_instant at; /* what the image shows */
	double seconds[KV_PHASES];
	struct kv_latency latency[KV_PHASES];
	double pause_us, wait_us; /* wait_us < 0: can not be told */
	double image_mib;
};

/* Puts in kv's threads for half a second, then while take() runs, then for another half. */
static inline void kv_play(struct kv *kv, struct kv_run *run, void (*take)(struct kv_run *run))
{
	uint64_t at[KV_PHASES + 1];

	at[KV_BEFORE] = kv_start(kv);
	usleep(500 * 1000);
	at[KV_DURING] = kv_enter(kv, KV_DURING);
	take(run);
	at[KV_AFTER] = kv_enter(kv, KV_AFTER);
	usleep(500 * 1000);
	at[KV_PHASES] = kv_stop(kv);
	for (int p = 0; p < KV_PHASES; p++) {
		run->seconds[p] = (double)(at[p + 1] - at[p]) / 1e9;
		kv_sum(kv, (enum kv_phase)p, &run->latency[p]);
	}
}

static inline double kv_rate(const struct kv_run *r, enum kv_phase p)
{
	return (double)r->latency[p].count / r->seconds[p] / 1e6;
}

static inline double kv_us(const struct kv_run *r, enum kv_phase p, double percent)
{
	const struct kv_latency *l = &r->latency[p];

	return (double)(percent < 100 ? kv_percentile(l, percent) : l->max) / 1e3;
}

static inline void kv_line(const char *name, const char *unit, int bold, const double *value,
			   unsigned int n)
{
	int tty = bold && isatty(1);

	printf("  %-36s", name);
	for (unsigned int i = 0; i < n; i++)
		if (value[i] < 0)
			printf("%16s    ", "-");
		else
			printf("%s%16.*f%s %-3s", tty ? "\033[1m" : "",
			       value[i] < 10 ? 2 : value[i] < 100, value[i], tty ? "\033[0m" : "",
			       unit);
	printf("\n");
}

static inline void kv_print(const struct kv_run *r, unsigned int n)
{
	static const double percents[] = { 50, 99, 99.9, 100 };
	static const char *const phases[] = { "before", "during", "after" };
	double v[2] = { 0 };
	char name[48];

#define KV_LINE(name, unit, bold, expr)              \
	do {                                         \
		for (unsigned int i = 0; i < n; i++) \
			v[i] = (expr);               \
		kv_line(name, unit, bold, v, n);     \
	} while (0)

	printf("\n  %-36s", "");
	for (unsigned int i = 0; i < n; i++)
		printf("%16s    ", r[i].title);
	printf("\n");
	KV_LINE("pause of the threads", "us", 1, r[i].pause_us);
	for (int p = 0; p < KV_PHASES; p++) {
		snprintf(name, sizeof(name), "million puts a second, %s", phases[p]);
		KV_LINE(name, "", p == KV_DURING, kv_rate(&r[i], (enum kv_phase)p));
	}
	for (int k = 0; k < 4; k++) {
		snprintf(name, sizeof(name),
			 percents[k] < 100 ? "a put during it, p%g" : "a put during it, longest",
			 percents[k]);
		KV_LINE(name, "us", 0, kv_us(&r[i], KV_DURING, percents[k]));
	}
	KV_LINE("longest wait for a page to be saved", "us", 0, r[i].wait_us);
	KV_LINE("until the image was complete", "s", 0, r[i].seconds[KV_DURING]);
	KV_LINE("size of the image", "MiB", 0, r[i].image_mib);
	printf("\n");
}

#endif
