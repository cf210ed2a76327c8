/* SPDX-License-Identifier: MIT */
/*
 * The sink that writes an image.
 *
 * DESIGN
 *
 * The regions are known at begin(), and with them where each page goes, so a page can be written, and
 * written again, in place and in any order. Its checksum goes into the table in memory at the same
 * time. Writes wait for their neighbours first (gather.h); what stays small goes through the page cache.
 * What was written by one way may be written again by the other: the kernel sees to that, as long as
 * the first is over, as snapshot.h promises. fsync(2) tells what went wrong in either. The header comes last, after everything else: without it the file is no image, whoever finds it.
 *
 * Zeros are what a new file has. Only where a page was written before and is zeros now is there
 * something to do: it is marked, and becomes a hole at the end, with its neighbours at once.
 *
 * One thread at a time calls, as snapshot.h promises; there are no locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <uffdwp/image.h>

#include "format.h"
#include "gather.h"
#include "newfile.h"

#define DEPTH_DEFAULT 32
#define DEPTH_MAX 1024

struct sink {
	struct uffdwp_image_opts o;
	struct uffdwp__process process;
	struct uffdwp__newfile file;
	struct uffdwp__meta meta;
	struct uffdwp__queue queue;
	bool queued; /* the queue was made */
	struct uffdwp__gather gather;
	uint32_t *table; /* meta.table_size bytes */
	struct uffdwp_image_stats stats;
};

/* ---- The life of a sink ---- */

