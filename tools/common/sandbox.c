/* SPDX-License-Identifier: MIT */
/* The filter, see sandbox.h. */
#include "sandbox.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi-extra.h"

#define ALWAYS 0u

/* tests/sandbox.sh reads the names and the groups from these two tables. */
static const struct {
	unsigned int group;
	const char *name;
} calls[] = {
	{ ALWAYS, "poll" },
	{ ALWAYS, "ppoll" },
	{ ALWAYS, "read" },
	{ ALWAYS, "write" },
	{ ALWAYS, "sched_yield" },
	{ ALWAYS, "nanosleep" },
	{ ALWAYS, "clock_nanosleep" },
	{ ALWAYS, "clock_gettime" },
	{ ALWAYS, "futex" },
	{ ALWAYS, "sched_getaffinity" },
	{ ALWAYS, "restart_syscall" },
	{ ALWAYS, "dup3" },
	{ SANDBOX_PLACEMENT, "sched_setaffinity" },
	{ SANDBOX_ADOPTED, "preadv2" },
	{ SANDBOX_FOREIGN, "process_vm_readv" },
	{ SANDBOX_FOREIGN, "getpid" },
	{ SANDBOX_SNAPSHOT, "pread64" },
	{ SANDBOX_FORK, "close" },
	{ SANDBOX_FORKED, "mmap" },
	{ SANDBOX_FORKED, "munmap" },
	{ SANDBOX_FORKED, "madvise" },
	{ SANDBOX_FORKED, "eventfd2" },
	{ SANDBOX_FORKED, "fcntl" },
	{ SANDBOX_FORKED, "epoll_create1" },
	{ SANDBOX_FORKED, "epoll_ctl" },
	{ SANDBOX_RESTORE, "pread64" },
	{ SANDBOX_RESTORE, "fadvise64" },
	{ SANDBOX_RESTORE, "mprotect" },
	{ SANDBOX_SIGBUS, "getpid" },
	{ SANDBOX_SIGBUS, "process_vm_readv" },
	{ SANDBOX_SIGBUS, "sched_yield" },
	{ SANDBOX_SIGBUS, "rt_sigreturn" },
	{ SANDBOX_SIGBUS, "rt_sigaction" },
	/* The C library, ending the thread. */
	{ ALWAYS, "set_robust_list" },
	{ ALWAYS, "rseq" },
	{ ALWAYS, "rt_sigprocmask" },
	{ ALWAYS, "madvise" },
	{ ALWAYS, "munmap" },
	{ ALWAYS, "exit" },
	/* Of a test's own. */
	{ SANDBOX_LOOP, "epoll_wait" },
	{ SANDBOX_LOOP, "epoll_pwait" },
	{ SANDBOX_LOOP, "rt_sigreturn" },
};

static const struct {
	unsigned int group;
	const char *name;
	uint32_t request;
} requests[] = {
	{ ALWAYS, "UFFDIO_WRITEPROTECT", (uint32_t)UFFDIO_WRITEPROTECT },
	{ ALWAYS, "UFFDIO_WAKE", (uint32_t)UFFDIO_WAKE },
	{ ALWAYS, "UFFDIO_UNREGISTER", (uint32_t)UFFDIO_UNREGISTER },
	{ SANDBOX_SNAPSHOT, "PAGEMAP_SCAN", (uint32_t)UX_PAGEMAP_SCAN },
	{ SANDBOX_ABSENT, "UFFDIO_COPY", (uint32_t)UFFDIO_COPY },
	{ SANDBOX_ABSENT, "UFFDIO_ZEROPAGE", (uint32_t)UFFDIO_ZEROPAGE },
	{ SANDBOX_ABSENT, "UFFDIO_CONTINUE", (uint32_t)UX_UFFDIO_CONTINUE },
	{ SANDBOX_ABSENT, "UFFDIO_MOVE", (uint32_t)UX_UFFDIO_MOVE },
	{ SANDBOX_ABSENT, "UFFDIO_POISON", (uint32_t)UX_UFFDIO_POISON },
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int wanted(unsigned int group, unsigned int groups)
{
	return group == ALWAYS || group & groups;
}

static int allow(scmp_filter_ctx ctx, unsigned int groups)
{
	int err = 0, nr;

	for (size_t i = 0; !err && i < COUNT(calls); i++) {
		nr = seccomp_syscall_resolve_name(calls[i].name);
		/* A call that this processor, or this library, does not know is not made. */
		if (nr != __NR_SCMP_ERROR && nr >= 0 && wanted(calls[i].group, groups))
			err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
	}
	for (size_t i = 0; !err && i < COUNT(requests); i++)
		if (wanted(requests[i].group, groups))
			err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					       SCMP_A1_32(SCMP_CMP_EQ, requests[i].request, 0));
	return err;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

int sandbox_enter(unsigned int groups)
{
	scmp_filter_ctx ctx;
	int err;

	if (SANITIZED)
		return 0;
	ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return -ENOMEM;
	err = allow(ctx, groups);
	if (!err)
		err = seccomp_load(ctx);
	seccomp_release(ctx);
	return err;
}

int sandbox_thread_start(unsigned int worker, void *arg)
{
	(void)worker;
	return sandbox_enter(*(const unsigned int *)arg);
}
