#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The runner of `make check-kernels`: boots Debian's cloud kernels under qemu, with an initramfs made from
# $BUILD, runs in each what tests/run.sh runs and `uffd-stress probe`, and compares what was
# obtained, skipped and promised with tests/kernels/expected. What differs is a failure, so is a warning of a kernel.
# If all pass, the long form writes the tables between the markers of docs/kernel.md.
#
# usage: tests/kernels.sh [--short [--docs]] [SERIES...]
# --short: a choice of the tests, for every change. --docs: write the tables all the same.
# UFFDWP_KERNELS: where packages are kept, else ~/.cache/libuffdwp/kernels. Needs what
# `tools/bootstrap --kernels` installs.
# Exit: 0; 1 if anything failed; 77 if no kernel could be had; 99 for want of a program.
set -u
cd "$(dirname "$0")/.." || exit 99
export LC_ALL=C

BUILD=${BUILD-build}
cache=${UFFDWP_KERNELS-${XDG_CACHE_HOME-$HOME/.cache}/libuffdwp/kernels}
out=$BUILD/kernels
expected=tests/kernels/expected
memory=2048 # MiB of a VM
disk=512M   # of which swap takes a quarter

form=long
docs=docs/kernel.md
if [ "${1-}" = --short ]; then
	form=short docs=
	shift
	if [ "${1-}" = --docs ]; then
		docs=docs/kernel.md
		shift
	fi
fi
only=("$@")
passed=0 failed=0 skipped=0
boots=() # processes

# Time limits are so many times as long: they are there for what hangs, not for what emulation makes slow.
slower=4
# uffd-stress probe has rows of its own; what uffd-stress events does, tests/live does in less time. The bitmap,
# and every byte of an image, ask nothing of the kernel, and take minutes.
tests='!unit/bitmap !unit/image_damage'
limit=2400
if [ $form = long ]; then
	tests+=' tests/unit tests/live uffd-stress_bounce uffd-stress_sigbus uffd-stress_track uffd-stress_snapshot'
else
	tests+=' !unit/image tests/unit tests/live/obtained tests/live/open tests/live/minor tests/live/sigbus'
	tests+=' tests/live/fallback tests/live/snapshot_discard'
	tests+=' bounce_anon sigbus_anon bounce_shmem sigbus_shmem'
	tests+=' stress_track_anon stress_snapshot_anon'
	limit=600
fi

for tool in qemu-system-x86_64 busybox cpio strip ldd; do
	command -v $tool >/dev/null || {
		echo "tests/kernels.sh: no $tool, see tools/bootstrap --kernels" >&2
		exit 99
	}
done
[ -x "$BUILD/uffd-stress" ] || {
	echo "tests/kernels.sh: $BUILD holds no build" >&2
	exit 99
}
rm -rf "$out"
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 99
trap 'kill "${boots[@]}" 2>/dev/null; exit 130' INT TERM

pass() { passed=$((passed + 1)); }
skip() { skipped=$((skipped + 1)) && echo "skip $*"; }
fail() { failed=$((failed + 1)) && echo "FAIL $*"; }

# Without comments.
expected() {
	grep -v '^#' "$expected"
}

# for_series WORD SERIES: the rest of such lines that are about a series.
for_series() {
	expected | awk -v word="$1" -v series="$2" '$1 == word {
		n = split($2, s, ",")
		for (i = 1; i <= n; i++)
			if (s[i] == series) {
				sub(/^[^ ]+ +[^ ]+ +/, "")
				print
			}
	}'
}

# ---- The machine ----

# base ROOT: what is the same for all kernels.
base() {
	local root=$1 src program
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,etc,modules,tree/tests}
	cp "$(command -v busybox)" "$root/bin/busybox"
	ln -s busybox "$root/bin/sh"
	cp tests/kernels/init "$root/init"
	cp tests/run.sh "$root/tree/tests"
	cp "$(command -v bash)" "$(command -v timeout)" "$root/bin"
	echo root:x:0:0:root:/:/bin/sh >"$root/etc/passwd"
	# tests/run.sh looks for programs by their sources, of which the names will do.
	for src in tests/unit/*.c tests/live/*.c; do
		program=$BUILD/${src%.c}
		[ -x "$program" ] || { echo "$program is missing" >&2; return 1; }
		mkdir -p "$root/tree/${src%/*}" "$root/tree/build/${src%/*}"
		: >"$root/tree/$src"
		strip -o "$root/tree/build/${src%.c}" "$program" || return 1
	done
	for program in "$BUILD"/uffd-*; do
		strip -o "$root/tree/build/${program##*/}" "$program" || return 1
	done
	while read -r src; do
		cp -L --parents "$src" "$root" || return 1
	done < <(find "$root/bin" "$root/tree/build" -type f -exec ldd {} + 2>/dev/null |
		awk '/=> \// { print $3 } $1 ~ /^\// && !/:$/ { print $1 }' | sort -u)
}

