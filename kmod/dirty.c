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
#include <linux/interval_tree_generic.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "compat.h"
#include "device.h"
#include "dirty.h"
#include "inject.h"
#include "limiter.h"
#include "region.h"
#include "trace.h"

/*
 * Between pages to be protected so few clean ones are protected as well. KVM
 * drops its mappings of these, too, and a guest pays for each that it touches.
 */
#define PROTECT_GAP		4
/* So many pages are protected faster one by one than as a range. */
#define PROTECT_SINGLY		8
/* Address spaces whose entries are changed before their TLBs are flushed. */
#define PROTECT_MMS		4
/* The most that FETCH skips before it looks for signals: 256 KiB of bitmap. */
#define CLEAN_CHUNKS		4096

static unsigned long vma_first_page(struct vm_area_struct *vma)
{
	return vma->vm_pgoff;
}

static unsigned long vma_last_page(struct vm_area_struct *vma)
{
	return vma->vm_pgoff + vma_pages(vma) - 1;
}

/* The look-up in a file's tree of mappings, which the kernel does not export. */
INTERVAL_TREE_DEFINE(struct vm_area_struct, shared.rb, unsigned long,
		     shared.rb_subtree_last, vma_first_page, vma_last_page,
		     static __maybe_unused, mappings)

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

/* Whether it was not dirty. */
static bool mark_page(struct migr_tracker *tracker, pgoff_t page)
{
	bool was_clean = !test_and_set_bit(page, tracker->dirty);

	if (was_clean)
		percpu_counter_inc(&tracker->nr_dirtied);
	/* Who set the page's bit before us may not have come this far yet. */
	mark_chunk(tracker, chunk_of(page));
	return was_clean;
}

