/* SPDX-License-Identifier: MIT */
/*
 * Events, fork, and descriptors from another process: who changes the address space goes on, a forked child's pages
 * are saved or the parent's handle says that they are not, a descriptor that was not taken is still its owner's.
 */
#include "scenes.h"

#include <linux/userfaultfd.h>
#include <semaphore.h>
#include <sys/wait.h>

#include "scene.h"

#define OLD UINT64_C(0x7000)
#define NEW UINT64_C(0x8000)

struct events {
	struct uffdwp *h, *child;
	struct uffdwp_region *r;
	struct live_server server, child_server;
	char *mem;
	_Atomic int saved, child_saved, wrong;
	sem_t forked;
};

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct events *e = ctx;
	char page[PAGE];
	int err = uffdwp_read(r, f->addr, page, PAGE, NULL);

	/* The child's memory can not be read, nobody has told its number. */
	if (uffdwp_region_handle(r) != e->h)
		return atomic_fetch_add(&e->child_saved, 1), 0;
	if (err)
		return err;
	if (!scene_holds(page, OLD + f->offset / PAGE))
		atomic_fetch_add(&e->wrong, 1);
	atomic_fetch_add(&e->saved, 1);
	return 0;
}

static bool begin(struct events *e, struct uffdwp_opts o, size_t pages)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .len = pages * PAGE, .mode = UFFDWP_MODE_WP, .ops = &ops, .ctx = e
	};

	e->mem = scene_map(pages, MAP_PRIVATE);
	for (size_t i = 0; i < pages; i++)
		scene_fill(e->mem + i * PAGE, OLD + i);
	ro.addr = (uintptr_t)e->mem;
	if (!scene_open(&e->h, &o))
		return false;
	live_serve(&e->server, e->h);
	return scene_add(e->h, &ro, &e->r);
}

static void end(struct events *e)
{
	if (e->h) {
		live_serve_stop(&e->server);
		CHECK_EQ(uffdwp_close(e->h), 0);
	}
	CHECK_EQ(atomic_load(&e->wrong), 0);
}

static bool protect(struct events *e)
{
	return GOOD(uffdwp_protect(e->r, uffdwp_region_addr(e->r), uffdwp_region_len(e->r), NULL),
		    EAGAIN, ENOENT, EBUSY, ECANCELED, EINVAL);
}

/* ---- Moving, discarding, unmapping ---- */

static void moves(uint32_t serve)
{
	static struct events e;
	struct scene_writer w;
	bool protected = false;
	char *to;

	memset(&e, 0, sizeof(e));
	scene_begin();
	to = scene_map(PAGES, MAP_PRIVATE);
	if (begin(&e,
		  (struct uffdwp_opts){ .serve = serve,
					.threads = serve == UFFDWP_SERVE_THREADS ? 2 : 0,
					.required = UFFDWP_FEATURE_EVENT_REMAP |
						    UFFDWP_FEATURE_EVENT_REMOVE |
						    UFFDWP_FEATURE_EVENT_UNMAP },
		  PAGES)) {
		protected = protect(&e);
		/* To where something was: that is unmapped first, which is an event too. */
		CHECK(mremap(e.mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			     to) == to);
		scene_write(&w, to, 2, 1, NEW);
		scene_written(&w);
		CHECK_EQ(madvise(to + 2 * PAGE, 2 * PAGE, MADV_DONTNEED), 0);
		CHECK_EQ(munmap(to + 6 * PAGE, 2 * PAGE), 0);
		scene_write(&w, to, 6, 1, NEW);
		scene_written(&w);
		if (protected && !scene_error(e.h))
			CHECK(atomic_load(&e.saved) >= 4);
		end(&e);
		scene_unmap(to, 6);
	} else {
		end(&e);
		scene_unmap(to, PAGES);
		scene_unmap(e.mem, PAGES);
	}
	scene_end();
}

static void moves_threads(void)
{
	moves(UFFDWP_SERVE_THREADS);
}

static void moves_caller(void)
{
	moves(UFFDWP_SERVE_CALLER);
}

/* ---- Fork ---- */

static void forked(struct uffdwp *parent, struct uffdwp *child, void *arg)
{
	struct events *e = arg;

	(void)parent;
	e->child = child;
	sem_post(&e->forked);
}

/* Its parent may have failed to take it: then it is nobody's, and not protected. */
static _Noreturn void be_child(struct events *e)
{
	for (size_t i = 0; i < PAGES; i++)
		scene_fill(e->mem + i * PAGE, NEW);
	_exit(uffdwp_protect(e->r, (uintptr_t)e->mem, PAGE, NULL) == -ECHILD && !uffdwp_close(e->h)
		      ? 0
		      : 1);
}

