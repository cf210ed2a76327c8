/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: what is told of fork, mremap, discards and munmap, and when.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define REMOVE UFFD_FEATURE_EVENT_REMOVE
#define UNMAP UFFD_FEATURE_EVENT_UNMAP
#define REMAP UFFD_FEATURE_EVENT_REMAP
#define ROUNDS 60 /* a thread each */

/* ---- REMOVE ---- */

static void expect_remove(const struct probe_area *a, const char *addr, size_t len)
{
	struct uffd_msg msg;

	probe_event_message(a->fd, &msg, UFFD_EVENT_REMOVE);
	PROBE_CHECK(msg.arg.remove.start == (uintptr_t)addr &&
			    msg.arg.remove.end == (uintptr_t)addr + len,
		    "the event is about %#llx to %#llx", (unsigned long long)msg.arg.remove.start,
		    (unsigned long long)msg.arg.remove.end);
}

static void remove_before(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 2, REMOVE);
	j = probe_madvise(a.p, a.page, (int)row->arg);
	probe_sleeps(j);
	PROBE_CHECK(probe_get(a.p) == PROBE_BYTE(0),
		    "the content is gone before the event was read");
	expect_remove(&a, a.p, a.page);
	PROBE_CHECK(!probe_done(j), "madvise: %ld", j->ret);
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
}

static void free_removes(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 2, REMOVE);
	j = probe_madvise(a.p, a.page, MADV_FREE);
	probe_sleeps(j);
	expect_remove(&a, a.p, a.page);
	PROBE_CHECK(!probe_done(j), "madvise: %ld", j->ret);
}

/* Nothing but the read lets the caller go: how often is the page still whole right after it? */
static void remove_race(PROBE_ARGS)
{
	unsigned int whole = 0, i;
	struct probe_area a;

	probe_arm(&a, kind, 2, REMOVE);
	for (i = 0; i < ROUNDS; i++) {
		struct probe_job *j;

		probe_release_range(a.fd, a.p, a.page);
		*(volatile char *)a.p = 1;
		j = probe_madvise(a.p, a.page, MADV_DONTNEED);
		probe_pending(a.fd);
		expect_remove(&a, a.p, a.page);
		whole += probe_get(a.p) == 1;
		PROBE_CHECK(!probe_done(j), "madvise: %ld", j->ret);
		PROBE_CHECK(!probe_get(a.p), "the content is still there");
	}
	probe_note("the old content was still there in %u of %u times, right after the read", whole,
		   i);
}

static void proc_syscall(PROBE_ARGS)
{
	char path[64], line[256] = "", want[64];
	struct probe_area a;
	struct probe_job *j;
	FILE *f;

	probe_arm(&a, kind, 1, REMOVE);
	j = probe_madvise(a.p, a.page, MADV_DONTNEED);
	probe_sleeps(j);
	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", j->tid);
	snprintf(want, sizeof(want), "%d 0x%lx 0x%zx 0x%x ", (int)SYS_madvise, (long)a.p, a.page,
		 MADV_DONTNEED);
	f = fopen(path, "re");
	if (!f || !fgets(line, sizeof(line), f))
		probe_unsupported("%s: %s", path, strerror(errno));
	PROBE_CHECK(!strncmp(line, want, strlen(want)), "it says %s", line);
	expect_remove(&a, a.p, a.page);
	probe_done(j);
}

/* ---- No event ---- */

static void no_event(const struct probe_area *a, struct probe_job *j, const char *what)
{
	PROBE_CHECK(probe_is_done(j, PROBE_WAIT_MS), "%s waits for an event to be read", what);
	if (j->ret == -EINVAL || j->ret == -EOPNOTSUPP)
		probe_unsupported("%s: %s", what, strerror((int)-j->ret));
	PROBE_CHECK(j->ret >= 0, "%s: %s", what, strerror((int)-j->ret));
	probe_silent(a->fd);
}

static void punch_hole(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 2, REMOVE | UNMAP);
	j = probe_call(SYS_fallocate, a.m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		       (long)a.page, 0);
	no_event(&a, j, "fallocate");
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
	PROBE_CHECK(probe_get(probe_at(&a, 1)) == PROBE_BYTE(1), "the next page is gone too");
}

