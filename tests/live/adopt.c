/* SPDX-License-Identifier: MIT */
/*
 * Another process's memory: it sends its userfaultfd over a socket, and is served from here, where its
 * memory is read by its pid. Both ways of handshake, and a peer that ends in the middle.
 */
#include "../common/fd.h"
#include "../common/live.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PEER_FEATURES (UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | UFFDWP_FEATURE_THREAD_ID)

/* ---- The other process. It knows nothing of the library. ---- */

/* What it obtains besides what it says. */
static uint64_t untold;

static int open_raw(bool handshake)
{
	struct uffdio_api api = { .api = UFFD_API, .features = PEER_FEATURES | untold };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && handshake && ioctl(fd, UFFDIO_API, &api))
		_exit(99);
	return fd;
}

/* For each 'w': writes every page, 'u': unmaps the last, then answers. Ends when told, or at end of file. */
static _Noreturn void peer(struct live *t, int sock, bool handshake)
{
	char command;
	int fd;

	live_fill(t->mem.addr, t->mem.size, t->seed);
	fd = open_raw(handshake);
	if (fd < 0)
		_exit(99);
	fd_send(sock, fd);
	close(fd);
	while (read(sock, &command, 1) == 1 && (command == 'w' || command == 'u')) {
		if (command == 'u')
			munmap(t->mem.addr + --t->pages * t->page, t->page);
		for (size_t i = 0; command == 'w' && i < t->pages; i++)
			live_store(t->mem.addr + i * t->page, i + 1);
		if (write(sock, "d", 1) != 1)
			break;
	}
	_exit(0);
}

/* ---- This process ---- */

struct test {
	struct live *t;
	pid_t pid;
	int sock, fd;
	char *before, *saved;
	_Atomic uint32_t *calls;
	_Atomic int bad;
};

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;
	int err;

	if (f->mem)
		atomic_store(&c->bad, 1);
	err = uffdwp_read(r, f->addr, c->saved + f->offset, f->len, NULL);
	/* After the read: who sees the count may look at what was saved. */
	for (uint64_t i = 0; i < f->len / c->t->page; i++)
		atomic_fetch_add(&c->calls[f->offset / c->t->page + i], 1);
	return err;
}

static void start(struct test *c, struct live *t, bool handshake)
{
	int pair[2];

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->before = malloc(t->mem.size);
	c->saved = calloc(1, t->mem.size);
	c->calls = calloc(t->pages, sizeof(*c->calls));
	CHECK(c->before && c->saved && c->calls);
	live_fill(c->before, t->mem.size, t->seed);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	c->pid = fork();
	CHECK(c->pid >= 0);
	if (!c->pid) {
		close(pair[0]);
		peer(t, pair[1], handshake);
	}
	close(pair[1]);
	c->sock = pair[0];
	c->fd = fd_receive(c->sock);
}

static void cleanup(struct test *c)
{
	free(c->before);
	free(c->saved);
	free(c->calls);
}

static void finish(struct test *c)
{
	int status;

	close(c->sock);
	CHECK_EQ(waitpid(c->pid, &status, 0), c->pid);
	CHECK_EQ(status, 0);
	cleanup(c);
}

static void kill_peer(const struct test *c)
{
	int status;

	CHECK_EQ(kill(c->pid, SIGKILL), 0);
	CHECK_EQ(waitpid(c->pid, &status, 0), c->pid);
	close(c->sock);
}

static struct uffdwp *adopt(struct test *c, uint32_t serve, bool handshake)
{
	char reason[256] = "";
	struct uffdwp_adopt_opts o = { .sz = sizeof(o),
				       .features = handshake ? PEER_FEATURES : 0,
				       .handshake = !handshake,
				       .pid = c->pid,
				       .opts = { .sz = sizeof(o.opts),
						 .serve = serve,
						 .reason = reason,
						 .reason_size = sizeof(reason) } };
	struct uffdwp_info info;
	struct uffdwp *h;
	int err = uffdwp_adopt(&h, c->fd, &o);

