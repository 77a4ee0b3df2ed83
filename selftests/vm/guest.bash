# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# shellcheck disable=SC2154 # here, top and self are the script's
#
# For scripts that run in a test VM: the guest of selftests/guest under stock
# QEMU/KVM, started through migr, watched by its console. And for the same
# scripts on this host: how they get there.

# Nobody writes to it: a sleep is a process each time, which emulated CPUs are slow with.
exec {never}<> <(:)

# Argument: seconds.
nap() {
	read -r -t "$1" -u "$never" || :
}

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

# Wait for it, without a word if it comes. Arguments: seconds, condition.
soon() {
	local end=$((SECONDS + $1))

	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		nap 0.1
	done
}

# For scripts that do case after case on two hosts: tell the other one how far this one
# is in $case, and wait for the word of $peer, which it does not say any more once it is
# through, with what came of it in a file.
tell() {
	touch "$MIGR_OUT/$1.$case"
}

has_told() {
	[ -e "$MIGR_OUT/$1.$case" ]
}

has_told_or_ended() {
	has_told "$1" || [ -e "$MIGR_OUT/$peer.${case%%.*}" ]
}

told() {
	soon 600 has_told_or_ended "$1"
	has_told "$1" || { echo "$peer has not come to say '$1'" >&2; return 1; }
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
		nap 0.2
	done
}

is_gone() {
	[ ! -d "/proc/$1" ]
}

# Wait until a process is gone, whose ever it is: our own must have been waited for.
# Arguments: the process, seconds.
await_gone() {
	soon "$2" is_gone "$1" || { echo "process $1 does not end" >&2; return 1; }
}

# A counter in the console's latest heartbeat. Arguments: console, its name.
beat() {
	sed -n "/^guest: up=.* errors=/ { s/.*[ :]$2=\([0-9]*\).*/\1/; h }; \$ { x; p }" "$1" 2>/dev/null
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
	local console=$1 seconds=$2 end=$((SECONDS + $2)) field=sweeps since= now

	[ -z "${GUEST_IDLE:-}" ] || field=up
	while :; do
		if grep -aqE 'guest: error|^guest: .* errors=[1-9]' "$console"; then
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
		nap 0.2
	done
}

# A field of the last JSON object of a type. Arguments: file, type, field.
json_field() {
	grep -a "\"type\":\"$2\"" "$1" 2>/dev/null | tail -n 1 |
		sed -n "s/.*\"$3\":\(\"[^\"]*\"\|[^,}]*\).*/\1/p" | tr -d '"'
}

# Of the calling script's $all_cases, a line of NAME:WHAT each, those of a turn of
# on_each_kernel(): what MIGR_CASES names, and $always, if there is such a case; or
# all. Of all, 6.1 has those marked, as *NAME:WHAT, if any are. One that follows
# itself is done once.
wanted_cases() {
	local cases=$all_cases

	if [ "${MIGR_TURN:-}" = 6.1 ] && [ -z "${MIGR_CASES:-}" ]; then
		cases=$(grep '^\*' <<< "$all_cases") || cases=$all_cases
	fi
	awk -F: -v wanted=" ${MIGR_CASES:-} " -v always="${always:-}" '
		{ sub(/^\*/, "") }
		NF && $1 != last && (wanted == "  " || $1 == always || index(wanted, " " $1 " ")) {
			print
			last = $1
		}' <<< "$cases"
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
		await_line "$console" '^guest: (filled|up=)' 240 $vm && return 0
		kill -KILL $vm 2>/dev/null
		wait $vm
		# Which it could not take away.
		rm -f "/run/migr/$vm.qmp"
	done
	return 1
}

# Move a guest, with the memory compared. Arguments: its name, the address, and
# what the files of this move end with, if there are several.
move_guest() {
	local name=$1 to=$2 send=$MIGR_OUT/send${3:+.$3}

	await_line "$MIGR_OUT/receive${3:+.$3}" '^waiting' 90 || return 1
	"$here/migr" send --json --verify "$name" "$to" > "$send" && return
	tail -n 1 "$send"
	return 1
}

# The other side of it, for the guest of guest_command. Arguments: its console,
# the address, and as above.
take_guest() {
	local console=$1 on=$2 receive=$MIGR_OUT/receive${3:+.$3}

	"$here/migr" receive --once --listen "$on" -- "${guest[@]}" > "$receive" 2>&1 ||
		{ cat "$receive"; return 1; }
	guest_is_well "$console" 90
}

# ---- on this host -------------------------------------------------------

# The kernels of the hosts, turn by turn; in "6.1 6.12" the destination's differs.
read -ra kernels <<< "${MIGR_KERNELS:-6.1 6.12}"

# Hosts have one CPU, with which emulated guests are safe: see Documentation/testing.rst.

# What the calling script does on a pair of hosts, where it is called again as
# "source" and "destination". Arguments: kernels, folder for what it leaves,
# seconds, and what more the two are told. $links: how many they have, 1 unless set.
on_hosts() {
	local kernel=$1 out=$2 seconds=$3

	shift 3
	"$here/pair" --source-kernel "${kernel% *}" --destination-kernel "${kernel#* }" \
		--links "${links:-1}" --cpus 1 --memory 1500M --timeout "$seconds" --out "$out" \
		--logs "$out/hosts" --no-tty \
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
	MIGR_TURN=${kernels[$1]} "$on" "${kernels[$1]}" "$out" "$seconds" "${ends[$1]}" \
		> "$out/turn" 2>&1 &
	turns+=($!)
}

end_turn() {
	local result="not ok"

	wait "${turns[$1]}" && result=ok
	cat "$(turn_folder "$1")/turn"
	echo "$result ${ends[$1 + 1]} $title (Linux ${kernels[$1]/ / to })"
}

# The calling script's test: in each turn the KTAP lines that it prints on the
# hosts, which it is told where to number from, and one for the hosts' success,
# which selftests/run knows by its end. As many turns at a time as there are CPUs;
# each has its kernels in MIGR_TURN. Arguments: on_hosts or on_host, how many lines
# it prints beside one for each of its cases, the title of the one, a name for the
# folders below build/check, seconds for a turn.
on_each_kernel() {
	local on=$1 lines=$2 title=$3 name=$4 seconds=$5 kernel ended turns=() ends=(0)

	for kernel in "${kernels[@]}"; do
		[ -z "${all_cases:-}" ] || lines=$(($2 + $(MIGR_TURN=$kernel wanted_cases | wc -l)))
		ends+=($((ends[-1] + lines + 1)))
	done
	echo "KTAP version 1"
	echo "1..${ends[-1]}"
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
