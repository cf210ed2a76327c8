/* SPDX-License-Identifier: MIT */
/* A watched area and the source of its pages, see arena.h. */
#include "arena.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define TOLD_MAX 10

/* Page + 1 that this thread visits. */
static _Thread_local size_t visiting;

void arena_fail(struct arena *a, const char *fmt, ...)
{
	struct uffdwp *h;
	char text[256];
	va_list ap;

	if (atomic_fetch_add(&a->failures, 1) >= TOLD_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	out_fail("%s: %s", mem_name(a->kind), text);
	h = atomic_load(&a->h);
	if (h && uffdwp_error(h) < 0)
		out_fail("%s: the handle: %s", mem_name(a->kind), strerror(-uffdwp_error(h)));
}

int arena_result(const struct arena *a)
{
	return atomic_load(&a->failures) ? EXIT_WRONG : EXIT_PASS;
}

uint32_t arena_placed(const struct arena *a)
{
	return a->kind == MEM_THP && !a->copies ? 0 : 1;
}

struct page *arena_page(const struct arena *a, size_t nr)
{
	return (struct page *)(void *)(atomic_load(&a->at) + nr * a->page);
}

static struct page *source(const struct arena *a, size_t nr)
{
	return (struct page *)(void *)(a->src.addr + nr * a->page);
}

/* ---- Operations ---- */

static bool of_child(const struct arena *a, struct uffdwp_region *r)
{
	return uffdwp_region_handle(r) != atomic_load(&a->h);
}

static void check_thread(struct arena *a, size_t nr)
{
	if (a->in_thread && visiting != nr + 1)
		arena_fail(a, "page %zu: served in a thread that does not fault there", nr);
}

static int on_missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct arena *a = ctx;
	size_t nr = f->offset / a->page;
	bool child = of_child(a, r);
	int rc = -EOPNOTSUPP;

	if (nr >= a->pages) {
		arena_fail(a, "missing fault at offset %" PRIu64, f->offset);
		return UFFDWP_LATER;
	}
	check_thread(a, nr);
	atomic_fetch_add(child ? &a->child_missing[nr] : &a->missing[nr], 1);
	if (a->later)
		return UFFDWP_LATER;
	/* Moving works within one process only, and can not protect what is to stay protected. */
	if (a->kind == MEM_THP && !child && !a->copies)
		rc = uffdwp_move(r, f->addr, (uintptr_t)source(a, nr), a->page, NULL);
	if (rc == -EOPNOTSUPP)
		rc = uffdwp_copy(r, f->addr, source(a, nr), a->page, UFFDWP_COPY_WP, NULL);
	/* Another thread has been about to place it for long: then that one will wake. */
	return rc == -EBUSY ? UFFDWP_LATER : rc;
}

static int on_write(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct arena *a = ctx;
	size_t nr = f->offset / a->page;

	if (nr >= a->pages || f->len != a->page) {
		arena_fail(a, "write fault at offset %" PRIu64 ", %" PRIu64 " bytes", f->offset,
			   f->len);
		return 0;
	}
	check_thread(a, nr);
	if (f->addr != (uintptr_t)arena_page(a, nr))
		arena_fail(a, "page %zu: write fault at %#" PRIx64, nr, f->addr);
	atomic_fetch_add(of_child(a, r) ? &a->child_written[nr] : &a->written[nr], 1);
	return 0;
}

static int on_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	struct arena *a = ctx;

	if (of_child(a, r))
		return 0;
	pthread_mutex_lock(&a->lock);
	a->last = *e;
	pthread_mutex_unlock(&a->lock);
	atomic_fetch_add(&a->events[e->kind % EVENT_KINDS], 1);
	return 0;
}

struct uffdwp_event arena_last_event(struct arena *a)
{
	struct uffdwp_event e;

	pthread_mutex_lock(&a->lock);
	e = a->last;
	pthread_mutex_unlock(&a->lock);
	return e;
}

static const struct uffdwp_ops ops = {
	.sz = sizeof(ops),
	.missing = on_missing,
	.write = on_write,
	.event = on_event,
};

/* ---- Set-up ---- */

static int alloc_books(struct arena *a)
{
	a->shadow = calloc(a->pages, sizeof(*a->shadow));
	a->missing = calloc(a->pages, sizeof(*a->missing));
	a->written = calloc(a->pages, sizeof(*a->written));
	a->child_missing = calloc(a->pages, sizeof(*a->child_missing));
	a->child_written = calloc(a->pages, sizeof(*a->child_written));
	if (a->shadow && a->missing && a->written && a->child_missing && a->child_written)
		return EXIT_PASS;
	out_fail("no memory");
	return EXIT_HARNESS;
}