/* Make the pages dirty that @mask names in the word of @page. */
static unsigned int mark_word(struct migr_tracker *tracker, pgoff_t page,
			      unsigned long mask)
{
	unsigned long *word = tracker->dirty + BIT_WORD(page);
	unsigned long old = atomic_long_fetch_or(mask, (atomic_long_t *)word);
	unsigned int set = hweight_long(mask & ~old);

	percpu_counter_add(&tracker->nr_dirtied, set);
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
 *
 * Return: how many were not dirty.
 */
unsigned long migr_tracker_set(struct migr_tracker *tracker, pgoff_t first,
			       pgoff_t nr)
{
	pgoff_t end = first + nr;
	unsigned long all = 0;

	/* What nearly every fault asks for. */
	if (nr == 1)
		return mark_page(tracker, first);
	while (first < end) {
		unsigned long mask = BITMAP_FIRST_WORD_MASK(first);

		if (BIT_WORD(first) == BIT_WORD(end))
			mask &= BITMAP_LAST_WORD_MASK(end);
		all += mark_word(tracker, first, mask);
		first = round_down(first, BITS_PER_LONG) + BITS_PER_LONG;
		if (first % MIGR_CHUNK_PAGES == 0)
			cond_resched();
	}
	return all;
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
 * migr_tracker_nr_dirtied() - how often a page became dirty
 * @tracker: the tracker
 *
 * Return: that number, since tracking began.
 */
u64 migr_tracker_nr_dirtied(struct migr_tracker *tracker)
{
	return percpu_counter_sum(&tracker->nr_dirtied);
}

/**
 * migr_tracker_nr_dirty() - how many pages are dirty
 * @tracker: the tracker
 *
 * Return: that number, some pages off while others set and fetch bits: a fetch
 * may count a page before its writer has.
 */
u64 migr_tracker_nr_dirty(struct migr_tracker *tracker)
{
	s64 nr = tracker->region->nr_pages + migr_tracker_nr_dirtied(tracker) -
		 atomic64_read(&tracker->nr_fetched);

	return max(nr, 0LL);
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
		migr_limiter_charge(tracker->limiter,
				    migr_tracker_set(tracker, first, nr));
	trace_migr_fault(tracker->region, vmf->pgoff, nr);
	return VM_FAULT_LOCKED;
}

/* Take the bits of a word but those of @leave; whether any of these is set. */
static bool fetch_word(unsigned long *word, unsigned long leave,
		       unsigned long *taken)
{
	unsigned long old;

	*taken = 0;
	if (!READ_ONCE(*word))
		return false;
	old = leave ? atomic_long_fetch_and(leave, (atomic_long_t *)word) :
		      xchg(word, 0);
	*taken = old & ~leave;
	return old & leave;
}

/* Rule 2a: take the dirty bits of some pages of one chunk. */
static void fetch_bits(struct migr_tracker *tracker, pgoff_t first,
		       unsigned int nr, const unsigned long *leave,
		       struct migr_batch *batch)
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
		if (fetch_word(&src[i], leave ? leave[i] : 0, &batch->dirty[i]))
			mark_chunk(tracker, chunk);
	}
	batch->nr_dirty = bitmap_weight(batch->dirty, MIGR_CHUNK_PAGES);
	atomic64_add(batch->nr_dirty, &tracker->nr_fetched);
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
 * Its pages follow each other but for those that are not dirty.
 */
static struct folio *batch_next(const struct migr_batch *batch,
				unsigned int *pos)
{
	struct folio *folio;
	unsigned int i;

	for (i = *pos; i < MIGR_CHUNK_PAGES; i++) {
		i = find_next_bit(batch->dirty, MIGR_CHUNK_PAGES, i);
		if (i == MIGR_CHUNK_PAGES)
			break;
		if (!batch->pages[i])
			continue;
		folio = page_folio(batch->pages[i]);
		*pos = min_t(pgoff_t, folio_next_index(folio) - batch->first,
			     MIGR_CHUNK_PAGES);
		return folio;
	}
	return NULL;
}

/*
 * What the page cache has at @index. One after the last it is a step, else a
 * descent of the tree, which an entry of a folio with several needs as well.
 */
static void *cache_entry(struct xa_state *xas, pgoff_t index)
{
	void *entry;

	if (xas_valid(xas) && xas->xa_index + 1 == index) {
		entry = xas_next(xas);
		if (!xa_is_internal(entry))
			return entry;
	}
	xas_set(xas, index);
	return xas_load(xas);
}

/*
 * Wait for the lock of a folio, or of what has taken its place; NULL if
 * nothing has. Drops the tree's lock meanwhile.
 */
static struct folio *wait_lock(struct xa_state *xas, struct folio *folio,
			       struct address_space *mapping, pgoff_t index)
	__must_hold(&xas->xa->xa_lock)
{
	struct folio *locked = folio;

	folio_get(folio);
	xas_unlock_irq(xas);
	if (folio_lock_killable(folio)) {
		locked = ERR_PTR(-EINTR);
	} else if (folio->mapping != mapping) {
		folio_unlock(folio);
		locked = migr_lock_folio(mapping, index);
		/* Now that it is locked the page cache keeps it. */
		if (locked)
			folio_put(locked);
	}
	folio_put(folio);
	xas_set(xas, index);
	xas_lock_irq(xas);
	return locked;
}

static struct folio *lock_found(struct xa_state *xas, struct folio *folio,
				struct address_space *mapping, pgoff_t index)
{
	if (RULE_BROKEN(2)) {
		folio_get(folio);
		return folio;
	}
	if (folio_trylock(folio))
		return folio;
	return wait_lock(xas, folio, mapping, index);
}

/*
 * Rules 2b and 2c: look the folios of the dirty pages up and lock them in
 * ascending order. What is a hole now is zero, and what is swapped out has no
 * page table entry: a later write to either sets the bit again. The same goes
 * for memory that was allocated ahead: it is cleared when it is first used.
 *
 * A folio found under the tree's lock and locked before that is dropped
 * cannot leave the page cache, so it needs no reference. It is marked as having
 * data, before rule 3 erases what else may say so. Returns how many pages have
 * one.
 */
static int lock_folios(struct migr_tracker *tracker, struct migr_batch *batch,
		       bool *any_large)
{
	struct address_space *mapping = tracker->region->mapping;
	XA_STATE(xas, &mapping->i_pages, batch->first);
	struct folio *folio = NULL;
	pgoff_t end = 0;
	unsigned int i;
	int found = 0, ret = 0;

	*any_large = false;
	xas_lock_irq(&xas);
	for_each_set_bit(i, batch->dirty, MIGR_CHUNK_PAGES) {
		pgoff_t index = batch->first + i;

		batch->pages[i] = NULL;
		if (ret)
			continue;
		if (index >= end) {
			folio = cache_entry(&xas, index);
			if (!folio || xa_is_value(folio))
				continue;
			folio = migr_may_fail(lock_found(&xas, folio, mapping,
							 index),
					      ERR_PTR(-EINTR));
			if (IS_ERR(folio))
				ret = PTR_ERR(folio);
			if (IS_ERR_OR_NULL(folio))
				continue;
			if (!folio_test_uptodate(folio) && !RULE_BROKEN(2)) {
				folio_unlock(folio);
				continue;
			}
			if (!folio_test_dirty(folio) && !RULE_BROKEN(30))
				folio_mark_dirty(folio);
			if (folio_test_large(folio)) {
				end = folio_next_index(folio);
				*any_large = true;
			}
		}
		batch->pages[i] = folio_page(folio, index - folio->index);
		found++;
	}
	xas_unlock_irq(&xas);
	return ret ?: found;
}

/**
 * struct protection - the protecting of a range
 * @batch: the pages whose folios are locked
 * @vma: mapping whose entries are being changed
 * @nr_mms: address spaces in @mms
 * @mms: those with entries that were changed, and are still in some TLB
 */
struct protection {
	const struct migr_batch *batch;
	struct vm_area_struct *vma;
	unsigned int nr_mms;
	struct mm_struct *mms[PROTECT_MMS];
};

/*
 * Under the lock of the page table. Others than the locked folios are left alone:
 * reclaim could take one whose entry is clean for one that no TLB can write to,
 * and write it out, before we have flushed.
 */
static int protect_entry(pte_t *pte, unsigned long addr, void *data)
{
	struct protection *p = data;
	struct mm_struct *mm = p->vma->vm_mm;
	pte_t entry = ptep_get(pte);
	pgoff_t i;

	i = linear_page_index(p->vma, addr) - p->batch->first;
	if (!test_bit(i, p->batch->dirty) || !p->batch->pages[i])
		return 0;
	if (!pte_present(entry) || (!pte_write(entry) && !pte_dirty(entry)))
		return 0;
	if (!p->nr_mms || p->mms[p->nr_mms - 1] != mm) {
		if (p->nr_mms == PROTECT_MMS)
			return -EAGAIN;
		inc_tlb_flush_pending(mm);
		mmgrab(mm);
		p->mms[p->nr_mms++] = mm;
	}
	entry = ptep_modify_prot_start(p->vma, addr, pte);
	ptep_modify_prot_commit(p->vma, addr, pte, entry,
				pte_mkclean(pte_wrprotect(entry)));
	return 0;
}

static int protect_mappings(struct address_space *mapping, pgoff_t first,
			    pgoff_t end, struct protection *p)
{
	struct vm_area_struct *vma;
	pgoff_t from, to;
	int ret = 0;

	i_mmap_lock_read(mapping);
	for (vma = mappings_iter_first(&mapping->i_mmap, first, end - 1);
	     vma && !ret; vma = mappings_iter_next(vma, first, end - 1)) {
		p->vma = vma;
		from = max(first, vma->vm_pgoff);
		to = min(end, vma->vm_pgoff + vma_pages(vma));
		ret = apply_to_existing_page_range(vma->vm_mm, vma->vm_start +
			((from - vma->vm_pgoff) << PAGE_SHIFT),
			(to - from) << PAGE_SHIFT, protect_entry, p);
	}
	i_mmap_unlock_read(mapping);
	return ret;
}

/*
 * Rules 2d and 3: make the page table entries of a range read-only and clean.
 * At least one folio in the range is locked, so nothing in its chunk is or
 * becomes huge.
 *
 * The kernel exports no TLB flush. wp_shared_mapping_range() finds nothing left
 * to protect, but it has KVM drop its own mappings, and flushes the TLB of all
 * of the range where others have flushes pending: so have we.
 */
static void protect_range(struct migr_tracker *tracker,
			  const struct migr_batch *batch, unsigned int from,
			  unsigned int to)
{
	struct address_space *mapping = tracker->region->mapping;
	struct protection p = { .batch = batch };
	pgoff_t first = batch->first + from;
	unsigned int nr = to - from;
	int ret = 0;

	do {
		p.nr_mms = 0;
		if (!RULE_BROKEN(3))
			ret = protect_mappings(mapping, first, first + nr, &p);
		wp_shared_mapping_range(mapping, first, nr);
		while (p.nr_mms) {
			dec_tlb_flush_pending(p.mms[--p.nr_mms]);
			mmdrop(p.mms[p.nr_mms]);
		}
	} while (ret == -EAGAIN);
	/* It may have ended too early, see region_mmap(): flush the others. */
	if (ret || READ_ONCE(tracker->region->read_only_mapped))
		unmap_mapping_pages(mapping, first, nr, false);
}

/* The same for pages that are few: a walk and a flush for each folio. */
static void protect_singly(const struct migr_batch *batch, unsigned int from,
			   unsigned int to)
{
	struct folio *folio;

	while ((folio = batch_next(batch, &from)) && folio->index <
	       batch->first + to)
		folio_mkclean(folio);
}

/*
 * Rule 7: nothing else protects huge entries. Unmapped, the chunk comes back by
 * small ones.
 */
static void unmap_huge(struct address_space *mapping,
		       const struct migr_batch *batch)
{
	unsigned int pos = 0;
	struct folio *folio;

	while ((folio = batch_next(batch, &pos)))
		if (folio_test_large(folio) && migr_folio_mapped_huge(folio))
			unmap_mapping_pages(mapping, folio->index,
					    folio_nr_pages(folio), false);
}

static void protect(struct migr_tracker *tracker, struct migr_batch *batch)
{
	/* folio_mkclean() obeys these rules whatever we do. */
	bool broken = RULE_BROKEN(2) || RULE_BROKEN(3);
	unsigned int nr, next, from, to;

	if (RULE_BROKEN(20))
		return;
	from = find_first_bit(batch->dirty, MIGR_CHUNK_PAGES);
	while (from < MIGR_CHUNK_PAGES) {
		next = from;
		nr = 0;
		do {
			to = find_next_zero_bit(batch->dirty, MIGR_CHUNK_PAGES,
						next);
			nr += to - next;
			next = find_next_bit(batch->dirty, MIGR_CHUNK_PAGES,
					     to);
		} while (next < MIGR_CHUNK_PAGES && next - to <= PROTECT_GAP);
		if (broken || (nr > PROTECT_SINGLY &&
			       !READ_ONCE(tracker->region->read_only_mapped)))
			protect_range(tracker, batch, from, to);
		else
			protect_singly(batch, from, to);
		from = next;
	}
}

/*
 * Rule 4: who holds a reference that is not a mapping's or the page cache's
 * may be about to write through it. Pins are told from references since
 * they are many at once; a direct read into guest memory takes either.
 */
static bool folio_is_busy(struct folio *folio)
{
	int mapcount = migr_folio_mapcount(folio);
	int refs;

	if (folio_maybe_dma_pinned(folio))
		return true;
	/* An unmapping in between must not hide somebody's reference. */
	smp_rmb();
	refs = folio_ref_count(folio);
	smp_rmb();	/* as above */
	if (migr_folio_mapcount(folio) != mapcount)
		return true;
	return refs > mapcount + folio_nr_pages(folio);
}

/*
 * Unlock the folios of a batch: after a collect, look for other holders first,
 * and take the references of who is going to read the pages.
 */
static void unlock_folios(struct migr_tracker *tracker, bool collected,
			  bool quiesced, bool keep, struct migr_batch *batch)
{
	unsigned int pos = 0, first, i;
	struct folio *folio;
	bool busy;

	/* A fault in flight has a reference: rule 4 would make up. */
	if (RULE_BROKEN(1) || RULE_BROKEN(2) || RULE_BROKEN(4))
		quiesced = true;
	while ((folio = batch_next(batch, &pos))) {
		busy = collected && folio_is_busy(folio);
		first = max(folio->index, batch->first) - batch->first;
		for (i = first; i < pos && (busy || keep); i++) {
			if (!test_bit(i, batch->dirty))
				continue;
			batch->nr_pinned += busy;
			if (busy && !quiesced)
				mark_page(tracker, batch->first + i);
			if (keep)
				folio_get(folio);
		}
		if (RULE_BROKEN(2))
			folio_put(folio);
		else
			folio_unlock(folio);
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

/* migr_tracker_collect(), but the batch's pages are only good if @keep. */
static int collect(struct migr_tracker *tracker, pgoff_t first,
		   unsigned int nr, bool quiesced, bool keep,
		   const unsigned long *leave, struct migr_batch *batch)
{
	bool any_large, collected;
	int ret;

	fetch_bits(tracker, first, nr, leave, batch);
	if (!batch->nr_dirty)
		return 0;
	ret = lock_folios(tracker, batch, &any_large);
	collected = ret > 0 && !tracker->reported;
	if (collected) {
		if (any_large)
			unmap_huge(tracker->region->mapping, batch);
		protect(tracker, batch);
	}
	unlock_folios(tracker, collected, quiesced, keep && ret > 0, batch);
	if (ret < 0)
		unfetch_bits(tracker, batch);
	trace_migr_collect(tracker->region, batch->first, batch->nr_dirty,
			   batch->nr_pinned);
	return min(ret, 0);
}

/**
 * migr_tracker_collect() - fetch, clear and protect some pages
 * @tracker: the tracker
 * @first: first page, a multiple of BITS_PER_LONG
 * @nr: how many, not across a chunk's end; a multiple of BITS_PER_LONG or up to
 *	the region's end
 * @quiesced: nothing writes any more, DMA included: what looks pinned counts
 *	as clean
 * @leave: pages of the chunk to be left as they are, a bit each; or NULL
 * @batch: out
 *
 * Once it returns, the pages of the batch may be read. A chunk must not be
 * collected by two at once: protect_range() flushes late, and
 * folio_mkclean() does not flush what is protected already. Different chunks
 * may. Takes folio locks.
 *
 * Return: 0, with a batch to be put by migr_batch_put(), or -EINTR after a
 * fatal signal, with the bits set again and nothing to be put.
 */
int migr_tracker_collect(struct migr_tracker *tracker, pgoff_t first,
			 unsigned int nr, bool quiesced,
			 const unsigned long *leave, struct migr_batch *batch)
{
	memset(batch->pages, 0, sizeof(batch->pages));
	return collect(tracker, first, nr, quiesced, true, leave, batch);
}

/**
 * migr_tracker_start() - track the writes to a region
 * @region_file: a file of the region
 * @reported: they will be reported: leave the mappings alone
 * @limiter: charged for what its writers make dirty
 *
 * Return: a tracker in which every page is dirty, or an error pointer: -EBUSY
 * if the region is tracked already, -ENOMEM, -EINTR.
 */
struct migr_tracker *migr_tracker_start(struct file *region_file,
					bool reported,
					struct migr_limiter *limiter)
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
	tracker->limiter = limiter;
	tracker->nr_chunks = DIV_ROUND_UP(region->nr_pages, MIGR_CHUNK_PAGES);
	tracker->dirty =
		migr_may_fail(kvcalloc(BITS_TO_LONGS(region->nr_pages),
				       sizeof(long), GFP_KERNEL_ACCOUNT), NULL);
	tracker->chunks =
		migr_may_fail(kvcalloc(BITS_TO_LONGS(tracker->nr_chunks),
				       sizeof(long), GFP_KERNEL_ACCOUNT), NULL);
	if (!tracker->dirty || !tracker->chunks ||
	    migr_may_fail(percpu_counter_init(&tracker->nr_dirtied, 0,
					      GFP_KERNEL_ACCOUNT), -ENOMEM))
		goto err_free;
	/* More pages than bitmap_set() can count. */
	memset(tracker->dirty, 0xff,
	       BITS_TO_LONGS(region->nr_pages) * sizeof(long));
	tracker->dirty[BIT_WORD(region->nr_pages - 1)] &=
		BITMAP_LAST_WORD_MASK(region->nr_pages);
	bitmap_set(tracker->chunks, 0, tracker->nr_chunks);

	ret = migr_region_track(region, tracker);
	if (ret)
		goto err_free;
	tracker->file = get_file(region_file);
	kref_get(&limiter->ref);
	return tracker;

err_free:
	percpu_counter_destroy(&tracker->nr_dirtied);
	mutex_destroy(&tracker->fetching);
	kvfree(tracker->chunks);
	kvfree(tracker->dirty);
	kfree(tracker);
	return ERR_PTR(ret);
}

/**
 * migr_tracker_stop() - stop tracking and free the tracker
 * @tracker: the tracker; nobody is collecting from it
 *
 * Ends the sleeps of its limiter's writers.
 */
void migr_tracker_stop(struct migr_tracker *tracker)
{
	migr_limiter_set(tracker->limiter, 0);
	migr_region_untrack(tracker->region);
	migr_limiter_put(tracker->limiter);
	fput(tracker->file);
	percpu_counter_destroy(&tracker->nr_dirtied);
	mutex_destroy(&tracker->fetching);
	kvfree(tracker->chunks);
	kvfree(tracker->dirty);
	kfree(tracker);
}

/*
 * Collect one chunk, or skip what is clean, from @first, which is in the range
 * that ends at @end. Returns how many pages that were.
 */
static long fetch_some(struct migr_tracker *tracker, pgoff_t first,
		       pgoff_t end, struct migr_tracker_fetch *fetch,
		       struct migr_batch *batch)
{
	u64 __user *bitmap = u64_to_user_ptr(fetch->bitmap);
	unsigned long dirty_chunk, chunk = chunk_of(first);
	unsigned int nr;
	int ret;

	bitmap += (first - fetch->first_page) / 64;
	dirty_chunk = find_next_bit(tracker->chunks,
				    min(chunk_of(end - 1) + 1,
					chunk + CLEAN_CHUNKS), chunk);
	if (dirty_chunk > chunk) {
		end = min(end, (pgoff_t)dirty_chunk * MIGR_CHUNK_PAGES);
		nr = end - first;
		if (clear_user(bitmap, DIV_ROUND_UP(nr, 64) * sizeof(u64)))
			return -EFAULT;
		return nr;
	}

	nr = min(end - first, MIGR_CHUNK_PAGES - first % MIGR_CHUNK_PAGES);
	ret = collect(tracker, first, nr, false, false, NULL, batch);
	if (ret)
		return ret;
	/* x86 and arm64 alike: an unsigned long is a __u64 of the bitmap. */
	BUILD_BUG_ON(BITS_PER_LONG != 64);
	if (copy_to_user(bitmap,
			 batch->dirty + BIT_WORD(first - batch->first),
			 DIV_ROUND_UP(nr, 64) * sizeof(u64))) {
		unfetch_bits(tracker, batch);
		return -EFAULT;
	}
	fetch->dirty_pages += batch->nr_dirty;
	fetch->pinned_pages += batch->nr_pinned;
	return nr;
}

static int tracker_ioctl_fetch(struct migr_ucmd *ucmd)
{
	struct migr_tracker *tracker = ucmd->file->private_data;
	struct migr_tracker_fetch *fetch = ucmd->cmd;
	struct migr_batch *batch;
	pgoff_t page, end;
	long ret;

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
	for (page = fetch->first_page; page < end; page += ret) {
		ret = fetch_some(tracker, page, end, fetch, batch);
		if (ret >= 0 && fatal_signal_pending(current)) {
			page += ret;
			ret = -EINTR;
		}
		if (ret < 0)
			break;
		cond_resched();
	}
	kvfree(batch);
	mutex_unlock(&tracker->fetching);
	if (ret >= 0)
		ret = migr_ucmd_respond(ucmd);
	/* The user cannot tell what had been fetched: let it all be again. */
	if (ret)
		migr_tracker_set(tracker, fetch->first_page,
				 page - fetch->first_page);
	return ret;
}

static int tracker_ioctl_limit(struct migr_ucmd *ucmd)
{
	struct migr_tracker *tracker = ucmd->file->private_data;
	int ret;

	ret = migr_limiter_ioctl(tracker->limiter, ucmd->cmd);
	return ret ?: migr_ucmd_respond(ucmd);
}

static const struct migr_ioctl_op tracker_ioctl_ops[] = {
	MIGR_IOCTL_OP(MIGR_TRACKER_FETCH, tracker_ioctl_fetch,
		      struct migr_tracker_fetch, pinned_pages),
	MIGR_IOCTL_OP(MIGR_TRACKER_LIMIT, tracker_ioctl_limit,
		      struct migr_limit, sleeps),
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
	struct migr_limiter *limiter;
	struct migr_tracker *tracker;
	struct file *file;

	limiter = migr_limiter_create();
	if (!limiter)
		return ERR_PTR(-ENOMEM);
	tracker = migr_tracker_start(region_file, false, limiter);
	migr_limiter_put(limiter);
	if (IS_ERR(tracker))
		return ERR_CAST(tracker);
	file = migr_may_fail(anon_inode_getfile("[migr-tracker]", &tracker_fops,
						tracker, O_RDWR),
			     ERR_PTR(-ENFILE));
	if (IS_ERR(file))
		migr_tracker_stop(tracker);
	return file;
}
