// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keep two virtual machines, never run, until killed: one with KVM's interrupt
 * controllers, whose APIC stays disabled, and one without. KVM has branches that
 * the kernel patches in when the first such machine is made and out when the
 * last goes, and emulated CPUs trip over code that another one is patching.
 * With these two about, the tests' guests come and go without.
 */
#include <fcntl.h>
#include <linux/kvm.h>
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

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0 || !hold(kvm, true) || !hold(kvm, false)) {
		perror("hold_kvm");
		return 1;
	}
	puts("held");
	fflush(stdout);
	pause();
	return 0;
}
