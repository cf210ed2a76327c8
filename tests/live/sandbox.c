/* SPDX-License-Identifier: MIT */
/*
 * Serving threads make no system calls but those that uffdwp(7) lists: each way of serving, under load, with
 * each kind of fault, tracked, and in a snapshot, under a filter that kills at any other.
 */
#include "common/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../common/restore.h"
#include <uffdwp/snapshot.h>
#include <uffdwp/track.h>

#define WRITERS 3
#define ROUNDS ((int)live_times(8))

struct box {
	struct live *t;
	struct uffdwp *h;
	struct uffdwp_region *r;
	_Atomic int calls;
	char *source; /* of missing pages */
	sem_t forked;
	struct uffdwp *child;
};

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct box *b = ctx;
	char word[8];

	atomic_fetch_add(&b->calls, 1);
	return uffdwp_read(r, f->addr, word, sizeof(word), NULL);
}

static int place(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	const struct box *b = ctx;

	return f->offset / f->len % 2
		       ? uffdwp_zeropage(r, f->addr, f->len, 0, NULL)
		       : uffdwp_copy(r, f->addr, b->source, f->len, UFFDWP_COPY_WP, NULL);
}

struct writer {
	struct box *b;
	unsigned int groups; /* not 0: served in itself */
	size_t first;
};

static void *write_pages(void *arg)
{
	struct writer *w = arg;
	struct live *t = w->b->t;

	if (w->groups)
		CHECK_EQ(sandbox_enter(w->groups), 0);
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + (w->first + i) % t->pages * t->page, i);
	return NULL;
}

/* Racing, each from another page on. */
static void write_all(struct box *b, unsigned int groups)
{
	struct writer w[WRITERS];
	pthread_t threads[WRITERS];

	for (unsigned int i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ b, groups, i * b->t->pages / WRITERS };
		live_thread(&threads[i], write_pages, &w[i]);
	}
	for (unsigned int i = 0; i < WRITERS; i++)
		live_join(threads[i]);
}

static void open_pool(struct box *b, struct live *t, unsigned int *groups, struct uffdwp_opts o)
{
	memset(b, 0, sizeof(*b));
	b->t = t;
	o.threads = 3;
	o.thread_start = sandbox_thread_start;
	o.thread_arg = groups;
	b->h = live_open_opts(&o);
}

static void protect_and_write(struct box *b, unsigned int groups)
{
	for (int i = 0; i < ROUNDS; i++) {
		live_protect(b->t, b->r);
		write_all(b, groups);
	}
	CHECK_EQ(atomic_load(&b->calls), ROUNDS * b->t->pages);
}

/* ---- The pool ---- */

static void pool(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	unsigned int groups = SANDBOX_PLACEMENT;
	struct box b;

	open_pool(&b, t, &groups, (struct uffdwp_opts){ .required = mem_wp_features(t->mem.kind) });
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	protect_and_write(&b, 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
}

/* Writers that are bound are followed; a scheduled pool binds nobody. */
static void scheduled(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	unsigned int groups = 0;
	struct box b;

	open_pool(&b, t, &groups, (struct uffdwp_opts){ .placement = UFFDWP_PLACE_SCHED });
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	protect_and_write(&b, 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
}

static void missing(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = place, .write = save };
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_ABSENT;
	struct box b;

	open_pool(&b, t, &groups,
		  (struct uffdwp_opts){ .required = mem_missing_features(t->mem.kind) });
	b.source = calloc(1, t->page);
	b.r = live_region(t, b.h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, &ops, &b);
	write_all(&b, 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
	free(b.source);
}

/* The page is in the page cache, through a second mapping. */
static int proceed(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	const struct box *b = ctx;

	live_store((char *)f->mem, 1);
	return f->mem == b->source + f->offset ? uffdwp_continue(r, f->addr, f->len, 0, NULL)
					       : -EPROTO;
}

static void minor(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .minor = proceed };
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_ABSENT;
	bool shmem = t->mem.kind == MEM_SHMEM;
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)t->mem.addr,
					 .len = t->mem.size,
					 .page_size = t->page,
					 .mode = UFFDWP_MODE_MINOR,
					 .ops = &ops };
	struct box b;

	open_pool(&b, t, &groups,
		  (struct uffdwp_opts){ .required = shmem ? UFFDWP_FEATURE_MINOR_SHMEM
							  : UFFDWP_FEATURE_MINOR_HUGETLBFS });
	b.source = mmap(NULL, t->mem.size, PROT_READ | PROT_WRITE, MAP_SHARED, t->mem.fd, 0);
	CHECK(b.source != MAP_FAILED);
	live_fill(b.source, t->mem.size, t->seed);
	ro.mem = b.source;
	ro.ctx = &b;
	CHECK_EQ(uffdwp_region_add(b.h, &ro, &b.r), 0);
	write_all(&b, 0);
	CHECK_EQ(uffdwp_error(b.h), 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
	munmap(b.source, t->mem.size);
}

