// SPDX-License-Identifier: GPL-2.0-only
/*
 * No lost write by a KVM guest: two vCPUs, in a few lines of 32-bit code without
 * an operating system, write ever-growing stamps to random pages of a region
 * while it is migrated in hundreds of passes. Their writes reach the region
 * through KVM's own page tables, not through a mapping of ours.
 */
#include "kvm_guest.h"
#include "migration.h"
#include "workload.h"

#define PAGES		4096U
#define PASSES		220
#define MOVING_PASSES	40

/* The newest stamp of all pages: grows as long as the guest writes. */
static __u32 newest_stamp(const struct mem *m)
{
	__u32 newest = 0, stamp;
	unsigned int i;

	for (i = 0; i < GUEST_PAGES; i++) {
		stamp = *(volatile __u32 *)(m->p + GUEST_BASE + i * TEST_PAGE);
		if (stamp > newest)
			newest = stamp;
	}
	return newest;
}

/* Passes must not be faster than the guest can get anything written. */
static void guest_turn(const struct mem *m, __u32 *seen)
{
	__u64 deadline = deadline_in(RUN_S);
	__u32 stamp;

	while ((stamp = newest_stamp(m)) == *seen) {
		CHECK(now_ns() < deadline, "the guest writes nothing");
		poll_pause();
	}
	*seen = stamp;
}

static void migrate(unsigned int passes, void (*meanwhile)(const struct mem *m, __u64 *seed))
{
	struct mem m = mem_new(PAGES), copy = mem_new(PAGES);
	struct migr_migration_status st;
	struct vcpu vcpus[VCPUS] = { 0 };
	__u64 seed = test_seed;
	atomic_bool stop;
	__u32 seen = 0;
	struct link l;
	unsigned int i;

	vm_make(&m, vcpus);
	vcpus_start(vcpus, &stop);
	link_open(&l, tcp_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	for (i = 1; i < passes; i++) {
		guest_turn(&m, &seen);
		if (meanwhile)
			meanwhile(&m, &seed);
		link_pass(&l, 0);
	}
	vcpus_stop(vcpus, &stop);
	link_last(&l);
	st = link_status(l.source);
	CHECK_EQ(st.passes, passes);
	diag("%u passes, %llu data pages, stamp %u", st.passes,
	     (unsigned long long)st.data_pages, newest_stamp(&m));
	CHECK(first_difference(m.p, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(m.p, copy.p, m.len) / (long long)TEST_PAGE);
	link_close(&l);
}

static void guest_writes(void)
{
	migrate(PASSES, NULL);
}

/* And the guest's pages are moved to and fro between the nodes. */
static void guest_writes_to_moving_pages(void)
{
	need_two_nodes();
	migrate(MOVING_PASSES, move_some_pages);
}

/* Pages a second that become dirty, for some seconds. */
static __u64 dirty_rate(int tracker)
{
	__u64 bitmap[PAGES / TEST_WORD_PAGES], begun, dirty;
	struct migr_tracker_fetch f;

	CALL(tracker_fetch(tracker, 0, PAGES, bitmap, &f));
	begun = now_ns();
	for (dirty = 0; now_ns() < begun + 4000000000ULL;) {
		usleep(5000);
		CALL(tracker_fetch(tracker, 0, PAGES, bitmap, &f));
		/* What a fault holds on to looks pinned, and is reported again. */
		dirty += f.dirty_pages - f.pinned_pages;
	}
	return dirty * 1000000000ULL / (now_ns() - begun);
}

/*
 * vCPUs are held to a limit as other writers are, and can be stopped while they
 * sleep for it.
 */
static void guest_is_limited(void)
{
	struct mem m = mem_new(PAGES);
	struct vcpu vcpus[VCPUS] = { 0 };
	__u64 unlimited, limited, took, bitmap[PAGES / TEST_WORD_PAGES];
	struct migr_tracker_fetch f;
	struct migr_limit limit;
	atomic_bool stop;
	unsigned int i;
	__u32 seen = 0;
	int tracker;

	memset(m.p, 1, m.len);
	vm_make(&m, vcpus);
	vcpus_start(vcpus, &stop);
	guest_turn(&m, &seen);
	tracker = (int)CALL(region_track(m.fd));
	unlimited = dirty_rate(tracker);
	CALL(limit_set(tracker, MIGR_TRACKER_LIMIT, unlimited / 4));
	limited = dirty_rate(tracker);
	CALL(limit_read(tracker, MIGR_TRACKER_LIMIT, &limit));
	diag("no limit: %llu pages/s; limit %llu: %llu pages/s, %llu sleeps",
	     (unsigned long long)unlimited, (unsigned long long)unlimited / 4,
	     (unsigned long long)limited, (unsigned long long)limit.sleeps);
	CHECK(limited < unlimited / 2 && limited > unlimited / 8,
	      "%llu pages/s at a limit of %llu", (unsigned long long)limited,
	      (unsigned long long)unlimited / 4);

	/* Now they sleep for a second at a time, once there is something to fault on. */
	CALL(limit_set(tracker, MIGR_TRACKER_LIMIT, 1));
	CALL(tracker_fetch(tracker, 0, PAGES, bitmap, &f));
	for (i = 0; i < VCPUS; i++)
		WAIT_FOR(writer_sleeps(vcpus[i].tid), RUN_S);
	took = now_ns();
	vcpus_stop(vcpus, &stop);
	took = now_ns() - took;
	diag("stopped within %llu ms", (unsigned long long)took / 1000000);
	CHECK(took < 500000000ULL, "the vCPUs slept on for %llu ms",
	      (unsigned long long)took / 1000000);
	SYS(close(tracker));
}

static const struct test_case cases[] = {
	CASE(guest_writes),
	CASE(guest_writes_to_moving_pages),
	CASE_TIMED(guest_is_limited),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
