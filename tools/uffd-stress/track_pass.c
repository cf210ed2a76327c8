/* SPDX-License-Identifier: MIT */
/* One pass of a collector, and what must be true after it: see the oracle in track.h. */
#include "track.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANGES_MAX 64
#define COMPARED 32 /* units after each pass */
#define CROWDED 16  /* epochs; see the oracle */
#define TRIES 10    /* of a call that is busy for a second */

static char *address(const struct trial *t, size_t unit)
{
	return t->books.addr + unit * t->books.unit;
}

/* ---- What the system does ---- */

static uint64_t value_of(const char *text, const char *name)
{
	const char *p = strstr(text, name);

	return p ? strtoull(p + strlen(name), NULL, 10) : 0;
}

/*
 * Pages that the kernel has moved so far; of huge memory also huge pages that it has split, which
 * puts the same entries into page tables; all over the system; 0 where it does not say.
 */
uint64_t track_migrations(const struct trial *t)
{
	char buf[16384];
	int fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return value_of(buf, "\npgmigrate_success ") +
	       (t->plan.kind == MEM_THP ? value_of(buf, "\nthp_split_page ") : 0);
}

/* ---- The replica ---- */

static void copy_unit(struct trial *t, size_t unit)
{
	size_t off = unit * t->books.unit, end = off + t->books.unit;

	for (; off < end; off += 8)
		word_write(t->replica + off, word_read(t->books.addr + off));
}

/* The first word that differs, or the unit's size. */
static size_t difference(const struct trial *t, size_t unit)
{
	size_t base = unit * t->books.unit, off;

	for (off = 0; off < t->books.unit; off += 8) {
		if (word_read(t->replica + base + off) != word_read(t->books.addr + base + off))
			break;
	}
	return off;
}

static void differs(struct trial *t, size_t unit, size_t off, const char *when)
{
	verdict_fail(&t->v,
		     "unit %zu: the replica differs at byte %zu %s; %" PRIu64 " writes, "
		     "%" PRIu64 " at its last report",
		     unit, off, when, atomic_load(&t->books.done[unit]), t->units[unit].begun);
}

/* Only where there was no write since its last epoch ended, nor one on the way then. */
static void compare_unit(struct trial *t, size_t unit)
{
	uint64_t done = t->units[unit].done;
	size_t off = difference(t, unit);

	if (off < t->books.unit && atomic_load(&t->books.begun[unit]) == done)
		differs(t, unit, off, "after a pass");
}

static void compare_some(struct collector *c)
{
	struct trial *t = c->t;
	unsigned int i;

	for (i = 0; i < COMPARED; i++) {
		const struct part *p = &c->parts[rng_below(&c->rng, c->nparts)];
		size_t unit = p->from + rng_below(&c->rng, p->to - p->from);

		watchdog_step("compares unit", unit);
		compare_unit(t, unit);
		if (t->books.unit > 65536 && i > 1)
			break;
	}
}

void track_compare(struct trial *t)
{
	size_t unit, off;

	for (unit = 0; unit < t->books.units; unit++) {
		watchdog_step("compares at the end", unit);
		off = difference(t, unit);
		if (off < t->books.unit)
			differs(t, unit, off, "at the end");
	}
}

void track_baseline(struct trial *t, uint64_t moved)
{
	size_t unit;

	for (unit = 0; unit < t->books.units; unit++) {
		copy_unit(t, unit);
		t->units[unit].moved[0] = t->units[unit].moved[1] = moved;
	}
}

/* ---- Results of a call ---- */

static void hit(struct collector *c, size_t from, size_t to)
{
	for (; from < to; from++)
		c->t->units[from].hit = true;
}

/* A range of whole units, inside of what was asked for, after the ones before. */
static void take_range(struct collector *c, uint64_t addr, uint64_t len)
{
	struct trial *t = c->t;
	uint64_t base = (uintptr_t)t->books.addr, unit = t->books.unit;
	size_t from = (addr - base) / unit, to = from + len / unit;
	size_t lo = c->whole ? 0 : c->part->from, hi = c->whole ? t->books.units : c->part->to;

	if (addr < base || (addr - base) % unit || len % unit || !len || from < lo || to > hi)
		verdict_fail(&t->v,
			     "a range at %#" PRIx64 " of %" PRIu64 " bytes, asked for units %zu to "
			     "%zu of %" PRIu64 " bytes from %#" PRIx64,
			     addr, len, lo, hi, unit, base);
	else if (addr < c->last_end)
		verdict_fail(&t->v, "a range at %#" PRIx64 " after one that ended at %#" PRIx64,
			     addr, c->last_end);
	else
		hit(c, from, to);
	c->last_end = addr + len;
}

