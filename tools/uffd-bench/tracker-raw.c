/* SPDX-License-Identifier: MIT */
/*
 * The peer of async tracking: WP_ASYNC and PAGEMAP_SCAN by hand. The kernel writes its regions
 * straight into the array of the caller, who looks only whether it has to go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../common/uapi-extra.h"
#include "tracker.h"

/*
 * Ranges a scan. The kernel (6.7 to 6.18) walks until it has found this many, and what is asked for beyond it goes
 * in another walk, after which walk_end still is where the first one stopped: its part is walked twice.
 */
#define AT_ONCE 512

struct scan {
	int uffd, pagemap;
};

static int open_scan(struct tracker *t, char *reason, size_t size)
{
	struct scan *s = malloc(sizeof(*s));

	if (!s)
		die("memory", ENOMEM);
	s->uffd = raw_open(t->mem, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC, 0);
	if (s->uffd < 0) {
		int err = s->uffd;

		free(s);
		snprintf(reason, size, "userfaultfd(2) is not permitted, or lacks WP_ASYNC");
		return err;
	}
	s->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (s->pagemap < 0)
		die("/proc/self/pagemap", errno);
	t->state = s;
	return 0;
}

static void start(struct tracker *t)
{
	raw_attach(((struct scan *)t->state)->uffd, t->mem);
}

static void collect(struct tracker *t)
{
	const struct scan *s = t->state;
	struct ux_page_region *found = t->found;
	uint64_t end = (uintptr_t)t->mem->addr + t->mem->size;
	struct ux_scan scan = { .size = sizeof(scan),
				.flags = UX_PM_SCAN_WP_MATCHING | UX_PM_SCAN_CHECK_WPASYNC,
				.walk_end = (uintptr_t)t->mem->addr,
				.end = end,
				.category_mask = UX_PAGE_IS_WRITTEN,
				.return_mask = UX_PAGE_IS_WRITTEN };

	for (t->nfound = 0; scan.walk_end < end;) {
		int n;

		scan.start = scan.walk_end;
		scan.vec = (uintptr_t)(found + t->nfound);
		scan.vec_len = t->room - t->nfound < AT_ONCE ? t->room - t->nfound : AT_ONCE;
		n = ioctl(s->pagemap, UX_PAGEMAP_SCAN, &scan);
		if (n < 0)
			die("PAGEMAP_SCAN", errno);
		t->nfound += (size_t)n;
	}
}

static struct uffdwp_track_range range(const struct tracker *t, size_t i)
{
	const struct ux_page_region *r = (const struct ux_page_region *)t->found + i;

	return (struct uffdwp_track_range){ .addr = r->start, .len = r->end - r->start };
}

static void stop(struct tracker *t)
{
	raw_detach(((struct scan *)t->state)->uffd, t->mem);
}

static void close_scan(struct tracker *t)
{
	struct scan *s = t->state;

	close(s->pagemap);
	close(s->uffd);
	free(s);
}

const struct tracker_kind tracker_raw = { .name = "raw scan",
					  .open = open_scan,
					  .start = start,
					  .collect = collect,
					  .stop = stop,
					  .close = close_scan,
					  .range = range };
