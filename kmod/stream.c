// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streams: a connection of a migration, and what goes over it.
 *
 * A stream has no thread of its own: it is run by whoever calls its RUN ioctl,
 * and is a machine of small steps whose state is all in struct migr_stream, so
 * that a signal can stop it anywhere and the next RUN goes on from there. One
 * thread at a time runs it, and has all of it but what is said to be under the
 * migration's lock.
 */
#include <linux/anon_inodes.h>
#include <linux/bvec.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "compat.h"
#include "compress.h"
#include "device.h"
#include "dirty.h"
#include "inject.h"
#include "migration.h"
#include "region.h"
#include "stream.h"
#include "trace.h"
#include "transport.h"

/*
 * Pages received at once: enough to share the cost of a call, and few enough
 * for the sender to go on in the meantime.
 */
#define RECV_PAGES	64UL

/*
 * Chunks after which a stream waits for their acknowledgment in mid-pass. All of them
 * are sent again if it dies, or if its key is worn out: with a key that is good for
 * less than a pass there would be no end to that.
 */
#define UNACKED_MAX	4096

static_assert(MIGR_WIRE_CHUNK_PAGES == MIGR_CHUNK_PAGES);
static_assert(MIGR_WIRE_PAGE_SIZE == PAGE_SIZE);
static_assert(BITS_PER_LONG == 64);

static void stream_set_iter(struct migr_stream *stream, unsigned int dir,
			    void *buf, size_t len)
{
	stream->kvec.iov_base = buf;
	stream->kvec.iov_len = len;
	iov_iter_kvec(&stream->iter, dir, &stream->kvec, 1, len);
}

static void stream_set_pages(struct migr_stream *stream, unsigned int dir)
{
	iov_iter_bvec(&stream->iter, dir, stream->bvecs, stream->nr_bvecs,
		      (size_t)stream->nr_bvecs << PAGE_SHIFT);
}

static void stream_add_page(struct migr_stream *stream, struct page *page)
{
	struct bio_vec *bvec = &stream->bvecs[stream->nr_bvecs++];

	bvec->bv_page = page;
	bvec->bv_len = PAGE_SIZE;
	bvec->bv_offset = 0;
}

static void stream_drop_pages(struct migr_stream *stream)
{
	migr_batch_put(&stream->batch);
	memset(stream->batch.pages, 0, sizeof(stream->batch.pages));
	stream->nr_bvecs = 0;
}

static int stream_send(struct migr_stream *stream, unsigned int flags)
{
	return stream->transport->ops->send(stream->transport, &stream->iter,
					    flags);
}

static int stream_recv(struct migr_stream *stream)
{
	return stream->transport->ops->recv(stream->transport, &stream->iter);
}

/* An error that no other stream would be spared. */
static int shared_error(struct migr_stream *stream, int error)
{
	stream->shared_error = error && error != -ERESTARTSYS &&
			       error != -EINTR;
	return error;
}

static bool page_is_zero(struct page *page)
{
	const u64 *addr = kmap_local_page(page);
	/* Most of the others begin with something else. */
	bool zero = !*addr && !memchr_inv(addr, 0, PAGE_SIZE);

	kunmap_local(addr);
	return zero;
}

/* A page of a region, brought in or made if need be; with a reference. */
static struct page *read_page(struct address_space *mapping, pgoff_t index)
{
	struct page *page;

	page = migr_may_fail(shmem_read_mapping_page_gfp(mapping, index,
							 mapping_gfp_mask(mapping)),
			     ERR_PTR(-ENOMEM));
	/* Not to be taken for a step that can be resumed. */
	return page == ERR_PTR(-EINTR) ? ERR_PTR(-ENOMEM) : page;
}

/*
 * Sort the pages of a collected chunk into data, zero pages and holes. They
 * may change while we look: then their bits are set again and they are sent
 * again. One that was swapped out when it was collected may have come back by
 * a read since, which sets no bit: only what is not there at all is a hole.
 */
