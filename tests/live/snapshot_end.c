/* SPDX-License-Identifier: MIT */
/*
 * Ways in which a snapshot ends: cancelled in every phase, freed in every phase, by the handle's
 * failure, by unmapping and moving; several regions, a second snapshot, a fork, a tracker besides
 * it, another process.
 */
#include "../common/snap.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uffdwp/track.h>

#define REMAP UFFDWP_FEATURE_EVENT_REMAP
#define UNMAP UFFDWP_FEATURE_EVENT_UNMAP

static void begin(struct snap *c, struct live *t, int mode, uint64_t features, bool by_caller)
{
	struct uffdwp_snapshot_opts o = { .by_caller = by_caller };

	live_fill(t->mem.addr, t->mem.size, t->seed);
	snap_open(c, t, mode, features);
	snap_new(c, &o);
}

/* ---- Cancelling and freeing ---- */

enum when { NEW, ARMED, SEALED, HELD_BACK, ENDED, WHENS };

static void cancel_at(struct live *t, int mode, enum when when, bool by_caller, bool only_free)
{
	struct snap c;

	begin(&c, t, mode, 0, by_caller);
	snap_writers_start(&c);
	if (when >= ARMED)
		CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	if (when == HELD_BACK && !by_caller)
		snap_hold(&c);
	else if (when >= SEALED)
		CHECK_EQ(snap_seal(&c), 0);
	if (when == ENDED)
		snap_wait(&c);
	if (!only_free) {
		CHECK_EQ(uffdwp_snapshot_cancel(c.s), 0);
		CHECK_EQ(uffdwp_snapshot_cancel(c.s), 0);
	}
	snap_go(&c);
	if (!only_free) {
		snap_wait(&c);
		/* The saver may have been quicker. */
		if (c.res.verdict == UFFDWP_SNAPSHOT_COMPLETE && when >= SEALED)
			snap_check_complete(&c);
		else
			snap_check_verdict(&c, UFFDWP_SNAPSHOT_CANCELLED,
					   UFFDWP_SNAPSHOT_WHY_CALLER, 0);
		CHECK_EQ(uffdwp_snapshot_arm(c.s) < 0, 1);
		CHECK_EQ(uffdwp_snapshot_seal(c.s) < 0, 1);
	}
	snap_close(&c);
	CHECK(only_free || c.sink.end.verdict == c.res.verdict);
}

static void cancel(struct live *t, int mode)
{
	for (int when = NEW; when < WHENS; when++)
		for (int k = 0; k < 4; k += live_brief() ? 3 : 1)
			cancel_at(t, mode, (enum when)when, k & 1, k & 2);
}

static void cancel_cow(struct live *t)
{
	cancel(t, SNAP_COW_THREADS);
}

static void cancel_sigbus(struct live *t)
{
	cancel(t, SNAP_COW_SIGBUS);
}

static void cancel_async(struct live *t)
{
	cancel(t, SNAP_PRE_ASYNC);
}

/*
 * While another thread arms, or seals: whichever comes first, nobody hangs and the verdict is true.
 */
static void *cancel_soon(void *arg)
{
	struct snap *c = arg;
	uint64_t rnd = c->seed;

	for (uint64_t n = live_random(&rnd) % 2000; n; n--)
		__asm__ volatile("" ::: "memory");
	CHECK_EQ(uffdwp_snapshot_cancel(c->s), 0);
	return NULL;
}

static void cancel_racing(struct live *t, int mode)
{
	for (uint64_t i = 0; i < live_times(12); i++) {
		pthread_t other;
		struct snap c;
		int err;

		begin(&c, t, mode, 0, false);
		c.seed += i;
		snap_writers_start(&c);
		if (i & 1)
			CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
		live_thread(&other, cancel_soon, &c);
		err = i & 1 ? 0 : uffdwp_snapshot_arm(c.s);
		CHECK(!err || err == -ECANCELED);
		err = snap_seal(&c);
		CHECK(!err || err == -ECANCELED);
		live_join(other);
		snap_wait(&c);
		if (c.res.verdict == UFFDWP_SNAPSHOT_COMPLETE)
			snap_check_complete(&c);
		else
			snap_check_verdict(&c, UFFDWP_SNAPSHOT_CANCELLED,
					   UFFDWP_SNAPSHOT_WHY_CALLER, 0);
		snap_close(&c);
	}
}

