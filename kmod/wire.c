// SPDX-License-Identifier: GPL-2.0-only
/*
 * Making frames, and checking those that arrive: nothing a peer sends is
 * believed before it has been here. No locks, no state. Also built in user space
 * and fuzzed there, see selftests/fuzz/wire.c.
 */
#include <linux/bitops.h>
#include <linux/errno.h>
#include <linux/types.h>
#include <asm/byteorder.h>

#include "wire.h"

#define MASK_WORDS	(MIGR_WIRE_CHUNK_PAGES / 64)

/**
 * migr_wire_put_hdr() - make a header
 * @hdr: out
 * @frame: what it says
 */
void migr_wire_put_hdr(struct migr_wire_hdr *hdr,
		       const struct migr_wire_frame *frame)
{
	*hdr = (struct migr_wire_hdr) {
		.magic = cpu_to_le32(MIGR_WIRE_MAGIC),
		.version = frame->version,
		.type = frame->type,
		.flags = cpu_to_le16((frame->last ? MIGR_WIRE_LAST : 0) |
				     (frame->compressed ?
				      MIGR_WIRE_COMPRESSED : 0)),
		.region = cpu_to_le32(frame->region),
		.pass = cpu_to_le32(frame->pass),
		.value = cpu_to_le64(frame->value),
		.length = cpu_to_le32(frame->length),
	};
}

static bool chunk_length_valid(const struct migr_wire_frame *frame)
{
	u32 length = frame->length;

	if (length < sizeof(struct migr_wire_masks))
		return false;
	length -= sizeof(struct migr_wire_masks);
	if (frame->compressed)
		return length && length < MIGR_WIRE_CHUNK_PAGES *
					  MIGR_WIRE_PAGE_SIZE;
	return length % MIGR_WIRE_PAGE_SIZE == 0 &&
	       length / MIGR_WIRE_PAGE_SIZE <= MIGR_WIRE_CHUNK_PAGES;
}

/**
 * migr_wire_get_hdr() - check a header that arrived
 * @hdr: the header
 * @frame: out, what it says
 *
 * Checks all that can be without knowing the regions.
 *
 * Return: 0, -EPROTONOSUPPORT if it is of another version, or -EPROTO.
 */
int migr_wire_get_hdr(const struct migr_wire_hdr *hdr,
		      struct migr_wire_frame *frame)
{
	u16 flags = le16_to_cpu(hdr->flags);

	if (le32_to_cpu(hdr->magic) != MIGR_WIRE_MAGIC)
		return -EPROTO;
	if (hdr->version < MIGR_WIRE_VERSION_MIN ||
	    hdr->version > MIGR_WIRE_VERSION)
		return -EPROTONOSUPPORT;
	if (hdr->reserved)
		return -EPROTO;
	*frame = (struct migr_wire_frame) {
		.version = hdr->version,
		.type = hdr->type,
		.last = flags & MIGR_WIRE_LAST,
		.compressed = !!(flags & MIGR_WIRE_COMPRESSED),
		.region = le32_to_cpu(hdr->region),
		.pass = le32_to_cpu(hdr->pass),
		.value = le64_to_cpu(hdr->value),
		.length = le32_to_cpu(hdr->length),
	};
	switch (frame->type) {
	case MIGR_WIRE_CHUNK:
		if (flags & ~(frame->version == 1 ? 0 : MIGR_WIRE_COMPRESSED) ||
		    !chunk_length_valid(frame))
			return -EPROTO;
		return 0;
	case MIGR_WIRE_PASS_END:
	case MIGR_WIRE_PASS_ACK:
		if (flags & ~(frame->version == 1 ? MIGR_WIRE_LAST : 0) ||
		    frame->region || frame->length)
			return -EPROTO;
		return 0;
	case MIGR_WIRE_GONE:
	case MIGR_WIRE_DONE:
		if (frame->version < 2 || flags || frame->region ||
		    frame->length)
			return -EPROTO;
		if (frame->type == MIGR_WIRE_DONE && frame->value)
			return -EPROTO;
		return 0;
	default:
		return -EPROTO;
	}
}

/**
 * migr_wire_get_masks() - check the masks of a CHUNK
 * @masks: what arrived
 * @frame: the header they followed
 * @chunk_pages: how many pages this chunk has in its region
 * @data: out, %MIGR_WIRE_CHUNK_PAGES bits: pages that follow
 * @zero: out, likewise: pages that are zero
 *
 * Return: 0, or -EPROTO if a page is in both masks or beyond the region, or
 * there are more or fewer pages than the header's length tells; compressed, not
 * more than that.
 */
int migr_wire_get_masks(const struct migr_wire_masks *masks,
			const struct migr_wire_frame *frame,
			unsigned int chunk_pages, __u64 *data, __u64 *zero)
{
	unsigned int i, length = sizeof(*masks);

	for (i = 0; i < MASK_WORDS; i++) {
		unsigned int valid = chunk_pages > i * 64 ?
				     chunk_pages - i * 64 : 0;
		u64 beyond = valid >= 64 ? 0 : ~0ULL << valid;

		data[i] = le64_to_cpu(masks->data[i]);
		zero[i] = le64_to_cpu(masks->zero[i]);
		if (data[i] & zero[i] || (data[i] | zero[i]) & beyond)
			return -EPROTO;
		length += hweight64(data[i]) * MIGR_WIRE_PAGE_SIZE;
	}
	if (frame->compressed ? frame->length >= length :
				frame->length != length)
		return -EPROTO;
	return 0;
}

/**
 * migr_wire_get_units() - check how compressed content is divided
 * @units: the content, which begins with that
 * @bytes: how many bytes it has
 * @pages: how many pages it is to make, up to %MIGR_WIRE_CHUNK_PAGES
 * @sizes: out, bytes of each unit, %MIGR_WIRE_UNITS at most
 *
 * Return: 0, or -EPROTO if a unit has no bytes, or more than its pages, or all
 * together are not @bytes.
 */
int migr_wire_get_units(const __le32 *units, __u32 bytes, unsigned int pages,
			__u32 *sizes)
{
	unsigned int nr = migr_wire_nr_units(pages), i, left;

	if (bytes < nr * sizeof(*units))
		return -EPROTO;
	bytes -= nr * sizeof(*units);
	for (i = 0; i < nr; i++) {
		left = pages - i * MIGR_WIRE_UNIT_PAGES;
		if (left > MIGR_WIRE_UNIT_PAGES)
			left = MIGR_WIRE_UNIT_PAGES;
		sizes[i] = le32_to_cpu(units[i]);
		if (!sizes[i] || sizes[i] > left * MIGR_WIRE_PAGE_SIZE)
			return -EPROTO;
		/* May wrap, but not as far as to nothing. */
		bytes -= sizes[i];
	}
	return bytes ? -EPROTO : 0;
}
