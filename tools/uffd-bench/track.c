/* SPDX-License-Identifier: MIT */
/*
 * uffd-bench track: what the first write to a page costs its writer while the memory is tracked, and
 * what a look at what was written costs, for the library's three mechanisms and their peers. One
 * contest measures all sides and figures on one mapping; the tables below say which of them meet in
 * rows.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "plot.h"
#include "tracker.h"

#define SOME 100       /* one page of so many is written where not all are */
#define CLEAN_LOOKS 15 /* at clean memory in a turn: one alone is over too soon to be timed */
#define TURNS_MAX 3    /* of each side in a round; large memory is a long turn by itself */
#define TURN_SIZE (768UL << 20)

enum figure { WRITE_SOME, WRITE_ALL, COLLECT_CLEAN, COLLECT_SOME, COLLECT_ALL, FIGURES };

static const struct {
	const char *name, *unit;
	const char *what, *share, *axis; /* in a plot */
} figures[FIGURES] = {
	[WRITE_SOME] = { "write 1%", "ns/page", "first write", "1 % at random", "ns a write" },
	[WRITE_ALL] = { "write all", "ns/page", "first write", "all in order", "ns a write" },
	[COLLECT_CLEAN] = { "collect clean", "us/GiB", "collect", "nothing written", "µs a GiB" },
	[COLLECT_SOME] = { "collect 1%", "us/GiB", "collect", "1 % written", "µs a GiB" },
	[COLLECT_ALL] = { "collect all", "us/GiB", "collect", "all written", "µs a GiB" },
};

/* The library's first, so that their rows can be found by their index. */
static const struct tracker_kind *const kinds[] = { &tracker_async,    &tracker_sync,
						    &tracker_sigbus,   &tracker_raw,
						    &tracker_mprotect, &tracker_sigsegv };

#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))
#define NOURS 3

/* Rows that have to reach something; all other pairs inform. */
struct goal {
	const struct tracker_kind *ours, *theirs;
	unsigned int figures; /* mask */
	const char *text;
	double limit;
};

#define WRITES (1u << WRITE_SOME | 1u << WRITE_ALL)

static const struct goal goals[] = {
	{ &tracker_async, &tracker_raw, (1u << FIGURES) - 1, "<=1.05", 1.05 },
	{ &tracker_async, &tracker_mprotect, WRITES, "<=0.25", 0.25 },
};

/* One mapping, and the sides that take turns on it. */
struct field {
	const struct bench_opts *o;
	struct mem mem;
	size_t pages;
	struct tracker side[NKINDS];
	struct rounds play;
	struct writers some, all;
	uint64_t *written; /* a bit a page: what the last collect has to tell */
	uint64_t value;	   /* stored by the last writers */
	unsigned long served[NKINDS][BENCH_CPUS_MAX];
	char label[48]; /* memory, size and writers, in words */
	char tick[24];	/* its size */
	char crowd[16]; /* its writers, if there are several */
};

/* ---- Checking ---- */

static _Noreturn void wrong(const struct tracker *t, const char *what, size_t is, size_t want)
{
	fprintf(stderr, "uffd-bench: wrong result: %s: %s: %zu instead of %zu\n", t->kind->name,
		what, is, want);
	exit(EXIT_WRONG);
}

static void mark_written(struct field *f, const struct writers *w)
{
	for (size_t i = 0; i < w->pages; i++)
		f->written[w->order[i] / 64] |= UINT64_C(1) << w->order[i] % 64;
}

/* Exactly the pages that were written, each of them once. */
static void check(struct field *f, const struct tracker *t, size_t want)
{
	size_t sum = 0;

	for (size_t i = 0; i < t->nfound; i++) {
		struct uffdwp_track_range r = t->kind->range(t, i);
		size_t page = (r.addr - (uintptr_t)f->mem.addr) / f->mem.page_size;
		size_t end = page + r.len / f->mem.page_size;

		for (; page < end; page++, sum++) {
			uint64_t bit = UINT64_C(1) << page % 64;

			if (page >= f->pages || !(f->written[page / 64] & bit))
				wrong(t, "a page told that was not written", page, f->pages);
			f->written[page / 64] &= ~bit;
		}
	}
	if (sum != want)
		wrong(t, "pages told", sum, want);
}

/* ---- A turn ---- */

/*
 * The collector has the first writer's CPU: from another one each change of a page table waits for an
 * interrupt there, which would be a matter of where the scheduler keeps this thread. Only here, because the
 * library's pool inherits what the thread has that opens it.
 */
static void on_cpu(bool pinned)
{
	const int *cpus;
	int n = cpus_allowed(&cpus);
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = 0; i < (pinned ? 1 : n); i++)
		CPU_SET(cpus[i], &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity", errno);
}

static bool whole(const struct field *f)
{
	return f->mem.kind != MEM_THP || mem_thp_bytes(&f->mem) == f->mem.size;
}

