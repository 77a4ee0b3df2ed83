# SPDX-License-Identifier: GPL-2.0-only
#
# make            the library and the tools, into build/
# make module     migr.ko for the running kernel, or the one of KDIR
# make install    all of these, below DESTDIR and prefix
# make check      all tests (TESTS='pattern ...' for some of them)
# make debug      tests on a kernel with KASAN, lockdep and kmemleak
# make fuzz       the parsers of what a peer sends, for FUZZ_SECONDS each
# make bench      migr beside its peers (SUITE=tracking for one)
# make demo       migrate a running guest between two hosts, and show it
# make lint       checkpatch, kernel-doc, sparse and W=1
#
# V=1 shows the commands. The rest is in Documentation/testing.rst.

prefix ?= /usr/local
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
KDIR ?= /lib/modules/$(shell uname -r)/build

CC = gcc
AR = ar
CFLAGS ?= -O2 -g
override CFLAGS += -std=gnu11 -Wall -Wextra -Werror
override CPPFLAGS += -Iuapi -Ilib

VERSION := 0.1.0
KERNELS := 6.1 6.12
CACHE := $(or $(MIGR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/migr)
B := build

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: FORCE all lib tools module modules install selftests unit guest deps \
	kernels check debug fuzz demo bench lint clean

all: lib tools

# ---- the library --------------------------------------------------------

lib_objects := $(patsubst lib/%.c,$B/lib/%.o,$(wildcard lib/*.c))
# Linked into the tools statically, so that they run from the build folder.
libs := -ljansson -lmnl -lgnutls -lpthread -lm

lib: $B/lib/libmigr.a $B/lib/libmigr.so $B/lib/libmigr.pc

$B/lib/%.o: lib/%.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

$B/lib/libmigr.a: $(lib_objects)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$B/lib/libmigr.so.0: $(lib_objects) lib/libmigr.map
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,libmigr.so.0 \
		-Wl,--version-script,lib/libmigr.map -Wl,-z,defs \
		-o $@ $(lib_objects) $(libs)

$B/lib/libmigr.so: $B/lib/libmigr.so.0
	$(Q)ln -sf libmigr.so.0 $@

# Made anew each time: the folders may differ from one call of make to the next.
$B/lib/libmigr.pc: lib/libmigr.pc.in FORCE
	@mkdir -p $(@D)
	$(Q)sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' \
		-e 's|@includedir@|$(includedir)|' -e 's|@version@|$(VERSION)|' $< > $@

# ---- the tools ----------------------------------------------------------

tool_objects := $(patsubst tools/%.c,$B/tools/%.o,$(wildcard tools/*.c))

tools: $(if $(tool_objects),$B/bin/migr)

$B/tools/%.o: tools/%.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) -Itools $(CFLAGS) -MMD -MP -c -o $@ $<

$B/bin/migr: $(tool_objects) $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(libs)

# ---- the module ---------------------------------------------------------

# Objects land beside the sources that kbuild sees: give it links to them.
# $(1): folder below build/, $(2): kernel headers, $(3): further arguments
define build_module
	@mkdir -p $B/$(1)
	@cp -asf $(CURDIR)/Kbuild $(CURDIR)/kmod $(CURDIR)/uapi $B/$(1)/
	@find $B/$(1) -xtype l -delete
	$(call say,KBUILD,$B/$(1)/migr.ko)
	$(Q)$(MAKE) --no-print-directory -C $(2) M=$(CURDIR)/$B/$(1) W=1 \
		$(if $(V),V=1) $(3) modules $(if $(V),,> $B/$(1)/log 2>&1 || { cat $B/$(1)/log >&2; exit 1; })
endef

modules: $(KERNELS:%=kmod-%) $(KERNELS:%=kmod-%-test)

.PHONY: $(KERNELS:%=kmod-%) $(KERNELS:%=kmod-%-test)
$(KERNELS:%=kmod-%): kmod-%: kernels
	$(call build_module,$@,$(CACHE)/kernels/$*/build,KCFLAGS=-Werror)

$(KERNELS:%=kmod-%-test): kmod-%-test: kernels
	$(call build_module,$@,$(CACHE)/kernels/$*/build,KCFLAGS=-Werror MIGR_TEST=y)

.PHONY: debug-kernel kmod-debug kmod-debug-test
kmod-debug kmod-debug-test: kmod-%: debug-kernel
	$(call build_module,$@,$(CACHE)/kernels/debug/build,KCFLAGS=-Werror $(if $(findstring test,$@),MIGR_TEST=y))

module:
	$(call build_module,kmod,$(KDIR),)

deps:
	$(Q)selftests/deps

# With NO_INSTALL=1 both tell what is missing before that ends it.
kernels:
	$(Q)selftests/deps || { [ "$(NO_INSTALL)" != 1 ] || selftests/vm/kernels $(KERNELS); exit 1; }
	$(Q)selftests/vm/kernels $(KERNELS)

# ---- installing ---------------------------------------------------------

install: all
	install -d $(DESTDIR)$(prefix)/bin $(DESTDIR)$(libdir)/pkgconfig \
		$(DESTDIR)$(includedir)/linux
	install -m 755 $B/bin/migr $(DESTDIR)$(prefix)/bin/
	install -m 644 $B/lib/libmigr.a $(DESTDIR)$(libdir)/
	install -m 755 $B/lib/libmigr.so.0 $(DESTDIR)$(libdir)/
	ln -sf libmigr.so.0 $(DESTDIR)$(libdir)/libmigr.so
	install -m 644 $B/lib/libmigr.pc $(DESTDIR)$(libdir)/pkgconfig/
	install -m 644 lib/migr.h $(DESTDIR)$(includedir)/
	install -m 644 uapi/linux/migr.h $(DESTDIR)$(includedir)/linux/
	install -d $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man3
	install -m 644 Documentation/man/*.1 $(DESTDIR)$(mandir)/man1/
	install -m 644 Documentation/man/*.3 $(DESTDIR)$(mandir)/man3/
	@# A page tells of several functions: let each be found.
	$(Q)cd $(DESTDIR)$(mandir)/man3 && for page in migr_*.3; do \
		for name in $$(sed -n '/^\.SH NAME/,/^\.SH SYNOPSIS/p' $$page | grep -o 'migr_[a-z_]*'); do \
			[ -e $$name.3 ] || ln -s $$page $$name.3; done; done
	@[ ! -e $B/kmod/migr.ko ] || $(MAKE) --no-print-directory -C $(KDIR) \
		M=$(CURDIR)/$B/kmod modules_install \
		$(if $(DESTDIR),INSTALL_MOD_PATH=$(DESTDIR))

# ---- the tests ----------------------------------------------------------

# Programs for the test VMs: one a file, printing KTAP.
selftest_programs := $(patsubst selftests/%.c,$B/selftests/%,$(wildcard selftests/*.c))
# What shows how to use the library; the tests run them.
example_programs := $(patsubst tools/examples/%.c,$B/examples/%,$(wildcard tools/examples/*.c))
# Programs for this host, on cmocka.
unit_programs := $(patsubst lib/tests/%.c,$B/unit/lib-%,$(wildcard lib/tests/*.c)) \
	$(patsubst tools/tests/%.c,$B/unit/tools-%,$(wildcard tools/tests/*.c))

# What the scripts that boot hosts need there.
vm_programs := $(patsubst selftests/vm/%.c,$B/vm/%,$(wildcard selftests/vm/*.c))

selftests: $(selftest_programs) $(example_programs) $(vm_programs)
unit: $(unit_programs)

$B/selftests/dma: private libs += -laio -luring
# It has the tool make certificates.
$B/selftests/worn: | $B/bin/migr
$B/selftests/%: selftests/%.c $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) -Iselftests $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< \
		$B/lib/libmigr.a $(libs)

$B/examples/%: tools/examples/%.c $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $B/lib/libmigr.a $(libs)

$B/vm/hold_pin: private libs += -luring
$B/vm/%: selftests/vm/%.c $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $B/lib/libmigr.a $(libs)

$B/unit/lib-%: lib/tests/%.c $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< \
		$B/lib/libmigr.a -lcmocka $(libs)

# A tool's test is linked with all of the tool but its main().
$B/unit/tools-%: tools/tests/%.c $(filter-out $B/tools/migr.o,$(tool_objects)) $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) -Itools $(CFLAGS) -MMD -MP -MF $@.d -o $@ \
		$(filter %.c %.o %.a,$^) -lcmocka $(libs)

guest: kernels
	$(Q)$(MAKE) --no-print-directory $B/guest/initrd $B/guest/vmlinuz $B/guest/cmdline

$B/guest/guest-work: selftests/guest/guest-work.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -static -o $@ $<

# Its devices' drivers are of its kernel.
$B/guest/initrd: $B/guest/guest-work selftests/guest/init selftests/vm/modules \
		$(CACHE)/kernels/6.12/release
	$(call say,CPIO,$@)
	$(Q)rm -rf $B/guest/root && mkdir -p $B/guest/root/bin $B/guest/root/dev \
		$B/guest/root/proc $B/guest/root/sys
	$(Q)cp /bin/busybox $< $B/guest/root/bin/
	$(Q)selftests/vm/modules $(CACHE)/kernels/6.12 $B/guest/root/modules \
		virtio_blk virtio_balloon
	$(Q)cp selftests/guest/init $B/guest/root/init
	$(Q)cd $B/guest/root && find . | cpio --quiet -o -H newc -R 0:0 > ../initrd
	$(Q)rm -r $B/guest/root

# Named as the kernel on a disk is, but without the compression: KVM inside an
# emulated host takes longer to undo it than to boot.
$B/guest/vmlinuz: $(CACHE)/kernels/6.12/release
	@mkdir -p $(@D)
	$(call say,CP,$@)
	$(Q)cp $(CACHE)/kernels/6.12/vmlinux $@

# What makes it boot sooner under KVM in an emulated host; migr.* comes after.
$B/guest/cmdline: Makefile
	@mkdir -p $(@D)
	$(Q)echo "console=ttyS0 quiet mitigations=off no_timer_check tsc=reliable random.trust_cpu=on" > $@

check: kernels
	$(Q)$(MAKE) --no-print-directory all unit modules selftests guest
	$(Q)selftests/run $(TESTS)

debug-kernel: deps
	$(Q)selftests/deps bc bison flex libelf-dev
	$(Q)selftests/vm/kernels debug

debug: debug-kernel
	$(Q)$(MAKE) --no-print-directory selftests kmod-debug kmod-debug-test
	$(Q)MIGR_KERNELS=debug MIGR_PATIENCE=20 MIGR_PROGRAM_TIMEOUT=1200 \
		MIGR_BOOT_TIMEOUT=5400 selftests/run --in-kernels \
		$(or $(TESTS),compress dma faults hot ktls mappings migrate misuse region streams \
			trace track)

fuzz: deps
	$(Q)selftests/fuzz.sh

# The kernels it boots, which selftests/vm/demo defaults alike.
demo_kernels := $(sort $(or $(DEMO_SOURCE),6.12) $(or $(DEMO_DESTINATION),6.12))

# A result stands for the last demo, or there is none.
demo:
	$(Q)rm -f $B/demo.json
	$(Q)$(MAKE) --no-print-directory kernels
	$(Q)$(MAKE) --no-print-directory all $(demo_kernels:%=kmod-%) guest $B/vm/hold_kvm
	$(Q)selftests/vm/demo

# QEMU is driven with the tool's own QMP client.
$B/bench/qemu_migrate $B/bench/guest_log: $B/bench/%: bench/%.c $(filter-out $B/tools/migr.o,$(tool_objects)) $B/lib/libmigr.a
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) -Itools $(CFLAGS) -MMD -MP -MF $@.d -o $@ $(filter %.c %.o %.a,$^) $(libs)

$B/bench/trackers $B/bench/streams: $B/bench/%: bench/%.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) -Iselftests $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< -lpthread

bench: kernels
	$(Q)selftests/deps jq gnuplot-nox bsdextrautils
	$(Q)$(MAKE) --no-print-directory all modules guest $B/vm/hold_kvm \
		$B/bench/qemu_migrate $B/bench/guest_log $B/bench/trackers \
		$B/bench/streams
	$(Q)bench/run $(SUITE)

lint: kernels
	$(Q)selftests/vm/kernels lint
	$(Q)$(MAKE) --no-print-directory $(KERNELS:%=kmod-%)
	$(Q)selftests/lint "$(CACHE)"

clean:
	rm -rf $B

-include $(lib_objects:.o=.d) $(tool_objects:.o=.d) \
	$(selftest_programs:=.d) $(example_programs:=.d) $(unit_programs:=.d) \
	$(wildcard $B/bench/*.d)
