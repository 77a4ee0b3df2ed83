#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The options and the errors of the migr command, on one host: VMs that only sit
# in their firmware move from one process to another.
#
# MIGR_CASES: names of cases, to do those alone.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$here/migr

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

all_cases='
nothing_runs:migr ls lists nothing where nothing runs
bad_receive:migr receive says what is wrong with a command or an address
*elsewhere:a VM with its memory elsewhere, and how to start it
*partly:a VM with only a part of its memory on /dev/migr
stopped:a VM that does not run is not sent
no_such_vm:a VM that does not exist
number_name:a VM whose name is a number, which of a process goes first
*ls:migr ls, for people and for programs
bad_send:migr send says what is wrong with an address
*unix_report:a VM named by its process moves over a UNIX socket, and is reported
vsock:a VM moves over vsock, which this host has with itself
*pinned:pages that are pinned are told of before, and sent in every pass
*pass_limit:the pass limit ends what the downtime limit would not
downtime_limit:a downtime limit above all needs one pass
*keep:the old process is kept, paused
*copy:pages are copied into the socket
*compress:memory is compressed
*announce:the network is told where the VM is now
*disk:a destination that was not told to go on has not taken the disk
*streams:several streams share the work
terminal:a terminal shows progress and a summary
qmp:a QMP socket that cannot be found is given with --qmp
same_qmp:a QMP socket that another VM has taken over
same_name:of two VMs of one name neither is taken
config:the configuration names the networks, and is not to be misread
no_certificates:without certificates it is said how to make them
one_insecure:no side encrypts alone
*encrypted:a VM moves encrypted, and nothing of it can be seen on the way
*sniffed:of one that is not encrypted something can
certificates:wrong, old and missing certificates, and used and stolen tokens
'
cases=$(wanted_cases)

console=
socket=unix:/run/migr-options

# A VM as small as it can be; it is called as the case is. Arguments: QEMU's.
vm_command() {
	vm=(qemu-system-x86_64 -name "$name" -accel kvm -cpu kvm64 -m 64M -nodefaults
	    -no-user-config -display none "$@")
}

# Its process in $pid, once it can be talked to. Arguments: its monitor, the
# command.
start() {
	local path=$1

	shift
	"$@" > "$MIGR_OUT/qemu" 2>&1 &
	pid=$!
	await_socket "${path/PID/$pid}" || { cat "$MIGR_OUT/qemu"; return 1; }
}

await_socket() {
	for ((i = 0; i < 300; i++)); do
		[ ! -S "$1" ] || return 0
		sleep 0.1
	done
	echo "no $1"
	return 1
}

start_on_migr() {
	vm_command "$@"
	start /run/migr/PID.qmp "$migr" run -- "${vm[@]}"
}

# A command that ends with this status and says this. Arguments: status,
# pattern, command.
says() {
	local expected=$1 pattern=$2 status

	shift 2
	"$@" > "$MIGR_OUT/said" 2>&1
	status=$?
	if [ $status -eq "$expected" ] && { [ -z "$pattern" ] || grep -qE "$pattern" "$MIGR_OUT/said"; }; then
		return 0
	fi
	echo "not status $expected and '$pattern', but status $status:"
	cat "$MIGR_OUT/said"
	return 1
}

# Wait for the VM of the case. Arguments: address, QEMU's.
receive() {
	local address=$1

	shift
	rm -f "$MIGR_OUT/receive"
	vm_command "$@"
	"$migr" receive --once --listen "$address" -- "${vm[@]}" > "$MIGR_OUT/receive" 2>&1 &
	receive=$!
	await_line "$MIGR_OUT/receive" '^waiting for a VM on ' 30 $receive
}

received() {
	wait $receive && grep -q "VM '$name' has arrived and runs" "$MIGR_OUT/receive" && return
	cat "$MIGR_OUT/receive"
	return 1
}

# Fields of the result. Arguments: field:value...
result() {
	local field

	for field; do
		[ "$(json_field "$MIGR_OUT/said" result "${field%:*}")" = "${field#*:}" ] && continue
		echo "not $field: $(tail -n 1 "$MIGR_OUT/said")"
		return 1
	done
}

