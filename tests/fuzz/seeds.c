/* SPDX-License-Identifier: MIT */
/* Writes the fuzzer's first inputs to a directory: small images of every shape, as it wants them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/image.h"

#define HOWS 8 /* what the first byte can say, see image.c */

static char pages[6 * 4096];

static const struct {
	const char *name;
	size_t n;
	int32_t pid;
	struct image_part part[3];
} seeds[] = {
	{ "one", 1, -1, { { 4096, 4096, 4096, pages } } },
	{ "program", 1, 0, { { 0x400000, 2 * 4096, 4096, pages } } },
	{ "large-pages", 1, -1, { { 0x10000, 4 * 4096, 4 * 4096, pages } } },
	{ "three",
	  3,
	  -1,
	  { { 0x30000, 6 * 4096, 4096, pages },
	    { 0x20000, 4096, 4096, pages },
	    { 0x10000, 2 * 4096, 8192, pages } } },
};

/* The file, behind the byte that says what to do with it. */
static int put(const char *dir, const char *name, int how, const char *image)
{
	static char buf[1 << 20];
	char path[512];
	FILE *in = fopen(image, "rb"), *out;
	size_t n;

	if (!in)
		return 1;
	n = fread(buf, 1, sizeof(buf), in);
	fclose(in);
	(void)snprintf(path, sizeof(path), "%s/%s-%d", dir, name, how);
	out = fopen(path, "wb");
	if (!out)
		return 1;
	fputc(how, out);
	fwrite(buf, 1, n, out);
	return fclose(out) != 0;
}

int main(int argc, char **argv)
{
	char path[512];
	int bad = argc != 2;

	if (bad)
		return 2;
	(void)snprintf(path, sizeof(path), "%s/image", argv[1]);
	image_fill(pages, sizeof(pages), 1, 3);
	for (size_t i = 0; !bad && i < sizeof(seeds) / sizeof(seeds[0]); i++) {
		struct uffdwp_image_opts o = { .sz = sizeof(o), .pid = seeds[i].pid };

		bad = image_make(path, &o, seeds[i].part, seeds[i].n);
		for (int how = 0; !bad && how < HOWS; how++)
			bad = put(argv[1], seeds[i].name, how, path);
		bad = unlink(path) || bad;
	}
	return bad ? 1 : 0;
}
