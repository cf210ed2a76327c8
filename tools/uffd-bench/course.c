/* SPDX-License-Identifier: MIT */
/*
 * Writes a script for gnuplot into a pipe. The longest write of a moment is drawn, not the mean: what is to be
 * seen is how long the program stood still, and a mean hides it. The colours can be told apart by
 * colour-blind people.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "course.h"

#define SIDES_MAX 5
#define SIZES_MAX BENCH_SIZES_MAX
#define MOMENTS 480u /* of a course, at most */
#define BEFORE_MS 100u
#define AFTER_MS 200u
/* In pixels. */
#define WIDTH 660
#define HEAD 92.0
#define PANEL 320.0
#define TITLE 40.0
#define STRIP 104.0
#define FOOT 26.0

struct line {
	char name[32];
	struct spread pause[SIZES_MAX];
	bool has[SIZES_MAX];
	/* Of the largest memory. */
	float *ms; /* the longest write of each millisecond, in us, from BEFORE_MS before the snapshot */
	size_t nms, end; /* end: when the image was complete */
};

/* Of one pace. */
struct column {
	struct line line[SIDES_MAX];
	size_t size[SIZES_MAX], nsizes, largest;
	bool used;
};

struct course {
	char path[1024];
	unsigned int rounds;
	bool chosen;
	enum mem_kind kind;
	unsigned int writers, to;
	struct column column[2], *now;
	size_t size;
};

struct course *course_new(const char *path, unsigned int rounds)
{
	struct course *c = calloc(1, sizeof(*c));
	FILE *f = fopen(path, "ae");

	if (!c)
		die("memory", ENOMEM);
	if (!f || system("command -v gnuplot >/dev/null") != 0) {
		fprintf(stderr, "uffd-bench: --plot: %s\n", f ? "no gnuplot" : strerror(errno));
		if (f)
			fclose(f);
		free(c);
		return NULL;
	}
	fclose(f);
	snprintf(c->path, sizeof(c->path), "%s", path);
	c->rounds = rounds;
	return c;
}

void course_free(struct course *c)
{
	if (!c)
		return;
	for (unsigned int i = 0; i < 2 * SIDES_MAX; i++)
		free(c->column[i / SIDES_MAX].line[i % SIDES_MAX].ms);
	free(c);
}

bool course_wants(struct course *c, enum mem_kind kind, unsigned int writers, unsigned int to,
		  unsigned int pace, size_t size)
{
	if (!c->chosen) {
		c->chosen = true;
		c->kind = kind;
		c->writers = writers;
		c->to = to;
	}
	if (c->kind != kind || c->writers != writers || c->to != to)
		return false;
	c->now = &c->column[pace == PACE_FULL];
	c->size = size;
	return true;
}

void course_take(struct course *c, unsigned int side, const char *name, const struct load *l)
{
	struct line *line = &c->now->line[side];
	size_t from = (l->entered[LOAD_DURING] - l->began) / LOAD_BIN_NS;
	size_t to = (l->entered[LOAD_AFTER] - l->began) / LOAD_BIN_NS + AFTER_MS;

	if (c->size < c->now->largest)
		return;
	c->now->largest = c->size;
	from = from > BEFORE_MS ? from - BEFORE_MS : 0;
	to = to < LOAD_BINS ? to : LOAD_BINS;
	snprintf(line->name, sizeof(line->name), "%s", name);
	free(line->ms);
	line->nms = to - from;
	line->end = line->nms - AFTER_MS;
	line->ms = calloc(line->nms, sizeof(*line->ms));
	if (!line->ms)
		die("memory", ENOMEM);
	/* Where no write ended, the one that ended next was under way. */
	for (size_t i = line->nms; i-- > 0;) {
		struct load_bin bin = load_bin(l, from + i);

		line->ms[i] = bin.writes || i + 1 == line->nms ? (float)bin.max_ns / 1e3f
							       : line->ms[i + 1];
	}
}

