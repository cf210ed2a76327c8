/* SPDX-License-Identifier: MIT */
/*
 * Checks of `uffd-stress probe`: UFFDIO_MOVE.
 */
#include "probe.h"
#include "probe_uring.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define REG_BOTH (UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING)

static void watch(struct probe_area *dst, struct probe_area *src, enum mem_kind kind,
		  uint64_t features)
{
	probe_watch(dst, kind, 4, UFFD_FEATURE_MOVE | mem_missing_features(kind) | features,
		    REG_BOTH);
	probe_map(src, kind, 4);
	probe_fill(src);
}

static void moves(PROBE_ARGS)
{
	struct probe_area dst, src;
	struct probe_job *r;
	int64_t done = 0;

	watch(&dst, &src, kind, 0);
	r = probe_read(dst.p);
	probe_fault_message(dst.fd, dst.p, 0);
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, 2 * dst.page, 0, &done), 0,
			 "UFFDIO_MOVE");
	PROBE_CHECK(done == 2 * (int64_t)dst.page, "move is %lld", (long long)done);
	PROBE_CHECK(probe_done(r) == PROBE_BYTE(0), "the content is wrong");
	PROBE_CHECK(probe_get(probe_at(&dst, 1)) == PROBE_BYTE(1), "the content is wrong");
	PROBE_CHECK(!probe_get(src.p) && !probe_get(probe_at(&src, 1)),
		    "the source is still there");
	PROBE_CHECK(probe_get(probe_at(&src, 2)) == PROBE_BYTE(2), "too much moved");
}

static void unprotected(PROBE_ARGS)
{
	struct probe_area dst, src;

	watch(&dst, &src, kind, row->arg);
	probe_must_register(dst.fd, src.p, src.len, UFFDIO_REGISTER_MODE_WP);
	src.fd = dst.fd;
	probe_protect_all(&src);
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, NULL), 0,
			 "UFFDIO_MOVE");
	probe_escapes(&dst, 0);
}

static void marked(PROBE_ARGS)
{
	struct probe_area dst, src;

	watch(&dst, &src, kind, row->arg);
	probe_protect_all(&dst);
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, NULL), -EEXIST,
			 "UFFDIO_MOVE");
}

static void exists(PROBE_ARGS)
{
	struct probe_area dst, src;
	int64_t done = 0;

	watch(&dst, &src, kind, 0);
	probe_expect_err(probe_copy(dst.fd, dst.p, probe_source(&dst, 1), dst.page, 0, NULL), 0,
			 "UFFDIO_COPY");
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, &done), -EEXIST,
			 "UFFDIO_MOVE");
	PROBE_CHECK(done == -EEXIST, "move is %lld", (long long)done);
}

static void holes(PROBE_ARGS)
{
	uint64_t mode = UX_MOVE_ALLOW_SRC_HOLES;
	struct probe_area dst, src;

	watch(&dst, &src, kind, 0);
	PROBE_CHECK(!madvise(src.p, src.page, MADV_DONTNEED), "MADV_DONTNEED: %s", strerror(errno));
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, NULL), -ENOENT,
			 "UFFDIO_MOVE");
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, mode, NULL), 0,
			 "UFFDIO_MOVE with ALLOW_SRC_HOLES");
}

static void shared(PROBE_ARGS)
{
	struct probe_area dst, src;

	watch(&dst, &src, kind, 0);
	if (!probe_fork()) {
		for (;;)
			pause();
	}
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, NULL), -EBUSY,
			 "UFFDIO_MOVE");
}

static void pinned(PROBE_ARGS)
{
	struct probe_area dst, src;
	struct probe_uring u;

	watch(&dst, &src, kind, 0);
	probe_uring_open(&u);
	probe_expect_err(probe_uring_pin(&u, src.p, src.page), 0, "IORING_REGISTER_BUFFERS");
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, NULL), -EBUSY,
			 "UFFDIO_MOVE");
}

static void anonymous_only(PROBE_ARGS)
{
	struct probe_area dst, src;

	watch(&dst, &src, kind, 0);
	probe_expect_err(probe_move_pages(dst.fd, dst.p, src.p, dst.page, 0, NULL), -EINVAL,
			 "UFFDIO_MOVE");
}

#define MARKERS UFFD_FEATURE_WP_UNPOPULATED

static const struct probe_row rows[] = {
	{ .id = "move.moves",
	  .promise = "UFFDIO_MOVE places the source's pages, wakes, and leaves a hole at the "
		     "source.",
	  .since = "6.8",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_ANON,
	  .check = moves },
	{ .id = "move.unprotected",
	  .promise = "A moved page arrives unprotected, even if it was protected at its source.",
	  .since = "6.8",
	  .library = "copies and discards there instead; for another process -EOPNOTSUPP: "
		     "uffdwp_copy() can place it.",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_ANON,
	  .check = unprotected },
	{ .id = "move.marker",
	  .promise = "UFFDIO_MOVE to a page that was protected before it was there is EEXIST.",
	  .since = "6.8",
	  .library = "uffdwp_move() of a protected page is -EOPNOTSUPP: uffdwp_copy() can place "
		     "it.",
	  .needs = UFFD_FEATURE_MOVE | MARKERS,
	  .arg = MARKERS,
	  .kinds = PROBE_ANON,
	  .check = marked },
	{ .id = "move.exists",
	  .promise = "Where a page is already, it is EEXIST, in `move` too.",
	  .since = "6.8",
	  .library = "counts the page as done and wakes the range itself.",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = exists },
	{ .id = "move.holes",
	  .promise = "A hole in the source is ENOENT, or skipped with ALLOW_SRC_HOLES.",
	  .since = "6.8",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_BIT(MEM_ANON),
	  .check = holes },
	{ .id = "move.shared",
	  .promise = "Pages shared with a forked child can not be moved (EBUSY).",
	  .since = "6.8",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_ANON,
	  .check = shared },
	{ .id = "move.pinned",
	  .promise = "Pages pinned for I/O can not be moved (EBUSY).",
	  .since = "6.8",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_ANON,
	  .check = pinned },
	{ .id = "move.anonymous-only",
	  .promise = "Memory that is not private anonymous can not be moved (EINVAL).",
	  .since = "6.8",
	  .needs = UFFD_FEATURE_MOVE,
	  .kinds = PROBE_SHMEM | PROBE_HUGETLB,
	  .check = anonymous_only },
};

const struct probe_group probe_move = {
	.name = "move",
	.title = "UFFDIO_MOVE",
	.rows = rows,
	.n = sizeof(rows) / sizeof(rows[0]),
};
