#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# One guest travels between two hosts with three links: each carries its part, and
# what it costs that one is cut in a pass, or all are. All the time it writes what
# nobody could guess, and checks its memory: after each case it is well where it is.
#
# MIGR_CASES: names of cases, to do those alone.

set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
top=$(cd "$here/../.." && pwd -P)
self=$here/tests/$(basename "$0")
migr=$here/migr
encrypting=$top/build/bin/migr
# shellcheck disable=SC2034 # for on_hosts
links=3
network=198.51.100.0/24
network6=2001:db8::/32

# shellcheck source=selftests/vm/guest.bash
. "$here/guest.bash"

# What the hosts do, one case after the other, with the guest that the case before has
# left on one of them.
all_cases='
one:what is not encrypted goes over the link of the address, unless told otherwise
*any:what is encrypted goes over all of them, and can be read on none
*plain:what is not encrypted goes over their IPv6 addresses, and can be read on each
chosen:a link that is chosen is the only one
compressed:what is compressed arrives whole as well
few:of fewer streams than links, one without has that of one that is cut
share:three links share the work by what they carry, and the memory arrives whole
apart:a destination restricts its links, and the streams keep away from the others
*adds_up:three links together carry more than twice what one does
fast:a link whose NIC is faster than the others has more streams
limited:a limit to the bandwidth is kept, and used up, by three links, and by two while one is cut
*cut:a link that is down in a pass costs nothing, and is used again
cut_encrypted:nor does it cost an encrypted move more
cut_control:nor does it end the move if the control channel goes over it
*silent:a link that drops everything in a pass costs nothing, and is used again
control_lost:with the link of the control channel cut for too long the guest runs on
all_cut:with all links cut the guest runs on
later:and moves later
'
cases=$(wanted_cases)

case=

# What goes out over a link passes through this. Arguments: its number, of tc qdisc.
link_is() {
	tc qdisc replace dev "migr$1" root "${@:2}"
}

# Arguments: a rate for each link in Mbit/s.
rates() {
	local link=0 rate

	for rate; do
		link_is $link tbf rate "${rate}mbit" burst 64k latency 400ms || return 1
		link=$((link + 1))
	done
}

# The guest does not arrive before what is waited for has come.
crawl() {
	rates 2 2 2
}

restore() {
	local link

	for link in 0 1 2; do
		ip link set "migr$link" up
		tc qdisc del dev "migr$link" root 2>/dev/null
	done
	return 0
}

# MiB that have gone out over a link.
sent() {
	echo $(($(cat "/sys/class/net/migr$1/statistics/tx_bytes") >> 20))
}

# Those of them that were IPv6.
sent6() {
	awk '$1 == "Ip6OutOctets" { print int($2 / 1048576) }' "/proc/net/dev_snmp6/migr$1"
}

# Arguments: options of migr send.
send_begin() {
	local link

	await_line "$MIGR_OUT/receive.$case" '^waiting' 60 || return 1
	for link in 0 1 2; do
		before[link]=$($sent $link)
	done
	"$migr" send --json --verify "$@" traveller "$other" > "$MIGR_OUT/send.$case" 2>&1 &
	send=$!
}

# Wait until a command prints what it is to, while the guest is on its way. Arguments:
# that, and the command.
send_until() {
	local wanted=$1 end=$((SECONDS + 60))

	shift
	until [ "$("$@")" = "$wanted" ]; do
		if [ $SECONDS -ge $end ] || ! kill -0 "$send" 2>/dev/null; then
			echo "$1: not '$wanted', but '$("$@")': $(tail -n 2 "$MIGR_OUT/send.$case")"
			return 1
		fi
		nap 0.1
	done
}

# Wait until it has streams over so many links.
send_has_links() {
	send_until "$1" json_field "$MIGR_OUT/send.$case" progress links
}

send_is_in_passes() {
	await_line "$MIGR_OUT/send.$case" '"phase":"passes".*"sent_bytes":[1-9]' 60 "$send"
}

# It moved the guest, with all its memory.
send_moved() {
	if ! wait "$send" || ! grep -q '"ram_identical":true' "$MIGR_OUT/send.$case"; then
		echo "it did not move: $(tail -n 2 "$MIGR_OUT/send.$case")"
		return 1
	fi
}

# How much each link has carried of the move. Arguments: for each the least and the
# most, in MiB.
carried() {
	local link now

	for link in 0 1 2; do
		now=$(($($sent $link) - before[link]))
		echo "# migr$link carried $now MiB"
		[ "$now" -ge "${1%-*}" ] && [ "$now" -le "${1#*-}" ] ||
			{ echo "not $1 MiB over migr$link: $now"; return 1; }
		shift
	done
}

