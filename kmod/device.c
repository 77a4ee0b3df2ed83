// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/migr, and how the ioctls of every object are dispatched.
 *
 * An open of it carries at most one region, the one its first mmap() made;
 * it is set once, by cmpxchg(), and dropped with the open.
 */
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <linux/migr.h>

#include "compress.h"
#include "device.h"
#include "inject.h"
#include "limiter.h"
#include "migration.h"
#include "region.h"
#include "wire.h"

/**
 * migr_ioctl() - carry out an ioctl from a dispatch table
 * @file: what it was called on
 * @cmd: the ioctl number
 * @arg: the user's structure, beginning with its size
 * @ops: the table of this kind of object
 * @nr_ops: entries in @ops
 *
 * Return: what the handler returns, or an error of the calling convention
 * described in uapi/linux/migr.h.
 */
long migr_ioctl(struct file *file, unsigned int cmd, unsigned long arg,
		const struct migr_ioctl_op *ops, size_t nr_ops)
{
	u8 buf[MIGR_UCMD_MAX] __aligned(8);
	struct migr_ucmd ucmd = {
		.file = file,
		.ubuffer = (void __user *)arg,
		.cmd = buf,
	};
	const struct migr_ioctl_op *op;
	int ret;

	for (op = ops; op < ops + nr_ops; op++)
		if (op->cmd == cmd)
			break;
	if (op == ops + nr_ops)
		return -ENOTTY;

	ret = get_user(ucmd.user_size, (u32 __user *)ucmd.ubuffer);
	if (ret)
		return ret;
	if (ucmd.user_size < op->min_size)
		return -EINVAL;
	if (ucmd.user_size > PAGE_SIZE)
		return -E2BIG;
	ret = copy_struct_from_user(buf, op->size, ucmd.ubuffer,
				    ucmd.user_size);
	if (ret)
		return ret;
	ucmd.cmd_size = op->size;
	return op->execute(&ucmd);
}

/**
 * migr_ucmd_respond() - copy the structure back to the user
 * @ucmd: the ioctl
 *
 * Return: 0 or -EFAULT.
 */
int migr_ucmd_respond(struct migr_ucmd *ucmd)
{
	if (copy_to_user(ucmd->ubuffer, ucmd->cmd,
			 min_t(size_t, ucmd->user_size, ucmd->cmd_size)))
		return -EFAULT;
	return 0;
}

/**
 * migr_ucmd_reserve_fd() - answer with the number of a descriptor to come
 * @ucmd: the ioctl
 * @fd: field of its structure that takes the number
 *
 * All that can fail on the user's account does so before the object is made,
 * so that none has to be undone. migr_ucmd_install_fd() must follow.
 *
 * Return: 0 or a negative errno.
 */
int migr_ucmd_reserve_fd(struct migr_ucmd *ucmd, __s32 *fd)
{
	int ret;

	ret = migr_may_fail(get_unused_fd_flags(O_CLOEXEC), -EMFILE);
	if (ret < 0)
		return ret;
	*fd = ret;
	ret = migr_ucmd_respond(ucmd);
	if (ret)
		put_unused_fd(*fd);
	return ret;
}

/**
 * migr_ucmd_install_fd() - make a reserved descriptor refer to a file
 * @fd: the descriptor
 * @file: the file, whose reference it takes, or an error pointer, which gives
 *	the descriptor back
 *
 * Return: 0, or the error of @file.
 */
int migr_ucmd_install_fd(__s32 fd, struct file *file)
{
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return 0;
}

static int device_info(struct migr_ucmd *ucmd)
{
	struct migr_info *info = ucmd->cmd;

	if (info->flags & ~MIGR_INFO_COMPRESSIONS)
		return -EOPNOTSUPP;
	if (info->__reserved)
		return -EINVAL;
	info->abi_version = MIGR_ABI_VERSION;
	info->wire_version = MIGR_WIRE_VERSION;
	info->page_size = PAGE_SIZE;
	info->chunk_pages = MIGR_CHUNK_PAGES;
	info->region_max = MIGR_REGION_SIZE_MAX;
	info->compressions = info->flags ? migr_compressions() : 0;
	return migr_ucmd_respond(ucmd);
}

