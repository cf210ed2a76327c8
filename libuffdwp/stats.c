/* SPDX-License-Identifier: MIT */
/* Summing counters into the public struct. */
#include "stats.h"

_Static_assert(offsetof(struct uffdwp_stats, latency) - offsetof(struct uffdwp_stats, missing) ==
		       COUNTERS * sizeof(uint64_t),
	       "the counters stand in the order of struct uffdwp_stats");

void uffdwp__stats_add(struct uffdwp_stats *to, const struct uffdwp__stats *from)
{
	uint64_t *counter = &to->missing;

	for (int i = 0; i < COUNTERS; i++)
		counter[i] += uffdwp__counted(from, (enum uffdwp__counter)i);
	uffdwp__hist_add(&to->latency, &from->latency);
}
