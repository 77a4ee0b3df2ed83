// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr run: become the given QEMU, with its RAM on /dev/migr.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

static const char help[] =
"Usage: migr run [--] qemu-system-x86_64 ...\n"
"\n"
"Become the given QEMU command, with the RAM that its -m asks for on " MIGR_DEVICE "\n"
"and a QMP socket in /run/migr, so that 'migr send' can move the VM.\n"
"\n"
"      --help  show this\n";

int cmd_run(int argc, char **argv)
{
	struct text path, error;
	struct migr *m;
	char **command;
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
	/* Better our sentence now than QEMU's later. */
	if (migr_open(&m) < 0) {
		complain("%s", m ? migr_error(m) : "no memory");
		migr_close(m);
		return EXIT_HERE;
	}
	migr_close(m);
	if (!vm_qmp_path(getpid(), &path, &error))
		return complain("%s", error.s);
	command = command_on_migr(argv + i, path.s, -1, &error);
	if (!command)
		return complain("run: %s", error.s);
	execvp(command[0], command);
	complain("cannot run %s: %s", command[0], strerror(errno));
	command_free(command);
	return EXIT_HERE;
}
