/* SPDX-License-Identifier: MIT */
/*
 * fork() while faults are in flight. Half of the case's pages are placed and protected before it,
 * half are missing. Alone, the child's memory is free: no write of it may be seen. Served, every
 * page of the child faults once more, in a handle of its own that this process serves.
 */
#include "events.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHILDREN 3

/* ---- The child's side ---- */

static int inert(struct events *e)
{
	struct arena *a = &e->a;

	atomic_store(&a->h, NULL);
	atomic_store(&e->busy.h, NULL);
	if (uffdwp_protect(a->region, (uintptr_t)a->dst.addr, a->page, NULL) != -ECHILD)
		arena_fail(a, "child: the parent's handle protects here");
	if (uffdwp_error(e->server.h) != -ECHILD)
		arena_fail(a, "child: the parent's handle is not inert");
	if (uffdwp_close(e->server.h))
		arena_fail(a, "child: the parent's handle does not close");
	return arena_result(a);
}

/* Placed pages are as they were and can be written; what is shared is only read. */
static int child_alone(struct events *e)
{
	struct arena *a = &e->a;
	size_t half = a->pages / 2;
	bool shared = a->kind == MEM_SHMEM || a->kind == MEM_HUGETLB_SHARED;

	inert(e);
	arena_check(a, 0, half);
	if (!shared)
		arena_visit(a, 0, half, false);
	return arena_result(a);
}

/*
 * Missing pages come from the parent's source, as do the parent's own. ThreadSanitizer would wait
 * for threads that this process does not have: nothing of it may run here.
 */
PAGE_UNSEEN _Noreturn static void child_served(const struct arena *a, char *at)
{
	size_t nr, bad;
	int status = EXIT_PASS;

	for (nr = 0; nr < a->pages; nr++)
		page_touch((struct page *)(void *)(at + nr * a->page));
	for (nr = 0; nr < a->pages / 2; nr++) {
		if (!page_check((struct page *)(void *)(at + nr * a->page), a->page, nr,
				a->shadow[nr], &bad))
			status = EXIT_WRONG;
	}
	for (;;)
		syscall(SYS_exit_group, status);
}

/*
 * Not fork(): ThreadSanitizer holds locks in it that instrumented threads need, the serving ones
 * too, and the kernel lets it return only when one of those has read the event.
 */
static pid_t fork_served(struct arena *a)
{
	char *at = atomic_load(&a->at);
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (!pid)
		child_served(a, at);
	return pid;
}

static int fork_one(struct events *e, bool served)
{
	pid_t pid = served ? fork_served(&e->a) : fork();

	if (!pid)
		_exit(child_alone(e));
	if (pid > 0)
		return watchdog_child(pid);
	arena_fail(&e->a, "fork: %s", strerror(errno));
	return -1;
}

/* ---- Alone ---- */

static void settle(struct events *e)
{
	struct arena *a = &e->a;
	size_t half = a->pages / 2;

	arena_visit(a, 0, half, true);
	arena_expect(a, 0, half, ARENA_SOME, arena_placed(a), "before fork");
	arena_reset(a, 0, half);
	arena_protect(a, 0, half);
}

static void run_alone(struct events *e)
{
	struct arena *a = &e->a;
	size_t half = a->pages / 2;
	int i, status;

	settle(e);
	events_poke(e);
	for (i = 0; i < CHILDREN; i++) {
		status = fork_one(e, false);
		if (status)
			arena_fail(a, "the child ended with %d", status);
	}
	arena_expect(a, 0, half, 0, 0, "by children left alone");
	arena_visit(a, 0, a->pages, false);
	arena_expect(a, 0, half, 0, 1, "in the parent after fork");
	arena_expect(a, half, a->pages, ARENA_SOME, arena_placed(a), "of missing pages after fork");
	events_calm(e);
	arena_check(a, 0, a->pages);
}

const struct event_case event_fork_alone = {
	.name = "fork-alone",
	.run = run_alone,
	.copies = true,
};

/* ---- Served ---- */

/* Handed from the serving thread that reads the event to the thread that serves the child. */
static _Atomic(struct uffdwp *) born;