static int sort_pages(struct migr_stream *stream, struct migr_member *member)
{
	struct address_space *mapping = member->region->mapping;
	struct migr_batch *batch = &stream->batch;
	unsigned int i;

	bitmap_zero(stream->data, MIGR_CHUNK_PAGES);
	bitmap_zero(stream->zero, MIGR_CHUNK_PAGES);
	for_each_set_bit(i, batch->dirty, MIGR_CHUNK_PAGES) {
		pgoff_t index = batch->first + i;
		struct page *page = batch->pages[i];

		if (!page && xa_load(&mapping->i_pages, index) &&
		    !RULE_BROKEN(8)) {
			page = read_page(mapping, index);
			if (IS_ERR(page))
				return PTR_ERR(page);
			batch->pages[i] = page;
		}
		/* To read it would be another machine check, in the kernel. */
		if (page && PageHWPoison(page))
			return -EHWPOISON;
		if (!page) {
			stream->counts.hole++;
			__set_bit(i, stream->zero);
		} else if (page_is_zero(page)) {
			stream->counts.zero++;
			__set_bit(i, stream->zero);
		} else {
			stream->counts.data++;
			__set_bit(i, stream->data);
			stream_add_page(stream, page);
		}
	}
	return 0;
}

static void put_head(struct migr_stream *stream)
{
	struct migr_wire_masks *masks = &stream->head.masks;
	size_t bytes = sizeof(stream->head.hdr);
	unsigned int i;

	if (stream->frame.type == MIGR_WIRE_CHUNK) {
		for (i = 0; i < ARRAY_SIZE(masks->data); i++) {
			masks->data[i] = cpu_to_le64(stream->data[i]);
			masks->zero[i] = cpu_to_le64(stream->zero[i]);
		}
		bytes += sizeof(*masks);
	}
	migr_wire_put_hdr(&stream->head.hdr, &stream->frame);
	stream_set_iter(stream, ITER_SOURCE, &stream->head, bytes);
	stream->counts.bytes = sizeof(stream->head.hdr) + stream->frame.length;
}

/* A frame without a body. */
static void put_word(struct migr_stream *stream, enum migr_wire_type type,
		     u64 value)
{
	memset(&stream->counts, 0, sizeof(stream->counts));
	stream->frame = (struct migr_wire_frame) {
		.version = MIGR_WIRE_VERSION,
		.type = type,
		.pass = stream->pass,
		.value = value,
	};
	put_head(stream);
}

/* Collect a chunk that was claimed, but for its hot pages. */
static int collect_chunk(struct migr_stream *stream, struct migr_member *member,
			 unsigned long chunk)
{
	pgoff_t first = (pgoff_t)chunk * MIGR_CHUNK_PAGES;
	struct migr_migration *migration = stream->migration;
	DECLARE_BITMAP(leave, MIGR_CHUNK_PAGES);
	unsigned int nr_hot;
	int ret;

	nr_hot = migr_hot_find(&member->hot, member->tracker, chunk,
			       migration->pass, leave);
	nr_hot = migr_migration_leave(migration, nr_hot);
	migr_hot_trim(leave, nr_hot);
	ret = migr_tracker_collect(member->tracker, first,
				   min_t(pgoff_t, MIGR_CHUNK_PAGES,
					 member->region->nr_pages - first),
				   migration->last, leave, &stream->batch);
	if (ret) {
		memset(stream->batch.pages, 0, sizeof(stream->batch.pages));
		migr_migration_unleave(migration, nr_hot);
		return ret;
	}
	migr_hot_note(&member->hot, chunk, migration->pass,
		      stream->batch.dirty, leave);
	return 0;
}

/* The pages that were sorted, in as many bytes as they are worth. */
static void put_pages(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;
	unsigned int bytes = 0;

	if (stream->compressor)
		bytes = migr_compressor_pack(stream->compressor, stream->bvecs,
					     stream->nr_bvecs,
					     max(READ_ONCE(migration->nr_streams),
						 1U), &stream->counts);
	stream->frame.compressed = !!bytes;
	stream->frame.length = sizeof(stream->head.masks) +
			       (bytes ?: stream->nr_bvecs * PAGE_SIZE);
}

static int put_chunk(struct migr_stream *stream, struct migr_member *member,
		     unsigned long chunk)
{
	int ret;

	migr_migration_sent(stream->migration, stream, member, chunk);
	memset(&stream->counts, 0, sizeof(stream->counts));
	stream->counts.pinned = stream->batch.nr_pinned;
	stream->member = member;
	ret = sort_pages(stream, member);
	if (ret)
		return ret;
	stream->frame = (struct migr_wire_frame) {
		.version = MIGR_WIRE_VERSION,
		.type = MIGR_WIRE_CHUNK,
		.region = member->id,
		.pass = stream->pass,
		.value = chunk,
	};
	put_pages(stream);
	put_head(stream);
	stream->step = STEP_SEND_HEAD;
	return 0;
}