/* Present, and in huge pages again where it should be: whoever wrote last has split them. */
static void make_whole(struct field *f)
{
	if (f->mem.kind != MEM_THP)
		return;
	if (madvise(f->mem.addr, f->mem.size, MADV_DONTNEED))
		die("MADV_DONTNEED", errno);
	for (size_t at = 0; at < f->mem.size; at += f->mem.page_size)
		f->mem.addr[at] = 1;
	if (!whole(f))
		die("memory in huge pages", ENOMEM);
}

static double collect(struct field *f, struct tracker *t, size_t want)
{
	double begin = bench_now(), us;

	t->kind->collect(t);
	us = (bench_now() - begin) / 1e3;
	check(f, t, want);
	return us * (double)(1UL << 30) / (double)f->mem.size;
}

static double collect_clean(struct field *f, struct tracker *t)
{
	double us[CLEAN_LOOKS];
	size_t whole = f->mem.kind == MEM_THP ? mem_thp_bytes(&f->mem) : 0;

	for (int i = 0; i < CLEAN_LOOKS; i++)
		us[i] = collect(f, t, 0);
	if (whole != 0 && mem_thp_bytes(&f->mem) != whole)
		wrong(t, "bytes in huge pages after a look", mem_thp_bytes(&f->mem), whole);
	return spread_of(us, CLEAN_LOOKS).median;
}

static void epoch(struct field *f, struct tracker *t, const struct writers *w, double *write_ns,
		  double *collect_us)
{
	*write_ns = writers_run(w, &f->mem, ++f->value);
	mark_written(f, w);
	*collect_us = collect(f, t, w->pages);
}

static void turn(void *ctx, unsigned int i, bool counted, double *got)
{
	struct field *f = ctx;
	struct tracker *t = &f->side[i];

	make_whole(f);
	t->kind->start(t);
	got[COLLECT_CLEAN] = collect_clean(f, t);
	epoch(f, t, &f->some, &got[WRITE_SOME], &got[COLLECT_SOME]);
	if (f->mem.kind == MEM_THP) {
		t->kind->stop(t);
		make_whole(f);
		t->kind->start(t);
	}
	epoch(f, t, &f->all, &got[WRITE_ALL], &got[COLLECT_ALL]);
	if (counted && t->kind->served)
		t->kind->served(t, f->served[i]);
	t->kind->stop(t);
}

/* ---- Rows ---- */

static const struct goal *goal_of(const struct tracker *ours, const struct tracker *theirs,
				  unsigned int figure)
{
	for (size_t i = 0; i < sizeof(goals) / sizeof(goals[0]); i++)
		if (goals[i].ours == ours->kind && goals[i].theirs == theirs->kind &&
		    (goals[i].figures & 1u << figure))
			return &goals[i];
	return NULL;
}

static void name_row(const struct field *f, unsigned int figure, char *out, size_t size)
{
	snprintf(out, size, "%s%s", figures[figure].name, f->label);
}

static void name_cpus(const struct field *f, unsigned int i, char *out, size_t size)
{
	if (f->side[i].kind->in_writers)
		writers_name(&f->all, out, size);
	else
		cpus_name(f->served[i], out, size);
	if (!out[0])
		snprintf(out, size, "-");
}

static void print_row(const struct field *f, unsigned int ours, unsigned int theirs,
		      unsigned int figure)
{
	const struct tracker *a = &f->side[ours], *b = &f->side[theirs];
	const struct goal *goal = goal_of(a, b, figure);
	char name[64], on[16], ours_on[16], theirs_on[16];
	struct row row = { .bench = "track",
			   .name = name,
			   .serve = bench_serve_name(a->kind->serve),
			   .peer = b->kind->name,
			   .unit = figures[figure].unit,
			   .ours = f->play.value[ours][figure],
			   .theirs = f->play.value[theirs][figure],
			   .rounds = f->play.rounds,
			   .target = goal ? goal->text : NULL,
			   .limit = goal ? goal->limit : 0,
			   .writers_on = on,
			   .ours_on = ours_on,
			   .theirs_on = theirs_on };

	name_row(f, figure, name, sizeof(name));
	if (!bench_wants(f->o, name))
		return;
	writers_name(&f->all, on, sizeof(on));
	name_cpus(f, ours, ours_on, sizeof(ours_on));
	name_cpus(f, theirs, theirs_on, sizeof(theirs_on));
	report_row(&row, f->o->json);
}

/* The raw loop is what only the asynchronous tracker can be measured with. */
static bool comparable(const struct tracker *ours, const struct tracker *theirs)
{
	return theirs->kind->serve == 0 &&
	       (theirs->kind != &tracker_raw || ours->kind == &tracker_async);
}

