/* SPDX-License-Identifier: MIT */
/*
 * From live memory to a file and back: a snapshot is taken to an image under writers, by both strategies,
 * and restored, lazily and eagerly, in a new process and in new memory; every byte is what it was at the seal. And
 * once more: a snapshot of the restored memory.
 */
#include "../common/image.h"
#include "../common/snap.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct trip {
	struct snap c;
	char path[128];
	/* The processes that restore: lazily, eagerly. Begun before there are threads, they wait. */
	pid_t restorer[2];
	int go[2];    /* a pipe: closed when they may go on */
	char *shadow; /* shared with them: what they must find */
};

static void take(struct uffdwp_region *r, const char *path, struct snap *c)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .staging = 64u << 20 };
	struct uffdwp_image_stats st = { .sz = sizeof(st) };
	char why[256] = "";
	struct uffdwp_sink sink;

	CHECK_EQ(uffdwp_image_sink(&sink, path, NULL), 0);
	o.sink = &sink;
	o.strategy = c->mode->strategy;
	o.by_caller = c->mode->serve == UFFDWP_SERVE_SIGBUS;
	o.reason = why;
	o.reason_size = sizeof(why);
	if (uffdwp_snapshot_new(&c->s, &r, 1, &o))
		FAIL("uffdwp_snapshot_new: %s", why);
	CHECK_EQ(uffdwp_snapshot_arm(c->s), 0);
	CHECK_EQ(snap_seal(c), 0);
	/* By steps alone it comes to its end too. */
	while (o.by_caller && !uffdwp_snapshot_step(c->s, 1))
		;
	CHECK_EQ(uffdwp_snapshot_wait(c->s, &res), 0);
	if (res.verdict != UFFDWP_SNAPSHOT_COMPLETE)
		FAIL("verdict %u, why %u, error %d", res.verdict, res.why, res.error);
	CHECK_EQ(uffdwp_image_sink_stats(&sink, &st), 0);
	CHECK_EQ(st.bytes, res.saved);
	CHECK_EQ(uffdwp_snapshot_free(c->s), 0);
	c->s = NULL;
}

static struct uffdwp_image *open_image(const struct trip *trip)
{
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = sizeof(why) };
	struct uffdwp_image *img;

	if (uffdwp_image_open(&img, trip->path, &o))
		FAIL("open: %s", why);
	CHECK_EQ(uffdwp_image_verify(img, NULL), 0);
	return img;
}

static void compare(const struct mem *m, const char *shadow)
{
	for (size_t i = 0; i < m->size; i += 8) {
		uint64_t want;

		memcpy(&want, shadow + i, 8);
		if (live_load(m->addr + i) != want)
			FAIL("at %zu: not as it was at the seal", i);
	}
}

/* In a process of its own, with nothing of the parent's but the file's name and the copy to compare with. */
static _Noreturn void restore(struct trip *trip, const struct live *t, uint32_t eager)
{
	struct uffdwp_restore_opts o = { .sz = sizeof(o), .eager = eager };
	enum mem_kind kind = t->mem.kind;
	struct uffdwp_restore *rs;
	struct uffdwp *h = NULL;
	uint64_t addr;
	struct mem m;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(trip->go[1]);
	CHECK_EQ(read(trip->go[0], &byte, 1), 0);
	CHECK_EQ(mem_map(&m, kind, t->mem.size), 0);
	addr = (uintptr_t)m.addr;
	if (!eager)
		h = live_open(UFFDWP_SERVE_THREADS, mem_missing_features(kind));
	o.image = open_image(trip);
	o.handle = h;
	o.addrs = &addr;
	CHECK_EQ(uffdwp_restore_start(&rs, &o), 0);
	compare(&m, trip->shadow);
	CHECK_EQ(uffdwp_restore_wait(rs, NULL), 0);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	compare(&m, trip->shadow);
	_exit(0);
}

static void make_path(struct trip *trip)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	(void)snprintf(trip->path, sizeof(trip->path), "%s/uffdwp-trip-XXXXXX", tmp ? tmp : "/tmp");
	fd = mkstemp(trip->path);
	CHECK(fd >= 0);
	close(fd);
}

