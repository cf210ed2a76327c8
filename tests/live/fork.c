/* SPDX-License-Identifier: MIT */
/*
 * fork(2): the child's copy of a handle is inert and can be closed while the parent goes on; with the
 * fork event, a child gets a handle of its own, served from here, or is left alone.
 */
#include "../common/live.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ThreadSanitizer can not have new threads in the fork of a process that has some. */
#ifdef LIVE_TSAN
#define IN_CHILD UFFDWP_SERVE_SIGBUS
#else
#define IN_CHILD UFFDWP_SERVE_THREADS
#endif

struct test {
	struct live *t;
	_Atomic int calls, other, forks, child_served;
	struct uffdwp *h;
	struct uffdwp *_Atomic child;
	struct uffdwp_region *r, *child_region;
	char *saved; /* of the child's memory */
};

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	atomic_fetch_add(r == c->r ? &c->calls : &c->other, 1);
	if (r == c->r || !c->saved)
		return 0;
	return uffdwp_read(r, f->addr, c->saved + f->offset, f->len, NULL);
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };

static void wait_for_child(pid_t pid)
{
	int status;

	CHECK(pid > 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
}

static void write_all(struct live *t)
{
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 1);
}

/* Every call, in the child. */
static void expect_inert(struct test *c)
{
	uint64_t addr = (uintptr_t)c->t->mem.addr, len = c->t->page, done = 1;
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .addr = addr, .len = len, .mode = UFFDWP_MODE_WP
	};
	struct uffdwp_region *r = c->r;
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp_stats st = { .sz = sizeof(st) };
	char page[8];

	CHECK_EQ(uffdwp_protect(c->r, addr, len, &done), -ECHILD);
	CHECK_EQ(done, 0);
	CHECK_EQ(uffdwp_unprotect(c->r, addr, len, NULL), -ECHILD);
	CHECK_EQ(uffdwp_sweep(c->r, addr, len, NULL), -ECHILD);
	CHECK_EQ(uffdwp_release(c->r, addr, len, NULL), -ECHILD);
	CHECK_EQ(uffdwp_copy(c->r, addr, page, len, 0, NULL), -ECHILD);
	CHECK_EQ(uffdwp_zeropage(c->r, addr, len, 0, NULL), -ECHILD);
	CHECK_EQ(uffdwp_continue(c->r, addr, len, 0, NULL), -ECHILD);
	CHECK_EQ(uffdwp_move(c->r, addr, addr + len, len, NULL), -ECHILD);
	CHECK_EQ(uffdwp_poison(c->r, addr, len, NULL), -ECHILD);
	CHECK_EQ(uffdwp_wake(c->r, addr, len), -ECHILD);
	CHECK_EQ(uffdwp_populate(c->r, addr, len, NULL), -ECHILD);
	CHECK_EQ(uffdwp_discard(c->r, addr, len, 0, NULL), -ECHILD);
	CHECK_EQ(uffdwp_read(c->r, addr, page, sizeof(page), NULL), -ECHILD);
	CHECK_EQ(uffdwp_region_add(c->h, &o, &r), -ECHILD);
	CHECK(!r);
	CHECK_EQ(uffdwp_region_remove(c->r), -ECHILD);
	CHECK_EQ(uffdwp_info(c->h, &info), -ECHILD);
	CHECK_EQ(uffdwp_stats(c->h, UFFDWP_ALL_WORKERS, &st), -ECHILD);
	CHECK_EQ(uffdwp_error(c->h), -ECHILD);
	CHECK_EQ(uffdwp_fd(c->h), -ECHILD);
	CHECK_EQ(uffdwp_dispatch(c->h), -ECHILD);
	CHECK(!uffdwp_region_find(c->h, addr));
}

