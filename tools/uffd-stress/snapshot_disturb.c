/* SPDX-License-Identifier: MIT */
/*
 * The disturber of uffd-stress snapshot: one thread that does what may happen to memory besides
 * writes. What may cancel a snapshot is written down before it is done.
 */
#include "snapshot.h"

#include "../common/uapi-extra.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define BIT(n) (1u << (n))
#define FEW 16 /* pages */
#define MANY 256

/* ---- Causes ---- */

static struct cause *cause_begin(struct round *r, enum act what, const struct area *a, size_t from,
				 size_t to)
{
	unsigned int n = atomic_load(&r->causes);
	struct cause *c = &r->cause[n];

	if (n == CAUSES_MAX)
		return NULL;
	c->what = what;
	c->area = a->index;
	c->from = from;
	c->to = to;
	c->lap = atomic_load(&r->lap);
	atomic_store(&c->until, UINT_MAX);
	atomic_store(&r->causes, n + 1);
	return c;
}

static void cause_end(struct round *r, struct cause *c)
{
	atomic_store(&c->until, atomic_load(&r->lap));
}

bool cause_of(struct round *r, unsigned int acts, unsigned int area, size_t from, size_t to)
{
	unsigned int n = atomic_load(&r->causes), i;

	for (i = 0; i < n; i++) {
		const struct cause *c = &r->cause[i];

		if (acts & BIT(c->what) && c->area == area && c->from < to && from < c->to &&
		    c->lap <= r->now.nr && atomic_load(&c->until) >= r->now.nr)
			return true;
	}
	return false;
}

/* ---- Pages ---- */

struct range {
	size_t from, to;
	bool wild;
};

/* Some pages of the wild part, or some of the other. */
static struct range choose(struct round *r, const struct area *a, size_t most)
{
	struct rng *rng = &round_disturber(r)->rng;
	bool wild = a->wild < a->pages && (!a->wild || rng_below(rng, 2));
	size_t base = wild ? a->wild : 0, end = wild ? a->pages : a->wild;
	size_t from = base + rng_below(rng, end - base), n = 1 + rng_below(rng, most);

	return (struct range){ from, from + n < end ? from + n : end, wild };
}

static void shut(struct area *a, const struct range *x)
{
	if (!x->wild)
		books_shut(&a->books, x->from, x->to);
}

static void open_again(struct area *a, const struct range *x)
{
	if (!x->wild)
		books_open(&a->books, x->from, x->to);
}

static size_t bytes(const struct area *a, const struct range *x)
{
	return (x->to - x->from) * a->page;
}

static void are_zeros(struct area *a, size_t from, size_t len)
{
	memset(a->expect + from * a->page / 8, 0, len);
}

static bool is_shared(const struct area *a)
{
	return a->mem.kind == MEM_SHMEM || a->mem.kind == MEM_HUGETLB_SHARED;
}

static bool is_hugetlb(const struct area *a)
{
	return a->mem.kind == MEM_HUGETLB_SHARED || a->mem.kind == MEM_HUGETLB_PRIVATE;
}

/* ---- Discards ---- */

/* hugetlb memory can be discarded since 5.18. */
static bool discarded(struct round *r, struct area *a, const struct range *x, int err,
		      const char *what)
{
	if (err && (err != -EINVAL || !is_hugetlb(a)))
		verdict_fail(&r->v, "%s of area %u pages %zu to %zu: %s", what, a->index, x->from,
			     x->to, strerror(-err));
	return !err;
}

/* What is held, because the sink is slow, can not be discarded for now: it says so. */
static bool by_library(struct round *r, struct area *a)
{
	bool removes = is_shared(a) && rng_below(&round_disturber(r)->rng, 2);
	struct range x = choose(r, a, FEW);
	uint64_t done = 0;
	int err;

	shut(a, &x);
	err = uffdwp_discard(a->r, (uintptr_t)area_at(a, x.from), bytes(a, &x),
			     removes ? UFFDWP_DISCARD_REMOVE : UFFDWP_DISCARD_DONTNEED, &done);
	if (!x.wild && (removes || !is_shared(a)))
		are_zeros(a, x.from, done);
	open_again(a, &x);
	return err == -EBUSY || discarded(r, a, &x, err, "uffdwp_discard");
}