static int move_here(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	const struct box *b = ctx;

	return uffdwp_move(r, f->addr, (uintptr_t)b->source + f->offset, f->len, NULL);
}

static void moved(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = move_here };
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_ABSENT;
	struct box b;

	open_pool(&b, t, &groups, (struct uffdwp_opts){ .required = UFFDWP_FEATURE_MOVE });
	b.source = mmap(NULL, t->mem.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	CHECK(b.source != MAP_FAILED);
	madvise(b.source, t->mem.size, MADV_NOHUGEPAGE);
	live_fill(b.source, t->mem.size, t->seed);
	b.r = live_region(t, b.h, UFFDWP_MODE_MISSING, 1, &ops, &b);
	write_all(&b, 0);
	CHECK_EQ(uffdwp_error(b.h), 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
	munmap(b.source, t->mem.size);
}

static int fail_all(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	(void)ctx;
	return -EIO;
}

/* A handle that has failed: what is missing is poison, or zeros, nobody sleeps. */
static void failed(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = fail_all };
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_ABSENT;
	struct box b;
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		signal(SIGBUS, SIG_DFL); /* which a sanitizer reports */
		open_pool(&b, t, &groups,
			  (struct uffdwp_opts){ .required = UFFDWP_FEATURE_POISON });
		b.r = live_region(t, b.h, UFFDWP_MODE_MISSING, 1, &ops, &b);
		live_store(t->mem.addr, 1);
		_exit(99);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void restore(struct live *t)
{
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_ABSENT | SANDBOX_RESTORE;
	struct uffdwp_restore_opts o = { .prefetch = 1 };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	struct uffdwp_restore *rs;
	struct restored c;
	struct box b;

	restored_make(&c, t);
	open_pool(&b, t, &groups,
		  (struct uffdwp_opts){ .required = mem_missing_features(t->mem.kind) });
	c.h = b.h;
	live_serve(&c.server, c.h);
	rs = restored_start(&c, &o);
	restored_compare(&c);
	CHECK_EQ(uffdwp_restore_wait(rs, &st), 0);
	CHECK_EQ(st.by_fault, c.size);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), 0);
	restored_end(&c);
}

static void tracked(struct live *t)
{
	unsigned int groups = SANDBOX_PLACEMENT;
	struct uffdwp_track_query q = { .sz = sizeof(q) };
	struct uffdwp_track *track;
	struct box b;

	open_pool(&b, t, &groups, (struct uffdwp_opts){ .required = 0 });
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, NULL, NULL);
	CHECK_EQ(uffdwp_track_start(&track, &b.r, 1, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		write_all(&b, 0);
		CHECK_EQ(uffdwp_track_collect(track, &q), 0);
		CHECK_EQ(q.bytes, t->mem.size);
	}
	CHECK_EQ(uffdwp_track_stop(track), 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
}

/* A small staging, so that writers wait for it too. They are in the filter of groups, if any. */
static void take_snapshots(struct box *b, unsigned int groups)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct live *t = b->t;
	void *copies[] = { malloc(t->mem.size) };
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .sink = &sink,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct uffdwp_snapshot *s;

	for (int i = 0; i < ROUNDS; i++) {
		live_fill(t->mem.addr, t->mem.size, t->seed + (uint64_t)i);
		CHECK_EQ(uffdwp_sink_memory(&sink, copies, 1), 0);
		CHECK_EQ(uffdwp_snapshot_new(&s, &b->r, 1, &o), 0);
		CHECK_EQ(uffdwp_snapshot_arm(s), 0);
		CHECK_EQ(uffdwp_snapshot_seal(s), 0);
		write_all(b, groups);
		CHECK_EQ(uffdwp_snapshot_wait(s, &res), 0);
		CHECK_EQ(res.verdict, UFFDWP_SNAPSHOT_COMPLETE);
		CHECK_EQ(uffdwp_snapshot_free(s), 0);
	}
	free(copies[0]);
	CHECK_EQ(uffdwp_close(b->h), 0);
}