ended() {
	wait "$1"
	[ ! -e "/proc/$1" ]
}

case_nothing_runs() {
	says 0 '' "$migr" ls && [ ! -s "$MIGR_OUT/said" ] &&
		says 0 '' "$migr" ls --json && [ ! -s "$MIGR_OUT/said" ]
}

case_bad_receive() {
	local address pattern

	vm_command -incoming defer
	says 2 "receive: the command has '-incoming defer'" "$migr" receive --once -- "${vm[@]}" &&
		says 2 'run: it must begin with the program' "$migr" run --bogus || return 1
	vm_command
	echo precious > /run/no-socket
	while IFS='|' read -r address pattern; do
		says 1 "$pattern" timeout 20 "$migr" receive --once --listen "$address" -- "${vm[@]}" || return 1
	done <<-LIST
		127.0.0.1:|no port in address '127.0.0.1:'
		[::1|not an address: '\[::1'
		127.0.0.1:no-such-service|cannot resolve '127.0.0.1:no-such-service'
		198.51.100.77|cannot listen on 198.51.100.77: Cannot assign
		unix:|path of a UNIX socket has 1 to 107 characters: ''
		unix:/nowhere/socket|cannot listen on unix:/nowhere/socket: No such file
		unix:/run/no-socket|cannot listen on unix:/run/no-socket: Address already in use
		vsock:77:4300|cannot listen on vsock:77:4300: Cannot assign
	LIST
	[ "$(cat /run/no-socket)" = precious ] || { echo "it took away a file"; return 1; }
	receive 127.0.0.1 || return 1
	says 1 'cannot listen on 127.0.0.1: Address already in use' \
		"$migr" receive --once --listen 127.0.0.1 -- "${vm[@]}" || return 1
	kill $receive
	wait $receive
	[ $? -eq 143 ]
}

case_elsewhere() {
	vm_command -qmp unix:/run/elsewhere.qmp,server=on,wait=off
	start /run/elsewhere.qmp "${vm[@]}" || return 1
	says 1 "process $pid has its memory elsewhere, not on /dev/migr; start the VM with 'migr run" \
		"$migr" send $pid 127.0.0.1 &&
		says 1 "process $pid has its memory elsewhere.*'migr run" "$migr" send "$name" 127.0.0.1
}

case_partly() {
	vm_command -m 64M,slots=1,maxmem=256M -qmp unix:/run/partly.qmp,server=on,wait=off \
		-object memory-backend-file,id=a,mem-path=/dev/migr,size=64M,share=on \
		-machine memory-backend=a \
		-object memory-backend-ram,id=b,size=32M -device pc-dimm,memdev=b
	start /run/partly.qmp "${vm[@]}" || return 1
	says 1 "64 of the VM's 96 MiB are on /dev/migr; all of it must be: start it with 'migr run'" \
		"$migr" send "$name" 127.0.0.1
}

case_stopped() {
	start_on_migr -S || return 1
	says 1 "the VM is not running: QEMU calls it 'prelaunch'" "$migr" send $pid 127.0.0.1
}

case_no_such_vm() {
	says 1 "there is no VM named 'nobody' \(see 'migr ls'\)" "$migr" send nobody 127.0.0.1 &&
		says 1 "there is no VM named '4194304'.*; there is no process 4194304: No such process" \
			"$migr" send 4194304 127.0.0.1 &&
		says 1 "there is no VM named '99999999999'.*; no process has the number 99999999999" \
			"$migr" send 99999999999 127.0.0.1
}

# The one that has the number does not run, the one that has it as its name does.
case_number_name() {
	local number

	start_on_migr -S || return 1
	number=$pid
	name=$number start_on_migr || return 1
	says 1 "QEMU calls it 'prelaunch'" "$migr" send "$number" 127.0.0.1 || return 1
	kill "$number"
	ended "$number" &&
		says 1 'cannot connect to 127.0.0.1: .*runs on here' "$migr" send "$number" 127.0.0.1
}

case_ls() {
	start_on_migr || return 1
	says 0 '^ +PID +NAME +RAM MiB +RESIDENT MiB +TRACKED +QMP$' "$migr" ls &&
		says 0 "^ +$pid +$name +64 +[0-9.]+ +no +/run/migr/$pid.qmp$" "$migr" ls || return 1
	says 0 "^\{\"type\":\"vm\",\"pid\":$pid,\"name\":\"$name\",\"ram_bytes\":67108864,\"resident_bytes\":[1-9][0-9]*,\"tracked\":false,\"qmp\":\"/run/migr/$pid.qmp\"\}$" \
		"$migr" ls --json || return 1
	"$top/build/vm/hold_tracker" $pid "$MIGR_OUT/held" &
	"$here/await" "$MIGR_OUT/held" 30 || return 1
	says 0 '"tracked":true' "$migr" ls --json && says 0 ' yes +/run/migr' "$migr" ls || return 1
	kill $!
	wait $!
	[ $? -eq 143 ]
}

# The VM of the case before is as good as any: it does not move.
case_bad_send() {
	local address pattern

	start_on_migr || return 1
	while IFS='|' read -r address pattern; do
		says 1 "$pattern.*runs on here" "$migr" send "$name" "$address" || return 1
	done <<-LIST
		:4242|no host in address ':4242'
		127.0.0.1:|no port in address '127.0.0.1:'
		[::1|not an address: '\[::1'
		unix:|path of a UNIX socket has 1 to 107 characters
		unix:/run/nobody|cannot connect to unix:/run/nobody: No such file.*is 'migr receive' running there
		127.0.0.1|cannot connect to 127.0.0.1: Connection refused .is 'migr receive' running there
		vsock:4300|an address of vsock is vsock:CID:PORT, with numbers from 0 to 4294967294
		vsock:1:4300|cannot connect to vsock:1:4300: Connection reset.*is 'migr receive' running there
	LIST
	says 1 'cannot connect to the QMP socket /run/nobody' \
		"$migr" send --qmp /run/nobody "$name" 127.0.0.1
}

case_unix_report() {
	start_on_migr && receive $socket || return 1
	says 0 '"phase":"passes"' "$migr" send --json --report "$MIGR_OUT/report" $pid $socket || return 1
	result outcome:moved "vm:$name" ram_bytes:67108864 && ended $pid && received &&
		[ "$(json_field "$MIGR_OUT/said" preflight pinned_pages)" = 0 ] || return 1
	[ "$(cat "$MIGR_OUT/report")" = "$(tail -n 1 "$MIGR_OUT/said")" ] ||
		{ echo "the report differs: $(cat "$MIGR_OUT/report")"; return 1; }
	[ ! -e "${socket#unix:}" ] || { echo "migr receive left its socket"; return 1; }
}

case_vsock() {
	start_on_migr && receive vsock:4300 || return 1
	says 0 '' "$migr" send --json --verify --streams 2 "$name" vsock:1:4300 &&
		result outcome:moved ram_identical:true && received
}

# Nobody is to think that they could ever be clean.
case_pinned() {
	local holder passes

	start_on_migr && receive $socket || return 1
	"$top/build/vm/hold_pin" $pid 16 "$MIGR_OUT/pinned" &
	holder=$!
	"$here/await" "$MIGR_OUT/pinned" 30 || return 1
	says 1 '^16 pages are pinned for DMA' \
		script -qec "$migr send $name unix:/run/nobody" /dev/null &&
		says 0 '' "$migr" send --json --verify "$name" $socket &&
		result outcome:moved ram_identical:true && received || return 1
	[ "$(json_field "$MIGR_OUT/said" preflight pinned_pages)" = 16 ] ||
		{ echo "not 16 pages: $(grep preflight "$MIGR_OUT/said")"; return 1; }
	passes=$(json_field "$MIGR_OUT/said" result passes)
	[ "$(json_field "$MIGR_OUT/said" result pinned_pages)" -ge $((16 * passes)) ] ||
		{ echo "not in every pass: $(tail -n 1 "$MIGR_OUT/said")"; return 1; }
	kill $holder
	wait $holder
	[ $? -eq 143 ]
}

# A millisecond is less than the device state takes: it never fits.
case_pass_limit() {
	start_on_migr && receive 127.0.0.1:4300 || return 1
	says 0 '' "$migr" send --json --downtime-limit 1 --pass-limit 2 "$name" 127.0.0.1:4300 &&
		result outcome:moved passes:3 downtime_limit_exceeded:true && received
}

case_downtime_limit() {
	start_on_migr && receive '[::1]:4300' || return 1
	says 0 '' "$migr" send --json --verify --downtime-limit 3600000 "$name" '[::1]:4300' &&
		result outcome:moved passes:2 downtime_limit_exceeded:false \
			ram_identical:true && received
}

case_keep() {
	start_on_migr && receive $socket || return 1
	says 0 '' "$migr" send --json --keep "$name" $socket && result outcome:moved && received &&
		says 1 "the VM is not running: QEMU calls it 'postmigrate'" \
			"$migr" send $pid $socket
}

case_copy() {
	start_on_migr && receive 127.0.0.1 || return 1
	says 0 '' "$migr" send --json --copy --verify "$name" 127.0.0.1 &&
		result outcome:moved ram_identical:true && received
}

# The firmware at least is worth it.
case_compress() {
	start_on_migr && receive 127.0.0.1 || return 1
	says 0 '' "$migr" send --json --compress zstd --compress-cpu any --verify "$name" 127.0.0.1 &&
		result outcome:moved ram_identical:true compression:zstd && received &&
		! result compressed_chunks:0 > /dev/null
}

# With the VM's own address, as RARP: what switches learn a new port from.
case_announce() {
	local nic=(-netdev "hubport,id=net,hubid=0" -device "e1000,netdev=net,mac=52:54:00:6d:69:67,romfile=")

	start_on_migr "${nic[@]}" &&
		receive $socket "${nic[@]}" \
			-object "filter-dump,id=dump,netdev=net,file=$MIGR_OUT/packets" || return 1
	says 0 '' "$migr" send --json "$name" $socket && result outcome:moved && received || return 1
	for ((i = 0; i < 100; i++)); do
		! LC_ALL=C grep -qaP '\xff{6}RT\0mig\x80\x35' "$MIGR_OUT/packets" || return 0
		sleep 0.1
	done
	echo "no RARP of the VM in $(stat -c %s "$MIGR_OUT/packets") bytes of packets"
	return 1
}

# Of the segments from the destination, the one that says "loaded", by its length,
# never arrives: the source gives up while the QEMU there would only have to go on.
lose_loaded() {
	tc qdisc add dev lo clsact &&
		tc filter add dev lo egress protocol ip u32 match ip sport 4242 0xffff \
			match u16 73 0xffff at 2 action drop
}

# How often it was lost.
lost() {
	tc -s filter show dev lo egress | sed -n 's/.*Sent.*(dropped \([0-9]*\),.*/\1/p'
}

case_disk() {
	local disk=(-drive "if=virtio,format=raw,file=/run/disk") status

	truncate -s 1M /run/disk
	start_on_migr "${disk[@]}" && receive 127.0.0.1 "${disk[@]}" && lose_loaded || return 1
	says 1 'no word from the destination in time; the VM runs on here' \
		"$migr" send --json --timeout 3 "$name" 127.0.0.1
	status=$?
	[ "$(lost)" -gt 0 ] || { echo "nothing was lost"; status=1; }
	tc qdisc del dev lo clsact
	[ $status -eq 0 ] || return 1
	wait $receive
	receive 127.0.0.1 "${disk[@]}" && says 0 '' "$migr" send --json "$name" 127.0.0.1 &&
		result outcome:moved && received
}

case_streams() {
	start_on_migr && receive 127.0.0.1 || return 1
	says 2 'streams needs a number from 1 to 64' "$migr" send --streams 65 "$name" 127.0.0.1 &&
		says 0 '"streams":4' "$migr" send --json --streams 4 --verify "$name" 127.0.0.1 &&
		result outcome:moved ram_identical:true && received
}

case_terminal() {
	start_on_migr && receive $socket || return 1
	says 0 '' script -qec "$migr send --verify $name $socket" /dev/null || return 1
	tr '\r' '\n' < "$MIGR_OUT/said" > "$MIGR_OUT/shown"
	for pattern in 'passes +pass 1 +\[[#.]{10}\] +[0-9]+% +[0-9.]+ MiB/s  dirty [0-9.]+ MiB/s, [0-9]+ pages  ETA' \
		       "^VM '$name' has moved in [0-9.]+ s" '^  downtime +[0-9]+ ms' \
		       '^  memory +64 MiB: ' '^  verified +[0-9a-f]{32} on both sides'; do
		grep -qE "$pattern" "$MIGR_OUT/shown" && continue
		echo "no '$pattern':"
		cat "$MIGR_OUT/shown"
		return 1
	done
	received
}

# QEMU has many ways to make one; this one is not looked for.
case_qmp() {
	start_on_migr_with_pretty_qmp && receive $socket || return 1
	says 1 "process $pid has no QMP socket that can be found: give it with --qmp" \
		"$migr" send --json $pid $socket &&
		says 0 '' "$migr" send --json --qmp /run/pretty.qmp $pid $socket &&
		result outcome:moved && received
}

start_on_migr_with_pretty_qmp() {
	vm_command -qmp-pretty unix:/run/pretty.qmp,server=on,wait=off \
		-object memory-backend-file,id=pc.0,mem-path=/dev/migr,size=64M,share=on \
		-machine memory-backend=pc.0
	start /run/pretty.qmp "${vm[@]}"
}

case_same_qmp() {
	local first

	start_on_migr -qmp unix:/run/same.qmp,server=on,wait=off || return 1
	first=$pid
	start_on_migr -qmp unix:/run/same.qmp,server=on,wait=off || return 1
	says 1 "the QMP socket /run/same.qmp is that of process $pid, another VM, not of $first" \
		"$migr" send --qmp /run/same.qmp "$first" 127.0.0.1
}

case_same_name() {
	local first

	start_on_migr || return 1
	first=$pid
	start_on_migr || return 1
	says 1 "several VMs are named '$name': processes ($first and $pid|$pid and $first); give a process" \
		"$migr" send "$name" 127.0.0.1
}

case_config() {
	local config=/etc/migr/config.json

	start_on_migr && receive 127.0.0.1 || return 1
	mkdir -p /etc/migr
	echo '{"network": ["192.0.2.0/24"]}' > $config
	says 2 "$config: there is no \"network\"" "$migr" send "$name" 127.0.0.1 &&
		says 2 "$config: there is no \"network\"" "$migr" receive -- "${vm[@]}" || return 1
	echo '{"networks": ["192.0.2.0/24"]}' > $config
	says 1 'share none of the links that may be used.*runs on here' \
		"$migr" send "$name" 127.0.0.1 || return 1
	wait $receive
	echo '{"networks": ["192.0.2.0/33"]}' > $config
	says 1 "not a network: '192.0.2.0/33'.*runs on here" "$migr" send "$name" 127.0.0.1 || return 1
	# It is for those that arrive as well.
	echo '{"networks": ["192.0.2.0/24"]}' > $config
	receive 127.0.0.1 && rm $config &&
		says 1 'share none of the links that may be used.*runs on here' \
			"$migr" send "$name" 127.0.0.1 || return 1
	wait $receive
	receive 127.0.0.1 || return 1
	echo '{"networks": ["192.0.2.0/24", "127.0.0.0/8"]}' > $config
	# An option is stronger.
	says 1 'share none of the links' "$migr" send --network 192.0.2.0/24 "$name" 127.0.0.1 ||
		return 1
	wait $receive
	rm $config
	receive 127.0.0.1 || return 1
	echo '{"networks": ["192.0.2.0/24", "127.0.0.0/8"]}' > $config
	says 0 '' "$migr" send "$name" 127.0.0.1 && received
}

# The certificates of this host, where they are looked for.
certify() {
	migr=$top/build/bin/migr
	[ -e /etc/migr/key.pem ] && return
	says 0 '^/run/pki/host: copy it' "$migr" pki --dir /run/pki host,127.0.0.1,::1 &&
		mkdir -p /etc/migr && cp /run/pki/host/* /etc/migr/
}

case_no_certificates() {
	local migr=$top/build/bin/migr

	start_on_migr || return 1
	says 1 "cannot read the certificate authority /etc/migr/ca.pem: No such file.*'migr pki'.*--insecure" \
		"$migr" receive --once -- "${vm[@]}" &&
		says 1 "cannot read the certificate authority .*runs on here" "$migr" send "$name" 127.0.0.1 &&
		says 2 'pki: for which hosts' "$migr" pki && says 2 "not a host: '../a'" "$migr" pki ../a
}

case_one_insecure() {
	local migr

	certify && start_on_migr && receive 127.0.0.1:4300 || return 1
	says 1 'destination: the source does not encrypt: it and this side need certificates.*runs on here' \
		"$migr" send --insecure "$name" 127.0.0.1:4300 &&
		await_line "$MIGR_OUT/receive" 'sent away .*127.0.0.1.*: the source does not encrypt' 10 ||
		return 1
	kill $receive
	wait $receive
	migr=$here/migr receive 127.0.0.1:4300 || return 1
	says 1 'closed the connection instead of encrypting it .does it say --insecure.*runs on here' \
		"$migr" send "$name" 127.0.0.1:4300 || return 1
	kill $receive
	wait $receive
	says 1 'a UNIX socket cannot be encrypted: say --insecure' "$migr" send "$name" $socket
}

# What the packets show of the firmware, which is in the VM's memory, and of what the
# two sides say. Arguments: what is due, and the command that moves the VM.
sniff() {
	local due=$1 sniffer

	shift
	rm -f "$MIGR_OUT/looks"
	"$top/build/vm/sniff" lo "$MIGR_OUT/looks" SeaBIOS '"token"' > "$MIGR_OUT/sniffed" &
	sniffer=$!
	"$here/await" "$MIGR_OUT/looks" 30 || return 1
	says 0 '' "$@" && result outcome:moved ram_identical:true && received || return 1
	kill $sniffer
	wait $sniffer
	grep -qE "$due" "$MIGR_OUT/sniffed" && return
	echo "not '$due': $(cat "$MIGR_OUT/sniffed")"
	return 1
}

case_encrypted() {
	local migr cipher

	certify || return 1
	for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
		start_on_migr && receive 127.0.0.1 || return 1
		sniff '^packets=[0-9]{2,} SeaBIOS=0 "token"=0 missed=0$' \
			"$migr" send --json --verify --streams 2 --cipher $cipher $pid 127.0.0.1 ||
			return 1
	done
}

case_sniffed() {
	start_on_migr && receive 127.0.0.1 || return 1
	sniff ' SeaBIOS=[1-9][0-9]* "token"=[1-9]' "$migr" send --json --verify "$name" 127.0.0.1
}

# What needs no VM, where the kernel encrypts.
case_certificates() {
	CMOCKA_MESSAGE_OUTPUT=TAP "$top/build/unit/lib-migration" 'test_tls*' > "$MIGR_OUT/library" 2>&1 &&
		grep -q '^ok ' "$MIGR_OUT/library" && ! grep -q '^not ok ' "$MIGR_OUT/library" && return
	sed 's/^/# /' "$MIGR_OUT/library"
	return 1
}

# No VM of a case is left for the next.
end_vms() {
	local process

	for process in $(pgrep -x qemu-system-x86); do
		kill -KILL "$process"
		wait "$process" 2>/dev/null
	done
	for ((i = 0; i < 100; i++)); do
		pgrep -x qemu-system-x86 > /dev/null || break
		sleep 0.1
	done
	# Theirs, which they could not take away.
	rm -f /run/migr/*.qmp /etc/migr/config.json
}

in_host() {
	local name what n=$1 result

	# Not from its input, which a case may read.
	while IFS=: read -r -u 9 name what; do
		n=$((n + 1))
		result=ok
		"case_$name" || result="not ok"
		end_vms
		echo "$result $n $what"
	done 9<<< "$cases"
}

case ${1:-} in
host)	in_host "$2"; exit ;;
esac

on_each_kernel on_host 0 "the host has neither failed nor complained" options 1500