/* Nothing is left to claim for now. */
static int claim_nothing(struct migr_stream *stream)
{
	if (!stream->nr_unacked)
		return migr_migration_wait(stream->migration, stream);
	put_word(stream, MIGR_WIRE_PASS_END, stream->nr_unacked);
	stream->step = STEP_SEND_END;
	return 0;
}

/* The pass is complete, or will never be. */
static int claim_over(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;

	switch (READ_ONCE(migration->state)) {
	case MIGR_STATE_FAILED:
		return READ_ONCE(migration->error);
	case MIGR_STATE_COMPLETE:
		put_word(stream, MIGR_WIRE_DONE, 0);
		stream->step = STEP_SEND_DONE;
		return 0;
	default:
		stream->step = STEP_IDLE;
		return 0;
	}
}

static void claim_tell(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;
	unsigned long id;

	/* The dead stay dead. */
	id = find_next_andnot_bit(migration->dead, stream->told,
				  MIGR_STREAM_IDS, 0);
	__set_bit(id, stream->told);
	put_word(stream, MIGR_WIRE_GONE, id);
	stream->step = STEP_SEND_GONE;
}

static int step_claim(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;
	struct migr_member *member;
	unsigned long chunk;
	int ret;

	cond_resched();
	if (stream->nr_unacked >= UNACKED_MAX)
		return claim_nothing(stream);
	switch (migr_migration_claim(migration, stream, &member, &chunk)) {
	case MIGR_CLAIM_TELL:
		claim_tell(stream);
		return 0;
	case MIGR_CLAIM_NONE:
		return claim_nothing(stream);
	case MIGR_CLAIM_OVER:
		return claim_over(stream);
	case MIGR_CLAIM_CHUNK:
		break;
	}
	ret = collect_chunk(stream, member, chunk);
	if (ret || !stream->batch.nr_dirty) {
		if (ret)
			migr_migration_unclaim(migration, stream, member,
					       chunk);
		return shared_error(stream, ret);
	}
	return shared_error(stream, put_chunk(stream, member, chunk));
}

static int step_send_gone(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, MIGR_SEND_MORE);
	if (ret)
		return ret;
	migr_migration_count(stream->migration, &stream->counts);
	stream->step = STEP_CLAIM;
	return 0;
}

/* Bytes of a chunk's content that are on the wire. */
static size_t stream_body(const struct migr_stream *stream)
{
	return stream->frame.length - sizeof(stream->head.masks);
}

static int step_send_head(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, stream->nr_bvecs ? MIGR_SEND_MORE : 0);
	if (ret)
		return ret;
	if (stream->frame.compressed)
		stream_set_iter(stream, ITER_SOURCE, stream->compressor->packed,
				stream_body(stream));
	else
		stream_set_pages(stream, ITER_SOURCE);
	stream->step = STEP_SEND_PAGES;
	return 0;
}

static int step_send_pages(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, stream->copy || stream->frame.compressed ?
				  0 : MIGR_SEND_LEND);
	if (ret)
		return ret;
	stream_drop_pages(stream);
	migr_migration_count(stream->migration, &stream->counts);
	trace_migr_chunk_sent(stream->frame.region, stream->frame.value,
			      stream->counts.data,
			      stream->counts.zero + stream->counts.hole,
			      stream->counts.bytes);
	stream->step = STEP_CLAIM;
	return 0;
}

static int step_send_end(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, 0);
	if (ret)
		return ret;
	migr_migration_count(stream->migration, &stream->counts);
	stream_set_iter(stream, ITER_DEST, &stream->head.hdr,
			sizeof(stream->head.hdr));
	stream->step = STEP_RECV_ACK;
	return 0;
}

static int step_recv_ack(struct migr_stream *stream)
{
	struct migr_wire_frame sent = stream->frame;
	struct migr_counts counts = { .bytes = sizeof(stream->head.hdr) };
	int ret;

	ret = stream_recv(stream);
	if (ret)
		return ret;
	ret = migr_wire_get_hdr(&stream->head.hdr, &stream->frame);
	if (ret)
		return ret;
	if (stream->frame.version != sent.version ||
	    stream->frame.type != MIGR_WIRE_PASS_ACK ||
	    stream->frame.pass != sent.pass ||
	    stream->frame.value != sent.value)
		return -EPROTO;
	migr_migration_count(stream->migration, &counts);
	memset(&stream->unacked, 0, sizeof(stream->unacked));
	stream->nr_unacked = 0;
	stream->step = STEP_CLAIM;
	return 0;
}

