/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress sigbus: faults served inside the faulting thread. For each memory type, missing and
 * then write-protect faults of each page, by threads with pages of their own and by threads that
 * race for the same; what kernel mode sees; and the same again in a forked child with a handle of
 * its own, while the parent's is inert there.
 */
#include "arena.h"
#include "serve.h"
#include "sigbus_foreign.h"
#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TOUCHERS_MAX 8

struct sigbus {
	const struct stress_opts *o;
	struct arena a;
	struct server server;
	unsigned int touchers;
};

struct toucher {
	struct sigbus *s;
	unsigned int index;
	size_t from, to;
	bool glance;
	pthread_t thread;
};

/* ---- Touching ---- */

static void *touch(void *arg)
{
	struct toucher *t = arg;

	watchdog_enter("toucher", t->index);
	arena_visit(&t->s->a, t->from, t->to, t->glance);
	watchdog_leave();
	return NULL;
}

/*
 * Every page by one thread, or by all of them at once. A forked child has no threads of its own:
 * its parent had some, and then only signal-safe calls are promised to work.
 */
static void touch_all(struct sigbus *s, bool racing, bool glance)
{
	struct toucher t[TOUCHERS_MAX];
	size_t n = s->touchers, pages = s->a.pages, i;

	for (i = 0; i < n; i++) {
		t[i] = (struct toucher){ .s = s, .index = (unsigned int)i, .glance = glance };
		t[i].from = racing ? 0 : pages * i / n;
		t[i].to = racing ? pages : pages * (i + 1) / n;
		if (n == 1) {
			arena_visit(&s->a, t[i].from, t[i].to, glance);
		} else if (pthread_create(&t[i].thread, NULL, touch, &t[i])) {
			out_fail("a thread does not start");
			mem_hugepages_restore();
			_Exit(EXIT_HARNESS);
		}
	}
	watchdog_rest("waits for the touchers");
	for (i = 0; n > 1 && i < n; i++)
		pthread_join(t[i].thread, NULL);
	watchdog_step("goes on", 0);
}

/* ---- What is checked ---- */

static int open_watch(struct sigbus *s)
{
	struct uffdwp_opts more = {
		.sz = sizeof(more),
		.required = s->a.kind == MEM_THP ? UFFDWP_FEATURE_MOVE : 0,
	};
	int rc = server_start(&s->server, s->o, s->a.kind, UFFDWP_SERVE_SIGBUS, false, &more);

	if (rc)
		return rc;
	s->a.in_thread = true;
	rc = arena_watch(&s->a, s->server.h);
	if (rc)
		server_close(&s->server);
	return rc;
}

/* Kernel mode can not be served in the faulting thread: it must fail, and change nothing. */
static void kernel_mode(struct sigbus *s, size_t nr, const char *what)
{
	struct arena *a = &s->a;
	uint32_t missing = atomic_load(&a->missing[nr]), written = atomic_load(&a->written[nr]);
	/* The last word, which nothing but this call writes in this round. */
	char *to = (char *)arena_page(a, nr) + a->page - 8;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, to, 8);
	int err = errno;

	close(fd);
	if (n >= 0 || err != EFAULT)
		arena_fail(a, "page %zu: read(2) into a %s page gives %zd (%s), want EFAULT", nr,
			   what, n, n < 0 ? strerror(err) : "no error");
	arena_expect(a, nr, nr + 1, missing, written, "after read(2)");
}

static void no_messages(struct sigbus *s)
{
	struct uffdwp_stats st = { .sz = sizeof(st) };
	uint64_t missing = 0, written = 0;
	size_t nr;

	for (nr = 0; nr < s->a.pages; nr++) {
		missing += atomic_load(&s->a.missing[nr]);
		written += atomic_load(&s->a.written[nr]);
	}
	if (uffdwp_stats(s->server.h, UFFDWP_ALL_WORKERS, &st))
		arena_fail(&s->a, "no statistics");
	if (st.reads || st.op_pages != written || st.missing < missing || st.strays)
		arena_fail(&s->a,
			   "statistics: %" PRIu64 " reads, %" PRIu64 " pages written of %" PRIu64
			   ", %" PRIu64 " missing of %" PRIu64 ", %" PRIu64 " strays",
			   st.reads, st.op_pages, written, st.missing, missing, st.strays);
}

/* All pages are missing at first; each is placed, written, and written after protection again. */
static void serve_pages(struct sigbus *s, bool racing)
{
	struct arena *a = &s->a;
	uint32_t placed = arena_placed(a), missing = racing ? ARENA_SOME : 1;

	kernel_mode(s, 0, "missing");
	touch_all(s, racing, true);
	arena_expect(a, 0, a->pages, missing, placed, "after the first visits");
	arena_protect(a, 0, a->pages);
	kernel_mode(s, a->pages - 1, "protected");
	touch_all(s, racing, false);
	arena_expect(a, 0, a->pages, missing, placed + 1, "after protecting again");
	touch_all(s, racing, false);
	arena_expect(a, 0, a->pages, missing, placed + 1, "after writing to released pages");
	arena_check(a, 0, a->pages);
	arena_check_huge(a);
	no_messages(s);
}

/* ---- The child ---- */