static int on_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	struct collector *c = arg;
	struct trial *t = c->t;
	unsigned int i = c->whole ? 0 : c->part->region;

	while (c->whole && i + 1 < t->plan.regions &&
	       addr >= (uintptr_t)address(t, t->first[i + 1]))
		i++;
	if (r != t->regions[i])
		verdict_fail(&t->v, "a range at %#" PRIx64 " comes with the wrong region", addr);
	take_range(c, addr, len);
	return rng_below(&c->rng, 64) == 0;
}

static bool bit_is_set(const uint64_t *bitmap, size_t i)
{
	return le64toh(bitmap[i / 64]) >> i % 64 & 1;
}

/* Set before the call, and by it: nothing else. Bits of one unit are all set, or none. */
static void take_bitmap(struct collector *c, uint64_t bitmap_page)
{
	struct trial *t = c->t;
	size_t per = t->books.unit / bitmap_page, unit, k, i = 0, set;

	for (unit = c->part->from; unit < c->part->to; unit++) {
		for (k = set = 0; k < per; k++, i++)
			set += bit_is_set(c->bitmap, i);
		if (set)
			hit(c, unit, unit + 1);
		if (set && set < per)
			verdict_fail(&t->v, "unit %zu: %zu of its %zu bits are set", unit, set,
				     per);
	}
	/* What lies behind the last bit in its word is a neighbour's. */
	for (; i % 64; i++) {
		if (bit_is_set(c->bitmap, i))
			verdict_fail(&t->v, "a bit behind the end of the bitmap is set");
	}
}

/* ---- One call, or several that make a pass over a part ---- */

struct query {
	struct uffdwp_track_query q;
	struct uffdwp_track_range ranges[RANGES_MAX];
	bool give_up;
};

static void choose_bitmap(struct collector *c, struct query *k)
{
	struct trial *t = c->t;
	uint64_t size = t->books.unit;
	size_t bits;

	while (size > BASE_PAGE && rng_below(&c->rng, 2))
		size /= 2;
	bits = (c->part->to - c->part->from) * (t->books.unit / size);
	memset(c->bitmap, 0, (bits + 63) / 64 * 8);
	k->q.bitmap = c->bitmap;
	k->q.bitmap_page = size;
}

/* Whole: with the regions of the tracker in one call, when all of it is this collector's. */
static void choose(struct collector *c, struct query *k, bool whole)
{
	struct trial *t = c->t;
	unsigned int how = 1 + (unsigned int)rng_below(&c->rng, 7);

	memset(k, 0, sizeof(*k));
	k->q.sz = sizeof(k->q);
	if (!c->whole) {
		k->q.region = t->regions[c->part->region];
		k->q.addr = (uintptr_t)address(t, c->part->from);
		k->q.len = (c->part->to - c->part->from) * t->books.unit;
	}
	if (how & 1) {
		k->q.range = on_range;
		k->q.arg = c;
	}
	if (how & 2) {
		k->q.ranges = k->ranges;
		k->q.nranges = 1 + rng_below(&c->rng, RANGES_MAX);
	}
	/* There is always one that tells which. */
	if (how & 4 && !c->whole)
		choose_bitmap(c, k);
	else if (how == 4)
		k->q.range = on_range, k->q.arg = c;
	if (rng_below(&c->rng, 2))
		k->q.max = 1 + rng_below(&c->rng, 64 * t->books.unit);
	k->give_up = !whole && rng_below(&c->rng, 8) == 0;
}

