/* SPDX-License-Identifier: MIT */
/*
 * What the subcommands of uffd-bench share: the options, the CPUs, the reports. A subcommand is
 * one file with one struct bench_cmd in it, listed in main.c.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/mem.h"

enum {
	EXIT_MEASURED = 0,
	EXIT_WRONG = 1,
	EXIT_MISUSE = 2,
	EXIT_UNSUPPORTED = 77,
	EXIT_HARNESS = 99
};

enum bench_pattern { PATTERN_SEQ = 1, PATTERN_RANDOM = 2, PATTERN_ALL = 3 };
enum bench_serve {
	SERVE_THREADS = 1,
	SERVE_CALLER = 2,
	SERVE_SIGBUS = 4,
	SERVE_ASYNC = 8, /* nobody: the kernel notes the write */
	SERVE_ALL = 15
};

/* Where the handlers run, against the writers. PLACE_ALL: the default, and all compared. */
enum bench_place {
	PLACE_AUTO,
	PLACE_SCHED,
	PLACE_FOLLOW,
	PLACE_PIN_SAME,	 /* one on each writer's CPU */
	PLACE_PIN_ONE,	 /* one in all, on the first writer's CPU */
	PLACE_PIN_OTHER, /* on the CPUs without writers, or one on the last CPU */
	PLACE_ALL,
};

/* How fast a program writes that is saved. */
enum bench_pace { PACE_PACED = 1, PACE_FULL = 2, PACE_ALL = 3 };
/* Where its image goes. */
enum bench_to { TO_TMPFS = 1, TO_DISK = 2, TO_ALL = 3 };

#define BENCH_WRITERS_MAX 64u
#define BENCH_SIZES_MAX 16u
#define BENCH_ROUNDS_MIN 7u
#define BENCH_ROUNDS_MAX 1001u

struct bench_opts {
	unsigned int pattern; /* mask of enum bench_pattern */
	unsigned int serve;   /* mask of enum bench_serve */
	enum bench_place place;
	unsigned int writers[BENCH_WRITERS_MAX]; /* the counts to measure with */
	size_t nwriters;
	unsigned int mem; /* mask of enum mem_kind */
	size_t sizes[BENCH_SIZES_MAX];
	size_t nsizes;
	unsigned int pace; /* mask of enum bench_pace */
	unsigned int to;   /* mask of enum bench_to */
	const char *dir;   /* on a disk */
	unsigned int rounds;
	const char *cases; /* comma-separated parts of case names, or NULL for every case */
	const char *plot;  /* a file to draw the results into, or NULL */
	bool copy;	   /* the handler's work: copy the page away, or nothing */
	bool json;
	bool list; /* print the cases that the other options choose, and run none */
};

struct bench_cmd {
	const char *name;
	const char *summary;
	int (*run)(const struct bench_opts *o); /* an EXIT_ value */
	/* What it measures unless told otherwise: writers counts from one. */
	unsigned int mem;
	size_t size;
	unsigned int writers;
	bool plots; /* knows --plot */
};

extern const struct bench_cmd bench_fault, bench_track, bench_snapshot, bench_restore;

const char *bench_serve_name(unsigned int serve);
const char *bench_place_name(enum bench_place place);

/* True if the --cases filter wants it. */
bool bench_wants(const struct bench_opts *o, const char *name);
/* As many hugepages as the largest contest needs, if one does. */
void bench_reserve_hugepages(const struct bench_opts *o);
/* No case was left by the options: says so, EXIT_MISUSE. */
int bench_no_case(const struct bench_opts *o);

/* The harness itself failed: says what and errno, ends with EXIT_HARNESS. */
_Noreturn void die(const char *what, int error);
/* Nanoseconds of the monotonic clock. */
double bench_now(void);

/* ---- cpus.c ---- */

#define BENCH_CPUS_MAX 1024

/* The CPUs this process may run on, in order; remembered at the first call. */
int cpus_allowed(const int **cpus);
/* The i-th of them, starting again after the last. */
int cpus_nth(unsigned int i);
/* Those that served at least one thing of twenty, in words: less is the scheduler's accident. */
void cpus_name(const unsigned long served[BENCH_CPUS_MAX], char *out, size_t size);

/* ---- rounds.c ---- */

#define ROUNDS_SIDES_MAX 12
#define ROUNDS_FIGURES_MAX 8
#define ROUNDS_TURNS_MAX 8

struct rounds {
	unsigned int sides, figures, rounds;
	unsigned int turns; /* of each side in a round; their medians are the round's figures */
	void (*turn)(void *ctx, unsigned int side, bool counted, double *figures);
	void *ctx;
	double *value[ROUNDS_SIDES_MAX][ROUNDS_FIGURES_MAX]; /* for each round */
};

/* Plays them all; the values are there until rounds_free(). */
void rounds_play(struct rounds *r);
void rounds_free(struct rounds *r);

/* ---- report.c ---- */

/* The median, smallest and greatest of n values; sorts them. */
struct spread {
	double median, min, max;
};
struct spread spread_of(double *values, size_t n);

/* One row: two sides of one case, and what they have to reach. */
struct row {
	const char *bench, *name, *serve, *peer, *unit;
	const double *ours, *theirs; /* a value for each round */
	unsigned int rounds;
	const char *target; /* "<=1.05", or NULL when the row only informs */
	double limit;
	bool more; /* more is better: the ratio is to be at least the limit */
	const char *writers_on, *ours_on, *theirs_on; /* CPUs, in words */
};

/* True if the target, if there is one, was met. Prints a table's line, or a line of JSON. */
bool report_row(const struct row *r, bool json);
void report_header(const char *title, bool json);
/* Prose: stdout with a table, stderr with JSON. */
void report_note(bool json, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