static int step_send_done(struct migr_stream *stream)
{
	int ret;

	ret = migr_may_fail(stream_send(stream, 0), -ENOBUFS);
	if (ret == -ERESTARTSYS || ret == -EINTR)
		return ret;
	/*
	 * If it cannot be said: all is there, and others may say it. Here the
	 * peer shall not wait for it.
	 */
	if (ret)
		stream->transport->ops->shutdown(stream->transport, true);
	stream->step = STEP_DONE;
	return 0;
}

static void expect_head(struct migr_stream *stream)
{
	stream_set_iter(stream, ITER_DEST, &stream->head.hdr,
			sizeof(stream->head.hdr));
	stream->step = STEP_RECV_HEAD;
}

static int frame_arrives(struct migr_stream *stream, enum stream_step next)
{
	int ret;

	ret = migr_migration_arrives(stream->migration, stream,
				     stream->frame.pass,
				     next == STEP_RECV_MASKS);
	if (ret)
		return ret;
	stream->pass = stream->frame.pass;
	stream->step = next;
	return 0;
}

static int chunk_arrives(struct migr_stream *stream)
{
	struct migr_wire_frame *frame = &stream->frame;

	stream->member = migr_migration_member(stream->migration,
					       frame->region);
	if (!stream->member || frame->value >= stream->member->nr_chunks ||
	    (frame->compressed && !stream->compressor))
		return -EPROTO;
	stream_set_iter(stream, ITER_DEST, &stream->head.masks,
			sizeof(stream->head.masks));
	return frame_arrives(stream, STEP_RECV_MASKS);
}

static int end_arrives(struct migr_stream *stream)
{
	struct migr_wire_frame *frame = &stream->frame;

	if (frame->value != stream->nr_unacked)
		return -EPROTO;
	migr_migration_written(stream->migration, stream);
	frame->type = MIGR_WIRE_PASS_ACK;
	put_head(stream);
	/* What arrived, and the answer. */
	stream->counts.bytes *= 2;
	return frame_arrives(stream, STEP_SEND_ACK);
}

static int done_arrives(struct migr_stream *stream)
{
	int ret = migr_migration_complete(stream->migration);

	if (!ret)
		stream->step = STEP_DONE;
	return ret;
}

/*
 * It says nothing of memory: it may have waited for the chunk that follows it
 * while others completed its pass and began the next.
 */
static int gone_arrives(struct migr_stream *stream)
{
	stream->pass = stream->frame.pass;
	stream->step = STEP_RECV_GONE;
	return 0;
}

static int step_recv_gone(struct migr_stream *stream)
{
	int ret;

	ret = migr_migration_bury(stream->migration, stream,
				  min_t(u64, stream->frame.value, U32_MAX));
	if (ret)
		return ret;
	migr_migration_count(stream->migration, &stream->counts);
	expect_head(stream);
	return 0;
}

static int step_recv_head(struct migr_stream *stream)
{
	struct migr_wire_frame *frame = &stream->frame;
	int ret;

	ret = stream_recv(stream);
	if (ret)
		return ret;
	ret = migr_wire_get_hdr(&stream->head.hdr, frame);
	if (ret)
		return ret;
	if (!stream->version)
		stream->version = frame->version;
	/* A pass begins when the one before has been acknowledged. */
	if (frame->version != stream->version || frame->pass < stream->pass ||
	    (frame->pass > stream->pass && stream->nr_unacked))
		return -EPROTO;
	memset(&stream->counts, 0, sizeof(stream->counts));
	stream->counts.bytes = sizeof(stream->head.hdr) + frame->length;
	switch (frame->type) {
	case MIGR_WIRE_CHUNK:
		return chunk_arrives(stream);
	case MIGR_WIRE_PASS_END:
		return end_arrives(stream);
	case MIGR_WIRE_GONE:
		return gone_arrives(stream);
	case MIGR_WIRE_DONE:
		return done_arrives(stream);
	default:
		return -EPROTO;
	}
}

/* The first page of the chunk that arrives. */
static pgoff_t stream_first(const struct migr_stream *stream)
{
	return (pgoff_t)stream->frame.value * MIGR_CHUNK_PAGES;
}

