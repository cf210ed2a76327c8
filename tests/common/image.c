/* SPDX-License-Identifier: MIT */
/* Images for tests. */
#include "image.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

struct order {
	struct uffdwp_sink_write w; /* first */
	struct image_maker *m;
};

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

void image_fill(char *data, uint64_t len, uint64_t seed, unsigned int zeros)
{
	seed = seed * 2 + 1;
	for (uint64_t at = 0; at < len; at += PAGE) {
		bool zero = zeros && next(&seed) % zeros == 0;

		for (uint64_t i = 0; i < PAGE; i += 8) {
			uint64_t v = zero ? 0 : next(&seed);

			memcpy(data + at + i, &v, 8);
		}
	}
}

int image_begin(struct image_maker *m, const char *path, const struct uffdwp_image_opts *opts,
		const struct image_part *parts, size_t n)
{
	struct uffdwp_sink_layout layout = {
		.sz = sizeof(layout), .nregions = n, .staging_size = IMAGE_STAGING, .rewrites = 1
	};
	int err;

	memset(m, 0, sizeof(*m));
	m->random = 88172645463325252u;
	err = uffdwp_image_sink(&m->sink, path, opts);
	if (err)
		return err;
	m->nregions = n;
	m->regions = calloc(n ? n : 1, sizeof(*m->regions));
	m->staging = mmap(NULL, IMAGE_STAGING, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!m->regions || m->staging == MAP_FAILED)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		m->regions[i] = (struct uffdwp_sink_region){ parts[i].addr, parts[i].len,
							     parts[i].page_size };
	layout.regions = m->regions;
	layout.staging = m->staging;
	return m->sink.begin(m->sink.ctx, &layout);
}

static void done(struct uffdwp_sink_write *w, int err)
{
	struct order *o = (struct order *)w;

	o->m->inflight--;
	if (err && !o->m->err)
		o->m->err = err;
	free(o);
}

int image_drain(struct image_maker *m)
{
	while (m->inflight)
		m->sink.wait(m->sink.ctx, 100);
	m->used = 0;
	return m->err;
}

/* Staging is used from its beginning to its end, then all of it must be done. */
static int put_piece(struct image_maker *m, uint32_t region, uint64_t offset, const void *data,
		     uint64_t len)
{
	struct order *o;
	int err = 0;

	if (m->used + len > IMAGE_STAGING)
		err = image_drain(m);
	if (err)
		return err;
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	memcpy(m->staging + m->used, data, len);
	o->m = m;
	o->w = (struct uffdwp_sink_write){ .region = region,
					   .offset = offset,
					   .len = len,
					   .data = m->staging + m->used,
					   .done = done };
	m->used += len;
	m->inflight++;
	err = m->sink.write(m->sink.ctx, &o->w);
	if (err == UFFDWP_SINK_LATER)
		return 0;
	m->inflight--;
	free(o);
	return err;
}

int image_put(struct image_maker *m, uint32_t region, uint64_t offset, const void *data,
	      uint64_t len)
{
	uint64_t n;
	int err = 0;

	for (uint64_t at = 0; !err && at < len; at += n) {
		n = (1 + next(&m->random) % 64) * PAGE;
		n = n < len - at ? n : len - at;
		err = put_piece(m, region, offset + at, (const char *)data + at, n);
	}
	return err;
}

int image_zero(struct image_maker *m, uint32_t region, uint64_t offset, uint64_t len)
{
	return m->sink.zero(m->sink.ctx, region, offset, len);
}

static bool is_zero(const char *p)
{
	return !*p && !memcmp(p, p + 1, PAGE - 1);
}

int image_put_part(struct image_maker *m, uint32_t region, const struct image_part *part)
{
	uint64_t n;
	int err = 0;

	for (uint64_t at = 0; !err && at < part->len; at += n) {
		bool zero = is_zero(part->data + at);

		for (n = PAGE; at + n < part->len && is_zero(part->data + at + n) == zero;)
			n += PAGE;
		err = zero ? image_zero(m, region, at, n)
			   : image_put(m, region, at, part->data + at, n);
	}
	return err;
}

int image_end(struct image_maker *m, uint32_t verdict)
{
	struct uffdwp_snapshot_result r = { .sz = sizeof(r),
					    .verdict = verdict,
					    .sealed_ns = IMAGE_SEALED };
	int err = image_drain(m), end = m->sink.end(m->sink.ctx, &r);

	return err ? err : end;
}

void image_free(struct image_maker *m)
{
	if (m->sink.free)
		m->sink.free(m->sink.ctx);
	if (m->staging && m->staging != MAP_FAILED)
		munmap(m->staging, IMAGE_STAGING);
	free(m->regions);
	memset(m, 0, sizeof(*m));
}

int image_make(const char *path, const struct uffdwp_image_opts *opts,
	       const struct image_part *parts, size_t n)
{
	struct image_maker m;
	int err = image_begin(&m, path, opts, parts, n);

	for (size_t i = 0; !err && i < n; i++)
		err = image_put_part(&m, (uint32_t)i, &parts[i]);
	if (m.nregions && m.staging)
		err = image_end(&m, err ? UFFDWP_SNAPSHOT_FAILED : UFFDWP_SNAPSHOT_COMPLETE) ?: err;
	image_free(&m);
	return err;
}
