/* SPDX-License-Identifier: MIT */
/* Precopy; under the lock. */
#ifndef UFFDWP_SNAPSHOT_PRECOPY_H
#define UFFDWP_SNAPSHOT_PRECOPY_H

#include "snapshot_core.h"

int uffdwp__precopy_arm(struct uffdwp_snapshot *s, bool again);
int uffdwp__precopy_seal(struct uffdwp_snapshot *s, bool armed);

#endif
