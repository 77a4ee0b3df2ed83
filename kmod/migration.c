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
#include "transport.h"

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
		kvfree(member->unacked);
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
 * migr_migration_add() - take a stream in
 * @migration: the migration
 * @stream: the stream, with its number
 *
 * Return: 0, -EEXIST, -EBUSY, -EPIPE or -EALREADY, see ADD_STREAM.
 */
int migr_migration_add(struct migr_migration *migration,
		       struct migr_stream *stream)
{
	int ret = 0;

	spin_lock(&migration->lock);
	if (migration->state == MIGR_STATE_FAILED)
		ret = -EPIPE;
	else if (migration->state == MIGR_STATE_COMPLETE)
		ret = -EALREADY;
	else if (migration->nr_streams == MIGR_STREAMS_MAX)
		ret = -EBUSY;
	else if (__test_and_set_bit(stream->id, migration->ids))
		ret = -EEXIST;
	if (!ret) {
		list_add_tail(&stream->node, &migration->streams);
		migration->nr_streams++;
	}
	spin_unlock(&migration->lock);
	return ret;
}

static bool take_chunk(struct migr_migration *migration,
		       struct migr_member **found, unsigned long *chunk)
{
	unsigned int i;

	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];

		member->cursor = find_next_bit(member->chunks,
					       member->nr_chunks,
					       member->cursor);
		if (member->cursor == member->nr_chunks)
			continue;
		*chunk = member->cursor++;
		__clear_bit(*chunk, member->chunks);
		migration->chunks_left--;
		*found = member;
		return true;
	}
	return false;
}

static void set_busy(struct migr_migration *migration,
		     struct migr_stream *stream, bool busy)
{
	if (stream->busy == busy)
		return;
	stream->busy = busy;
	if (busy)
		migration->nr_busy++;
	else
		migration->nr_busy--;
}

static void end_pass(struct migr_migration *migration)
{
	u64 now = ktime_get_ns();
	struct migr_counts *counts = &migration->in_pass;

	migration->pass_ns = now - migration->pass_begun_ns;
	if (migration->last)
		migration->total_ns = now - migration->begun_ns;
	migration->state = migration->last ? MIGR_STATE_COMPLETE :
					     MIGR_STATE_BETWEEN;
	trace_migr_pass_done(migration->pass,
			     counts->data + counts->zero + counts->hole,
			     counts->bytes, migration->pass_ns,
			     migration->last);
	wake_up_all(&migration->wait);
}

/**
 * migr_migration_claim() - find something to do in the pass
 * @migration: a source
 * @stream: for whom; all that it sent has been acknowledged if it asks again
 *	after %MIGR_CLAIM_NONE
 * @member: out, for %MIGR_CLAIM_CHUNK: the region's member
 * @chunk: likewise: index of the chunk
 *
 * The pass is complete once no chunk is left and no stream busy: whoever finds
 * that ends it.
 *
 * Return: what it is.
 */
enum migr_claim migr_migration_claim(struct migr_migration *migration,
				     struct migr_stream *stream,
				     struct migr_member **member,
				     unsigned long *chunk)
{
	enum migr_claim claim = MIGR_CLAIM_NONE;

	spin_lock(&migration->lock);
	stream->pass = migration->pass;
	if (migration->state != MIGR_STATE_PASS) {
		claim = MIGR_CLAIM_OVER;
	} else if (migration->chunks_left) {
		/*
		 * What a dead stream had sent may still be on its way into
		 * memory: it must not overtake what we send.
		 */
		if (!bitmap_subset(migration->dead, stream->told,
				   MIGR_STREAM_IDS)) {
			claim = MIGR_CLAIM_TELL;
		} else if (take_chunk(migration, member, chunk)) {
			set_busy(migration, stream, true);
			claim = MIGR_CLAIM_CHUNK;
		}
	} else if (!stream->nr_unacked) {
		set_busy(migration, stream, false);
		if (!migration->nr_busy) {
			end_pass(migration);
			claim = MIGR_CLAIM_OVER;
		}
	}
	spin_unlock(&migration->lock);
	return claim;
}

