/* SPDX-License-Identifier: MIT */
/* Reading the memory that is watched, and making it present. */
#ifndef UFFDWP_ACCESS_H
#define UFFDWP_ACCESS_H

#include "core.h"

int uffdwp__populate_piece(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

#endif
