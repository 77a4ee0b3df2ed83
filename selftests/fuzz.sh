#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The parsers of what a peer sends, in user space with ASan and UBSan: libFuzzer
# finds no input that they treat otherwise than the documentation says; and finds
# one if a check is overlooked. Needs no VM. FUZZ_SECONDS: how long for each.
# Logs, and inputs that fail, stay in build/check/fuzz/.

set -u

top=$(cd "$(dirname "$0")/.." && pwd -P)
out=$top/build/check/fuzz
seconds=${FUZZ_SECONDS:-60}
cc=clang-14
# This ASan finds no place for its shadow now and then where a kernel spreads a
# program over more than 28 bits of addresses (vm.mmap_rnd_bits).
fixed=()
! setarch -R true 2> /dev/null || fixed=(setarch -R)

# A parser's name, which its target in selftests/fuzz/ and its corpus have, and
# what it is.
parsers=(
	"wire: kmod/wire.c"
	"control: lib/control.c lib/error.c lib/socket.c"
)

# What is overlooked, and what is taken then.
bad=(
	"wire RESERVED: a reserved field that is not zero"
	"wire FLAGS: unknown flags"
	"wire REGION: the number of a region at the end of a pass"
	"wire VERSION: a newer version"
	"wire LAST: LAST in version 2"
	"wire OLD: GONE or DONE in version 1"
	"wire COMPRESSED: compressed frames that have no pages, or are of version 1"
	"wire GONE=flags: flags in GONE"
	"wire GONE=region: the number of a region in GONE"
	"wire GONE=length: bytes that follow GONE"
	"wire DONE=flags: flags in DONE"
	"wire DONE=region: the number of a region in DONE"
	"wire DONE=value: a value in DONE"
	"wire DONE=length: bytes that follow DONE"
	"wire OVERLAP: a page in both masks"
	"wire BEYOND: a page beyond the end of the region"
	"wire LENGTH: a length that does not fit the masks"
	"wire LONGER: compressed pages that are longer than they were"
	"wire NOTHING: a unit of no bytes"
	"wire LARGE: a unit that is larger than its pages"
	"wire SHORT: content that is too short for the sizes of its units"
	"wire UNITS: units that are not all of the content"
	"control EMPTY: a message of no bytes"
	"control LONG: a message that is too long"
)

# Arguments: a folder for it, the parser, options for the compiler.
build() {
	local dir=$out/$1 name=$2 parser sources

	shift 2
	for parser in "${parsers[@]}"; do
		[ "${parser%%:*}" != "$name" ] || sources=${parser#*: }
	done
	rm -rf "$dir"
	mkdir -p "$dir/found"
	# shellcheck disable=SC2086 # several files
	cd "$top" && $cc -std=gnu11 -Wall -Wextra -Werror -g -O1 \
		-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		-Iuapi -Ilib -Iselftests/fuzz "$@" -o "$dir/fuzzer" \
		"selftests/fuzz/$name.c" $sources -ljansson > "$dir/log" 2>&1
}

# Arguments: its folder, the parser, seconds, options for libFuzzer.
fuzz() {
	local dir=$out/$1 corpus=$top/selftests/fuzz/corpus/$2 time=$3

	shift 3
	"${fixed[@]}" "$dir/fuzzer" -max_total_time="$time" -max_len=512 -timeout=20 "$@" \
		-artifact_prefix="$dir/" "$dir/found" "$corpus" >> "$dir/log" 2>&1
}

# No input failed, and some were tried.
is_good() {
	grep -qE '^Done [1-9][0-9]* runs' "$1"
}

is_found_wrong() {
	grep -q 'Assertion .* failed' "$1"
}

result() {
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n $2"
	else
		failed=1
		echo "not ok $n $2"
		sed 's/^/# /' "$3" | tail -n 40
	fi
}

echo "KTAP version 1"
command -v $cc > /dev/null || { echo "Bail out! there is no $cc"; exit 1; }
echo "1..$((${#parsers[@]} + ${#bad[@]}))"
n=0
failed=0

# At the same time: each is one thread.
fuzzers=()
for parser in "${parsers[@]}"; do
	name=${parser%%:*}
	build "$name" "$name" && fuzz "$name" "$name" "$seconds" &
	fuzzers+=($!)
done
for i in "${!parsers[@]}"; do
	name=${parsers[i]%%:*}
	wait "${fuzzers[i]}" && is_good "$out/$name/log"
	result $? "$name: no input fails" "$out/$name/log"
	grep -E '^Done ' "$out/$name/log" | sed 's/^/# /'
done

# The corpus has good input alone: what fails has to be made from it. Always the
# same way, so that this takes the same time, a second or so, each time.
for variant in "${bad[@]}"; do
	read -r name check <<< "${variant%%:*}"
	build "$name-$check" "$name" -DBROKEN_"$check" &&
		! fuzz "$name-$check" "$name" 30 -seed=1 &&
		is_found_wrong "$out/$name-$check/log"
	result $? "$name: it is found that this is taken: ${variant#*: }" \
		"$out/$name-$check/log"
done
exit $failed