static int step_recv_masks(struct migr_stream *stream)
{
	struct migr_region *region = stream->member->region;
	int ret;

	ret = stream_recv(stream);
	if (ret)
		return ret;
	ret = migr_wire_get_masks(&stream->head.masks, &stream->frame,
				  min_t(pgoff_t, MIGR_CHUNK_PAGES,
					region->nr_pages - stream_first(stream)),
				  (u64 *)stream->data, (u64 *)stream->zero);
	if (ret)
		return ret;
	stream->counts.data = bitmap_weight(stream->data, MIGR_CHUNK_PAGES);
	stream->counts.zero = bitmap_weight(stream->zero, MIGR_CHUNK_PAGES);
	stream->next = find_first_bit(stream->data, MIGR_CHUNK_PAGES);
	stream->filled = 0;
	stream->step = STEP_RECV_PAGES;
	if (stream->frame.compressed) {
		stream_set_iter(stream, ITER_DEST, stream->compressor->packed,
				stream_body(stream));
		stream->step = STEP_RECV_PACKED;
	}
	return 0;
}

static int step_recv_packed(struct migr_stream *stream)
{
	size_t bytes = stream_body(stream);
	int ret;

	ret = stream_recv(stream);
	if (ret)
		return ret;
	ret = migr_compressor_begin(stream->compressor, bytes,
				    stream->counts.data);
	if (ret)
		return ret;
	stream->counts.compressed = 1;
	stream->counts.plain = stream->counts.data * PAGE_SIZE;
	stream->counts.packed = bytes;
	stream->step = STEP_RECV_PAGES;
	return 0;
}

/* Go on to the page after @bytes more of the chunk's content. */
static void stream_filled(struct migr_stream *stream, size_t bytes)
{
	stream->filled += bytes;
	while (stream->filled >= PAGE_SIZE) {
		stream->filled -= PAGE_SIZE;
		stream->next = find_next_bit(stream->data, MIGR_CHUNK_PAGES,
					     stream->next + 1);
	}
}

/* Let them go; @len bytes have been received into them. */
static void give_pages(struct migr_stream *stream, size_t len)
{
	unsigned int i;

	for (i = 0; i < stream->nr_bvecs; i++) {
		struct folio *folio = page_folio(stream->bvecs[i].bv_page);
		size_t copied = min(len, PAGE_SIZE);

		if (!folio_test_uptodate(folio)) {
			migr_write_end(stream->member->file, folio->index,
				       copied, folio);
		} else {
			folio_mark_dirty(folio);
			folio_put(folio);
		}
		len -= copied;
	}
	stream->nr_bvecs = 0;
}

/*
 * Take the pages that the next content goes into. A new one is locked until it
 * has content, which saves clearing it first. One that has some may be in use.
 *
 * Who else has the connection can hold its lock while it waits for the page that
 * it receives into: then none is kept locked, but cleared, if that is not done to
 * all memory that is allocated. If only we have it, nobody can get it.
 */
static int take_pages(struct migr_stream *stream, unsigned int least,
		      unsigned int most)
{
	bool exclusive = stream->transport->ops->exclusive(stream->transport);
	struct file *file = stream->member->file;
	struct address_space *mapping = file->f_mapping;
	unsigned int i = stream->next;

	for_each_set_bit_from(i, stream->data, MIGR_CHUNK_PAGES) {
		pgoff_t index = stream_first(stream) + i;
		struct folio *folio;

		if (stream->nr_bvecs == most)
			break;
		folio = migr_may_fail(migr_write_begin(file, index),
				      ERR_PTR(-ENOMEM));
		if (IS_ERR(folio) && stream->nr_bvecs >= least)
			break;
		if (IS_ERR(folio)) {
			give_pages(stream, 0);
			return shared_error(stream, PTR_ERR(folio));
		}
		stream_add_page(stream, folio_file_page(folio, index));
		/* The lock of a large folio would be taken twice. */
		if (!exclusive || folio_test_uptodate(folio) ||
		    folio_test_large(folio)) {
			if (want_init_on_alloc(mapping_gfp_mask(mapping)))
				folio_mark_uptodate(folio);
			folio_get(folio);
			migr_write_end(file, index, 0, folio);
		}
	}
	return 0;
}

/* Receive what has come already. */
static int recv_queued(struct migr_stream *stream, unsigned int nr)
{
	int ret;

	ret = take_pages(stream, 1, nr);
	if (ret)
		return ret;
	stream_set_pages(stream, ITER_DEST);
	/* Nobody is to wait for a page's lock as long as we for the peer. */
	ret = stream->transport->ops->recv_some(stream->transport,
						&stream->iter, 0);
	give_pages(stream, max(ret, 0));
	return ret;
}

