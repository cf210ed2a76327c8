/* SPDX-License-Identifier: MIT */
/*
 * uffd-bench fault: what a write to a protected page costs its writer, against the same job done
 * by hand. The table below is the bench; the rest chooses from it, runs contests, prints rows.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "side.h"

#define NEIGHBOURS 128

struct entrant {
	const struct side_kind *kind;
	enum bench_place place; /* PLACE_ALL: as --placement says */
	struct target target;	/* of the first entrant against this one */
};

enum crowd {
	CROWD_PINNED,	/* each of --writers, writer i on CPU i */
	CROWD_UNPINNED, /* each of --writers, left to the scheduler */
	CROWD_DOUBLE,	/* two writers a CPU, left to the scheduler */
};

struct fault_case {
	const char *name;
	unsigned int serve;   /* enum bench_serve */
	unsigned int pattern; /* mask of enum bench_pattern: one contest for each */
	unsigned int run;
	enum crowd crowd;
	bool placement; /* the first entrant against the best of the others, too */
	struct entrant entrants[CONTEST_SIDES_MAX];
};

#define RAW_LIMIT              \
	{                      \
		1.05, "<=1.05" \
	}
#define NO_TARGET       \
	{               \
		0, NULL \
	}

/* Every fixed placement there is; FOLLOW is not fixed, and here to show what AUTO decides. */
#define EVERY_PLACEMENT                                            \
	{ &side_lib_threads, PLACE_AUTO, NO_TARGET },              \
		{ &side_lib_threads, PLACE_FOLLOW, NO_TARGET },    \
		{ &side_lib_threads, PLACE_SCHED, NO_TARGET },     \
		{ &side_lib_threads, PLACE_PIN_SAME, NO_TARGET },  \
		{ &side_lib_threads, PLACE_PIN_ONE, NO_TARGET },   \
		{ &side_lib_threads, PLACE_PIN_OTHER, NO_TARGET }, \
		{ &side_raw_read, PLACE_SCHED, NO_TARGET },        \
		{ &side_raw_read, PLACE_PIN_SAME, NO_TARGET },     \
		{ &side_raw_read, PLACE_PIN_ONE, NO_TARGET },      \
	{                                                          \
		&side_raw_read, PLACE_PIN_OTHER, NO_TARGET         \
	}

static const struct fault_case cases[] = {
	{ .name = "sync",
	  .serve = SERVE_THREADS,
	  .pattern = PATTERN_ALL,
	  .entrants = { { &side_lib_threads, PLACE_ALL, NO_TARGET },
			{ &side_raw_read, PLACE_ALL, RAW_LIMIT },
			{ &side_raw_read, PLACE_PIN_ONE, RAW_LIMIT } } },
	{ .name = "neighbours",
	  .serve = SERVE_THREADS,
	  .pattern = PATTERN_SEQ,
	  .run = NEIGHBOURS,
	  .entrants = { { &side_lib_threads, PLACE_ALL, NO_TARGET },
			{ &side_raw_read, PLACE_ALL, { 0.125, "<=0.125" } } } },
	{ .name = "neighbours",
	  .serve = SERVE_THREADS,
	  .pattern = PATTERN_RANDOM,
	  .run = NEIGHBOURS,
	  .entrants = { { &side_lib_threads, PLACE_ALL, NO_TARGET },
			{ &side_raw_read, PLACE_ALL, RAW_LIMIT },
			{ &side_raw_read, PLACE_PIN_ONE, RAW_LIMIT } } },
	{ .name = "placement",
	  .serve = SERVE_THREADS,
	  .pattern = PATTERN_SEQ,
	  .placement = true,
	  .entrants = { EVERY_PLACEMENT } },
	{ .name = "placement free",
	  .serve = SERVE_THREADS,
	  .pattern = PATTERN_SEQ,
	  .crowd = CROWD_UNPINNED,
	  .placement = true,
	  .entrants = { EVERY_PLACEMENT } },
	{ .name = "placement full",
	  .serve = SERVE_THREADS,
	  .pattern = PATTERN_SEQ,
	  .crowd = CROWD_DOUBLE,
	  .placement = true,
	  .entrants = { EVERY_PLACEMENT } },
	{ .name = "caller",
	  .serve = SERVE_CALLER,
	  .pattern = PATTERN_ALL,
	  .entrants = { { &side_lib_caller, PLACE_ALL, NO_TARGET },
			{ &side_raw_poll, PLACE_ALL, RAW_LIMIT } } },
	{ .name = "sigbus",
	  .serve = SERVE_SIGBUS,
	  .pattern = PATTERN_ALL,
	  .entrants = { { &side_lib_sigbus, PLACE_AUTO, NO_TARGET },
			{ &side_raw_sigbus, PLACE_AUTO, { 1.10, "<=1.10" } },
			{ &side_mprotect, PLACE_AUTO, { 1.00, "<=1.00" } } } },
};

#define NCASES (sizeof(cases) / sizeof(cases[0]))

