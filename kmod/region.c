// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions: the memory of a guest.
 *
 * A region is a shmem file whose file operations are ours, so that every way
 * in passes through here. While idle its mappings carry shmem's own vm
 * operations and nothing of ours. While tracked they carry a copy of them with
 * a page_mkwrite(), a write-protected vm_page_prot and VM_NOHUGEPAGE.
 *
 * Lock order: region->lock, mmap lock, then folio locks, then the mapping's
 * i_mmap_rwsem. The mmap() handler runs under an mmap lock and so must not take
 * region->lock: see region_switch().
 */
#include <linux/ctype.h>
#include <linux/dcache.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>
#include <linux/xarray.h>

#include "compat.h"
#include "device.h"
#include "dirty.h"
#include "inject.h"
#include "region.h"

/* Words of a user's bitmap that are merged at a time. */
#define MERGE_WORDS	64

/**
 * struct region_mm - an address space that has begun an mmap() of a region
 * @node: on &migr_region.mms
 * @mm: it; holds a reference to the structure, not to the address space
 */
struct region_mm {
	struct list_head node;
	struct mm_struct *mm;
};

/* NULL where the system's own shmem mount serves. */
static struct vfsmount *shmem_mount __ro_after_init;

/* shmem's operations, which it does not export, and our versions of them. */
static const struct file_operations *shmem_fops __ro_after_init;
static const struct inode_operations *shmem_iops __ro_after_init;
static const struct vm_operations_struct *idle_ops __ro_after_init;
static struct file_operations region_fops __ro_after_init;
static struct inode_operations region_iops __ro_after_init;
static struct dentry_operations region_dops __ro_after_init;
/* Two alike: the second tells that VM_NOHUGEPAGE was the user's own. */
static struct vm_operations_struct tracked_ops __ro_after_init;
static struct vm_operations_struct tracked_nohuge_ops __ro_after_init;

static atomic64_t region_ids = ATOMIC64_INIT(0);

static bool vma_is_tracked(struct vm_area_struct *vma)
{
	return vma->vm_ops == &tracked_ops || vma->vm_ops == &tracked_nohuge_ops;
}

/* Called with the mmap lock held for writing, or before @vma is reachable. */
static void vma_track(struct vm_area_struct *vma)
{
	vma->vm_ops = vma->vm_flags & VM_NOHUGEPAGE ? &tracked_nohuge_ops :
						      &tracked_ops;
	if (!RULE_BROKEN(7))
		vm_flags_set(vma, VM_NOHUGEPAGE);
	/* As vma_set_page_prot() would, were it exported. */
	WRITE_ONCE(vma->vm_page_prot,
		   vm_get_page_prot(vma->vm_flags & ~VM_SHARED));
}

static void vma_untrack(struct vm_area_struct *vma)
{
	if (vma->vm_ops == &tracked_ops)
		vm_flags_clear(vma, VM_NOHUGEPAGE);
	vma->vm_ops = idle_ops;
	/* Others may want to hear of writes too: leave it protected for them. */
	if (userfaultfd_wp(vma) ||
	    (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) &&
	     !(vma->vm_flags & VM_SOFTDIRTY)))
		return;
	WRITE_ONCE(vma->vm_page_prot, vm_get_page_prot(vma->vm_flags));
}

/* Give the mappings in @mm the mode of the moment; mmap lock held for writing. */
static void region_switch_mm(struct migr_region *region, struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma) {
		/* A fork() that failed here: what follows is its parent's. */
		if (xa_is_zero(vma))
			break;
		if (!vma->vm_file || vma->vm_file->f_mapping != region->mapping)
			continue;
		if (vma_is_tracked(vma) == region->tracked)
			continue;
		vma_start_write(vma);
		if (region->tracked)
			vma_track(vma);
		else
			vma_untrack(vma);
	}
}

/* An address space with a mapping in the wrong mode, with a reference to it. */
static struct mm_struct *region_stale_mm(struct migr_region *region)
{
	struct address_space *mapping = region->mapping;
	struct mm_struct *mm = NULL;
	struct vm_area_struct *vma;
	struct rb_node *node;

