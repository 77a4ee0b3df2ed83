// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guardian of an arriving VMM, when 'migr receive' is killed: this program
 * again, in the place of QEMU, tells what happens to it.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"
#include "tests/fake_device.h"

#define REPORT		"MIGR_TEST_REPORT"
#define WAIT_MS		20000

/* What it tells, a byte each. */
#define LISTENS		'l'
#define CONTINUED	'c'

/* ---- in the place of QEMU --------------------------------------------- */

/* Commands are short and come one at a time, without an end of line. */
static void answer_all(int fd, int report)
{
	char command[4096];
	ssize_t n;
	int id = 0;

	dprintf(fd, "{\"QMP\": {}}\n");
	while ((n = recv(fd, command, sizeof(command) - 1, 0)) > 0) {
		command[n] = '\0';
		if (strstr(command, "\"cont\"") && write(report, &(char){ CONTINUED }, 1) != 1)
			break;
		dprintf(fd, "{\"return\": {}, \"id\": %d}\n", ++id);
	}
	close(fd);
}

static int be_vmm(char **argv)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int report = atoi(getenv(REPORT)), listener;
	struct text path;

	command_qmp(argv, &path);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%.100s", path.s);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&sun, sizeof(sun)) || listen(listener, 1) ||
	    write(report, &(char){ LISTENS }, 1) != 1)
		return 1;
	/* Should everybody forget it. */
	alarm(3 * WAIT_MS / 1000);
	for (;;)
		answer_all(accept(listener, NULL, NULL), report);
}

/* ---- in the place of migr receive ------------------------------------- */

struct receiver {
	pid_t pid, vmm;
	int report;		/* ends when the VMM does */
	char path[108];
};

static void be_receiver(int to_test, void (*prepare)(struct child *c))
{
	struct text error;
	struct child c;

	if (!child_start(&c, (char *[]){ "/proc/self/exe", NULL }, MIGR_BACKEND, true, &error))
		_exit(1);
	prepare(&c);
	if (write(to_test, &c.pid, sizeof(c.pid)) != sizeof(c.pid))
		_exit(1);
	for (;;)
		pause();
}

/* The next byte of the VMM's report; 0 at its end. */
static char told(struct receiver *r)
{
	struct pollfd p = { .fd = r->report, .events = POLLIN };
	char byte = 0;

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	return read(r->report, &byte, 1) == 1 ? byte : 0;
}

static void start(struct receiver *r, void (*prepare)(struct child *c))
{
	int report[2], pids[2];
	struct text path, error;
	char number[16];

	assert_int_equal(pipe(report), 0);
	assert_int_equal(pipe(pids), 0);
	snprintf(number, sizeof(number), "%d", report[1]);
	setenv(REPORT, number, 1);
	r->pid = fork();
	assert_true(r->pid >= 0);
	if (!r->pid)
		be_receiver(pids[1], prepare);
	close(report[1]);
	close(pids[1]);
	r->report = report[0];
	assert_int_equal(read(pids[0], &r->vmm, sizeof(r->vmm)), sizeof(r->vmm));
	close(pids[0]);
	assert_int_equal(told(r), LISTENS);
	vm_qmp_path(r->vmm, &path, &error);
	snprintf(r->path, sizeof(r->path), "%.100s", path.s);
	assert_int_equal(access(r->path, F_OK), 0);
	/* Without warning. */
	kill(r->pid, SIGKILL);
	assert_int_equal(waitpid(r->pid, NULL, 0), r->pid);
}

/* It still was there, and had not been told anything. */
static void end(struct receiver *r)
{
	assert_int_equal(kill(r->vmm, SIGKILL), 0);
	assert_int_equal(told(r), 0);
	close(r->report);
	unlink(r->path);
}

static void await_guardian(pid_t pid)
{
	char path[64], comm[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	for (int i = 0; i < WAIT_MS; i++) {
		FILE *f = fopen(path, "re");
		bool named = f && fgets(comm, sizeof(comm), f) &&
			     !strcmp(comm, MIGR_GUARDIAN "\n");

		if (f)
			fclose(f);
		if (named)
			return;
		usleep(1000);
	}
	_exit(1);
}

/* ---- the tests -------------------------------------------------------- */

static void nothing(struct child *c)
{
	(void)c;
}

/* The VMM has a name in the file system once it is where it can tell of its end. */
static void lose_guardian_and_kill(struct child *c)
{
	struct text path, error;

	await_guardian(c->guardian);
	vm_qmp_path(c->pid, &path, &error);
	for (int i = 0; i < WAIT_MS && access(path.s, F_OK); i++)
		usleep(1000);
	kill(c->guardian, SIGKILL);
	child_kill(c);
}

static void commit_and_release(struct child *c)
{
	child_commit(c);
	child_release(c);
}

static void test_before_commit(void **state)
{
	struct receiver r;

	(void)state;
	start(&r, nothing);
	assert_int_equal(told(&r), 0);
	close(r.report);
	/* The guardian takes away what a killed VMM leaves. */
	for (int i = 0; i < WAIT_MS && !access(r.path, F_OK); i++)
		usleep(1000);
	assert_int_not_equal(access(r.path, F_OK), 0);
}

static void test_after_commit(void **state)
{
	struct receiver r;

	(void)state;
	start(&r, child_commit);
	assert_int_equal(told(&r), CONTINUED);
	end(&r);
}

static void test_released(void **state)
{
	struct receiver r;

	(void)state;
	start(&r, commit_and_release);
	end(&r);
}

static void test_without_guardian(void **state)
{
	struct receiver r;

	(void)state;
	start(&r, lose_guardian_and_kill);
	assert_int_equal(told(&r), 0);
	close(r.report);
	unlink(r.path);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_before_commit),
		cmocka_unit_test(test_after_commit),
		cmocka_unit_test(test_released),
		cmocka_unit_test(test_without_guardian),
	};

	if (argc > 1)
		return be_vmm(argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
