/* SPDX-License-Identifier: MIT */
/*
 * Injected faults: what the parts of tests/fault share.
 *
 * DESIGN
 *
 * A scenario is a small program over the library. It runs in a child process, under a filter that asks the
 * supervisor, its parent, at each system call of interest (SECCOMP_RET_USER_NOTIF). The thread that calls has
 * marked, in a table that both share, the site in the library that it is in (site.h); so the supervisor leaves
 * the scenario's own calls alone, and knows those that the C library makes for the library, as in
 * pthread_create().
 *
 * A first run counts: which calls, that is site, system call and request, and how often each. From that comes
 * the plan: for each of them, at each of its times, with each error that the system call may have, one run in
 * which just this one fails, and one in which it fails from then on.
 *
 * The scenario decides by itself what is right: each error that it gets must be one that the header documents for
 * the function, what was reported as done must be done, and in the end nothing may be left, no thread asleep.
 */
#ifndef TESTS_FAULT_H
#define TESTS_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uffdwp.h>

#include "site.h"

/* ---- Sites and marks: mark.c ---- */

unsigned int fault_sites(void);
const struct fault_site *fault_site(unsigned int i);

/* The table of marks; shared with the children of fork(). */
void fault_marks_make(void);
void fault_marks_clear(void);
/* In a child: nothing fails any more. */
void fault_over(void);
/* The site that a thread is in, or -1; with fail, tell it that its call was made to fail. */
int fault_marked(pid_t tid, bool fail);

/* ---- Which errors: errors.c ---- */

#define FAULT_ERRORS 6

struct fault_kind {
	int nr;
	const char *name;
	bool requests; /* the same system call with another request is another call */
	int errors[FAULT_ERRORS];
	/* Errors that come once or some times, never for ever: a call that must be repeated until it does not. */
	int passing[FAULT_ERRORS];
};

/* The request of reads and writes of eventfds, which fail in no other way than being denied. */
#define FAULT_EVENTFD 1
/* Of reads of the userfaultfd, which gives whole messages or none. */
#define FAULT_MESSAGES 2

/* A completion's call, which says which in its first argument. */
#define FAULT_COMPLETION SYS_getppid
#define FAULT_COMPLETE_READ 1
#define FAULT_COMPLETE_WRITE 2

/* What is known of a call, or NULL: it is not failed. */
const struct fault_kind *fault_kind(int nr, uint64_t request);
const char *fault_error_name(int err);
const char *fault_request_name(int nr, uint64_t request);
/* The system calls that the filter has to ask about; -1 after the last. */
const int *fault_syscalls(void);

/* ---- Scenarios ---- */

struct fault_scenario {
	const char *name;
	void (*run)(void);
	/*
	 * 1: messages that can never be read are not tried: fork(2) waits for its event, and the child in the
	 * making holds the descriptor too, so that nothing releases it.
	 */
	bool must_read;
};

/* ---- One run: supervise.c ---- */

#define FAULT_CALLS 256

/* One thing that the library asked the system for. */
struct fault_call {
	int site, nr;
	uint64_t request;
	unsigned int count;
};

struct fault_target {
	int site, nr; /* site -1: nothing fails */
	uint64_t request;
	unsigned int index; /* its how-manieth time, from 0 on */
	int error;
	bool on; /* and from then on */
};

enum fault_result { FAULT_PASS, FAULT_MISSED, FAULT_FAIL, FAULT_SKIP };

struct fault_run {
	struct fault_call calls[FAULT_CALLS];
	unsigned int ncalls, failed; /* calls made to fail */
	char text[4096];	     /* what the child said */
};

/* Where a scenario may leave files: made when it is asked for, by whom it is taken away with them after the run. */
const char *fault_dir(void);

enum fault_result fault_supervise(const struct fault_scenario *s, const struct fault_target *t,
				  uint64_t seed, struct fault_run *run);

/* In the child: asks the supervisor from here on. */
void fault_watch_from_here(void);
extern uint64_t fault_seed;

/* Whether this run makes calls fail, and which; for what holds only where nothing can be done. */
extern const struct fault_target *fault_current;

#endif
