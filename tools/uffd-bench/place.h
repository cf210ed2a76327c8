/* SPDX-License-Identifier: MIT */
/*
 * Where images go: a directory on a disk, or on tmpfs.
 */
#ifndef PLACE_H
#define PLACE_H

#include "bench.h"

struct place {
	unsigned int to; /* enum bench_to */
	const char *dir;
	const char *type; /* of the file system, in words */
	char path[4096];  /* of the file to write, in a directory of its own */
};

/*
 * False, after having said why on stderr: not the type it is meant to be, or no room for bytes. One place at a
 * time; what is in it goes with it, also when the program ends or is interrupted.
 */
bool place_find(struct place *p, unsigned int to, const struct bench_opts *o, size_t bytes);
void place_leave(void);

#endif
