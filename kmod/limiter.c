// SPDX-License-Identifier: GPL-2.0-only
/*
 * The limit to how fast pages become dirty, and the sleep of who is above it.
 *
 * A fault that makes a page dirty is charged here, and done. It cannot sleep
 * where it is: do_page_mkwrite() hides from us whether the mmap lock may be
 * dropped, and a fault taken inside the kernel may be under locks nobody knows
 * of. So the thread sleeps on its way out, as one above memory.high does: in a
 * task work, run before it returns to user mode or enters a guest, where it
 * holds nothing.
 *
 * The limit is a line in time: each page moves due_ns by 1 / rate, and the
 * thread that wrote it sleeps until the due_ns that it was given. Who came
 * first goes on first, so all threads that write get the same share.
 */
#include <linux/hash.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/task_work.h>
#include <linux/timekeeping.h>
#include <linux/wait.h>
#include <linux/migr.h>

#include "compat.h"
#include "inject.h"
#include "limiter.h"
#include "trace.h"

/* No more than this is saved up by writing less, or by having overslept. */
#define SAVED_NS_MAX	(50 * NSEC_PER_MSEC)
/* No sleep is longer. */
#define SLEEP_NS_MAX	NSEC_PER_SEC
/* Not worth a sleep. */
#define SLEEP_NS_MIN	NSEC_PER_MSEC
/*
 * After a sleep so many faults are for free, so to speak: they are charged, and
 * the next sleep is the longer. One instruction can write to several pages (its
 * own, and the page tables of a guest), which may all have been collected while
 * it slept. Had it to sleep for each of them, it might never get them together.
 */
#define FAULTS_MIN	8

/**
 * struct writer - a thread that has written under a limit
 * @node: in &migr_limiter.writers
 * @pid: the thread; with a reference
 * @limiter: the limiter
 * @work: has the thread sleep; queued if @queued
 * @queued: it will sleep, or does; then there is a reference to @limiter and to
 *	the module
 * @faults: since its last sleep
 * @until_ns: to sleep until then
 * @change: unless this is not &migr_limiter.change any more
 *
 * Changed by the thread itself, or after its death, under &migr_limiter.lock.
 */
struct writer {
	struct hlist_node node;
	struct pid *pid;
	struct migr_limiter *limiter;
	struct callback_head work;
	bool queued;
	unsigned int faults;
	u64 until_ns;
	unsigned int change;
};

static void writer_free(struct writer *writer)
{
	hash_del(&writer->node);
	put_pid(writer->pid);
	kfree(writer);
}

static bool writer_is_dead(const struct writer *writer)
{
	bool dead;

	rcu_read_lock();
	dead = !pid_task(writer->pid, PIDTYPE_PID);
	rcu_read_unlock();
	return dead && !writer->queued;
}

static void limiter_free(struct kref *ref)
{
	struct migr_limiter *limiter =
		container_of(ref, struct migr_limiter, ref);
	struct hlist_node *next;
	struct writer *writer;
	int bucket;

	hash_for_each_safe(limiter->writers, bucket, next, writer, node)
		writer_free(writer);
	kfree(limiter);
}

/**
 * migr_limiter_create() - make a limiter that does not limit yet
 *
 * Return: the limiter, or NULL.
 */
struct migr_limiter *migr_limiter_create(void)
{
	struct migr_limiter *limiter;

	limiter = migr_may_fail(kzalloc(sizeof(*limiter), GFP_KERNEL_ACCOUNT),
				NULL);
	if (!limiter)
		return NULL;
	kref_init(&limiter->ref);
	init_waitqueue_head(&limiter->sleepers);
	spin_lock_init(&limiter->lock);
	hash_init(limiter->writers);
	return limiter;
}

/**
 * migr_limiter_put() - drop a reference
 * @limiter: the limiter
 */
void migr_limiter_put(struct migr_limiter *limiter)
{
	kref_put(&limiter->ref, limiter_free);
}

/**
 * migr_limiter_set() - change the limit
 * @limiter: the limiter
 * @rate: pages a second, or 0 for no limit
 *
 * Ends all sleeps, and forgets what has been written so far.
 */
void migr_limiter_set(struct migr_limiter *limiter, u64 rate)
{
	spin_lock(&limiter->lock);
	WRITE_ONCE(limiter->rate, rate);
	limiter->due_ns = ktime_get_ns();
	WRITE_ONCE(limiter->change, limiter->change + 1);
	spin_unlock(&limiter->lock);
	wake_up_all(&limiter->sleepers);
	trace_migr_limit(rate);
}

/**
 * migr_limiter_read() - the limit and what it has done so far
 * @limiter: the limiter
 * @limit: takes the answer
 */
