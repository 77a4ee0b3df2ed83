#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A migration fails in each of its phases and in each way a user can meet. Every
# time the guest must go on where it was, with its memory right and not tracked
# any more; in the end the same guest moves after all.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$top/build/bin/migr

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

# Name and what it is; the functions source_NAME and destination_NAME do it.
cases='
nobody:nobody listens
no_vmm:the QEMU of the destination does not start
too_small:the memory of the destination is too small
killed_receive:migr receive is killed in a pass
killed_vmm:the QEMU of the destination is killed in a pass
cut:the connection is cut in a pass
killed_send:migr send is killed in a pass
interrupted:migr send is interrupted in a pass
tracked:somebody else tracks the memory
killed_state:migr receive is killed while it loads the device state
last:a further attempt succeeds
'

# ---- source -------------------------------------------------------------

console=${MIGR_OUT:-}/source.console

# Run migr send in the background: its process in $send. Arguments: case, options.
send_begin() {
	local name=$1

	shift
	await_line "$MIGR_OUT/receive.$name" '^waiting' 60 || return 1
	"$migr" send --json "$@" traveller 198.51.100.2 > "$MIGR_OUT/send.$name" 2>&1 &
	send=$!
}

# Wait until it is in a phase. Arguments: case, phase.
send_reaches() {
	await_line "$MIGR_OUT/send.$1" "\"phase\":\"$2\".*\"sent_bytes\":[1-9]" 60 "$send"
}

# It ended with this status and said this. Arguments: case, status, pattern.
send_ended() {
	local status

	wait "$send"
	status=$?
	if [ $status -ne "$2" ] || ! grep -qE "$3" "$MIGR_OUT/send.$1"; then
		echo "# migr send ended with $status, not $2, or without '$3': $(tail -n 2 "$MIGR_OUT/send.$1")"
		return 1
	fi
}

# A slow link makes a pass long enough to fail in.
slow() {
	tc qdisc replace dev migr0 root tbf rate 100mbit burst 64k latency 50ms
}

fast() {
	tc qdisc del dev migr0 root 2>/dev/null
	return 0
}

source_nobody() {
	"$migr" send --json traveller 198.51.100.2:9 > "$MIGR_OUT/send.nobody" 2>&1 &
	send=$!
	send_ended nobody 1 'refused'
}

source_no_vmm() {
	# The only one on this host.
	send_begin no_vmm && send_ended no_vmm 1 'runs on here'
}

source_too_small() {
	send_begin too_small && send_ended too_small 1 '192 MiB.* 128 MiB'
}

source_killed_receive() {
	slow
	send_begin killed_receive && send_reaches killed_receive passes || return 1
	touch "$MIGR_OUT/act.killed_receive"
	send_ended killed_receive 1 'runs on here'
}

source_killed_vmm() {
	# The only one on this host.
	slow
	send_begin killed_vmm && send_reaches killed_vmm passes || return 1
	touch "$MIGR_OUT/act.killed_vmm"
	fast
	send_ended killed_vmm 1 'runs on here'
}

source_cut() {
	slow
	send_begin cut --timeout 3 && send_reaches cut passes || return 1
	ip link set migr0 down
	send_ended cut 1 'runs on here' || return 1
	ip link set migr0 up
}

source_killed_send() {
	slow
	send_begin killed_send && send_reaches killed_send passes || return 1
	kill -KILL "$send"
	wait "$send" 2>/dev/null
	[ $? -eq 137 ]
}

source_interrupted() {
	slow
	send_begin interrupted && send_reaches interrupted passes || return 1
	kill -TERM "$send"
	send_ended interrupted 143 'cancelled.*runs on here'
}

source_tracked() {
	local status

	"$top/build/vm/hold_tracker" "$vm" "$MIGR_OUT/held" &
	holder=$!
	"$here/await" "$MIGR_OUT/held" 30 || return 1
	send_begin tracked && send_ended tracked 1 'runs on here'
	status=$?
	kill "$holder"
	wait "$holder" 2>/dev/null
	return $status
}

source_killed_state() {
	send_begin killed_state && send_reaches killed_state state || return 1
	touch "$MIGR_OUT/act.killed_state"
	send_ended killed_state 1 'runs on here'
}

source_last() {
	send_begin last --verify || return 1
	send_ended last 0 '"ram_identical":true'
}

