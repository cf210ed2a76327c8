/* SPDX-License-Identifier: MIT */
/*
 * Data that is lost: access to a poisoned page is SIGBUS, its neighbours are not
 * touched; by the call and from within a missing operation.
 */
#include "../common/live.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>

static _Thread_local sigjmp_buf back;
static _Thread_local volatile int code;
static _Thread_local void *volatile where;

static void on_sigbus(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	code = si->si_code;
	where = si->si_addr;
	siglongjmp(back, 1);
}

/* 0 if the word can be read, else the code of the SIGBUS. */
static int probe(char *p)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, old;
	volatile int result = 0;

	CHECK_EQ(sigaction(SIGBUS, &sa, &old), 0);
	if (!sigsetjmp(back, 1))
		live_load(p);
	else
		result = code;
	CHECK_EQ(sigaction(SIGBUS, &old, NULL), 0);
	return result;
}

static int poison_odd(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct live *t = ctx;

	if (f->offset / t->page % 2)
		return uffdwp_poison(r, f->addr, f->len, NULL);
	return uffdwp_zeropage(r, f->addr, f->len, 0, NULL);
}

static void by_operation(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = poison_odd };
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_POISON);

	live_region(t, h, UFFDWP_MODE_MISSING, 1, &ops, t);
	for (size_t i = 0; i < t->pages; i++) {
		char *p = t->mem.addr + i * t->page;

		CHECK_EQ(probe(p), i % 2 ? live_poison_code() : 0);
		if (i % 2)
			CHECK((char *)where >= p && (char *)where < p + t->page);
	}
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void by_call(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_POISON);
	uint64_t addr = (uintptr_t)t->mem.addr, half = t->pages / 2 * t->page, done = 0;
	struct uffdwp_region *r;

	r = live_region(t, h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, NULL, t);
	CHECK_EQ(uffdwp_zeropage(r, addr, t->page, 0, NULL), 0);
	CHECK_EQ(uffdwp_poison(r, addr + t->page, half, &done), 0);
	CHECK_EQ(done, half);
	for (size_t i = 0; i < t->pages; i++) {
		int want = i >= 1 && i <= t->pages / 2 ? live_poison_code() : 0;

		CHECK_EQ(probe(t->mem.addr + i * t->page), want);
	}
	CHECK_EQ(uffdwp_close(h), 0);
}

/* Zeros, which a late message brings, are not placed over it: it may be a mark to the kernel, but of another kind. */
static void stays(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS,
				     UFFDWP_FEATURE_POISON | mem_wp_features(t->mem.kind));
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, NULL,
					      t);

	CHECK_EQ(uffdwp_poison(r, (uintptr_t)t->mem.addr, t->page, NULL), 0);
	CHECK_EQ(uffdwp_zeropage(r, (uintptr_t)t->mem.addr, t->mem.size, 0, NULL), 0);
	CHECK_EQ(probe(t->mem.addr), live_poison_code());
	CHECK_EQ(probe(t->mem.addr + t->page), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* Marked as protected past the library, where nothing is: see unknown-mark in missing.c. */
static void unknown_mark(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = poison_odd };
	struct uffdwp *h = live_open(UFFDWP_SERVE_CALLER,
				     UFFDWP_FEATURE_POISON | mem_wp_features(t->mem.kind));
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, &ops,
					      t);
	struct uffdio_writeprotect wp = { .range = { (uintptr_t)t->mem.addr, t->mem.size },
					  .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct live_server s;

	CHECK_EQ(ioctl(uffdwp_fd(h), UFFDIO_WRITEPROTECT, &wp), 0);
	live_serve(&s, h);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(probe(t->mem.addr + i * t->page), i % 2 ? live_poison_code() : 0);
	/* What is there stays. */
	CHECK_EQ(uffdwp_poison(r, (uintptr_t)t->mem.addr, t->page, NULL), 0);
	CHECK_EQ(probe(t->mem.addr), 0);
	CHECK_EQ(uffdwp_error(h), 0);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void lacking(struct live *t)
{
	struct uffdwp_opts o = { .masked = UFFDWP_FEATURE_POISON };
	struct uffdwp *h = live_open_opts(&o);
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_MISSING, 1, NULL, NULL);
	uint64_t done = 1;

	CHECK_EQ(uffdwp_poison(r, (uintptr_t)t->mem.addr, t->page, &done), -EOPNOTSUPP);
	CHECK_EQ(done, 0);
	CHECK_EQ(probe(t->mem.addr), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "by-operation", by_operation, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "by-call", by_call, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "stays", stays, KINDS_ANON | BIT(MEM_MEMFD_PRIVATE), UFFDWP_FEATURE_POISON, 0 },
	{ "unknown-mark", unknown_mark, KINDS_ALL,
	  UFFDWP_FEATURE_POISON | UFFDWP_FEATURE_WP_UNPOPULATED, 10 },
	{ "lacking", lacking, BIT(MEM_ANON), UFFDWP_FEATURE_POISON, 0 },
};

LIVE_MAIN(cases)
