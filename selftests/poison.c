// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page whose memory has failed: its content must not be read again, it is
 * never clean, and all others are tracked and can be read as before. A machine
 * without such memory pretends: MADV_HWPOISON.
 */
#include "migration.h"

#define BAD_PAGE	70UL

static void tracked(void)
{
	struct mem m = mem_new(512);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	__u64 seed = test_seed, i;
	int t, n;

	fill_random(m.p, m.len, &seed);
	t = (int)CALL(region_track(m.fd));
	tracker_settle(t, m.pages);
	m.p[BAD_PAGE * TEST_PAGE]++;
	lru_drain();
	poison(&m, BAD_PAGE);
	/* Its bit stays, and those of others are as right as ever. */
	for (n = 0; n < 5; n++) {
		for (i = n; i < m.pages; i += 7)
			if (i != BAD_PAGE)
				m.p[i * TEST_PAGE]++;
		CALL(tracker_fetch(t, 0, m.pages, map, NULL));
		CHECK(bit_test(map, BAD_PAGE), "fetch %d: the failed page counts as clean", n);
		for (i = n; i < m.pages; i += 7)
			CHECK(bit_test(map, i), "fetch %d: page %llu was written, its bit is clear",
			      n, (unsigned long long)i);
	}
	/* A hole in its place, once mapped anew, is a page like any other. */
	SYS(madvise(mem_page(&m, BAD_PAGE), TEST_PAGE, MADV_REMOVE));
	SYS(madvise(mem_page(&m, BAD_PAGE), TEST_PAGE, MADV_DONTNEED));
	CHECK(can_read(&m, BAD_PAGE), "still failed");
	CHECK(is_zero(mem_page(&m, BAD_PAGE), TEST_PAGE), "not a hole");
	tracker_settle(t, m.pages);
	m.p[BAD_PAGE * TEST_PAGE]++;
	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	CHECK_EQ(bit_count(map, m.pages), 1);
	CHECK(bit_test(map, BAD_PAGE), "its bit is clear");
}

/* What cannot be read cannot move: the migration says so. */
static void poisoned_before_it_is_sent(void)
{
	struct mem m = mem_new(512), copy = mem_new(512);
	struct migr_region_info info;
	__u64 seed = test_seed;
	struct link l;

	fill_random(m.p, m.len, &seed);
	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	m.p[BAD_PAGE * TEST_PAGE]++;
	poison(&m, BAD_PAGE);
	CALL(migration_pass(l.source, 0));
	CALL_ERR(stream_run(l.source_stream), EHWPOISON);
	CHECK_EQ(link_status(l.source).state, MIGR_STATE_FAILED);
	CHECK_EQ(link_status(l.source).error, EHWPOISON);
	SYS(shutdown(l.sock[0], SHUT_RDWR));
	link_receive_join(&l);
	CHECK_EQ(l.received, -ECONNRESET);
	link_close(&l);
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, 0);
}

/* Nothing can be written to it, compressed or not. */
static void poisoned_where_it_arrives(void)
{
	static const __u32 compressions[] = { MIGR_COMPRESSION_NONE, MIGR_COMPRESSION_LZ4 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(compressions); i++) {
		struct mem m = mem_new(512), copy = mem_new(512);
		struct link l;

		memset(m.p, 0x11, m.len);
		memset(copy.p, 0x22, copy.len);
		lru_drain();
		poison(&copy, BAD_PAGE);
		link_open_compressed(&l, unix_pair, &m, &copy, compressions[i], 0);
		link_receive_start(&l);
		CALL(migration_pass(l.source, 0));
		CALL_ERR(stream_run(l.source_stream), ECONNRESET);
		link_receive_join(&l);
		CHECK_EQ(l.received, -EIO);
		CHECK_EQ(link_status(l.destination).error, EIO);
		link_close(&l);
	}
}

/* The destination has what the source has no more. */
static void poisoned_after_it_was_sent(void)
{
	struct mem m = mem_new(512), copy = mem_new(512);
	unsigned char *before = private_alloc(m.len);
	__u64 seed = test_seed;
	struct link l;

	fill_random(m.p, m.len, &seed);
	memcpy(before, m.p, m.len);
	lru_drain();
	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	CHECK_EQ(link_status(l.source).dirty_pages, 0);
	poison(&m, BAD_PAGE);
	link_last(&l);
	CHECK(first_difference(before, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(before, copy.p, m.len) / (long long)TEST_PAGE);
	link_close(&l);
}

static const struct test_case cases[] = {
	CASE(tracked),
	CASE(poisoned_before_it_is_sent),
	CASE(poisoned_where_it_arrives),
	CASE(poisoned_after_it_was_sent),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