# What it got done in three seconds of the first pass, of all the median, in Mbit/s:
# neither a moment in which a busy machine did nothing counts, nor one in which sockets
# took what they hold, nor what the last chunk of a slow link takes.
usual_rate() {
	sed -n 's/.*"elapsed_ms":\([0-9.]*\).*"pass":1,.*"sent_bytes":\([0-9]*\).*/\1 \2/p' \
		"$MIGR_OUT/send.$case" |
		awk '$2 {
			ms[++nr] = $1
			bytes[nr] = $2
			for (i = last + 1; $1 - ms[i] >= 3000; i++)
				last = i
			if (last)
				printf "%.0f\n", ($2 - bytes[last]) * 8 / ($1 - ms[last]) / 1000
		}' | sort -n | awk '{ rate[NR] = $1 } END { print rate[int((NR + 1) / 2)] }'
}

# Mbit/s of the first pass, which is longer than what comes before and after it.
first_pass_rate() {
	sed -n 's/.*"pass_list":\[{[^}]*"wire_bytes":\([0-9]*\),"ms":\([0-9.]*\).*/\1 \2/p' \
		"$MIGR_OUT/send.$case" | awk '{ printf "%.0f\n", $1 * 8 / $2 / 1000 }'
}

# Somebody looks at each link, for pages of the guest and for what lets a stream in.
sniff_begin() {
	local link word='guest-work page'

	sniffers=()
	for link in 0 1 2; do
		"$top/build/vm/sniff" migr$link "$MIGR_OUT/looks.$case.$link" "$word" '"token"' \
			> "$MIGR_OUT/sniffed.$case.$link" &
		sniffers+=($!)
		"$here/await" "$MIGR_OUT/looks.$case.$link" 30 || return 1
	done
}

# What they have seen. Arguments: what is due of each link.
sniffed() {
	local link seen

	kill "${sniffers[@]}"
	wait "${sniffers[@]}"
	for link in 0 1 2; do
		seen=$(cat "$MIGR_OUT/sniffed.$case.$link")
		echo "# migr$link: $seen"
		[[ $seen =~ $1 ]] || { echo "not '$1' on migr$link"; return 1; }
	done
}

# The guest as it is started, or arrives. It leaves the host's only CPU to others most
# of the time.
command_of() {
	console=$MIGR_OUT/console.$case
	guest_command traveller "$console" 128M migr.fill=24M migr.rate=100 migr.check=4000
	guest+=(-chardev "pipe,id=qmp,path=/run/qmp" -mon "chardev=qmp,mode=control")
}

start_guest() {
	command_of
	boot_guest "$console" "$MIGR_OUT/qemu"
}

# It runs, as its QEMU says, nothing of its memory is wrong, and it writes on.
guest_is_here() {
	local status writes

	# Opened for both, so that it does not wait for a QEMU that is gone.
	echo '{"execute": "qmp_capabilities"} {"execute": "query-status"}' 1<> /run/qmp.in
	status=$(timeout 20 grep -aom 1 '"return": {"status": "[a-z-]*"' /run/qmp.out)
	[[ $status = *'"running"' ]] || { echo "it does not run: $status"; return 1; }
	await_line "$console" '^guest: up=' 60 && writes=$(beat "$console" writes) &&
		guest_is_well "$console" 90 || return 1
	[ "$(beat "$console" writes)" -gt "$writes" ] || { echo "it writes no more"; return 1; }
}