static void snapshot(struct live *t)
{
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_SNAPSHOT;
	struct box b;

	open_pool(&b, t, &groups, (struct uffdwp_opts){ .required = 0 });
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, NULL, NULL);
	take_snapshots(&b, 0);
}

static void snapshot_sigbus(struct live *t)
{
	struct box b = { .t = t, .h = live_open(UFFDWP_SERVE_SIGBUS, 0) };

	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, NULL, NULL);
	take_snapshots(&b, SANDBOX_SIGBUS | SANDBOX_SNAPSHOT);
}

/* ---- Events ---- */

static void moves(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_FOREIGN;
	struct box b;
	char *to;

	open_pool(&b, t, &groups,
		  (struct uffdwp_opts){ .required = UFFDWP_FEATURE_EVENT_REMAP |
						    UFFDWP_FEATURE_EVENT_REMOVE |
						    UFFDWP_FEATURE_EVENT_UNMAP });
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	for (int i = 0; i < ROUNDS; i++) {
		live_protect(t, b.r);
		to = mmap(NULL, t->mem.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(to != MAP_FAILED);
		CHECK(mremap(t->mem.addr, t->mem.size, t->mem.size, MREMAP_MAYMOVE | MREMAP_FIXED,
			     to) == to);
		t->mem.addr = to;
		write_all(&b, 0);
		CHECK_EQ(madvise(to, t->mem.size / 2, MADV_DONTNEED), 0);
	}
	CHECK_EQ(uffdwp_close(b.h), 0);
}

static void take_child(struct uffdwp *parent, struct uffdwp *child, void *arg)
{
	struct box *b = arg;

	(void)parent;
	b->child = child;
	sem_post(&b->forked);
}

static void wait_child(pid_t pid)
{
	int status;

	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
}

static pid_t fork_writer(struct live *t)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid)
		return pid;
	for (size_t i = 0; i < t->pages; i++)
		live_store(t->mem.addr + i * t->page, i);
	_exit(0);
}

static void forks(struct live *t, bool follow)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = NULL };
	unsigned int groups = SANDBOX_PLACEMENT | SANDBOX_FORK |
			      (follow ? SANDBOX_FORKED | SANDBOX_ADOPTED : 0);
	struct uffdwp_opts o = { .required = UFFDWP_FEATURE_EVENT_FORK };
	struct live_server server;
	struct box b;
	pid_t pid;

	memset(&b, 0, sizeof(b));
	o.forked = follow ? take_child : NULL;
	o.forked_arg = &b;
	open_pool(&b, t, &groups, o);
	sem_init(&b.forked, 0, 0);
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	live_protect(t, b.r);
	pid = fork_writer(t);
	if (follow) {
		while (sem_wait(&b.forked))
			;
		live_serve(&server, b.child);
	}
	wait_child(pid);
	if (follow) {
		live_serve_stop(&server);
		CHECK_EQ(uffdwp_close(b.child), 0);
	}
	CHECK_EQ(uffdwp_close(b.h), 0);
}

static void fork_left(struct live *t)
{
	forks(t, false);
}

static void fork_followed(struct live *t)
{
	forks(t, true);
}

/* ---- Other ways ---- */

static void *dispatch_boxed(void *arg)
{
	struct box *b = arg;
	struct pollfd p = { .fd = uffdwp_fd(b->h), .events = POLLIN };

	CHECK_EQ(sandbox_enter(SANDBOX_LOOP), 0);
	while (atomic_load(&b->calls) < (int)(ROUNDS * b->t->pages))
		if (poll(&p, 1, 10) > 0)
			CHECK(uffdwp_dispatch(b->h) >= 0);
	return NULL;
}

