/* SPDX-License-Identifier: MIT */
/*
 * The address space changes under a region: each change reaches the event operation, and the books
 * follow, so a moved region is found and served at its new address and an unmapped one is gone.
 */
#include "../common/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE
#define REMAP UFFDWP_FEATURE_EVENT_REMAP
#define UNMAP UFFDWP_FEATURE_EVENT_UNMAP
#define RUN 3
#define STORM_PAGES 64u

struct test {
	struct live *t;
	struct uffdwp_region *_Atomic r;
	char *saved;
	_Atomic uint32_t *calls;
	_Atomic int events, bad;
	struct uffdwp_event last;
	uint64_t at; /* where write faults should arrive now */
};

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	int err;

	if (f->addr != c->at + f->offset || (uintptr_t)f->mem != f->addr)
		atomic_store(&c->bad, 1);
	err = uffdwp_read(r, f->addr, c->saved + f->offset, f->len, NULL);
	/* After the read: who sees the count may look at what was saved. */
	atomic_fetch_add(&c->calls[f->offset / c->t->page], 1);
	return err;
}

static int on_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	struct test *c = ctx;

	if (r != c->r)
		atomic_store(&c->bad, 1);
	c->last = *e;
	atomic_fetch_add(&c->events, 1);
	return 0;
}

static struct uffdwp *setup(struct test *c, struct live *t, uint32_t serve, uint64_t features)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops),
					       .write = on_write,
					       .event = on_event };
	struct uffdwp *h = live_open(serve, features | mem_wp_features(t->mem.kind));

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->at = (uintptr_t)t->mem.addr;
	c->saved = calloc(1, t->mem.size);
	c->calls = calloc(t->pages, sizeof(*c->calls));
	CHECK(c->saved && c->calls);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	c->r = live_region(t, h, UFFDWP_MODE_WP, 1, &ops, c);
	live_protect(t, c->r);
	return h;
}

static void teardown(struct test *c, struct uffdwp *h)
{
	CHECK_EQ(atomic_load(&c->bad), 0);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	free(c->saved);
	free(c->calls);
}

/* Writes page i at its place now; it must be delivered once, with what the memory was filled with. */
static void expect_delivery(struct test *c, char *mem, size_t i)
{
	uint64_t old = live_load(mem + i * c->t->page);

	CHECK_EQ(atomic_load(&c->calls[i]), 0);
	live_store(mem + i * c->t->page, ~old);
	CHECK_EQ(atomic_load(&c->calls[i]), 1);
	CHECK_EQ(live_load(c->saved + i * c->t->page), old);
}

static void expect_event(struct test *c, uint32_t kind, uint64_t addr, uint64_t len, bool whole)
{
	live_until(&c->events, 1);
	CHECK_EQ(c->last.kind, kind);
	CHECK_EQ(c->last.addr, addr);
	CHECK_EQ(c->last.len, len);
	CHECK_EQ(c->last.whole, whole);
}

