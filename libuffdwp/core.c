/* SPDX-License-Identifier: MIT */
/*
 * The state that all floors share: who may use a handle, the table of its regions, the stash. The
 * design is in core.h.
 */
#include "core.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sys.h"
#include "util.h"

/* ---- What every object needs ---- */

int uffdwp__check(const struct uffdwp *h)
{
	if (!h)
		return -EINVAL;
	return likely(atomic_load_explicit(h->alive, memory_order_relaxed)) ? 0 : -ECHILD;
}

__cold int uffdwp__opts(void *to, size_t to_size, const void *from, size_t min_size)
{
	size_t size;
	const unsigned char *tail = from;

	memset(to, 0, to_size);
	memcpy(to, &to_size, sizeof(to_size));
	if (!from)
		return 0;
	memcpy(&size, from, sizeof(size));
	if (size < min_size)
		return -EINVAL;
	for (size_t i = to_size; i < size; i++)
		if (tail[i])
			return -E2BIG;
	memcpy(to, from, size < to_size ? size : to_size);
	return 0;
}

__cold void uffdwp__reason(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;

	if (!buf || !size)
		return;
	va_start(ap, fmt);
	vsnprintf(buf, size, fmt, ap);
	va_end(ap);
}

void uffdwp__pause(unsigned int count)
{
	if (count < 64)
		uffdwp__sys_yield();
	else
		uffdwp__sys_sleep_us(count < 1024 ? 20 : 200);
}

/* ---- Who is in an operation ---- */

bool uffdwp__serving(struct uffdwp *h)
{
	uintptr_t self = (uintptr_t)pthread_self();

	for (int i = 0; i < UFFDWP__SERVERS; i++)
		if (atomic_load_explicit(&h->servers[i], memory_order_relaxed) == self)
			return true;
	return false;
}

/* Relaxed: only ever compared with the own thread. No slot left only means no deadlock check. */
int uffdwp__serving_begin(struct uffdwp *h)
{
	uintptr_t self = (uintptr_t)pthread_self();

	for (int i = 0; i < UFFDWP__SERVERS; i++) {
		uintptr_t none = 0;

		if (!atomic_load_explicit(&h->servers[i], memory_order_relaxed) &&
		    atomic_compare_exchange_strong_explicit(&h->servers[i], &none, self,
							    memory_order_relaxed,
							    memory_order_relaxed))
			return i;
	}
	return -1;
}

void uffdwp__serving_end(struct uffdwp *h, int slot)
{
	if (slot >= 0)
		atomic_store_explicit(&h->servers[slot], 0, memory_order_relaxed);
}

/* ---- The table ---- */

const struct uffdwp__entry *uffdwp__lookup(struct uffdwp *h, uint64_t addr)
{
	/* Acquire: pairs with the publication in publish(). seq_cst: see synchronize. */
	const struct uffdwp__table *t = atomic_load_explicit(&h->table, memory_order_seq_cst);
	uint32_t lo = 0, hi = t->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (t->e[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < t->n && t->e[lo].start <= addr ? &t->e[lo] : NULL;
}

bool uffdwp__watches(struct uffdwp *h, uint64_t addr, uint64_t len)
{
	const struct uffdwp__table *t = atomic_load_explicit(&h->table, memory_order_seq_cst);

	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].start < addr + len && addr < t->e[i].end)
			return true;
	return false;
}

/*
 * Two phases: a reader may have taken the old phase's number and count itself only now; it is
 * then waited for in the second round.
 */
void uffdwp__readers_wait(struct uffdwp__readers *r)
{
	for (int round = 0; round < 2; round++) {
		unsigned int old = atomic_fetch_add_explicit(&r->phase, 1, memory_order_seq_cst) &
				   1;

		for (unsigned int n = 0; atomic_load_explicit(&r->count[old], memory_order_seq_cst);
		     n++)
			uffdwp__pause(n);
	}
}

static void publish(struct uffdwp *h, struct uffdwp__table *t)
{
	struct uffdwp__table *old = atomic_load_explicit(&h->table, memory_order_relaxed);

	atomic_store_explicit(&h->table, t, memory_order_seq_cst);
	uffdwp__readers_wait(&h->readers);
	h->spare = old;
}

__cold static size_t table_bytes(uint32_t cap)
{
	return sizeof(struct uffdwp__table) + cap * sizeof(struct uffdwp__entry);
}

__cold int uffdwp__table_reserve(struct uffdwp *h, uint32_t n)
{
	struct uffdwp__table *old = atomic_load_explicit(&h->table, memory_order_relaxed), *a, *b;
	uint32_t cap = h->table_cap ? h->table_cap : 64;
	size_t old_size = h->table_size;

	if (n <= h->table_cap)
		return 0;
	while (cap < n)
		cap *= 2;
	a = uffdwp__sys_alloc(table_bytes(cap));
	b = uffdwp__sys_alloc(table_bytes(cap));
	if (!a || !b) {
		uffdwp__sys_free(a, table_bytes(cap));
		uffdwp__sys_free(b, table_bytes(cap));
		return -ENOMEM;
	}
	uffdwp__sys_free(h->spare, old_size);
	h->spare = NULL;
	h->table_cap = cap;
	h->table_size = table_bytes(cap);
	if (!old) {
		atomic_store_explicit(&h->table, a, memory_order_release);
	} else {
		memcpy(a, old, table_bytes(old->n));
		publish(h, a);
		uffdwp__sys_free(old, old_size);
	}
	h->spare = b;
	return 0;
}

