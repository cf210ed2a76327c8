/* SPDX-License-Identifier: MIT */
/*
 * The map of page states: each operation against a plain array of states, at random and over word
 * borders; and threads that fight for pages, each of which may be held by one thread at a time, with
 * every wake that is owed really handed on.
 */
#include "args.h"

#include "bitmap.h"

#include <pthread.h>

#define N 200u /* not a multiple of the 32 pages of a word */
#define THREADS 4
#ifdef __SANITIZE_THREAD__
#define STEPS 10000 /* many times slower, and no luck is needed to find a race */
#define TURNS 10000
#else
#define STEPS 200000
#define TURNS 100000
#endif

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

struct map {
	struct uffdwp__pages p;
	enum uffdwp__state model[N];
};

static void map_new(struct map *m)
{
	m->p.n = N;
	m->p.w = calloc(1, uffdwp__pages_bytes(N));
	ck_assert_ptr_nonnull(m->p.w);
	memset(m->model, 0, sizeof(m->model));
}

static void same(const struct map *m)
{
	for (uint64_t i = 0; i < N; i++)
		ck_assert_int_eq(uffdwp__pages_get(&m->p, i), m->model[i]);
}

/* ---- Each operation, done to the model the obvious way ---- */

static void step_fault(struct map *m, uint64_t i)
{
	enum uffdwp__state was = m->model[i], got = uffdwp__pages_fault(&m->p, i);

	if (was == UFFDWP__FREE || was == UFFDWP__ARMED) {
		ck_assert_int_eq(got, was);
		m->model[i] = UFFDWP__BUSY;
	} else {
		ck_assert_int_eq(got, UFFDWP__BUSY);
		m->model[i] = UFFDWP__CONTENDED;
	}
}

static void step_claim(struct map *m, uint64_t first, uint64_t max)
{
	uint64_t n = 0;

	for (; n < max && first + n < N && m->model[first + n] == UFFDWP__ARMED; n++)
		m->model[first + n] = UFFDWP__BUSY;
	ck_assert_uint_eq(uffdwp__pages_claim(&m->p, first, max), n);
}

static void step_lock(struct map *m, uint64_t first, uint64_t max)
{
	uint64_t prev[UFFDWP__PREV_WORDS], n = 0;
	enum uffdwp__state was[N];

	memset(prev, 0xa5, sizeof(prev));
	memcpy(was, m->model, sizeof(was));
	for (; n < max && m->model[first + n] <= UFFDWP__ARMED; n++)
		m->model[first + n] = UFFDWP__BUSY;
	ck_assert_uint_eq(uffdwp__pages_lock(&m->p, first, max, prev), n);
	for (uint64_t i = first; i < first + n; i++)
		ck_assert_int_eq(uffdwp__prev_armed(prev, first, i), was[i] == UFFDWP__ARMED);
}

/* Of what is held only: from first on, as far as it goes. */
static void step_unlock(struct map *m, uint64_t first, uint64_t max, enum uffdwp__state state)
{
	bool contended = false;
	uint64_t n = 0;

	for (; n < max && m->model[first + n] >= UFFDWP__BUSY; n++) {
		contended |= m->model[first + n] == UFFDWP__CONTENDED;
		m->model[first + n] = state;
	}
	ck_assert_int_eq(uffdwp__pages_unlock(&m->p, first, n, state), contended);
}

static void step_look(struct map *m, uint64_t first, uint64_t max)
{
	uint64_t end = first + max, i = first, behind = 0;

	while (i < end && m->model[i] == UFFDWP__FREE)
		i++;
	ck_assert_uint_eq(uffdwp__pages_next(&m->p, first, end), i);
	if (max > 64)
		max = 64;
	while (behind < max && behind < first && m->model[first - behind - 1] == UFFDWP__FREE)
		behind++;
	ck_assert_uint_eq(uffdwp__pages_behind(&m->p, first, max), behind);
}

START_TEST(against_a_model)
{
	uint64_t seed = UINT64_C(0x1234567890abcdef) + (uint64_t)_i * 77;
	struct map m;

	map_new(&m);
	for (int step = 0; step < STEPS; step++) {
		uint64_t first = next(&seed) % N, max = next(&seed) % (N - first + 1);

		switch (next(&seed) % 6) {
		case 0:
			step_fault(&m, first);
			break;
		case 1:
			step_claim(&m, first, max + (next(&seed) & 1) * 1000);
			break;
		case 2:
			step_lock(&m, first, max);
			break;
		case 3:
			step_unlock(&m, first, max, UFFDWP__FREE);
			break;
		case 4:
			step_unlock(&m, first, max, UFFDWP__ARMED);
			break;
		default:
			step_look(&m, first, max);
		}
		if (step % 64 == 0)
			same(&m);
	}
	same(&m);
	free((void *)m.p.w);
}
END_TEST

