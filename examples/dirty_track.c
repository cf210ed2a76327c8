/* SPDX-License-Identifier: MIT */
/*
 * Watch memory being written: a workload with a moving hot set runs in a thread, and each line shows which
 * pages it wrote since the line before, from the first page at the left to the last at the right.
 *
 * The workload counts its writes to each page, before and after each, so every line is checked: a write that
 * began after the last collect and ended before this one is in this one, and nothing else is.
 */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <uffdwp/track.h>

#define PAGE 4096
#define PAGES 16384
#define COLUMNS 64
#define ROUNDS_MAX 1000
#define MILLISECONDS 40 /* a round */

static struct {
	_Atomic uint32_t begun, done;	    /* writes, by the workload */
	uint32_t begun_before, done_before; /* as the last collect left them */
	uint32_t done_now, reported;
} pages[PAGES];

static char *mem, *svg;
static float heat[ROUNDS_MAX][COLUMNS]; /* share of a column's pages that were written */
static double rate[ROUNDS_MAX];		/* pages written a second */
static atomic_size_t now, stop;		/* now: the round */
static size_t rounds, told, lost, invented;

/* From dark to bright. */
static const int colours[] = { 233, 53, 90, 126, 161, 203, 209, 222, 230 };
static const char letters[] = " .:-=+*#@";

/* A window that wanders, a smaller one that comes the other way, and now and then a page anywhere. */
static void *workload(void *arg)
{
	uint64_t rnd = 88172645463325252u;

	while (!atomic_load(&stop)) {
		size_t round = atomic_load(&now), at;

		rnd = rnd * 6364136223846793005u + 1442695040888963407u;
		at = (rnd >> 33) % (PAGES / 12) +
		     (rnd >> 20) % (PAGES / 12); /* dense in the middle */
		if (rnd >> 56 < 150)
			at += round * PAGES / 40;
		else if (rnd >> 56 < 255)
			at = at / 4 + (ROUNDS_MAX - round) * PAGES / 90;
		else
			at = rnd >> 30;
		at %= PAGES;
		atomic_fetch_add(&pages[at].begun, 1);
		*(volatile uint64_t *)(mem + at * PAGE + (rnd >> 8) % (PAGE / 8) * 8) = rnd;
		atomic_fetch_add(&pages[at].done, 1);
	}
	return arg;
}

/* Called by the collect with each range that was written. */
static int seen(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *line)
{
	size_t first = (addr - uffdwp_region_addr(r)) / PAGE;

	for (size_t i = first; i < first + len / PAGE; i++) {
		pages[i].reported = 1;
		((float *)line)[i * COLUMNS / PAGES] += (float)COLUMNS / PAGES;
	}
	return 0;
}

static void check(void)
{
	for (size_t i = 0; i < PAGES; i++) {
		uint32_t begun = atomic_load(&pages[i].begun);

		lost += !pages[i].reported && pages[i].done_now > pages[i].begun_before;
		invented += pages[i].reported && begun == pages[i].done_before;
		told += pages[i].reported;
		pages[i].begun_before = begun;
		pages[i].done_before = pages[i].done_now;
		pages[i].reported = 0;
	}
}

static void draw(size_t round)
{
	int tty = isatty(1);

	for (size_t i = 0; i < COLUMNS; i++) {
		int shade = (int)(heat[round][i] * 7.01f) + (heat[round][i] > 0);

		printf(tty ? "\033[48;5;%dm " : "%c", tty ? colours[shade] : letters[shade]);
	}
	printf("%s %8.0f pages/s\n", tty ? "\033[0m" : "|", rate[round]);
}

static int follow(struct uffdwp_track *t)
{
	struct timespec begin, end, pause = { 0, MILLISECONDS * 1000000L };
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (size_t round = 0; !err && round < rounds; round++, begin = end) {
		struct uffdwp_track_query q = { .sz = sizeof(q),
						.range = seen,
						.arg = heat[round] };

		atomic_store(&now, round);
		nanosleep(&pause, NULL);
		for (size_t i = 0; i < PAGES; i++)
			pages[i].done_now = atomic_load(&pages[i].done);
		err = uffdwp_track_collect(t, &q);
		clock_gettime(CLOCK_MONOTONIC, &end);
		check();
		rate[round] = (double)q.bytes / PAGE /
			      ((double)(end.tv_sec - begin.tv_sec) +
			       (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
		draw(round);
	}
	return err;
}

#define CELL "<rect x='%zu' y='%zu' width='10' height='8' fill='hsl(%d,90%%,%d%%)'/>\n"

static int draw_svg(void)
{
	FILE *f = fopen(svg, "w");

	if (!f)
		return -1;
	fprintf(f,
		"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 800 %zu' font-size='13' "
		"font-family='sans-serif'>\n<rect width='800' height='100%%' fill='white'/>\n"
		"<text x='20' y='26'>Pages written: address across, time down, %d ms a line; pages a second</text>\n"
		"<rect x='20' y='40' width='640' height='%zu' fill='#1b1030'/>\n",
		rounds * 8 + 60, MILLISECONDS, rounds * 8);
	for (size_t r = 0; r < rounds; r++) {
		for (size_t i = 0; i < COLUMNS; i++)
			if (heat[r][i] > 0)
				fprintf(f, CELL, 20 + i * 10, 40 + r * 8,
					(int)(280 + 125 * heat[r][i]), (int)(16 + 48 * heat[r][i]));
		if (r % 3 == 1)
			fprintf(f, "<text x='670' y='%zu'>%.0f/s</text>\n", r * 8 + 49, rate[r]);
	}
	fprintf(f, "</svg>\n");
	return fclose(f);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "rounds", 1, NULL, 'r' },
					       { "svg", 1, NULL, 's' },
					       { 0 } };
	char reason[256] = "";
	struct uffdwp_opts opts = { .sz = sizeof(opts), .optional = UFFDWP_FEATURE_WP_ASYNC };
	struct uffdwp_region_opts o = { .sz = sizeof(o), .mode = UFFDWP_MODE_WP };
	struct uffdwp_region *r;
	struct uffdwp_track *t;
	struct uffdwp *h;
	pthread_t writer;
	int opt, err;

	rounds = isatty(1) ? 200 : 24;
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (opt == 's')
			svg = optarg;
		if (opt == 'r')
			rounds = strtoul(optarg, NULL, 10);
		if (opt == '?' || rounds - 1 >= ROUNDS_MAX)
			return fprintf(stderr, "usage: dirty_track [--rounds=N] [--svg=FILE]\n"), 2;
	}
	opts.reason = reason, opts.reason_size = sizeof(reason), opts.faults = UFFDWP_FAULTS_ANY;
	if (uffdwp_open(&h, &opts))
		return printf("uffdwp_open: %s\n", reason), 77;
	o.len = (uint64_t)PAGES * PAGE;
	mem = mmap(NULL, o.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	o.addr = (uintptr_t)mem;
	if (mem == MAP_FAILED || uffdwp_region_add(h, &o, &r) ||
	    uffdwp_track_start(&t, &r, 1, NULL) || pthread_create(&writer, NULL, workload, NULL))
		return 1;
	err = follow(t);
	atomic_store(&stop, 1);
	pthread_join(writer, NULL);
	uffdwp_track_stop(t);
	uffdwp_close(h);
	printf("%zu rounds, error %d: %zu pages, %zu lost, %zu invented\n", rounds, err, told, lost,
	       invented);
	if (svg && draw_svg())
		perror(svg);
	return err || lost || invented;
}