/* Expand the next unit into its pages. Returns how many bytes. */
static int expand_pages(struct migr_stream *stream)
{
	unsigned int i = stream->next, nr = 0;
	int ret;

	for_each_set_bit_from(i, stream->data, MIGR_CHUNK_PAGES)
		if (++nr == MIGR_WIRE_UNIT_PAGES)
			break;
	ret = take_pages(stream, nr, nr);
	if (ret)
		return ret;
	ret = migr_compressor_expand(stream->compressor, stream->bvecs, nr);
	give_pages(stream, ret ? 0 : nr * PAGE_SIZE);
	cond_resched();
	return ret ?: nr * PAGE_SIZE;
}

/* Bytes of the chunk that are still to come, and worth waiting for at once. */
static size_t stream_due(const struct migr_stream *stream)
{
	unsigned int i = stream->next, pages = 0;

	for_each_set_bit_from(i, stream->data, MIGR_CHUNK_PAGES)
		if (++pages > RECV_PAGES / 2)
			break;
	return min(pages * PAGE_SIZE - stream->filled,
		   RECV_PAGES / 2 * PAGE_SIZE);
}

/* Receive the rest of a page, however long it takes. */
static int recv_page(struct migr_stream *stream)
{
	struct address_space *mapping = stream->member->region->mapping;
	struct bio_vec bvec;
	struct page *page;
	int ret;

	page = read_page(mapping, stream_first(stream) + stream->next);
	if (IS_ERR(page))
		return shared_error(stream, PTR_ERR(page));
	bvec_set_page(&bvec, page, PAGE_SIZE - stream->filled, stream->filled);
	iov_iter_bvec(&stream->iter, ITER_DEST, &bvec, 1, bvec.bv_len);
	/* To be woken for each page would cost more than the page. */
	ret = stream->transport->ops->recv_some(stream->transport,
						&stream->iter,
						stream_due(stream));
	/* Even a part must not be dropped by reclaim. */
	set_page_dirty(page);
	put_page(page);
	return ret;
}

/* Tell who tracks the region of pages of the chunk that the chunk has changed. */
static void tell_wrote(struct migr_stream *stream, const unsigned long *pages)
{
	unsigned int from, to;

	for_each_set_bitrange(from, to, pages, MIGR_CHUNK_PAGES)
		migr_region_wrote(stream->member->region,
				  stream_first(stream) + from, to - from);
}

/* Whether at least half of a huge page has data, but for @zero. */
static bool is_mostly_data(struct folio *folio, const unsigned long *zero)
{
	unsigned int i, nr = 0;

	for_each_clear_bit(i, zero, MIGR_CHUNK_PAGES)
		nr += !page_is_zero(folio_page(folio, i));
	return nr >= MIGR_CHUNK_PAGES / 2;
}

/*
 * A hole would split a huge page. If that is worth keeping for what else it has,
 * the zeroes are written. Returns whether they are.
 */
static bool clear_zeroes(struct migr_stream *stream)
{
	struct migr_region *region = stream->member->region;
	struct folio *folio;
	unsigned int i;
	bool huge;

	folio = migr_lock_folio(region->mapping, stream_first(stream));
	if (!folio)
		return false;
	huge = folio_nr_pages(folio) == MIGR_CHUNK_PAGES &&
	       folio_test_uptodate(folio) &&
	       !folio_test_has_hwpoisoned(folio) &&
	       is_mostly_data(folio, stream->zero);
	if (huge) {
		for_each_set_bit(i, stream->zero, MIGR_CHUNK_PAGES)
			if (!page_is_zero(folio_page(folio, i)))
				clear_highpage(folio_page(folio, i));
		folio_mark_dirty(folio);
	}
	folio_unlock(folio);
	folio_put(folio);
	if (huge)
		tell_wrote(stream, stream->zero);
	return huge;
}

/* Make zero pages holes, where there is anything. */
static int punch_zeroes(struct migr_stream *stream)
{
	struct migr_member *member = stream->member;
	pgoff_t first = stream_first(stream);
	unsigned int from, to;
	int ret;

	for_each_set_bitrange(from, to, stream->zero, MIGR_CHUNK_PAGES) {
		unsigned long index = first + from;

		if (!xa_find(&member->region->mapping->i_pages, &index,
			     first + to - 1, XA_PRESENT))
			continue;
		ret = vfs_fallocate(member->file,
				    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    (loff_t)(first + from) << PAGE_SHIFT,
				    (loff_t)(to - from) << PAGE_SHIFT);
		if (ret)
			return shared_error(stream, ret);
	}
	return 0;
}

