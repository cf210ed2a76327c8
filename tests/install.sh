#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Installs into an empty tree and builds from there, by pkg-config alone and outside of the source tree,
# an example and the README's first program, against the shared and the static library; runs them,
# uninstalls, and expects the tree empty again.
set -u
cd "$(dirname "$0")/.." || exit 99
BUILD=${BUILD-build}
CC=${CC-cc}
export LC_ALL=C
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
tree=$tmp/tree
mkdir "$tree" || exit 99
passed=0 failed=0 skipped=0

verdict() {
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $2"
	fi
}

installer() {
	make --no-print-directory BUILD="$BUILD" CC="$CC" DESTDIR="$tree" PREFIX=/opt/uffdwp \
		LIBDIR=/opt/uffdwp/lib/arch "$@"
}

pc() {
	PKG_CONFIG_LIBDIR=$tree/opt/uffdwp/lib/arch/pkgconfig PKG_CONFIG_SYSROOT_DIR=$tree pkg-config "$@"
}

# built NAME LINKAGE PATTERN [LIBRARY]: build $tmp/NAME.c, run it, expect PATTERN in what it prints.
built() {
	local name=$1 how=$2 pattern=$3 lib=${4-libuffdwp} rc out bin=$tmp/$1-$2
	local -a flags
	case $how in
	shared) read -ra flags < <(pc --cflags --libs "$lib") ;;
	static) read -ra flags < <(pc --static --cflags --libs "$lib") && flags+=(-static) ;;
	esac
	if ! (cd "$tmp" && "$CC" -std=gnu11 -Wall -Wextra -Werror -o "$bin" "$name.c" "${flags[@]}"); then
		verdict 1 "$name, $how: does not build"
		return
	fi
	readelf -d "$bin" | grep -q "NEEDED.*$lib\.so\.0"
	case $how$? in
	shared0 | static1) ;;
	*) verdict 1 "$name, $how: linked with the other one" ;;
	esac
	out=$(LD_LIBRARY_PATH=$tree/opt/uffdwp/lib/arch timeout 20 "$bin" 2>&1)
	rc=$?
	if [ $rc = 77 ]; then
		echo "SKIP $name, $how: ${out:-userfaultfd is not permitted}"
		skipped=$((skipped + 1))
		return
	fi
	[ $rc = 0 ] && grep -q "$pattern" <<<"$out"
	verdict $? "$name, $how: exit $rc: $out"
}

if ! installer install >"$tmp/log" 2>&1; then
	cat "$tmp/log"
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
fi
verdict 0 install
for lib in libuffdwp libuffdwp-image; do
	[ "$(pc --modversion $lib)" = "$(sed -n 's/^Version: //p' "$BUILD/$lib.pc")" ]
	verdict $? "pkg-config --modversion $lib"
done
for f in bin/uffd-stress bin/uffd-bench bin/uffd-image include/uffdwp.h include/uffdwp/image.h \
	lib/arch/libuffdwp.so.0 lib/arch/libuffdwp-image.so.0; do
	[ -s "$tree/opt/uffdwp/$f" ]
	verdict $? "not installed: $f"
done
for m in docs/*.[137]; do
	[ ! -e "$m" ] || cmp -s "$m" "$tree/opt/uffdwp/share/man/man${m##*.}/${m##*/}"
	verdict $? "not installed: $m"
done

cp examples/copy_before_write.c "$tmp" || exit 99
# The README's first block of C.
awk '/^```c$/ { on = 1; next } /^```$/ { if (on) exit } on' README.md >"$tmp/first.c"
[ -s "$tmp/first.c" ] || exit 99
# The least program that needs each library for what the other one does not have.
cat >"$tmp/no_image.c" <<'END'
#include <stdio.h>
#include <uffdwp/image.h>
int main(void)
{
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o), .reason = why, .reason_size = sizeof(why) };
	struct uffdwp_image *img;
	int err = uffdwp_image_open(&img, "/proc/self/exe", &o);

	printf("libuffdwp %s: %s\n", uffdwp_version(), why);
	return err == 0;
}
END
for how in shared static; do
	built no_image $how 'not a core file' libuffdwp-image
	built copy_before_write $how 'page 0: now "new", saved "old"'
	built first $how 'memory: after, copy: before'
done

touch "$tree/opt/uffdwp/lib/others"
installer uninstall >"$tmp/log" 2>&1
verdict $? "uninstall: $(<"$tmp/log")"
left=$(cd "$tree" && find . -type f -o -type l)
[ "$left" = ./opt/uffdwp/lib/others ]
verdict $? "uninstall left or took what it should not: $left"
installer install >"$tmp/log" 2>&1 && rm "$tree/opt/uffdwp/lib/others" && installer uninstall >"$tmp/log" 2>&1
left=$(find "$tree" -mindepth 1)
[ -z "$left" ]
verdict $? "the tree is not empty again: $left"

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] || exit 1
[ $skipped = 0 ] || exit 77
