// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which pages of a region have been written, and how not to miss one.
 *
 * The numbered rules below are argued for in Documentation/dirty-tracking.rst.
 * In short: a page's bit is set under its folio's lock before its page table
 * entry becomes writable, and cleared before the entry is made read-only and
 * clean under the same lock; only then may the page be read.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "device.h"
#include "dirty.h"
#include "inject.h"
#include "region.h"
#include "trace.h"

/* Protecting a few clean pages costs less than another walk of the tables. */
#define PROTECT_GAP		16
/* Rounds in which a run of pages must come to rest, see protect_run(). */
#define PROTECT_ROUNDS		4

#ifdef MIGR_TEST
unsigned int migr_break_rule;
module_param_named(break_rule, migr_break_rule, uint, 0600);
MODULE_PARM_DESC(break_rule, "Break this rule of dirty tracking (tests only)");
#endif

static unsigned long chunk_of(pgoff_t page)
{
	return page / MIGR_CHUNK_PAGES;
}

static void mark_chunk(struct migr_tracker *tracker, unsigned long chunk)
{
	if (!test_bit(chunk, tracker->chunks))
		set_bit(chunk, tracker->chunks);
}

static void mark_page(struct migr_tracker *tracker, pgoff_t page)
{
	if (!test_and_set_bit(page, tracker->dirty)) {
		atomic_long_inc(&tracker->nr_dirty);
		atomic_long_inc(&tracker->nr_dirtied);
	}
	/* Who set the page's bit before us may not have come this far yet. */
	mark_chunk(tracker, chunk_of(page));
}

/* Make the pages dirty that @mask names in the word of @page. */
static unsigned int mark_word(struct migr_tracker *tracker, pgoff_t page,
			      unsigned long mask)
{
	unsigned long *word = tracker->dirty + BIT_WORD(page);
	unsigned long old = atomic_long_fetch_or(mask, (atomic_long_t *)word);
	unsigned int set = hweight_long(mask & ~old);

	atomic_long_add(set, &tracker->nr_dirty);
	atomic_long_add(set, &tracker->nr_dirtied);
	mark_chunk(tracker, chunk_of(page));
	return set;
}

/**
 * migr_tracker_set() - make pages dirty
 * @tracker: the tracker
 * @first: first page
 * @nr: how many, inside the region
 *
 * May sleep.
 */
void migr_tracker_set(struct migr_tracker *tracker, pgoff_t first, pgoff_t nr)
{
	pgoff_t end = first + nr;

	while (first < end) {
		unsigned long mask = BITMAP_FIRST_WORD_MASK(first);

		if (BIT_WORD(first) == BIT_WORD(end))
			mask &= BITMAP_LAST_WORD_MASK(end);
		mark_word(tracker, first, mask);
		first = round_down(first, BITS_PER_LONG) + BITS_PER_LONG;
		if (first % MIGR_CHUNK_PAGES == 0)
			cond_resched();
	}
}

/**
 * migr_tracker_merge() - make pages dirty that a bitmap names
 * @tracker: the tracker
 * @first: page of its first bit, a multiple of BITS_PER_LONG
 * @bitmap: the bitmap, with no bit beyond the region's end
 * @nr_words: how many words it has
 *
 * Return: how many pages were not dirty before.
 */
u64 migr_tracker_merge(struct migr_tracker *tracker, pgoff_t first,
		       const u64 *bitmap, unsigned int nr_words)
{
	unsigned int i;
	u64 set = 0;

	for (i = 0; i < nr_words; i++, first += BITS_PER_LONG)
		if (bitmap[i])
			set += mark_word(tracker, first, bitmap[i]);
	return set;
}

/**
 * migr_tracker_fault() - page_mkwrite() of a tracked region
 * @tracker: the region's tracker
 * @vmf: the fault
 *
 * Rule 1: the bit is set under the folio lock, and the lock is kept until the
 * page table entry is writable. A collect that cleared the bit in between
 * could protect only what was there then, and this entry would escape it.
 *
 * Return: VM_FAULT_LOCKED, or VM_FAULT_NOPAGE to have the access tried again.
 */