void course_pause(struct course *c, unsigned int side, const char *name, const double *us,
		  unsigned int n)
{
	struct column *now = c->now;
	double copy[BENCH_ROUNDS_MAX];
	size_t i = 0;

	while (i < now->nsizes && now->size[i] != c->size)
		i++;
	if (i == SIZES_MAX)
		return;
	now->nsizes = i == now->nsizes ? i + 1 : now->nsizes;
	now->size[i] = c->size;
	now->used = true;
	memcpy(copy, us, n * sizeof(*us));
	snprintf(now->line[side].name, sizeof(now->line[side].name), "%s", name);
	now->line[side].pause[i] = spread_of(copy, n);
	now->line[side].has[i] = true;
}

/* ---- The script ---- */

/* Where to draw, in parts of the whole; height in pixels. */
struct frame {
	double x, y, w, height;
	unsigned int last; /* the strip at the bottom */
};

static void put_pause_data(FILE *f, const struct column *c, unsigned int nr)
{
	for (unsigned int s = 0; s < SIDES_MAX; s++) {
		if (!c->line[s].name[0])
			continue;
		fprintf(f, "$p%u_%u << END\n", nr, s);
		for (size_t i = 0; i < c->nsizes; i++)
			if (c->line[s].has[i])
				fprintf(f, "%zu %g %g %g\n", c->size[i] >> 20,
					c->line[s].pause[i].median / 1e3,
					c->line[s].pause[i].min / 1e3,
					c->line[s].pause[i].max / 1e3);
		fprintf(f, "END\n");
	}
}

static size_t longest(const struct column *c)
{
	size_t most = 0;

	for (unsigned int s = 0; s < SIDES_MAX; s++)
		most = most > c->line[s].nms ? most : c->line[s].nms;
	return most;
}

/* Where the axis ends. */
static double top(const struct column *c)
{
	float max = 1;

	for (unsigned int s = 0; s < SIDES_MAX; s++)
		for (size_t i = 0; i < c->line[s].nms; i++)
			max = max > c->line[s].ms[i] ? max : c->line[s].ms[i];
	return (double)max;
}

/* A moment is as many milliseconds as make MOMENTS of them; what it shows is the longest of all. */
static void put_course_data(FILE *f, const struct column *c, unsigned int nr)
{
	size_t step = longest(c) / MOMENTS + 1;

	for (unsigned int s = 0; s < SIDES_MAX; s++) {
		const struct line *line = &c->line[s];

		if (!line->ms)
			continue;
		fprintf(f, "$c%u_%u << END\n", nr, s);
		for (size_t i = 0; i < line->nms; i += step) {
			float max = 0;

			for (size_t k = i; k < i + step && k < line->nms; k++)
				max = max > line->ms[k] ? max : line->ms[k];
			fprintf(f, "%g %g\n", ((double)i - BEFORE_MS) / 1e3, (double)max);
		}
		fprintf(f, "END\n");
	}
}

static void put_sizes(FILE *f, const struct column *c)
{
	size_t min = c->size[0], max = min;

	fprintf(f, "set xtics nomirror scale 0 (");
	for (size_t i = 0; i < c->nsizes; i++) {
		size_t mib = c->size[i] >> 20;

		min = min < c->size[i] ? min : c->size[i];
		max = max > c->size[i] ? max : c->size[i];
		fprintf(f, mib % 1024 ? "%s'%zu MiB' %zu" : "%s'%zu GiB' %zu", i ? "," : "",
			mib % 1024 ? mib : mib >> 10, mib);
	}
	fprintf(f, ")\nset logscale x 2\nset xrange [%g:%g]\n", (double)(min >> 20) / 1.3,
		(double)(max >> 20) * 1.3);
}

