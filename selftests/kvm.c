// SPDX-License-Identifier: GPL-2.0-only
/*
 * No lost write by a KVM guest: two vCPUs, in a few lines of 32-bit code without
 * an operating system, write ever-growing stamps to random pages of a region
 * while it is migrated in hundreds of passes. Their writes reach the region
 * through KVM's own page tables, not through a mapping of ours.
 */
#include <linux/kvm.h>
#include <stdatomic.h>

#include "kvm_guest.h"
#include "migration.h"
#include "workload.h"

#define PAGES		4096U
#define DATA_PAGES	2048U
#define DATA_BASE	0x800000U
#define PASSES		220
#define MOVING_PASSES	40
#define VCPUS		2

struct vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	atomic_bool *stop;
	__u64 exits;
};

static void flat(struct kvm_segment *s, __u8 type)
{
	*s = (struct kvm_segment) {
		.limit = 0xffffffff, .selector = 8, .type = type, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
}

static void vcpu_reset(struct vcpu *v, unsigned int number)
{
	struct kvm_regs regs = {
		.rip = 0, .rflags = 2, .rax = 0x9e3779b9 + number,
		/* Word 1 and on of a page, one for each vCPU. */
		.rdi = number + 1,
	};
	struct kvm_sregs sregs;

	SYS(ioctl(v->fd, KVM_GET_SREGS, &sregs));
	flat(&sregs.cs, 0xb);
	flat(&sregs.ds, 0x3);
	sregs.es = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.fs = sregs.ds;
	sregs.gs = sregs.ds;
	sregs.cr0 |= 1;
	SYS(ioctl(v->fd, KVM_SET_SREGS, &sregs));
	SYS(ioctl(v->fd, KVM_SET_REGS, &regs));
}

static void kick(int signal)
{
	(void)signal;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;

	while (!*v->stop) {
		if (ioctl(v->fd, KVM_RUN, 0) < 0)
			CHECK(errno == EINTR, "KVM_RUN: %s", strerror(errno));
		else
			CHECK(v->run->exit_reason == KVM_EXIT_INTR, "the guest exits for reason %u",
			      v->run->exit_reason);
		v->exits++;
	}
	return NULL;
}

static void vcpus_start(struct vcpu *vcpus, atomic_bool *stop)
{
	unsigned int i;

	*stop = false;
	for (i = 0; i < VCPUS; i++) {
		vcpus[i].stop = stop;
		vcpus[i].run->immediate_exit = 0;
		vcpus[i].thread = thread_start(vcpu_thread, &vcpus[i]);
	}
}

static void vcpus_stop(struct vcpu *vcpus, atomic_bool *stop)
{
	unsigned int i;

	*stop = true;
	for (i = 0; i < VCPUS; i++) {
		vcpus[i].run->immediate_exit = 1;
		pthread_kill(vcpus[i].thread, SIGUSR1);
		thread_join_within(vcpus[i].thread, 10, "a vCPU");
	}
}

static void vm_make(const struct mem *m, struct vcpu *vcpus)
{
	struct kvm_userspace_memory_region slot = {
		.memory_size = m->len, .userspace_addr = (unsigned long)m->p,
	};
	struct sigaction action = { .sa_handler = kick };
	int kvm, vm, size;
	unsigned int i;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		test_skip("no /dev/kvm: %s", strerror(errno));
	SYS(sigaction(SIGUSR1, &action, NULL));
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	SYS(vm);
	SYS(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	SYS(size);
	memcpy(m->p, guest_begin, guest_end - guest_begin);
	for (i = 0; i < VCPUS; i++) {
		vcpus[i].fd = ioctl(vm, KVM_CREATE_VCPU, i);
		SYS(vcpus[i].fd);
		vcpus[i].run = map_shared(vcpus[i].fd, size);
		vcpu_reset(&vcpus[i], i);
	}
}

/* The newest stamp of all pages: grows as long as the guest writes. */
static __u32 newest_stamp(const struct mem *m)
{
	__u32 newest = 0, stamp;
	unsigned int i;

	for (i = 0; i < DATA_PAGES; i++) {
		stamp = *(volatile __u32 *)(m->p + DATA_BASE + i * TEST_PAGE);
		if (stamp > newest)
			newest = stamp;
	}
	return newest;
}

/* Passes must not be faster than the guest can get anything written. */
static void guest_turn(const struct mem *m, __u32 *seen)
{
	__u64 deadline = deadline_in(10);
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
	link_pass(&l, MIGR_PASS_LAST);
	link_receive_join(&l);
	CHECK_EQ(l.received, 0);
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

static const struct test_case cases[] = {
	CASE_WITHIN(guest_writes, 120),
	CASE_WITHIN(guest_writes_to_moving_pages, 120),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