vm_fault_t migr_tracker_fault(struct migr_tracker *tracker,
			      struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	pgoff_t first = vmf->pgoff, nr = 1;

	if (RULE_BROKEN(1))
		mark_page(tracker, vmf->pgoff);
	folio_lock(folio);
	if (folio->mapping != tracker->region->mapping) {
		folio_unlock(folio);
		return VM_FAULT_NOPAGE;
	}
	/* The kernel may answer with a huge entry, writable all over. */
	if (folio_test_large(folio) && folio_order(folio) >= HPAGE_PMD_ORDER &&
	    migr_may_map_huge(vmf->vma) && !RULE_BROKEN(7)) {
		first = folio->index;
		nr = min_t(pgoff_t, folio_nr_pages(folio),
			   tracker->region->nr_pages - first);
	}
	if (!RULE_BROKEN(1))
		migr_tracker_set(tracker, first, nr);
	trace_migr_fault(tracker->region, vmf->pgoff, nr);
	return VM_FAULT_LOCKED;
}

/* Rule 2a: take the dirty bits of some pages of one chunk. */
static void fetch_bits(struct migr_tracker *tracker, pgoff_t first,
		       unsigned int nr, struct migr_batch *batch)
{
	unsigned long chunk = chunk_of(first);
	pgoff_t start = (pgoff_t)chunk * MIGR_CHUNK_PAGES;
	unsigned long *src = tracker->dirty + BIT_WORD(start);
	unsigned int words, i, from = first - start;

	/* Bits beyond the region's end are never set. */
	words = min_t(pgoff_t, MIGR_CHUNK_PAGES,
		      ALIGN(tracker->region->nr_pages - start, BITS_PER_LONG)) /
		BITS_PER_LONG;
	bitmap_zero(batch->dirty, MIGR_CHUNK_PAGES);
	batch->first = start;
	batch->nr_pinned = 0;

	clear_bit(chunk, tracker->chunks);
	/* Pairs with test_and_set_bit() in mark_page(). */
	smp_mb__after_atomic();
	for (i = 0; i < words; i++) {
		unsigned int bit = i * BITS_PER_LONG;

		if (bit + BITS_PER_LONG <= from || bit >= from + nr) {
			if (READ_ONCE(src[i]))
				mark_chunk(tracker, chunk);
			continue;
		}
		if (READ_ONCE(src[i]))
			batch->dirty[i] = xchg(&src[i], 0);
	}
	batch->nr_dirty = bitmap_weight(batch->dirty, MIGR_CHUNK_PAGES);
	atomic_long_sub(batch->nr_dirty, &tracker->nr_dirty);
}

static void unfetch_bits(struct migr_tracker *tracker,
			 const struct migr_batch *batch)
{
	unsigned int i;

	for_each_set_bit(i, batch->dirty, MIGR_CHUNK_PAGES)
		mark_page(tracker, batch->first + i);
}

/*
 * The next folio of a batch from *@pos on, which moves past it; NULL at the end.
 * @first: out, its first entry; @nr: out, how many it has. They follow each
 * other but for pages that are not dirty.
 */
static struct folio *batch_next(const struct migr_batch *batch,
				unsigned int *pos, unsigned int *first,
				unsigned int *nr)
{
	struct folio *folio = NULL;

	for (*nr = 0; *pos < MIGR_CHUNK_PAGES; (*pos)++) {
		struct page *page = batch->pages[*pos];

		if (!page)
			continue;
		if (!folio) {
			folio = page_folio(page);
			*first = *pos;
		} else if (page_folio(page) != folio) {
			break;
		}
		(*nr)++;
	}
	return folio;
}

/* Enter the pages of a locked folio that are dirty; takes references. */
static bool batch_add_folio(struct migr_batch *batch, struct folio *folio)
{
	pgoff_t last = batch->first + MIGR_CHUNK_PAGES - 1;
	pgoff_t from = max(folio->index, batch->first);
	pgoff_t to = min(folio->index + folio_nr_pages(folio) - 1, last);
	unsigned long i;
	bool added = false;

	if (to < from)
		return false;
	for (i = from - batch->first; i <= to - batch->first; i++) {
		if (!test_bit(i, batch->dirty))
			continue;
		folio_get(folio);
		batch->pages[i] = folio_page(folio,
					     batch->first + i - folio->index);
		added = true;
	}
	return added;
}

