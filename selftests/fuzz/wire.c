// SPDX-License-Identifier: GPL-2.0-only
/*
 * kmod/wire.c against Documentation/wire-protocol.rst: what it makes of any
 * bytes must be what that page says, read here a second time, bytewise.
 *
 * Input: 16 bits, how many pages the chunk has in its region, the highest one
 * telling to make the length fit the masks, which mutations seldom do: if they are
 * compressed, to make it fit the units, or if these are too large less by one, or if the
 * next bit tells so one that has no room for their sizes; then a header; then masks;
 * then the sizes of units.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <asm/byteorder.h>

#include "../../kmod/wire.h"
#include "fuzz.h"

#define CHUNK_PAGES	512
#define PAGE_BYTES	4096
#define MASK_BYTES	(CHUNK_PAGES / 8)
#define UNIT_PAGES	32
#define UNITS		(CHUNK_PAGES / UNIT_PAGES)

struct input {
	uint8_t pages[2];
	uint8_t hdr[32];
	uint8_t masks[2 * MASK_BYTES];
	uint8_t units[4 * UNITS];
};

static uint64_t le(const uint8_t *bytes, unsigned int count)
{
	uint64_t value = 0;

	while (count--)
		value = value << 8 | bytes[count];
	return value;
}

static bool in_mask(const uint8_t *mask, unsigned int page)
{
	return mask[page / 8] >> page % 8 & 1;
}

static bool in_words(const __u64 *words, unsigned int page)
{
	return words[page / 64] >> page % 64 & 1;
}

static uint32_t length_of(const uint8_t *masks)
{
	uint32_t length = 2 * MASK_BYTES;

	for (unsigned int page = 0; page < CHUNK_PAGES; page++)
		length += in_mask(masks, page) ? PAGE_BYTES : 0;
	return length;
}

static unsigned int data_pages(const uint8_t *masks)
{
	return (length_of(masks) - 2 * MASK_BYTES) / PAGE_BYTES;
}

/* What units of as many pages say that they take, with that. */
static uint64_t units_bytes(const uint8_t *units, unsigned int pages)
{
	uint64_t bytes = 0;

	for (unsigned int page = 0; page < pages; page += UNIT_PAGES, units += 4)
		bytes += 4 + le(units, 4);
	return bytes;
}

/* What the page says of a header. */
static int hdr_verdict(const uint8_t *hdr)
{
	uint64_t version = hdr[4], type = hdr[5], flags = le(hdr + 6, 2);
	uint64_t region = le(hdr + 8, 4), value = le(hdr + 16, 8);
	uint64_t length = le(hdr + 24, 4), reserved = le(hdr + 28, 4);

	if (memcmp(hdr, "MIGR", 4))
		return -EPROTO;
	if (version != 1 && version != 2)
		return -EPROTONOSUPPORT;
	if (reserved)
		return -EPROTO;
	if (type == 1 && version == 2 && flags == 2)
		return length > 2 * MASK_BYTES &&
		       length < 2 * MASK_BYTES + CHUNK_PAGES * PAGE_BYTES ? 0 : -EPROTO;
	if (type == 1)
		return !flags && length >= 2 * MASK_BYTES &&
		       !((length - 2 * MASK_BYTES) % PAGE_BYTES) &&
		       (length - 2 * MASK_BYTES) / PAGE_BYTES <= CHUNK_PAGES ? 0 : -EPROTO;
	if (type == 2 || type == 3)
		return flags <= (version == 1) && !region && !length ? 0 : -EPROTO;
	if (version == 2 && (type == 4 || (type == 5 && !value)))
		return !flags && !region && !length ? 0 : -EPROTO;
	return -EPROTO;
}

/* And of masks after a valid header. */
static int masks_verdict(const uint8_t *hdr, const uint8_t *masks, unsigned int pages)
{
	for (unsigned int page = 0; page < CHUNK_PAGES; page++) {
		bool data = in_mask(masks, page), zero = in_mask(masks + MASK_BYTES, page);

		if ((data && zero) || (page >= pages && (data || zero)))
			return -EPROTO;
	}
	if (hdr[6] & 2)
		return le(hdr + 24, 4) < length_of(masks) ? 0 : -EPROTO;
	return le(hdr + 24, 4) == length_of(masks) ? 0 : -EPROTO;
}

