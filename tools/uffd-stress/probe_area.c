/* SPDX-License-Identifier: MIT */
/*
 * Watched memory for the checks of `uffd-stress probe`, and what pagemap says of it.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void probe_map(struct probe_area *a, enum mem_kind kind, unsigned int pages)
{
	size_t page = PROBE_BIT(kind) & PROBE_HUGETLB ? (size_t)2 << 20 : (size_t)getpagesize();
	int err = mem_map(&a->m, kind, pages * page);

	if (err)
		probe_unsupported("mapping %s memory: %s", mem_name(kind), strerror(-err));
	a->p = a->m.addr;
	a->page = a->m.page_size;
	a->len = a->m.size;
	a->fd = -1;
}

void probe_fill(struct probe_area *a)
{
	size_t i;

	for (i = 0; i < a->len / a->page; i++)
		memset(probe_at(a, i), PROBE_BYTE(i), a->page);
	if (a->m.kind == MEM_THP && !probe_is_huge(a))
		probe_unsupported("the kernel gave no transparent huge page");
}

void probe_watch(struct probe_area *a, enum mem_kind kind, unsigned int pages, uint64_t features,
		 uint64_t mode)
{
	probe_map(a, kind, pages);
	a->fd = probe_uffd(features | mem_wp_features(kind));
	probe_must_register(a->fd, a->p, a->len, mode);
}

void probe_arm(struct probe_area *a, enum mem_kind kind, unsigned int pages, uint64_t features)
{
	probe_map(a, kind, pages);
	probe_fill(a);
	a->fd = probe_uffd(features | mem_wp_features(kind));
	probe_must_register(a->fd, a->p, a->len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_all(a);
}

void probe_protect_all(const struct probe_area *a)
{
	probe_protect_range(a->fd, a->p, a->len);
	PROBE_CHECK(probe_pagemap(a->p) & UX_PM_WP || !probe_shows_wp(),
		    "protecting it sets no bit");
}

const char *probe_source(const struct probe_area *a, unsigned char byte)
{
	char *src = aligned_alloc(a->page, a->page);

	PROBE_CHECK(src, "out of memory");
	memset(src, byte, a->page);
	return src;
}

uint64_t probe_pagemap(const void *addr)
{
	off_t at = (off_t)((uintptr_t)addr / (size_t)getpagesize() * sizeof(uint64_t));
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry;

	PROBE_CHECK(fd >= 0 && pread(fd, &entry, sizeof(entry), at) == (ssize_t)sizeof(entry),
		    "reading pagemap: %s", strerror(errno));
	close(fd);
	return entry;
}

bool probe_shows_wp(void)
{
	struct probe_area a;
	bool shows;

	probe_map(&a, MEM_ANON, 1);
	probe_fill(&a);
	a.fd = probe_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_range(a.fd, a.p, a.len);
	shows = probe_pagemap(a.p) & UX_PM_WP;
	close(a.fd);
	munmap(a.p, a.len);
	return shows;
}

bool probe_is_wp(const void *addr)
{
	if (probe_pagemap(addr) & UX_PM_WP)
		return true;
	if (!probe_shows_wp())
		probe_unsupported("pagemap does not show protection before Linux 5.14");
	return false;
}

bool probe_is_huge(const struct probe_area *a)
{
	return mem_thp_bytes(&a->m) == a->len;
}

void probe_caught(const struct probe_area *a, size_t i)
{
	struct probe_job *w = probe_write(probe_at(a, i));

	probe_fault_message(a->fd, probe_at(a, i), PROBE_WP_FLAGS);
	PROBE_CHECK(!probe_is_done(w, 0), "the writer went on before its page was released");
	probe_release_range(a->fd, probe_at(a, i), a->page);
	probe_done(w);
	PROBE_CHECK(probe_get(probe_at(a, i)) == PROBE_NEW, "the write is lost");
}

void probe_escapes(const struct probe_area *a, size_t i)
{
	struct probe_job *w = probe_write(probe_at(a, i));

	PROBE_CHECK(probe_is_done(w, PROBE_WAIT_MS), "the write to page %zu was caught", i);
	probe_done(w);
	probe_silent(a->fd);
	PROBE_CHECK(probe_get(probe_at(a, i)) == PROBE_NEW, "the write is lost");
}
