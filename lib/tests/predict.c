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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rate), cmocka_unit_test(test_small_vm),
		cmocka_unit_test(test_converging), cmocka_unit_test(test_stalled),
		cmocka_unit_test(test_pass_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