	if (err)
		FAIL("uffdwp_adopt: %s: %s", strerror(-err), reason);
	live_info(h, &info);
	CHECK_EQ(info.source, UFFDWP_SOURCE_ADOPTED);
	CHECK_EQ(info.serve, serve);
	CHECK_EQ(info.supported == 0, handshake); /* nobody asked the kernel here */
	CHECK(info.features & UFFDWP_FEATURE_THREAD_ID);
	CHECK(fcntl(c->fd, F_GETFL) & O_NONBLOCK);
	return h;
}

static void order(struct test *c, const char *what)
{
	char answer;

	CHECK_EQ(write(c->sock, what, 1), 1);
	CHECK_EQ(read(c->sock, &answer, 1), 1);
}

static void order_writes(struct test *c)
{
	order(c, "w");
}

/* The peer's memory as it is now, past the library. */
static void peer_memory(struct test *c, void *to)
{
	struct iovec l = { .iov_base = to, .iov_len = c->t->mem.size };
	struct iovec r = { .iov_base = c->t->mem.addr, .iov_len = c->t->mem.size };

	CHECK_EQ(process_vm_readv(c->pid, &l, 1, &r, 1, 0), c->t->mem.size);
}

static void verify(struct test *c)
{
	struct live *t = c->t;
	char *now = malloc(t->mem.size);

	CHECK(now);
	CHECK_EQ(atomic_load(&c->bad), 0);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(atomic_load(&c->calls[i]), 1);
	CHECK_EQ(memcmp(c->saved, c->before, t->mem.size), 0);
	peer_memory(c, now);
	for (size_t i = 0; i < t->pages; i++)
		CHECK_EQ(live_load(now + i * t->page), i + 1);
	free(now);
}

static void serve_peer(struct live *t, uint32_t serve, bool handshake, uint32_t run)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp_region *r;
	struct live_server s;
	struct uffdwp *h;
	struct test c;

	start(&c, t, handshake);
	h = adopt(&c, serve, handshake);
	r = live_region(t, h, UFFDWP_MODE_WP, run, &ops, &c);
	live_serve(&s, h);
	live_protect(t, r);
	CHECK_EQ(uffdwp_discard(r, (uintptr_t)t->mem.addr, t->page, 0, NULL), -EOPNOTSUPP);
	order_writes(&c);
	verify(&c);
	CHECK_EQ(uffdwp_error(h), 0);
	/* Unprotected again by the removal: the peer writes with nobody serving. */
	live_protect(t, r);
	CHECK_EQ(uffdwp_region_remove(r), 0);
	order_writes(&c);
	live_serve_stop(&s);
	CHECK_EQ(uffdwp_close(h), 0);
	CHECK(fcntl(c.fd, F_GETFD) < 0 && errno == EBADF); /* it was ours */
	finish(&c);
}

static void served_threads(struct live *t)
{
	serve_peer(t, UFFDWP_SERVE_THREADS, true, 1);
}

static void served_caller(struct live *t)
{
	serve_peer(t, UFFDWP_SERVE_CALLER, true, 16);
}

static void handshake_here(struct live *t)
{
	serve_peer(t, UFFDWP_SERVE_THREADS, false, 16);
}

typedef int write_op(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx);

/* A peer that is served by threads, all of its memory protected. */
static struct uffdwp_region *watch(struct test *c, struct live *t, uint32_t run, write_op *op)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = op };
	struct uffdwp_region *r;

	start(c, t, true);
	r = live_region(t, adopt(c, UFFDWP_SERVE_THREADS, true), UFFDWP_MODE_WP, run, &ops, c);
	live_protect(t, r);
	return r;
}

/* A sweep reads the peer too. */
static void swept(struct live *t)
{
	struct uffdwp_region *r;
	struct uffdwp *h;
	struct test c;

	r = watch(&c, t, 64, save);
	h = uffdwp_region_handle(r);
	CHECK_EQ(uffdwp_sweep(r, (uintptr_t)t->mem.addr, t->mem.size, NULL), 0);
	order_writes(&c);
	verify(&c);
	CHECK_EQ(uffdwp_close(h), 0);
	finish(&c);
}