static int write_all(int fd, const void *buf, size_t len, uint64_t offset)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(fd, (const char *)buf + done, len - done,
				   (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

static int take_layout(struct uffdwp__meta *m, const struct uffdwp_sink_layout *layout)
{
	if (layout->nregions > UFFDWP__REGIONS_MAX)
		return -EINVAL;
	m->version = UFFDWP__IMAGE_VERSION;
	m->machine = uffdwp__machine();
	m->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	m->nregions = (uint32_t)layout->nregions;
	m->regions = calloc(layout->nregions, sizeof(*m->regions));
	if (!m->regions)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->nregions; i++) {
		m->regions[i].addr = layout->regions[i].addr;
		m->regions[i].len = layout->regions[i].len;
		m->regions[i].page_size = layout->regions[i].page_size;
	}
	return 0;
}

/*
 * Whether no block of the file holds two pages: one would be written through the cache while the
 * other is not.
 */
static bool blocks_fit(const struct sink *s)
{
	struct stat st;

	return !fstat(s->file.fd, &st) && st.st_blksize > 0 &&
	       (uint64_t)st.st_blksize <= s->meta.page_size;
}

/* Where a write is a copy, which the kernel would have a thread of its own make, on a CPU that others want. */
static bool is_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static int begin(void *ctx, const struct uffdwp_sink_layout *layout)
{
	struct uffdwp__why none = { 0 };
	struct sink *s = ctx;
	int err = take_layout(&s->meta, layout);

	if (!err)
		err = uffdwp__meta_layout(&s->meta, uffdwp__process_notes_size(&s->process), &none);
	if (err)
		return err;
	s->table = mmap(NULL, s->meta.table_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->table == MAP_FAILED) {
		s->table = NULL;
		return -ENOMEM;
	}
	do
		err = ftruncate(s->file.fd, (off_t)s->meta.file_size) ? -errno : 0;
	while (err == -EINTR);
	if (err)
		return err;
	if (!s->o.depth && !is_memory(s->file.fd))
		s->o.depth = DEPTH_DEFAULT;
	err = uffdwp__queue_init(&s->queue, s->file.fd, s->o.depth, !s->o.buffered, layout->staging,
				 layout->staging_size);
	if (err)
		return err;
	s->queued = true;
	s->stats.registered = s->queue.registered;
	if (s->queue.direct && blocks_fit(s))
		s->queue.cached = uffdwp__reopen(s->file.fd, O_WRONLY);
	return uffdwp__gather_init(&s->gather, &s->queue, layout->staging, layout->staging_size);
}

static void end_queue(struct sink *s)
{
	if (s->queued && s->queue.cached >= 0)
		close(s->queue.cached);
	if (s->queued)
		uffdwp__queue_exit(&s->queue);
	uffdwp__gather_exit(&s->gather);
	s->queued = false;
}

static void sink_free(void *ctx)
{
	struct sink *s = ctx;

	end_queue(s);
	uffdwp__newfile_close(&s->file);
	if (s->table)
		munmap(s->table, s->meta.table_size);
	free(s->meta.regions);
	free(s);
}

/* ---- Pages ---- */

/* The entries of a range, and how many; NULL: there is no such range. */
static uint32_t *entries(struct sink *s, uint32_t region, uint64_t offset, uint64_t len,
			 uint64_t *n)
{
	const struct uffdwp__extent *e;

	if (region >= s->meta.nregions)
		return NULL;
	e = &s->meta.regions[region];
	if ((offset | len) & (s->meta.page_size - 1) || offset > e->len || len > e->len - offset)
		return NULL;
	*n = len >> s->meta.shift;
	return s->table + e->first + (offset >> s->meta.shift);
}

static int sink_write(void *ctx, struct uffdwp_sink_write *w)
{
	struct sink *s = ctx;
	uint64_t n = 0;
	uint32_t *e = entries(s, w->region, w->offset, w->len, &n);
	int err;

	if (!e || !n)
		return e ? 0 : -EINVAL;
	err = uffdwp__gather_add(&s->gather, w, s->meta.regions[w->region].offset + w->offset);
	if (err)
		return err;
	uffdwp__entries(w->data, s->meta.page_size, n, e);
	s->stats.bytes += w->len;
	return UFFDWP_SINK_LATER;
}

static int sink_zero(void *ctx, uint32_t region, uint64_t offset, uint64_t len)
{
	struct sink *s = ctx;
	uint64_t n = 0;
	uint32_t *e = entries(s, region, offset, len, &n);

	if (!e)
		return -EINVAL;
	/* Only read: memory of the table that was never written stays away. */
	for (uint64_t i = 0; i < n; i++)
		if (e[i] != UFFDWP__PAGE_ZERO)
			e[i] = UFFDWP__PAGE_STALE;
	return 0;
}

static int sink_wait(void *ctx, unsigned int ms)
{
	struct sink *s = ctx;

	uffdwp__gather_wait(&s->gather, (int)(ms > INT32_MAX ? INT32_MAX : ms));
	return 0;
}

/* ---- The end ---- */

/* Where the file system can not make holes, zeros are written. */
static int punch(struct sink *s, uint64_t offset, uint64_t len)
{
	static const char zeros[65536];
	int err = 0;

	if (!fallocate(s->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		       (off_t)len))
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
		return -errno;
	for (uint64_t pos = 0; !err && pos < len; pos += sizeof(zeros))
		err = write_all(s->file.fd, zeros, min_u64(sizeof(zeros), len - pos), offset + pos);
	return err;
}

/* Makes holes of the pages of a region that were written and became zeros. */
static int punch_region(struct sink *s, const struct uffdwp__extent *r)
{
	uint64_t pages = r->len >> s->meta.shift, n;
	uint32_t *e = s->table + r->first;
	int err = 0;

	for (uint64_t i = 0; !err && i < pages; i += n) {
		for (n = 0; i + n < pages && e[i + n] == UFFDWP__PAGE_STALE; n++)
			e[i + n] = UFFDWP__PAGE_ZERO;
		if (n)
			err = punch(s, r->offset + (i << s->meta.shift), n << s->meta.shift);
		else
			n = 1;
	}
	return err;
}

/* How many pages of each region are data, now that it is settled. */
static void count_data(struct sink *s)
{
	struct uffdwp__meta *m = &s->meta;

	for (uint32_t i = 0; i < m->nregions; i++) {
		struct uffdwp__extent *r = &m->regions[i];
		const uint32_t *e = s->table + r->first;

		for (uint64_t k = 0; k < r->len >> m->shift; k++)
			r->data += e[k] ? m->page_size : 0;
	}
}

/* A page of the index, and the blocks of the table that it is of. */
static int write_blocks(struct sink *s, uint64_t block, uint64_t n, struct uffdwp__index *index)
{
	int err = 0;

	for (uint64_t i = 0; !err && i < n; i++) {
		const uint32_t *e = s->table + (block + i) * UFFDWP__BLOCK;
		uint64_t size = UFFDWP__BLOCK * sizeof(*e);

		index[i] = uffdwp__index_of(e);
		if (index[i].data)
			err = write_all(s->file.fd, e, size,
					s->meta.table_offset + (block + i) * size);
	}
	return err;
}

static bool any_data(const struct uffdwp__index *index, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (index[i].data)
			return true;
	return false;
}

static int write_table(struct sink *s)
{
	struct uffdwp__meta *m = &s->meta;
	uint64_t per_page = m->page_size / sizeof(struct uffdwp__index), n;
	uint64_t blocks = uffdwp__blocks(m);
	struct uffdwp__index *index = malloc(m->page_size);
	struct uffdwp__index_crc crc;
	int err = index ? 0 : -ENOMEM;

	uffdwp__index_crc_begin(&crc, m->page_size);
	for (uint64_t b = 0; !err && b < blocks; b += per_page) {
		memset(index, 0, m->page_size);
		n = min_u64(per_page, blocks - b);
		err = write_blocks(s, b, n, index);
		uffdwp__index_crc_add(&crc, any_data(index, n) ? index : NULL);
		if (!err && any_data(index, n))
			err = write_all(s->file.fd, index, m->page_size,
					m->index_offset + b * sizeof(*index));
	}
	free(index);
	m->index_crc = crc.crc;
	return err;
}

static int write_header(struct sink *s)
{
	void *buf = malloc(s->meta.header_size);
	int err;

	if (!buf)
		return -ENOMEM;
	uffdwp__meta_encode(&s->meta, &s->process, buf);
	err = write_all(s->file.fd, buf, s->meta.header_size, 0);
	free(buf);
	return err;
}

static void note_size_on_disk(struct sink *s)
{
	struct stat st;

	if (fstat(s->file.fd, &st))
		return;
	s->stats.file_size = (uint64_t)st.st_size;
	s->stats.file_bytes = (uint64_t)st.st_blocks * 512;
}

static int publish(struct sink *s)
{
	int flags = fcntl(s->file.fd, F_GETFL), err = 0;

	/* What is left has no alignment. */
	if (flags < 0 || fcntl(s->file.fd, F_SETFL, flags & ~O_DIRECT))
		return -errno;
	for (uint32_t i = 0; !err && i < s->meta.nregions; i++)
		err = punch_region(s, &s->meta.regions[i]);
	count_data(s);
	if (!err)
		err = write_table(s);
	if (!err)
		err = write_header(s);
	if (!err)
		err = uffdwp__newfile_publish(&s->file);
	note_size_on_disk(s);
	return err;
}

static int sink_end(void *ctx, const struct uffdwp_snapshot_result *result)
{
	struct sink *s = ctx;
	int err = 0;

	s->stats.direct = s->queue.direct;
	s->stats.writes = s->gather.writes;
	if (result->verdict == UFFDWP_SNAPSHOT_COMPLETE) {
		err = uffdwp__gather_idle(&s->gather) ? 0 : -EBUSY;
		s->meta.sealed_ns = result->sealed_ns;
		if (!err)
			err = publish(s);
	}
	end_queue(s);
	uffdwp__newfile_close(&s->file);
	return err;
}

/* ---- Making one ---- */

static int check_opts(struct uffdwp_image_opts *o, struct uffdwp__why *why)
{
	if (o->depth > DEPTH_MAX)
		REFUSE(why, -EINVAL, "depth %u: must be at most %d", o->depth, DEPTH_MAX);
	if (o->buffered > 1)
		REFUSE(why, -EINVAL, "buffered %u: must be 0 or 1", o->buffered);
	if (o->mode & ~0777u)
		REFUSE(why, -EINVAL, "mode 0%o: must be within 0777", o->mode);
	o->mode = o->mode ? o->mode : 0600;
	return 0;
}

static int sink_new(struct sink **out, const char *path, const struct uffdwp_image_opts *opts)
{
	struct uffdwp_image_opts o;
	struct uffdwp__why why;
	struct sink *s;
	int err = uffdwp__image_opts(&o, sizeof(o), opts,
				     SIZE_UP_TO(struct uffdwp_image_opts, reason_size));

	if (err)
		return err;
	why = (struct uffdwp__why){ o.reason, o.reason_size };
	err = check_opts(&o, &why);
	if (err)
		return err;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->o = o;
	uffdwp__process_read(&s->process, o.pid);
	err = uffdwp__newfile_create(&s->file, path, o.mode, &why);
	if (err)
		free(s);
	else
		*out = s;
	return err;
}

UFFDWP_PUBLIC int uffdwp_image_sink(struct uffdwp_sink *out, const char *path,
				    const struct uffdwp_image_opts *opts)
{
	struct sink *s;
	int err;

	if (!out)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	if (!path)
		return -EINVAL;
	err = sink_new(&s, path, opts);
	if (err)
		return err;
	*out = (struct uffdwp_sink){ .sz = sizeof(*out),
				     .ctx = s,
				     .begin = begin,
				     .write = sink_write,
				     .zero = sink_zero,
				     .wait = sink_wait,
				     .end = sink_end,
				     .free = sink_free };
	return 0;
}

UFFDWP_PUBLIC int uffdwp_image_sink_stats(const struct uffdwp_sink *sink,
					  struct uffdwp_image_stats *st)
{
	const struct sink *s;

	/* By one of its functions a sink tells whose it is. */
	if (!sink || sink->free != sink_free)
		return -EINVAL;
	s = sink->ctx;
	return uffdwp__image_result(st, &s->stats, sizeof(*st),
				    SIZE_UP_TO(struct uffdwp_image_stats, file_bytes));
}
