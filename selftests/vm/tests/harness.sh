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

# The processes and folders of a boot: it passes on what begins with MIGR_. Argument: its
# number.
left() {
	grep -lsawF "MIGR_BOOT=harness.$$.$1" /proc/[0-9]*/environ "$top"/build/vm/run.*/shared/command
}

# Arguments: its number, what is tested, the status that has to come of it, a pattern of
# all that is said, seconds, the command.
boot() {
	local n=$1 title=$2 expected=$3 said=$4 seconds=$5 status i result="not ok"

	shift 5
	MIGR_BOOT=harness.$$.$n timeout -k 10 $((seconds + 60)) \
		"$here/run" --kernel $kernel --memory 512M --cpus 1 --timeout "$seconds" --no-tty \
		-- "$@" > "$out/$n" 2>&1 &
	wait $!
	status=$?
	# What was killed may take a moment to end.
	for ((i = 0; i < 50; i++)); do
		[ -n "$(left $n)" ] || break
		sleep 0.1
	done

	if [ $status -eq "$expected" ] && grep -qzE "$said" "$out/$n" && [ -z "$(left $n)" ]; then
		result=ok
	else
		echo "# not status $expected and '$said', but status $status; left: $(left $n | tr '\n' ' ')"
		sed 's/^/# /' "$out/$n"
	fi
	# selftests/run knows by the end of the line that it stands for a host.
	echo "$result $n $title (Linux $kernel)"
}

echo "KTAP version 1"
echo "1..5"
rm -rf "$out"
mkdir -p "$out"
# Who interrupts the script does not mean its jobs.
trap 'kill $(jobs -p) 2>/dev/null' EXIT

# The time is the boot's as well, and goes by beside the other boots.
boot 5 "a command outlives its time" 124 'begun.*timed out after 120 s and was killed' 120 \
	bash -c 'echo begun; sleep 1000' > "$out/late" &
boot 1 "a command's output and status are those of run" 7 'said by the command' 120 \
	bash -c 'echo said by the command; exit 7'
boot 2 "a command succeeds, but the kernel complains" 122 'the kernel complained:.*WARNING: x' 120 \
	bash -c 'echo "WARNING: x" > /dev/kmsg'
# What enables a tracepoint of a module holds the module, whatever processes go.
boot 3 "a command succeeds, but the module cannot be unloaded" 123 \
	'could not be unloaded: .*in use.*references: 1' 120 \
	bash -c 'echo enable_event:migr:migr_fault > /sys/kernel/tracing/events/oom/mark_victim/trigger'
boot 4 "a command crashes the kernel" 125 'begun.*the kernel panicked' 120 \
	bash -c 'echo begun; echo c > /proc/sysrq-trigger; sleep 1000'
wait
cat "$out/late"
