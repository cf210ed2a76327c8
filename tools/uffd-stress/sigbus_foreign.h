/* SPDX-License-Identifier: MIT */
/* Signals that are not the library's, see sigbus_foreign.c. */
#ifndef SIGBUS_FOREIGN_H
#define SIGBUS_FOREIGN_H

#include "stress.h"

int sigbus_foreign(const struct stress_opts *o);

#endif
