#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Each public header stands alone, twice, pedantically, as C and as C++, with every compiler that is here;
# and a C++ program links with the library. Run by .ci/run, which has the C++ compilers.
set -u
cd "$(dirname "$0")/.." || exit 99
BUILD=${BUILD-build}
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

try() {
	if "$@"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $*"
	fi
}

# No -Wshadow: g++ minds that a function has the name of the struct it fills, as stat(2) has.
strict=(-Wall -Wextra -Wpedantic -Werror -Iinclude)
cat >"$tmp/link.cc" <<'END'
#include <uffdwp.h>
#include <cstring>
int main()
{
	uffdwp_opts opts = {};
	opts.sz = sizeof(opts);
	opts.threads = UFFDWP_THREADS_MAX + 1;
	uffdwp *h = nullptr;
	/* Refused, but reached: the names have C linkage. */
	return uffdwp_open(&h, &opts) < 0 && !h && std::strlen(uffdwp_version()) ? 0 : 1;
}
END

for compilers in 'gcc g++' 'clang clang++'; do
	read -r cc cxx <<<"$compilers"
	for h in include/uffdwp.h include/uffdwp/*.h; do
		[ -e "$h" ] || continue
		printf '#include <%s>\n' "${h#include/}" "${h#include/}" >"$tmp/alone.c"
		for std in c++11 c++20; do
			try "$cxx" -x c++ -std=$std "${strict[@]}" -fsyntax-only "$tmp/alone.c"
		done
		for std in c11 c17; do
			try "$cc" -std=$std "${strict[@]}" -fsyntax-only "$tmp/alone.c"
		done
	done
	try "$cxx" -std=c++11 "${strict[@]}" -o "$tmp/link" "$tmp/link.cc" "$BUILD/libuffdwp.a" -pthread
	try "$tmp/link"
done

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
