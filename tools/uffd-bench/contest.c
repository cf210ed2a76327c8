/* SPDX-License-Identifier: MIT */
/*
 * A contest of those who save pages: every side opens once, then they take turns on the same memory.
 */
#include <errno.h>
#include <stdio.h>

#include "side.h"

#define TURNS 5 /* of each side in a round */

static int open_sides(struct contest *c, struct arena *a, const struct writers *w, char *reason,
		      size_t size, unsigned int *opened)
{
	for (*opened = 0; *opened < c->play.sides; (*opened)++) {
		struct side *s = &c->side[*opened];
		int err;

		s->arena = a;
		s->writers = w;
		err = s->kind->open(s, reason, size);
		if (err)
			return err;
	}
	return 0;
}

static void add_served(struct contest *c, unsigned int i)
{
	for (int cpu = 0; cpu < BENCH_CPUS_MAX; cpu++)
		c->served[i][cpu] += c->side[i].arena->served[cpu].pages;
}

static void turn(void *ctx, unsigned int i, bool counted, double *ns)
{
	struct contest *c = ctx;
	struct side *s = &c->side[i];

	arena_begin(s->arena);
	s->kind->attach(s);
	*ns = writers_run(s->writers, &s->arena->mem, s->arena->generation);
	s->kind->detach(s);
	arena_verify(s->arena, s->kind->name);
	if (counted)
		add_served(c, i);
}

int contest_run(struct contest *c, struct arena *a, const struct writers *w, char *reason,
		size_t size)
{
	unsigned int opened;
	int err = open_sides(c, a, w, reason, size, &opened);

	c->play.figures = 1;
	c->play.turns = TURNS;
	c->play.turn = turn;
	c->play.ctx = c;
	if (!err)
		rounds_play(&c->play);
	for (unsigned int i = 0; !err && i < c->play.sides; i++)
		cpus_name(c->served[i], c->on[i], sizeof(c->on[i]));
	if (!err && c->side[0].kind->stats)
		c->side[0].kind->stats(&c->side[0], &c->stats);
	while (opened-- > 0)
		c->side[opened].kind->close(&c->side[opened]);
	return err;
}

void contest_free(struct contest *c)
{
	rounds_free(&c->play);
}
