#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A guest moves while its devices are at work on its memory: a
# disk is read directly into it, a balloon takes pages and gives them back, and
# free pages are reported. The disk is slow, so that reads are in flight in each
# pass, and one for both sides: the guest moves within its host, and back. Then, with
# the module that can break its rules, what is read is lost, and what is given up
# is not noticed.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$here/migr

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

disk=/dev/dm-0
parameters=/sys/module/migr/parameters
# Of the guest's journey, the leg that it is on.
leg=
# Whether the guest reports its free pages.
reporting=on
# The first pass in which a move may be held up, and the last one before the pause.
pass=2
passes=10
# More of what send is told.
options=()
# Sizes of what it gives up: to the balloon, and when it reports free pages.
page=1000
range='[2-8]00000'

# Memory, whose reads take so many milliseconds.
disk_table() {
	echo "0 $(blockdev --getsz /dev/ram0) delay /dev/ram0 0 $1 /dev/ram0 0 0"
}

make_disk() {
	export DM_DISABLE_UDEV=1

	modprobe brd rd_nr=1 rd_size=16384 && modprobe dm-delay &&
	dmsetup create slow --table "$(disk_table 0)" &&
	"$here/await" $disk 10
}

disk_takes() {
	dmsetup reload slow --table "$(disk_table "$1")" && dmsetup resume slow
}

# The guest, with a monitor of its own. It is to wait for its disk most of the
# time, so it checks little at a time, and what it gives to the balloon is not to
# be zero before. What it gives up is logged where no line waits for our host.
# Arguments: a name for this leg of its journey, how its disk is read.
leg_command() {
	guest_command traveller "$MIGR_OUT/console.$1" 256M \
		migr.fill=16M migr.rate=300 migr.check=3000 migr.disk=/dev/vda migr.drivers migr.churn \
		init_on_alloc=0
	mkfifo "/run/monitor.$1.in" "/run/monitor.$1.out"
	guest+=(-drive "if=none,id=disk,file=$disk,format=raw,cache=none,aio=$2"
		-device virtio-blk-pci,drive=disk
		-device "virtio-balloon-pci,free-page-reporting=$reporting"
		-chardev "pipe,id=monitor,path=/run/monitor.$1" -mon chardev=monitor,mode=control
		-D "/run/discards.$1" -trace ram_block_discard_range)
}

# How many pieces of a size have been given up. Arguments: the leg, the size.
discards() {
	grep -acE "\+ 0x$2: .*ret: 0" "/run/discards.$1"
}

# Opened for both, so that it does not wait for a QEMU that is gone.
monitor() {
	echo "$2" 1<> "/run/monitor.$1.in"
}

# How many MiB the balloon is to leave the guest. Arguments: the leg, MiB.
balloon() {
	# Refused if it has been said before.
	monitor "$1" '{"execute": "qmp_capabilities"}'
	monitor "$1" "{\"execute\": \"balloon\", \"arguments\": {\"value\": $(($2 << 20))}}"
}

# The balloon grows and shrinks as long as a process runs. Arguments: the process,
# the leg the guest is on.
balloon_while() {
	local size=176

	while kill -0 "$1" 2>/dev/null; do
		balloon "$2" $size
		size=$((432 - size))
		sleep 1
	done
}

# Wait until the guest has given up two more pieces of a size: the first may have been
# given up before. Arguments: the leg, the size, how long.
await_discards() {
	local enough=$(($(discards "$1" "$2") + 2)) end=$((SECONDS + $3))

	until [ "$(discards "$1" "$2")" -ge $enough ]; do
		[ $SECONDS -lt $end ] || return
		nap 0.1
	done
}

# Hold a move up when all has been sent once, until the guest has given up pieces of
# each size; not as long as the destination's patience. Arguments: the sender, its
# output, the leg the guest is on, the sizes.
hold_up() {
	local pid=$1 output=$2 from=$3 size end

	shift 3
	await_line "$output" "\"pass\":[$pass-9]" 60 "$pid" || return
	kill -STOP "$pid"
	end=$((SECONDS + 40))
	for size; do
		[ "$size" != $page ] || balloon "$from" 176
		await_discards "$from" "$size" $((end - SECONDS))
	done
	kill -CONT "$pid"
}

# The disk is slow once the guest has filled it. Arguments: the guest's first leg,
# where its disk is read by aio=native.
start_guest() {
	leg=$1
	leg_command "$leg" native
	disk_takes 0 && boot_guest "$MIGR_OUT/console.$leg" "$MIGR_OUT/qemu.$leg" &&
		disk_takes 200 && guest_is_well "$MIGR_OUT/console.$leg" 90
}

