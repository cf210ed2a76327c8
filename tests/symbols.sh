#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The functions that a library's public headers declare, the symbol map's, and those that it exports are
# the same; each has a manual page, and carries the version node of the map; the static library defines no global name
# outside uffdwp_; soname and version are the header's.
set -u
cd "$(dirname "$0")/.." || exit 99
BUILD=${BUILD-build}
CC=${CC-cc}
export LC_ALL=C
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

same() {
	if diff -u "$2" "$3" >"$tmp/diff"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $1"
		cat "$tmp/diff"
	fi
}

# Of some headers, with what they include. Declarations alone: comments go with the preprocessor, struct
# bodies (function pointers) by hand.
declared() {
	local h
	for h; do
		"$CC" -E -P -std=c11 -Iinclude "$h" || exit 99
	done | tr '\n' ' ' | sed -E ':a; s/\{[^{}]*\}//g; ta' | tr ';' '\n' |
		sed -nE 's/^.*[ *](uffdwp_[a-z0-9_]+) *\(.*/\1/p' | sort -u
}

# library NAME MAP: what it should have is in $tmp/declared.
library() {
	local name=$1 map=$2 f
	[ -s "$tmp/declared" ] || exit 99
	sed -nE 's/^\t(uffdwp_[a-z0-9_]+);$/\1/p' "$map" | sort >"$tmp/mapped"
	nm -D --defined-only "$BUILD/$name.so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
		sort >"$tmp/exported"
	same "$name: declared in the headers = named by the map" "$tmp/declared" "$tmp/mapped"
	same "$name: named by the map = exported" "$tmp/mapped" "$tmp/exported"

	while read -r f; do
		[ ! -e "docs/$f.3" ] || echo "$f"
	done <"$tmp/mapped" >"$tmp/documented"
	same "$name: named by the map = has a manual page" "$tmp/mapped" "$tmp/documented"

	sed -nE 's/^(UFFDWP_[A-Z0-9_.]+) \{$/\1/p' "$map" | sort >"$tmp/nodes"
	nm -D --defined-only "$BUILD/$name.so" | sed -nE '/ A /d; s/.*@@(.*)$/\1/p' | sort -u >"$tmp/seen"
	same "$name: version nodes" "$tmp/nodes" "$tmp/seen"

	nm -g --defined-only "$BUILD/$name.a" 2>/dev/null | awk 'NF == 3 { print $3 }' |
		grep -v '^uffdwp_' >"$tmp/foreign"
	: >"$tmp/none"
	same "$name: global names of the static library" "$tmp/none" "$tmp/foreign"
}

mapfile -t core < <(printf '%s\n' include/uffdwp.h include/uffdwp/*.h | grep -vxF include/uffdwp/image.h)
declared "${core[@]}" >"$tmp/core"
cp "$tmp/core" "$tmp/declared"
library libuffdwp libuffdwp/libuffdwp.map
declared include/uffdwp/image.h | comm -23 - "$tmp/core" >"$tmp/declared"
library libuffdwp-image libuffdwp/image/libuffdwp-image.map

cat >"$tmp/version.c" <<'END'
#include <stdio.h>
#include <uffdwp.h>
int main(void)
{
	printf("libuffdwp.so.%d\nlibuffdwp-image.so.%d\n%d.%d.%d\n", UFFDWP_VERSION_MAJOR,
	       UFFDWP_VERSION_MAJOR, UFFDWP_VERSION_MAJOR, UFFDWP_VERSION_MINOR, UFFDWP_VERSION_PATCH);
	return 0;
}
END
cat >"$tmp/running.c" <<'END'
#include <stdio.h>
#include <uffdwp.h>
int main(void)
{
	puts(uffdwp_version());
	return 0;
}
END
"$CC" -Iinclude -o "$tmp/version" "$tmp/version.c" && "$tmp/version" >"$tmp/header" || exit 99
"$CC" -Iinclude -o "$tmp/running" "$tmp/running.c" "$BUILD/libuffdwp.so" || exit 99
{
	for so in libuffdwp libuffdwp-image; do
		readelf -d "$BUILD/$so.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p'
	done
	LD_LIBRARY_PATH=$BUILD "$tmp/running"
} >"$tmp/library"
same 'soname and version are the header'"'"'s' "$tmp/header" "$tmp/library"

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
