/* SPDX-License-Identifier: MIT */
/*
 * One random schedule of writes and all else that may happen, run under every mechanism. Nobody
 * writes during a collect here, so what must be reported is known exactly: each mechanism has to
 * report that, and no page more.
 */
#include "../common/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EPOCHS 40
#define ACTS 24 /* an epoch */
#define RANGES 5

enum expect { CLEAN, DIRTY, EITHER };

struct run {
	struct tracked k;
	uint64_t rnd;
	int zero;			  /* what the kernel reads from */
	unsigned char *want, *last, *got; /* a byte a page; last: discarded in the epoch before */
	uint64_t collected;
	bool copies; /* a child can write */
};

static char *page_at(struct run *r, size_t i)
{
	return r->k.t->mem.addr + i * r->k.page;
}

static bool is_shared(const struct run *r)
{
	return BIT(r->k.t->mem.kind) & KINDS_SHARED;
}

/* ---- What happens ---- */

/* A system call writes; where it could not be served, the thread does it itself. */
static void write_by_kernel(struct run *r, size_t i)
{
	if (r->k.way == WAY_SIGBUS)
		live_store(page_at(r, i), 0);
	else
		CHECK_EQ(syscall(SYS_read, r->zero, page_at(r, i), 8), 8);
	r->want[i] = DIRTY;
}

static void discard(struct run *r, size_t i, uint64_t how)
{
	size_t n = how % 3 + 1 < r->k.pages - i ? how % 3 + 1 : r->k.pages - i;
	bool removes = is_shared(r) && how & 16;

	CHECK_EQ(uffdwp_discard(r->k.r, (uintptr_t)page_at(r, i), n * r->k.page,
				removes ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED, NULL),
		 0);
	memset(r->want + i, DIRTY, n);
	memset(r->last + i, 2, n); /* the next epoch's */
}

static void round_trip(struct run *r, size_t i)
{
	CHECK_EQ(mprotect(page_at(r, i), r->k.page, PROT_NONE), 0);
	CHECK_EQ(mprotect(page_at(r, i), r->k.page, PROT_READ | PROT_WRITE), 0);
}

/* What the child writes to its copy is none of ours. */
static void fork_child(struct run *r, size_t i)
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (!pid) {
		if (is_shared(r) || !r->copies)
			(void)live_load(page_at(r, i));
		else
			live_store(page_at(r, i), 1);
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
}

static void act(struct run *r)
{
	uint64_t what = live_random(&r->rnd), how = live_random(&r->rnd);
	size_t i = live_random(&r->rnd) % r->k.pages;

	switch (what % 16) {
	case 0:
		discard(r, i, how);
		break;
	case 1:
		write_by_kernel(r, i);
		break;
	case 2:
		round_trip(r, i);
		break;
	case 3:
		if (how % 4 == 0)
			fork_child(r, i);
		break;
	case 4:
	case 5:
	case 6:
		(void)live_load(page_at(r, i) + how % r->k.page / 8 * 8);
		break;
	default:
		live_store(page_at(r, i) + how % r->k.page / 8 * 8, how);
		r->want[i] = DIRTY;
	}
}

/* ---- What is asked ---- */

static void by_callback(struct run *r, bool peek)
{
	if (peek)
		tracked_peek(&r->k, r->got);
	else
		tracked_collect(&r->k, r->got);
}

static void by_array(struct run *r, bool peek)
{
	struct uffdwp_track_range ranges[RANGES];
	struct uffdwp_track_query q = { .sz = sizeof(q), .ranges = ranges, .nranges = RANGES };
	uint64_t base = (uintptr_t)r->k.t->mem.addr;

	do {
		CHECK_EQ(peek ? uffdwp_track_peek(r->k.track, &q)
			      : uffdwp_track_collect(r->k.track, &q),
			 0);
		CHECK(q.filled <= RANGES);
		for (size_t i = 0; i < q.filled; i++)
			memset(r->got + (ranges[i].addr - base) / r->k.page, 1,
			       ranges[i].len / r->k.page);
	} while (q.resume);
}

