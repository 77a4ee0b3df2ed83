// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migrations: which regions take part, which pass it is, and what is left of
 * it to be claimed by streams.
 *
 * migration->setup is taken first, then whatever starting a tracker takes;
 * migration->lock is innermost and never held while sleeping.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>

#include "device.h"
#include "dirty.h"
#include "inject.h"
#include "limiter.h"
#include "migration.h"
#include "region.h"
#include "stream.h"
#include "trace.h"

static void migration_free(struct kref *ref)
{
	struct migr_migration *migration =
		container_of(ref, struct migr_migration, ref);
	unsigned int i;

	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];

		if (member->tracker)
			migr_tracker_stop(member->tracker);
		migr_hot_destroy(&member->hot);
		kvfree(member->chunks);
		fput(member->file);
	}
	if (migration->limiter)
		migr_limiter_put(migration->limiter);
	mutex_destroy(&migration->setup);
	kfree(migration);
}

/**
 * migr_migration_put() - drop a reference
 * @migration: the migration
 */
void migr_migration_put(struct migr_migration *migration)
{
	kref_put(&migration->ref, migration_free);
}

/**
 * migr_migration_member() - the member with a number
 * @migration: the migration
 * @id: the number, as on the wire
 *
 * Return: it, or NULL.
 */
struct migr_member *migr_migration_member(struct migr_migration *migration,
					  u32 id)
{
	unsigned int i;

	for (i = 0; i < migration->nr_members; i++)
		if (migration->members[i].id == id)
			return &migration->members[i];
	return NULL;
}

/**
 * migr_migration_claim() - take a chunk that the pass has left
 * @migration: a source
 * @chunk: out, index of the chunk
 *
 * Return: the region's member, or NULL if all have been claimed.
 */
struct migr_member *migr_migration_claim(struct migr_migration *migration,
					 unsigned long *chunk)
{
	unsigned int i;

	spin_lock(&migration->lock);
	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];

		member->cursor = find_next_bit(member->chunks,
					       member->nr_chunks,
					       member->cursor);
		if (member->cursor == member->nr_chunks)
			continue;
		*chunk = member->cursor++;
		__clear_bit(*chunk, member->chunks);
		spin_unlock(&migration->lock);
		return member;
	}
	spin_unlock(&migration->lock);
	return NULL;
}

/**
 * migr_migration_unclaim() - give a chunk back that was not sent
 * @migration: a source
 * @member: the region's member
 * @chunk: index of the chunk
 */
void migr_migration_unclaim(struct migr_migration *migration,
			    struct migr_member *member, unsigned long chunk)
{
	spin_lock(&migration->lock);
	__set_bit(chunk, member->chunks);
	member->cursor = min(member->cursor, chunk);
	spin_unlock(&migration->lock);
}

/**
 * migr_migration_leave() - ask to leave some hot pages to a later pass
 * @migration: a source
 * @nr: how many
 *
 * Return: how many of them it may leave.
 */
unsigned int migr_migration_leave(struct migr_migration *migration,
				  unsigned int nr)
{
	spin_lock(&migration->lock);
	nr = min_t(u64, nr, migration->hot_max - migration->hot);
	migration->hot += nr;
	spin_unlock(&migration->lock);
	return nr;
}

/**
 * migr_migration_unleave() - pages that were to be left have not been yet
 * @migration: a source
 * @nr: how many
 */
void migr_migration_unleave(struct migr_migration *migration, unsigned int nr)
{
	spin_lock(&migration->lock);
	migration->hot -= nr;
	spin_unlock(&migration->lock);
}

static void add_counts(struct migr_counts *to, const struct migr_counts *from)
{
	to->data += from->data;
	to->zero += from->zero;
	to->hole += from->hole;
	to->pinned += from->pinned;
	to->bytes += from->bytes;
}

/**
 * migr_migration_count() - add to the statistics
 * @migration: the migration
 * @counts: what to add
 */
void migr_migration_count(struct migr_migration *migration,
			  const struct migr_counts *counts)
{
	spin_lock(&migration->lock);
	add_counts(&migration->total, counts);
	add_counts(&migration->in_pass, counts);
	spin_unlock(&migration->lock);
}

/**
 * migr_migration_begin_pass() - note that a pass begins
 * @migration: the migration
 * @pass: its number, from 1
 */