static void print_side(const struct field *f, unsigned int ours)
{
	char title[128];

	snprintf(title, sizeof(title),
		 "%s, %zu MiB, %s; write: ns as its writer sees it, collect: us a GiB, on CPU %d",
		 mem_name(f->mem.kind), f->mem.size >> 20, f->side[ours].kind->name, cpus_nth(0));
	report_header(title, f->o->json);
	for (unsigned int figure = 0; figure < FIGURES; figure++)
		for (unsigned int i = 0; i < f->play.sides; i++)
			if (comparable(&f->side[ours], &f->side[i]))
				print_row(f, ours, i, figure);
}

static void plot_figure(struct plot *p, const struct field *f, unsigned int figure)
{
	bool one = f->o->nsizes == 1;
	char panel[96];

	snprintf(panel, sizeof(panel), "%s%s: %s%s%s",
		 f->mem.kind == MEM_ANON  ? "4 KiB pages"
		 : f->mem.kind == MEM_THP ? "huge pages"
					  : mem_name(f->mem.kind),
		 f->crowd, figures[figure].what, one ? "" : ", ", one ? "" : figures[figure].share);
	for (unsigned int i = 0; i < f->play.sides; i++)
		plot_point(p, panel, figures[figure].axis, f->side[i].kind->name,
			   one ? figure : (double)f->mem.size,
			   one ? figures[figure].share : f->tick, f->play.value[i][figure],
			   f->play.rounds);
}

/* ---- Contests ---- */

static void name_field(struct field *f, unsigned int writers)
{
	size_t mib = f->mem.size >> 20;

	snprintf(f->tick, sizeof(f->tick), mib % 1024 ? "%zuM" : "%zuG",
		 mib % 1024 ? mib : mib >> 10);
	if (writers > 1)
		snprintf(f->crowd, sizeof(f->crowd), " %uw", writers);
	snprintf(f->label, sizeof(f->label), "%s%s %s%s", f->mem.kind == MEM_ANON ? "" : " ",
		 f->mem.kind == MEM_ANON ? "" : mem_name(f->mem.kind), f->tick, f->crowd);
}

static void enter(struct field *f, const struct tracker_kind *kind, void *found)
{
	struct tracker *t = &f->side[f->play.sides];

	if (!kind->name || (kind->serve && !(kind->serve & f->o->serve)))
		return;
	t->kind = kind;
	t->mem = &f->mem;
	t->found = found;
	t->room = f->pages / 2 + 1;
	f->play.sides++;
}

static int open_sides(struct field *f, unsigned int *opened)
{
	char reason[256] = "";

	for (*opened = 0; *opened < f->play.sides; (*opened)++) {
		struct tracker *t = &f->side[*opened];
		int err = t->kind->open(t, reason, sizeof(reason));

		if (err) {
			fprintf(stderr, "uffd-bench: track%s: unsupported: %s: %s (%s)\n", f->label,
				t->kind->name, strerror(-err), reason);
			return EXIT_UNSUPPORTED;
		}
	}
	return EXIT_MEASURED;
}

static int contest(struct field *f, struct plot *p)
{
	unsigned int opened;
	int result = open_sides(f, &opened);

	if (result == EXIT_MEASURED) {
		on_cpu(true);
		rounds_play(&f->play);
		on_cpu(false);
		for (unsigned int i = 0; i < f->play.sides && f->side[i].kind->serve; i++)
			print_side(f, i);
		for (unsigned int i = 0; p && i < FIGURES; i++)
			plot_figure(p, f, i);
	}
	while (opened-- > 0)
		f->side[opened].kind->close(&f->side[opened]);
	return result;
}

static void free_field(struct field *f, void *found)
{
	free((void *)f->some.order);
	free((void *)f->all.order);
	free(f->written);
	free(found);
	rounds_free(&f->play);
}

static void *fill_field(struct field *f, unsigned int writers)
{
	unsigned int turns = (unsigned int)(TURN_SIZE / f->mem.size);
	void *found = calloc(f->pages / 2 + 1, 3 * sizeof(uint64_t));

	f->written = calloc((f->pages + 63) / 64, sizeof(*f->written));
	f->all = (struct writers){ .count = writers, .pages = f->pages };
	f->all.order = writers_order(f->pages, writers, false);
	f->some = (struct writers){ .count = writers, .pages = (f->pages + SOME - 1) / SOME };
	f->some.order = writers_order(f->pages, 1, true);
	if (!found || !f->written || !f->all.order || !f->some.order)
		die("memory", ENOMEM);
	/* Otherwise the first to find something would pay for the pages of the array. */
	memset(found, 0xff, (f->pages / 2 + 1) * 3 * sizeof(uint64_t));
	f->play = (struct rounds){ .figures = FIGURES,
				   .rounds = f->o->rounds,
				   .turns = turns < 1		? 1
					    : turns > TURNS_MAX ? TURNS_MAX
								: turns,
				   .turn = turn,
				   .ctx = f };
	return found;
}

