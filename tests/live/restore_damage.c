/* SPDX-License-Identifier: MIT */
/*
 * Images that are damaged, or cut, under a restore: who asks for a damaged page gets a signal, never wrong data;
 * everything else comes, nobody hangs, and the error is told. Also without UFFDIO_POISON.
 */
#include "../common/restore.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static sigjmp_buf jump;

static void on_signal(int signo)
{
	siglongjmp(jump, signo);
}

/* The signal that reading it gives, 0: none. */
static int probe(const void *p)
{
	struct sigaction sa = { .sa_handler = on_signal }, bus, segv;
	int signo;

	CHECK_EQ(sigaction(SIGBUS, &sa, &bus), 0);
	CHECK_EQ(sigaction(SIGSEGV, &sa, &segv), 0);
	signo = sigsetjmp(jump, 1);
	if (!signo)
		live_load(p);
	CHECK_EQ(sigaction(SIGBUS, &bus, NULL), 0);
	CHECK_EQ(sigaction(SIGSEGV, &segv, NULL), 0);
	return signo;
}

/* Which pages are damaged; the first is not zeros in any test. */
static bool bad_page(const struct live *t, size_t nr)
{
	return nr == 0 || nr == t->pages / 8 || nr == t->pages - 1;
}

static void damage(struct restored *c)
{
	for (size_t i = 0; i < c->t->pages; i++) {
		if (!bad_page(c->t, i))
			continue;
		/* Of zeros there is nothing in the file that could be damaged. */
		restored_damage(c, i * c->t->page);
	}
}

static bool is_zero(const char *p, size_t len)
{
	return !*p && !memcmp(p, p + 1, len - 1);
}

/* Returns how many pages gave the signal. */
static uint64_t check_pages(struct restored *c, int want)
{
	const struct live *t = c->t;
	uint64_t bad = 0;

	for (size_t i = 0; i < t->pages; i++) {
		const char *at = t->mem.addr + i * t->page, *data = c->data + i * t->page;
		int got = probe(at);

		/* In a huge page any of its pages may be the one; here its first. */
		if (bad_page(t, i) && !is_zero(data, 4096)) {
			CHECK_EQ(got, want);
			bad++;
			continue;
		}
		CHECK_EQ(got, 0);
		for (size_t k = 0; k < t->page; k += 8)
			if (live_load(at + k) != live_load(data + k))
				FAIL("page %zu at %zu", i, k);
	}
	CHECK(bad > 0);
	return bad;
}

static void damaged(struct live *t, uint32_t prefetch, uint64_t masked)
{
	struct uffdwp_restore_opts o = { .prefetch = prefetch };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	struct uffdwp_restore *rs;
	struct restored c;
	uint64_t bad;

	restored_make(&c, t);
	damage(&c);
	restored_open(&c, UFFDWP_SERVE_THREADS, masked ? 0 : UFFDWP_FEATURE_POISON, masked);
	rs = restored_start(&c, &o);
	bad = check_pages(&c, masked ? SIGSEGV : SIGBUS);
	CHECK_EQ(uffdwp_restore_wait(rs, &st), -EBADMSG);
	CHECK_EQ(st.error, -EBADMSG);
	CHECK_EQ(st.done, 1);
	CHECK_EQ(st.bytes, c.size);
	CHECK_EQ(st.damaged, bad * t->page);
	/* Asked for again, it is no better. */
	CHECK_EQ(check_pages(&c, masked ? SIGSEGV : SIGBUS), bad);
	CHECK_EQ(uffdwp_error(c.h), 0);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_KEEP), -EBADMSG);
	CHECK_EQ(check_pages(&c, masked ? SIGSEGV : SIGBUS), bad);
	restored_end(&c);
}

static void by_fault(struct live *t)
{
	damaged(t, 1, 0);
}

static void by_prefetch(struct live *t)
{
	damaged(t, 0, 0);
}