/* A hole that is surely free, and aligned as the memory wants it. */
static char *room_for(const struct live *t)
{
	const uintptr_t huge = 2u << 20;
	char *p = mmap(NULL, t->mem.size + 2 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p + (-(uintptr_t)p & (huge - 1));
}

static void moved(struct live *t, uint32_t serve)
{
	struct test c;
	struct uffdwp *h = setup(&c, t, serve, UFFDWP_FEATURE_EVENT_REMAP);
	uint64_t from = (uintptr_t)t->mem.addr;
	struct live_server s;
	struct uffdwp_stats st;
	char *to;

	live_serve(&s, h);
	expect_delivery(&c, t->mem.addr, 0);
	c.at = (uintptr_t)room_for(t);
	to = mremap(t->mem.addr, t->mem.size, t->mem.size, MREMAP_MAYMOVE | MREMAP_FIXED,
		    (void *)(uintptr_t)c.at);
	CHECK_EQ((uintptr_t)to, c.at);
	expect_event(&c, UFFDWP_EVENT_REMAP, from, t->mem.size, true);
	CHECK_EQ(c.last.to, c.at);
	CHECK_EQ(uffdwp_region_addr(c.r), c.at);
	CHECK_EQ(uffdwp_region_len(c.r), t->mem.size);
	CHECK(uffdwp_region_find(h, c.at + t->page) == c.r);
	CHECK(!uffdwp_region_find(h, from));
	t->mem.addr = to;
	for (size_t i = 1; i < t->pages; i++)
		expect_delivery(&c, to, i);
	/* The calls know the new address too, and no longer the old one. */
	CHECK_EQ(uffdwp_protect(c.r, from, t->page, NULL), -EINVAL);
	live_protect(t, c.r);
	live_store(to, 1);
	CHECK_EQ(atomic_load(&c.calls[0]), 2);
	live_stats(h, &st);
	CHECK_EQ(st.remap, 1);
	live_serve_stop(&s);
	teardown(&c, h);
}

static void moved_threads(struct live *t)
{
	moved(t, UFFDWP_SERVE_THREADS);
}

static void moved_caller(struct live *t)
{
	moved(t, UFFDWP_SERVE_CALLER);
}

static void unmapped(struct live *t)
{
	struct test c;
	struct uffdwp *h = setup(&c, t, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_EVENT_UNMAP);
	uint64_t from = (uintptr_t)t->mem.addr;
	struct uffdwp_stats st;

	CHECK_EQ(munmap(t->mem.addr, t->mem.size), 0);
	t->mem.addr = NULL;
	expect_event(&c, UFFDWP_EVENT_UNMAP, from, t->mem.size, true);
	CHECK(!uffdwp_region_find(h, from));
	CHECK(!uffdwp_region_find(h, from + t->mem.size - 1));
	live_stats(h, &st);
	CHECK_EQ(st.unmap, 1);
	CHECK_EQ(uffdwp_region_remove(c.r), 0);
	teardown(&c, h);
}

/* What is left goes on: the front after the tail is cut off, and the other way round. */
static void unmapped_part(struct live *t, bool head)
{
	struct test c;
	struct uffdwp *h = setup(&c, t, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_EVENT_UNMAP);
	size_t half = t->pages / 2 * t->page, cut = head ? 0 : half;
	uint64_t from = (uintptr_t)t->mem.addr;

	CHECK_EQ(munmap(t->mem.addr + cut, half), 0);
	expect_event(&c, UFFDWP_EVENT_UNMAP, from + cut, half, false);
	CHECK_EQ(uffdwp_region_addr(c.r), from + (head ? half : 0));
	CHECK_EQ(uffdwp_region_len(c.r), half);
	CHECK(!uffdwp_region_find(h, from + cut));
	CHECK(uffdwp_region_find(h, from + half - cut) == c.r);
	CHECK_EQ(uffdwp_protect(c.r, from, t->mem.size, NULL), -EINVAL);
	/* Offsets still count from where the region began, so what was saved by them stays right. */
	for (size_t i = head ? t->pages / 2 : 0; i < (head ? t->pages : t->pages / 2); i++)
		expect_delivery(&c, t->mem.addr, i);
	CHECK_EQ(uffdwp_region_remove(c.r), 0);
	munmap(t->mem.addr + half - cut, half);
	t->mem.addr = NULL;
	teardown(&c, h);
}

static void unmapped_tail(struct live *t)
{
	unmapped_part(t, false);
}

static void unmapped_head(struct live *t)
{
	unmapped_part(t, true);
}

/* Part of it discarded behind the library's back: told, with the range. */
static void discarded(struct live *t)
{
	struct test c;
	struct uffdwp *h = setup(&c, t, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_EVENT_REMOVE);
	uint64_t from = (uintptr_t)t->mem.addr;
	struct uffdwp_stats st;

	CHECK_EQ(madvise(t->mem.addr + t->page, 2 * t->page, MADV_DONTNEED), 0);
	expect_event(&c, UFFDWP_EVENT_REMOVE, from + t->page, 2 * t->page, false);
	expect_delivery(&c, t->mem.addr, 0);
	expect_delivery(&c, t->mem.addr, t->pages - 1);
	CHECK_EQ(uffdwp_region_len(c.r), t->mem.size);
	/* After a new protection it is watched again, all of it. */
	live_protect(t, c.r);
	for (size_t i = 0; i < t->pages; i++) {
		uint32_t before = atomic_load(&c.calls[i]);

		live_store(t->mem.addr + i * t->page, 3);
		CHECK_EQ(atomic_load(&c.calls[i]), before + 1);
	}
	live_stats(h, &st);
	CHECK_EQ(st.remove, 1);
	teardown(&c, h);
}

/* ---- The only reader calls, while an event is unread ---- */

static void *discard_all(void *arg)
{
	struct live *t = arg;

	CHECK_EQ(madvise(t->mem.addr, t->mem.size / 2, MADV_DONTNEED), 0);
	return NULL;
}

/*
 * Until the event is read the kernel refuses every protect with EAGAIN, and nobody but this thread
 * reads: the call has to do it, and keep what it read for the next dispatch.
 */
static void only_reader(struct live *t)
{
	struct test c;
	struct uffdwp *h = setup(&c, t, UFFDWP_SERVE_CALLER, UFFDWP_FEATURE_EVENT_REMOVE);
	struct uffdwp_stats st;
	pthread_t discarder;

	for (int i = 0; i < 3; i++) {
		int events = atomic_load(&c.events);

		live_thread(&discarder, discard_all, t);
		live_msleep(20);
		live_protect(t, c.r);
		while (atomic_load(&c.events) == events)
			CHECK(uffdwp_dispatch(h) >= 0);
		live_join(discarder);
	}
	live_stats(h, &st);
	CHECK(st.eagain > 0);
	CHECK_EQ(st.remove, 3);
	teardown(&c, h);
}

/* Changes all the time, calls and faults all the time: everything ends well. */
struct storm {
	struct live *t;
	_Atomic int stop, rounds;
};

static void *storm_main(void *arg)
{
	struct storm *s = arg;
	struct live *t = s->t;

	while (!atomic_load(&s->stop)) {
		char *p = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

		CHECK(p != MAP_FAILED);
		CHECK_EQ(madvise(t->mem.addr + t->mem.size / 2, t->page, MADV_DONTNEED), 0);
		CHECK_EQ(munmap(p, 4 * 4096), 0);
		live_store(t->mem.addr + t->page, (uint64_t)atomic_fetch_add(&s->rounds, 1));
	}
	return NULL;
}

static void storm(struct live *t)
{
	struct storm s = { .t = t };
	size_t whole = t->mem.size;
	int times = (int)live_times(30);
	pthread_t threads[2];
	struct uffdwp *h;
	struct test c;

	if (t->pages > STORM_PAGES) {
		t->pages = STORM_PAGES;
		t->mem.size = t->pages * t->page;
	}
	h = setup(&c, t, UFFDWP_SERVE_THREADS, REMOVE | UNMAP | REMAP);

	for (int i = 0; i < 2; i++)
		live_thread(&threads[i], storm_main, &s);
	for (int i = 0; i < times || atomic_load(&s.rounds) < times; i++) {
		uint64_t at = (uintptr_t)t->mem.addr, done;
		int err;

		/* Where a CPU stands still for long, the changes can hold a call up for its five seconds. */
		do
			err = uffdwp_protect(c.r, at, t->mem.size, &done);
		while (err == -EAGAIN);
		CHECK_EQ(err, 0);
		CHECK_EQ(done, t->mem.size);
		CHECK_EQ(uffdwp_sweep(c.r, at, t->mem.size, NULL), 0);
	}
	atomic_store(&s.stop, 1);
	for (int i = 0; i < 2; i++)
		live_join(threads[i]);
	teardown(&c, h);
	t->mem.size = whole;
}

/* Page i, by read(2), which fails where a store would end the program; its bytes are zeros then. */
static ssize_t write_zeros(const struct live *t, size_t i, size_t at)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	CHECK(fd >= 0);
	n = read(fd, t->mem.addr + i * t->page + at, 8);
	close(fd);
	return n;
}

