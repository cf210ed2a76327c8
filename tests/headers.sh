#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Builds everything against kernel headers of other ages than the installed ones: as of Linux 5.10, by
# hiding what came later, and as of 6.8, by adding what came until then. The library built with the
# old ones must still use what the running kernel has. Run by .ci/run.
set -u
cd "$(dirname "$0")/.." || exit 99
top=${BUILD-build}
passed=0 failed=0

verdict() {
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $2"
	fi
}

# Prints #undef for each name.
hide() {
	printf '#undef %s\n' "$@"
}

old=$top/headers-5.10
new=$top/headers-6.8
rm -rf "$old/include" "$new/include"
mkdir -p "$old/include/linux" "$old/include/sys" "$new/include/linux" || exit 99
{
	# Types can not be undefined: they get another name.
	echo '#define uffdio_continue hidden_uffdio_continue'
	echo '#include_next <linux/userfaultfd.h>'
	echo '#undef uffdio_continue'
	hide UFFD_FEATURE_MINOR_{HUGETLBFS,SHMEM} UFFD_FEATURE_EXACT_ADDRESS \
		UFFD_FEATURE_WP_{HUGETLBFS_SHMEM,UNPOPULATED,ASYNC} UFFD_FEATURE_{POISON,MOVE} \
		UFFDIO_REGISTER_MODE_MINOR UFFD_PAGEFAULT_FLAG_MINOR \
		{_,}UFFDIO_{CONTINUE,POISON,MOVE} UFFDIO_CONTINUE_MODE_{DONTWAKE,WP} \
		UFFD_USER_MODE_ONLY USERFAULTFD_IOC{,_NEW}
} >"$old/include/linux/userfaultfd.h"
{
	# Included again it must not hide what a program has defined since.
	echo '#pragma once'
	echo '#include_next <sys/mman.h>'
	hide MADV_{POPULATE_READ,POPULATE_WRITE,DONTNEED_LOCKED,COLLAPSE}
} >"$old/include/sys/mman.h"
cat >"$new/include/linux/userfaultfd.h" <<'END'
#include_next <linux/userfaultfd.h>
#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#define UFFD_FEATURE_POISON (1 << 14)
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#define UFFD_FEATURE_MOVE (1 << 16)
#define UFFDIO_CONTINUE_MODE_WP ((__u64)1 << 1)
struct uffdio_poison {
	struct uffdio_range range;
#define UFFDIO_POISON_MODE_DONTWAKE ((__u64)1 << 0)
	__u64 mode;
	__s64 updated;
};
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
	__u64 mode;
	__s64 move;
};
#define _UFFDIO_MOVE (0x05)
#define _UFFDIO_POISON (0x08)
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif
END
# PAGEMAP_SCAN came to linux/fs.h in 6.7.
cat >"$new/include/linux/fs.h" <<'END'
#include_next <linux/fs.h>
#ifndef PAGEMAP_SCAN
#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_PFNZERO (1 << 5)
#define PAGE_IS_HUGE (1 << 6)
#define PM_SCAN_WP_MATCHING (1 << 0)
#define PM_SCAN_CHECK_WPASYNC (1 << 1)
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};
struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#endif
END

# The simulation must hide and show what it says.
probe() {
	printf '#include <linux/userfaultfd.h>\n#include <sys/mman.h>\n#include <linux/fs.h>\n%s\n' "$2" |
		"${CC-cc}" -D_GNU_SOURCE -I"$1/include" -fsyntax-only -x c - 2>/dev/null
}
probe "$old" '#if defined UFFDIO_CONTINUE || defined UFFD_FEATURE_WP_ASYNC || defined MADV_POPULATE_READ
#error
#endif'
verdict $? 'the 5.10 headers still show later constants'
! probe "$old" 'struct uffdio_continue c;'
verdict $? 'the 5.10 headers still show struct uffdio_continue'
probe "$new" 'struct uffdio_move m; int i = PAGEMAP_SCAN != UFFDIO_POISON;'
verdict $? 'the 6.8 headers lack what they should have'

for dir in "$old" "$new"; do
	make --no-print-directory -j"$(nproc)" BUILD="$dir" CPPFLAGS="-I$dir/include" WERROR=1 tests \
		>"$dir/log" 2>&1
	verdict $? "$(grep -E -A3 'error|warning' "$dir/log" | head -n 40)"
	timeout 60 "$dir/examples/capture" --size=8 >"$dir/log" 2>&1
	verdict $? "$dir: $(cat "$dir/log")"
done

# Same features obtained, whatever the headers.
cat >"$old/features.c" <<'END'
#include <stdio.h>
#include <uffdwp.h>
int main(void)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp *h;

	if (uffdwp_open(&h, NULL) || uffdwp_info(h, &info))
		return 1;
	printf("%#llx %#llx %u\n", (unsigned long long)info.features, (unsigned long long)info.ioctls,
	       info.source);
	return uffdwp_close(h) != 0;
}
END
for dir in "$old" "$new" "$top"; do
	"${CC-cc}" -Iinclude -o "$old/features" "$old/features.c" "$dir/libuffdwp.a" -pthread &&
		"$old/features"
done >"$old/features.txt" 2>&1
[ "$(wc -l <"$old/features.txt")" = 3 ] && [ "$(sort -u "$old/features.txt" | wc -l)" = 1 ]
verdict $? "features differ by headers: $(cat "$old/features.txt")"

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
