/* SPDX-License-Identifier: MIT */
/* uffd-image extract: the memory of one region as a plain file, every page checked on the way. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define PIECE (UINT64_C(1) << 20)
#define HOLE 65536 /* zeros of so many bytes are not written where that can be left out */

struct out {
	int fd;
	bool holes; /* a regular file: seek over zeros */
};

static bool is_zero(const char *p, size_t len)
{
	return !*p && !memcmp(p, p + 1, len - 1);
}

static int write_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int put(const struct out *o, const char *p, uint64_t len)
{
	int err = 0;

	for (uint64_t at = 0; !err && at < len; at += HOLE) {
		size_t n = len - at < HOLE ? len - at : HOLE;

		if (o->holes && is_zero(p + at, n))
			err = lseek(o->fd, (off_t)n, SEEK_CUR) < 0 ? -errno : 0;
		else
			err = write_all(o->fd, p + at, n);
	}
	return err;
}

static int extract(struct tool *t, const struct out *o, uint32_t region, uint64_t len, char *buf)
{
	uint64_t bad = 0, n;

	for (uint64_t at = 0; at < len; at += n) {
		int err;

		n = len - at < PIECE ? len - at : PIECE;
		err = uffdwp_image_read(t->img, region, at, buf, n, &bad);
		if (err)
			return tool_fail(t, err, "region %" PRIu32 " at offset %" PRIu64 ": %s",
					 region, bad, strerror(-err));
		err = put(o, buf, n);
		if (err)
			return tool_fail(t, err, "%s: %s",
					 t->output ? t->output : "standard output", strerror(-err));
	}
	/* What ends with zeros must have its length all the same. */
	if (o->holes && ftruncate(o->fd, (off_t)len))
		return tool_fail(t, -errno, "%s: %s", t->output, strerror(errno));
	return EXIT_WELL;
}

static int choose(const struct tool *t, uint32_t *region)
{
	if (t->region < 0 && t->info.regions > 1) {
		fprintf(stderr, "uffd-image: %s has %" PRIu32 " regions: --region must say which\n",
			t->file, t->info.regions);
		return EXIT_MISUSE;
	}
	if (t->region >= (int64_t)t->info.regions) {
		fprintf(stderr, "uffd-image: --region: %s has %" PRIu32 " regions, from 0 on\n",
			t->file, t->info.regions);
		return EXIT_MISUSE;
	}
	*region = t->region < 0 ? 0 : (uint32_t)t->region;
	return EXIT_WELL;
}

static int open_out(const struct tool *t, struct out *o)
{
	struct stat st;

	o->fd = STDOUT_FILENO;
	if (!t->output && isatty(o->fd)) {
		fprintf(stderr, "uffd-image: memory on a terminal? Use --output, or a pipe.\n");
		return EXIT_MISUSE;
	}
	if (t->output)
		o->fd = open(t->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (o->fd < 0 || fstat(o->fd, &st))
		return tool_fail(t, -errno, "%s: %s", t->output, strerror(errno));
	/* Standard output may be a file that somebody appends to. */
	o->holes = t->output && S_ISREG(st.st_mode);
	return EXIT_WELL;
}

int tool_extract(struct tool *t)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	uint32_t region = 0;
	struct out o = { .fd = -1 };
	char *buf;
	int code = choose(t, &region);

	if (code == EXIT_WELL)
		code = open_out(t, &o);
	if (code != EXIT_WELL)
		return code;
	uffdwp_image_region(t->img, region, &r);
	buf = malloc(PIECE);
	code = buf ? extract(t, &o, region, r.len, buf) : EXIT_HARNESS;
	free(buf);
	if (t->output && close(o.fd) && code == EXIT_WELL)
		code = tool_fail(t, -errno, "%s: %s", t->output, strerror(errno));
	/* Half a file is not to be taken for one. */
	if (o.holes && code != EXIT_WELL)
		unlink(t->output);
	return code;
}
