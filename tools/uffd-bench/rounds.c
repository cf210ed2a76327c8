/* SPDX-License-Identifier: MIT */
/*
 * Who takes turns with whom: A B A B, whatever a turn is. A round is a few turns of each side and its
 * figures their medians, so that one turn in which the machine was busy elsewhere does not count. A
 * first round is not counted at all: it faults in stacks and tables, and lets adaptive sides settle.
 */
#include <errno.h>
#include <stdlib.h>

#include "bench.h"

static void play_round(struct rounds *r, unsigned int round, bool counted)
{
	static double got[ROUNDS_SIDES_MAX][ROUNDS_FIGURES_MAX][ROUNDS_TURNS_MAX];
	double figures[ROUNDS_FIGURES_MAX];

	for (unsigned int t = 0; t < r->turns; t++)
		for (unsigned int i = 0; i < r->sides; i++) {
			r->turn(r->ctx, i, counted, figures);
			for (unsigned int f = 0; f < r->figures; f++)
				got[i][f][t] = figures[f];
		}
	for (unsigned int i = 0; counted && i < r->sides; i++)
		for (unsigned int f = 0; f < r->figures; f++)
			r->value[i][f][round] = spread_of(got[i][f], r->turns).median;
}

void rounds_play(struct rounds *r)
{
	for (unsigned int i = 0; i < r->sides; i++)
		for (unsigned int f = 0; f < r->figures; f++) {
			r->value[i][f] = calloc(r->rounds, sizeof(double));
			if (!r->value[i][f])
				die("memory", ENOMEM);
		}
	play_round(r, 0, false);
	for (unsigned int round = 0; round < r->rounds; round++)
		play_round(r, round, true);
}

void rounds_free(struct rounds *r)
{
	for (unsigned int i = 0; i < r->sides; i++)
		for (unsigned int f = 0; f < r->figures; f++)
			free(r->value[i][f]);
}
