/* SPDX-License-Identifier: MIT */
/*
 * Serving by the caller: nothing happens by itself, one dispatch serves what is there, several threads
 * may dispatch at once, and a blocking one waits for a message or a signal.
 */
#include "../common/live.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>

#define WRITERS 8

struct test {
	struct live *t;
	struct uffdwp *h;
	_Atomic int calls, stop, dispatched, interrupted, ready;
};

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	if (f->worker != UFFDWP_NO_WORKER)
		return -EPROTO;
	atomic_fetch_add(&c->calls, (int)(f->len / c->t->page));
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };

struct writer {
	struct test *c;
	size_t first;
	struct live_sleeper s;
};

static void *write_own(void *arg)
{
	struct writer *w = arg;
	struct live *t = w->c->t;

	live_store(t->mem.addr + w->first * t->page, 1);
	return NULL;
}

/* Several writers asleep, on one page and on others; each dispatch takes what there is. */
static void by_hand(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_CALLER, mem_wp_features(t->mem.kind));
	struct pollfd p = { .fd = uffdwp_fd(h), .events = POLLIN };
	struct test c = { .t = t, .h = h };
	struct writer w[WRITERS];
	struct uffdwp_stats st;
	int n, messages = 0;

	live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &c));
	CHECK_EQ(uffdwp_dispatch(h), 0);
	for (size_t i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .c = &c, .first = i / 2 };
		live_sleeper(&w[i].s, write_own, &w[i]);
	}
	CHECK_EQ(atomic_load(&c.calls), 0);
	CHECK_EQ(poll(&p, 1, 0), 1);
	while ((n = uffdwp_dispatch(h)) > 0)
		messages += n;
	CHECK_EQ(n, 0);
	/* One message a writer, one call a page. */
	CHECK_EQ(messages, WRITERS);
	CHECK_EQ(atomic_load(&c.calls), WRITERS / 2);
	for (size_t i = 0; i < WRITERS; i++)
		live_join(w[i].s.thread);
	CHECK_EQ(poll(&p, 1, 0), 0);
	live_stats(h, &st);
	CHECK_EQ(st.write, WRITERS);
	CHECK_EQ(st.duplicates, WRITERS / 2);
	CHECK_EQ(st.reads, 1); /* all of them fit in one */
	CHECK_EQ(st.strays, 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void *write_all(void *arg)
{
	struct test *c = arg;

	for (size_t i = 0; i < c->t->pages; i++)
		live_store(c->t->mem.addr + i * c->t->page, 1);
	return NULL;
}

static void *dispatch_on(void *arg)
{
	struct test *c = arg;

	while (!atomic_load(&c->stop)) {
		if (uffdwp_dispatch(c->h) < 0)
			FAIL("dispatch failed");
	}
	return NULL;
}

static void several(struct live *t)
{
	struct test c = { .t = t };
	pthread_t dispatchers[3], writers[WRITERS];

	c.h = live_open(UFFDWP_SERVE_CALLER, mem_wp_features(t->mem.kind));
	live_protect(t, live_region(t, c.h, UFFDWP_MODE_WP, 1, &ops, &c));
	for (size_t i = 0; i < 3; i++)
		live_thread(&dispatchers[i], dispatch_on, &c);
	for (size_t i = 0; i < WRITERS; i++)
		live_thread(&writers[i], write_all, &c);
	for (size_t i = 0; i < WRITERS; i++)
		live_join(writers[i]);
	atomic_store(&c.stop, 1);
	for (size_t i = 0; i < 3; i++)
		live_join(dispatchers[i]);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

/* ---- Blocking ---- */

static void on_signal(int sig)
{
	(void)sig;
}

static void *dispatch_blocking(void *arg)
{
	struct test *c = arg;

	atomic_store(&c->ready, 1);
	while (!atomic_load(&c->stop)) {
		int n = uffdwp_dispatch(c->h);

		if (n > 0)
			atomic_fetch_add(&c->dispatched, n);
		else if (n == 0 || n == -EINTR)
			atomic_fetch_add(&c->interrupted, 1);
		else
			FAIL("dispatch: %d", n);
	}
	return NULL;
}

static void blocking(struct live *t)
{
	struct uffdwp_opts o = { .serve = UFFDWP_SERVE_CALLER,
				 .blocking = 1,
				 .required = mem_wp_features(t->mem.kind) };
	struct sigaction sa = { .sa_handler = on_signal }, old;
	struct test c = { .t = t, .h = live_open_opts(&o) };
	pthread_t dispatcher;

	CHECK_EQ(sigaction(SIGUSR1, &sa, &old), 0);
	live_protect(t, live_region(t, c.h, UFFDWP_MODE_WP, 1, &ops, &c));
	live_thread(&dispatcher, dispatch_blocking, &c);
	live_until(&c.ready, 1);
	live_msleep(20);
	CHECK_EQ(atomic_load(&c.interrupted), 0); /* it waits, and does not spin */
	write_all(&c);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	live_until(&c.dispatched, (int)t->pages);
	CHECK_EQ(atomic_load(&c.interrupted), 0);
	/* A signal ends the wait. */
	atomic_store(&c.stop, 1);
	for (bool ended = false; !ended;) {
		pthread_kill(dispatcher, SIGUSR1);
		live_msleep(5);
		ended = atomic_load(&c.interrupted) > 0;
	}
	live_join(dispatcher);
	CHECK_EQ(sigaction(SIGUSR1, &old, NULL), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

static const struct live_case cases[] = {
	{ "by-hand", by_hand, KINDS_ALL, 0, 5 },
	{ "several", several, KINDS_ALL, 0, 5 },
	{ "blocking", blocking, KINDS_ALL, 0, 5 },
};

LIVE_MAIN(cases)
