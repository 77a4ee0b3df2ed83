#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A guest that writes and checks its memory moves from each kernel to the other, while
# other scripts have hosts of one kernel. The memory of both sides is compared by
# digest in the pause, and the guest checks all of it on the other side.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

source_host() {
	local console=$MIGR_OUT/source.console vm field

	guest_command traveller "$console" 256M migr.fill=96M migr.rate=500
	boot_guest "$console" "$MIGR_OUT/source.qemu" || return 1
	guest_is_well "$console" 90 || return 1
	move_guest traveller 198.51.100.2 || return 1
	wait "$vm"
	for field in ram_identical:true outcome:moved ram_bytes:268435456; do
		[ "$(json_field "$MIGR_OUT/send" result "${field%:*}")" = "${field#*:}" ] && continue
		echo "not $field: $(tail -n 1 "$MIGR_OUT/send")"
		return 1
	done
	[ ! -e "/proc/$vm" ] || { echo "the VM has moved and is here as well"; return 1; }
	"$here/await" "$MIGR_OUT/checked" 90
}

destination_host() {
	local console=$MIGR_OUT/destination.console

	guest_command traveller "$console" 256M migr.fill=96M migr.rate=500
	take_guest "$console" 198.51.100.2 && touch "$MIGR_OUT/checked"
}

case ${1:-} in
source)		source_host; exit ;;
destination)	destination_host; exit ;;
esac

[ -n "${MIGR_KERNELS:-}" ] || kernels=("6.1 6.12" "6.12 6.1")
on_each_kernel on_hosts 0 "a writing guest moves" migrate 800
