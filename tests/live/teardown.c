/* SPDX-License-Identifier: MIT */
/*
 * Stopping, from any state: regions removed and handles closed while threads write and while they
 * sleep in faults. Everybody goes on, and no operation runs afterwards.
 */
#include "../common/live.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#define WRITERS 4
#define ROUNDS ((int)live_times(20))

struct test {
	struct live *t;
	struct uffdwp *h;
	struct uffdwp_region *r;
	_Atomic int stop, calls, inside, late, gone, entered, hold;
	_Atomic uint64_t writes;
	bool caller;
};

struct writer {
	struct test *c;
	pthread_t thread;
	uint64_t rnd;
};

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	(void)f;
	atomic_fetch_add(&c->inside, 1);
	atomic_fetch_add(&c->calls, 1);
	if (atomic_load(&c->gone))
		atomic_store(&c->late, 1);
	atomic_fetch_sub(&c->inside, 1);
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };

static void *write_on(void *arg)
{
	struct writer *w = arg;
	struct live *t = w->c->t;

	while (!atomic_load(&w->c->stop)) {
		live_store(t->mem.addr + live_random(&w->rnd) % t->pages * t->page, 1);
		atomic_fetch_add(&w->c->writes, 1);
	}
	return NULL;
}

static void start(struct test *c, struct writer *w)
{
	for (size_t i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .c = c, .rnd = c->t->seed + i };
		live_thread(&w[i].thread, write_on, &w[i]);
	}
}

static void stop(struct test *c, struct writer *w)
{
	uint64_t before = atomic_load(&c->writes);

	/* They are alive. */
	while (atomic_load(&c->writes) < before + 1000)
		live_msleep(1);
	atomic_store(&c->stop, 1);
	for (size_t i = 0; i < WRITERS; i++)
		live_join(w[i].thread);
	CHECK_EQ(atomic_load(&c->late), 0);
	CHECK_EQ(atomic_load(&c->inside), 0);
}

static void remove_in_flight(struct live *t, uint32_t serve)
{
	struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));
	struct test c = { .t = t };
	struct writer w[WRITERS];
	struct live_server s;
	struct uffdwp_info info;

	live_serve(&s, h);
	start(&c, w);
	for (int i = 0; i < ROUNDS; i++) {
		int calls = atomic_load(&c.calls);

		c.r = live_region(t, h, UFFDWP_MODE_WP, i % 2 ? 16 : 1, &ops, &c);
		live_protect(t, c.r);
		while (atomic_load(&c.calls) == calls)
			;
		CHECK_EQ(uffdwp_region_remove(c.r), 0);
		atomic_store(&c.gone, 1);
		CHECK_EQ(atomic_load(&c.inside), 0);
		CHECK(!uffdwp_region_find(h, (uintptr_t)t->mem.addr));
		live_msleep(1);
		CHECK_EQ(atomic_load(&c.late), 0);
		atomic_store(&c.gone, 0);
	}
	atomic_store(&c.gone, 1);
	stop(&c, w);
	live_info(h, &info);
	CHECK_EQ(info.regions, 0);
	CHECK_EQ(info.error, 0);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void remove_threads(struct live *t)
{
	remove_in_flight(t, UFFDWP_SERVE_THREADS);
}

static void remove_caller(struct live *t)
{
	remove_in_flight(t, UFFDWP_SERVE_CALLER);
}

static void remove_sigbus(struct live *t)
{
	remove_in_flight(t, UFFDWP_SERVE_SIGBUS);
}

static void close_in_flight(struct live *t, uint32_t serve)
{
	struct test c = { .t = t };
	struct writer w[WRITERS];

	start(&c, w);
	for (int i = 0; i < ROUNDS; i++) {
		struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));
		int calls = atomic_load(&c.calls);

		c.r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &c);
		live_protect(t, c.r);
		while (atomic_load(&c.calls) == calls)
			;
		CHECK_EQ(uffdwp_close(h), 0);
		atomic_store(&c.gone, 1);
		CHECK_EQ(atomic_load(&c.inside), 0);
		live_msleep(1);
		CHECK_EQ(atomic_load(&c.late), 0);
		atomic_store(&c.gone, 0);
	}
	atomic_store(&c.gone, 1);
	stop(&c, w);
}

static void close_threads(struct live *t)
{
	close_in_flight(t, UFFDWP_SERVE_THREADS);
}

static void close_sigbus(struct live *t)
{
	close_in_flight(t, UFFDWP_SERVE_SIGBUS);
}

/* ---- Nobody serves: the threads sleep until the region or the handle goes ---- */

static void *write_last(void *arg)
{
	struct live *t = arg;

	live_store(t->mem.addr + (t->pages - 1) * t->page, 5);
	return NULL;
}

static void *read_first(void *arg)
{
	struct live *t = arg;

	CHECK_EQ(live_load(t->mem.addr), 0);
	return NULL;
}

