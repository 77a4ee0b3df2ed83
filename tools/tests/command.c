// SPDX-License-Identifier: GPL-2.0-only
/*
 * QEMU's command line: its -m, what is added to it, what is read from it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tool.h"

#define MIB	1048576ull

static void test_memory_size(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;		/* 0: refused */
	} cases[] = {
		{ "512", 512 * MIB }, { "512M", 512 * MIB }, { "2G", 2048 * MIB },
		{ "2g", 2048 * MIB },
		{ "1.5G", 1536 * MIB }, { "524288K", 512 * MIB }, { "1T", MIB * MIB },
		{ "size=1G,slots=2,maxmem=4G", 1024 * MIB }, { "1G,slots=2,maxmem=4G", 1024 * MIB },
		{ "slots=2,size=768,maxmem=4G", 768 * MIB }, { "slots=2,maxmem=4G", 128 * MIB },
		{ "0", 128 * MIB }, { "134217728B", 128 * MIB }, { "1048577B", MIB + 8192 },
		{ "", 0 }, { "abc", 0 }, { "-5", 0 }, { "5X", 0 }, { "5MB", 0 },
		{ "size=,slots=1", 0 },
		{ "inf", 0 }, { "nan", 0 }, { "1e30", 0 },
	};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(memory_size(cases[i].text, &bytes), cases[i].bytes != 0);
		if (cases[i].bytes)
			assert_int_equal(bytes, cases[i].bytes);
	}
}

#define WORDS(...)	((char *[]){ "qemu-system-x86_64", ##__VA_ARGS__, NULL })
#define BACKEND(id, size) \
	"memory-backend-file,id=" id ",mem-path=/proc/self/fd/5,size=" size ",align=2M,share=on"

static bool has(char *const *argv, const char *option, const char *value)
{
	for (size_t i = 0; argv[i] && argv[i + 1]; i++)
		if (!strcmp(argv[i], option) && !strcmp(argv[i + 1], value))
			return true;
	return false;
}

static void test_on_migr(void **state)
{
	char **c;

	(void)state;
	c = command_on_migr(WORDS("-m", "1G", "-machine", "q35"), MIGR_BACKEND, 5, 1 << 30,
			    "/run/migr/1,2.qmp", -1);
	assert_non_null(c);
	assert_string_equal(c[0], "qemu-system-x86_64");
	assert_true(has(c, "-m", "1G"));
	assert_true(has(c, "-machine", "q35"));
	assert_true(has(c, "-machine", "memory-backend=migr-ram"));
	assert_true(has(c, "-object", BACKEND("migr-ram", "1073741824")));
	assert_true(has(c, "-qmp", "unix:/run/migr/1,,2.qmp,server=on,wait=off"));
	assert_false(has(c, "-incoming", "defer"));
	command_free(c);

	c = command_on_migr(WORDS("-m", "256"), "a.b-1", 5, 256 << 20, "/q", 7);
	assert_true(has(c, "-object", BACKEND("a.b-1", "268435456")));
	assert_true(has(c, "-machine", "memory-backend=a.b-1"));
	assert_true(has(c, "-incoming", "defer"));
	assert_true(has(c, "-chardev", "socket,id=migr-control,fd=7"));
	command_free(c);
}

static void test_backend(void **state)
{
	static const char *const bad[] = { "", "1", "-a", "a,b", "a=b", "a b", "/a" };

	(void)state;
	assert_true(backend_valid("ram"));
	assert_true(backend_valid("pc.ram_0-1"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(backend_valid(bad[i]));
}

static void test_memory(void **state)
{
	struct text error;
	uint64_t bytes;

	(void)state;
	/* The last -m counts; --m is -m. */
	assert_true(command_check(WORDS("-m", "1G", "--m", "256"), true, &bytes, &error));
	assert_int_equal(bytes, 256 << 20);
	assert_true(command_check(WORDS(), false, &bytes, &error));
	assert_int_equal(bytes, 128 << 20);
}

static void refused(char *const *argv, bool incoming, const char *word)
{
	struct text error = { "" };
	uint64_t bytes;

	assert_false(command_check(argv, incoming, &bytes, &error));
	assert_non_null(strstr(error.s, word));
}

static void test_refused(void **state)
{
	struct text error;
	uint64_t bytes;

	(void)state;
	refused(WORDS("-object", "memory-backend-ram,id=x,size=1G"), false, "memory backend of its own");
	refused(WORDS("-object", "{\"qom-type\":\"memory-backend-memfd\"}"), false, "memory backend");
	refused(WORDS("-machine", "q35,memory-backend=x"), false, "names a memory backend");
	refused(WORDS("-M", "pc,memory-backend=x"), false, "names a memory backend");
	refused(WORDS("-mem-path", "/dev/hugepages"), false, "-mem-path /dev/hugepages");
	refused(WORDS("--mem-path", "/dev/hugepages"), false, "places the RAM itself");
	refused(WORDS("-numa", "node,memdev=x"), false, "NUMA");
	refused(WORDS("-m", "lots"), false, "-m lots");
	refused(WORDS("-m"), false, "not a memory size");
	refused(WORDS("-incoming", "defer"), true, "itself");
	refused(WORDS("-daemonize"), true, "looks after");
	refused((char *[]){ "-m", "5", NULL }, false, "begin with the program");
	refused((char *[]){ NULL }, false, "begin with the program");
	assert_true(command_check(WORDS("-daemonize", "-object", "rng-random,id=r"), false, &bytes,
				  &error));
}

static void test_read(void **state)
{
	struct text t;

	(void)state;
	command_name(WORDS("-name", "alpha"), &t);
	assert_string_equal(t.s, "alpha");
	command_name(WORDS("-name", "guest=be,,ta,debug-threads=on"), &t);
	assert_string_equal(t.s, "be,ta");
	command_name(WORDS("-name", "debug-threads=on,guest=gamma"), &t);
	assert_string_equal(t.s, "gamma");
	command_name(WORDS("-m", "5"), &t);
	assert_string_equal(t.s, "");

	command_qmp(WORDS("-qmp", "unix:/a,server=on,wait=off"), &t);
	assert_string_equal(t.s, "/a");
	command_qmp(WORDS("-qmp", "unix:a,server,nowait", "-qmp", "stdio"), &t);
	assert_string_equal(t.s, "a");
	command_qmp(WORDS("-qmp", "tcp:localhost:1,server=on"), &t);
	assert_string_equal(t.s, "");
	command_qmp(WORDS("-chardev", "socket,id=c,path=/b,server=on", "-mon",
			  "chardev=c,mode=control"), &t);
	assert_string_equal(t.s, "/b");
	command_qmp(WORDS("-chardev", "socket,id=c,path=/b", "-mon", "c,mode=control"), &t);
	assert_string_equal(t.s, "/b");
	command_qmp(WORDS("-chardev", "socket,id=c,path=/b", "-mon", "c,mode=readline"), &t);
	assert_string_equal(t.s, "");
	/* Of an arrived VM: the monitor that served the arrival is no path. */
	command_qmp(WORDS("-qmp", "unix:/q", "-chardev", "socket,id=migr-control,fd=7", "-mon",
			  "chardev=migr-control,mode=control"), &t);
	assert_string_equal(t.s, "/q");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_size),
		cmocka_unit_test(test_on_migr),
		cmocka_unit_test(test_backend),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
