/* SPDX-License-Identifier: MIT */
/*
 * Log-linear histogram: values below 8 have a bucket each, every octave above has eight; so a
 * bucket is at most an eighth of its value wide. Recorded by one thread, read by any.
 */
#ifndef UFFDWP_HIST_H
#define UFFDWP_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#include "uffdwp.h"

struct uffdwp__hist {
	_Atomic uint64_t count, sum, max;
	_Atomic uint64_t bucket[UFFDWP_HIST_BUCKETS];
};

unsigned int uffdwp__hist_index(uint64_t value);
uint64_t uffdwp__hist_upper(unsigned int index); /* the largest value of a bucket */

/* shared: several threads record in it. */
void uffdwp__hist_record(struct uffdwp__hist *h, uint64_t value, uint64_t times, int shared);
void uffdwp__hist_add(struct uffdwp_hist *to, const struct uffdwp__hist *from);

#endif
