/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Can a write be lost? One page of a tracked region; what writes to it, moves
 * it and changes its page table entry; and the collect of kmod/dirty.c.
 *
 * There are no counters: every process goes round as often as it likes and ends
 * when it likes, so the states are finite, and what is verified holds for any
 * number of writes, passes and migrations. Nor is there data: all that matters
 * is whether the copy last read is what memory holds.
 *
 * A step is what others see happen at once. Taking a lock is one with the step
 * that follows, and giving it up with the one before.
 *
 * -D says which processes there are besides the collect: WRITERS=n (1 or 2),
 * DMA, MM, MIGRATION, RECLAIM, PUNCH; and which rule is broken, if any: the
 * names are in selftests/models.sh. Documentation/dirty-tracking.rst has the
 * rules, and what is left out here.
 */

/* A page table entry: flags, and above them the folio. */
#define PRESENT		1
#define WRITE		2
#define DIRTY		4
#define MIGRATING	8	/* instead of PRESENT; the other two are remembered */
#define FOLIO_SHIFT	4
#define ENTRY(folio, flags)	((folio) << FOLIO_SHIFT | (flags))
#define FOLIO_OF(entry)		((entry) >> FOLIO_SHIFT)
#define HAS(entry, flags)	(((entry) & (flags)) == (flags))
#define WRITABLE(entry)		HAS(entry, PRESENT | WRITE)
#define MAPPED(folio)		((pte & PRESENT) && FOLIO_OF(pte) == (folio))

/* What the page cache has: folio 1 or 2, or one of these. */
#define HOLE		0
#define SWAP		3
#define IS_FOLIO(entry)	((entry) != HOLE && (entry) != SWAP)

/* What fault and collect lock. */
#ifdef OWN_LOCK
#define LOCK_OF(folio)	0
#else
#define LOCK_OF(folio)	(folio)
#endif

/* Only reclaim cares what is clean. Without it nothing is: fewer states. */
#ifdef RECLAIM
#define CLEAN		0
#else
#define CLEAN		1
#endif

/* Above the folio in tlb[]: of a guest. Reclaim alone tells them apart. */
#ifdef RECLAIM
#define GUEST		4
#else
#define GUEST		0
#endif
#define TLB_FOLIO(t)	((t) & 3)

bit stale = 1;		/* the copy is not what memory holds */
bit dirty = 1;		/* the page's bit of the tracker */
bit chunk = 1;		/* its chunk's */

bit data = CLEAN;	/* the page holds data: it must not be dropped */
byte cache = 1;		/* the page cache: what is in there is memory */
byte pte = ENTRY(1, PRESENT | WRITE);	/* from when the region was idle */
byte tlb[WRITERS];	/* the folio that a CPU can write to without the entry, GUEST */
bit flushing;		/* mprotect() has yet to flush the TLBs */

/* By folio. */
bit locked[3];
byte pinned[3];		/* references for DMA */
bit folio_dirty[3] = CLEAN;

/* References to one folio each, or to none. */
byte batch;		/* the collect's */
byte isolated;		/* reclaim's */
byte zapped;		/* of a mapping that is gone */

byte running;		/* how many may still write */

/* To begin an atomic step with. */
#define LOCK(l)	!locked[l] -> locked[l] = 1

inline unlock(l)
{
	assert(locked[l]);
	locked[l] = 0
}

/* At once: of a CPU that is interrupted first the entry may as well be evicted. */
inline flush()
{
	d_step {
		tlb[0] = 0;
		tlb[WRITERS - 1] = 0
	}
}

inline flush_guest(cpu)
{
	tlb[cpu] = (tlb[cpu] & GUEST -> 0 : tlb[cpu])
}

inline pte_dirty_to_folio(folio)
{
	folio_dirty[folio] = folio_dirty[folio] || (pte & DIRTY)
}

inline store()
{
	stale = 1;
	data = 1
}

/* shmem: make a page where there is a hole, or bring it in from swap. */
#define UNUSED(f)	(!locked[f] && !pinned[f] && batch != f && \
			 isolated != f && zapped != f)
