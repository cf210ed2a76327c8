/* SPDX-License-Identifier: MIT */
/* The memory of uffd-stress snapshot, and what it must hold: see snapshot.h. */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)

static uint32_t mix32(uint64_t x)
{
	x *= UINT64_C(0x9e3779b97f4a7c15);
	x ^= x >> 29;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return (uint32_t)(x >> 32);
}

/* The upper half says which write it was, the lower which word. */
uint64_t value_of(unsigned int area, size_t word, uint32_t seq)
{
	uint64_t x = (uint64_t)area << 60 ^ (uint64_t)word << 28 ^ seq;

	return (uint64_t)seq << 32 | mix32(x);
}

/* ---- Set-up ---- */

static int alloc_area(struct area *a)
{
	size_t size = a->mem.size;

	a->expect = calloc(a->words, sizeof(*a->expect));
	a->copy = malloc(size);
	a->sink.image = malloc(size);
	a->sink.times = calloc(a->pages, 1);
	a->sink.flying = calloc(a->pages, 1);
	a->replica = malloc(size);
	if (a->expect && a->copy && a->sink.image && a->sink.times && a->sink.flying && a->replica)
		return EXIT_PASS;
	out_fail("no memory");
	return EXIT_HARNESS;
}

/* A few pages of data, others of zeros, and the rest never touched. */
static void populate(struct round *r, struct area *a)
{
	struct rng rng = rng_make(r->plan.seed, 1000 + a->index);
	size_t at, step = a->mem.page_size, words = step / 8, i;
	struct scribe *s = round_disturber(r);

	for (at = 0; at < a->mem.size; at += step) {
		watchdog_step("fills", at);
		if (rng_below(&rng, 4) >= r->plan.populate)
			continue;
		if (rng_below(&rng, 4) == 0) {
			word_write(a->mem.addr + at, 0);
			continue;
		}
		for (i = rng_below(&rng, words); i < words; i += 1 + rng_below(&rng, 64))
			scribe_store(s, a, at / 8 + i);
	}
}

static int map_one(struct round *r, unsigned int i)
{
	const struct plan *p = &r->plan;
	struct area *a = &r->area[i];
	int rc = area_map(&a->mem, p->kinds[i], p->sizes[i]);

	if (rc)
		return rc;
	a->index = i;
	a->page = p->huge && p->kinds[i] == MEM_THP ? HUGE_SIZE : a->mem.page_size;
	a->pages = a->mem.size / a->page;
	a->words = a->mem.size / 8;
	a->wild = p->wild ? a->pages - a->pages / 4 : a->pages;
	rc = books_make(&a->books, a->mem.addr, a->mem.size, a->mem.page_size, a->page);
	if (!rc)
		rc = alloc_area(a);
	if (!rc)
		populate(r, a);
	return rc;
}

int areas_map(struct round *r)
{
	unsigned int i;
	int rc = EXIT_PASS;

	for (i = 0; i < AREAS_MAX; i++)
		r->area[i].mem.fd = -1;
	for (i = 0; !rc && i < r->plan.areas; i++)
		rc = map_one(r, i);
	return rc;
}

/* What was unmapped may be somebody else's by now. */
static void unmap(struct area *a)
{
	size_t from = a->gone * a->page, to = (a->gone + a->gone_n) * a->page;

	if (a->gone_n && !a->hole_is_ours) {
		munmap(a->mem.addr, from);
		munmap(a->mem.addr + to, a->mem.size - to);
		a->mem.addr = NULL;
	}
	mem_unmap(&a->mem);
}

void areas_free(struct round *r)
{
	unsigned int i;

	for (i = 0; i < AREAS_MAX; i++) {
		struct area *a = &r->area[i];

		free(a->replica);
		free((void *)a->sink.flying);
		free((void *)a->sink.times);
		free(a->sink.image);
		free(a->copy);
		free(a->expect);
		if (a->books.addr)
			books_free(&a->books);
		unmap(a);
	}
}

int areas_watch(struct round *r)
{
	unsigned int i;
	int rc = 0;

	for (i = 0; !rc && i < r->plan.areas; i++) {
		struct area *a = &r->area[i];
		struct uffdwp_region_opts ro = {
			.sz = sizeof(ro),
			.addr = (uintptr_t)a->mem.addr,
			.len = a->mem.size,
			.page_size = a->page,
			.mode = UFFDWP_MODE_WP | (r->plan.missing ? UFFDWP_MODE_MISSING : 0),
		};

		rc = uffdwp_region_add(r->server.h, &ro, &a->r);
	}
	if (!rc)
		return EXIT_PASS;
	verdict_fail(&r->v, "uffdwp_region_add: %s", strerror(-rc));
	return EXIT_WRONG;
}

/* ---- Copies ---- */

static uint64_t what_is(const struct area *a, size_t word)
{
	return word_read(a->mem.addr + word * 8);
}

static uint64_t what_was(const struct area *a, size_t word)
{
	uint64_t v;

	memcpy(&v, a->copy + word * 8, 8);
	return v;
}

static void copy_page(struct area *a, size_t page, bool expected)
{
	size_t words = a->page / 8, i;
	uint64_t v;

	/* Of what is gone there can be no image. */
	if (area_is_gone(a, page)) {
		memset(a->copy + page * a->page, 0x55, a->page);
		return;
	}
	for (i = page * words; i < (page + 1) * words; i++) {
		v = expected ? a->expect[i] : what_is(a, i);
		memcpy(a->copy + i * 8, &v, 8);
	}
}

void areas_copy(struct round *r, bool expected)
{
	unsigned int i;
	size_t page;

	for (i = 0; i < r->plan.areas; i++) {
		for (page = 0; page < r->area[i].pages; page++) {
			watchdog_step("copies page", page);
			copy_page(&r->area[i], page, expected);
		}
	}
}

/* ---- Checks ---- */

/* Something that was written there, not later than what was written last. */
static bool is_plausible(const struct area *a, size_t word, uint64_t v)
{
	uint32_t seq = (uint32_t)(v >> 32);

	return !v ||
	       (seq <= (uint32_t)(a->expect[word] >> 32) && v == value_of(a->index, word, seq));
}

static void wrong_word(struct round *r, const struct area *a, size_t word, uint64_t v,
		       const char *when)
{
	verdict_fail(&r->v,
		     "area %u page %zu byte %zu of the program holds %#" PRIx64 ", not %#" PRIx64
		     " %s",
		     a->index, word * 8 / a->page, word * 8 % a->page, v, a->expect[word], when);
}

static void check_page(struct round *r, struct area *a, size_t page, bool copies, const char *when)
{
	size_t words = a->page / 8, i;
	bool wild = page >= a->wild;

	for (i = page * words; i < (page + 1) * words; i++) {
		uint64_t v = copies ? what_was(a, i) : what_is(a, i);

		if (v == a->expect[i] || (wild && is_plausible(a, i, v)))
			continue;
		wrong_word(r, a, i, v, when);
		return;
	}
}

void areas_check(struct round *r, bool copies, const char *when)
{
	unsigned int i;
	size_t page;

	for (i = 0; i < r->plan.areas; i++) {
		for (page = 0; page < r->area[i].pages; page++) {
			watchdog_step("checks page", page);
			if (!area_is_gone(&r->area[i], page))
				check_page(r, &r->area[i], page, copies, when);
		}
	}
}