/* The first dirty page in a folio, or one past the chunk if there is none. */
static pgoff_t batch_wants(const struct migr_batch *batch, struct folio *folio)
{
	unsigned long from = max(folio->index, batch->first) - batch->first;
	unsigned long to = folio->index + folio_nr_pages(folio) - batch->first;
	unsigned long bit;

	to = min_t(unsigned long, to, MIGR_CHUNK_PAGES);
	bit = find_next_bit(batch->dirty, to, from);
	return batch->first + (bit < to ? bit : MIGR_CHUNK_PAGES);
}

static void batch_unlock(struct migr_batch *batch)
{
	unsigned int pos = 0, first, nr;
	struct folio *folio;

	while ((folio = batch_next(batch, &pos, &first, &nr)))
		folio_unlock(folio);
}

/*
 * Lock a folio found by a lookup, or what has taken its place since; NULL if
 * nothing has. Takes a reference.
 */
static struct folio *lock_current(struct address_space *mapping,
				  struct folio *folio, pgoff_t index)
{
	if (!RULE_BROKEN(2)) {
		if (migr_may_fail(folio_lock_killable(folio), -EINTR))
			return ERR_PTR(-EINTR);
		if (folio->mapping != mapping) {
			folio_unlock(folio);
			return migr_lock_folio(mapping, index);
		}
	}
	folio_get(folio);
	return folio;
}

/*
 * Rules 2b and 2c: look the folios of the dirty pages up and lock them in
 * ascending order. What is a hole now is zero, and what is swapped out has no
 * page table entry: a later write to either sets the bit again.
 */
static int lock_folios(struct migr_tracker *tracker, struct migr_batch *batch)
{
	struct address_space *mapping = tracker->region->mapping;
	unsigned long from, to;
	struct folio_batch fbatch;
	pgoff_t index, end;
	int ret = 0;

	from = find_first_bit(batch->dirty, MIGR_CHUNK_PAGES);
	to = find_last_bit(batch->dirty, MIGR_CHUNK_PAGES);
	index = batch->first + from;
	end = batch->first + to;
	folio_batch_init(&fbatch);
	while (!ret && filemap_get_folios(mapping, &index, end, &fbatch)) {
		unsigned int i;

		for (i = 0; i < folio_batch_count(&fbatch) && !ret; i++) {
			struct folio *folio = fbatch.folios[i];
			pgoff_t at = batch_wants(batch, folio);

			/* The latter: a large folio took several's place. */
			if (at - batch->first == MIGR_CHUNK_PAGES ||
			    batch->pages[at - batch->first])
				continue;
			folio = lock_current(mapping, folio, at);
			if (IS_ERR(folio)) {
				ret = PTR_ERR(folio);
			} else if (folio) {
				if (!batch_add_folio(batch, folio) &&
				    !RULE_BROKEN(2))
					folio_unlock(folio);
				folio_put(folio);
			}
		}
		folio_batch_release(&fbatch);
		cond_resched();
	}
	return ret;
}

/*
 * Rules 2d and 3: make every page table entry of a run read-only and clean.
 *
 * The kernel offers the two only one after the other, and a dirty entry that
 * is read-only can be made writable meanwhile by mprotect() or a NUMA hinting
 * fault, and a writable one dirty by its CPU. An entry that is both read-only
 * and clean stays so while we hold the folio's lock. When one round of "make
 * read-only" and the following "make clean" changed nothing, every entry was
 * both in between. A run that does not come to rest is left to be collected
 * again.
 *
 * Each call flushes the TLB of what it changed, and has KVM drop its own
 * mappings of the run, before it returns.
 */
