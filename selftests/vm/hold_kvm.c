// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keep a virtual machine, never run, until killed. The kernel patches its
 * scheduler when the first one is made and the last one goes; an emulated CPU
 * can trip over code that another one is patching. With one that is always
 * there the tests' guests come and go without.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0 || ioctl(kvm, KVM_CREATE_VM, 0) < 0) {
		perror("hold_kvm");
		return 1;
	}
	puts("held");
	fflush(stdout);
	pause();
	return 0;
}
