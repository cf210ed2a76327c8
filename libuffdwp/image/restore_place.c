/* SPDX-License-Identifier: MIT */
/* Claiming units of memory, and placing them once. */
#include "restore.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#define MOVING_NS UINT64_C(1000000000)

static bool bit_get(const _Atomic uint64_t *bits, uint64_t i)
{
	return atomic_load(&bits[i / 64]) >> (i % 64) & 1;
}

/* The old value. */
static bool bit_set(_Atomic uint64_t *bits, uint64_t i)
{
	return atomic_fetch_or(&bits[i / 64], UINT64_C(1) << (i % 64)) >> (i % 64) & 1;
}

enum uffdwp__claim uffdwp__claim(struct uffdwp__target *t, uint64_t unit)
{
	if (!bit_set(t->claimed, unit))
		return UFFDWP__CLAIM_MINE;
	return bit_get(t->placed, unit) ? UFFDWP__CLAIM_PLACED : UFFDWP__CLAIM_TAKEN;
}

bool uffdwp__claimed(const struct uffdwp__target *t, uint64_t unit)
{
	return bit_get(t->claimed, unit);
}

bool uffdwp__placed(const struct uffdwp__target *t, uint64_t unit)
{
	return bit_get(t->placed, unit);
}

bool uffdwp__poisoned(const struct uffdwp__target *t, uint64_t unit)
{
	return bit_get(t->poisoned, unit);
}

/* A fault knows where its memory is, also before the event has told. */
static uint64_t base_for(const struct uffdwp__target *t, const struct uffdwp__placer *by)
{
	return by->fault ? by->base : atomic_load(&t->base);
}

static uint64_t unit_addr(const struct uffdwp__target *t, const struct uffdwp__placer *by,
			  uint64_t unit)
{
	return base_for(t, by) + (unit << t->shift);
}

static _Atomic uint64_t *counter_of(struct uffdwp__target *t, const struct uffdwp__placer *by)
{
	return by->fault ? &t->rs->by_fault : &t->rs->by_prefetch;
}

static uint64_t data_bytes(const struct uffdwp__target *t, uint64_t unit, uint64_t n)
{
	struct uffdwp__run run = { t->index, unit * t->unit_pages, n * t->unit_pages };

	return uffdwp__data_bytes(t->rs->img, &run);
}

bool uffdwp__unit_data(const struct uffdwp__target *t, uint64_t unit)
{
	const uint32_t *e = uffdwp__entries_at(t->rs->img, t->index, unit * t->unit_pages,
					       t->unit_pages);

	for (uint64_t i = 0; i < t->unit_pages; i++)
		if (e[i])
			return true;
	return false;
}

/* ---- States ---- */

__attribute__((cold)) static void all_there(struct uffdwp_restore *rs)
{
	atomic_store(&rs->done_ns, uffdwp__now_ns() - rs->began_ns);
	pthread_mutex_lock(&rs->lock);
	pthread_cond_broadcast(&rs->cond);
	pthread_mutex_unlock(&rs->lock);
}

static void count(struct uffdwp_restore *rs, uint64_t bytes)
{
	/* Whoever adds the last byte tells. */
	if (bytes && atomic_fetch_add(&rs->bytes, bytes) + bytes == uffdwp__restore_size(rs))
		all_there(rs);
}

/*
 * A fault may have been put off after its page was there and gone again: then nobody else would
 * wake it. Either it has seen the bits set here, or it is counted there; see put_off().
 */
static void set_placed(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
		       uint64_t n, uint64_t put_off, bool counts)
{
	uint64_t bytes = data_bytes(t, unit, n);

	for (uint64_t i = 0; i < n; i++)
		bit_set(t->placed, unit + i);
	if (atomic_load(&t->put_off) != put_off)
		uffdwp_wake(t->r, unit_addr(t, by, unit), n << t->shift);
	if (counts)
		atomic_fetch_add(counter_of(t, by), bytes);
	count(t->rs, bytes);
}

