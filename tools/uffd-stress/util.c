/* SPDX-License-Identifier: MIT */
/*
 * Deterministic random numbers, the clock, and the count of descriptors and threads by which a
 * subcommand proves that it has left none behind.
 */
#include "stress.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ x >> 32;
}

struct rng rng_make(uint64_t seed, uint64_t stream)
{
	struct rng r = { mix(seed) ^ mix(stream + UINT64_C(0x9e3779b97f4a7c15)) };

	return r;
}

uint64_t rng_next(struct rng *r)
{
	r->s += UINT64_C(0x9e3779b97f4a7c15);
	return mix(r->s);
}

/* The bias of the remainder is far below what a page order could show. */
uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_next(r) % n;
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static unsigned int entries(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	unsigned int n = 0;

	if (!d)
		return 0;
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

struct census census_take(void)
{
	struct census c = { entries("/proc/self/fd"), entries("/proc/self/task") };

	return c;
}

/* A joined thread may stay listed for an instant: its entry goes after the join is signalled. */
bool census_same(const struct census *before, const char *what)
{
	const struct timespec tick = { 0, 1000000 };
	struct census now;
	int i;

	for (i = 0; i < 1000; i++) {
		now = census_take();
		if (now.fds == before->fds && now.threads == before->threads)
			return true;
		nanosleep(&tick, NULL);
	}
	out_fail("%s: left behind: descriptors %u -> %u, threads %u -> %u", what, before->fds,
		 now.fds, before->threads, now.threads);
	return false;
}

const char *exit_word(int rc)
{
	switch (rc) {
	case EXIT_PASS:
		return "pass";
	case EXIT_UNSUPPORTED:
		return "unsupported";
	case EXIT_WRONG:
		return "FAIL";
	default:
		return "error";
	}
}

int exit_worse(int a, int b)
{
	static const int order[] = { EXIT_WRONG, EXIT_HARNESS, EXIT_MISUSE, EXIT_UNSUPPORTED };
	size_t i;

	for (i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (a == order[i] || b == order[i])
			return order[i];
	}
	return EXIT_PASS;
}

int area_map(struct mem *m, enum mem_kind kind, size_t size)
{
	int err = mem_map(m, kind, size);

	if (!err)
		return EXIT_PASS;
	out_fail("%s: mapping %zu KiB: %s", mem_name(kind), size >> 10, strerror(-err));
	return EXIT_HARNESS;
}

/*
 * A private page that was once written without userfaultfd has left a page of zeros in the
 * file below it. hugetlb could not discard private pages before 5.18: map it anew.
 */
int area_empty(struct mem *m)
{
	bool shared = m->kind == MEM_SHMEM || m->kind == MEM_HUGETLB_SHARED;
	enum mem_kind kind = m->kind;
	size_t size = m->size;

	if (!madvise(m->addr, size, shared ? MADV_REMOVE : MADV_DONTNEED) &&
	    (m->fd < 0 ||
	     !fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size)))
		return EXIT_PASS;
	mem_unmap(m);
	return area_map(m, kind, size);
}
