#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The harness itself: selftests/vm/run tells by its status how a command and its
# host ended, or else no test in a VM could fail; and it leaves nothing behind.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
out=$top/build/check/harness
kernel=6.12

# The processes and folders of a boot: it passes on what begins with MIGR_.
left() {
	grep -lsawF "MIGR_BOOT=harness.$$" /proc/[0-9]*/environ "$top"/build/vm/run.*/shared/command
}

# Arguments: what is tested, the status that has to come of it, a pattern of all
# that is said, seconds, the command.
boot() {
	local title=$1 expected=$2 said=$3 seconds=$4 status i result="not ok"

	shift 4
	n=$((n + 1))
	MIGR_BOOT=harness.$$ timeout -k 10 $((seconds + 60)) \
		"$here/run" --kernel $kernel --memory 512M --cpus 1 --timeout "$seconds" --no-tty \
		-- "$@" > "$out/$n" 2>&1 &
	wait $!
	status=$?
	# What was killed may take a moment to end.
	for ((i = 0; i < 50; i++)); do
		[ -n "$(left)" ] || break
		sleep 0.1
	done

	if [ $status -eq "$expected" ] && grep -qzE "$said" "$out/$n" && [ -z "$(left)" ]; then
		result=ok
	else
		echo "# not status $expected and '$said', but status $status; left: $(left | tr '\n' ' ')"
		sed 's/^/# /' "$out/$n"
	fi
	# selftests/run knows by the end of the line that it stands for a host.
	echo "$result $n $title (Linux $kernel)"
}

echo "KTAP version 1"
echo "1..4"
n=0
rm -rf "$out"
mkdir -p "$out"
# Who interrupts the script does not mean its jobs.
trap 'kill $(jobs -p) 2>/dev/null' EXIT

boot "a command's output and status are those of run" 7 'said by the command' 120 \
	bash -c 'echo said by the command; exit 7'
boot "a command succeeds, but the kernel complains" 122 'the kernel complained:.*WARNING: x' 120 \
	bash -c 'echo "WARNING: x" > /dev/kmsg'
# The time is the boot's as well.
boot "a command outlives its time" 124 'begun.*timed out after 40 s and was killed' 40 \
	bash -c 'echo begun; sleep 1000'
# What enables a tracepoint of a module holds the module, whatever processes go.
boot "a command succeeds, but the module cannot be unloaded" 123 \
	'could not be unloaded: .*in use.*references: 1' 120 \
	bash -c 'echo enable_event:migr:migr_fault > /sys/kernel/tracing/events/oom/mark_victim/trigger'
