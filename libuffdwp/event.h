/* SPDX-License-Identifier: MIT */
/* Events: the address space changed, and the books and the operations follow. */
#ifndef UFFDWP_EVENT_H
#define UFFDWP_EVENT_H

#include "fault.h"

/* Not in a reader section. */
void uffdwp__serve_event(struct uffdwp__server *s, const struct uffd_msg *m);

/*
 * Makes an unstarted handle for what fork(2) duplicated, with the regions of the parent; owns fd on success. In
 * handle.c's charge, as every handle.
 */
int uffdwp__child(struct uffdwp *parent, int fd, struct uffdwp **out);

#endif
