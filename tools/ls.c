// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr ls: the VMs on /dev/migr on this host.
 */
#include <getopt.h>
#include <stdio.h>

#include "tool.h"

static const char help[] =
"Usage: migr ls [--json]\n"
"\n"
"List the processes of this host that have memory on " MIGR_DEVICE ", as far as\n"
"they may be looked at.\n"
"\n"
"      --json  one JSON object a line\n"
"      --help  show this\n";

struct listing {
	bool json;
	unsigned int count;
};

static void list_one(const struct vm *vm, void *data)
{
	struct text name = vm->name, qmp = vm->qmp;
	struct listing *l = data;
	uint64_t ram = 0, resident = 0;
	bool tracked = false;

	for (int i = 0; i < vm->nr_regions; i++) {
		ram += vm->regions[i].info.length;
		resident += vm->regions[i].info.resident;
		tracked |= vm->regions[i].info.state & MIGR_REGION_TRACKED;
	}
	/* What other processes call themselves. */
	text_clean(name.s);
	text_clean(qmp.s);
	if (l->json) {
		print_json(json_pack("{s:s, s:i, s:s, s:I, s:I, s:b, s:s}", "type", "vm", "pid",
				     (int)vm->pid, "name", name.s, "ram_bytes", (json_int_t)ram,
				     "resident_bytes", (json_int_t)resident, "tracked", tracked,
				     "qmp", qmp.s));
		return;
	}
	if (!l->count++)
		printf("%8s  %-20s %10s %12s  %-7s  %s\n", "PID", "NAME", "RAM MiB", "RESIDENT MiB",
		       "TRACKED", "QMP");
	printf("%8d  %-20s %10.0f %12.1f  %-7s  %s\n", vm->pid, name.s[0] ? name.s : "-",
	       ram / 1048576.0, resident / 1048576.0, tracked ? "yes" : "no",
	       qmp.s[0] ? qmp.s : "-");
}

int cmd_ls(int argc, char **argv)
{
	enum { JSON = 1, HELP };
	static const struct option options[] = {
		{ "json", no_argument, NULL, JSON },
		{ "help", no_argument, NULL, HELP },
		{ 0 }
	};
	struct listing l = { 0 };
	struct migr *m;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		l.json |= c == JSON;
		if (c == HELP) {
			fputs(help, stdout);
			return 0;
		}
		if (c == '?')
			return EXIT_USAGE;
	}
	if (optind < argc) {
		complain("ls: it lists all VMs, not '%s' (see 'migr ls --help')", argv[optind]);
		return EXIT_USAGE;
	}
	if (migr_open(&m) < 0) {
		complain("%s", m ? migr_error(m) : "no memory");
		migr_close(m);
		return EXIT_HERE;
	}
	vm_each(m, list_one, &l);
	migr_close(m);
	return 0;
}
