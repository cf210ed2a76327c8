/* SPDX-License-Identifier: MIT */
/*
 * Changes to the system that are put back whatever happens: by a guard process, in reverse, when
 * it is told to or when this process and all its children are gone.
 */
#ifndef STRESS_SYSTEM_H
#define STRESS_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Starts the guard, unless it is there already; waits for other programs that change the system
 * in this way. Before threads start. 0 or -errno.
 */
int system_begin(void);

/* Undoes everything now, and waits for it. 0, or -EIO if something could not be put back. */
int system_end(void);

/* Sets it until the end. path is a file that reads as the value, or as "always [madvise] never". */
int system_set(const char *path, const char *value);

/* Swap of 128 MiB until the end, in zram or a file, whichever is had first; or what is on already. */
int system_swap_on(bool zram_first);

/* Writes and forgets; 0 or -errno. Reads the setting, or its chosen word; 0 or -errno. */
int system_write(const char *path, const char *value);
int system_read(const char *path, char *buf, size_t size);

#endif