/* Who sleeps faults again, and the fill has something to do again. */
__attribute__((cold)) static void
give_back(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit, uint64_t n)
{
	struct uffdwp_restore *rs = t->rs;

	for (uint64_t i = unit; i < unit + n; i++)
		atomic_fetch_and(&t->claimed[i / 64], ~(UINT64_C(1) << (i % 64)));
	uffdwp_wake(t->r, unit_addr(t, by, unit), n << t->shift);
	pthread_mutex_lock(&rs->lock);
	rs->filled = false;
	pthread_cond_broadcast(&rs->cond);
	pthread_mutex_unlock(&rs->lock);
}

/* ---- Placing ---- */

enum how { HOW_COPY, HOW_ZERO, HOW_POISON };

static int place_call(struct uffdwp__target *t, enum how how, uint64_t addr, char *buf,
		      uint64_t len, uint64_t *done)
{
	uint64_t moved = 0;
	int err;

	*done = 0;
	if (how == HOW_ZERO)
		return uffdwp_zeropage(t->r, addr, len, t->rs->flags, done);
	if (how == HOW_POISON)
		return uffdwp_poison(t->r, addr, len, done);
	if (!atomic_load_explicit(&t->moves, memory_order_relaxed))
		return uffdwp_copy(t->r, addr, buf, len, t->rs->flags, done);
	err = uffdwp_move(t->r, addr, (uintptr_t)buf, len, &moved);
	if (err == -ENOENT || err == -ESRCH || !err) {
		*done = moved;
		return err;
	}
	/* Not this memory, or not now: what is left in the buffer is copied. */
	if (err != -EBUSY && err != -EAGAIN)
		atomic_store_explicit(&t->moves, false, memory_order_relaxed);
	err = uffdwp_copy(t->r, addr + moved, buf + moved, len - moved, t->rs->flags, done);
	*done += moved;
	return err;
}

static bool gone(int err)
{
	return err == -ENOENT || err == -ESRCH || err == -EINVAL;
}

enum where { WHERE_NOWHERE, WHERE_ELSE, WHERE_UNKNOWN };

/*
 * Where memory is that was not found at base: the library may know it before the event tells. It does not come where the
 * handle has failed.
 */
__attribute__((cold)) static enum where look_again(struct uffdwp__target *t, uint64_t base)
{
	uint64_t until = uffdwp__now_ns() + MOVING_NS;

	while (uffdwp_region_addr(t->r) != atomic_load(&t->told) && !uffdwp_error(t->rs->h)) {
		if (uffdwp__now_ns() > until)
			return WHERE_UNKNOWN;
		sched_yield();
	}
	return base != atomic_load(&t->base) ? WHERE_ELSE : WHERE_NOWHERE;
}

/*
 * Places what it can. To the kernel a range that is not all in one mapping is nowhere: it is tried in
 * halves, and a unit alone that is not mapped any more counts as placed: nobody can ask for it. The address may
 * change meanwhile, by mremap(2): then it is tried again at the new one. A fault waits for none of this, as who carries
 * out the event may be waiting for it: its units are given back, and so are those that nobody tells of.
 */
static int place_units(struct uffdwp__target *t, const struct uffdwp__placer *by, enum how how,
		       uint64_t unit, uint64_t n, char *buf)
{
	uint64_t pos = 0, most = n, put_off = atomic_load(&t->put_off);
	int err = 0, first = 0;

	while (pos < n) {
		uint64_t base = base_for(t, by), len = min_u64(most, n - pos), done;
		enum where where = WHERE_NOWHERE;

		err = place_call(t, how, base + ((unit + pos) << t->shift),
				 buf ? buf + (pos << t->shift) : NULL, len << t->shift, &done);
		done >>= t->shift;
		if (done)
			set_placed(t, by, unit + pos, done, put_off, how != HOW_POISON);
		pos += done;
		if (gone(err) && !by->fault)
			where = look_again(t, base);
		if (!err || where == WHERE_ELSE)
			continue;
		if (!gone(err) || (how == HOW_POISON && err == -EINVAL))
			break;
		err = -EAGAIN;
		if (where == WHERE_UNKNOWN)
			break;
		if (len - done > 1) {
			most = (len - done + 1) / 2;
			continue;
		}
		if (by->fault)
			break;
		set_placed(t, by, unit + pos, 1, put_off, false);
		err = 0;
		first = pos ? first : -ENOENT;
		pos++;
	}
	if (err && pos < n && how != HOW_POISON)
		give_back(t, by, unit + pos, n - pos);
	return err ? err : first;
}

