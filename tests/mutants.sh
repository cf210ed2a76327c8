#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Proves that uffd-stress finds what it is there to find, and some of the tests: each mutant is one bug put
# into a copy of the sources, of the library or of the tool itself, and the named command must then fail
# with a wrong result (exit 1: a count, a byte, or its watchdog), while it passes without.
#
#	tests/mutants.sh [NAME]...	all mutants, or those named
#
# A patch that does not apply any more is an error of this script (99), not a mutant found.

set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM

bad() {
	printf 'mutants: %s\n' "$*" >&2
	exit 99
}

# Ways in which a mutant can be seen, as few bounces as show it. --watchdog: what hangs, hangs.
bounce="bounce --mem=anon --size=2M --bounces=24 --watchdog=4"
shmem="bounce --mem=shmem --size=2M --bounces=24 --watchdog=4"
racing="bounce --mem=anon --size=2M --modes=racing,poll+racing,random,poll,verify --duration=8 --watchdog=4"
sigbus="sigbus --mem=anon --size=1M --watchdog=4"
signals="bounce --mem=anon --size=2M --serve=sigbus --modes=racing,random --duration=8 --watchdog=4"
events="events --mem=shmem --size=1M --watchdog=4"
async="track --mem=anon --mode=async --size=8M --bounces=12 --duration=15 --watchdog=8"
marks="track --mem=anon --mode=sync,sigbus --size=8M --bounces=24 --duration=20 --watchdog=8"
discards="tests/live/track_memory discard/async"
granules="tests/live/track_api granule-rest"
stops="tests/live/track_api stopped/async"
both="tests/live/track_snapshot PRE_ASYNC"
lost="tests/live/snapshot_discard lost_anon told_shared before_precopy"
sinks="tests/live/snapshot_sink COW_THREADS_full cow_errors PRE_ASYNC_wait"
ends="tests/live/snapshot_end handle_fails tracked_racing_cow"
cow="snapshot --mem=anon --strategy=cow --size=1M --bounces=60 --watchdog=6"
edges="tests/live/snapshot_blocks"
precopy="snapshot --mem=anon --strategy=precopy --size=1M --bounces=60 --watchdog=6"
spared="tests/live/track_snapshot COW_THREADS/discarded"
announced="tests/live/track_snapshot announced"
kept="tests/live/missing kept/threads"
absent="tests/live/track_snapshot granule-absent"
loser="tests/live/sigbus loser"
flight="tests/live/events missing-in-flight write-in-flight sweep-in-flight"
removes="tests/live/discard while-missing"
older="tests/live/fallback no-wp-bit no-seams"
holes="track --mem=shmem,hugetlb-private --mode=async --size=8M --bounces=12 --duration=30 --watchdog=8"

