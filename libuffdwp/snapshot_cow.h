/* SPDX-License-Identifier: MIT */
/* Copy on write; under the lock. */
#ifndef UFFDWP_SNAPSHOT_COW_H
#define UFFDWP_SNAPSHOT_COW_H

#include "snapshot_core.h"

int uffdwp__cow_arm(struct uffdwp_snapshot *s, bool again);
int uffdwp__cow_seal(struct uffdwp_snapshot *s, bool armed);
bool uffdwp__cow_sweep(
	struct uffdwp_snapshot *s); /* a chunk's worth; false: nothing could be done */
void uffdwp__cow_release(struct uffdwp_snapshot *s); /* whatever is protected still */

#endif
