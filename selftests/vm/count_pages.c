// SPDX-License-Identifier: GPL-2.0-only
/*
 * Print how many pages of a VM's memory hold anything but zeroes, without making
 * pages of its holes. Argument: the VM's process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migr.h"

/* -1: it cannot be read. */
static long count(int region, size_t page)
{
	static const char zeroes[1 << 16];
	char bytes[1 << 16];
	off_t offset = 0, end;
	long pages = 0;

	while ((offset = lseek(region, offset, SEEK_DATA)) >= 0) {
		end = lseek(region, offset, SEEK_HOLE);
		for (; offset < end; offset += page) {
			if (pread(region, bytes, page, offset) != (ssize_t)page)
				return -1;
			pages += !!memcmp(bytes, zeroes, page);
		}
	}
	return errno == ENXIO ? pages : -1;
}

int main(int argc, char **argv)
{
	struct migr_region regions[MIGR_REGIONS_MAX];
	struct migr *m;
	long pages = 0;
	int n;

	if (argc != 2 || migr_open(&m))
		return 1;
	n = migr_region_take(m, atoi(argv[1]), regions, MIGR_REGIONS_MAX);
	if (n < 0) {
		fprintf(stderr, "count_pages: %s\n", migr_error(m));
		return 1;
	}
	for (int i = 0; i < n; i++) {
		long of_region = count(regions[i].fd, migr_info(m)->page_size);

		if (of_region < 0) {
			perror("count_pages");
			return 1;
		}
		pages += of_region;
	}
	printf("%ld\n", pages);
	return 0;
}
