// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The control channel against a peer that sends what it should not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "internal.h"

struct pair {
	struct error error;
	struct control control;
	int peer;
};

/* How often a part of an encrypted record was found, if there is one; else -1. */
static int fake_parts;

/* A socket that the kernel decrypts, on which poll() finds such a part readable. */
ssize_t recv(int fd, void *bytes, size_t length, int flags)
{
	if (fake_parts < 0)
		return syscall(SYS_recvfrom, fd, bytes, length, flags, NULL, NULL);
	fake_parts++;
	errno = EAGAIN;
	return -1;
}

static int set_up(void **state)
{
	static struct pair p;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return -1;
	fake_parts = -1;
	p = (struct pair){ .peer = fds[1] };
	p.control = (struct control){
		.fd = fds[0], .cancel_fd = -1, .timeout_ms = 200, .peer = "peer", .error = &p.error,
	};
	*state = &p;
	return 0;
}

static int tear_down(void **state)
{
	struct pair *p = *state;

	close(p->control.fd);
	if (p->peer >= 0)
		close(p->peer);
	return 0;
}

static void put(struct pair *p, uint32_t length, const char *body, size_t bytes)
{
	uint8_t header[4] = { length, length >> 8, length >> 16, length >> 24 };

	assert_int_equal(send(p->peer, header, 4, 0), 4);
	if (bytes)
		assert_int_equal(send(p->peer, body, bytes, 0), bytes);
}

static void expect_failure(struct pair *p, int error, const char *word)
{
	json_t *message = (json_t *)1;

	assert_int_equal(control_receive(&p->control, 200, &message), error);
	assert_null(message);
	assert_non_null(strstr(p->error.text, word));
}

static void test_round_trip(void **state)
{
	struct pair *p = *state;
	struct control back = p->control;
	json_t *message;
	const char *text;

	message = json_pack("{s:s, s:s}", "type", "a", "b", "c");
	assert_int_equal(control_send(&p->control, message), 0);
	back.fd = p->peer;
	assert_int_equal(control_expect(&back, "a", 200, &message), 0);
	assert_int_equal(control_unpack(&back, message, "{s:s}", "b", &text), 0);
	assert_string_equal(text, "c");
	assert_int_equal(control_unpack(&back, message, "{s:s}", "missing", &text), -EPROTO);
	json_decref(message);
}

static void test_bad_lengths(void **state)
{
	struct pair *p = *state;

	put(p, 0, NULL, 0);
	expect_failure(p, -EPROTO, "0 bytes");
	put(p, CONTROL_MESSAGE_MAX + 1, NULL, 0);
	expect_failure(p, -EPROTO, "1048577 bytes");
	put(p, 0xffffffff, NULL, 0);
	expect_failure(p, -EPROTO, "4294967295 bytes");
}

static void test_garbage(void **state)
{
	static const char *const bodies[] = {
		"nonsense", "{", "[]", "{}", "{\"type\":1}", "{\"type\":\"a\"} x", "\xff\xfe",
		"{\"type\":\"a\",\"type\":\"b\"}", "null", "\"type\"",
	};
	struct pair *p = *state;

	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
		put(p, strlen(bodies[i]), bodies[i], strlen(bodies[i]));
		expect_failure(p, -EPROTO, "peer sent a message");
	}
	/* Deeper than any parser should follow. */
	char deep[8192];

	memset(deep, '[', sizeof(deep));
	put(p, sizeof(deep), deep, sizeof(deep));
	expect_failure(p, -EPROTO, "not JSON");
}

/* The parser's complaint repeats what it read. */
static void test_garbage_is_cleaned(void **state)
{
	static const char body[] = "\xc3\xa9\xc2\x9b";
	struct pair *p = *state;

	put(p, strlen(body), body, strlen(body));
	expect_failure(p, -EPROTO, "not JSON");
	for (const char *c = p->error.text; *c; c++)
		assert_in_range(*c, ' ', '~');
}

static void test_truncated(void **state)
{
	struct pair *p = *state;

	put(p, 100, "{", 1);
	close(p->peer);
	p->peer = -1;
	expect_failure(p, -ECONNRESET, "closed");
}

static void test_silence(void **state)
{
	struct pair *p = *state;

	put(p, 100, "{", 1);
	expect_failure(p, -ETIMEDOUT, "in time");
}

/* It ends in time, and leaves the CPU to others until then. */
static void test_part_of_record(void **state)
{
	struct pair *p = *state;

	put(p, 100, "{", 1);
	fake_parts = 0;
	expect_failure(p, -ETIMEDOUT, "in time");
	assert_in_range(fake_parts, 2, 300);
}

/* Being ready all the time is no way past a deadline; to be cancelled still is. */
static void test_late(void **state)
{
	struct pair *p = *state;

	put(p, 100, "{", 1);
	assert_int_equal(socket_wait(p->control.fd, POLLIN, -1, now_ns() + NS_PER_S), 0);
	assert_int_equal(socket_wait(p->control.fd, POLLIN, -1, now_ns()), -ETIMEDOUT);
	assert_int_equal(socket_wait(p->control.fd, POLLIN, p->control.fd, now_ns()), -ECANCELED);
}

static void test_full(void **state)
{
	struct pair *p = *state;
	static char bytes[4 << 20];

	/* The peer reads nothing: it must end, and in time. */
	assert_int_equal(control_write(&p->control, bytes, sizeof(bytes)), -ETIMEDOUT);
}

static void test_wrong_type(void **state)
{
	struct pair *p = *state;
	json_t *message;

	put(p, 13, "{\"type\":\"\\n\"}", 13);
	assert_int_equal(control_expect(&p->control, "ready", 200, &message), -EPROTO);
	assert_string_equal(p->error.text, "the peer sent '?' where 'ready' was due");
}

static void test_remote_error(void **state)
{
	struct pair *p = *state;
	struct control back = p->control;

	back.fd = p->peer;
	control_send_error(&back, "no\033[2J room \xc3\xa9");
	expect_failure(p, -EREMOTEIO, "peer: no?[2J room ??");
}

/* However long it is, there is room for more to be said. */
static void test_long_remote_error(void **state)
{
	struct pair *p = *state;
	struct control back = p->control;
	char text[600];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	back.fd = p->peer;
	control_send_error(&back, text);
	expect_failure(p, -EREMOTEIO, "peer: xxx");
	assert_in_range(strlen(p->error.text), 200, 320);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_round_trip), TEST(test_bad_lengths), TEST(test_garbage),
		TEST(test_garbage_is_cleaned), TEST(test_truncated), TEST(test_silence),
		TEST(test_part_of_record), TEST(test_late), TEST(test_full),
		TEST(test_wrong_type), TEST(test_remote_error),
		TEST(test_long_remote_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
