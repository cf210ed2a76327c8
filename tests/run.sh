#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The runner of `make check`: every program in $BUILD/tests and $BUILD/examples, short runs of
# uffd-stress, and, without a sanitizer, the scripts in tests/. Each runs under a timeout, with its output
# in $BUILD/logs.
#
# What a program tells is counted in this order: a last line "N passed, N failed, N skipped", also with
# the last two exchanged; libcheck's "Checks: N, Failures: F, Errors: E", less the lines that
# begin with SKIP; else it is one case by its exit code, where 77 is a skip. A skip without a reason
# is a failure. So is a report of a sanitizer, also from a child whose exit code nobody looked at.
# Skips fail the run on a kernel and with rights that have everything (UFFDWP_SKIPS_ALLOWED=n allows n).
#
# Arguments: only run what has one of them in its name, and nothing that has one in its name that is given
# with a ! before it. UFFDWP_SLOWER=n: time limits are n times as long, on slow machines. UFFDWP_BRIEF=1:
# less is repeated, and on less memory. Exit: 0, 1, or 99 if there is nothing to run.
set -u
cd "$(dirname "$0")/.." || exit 99

BUILD=${BUILD-build}
SAN=${SAN-}
CC=${CC-cc}
export BUILD SAN CC
logs=$BUILD/logs
only=() never=()
for arg; do
	case $arg in
	!*) never+=("${arg#!}") ;;
	*) only+=("$arg") ;;
	esac
done
passed=0 failed=0 skipped=0
running=

slow=1
case $SAN in
address) slow=4 ;;
thread) slow=8 ;;
esac
slow=$((slow * ${UFFDWP_SLOWER:-1}))
export CK_DEFAULT_TIMEOUT=20 CK_TIMEOUT_MULTIPLIER=$slow
# A sanitizer sees at the first time what is wrong: without one all is repeated.
[ -z "$SAN" ] || export UFFDWP_BRIEF=1

rm -rf "$logs"
mkdir -p "$logs" && logs=$(cd "$logs" && pwd) || exit 99
ulimit -c 0
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; exit 130' INT TERM

# The ThreadSanitizer of older compilers can not live with as many random address bits as newer kernels use.
launch=()
if [ "$SAN" = thread ] && setarch -R true 2>/dev/null; then
	launch=(setarch -R)
fi

# Features that every test wants are in Linux 6.8, and all of them only for root.
reference() {
	local major minor
	IFS=.- read -r major minor _ < <(uname -r)
	[ "$(id -u)" = 0 ] && [ $((major * 1000 + minor)) -ge 6008 ]
}

hugepages() {
	cat /proc/sys/vm/nr_hugepages 2>/dev/null || echo 0
}

sanitizer_env() {
	local at=log_path=$logs/$1.san
	export ASAN_OPTIONS="${ASAN_OPTIONS-}:detect_leaks=1:allocator_may_return_null=1:$at"
	export UBSAN_OPTIONS="${UBSAN_OPTIONS-}:print_stacktrace=1:$at"
	export TSAN_OPTIONS="${TSAN_OPTIONS-}:second_deadlock_stack=1:$at"
}

# Sets p, f, s from the log and the exit code.
count() {
	local log=$1 rc=$2 line
	p=0 f=0 s=0
	line=$(grep -E '^[0-9]+ passed, [0-9]+ (failed|skipped), [0-9]+ (failed|skipped)$' "$log" | tail -n 1)
	if [[ $line = *', '*' skipped, '* ]]; then
		read -r p _ s _ f _ <<<"$line"
	elif [ -n "$line" ]; then
		read -r p _ f _ s _ <<<"$line"
	elif grep -qE '^[0-9]+%: Checks: [0-9]+, Failures:' "$log"; then
		read -r p f < <(awk -F '[:,]' '/^[0-9]+%: Checks: [0-9]+, Failures:/ { n += $3; f += $5 + $7 }
			END { print n - f, f }' "$log")
		s=$(grep -c '^SKIP' "$log")
		p=$((p - s))
	elif [ "$rc" = 0 ]; then
		p=1
	elif [ "$rc" = 77 ]; then
		s=1
	fi
	case $rc in
	0) ;;
	77) [ "$s" -gt 0 ] || f=$((f + 1)) ;;
	*) [ "$f" -gt 0 ] || f=1 ;;
	esac
	# A program that ran nothing has tested nothing.
	[ $((p + f + s)) -gt 0 ] || f=1
}

