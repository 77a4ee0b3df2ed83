# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# shellcheck disable=SC2154 # here, top and self are the script's
#
# For scripts that run in a test VM: the guest of selftests/guest under stock
# QEMU/KVM, started through migr, watched by its console. And for the same
# scripts on this host: how they get there.

# The guest's command line. Arguments: name, console file, memory, and what its
# worker is told (migr.fill=… and so on). The host lets it have huge pages, as
# README.md says, where a region can (6.12).
guest_command() {
	local name=$1 console=$2 memory=$3

	shift 3
	echo "${GUEST_HUGE:-within_size}" > /sys/kernel/mm/transparent_hugepage/shmem_enabled
	guest=(qemu-system-x86_64 -name "$name" -accel kvm -cpu kvm64 -m "$memory"
	       -nodefaults -no-user-config -display none -no-reboot
	       -serial "file:$console" -kernel "$MIGR_TOP/build/guest/vmlinuz"
	       -initrd "$MIGR_TOP/build/guest/initrd"
	       -append "$(cat "$MIGR_TOP/build/guest/cmdline") $*")
}

# Wait until a file has a line that matches. Arguments: file, pattern, seconds,
# and optionally a process whose end ends the waiting.
await_line() {
	local file=$1 pattern=$2 seconds=$3 pid=${4:-} end=$((SECONDS + $3))

	until grep -aqE "$pattern" "$file" 2>/dev/null; do
		if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
			echo "process $pid ended without '$pattern' in $file:" >&2
			tail -n 5 "$file" >&2
			return 1
		fi
		if [ $SECONDS -ge $end ]; then
			echo "no '$pattern' in $file in $seconds s; it ends:" >&2
			tail -n 5 "$file" >&2
			return 1
		fi
		sleep 0.1
	done
}

# A counter in the console's latest heartbeat. Arguments: console, its name.
beat() {
	grep -a '^guest: up=.* errors=' "$1" 2>/dev/null | tail -n 1 |
		sed -n "s/.*[ :]$2=\([0-9]*\).*/\1/p"
}

# What the threads of every QEMU here are at, for a guest that does nothing: their
# state, CPU ticks and kernel stack, twice, to see which of them get on.
vmm_threads() {
	local task fields round

	for round in 1 2; do
		for task in $(pgrep -x qemu-system-x86 | sed 's|.*|/proc/&/task/*|'); do
			read -ra fields < <(sed 's/.*) //' "$task/stat" 2>/dev/null) || continue
			echo "$round: $(cat "$task/comm") ${fields[0]} user ${fields[11]} system ${fields[12]}"
			sed 's/^/    /' "$task/stack" 2>/dev/null
		done
		[ "$round" = 2 ] || sleep 2
	done
}

# The guest is alive and its memory right: it begins and ends a sweep of all of
# what it filled (or, idle, beats twice more) from now on, without an error. Its
# count goes on from before it moved, so what it is at first must be seen first.
# Arguments: console, seconds.
guest_is_well() {
	local console=$1 seconds=$2 end=$((SECONDS + $2)) field=sweeps since= now errors

	[ -z "${GUEST_IDLE:-}" ] || field=up
	while :; do
		errors=$(beat "$console" errors)
		if [ "${errors:-0}" -ne 0 ] || grep -aq 'guest: error' "$console"; then
			echo "the guest's check found errors:" >&2
			grep -a 'guest: error' "$console" | head -n 5 >&2
			return 1
		fi
		now=$(beat "$console" $field)
		since=${since:-$now}
		[ -z "$now" ] || [ "$now" -lt $((since + 2)) ] || return 0
		if [ $SECONDS -ge $end ]; then
			echo "the guest did not check all its memory in $seconds s; its console ends:" >&2
			tail -n 5 "$console" >&2
			vmm_threads >&2
			return 1
		fi
		sleep 0.2
	done
}

# A field of the last JSON object of a type. Arguments: file, type, field.
json_field() {
	grep -a "\"type\":\"$2\"" "$1" 2>/dev/null | tail -n 1 |
		sed -n "s/.*\"$3\":\(\"[^\"]*\"\|[^,}]*\).*/\1/p" | tr -d '"'
}

# Of cases, a line of NAME:WHAT each, those that MIGR_CASES names, or all.
# Arguments: the cases, and the name of one that is always wanted.
wanted_cases() {
	awk -F: -v wanted=" ${MIGR_CASES:-} " -v always="${2:-}" \
		'NF && (wanted == "  " || $1 == always || index(wanted, " " $1 " "))' <<< "$1"
}

