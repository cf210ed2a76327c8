/* SPDX-License-Identifier: MIT */
/*
 * A contest: every side opens once, then they take turns on the same memory, A B A B. A round is a
 * few turns of each side and its figure their median, so that one turn in which the machine was busy
 * elsewhere does not count. A first round is not counted at all: it faults in stacks and tables, and
 * lets adaptive sides settle.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "side.h"

#define TURNS 5 /* of each side in a round */

static int open_sides(struct contest *c, struct arena *a, const struct writers *w, char *reason,
		      size_t size, unsigned int *opened)
{
	for (*opened = 0; *opened < c->sides; (*opened)++) {
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

static double turn(struct side *s)
{
	double ns;

	arena_begin(s->arena);
	s->kind->attach(s);
	ns = writers_run(s->writers, s->arena);
	s->kind->detach(s);
	arena_verify(s->arena, s->kind->name);
	return ns;
}

static void add_served(struct contest *c, unsigned int i)
{
	for (int cpu = 0; cpu < BENCH_CPUS_MAX; cpu++)
		c->served[i][cpu] += c->side[i].arena->served[cpu].pages;
}

static void play_round(struct contest *c, unsigned int round, bool counted)
{
	double ns[CONTEST_SIDES_MAX][TURNS];

	for (unsigned int t = 0; t < TURNS; t++)
		for (unsigned int i = 0; i < c->sides; i++) {
			ns[i][t] = turn(&c->side[i]);
			if (counted)
				add_served(c, i);
		}
	for (unsigned int i = 0; counted && i < c->sides; i++)
		c->ns[i][round] = spread_of(ns[i], TURNS).median;
}

static void play(struct contest *c)
{
	play_round(c, 0, false);
	for (unsigned int round = 0; round < c->rounds; round++)
		play_round(c, round, true);
}

/* The CPUs that served at least one page of twenty: less is the scheduler's accident. */
static void name_cpus(const unsigned long *served, char *out, size_t size)
{
	unsigned long sum = 0, used = 0;
	size_t at = 0;

	for (int cpu = 0; cpu < BENCH_CPUS_MAX; cpu++)
		sum += served[cpu];
	out[0] = '\0';
	for (int cpu = 0; cpu < BENCH_CPUS_MAX; cpu++) {
		if (served[cpu] == 0 || served[cpu] * 20 < sum)
			continue;
		used++;
		if (at < size)
			at += (size_t)snprintf(out + at, size - at, "%s%d", at ? "," : "", cpu);
	}
	if (at >= size || used > 4)
		snprintf(out, size, "%lu CPUs", used);
}

int contest_run(struct contest *c, struct arena *a, const struct writers *w, char *reason,
		size_t size)
{
	unsigned int opened;
	int err = open_sides(c, a, w, reason, size, &opened);

	for (unsigned int i = 0; !err && i < c->sides; i++) {
		c->ns[i] = calloc(c->rounds, sizeof(*c->ns[i]));
		if (!c->ns[i])
			die("memory", ENOMEM);
	}
	if (!err)
		play(c);
	for (unsigned int i = 0; !err && i < c->sides; i++)
		name_cpus(c->served[i], c->on[i], sizeof(c->on[i]));
	if (!err && c->side[0].kind->stats)
		c->side[0].kind->stats(&c->side[0], &c->stats);
	while (opened-- > 0)
		c->side[opened].kind->close(&c->side[opened]);
	return err;
}

void contest_free(struct contest *c)
{
	for (unsigned int i = 0; i < c->sides; i++)
		free(c->ns[i]);
}
