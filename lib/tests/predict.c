// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The decision when to stop the VM.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal.h"

#define PAGE	4096
#define LIMIT	(300 * NS_PER_MS)

static uint64_t pass(struct prediction *p, uint64_t bytes, uint64_t ns, uint64_t dirty)
{
	struct migr_migration_status st = {
		.pass_wire_bytes = bytes, .pass_ns = ns, .dirty_pages = dirty,
	};

	return prediction_after_pass(p, &st, PAGE, 10 * NS_PER_MS);
}

static void test_rate(void **state)
{
	struct prediction p = { 0 };

	(void)state;
	/* 1 GiB/s: 25600 pages are 100 ms. */
	assert_in_range(pass(&p, 1 << 30, NS_PER_S, 25600), 107 * NS_PER_MS, 108 * NS_PER_MS);
	/* A pass of a few pages says nothing of the rate. */
	assert_in_range(pass(&p, 40960, NS_PER_S, 25600), 107 * NS_PER_MS, 108 * NS_PER_MS);
	/* A long one does. */
	assert_in_range(pass(&p, 512 << 20, NS_PER_S, 25600), 205 * NS_PER_MS, 206 * NS_PER_MS);
	assert_int_equal(pass(&p, 512 << 20, NS_PER_S, 0), 10 * NS_PER_MS);
}

/* What compression has kept off the wire has been moved all the same. */
static void test_compressed(void **state)
{
	struct migr_migration_status st = {
		.pass_wire_bytes = 256 << 20, .pass_saved_bytes = 768 << 20,
		.pass_ns = NS_PER_S, .dirty_pages = 25600,
	};
	struct prediction p = { 0 };

	(void)state;
	assert_in_range(prediction_after_pass(&p, &st, PAGE, 10 * NS_PER_MS), 107 * NS_PER_MS,
			108 * NS_PER_MS);
	/* Long enough to say something of the rate, whatever is left of it on the wire. */
	st.pass_wire_bytes = 1 << 20;
	st.pass_saved_bytes = 511 << 20;
	assert_in_range(prediction_after_pass(&p, &st, PAGE, 10 * NS_PER_MS), 205 * NS_PER_MS,
			206 * NS_PER_MS);
}

static void test_small_vm(void **state)
{
	struct prediction p = { 0 };

	(void)state;
	/* Nothing sent at all: only the fixed part is known. */
	assert_int_equal(pass(&p, 0, 1000, 5), 10 * NS_PER_MS);
	/* All passes together serve as measure where none is long. */
	assert_in_range(pass(&p, 1 << 20, NS_PER_S, 256), 1009 * NS_PER_MS, 1011 * NS_PER_MS);
}

static void test_converging(void **state)
{
	struct prediction p = { 0 };
	uint64_t dirty;

	(void)state;
	for (dirty = 1 << 20; dirty > 1000; dirty /= 2)
		if (prediction_verdict(&p, pass(&p, 1 << 30, NS_PER_S, dirty), LIMIT, 30) ==
		    VERDICT_FITS)
			break;
	/* 290 ms at 1 GiB/s are 76021 pages. */
	assert_int_equal(dirty, 1 << 16);
}

static void test_stalled(void **state)
{
	struct prediction p = { 0 };
	int passes = 0;
	enum verdict v;

	(void)state;
	do {
		v = prediction_verdict(&p, pass(&p, 1 << 30, NS_PER_S, 1 << 20), LIMIT, 30);
		passes++;
	} while (v == VERDICT_AGAIN && passes < 100);
	assert_int_equal(v, VERDICT_EXCEEDS);
	assert_int_equal(passes, 4);
}

static void test_pass_limit(void **state)
{
	struct prediction p = { 0 };
	uint64_t dirty = 1ull << 40;
	int passes = 0;
	enum verdict v;

	(void)state;
	do {
		dirty -= dirty / 10;
		v = prediction_verdict(&p, pass(&p, 1 << 30, NS_PER_S, dirty), LIMIT, 7);
		passes++;
	} while (v == VERDICT_AGAIN && passes < 100);
	assert_int_equal(v, VERDICT_EXCEEDS);
	assert_int_equal(passes, 7);
}

/* 1 GiB/s, and a guest that writes to 4 GiB at a rate of its own, or slower. */
#define LINK_PAGES	262144.0
#define GUEST_PAGES	1048576.0

struct guest {
	double rate;		/* pages a second, if nobody slows it down */
	uint64_t dirty, hot;
	uint64_t limit, first_limit, least_limit;
	uint32_t passes, slow_passes;
	enum verdict verdict;
};