/* One contest that the options chose. */
struct chosen {
	const struct fault_case *fc;
	const struct bench_opts *o;
	enum mem_kind mem;
	unsigned int writers;
	bool random;
	char name[64];
};

static void name_chosen(struct chosen *ch)
{
	snprintf(ch->name, sizeof(ch->name), "%s %s %uw%s%s", ch->fc->name,
		 ch->random ? "random" : "seq", ch->writers, ch->mem == MEM_ANON ? "" : " ",
		 ch->mem == MEM_ANON ? "" : mem_name(ch->mem));
}

/*
 * A peer has no placement of its own: it gets the writers' CPUs, the best of them with one writer.
 * An event loop is one thread by nature.
 */
static enum bench_place place_of(const struct entrant *e, const struct bench_opts *o)
{
	bool threads = e->kind == &side_lib_threads;
	enum bench_place fixed = e->kind == &side_lib_caller || e->kind == &side_raw_poll
					 ? PLACE_PIN_ONE
					 : PLACE_PIN_SAME;

	if (e->place != PLACE_ALL)
		return e->place;
	if (o->place == PLACE_ALL || o->place == PLACE_AUTO)
		return threads ? PLACE_AUTO : fixed;
	return o->place == PLACE_FOLLOW && !threads ? fixed : o->place;
}

static void name_side(const struct contest *c, unsigned int i, bool place, char *out, size_t size)
{
	const struct side *s = &c->side[i];

	if (place)
		snprintf(out, size, "%s %s", s->kind == &side_raw_read ? "raw" : s->kind->name,
			 bench_place_name(s->place));
	else
		snprintf(out, size, "%s%s", s->kind->name,
			 s->kind == &side_raw_read && s->place == PLACE_PIN_ONE ? ", 1 reader"
										: "");
}

static void print_row(const struct chosen *ch, const struct contest *c, unsigned int peer,
		      const struct target *target, const char *prefix)
{
	const struct writers *w = c->side[0].writers;
	char name[32], label[48], on[16];
	struct row row = { .bench = "fault",
			   .name = ch->name,
			   .serve = bench_serve_name(ch->fc->serve),
			   .peer = label,
			   .unit = "ns/page",
			   .ours = c->play.value[0][0],
			   .theirs = c->play.value[peer][0],
			   .rounds = c->play.rounds,
			   .target = target->text,
			   .limit = target->limit,
			   .writers_on = on,
			   .ours_on = c->on[0],
			   .theirs_on = c->on[peer] };

	name_side(c, peer, ch->fc->placement, name, sizeof(name));
	snprintf(label, sizeof(label), "%s%s", prefix, name);
	writers_name(w, on, sizeof(on));
	report_row(&row, ch->o->json);
}

/* Only placements that are fixed compete for the best: FOLLOW is what AUTO may be itself. */
static unsigned int best_fixed(const struct contest *c)
{
	double values[BENCH_ROUNDS_MAX], best = 0;
	unsigned int found = 0;

	for (unsigned int i = 1; i < c->play.sides; i++) {
		double median;

		if (c->side[i].place == PLACE_FOLLOW)
			continue;
		memcpy(values, c->play.value[i][0], c->play.rounds * sizeof(*values));
		median = spread_of(values, c->play.rounds).median;
		if (found == 0 || median < best) {
			best = median;
			found = i;
		}
	}
	return found;
}

static double us(const struct uffdwp_hist *h, double percent)
{
	return (double)uffdwp_hist_percentile(h, percent) / 1e3;
}

static void print_latency(const struct chosen *ch, const struct contest *c)
{
	const struct uffdwp_stats *st = &c->stats;
	const struct uffdwp_hist *h = &st->latency;

	report_note(ch->o->json, "    latency us: p50 %.1f p99 %.1f p99.9 %.1f max %.0f; ",
		    us(h, 50), us(h, 99), us(h, 99.9), (double)h->max / 1e3);
	if (st->reads)
		report_note(ch->o->json, "%.2f faults a read, ",
			    (double)st->write / (double)st->reads);
	report_note(ch->o->json, "%.2f pages a release\n",
		    st->resolves ? (double)st->op_pages / (double)st->resolves : 0);
}

static void print_contest(const struct chosen *ch, const struct contest *c)
{
	static const struct target best_limit = { 1.2, "<=1.2" };

	for (unsigned int i = 1; i < c->play.sides; i++)
		print_row(ch, c, i, c->target[i], "");
	if (ch->fc->placement)
		print_row(ch, c, best_fixed(c), &best_limit, "best: ");
	print_latency(ch, c);
}

static void enter_sides(const struct chosen *ch, struct contest *c)
{
	for (unsigned int i = 0; i < CONTEST_SIDES_MAX && ch->fc->entrants[i].kind; i++) {
		const struct entrant *e = &ch->fc->entrants[i];
		struct side *s = &c->side[c->play.sides];

		/* With one writer this is what PLACE_PIN_SAME is already. */
		if (e->place == PLACE_PIN_ONE && ch->writers == 1)
			continue;
		c->target[c->play.sides++] = &e->target;
		s->kind = e->kind;
		s->place = place_of(e, ch->o);
		s->run = i == 0 ? ch->fc->run : 0;
	}
	c->play.rounds = ch->o->rounds;
}

