/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Failures and delays on demand, in the build for tests only: the kernels migr
 * runs on are built without fault injection of their own.
 */
#ifndef _MIGR_INJECT_H
#define _MIGR_INJECT_H

#ifdef MIGR_TEST
bool migr_inject(void);
void migr_delay(void);
#else
static inline bool migr_inject(void)
{
	return false;
}

static inline void migr_delay(void)
{
}
#endif

/* What @call returns; or @failure, without calling, if this one is to fail. */
#define migr_may_fail(call, failure)	(migr_inject() ? (failure) : (call))

#endif /* _MIGR_INJECT_H */