static void put_chunk(struct migr_migration *migration,
		      struct migr_member *member, unsigned long chunk)
{
	if (!__test_and_set_bit(chunk, member->chunks))
		migration->chunks_left++;
	member->cursor = min(member->cursor, chunk);
}

/**
 * migr_migration_unclaim() - give a chunk back that was not collected
 * @migration: a source
 * @stream: who had claimed it
 * @member: the region's member
 * @chunk: index of the chunk
 */
void migr_migration_unclaim(struct migr_migration *migration,
			    struct migr_stream *stream,
			    struct migr_member *member, unsigned long chunk)
{
	spin_lock(&migration->lock);
	put_chunk(migration, member, chunk);
	if (!stream->nr_unacked)
		set_busy(migration, stream, false);
	spin_unlock(&migration->lock);
	wake_up_all(&migration->wait);
}

/**
 * migr_migration_sent() - note what would be lost with the stream
 * @migration: a source
 * @stream: who has claimed the chunk
 * @member: the region's member
 * @chunk: index of the chunk, which has been collected
 */
void migr_migration_sent(struct migr_migration *migration,
			 struct migr_stream *stream,
			 struct migr_member *member, unsigned long chunk)
{
	u32 *last = &stream->unacked.last[member - migration->members];

	member->unacked[chunk] = *last;
	*last = chunk + 1;
	stream->nr_unacked++;
}

/* What @stream had sent and not seen acknowledged becomes dirty again. */
static void reclaim(struct migr_migration *migration,
		    struct migr_stream *stream)
{
	unsigned int i;

	if (!stream->nr_unacked)
		return;
	for (i = 0; i < migration->nr_members; i++) {
		struct migr_member *member = &migration->members[i];
		u32 next;

		for (next = stream->unacked.last[i]; next;) {
			unsigned long chunk = next - 1;

			/* Another stream's as soon as it is given back. */
			next = member->unacked[chunk];
			migr_tracker_merge(member->tracker,
					   (pgoff_t)chunk * MIGR_CHUNK_PAGES,
					   migr_hot_written(&member->hot, chunk),
					   MIGR_CHUNK_PAGES / 64);
			spin_lock(&migration->lock);
			/* None is left the next time. */
			migration->hot -= migr_hot_left(&member->hot, chunk);
			put_chunk(migration, member, chunk);
			spin_unlock(&migration->lock);
			migr_delay();
			cond_resched();
		}
	}
}

static struct migr_stream *find_alive(struct migr_migration *migration)
{
	struct migr_stream *stream;

	list_for_each_entry(stream, &migration->streams, node)
		if (!stream->gone)
			return stream;
	return NULL;
}

/* End all runs. */
static void end_streams(struct migr_migration *migration)
{
	struct migr_stream *stream;

	do {
		spin_lock(&migration->lock);
		stream = find_alive(migration);
		if (stream)
			kref_get(&stream->ref);
		spin_unlock(&migration->lock);
		if (stream) {
			migr_stream_end(stream);
			migr_stream_put(stream);
		}
	} while (stream);
}

/**
 * migr_migration_lose() - a stream has failed, or is closed
 * @migration: the migration
 * @stream: the stream
 * @error: why, a negative errno
 * @shared: no other stream could do better: the migration fails
 *
 * The others carry on, if there are any.
 */
void migr_migration_lose(struct migr_migration *migration,
			 struct migr_stream *stream, int error, bool shared)
{
	bool over;

	spin_lock(&migration->lock);
	list_del(&stream->node);
	__set_bit(stream->id, migration->dead);
	migration->nr_streams--;
	over = migration->state == MIGR_STATE_COMPLETE ||
	       migration->state == MIGR_STATE_FAILED;
	if (!over && (shared || !migration->nr_streams)) {
		migration->state = MIGR_STATE_FAILED;
		migration->error = error;
		over = true;
	}
	spin_unlock(&migration->lock);

