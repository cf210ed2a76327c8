/* SPDX-License-Identifier: MIT */
/*
 * Where images go. What is called a disk must not be memory, and there must be room, in the file system and,
 * for tmpfs, in memory: a bench that swaps or runs out of it measures something else.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "place.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

static const struct {
	long magic;
	const char *name;
} types[] = {
	{ TMPFS_MAGIC, "tmpfs" },
	{ EXT4_SUPER_MAGIC, "ext4" },
	{ XFS_SUPER_MAGIC, "xfs" },
	{ BTRFS_SUPER_MAGIC, "btrfs" },
	{ OVERLAYFS_SUPER_MAGIC, "overlay" },
};

static const char *type_name(long magic)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].magic == magic)
			return types[i].name;
	return "another file system";
}

static uint64_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[256];

	if (!f)
		die("/proc/meminfo", errno);
	while (fgets(line, sizeof(line), f) && sscanf(line, "MemAvailable: %" SCNu64, &kib) != 1)
		;
	fclose(f);
	return kib << 10;
}

/* ---- A directory that does not outlive this process ---- */

static char own[3072]; /* empty: none */

void place_leave(void)
{
	DIR *dir = own[0] ? opendir(own) : NULL;
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	if (own[0])
		rmdir(own);
	own[0] = '\0';
}

/* A thread, because a signal handler may not look through a directory. */
static void *wait_for_signals(void *arg)
{
	int nr = 0;

	sigwait(arg, &nr);
	place_leave();
	_exit(128 + nr);
}

/* Before there are other threads, so that all of them block the signals. */
static void prepare(void)
{
	static sigset_t ends;
	pthread_t thread;

	if (sigismember(&ends, SIGINT) == 1)
		return;
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGHUP);
	if (pthread_sigmask(SIG_BLOCK, &ends, NULL) || atexit(place_leave) ||
	    pthread_create(&thread, NULL, wait_for_signals, &ends))
		die("a thread for signals", EAGAIN);
	pthread_detach(thread);
}

static void make_own(struct place *p)
{
	prepare();
	place_leave();
	snprintf(own, sizeof(own), "%s/uffd-bench.XXXXXX", p->dir);
	if (!mkdtemp(own)) {
		own[0] = '\0';
		die(p->dir, errno);
	}
	snprintf(p->path, sizeof(p->path), "%s/image", own);
}

bool place_find(struct place *p, unsigned int to, const struct bench_opts *o, size_t bytes)
{
	const char *dir = to == TO_TMPFS ? "/dev/shm" : o->dir;
	bool memory;
	struct statfs fs;

	*p = (struct place){ .to = to, .dir = dir };
	if (statfs(dir, &fs)) {
		fprintf(stderr, "uffd-bench: unsupported: %s: %s\n", dir, strerror(errno));
		return false;
	}
	p->type = type_name((long)fs.f_type);
	memory = (long)fs.f_type == TMPFS_MAGIC;
	if (memory != (to == TO_TMPFS)) {
		fprintf(stderr, "uffd-bench: unsupported: %s is %s; see --dir\n", dir, p->type);
		return false;
	}
	if ((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < bytes + bytes / 8 ||
	    (memory && memory_available() < bytes + bytes / 8)) {
		fprintf(stderr, "uffd-bench: unsupported: no room for %zu MiB in %s\n", bytes >> 20,
			dir);
		return false;
	}
	make_own(p);
	return true;
}
