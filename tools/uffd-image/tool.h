/* SPDX-License-Identifier: MIT */
/* What the commands of uffd-image share. */
#ifndef UFFD_IMAGE_TOOL_H
#define UFFD_IMAGE_TOOL_H

#include <stdbool.h>
#include <stdint.h>
#include <uffdwp/image.h>

enum { EXIT_WELL = 0, EXIT_WRONG = 1, EXIT_MISUSE = 2, EXIT_UNSUPPORTED = 77, EXIT_HARNESS = 99 };

struct tool {
	const char *file;
	const char *output; /* NULL: standard output */
	int64_t region;	    /* -1: not said */
	bool json;
	struct uffdwp_image *img;
	struct uffdwp_image_info info;
};

/* The commands: an exit code each, with the image open. */
int tool_info(struct tool *t);
int tool_verify(struct tool *t);
int tool_extract(struct tool *t);

/* Says what is wrong, on standard error and with --json as an object too, and returns the exit code. */
int tool_fail(const struct tool *t, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The text as a JSON string, with its quotes. */
void tool_json_string(const char *text);

#endif