	if (!over && migration->role == MIGR_ROLE_SOURCE)
		reclaim(migration, stream);
	if (shared)
		end_streams(migration);
	spin_lock(&migration->lock);
	set_busy(migration, stream, false);
	spin_unlock(&migration->lock);
	wake_up_all(&migration->wait);
}

/* Whether a stream would find something else than %MIGR_CLAIM_NONE. */
static bool has_work(struct migr_migration *migration,
		     const struct migr_stream *stream)
{
	bool work;

	spin_lock(&migration->lock);
	work = migration->state != MIGR_STATE_PASS || migration->chunks_left ||
	       !migration->nr_busy || READ_ONCE(stream->gone);
	spin_unlock(&migration->lock);
	return work;
}

/**
 * migr_migration_wait() - wait for something to do
 * @migration: a source
 * @stream: for whom
 *
 * Return: 0 or -ERESTARTSYS.
 */
int migr_migration_wait(struct migr_migration *migration,
			struct migr_stream *stream)
{
	return wait_event_interruptible(migration->wait,
					has_work(migration, stream));
}

static struct migr_stream *find_stream(struct migr_migration *migration, u32 id)
{
	struct migr_stream *stream;

	list_for_each_entry(stream, &migration->streams, node)
		if (stream->id == id)
			return stream;
	return NULL;
}

/* Whether nobody runs stream @id any more, or @stream itself is told dead. */
static bool is_buried(struct migr_migration *migration,
		      const struct migr_stream *stream, u32 id)
{
	struct migr_stream *other;
	bool buried;

	spin_lock(&migration->lock);
	other = find_stream(migration, id);
	buried = !other || !other->running || READ_ONCE(stream->gone);
	spin_unlock(&migration->lock);
	return buried;
}

/**
 * migr_migration_bury() - see to it that a stream writes no more
 * @migration: a destination
 * @stream: the stream that was told
 * @id: number of the stream that is dead
 *
 * Waits until it does not run any more; it never will again.
 *
 * Return: 0, -ERESTARTSYS, or -EPROTO if it is @stream's own number or none.
 */
int migr_migration_bury(struct migr_migration *migration,
			struct migr_stream *stream, u32 id)
{
	struct migr_stream *other;

	if (id == stream->id || id >= MIGR_STREAM_IDS)
		return -EPROTO;
	spin_lock(&migration->lock);
	/* One that is still being connected must not come after this. */
	__set_bit(id, migration->ids);
	other = find_stream(migration, id);
	if (other)
		kref_get(&other->ref);
	spin_unlock(&migration->lock);
	if (other) {
		migr_stream_end(other);
		migr_stream_put(other);
	}
	return wait_event_interruptible(migration->wait,
					is_buried(migration, stream, id));
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
	to->compressed += from->compressed;
	to->incompressible += from->incompressible;
	to->plain += from->plain;
	to->packed += from->packed;
	to->compress_ns += from->compress_ns;
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

static void begin_pass(struct migr_migration *migration, u32 pass)
{
	migration->pass = pass;
	migration->pass_begun_ns = ktime_get_ns();
	if (pass == 1)
		migration->begun_ns = migration->pass_begun_ns;
	migration->pass_ns = 0;
	memset(&migration->in_pass, 0, sizeof(migration->in_pass));
	if (migration->state != MIGR_STATE_FAILED)
		migration->state = MIGR_STATE_PASS;
}

/**
 * migr_migration_arrives() - something of a pass has arrived
 * @migration: a destination
 * @stream: over which
 * @pass: number of the pass
 * @writes: it is something that will be written to memory
 *
 * A pass in which nothing was dirty is not heard of.
 *
 * Return: 0; -EPROTO if it is over, or not the first where nothing has arrived;
 * -ECANCELED if the migration is over.
 */
int migr_migration_arrives(struct migr_migration *migration,
			   struct migr_stream *stream, u32 pass, bool writes)
{
	int ret = 0;