# The certificates of both hosts, made by one.
certify() {
	local made=$MIGR_OUT/pki

	if [ "$1" = source ]; then
		"$encrypting" pki --dir "$made.new" source,198.51.100.1 destination,198.51.100.2 \
			> "$MIGR_OUT/pki.log" || { cat "$MIGR_OUT/pki.log"; return 1; }
		mv "$made.new" "$made"
	fi
	"$here/await" "$made" 60 && mkdir -p /etc/migr && cp "$made/$1"/* /etc/migr/
}

# ---- the host that has the guest ----------------------------------------

leave_one() {
	send_begin && send_moved && carried 64-500 0-1 0-1
}

# The others begin while the first one is at work.
leave_any() {
	local migr=$encrypting

	crawl
	sniff_begin && send_begin && send_has_links 3 && rates 20 20 20 && send_moved &&
		carried 10-500 10-500 10-500 &&
		sniffed '^packets=[0-9]{2,} guest-work page=0 "token"=0 missed=0$'
}

# The control channel goes to the address that was given.
leave_plain() {
	local sent=sent6

	rates 40 40 40
	sniff_begin && send_begin --network $network6 && send_moved &&
		carried 10-500 10-500 10-500 && sniffed ' guest-work page=[1-9][0-9]* "token"=[1-9]'
}

leave_chosen() {
	send_begin --links migr1 --streams 3 && send_moved && carried 0-1 64-500 0-1
}

# The guest's own memory is much the same all over; what it fills the rest with is not.
leave_compressed() {
	local chunks

	rates 20 20 20
	send_begin --network $network --compress auto && send_moved || return 1
	chunks=$(json_field "$MIGR_OUT/send.$case" result compressed_chunks)
	echo "# $chunks chunks were compressed"
	[ "$chunks" -gt 0 ]
}

leave_few() {
	rates 20 20 20
	send_begin --network $network --streams 2 && send_has_links 2 && send_is_in_passes || return 1
	ip link set migr1 down
	send_moved && carried 20-500 0-20 10-500
}

# The last has a tenth of what the others have.
leave_share() {
	local rate usual

	rates 20 20 2
	send_begin --network $network && send_moved && carried 20-500 20-500 1-20 || return 1
	rate=$(first_pass_rate)
	usual=$(usual_rate)
	echo "# over links of 20, 20 and 2 Mbit/s: $rate Mbit/s, most of the time $usual"
	# No two carry that, but the fast ones.
	[ "$usual" -gt 22 ] && [ "$rate" -le 44 ]
}

# Slow, as the second is opened while the first has begun already.
leave_apart() {
	rates 20 20 20
	send_begin && send_moved && carried 0-1 20-500 20-500
}

leave_adds_up() {
	local rate usual

	rates 30 30 30
	send_begin --network $network && send_moved || return 1
	rate=$(first_pass_rate)
	usual=$(usual_rate)
	echo "# over three links of 30 Mbit/s: $rate Mbit/s, most of the time $usual"
	# What one carries at most is known.
	[ "$usual" -gt 60 ] && [ "$rate" -le 93 ]
}

# What the NICs say of themselves. Arguments: of each, in Mbit/s.
speeds() {
	local link=0 speed

	for speed; do
		ethtool -s "migr$link" speed "$speed" duplex full || return 1
		link=$((link + 1))
	done
}

# How many connections there are over each link, the control channel's included.
connections() {
	local link

	for link in 0 1 2; do
		ss -Htn state established dst "198.51.100.$((64 * link))/26" | wc -l
	done | xargs
}

leave_fast() {
	rates 20 20 20
	speeds 10000 10000 25000 && send_begin --network $network &&
		send_until '2 1 3' connections && send_moved && speeds 10000 10000 10000
}

# What each stream may send, in Mbit/s.
shares() {
	ss -Htin state established |
		sed -n 's|.* pacing_rate [^ ]*/\([0-9]*\)000000bps.*|\1|p' | sort | xargs
}

# Its own rate is above what the links are held to; two thirds of that would be 16.
leave_limited() {
	local rate usual

	send_begin --network $network --max-bandwidth 24M && send_is_in_passes &&
		send_until '8 8 8' shares || return 1
	ip link set migr1 down
	send_until '12 12' shares || return 1
	ip link set migr1 up
	send_until '8 8 8' shares && send_moved || return 1
	rate=$(first_pass_rate)
	usual=$(usual_rate)
	echo "# held to 24 Mbit/s: $rate Mbit/s, most of the time $usual"
	[ "$usual" -ge 18 ] && [ "$rate" -le 25 ]
}

# The link is used again, and the guest arrives. Arguments: its number, and the rates
# of all.
used_again() {
	local at

	at=$(sent "$1")
	send_has_links 3 && rates "${@:2}" && send_moved || return 1
	[ "$(sent "$1")" -gt $((at + 1)) ] || { echo "migr$1 was not used again"; return 1; }
}

# Arguments: a link's number, and the rates of all.
cut_for_a_moment() {
	local link=$1

	shift
	rates "$@"
	send_begin --network $network && send_has_links 3 && send_is_in_passes || return 1
	ip link set "migr$link" down
	send_has_links 2 && crawl || return 1
	ip link set "migr$link" up
	used_again "$link" "$@"
}

leave_cut() {
	cut_for_a_moment 1 10 20 10
}

leave_cut_encrypted() {
	local migr=$encrypting

	leave_cut
}

