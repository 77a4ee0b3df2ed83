/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels migr builds for (6.1 and 6.12), and nothing
 * else. Takes no locks.
 */
#ifndef _MIGR_COMPAT_H
#define _MIGR_COMPAT_H

#include <linux/bvec.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/fs.h>
#include <linux/net.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <linux/version.h>
#include <net/sock.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags &= ~flags;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
/* Page faults take the mmap lock, which the caller holds for writing. */
static inline void vma_start_write(struct vm_area_struct *vma)
{
}
#endif

/* The locked folio at @index, or NULL: a hole, or swapped out. */
static inline struct folio *migr_lock_folio(struct address_space *mapping,
					    pgoff_t index)
{
	struct folio *folio = __filemap_get_folio(mapping, index, FGP_LOCK, 0);

	/* An error where there is none, since 6.4. */
	return IS_ERR(folio) ? NULL : folio;
}

/*
 * How many page table entries map @folio, and whether a large one may be mapped
 * by a huge entry. A kernel that cannot tell how many says that one may: it has
 * none any more when they are counted.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
static inline int migr_folio_mapcount(struct folio *folio)
{
	return folio_test_large(folio) ? 0 : page_mapcount(&folio->page);
}

static inline bool migr_folio_mapped_huge(struct folio *folio)
{
	return true;
}
#else
static inline int migr_folio_mapcount(struct folio *folio)
{
	return folio_mapcount(folio);
}

static inline bool migr_folio_mapped_huge(struct folio *folio)
{
	return folio_entire_mapcount(folio);
}
#endif

/* Tasks that have no user mode to return to, or hardly ever do. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
#define MIGR_PF_WORKER	(PF_KTHREAD | PF_IO_WORKER)
#else
#define MIGR_PF_WORKER	(PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER)
#endif

/* The kind of thing by which setattr() is told how the mount maps ids. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define migr_idmap user_namespace
#else
#define migr_idmap mnt_idmap
#endif

/*
 * Before 6.12 do_set_pmd() maps a large folio by a huge entry whatever
 * VM_NOHUGEPAGE says. Regions live on a tmpfs of their own there, which makes
 * small folios unless asked by MADV_COLLAPSE: a write then makes all of such a
 * folio dirty.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
static inline struct vfsmount *migr_shmem_mount(void)
{
	return kern_mount(get_fs_type("tmpfs"));
}
#else
static inline struct vfsmount *migr_shmem_mount(void)
{
	return NULL;
}
#endif

/* Whether a fault may be answered with a huge entry; see there. */
static inline bool migr_may_map_huge(struct vm_area_struct *vma)
{
	return LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0) ||
	       !(vma->vm_flags & VM_NOHUGEPAGE);
}

/*
 * A page of a region to be filled: locked, with a reference, in its folio, which
 * has no content yet unless it is up to date. migr_write_end() lets go of it,
 * with @copied bytes filled, and clears what has no content.
 */
static inline struct folio *migr_write_begin(struct file *file, pgoff_t index)
{
	struct address_space *mapping = file->f_mapping;
	void *data;
	int ret;
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
	struct page *page;

	ret = mapping->a_ops->write_begin(file, mapping,
					  (loff_t)index << PAGE_SHIFT,
					  PAGE_SIZE, &page, &data);
	return ret ? ERR_PTR(ret) : page_folio(page);
#else
	struct folio *folio;

	ret = mapping->a_ops->write_begin(file, mapping,
					  (loff_t)index << PAGE_SHIFT,
					  PAGE_SIZE, &folio, &data);
	return ret ? ERR_PTR(ret) : folio;
#endif
}

static inline void migr_write_end(struct file *file, pgoff_t index,
				  size_t copied, struct folio *folio)
{
	struct address_space *mapping = file->f_mapping;

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
	mapping->a_ops->write_end(file, mapping, (loff_t)index << PAGE_SHIFT,
				  PAGE_SIZE, copied,
				  folio_file_page(folio, index), NULL);
#else
	mapping->a_ops->write_end(file, mapping, (loff_t)index << PAGE_SHIFT,
				  PAGE_SIZE, copied, folio, NULL);
#endif
}

/*
 * Lend the pages of @msg to the socket; like sock_sendmsg(), returns how many
 * bytes it took, and advances the iterator by as many.
 */
static inline int migr_sock_lend(struct socket *sock, struct msghdr *msg)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	struct iov_iter *iter = &msg->msg_iter;
	int sent = 0, ret;

	/* Its sendpage() wakes the reader for each page. */
	if (sock->sk->sk_family == AF_UNIX)
		return sock_sendmsg(sock, msg);
	while (iov_iter_count(iter)) {
		struct bio_vec bv = mp_bvec_iter_bvec(iter->bvec,
			((struct bvec_iter) {
				.bi_bvec_done = iter->iov_offset,
				.bi_size = iov_iter_count(iter),
			}));
		int flags = msg->msg_flags;

		if (bv.bv_len < iov_iter_count(iter))
			flags |= MSG_MORE | MSG_SENDPAGE_NOTLAST;
		ret = kernel_sendpage(sock, bv.bv_page, bv.bv_offset,
				      bv.bv_len, flags);
		if (ret <= 0)
			return sent ?: ret;
		iov_iter_advance(iter, ret);
		sent += ret;
	}
	return sent;
#else
	msg->msg_flags |= MSG_SPLICE_PAGES;
	return sock_sendmsg(sock, msg);
#endif
}

#endif /* _MIGR_COMPAT_H */
