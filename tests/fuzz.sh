#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Fuzzes the reader of images for a while, with sanitizers. Run by .ci/run, which has clang.
# usage: tests/fuzz.sh [SECONDS]. Exit: 0, 1 with the input that fails in build/fuzz/, or 99.
set -u
cd "$(dirname "$0")/.." || exit 99
seconds=${1-30}
dir=${BUILD-build}/fuzz
libs=$(pkg-config --libs liburing) || exit 99

rm -rf "$dir"
mkdir -p "$dir/corpus" "$dir/seeds" || exit 99
flags=(-std=c11 -O1 -g -D_GNU_SOURCE -Iinclude -Ilibuffdwp -Itools -pthread)
# shellcheck disable=SC2086 # $libs is a list
clang "${flags[@]}" -o "$dir/make-seeds" tests/fuzz/seeds.c tests/common/image.c \
	libuffdwp/image/*.c libuffdwp/*.c $libs &&
	"$dir/make-seeds" "$dir/seeds" || exit 99
# shellcheck disable=SC2086
clang "${flags[@]}" -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o "$dir/image" \
	tests/fuzz/image.c libuffdwp/image/*.c libuffdwp/*.c $libs || exit 99
"$dir/image" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 \
	-artifact_prefix="$dir/" -print_final_stats=1 "$dir/corpus" "$dir/seeds" || exit 1
