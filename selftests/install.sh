#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What "make install" leaves below DESTDIR, for the default prefix and another:
# with what pkg-config says an example is built with either library; the shared
# one exports the functions of lib/migr.h, all of which have a page, and no others.
# Needs no VM. What was installed stays in build/check/install/.

set -u

top=$(cd "$(dirname "$0")/.." && pwd -P)
out=$top/build/check/install
# How "make check" was called is nothing to the make below.
unset MAKEFLAGS

# shellcheck source=selftests/check.bash
. "$top/selftests/check.bash"

install() {
	make -C "$top" install DESTDIR="$root" prefix="$prefix" libdir="$prefix/lib" \
		includedir="$prefix/include" mandir="$prefix/share/man" > "$root.log" 2>&1 ||
		{ cat "$root.log"; return; }
	[ -x "$root$prefix/bin/migr" ] || echo "there is no migr"
	find "$root" ! -type d ! -path "$root$prefix/*" ! -path "$root/lib/modules/*"
	find "$root" -xtype l
}

# Make a program and start it. Arguments: its name, an option for pkg-config; with
# --static it has the static libmigr.
build() {
	local program=$root/$1 flags

	shift
	flags=$(PKG_CONFIG_PATH=$root$prefix/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root \
		pkg-config --cflags --libs "$@" libmigr) || return
	[ $# -eq 0 ] || flags=${flags/-lmigr/-l:libmigr.a}
	# shellcheck disable=SC2086 # several words
	gcc -std=gnu11 -o "$program" "$top/tools/examples/ringvmm.c" $flags || return
	LD_LIBRARY_PATH=$root$prefix/lib "$program" 2>&1 | grep ': usage: ringvmm'
}

# The shared libraries that a program needs. Arguments: its name.
needs() {
	readelf -d "$root/$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}

shared() {
	build shared > "$root.log" 2>&1 || { cat "$root.log"; return; }
	needs shared | grep -qx 'libmigr\.so\.0' || { echo "it needs"; needs shared; }
}

# libmnl and GnuTLS cannot be linked statically in Debian.
static() {
	build static --static > "$root.log" 2>&1 || { cat "$root.log"; return; }
	needs static | grep libmigr
}

declared() {
	sed '/^#/d' "$top/lib/migr.h" | gcc -fpreprocessed -E -P -x c - |
		grep -oE '\bmigr_[a-z_]+\(' | tr -d '(' | sort
}

# The name of the version is a symbol as well.
exported() {
	nm -D --defined-only "$root$prefix/lib/libmigr.so" |
		sed -e 's/.* //' -e 's/@@LIBMIGR_0$//' | grep -vx LIBMIGR_0 | sort
}

functions() {
	diff <(declared) <(exported)
}

pages() {
	local name

	for name in $(declared); do
		[ -e "$root$prefix/share/man/man3/$name.3" ] || echo "there is no $name.3"
	done
}

echo "KTAP version 1"
for command in make gcc pkg-config readelf nm; do
	command -v $command > /dev/null || { echo "Bail out! there is no $command"; exit 1; }
done
echo "1..8"
rm -rf "$out"
mkdir -p "$out"
# The default last: that libmigr.pc stays in the build folder.
for prefix in /opt/migr /usr/local; do
	root=$out/${prefix##*/}
	check "all is below $prefix, and no link leads nowhere" "$(install)"
	check "an example is built with the shared library, and needs it ($prefix)" "$(shared)"
	check "and with the static one, and does not ($prefix)" "$(static)"
done
check "the library exports the functions of migr.h, and nothing else" "$(functions)"
check "each has its page" "$(pages)"
exit $failed
