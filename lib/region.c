// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Regions: making, mapping, describing, and taking those of another process.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

int migr_region_create(struct migr *m, const char *name, uint64_t length)
{
	struct migr_region_create a = { .size = sizeof(a), .length = length };
	int error;

	if (strlen(name) >= sizeof(a.name))
		return error_set(&m->error, -EINVAL, "a region's name has at most %zu characters",
				 sizeof(a.name) - 1);
	memcpy(a.name, name, strlen(name));
	if (!ioctl(m->fd, MIGR_REGION_CREATE, &a))
		return a.fd;
	error = errno;
	if (error == EINVAL)
		return error_set(&m->error, -error,
				 "cannot make a region of %llu bytes named '%s': the length must be a multiple of %u above 0, the name printable ASCII",
				 (unsigned long long)length, name, m->info.page_size);
	return error_set(&m->error, -error, "cannot make a region of %llu bytes: %s",
			 (unsigned long long)length, strerror(error));
}

int migr_region_info(struct migr *m, int region, struct migr_region_info *info)
{
	int error;

	*info = (struct migr_region_info){ .size = sizeof(*info) };
	if (!ioctl(region, MIGR_REGION_INFO, info))
		return 0;
	error = errno;
	return error_set(&m->error, -error, "descriptor %d is not a region: %s", region,
			 strerror(error));
}

int migr_region_pinned(struct migr *m, int region, uint64_t *pages)
{
	struct migr_region_pinned a = { .size = sizeof(a) };

	if (ioctl(region, MIGR_REGION_PINNED, &a))
		return error_set(&m->error, -errno, "cannot look for pinned pages: %s",
				 strerror(errno));
	*pages = a.pages;
	return 0;
}

int migr_region_map(struct migr *m, int region, void **address, size_t *length)
{
	struct migr_region_info info;
	int error;

	error = migr_region_info(m, region, &info);
	if (error)
		return error;
	*address = mmap(NULL, info.length, PROT_READ | PROT_WRITE, MAP_SHARED, region, 0);
	if (*address == MAP_FAILED) {
		error = errno;
		return error_set(&m->error, -error, "cannot map a region of %llu bytes: %s",
				 (unsigned long long)info.length, strerror(error));
	}
	*length = info.length;
	return 0;
}

int migr_region_get(struct migr *m, int fd)
{
	struct migr_region_get a = { .size = sizeof(a) };
	struct migr_region_info info = { .size = sizeof(info) };
	int error, region;

	if (!ioctl(fd, MIGR_REGION_GET, &a))
		return a.fd;
	error = errno;
	if (error == ENOENT)
		return error_set(&m->error, -error, "no memory has been mapped through descriptor %d",
				 fd);
	if (error != ENOTTY)
		return error_set(&m->error, -error, "cannot get the region of descriptor %d: %s",
				 fd, strerror(error));
	if (ioctl(fd, MIGR_REGION_INFO, &info))
		return error_set(&m->error, -ENOTTY, "descriptor %d is neither " MIGR_DEVICE " nor a region",
				 fd);
	region = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (region < 0) {
		error = errno;
		return error_set(&m->error, -error, "cannot duplicate a region: %s",
				 strerror(error));
	}
	return region;
}

/* The region behind one descriptor of another process; -ENOENT if there is none. */
static int take_one(struct migr *m, int pidfd, pid_t pid, int their_fd)
{
	int fd, region, error;

	fd = syscall(SYS_pidfd_getfd, pidfd, their_fd, 0);
	if (fd < 0) {
		error = errno;
		if (error == EBADF)	/* it has closed it meanwhile */
			return -ENOENT;
		return error_set(&m->error, -error,
				 "may not take memory of process %d: %s (be root, or its user with permission to ptrace it)",
				 pid, strerror(error));
	}
	region = migr_region_get(m, fd);
	close(fd);
	return region == -ENOTTY ? -ENOENT : region;
}

static int by_number(const void *a, const void *b)
{
	const struct migr_region *x = a, *y = b;

	return x->info.id < y->info.id ? -1 : x->info.id > y->info.id;
}

static int take_all(struct migr *m, DIR *dir, int pidfd, pid_t pid,
		    struct migr_region *regions, unsigned int max, unsigned int *count)
{
	struct migr_region r;
	struct stat device, st;
	struct dirent *entry;
	unsigned int i;
	int error;

	if (fstat(m->fd, &device) < 0)
		return error_set(&m->error, -errno, "cannot stat " MIGR_DEVICE ": %m");
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
			continue;
		/* A region is a regular file to stat(). */
		if (!S_ISREG(st.st_mode) &&
		    !(S_ISCHR(st.st_mode) && st.st_rdev == device.st_rdev))
			continue;
		r.fd = take_one(m, pidfd, pid, atoi(entry->d_name));
		if (r.fd == -ENOENT)
			continue;
		if (r.fd < 0)
			return r.fd;
		error = migr_region_info(m, r.fd, &r.info);
		if (error) {
			close(r.fd);
			return error;
		}
		for (i = 0; i < *count && regions[i].info.id != r.info.id; i++)
			;
		if (i < *count) {	/* several descriptors of one region */
			close(r.fd);
			continue;
		}
		if (*count == max) {
			close(r.fd);
			return error_set(&m->error, -E2BIG, "process %d has more than %u regions",
					 pid, max);
		}
		regions[(*count)++] = r;
	}
	if (!*count)
		return error_set(&m->error, -ENOENT, "process %d has no memory on " MIGR_DEVICE,
				 pid);
	return 0;
}

int migr_region_take(struct migr *m, pid_t pid, struct migr_region *regions,
		     unsigned int max)
{
	unsigned int count = 0;
	char path[64];
	int pidfd, error;
	DIR *dir;

	/* Opened first: if it stays valid, the descriptors listed were this process's. */
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		error = errno;
		return error_set(&m->error, -error, "there is no process %d: %s", pid,
				 strerror(error));
	}
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir) {
		error = errno;
		close(pidfd);
		return error_set(&m->error, -error, "cannot look at the files of process %d: %s",
				 pid, strerror(error));
	}
	error = take_all(m, dir, pidfd, pid, regions, max, &count);
	closedir(dir);
	close(pidfd);
	if (error) {
		while (count)
			close(regions[--count].fd);
		return error;
	}
	qsort(regions, count, sizeof(*regions), by_number);
	return count;
}

int migr_region_digest(struct migr *m, int region, struct migr_digest *digest)
{
	int error = digest_region(region, m->info.page_size, NULL, NULL, digest);

	if (error)
		return error_set(&m->error, error, "cannot read a region for its digest: %s",
				 strerror(-error));
	return 0;
}