/*
 * A page of several of the kernel's that loses one is served no more: its operation, which can not read it, decides.
 * Nobody sleeps, and the rest of the memory is there.
 */
static void part_unmapped(struct live *t)
{
	const size_t base = t->page, many = 4;
	struct uffdwp *h;
	struct test c;

	t->page *= many;
	t->pages /= many;
	h = setup(&c, t, UFFDWP_SERVE_THREADS, UNMAP);
	CHECK_EQ(munmap(t->mem.addr + t->page + base, base), 0);
	expect_event(&c, UFFDWP_EVENT_UNMAP, c.at + t->page + base, base, false);
	expect_delivery(&c, t->mem.addr, 0);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(write_zeros(t, 1, 2 * base), 8);
	CHECK_EQ(uffdwp_error(h), -EFAULT);
	for (size_t i = 2; i < t->pages; i++) {
		CHECK_EQ(write_zeros(t, i, 0), 8);
		CHECK_EQ(atomic_load(&c.calls[i]), 0);
	}
	CHECK_EQ(write_zeros(t, 1, base), -1);
	CHECK_EQ(uffdwp_close(h), 0);
	free(c.saved);
	free(c.calls);
}

/* ---- Operations in flight meanwhile ---- */

/*
 * An operation that has been called for a page that is unmapped or moved before it comes to use the address: nobody's
 * failure. Pages of the front half are never changed.
 */
