/* SPDX-License-Identifier: MIT */
/*
 * What scenarios share: the balance of descriptors, threads and memory around them, judging errors, writers that
 * may come to sleep, and whoever serves a handle.
 */
#ifndef TESTS_FAULT_SCENE_H
#define TESTS_FAULT_SCENE_H

#include "../common/live.h"
#include "fault.h"

#define PAGE ((size_t)4096)
#define PAGES 8u

/* Before: threads' stacks and the heap are warm, the balance is taken, and the supervisor asked from here on. */
void scene_begin(void);
/* After: nothing may be left. */
void scene_end(void);

/*
 * True if err is no error; false if it is one that the function documents, given as a list that ends with 0; else
 * the run has failed. What a filter denies with, and what the machine lacks, is documented for every function.
 */
bool scene_good(const char *function, int err, const int *documented);
#define GOOD(call, ...) scene_good(#call, (call), (const int[]){ __VA_ARGS__, 0 })

/* Memory, and what every scenario does first; false where the error is documented, and nothing was made. */
char *scene_map(size_t pages, int flags);
void scene_unmap(char *mem, size_t pages);
bool scene_open(struct uffdwp **h, struct uffdwp_opts *o);
bool scene_add(struct uffdwp *h, const struct uffdwp_region_opts *o, struct uffdwp_region **r);

/* The scenario itself makes the handle fail. */
extern bool scene_denies;

/* 0, or the handle's error, which must be the one injected, or follow from it. */
int scene_error(struct uffdwp *h);

/* A thread that writes: it may sleep in a fault for as long as nobody serves. */
struct scene_writer {
	pthread_t thread;
	char *mem;
	size_t pages, step; /* every step-th page */
	uint64_t value;
	bool joined;
};

void scene_write(struct scene_writer *w, char *mem, size_t pages, size_t step, uint64_t value);
/* True if it came to its end in time. If not: an error, unless the kernel itself refuses to release it. */
bool scene_written(struct scene_writer *w);
/* After the handle was closed it must end in any case. */
void scene_join(struct scene_writer *w);

/* The word that each page has to hold, everywhere in it. */
void scene_fill(char *page, uint64_t value);
bool scene_holds(const char *page, uint64_t value);

#endif
