/* SPDX-License-Identifier: MIT */
/*
 * uffd-bench snapshot: what saving a program's memory as it was at one instant costs the program, and how
 * long it takes. The library's two strategies and their peers take turns on one memory under one load; a
 * turn gives every figure at once, and ends with a comparison of the whole image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "course.h"
#include "place.h"
#include "saver.h"
#include "side.h"

#define HOT 100		    /* one page of so many is written */
#define PACE 100000	    /* writes a second of a paced load */
#define BEFORE_US 300000    /* how long the load is watched before each turn, and after it */
#define SMALL (256UL << 20) /* what larger memory is compared with */
#define GIB (1UL << 30)

enum figure { PAUSE, KEPT, P50, P99, P999, LONGEST, SPEED, EXTRA, FIGURES };

static const struct {
	const char *name, *unit;
} figures[FIGURES] = {
	[PAUSE] = { "pause", "us" },	[KEPT] = { "kept", "%" },     [P50] = { "p50", "ns" },
	[P99] = { "p99", "ns" },	[P999] = { "p99.9", "ns" },   [LONGEST] = { "max", "us" },
	[SPEED] = { "image", "MiB/s" }, [EXTRA] = { "extra", "KiB" },
};

/* The library's first. */
static const struct saver *const savers[] = { &saver_cow, &saver_precopy, &saver_fork, &saver_all,
					      &saver_plain };

#define NSAVERS (sizeof(savers) / sizeof(savers[0]))

/* Which pairs are rows, and what they have to reach from which size on; without a text they inform. */
struct goal {
	enum figure figure;
	const struct saver *ours, *theirs; /* ours NULL: both */
	unsigned int pace;		   /* mask, 0: any */
	size_t size;
	double limit;
	const char *text;
};

static const struct goal goals[] = {
	{ PAUSE, &saver_cow, &saver_fork, PACE_PACED, 4 * GIB, 0.02, "<=0.02" },
	{ PAUSE, &saver_cow, &saver_fork, PACE_FULL, 4 * GIB, 0.2, "<=0.2" },
	{ PAUSE, &saver_precopy, &saver_fork, 0, 4 * GIB, 0.5, "<=0.5" },
	{ PAUSE, NULL, &saver_fork, 0, 0, 0, NULL },
	{ PAUSE, NULL, &saver_all, 0, 0, 0, NULL },
	{ KEPT, &saver_precopy, &saver_fork, PACE_FULL, 0, 1.3, ">=1.3" },
	{ KEPT, NULL, &saver_fork, PACE_FULL, 0, 0, NULL },
	{ P50, NULL, &saver_fork, 0, 0, 0, NULL },
	{ P99, &saver_precopy, &saver_fork, 0, 0, 1, "<=1" },
	{ P99, NULL, &saver_fork, 0, 0, 0, NULL },
	{ P999, NULL, &saver_fork, 0, 0, 0, NULL },
	{ LONGEST, &saver_cow, &saver_fork, 0, 0, 1, "<=1" },
	{ LONGEST, NULL, &saver_fork, 0, 0, 0, NULL },
	{ LONGEST, NULL, &saver_all, 0, 0, 0, NULL },
	{ SPEED, NULL, &saver_plain, 0, 0, 0.9, ">=0.9" },
	{ SPEED, NULL, &saver_fork, 0, 0, 0, NULL },
	{ EXTRA, NULL, &saver_fork, 0, 0, 1, "<=1" },
};

/* Memory under a load, and who takes turns to save it. */
struct show {
	const struct bench_opts *o;
	struct load *load, *small; /* small: of the scale case, whose turns are the second side's */
	const struct saver *side[NSAVERS];
	struct rounds play;
	struct place place;
	unsigned int pace;
	size_t size;
	char label[48]; /* memory, size, pace and place, in words */
	struct course *course;
};

/* ---- A turn ---- */

static _Noreturn void wrong(const struct saver *saver, const char *what)
{
	fprintf(stderr, "uffd-bench: wrong result: %s: %s\n", saver->name, what);
	exit(EXIT_WRONG);
}