	i_mmap_lock_read(mapping);
	for (node = rb_first_cached(&mapping->i_mmap); node;
	     node = rb_next(node)) {
		vma = rb_entry(node, struct vm_area_struct, shared.rb);
		if (vma_is_tracked(vma) == region->tracked)
			continue;
		/* One that is being torn down has nobody left to write to it. */
		if (mmget_not_zero(vma->vm_mm)) {
			mm = vma->vm_mm;
			break;
		}
	}
	i_mmap_unlock_read(mapping);
	return mm;
}

static struct region_mm *region_pop_mm(struct migr_region *region)
{
	struct region_mm *entry;

	spin_lock(&region->mms_lock);
	entry = list_first_entry_or_null(&region->mms, struct region_mm, node);
	if (entry)
		list_del(&entry->node);
	spin_unlock(&region->mms_lock);
	return entry;
}

static void region_free_mm(struct region_mm *entry)
{
	mmdrop(entry->mm);
	kfree(entry);
}

static int region_lock_mm(struct mm_struct *mm, bool killable)
{
	if (killable)
		return migr_may_fail(mmap_write_lock_killable(mm), -EINTR);
	mmap_write_lock(mm);
	return 0;
}

/*
 * Bring every mapping into the mode that region->tracked tells.
 *
 * Mappings that exist are found through the mapping's tree. One that is being
 * made may have taken its mode before the change and not be in the tree yet;
 * its mmap() has put its address space on region->mms first, and holds the
 * mmap lock until it is in the tree, so taking that lock once waits it out.
 * A fork() or mremap() copies a mode under the lock that the switch needs too,
 * and the mapping it copies from stays in the tree meanwhile.
 */