#define FILL(f)		!IS_FOLIO(cache) && UNUSED(f) -> \
			folio_dirty[f] = (cache == SWAP || CLEAN); cache = f

inline fill(folio)
{
	if
	:: IS_FOLIO(cache)
	:: FILL(1)
	:: FILL(2)
	fi;
	folio = cache
}

inline mark_chunk()
{
	if
	:: chunk
	:: !chunk -> chunk = 1
	fi
}

inline mark_page()
{
#ifdef SUMMARY_SET_FIRST
	mark_chunk();
	dirty = 1
#else
	dirty = 1;
	mark_chunk()
#endif
}

/*
 * A write fault: up to migr_tracker_fault(), that, and what the kernel does
 * when it returns. While the page migrates it waits. In truth it holds a
 * reference, by which rule 4 makes up for most of what breaking rule 1 or 2
 * loses; the proof must not lean on that.
 */
inline fault(condition)
{
	atomic {
		condition && !WRITABLE(pte) && !(pte & MIGRATING) ->
		old = pte;
		if
		:: pte & PRESENT -> folio = FOLIO_OF(pte)
		:: else -> fill(folio)
		fi
	}
#ifdef SET_UNLOCKED
	mark_page();
#endif
	if
	:: atomic { !locked[LOCK_OF(folio)] && cache != folio -> folio = 0; old = 0 }
	:: atomic { cache == folio && LOCK(LOCK_OF(folio)) }
#ifndef SET_UNLOCKED
		mark_page();
#endif
#ifdef UNLOCK_EARLY
		unlock(LOCK_OF(folio));
#endif
		atomic {
			if
			:: pte == old ->
				pte = ENTRY(folio, PRESENT | WRITE | DIRTY);
				folio_dirty[folio] = 1
			:: else
			fi;
#ifndef UNLOCK_EARLY
			unlock(LOCK_OF(folio));
#endif
			folio = 0;
			old = 0
		}
	fi
}

/* A thread or a vCPU. */
proctype writer(byte cpu)
{
	byte old, folio;

	do
	:: atomic { tlb[cpu] ->
		assert(TLB_FOLIO(tlb[cpu]) == cache);	/* or it is lost at once */
		store()
	   }
	:: tlb[cpu] -> tlb[cpu] = 0	/* evicted */
	:: atomic { !tlb[cpu] && WRITABLE(pte) ->
		pte = pte | DIRTY;
		tlb[cpu] = FOLIO_OF(pte)
	   }
	/* KVM tells the folio, not the entry. */
	:: atomic { !tlb[cpu] && WRITABLE(pte) ->
		folio_dirty[FOLIO_OF(pte)] = 1;
		tlb[cpu] = FOLIO_OF(pte) | GUEST
	   }
	:: fault(!tlb[cpu])
	:: atomic { !tlb[cpu] -> running--; break }
	od
}

#ifdef DMA
/* A direct read from a disk: takes the page, then writes without a fault. */
proctype dma()
{
	byte old, folio;

	do
	:: fault(true)
	/* get_user_pages_fast() */
	:: atomic { WRITABLE(pte) ->
		old = pte;
		folio = FOLIO_OF(pte);
		pinned[folio]++
	   }
		if
		:: pte == old -> old = 0;
			do
			:: atomic { folio == cache -> folio_dirty[folio] = 1; store() }
			:: break
			od
		:: pte != old
		fi;
		atomic { pinned[folio]--; folio = 0; old = 0 }
	:: atomic { running--; break }
	od
}
#endif

#ifdef PUNCH
/* fallocate(), or madvise(MADV_REMOVE): a VMM's balloon */
proctype punch()
{
	do
	:: cache != HOLE ->
#ifdef PUNCH_SETS_FIRST
		mark_page();
#endif
		/* Unmapped, flushed and removed under the folio's lock. */
		if
		:: atomic { !IS_FOLIO(cache) || !locked[cache] ->
			pte = 0;
			tlb[0] = 0;
			tlb[WRITERS - 1] = 0;
			cache = HOLE;
			stale = 1;
			data = CLEAN
		   }
		fi;
#if !defined(PUNCH_SETS_FIRST) && !defined(PUNCH_SILENT)
		mark_page()
#endif
	:: atomic { running--; break }
	od
}
#endif