static void check_image(const struct show *s, const struct saver *saver, const struct saving *got)
{
	struct load *l = got->load;
	int fd = open(s->place.path, O_RDONLY | O_CLOEXEC);
	uint64_t offset = 0;

	if (fd < 0)
		wrong(saver, "there is no image");
	if (saver->serve) {
		offset = image_offset(fd, (uintptr_t)l->mem.addr);
		if (offset == 0)
			wrong(saver, "the memory is not in the image");
	}
	if (!load_verify(l, fd, offset, saver->no_instant ? NULL : &got->at))
		wrong(saver, "the image is not what the memory was at the pause");
	close(fd);
	if (unlink(s->place.path))
		die(s->place.path, errno);
}

static double per_second(const struct load *l, enum load_phase phase, const struct load_hist *h)
{
	return (double)h->count / load_seconds(l, phase);
}

static void figure_out(const struct saving *got, double *figure)
{
	static struct load_hist before, during;
	const struct load *l = got->load;

	load_sum(l, LOAD_BEFORE, &before);
	load_sum(l, LOAD_DURING, &during);
	figure[PAUSE] = got->pause_ns / 1e3;
	figure[KEPT] = 100 * per_second(l, LOAD_DURING, &during) /
		       per_second(l, LOAD_BEFORE, &before);
	figure[P50] = load_percentile(&during, 50);
	figure[P99] = load_percentile(&during, 99);
	figure[P999] = load_percentile(&during, 99.9);
	figure[LONGEST] = (double)during.max / 1e3;
	figure[SPEED] = (double)(l->mem.size >> 20) / load_seconds(l, LOAD_DURING);
	figure[EXTRA] = got->extra_bytes / 1024;
}

static void turn(void *ctx, unsigned int i, bool counted, double *figure)
{
	struct show *s = ctx;
	const struct saver *saver = s->side[i];
	char reason[256] = "";
	struct saving got = { .load = i > 0 && s->small ? s->small : s->load,
			      .path = s->place.path,
			      .reason = reason,
			      .reason_size = sizeof(reason) };
	int err;

	load_make_whole(got.load);
	load_start(got.load);
	usleep(BEFORE_US);
	err = saver->save(&got);
	if (err) {
		fprintf(stderr, "uffd-bench: snapshot%s: unsupported: %s: %s (%s)\n", s->label,
			saver->name, strerror(-err), reason);
		exit(EXIT_UNSUPPORTED);
	}
	usleep(BEFORE_US);
	load_stop(got.load);
	figure_out(&got, figure);
	check_image(s, saver, &got);
	if (counted && s->course && !saver->no_instant)
		course_take(s->course, i, saver->name, got.load);
}

/* ---- Rows ---- */

static void name_row(const struct show *s, const char *figure, char *out, size_t size)
{
	snprintf(out, size, "%s%s", figure, s->label);
}

static bool applies(const struct show *s, const struct goal *g, const struct saver *ours)
{
	return (!g->ours || g->ours == ours) && (!g->pace || g->pace == s->pace) &&
	       (s->size >= g->size);
}

static void print_row(const struct show *s, const struct goal *g, const char *figure,
		      unsigned int ours, unsigned int theirs)
{
	struct writers w = { .count = s->load->writers };
	char name[80], on[16];
	struct row row = { .bench = "snapshot",
			   .name = name,
			   .serve = s->side[ours]->serve,
			   .peer = s->small ? "the small one" : s->side[theirs]->name,
			   .unit = figures[g->figure].unit,
			   .ours = s->play.value[ours][g->figure],
			   .theirs = s->play.value[theirs][g->figure],
			   .rounds = s->play.rounds,
			   .target = g->text,
			   .limit = g->limit,
			   .more = g->text && g->text[0] == '>',
			   .writers_on = on,
			   .ours_on = "any",
			   .theirs_on = "any" };

	name_row(s, figure, name, sizeof(name));
	if (!bench_wants(s->o, name))
		return;
	writers_name(&w, on, sizeof(on));
	report_row(&row, s->o->json);
}

static unsigned int find(const struct show *s, const struct saver *saver)
{
	unsigned int i = 0;

	while (i < s->play.sides && s->side[i] != saver)
		i++;
	return i;
}