static void migrate(struct guest *g, uint64_t limit_ns, uint32_t pass_limit)
{
	struct prediction p = { 0 };
	double seconds, rate;
	uint64_t ns;

	g->dirty = GUEST_PAGES;
	do {
		struct migr_migration_status st = { .pass_hot_pages = g->hot, .limit = g->limit };

		st.pass_wire_bytes = (g->dirty - g->hot) * PAGE;
		seconds = (g->dirty - g->hot) / LINK_PAGES;
		st.pass_ns = seconds * NS_PER_S;
		rate = g->limit && g->limit < g->rate ? g->limit : g->rate;
		g->dirty = g->hot + (rate * seconds < GUEST_PAGES ? rate * seconds : GUEST_PAGES);
		st.dirty_pages = g->dirty;
		ns = prediction_after_pass(&p, &st, PAGE, 10 * NS_PER_MS);
		g->passes++;
		g->slow_passes += !!g->limit;
		g->verdict = prediction_verdict(&p, ns, limit_ns, pass_limit);
		if (g->verdict != VERDICT_AGAIN)
			break;
		g->limit = prediction_slow(&p, &st, PAGE, 10 * NS_PER_MS, limit_ns, pass_limit);
		g->first_limit = g->first_limit ? g->first_limit : g->limit;
		if (g->limit && (!g->least_limit || g->limit < g->least_limit))
			g->least_limit = g->limit;
	} while (g->passes < 100);
}

static void test_slowed(void **state)
{
	struct guest g = { .rate = 2 * LINK_PAGES };

	(void)state;
	migrate(&g, LIMIT, 30);
	assert_int_equal(g.verdict, VERDICT_FITS);
	assert_in_range(g.slow_passes, 1, 5);
	/* 16 times too much is left, with the margin: a fifth root of a 17th. */
	assert_in_range(g.first_limit, 0.55 * LINK_PAGES, 0.62 * LINK_PAGES);
	/* It was right from the first: it stays about the same. */
	assert_in_range(g.least_limit, 0.9 * g.first_limit, g.first_limit);
}

/* Just too fast for the link: it is hardly slowed down at all. */
static void test_slowed_a_little(void **state)
{
	struct guest g = { .rate = 1.05 * LINK_PAGES };

	(void)state;
	migrate(&g, 3500 * NS_PER_MS, 30);
	assert_int_equal(g.verdict, VERDICT_FITS);
	assert_true(g.least_limit > 0.9 * LINK_PAGES);
}

static void test_slowed_within_passes(void **state)
{
	struct guest g = { .rate = 2 * LINK_PAGES };

	(void)state;
	migrate(&g, LIMIT, 4);
	assert_int_equal(g.verdict, VERDICT_FITS);
	assert_int_equal(g.passes, 4);
}

static void test_slowed_with_hot_pages(void **state)
{
	struct guest g = { .rate = 2 * LINK_PAGES, .hot = 30000 };

	(void)state;
	migrate(&g, LIMIT, 30);
	assert_int_equal(g.verdict, VERDICT_FITS);
	assert_true(g.dirty > g.hot);
	assert_in_range(g.slow_passes, 1, 6);
}

static void test_not_slowed(void **state)
{
	struct guest slow = { .rate = 0.8 * LINK_PAGES }, hopeless = { .rate = 2 * LINK_PAGES };

	(void)state;
	migrate(&slow, LIMIT, 30);
	assert_int_equal(slow.verdict, VERDICT_FITS);
	assert_int_equal(slow.first_limit, 0);
	/* The limit is less than what does not depend on the pages. */
	migrate(&hopeless, 5 * NS_PER_MS, 30);
	assert_int_equal(hopeless.verdict, VERDICT_EXCEEDS);
	assert_int_equal(hopeless.first_limit, 0);
}

static void test_hot_pages(void **state)
{
	struct prediction p = { 0 };

	(void)state;
	assert_int_equal(prediction_hot_pages(&p, PAGE, 10 * NS_PER_MS, LIMIT), 0);
	pass(&p, 1 << 30, NS_PER_S, 1);
	/* Half of 290 ms at 1 GiB/s. */
	assert_in_range(prediction_hot_pages(&p, PAGE, 10 * NS_PER_MS, LIMIT), 38000, 38020);
	assert_int_equal(prediction_hot_pages(&p, PAGE, LIMIT, LIMIT), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rate), cmocka_unit_test(test_compressed),
		cmocka_unit_test(test_small_vm),
		cmocka_unit_test(test_converging), cmocka_unit_test(test_stalled),
		cmocka_unit_test(test_pass_limit), cmocka_unit_test(test_slowed),
		cmocka_unit_test(test_slowed_a_little),
		cmocka_unit_test(test_slowed_within_passes),
		cmocka_unit_test(test_slowed_with_hot_pages), cmocka_unit_test(test_not_slowed),
		cmocka_unit_test(test_hot_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
