/* SPDX-License-Identifier: MIT */
/*
 * What the subcommands of uffd-stress share: options, exit codes, output and the watchdog.
 * A subcommand is one function that gets the options and returns the exit code.
 */
#ifndef STRESS_H
#define STRESS_H

#include "../common/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum stress_exit {
	EXIT_PASS = 0,
	EXIT_WRONG = 1,
	EXIT_MISUSE = 2,
	EXIT_UNSUPPORTED = 77,
	EXIT_HARNESS = 99,
};

/* How a bounce goes; a set of them is one combination. */
#define BOUNCE_RANDOM 1u /* pages in random order, else each locker from start to end */
#define BOUNCE_RACING 2u /* lockers share all pages, else each has its own */
#define BOUNCE_VERIFY 4u /* the copier compares what it placed, against the source */
#define BOUNCE_POLL 8u	 /* serving threads wait by poll(2), else by a blocking read(2) */
#define BOUNCE_MODES 16u /* combinations */

/* How a snapshot is taken; precopy by the kernel's notes, or by faults. */
#define STRATEGY_COW 1u
#define STRATEGY_SYNC 2u
#define STRATEGY_ASYNC 4u
#define STRATEGIES 7u

struct stress_opts {
	const char *command; /* name of the subcommand */
	unsigned int kinds;  /* bit mask of enum mem_kind, never 0 */
	size_t size;	     /* bytes of one area */
	unsigned int
		bounces; /* of each memory type; 0: as long as duration lasts, else each case once */
	unsigned int duration;	  /* seconds in all; 0: not limited */
	unsigned int handlers;	  /* serving threads; 0: as many as CPUs */
	unsigned int serves;	  /* bit s: the way s of enum uffdwp_serve is used */
	unsigned int modes;	  /* bit m: the combination m of BOUNCE_* is run */
	unsigned int track_modes; /* bit m: enum track_mode m is run */
	unsigned int strategies;  /* of snapshots: STRATEGY_* */
	unsigned int run;	  /* most pages a write operation gets at once */
	unsigned int stall;	  /* seconds without progress until the watchdog ends the program */
	uint64_t seed;		  /* everything random comes from it */
	bool sandbox;		  /* serving threads are killed at calls that are not listed */
	bool json;		  /* one object a line on stdout, prose on stderr */
	bool progress;		  /* a line that is written over and over */
	bool list;		  /* only print the names of the cases, one a line */
	char *const *args; /* what follows the options, NULL-terminated: probe's prefixes of rows */
};

/* Fills o from the command line. Returns -1 to go on, or the exit code: --help, or misuse. */
int options_parse(struct stress_opts *o, int argc, char **argv);

/* Each returns an enum stress_exit. main() has started the watchdog, except with list. */
int bounce_run(const struct stress_opts *o);
int sigbus_run(const struct stress_opts *o);
int events_run(const struct stress_opts *o);
int track_run(const struct stress_opts *o);
int snapshot_run(const struct stress_opts *o);
int probe_run(const struct stress_opts *o);

/* ---- Output: output.c ---- */

/*
 * Prose for the reader: stdout, or stderr with json. Ends the progress line first; adds no newline.
 */
void out_say(const struct stress_opts *o, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* What went wrong: stderr, with the program's name before and a newline after it. */
void out_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Replaces the progress line; does nothing without progress. */
void out_progress(const struct stress_opts *o, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * One JSON object on one line of stdout: begin (which writes schema and command), members, end.
 * Every one does nothing without json.
 */
void json_begin(const struct stress_opts *o);
void json_str(const struct stress_opts *o, const char *key, const char *value);
void json_u64(const struct stress_opts *o, const char *key, uint64_t value);
void json_bool(const struct stress_opts *o, const char *key, bool value);
void json_end(const struct stress_opts *o);

/* ---- Watchdog: watchdog.c ---- */

/*
 * Starts the thread that watches, and has deadly signals reported; 0 or -errno. Call it after
 * mem_hugepages_reserve().
 */
int watchdog_start(unsigned int stall);
void watchdog_stop(void);

/*
 * The calling thread is watched from enter to leave, under a name; each step is progress. The text
 * must be a literal, arg is printed with it. A thread that rests (waits for others that are
 * watched) can not hang; its next step ends the rest. No-ops for threads that have not entered.
 */
void watchdog_enter(const char *name, unsigned int index);
void watchdog_step(const char *text, uint64_t arg);
void watchdog_rest(const char *text);
void watchdog_leave(void);

/* What a hang, or a death, would be reported with: which case it is, and how to repeat it. NULL: nothing. */
void watchdog_case(const char *text);

/* fork(), without the watchdog's thread; the parent's watchdog goes on. */
pid_t watchdog_fork(void);

/*
 * Waits for a child and returns its exit status, 128 + signal if one killed it, or -1 if
 * it hung for stall seconds: its threads have been reported and it has been killed.
 */
int watchdog_child(pid_t pid);

/* Prints what every thread of a process is doing (0: this one) to stderr. */
void watchdog_report(pid_t pid);

/* ---- Small helpers: util.c ---- */

/* Deterministic numbers; give each thread its own state. */
struct rng {
	uint64_t s;
};

struct rng rng_make(uint64_t seed, uint64_t stream);
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n);

uint64_t now_ns(void);

/* Open descriptors and threads of this process now. */
struct census {
	unsigned int fds, threads;
};

struct census census_take(void);
/* False, with a message, if there are more now than before; waits a moment for ending threads. */
bool census_same(const struct census *before, const char *what);

/* A wrong result weighs more than an error, and that more than something unsupported. */
int exit_worse(int a, int b);

/* "pass", "FAIL", "unsupported" or "error". */
const char *exit_word(int rc);

/* Maps area, tells why not on stderr: EXIT_PASS or EXIT_HARNESS. */
int area_map(struct mem *m, enum mem_kind kind, size_t size);
/* All of its pages are missing again; it may be at another address then. Likewise. */
int area_empty(struct mem *m);

#endif