/* The first goal of a pair that applies is its row. */
static bool told(const struct show *s, const struct goal *g, const struct saver *ours)
{
	for (const struct goal *e = goals; e < g; e++)
		if (e->figure == g->figure && e->theirs == g->theirs && applies(s, e, ours))
			return true;
	return false;
}

static void print_side(const struct show *s, unsigned int ours)
{
	char title[256];

	snprintf(title, sizeof(title),
		 "%s, %zu MiB, %u writers on %zu scattered pages, %s, image in %s (%s): %s",
		 mem_name(s->load->mem.kind), s->size >> 20, s->load->writers, s->load->hot,
		 s->pace == PACE_PACED ? "100000 writes a second" : "at full speed", s->place.dir,
		 s->place.type, s->side[ours]->name);
	report_header(title, s->o->json);
	for (size_t i = 0; i < sizeof(goals) / sizeof(goals[0]); i++) {
		unsigned int theirs = find(s, goals[i].theirs);

		if (theirs < s->play.sides && applies(s, &goals[i], s->side[ours]) &&
		    !told(s, &goals[i], s->side[ours]))
			print_row(s, &goals[i], figures[goals[i].figure].name, ours, theirs);
	}
}

/* ---- Contests ---- */

static void name_show(struct show *s, enum mem_kind kind, unsigned int writers, const char *small)
{
	static const char *const places[] = { [TO_TMPFS] = "tmpfs", [TO_DISK] = "disk" };
	size_t mib = s->size >> 20;
	char crowd[16] = "", size[24];

	snprintf(size, sizeof(size), mib % 1024 ? "%zuM" : "%zuG", mib % 1024 ? mib : mib >> 10);
	if (writers > 1)
		snprintf(crowd, sizeof(crowd), " %uw", writers);
	snprintf(s->label, sizeof(s->label), "%s%s %s%s%s %s %s", kind == MEM_ANON ? "" : " ",
		 kind == MEM_ANON ? "" : mem_name(kind), small, size, crowd,
		 s->pace == PACE_PACED ? "paced" : "full", places[s->place.to]);
}

static struct load *load_of(const struct show *s, enum mem_kind kind, size_t size, size_t hot,
			    unsigned int writers)
{
	int err;
	struct load *l = load_new(kind, size, hot, writers, &err);

	if (!l) {
		fprintf(stderr, "uffd-bench: snapshot%s: unsupported: %s memory: %s\n", s->label,
			mem_name(kind), strerror(-err));
		return NULL;
	}
	l->rate = s->pace == PACE_PACED ? PACE : 0;
	return l;
}

static void play(struct show *s, unsigned int sides)
{
	s->play = (struct rounds){ .sides = sides,
				   .figures = FIGURES,
				   .rounds = s->o->rounds,
				   .turns = 1,
				   .turn = turn,
				   .ctx = s };
	rounds_play(&s->play);
}

/* All savers on one memory. */
static int contest(struct show *s, enum mem_kind kind, unsigned int writers)
{
	unsigned int sides = 0;

	s->load = load_of(s, kind, s->size, s->size / LOAD_PAGE / HOT, writers);
	if (!s->load)
		return EXIT_UNSUPPORTED;
	/* A forked child has shared memory as it will be, not as it was. */
	for (size_t i = 0; i < NSAVERS; i++)
		if (savers[i] != &saver_fork || kind != MEM_SHMEM)
			s->side[sides++] = savers[i];
	play(s, sides);
	for (unsigned int i = 0; i < s->play.sides && s->side[i]->serve; i++)
		print_side(s, i);
	for (unsigned int i = 0; s->course && i < s->play.sides; i++)
		if (!s->side[i]->no_instant)
			course_pause(s->course, i, s->side[i]->name, s->play.value[i][PAUSE],
				     s->play.rounds);
	return EXIT_MEASURED;
}

/* The pause of much memory against that of little, with as many pages written. */
static int scale(struct show *s, enum mem_kind kind, unsigned int writers)
{
	static const struct goal goal = { PAUSE, NULL, NULL, 0, 0, 1.5, "<=1.5" };

	s->load = load_of(s, kind, s->size, SMALL / LOAD_PAGE / HOT, writers);
	s->small = load_of(s, kind, SMALL, SMALL / LOAD_PAGE / HOT, writers);
	if (!s->load || !s->small)
		return EXIT_UNSUPPORTED;
	s->side[0] = s->side[1] = &saver_cow;
	play(s, 2);
	report_header("the pause of cow with the same hot pages in much memory and in 256 MiB",
		      s->o->json);
	print_row(s, &goal, "scale", 0, 1);
	return EXIT_MEASURED;
}

