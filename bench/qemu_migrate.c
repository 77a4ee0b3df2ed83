// SPDX-License-Identifier: GPL-2.0-only
/*
 * The peer: stock QEMU's own migration, driven over QMP as 'migr send' drives
 * it. Standard input is the connected monitor of a destination that waits for
 * migrate-incoming. Prints one JSON object, whose times are by the source's
 * clock, as migr's are: the downtime is from the guest's stop until it is known
 * here that it runs there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define LIMIT_NS	(120 * UINT64_C(1000000000))
#define GREETING_MS	30000

static void die(const struct qmp *q, const char *what)
{
	fprintf(stderr, "qemu_migrate: %s: %s\n", what, q->error.s);
	exit(1);
}

static void command(struct qmp *q, const char *name, json_t *arguments, json_t **result)
{
	if (!qmp_command(q, name, arguments, result))
		die(q, name);
}

static void set_capability(struct qmp *q, const char *name)
{
	command(q, "migrate-set-capabilities",
		json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state", 1),
		NULL);
}

static void set_parameter(struct qmp *q, const char *name, const char *value)
{
	command(q, "migrate-set-parameters", json_pack("{s:I}", name, (json_int_t)atoll(value)),
		NULL);
}

static void set_multifd(struct qmp *q, const char *channels)
{
	set_capability(q, "multifd");
	set_parameter(q, "multifd-channels", channels);
}

/* Wait for an event, or for that of a migration's status. When it happened, in ms. */
static double await(struct qmp *q, const char *name, const char *status, uint64_t deadline)
{
	json_int_t seconds, microseconds;
	const char *event, *now;
	json_t *e;

	for (;; json_decref(e)) {
		e = qmp_event(q, deadline);
		if (!e)
			die(q, name);
		now = "";
		if (json_unpack(e, "{s:s, s:{s:I, s:I}, s?{s?s}}", "event", &event, "timestamp",
				"seconds", &seconds, "microseconds", &microseconds,
				"data", "status", &now))
			die(q, "bad event");
		if (!strcmp(event, "MIGRATION") && !strcmp(now, "failed"))
			die(q, "the migration failed");
		if (!strcmp(event, name) && (!status || !strcmp(now, status)))
			break;
	}
	json_decref(e);
	return seconds * 1e3 + microseconds / 1e3;
}

int main(int argc, char **argv)
{
	const char *bandwidth = NULL, *channels = NULL;
	struct qmp source, destination;
	uint64_t begun, deadline;
	double stopped, total_ms, mbps;
	struct timespec resumed;
	json_t *info;
	int option;

	while ((option = getopt(argc, argv, "b:m:")) >= 0) {
		switch (option) {
		case 'b':
			bandwidth = optarg;
			break;
		case 'm':
			channels = optarg;
			break;
		default:
			argc = 0;
		}
	}
	if (argc - optind != 2) {
		fputs("usage: qemu_migrate [-b BYTES-PER-SECOND] [-m MULTIFD-CHANNELS] SOURCE-QMP URI\n",
		      stderr);
		return 2;
	}
	if (!qmp_open(&source, argv[optind]))
		die(&source, argv[optind]);
	destination = (struct qmp){ .fd = STDIN_FILENO };
	if (!qmp_attach(&destination, STDIN_FILENO, GREETING_MS))
		die(&destination, "the destination's monitor");
	set_capability(&source, "events");
	if (bandwidth)
		set_parameter(&source, "max-bandwidth", bandwidth);
	if (channels) {
		set_multifd(&source, channels);
		set_multifd(&destination, channels);
	}
	command(&destination, "migrate-incoming", json_pack("{s:s}", "uri", argv[optind + 1]),
		NULL);
	begun = clock_ns();
	deadline = begun + LIMIT_NS;
	command(&source, "migrate", json_pack("{s:s}", "uri", argv[optind + 1]), NULL);
	stopped = await(&source, "STOP", NULL, deadline);
	await(&destination, "RESUME", NULL, deadline);
	clock_gettime(CLOCK_REALTIME, &resumed);
	total_ms = (clock_ns() - begun) / 1e6;
	await(&source, "MIGRATION", "completed", deadline);
	command(&source, "query-migrate", NULL, &info);
	if (json_unpack(info, "{s:{s:F}}", "ram", "mbps", &mbps))
		die(&source, "bad query-migrate");
	printf("{\"type\":\"result\",\"total_ms\":%.1f,\"downtime_ms\":%.1f,\"throughput_mbps\":%.1f}\n",
	       total_ms, resumed.tv_sec * 1e3 + resumed.tv_nsec / 1e6 - stopped, mbps);
	return 0;
}