/* And of units, after valid masks. */
static int units_verdict(const uint8_t *units, uint32_t bytes, unsigned int pages)
{
	for (unsigned int unit = 0; unit * UNIT_PAGES < pages; unit++) {
		unsigned int left = pages - unit * UNIT_PAGES;
		uint64_t size = le(units + 4 * unit, 4);

		if (!size || size > (left < UNIT_PAGES ? left : UNIT_PAGES) * PAGE_BYTES)
			return -EPROTO;
	}
	return units_bytes(units, pages) == bytes ? 0 : -EPROTO;
}

static int get_hdr(const struct migr_wire_hdr *hdr, struct migr_wire_frame *frame)
{
	struct migr_wire_hdr seen = *hdr;

	/* Parsers that overlook something, for the test of this test. */
#ifdef BROKEN_RESERVED
	seen.reserved = 0;
#endif
#ifdef BROKEN_FLAGS
	seen.flags &= MIGR_WIRE_LAST | MIGR_WIRE_COMPRESSED;
#endif
#ifdef BROKEN_COMPRESSED
	if (seen.type != MIGR_WIRE_CHUNK || seen.version == 1)
		seen.flags &= ~MIGR_WIRE_COMPRESSED;
#endif
#ifdef BROKEN_REGION
	if (seen.type != MIGR_WIRE_CHUNK)
		seen.region = 0;
#endif
#ifdef BROKEN_VERSION
	if (seen.version > MIGR_WIRE_VERSION)
		seen.version = MIGR_WIRE_VERSION;
#endif
#ifdef BROKEN_LAST
	if (seen.version == 2)
		seen.flags &= ~MIGR_WIRE_LAST;
#endif
#ifdef BROKEN_OLD
	if (seen.type == MIGR_WIRE_GONE || seen.type == MIGR_WIRE_DONE)
		seen.version = 2;
#endif
#ifdef BROKEN_GONE
	if (seen.type == MIGR_WIRE_GONE)
		seen.BROKEN_GONE = 0;
#endif
#ifdef BROKEN_DONE
	if (seen.type == MIGR_WIRE_DONE)
		seen.BROKEN_DONE = 0;
#endif
	return migr_wire_get_hdr(&seen, frame);
}

static int get_masks(const struct migr_wire_masks *masks, const struct migr_wire_frame *frame,
		     unsigned int pages, __u64 *data, __u64 *zero)
{
	struct migr_wire_masks seen = *masks;
	struct migr_wire_frame claimed = *frame;

#ifdef BROKEN_OVERLAP
	for (int i = 0; i < CHUNK_PAGES / 64; i++)
		seen.zero[i] &= ~seen.data[i];
#endif
#ifdef BROKEN_BEYOND
	pages = CHUNK_PAGES;
#endif
#ifdef BROKEN_LONGER
	if (claimed.compressed && claimed.length > 2 * MASK_BYTES + PAGE_BYTES)
		claimed.length = 2 * MASK_BYTES + 1;
#endif
#ifdef BROKEN_LENGTH
	claimed.length = length_of((const uint8_t *)&seen);
#endif
	return migr_wire_get_masks(&seen, &claimed, pages, data, zero);
}

static int get_units(const uint8_t *units, uint32_t bytes, unsigned int pages, __u32 *sizes)
{
	__le32 *seen = malloc(UNITS * sizeof(*seen));
	int ret;

	assert(seen);
	memcpy(seen, units, UNITS * sizeof(*seen));
#ifdef BROKEN_NOTHING
	if (!seen[0]) {
		seen[0] = __cpu_to_le32(1);
		bytes++;
	}
#endif
#ifdef BROKEN_LARGE
	if (le(units, 4) > UNIT_PAGES * PAGE_BYTES) {
		seen[0] = __cpu_to_le32(1);
		bytes -= (uint32_t)le(units, 4) - 1;
	}
#endif
#ifdef BROKEN_SHORT
	if (bytes < (pages + UNIT_PAGES - 1) / UNIT_PAGES * sizeof(*seen))
		bytes = (uint32_t)units_bytes(units, pages);
#endif
#ifdef BROKEN_UNITS
	bytes = (uint32_t)units_bytes(units, pages);
#endif
	/* No more than there are: what lies behind is not to be looked at. */
	if (bytes < UNITS * sizeof(*seen))
		seen = realloc(seen, bytes);
	ret = migr_wire_get_units(seen, bytes, pages, sizes);
	free(seen);
	return ret;
}

