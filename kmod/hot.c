// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that are written between every two passes: sending them is no use until
 * the last, and protecting them only slows their writers down.
 *
 * That a page which is left has cooled down is never found out, since nobody is
 * told of writes to it: its bit in the tracker stays set. So no more may be left
 * than the last pass has time for, which the caller of MIGR_MIGRATION_PASS says.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/migr.h>

#include "dirty.h"
#include "hot.h"
#include "inject.h"
#include "region.h"

#define CHUNK_LONGS	BITS_TO_LONGS(MIGR_CHUNK_PAGES)

/**
 * migr_hot_init() - begin with nothing known
 * @hot: zeroed, or initialised
 * @nr_chunks: chunks in the region
 *
 * Return: 0 or -ENOMEM; migr_hot_destroy() is due either way.
 */
int migr_hot_init(struct migr_hot *hot, unsigned long nr_chunks)
{
	if (!hot->written)
		hot->written =
			migr_may_fail(kvcalloc(nr_chunks * CHUNK_LONGS,
					       sizeof(long),
					       GFP_KERNEL_ACCOUNT), NULL);
	if (!hot->passes)
		hot->passes = migr_may_fail(kvcalloc(nr_chunks,
						     sizeof(*hot->passes),
						     GFP_KERNEL_ACCOUNT), NULL);
	if (!hot->left)
		hot->left = migr_may_fail(kvcalloc(nr_chunks,
						   sizeof(*hot->left),
						   GFP_KERNEL_ACCOUNT), NULL);
	return hot->written && hot->passes && hot->left ? 0 : -ENOMEM;
}

/**
 * migr_hot_destroy() - free what migr_hot_init() allocated
 * @hot: zeroed, or initialised
 */
void migr_hot_destroy(struct migr_hot *hot)
{
	kvfree(hot->written);
	kvfree(hot->passes);
	kvfree(hot->left);
}

/**
 * migr_hot_find() - which pages of a chunk are hot
 * @hot: of the region
 * @tracker: of the region
 * @chunk: index of the chunk, which is about to be collected
 * @pass: number of this pass
 * @pages: out, those that are dirty and were so in the pass before
 *
 * Return: how many.
 */
unsigned int migr_hot_find(const struct migr_hot *hot,
			   const struct migr_tracker *tracker,
			   unsigned long chunk, u32 pass, unsigned long *pages)
{
	const unsigned long *written = hot->written + chunk * CHUNK_LONGS;
	const unsigned long *dirty = tracker->dirty + chunk * CHUNK_LONGS;
	unsigned long i, nr;

	bitmap_zero(pages, MIGR_CHUNK_PAGES);
	if (!hot->passes[chunk] || hot->passes[chunk] != pass - 1)
		return 0;
	/* The tracker's bitmap ends with the region. */
	nr = min(CHUNK_LONGS, BITS_TO_LONGS(tracker->region->nr_pages) -
			      chunk * CHUNK_LONGS);
	for (i = 0; i < nr; i++)
		pages[i] = written[i] & READ_ONCE(dirty[i]);
	return bitmap_weight(pages, MIGR_CHUNK_PAGES);
}

/**
 * migr_hot_trim() - forget all pages but the first few
 * @pages: what migr_hot_find() found
 * @nr: how many to keep
 */
void migr_hot_trim(unsigned long *pages, unsigned int nr)
{
	unsigned int i;

	for_each_set_bit(i, pages, MIGR_CHUNK_PAGES)
		if (!nr--)
			break;
	if (i < MIGR_CHUNK_PAGES)
		bitmap_clear(pages, i, MIGR_CHUNK_PAGES - i);
}

/**
 * migr_hot_note() - remember what was dirty
 * @hot: of the region
 * @chunk: index of the chunk
 * @pass: number of this pass
 * @collected: its pages that were collected
 * @left: its pages that were left
 */
void migr_hot_note(struct migr_hot *hot, unsigned long chunk, u32 pass,
		   const unsigned long *collected, const unsigned long *left)
{
	bitmap_or(hot->written + chunk * CHUNK_LONGS, collected, left,
		  MIGR_CHUNK_PAGES);
	/* In the first every page is dirty, written or not. */
	hot->passes[chunk] = pass == 1 ? 0 : pass;
	hot->left[chunk] = bitmap_weight(left, MIGR_CHUNK_PAGES);
}

/**
 * migr_hot_written() - what migr_hot_note() remembered last
 * @hot: of the region
 * @chunk: index of the chunk
 *
 * Return: the pages that were dirty, a bit each.
 */
const u64 *migr_hot_written(const struct migr_hot *hot, unsigned long chunk)
{
	static_assert(sizeof(u64) == sizeof(*hot->written));

	return (const u64 *)(hot->written + chunk * CHUNK_LONGS);
}

/**
 * migr_hot_left() - how many pages migr_hot_note() was last told are left
 * @hot: of the region
 * @chunk: index of the chunk
 *
 * Return: how many.
 */
unsigned int migr_hot_left(const struct migr_hot *hot, unsigned long chunk)
{
	return hot->left[chunk];
}
