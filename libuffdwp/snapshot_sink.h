/* SPDX-License-Identifier: MIT */
/* From staging to the sink; all of it is the driver's. */
#ifndef UFFDWP_SNAPSHOT_SINK_H
#define UFFDWP_SNAPSHOT_SINK_H

#include "snapshot_core.h"

/*
 * Pages that lie in staging from unit on: zeros are found, the rest is written; gives the units
 * back.
 */
void uffdwp__snapshot_hand(struct uffdwp__part *p, uint64_t first, uint64_t n, uint32_t unit);
/* Pages that are zero. */
void uffdwp__snapshot_zero(struct uffdwp__part *p, uint64_t first, uint64_t n);
void uffdwp__snapshot_flush_zeros(struct uffdwp_snapshot *s);
/* What faults and the seal have queued, the oldest first, about so many bytes of it. Whether there was any. */
bool uffdwp__snapshot_hand_filled(struct uffdwp_snapshot *s, uint64_t most);
/* What the sink has finished. Whether there was any. */
bool uffdwp__snapshot_reap(struct uffdwp_snapshot *s);
/* Waits until something in flight is finished, at most so long. */
void uffdwp__snapshot_wait_sink(struct uffdwp_snapshot *s, unsigned int ms);
/* Waits until nothing is in flight. */
void uffdwp__snapshot_drain(struct uffdwp_snapshot *s);

#endif
