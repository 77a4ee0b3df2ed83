/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the vCPUs of ringvmm.c run. */
#ifndef RINGVMM_GUEST_H
#define RINGVMM_GUEST_H

/* Where it keeps what; the code knows these by number. */
#define GUEST_STEPS	0x1000u			/* a word a vCPU */
#define GUEST_TABLES	0x100000u		/* what it wrote last, by page */
#define GUEST_TABLE	0x2000u			/* bytes in one */

/*
 * 32-bit code, flat, without paging. Each vCPU writes ever-growing stamps to a
 * word of its own in random pages, and checks before that it finds there what it
 * wrote last, which it keeps in a table. The stamp is in a vector register as
 * well, to see that those move too. What is wrong ends in an exit to the VMM.
 *
 * eax: state of a xorshift generator; ecx, xmm0: stamp; edi: number of the vCPU;
 * ebp: its table; ebx: page; edx: address in it.
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
	"	movl %ebx, %edx\n"
	"	shll $12, %edx\n"
	"	leal 0x800000(%edx, %edi, 4), %edx\n"
	"	movl (%ebp, %ebx, 4), %esi\n"
	"	cmpl %esi, (%edx)\n"
	"	jne 1f\n"
	"	movd %xmm0, %esi\n"
	"	cmpl %esi, %ecx\n"
	"	jne 1f\n"
	"	incl %ecx\n"
	"	movd %ecx, %xmm0\n"
	"	movl %ecx, (%edx)\n"
	"	movl %ecx, (%ebp, %ebx, 4)\n"
	"	movl %ecx, 0x1000(, %edi, 4)\n"
	"	jmp guest_begin\n"
	"1:	hlt\n"
	"guest_end:\n"
	".code64\n"
	".popsection\n");

extern const unsigned char guest_begin[], guest_end[];

#endif /* RINGVMM_GUEST_H */
