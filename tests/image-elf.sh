#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Images as others see them: readelf and eu-readelf read one without a warning, and gdb prints variables of
# the program that it is of, by name and by address, where the program is position-independent and where not.
# Run by .ci/run, which has the tools.
set -u
cd "$(dirname "$0")/.." || exit 99
BUILD=${BUILD-build}
CC=${CC-cc}
export LC_ALL=C
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
libs=$(pkg-config --libs liburing) || exit 99
passed=0 failed=0 skipped=0

verdict() {
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $2"
	fi
}

# A list in static memory, which is the region, and one in memory from mmap.
cat >"$tmp/program.c" <<'END'
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/common/image.h"

struct item {
	int id;
	char name[12];
	struct item *next;
};

static _Alignas(4096) struct item table[4 * 4096 / sizeof(struct item) + 1];

int main(int argc, char **argv)
{
	size_t len = 4 * 4096;
	struct item *heap = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct image_part part[2] = { { (uintptr_t)table, len, 4096, (const char *)table },
				      { (uintptr_t)heap, len, 4096, (const char *)heap } };

	for (int i = 0; i < 100; i++) {
		table[i].id = i * 7;
		snprintf(table[i].name, sizeof(table[i].name), "item %d", i);
		table[i].next = &heap[i];
		heap[i].id = i * 11;
		heap[i].next = &table[i + 1];
	}
	printf("%p\n", (void *)heap);
	return argc == 2 ? image_make(argv[1], NULL, part, 2) : 2;
}
END

# quiet COMMAND...: nothing on standard error, no word of warning on standard output.
quiet() {
	"$@" >"$tmp/out" 2>"$tmp/err" && [ ! -s "$tmp/err" ] && ! grep -iE 'warning|error|corrupt|truncated' "$tmp/out"
}

# gdb_says PROGRAM IMAGE EXPRESSION TEXT
gdb_says() {
	local out
	out=$(gdb -nx -batch -ex "print $3" "$1" "$2" 2>&1)
	grep -qF -- "$4" <<<"$out" && ! grep -qi warning <<<"$out"
	verdict $? "gdb $1: print $3: $out"
}

for how in -pie -no-pie; do
	program=$tmp/program$how image=$tmp/image$how
	# shellcheck disable=SC2086 # $libs is a list
	"$CC" -std=gnu11 -g $how -fPIE -I. -Iinclude -o "$program" "$tmp/program.c" tests/common/image.c \
		"$BUILD/libuffdwp-image.a" "$BUILD/libuffdwp.a" $libs -pthread || exit 99
	heap=$("$program" "$image") || exit 99
	quiet readelf -a -W "$image"
	verdict $? "readelf: $(cat "$tmp/err" "$tmp/out")"
	grep -q 'LOAD .*RW' "$tmp/out"
	verdict $? "readelf shows no regions: $(cat "$tmp/out")"
	grep -q 'uffdwp' "$tmp/out"
	verdict $? "readelf shows no note: $(cat "$tmp/out")"
	quiet eu-readelf -a "$image"
	verdict $? "eu-readelf: $(cat "$tmp/err" "$tmp/out")"
	gdb_says "$program" "$image" 'table[5]' '{id = 35, name = "item 5'
	gdb_says "$program" "$image" '*table[5].next' '{id = 55,'
	gdb_says "$program" "$image" 'table[5].next->next->id' '= 42'
	gdb_says "$program" "$image" "((struct item *)$heap)[9].id" '= 99'
done

# An image of a live program: the example's own, if userfaultfd is permitted here.
"$BUILD/examples/live_snapshot" --size=16 --image="$tmp/live" >"$tmp/out" 2>&1
rc=$?
if [ $rc = 77 ]; then
	echo "SKIP live_snapshot: $(tail -n 1 "$tmp/out")"
	skipped=1
else
	verdict $rc "live_snapshot: $(cat "$tmp/out")"
	gdb_says "$BUILD/examples/live_snapshot" "$tmp/live" about.text '"a key-value store"'
	gdb_says "$BUILD/examples/live_snapshot" "$tmp/live" about.nrecords '= 65536'
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
