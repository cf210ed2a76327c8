/* SPDX-License-Identifier: MIT */
/* Makes a system call fail as on a kernel that does not have it, for the calling thread and those it starts. */
#ifndef TESTS_DENY_H
#define TESTS_DENY_H

#include <stdint.h>

/* Calls of nr whose argument arg (0 to 5; -1: all) is value in its low 32 bits fail with err, for ever. */
void deny(int nr, int arg, uint32_t value, int err);

#endif
