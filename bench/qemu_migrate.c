// SPDX-License-Identifier: GPL-2.0-only
/*
 * The peer: stock QEMU's own migration, driven over QMP. Arguments: the QMP
 * sockets of the source and of a destination that waits for migrate-incoming,
 * and the URI. Prints one JSON object; the downtime is from the source's STOP
 * to the destination's RESUME, as they happened on this host's one clock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define LIMIT_NS	(120 * UINT64_C(1000000000))

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

/* When an event happened, in ms, by QEMU's own account. */
static double await(struct qmp *q, const char *name, uint64_t deadline)
{
	json_int_t seconds, microseconds;
	const char *event;
	json_t *e;

	do {
		e = qmp_event(q, deadline);
		if (!e)
			die(q, name);
		if (json_unpack(e, "{s:s, s:{s:I, s:I}}", "event", &event, "timestamp",
				"seconds", &seconds, "microseconds", &microseconds))
			die(q, "bad event");
	} while (strcmp(event, name));
	return seconds * 1e3 + microseconds / 1e3;
}

int main(int argc, char **argv)
{
	uint64_t begun, deadline;
	struct qmp source, destination;
	json_t *info;
	double stopped, resumed, total_ms, mbps;
	json_int_t bytes;

	if (argc != 4)
		return 2;
	if (!qmp_open(&source, argv[1]))
		die(&source, argv[1]);
	if (!qmp_open(&destination, argv[2]))
		die(&destination, argv[2]);
	command(&destination, "migrate-incoming", json_pack("{s:s}", "uri", argv[3]), NULL);
	/* As fast as it can; its default is 128 MiB/s. */
	command(&source, "migrate-set-parameters",
		json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40), NULL);
	begun = clock_ns();
	deadline = begun + LIMIT_NS;
	command(&source, "migrate", json_pack("{s:s}", "uri", argv[3]), NULL);
	stopped = await(&source, "STOP", deadline);
	resumed = await(&destination, "RESUME", deadline);
	total_ms = (clock_ns() - begun) / 1e6;
	/* Let it finish its bookkeeping: the numbers come with "completed". */
	for (;;) {
		const char *status = "";

		command(&source, "query-migrate", NULL, &info);
		json_unpack(info, "{s:s}", "status", &status);
		if (!strcmp(status, "completed"))
			break;
		if (!strcmp(status, "failed") || clock_ns() > deadline)
			die(&source, status);
		json_decref(info);
	}
	if (json_unpack(info, "{s:{s:I, s:F}}", "ram", "transferred", &bytes, "mbps", &mbps))
		die(&source, "bad query-migrate");
	printf("{\"type\":\"result\",\"total_ms\":%.1f,\"downtime_ms\":%.1f,\"sent_bytes\":%lld,\"throughput_mbps\":%.1f}\n",
	       total_ms, resumed - stopped, (long long)bytes, mbps);
	return 0;
}
