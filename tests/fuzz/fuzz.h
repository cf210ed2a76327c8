/* SPDX-License-Identifier: MIT */
/* What the fuzzer's targets share. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Also where assertions are off. */
#define FUZZ_REQUIRE(x)                                                                 \
	do {                                                                            \
		if (!(x)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x); \
			abort();                                                        \
		}                                                                       \
	} while (0)

/* Entries of a directory of /proc. */
static inline unsigned int fuzz_count(const char *path)
{
	DIR *d = opendir(path);
	unsigned int n = 0;

	FUZZ_REQUIRE(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

#endif
