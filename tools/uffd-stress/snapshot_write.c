/* SPDX-License-Identifier: MIT */
/*
 * The writers of uffd-stress snapshot: each has words of its own in every page, and goes through
 * the pages in order, at random, or in a hot set, for a while each.
 */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BURST_MAX 512
#define BIT(n) (1u << (n))

/* The word near it, in the same page, that is s's. */
static size_t own_word(const struct scribe *s, const struct area *a, size_t near)
{
	size_t words = a->mem.page_size / 8, first = near / words * words, n = s->round->owners;
	size_t word = first + (near - first) / n * n + s->index;

	return word < first + words ? word : word - n;
}

void scribe_store(struct scribe *s, struct area *a, size_t near)
{
	size_t word = own_word(s, a, near);

	a->expect[word] = value_of(a->index, word, ++s->seq);
	word_write(a->mem.addr + word * 8, a->expect[word]);
}

/* ---- By the kernel ---- */

/* It pins no page: it writes by faults, as everybody. */
static long read_into(struct scribe *s, char *at, const uint64_t *value)
{
	if (pwrite(s->fd, value, 8, 0) != 8)
		return -1;
	return syscall(SYS_pread64, s->fd, at, 8, 0);
}

static long write_into(char *at, const uint64_t *value)
{
	struct iovec from = { (void *)(uintptr_t)value, 8 }, to = { at, 8 };

	return syscall(SYS_process_vm_writev, getpid(), &from, 1, &to, 1, 0);
}

/*
 * process_vm_writev() pins the page first, and writes to it what may come after the page was
 * protected again: a caveat of uffdwp.h. Who protects pages only once before the pause, or after
 * the seal never again, is not concerned.
 */
static bool may_pin(const struct round *r)
{
	if (r->plan.track)
		return false;
	return ways[r->plan.way].strategy == UFFDWP_SNAPSHOT_COW || atomic_load(&r->sealed);
}

static void kernel_store(struct scribe *s, struct area *a, size_t near)
{
	bool pins = rng_below(&s->rng, 2) && may_pin(s->round);
	size_t word = own_word(s, a, near);
	char *at = a->mem.addr + word * 8;
	uint64_t value = value_of(a->index, word, ++s->seq);
	long n;

	a->expect[word] = value;
	n = pins ? write_into(at, &value) : read_into(s, at, &value);
	if (n != 8)
		verdict_fail(&s->round->v, "%s into area %u word %zu gives %ld: %s",
			     pins ? "process_vm_writev" : "read(2)", a->index, word, n,
			     strerror(errno));
	atomic_fetch_add(&s->round->writes[pins ? SCRIBE_VMWRITE : SCRIBE_READ2], 1);
}

/* ---- One act ---- */

static void act(struct scribe *s, struct area *a, size_t near)
{
	struct round *r = s->round;
	uint64_t what = rng_below(&s->rng, 16);

	watchdog_step("writes near word", near);
	if (what == 0) {
		(void)word_read(a->mem.addr + near * 8);
		atomic_fetch_add(&r->writes[SCRIBE_LOOK], 1);
	} else if (what == 1 && ways[r->plan.way].serve != UFFDWP_SERVE_SIGBUS) {
		kernel_store(s, a, near);
	} else {
		scribe_store(s, a, near);
		atomic_fetch_add_explicit(&r->writes[SCRIBE_STORE], 1, memory_order_relaxed);
	}
}

/* A gate that is shut, or about to be, is somebody else's: no waiting. */
static pthread_rwlock_t *pass(struct area *a, size_t word)
{
	pthread_rwlock_t *gate = &a->books.gates[word * 8 / GATE_SIZE];

	if (pthread_rwlock_tryrdlock(gate))
		return NULL;
	if (!area_is_gone(a, word * 8 / a->page))
		return gate;
	pthread_rwlock_unlock(gate);
	return NULL;
}

static void visit(struct scribe *s, struct area *a, size_t near)
{
	pthread_rwlock_t *gate = pass(a, own_word(s, a, near));

	if (!gate)
		return;
	act(s, a, near);
	pthread_rwlock_unlock(gate);
}

void scribe_touch(struct scribe *s)
{
	struct area *a = &s->round->area[rng_below(&s->rng, s->round->plan.areas)];
	size_t near = rng_below(&s->rng, a->words);
	pthread_rwlock_t *gate = pass(a, own_word(s, a, near));

	if (!gate)
		return;
	scribe_store(s, a, near);
	pthread_rwlock_unlock(gate);
}

/* ---- Bursts ---- */

static void nap(uint64_t ns)
{
	const struct timespec t = { 0, (long)ns };

	nanosleep(&t, NULL);
}

static size_t somewhere(struct scribe *s, const struct area *a, size_t unit, size_t units)
{
	size_t words = a->mem.page_size / 8;

	return (unit % units) * words + rng_below(&s->rng, words);
}

/* In order from a random page on, or at random, in all pages or in the first few. */
static void burst(struct scribe *s)
{
	struct round *r = s->round;
	struct area *a = &r->area[rng_below(&s->rng, r->plan.areas)];
	size_t units = a->mem.size / a->mem.page_size, hot = units / 16 + 1;
	size_t unit = rng_below(&s->rng, units), n = 1 + rng_below(&s->rng, BURST_MAX);
	unsigned int pattern = (unsigned int)rng_below(&s->rng, 4);

	for (; n && !atomic_load_explicit(&r->stop, memory_order_relaxed); n--) {
		pause_check(&r->pause);
		if (pattern == 0)
			unit++;
		else
			unit = rng_below(&s->rng, pattern == 1 ? units : hot);
		visit(s, a, somewhere(s, a, unit, units));
	}
}

static void *write_on(void *arg)
{
	struct scribe *s = arg;
	struct round *r = s->round;

	watchdog_enter("writer", s->index);
	while (!atomic_load(&r->stop)) {
		burst(s);
		watchdog_step("rests", 0);
		pause_check(&r->pause);
		if (rng_below(&s->rng, 2))
			nap(rng_below(&s->rng, 1000000));
	}
	pause_leave(&r->pause);
	watchdog_leave();
	return NULL;
}

/* ---- All of them ---- */

int scribes_start(struct round *r)
{
	unsigned int i;

	for (i = 0; i < r->plan.scribes; i++) {
		r->scribe[i].fd = memfd_create("values", MFD_CLOEXEC);
		if (r->scribe[i].fd < 0) {
			out_fail("no memfd: %s", strerror(errno));
			return EXIT_HARNESS;
		}
	}
	for (i = 0; i < r->plan.scribes; i++) {
		pause_join(&r->pause);
		thread_start(&r->scribe[i].thread, write_on, &r->scribe[i]);
	}
	return EXIT_PASS;
}

/* r->stop is set. */
void scribes_stop(struct round *r)
{
	unsigned int i;

	watchdog_rest("waits for the writers");
	for (i = 0; i < r->plan.scribes; i++)
		pthread_join(r->scribe[i].thread, NULL);
	watchdog_step("goes on", 0);
}
