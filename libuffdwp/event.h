/* SPDX-License-Identifier: MIT */
/* Events: the address space changed, and the books and the operations follow. */
#ifndef UFFDWP_EVENT_H
#define UFFDWP_EVENT_H

#include "core.h"

/* Not in a reader section. */
void uffdwp__serve_event(struct uffdwp *h, struct uffdwp__stats *st, const struct uffd_msg *m);

#endif
