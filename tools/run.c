// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr run: become the given QEMU, with its RAM on /dev/migr.
 */
#include <stdio.h>
#include <string.h>

#include "tool.h"

static const char help[] =
"Usage: migr run [--] qemu-system-x86_64 ...\n"
"\n"
"Become the given QEMU command, with the RAM that its -m asks for on " MIGR_DEVICE "\n"
"and a QMP socket in /run/migr, or $XDG_RUNTIME_DIR/migr if not root, so that\n"
"'migr send' can move the VM.\n"
"\n"
"      --help  show this\n";

int cmd_run(int argc, char **argv)
{
	struct text error;
	uint64_t bytes;
	int i = 1;

	if (i < argc && !strcmp(argv[i], "--help")) {
		fputs(help, stdout);
		return 0;
	}
	if (i < argc && !strcmp(argv[i], "--"))
		i++;
	if (i == argc) {
		complain("run: which command? (see 'migr run --help')");
		return EXIT_USAGE;
	}
	if (!command_check(argv + i, false, &bytes, &error)) {
		complain("run: %s", error.s);
		return EXIT_USAGE;
	}
	vm_become(argv + i, MIGR_BACKEND, -1, &error);
	return complain("run: %s", error.s);
}
