// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An open /dev/migr: the right to make regions and migrations.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"

static int open_device(struct migr *m)
{
	struct migr_info info = { .size = sizeof(info) };
	int error;

	m->fd = open(MIGR_DEVICE, O_RDWR | O_CLOEXEC);
	if (m->fd < 0) {
		error = errno;
		if (error == ENOENT || error == ENODEV || error == ENXIO)
			return error_set(&m->error, -error,
					 "there is no " MIGR_DEVICE ": the kernel module is not loaded (insmod migr.ko)");
		if (error == EACCES || error == EPERM)
			return error_set(&m->error, -error,
					 "no permission to open %s: be root or in its group (see ls -l %s)",
					 MIGR_DEVICE, MIGR_DEVICE);
		return error_set(&m->error, -error, "cannot open " MIGR_DEVICE ": %s",
				 strerror(error));
	}
	if (ioctl(m->fd, MIGR_INFO, &info) < 0) {
		error = errno;
		return error_set(&m->error, -error, MIGR_DEVICE " does not say what it can do: %s",
				 strerror(error));
	}
	if (info.abi_version != MIGR_ABI_VERSION)
		return error_set(&m->error, -EPROTONOSUPPORT,
				 "the kernel module has interface version %u, this library needs %u",
				 info.abi_version, MIGR_ABI_VERSION);
	m->info = info;
	return 0;
}

int migr_open(struct migr **m)
{
	*m = calloc(1, sizeof(**m));
	if (!*m)
		return -ENOMEM;
	return open_device(*m);
}

void migr_close(struct migr *m)
{
	if (!m)
		return;
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}

const char *migr_error(const struct migr *m)
{
	return m->error.text;
}

const struct migr_info *migr_info(const struct migr *m)
{
	return &m->info;
}
