/* SPDX-License-Identifier: MIT */
/*
 * A peer of a snapshot: protect everything at the pause, as one would by hand. A thread reads the faults;
 * another goes through the memory, copies pieces away, releases them, and writes them to the file. One lock
 * decides who saves a page; it is not held over a write to the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "saver.h"
#include "side.h"

#define PIECE (64UL * LOAD_PAGE)

struct guard {
	const struct mem *mem;
	int uffd, fd, stop;
	pthread_mutex_t lock;
	bool *saved; /* a page each */
	pthread_t handler;
};

static void put(const struct guard *g, const void *data, size_t len, size_t offset)
{
	if (pwrite(g->fd, data, len, (off_t)offset) != (ssize_t)len)
		die("writing an image", errno);
}

static void serve(struct guard *g, size_t offset)
{
	char copy[LOAD_PAGE];
	bool mine;

	pthread_mutex_lock(&g->lock);
	mine = !g->saved[offset / LOAD_PAGE];
	if (mine)
		memcpy(copy, g->mem->addr + offset, LOAD_PAGE);
	g->saved[offset / LOAD_PAGE] = true;
	if (raw_release(g->uffd, (uintptr_t)g->mem->addr + offset, LOAD_PAGE))
		die("UFFDIO_WRITEPROTECT", errno);
	pthread_mutex_unlock(&g->lock);
	if (mine)
		put(g, copy, LOAD_PAGE, offset);
}

static void *handle(void *arg)
{
	struct guard *g = arg;
	struct pollfd fds[2] = { { .fd = g->uffd, .events = POLLIN },
				 { .fd = g->stop, .events = POLLIN } };
	struct uffd_msg msg[16];

	for (;;) {
		ssize_t n = read(g->uffd, msg, sizeof(msg));

		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msg[0]); i++)
			serve(g, (msg[i].arg.pagefault.address - (uintptr_t)g->mem->addr) &
					 ~(uint64_t)(LOAD_PAGE - 1));
		if (n > 0)
			continue;
		if (fds[1].revents)
			return NULL;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll", errno);
	}
}

static size_t run_of(const bool *mine, size_t i, size_t n)
{
	size_t run = 1;

	while (i + run < n && mine[i + run] == mine[i])
		run++;
	return run;
}

/* What nobody has saved of a piece: copied and released at once, then written run by run. */
static void sweep_piece(struct guard *g, char *copy, size_t offset)
{
	size_t first = offset / LOAD_PAGE, n = PIECE / LOAD_PAGE, run;
	bool mine[PIECE / LOAD_PAGE];

	pthread_mutex_lock(&g->lock);
	for (size_t i = 0; i < n; i++) {
		mine[i] = !g->saved[first + i];
		g->saved[first + i] = true;
	}
	for (size_t i = 0; i < n; i += run) {
		run = run_of(mine, i, n);
		if (mine[i])
			memcpy(copy + i * LOAD_PAGE, g->mem->addr + offset + i * LOAD_PAGE,
			       run * LOAD_PAGE);
	}
	if (raw_release(g->uffd, (uintptr_t)g->mem->addr + offset, PIECE))
		die("UFFDIO_WRITEPROTECT", errno);
	pthread_mutex_unlock(&g->lock);
	for (size_t i = 0; i < n; i += run) {
		run = run_of(mine, i, n);
		if (mine[i])
			put(g, copy + i * LOAD_PAGE, run * LOAD_PAGE, offset + i * LOAD_PAGE);
	}
}

static void sweep(struct guard *g)
{
	char *copy = malloc(PIECE);

	if (!copy)
		die("memory", ENOMEM);
	for (size_t at = 0; at < g->mem->size; at += PIECE)
		sweep_piece(g, copy, at);
	if (fsync(g->fd))
		die("fsync", errno);
	free(copy);
}

static void protect_all(const struct guard *g)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)g->mem->addr, .len = g->mem->size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (ioctl(g->uffd, UFFDIO_WRITEPROTECT, &wp))
		die("UFFDIO_WRITEPROTECT", errno);
}

static void watch(const struct guard *g)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)g->mem->addr, .len = g->mem->size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(g->uffd, UFFDIO_REGISTER, &reg))
		die("UFFDIO_REGISTER", errno);
}

/* From before anything is registered until nothing is any more. */
static void save_guarded(struct saving *s, struct guard *g)
{
	uint64_t begin, one = 1, before[2], after[2];

	saver_usage(getpid(), &before[0], &before[1]);
	load_enter(s->load, LOAD_DURING);
	watch(g);
	thread_start(&g->handler, -1, handle, g);
	load_pause(s->load);
	begin = load_clock();
	protect_all(g);
	s->pause_ns = (double)(load_clock() - begin);
	s->at = load_now(s->load);
	load_resume(s->load);
	sweep(g);
	load_enter(s->load, LOAD_AFTER);
	saver_usage(getpid(), &after[0], &after[1]);
	s->extra_bytes = (double)(after[0] + after[1]) - (double)(before[0] + before[1]);
	if (write(g->stop, &one, sizeof(one)) != sizeof(one))
		die("eventfd", errno);
	pthread_join(g->handler, NULL);
	raw_detach(g->uffd, g->mem);
}

static int save_all(struct saving *s)
{
	struct guard g = { .mem = &s->load->mem, .lock = PTHREAD_MUTEX_INITIALIZER };

	g.uffd = raw_open(g.mem, 0, O_NONBLOCK);
	if (g.uffd < 0) {
		snprintf(s->reason, s->reason_size, "userfaultfd");
		return g.uffd;
	}
	g.fd = saver_create(s->path, false);
	g.stop = eventfd(0, EFD_CLOEXEC);
	g.saved = calloc(s->load->pages, sizeof(*g.saved));
	if (g.fd < 0 || g.stop < 0 || !g.saved)
		die("a file, an eventfd and memory", errno);
	save_guarded(s, &g);
	close(g.uffd);
	close(g.fd);
	close(g.stop);
	free(g.saved);
	return 0;
}

const struct saver saver_all = { .name = "protect all", .save = save_all };
