// SPDX-License-Identifier: GPL-2.0-only
/*
 * The options of the commands: what cannot be meant is refused with a sentence
 * that names it, before anything else is done.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"

/* What a command writes to a stream while it runs. */
struct capture {
	FILE *stream;
	int fd, saved;
};

static void capture_begin(struct capture *c, FILE *stream)
{
	c->stream = stream;
	fflush(stream);
	c->fd = memfd_create("captured", MFD_CLOEXEC);
	c->saved = dup(fileno(stream));
	assert_true(c->fd >= 0 && c->saved >= 0);
	dup2(c->fd, fileno(stream));
}

static void capture_end(struct capture *c, char *text, size_t size)
{
	ssize_t n;

	fflush(c->stream);
	dup2(c->saved, fileno(c->stream));
	close(c->saved);
	n = pread(c->fd, text, size - 1, 0);
	close(c->fd);
	assert_true(n >= 0);
	text[n] = '\0';
}

typedef int (*command)(int argc, char **argv);

/* Run it; its status, and all that it says on a stream. */
static int run(command c, char **argv, FILE *stream, char *text, size_t size)
{
	struct capture capture;
	int argc = 0, status;

	while (argv[argc])
		argc++;
	optind = 0;	/* a new command line */
	capture_begin(&capture, stream);
	status = c(argc, argv);
	capture_end(&capture, text, size);
	return status;
}

#define ARGV(...)	((char *[]){ __VA_ARGS__, NULL })

static void refused(command c, char **argv, const char *words)
{
	char text[4096];

	assert_int_equal(run(c, argv, stderr, text, sizeof(text)), EXIT_USAGE);
	if (!strstr(text, words))
		fail_msg("no '%s' in: %s", words, text);
}

static void test_send_numbers(void **state)
{
	static const struct {
		const char *option, *range;
	} numbers[] = {
		{ "--downtime-limit", "from 1 to 3600000" },
		{ "--pass-limit", "from 1 to 1000000" },
		{ "--timeout", "from 1 to 3600" },
	};
	static const char *const bad[] = {
		"", "0", "-1", "+1", " 1", "1s", "x", "1.5", "3600001", "0x10",
		"99999999999999999999",
	};
	char words[128];

	(void)state;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		for (size_t j = 0; j < sizeof(bad) / sizeof(*bad); j++) {
			snprintf(words, sizeof(words), "migr: %s needs a number %s, not '%s'",
				 numbers[i].option, numbers[i].range, bad[j]);
			refused(cmd_send, ARGV("send", (char *)numbers[i].option, (char *)bad[j],
					       "vm", "host"), words);
		}
		snprintf(words, sizeof(words), "option '%s' requires an argument",
			 numbers[i].option);
		refused(cmd_send, ARGV("send", "vm", "host", (char *)numbers[i].option), words);
	}
}

static void test_send_rates(void **state)
{
	static const char *const bad[] = {
		"", "0", "-1M", "+1M", " 1M", "M", "1MM", "1m", "1Mbit", "1.5G", "99999", "99K",
		"10001G", "99999999999999999999999999", "1 M",
	};
	char words[128];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		snprintf(words, sizeof(words),
			 "--max-bandwidth needs bits a second from 100K to 10000G, not '%s'",
			 bad[i]);
		refused(cmd_send, ARGV("send", "--max-bandwidth", (char *)bad[i], "vm", "host"),
			words);
	}
}

static void test_rate(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "100000", 12500 }, { "100K", 12500 }, { "500M", 62500000 },
		{ "25G", 3125000000 }, { "10000G", 1250000000000 },
	};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_true(parse_rate("--rate", good[i].text, &bytes));
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void test_send(void **state)
{
	(void)state;
	refused(cmd_send, ARGV("send"), "which VM, and where to?");
	refused(cmd_send, ARGV("send", "vm"), "which VM, and where to?");
	refused(cmd_send, ARGV("send", "vm", "host", "more"), "which VM, and where to?");
	refused(cmd_send, ARGV("send", "--fast", "vm", "host"), "unrecognized option '--fast'");
	refused(cmd_send, ARGV("send", "--compress", "none", "vm", "host"),
		"--compress needs lz4, zstd, auto or off, not 'none'");
	refused(cmd_send, ARGV("send", "--compress", "", "vm", "host"),
		"--compress needs lz4, zstd, auto or off, not ''");
	refused(cmd_send, ARGV("send", "--compress-cpu", "idle", "vm", "host"),
		"--compress-cpu needs a number from 1 to 100, not 'idle'");
	refused(cmd_send, ARGV("send", "--copy=1", "vm", "host"),
		"option '--copy' doesn't allow an argument");
	refused(cmd_send, ARGV("send", "--qmp"), "option '--qmp' requires an argument");
	refused(cmd_send, ARGV("send", "--report", "/nowhere/report", "vm", "host"),
		"cannot write /nowhere/report: No such file or directory");
}

static void test_receive(void **state)
{
	(void)state;
	refused(cmd_receive, ARGV("receive"), "which command runs the VM?");
	refused(cmd_receive, ARGV("receive", "--once", "--"), "which command runs the VM?");
	refused(cmd_receive, ARGV("receive", "--timeout", "0", "qemu"),
		"--timeout needs a number from 1 to 3600, not '0'");
	refused(cmd_receive, ARGV("receive", "--twice", "qemu"), "unrecognized option '--twice'");
	refused(cmd_receive, ARGV("receive", "--listen"), "option '--listen' requires an argument");
	refused(cmd_receive, ARGV("receive", "--listen", "unix:/run/a", "qemu"),
		"a UNIX socket cannot be encrypted: say --insecure");
	refused(cmd_receive, ARGV("receive", "--listen", "vsock:4242", "qemu"),
		"a vsock socket cannot be encrypted: say --insecure");
	/* QEMU's own options are not ours. */
	refused(cmd_receive, ARGV("receive", "--once", "qemu", "--timeout", "0", "-incoming",
				  "defer"), "receive: the command has '-incoming defer'");
	refused(cmd_receive, ARGV("receive", "--", "--once"), "it must begin with the program");
}

static void test_ls_and_run(void **state)
{
	(void)state;
	refused(cmd_ls, ARGV("ls", "--all"), "'--all'");
	refused(cmd_ls, ARGV("ls", "--json", "--all"), "'--all'");
	refused(cmd_ls, ARGV("ls", "--json", "vm"), "'vm'");
	refused(cmd_run, ARGV("run"), "which command?");
	refused(cmd_run, ARGV("run", "--"), "which command?");
	refused(cmd_run, ARGV("run", "--bogus"), "it must begin with the program");
	refused(cmd_run, ARGV("run", "--", "qemu", "-mem-path", "/dev/shm"),
		"run: the command has '-mem-path /dev/shm'");
	refused(cmd_run, ARGV("run", "qemu", "-m", "much"), "run: not a memory size: '-m much'");
}

static void test_help(void **state)
{
	static const struct {
		command run;
		char *name;
		const char *words;
	} commands[] = {
		{ cmd_run, "run", "Usage: migr run " },
		{ cmd_ls, "ls", "Usage: migr ls " },
		{ cmd_receive, "receive", "Usage: migr receive " },
		{ cmd_send, "send", "Usage: migr send " },
	};
	char text[4096];

	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		assert_int_equal(run(commands[i].run, ARGV(commands[i].name, "--help"), stdout,
				     text, sizeof(text)), 0);
		assert_non_null(strstr(text, commands[i].words));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_send_numbers), cmocka_unit_test(test_send_rates),
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_send),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_ls_and_run),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