/* The parent's handle must refuse everything here, and be closed without harm. */
static void inert(struct sigbus *s)
{
	struct uffdwp_stats st = { .sz = sizeof(st) };
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct arena *a = &s->a;
	uint64_t at = (uintptr_t)a->dst.addr;
	const int got[] = {
		uffdwp_protect(a->region, at, a->page, NULL),
		uffdwp_unprotect(a->region, at, a->page, NULL),
		uffdwp_copy(a->region, at, a->src.addr, a->page, 0, NULL),
		uffdwp_wake(a->region, at, a->page),
		uffdwp_info(s->server.h, &info),
		uffdwp_stats(s->server.h, UFFDWP_ALL_WORKERS, &st),
		uffdwp_error(s->server.h),
		uffdwp_region_remove(a->region),
	};
	size_t i;

	a->h = NULL;
	for (i = 0; i < sizeof(got) / sizeof(got[0]); i++) {
		if (got[i] != -ECHILD)
			arena_fail(a,
				   "child: call %zu on the parent's handle gives %d, want -ECHILD",
				   i, got[i]);
	}
	i = (size_t)-uffdwp_close(s->server.h);
	if (i)
		arena_fail(a, "child: closing the parent's handle: %s", strerror((int)i));
}

/* The inherited memory, all missing again; what is shared loses its content for the parent too. */
static bool empty(struct arena *a)
{
	bool shared = a->kind == MEM_SHMEM || a->kind == MEM_HUGETLB_SHARED;

	if (!madvise(a->dst.addr, a->dst.size, shared ? MADV_REMOVE : MADV_DONTNEED))
		return true;
	arena_fail(a, "child: discarding inherited memory: %s", strerror(errno));
	return false;
}

static int child(struct sigbus *s)
{
	unsigned int inherited = census_take().fds;
	struct arena *a = &s->a;
	struct census before;

	inert(s);
	before = census_take();
	if (before.fds >= inherited)
		arena_fail(a, "child: closing the parent's handle left its descriptor");
	s->touchers = 1;
	arena_refill(a, 0, a->pages);
	if (!empty(a) || open_watch(s))
		return EXIT_WRONG;
	serve_pages(s, false);
	if (!server_close(&s->server) || !census_same(&before, "child"))
		return EXIT_WRONG;
	return arena_result(a);
}

static void fork_child(struct sigbus *s)
{
	struct arena *a = &s->a;
	pid_t pid = watchdog_fork();
	int status;

	if (!pid)
		_exit(child(s));
	if (pid < 0) {
		arena_fail(a, "fork: %s", strerror(errno));
		return;
	}
	status = watchdog_child(pid);
	if (status)
		arena_fail(a, "the forked child ended with %d", status);
}

/*
 * Whatever the child did with its handle, this one goes on. Shared content went with the child's.
 */
static void parent_goes_on(struct sigbus *s)
{
	struct arena *a = &s->a;
	uint32_t missing = atomic_load(&a->missing[0]), written = atomic_load(&a->written[0]);

	if (a->kind == MEM_SHMEM || a->kind == MEM_HUGETLB_SHARED)
		return;
	arena_protect(a, 0, 1);
	arena_visit(a, 0, 1, false);
	arena_expect(a, 0, 1, missing, written + 1, "in the parent after the child's end");
}

/* ---- Rounds ---- */

static int one_round(struct sigbus *s, enum mem_kind kind, bool racing, struct tally *t)
{
	int rc = arena_map(&s->a, kind, s->o->size);
	bool good;

	if (!rc)
		rc = open_watch(s);
	if (rc) {
		arena_unmap(&s->a);
		return rc;
	}
	serve_pages(s, racing);
	fork_child(s);
	parent_goes_on(s);
	if (!tally_add(t, s->server.h))
		arena_fail(&s->a, "workers' statistics exceed the sum of all");
	good = server_close(&s->server);
	s->a.h = NULL;
	if (!good)
		arena_fail(&s->a, "the handle does not close cleanly");
	rc = arena_result(&s->a);
	arena_unmap(&s->a);
	return rc;
}

static void tell(const struct stress_opts *o, const char *name, unsigned int rounds,
		 const struct tally *t, int rc)
{
	out_say(o, "%-15s %6u rounds of own and raced pages, parent and child: %s\n", name, rounds,
		exit_word(rc));
	tally_print(o, t);
	json_begin(o);
	json_str(o, "mem", name);
	json_u64(o, "rounds", rounds);
	tally_json(o, t);
	json_str(o, "result", exit_word(rc));
	json_end(o);
}

static int sigbus_kind(const struct stress_opts *o, enum mem_kind kind, uint64_t end)
{
	unsigned int limit = o->bounces ? o->bounces : o->duration ? UINT32_MAX : 2, n = 0;
	struct census before = census_take();
	struct sigbus s = { .o = o };
	static struct tally t;
	int rc = EXIT_PASS;

	memset(&t, 0, sizeof(t));
	while (!rc && n < limit && (!n || now_ns() < end)) {
		out_progress(o, "%s: round %u", mem_name(kind), n + 1);
		s.touchers = server_threads(o) < 2 ? 2 : server_threads(o);
		rc = one_round(&s, kind, n++ & 1, &t);
	}
	if (!census_same(&before, mem_name(kind)))
		rc = EXIT_WRONG;
	tell(o, mem_name(kind), n, &t, rc);
	return rc;
}

static int list(const struct stress_opts *o)
{
	unsigned int kind;

	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (o->kinds & 1u << kind)
			printf("%s own\n%s raced\n", mem_name(kind), mem_name(kind));
	}
	puts("foreign");
	return EXIT_PASS;
}

int sigbus_run(const struct stress_opts *o)
{
	uint64_t share = o->duration * UINT64_C(1000000000) /
			 (uint64_t)__builtin_popcount(o->kinds);
	unsigned int kind;
	int rc;

	if (o->list)
		return list(o);
	rc = sigbus_foreign(o);
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (o->kinds & 1u << kind)
			rc = exit_worse(rc, sigbus_kind(o, kind,
							share ? now_ns() + share : UINT64_MAX));
	}
	return rc;
}