# By the name as it is, or as it is printed.
wanted() {
	local o names="$1 ${1//[ \/=]/_}"
	for o in "${never[@]}"; do
		case $names in *"$o"*) return 1 ;; esac
	done
	[ ${#only[@]} -gt 0 ] || return 0
	for o in "${only[@]}"; do
		case $names in *"$o"*) return 0 ;; esac
	done
	return 1
}

indent() {
	sed 's/^/     | /'
}

# ends HEAD TAIL: the first lines say what was wrong, the last how it ended.
ends() {
	awk -v head="$1" -v tail="$2" 'NR <= head { print; next } { line[NR % tail] = $0 }
		END {
			if (NR > head + tail)
				print "[... " NR - head - tail " lines]"
			for (i = NR - head > tail ? NR - tail + 1 : head + 1; i <= NR; i++)
				print line[i % tail]
		}'
}

# run NAME SECONDS COMMAND...: one program.
run() {
	local name=$1 limit=$(($2 * slow)) log rc reports why p f s began=$SECONDS
	shift 2
	wanted "$name" || return 0
	name=${name//[ \/=]/_}
	log=$logs/$name.log
	(sanitizer_env "$name" && exec timeout -k 10 "$limit" "${launch[@]}" "$@") </dev/null >"$log" 2>&1 &
	running=$!
	wait "$running"
	rc=$?
	running=
	count "$log" "$rc"
	reports=$(cat "$logs/$name.san".* 2>/dev/null)
	reports+=$(grep -aE 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|: runtime error: ' "$log")
	[ -z "$reports" ] || [ "$f" -gt 0 ] || f=1
	# A skip needs words, which counts are not; any line will do of a program that has no counts.
	why=$(grep -avE '^[0-9]+ passed, |^[0-9]+%: Checks' "$log")
	why=$(grep -ai 'skip\|unsupported\|lacks' <<<"$why" || { [ -n "$why" ] && [ "$rc" = 77 ] && tail -n 1 <<<"$why"; })
	[ "$s" = 0 ] || [ -n "$why" ] || f=$((f + 1))

	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	if [ "$f" -gt 0 ]; then
		printf 'FAIL %-34s %d passed, %d failed, %d skipped, exit %d' "$name" "$p" "$f" "$s" "$rc"
		[ "$rc" != 124 ] && [ "$rc" != 137 ] || printf ' (after %d s)' "$limit"
		printf '\n'
		grep -avE '^(pass|skip|  skipped:) ' "$log" | ends 60 120 | indent
		[ -z "$reports" ] || head -n 80 <<<"$reports" | indent
	else
		printf 'ok   %-34s %d passed, %d skipped, %d s\n' "$name" "$p" "$s" $((SECONDS - began))
		[ "$s" = 0 ] || indent <<<"$why"
	fi
}

before=$(hugepages)

# By source, so that a program which was not built is missed.
for src in tests/unit/*.c tests/live/*.c examples/*.c; do
	[ ! -e "$src" ] || run "${src%.c}" 120 "$BUILD/${src%.c}"
done

# `make check-fault` is the long form. ThreadSanitizer maps memory within any call, and ends when that fails.
[ "$SAN" = thread ] || run "tests/fault/inject --short" 120 "$BUILD/tests/fault/inject" --short

# The fuzzer's inputs; tests/fuzz.sh makes others. The seeds are images, written here.
for target in options events; do
	run "tests/fuzz/$target" 120 "$BUILD/tests/fuzz/$target" "tests/fuzz/$target.corpus"
done
if wanted tests/fuzz/image; then
	rm -rf "$logs/seeds"
	mkdir -p "$logs/seeds" && "$BUILD/tests/fuzz/seeds" "$logs/seeds"
	run "tests/fuzz/image" 120 "$BUILD/tests/fuzz/image" "$logs"/seeds/*
fi

# `make check-torture` is the long form.
run "tests/torture/load --short" 120 "$BUILD/tests/torture/load" --short
[ -n "$SAN" ] || run "tests/pressure.sh --short" 120 tests/pressure.sh --short

# stress WHAT SECONDS ARGUMENT...
stress() {
	local what=$1 limit=$2
	shift 2
	run "uffd-stress $what" "$limit" "$BUILD/uffd-stress" "$@" --watchdog=$((30 * slow))
}

# Sixteen see every combination of modes.
bounces=16 rounds=2 size=4M
[ -z "${UFFDWP_BRIEF-}" ] || rounds=1 size=1M
[ -z "${UFFDWP_BRIEF-}" ] || [ -n "$SAN" ] || bounces=4
for mem in anon thp shmem memfd-private hugetlb hugetlb-private; do
	stress "bounce $mem" 60 bounce --mem=$mem --size=$size --bounces=$bounces
	stress "sigbus $mem" 60 sigbus --mem=$mem --size=$size --bounces=$rounds
	stress "events $mem" 60 events --mem=$mem --size=$size --bounces=$rounds
	stress "track $mem" 90 track --mem=$mem --size=$size --bounces=$((rounds * 4)) --duration=20
	# Each of its seven ways.
	stress "snapshot $mem" 90 snapshot --mem=$mem --size=1M --bounces=$((rounds * 7))
done
# Measures nothing worth to know, but every side has to report what was written, and draws it.
run "uffd-bench track" 60 "$BUILD/uffd-bench" track --size=2M --plot="$logs/track.svg"
run "examples/gc_barrier --verify" 120 "$BUILD/examples/gc_barrier" --verify
# Nobody lists what a sanitizer calls: under one there is no filter, and nothing to see.
if [ -z "$SAN" ]; then
	stress "bounce --sandbox" 60 bounce --sandbox --mem=anon,shmem --size=$size --bounces=$bounces
	stress "events --sandbox" 60 events --sandbox --mem=anon --size=$size --bounces=$rounds
	stress "track --sandbox" 60 track --sandbox --mem=anon,shmem --size=$size --bounces=$rounds
	stress "snapshot --sandbox" 60 snapshot --sandbox --mem=anon,shmem --size=1M --bounces=$((rounds * 7))
fi
run "examples/live_snapshot precopy" 120 "$BUILD/examples/live_snapshot" --strategy=precopy --compare-fork
# Every image is compared in full. The peers read pages whose writer sleeps by memcpy() and write(2), which
# ThreadSanitizer takes for a race.
if [ "$SAN" != thread ]; then
	run "uffd-bench snapshot" 120 "$BUILD/uffd-bench" snapshot --size=16M --pace=full --to=tmpfs --plot="$logs/snapshot.svg"
	run "uffd-bench restore" 120 "$BUILD/uffd-bench" restore --size=16M --to=tmpfs
	# And the probe asks the kernel, not the library.
	run "uffd-stress probe" 60 "$BUILD/uffd-stress" probe
fi

# They look at sources and at installed files, which a sanitizer does not change. Those left out need a
# C++ compiler, clang, gdb, or build everything again, more than once: they are steps of .ci/run.
if [ -z "$SAN" ]; then
	for script in tests/*.sh; do
		case $script in
		tests/run.sh | tests/kernels.sh | tests/pressure.sh | tests/cxx-header.sh | tests/headers.sh | \
			tests/mutants.sh | tests/fuzz.sh | tests/image-elf.sh) ;;
		*) run "$script" 120 "$script" ;;
		esac
	done
fi

if [ $((passed + failed + skipped)) = 0 ]; then
	echo "tests/run.sh: nothing to run" >&2
	exit 99
fi

# What a test reserved, it gives back; the guard of a killed one may need a moment.
for _ in 1 2 3 4 5; do
	[ "$(hugepages)" -gt "$before" ] || break
	sleep 1
done
if [ "$(hugepages)" -gt "$before" ]; then
	echo "FAIL vm.nr_hugepages: $before before, $(hugepages) after"
	failed=$((failed + 1))
fi

allowed=${UFFDWP_SKIPS_ALLOWED-}
if [ -z "$allowed" ]; then
	allowed=$skipped
	if reference; then allowed=0; fi
fi
status=0
if [ "$skipped" -gt "$allowed" ]; then
	echo "FAIL $skipped skipped, $allowed allowed on this kernel with these rights"
	status=1
fi
[ "$failed" = 0 ] || status=1

echo "$passed passed, $failed failed, $skipped skipped"
exit $status