#ifdef MM
/* What happens to the entry that we are not asked about. */
proctype mm()
{
	do
	/* mprotect() to read-only */
	:: atomic { pte & WRITE -> pte = pte & ~WRITE; flushing = 1 }
		atomic { flush(); flushing = 0 }
	/* mprotect() to writable, or a NUMA hinting fault */
	:: atomic { HAS(pte, PRESENT | DIRTY) && !WRITABLE(pte) -> pte = pte | WRITE }
	/* madvise(MADV_DONTNEED): flushes under the page table lock */
	:: atomic { pte & PRESENT ->
		zapped = FOLIO_OF(pte);
		pte_dirty_to_folio(zapped);
		pte = 0;
		flush()
	   }
		zapped = 0
	:: break
	od
}
#endif

#ifdef MIGRATION
/* Compaction, NUMA balancing, move_pages(): from one folio to the other. */
proctype migration()
{
	byte from, to;

	do
	:: atomic { IS_FOLIO(cache) && LOCK(cache);
		from = cache;
		if
		:: MAPPED(from) ->
			pte_dirty_to_folio(from);
			pte = pte ^ (PRESENT | MIGRATING)
		:: else
		fi
	   }
		flush();
		atomic {
			to = 3 - from;
			if
			:: UNUSED(to) && !pinned[from] && batch != from &&
			   isolated != from && zapped != from ->
				locked[to] = 1;
				folio_dirty[to] = folio_dirty[from];
				cache = to
			/* Somebody holds it, or there is no memory. */
			:: to = from
			fi
		}
		atomic {
			if
			:: pte & MIGRATING ->
				pte = ENTRY(to, PRESENT | (pte & (WRITE | DIRTY)))
			:: else
			fi;
			unlock(from);
			locked[to] = 0;
			from = 0;
			to = 0
		}
	:: break
	od
}
#endif

#ifdef RECLAIM
/*
 * Unmaps, and flushes later: perhaps only after it has given the folio up. Before
 * it writes the page out it flushes if the entry was dirty: no CPU can write
 * through a clean one, and KVM has been told.
 */
proctype reclaim()
{
	bit clean;

	do
	:: atomic { IS_FOLIO(cache) -> isolated = cache }
		if
		:: atomic { !locked[isolated] && cache != isolated -> isolated = 0 }
		:: atomic { cache == isolated && LOCK(isolated);
			if
			:: MAPPED(isolated) ->
				clean = !(pte & DIRTY);
				pte_dirty_to_folio(isolated);
				pte = 0;
				flush_guest(0);
				flush_guest(WRITERS - 1)
			:: else
			fi
		   }
			if
			:: unlock(isolated)	/* may not write now, say */
			:: if
			   :: clean
			   :: !clean -> flush()
			   fi;
				atomic {
					if
					:: pinned[isolated] || batch == isolated ||
					   zapped == isolated
					:: else ->
						assert(folio_dirty[isolated] || !data);
						cache = (folio_dirty[isolated] -> SWAP : HOLE)
					fi;
					unlock(isolated)
				}
			fi;
			atomic { flush(); isolated = 0; clean = 0 }
		fi
	:: break
	od
}
#endif

/* Rule 2a: fetch_bits() */
inline fetch()
{
	if
	:: atomic { !chunk -> wanted = 0 }
#ifdef SUMMARY_CLEARED_LAST
	:: atomic { chunk -> wanted = dirty; dirty = 0 }
		chunk = 0
#else
	:: atomic { chunk -> chunk = 0 }
		atomic { wanted = dirty; dirty = 0 }
#endif
	fi
}

/* Rule 2b */
inline look_up()
{
	batch = (IS_FOLIO(cache) -> cache : 0)
}

/* Rule 2c, and of rule 3 that the entry's dirty bit may be all there is */
inline lock_folio()
{
	do
	:: !batch -> break
	:: atomic { batch && cache == batch && LOCK(LOCK_OF(batch)); break }
	:: atomic { batch && cache != batch && !locked[LOCK_OF(batch)] -> look_up() }
	od
#ifndef NOT_MARKED_DIRTY
	;
	folio_dirty[batch] = 1
#endif
}

