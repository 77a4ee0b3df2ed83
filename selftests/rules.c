// SPDX-License-Identifier: GPL-2.0-only
/*
 * That the "no lost write" test can fail: with one rule of the tracking broken
 * the same workload loses writes within a bounded time, and with none broken
 * it does not. Needs the module built for tests, which has the parameter.
 */
#include "workload.h"

#define PARAMETER	"/sys/module/migr/parameters/break_rule"
#define PAGES		4096UL
#define LIMIT_S		20
#define ROUNDS		10
#define ROUND_PASSES	2

static void break_rule(int rule)
{
	char text[8], now[8];

	snprintf(text, sizeof(text), "%d", rule);
	if (access(PARAMETER, F_OK))
		test_skip("this module cannot break its rules: not built for tests");
	CHECK(file_write(PARAMETER, text), "%s: %s", PARAMETER, strerror(errno));
	CHECK(atoi(file_read(PARAMETER, now, sizeof(now))) == rule, "%s did not take %d",
	      PARAMETER, rule);
}

static void run(int rule)
{
	struct mem m = mem_new(PAGES);
	__u64 end, lost = 0;
	unsigned int rounds;
	struct workload w;
	struct shadow s;

	break_rule(rule);
	workload_start(&w, &m, MEET_PREEMPTED);
	shadow_start(&s, &m);
	end = deadline_in(LIMIT_S);
	for (rounds = 0; !lost && now_ns() < end; rounds++) {
		if (!rule && rounds == ROUNDS)
			break;
		lost = shadow_round(&s, &w, ROUND_PASSES);
	}
	workload_stop(&w);
	diag("rule %d broken: %llu pages lost a write in round %u", rule,
	     (unsigned long long)lost, rounds);
	if (rule)
		CHECK(lost, "rule %d was broken, and nothing was lost in %u rounds", rule, rounds);
	else
		CHECK(!lost, "no rule was broken, and writes were lost");
}

static void no_rule_broken(void)
{
	run(0);
}

static void set_outside_folio_lock(void)
{
	run(1);
}

static void protect_without_folio_locks(void)
{
	run(2);
}

static void entry_left_dirty(void)
{
	run(3);
}

/* And that all is well again afterwards. */
static void no_rule_broken_again(void)
{
	run(0);
}

static const struct test_case cases[] = {
	CASE_WITHIN(no_rule_broken, 60),
	CASE_WITHIN(set_outside_folio_lock, 60),
	CASE_WITHIN(protect_without_folio_locks, 60),
	CASE_WITHIN(entry_left_dirty, 60),
	CASE_WITHIN(no_rule_broken_again, 60),
};

int main(int argc, char **argv)
{
	int ret = workload_main(cases, ARRAY_SIZE(cases), argc, argv);

	if (!access(PARAMETER, F_OK))
		file_write(PARAMETER, "0");
	return ret;
}
