/* SPDX-License-Identifier: MIT */
/* Serving by threads. */
#ifndef UFFDWP_POOL_H
#define UFFDWP_POOL_H

#include "core.h"

/* Starts h->threads threads. 0 or -errno; then none is left. */
int uffdwp__pool_start(struct uffdwp *h, const int *cpus, size_t ncpus);

/* Ends them after what they are doing, and waits for it. */
void uffdwp__pool_stop(struct uffdwp *h);

/* In a forked child, where the threads are not: frees what is the child's copy. */
void uffdwp__pool_drop(struct uffdwp *h);

/* NULL: no such worker. */
const struct uffdwp__stats *uffdwp__pool_stats(const struct uffdwp *h, uint32_t worker);

#endif