	spin_lock(&migration->lock);
	if (migration->state == MIGR_STATE_FAILED ||
	    migration->state == MIGR_STATE_COMPLETE)
		ret = -ECANCELED;
	else if (pass < migration->pass || (!migration->pass && pass != 1))
		ret = -EPROTO;
	else if (pass > migration->pass)
		begin_pass(migration, pass);
	if (!ret && writes)
		stream->writes = true;
	spin_unlock(&migration->lock);
	return ret;
}

/**
 * migr_migration_written() - all that has arrived over a stream is in memory
 * @migration: a destination
 * @stream: the stream, which is about to acknowledge it
 */
void migr_migration_written(struct migr_migration *migration,
			    struct migr_stream *stream)
{
	spin_lock(&migration->lock);
	stream->writes = false;
	spin_unlock(&migration->lock);
}

/**
 * migr_migration_complete() - all of the last pass has arrived
 * @migration: a destination
 *
 * Nothing is written any more once it is complete.
 *
 * Return: 0, or -EPROTO if that is not so: nothing has arrived, or a stream
 * brings something that it has not acknowledged.
 */
int migr_migration_complete(struct migr_migration *migration)
{
	struct migr_stream *stream;
	int ret = 0;

	spin_lock(&migration->lock);
	list_for_each_entry(stream, &migration->streams, node)
		if (stream->writes && (stream->running || !stream->gone))
			ret = -EPROTO;
	if (migration->state == MIGR_STATE_PASS && !ret) {
		migration->last = true;
		end_pass(migration);
	}
	if (migration->state != MIGR_STATE_COMPLETE)
		ret = -EPROTO;
	spin_unlock(&migration->lock);
	return ret;
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
	if (!bitmap_empty(migration->ids, MIGR_STREAM_IDS))
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
	if (add->id >= MIGR_STREAM_IDS || add->__reserved ||
	    add->compression_cpu > 100)
		return -EINVAL;
	if (add->compression_cpu && migration->role != MIGR_ROLE_SOURCE)
		return -EINVAL;

	ret = mutex_lock_killable(&migration->setup);
	if (ret)
		return ret;
	if (!migration->nr_members) {
		ret = -EINVAL;
		goto out;
	}
	ret = migr_ucmd_reserve_fd(ucmd, &add->fd);
	if (ret)
		goto out;
	file = migr_stream_create(migration, add);
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
		if (!member->unacked)
			member->unacked =
				migr_may_fail(kvcalloc(member->nr_chunks,
						       sizeof(*member->unacked),
						       GFP_KERNEL_ACCOUNT), NULL);
		if (!member->chunks || !member->unacked ||
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
	unsigned long chunks = 0;
	u64 pages = 0, dirtied = 0;
	unsigned int i;
	int ret;

	if (migration->role != MIGR_ROLE_SOURCE ||
	    bitmap_empty(migration->ids, MIGR_STREAM_IDS))
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
		chunks += bitmap_weight(member->chunks, member->nr_chunks);
		pages += migr_tracker_nr_dirty(member->tracker);
		dirtied += migr_tracker_nr_dirtied(member->tracker);
	}
	spin_lock(&migration->lock);
	migration->pass_pages = pages;
	migration->pass_dirtied = dirtied;
	migration->hot_max = last ? 0 : hot_max;
	migration->hot = 0;
	migration->last = last;
	migration->chunks_left = chunks;
	begin_pass(migration, migration->pass + 1);
	if (migration->state == MIGR_STATE_FAILED)
		ret = -EPIPE;
	spin_unlock(&migration->lock);
	return ret;
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
	struct migr_limit limit = {};
	u64 now, dirtied = 0;
	unsigned int i;

	if (migration->limiter)
		migr_limiter_read(migration->limiter, &limit);
	spin_lock(&migration->lock);
	/* Here, or a pass might have begun since. */
	now = ktime_get_ns();
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
	status->compressed_chunks = total->compressed;
	status->incompressible_chunks = total->incompressible;
	status->compressed_bytes = total->plain;
	status->compressed_wire_bytes = total->packed;
	status->compression_ns = total->compress_ns;
	status->pass_saved_bytes = in_pass->plain - in_pass->packed;
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
	init_waitqueue_head(&migration->wait);
	INIT_LIST_HEAD(&migration->streams);
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
