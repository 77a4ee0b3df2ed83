// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keep two virtual machines, never run, until killed: one with KVM's interrupt
 * controllers, whose APIC stays disabled, and one without. KVM has branches that
 * the kernel patches in when the first such machine is made and out when the
 * last goes, and emulated CPUs trip over code that another one is patching.
 * With these two about, the tests' guests come and go without.
 *
 * And visit all CPUs whenever the clock has them interrupted. When an emulated CPU
 * leaves a guest, QEMU 7.2 changes the word with its pending interrupts without a
 * lock, and so may forget the timer's. The kernel sets no other before that has
 * come, so a CPU that idles would do so for ever. Any other interrupt puts it right.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/rtc.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool hold(int kvm, bool irqchip)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	return vm >= 0 && (!irqchip || ioctl(vm, KVM_CREATE_IRQCHIP, 0) >= 0) &&
	       ioctl(vm, KVM_CREATE_VCPU, 0) >= 0;
}

/* Fails for a CPU that there is not. */
static void visit_cpus(void)
{
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			break;
	}
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int clock = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
	unsigned long seconds;

	if (kvm < 0 || !hold(kvm, true) || !hold(kvm, false)) {
		perror("hold_kvm");
		return 1;
	}
	puts("held");
	fflush(stdout);
	/* The debug kernel has no such clock. */
	if (ioctl(clock, RTC_UIE_ON))
		pause();
	while (read(clock, &seconds, sizeof(seconds)) > 0)
		visit_cpus();
	return 1;
}