static void cancel_racing_cow(struct live *t)
{
	cancel_racing(t, SNAP_COW_THREADS);
}

static void cancel_racing_async(struct live *t)
{
	cancel_racing(t, SNAP_PRE_ASYNC);
}

/* ---- The handle fails ---- */

static int fail_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r, (void)f, (void)ctx;
	return -EIO;
}

/* A second region's operation fails: every page is released then, of this region too. */
static void handle_fails(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = fail_missing };
	char *other = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)other,
					 .len = 4096,
					 .mode = UFFDWP_MODE_MISSING,
					 .ops = &ops };
	struct uffdwp_region *r;
	struct snap c;
	int p[2];

	CHECK(other != MAP_FAILED);
	begin(&c, t, SNAP_COW_THREADS, 0, false);
	CHECK_EQ(uffdwp_region_add(c.h, &ro, &r), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	/* By the kernel, so that poison is an error and no signal. */
	CHECK_EQ(pipe(p), 0);
	CHECK(write(p[1], other, 1) <= 1);
	close(p[0]);
	close(p[1]);
	CHECK_EQ(uffdwp_error(c.h), -EIO);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	snap_go(&c);
	snap_check_verdict(&c, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_HANDLE, -EIO);
	snap_close(&c);
	munmap(other, 4096);
}

/* ---- Unmapping and moving ---- */

/* The books change before the snapshot is told: 1 lets it be told later, which sets 2, and 0 lets it go on. */
static _Atomic int late;

void __real_uffdwp__layers_event(struct uffdwp_region *r, const struct uffdwp_event *e);
void __wrap_uffdwp__layers_event(struct uffdwp_region *r, const struct uffdwp_event *e);
void __wrap_uffdwp__layers_event(struct uffdwp_region *r, const struct uffdwp_event *e)
{
	if (atomic_load(&late)) {
		atomic_store(&late, 2);
		while (atomic_load(&late))
			live_msleep(1);
	}
	__real_uffdwp__layers_event(r, e);
}

static void unmapped(struct live *t, int mode, bool sealed)
{
	bool held = atomic_load(&late);
	struct snap c;

	begin(&c, t, mode, UNMAP | REMAP, false);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	if (sealed)
		snap_hold(&c);
	CHECK_EQ(munmap(t->mem.addr + t->mem.size / 2, t->mem.size / 2), 0);
	if (held)
		live_until(&late, 2);
	if (!sealed) {
		int err = uffdwp_snapshot_seal(c.s);

		CHECK(!err || err == -ECANCELED || err == -ENOENT);
	}
	snap_go(&c);
	snap_check_verdict(&c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_UNMAPPED, 0);
	atomic_store(&late, 0);
	CHECK(c.res.addr >= (uintptr_t)t->mem.addr && c.res.len);
	for (size_t i = 0; i < t->pages / 2; i++)
		live_store(t->mem.addr + i * t->page, i);
	snap_close(&c);
	t->mem.size /= 2;
}

static void unmapped_sealed(struct live *t)
{
	unmapped(t, SNAP_COW_THREADS, true);
}

static void unmapped_armed(struct live *t)
{
	unmapped(t, SNAP_COW_THREADS, false);
}

static void unmapped_precopy(struct live *t)
{
	unmapped(t, SNAP_PRE_ASYNC, false);
}

static void untold_sealed(struct live *t)
{
	atomic_store(&late, 1);
	unmapped(t, SNAP_COW_THREADS, true);
}