# initrd KERNEL DIR: the kernel unpacks one archive after the other.
initrd() {
	local kernel=$1 dir=$2
	rm -rf "$dir/own"
	mkdir -p "$dir/own/modules"
	cp "$kernel"/modules/* "$dir/own/modules"
	printf 'SLOWER=%s\nTESTS="%s"\n' "$slower" "$tests" >"$dir/own/run.conf"
	cp "$out/base.cpio" "$dir/initrd"
	(cd "$dir/own" && find . | cpio --quiet -o -H newc -R 0:0) >>"$dir/initrd"
	rm -rf "$dir/own"
}

# boot KERNEL DIR: the exit code of timeout(1), or of qemu.
boot() {
	local kernel=$1 dir=$2 rc
	rm -f "$dir"/{disk,console,result}
	truncate -s $disk "$dir/disk"
	initrd "$kernel" "$dir"
	# qemu 7.2 gets the flags after cmpxchg16b wrong. Page tables of five levels cost time, and so do strings of
	# bytes, by which a kernel clears and copies pages if told that they are fast. Lockups are the host's doing,
	# where it gives an emulated CPU no time.
	timeout -k 10 $limit qemu-system-x86_64 -accel tcg,thread=multi -cpu max,cx16=off,la57=off,erms=off,fsrm=off \
		-smp 2 -m $memory -nodefaults -no-user-config -display none -no-reboot \
		-kernel "$kernel/vmlinuz" -initrd "$dir/initrd" \
		-append 'console=ttyS0 panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 mitigations=off' \
		-serial "file:$dir/console" -serial "file:$dir/result" \
		-drive "file=$dir/disk,if=virtio,format=raw,cache=unsafe" </dev/null >"$dir/qemu" 2>&1 &
	qemu=$!
	wait $qemu
	rc=$?
	qemu=
	rm -f "$dir/disk" "$dir/initrd"
	return $rc
}

# Before 8.1, qemu's threads may run a breakpoint that the kernel has long replaced while it patches its own code,
# mostly at boot, once in some tens of them ("still see int3", linux-kernel, July 2023).
emulation_failed() {
	grep -aqE '(Oops: )?int3: 0000 \[#1\]' "$1/console"
}

# run_vm KERNEL DIR: boots, and does so again where it was the emulation that failed. In DIR/rc is how it ended.
run_vm() {
	local rc i qemu='' began=$SECONDS
	trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null; exit 130' INT TERM
	for i in 1 2 3 4; do
		boot "$@"
		rc=$?
		emulation_failed "$2" || break
		echo "note: boot $i of ${2##*/} met qemu's stale int3, after $(grep -c '^test ok' "$2/result") tests"
	done
	echo $rc $((SECONDS - began)) >"$2/rc"
}

# ---- Judging ----

# The bits of features by their names, as in `capability feature-NAME`.
bits=(wp event-fork event-remap event-remove missing-hugetlbfs missing-shmem event-unmap sigbus thread-id
	minor-hugetlbfs minor-shmem exact-address wp-hugetlbfs-shmem wp-unpopulated poison wp-async move rwp
	rwp-async)

# lacks_mask COLUMN: of the features that are expected to be lacking.
lacks_mask() {
	local i mask=0
	for i in "${!bits[@]}"; do
		[ "$(expected | awk -v n="feature-${bits[i]}" -v c=$(($1 + 1)) '$1 == n { print $c }')" = no ] &&
			mask=$((mask | 1 << i))
	done
	echo $mask
}

