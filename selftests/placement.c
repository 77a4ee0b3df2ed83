// SPDX-License-Identifier: GPL-2.0-only
/*
 * No lost write while the kernel moves pages from one place to another:
 * compaction, move_pages(), migrate_pages() and NUMA balancing. Meanwhile a page
 * has no entry to protect, and afterwards one that must not have been made
 * writable on the way. Needs two nodes.
 */
#include "workload.h"

#define COMPACT		"/proc/sys/vm/compact_memory"
#define BALANCING	"/proc/sys/kernel/numa_balancing"
#define SCANNING	"/sys/kernel/debug/sched/numa_balancing/"
#define NODES		3UL	/* 0 and 1 */

/* The page frame of each page of the region, 0 for one that is being moved. */
static void find_frames(const struct mem *m, __u64 *frames)
{
	int fd = (int)SYS(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	size_t len = m->pages * sizeof(*frames);
	__u64 i;

	for (i = 0; i < m->pages; i++)
		(void)*(volatile unsigned char *)mem_page(m, i);
	CHECK_EQ(pread(fd, frames, len, (off_t)((uintptr_t)m->p / TEST_PAGE * sizeof(*frames))),
		 len);
	/* Whether it is there, and where: the lower 55 bits. */
	for (i = 0; i < m->pages; i++)
		frames[i] = frames[i] >> 63 ? frames[i] << 9 >> 9 : 0;
	SYS(close(fd));
}

/* How many pages of the region, not others of the machine, have moved. */
static __u64 moved_while(const struct mem *m, void (*once)(struct disturber *d),
			 unsigned int times_a_round)
{
	__u64 *before = private_alloc(2 * m->pages * sizeof(*before)), *after = before + m->pages;
	__u64 i, moved = 0;

	find_frames(m, before);
	workload_disturbed(m, once, times_a_round);
	find_frames(m, after);
	for (i = 0; i < m->pages; i++)
		moved += before[i] && after[i] && before[i] != after[i];
	diag("%llu of the region's pages have moved", (unsigned long long)moved);
	munmap(before, 2 * m->pages * sizeof(*before));
	return moved;
}

/* Which pages are moved is up to the kernel: it may be none of the region's. */
static void disturbed(const struct mem *m, void (*once)(struct disturber *d),
		      unsigned int times_a_round)
{
	__u64 end = deadline_in(RUN_S);

	while (!moved_while(m, once, times_a_round))
		CHECK(now_ns() < end, "no page of the region has moved");
}

/* So many other pages lie between two of the region's, or the per-CPU lists have all. */
#define BETWEEN		(16 * TEST_PAGE)
static unsigned char *between;

/*
 * Without them the region's pages are strewn over blocks that are nearly free.
 * Compaction fills these up from the end; it leaves alone what is all free.
 */
static void compact_once(struct disturber *d)
{
	size_t len = d->mem->pages * BETWEEN;

	SYS(madvise(between, len, MADV_DONTNEED));
	CHECK(file_write(COMPACT, "1"), "%s: %s", COMPACT, strerror(errno));
	memset(between, 1, len);
	disturber_scribble(d, d->mem->p);
}

/* Memory between whose pages there are others, to be given up. */
static __u64 compacted(void)
{
	struct mem m = mem_new(DISTURBED_PAGES);
	__u64 i, moved;

	between = private_alloc(m.pages * BETWEEN);
	SYS(madvise(between, m.pages * BETWEEN, MADV_NOHUGEPAGE));
	for (i = 0; i < m.pages; i++) {
		*mem_page(&m, i) = 1;
		memset(between + i * BETWEEN, 1, BETWEEN);
	}
	moved = moved_while(&m, compact_once, 1);
	SYS(munmap(between, m.pages * BETWEEN));
	mem_free(&m);
	return moved;
}

/* Each attempt with new memory: where the kernel has found it matters. */
static void compaction(void)
{
	__u64 end = deadline_in(RUN_S);
	unsigned long node = 1;

	SYS(syscall(SYS_set_mempolicy, MPOL_BIND, &node, 8 * sizeof(node)));
	while (!compacted())
		CHECK(now_ns() < end, "no page of the region has moved");
}

static void move_pages_once(struct disturber *d)
{
	move_some_pages(d->mem, &d->seed);
}

static void moved_pages(void)
{
	struct mem m = mem_new(DISTURBED_PAGES);

	need_two_nodes();
	disturbed(&m, move_pages_once, 10);
}

static void migrate_pages_once(struct disturber *d)
{
	unsigned long from = 1 + (d->times & 1), to = from ^ NODES;

	SYS(syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from, &to));
}

