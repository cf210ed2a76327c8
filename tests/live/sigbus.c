/* SPDX-License-Identifier: MIT */
/*
 * Faults served inside the faulting thread, by SIGBUS: no message is read, several handles share the
 * one signal, and a SIGBUS that is nobody's goes to the handler that was there before.
 */
#include "../common/live.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile sig_atomic_t foreign, foreign_plain;
static void *volatile foreign_addr;

static void on_foreign(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	foreign++;
	foreign_addr = si->si_addr;
	siglongjmp(back, 1);
}

static void on_foreign_plain(int sig)
{
	(void)sig;
	foreign_plain++;
	siglongjmp(back, 1);
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	_Atomic int *calls = ctx;

	(void)r;
	if (f->worker != UFFDWP_NO_WORKER || (f->tid && f->tid != (uint32_t)syscall(SYS_gettid)))
		return -EPROTO;
	atomic_fetch_add(calls, 1);
	return 0;
}

static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };

/* A page of a file that has ended: the one SIGBUS that is easy to have. */
static char *past_the_end(void)
{
	int fd = memfd_create("short", MFD_CLOEXEC);
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(fd >= 0 && p != MAP_FAILED);
	close(fd);
	return p;
}

static void write_all(struct live *t, _Atomic int *calls)
{
	int before = atomic_load(calls);

	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 1);
	CHECK_EQ(atomic_load(calls), before + (int)t->pages);
}

static void chain(struct live *t, const struct sigaction *previous, volatile sig_atomic_t *count)
{
	char *bad = past_the_end();
	struct sigaction old;
	struct uffdwp_stats st;
	_Atomic int calls = 0;
	struct uffdwp *h;

	CHECK_EQ(sigaction(SIGBUS, previous, &old), 0);
	h = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
	live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &calls));
	for (int i = 0; i < 3; i++) {
		if (!sigsetjmp(back, 1))
			live_load(bad + 8);
		CHECK_EQ(*count, i + 1);
	}
	write_all(t, &calls);
	CHECK_EQ(uffdwp_error(h), 0);
	live_stats(h, &st);
	CHECK_EQ(st.reads, 0);
	CHECK_EQ(st.write, t->pages);
	CHECK_EQ(uffdwp_close(h), 0);
	/* The library's handler stays, and still passes on. */
	if (!sigsetjmp(back, 1))
		live_load(bad + 16);
	CHECK_EQ(*count, 4);
	CHECK_EQ(sigaction(SIGBUS, &old, NULL), 0);
	munmap(bad, 4096);
}

static void chain_siginfo(struct live *t)
{
	struct sigaction sa = { .sa_sigaction = on_foreign, .sa_flags = SA_SIGINFO };

	chain(t, &sa, &foreign);
	CHECK(foreign_addr != NULL);
}

static void chain_plain(struct live *t)
{
	struct sigaction sa = { .sa_handler = on_foreign_plain };

	chain(t, &sa, &foreign_plain);
}

/* No handler before: a foreign SIGBUS kills, as it always did. Also an ignored one: the kernel insists. */
static void chain_default(struct live *t)
{
	for (int ignored = 0; ignored < 2; ignored++) {
		int status;
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			_Atomic int calls = 0;
			char *bad = past_the_end();
			struct uffdwp *h;

			signal(SIGBUS, ignored ? SIG_IGN : SIG_DFL);
			h = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
			live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &calls));
			write_all(t, &calls);
			live_store(bad, 1);
			_exit(0);
		}
		CHECK_EQ(waitpid(pid, &status, 0), pid);
		CHECK(WIFSIGNALED(status));
		CHECK_EQ(WTERMSIG(status), SIGBUS);
	}
}

