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
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "internal.h"

#define PAGE	4096
#define LENGTH	(8u << 20)

static unsigned int asked;		/* whether to stop */

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

	assert_int_equal(digest_region(fd, PAGE, NULL, NULL, &d), 0);
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

static bool stop_at_third(const void *data)
{
	(void)data;
	return ++asked == 3;
}

/* However much there is, it stops after a few MiB, and is the same if it need not. */
static void test_stops(void **state)
{
	static char bytes[4u << 20];
	struct migr_digest x, y;
	int fd = region();

	(void)state;
	memset(bytes, 1, sizeof(bytes));
	for (off_t offset = 0; offset < LENGTH; offset += sizeof(bytes))
		put(fd, offset, bytes, sizeof(bytes));
	asked = 0;
	assert_int_equal(digest_region(fd, PAGE, stop_at_third, NULL, &x), 0);
	assert_int_equal(asked, 2);
	y = digest(fd);
	assert_memory_equal(&x, &y, sizeof(x));
	assert_int_equal(ftruncate(fd, 4 * LENGTH), 0);
	put(fd, 3 * LENGTH, bytes, sizeof(bytes));
	asked = 0;
	assert_int_equal(digest_region(fd, PAGE, stop_at_third, NULL, &x), 1);
	assert_int_equal(asked, 3);
	close(fd);
}

/* Nobody waits for what is cancelled, or for a peer that is gone; it may have said why. */
static void test_in_vain(void **state)
{
	struct error error = { "" };
	struct migr m = { .info.page_size = PAGE };
	struct migration g = {
		.m = &m, .error = &error, .nr_regions = 1, .regions[0].fd = region(),
	};
	struct control c = { .timeout_ms = 1000, .peer = "destination", .error = &error }, peer;
	struct migr_digest x, none = { { 0 } };
	int pair[2];

	(void)state;
	put(g.regions[0].fd, 0, "x", 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	c.fd = pair[0];
	c.cancel_fd = eventfd(0, 0);
	peer = c;
	peer.fd = pair[1];
	/* What it may say by itself ends nothing. */
	assert_int_equal(control_send(&peer, json_pack("{s:s}", "type", "digest")), 0);
	assert_int_equal(migration_digest(&g, &c, &x), 0);
	assert_memory_not_equal(&x, &none, sizeof(x));
	x = none;
	eventfd_write(c.cancel_fd, 1);
	assert_int_equal(migration_digest(&g, &c, &x), -ECANCELED);
	assert_string_equal(error.text, "cancelled");
	close(c.cancel_fd);
	c.cancel_fd = -1;
	control_send_error(&peer, "no power");
	close(peer.fd);
	assert_int_equal(migration_digest(&g, &c, &x), -EREMOTEIO);
	assert_string_equal(error.text, "destination: no power");
	assert_int_equal(migration_digest(&g, &c, &x), -ECONNRESET);
	assert_string_equal(error.text, "the destination closed the connection");
	assert_memory_equal(&x, &none, sizeof(x));
	close(c.fd);
	close(g.regions[0].fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_is_hole),
		cmocka_unit_test(test_differences),
		cmocka_unit_test(test_hex),
		cmocka_unit_test(test_stops),
		cmocka_unit_test(test_in_vain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
