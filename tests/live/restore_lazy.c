/* SPDX-License-Identifier: MIT */
/*
 * Restore on every type of memory: served by faults, by the prefetch, by both; with and without protection;
 * by threads and by the caller; in recorded order; and how it ends.
 */
#include "../common/restore.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static struct uffdwp_restore_stats stats_of(struct uffdwp_restore *rs)
{
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };

	CHECK_EQ(uffdwp_restore_stats(rs, &st), 0);
	return st;
}

static void check_complete(struct restored *c, struct uffdwp_restore *rs)
{
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };

	CHECK_EQ(uffdwp_restore_wait(rs, &st), 0);
	CHECK_EQ(st.done, 1);
	CHECK_EQ(st.error, 0);
	CHECK_EQ(st.size, c->size);
	CHECK_EQ(st.bytes, c->size);
	CHECK_EQ(st.by_fault + st.by_prefetch, c->size);
	CHECK_EQ(st.damaged, 0);
	CHECK(st.done_ns > 0 && st.start_ns > 0);
	CHECK_EQ(uffdwp_error(c->h), 0);
}

/* By faults and prefetch at once, then all again. */
static void both_by(struct live *t, uint32_t serve, uint32_t protect)
{
	struct uffdwp_restore_opts o = { .protect = protect };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, serve, 0, 0);
	rs = restored_start(&c, &o);
	restored_compare(&c);
	check_complete(&c, rs);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_compare(&c);
	restored_end(&c);
}

static void both_threads(struct live *t)
{
	both_by(t, UFFDWP_SERVE_THREADS, 0);
}

static void both_caller(struct live *t)
{
	both_by(t, UFFDWP_SERVE_CALLER, 0);
}

static void both_protected(struct live *t)
{
	both_by(t, UFFDWP_SERVE_THREADS, 1);
}

/* Without a prefetch faults bring everything; what they bring is what was asked for. */
static void faults_alone(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore_stats st;
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(live_load(t->mem.addr), live_load(c.data));
	/* Who waited goes on before it is counted. */
	while (!(st = stats_of(rs)).by_fault)
		live_msleep(1);
	CHECK(st.by_fault < c.size);
	CHECK_EQ(st.done, 0);
	CHECK_EQ(st.by_prefetch, 0);
	restored_compare(&c);
	while ((st = stats_of(rs)).by_fault < c.size)
		live_msleep(1);
	CHECK_EQ(st.by_prefetch, 0);
	check_complete(&c, rs);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* Nobody asks: wait brings everything without a fault on what is not zeros. */
static void wait_alone(struct live *t)
{
	for (uint32_t prefetch = 0; prefetch < 2; prefetch++) {
		struct uffdwp_restore_opts o = { .prefetch = prefetch, .buffered = prefetch };
		struct uffdwp_restore *rs;
		struct restored c;

		restored_make(&c, t);
		restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
		rs = restored_start(&c, &o);
		check_complete(&c, rs);
		CHECK_EQ(stats_of(rs).by_prefetch, c.size);
		CHECK_EQ(stats_of(rs).faults, 0);
		restored_compare(&c);
		CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
		restored_end(&c);
		/* For the next round the memory must be missing again, also in the page cache. */
		mem_unmap(&t->mem);
		CHECK_EQ(mem_map(&t->mem, t->mem.kind, t->mem.size), 0);
	}
}

/* Moved into place, huge pages stay what they are. */
static void huge_pages(struct live *t)
{
	struct uffdwp_restore_opts o = { 0 };
	struct uffdwp_restore *rs;
	struct restored c;

	t->page = 2u << 20;
	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_MOVE, 0);
	rs = restored_start(&c, &o);
	check_complete(&c, rs);
	/* Half of it is not a huge page of zeros. */
	CHECK(mem_thp_bytes(&t->mem) >= t->mem.size / 2);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* The regions stay, with their faults: what was discarded is zeros, not what was in the image. */
static void keep(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore *rs;
	struct uffdwp_region *r;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	r = uffdwp_restore_region(rs, 0);
	CHECK(r == uffdwp_region_find(c.h, c.addr));
	CHECK(!uffdwp_restore_region(rs, 1));
	CHECK_EQ(uffdwp_region_page_size(r), t->page);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_KEEP), 0);
	CHECK(r == uffdwp_region_find(c.h, c.addr));
	CHECK(!uffdwp_region_ctx(r));
	restored_compare(&c);
	CHECK_EQ(uffdwp_region_remove(r), 0);
	restored_end(&c);
}