static bool protect_run(struct address_space *mapping, pgoff_t first,
			unsigned int nr)
{
	DECLARE_BITMAP(cleaned, MIGR_CHUNK_PAGES) = {};
	unsigned long changed;
	unsigned int round;

	if (RULE_BROKEN(20))
		return true;
	for (round = 0; round < PROTECT_ROUNDS; round++) {
		pgoff_t start = 0, end = 0;

		changed = wp_shared_mapping_range(mapping, first, nr);
		if (RULE_BROKEN(3))
			return true;
		changed += clean_record_shared_mapping_range(mapping, first, nr,
							     first, cleaned,
							     &start, &end);
		if (!changed)
			return true;
	}
	return false;
}

static void protect(struct migr_tracker *tracker, struct migr_batch *batch)
{
	struct address_space *mapping = tracker->region->mapping;
	unsigned int pos = 0, first, i, nr, next, from, to;
	struct folio *folio;

	while ((folio = batch_next(batch, &pos, &first, &nr))) {
		/* The entry's dirty bit may be all that says there is data. */
		if (!RULE_BROKEN(30))
			folio_mark_dirty(folio);
		/*
		 * Rule 7: the calls below leave huge entries alone. Unmapped,
		 * the chunk comes back by small ones.
		 */
		if (folio_test_large(folio) && folio_entire_mapcount(folio))
			unmap_mapping_pages(mapping, folio->index,
					    folio_nr_pages(folio), false);
	}

	from = find_first_bit(batch->dirty, MIGR_CHUNK_PAGES);
	while (from < MIGR_CHUNK_PAGES) {
		to = find_next_zero_bit(batch->dirty, MIGR_CHUNK_PAGES, from);
		next = find_next_bit(batch->dirty, MIGR_CHUNK_PAGES, to);
		while (next < MIGR_CHUNK_PAGES && next - to <= PROTECT_GAP) {
			to = find_next_zero_bit(batch->dirty, MIGR_CHUNK_PAGES,
						next);
			next = find_next_bit(batch->dirty, MIGR_CHUNK_PAGES,
					     to);
		}
		if (!protect_run(mapping, batch->first + from, to - from))
			for (i = from; i < to; i++)
				if (test_bit(i, batch->dirty))
					mark_page(tracker, batch->first + i);
		from = next;
	}
}

/*
 * Rule 4: who holds a reference that is not a mapping's, the page cache's or
 * ours may be about to write through it. Pins are told from references since
 * they are many at once; a direct read into guest memory takes either.
 */
static bool folio_is_busy(struct folio *folio, unsigned int ours)
{
	int mapcount = migr_folio_mapcount(folio);
	int refs;

	if (mapcount < 0 || folio_maybe_dma_pinned(folio))
		return true;
	/* An unmapping in between must not hide somebody's reference. */
	smp_rmb();
	refs = folio_ref_count(folio);
	smp_rmb();	/* as above */
	if (migr_folio_mapcount(folio) != mapcount)
		return true;
	return refs > mapcount + folio_nr_pages(folio) + ours;
}

static void check_busy(struct migr_tracker *tracker, bool quiesced,
		       struct migr_batch *batch)
{
	unsigned int pos = 0, first, nr;
	struct folio *folio;

	while ((folio = batch_next(batch, &pos, &first, &nr))) {
		/* A fault in flight has a reference: rule 4 would make up. */
		if (RULE_BROKEN(1) || RULE_BROKEN(2) || RULE_BROKEN(4) ||
		    !folio_is_busy(folio, nr))
			continue;
		batch->nr_pinned += nr;
		if (quiesced)
			continue;
		for (; first < pos; first++)
			if (batch->pages[first])
				mark_page(tracker, batch->first + first);
	}
}

/**
 * migr_batch_put() - drop a batch's references
 * @batch: a batch that migr_tracker_collect() filled
 */
void migr_batch_put(struct migr_batch *batch)
{
	unsigned int i;

	for (i = 0; i < MIGR_CHUNK_PAGES; i++)
		if (batch->pages[i])
			put_page(batch->pages[i]);
}