/* Take some flags from an entry, and flush later. */
inline take_flags(flags)
{
	atomic { changed = (pte & PRESENT) && (pte & (flags)); pte = (changed -> pte & ~(flags) : pte) }
#ifndef NOT_FLUSHED
	atomic {
		if
		:: changed || flushing -> flush()
		:: else
		fi
	}
#endif
}

/* Rules 2d and 3: protect_range(), or protect_singly() */
inline protect()
{
#ifdef LEFT_DIRTY
	take_flags(WRITE)
#elif defined(IN_TWO_STEPS)
	take_flags(DIRTY);
	take_flags(WRITE)
#else
	if
	:: batch -> take_flags(WRITE | DIRTY)
	/*
	 * folio_mkclean() looks at mapped folios only. It tells KVM in any
	 * case, and no CPU can write through an entry that was clean.
	 */
	:: MAPPED(batch) ->
		pte = pte & ~(WRITE | DIRTY);
		flush()
	:: batch && !MAPPED(batch)
	/* The kernel's own walk of the range does not ask what is locked. */
	:: !batch ->
#ifdef CLEANED_UNLOCKED
		take_flags(WRITE | DIRTY)
#else
		take_flags(WRITE)
#endif
	:: !batch
	fi
#endif
}

/* Rule 4: folio_is_busy() and check_busy() */
inline check_busy()
{
	if
	:: batch && !last ->
		mapped = MAPPED(batch);
#ifdef PINS_ONLY
		busy = pinned[batch] > 0;
#else
		busy = MAPPED(batch) + pinned[batch] + (isolated == batch) +
		       (zapped == batch) > mapped;
#endif
#ifndef MAPCOUNT_ONCE
		busy = busy || MAPPED(batch) != mapped;
#endif
		if
		:: busy -> mark_page()
		:: else
		fi
	:: else
	fi
}

/* Through the reference, or what is there by now: sort_pages() */
inline read()
{
	atomic {
		if
		:: !batch && cache != HOLE -> fill(batch)
		:: else
		fi;
		/* Should a hole have been punched, the copy is not of memory. */
		stale = (batch != cache)
	}
}

proctype collect()
{
	bit last, wanted, changed, mapped, busy;

	do
	:: if
	   :: true
	   :: !running -> last = 1
	   fi;
#ifdef LOOKED_UP_FIRST
	   look_up();
#endif
#ifdef FETCHED_LATE
	   wanted = 1;
#else
	   fetch();
#endif
	   if
	   :: !wanted
	   :: wanted ->
#ifndef LOOKED_UP_FIRST
		look_up();
#endif
#ifndef COLLECT_UNLOCKED
		lock_folio();
#endif
#ifdef READ_FIRST
		read();
#endif
#ifdef CHECKED_FIRST
		check_busy();
#endif
		protect();
#if !defined(CHECKED_FIRST) && !defined(NOT_CHECKED)
		check_busy();
#endif
#ifndef COLLECT_UNLOCKED
		if
		:: batch -> unlock(LOCK_OF(batch))
		:: else
		fi;
#endif
#ifdef FETCHED_LATE
		fetch();
#endif
#ifndef READ_FIRST
		if
		:: wanted -> read()
		:: else		/* fetched late, and not dirty */
		fi
#endif
	   fi;
	   atomic { batch = 0; wanted = 0; changed = 0; mapped = 0; busy = 0 }
	   if
	   :: last -> break
	   :: !last
	   fi
	od;
	assert(!stale)
}

init {
	atomic {
		running = WRITERS;
		run writer(0);
#if WRITERS > 1
		run writer(1);
#endif
#ifdef DMA
		running++;
		run dma();
#endif
#ifdef PUNCH
		running++;
		run punch();
#endif
#ifdef MM
		run mm();
#endif
#ifdef MIGRATION
		run migration();
#endif
#ifdef RECLAIM
		run reclaim();
#endif
		run collect()
	}
}
