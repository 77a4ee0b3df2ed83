// SPDX-License-Identifier: GPL-2.0-only
/*
 * No lost write: six writers in two processes write stamps into one region
 * while it is fetched, or migrated, hundreds of times; whenever they stop, the
 * copy has to equal the region to the byte. rules.c shows that this can fail.
 */
#include "migration.h"
#include "workload.h"

#define PAGES		4096UL
#define PASSES		200

static void tracker_passes(enum meeting how, unsigned int passes, unsigned int rounds)
{
	struct mem m = mem_new(PAGES);
	struct workload w;
	struct shadow s;
	unsigned int i;

	workload_start(&w, &m, how);
	shadow_start(&s, &m);
	for (i = 0; i < rounds; i++) {
		__u64 lost = shadow_round(&s, &w, passes / rounds);

		CHECK(!lost, "round %u: %llu pages lost a write", i, (unsigned long long)lost);
	}
	workload_stop(&w);
	diag("%llu passes, %llu pages copied", (unsigned long long)s.passes,
	     (unsigned long long)s.copied);
	CHECK(s.passes >= PASSES, "only %llu passes", (unsigned long long)s.passes);
}

static void parallel_passes(void)
{
	tracker_passes(MEET_PARALLEL, PASSES, 20);
}

static void preempting_passes(void)
{
	tracker_passes(MEET_PREEMPTED, 20, 5);
}

static void migrate(pair_fn pair, __u32 flags, __u64 pages)
{
	struct mem m = mem_new(pages), copy = mem_new(pages);
	struct migr_migration_status st;
	struct workload w;
	struct link l;
	unsigned int i;

	workload_start(&w, &m, MEET_PARALLEL);
	gate_open(w.gate);
	link_open(&l, pair, flags, &m, &copy, 1);
	link_receive_start(&l);
	for (i = 1; i < PASSES; i++) {
		workload_turn(&w);
		link_pass(&l, 0);
	}
	gate_close(w.gate);
	link_last(&l);
	st = link_status(l.source);
	CHECK_EQ(st.state, MIGR_STATE_COMPLETE);
	CHECK_EQ(st.passes, PASSES);
	diag("%u passes, %llu data pages, %llu pinned", st.passes,
	     (unsigned long long)st.data_pages, (unsigned long long)st.pinned_pages);
	expect_equal(&m, &copy);
	link_close(&l);
	workload_stop(&w);
}

static void unix_migration(void)
{
	migrate(unix_pair, 0, PAGES);
}

static void tcp_migration(void)
{
	migrate(tcp_pair, 0, PAGES);
}

/* Copies cost the most: of the smallest memory that gives each writer its pages. */
static void tcp_copy_migration(void)
{
	migrate(tcp_pair, MIGR_STREAM_COPY, 4 * FLIP_PAGES);
}

static const struct test_case cases[] = {
	CASE_WITHIN(parallel_passes, 400),
	CASE(preempting_passes),
	CASE_WITHIN(unix_migration, 400),
	CASE(tcp_migration),
	CASE(tcp_copy_migration),
};

int main(int argc, char **argv)
{
	return workload_main(cases, ARRAY_SIZE(cases), argc, argv);
}