/**
 * migr_tracker_collect() - fetch, clear and protect some pages
 * @tracker: the tracker
 * @first: first page, a multiple of BITS_PER_LONG
 * @nr: how many, not across a chunk's end; a multiple of BITS_PER_LONG or up to
 *	the region's end
 * @quiesced: nothing writes any more, DMA included: what looks pinned counts
 *	as clean
 * @batch: out
 *
 * Once it returns, the pages of the batch may be read. A chunk must not be
 * collected by two at once: protect_run() relies on nobody else's cleaning.
 * Different chunks may. Takes folio locks.
 *
 * Return: 0, with a batch to be put by migr_batch_put(), or -EINTR after a
 * fatal signal, with the bits set again and nothing to be put.
 */
int migr_tracker_collect(struct migr_tracker *tracker, pgoff_t first,
			 unsigned int nr, bool quiesced,
			 struct migr_batch *batch)
{
	int ret;

	memset(batch->pages, 0, sizeof(batch->pages));
	fetch_bits(tracker, first, nr, batch);
	if (!batch->nr_dirty)
		return 0;
	ret = lock_folios(tracker, batch);
	if (!ret && !tracker->reported) {
		protect(tracker, batch);
		check_busy(tracker, quiesced, batch);
	}
	if (!RULE_BROKEN(2))
		batch_unlock(batch);
	if (ret) {
		migr_batch_put(batch);
		unfetch_bits(tracker, batch);
	}
	trace_migr_collect(tracker->region, batch->first, batch->nr_dirty,
			   batch->nr_pinned);
	return ret;
}

/**
 * migr_tracker_start() - track the writes to a region
 * @region_file: a file of the region
 * @reported: they will be reported: leave the mappings alone
 *
 * Return: a tracker in which every page is dirty, or an error pointer: -EBUSY
 * if the region is tracked already, -ENOMEM, -EINTR.
 */
struct migr_tracker *migr_tracker_start(struct file *region_file,
					bool reported)
{
	struct migr_region *region = migr_region_from_file(region_file);
	struct migr_tracker *tracker;
	int ret = -ENOMEM;

	tracker = migr_may_fail(kzalloc(sizeof(*tracker), GFP_KERNEL_ACCOUNT),
				NULL);
	if (!tracker)
		return ERR_PTR(-ENOMEM);
	mutex_init(&tracker->fetching);
	tracker->region = region;
	tracker->reported = reported;
	tracker->nr_chunks = DIV_ROUND_UP(region->nr_pages, MIGR_CHUNK_PAGES);
	tracker->dirty =
		migr_may_fail(kvcalloc(BITS_TO_LONGS(region->nr_pages),
				       sizeof(long), GFP_KERNEL_ACCOUNT), NULL);
	tracker->chunks =
		migr_may_fail(kvcalloc(BITS_TO_LONGS(tracker->nr_chunks),
				       sizeof(long), GFP_KERNEL_ACCOUNT), NULL);
	if (!tracker->dirty || !tracker->chunks)
		goto err_free;
	/* More pages than bitmap_set() can count. */
	memset(tracker->dirty, 0xff,
	       BITS_TO_LONGS(region->nr_pages) * sizeof(long));
	tracker->dirty[BIT_WORD(region->nr_pages - 1)] &=
		BITMAP_LAST_WORD_MASK(region->nr_pages);
	bitmap_set(tracker->chunks, 0, tracker->nr_chunks);
	atomic_long_set(&tracker->nr_dirty, region->nr_pages);

	ret = migr_region_track(region, tracker);
	if (ret)
		goto err_free;
	tracker->file = get_file(region_file);
	return tracker;

err_free:
	mutex_destroy(&tracker->fetching);
	kvfree(tracker->chunks);
	kvfree(tracker->dirty);
	kfree(tracker);
	return ERR_PTR(ret);
}

/**
 * migr_tracker_stop() - stop tracking and free the tracker
 * @tracker: the tracker; nobody is collecting from it
 */
void migr_tracker_stop(struct migr_tracker *tracker)
{
	migr_region_untrack(tracker->region);
	fput(tracker->file);
	mutex_destroy(&tracker->fetching);
	kvfree(tracker->chunks);
	kvfree(tracker->dirty);
	kfree(tracker);
}

