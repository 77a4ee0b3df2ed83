#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A migration fails in each of its phases and in each way a user can meet. Every
# time the guest must go on where it was, with its memory right and not tracked
# any more, and nothing else may be left on either host. After the failures of a
# phase the same guest moves after all, so the two hosts change roles.
#
# MIGR_CASES: names of cases, to do those alone.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$here/migr

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

# Name and what it is. The host that has the guest does leave_NAME, the other one
# arrive_NAME.
all_cases='
nobody:nobody listens
*no_module:the module is not loaded on the destination
no_vmm:the QEMU of the destination does not start
*too_small:the memory of the destination is too small
cut_prepare:the connection is cut while the QEMU of the destination starts
*moves:the guest moves after all that failed before the passes
*killed_receive:migr receive is killed in a pass
*killed_vmm:the QEMU of the destination is killed in a pass
*cut:the connection is cut in a pass
*silent:the packets vanish in a pass
*killed_send:migr send is killed in a pass
interrupted:migr send is interrupted in a pass, with Ctrl-C
terminated:migr send is terminated in a pass
tracked:somebody else tracks the memory
*moves:the guest moves after all that failed in a pass
silent_pause:the packets vanish while the guest is being stopped
*cut_last_pass:the connection is cut in the last pass
killed_send_last_pass:migr send is killed in the last pass
*moves:the guest moves after all that failed in the last pass
*killed_state:migr receive is killed while it loads the device state
*killed_vmm_state:the QEMU of the destination is killed while it loads the device state
silent_state:the packets vanish while the destination loads the device state
killed_send_state:migr send is killed while the destination loads the device state
*stuck:the guest cannot go on here: somebody else has locked its disk
*moves:the guest moves after all that failed with the device state
killed_commit:migr receive is killed with COMMIT on its way
*killed_committed:migr receive is killed when it has COMMIT
*killed_source:the QEMU of the source is killed in a pass
*moves:another guest moves after all
'
# Moves are part of every selection.
always=moves
cases=$(wanted_cases)

# ---- what both hosts do -------------------------------------------------

# The number and the name of the case: its files end so.
case=

# No device has it: it is there to be locked.
disk=/run/disk

# The guest as it is started, or arrives. It checks its memory once a second, and leaves
# its host the rest of the only CPU. Arguments: memory, console.
command_of() {
	guest_command traveller "$2" "$1" migr.fill=16M migr.rate=300 migr.check=4096
	guest+=(-monitor pipe:/run/monitor -drive "if=none,format=raw,file=$disk")
}

# Tell QEMU something, for people: its other monitors belong to migr.
monitor() {
	timeout 20 sh -c 'echo "$1" > /run/monitor.in' sh "$1"
}

guest_status() {
	monitor 'info status'
	timeout 20 grep -aom 1 'VM status: .*' /run/monitor.out | tr -d '\r'
}

# The only one on this host.
vmm() {
	pgrep -x qemu-system-x86
}

no_process() {
	! ps -C "$1" > /dev/null
}

unloads() {
	rmmod migr 2>/dev/null
}

untracked() {
	[ "$("$migr" ls --json | grep -o '"tracked":[a-z]*')" = '"tracked":false' ]
}

references() {
	[ "$(cat /sys/module/migr/refcnt)" -eq "$1" ]
}

# Nothing of these names is left. Argument: them, with commas between.
all_gone() {
	soon 60 no_process "$1" || { echo "left behind: $(ps -o pid=,args= -C "$1")"; return 1; }
}

# No VM is here, and nothing that had to do with one.
nothing_here() {
	all_gone qemu-system-x86,migr,migr-guardian || return 1
	[ -z "$(ls -A /run/migr 2>/dev/null)" ] || { echo "left in /run/migr: $(ls /run/migr)"; return 1; }
	soon 60 unloads || { echo "the module cannot be unloaded: $(rmmod migr 2>&1)"; return 1; }
	insmod "$MIGR_KO"
}

# The guest is here, well and at its full speed, and nothing else is.
guest_here() {
	local vm

	guest_is_well "$console" 90 || return 1
	vm=$(vmm)
	[[ $vm =~ ^[0-9]+$ ]] || { echo "not one QEMU: $vm"; return 1; }
	all_gone migr,migr-guardian || return 1
	# The tracking stops when the last of the failed attempt is gone.
	soon 60 untracked || { echo "still tracked: $("$migr" ls --json)"; return 1; }
	[ "$(ls /run/migr)" = "$vm.qmp" ] || { echo "in /run/migr: $(ls /run/migr)"; return 1; }
	soon 60 references "$(cat "$MIGR_OUT/references")" || {
		echo "$(cat /sys/module/migr/refcnt) references, not $(cat "$MIGR_OUT/references")"
		return 1
	}
}

