/* SPDX-License-Identifier: MIT */
/*
 * An operation fails: the error sticks, operations are not called any more, no thread stays asleep,
 * written pages are released, missing ones poisoned; or zero-filled where the kernel can not poison.
 */
#include "../common/live.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>

#define WRITERS 4

struct test {
	struct live *t;
	_Atomic int calls, written, first, sigbus, zeros;
};

static _Thread_local sigjmp_buf back;
static _Thread_local volatile int code;

static void on_sigbus(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	code = si->si_code;
	siglongjmp(back, 1);
}

static int fail(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	(void)f;
	atomic_fetch_add(&c->calls, 1);
	return -EIO;
}

static void *write_all(void *arg)
{
	struct test *c = arg;

	for (size_t i = 0; i < c->t->pages; i++)
		live_store(c->t->mem.addr + i * c->t->page, 1);
	atomic_fetch_add(&c->written, 1);
	return NULL;
}

static void after(struct test *c, struct uffdwp *h, struct uffdwp_region *r, uint32_t serve)
{
	struct uffdwp_info info;

	CHECK_EQ(uffdwp_error(h), -EIO);
	live_info(h, &info);
	CHECK_EQ(info.error, -EIO);
	if (serve == UFFDWP_SERVE_CALLER)
		CHECK_EQ(uffdwp_dispatch(h), -EIO);
	CHECK_EQ(uffdwp_sweep(r, (uintptr_t)c->t->mem.addr, c->t->mem.size, NULL), -ECANCELED);
	CHECK_EQ(uffdwp_protect(r, (uintptr_t)c->t->mem.addr, c->t->mem.size, NULL), -ECANCELED);
	CHECK_EQ(uffdwp_region_remove(r), 0);
	CHECK_EQ(uffdwp_error(h), -EIO);
}

static void on_write(struct live *t, uint32_t serve)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = fail };
	struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));
	struct test c = { .t = t };
	struct uffdwp_region *r;
	struct live_server s;
	pthread_t w[WRITERS];

	r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &c);
	live_protect(t, r);
	live_serve(&s, h);
	for (size_t i = 0; i < WRITERS; i++)
		live_thread(&w[i], write_all, &c);
	for (size_t i = 0; i < WRITERS; i++)
		live_join(w[i]);
	/* Those that were in it when the first one failed may still come. */
	CHECK(atomic_load(&c.calls) >= 1 && atomic_load(&c.calls) <= WRITERS);
	CHECK_EQ(atomic_load(&c.written), WRITERS);
	live_serve_stop(&s);
	after(&c, h, r, serve);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void write_threads(struct live *t)
{
	on_write(t, UFFDWP_SERVE_THREADS);
}

static void write_caller(struct live *t)
{
	on_write(t, UFFDWP_SERVE_CALLER);
}

static void write_sigbus(struct live *t)
{
	on_write(t, UFFDWP_SERVE_SIGBUS);
}

static void *read_each(void *arg)
{
	struct test *c = arg;

	for (volatile size_t i = 0; i < c->t->pages; i++) {
		if (sigsetjmp(back, 1)) {
			CHECK_EQ(code, live_poison_code());
			atomic_fetch_add(&c->sigbus, 1);
		} else {
			CHECK_EQ(live_load(c->t->mem.addr + i * c->t->page), 0);
			atomic_fetch_add(&c->zeros, 1);
		}
	}
	return NULL;
}

static void on_missing(struct live *t, uint32_t serve, uint64_t masked)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = fail };
	struct uffdwp_opts o = { .serve = serve, .masked = masked };
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, old;
	struct test c = { .t = t };
	struct uffdwp_region *r;
	struct live_server s;
	pthread_t readers[WRITERS];
	struct uffdwp *h;

	/* Before the handle is opened: serving by SIGBUS passes on to it what is not missing. */
	CHECK_EQ(sigaction(SIGBUS, &sa, &old), 0);
	h = live_open_opts(&o);
	r = live_region(t, h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, &ops, &c);
	live_serve(&s, h);
	for (size_t i = 0; i < WRITERS; i++)
		live_thread(&readers[i], read_each, &c);
	for (size_t i = 0; i < WRITERS; i++)
		live_join(readers[i]);
	if (atomic_load(&c.calls) < 1 || atomic_load(&c.calls) > WRITERS)
		FAIL("the operation was called %d times", atomic_load(&c.calls));
	CHECK_EQ(atomic_load(masked ? &c.zeros : &c.sigbus), WRITERS * t->pages);
	live_serve_stop(&s);
	after(&c, h, r, serve);
	CHECK_EQ(uffdwp_close(h), 0);
	CHECK_EQ(sigaction(SIGBUS, &old, NULL), 0);
}

static void missing_threads(struct live *t)
{
	on_missing(t, UFFDWP_SERVE_THREADS, 0);
}

static void missing_caller(struct live *t)
{
	on_missing(t, UFFDWP_SERVE_CALLER, 0);
}

static void missing_sigbus(struct live *t)
{
	on_missing(t, UFFDWP_SERVE_SIGBUS, 0);
}

static void missing_unpoisoned(struct live *t)
{
	on_missing(t, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_POISON);
}

/* A sweep that meets the failing operation says so, and the handle is as after any other failure. */
static void in_sweep(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = fail };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	struct test c = { .t = t };
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &c);
	int err;

	live_protect(t, r);
	err = uffdwp_sweep(r, (uintptr_t)t->mem.addr, t->mem.size, NULL);
	CHECK(err == -EIO || err == -ECANCELED);
	CHECK_EQ(atomic_load(&c.calls), 1);
	write_all(&c);
	CHECK_EQ(atomic_load(&c.calls), 1);
	after(&c, h, r, UFFDWP_SERVE_THREADS);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "write/threads", write_threads, KINDS_ALL, 0, 5 },
	{ "write/caller", write_caller, KINDS_ALL, 0, 5 },
	{ "write/sigbus", write_sigbus, KINDS_ALL, 0, 5 },
	{ "missing/threads", missing_threads, KINDS_ALL, UFFDWP_FEATURE_POISON, 5 },
	{ "missing/caller", missing_caller, KINDS_ALL, UFFDWP_FEATURE_POISON, 5 },
	{ "missing/sigbus", missing_sigbus, KINDS_ALL, UFFDWP_FEATURE_POISON, 5 },
	{ "missing/unpoisoned", missing_unpoisoned, KINDS_ALL, 0, 5 },
	{ "sweep", in_sweep, KINDS_ALL, 0, 5 },
};

LIVE_MAIN(cases)