static void on_forked(struct uffdwp *parent, struct uffdwp *child, void *arg)
{
	(void)parent;
	(void)arg;
	if (atomic_exchange(&born, child))
		out_fail("a second child before the first was taken");
}

struct nurse {
	struct events *e;
	int stop;
};

static struct uffdwp *await_child(struct nurse *n)
{
	struct pollfd p = { .fd = n->stop, .events = POLLIN };
	struct uffdwp *child;

	while (!(child = atomic_exchange(&born, NULL))) {
		if (poll(&p, 1, 1) > 0)
			return NULL;
	}
	return child;
}

static void check_regions(struct events *e, struct uffdwp *child)
{
	struct arena *a = &e->a;
	struct uffdwp_region *r = uffdwp_region_find(child, (uintptr_t)a->dst.addr);

	if (!r || uffdwp_region_len(r) != a->dst.size || uffdwp_region_ctx(r) != a ||
	    uffdwp_region_handle(r) != child)
		arena_fail(a, "the child's handle has no region like the parent's");
}

static void *nurse(void *arg)
{
	struct nurse *n = arg;
	struct uffdwp *child = await_child(n);
	struct pollfd p[2] = { { .events = POLLIN }, { .fd = n->stop, .events = POLLIN } };
	int rc = 0;

	if (!child)
		return NULL;
	check_regions(n->e, child);
	p[0].fd = uffdwp_fd(child);
	while (rc >= 0 && poll(p, 2, -1) >= 0 && !p[1].revents)
		rc = uffdwp_dispatch(child);
	if (rc < 0)
		arena_fail(&n->e->a, "the child's dispatch: %s", strerror(-rc));
	rc = uffdwp_close(child);
	if (rc)
		arena_fail(&n->e->a, "closing the child's handle: %s", strerror(-rc));
	return NULL;
}

static void serve_child(struct events *e)
{
	struct nurse n = { e, eventfd(0, EFD_CLOEXEC) };
	pthread_t t;
	int status;

	if (n.stop < 0 || pthread_create(&t, NULL, nurse, &n)) {
		arena_fail(&e->a, "no thread for the child");
		return;
	}
	status = fork_one(e, true);
	if (status)
		arena_fail(&e->a, "the child that is served ended with %d", status);
	eventfd_write(n.stop, 1);
	watchdog_rest("waits for the thread that serves the child");
	pthread_join(t, NULL);
	watchdog_step("goes on", 0);
	close(n.stop);
}

/*
 * In the child each page that was there faults exactly once as protected. One that was missing is
 * placed protected, so once as well; but what the first child placed in shared memory is there for
 * the next ones, and not in the page tables that they inherited.
 */
static void expect_child(struct arena *a, size_t half, bool first)
{
	bool shared = a->kind == MEM_SHMEM || a->kind == MEM_HUGETLB_SHARED;
	uint32_t m, w, want;
	size_t nr;

	for (nr = 0; nr < a->pages; nr++) {
		m = atomic_load(&a->child_missing[nr]);
		w = atomic_load(&a->child_written[nr]);
		want = nr < half || first || !shared;
		if (w != want || m != (nr >= half && want))
			arena_fail(a,
				   "page %zu: the child had %" PRIu32 " missing and %" PRIu32
				   " write faults",
				   nr, m, w);
	}
}

static void run_served(struct events *e)
{
	struct arena *a = &e->a;
	size_t half = a->pages / 2;
	int i;

	settle(e);
	events_poke(e);
	for (i = 0; i < CHILDREN; i++) {
		serve_child(e);
		expect_child(a, half, i == 0);
		arena_expect(a, 0, half, 0, 0, "in the parent by a child's writes");
		memset((void *)a->child_missing, 0, a->pages * sizeof(*a->child_missing));
		memset((void *)a->child_written, 0, a->pages * sizeof(*a->child_written));
	}
	arena_visit(a, 0, a->pages, false);
	arena_expect(a, 0, half, 0, 1, "in the parent after fork");
	events_calm(e);
	arena_check(a, 0, a->pages);
}

const struct event_case event_fork_served = {
	.name = "fork-served",
	.features = UFFDWP_FEATURE_EVENT_FORK,
	.forked = on_forked,
	.run = run_served,
	.copies = true,
};