/* For longer than the seal waits: it must not be one that does not know what went away before it. */
static void untold(struct live *t, int mode)
{
	struct snap c;

	begin(&c, t, mode, UNMAP | REMAP, false);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	atomic_store(&late, 1);
	CHECK_EQ(munmap(t->mem.addr + t->mem.size / 2, t->mem.size / 2), 0);
	live_until(&late, 2);
	CHECK_EQ(uffdwp_snapshot_seal(c.s), -EBUSY);
	atomic_store(&late, 0);
	snap_go(&c);
	snap_check_verdict(&c, UFFDWP_SNAPSHOT_FAILED, UFFDWP_SNAPSHOT_WHY_SYSTEM, -EBUSY);
	snap_close(&c);
	t->mem.size /= 2;
}

static void untold_armed(struct live *t)
{
	untold(t, SNAP_COW_THREADS);
}

static void untold_precopy(struct live *t)
{
	untold(t, SNAP_PRE_ASYNC);
}

static int note_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	(void)r;
	(void)e;
	atomic_store((_Atomic int *)ctx, 1);
	return 0;
}

/* mremap(2) waits until its event is read. Before the snapshot is told, a page is just not there, or is saved. */
static void moved(struct live *t, int mode, bool sealed)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .event = note_event };
	char *to = mmap(NULL, t->mem.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *now;
	_Atomic int told = 0;
	struct snap c;

	CHECK(to != MAP_FAILED);
	begin(&c, t, mode, UNMAP | REMAP, false);
	CHECK_EQ(uffdwp_region_set_ops(c.r, &ops, (void *)&told), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	if (sealed)
		snap_hold(&c);
	now = mremap(t->mem.addr, t->mem.size, t->mem.size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	CHECK_EQ(now == to, 1);
	t->mem.addr = now;
	live_until(&told, 1);
	if (!sealed) {
		int err = uffdwp_snapshot_seal(c.s);

		CHECK(!err || err == -ECANCELED);
	}
	snap_go(&c);
	snap_check_verdict(&c, UFFDWP_SNAPSHOT_CANCELLED, UFFDWP_SNAPSHOT_WHY_MOVED, 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	snap_close(&c);
}

static void moved_sealed(struct live *t)
{
	moved(t, SNAP_COW_THREADS, true);
}

static void moved_armed(struct live *t)
{
	moved(t, SNAP_COW_THREADS, false);
	moved(t, SNAP_PRE_ASYNC, false);
}

/* ---- Several regions, several snapshots ---- */

static void busy(struct live *t)
{
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o) };
	struct uffdwp_snapshot *s;
	struct snap_sink k = { .fail_begin = 0 };
	struct snap c;

	begin(&c, t, SNAP_COW_THREADS, 0, false);
	snap_sink_init(&k, t->mem.size, t->page);
	o.sink = &k.sink;
	CHECK_EQ(uffdwp_snapshot_new(&s, &c.r, 1, &o), -EBUSY);
	CHECK_EQ(s == NULL, 1);
	CHECK_EQ(atomic_load(&k.begun) + atomic_load(&k.freed), 0);
	CHECK_EQ(uffdwp_region_remove(c.r), -EBUSY);
	CHECK_EQ(uffdwp_close(c.h), -EBUSY);
	CHECK_EQ(uffdwp_protect(c.r, (uintptr_t)t->mem.addr, t->page, NULL), -EBUSY);
	CHECK_EQ(uffdwp_unprotect(c.r, (uintptr_t)t->mem.addr, t->page, NULL), -EBUSY);
	CHECK_EQ(uffdwp_sweep(c.r, (uintptr_t)t->mem.addr, t->page, NULL), -EBUSY);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	/* Until it is freed. */
	CHECK_EQ(uffdwp_close(c.h), -EBUSY);
	CHECK_EQ(uffdwp_snapshot_free(c.s), 0);
	/* The next one on the same region. */
	atomic_store(&c.sink.freed, 0);
	snap_sink_end(&c.sink);
	memset(&c.sink, 0, sizeof(c.sink));
	o = (struct uffdwp_snapshot_opts){ 0 };
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	live_store(t->mem.addr, 1);
	CHECK_EQ(snap_seal(&c), 0);
	live_store(t->mem.addr, 2);
	snap_check_complete(&c);
	snap_close(&c);
	snap_sink_end(&k);
}

static void regions(struct live *t)
{
	size_t half = t->pages / 2 * t->page;
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, mem_wp_features(t->mem.kind));
	char *copy = malloc(t->mem.size), *shadow = malloc(t->mem.size);
	void *copies[2] = { copy, copy + half };
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &sink };
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct uffdwp_region *r[2];
	struct uffdwp_snapshot *s;

	CHECK(copy && shadow);
	live_fill(t->mem.addr, t->mem.size, t->seed);
	memcpy(shadow, t->mem.addr, t->mem.size);
	for (int i = 0; i < 2; i++) {
		struct uffdwp_region_opts ro = { .sz = sizeof(ro),
						 .addr = (uintptr_t)t->mem.addr + half * (size_t)i,
						 .len = i ? t->mem.size - half : half,
						 .page_size = t->page,
						 .mode = UFFDWP_MODE_WP };

		CHECK_EQ(uffdwp_region_add(h, &ro, &r[i]), 0);
	}
	CHECK_EQ(uffdwp_sink_memory(&sink, copies, 2), 0);
	CHECK_EQ(uffdwp_snapshot_new(&s, r, 2, &o), 0);
	CHECK_EQ(uffdwp_snapshot_arm(s), 0);
	CHECK_EQ(uffdwp_snapshot_seal(s), 0);
	for (size_t i = 0; i < t->pages; i += 2)
		live_store(t->mem.addr + i * t->page, i);
	CHECK_EQ(uffdwp_snapshot_wait(s, &res), 0);
	CHECK_EQ(res.verdict, UFFDWP_SNAPSHOT_COMPLETE);
	CHECK_EQ(res.size, t->mem.size);
	CHECK_EQ(memcmp(copy, shadow, t->mem.size), 0);
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	free(copy);
	free(shadow);
}