struct flight {
	struct live *t;
	struct uffdwp_region *r;
	char *src, *saved, *to;
	size_t page;
	_Atomic uint32_t *served;
	_Atomic int called, go, failed;
	ssize_t got;
	int err;
	bool missing;
};

/* When it goes on: the move is in the books; nobody can have read of it; at about the same time. */
enum when { BOOKED, UNREAD, AT_ONCE };

static int in_flight(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct flight *c = ctx;
	int err;

	atomic_fetch_add(&c->called, 1);
	if (f->offset <= c->page * c->t->page && c->page * c->t->page < f->offset + f->len)
		live_until(&c->go, 1);
	/* Before, as the page's arrival lets who looks go on. */
	atomic_fetch_add(&c->served[f->offset / c->t->page], 1);
	if (f->kind == UFFDWP_FAULT_MISSING)
		err = uffdwp_copy(r, f->addr, c->src + f->offset, f->len, 0, NULL);
	else
		err = uffdwp_read(r, f->addr, c->saved + f->offset, f->len, NULL);
	if (err) {
		atomic_fetch_sub(&c->served[f->offset / c->t->page], 1);
		atomic_fetch_add(&c->failed, 1);
	}
	return err;
}

/* By read(2), which fails where user code would end the program. */
static void *write_by_kernel(void *arg)
{
	struct flight *c = arg;

	c->got = write_zeros(c->t, c->page, 64);
	c->err = errno;
	return NULL;
}

static void *sweep_cut(void *arg)
{
	struct flight *c = arg;
	uint64_t at = uffdwp_region_addr(c->r) + c->page * c->t->page;

	CHECK_EQ(uffdwp_sweep(c->r, at, RUN * c->t->page, NULL), 0);
	return NULL;
}

