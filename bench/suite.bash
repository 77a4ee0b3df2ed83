# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the suites share: how figures become results.

die() {
	echo "bench: $*" >&2
	exit 1
}

# What a host is, to be asked there.
env_json() {
	local accel=tcg

	! dmesg | grep -q 'Hypervisor detected: KVM' || accel=kvm
	printf '{"kernel": "%s", "accel": "%s", "cpus": %d, "memory_mib": %d}\n' \
		"$(uname -r)" $accel "$(nproc)" \
		$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))
}

# Of the numbers on standard input, one a line.
median() {
	sort -g | awk '{ v[NR] = $1 }
		END { printf "%.10g", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

# A line of results. Arguments: suite, case, peer, unit, which is better ("lower"
# or "higher"), how many runs, ours, theirs.
result() {
	local lower=false

	[ "$5" != lower ] || lower=true
	awk -v head="\"suite\": \"$1\", \"case\": \"$2\", \"peer\": \"$3\", \"unit\": \"$4\"" \
	    -v ours="$7" -v theirs="$8" -v tail="\"runs\": $6, \"lower_is_better\": $lower" 'BEGIN {
		ratio = theirs != 0 ? sprintf("%.4g", ours / theirs) : "null"
		printf "{%s, \"ours\": %.10g, \"theirs\": %.10g, \"ratio\": %s, %s}\n",
			head, ours, theirs, ratio, tail
	}'
}

# Lines of results, with the host that they were measured in. Argument: the file
# with its env_json().
with_env() {
	sed "s/}\$/, \"env\": $(cat "$1")}/"
}
