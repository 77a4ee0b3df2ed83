/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All that kmod/wire.c takes from the kernel's headers and the kernel does not
 * give user space.
 */
#ifndef _FUZZ_LINUX_BITOPS_H
#define _FUZZ_LINUX_BITOPS_H

#include <stdbool.h>

#include <linux/types.h>
#include <asm/byteorder.h>

typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define cpu_to_le16	__cpu_to_le16
#define cpu_to_le32	__cpu_to_le32
#define cpu_to_le64	__cpu_to_le64
#define le16_to_cpu	__le16_to_cpu
#define le32_to_cpu	__le32_to_cpu
#define le64_to_cpu	__le64_to_cpu

#define hweight64	__builtin_popcountll

#endif /* _FUZZ_LINUX_BITOPS_H */
