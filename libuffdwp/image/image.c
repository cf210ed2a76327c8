/* SPDX-License-Identifier: MIT */
/* Opening an image, telling about it, and reading from it. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "newfile.h"

#define HEADER_FIRST 16384
#define CHECK_PAGES 64

/* ---- Reading the file ---- */

/* A few pages are enough, but for thousands of regions. */
static int read_header(struct uffdwp_image *img, uint64_t file_size, struct uffdwp__why *why)
{
	size_t len = min_u64(file_size, HEADER_FIRST), need;
	char *buf = malloc(UFFDWP__HEADER_MAX);
	int err;

	if (!buf)
		return -ENOMEM;
	err = uffdwp__read_all(img->fd, buf, len, 0);
	need = err ? 0 : min_u64(uffdwp__meta_need(buf, len), file_size);
	if (need > len) {
		err = uffdwp__read_all(img->fd, buf + len, need - len, len);
		len = need;
	}
	if (!err)
		err = uffdwp__meta_decode(&img->meta, buf, len, file_size, why);
	free(buf);
	return err;
}

static int load(struct uffdwp_image *img, struct uffdwp__why *why)
{
	struct stat st;
	int err;

	if (fstat(img->fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		REFUSE(why, -EBADMSG, "not a regular file");
	img->file_bytes = (uint64_t)st.st_blocks * 512;
	err = read_header(img, (uint64_t)st.st_size, why);
	return err ? err : uffdwp__table_open(&img->table, img->fd, &img->meta, why);
}

/* ---- Open and close ---- */

/* A FIFO must not make us wait, whatever is opened. */
static int reopen(int fd)
{
	return uffdwp__reopen(fd, O_RDONLY | O_NONBLOCK);
}

/* fd becomes the image's, or is closed. */
static int open_fd(struct uffdwp_image **out, int fd, struct uffdwp__why *why)
{
	struct uffdwp_image *img = calloc(1, sizeof(*img));
	int err;

	if (!img) {
		close(fd);
		return -ENOMEM;
	}
	img->fd = fd;
	img->direct = reopen(fd);
	err = load(img, why);
	/* Pages are asked for one by one; who wants more around them says so. */
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	if (err)
		uffdwp_image_close(img);
	else
		*out = img;
	return err;
}

static int open_opts(struct uffdwp_image **out, const struct uffdwp_image_open_opts *opts,
		     struct uffdwp__why *why)
{
	struct uffdwp_image_open_opts o;
	int err;

	if (!out)
		return -EINVAL;
	*out = NULL;
	err = uffdwp__image_opts(&o, sizeof(o), opts,
				 SIZE_UP_TO(struct uffdwp_image_open_opts, reason_size));
	*why = (struct uffdwp__why){ o.reason, o.reason_size };
	return err;
}

UFFDWP_PUBLIC int uffdwp_image_open(struct uffdwp_image **out, const char *path,
				    const struct uffdwp_image_open_opts *opts)
{
	struct uffdwp__why why;
	int fd, err = open_opts(out, opts, &why);

	if (err || !path)
		return err ? err : -EINVAL;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		REFUSE(&why, -errno, "\"%s\": %s", path, strerror(errno));
	return open_fd(out, fd, &why);
}

UFFDWP_PUBLIC int uffdwp_image_fdopen(struct uffdwp_image **out, int fd,
				      const struct uffdwp_image_open_opts *opts)
{
	struct uffdwp__why why;
	int copy, err = open_opts(out, opts, &why);

	if (err)
		return err;
	/* A copy would share the caller's file offset and flags; without /proc it must do. */
	copy = reopen(fd);
	if (copy < 0)
		copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		REFUSE(&why, -errno, "descriptor %d: %s", fd, strerror(errno));
	return open_fd(out, copy, &why);
}

UFFDWP_PUBLIC void uffdwp_image_close(struct uffdwp_image *img)
{
	if (!img)
		return;
	uffdwp__table_close(&img->table);
	free(img->meta.regions);
	close(img->fd);
	if (img->direct >= 0)
		close(img->direct);
	free(img);
}

/* ---- Telling ---- */

UFFDWP_PUBLIC int uffdwp_image_info(const struct uffdwp_image *img, struct uffdwp_image_info *info)
{
	const struct uffdwp__meta *m;
	struct uffdwp_image_info i;

	if (!img)
		return -EINVAL;
	m = &img->meta;
	i = (struct uffdwp_image_info){ .version = m->version,
					.regions = m->nregions,
					.sealed_ns = m->sealed_ns,
					.size = m->size,
					.file_size = m->file_size,
					.file_bytes = img->file_bytes,
					.machine = m->machine,
					.page_size = m->page_size };
	for (uint32_t r = 0; r < m->nregions; r++)
		i.data += m->regions[r].data;
	return uffdwp__image_result(info, &i, sizeof(i),
				    SIZE_UP_TO(struct uffdwp_image_info, page_size));
}

UFFDWP_PUBLIC int uffdwp_image_region(const struct uffdwp_image *img, uint32_t region,
				      struct uffdwp_image_region *out)
{
	const struct uffdwp__extent *e;
	struct uffdwp_image_region r;

	if (!img || region >= img->meta.nregions)
		return -EINVAL;
	e = &img->meta.regions[region];
	r = (struct uffdwp_image_region){ .addr = e->addr,
					  .len = e->len,
					  .page_size = e->page_size,
					  .data = e->data,
					  .offset = e->offset };
	return uffdwp__image_result(out, &r, sizeof(r),
				    SIZE_UP_TO(struct uffdwp_image_region, offset));
}

/* ---- Pages ---- */

static bool is_data(const struct uffdwp_image *img, uint32_t region, uint64_t page)
{
	return *uffdwp__entries_at(img, region, page, 1) != UFFDWP__PAGE_ZERO;
}

uint64_t uffdwp__run_same(const struct uffdwp_image *img, const struct uffdwp__run *r)
{
	bool data = is_data(img, r->region, r->first);
	uint64_t n = 1;

	while (n < r->n && is_data(img, r->region, r->first + n) == data)
		n++;
	return n;
}

uint64_t uffdwp__data_bytes(const struct uffdwp_image *img, const struct uffdwp__run *r)
{
	const uint32_t *e = uffdwp__entries_at(img, r->region, r->first, r->n);
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < r->n; i++)
		bytes += e[i] ? img->meta.page_size : 0;
	return bytes;
}

uint64_t uffdwp__run_check(const struct uffdwp_image *img, const struct uffdwp__run *r, void *buf)
{
	uint32_t page = img->meta.page_size, crcs[CHECK_PAGES];

	for (uint64_t i = 0; i < r->n; i += CHECK_PAGES) {
		uint64_t n = min_u64(r->n - i, CHECK_PAGES);
		const uint32_t *e = uffdwp__entries_at(img, r->region, r->first + i, n);

		uffdwp__entries((const char *)buf + i * page, page, n, crcs);
		for (uint64_t k = 0; k < n; k++) {
			/* Whatever the file holds in place of a hole does not count. */
			if (e[k] == UFFDWP__PAGE_ZERO)
				memset((char *)buf + (i + k) * page, 0, page);
			else if (crcs[k] != e[k])
				return i + k;
		}
	}
	return r->n;
}

/* Pages that are zeros need no reading. */
static int read_same(const struct uffdwp_image *img, const struct uffdwp__run *r, void *buf,
		     uint64_t *good)
{
	int err;

	*good = r->n;
	if (!is_data(img, r->region, r->first)) {
		memset(buf, 0, r->n << img->meta.shift);
		return 0;
	}
	*good = 0;
	err = uffdwp__read_all(img->fd, buf, r->n << img->meta.shift, uffdwp__run_offset(img, r));
	if (!err)
		*good = uffdwp__run_check(img, r, buf);
	return !err && *good < r->n ? -EBADMSG : err;
}

int uffdwp__run_read(const struct uffdwp_image *img, const struct uffdwp__run *r, void *buf,
		     uint64_t *good)
{
	struct uffdwp__run part = *r;
	uint64_t n;
	int err = 0;

	for (*good = 0; !err && *good < r->n; *good += n) {
		part.first = r->first + *good;
		part.n = r->n - *good;
		part.n = uffdwp__run_same(img, &part);
		err = read_same(img, &part, (char *)buf + (*good << img->meta.shift), &n);
	}
	return err;
}

/* Bytes of one page that are not all of it, by way of a buffer. */
static int read_part(const struct uffdwp_image *img, const struct uffdwp__run *r, uint64_t from,
		     void *buf, uint64_t len)
{
	char *page = malloc(img->meta.page_size);
	uint64_t good;
	int err = page ? uffdwp__run_read(img, r, page, &good) : -ENOMEM;

	if (!err)
		memcpy(buf, page + from, len);
	free(page);
	return err;
}

UFFDWP_PUBLIC int uffdwp_image_read(const struct uffdwp_image *img, uint32_t region,
				    uint64_t offset, void *buf, uint64_t len, uint64_t *bad)
{
	uint64_t page, n = 0;
	int err = 0;

	if (!img || (!buf && len) || region >= img->meta.nregions ||
	    offset > img->meta.regions[region].len || len > img->meta.regions[region].len - offset)
		return -EINVAL;
	page = img->meta.page_size;
	for (uint64_t done = 0; !err && done < len; done += n) {
		uint64_t at = offset + done, from = at & (page - 1);
		struct uffdwp__run r = { region, at >> img->meta.shift, 1 };
		void *to = (char *)buf + done;

		if (from || len - done < page) {
			n = min_u64(page - from, len - done);
			err = read_part(img, &r, from, to, n);
		} else {
			r.n = (len - done) >> img->meta.shift;
			err = uffdwp__run_read(img, &r, to, &n);
			r.first += err ? n : 0;
			n <<= img->meta.shift;
		}
		if (err && bad)
			*bad = r.first << img->meta.shift;
	}
	return err;
}
