/* SPDX-License-Identifier: MIT */
/*
 * PAGEMAP_SCAN for the checks of `uffd-stress probe`.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int pagemap_of(pid_t pid)
{
	char path[64] = "/proc/self/pagemap";
	int fd;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	PROBE_CHECK(fd >= 0, "%s: %s", path, strerror(errno));
	return fd;
}

long probe_scan(pid_t pid, struct probe_scan *s, const void *addr, size_t len)
{
	int fd = pagemap_of(pid);
	struct ux_scan arg = {
		.size = sizeof(arg),
		.flags = s->flags,
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + len,
		.vec = (uintptr_t)s->vec,
		.vec_len = s->vec_len,
		.max_pages = s->max_pages,
		.category_mask = s->mask,
		.category_anyof_mask = s->anyof,
		.return_mask = s->ret,
	};
	long n = ioctl(fd, UX_PAGEMAP_SCAN, &arg);

	if (n < 0)
		n = -errno;
	s->walk_end = arg.walk_end;
	close(fd);
	return n;
}

size_t probe_written(const struct probe_area *a, const void *addr, size_t len, bool rearm)
{
	struct ux_page_region vec[64];
	struct probe_scan s = { .mask = UX_PAGE_IS_WRITTEN, .vec = vec, .vec_len = 64 };
	size_t pages = 0;
	long n, i;

	s.ret = UX_PAGE_IS_WRITTEN;
	if (rearm)
		s.flags = UX_PM_SCAN_WP_MATCHING | UX_PM_SCAN_CHECK_WPASYNC;
	n = probe_scan(0, &s, addr, len);
	PROBE_CHECK(n >= 0, "PAGEMAP_SCAN: %s", strerror((int)-n));
	for (i = 0; i < n; i++)
		pages += (vec[i].end - vec[i].start) / a->page;
	return pages;
}

uint64_t probe_categories(const struct probe_area *a, size_t i)
{
	struct ux_page_region vec[1];
	struct probe_scan s = { .vec = vec, .vec_len = 1, .ret = 0x7f };
	long n = probe_scan(0, &s, probe_at(a, i), a->page);

	PROBE_CHECK(n >= 0, "PAGEMAP_SCAN: %s", strerror((int)-n));
	return n ? vec[0].categories : 0;
}