static void check_hdr(const uint8_t *bytes, const struct migr_wire_frame *frame)
{
	struct migr_wire_hdr again;

	assert(frame->version == bytes[4]);
	assert(frame->type == bytes[5]);
	assert(frame->last == (bytes[6] & 1));
	assert(frame->compressed == (bytes[6] >> 1 & 1));
	assert(frame->region == le(bytes + 8, 4));
	assert(frame->pass == le(bytes + 12, 4));
	assert(frame->value == le(bytes + 16, 8));
	assert(frame->length == le(bytes + 24, 4));
	migr_wire_put_hdr(&again, frame);
	assert(!memcmp(&again, bytes, sizeof(again)));
}

static uint32_t fitting_length(const struct input *input)
{
	uint32_t length = length_of(input->masks);
	uint64_t packed = 2 * MASK_BYTES + units_bytes(input->units, data_pages(input->masks));

	if (!(input->hdr[6] & MIGR_WIRE_COMPRESSED))
		return length;
	if (input->pages[1] & 0x40)
		return 2 * MASK_BYTES + 1;
	return packed < length ? (uint32_t)packed : length - 1;
}

static void check_units(const uint8_t *bytes, unsigned int pages, const __u32 *sizes)
{
	for (unsigned int unit = 0; unit * UNIT_PAGES < pages; unit++)
		assert(sizes[unit] == le(bytes + 4 * unit, 4));
}

static void check_masks(const uint8_t *bytes, const __u64 *data, const __u64 *zero)
{
	for (unsigned int page = 0; page < CHUNK_PAGES; page++) {
		assert(in_words(data, page) == in_mask(bytes, page));
		assert(in_words(zero, page) == in_mask(bytes + MASK_BYTES, page));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	__u64 data[CHUNK_PAGES / 64], zero[CHUNK_PAGES / 64];
	__u32 sizes[UNITS];
	struct migr_wire_masks masks;
	struct migr_wire_frame frame;
	struct input input = { 0 };
	struct migr_wire_hdr hdr;
	unsigned int pages;
	bool fitting;
	int verdict;

	memcpy(&input, bytes, size < sizeof(input) ? size : sizeof(input));
	fitting = input.pages[1] & 0x80;
	pages = (le(input.pages, 2) & 0x3fff) % (CHUNK_PAGES + 1);
	memcpy(&masks, input.masks, sizeof(masks));
	memcpy(&hdr, input.hdr, sizeof(hdr));
	if (fitting && hdr.type == MIGR_WIRE_CHUNK)
		hdr.length = __cpu_to_le32(fitting_length(&input));
	memcpy(input.hdr, &hdr, sizeof(hdr));

	verdict = hdr_verdict(input.hdr);
	assert(get_hdr(&hdr, &frame) == verdict);
	if (verdict)
		return 0;
	check_hdr(input.hdr, &frame);
	if (frame.type != MIGR_WIRE_CHUNK)
		return 0;
	verdict = masks_verdict(input.hdr, input.masks, pages);
	assert(get_masks(&masks, &frame, pages, data, zero) == verdict);
	if (verdict)
		return 0;
	check_masks(input.masks, data, zero);
	if (!frame.compressed)
		return 0;
	pages = data_pages(input.masks);
	verdict = units_verdict(input.units, frame.length - 2 * MASK_BYTES, pages);
	assert(get_units(input.units, frame.length - 2 * MASK_BYTES, pages, sizes) == verdict);
	if (!verdict)
		check_units(input.units, pages, sizes);
	return 0;
}