static void take_results(struct collector *c, struct query *k)
{
	struct trial *t = c->t;
	uint64_t unit = t->books.unit, most = (k->q.max + unit - 1) / unit * unit, sum = 0;
	size_t i;

	if (k->q.max && k->q.bytes > most)
		verdict_fail(&t->v, "%" PRIu64 " bytes are reported, bound to %" PRIu64, k->q.bytes,
			     most);
	if (k->q.filled > k->q.nranges)
		verdict_fail(&t->v, "%zu ranges are filled of %zu", k->q.filled, k->q.nranges);
	if (!k->q.ranges)
		return;
	c->last_end = 0;
	for (i = 0; i < k->q.filled; i++) {
		take_range(c, k->ranges[i].addr, k->ranges[i].len);
		sum += k->ranges[i].len;
	}
	if (sum != k->q.bytes)
		verdict_fail(&t->v, "ranges of %" PRIu64 " bytes, %" PRIu64 " reported", sum,
			     k->q.bytes);
}

/* True: to the end. */
static bool call(struct collector *c, struct query *k, bool peek)
{
	struct trial *t = c->t;
	unsigned int tries = 0;
	bool stops, again;
	int rc;

	do {
		c->last_end = 0;
		watchdog_step(peek ? "peeks" : "collects", k->q.resume);
		rc = peek ? uffdwp_track_peek(t->track, &k->q)
			  : uffdwp_track_collect(t->track, &k->q);
		/* Who serves a page, or an event, got no CPU for a second: nothing is lost by asking again. */
		again = rc == -EBUSY && ++tries < TRIES;
		if (rc && !again)
			verdict_fail(&t->v, "%s: %s", peek ? "peek" : "collect", strerror(-rc));
		atomic_fetch_add(&t->calls, 1);
		if (!peek)
			c->bytes += k->q.bytes;
		take_results(c, k);
		stops = (rc && !again) || (k->give_up && rng_below(&c->rng, 2));
	} while ((k->q.resume || again) && !stops);
	if (k->q.bitmap)
		take_bitmap(c, k->q.bitmap_page);
	return !rc && !k->q.resume;
}

/* ---- The pass ---- */

static void read_before(struct collector *c, const struct part *p)
{
	struct trial *t = c->t;
	size_t i;

	for (i = p->from; i < p->to; i++) {
		t->units[i].before = atomic_load(&t->books.done[i]);
		t->units[i].calm_before = atomic_load(&t->books.calmed[i]);
		t->units[i].hit = false;
	}
	/*
	 * What was counted as done is in the memory, and in the kernel's books: from here on look.
	 */
	atomic_thread_fence(memory_order_seq_cst);
}

static void check_lost(struct trial *t, size_t i)
{
	const struct unit *u = &t->units[i];

	if (u->before > u->begun)
		verdict_fail(&t->v,
			     "unit %zu: lost: %" PRIu64 " writes done, %" PRIu64
			     " had begun when it was collected last, and it is not reported",
			     i, u->before, u->begun);
	else if (!u->reported && u->before > u->begun_first)
		verdict_fail(&t->v,
			     "unit %zu: lost: %" PRIu64 " writes done, %" PRIu64
			     " had begun when it was collected last but one, and it was reported "
			     "neither last nor now",
			     i, u->before, u->begun_first);
	else if (u->peeked)
		verdict_fail(&t->v, "unit %zu: lost: a peek had reported it", i);
}

/*
 * Disturbances have their own books. A discard of file memory that was an event leaves doubts for
 * ever: when such a page is not there, nobody can tell whether its content changed.
 */
static bool is_blurred(const struct trial *t, const struct unit *u, uint64_t stirred)
{
	bool anonymous = t->plan.kind == MEM_ANON || t->plan.kind == MEM_THP;
	/* Without that a tracker can not tell whether a discard is over. */
	bool provable = anonymous && mem_shows_wp();

	if (t->plan.events && !provable ? stirred : stirred != u->calm[1])
		return true;
	/* See the oracle. */
	if ((t->plan.mode == TRACK_SYNC || t->plan.mode == TRACK_CALLER) && u->crowded)
		return true;
	/* Looked at last, for it is the system's. */
	return t->plan.mode == TRACK_ASYNC && track_migrations(t) != u->moved[1];
}

