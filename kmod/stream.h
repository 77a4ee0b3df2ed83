/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_STREAM_H
#define _MIGR_STREAM_H

#include <linux/types.h>

struct file;
struct migr_migration;

struct file *migr_stream_create(struct migr_migration *migration, int socket_fd,
				bool copy);

#endif /* _MIGR_STREAM_H */