static int region_switch(struct migr_region *region, bool killable)
{
	struct region_mm *entry;
	struct mm_struct *mm;
	int ret;

	lockdep_assert_held(&region->lock);
	/* Pairs with region_mmap(): it sees the new mode, or we see its mm. */
	smp_mb();
	while ((entry = region_pop_mm(region))) {
		if (mmget_not_zero(entry->mm)) {
			ret = region_lock_mm(entry->mm, killable);
			if (!ret) {
				region_switch_mm(region, entry->mm);
				mmap_write_unlock(entry->mm);
			}
			mmput(entry->mm);
			if (ret) {
				spin_lock(&region->mms_lock);
				list_add(&entry->node, &region->mms);
				spin_unlock(&region->mms_lock);
				return ret;
			}
		}
		region_free_mm(entry);
	}
	while ((mm = region_stale_mm(region))) {
		ret = region_lock_mm(mm, killable);
		if (!ret) {
			region_switch_mm(region, mm);
			mmap_write_unlock(mm);
		}
		mmput(mm);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

/* Faults in flight use the tracker until their mapping is switched. */
static void region_idle(struct migr_region *region)
{
	WRITE_ONCE(region->tracked, false);
	region_switch(region, false);
	WRITE_ONCE(region->tracker, NULL);
}

/**
 * migr_region_track() - begin to report writes to a tracker
 * @region: the region
 * @tracker: the tracker, which must stay until migr_region_untrack()
 *
 * Return: 0, -EBUSY if the region has a tracker, or -EINTR.
 */
int migr_region_track(struct migr_region *region, struct migr_tracker *tracker)
{
	int ret;

	ret = migr_may_fail(mutex_lock_killable(&region->lock), -EINTR);
	if (ret)
		return ret;
	if (region->tracker) {
		ret = -EBUSY;
	} else {
		WRITE_ONCE(region->tracker, tracker);
		WRITE_ONCE(region->tracked, !tracker->reported);
		ret = region_switch(region, true);
		if (ret)
			region_idle(region);
	}
	mutex_unlock(&region->lock);
	return ret;
}

/**
 * migr_region_untrack() - make the region plain shmem again
 * @region: the region, which has a tracker
 *
 * When it returns nothing refers to the tracker any more.
 */
void migr_region_untrack(struct migr_region *region)
{
	mutex_lock(&region->lock);
	region_idle(region);
	mutex_unlock(&region->lock);
}

/**
 * migr_region_has_words() - whether a bitmap of whole words can be of a range
 * @region: the region
 * @first: first page
 * @nr: how many; the last word may end with the region
 *
 * Return: true if the range is in the region, not empty and aligned.
 */
bool migr_region_has_words(const struct migr_region *region, u64 first, u64 nr)
{
	if (!nr || first % 64 || first >= region->nr_pages ||
	    nr > region->nr_pages - first)
		return false;
	return nr % 64 == 0 || first + nr == region->nr_pages;
}

/**
 * migr_region_wrote() - tell of pages changed without a fault
 * @region: the region
 * @first: first page
 * @nr: how many
 *
 * Called after the change: a bit set before it could be collected before it.
 */
void migr_region_wrote(struct migr_region *region, pgoff_t first, pgoff_t nr)
{
	/* A tracker that starts after the change begins with all bits set. */
	smp_mb();
	if (!READ_ONCE(region->tracker) || RULE_BROKEN(5))
		return;
	mutex_lock(&region->lock);
	if (region->tracker)
		migr_tracker_set(region->tracker, first, nr);
	mutex_unlock(&region->lock);
}

static vm_fault_t region_mkwrite(struct vm_fault *vmf)
{
	struct file *file = vmf->vma->vm_file;
	struct migr_region *region = migr_region_from_file(file);

	return migr_tracker_fault(READ_ONCE(region->tracker), vmf);
}

/* Remember that @mm is about to map the region. */
static int region_note_mm(struct migr_region *region, struct mm_struct *mm)
{
	struct region_mm *entry, *next, *new;
	LIST_HEAD(dead);
	bool known = false;

	new = migr_may_fail(kmalloc(sizeof(*new), GFP_KERNEL_ACCOUNT), NULL);
	if (!new)
		return -ENOMEM;
	spin_lock(&region->mms_lock);
	list_for_each_entry_safe(entry, next, &region->mms, node) {
		if (entry->mm == mm)
			known = true;
		else if (!atomic_read(&entry->mm->mm_users))
			list_move(&entry->node, &dead);
	}
	list_add(&new->node, known ? &dead : &region->mms);
	mmgrab(mm);
	new->mm = mm;
	spin_unlock(&region->mms_lock);

	list_for_each_entry_safe(entry, next, &dead, node)
		region_free_mm(entry);
	return 0;
}

static int region_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct migr_region *region = migr_region_from_file(file);
	int ret;

	/* A private copy could be written without our knowing. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_pgoff >= region->nr_pages ||
	    vma_pages(vma) > region->nr_pages - vma->vm_pgoff)
		return -EINVAL;
	ret = region_note_mm(region, vma->vm_mm);
	if (ret)
		return ret;
	/*
	 * The kernel's walk of a range ends at the first mapping that can never
	 * be written, and flushes no TLB for those behind it. Whoever meets this
	 * one on such a walk sees the mark afterwards.
	 */
	if (!(vma->vm_flags & VM_MAYWRITE))
		WRITE_ONCE(region->read_only_mapped, true);
	ret = shmem_fops->mmap(file, vma);
	if (ret)
		return ret;
	/* Pairs with region_switch(). */
	smp_mb();
	if (READ_ONCE(region->tracked) && !RULE_BROKEN(6))
		vma_track(vma);
	return 0;
}

static long region_fallocate(struct file *file, int mode, loff_t offset,
			     loff_t len)
{
	struct migr_region *region = migr_region_from_file(file);
	pgoff_t first = offset >> PAGE_SHIFT;
	u64 end = min_t(u64, DIV_ROUND_UP_ULL((u64)offset + len, PAGE_SIZE),
			region->nr_pages);
	long ret;

	/* The size is fixed; punching beyond it does nothing. */
	if (!(mode & FALLOC_FL_PUNCH_HOLE) &&
	    (u64)offset + len > (u64)region->nr_pages << PAGE_SHIFT)
		return -EPERM;
	ret = shmem_fops->fallocate(file, mode, offset, len);
	/* Even a failed one may have got some of the way. */
	if (mode & FALLOC_FL_PUNCH_HOLE && first < end)
		migr_region_wrote(region, first, end - first);
	return ret;
}

/*
 * The size is fixed: pages must not come and go behind the tracker's back.
 * Seals would say so too, but a file with F_SEAL_SHRINK is what udmabuf takes
 * pages of, which it lets user space write to without a fault of ours.
 */
static int region_setattr(struct migr_idmap *idmap, struct dentry *dentry,
			  struct iattr *attr)
{
	if (attr->ia_valid & ATTR_SIZE &&
	    attr->ia_size != i_size_read(d_inode(dentry)))
		return -EPERM;
	return shmem_iops->setattr(idmap, dentry, attr);
}

static int region_ioctl_info(struct migr_ucmd *ucmd)
{
	struct migr_region *region = migr_region_from_file(ucmd->file);
	struct migr_region_info *info = ucmd->cmd;

	if (info->flags)
		return -EOPNOTSUPP;
	if (info->__reserved)
		return -EINVAL;
	info->state = READ_ONCE(region->tracker) ? MIGR_REGION_TRACKED : 0;
	info->length = (u64)region->nr_pages << PAGE_SHIFT;
	info->resident = (u64)READ_ONCE(region->mapping->nrpages) << PAGE_SHIFT;
	info->id = region->id;
	memcpy(info->name, region->name, sizeof(info->name));
	return migr_ucmd_respond(ucmd);
}

static int region_ioctl_track(struct migr_ucmd *ucmd)
{
	struct migr_region_track *track = ucmd->cmd;
	int ret;

	if (track->flags)
		return -EOPNOTSUPP;
	if (track->__reserved)
		return -EINVAL;
	/* It slows writers down, and keeps others from tracking. */
	if (!(ucmd->file->f_mode & FMODE_WRITE))
		return -EBADF;
	ret = migr_ucmd_reserve_fd(ucmd, &track->fd);
	if (ret)
		return ret;
	return migr_ucmd_install_fd(track->fd,
				    migr_tracker_create_file(ucmd->file));
}

/* Merge some words of a bitmap, of which the first is of page @first. */
static int region_merge(struct migr_region *region, pgoff_t first,
			const u64 *bitmap, unsigned int nr_words, u64 *dirtied)
{
	int ret;

	if (!memchr_inv(bitmap, 0, nr_words * sizeof(*bitmap)))
		return 0;
	ret = migr_may_fail(mutex_lock_killable(&region->lock), -EINTR);
	if (ret)
		return ret;
	/* One that starts later begins with every page dirty. */
	if (region->tracker)
		*dirtied += migr_tracker_merge(region->tracker, first, bitmap,
					       nr_words);
	mutex_unlock(&region->lock);
	return 0;
}

static int region_ioctl_merge(struct migr_ucmd *ucmd)
{
	struct migr_region *region = migr_region_from_file(ucmd->file);
	struct migr_region_merge *merge = ucmd->cmd;
	const u64 __user *from = u64_to_user_ptr(merge->bitmap);
	u64 bitmap[MERGE_WORDS], page, end;
	unsigned int nr_words;
	int ret;

	if (merge->flags)
		return -EOPNOTSUPP;
	if (!migr_region_has_words(region, merge->first_page, merge->nr_pages))
		return -EINVAL;
	/* As for a write. */
	if (!(ucmd->file->f_mode & FMODE_WRITE))
		return -EBADF;

	merge->dirtied_pages = 0;
	end = merge->first_page + merge->nr_pages;
	for (page = merge->first_page; page < end; page += nr_words * 64) {
		nr_words = min_t(u64, DIV_ROUND_UP(end - page, 64),
				 MERGE_WORDS);
		if (copy_from_user(bitmap, from, nr_words * sizeof(*from)))
			return -EFAULT;
		from += nr_words;
		if (end - page <= nr_words * 64)
			bitmap[nr_words - 1] &= BITMAP_LAST_WORD_MASK(end);
		ret = region_merge(region, page, bitmap, nr_words,
				   &merge->dirtied_pages);
		if (ret)
			return ret;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return migr_ucmd_respond(ucmd);
}

static int region_ioctl_pinned(struct migr_ucmd *ucmd)
{
	struct migr_region *region = migr_region_from_file(ucmd->file);
	struct migr_region_pinned *pinned = ucmd->cmd;
	struct folio_batch fbatch;
	pgoff_t index = 0;
	unsigned int i;

	if (pinned->flags)
		return -EOPNOTSUPP;
	pinned->pages = 0;
	folio_batch_init(&fbatch);
	while (filemap_get_folios(region->mapping, &index, region->nr_pages - 1,
				  &fbatch)) {
		for (i = 0; i < folio_batch_count(&fbatch); i++)
			if (folio_maybe_dma_pinned(fbatch.folios[i]))
				pinned->pages += folio_nr_pages(fbatch.folios[i]);
		folio_batch_release(&fbatch);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return migr_ucmd_respond(ucmd);
}

static const struct migr_ioctl_op region_ioctl_ops[] = {
	MIGR_IOCTL_OP(MIGR_REGION_INFO, region_ioctl_info,
		      struct migr_region_info, __reserved),
	MIGR_IOCTL_OP(MIGR_REGION_TRACK, region_ioctl_track,
		      struct migr_region_track, __reserved),
	MIGR_IOCTL_OP(MIGR_REGION_MERGE, region_ioctl_merge,
		      struct migr_region_merge, dirtied_pages),
	MIGR_IOCTL_OP(MIGR_REGION_PINNED, region_ioctl_pinned,
		      struct migr_region_pinned, pages),
};

static long region_ioctl(struct file *file, unsigned int cmd,
			 unsigned long arg)
{
	return migr_ioctl(file, cmd, arg, region_ioctl_ops,
			  ARRAY_SIZE(region_ioctl_ops));
}

/**
 * migr_region_from_file() - the region a file is of
 * @file: any open file
 *
 * Return: the region, or NULL if @file is something else.
 */
struct migr_region *migr_region_from_file(struct file *file)
{
	if (file->f_op != &region_fops)
		return NULL;
	return file->f_path.dentry->d_fsdata;
}

static void region_free_rcu(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct migr_region, rcu));
	/*
	 * rmmod waits for a grace period before it frees our code, and this
	 * runs inside one, so it returns to code that is still there.
	 */
	module_put(THIS_MODULE);
}

/* The last way to reach the inode, and with it our operations, is gone. */
static void region_dentry_release(struct dentry *dentry)
{
	struct migr_region *region = dentry->d_fsdata;
	struct region_mm *entry;

	while ((entry = region_pop_mm(region)))
		region_free_mm(entry);
	mutex_destroy(&region->lock);
	call_rcu(&region->rcu, region_free_rcu);
}

static bool region_name_valid(const u8 *name)
{
	size_t i, len = strnlen(name, MIGR_NAME_MAX);

	if (len == MIGR_NAME_MAX)
		return false;
	for (i = 0; i < len; i++)
		if (!isascii(name[i]) || !isprint(name[i]))
			return false;
	return true;
}

static struct file *new_shmem_file(const char *name, u64 length)
{
	if (shmem_mount)
		return shmem_file_setup_with_mnt(shmem_mount, name, length,
						 VM_NORESERVE);
	return shmem_file_setup(name, length, VM_NORESERVE);
}

/**
 * migr_region_create() - make a region
 * @length: bytes
 * @name: NUL-terminated within %MIGR_NAME_MAX bytes
 *
 * Return: its file, or an error pointer; errors as in uapi/linux/migr.h.
 */
struct file *migr_region_create(u64 length, const u8 *name)
{
	struct migr_region *region;
	struct dentry *dentry;
	struct inode *inode;
	struct file *file;

	if (!length || !PAGE_ALIGNED(length) || !region_name_valid(name))
		return ERR_PTR(-EINVAL);
	if (length > MIGR_REGION_SIZE_MAX)
		return ERR_PTR(-EFBIG);
	region = migr_may_fail(kzalloc(sizeof(*region), GFP_KERNEL_ACCOUNT),
			       NULL);
	if (!region)
		return ERR_PTR(-ENOMEM);
	mutex_init(&region->lock);
	spin_lock_init(&region->mms_lock);
	INIT_LIST_HEAD(&region->mms);
	strscpy(region->name, name, sizeof(region->name));
	region->nr_pages = length >> PAGE_SHIFT;
	region->id = atomic64_inc_return(&region_ids);

	file = migr_may_fail(new_shmem_file("migr", length), ERR_PTR(-ENOMEM));
	if (IS_ERR(file)) {
		kfree(region);
		return file;
	}
	inode = file_inode(file);
	dentry = file->f_path.dentry;
	region->mapping = inode->i_mapping;
	/*
	 * One reference of the file, and one of the inode, which refers to our
	 * operations until region_dentry_release().
	 */
	__module_get(THIS_MODULE);
	__module_get(THIS_MODULE);
	dentry->d_fsdata = region;
	dentry->d_op = &region_dops;
	inode->i_fop = &region_fops;
	inode->i_op = &region_iops;
	file->f_op = &region_fops;
	/* As an open() would have it. */
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	file->f_mode &= ~FMODE_CAN_WRITE;
	file->f_flags |= O_LARGEFILE;
	return file;
}

/* Learn what a shmem file's operations are from one made for that. */
static int __init region_learn_shmem(void)
{
	struct vm_area_struct *vma;
	struct file *file;
	int ret;

	vma = kzalloc(sizeof(*vma), GFP_KERNEL);
	if (!vma)
		return -ENOMEM;
	file = new_shmem_file("migr", PAGE_SIZE);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto out_free;
	}
	shmem_fops = file->f_op;
	ret = shmem_fops->mmap(file, vma);
	if (ret)
		goto out_fput;
	idle_ops = vma->vm_ops;

	region_fops = *shmem_fops;
	region_fops.owner = THIS_MODULE;
	region_fops.mmap = region_mmap;
	region_fops.fallocate = region_fallocate;
	region_fops.unlocked_ioctl = region_ioctl;
	region_fops.compat_ioctl = compat_ptr_ioctl;
	/* shmem's own insists on its own file operations. */
	region_fops.get_unmapped_area = thp_get_unmapped_area;
	/* Writes that take no page fault; guest memory has no use for them. */
	region_fops.write_iter = NULL;
	region_fops.splice_write = NULL;

	shmem_iops = file_inode(file)->i_op;
	region_iops = *shmem_iops;
	region_iops.setattr = region_setattr;

	if (file->f_path.dentry->d_op)
		region_dops = *file->f_path.dentry->d_op;
	region_dops.d_release = region_dentry_release;

	tracked_ops = *idle_ops;
	tracked_ops.page_mkwrite = region_mkwrite;
	tracked_nohuge_ops = tracked_ops;
out_fput:
	fput(file);
out_free:
	kfree(vma);
	return ret;
}

int __init migr_region_init(void)
{
	int ret;

	shmem_mount = migr_shmem_mount();
	if (IS_ERR(shmem_mount))
		return PTR_ERR(shmem_mount);
	ret = region_learn_shmem();
	if (ret && shmem_mount)
		kern_unmount(shmem_mount);
	return ret;
}

void migr_region_exit(void)
{
	/* region_free_rcu() may have dropped its reference and not returned. */
	rcu_barrier();
	if (shmem_mount)
		kern_unmount(shmem_mount);
}
