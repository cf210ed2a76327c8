/* SPDX-License-Identifier: MIT */
/*
 * A sink into a plain file, one region after the other, zeros as holes. The file is emptied first,
 * so that only what is written over needs a hole made.
 */
#include <errno.h>
#include <string.h>

#include "sys.h"
#include "uffdwp/snapshot.h"
#include "util.h"

struct file {
	int fd;
	bool rewrites;
	uint64_t size;	  /* of the file */
	uint64_t *offset; /* of each region in it */
	size_t offset_size;
};

static int file_begin(void *ctx, const struct uffdwp_sink_layout *layout)
{
	struct file *f = ctx;
	int err;

	f->offset_size = layout->nregions * sizeof(*f->offset);
	f->offset = uffdwp__sys_alloc(f->offset_size);
	if (!f->offset)
		return -ENOMEM;
	f->rewrites = layout->rewrites;
	for (size_t i = 0; i < layout->nregions; i++) {
		f->offset[i] = f->size;
		f->size += layout->regions[i].len;
	}
	err = uffdwp__sys_truncate(f->fd, 0);
	return err ? err : uffdwp__sys_truncate(f->fd, f->size);
}

static int file_write(void *ctx, struct uffdwp_sink_write *w)
{
	const struct file *f = ctx;

	return uffdwp__sys_write_at(f->fd, w->data, w->len, f->offset[w->region] + w->offset);
}

/* A file system without holes gets zeros. */
static int fill(const struct file *f, uint64_t at, uint64_t len)
{
	static const char zeros[4096];
	int err = 0;

	for (uint64_t pos = 0; !err && pos < len; pos += sizeof(zeros))
		err = uffdwp__sys_write_at(f->fd, zeros, min_u64(len - pos, sizeof(zeros)),
					   at + pos);
	return err;
}

static int file_zero(void *ctx, uint32_t region, uint64_t offset, uint64_t len)
{
	const struct file *f = ctx;
	int err;

	if (!f->rewrites)
		return 0;
	err = uffdwp__sys_make_hole(f->fd, f->offset[region] + offset, len);
	return err == -EOPNOTSUPP ? fill(f, f->offset[region] + offset, len) : err;
}

static int file_end(void *ctx, const struct uffdwp_snapshot_result *result)
{
	const struct file *f = ctx;

	if (result->verdict == UFFDWP_SNAPSHOT_COMPLETE)
		return uffdwp__sys_sync(f->fd);
	/* Half an image is none. */
	uffdwp__sys_truncate(f->fd, 0);
	return 0;
}

static void file_free(void *ctx)
{
	struct file *f = ctx;

	uffdwp__sys_free(f->offset, f->offset_size);
	uffdwp__sys_free(f, sizeof(*f));
}

UFFDWP_PUBLIC __cold int uffdwp_sink_file(struct uffdwp_sink *out, int fd)
{
	struct file *f;
	int err;

	if (!out)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	err = uffdwp__sys_is_file(fd);
	if (err)
		return err;
	f = uffdwp__sys_alloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->fd = fd;
	*out = (struct uffdwp_sink){ .sz = sizeof(*out),
				     .ctx = f,
				     .begin = file_begin,
				     .write = file_write,
				     .zero = file_zero,
				     .end = file_end,
				     .free = file_free };
	return 0;
}