static void migrated_processes(void)
{
	struct mem m = mem_new(DISTURBED_PAGES);

	need_two_nodes();
	disturbed(&m, migrate_pages_once, 1);
}

/* How often the kernel looks, in milliseconds; by itself once a second at most. */
static struct {
	const char *path;
	const char *often;
	char before[16];
} scanning[] = {
	{ .path = SCANNING "scan_delay_ms", .often = "1" },
	{ .path = SCANNING "scan_period_min_ms", .often = "50" },
	{ .path = SCANNING "scan_period_max_ms", .often = "50" },
};

/* All others are slow meanwhile: main() ends it. */
static void balancing_on(void)
{
	size_t i;

	need_two_nodes();
	if (!file_write(BALANCING, "1"))
		test_skip("no NUMA balancing");
	for (i = 0; i < ARRAY_SIZE(scanning); i++)
		CHECK(file_write(scanning[i].path, scanning[i].often), "%s: %s",
		      scanning[i].path, strerror(errno));
}

/* Shared memory takes part only if its policy says so. */
static void balance(unsigned char *p, size_t len)
{
	unsigned long nodes = NODES;

	SYS(syscall(SYS_mbind, p, len, MPOL_BIND | MPOL_F_NUMA_BALANCING, &nodes,
		    8 * sizeof(nodes), 0));
}

/* The writer goes from one node's CPU to the other's: pages follow it. */
static void balance_once(struct disturber *d)
{
	__u64 faults = vmstat("numa_hint_faults"), end = deadline_in(RUN_S);
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(d->times & 1, &cpus);
	SYS(sched_setaffinity(0, sizeof(cpus), &cpus));
	while (vmstat("numa_hint_faults") < faults + 4) {
		CHECK(now_ns() < end, "no hinting faults");
		disturber_scribble(d, d->mem->p);
	}
}

static void balanced_meanwhile(void)
{
	struct mem m = mem_new(DISTURBED_PAGES);
	__u64 before = vmstat("numa_hint_faults");

	balancing_on();
	balance(m.p, m.len);
	disturbed(&m, balance_once, 4);
	diag("%llu hinting faults", (unsigned long long)(vmstat("numa_hint_faults") - before));
}

/*
 * Rule 3: the entry that a hinting fault puts back is made writable if it is
 * dirty.
 */
static void hinting_faults(void)
{
	struct mem m = mem_new(256);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	volatile unsigned char *p = m.p;
	__u64 i, faults, end;
	int t;

	balancing_on();
	balance(m.p, m.len);
	t = (int)CALL(region_track(m.fd));
	tracker_settle(t, m.pages);
	for (i = 0; i < m.pages; i++)
		p[i * TEST_PAGE]++;
	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	faults = vmstat("numa_hint_faults");
	end = deadline_in(RUN_S);
	while (vmstat("numa_hint_faults") < faults + m.pages) {
		CHECK(now_ns() < end, "only %llu hinting faults",
		      (unsigned long long)(vmstat("numa_hint_faults") - faults));
		for (i = 0; i < m.pages; i++)
			(void)p[i * TEST_PAGE];
	}
	for (i = 0; i < m.pages; i++)
		p[i * TEST_PAGE]++;
	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	for (i = 0; i < m.pages; i++)
		CHECK(bit_test(map, i), "page %llu was written, its bit is clear",
		      (unsigned long long)i);
}

static const struct test_case cases[] = {
	CASE(compaction),
	CASE(moved_pages),
	CASE(migrated_processes),
	CASE(balanced_meanwhile),
	CASE(hinting_faults),
};

int main(int argc, char **argv)
{
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(scanning); i++)
		file_read(scanning[i].path, scanning[i].before, sizeof(scanning[i].before));
	ret = test_main(cases, ARRAY_SIZE(cases), argc, argv);
	for (i = 0; i < ARRAY_SIZE(scanning); i++)
		file_write(scanning[i].path, scanning[i].before);
	return ret;
}
