// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streams: a connection of a migration, and what goes over it.
 *
 * A stream has no thread of its own: it is run by whoever calls its RUN ioctl,
 * and is a machine of small steps whose state is all in struct migr_stream, so
 * that a signal can stop it anywhere and the next RUN goes on from there.
 * stream->run is held by the thread that runs it and protects everything.
 */
#include <linux/anon_inodes.h>
#include <linux/bvec.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <net/af_unix.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "compat.h"
#include "device.h"
#include "dirty.h"
#include "inject.h"
#include "migration.h"
#include "region.h"
#include "stream.h"
#include "trace.h"
#include "wire.h"

/*
 * Pages received at once: enough to share the cost of a call, and few enough
 * for the sender to go on in the meantime.
 */
#define RECV_PAGES	64UL

/**
 * enum stream_step - what a stream does next
 * @STEP_IDLE: source: nothing, until a pass begins
 * @STEP_CLAIM: source: claim and collect a chunk, or end the pass
 * @STEP_SEND_HEAD: source: send a chunk's header and masks
 * @STEP_SEND_PAGES: source: send its pages
 * @STEP_SEND_END: source: send the end of the pass
 * @STEP_RECV_ACK: source: wait for the acknowledgment
 * @STEP_RECV_HEAD: destination: receive a header
 * @STEP_RECV_MASKS: destination: receive a chunk's masks
 * @STEP_RECV_PAGES: destination: receive its pages
 * @STEP_RECV_END: destination: make its zero pages holes
 * @STEP_SEND_ACK: destination: acknowledge a pass
 * @STEP_DONE: destination: the last pass has been acknowledged
 * @STEP_FAILED: it cannot be used any more
 */
enum stream_step {
	STEP_IDLE,
	STEP_CLAIM,
	STEP_SEND_HEAD,
	STEP_SEND_PAGES,
	STEP_SEND_END,
	STEP_RECV_ACK,
	STEP_RECV_HEAD,
	STEP_RECV_MASKS,
	STEP_RECV_PAGES,
	STEP_RECV_END,
	STEP_SEND_ACK,
	STEP_DONE,
	STEP_FAILED,
};

/**
 * struct migr_stream - a connection of a migration
 * @migration: the migration, with a reference
 * @sock: the socket, with a reference to its file
 * @copy: copy pages into the socket instead of lending them
 * @run: held by the thread that runs it
 * @step: what it does next
 * @pass: destination: number of the pass that arrives
 * @pass_chunks: chunks of this pass that went over this stream
 * @frame: the frame being sent or received
 * @member: the region of the chunk being sent or received
 * @counts: what that chunk adds to the statistics
 * @head: a frame's header and masks as they are on the wire
 * @kvec: for sending or receiving @head
 * @iter: what is left of the current send or receive
 * @data: pages of the chunk with content, from its first
 * @zero: pages of the chunk that are zero
 * @next: destination: the page of @data that is to be received next
 * @filled: destination: bytes of it that have been
 * @nr_bvecs: pages in @bvecs
 * @bvecs: source: the pages of @data, which are also in @batch.pages;
 *	destination: those that are being received into, with references
 * @batch: source: what was collected
 */
struct migr_stream {
	struct migr_migration *migration;
	struct socket *sock;
	bool copy;
	struct mutex run;	/* held while it runs */
	enum stream_step step;
	u32 pass;
	u64 pass_chunks;
	struct migr_wire_frame frame;
	struct migr_member *member;
	struct migr_counts counts;
	struct {
		struct migr_wire_hdr hdr;
		struct migr_wire_masks masks;
	} head;
	struct kvec kvec;
	struct iov_iter iter;
	DECLARE_BITMAP(data, MIGR_CHUNK_PAGES);
	DECLARE_BITMAP(zero, MIGR_CHUNK_PAGES);
	unsigned int next;
	size_t filled;
	unsigned int nr_bvecs;
	struct bio_vec bvecs[MIGR_CHUNK_PAGES];
	struct migr_batch batch;
};

