/* SPDX-License-Identifier: MIT */
/*
 * What the page tables tell a snapshot: that a page was protected still after it was copied, so
 * that nothing can have changed it before; and that a page was never there, so that it need not be
 * read.
 *
 * A discard of anonymous memory takes the protection with the content, and it does not come back
 * while the page is BUSY. PAGEMAP_SCAN (Linux 6.7) tells of a range of pages in one call, bit 57 of
 * /proc/PID/pagemap (5.14) page by page. File memory keeps its protection when its content is
 * removed: there only the events tell, which are read before the content goes. So what was copied
 * is good if every event that was read by then has been carried out: its own would have found the
 * page not saved.
 */
#include "snapshot_look.h"

#include "piece.h"
#include "sys.h"
#include "util.h"

#define PM_WP (UINT64_C(1) << 57)
#define PM_SWAP (UINT64_C(1) << 62)
#define PM_SOFT_DIRTY (UINT64_C(1) << 55)
#define PM_FRAME ((UINT64_C(1) << 55) - 1)
#define LOOK 64 /* entries a read: this may be a signal handler's small stack */

/* ---- Learning ---- */

static int64_t scan_protected(int fd, uint64_t addr, uint64_t len, struct uffdwp__page_region *v)
{
	struct uffdwp__scan a = { .size = sizeof(a),
				  .start = addr,
				  .end = addr + len,
				  .vec = (uintptr_t)v,
				  .vec_len = 1,
				  .category_inverted = UFFDWP__PAGE_IS_WRITTEN,
				  .category_mask = UFFDWP__PAGE_IS_WRITTEN,
				  .category_anyof_mask = UFFDWP__PAGE_IS_PRESENT |
							 UFFDWP__PAGE_IS_SWAPPED,
				  .return_mask = UFFDWP__PAGE_IS_WRITTEN };

	return uffdwp__sys_pagemap_scan(fd, &a);
}

/*
 * A page that was never there, or where such can not be protected one that was read, under a
 * userfaultfd of its own: what the pagemap says of it.
 */
__cold static bool look_at_marker(int pagemap, uint64_t features, uint64_t *entry, bool *scan)
{
	uint64_t page = uffdwp__sys_page_size(), got, ioctls;
	struct uffdwp__page_region v = { 0 };
	void *mem = uffdwp__sys_alloc(page);
	int fd = uffdwp__sys_open_own();
	bool ok;

	if (mem && !(features & UFFDWP_FEATURE_WP_UNPOPULATED))
		(void)*(volatile char *)mem;
	ok = mem && fd >= 0 &&
	     !uffdwp__sys_api(fd, features & UFFDWP_FEATURE_WP_UNPOPULATED, &got, &ioctls) &&
	     !uffdwp__sys_register(fd, (uintptr_t)mem, page, UFFDIO_REGISTER_MODE_WP, &ioctls) &&
	     !uffdwp__sys_writeprotect(fd, (uintptr_t)mem, page, true) &&
	     uffdwp__sys_pagemap_read(pagemap, (uintptr_t)mem, entry, 1) == 1;
	*scan = ok && scan_protected(pagemap, (uintptr_t)mem, page, &v) == 1 && v.end > v.start;
	if (fd >= 0)
		uffdwp__sys_close(fd);
	uffdwp__sys_free(mem, page);
	return ok;
}

/*
 * The mark of a page that was never there looks like a page in swap, but for its frame, which is
 * shown to the privileged alone: then it is a frame that no swap has.
 */
__cold void uffdwp__snapshot_learn(struct uffdwp_snapshot *s)
{
	int pagemap = uffdwp__sys_pagemap_open(0);
	uint64_t entry = 0;

	if (pagemap < 0)
		return;
	if (look_at_marker(pagemap, s->h->features, &entry, &s->can_scan)) {
		s->has_wp_bit = entry & PM_WP;
		if (entry & PM_SWAP && s->has_wp_bit && entry & PM_FRAME)
			s->marker = entry & ~PM_SOFT_DIRTY;
	}
	uffdwp__sys_close(pagemap);
}

/* ---- Looking ---- */

static bool is_marker(const struct uffdwp__part *p, uint64_t entry)
{
	return p->anonymous && p->s->marker && (entry & ~PM_SOFT_DIRTY) == p->s->marker;
}

static bool entries_protected(const struct uffdwp__part *p, uint64_t addr, uint64_t len)
{
	uint64_t base = uffdwp__sys_page_size(), entry[LOOK];

	for (uint64_t pos = 0; pos < len;) {
		/* Of a huge page of hugetlb one entry tells all. */
		uint64_t n = p->step > 1 ? 1 : min_u64(LOOK, (len - pos) / base);

		if (uffdwp__sys_pagemap_read(p->layer.pagemap, addr + pos, entry, n) != (int64_t)n)
			return false;
		for (uint64_t i = 0; i < n; i++)
			if (!(entry[i] & PM_WP))
				return false;
		pos += n * p->step * base;
	}
	return true;
}

/* Also true where nobody can tell. */
static bool still_protected(const struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	uint64_t addr = uffdwp__addr_of(p->layer.r, first), len = uffdwp__part_bytes(p, n);
	struct uffdwp__page_region v = { 0 };

	if (p->layer.pagemap < 0)
		return true;
	if (p->s->can_scan && p->step == 1)
		return scan_protected(p->layer.pagemap, addr, len, &v) == 1 && v.start == addr &&
		       v.end == addr + len;
	return !p->s->has_wp_bit || entries_protected(p, addr, len);
}

bool uffdwp__snapshot_proves(const struct uffdwp__part *p)
{
	return p->anonymous && p->layer.pagemap >= 0 && (p->s->can_scan || p->s->has_wp_bit);
}

enum uffdwp__saved uffdwp__snapshot_prove(struct uffdwp__part *p, uint64_t first, uint64_t n)
{
	if (unlikely(!still_protected(p, first, n)))
		return UFFDWP__LOST;
	if (!uffdwp__snapshot_proves(p) && p->s->h->features & UFFDWP_FEATURE_EVENT_REMOVE &&
	    unlikely(!uffdwp__events_settled(p->s->h)))
		return UFFDWP__UNSURE;
	return UFFDWP__SAVED;
}

/* Where missing faults are caught, what was never there is whatever is placed then. */
static bool can_tell(const struct uffdwp__part *p)
{
	return p->anonymous && p->s->marker && p->layer.pagemap >= 0 &&
	       !uffdwp__places(p->layer.r) && p->layer.r->page_size == uffdwp__sys_page_size();
}

bool uffdwp__snapshot_unpopulated(struct uffdwp__part *p, uint64_t first, uint64_t n,
				  uint64_t *bits)
{
	uint64_t entry[LOOK];

	if (!can_tell(p))
		return false;
	for (uint64_t i = 0; i < n; i += 64) {
		uint64_t k = min_u64(64, n - i), w = 0;

		if (uffdwp__sys_pagemap_read(p->layer.pagemap,
					     uffdwp__addr_of(p->layer.r, first + i), entry,
					     k) != (int64_t)k)
			return false;
		for (uint64_t j = 0; j < k; j++)
			w |= (uint64_t)is_marker(p, entry[j]) << j;
		bits[i / 64] = w;
	}
	return true;
}
