// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracepoints: a write, a fetch and a migration leave each of them in the
 * trace, with the numbers that the interface tells. And what they tell of the
 * faults that tracking costs.
 */
#include "migration.h"

#define TRACING	"/sys/kernel/tracing/"

static void trace_begin(void)
{
	if (!file_write(TRACING "events/migr/enable", "1"))
		test_skip("no " TRACING "events/migr: %s", strerror(errno));
	/* Truncating it clears it. */
	SYS(close((int)SYS(open(TRACING "trace", O_WRONLY | O_TRUNC | O_CLOEXEC))));
}

static void trace_has(const char *pattern)
{
	char command[256];

	snprintf(command, sizeof(command), "grep -qE '%s' " TRACING "trace", pattern);
	CHECK(!run_command(command), "no '%s' in the trace", pattern);
}

static void events(void)
{
	struct mem m = mem_new(1024), copy = mem_new(1024);
	__u64 bitmap[16];
	struct link l;
	int tracker;

	memset(mem_page(&m, 600), 1, TEST_PAGE);
	trace_begin();
	tracker = (int)CALL(region_track(m.fd));
	CALL(tracker_fetch(tracker, 0, 1024, bitmap, NULL));
	*(volatile unsigned char *)mem_page(&m, 600) = 2;
	trace_has("migr_fault: region=[0-9]+ page=600 nr=1$");
	trace_has("migr_collect: region=[0-9]+ first=512 dirty=512 ");
	CALL(limit_set(tracker, MIGR_TRACKER_LIMIT, 100));
	trace_has("migr_limit: rate=100$");
	memset(m.p, 1, 64 * TEST_PAGE);
	trace_has("migr_slept: ns=[0-9]+$");
	SYS(close(tracker));

	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	link_last(&l);
	trace_has("migr_chunk_sent: region=0 chunk=1 data=1 zero=511 bytes=4256$");
	trace_has("migr_chunk_received: region=0 chunk=1 data=1 zero=511 bytes=4256$");
	trace_has("migr_pass_done: pass=1 pages=1024 bytes=[0-9]+ ns=[0-9]+ last$");
	link_close(&l);

	memset(m.p, 1, 64 * TEST_PAGE);
	link_open_compressed(&l, unix_pair, &m, &copy, MIGR_COMPRESSION_LZ4, 0);
	link_receive_start(&l);
	link_last(&l);
	trace_has("migr_compress: plain=262144 packed=[1-9][0-9]* ns=[0-9]+$");
	link_close(&l);
	CHECK(file_write(TRACING "events/migr/enable", "0"), "cannot disable the events");
}

static int trace_count(const char *event)
{
	char command[256];
	FILE *pipe;
	int n = -1;

	snprintf(command, sizeof(command), "grep -c '%s:' " TRACING "trace", event);
	pipe = popen(command, "r");
	CHECK(pipe && fscanf(pipe, "%d", &n) == 1, "%s: no number", command);
	pclose(pipe);
	return n;
}

static void write_all(const struct mem *m)
{
	__u64 page;

	for (page = 0; page < m->pages; page++)
		++*(volatile unsigned char *)mem_page(m, page);
}

/* Tracking costs a writer one fault for each page and fetch, and none before. */
static void faults(void)
{
	struct mem m = mem_new(1024);
	__u64 bitmap[16];
	int tracker, i;

	write_all(&m);
	trace_begin();
	tracker = (int)CALL(region_track(m.fd));
	write_all(&m);
	CHECK_EQ(trace_count("migr_fault"), 0);
	for (i = 1; i <= 3; i++) {
		CALL(tracker_fetch(tracker, 0, m.pages, bitmap, NULL));
		write_all(&m);
		write_all(&m);
		CHECK_EQ(trace_count("migr_fault"), i * (int)m.pages);
	}
	CHECK(file_write(TRACING "events/migr/enable", "0"), "cannot disable the events");
}

static const struct test_case cases[] = {
	CASE(events),
	CASE(faults),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
