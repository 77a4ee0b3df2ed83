/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What goes over a stream: frames of a fixed header and, for a chunk, two page
 * masks and the pages. Little-endian. Documentation/wire-protocol.rst tells
 * the order of frames. Knows nothing of sockets or memory.
 */
#ifndef _MIGR_WIRE_H
#define _MIGR_WIRE_H

#include <linux/types.h>

#define MIGR_WIRE_MAGIC		0x5247494dU	/* "MIGR" */
#define MIGR_WIRE_VERSION	1
#define MIGR_WIRE_PAGE_SIZE	4096
#define MIGR_WIRE_CHUNK_PAGES	512

/**
 * enum migr_wire_type - kinds of frames
 * @MIGR_WIRE_CHUNK: source to destination: pages of one chunk
 * @MIGR_WIRE_PASS_END: source to destination: all of a pass has been sent
 * @MIGR_WIRE_PASS_ACK: destination to source: all of a pass is in memory
 */
enum migr_wire_type {
	MIGR_WIRE_CHUNK = 1,
	MIGR_WIRE_PASS_END = 2,
	MIGR_WIRE_PASS_ACK = 3,
};

/* Flags of PASS_END and PASS_ACK. */
#define MIGR_WIRE_LAST		0x1

/**
 * struct migr_wire_hdr - begins every frame
 * @magic: %MIGR_WIRE_MAGIC
 * @version: %MIGR_WIRE_VERSION
 * @type: one of enum migr_wire_type
 * @flags: %MIGR_WIRE_LAST in the frames of the last pass's end, else 0
 * @region: CHUNK: number of the region, else 0
 * @pass: number of the pass, from 1
 * @value: CHUNK: index of the chunk in its region; PASS_END and PASS_ACK: how
 *	many CHUNK frames the pass had
 * @length: bytes that follow the header in this frame
 * @reserved: 0
 */
struct migr_wire_hdr {
	__le32 magic;
	__u8 version;
	__u8 type;
	__le16 flags;
	__le32 region;
	__le32 pass;
	__le64 value;
	__le32 length;
	__le32 reserved;
};

/**
 * struct migr_wire_masks - follows the header of a CHUNK
 * @data: bit n of word n / 64: page n of the chunk follows
 * @zero: likewise: page n of the chunk is all zero
 *
 * A page in neither is unchanged. The pages follow in ascending order.
 */
struct migr_wire_masks {
	__le64 data[MIGR_WIRE_CHUNK_PAGES / 64];
	__le64 zero[MIGR_WIRE_CHUNK_PAGES / 64];
};

/**
 * struct migr_wire_frame - a header in this CPU's byte order, checked
 * @type: as in &migr_wire_hdr
 * @last: %MIGR_WIRE_LAST is set
 * @region: likewise
 * @pass: likewise
 * @value: likewise
 * @length: likewise
 */
struct migr_wire_frame {
	unsigned int type;
	int last;
	__u32 region;
	__u32 pass;
	__u64 value;
	__u32 length;
};

void migr_wire_put_hdr(struct migr_wire_hdr *hdr,
		       const struct migr_wire_frame *frame);
int migr_wire_get_hdr(const struct migr_wire_hdr *hdr,
		      struct migr_wire_frame *frame);
int migr_wire_get_masks(const struct migr_wire_masks *masks,
			const struct migr_wire_frame *frame,
			unsigned int chunk_pages, __u64 *data, __u64 *zero);

#endif /* _MIGR_WIRE_H */
