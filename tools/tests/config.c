// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is in a configuration, and what is wrong with one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"

static char path[32];
static struct config config;
static struct text error;

static bool read_text(const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
	error.s[0] = '\0';
	return config_read(path, &config, &error);
}

static void test_networks(void **state)
{
	(void)state;
	assert_true(read_text("{}"));
	assert_string_equal(config.networks.s, "");
	assert_true(read_text("{\"networks\": [\"192.0.2.0/24\"]}"));
	assert_string_equal(config.networks.s, "192.0.2.0/24");
	assert_true(read_text("{\"networks\":\n[\"192.0.2.0/24\", \"2001:db8::/64\"]}\n"));
	assert_string_equal(config.networks.s, "192.0.2.0/24,2001:db8::/64");
	/* Nor need there be one; but one that cannot be read is not none. */
	assert_false(config_read("/proc/self/mem/config.json", &config, &error));
	assert_true(config_read("/tmp/migr-test-config.none", &config, &error));
	assert_string_equal(config.networks.s, "");
}

static void assert_wrong(const char *text, const char *words)
{
	assert_false(read_text(text));
	assert_non_null(strstr(error.s, path));
	if (!strstr(error.s, words))
		fail_msg("it said: %s", error.s);
}

static void test_wrong(void **state)
{
	static char many[2048] = "{\"networks\": [";

	(void)state;
	assert_wrong("", "line 1: ");
	assert_wrong("{\n\"networks\": [\n}", "line 3: ");
	assert_wrong("[]", "not an object");
	assert_wrong("{\"network\": []}", "there is no \"network\" to be configured");
	assert_wrong("{\"networks\": []}", "\"networks\" is no list");
	assert_wrong("{\"networks\": \"192.0.2.0/24\"}", "\"networks\" is no list");
	assert_wrong("{\"networks\": [1]}", "\"networks\" has what is no network");
	assert_wrong("{\"networks\": [\"\"]}", "\"networks\" has what is no network");
	assert_wrong("{\"networks\": [\"::/0\"], \"networks\": [\"::/0\"]}", "duplicate");
	for (int i = 0; i < 100; i++)
		strcat(many, "\"192.0.2.0/24\", ");
	strcat(many, "\"::/0\"]}");
	assert_wrong(many, "\"networks\" is too long");
}

static int make_file(void **state)
{
	(void)state;
	strcpy(path, "/tmp/migr-test-config.XXXXXX");
	return close(mkstemp(path));
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_networks), cmocka_unit_test(test_wrong),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}
