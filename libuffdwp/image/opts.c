/* SPDX-License-Identifier: MIT */
/* Structs that grow at their tail: a caller may know less of them than we, or more. */
#include "opts.h"

#include <errno.h>
#include <string.h>

int uffdwp__image_opts(void *to, size_t to_size, const void *from, size_t min_size)
{
	size_t size;

	memset(to, 0, to_size);
	if (!from)
		return 0;
	memcpy(&size, from, sizeof(size));
	if (size < min_size)
		return -EINVAL;
	for (size_t i = to_size; i < size; i++)
		if (((const char *)from)[i])
			return -E2BIG;
	memcpy(to, from, size < to_size ? size : to_size);
	return 0;
}

int uffdwp__image_result(void *to, const void *from, size_t from_size, size_t min_size)
{
	size_t size;

	if (!to)
		return -EINVAL;
	memcpy(&size, to, sizeof(size));
	if (size < min_size)
		return -EINVAL;
	memcpy(to, from, size < from_size ? size : from_size);
	/* sz stays the caller's. */
	memcpy(to, &size, sizeof(size));
	return 0;
}
