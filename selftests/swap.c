// SPDX-License-Identifier: GPL-2.0-only
/*
 * A region whose pages are swapped out and come back: what is swapped out is
 * data, it has no entry to protect, and what is reclaimed right after a
 * collect has made its entries clean is not dropped. The swap is a file on a
 * disk in memory.
 */
#include "migration.h"
#include "workload.h"

#include <sys/swap.h>

#define SWAP_FOLDER	"/run/migr-swap"
#define SWAP_FILE	SWAP_FOLDER "/swap"
#define GROUP		"/sys/fs/cgroup/migr-swap"

static void swap_remove(void)
{
	swapoff(SWAP_FILE);
	run_command("umount " SWAP_FOLDER " 2>/dev/null");
	run_command("modprobe -q -r brd");
}

/* Once for all cases; main() removes it. */
static void swap_add(void)
{
	static const char * const commands[] = {
		"modprobe -q brd rd_nr=1 rd_size=98304",
		"modprobe -q ext4",
		"mkfs.ext4 -q -O ^has_journal -E nodiscard,lazy_itable_init=0 /dev/ram0",
		"mkdir -p " SWAP_FOLDER,
		"mount -t ext4 /dev/ram0 " SWAP_FOLDER,
		"fallocate -l 80M " SWAP_FILE,
		"chmod 600 " SWAP_FILE,
		"mkswap -q " SWAP_FILE,
	};
	size_t i;

	if (!run_command("grep -q " SWAP_FILE " /proc/swaps"))
		return;
	swap_remove();
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		CHECK(!run_command(commands[i]), "failed: %s", commands[i]);
	SYS(swapon(SWAP_FILE, 0));
}

static __u64 resident(int fd)
{
	struct migr_region_info info;

	CALL(region_info(fd, &info));
	return info.resident;
}

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#endif

/* Swap out all that nobody else maps; what nobody maps at all is not considered. */
static void page_out(const struct mem *m)
{
	__u64 end = deadline_in(RUN_S);

	SYS(madvise(m->p, m->len, MADV_POPULATE_READ));
	lru_drain();
	while (resident(m->fd) > m->len / 16) {
		CHECK(now_ns() < end, "%llu of %llu bytes cannot be swapped out",
		      (unsigned long long)resident(m->fd), (unsigned long long)m->len);
		SYS(madvise(m->p, m->len, MADV_PAGEOUT));
	}
}

static void swapped_pages(void)
{
	struct mem m = mem_new(512);
	unsigned char *copy = private_alloc(m.len);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	struct migr_tracker_fetch f;
	__u64 seed = test_seed, i;
	int t;

	swap_add();
	fill_random(m.p, m.len, &seed);
	memcpy(copy, m.p, m.len);
	t = (int)CALL(region_track(m.fd));
	tracker_settle(t, m.pages);

	page_out(&m);
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	CHECK_EQ(f.dirty_pages, 0);
	/* Every other page comes back by a read, then all are written. */
	for (i = 0; i < m.pages; i += 2)
		CHECK_EQ(m.p[i * TEST_PAGE], copy[i * TEST_PAGE]);
	for (i = 0; i < m.pages; i += 3) {
		m.p[i * TEST_PAGE]++;
		copy[i * TEST_PAGE]++;
	}
	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	for (i = 0; i < m.pages; i += 3)
		CHECK(bit_test(map, i), "page %llu was written, its bit is clear",
		      (unsigned long long)i);
	tracker_settle(t, m.pages);

	/* Swapped out dirty: it has to be fetched all the same. */
	for (i = 0; i < m.pages; i += 5) {
		m.p[i * TEST_PAGE]++;
		copy[i * TEST_PAGE]++;
	}
	page_out(&m);
	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	for (i = 0; i < m.pages; i += 5)
		CHECK(bit_test(map, i), "page %llu was written, its bit is clear",
		      (unsigned long long)i);
	CHECK(first_difference(m.p, copy, m.len) < 0, "the content has changed");
}