static struct uffdwp *take_off(struct flight *c, struct live *t, size_t page, bool missing,
			       uint32_t run, uint32_t threads, pthread_t *writer)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops),
					       .missing = in_flight,
					       .write = in_flight };
	struct uffdwp_opts o = { .threads = threads,
				 .required = REMAP | UNMAP | mem_wp_features(t->mem.kind) };
	struct uffdwp *h;

	if (missing)
		o.required |= mem_missing_features(t->mem.kind);
	h = live_open_opts(&o);
	memset(c, 0, sizeof(*c));
	c->t = t;
	c->page = page;
	c->missing = missing;
	c->src = malloc(t->mem.size);
	c->saved = calloc(1, t->mem.size);
	c->served = calloc(t->pages, sizeof(*c->served));
	CHECK(c->src && c->saved && c->served);
	live_fill(c->src, t->mem.size, t->seed);
	if (!missing)
		memcpy(t->mem.addr, c->src, t->mem.size);
	c->r = live_region(t, h, UFFDWP_MODE_WP | (missing ? UFFDWP_MODE_MISSING : 0), run, &ops,
			   c);
	if (!missing)
		live_protect(t, c->r);
	live_thread(writer, run > 1 ? sweep_cut : write_by_kernel, c);
	live_until(&c->called, 1);
	return h;
}

static void land(struct flight *c, struct uffdwp *h)
{
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	/* With the threads that saved it gone. */
	CHECK(!c->to || c->missing || !memcmp(c->saved, c->src, c->t->mem.size));
	free(c->src);
	free(c->saved);
	free((void *)c->served);
}

/* Once, and with its content; a page that is missing may be asked for again. */
static void expect_served(struct flight *c, char *mem, size_t i)
{
	char *at = mem + i * c->t->page, *was = c->src + i * c->t->page;

	live_store(at, ~live_load(was));
	CHECK(atomic_load(&c->served[i]) == 1 || (c->missing && atomic_load(&c->served[i])));
	CHECK_EQ(live_load(at), ~live_load(was));
	CHECK_EQ(live_load(at + 8), live_load(was + 8));
}

static void flies_unmapped(struct live *t, bool missing)
{
	size_t n = t->pages / 2, half = n * t->page;
	pthread_t writer;
	struct flight c;
	struct uffdwp *h = take_off(&c, t, t->pages - 1, missing, 1, 2, &writer);

	CHECK_EQ(munmap(t->mem.addr + half, t->mem.size - half), 0);
	while (uffdwp_region_len(c.r) != half)
		live_msleep(1);
	atomic_store(&c.go, 1);
	live_join(writer);
	CHECK(c.got < 0 && c.err == EFAULT);
	CHECK(atomic_load(&c.failed) > 0);
	expect_served(&c, t->mem.addr, 0);
	expect_served(&c, t->mem.addr, n - 1);
	CHECK_EQ(uffdwp_region_remove(c.r), 0);
	munmap(t->mem.addr, half);
	t->mem.addr = NULL;
	land(&c, h);
}

/* A sweep's operation has pages before the cut, in it, and behind it where only one page is cut out. */
static void flies_swept(struct live *t, bool hole)
{
	size_t n = t->pages / 2, half = n * t->page, cut = hole ? t->page : t->mem.size - half;
	pthread_t sweeper;
	struct flight c;
	struct uffdwp *h = take_off(&c, t, n - 1, false, RUN, 2, &sweeper);
	uint64_t from = (uintptr_t)t->mem.addr;

	CHECK_EQ(munmap(t->mem.addr + half, cut), 0);
	while (uffdwp_region_find(h, from + half))
		live_msleep(1);
	atomic_store(&c.go, 1);
	live_join(sweeper);
	CHECK(atomic_load(&c.failed) > 0);
	CHECK_EQ(atomic_load(&c.served[n]), 0);
	expect_served(&c, t->mem.addr, n - 1);
	if (hole)
		expect_served(&c, t->mem.addr, n + 1);
	/* Nothing is left that a sweep would wait for. */
	CHECK_EQ(uffdwp_sweep(c.r, from, uffdwp_region_len(c.r), NULL), 0);
	CHECK_EQ(uffdwp_region_remove(c.r), 0);
	munmap(t->mem.addr, t->mem.size);
	t->mem.addr = NULL;
	land(&c, h);
}

