/* SPDX-License-Identifier: MIT */
/*
 * A page that comes by another way than the one that its fault waits for: written through a second
 * mapping of the same file. The copy that follows finds it there, and must wake who waits.
 */
#include "events.h"

#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES_MAX 256

struct visitor {
	struct arena *a;
	size_t n;
	pthread_t thread;
};

static void *visit(void *arg)
{
	struct visitor *v = arg;

	watchdog_enter("visitor", 0);
	arena_visit(v->a, 0, v->n, true);
	watchdog_leave();
	return NULL;
}

static void place_twice(struct arena *a, char *alias, size_t nr)
{
	const char *src = a->src.addr + nr * a->page;
	uint64_t done = 0;
	int rc;

	watchdog_step("waits until somebody asks for page", nr);
	while (!atomic_load(&a->missing[nr]))
		sched_yield();
	watchdog_step("places page by its other mapping", nr);
	memcpy(alias + nr * a->page, src, a->page);
	rc = uffdwp_copy(a->region, (uintptr_t)arena_page(a, nr), src, a->page, 0, &done);
	if (rc || done != a->page)
		arena_fail(a, "copying page %zu, which is there: %s, %" PRIu64 " bytes done", nr,
			   strerror(-rc), done);
}

static void run_alias(struct events *e)
{
	struct arena *a = &e->a;
	struct visitor v = { .a = a, .n = a->pages < PAGES_MAX ? a->pages : PAGES_MAX };
	char *alias = mmap(NULL, a->dst.size, PROT_READ | PROT_WRITE, MAP_SHARED, a->dst.fd, 0);
	size_t nr;

	if (alias == MAP_FAILED || pthread_create(&v.thread, NULL, visit, &v)) {
		arena_fail(a, "no second mapping, or no thread");
		return;
	}
	events_poke(e);
	for (nr = 0; nr < v.n; nr++)
		place_twice(a, alias, nr);
	watchdog_rest("waits for the visitor");
	pthread_join(v.thread, NULL);
	watchdog_step("goes on", 0);
	arena_expect(a, 0, v.n, ARENA_SOME, 0, "of pages that came by themselves");
	arena_protect(a, 0, v.n);
	arena_visit(a, 0, v.n, false);
	arena_expect(a, 0, v.n, ARENA_SOME, 1, "of the same pages, protected");
	events_calm(e);
	arena_check(a, 0, v.n);
	munmap(alias, a->dst.size);
}

const struct event_case event_alias = {
	.name = "alias",
	.run = run_alias,
	.later = true,
	.kinds = 1u << MEM_SHMEM | 1u << MEM_HUGETLB_SHARED,
};
