/* SPDX-License-Identifier: MIT */
/*
 * Sinks: those of the library, late ones, broken ones, and staging so small that writers wait for
 * them; an error makes the snapshot failed, and the program goes on.
 */
#include "../common/snap.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Late sinks ---- */

static void late(struct live *t, int mode, bool in_wait, bool by_caller)
{
	struct uffdwp_snapshot_opts o = { .by_caller = by_caller,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, mode, 0);
	c.sink.later = !in_wait;
	c.sink.in_wait = in_wait;
	snap_new(&c, &o);
	snap_writers_start(&c);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	CHECK(atomic_load(&c.sink.writes) > 1);
	snap_close(&c);
}

#define LATE(mode)                                  \
	static void mode##_thread(struct live *t)   \
	{                                           \
		late(t, SNAP_##mode, false, false); \
	}                                           \
	static void mode##_wait(struct live *t)     \
	{                                           \
		late(t, SNAP_##mode, true, false);  \
	}                                           \
	static void mode##_caller(struct live *t)   \
	{                                           \
		late(t, SNAP_##mode, false, true);  \
	}
LATE(COW_THREADS)
LATE(COW_SIGBUS)
LATE(PRE_ASYNC)
LATE(PRE_SYNC)

/* ---- Staging full ---- */

static void *write_all(void *arg)
{
	struct live *t = arg;

	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	return NULL;
}

/* Nothing goes to the sink; the writer goes on until staging is full, and then waits. */
static void full(struct live *t, int mode, bool cancel)
{
	struct uffdwp_snapshot_opts o = { .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct snap c;
	pthread_t w;

	live_at_least(t, UFFDWP_SNAPSHOT_STAGING_MIN);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, mode, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	live_thread(&w, write_all, t);
	while (!res.held) {
		live_msleep(1);
		CHECK_EQ(uffdwp_snapshot_poll(c.s, &res), 0);
	}
	CHECK(res.by_fault > 0 && res.by_fault < t->mem.size);
	CHECK_EQ(res.by_sweep, 0);
	CHECK_EQ(res.verdict, UFFDWP_SNAPSHOT_RUNNING);
	CHECK_EQ(live_load(t->mem.addr + t->mem.size - t->page),
		 live_load(c.shadow + t->mem.size - t->page));
	if (cancel) {
		CHECK_EQ(uffdwp_snapshot_cancel(c.s), 0);
		live_join(w); /* with the sink still holding the saver up */
	}
	snap_go(&c);
	if (!cancel) {
		live_join(w);
		snap_check_complete(&c);
		CHECK(c.res.waits.count > 0 && c.res.waits.max >= 1000);
	} else {
		snap_check_verdict(&c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_CALLER, 0);
	}
	CHECK(c.res.held >= 1);
	CHECK(c.res.staging_peak <= c.res.memory);
	CHECK(c.res.staging_peak <= (t->page > 4096 ? 4 * t->page : UFFDWP_SNAPSHOT_STAGING_MIN));
	snap_close(&c);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), i);
}

#define FULL(mode)                                \
	static void mode##_full(struct live *t)   \
	{                                         \
		full(t, SNAP_##mode, false);      \
	}                                         \
	static void mode##_cancel(struct live *t) \
	{                                         \
		full(t, SNAP_##mode, true);       \
	}
FULL(COW_THREADS)
FULL(COW_CALLER)
FULL(COW_SIGBUS)

/* ---- Errors ---- */

struct broken {
	int begin, write, zero, sealed, end;
	unsigned int after;
	int err;
};

static const struct broken broken[] = {
	{ .write = -ENOSPC, .err = -ENOSPC }, { .write = -EIO, .after = 2, .err = -EIO },
	{ .zero = -ENOSPC, .err = -ENOSPC },  { .sealed = -EIO, .err = -EIO },
	{ .end = -EDQUOT, .err = -EDQUOT },   { .write = 7, .err = -EINVAL },
};

static void fail_once(struct live *t, int mode, const struct broken *b)
{
	struct uffdwp_snapshot_opts o = { .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct snap c;
	int err;

	live_fill(t->mem.addr, t->mem.size / 2, t->seed);
	memset(t->mem.addr + t->mem.size / 2, 0, t->mem.size / 2);
	snap_open(&c, t, mode, 0);
	c.hot = 50;
	c.sink.fail_write = b->write;
	c.sink.fail_zero = b->zero;
	c.sink.fail_sealed = b->sealed;
	c.sink.fail_end = b->end;
	c.sink.fail_after = b->after;
	snap_new(&c, &o);
	snap_writers_start(&c);
	err = uffdwp_snapshot_arm(c.s);
	if (!err)
		err = snap_seal(&c);
	/* Precopy writes while it arms. */
	CHECK(!err || (err == -ECANCELED && c.mode->strategy == UFFDWP_SNAPSHOT_PRECOPY));
	snap_check_verdict(&c, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_SINK, b->err);
	CHECK_EQ(c.sink.end.verdict, b->end ? UFFDWP_SNAPSHOT_COMPLETE : UFFDWP_SNAPSHOT_FAILED);
	CHECK_EQ(uffdwp_error(c.h), 0);
	snap_close(&c);
}

static void errors(struct live *t, int mode)
{
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
		fail_once(t, mode, &broken[i]);
}

static void cow_errors(struct live *t)
{
	errors(t, SNAP_COW_THREADS);
}

static void precopy_errors(struct live *t)
{
	errors(t, SNAP_PRE_ASYNC);
}

static void begin_error(struct live *t)
{
	struct uffdwp_snapshot_opts o = { 0 };
	struct snap c;

	snap_open(&c, t, SNAP_COW_THREADS, 0);
	c.sink.fail_begin = -EROFS;
	snap_new(&c, &o); /* expects it */
	snap_close(&c);
}

/* ---- The library's sinks ---- */

static void to_memory(struct live *t)
{
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &sink };
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	void *copy = malloc(t->mem.size);
	struct uffdwp_snapshot *s;
	struct snap c;

	CHECK(copy);
	live_fill(t->mem.addr, t->mem.size / 2, t->seed);
	snap_open(&c, t, SNAP_COW_THREADS, 0);
	memcpy(c.shadow, t->mem.addr, t->mem.size);
	CHECK_EQ(uffdwp_sink_memory(&sink, &copy, 1), 0);
	CHECK_EQ(uffdwp_snapshot_new(&s, &c.r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_seal(s), 0);
	write_all(t);
	CHECK_EQ(uffdwp_snapshot_wait(s, &res), 0);
	CHECK_EQ(res.verdict, UFFDWP_SNAPSHOT_COMPLETE);
	CHECK_EQ(memcmp(copy, c.shadow, t->mem.size), 0);
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	free(copy);
	CHECK_EQ(uffdwp_close(c.h), 0);
	free(c.shadow);
}

static void to_file(struct live *t, int mode, bool cancel)
{
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &sink };
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	FILE *f = tmpfile();
	struct uffdwp_snapshot *s;
	struct stat st;
	struct snap c;
	char *image;

	CHECK(f);
	CHECK_EQ(ftruncate(fileno(f), 12345), 0);
	live_fill(t->mem.addr, t->mem.size / 2, t->seed);
	snap_open(&c, t, mode, 0);
	CHECK_EQ(uffdwp_sink_file(&sink, fileno(f)), 0);
	CHECK_EQ(uffdwp_snapshot_new(&s, &c.r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_arm(s), 0);
	memset(t->mem.addr, 0, t->page); /* written before, now zeros */
	live_store(t->mem.addr + t->mem.size - 8, 77);
	memcpy(c.shadow, t->mem.addr, t->mem.size);
	if (cancel)
		CHECK_EQ(uffdwp_snapshot_cancel(s), 0);
	CHECK_EQ(uffdwp_snapshot_seal(s), cancel ? -ECANCELED : 0);
	CHECK_EQ(uffdwp_snapshot_wait(s, &res), 0);
	CHECK_EQ(fstat(fileno(f), &st), 0);
	CHECK_EQ(st.st_size, cancel ? 0 : (long)t->mem.size);
	if (!cancel) {
		image = mmap(NULL, t->mem.size, PROT_READ, MAP_PRIVATE, fileno(f), 0);
		CHECK(image != MAP_FAILED);
		CHECK_EQ(res.verdict, UFFDWP_SNAPSHOT_COMPLETE);
		CHECK_EQ(memcmp(image, c.shadow, t->mem.size), 0);
		munmap(image, t->mem.size);
		CHECK((size_t)st.st_blocks * 512 < t->mem.size); /* holes */
	}
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	fclose(f);
	CHECK_EQ(uffdwp_close(c.h), 0);
	free(c.shadow);
}

static void cow_file(struct live *t)
{
	to_file(t, SNAP_COW_THREADS, false);
	to_file(t, SNAP_COW_THREADS, true);
}

static void precopy_file(struct live *t)
{
	to_file(t, SNAP_PRE_ASYNC, false);
	to_file(t, SNAP_PRE_ASYNC, true);
}

/* ---- A rate ---- */

static void rate(struct live *t, int mode)
{
	/* An eighth of a second for all of it, but for what may be caught up. */
	struct uffdwp_snapshot_opts o = { .rate = t->mem.size * 8,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct snap c;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(&c, t, mode, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	/* Not an assertion on speed: it must not be faster than it was told to be. */
	CHECK(c.res.total_ns > 50000000);
	snap_close(&c);
}

static void cow_rate(struct live *t)
{
	rate(t, SNAP_COW_THREADS);
}

static void precopy_rate(struct live *t)
{
	rate(t, SNAP_PRE_ASYNC);
}

/* A sink without zero() is given zeros to write. */
static void no_zero(struct live *t, int mode)
{
	struct uffdwp_snapshot_opts o = { 0 };
	struct snap c;

	live_fill(t->mem.addr, t->page, t->seed);
	snap_open(&c, t, mode, 0);
	snap_sink_init(&c.sink, t->mem.size, t->page);
	c.sink.sink.zero = NULL;
	o.sz = sizeof(o);
	o.sink = &c.sink.sink;
	CHECK_EQ(uffdwp_snapshot_new(&c.s, &c.r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	CHECK_EQ(c.res.zero, 0);
	CHECK(c.res.saved >= t->mem.size);
	snap_close(&c);
}

static void cow_no_zero(struct live *t)
{
	no_zero(t, SNAP_COW_THREADS);
}

static void precopy_no_zero(struct live *t)
{
	no_zero(t, SNAP_PRE_ASYNC);
}

#define ROW(name, kinds)                 \
	{                                \
#name, name, kinds, 0, 0 \
	}
#define LATE_ROWS(mode) \
	ROW(mode##_thread, KINDS_ALL), ROW(mode##_wait, KINDS_ALL), ROW(mode##_caller, KINDS_ALL)

static const struct live_case cases[] = {
	LATE_ROWS(COW_THREADS),
	LATE_ROWS(COW_SIGBUS),
	LATE_ROWS(PRE_ASYNC),
	LATE_ROWS(PRE_SYNC),
	ROW(COW_THREADS_full, KINDS_ALL),
	ROW(COW_THREADS_cancel, KINDS_ALL),
	ROW(COW_CALLER_full, KINDS_ALL),
	ROW(COW_CALLER_cancel, KINDS_ALL),
	ROW(COW_SIGBUS_full, KINDS_ALL),
	ROW(COW_SIGBUS_cancel, KINDS_ALL),
	ROW(cow_errors, KINDS_ALL),
	ROW(precopy_errors, KINDS_ALL),
	ROW(begin_error, BIT(MEM_ANON)),
	ROW(to_memory, KINDS_ALL),
	ROW(cow_file, KINDS_ALL),
	ROW(precopy_file, KINDS_ALL),
	ROW(cow_rate, BIT(MEM_ANON)),
	ROW(precopy_rate, BIT(MEM_ANON)),
	ROW(cow_no_zero, KINDS_ALL),
	ROW(precopy_no_zero, KINDS_ALL),
};

LIVE_MAIN(cases)