/* A page that was there and was discarded by the program does not come back, while others still come. */
static void discarded(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(live_load(t->mem.addr), live_load(c.data));
	CHECK(live_load(c.data));
	live_store(t->mem.addr, 1);
	CHECK_EQ(madvise(t->mem.addr, t->page, MADV_DONTNEED), 0);
	CHECK_EQ(live_load(t->mem.addr), 0);
	memset(c.data, 0, t->page);
	check_complete(&c, rs);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* What is not there when it is given up is lost, nobody hangs, and nothing stays registered. */
static void abandon(struct live *t)
{
	struct uffdwp_restore_opts o = { .rate = 1 };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(live_load(t->mem.addr), live_load(c.data));
	CHECK_EQ(stats_of(rs).done, 0);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_ABANDON), 0);
	CHECK(!uffdwp_region_find(c.h, c.addr));
	CHECK_EQ(live_load(t->mem.addr), live_load(c.data));
	for (size_t i = 0; i < t->pages; i++)
		live_load(t->mem.addr + i * t->page);
	restored_end(&c);
}

/* A slow prefetch does not hold up the end. */
static void hurry(struct live *t)
{
	struct uffdwp_restore_opts o = { .rate = 1000 };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_compare(&c);
	restored_end(&c);
}

/* Protected pages are delivered to a write operation that comes later. */
static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	atomic_fetch_add((_Atomic uint64_t *)ctx, f->len);
	return 0;
}

static void arrives_protected(struct live *t)
{
	const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = on_write };
	struct uffdwp_restore_opts o = { .protect = 1 };
	_Atomic uint64_t written = 0;
	struct uffdwp_restore *rs;
	struct uffdwp_region *r;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	restored_compare(&c);
	r = uffdwp_restore_region(rs, 0);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_KEEP), 0);
	CHECK_EQ(uffdwp_region_set_ops(r, &ops, &written), 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, 1);
	CHECK_EQ(atomic_load(&written), t->mem.size);
	restored_end(&c);
}

/* ---- Order ---- */

/* What faults asked for comes first the next time, and is all there when it has come. */
static void order(struct live *t)
{
	static const unsigned int at[] = { 0, 40, 11, 41, 42, 0, 120 };
	struct uffdwp_restore_range r[16], some[1];
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore *rs;
	struct restored c;
	int64_t n;

	restored_make(&c, t);
	/* Page 0 is not zeros; each of the others may be, by the seed, and is not read then. */
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(uffdwp_restore_order(rs, NULL, 0), 0);
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		live_load(t->mem.addr + at[i] * t->page);
	n = uffdwp_restore_order(rs, r, 16);
	CHECK(n >= 1 && n <= 7);
	CHECK_EQ(r[0].offset, 0);
	CHECK_EQ(uffdwp_restore_order(rs, some, 1), n);
	CHECK_EQ(some[0].offset, r[0].offset);
	CHECK_EQ(r[0].region, 0);
	for (int64_t i = 0; i < n; i++) {
		bool asked = false;

		for (size_t k = 0; k < sizeof(at) / sizeof(at[0]); k++)
			asked |= r[i].offset <= at[k] * t->page &&
				 at[k] * t->page < r[i].offset + r[i].len;
		CHECK(asked);
	}
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* With the order alone within the rate, what it names comes without a fault, and nothing else. */
static void order_used(struct live *t)
{
	struct uffdwp_restore_range first = { .offset = 100 * t->page, .len = 8 * t->page };
	struct uffdwp_restore_opts o = { .rate = 1, .order = &first, .norder = 1 };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	uint64_t want = 0, faults;
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	for (uint64_t i = 0; i < 8; i++)
		for (uint64_t k = 0; k < t->page; k++)
			if (c.data[first.offset + i * t->page + k]) {
				want += t->page;
				break;
			}
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	do {
		live_msleep(1);
		st = stats_of(rs);
	} while (st.by_prefetch < want);
	CHECK_EQ(st.by_prefetch, want);
	faults = st.faults;
	for (uint64_t i = 0; i < 8; i++)
		if (memcmp(c.data + first.offset + i * t->page,
			   t->mem.addr + first.offset + i * t->page, t->page))
			FAIL("page %llu", (unsigned long long)i);
	/* Zeros are faults still. */
	CHECK(stats_of(rs).faults - faults <= 8 - want / t->page);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_ABANDON), 0);
	restored_end(&c);
}

/* ---- The address space changes ---- */

