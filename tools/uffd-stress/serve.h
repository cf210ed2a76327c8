/* SPDX-License-Identifier: MIT */
/*
 * A handle together with the threads that serve it: the library's own, or threads of this program
 * around uffdwp_dispatch(), which wait by poll(2) or in a blocking read(2). Its statistics are
 * collected over several handles.
 */
#ifndef SERVE_H
#define SERVE_H

#include "stress.h"

#include <uffdwp.h>

#include <pthread.h>
#include <stdatomic.h>

struct server {
	struct uffdwp *h;
	unsigned int n; /* own threads running */
	bool poll, sandboxed;
	int fd;	  /* userfaultfd, with own threads */
	int stop; /* eventfd, likewise */
	_Atomic bool stopping;
	_Atomic int error; /* what a dispatch returned */
	pthread_t threads[UFFDWP_THREADS_MAX];
};

/* How many serving threads: as asked for, or one a CPU, at most 8. */
unsigned int server_threads(const struct stress_opts *o);

/*
 * Opens a handle for the memory kind and starts what serves it. more: the features that are required besides those
 * of the memory; threads counts unless --handlers says how many serve. EXIT_PASS, EXIT_UNSUPPORTED or EXIT_HARNESS, with a message.
 */
int server_start(struct server *s, const struct stress_opts *o, enum mem_kind kind, uint32_t serve,
		 bool by_poll, const struct uffdwp_opts *more);

/* Ends own threads; the handle stays open, and faults are served no longer unless by the pool. */
void server_stop(struct server *s);

/* Stops, closes, and says what went wrong on the way. */
bool server_close(struct server *s);

/* Sums over handles, for each worker and for all. */
struct tally {
	unsigned int workers; /* in worker[] that counted something */
	struct uffdwp_stats all, worker[UFFDWP_THREADS_MAX];
};

bool tally_add(struct tally *t, struct uffdwp *h);
void tally_print(const struct stress_opts *o, const struct tally *t);
void tally_json(const struct stress_opts *o, const struct tally *t);

#endif