# name | file | command | what is wrong | sed program
mutants() {
	cat <<'END'
no-protection|libuffdwp/sys.c|bounce|write protection is switched off altogether|s/= on ? UFFDIO_WRITEPROTECT_MODE_WP : 0/= 0/; s/wp ? UFFDWP__COPY_WP : 0/0/
no-explicit|libuffdwp/sys.c|bounce|the explicit call protects nothing|s/= on ? UFFDIO_WRITEPROTECT_MODE_WP : 0/= 0/
no-copy-wp|libuffdwp/sys.c|bounce|pages are placed unprotected|s/wp ? UFFDWP__COPY_WP : 0/0/
no-marker|libuffdwp/place.c|shmem|a page protected before it was there comes unprotected|s/bool wp = keep && (protect || [^;]*;/bool wp = keep \&\& protect;/
one-reprotect|tools/uffd-stress/bounce_threads.c|bounce|one page is not protected again|s/uint64_t len = (to - from) \* b->page/uint64_t len = (to - from - 1) * b->page/
last-reprotect|libuffdwp/sys.c|shmem|the last page of each protect call is left out|/^int uffdwp__sys_writeprotect/,/^}/s/{ addr, len }, *$/{ addr, on \&\& len > 4096 ? len - 4096 : len },/
one-copy|tools/uffd-stress/bounce_ops.c|bounce|one page is copied from its neighbour|s/bounce_page(b, b->src, nr), b->page, flags/bounce_page(b, b->src, nr == 77 ? 78 : nr), b->page, flags/
one-bit|tools/uffd-stress/bounce_ops.c|bounce|one bit of one page is copied wrongly|s/^\trc = uffdwp_copy(r, to, bounce_page(b, b->src, nr), b->page, flags/\tstatic _Thread_local char wrong[4096];\n\n\tmemcpy(wrong, bounce_page(b, b->src, nr), sizeof(wrong));\n\twrong[3000] ^= nr == 7;\n\trc = uffdwp_copy(r, to, wrong, b->page, flags/
early-release|libuffdwp/call.c|bounce|pages are released before their operation|s/^\tfill_fault(r, first, n, f);/&\n\tuffdwp__writeprotect(r->h, f->addr, f->len, r->kernel_page, false, \&(uint64_t){ 0 });/
shared-claim|libuffdwp/bitmap.c|racing|a page in an operation is claimed again|s/return s >= UFFDWP__BUSY ? UFFDWP__BUSY : s;/return s >= UFFDWP__BUSY ? UFFDWP__ARMED : s;/
no-claim|libuffdwp/fault.c|racing|a fault on a released page calls the operation again|s/if (likely(was == UFFDWP__ARMED)) {/if (was != UFFDWP__BUSY) {/
books-free|libuffdwp/call.c|bounce|protected pages are booked as free|s/on ? UFFDWP__ARMED : UFFDWP__FREE);/UFFDWP__FREE);/
lost-message|libuffdwp/fault.c|bounce|one message in some hundred is dropped|s/^\tunsigned int i = b->n++;/\tstatic _Atomic unsigned int dropped;\n\tunsigned int i;\n\n\tif (++dropped % 300 == 0)\n\t\treturn;\n\ti = b->n++;/
contended-wake|libuffdwp/piece.c|racing|who waits for a page in another call is not woken|s/^\tif (uffdwp__pages_unlock(&r->pages, p->first + i, n, state))/\tuffdwp__pages_unlock(\&r->pages, p->first + i, n, state);\n\tif (0)/
eexist-wake|libuffdwp/place.c|events|who waits for a page that is there is not woken|/^static void page_found/,/^}/s/^\tuffdwp__wake/\tif (0)\n\t\tuffdwp__wake/
leaked-fd|libuffdwp/handle.c|bounce|closing leaves the descriptor open|s/^\( *\t*\)uffdwp__sys_close(h->fd);/\1;/
stats|libuffdwp/call.c|bounce|pages given to operations are counted wrongly|s/uffdwp__count(st, COUNT_SINGLES, 1);/uffdwp__count(st, COUNT_SINGLES, 2);/
no-stash|libuffdwp/piece.c|events|who waits for an event reads none, and nobody else can|s/^\tuffdwp__stash_fill(h);//
foreign|libuffdwp/sigbus.c|sigbus|a foreign SIGBUS is swallowed|s/^\t\tpass_on(\&chain.before, sig, info, uc);//
sigbus-twice|libuffdwp/bitmap.c|signals|signals claim a page that is in an operation|s/return s >= UFFDWP__BUSY ? UFFDWP__BUSY : s;/return s >= UFFDWP__BUSY ? UFFDWP__ARMED : s;/
protect-after|libuffdwp/collect.c|async|pages are protected again after they were read, not with it|s/a.flags = UFFDWP__SCAN_WP_MATCHING;/a.flags = 0;/; s/^\t\*next = n < 0 ? addr : a.walk_end;/&\n\tif (s->take)\n\t\tuffdwp__writeprotect(r->h, addr, *next - addr, r->kernel_page, true, \&(uint64_t){ 0 });/
scan-once|libuffdwp/collect.c|async|the loop over a scan ends early|s/while (!err && addr < stop && s.found < max)/if (!err)/; s/\*looked = (addr - uffdwp__addr_of(r, first)) >> r->shift;/*looked = end - first;/
walk-end|libuffdwp/collect.c|async|where a scan stopped is ignored|s/: a.walk_end;/: end;/
mark-after|libuffdwp/collect.c|marks|marks are cleared when their pages are given up already|s/^\ttake_marks(l, i, i + p.n, true, i, NULL);//; s/^\terr = uffdwp__piece_protect(&p, true, &done);/&\n\ttake_marks(l, i, i + (done >> r->shift), true, i, NULL);/
mark-left-out|libuffdwp/layer.c|marks|a write in some hundred is not marked|/^int uffdwp__layers_write/,/^}/s/^\tuffdwp__layers_mark(r, first, n);/\tstatic _Atomic unsigned int marked;\n\n\tif (++marked % 300)\n\t\tuffdwp__layers_mark(r, first, n);/
not-given-out|libuffdwp/track.c|async|what does not fit into the answer is forgotten|s/p->take && (i = next_bit/0 \&\& (i = next_bit/
resume|libuffdwp/track.c|async|going on leaves out a page|s/q->resume = 1 + before + next;/q->resume = 2 + before + next;/
discard-mark|libuffdwp/call.c|holes|discards are not marked|/^static bool discard_piece/,/^}/s/^\tmark(r, p->first, p->n);//
hugetlb-hole|libuffdwp/call.c|discards|discarded hugepages are not protected|/^static bool discard_piece/,/^}/s/if (!\*err && uffdwp__layered(r))/if (0)/
layer-given|libuffdwp/collect.c|both|what one layer takes from the kernel the other is not given|s/if (s->take && other_layer(s->l))/if (0)/
granule-late|libuffdwp/fault.c|marks|the rest of a granule is released after its writer|s/^\t\tif (unlikely(granule > 1))/\t\tuffdwp__deliver(r, page, *n, \&f, s->st);\n&/; s/^\t\tuffdwp__deliver(r, page, \*n, &f, s->st);//
granule-rest|libuffdwp/track.c|granules|the rest of a granule that was reported is of the next epoch|s/if (!(i & (granule - 1)))/if (granule)/
runs-left|libuffdwp/track.c|async|runs that are not wanted any more are forgotten|s/p->take \&\& i < n; i++, got = 0/p->take \&\& 0;/
runs-end|libuffdwp/collect.c|async|where the scan for runs stopped is ignored|s/^\t\t\*next = i + ((a.walk_end - a.start) >> r->shift);/\t\t*next = stop;/
runs-peek|libuffdwp/track.c|stops|a peek that stops goes on behind what it leaves out|/^static void give_runs/,/^}/s/^\t\treturn;//
blocks|libuffdwp/layer.c|async|marks are looked for where they are not|s/first \/ UFFDWP__BLOCK; l->blocks/first \/ UFFDWP__BLOCK + 1; l->blocks/
snap-early|libuffdwp/snapshot_save.c|cow|pages are released before they are saved|/^enum uffdwp__saved uffdwp__snapshot_copy/,/^}/s/^\tint err = /\tint err = uffdwp__writeprotect(p->layer.r->h, uffdwp__addr_of(p->layer.r, first), uffdwp__part_bytes(p, n), p->layer.r->kernel_page, false, \&(uint64_t){ 0 });\n\n\terr = /
snap-twice|libuffdwp/snapshot_save.c|cow|a fault saves a page that is saved already|/^enum uffdwp__saved uffdwp__snapshot_save/,/^}/{s/while (!ret \&\& (first = [^;]*$/while (!ret \&\& first < end) {/; s/n = uffdwp__snapshot_unsaved_run.*/n = min_u64(end - first, most);/}
snap-zero|libuffdwp/staging.c|cow|a page that begins with zeros is taken for one of zeros|s/return !any && !memcmp.*/return !any;/
snap-noted|libuffdwp/snapshot_cow.c|cow|the seal forgets what was written since arming|s/return err ? err : for_parts(s, seal_part);/(void)seal_part;\n\treturn err;/
snap-proof|libuffdwp/snapshot_look.c|lost|nobody looks whether a page was discarded before it was copied|s/if (unlikely(!still_protected(p, first, n)))/(void)still_protected;\n\tif (0)/
snap-rearm|libuffdwp/snapshot_cow.c|cow|pages that were written while it was armed are neither noted nor protected again|s/err = uffdwp__layer_protect(&p->layer, first, n, true);/err = 0;/
snap-blocks|libuffdwp/snapshot_cow.c|edges|arming forgets blocks that it has taken|/^static int rearm_all/,/^}/s/i += run)/i = n)/
snap-error|libuffdwp/snapshot_sink.c|sinks|errors of writes are forgotten|/^static void finished/,/^}/s/if (unlikely(err))/if (0)/
snap-held|libuffdwp/snapshot.c|cow|writers that were held for want of staging never go on|s/any |= atomic_load_explicit(&s->nheld, memory_order_seq_cst) .*/(void)0;/
snap-last|libuffdwp/snapshot_precopy.c|precopy|the seal does not copy what was written last|s/err = armed ? copy_written(p, true, &bytes)/err = armed ? 0/
snap-rewrite|libuffdwp/snapshot_precopy.c|precopy|a page is written again before the older write is done|/^static int pass(/,/^}/s/uffdwp__snapshot_drain(s);//
snap-spared|libuffdwp/collect.c|spared|collecting hides from a snapshot that pages were discarded|s/if (unlikely(!others_keep(l, &p)))/(void)others_keep;\n\tif (0)/
protected-again|libuffdwp/call.c|announced|protecting for one layer hides discards from the other|s/^\tif (on \&\& by)$/\tif (0)/
peek-takes|libuffdwp/collect.c|async|a peek takes the marks of the kernel|s/^\tif (s->take)$/\tif (1)/
no-hold|libuffdwp/snapshot_save.c|sinks|who finds staging full is not held|s/^\t\thold(p, first, n);/\t\treturn 0;/
handle-error|libuffdwp/snapshot_cow.c|ends|the error of the handle is not the verdict|s/err ? UFFDWP_SNAPSHOT_FAILED : UFFDWP_SNAPSHOT_CANCELLED,/UFFDWP_SNAPSHOT_CANCELLED,/
kept-discard|libuffdwp/piece.c|removes|who waits for a page reads no event, which who has it waits for|s/^\t\tuffdwp__stash_fill(h);/\t\t;/
kept-page|libuffdwp/fault.c|kept|a page that somebody keeps is an error|s/\&\& again < KEPT_TRIES/\&\& again < 0/
losers|libuffdwp/piece.c|loser|an access in vain counts, whatever was protected since|s/atomic_fetch_add_explicit(&r->protections, 1/atomic_fetch_add_explicit(\&r->protections, 0/
granule-absent|libuffdwp/fault.c|absent|a granule is saved whose pages may be missing|s/ \&\& !reads_absent(r))/ \&\& (!reads_absent(r) || 1))/
flight-missing|libuffdwp/fault.c|flight|a page that is unmapped before it is placed fails the handle|s/if (!uffdwp__page_is_at(r, page, addr))/if (0)/
flight-write|libuffdwp/call.c|flight|a page that is unmapped before it is saved fails the handle|s/if (!moved \&\& there != -ENOENT \&\& there != -ESRCH) {/if (1) {/
flight-moving|libuffdwp/call.c|flight|a page that moves before it is saved counts as written|s/bool keep = r->h->features.*;/bool keep = false; (void)listed; (void)moved;/
flight-asleep|libuffdwp/event.c|flight|who sleeps where a region was is not woken|s/if (r \&\& c->kind != UFFDWP_EVENT_REMOVE)/if (0)/
snap-unproved|libuffdwp/snapshot_look.c|older|what an old kernel can not prove is taken for proved|s/p->layer.pagemap >= 0 \&\& (p->s->can_scan || p->s->has_wp_bit);/p->layer.pagemap >= 0;/
seams|libuffdwp/piece.c|older|a range of two mappings is given up where an old kernel refuses it|s/} else if (err != -ENOENT || n <= page) {/} else if (err) {/
removed|libuffdwp/snapshot_event.c|lost|what an event tells of file memory is ignored|s/^\t\tdiscarded(p, first, end);/\t\t;/
END
}

# A program of the tests, or a command of uffd-stress.
program_of() {
	case $1 in
	tests/*) echo "$1" ;;
	*) echo uffd-stress ;;
	esac
}

# Who hangs has a watchdog: the limit is for machines where all is slow.
run_tool() {
	case $1 in
	tests/*)
		program=$1
		shift
		timeout 240 "$work/build/$program" "$@" >"$work/out" 2>&1
		;;
	*) timeout 240 "$work/build/uffd-stress" "$@" --no-progress >"$work/out" 2>&1 ;;
	esac
}

# What the command runs, no more.
make_tool() {
	name=$1
	shift
	# shellcheck disable=SC2046 # words are meant to be split
	make -s -j2 -C "$work" BUILD=build "build/$(program_of $(command_of "$1"))" >"$work/make.out" 2>&1 ||
		{ cat "$work/make.out" >&2; bad "$name: does not compile"; }
}

command_of() {
	case $1 in
	bounce) echo "$bounce" ;;
	shmem) echo "$shmem" ;;
	racing) echo "$racing" ;;
	signals) echo "$signals" ;;
	sigbus) echo "$sigbus" ;;
	events) echo "$events" ;;
	async) echo "$async" ;;
	marks) echo "$marks" ;;
	holes) echo "$holes" ;;
	discards) echo "$discards" ;;
	granules) echo "$granules" ;;
	stops) echo "$stops" ;;
	both) echo "$both" ;;
	lost) echo "$lost" ;;
	sinks) echo "$sinks" ;;
	ends) echo "$ends" ;;
	spared) echo "$spared" ;;
	kept) echo "$kept" ;;
	absent) echo "$absent" ;;
	loser) echo "$loser" ;;
	flight) echo "$flight" ;;
	removes) echo "$removes" ;;
	older) echo "$older" ;;
	announced) echo "$announced" ;;
	cow) echo "$cow" ;;
	edges) echo "$edges" ;;
	precopy) echo "$precopy" ;;
	*) bad "no command $1" ;;
	esac
}

# One mutant: patch, build, run, put back. Prints whether it was found.
try() {
	name=$1 file=$2 command=$3 what=$4 program=$5
	[ -f "$work/$file" ] || bad "$name: no file $file"
	cp -p "$work/$file" "$work/original"
	sed "$program" "$work/original" >"$work/$file"
	cmp -s "$work/original" "$work/$file" && bad "$name: its patch does not apply to $file"
	make_tool "$name" "$command"
	# shellcheck disable=SC2046 # words are meant to be split
	run_tool $(command_of "$command")
	status=$?
	cp "$work/original" "$work/$file"
	if [ "$status" -eq 1 ]; then
		printf 'found    %-15s %s\n' "$name" "$what"
		found=$((found + 1))
	else
		printf 'MISSED   %-15s %s (exit %s)\n' "$name" "$what" "$status"
		cat "$work/out"
		missed=$((missed + 1))
	fi
}

wanted() {
	[ "$#" -eq 1 ] && return 0
	name=$1
	shift
	for arg; do
		[ "$arg" = "$name" ] && return 0
	done
	return 1
}

for arg; do
	mutants | grep -q "^$arg|" || { echo "mutants: no mutant $arg" >&2; exit 2; }
done
cp -R "$here/Makefile" "$here/include" "$here/libuffdwp" "$here/tools" \
	"$here/tests" "$work/" || exit 99
for command in bounce shmem racing signals sigbus events async marks holes discards granules both \
	stops lost sinks ends spared announced edges kept absent loser flight removes older cow precopy; do
	make_tool unmutated "$command"
	# shellcheck disable=SC2046
	run_tool $(command_of "$command")
	status=$?
	[ "$status" -eq 77 ] && { cat "$work/out"; exit 77; }
	[ "$status" -eq 0 ] || { cat "$work/out"; bad "unmutated $command fails with $status"; }
done
found=0 missed=0
mutants >"$work/list"
while IFS='|' read -r name file command what program; do
	wanted "$name" "$@" && try "$name" "$file" "$command" "$what" "$program"
done <"$work/list"
echo "mutants: $found found, $missed missed"
[ "$missed" -eq 0 ]