static void put_pause(FILE *f, const struct column *c, unsigned int nr, const char *pace,
		      unsigned int rounds)
{
	const char *comma = "plot ";

	put_sizes(f, c);
	fprintf(f,
		"set title 'The pause, by the size of the memory, %s'\nset ylabel 'ms' offset 1,0\n"
		"set xlabel 'medians of %u rounds, with min to max' offset 0,0.6 tc rgb '#555555'\n"
		"set yrange [*:*]\n",
		pace, rounds);
	for (unsigned int s = 0; s < SIDES_MAX; s++)
		if (c->line[s].name[0]) {
			fprintf(f,
				"%s$p%u_%u using 1:2:3:4 with yerrorbars ls %u notitle, "
				"$p%u_%u using 1:2 with lines ls %u notitle",
				comma, nr, s, s + 1, nr, s, s + 1);
			comma = ", \\\n  ";
		}
	fprintf(f, "\nunset logscale x\nset xlabel\n");
}

/* One below the other, so that none hides another. All have the same axes. */
static void put_course(FILE *f, const struct column *c, unsigned int nr, const char *pace,
		       const struct frame *at)
{
	double h = STRIP / at->height, y = at->y - h;
	bool first = true;

	fprintf(f, "set xrange [%g:%g]\nset yrange [0.03:%g]\nset ylabel\nset ytics (%s)\n",
		-(double)BEFORE_MS / 1e3, ((double)longest(c) - BEFORE_MS) / 1e3, top(c) * 30,
		"'1 µs' 1, '100 µs' 100, '10 ms' 1e4, '1 s' 1e6");
	for (unsigned int s = 0; s < SIDES_MAX; s++) {
		const struct line *line = &c->line[s];
		double end = ((double)line->end - BEFORE_MS) / 1e3;

		if (!line->ms)
			continue;
		fprintf(f, "set origin %g,%g\nset size %g,%g\nset tmargin %g\nset bmargin 0.6\n",
			at->x, y, at->w, h + (first ? TITLE / at->height : 0), first ? 2.4 : 0.4);
		if (first)
			fprintf(f,
				"set title 'The longest write at each moment of a snapshot of %zu MiB, %s'\n",
				c->largest >> 20, pace);
		fprintf(f,
			"set xtics nomirror scale 0.4 autofreq format '%s'\n"
			"set arrow 1 from 0,graph 0 to 0,graph 1 nohead lc rgb '#666666' dt 3\n"
			"set arrow 2 from %g,graph 0 to %g,graph 1 nohead lc rgb '#666666' dt 3\n"
			"set label 3 '%s' at graph 0.99,graph 0.87 right tc ls %u font ',12' front\n"
			"plot $c%u_%u using 1:2 with fillsteps ls %u fs solid 0.35 noborder notitle, "
			"$c%u_%u using 1:2 with steps ls %u lw 1 notitle\n",
			at->last == s ? "%g s" : "", end, end, line->name, s + 1, nr, s, s + 1, nr,
			s, s + 1);
		fprintf(f, "unset title\nunset label 3\nunset arrow 1\nunset arrow 2\n");
		first = false;
		y -= h;
	}
	fprintf(f,
		"set tmargin 2.4\nset bmargin 3.2\nset ytics autofreq\nset xtics format '%%g'\n");
}

