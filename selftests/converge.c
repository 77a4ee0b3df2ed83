// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM that writes faster than the link carries: a migration of it does not
 * converge, unless its writers are slowed down; then it does, in a few passes,
 * and they are slowed down by no more than that takes. Through libmigr, over a
 * loopback that is as slow as the test wants.
 */
#include "workload.h"
#include "moving.h"

#include <math.h>

#define PAGES		4096UL
#define DOWNTIME_MS	300
#define STATE_MS	20
#define PASS_LIMIT	15
/* In which libmigr wants to get there once it slows the VM down. */
#define SLOWED_PASSES	5
/* So few pages are no measure of the link for it. */
#define RATE_PAGES	1024
/* While others keep this machine busy, the writers or the link may be slower than they were. */
#define ATTEMPTS	4

static struct vm {
	struct mem mem;
	struct workload writers;
	__u64 link;	/* pages a second that it is moved at */
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
	char command[160];
	__u64 kbit;

	vm.link = pages_written() / 2;
	kbit = vm.link * TEST_PAGE * 8 / 1000;
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

static int src_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	(void)s;
	(void)data;
	gate_close(vm.writers.gate);
	*stopped_ns = now_ns();
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
		.state_ms = STATE_MS,
		.pass_limit = PASS_LIMIT,
		.verify = true,
		.no_slowdown = no_slowdown,
		.tls.insecure = true,
	};
	struct migr_result r = move(&vm.mem, &options, &src_ops, s);
	__u32 i;

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
	return r;
}

/* The VM goes on here after a move: the next one is of the same. */
static void vm_goes_on(struct migr_source *s)
{
	migr_source_free(s);
	src_resume(NULL, NULL);
}

static void never_without(void)
{
	struct migr_result r = { 0 };
	struct migr_source *s;
	int attempt;

	for (attempt = 0; attempt < ATTEMPTS && !r.limit_exceeded; attempt++) {
		r = migrate(true, &s);
		CHECK_EQ(r.status.slept_ns, 0);
		vm_goes_on(s);
	}
	CHECK(r.limit_exceeded, "it converges without being slowed down");
}

/*
 * Whether each limit is as low as it takes. What the pause would be if all passes that remain
 * had it: a pass leaves what is written while the link sends what the last one left.
 * It is a fifth below the limit by intent, and by three round trips of a slow machine.
 */
static bool limits_suffice(const struct migr_result *r)
{
	double link = 0, hot, limit, left, ms;
	int i, slowed = 0, passes;
	bool suffice = true;

	for (i = 1; i + 1 < (int)r->nr_passes; i++) {
		const struct migr_pass *p = &r->passes[i];

		if (!link || p[-1].sent_pages >= RATE_PAGES)
			link = rate(p[-1].sent_pages, p[-1].ns);
		if (!p->limit)
			continue;
		passes = slowed < SLOWED_PASSES ? SLOWED_PASSES - slowed : 1;
		if (passes > PASS_LIMIT - i)
			passes = PASS_LIMIT - i;
		slowed++;
		hot = p[-1].hot_pages;
		limit = p->limit;
		left = hot + (p->pages - hot) * pow(limit / link, passes);
		ms = STATE_MS + left * 1000 / link;
		diag("pass %d: a limit for %.0f ms in %d passes", i + 1, ms, passes);
		if (ms < DOWNTIME_MS / 4.0)
			suffice = false;
		/* Or the lowest, a quarter of the link: the passes to come get there. */
		if (ms > DOWNTIME_MS && limit >= link / 3)
			suffice = false;
	}
	return suffice;
}

/* Whether this machine let a pass have at least half of what the link carries. */
static bool at_link_rate(const struct migr_pass *p)
{
	return rate(p->sent_pages, p->ns) >= vm.link / 2.0;
}

/* A limit does not help if the link becomes slower than it was measured. */
static bool machine_busy(const struct migr_result *r)
{
	__u32 i;

	for (i = 0; i + 1 < r->nr_passes; i++)
		if (!at_link_rate(&r->passes[i]))
			return true;
	return false;
}

static void slowed_down(void)
{
	struct migr_source *s = NULL;
	const struct migr_pass *p;
	struct migr_result r;
	double written = 0, allowed = 0;
	bool well, excused;
	int attempt = 0;

	/*
	 * Until it has to be slowed down, on a machine that lets it; and once more in any
	 * case, as answers that a busy destination was late with are taken for round trips.
	 */
	do {
		if (s)
			vm_goes_on(s);
		r = migrate(false, &s);
		well = !r.limit_exceeded && r.status.slept_ns && limits_suffice(&r);
		excused = r.limit_exceeded ? machine_busy(&r) : !r.status.slept_ns;
	} while (!well && ++attempt < ATTEMPTS && (excused || attempt == 1));
	CHECK(!r.limit_exceeded, "it does not converge");
	CHECK(r.predicted_downtime_ns <= DOWNTIME_MS * 1000000ULL, "the limit is exceeded");
	CHECK(r.status.slept_ns > 0, "no writer was slowed down");
	CHECK(well, "the limits are too low, or not low enough");
	/* They get what they are allowed, where this machine lets them run. */
	for (p = r.passes; p < r.passes + r.nr_passes - 1; p++) {
		if (!p->limit || !at_link_rate(p))
			continue;
		written += p->dirtied_pages;
		allowed += p->limit * (p->ns / 1e9);
	}
	diag("the writers wrote %.0f of %.0f allowed", written, allowed);
	CHECK(written >= allowed / 3, "the limit is %.0f pages, they wrote %.0f", allowed, written);
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
	CASE_WITHIN(moves_only_if_slowed_down, 400),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