static void put(struct uffdwp__table *t, struct uffdwp__entry e)
{
	uint32_t i = t->n++;

	if (e.start >= e.end) {
		t->n--;
		return;
	}
	for (; i && t->e[i - 1].start > e.start; i--)
		t->e[i] = t->e[i - 1];
	t->e[i] = e;
}

/* Copies the table to the spare one, but for the entries of r. */
static struct uffdwp__table *copy_without(struct uffdwp *h, const struct uffdwp_region *r)
{
	const struct uffdwp__table *old = atomic_load_explicit(&h->table, memory_order_relaxed);
	struct uffdwp__table *t = h->spare;

	t->n = 0;
	for (uint32_t i = 0; i < old->n; i++)
		if (old->e[i].r != r)
			t->e[t->n++] = old->e[i];
	return t;
}

void uffdwp__table_insert(struct uffdwp *h, struct uffdwp_region *r)
{
	struct uffdwp__table *t = copy_without(h, r);
	uint64_t base = atomic_load_explicit(&r->base, memory_order_relaxed);
	uint64_t start = uffdwp__start_of(r);
	uint64_t len = atomic_load_explicit(&r->len, memory_order_relaxed);

	put(t, (struct uffdwp__entry){ .start = start, .end = start + len, .base = base, .r = r });
	publish(h, t);
}

void uffdwp__table_remove(struct uffdwp *h, struct uffdwp_region *r)
{
	publish(h, copy_without(h, r));
}

/* What the region says of itself follows its entries: from the first to the last. */
static void set_hull(struct uffdwp_region *r, const struct uffdwp__table *t)
{
	uint64_t lo = UINT64_MAX, hi = 0;

	for (uint32_t i = 0; i < t->n; i++) {
		if (t->e[i].r != r)
			continue;
		lo = min_u64(lo, t->e[i].start);
		hi = max_u64(hi, t->e[i].end);
	}
	if (hi)
		atomic_store_explicit(&r->head,
				      lo - atomic_load_explicit(&r->base, memory_order_relaxed),
				      memory_order_relaxed);
	atomic_store_explicit(&r->len, hi ? hi - lo : 0, memory_order_relaxed);
}

bool uffdwp__table_cut(struct uffdwp *h, struct uffdwp_region *r, uint64_t start, uint64_t end)
{
	const struct uffdwp__table *old = atomic_load_explicit(&h->table, memory_order_relaxed);
	struct uffdwp__table *t;

	if (uffdwp__table_reserve(h, old->n + 1))
		return true;
	old = atomic_load_explicit(&h->table, memory_order_relaxed);
	t = copy_without(h, r);
	for (uint32_t i = 0; i < old->n; i++) {
		struct uffdwp__entry left = old->e[i], right = left;

		if (left.r != r)
			continue;
		left.end = min_u64(left.end, start);
		right.start = max_u64(right.start, end);
		put(t, left);
		put(t, right);
	}
	set_hull(r, t);
	publish(h, t);
	return atomic_load_explicit(&r->len, memory_order_relaxed);
}

void uffdwp__table_move(struct uffdwp *h, struct uffdwp_region *r, uint64_t delta)
{
	const struct uffdwp__table *old = atomic_load_explicit(&h->table, memory_order_relaxed);
	struct uffdwp__table *t = copy_without(h, r);

	for (uint32_t i = 0; i < old->n; i++) {
		struct uffdwp__entry e = old->e[i];

		if (e.r != r)
			continue;
		e.start += delta;
		e.end += delta;
		e.base += delta;
		put(t, e);
	}
	/* In this order: who sees base may use mem, and who misses a page in the table sees base. */
	if (r->mem_is_addr)
		atomic_fetch_add_explicit(&r->mem, (uintptr_t)delta, memory_order_relaxed);
	atomic_fetch_add_explicit(&r->base, delta, memory_order_release);
	publish(h, t);
}

/* ---- The stash ---- */

/* Of a descriptor that another process has too, and that it may make a blocking one at any moment. */
static int read_shared(struct uffdwp *h, struct uffd_msg *msg, uint32_t max)
{
	int n = uffdwp__sys_read_nowait(h->fd, msg, max);

	/* An older kernel, or a filter. */
	return n < 0 ? uffdwp__sys_read(h->fd, msg, max) : n;
}

