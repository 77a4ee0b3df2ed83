/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_DIRTY_H
#define _MIGR_DIRTY_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/percpu_counter.h>
#include <linux/types.h>
#include <linux/migr.h>

struct file;
struct migr_limiter;
struct migr_region;

/* For the tests: the values are told in Documentation/dirty-tracking.rst. */
#ifdef MIGR_TEST
extern unsigned int migr_break_rule;
#define RULE_BROKEN(n)		(READ_ONCE(migr_break_rule) == (n))
#else
#define RULE_BROKEN(n)		((void)(n), false)
#endif

/**
 * struct migr_tracker - which pages of a region have been written
 * @region: the region
 * @file: reference that keeps @region
 * @reported: writes are reported by %MIGR_REGION_MERGE: nothing is protected
 * @limiter: charged for pages that writers make dirty; with a reference
 * @fetching: serialises %MIGR_TRACKER_FETCH
 * @nr_chunks: chunks in the region, the last one perhaps short
 * @nr_fetched: how many bits of @dirty were cleared
 * @nr_dirtied: how often one was set; they all were at first
 * @chunks: a bit a chunk: set if any of its pages may be dirty
 * @dirty: a bit a page: clear if no writer can change the page without
 *	setting it, or, if @reported, without a report that sets it following
 *
 * A bit of @dirty is set first, then its chunk's; they are cleared the other
 * way round, with a full barrier in between. So a set bit of @dirty has its
 * chunk's bit set, or is about to. No lock: bits are changed atomically, and
 * the folio locks order them against page tables.
 */
struct migr_tracker {
	struct migr_region *region;
	struct file *file;
	bool reported;
	struct migr_limiter *limiter;
	struct mutex fetching;	/* one FETCH at a time */
	unsigned long nr_chunks;
	atomic64_t nr_fetched;
	struct percpu_counter nr_dirtied;
	unsigned long *chunks;
	unsigned long *dirty;
};

/**
 * struct migr_batch - what one collect found in one chunk
 * @first: the chunk's first page
 * @nr_dirty: bits set in @dirty
 * @nr_pinned: pages that may still be written by DMA
 * @dirty: the pages that were dirty, from @first
 * @pages: for each of them the page, with a reference, or NULL if it is a hole,
 *	swapped out, or memory that was allocated and not used yet
 */
struct migr_batch {
	pgoff_t first;
	unsigned int nr_dirty;
	unsigned int nr_pinned;
	DECLARE_BITMAP(dirty, MIGR_CHUNK_PAGES);
	struct page *pages[MIGR_CHUNK_PAGES];
};

struct migr_tracker *migr_tracker_start(struct file *region_file,
					bool reported,
					struct migr_limiter *limiter);
void migr_tracker_stop(struct migr_tracker *tracker);
u64 migr_tracker_nr_dirty(struct migr_tracker *tracker);
u64 migr_tracker_nr_dirtied(struct migr_tracker *tracker);
unsigned long migr_tracker_set(struct migr_tracker *tracker, pgoff_t first,
			       pgoff_t nr);
u64 migr_tracker_merge(struct migr_tracker *tracker, pgoff_t first,
		       const u64 *bitmap, unsigned int nr_words);
vm_fault_t migr_tracker_fault(struct migr_tracker *tracker,
			      struct vm_fault *vmf);
int migr_tracker_collect(struct migr_tracker *tracker, pgoff_t first,
			 unsigned int nr, bool quiesced,
			 const unsigned long *leave, struct migr_batch *batch);
void migr_batch_put(struct migr_batch *batch);
struct file *migr_tracker_create_file(struct file *region_file);

#endif /* _MIGR_DIRTY_H */
