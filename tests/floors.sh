#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Proves the floors of the library: a file includes, and an object calls, only what is on its own floor or
# a lower one, in no circle; only sys.c makes system calls; libuffdwp.so needs libc alone, libuffdwp-image.so
# liburing besides; it, tools, examples and tests/live see public headers only. Then it plants one violation of each kind and expects to find it.
#
# A name stands for its .c and .h; a name with its ending for that file alone.
set -u
floors='
0 uapi util
1 sys bitmap hist
2 core piece place access layer call collect region stats
3 fault event pool sigbus handle open
4 track staging snapshot_core snapshot_look snapshot_save snapshot_event snapshot_sink snapshot_cow snapshot_precopy snapshot sink_memory sink_file
'
# What sys.c alone may call: whatever can fail with EINTR or EAGAIN or differs between kernels.
syscalls='ioctl|read|write|p?readv?|p?writev?|p?poll|epoll_[a-z0-9_]+|eventfd|mmap|munmap|mremap|madvise|mprotect|open|openat|close|fcntl|pipe2?|memfd_create|syscall|process_[a-z_]+|sched_[a-z]+|pthread_setaffinity_np|getrandom'

cd "$(dirname "$0")/.." || exit 99
BUILD=${BUILD-build}
CC=${CC-cc}
export LC_ALL=C
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

# "FROM TO" for each include of one of the library's files by another.
include_edges() {
	local f
	for f in "$1"/*.[ch]; do
		sed -nE 's/^[ \t]*#[ \t]*include[ \t]*"([^"]*)".*/\1/p' "$f" |
			grep -vE '^uffdwp(/[a-z]+)?\.h$' | sed "s|^\(.*/\)\{0,1\}|${f##*/} |"
	done
}

