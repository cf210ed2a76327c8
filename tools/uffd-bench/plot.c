/* SPDX-License-Identifier: MIT */
/*
 * Writes a script for gnuplot into a pipe. Every value axis is logarithmic, because trackers differ by
 * factors, and axes of the same name have the same ends in all panels, so that panels can be compared. The
 * series whose names begin with "ours" have full lines and dots, the others dashes and rings, in colours
 * that colour-blind people can tell apart.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "plot.h"

#define PANELS_MAX 64
#define SERIES_MAX 12
#define POINTS_MAX 4096
#define TEXT_MAX 160

/* In pixels. */
#define HEAD 112
#define PANEL_HEIGHT 320
#define SIZES_WIDTH 330
#define CASES_WIDTH 720

struct point {
	unsigned int panel, series;
	double x;
	char tick[24];
	struct spread y;
};

struct panel {
	char title[TEXT_MAX], axis[TEXT_MAX];
};

struct plot {
	struct plot_form form;
	char path[1024], title[TEXT_MAX], subtitle[TEXT_MAX];
	struct panel panel[PANELS_MAX];
	char series[SERIES_MAX][TEXT_MAX];
	struct point point[POINTS_MAX];
	unsigned int npanels, nseries, npoints;
};

struct plot *plot_new(const char *path, const struct plot_form *form)
{
	struct plot *p = calloc(1, sizeof(*p));
	FILE *f = fopen(path, "ae");

	if (!p)
		die("memory", ENOMEM);
	if (!f || system("command -v gnuplot >/dev/null") != 0) {
		fprintf(stderr, "uffd-bench: --plot: %s\n", f ? "no gnuplot" : strerror(errno));
		if (f)
			fclose(f);
		free(p);
		return NULL;
	}
	fclose(f);
	p->form = *form;
	snprintf(p->path, sizeof(p->path), "%s", path);
	snprintf(p->title, sizeof(p->title), "%s", form->title);
	snprintf(p->subtitle, sizeof(p->subtitle), "%s", form->subtitle);
	return p;
}

void plot_free(struct plot *p)
{
	free(p);
}

static unsigned int find_panel(struct plot *p, const char *title, const char *axis)
{
	struct panel *panel;

	for (unsigned int i = 0; i < p->npanels; i++)
		if (strcmp(p->panel[i].title, title) == 0)
			return i;
	if (p->npanels == PANELS_MAX)
		die("panels of a plot", ENOSPC);
	panel = &p->panel[p->npanels];
	snprintf(panel->title, sizeof(panel->title), "%s", title);
	snprintf(panel->axis, sizeof(panel->axis), "%s", axis);
	return p->npanels++;
}

static unsigned int find_series(struct plot *p, const char *name)
{
	for (unsigned int i = 0; i < p->nseries; i++)
		if (strcmp(p->series[i], name) == 0)
			return i;
	if (p->nseries == SERIES_MAX)
		die("series of a plot", ENOSPC);
	snprintf(p->series[p->nseries], TEXT_MAX, "%s", name);
	return p->nseries++;
}

void plot_point(struct plot *p, const char *panel, const char *axis, const char *series, double x,
		const char *tick, const double *values, unsigned int n)
{
	double copy[BENCH_ROUNDS_MAX];
	struct point *pt = &p->point[p->npoints];

	if (p->npoints++ == POINTS_MAX)
		die("points of a plot", ENOSPC);
	memcpy(copy, values, n * sizeof(*copy));
	pt->panel = find_panel(p, panel, axis);
	pt->series = find_series(p, series);
	pt->x = x;
	snprintf(pt->tick, sizeof(pt->tick), "%s", tick);
	pt->y = spread_of(copy, n);
}

/* ---- The script ---- */

/* In quotes as gnuplot has them, with the characters of twice doubled. */
static void put_doubled(FILE *f, const char *text, const char *twice)
{
	putc('\'', f);
	for (; *text; text++) {
		if (strchr(twice, *text))
			putc(*text, f);
		putc(*text, f);
	}
	putc('\'', f);
}

static void put_text(FILE *f, const char *text)
{
	put_doubled(f, text, "'");
}

/* The nearest of 1, 2, 5, 10, 20, ... that is not above v, or the one after it. */
static double round_number(double v, bool up)
{
	static const double steps[] = { 1, 2, 5, 10 };
	double decade = 1e-6;
	int i = 0;

	while (decade * 10 <= v)
		decade *= 10;
	while (i < 3 && decade * steps[i + 1] <= v)
		i++;
	return decade * steps[up && i < 3 ? i + 1 : i];
}

