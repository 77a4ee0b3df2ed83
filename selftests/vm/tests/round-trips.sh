#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The same guest goes there and back again ten times, writing and checking its
# memory all the while.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$top/build/bin/migr
trips=10

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

# The guest as it is started, or arrives, for a leg of the journey.
leg_command() {
	guest_command traveller "$MIGR_OUT/console.$1" 192M migr.fill=48M migr.rate=500
}

send() {
	local leg=$1 to=$2

	await_line "$MIGR_OUT/receive.$leg" '^waiting' 90 || return 1
	"$migr" send --json --verify traveller "$to" > "$MIGR_OUT/send.$leg" || {
		tail -n 1 "$MIGR_OUT/send.$leg"
		return 1
	}
	[ "$(json_field "$MIGR_OUT/send.$leg" result ram_identical)" = true ]
}

receive() {
	local leg=$1 on=$2

	leg_command "$leg"
	"$migr" receive --once --listen "$on" -- "${guest[@]}" > "$MIGR_OUT/receive.$leg" 2>&1 || {
		cat "$MIGR_OUT/receive.$leg"
		return 1
	}
	guest_is_well "$MIGR_OUT/console.$leg" 90 || return 1
}

# Even legs leave the source host, odd ones come back to it.
source_host() {
	local i

	leg_command start
	boot_guest "$MIGR_OUT/console.start" "$MIGR_OUT/qemu" || return 1
	for ((i = 0; i < 2 * trips; i += 2)); do
		send $i 198.51.100.2 || return 1
		receive $((i + 1)) 198.51.100.1 || return 1
		echo "# back from trip $((i / 2 + 1))"
	done
}

destination_host() {
	local i

	for ((i = 0; i < 2 * trips; i += 2)); do
		receive $i 198.51.100.2 || return 1
		send $((i + 1)) 198.51.100.1 || return 1
	done
	"$here/await" "$MIGR_OUT/receive.$((i - 1))" 90
}

case ${1:-} in
source)		source_host; exit ;;
destination)	destination_host; exit ;;
esac

echo "KTAP version 1"
echo "1..2"
n=0
for kernel in 6.1 6.12; do
	n=$((n + 1))
	on_hosts $n "the same guest goes there and back $trips times on $kernel" \
		"round-trips-$kernel" $kernel $kernel 400
done
