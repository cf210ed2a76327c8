#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Load while memory is short: in a memory cgroup with a limit below what the programs use, with swap in
# zram, so that pages are swapped out while they are protected, tracked and saved. It is checked that they were.
#
#	tests/pressure.sh [--short]
#
# The cgroup and the zram device are its own, and are taken away at the end, also by a signal. Exit: 0, 1, 2
# misuse, 77 where this can not be set up (the last line says why).
set -u
cd "$(dirname "$0")/.." || exit 99
BUILD=${BUILD-build}
seconds=2 times=10 row=40
case ${1-} in
'') ;;
--short) times=1 ;;
*)
	echo "usage: tests/pressure.sh [--short]" >&2
	exit 2
	;;
esac

group='' zram='' job=''
log=$(mktemp) || exit 99
clean_up() {
	trap '' INT TERM HUP
	rm -f "$log"
	if [ -n "$job" ]; then
		kill -9 "$job" 2>/dev/null
		wait "$job" 2>/dev/null
	fi
	if [ -n "$zram" ]; then
		swapoff "/dev/zram$zram" 2>/dev/null
		echo 1 >"/sys/block/zram$zram/reset" 2>/dev/null
		echo "$zram" >/sys/class/zram-control/hot_remove 2>/dev/null
	fi
	# What ran in it may need a moment to be gone.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ -d "${group:-/nowhere}" ] || break
		rmdir "$group" 2>/dev/null || sleep 0.2
	done
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

skip() {
	echo "skipped: $*"
	exit 77
}

[ "$(id -u)" = 0 ] || skip "memory pressure needs root"

# A device of its own: one that is there may be somebody's.
[ -r /sys/class/zram-control/hot_add ] || skip "no zram to swap to"
zram=$(cat /sys/class/zram-control/hot_add) || skip "no zram device can be added"
node=/dev/zram$zram
[ -b "$node" ] || mknod "$node" b "$(cut -d: -f1 "/sys/block/zram$zram/dev")" \
	"$(cut -d: -f2 "/sys/block/zram$zram/dev")" || skip "no node for zram$zram"
echo 1G >"/sys/block/zram$zram/disksize" || skip "zram$zram takes no size"
mkswap "$node" >/dev/null || skip "no swap can be made on zram$zram"
swapon -p 100 "$node" || skip "zram$zram can not be swapped to"

if [ -d /sys/fs/cgroup/memory ]; then
	group=/sys/fs/cgroup/memory/uffdwp-pressure-$$ limit=memory.limit_in_bytes
elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
	group=/sys/fs/cgroup/uffdwp-pressure-$$ limit=memory.max
else
	skip "no memory cgroup"
fi
mkdir "$group" 2>/dev/null || { group=''; skip "no cgroup can be made"; }
[ -w "$group/$limit" ] || skip "the cgroup has no $limit"

swapped() {
	awk '$1 == "pswpout" || $1 == "pswpin" { n += $2 } END { printf "%d\n", n }' /proc/vmstat
}

passed=0 failed=0 total=0
# run_in MIB COMMAND...: in the group. Sets rc, and n, how many pages were swapped.
run_in() {
	local mib=$1 before
	shift
	# The limit of a group that is still full can not be lowered at once: it is empty here.
	echo $((mib << 20)) >"$group/$limit" || return 1
	before=$(swapped)
	(echo "$BASHPID" >"$group/cgroup.procs" && exec "$@") >"$log" 2>&1 &
	job=$!
	wait "$job" 2>/dev/null
	rc=$?
	job=''
	n=$(($(swapped) - before))
	total=$((total + n))
}

# squeeze NAME MIB COMMAND...: with so much memory, so many times, or as often as fit into the row's time. Every ten
# seconds or so the kernel finds no page that it would swap out, with swap enough, and ends the program: so it runs
# often, and not long; it gets a MiB more then. Where no page was swapped, as the program did not need what it had, that
# run does not count, and it gets four less. Both are told.
squeeze() {
	local name=$1 base=$2 mib rc=0 n=0 pages=0 killed=0 idle=0 ran=0 begin=$SECONDS again
	shift 2
	while ((ran < times)) && { ((ran == 0)) || ((SECONDS - begin < row)); }; do
		mib=$base
		for ((again = 0; again <= 16; again++)); do
			run_in "$mib" "$@"
			if [ $rc = 137 ]; then
				killed=$((killed + 1)) mib=$((mib + 1))
			elif [ $rc = 0 ] && [ $n = 0 ]; then
				idle=$((idle + 1)) mib=$((mib - 4)) base=$mib
			else
				break
			fi
		done
		if [ $rc != 0 ] || [ $n = 0 ]; then break; fi
		ran=$((ran + 1)) pages=$((pages + n))
	done
	if [ $rc = 0 ] && [ $n -gt 0 ]; then
		passed=$((passed + 1))
		printf 'pressure: %s in %d MiB, %d times, %d pages swapped out or in: nothing lost (%d more were killed, %d swapped nothing)\n' \
			"$name" "$base" $ran $pages $killed $idle
	else
		failed=$((failed + 1))
		printf 'FAIL %s in %d MiB: exit %d, %d pages swapped\n' "$name" "$mib" $rc $n
		tail -n 20 "$log"
	fi
}

stress=$BUILD/uffd-stress
squeeze 'bounce of 48 MiB, protected' 80 "$stress" bounce --mem=anon --size=48M --modes=random,poll+racing \
	--duration="$seconds" --no-progress
squeeze 'shmem bounce of 48 MiB, protected' 80 "$stress" bounce --mem=shmem --size=48M --modes=random,poll+racing \
	--duration="$seconds" --no-progress
# Some of it is locked, and a child copies it.
squeeze 'tracking of 24 MiB' 48 "$stress" track --mem=anon --size=24M --duration="$seconds" --no-progress
squeeze 'snapshots of 160 MiB' 144 "$BUILD/tests/torture/load" --only=snapshots --size=160 --seconds="$seconds"
# With less of it swapped, these are ended more often. 64 writers that swap take a minute or two for two rounds.
if [ $times -gt 1 ]; then
	squeeze '32 handles on 128 MiB' 100 "$BUILD/tests/torture/load" --only=handles --size=128 --seconds="$seconds"
	times=1
	squeeze '10,000 regions of 160 MiB' 144 "$BUILD/tests/torture/load" --only=regions --size=160 --seconds="$seconds"
fi

echo "pressure: $total pages swapped out or in"
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
