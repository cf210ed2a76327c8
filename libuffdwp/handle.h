/* SPDX-License-Identifier: MIT */
/* Making and ending a handle, for who opens or adopts one; and waiting for what it has read. */
#ifndef UFFDWP_HANDLE_H
#define UFFDWP_HANDLE_H

#include "core.h"

struct uffdwp *uffdwp__create(void);
void uffdwp__set_opts(struct uffdwp *h, const struct uffdwp_opts *o);
int uffdwp__start(struct uffdwp *h, const struct uffdwp_opts *o);

/* inert: in a forked child, where only memory and descriptors are ours. */
void uffdwp__destroy(struct uffdwp *h, bool inert);

/*
 * Who caused an event goes on as soon as it is read, and nobody knows of it before it is carried out: by another
 * thread, or, where callers serve, by this one. False: not within `limit` ns.
 */
bool uffdwp__settle(struct uffdwp *h, uint64_t limit);

#endif
