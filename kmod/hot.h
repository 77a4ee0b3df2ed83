/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_HOT_H
#define _MIGR_HOT_H

#include <linux/types.h>

struct migr_tracker;

/**
 * struct migr_hot - which pages of a region are written again and again
 * @written: a bit a page, to the end of the last chunk: it was dirty when its
 *	chunk was last collected
 * @passes: the pass in which that was, for each chunk; 0: in none that tells
 * @left: how many pages of the chunk were left then
 *
 * A chunk's part is changed by the stream that has claimed it.
 */
struct migr_hot {
	unsigned long *written;
	u32 *passes;
	u16 *left;
};

int migr_hot_init(struct migr_hot *hot, unsigned long nr_chunks);
void migr_hot_destroy(struct migr_hot *hot);
unsigned int migr_hot_find(const struct migr_hot *hot,
			   const struct migr_tracker *tracker,
			   unsigned long chunk, u32 pass, unsigned long *pages);
void migr_hot_trim(unsigned long *pages, unsigned int nr);
void migr_hot_note(struct migr_hot *hot, unsigned long chunk, u32 pass,
		   const unsigned long *collected, const unsigned long *left);
const u64 *migr_hot_written(const struct migr_hot *hot, unsigned long chunk);
unsigned int migr_hot_left(const struct migr_hot *hot, unsigned long chunk);

#endif /* _MIGR_HOT_H */