# ---- the link -----------------------------------------------------------

# What goes out passes through this. Arguments: of tc qdisc.
link_is() {
	tc qdisc replace dev migr0 root "$@"
}

# A pass becomes long enough to fail in.
slow() {
	link_is tbf rate 70mbit burst 64k latency 50ms
}

fast() {
	ip link set migr0 up
	tc qdisc del dev migr0 root 2>/dev/null
	return 0
}

# Packets vanish both ways, and nobody is told. On the leaving host, and then
# on the other one.
vanish() {
	tell vanish
	told vanished && link_is netem loss 100%
}

vanish_too() {
	told vanish && link_is netem loss 100% && tell vanished
}

# ---- the host that has the guest ----------------------------------------

# Run migr send in the background: its process in $send. Arguments: options.
send_begin() {
	await_line "$MIGR_OUT/receive.$case" '^waiting|"type":"listening"' 60 || return 1
	"$migr" send --json "$@" traveller "$other" > "$MIGR_OUT/send.$case" 2>&1 &
	send=$!
}

# Wait until it is in a phase and, unless that is before, has sent something.
send_reaches() {
	local sent='.*"sent_bytes":[1-9]'

	[ "$1" != prepare ] || sent=
	await_line "$MIGR_OUT/send.$case" "\"phase\":\"$1\"$sent" 60 "$send"
}

# The same, with the guest's QEMU held where it is being stopped: what is done
# to it, or to the link, meets migr send right after.
send_reaches_pause() {
	local vm

	vm=$(vmm)
	send_reaches passes || return 1
	kill -STOP "$vm"
	# Nothing fails in what is left of the pass.
	fast
	send_reaches pause
}

send_goes_on() {
	kill -CONT "$(vmm)"
}

# It ended with this status and said this. Arguments: status, pattern.
send_ended() {
	local status

	wait "$send"
	status=$?
	if [ $status -ne "$1" ] || ! grep -qE "$2" "$MIGR_OUT/send.$case"; then
		echo "migr send ended with $status, not $1, or without '$2': $(tail -n 2 "$MIGR_OUT/send.$case")"
		return 1
	fi
}

send_killed() {
	kill -KILL "$send"
	wait "$send" 2>/dev/null
	[ $? -eq 137 ]
}

leave_nobody() {
	"$migr" send --json traveller "$other:9" > "$MIGR_OUT/send.$case" 2>&1 &
	send=$!
	send_ended 1 'refused.*runs on here'
}

leave_no_module() {
	told ready || return 1
	"$migr" send --json traveller "$other" > "$MIGR_OUT/send.$case" 2>&1 &
	send=$!
	send_ended 1 'refused.*runs on here'
}

leave_no_vmm() {
	send_begin && send_ended 1 'runs on here'
}

leave_too_small() {
	send_begin && send_ended 1 '192 MiB.* 128 MiB.*runs on here'
}

leave_cut_prepare() {
	send_begin --timeout 12 && send_reaches prepare || return 1
	ip link set migr0 down
	send_ended 1 'runs on here'
	tell start
}

leave_killed_receive() {
	slow
	send_begin && send_reaches passes || return 1
	tell act
	send_ended 1 'runs on here'
}

leave_killed_vmm() {
	leave_killed_receive
}

leave_cut() {
	slow
	send_begin --timeout 12 && send_reaches passes || return 1
	ip link set migr0 down
	send_ended 1 'runs on here'
}

leave_silent() {
	slow
	send_begin --timeout 12 && send_reaches passes && vanish || return 1
	send_ended 1 'runs on here'
}

leave_killed_send() {
	slow
	send_begin && send_reaches passes && send_killed
}

# Arguments: signal, exit status.
signalled_send() {
	slow
	send_begin && send_reaches passes || return 1
	kill "-$1" "$send"
	send_ended "$2" 'cancelled.*runs on here'
}

leave_interrupted() {
	signalled_send INT 130
}

leave_terminated() {
	signalled_send TERM 143
}

leave_tracked() {
	local status

	"$top/build/vm/hold_tracker" "$(vmm)" "$MIGR_OUT/held" &
	holder=$!
	"$here/await" "$MIGR_OUT/held" 30 || return 1
	send_begin && send_ended 1 'runs on here'
	status=$?
	kill "$holder"
	wait "$holder" 2>/dev/null
	return $status
}

leave_silent_pause() {
	slow
	send_begin --timeout 12 && send_reaches_pause && vanish || return 1
	send_goes_on
	send_ended 1 'runs on here'
}

# A link so slow that the last pass does not come to its end.
last_pass() {
	slow
	send_begin --timeout 12 && send_reaches_pause || return 1
	link_is tbf rate 200kbit burst 64k latency 50ms
	send_goes_on
	send_reaches last-pass
}

