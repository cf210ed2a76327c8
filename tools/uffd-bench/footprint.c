/* SPDX-License-Identifier: MIT */
/*
 * What the library's books cost in memory: every private dirty page of this process outside the
 * watched range, as smaps tells it, before the open against after faults were served all over the
 * range. So stacks of the serving threads and the heap are in it, and nothing is taken on trust.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "side.h"

#define WATCHED (UINT64_C(1) << 30)
#define STRIDE 64 /* of the pages written: each word of a bitmap is used */

static const char case_name[] = "bookkeeping 1 GiB";

struct usage {
	uint64_t dirty;	  /* resident, bytes */
	uint64_t virtual; /* VmData */
	uint64_t tables;  /* the kernel's page tables, VmPTE */
};

static FILE *open_proc(const char *path)
{
	FILE *f = fopen(path, "re");

	if (!f)
		die(path, errno);
	return f;
}

static uint64_t dirty_outside(const struct mem *m)
{
	FILE *f = open_proc("/proc/self/smaps");
	uint64_t sum = 0, start, end, kib;
	uint64_t from = (uintptr_t)m->addr, to = from + m->size;
	bool counted = false;
	char line[512];

	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			counted = end <= from || start >= to;
		else if (counted && sscanf(line, "Private_Dirty: %" SCNu64, &kib) == 1)
			sum += kib << 10;
	}
	fclose(f);
	return sum;
}

static struct usage usage_now(const struct mem *m)
{
	struct usage u = { .dirty = dirty_outside(m) };
	FILE *f = open_proc("/proc/self/status");
	char line[256];

	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "VmData: %" SCNu64, &u.virtual) == 1)
			u.virtual <<= 10;
		else if (sscanf(line, "VmPTE: %" SCNu64, &u.tables) == 1)
			u.tables <<= 10;
	}
	fclose(f);
	return u;
}

static int count_page(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	atomic_fetch_add_explicit((atomic_ulong *)ctx, f->len, memory_order_relaxed);
	return 0;
}

static void watch(struct uffdwp *h, const struct mem *m, struct uffdwp_region **r,
		  atomic_ulong *served)
{
	static const struct uffdwp_ops ops = { .sz = sizeof(ops), .write = count_page };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)m->addr,
					.len = m->size,
					.mode = UFFDWP_MODE_WP,
					.ops = &ops,
					.ctx = served };
	int err = uffdwp_region_add(h, &o, r);

	if (!err)
		err = uffdwp_protect(*r, o.addr, o.len, NULL);
	if (err)
		die("watching memory", -err);
}

static void write_some(const struct mem *m, atomic_ulong *served)
{
	size_t stride = STRIDE * m->page_size;

	for (size_t at = 0; at < m->size; at += stride)
		*(volatile char *)(m->addr + at) = 1;
	if (atomic_load(served) != m->size / STRIDE) {
		fprintf(stderr, "uffd-bench: wrong result: %lu bytes served instead of %zu\n",
			atomic_load(served), m->size / STRIDE);
		exit(EXIT_WRONG);
	}
}

static void print(const struct bench_opts *o, const struct usage *before,
		  const struct usage *opened, const struct usage *after)
{
	double ours = (double)((after->dirty - before->dirty) >> 10);
	double theirs = (double)(WATCHED >> 10);
	struct row row = { .bench = "fault",
			   .name = case_name,
			   .serve = "threads",
			   .peer = "KiB watched",
			   .unit = "KiB",
			   .ours = &ours,
			   .theirs = &theirs,
			   .rounds = 1,
			   .target = "<=1e-4",
			   .limit = 1e-4,
			   .writers_on = "-",
			   .ours_on = "-",
			   .theirs_on = "-" };

	report_row(&row, o->json);
	report_note(o->json,
		    "    resident: %" PRIu64 " KiB by opening with its pool, %" PRIu64
		    " KiB by the region;"
		    " virtual %" PRIu64
		    " KiB;\n    the kernel's page tables for the protection: %" PRIu64 " KiB\n",
		    (opened->dirty - before->dirty) >> 10, (after->dirty - opened->dirty) >> 10,
		    (after->virtual - before->virtual) >> 10,
		    (after->tables - before->tables) >> 10);
}

static int measure(const struct bench_opts *o, const struct mem *m)
{
	char reason[256] = "";
	struct uffdwp_opts opts = { .sz = sizeof(opts),
				    .required = UFFDWP_FEATURE_WP_UNPOPULATED,
				    .reason = reason,
				    .reason_size = sizeof(reason) };
	struct usage before, opened, after;
	struct uffdwp_region *r;
	atomic_ulong served = 0;
	struct uffdwp *h;
	int err;

	/* The first reading allocates what reading needs; the second does not see it any more. */
	(void)usage_now(m);
	before = usage_now(m);
	err = uffdwp_open(&h, &opts);
	if (err) {
		fprintf(stderr, "uffd-bench: %s: unsupported: %s (%s)\n", case_name, strerror(-err),
			reason);
		return EXIT_UNSUPPORTED;
	}
	opened = usage_now(m);
	watch(h, m, &r, &served);
	write_some(m, &served);
	after = usage_now(m);
	print(o, &before, &opened, &after);
	err = uffdwp_close(h);
	if (err)
		die("uffdwp_close", -err);
	return EXIT_MEASURED;
}

int footprint_report(const struct bench_opts *o)
{
	struct mem m;
	int err, result;

	if (o->list) {
		printf("%-30s threads\n", case_name);
		return EXIT_MEASURED;
	}
	err = mem_map(&m, MEM_ANON, WATCHED);
	if (err) {
		fprintf(stderr, "uffd-bench: %s: %s\n", case_name, strerror(-err));
		return EXIT_UNSUPPORTED;
	}
	result = measure(o, &m);
	mem_unmap(&m);
	return result;
}