static int recv_pages(struct migr_stream *stream)
{
	unsigned int nr = 0;
	int ret = -EAGAIN;

	if (!stream->filled)
		nr = min(stream->transport->ops->queued(stream->transport) /
			 PAGE_SIZE, RECV_PAGES);
	if (nr)
		ret = recv_queued(stream, nr);
	return ret == -EAGAIN ? recv_page(stream) : ret;
}

static int step_recv_pages(struct migr_stream *stream)
{
	int ret;

	if (stream->next == MIGR_CHUNK_PAGES) {
		tell_wrote(stream, stream->data);
		stream->step = STEP_RECV_END;
		migr_delay();
		return 0;
	}
	ret = stream->frame.compressed ? expand_pages(stream) :
					 recv_pages(stream);
	if (ret <= 0)
		return ret ?: -ECONNRESET;
	stream_filled(stream, ret);
	return 0;
}

/* A chunk is complete. */
static int step_recv_end(struct migr_stream *stream)
{
	int ret = 0;

	if (stream->counts.zero && !clear_zeroes(stream))
		ret = punch_zeroes(stream);
	if (ret)
		return ret;
	stream->nr_unacked++;
	migr_migration_count(stream->migration, &stream->counts);
	trace_migr_chunk_received(stream->frame.region, stream->frame.value,
				  stream->counts.data, stream->counts.zero,
				  stream->counts.bytes);
	expect_head(stream);
	return 0;
}

static int step_send_ack(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, 0);
	if (ret)
		return ret;
	migr_migration_count(stream->migration, &stream->counts);
	stream->nr_unacked = 0;
	if (stream->frame.last)
		return done_arrives(stream);
	expect_head(stream);
	return 0;
}

static int (*const stream_steps[])(struct migr_stream *stream) = {
	[STEP_CLAIM] = step_claim,
	[STEP_SEND_GONE] = step_send_gone,
	[STEP_SEND_HEAD] = step_send_head,
	[STEP_SEND_PAGES] = step_send_pages,
	[STEP_SEND_END] = step_send_end,
	[STEP_RECV_ACK] = step_recv_ack,
	[STEP_SEND_DONE] = step_send_done,
	[STEP_RECV_HEAD] = step_recv_head,
	[STEP_RECV_MASKS] = step_recv_masks,
	[STEP_RECV_PACKED] = step_recv_packed,
	[STEP_RECV_PAGES] = step_recv_pages,
	[STEP_RECV_END] = step_recv_end,
	[STEP_RECV_GONE] = step_recv_gone,
	[STEP_SEND_ACK] = step_send_ack,
};

static void stream_fail(struct migr_stream *stream, int error)
{
	/* Of one that is done the peer is still to hear, over any link. */
	bool drop = stream->step != STEP_DONE;

	/* Some of its pages have come. */
	if (stream->step == STEP_RECV_PAGES)
		tell_wrote(stream, stream->data);
	stream->step = STEP_FAILED;
	stream_drop_pages(stream);
	/* The peer shall not wait for what will not come. */
	stream->transport->ops->shutdown(stream->transport, drop);
	migr_migration_lose(stream->migration, stream, error,
			    stream->shared_error);
}

static int stream_run(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;
	int ret = 0;

	switch (stream->step) {
	case STEP_FAILED:
		return -EPIPE;
	case STEP_IDLE:
		if (READ_ONCE(migration->state) == MIGR_STATE_SETUP)
			return -EINVAL;
		stream->step = STEP_CLAIM;
		break;
	default:
		break;
	}
	while (!ret && stream->step != STEP_IDLE && stream->step != STEP_DONE) {
		if (signal_pending(current))
			ret = -ERESTARTSYS;
		else if (READ_ONCE(stream->gone))
			ret = -ECONNRESET;
		else
			ret = stream_steps[stream->step](stream);
	}
	/* Signals leave it as it is, to be run again. */
	if (ret && ret != -ERESTARTSYS && ret != -EINTR)
		stream_fail(stream, ret);
	return ret;
}

static bool set_running(struct migr_stream *stream, bool running)
{
	struct migr_migration *migration = stream->migration;
	bool changed;

	spin_lock(&migration->lock);
	changed = stream->running != running;
	stream->running = running;
	spin_unlock(&migration->lock);
	return changed;
}

static int stream_ioctl_run(struct migr_ucmd *ucmd)
{
	struct migr_stream *stream = ucmd->file->private_data;
	struct migr_stream_run *run = ucmd->cmd;
	int ret;

	if (run->flags)
		return -EOPNOTSUPP;
	if (!set_running(stream, true))
		return -EBUSY;
	ret = stream_run(stream);
	set_running(stream, false);
	/* See migr_migration_bury(). */
	wake_up_all(&stream->migration->wait);
	return ret;
}

