// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that are written between every two passes are left to the last one: the
 * right ones, no more than asked for, and none is lost.
 */
#include "migration.h"
#include "workload.h"
#include "../kmod/wire.h"

#define PAGES		4096UL
#define PASSES		12U
/* One page in 64, so eight in each chunk. */
#define HOT		64UL
#define HOT_STEP	(PAGES / HOT)
/* Written in each pass, but others every time. */
#define COLD		100UL

static void scribble(const struct mem *m, __u64 page, __u64 stamp)
{
	__atomic_store_n((__u64 *)mem_page(m, page), stamp, __ATOMIC_RELAXED);
}

static void write_hot(const struct mem *m, __u64 stamp)
{
	__u64 i;

	for (i = 0; i < HOT; i++)
		scribble(m, i * HOT_STEP, stamp);
}

/* The hot pages, some cold ones, and some that are written every second time. */
static void guest_writes(const struct mem *m, unsigned int pass)
{
	__u64 i;

	write_hot(m, pass);
	for (i = 0; i < COLD; i++)
		scribble(m, (pass * COLD + i) % (PAGES / 4) * 4 + 1, pass);
	for (i = 0; pass % 2 && i < COLD; i++)
		scribble(m, i * 4 + 2, pass);
	/* Pages that wait for the LRU look pinned, and dirty again. */
	lru_drain();
}

/* Returns how many pages went over the wire with their content. */
static __u64 migrate(__u64 hot_pages_max)
{
	struct mem m = mem_new(PAGES), copy = mem_new(PAGES);
	struct migr_migration_status st;
	__u64 seed = test_seed, dirtied;
	unsigned int pass;
	struct link l;

	fill_random(m.p, m.len, &seed);
	lru_drain();
	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	for (pass = 1; pass < PASSES; pass++) {
		link_pass_hot(&l, 0, hot_pages_max);
		st = link_status(l.source);
		CHECK_EQ(st.pass_hot_pages, pass < 3 ? 0 : hot_pages_max);
		CHECK_EQ(st.dirty_pages, st.pass_hot_pages);
		dirtied = st.pass_dirtied_pages;
		write_hot(&m, pass);
		st = link_status(l.source);
		CHECK_EQ(st.pass_dirtied_pages - dirtied, HOT - st.pass_hot_pages);
		guest_writes(&m, pass);
	}
	link_pass_hot(&l, MIGR_PASS_LAST, hot_pages_max);
	link_receive_join(&l);
	CHECK_EQ(l.received, 0);
	st = link_status(l.source);
	CHECK_EQ(st.pass_hot_pages, 0);
	CHECK_EQ(st.dirty_pages, 0);
	CHECK(first_difference(m.p, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(m.p, copy.p, m.len) / (long long)TEST_PAGE);
	diag("at most %llu left: %llu data pages, %llu pinned, %llu bytes",
	     (unsigned long long)hot_pages_max, (unsigned long long)st.data_pages,
	     (unsigned long long)st.pinned_pages, (unsigned long long)st.wire_bytes);
	link_close(&l);
	return st.data_pages;
}

/* Each is sent in passes 1 and 2 and in the last one, else in every pass. */
static void left_to_the_last(void)
{
	__u64 all = migrate(0), with = migrate(HOT), half = migrate(HOT / 2 + 3);

	CHECK_EQ(all - with, HOT * (PASSES - 3));
	CHECK_EQ(all - half, (HOT / 2 + 3) * (PASSES - 3));
}

/* One that has cooled down arrives all the same. */
static void cooled_down(void)
{
	struct mem m = mem_new(PAGES), copy = mem_new(PAGES);
	struct link l;
	unsigned int pass;

	memset(m.p, 1, m.len);
	lru_drain();
	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	for (pass = 1; pass < PASSES; pass++) {
		if (pass < 5)
			write_hot(&m, pass + 1000);
		lru_drain();
		link_pass_hot(&l, 0, PAGES);
	}
	CHECK_EQ(link_status(l.source).pass_hot_pages, HOT);
	link_last(&l);
	CHECK(first_difference(m.p, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(m.p, copy.p, m.len) / (long long)TEST_PAGE);
	link_close(&l);
}

/* What was left of a chunk that is lost with its stream is sent with it the next time. */
static void stream_dies(void)
{
	const __u64 chunks = PAGES / MIGR_WIRE_CHUNK_PAGES;
	struct mem m = mem_new(PAGES), copy = mem_new(PAGES);
	struct migr_migration_status st;
	struct strand *dies, *lives;
	unsigned int pass;
	struct bundle b;
	__u64 i;

	memset(m.p, 1, m.len);
	bundle_open(&b, &m, &copy);
	/* Pages that were lent would look pinned for as long as they wait. */
	dies = bundle_join(&b, unix_pair, MIGR_STREAM_COPY);
	bundle_add(&b, unix_pair, 0);
	lives = &b.strands[1];
	for (pass = 1; pass < 3; pass++) {
		lru_drain();
		CALL(migration_pass_hot(b.side[0], 0, HOT));
		CALL(stream_run(lives->stream[0]));
		write_hot(&m, pass);
	}
	/* A page of each chunk that is sent, and waits in the socket of the one that dies. */
	for (i = 0; i < chunks; i++)
		scribble(&m, i * MIGR_WIRE_CHUNK_PAGES + 1, pass);
	lru_drain();
	CALL(migration_pass_hot(b.side[0], 0, HOT));
	dies->thread[0] = thread_start(run_source, dies);
	WAIT_FOR(link_status(b.side[0]).pass_sent_pages == chunks, RUN_S);
	CHECK_EQ(link_status(b.side[0]).pass_hot_pages, HOT);
	CALL(stream_shutdown(dies->stream[0]));
	bundle_finish(&b);
	CHECK_EQ(dies->ret[0], -ECONNRESET);
	CHECK_EQ(link_status(b.side[0]).pass_hot_pages, 0);
	CALL(stream_run(lives->stream[0]));
	st = link_status(b.side[0]);
	CHECK_EQ(st.state, MIGR_STATE_BETWEEN);
	CHECK_EQ(st.pass_sent_pages, chunks + chunks + HOT);
	CHECK_EQ(st.pass_hot_pages, 0);
	CHECK_EQ(st.dirty_pages, 0);
	bundle_last(&b);
	expect_equal(&m, &copy);
	bundle_close(&b);
}

/* Under writers that do not wait for passes to end. */
static void no_lost_write(void)
{
	struct mem m = mem_new(PAGES), copy = mem_new(PAGES);
	__u64 left = 0;
	struct workload w;
	unsigned int i;
	struct link l;

	workload_start(&w, &m, MEET_PARALLEL);
	gate_open(w.gate);
	link_open(&l, tcp_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	for (i = 1; i < 30; i++) {
		workload_turn(&w);
		link_pass_hot(&l, 0, PAGES / 16);
		left += link_status(l.source).pass_hot_pages;
	}
	gate_close(w.gate);
	link_last(&l);
	diag("%llu pages left in %u passes", (unsigned long long)left, i);
	CHECK(left, "no page was ever left");
	CHECK(first_difference(m.p, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(m.p, copy.p, m.len) / (long long)TEST_PAGE);
	link_close(&l);
	workload_stop(&w);
}

static const struct test_case cases[] = {
	CASE(left_to_the_last),
	CASE(cooled_down),
	CASE(stream_dies),
	CASE(no_lost_write),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