static void put_head(FILE *f, const struct course *c, double width, double height)
{
	static const char *const colours[SIDES_MAX] = { "#0072B2", "#009E73", "#D55E00", "#8c8c8c",
							"#CC79A7" };
	const struct column *any = c->column[0].used ? &c->column[0] : &c->column[1];
	const char *comma = "plot ";

	fprintf(f,
		"set terminal svg noenhanced size %g,%g font 'DejaVu Sans,12' background rgb 'white'\n",
		width, height);
	fprintf(f, "set output '%s'\nset encoding utf8\nset samples 2\n", c->path);
	for (unsigned int s = 0; s < SIDES_MAX; s++)
		fprintf(f, "set style line %u lc rgb '%s' lw 2 pt 7 ps 0.6\n", s + 1, colours[s]);
	put_pause_data(f, &c->column[0], 0);
	put_pause_data(f, &c->column[1], 1);
	put_course_data(f, &c->column[0], 0);
	put_course_data(f, &c->column[1], 1);
	fprintf(f,
		"set multiplot\nset label 1 'A snapshot of a running program' at screen 0.5,%g center "
		"font ',20'\nset label 2 '%s, 1 %% of them hot, %u writing; image on %s; less is better' "
		"at screen 0.5,%g center font ',12' tc rgb '#555555'\n",
		1 - 22 / height, c->kind == MEM_ANON ? "4 KiB pages" : mem_name(c->kind),
		c->writers, c->to == TO_TMPFS ? "tmpfs" : "disk", 1 - 48 / height);
	fprintf(f,
		"set origin 0,%g\nset size 1,%g\nunset border; unset tics; set yrange [0:1]; set "
		"xrange [0:1]\nset key at screen 0.5,%g center center horizontal samplen 2.5 width 1\n",
		1 - HEAD / height, HEAD / height, 1 - 76 / height);
	for (unsigned int s = 0; s < SIDES_MAX; s++)
		if (any->line[s].name[0]) {
			fprintf(f, "%sNaN with linespoints ls %u title '%s'", comma, s + 1,
				any->line[s].name);
			comma = ", ";
		}
	fprintf(f, "\nunset label 1; unset label 2; unset key\nset border 3 lc rgb '#888888'\n"
		   "set logscale y\nset ytics nomirror scale 0.6 textcolor rgb '#333333'\n"
		   "set format y '%%g'\nset grid ytics lc rgb '#dddddd' lw 0.6\n"
		   "set lmargin 9\nset rmargin 2\nset tmargin 2.4\nset bmargin 3.2\n");
}

static unsigned int strips(const struct column *c, unsigned int *last)
{
	unsigned int n = 0;

	for (unsigned int s = 0; s < SIDES_MAX; s++)
		if (c->line[s].ms) {
			n++;
			*last = s;
		}
	return n;
}

static void put_script(FILE *f, const struct course *c)
{
	static const char *const paces[] = { "100000 writes a second", "writers at full speed" };
	unsigned int columns = c->column[0].used + c->column[1].used, last = 0, n = 0, nr = 0;
	struct frame at = { .w = 1.0 / columns };

	for (unsigned int i = 0; i < 2; i++) {
		unsigned int k = strips(&c->column[i], &last);

		n = n > k ? n : k;
	}
	at.last = last;
	at.height = HEAD + PANEL + TITLE + n * STRIP + FOOT;
	put_head(f, c, columns * WIDTH, at.height);
	for (unsigned int i = 0; i < 2; i++) {
		if (!c->column[i].used)
			continue;
		at.x = (double)nr++ / columns;
		at.y = 1 - (HEAD + PANEL) / at.height;
		fprintf(f, "set size %g,%g\nset origin %g,%g\n", at.w, PANEL / at.height, at.x,
			at.y);
		put_pause(f, &c->column[i], i, paces[i], c->rounds);
		at.y -= TITLE / at.height;
		put_course(f, &c->column[i], i, paces[i], &at);
	}
	fprintf(f, "unset multiplot\n");
}

int course_write(const struct course *c)
{
	/* A gnuplot that ends early must not end this program: pclose() tells. */
	void (*old)(int) = signal(SIGPIPE, SIG_IGN);
	FILE *f = popen("gnuplot", "w");
	int status;

	if (!f)
		die("gnuplot", errno);
	if (c->column[0].used || c->column[1].used)
		put_script(f, c);
	status = pclose(f);
	signal(SIGPIPE, old);
	if (status == 0)
		return 0;
	fprintf(stderr, "uffd-bench: --plot: gnuplot failed\n");
	return -1;
}