static void caller(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct box b = { .t = t, .h = live_open(UFFDWP_SERVE_CALLER, 0) };
	pthread_t thread;

	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	live_thread(&thread, dispatch_boxed, &b);
	protect_and_write(&b, 0);
	live_join(thread);
	CHECK_EQ(uffdwp_close(b.h), 0);
}

static void sigbus(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save, .missing = place };
	struct box b = { .t = t, .h = live_open(UFFDWP_SERVE_SIGBUS, 0) };

	b.source = calloc(1, t->page);
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	protect_and_write(&b, SANDBOX_SIGBUS);
	CHECK_EQ(uffdwp_region_remove(b.r), 0);
	CHECK_EQ(madvise(t->mem.addr, t->mem.size, MADV_DONTNEED), 0);
	b.r = live_region(t, b.h, UFFDWP_MODE_MISSING | UFFDWP_MODE_WP, 1, &ops, &b);
	write_all(&b, SANDBOX_SIGBUS | SANDBOX_ABSENT);
	CHECK_EQ(uffdwp_close(b.h), 0);
	free(b.source);
}

/* Ours, as if it were another process's. */
static void adopted(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	unsigned int groups = SANDBOX_FOREIGN | SANDBOX_ADOPTED;
	struct uffdwp_adopt_opts a = { .sz = sizeof(a),
				       .handshake = 1,
				       .pid = getpid(),
				       .opts = { .sz = sizeof(a.opts),
						 .threads = 2,
						 .thread_start = sandbox_thread_start,
						 .thread_arg = &groups } };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	struct box b = { .t = t };

	CHECK(fd >= 0);
	CHECK_EQ(uffdwp_adopt(&b.h, fd, &a), 0);
	/* Without markers (before 6.4) what was never there is not protected: of another process nobody can populate it. */
	live_fill(t->mem.addr, t->mem.size, t->seed);
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	protect_and_write(&b, 0);
	CHECK_EQ(uffdwp_close(b.h), 0);
}

/* ---- The filter itself ---- */

static int forbidden(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	(void)ctx;
	return getppid() > 0 ? 0 : -EIO;
}

static void touch_forbidden(struct live *t)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = forbidden };
	unsigned int groups = SANDBOX_PLACEMENT;
	struct box b;

	open_pool(&b, t, &groups, (struct uffdwp_opts){ .required = 0 });
	b.r = live_region(t, b.h, UFFDWP_MODE_WP, 1, &ops, &b);
	live_protect(t, b.r);
	live_store(t->mem.addr, 1);
}

/* An operation that makes another call ends the process. */
static void kills(struct live *t)
{
	pid_t pid = fork();
	int status = 0;

	CHECK(pid >= 0);
	if (!pid) {
		touch_forbidden(t);
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
#if defined(LIVE_ASAN) || defined(LIVE_TSAN)
	CHECK_EQ(status, 0);
#else
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
#endif
}

static const struct live_case cases[] = {
	{ "pool", pool, KINDS_ALL, 0, 0 },
	{ "scheduled", scheduled, BIT(MEM_ANON), 0, 0 },
	{ "missing", missing, KINDS_ALL, 0, 0 },
	{ "minor", minor, KINDS_SHARED, 0, 0 },
	{ "moved", moved, BIT(MEM_ANON), UFFDWP_FEATURE_MOVE, 0 },
	{ "failed", failed, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "restore", restore, KINDS_ALL, 0, 0 },
	{ "tracked", tracked, KINDS_ALL, 0, 0 },
	{ "snapshot", snapshot, KINDS_ALL, 0, 0 },
	{ "snapshot/sigbus", snapshot_sigbus, KINDS_ALL, 0, 0 },
	{ "moves", moves, BIT(MEM_ANON), 0, 0 },
	{ "fork-left", fork_left, BIT(MEM_ANON) | BIT(MEM_SHMEM), UFFDWP_FEATURE_EVENT_FORK, 0 },
	{ "fork-followed", fork_followed, BIT(MEM_ANON), UFFDWP_FEATURE_EVENT_FORK, 0 },
	{ "caller", caller, KINDS_ANON, 0, 0 },
	{ "sigbus", sigbus, KINDS_ANON, 0, 0 },
	{ "adopted", adopted, BIT(MEM_ANON), 0, 0 },
	{ "kills", kills, BIT(MEM_ANON), 0, 0 },
};

LIVE_MAIN(cases)
