/* SPDX-License-Identifier: MIT */
/*
 * A SIGBUS that is not the library's reaches whoever had the signal before: a handler that repairs
 * the cause and returns, one that jumps away, or the default action, which kills. The cause is an
 * access beyond the end of a mapped file. It must be so while a handle serves by signals and after.
 */
#include "sigbus_foreign.h"
#include "serve.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A handler has no other way to know them. */
static struct {
	struct mem file; /* mapped longer than it is */
	_Atomic int calls;
	_Atomic(void *) addr;
	bool jump;
	sigjmp_buf back;
} foreign;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	atomic_store(&foreign.addr, info->si_addr);
	atomic_fetch_add(&foreign.calls, 1);
	if (foreign.jump)
		siglongjmp(foreign.back, 1);
	if (ftruncate(foreign.file.fd, (off_t)foreign.file.size))
		_exit(EXIT_HARNESS);
}

static char *beyond_end(void)
{
	return foreign.file.addr + foreign.file.size - foreign.file.page_size;
}

static bool cut_file(void)
{
	return !ftruncate(foreign.file.fd, (off_t)foreign.file.page_size);
}

/* One access beyond the end; the handler must have had it. */
static bool provoke(bool jump)
{
	volatile char *p = beyond_end();
	int before = atomic_load(&foreign.calls);

	if (!cut_file())
		return false;
	foreign.jump = jump;
	if (!sigsetjmp(foreign.back, 1))
		*p = 1;
	if (atomic_load(&foreign.calls) == before + 1 &&
	    atomic_load(&foreign.addr) == (void *)beyond_end())
		return true;
	out_fail("foreign: the handler had %d calls, the last at %p",
		 atomic_load(&foreign.calls) - before, atomic_load(&foreign.addr));
	return false;
}

static bool provoke_both(const char *when)
{
	if (provoke(false) && provoke(true) && provoke(false))
		return true;
	out_fail("foreign: a SIGBUS did not reach the handler before %s", when);
	return false;
}

static bool set_handler(void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction sa;

	memset(&sa, 0, sizeof(sa));
	sigemptyset(&sa.sa_mask);
	if (handler) {
		sa.sa_sigaction = handler;
		sa.sa_flags = SA_SIGINFO;
	} else {
		sa.sa_handler = SIG_DFL;
	}
	return !sigaction(SIGBUS, &sa, NULL);
}

static int with_handler(const struct stress_opts *o)
{
	struct server s;
	bool good;
	int rc;

	if (!set_handler(on_sigbus) || !provoke_both("any handle was open"))
		return EXIT_HARNESS;
	rc = server_start(&s, o, MEM_ANON, UFFDWP_SERVE_SIGBUS, false, NULL);
	if (rc)
		return rc;
	good = provoke_both("the handle was opened");
	good = server_close(&s) && good;
	good = provoke_both("the handle was closed") && good;
	return good ? EXIT_PASS : EXIT_WRONG;
}

static int with_default(const struct stress_opts *o)
{
	volatile char *p = beyond_end();
	struct server s;
	int rc;

	if (!set_handler(NULL) || !cut_file())
		return EXIT_HARNESS;
	rc = server_start(&s, o, MEM_ANON, UFFDWP_SERVE_SIGBUS, false, NULL);
	if (rc)
		return rc;
	*p = 1;
	return EXIT_WRONG;
}

/*
 * In a child, because one dies of it, and because what a process has done with the signal
 * before it opens its first handle can not be undone.
 */
static int in_child(const struct stress_opts *o, int (*fn)(const struct stress_opts *), int want,
		    const char *what)
{
	pid_t pid = watchdog_fork();
	int status;

	if (!pid)
		_exit(fn(o));
	status = pid < 0 ? -1 : watchdog_child(pid);
	if (status == want)
		return EXIT_PASS;
	out_fail("foreign, %s: the child ended with %d, want %d", what, status, want);
	return status == EXIT_UNSUPPORTED || status == EXIT_HARNESS ? status : EXIT_WRONG;
}

int sigbus_foreign(const struct stress_opts *o)
{
	struct census before = census_take();
	int rc = area_map(&foreign.file, MEM_SHMEM, 2 * (size_t)sysconf(_SC_PAGESIZE));

	if (rc)
		return rc;
	rc = in_child(o, with_handler, EXIT_PASS, "handler installed before");
	rc = exit_worse(rc, in_child(o, with_default, 128 + SIGBUS, "default action"));
	mem_unmap(&foreign.file);
	if (!census_same(&before, "foreign"))
		rc = EXIT_WRONG;
	out_say(o, "%-15s a foreign SIGBUS goes where it went before: %s\n", "foreign",
		exit_word(rc));
	json_begin(o);
	json_str(o, "case", "foreign");
	json_str(o, "result", exit_word(rc));
	json_end(o);
	return rc;
}
