/* SPDX-License-Identifier: MIT */
/*
 * The watchdog: a thread that ends the program when one of the watched threads has made no step for
 * too long, after telling what every thread was doing. A hang is what these tests look for,
 * so it counts as a wrong result, not as an error of the harness. And who is killed by a signal says what it was
 * doing.
 *
 * Each watched thread owns one slot and is the only one that writes to it; the watchdog only reads.
 * All of it is relaxed: a report that is one step late harms nobody.
 */
#include "stress.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 256
#define SECOND UINT64_C(1000000000)

struct slot {
	_Atomic(const char *) name; /* NULL: free */
	_Atomic(const char *) text;
	_Atomic uint64_t arg, steps;
	_Atomic unsigned int index, tid;
	_Atomic bool resting;
	/* of the watchdog */
	uint64_t seen_steps, seen_at;
};

static struct slot slots[SLOTS];
static _Thread_local struct slot *mine;

/*
 * The time of one who looks several times a second. Where the whole machine stood still in between, as a virtual one
 * that is suspended and resumed, no thread hung: that is a second at most.
 */
struct lived {
	uint64_t last, ns;
};

static uint64_t live_on(struct lived *l)
{
	uint64_t now = now_ns(), gone = l->last ? now - l->last : 0;

	l->last = now;
	l->ns += gone < SECOND ? gone : SECOND;
	return l->ns;
}

static struct {
	pthread_t thread;
	unsigned int stall;
	int stop;
	pid_t pid; /* who started it */
	struct lived age;
	_Atomic(const char *) about;
} dog = { .stop = -1 };

/* ---- What the watched threads do ---- */

void watchdog_enter(const char *name, unsigned int index)
{
	const char *none;
	int i;

	for (i = 0; i < SLOTS && !mine; i++) {
		none = NULL;
		if (atomic_compare_exchange_strong(&slots[i].name, &none, name))
			mine = &slots[i];
	}
	if (!mine)
		return;
	atomic_store(&mine->index, index);
	atomic_store(&mine->tid, (unsigned int)syscall(SYS_gettid));
	watchdog_step("started", 0);
}

void watchdog_step(const char *text, uint64_t arg)
{
	if (!mine)
		return;
	atomic_store_explicit(&mine->text, text, memory_order_relaxed);
	atomic_store_explicit(&mine->arg, arg, memory_order_relaxed);
	atomic_store_explicit(&mine->resting, false, memory_order_relaxed);
	atomic_fetch_add_explicit(&mine->steps, 1, memory_order_relaxed);
}

void watchdog_rest(const char *text)
{
	if (!mine)
		return;
	watchdog_step(text, 0);
	atomic_store_explicit(&mine->resting, true, memory_order_relaxed);
}

void watchdog_leave(void)
{
	if (!mine)
		return;
	watchdog_rest("left");
	atomic_store(&mine->name, NULL);
	mine = NULL;
}

void watchdog_case(const char *text)
{
	atomic_store(&dog.about, text);
}

/* ---- Report ---- */

static void print_file(pid_t pid, const char *tid, const char *what)
{
	char path[96], buf[2048], *line, *save = NULL;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/%s", (int)pid, tid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return;
	buf[n] = '\0';
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		fprintf(stderr, "    %-8s %s\n", what, line);
}

static void print_slot(const struct slot *s)
{
	const char *name = atomic_load(&s->name);

	if (!name)
		return;
	fprintf(stderr, "    %s %u: %s (%" PRIu64 "), step %" PRIu64 "%s\n", name,
		atomic_load(&s->index), atomic_load(&s->text), atomic_load(&s->arg),
		atomic_load(&s->steps), atomic_load(&s->resting) ? ", resting" : "");
}

static void print_thread(pid_t pid, const char *tid)
{
	static const char *const files[] = { "comm", "wchan", "syscall", "stack" };
	size_t i;

	fprintf(stderr, "  thread %s\n", tid);
	for (i = 0; i < SLOTS; i++) {
		if (pid == getpid() && atomic_load(&slots[i].tid) == strtoul(tid, NULL, 10))
			print_slot(&slots[i]);
	}
	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		print_file(pid, tid, files[i]);
}

void watchdog_report(pid_t pid)
{
	struct dirent *e;
	char path[64];
	DIR *d;

	if (!pid)
		pid = getpid();
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return;
	fprintf(stderr, "threads of process %d:\n", (int)pid);
	while ((e = readdir(d))) {
		if (e->d_name[0] != '.')
			print_thread(pid, e->d_name);
	}
	closedir(d);
}

/* ---- The dog ---- */

static bool hangs(struct slot *s, uint64_t now)
{
	uint64_t steps = atomic_load_explicit(&s->steps, memory_order_relaxed);

	if (!atomic_load(&s->name) || atomic_load(&s->resting) || steps != s->seen_steps) {
		s->seen_steps = steps;
		s->seen_at = now;
		return false;
	}
	return now - s->seen_at > dog.stall * SECOND;
}

