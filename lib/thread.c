// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Threads of the library: signals are for those of its user.
 */
#include <signal.h>

#include "internal.h"

int thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	error = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -error;
}
