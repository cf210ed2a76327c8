/* SPDX-License-Identifier: MIT */
/* For the live tests of restore. */
#include "restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define READERS 3

void restored_make(struct restored *c, struct live *t)
{
	struct image_part part = { .addr = (uintptr_t)t->mem.addr,
				   .len = t->mem.size,
				   .page_size = t->page };
	const char *tmp = getenv("TMPDIR");
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = sizeof(why) };
	struct uffdwp_image_info info = { .sz = sizeof(info) };
	int fd;

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->addr = (uintptr_t)t->mem.addr;
	c->data = malloc(t->mem.size);
	CHECK(c->data);
	image_fill(c->data, t->mem.size, t->seed, 3);
	/* A run of zeros, and with huge pages a whole one. */
	memset(c->data + t->mem.size / 2, 0, t->mem.size / 4);
	/* The first page is not zeros, for tests that want one of which they know that. */
	memset(c->data, 0x5a, 64);
	part.data = c->data;
	(void)snprintf(c->path, sizeof(c->path), "%s/uffdwp-restore-XXXXXX", tmp ? tmp : "/tmp");
	fd = mkstemp(c->path);
	CHECK(fd >= 0);
	close(fd);
	CHECK_EQ(image_make(c->path, NULL, &part, 1), 0);
	if (uffdwp_image_open(&c->img, c->path, &o))
		FAIL("open: %s", why);
	CHECK_EQ(uffdwp_image_info(c->img, &info), 0);
	c->size = info.data;
}

static void open_by(struct restored *c, uint32_t serve, uint32_t threads, uint64_t extra,
		    uint64_t masked)
{
	struct uffdwp_opts o = {
		.serve = serve,
		.required = mem_missing_features(c->t->mem.kind) | mem_wp_features(c->t->mem.kind) |
			    extra,
		.masked = masked,
		.threads = threads,
	};

	c->h = live_open_opts(&o);
	live_serve(&c->server, c->h);
}

void restored_open(struct restored *c, uint32_t serve, uint64_t extra, uint64_t masked)
{
	open_by(c, serve, serve == UFFDWP_SERVE_THREADS ? 2 : 0, extra, masked);
}

void restored_open_threads(struct restored *c, uint32_t threads, uint64_t extra)
{
	open_by(c, UFFDWP_SERVE_THREADS, threads, extra, 0);
}

struct uffdwp_restore *restored_start(struct restored *c, struct uffdwp_restore_opts *o)
{
	struct uffdwp_restore *rs;
	char why[256] = "";
	int err;

	o->sz = sizeof(*o);
	o->image = c->img;
	o->handle = o->eager ? NULL : c->h;
	o->addrs = &c->addr;
	o->reason = why;
	o->reason_size = sizeof(why);
	err = uffdwp_restore_start(&rs, o);
	if (err)
		FAIL("uffdwp_restore_start: %s: %s", strerror(-err), why);
	return rs;
}

struct reader {
	struct restored *c;
	pthread_t thread;
	size_t id;
};

static void compare_page(struct restored *c, size_t nr)
{
	const char *at = (const char *)(uintptr_t)c->addr + nr * 4096;

	for (size_t i = 0; i < 4096; i += 8) {
		uint64_t want;

		memcpy(&want, c->data + nr * 4096 + i, 8);
		if (live_load(at + i) != want)
			FAIL("page %zu at %zu: %#llx, should be %#llx", nr, i,
			     (unsigned long long)live_load(at + i), (unsigned long long)want);
	}
}

/* One from first to last, one from last to first, one at random. */
static void *read_all(void *arg)
{
	struct reader *r = arg;
	size_t pages = r->c->t->mem.size / 4096;
	uint64_t seed = r->c->t->seed + r->id;

	for (size_t i = 0; i < pages; i++)
		compare_page(r->c, r->id == 0	? i
				   : r->id == 1 ? pages - 1 - i
						: live_random(&seed) % pages);
	return NULL;
}

void restored_compare(struct restored *c)
{
	struct reader r[READERS];

	for (size_t i = 0; i < READERS; i++) {
		r[i] = (struct reader){ .c = c, .id = i };
		live_thread(&r[i].thread, read_all, &r[i]);
	}
	for (size_t i = 0; i < READERS; i++)
		live_join(r[i].thread);
}

void restored_end(struct restored *c)
{
	live_serve_stop(&c->server);
	CHECK_EQ(uffdwp_close(c->h), 0);
	uffdwp_image_close(c->img);
	CHECK_EQ(unlink(c->path), 0);
	free(c->data);
}

void restored_damage(struct restored *c, uint64_t offset)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	int fd = open(c->path, O_WRONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(uffdwp_image_region(c->img, 0, &r), 0);
	CHECK_EQ(pwrite(fd, "damaged!", 8, (off_t)(r.offset + offset)), 8);
	close(fd);
}
