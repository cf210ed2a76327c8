/* SPDX-License-Identifier: MIT */
/*
 * The pool: as many threads as asked for, prepared by the program's hook, on the CPUs that were named,
 * with signals blocked and counters of their own; and a hook that says no.
 */
#include "../common/live.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 4

struct test {
	struct live *t;
	_Atomic int started[UFFDWP_THREADS_MAX], tids[UFFDWP_THREADS_MAX],
		calls[UFFDWP_THREADS_MAX];
	_Atomic int bad, result;
	int fail_at, cpus[2], ncpus;
};

/* The CPU that the thread is bound to, or -1 if it may run on several. */
static int bound_to(void)
{
	cpu_set_t set;

	CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
	for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&set) == 1; i++) {
		if (CPU_ISSET(i, &set))
			return i;
	}
	return -1;
}

static int on_start(unsigned int worker, void *arg)
{
	struct test *c = arg;
	sigset_t blocked;

	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	if (!sigismember(&blocked, SIGTERM) || !sigismember(&blocked, SIGUSR1) ||
	    !sigismember(&blocked, SIGCHLD))
		atomic_store(&c->bad, __LINE__);
	if (c->ncpus && bound_to() != c->cpus[worker % (unsigned int)c->ncpus])
		atomic_store(&c->bad, __LINE__);
	atomic_fetch_add(&c->started[worker], 1);
	atomic_store(&c->tids[worker], (int)syscall(SYS_gettid));
	return (int)worker == c->fail_at ? atomic_load(&c->result) : 0;
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	(void)r;
	if (f->worker >= THREADS || atomic_load(&c->tids[f->worker]) != (int)syscall(SYS_gettid))
		atomic_store(&c->bad, __LINE__);
	else if (c->ncpus && bound_to() != c->cpus[f->worker % (unsigned int)c->ncpus])
		atomic_store(&c->bad, __LINE__);
	if (f->tid != (uint32_t)getpid()) /* the writer is the first thread */
		atomic_store(&c->bad, __LINE__);
	atomic_fetch_add(&c->calls[f->worker % UFFDWP_THREADS_MAX], 1);
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };

static void serve(struct live *t, struct test *c, struct uffdwp_opts *o, uint32_t placement)
{
	struct uffdwp_stats sum, one;
	struct uffdwp_info info;
	uint64_t pages = 0;
	struct uffdwp *h;

	o->threads = THREADS;
	o->sample = 1;
	o->thread_start = on_start;
	o->thread_arg = c;
	h = live_open_opts(o);
	live_info(h, &info);
	CHECK_EQ(info.threads, THREADS);
	CHECK_EQ(info.placement, placement);
	for (int i = 0; i < THREADS; i++)
		CHECK_EQ(atomic_load(&c->started[i]), 1);
	live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, &ops, c));
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 1);
	CHECK_EQ(atomic_load(&c->bad), 0);
	/* A latency is known only after its writer was released; each fault must get one in the end. */
	do
		live_stats(h, &sum);
	while (sum.latency.count < sum.write);
	for (uint32_t i = 0; i < THREADS; i++) {
		one.sz = sizeof(one);
		CHECK_EQ(uffdwp_stats(h, i, &one), 0);
		CHECK_EQ(one.op_calls, atomic_load(&c->calls[i]));
		CHECK_EQ(one.latency.count > 0, one.op_calls > 0);
		pages += one.op_pages;
	}
	live_stats(h, &sum);
	CHECK_EQ(sum.op_pages, t->pages);
	CHECK_EQ(pages, t->pages);
	CHECK(sum.write >= t->pages);
	CHECK_EQ(sum.latency.count, sum.write);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void plain(struct live *t)
{
	struct test c = { .t = t, .fail_at = -1 };
	struct uffdwp_opts o = { .placement = UFFDWP_PLACE_SCHED };

	serve(t, &c, &o, UFFDWP_PLACE_SCHED);
}