static_assert(MIGR_WIRE_CHUNK_PAGES == MIGR_CHUNK_PAGES);
static_assert(MIGR_WIRE_PAGE_SIZE == PAGE_SIZE);
static_assert(BITS_PER_LONG == 64);

/* What the socket said, as RUN tells it. */
static int socket_error(int ret)
{
	switch (ret) {
	case -EINTR:
		/* A socket with a timeout says this instead. */
		return -ERESTARTSYS;
	case -EAGAIN:
		return -ETIMEDOUT;
	case -EPIPE:
		/* EPIPE is for a stream that had failed before. */
		return -ECONNRESET;
	default:
		return ret;
	}
}

static int stream_send(struct migr_stream *stream, bool lend, int flags)
{
	while (iov_iter_count(&stream->iter)) {
		struct msghdr msg = {
			.msg_flags = MSG_NOSIGNAL | flags,
			.msg_iter = stream->iter,
		};
		int ret;

		if (lend)
			ret = migr_sock_lend(stream->sock, &msg);
		else
			ret = sock_sendmsg(stream->sock, &msg);
		if (ret < 0)
			return socket_error(ret);
		iov_iter_advance(&stream->iter, ret);
	}
	return 0;
}

static int stream_recv(struct migr_stream *stream)
{
	while (iov_iter_count(&stream->iter)) {
		struct msghdr msg = {
			.msg_flags = MSG_WAITALL,
			.msg_iter = stream->iter,
		};
		int ret;

		ret = sock_recvmsg(stream->sock, &msg, MSG_WAITALL);
		if (ret < 0)
			return socket_error(ret);
		if (!ret)
			return -ECONNRESET;
		iov_iter_advance(&stream->iter, ret);
	}
	return 0;
}

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