/* In one line, for who sees little of the report. */
static void say_others(const struct slot *s)
{
	char text[1024] = "";
	size_t n = 0;
	int i;

	for (i = 0; i < SLOTS && n < sizeof(text); i++) {
		if (&slots[i] != s && atomic_load(&slots[i].name))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s %u %s",
					      n ? ", " : "", atomic_load(&slots[i].name),
					      atomic_load(&slots[i].index),
					      atomic_load(&slots[i].text));
	}
	out_fail("the others: %s", n ? text : "none");
}

static void bite(const struct slot *s)
{
	const char *about = atomic_load(&dog.about);

	out_fail("no step for %u seconds, a thread hangs: %s %u: %s (%" PRIu64 ")", dog.stall,
		 atomic_load(&s->name), atomic_load(&s->index), atomic_load(&s->text),
		 atomic_load(&s->arg));
	if (about)
		out_fail("%s", about);
	say_others(s);
	watchdog_report(0);
	mem_hugepages_restore();
	/* Neither exit() nor a sanitizer's _exit(): what they would wait for may be what hangs. */
	syscall(SYS_exit_group, EXIT_WRONG);
}

static void *watch(void *arg)
{
	struct pollfd p = { .fd = dog.stop, .events = POLLIN };
	uint64_t now;
	int i;

	while (poll(&p, 1, 250) <= 0) {
		now = live_on(&dog.age);
		for (i = 0; i < SLOTS; i++) {
			if (hangs(&slots[i], now))
				bite(&slots[i]);
		}
	}
	return arg;
}

/* ---- Death ---- */

/*
 * Says who it was, and then lets the signal do what it does. The library's handler for SIGBUS calls this one with
 * what is not its own.
 */
static void die(int sig, siginfo_t *si, void *uc)
{
	const char *about = atomic_load(&dog.about);
	char text[1024];
	int n;

	(void)uc;
	signal(sig, SIG_DFL);
	if (si->si_code <= 0) /* sent: it does not come again by itself */
		raise(sig);
	if (getpid() != dog.pid)
		return;
	/* No stdio: its locks may be held. */
	n = snprintf(text, sizeof(text),
		     "\nuffd-stress: killed by signal %d, code %d, at address %p: %s (%" PRIu64
		     ")\nuffd-stress: %s\n",
		     sig, si->si_code, si->si_addr,
		     mine ? atomic_load(&mine->text) : "not one of the watched threads",
		     mine ? atomic_load(&mine->arg) : 0, about ? about : "between two cases");
	if (write(STDERR_FILENO, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1) < 0)
		return;
	mem_hugepages_restore();
}

/* Not where a sanitizer has its own. */
static void report_death(void)
{
	static const int deadly[] = { SIGSEGV, SIGBUS, SIGABRT };
	struct sigaction sa = { .sa_sigaction = die, .sa_flags = SA_SIGINFO | SA_ONSTACK }, now;
	size_t i;

	dog.pid = getpid();
	for (i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
		if (!sigaction(deadly[i], NULL, &now) && now.sa_handler == SIG_DFL)
			sigaction(deadly[i], &sa, NULL);
	}
}

/* Signals are for the other threads. */
int watchdog_start(unsigned int stall)
{
	sigset_t all, old;
	int err;

	report_death();
	dog.stall = stall;
	dog.stop = eventfd(0, EFD_CLOEXEC);
	if (dog.stop < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&dog.thread, NULL, watch, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		return 0;
	close(dog.stop);
	dog.stop = -1;
	return -err;
}

void watchdog_stop(void)
{
	if (dog.stop < 0)
		return;
	eventfd_write(dog.stop, 1);
	pthread_join(dog.thread, NULL);
	close(dog.stop);
	dog.stop = -1;
}

/* ---- Children ---- */

static int status_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/*
 * The child of a process with threads may find a lock that one of them held, its allocator's for
 * one under AddressSanitizer; so the watchdog, often the only other thread, is not there
 * meanwhile.
 */
pid_t watchdog_fork(void)
{
	bool watching = dog.stop >= 0;
	pid_t pid;

	watchdog_stop();
	pid = fork();
	if (pid && watching)
		watchdog_start(dog.stall);
	return pid;
}

int watchdog_child(pid_t pid)
{
	struct lived age = { 0 };
	const struct timespec tick = { 0, 2000000 };
	int status;
	pid_t got;

	watchdog_rest("waits for a child");
	for (;;) {
		got = waitpid(pid, &status, WNOHANG);
		if (got == pid || (got < 0 && errno != EINTR))
			break;
		if (live_on(&age) > dog.stall * SECOND) {
			out_fail("child %d has not ended within %u seconds:", (int)pid, dog.stall);
			watchdog_report(pid);
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			got = -1;
			break;
		}
		nanosleep(&tick, NULL);
	}
	watchdog_step("child ended", (uint64_t)pid);
	return got < 0 ? -1 : status_of(status);
}