START_TEST(fill)
{
	static const enum uffdwp__state states[] = { UFFDWP__ARMED, UFFDWP__FREE, UFFDWP__BUSY };
	struct map m;

	map_new(&m);
	for (size_t s = 0; s < sizeof(states) / sizeof(states[0]); s++) {
		uffdwp__pages_fill(&m.p, states[s]);
		for (uint64_t i = 0; i < N; i++)
			m.model[i] = states[s];
		same(&m);
	}
	/* What is behind the end is not taken for armed pages. */
	uffdwp__pages_fill(&m.p, UFFDWP__ARMED);
	ck_assert_uint_eq(uffdwp__pages_claim(&m.p, 0, UINT64_MAX), N);
	ck_assert_uint_eq(uffdwp__pages_claim(&m.p, N, 1), 0);
	ck_assert_uint_eq(uffdwp__pages_claim(&m.p, N + 5, 100), 0);
	free((void *)m.p.w);
}
END_TEST

/* The largest lock there is: all of its states come back. */
START_TEST(largest_lock)
{
	uint64_t prev[UFFDWP__PREV_WORDS], n = UFFDWP__LOCK_MAX + 64;

	for (uint64_t first = 0; first < 64; first += 13) {
		struct uffdwp__pages p = { .n = n, .w = calloc(1, uffdwp__pages_bytes(n)) };

		ck_assert_ptr_nonnull(p.w);
		uffdwp__pages_fill(&p, UFFDWP__FREE);
		for (uint64_t i = 0; i < n; i += 3) {
			uffdwp__pages_fault(&p, i);
			uffdwp__pages_unlock(&p, i, 1, UFFDWP__ARMED);
		}
		ck_assert_uint_eq(uffdwp__pages_lock(&p, first, UFFDWP__LOCK_MAX, prev),
				  UFFDWP__LOCK_MAX);
		for (uint64_t i = first; i < first + UFFDWP__LOCK_MAX; i++)
			ck_assert_int_eq(uffdwp__prev_armed(prev, first, i), i % 3 == 0);
		free((void *)p.w);
	}
}
END_TEST

/* ---- Threads ---- */

/*
 * What a page protects is a plain counter, and a plain number of its holder: two holders at once would
 * spoil them, and a thread sanitizer sees it too.
 */
static struct {
	struct uffdwp__pages p;
	unsigned int holder[N];
	uint64_t count[N];
	_Atomic uint64_t total, owed, paid;
	_Atomic int bad;
} fight;

static void hold(uint64_t i, unsigned int id)
{
	if (fight.holder[i])
		atomic_store(&fight.bad, __LINE__);
	fight.holder[i] = id;
	fight.count[i]++;
	atomic_fetch_add_explicit(&fight.total, 1, memory_order_relaxed);
}

static void let_go(uint64_t first, uint64_t n, unsigned int id, enum uffdwp__state state)
{
	for (uint64_t i = first; i < first + n; i++) {
		if (fight.holder[i] != id)
			atomic_store(&fight.bad, __LINE__);
		fight.holder[i] = 0;
	}
	/* Who made a page CONTENDED sleeps until its holder pays; one payment is for all of them. */
	if (uffdwp__pages_unlock(&fight.p, first, n, state))
		atomic_fetch_add_explicit(&fight.paid, 1, memory_order_relaxed);
}

static void turn(uint64_t *seed, unsigned int id)
{
	uint64_t first = next(seed) % N, max = next(seed) % 40 + 1, n = 0, prev[UFFDWP__PREV_WORDS];
	enum uffdwp__state state = next(seed) & 1 ? UFFDWP__ARMED : UFFDWP__FREE;

	if (max > N - first)
		max = N - first;
	switch (next(seed) % 3) {
	case 0:
		if (uffdwp__pages_fault(&fight.p, first) != UFFDWP__BUSY)
			n = 1;
		else
			atomic_fetch_add_explicit(&fight.owed, 1, memory_order_relaxed);
		break;
	case 1:
		n = uffdwp__pages_claim(&fight.p, first, max);
		break;
	default:
		n = uffdwp__pages_lock(&fight.p, first, max, prev);
	}
	for (uint64_t i = first; i < first + n; i++)
		hold(i, id);
	if (n)
		let_go(first, n, id, state);
}

static void *fighter(void *arg)
{
	unsigned int id = (unsigned int)(uintptr_t)arg;
	uint64_t seed = UINT64_C(88172645463325252) + id;

	for (int i = 0; i < TURNS; i++)
		turn(&seed, id);
	return NULL;
}

START_TEST(threads)
{
	pthread_t t[THREADS];
	uint64_t sum = 0;

	fight.p.n = N;
	fight.p.w = calloc(1, uffdwp__pages_bytes(N));
	ck_assert_ptr_nonnull(fight.p.w);
	uffdwp__pages_fill(&fight.p, UFFDWP__ARMED);
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, fighter, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(atomic_load(&fight.bad), 0);
	for (uint64_t i = 0; i < N; i++) {
		ck_assert_int_le(uffdwp__pages_get(&fight.p, i), UFFDWP__ARMED);
		sum += fight.count[i];
	}
	ck_assert_uint_eq(sum, atomic_load(&fight.total));
	ck_assert(sum > TURNS / 10);
	ck_assert_uint_le(atomic_load(&fight.paid), atomic_load(&fight.owed));
	ck_assert(!atomic_load(&fight.owed) == !atomic_load(&fight.paid));
	free((void *)fight.p.w);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { fill, largest_lock, threads };

	return args_run("bitmap", tests, sizeof(tests) / sizeof(tests[0]), against_a_model, 5);
}
