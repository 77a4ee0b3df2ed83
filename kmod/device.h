/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_DEVICE_H
#define _MIGR_DEVICE_H

#include <linux/build_bug.h>
#include <linux/fs.h>
#include <linux/stddef.h>
#include <linux/types.h>

/**
 * struct migr_ucmd - an ioctl being carried out
 * @file: what it was called on
 * @ubuffer: the user's structure
 * @user_size: its size, as the user gave it
 * @cmd: the kernel's copy, zero beyond @user_size
 * @cmd_size: its size
 */
struct migr_ucmd {
	struct file *file;
	void __user *ubuffer;
	u32 user_size;
	void *cmd;
	size_t cmd_size;
};

/**
 * struct migr_ioctl_op - an entry of an object's dispatch table
 * @cmd: the ioctl number
 * @size: size of the structure in this version
 * @min_size: size of the structure in its first version
 * @execute: the handler
 */
struct migr_ioctl_op {
	unsigned int cmd;
	size_t size;
	size_t min_size;
	int (*execute)(struct migr_ucmd *ucmd);
};

/* Room for the largest structure of the interface. */
#define MIGR_UCMD_MAX	256

#define MIGR_IOCTL_OP(_cmd, _fn, _struct, _last)				\
	{									\
		.cmd = _cmd,							\
		.size = sizeof(_struct) +					\
			BUILD_BUG_ON_ZERO(sizeof(_struct) > MIGR_UCMD_MAX),	\
		.min_size = offsetofend(_struct, _last),			\
		.execute = _fn,							\
	}

long migr_ioctl(struct file *file, unsigned int cmd, unsigned long arg,
		const struct migr_ioctl_op *ops, size_t nr_ops);
int migr_ucmd_respond(struct migr_ucmd *ucmd);
int migr_ucmd_reserve_fd(struct migr_ucmd *ucmd, __s32 *fd);
int migr_ucmd_install_fd(__s32 fd, struct file *file);

#endif /* _MIGR_DEVICE_H */
