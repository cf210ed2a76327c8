/* SPDX-License-Identifier: MIT */
/* Summing counters into the public struct. */
#include "stats.h"

_Static_assert(offsetof(struct uffdwp_stats, latency) - offsetof(struct uffdwp_stats, missing) ==
		       COUNT_SINGLES * sizeof(uint64_t),
	       "the counters stand in the order of struct uffdwp_stats");

void uffdwp__stats_add(struct uffdwp_stats *to, const struct uffdwp__stats *from)
{
	uint64_t *counter = &to->missing, singles = uffdwp__counted(from, COUNT_SINGLES);

	for (int i = 0; i < COUNT_SINGLES; i++)
		counter[i] += uffdwp__counted(from, (enum uffdwp__counter)i);
	to->op_calls += singles;
	to->op_pages += singles;
	to->resolves += singles;
	uffdwp__hist_add(&to->latency, &from->latency);
}