static int read_messages(struct uffdwp *h, struct uffd_msg *msg, uint32_t max)
{
	int n;

	/* fd is kick then, which must not be emptied. */
	if (unlikely(atomic_load_explicit(&h->given_up, memory_order_relaxed)))
		return 0;
	n = h->source == UFFDWP_SOURCE_ADOPTED ? read_shared(h, msg, max)
					       : uffdwp__sys_read(h->fd, msg, max);
	/* If it became kick between the two, it is empty now, and others may not have seen it. */
	if (unlikely(atomic_load_explicit(&h->given_up, memory_order_seq_cst)))
		uffdwp__sys_eventfd_add(h->kick);
	return n;
}

/*
 * Events are numbered in the order in which they are read, in a field that the kernel leaves
 * zero.
 */
static int read_numbered(struct uffdwp *h, struct uffd_msg *msg, uint32_t max)
{
	int n = read_messages(h, msg, max);

	for (int i = 0; i < n; i++)
		if (msg[i].event != UFFD_EVENT_PAGEFAULT)
			msg[i].reserved3 = ++h->events_read;
	return n;
}

/* Under the lock: kick is readable exactly while there is a stash, or the pool stops. */
static void unkick(struct uffdwp *h)
{
	uffdwp__sys_eventfd_clear(h->kick);
	/* seq_cst: pairs with the store in uffdwp__pool_stop(), which kicks after it. */
	if (atomic_load_explicit(&h->stopping, memory_order_seq_cst))
		uffdwp__sys_eventfd_add(h->kick);
}

void uffdwp__stash_fill(struct uffdwp *h)
{
	uint32_t n;
	int got = 0;

	if (!h->stash)
		return;
	pthread_mutex_lock(&h->stash_lock);
	n = h->stashed;
	if (h->stash_head) {
		memmove(h->stash, h->stash + h->stash_head, n * sizeof(*h->stash));
		h->stash_head = 0;
	}
	if (n < UFFDWP__STASH)
		got = read_numbered(h, h->stash + n, UFFDWP__STASH - n);
	if (got > 0)
		h->stashed = n + (uint32_t)got;
	if (got > 0 && !n)
		uffdwp__sys_eventfd_add(h->kick);
	pthread_mutex_unlock(&h->stash_lock);
}

static int stash_take(struct uffdwp *h, struct uffd_msg *msg, uint32_t max)
{
	uint32_t n = (uint32_t)min_u64(h->stashed, max);

	memcpy(msg, h->stash + h->stash_head, n * sizeof(*msg));
	h->stash_head += n;
	h->stashed -= n;
	if (!h->stashed)
		unkick(h);
	return (int)n;
}

int uffdwp__take(struct uffdwp *h, struct uffd_msg *msg, unsigned int max)
{
	int n;

	if (likely(!h->stash))
		return read_messages(h, msg, max);
	pthread_mutex_lock(&h->stash_lock);
	n = h->stashed ? stash_take(h, msg, max) : read_numbered(h, msg, max);
	pthread_mutex_unlock(&h->stash_lock);
	return n;
}

void uffdwp__stash_close(struct uffdwp *h)
{
	for (uint32_t i = 0; i < h->stashed; i++)
		if (h->stash[h->stash_head + i].event == UFFD_EVENT_FORK)
			uffdwp__sys_close((int)h->stash[h->stash_head + i].arg.fork.ufd);
	uffdwp__sys_free(h->stash, UFFDWP__STASH * sizeof(*h->stash));
}

/* ---- The order of events ---- */

void uffdwp__events_turn(struct uffdwp *h, uint32_t number)
{
	/* Acquire: pairs with the release in uffdwp__events_done(). */
	for (unsigned int n = 0;
	     atomic_load_explicit(&h->events_done, memory_order_acquire) + 1 != number; n++)
		uffdwp__pause(n);
}

void uffdwp__events_done(struct uffdwp *h, uint32_t number)
{
	atomic_store_explicit(&h->strays, 0, memory_order_relaxed);
	atomic_store_explicit(&h->events_done, number, memory_order_release);
}

bool uffdwp__events_reached(struct uffdwp *h, uint32_t number)
{
	/* Acquire: pairs with the release in uffdwp__events_done(). Numbers go round. */
	return (int32_t)(atomic_load_explicit(&h->events_done, memory_order_acquire) - number) >= 0;
}

/* Reads all that is pending first: what happened before now is in the number. */
uint32_t uffdwp__events_now(struct uffdwp *h)
{
	uint32_t n;

	if (!h->stash)
		return 0;
	uffdwp__stash_fill(h);
	pthread_mutex_lock(&h->stash_lock);
	n = h->events_read;
	pthread_mutex_unlock(&h->stash_lock);
	return n;
}

/*
 * Reading an event lets whoever caused it go on, so the number is worth nothing while somebody
 * reads: that is what the lock excludes. It is not waited for, because who asks may hold pages.
 */
bool uffdwp__events_settled(struct uffdwp *h)
{
	uint32_t n;

	if (!h->stash)
		return true;
	for (int tries = 64; pthread_mutex_trylock(&h->stash_lock); tries--)
		if (!tries)
			return false;
	n = h->events_read;
	pthread_mutex_unlock(&h->stash_lock);
	/* Acquire: pairs with the release in uffdwp__events_done(). */
	return atomic_load_explicit(&h->events_done, memory_order_acquire) == n;
}