static int run_field(struct field *f, unsigned int writers, struct plot *p)
{
	void *found = fill_field(f, writers);
	int result;

	memset(f->side, 0, sizeof(f->side));
	memset(f->served, 0, sizeof(f->served));
	for (size_t i = 0; i < NKINDS; i++)
		enter(f, kinds[i], found);
	result = contest(f, p);
	free_field(f, found);
	return result;
}

/* True if the filter wants one of the rows that the contest would give. */
static bool wanted(const struct field *f)
{
	bool any = false;

	for (unsigned int figure = 0; figure < FIGURES; figure++) {
		char name[64];

		name_row(f, figure, name, sizeof(name));
		if (!bench_wants(f->o, name))
			continue;
		any = true;
		if (f->o->list)
			printf("%s\n", name);
	}
	return any;
}

static int map_field(struct field *f, enum mem_kind kind, size_t size)
{
	int err = mem_map(&f->mem, kind, size);

	if (err) {
		fprintf(stderr, "uffd-bench: %s memory: %s\n", mem_name(kind), strerror(-err));
		return EXIT_UNSUPPORTED;
	}
	memset(f->mem.addr, 1, f->mem.size);
	if (whole(f))
		return EXIT_MEASURED;
	fprintf(stderr, "uffd-bench: %s memory: unsupported: %zu of %zu bytes are in huge pages\n",
		mem_name(kind), mem_thp_bytes(&f->mem), f->mem.size);
	mem_unmap(&f->mem);
	return EXIT_UNSUPPORTED;
}

static int visit(const struct bench_opts *o, enum mem_kind kind, unsigned int writers, size_t size,
		 struct plot *p, unsigned int *seen)
{
	struct field *f = calloc(1, sizeof(*f));
	int result = EXIT_MEASURED;

	if (!f)
		die("memory", ENOMEM);
	f->o = o;
	f->mem.kind = kind;
	f->mem.size = size;
	name_field(f, writers);
	if (wanted(f)) {
		(*seen)++;
		if (!o->list)
			result = map_field(f, kind, size);
		if (!o->list && result == EXIT_MEASURED) {
			f->pages = f->mem.size / f->mem.page_size;
			result = run_field(f, writers, p);
			mem_unmap(&f->mem);
		}
	}
	free(f);
	return result;
}

static int visit_all(const struct bench_opts *o, struct plot *p, unsigned int *seen)
{
	int worst = EXIT_MEASURED;

	for (unsigned int kind = 0; kind < MEM_KINDS; kind++)
		for (size_t w = 0; (o->mem & 1u << kind) && w < o->nwriters; w++)
			for (size_t i = 0; i < o->nsizes; i++) {
				int result = visit(o, (enum mem_kind)kind, o->writers[w],
						   o->sizes[i], p, seen);

				worst = result > worst ? result : worst;
			}
	return worst;
}

static struct plot *new_plot(const struct bench_opts *o)
{
	char subtitle[160];
	struct plot_form form = { .title = "Dirty tracking: what it costs",
				  .subtitle = subtitle,
				  .columns = o->nsizes > 1 ? FIGURES : 2,
				  .sizes = o->nsizes > 1 };
	char of[32] = "by the memory tracked";

	if (!form.sizes)
		snprintf(of, sizeof(of), "%zu MiB", o->sizes[0] >> 20);
	snprintf(
		subtitle, sizeof(subtitle),
		"%s; less is better; medians of %u rounds with min to max; first writer and collector "
		"on CPU %d",
		of, o->rounds, cpus_nth(0));
	return plot_new(o->plot, &form);
}

static int run(const struct bench_opts *o)
{
	struct plot *p = NULL;
	unsigned int seen = 0;
	int worst;

	if (!(o->serve & (SERVE_ASYNC | SERVE_THREADS | SERVE_SIGBUS)))
		return bench_no_case(o);
	if (!tracker_sigsegv.name && !o->list)
		fprintf(stderr, "uffd-bench: built without libsigsegv: that peer is missing\n");
	bench_reserve_hugepages(o);
	if (o->plot && !o->list && !(p = new_plot(o)))
		return EXIT_HARNESS;
	worst = visit_all(o, p, &seen);
	if (p && seen > 0 && plot_write(p) && worst == EXIT_MEASURED)
		worst = EXIT_HARNESS;
	plot_free(p);
	return seen == 0 && worst == EXIT_MEASURED ? bench_no_case(o) : worst;
}

const struct bench_cmd bench_track = {
	.name = "track",
	.summary = "what tracking costs a writer, and what a look at its writes costs",
	.run = run,
	.mem = 1u << MEM_ANON | 1u << MEM_THP,
	.size = 256UL << 20,
	.writers = 1,
	.plots = true,
};
