/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Both sides of a migration in one kernel: two migrations joined by a pair of
 * sockets, the destination's stream run by a thread; or by several pairs, each
 * end run by a thread.
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
static inline void link_open_regions(struct link *l, pair_fn pair, const struct mem *from,
				     const struct mem *to, unsigned int regions,
				     __u32 region_flags)
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
}

/* @arg is the source's; of it, the destination has to know what compresses. */
static inline void link_join(struct link *l, struct migr_migration_add_stream arg)
{
	arg.socket_fd = l->sock[0];
	l->source_stream = (int)CALL(migration_add_stream_arg(l->source, arg));
	l->destination_stream = (int)CALL(migration_add_stream_compressed(l->destination,
									  l->sock[1], arg.id,
									  arg.compression, 0));
}

static inline void link_open(struct link *l, pair_fn pair, __u32 flags,
			     const struct mem *from, const struct mem *to, unsigned int regions)
{
	link_open_regions(l, pair, from, to, regions, 0);
	link_join(l, (struct migr_migration_add_stream){ .flags = flags });
}

static inline void link_open_compressed(struct link *l, pair_fn pair, const struct mem *from,
					const struct mem *to, __u32 compression, __u32 cpu)
{
	struct migr_migration_add_stream arg = {
		.compression = compression,
		.compression_cpu = cpu,
	};

	link_open_regions(l, pair, from, to, 1, 0);
	link_join(l, arg);
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
	thread_join_within(l->receiver, RUN_S, "the destination's run");
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

/* The last one: the destination has all of it. */
static inline void link_last(struct link *l)
{
	link_pass(l, MIGR_PASS_LAST);
	link_receive_join(l);
	CHECK_EQ(l->received, 0);
}

/* A pass, and the last one. */
static inline void link_run(struct link *l)
{
	link_receive_start(l);
	link_pass(l, 0);
	link_last(l);
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

/* ------------------------------------------------------- several streams */

#define BUNDLE_MAX	MIGR_STREAMS_MAX

/* Both ends of a stream, each run by a thread of its own. */
struct strand {
	int sock[2];
	int stream[2];
	pthread_t thread[2];
	int ret[2];
	__u64 cpu_ns[2];	/* of the latest run */
};

/* Both sides of a migration with several streams. */
struct bundle {
	int side[2];
	struct strand strands[BUNDLE_MAX];
	unsigned int nr;
};

static inline void bundle_open(struct bundle *b, const struct mem *from, const struct mem *to)
{
	memset(b, 0, sizeof(*b));
	b->side[0] = (int)CALL(migration_create(from->dev, MIGR_ROLE_SOURCE));
	b->side[1] = (int)CALL(migration_create(to->dev, MIGR_ROLE_DESTINATION));
	CALL(migration_add_region(b->side[0], from->fd, 0));
	CALL(migration_add_region(b->side[1], to->fd, 0));
}

static inline void strand_run(struct strand *s, int side)
{
	__u64 begun = thread_cpu_ns();

	s->ret[side] = stream_run(s->stream[side]);
	s->cpu_ns[side] = thread_cpu_ns() - begun;
}

static inline void *run_destination(void *arg)
{
	strand_run(arg, 1);
	return NULL;
}

static inline void *run_source(void *arg)
{
	strand_run(arg, 0);
	return NULL;
}

/* One more stream, whose destination does not run yet. */
static inline struct strand *bundle_join_arg(struct bundle *b, pair_fn pair,
					     struct migr_migration_add_stream arg)
{
	struct strand *s = &b->strands[b->nr];

	arg.id = b->nr++;
	CHECK(arg.id < BUNDLE_MAX, "too many streams");
	pair(s->sock);
	arg.socket_fd = s->sock[0];
	s->stream[0] = (int)CALL(migration_add_stream_arg(b->side[0], arg));
	s->stream[1] = (int)CALL(migration_add_stream_compressed(b->side[1], s->sock[1], arg.id,
								 arg.compression, 0));
	return s;
}

static inline struct strand *bundle_join(struct bundle *b, pair_fn pair, __u32 flags)
{
	return bundle_join_arg(b, pair, (struct migr_migration_add_stream){ .flags = flags });
}

static inline void strand_receive(struct strand *s)
{
	s->thread[1] = thread_start(run_destination, s);
}

static inline void bundle_add_arg(struct bundle *b, pair_fn pair,
				  struct migr_migration_add_stream arg)
{
	strand_receive(bundle_join_arg(b, pair, arg));
}

static inline void bundle_add(struct bundle *b, pair_fn pair, __u32 flags)
{
	bundle_add_arg(b, pair, (struct migr_migration_add_stream){ .flags = flags });
}

/* Those of the source that are not dead run a pass. */
static inline void bundle_start(struct bundle *b, __u32 flags)
{
	unsigned int i;

	CALL(migration_pass(b->side[0], flags));
	for (i = 0; i < b->nr; i++)
		if (!b->strands[i].ret[0])
			b->strands[i].thread[0] = thread_start(run_source, &b->strands[i]);
}

static inline void bundle_finish(struct bundle *b)
{
	unsigned int i;

	for (i = 0; i < b->nr; i++) {
		if (b->strands[i].thread[0])
			thread_join_within(b->strands[i].thread[0], RUN_S, "a source's run");
		b->strands[i].thread[0] = 0;
	}
}

static inline void bundle_pass(struct bundle *b, __u32 flags)
{
	bundle_start(b, flags);
	bundle_finish(b);
}

static inline void bundle_receive_join(struct bundle *b)
{
	unsigned int i;

	for (i = 0; i < b->nr; i++) {
		if (b->strands[i].thread[1])
			thread_join_within(b->strands[i].thread[1], RUN_S, "a destination's run");
		b->strands[i].thread[1] = 0;
	}
}

/* What has failed says why, not what has failed with it. */
static inline void bundle_check(const struct bundle *b)
{
	unsigned int i, failed = 0;
	int side;

	for (i = 0; i < b->nr; i++)
		for (side = 0; side < 2; side++)
			if (b->strands[i].ret[side]) {
				diag("stream %u, %s: %s", i, side ? "destination" : "source",
				     strerror(-b->strands[i].ret[side]));
				failed++;
			}
	for (side = 0; failed && side < 2; side++)
		diag("%s: state %u, %s", side ? "destination" : "source",
		     link_status(b->side[side]).state,
		     strerror((int)link_status(b->side[side]).error));
	CHECK(!failed, "%u runs failed", failed);
}

/* The source of a stream has claimed a chunk: something has come. */
static inline void strand_await_begun(const struct strand *s)
{
	struct pollfd begun = { .fd = s->sock[1], .events = POLLIN };

	WAIT_FOR(poll(&begun, 1, 0), RUN_S);
}

/* The last one, with which the runs of the destination end. */
static inline void bundle_last(struct bundle *b)
{
	bundle_pass(b, MIGR_PASS_LAST);
	bundle_receive_join(b);
}

static inline void bundle_close(struct bundle *b)
{
	unsigned int i;
	int k;

	for (k = 0; k < 2; k++) {
		for (i = 0; i < b->nr; i++) {
			if (b->strands[i].stream[k] >= 0)
				SYS(close(b->strands[i].stream[k]));
			if (b->strands[i].sock[k] >= 0)
				SYS(close(b->strands[i].sock[k]));
		}
		SYS(close(b->side[k]));
	}
}

/* Whether TCP's peer has no room at all; by tcpi_snd_wnd, which the C library lacks. */
static inline bool window_is_shut(int sock)
{
	__u32 info[58];
	socklen_t len = sizeof(info);

	return getsockopt(sock, IPPROTO_TCP, TCP_INFO, info, &len) || !info[57];
}

/*
 * A destination refuses a frame while the source waits for room to send, and keeps its
 * socket: the source hears of it.
 */
static inline void ends_with_full_queue(pair_fn pair)
{
	/* More than any socket's buffers hold. */
	struct mem from = mem_new(8192), small = mem_new(64);
	struct pollfd room = { .events = POLLOUT };
	struct strand *s;
	struct bundle b;

	memset(from.p, 0x11, from.len);
	bundle_open(&b, &from, &small);
	s = bundle_join(&b, pair, 0);
	room.fd = s->sock[0];
	bundle_start(&b, 0);
	WAIT_FOR(!poll(&room, 1, 0) && window_is_shut(room.fd) && any_sleeps_in("socket_send"),
		 RUN_S);
	CALL_ERR(stream_run(s->stream[1]), EPROTO);
	thread_join_within(s->thread[0], RUN_S, "a source that waits for room");
	CHECK_EQ(s->ret[0], -ECONNRESET);
	bundle_close(&b);
	mem_free(&from);
	mem_free(&small);
}

#endif /* MIGR_SELFTEST_MIGRATION_H */