/* Collect into the user's bitmap from @first, which is at @done of the range. */
static int fetch_chunk(struct migr_tracker *tracker, pgoff_t first,
		       unsigned int nr, struct migr_tracker_fetch *fetch,
		       struct migr_batch *batch)
{
	u64 __user *bitmap = u64_to_user_ptr(fetch->bitmap);
	size_t bytes = DIV_ROUND_UP(nr, 64) * sizeof(u64);
	int ret;

	bitmap += (first - fetch->first_page) / 64;
	if (!test_bit(chunk_of(first), tracker->chunks))
		return clear_user(bitmap, bytes) ? -EFAULT : 0;

	ret = migr_tracker_collect(tracker, first, nr, false, batch);
	if (ret)
		return ret;
	migr_batch_put(batch);
	/* x86 and arm64 alike: an unsigned long is a __u64 of the bitmap. */
	BUILD_BUG_ON(BITS_PER_LONG != 64);
	if (copy_to_user(bitmap,
			 batch->dirty + BIT_WORD(first - batch->first), bytes)) {
		unfetch_bits(tracker, batch);
		return -EFAULT;
	}
	fetch->dirty_pages += batch->nr_dirty;
	fetch->pinned_pages += batch->nr_pinned;
	return 0;
}

static int tracker_ioctl_fetch(struct migr_ucmd *ucmd)
{
	struct migr_tracker *tracker = ucmd->file->private_data;
	struct migr_tracker_fetch *fetch = ucmd->cmd;
	struct migr_batch *batch;
	pgoff_t page, end;
	int ret;

	if (fetch->flags)
		return -EOPNOTSUPP;
	if (!migr_region_has_words(tracker->region, fetch->first_page,
				   fetch->nr_pages))
		return -EINVAL;
	end = fetch->first_page + fetch->nr_pages;
	batch = migr_may_fail(kvmalloc(sizeof(*batch), GFP_KERNEL), NULL);
	if (!batch)
		return -ENOMEM;
	ret = migr_may_fail(mutex_lock_killable(&tracker->fetching), -EINTR);
	if (ret) {
		kvfree(batch);
		return ret;
	}

	fetch->dirty_pages = 0;
	fetch->pinned_pages = 0;
	for (page = fetch->first_page; page < end && !ret;) {
		unsigned int nr = min(end - page, MIGR_CHUNK_PAGES -
						  page % MIGR_CHUNK_PAGES);

		ret = fetch_chunk(tracker, page, nr, fetch, batch);
		if (!ret)
			page += nr;
		if (fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	kvfree(batch);
	mutex_unlock(&tracker->fetching);
	if (!ret)
		ret = migr_ucmd_respond(ucmd);
	/* The user cannot tell what had been fetched: let it all be again. */
	if (ret)
		migr_tracker_set(tracker, fetch->first_page,
				 page - fetch->first_page);
	return ret;
}

static const struct migr_ioctl_op tracker_ioctl_ops[] = {
	MIGR_IOCTL_OP(MIGR_TRACKER_FETCH, tracker_ioctl_fetch,
		      struct migr_tracker_fetch, pinned_pages),
};

static long tracker_ioctl(struct file *file, unsigned int cmd,
			  unsigned long arg)
{
	return migr_ioctl(file, cmd, arg, tracker_ioctl_ops,
			  ARRAY_SIZE(tracker_ioctl_ops));
}

static int tracker_release(struct inode *inode, struct file *file)
{
	migr_tracker_stop(file->private_data);
	return 0;
}

static const struct file_operations tracker_fops = {
	.owner = THIS_MODULE,
	.release = tracker_release,
	.unlocked_ioctl = tracker_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

/**
 * migr_tracker_create_file() - a tracker as a file
 * @region_file: a file of the region
 *
 * Return: the file, or an error pointer as from migr_tracker_start().
 */
struct file *migr_tracker_create_file(struct file *region_file)
{
	struct migr_tracker *tracker;
	struct file *file;

	tracker = migr_tracker_start(region_file, false);
	if (IS_ERR(tracker))
		return ERR_CAST(tracker);
	file = migr_may_fail(anon_inode_getfile("[migr-tracker]", &tracker_fops,
						tracker, O_RDWR),
			     ERR_PTR(-ENFILE));
	if (IS_ERR(file))
		migr_tracker_stop(tracker);
	return file;
}
