/* SPDX-License-Identifier: MIT */
/*
 * Faults on memory that is being restored: somebody waits. What is next to the page comes along: reading it
 * takes hardly longer, and it saves the next fault.
 */
#include "restore.h"

#include <errno.h>

#define AROUND (UINT64_C(64) << 10) /* bytes read for a fault that follows no other */

/* How many units to serve from this one on: more, the longer a reader has gone on in order. */
static uint64_t window(struct uffdwp__target *t, uint64_t unit, bool data)
{
	uint64_t least = data ? AROUND >> t->shift : 1, most = UFFDWP__WINDOW_MAX >> t->shift;
	uint64_t n = atomic_load_explicit(&t->window, memory_order_relaxed) * 2;

	if (atomic_load_explicit(&t->expected, memory_order_relaxed) != unit)
		n = least;
	n = n < least ? least : n > most ? most : n;
	n = n ? n : 1;
	/* Several readers spoil each other's order; then it is the least again, no more. */
	atomic_store_explicit(&t->window, n, memory_order_relaxed);
	return min_u64(n, t->units - unit);
}

/* Claims more units of the same kind. */
static uint64_t claim_around(struct uffdwp__target *t, uint64_t unit, bool data)
{
	uint64_t most = window(t, unit, data), n = 1;

	while (n < most && uffdwp__unit_data(t, unit + n) == data &&
	       uffdwp__claim(t, unit + n) == UFFDWP__CLAIM_MINE)
		n++;
	atomic_store_explicit(&t->expected, unit + n, memory_order_relaxed);
	return n;
}

static void note_asked(struct uffdwp__target *t, uint64_t unit, uint64_t n)
{
	struct uffdwp_restore *rs = t->rs;
	uint64_t i = atomic_fetch_add(&rs->nasked, 1);

	if (i >= rs->asked_max)
		return;
	rs->asked[i].region = t->index;
	rs->asked[i].unit = unit;
	/* Pairs with uffdwp_restore_order(). */
	atomic_store_explicit(&rs->asked[i].n, (uint32_t)n, memory_order_release);
}

/* Ours to place. */
static int serve(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit)
{
	bool data = uffdwp__unit_data(t, unit);
	uint64_t n = claim_around(t, unit, data);
	char *buf;
	int err;

	if (!data)
		return uffdwp__place_zeros(t, by, unit, n);
	note_asked(t, unit, n);
	buf = uffdwp__buffer_get(t->rs);
	err = uffdwp__fetch(t, by, unit, n, buf);
	uffdwp__buffer_put(t->rs, buf);
	return err;
}

/*
 * Somebody else is about to place it, which wakes; or has placed it by now, and it was discarded since:
 * then what is counted here makes him wake again, or we see that it was placed.
 */
static bool put_off(struct uffdwp__target *t, uint64_t unit)
{
	atomic_fetch_add(&t->put_off, 1);
	return uffdwp__claimed(t, unit) && !uffdwp__placed(t, unit);
}

/*
 * Placed: discarded since, or a late message, which leaves the page alone. But zeros would take the
 * place of poison in memory of a file. Where there is no poison the unit has no access at all.
 */
static int again(struct uffdwp__target *t, struct uffdwp_region *r, const struct uffdwp_fault *f)
{
	int err = -EOPNOTSUPP;

	if (uffdwp__poisoned(t, f->offset >> t->shift))
		err = uffdwp_poison(r, f->addr, f->len, NULL);
	if (err == -EOPNOTSUPP)
		err = uffdwp_zeropage(r, f->addr, f->len, t->rs->flags, NULL);
	/* Unmapped or moved since it was asked for. */
	return err == -EINVAL && uffdwp_region_find(uffdwp_region_handle(r), f->addr) != r ? -ENOENT
											   : err;
}

static int resolve(struct uffdwp_region *r, const struct uffdwp_fault *f, struct uffdwp__target *t)
{
	const struct uffdwp__placer by = { .fault = true, .base = f->addr - f->offset };
	uint64_t unit = f->offset >> t->shift;

	for (;;) {
		switch (uffdwp__claim(t, unit)) {
		case UFFDWP__CLAIM_MINE:
			return serve(t, &by, unit);
		case UFFDWP__CLAIM_PLACED:
			return again(t, r, f);
		default:
			if (put_off(t, unit))
				return UFFDWP_LATER;
		}
	}
}

static int missing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct uffdwp__target *t = ctx;
	int err;

	atomic_fetch_add_explicit(&t->rs->faults, 1, memory_order_relaxed);
	/* Faults come as soon as the region is there, before the one who adds it knows. */
	atomic_store_explicit(&t->r, r, memory_order_relaxed);
	err = resolve(r, f, t);
	/* Not now: it will be asked for again; where it has moved to, by who faulted. */
	if (err == -EBUSY || err == -EAGAIN)
		return uffdwp_wake(r, f->addr, f->len) ? -ENOENT : 0;
	if (err < 0 && err != -ENOENT && err != -ESRCH)
		uffdwp__restore_error(t->rs, err);
	return err;
}

static int event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	struct uffdwp__target *t = ctx;

	/* What moves away alone is nobody's. */
	if (e->kind == UFFDWP_EVENT_REMAP && e->whole)
		atomic_fetch_add(&t->base, e->to - e->addr);
	/* After base: see look_again(). */
	atomic_store(&t->told, uffdwp_region_addr(r));
	/* Whoever was put off at the new place is woken at the old one, by who has not seen base. */
	if (e->kind == UFFDWP_EVENT_REMAP && e->whole && atomic_load(&t->put_off))
		uffdwp_wake(r, e->to, e->len);
	return 0;
}

const struct uffdwp_ops uffdwp__restore_ops = { .sz = sizeof(uffdwp__restore_ops),
						.missing = missing,
						.event = event };

static int lost(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	(void)ctx;
	return -EIO;
}

const struct uffdwp_ops uffdwp__lost_ops = { .sz = sizeof(uffdwp__lost_ops), .missing = lost };
