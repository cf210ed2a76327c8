/* SPDX-License-Identifier: MIT */
/*
 * Two things at once: what an operation is doing while its region goes, moves, is asked about or is
 * protected again; events that come late, in pairs, or for memory that has a new owner by now.
 */
#include "../common/live.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define REMOVE UFFDWP_FEATURE_EVENT_REMOVE
#define REMAP UFFDWP_FEATURE_EVENT_REMAP
#define UNMAP UFFDWP_FEATURE_EVENT_UNMAP

struct test {
	struct live *t;
	struct uffdwp *h;
	struct uffdwp_region *r;
	char *mem;
	_Atomic int calls, entered, events, stop, saved, err;
};

static char *map(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK_EQ(madvise(p, len, MADV_NOHUGEPAGE), 0);
	return p;
}

static struct uffdwp_region *add(struct uffdwp *h, char *p, size_t len, uint32_t mode, uint32_t run,
				 const struct uffdwp_ops *ops, void *ctx)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)p,
					.len = len,
					.mode = mode,
					.run = run,
					.ops = ops,
					.ctx = ctx };
	struct uffdwp_region *r;

	CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
	return r;
}

static void protect(struct uffdwp_region *r, char *p, size_t len)
{
	CHECK_EQ(uffdwp_protect(r, (uintptr_t)p, len, NULL), 0);
}

static int count_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	atomic_fetch_add(&c->calls, (int)(f->len / PAGE));
	return 0;
}

static const struct uffdwp_ops counting = { .sz = sizeof(counting), .write = count_write };

static void *write_first(void *arg)
{
	struct test *c = arg;

	live_store(c->mem, 2);
	return NULL;
}

/* ---- An operation that takes its time ---- */

/* Reads late what it is to save: the writer must still be asleep by then. */
static int save_late(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	uint64_t value = 0;

	atomic_store(&c->entered, 1);
	live_msleep(50);
	atomic_store(&c->err, uffdwp_read(r, f->addr, &value, sizeof(value), NULL));
	atomic_store(&c->saved, (int)value);
	return 0;
}

static void end_during_operation(uint32_t serve, bool only_region)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save_late };
	struct test c = { .mem = map(PAGE) };
	struct live_server s;
	pthread_t writers[2];

	live_store(c.mem, 1);
	c.h = live_open(serve, 0);
	live_serve(&s, c.h);
	c.r = add(c.h, c.mem, PAGE, UFFDWP_MODE_WP, 1, &ops, &c);
	protect(c.r, c.mem, PAGE);
	for (int i = 0; i < 2; i++)
		live_thread(&writers[i], write_first, &c);
	live_until(&c.entered, 1);
	if (only_region || serve == UFFDWP_SERVE_CALLER)
		CHECK_EQ(uffdwp_region_remove(c.r), 0);
	else
		CHECK_EQ(uffdwp_close(c.h), 0);
	CHECK_EQ(atomic_load(&c.err), 0);
	CHECK_EQ(atomic_load(&c.saved), 1);
	for (int i = 0; i < 2; i++)
		live_join(writers[i]);
	CHECK_EQ(live_load(c.mem), 2);
	live_serve_stop(&s);
	if (only_region || serve == UFFDWP_SERVE_CALLER)
		CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(c.mem, PAGE);
}

static void ended_meanwhile(struct live *t)
{
	(void)t;
	for (uint32_t serve = UFFDWP_SERVE_THREADS; serve <= UFFDWP_SERVE_SIGBUS; serve++) {
		end_during_operation(serve, true);
		end_during_operation(serve, false);
	}
}

static int ask(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp_stats st = { .sz = sizeof(st) };
	struct test *c = ctx;

	atomic_store(&c->entered, 1);
	live_msleep(50);
	if (uffdwp_info(c->h, &info) || uffdwp_stats(c->h, UFFDWP_ALL_WORKERS, &st) ||
	    uffdwp_error(c->h) || uffdwp_region_find(c->h, f->addr) != r)
		return -EPROTO;
	return 0;
}

/* An operation asks, while a region is added and waits for operations to end. */
static void asked_meanwhile(struct live *t)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = ask };
	struct test c = { .mem = map(2 * PAGE) };
	pthread_t writer;

	(void)t;
	c.h = live_open(UFFDWP_SERVE_THREADS, 0);
	c.r = add(c.h, c.mem, PAGE, UFFDWP_MODE_WP, 1, &ops, &c);
	protect(c.r, c.mem, PAGE);
	live_thread(&writer, write_first, &c);
	live_until(&c.entered, 1);
	CHECK_EQ(uffdwp_region_remove(add(c.h, c.mem + PAGE, PAGE, UFFDWP_MODE_WP, 1, NULL, NULL)),
		 0);
	live_join(writer);
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(c.mem, 2 * PAGE);
}