/* DONTNEED of shared memory is of this mapping's pages only. */
static bool past_library(struct round *r, struct area *a, enum act what)
{
	struct range x = choose(r, a, rng_below(&round_disturber(r)->rng, 2) ? FEW : MANY);
	struct cause *c;
	int err;

	if (what == ACT_REMOVE && !is_shared(a))
		return false;
	c = cause_begin(r, what, a, x.from, x.to);
	if (!c)
		return false;
	shut(a, &x);
	err = madvise(area_at(a, x.from), bytes(a, &x),
		      what == ACT_REMOVE ? MADV_REMOVE : MADV_DONTNEED)
		      ? -errno
		      : 0;
	if (!err && !x.wild && (what == ACT_REMOVE || !is_shared(a)))
		are_zeros(a, x.from, bytes(a, &x));
	open_again(a, &x);
	cause_end(r, c);
	return discarded(r, a, &x, err, what == ACT_REMOVE ? "MADV_REMOVE" : "MADV_DONTNEED");
}

/* ---- Zeros, and huge pages ---- */

static bool wipe_by_kernel(struct round *r, struct area *a, const struct range *x)
{
	/* Not seen by ThreadSanitizer, as the watcher reads meanwhile. */
	long n = syscall(SYS_read, round_disturber(r)->fd, area_at(a, x->from), bytes(a, x));

	if (n == (long)bytes(a, x))
		return true;
	verdict_fail(&r->v, "read(2) into area %u pages %zu to %zu gives %ld: %s", a->index,
		     x->from, x->to, n, strerror(errno));
	return false;
}

static bool wipe(struct round *r, struct area *a)
{
	bool user = ways[r->plan.way].serve == UFFDWP_SERVE_SIGBUS ||
		    rng_below(&round_disturber(r)->rng, 2);
	struct range x = choose(r, a, FEW);
	bool good = true;
	size_t i;

	x.wild = false;
	shut(a, &x);
	for (i = 0; user && i < bytes(a, &x); i += 8)
		word_write(area_at(a, x.from) + i, 0);
	if (!user)
		good = wipe_by_kernel(r, a, &x);
	are_zeros(a, x.from, bytes(a, &x));
	open_again(a, &x);
	return good;
}

/* The kernel makes no huge page where anything is protected, so all of it is written first. */
static bool collapse(struct round *r, struct area *a)
{
	struct scribe *s = round_disturber(r);
	size_t from, i, unit = HUGE_SIZE / a->page ? HUGE_SIZE / a->page : 1;
	struct range x;

	if (a->mem.kind != MEM_THP)
		return false;
	from = rng_below(&s->rng, a->mem.size / HUGE_SIZE) * unit;
	x = (struct range){ from, from + unit, false };
	shut(a, &x);
	for (i = 0; i < HUGE_SIZE; i += a->mem.page_size) {
		watchdog_step("writes a huge page", i);
		scribe_store(s, a, (from * a->page + i) / 8 + rng_below(&s->rng, 256));
	}
	open_again(a, &x);
	return !madvise(area_at(a, from), HUGE_SIZE, MADV_COLLAPSE);
}

static bool other(struct round *r, struct area *a)
{
	unsigned int can = disturb_possible(a->mem.kind) | (is_hugetlb(a) ? 0 : BIT(DISTURB_SWAP));
	enum disturbance what = (enum disturbance)rng_below(&round_disturber(r)->rng,
							    DISTURB_KINDS);

	if (!(r->plan.others & can & BIT(what)))
		return false;
	if (!disturb_once(&a->other, what))
		return false;
	atomic_fetch_add(&a->other.count[what], 1);
	return true;
}

/* ---- The address space ---- */