/* Killed in the middle: calls say so, nothing hangs, the handle closes. */
static void peer_ends(struct live *t)
{
	struct uffdwp_region *r;
	struct uffdwp *h;
	uint64_t done = 1;
	struct test c;
	char byte;

	r = watch(&c, t, 1, save);
	h = uffdwp_region_handle(r);
	kill_peer(&c);
	CHECK_EQ(uffdwp_protect(r, (uintptr_t)t->mem.addr, t->mem.size, &done), -ESRCH);
	CHECK_EQ(done, 0);
	CHECK_EQ(uffdwp_unprotect(r, (uintptr_t)t->mem.addr, t->mem.size, NULL), -ESRCH);
	CHECK_EQ(uffdwp_read(r, (uintptr_t)t->mem.addr, &byte, 1, NULL), -ESRCH);
	CHECK_EQ(uffdwp_region_remove(r), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	cleanup(&c);
}

/* The last page's operation finds the peer gone. */
static int save_and_end(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct test *c = ctx;

	if (f->offset + f->len == c->t->mem.size)
		kill_peer(c);
	return save(r, f, ctx);
}

/* A sweep says so and how far it came; it is nobody's failure. */
static void swept_ends(struct live *t)
{
	struct uffdwp_region *r;
	struct uffdwp *h;
	uint64_t done = 0;
	struct test c;

	r = watch(&c, t, 1, save_and_end);
	h = uffdwp_region_handle(r);
	CHECK_EQ(uffdwp_sweep(r, (uintptr_t)t->mem.addr, t->mem.size, &done), -ESRCH);
	CHECK_EQ(done, t->mem.size - t->page);
	CHECK_EQ(memcmp(c.saved, c.before, t->mem.size - t->page), 0);
	CHECK_EQ(uffdwp_error(h), 0);
	CHECK_EQ(uffdwp_region_remove(r), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	cleanup(&c);
}

/* Events that it did not tell of: the handle fails, and nobody sleeps. */
static void events_untold(struct live *t)
{
	struct uffdwp_region *r;
	struct uffdwp *h;
	struct test c;

	untold = UFFDWP_FEATURE_EVENT_UNMAP;
	r = watch(&c, t, 1, save);
	h = uffdwp_region_handle(r);
	order(&c, "u");
	order_writes(&c);
	CHECK_EQ(uffdwp_error(h), -EPROTO);
	CHECK_EQ(uffdwp_close(h), 0);
	order_writes(&c);
	finish(&c);
	untold = 0;
}

/* Without a pid, there is no way to read; the rest works. */
static void unreadable(struct live *t)
{
	struct uffdwp_adopt_opts o = { .sz = sizeof(o),
				       .features = PEER_FEATURES,
				       .opts = { .sz = sizeof(o.opts) } };
	struct uffdwp_region *r;
	struct uffdwp *h;
	struct test c;
	char byte;

	start(&c, t, true);
	CHECK_EQ(uffdwp_adopt(&h, c.fd, &o), 0);
	r = live_region(t, h, UFFDWP_MODE_WP, 1, NULL, NULL);
	live_protect(t, r);
	CHECK_EQ(uffdwp_read(r, (uintptr_t)t->mem.addr, &byte, 1, NULL), -EOPNOTSUPP);
	order_writes(&c);
	CHECK_EQ(uffdwp_close(h), 0);
	finish(&c);
}

#define KINDS (BIT(MEM_ANON) | BIT(MEM_THP))
static const struct live_case cases[] = {
	{ "threads", served_threads, KINDS, 0, 5 },
	{ "caller", served_caller, KINDS, 0, 5 },
	{ "handshake-here", handshake_here, KINDS_ALL, 0, 5 },
	{ "sweep", swept, KINDS, 0, 5 },
	{ "peer-ends", peer_ends, KINDS, 0, 5 },
	{ "sweep/peer-ends", swept_ends, KINDS, 0, 5 },
	{ "events-untold", events_untold, BIT(MEM_ANON), 0, 5 },
	{ "unreadable", unreadable, KINDS, 0, 5 },
};

LIVE_MAIN(cases)
