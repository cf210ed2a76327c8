/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: transparent huge pages under write protection.
 */
#include "probe.h"

#include <errno.h>
#include <string.h>

static void whole(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	PROBE_CHECK(probe_is_huge(&a), "protecting all of it split it");
	probe_release_range(a.fd, a.p, a.len);
	PROBE_CHECK(probe_is_huge(&a), "unprotecting all of it split it");
}

static void split_by_protect(PROBE_ARGS)
{
	struct probe_area a;

	probe_map(&a, kind, 1);
	probe_fill(&a);
	a.fd = probe_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	probe_must_register(a.fd, a.p, a.len, UFFDIO_REGISTER_MODE_WP);
	probe_protect_range(a.fd, probe_at(&a, 3), a.page);
	PROBE_CHECK(!probe_is_huge(&a), "protecting one small page left it whole");
	probe_escapes(&a, 2);
	probe_caught(&a, 3);
}

static void split_by_release(PROBE_ARGS)
{
	struct probe_area a;

	probe_arm(&a, kind, 1, 0);
	probe_caught(&a, 3);
	PROBE_CHECK(!probe_is_huge(&a), "unprotecting one small page left it whole");
	probe_caught(&a, 4);
	probe_caught(&a, 511);
}

/* The message is about a small page, so that is what a naive handler releases. */
static void released_whole(PROBE_ARGS)
{
	struct probe_area a;
	struct probe_job *w;

	probe_arm(&a, kind, 1, 0);
	w = probe_write(probe_at(&a, 7));
	probe_fault_message(a.fd, probe_at(&a, 7), PROBE_WP_FLAGS);
	probe_release_range(a.fd, a.p, a.len);
	probe_done(w);
	PROBE_CHECK(probe_is_huge(&a), "it was split");
	probe_escapes(&a, 8);
}

static const struct probe_row rows[] = {
	{ .id = "thp.whole",
	  .promise = "A huge page that is protected or unprotected as a whole stays whole.",
	  .since = "5.7",
	  .kinds = PROBE_BIT(MEM_THP),
	  .check = whole },
	{ .id = "thp.split-by-protect",
	  .promise = "Protecting one small page of it splits it.",
	  .since = "5.7",
	  .library = "a region with a page size of 2 MiB is only handled in such pieces.",
	  .kinds = PROBE_BIT(MEM_THP),
	  .check = split_by_protect },
	{ .id = "thp.split-by-release",
	  .promise = "Unprotecting one small page of it splits it; the others stay protected.",
	  .since = "5.7",
	  .library = "a region with a page size of 2 MiB is only handled in such pieces.",
	  .kinds = PROBE_BIT(MEM_THP),
	  .check = split_by_release },
	{ .id = "thp.small-message",
	  .promise = "The message of a write to a whole huge page names the small page; releasing "
		     "all of the huge page keeps it whole.",
	  .since = "5.7",
	  .library = "rounds the address down to the region's page size.",
	  .kinds = PROBE_BIT(MEM_THP),
	  .check = released_whole },
};

const struct probe_group probe_thp = {
	.name = "thp",
	.title = "transparent huge pages",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
