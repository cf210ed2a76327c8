/* SPDX-License-Identifier: MIT */
/*
 * The system calls that uffdwp(7) lists for serving threads, as a seccomp(2) filter that kills the process at
 * any other. tests/sandbox.sh compares this list with the manual's.
 */
#ifndef COMMON_SANDBOX_H
#define COMMON_SANDBOX_H

/* Groups, as in the manual. ALWAYS, and what ends a thread, are in every filter. */
#define SANDBOX_PLACEMENT 1u
#define SANDBOX_ABSENT 2u  /* missing and minor faults */
#define SANDBOX_FOREIGN 4u /* uffdwp_read() of an adopted region, or of one that may move */
#define SANDBOX_FORK 8u	   /* EVENT_FORK */
#define SANDBOX_FORKED 16u /* with opts.forked */
#define SANDBOX_SIGBUS 32u
#define SANDBOX_SNAPSHOT 128u
#define SANDBOX_ADOPTED 256u
#define SANDBOX_RESTORE 512u
/* Besides the library's: what a test's own loop does to wait. */
#define SANDBOX_LOOP 64u

/*
 * For the calling thread, and those that it starts, for ever. 0 or -errno. Under a sanitizer, whose own calls
 * nobody lists, it does nothing.
 */
int sandbox_enter(unsigned int groups);

/* The same for opts.thread_start; arg points to the groups. */
int sandbox_thread_start(unsigned int worker, void *arg);

#endif