/* Serves the child once it is there; where it can not be made, the child runs unprotected. */
static void serve_child(struct events *e, pid_t pid)
{
	int status = 0;
	bool there, ended;

	do {
		there = !sem_trywait(&e->forked);
		ended = waitpid(pid, &status, WNOHANG) == pid;
		live_msleep(there ? 0 : 1);
	} while (!there && !ended);
	if (there)
		live_serve(&e->child_server, e->child);
	if (!ended)
		CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	if (!there && sem_trywait(&e->forked))
		return;
	live_serve_stop(&e->child_server);
	if (!uffdwp_error(e->child) && !scene_error(e->h))
		CHECK(atomic_load(&e->child_saved) > 0);
	CHECK_EQ(uffdwp_close(e->child), 0);
}

static void fork_child(bool follows)
{
	static struct events e;
	pid_t pid;

	memset(&e, 0, sizeof(e));
	sem_init(&e.forked, 0, 0);
	scene_begin();
	if (begin(&e,
		  (struct uffdwp_opts){ .threads = 1,
					.required = UFFDWP_FEATURE_EVENT_FORK,
					.forked = follows ? forked : NULL,
					.forked_arg = &e },
		  PAGES) &&
	    protect(&e)) {
		pid = fork();
		CHECK(pid >= 0);
		if (!pid)
			be_child(&e);
		if (follows) {
			serve_child(&e, pid);
		} else {
			int status;

			CHECK_EQ(waitpid(pid, &status, 0), pid);
			CHECK_EQ(status, 0);
		}
	}
	end(&e);
	scene_unmap(e.mem, PAGES);
	scene_end();
}

static void fork_followed(void)
{
	fork_child(true);
}

static void fork_left(void)
{
	fork_child(false);
}

/* ---- Adopting ---- */

static void adopt(bool handshake)
{
	static struct events e;
	struct uffdwp_adopt_opts a = { .sz = sizeof(a),
				       .handshake = handshake,
				       .pid = getpid(),
				       .opts = { .sz = sizeof(a.opts), .threads = 1 } };
	struct uffdio_api api = { .api = UFFD_API, .features = UFFDWP_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .len = PAGES * PAGE,
					 .mode = UFFDWP_MODE_WP,
					 .ops = &ops,
					 .ctx = &e };
	struct scene_writer w;
	int fd, flags;

	memset(&e, 0, sizeof(e));
	scene_begin();
	e.mem = scene_map(PAGES, MAP_PRIVATE);
	ro.addr = (uintptr_t)e.mem;
	for (size_t i = 0; i < PAGES; i++)
		scene_fill(e.mem + i * PAGE, OLD + i);
	fd = (int)syscall(SYS_userfaultfd, 0);
	CHECK(fd >= 0);
	if (!handshake)
		CHECK_EQ(ioctl(fd, UFFDIO_API, &api), 0);
	flags = fcntl(fd, F_GETFL);
	a.features = handshake ? 0 : UFFDWP_FEATURE_PAGEFAULT_FLAG_WP;
	if (GOOD(uffdwp_adopt(&e.h, fd, &a), EACCES, EOPNOTSUPP, EMFILE, ENFILE, EAGAIN, EBADF,
		 EINVAL, ENOENT)) {
		if (scene_add(e.h, &ro, &e.r) && protect(&e)) {
			scene_write(&w, e.mem, PAGES, 1, NEW);
			scene_written(&w);
			if (!scene_error(e.h))
				CHECK_EQ(atomic_load(&e.saved), PAGES);
		}
		end(&e);
	} else {
		CHECK_EQ(!e.h, true);
		/* Who may not change it may not change it back. */
		if (!fault_current->on)
			CHECK_EQ(fcntl(fd, F_GETFL), flags);
		close(fd);
	}
	scene_unmap(e.mem, PAGES);
	scene_end();
}

static void adopt_before(void)
{
	adopt(true);
}

static void adopt_after(void)
{
	adopt(false);
}

const struct fault_scenario scenes_events[] = {
	{ "moves-threads", moves_threads, false },
	{ "moves-caller", moves_caller, false },
	{ "fork-followed", fork_followed, true },
	{ "fork-left", fork_left, true },
	{ "adopt-before", adopt_before, false },
	{ "adopt-after", adopt_after, false },
	{ NULL, NULL, false },
};
