/* SPDX-License-Identifier: MIT */
/* Making and ending a handle, for who opens or adopts one. */
#ifndef UFFDWP_HANDLE_H
#define UFFDWP_HANDLE_H

#include "core.h"

struct uffdwp *uffdwp__create(void);
void uffdwp__set_opts(struct uffdwp *h, const struct uffdwp_opts *o);
int uffdwp__start(struct uffdwp *h, const struct uffdwp_opts *o);

/* inert: in a forked child, where only memory and descriptors are ours. */
void uffdwp__destroy(struct uffdwp *h, bool inert);

#endif