# "FROM TO SYMBOL" for each symbol that one object needs and another one has.
symbol_edges() {
	{ nm -A -g --defined-only "$1"/*.o && nm -A -u "$1"/*.o; } | sed 's|^[^:]*/||; s/:/ /' |
		awk '$(NF - 1) !~ /^[Uw]$/ { at[$NF] = $1; next } $NF in at { print $1, at[$NF], $NF }'
}

# The first file is the table of floors, then come "FROM TO [SYMBOL]" lines.
# shellcheck disable=SC2016 # the $ are for awk
upwards='
function floor(file, stem) {
	sub(/\.o$/, ".c", file)
	stem = file
	sub(/\.[ch]$/, "", stem)
	return file in at ? at[file] : stem in at ? at[stem] : -1
}
NR == FNR { for (i = 2; i <= NF; i++) at[$i] = $1; next }
floor($1) < 0 { print $1 " is on no floor" }
floor($2) < 0 { print $1 " reaches " $2 ", which is on no floor" }
floor($1) < floor($2) {
	print $1, "(floor " floor($1) ") reaches up to", $2, "(floor " floor($2) ")" ($3 ? " for " $3 : "")
}'

# check SOURCES OBJECTS: prints what is wrong; fails if anything is.
check() {
	local bad=0 f loop
	# A file that nothing includes must have its floor too.
	for f in "$1"/*.[ch]; do
		echo "${f##*/} ${f##*/}"
	done >"$tmp/edges"
	{ include_edges "$1" && symbol_edges "$2"; } >>"$tmp/edges"
	awk "$upwards" <(echo "$floors") "$tmp/edges" | sort -u >"$tmp/wrong"
	if [ -s "$tmp/wrong" ]; then
		cat "$tmp/wrong"
		bad=1
	fi
	# A header and its source are one thing here: a circle through both is a circle.
	loop=$(awk '{ sub(/\..*/, "", $1); sub(/\..*/, "", $2); if ($1 != $2) print $1, $2 }' \
		"$tmp/edges" | sort -u | tsort 2>&1 >/dev/null | sed 's/^tsort: //; s/^-: //' | tr '\n' ' ')
	if [ -n "$loop" ]; then
		echo "circle: $loop"
		bad=1
	fi
	if nm -A -u "$2"/*.o | grep -vE '/sys\.o:' |
		grep -E " U (__)?($syscalls)(64|_2)?(_chk)?(@.*)?\$"; then
		echo "only sys.c makes system calls"
		bad=1
	fi
	return $bad
}

# needs_alone LIBRARY [OTHERS]: libc, and others by a pattern.
needs_alone() {
	# The loader and, in older versions, libpthread are parts of the C library.
	! readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
		grep -vE "^(libc|libpthread|ld-linux[a-z0-9_-]*${2:+|$2})\.so"
}

public_headers_alone() {
	! grep -nE '^[ \t]*#[ \t]*include[ \t]*"(.*libuffdwp/|\.\./[a-z]+\.h)' "$@"
}

# What the image library needs and neither has nor finds in libc or liburing is a public function.
public_calls_alone() {
	! nm -u "$BUILD/libuffdwp-image.a" | awk '$1 == "U" { print $2 }' | grep '^uffdwp_' | sort -u |
		grep -vxF -f <(nm --defined-only "$BUILD/libuffdwp-image.a" | awk 'NF == 3 { print $3 }') |
		grep -vxF -f <(sed -nE 's/^\t(uffdwp_[a-z0-9_]+);$/\1/p' libuffdwp/libuffdwp.map)
}

passed=0 failed=0

# expect NAME PATTERN COMMAND...: it finds nothing, or with a pattern it fails and says so.
expect() {
	local name=$1 pattern=$2 out rc=0
	shift 2
	out=$("$@" 2>&1) || rc=1
	if [ -z "$pattern" ] && [ $rc = 0 ]; then
		passed=$((passed + 1))
	elif [ -n "$pattern" ] && [ $rc = 1 ] && grep -qE "$pattern" <<<"$out"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $name"
		[ -z "$out" ] || echo "$out"
	fi
}

# planted FILE LINE: the sources and objects with one line more in one file, in $tmp/src, $tmp/obj.
planted() {
	rm -rf "$tmp/src" "$tmp/obj"
	cp -r libuffdwp "$tmp/src" && cp -r "$tmp/objects" "$tmp/obj" || exit 99
	printf '%s\n' "$2" >>"$tmp/src/$1"
	case $1 in
	*.c)
		"$CC" -std=c11 -D_GNU_SOURCE -w -fPIC -Iinclude -I"$tmp/src" -c -o "$tmp/obj/${1%.c}.o" \
			"$tmp/src/$1" || exit 99
		;;
	esac
}

# By source: the build directory may still have objects of files that are gone.
mkdir "$tmp/objects"
for f in libuffdwp/*.c; do
	f=${f##*/}
	if ! cp "$BUILD/obj/libuffdwp/${f%.c}.o" "$tmp/objects"; then
		echo "tests/floors.sh: build the library first" >&2
		exit 99
	fi
done

expect 'floors' '' check libuffdwp "$tmp/objects"
expect 'libuffdwp.so needs libc alone' '' needs_alone "$BUILD/libuffdwp.so"
expect 'libuffdwp-image.so needs liburing too' '' needs_alone "$BUILD/libuffdwp-image.so" 'libuffdwp|liburing'
expect 'libuffdwp-image calls the public functions alone' '' public_calls_alone
mapfile -t image < <(find libuffdwp/image -name '*.[ch]')
expect 'public headers alone in image' '' public_headers_alone "${image[@]}"
mapfile -t outside < <(find tools examples tests/live -name '*.[ch]')
expect 'public headers alone outside' '' public_headers_alone "${outside[@]}"

planted hist.h '#include "region.h"'
expect 'planted: an include upwards' 'hist.h .* reaches up to region.h' check "$tmp/src" "$tmp/obj"
planted hist.c 'int uffdwp_close(struct uffdwp *); int uffdwp__x(void) { return uffdwp_close(0); }'
expect 'planted: a call upwards' 'hist.o .* for uffdwp_close' check "$tmp/src" "$tmp/obj"
planted bitmap.h '#include "hist.h"'
printf '#include "bitmap.h"\n' >>"$tmp/src/hist.h"
expect 'planted: a circle' '^circle: .*hist' check "$tmp/src" "$tmp/obj"
planted hist.c 'int ioctl(int, unsigned long, ...); int uffdwp__x(void) { return ioctl(0, 0); }'
expect 'planted: a system call' 'hist.o.* ioctl' check "$tmp/src" "$tmp/obj"
planted nowhere.h ''
expect 'planted: a file on no floor' 'nowhere.h is on no floor' check "$tmp/src" "$tmp/obj"
printf '#include <math.h>\ndouble f(double x);\ndouble f(double x) { return cos(x); }\n' >"$tmp/m.c"
"$CC" -shared -fPIC -Wl,--no-as-needed -o "$tmp/m.so" "$tmp/m.c" -lm || exit 99
expect 'planted: another library' 'libm.so' needs_alone "$tmp/m.so"
printf '#include "../libuffdwp/sys.h"\n' >"$tmp/tool.c"
expect 'planted: an internal header in a tool' 'sys.h' public_headers_alone "$tmp/tool.c"

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