/* Huge pages that the program wants kept whole: each is a page of the snapshot. */
static void thp_pages(struct live *t)
{
	struct uffdwp_snapshot_opts o = { 0 };
	struct snap c;

	live_at_least(t, 4u << 20);
	t->page = 2u << 20;
	t->pages = t->mem.size / t->page;
	live_fill(t->mem.addr, t->mem.size, t->seed);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	snap_open(&c, t, SNAP_COW_THREADS, 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	live_store(t->mem.addr + t->page + 8, 1);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(c.res.by_fault, t->page);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	snap_close(&c);
}

/* In small pages: what nobody writes is released whole. */
static void thp_whole(struct live *t)
{
	struct snap c;

	begin(&c, t, SNAP_COW_THREADS, 0, false);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	live_store(t->mem.addr + 8, 1);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(mem_thp_bytes(&t->mem), t->mem.size - (2u << 20));
	snap_close(&c);
}

/* ---- Kernels without markers, regions with missing faults ---- */

/* As before 6.4: what was never there is populated, and then protected. */
static void populated(struct live *t)
{
	struct uffdwp_opts ho = { .masked = UFFDWP_FEATURE_WP_UNPOPULATED | UFFDWP_FEATURE_WP_ASYNC,
				  .threads = 2 };
	struct uffdwp_snapshot_opts o = { 0 };
	struct uffdwp_info info;
	struct snap c = { .t = t, .mode = &snap_modes[SNAP_COW_THREADS], .seed = t->seed };

	live_fill(t->mem.addr, t->mem.size / 2, t->seed);
	c.h = live_open_opts(&ho);
	live_info(c.h, &info);
	CHECK_EQ(info.populates, 1);
	c.r = live_region(t, c.h, UFFDWP_MODE_WP, 1, NULL, NULL);
	c.shadow = malloc(t->mem.size);
	CHECK(c.shadow);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	live_store(t->mem.addr + t->page, 1);
	snap_hold(&c);
	for (size_t i = 0; i < t->pages; i += 3)
		live_store(t->mem.addr + i * t->page, i);
	snap_go(&c);
	snap_check_complete(&c);
	snap_close(&c);
}

static int place(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	return uffdwp_copy(r, f->addr, (char *)ctx + f->offset, f->len, 0, NULL);
}

/* What is missing at the seal is whatever its operation places. */
static void missing(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = place };
	struct uffdwp_opts ho = { .threads = 2 };
	struct uffdwp_snapshot_opts o = { 0 };
	struct snap c = { .t = t, .mode = &snap_modes[SNAP_COW_THREADS], .seed = t->seed };
	char *source = aligned_alloc(t->page, t->mem.size);

	CHECK(source);
	live_fill(source, t->mem.size, t->seed);
	c.h = live_open_opts(&ho);
	c.r = live_region(t, c.h, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, 1, &ops, source);
	c.shadow = malloc(t->mem.size);
	CHECK(c.shadow);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	live_store(t->mem.addr, 1);
	memcpy(c.shadow, source, t->mem.size);
	live_store(c.shadow, 1);
	atomic_store(&c.sink.gate, 1);
	CHECK_EQ(uffdwp_snapshot_seal(c.s), 0);
	live_store(t->mem.addr, 2);
	live_store(t->mem.addr + 3 * t->page, 2);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(live_load(t->mem.addr + 3 * t->page), 2);
	snap_close(&c);
	free(source);
}

