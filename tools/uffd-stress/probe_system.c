/* SPDX-License-Identifier: MIT */
/*
 * Changes that checks of `uffd-stress probe` make to the system; what is not possible ends the check
 * as unsupported. They are undone when the check and all its children are gone, see system.h;
 * the guard holds the pipe that the runner waits for.
 */
#include "probe.h"
#include "system.h"

#include <stdlib.h>
#include <string.h>

int probe_undone = -1;

static void begin(void)
{
	int err = system_begin();

	if (err)
		probe_unsupported("changing the system: %s", strerror(-err));
}

void probe_setting(const char *path, const char *value)
{
	int err;

	begin();
	err = system_set(path, value);
	if (err)
		probe_unsupported("%s: %s", path, strerror(-err));
}

void probe_command(const char *path, const char *value)
{
	int err = system_write(path, value);

	if (err)
		probe_unsupported("%s: %s", path, strerror(-err));
}

long probe_number(const char *path)
{
	char buf[64];
	int err = system_read(path, buf, sizeof(buf));

	if (err)
		probe_unsupported("%s: %s", path, strerror(-err));
	return strtol(buf, NULL, 10);
}

void probe_swap(void)
{
	int err;

	begin();
	err = system_swap_on(false);
	if (err)
		probe_unsupported("no swap, neither a file in /var/tmp nor zram: %s",
				  strerror(-err));
}
