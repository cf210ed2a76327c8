/* SPDX-License-Identifier: MIT */
/*
 * Running one check of `uffd-stress probe`: in a process group of its own, under a time limit,
 * with its verdict in memory shared with the parent. When it is over, everything it started is
 * killed, and what it changed in the system has been undone before the next one begins.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SECS 10
#define UNDO_MS 60000

/* Of the process that runs a check; its children inherit it. */
static struct probe_outcome *outcome;

/* The first verdict stands: a child's failure is not covered by its parent's. */
static void settle(int verdict, const char *fmt, va_list ap)
{
	int none = PROBE_NONE;
	char text[sizeof(outcome->text)];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (atomic_compare_exchange_strong(&outcome->verdict, &none, verdict))
		memcpy(outcome->text, text, sizeof(text));
}

void probe_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	settle(PROBE_FAIL, fmt, ap);
	va_end(ap);
	_exit(1);
}

void probe_unsupported(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	settle(PROBE_UNSUPPORTED, fmt, ap);
	va_end(ap);
	_exit(77);
}

void probe_note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(outcome->text, sizeof(outcome->text), fmt, ap);
	va_end(ap);
}

void probe_expect_err(int err, int want, const char *what)
{
	if (err == want)
		return;
	probe_fail("%s: result %d (%s), expected %d", what, err, strerror(-err), want);
}

pid_t probe_fork(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		probe_fail("fork: %s", strerror(errno));
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	return 0;
}

/* Waits up to ms for the end of a child; false: it still runs. */
static bool wait_for(pid_t pid, int ms, int *status)
{
	struct pollfd p = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };
	int n;

	do
		n = poll(&p, 1, ms);
	while (n < 0 && errno == EINTR);
	close(p.fd);
	return n > 0 && waitpid(pid, status, 0) == pid;
}

pid_t probe_fork_bare(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

bool probe_ends(pid_t pid, int *status)
{
	return wait_for(pid, PROBE_WAIT_MS, status);
}

int probe_reap(pid_t pid)
{
	int status;

	if (!probe_ends(pid, &status))
		probe_fail("a child process does not end");
	if (WIFSIGNALED(status))
		probe_fail("a child process died: %s", strsignal(WTERMSIG(status)));
	if (atomic_load(&outcome->verdict) != PROBE_NONE)
		_exit(1);
	return WEXITSTATUS(status);
}

_Noreturn static void child(const struct probe_row *row, enum mem_kind kind, pid_t parent)
{
	/* The parent's own handlers clean up what is the parent's. */
	static const int reset[] = { SIGINT, SIGTERM, SIGHUP, SIGABRT, SIGSEGV, SIGBUS };
	size_t i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	setpgid(0, 0);
	for (i = 0; i < sizeof(reset) / sizeof(reset[0]); i++)
		signal(reset[i], SIG_DFL);
	row->check(row, kind);
	_exit(0);
}

/* The last holder of the write end is gone when everything is undone, see probe_system.c. */
static bool wait_undone(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n;

	do
		n = poll(&p, 1, UNDO_MS);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

static void conclude(struct probe_outcome *out, bool ended, int status, unsigned int secs)
{
	int verdict = PROBE_FAIL;
	char why[64] = "";

	if (atomic_load(&out->verdict) != PROBE_NONE)
		return;
	if (!ended)
		snprintf(why, sizeof(why), "hung: no end after %u s", secs);
	else if (WIFSIGNALED(status))
		snprintf(why, sizeof(why), "died: %s", strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		snprintf(why, sizeof(why), "ended with status %d", WEXITSTATUS(status));
	else
		verdict = PROBE_PASS;
	if (verdict != PROBE_PASS)
		memcpy(out->text, why, sizeof(why));
	atomic_store(&out->verdict, verdict);
}

static void error_out(struct probe_outcome *out, const char *what)
{
	snprintf(out->text, sizeof(out->text), "%s: %s", what, strerror(errno));
	atomic_store(&out->verdict, PROBE_ERROR);
}

void probe_run_row(const struct probe_row *row, enum mem_kind kind, struct probe_outcome *out)
{
	unsigned int secs = row->secs ? row->secs : DEFAULT_SECS;
	pid_t parent = getpid(), pid;
	int undone[2], status = 0;
	bool ended;

	memset(out, 0, sizeof(*out));
	outcome = out;
	if (pipe2(undone, O_CLOEXEC))
		return error_out(out, "pipe");
	probe_undone = undone[1];
	pid = fork();
	if (pid < 0)
		error_out(out, "fork");
	if (!pid) {
		close(undone[0]);
		child(row, kind, parent);
	}
	close(undone[1]);
	if (pid > 0) {
		setpgid(pid, pid);
		ended = wait_for(pid, (int)secs * 1000, &status);
		kill(-pid, SIGKILL);
		if (!ended)
			waitpid(pid, &status, 0);
		conclude(out, ended, status, secs);
		if (!wait_undone(undone[0]))
			error_out(out, "the system's settings were not put back");
	}
	close(undone[0]);
}
