// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM that writes faster than the link carries: a migration of it does not
 * converge, unless its writers are slowed down; then it does, in a few passes,
 * and they are slowed down by no more than that takes. Through libmigr, over a
 * loopback that is as slow as the test wants.
 */
#include "workload.h"
#include "migr.h"

#define PAGES		4096UL
#define DOWNTIME_MS	300
#define ADDRESS		"127.0.0.1:4242"

static struct vm {
	struct mem mem;
	struct workload writers;
} vm;

/* Different pages that become dirty in a second. */
static __u64 pages_written(void)
{
	__u64 *bitmap = private_alloc(bitmap_words(PAGES) * sizeof(*bitmap));
	int tracker = (int)CALL(region_track(vm.mem.fd));
	struct migr_tracker_fetch f;

	CALL(tracker_fetch(tracker, 0, PAGES, bitmap, &f));
	sleep(1);
	CALL(tracker_fetch(tracker, 0, PAGES, bitmap, &f));
	SYS(close(tracker));
	return f.dirty_pages;
}

/* It carries half of that. */
static void link_slow(void)
{
	__u64 kbit = pages_written() / 2 * TEST_PAGE * 8 / 1000;
	char command[160];

	loopback_up();
	diag("a link of %llu kbit/s", (unsigned long long)kbit);
	snprintf(command, sizeof(command),
		 "tc qdisc replace dev lo root tbf rate %llukbit burst 256kb latency 2s",
		 (unsigned long long)kbit);
	CHECK_EQ(run_command(command), 0);
}

static void link_fast(void)
{
	CHECK_EQ(run_command("tc qdisc del dev lo root"), 0);
}

/* ---------------------------------------------------------- destination */

static int dst_prepare(struct migr_destination *d, void *data,
		       const struct migr_request *request)
{
	int region = (int)CALL(region_create(*(int *)data, request->regions[0].length, ""));

	return migr_destination_add_region(d, region, request->regions[0].id);
}

static int dst_load(struct migr_destination *d, void *data)
{
	char c;

	(void)data;
	return (int)migr_destination_read_state(d, &c, 1);
}

static int dst_resume(struct migr_destination *d, void *data)
{
	(void)d;
	(void)data;
	return 0;
}

static void dst_abort(struct migr_destination *d, void *data)
{
	(void)d;
	(void)data;
}

static void destination(int ready)
{
	static const struct migr_destination_ops ops = {
		.prepare = dst_prepare,
		.load = dst_load,
		.resume = dst_resume,
		.abort = dst_abort,
	};
	struct migr_destination_options options = { 0 };
	struct migr_destination *d;
	struct migr_result result;
	int dev = (int)CALL(dev_open());
	struct migr *m;

	CALL(migr_open(&m));
	CALL(migr_destination_new(m, &d));
	CALL(migr_destination_listen(d, ADDRESS));
	CHECK_EQ(write(ready, "r", 1), 1);
	CHECK(!migr_destination_run(d, &options, &ops, &dev, &result), "%s",
	      migr_destination_error(d));
	_exit(0);
}

static pid_t destination_start(void)
{
	struct pollfd p = { .events = POLLIN };
	int pipes[2];
	pid_t pid;

	SYS(pipe2(pipes, O_CLOEXEC));
	pid = child_start();
	if (!pid)
		destination(pipes[1]);
	p.fd = pipes[0];
	CHECK_EQ(poll(&p, 1, 10000), 1);
	close(pipes[0]);
	close(pipes[1]);
	return pid;
}

/* --------------------------------------------------------------- source */

static int src_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	(void)s;
	(void)data;
	gate_close(vm.writers.gate);
	*stopped_ns = now_ns();
	return 0;
}

static int src_save(struct migr_source *s, void *data)
{
	(void)s;
	(void)data;
	return 0;
}

static int src_resume(struct migr_source *s, void *data)
{
	(void)s;
	(void)data;
	gate_open(vm.writers.gate);
	return 0;
}

static const struct migr_source_ops src_ops = {
	.pause = src_pause,
	.save = src_save,
	.resume = src_resume,
};

static double rate(__u64 count, __u64 ns)
{
	return ns ? count * 1e9 / ns : 0;
}