# may_lack REASON MASK SERIES: whether a test may be skipped for it.
may_lack() {
	local reason=$1 mask=$2 regex i
	if [[ $reason =~ lacks\ the\ features\ (0x[0-9a-f]+) ]]; then
		[ $((BASH_REMATCH[1] & ~mask)) = 0 ]
		return
	fi
	# "features: MOVE (6.8) is required, the kernel lacks it"
	if [[ $reason =~ ([A-Z_]+)\ \([0-9.]+\)\ is\ required ]]; then
		i=${BASH_REMATCH[1],,}
		for regex in "${!bits[@]}"; do
			[ "${bits[regex]}" != "${i//_/-}" ] || [ $((mask >> regex & 1)) = 0 ] || return 0
		done
	fi
	while read -r regex; do
		[[ ! $reason =~ $regex ]] || return 0
	done < <(for_series skip "$3")
	return 1
}

# Each capability that is expected, and no other.
judge_capabilities() {
	local series=$1 column=$2 dir=$3 name want got
	sed -n 's/^capability //p' "$dir/result" >"$dir/capabilities"
	while read -r name want; do
		got=$(awk -v n="$name" '$1 == n { print $2 }' "$dir/capabilities")
		if [ "$got" = "$want" ]; then
			pass
		else
			fail "$series $name: ${got:-nothing}, should be $want"
		fi
	done < <(expected | awk -v c=$((column + 1)) '/\|/ { print $1, $c }')
	while read -r name got; do
		expected | awk -v n="$name" '$1 == n { found = 1 } END { exit !found }' ||
			fail "$series $name: $got, and tests/kernels/expected does not know it"
	done <"$dir/capabilities"
}

# What tests/run.sh printed: failures, counts, and each reason of a skip.
judge_tests() {
	local series=$1 mask=$2 dir=$3 p f s line reason
	sed -n 's/^test //p' "$dir/result" >"$dir/tests"
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$dir/tests" | tail -n 1)
	if [ -z "$line" ]; then
		fail "$series tests: no end"
		return
	fi
	read -r p _ f _ s _ <<<"$line"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	echo "$p $f $s" >"$dir/tests.count"
	# With the lines below, less the reasons of skips.
	awk '/^(ok|FAIL) / { on = /^FAIL/ } on && !/^     \| (skip|pass) /' "$dir/tests" |
		sed "s/^FAIL/FAIL $series/"
	# Whatever has been skipped has one of these, or tests/run.sh has failed it.
	sed -nE 's/^     \| +//; s/^skip [^:]*: //p; s/^skipped: //p; s/^SKIP:? *//p
		s/^uffd-stress: unsupported: [a-z-]+: //p' "$dir/tests" | sort | uniq -c >"$dir/reasons"
	while read -r _ reason; do
		may_lack "$reason" "$mask" "$series" || fail "$series skipped: $reason"
	done <"$dir/reasons"
	[ "$s" = 0 ] || [ -s "$dir/reasons" ] || fail "$series: $s skipped, and no reason"
}

# "RESULT ID KIND SINCE TEXT" for each check, separated by tabs.
probe_rows() {
	sed -n 's/^probe //p' "$1" | grep '"id":' | sed -E \
		's/.*"id":"([^"]*)","mem":"([^"]*)","result":"([^"]*)".*"since":"([^"]*)".*"text":"(([^"\\]|\\.)*)".*/\3\t\1\t\2\t\4\t\5/
		s/.*"id":"([^"]*)","result":"([^"]*)".*"since":"([^"]*)".*"text":"(([^"\\]|\\.)*)".*/\2\t\1\t-\t\3\t\4/
		s/\\(.)/\1/g'
}

newer() {
	[ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | tail -n 1)" = "$1" ]
}

judge_probe() {
	local series=$1 mask=$2 dir=$3 version result id kind since text
	local -A known=()
	version=$(cut -d - -f 1 "$dir/release")
	: >"$dir/probe"
	probe_rows "$dir/result" >"$dir/rows"
	[ -s "$dir/rows" ] || fail "$series probe: no rows"
	while read -r id kind; do
		for kind in ${kind//,/ }; do known[$id $kind]=1; done
	done < <(for_series differs "$series")
	while IFS=$'\t' read -r result id kind since text; do
		# What came later is not this kernel's to keep, even if it has what the row asks with.
		[ "$result" = pass ] || ! newer "$since" "$version" || result=older
		printf '%s\t%s\t%s\t%s\n' "$result" "$id" "$kind" "$text" >>"$dir/probe"
		case $result in
		pass)
			if [ -n "${known[$id $kind]-}" ]; then
				fail "$series probe $id $kind: holds, and tests/kernels/expected says that it does not"
				unset "known[$id $kind]"
			else
				pass
			fi
			;;
		older) skipped=$((skipped + 1)) ;;
		unsupported)
			skipped=$((skipped + 1))
			may_lack "$text" "$mask" "$series" || fail "$series probe $id $kind: unsupported: $text"
			;;
		*)
			if [ -n "${known[$id $kind]-}" ]; then
				pass
				unset "known[$id $kind]"
			else
				fail "$series probe $id $kind: $result: $text"
			fi
			;;
		esac
	done <"$dir/rows"
	for id in "${!known[@]}"; do
		fail "$series probe $id: no failure, and tests/kernels/expected says that there is one"
	done
	# 1: some row does not hold. Otherwise it has ended before its last.
	grep -qE '^end probe [01] ' "$dir/result" || fail "$series probe: $(grep '^end probe' "$dir/result")"
}

