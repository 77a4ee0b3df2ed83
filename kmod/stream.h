/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_STREAM_H
#define _MIGR_STREAM_H

#include <linux/bitmap.h>
#include <linux/bvec.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <linux/migr.h>

#include "dirty.h"
#include "migration.h"
#include "wire.h"

struct file;
struct migr_compressor;
struct migr_transport;

/**
 * enum stream_step - what a stream does next
 * @STEP_IDLE: source: nothing, until a pass begins
 * @STEP_CLAIM: source: claim and collect a chunk, or find out what else is due
 * @STEP_SEND_GONE: source: tell of a dead stream
 * @STEP_SEND_HEAD: source: send a chunk's header and masks
 * @STEP_SEND_PAGES: source: send its pages, compressed or not
 * @STEP_SEND_END: source: ask for all that was sent to be acknowledged
 * @STEP_RECV_ACK: source: wait for the acknowledgment
 * @STEP_SEND_DONE: source: tell that the last pass is complete
 * @STEP_RECV_HEAD: destination: receive a header
 * @STEP_RECV_MASKS: destination: receive a chunk's masks
 * @STEP_RECV_PACKED: destination: receive its pages compressed
 * @STEP_RECV_PAGES: destination: receive its pages, or expand them
 * @STEP_RECV_END: destination: make its zero pages holes
 * @STEP_RECV_GONE: destination: wait for a dead stream's run to end
 * @STEP_SEND_ACK: destination: acknowledge what has arrived
 * @STEP_DONE: the last pass is complete
 * @STEP_FAILED: it cannot be used any more
 */
enum stream_step {
	STEP_IDLE,
	STEP_CLAIM,
	STEP_SEND_GONE,
	STEP_SEND_HEAD,
	STEP_SEND_PAGES,
	STEP_SEND_END,
	STEP_RECV_ACK,
	STEP_SEND_DONE,
	STEP_RECV_HEAD,
	STEP_RECV_MASKS,
	STEP_RECV_PACKED,
	STEP_RECV_PAGES,
	STEP_RECV_END,
	STEP_RECV_GONE,
	STEP_SEND_ACK,
	STEP_DONE,
	STEP_FAILED,
};

/**
 * struct migr_stream - a connection of a migration
 * @ref: held by its file, and by who shuts it down
 * @migration: the migration, with a reference
 * @transport: the connection
 * @id: its number
 * @copy: copy pages into the socket instead of lending them
 * @compressor: what chunks may be compressed with, or NULL
 * @node: in &migr_migration.streams, under the migration's lock
 * @running: a thread runs it; under the migration's lock
 * @gone: it is not to be run any more
 * @writes: destination: what has arrived is not all in memory; under the
 *	migration's lock
 * @busy: source: counted in &migr_migration.nr_busy, under the migration's lock
 * @told: source: dead streams that the destination has been told of over this one
 * @step: what it does next
 * @shared_error: why it fails is not the connection's fault
 * @version: destination: of the frames that arrive, 0 before the first
 * @pass: the pass that it is in
 * @nr_unacked: chunks that went over it since the last acknowledgment
 * @unacked: source: which they are
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
	struct kref ref;
	struct migr_migration *migration;
	struct migr_transport *transport;
	u32 id;
	bool copy;
	struct migr_compressor *compressor;
	struct list_head node;
	bool running;
	bool gone;
	bool writes;
	bool busy;
	DECLARE_BITMAP(told, MIGR_STREAM_IDS);
	enum stream_step step;
	bool shared_error;
	unsigned int version;
	u32 pass;
	u64 nr_unacked;
	struct migr_unacked unacked;
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

struct file *migr_stream_create(struct migr_migration *migration,
				const struct migr_migration_add_stream *add);
void migr_stream_end(struct migr_stream *stream);
void migr_stream_put(struct migr_stream *stream);

#endif /* _MIGR_STREAM_H */
