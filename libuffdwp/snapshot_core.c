/* SPDX-License-Identifier: MIT */
/* How the driver of a snapshot rests, and is woken: a semaphore, which signal handlers can post. */
#include "snapshot_core.h"

#include <time.h>

#include "sys.h"
#include "util.h"

#define SLICE_NS UINT64_C(20000000) /* of pace that may be caught up */

/* By the clock that nobody sets, where the C library can: one that is set back would make a moment an hour. */
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 30)
#define sem_now uffdwp__sys_now
#define sem_wait_until(sem, t) sem_clockwait(sem, CLOCK_MONOTONIC, t)
#endif
#endif
#ifndef sem_now
#define sem_now uffdwp__sys_realtime
#define sem_wait_until(sem, t) sem_timedwait(sem, t)
#endif

void uffdwp__snapshot_kick(struct uffdwp_snapshot *s)
{
	/*
	 * seq_cst: pairs with uffdwp__snapshot_idle(): it sees what was queued, or we see that it
	 * waits.
	 */
	if (atomic_load_explicit(&s->idle, memory_order_seq_cst) &&
	    atomic_exchange_explicit(&s->idle, 0, memory_order_seq_cst))
		sem_post(&s->wake);
}

/* A signal makes the wait shorter. */
static void sem_wait_us(sem_t *sem, unsigned int us)
{
	uint64_t until = sem_now() + us * UINT64_C(1000);
	struct timespec t = { .tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000) };

	(void)sem_wait_until(sem, &t);
}

/* Of precopy's staging the driver alone knows when it is to be handed over. */
static bool quiet(const struct uffdwp_snapshot *s, bool was_stopped)
{
	return (s->strategy == UFFDWP_SNAPSHOT_PRECOPY ||
		!atomic_load_explicit(&s->staging.filled, memory_order_seq_cst)) &&
	       !atomic_load_explicit(&s->staging.done, memory_order_seq_cst) &&
	       was_stopped == uffdwp__snapshot_stopped(s);
}

void uffdwp__snapshot_idle(struct uffdwp_snapshot *s, unsigned int us)
{
	bool stopped = uffdwp__snapshot_stopped(s);

	atomic_store_explicit(&s->idle, 1, memory_order_seq_cst);
	if (quiet(s, stopped))
		sem_wait_us(&s->wake, us);
	atomic_store_explicit(&s->idle, 0, memory_order_seq_cst);
}

void uffdwp__snapshot_nap(struct uffdwp_snapshot *s, unsigned int us)
{
	bool stopped = uffdwp__snapshot_stopped(s);

	atomic_store_explicit(&s->idle, 1, memory_order_seq_cst);
	if (!atomic_load_explicit(&s->nheld, memory_order_seq_cst) &&
	    stopped == uffdwp__snapshot_stopped(s))
		sem_wait_us(&s->wake, us);
	atomic_store_explicit(&s->idle, 0, memory_order_seq_cst);
}

void uffdwp__snapshot_pace(struct uffdwp_snapshot *s, uint64_t bytes)
{
	uint64_t now;

	if (!s->rate)
		return;
	now = uffdwp__sys_now();
	s->next_sweep = max_u64(s->next_sweep, now - SLICE_NS) +
			(uint64_t)((double)bytes * 1e9 / (double)s->rate);
}

static uint64_t next_bit(const uint64_t *bits, uint64_t i, uint64_t n, bool on)
{
	while (i < n) {
		uint64_t w = (on ? bits[i / 64] : ~bits[i / 64]) >> (i % 64);

		if (w)
			return min_u64(i + (uint64_t)__builtin_ctzll(w), n);
		i = (i | 63) + 1;
	}
	return n;
}

bool uffdwp__next_run(const uint64_t *bits, uint64_t n, uint64_t *i, uint64_t *len)
{
	*i = next_bit(bits, *i, n, true);
	*len = next_bit(bits, *i, n, false) - *i;
	return *i < n;
}
