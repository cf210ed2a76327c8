/* SPDX-License-Identifier: MIT */
/*
 * Pages that tell what they must hold: a lock, a counter, and words that follow from the
 * page's number and the counter alone. So one counter kept elsewhere is enough to know every byte.
 */
#ifndef PAGE_H
#define PAGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What also a child may run that ThreadSanitizer did not see begin. */
#define PAGE_UNSEEN __attribute__((no_sanitize("thread")))

struct page {
	pthread_mutex_t mutex;
	uint64_t nr;	/* which page it is */
	uint64_t count; /* visits, from page_words() - 1 on; read without the mutex too */
	uint64_t word[];
};

PAGE_UNSEEN static inline size_t page_words(size_t size)
{
	return (size - sizeof(struct page)) / sizeof(uint64_t);
}

/* A new page nr, as if each word had just been visited once. */
void page_fill(struct page *p, size_t size, uint64_t nr);

/* What a visitor reads before it takes the lock, racing with others on purpose. */
uint64_t page_glance(const struct page *p);

/* Writes what is there. */
void page_touch(struct page *p);

/* Locks the page, compares its counter with *shadow, changes a word, counts in both. */
bool page_visit(struct page *p, size_t size, uint64_t nr, uint64_t *shadow);

/* Whether each word is what it must be after count visits; if not, *bad is the byte offset. */
bool page_check(const struct page *p, size_t size, uint64_t nr, uint64_t count, size_t *bad);

#endif
