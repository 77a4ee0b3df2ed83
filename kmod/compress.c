// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compression of the chunks of a stream: whether it is worth trying, and the
 * kernel's crypto API, which does it in units of as much as it takes at once, with
 * a spinlock of the CPU held. Only what works in the caller is asked for: hardware
 * would answer later, and with errors of its own.
 *
 * All but @scratch_user belongs to the thread that runs the stream: no locks, and no
 * memory is allocated once there is a compressor.
 */
#include <linux/bvec.h>
#include <linux/cpumask.h>
#include <linux/crypto.h>
#include <linux/err.h>
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/tick.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <linux/migr.h>
#include <crypto/acompress.h>

#include "compress.h"
#include "inject.h"
#include "migration.h"
#include "trace.h"

#define CHUNK_BYTES	((size_t)MIGR_CHUNK_PAGES << PAGE_SHIFT)
#define UNIT_BYTES	((size_t)MIGR_WIRE_UNIT_PAGES << PAGE_SHIFT)
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

/* See keep_scratch(): there as long as we are, or an error that is final. */
static struct crypto_acomp *scratch_user;
static DEFINE_MUTEX(scratch_lock);

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

	/* Nobody shall agree on what cannot be had. */
	if (IS_ERR(READ_ONCE(scratch_user)))
		return 0;
	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i] && crypto_has_acomp(names[i], 0, CRYPTO_ALG_ASYNC))
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

struct scratch_work {
	struct work_struct work;
	const char *name;
	struct crypto_acomp *user;
};

static void make_scratch_user(struct work_struct *work)
{
	struct scratch_work *scratch = container_of(work, struct scratch_work,
						    work);

	scratch->user = crypto_alloc_acomp(scratch->name, 0, CRYPTO_ALG_ASYNC);
}

/*
 * The memory that software works in is allocated for all CPUs with the first user of
 * any algorithm. If there is none the kernel takes it for allocated all the same, and
 * the second one writes to NULL. So there is a first one for good, made where neither a
 * signal nor a memory cgroup stands in the way; and if even that fails, none at all.
 */
static int keep_scratch(const char *name)
{
	struct scratch_work scratch = { .name = name };
	int ret = 0;

	mutex_lock(&scratch_lock);
	if (!scratch_user) {
		INIT_WORK_ONSTACK(&scratch.work, make_scratch_user);
		queue_work(system_unbound_wq, &scratch.work);
		flush_work(&scratch.work);
		destroy_work_on_stack(&scratch.work);
		ret = PTR_ERR_OR_ZERO(scratch.user);
		/* With another error it did not come to the memory. */
		if (!ret || ret == -ENOMEM)
			WRITE_ONCE(scratch_user, scratch.user);
	} else {
		ret = PTR_ERR_OR_ZERO(scratch_user);
	}
	mutex_unlock(&scratch_lock);
	return ret;
}

/* Vmalloc'ed memory. */
static void set_memory(struct scatterlist *sg, const u8 *from, size_t len)
{
	unsigned int i, nr = DIV_ROUND_UP(offset_in_page(from) + len, PAGE_SIZE);

	sg_init_table(sg, nr);
	for (i = 0; i < nr; i++) {
		size_t bytes = min(len, PAGE_SIZE - offset_in_page(from));

		sg_set_page(&sg[i], vmalloc_to_page(from), bytes,
			    offset_in_page(from));
		from += bytes;
		len -= bytes;
	}
}

/* How many bytes may come of them: an eighth saved is the least that is worth it. */
static unsigned int most_worth(unsigned int plain)
{
	return plain - plain / 8;
}

/*
 * The pages may be written meanwhile. An algorithm may read its input twice and
 * rely on it: it gets a copy. Returns how many bytes of @to they take, of @room at
 * most; as many as they are if they are not compressed, 0 if there is no room for
 * that either.
 */
static unsigned int pack_unit(struct migr_compressor *compressor,
			      const struct bio_vec *bvecs, unsigned int nr,
			      u8 *to, unsigned int room)
{
	unsigned int plain = nr * PAGE_SIZE, i;
	unsigned int most = min(room, most_worth(plain));
	struct acomp_req *req = compressor->req;

	for (i = 0; i < nr; i++)
		memcpy_from_page(compressor->plain + i * PAGE_SIZE,
				 bvecs[i].bv_page, 0, PAGE_SIZE);
	set_memory(compressor->src, compressor->plain, plain);
	set_memory(compressor->dst, to, most);
	acomp_request_set_params(req, compressor->src, compressor->dst, plain,
				 most);
	/* It fails as well if it has to write more than it may. */
	if (!migr_may_fail(crypto_acomp_compress(req), -EINVAL))
		return req->dlen;
	if (room < plain)
		return 0;
	memcpy(to, compressor->plain, plain);
	return plain;
}

/* All of them, after how long each is; 0 if that is more than @room. */
static unsigned int pack_units(struct migr_compressor *compressor,
			       const struct bio_vec *bvecs, unsigned int nr,
			       unsigned int room)
{
	__le32 *sizes = (__le32 *)compressor->packed;
	unsigned int used = migr_wire_nr_units(nr) * sizeof(*sizes), i, bytes;

	for (i = 0; i < nr; i += MIGR_WIRE_UNIT_PAGES) {
		if (used >= room)
			return 0;
		bytes = pack_unit(compressor, bvecs + i,
				  min(nr - i, MIGR_WIRE_UNIT_PAGES),
				  compressor->packed + used, room - used);
		if (!bytes)
			return 0;
		*sizes++ = cpu_to_le32(bytes);
		used += bytes;
		cond_resched();
	}
	return used;
}

