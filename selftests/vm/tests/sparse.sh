#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# An idle guest that has touched little of its memory: what goes over the wire
# is its non-zero memory, not its size.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$top/build/bin/migr
export GUEST_IDLE=1

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

source_host() {
	local console=$MIGR_OUT/source.console resident sent data vm

	guest_command idler "$console" 1G migr.idle
	boot_guest "$console" "$MIGR_OUT/source.qemu" || return 1
	guest_is_well "$console" 120 || return 1
	await_line "$MIGR_OUT/receive" '^waiting' 60 || return 1
	"$migr" ls --json > "$MIGR_OUT/ls"
	resident=$(grep -o '"resident[a-z_]*":[0-9]*' "$MIGR_OUT/ls" | grep -o '[0-9]*$')
	"$migr" send --json --verify idler 198.51.100.2 > "$MIGR_OUT/send" || {
		tail -n 1 "$MIGR_OUT/send"
		return 1
	}
	sent=$(json_field "$MIGR_OUT/send" result sent_bytes)
	data=$(json_field "$MIGR_OUT/send" result data_pages)
	echo "# resident $resident, sent $sent bytes for $((data * 4096)) bytes of data"
	# What it dirtied during the passes went twice, hence the tenth.
	[ "$sent" -le $((resident + resident / 10)) ] || { echo "too much was sent"; return 1; }
	# Headers and masks: 160 bytes for each of 512 chunks, and again if dirty.
	[ "$sent" -le $((data * 4096 + data * 4096 / 50 + 512 * 160)) ] ||
		{ echo "too much was sent for so much data"; return 1; }
	"$here/await" "$MIGR_OUT/checked" 90
}

destination_host() {
	local console=$MIGR_OUT/destination.console

	guest_command idler "$console" 1G migr.idle
	"$migr" receive --once --listen 198.51.100.2 -- "${guest[@]}" \
		> "$MIGR_OUT/receive" 2>&1 || { cat "$MIGR_OUT/receive"; return 1; }
	guest_is_well "$console" 90 || return 1
	touch "$MIGR_OUT/checked"
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
	on_hosts $n "an idle guest of 1 GiB costs its non-zero memory on $kernel" \
		"sparse-$kernel" $kernel $kernel 240
done
