// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which call of the module fails next, and how long a moment is, for the tests.
 * Takes no locks.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/moduleparam.h>

#include "inject.h"

/* One that wants to count its own calls sees nobody else's: tests run alone. */
static atomic_t fail_nth = ATOMIC_INIT(0);
module_param_named(fail_nth, fail_nth.counter, int, 0600);
MODULE_PARM_DESC(fail_nth, "Let the nth call from now on that can fail do so, once; 0: none (tests only)");

/**
 * migr_inject() - whether the call that the caller is about to make shall fail
 *
 * Return: true if so, for one call each time fail_nth is set.
 */
bool migr_inject(void)
{
	return atomic_dec_if_positive(&fail_nth) == 0;
}

static unsigned int delay_ms;
module_param(delay_ms, uint, 0600);
MODULE_PARM_DESC(delay_ms, "How long to stay where others may come in between (tests only)");

/**
 * migr_delay() - stay a while where others may come in between
 *
 * Until the parameter is cleared, at most.
 */
void migr_delay(void)
{
	unsigned long begun = jiffies;

	while (time_before(jiffies,
			   begun + msecs_to_jiffies(READ_ONCE(delay_ms))))
		msleep(20);
}