/* The program puts its own handler between two handles: the second one is served, and passes on to it. */
static void reinstalled(struct live *t)
{
	struct sigaction sa = { .sa_sigaction = on_foreign, .sa_flags = SA_SIGINFO };
	char *bad = past_the_end();
	_Atomic int calls = 0;
	struct uffdwp *h;

	for (int i = 0; i < 3; i++) {
		CHECK_EQ(sigaction(SIGBUS, &sa, NULL), 0);
		h = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
		live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &calls));
		write_all(t, &calls);
		if (!sigsetjmp(back, 1))
			live_load(bad + 8);
		CHECK_EQ(foreign, i + 1);
		CHECK_EQ(uffdwp_close(h), 0);
	}
	munmap(bad, 4096);
}

/* Two handles, each with its half; the first one closed, the second goes on. */
static void two_handles(struct live *t)
{
	struct uffdwp *h[2];
	_Atomic int calls[2] = { 0 };
	struct live half[2] = { *t, *t };

	for (int i = 0; i < 2; i++) {
		half[i].pages = t->pages / 2;
		half[i].mem.size = half[i].pages * t->page;
		half[i].mem.addr += i * half[i].mem.size;
		h[i] = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
		live_protect(&half[i],
			     live_region(&half[i], h[i], UFFDWP_MODE_WP, 1, &ops, &calls[i]));
	}
	write_all(&half[0], &calls[0]);
	CHECK_EQ(atomic_load(&calls[1]), 0);
	CHECK_EQ(uffdwp_close(h[0]), 0);
	write_all(&half[1], &calls[1]);
	live_store(t->mem.addr, 2);
	CHECK_EQ(atomic_load(&calls[0]), (int)half[0].pages);
	CHECK_EQ(uffdwp_close(h[1]), 0);
}

/* A handle that serves by threads next to one that serves by SIGBUS. */
static void next_to_threads(struct live *t)
{
	struct uffdwp *threads = live_open(UFFDWP_SERVE_THREADS, 0);
	struct uffdwp *sig = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
	char *other = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .addr = (uintptr_t)other, .len = 4096, .mode = UFFDWP_MODE_WP
	};
	_Atomic int calls = 0;
	struct uffdwp_region *r;
	struct uffdwp_stats st;

	CHECK(other != MAP_FAILED);
	CHECK_EQ(uffdwp_region_add(threads, &o, &r), 0);
	CHECK_EQ(uffdwp_protect(r, o.addr, o.len, NULL), 0);
	live_protect(t, live_region(t, sig, UFFDWP_MODE_WP, 1, &ops, &calls));
	live_store(other, 1);
	write_all(t, &calls);
	live_stats(threads, &st);
	CHECK_EQ(st.write, 1);
	live_stats(sig, &st);
	CHECK_EQ(st.write, t->pages);
	CHECK_EQ(uffdwp_close(sig), 0);
	CHECK_EQ(uffdwp_close(threads), 0);
	munmap(other, 4096);
}

/* errno of the program is not the handler's to change. */
static void keeps_errno(struct live *t)
{
	struct uffdwp *h = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
	_Atomic int calls = 0;

	live_protect(t, live_region(t, h, UFFDWP_MODE_WP, 1, &ops, &calls));
	for (size_t i = 0; i < t->pages; i++) {
		errno = 12345;
		live_store(t->mem.addr + i * t->page, 1);
		CHECK_EQ(errno, 12345);
	}
	CHECK_EQ(uffdwp_close(h), 0);
}

/* ---- A thread that never gets its page first ---- */

#define LOSSES ((int)live_times(2000))

struct contest {
	struct live *t;
	_Atomic int inside, coming, second;
};

static void spin_until(const _Atomic int *v, int want)
{
	while (atomic_load_explicit(v, memory_order_acquire) < want)
		sched_yield();
}

/* Lets the other thread fault on the page before it is released, where a fault takes 50 us too. */
static int let_in(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct contest *c = ctx;

	(void)r;
	(void)f;
	spin_until(&c->coming, atomic_fetch_add(&c->inside, 1) + 1);
	for (volatile int i = 0; i < 400000; i++)
		;
	return 0;
}

