/* SPDX-License-Identifier: MIT */
/*
 * What live_snapshot.c is compared with: fork(2) gives a child the memory of that instant, and the child
 * writes it to a file. Whichever page is written first meanwhile, by whoever, the kernel copies.
 */
#ifndef KV_FORK_H
#define KV_FORK_H

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "kv_report.h"

static inline int kv_write(int fd, const char *data, size_t len)
{
	size_t piece = 4 << 20;
	ssize_t n;

	for (; len > 0; data += n, len -= (size_t)n) {
		n = write(fd, data, len < piece ? len : piece);
		if (n <= 0)
			return 1;
	}
	return fsync(fd) != 0;
}

/* 0, or -errno. */
static inline int kv_fork(struct kv *kv, const char *path, struct kv_run *run)
{
	int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, status = 1;
	int fd = open(path, flags | O_DIRECT, 0600);
	uint64_t begin;
	pid_t pid;

	if (fd < 0)
		fd = open(path, flags, 0600);
	if (fd < 0)
		return -errno;
	kv_pause(kv);
	begin = kv_now();
	pid = fork();
	if (pid == 0)
		_exit(kv_write(fd, (char *)kv->records, kv_bytes(kv)));
	run->pause_us = (double)(kv_now() - begin) / 1e3;
	run->at = kv_instant(kv);
	kv_resume(kv);
	if (pid > 0 && waitpid(pid, &status, 0) != pid)
		status = 1;
	close(fd);
	run->title = "fork + write";
	run->wait_us = -1;
	return status ? -EIO : 0;
}

#endif
