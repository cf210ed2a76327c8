/* SPDX-License-Identifier: MIT */
/* Writers and their books, see writers.h. */
#include "writers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TOLD_MAX 10
#define SOURCE_SIZE 65536

void verdict_fail(struct verdict *v, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (atomic_fetch_add(&v->failures, 1) >= TOLD_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	out_fail("%s: %s", v->name, text);
}

void thread_start(pthread_t *t, void *(*fn)(void *), void *arg)
{
	if (!pthread_create(t, NULL, fn, arg))
		return;
	out_fail("a thread does not start");
	mem_hugepages_restore();
	_Exit(EXIT_HARNESS);
}

/* ---- Books ---- */

static int make_gates(struct books *b, size_t size)
{
	pthread_rwlockattr_t attr;
	size_t i;

	b->ngates = (size + GATE_SIZE - 1) / GATE_SIZE;
	b->gates = calloc(b->ngates, sizeof(*b->gates));
	if (!b->gates)
		return -1;
	/* Who shuts a gate must not wait for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (i = 0; i < b->ngates; i++)
		pthread_rwlock_init(&b->gates[i], &attr);
	pthread_rwlockattr_destroy(&attr);
	return 0;
}

int books_make(struct books *b, char *addr, size_t size, size_t page, size_t unit)
{
	size_t n = size / unit;

	memset(b, 0, sizeof(*b));
	b->addr = addr;
	b->page = page;
	b->unit = unit;
	b->units = n;
	b->begun = calloc(n, sizeof(*b->begun));
	b->done = calloc(n, sizeof(*b->done));
	b->stirred = calloc(n, sizeof(*b->stirred));
	b->calmed = calloc(n, sizeof(*b->calmed));
	if (b->begun && b->done && b->stirred && b->calmed && !make_gates(b, size))
		return EXIT_PASS;
	out_fail("no memory");
	return EXIT_HARNESS;
}

void books_free(struct books *b)
{
	size_t i;

	for (i = 0; b->gates && i < b->ngates; i++)
		pthread_rwlock_destroy(&b->gates[i]);
	free(b->gates);
	free(b->calmed);
	free(b->stirred);
	free(b->done);
	free(b->begun);
	memset(b, 0, sizeof(*b));
}

/*
 * The whole order is needed: what is counted as begun before must be seen by whoever sees what
 * was written, in whatever way, also through the kernel's page tables.
 */
static void count(_Atomic uint64_t *c, size_t from, size_t to)
{
	for (; from < to; from++)
		atomic_fetch_add(&c[from], 1);
	atomic_thread_fence(memory_order_seq_cst);
}

void books_begin(struct books *b, size_t from, size_t to)
{
	count(b->begun, from, to);
}

void books_end(struct books *b, size_t from, size_t to)
{
	count(b->done, from, to);
}

void books_stir(struct books *b, size_t from, size_t to)
{
	count(b->stirred, from, to);
}

void books_calm(struct books *b, size_t from, size_t to)
{
	count(b->calmed, from, to);
}

static size_t gate_of(const struct books *b, size_t unit)
{
	return unit * b->unit / GATE_SIZE;
}

void books_shut(struct books *b, size_t from, size_t to)
{
	size_t g;

	for (g = gate_of(b, from); g <= gate_of(b, to - 1); g++)
		pthread_rwlock_wrlock(&b->gates[g]);
}

void books_open(struct books *b, size_t from, size_t to)
{
	size_t g;

	for (g = gate_of(b, from); g <= gate_of(b, to - 1); g++)
		pthread_rwlock_unlock(&b->gates[g]);
}

void books_write(struct books *b, size_t at, uint64_t value)
{
	size_t unit = at / b->unit;

	books_begin(b, unit, unit + 1);
	word_write(b->addr + at, value);
	books_end(b, unit, unit + 1);
}

/* ---- Writers ---- */

struct writer {
	struct writers *w;
	unsigned int index;
	struct rng rng;
};

/*
 * By read(2). Not by what pins the page first, as process_vm_writev(2) does: between that and its
 * copy the page may be protected again, which the copy does not heed. Not seen by ThreadSanitizer.
 */
static void kernel_write(struct writer *me, size_t at)
{
	struct books *b = me->w->b;
	uint64_t from = rng_below(&me->rng, SOURCE_SIZE / 8) * 8;
	size_t unit = at / b->unit;
	long n;

	books_begin(b, unit, unit + 1);
	n = syscall(SYS_pread64, me->w->random, b->addr + at, 8, from);
	books_end(b, unit, unit + 1);
	if (n != 8)
		verdict_fail(me->w->v, "read(2) into unit %zu gives %ld: %s", unit, n,
			     strerror(errno));
}

static void act(struct writer *me, size_t at)
{
	struct books *b = me->w->b;
	enum writer_act what = WRITER_STORE;
	uint64_t r = rng_below(&me->rng, 16);

	/* Reading is no write, also where nothing was there before. */
	if (r < 2)
		what = WRITER_READ;
	else if (r == 2 && me->w->kernel)
		what = WRITER_KERNEL;
	watchdog_step("writes to unit", at / b->unit);
	if (what == WRITER_READ)
		(void)word_read(b->addr + at);
	else if (what == WRITER_KERNEL)
		kernel_write(me, at);
	else
		books_write(b, at, rng_next(&me->rng) | 1);
	atomic_fetch_add_explicit(&me->w->acts[what], 1, memory_order_relaxed);
}

/* A gate that is shut, or about to be, is somebody else's: no waiting. */
static void visit(struct writer *me, size_t page)
{
	struct books *b = me->w->b;
	size_t at = page * b->page + rng_below(&me->rng, b->page / 8) * 8;
	pthread_rwlock_t *gate = &b->gates[at / GATE_SIZE];

	if (pthread_rwlock_tryrdlock(gate))
		return;
	act(me, at);
	pthread_rwlock_unlock(gate);
}

static void nap(uint64_t ns)
{
	const struct timespec t = { 0, (long)ns };

	nanosleep(&t, NULL);
}

/* Runs of pages, and single ones over and over; most of the memory is clean at any time. */
static void burst(struct writer *me)
{
	struct books *b = me->w->b;
	size_t pages = b->units * (b->unit / b->page), page = rng_below(&me->rng, pages);
	size_t n = 1 + rng_below(&me->rng, 64), stride = rng_below(&me->rng, 3);

	for (; n && !atomic_load(&me->w->stop); n--, page = (page + stride) % pages)
		visit(me, page);
}

static void *write_on(void *arg)
{
	struct writers *w = arg;
	struct writer me = { .w = w, .index = atomic_fetch_add(&w->next, 1) };

	me.rng = rng_make(w->seed, me.index);
	watchdog_enter("writer", me.index);
	while (!atomic_load(&w->stop)) {
		burst(&me);
		watchdog_step("rests", 0);
		if (rng_below(&me.rng, 4) == 0)
			nap(rng_below(&me.rng, 300000));
	}
	watchdog_leave();
	return NULL;
}

static int make_source(struct writers *w)
{
	uint64_t words[SOURCE_SIZE / 8];
	struct rng rng = rng_make(w->seed, WRITERS_MAX);
	size_t i;

	for (i = 0; i < SOURCE_SIZE / 8; i++)
		words[i] = rng_next(&rng) | 1;
	w->random = memfd_create("random", MFD_CLOEXEC);
	if (w->random >= 0 && write(w->random, words, sizeof(words)) == (ssize_t)sizeof(words))
		return EXIT_PASS;
	out_fail("no memfd: %s", strerror(errno));
	return EXIT_HARNESS;
}

int writers_start(struct writers *w)
{
	unsigned int i;
	int rc = make_source(w);

	if (rc) {
		if (w->random >= 0)
			close(w->random);
		return rc;
	}
	atomic_store(&w->stop, false);
	atomic_store(&w->next, 0);
	for (i = 0; i < w->n; i++)
		thread_start(&w->threads[i], write_on, w);
	return EXIT_PASS;
}

void writers_stop(struct writers *w)
{
	unsigned int i;

	atomic_store(&w->stop, true);
	watchdog_rest("waits for the writers");
	for (i = 0; i < w->n; i++)
		pthread_join(w->threads[i], NULL);
	watchdog_step("goes on", 0);
	close(w->random);
}
