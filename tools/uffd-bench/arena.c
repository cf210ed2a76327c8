/* SPDX-License-Identifier: MIT */
/*
 * The memory of a contest. Each page's words hold the generation that wrote the page, so what a
 * handler saved can be checked exactly: the generation before, all over the page.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "side.h"

_Noreturn void die(const char *what, int error)
{
	fprintf(stderr, "uffd-bench: %s: %s\n", what, strerror(error));
	exit(EXIT_HARNESS);
}

static void *map_copy(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	memset(p, 0, size);
	return p;
}

struct arena *arena_new(enum mem_kind kind, size_t size, bool copying, int *error)
{
	struct arena *a = aligned_alloc(64, sizeof(*a));

	*error = -ENOMEM;
	if (!a)
		return NULL;
	memset(a, 0, sizeof(*a));
	*error = mem_map(&a->mem, kind, size);
	if (*error)
		goto free;
	a->pages = a->mem.size / a->mem.page_size;
	a->copying = copying;
	a->copy = map_copy(a->mem.size);
	if (!a->copy)
		goto unmap;
	memset(a->mem.addr, 0, a->mem.size);
	return a;
unmap:
	*error = -ENOMEM;
	mem_unmap(&a->mem);
free:
	free(a);
	return NULL;
}

void arena_free(struct arena *a)
{
	munmap(a->copy, a->mem.size);
	mem_unmap(&a->mem);
	free(a);
}

void arena_begin(struct arena *a)
{
	for (int i = 0; i < BENCH_CPUS_MAX; i++)
		atomic_store_explicit(&a->served[i].pages, 0, memory_order_relaxed);
	a->generation++;
}

static size_t served_pages(struct arena *a)
{
	size_t sum = 0;

	for (int i = 0; i < BENCH_CPUS_MAX; i++)
		sum += atomic_load_explicit(&a->served[i].pages, memory_order_relaxed);
	return sum;
}

static _Noreturn void wrong(const char *side, const char *what, size_t n, uint64_t is,
			    uint64_t want)
{
	fprintf(stderr, "uffd-bench: wrong result: %s: %s %zu: %llu instead of %llu\n", side, what,
		n, (unsigned long long)is, (unsigned long long)want);
	exit(EXIT_WRONG);
}

/* The writer stores in the first and the last word of each page. */
void arena_verify(struct arena *a, const char *side)
{
	size_t last = a->mem.page_size - sizeof(uint64_t);

	if (served_pages(a) != a->pages)
		wrong(side, "pages saved, of", a->pages, served_pages(a), a->pages);
	for (size_t i = 0; a->copying && i < a->pages; i++) {
		const char *page = a->copy + i * a->mem.page_size;
		uint64_t first_word, last_word;

		memcpy(&first_word, page, sizeof(first_word));
		memcpy(&last_word, page + last, sizeof(last_word));
		if (first_word != a->generation - 1)
			wrong(side, "first word of saved page", i, first_word, a->generation - 1);
		if (last_word != a->generation - 1)
			wrong(side, "last word of saved page", i, last_word, a->generation - 1);
	}
}