/* ---- Pages that were never there, in a region that catches both ---- */

static int save_run(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	static _Thread_local char buf[64 * PAGE];
	struct test *c = ctx;

	atomic_fetch_add(&c->calls, (int)(f->len / PAGE));
	return uffdwp_read(r, f->addr, buf, f->len, NULL);
}

static void never_there(uint32_t threads, bool sweep)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save_run };
	struct uffdwp_opts o = { .threads = threads };
	struct test c = { .mem = map(64 * PAGE) };

	c.h = live_open_opts(&o);
	c.r = add(c.h, c.mem, 64 * PAGE, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, 16, &ops, &c);
	for (int i = 0; i < 12; i++)
		live_store(c.mem + i * PAGE, 1);
	protect(c.r, c.mem, 64 * PAGE);
	if (sweep)
		CHECK_EQ(uffdwp_sweep(c.r, (uintptr_t)c.mem, 64 * PAGE, NULL), 0);
	for (int i = 0; i < 64; i++)
		live_store(c.mem + i * PAGE, 2);
	CHECK_EQ(atomic_load(&c.calls), 64);
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(c.mem, 64 * PAGE);
}

static void never_there_writes(struct live *t)
{
	(void)t;
	never_there(1, false);
	never_there(2, false);
}

static void never_there_sweep(struct live *t)
{
	(void)t;
	never_there(1, true);
	never_there(2, true);
}

/* ---- Discards behind the library's back, and protection after them ---- */

static int slow_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	(void)e;
	live_msleep(50);
	atomic_fetch_add(&c->events, 1);
	return 0;
}

/* The discarder runs on when its event is read, and protects before the event's operation has ended. */
static void protect_after_discard(struct live *t, int advice)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops),
					       .write = count_write,
					       .event = slow_event };
	struct test c = { .mem = map(PAGE) };

	(void)t;
	live_store(c.mem, 1);
	c.h = live_open(UFFDWP_SERVE_THREADS, REMOVE);
	c.r = add(c.h, c.mem, PAGE, UFFDWP_MODE_WP, 1, &ops, &c);
	protect(c.r, c.mem, PAGE);
	CHECK_EQ(madvise(c.mem, PAGE, advice), 0);
	if (advice == MADV_DONTNEED)
		protect(c.r, c.mem, PAGE);
	live_until(&c.events, 1);
	live_store(c.mem, 2);
	CHECK_EQ(atomic_load(&c.calls), 1);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(c.mem, PAGE);
}

static void after_dontneed(struct live *t)
{
	protect_after_discard(t, MADV_DONTNEED);
}

/* MADV_FREE tells of a discard, and the pages stay protected. */
static void after_free(struct live *t)
{
	protect_after_discard(t, MADV_FREE);
}

/* ---- Events that are late ---- */

static void *unmap_four(void *arg)
{
	struct test *c = arg;

	munmap(c->mem, 4 * PAGE);
	return NULL;
}

