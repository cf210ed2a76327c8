/* SPDX-License-Identifier: MIT */
/*
 * The peers without userfaultfd: mprotect(2) and a SIGSEGV handler of one's own, and the same through
 * libsigsegv, which finds the handler of an address in a tree. A fault marks its page in a bitmap and
 * opens it; a collect takes the marks and closes the pages. The handlers find their marks by a
 * global, as signal handlers must; trackers take turns, so one is enough.
 *
 * Closing pages one run at a time costs a call and two splits of mappings each; closing everything at
 * once costs a walk over all of its page tables, and puts all the split mappings together again.
 * The author of such a tracker takes the cheaper one; from measurements, the second from one run in 128
 * pages on.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef HAVE_SIGSEGV
#include <sigsegv.h>
#endif

#include "tracker.h"

#define PAGES_A_RUN 128

struct marks {
	char *addr;
	size_t size, page, pages;
	atomic_ulong *words;
	size_t nwords;
	struct sigaction previous;
};

#define WORD 64

static struct marks *current;

/* False: none of ours. */
static bool mark_and_open(struct marks *m, uintptr_t addr)
{
	size_t offset = addr - (uintptr_t)m->addr, page = offset / m->page;

	if (offset >= m->size)
		return false;
	atomic_fetch_or_explicit(&m->words[page / WORD], 1UL << page % WORD, memory_order_relaxed);
	return mprotect(m->addr + page * m->page, m->page, PROT_READ | PROT_WRITE) == 0;
}

static void protect(struct marks *m, size_t page, size_t pages)
{
	if (mprotect(m->addr + page * m->page, pages * m->page, PROT_READ))
		die("mprotect", errno);
}

static int open_marks(struct tracker *t, char *reason, size_t size)
{
	struct marks *m = calloc(1, sizeof(*m));

	(void)reason;
	(void)size;
	if (!m)
		die("memory", ENOMEM);
	m->addr = t->mem->addr;
	m->size = t->mem->size;
	m->page = t->mem->page_size;
	m->pages = m->size / m->page;
	m->nwords = (m->pages + WORD - 1) / WORD;
	m->words = calloc(m->nwords, sizeof(*m->words));
	if (!m->words)
		die("memory", ENOMEM);
	t->state = m;
	return 0;
}

static void close_marks(struct tracker *t)
{
	struct marks *m = t->state;

	free(m->words);
	free(m);
}

/* Adds pages to the last range, or makes one of its own. */
static void found(struct tracker *t, const struct marks *m, size_t page, size_t pages)
{
	struct uffdwp_track_range *r = (struct uffdwp_track_range *)t->found + t->nfound;
	uint64_t addr = (uintptr_t)m->addr + page * m->page;

	if (t->nfound > 0 && r[-1].addr + r[-1].len == addr) {
		r[-1].len += pages * m->page;
		return;
	}
	r->addr = addr;
	r->len = pages * m->page;
	t->nfound++;
}

static void take_word(struct tracker *t, const struct marks *m, size_t word, uint64_t bits)
{
	while (bits) {
		unsigned int first = (unsigned int)__builtin_ctzll(bits);
		uint64_t after = ~(bits >> first);
		unsigned int n = after ? (unsigned int)__builtin_ctzll(after) : WORD;

		found(t, m, word * WORD + first, n);
		bits = first + n < WORD ? bits & ~UINT64_C(0) << (first + n) : 0;
	}
}

static void collect(struct tracker *t)
{
	struct marks *m = t->state;

	t->nfound = 0;
	for (size_t i = 0; i < m->nwords; i++)
		if (atomic_load_explicit(&m->words[i], memory_order_relaxed))
			take_word(t, m, i,
				  atomic_exchange_explicit(&m->words[i], 0, memory_order_relaxed));
	if (t->nfound > m->pages / PAGES_A_RUN) {
		protect(m, 0, m->pages);
		return;
	}
	for (size_t i = 0; i < t->nfound; i++) {
		struct uffdwp_track_range r = tracker_range(t, i);

		protect(m, (r.addr - (uintptr_t)m->addr) / m->page, r.len / m->page);
	}
}

static void stop_marks(struct marks *m)
{
	if (mprotect(m->addr, m->size, PROT_READ | PROT_WRITE))
		die("mprotect", errno);
	for (size_t i = 0; i < m->nwords; i++)
		atomic_store_explicit(&m->words[i], 0, memory_order_relaxed);
}

/* ---- A handler of one's own ---- */

static void on_sigsegv(int sig, siginfo_t *info, void *context)
{
	static const char text[] = "uffd-bench: a fault could not be resolved in its handler\n";

	(void)sig;
	(void)context;
	if (mark_and_open(current, (uintptr_t)info->si_addr))
		return;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(EXIT_HARNESS);
}

static void start_mprotect(struct tracker *t)
{
	struct sigaction sa = { .sa_sigaction = on_sigsegv, .sa_flags = SA_SIGINFO };

	current = t->state;
	if (sigaction(SIGSEGV, &sa, &current->previous))
		die("sigaction", errno);
	protect(current, 0, current->pages);
}

static void stop_mprotect(struct tracker *t)
{
	struct marks *m = t->state;

	stop_marks(m);
	if (sigaction(SIGSEGV, &m->previous, NULL))
		die("sigaction", errno);
}

const struct tracker_kind tracker_mprotect = { .name = "mprotect+SIGSEGV",
					       .open = open_marks,
					       .start = start_mprotect,
					       .collect = collect,
					       .stop = stop_mprotect,
					       .close = close_marks,
					       .range = tracker_range,
					       .in_writers = true };

/* ---- libsigsegv's ---- */

#ifdef HAVE_SIGSEGV

static sigsegv_dispatcher dispatcher;
static void *ticket;

static int on_area(void *addr, void *m)
{
	return mark_and_open(m, (uintptr_t)addr);
}

static int on_fault(void *addr, int serious)
{
	(void)serious;
	return sigsegv_dispatch(&dispatcher, addr);
}

static void start_sigsegv(struct tracker *t)
{
	struct marks *m = t->state;

	sigsegv_init(&dispatcher);
	ticket = sigsegv_register(&dispatcher, m->addr, m->size, on_area, m);
	if (!ticket || sigsegv_install_handler(on_fault))
		die("libsigsegv", ENOMEM);
	protect(m, 0, m->pages);
}

static void stop_sigsegv(struct tracker *t)
{
	stop_marks(t->state);
	sigsegv_deinstall_handler();
	sigsegv_unregister(&dispatcher, ticket);
}

const struct tracker_kind tracker_sigsegv = { .name = "libsigsegv",
					      .open = open_marks,
					      .start = start_sigsegv,
					      .collect = collect,
					      .stop = stop_sigsegv,
					      .close = close_marks,
					      .range = tracker_range,
					      .in_writers = true };
#else
const struct tracker_kind tracker_sigsegv = { .name = NULL };
#endif
