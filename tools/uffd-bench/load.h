/* SPDX-License-Identifier: MIT */
/*
 * A program to be saved while it runs: memory full of known content, and threads that write into a hot
 * set of pages scattered over it, paced or as fast as they can, and note how long each write took.
 *
 * Write i of thread t follows from i and t. So what the memory held at an instant is known from how many
 * writes each thread had made, and every image can be compared in full, without a copy having been made
 * at the instant, and without any help of who made the image.
 */
#ifndef LOAD_H
#define LOAD_H

#include <pthread.h>
#include <stdatomic.h>

#include "bench.h"

#define LOAD_PAGE 4096u
#define LOAD_BUCKETS 2048
#define LOAD_BIN_NS 1000000u /* of the course over time */
#define LOAD_BINS 120000u

enum load_phase { LOAD_BEFORE, LOAD_DURING, LOAD_AFTER, LOAD_PHASES };

/* Log-linear, 32 buckets an octave. */
struct load_hist {
	uint64_t bucket[LOAD_BUCKETS];
	uint64_t count, max;
};

/* A millisecond of the course over time. */
struct load_bin {
	uint32_t writes, max_ns;
};

struct load;

struct load_writer {
	_Alignas(64) struct load *load;
	pthread_t thread;
	unsigned int id;
	uint64_t writes, first; /* so far; and when this turn began, to pace from there */
	struct load_hist hist[LOAD_PHASES];
	struct load_bin *bin;
};

/* How many writes each thread had made. */
struct load_instant {
	uint64_t writes[BENCH_WRITERS_MAX];
};

struct load {
	struct mem mem;
	size_t pages, hot; /* of LOAD_PAGE */
	unsigned int writers;
	uint64_t rate;	/* writes a second, of all threads; 0: as fast as they can */
	uint32_t *page; /* the hot ones, each thread's together */
	char *shadow;	/* what they held at the instant done */
	struct load_instant done;
	struct load_writer *writer;
	uint64_t began, entered[LOAD_PHASES + 1]; /* ns */
	_Alignas(64) atomic_uint stop;		  /* 1: pause, 2: end */
	atomic_uint phase;
	unsigned int parked;
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

/* False, after having said so on stderr: a load writes pages of LOAD_PAGE, which hugetlb has not. */
bool load_can(const struct bench_opts *o);

/* Maps and fills the memory; hot of its pages will be written. NULL and -errno in error. */
struct load *load_new(enum mem_kind kind, size_t size, size_t hot, unsigned int writers,
		      int *error);
void load_free(struct load *l);

/* Huge pages in one piece again, content as at the beginning; nothing for memory without them. */
void load_make_whole(struct load *l);

void load_start(struct load *l);
void load_enter(struct load *l, enum load_phase phase);
void load_pause(struct load *l); /* returns when every thread is between two writes */
void load_resume(struct load *l);
struct load_instant load_now(const struct load *l); /* while paused */
void load_stop(struct load *l);

/* All threads' together, of the last turn. */
void load_sum(const struct load *l, enum load_phase phase, struct load_hist *sum);
double load_seconds(const struct load *l, enum load_phase phase);
double load_percentile(const struct load_hist *h, double percent); /* ns */
/* Millisecond i of the last turn, from load_start() on. */
struct load_bin load_bin(const struct load *l, size_t i);

/*
 * True if the memory's size bytes from offset on in the file are what the memory held at the instant. Instants
 * must come in order. With no instant only what is never written is compared.
 */
bool load_verify(struct load *l, int fd, uint64_t offset, const struct load_instant *at);
/* The same of memory. */
bool load_verify_memory(const struct load *l, const char *mem);

uint64_t load_clock(void); /* ns, monotonic */

#endif