/* Without huge pages to start from, the THP case would be a second anon. */
static int check_source(const struct arena *a)
{
	size_t huge;

	if (a->kind != MEM_THP)
		return EXIT_PASS;
	huge = mem_thp_bytes(&a->src);
	if (huge >= a->src.size)
		return EXIT_PASS;
	out_fail("unsupported: thp: the kernel gave %zu of %zu bytes in huge pages", huge,
		 a->src.size);
	return EXIT_UNSUPPORTED;
}

int arena_map(struct arena *a, enum mem_kind kind, size_t size)
{
	bool small = kind == MEM_ANON || kind == MEM_SHMEM || kind == MEM_MEMFD_PRIVATE;
	int rc;

	memset(a, 0, sizeof(*a));
	a->src.fd = a->dst.fd = -1;
	a->kind = kind;
	pthread_mutex_init(&a->lock, NULL);
	a->page = small ? (size_t)sysconf(_SC_PAGESIZE) : HUGE_SIZE;
	a->pages = (size / a->page + 7) / 8 * 8;
	if (!a->pages)
		a->pages = 8;
	rc = area_map(&a->src, kind, a->pages * a->page);
	if (!rc)
		rc = area_map(&a->dst, kind, a->pages * a->page);
	if (!rc)
		rc = alloc_books(a);
	if (rc)
		return rc;
	arena_refill(a, 0, a->pages);
	return check_source(a);
}

void arena_unmap(struct arena *a)
{
	free(a->child_written);
	free(a->child_missing);
	free(a->written);
	free(a->missing);
	free(a->shadow);
	mem_unmap(&a->dst);
	mem_unmap(&a->src);
}

int arena_watch(struct arena *a, struct uffdwp *h)
{
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro),
		.addr = (uintptr_t)a->dst.addr,
		.len = a->dst.size,
		.page_size = a->page,
		.mode = UFFDWP_MODE_MISSING | UFFDWP_MODE_WP,
		.ops = &ops,
		.ctx = a,
	};
	int rc;

	atomic_store(&a->h, h);
	atomic_store(&a->at, a->dst.addr);
	arena_reset(a, 0, a->pages);
	rc = uffdwp_region_add(h, &ro, &a->region);
	if (!rc)
		return EXIT_PASS;
	out_fail("%s: uffdwp_region_add: %s", mem_name(a->kind), strerror(-rc));
	return EXIT_WRONG;
}

bool arena_refill(struct arena *a, size_t from, size_t to)
{
	for (; from < to; from++) {
		watchdog_step("fills page", from);
		page_fill(source(a, from), a->page, from);
		a->shadow[from] = page_words(a->page) - 1;
	}
	return true;
}

void arena_reset(struct arena *a, size_t from, size_t to)
{
	for (; from < to; from++) {
		atomic_store(&a->missing[from], 0);
		atomic_store(&a->written[from], 0);
		atomic_store(&a->child_missing[from], 0);
		atomic_store(&a->child_written[from], 0);
	}
}

/* ---- Use ---- */

void arena_visit(struct arena *a, size_t from, size_t to, bool glance)
{
	for (; from < to; from++) {
		watchdog_step("visits page", from);
		visiting = from + 1;
		if (glance)
			page_glance(arena_page(a, from));
		if (!page_visit(arena_page(a, from), a->page, from, &a->shadow[from]))
			arena_fail(a, "page %zu: its counter is not the shadow's", from);
		visiting = 0;
	}
}

void arena_protect(struct arena *a, size_t from, size_t to)
{
	uint64_t done = 0, len = (to - from) * a->page;
	int rc;

	watchdog_step("protects from page", from);
	rc = uffdwp_protect(a->region, (uintptr_t)arena_page(a, from), len, &done);
	if (rc || done != len)
		arena_fail(a, "protecting pages %zu to %zu: %s, %" PRIu64 " bytes done", from, to,
			   strerror(-rc), done);
}

void arena_expect(struct arena *a, size_t from, size_t to, uint32_t missing, uint32_t written,
		  const char *when)
{
	uint32_t m, w;

	for (; from < to; from++) {
		m = atomic_load(&a->missing[from]);
		w = atomic_load(&a->written[from]);
		if ((missing == ARENA_SOME ? !m : m != missing) || w != written)
			arena_fail(a,
				   "page %zu: %" PRIu32 " missing and %" PRIu32 " write faults %s",
				   from, m, w, when);
	}
}

void arena_check(struct arena *a, size_t from, size_t to)
{
	size_t nr, bad;

	for (nr = from; nr < to; nr++) {
		watchdog_step("compares page", nr);
		if (!page_check(arena_page(a, nr), a->page, nr, a->shadow[nr], &bad))
			arena_fail(a, "page %zu: wrong at byte %zu", nr, bad);
	}
}

void arena_check_huge(struct arena *a)
{
	size_t huge;

	if (a->kind != MEM_THP)
		return;
	huge = mem_thp_bytes(&a->dst);
	if (huge < a->dst.size)
		arena_fail(a, "%zu of %zu bytes are in huge pages", huge, a->dst.size);
}
