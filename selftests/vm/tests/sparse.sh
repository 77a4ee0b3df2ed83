#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# An idle guest that has touched little of its memory: what goes over the wire
# is its non-zero memory, not its size.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
export GUEST_IDLE=1

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

# Bytes on the wire beside the guest's non-zero pages: above, what it writes
# during the passes goes twice, a tenth of it at most; headers and masks are 160
# bytes for each of 512 chunks, in each of two passes. Below, what it frees and
# clears meanwhile, a twentieth at most, does not go at all.
check_sent() {
	local pages=$1 sent=$2 bytes=$(($1 * 4096))

	echo "# $pages non-zero pages, $bytes bytes; $sent bytes sent"
	[ "$sent" -le $((bytes + bytes / 10 + 2 * 512 * 160)) ] ||
		{ echo "too much was sent"; return 1; }
	[ "$sent" -ge $((bytes - bytes / 20)) ] || { echo "too little was sent"; return 1; }
}

source_host() {
	local console=$MIGR_OUT/source.console pages vm

	guest_command idler "$console" 1G migr.idle
	boot_guest "$console" "$MIGR_OUT/source.qemu" || return 1
	guest_is_well "$console" 120 || return 1
	await_line "$MIGR_OUT/receive" '^waiting' 60 || return 1
	pages=$("$top/build/vm/count_pages" "$vm") || return 1
	move_guest idler 198.51.100.2 || return 1
	check_sent "$pages" "$(json_field "$MIGR_OUT/send" result sent_bytes)" || return 1
	[ "$pages" -lt 131072 ] || { echo "it is not sparse: half of its memory is used"; return 1; }
	"$here/await" "$MIGR_OUT/checked" 90
}

destination_host() {
	local console=$MIGR_OUT/destination.console

	guest_command idler "$console" 1G migr.idle
	take_guest "$console" 198.51.100.2 && touch "$MIGR_OUT/checked"
}

case ${1:-} in
source)		source_host; exit ;;
destination)	destination_host; exit ;;
esac

on_each_kernel on_hosts 0 "an idle guest of 1 GiB costs its non-zero memory" sparse 800