static bool has_row(const struct show *s, unsigned int figure)
{
	for (size_t i = 0; i < sizeof(goals) / sizeof(goals[0]); i++)
		if (goals[i].figure == figure && applies(s, &goals[i], goals[i].ours))
			return true;
	return false;
}

/* True if the filter wants one of the rows that the contest would give. */
static bool wanted(const struct show *s, bool scaling)
{
	bool any = false;

	for (unsigned int f = 0; f < (scaling ? 1 : FIGURES); f++) {
		char name[80];

		name_row(s, scaling ? "scale" : figures[f].name, name, sizeof(name));
		if (!has_row(s, f) || !bench_wants(s->o, name))
			continue;
		any = true;
		if (s->o->list)
			printf("%s\n", name);
	}
	return any;
}

static int visit(struct show *s, enum mem_kind kind, unsigned int writers, bool scaling,
		 unsigned int *seen)
{
	int result = EXIT_MEASURED;
	unsigned int to = s->place.to;

	name_show(s, kind, writers, scaling ? "256M-" : "");
	if (!wanted(s, scaling))
		return result;
	(*seen)++;
	if (s->o->list)
		return result;
	if (!place_find(&s->place, to, s->o, s->size + (64UL << 20)))
		return EXIT_UNSUPPORTED;
	result = (scaling ? scale : contest)(s, kind, writers);
	rounds_free(&s->play);
	load_free(s->load);
	load_free(s->small);
	place_leave();
	return result;
}

/* ---- The command ---- */

static int visit_paces(const struct bench_opts *o, enum mem_kind kind, unsigned int writers,
		       size_t size, unsigned int to, struct course *course, unsigned int *seen)
{
	int worst = EXIT_MEASURED;

	for (unsigned int pace = PACE_PACED; pace <= PACE_FULL; pace <<= 1)
		for (int scaling = 0; (o->pace & pace) && scaling <= (size > SMALL); scaling++) {
			struct show s = { .o = o, .size = size, .pace = pace, .place.to = to };
			int result;

			if (course && !scaling &&
			    course_wants(course, kind, writers, to, pace, size))
				s.course = course;
			result = visit(&s, kind, writers, scaling, seen);
			worst = result > worst ? result : worst;
		}
	return worst;
}

static int visit_all(const struct bench_opts *o, struct course *course, unsigned int *seen)
{
	int worst = EXIT_MEASURED;

	for (unsigned int kind = 0; kind < MEM_KINDS; kind++)
		for (size_t w = 0; (o->mem & 1u << kind) && w < o->nwriters; w++)
			for (unsigned int to = TO_TMPFS; to <= TO_DISK; to <<= 1)
				for (size_t i = 0; (o->to & to) && i < o->nsizes; i++) {
					int result = visit_paces(o, (enum mem_kind)kind,
								 o->writers[w], o->sizes[i], to,
								 course, seen);

					worst = result > worst ? result : worst;
				}
	return worst;
}

static int run(const struct bench_opts *o)
{
	struct course *course = NULL;
	unsigned int seen = 0;
	int worst;

	if (!load_can(o))
		return EXIT_MISUSE;
	if (o->plot && !o->list && !(course = course_new(o->plot, o->rounds)))
		return EXIT_HARNESS;
	worst = visit_all(o, course, &seen);
	if (course && seen > 0 && course_write(course) && worst == EXIT_MEASURED)
		worst = EXIT_HARNESS;
	course_free(course);
	return seen == 0 && worst == EXIT_MEASURED ? bench_no_case(o) : worst;
}

const struct bench_cmd bench_snapshot = {
	.name = "snapshot",
	.summary = "what it costs a program to be saved while it runs",
	.run = run,
	.mem = 1u << MEM_ANON,
	.size = 1UL << 30,
	.writers = 1,
	.plots = true,
};