static void check_invented(struct trial *t, size_t i, uint64_t begun, uint64_t stirred)
{
	const struct unit *u = &t->units[i];

	if (begun == u->done && !is_blurred(t, u, stirred))
		verdict_fail(&t->v,
			     "unit %zu: invented: no write since the %" PRIu64
			     " before it was collected last, and it is reported",
			     i, u->done);
}

/*
 * Discarding pages of hugetlb memory takes the kernel's books of earlier writes along, and what
 * tells of the discard comes after it; both are one write, which is told when it is done.
 */
static bool undecided(const struct trial *t, const struct unit *u, uint64_t stirred)
{
	return t->plan.mode == TRACK_ASYNC && t->mem.page_size > BASE_PAGE &&
	       stirred != u->calm_before;
}

static void end_epoch(struct unit *u, uint64_t begun, uint64_t moved, bool reported)
{
	if (u->before - u->done > 1)
		u->crowded = CROWDED;
	else if (u->crowded)
		u->crowded--;
	u->done = u->before;
	u->begun_first = u->begun;
	u->begun = begun;
	u->moved[1] = u->moved[0];
	u->moved[0] = moved;
	u->calm[1] = u->calm[0];
	u->calm[0] = u->calm_before;
	u->reported = reported;
	u->peeked = false;
}

static void judge(struct collector *c, const struct part *p, bool complete, bool peek)
{
	struct trial *t = c->t;
	uint64_t begun, stirred;
	size_t i;

	atomic_thread_fence(memory_order_seq_cst);
	for (i = p->from; i < p->to; i++) {
		struct unit *u = &t->units[i];

		begun = atomic_load(&t->books.begun[i]);
		stirred = atomic_load(&t->books.stirred[i]);
		if (u->hit)
			check_invented(t, i, begun, stirred);
		else if (!complete || undecided(t, u, stirred))
			continue;
		else
			check_lost(t, i);
		if (peek) {
			u->peeked |= u->hit;
			continue;
		}
		end_epoch(u, begun, c->moved, u->hit);
		if (!u->hit)
			continue;
		copy_unit(t, i);
		atomic_fetch_add_explicit(&t->reported, 1, memory_order_relaxed);
	}
}

static void pass_over(struct collector *c, const struct part *parts, unsigned int n, bool whole)
{
	bool peek = !whole && rng_below(&c->rng, 8) == 0, complete;
	struct query k;
	unsigned int i;

	c->moved = track_migrations(c->t);
	for (i = 0; i < n; i++)
		read_before(c, &parts[i]);
	c->part = parts;
	choose(c, &k, whole);
	complete = call(c, &k, peek);
	for (i = 0; i < n; i++)
		judge(c, &parts[i], complete, peek);
	atomic_fetch_add(&c->t->passes, 1);
}

/* As if all of it had been reported. */
static void reset_some(struct collector *c)
{
	struct trial *t = c->t;
	struct part p = c->parts[rng_below(&c->rng, c->nparts)];
	unsigned int tries = 0;
	size_t i;
	int rc;

	p.from += rng_below(&c->rng, p.to - p.from);
	p.to = p.from + 1 + rng_below(&c->rng, p.to - p.from);
	c->moved = track_migrations(c->t);
	read_before(c, &p);
	watchdog_step("resets", p.from);
	do
		rc = uffdwp_track_reset(t->track, t->regions[p.region],
					(uintptr_t)address(t, p.from),
					(p.to - p.from) * t->books.unit);
	while (rc == -EBUSY && ++tries < TRIES);
	if (rc)
		verdict_fail(&t->v, "reset: %s", strerror(-rc));
	for (i = p.from; i < p.to; i++) {
		end_epoch(&t->units[i], atomic_load(&t->books.begun[i]), c->moved, true);
		copy_unit(t, i);
	}
}

void track_pass(struct collector *c, bool whole)
{
	struct trial *t = c->t;
	unsigned int i;

	if (!whole && rng_below(&c->rng, 16) == 0)
		reset_some(c);
	c->whole = t->plan.collectors == 1 && rng_below(&c->rng, 2);
	if (c->whole) {
		pass_over(c, c->parts, c->nparts, whole);
	} else {
		for (i = 0; i < c->nparts; i++)
			pass_over(c, &c->parts[i], 1, whole);
	}
	compare_some(c);
}