void migr_migration_begin_pass(struct migr_migration *migration, u32 pass)
{
	spin_lock(&migration->lock);
	migration->pass = pass;
	migration->pass_begun_ns = ktime_get_ns();
	if (pass == 1)
		migration->begun_ns = migration->pass_begun_ns;
	migration->pass_ns = 0;
	memset(&migration->in_pass, 0, sizeof(migration->in_pass));
	if (migration->state != MIGR_STATE_FAILED)
		migration->state = MIGR_STATE_PASS;
	spin_unlock(&migration->lock);
}

/**
 * migr_migration_end_pass() - note that the pass has been acknowledged
 * @migration: the migration
 * @last: it was the last one
 */
void migr_migration_end_pass(struct migr_migration *migration, bool last)
{
	u64 now = ktime_get_ns(), ns;
	struct migr_counts counts;
	u32 pass;

	spin_lock(&migration->lock);
	counts = migration->in_pass;
	pass = migration->pass;
	ns = now - migration->pass_begun_ns;
	migration->pass_ns = ns;
	if (last)
		migration->total_ns = now - migration->begun_ns;
	migration->state = last ? MIGR_STATE_COMPLETE : MIGR_STATE_BETWEEN;
	spin_unlock(&migration->lock);
	trace_migr_pass_done(pass, counts.data + counts.zero + counts.hole,
			     counts.bytes, ns, last);
}

/**
 * migr_migration_fail() - note that a stream failed
 * @migration: the migration
 * @error: why, a negative errno
 */
void migr_migration_fail(struct migr_migration *migration, int error)
{
	spin_lock(&migration->lock);
	migration->state = MIGR_STATE_FAILED;
	migration->error = error;
	spin_unlock(&migration->lock);
}

static int add_region(struct migr_migration *migration, struct file *file,
		      u32 id, bool reported)
{
	struct migr_region *region = migr_region_from_file(file);
	struct migr_member *member;
	unsigned int i;

	if (!region || id >= MIGR_REGIONS_MAX)
		return -EINVAL;
	/* The source tracks it, the destination writes to it. */
	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	if (migration->has_stream)
		return -EBUSY;
	for (i = 0; i < migration->nr_members; i++)
		if (migration->members[i].region == region)
			return -EEXIST;
	if (migr_migration_member(migration, id))
		return -EEXIST;
	member = &migration->members[migration->nr_members];
	member->id = id;
	member->nr_chunks = DIV_ROUND_UP(region->nr_pages, MIGR_CHUNK_PAGES);
	member->file = get_file(file);
	member->region = region;
	member->reported = reported;
	/* STATUS looks at all there are. */
	spin_lock(&migration->lock);
	migration->nr_members++;
	spin_unlock(&migration->lock);
	return 0;
}

static int migration_ioctl_add_region(struct migr_ucmd *ucmd)
{
	struct migr_migration *migration = ucmd->file->private_data;
	struct migr_migration_add_region *add = ucmd->cmd;
	struct file *file;
	int ret;

	if (add->flags & ~MIGR_WRITES_REPORTED)
		return -EOPNOTSUPP;
	if (add->flags && migration->role != MIGR_ROLE_SOURCE)
		return -EOPNOTSUPP;
	file = fget(add->region_fd);
	if (!file)
		return -EBADF;
	ret = mutex_lock_killable(&migration->setup);
	if (ret)
		goto out;
	ret = add_region(migration, file, add->id,
			 add->flags & MIGR_WRITES_REPORTED);
	mutex_unlock(&migration->setup);
out:
	fput(file);
	return ret;
}

static int migration_ioctl_add_stream(struct migr_ucmd *ucmd)
{
	struct migr_migration *migration = ucmd->file->private_data;
	struct migr_migration_add_stream *add = ucmd->cmd;
	struct file *file;
	int ret;

	if (add->flags & ~MIGR_STREAM_COPY)
		return -EOPNOTSUPP;
	if (add->flags && migration->role != MIGR_ROLE_SOURCE)
		return -EOPNOTSUPP;

	ret = mutex_lock_killable(&migration->setup);
	if (ret)
		return ret;
	if (migration->has_stream) {
		ret = -EBUSY;
		goto out;
	}
	if (!migration->nr_members) {
		ret = -EINVAL;
		goto out;
	}
	ret = migr_ucmd_reserve_fd(ucmd, &add->fd);
	if (ret)
		goto out;
	file = migr_stream_create(migration, add->socket_fd,
				  add->flags & MIGR_STREAM_COPY);
	/* Closing the stream is final: there will not be another. */
	migration->has_stream = !IS_ERR(file);
	ret = migr_ucmd_install_fd(add->fd, file);
out:
	mutex_unlock(&migration->setup);
	return ret;
}

