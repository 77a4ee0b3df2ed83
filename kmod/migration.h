/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_MIGRATION_H
#define _MIGR_MIGRATION_H

#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/migr.h>

#include "hot.h"

struct file;
struct migr_limiter;
struct migr_region;
struct migr_tracker;

/**
 * struct migr_member - a region in a migration
 * @id: its number on the wire
 * @file: reference that keeps the region
 * @region: the region
 * @reported: source: its writes are reported
 * @tracker: source: its tracker, from the first pass on
 * @hot: source: which of its pages are hot
 * @chunks: source: chunks of the current pass that nobody has claimed;
 *	changed under &migr_migration.lock
 * @nr_chunks: chunks in the region
 * @cursor: source: no bit of @chunks is set below it
 */
struct migr_member {
	u32 id;
	struct file *file;
	struct migr_region *region;
	bool reported;
	struct migr_tracker *tracker;
	struct migr_hot hot;
	unsigned long *chunks;
	unsigned long nr_chunks;
	unsigned long cursor;
};

/**
 * struct migr_counts - what a chunk adds to the statistics
 * @data: pages with content
 * @zero: zero pages
 * @hole: pages that had no memory
 * @pinned: pages that may still be written by DMA
 * @bytes: on the wire
 */
struct migr_counts {
	u64 data;
	u64 zero;
	u64 hole;
	u64 pinned;
	u64 bytes;
};

/**
 * struct migr_migration - one side of a move of one VM
 * @ref: held by its file and its stream
 * @role: an enum migr_role
 * @limiter: source: the limit to the writers of all regions
 * @setup: serialises adding regions and streams, and beginning a pass
 * @members: the regions; fixed once there is a stream
 * @nr_members: how many; changed under @setup and @lock
 * @has_stream: a stream has been added; under @setup
 * @lock: protects all below
 * @state: an enum migr_state
 * @error: a negative errno once the migration has failed
 * @pass: number of the current pass, from 1
 * @last: it is the last one
 * @begun_ns: when the first pass began
 * @pass_begun_ns: when this one did
 * @pass_ns: how long the latest acknowledged pass took, 0 during one
 * @total_ns: how long all took, set when the last is acknowledged
 * @pass_pages: dirty when the pass began
 * @hot_max: hot pages that the pass may leave
 * @hot: those it has left
 * @pass_dirtied: sum of &migr_tracker.nr_dirtied when the pass began
 * @total: of all passes
 * @in_pass: of the current pass
 */
struct migr_migration {
	struct kref ref;
	u32 role;
	struct migr_limiter *limiter;
	struct mutex setup;	/* of what takes part */
	struct migr_member members[MIGR_REGIONS_MAX];
	unsigned int nr_members;
	bool has_stream;

	spinlock_t lock;	/* of all that follows */
	u32 state;
	int error;
	u32 pass;
	bool last;
	u64 begun_ns;
	u64 pass_begun_ns;
	u64 pass_ns;
	u64 total_ns;
	u64 pass_pages;
	u64 hot_max;
	u64 hot;
	u64 pass_dirtied;
	struct migr_counts total;
	struct migr_counts in_pass;
};

struct file *migr_migration_create(u32 role);
void migr_migration_put(struct migr_migration *migration);
struct migr_member *migr_migration_member(struct migr_migration *migration,
					  u32 id);
struct migr_member *migr_migration_claim(struct migr_migration *migration,
					 unsigned long *chunk);
void migr_migration_unclaim(struct migr_migration *migration,
			    struct migr_member *member, unsigned long chunk);
unsigned int migr_migration_leave(struct migr_migration *migration,
				  unsigned int nr);
void migr_migration_unleave(struct migr_migration *migration, unsigned int nr);
void migr_migration_count(struct migr_migration *migration,
			  const struct migr_counts *counts);
void migr_migration_begin_pass(struct migr_migration *migration, u32 pass);
void migr_migration_end_pass(struct migr_migration *migration, bool last);
void migr_migration_fail(struct migr_migration *migration, int error);

#endif /* _MIGR_MIGRATION_H */
