// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pin a VM's first pages until killed, as a device does that is assigned to it:
 * they are a buffer registered with io_uring. Arguments: the VM's process, how
 * many pages, and a file to make once they are pinned.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migr.h"

int main(int argc, char **argv)
{
	struct migr_region region;
	struct io_uring ring;
	struct iovec buffer;
	struct migr *m;
	int error;

	if (argc != 4 || migr_open(&m))
		return 1;
	if (migr_region_take(m, atoi(argv[1]), &region, 1) != 1) {
		fprintf(stderr, "hold_pin: %s\n", migr_error(m));
		return 1;
	}
	buffer.iov_len = strtoul(argv[2], NULL, 10) * sysconf(_SC_PAGESIZE);
	buffer.iov_base = mmap(NULL, buffer.iov_len, PROT_READ | PROT_WRITE, MAP_SHARED,
			       region.fd, 0);
	if (buffer.iov_base == MAP_FAILED) {
		perror("hold_pin: mmap");
		return 1;
	}
	error = io_uring_queue_init(1, &ring, 0);
	if (!error)
		error = io_uring_register_buffers(&ring, &buffer, 1);
	if (error) {
		fprintf(stderr, "hold_pin: %s\n", strerror(-error));
		return 1;
	}
	if (open(argv[3], O_CREAT | O_WRONLY, 0600) < 0)
		return 1;
	pause();
	return 0;
}
