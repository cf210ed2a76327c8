/* SPDX-License-Identifier: MIT */
/*
 * Threads for the checks of `uffd-stress probe` that do one thing and may sleep in it, and a
 * touch of memory that survives its signal.
 */
#include "probe.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define JOBS 64

/* How long something that should not happen is given to happen. */
#define NAP_MS 20

/* More CPU time than anything here needs for going to sleep. */
#define SPIN_NS 20000000

void probe_nap(int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static void *job_main(void *arg)
{
	struct probe_job *job = arg;

	job->tid = (int)syscall(SYS_gettid);
	atomic_store(&job->state, 1); /* pairs with wait_begun(): tid is set */
	job->ret = job->fn(job);
	atomic_store(&job->state, 2); /* pairs with probe_is_done(): ret is set */
	return NULL;
}

static void wait_begun(struct probe_job *job)
{
	while (!atomic_load(&job->state))
		sched_yield();
}

static struct probe_job *launch(struct probe_job *job)
{
	int err = pthread_create(&job->thread, NULL, job_main, job);

	PROBE_CHECK(!err, "pthread_create: %s", strerror(err));
	wait_begun(job);
	return job;
}

/* A check is short and its process ends with it: jobs are not given back. */
static struct probe_job *new_job(long (*fn)(struct probe_job *job))
{
	static struct probe_job jobs[JOBS];
	static unsigned int n;

	PROBE_CHECK(n < JOBS, "too many threads in one check");
	jobs[n].fn = fn;
	return &jobs[n++];
}

struct probe_job *probe_start(long (*fn)(struct probe_job *job), long a, long b)
{
	struct probe_job *job = new_job(fn);

	job->arg[0] = a;
	job->arg[1] = b;
	return launch(job);
}

PROBE_RACES static long do_write(struct probe_job *job)
{
	*(volatile unsigned char *)job->arg[0] = PROBE_NEW;
	return 0;
}

PROBE_RACES static long do_read(struct probe_job *job)
{
	return *(volatile unsigned char *)job->arg[0];
}

static long do_call(struct probe_job *job)
{
	const long *a = job->arg;
	long ret = syscall(a[0], a[1], a[2], a[3], a[4], a[5]);

	return ret < 0 ? -errno : ret;
}

PROBE_RACES static long do_fork(struct probe_job *job)
{
	pid_t pid = probe_fork_bare();

	PROBE_CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid)
		return probe_reap(pid);
	if (job->arg[0])
		*(volatile unsigned char *)job->arg[0] = PROBE_NEW;
	_exit(0);
}

struct probe_job *probe_fork_job(const void *addr)
{
	return probe_start(do_fork, (long)addr, 0);
}

struct probe_job *probe_write(const void *addr)
{
	return probe_start(do_write, (long)addr, 0);
}

struct probe_job *probe_read(const void *addr)
{
	return probe_start(do_read, (long)addr, 0);
}

struct probe_job *probe_call(long nr, long a, long b, long c, long d, long e)
{
	struct probe_job *job = new_job(do_call);
	const long arg[6] = { nr, a, b, c, d, e };

	memcpy(job->arg, arg, sizeof(arg));
	return launch(job);
}

struct probe_job *probe_madvise(const void *addr, size_t len, int advice)
{
	return probe_call(SYS_madvise, (long)addr, (long)len, advice, 0, 0);
}

bool probe_is_done(struct probe_job *job, int ms)
{
	for (; atomic_load(&job->state) != 2; ms--) {
		if (ms <= 0)
			return false;
		probe_nap(1);
	}
	if (!job->joined)
		pthread_join(job->thread, NULL);
	job->joined = true;
	return true;
}

long probe_done(struct probe_job *job)
{
	PROBE_CHECK(probe_is_done(job, PROBE_WAIT_MS),
		    "a thread that should have gone on still sleeps");
	return job->ret;
}

/* As /proc says it: R, S, D, ... */
static char thread_state(int tid)
{
	char path[64], line[256], *end = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f))
		end = strrchr(line, ')'); /* the name may hold anything */
	if (f)
		fclose(f);
	return end ? end[2] : 'X';
}

void probe_sleeps(struct probe_job *job)
{
	int i;

	for (i = 0; i < PROBE_WAIT_MS && thread_state(job->tid) == 'R'; i++)
		probe_nap(1);
	probe_nap(NAP_MS);
	PROBE_CHECK(!probe_is_done(job, 0), "a thread that should sleep went on");
}

static uint64_t cpu_ns(const struct probe_job *job)
{
	struct timespec ts;
	clockid_t clock;

	/* A thread that has ended has no clock any more. */
	if (job->joined || pthread_getcpuclockid(job->thread, &clock) || clock_gettime(clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

bool probe_spins(struct probe_job *job)
{
	uint64_t from = cpu_ns(job);
	int i;

	for (i = 0; i < PROBE_WAIT_MS / 5 && !probe_is_done(job, 0); i++) {
		if (cpu_ns(job) >= from + SPIN_NS)
			return true;
		probe_nap(5);
	}
	return false;
}

/* Where a signal's handler goes back to; one thread at a time touches. */
static sigjmp_buf back;

static void on_signal(int sig)
{
	siglongjmp(back, sig);
}

PROBE_RACES int probe_touch(char *addr, bool write)
{
	struct sigaction sa = { .sa_handler = on_signal };
	int sig;

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sig = sigsetjmp(back, 1);
	if (sig)
		return sig;
	if (write)
		*(volatile unsigned char *)addr = PROBE_NEW;
	else
		probe_get(addr);
	return 0;
}