# Arguments: the next leg, how the disk is read there, and the sizes of what the guest
# is to give up meanwhile: both if the balloon is to be busy all the time.
send() {
	local to=$1 aio=$2 pid send

	shift 2
	# The only one on this host.
	pid=$(pgrep -x qemu-system-x86)
	leg_command "$to" "$aio"
	"$migr" receive --once --listen 127.0.0.1 -- "${guest[@]}" > "$MIGR_OUT/receive.$to" 2>&1 &
	receive=$!
	await_line "$MIGR_OUT/receive.$to" '^waiting' 60 || return 1
	# Several passes, however short the pause would be.
	"$migr" send --json --verify --downtime-limit 1 --pass-limit $passes \
		"${options[@]}" "$pid" 127.0.0.1 > "$MIGR_OUT/send.$to" &
	send=$!
	[ $# -eq 0 ] || hold_up $send "$MIGR_OUT/send.$to" "$leg" "$@" &
	[ $# -lt 2 ] || balloon_while $send "$leg"
	wait $send || return 1
	wait $receive || { cat "$MIGR_OUT/receive.$to"; return 1; }
	# Only what was started here is a child of this shell.
	wait "$pid" 2>/dev/null
	leg=$to
	await_gone "$pid" 60
}

# Arguments: the next leg, how the disk is read there.
move() {
	local from=$leg to=$1 pages ranges status

	pages=$(discards "$from" $page)
	ranges=$(discards "$from" "$range")
	send "$@" $page "$range"
	status=$?
	pages=$(($(discards "$from" $page) - pages))
	ranges=$(($(discards "$from" "$range") - ranges))
	echo "# $(json_field "$MIGR_OUT/send.$to" result passes) passes," \
		"$(json_field "$MIGR_OUT/send.$to" result pinned_pages) pages for the disk," \
		"meanwhile $pages pages for the balloon, $ranges reported ranges"
	if [ $status -ne 0 ] ||
	   [ "$(json_field "$MIGR_OUT/send.$to" result ram_identical)" != true ]; then
		tail -n 1 "$MIGR_OUT/send.$to"
		return 1
	fi
	[ $pages -gt 0 ] || { echo "# the balloon took nothing"; return 1; }
	[ $ranges -gt 0 ] || { echo "# no free pages were reported"; return 1; }
	if grep -aqE 'ret: -' "/run/discards.$from"; then
		echo "# not given up: $(grep -aE -m 1 'ret: -' "/run/discards.$from")"
		return 1
	fi
	# It need not be busy with that.
	balloon "$to" 256
	guest_is_well "$MIGR_OUT/console.$to" 120
}

# With a rule broken the memory of the two sides differs, and the guest stays. If
# nothing happened at the wrong moment, it has moved, and moves again. Arguments: the
# rule, how the disk is read, here and there, and the sizes of what is given up.
must_differ() {
	local rule=$1 aio=$2 to try

	shift 2
	echo "$rule" > $parameters/break_rule
	for ((try = 1; try <= 8; try++)); do
		to=rule$rule.$aio.$try
		# What it took in the attempt before.
		balloon "$leg" 256
		# What is used from now on is sent before it is free again.
		[ "${1:-}" != "$range" ] || await_discards "$leg" "$range" 30
		send "$to" "$aio" "$@" && continue
		echo "# rule $rule broken: attempt $try failed"
		if [ "$(json_field "$MIGR_OUT/send.$to" error ram_identical)" != false ]; then
			tail -n 1 "$MIGR_OUT/send.$to"
			return 1
		fi
		wait $receive
		echo 0 > $parameters/break_rule
		return 0
	done
	return 1
}

# Once the last guest is gone.
load_test_module() {
	for ((i = 0; i < 100; i++)); do
		rmmod migr 2>/dev/null && break
		sleep 0.1
	done
	insmod "${MIGR_KO%/*}-test/migr.ko"
}

result() {
	if [ "$2" -eq 0 ]; then
		echo "ok $1 $3"
	else
		echo "not ok $1 $3"
		return 1
	fi
}

host() {
	local n=$1

	make_disk && start_guest start || return 1
	# So that the second pass takes long enough to be held up.
	options=(--max-bandwidth 100M)
	move there io_uring
	result $((n + 1)) $? "with a disk read by aio=native, a balloon and free page reporting" ||
		return 1
	move back native
	result $((n + 2)) $? "with a disk read by aio=io_uring, a balloon and free page reporting" ||
		return 1

	kill -KILL "$(pgrep -x qemu-system-x86)"
	options=()
	# Now a read is in flight at the pause most times, however slow the guest is.
	load_test_module && start_guest broken && disk_takes 3000 || return 1
	must_differ 4 native
	result $((n + 3)) $? "what aio=native reads is lost if rule 4 is broken" || return 1
	send uring io_uring || return 1
	must_differ 4 io_uring
	result $((n + 4)) $? "what aio=io_uring reads is lost if rule 4 is broken" || return 1

	# A guest whose free memory is in large pieces, which alone are reported.
	kill -KILL "$(pgrep -x qemu-system-x86)"
	start_guest reports || return 1
	# What was written in the first pass has been sent in the second. The third takes a
	# while, as each chunk does, but is the last: the guest does not leave alone for
	# long what it has given up.
	pass=3
	passes=3
	echo 20 > $parameters/delay_ms
	must_differ 5 io_uring "$range"
	result $((n + 5)) $? "free pages are reported unnoticed if rule 5 is broken" || return 1
	kill -KILL "$(pgrep -x qemu-system-x86)"
	# Each by itself, or what is reported could be what the balloon gave back.
	reporting=off
	start_guest balloon || return 1
	must_differ 5 native $page
	result $((n + 6)) $? "the balloon takes pages unnoticed if rule 5 is broken"
}

case ${1:-} in
host)	host "$2"; exit ;;
esac

on_each_kernel on_host 6 "the host has neither failed nor complained" devices 1700
