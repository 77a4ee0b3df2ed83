// SPDX-License-Identifier: GPL-2.0-only
/*
 * How fast a guest works while what it writes is collected once a second: from
 * KVM's dirty log by stock QEMU, by a tracker of ours, or not at all. The guest
 * is paused before and afterwards, and tells on its console what it has done.
 * Prints its writes a second and how often they were collected.
 *
 * QEMU collects when it is asked to calculate the dirty rate: it turns the log
 * on, fetches and protects all, and fetches once more at the end of the period,
 * of which a second is the shortest. So it is asked again and again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "migr.h"
#include "tool.h"

#define PAGE_BYTES	4096
#define SECOND_NS	UINT64_C(1000000000)
/* Until all that has been protected at first is written again. */
#define WARM_UP_NS	(3 * SECOND_NS)
#define LIMIT_NS	(120 * SECOND_NS)

struct collector {
	struct qmp qmp;
	struct migr *m;
	struct migr_region region;
	uint64_t *bitmap;
	int tracker;
	uint64_t passes, next;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "guest_log: %s: %s\n", what, why);
	exit(1);
}

static void command(struct collector *c, const char *name, json_t *arguments, json_t **result)
{
	if (!qmp_command(&c->qmp, name, arguments, result))
		die(name, c->qmp.error.s);
}

static void nothing(struct collector *c)
{
	(void)c;
}

static void kvm_begin(struct collector *c)
{
	command(c, "calc-dirty-rate",
		json_pack("{s:i, s:s}", "calc-time", 1, "mode", "dirty-bitmap"), NULL);
	c->next = clock_ns() + SECOND_NS;
}

static void kvm_collect(struct collector *c)
{
	const char *status;
	json_t *info;

	command(c, "query-dirty-rate", NULL, &info);
	if (json_unpack(info, "{s:s}", "status", &status))
		die("query-dirty-rate", "no status");
	if (!strcmp(status, "measured")) {
		c->passes++;
		kvm_begin(c);
	}
	json_decref(info);
}

static void migr_fetch(struct collector *c)
{
	if (migr_tracker_fetch(c->m, c->tracker, 0, c->region.info.length / PAGE_BYTES, c->bitmap,
			       NULL, NULL))
		die("migr_tracker_fetch", migr_error(c->m));
	c->next = clock_ns() + SECOND_NS;
}

static void migr_begin(struct collector *c)
{
	c->tracker = migr_tracker_start(c->m, c->region.fd);
	if (c->tracker < 0)
		die("migr_tracker_start", migr_error(c->m));
	c->bitmap = calloc(c->region.info.length / PAGE_BYTES / 64, sizeof(*c->bitmap));
	if (!c->bitmap)
		die("calloc", "no memory");
	migr_fetch(c);
}

static void migr_collect(struct collector *c)
{
	migr_fetch(c);
	c->passes++;
}

static const struct {
	const char *name;
	void (*begin)(struct collector *c);
	void (*collect)(struct collector *c);
} logs[] = {
	{ "none", nothing, nothing },
	{ "kvm", kvm_begin, kvm_collect },
	{ "migr", migr_begin, migr_collect },
};

/* The next line of the console, as far as it has come, tells the writes so far. */
static bool next_beat(FILE *console, uint64_t *writes)
{
	static char line[256];
	static size_t length;
	const char *at;

	clearerr(console);
	while (fgets(line + length, sizeof(line) - length, console)) {
		length = strlen(line);
		if (line[length - 1] != '\n' && length < sizeof(line) - 1)
			continue;
		length = 0;
		at = strstr(line, " writes=");
		if (at && sscanf(at, " writes=%" SCNu64, writes) == 1)
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	uint64_t begun, now, from = 0, writes = 0, writes_then = 0, seconds;
	const struct timespec tick = { .tv_nsec = 10000000 };
	struct collector c = { .tracker = -1 };
	FILE *console;
	size_t log;

	if (argc != 6) {
		fputs("usage: guest_log none|kvm|migr PID QMP CONSOLE SECONDS\n", stderr);
		return 2;
	}
	for (log = 0; strcmp(logs[log].name, argv[1]); log++)
		if (log == sizeof(logs) / sizeof(*logs) - 1)
			die(argv[1], "no such log");
	if (!qmp_open(&c.qmp, argv[3]))
		die(argv[3], c.qmp.error.s);
	if (!strcmp(argv[1], "migr") &&
	    (migr_open(&c.m) || migr_region_take(c.m, atoi(argv[2]), &c.region, 1) != 1))
		die("the region", migr_error(c.m));
	console = fopen(argv[4], "r");
	if (!console || fseek(console, 0, SEEK_END))
		die(argv[4], "cannot be read");
	seconds = atoi(argv[5]);

	begun = clock_ns();
	command(&c, "cont", NULL, NULL);
	logs[log].begin(&c);
	for (;;) {
		nanosleep(&tick, NULL);
		now = clock_ns();
		if (now > begun + LIMIT_NS)
			die(argv[4], "the guest says nothing");
		if (next_beat(console, &writes) && now > begun + WARM_UP_NS) {
			if (!from) {
				from = now;
				writes_then = writes;
				c.passes = 0;
			} else if (now > from + seconds * SECOND_NS) {
				break;
			}
		}
		if (now >= c.next)
			logs[log].collect(&c);
	}
	if (c.tracker >= 0)
		close(c.tracker);
	command(&c, "stop", NULL, NULL);
	printf("%.0f %.2f\n", (writes - writes_then) * 1e9 / (now - from),
	       c.passes * 1e9 / (now - from));
	return 0;
}