# Start the guest on /dev/migr, its process in $vm, and wait until it works. One
# that does not come up under emulated KVM is started again: nothing of migr has
# happened to it yet but the mapping of its memory. Arguments: console, QEMU's
# output, and what to start it with if not with "migr run".
boot_guest() {
	local console=$1 log=$2 try

	shift 2
	[ $# -gt 0 ] || set -- "$top/build/bin/migr" run --
	for try in 1 2 3; do
		# selftests/run counts them.
		[ $try -eq 1 ] || echo "# the guest did not come up: once more"
		"$@" "${guest[@]}" > "$log" 2>&1 &
		vm=$!
		await_line "$console" '^guest: (filled|up=)' 120 $vm && return 0
		kill -KILL $vm 2>/dev/null
		wait $vm
	done
	return 1
}

# Move a guest, with the memory compared. Arguments: its name, the address, and
# what the files of this move end with, if there are several.
move_guest() {
	local name=$1 to=$2 send=$MIGR_OUT/send${3:+.$3}

	await_line "$MIGR_OUT/receive${3:+.$3}" '^waiting' 90 || return 1
	"$top/build/bin/migr" send --json --verify "$name" "$to" > "$send" && return
	tail -n 1 "$send"
	return 1
}

# The other side of it, for the guest of guest_command. Arguments: its console,
# the address, and as above.
take_guest() {
	local console=$1 on=$2 receive=$MIGR_OUT/receive${3:+.$3}

	"$top/build/bin/migr" receive --once --listen "$on" -- "${guest[@]}" > "$receive" 2>&1 ||
		{ cat "$receive"; return 1; }
	guest_is_well "$console" 90
}

# ---- on this host -------------------------------------------------------

# The kernels of the hosts, turn by turn; in "6.1 6.12" the destination's differs.
read -ra kernels <<< "${MIGR_KERNELS:-6.1 6.12}"

# Hosts have one CPU, with which emulated guests are safe: see Documentation/testing.rst.

# What the calling script does on a pair of hosts, where it is called again as
# "source" and "destination". Arguments: kernels, folder for what it leaves,
# seconds, and what more the two are told.
on_hosts() {
	local kernel=$1 out=$2 seconds=$3

	shift 3
	"$here/pair" --source-kernel "${kernel% *}" --destination-kernel "${kernel#* }" \
		--cpus 1 --memory 1500M --timeout "$seconds" --out "$out" --logs "$out/hosts" --no-tty \
		-- "$self" source "$@" -- "$self" destination "$@"
}

# The same on one host, where it is called again as "host".
on_host() {
	local kernel=$1 out=$2 seconds=$3

	shift 3
	"$here/run" --kernel "$kernel" --cpus 1 --timeout "$seconds" --out "$out" \
		--console "$out/console" --no-tty -- "$self" host "$@"
}

# In a folder of its own what a turn of on_each_kernel(), in its variables, leaves.
turn_folder() {
	echo "$top/build/check/$name-${kernels[$1]/ /-}"
}

begin_turn() {
	local out

	out=$(turn_folder "$1")
	rm -rf "$out"
	mkdir -p "$out"
	"$on" "${kernels[$1]}" "$out" "$seconds" $(($1 * (lines + 1))) > "$out/turn" 2>&1 &
	turns+=($!)
}

end_turn() {
	local result="not ok"

	wait "${turns[$1]}" && result=ok
	cat "$(turn_folder "$1")/turn"
	echo "$result $((($1 + 1) * (lines + 1))) $title (Linux ${kernels[$1]/ / to })"
}

# The calling script's test: in each turn the KTAP lines that it prints on the
# hosts, which it is told where to number from, and one for the hosts' success,
# which selftests/run knows by its end. As many turns at a time as there are CPUs.
# Arguments: on_hosts or on_host, how many lines it prints, the title of the
# one, a name for the folders below build/check, seconds for a turn.
on_each_kernel() {
	local on=$1 lines=$2 title=$3 name=$4 seconds=$5 ended turns=()

	echo "KTAP version 1"
	echo "1..$(((lines + 1) * ${#kernels[@]}))"
	# Who interrupts the script does not mean its jobs.
	trap 'kill $(jobs -p) 2>/dev/null' EXIT
	for ((ended = 0; ended < ${#kernels[@]}; ended++)); do
		while [ ${#turns[@]} -lt ${#kernels[@]} ] &&
		      [ ${#turns[@]} -lt $((ended + $(nproc))) ]; do
			begin_turn ${#turns[@]}
		done
		end_turn $ended
	done
}