static struct migr_result migrate(bool no_slowdown, struct migr_source **s)
{
	struct migr_source_options options = {
		.downtime_limit_ms = DOWNTIME_MS,
		.state_ms = 20,
		.pass_limit = 15,
		.verify = true,
		.no_slowdown = no_slowdown,
	};
	struct migr_result r;
	struct migr *m;
	pid_t pid;
	__u32 i;

	CALL(migr_open(&m));
	CALL(migr_source_new(m, s));
	CALL(migr_source_add_region(*s, vm.mem.fd, 0, "ram"));
	pid = destination_start();
	CHECK(!migr_source_run(*s, ADDRESS, &options, &src_ops, NULL, &r), "%s",
	      migr_source_error(*s));
	child_join(pid);
	for (i = 0; i < r.nr_passes; i++)
		diag("pass %u: %llu pages, %llu sent at %.0f/s, %llu dirtied at %.0f/s, limit %llu/s, %llu hot",
		     i + 1, (unsigned long long)r.passes[i].pages,
		     (unsigned long long)r.passes[i].sent_pages,
		     rate(r.passes[i].sent_pages, r.passes[i].ns),
		     (unsigned long long)r.passes[i].dirtied_pages,
		     rate(r.passes[i].dirtied_pages, r.passes[i].ns),
		     (unsigned long long)r.passes[i].limit,
		     (unsigned long long)r.passes[i].hot_pages);
	diag("downtime %llu ms, predicted %llu ms; writers slept %llu ms",
	     (unsigned long long)r.downtime_ns / 1000000,
	     (unsigned long long)r.predicted_downtime_ns / 1000000,
	     (unsigned long long)r.status.slept_ns / 1000000);
	CHECK_EQ(r.outcome, MIGR_OUTCOME_MOVED);
	CHECK(r.identical, "the digests differ");
	return r;
}

/* The VM goes on here after a move: the next one is of the same. */
static void never_without(void)
{
	struct migr_source *s;
	struct migr_result r = migrate(true, &s);

	CHECK(r.limit_exceeded, "it converges without being slowed down");
	CHECK_EQ(r.status.slept_ns, 0);
	migr_source_free(s);
	src_resume(NULL, NULL);
}

static void slowed_down(void)
{
	struct migr_source *s;
	struct migr_result r = migrate(false, &s);
	double sent = 0, send_ns = 0, written = 0, allowed = 0, link, slowest = 1e9, least = 1e9;
	__u32 i;

	CHECK(!r.limit_exceeded, "it does not converge");
	CHECK(r.predicted_downtime_ns <= DOWNTIME_MS * 1000000ULL, "the limit is exceeded");
	CHECK(r.status.slept_ns > 0, "no writer was slowed down");
	for (i = 0; i + 1 < r.nr_passes; i++) {
		const struct migr_pass *p = &r.passes[i];

		sent += p->sent_pages;
		send_ns += p->ns;
		if (rate(p->sent_pages, p->ns) < least)
			least = rate(p->sent_pages, p->ns);
		if (!p->limit)
			continue;
		written += p->dirtied_pages;
		allowed += p->limit * (p->ns / 1e9);
		if (p->limit < slowest)
			slowest = p->limit;
	}
	link = sent * 1e9 / send_ns;
	diag("the link carries %.0f pages/s, the writers wrote %.0f of %.0f allowed, the limit was at least %.0f/s",
	     link, written, allowed, slowest);
	/* They get what they are allowed, as far as this machine lets them run. */
	CHECK(written >= allowed / 3, "the limit is %.0f pages, they wrote %.0f", allowed, written);
	/* To a quarter of the rate last measured, which may be the lowest. */
	CHECK(slowest > least / 5, "slowed down to %.0f pages/s at %.0f of the link", slowest,
	      least);
	migr_source_free(s);
}

static void moves_only_if_slowed_down(void)
{
	__u64 seed = test_seed;

	vm.mem = mem_new(PAGES);
	fill_random(vm.mem.p, vm.mem.len, &seed);
	workload_start(&vm.writers, &vm.mem, MEET_PARALLEL);
	gate_open(vm.writers.gate);
	link_slow();
	never_without();
	slowed_down();
	link_fast();
	workload_stop(&vm.writers);
}

static const struct test_case cases[] = {
	CASE_WITHIN(moves_only_if_slowed_down, 240),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
