// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The sentence that a handle keeps about its last failure, and the clock.
 */
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "internal.h"

int error_vset(struct error *e, int error, const char *format, va_list args)
{
	char text[sizeof(e->text)];

	/* The arguments may point into the old sentence. */
	vsnprintf(text, sizeof(text), format, args);
	snprintf(e->text, sizeof(e->text), "%s", text);
	return error;
}

int error_set(struct error *e, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	error_vset(e, error, format, args);
	va_end(args);
	return error;
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

uint32_t left_ms(uint64_t deadline_ns)
{
	uint64_t now = now_ns();

	return now < deadline_ns ? (deadline_ns - now) / NS_PER_MS : 0;
}
