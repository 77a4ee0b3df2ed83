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
#define MIGR_WIRE_VERSION	2
/* The oldest that a destination understands. */
#define MIGR_WIRE_VERSION_MIN	1
#define MIGR_WIRE_PAGE_SIZE	4096
#define MIGR_WIRE_CHUNK_PAGES	512
/* As many as the kernel's software compresses at once. */
#define MIGR_WIRE_UNIT_PAGES	32U
#define MIGR_WIRE_UNITS		(MIGR_WIRE_CHUNK_PAGES / MIGR_WIRE_UNIT_PAGES)

/**
 * enum migr_wire_type - kinds of frames
 * @MIGR_WIRE_CHUNK: source to destination: pages of one chunk
 * @MIGR_WIRE_PASS_END: source to destination: that was all for now
 * @MIGR_WIRE_PASS_ACK: destination to source: all of that is in memory
 * @MIGR_WIRE_GONE: source to destination: another stream is dead; since version 2
 * @MIGR_WIRE_DONE: source to destination: all streams have brought the last pass;
 *	since version 2
 */
enum migr_wire_type {
	MIGR_WIRE_CHUNK = 1,
	MIGR_WIRE_PASS_END = 2,
	MIGR_WIRE_PASS_ACK = 3,
	MIGR_WIRE_GONE = 4,
	MIGR_WIRE_DONE = 5,
};

/* Flags of PASS_END and PASS_ACK in version 1, which has one stream and no DONE. */
#define MIGR_WIRE_LAST		0x1
/* Flag of CHUNK in version 2, if both sides have agreed on an algorithm. */
#define MIGR_WIRE_COMPRESSED	0x2

/**
 * struct migr_wire_hdr - begins every frame
 * @magic: %MIGR_WIRE_MAGIC
 * @version: the same in all frames of a stream
 * @type: one of enum migr_wire_type
 * @flags: version 1: %MIGR_WIRE_LAST in the frames of the last pass's end; version
 *	2: CHUNK: %MIGR_WIRE_COMPRESSED or 0; else 0
 * @region: CHUNK: number of the region, else 0
 * @pass: number of the pass, from 1
 * @value: CHUNK: index of the chunk in its region; PASS_END and PASS_ACK: how
 *	many CHUNK frames came since the last PASS_END; GONE: number of the
 *	stream; DONE: 0
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
 * A page in neither is unchanged. The pages follow in ascending order; with
 * %MIGR_WIRE_COMPRESSED in units of %MIGR_WIRE_UNIT_PAGES, the last of as many as are
 * left, after a __le32 for each: how many bytes it takes. They are the pages themselves
 * if there are as many, else what these are compressed to.
 */
struct migr_wire_masks {
	__le64 data[MIGR_WIRE_CHUNK_PAGES / 64];
	__le64 zero[MIGR_WIRE_CHUNK_PAGES / 64];
};

/**
 * struct migr_wire_frame - a header in this CPU's byte order, checked
 * @version: as in &migr_wire_hdr
 * @type: likewise
 * @last: %MIGR_WIRE_LAST is set
 * @compressed: %MIGR_WIRE_COMPRESSED is set
 * @region: likewise
 * @pass: likewise
 * @value: likewise
 * @length: likewise
 */
struct migr_wire_frame {
	unsigned int version;
	unsigned int type;
	int last;
	int compressed;
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
int migr_wire_get_units(const __le32 *units, __u32 bytes, unsigned int pages,
			__u32 *sizes);

/**
 * migr_wire_nr_units() - how many units compressed pages come in
 * @pages: how many they are
 *
 * Return: how many, the last of which may have fewer pages than the others.
 */
static inline unsigned int migr_wire_nr_units(unsigned int pages)
{
	return (pages + MIGR_WIRE_UNIT_PAGES - 1) / MIGR_WIRE_UNIT_PAGES;
}

#endif /* _MIGR_WIRE_H */