void migr_limiter_read(struct migr_limiter *limiter, struct migr_limit *limit)
{
	spin_lock(&limiter->lock);
	limit->pages_per_second = limiter->rate;
	limit->slept_ns = limiter->slept_ns;
	limit->sleeps = limiter->sleeps;
	spin_unlock(&limiter->lock);
}

/**
 * migr_limiter_ioctl() - MIGR_TRACKER_LIMIT and MIGR_MIGRATION_LIMIT
 * @limiter: the limiter
 * @limit: the argument
 *
 * Return: 0 or -EOPNOTSUPP.
 */
int migr_limiter_ioctl(struct migr_limiter *limiter, struct migr_limit *limit)
{
	if (limit->flags & ~MIGR_LIMIT_SET)
		return -EOPNOTSUPP;
	if (limit->flags & MIGR_LIMIT_SET)
		migr_limiter_set(limiter, limit->pages_per_second);
	migr_limiter_read(limiter, limit);
	return 0;
}

static void writer_sleep(struct writer *writer)
{
	struct migr_limiter *limiter = writer->limiter;
	u64 now = ktime_get_ns();

	if (current->flags & PF_EXITING || now >= writer->until_ns)
		return;
	wait_event_interruptible_hrtimeout(limiter->sleepers,
					   READ_ONCE(limiter->change) != writer->change,
					   ns_to_ktime(writer->until_ns - now));
	now = ktime_get_ns() - now;
	trace_migr_slept(now);
	spin_lock(&limiter->lock);
	limiter->slept_ns += now;
	limiter->sleeps++;
	spin_unlock(&limiter->lock);
}

/* No locks are held, and there may be nothing left of what was written to. */
static void writer_work(struct callback_head *work)
{
	struct writer *writer = container_of(work, struct writer, work);
	struct migr_limiter *limiter = writer->limiter;

	writer_sleep(writer);
	spin_lock(&limiter->lock);
	writer->faults = 0;
	writer->queued = false;
	spin_unlock(&limiter->lock);
	migr_limiter_put(limiter);
	/* migr_limiter_exit() waits for what is left of this function. */
	module_put(THIS_MODULE);
}

/* The current thread as a writer; NULL if there is no memory. */
static struct writer *writer_find(struct migr_limiter *limiter)
{
	struct pid *pid = task_pid(current);
	struct hlist_node *next;
	struct writer *writer;

	lockdep_assert_held(&limiter->lock);
	hash_for_each_possible_safe(limiter->writers, writer, next, node,
				    (unsigned long)pid) {
		if (writer->pid == pid)
			return writer;
		if (writer_is_dead(writer))
			writer_free(writer);
	}
	writer = migr_may_fail(kzalloc(sizeof(*writer), GFP_NOWAIT |
				       __GFP_NOWARN | __GFP_ACCOUNT), NULL);
	if (!writer)
		return NULL;
	writer->pid = get_pid(pid);
	writer->limiter = limiter;
	init_task_work(&writer->work, writer_work);
	hash_add(limiter->writers, &writer->node, (unsigned long)pid);
	return writer;
}

static void writer_queue(struct writer *writer)
{
	if (task_work_add(current, &writer->work, TWA_RESUME))
		return;
	writer->queued = true;
	kref_get(&writer->limiter->ref);
	/* A mapping of a region is being written to: it has one already. */
	__module_get(THIS_MODULE);
}

void migr_limiter_charge_slow(struct migr_limiter *limiter, unsigned long nr)
{
	u64 now = ktime_get_ns();
	struct writer *writer;

	spin_lock(&limiter->lock);
	if (!limiter->rate)
		goto out;
	limiter->due_ns = max(limiter->due_ns, now - SAVED_NS_MAX) +
			  div64_u64(nr * NSEC_PER_SEC, limiter->rate);
	limiter->due_ns = min(limiter->due_ns, now + SLEEP_NS_MAX);
	/* These never get to where the others sleep. */
	if (current->flags & MIGR_PF_WORKER)
		goto out;
	writer = writer_find(limiter);
	if (!writer)
		goto out;
	writer->faults++;
	writer->until_ns = limiter->due_ns;
	writer->change = limiter->change;
	if (!writer->queued && writer->faults >= FAULTS_MIN &&
	    limiter->due_ns > now + SLEEP_NS_MIN)
		writer_queue(writer);
out:
	spin_unlock(&limiter->lock);
}

/**
 * migr_limiter_exit() - wait until no thread is in the code of this file
 *
 * Called when the module's last reference is gone.
 */
void migr_limiter_exit(void)
{
	synchronize_rcu_tasks();
}
