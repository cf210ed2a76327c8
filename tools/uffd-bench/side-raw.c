/* SPDX-License-Identifier: MIT */
/*
 * The peers of threads and of caller serving: what a program writes that uses userfaultfd by hand
 * for this one job, a loop of read(), copy, UFFDIO_WRITEPROTECT. Nothing is checked that this job
 * does not need.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "side.h"

#define MESSAGES 16

struct raw {
	int uffd;
	struct arena *arena;
	atomic_bool stop;
	struct handlers readers;
	struct poller poller;
};

int raw_open(const struct mem *m, uint64_t features, int mode)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = features | mem_wp_features(m->kind) };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | mode);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -EOPNOTSUPP;
	}
	return fd;
}

void raw_attach(int uffd, const struct mem *m)
{
	struct uffdio_range range = { .start = (uintptr_t)m->addr, .len = m->size };
	struct uffdio_register reg = { .range = range, .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		die("UFFDIO_REGISTER", errno);
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		die("UFFDIO_WRITEPROTECT", errno);
}

void raw_detach(int uffd, const struct mem *m)
{
	struct uffdio_range range = { .start = (uintptr_t)m->addr, .len = m->size };

	if (ioctl(uffd, UFFDIO_UNREGISTER, &range))
		die("UFFDIO_UNREGISTER", errno);
}

int raw_release(int uffd, uint64_t page, size_t len)
{
	struct uffdio_writeprotect wp = { .range = { .start = page, .len = len } };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

static void serve_message(struct raw *r, const struct uffd_msg *msg)
{
	struct arena *a = r->arena;
	uint64_t page = msg->arg.pagefault.address & ~(uint64_t)(a->mem.page_size - 1);

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		die("unexpected message", EPROTO);
	arena_save(a, page - (uintptr_t)a->mem.addr);
	if (raw_release(r->uffd, page, a->mem.page_size))
		die("UFFDIO_WRITEPROTECT", errno);
}

static void serve_once(void *ctx)
{
	struct raw *r = ctx;
	struct uffd_msg msgs[MESSAGES];
	ssize_t n = read(r->uffd, msgs, sizeof(msgs));

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		die("read of the userfaultfd", errno);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
		serve_message(r, &msgs[i]);
}

static void *read_loop(void *arg)
{
	struct raw *r = arg;

	while (!atomic_load_explicit(&r->stop, memory_order_relaxed))
		serve_once(r);
	return NULL;
}

static void interrupted(int sig)
{
	(void)sig;
}

static int open_raw(struct side *s, int mode, char *reason, size_t size)
{
	struct raw *r = calloc(1, sizeof(*r));

	if (!r)
		die("memory", ENOMEM);
	r->arena = s->arena;
	r->uffd = raw_open(&s->arena->mem, UFFD_FEATURE_PAGEFAULT_FLAG_WP, mode);
	if (r->uffd < 0) {
		int err = r->uffd;

		free(r);
		strncpy(reason, "userfaultfd(2) is not permitted, or lacks a feature", size - 1);
		return err;
	}
	s->state = r;
	return 0;
}

static int open_read(struct side *s, char *reason, size_t size)
{
	struct sigaction sa = { .sa_handler = interrupted };
	int err = open_raw(s, 0, reason, size);
	struct raw *r = s->state;

	if (err)
		return err;
	sigaction(SIGUSR1, &sa, NULL);
	handlers_start(&r->readers, s, read_loop, r);
	return 0;
}

static int open_poll(struct side *s, char *reason, size_t size)
{
	int err = open_raw(s, O_NONBLOCK, reason, size);
	struct raw *r = s->state;

	if (err)
		return err;
	r->poller.fd = r->uffd;
	r->poller.serve = serve_once;
	r->poller.ctx = r;
	poller_start(&r->poller, s);
	return 0;
}

static void attach(struct side *s)
{
	struct raw *r = s->state;

	raw_attach(r->uffd, &s->arena->mem);
}

static void detach(struct side *s)
{
	struct raw *r = s->state;

	raw_detach(r->uffd, &s->arena->mem);
}

static void free_raw(struct side *s)
{
	struct raw *r = s->state;

	close(r->uffd);
	free(r);
}

/* A signal that comes just before the read() is lost, so it is sent until the thread has gone. */
static void close_read(struct side *s)
{
	struct raw *r = s->state;

	atomic_store_explicit(&r->stop, true, memory_order_relaxed);
	for (unsigned int i = 0; i < r->readers.count; i++)
		while (pthread_tryjoin_np(r->readers.threads[i], NULL)) {
			pthread_kill(r->readers.threads[i], SIGUSR1);
			usleep(100);
		}
	free_raw(s);
}

static void close_poll(struct side *s)
{
	struct raw *r = s->state;

	poller_stop(&r->poller);
	free_raw(s);
}

const struct side_kind side_raw_read = { .name = "raw loop",
					 .open = open_read,
					 .attach = attach,
					 .detach = detach,
					 .close = close_read };
const struct side_kind side_raw_poll = { .name = "raw poll loop",
					 .open = open_poll,
					 .attach = attach,
					 .detach = detach,
					 .close = close_poll };
