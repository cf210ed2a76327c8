/* SPDX-License-Identifier: MIT */
/*
 * Images for tests: the image sink driven as a snapshot does, with content that is known, and without
 * a snapshot.
 */
#ifndef TESTS_IMAGE_H
#define TESTS_IMAGE_H

#include <stddef.h>
#include <stdint.h>
#include <uffdwp/image.h>

#define IMAGE_SEALED UINT64_C(1700000000123456789)
#define IMAGE_STAGING (UINT64_C(1) << 20)

/* A region's content and what the snapshot would say of it. */
struct image_part {
	uint64_t addr, len, page_size;
	const char *data; /* len bytes */
};

/* A sink in use. */
struct image_maker {
	struct uffdwp_sink sink;
	struct uffdwp_sink_region *regions;
	size_t nregions;
	char *staging;
	uint64_t used;	       /* of staging */
	unsigned int inflight; /* writes */
	int err;	       /* the first one of a write */
	uint64_t random;
};

/* All return 0 or -errno. */
int image_begin(struct image_maker *m, const char *path, const struct uffdwp_image_opts *opts,
		const struct image_part *parts, size_t n);
int image_put(struct image_maker *m, uint32_t region, uint64_t offset, const void *data,
	      uint64_t len);
int image_zero(struct image_maker *m, uint32_t region, uint64_t offset, uint64_t len);
int image_drain(struct image_maker *m); /* the first error of a write */

/* verdict: enum uffdwp_snapshot_verdict; the sink is there for its statistics until image_free(). */
int image_end(struct image_maker *m, uint32_t verdict);
void image_free(struct image_maker *m);

/* Pages in pieces of random length, zeros as such. */
int image_put_part(struct image_maker *m, uint32_t region, const struct image_part *part);

/* From begin to free. */
int image_make(const char *path, const struct uffdwp_image_opts *opts,
	       const struct image_part *parts, size_t n);

/* Fills with pages that differ; about one in zeros stays all zeros; 0: none. */
void image_fill(char *data, uint64_t len, uint64_t seed, unsigned int zeros);

#endif