static void put_range(FILE *f, const struct plot *p, const char *axis)
{
	double min = 0, max = 0;

	for (unsigned int i = 0; i < p->npoints; i++) {
		const struct point *pt = &p->point[i];

		if (strcmp(p->panel[pt->panel].axis, axis) != 0)
			continue;
		min = min == 0 || pt->y.min < min ? pt->y.min : min;
		max = pt->y.max > max ? pt->y.max : max;
	}
	/* Above the highest value is room for its number. */
	fprintf(f, "set yrange [%g:%g]\n", round_number(min, false), round_number(1.6 * max, true));
}

static bool is_ours(const char *series)
{
	return strncmp(series, "ours", 4) == 0;
}

/* Line style i + 1 is series i. */
static void put_styles(FILE *f, const struct plot *p)
{
	static const char *const ours[] = { "#0072b2", "#009e73", "#56b4e9", "#7b5ea7" };
	static const char *const theirs[] = { "#222222", "#d55e00", "#e69f00", "#cc79a7" };
	unsigned int n[2] = { 0, 0 };

	for (unsigned int i = 0; i < p->nseries; i++) {
		bool own = is_ours(p->series[i]);
		unsigned int k = n[own]++ % 4;

		fprintf(f, "set style line %u lc rgb '%s' lw %s dt %s pt %u ps 0.8\n", i + 1,
			own ? ours[k] : theirs[k], own ? "2.6" : "1.8", own ? "1" : "(6,4)",
			own ? 7u : 6u);
	}
}

/* Three digits are what the figures are worth. */
static void put_number(FILE *f, double v)
{
	double unit = 1;

	while (v / unit >= 1000)
		unit *= 10;
	v = unit > 1 ? (double)(long)(v / unit + 0.5) * unit : v;
	fprintf(f, v < 1 ? "%.2f" : v < 10 ? "%.1f" : "%.0f", v);
}

/* A block of "x median min max number" for each panel and series. Cases are spread around their x. */
static void put_data(FILE *f, const struct plot *p)
{
	double step = 0.84 / p->nseries;

	for (unsigned int k = 0; k < p->npanels * p->nseries; k++) {
		fprintf(f, "$d%u << END\n", k);
		for (unsigned int i = 0; i < p->npoints; i++) {
			const struct point *pt = &p->point[i];
			double aside = (pt->series - (p->nseries - 1) / 2.0) * step;

			if (pt->panel * p->nseries + pt->series != k)
				continue;
			fprintf(f, "%.10g %g %g %g ", pt->x + (p->form.sizes ? 0 : aside),
				pt->y.median, pt->y.min, pt->y.max);
			put_number(f, pt->y.median);
			putc('\n', f);
		}
		fprintf(f, "END\n");
	}
}

static bool has_points(const struct plot *p, unsigned int panel, unsigned int series)
{
	for (unsigned int i = 0; i < p->npoints; i++)
		if (p->point[i].panel == panel && p->point[i].series == series)
			return true;
	return false;
}

static void put_ticks(FILE *f, const struct plot *p, unsigned int panel)
{
	double min = 0, max = 0;
	const char *comma = "";

	fprintf(f, "set xtics nomirror scale 0 (");
	for (unsigned int i = 0; i < p->npoints; i++) {
		const struct point *pt = &p->point[i];

		if (pt->panel != panel)
			continue;
		min = *comma && min < pt->x ? min : pt->x;
		max = *comma && max > pt->x ? max : pt->x;
		fprintf(f, "%s", comma);
		put_doubled(f, pt->tick, "'%"); /* a tick's text is a format */
		fprintf(f, " %.10g", pt->x);
		comma = ",";
	}
	if (p->form.sizes)
		fprintf(f, ")\nset logscale x 2\nset xrange [%.10g:%.10g]\n", min / 1.2, max * 1.2);
	else
		fprintf(f, ")\nset xrange [%g:%g]\n", min - 0.5, max + 0.5);
}

