# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For scripts that print KTAP of what they compare on this host.

n=0
failed=0

# One test. Arguments: its title, and what is wrong; nothing if all is well.
check() {
	n=$((n + 1))
	if [ -z "$2" ]; then
		echo "ok $n $1"
	else
		failed=1
		echo "not ok $n $1"
		# shellcheck disable=SC2001 # several lines
		sed 's/^/# /' <<< "$2"
	fi
}
