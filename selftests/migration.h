/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Both sides of a migration in one kernel: two migrations joined by a pair of
 * sockets, the destination's stream run by a thread.
 */
#ifndef MIGR_SELFTEST_MIGRATION_H
#define MIGR_SELFTEST_MIGRATION_H

#include "migr_test.h"

typedef void (*pair_fn)(int fd[2]);

struct link {
	int source;
	int source_stream;
	int destination;
	int destination_stream;
	int sock[2];
	pthread_t receiver;
	int received;	/* what the destination's run returned */
};

/* The regions take the numbers 0, 1, ... on both sides. */
static inline void link_open_flags(struct link *l, pair_fn pair, __u32 flags,
				   const struct mem *from, const struct mem *to,
				   unsigned int regions, __u32 region_flags)
{
	unsigned int i;

	memset(l, 0, sizeof(*l));
	pair(l->sock);
	l->source = (int)CALL(migration_create(from->dev, MIGR_ROLE_SOURCE));
	l->destination = (int)CALL(migration_create(from->dev, MIGR_ROLE_DESTINATION));
	for (i = 0; i < regions; i++) {
		CALL(migration_add_region_flags(l->source, from[i].fd, i, region_flags));
		CALL(migration_add_region(l->destination, to[i].fd, i));
	}
	l->source_stream = (int)CALL(migration_add_stream(l->source, l->sock[0], flags));
	l->destination_stream = (int)CALL(migration_add_stream(l->destination, l->sock[1], 0));
}

static inline void link_open(struct link *l, pair_fn pair, __u32 flags,
			     const struct mem *from, const struct mem *to, unsigned int regions)
{
	link_open_flags(l, pair, flags, from, to, regions, 0);
}

static inline void *link_receive(void *arg)
{
	struct sched_param param = { 0 };
	struct link *l = arg;

	/* Not inherited from a source that preempts all others. */
	SYS(sched_setscheduler(0, SCHED_OTHER, &param));
	l->received = stream_run(l->destination_stream);
	return NULL;
}

static inline void link_receive_start(struct link *l)
{
	l->receiver = thread_start(link_receive, l);
}

static inline void link_receive_join(struct link *l)
{
	thread_join_within(l->receiver, 25, "the destination's run");
}

static inline void link_pass_hot(struct link *l, __u32 flags, __u64 hot_pages_max)
{
	CALL(migration_pass_hot(l->source, flags, hot_pages_max));
	CALL(stream_run(l->source_stream));
}

static inline void link_pass(struct link *l, __u32 flags)
{
	link_pass_hot(l, flags, 0);
}

static inline void link_close(struct link *l)
{
	SYS(close(l->source_stream));
	SYS(close(l->destination_stream));
	SYS(close(l->source));
	SYS(close(l->destination));
	SYS(close(l->sock[0]));
	SYS(close(l->sock[1]));
}

static inline struct migr_migration_status link_status(int migration)
{
	struct migr_migration_status st;

	CALL(migration_status(migration, &st));
	return st;
}

#endif /* MIGR_SELFTEST_MIGRATION_H */