# The kernel's own complaints.
judge_console() {
	local series=$1 dir=$2 line regex ok
	while read -r line; do
		ok=
		while read -r regex; do
			[[ ! $line =~ $regex ]] || ok=1
		done < <(for_series warning "$series")
		[ -n "$ok" ] || fail "$series kernel: $line"
	done < <(grep -aE 'Kernel panic|Oops|BUG:|kernel BUG|WARNING:|general protection|blocked for more than|Out of memory' \
		"$dir/console" | tr -d '\r' | sort -u)
}

judge() {
	local series=$1 column=$2 dir=$3 rc=$4 mask before=$failed
	tr -d '\r' <"$dir/result" >"$dir/result.new" && mv "$dir/result.new" "$dir/result"
	sed -n 's/^kernel //p' "$dir/result" >"$dir/release"
	judge_console "$series" "$dir"
	if ! grep -qx 'done' "$dir/result"; then
		case $rc in
		124 | 137) fail "$series: hangs after $limit s, at: $(tail -n 1 "$dir/result")" ;;
		*) fail "$series: ended early, qemu's exit $rc, at: $(tail -n 1 "$dir/result")" ;;
		esac
		[ -s "$dir/release" ] || tail -n 20 "$dir/console" "$dir/qemu"
	else
		pass
	fi
	mask=$(lacks_mask "$column")
	judge_tests "$series" "$mask" "$dir"
	judge_capabilities "$series" "$column" "$dir"
	judge_probe "$series" "$mask" "$dir"
	[ "$failed" = "$before" ] && [ "$rc" = 0 ]
}

# ---- The tables ----

# The reason, or what was counted.
table_kernels() {
	local series suites dir p f s
	echo '| kernel | Debian | tests: passed, failed, skipped | probe: holds, does not, can not be asked |'
	echo '|---|---|---|---|'
	while read -r _ series suites; do
		dir=$out/$series
		[ -d "$dir" ] || continue
		if [ -e "$dir/why" ]; then
			echo "| $series | $suites | not run: $(cat "$dir/why") | |"
			continue
		fi
		read -r p f s <"$dir/tests.count"
		printf '| %s | %s | %s, %s, %s | %s |\n' "$(cat "$dir/release")" "$(cat "$dir/package")" "$p" "$f" "$s" \
			"$(awk -F '\t' '{ n[$1]++ } END { print n["pass"] + 0 ", " n["fail"] + n["error"] + 0 ", " \
				n["unsupported"] + n["older"] }' "$dir/probe")"
	done < <(expected | grep '^kernel ')
}

# A column for each kernel that was run, of what was obtained.
table_capabilities() {
	local name words series
	printf '| |'
	printf ' %s |' "${ran[@]}"
	printf '\n|---|'
	printf -- '---|%.0s' "${ran[@]}"
	echo
	while IFS='|' read -r name words; do
		name=${name%% *}
		printf '|%s |' "$words"
		for series in "${ran[@]}"; do
			printf ' %s |' "$(awk -v n="$name" '$1 == n { gsub(/-/, " ", $2); print $2 }' \
				"$out/$series/capabilities")"
		done
		echo
	done < <(expected | grep '|')
}

