/* SPDX-License-Identifier: MIT */
/*
 * Tracking of another process's memory: it hands over its userfaultfd, and its pagemap is read by
 * its pid. Async and sync, with the peer's writes ordered over a socket; and a peer that ends.
 */
#include "../common/fd.h"
#include "../common/track.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The other process. It knows nothing of the library. ---- */

/* An order is a page to write, or to discard when the top bit is set. Answers each with a byte. */
#define DISCARD (UINT64_C(1) << 63)

static _Noreturn void peer(struct live *t, int sock, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	uint64_t order;

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		_exit(99);
	live_fill(t->mem.addr, t->mem.size / 2, t->seed); /* the rest never was there */
	fd_send(sock, fd);
	close(fd);
	while (read(sock, &order, sizeof(order)) == sizeof(order)) {
		char *page = t->mem.addr + (order & ~DISCARD) * t->page;

		if (order & DISCARD && madvise(page, t->page, MADV_DONTNEED))
			_exit(98);
		if (!(order & DISCARD))
			live_store(page, order + 1);
		if (write(sock, "d", 1) != 1)
			break;
	}
	_exit(0);
}

/* ---- This process ---- */

struct other {
	struct tracked k;
	pid_t pid;
	int sock;
};

static void start(struct other *o, struct live *t, enum track_way way, bool with_pid)
{
	uint64_t features = mem_wp_features(t->mem.kind) |
			    (way == WAY_ASYNC ? UFFDWP_FEATURE_WP_ASYNC
					      : UFFDWP_FEATURE_WP_UNPOPULATED);
	struct uffdwp_adopt_opts a = { .sz = sizeof(a),
				       .features = features,
				       .opts = { .sz = sizeof(a.opts) } };
	int pair[2];

	memset(o, 0, sizeof(*o));
	o->k.t = t;
	o->k.way = way;
	o->k.page = o->k.unit = t->page;
	o->k.pages = t->pages;
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	o->pid = fork();
	CHECK(o->pid >= 0);
	if (!o->pid) {
		close(pair[0]);
		peer(t, pair[1], features);
	}
	close(pair[1]);
	o->sock = pair[0];
	a.pid = with_pid ? o->pid : 0;
	CHECK_EQ(uffdwp_adopt(&o->k.h, fd_receive(o->sock), &a), 0);
	o->k.r = live_region(t, o->k.h, UFFDWP_MODE_WP, 1, NULL, NULL);
}

static void order(struct other *o, uint64_t what)
{
	char answer;

	CHECK_EQ(write(o->sock, &what, sizeof(what)), sizeof(what));
	CHECK_EQ(read(o->sock, &answer, 1), 1);
}

static void finish(struct other *o)
{
	int status;

	tracked_close(&o->k);
	close(o->sock);
	CHECK_EQ(waitpid(o->pid, &status, 0), o->pid);
	CHECK_EQ(status, 0);
}

/* Written by the peer is told; written here, to memory at the same address, is none of it. */
static void tracks(struct live *t, enum track_way way)
{
	struct other o;
	size_t last = t->pages - 1;

	start(&o, t, way, true);
	tracked_start(&o.k, 0);
	tracked_expect(&o.k, 0, 0);
	for (int round = 0; round < 3; round++) {
		order(&o, 2);
		order(&o, 3);
		live_store(t->mem.addr + 7 * t->page, 1);
		tracked_expect(&o.k, 2, 4);
		order(&o, last);
		tracked_expect(&o.k, last, last + 1);
		tracked_expect(&o.k, 0, 0);
	}
	finish(&o);
}

static void tracks_async(struct live *t)
{
	tracks(t, WAY_ASYNC);
}

static void tracks_sync(struct live *t)
{
	tracks(t, WAY_SYNC);
}

/* The peer's discards are in its page tables. */
static void discards(struct live *t)
{
	struct other o;

	start(&o, t, WAY_ASYNC, true);
	tracked_start(&o.k, 0);
	order(&o, 4 | DISCARD);
	tracked_expect(&o.k, 4, 5);
	order(&o, 4);
	tracked_expect(&o.k, 4, 5);
	finish(&o);
}

/* Without its pid there is no pagemap: async can not be, sync can. */
static void no_pid(struct live *t)
{
	struct uffdwp_track *track;
	struct other o;

	start(&o, t, WAY_ASYNC, false);
	CHECK_EQ(uffdwp_track_start(&track, &o.k.r, 1, NULL), -EOPNOTSUPP);
	CHECK(!track);
	finish(&o);
	start(&o, t, WAY_SYNC, false);
	tracked_start(&o.k, 0);
	order(&o, 1);
	tracked_expect(&o.k, 1, 2);
	finish(&o);
}

/* No answer is better than "clean": what was written last nobody can tell. */
static void ends(struct live *t, enum track_way way)
{
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	struct other o;
	int status;

	start(&o, t, way, true);
	tracked_start(&o.k, 0);
	order(&o, 1);
	CHECK_EQ(kill(o.pid, SIGKILL), 0);
	CHECK_EQ(waitpid(o.pid, &status, 0), o.pid);
	CHECK_EQ(uffdwp_track_collect(o.k.track, &q), -ESRCH);
	CHECK_EQ(uffdwp_track_collect(o.k.track, &q), -ESRCH);
	tracked_close(&o.k);
	close(o.sock);
}

static void ends_async(struct live *t)
{
	ends(t, WAY_ASYNC);
}

static void ends_sync(struct live *t)
{
	ends(t, WAY_SYNC);
}

#define ASYNC UFFDWP_FEATURE_WP_ASYNC
#define MARKERS UFFDWP_FEATURE_WP_UNPOPULATED
/* Private: what this process writes at the same address must not be the peer's. */
#define KINDS (BIT(MEM_ANON) | BIT(MEM_THP) | BIT(MEM_MEMFD_PRIVATE))
static const struct live_case cases[] = {
	{ "tracks/async", tracks_async, KINDS, ASYNC, 0 },
	{ "tracks/sync", tracks_sync, KINDS, MARKERS, 0 },
	{ "discards", discards, KINDS_ANON, ASYNC, 0 },
	{ "no-pid", no_pid, BIT(MEM_ANON), ASYNC, 0 },
	{ "ends/async", ends_async, KINDS_ANON, ASYNC, 0 },
	{ "ends/sync", ends_sync, KINDS_ANON, MARKERS, 0 },
};

LIVE_MAIN(cases)
