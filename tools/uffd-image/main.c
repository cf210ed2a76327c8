/* SPDX-License-Identifier: MIT */
/*
 * uffd-image: looks at the images that libuffdwp-image writes. This file reads the command line, opens the
 * image, and says what is wrong.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

static const struct {
	const char *name;
	int (*run)(struct tool *t);
} commands[] = { { "info", tool_info }, { "verify", tool_verify }, { "extract", tool_extract } };

#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

enum { OPT_REGION = 1, OPT_OUTPUT, OPT_JSON, OPT_HELP, OPT_VERSION };

static const struct option long_options[] = {
	{ "region", required_argument, NULL, OPT_REGION },
	{ "output", required_argument, NULL, OPT_OUTPUT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ NULL, 0, NULL, 0 },
};

static void usage(FILE *to)
{
	fprintf(to,
		"usage: uffd-image info|verify|extract [options] FILE\n\n"
		"  info           what is in the image\n"
		"  verify         read every page and check it\n"
		"  extract        write the memory of a region\n\n"
		"Options:\n"
		"  --region=N     extract: which one; needed where there are several\n"
		"  --output=PATH  extract: to this file, with holes, and not to standard output\n"
		"  --json         info, verify: one JSON object a line\n"
		"  --help         print this\n"
		"  --version      print the version\n\n"
		"Exits 0 if all is well, 1 if the image is damaged or no image, 2 on misuse,\n"
		"77 if it is of a format that this version does not know, 99 if it can not be read.\n");
}

static int misuse(const char *what, const char *arg)
{
	fprintf(stderr, "uffd-image: %s%s\n", what, arg);
	fprintf(stderr, "Try uffd-image --help.\n");
	return EXIT_MISUSE;
}

void tool_json_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

int tool_fail(const struct tool *t, int err, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "uffd-image: %s: %s\n", t->file, text);
	if (t->json) {
		printf("{\"schema\":1,\"file\":");
		tool_json_string(t->file);
		printf(",\"ok\":false,\"errno\":%d,\"error\":", -err);
		tool_json_string(text);
		printf("}\n");
	}
	if (err == -EBADMSG)
		return EXIT_WRONG;
	return err == -EOPNOTSUPP ? EXIT_UNSUPPORTED : EXIT_HARNESS;
}

static bool parse_region(const char *text, int64_t *region)
{
	char *end;

	errno = 0;
	*region = strtol(text, &end, 10);
	return text[0] >= '0' && text[0] <= '9' && !*end && !errno && *region <= UINT32_MAX;
}

/* -1: go on; else exit with it. */
static int parse(struct tool *t, int argc, char **argv)
{
	int opt;

	t->region = -1;
	while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (opt) {
		case OPT_REGION:
			if (!parse_region(optarg, &t->region))
				return misuse("--region: must be a number, not ", optarg);
			break;
		case OPT_OUTPUT:
			t->output = optarg;
			break;
		case OPT_JSON:
			t->json = true;
			break;
		case OPT_HELP:
			usage(stdout);
			return EXIT_WELL;
		case OPT_VERSION:
			printf("uffd-image %s\n", uffdwp_version());
			return EXIT_WELL;
		default:
			return misuse("that option needs --help", "");
		}
	}
	return -1;
}

static int run(struct tool *t, int (*command)(struct tool *t))
{
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = sizeof(why) };
	int code, err = uffdwp_image_open(&t->img, t->file, &o);

	if (err)
		return tool_fail(t, err, "%s", why[0] ? why : strerror(-err));
	t->info.sz = sizeof(t->info);
	uffdwp_image_info(t->img, &t->info);
	code = command(t);
	uffdwp_image_close(t->img);
	if (fflush(stdout) && code == EXIT_WELL)
		code = tool_fail(t, -errno, "standard output: %s", strerror(errno));
	return code;
}

int main(int argc, char **argv)
{
	struct tool t = { 0 };
	int code = parse(&t, argc, argv);
	size_t i = 0;

	if (code >= 0)
		return code;
	if (optind >= argc)
		return misuse("no command", "");
	while (i < NCOMMANDS && strcmp(commands[i].name, argv[optind]) != 0)
		i++;
	if (i == NCOMMANDS)
		return misuse("no such command: ", argv[optind]);
	if (optind + 2 != argc)
		return misuse("needs one FILE", "");
	if (commands[i].run != tool_extract && (t.output || t.region >= 0))
		return misuse("--region and --output are for extract alone", "");
	if (commands[i].run == tool_extract && t.json)
		return misuse("--json is for info and verify alone", "");
	t.file = argv[optind + 1];
	return run(&t, commands[i].run);
}
