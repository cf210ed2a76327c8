/* SPDX-License-Identifier: MIT */
/*
 * A file that appears under its name at once and whole: it is written under another name next to it, made
 * durable, and renamed.
 */
#ifndef UFFDWP_IMAGE_NEWFILE_H
#define UFFDWP_IMAGE_NEWFILE_H

#include "opts.h"

#include <sys/types.h>

struct uffdwp__newfile {
	int fd;	 /* open for reading and writing, locked by flock(2); -1: none */
	int dir; /* the directory */
	pid_t owner;
	char name[256], temp[256]; /* temp: ".NAME.XXXXXX"; "" when it is not there */
};

/* 0 or -errno, with the reason. */
int uffdwp__newfile_create(struct uffdwp__newfile *f, const char *path, uint32_t mode,
			   struct uffdwp__why *why);

/* All that was written is durable under the final name when it returns 0. */
int uffdwp__newfile_publish(struct uffdwp__newfile *f);

/* Closes; removes what was not published. In a forked child the file is the parent's and stays. */
void uffdwp__newfile_close(struct uffdwp__newfile *f);

/* The same file with an offset and flags of its own; -1, and errno: without /proc, or not permitted. */
int uffdwp__reopen(int fd, int flags);

#endif