static int start_tracking(struct migr_migration *migration)
{
	unsigned int i;

	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];
		struct migr_tracker *tracker;

		/* Those of an earlier attempt that got only some of the way. */
		if (member->tracker)
			continue;
		if (!member->chunks)
			member->chunks =
				migr_may_fail(kvcalloc(BITS_TO_LONGS(member->nr_chunks),
						       sizeof(long),
						       GFP_KERNEL_ACCOUNT), NULL);
		if (!member->chunks ||
		    migr_hot_init(&member->hot, member->nr_chunks))
			return -ENOMEM;
		tracker = migr_tracker_start(member->file, member->reported,
					     migration->limiter);
		if (IS_ERR(tracker))
			return PTR_ERR(tracker);
		WRITE_ONCE(member->tracker, tracker);
	}
	return 0;
}

static int begin_source_pass(struct migr_migration *migration, bool last,
			     u64 hot_max)
{
	unsigned int i;
	u64 pages = 0, dirtied = 0;
	int ret;

	if (migration->role != MIGR_ROLE_SOURCE || !migration->has_stream)
		return -EINVAL;
	switch (READ_ONCE(migration->state)) {
	case MIGR_STATE_PASS:
		return -EBUSY;
	case MIGR_STATE_FAILED:
		return -EPIPE;
	case MIGR_STATE_COMPLETE:
		return -EALREADY;
	}
	ret = start_tracking(migration);
	if (ret)
		return ret;

	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];

		bitmap_copy(member->chunks, member->tracker->chunks,
			    member->nr_chunks);
		member->cursor = 0;
		pages += migr_tracker_nr_dirty(member->tracker);
		dirtied += migr_tracker_nr_dirtied(member->tracker);
	}
	spin_lock(&migration->lock);
	migration->pass_pages = pages;
	migration->pass_dirtied = dirtied;
	migration->hot_max = last ? 0 : hot_max;
	migration->hot = 0;
	migration->last = last;
	spin_unlock(&migration->lock);
	migr_migration_begin_pass(migration, migration->pass + 1);
	return 0;
}

static int migration_ioctl_pass(struct migr_ucmd *ucmd)
{
	struct migr_migration *migration = ucmd->file->private_data;
	struct migr_migration_pass *pass = ucmd->cmd;
	int ret;

	if (pass->flags & ~MIGR_PASS_LAST)
		return -EOPNOTSUPP;
	ret = mutex_lock_killable(&migration->setup);
	if (ret)
		return ret;
	ret = begin_source_pass(migration, pass->flags & MIGR_PASS_LAST,
				pass->hot_pages_max);
	mutex_unlock(&migration->setup);
	return ret;
}

static void fill_status(struct migr_migration *migration,
			struct migr_migration_status *status)
{
	struct migr_counts *total = &migration->total;
	struct migr_counts *in_pass = &migration->in_pass;
	u64 now = ktime_get_ns(), dirtied = 0;
	struct migr_limit limit = {};
	unsigned int i;

	if (migration->limiter)
		migr_limiter_read(migration->limiter, &limit);
	spin_lock(&migration->lock);
	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];
		struct migr_tracker *tracker = READ_ONCE(member->tracker);

		status->total_pages += member->region->nr_pages;
		if (!tracker)
			continue;
		status->dirty_pages += migr_tracker_nr_dirty(tracker);
		dirtied += migr_tracker_nr_dirtied(tracker);
	}
	status->state = migration->state;
	status->error = -migration->error;
	status->passes = migration->pass;
	status->data_pages = total->data;
	status->zero_pages = total->zero;
	status->hole_pages = total->hole;
	status->pinned_pages = total->pinned;
	status->wire_bytes = total->bytes;
	status->pass_pages = migration->pass_pages;
	status->pass_hot_pages = migration->hot;
	status->pass_sent_pages = in_pass->data + in_pass->zero + in_pass->hole;
	status->pass_wire_bytes = in_pass->bytes;
	status->limit = limit.pages_per_second;
	status->slept_ns = limit.slept_ns;
	if (migration->role == MIGR_ROLE_SOURCE) {
		if (!migration->pass)
			status->dirty_pages = status->total_pages;
		status->pass_dirtied_pages = dirtied - migration->pass_dirtied;
	}
	if (migration->pass) {
		status->pass_ns = migration->pass_ns ?:
				  now - migration->pass_begun_ns;
		status->total_ns = migration->total_ns ?:
				   now - migration->begun_ns;
	}
	spin_unlock(&migration->lock);
}

