// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who shall read the progress and does not holds nobody up.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"

#define PIPE_BYTES	4096

static void test_nobody_reads(void **state)
{
	const struct migr_progress p = { .phase = MIGR_PHASE_LAST_PASS };
	char line[PIPE_BYTES];
	int fds[2], output;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES), PIPE_BYTES);
	memset(line, 'x', sizeof(line));
	assert_int_equal(write(fds[1], line, sizeof(line)), sizeof(line));
	fflush(stdout);
	output = dup(STDOUT_FILENO);
	dup2(fds[1], STDOUT_FILENO);
	/* Should it wait, for ever. */
	alarm(20);
	print_progress(&p, true);
	alarm(0);
	assert_int_equal(read(fds[0], line, sizeof(line)), sizeof(line));
	/* What was left out is not said later. */
	print_progress(&p, true);
	dup2(output, STDOUT_FILENO);
	close(output);
	close(fds[1]);
	memset(line, 0, sizeof(line));
	assert_true(read(fds[0], line, sizeof(line)) > 0);
	assert_non_null(strstr(line, "\"last-pass\""));
	assert_int_equal(read(fds[0], line, sizeof(line)), 0);
	close(fds[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_nobody_reads) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