/* ---- Fork ---- */

static void forked(struct live *t, int mode)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct snap c;
	int status;
	pid_t pid;

	begin(&c, t, mode, 0, false);
	live_needs_fork(t, c.h);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	snap_hold(&c);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		live_store(t->mem.addr, 99);
		if (uffdwp_snapshot_arm(c.s) != -ECHILD || uffdwp_snapshot_seal(c.s) != -ECHILD ||
		    uffdwp_snapshot_wait(c.s, NULL) != -ECHILD ||
		    uffdwp_snapshot_step(c.s, 1) != -ECHILD ||
		    uffdwp_snapshot_cancel(c.s) != -ECHILD ||
		    uffdwp_snapshot_poll(c.s, &res) != -ECHILD || uffdwp_snapshot_free(c.s) ||
		    uffdwp_close(c.h))
			_exit(1);
		_exit(atomic_load(&c.sink.freed) + atomic_load(&c.sink.ended) ? 2 : 0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	/*
	 * A child on shared memory writes past protection, as documented; precopy has it all by
	 * now.
	 */
	if (BIT(t->mem.kind) & KINDS_SHARED && c.mode->strategy == UFFDWP_SNAPSHOT_COW)
		live_store(c.shadow, 99);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	snap_go(&c);
	snap_check_complete(&c);
	snap_close(&c);
}

static void forked_cow(struct live *t)
{
	forked(t, SNAP_COW_THREADS);
}

static void forked_async(struct live *t)
{
	forked(t, SNAP_PRE_ASYNC);
}

/* ---- A tracker ---- */