leave_cut_last_pass() {
	last_pass || return 1
	ip link set migr0 down
	send_ended 1 'runs on here'
}

leave_killed_send_last_pass() {
	last_pass && send_killed
}

# With a QEMU there that does not load. Arguments: options of migr send.
send_reaches_load() {
	slow
	send_begin "$@" && send_reaches_pause && told stopped || return 1
	send_goes_on
	send_reaches state
}

leave_killed_state() {
	send_reaches_load || return 1
	tell act
	send_ended 1 'runs on here'
}

leave_killed_vmm_state() {
	leave_killed_state
}

leave_silent_state() {
	send_reaches_load --timeout 12 && vanish || return 1
	send_ended 1 'runs on here'
}

leave_killed_send_state() {
	send_reaches_load || return 1
	send_killed
	tell act
}

# QEMU lets go of the disk when it has saved its state, and wants it back to go on.
leave_stuck() {
	local holder

	send_reaches_load || return 1
	"$top/build/vm/hold_lock" $disk "$MIGR_OUT/locked.$case" &
	holder=$!
	"$here/await" "$MIGR_OUT/locked.$case" 30 || return 1
	tell act
	send_ended 4 '"outcome":"stuck".*"error":".*could not be resumed here: .*lock' || return 1
	[ "$(guest_status)" = 'VM status: paused (postmigrate)' ] || return 1
	kill $holder
	wait $holder
	[ $? -eq 143 ] && monitor cont
}

# A link so long that COMMIT can be overtaken.
commit_under_way() {
	send_reaches_load --timeout 60 && link_is netem delay 10s || return 1
	tell far
	send_reaches commit || return 1
	tell act
	# Only the operator can know who has it.
	send_ended 3 'COMMIT was sent and not confirmed.*paused here' || return 1
	[ "$(guest_status)" = 'VM status: paused (postmigrate)' ]
}

leave_killed_commit() {
	commit_under_way && told gone || return 1
	monitor cont
}

leave_killed_committed() {
	commit_under_way && told gone || return 1
	monitor quit
}

leave_killed_source() {
	local vm

	vm=$(vmm)
	slow
	send_begin && send_reaches passes || return 1
	kill -KILL "$vm"
	send_ended 1 'QEMU closed its monitor' || return 1
	if grep -q 'runs on here' "$MIGR_OUT/send.$case"; then
		echo "migr send claims that the VM runs on"
		return 1
	fi
	# Its own, which it could not take away.
	rm "/run/migr/$vm.qmp"
	nothing_here && start_guest
}

leave_moves() {
	send_begin --verify && send_ended 0 '"ram_identical":true'
}

# ---- the other host -----------------------------------------------------

# Wait for a VM in the background: migr receive in $receive. Arguments: memory,
# and options of migr receive.
receive_begin() {
	local memory=$1

	shift
	console=$MIGR_OUT/console.$case
	command_of "$memory" "$console"
	"$migr" receive --once --listen "$address" "$@" -- \
		"${wrapper[@]}" "${guest[@]}" > "$MIGR_OUT/receive.$case" 2>&1 &
	receive=$!
}

# It did not take the VM.
receive_failed() {
	wait "$receive"
	[ $? -ne 0 ] || { echo "migr receive succeeded"; return 1; }
}

receive_killed() {
	kill -KILL "$receive"
	wait "$receive" 2>/dev/null
	[ $? -eq 137 ]
}

arrive_nobody() {
	:
}

arrive_no_module() {
	rmmod migr || return 1
	receive_begin 192M
	receive_failed && grep -q 'module .*loaded' "$MIGR_OUT/receive.$case" ||
		{ cat "$MIGR_OUT/receive.$case"; return 1; }
	insmod "$MIGR_KO"
	tell ready
}

arrive_no_vmm() {
	"$migr" receive --once --listen "$address" -- qemu-system-x86_64 -m 192M -no-such-option \
		> "$MIGR_OUT/receive.$case" 2>&1 &
	receive=$!
	receive_failed
}

arrive_too_small() {
	receive_begin 128M
	receive_failed
}

arrive_cut_prepare() {
	local wrapper

	# shellcheck disable=SC2016 # of the other shell
	wrapper=(bash -c '"$0" "$1" 90 && shift && exec "$@"' "$here/await" "$MIGR_OUT/start.$case")
	receive_begin 192M --timeout 10
	receive_failed
}

arrive_killed_receive() {
	receive_begin 192M
	told act && receive_killed
}

arrive_killed_vmm() {
	receive_begin 192M
	told act || return 1
	kill -KILL "$(vmm)"
	receive_failed
}

arrive_cut() {
	receive_begin 192M --timeout 10
	receive_failed
}

arrive_silent() {
	receive_begin 192M --timeout 10
	vanish_too && receive_failed
}