/* Somewhere else, as aligned as huge pages demand; taken, so that nobody else gets it. */
static void *free_place(size_t size)
{
	char *p = mmap(NULL, size + HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t head;

	if (p == MAP_FAILED)
		return NULL;
	head = -(uintptr_t)p & (HUGE_SIZE - 1);
	if (head)
		munmap(p, head);
	munmap(p + head + size, HUGE_SIZE - head);
	return p + head;
}

/* Until the library knows the new address, it refuses calls there. */
static void wait_moved(const struct area *a)
{
	while (uffdwp_region_addr(a->r) != (uintptr_t)a->mem.addr)
		sched_yield();
}

static bool move(struct round *r, struct area *a)
{
	struct range x = { 0, a->pages, false };
	struct cause *c = cause_begin(r, ACT_MOVE, a, 0, a->pages);
	char *to = c ? free_place(a->mem.size) : NULL, *now;

	if (!to)
		return false;
	shut(a, &x);
	now = mremap(a->mem.addr, a->mem.size, a->mem.size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (now == MAP_FAILED) {
		/* hugetlb memory that mprotect(2) has cut in two mappings stays so. */
		if (errno != EFAULT || !is_hugetlb(a))
			verdict_fail(&r->v, "mremap: %s", strerror(errno));
		munmap(to, a->mem.size);
	} else {
		a->mem.addr = a->books.addr = now;
	}
	open_again(a, &x);
	watchdog_step("waits for the library to know", 0);
	wait_moved(a);
	cause_end(r, c);
	return now != MAP_FAILED;
}

/* By munmap(2), after which somebody else may be faster, or by mapping something else there. */
static bool unmap(struct round *r, struct area *a)
{
	struct range x = choose(r, a, FEW);
	bool over = rng_below(&round_disturber(r)->rng, 2);
	struct cause *c = cause_begin(r, ACT_UNMAP, a, x.from, x.to);
	char *at = area_at(a, x.from), *got;

	if (!c)
		return false;
	x.wild = false;
	books_shut(&a->books, 0, a->books.units);
	if (!over && munmap(at, bytes(a, &x)))
		verdict_fail(&r->v, "munmap: %s", strerror(errno));
	got = mmap(at, bytes(a, &x), PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | (over ? MAP_FIXED : MAP_FIXED_NOREPLACE), -1, 0);
	a->gone = x.from;
	a->gone_n = x.to - x.from;
	a->hole_is_ours = got == at;
	books_open(&a->books, 0, a->books.units);
	cause_end(r, c);
	return true;
}

/* ---- The thread ---- */

static bool do_one(struct round *r, struct area *a, enum act what)
{
	switch (what) {
	case ACT_DISCARD:
		return by_library(r, a);
	case ACT_WIPE:
		return wipe(r, a);
	case ACT_COLLAPSE:
		return collapse(r, a);
	case ACT_OTHER:
		return other(r, a);
	case ACT_DONTNEED:
	case ACT_REMOVE:
		return past_library(r, a, what);
	case ACT_UNMAP:
		return unmap(r, a);
	default:
		return move(r, a);
	}
}

/*
 * What may cancel is rare, or no snapshot would ever be complete. But what is discarded just after
 * the seal is most likely not saved yet.
 */
static enum act draw(struct round *r)
{
	struct rng *rng = &round_disturber(r)->rng;
	enum act what = (enum act)rng_below(rng, ACTS);

	if (atomic_load(&r->sealed) && rng_below(rng, 2)) {
		what = rng_below(rng, 2) ? ACT_DONTNEED : ACT_REMOVE;
		return r->plan.acts & BIT(what) ? what : ACTS;
	}
	if (!(r->plan.acts & BIT(what)))
		return ACTS;
	if (BIT(what) & ACT_CAUSES && rng_below(rng, what == ACT_UNMAP ? 16 : 4))
		return ACTS;
	return what;
}

static void nap(uint64_t ns)
{
	const struct timespec t = { 0, (long)ns };

	nanosleep(&t, NULL);
}

static void *disturb_on(void *arg)
{
	struct round *r = arg;
	struct rng *rng = &round_disturber(r)->rng;

	watchdog_enter("disturber", 0);
	while (!atomic_load(&r->stop)) {
		struct area *a = &r->area[rng_below(rng, r->plan.areas)];
		enum act what;

		pause_check(&r->pause);
		what = draw(r);
		watchdog_step("disturbs", what);
		/* Of an area with a hole nothing is whole any more. */
		if (what != ACTS && !a->gone_n && do_one(r, a, what))
			atomic_fetch_add(&r->acts[what], 1);
		watchdog_step("rests", 0);
		nap(rng_below(rng, 400000));
	}
	pause_leave(&r->pause);
	watchdog_leave();
	return NULL;
}

void disturber_start(struct round *r)
{
	unsigned int i;

	round_disturber(r)->fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	for (i = 0; i < r->plan.areas; i++) {
		struct area *a = &r->area[i];

		a->other = (struct disturb){ .b = &a->books,
					     .v = &r->v,
					     .mem = &a->mem,
					     .h = r->server.h,
					     .kinds = UINT_MAX,
					     .rng = rng_make(r->plan.seed, 3000 + i) };
	}
	pause_join(&r->pause);
	thread_start(&round_disturber(r)->thread, disturb_on, r);
}

/* r->stop is set. */
void disturber_stop(struct round *r)
{
	watchdog_rest("waits for the disturber");
	pthread_join(round_disturber(r)->thread, NULL);
	watchdog_step("goes on", 0);
}
