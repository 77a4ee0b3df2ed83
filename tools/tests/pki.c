// SPDX-License-Identifier: GPL-2.0-only
/*
 * The authority that migr pki makes is not lost, whatever a run finds or comes to.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tool.h"

#define DAY_S		(24 * 3600)
#define INTERRUPTED	99

static char folder[64];
static char said[4096];		/* by the latest run */
static time_t later_s;		/* how far the clock is ahead */
static int steps_left;		/* changes of files until the process ends; 0: any number */
static long room;		/* bytes that fit on the disk; -1: any number */
static int fake_stat_error;

/* ---- what the command calls ------------------------------------------- */

static void step(void)
{
	if (steps_left && !--steps_left)
		_exit(INTERRUPTED);
}

time_t time(time_t *t)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (t)
		*t = now.tv_sec + later_s;
	return now.tv_sec + later_s;
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
	step();
	return syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
}

int unlinkat(int fd, const char *name, int flags)
{
	step();
	return syscall(SYS_unlinkat, fd, name, flags);
}

int fsync(int fd)
{
	step();
	return syscall(SYS_fsync, fd);
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	step();
	if (!room) {
		errno = ENOSPC;
		return -1;
	}
	if (room > 0 && length > (size_t)room)
		length = room;
	if (room > 0)
		room -= length;
	return syscall(SYS_write, fd, bytes, length);
}

int fstatat(int fd, const char *restrict name, struct stat *restrict st, int flags)
{
	if (!fake_stat_error)
		return syscall(SYS_newfstatat, fd, name, st, flags);
	errno = fake_stat_error;
	return -1;
}

/* ---- a run ------------------------------------------------------------ */

static char *path_of(const char *name)
{
	static char paths[4][PATH_MAX];
	static int n;

	n = (n + 1) % 4;
	snprintf(paths[n], sizeof(paths[n]), "%s/%s", folder, name);
	return paths[n];
}

static size_t read_whole(const char *path, char *bytes, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, bytes, size - 1);

	if (fd >= 0)
		close(fd);
	bytes[n > 0 ? n : 0] = '\0';
	return n;
}

/* The exit status; what it says is in said. */
static int pki(const char *days)
{
	char host[] = "host,127.0.0.1";
	char **argv = (char *[]){ "pki", "--dir", folder, "--days", (char *)days, host, NULL };
	int outputs[2], fd = open(path_of("said"), O_RDWR | O_CREAT | O_TRUNC, 0600), status;

	fflush(NULL);
	for (int i = 0; i < 2; i++) {
		outputs[i] = dup(i + 1);
		dup2(fd, i + 1);
	}
	optind = 0;
	status = cmd_pki(6, argv);
	room = -1;
	fflush(NULL);
	for (int i = 0; i < 2; i++) {
		dup2(outputs[i], i + 1);
		close(outputs[i]);
	}
	close(fd);
	read_whole(path_of("said"), said, sizeof(said));
	return status;
}