/* For a stream that runs, and waits. */
static int stream_ioctl_shutdown(struct migr_ucmd *ucmd)
{
	struct migr_stream *stream = ucmd->file->private_data;
	struct migr_stream_shutdown *shutdown = ucmd->cmd;

	if (shutdown->flags)
		return -EOPNOTSUPP;
	migr_stream_end(stream);
	return 0;
}

static const struct migr_ioctl_op stream_ioctl_ops[] = {
	MIGR_IOCTL_OP(MIGR_STREAM_RUN, stream_ioctl_run, struct migr_stream_run,
		      flags),
	MIGR_IOCTL_OP(MIGR_STREAM_SHUTDOWN, stream_ioctl_shutdown,
		      struct migr_stream_shutdown, flags),
};

static long stream_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return migr_ioctl(file, cmd, arg, stream_ioctl_ops,
			  ARRAY_SIZE(stream_ioctl_ops));
}

static void stream_free(struct kref *ref)
{
	struct migr_stream *stream = container_of(ref, struct migr_stream, ref);

	stream_drop_pages(stream);
	migr_compressor_free(stream->compressor);
	stream->transport->ops->free(stream->transport);
	migr_migration_put(stream->migration);
	kvfree(stream);
}

/**
 * migr_stream_end() - have a stream's run, the present or the next one, fail
 * @stream: the stream
 */
void migr_stream_end(struct migr_stream *stream)
{
	WRITE_ONCE(stream->gone, true);
	/* If it is done, the peer is still to hear of it. */
	stream->transport->ops->shutdown(stream->transport, false);
	wake_up_all(&stream->migration->wait);
}

/**
 * migr_stream_put() - drop a reference
 * @stream: the stream
 */
void migr_stream_put(struct migr_stream *stream)
{
	kref_put(&stream->ref, stream_free);
}

static int stream_release(struct inode *inode, struct file *file)
{
	struct migr_stream *stream = file->private_data;

	if (stream->step != STEP_FAILED)
		stream_fail(stream, -ECANCELED);
	migr_stream_put(stream);
	return 0;
}

static const struct file_operations stream_fops = {
	.owner = THIS_MODULE,
	.release = stream_release,
	.unlocked_ioctl = stream_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

/**
 * migr_stream_create() - make a stream of a migration
 * @migration: the migration; its regions do not change any more
 * @add: what it is to be
 *
 * Return: its file, or an error pointer, see &struct migr_migration_add_stream.
 */
struct file *migr_stream_create(struct migr_migration *migration,
				const struct migr_migration_add_stream *add)
{
	struct migr_compressor *compressor = NULL;
	struct migr_transport *transport;
	struct migr_stream *stream;
	struct file *file;
	int ret;

	if (add->compression) {
		compressor = migr_compressor_create(add->compression,
						    add->compression_cpu);
		if (IS_ERR(compressor))
			return ERR_CAST(compressor);
	}
	transport = migr_socket_open(add->socket_fd);
	if (IS_ERR(transport)) {
		ret = PTR_ERR(transport);
		goto err_compressor;
	}
	stream = migr_may_fail(kvzalloc(sizeof(*stream), GFP_KERNEL_ACCOUNT),
			       NULL);
	if (!stream) {
		ret = -ENOMEM;
		goto err_transport;
	}
	kref_init(&stream->ref);
	kref_get(&migration->ref);
	stream->migration = migration;
	stream->transport = transport;
	stream->compressor = compressor;
	stream->id = add->id;
	stream->copy = add->flags & MIGR_STREAM_COPY;
	if (migration->role == MIGR_ROLE_DESTINATION)
		expect_head(stream);
	file = migr_may_fail(anon_inode_getfile("[migr-stream]", &stream_fops,
						stream, O_RDWR),
			     ERR_PTR(-ENFILE));
	ret = IS_ERR(file) ? PTR_ERR(file) : migr_migration_add(migration, stream);
	if (!ret)
		return file;
	/* It is in no list that it could be taken from. */
	stream->step = STEP_FAILED;
	if (IS_ERR(file))
		migr_stream_put(stream);
	else
		fput(file);
	return ERR_PTR(ret);

err_transport:
	transport->ops->free(transport);
err_compressor:
	migr_compressor_free(compressor);
	return ERR_PTR(ret);
}