int uffdwp__place(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
		  uint64_t n, void *buf)
{
	return place_units(t, by, HOW_COPY, unit, n, buf);
}

int uffdwp__place_zeros(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
			uint64_t n)
{
	return place_units(t, by, HOW_ZERO, unit, n, NULL);
}

/* ---- Damage ---- */

/*
 * Without poison no access at all is the one other way in which wrong data can not be seen. Only
 * the memory of this process can be treated so.
 */
__attribute__((cold)) static int
make_inaccessible(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit, int why)
{
	uint64_t addr = unit_addr(t, by, unit), put_off = atomic_load(&t->put_off);
	bool here = uffdwp_region_find(t->rs->h, addr) == t->r;

	/* If it has moved, what is there now is somebody else's. */
	if (here && t->rs->local &&
	    !mprotect((void *)(uintptr_t)addr, (size_t)1 << t->shift, PROT_NONE)) {
		set_placed(t, by, unit, 1, put_off, false);
		return uffdwp_wake(t->r, addr, UINT64_C(1) << t->shift);
	}
	give_back(t, by, unit, 1);
	return here ? why : -EAGAIN;
}

__attribute__((cold)) static int damage(struct uffdwp__target *t, const struct uffdwp__placer *by,
					uint64_t unit, int why)
{
	int err;

	/* Before it counts as placed: whoever waits for the end sees them. */
	uffdwp__restore_error(t->rs, why);
	atomic_fetch_add(&t->rs->damaged, UINT64_C(1) << t->shift);
	bit_set(t->poisoned, unit);
	err = place_units(t, by, HOW_POISON, unit, 1, NULL);
	if (err == -EAGAIN)
		give_back(t, by, unit, 1);
	else if (err && err != -ENOENT)
		err = make_inaccessible(t, by, unit, why);
	/* It is read again then. */
	if (err == -EAGAIN)
		atomic_fetch_sub(&t->rs->damaged, UINT64_C(1) << t->shift);
	return err;
}

/* ---- Reading and placing ---- */

int uffdwp__fetch(struct uffdwp__target *t, const struct uffdwp__placer *by, uint64_t unit,
		  uint64_t n, void *buf)
{
	unsigned int page_shift = t->rs->img->meta.shift;
	int result = 0;

	for (uint64_t pos = 0; pos < n && !result;) {
		struct uffdwp__run run = { t->index, (unit + pos) * t->unit_pages,
					   (n - pos) * t->unit_pages };
		uint64_t good, units;
		int err = uffdwp__run_read(t->rs->img, &run, buf, &good);

		units = (good << page_shift) >> t->shift;
		if (units)
			result = uffdwp__place(t, by, unit + pos, units, buf);
		pos += units;
		/* A long read fails as a whole; alone, each of its units tells. */
		if (err && !result && run.n > t->unit_pages && err != -EBADMSG) {
			for (; pos < n && !result; pos++)
				result = uffdwp__fetch(t, by, unit + pos, 1, buf);
		} else if (err && !result) {
			result = damage(t, by, unit + pos, err);
			pos++;
		}
		if (result && pos < n)
			give_back(t, by, unit + pos, n - pos);
	}
	return result;
}

/* ---- Buffers ---- */

char *uffdwp__buffer_get(struct uffdwp_restore *rs)
{
	uint64_t have;
	int i;

	while (sem_wait(&rs->buffers_sem))
		;
	/* The semaphore says that there is one. */
	have = atomic_load(&rs->buffers_free);
	do {
		i = __builtin_ctzll(have);
	} while (!atomic_compare_exchange_weak(&rs->buffers_free, &have,
					       have & ~(UINT64_C(1) << i)));
	return rs->buffers + (size_t)i * rs->buffer_size;
}

void uffdwp__buffer_put(struct uffdwp_restore *rs, char *buf)
{
	uint64_t i = (uint64_t)(buf - rs->buffers) / rs->buffer_size;

	atomic_fetch_or(&rs->buffers_free, UINT64_C(1) << i);
	sem_post(&rs->buffers_sem);
}