/* What AUTO means depends on whether the kernel tells who faults. */
static void automatic(struct live *t)
{
	struct test c = { .t = t, .fail_at = -1 };
	struct uffdwp_opts o = { .placement = UFFDWP_PLACE_AUTO };
	struct uffdwp_info info;
	struct uffdwp *h;

	serve(t, &c, &o, UFFDWP_PLACE_FOLLOW);
	o = (struct uffdwp_opts){ .masked = UFFDWP_FEATURE_THREAD_ID };
	h = live_open_opts(&o);
	live_info(h, &info);
	CHECK_EQ(info.placement, UFFDWP_PLACE_SCHED);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void pinned(struct live *t)
{
	struct test c = { .t = t, .fail_at = -1 };
	struct uffdwp_opts o = { .placement = UFFDWP_PLACE_PIN, .cpus = c.cpus };
	cpu_set_t before, after;

	CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
	for (int i = 0; i < CPU_SETSIZE && c.ncpus < 2; i++) {
		if (CPU_ISSET(i, &before))
			c.cpus[c.ncpus++] = i;
	}
	o.ncpus = (size_t)c.ncpus;
	serve(t, &c, &o, UFFDWP_PLACE_PIN);
	CHECK_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
	CHECK(CPU_EQUAL(&before, &after)); /* the caller itself is not touched */
}

/* The hook fails in the first, a middle and the last thread: no handle, no thread left behind. */
static void refused(struct live *t)
{
	static const int at[] = { 0, 2, THREADS - 1 };

	for (size_t i = 0; i < 2 * sizeof(at) / sizeof(at[0]); i++) {
		struct test c = { .t = t, .fail_at = at[i / 2], .result = i % 2 ? -EPERM : 5 };
		char reason[256] = "";
		struct uffdwp_opts o = { .sz = sizeof(o),
					 .threads = THREADS,
					 .thread_start = on_start,
					 .thread_arg = &c,
					 .reason = reason,
					 .reason_size = sizeof(reason) };
		struct uffdwp *h = (void *)&o;

		CHECK_EQ(uffdwp_open(&h, &o), i % 2 ? -EPERM : -ECANCELED);
		CHECK(!h);
		CHECK(strstr(reason, "thread_start"));
		CHECK_EQ(atomic_load(&c.bad), 0);
	}
}

/* One batch in so many is timed, and with one message a batch, one message in so many. */
static void sampled(struct live *t)
{
	static const uint32_t samples[] = { 0, 1, 4, 1000000 }, every[] = { 8, 1, 4, 1000000 };

	for (size_t i = 0; i < 4; i++) {
		struct uffdwp_opts o = { .threads = 1, .batch = 1, .sample = samples[i] };
		struct uffdwp *h = live_open_opts(&o);
		struct uffdwp_stats st;

		live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL));
		for (size_t p = 0; p < t->pages; p++)
			live_store(t->mem.addr + p * t->page, 1);
		do
			live_stats(h, &st);
		while (st.latency.count < st.write / every[i]);
		CHECK(st.write >= t->pages);
		CHECK(st.latency.count <= st.write / every[i] + 1);
		CHECK(!st.latency.count || uffdwp_hist_percentile(&st.latency, 50) > 0);
		CHECK_EQ(uffdwp_close(h), 0);
	}
}

static void sizes(struct live *t)
{
	static const uint32_t threads[] = { 1, 3, UFFDWP_THREADS_MAX },
			      batch[] = { 1, 7, UFFDWP_BATCH_MAX };

	for (size_t i = 0; i < 3; i++) {
		struct test c = { .t = t, .fail_at = -1 };
		struct uffdwp_opts o = { .threads = threads[i],
					 .batch = batch[i],
					 .thread_start = on_start,
					 .thread_arg = &c };
		struct uffdwp *h = live_open_opts(&o);
		struct uffdwp_stats st = { .sz = sizeof(st) };
		struct uffdwp_info info;

		live_info(h, &info);
		CHECK_EQ(info.threads, threads[i]);
		CHECK_EQ(info.batch, batch[i]);
		CHECK_EQ(atomic_load(&c.started[threads[i] - 1]), 1);
		CHECK_EQ(uffdwp_stats(h, threads[i] - 1, &st), 0);
		CHECK_EQ(uffdwp_stats(h, threads[i], &st), -EINVAL);
		CHECK_EQ(uffdwp_close(h), 0);
	}
}

/* Signals reach the program's threads, never the pool's. */
static volatile sig_atomic_t signalled_tid;

static void on_signal(int sig)
{
	(void)sig;
	signalled_tid = (int)syscall(SYS_gettid);
}

static void signals(struct live *t)
{
	struct sigaction sa = { .sa_handler = on_signal }, old;
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);

	(void)t;
	CHECK_EQ(sigaction(SIGUSR1, &sa, &old), 0);
	for (int i = 0; i < 100; i++) {
		signalled_tid = 0;
		kill(getpid(), SIGUSR1);
		while (!signalled_tid)
			live_msleep(1);
		CHECK_EQ(signalled_tid, getpid());
	}
	CHECK_EQ(sigaction(SIGUSR1, &old, NULL), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "plain", plain, KINDS_ALL, UFFDWP_FEATURE_THREAD_ID, 5 },
	{ "automatic", automatic, KINDS_ALL, UFFDWP_FEATURE_THREAD_ID, 5 },
	{ "pinned", pinned, KINDS_ALL, UFFDWP_FEATURE_THREAD_ID, 5 },
	{ "refused", refused, KINDS_NONE, 0, 5 },
	{ "sampled", sampled, KINDS_ALL, 0, 5 },
	{ "sizes", sizes, KINDS_NONE, 0, 5 },
	{ "signals", signals, KINDS_NONE, 0, 5 },
};

LIVE_MAIN(cases)
