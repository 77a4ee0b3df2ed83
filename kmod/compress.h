/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MIGR_COMPRESS_H
#define _MIGR_COMPRESS_H

#include <linux/scatterlist.h>
#include <linux/types.h>

#include "wire.h"

struct acomp_req;
struct bio_vec;
struct crypto_acomp;
struct migr_counts;

/* Pages that memory of a unit's size may touch. */
#define MIGR_UNIT_SEGMENTS	(MIGR_WIRE_UNIT_PAGES + 1)

/**
 * struct migr_compressor - what a stream compresses and expands chunks with
 * @tfm: the algorithm
 * @req: what it is asked to do, and the memory that it works in
 * @src: what it reads
 * @dst: where it writes
 * @plain: source: the pages of a unit, one after the other
 * @packed: a chunk's content as it is on the wire
 * @sizes: destination: bytes of each unit in @packed
 * @unit: destination: the unit to be expanded next
 * @offset: destination: where in @packed it begins
 * @cpu_percent: source: how much of the CPUs' time it may take while they are
 *	idle; 0: whatever they do
 * @skip: source: chunks not to be tried
 * @skip_next: source: chunks not to be tried after the next one that is not worth it
 * @window_ns: source: when the CPUs were last looked at
 * @idle_ns: source: how long they had been idle then, all together
 * @used_ns: source: time that compression has taken since
 * @share: source: of a CPU's time it may take so many 1024ths
 * @balance_ns: source: what it may take now
 */
struct migr_compressor {
	struct crypto_acomp *tfm;
	struct acomp_req *req;
	struct scatterlist src[MIGR_UNIT_SEGMENTS];
	struct scatterlist dst[MIGR_UNIT_SEGMENTS];
	u8 *plain;
	u8 *packed;
	u32 sizes[MIGR_WIRE_UNITS];
	unsigned int unit;
	unsigned int offset;
	unsigned int cpu_percent;
	unsigned int skip;
	unsigned int skip_next;
	u64 window_ns;
	u64 idle_ns;
	u64 used_ns;
	u64 share;
	s64 balance_ns;
};

u32 migr_compressions(void);
void migr_compress_exit(void);
struct migr_compressor *migr_compressor_create(u32 compression,
					       unsigned int cpu_percent);
void migr_compressor_free(struct migr_compressor *compressor);
unsigned int migr_compressor_pack(struct migr_compressor *compressor,
				  const struct bio_vec *bvecs, unsigned int nr,
				  unsigned int nr_streams,
				  struct migr_counts *counts);
int migr_compressor_begin(struct migr_compressor *compressor,
			  unsigned int bytes, unsigned int nr);
int migr_compressor_expand(struct migr_compressor *compressor,
			   const struct bio_vec *bvecs, unsigned int nr);

#endif /* _MIGR_COMPRESS_H */