static int run_contest(const struct chosen *ch, struct arena *a)
{
	uint32_t *order = writers_order(a->pages, ch->writers, ch->random);
	struct writers w = { .count = ch->writers,
			     .unpinned = ch->fc->crowd != CROWD_PINNED,
			     .order = order,
			     .pages = a->pages };
	struct contest *c = calloc(1, sizeof(*c));
	char reason[256] = "";
	int err;

	if (!order || !c)
		die("memory", ENOMEM);
	enter_sides(ch, c);
	err = contest_run(c, a, &w, reason, sizeof(reason));
	if (err)
		fprintf(stderr, "uffd-bench: %s: unsupported: %s (%s)\n", ch->name, strerror(-err),
			reason);
	else
		print_contest(ch, c);
	contest_free(c);
	free(c);
	free(order);
	return err ? EXIT_UNSUPPORTED : EXIT_MEASURED;
}

/* Lists or runs one contest, if the filter wants it. */
static int visit(struct chosen *ch, struct arena *a, unsigned int *seen)
{
	name_chosen(ch);
	if (!bench_wants(ch->o, ch->name))
		return EXIT_MEASURED;
	(*seen)++;
	if (!ch->o->list)
		return run_contest(ch, a);
	printf("%-30s %s\n", ch->name, bench_serve_name(ch->fc->serve));
	return EXIT_MEASURED;
}

static int visit_writers(struct chosen *ch, struct arena *a, unsigned int *seen)
{
	int worst = EXIT_MEASURED;

	if (ch->fc->crowd == CROWD_DOUBLE) {
		ch->writers = 2 * (unsigned int)cpus_allowed(NULL);
		return ch->writers > BENCH_WRITERS_MAX ? worst : visit(ch, a, seen);
	}
	for (size_t i = 0; i < ch->o->nwriters; i++) {
		int result;

		ch->writers = ch->o->writers[i];
		result = visit(ch, a, seen);
		worst = result > worst ? result : worst;
	}
	return worst;
}

static bool case_chosen(const struct fault_case *fc, const struct bench_opts *o)
{
	return (fc->serve & o->serve) && (!fc->placement || o->place == PLACE_ALL);
}

static int visit_cases(const struct bench_opts *o, enum mem_kind mem, struct arena *a,
		       unsigned int *seen)
{
	int worst = EXIT_MEASURED;

	for (size_t i = 0; i < NCASES; i++)
		for (unsigned int p = PATTERN_SEQ; p <= PATTERN_RANDOM; p <<= 1) {
			struct chosen ch = { .fc = &cases[i], .o = o, .mem = mem };
			int result;

			if (!case_chosen(&cases[i], o) || !(cases[i].pattern & o->pattern & p))
				continue;
			ch.random = p == PATTERN_RANDOM;
			result = visit_writers(&ch, a, seen);
			worst = result > worst ? result : worst;
		}
	return worst;
}

static int run_on_memory(const struct bench_opts *o, enum mem_kind mem, size_t size,
			 unsigned int *seen)
{
	char title[128];
	struct arena *a;
	int err, result;

	if (o->list)
		return visit_cases(o, mem, NULL, seen);
	a = arena_new(mem, size, o->copy, &err);
	if (!a) {
		fprintf(stderr, "uffd-bench: %s memory: %s\n", mem_name(mem), strerror(-err));
		return EXIT_UNSUPPORTED;
	}
	snprintf(title, sizeof(title), "%s, %zu pages of %zu KiB, ns a page as its writer sees it",
		 mem_name(mem), a->pages, a->mem.page_size >> 10);
	report_header(title, o->json);
	result = visit_cases(o, mem, a, seen);
	arena_free(a);
	return result;
}

static int run_on_sizes(const struct bench_opts *o, enum mem_kind mem, unsigned int *seen)
{
	int worst = EXIT_MEASURED;

	for (size_t i = 0; i < (o->list ? 1 : o->nsizes); i++) {
		int result = run_on_memory(o, mem, o->sizes[i], seen);

		worst = result > worst ? result : worst;
	}
	return worst;
}

static int run(const struct bench_opts *o)
{
	int worst = EXIT_MEASURED;
	unsigned int seen = 0;

	bench_reserve_hugepages(o);
	for (unsigned int kind = 0; kind < MEM_KINDS; kind++)
		if (o->mem & 1u << kind) {
			int result = run_on_sizes(o, (enum mem_kind)kind, &seen);

			worst = result > worst ? result : worst;
		}
	if (bench_wants(o, "bookkeeping")) {
		int result = footprint_report(o);

		seen++;
		worst = result > worst ? result : worst;
	}
	return seen == 0 && worst == EXIT_MEASURED ? bench_no_case(o) : worst;
}

const struct bench_cmd bench_fault = {
	.name = "fault",
	.summary = "what a write to a protected page costs its writer",
	.mem = 1u << MEM_ANON,
	.size = 4UL << 20,
	.writers = 2,
	.run = run,
};
