/* SPDX-License-Identifier: MIT */
/*
 * Memory so large that what was written is looked for by blocks of pages, in several words of bits: arming and the
 * seal find it at the edges of blocks and words, and in the last block, which is not whole.
 */
#include "../common/snap.h"

#include <sys/mman.h>
#include <unistd.h>

#define BLOCK 512
#define WORD (64 * BLOCK)
#define PAGES (2 * WORD + BLOCK + 7)

static const size_t edges[] = { 0,	   BLOCK - 1, BLOCK,	    WORD - 1,
				WORD,	   WORD + 1,  2 * WORD - 1, 2 * WORD + BLOCK - 1,
				PAGES - 7, PAGES - 1 };

#define EDGES (sizeof(edges) / sizeof(edges[0]))

static void own_memory(struct live *t)
{
	t->page = (size_t)sysconf(_SC_PAGESIZE);
	CHECK_EQ(mem_map(&t->mem, MEM_ANON, PAGES * t->page), 0);
	t->pages = PAGES;
}

static void write_edges(struct live *t, uint64_t value)
{
	for (size_t i = 0; i < EDGES; i++)
		live_store(t->mem.addr + edges[i] * t->page, value + i);
}

/* Each page that is written is found by arming, so that the write after the seal has a fault, or by the seal. */
static void found(struct live *t, int mode, bool discard)
{
	struct uffdwp_snapshot_opts o = { .staging = UFFDWP_SNAPSHOT_STAGING_MIN, .settle = 1 };
	struct snap c;
	size_t by_seal;

	own_memory(t);
	write_edges(t, 1000);
	snap_open(&c, t, mode, discard ? UFFDWP_FEATURE_EVENT_REMOVE : 0);
	snap_new(&c, &o);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	write_edges(t, 2000);
	/* From here on there is a suspect, which may be in any block. */
	if (discard)
		CHECK_EQ(madvise(t->mem.addr + (WORD - 1) * t->page, t->page, MADV_DONTNEED), 0);
	CHECK_EQ(uffdwp_snapshot_arm(c.s), 0);
	for (by_seal = 0; by_seal < EDGES; by_seal += 3)
		live_store(t->mem.addr + edges[by_seal] * t->page, 3000);
	by_seal /= 3;
	snap_hold(&c);
	write_edges(t, 4000);
	snap_go(&c);
	snap_check_complete(&c);
	CHECK_EQ(c.res.by_seal, by_seal * t->page);
	CHECK_EQ(c.res.by_fault, (EDGES - by_seal) * t->page);
	snap_close(&c);
	mem_unmap(&t->mem);
}

static void threads(struct live *t)
{
	found(t, SNAP_COW_THREADS, false);
}

static void sigbus(struct live *t)
{
	found(t, SNAP_COW_SIGBUS, false);
}

static void suspects(struct live *t)
{
	found(t, SNAP_COW_THREADS, true);
}

static const struct live_case cases[] = {
	{ "threads", threads, KINDS_NONE, 0, 40 },
	{ "sigbus", sigbus, KINDS_NONE, 0, 40 },
	{ "suspects", suspects, KINDS_NONE,
	  UFFDWP_FEATURE_EVENT_REMOVE | UFFDWP_FEATURE_WP_UNPOPULATED, 40 },
};

LIVE_MAIN(cases)
