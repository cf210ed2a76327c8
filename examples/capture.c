/* SPDX-License-Identifier: MIT */
/*
 * Capture memory as it was at one instant, while threads go on writing to it: each page is saved just
 * before its first write, and a sweep saves the pages that nobody writes. The capture is compared,
 * byte for byte, with a plain copy taken at that instant.
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uffdwp.h>

#define PAGE 4096
#define WRITERS_MAX 64

static _Thread_local int sweeping;

struct capture {
	size_t size, writers;
	uint32_t serve;
	char *mem, *before, *captured;
	struct uffdwp *h;
	_Atomic uint64_t by_fault, by_sweep, ids, writes;
	_Atomic int stop;
};

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct capture *c = ctx;

	atomic_fetch_add(sweeping ? &c->by_sweep : &c->by_fault, f->len / PAGE);
	return uffdwp_read(r, f->addr, c->captured + f->offset, f->len, NULL);
}

static uint64_t random_next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Each writer writes words of its own, anywhere in the memory. */
static void *writer_main(void *arg)
{
	struct capture *c = arg;
	uint64_t id = atomic_fetch_add(&c->ids, 1), rnd = 88172645463325252u + id, n = 0;
	uint64_t *words = (uint64_t *)c->mem;

	for (; !atomic_load(&c->stop); n++)
		words[random_next(&rnd) % (c->size / 8 / c->writers) * c->writers + id] = rnd;
	atomic_fetch_add(&c->writes, n);
	return NULL;
}

static void report(struct capture *c)
{
	struct uffdwp_stats st = { .sz = sizeof(st) };
	struct uffdwp_info info = { .sz = sizeof(info) };

	uffdwp_info(c->h, &info);
	uffdwp_stats(c->h, UFFDWP_ALL_WORKERS, &st);
	printf("memory      %zu MiB; %zu writers made %llu writes during the capture\n",
	       c->size >> 20, c->writers, (unsigned long long)c->writes);
	printf("served by   %s, %u in the pool; %s faults, from %s\n",
	       info.serve == UFFDWP_SERVE_SIGBUS ? "SIGBUS in the writers" : "threads",
	       info.threads,
	       info.faults == UFFDWP_FAULTS_KERNEL ? "kernel-mode and user-mode" : "user-mode",
	       info.source == UFFDWP_SOURCE_DEVICE ? "/dev/userfaultfd" : "userfaultfd(2)");
	printf("captured    %llu pages by fault, %llu by sweep\n", (unsigned long long)c->by_fault,
	       (unsigned long long)c->by_sweep);
	printf("latency     p50 %.1f us, p99 %.1f us, max %.1f us, from fault message to release\n",
	       (double)uffdwp_hist_percentile(&st.latency, 50) / 1e3,
	       (double)uffdwp_hist_percentile(&st.latency, 99) / 1e3, (double)st.latency.max / 1e3);
}

static int verify(struct capture *c)
{
	size_t changed = 0, wrong = 0;
	int ok;

	for (size_t i = 0; i < c->size; i += PAGE) {
		changed += memcmp(c->mem + i, c->before + i, PAGE) != 0;
		wrong += memcmp(c->captured + i, c->before + i, PAGE) != 0;
	}
	/* Every page once, and the test would show nothing if no write had been caught. */
	ok = !wrong && changed && c->by_fault && c->by_fault + c->by_sweep == c->size / PAGE;
	printf("verified    %zu pages changed meanwhile, %zu wrong in the capture: %s\n", changed,
	       wrong, ok ? "PASS" : "FAIL");
	return ok ? 0 : 1;
}

/* Protect, let the writers run, sweep: 0 or -errno. */
static int capture(struct capture *c)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)c->mem,
					.len = c->size,
					.mode = UFFDWP_MODE_WP,
					.run = 16,
					.ops = &ops,
					.ctx = c };
	struct uffdwp_region *r;
	pthread_t w[WRITERS_MAX];
	size_t n = 0;
	int err = uffdwp_region_add(c->h, &o, &r);

	if (!err)
		err = uffdwp_protect(r, o.addr, o.len, NULL);
	if (err)
		return err;
	while (n < c->writers && !pthread_create(&w[n], NULL, writer_main, c))
		n++;
	usleep(50 * 1000); /* so that there is something to catch */
	sweeping = 1;
	err = uffdwp_sweep(r, o.addr, o.len, NULL);
	atomic_store(&c->stop, 1);
	for (size_t i = 0; i < n; i++)
		pthread_join(w[i], NULL);
	return n < c->writers ? -EAGAIN : err;
}

static int run(struct capture *c)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .faults = UFFDWP_FAULTS_ANY,
				 .serve = c->serve,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	uint64_t rnd = 1;
	int err;

	c->mem = mmap(NULL, 3 * c->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (c->mem == MAP_FAILED)
		return 99;
	c->before = c->mem + c->size;
	c->captured = c->before + c->size;
	for (size_t i = 0; i < c->size / 8; i++)
		((uint64_t *)c->mem)[i] = random_next(&rnd);
	memcpy(c->before, c->mem, c->size);
	err = uffdwp_open(&c->h, &o);
	if (err) {
		fprintf(stderr, "uffdwp_open: %s: %s\n", strerror(-err), reason);
		return 77;
	}
	err = capture(c);
	if (err)
		fprintf(stderr, "capture: %s\n", strerror(-err));
	else
		report(c);
	uffdwp_close(c->h);
	return err ? 1 : verify(c);
}

static int usage(FILE *out, int code)
{
	fprintf(out,
		"usage: capture [--size=MIB] [--threads=N] [--serve=threads|sigbus]\n"
		"Captures MIB (64) mebibytes while N (4) threads write to them, and verifies the result.\n");
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "size", 1, NULL, 's' },
						 { "threads", 1, NULL, 't' },
						 { "serve", 1, NULL, 'v' },
						 { "help", 0, NULL, 'h' },
						 { 0 } };
	static struct capture c = { .size = 64, .writers = 4 };
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 's')
			c.size = strtoul(optarg, NULL, 10);
		else if (opt == 't')
			c.writers = strtoul(optarg, NULL, 10);
		else if (opt == 'v' && !strcmp(optarg, "sigbus"))
			c.serve = UFFDWP_SERVE_SIGBUS;
		else if (opt == 'v' && !strcmp(optarg, "threads"))
			c.serve = UFFDWP_SERVE_THREADS;
		else
			return opt == 'h' ? usage(stdout, 0) : usage(stderr, 2);
	}
	if (optind < argc || c.size - 1 >= 1 << 20 || c.writers - 1 >= WRITERS_MAX)
		return usage(stderr, 2);
	c.size <<= 20;
	return run(&c);
}
