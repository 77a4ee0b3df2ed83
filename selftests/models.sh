#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Documentation/models/tracking.pml: with all rules kept no write is lost,
# whatever happens meanwhile; with any of them broken spin finds how one is.
# Needs no VM. A variant's log and trail stay in build/check/models/.

set -u

top=$(cd "$(dirname "$0")/.." && pwd -P)
model=$top/Documentation/models/tracking.pml
out=$top/build/check/models
# The search is told to give up beyond this, which fails the test.
memory_mib=2048
depth=5000000

# What takes part. All at once are too many states; each pair meets.
good=(
	"WRITERS=2 DMA MIGRATION"
	"WRITERS=2 MIGRATION MM"
	"WRITERS=1 DMA MIGRATION MM"
	"WRITERS=1 DMA RECLAIM"
	"WRITERS=1 MIGRATION RECLAIM PUNCH"
)

# A broken rule and what it takes to lose a write by that.
bad=(
	"SET_UNLOCKED: 1, the bit is set before the folio is locked"
	"UNLOCK_EARLY: 1, the lock is not kept until the entry is writable"
	"FETCHED_LATE: 2, protected before the bit is fetched"
	"LOOKED_UP_FIRST PUNCH: 2, looked up before the bit is fetched"
	"COLLECT_UNLOCKED: 2, the collect locks no folio"
	"OWN_LOCK MIGRATION: 2, a lock of our own, which no migration entry waits for"
	"READ_FIRST: 2, read before protected"
	"SUMMARY_SET_FIRST: 2, a chunk's bit is set before the page's"
	"SUMMARY_CLEARED_LAST DMA: 2, a chunk's bit is cleared after the page's"
	"LEFT_DIRTY MM: 3, the entry is left dirty"
	"IN_TWO_STEPS MM: 3, the entry is made clean, then read-only"
	"NOT_FLUSHED: 3, the TLB is not flushed"
	"CLEANED_UNLOCKED RECLAIM: 3, the entry of a page that is not locked is made clean"
	"NOT_MARKED_DIRTY RECLAIM: 3, the folio is not marked dirty"
	"NOT_CHECKED DMA: 4, pins are not looked for"
	"CHECKED_FIRST DMA: 4, pins are looked for before protecting"
	"MAPCOUNT_ONCE DMA MM: 4, mappings are not counted again"
	"PINS_ONLY RECLAIM: 4, references count for nothing"
	"PUNCH_SILENT PUNCH: 5, punching a hole sets no bit"
	"PUNCH_SETS_FIRST PUNCH: 5, the bit is set before the hole is punched"
)

# Build and run a verifier. Arguments: a name, options for gcc, names for -D.
verify() {
	local dir=$out/$1 options=$2

	shift 2
	rm -rf "$dir"
	mkdir -p "$dir"
	# shellcheck disable=SC2086 # several words
	cd "$dir" &&
		spin -a "${@/#/-D}" "$model" > log 2>&1 &&
		gcc -w -DSAFETY -DMEMLIM=$memory_mib $options -o pan pan.c >> log 2>&1 &&
		./pan -m$depth >> log 2>&1
}

result() {
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n $2"
	else
		echo "not ok $n $2"
		sed 's/^/# /' "$3" | tail -n 20
	fi
}

# No error, and nothing left unsearched.
is_proven() {
	grep -q '^State-vector .* errors: 0$' "$1" && ! grep -qE \
		'Search not completed|max search depth too small|^error|out of memory' "$1"
}

is_found_wrong() {
	grep -qE '^pan:1: assertion violated +(!\(stale\)|\(folio_dirty\[|\(\(tlb\[)' "$1" &&
		grep -q ' errors: 1$' "$1"
}

# Statements that no combination reached, where their process took part.
unreached() {
	awk '
	FNR == 1 { delete seen }
	/^unreached in / { process = $NF; runs[process]++ }
	/^\t.*, state [0-9]+, / {
		statement = process ": " $0
		sub(/state [0-9]+, /, "", statement)
		if (!(statement in seen))
			missed[statement]++
		seen[statement] = 1
		of[statement] = process
	}
	END {
		for (statement in missed)
			if (missed[statement] == runs[of[statement]])
				print statement
	}' "$@"
}

echo "KTAP version 1"
for command in spin gcc; do
	command -v $command > /dev/null || { echo "Bail out! there is no $command"; exit 1; }
done
echo "1..$((${#good[@]} + 1 + ${#bad[@]}))"
n=0

logs=()
for parts in "${good[@]}"; do
	name=${parts// /-}
	# shellcheck disable=SC2086
	verify "$name" -O2 $parts
	is_proven "$out/$name/log"
	result $? "no write is lost: $parts" "$out/$name/log"
	logs+=("$out/$name/log")
	grep -E 'states, stored|total actual memory|elapsed' "$out/$name/log" | sed 's/^ */# /'
done

unreached "${logs[@]}" > "$out/unreached"
[ ! -s "$out/unreached" ]
result $? "every statement of the model is reached" "$out/unreached"

# Breadth first, for the shortest way to lose a write. The compiler takes longest.
for variant in "${bad[@]}"; do
	parts=${variant%%:*}
	name=${parts%% *}
	# shellcheck disable=SC2086
	verify "$name" "-O0 -DBFS" WRITERS=1 $parts
	is_found_wrong "$out/$name/log"
	result $? "a write is lost: rule ${variant#*: }" "$out/$name/log"
done
