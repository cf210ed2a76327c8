/* SPDX-License-Identifier: MIT */
/*
 * The peers of SIGBUS serving: a signal handler of userfaultfd's SIGBUS mode, and the one of
 * mprotect(2) and SIGSEGV, the way without userfaultfd. The handlers find their arena by a global,
 * as signal handlers must; sides take turns, so one is enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "side.h"

static struct arena *current;
static int current_uffd = -1;
static struct sigaction previous;

static _Noreturn void die_in_handler(void)
{
	static const char
		text[] = "uffd-bench: a fault could not be resolved in its signal handler\n";

	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(EXIT_HARNESS);
}

static uint64_t page_of(const siginfo_t *info)
{
	return (uintptr_t)info->si_addr & ~(uint64_t)(current->mem.page_size - 1);
}

static bool in_arena(uint64_t page)
{
	return page - (uintptr_t)current->mem.addr < current->mem.size;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uint64_t page = page_of(info);

	(void)sig;
	(void)context;
	if (!in_arena(page))
		die_in_handler();
	arena_save(current, page - (uintptr_t)current->mem.addr);
	if (raw_release(current_uffd, page, current->mem.page_size))
		die_in_handler();
}

static void on_sigsegv(int sig, siginfo_t *info, void *context)
{
	uint64_t page = page_of(info);

	(void)sig;
	(void)context;
	if (!in_arena(page))
		die_in_handler();
	arena_save(current, page - (uintptr_t)current->mem.addr);
	if (mprotect((void *)(uintptr_t)page, current->mem.page_size, PROT_READ | PROT_WRITE))
		die_in_handler();
}

static void install(int sig, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	sigemptyset(&sa.sa_mask);
	if (sigaction(sig, &sa, &previous))
		die("sigaction", errno);
}

static void restore(int sig)
{
	if (sigaction(sig, &previous, NULL))
		die("sigaction", errno);
}

static int open_sigbus(struct side *s, char *reason, size_t size)
{
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_SIGBUS;
	int *fd = malloc(sizeof(*fd));

	if (!fd)
		die("memory", ENOMEM);
	*fd = raw_open(&s->arena->mem, features, 0);
	if (*fd < 0) {
		int err = *fd;

		free(fd);
		snprintf(reason, size, "userfaultfd(2) is not permitted, or lacks a feature");
		return err;
	}
	s->state = fd;
	return 0;
}

static void attach_sigbus(struct side *s)
{
	current = s->arena;
	current_uffd = *(int *)s->state;
	install(SIGBUS, on_sigbus);
	raw_attach(current_uffd, &s->arena->mem);
}

static void detach_sigbus(struct side *s)
{
	raw_detach(current_uffd, &s->arena->mem);
	restore(SIGBUS);
}

static void close_sigbus(struct side *s)
{
	close(*(int *)s->state);
	free(s->state);
}

static int open_mprotect(struct side *s, char *reason, size_t size)
{
	(void)s;
	(void)reason;
	(void)size;
	return 0;
}

static void attach_mprotect(struct side *s)
{
	current = s->arena;
	install(SIGSEGV, on_sigsegv);
	if (mprotect(s->arena->mem.addr, s->arena->mem.size, PROT_READ))
		die("mprotect", errno);
}

static void detach_mprotect(struct side *s)
{
	if (mprotect(s->arena->mem.addr, s->arena->mem.size, PROT_READ | PROT_WRITE))
		die("mprotect", errno);
	restore(SIGSEGV);
}

static void close_mprotect(struct side *s)
{
	(void)s;
}

const struct side_kind side_raw_sigbus = { .name = "raw SIGBUS",
					   .open = open_sigbus,
					   .attach = attach_sigbus,
					   .detach = detach_sigbus,
					   .close = close_sigbus };
const struct side_kind side_mprotect = { .name = "mprotect+SIGSEGV",
					 .open = open_mprotect,
					 .attach = attach_mprotect,
					 .detach = detach_mprotect,
					 .close = close_mprotect };