# The guest is here, well, and at its full speed.
still_here() {
	guest_is_well "$console" 90 || return 1
	# The tracking stops when the last of the failed attempt is gone.
	for ((i = 0; i < 100; i++)); do
		[ "$("$migr" ls --json | grep -o '"tracked":[a-z]*')" != '"tracked":false' ] || return 0
		sleep 0.1
	done
	echo "# still tracked: $("$migr" ls --json)"
	return 1
}

source_host() {
	local name what n=$1 result

	guest_command traveller "$console" 192M migr.fill=64M migr.rate=300
	boot_guest "$console" "$MIGR_OUT/source.qemu" || return 1
	while IFS=: read -r name what; do
		[ -n "$name" ] || continue
		n=$((n + 1))
		result=ok
		"source_$name" || result="not ok"
		fast
		touch "$MIGR_OUT/over.$name"
		[ "$name" = last ] || still_here || result="not ok"
		echo "$result $n $what"
		"$here/await" "$MIGR_OUT/ready.$name" 90 || return 1
	done <<< "$cases"
}

# ---- destination --------------------------------------------------------

# Wait for a VM in the background: migr receive in $receive. Arguments: case,
# memory.
receive_begin() {
	guest_command traveller "$MIGR_OUT/destination.console" "$2" migr.fill=64M migr.rate=300
	"$migr" receive --once --timeout 5 --listen 198.51.100.2 -- "${guest[@]}" \
		> "$MIGR_OUT/receive.$1" 2>&1 &
	receive=$!
}

# It did not take the VM, and left no QEMU behind.
receive_failed() {
	wait "$receive"
	[ $? -ne 0 ] || { echo "migr receive succeeded"; return 1; }
	for ((i = 0; i < 100; i++)); do
		pgrep -x qemu-system-x86 > /dev/null || return 0
		sleep 0.1
	done
	echo "a QEMU was left behind"
	return 1
}

vmm() {
	# The only one on this host.
	pgrep -x qemu-system-x86
}

destination_nobody() {
	:
}

destination_no_vmm() {
	# The only one on this host.
	"$migr" receive --once --listen 198.51.100.2 -- qemu-system-x86_64 -m 192M -no-such-option \
		> "$MIGR_OUT/receive.no_vmm" 2>&1 &
	receive=$!
	receive_failed
}

destination_too_small() {
	receive_begin too_small 128M
	receive_failed
}

destination_killed_receive() {
	receive_begin killed_receive 192M
	"$here/await" "$MIGR_OUT/act.killed_receive" 90 || return 1
	kill -KILL "$receive"
	receive_failed
}

destination_killed_vmm() {
	# The only one on this host.
	receive_begin killed_vmm 192M
	"$here/await" "$MIGR_OUT/act.killed_vmm" 90 || return 1
	kill -KILL "$(vmm)"
	receive_failed
}

destination_cut() {
	receive_begin cut 192M
	receive_failed
}

destination_killed_send() {
	receive_begin killed_send 192M
	receive_failed
}

destination_interrupted() {
	receive_begin interrupted 192M
	receive_failed
}

destination_tracked() {
	receive_begin tracked 192M
	receive_failed
}

# A QEMU that does not move cannot load: the source gets as far as the state.
destination_killed_state() {
	local pid

	receive_begin killed_state 192M
	await_line "$MIGR_OUT/send.killed_state" '"phase":"passes"' 60 || return 1
	pid=$(vmm)
	kill -STOP "$pid"
	"$here/await" "$MIGR_OUT/act.killed_state" 90 || return 1
	kill -KILL "$receive"
	kill -CONT "$pid"
	receive_failed
}

destination_last() {
	receive_begin last 192M
	wait "$receive" || { cat "$MIGR_OUT/receive.last"; return 1; }
	guest_is_well "$MIGR_OUT/destination.console" 90
}

destination_host() {
	local name what status=0

	while IFS=: read -r name what; do
		[ -n "$name" ] || continue
		"destination_$name" || { echo "case $name failed"; status=1; }
		"$here/await" "$MIGR_OUT/over.$name" 120 || return 1
		touch "$MIGR_OUT/ready.$name"
	done <<< "$cases"
	return $status
}

case ${1:-} in
source)		source_host "$2"; exit ;;
destination)	destination_host; exit ;;
esac

echo "KTAP version 1"
count=$(grep -c : <<< "$cases")
echo "1..$((2 * (count + 1)))"
n=0
for kernel in 6.1 6.12; do
	echo "# Linux $kernel"
	on_hosts $((n + count + 1)) "nothing is left behind on either host" \
		"failures-$kernel" $kernel $kernel 400 $n
	n=$((n + count + 1))
done