static void move_away(struct restored *c)
{
	struct mem *m = &c->t->mem;
	char *to = mmap(NULL, m->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(to != MAP_FAILED);
	CHECK(mremap(m->addr, m->size, m->size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	m->addr = to;
	c->addr = (uintptr_t)to;
}

static void remapped(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_EVENT_REMAP, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(live_load(t->mem.addr), live_load(c.data));
	move_away(&c);
	/* The fault comes after the event, so the prefetch knows the address by then. */
	live_load(t->mem.addr + t->mem.size - t->page);
	check_complete(&c, rs);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* An operation that is not over until the memory which has moved was read, or for ten seconds. */
struct slow {
	_Atomic bool begun, over, in_vain;
};

static int slow_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct slow *s = ctx;

	atomic_store(&s->begun, true);
	for (int ms = 0; !atomic_load(&s->over) && ms < 10000; ms++)
		live_msleep(1);
	atomic_store(&s->in_vain, !atomic_load(&s->over));
	return uffdwp_zeropage(r, f->addr, f->len, 0, NULL);
}

static void add_slow(struct uffdwp *h, struct mem *m, struct slow *s)
{
	const struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = slow_missing };
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .mode = UFFDWP_MODE_MISSING, .ops = &ops, .ctx = s
	};
	struct uffdwp_region *r;

	CHECK_EQ(mem_map(m, MEM_ANON, 4096), 0);
	ro.addr = (uintptr_t)m->addr;
	ro.len = m->size;
	CHECK_EQ(uffdwp_region_add(h, &ro, &r), 0);
}

static void *touch(void *arg)
{
	live_load(arg);
	return NULL;
}

/*
 * The event that tells of a move waits for the operations that are under way, and meanwhile the region is at its new
 * place: who faults there is served, and does not wait for the event.
 */
static void moved_in_flight(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore *rs;
	struct slow s = { 0 };
	struct restored c;
	pthread_t toucher;
	struct mem other;

	restored_make(&c, t);
	restored_open_threads(&c, 3, UFFDWP_FEATURE_EVENT_REMAP);
	rs = restored_start(&c, &o);
	add_slow(c.h, &other, &s);
	live_thread(&toucher, touch, other.addr);
	while (!atomic_load(&s.begun))
		live_msleep(1);
	move_away(&c);
	for (size_t i = 0; i < t->pages; i += 7)
		CHECK_EQ(live_load(t->mem.addr + i * t->page), live_load(c.data + i * t->page));
	atomic_store(&s.over, true);
	live_join(toucher);
	CHECK(!atomic_load(&s.in_vain));
	check_complete(&c, rs);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
	mem_unmap(&other);
}

struct move {
	void *from, *to;
	size_t size;
};

static void *move_it(void *arg)
{
	const struct move *m = arg;

	CHECK(mremap(m->from, m->size, m->size, MREMAP_MAYMOVE | MREMAP_FIXED, m->to) == m->to);
	return NULL;
}

/* The one thread that serves waits for the end, and the memory moves: nothing is given up for that. */
static void moved_alone(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct move m = { .from = t->mem.addr, .size = t->mem.size };
	struct uffdwp_restore *rs;
	struct restored c;
	pthread_t mover;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_CALLER, UFFDWP_FEATURE_EVENT_REMAP, 0);
	live_serve_stop(&c.server);
	rs = restored_start(&c, &o);
	m.to = mmap(NULL, m.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m.to != MAP_FAILED);
	live_thread(&mover, move_it, &m);
	live_msleep(50);
	check_complete(&c, rs);
	/* If it was late, the event is read now. */
	live_serve(&c.server, c.h);
	live_join(mover);
	t->mem.addr = m.to;
	c.addr = (uintptr_t)m.to;
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* What the kernel splits into several mappings is restored all the same, whatever is asked for together. */
static void split(struct live *t, uint32_t prefetch)
{
	size_t at = (t->pages / 2 + 1) * t->page;
	struct uffdwp_restore_opts o = { .prefetch = prefetch };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	CHECK_EQ(mprotect(t->mem.addr + at, t->mem.size - at, PROT_READ), 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(live_load(t->mem.addr + at - t->page), live_load(c.data + at - t->page));
	check_complete(&c, rs);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

static void split_prefetch(struct live *t)
{
	split(t, 0);
}

static void split_fault(struct live *t)
{
	split(t, 1);
}

/* A few pages at its end, and in its middle. */
static void unmapped_some(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	size_t hole = (t->pages / 2 - 1) * t->page, end = t->mem.size - 3 * t->page;
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_EVENT_UNMAP, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(munmap(t->mem.addr + end, 3 * t->page), 0);
	CHECK_EQ(munmap(t->mem.addr + hole, t->page), 0);
	CHECK_EQ(munmap(t->mem.addr, t->page), 0);
	CHECK_EQ(live_load(t->mem.addr + hole - t->page), live_load(c.data + hole - t->page));
	CHECK_EQ(uffdwp_restore_wait(rs, &st), 0);
	CHECK_EQ(st.done, 1);
	for (size_t i = t->page; i < end; i += 8)
		if (i - hole >= t->page && live_load(t->mem.addr + i) != live_load(c.data + i))
			FAIL("at %zu", i);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* Part of it goes away: the rest comes. */
static void unmapped(struct live *t)
{
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	size_t hole = t->mem.size / 4;
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_EVENT_UNMAP, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(munmap(t->mem.addr + hole, hole), 0);
	CHECK_EQ(uffdwp_restore_wait(rs, &st), 0);
	CHECK_EQ(st.done, 1);
	for (size_t i = 0; i < t->mem.size; i += 8)
		if ((i < hole || i >= 2 * hole) &&
		    live_load(t->mem.addr + i) != live_load(c.data + i))
			FAIL("at %zu", i);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

/* A forked child frees its copy while the parent's prefetch sleeps, and the parent notices nothing. */
static void forked(struct live *t)
{
	struct uffdwp_restore_opts o = { .rate = 1000 };
	struct uffdwp_restore *rs;
	struct restored c;
	int status;
	pid_t pid;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		_exit(uffdwp_restore_wait(rs, NULL) != -ECHILD ||
		      uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE) != 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_compare(&c);
	restored_end(&c);
}

/* ---- Eager ---- */

static void eager(struct live *t)
{
	struct uffdwp_restore_opts o = { .eager = 1 };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	rs = restored_start(&c, &o);
	CHECK_EQ(uffdwp_restore_wait(rs, &st), 0);
	CHECK_EQ(st.done, 1);
	CHECK_EQ(st.bytes, c.size);
	CHECK_EQ(st.faults, 0);
	CHECK(!uffdwp_restore_region(rs, 0));
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_KEEP), 0);
	restored_compare(&c);
	restored_end(&c);
}

#define BASE (KINDS_ALL & ~KINDS_HUGETLB & ~BIT(MEM_THP))

static const struct live_case cases[] = {
	{ "both/threads", both_threads, KINDS_ALL, 0, 0 },
	{ "both/caller", both_caller, KINDS_ALL, 0, 0 },
	{ "both/protected", both_protected, KINDS_ALL, 0, 0 },
	{ "faults-alone", faults_alone, KINDS_ALL, 0, 0 },
	{ "wait-alone", wait_alone, KINDS_ALL, 0, 0 },
	{ "huge-pages", huge_pages, BIT(MEM_THP), UFFDWP_FEATURE_MOVE, 0 },
	{ "keep", keep, KINDS_ALL, 0, 0 },
	{ "discarded", discarded, BIT(MEM_ANON) | BIT(MEM_THP), 0, 0 },
	{ "abandon", abandon, KINDS_ALL, 0, 0 },
	{ "hurry", hurry, BASE, 0, 0 },
	{ "arrives-protected", arrives_protected, KINDS_ALL, 0, 0 },
	{ "order", order, BIT(MEM_ANON), 0, 0 },
	{ "order-used", order_used, BIT(MEM_ANON), 0, 0 },
	{ "remapped", remapped, BASE, UFFDWP_FEATURE_EVENT_REMAP, 0 },
	{ "moved-alone", moved_alone, BASE, UFFDWP_FEATURE_EVENT_REMAP, 0 },
	{ "moved-in-flight", moved_in_flight, BASE, UFFDWP_FEATURE_EVENT_REMAP, 0 },
	{ "unmapped", unmapped, BASE, UFFDWP_FEATURE_EVENT_UNMAP, 0 },
	{ "unmapped-some", unmapped_some, BASE, UFFDWP_FEATURE_EVENT_UNMAP, 0 },
	{ "split-prefetch", split_prefetch, KINDS_ALL, 0, 0 },
	{ "split-fault", split_fault, KINDS_ALL, 0, 0 },
	{ "forked", forked, BIT(MEM_ANON), 0, 0 },
	{ "eager", eager, KINDS_ALL, 0, 0 },
};

LIVE_MAIN(cases)