arrive_killed_send() {
	receive_begin 192M
	receive_failed
}

arrive_interrupted() {
	arrive_killed_send
}

arrive_terminated() {
	arrive_killed_send
}

arrive_tracked() {
	arrive_killed_send
}

arrive_silent_pause() {
	arrive_silent
}

arrive_cut_last_pass() {
	arrive_cut
}

arrive_killed_send_last_pass() {
	arrive_killed_send
}

# A QEMU that does not move cannot load: the source gets as far as the state.
# Arguments: options of migr receive.
receive_does_not_load() {
	receive_begin 192M "$@"
	await_line "$MIGR_OUT/send.$case" '"phase":"passes"' 60 || return 1
	loader=$(vmm)
	kill -STOP "$loader" && tell stopped
}

arrive_killed_state() {
	receive_does_not_load && told act && receive_killed
}

arrive_killed_vmm_state() {
	receive_does_not_load && told act || return 1
	kill -KILL "$loader"
	receive_failed
}

arrive_silent_state() {
	receive_does_not_load --timeout 10 && vanish_too && told left || return 1
	kill -CONT "$loader"
	receive_failed
}

arrive_killed_send_state() {
	receive_does_not_load && told act || return 1
	kill -CONT "$loader"
	receive_failed
}

arrive_stuck() {
	arrive_killed_state
}

# It loads when COMMIT will take its time.
receive_loads_late() {
	receive_does_not_load --timeout 60 "$@" && told far || return 1
	kill -CONT "$loader"
	told act
}

arrive_killed_commit() {
	receive_loads_late && receive_killed && nothing_here && tell gone
}

# Its QEMU is held where COMMIT finds it, so that it cannot have been told.
arrive_killed_committed() {
	receive_loads_late --json || return 1
	kill -STOP "$loader"
	await_line "$MIGR_OUT/receive.$case" '"phase":"commit"' 60 "$receive" &&
		receive_killed || return 1
	kill -CONT "$loader"
	tell gone
}

arrive_killed_source() {
	arrive_killed_send
}

arrive_moves() {
	receive_begin 192M
	wait "$receive" || { cat "$MIGR_OUT/receive.$case"; return 1; }
}

# ---- both, case by case -------------------------------------------------

start_guest() {
	console=$MIGR_OUT/console.$case.start
	command_of 192M "$console"
	boot_guest "$console" "$MIGR_OUT/qemu.$case"
}

# A case, seen from this host. Arguments: its name, where the guest is then.
do_case() {
	local name=$1 after=$2

	if [ "$at" = "$host" ]; then
		"leave_$name" || return 1
		fast
		tell left
	else
		"arrive_$name" || return 1
		fast
		tell arrived
	fi
	told left && told arrived || return 1
	if [ "$after" = "$host" ]; then
		guest_here
	else
		nothing_here
	fi
}

# Arguments: this host, the other one, their addresses, and how many test lines
# there have been.
do_cases() {
	local host=$1 peer=$2 at=source after n=$5 name what result wrapper=()

	address=$3
	other=$4
	truncate -s 1M $disk
	mkfifo /run/monitor.in /run/monitor.out
	# Kept open: neither side waits for the other, and what was said stays.
	exec 4<>/run/monitor.in
	if [ "$host" = source ]; then
		case=0
		start_guest && guest_is_well "$console" 90 || return 1
		cat /sys/module/migr/refcnt > "$MIGR_OUT/references"
	fi
	# Not from its input, which a case may read.
	while IFS=: read -r -u 9 name what; do
		n=$((n + 1))
		case=$n.$name
		after=$at
		if [ "$name" = moves ] || [ "$name" = killed_committed ]; then
			after=$([ $at = "$host" ] && echo "$peer" || echo "$host")
		fi
		result=ok
		do_case "$name" $after || result="not ok"
		fast
		echo "$result" > "$MIGR_OUT/$host.$n"
		await_line "$MIGR_OUT/$peer.$n" ok 600 || return 1
		# This host's trouble is above; the other one's is in its log.
		[ "$(cat "$MIGR_OUT/$peer.$n")" = ok ] || result="not ok"
		echo "$result $n $what"
		if [ "$result" != ok ]; then
			# The next case would begin nobody knows where.
			tail -v -n 20 "$console" "$MIGR_OUT"/{qemu,receive}."$case" 2>/dev/null
			return 1
		fi
		at=$after
	done 9<<< "$cases"
}

case ${1:-} in
source)		do_cases source destination 198.51.100.1 198.51.100.2 "$2"; exit ;;
destination)	do_cases destination source 198.51.100.2 198.51.100.1 "$2"; exit ;;
esac

on_each_kernel on_hosts 0 "the hosts have neither failed nor complained" failures 1700