static void unserved(struct live *t, bool only_region)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_CALLER,
				     mem_wp_features(t->mem.kind) |
					     mem_missing_features(t->mem.kind));
	struct live_sleeper missing, writer, writer2;
	struct test c = { .t = t };
	struct pollfd p = { .fd = uffdwp_fd(h), .events = POLLIN };
	uint64_t last = (uintptr_t)t->mem.addr + (t->pages - 1) * t->page;

	c.r = live_region(t, h, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, 1, &ops, &c);
	CHECK_EQ(uffdwp_zeropage(c.r, last, t->page, UFFDWP_COPY_WP, NULL), 0);
	live_sleeper(&missing, read_first, t);
	live_sleeper(&writer, write_last, t);
	live_sleeper(&writer2, write_last, t);
	CHECK_EQ(poll(&p, 1, 0), 1);
	CHECK_EQ(p.revents, POLLIN);
	if (only_region) {
		CHECK_EQ(uffdwp_region_remove(c.r), 0);
		live_join(missing.thread);
		live_join(writer.thread);
		live_join(writer2.thread);
	}
	CHECK_EQ(uffdwp_close(h), 0);
	if (!only_region) {
		live_join(missing.thread);
		live_join(writer.thread);
		live_join(writer2.thread);
	}
	CHECK_EQ(atomic_load(&c.calls), 0);
	CHECK_EQ(live_load(t->mem.addr + (t->pages - 1) * t->page), 5);
}

static void unserved_close(struct live *t)
{
	unserved(t, false);
}

static void unserved_remove(struct live *t)
{
	unserved(t, true);
}

/* ---- From within an operation ---- */

static int try_to_end(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .addr = f->addr, .len = f->len, .mode = UFFDWP_MODE_WP
	};
	struct uffdwp_region *new = r;

	if (uffdwp_region_remove(r) == -EDEADLK && uffdwp_close(c->h) == -EDEADLK &&
	    uffdwp_region_add(c->h, &o, &new) == -EDEADLK &&
	    !new &&uffdwp_dispatch(c->h) == (c->caller ? -EDEADLK : -EOPNOTSUPP))
		atomic_fetch_add(&c->calls, 1);
	return 0;
}

static void within(struct live *t, uint32_t serve)
{
	struct uffdwp_ops end = { .sz = sizeof(end), .write = try_to_end };
	struct test c = { .t = t, .caller = serve == UFFDWP_SERVE_CALLER };
	struct live_server s;

	c.h = live_open(serve, mem_wp_features(t->mem.kind));
	live_serve(&s, c.h);
	c.r = live_region(t, c.h, UFFDWP_MODE_WP, 1, &end, &c);
	live_protect(t, c.r);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 1);
	CHECK_EQ(atomic_load(&c.calls), t->pages);
	/* A sweep runs operations too, in this thread. */
	live_protect(t, c.r);
	CHECK_EQ(uffdwp_sweep(c.r, (uintptr_t)t->mem.addr, t->mem.size, NULL), 0);
	CHECK_EQ(atomic_load(&c.calls), 2 * t->pages);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(c.h), 0);
}

static void within_threads(struct live *t)
{
	within(t, UFFDWP_SERVE_THREADS);
}

static void within_caller(struct live *t)
{
	within(t, UFFDWP_SERVE_CALLER);
}

static void within_sigbus(struct live *t)
{
	within(t, UFFDWP_SERVE_SIGBUS);
}

/* A close with nothing done, and with protected regions that nobody ever wrote to. */
static void idle(struct live *t)
{
	for (uint32_t serve = UFFDWP_SERVE_THREADS; serve <= UFFDWP_SERVE_SIGBUS; serve++) {
		struct uffdwp *h = live_open(serve, mem_wp_features(t->mem.kind));

		CHECK_EQ(uffdwp_close(h), 0);
		h = live_open(serve, mem_wp_features(t->mem.kind));
		live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL));
		CHECK_EQ(uffdwp_close(h), 0);
		live_store(t->mem.addr, 1);
	}
	CHECK_EQ(uffdwp_close(NULL), 0);
}

static const struct live_case cases[] = {
	{ "remove/threads", remove_threads, KINDS_ALL, 0, 0 },
	{ "remove/caller", remove_caller, KINDS_ALL, 0, 0 },
	{ "remove/sigbus", remove_sigbus, KINDS_ALL, 0, 0 },
	{ "close/threads", close_threads, KINDS_ALL, 0, 0 },
	{ "close/sigbus", close_sigbus, KINDS_ALL, 0, 0 },
	{ "unserved/close", unserved_close, KINDS_ALL, 0, 5 },
	{ "unserved/remove", unserved_remove, KINDS_ALL, 0, 5 },
	{ "within/threads", within_threads, KINDS_ALL, 0, 5 },
	{ "within/caller", within_caller, KINDS_ALL, 0, 5 },
	{ "within/sigbus", within_sigbus, KINDS_ALL, 0, 5 },
	{ "idle", idle, KINDS_ALL, 0, 5 },
};

LIVE_MAIN(cases)
