/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress bounce: for each memory type two areas, between which all pages bounce, each time in
 * another combination of modes and way of serving. Descriptors and threads are counted around each
 * type.
 */
#include "bounce.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define CASES_MAX (BOUNCE_MODES * 3)

struct bounce_case {
	unsigned int mode;
	uint32_t serve;
};

/* ---- Which cases ---- */

static bool serves(const struct stress_opts *o, uint32_t way)
{
	return o->serves & 1u << way;
}

static void add_case(struct bounce_case *c, unsigned int *n, unsigned int mode, uint32_t serve)
{
	c[*n].mode = mode;
	c[(*n)++].serve = serve;
}

/*
 * The library's pool waits by poll, own threads in either way, and with signals nobody waits.
 * Each mode comes first in a way of its own, so that as many bounces as modes see every mode;
 * own threads that poll come last.
 */
static unsigned int list_cases(const struct stress_opts *o, struct bounce_case *c)
{
	bool pool = serves(o, UFFDWP_SERVE_THREADS), own = serves(o, UFFDWP_SERVE_CALLER);
	unsigned int n = 0, m;

	for (m = 0; m < BOUNCE_MODES; m++) {
		if (!(o->modes & 1u << m))
			continue;
		if (pool && m & BOUNCE_POLL)
			add_case(c, &n, m, UFFDWP_SERVE_THREADS);
		if (own && !(pool && m & BOUNCE_POLL))
			add_case(c, &n, m, UFFDWP_SERVE_CALLER);
		if (serves(o, UFFDWP_SERVE_SIGBUS) && !(m & BOUNCE_POLL))
			add_case(c, &n, m, UFFDWP_SERVE_SIGBUS);
	}
	for (m = BOUNCE_POLL; pool && own && m < BOUNCE_MODES; m++) {
		if (o->modes & 1u << m)
			add_case(c, &n, m, UFFDWP_SERVE_CALLER);
	}
	return n;
}

static const char *case_name(const struct bounce_case *c, char *buf, size_t size)
{
	static const char *const ways[] = { "threads", "caller", "sigbus" };

	snprintf(buf, size, "%s,%s%s%s %s", c->mode & BOUNCE_RANDOM ? "random" : "sequential",
		 c->mode & BOUNCE_RACING ? "racing," : "", c->mode & BOUNCE_VERIFY ? "verify," : "",
		 c->serve == UFFDWP_SERVE_SIGBUS ? "signal"
		 : c->mode & BOUNCE_POLL	 ? "poll"
						 : "read",
		 ways[c->serve]);
	return buf;
}

static void print_cases(const struct stress_opts *o, const struct bounce_case *c, unsigned int n)
{
	unsigned int kind, i;
	char name[64];

	for (kind = 0; kind < MEM_KINDS; kind++) {
		for (i = 0; o->kinds & 1u << kind && i < n; i++)
			printf("%s %s\n", mem_name(kind), case_name(&c[i], name, sizeof(name)));
	}
}

/* ---- One memory type ---- */

struct bench {
	struct bounce b;
	struct mem area[2], staging;
	struct tally tally;
	unsigned int bounces;
};

static void choose_slices(struct bounce *b, const struct stress_opts *o)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	size_t unit;

	b->slices = cpus < 1 ? 1 : cpus > SLICES_MAX ? SLICES_MAX : (unsigned int)cpus;
	unit = b->slices * 4;
	b->pages = (o->size + b->page * unit - 1) / (b->page * unit) * unit;
	b->slice_pages = b->pages / b->slices;
}

static int map_areas(struct bench *t)
{
	size_t size = t->b.pages * t->b.page;
	int rc;

	rc = area_map(&t->area[0], t->b.kind, size);
	if (!rc)
		rc = area_map(&t->area[1], t->b.kind, size);
	if (!rc && t->b.kind == MEM_THP) {
		rc = area_map(&t->staging, t->b.kind, size);
		t->b.staging = &t->staging;
	}
	return rc;
}

static int alloc_books(struct bounce *b)
{
	unsigned int i;
	bool good;

	b->shadow = calloc(b->pages, sizeof(*b->shadow));
	b->missing = calloc(b->pages, sizeof(*b->missing));
	b->written = calloc(b->pages, sizeof(*b->written));
	b->asked_once = calloc(b->pages, sizeof(*b->asked_once));
	good = b->shadow && b->missing && b->written && b->asked_once;
	for (i = 0; i < b->slices; i++) {
		b->slice[i].queue = calloc(b->slice_pages, sizeof(*b->slice[i].queue));
		good = good && b->slice[i].queue;
	}
	if (good)
		return EXIT_PASS;
	out_fail("no memory");
	return EXIT_HARNESS;
}

static void release(struct bench *t)
{
	unsigned int i;

	for (i = 0; i < t->b.slices; i++)
		free(t->b.slice[i].queue);
	free(t->b.asked_once);
	free(t->b.written);
	free(t->b.missing);
	free(t->b.shadow);
	if (t->b.staging)
		mem_unmap(&t->staging);
	mem_unmap(&t->area[1]);
	mem_unmap(&t->area[0]);
}

