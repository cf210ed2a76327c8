/* SPDX-License-Identifier: MIT */
/*
 * Serving faults without threads of the library: a program that has its own poll() loop, as a
 * virtual machine monitor does, adds uffdwp_fd() to it and calls uffdwp_dispatch() when it is ready.
 * A second thread plays the guest: it writes, and tells by an eventfd when it has finished.
 */
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uffdwp.h>

#define PAGE 4096
#define PAGES 64

struct guest {
	char *mem;
	int finished; /* eventfd */
};

struct log {
	unsigned int missing, writes;
};

/* A page that nobody has touched yet: place it, protected from the start. */
static int on_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct log *log = ctx;
	char page[PAGE];

	memset(page, 'a' + (int)(f->offset / PAGE % 26), sizeof(page));
	log->missing++;
	return uffdwp_copy(r, f->addr, page, f->len, UFFDWP_COPY_WP, NULL);
}

/* The first write to a page: only counted here, a monitor would save or log it. */
static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct log *log = ctx;

	(void)r;
	log->writes += (unsigned int)(f->len / PAGE);
	return 0;
}

static void *guest_main(void *arg)
{
	struct guest *g = arg;
	uint64_t one = 1;
	unsigned int sum = 0;

	for (int i = 0; i < PAGES; i++) /* read everything: missing faults */
		sum += (unsigned char)g->mem[i * PAGE];
	for (int i = 0; i < PAGES; i += 4) /* write a quarter: write-protect faults */
		g->mem[i * PAGE] = (char)sum;
	if (write(g->finished, &one, sizeof(one)) != sizeof(one))
		perror("eventfd");
	return NULL;
}

/* The loop: 0 when the guest has finished, or -errno of the library. */
static int loop(struct uffdwp *h, int finished)
{
	struct pollfd p[2] = { { .fd = uffdwp_fd(h), .events = POLLIN },
			       { .fd = finished, .events = POLLIN } };
	unsigned int rounds = 0, messages = 0;

	while (!p[1].revents) {
		int n;

		if (poll(p, 2, -1) < 0)
			continue;
		n = p[0].revents ? uffdwp_dispatch(h) : 0;
		if (n < 0)
			return n;
		messages += (unsigned int)n;
		rounds++;
	}
	printf("%u messages in %u rounds of the loop\n", messages, rounds);
	return 0;
}

static int run(struct uffdwp *h, struct guest *g)
{
	struct log log = { 0 };
	struct uffdwp_ops ops = { .sz = sizeof(ops), .missing = on_missing, .write = on_write };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)g->mem,
					.len = PAGES * PAGE,
					.mode = UFFDWP_MODE_MISSING | UFFDWP_MODE_WP,
					.ops = &ops,
					.ctx = &log };
	struct uffdwp_region *r;
	pthread_t t;
	int err = uffdwp_region_add(h, &o, &r);

	if (err)
		return err;
	if (pthread_create(&t, NULL, guest_main, g)) {
		uffdwp_region_remove(r);
		return -1;
	}
	err = loop(h, g->finished);
	/* Removing the region lets a guest that still sleeps in a fault go on, so the join can not hang. */
	uffdwp_region_remove(r);
	pthread_join(t, NULL);
	if (err)
		return err;
	printf("%u pages placed at first access, %u of them written later\n", log.missing,
	       log.writes);
	return log.missing == PAGES && log.writes == PAGES / 4 ? 0 : -1;
}

int main(void)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = UFFDWP_SERVE_CALLER,
				 .faults = UFFDWP_FAULTS_ANY,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct guest g = { .finished = eventfd(0, EFD_CLOEXEC) };
	struct uffdwp *h;
	int err;

	g.mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	if (g.mem == MAP_FAILED || g.finished < 0)
		return 99;
	err = uffdwp_open(&h, &o);
	if (err) {
		fprintf(stderr, "uffdwp_open: %s: %s\n", strerror(-err), reason);
		return 77;
	}
	err = run(h, &g);
	uffdwp_close(h);
	munmap(g.mem, PAGES * PAGE);
	close(g.finished);
	if (err)
		fprintf(stderr, "event_loop failed: %d\n", err);
	return err ? 1 : 0;
}
