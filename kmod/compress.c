// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compression of the chunks of a stream: whether it is worth trying, and the
 * kernel's crypto API, which does it.
 *
 * crypto_acomp takes 128 KiB at once at most if the algorithm is software, copies
 * them, and holds a spinlock meanwhile. crypto_comp is the same code without.
 *
 * All of it belongs to the thread that runs the stream: no locks, and no memory
 * is allocated once there is a compressor.
 */
#include <linux/bvec.h>
#include <linux/cpumask.h>
#include <linux/crypto.h>
#include <linux/err.h>
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/tick.h>
#include <linux/migr.h>

#include "compress.h"
#include "inject.h"
#include "migration.h"
#include "trace.h"

#define CHUNK_BYTES	((size_t)MIGR_CHUNK_PAGES << PAGE_SHIFT)
/* Fewer pages are not worth the memory that an algorithm clears before it begins. */
#define PAGES_MIN	8
/* So many chunks are not tried at most: 128 MiB. */
#define SKIP_MAX	64U
/* How often it looks at the CPUs, at most. */
#define WINDOW_NS	(50 * NSEC_PER_MSEC)

static const char *const names[] = {
	[MIGR_COMPRESSION_LZ4] = "lz4",
	[MIGR_COMPRESSION_ZSTD] = "zstd",
};

/**
 * migr_compressions() - the algorithms that this kernel has
 *
 * Loads their modules if need be.
 *
 * Return: bit n is set for number n of enum migr_compression.
 */
u32 migr_compressions(void)
{
	u32 found = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i] && crypto_has_comp(names[i], 0, 0))
			found |= BIT(i);
	return found;
}

/* How long the CPUs that we may run on have been idle, without those that never tell. */
static u64 idle_ns(unsigned int *nr_cpus)
{
	unsigned int cpu;
	u64 us = 0;

	*nr_cpus = 0;
	for_each_cpu_and(cpu, current->cpus_ptr, cpu_online_mask) {
		/* Each is all ones, and does not change, if it is not known. */
		us += get_cpu_idle_time_us(cpu, NULL) +
		      get_cpu_iowait_time_us(cpu, NULL);
		++*nr_cpus;
	}
	return us * NSEC_PER_USEC;
}

/*
 * Half of its part of what was idle, and three quarters of what it took itself: in
 * time that is two thirds of what others leave, soon nothing if they leave
 * nothing, and steady even if others reckon the same way.
 */
static void look_at_cpus(struct migr_compressor *compressor, u64 now,
			 unsigned int nr_streams)
{
	u64 elapsed = now - compressor->window_ns;
	unsigned int nr_cpus;
	u64 idle, used, most;
	s64 slept;

	idle = idle_ns(&nr_cpus);
	/* Other CPUs than before, if we have been moved. */
	slept = max_t(s64, idle - compressor->idle_ns, 0);
	slept = min_t(u64, div64_u64(slept, elapsed >> 10), nr_cpus << 10);
	used = min(div64_u64(compressor->used_ns, elapsed >> 10),
		   compressor->share);
	most = (nr_cpus << 10) * compressor->cpu_percent / 100;

	compressor->share = min3((u64)slept / 2 / nr_streams + used * 3 / 4,
				 most / nr_streams, 1024ULL);
	/* What was not used is not saved up; what was overdrawn is paid back. */
	compressor->balance_ns =
		min_t(s64, compressor->balance_ns +
			   compressor->share * (elapsed >> 10),
		      compressor->share * (WINDOW_NS >> 10));
	compressor->window_ns = now;
	compressor->idle_ns = idle;
	compressor->used_ns = 0;
}

static bool has_time(struct migr_compressor *compressor,
		     unsigned int nr_streams)
{
	u64 now = ktime_get_ns();

	if (!compressor->cpu_percent)
		return true;
	if (now - compressor->window_ns >= WINDOW_NS)
		look_at_cpus(compressor, now, nr_streams);
	return compressor->balance_ns > 0;
}

/* Look at what could not be compressed again, but ever more seldom. */
static void judge(struct migr_compressor *compressor, bool worth)
{
	if (worth) {
		compressor->skip_next = 0;
		return;
	}
	compressor->skip_next = clamp(2 * compressor->skip_next, 1U, SKIP_MAX);
	compressor->skip = compressor->skip_next;
}

/**
 * migr_compressor_pack() - compress the pages of a chunk, if that is worth it
 * @compressor: the stream's compressor
 * @bvecs: the pages
 * @nr: how many
 * @nr_streams: how many streams share the CPUs
 * @counts: what it does is added here
 *
 * The pages may be written meanwhile. An algorithm may read its input twice and
 * rely on it: it gets a copy.
 *
 * Return: how many bytes there are in @compressor->packed; 0 if the pages are to be
 * sent as they are.
 */
