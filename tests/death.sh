#!/bin/bash
# SPDX-License-Identifier: MIT
#
# A uffd-stress that a signal kills says what it was doing, and how to do it again.
set -u
cd "$(dirname "$0")/.." || exit 99
export LC_ALL=C
stress=${BUILD:-build}/uffd-stress
passed=0 failed=0
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

[ -x "$stress" ] || { echo "$stress: not there; run: make"; exit 99; }

# dies SIGNAL: by which it has to end, after it has told.
dies() {
	local pid rc try
	(exec "$stress" snapshot --mem=anon --size=1M --duration=30 --no-progress) >"$tmp/out" 2>&1 &
	pid=$!
	for ((try = 0; try < 200; try++)); do
		grep -q '^Threads:.[2-9]' "/proc/$pid/status" 2>/dev/null && break
		sleep 0.05
	done
	sleep 0.5
	kill -"$1" "$pid"
	wait "$pid" 2>/dev/null
	rc=$?
	if [ "$rc" = $((128 + $1)) ] && grep -q "killed by signal $1" "$tmp/out" && grep -q -- '--seed=[0-9]*$' "$tmp/out"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL signal $1: exit $rc, and it said:"
		sed 's/^/     | /' "$tmp/out"
	fi
}

dies 7  # SIGBUS, which the library hands on
dies 11 # SIGSEGV
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
