#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Fuzzes the reader of images, the option structs and the decoder of messages for a while, with sanitizers, each for
# its share of the time. Run by .ci/run, which has clang; `make check` runs what tests/fuzz has of inputs.
# usage: tests/fuzz.sh [SECONDS [TARGET...]]. Exit: 0, 1 with the input that fails in build/fuzz/, or 99.
set -u
cd "$(dirname "$0")/.." || exit 99
seconds=${1-30}
[ $# = 0 ] || shift
targets=("$@")
[ $# -gt 0 ] || targets=(image options events)
dir=${BUILD-build}/fuzz
libs=$(pkg-config --libs liburing) || exit 99
rm -rf "$dir"
mkdir -p "$dir/image.seeds" || exit 99
flags=(-std=c11 -O1 -g -D_GNU_SOURCE -Iinclude -Ilibuffdwp -Itools -pthread)
sources=(tests/common/image.c libuffdwp/image/*.c libuffdwp/*.c)
# wrapped TARGET: what stands in for the system, as in the Makefile.
wrapped() {
	case $1 in
	options) printf -- '-Wl,--wrap=uffdwp__sys_%s ' alloc alloc_zeros alloc_staging free ;;
	events) printf -- '-Wl,--wrap=uffdwp__sys_read' ;;
	esac
}

# shellcheck disable=SC2086 # $libs is a list
clang "${flags[@]}" -o "$dir/make-seeds" tests/fuzz/seeds.c "${sources[@]}" $libs &&
	"$dir/make-seeds" "$dir/image.seeds" || exit 99

# unpack FILE DIRECTORY: the lines of a corpus, of hexadecimal digits, as a file each.
unpack() {
	local line n=0
	mkdir -p "$2"
	sed 's/../\\x&/g' "$1" | while read -r line; do
		n=$((n + 1))
		printf '%b' "$line" >"$2/$n"
	done
}

passed=0 failed=0
for target in "${targets[@]}"; do
	[ ! -e "tests/fuzz/$target.corpus" ] || unpack "tests/fuzz/$target.corpus" "$dir/$target.seeds"
	mkdir -p "$dir/$target.new"
	# shellcheck disable=SC2086,SC2046
	clang "${flags[@]}" -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $(wrapped "$target") \
		-o "$dir/$target" "tests/fuzz/$target.c" "${sources[@]}" $libs || exit 99
	if "$dir/$target" -max_total_time=$((seconds / ${#targets[@]})) -timeout=20 -rss_limit_mb=2048 \
		-max_len=65536 -artifact_prefix="$dir/$target-" -print_final_stats=1 \
		"$dir/$target.new" "$dir/$target.seeds" >"$dir/$target.log" 2>&1; then
		passed=$((passed + 1))
		printf 'fuzz: %s: %d inputs of %d seeds in %d s: nothing wrong\n' "$target" \
			"$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/$target.log")" \
			"$(find "$dir/$target.seeds" -type f | wc -l)" $((seconds / ${#targets[@]}))
	else
		failed=$((failed + 1))
		echo "FAIL fuzz: $target: see $dir/$target.log and the input in $dir/$target-*"
		tail -n 60 "$dir/$target.log"
	fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