static void put_curves(FILE *f, const struct plot *p, unsigned int panel)
{
	const char *comma = "plot ";

	for (unsigned int s = 0; s < p->nseries; s++) {
		unsigned int k = panel * p->nseries + s;

		if (!has_points(p, panel, s))
			continue;
		fprintf(f, "%s$d%u using 1:2:3:4 with yerrorbars ls %u lw 1.2 dt 1 notitle", comma,
			k, s + 1);
		comma = ", \\\n  ";
		if (p->form.sizes)
			fprintf(f, "%s$d%u using 1:2 with lines ls %u notitle", comma, k, s + 1);
		else
			fprintf(f,
				"%s$d%u using 1:4:5 with labels font ',11' offset 0,0.7 tc ls %u "
				"notitle",
				comma, k, s + 1);
	}
	putc('\n', f);
}

static void put_panel(FILE *f, const struct plot *p, unsigned int i, double height)
{
	unsigned int column = i % p->form.columns, row = i / p->form.columns;
	double w = 1.0 / p->form.columns, h = PANEL_HEIGHT / height;

	fprintf(f, "set origin %g,%g\nset size %g,%g\nset title ", column * w,
		1 - HEAD / height - (row + 1) * h, w, h);
	put_text(f, p->panel[i].title);
	fprintf(f, " font ',14' offset 0,-0.4\nset ylabel ");
	put_text(f, p->panel[i].axis);
	fprintf(f, " offset 1.2,0\n");
	put_range(f, p, p->panel[i].axis);
	put_ticks(f, p, i);
	put_curves(f, p, i);
}

/* Title, subtitle, and one legend for all panels. */
static void put_head(FILE *f, const struct plot *p, double height)
{
	fprintf(f, "set label 1 ");
	put_text(f, p->title);
	fprintf(f, " at screen 0.5,%g center font ',20'\nset label 2 ", 1 - 24 / height);
	put_text(f, p->subtitle);
	fprintf(f, " at screen 0.5,%g center font ',12' tc rgb '#555555'\n", 1 - 52 / height);
	fprintf(f, "set origin 0,%g\nset size 1,%g\n", 1 - HEAD / height, HEAD / height);
	fprintf(f,
		"unset border; unset tics; set yrange [0:1]; set xrange [0:1]\n"
		"set key at screen 0.5,%g center center horizontal samplen 2.5 width 1\nplot ",
		1 - 86 / height);
	for (unsigned int s = 0; s < p->nseries; s++) {
		fprintf(f, "%sNaN with %s ls %u title ", s ? ", " : "",
			p->form.sizes ? "linespoints" : "points", s + 1);
		put_text(f, p->series[s]);
	}
	fprintf(f, "\nunset label 1; unset label 2; unset key\n"
		   "set border 3 lc rgb '#888888'\nset logscale y\nset format y '%%g'\n"
		   "set ytics nomirror scale 0.6 textcolor rgb '#333333'\n"
		   "set grid ytics mytics lc rgb '#dddddd' lw 0.6, lc rgb '#eeeeee' lw 0.4\n"
		   "set lmargin 9.5\nset rmargin 1.5\nset tmargin 2.4\nset bmargin 2.6\n");
}

static void put_script(FILE *f, const struct plot *p)
{
	unsigned int rows = (p->npanels + p->form.columns - 1) / p->form.columns;
	double width = p->form.columns * (p->form.sizes ? SIZES_WIDTH : CASES_WIDTH);
	double height = HEAD + rows * PANEL_HEIGHT + 8;

	fprintf(f,
		"set terminal svg noenhanced size %g,%g font 'DejaVu Sans,12' background rgb 'white'\n"
		"set output ",
		width, height);
	put_text(f, p->path);
	fprintf(f, "\nset encoding utf8\n");
	put_styles(f, p);
	put_data(f, p);
	fprintf(f, "set multiplot\n");
	put_head(f, p, height);
	for (unsigned int i = 0; i < p->npanels; i++)
		put_panel(f, p, i, height);
	fprintf(f, "unset multiplot\n");
}

int plot_write(const struct plot *p)
{
	/* A gnuplot that ends early must not end this program: pclose() tells. */
	void (*old)(int) = signal(SIGPIPE, SIG_IGN);
	FILE *f = popen("gnuplot", "w");
	int status;

	if (!f)
		die("gnuplot", errno);
	put_script(f, p);
	status = pclose(f);
	signal(SIGPIPE, old);
	if (status == 0)
		return 0;
	fprintf(stderr, "uffd-bench: --plot: gnuplot failed\n");
	return -1;
}