static void truncated(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, REMOVE | UNMAP);
	no_event(&a, probe_call(SYS_ftruncate, a.m.fd, 0, 0, 0, 0), "ftruncate");
	PROBE_CHECK(probe_touch(a.p, false) == SIGBUS, "the page can still be read");
}

static void guard_install(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, REMOVE | UNMAP);
	no_event(&a, probe_madvise(a.p, a.page, MADV_GUARD_INSTALL), "MADV_GUARD_INSTALL");
	PROBE_CHECK(probe_touch(a.p, false) == SIGSEGV, "the page can still be read");
	no_event(&a, probe_madvise(a.p, a.page, MADV_GUARD_REMOVE), "MADV_GUARD_REMOVE");
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
	probe_escapes(&a, 0);
}

/* The zapped page leaves a marker, which is not the hole that the guard waits for. */
static void guard_spins(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 1, REMOVE | UNMAP);
	j = probe_madvise(a.p, a.page, MADV_GUARD_INSTALL);
	if (!probe_spins(j)) {
		no_event(&a, j, "MADV_GUARD_INSTALL");
		return probe_note("this kernel does not spin");
	}
	probe_silent(a.fd);
	probe_release_range(a.fd, a.p, a.page);
	PROBE_CHECK(!probe_done(j), "MADV_GUARD_INSTALL: %ld", j->ret);
	probe_note("this kernel spins");
}

static long do_map_over(struct probe_job *job)
{
	void *p = mmap((void *)job->arg[0], (size_t)job->arg[1], PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

static struct probe_job *map_over(const struct probe_area *a)
{
	return probe_start(do_map_over, (long)a->p, (long)a->page);
}

static void map_fixed(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, REMOVE);
	no_event(&a, map_over(&a), "mmap");
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
	probe_escapes(&a, 0);
	probe_caught(&a, 1);
}

/* ---- UNMAP ---- */

static bool is_mapped(const void *addr, size_t len)
{
	return !msync((void *)(uintptr_t)addr, len, MS_ASYNC) || errno != ENOMEM;
}

static void unmap_after(const struct probe_area *a, struct probe_job *j, bool gone)
{
	struct uffd_msg msg;

	probe_sleeps(j);
	PROBE_CHECK(is_mapped(a->p, a->page) != gone, "the old mapping is %s",
		    gone ? "there" : "gone");
	probe_event_message(a->fd, &msg, UFFD_EVENT_UNMAP);
	PROBE_CHECK(msg.arg.remove.start == (uintptr_t)a->p &&
			    msg.arg.remove.end == (uintptr_t)a->p + a->page,
		    "the event is about %#llx to %#llx", (unsigned long long)msg.arg.remove.start,
		    (unsigned long long)msg.arg.remove.end);
	probe_done(j);
}

static void unmap(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, UNMAP);
	unmap_after(&a, probe_call(SYS_munmap, (long)a.p, (long)a.page, 0, 0, 0), true);
	PROBE_CHECK(probe_get(probe_at(&a, 1)) == PROBE_BYTE(1), "the next page is gone too");
}

static void unmap_by_map_fixed(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 2, UNMAP);
	unmap_after(&a, map_over(&a), false);
	PROBE_CHECK(!probe_get(a.p), "the content is still there");
}

static void unmap_without(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;

	probe_arm(&a, kind, 2, REMOVE);
	j = probe_call(SYS_munmap, (long)a.p, (long)a.page, 0, 0, 0);
	no_event(&a, j, "munmap");
}

/* ---- REMAP ---- */

