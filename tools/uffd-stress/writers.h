/* SPDX-License-Identifier: MIT */
/*
 * Threads that write to watched memory, and the books of what they did: for tests that must
 * know which of the memory's units may, and which must, have been written between two moments.
 *
 * A unit is what is watched as one: a page, or a granule of them. For each of them there are two
 * counters outside of the memory: of writes begun and of writes done. So with begun and done as they
 * were read at moments before and after:
 *	done after > begun before	a write began and ended in between
 *	done after > done before	a write ended in between
 *	begun after = done before	no write in between, nor one on the way at either moment
 * Disturbances that may look like writes, and are none, are counted likewise: stirred and calmed.
 */
#ifndef WRITERS_H
#define WRITERS_H

#include "stress.h"

#include <pthread.h>
#include <stdatomic.h>

/* Failures of one trial; the first ones are told, under its name. */
struct verdict {
	char name[64];
	_Atomic unsigned int failures;
};

void verdict_fail(struct verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct books {
	char *addr;
	size_t page, unit, units;
	_Atomic uint64_t *begun, *done, *stirred, *calmed; /* a counter a unit */
	/* One for each GATE_SIZE: writers pass, who makes the memory read-only shuts it. */
	pthread_rwlock_t *gates;
	size_t ngates;
};

#define GATE_SIZE ((size_t)2 << 20)

/* unit is a power of two up to GATE_SIZE. An exit code; books_free() in any case. */
int books_make(struct books *b, char *addr, size_t size, size_t page, size_t unit);
void books_free(struct books *b);

/* A write to units [from, to) begins, and is done. */
void books_begin(struct books *b, size_t from, size_t to);
void books_end(struct books *b, size_t from, size_t to);

/* Something that may be taken for a write begins, and is over. */
void books_stir(struct books *b, size_t from, size_t to);
void books_calm(struct books *b, size_t from, size_t to);

/* Writers stay out of units [from, to) while they are shut; all of them: writers are paused. */
void books_shut(struct books *b, size_t from, size_t to);
void books_open(struct books *b, size_t from, size_t to);

/* Writes one word at byte offset at, a multiple of 8. */
void books_write(struct books *b, size_t at, uint64_t value);

/* One word of watched memory, as others write it. */
static inline uint64_t word_read(const void *p)
{
	return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_relaxed);
}

static inline void word_write(void *p, uint64_t value)
{
	atomic_store_explicit((_Atomic uint64_t *)p, value, memory_order_relaxed);
}

#define WRITERS_MAX 16

enum writer_act { WRITER_STORE, WRITER_KERNEL, WRITER_READ, WRITER_ACTS };

struct writers {
	struct books *b;
	struct verdict *v;
	unsigned int n;
	bool kernel; /* system calls write too */
	uint64_t seed;
	_Atomic bool stop;
	_Atomic uint64_t acts[WRITER_ACTS];
	_Atomic unsigned int next;
	int random; /* what the kernel reads from */
	pthread_t threads[WRITERS_MAX];
};

/* b, v, n, kernel and seed are set. An exit code. */
int writers_start(struct writers *w);
void writers_stop(struct writers *w);

/* Starts a thread, or ends the program: half a set of them could not go on. */
void thread_start(pthread_t *t, void *(*fn)(void *), void *arg);

#endif
