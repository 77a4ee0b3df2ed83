/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_REGION_H
#define _MIGR_REGION_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/migr.h>

struct migr_tracker;

/* 16 TiB: its dirty bitmap is 512 MiB, the most kvmalloc() is asked for. */
#define MIGR_REGION_SIZE_MAX	((u64)16 * SZ_1T)

#ifndef SZ_1T
#define SZ_1T			(1024ULL * SZ_1G)
#endif

/**
 * struct migr_region - guest memory
 * @mapping: its pages
 * @nr_pages: its size
 * @id: unique while the module is loaded
 * @name: for people
 * @lock: serialises changes of @tracker, @tracked and the mappings' operations;
 *	taken outside any mmap lock
 * @tracker: what is told of writes; set before the first mapping gets tracking
 *	operations, cleared after the last has lost them
 * @tracked: the mode that mappings shall have; false with a tracker that
 *	writes are reported to
 * @read_only_mapped: a mapping that cannot be made writable has existed; ranges
 *	cannot be relied on to be protected
 * @mms_lock: protects @mms
 * @mms: address spaces that may be in the middle of an mmap() of it
 * @rcu: for freeing
 *
 * Lives as long as the dentry of its file, that is, until the last descriptor
 * (O_PATH included) and mapping are gone. Holding a reference to the file
 * keeps it.
 */
struct migr_region {
	struct address_space *mapping;
	pgoff_t nr_pages;
	u64 id;
	char name[MIGR_NAME_MAX];
	struct mutex lock;	/* of the mode */
	struct migr_tracker *tracker;
	bool tracked;
	bool read_only_mapped;
	spinlock_t mms_lock;	/* of mms */
	struct list_head mms;
	struct rcu_head rcu;
};

int migr_region_init(void);
void migr_region_exit(void);
struct file *migr_region_create(u64 length, const u8 *name);
struct migr_region *migr_region_from_file(struct file *file);
int migr_region_track(struct migr_region *region, struct migr_tracker *tracker);
void migr_region_untrack(struct migr_region *region);
bool migr_region_has_words(const struct migr_region *region, u64 first,
			   u64 nr);
void migr_region_wrote(struct migr_region *region, pgoff_t first, pgoff_t nr);

#endif /* _MIGR_REGION_H */
