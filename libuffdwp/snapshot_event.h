/* SPDX-License-Identifier: MIT */
/* What happens to the address space during a snapshot. */
#ifndef UFFDWP_SNAPSHOT_EVENT_H
#define UFFDWP_SNAPSHOT_EVENT_H

#include "snapshot_core.h"

/* The event operation of the layer. */
void uffdwp__snapshot_event(struct uffdwp__layer *l, const struct uffdwp_event *e);

#endif
