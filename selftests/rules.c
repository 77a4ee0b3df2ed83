// SPDX-License-Identifier: GPL-2.0-only
/*
 * That the tests can fail: with one rule of the tracking broken the workload of
 * the "no lost write" test loses writes within a bounded time, and with none
 * broken it does not; and what the other programs test of a rule fails once it
 * is broken. Needs the module built for tests, which has the parameter.
 */
#include "workload.h"

#define PARAMETER	"/sys/module/migr/parameters/break_rule"
#define PAGES		4096UL
#define LIMIT_S		20
#define ROUNDS		10
#define ROUND_PASSES	2
/* What a broken rule loses depends on who comes first. */
#define ATTEMPTS	8

static void break_rule(int rule)
{
	char text[8], now[8];

	snprintf(text, sizeof(text), "%d", rule);
	CHECK(!access(PARAMETER, F_OK),
	      "this module cannot break its rules: not built for tests");
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

/* Runs one test of a program beside this one. */
static int result_of(const char *program, const char *test)
{
	char path[PATH_MAX], line[400];
	int result = -1, out[2];
	ssize_t len;
	pid_t pid;
	FILE *f;

	len = readlink("/proc/self/exe", path, sizeof(path) - NAME_MAX);
	CHECK(len > 0, "/proc/self/exe: %s", strerror(errno));
	path[len] = '\0';
	strcpy(strrchr(path, '/') + 1, program);
	SYS(pipe2(out, O_CLOEXEC));
	pid = child_start();
	if (!pid) {
		dup2(out[1], STDOUT_FILENO);
		execl(path, program, test, NULL);
		_exit(127);
	}
	close(out[1]);
	f = fdopen(out[0], "r");
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		diag("  %s", line);
		if (!strncmp(line, "not ok 1 ", 9))
			result = TEST_FAIL;
		else if (!strncmp(line, "ok 1 ", 5))
			result = strstr(line, "# SKIP") ? TEST_SKIP : TEST_PASS;
	}
	fclose(f);
	SYS(waitpid(pid, NULL, 0));
	CHECK(result >= 0, "%s has no test %s", program, test);
	return result;
}

struct proof {
	const char *program;
	const char *test;
};

/* With the rule broken each of them fails. One that is skipped proves nothing. */
static void must_fail(int rule, const struct proof *proofs, size_t nr)
{
	size_t i;

	break_rule(rule);
	for (i = 0; i < nr; i++) {
		int result = TEST_PASS, attempt;

		for (attempt = 0; attempt < ATTEMPTS && result == TEST_PASS; attempt++)
			result = result_of(proofs[i].program, proofs[i].test);
		CHECK(result == TEST_FAIL, "rule %d was broken, and %s %s %s", rule,
		      proofs[i].program, proofs[i].test,
		      result == TEST_SKIP ? "was skipped" : "succeeded");
	}
}

#define MUST_FAIL(rule, ...)						\
	must_fail(rule, (const struct proof[]){ __VA_ARGS__ },		\
		  sizeof((const struct proof[]){ __VA_ARGS__ }) / sizeof(struct proof))

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

static void holders_not_looked_for(void)
{
	MUST_FAIL(4, { "dma", "disk_reads" }, { "dma", "file_reads" }, { "dma", "loop_reads" },
		  { "dma", "reads_meanwhile" }, { "dma", "pinned_while_idle" },
		  { "dma", "pinned_in_migration" }, { "poison", "tracked" });
}

static void changes_not_told(void)
{
	/* Among many writers a punched page is soon written again, which is told. */
	MUST_FAIL(5, { "track", "holes_count" }, { "streams", "shut_down_in_chunk" });
}

static void new_mappings_not_tracked(void)
{
	MUST_FAIL(6, { "track", "second_mapping" }, { "backends", "other_process" },
		  { "mappings", "remaps" }, { "track", "mapping_meanwhile" });
}

static void huge_entry_writable(void)
{
	MUST_FAIL(7, { "huge", "always" }, { "huge", "advise" }, { "huge", "never" },
		  { "huge", "switched_meanwhile" });
}

static void changed_protection_unseen(void)
{
	MUST_FAIL(3, { "track", "protection_changes" }, { "track", "protection_changes_meanwhile" },
		  { "mappings", "protections" });
}

static void hinting_fault_unseen(void)
{
	if (kernel_before(6, 12))
		test_skip("a hinting fault does not look at the dirty bit here");
	MUST_FAIL(3, { "placement", "hinting_faults" });
}

static void swapped_page_a_hole(void)
{
	MUST_FAIL(8, { "swap", "migrated_from_swap" });
}

static void not_protected(void)
{
	MUST_FAIL(20, { "track", "switching" }, { "track", "many_processes" },
		  { "mappings", "forks" }, { "mappings", "locks" },
		  { "mappings", "dropped_entries" },
		  { "placement", "compaction" }, { "placement", "moved_pages" },
		  { "placement", "migrated_processes" }, { "placement", "balanced_meanwhile" },
		  { "swap", "swapped_pages" }, { "swap", "limited_memory" },
		  { "backends", "received_packets" }, { "backends", "received_meanwhile" },
		  { "kvm", "guest_writes" }, { "kvm", "guest_writes_to_moving_pages" },
		  { "nolost", "unix_migration" });
}

static void not_marked_before_cleaned(void)
{
	MUST_FAIL(30, { "swap", "reclaim_after_collect" });
}

/* And that all is well again afterwards. */
static void no_rule_broken_again(void)
{
	run(0);
}

static const struct test_case cases[] = {
	CASE(no_rule_broken),
	CASE(set_outside_folio_lock),
	CASE(protect_without_folio_locks),
	CASE(entry_left_dirty),
	CASE(holders_not_looked_for),
	CASE(changes_not_told),
	CASE(new_mappings_not_tracked),
	CASE(huge_entry_writable),
	CASE(changed_protection_unseen),
	CASE(hinting_fault_unseen),
	CASE(swapped_page_a_hole),
	CASE_WITHIN(not_protected, 600),
	CASE(not_marked_before_cleaned),
	CASE(no_rule_broken_again),
};

int main(int argc, char **argv)
{
	int ret = workload_main(cases, ARRAY_SIZE(cases), argc, argv);

	if (!access(PARAMETER, F_OK))
		file_write(PARAMETER, "0");
	return ret;
}
