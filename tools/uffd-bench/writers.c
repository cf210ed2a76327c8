/* SPDX-License-Identifier: MIT */
/*
 * The threads whose writes fault. Each has its own part of the pages, so that every write is the
 * first to its page, and times itself from the common start to its own last page.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "side.h"

struct writer {
	pthread_t thread;
	pthread_barrier_t *start;
	const struct mem *mem;
	const uint32_t *order;
	size_t pages;
	uint64_t value;
	double ns;
};

double bench_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void store(char *page, size_t page_size, uint64_t value)
{
	*(volatile uint64_t *)page = value;
	*(volatile uint64_t *)(page + page_size - sizeof(value)) = value;
}

static void *write_pages(void *arg)
{
	struct writer *w = arg;
	const struct mem *m = w->mem;
	double begin;

	pthread_barrier_wait(w->start);
	begin = bench_now();
	for (size_t i = 0; i < w->pages; i++)
		store(m->addr + w->order[i] * m->page_size, m->page_size, w->value);
	w->ns = bench_now() - begin;
	return NULL;
}

double writers_run(const struct writers *ws, const struct mem *m, uint64_t value)
{
	struct writer w[BENCH_WRITERS_MAX];
	pthread_barrier_t start;
	double sum = 0;

	pthread_barrier_init(&start, NULL, ws->count);
	for (unsigned int i = 0; i < ws->count; i++) {
		size_t from = writers_part(ws->pages, i, ws->count);
		size_t to = writers_part(ws->pages, i + 1, ws->count);

		w[i] = (struct writer){ .start = &start,
					.mem = m,
					.order = ws->order + from,
					.pages = to - from,
					.value = value };
		thread_start(&w[i].thread, ws->unpinned ? -1 : cpus_nth(i), write_pages, &w[i]);
	}
	for (unsigned int i = 0; i < ws->count; i++) {
		pthread_join(w[i].thread, NULL);
		sum += w[i].ns;
	}
	pthread_barrier_destroy(&start);
	return sum / (double)ws->pages;
}

void writers_name(const struct writers *w, char *out, size_t size)
{
	unsigned int ncpus = (unsigned int)cpus_allowed(NULL);
	size_t at = 0;

	if (w->unpinned) {
		snprintf(out, size, "any");
		return;
	}
	for (unsigned int i = 0; i < w->count && i < ncpus && at < size; i++)
		at += (size_t)snprintf(out + at, size - at, "%s%d", at ? "," : "", cpus_nth(i));
	if (at >= size)
		snprintf(out, size, "%u CPUs", w->count < ncpus ? w->count : ncpus);
}

/* The same numbers in every run, so that two runs write in the same order. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void shuffle(uint32_t *v, size_t n, uint64_t *state)
{
	for (size_t i = n; i > 1; i--) {
		size_t j = next_random(state) % i;
		uint32_t t = v[i - 1];

		v[i - 1] = v[j];
		v[j] = t;
	}
}

uint32_t *writers_order(size_t pages, unsigned int count, bool random)
{
	uint32_t *order = calloc(pages, sizeof(*order));
	uint64_t state = 0x9e3779b97f4a7c15;

	for (size_t i = 0; order && i < pages; i++)
		order[i] = (uint32_t)i;
	for (unsigned int i = 0; order && random && i < count; i++) {
		size_t from = writers_part(pages, i, count);

		shuffle(order + from, writers_part(pages, i + 1, count) - from, &state);
	}
	return order;
}