static int device_region_create(struct migr_ucmd *ucmd)
{
	struct migr_region_create *create = ucmd->cmd;
	int ret;

	if (create->flags)
		return -EOPNOTSUPP;
	if (create->__reserved)
		return -EINVAL;
	ret = migr_ucmd_reserve_fd(ucmd, &create->fd);
	if (ret)
		return ret;
	return migr_ucmd_install_fd(create->fd,
			migr_region_create(create->length, create->name));
}

static int device_region_get(struct migr_ucmd *ucmd)
{
	struct migr_region_get *get = ucmd->cmd;
	struct file *region = READ_ONCE(ucmd->file->private_data);
	int ret;

	if (get->flags)
		return -EOPNOTSUPP;
	if (get->__reserved)
		return -EINVAL;
	/* The region is open for both, whatever this open is for. */
	if (~ucmd->file->f_mode & (FMODE_READ | FMODE_WRITE))
		return -EBADF;
	if (!region)
		return -ENOENT;
	ret = migr_ucmd_reserve_fd(ucmd, &get->fd);
	if (ret)
		return ret;
	return migr_ucmd_install_fd(get->fd, get_file(region));
}

static int device_migration_create(struct migr_ucmd *ucmd)
{
	struct migr_migration_create *create = ucmd->cmd;
	int ret;

	if (create->flags)
		return -EOPNOTSUPP;
	ret = migr_ucmd_reserve_fd(ucmd, &create->fd);
	if (ret)
		return ret;
	return migr_ucmd_install_fd(create->fd,
				    migr_migration_create(create->role));
}

static const struct migr_ioctl_op device_ioctl_ops[] = {
	MIGR_IOCTL_OP(MIGR_INFO, device_info, struct migr_info, region_max),
	MIGR_IOCTL_OP(MIGR_REGION_CREATE, device_region_create,
		      struct migr_region_create, __reserved),
	MIGR_IOCTL_OP(MIGR_REGION_GET, device_region_get,
		      struct migr_region_get, __reserved),
	MIGR_IOCTL_OP(MIGR_MIGRATION_CREATE, device_migration_create,
		      struct migr_migration_create, fd),
};

static long device_ioctl(struct file *file, unsigned int cmd,
			 unsigned long arg)
{
	return migr_ioctl(file, cmd, arg, device_ioctl_ops,
			  ARRAY_SIZE(device_ioctl_ops));
}

static int device_open(struct inode *inode, struct file *file)
{
	/* misc_open() leaves the miscdevice here. */
	file->private_data = NULL;
	return 0;
}

static int device_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		fput(file->private_data);
	return 0;
}

/*
 * A stock VMM knows no ioctl of ours: it opens a file and maps it. The first
 * mapping makes the region, later ones through the same open are of the same.
 */
static int device_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct file *region = READ_ONCE(file->private_data), *other;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (!region) {
		if (vma->vm_pgoff)
			return -EINVAL;
		region = migr_region_create(vma->vm_end - vma->vm_start, "");
		if (IS_ERR(region))
			return PTR_ERR(region);
		other = cmpxchg((struct file **)&file->private_data, NULL,
				region);
		if (other) {
			fput(region);
			region = other;
		}
	}
	vma_set_file(vma, region);
	return region->f_op->mmap(region, vma);
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = device_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	/* VMMs seek to the end to learn a size; 0 means to them: not known. */
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "migr",
	.mode = 0660,
	.fops = &device_fops,
};

static int __init device_init(void)
{
	int ret;

	ret = migr_region_init();
	if (ret)
		return ret;
	ret = misc_register(&device);
	if (ret)
		migr_region_exit();
	return ret;
}
module_init(device_init);

static void __exit device_exit(void)
{
	misc_deregister(&device);
	migr_region_exit();
	migr_limiter_exit();
	migr_compress_exit();
}
module_exit(device_exit);

MODULE_DESCRIPTION("Live migration of virtual machine memory");
MODULE_AUTHOR("The migr authors");
MODULE_LICENSE("GPL");
