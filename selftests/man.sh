#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The man pages against what they describe: every exported function with its
# prototype, every member of a public structure, every option that the commands'
# help shows, every key of their JSON. Needs no VM.

set -u

top=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$top/Documentation/man" || exit 1
header=$top/lib/migr.h
uapi=$top/uapi/linux/migr.h
tools=$top/tools
migr=$top/build/bin/migr

# shellcheck source=selftests/check.bash
. "$top/selftests/check.bash"

# The functions that the library exports.
exported() {
	sed -n '/^global:/,/^local:/s/^\t\(migr_[a-z_]*\);$/\1/p' "$top/lib/libmigr.map"
}

# A section of pages, without what formats it. Arguments: its title, the pages.
# One of .SH has those of .SS below it.
section() {
	local title=$1

	shift
	awk -v title="$title" '
	/^\.SH / { whole = on = substr($0, 5) == title }
	/^\.SS / && !whole { on = substr($0, 5) == title }
	on' "$@" | plain
}

plain() {
	sed -e 's/\\f.//g' -e 's/\\-/-/g' -e 's/^\.B[IR]* //' -e 's/^\.I[BR]* //' -e 's/"//g'
}

# C on one line a declaration, without comments and attributes.
declarations() {
	sed '/^#/d' "$1" | gcc -fpreprocessed -E -P -x c - | tr '\n' ' ' |
		sed -e 's/__attribute__(([^;]*))//g' -e 's/[ \t]\+/ /g' -e 's/; */;\n/g'
}

# Members of the structures in a header whose names match.
members() {
	declarations "$1" | awk -v names="^struct ($2) [{]" '
	$0 ~ names { on = 1; sub(names, "") }
	/^}/ { on = 0 }
	on {
		sub(/\)\(.*/, "")
		sub(/(\[.*)?;.*/, "")
		sub(/.*[ *]/, "")
		print
	}'
}

# The lines of standard input that are not in a text. Arguments: the text,
# options for grep.
missing() {
	local text=$1 line seen=

	shift
	while read -r line; do
		seen=1
		grep -q -F "$@" -e "$line" <<< "$text" || echo "$line"
	done
	[ -n "$seen" ] || echo "there is nothing to look for"
}

lint() {
	mandoc -Tlint ./*.[13] 2>&1
}

functions() {
	exported | missing "$(section NAME ./*.3)" -w
}

prototypes() {
	local name

	exported | while read -r name; do
		declarations "$header" | grep -F "$name(" | sed 's/^[ {]*//; s/ ;/;/'
	done | missing "$(section SYNOPSIS ./*.3)" -x
}

structures() {
	{
		members "$header" '[a-z_]+'
		members "$uapi" 'migr_info|migr_region_info|migr_migration_status' |
			grep -vxE 'size|flags|__reserved'
	} | sort -u | missing "$(cat ./*.3 | plain)" -w
}

# Either way. The options that all have are in a section of their own.
options() {
	local command

	for command in run ls receive send pki; do
		diff <("$migr" "$command" --help | sed -n 's/^ \+\(--[a-z-]*\).*/\1/p' |
			sort) \
		     <({ section "Options of $command" migr.1; echo --help; } |
			sed -n 's/^\(--[a-z-]*\).*/\1/p' | sort) ||
			echo "of migr $command"
	done
}

keys() {
	awk '/json_(pack|object_set_new)\(/ { on = 1 } on; /;$/ { on = 0 }' \
		"$tools"/{report,send,receive,ls}.c |
		grep -oE '"[a-z]+(_[a-z]+)*"( :|,)' | tr -d '" :,' | sort -u |
		missing "$(section "OUTPUT FOR PROGRAMS" migr.1)" -w
}

echo "KTAP version 1"
for command in mandoc gcc "$migr"; do
	command -v "$command" > /dev/null || { echo "Bail out! there is no $command"; exit 1; }
done
echo "1..6"
check "mandoc has nothing to say of the pages" "$(lint)"
check "every function is in a page" "$(functions)"
check "with its prototype" "$(prototypes)"
check "every member of a structure is in a page" "$(structures)"
check "every option is in migr.1, and no other" "$(options)"
check "every key of the JSON is in migr.1" "$(keys)"
exit $failed