static void fill(struct bench *t)
{
	struct bounce *b = &t->b;
	size_t nr;

	for (nr = 0; nr < b->pages; nr++) {
		watchdog_step("fills page", nr);
		page_fill(bounce_page(b, &t->area[0], nr), b->page, nr);
		b->shadow[nr] = page_words(b->page) - 1;
	}
}

/* Without huge pages to start from, the THP case would be a second anon. */
static int check_filled(const struct bench *t)
{
	size_t huge;

	if (t->b.kind != MEM_THP)
		return EXIT_PASS;
	huge = mem_thp_bytes(&t->area[0]);
	if (huge >= t->area[0].size)
		return EXIT_PASS;
	out_fail("unsupported: thp: the kernel gave %zu of %zu bytes in huge pages", huge,
		 t->area[0].size);
	return EXIT_UNSUPPORTED;
}

static int set_up(struct bench *t, const struct stress_opts *o, enum mem_kind kind)
{
	int rc;

	memset(t, 0, sizeof(*t));
	t->area[0].fd = t->area[1].fd = t->staging.fd = -1;
	t->b.o = o;
	t->b.kind = kind;
	t->b.page = kind == MEM_ANON || kind == MEM_SHMEM || kind == MEM_MEMFD_PRIVATE
			    ? (size_t)sysconf(_SC_PAGESIZE)
			    : HUGE_SIZE;
	choose_slices(&t->b, o);
	rc = map_areas(t);
	if (!rc)
		rc = alloc_books(&t->b);
	if (rc)
		return rc;
	fill(t);
	return check_filled(t);
}

static int bounce_case(struct bench *t, const struct bounce_case *c)
{
	struct bounce *b = &t->b;
	int rc;

	b->mode = c->mode;
	b->serve = c->serve;
	b->round = t->bounces;
	b->src = &t->area[t->bounces & 1];
	b->dst = &t->area[~t->bounces & 1];
	rc = area_empty(b->dst);
	if (!rc && b->staging)
		rc = area_empty(b->staging);
	if (rc)
		return rc;
	t->bounces++;
	return bounce_once(b, &t->tally);
}

static int bounce_cases(struct bench *t, const struct bounce_case *c, unsigned int n, uint64_t end)
{
	const struct stress_opts *o = t->b.o;
	unsigned int limit = o->bounces ? o->bounces : o->duration ? UINT32_MAX : n;
	char name[64];
	int rc = EXIT_PASS;

	while (!rc && t->bounces < limit && (!t->bounces || now_ns() < end)) {
		case_name(&c[t->bounces % n], name, sizeof(name));
		out_progress(o, "%s: bounce %u, %s", mem_name(t->b.kind), t->bounces + 1, name);
		rc = bounce_case(t, &c[t->bounces % n]);
		if (rc == EXIT_WRONG)
			out_fail("%s: failed in bounce %u: %s", mem_name(t->b.kind), t->bounces,
				 name);
	}
	return rc;
}

static void tell(struct bench *t, const char *name, int rc)
{
	const struct stress_opts *o = t->b.o;

	out_say(o, "%-15s %6u bounces of %zu pages of %zu KiB, %u lockers: %s\n", name, t->bounces,
		t->b.pages, t->b.page >> 10, t->b.slices, exit_word(rc));
	tally_print(o, &t->tally);
	json_begin(o);
	json_str(o, "mem", name);
	json_u64(o, "bounces", t->bounces);
	json_u64(o, "pages", t->b.pages);
	json_u64(o, "page_size", t->b.page);
	json_u64(o, "lockers", t->b.slices);
	tally_json(o, &t->tally);
	json_str(o, "result", exit_word(rc));
	json_end(o);
}

static int bounce_kind(const struct stress_opts *o, enum mem_kind kind, const struct bounce_case *c,
		       unsigned int n, uint64_t end)
{
	struct census before = census_take();
	struct bench *t = malloc(sizeof(*t));
	int rc;

	if (!t) {
		out_fail("no memory");
		return EXIT_HARNESS;
	}
	rc = set_up(t, o, kind);
	if (!rc) {
		rc = bounce_cases(t, c, n, end);
		tell(t, mem_name(kind), rc);
	}
	release(t);
	free(t);
	if (!census_same(&before, mem_name(kind)) && !rc)
		rc = EXIT_WRONG;
	return rc;
}

/* ---- All ---- */

int bounce_run(const struct stress_opts *o)
{
	uint64_t share = o->duration * UINT64_C(1000000000) /
			 (uint64_t)__builtin_popcount(o->kinds);
	struct bounce_case cases[CASES_MAX];
	unsigned int n = list_cases(o, cases), kind;
	int rc = EXIT_PASS;

	if (o->list) {
		print_cases(o, cases, n);
		return EXIT_PASS;
	}
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (o->kinds & 1u << kind)
			rc = exit_worse(rc, bounce_kind(o, kind, cases, n,
							share ? now_ns() + share : UINT64_MAX));
	}
	return rc;
}
