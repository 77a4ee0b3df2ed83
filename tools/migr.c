// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr: the operator's command. Each of its commands has a file.
 */
#include <stdio.h>
#include <string.h>

#include "tool.h"

#ifndef MIGR_VERSION
#define MIGR_VERSION	"0.1.0"
#endif

static const char help[] =
"Usage: migr COMMAND ...\n"
"\n"
"  run      start a QEMU whose VM can be moved\n"
"  ls       list the VMs of this host that can be moved\n"
"  receive  wait for a VM on the host where it shall go\n"
"  send     move a running VM there\n"
"  pki      make certificates for hosts that trust each other\n"
"\n"
"migr COMMAND --help says more; migr --version tells the version.\n";

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {
		{ "run", cmd_run },
		{ "ls", cmd_ls },
		{ "receive", cmd_receive },
		{ "send", cmd_send },
		{ "pki", cmd_pki },
	};

	if (argc > 1 && !strcmp(argv[1], "--version")) {
		puts("migr " MIGR_VERSION);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		fputs(help, stdout);
		return 0;
	}
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	if (argc > 1)
		complain("no such command: %s", argv[1]);
	fputs(help, stderr);
	return EXIT_USAGE;
}
