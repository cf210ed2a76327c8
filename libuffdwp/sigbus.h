/* SPDX-License-Identifier: MIT */
/* Serving inside the faulting thread, by SIGBUS. */
#ifndef UFFDWP_SIGBUS_H
#define UFFDWP_SIGBUS_H

#include "core.h"

int uffdwp__sigbus_add(
	struct uffdwp *h); /* -EMFILE: UFFDWP__SIGBUS_MAX handles are served so already */
void uffdwp__sigbus_remove(struct uffdwp *h); /* when it returns no handler is in h any more */
void uffdwp__sigbus_drop(struct uffdwp *h);   /* in a forked child */

#define UFFDWP__SIGBUS_MAX 64

#endif
