/* SPDX-License-Identifier: MIT */
/*
 * Pictures of results: panels that show each series against a size, or side by side for a few cases,
 * drawn by gnuplot as SVG. Panels and series are named by their text, and appear in the order in which
 * they were first mentioned.
 */
#ifndef PLOT_H
#define PLOT_H

#include <stdbool.h>

struct plot;

struct plot_form {
	const char *title, *subtitle;
	unsigned int columns; /* panels side by side */
	bool sizes;	      /* x is a number of bytes; else a case's, from 0 on */
};

/* NULL, after having said why on stderr: no gnuplot, or path can not be written. */
struct plot *plot_new(const char *path, const struct plot_form *form);
void plot_free(struct plot *p);

/* The median, smallest and greatest of n values, at x, which is called tick. */
void plot_point(struct plot *p, const char *panel, const char *axis, const char *series, double x,
		const char *tick, const double *values, unsigned int n);

/* 0, or -1 after having said why on stderr. */
int plot_write(const struct plot *p);

#endif