/*
 * Rule 3: that a page mapped while the region was idle has data may be known
 * from its entry alone, which the collect makes clean. Then it is reclaimed.
 */
static void reclaim_after_collect(void)
{
	struct mem m = mem_new(512);
	unsigned char *copy = private_alloc(m.len);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	volatile unsigned char *p = m.p;
	__u64 i, seed = test_seed;
	int t;

	swap_add();
	/* Read first, so that the write takes no fault. */
	for (i = 0; i < m.pages; i++)
		CHECK_EQ(p[i * TEST_PAGE], 0);
	fill_random(m.p, m.len, &seed);
	memcpy(copy, m.p, m.len);
	t = (int)CALL(region_track(m.fd));
	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	page_out(&m);
	CHECK(first_difference(m.p, copy, m.len) < 0, "page %lld was dropped",
	      first_difference(m.p, copy, m.len) / (long long)TEST_PAGE);
}

static void migrated_from_swap(void)
{
	struct mem m = mem_new(1024), copy = mem_new(1024);
	struct migr_migration_status st;
	__u64 seed = test_seed;
	struct link l;

	swap_add();
	fill_random(m.p, m.len, &seed);
	page_out(&m);
	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	page_out(&m);
	link_last(&l);
	st = link_status(l.source);
	CHECK_EQ(st.hole_pages, 0);
	CHECK(st.data_pages >= m.pages, "%llu data pages", (unsigned long long)st.data_pages);
	CHECK(first_difference(m.p, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(m.p, copy.p, m.len) / (long long)TEST_PAGE);
	link_close(&l);
}

/* -------------------------------------------------------------- meanwhile */

/* A control group of our own: what has its limit is this case's memory alone. */
static void group_enter(void)
{
	char text[16];

	file_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(GROUP, 0755) < 0 && errno != EEXIST)
		test_skip("no control group: %s", strerror(errno));
	if (access(GROUP "/memory.high", W_OK))
		test_skip("no limit of memory: %s", strerror(errno));
	snprintf(text, sizeof(text), "%d", getpid());
	CHECK(file_write(GROUP "/cgroup.procs", text), "%s: %s", GROUP, strerror(errno));
}

static void group_leave(void)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", getpid());
	file_write("/sys/fs/cgroup/cgroup.procs", text);
}

/*
 * Setting it reclaims at once. The writers sleep under it, for longer the more
 * there is above it: a little less than there is, again and again.
 */
static void limit_once(struct disturber *d)
{
	char text[32];

	file_read(GROUP "/memory.current", text, sizeof(text));
	snprintf(text, sizeof(text), "%lld", atoll(text) / 32 * 31);
	CHECK(file_write(GROUP "/memory.high", text), "memory.high: %s", strerror(errno));
	CHECK(file_write(GROUP "/memory.high", "max"), "memory.high: %s", strerror(errno));
	disturber_scribble(d, d->mem->p);
}

static void limited_memory(void)
{
	__u64 out_before, in_before, out, in, end = deadline_in(RUN_S);
	struct mem m = mem_new(DISTURBED_PAGES);

	swap_add();
	group_enter();
	out_before = vmstat("pswpout");
	in_before = vmstat("pswpin");
	do {
		workload_disturbed(&m, limit_once, 16);
		out = vmstat("pswpout") - out_before;
		in = vmstat("pswpin") - in_before;
		diag("%llu pages swapped out, %llu in", (unsigned long long)out,
		     (unsigned long long)in);
	} while ((out <= 100 || in <= 100) && now_ns() < end);
	group_leave();
	CHECK(out > 100 && in > 100, "hardly anything was swapped");
}

static const struct test_case cases[] = {
	CASE(swapped_pages),
	CASE(reclaim_after_collect),
	CASE(migrated_from_swap),
	CASE(limited_memory),
};

int main(int argc, char **argv)
{
	int ret = test_main(cases, ARRAY_SIZE(cases), argc, argv);

	swap_remove();
	rmdir(GROUP);
	return ret;
}
