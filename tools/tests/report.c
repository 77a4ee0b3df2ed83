// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who shall read the progress and does not holds nobody up, and what others say
 * does nothing to who reads it.
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

static void test_clean(void **state)
{
	static const struct {
		const char *text, *clean;
	} cases[] = {
		{ "", "" },
		{ "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80" },
		{ "a\033[2Jb\x7f\r\n", "a?[2Jb???" },
		{ "\xc2\x9bJ\xc2\xa0", "??J\xc2\xa0" },
		/* Cut off, overlong, half of a pair, too large, without a beginning. */
		{ "\xe2\x82", "??" },
		{ "\xc0\xafz", "??z" },
		{ "\xed\xa0\x80", "???" },
		{ "\xf4\x90\x80\x80", "????" },
		{ "x\x80\xff", "x??" },
	};
	char text[64];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		strcpy(text, cases[i].text);
		text_clean(text);
		assert_string_equal(text, cases[i].clean);
	}
}

/* Nor is there one that has no JSON. */
static void test_result(void **state)
{
	const struct migr_result r = { .outcome = MIGR_OUTCOME_HERE };
	FILE *report = tmpfile();
	char sentence[512];
	json_t *o;

	(void)state;
	assert_non_null(report);
	/* As it is when it is cut to fit. */
	memset(sentence, 'x', sizeof(sentence));
	strcpy(sentence + sizeof(sentence) - 4, "\033\xe2\x82");
	print_result(&r, "na\xffme", sentence, true, false, report);
	rewind(report);
	o = json_loadf(report, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(o, "vm")), "na?me");
	strcpy(sentence + sizeof(sentence) - 4, "???");
	assert_string_equal(json_string_value(json_object_get(o, "error")), sentence);
	json_decref(o);
	fclose(report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_reads), cmocka_unit_test(test_clean),
		cmocka_unit_test(test_result),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
