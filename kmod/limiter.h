/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_LIMITER_H
#define _MIGR_LIMITER_H

#include <linux/compiler.h>
#include <linux/hashtable.h>
#include <linux/kref.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>

struct migr_limit;

/**
 * struct migr_limiter - how fast pages may become dirty
 * @ref: held by who sets the limit, by trackers, and by writers about to sleep
 * @sleepers: writers that sleep
 * @lock: protects all below; innermost
 * @rate: pages a second, 0: no limit; also read without @lock
 * @due_ns: when all pages that became dirty would have, at @rate
 * @change: changed with @rate, and ends all sleeps
 * @slept_ns: how long writers have slept
 * @sleeps: how often
 * @writers: threads that have written under a limit
 */
struct migr_limiter {
	struct kref ref;
	wait_queue_head_t sleepers;
	spinlock_t lock;	/* of all that follows */
	u64 rate;
	u64 due_ns;
	unsigned int change;
	u64 slept_ns;
	u64 sleeps;
	DECLARE_HASHTABLE(writers, 6);
};

struct migr_limiter *migr_limiter_create(void);
void migr_limiter_put(struct migr_limiter *limiter);
void migr_limiter_set(struct migr_limiter *limiter, u64 rate);
void migr_limiter_read(struct migr_limiter *limiter, struct migr_limit *limit);
int migr_limiter_ioctl(struct migr_limiter *limiter, struct migr_limit *limit);
void migr_limiter_charge_slow(struct migr_limiter *limiter, unsigned long nr);
void migr_limiter_exit(void);

/**
 * migr_limiter_charge() - the current thread has made pages dirty
 * @limiter: the limiter
 * @nr: how many
 *
 * Does not sleep: has the thread do so before it returns to user mode or enters
 * a guest, if there is a limit and it is over it.
 */
static inline void migr_limiter_charge(struct migr_limiter *limiter,
				       unsigned long nr)
{
	if (READ_ONCE(limiter->rate) && nr)
		migr_limiter_charge_slow(limiter, nr);
}

#endif /* _MIGR_LIMITER_H */