static void missing_unmapped(struct live *t)
{
	flies_unmapped(t, true);
}

static void write_unmapped(struct live *t)
{
	flies_unmapped(t, false);
}

static void sweep_unmapped(struct live *t)
{
	flies_swept(t, false);
}

static void sweep_hole(struct live *t)
{
	flies_swept(t, true);
}

/* Not by who lets the operation go on: mremap(2) waits for two events, and an operation may keep each thread. */
static void *move_all(void *arg)
{
	struct flight *c = arg;
	size_t size = c->t->mem.size;

	CHECK(mremap(c->t->mem.addr, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, c->to) == c->to);
	return NULL;
}

static void flies_moved(struct live *t, bool missing, enum when when)
{
	pthread_t writer, mover;
	struct flight c;
	struct uffdwp *h = take_off(&c, t, t->pages - 1, missing, 1, when == UNREAD ? 1 : 2,
				    &writer);

	c.to = room_for(t);
	live_thread(&mover, move_all, &c);
	while (when == BOOKED && uffdwp_region_addr(c.r) != (uintptr_t)c.to)
		live_msleep(1);
	if (when == UNREAD)
		live_msleep(20);
	atomic_store(&c.go, 1);
	live_join(mover);
	live_join(writer);
	/* At once: it may have been before the move. */
	CHECK(when == AT_ONCE || (c.got < 0 && c.err == EFAULT && atomic_load(&c.failed)));
	t->mem.addr = c.to;
	/* The very page, too: its operation may have come with the move. */
	for (size_t i = 0; i < t->pages; i++)
		expect_served(&c, t->mem.addr, i);
	land(&c, h);
}

static void missing_moved(struct live *t)
{
	flies_moved(t, true, BOOKED);
}

static void missing_moving(struct live *t)
{
	flies_moved(t, true, UNREAD);
}

static void write_moved(struct live *t)
{
	flies_moved(t, false, BOOKED);
}

static void write_moving(struct live *t)
{
	flies_moved(t, false, UNREAD);
}

static void write_moved_at_once(struct live *t)
{
	flies_moved(t, false, AT_ONCE);
}

static const struct live_case cases[] = {
	{ "moved/threads", moved_threads, KINDS_ALL, REMAP, 5 },
	{ "moved/caller", moved_caller, KINDS_ALL, REMAP, 5 },
	{ "unmapped", unmapped, KINDS_ALL, UNMAP, 5 },
	{ "unmapped/tail", unmapped_tail, KINDS_ALL, UNMAP, 5 },
	{ "unmapped/head", unmapped_head, KINDS_ALL, UNMAP, 5 },
	{ "unmapped/part-of-page", part_unmapped, BIT(MEM_THP), UNMAP, 5 },
	{ "discarded", discarded, KINDS_ALL, REMOVE, 5 },
	{ "only-reader", only_reader, KINDS_ALL, REMOVE, 10 },
	{ "missing-in-flight/unmapped", missing_unmapped, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "missing-in-flight/moved", missing_moved, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "missing-in-flight/moving", missing_moving, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "write-in-flight/unmapped", write_unmapped, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "sweep-in-flight/unmapped", sweep_unmapped, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "sweep-in-flight/hole", sweep_hole, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "write-in-flight/at-once", write_moved_at_once, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "write-in-flight/moving", write_moving, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "write-in-flight/moved", write_moved, KINDS_ALL, UNMAP | REMAP, 5 },
	{ "storm", storm, KINDS_ALL, REMOVE | UNMAP | REMAP, 60 },
};

LIVE_MAIN(cases)
