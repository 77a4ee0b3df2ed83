// SPDX-License-Identifier: GPL-2.0-only
/*
 * The monitor's client against a QEMU that answers late, or not at all.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"

#define GREETING	"{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n"

static void put(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
}

/* All that it will say is there before it is asked. */
static int attach(struct qmp *q)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	put(fds[1], GREETING);
	assert_true(qmp_attach(q, fds[0], 1000));
	return fds[1];
}

static void test_late_reply(void **state)
{
	json_auto_t *result = NULL;
	struct qmp q;
	int fd;

	(void)state;
	fd = attach(&q);
	put(fd, "{\"return\": {\"status\": \"late\"}, \"id\": 1}\n"
		"{\"error\": {\"desc\": \"late\"}, \"id\": 1}\n"
		"{\"event\": \"STOP\"}\n"
		"{\"return\": {\"status\": \"running\"}, \"id\": 2}\n");
	assert_true(qmp_command(&q, "query-status", NULL, &result));
	assert_string_equal(json_string_value(json_object_get(result, "status")), "running");
	assert_int_equal(json_array_size(q.events), 1);
	qmp_close(&q);
	close(fd);
}

/* -qmp-pretty */
static void test_several_lines(void **state)
{
	json_auto_t *result = NULL;
	struct qmp q;
	int fd;

	(void)state;
	fd = attach(&q);
	put(fd, "{\n    \"event\": \"STOP\"\r\n}\r\n"
		"{\n    \"return\": {\n        \"status\": \"running\"\n    },\n"
		"    \"id\": 2\n}\r\n");
	assert_true(qmp_command(&q, "query-status", NULL, &result));
	assert_string_equal(json_string_value(json_object_get(result, "status")), "running");
	assert_int_equal(json_array_size(q.events), 1);
	put(fd, "}\n");
	assert_false(qmp_command(&q, "cont", NULL, NULL));
	assert_string_equal(q.error.s, "QEMU's monitor sent something else than JSON");
	qmp_close(&q);
	close(fd);
}

/* What QEMU cannot parse it refuses without a number. */
static void test_refused(void **state)
{
	struct qmp q;
	int fd;

	(void)state;
	fd = attach(&q);
	put(fd, "{\"error\": {\"desc\": \"no\"}, \"id\": 2}\n{\"error\": {\"desc\": \"nonsense\"}}\n");
	assert_false(qmp_command(&q, "cont", NULL, NULL));
	assert_string_equal(q.error.s, "QEMU refused 'cont': no");
	assert_false(qmp_command(&q, "stop", NULL, NULL));
	assert_string_equal(q.error.s, "QEMU refused 'stop': nonsense");
	qmp_close(&q);
	close(fd);
}

static void test_ended(void **state)
{
	struct qmp q;
	int fd;

	(void)state;
	fd = attach(&q);
	put(fd, "{\"event\": \"SHUTDOWN\"}\n");
	assert_true(qmp_alive(&q));
	close(fd);
	assert_false(qmp_alive(&q));
	assert_string_equal(q.error.s, "QEMU closed its monitor: it has ended");
	qmp_close(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_late_reply), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_ended), cmocka_unit_test(test_several_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
