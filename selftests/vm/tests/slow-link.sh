#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Over a slow link between two hosts a VM moves whose memory can be compressed, and one
# whose memory cannot be: without compression and with each algorithm, in turn. How much
# of the CPUs' time it takes is left to migr, and they have some. The VMs sit in their
# firmware.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$here/migr
algorithms=(lz4 zstd)

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

vm_command() {
	vm=(qemu-system-x86_64 -name traveller -accel kvm -cpu kvm64 -m 64M -nodefaults
	    -no-user-config -display none "$@")
}

# Do it for each move, with what is in the VM's memory, how that is compressed, and a
# name for the move. Another one is first each time.
each_move() {
	local ways=(off "${algorithms[@]}") turn data i compress

	for turn in 1 2 3 4 5; do
		for data in text random; do
			# What makes much of a difference is soon seen.
			[ $data = random ] || [ $turn -le 3 ] || continue
			for i in "${!ways[@]}"; do
				compress=${ways[(i + turn) % ${#ways[@]}]}
				"$1" $data "$compress" "$data.$compress.$turn" || return 1
			done
		done
	done
}

# ---- the source ---------------------------------------------------------

# How many chunks. Arguments: the move, which of them.
chunks() {
	json_field "$MIGR_OUT/send.$1" result "$2_chunks"
}

leave() {
	local data=$1 compress=$2 move=$3 process

	vm_command -device "loader,file=/run/$data,addr=0x1000000,force-raw=on"
	"$migr" run -- "${vm[@]}" > "$MIGR_OUT/qemu" 2>&1 &
	process=$!
	"$here/await" "/run/migr/$process.qmp" 60 || { cat "$MIGR_OUT/qemu"; return 1; }
	await_line "$MIGR_OUT/receive.$move" '^waiting' 60 || return 1
	"$migr" send --json --verify --compress "$compress" traveller 198.51.100.2 \
		> "$MIGR_OUT/send.$move" &&
		grep -q '"ram_identical":true' "$MIGR_OUT/send.$move" ||
		{ tail -n 1 "$MIGR_OUT/send.$move"; return 1; }
	# The next one has its name.
	wait $process
	# Of what nobody tried nothing is to be learnt.
	case $data.$compress in
	*.off)		;;
	text.*)		[ "$(chunks "$move" compressed)" -gt 0 ] ;;
	random.*)	[ "$(chunks "$move" incompressible)" -gt 0 ] ;;
	esac || { echo "$move was not tried: $(tail -n 1 "$MIGR_OUT/send.$move")"; return 1; }
}

# What the passes of a move took, in ms: the rest is what a QEMU takes to start, and is
# the same for all.
passes_ms() {
	grep '"type":"result"' "$1" | grep -o '"ms":[0-9.]*' |
		awk -F: '{ ms += $2 } END { printf "%.0f\n", ms }'
}

# The least of the turns: what else these machines do only adds to it. Arguments: what was
# in the memory, how that was compressed.
least_ms() {
	local send

	for send in "$MIGR_OUT/send.$1.$2".*; do
		passes_ms "$send"
	done | sort -n | head -n 1
}

# Arguments: the number of the test line, what was in the memory, how that was
# compressed, how many percent of the time without it may take, and what that means.
compare() {
	local plain took

	plain=$(least_ms "$2" off)
	took=$(least_ms "$2" "$3")
	echo "# $2: $plain ms, with $3 $took"
	if [ $((100 * took)) -le $((plain * $4)) ]; then
		echo "ok $1 $3 $5"
	else
		echo "not ok $1 $3 $5"
	fi
}

# Arguments: how many test lines there have been.
source_host() {
	local n=$1 algorithm

	head -c 16M /dev/urandom > /run/random
	seq -f 'line %.0f of what a guest has in its memory' 9999999 | head -c 16M > /run/text
	tc qdisc replace dev migr0 root tbf rate 40mbit burst 256k latency 400ms || return 1
	each_move leave || return 1
	for algorithm in "${algorithms[@]}"; do
		compare $((++n)) text "$algorithm" 80 "makes memory arrive sooner over a slow link"
		compare $((++n)) random "$algorithm" 105 "costs next to nothing where it is of no use"
	done
}

# ---- the destination ----------------------------------------------------

arrive() {
	local move=$3 process

	vm_command
	"$migr" receive --once -- "${vm[@]}" > "$MIGR_OUT/receive.$move" 2>&1 ||
		{ cat "$MIGR_OUT/receive.$move"; return 1; }
	# The only one on this host.
	process=$(pgrep -x qemu-system-x86)
	kill -KILL "$process"
	await_gone "$process" 60 || return 1
	# Its own, which it could not take away.
	rm "/run/migr/$process.qmp"
}

case ${1:-} in
source)		source_host "$2"; exit ;;
destination)	each_move arrive; exit ;;
esac

on_each_kernel on_hosts $((2 * ${#algorithms[@]})) \
	"the hosts have neither failed nor complained" slow-link 1200
