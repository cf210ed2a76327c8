/* SPDX-License-Identifier: MIT */
/* For the live tests of restore: an image that fits the test's memory, and comparing with it. */
#ifndef TESTS_RESTORE_H
#define TESTS_RESTORE_H

#include "image.h"
#include "live.h"

struct restored {
	struct live *t;
	char path[128]; /* of the image */
	char *data;	/* what is in it */
	uint64_t size;	/* bytes that are not zeros */
	struct uffdwp_image *img;
	struct uffdwp *h;
	struct live_server server;
	uint64_t addr; /* of the memory */
};

/* Makes the image: pages that differ, zeros among them, all of a huge page too; opens it. */
void restored_make(struct restored *c, struct live *t);

/* Opens a handle for the memory; extra: further features, masked: those it shall not have. */
void restored_open(struct restored *c, uint32_t serve, uint64_t extra, uint64_t masked);
/* The same with so many threads of the library's. */
void restored_open_threads(struct restored *c, uint32_t threads, uint64_t extra);

/* Starts, with image, handle and addrs filled in, or ends the test. */
struct uffdwp_restore *restored_start(struct restored *c, struct uffdwp_restore_opts *o);

/* Compares every byte, from several threads in different orders. */
void restored_compare(struct restored *c);

/* Closes all, removes the image. */
void restored_end(struct restored *c);

/* Overwrites a few bytes of the image at this offset of the memory. */
void restored_damage(struct restored *c, uint64_t offset);

#endif
