/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A small KVM guest: two vCPUs that write to random pages for ever, in a few
 * lines of 32-bit code, flat, without paging.
 */
#ifndef MIGR_SELFTEST_KVM_GUEST_H
#define MIGR_SELFTEST_KVM_GUEST_H

#include <linux/kvm.h>
#include <stdatomic.h>

#include "migr_test.h"

/* Where the code below writes. */
#define GUEST_PAGES	2048U
#define GUEST_BASE	0x800000U
#define VCPUS		2

/*
 * eax: state of a xorshift generator, different for each vCPU; ecx: the stamp.
 * A page's first word and one that depends on the vCPU (edi) get the stamp.
 */
asm(".pushsection .rodata\n"
	".code32\n"
	".globl guest_begin, guest_end\n"
	"guest_begin:\n"
	"	movl %eax, %edx\n"
	"	shll $13, %edx\n"
	"	xorl %edx, %eax\n"
	"	movl %eax, %edx\n"
	"	shrl $17, %edx\n"
	"	xorl %edx, %eax\n"
	"	movl %eax, %edx\n"
	"	shll $5, %edx\n"
	"	xorl %edx, %eax\n"
	"	movl %eax, %ebx\n"
	"	shrl $8, %ebx\n"
	"	andl $2047, %ebx\n"
	"	shll $12, %ebx\n"
	"	addl $0x800000, %ebx\n"
	"	incl %ecx\n"
	"	movl %ecx, (%ebx)\n"
	"	movl %ecx, (%ebx, %edi, 4)\n"
	"	jmp guest_begin\n"
	"guest_end:\n"
	".code64\n"
	".popsection\n");

extern const unsigned char guest_begin[], guest_end[];

struct vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	pid_t tid;
	atomic_bool *stop;
	__u64 exits;
};

static inline void flat(struct kvm_segment *s, __u8 type)
{
	*s = (struct kvm_segment) {
		.limit = 0xffffffff, .selector = 8, .type = type, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
}

static inline void vcpu_reset(struct vcpu *v, unsigned int number)
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

static inline void kick(int signal)
{
	(void)signal;
}

static inline void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;

	v->tid = gettid();
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

static inline void vcpus_start(struct vcpu *vcpus, atomic_bool *stop)
{
	unsigned int i;

	*stop = false;
	for (i = 0; i < VCPUS; i++) {
		vcpus[i].stop = stop;
		vcpus[i].run->immediate_exit = 0;
		vcpus[i].thread = thread_start(vcpu_thread, &vcpus[i]);
	}
}

static inline void vcpus_stop(struct vcpu *vcpus, atomic_bool *stop)
{
	unsigned int i;

	*stop = true;
	for (i = 0; i < VCPUS; i++) {
		vcpus[i].run->immediate_exit = 1;
		pthread_kill(vcpus[i].thread, SIGUSR1);
		thread_join_within(vcpus[i].thread, RUN_S, "a vCPU");
	}
}

/* All of @m is slot 0 of the guest's memory. Returns the VM. */
static inline int vm_make(const struct mem *m, struct vcpu *vcpus)
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
	return vm;
}

#endif /* MIGR_SELFTEST_KVM_GUEST_H */