unsigned int migr_compressor_pack(struct migr_compressor *compressor,
				  const struct bio_vec *bvecs, unsigned int nr,
				  unsigned int nr_streams,
				  struct migr_counts *counts)
{
	unsigned int plain = nr * PAGE_SIZE, i;
	/* An eighth saved is the least that is worth expanding it again. */
	unsigned int packed = plain - plain / 8;
	u64 begun, ns;
	bool worth;

	if (nr < PAGES_MIN)
		return 0;
	if (compressor->skip) {
		compressor->skip--;
		return 0;
	}
	if (!has_time(compressor, nr_streams))
		return 0;
	begun = ktime_get_ns();
	for (i = 0; i < nr; i++)
		memcpy_from_page(compressor->plain + i * PAGE_SIZE,
				 bvecs[i].bv_page, 0, PAGE_SIZE);
	/* It fails as well if it has to write more than it may. */
	worth = !migr_may_fail(crypto_comp_compress(compressor->tfm,
						    compressor->plain, plain,
						    compressor->packed,
						    &packed), -EINVAL);
	ns = ktime_get_ns() - begun;
	compressor->used_ns += ns;
	compressor->balance_ns -= ns;
	judge(compressor, worth);
	counts->compress_ns += ns;
	if (!worth)
		packed = 0;
	trace_migr_compress(plain, packed, ns);
	if (!worth) {
		counts->incompressible++;
		return 0;
	}
	counts->compressed++;
	counts->plain += plain;
	counts->packed += packed;
	return packed;
}

/**
 * migr_compressor_expand() - expand the pages of a chunk
 * @compressor: the stream's compressor
 * @packed: how many bytes of @compressor->packed have been received
 * @nr: how many pages they have to make
 *
 * They are in @compressor->plain then.
 *
 * Return: 0, or -EBADMSG if they make anything else.
 */
int migr_compressor_expand(struct migr_compressor *compressor,
			   unsigned int packed, unsigned int nr)
{
	unsigned int plain = nr * PAGE_SIZE;
	int ret;

	ret = crypto_comp_decompress(compressor->tfm, compressor->packed,
				     packed, compressor->plain, &plain);
	return ret || plain != nr * PAGE_SIZE ? -EBADMSG : 0;
}

/**
 * migr_compressor_create() - make a compressor
 * @compression: one of enum migr_compression, not %MIGR_COMPRESSION_NONE
 * @cpu_percent: see &struct migr_migration_add_stream
 *
 * Return: it, or an error pointer: -EINVAL, -ENOMEM, or -ENOENT if this kernel does
 * not have the algorithm.
 */
struct migr_compressor *migr_compressor_create(u32 compression,
					       unsigned int cpu_percent)
{
	struct migr_compressor *compressor;
	unsigned int nr_cpus;

	if (compression >= ARRAY_SIZE(names) || !names[compression])
		return ERR_PTR(-EINVAL);
	compressor = migr_may_fail(kzalloc(sizeof(*compressor),
					   GFP_KERNEL_ACCOUNT), NULL);
	if (!compressor)
		return ERR_PTR(-ENOMEM);
	compressor->tfm = migr_may_fail(crypto_alloc_comp(names[compression],
							  0, 0),
					ERR_PTR(-ENOMEM));
	if (IS_ERR(compressor->tfm)) {
		int ret = PTR_ERR(compressor->tfm);

		kfree(compressor);
		return ERR_PTR(ret);
	}
	/* Cleared: a peer chooses what of it is written. */
	compressor->plain = migr_may_fail(kvzalloc(CHUNK_BYTES,
						   GFP_KERNEL_ACCOUNT), NULL);
	compressor->packed = migr_may_fail(kvzalloc(CHUNK_BYTES,
						    GFP_KERNEL_ACCOUNT), NULL);
	if (!compressor->plain || !compressor->packed) {
		migr_compressor_free(compressor);
		return ERR_PTR(-ENOMEM);
	}
	compressor->cpu_percent = cpu_percent;
	compressor->window_ns = ktime_get_ns();
	compressor->idle_ns = idle_ns(&nr_cpus);
	return compressor;
}

/**
 * migr_compressor_free() - free a compressor
 * @compressor: it, or NULL
 */
void migr_compressor_free(struct migr_compressor *compressor)
{
	if (!compressor)
		return;
	kvfree(compressor->packed);
	kvfree(compressor->plain);
	crypto_free_comp(compressor->tfm);
	kfree(compressor);
}
