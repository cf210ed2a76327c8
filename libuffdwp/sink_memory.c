/* SPDX-License-Identifier: MIT */
/* A sink into memory of the program. */
#include <errno.h>
#include <string.h>

#include "sys.h"
#include "uffdwp/snapshot.h"
#include "util.h"

struct memory {
	size_t size, n;
	void *copy[];
};

static int memory_begin(void *ctx, const struct uffdwp_sink_layout *layout)
{
	const struct memory *m = ctx;

	return layout->nregions == m->n ? 0 : -EINVAL;
}

static int memory_write(void *ctx, struct uffdwp_sink_write *w)
{
	struct memory *m = ctx;

	memcpy((char *)m->copy[w->region] + w->offset, w->data, w->len);
	return 0;
}

static int memory_zero(void *ctx, uint32_t region, uint64_t offset, uint64_t len)
{
	struct memory *m = ctx;

	memset((char *)m->copy[region] + offset, 0, len);
	return 0;
}

static void memory_free(void *ctx)
{
	struct memory *m = ctx;

	uffdwp__sys_free(m, m->size);
}

UFFDWP_PUBLIC __cold int uffdwp_sink_memory(struct uffdwp_sink *out, void *const *copies, size_t n)
{
	struct memory *m;
	size_t size = sizeof(*m) + n * sizeof(*copies);

	if (!out)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	if (!copies || !n || n > UINT32_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		if (!copies[i])
			return -EINVAL;
	m = uffdwp__sys_alloc(size);
	if (!m)
		return -ENOMEM;
	m->size = size;
	m->n = n;
	memcpy(m->copy, copies, n * sizeof(*copies));
	*out = (struct uffdwp_sink){ .sz = sizeof(*out),
				     .ctx = m,
				     .begin = memory_begin,
				     .write = memory_write,
				     .zero = memory_zero,
				     .free = memory_free };
	return 0;
}