# Until its stream has been given up, which takes less than the time limit.
leave_cut_control() {
	cut_for_a_moment 0 20 10 10
}

leave_silent() {
	rates 10 10 20
	send_begin --network $network && send_has_links 3 && send_is_in_passes || return 1
	tell silence
	told silenced && link_is 2 netem loss 100% && send_has_links 2 && rates 2 2 || return 1
	tell speak
	told spoken && crawl && used_again 2 10 10 20
}

# Arguments: the numbers of links, whose end is that of the migration.
cut_for_good() {
	local link

	rates 10 10 10
	send_begin --network $network --timeout 10 && send_has_links 3 && send_is_in_passes || return 1
	for link; do
		ip link set "migr$link" down
	done
	if wait "$send" || ! grep -q 'runs on here' "$MIGR_OUT/send.$case"; then
		echo "it did not fail: $(tail -n 2 "$MIGR_OUT/send.$case")"
		return 1
	fi
}

leave_later() {
	send_begin && send_moved
}

leave_control_lost() {
	cut_for_good 0
}

leave_all_cut() {
	cut_for_good 0 1 2
}

# ---- the other host -----------------------------------------------------

# Arguments: options of migr receive.
receive_begin() {
	command_of
	"$migr" receive --once "$@" -- "${guest[@]}" > "$MIGR_OUT/receive.$case" 2>&1 &
	receive=$!
}

receive_moved() {
	wait "$receive" && return
	cat "$MIGR_OUT/receive.$case"
	return 1
}

arrive_any() {
	local migr=$encrypting

	receive_begin
	receive_moved
}

arrive_cut_encrypted() {
	arrive_any
}

arrive_fast() {
	speeds 10000 10000 25000 || return 1
	receive_begin
	receive_moved && speeds 10000 10000 10000
}

arrive_apart() {
	receive_begin --network 198.51.100.128/26,198.51.100.64/26
	receive_moved
}

arrive_silent() {
	receive_begin
	told silence && link_is 2 netem loss 100% && tell silenced || return 1
	told speak && tc qdisc del dev migr2 root && tell spoken || return 1
	receive_moved
}

arrive_control_lost() {
	receive_begin --timeout 10
	! wait "$receive"
}

arrive_all_cut() {
	arrive_control_lost
}

arrive() {
	if declare -F "arrive_$1" > /dev/null; then
		"arrive_$1"
	else
		receive_begin
		receive_moved
	fi
}

# ---- both, case by case -------------------------------------------------

# Arguments: this host, the other one, their addresses, and how many test lines
# there have been.
do_cases() {
	local host=$1 peer=$2 at=source after n=$5 name what result sent=sent before=() link
	local sniffers=()

	other=$4
	# Links that are cut are to have them again.
	echo 1 > /proc/sys/net/ipv6/conf/all/keep_addr_on_down
	for link in 0 1 2; do
		ip address add "2001:db8:0:$link::${3##*.}/64" dev migr$link nodad
	done
	mkfifo /run/qmp.in /run/qmp.out
	certify "$host" || return 1
	if [ "$host" = source ]; then
		case=start
		start_guest && guest_is_here || return 1
	fi
	# Not from its input, which a case may read.
	while IFS=: read -r -u 9 name what; do
		n=$((n + 1))
		case=$n.$name
		after=$at
		[[ $name = @(control_lost|all_cut) ]] ||
			after=$([ $at = "$host" ] && echo "$peer" || echo "$host")
		result=ok
		if [ $at = "$host" ]; then
			"leave_$name" || result="not ok"
		else
			arrive "$name" || result="not ok"
		fi
		restore
		if [ "$result" = ok ] && [ $after = "$host" ]; then
			guest_is_here || result="not ok"
		fi
		echo "$result" > "$MIGR_OUT/$host.$n"
		await_line "$MIGR_OUT/$peer.$n" ok 600 || return 1
		# This host's trouble is above; the other one's is in its log.
		[ "$(cat "$MIGR_OUT/$peer.$n")" = ok ] || result="not ok"
		echo "$result $n $what"
		# One that fails leaves the guest nobody knows where.
		[ "$result" = ok ] || return 1
		at=$after
	done 9<<< "$cases"
}

case ${1:-} in
source)		do_cases source destination 198.51.100.1 198.51.100.2 "$2"; exit ;;
destination)	do_cases destination source 198.51.100.2 198.51.100.1 "$2"; exit ;;
esac

on_each_kernel on_hosts 0 "the hosts have neither failed nor complained" links 1700