static void by_bitmap(struct run *r, bool peek)
{
	size_t words = (r->k.pages + 63) / 64;
	uint64_t *bits = calloc(words, 8);
	struct uffdwp_track_query q = {
		.sz = sizeof(q), .region = r->k.r, .bitmap = bits, .bitmap_page = r->k.page
	};

	CHECK(bits);
	CHECK_EQ(peek ? uffdwp_track_peek(r->k.track, &q) : uffdwp_track_collect(r->k.track, &q),
		 0);
	CHECK_EQ(q.resume, 0);
	for (size_t i = 0; i < r->k.pages; i++)
		r->got[i] = ((unsigned char *)bits)[i / 8] >> i % 8 & 1;
	free(bits);
}

/* In parts, each bounded. */
static void by_parts(struct run *r, bool peek)
{
	size_t n = r->k.pages / 2;

	for (size_t from = 0; from < r->k.pages; from += n) {
		struct uffdwp_track_query q = { .region = r->k.r,
						.addr = (uintptr_t)page_at(r, from),
						.len = n * r->k.page,
						.max = 3 * r->k.page };

		do
			CHECK(tracked_query(&r->k, &q, peek, r->got) <= q.max);
		while (q.resume);
	}
}

static void ask(struct run *r, bool peek)
{
	static void (*const how[])(struct run *, bool) = { by_callback, by_array, by_bitmap,
							   by_parts };
	uint64_t n = live_random(&r->rnd);

	memset(r->got, 0, r->k.pages);
	how[n % 4](r, peek);
	for (size_t i = 0; i < r->k.pages; i++) {
		if (r->got[i] != (r->want[i] == DIRTY) && !(r->got[i] && r->want[i] == EITHER))
			FAIL("%s: page %zu is %s", way_name(r->k.way), i,
			     r->got[i] ? "reported, and was not written"
				       : "not reported, and was written");
	}
}

/* A discard may be told a second time in the epoch after it. */
static void next_epoch(struct run *r)
{
	for (size_t i = 0; i < r->k.pages; i++) {
		r->collected += r->got[i];
		r->want[i] = r->last[i] == 2 ? EITHER : CLEAN;
		r->last[i] = r->last[i] == 2;
	}
}

static void epoch(struct run *r)
{
	uint64_t n = live_random(&r->rnd) % ACTS;

	while (n--)
		act(r);
	if (live_random(&r->rnd) % 4 == 0)
		ask(r, true);
	ask(r, false);
	next_epoch(r);
}

static void schedule(struct live *t, enum track_way way)
{
	struct run r = { .rnd = t->seed, .zero = open("/dev/zero", O_RDONLY | O_CLOEXEC) };
	struct uffdwp_track_info info = { .sz = sizeof(info) };

	CHECK(r.zero >= 0);
	/* A third is there, a third was only read, a third never was there. */
	for (size_t i = 0; i < t->pages; i++) {
		if (i % 3 == 0)
			live_store(t->mem.addr + i * t->page, i);
		else if (i % 3 == 1)
			(void)live_load(t->mem.addr + i * t->page);
	}
	tracked_begin(&r.k, t, way, 0);
	r.copies = live_can_fork(t, r.k.h);
	r.want = calloc(3, t->pages);
	CHECK(r.want);
	r.last = r.want + t->pages;
	r.got = r.last + t->pages;
	for (int e = 0; e < EPOCHS; e++)
		epoch(&r);
	CHECK_EQ(uffdwp_track_info(r.k.track, &info), 0);
	CHECK_EQ(info.bytes, r.collected * t->page);
	tracked_close(&r.k);
	close(r.zero);
	free(r.want);
}

static void async(struct live *t)
{
	schedule(t, WAY_ASYNC);
}

static void sync_pool(struct live *t)
{
	schedule(t, WAY_SYNC);
}

static void caller(struct live *t)
{
	schedule(t, WAY_CALLER);
}

static void sigbus(struct live *t)
{
	schedule(t, WAY_SIGBUS);
}

static const struct live_case cases[] = {
	{ "async", async, KINDS_ALL, UFFDWP_FEATURE_WP_ASYNC, 0 },
	{ "sync", sync_pool, KINDS_ALL, 0, 0 },
	{ "caller", caller, KINDS_ALL, 0, 0 },
	{ "sigbus", sigbus, KINDS_ALL, 0, 0 },
};

LIVE_MAIN(cases)
