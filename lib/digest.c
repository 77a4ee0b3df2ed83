// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Digests of guest memory: equal if and only if the content is, however it is
 * stored.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Inlined: for pieces of a page the calls of the shared library cost more. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "internal.h"

/* Between two looks whether to stop: a few milliseconds at most. */
#define PIECE	(4 << 20)

static bool page_is_zero(const uint64_t *words, uint32_t page_size)
{
	for (uint32_t i = 0; i < page_size / sizeof(*words); i++)
		if (words[i])
			return false;
	return true;
}

/* The digest of a region is a chain of these, one a page that is not zero. */
struct link {
	XXH128_canonical_t before;
	uint64_t index;			/* little-endian */
	XXH128_canonical_t page;
};

static void digest_store(XXH128_hash_t hash, struct migr_digest *digest)
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(digest->bytes, canonical.digest, sizeof(digest->bytes));
}

/* Pages between two offsets, both multiples of the page size. */
static XXH128_hash_t digest_range(XXH128_hash_t chain, const uint8_t *memory, uint32_t page_size,
				  off_t offset, off_t end)
{
	struct link link;

	for (; offset < end; offset += page_size) {
		if (page_is_zero((const uint64_t *)(memory + offset), page_size))
			continue;
		XXH128_canonicalFromHash(&link.before, chain);
		link.index = htole64(offset / page_size);
		XXH128_canonicalFromHash(&link.page, XXH3_128bits(memory + offset, page_size));
		chain = XXH3_128bits(&link, sizeof(link));
	}
	return chain;
}

/* Reading a hole through a mapping would fill it: data alone is visited. */
static int digest_data(int region, const uint8_t *memory, uint32_t page_size,
		       bool (*stop)(const void *data), const void *stop_data,
		       struct migr_digest *digest)
{
	XXH128_hash_t chain = { 0 };
	off_t data, end, hole = 0;

	while ((data = lseek(region, hole, SEEK_DATA)) >= 0) {
		hole = lseek(region, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		for (; data < hole; data = end) {
			if (stop && stop(stop_data))
				return 1;
			end = hole - data < PIECE ? hole : data + PIECE;
			chain = digest_range(chain, memory, page_size, data, end);
		}
	}
	if (errno != ENXIO)		/* ENXIO: only a hole is left */
		return -errno;
	digest_store(chain, digest);
	return 0;
}

int digest_region(int region, uint32_t page_size, bool (*stop)(const void *data), const void *data,
		  struct migr_digest *digest)
{
	off_t length = lseek(region, 0, SEEK_END);
	void *memory;
	int error;

	if (length < 0)
		return -errno;
	memory = mmap(NULL, length, PROT_READ, MAP_SHARED, region, 0);
	if (memory == MAP_FAILED)
		return -errno;
	error = digest_data(region, memory, page_size, stop, data, digest);
	munmap(memory, length);
	return error;
}

/* One region: its own digest; several: the digest of theirs, in that order. */
void digest_combine(const struct migr_digest *digests, unsigned int count,
		    struct migr_digest *out)
{
	if (count == 1)
		*out = digests[0];
	else
		digest_store(XXH3_128bits(digests, count * sizeof(*digests)), out);
}

void migr_digest_hex(const struct migr_digest *digest, char hex[MIGR_DIGEST_HEX])
{
	for (size_t i = 0; i < sizeof(digest->bytes); i++)
		sprintf(hex + 2 * i, "%02x", digest->bytes[i]);
}

int digest_parse(const char *hex, struct migr_digest *digest)
{
	char again[MIGR_DIGEST_HEX];

	if (strlen(hex) != MIGR_DIGEST_HEX - 1)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(digest->bytes); i++)
		if (sscanf(hex + 2 * i, "%2hhx", &digest->bytes[i]) != 1)
			return -EINVAL;
	migr_digest_hex(digest, again);
	return strcmp(hex, again) ? -EINVAL : 0;
}
