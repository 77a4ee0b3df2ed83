// SPDX-License-Identifier: GPL-2.0-only
/*
 * The QEMU driver against a QEMU that is played: what it does in moments that a
 * real one goes through too fast.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"

/* Its migration has ended in this way, but it asks to be asked again. */
struct player {
	int fd;
	const char *ended;	/* what query-migrate says */
	const char *then;	/* the status that follows finish-migrate */
	unsigned int asked;
	bool refused;
	bool running;
};

static const char *status(struct player *p)
{
	if (p->running)
		return "running";
	if (p->asked++ < 3)
		return "finish-migrate";
	p->running = !strcmp(p->then, "running");
	return p->then;
}

static void answer(struct player *p, const char *command)
{
	if (!strcmp(command, "query-migrate")) {
		dprintf(p->fd, "{\"return\": {\"status\": \"%s\"}}\n", p->ended);
	} else if (!strcmp(command, "query-status")) {
		dprintf(p->fd, "{\"return\": {\"status\": \"%s\"}}\n", status(p));
	} else if (!strcmp(command, "cont") && p->asked <= 3) {
		p->refused = true;
		dprintf(p->fd, "{\"error\": {\"desc\": \"Migration is not finalized yet\"}}\n");
	} else {
		p->running |= !strcmp(command, "cont");
		dprintf(p->fd, "{\"return\": {}}\n");
	}
}

/* Commands come one at a time. */
static void *play(void *data)
{
	struct player *p = data;
	char line[4096];
	json_t *object;
	ssize_t n;

	dprintf(p->fd, "{\"QMP\": {}}\n");
	while ((n = recv(p->fd, line, sizeof(line), 0)) > 0) {
		object = json_loadb(line, n, 0, NULL);
		answer(p, json_string_value(json_object_get(object, "execute")));
		json_decref(object);
	}
	return NULL;
}

static void resume(const char *ended, const char *then)
{
	struct player p = { .ended = ended, .then = then };
	struct qemu q = { .state_fd = -1, .watch.fd = -1 };
	pthread_t thread;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	p.fd = fds[1];
	assert_int_equal(pthread_create(&thread, NULL, play, &p), 0);
	assert_true(qmp_attach(&q.qmp, fds[0], 10000));
	assert_int_equal(qemu_source_ops.resume(NULL, &q), 0);
	qmp_close(&q.qmp);
	pthread_join(thread, NULL);
	close(fds[1]);
	assert_false(p.refused);
	assert_false(q.left_stopped);
	assert_true(p.running);
}

/* Its migration was complete, and something else failed. */
static void test_resume_completed(void **state)
{
	(void)state;
	resume("completed", "postmigrate");
}

/* It could not save its state, and goes on by itself. */
static void test_resume_failed(void **state)
{
	(void)state;
	resume("failed", "running");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resume_completed), cmocka_unit_test(test_resume_failed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