static void assert_refused(const char *days, const char *words)
{
	assert_int_equal(pki(days), EXIT_HERE);
	if (!strstr(said, words))
		fail_msg("it said: %s", said);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/migr-test-pki.XXXXXX");
	later_s = 0;
	steps_left = 0;
	room = -1;
	fake_stat_error = 0;
	return !mkdtemp(folder);
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

/* What is called so may not change. */
struct file {
	const char *name;
	char text[4096];
};

static struct file file_of(const char *name)
{
	struct file f = { .name = name };

	read_whole(path_of(name), f.text, sizeof(f.text));
	return f;
}

static void assert_same(const struct file *f)
{
	struct file now = file_of(f->name);

	assert_true(f->text[0]);
	assert_string_equal(now.text, f->text);
}

/* ---- the tests -------------------------------------------------------- */

static void test_one_authority(void **state)
{
	struct file crt, key, host;
	struct stat st;

	(void)state;
	assert_int_equal(pki("365"), 0);
	crt = file_of("ca.pem");
	key = file_of("ca-key.pem");
	host = file_of("host/cert.pem");
	assert_int_equal(stat(path_of("ca-key.pem"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(stat(path_of("host/key.pem"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(pki("365"), 0);
	assert_same(&crt);
	assert_same(&key);
	assert_string_not_equal(file_of("host/cert.pem").text, host.text);
}

/* Its key alone is the authority still, and the certificate alone belongs to it. */
static void test_one_taken_away(void **state)
{
	static const char *const names[] = { "ca.pem", "ca-key.pem" };
	char words[64];
	struct file f;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pki("365"), 0);
		f = file_of(names[!i]);
		assert_int_equal(rename(path_of(names[i]), path_of("away")), 0);
		snprintf(words, sizeof(words), "has %s, but no %s", names[!i], names[i]);
		assert_refused("365", words);
		assert_same(&f);
		/* Nor is one that cannot be looked for, or points nowhere, missing. */
		fake_stat_error = EACCES;
		assert_refused("365", "cannot look for");
		fake_stat_error = 0;
		assert_same(&f);
		assert_int_equal(symlink("/nowhere", path_of(names[i])), 0);
		assert_refused("365", "cannot read");
		assert_same(&f);
		assert_int_equal(rename(path_of("away"), path_of(names[i])), 0);
	}
	assert_int_equal(pki("365"), 0);
}

/* Wherever a run ends, the next one gets on, with the authority if there was one. */
static void test_interrupted(void **state)
{
	struct file key;
	int n = 0, status;
	pid_t pid;

	do {
		assert_int_equal(tear_down(state) || set_up(state), 0);
		pid = fork();
		if (!pid) {
			steps_left = n + 1;
			_exit(pki("365"));
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		n++;
		key = file_of("ca-key.pem");
		if (pki("365"))
			fail_msg("after step %d: %s", n, said);
		if (key.text[0])
			assert_same(&key);
		assert_int_equal(access(path_of("ca.pem.new"), F_OK), -1);
		assert_int_equal(access(path_of("ca-key.pem.new"), F_OK), -1);
	} while (WEXITSTATUS(status) == INTERRUPTED);
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_in_range(n, 20, 100);
}

static int count_files(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Nothing is there in part, nor is what was there lost. */
static void test_disk_full(void **state)
{
	int open_files = count_files("/proc/self/fd"), files;
	struct file crt, key;

	(void)state;
	assert_int_equal(pki("365"), 0);
	files = count_files(path_of("host"));
	crt = file_of("host/cert.pem");
	key = file_of("host/key.pem");
	room = 100;
	assert_refused("365", "cannot write");
	assert_int_equal(count_files(path_of("host")), files);
	for (int i = 0; i < 3; i++) {
		room = 700 * i;
		assert_refused("365", "No space left on device");
		assert_same(&crt);
		assert_same(&key);
	}
	assert_int_equal(count_files("/proc/self/fd"), open_files);
	assert_int_equal(pki("365"), 0);
	assert_int_equal(count_files(path_of("host")), files);
}

/* An authority that could not stand for what it signs. */
static void test_bad_authority(void **state)
{
	(void)state;
	assert_int_equal(pki("3651"), EXIT_USAGE);
	assert_int_equal(pki("3650"), 0);
	later_s = 3640ll * DAY_S;
	assert_refused("11", "valid for another 10 days: that is the most for --days");
	assert_int_equal(pki("10"), 0);
	later_s = 3651ll * DAY_S;
	assert_refused("10", "has expired");
	later_s = 0;
	assert_int_equal(rename(path_of("host/key.pem"), path_of("ca-key.pem")), 0);
	assert_refused("10", "ca-key.pem is not the key of");
	assert_int_equal(pki("3651"), EXIT_USAGE);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_one_authority), TEST(test_one_taken_away), TEST(test_interrupted),
		TEST(test_disk_full), TEST(test_bad_authority),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
