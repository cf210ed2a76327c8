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

static uint64_t unit_addr(const struct uffdwp__target *t, uint64_t unit)
{
	return atomic_load(&t->base) + (unit << t->shift);
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
static void set_placed(struct uffdwp__target *t, uint64_t unit, uint64_t n, uint64_t put_off,
		       _Atomic uint64_t *counter)
{
	uint64_t bytes = data_bytes(t, unit, n);

	for (uint64_t i = 0; i < n; i++)
		bit_set(t->placed, unit + i);
	if (atomic_load(&t->put_off) != put_off)
		uffdwp_wake(t->r, unit_addr(t, unit), n << t->shift);
	if (counter)
		atomic_fetch_add(counter, bytes);
	count(t->rs, bytes);
}

/* Who sleeps faults again, and the fill has something to do again. */
__attribute__((cold)) static void give_back(struct uffdwp__target *t, uint64_t unit, uint64_t n)
{
	struct uffdwp_restore *rs = t->rs;

	for (uint64_t i = unit; i < unit + n; i++)
		atomic_fetch_and(&t->claimed[i / 64], ~(UINT64_C(1) << (i % 64)));
	uffdwp_wake(t->r, unit_addr(t, unit), n << t->shift);
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

/*
 * Whether the memory is not at base any more: the library may know it before the event tells. False
 * also when that does not come: then the handle has failed.
 */
__attribute__((cold)) static bool moved(struct uffdwp__target *t, uint64_t base)
{
	uint64_t until = uffdwp__now_ns() + MOVING_NS;

	while (uffdwp_region_addr(t->r) != atomic_load(&t->told) && uffdwp__now_ns() < until &&
	       !uffdwp_error(t->rs->h))
		sched_yield();
	return base != atomic_load(&t->base);
}

/* A unit that the kernel finds nowhere. In a fault it can not be waited for who carries out an event. */
__attribute__((cold)) static int unit_gone(struct uffdwp__target *t, uint64_t unit,
					   uint64_t put_off, bool in_fault)
{
	if (in_fault)
		return -EAGAIN;
	set_placed(t, unit, 1, put_off, NULL);
	return 0;
}

/*
 * Places what it can. To the kernel a range that is not all in one mapping is nowhere: it is tried in
 * halves, and a unit alone that is not mapped any more counts as placed: nobody can ask for it; in
 * a fault (counter is by_fault) it is given back. The address may change meanwhile, by
 * mremap(2): then it is tried again at the new one.
 */
static int place_units(struct uffdwp__target *t, enum how how, uint64_t unit, uint64_t n, char *buf,
		       _Atomic uint64_t *counter)
{
	uint64_t pos = 0, most = n, put_off = atomic_load(&t->put_off);
	int err = 0, first = 0;

	while (pos < n) {
		uint64_t base = atomic_load(&t->base), len = min_u64(most, n - pos), done;

		err = place_call(t, how, base + ((unit + pos) << t->shift),
				 buf ? buf + (pos << t->shift) : NULL, len << t->shift, &done);
		done >>= t->shift;
		if (done)
			set_placed(t, unit + pos, done, put_off,
				   how == HOW_POISON ? NULL : counter);
		pos += done;
		if (!err || (gone(err) && moved(t, base)))
			continue;
		if (!gone(err) || (how == HOW_POISON && err == -EINVAL))
			break;
		if (len - done > 1) {
			most = (len - done + 1) / 2;
			continue;
		}
		err = unit_gone(t, unit + pos, put_off, counter == &t->rs->by_fault);
		if (err)
			break;
		first = pos ? first : -ENOENT;
		pos++;
	}
	if (err && pos < n && how != HOW_POISON)
		give_back(t, unit + pos, n - pos);
	return err ? err : first;
}

int uffdwp__place(struct uffdwp__target *t, uint64_t unit, uint64_t n, void *buf,
		  _Atomic uint64_t *counter)
{
	return place_units(t, HOW_COPY, unit, n, buf, counter);
}

int uffdwp__place_zeros(struct uffdwp__target *t, uint64_t unit, uint64_t n,
			_Atomic uint64_t *counter)
{
	return place_units(t, HOW_ZERO, unit, n, NULL, counter);
}

/* ---- Damage ---- */

/*
 * Without poison no access at all is the one other way in which wrong data can not be seen. Only
 * the memory of this process can be treated so.
 */
__attribute__((cold)) static int make_inaccessible(struct uffdwp__target *t, uint64_t unit, int why)
{
	void *at = (void *)(uintptr_t)unit_addr(t, unit);
	uint64_t put_off = atomic_load(&t->put_off);

	if (!t->rs->local || mprotect(at, (size_t)1 << t->shift, PROT_NONE)) {
		give_back(t, unit, 1);
		return why;
	}
	set_placed(t, unit, 1, put_off, NULL);
	return uffdwp_wake(t->r, (uintptr_t)at, UINT64_C(1) << t->shift);
}

__attribute__((cold)) static int damage(struct uffdwp__target *t, uint64_t unit, int why,
					_Atomic uint64_t *counter)
{
	int err;

	/* Before it counts as placed: whoever waits for the end sees them. */
	uffdwp__restore_error(t->rs, why);
	atomic_fetch_add(&t->rs->damaged, UINT64_C(1) << t->shift);
	bit_set(t->poisoned, unit);
	err = place_units(t, HOW_POISON, unit, 1, NULL, counter);
	if (err == -EAGAIN && counter == &t->rs->by_fault) {
		atomic_fetch_sub(&t->rs->damaged, UINT64_C(1) << t->shift);
		give_back(t, unit, 1);
		return err;
	}
	if (err && err != -ENOENT)
		err = make_inaccessible(t, unit, why);
	return err;
}

/* ---- Reading and placing ---- */

int uffdwp__fetch(struct uffdwp__target *t, uint64_t unit, uint64_t n, void *buf,
		  _Atomic uint64_t *counter)
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
			result = uffdwp__place(t, unit + pos, units, buf, counter);
		pos += units;
		/* A long read fails as a whole; alone, each of its units tells. */
		if (err && !result && run.n > t->unit_pages && err != -EBADMSG) {
			for (; pos < n && !result; pos++)
				result = uffdwp__fetch(t, unit + pos, 1, buf, counter);
		} else if (err && !result) {
			result = damage(t, unit + pos, err, counter);
			pos++;
		}
		if (result && pos < n)
			give_back(t, unit + pos, n - pos);
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
