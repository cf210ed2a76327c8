/* SPDX-License-Identifier: MIT */
/*
 * The picture of uffd-bench snapshot: for each pace of the load, the pause against the size of the memory,
 * and below it the longest write in each moment before, during and after a snapshot of the largest
 * memory. Drawn by gnuplot, as SVG.
 */
#ifndef COURSE_H
#define COURSE_H

#include "load.h"

struct course;

/* NULL, after having said why on stderr: no gnuplot, or path can not be written. */
struct course *course_new(const char *path, unsigned int rounds);
void course_free(struct course *c);

/* What follows is about this. False if the picture is of another memory or place: of the first only. */
bool course_wants(struct course *c, enum mem_kind kind, unsigned int writers, unsigned int to,
		  unsigned int pace, size_t size);
/* The load's last turn, under a side; it replaces the side's turn before, and that of smaller memory. */
void course_take(struct course *c, unsigned int side, const char *name, const struct load *l);
void course_pause(struct course *c, unsigned int side, const char *name, const double *us,
		  unsigned int n);

/* 0, or -1 after having said why on stderr. */
int course_write(const struct course *c);

#endif
