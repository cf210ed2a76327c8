/* SPDX-License-Identifier: MIT */
/*
 * Pages that were never there: placed by copy, with and without protection, by zeros, by default, more
 * than once, over pages that are there already, on protected ones; and threads woken in between.
 */
#include "../common/live.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define READERS 3
#define BOTH (UFFDWP_MODE_MISSING | UFFDWP_MODE_WP)

struct test {
	struct live *t;
	char *src;
	uint32_t flags;
	bool zero;
	_Atomic uint32_t *missing, *writes;
	_Atomic int later, was_read;
};

static int on_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	atomic_fetch_add(&c->missing[f->offset / c->t->page], 1);
	if (f->kind != UFFDWP_FAULT_MISSING || f->len != c->t->page)
		return -EPROTO;
	if (c->zero)
		return uffdwp_zeropage(r, f->addr, f->len, c->flags, NULL);
	return uffdwp_copy(r, f->addr, c->src + f->offset, f->len, c->flags, NULL);
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	for (uint64_t i = 0; i < f->len / c->t->page; i++)
		atomic_fetch_add(&c->writes[f->offset / c->t->page + i], 1);
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops),
				       .missing = on_missing,
				       .write = on_write };

static void setup(struct test *c, struct live *t)
{
	memset(c, 0, sizeof(*c));
	c->t = t;
	c->src = malloc(t->mem.size);
	c->missing = calloc(t->pages, sizeof(*c->missing));
	c->writes = calloc(t->pages, sizeof(*c->writes));
	CHECK(c->src && c->missing && c->writes);
	live_fill(c->src, t->mem.size, t->seed);
}

static void teardown(struct test *c)
{
	free(c->src);
	free(c->missing);
	free(c->writes);
}

static struct uffdwp *open_for(struct live *t, uint32_t serve)
{
	return live_open(serve, mem_wp_features(t->mem.kind) | mem_missing_features(t->mem.kind));
}

struct toucher {
	struct test *c;
	pthread_t thread;
	size_t id;
};

/* Reads every page (from another start a thread), then writes a word of its own in every page. */
static void *touch(void *arg)
{
	struct toucher *w = arg;
	struct live *t = w->c->t;

	for (size_t i = 0; i < t->pages; i++) {
		size_t at = (i + w->id * t->pages / READERS) % t->pages * t->page + t->page - 8;

		if (live_load(t->mem.addr + at) != (w->c->zero ? 0 : live_load(w->c->src + at)))
			FAIL("page %zu does not hold what was placed", at / t->page);
	}
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page + w->id * 8, ~UINT64_C(0));
	return NULL;
}

static void touch_all(struct test *c)
{
	struct toucher w[READERS];

	for (size_t i = 0; i < READERS; i++) {
		w[i] = (struct toucher){ .c = c, .id = i };
		live_thread(&w[i].thread, touch, &w[i]);
	}
	for (size_t i = 0; i < READERS; i++)
		live_join(w[i].thread);
}

/* Every page at least once as missing, and exactly want times as written. */
static void verify(struct test *c, struct uffdwp *h, uint32_t want)
{
	struct uffdwp_stats st;

	for (size_t i = 0; i < c->t->pages; i++) {
		CHECK(atomic_load(&c->missing[i]) >= 1);
		CHECK_EQ(atomic_load(&c->writes[i]), want);
	}
	CHECK_EQ(uffdwp_error(h), 0);
	live_stats(h, &st);
	CHECK(st.missing >= c->t->pages);
	CHECK_EQ(st.op_pages, want * c->t->pages);
	CHECK_EQ(st.minor, 0);
}