static void no_poison(struct live *t)
{
	damaged(t, 1, UFFDWP_FEATURE_POISON);
}

/*
 * ThreadSanitizer now and then calls a thread leaked that was joined, where a thousand handlers were left by a
 * jump.
 */
#ifdef LIVE_TSAN
#define PROBE_STEP 64
#else
#define PROBE_STEP 1
#endif

/*
 * A block of the checksums is damaged: its pages can not be had, zeros among them, since nobody knows which are;
 * the others come, and the restore comes to its end.
 */
static void table(struct live *t)
{
	uint64_t covered = UINT64_C(4) << 20,
		 table = (t->mem.size / 4096 * 4 + 4095) & ~UINT64_C(4095);
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	struct uffdwp_restore_opts o = { 0 };
	struct uffdwp_restore *rs;
	uint64_t lost = 0;
	struct restored c;

	restored_make(&c, t);
	/* Right before the pages. */
	restored_damage(&c, -table);
	restored_open(&c, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_POISON, 0);
	rs = restored_start(&c, &o);
	for (size_t i = 0; i < t->pages; i++) {
		const char *at = t->mem.addr + i * t->page;

		if (i * t->page >= covered) {
			CHECK_EQ(probe(at), 0);
			CHECK_EQ(memcmp(at, c.data + i * t->page, t->page), 0);
			continue;
		}
		if (lost++ % PROBE_STEP == 0)
			CHECK_EQ(probe(at), SIGBUS);
	}
	CHECK_EQ(uffdwp_restore_wait(rs, &st), -EBADMSG);
	CHECK_EQ(st.done, 1);
	CHECK_EQ(st.bytes, st.size);
	CHECK_EQ(st.damaged, lost * t->page);
	CHECK_EQ(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE), -EBADMSG);
	restored_end(&c);
}

/* The end of the file is gone: what was there comes, the rest is a signal. */
static void cut(struct live *t)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	struct uffdwp_restore_opts o = { 0 };
	size_t half = t->mem.size / 2;
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	CHECK_EQ(uffdwp_image_region(c.img, 0, &r), 0);
	CHECK_EQ(truncate(c.path, (off_t)(r.offset + half)), 0);
	restored_open(&c, UFFDWP_SERVE_THREADS, UFFDWP_FEATURE_POISON, 0);
	rs = restored_start(&c, &o);
	for (size_t i = 0; i < t->pages; i++) {
		const char *at = t->mem.addr + i * t->page, *data = c.data + i * t->page;
		bool zero = is_zero(data, t->page), lost = i * t->page >= half;

		CHECK_EQ(probe(at), lost && !zero ? SIGBUS : 0);
		if (!lost || zero)
			CHECK_EQ(memcmp(at, data, t->page), 0);
	}
	CHECK(uffdwp_restore_wait(rs, NULL) < 0);
	CHECK(uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE) < 0);
	restored_end(&c);
}

/* Eager says so and leaves nothing behind. */
static void eager(struct live *t)
{
	struct uffdwp_restore_opts o = { .sz = sizeof(o), .eager = 1 };
	struct uffdwp_restore *rs;
	struct restored c;

	restored_make(&c, t);
	restored_damage(&c, 0);
	restored_open(&c, UFFDWP_SERVE_THREADS, 0, 0);
	o.image = c.img;
	o.addrs = &c.addr;
	CHECK_EQ(uffdwp_restore_start(&rs, &o), -EBADMSG);
	CHECK(!rs);
	restored_end(&c);
}

static const struct live_case cases[] = {
	{ "by-fault", by_fault, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "by-prefetch", by_prefetch, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "no-poison", no_poison, KINDS_ALL, 0, 0 },
	{ "table", table, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "cut", cut, KINDS_ALL, UFFDWP_FEATURE_POISON, 0 },
	{ "eager", eager, KINDS_ALL, 0, 0 },
};

LIVE_MAIN(cases)
