#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The system calls of serving threads that uffdwp(7) lists are those that the filter of tools/common/sandbox.c
# allows, in the same groups: what the tests prove is what the manual says.
set -u
cd "$(dirname "$0")/.." || exit 99
export LC_ALL=C
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

# "GROUP NAME" lines of the manual. A paragraph's tag is the line after its .TP.
sed -n '/^\.SH SYSTEM CALLS OF SERVING/,/^\.SH VERSIONS/p' docs/uffdwp.7 | awk '
	/^\.TP/ { tag = 1; next }
	tag {
		tag = 0
		group = "UNKNOWN " $0
		if (/^always|^beginning/) group = "ALWAYS"
		if (/^placement/) group = "PLACEMENT"
		if (/^missing/) group = "ABSENT"
		if (/uffdwp_read/) group = "FOREIGN"
		if (/^EVENT_FORK/) group = "FORK"
		if (/forked/) group = "FORKED"
		if (/^SIGBUS/) group = "SIGBUS"
		if (/snapshot/) group = "SNAPSHOT"
		if (/^an adopted handle/) group = "ADOPTED"
		if (/^a restore/) group = "RESTORE"
		next
	}
	!group { next }
	/^\.BR [a-z0-9_]+ \(2\)/ && $2 != "ioctl" { print group, $2 }
	{ line = $0; while (match(line, /(UFFDIO|PAGEMAP)_[A-Z]+/)) {
		print group, substr(line, RSTART, RLENGTH); line = substr(line, RSTART + RLENGTH) } }
' | sort -u >"$tmp/manual"

# LOOP is what the tests themselves need.
sed -nE 's/^\t\{ (SANDBOX_)?([A-Z]+), "([A-Za-z0-9_]+)".*/\2 \3/p' tools/common/sandbox.c |
	grep -v '^LOOP ' | sort -u >"$tmp/filter"

[ "$(wc -l <"$tmp/filter")" -gt 30 ] || { echo "the tables of sandbox.c were not found"; exit 99; }
if diff -u "$tmp/manual" "$tmp/filter"; then
	echo "1 passed, 0 failed, 0 skipped"
else
	echo "FAIL uffdwp(7) and tools/common/sandbox.c differ"
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
fi