/**
 * migr_compressor_pack() - compress the pages of a chunk, if that is worth it
 * @compressor: the stream's compressor
 * @bvecs: the pages
 * @nr: how many
 * @nr_streams: how many streams share the CPUs
 * @counts: what it does is added here
 *
 * Return: how many bytes there are in @compressor->packed; 0 if the pages are to be
 * sent as they are.
 */
unsigned int migr_compressor_pack(struct migr_compressor *compressor,
				  const struct bio_vec *bvecs, unsigned int nr,
				  unsigned int nr_streams,
				  struct migr_counts *counts)
{
	unsigned int plain = nr * PAGE_SIZE, packed;
	u64 begun, ns;

	if (nr < PAGES_MIN)
		return 0;
	if (compressor->skip) {
		compressor->skip--;
		return 0;
	}
	if (!has_time(compressor, nr_streams))
		return 0;
	begun = ktime_get_ns();
	packed = pack_units(compressor, bvecs, nr, most_worth(plain));
	ns = ktime_get_ns() - begun;
	compressor->used_ns += ns;
	compressor->balance_ns -= ns;
	judge(compressor, packed);
	counts->compress_ns += ns;
	trace_migr_compress(plain, packed, ns);
	if (!packed) {
		counts->incompressible++;
		return 0;
	}
	counts->compressed++;
	counts->plain += plain;
	counts->packed += packed;
	return packed;
}

/**
 * migr_compressor_begin() - look at the content of a compressed chunk
 * @compressor: the stream's compressor
 * @bytes: how many bytes of @compressor->packed have been received
 * @nr: how many pages they have to make
 *
 * Return: 0, or -EPROTO, see migr_wire_get_units().
 */
int migr_compressor_begin(struct migr_compressor *compressor,
			  unsigned int bytes, unsigned int nr)
{
	compressor->unit = 0;
	compressor->offset = migr_wire_nr_units(nr) * sizeof(__le32);
	return migr_wire_get_units((__le32 *)compressor->packed, bytes, nr,
				   compressor->sizes);
}

/**
 * migr_compressor_expand() - expand the next unit of a chunk
 * @compressor: the stream's compressor
 * @bvecs: the unit's pages
 * @nr: how many
 *
 * The algorithm is trusted to have written all that it says it has.
 *
 * Return: 0, or -EBADMSG if it makes anything else than these pages. Their content is
 * undefined then.
 */
int migr_compressor_expand(struct migr_compressor *compressor,
			   const struct bio_vec *bvecs, unsigned int nr)
{
	const u8 *from = compressor->packed + compressor->offset;
	unsigned int bytes = compressor->sizes[compressor->unit], i;
	struct acomp_req *req = compressor->req;

	compressor->offset += bytes;
	compressor->unit++;
	if (bytes == nr * PAGE_SIZE) {
		for (i = 0; i < nr; i++)
			memcpy_to_page(bvecs[i].bv_page, 0,
				       from + i * PAGE_SIZE, PAGE_SIZE);
		return 0;
	}
	set_memory(compressor->src, from, bytes);
	sg_init_table(compressor->dst, nr);
	for (i = 0; i < nr; i++)
		sg_set_page(&compressor->dst[i], bvecs[i].bv_page, PAGE_SIZE, 0);
	acomp_request_set_params(req, compressor->src, compressor->dst, bytes,
				 nr * PAGE_SIZE);
	if (crypto_acomp_decompress(req) || req->dlen != nr * PAGE_SIZE)
		return -EBADMSG;
	return 0;
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
	int ret;

	if (compression >= ARRAY_SIZE(names) || !names[compression])
		return ERR_PTR(-EINVAL);
	ret = keep_scratch(names[compression]);
	if (ret)
		return ERR_PTR(ret);
	compressor = migr_may_fail(kzalloc(sizeof(*compressor),
					   GFP_KERNEL_ACCOUNT), NULL);
	if (!compressor)
		return ERR_PTR(-ENOMEM);
	compressor->tfm = migr_may_fail(crypto_alloc_acomp(names[compression],
							   0, CRYPTO_ALG_ASYNC),
					ERR_PTR(-ENOMEM));
	if (IS_ERR(compressor->tfm)) {
		ret = PTR_ERR(compressor->tfm);
		kfree(compressor);
		return ERR_PTR(ret);
	}
	compressor->req = migr_may_fail(acomp_request_alloc(compressor->tfm),
					NULL);
	compressor->plain = migr_may_fail(__vmalloc(UNIT_BYTES,
						    GFP_KERNEL_ACCOUNT), NULL);
	compressor->packed = migr_may_fail(__vmalloc(CHUNK_BYTES,
						     GFP_KERNEL_ACCOUNT), NULL);
	if (!compressor->req || !compressor->plain || !compressor->packed) {
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
	vfree(compressor->packed);
	vfree(compressor->plain);
	if (compressor->req)
		acomp_request_free(compressor->req);
	crypto_free_acomp(compressor->tfm);
	kfree(compressor);
}

/**
 * migr_compress_exit() - let go of what all compressors share
 *
 * No compressor is left.
 */
void migr_compress_exit(void)
{
	if (!IS_ERR_OR_NULL(scratch_user))
		crypto_free_acomp(scratch_user);
}
