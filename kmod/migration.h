/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_MIGRATION_H
#define _MIGR_MIGRATION_H

#include <linux/bitmap.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/migr.h>

#include "hot.h"

struct file;
struct migr_limiter;
struct migr_region;
struct migr_stream;
struct migr_tracker;

/**
 * struct migr_member - a region in a migration
 * @id: its number on the wire
 * @file: reference that keeps the region
 * @region: the region
 * @reported: source: its writes are reported
 * @tracker: source: its tracker, from the first pass on
 * @hot: source: which of its pages were dirty, and which are hot
 * @chunks: source: chunks of the current pass that nobody has claimed;
 *	changed under &migr_migration.lock
 * @unacked: source: for each chunk that a stream has sent and not seen
 *	acknowledged, the one that it sent before; see &struct migr_unacked
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
	u32 *unacked;
	unsigned long nr_chunks;
	unsigned long cursor;
};

/**
 * struct migr_unacked - what a stream has sent and not seen acknowledged
 * @last: for each region, by its place in &migr_migration.members: the index of
 *	the chunk sent last, plus 1; 0 if there is none
 *
 * Lists that run through &migr_member.unacked, so that nothing has to be
 * allocated when a chunk is sent, and all is forgotten at once when it has been
 * acknowledged.
 */
struct migr_unacked {
	u32 last[MIGR_REGIONS_MAX];
};

/**
 * struct migr_counts - what a chunk adds to the statistics
 * @data: pages with content
 * @zero: zero pages
 * @hole: pages that had no memory
 * @pinned: pages that may still be written by DMA
 * @bytes: on the wire
 * @compressed: 1 if it is compressed
 * @incompressible: 1 if that was tried, and is not worth it
 * @plain: bytes that were compressed
 * @packed: and what became of them
 * @compress_ns: time that it took
 */
struct migr_counts {
	u64 data;
	u64 zero;
	u64 hole;
	u64 pinned;
	u64 bytes;
	u64 compressed;
	u64 incompressible;
	u64 plain;
	u64 packed;
	u64 compress_ns;
};

/**
 * enum migr_claim - what there is to do for a stream of a source
 * @MIGR_CLAIM_CHUNK: send the chunk
 * @MIGR_CLAIM_TELL: tell the destination of streams that are dead
 * @MIGR_CLAIM_NONE: nothing for now, but the pass is not complete
 * @MIGR_CLAIM_OVER: no pass is being carried out
 */
enum migr_claim {
	MIGR_CLAIM_CHUNK,
	MIGR_CLAIM_TELL,
	MIGR_CLAIM_NONE,
	MIGR_CLAIM_OVER,
};

/**
 * struct migr_migration - one side of a move of one VM
 * @ref: held by its file and its streams
 * @role: an enum migr_role
 * @limiter: source: the limit to the writers of all regions
 * @setup: serialises adding regions and streams, and beginning a pass
 * @members: the regions; fixed once there is a stream
 * @nr_members: how many; changed under @setup and @lock
 * @wait: woken when there may be something to do for a stream, or the last of
 *	the pass is acknowledged, or a stream has ended
 * @lock: protects all below
 * @streams: those that have not failed
 * @nr_streams: how many
 * @ids: numbers of streams that there have been
 * @dead: those that have failed
 * @chunks_left: source: bits set in all &migr_member.chunks
 * @nr_busy: source: streams that may have sent what is not acknowledged, or have
 *	not given back yet what they had sent
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
	wait_queue_head_t wait;

	spinlock_t lock;	/* of all that follows */
	struct list_head streams;
	unsigned int nr_streams;
	DECLARE_BITMAP(ids, MIGR_STREAM_IDS);
	DECLARE_BITMAP(dead, MIGR_STREAM_IDS);
	unsigned long chunks_left;
	unsigned int nr_busy;
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
int migr_migration_add(struct migr_migration *migration,
		       struct migr_stream *stream);
enum migr_claim migr_migration_claim(struct migr_migration *migration,
				     struct migr_stream *stream,
				     struct migr_member **member,
				     unsigned long *chunk);
void migr_migration_unclaim(struct migr_migration *migration,
			    struct migr_stream *stream,
			    struct migr_member *member, unsigned long chunk);
void migr_migration_sent(struct migr_migration *migration,
			 struct migr_stream *stream,
			 struct migr_member *member, unsigned long chunk);
int migr_migration_wait(struct migr_migration *migration,
			struct migr_stream *stream);
int migr_migration_bury(struct migr_migration *migration,
			struct migr_stream *stream, u32 id);
void migr_migration_lose(struct migr_migration *migration,
			 struct migr_stream *stream, int error, bool shared);
unsigned int migr_migration_leave(struct migr_migration *migration,
				  unsigned int nr);
void migr_migration_unleave(struct migr_migration *migration, unsigned int nr);
void migr_migration_count(struct migr_migration *migration,
			  const struct migr_counts *counts);
int migr_migration_arrives(struct migr_migration *migration,
			   struct migr_stream *stream, u32 pass, bool writes);
void migr_migration_written(struct migr_migration *migration,
			    struct migr_stream *stream);
int migr_migration_complete(struct migr_migration *migration);

#endif /* _MIGR_MIGRATION_H */
