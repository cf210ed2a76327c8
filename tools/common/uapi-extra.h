/* SPDX-License-Identifier: MIT */
/*
 * What the running kernel may know and the installed headers do not, back to those of Linux 5.10:
 * for tools that talk to the kernel without the library. Structures carry a prefix of their own,
 * because newer headers define the kernel's names.
 */
#ifndef COMMON_UAPI_EXTRA_H
#define COMMON_UAPI_EXTRA_H

#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef UFFD_FEATURE_MINOR_HUGETLBFS
#define UFFD_FEATURE_MINOR_HUGETLBFS (1 << 9)
#endif
#ifndef UFFD_FEATURE_MINOR_SHMEM
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif
#ifndef UFFD_FEATURE_EXACT_ADDRESS
#define UFFD_FEATURE_EXACT_ADDRESS (1 << 11)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif
#ifndef UFFD_FEATURE_RWP
#define UFFD_FEATURE_RWP (1 << 17)
#endif
#ifndef UFFD_FEATURE_RWP_ASYNC
#define UFFD_FEATURE_RWP_ASYNC (1 << 18)
#endif

#ifndef UFFDIO_REGISTER_MODE_MINOR
#define UFFDIO_REGISTER_MODE_MINOR ((__u64)1 << 2)
#endif
#ifndef UFFD_PAGEFAULT_FLAG_MINOR
#define UFFD_PAGEFAULT_FLAG_MINOR (1 << 2)
#endif

#define UX_CONTINUE_MODE_WP ((uint64_t)1 << 1)
#define UX_MOVE_ALLOW_SRC_HOLES ((uint64_t)1 << 1)

/* Numbers of the ioctls: bit n of what UFFDIO_API and UFFDIO_REGISTER say is ioctl n. */
#define UX_NR_ZEROPAGE 4

struct ux_continue {
	struct uffdio_range range;
	uint64_t mode;
	int64_t mapped;
};
#define UX_UFFDIO_CONTINUE _IOWR(UFFDIO, 0x07, struct ux_continue)

struct ux_poison {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define UX_UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct ux_poison)

struct ux_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define UX_UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct ux_move)

/* A page in /proc/PID/pagemap. */
#define UX_PM_PFN ((UINT64_C(1) << 55) - 1)
#define UX_PM_WP (UINT64_C(1) << 57)
#define UX_PM_SWAPPED (UINT64_C(1) << 62)
#define UX_PM_PRESENT (UINT64_C(1) << 63)

#define UX_PAGE_IS_WPALLOWED 0x01u
#define UX_PAGE_IS_WRITTEN 0x02u
#define UX_PAGE_IS_FILE 0x04u
#define UX_PAGE_IS_PRESENT 0x08u
#define UX_PAGE_IS_SWAPPED 0x10u
#define UX_PAGE_IS_PFNZERO 0x20u
#define UX_PAGE_IS_HUGE 0x40u

#define UX_PM_SCAN_WP_MATCHING 1u
#define UX_PM_SCAN_CHECK_WPASYNC 2u

struct ux_page_region {
	uint64_t start, end, categories;
};

struct ux_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define UX_PAGEMAP_SCAN _IOWR('f', 16, struct ux_scan)

_Static_assert(sizeof(struct ux_scan) == 96, "as the kernel has it");
_Static_assert(sizeof(struct ux_move) == 40, "as the kernel has it");
_Static_assert(UX_PAGEMAP_SCAN == 0xc0606610u, "as the kernel has it");
_Static_assert(UX_UFFDIO_POISON == 0xc020aa08u, "as the kernel has it");
_Static_assert(UX_UFFDIO_MOVE == 0xc028aa05u, "as the kernel has it");

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_GUARD_REMOVE
#define MADV_GUARD_REMOVE 103
#endif

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#endif