static int migration_ioctl_status(struct migr_ucmd *ucmd)
{
	struct migr_migration *migration = ucmd->file->private_data;
	struct migr_migration_status *status = ucmd->cmd;
	u32 size = status->size;

	if (status->flags)
		return -EOPNOTSUPP;
	if (status->__reserved)
		return -EINVAL;
	memset(status, 0, sizeof(*status));
	status->size = size;
	fill_status(migration, status);
	return migr_ucmd_respond(ucmd);
}

static int migration_ioctl_limit(struct migr_ucmd *ucmd)
{
	struct migr_migration *migration = ucmd->file->private_data;
	int ret;

	if (migration->role != MIGR_ROLE_SOURCE)
		return -EINVAL;
	ret = migr_limiter_ioctl(migration->limiter, ucmd->cmd);
	return ret ?: migr_ucmd_respond(ucmd);
}

static const struct migr_ioctl_op migration_ioctl_ops[] = {
	MIGR_IOCTL_OP(MIGR_MIGRATION_ADD_REGION, migration_ioctl_add_region,
		      struct migr_migration_add_region, id),
	MIGR_IOCTL_OP(MIGR_MIGRATION_ADD_STREAM, migration_ioctl_add_stream,
		      struct migr_migration_add_stream, fd),
	MIGR_IOCTL_OP(MIGR_MIGRATION_PASS, migration_ioctl_pass,
		      struct migr_migration_pass, flags),
	MIGR_IOCTL_OP(MIGR_MIGRATION_STATUS, migration_ioctl_status,
		      struct migr_migration_status, total_ns),
	MIGR_IOCTL_OP(MIGR_MIGRATION_LIMIT, migration_ioctl_limit,
		      struct migr_limit, sleeps),
};

static long migration_ioctl(struct file *file, unsigned int cmd,
			    unsigned long arg)
{
	return migr_ioctl(file, cmd, arg, migration_ioctl_ops,
			  ARRAY_SIZE(migration_ioctl_ops));
}

static int migration_release(struct inode *inode, struct file *file)
{
	migr_migration_put(file->private_data);
	return 0;
}

static const struct file_operations migration_fops = {
	.owner = THIS_MODULE,
	.release = migration_release,
	.unlocked_ioctl = migration_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

/**
 * migr_migration_create() - make one side of a migration
 * @role: an enum migr_role
 *
 * Return: its file, or an error pointer: -EINVAL, -ENOMEM, -ENFILE.
 */
struct file *migr_migration_create(u32 role)
{
	struct migr_migration *migration;
	struct file *file;

	if (role != MIGR_ROLE_SOURCE && role != MIGR_ROLE_DESTINATION)
		return ERR_PTR(-EINVAL);
	migration = migr_may_fail(kzalloc(sizeof(*migration),
					  GFP_KERNEL_ACCOUNT), NULL);
	if (!migration)
		return ERR_PTR(-ENOMEM);
	kref_init(&migration->ref);
	migration->role = role;
	mutex_init(&migration->setup);
	spin_lock_init(&migration->lock);
	if (role == MIGR_ROLE_SOURCE) {
		migration->limiter = migr_limiter_create();
		if (!migration->limiter) {
			migr_migration_put(migration);
			return ERR_PTR(-ENOMEM);
		}
	}
	file = migr_may_fail(anon_inode_getfile("[migr-migration]",
						&migration_fops, migration,
						O_RDWR), ERR_PTR(-ENFILE));
	if (IS_ERR(file))
		migr_migration_put(migration);
	return file;
}