static void inert(struct live *t, uint32_t serve)
{
	struct test c = { .t = t };
	struct live_server s;
	pid_t pid;

	c.h = live_open(serve, mem_wp_features(t->mem.kind));
	c.r = live_region(t, c.h, UFFDWP_MODE_WP, 1, &ops, &c);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	live_protect(t, c.r);
	live_serve(&s, c.h);
	live_store(t->mem.addr, 1);
	CHECK_EQ(atomic_load(&c.calls), 1);
	pid = fork();
	if (!pid) {
		expect_inert(&c);
		/* Its own copy of the memory is not protected, and the close leaves the parent's alone. */
		if (BIT(t->mem.kind) & KINDS_ANON)
			write_all(t);
		CHECK_EQ(uffdwp_close(c.h), 0);
		if (BIT(t->mem.kind) & KINDS_ANON)
			write_all(t);
		_exit(0);
	}
	wait_for_child(pid);
	CHECK_EQ(atomic_load(&c.calls), 1);
	write_all(t);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	CHECK_EQ(uffdwp_error(c.h), 0);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

static void inert_threads(struct live *t)
{
	inert(t, UFFDWP_SERVE_THREADS);
}

static void inert_caller(struct live *t)
{
	inert(t, UFFDWP_SERVE_CALLER);
}

static void inert_sigbus(struct live *t)
{
	inert(t, UFFDWP_SERVE_SIGBUS);
}

/* A child may open handles of its own while it still has the parent's copy, and after. */
static void own_handle(struct live *t)
{
	struct test c = { .t = t };
	pid_t pid;

	c.h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	c.r = live_region(t, c.h, UFFDWP_MODE_WP, 1, &ops, &c);
	live_protect(t, c.r);
	pid = fork();
	if (!pid) {
		struct test mine = { .t = t };

		for (int i = 0; i < 2; i++) {
			atomic_store(&mine.calls, 0);
			mine.h = live_open(i ? IN_CHILD : UFFDWP_SERVE_SIGBUS,
					   mem_wp_features(t->mem.kind));
			mine.r = live_region(t, mine.h, UFFDWP_MODE_WP, 1, &ops, &mine);
			live_protect(t, mine.r);
			write_all(t);
			CHECK_EQ(atomic_load(&mine.calls), t->pages);
			CHECK_EQ(uffdwp_close(mine.h), 0);
			if (!i)
				CHECK_EQ(uffdwp_close(c.h), 0);
		}
		_exit(0);
	}
	wait_for_child(pid);
	CHECK_EQ(atomic_load(&c.calls), 0);
	write_all(t);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

/* ---- With the event ---- */

static void on_fork(struct uffdwp *parent, struct uffdwp *child, void *arg)
{
	struct test *c = arg;

	if (parent == c->h)
		atomic_fetch_add(&c->forks, 1);
	atomic_store(&c->child, child);
}

/* Serves the child's handle until the child has ended. */
static void serve_child(struct test *c, pid_t pid)
{
	struct uffdwp *child;
	struct pollfd p = { .events = POLLIN };
	int status;

	while (!(child = atomic_load(&c->child)))
		live_msleep(1);
	p.fd = uffdwp_fd(child);
	CHECK(p.fd >= 0);
	CHECK_EQ(uffdwp_set_pid(child, pid), 0);
	c->child_region = uffdwp_region_find(child, (uintptr_t)c->t->mem.addr);
	CHECK(c->child_region && c->child_region != c->r);
	CHECK_EQ(uffdwp_region_len(c->child_region), c->t->mem.size);
	CHECK(uffdwp_region_handle(c->child_region) == child);
	CHECK(uffdwp_region_ctx(c->child_region) == c);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (poll(&p, 1, 5) > 0)
			CHECK(uffdwp_dispatch(child) >= 0);
	}
	CHECK_EQ(status, 0);
	CHECK_EQ(uffdwp_close(child), 0);
}

static void followed(struct live *t)
{
	struct test c = { .t = t };
	struct uffdwp_opts o = { .required = UFFDWP_FEATURE_EVENT_FORK |
					     mem_wp_features(t->mem.kind),
				 .forked = on_fork,
				 .forked_arg = &c };
	char *before = malloc(t->mem.size);
	struct uffdwp_stats st;
	pid_t pid;

	c.saved = calloc(1, t->mem.size);
	CHECK(before && c.saved);
	c.h = live_open_opts(&o);
	c.r = live_region(t, c.h, UFFDWP_MODE_WP, 1, &ops, &c);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	memcpy(before, t->mem.addr, t->mem.size);
	live_protect(t, c.r);
	pid = fork();
	if (!pid) {
		write_all(t);
		_exit(0);
	}
	CHECK(pid > 0);
	serve_child(&c, pid);
	CHECK_EQ(atomic_load(&c.forks), 1);
	CHECK_EQ(atomic_load(&c.other), t->pages);
	CHECK_EQ(atomic_load(&c.calls), 0);
	CHECK_EQ(memcmp(c.saved, before, t->mem.size), 0);
	write_all(t);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	CHECK_EQ(atomic_load(&c.other), t->pages);
	live_stats(c.h, &st);
	CHECK_EQ(st.fork, 1);
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
	free(before);
	free(c.saved);
}

/* Nobody asked for the child: it writes freely, and the parent is served as before. */
static void left_alone(struct live *t)
{
	struct test c = { .t = t };
	struct uffdwp_stats st;
	pid_t pid;

	c.h = live_open(UFFDWP_SERVE_THREADS,
			UFFDWP_FEATURE_EVENT_FORK | mem_wp_features(t->mem.kind));
	c.r = live_region(t, c.h, UFFDWP_MODE_WP, 1, &ops, &c);
	live_protect(t, c.r);
	pid = fork();
	if (!pid) {
		write_all(t);
		_exit(0);
	}
	wait_for_child(pid);
	CHECK_EQ(atomic_load(&c.calls), 0);
	CHECK_EQ(atomic_load(&c.other), 0);
	write_all(t);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	live_stats(c.h, &st);
	CHECK_EQ(st.fork, 1);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

static const struct live_case cases[] = {
	{ "inert/threads", inert_threads, KINDS_ALL, 0, 5 },
	{ "inert/caller", inert_caller, KINDS_ALL, 0, 5 },
	{ "inert/sigbus", inert_sigbus, KINDS_ALL, 0, 5 },
	{ "own-handle", own_handle, KINDS_ALL, 0, 5 },
	{ "followed", followed, KINDS_ALL, UFFDWP_FEATURE_EVENT_FORK, 5 },
	{ "left-alone", left_alone, KINDS_ALL, UFFDWP_FEATURE_EVENT_FORK, 5 },
};

LIVE_MAIN(cases)