static void start_restorers(struct trip *trip, const struct live *t)
{
	CHECK_EQ(pipe(trip->go), 0);
	trip->shadow = mmap(NULL, t->mem.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);
	CHECK(trip->shadow != MAP_FAILED);
	for (uint32_t eager = 0; eager < 2; eager++) {
		trip->restorer[eager] = fork();
		CHECK(trip->restorer[eager] >= 0);
		if (!trip->restorer[eager])
			restore(trip, t, eager);
	}
	close(trip->go[0]);
}

static void wait_restorers(struct trip *trip, const struct live *t)
{
	memcpy(trip->shadow, trip->c.shadow, t->mem.size);
	close(trip->go[1]);
	for (int i = 0; i < 2; i++) {
		int status;

		CHECK_EQ(waitpid(trip->restorer[i], &status, 0), trip->restorer[i]);
		CHECK_EQ(status, 0);
	}
	munmap(trip->shadow, t->mem.size);
}

static void round_trip(struct live *t, int mode)
{
	struct trip trip = { 0 };

	make_path(&trip);
	start_restorers(&trip, t);
	snap_open(&trip.c, t, mode, 0);
	/* Some pages stay as they are, all zeros. */
	trip.c.hot = 50;
	snap_writers_start(&trip.c);
	take(trip.c.r, trip.path, &trip.c);
	snap_writers_stop(&trip.c);
	wait_restorers(&trip, t);
	live_serve_stop(&trip.c.server);
	CHECK_EQ(uffdwp_close(trip.c.h), 0);
	free(trip.c.shadow);
	CHECK_EQ(unlink(trip.path), 0);
}

#define TRIP(mode)                              \
	static void mode##_trip(struct live *t) \
	{                                       \
		round_trip(t, SNAP_##mode);     \
	}
TRIP(COW_THREADS)
TRIP(COW_SIGBUS)
TRIP(PRE_ASYNC)
TRIP(PRE_SYNC)

/* A snapshot of memory that was restored with protection, and of which not all is there yet. */
static void again(struct live *t)
{
	struct uffdwp_restore_opts o = { .sz = sizeof(o), .protect = 1, .prefetch = 1 };
	struct uffdwp_restore *rs;
	struct trip trip = { 0 };
	char *first;
	uint64_t addr;
	struct mem m;

	make_path(&trip);
	snap_open(&trip.c, t, SNAP_COW_THREADS, mem_missing_features(t->mem.kind));
	live_fill(t->mem.addr, t->mem.size, t->seed);
	take(trip.c.r, trip.path, &trip.c);
	first = trip.c.shadow;
	CHECK_EQ(mem_map(&m, t->mem.kind, t->mem.size), 0);
	addr = (uintptr_t)m.addr;
	o.image = open_image(&trip);
	o.handle = trip.c.h;
	o.addrs = &addr;
	CHECK_EQ(uffdwp_restore_start(&rs, &o), 0);
	/* The seal compares with the first memory, which did not change: so is the second. */
	trip.c.shadow = malloc(t->mem.size);
	CHECK(trip.c.shadow);
	take(uffdwp_restore_region(rs, 0), trip.path, &trip.c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	compare(&m, first);
	uffdwp_image_close((struct uffdwp_image *)(uintptr_t)o.image);
	o.image = open_image(&trip);
	for (size_t i = 0; i < t->mem.size; i += t->page)
		CHECK_EQ(uffdwp_image_read(o.image, 0, i, trip.c.shadow + i, t->page, NULL), 0);
	CHECK_EQ(memcmp(trip.c.shadow, first, t->mem.size), 0);
	uffdwp_image_close((struct uffdwp_image *)(uintptr_t)o.image);
	mem_unmap(&m);
	CHECK_EQ(uffdwp_close(trip.c.h), 0);
	free(trip.c.shadow);
	free(first);
	CHECK_EQ(unlink(trip.path), 0);
}

static const struct live_case cases[] = {
	{ "cow/threads", COW_THREADS_trip, KINDS_ALL, 0, 0 },
	{ "cow/sigbus", COW_SIGBUS_trip, KINDS_ALL, 0, 0 },
	{ "precopy/async", PRE_ASYNC_trip, KINDS_ALL, 0, 0 },
	{ "precopy/sync", PRE_SYNC_trip, KINDS_ALL, 0, 0 },
	{ "again", again, KINDS_ALL, UFFDWP_FEATURE_WP_UNPOPULATED, 0 },
};

LIVE_MAIN(cases)