static void place(struct live *t, uint32_t serve, bool zero, uint32_t flags, bool armed)
{
	struct uffdwp *h = open_for(t, serve);
	struct uffdwp_region *r;
	struct live_server s;
	struct test c;

	setup(&c, t);
	c.zero = zero;
	c.flags = flags;
	r = live_region(t, h, BOTH, 1, &ops, &c);
	if (armed)
		live_protect(t, r);
	live_serve(&s, h);
	touch_all(&c);
	verify(&c, h, flags || armed);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

#define PLACE(name, serve, zero, flags, armed)                      \
	static void name(struct live *t)                            \
	{                                                           \
		place(t, UFFDWP_SERVE_##serve, zero, flags, armed); \
	}
PLACE(copy_threads, THREADS, false, 0, false)
PLACE(copy_wp_threads, THREADS, false, UFFDWP_COPY_WP, false)
PLACE(copy_wp_caller, CALLER, false, UFFDWP_COPY_WP, false)
PLACE(copy_wp_sigbus, SIGBUS, false, UFFDWP_COPY_WP, false)
PLACE(copy_armed_threads, THREADS, false, 0, true)
PLACE(copy_armed_sigbus, SIGBUS, false, 0, true)
PLACE(zero_threads, THREADS, true, 0, false)
PLACE(zero_wp_threads, THREADS, true, UFFDWP_COPY_WP, false)
PLACE(zero_wp_sigbus, SIGBUS, true, UFFDWP_COPY_WP, false)
PLACE(zero_armed_threads, THREADS, true, 0, true)
PLACE(zero_armed_caller, CALLER, true, 0, true)
PLACE(zero_armed_sigbus, SIGBUS, true, 0, true)

/* No operations at all: missing pages read as zeros, writes go through, nothing sleeps. */
static void defaults(struct live *t)
{
	for (uint32_t serve = UFFDWP_SERVE_THREADS; serve <= UFFDWP_SERVE_SIGBUS; serve++) {
		struct uffdwp *h = open_for(t, serve);
		struct uffdwp_region *r;
		struct live_server s;
		struct uffdwp_stats st;

		r = live_region(t, h, BOTH, 1, NULL, NULL);
		CHECK(!uffdwp_region_ctx(r));
		live_protect(t, r);
		live_serve(&s, h);
		for (size_t i = 0; i < t->pages; i++) {
			/* Shared memory keeps what an earlier round has written. */
			CHECK(!live_load(t->mem.addr + i * t->page) || serve);
			live_store(t->mem.addr + i * t->page, i + 1);
			CHECK_EQ(live_load(t->mem.addr + i * t->page), i + 1);
		}
		live_stats(h, &st);
		CHECK(st.missing >= t->pages || serve);
		CHECK(st.write >= t->pages);
		CHECK_EQ(uffdwp_error(h), 0);
		live_serve_stop(&s);
		CHECK_EQ(uffdwp_close(h), 0);
	}
}

/* Copying over what is there: left alone, counted as done; what is not there is placed. */
/* With async protection the kernel alone knows which missing pages are protected. */
static void zero_async(struct live *t)
{
	struct uffdwp_opts o = { .sz = sizeof(o) };
	struct uffdwp_region *r;
	struct uffdwp *h;

	o.required = mem_wp_features(t->mem.kind) | mem_missing_features(t->mem.kind) |
		     UFFDWP_FEATURE_WP_ASYNC;
	CHECK_EQ(uffdwp_open(&h, &o), 0);
	r = live_region(t, h, BOTH, 1, NULL, NULL);
	live_protect(t, r);
	for (size_t i = 0; i < t->pages; i++) {
		if (i % 2)
			CHECK_EQ(live_load(t->mem.addr + i * t->page), 0);
		live_store(t->mem.addr + i * t->page, i + 1);
		CHECK_EQ(live_load(t->mem.addr + i * t->page), i + 1);
	}
	CHECK_EQ(uffdwp_close(h), 0);
}

static void eexist(struct live *t)
{
	struct uffdwp *h = open_for(t, UFFDWP_SERVE_THREADS);
	uint64_t addr = (uintptr_t)t->mem.addr, done = 0;
	struct uffdwp_region *r;
	struct uffdwp_stats st;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, BOTH, 1, &ops, &c);
	for (size_t i = 0; i < t->pages; i += 3)
		CHECK_EQ(uffdwp_zeropage(r, addr + i * t->page, t->page, 0, NULL), 0);
	CHECK_EQ(uffdwp_copy(r, addr, c.src, t->mem.size, UFFDWP_COPY_WP, &done), 0);
	CHECK_EQ(done, t->mem.size);
	for (size_t i = 0; i < t->pages; i++) {
		size_t at = i * t->page;

		if (i % 3)
			CHECK_EQ(memcmp(t->mem.addr + at, c.src + at, t->page), 0);
		else
			CHECK(!live_load(t->mem.addr + at) &&
			      !live_load(t->mem.addr + at + t->page - 8));
		live_store(t->mem.addr + at, 1);
		CHECK_EQ(atomic_load(&c.writes[i]), i % 3 != 0);
		CHECK_EQ(atomic_load(&c.missing[i]), 0);
	}
	done = 0;
	CHECK_EQ(uffdwp_zeropage(r, addr, t->mem.size, 0, &done), 0);
	CHECK_EQ(done, t->mem.size);
	live_stats(h, &st);
	CHECK(st.eexist >= t->pages);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

/* ---- An operation that leaves its page to somebody else ---- */

static int defer(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	(void)f;
	atomic_fetch_add(&c->later, 1);
	return UFFDWP_LATER;
}

static void *read_first(void *arg)
{
	struct test *c = arg;

	if (live_load(c->t->mem.addr) != live_load(c->src))
		FAIL("not what was placed");
	return NULL;
}

/* In the handler of a signal the access is tried again and again until somebody has placed the page. */
static void later_sigbus(struct live *t)
{
	struct uffdwp_ops later_ops = { .sz = sizeof(later_ops), .missing = defer };
	struct uffdwp *h = open_for(t, UFFDWP_SERVE_SIGBUS);
	struct uffdwp_region *r;
	pthread_t reader;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, UFFDWP_MODE_MISSING, 1, &later_ops, &c);
	live_thread(&reader, read_first, &c);
	live_until(&c.later, 10);
	CHECK_EQ(uffdwp_copy(r, (uintptr_t)t->mem.addr, c.src, t->page, 0, NULL), 0);
	live_join(reader);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

static void later_and_wake(struct live *t)
{
	struct uffdwp_ops later_ops = { .sz = sizeof(later_ops), .missing = defer };
	struct uffdwp *h = open_for(t, UFFDWP_SERVE_THREADS);
	struct live_sleeper sleeper;
	struct uffdwp_region *r;
	struct uffdwp_stats st;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, BOTH, 1, &later_ops, &c);
	live_sleeper(&sleeper, read_first, &c);
	live_until(&c.later, 1);
	/* Woken with nothing changed, it faults again. */
	CHECK_EQ(uffdwp_wake(r, (uintptr_t)t->mem.addr, t->mem.size), 0);
	live_until(&c.later, 2);
	CHECK_EQ(atomic_load(&sleeper.done), 0);
	CHECK_EQ(uffdwp_copy(r, (uintptr_t)t->mem.addr, c.src, t->page, 0, NULL), 0);
	live_join(sleeper.thread);
	live_stats(h, &st);
	CHECK(st.missing >= 2);
	CHECK(st.wakes >= 1);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

/* ---- A page that somebody keeps, and that is not there any more ---- */

static void *write_first(void *arg)
{
	struct test *c = arg;

	live_store(c->t->mem.addr + c->t->page - 8, 5);
	return NULL;
}

static void *read_and_tell(void *arg)
{
	struct test *c = arg;

	read_first(c);
	atomic_store(&c->was_read, 1);
	return NULL;
}

/* Past the library: the page is kept, so the library would refuse. */
static void discard_first(struct live *t)
{
	bool shared = BIT(t->mem.kind) & KINDS_SHARED;

	if (!madvise(t->mem.addr, t->page, shared ? MADV_REMOVE : MADV_DONTNEED))
		return;
	CHECK_EQ(errno, EINVAL);
	live_skip("memory of this kind can not be discarded: since Linux 5.18");
}

/*
 * Who reads it meanwhile waits, longer than a call does, until it is let go. Nobody's handle fails for that.
 */
static void kept(struct live *t, uint32_t serve)
{
	struct uffdwp_ops keep_ops = { .sz = sizeof(ops), .missing = on_missing, .write = defer };
	struct uffdwp *h = open_for(t, serve);
	pthread_t reader, writer;
	struct uffdwp_region *r;
	struct live_server s;
	struct test c;

	setup(&c, t);
	r = live_region(t, h, BOTH, 1, &keep_ops, &c);
	live_serve(&s, h);
	read_first(&c);
	CHECK_EQ(uffdwp_protect(r, (uintptr_t)t->mem.addr, t->page, NULL), 0);
	live_thread(&writer, write_first, &c);
	live_until(&c.later, 1);
	discard_first(t);
	live_thread(&reader, read_and_tell, &c);
	/* Asked for each second. */
	while (atomic_load(&c.missing[0]) < 4)
		live_msleep(10);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(atomic_load(&c.was_read), 0);
	CHECK_EQ(uffdwp_release(r, (uintptr_t)t->mem.addr, t->page, NULL), 0);
	live_join(reader);
	live_join(writer);
	CHECK_EQ(live_load(t->mem.addr), live_load(c.src));
	CHECK_EQ(live_load(t->mem.addr + t->page - 8), 5);
	CHECK_EQ(atomic_load(&c.later), 1);
	CHECK_EQ(uffdwp_error(h), 0);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
	teardown(&c);
}

static void kept_threads(struct live *t)
{
	kept(t, UFFDWP_SERVE_THREADS);
}

static void kept_caller(struct live *t)
{
	kept(t, UFFDWP_SERVE_CALLER);
}

static void kept_sigbus(struct live *t)
{
	kept(t, UFFDWP_SERVE_SIGBUS);
}

/* ---- Marks that the library does not know of ---- */

/*
 * As a move leaves them that comes between a page's release and the kernel's: to the library such a page is not
 * protected, and to ZEROPAGE it is there. Who reads it must not fault for ever.
 */
static void unknown_mark(struct live *t)
{
	struct uffdwp *h = open_for(t, UFFDWP_SERVE_CALLER);
	struct uffdwp_region *r = live_region(t, h, BOTH, 1, NULL, NULL);
	struct uffdio_writeprotect wp = { .range = { (uintptr_t)t->mem.addr, t->mem.size },
					  .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct live_server s;

	CHECK_EQ(ioctl(uffdwp_fd(h), UFFDIO_WRITEPROTECT, &wp), 0);
	live_serve(&s, h);
	for (size_t i = 0; i < t->pages; i += 2)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), 0);
	CHECK_EQ(uffdwp_zeropage(r, (uintptr_t)t->mem.addr, t->mem.size, 0, NULL), 0);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i + 1);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), i + 1);
	CHECK_EQ(uffdwp_error(h), 0);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "copy/threads", copy_threads, KINDS_ALL, 0, 0 },
	{ "copy-wp/threads", copy_wp_threads, KINDS_ALL, 0, 0 },
	{ "copy-wp/caller", copy_wp_caller, KINDS_ALL, 0, 0 },
	{ "copy-wp/sigbus", copy_wp_sigbus, KINDS_ALL, 0, 0 },
	{ "copy-armed/threads", copy_armed_threads, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "copy-armed/sigbus", copy_armed_sigbus, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "zero/threads", zero_threads, KINDS_ALL, 0, 0 },
	{ "zero-wp/threads", zero_wp_threads, KINDS_ALL, 0, 0 },
	{ "zero-wp/sigbus", zero_wp_sigbus, KINDS_ALL, 0, 0 },
	{ "zero-armed/threads", zero_armed_threads, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "zero-armed/caller", zero_armed_caller, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "zero-armed/sigbus", zero_armed_sigbus, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
	{ "defaults", defaults, KINDS_ALL, 0, 0 },
	{ "zero-async", zero_async, KINDS_ALL, UFFDWP_FEATURE_WP_ASYNC, 0 },
	{ "eexist", eexist, KINDS_ALL, 0, 0 },
	{ "unknown-mark", unknown_mark, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 10 },
	{ "later/sigbus", later_sigbus, KINDS_ALL, 0, 0 },
	{ "later-and-wake", later_and_wake, KINDS_ALL, 0, 0 },
	{ "kept/threads", kept_threads, BIT(MEM_ANON) | KINDS_SHARED, 0, 10 },
	{ "kept/caller", kept_caller, BIT(MEM_ANON), 0, 10 },
	{ "kept/sigbus", kept_sigbus, BIT(MEM_ANON), 0, 10 },
};

LIVE_MAIN(cases)
