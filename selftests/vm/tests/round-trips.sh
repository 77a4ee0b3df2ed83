#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The same guest goes there and back again ten times, writing and checking its
# memory all the while.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
trips=10

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

# The guest as it is started, or arrives, for a leg of the journey. It checks its memory
# once a second, and leaves its host the rest of the only CPU.
leg_command() {
	guest_command traveller "$MIGR_OUT/console.$1" 192M migr.fill=16M migr.rate=500 \
		migr.check=4096
}

send() {
	local leg=$1 to=$2

	move_guest traveller "$to" "$leg" &&
		[ "$(json_field "$MIGR_OUT/send.$leg" result ram_identical)" = true ]
}

receive() {
	local leg=$1 on=$2

	leg_command "$leg"
	take_guest "$MIGR_OUT/console.$leg" "$on" "$leg"
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

on_each_kernel on_hosts 0 "the same guest goes there and back $trips times" round-trips 800