/* What was written is what the tracker tells, whatever the snapshot does. */
static void tracked(struct live *t, int mode)
{
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	struct uffdwp_track *track;
	struct snap c;

	begin(&c, t, mode, 0, false);
	CHECK_EQ(uffdwp_track_start(&track, &c.r, 1, NULL), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	live_store(t->mem.addr + t->page, 1);
	snap_hold(&c);
	live_store(t->mem.addr + 2 * t->page, 1);
	snap_go(&c);
	snap_check_complete(&c);
	live_store(t->mem.addr + 4 * t->page, 1);
	CHECK_EQ(uffdwp_track_collect(track, &q), 0);
	CHECK_EQ(q.bytes, 3 * t->page);
	CHECK_EQ(uffdwp_snapshot_free(c.s), 0);
	live_store(t->mem.addr + 5 * t->page, 1);
	CHECK_EQ(uffdwp_track_collect(track, &q), 0);
	CHECK_EQ(q.bytes, t->page);
	CHECK_EQ(uffdwp_track_stop(track), 0);
	c.s = NULL;
	atomic_store(&c.sink.freed, 0);
	snap_close(&c);
}

static void tracked_cow(struct live *t)
{
	tracked(t, SNAP_COW_THREADS);
	tracked(t, SNAP_COW_SIGBUS);
}

static void tracked_precopy(struct live *t)
{
	tracked(t, SNAP_PRE_ASYNC);
	tracked(t, SNAP_PRE_SYNC);
}

struct collector {
	struct uffdwp_track *track;
	_Atomic int stop;
	_Atomic uint64_t bytes;
};

static void *collect_main(void *arg)
{
	struct collector *k = arg;

	while (!atomic_load(&k->stop)) {
		struct uffdwp_track_query q = { .sz = sizeof(q) };

		CHECK_EQ(uffdwp_track_collect(k->track, &q), 0);
		atomic_fetch_add(&k->bytes, q.bytes);
	}
	return NULL;
}

/* With a tracker that protects again what was saved: nothing is saved twice. */
static void tracked_racing(struct live *t, int mode)
{
	struct collector k = { .bytes = 0 };
	pthread_t collector;
	struct snap c;

	begin(&c, t, mode, 0, false);
	CHECK_EQ(uffdwp_track_start(&k.track, &c.r, 1, NULL), 0);
	snap_writers_start(&c);
	live_thread(&collector, collect_main, &k);
	while (!atomic_load(&k.bytes))
		live_msleep(1);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	CHECK_EQ(snap_seal(&c), 0);
	snap_check_complete(&c);
	atomic_store(&k.stop, 1);
	live_join(collector);
	CHECK_EQ(uffdwp_track_stop(k.track), 0);
	snap_close(&c);
}

static void tracked_racing_cow(struct live *t)
{
	tracked_racing(t, SNAP_COW_THREADS);
}

static void tracked_racing_async(struct live *t)
{
	tracked_racing(t, SNAP_PRE_ASYNC);
}

#define ROW(name, kinds, features)              \
	{                                       \
#name, name, kinds, features, 0 \
	}

static const struct live_case cases[] = {
	ROW(cancel_cow, KINDS_ALL, 0),
	ROW(cancel_sigbus, BIT(MEM_ANON), 0),
	ROW(cancel_async, KINDS_ALL, 0),
	ROW(cancel_racing_cow, KINDS_ALL, 0),
	ROW(cancel_racing_async, BIT(MEM_ANON), 0),
	ROW(handle_fails, KINDS_ALL, 0),
	ROW(unmapped_sealed, KINDS_ALL, UNMAP | REMAP),
	ROW(unmapped_armed, KINDS_ALL, UNMAP | REMAP),
	ROW(unmapped_precopy, KINDS_ALL, UNMAP | REMAP),
	ROW(untold_sealed, KINDS_ALL, UNMAP | REMAP),
	ROW(untold_armed, BIT(MEM_ANON), UNMAP | REMAP),
	ROW(untold_precopy, BIT(MEM_ANON), UNMAP | REMAP),
	ROW(moved_sealed, KINDS_ALL & ~KINDS_HUGETLB, UNMAP | REMAP),
	ROW(moved_armed, KINDS_ALL & ~KINDS_HUGETLB, UNMAP | REMAP),
	ROW(busy, KINDS_ALL, 0),
	ROW(regions, KINDS_ALL, 0),
	ROW(thp_pages, BIT(MEM_THP), 0),
	ROW(thp_whole, BIT(MEM_THP), 0),
	ROW(populated, KINDS_ANON, 0),
	ROW(missing, KINDS_ALL, 0),
	ROW(forked_cow, KINDS_ALL, 0),
	ROW(forked_async, KINDS_ALL, 0),
	ROW(tracked_cow, KINDS_ALL, 0),
	ROW(tracked_precopy, KINDS_ALL, 0),
	ROW(tracked_racing_cow, KINDS_ALL, 0),
	ROW(tracked_racing_async, KINDS_ALL, 0),
};

LIVE_MAIN(cases)
