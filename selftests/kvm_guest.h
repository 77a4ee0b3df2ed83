/* SPDX-License-Identifier: GPL-2.0-only */
/* What the vCPUs of kvm.c run: 32-bit code, flat, without paging. */
#ifndef MIGR_SELFTEST_KVM_GUEST_H
#define MIGR_SELFTEST_KVM_GUEST_H

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

#endif /* MIGR_SELFTEST_KVM_GUEST_H */
