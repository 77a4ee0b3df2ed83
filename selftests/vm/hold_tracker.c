// SPDX-License-Identifier: GPL-2.0-only
/*
 * Track the memory of a VM until killed, as a backup program would. Arguments:
 * the VM's process, and a file to make once it is tracked.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "migr.h"

int main(int argc, char **argv)
{
	struct migr_region region;
	struct migr *m;

	if (argc != 3 || migr_open(&m))
		return 1;
	if (migr_region_take(m, atoi(argv[1]), &region, 1) != 1 ||
	    migr_tracker_start(m, region.fd) < 0) {
		fprintf(stderr, "hold_tracker: %s\n", migr_error(m));
		return 1;
	}
	if (open(argv[2], O_CREAT | O_WRONLY, 0600) < 0)
		return 1;
	pause();
	return 0;
}