/* The event of an old mapping is not applied to a new region at the same place. */
static void stale_unmap(struct live *t)
{
	struct test c = { .t = t };

	for (int i = 0; i < 20; i++) {
		pthread_t unmapper;
		char *again;

		c.h = live_open(UFFDWP_SERVE_CALLER, UNMAP);
		c.mem = map(4 * PAGE);
		c.r = add(c.h, c.mem, 4 * PAGE, UFFDWP_MODE_WP, 1, NULL, NULL);
		live_thread(&unmapper, unmap_four, &c);
		/* Its event is read by the calls below, or not yet. */
		while (!msync(c.mem, PAGE, MS_ASYNC))
			live_msleep(1);
		CHECK_EQ(uffdwp_region_remove(c.r), 0);
		again = mmap(c.mem, 4 * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		CHECK_EQ((uintptr_t)again, (uintptr_t)c.mem);
		c.r = add(c.h, c.mem, 4 * PAGE, UFFDWP_MODE_WP, 1, &counting, &c);
		for (int j = 0; j < 3; j++)
			CHECK(uffdwp_dispatch(c.h) >= 0);
		CHECK_EQ(uffdwp_region_len(c.r), 4 * PAGE);
		CHECK(uffdwp_region_find(c.h, (uintptr_t)c.mem) == c.r);
		live_join(unmapper);
		CHECK_EQ(uffdwp_close(c.h), 0);
		munmap(c.mem, 4 * PAGE);
	}
}

/* Moved twice, with several threads that serve: the books end where the memory is. */
static void moved_twice(struct live *t)
{
	char *room = map(64 * PAGE), *places[3] = { room, room + 16 * PAGE, room + 32 * PAGE };
	struct test c = { .t = t, .mem = room };

	c.h = live_open(UFFDWP_SERVE_THREADS, REMAP);
	live_fill(c.mem, 8 * PAGE, 1);
	c.r = add(c.h, c.mem, 8 * PAGE, UFFDWP_MODE_WP, 1, &counting, &c);
	for (int i = 1; i < 200; i++) {
		char *to = places[i % 3];
		int calls;

		CHECK_EQ((uintptr_t)mremap(c.mem, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
					   to),
			 (uintptr_t)to);
		c.mem = to;
		if (i % 2) /* straight on to the next place */
			continue;
		/* As soon as the region says that it is there, it can be used there. */
		while (uffdwp_region_addr(c.r) != (uintptr_t)c.mem)
			;
		calls = atomic_load(&c.calls);
		protect(c.r, c.mem, 8 * PAGE);
		for (int p = 0; p < 8; p++)
			live_store(c.mem + p * PAGE, (uint64_t)i);
		CHECK_EQ(atomic_load(&c.calls), calls + 8);
	}
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(c.mem, 8 * PAGE);
	munmap(room, 64 * PAGE);
}

/* ---- A child that is forked in the middle of it ---- */

static void *discard_on(void *arg)
{
	struct test *c = arg;

	while (!atomic_load(&c->stop))
		madvise(c->mem, PAGE, MADV_DONTNEED);
	return NULL;
}

static void *protect_on(void *arg)
{
	struct test *c = arg;
	uint64_t addr = (uintptr_t)c->mem + PAGE;

	while (!atomic_load(&c->stop)) {
		uffdwp_protect(c->r, addr, 32 * PAGE, NULL);
		uffdwp_unprotect(c->r, addr, 32 * PAGE, NULL);
	}
	return NULL;
}

/* Locks that a thread of the parent holds just now are nobody's in the child. */
static void fork_meanwhile(struct live *t)
{
	struct test c = { .t = t, .mem = map(33 * PAGE) };
	pthread_t threads[2];

	c.h = live_open(UFFDWP_SERVE_THREADS, REMOVE);
	c.r = add(c.h, c.mem, 33 * PAGE, UFFDWP_MODE_WP, 1, NULL, NULL);
	live_thread(&threads[0], discard_on, &c);
	live_thread(&threads[1], protect_on, &c);
	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();
		int status;

		CHECK(pid >= 0);
		if (!pid) {
			alarm(5);
			_exit(uffdwp_close(c.h) ? 1 : 0);
		}
		CHECK_EQ(waitpid(pid, &status, 0), pid);
		CHECK_EQ(status, 0);
	}
	atomic_store(&c.stop, 1);
	live_join(threads[0]);
	live_join(threads[1]);
	CHECK_EQ(uffdwp_close(c.h), 0);
	munmap(c.mem, 33 * PAGE);
}

/* ---- Stopping while events come ---- */

static void close_meanwhile(struct live *t)
{
	struct test c = { .t = t, .mem = map(33 * PAGE) };
	pthread_t discarder;

	live_thread(&discarder, discard_on, &c);
	for (int i = 0; i < 100; i++) {
		uint64_t addr = (uintptr_t)c.mem + PAGE;
		struct uffdwp_opts o = { .required = REMOVE, .threads = 4 };

		c.h = live_open_opts(&o);
		c.r = add(c.h, c.mem, 33 * PAGE, UFFDWP_MODE_WP, 1, NULL, NULL);
		for (int j = 0; j < 5; j++) {
			CHECK_EQ(uffdwp_protect(c.r, addr, 32 * PAGE, NULL), 0);
			CHECK_EQ(uffdwp_unprotect(c.r, addr, 32 * PAGE, NULL), 0);
		}
		CHECK_EQ(uffdwp_close(c.h), 0);
	}
	atomic_store(&c.stop, 1);
	live_join(discarder);
	munmap(c.mem, 33 * PAGE);
}

#define ROW(name, fn, features)                    \
	{                                          \
		name, fn, KINDS_NONE, features, 10 \
	}
static const struct live_case cases[] = {
	ROW("ended-meanwhile", ended_meanwhile, 0),
	ROW("asked-meanwhile", asked_meanwhile, 0),
	ROW("never-there/writes", never_there_writes, UFFDWP_FEATURE_WP_UNPOPULATED),
	ROW("never-there/sweep", never_there_sweep, UFFDWP_FEATURE_WP_UNPOPULATED),
	ROW("protect-after/dontneed", after_dontneed, REMOVE),
	ROW("protect-after/free", after_free, REMOVE),
	ROW("stale-unmap", stale_unmap, UNMAP),
	ROW("moved-twice", moved_twice, REMAP),
	ROW("fork-meanwhile", fork_meanwhile, REMOVE),
	ROW("close-meanwhile", close_meanwhile, REMOVE),
};

LIVE_MAIN(cases)