# Promises of rows that some kernel should keep by its version and does not.
table_findings() {
	local series files=()
	for series in "${ran[@]}"; do
		sed "s/^/$series\t/" "$out/$series/probe" >"$out/$series/found"
		files+=("$out/$series/found")
	done
	echo '| row | memory | on | what happens |'
	echo '|---|---|---|---|'
	awk -F '\t' '$2 == "fail" || $2 == "error" {
		key = $3 "\t" $1
		if (!(key in kinds)) order[++n] = key
		kinds[key] = kinds[key] (key in kinds && kinds[key] != "" ? ", " : "") ($4 == "-" ? "" : $4)
		if (text[key] == "") text[key] = $5
	}
	END {
		for (i = 1; i <= n; i++) {
			split(order[i], k, "\t")
			# The same on several kernels is one line.
			same = k[1] "\t" kinds[order[i]] "\t" text[order[i]]
			if (!(same in on)) lines[++m] = same
			on[same] = on[same] (on[same] ? ", " : "") k[2]
		}
		for (i = 1; i <= m; i++) {
			split(lines[i], k, "\t")
			gsub(/\|/, "\\|", k[3])
			printf "| [`%s`] | %s | %s | %s |\n", k[1], k[2], on[lines[i]], k[3]
		}
	}' "${files[@]}"
}

tables() {
	table_kernels
	echo
	[ ${#ran[@]} -gt 0 ] || return 0
	table_capabilities
	echo
	echo 'Rows of the probe that a kernel does not keep, though it has what they are about:'
	echo
	table_findings
}

# Between the markers, which stay.
write_docs() {
	local begin='<!-- make check-kernels: begin -->' end='<!-- make check-kernels: end -->'
	if [ "$(grep -cxF -e "$begin" -e "$end" $docs)" != 2 ]; then
		fail "$docs has no markers"
		return
	fi
	awk -v b="$begin" -v e="$end" -v tables="$out/tables.md" '
		$0 == b { print; while ((getline line < tables) > 0) print line; off = 1 }
		$0 == e { off = 0 }
		!off' $docs >"$out/docs" && cat "$out/docs" >$docs
}

# ---- The run ----

wanted() {
	[ ${#only[@]} = 0 ] || printf '%s\n' "${only[@]}" | grep -qxF -e "$1"
}

base "$out/base" || exit 99
(cd "$out/base" && find . | cpio --quiet -o -H newc -R 0:0) >"$out/base.cpio" || exit 99

# An emulated machine of two CPUs keeps one busy, most of the time.
ran=() columns=() column=0
while read -r _ series suites; do
	column=$((column + 1))
	wanted "$series" || continue
	dir=$out/$series
	mkdir -p "$dir"
	# shellcheck disable=SC2086 # suites is a list
	if ! kernel=$(tests/kernels/fetch "$cache" "$series" $suites 2>"$dir/fetch" </dev/null); then
		tail -n 1 "$dir/fetch" >"$dir/why"
		skip "$series: $(cat "$dir/why")"
		continue
	fi
	{ tr '\n' ' ' <"$kernel/package"; [ ! -e "$kernel/note" ] || sed 's/^/(from the cache: /; s/$/)/' "$kernel/note"; } |
		sed 's/ $//' >"$dir/package"
	ran+=("$series") columns+=("$column")
	while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
	run_vm "$kernel" "$dir" &
	boots+=($!)
done < <(expected | grep '^kernel ')
wait

for i in "${!ran[@]}"; do
	series=${ran[i]} dir=$out/${ran[i]}
	read -r rc seconds <"$dir/rc"
	was="$passed $failed $skipped"
	judge "$series" "${columns[i]}" "$dir" "$rc" && word=ok || word=FAIL
	# shellcheck disable=SC2086 # three numbers
	printf '%-4s %-28s %d passed, %d failed, %d skipped, %d s\n' $word "$(cat "$dir/release")" \
		$((passed - ${was%% *})) $((failed - $(cut -d ' ' -f 2 <<<"$was"))) $((skipped - ${was##* })) "$seconds"
done
rm -rf "$out/base" "$out/base.cpio"

tables >"$out/tables.md"
if [ -n "$docs" ] && [ ${#only[@]} = 0 ]; then
	if [ $failed = 0 ] && [ ${#ran[@]} -gt 0 ]; then
		write_docs
	else
		echo "$docs is left as it is; the tables are in $out/tables.md"
	fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] || exit 1
[ ${#ran[@]} -gt 0 ] || exit 77
