// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Digests of memory: alike for holes and zeroes, different for all else.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "internal.h"

#define PAGE	4096
#define LENGTH	(8u << 20)

static int region(void)
{
	int fd = memfd_create("digest", 0);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, LENGTH), 0);
	return fd;
}

static void put(int fd, off_t offset, const void *bytes, size_t length)
{
	assert_int_equal(pwrite(fd, bytes, length, offset), length);
}

static struct migr_digest digest(int fd)
{
	struct migr_digest d;

	assert_int_equal(digest_region(fd, PAGE, &d), 0);
	return d;
}

static void test_zero_is_hole(void **state)
{
	static const char zeroes[3u << 20];
	int a = region(), b = region();
	struct migr_digest x = digest(a), y;
	struct stat before, after;

	(void)state;
	put(b, PAGE, zeroes, sizeof(zeroes));
	y = digest(b);
	assert_memory_equal(&x, &y, sizeof(x));
	put(a, 5 << 20, "x", 1);
	put(b, 5 << 20, "x", 1);
	assert_int_equal(fstat(a, &before), 0);
	x = digest(a);
	y = digest(b);
	assert_memory_equal(&x, &y, sizeof(x));
	/* And no hole was filled by looking. */
	assert_int_equal(fstat(a, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks);
	close(a);
	close(b);
}

static void test_differences(void **state)
{
	int a = region(), b = region();
	struct migr_digest x, y;

	(void)state;
	/* The same content in another page. */
	put(a, 3 * PAGE, "x", 1);
	put(b, 4 * PAGE, "x", 1);
	x = digest(a);
	y = digest(b);
	assert_memory_not_equal(&x, &y, sizeof(x));
	/* One bit, in the last byte. */
	put(b, 4 * PAGE, "\0", 1);
	put(b, 3 * PAGE, "x", 1);
	y = digest(b);
	assert_memory_equal(&x, &y, sizeof(x));
	put(b, LENGTH - 1, "\1", 1);
	y = digest(b);
	assert_memory_not_equal(&x, &y, sizeof(x));
	close(a);
	close(b);
}

static void test_hex(void **state)
{
	char hex[MIGR_DIGEST_HEX];
	struct migr_digest d;

	(void)state;
	assert_int_equal(digest_parse("00112233445566778899aabbccddeeff", &d), 0);
	migr_digest_hex(&d, hex);
	assert_string_equal(hex, "00112233445566778899aabbccddeeff");
	assert_int_equal(digest_parse("", &d), -EINVAL);
	assert_int_equal(digest_parse("00112233445566778899aabbccddeef", &d), -EINVAL);
	assert_int_equal(digest_parse("00112233445566778899aabbccddeefg", &d), -EINVAL);
	assert_int_equal(digest_parse("+1112233445566778899aabbccddeeff", &d), -EINVAL);
	assert_int_equal(digest_parse("00112233445566778899aabbccddeeff0", &d), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_is_hole),
		cmocka_unit_test(test_differences),
		cmocka_unit_test(test_hex),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