static char *room(size_t len, size_t align)
{
	char *p = mmap(NULL, len + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	PROBE_CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	return (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
}

static struct probe_job *move_to(const struct probe_area *a, char *to)
{
	return probe_call(SYS_mremap, (long)a->p, (long)a->len, (long)a->len,
			  MREMAP_MAYMOVE | MREMAP_FIXED, (long)to);
}

static void remap(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;
	struct uffd_msg msg;
	char *to;

	probe_arm(&a, kind, 2, REMAP);
	to = room(a.len, (size_t)2 << 20);
	j = move_to(&a, to);
	probe_sleeps(j);
	PROBE_CHECK(!is_mapped(a.p, a.page), "the old mapping is still there");
	PROBE_CHECK(probe_get(to) == PROBE_BYTE(0), "the content is not at the new address");
	probe_event_message(a.fd, &msg, UFFD_EVENT_REMAP);
	PROBE_CHECK(msg.arg.remap.from == (uintptr_t)a.p && msg.arg.remap.to == (uintptr_t)to &&
			    msg.arg.remap.len == a.len,
		    "the event's fields are wrong");
	PROBE_CHECK(probe_done(j) == (long)to, "mremap: %ld", j->ret);
	a.p = to;
	probe_caught(&a, 1);
}

static void remap_without(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *j;
	char *to;

	probe_arm(&a, kind, 2, 0);
	to = room(a.len, (size_t)2 << 20);
	j = move_to(&a, to);
	PROBE_CHECK(probe_done(j) == (long)to, "mremap: %ld", j->ret);
	a.p = to;
	probe_escapes(&a, 0);
	PROBE_CHECK(!probe_is_wp(probe_at(&a, 1)), "the bit is still set");
	probe_expect_err(probe_wp(a.fd, a.p, a.len, UFFDIO_WRITEPROTECT_MODE_WP), -ENOENT,
			 "protecting at the new address");
}

/* ---- FORK ---- */

static void fork_event(PROBE_ARGS)
{
	struct probe_area a, child;
	struct uffd_msg msg;
	struct probe_job *j;

	probe_arm(&a, kind, 1, UFFD_FEATURE_EVENT_FORK);
	j = probe_fork_job(a.p);
	probe_sleeps(j);
	probe_event_message(a.fd, &msg, UFFD_EVENT_FORK);
	child = a;
	child.fd = (int)msg.arg.fork.ufd;
	probe_fault_message(child.fd, child.p, PROBE_WP_FLAGS);
	probe_silent(a.fd);
	probe_release_range(child.fd, child.p, child.page);
	PROBE_CHECK(!probe_done(j), "the child failed");
	probe_caught(&a, 0);
}

static void fork_without(PROBE_ARGS)
{
	struct probe_area a;
	pid_t pid;

	probe_arm(&a, kind, 1, 0);
	pid = probe_fork();
	if (!pid) {
		*(volatile unsigned char *)a.p = PROBE_NEW;
		_exit(probe_is_wp(a.p));
	}
	PROBE_CHECK(!probe_reap(pid), "the child's bit is set");
	probe_silent(a.fd);
	PROBE_CHECK(probe_is_wp(a.p), "the parent's bit is gone");
	probe_caught(&a, 0);
}

#define OURS (PROBE_BIT(MEM_ANON) | PROBE_FILES)

static const struct probe_row rows[] = {
	{ .id = "event.dontneed",
	  .promise = "MADV_DONTNEED queues REMOVE before it discards, and its caller sleeps until "
		     "the event is read.",
	  .since = "4.11",
	  .needs = REMOVE,
	  .kinds = PROBE_ANON,
	  .arg = MADV_DONTNEED,
	  .check = remove_before },
	{ .id = "event.remove",
	  .promise = "MADV_REMOVE queues REMOVE before it discards, and its caller sleeps until "
		     "the event is read.",
	  .since = "4.11",
	  .needs = REMOVE,
	  .kinds = PROBE_SHARED,
	  .arg = MADV_REMOVE,
	  .check = remove_before },
	{ .id = "event.free",
	  .promise = "MADV_FREE sends REMOVE too.",
	  .since = "4.11",
	  .needs = REMOVE,
	  .kinds = PROBE_ANON,
	  .check = free_removes },
	{ .id = "event.remove-released-by-read",
	  .promise = "Reading REMOVE releases its caller; there is nothing to acknowledge, and the "
		     "content is gone soon: copying it then loses data now and then.",
	  .since = "4.11",
	  .library = "uffdwp_discard() saves first; a REMOVE event says that the content may be "
		     "gone.",
	  .needs = REMOVE,
	  .kinds = PROBE_ANON,
	  .check = remove_race },
	{ .id = "event.proc-syscall",
	  .promise = "While a REMOVE is unread, /proc/PID/task/TID/syscall shows the caller's "
		     "madvise and its range.",
	  .since = "4.11",
	  .needs = REMOVE,
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = proc_syscall },
	{ .id = "event.none-punch-hole",
	  .promise = "Punching a hole into the file discards content with no event.",
	  .since = "5.19",
	  .library = "uffdwp_discard() saves first; other ways can not be seen.",
	  .needs = REMOVE | UNMAP,
	  .kinds = PROBE_SHARED,
	  .check = punch_hole },
	{ .id = "event.none-truncate",
	  .promise = "Truncating the file discards content with no event.",
	  .since = "5.19",
	  .library = "none possible: do not truncate what is watched.",
	  .needs = REMOVE | UNMAP,
	  .kinds = PROBE_SHARED,
	  .check = truncated },
	{ .id = "event.none-guard",
	  .promise = "MADV_GUARD_INSTALL on anonymous memory sends no event; content and "
		     "protection are gone when the guard is removed.",
	  .since = "6.13",
	  .library = "none possible: do not install guards in what is watched.",
	  .needs = REMOVE | UNMAP,
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = guard_install },
	{ .id = "event.none-guard-file",
	  .promise = "MADV_GUARD_INSTALL on protected memory of a file sends no event either; "
		     "Linux 6.18 spins in it until the pages are unprotected.",
	  .since = "6.15",
	  .library = "none possible: do not install guards in what is watched.",
	  .needs = REMOVE | UNMAP,
	  .kinds = PROBE_SHMEM | PROBE_PRIVATE,
	  .check = guard_spins },
	{ .id = "event.none-map-fixed",
	  .promise = "Without EVENT_UNMAP, mmap with MAP_FIXED over the range replaces it with no "
		     "event.",
	  .since = "4.11",
	  .library = "EVENT_UNMAP is taken on request.",
	  .needs = REMOVE,
	  .kinds = OURS,
	  .check = map_fixed },
	{ .id = "event.none-unmap",
	  .promise = "Without EVENT_UNMAP, munmap sends nothing.",
	  .since = "4.11",
	  .library = "EVENT_UNMAP is taken on request.",
	  .needs = REMOVE,
	  .kinds = OURS,
	  .check = unmap_without },
	{ .id = "event.unmap",
	  .promise = "UNMAP comes after the mapping is gone; its caller sleeps until the event is "
		     "read.",
	  .since = "4.11",
	  .library = "the event is told as a fact, the region shrinks; nothing is saved then.",
	  .needs = UNMAP,
	  .kinds = OURS,
	  .check = unmap },
	{ .id = "event.unmap-map-fixed",
	  .promise = "With EVENT_UNMAP, mmap with MAP_FIXED over the range sends UNMAP, when the "
		     "new mapping is in its place.",
	  .since = "4.11",
	  .library = "as for munmap.",
	  .needs = UNMAP,
	  .kinds = OURS,
	  .check = unmap_by_map_fixed },
	{ .id = "event.remap",
	  .promise = "REMAP comes after the move, which takes registration and protection along; "
		     "its caller sleeps until the event is read.",
	  .since = "5.7",
	  .library = "the region is found at its new address before its operations hear of it.",
	  .needs = REMAP,
	  .kinds = PROBE_SMALL,
	  .check = remap },
	{ .id = "event.none-remap",
	  .promise = "Without EVENT_REMAP, mremap drops registration and protection, silently.",
	  .since = "5.7",
	  .library = "EVENT_REMAP is taken on request.",
	  .kinds = PROBE_SMALL,
	  .check = remap_without },
	{ .id = "event.fork",
	  .promise = "FORK brings a userfaultfd for the child, whose pages are registered and "
		     "protected as the parent's; fork() sleeps until it is read.",
	  .since = "5.7",
	  .library = "gives the child a handle, or leaves it alone, as asked.",
	  .needs = UFFD_FEATURE_EVENT_FORK,
	  .kinds = PROBE_ALL,
	  .check = fork_event },
	{ .id = "event.none-fork",
	  .promise = "Without EVENT_FORK the child's pages are not protected; the parent's stay "
		     "so.",
	  .since = "5.7",
	  .kinds = PROBE_ALL,
	  .check = fork_without },
};

const struct probe_group probe_event = {
	.name = "event",
	.title = "what is told of fork, mremap, discards and munmap, and when",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
