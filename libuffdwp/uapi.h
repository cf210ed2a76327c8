/* SPDX-License-Identifier: MIT */
/*
 * The kernel's interface, complete: what the installed headers lack is defined here with the values
 * of Linux, so that the library builds with headers from 5.10 on and uses what the running
 * kernel has. Structs newer than 5.10 have names of their own, to never clash with the headers'.
 */
#ifndef UFFDWP_UAPI_H
#define UFFDWP_UAPI_H

#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>

#ifndef UFFD_USER_MODE_ONLY /* 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW /* 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_PAGEFAULT_FLAG_MINOR /* 5.13 */
#define UFFD_PAGEFAULT_FLAG_MINOR (1 << 2)
#endif
#ifndef MADV_POPULATE_READ /* 5.14 */
#define MADV_POPULATE_READ 22
#endif

#define UFFDWP__COPY_DONTWAKE (UINT64_C(1) << 0)
#define UFFDWP__COPY_WP (UINT64_C(1) << 1)
#define UFFDWP__CONTINUE_WP (UINT64_C(1) << 1)	  /* 6.4 */
#define UFFDWP__REGISTER_MINOR (UINT64_C(1) << 2) /* 5.13 */

struct uffdwp__continue { /* 5.13 */
	struct uffdio_range range;
	uint64_t mode;
	int64_t mapped;
};

struct uffdwp__poison { /* 6.6 */
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};

struct uffdwp__move { /* 6.8 */
	uint64_t dst, src, len, mode;
	int64_t move;
};

struct uffdwp__page_region { /* 6.7 */
	uint64_t start, end, categories;
};

struct uffdwp__scan { /* 6.7 */
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define UFFDWP__SCAN_WP_MATCHING (UINT64_C(1) << 0)
#define UFFDWP__SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)
#define UFFDWP__PAGE_IS_WRITTEN (UINT64_C(1) << 1)
#define UFFDWP__PAGE_IS_PRESENT (UINT64_C(1) << 3)
#define UFFDWP__PAGE_IS_SWAPPED (UINT64_C(1) << 4)

#define UFFDWP__IOC_SCAN _IOWR('f', 16, struct uffdwp__scan)
#define UFFDWP__IOC_MOVE _IOWR(0xAA, 0x05, struct uffdwp__move)
#define UFFDWP__IOC_CONTINUE _IOWR(0xAA, 0x07, struct uffdwp__continue)
#define UFFDWP__IOC_POISON _IOWR(0xAA, 0x08, struct uffdwp__poison)

_Static_assert(UFFDWP__IOC_SCAN == 0xc0606610, "PAGEMAP_SCAN");
_Static_assert(UFFDWP__IOC_MOVE == 0xc028aa05, "UFFDIO_MOVE");
_Static_assert(UFFDWP__IOC_CONTINUE == 0xc020aa07, "UFFDIO_CONTINUE");
_Static_assert(UFFDWP__IOC_POISON == 0xc020aa08, "UFFDIO_POISON");

#endif