/* It faults nowhere else. */
static void *lose(void *arg)
{
	struct contest *c = arg;

	for (int i = 1; i <= LOSSES; i++) {
		spin_until(&c->inside, i);
		atomic_store(&c->coming, i);
		live_store(c->t->mem.addr + 8, (uint64_t)i);
		atomic_store(&c->second, i);
	}
	return NULL;
}

/*
 * It finds its page released each time, or being released: that its access was in vain so often, with a protection
 * in between, does not make it a bad one.
 */
static void loser(struct live *t)
{
	static const struct uffdwp_ops contest_ops = { .sz = sizeof(contest_ops), .write = let_in };
	struct uffdwp *h = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
	struct contest c = { .t = t };
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, 1, &contest_ops, &c);
	struct uffdwp_stats st;
	pthread_t other;

	live_store(t->mem.addr, 1);
	live_thread(&other, lose, &c);
	for (int i = 1; i <= LOSSES; i++) {
		CHECK_EQ(uffdwp_protect(r, (uintptr_t)t->mem.addr, t->page, NULL), 0);
		live_store(t->mem.addr, (uint64_t)i);
		spin_until(&c.second, i);
		CHECK_EQ(atomic_load(&c.inside), i);
	}
	live_join(other);
	live_stats(h, &st);
	CHECK(st.duplicates > 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

/* ---- A forked child ---- */

struct inside {
	struct live *t;
	_Atomic int in, out;
};

static int stay(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct inside *c = ctx;

	(void)r;
	(void)f;
	atomic_store(&c->in, 1);
	while (!atomic_load(&c->out))
		sched_yield();
	return 0;
}

static void *write_one(void *arg)
{
	struct inside *c = arg;

	live_store(c->t->mem.addr, 1);
	return NULL;
}

/* Forked while another thread is in an operation, which it will never end in the child. */
static void forked_own(struct live *t)
{
	static const struct uffdwp_ops stay_ops = { .sz = sizeof(stay_ops), .write = stay };
	struct uffdwp *h = live_open(UFFDWP_SERVE_SIGBUS, mem_wp_features(t->mem.kind));
	struct inside c = { .t = t };
	struct uffdwp_region *r = live_region(t, h, UFFDWP_MODE_WP, 1, &stay_ops, &c);
	pthread_t writer;
	int status;
	pid_t pid;

	live_store(t->mem.addr, 0);
	live_protect(t, r);
	live_thread(&writer, write_one, &c);
	while (!atomic_load(&c.in))
		live_msleep(1);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		alarm(10);
		_exit(uffdwp_close(live_open(UFFDWP_SERVE_SIGBUS, 0)) || uffdwp_close(h));
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	atomic_store(&c.out, 1);
	live_join(writer);
	CHECK_EQ(uffdwp_close(h), 0);
}

static const struct live_case cases[] = {
	{ "chain/siginfo", chain_siginfo, KINDS_ALL, UFFDWP_FEATURE_SIGBUS, 5 },
	{ "chain/plain", chain_plain, BIT(MEM_ANON), UFFDWP_FEATURE_SIGBUS, 5 },
	{ "chain/default", chain_default, BIT(MEM_ANON), UFFDWP_FEATURE_SIGBUS, 5 },
	{ "reinstalled", reinstalled, BIT(MEM_ANON) | BIT(MEM_SHMEM), UFFDWP_FEATURE_SIGBUS, 5 },
	{ "two-handles", two_handles, KINDS_ALL, UFFDWP_FEATURE_SIGBUS, 5 },
	{ "next-to-threads", next_to_threads, KINDS_ALL, UFFDWP_FEATURE_SIGBUS, 5 },
	{ "loser", loser, BIT(MEM_ANON) | BIT(MEM_SHMEM), UFFDWP_FEATURE_SIGBUS, 30 },
	{ "forked-own", forked_own, BIT(MEM_ANON), UFFDWP_FEATURE_SIGBUS, 30 },
	{ "keeps-errno", keeps_errno, KINDS_ALL, UFFDWP_FEATURE_SIGBUS, 5 },
};

LIVE_MAIN(cases)