static bool page_is_zero(struct page *page)
{
	void *addr = kmap_local_page(page);
	bool zero = !memchr_inv(addr, 0, PAGE_SIZE);

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
		stream->frame.length = sizeof(*masks) +
				       stream->nr_bvecs * PAGE_SIZE;
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

static void put_end(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;

	memset(&stream->counts, 0, sizeof(stream->counts));
	stream->frame = (struct migr_wire_frame) {
		.type = MIGR_WIRE_PASS_END,
		.last = migration->last,
		.pass = migration->pass,
		.value = stream->pass_chunks,
	};
	put_head(stream);
	stream->step = STEP_SEND_END;
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

static int step_claim(struct migr_stream *stream)
{
	struct migr_migration *migration = stream->migration;
	struct migr_member *member;
	unsigned long chunk;
	int ret;

	do {
		cond_resched();
		if (signal_pending(current))
			return -ERESTARTSYS;
		member = migr_migration_claim(migration, &chunk);
		if (!member) {
			put_end(stream);
			return 0;
		}
		ret = collect_chunk(stream, member, chunk);
		if (ret) {
			migr_migration_unclaim(migration, member, chunk);
			return ret;
		}
	} while (!stream->batch.nr_dirty);

	memset(&stream->counts, 0, sizeof(stream->counts));
	stream->counts.pinned = stream->batch.nr_pinned;
	stream->member = member;
	ret = sort_pages(stream, member);
	if (ret)
		return ret;
	stream->frame = (struct migr_wire_frame) {
		.type = MIGR_WIRE_CHUNK,
		.region = member->id,
		.pass = migration->pass,
		.value = chunk,
	};
	put_head(stream);
	stream->step = STEP_SEND_HEAD;
	return 0;
}

static int step_send_head(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, false, stream->nr_bvecs ? MSG_MORE : 0);
	if (ret)
		return ret;
	stream_set_pages(stream, ITER_SOURCE);
	stream->step = STEP_SEND_PAGES;
	return 0;
}

static int step_send_pages(struct migr_stream *stream)
{
	int ret;

	ret = stream_send(stream, !stream->copy, 0);
	if (ret)
		return ret;
	stream_drop_pages(stream);
	stream->pass_chunks++;
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

	ret = stream_send(stream, false, 0);
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
	if (stream->frame.type != MIGR_WIRE_PASS_ACK ||
	    stream->frame.last != sent.last || stream->frame.pass != sent.pass ||
	    stream->frame.value != sent.value)
		return -EPROTO;
	migr_migration_count(stream->migration, &counts);
	stream->step = STEP_IDLE;
	migr_migration_end_pass(stream->migration, sent.last);
	return 0;
}

static void expect_head(struct migr_stream *stream)
{
	stream_set_iter(stream, ITER_DEST, &stream->head.hdr,
			sizeof(stream->head.hdr));
	stream->step = STEP_RECV_HEAD;
}

static int step_recv_head(struct migr_stream *stream)
{
	struct migr_wire_frame *frame = &stream->frame;
	struct migr_migration *migration = stream->migration;
	int ret;

	ret = stream_recv(stream);
	if (ret)
		return ret;
	ret = migr_wire_get_hdr(&stream->head.hdr, frame);
	if (ret)
		return ret;
	if (frame->pass != stream->pass)
		return -EPROTO;
	if (migration->pass != stream->pass)
		migr_migration_begin_pass(migration, stream->pass);

	memset(&stream->counts, 0, sizeof(stream->counts));
	stream->counts.bytes = sizeof(stream->head.hdr) + frame->length;
	switch (frame->type) {
	case MIGR_WIRE_CHUNK:
		stream->member = migr_migration_member(migration, frame->region);
		if (!stream->member ||
		    frame->value >= stream->member->nr_chunks)
			return -EPROTO;
		stream_set_iter(stream, ITER_DEST, &stream->head.masks,
				sizeof(stream->head.masks));
		stream->step = STEP_RECV_MASKS;
		return 0;
	case MIGR_WIRE_PASS_END:
		if (frame->value != stream->pass_chunks)
			return -EPROTO;
		frame->type = MIGR_WIRE_PASS_ACK;
		put_head(stream);
		/* What arrived, and the answer. */
		stream->counts.bytes *= 2;
		stream->step = STEP_SEND_ACK;
		return 0;
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
	return 0;
}

/* Bytes that wait in the socket. Only a hint: others can read from it too. */
static size_t stream_queued(const struct migr_stream *stream)
{
	struct sock *sk = stream->sock->sk;
	long queued;

	queued = sk->sk_family == AF_UNIX ? unix_inq_len(sk) : tcp_inq(sk);
	return max(queued, 0L);
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

/*
 * Take the pages that the next content goes into. A new one is locked until it
 * has content, which saves clearing it first. One that has some may be in use.
 *
 * Who else has the socket can hold its lock while it waits for the page that it
 * receives into: then none is kept locked. If only we have it, nobody can get it.
 */
static int take_pages(struct migr_stream *stream, unsigned int nr)
{
	bool shared = file_count(stream->sock->file) > 1;
	struct file *file = stream->member->file;
	unsigned int i = stream->next;

	for_each_set_bit_from(i, stream->data, MIGR_CHUNK_PAGES) {
		pgoff_t index = stream_first(stream) + i;
		struct folio *folio;

		if (stream->nr_bvecs == nr)
			break;
		folio = migr_may_fail(migr_write_begin(file, index),
				      ERR_PTR(-ENOMEM));
		if (IS_ERR(folio))
			return stream->nr_bvecs ? 0 : PTR_ERR(folio);
		stream_add_page(stream, folio_file_page(folio, index));
		/* The lock of a large folio would be taken twice. */
		if (shared || folio_test_uptodate(folio) ||
		    folio_test_large(folio)) {
			folio_get(folio);
			migr_write_end(file, index, 0, folio);
		}
	}
	return 0;
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

/* Receive what has come already. */
static int recv_queued(struct migr_stream *stream, unsigned int nr)
{
	struct msghdr msg = {};
	int ret;

	ret = take_pages(stream, nr);
	if (ret)
		return ret;
	stream_set_pages(stream, ITER_DEST);
	msg.msg_iter = stream->iter;
	/* Nobody is to wait for a page's lock as long as we for the peer. */
	ret = sock_recvmsg(stream->sock, &msg, MSG_DONTWAIT);
	give_pages(stream, max(ret, 0));
	return ret;
}

/* Receive the rest of a page, however long it takes. */
static int recv_page(struct migr_stream *stream)
{
	struct address_space *mapping = stream->member->region->mapping;
	struct msghdr msg = {};
	struct bio_vec bvec;
	struct page *page;
	int ret;

	page = read_page(mapping, stream_first(stream) + stream->next);
	if (IS_ERR(page))
		return PTR_ERR(page);
	bvec_set_page(&bvec, page, PAGE_SIZE - stream->filled, stream->filled);
	iov_iter_bvec(&msg.msg_iter, ITER_DEST, &bvec, 1, bvec.bv_len);
	ret = sock_recvmsg(stream->sock, &msg, MSG_WAITALL);
	/* Even a part must not be dropped by reclaim. */
	set_page_dirty(page);
	put_page(page);
	return ret < 0 ? socket_error(ret) : ret;
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
			return ret;
	}
	return 0;
}

static int step_recv_pages(struct migr_stream *stream)
{
	unsigned int nr = 0;
	int ret = -EAGAIN;

	if (stream->next == MIGR_CHUNK_PAGES) {
		stream->step = STEP_RECV_END;
		return 0;
	}
	if (!stream->filled)
		nr = min(stream_queued(stream) / PAGE_SIZE, RECV_PAGES);
	if (nr)
		ret = recv_queued(stream, nr);
	if (ret == -EAGAIN)
		ret = recv_page(stream);
	if (ret <= 0)
		return ret ?: -ECONNRESET;
	stream_filled(stream, ret);
	return 0;
}

/* A chunk is complete. */
static int step_recv_end(struct migr_stream *stream)
{
	struct migr_region *region = stream->member->region;
	unsigned int from, to;
	int ret;

	for_each_set_bitrange(from, to, stream->data, MIGR_CHUNK_PAGES)
		migr_region_wrote(region, stream_first(stream) + from,
				  to - from);
	ret = punch_zeroes(stream);
	if (ret)
		return ret;
	stream->pass_chunks++;
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

	ret = stream_send(stream, false, 0);
	if (ret)
		return ret;
	migr_migration_count(stream->migration, &stream->counts);
	migr_migration_end_pass(stream->migration, stream->frame.last);
	stream->pass++;
	stream->pass_chunks = 0;
	if (stream->frame.last)
		stream->step = STEP_DONE;
	else
		expect_head(stream);
	return 0;
}

static int (*const stream_steps[])(struct migr_stream *stream) = {
	[STEP_CLAIM] = step_claim,
	[STEP_SEND_HEAD] = step_send_head,
	[STEP_SEND_PAGES] = step_send_pages,
	[STEP_SEND_END] = step_send_end,
	[STEP_RECV_ACK] = step_recv_ack,
	[STEP_RECV_HEAD] = step_recv_head,
	[STEP_RECV_MASKS] = step_recv_masks,
	[STEP_RECV_PAGES] = step_recv_pages,
	[STEP_RECV_END] = step_recv_end,
	[STEP_SEND_ACK] = step_send_ack,
};

static void stream_fail(struct migr_stream *stream, int error)
{
	stream->step = STEP_FAILED;
	stream_drop_pages(stream);
	/* The peer shall not wait for what will not come. */
	kernel_sock_shutdown(stream->sock, SHUT_RDWR);
	migr_migration_fail(stream->migration, error);
}

static int stream_run(struct migr_stream *stream)
{
	int ret = 0;

	switch (stream->step) {
	case STEP_FAILED:
		return -EPIPE;
	case STEP_IDLE:
		if (READ_ONCE(stream->migration->state) != MIGR_STATE_PASS)
			return -EINVAL;
		stream->pass_chunks = 0;
		stream->step = STEP_CLAIM;
		break;
	default:
		break;
	}
	while (!ret && stream->step != STEP_IDLE && stream->step != STEP_DONE) {
		if (signal_pending(current))
			ret = -ERESTARTSYS;
		else
			ret = stream_steps[stream->step](stream);
	}
	/* Signals leave it as it is, to be run again. */
	if (ret && ret != -ERESTARTSYS && ret != -EINTR)
		stream_fail(stream, ret);
	return ret;
}

static int stream_ioctl_run(struct migr_ucmd *ucmd)
{
	struct migr_stream *stream = ucmd->file->private_data;
	struct migr_stream_run *run = ucmd->cmd;
	int ret;

	if (run->flags)
		return -EOPNOTSUPP;
	if (!mutex_trylock(&stream->run))
		return -EBUSY;
	ret = stream_run(stream);
	mutex_unlock(&stream->run);
	return ret;
}

/* Without stream->run: it is for a stream that runs, and waits. */
static int stream_ioctl_shutdown(struct migr_ucmd *ucmd)
{
	struct migr_stream *stream = ucmd->file->private_data;
	struct migr_stream_shutdown *shutdown = ucmd->cmd;

	if (shutdown->flags)
		return -EOPNOTSUPP;
	kernel_sock_shutdown(stream->sock, SHUT_RDWR);
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

static void stream_free(struct migr_stream *stream)
{
	stream_drop_pages(stream);
	mutex_destroy(&stream->run);
	sockfd_put(stream->sock);
	migr_migration_put(stream->migration);
	kvfree(stream);
}

static int stream_release(struct inode *inode, struct file *file)
{
	struct migr_stream *stream = file->private_data;
	u32 state = READ_ONCE(stream->migration->state);

	if (state != MIGR_STATE_COMPLETE && state != MIGR_STATE_FAILED)
		stream_fail(stream, -ECANCELED);
	stream_free(stream);
	return 0;
}

static const struct file_operations stream_fops = {
	.owner = THIS_MODULE,
	.release = stream_release,
	.unlocked_ioctl = stream_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static int check_socket(const struct socket *sock)
{
	const struct sock *sk = sock->sk;

	if (sock->type != SOCK_STREAM)
		return -EPROTONOSUPPORT;
	switch (sk->sk_family) {
	case AF_UNIX:
		break;
	case AF_INET:
	case AF_INET6:
		if (sk->sk_protocol == IPPROTO_TCP)
			break;
		fallthrough;
	default:
		return -EPROTONOSUPPORT;
	}
	/* Of all three; sock->state lags behind a connect() that did not wait. */
	return READ_ONCE(sk->sk_state) == TCP_ESTABLISHED ? 0 : -ENOTCONN;
}

/**
 * migr_stream_create() - make a stream of a migration
 * @migration: the migration; its regions do not change any more
 * @socket_fd: a connected socket
 * @copy: copy pages into the socket instead of lending them
 *
 * Return: its file, or an error pointer: -EBADF, -ENOTSOCK, -EPROTONOSUPPORT,
 * -ENOTCONN, -ENOMEM, -ENFILE.
 */
struct file *migr_stream_create(struct migr_migration *migration, int socket_fd,
				bool copy)
{
	struct migr_stream *stream;
	struct socket *sock;
	struct file *file;
	int ret;

	sock = sockfd_lookup(socket_fd, &ret);
	if (!sock)
		return ERR_PTR(ret);
	ret = check_socket(sock);
	if (ret)
		goto err_put;
	stream = migr_may_fail(kvzalloc(sizeof(*stream), GFP_KERNEL_ACCOUNT),
			       NULL);
	if (!stream) {
		ret = -ENOMEM;
		goto err_put;
	}
	kref_get(&migration->ref);
	stream->migration = migration;
	stream->sock = sock;
	stream->copy = copy;
	stream->pass = 1;
	mutex_init(&stream->run);
	if (migration->role == MIGR_ROLE_DESTINATION)
		expect_head(stream);
	file = migr_may_fail(anon_inode_getfile("[migr-stream]", &stream_fops,
						stream, O_RDWR),
			     ERR_PTR(-ENFILE));
	if (IS_ERR(file))
		stream_free(stream);
	return file;

err_put:
	sockfd_put(sock);
	return ERR_PTR(ret);
}
