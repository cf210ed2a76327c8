/* SPDX-License-Identifier: MIT */
/*
 * A saver: one way to write memory to a file as it was at one instant, while a load runs on it. It enters
 * LOAD_DURING when it begins, pauses the load for the instant, and returns when the file is complete and on
 * stable storage. Savers take turns; what each wrote is compared with what the memory held.
 */
#ifndef SAVER_H
#define SAVER_H

#include <uffdwp/snapshot.h>

#include "load.h"

struct saving {
	struct load *load;
	const char *path; /* of the file to write; nothing is there */
	char *reason;	  /* why it can not */
	size_t reason_size;
	/* Results. */
	double pause_ns, extra_bytes; /* extra memory, at its peak */
	uint64_t offset;	      /* of the memory in the file */
	struct load_instant at;
	struct uffdwp_snapshot_result result; /* of the library */
};

struct saver {
	const char *name;
	const char *serve; /* of the library's, in words */
	bool no_instant; /* what it writes is from no instant: a plain copy, to compare the speed */
	int (*save)(struct saving *s);
};

extern const struct saver saver_cow, saver_precopy;	      /* saver-lib.c */
extern const struct saver saver_fork, saver_all, saver_plain; /* saver-raw.c, saver-fork.c */

/* The memory's offset in an image of the library, by the ELF header alone; 0: it is not there. */
uint64_t image_offset(int fd, uint64_t addr);

/* ---- saver-fork.c ---- */

/* A new file, O_DIRECT where the file system has it, or -errno. */
int saver_create(const char *path, bool direct);
/* All of it, in large pieces, then fsync. False in error. Safe in a forked child. */
bool saver_write(int fd, const char *data, size_t len);
/* VmRSS and VmPTE of a process, in bytes. */
void saver_usage(int pid, uint64_t *resident, uint64_t *tables);

#endif
