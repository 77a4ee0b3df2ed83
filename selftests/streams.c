// SPDX-License-Identifier: GPL-2.0-only
/*
 * Several streams of one migration: they share the work, die, come and go, and
 * no page is lost or old.
 */
#include "migration.h"
#include "workload.h"
#include "../kmod/wire.h"

#include <endian.h>

#define PAGES	16384UL
/* Streams that follow one another. */
#define GENERATIONS	8
/* Chunks that a stream sends before it waits for an answer. */
#define ACKNOWLEDGED	4096UL
/* How long the module stays where others may come in between. */
#define DELAY	"/sys/module/migr/parameters/delay_ms"

/* Writers go on; every pass is carried out by all. */
static void share(pair_fn pair, unsigned int nr)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	struct workload w;
	struct bundle b;
	unsigned int i;

	workload_start(&w, &from, MEET_PARALLEL);
	gate_open(w.gate);
	bundle_open(&b, &from, &to);
	for (i = 0; i < nr; i++) {
		struct strand *s = bundle_join(&b, pair, 0);

		/* Of many, one may never get a chunk. */
		socket_timeout(s->sock[1], CASE_S * 1000 * test_patience);
		strand_receive(s);
	}
	for (i = 0; i < 10; i++) {
		workload_turn(&w);
		bundle_pass(&b, 0);
		CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_BETWEEN);
	}
	gate_close(w.gate);
	bundle_last(&b);
	bundle_check(&b);
	CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_COMPLETE);
	CHECK_EQ(link_status(b.side[1]).state, MIGR_STATE_COMPLETE);
	CHECK_EQ(link_status(b.side[1]).data_pages, link_status(b.side[0]).data_pages);
	expect_equal(&from, &to);
	workload_stop(&w);
	bundle_close(&b);
}

static void two_share(void)
{
	share(unix_pair, 2);
}

static void eight_share(void)
{
	share(tcp_pair, 8);
}

static void all_share(void)
{
	share(tcp_pair, MIGR_STREAMS_MAX);
}

/*
 * The calls alone tell nothing of who did what: the sockets do. Until all sources have
 * begun a chunk nobody receives, or the first might have done all before the last runs.
 */
static void work_is_divided(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	__u64 seed = test_seed;
	struct bundle b;
	unsigned int i;

	fill_random(from.p, from.len, &seed);
	bundle_open(&b, &from, &to);
	for (i = 0; i < 4; i++)
		bundle_join(&b, tcp_pair, 0);
	bundle_start(&b, MIGR_PASS_LAST);
	for (i = 0; i < 4; i++)
		strand_await_begun(&b.strands[i]);
	for (i = 0; i < 4; i++)
		strand_receive(&b.strands[i]);
	bundle_finish(&b);
	bundle_receive_join(&b);
	for (i = 0; i < 4; i++) {
		/* The C library's ends before what is asked for. */
		struct {
			struct tcp_info known;
			__u64 pacing_rate, max_pacing_rate, bytes_acked;
		} info = { .bytes_acked = 0 };
		socklen_t len = sizeof(info);

		SYS(getsockopt(b.strands[i].sock[0], IPPROTO_TCP, TCP_INFO, &info, &len));
		diag("stream %u: %llu bytes", i, (unsigned long long)info.bytes_acked);
		CHECK(info.bytes_acked > MIGR_WIRE_CHUNK_PAGES * TEST_PAGE,
		      "stream %u had nothing to do", i);
	}
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* Passes with writers, while one stream after the other is cut. */
static void die(pair_fn pair, unsigned int rounds)
{
	__u64 seed = test_seed;
	unsigned int n;

	for (n = 0; n < rounds; n++) {
		struct mem from = mem_new(PAGES), to = mem_new(PAGES);
		struct workload w;
		struct bundle b;
		unsigned int i, dead = 0;

		fill_random(from.p, from.len, &seed);
		workload_start(&w, &from, MEET_PARALLEL);
		gate_open(w.gate);
		bundle_open(&b, &from, &to);
		for (i = 0; i < 4; i++)
			bundle_add(&b, pair, 0);
		for (i = 0; i < 3; i++) {
			__u64 enough;

			workload_turn(&w);
			bundle_start(&b, 0);
			/* Somewhere in the pass, on either side. */
			enough = rnd(&seed) % (i ? 40 : 8000);
			WAIT_FOR(link_status(b.side[0]).pass_sent_pages >= enough ||
				 link_status(b.side[0]).state != MIGR_STATE_PASS, RUN_S);
			SYS(shutdown(b.strands[i].sock[rnd(&seed) % 2], SHUT_RDWR));
			bundle_finish(&b);
			CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_BETWEEN);
			dead += b.strands[i].ret[0] < 0;
		}
		gate_close(w.gate);
		bundle_last(&b);
		CHECK_EQ(b.strands[3].ret[0], 0);
		CHECK_EQ(b.strands[3].ret[1], 0);
		CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_COMPLETE);
		CHECK_EQ(link_status(b.side[1]).state, MIGR_STATE_COMPLETE);
		expect_equal(&from, &to);
		diag("%u died in their pass", dead);
		workload_stop(&w);
		bundle_close(&b);
		mem_free(&from);
		mem_free(&to);
	}
}

static void unix_streams_die(void)
{
	die(unix_pair, 3);
}

static void tcp_streams_die(void)
{
	die(tcp_pair, 3);
}

/* With none left it fails, the source is as it was, and another attempt works. */
static void all_die(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	unsigned char *before = private_alloc(from.len);
	__u64 seed = test_seed;
	struct bundle b;
	unsigned int i;

	fill_random(from.p, from.len, &seed);
	memcpy(before, from.p, from.len);
	bundle_open(&b, &from, &to);
	for (i = 0; i < 3; i++)
		bundle_join(&b, tcp_pair, 0);
	bundle_start(&b, 0);
	for (i = 0; i < 3; i++)
		strand_await_begun(&b.strands[i]);
	for (i = 0; i < 3; i++)
		SYS(shutdown(b.strands[i].sock[i % 2], SHUT_RDWR));
	for (i = 0; i < 3; i++)
		strand_receive(&b.strands[i]);
	bundle_finish(&b);
	bundle_receive_join(&b);
	for (i = 0; i < 3; i++)
		CHECK(b.strands[i].ret[0] < 0 && b.strands[i].ret[1] < 0, "stream %u: %d, %d", i,
		      b.strands[i].ret[0], b.strands[i].ret[1]);
	CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_FAILED);
	CHECK_EQ(link_status(b.side[0]).error, ECONNRESET);
	CHECK_EQ(link_status(b.side[1]).state, MIGR_STATE_FAILED);
	CALL_ERR(migration_pass(b.side[0], 0), EPIPE);
	bundle_close(&b);
	CHECK(first_difference(before, from.p, from.len) < 0, "the source has changed");

	bundle_open(&b, &from, &to);
	bundle_add(&b, tcp_pair, 0);
	bundle_last(&b);
	CHECK_EQ(b.strands[0].ret[1], 0);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* One that gets nowhere holds up its own chunks alone; closed, not even those. */
static void stuck_stream(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	__u64 seed = test_seed, held;
	struct migr_migration_status st;
	struct strand *stuck, *other;
	struct bundle b;

	fill_random(from.p, from.len, &seed);
	bundle_open(&b, &from, &to);
	stuck = bundle_join(&b, unix_pair, 0);
	other = bundle_join(&b, unix_pair, 0);
	bundle_start(&b, 0);
	strand_await_begun(stuck);
	strand_receive(other);
	/* All but the chunk that it has claimed: its socket holds less than one. */
	WAIT_FOR(link_status(b.side[1]).data_pages >= PAGES - MIGR_WIRE_CHUNK_PAGES, RUN_S);
	st = link_status(b.side[0]);
	held = PAGES - link_status(b.side[1]).data_pages;
	CHECK_EQ(st.state, MIGR_STATE_PASS);
	CHECK_EQ(held, MIGR_WIRE_CHUNK_PAGES);
	CALL(stream_shutdown(stuck->stream[0]));
	bundle_finish(&b);
	CHECK_EQ(stuck->ret[0], -ECONNRESET);
	CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_BETWEEN);
	bundle_last(&b);
	expect_equal(&from, &to);
	/* The destination had been told that it is dead. */
	CALL_ERR(stream_run(stuck->stream[1]), ECONNRESET);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* They come and go between the passes, and in them. */
static void come_and_go(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	__u64 seed = test_seed;
	struct workload w;
	struct bundle b;
	unsigned int i;

	fill_random(from.p, from.len, &seed);
	workload_start(&w, &from, MEET_PARALLEL);
	gate_open(w.gate);
	bundle_open(&b, &from, &to);
	bundle_add(&b, unix_pair, 0);
	for (i = 1; i < GENERATIONS; i++) {
		struct strand *s = &b.strands[i];

		workload_turn(&w);
		bundle_start(&b, 0);
		bundle_add(&b, i % 2 ? tcp_pair : unix_pair, 0);
		s->thread[0] = thread_start(run_source, s);
		bundle_finish(&b);
		CHECK_EQ(s->ret[0], 0);
		/* The oldest goes, in peace. */
		SYS(close(b.strands[i - 1].stream[0]));
		b.strands[i - 1].ret[0] = -EBADF;
		b.strands[i - 1].stream[0] = (int)SYS(dup(b.strands[i - 1].sock[0]));
	}
	gate_close(w.gate);
	bundle_last(&b);
	CHECK_EQ(b.strands[GENERATIONS - 1].ret[1], 0);
	expect_equal(&from, &to);
	workload_stop(&w);
	bundle_close(&b);
}

/* What a dead stream still has on its way must not overtake what is newer. */
static void old_page_does_not_overtake(void)
{
	struct mem from = mem_new(64), to = mem_new(64);
	struct strand *first, *second;
	struct bundle b;

	memset(from.p, 0x11, from.len);
	bundle_open(&b, &from, &to);
	first = bundle_join(&b, unix_pair, 0);
	second = bundle_join(&b, unix_pair, 0);
	/* All of it goes into the first one's socket, and stays there. */
	SYS(setsockopt(first->sock[0], SOL_SOCKET, SO_SNDBUF, &(int){ 1 << 20 }, sizeof(int)));
	CALL(migration_pass(b.side[0], 0));
	first->thread[0] = thread_start(run_source, first);
	WAIT_FOR(link_status(b.side[0]).data_pages == from.pages, RUN_S);
	CALL(stream_shutdown(first->stream[0]));
	thread_join(first->thread[0]);
	first->thread[0] = 0;
	CHECK_EQ(first->ret[0], -ECONNRESET);

	memset(from.p, 0x22, from.len);
	strand_receive(second);
	second->thread[0] = thread_start(run_source, second);
	thread_join(second->thread[0]);
	second->thread[0] = 0;
	CHECK_EQ(second->ret[0], 0);
	CHECK_EQ(to.p[0], 0x22);
	/* It would now receive what is old. */
	CALL_ERR(stream_run(first->stream[1]), ECONNRESET);
	CHECK(to.p[0] == 0x22 && !memcmp(to.p, to.p + 1, to.len - 1), "an old page came last");
	bundle_last(&b);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* One that is told dead before it is there is not let in. */
static void dead_before_it_came(void)
{
	struct mem from = mem_new(64), to = mem_new(64);
	struct strand *first, *second;
	struct bundle b;

	memset(from.p, 0x11, from.len);
	bundle_open(&b, &from, &to);
	first = &b.strands[b.nr++];
	unix_pair(first->sock);
	first->stream[0] = (int)CALL(migration_add_stream_id(b.side[0], first->sock[0], 0, 0));
	second = bundle_join(&b, unix_pair, 0);
	strand_receive(second);
	CALL(stream_shutdown(first->stream[0]));
	CALL(migration_pass(b.side[0], 0));
	first->ret[0] = stream_run(first->stream[0]);
	CHECK_EQ(first->ret[0], -ECONNRESET);
	second->ret[0] = stream_run(second->stream[0]);
	CHECK_EQ(second->ret[0], 0);
	CALL_ERR(migration_add_stream_id(b.side[1], first->sock[1], 0, 0), EEXIST);
	first->stream[1] = (int)SYS(dup(first->sock[1]));
	bundle_last(&b);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* Nor does one that waits for the others have to be waited for. */
static void shut_down_waiting(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	struct strand *stuck, *waiting;
	__u64 seed = test_seed;
	struct bundle b;

	fill_random(from.p, from.len, &seed);
	bundle_open(&b, &from, &to);
	stuck = bundle_join(&b, unix_pair, 0);
	waiting = bundle_join(&b, unix_pair, 0);
	bundle_start(&b, 0);
	strand_await_begun(stuck);
	strand_receive(waiting);
	WAIT_FOR(any_sleeps_in("migr_migration_wait"), RUN_S);
	CALL(stream_shutdown(waiting->stream[0]));
	thread_join_within(waiting->thread[0], RUN_S, "a run that was shut down");
	waiting->thread[0] = 0;
	CHECK_EQ(waiting->ret[0], -ECONNRESET);
	CALL(stream_shutdown(stuck->stream[0]));
	bundle_finish(&b);
	CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_FAILED);
	bundle_receive_join(&b);
	bundle_close(&b);
}

/*
 * All that a dead stream had sent goes over the other, even if that takes the
 * chunks as fast as they are given back.
 */
static void all_is_sent_again(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	struct strand *first, *second;
	struct bundle b;

	memset(to.p, 0x11, to.len);
	bundle_open(&b, &from, &to);
	first = bundle_join(&b, unix_pair, 0);
	second = bundle_join(&b, unix_pair, 0);
	CALL(migration_pass(b.side[0], 0));
	/* Holes: the heads of all chunks fit into its socket. */
	first->thread[0] = thread_start(run_source, first);
	WAIT_FOR(link_status(b.side[0]).pass_sent_pages == PAGES, RUN_S);
	strand_receive(second);
	second->thread[0] = thread_start(run_source, second);
	CHECK(file_write(DELAY, "20"), "cannot set " DELAY);
	CALL(stream_shutdown(first->stream[0]));
	bundle_finish(&b);
	CHECK(file_write(DELAY, "0"), "cannot set " DELAY);
	CHECK_EQ(first->ret[0], -ECONNRESET);
	CHECK_EQ(second->ret[0], 0);
	CHECK_EQ(link_status(b.side[0]).pass_sent_pages, 2 * PAGES);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/*
 * A page that is lent to a connection looks as if it could be written. One that leads
 * nowhere gives it back when it is cut, not once TCP has given up.
 */
static void cut_stream_gives_back(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	__u64 *map = private_alloc(bitmap_words(PAGES) * sizeof(*map));
	struct migr_tracker_fetch f;
	struct strand *s;
	struct bundle b;
	int tracker;

	memset(from.p, 0x33, from.len);
	SYS(unshare(CLONE_NEWNET));
	bundle_open(&b, &from, &to);
	s = bundle_join(&b, tcp_pair, 0);
	CHECK_EQ(run_command("tc qdisc add dev lo root netem loss 100%"), 0);
	bundle_start(&b, 0);
	WAIT_FOR(any_sleeps_in("socket_send"), RUN_S);
	CALL(stream_shutdown(s->stream[0]));
	bundle_finish(&b);
	CHECK_EQ(s->ret[0], -ECONNRESET);
	bundle_close(&b);
	tracker = (int)CALL(region_track(from.fd));
	memset(from.p, 0x44, from.len);
	lru_drain();
	CALL(tracker_fetch(tracker, 0, from.pages, map, &f));
	CHECK_EQ(f.dirty_pages, from.pages);
	CHECK_EQ(f.pinned_pages, 0);
	SYS(close(tracker));
}

/* A link that drops packets has to be tried again, even if the stream is closed by then. */
static void done_arrives_late(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	struct strand *late;
	struct bundle b;

	SYS(unshare(CLONE_NEWNET));
	bundle_open(&b, &from, &to);
	bundle_add(&b, tcp_pair, 0);
	late = bundle_join(&b, tcp_pair, 0);
	strand_receive(late);
	CALL(migration_pass(b.side[0], MIGR_PASS_LAST));
	strand_run(&b.strands[0], 0);
	CHECK_EQ(b.strands[0].ret[0], 0);
	CHECK_EQ(run_command("tc qdisc add dev lo root netem loss 100%"), 0);
	strand_run(late, 0);
	CHECK_EQ(late->ret[0], 0);
	SYS(close(late->stream[0]));
	SYS(close(late->sock[0]));
	late->stream[0] = -1;
	late->sock[0] = -1;
	CHECK_EQ(run_command("tc qdisc del dev lo root"), 0);
	bundle_receive_join(&b);
	bundle_check(&b);
	CHECK_EQ(link_status(b.side[1]).state, MIGR_STATE_COMPLETE);
	bundle_close(&b);
}

/* Who tracks what arrives is told of it, even if the stream ends before the chunk. */
static void shut_down_in_chunk(void)
{
	struct mem from = mem_new(TEST_WORD_PAGES), to = mem_new(TEST_WORD_PAGES);
	struct migr_tracker_fetch f;
	struct strand *s;
	struct bundle b;
	__u64 written;
	int tracker;

	memset(from.p, 0x22, from.len);
	memset(to.p, 0x11, to.len);
	tracker = (int)CALL(region_track(to.fd));
	tracker_settle(tracker, to.pages);
	bundle_open(&b, &from, &to);
	s = bundle_join(&b, unix_pair, 0);
	CHECK(file_write(DELAY, "20000"), "cannot set " DELAY);
	strand_receive(s);
	bundle_start(&b, 0);
	WAIT_FOR(any_sleeps_in("msleep"), RUN_S);
	CALL(stream_shutdown(s->stream[1]));
	CHECK(file_write(DELAY, "0"), "cannot set " DELAY);
	bundle_finish(&b);
	bundle_receive_join(&b);
	CHECK_EQ(s->ret[1], -ECONNRESET);
	/* Its pages have come, and it is not complete. */
	CHECK_EQ(link_status(b.side[1]).data_pages, 0);
	expect_equal(&from, &to);
	CALL(tracker_fetch(tracker, 0, to.pages, &written, &f));
	CHECK_EQ(f.dirty_pages, to.pages);
	SYS(close(tracker));
	bundle_close(&b);
}

static void unix_ends_with_full_queue(void)
{
	ends_with_full_queue(unix_pair);
}

static void tcp_ends_with_full_queue(void)
{
	ends_with_full_queue(tcp_pair);
}

static void tcp6_ends_with_full_queue(void)
{
	ends_with_full_queue(tcp6_pair);
}

static void vsock_ends_with_full_queue(void)
{
	ends_with_full_queue(vsock_pair);
}

/* What a source says, played by the test. */
static struct migr_wire_hdr frame(unsigned int type, __u32 pass, __u64 value, __u32 length)
{
	return (struct migr_wire_hdr){
		.magic = htole32(MIGR_WIRE_MAGIC),
		.version = MIGR_WIRE_VERSION,
		.type = type,
		.pass = htole32(pass),
		.value = htole64(value),
		.length = htole32(length),
	};
}

static void say(const struct strand *s, unsigned int type, __u32 pass, __u64 value)
{
	struct migr_wire_hdr hdr = frame(type, pass, value, 0);

	CHECK_EQ(send(s->sock[0], &hdr, sizeof(hdr), MSG_NOSIGNAL), (long long)sizeof(hdr));
}

/* The first chunk: all that it has is a page of zeroes. */
static void say_chunk(const struct strand *s, __u32 pass)
{
	struct {
		struct migr_wire_hdr hdr;
		struct migr_wire_masks masks;
	} chunk = {
		.hdr = frame(MIGR_WIRE_CHUNK, pass, 0, sizeof(chunk.masks)),
		.masks.zero[0] = htole64(1),
	};

	CHECK_EQ(send(s->sock[0], &chunk, sizeof(chunk), MSG_NOSIGNAL),
		 (long long)sizeof(chunk));
}

/* The last of a pass, which is answered. */
static void say_end(const struct strand *s, __u32 pass, __u64 chunks)
{
	struct migr_wire_hdr ack;

	say(s, MIGR_WIRE_PASS_END, pass, chunks);
	CHECK_EQ(recv(s->sock[0], &ack, sizeof(ack), MSG_WAITALL), (long long)sizeof(ack));
	CHECK_EQ(ack.type, MIGR_WIRE_PASS_ACK);
}

/* All of a pass: a chunk. */
static void say_pass(const struct strand *s, __u32 pass)
{
	say_chunk(s, pass);
	say_end(s, pass, 1);
}

/* That one is gone may be said late: in a pass that others have completed. */
static void late_gone(void)
{
	struct mem m = mem_new(64);
	struct strand *first, *late;
	struct bundle b;

	bundle_open(&b, &m, &m);
	bundle_add(&b, unix_pair, 0);
	bundle_add(&b, unix_pair, 0);
	first = &b.strands[0];
	late = &b.strands[1];
	say_pass(first, 1);
	say_pass(first, 2);
	say(late, MIGR_WIRE_GONE, 1, 7);
	say_pass(late, 2);
	CHECK_EQ(link_status(b.side[1]).passes, 2);
	say(first, MIGR_WIRE_DONE, 2, 0);
	WAIT_FOR(link_status(b.side[1]).state == MIGR_STATE_COMPLETE, RUN_S);
	say(late, MIGR_WIRE_GONE, 2, 8);
	say(late, MIGR_WIRE_DONE, 2, 0);
	bundle_receive_join(&b);
	CHECK_EQ(first->ret[1], 0);
	CHECK_EQ(late->ret[1], 0);
	bundle_close(&b);
}

/* A source that says so while a page is still on its way is not believed. */
static void done_too_early(void)
{
	struct {
		struct migr_wire_hdr hdr;
		struct migr_wire_masks masks;
	} chunk = {
		.hdr = frame(MIGR_WIRE_CHUNK, 1, 0, sizeof(chunk.masks) + TEST_PAGE),
		.masks.data[0] = htole64(1),
	};
	struct mem m = mem_new(64);
	struct strand *slow, *hasty;
	struct bundle b;

	bundle_open(&b, &m, &m);
	slow = bundle_join(&b, unix_pair, 0);
	hasty = bundle_join(&b, unix_pair, 0);
	CHECK_EQ(send(slow->sock[0], &chunk, sizeof(chunk), 0), (long long)sizeof(chunk));
	strand_receive(slow);
	WAIT_FOR(link_status(b.side[1]).state == MIGR_STATE_PASS, RUN_S);
	say(hasty, MIGR_WIRE_DONE, 1, 0);
	CALL_ERR(stream_run(hasty->stream[1]), EPROTO);
	CHECK_EQ(link_status(b.side[1]).state, MIGR_STATE_PASS);
	CALL(stream_shutdown(slow->stream[1]));
	bundle_receive_join(&b);
	CHECK_EQ(slow->ret[1], -ECONNRESET);
	CHECK_EQ(link_status(b.side[1]).state, MIGR_STATE_FAILED);
	bundle_close(&b);
}

/* What was said once may be said again in its pass: it harms who says so. Later it may not. */
static void replayed(void)
{
	struct mem m = mem_new(64);
	struct strand *first, *second;
	struct bundle b;

	bundle_open(&b, &m, &m);
	bundle_add(&b, unix_pair, 0);
	bundle_add(&b, unix_pair, 0);
	first = &b.strands[0];
	second = &b.strands[1];
	say_pass(first, 1);
	say_pass(first, 1);
	say_pass(first, 2);
	say_chunk(first, 1);
	say_chunk(second, 1);
	bundle_receive_join(&b);
	CHECK_EQ(first->ret[1], -EPROTO);
	CHECK_EQ(second->ret[1], -EPROTO);
	CHECK_EQ(link_status(b.side[1]).passes, 2);
	bundle_close(&b);
}

#define RAVERS		4U
#define RAVINGS		400

/* What a frame that means something may be. Returns how many bytes it has. */
static size_t rave_frame(struct migr_wire_hdr *hdr, struct migr_wire_masks *masks,
			 unsigned char *pages, const struct mem *m, __u64 *sent, __u64 *seed)
{
	static const unsigned char types[] = {
		MIGR_WIRE_CHUNK, MIGR_WIRE_CHUNK, MIGR_WIRE_CHUNK, MIGR_WIRE_CHUNK,
		MIGR_WIRE_PASS_END, MIGR_WIRE_PASS_END, MIGR_WIRE_GONE, MIGR_WIRE_CHUNK,
	};
	unsigned int type = types[rnd(seed) % ARRAY_SIZE(types)], nr = 1 + rnd(seed) % 3, i;
	__u64 chunk = rnd(seed) % (m->pages / MIGR_WIRE_CHUNK_PAGES);

	if (type == MIGR_WIRE_GONE) {
		*hdr = frame(type, 1, RAVERS + rnd(seed) % 1000, 0);
		return sizeof(*hdr);
	}
	if (type == MIGR_WIRE_PASS_END) {
		*hdr = frame(type, 1, *sent, 0);
		*sent = 0;
		return sizeof(*hdr);
	}
	memset(masks, 0, sizeof(*masks));
	for (i = 0; i < nr; i++)
		masks->data[i] = htole64(1ULL << rnd(seed) % 64);
	masks->zero[7] = htole64(rnd(seed));
	fill_random(pages, nr * TEST_PAGE, seed);
	*hdr = frame(type, 1, chunk, sizeof(*masks) + nr * TEST_PAGE);
	(*sent)++;
	return sizeof(*hdr) + le32toh(hdr->length);
}

struct raver {
	const struct strand *s;
	const struct mem *m;
	__u64 seed;
};

/*
 * Says what a source may say, and now and then what none says: bits are flipped, a part
 * is left out or comes twice, the connection ends.
 */
static void *rave(void *arg)
{
	struct {
		struct migr_wire_hdr hdr;
		struct migr_wire_masks masks;
		unsigned char pages[3 * TEST_PAGE];
	} f;
	unsigned char *bytes = (unsigned char *)&f, answer[4096];
	struct raver *r = arg;
	__u64 sent = 0;
	size_t len;
	int i;

	for (i = 0; i < RAVINGS; i++) {
		len = rave_frame(&f.hdr, &f.masks, f.pages, r->m, &sent, &r->seed);
		switch (rnd(&r->seed) % 300) {
		case 0:
			bytes[rnd(&r->seed) % sizeof(f.hdr)] ^= 1 << rnd(&r->seed) % 8;
			break;
		case 1:
			bytes[rnd(&r->seed) % len] ^= 1 << rnd(&r->seed) % 8;
			break;
		case 2:
			len = rnd(&r->seed) % len;
			break;
		case 3:
			f.hdr.pass = htole32((__u32)(rnd(&r->seed) % 4));
			break;
		}
		if (send(r->s->sock[0], &f, len, MSG_NOSIGNAL) != (ssize_t)len)
			break;
		while (recv(r->s->sock[0], answer, sizeof(answer), MSG_DONTWAIT) > 0)
			;
	}
	/* Unless it has been reset. */
	CHECK(!shutdown(r->s->sock[0], SHUT_RDWR) || errno == ENOTCONN, "shutdown: %s",
	      strerror(errno));
	return NULL;
}

static void move(const struct mem *from)
{
	struct mem to = mem_new(from->pages);
	struct bundle b;

	bundle_open(&b, from, &to);
	bundle_add(&b, unix_pair, 0);
	bundle_last(&b);
	expect_equal(from, &to);
	bundle_close(&b);
}

/* Several at once: all of them end, nothing but the region changes, and another one moves. */
static void raving_sources(pair_fn pair)
{
	struct mem before = mem_new(64), m = mem_new(2 * MIGR_WIRE_CHUNK_PAGES);
	struct mem after = mem_new(64);
	struct raver ravers[RAVERS];
	pthread_t threads[RAVERS];
	unsigned int round, i;

	memset(before.p, 0x11, before.len);
	memset(after.p, 0x22, after.len);
	for (round = 0; round < 20; round++) {
		struct bundle b;

		bundle_open(&b, &m, &m);
		for (i = 0; i < RAVERS; i++)
			bundle_add(&b, pair, 0);
		for (i = 0; i < RAVERS; i++) {
			ravers[i] = (struct raver){
				.s = &b.strands[i], .m = &m,
				.seed = test_seed + round * RAVERS + i,
			};
			threads[i] = thread_start(rave, &ravers[i]);
		}
		for (i = 0; i < RAVERS; i++)
			thread_join(threads[i]);
		bundle_receive_join(&b);
		for (i = 0; i < RAVERS; i++)
			CHECK(b.strands[i].ret[1] < 0, "one of them has moved something");
		CHECK(link_status(b.side[1]).state != MIGR_STATE_COMPLETE, "it is complete");
		bundle_close(&b);
	}
	for (i = 0; i < before.len; i++)
		CHECK(before.p[i] == 0x11 && after.p[i] == 0x22, "another region has changed");
	move(&m);
}

static void unix_raving_sources(void)
{
	raving_sources(unix_pair);
}

static void tcp_raving_sources(void)
{
	raving_sources(tcp_pair);
}

/* A pass that finds nothing costs no frame, and none is missed. */
static void empty_passes(void)
{
	struct mem from = mem_new(1000), to = mem_new(1000);
	struct bundle b;
	unsigned int i;

	memset(from.p, 0x11, from.len);
	lru_drain();
	bundle_open(&b, &from, &to);
	bundle_add(&b, unix_pair, 0);
	bundle_add(&b, unix_pair, 0);
	for (i = 0; i < 5; i++) {
		bundle_pass(&b, 0);
		CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_BETWEEN);
	}
	from.p[0]++;
	bundle_last(&b);
	bundle_check(&b);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* Carries what two sides say to each other, and counts how often the second answers. */
struct relay {
	int end[2];
	int speaker;
	unsigned int answers;
};

static void *relay_run(void *arg)
{
	static char bytes[1 << 16];
	struct relay *r = arg;
	struct pollfd pfd[2] = {
		{ .fd = r->end[0], .events = POLLIN },
		{ .fd = r->end[1], .events = POLLIN },
	};
	ssize_t n;
	int i;

	for (;;) {
		SYS(poll(pfd, 2, -1));
		i = !pfd[0].revents;
		n = recv(r->end[i], bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n <= 0)
			return NULL;
		if (i != r->speaker)
			__atomic_add_fetch(&r->answers, i, __ATOMIC_RELAXED);
		r->speaker = i;
		CHECK_EQ(send(r->end[!i], bytes, n, MSG_NOSIGNAL), n);
	}
}

static struct relay relay;

static void relayed_pair(int fd[2])
{
	int near[2], far[2];

	unix_pair(near);
	unix_pair(far);
	relay = (struct relay){ .end = { near[1], far[0] } };
	thread_start(relay_run, &relay);
	fd[0] = near[0];
	fd[1] = far[1];
}

static unsigned int answers(void)
{
	return __atomic_load_n(&relay.answers, __ATOMIC_RELAXED);
}

/* However much is in a pass, the source waits for one answer; for none if nothing is. */
static void passes_cost_one_round_trip(void)
{
	struct mem from = mem_new(4096), to = mem_new(4096);
	struct bundle b;
	unsigned int i;

	memset(from.p, 0x11, from.len);
	lru_drain();
	bundle_open(&b, &from, &to);
	bundle_add(&b, relayed_pair, 0);
	bundle_pass(&b, 0);
	CHECK_EQ(answers(), 1);
	for (i = 0; i < 5; i++) {
		bundle_pass(&b, 0);
		CHECK_EQ(link_status(b.side[0]).pass_wire_bytes, 0);
	}
	from.p[0]++;
	bundle_pass(&b, 0);
	CHECK_EQ(answers(), 2);
	memset(from.p, 0x22, from.len);
	bundle_last(&b);
	CHECK_EQ(answers(), 3);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* Nor does a stream that dies lose more than so many chunks, however large the pass. */
static void acknowledged_meanwhile(void)
{
	struct mem from = mem_new((ACKNOWLEDGED + 1) * MIGR_WIRE_CHUNK_PAGES);
	struct mem to = mem_new(from.pages);
	struct bundle b;

	*mem_page(&from, 0) = 1;
	*mem_page(&from, from.pages - 1) = 2;
	bundle_open(&b, &from, &to);
	bundle_add(&b, relayed_pair, 0);
	bundle_last(&b);
	CHECK_EQ(answers(), 2);
	CHECK_EQ(*mem_page(&to, 0), 1);
	CHECK_EQ(*mem_page(&to, to.pages - 1), 2);
	bundle_close(&b);
}

static void limits(void)
{
	struct mem m = mem_new(64);
	int migration = (int)CALL(migration_create(m.dev, MIGR_ROLE_SOURCE)), pair[2], i;
	int stream[MIGR_STREAMS_MAX];

	CALL(migration_add_region(migration, m.fd, 0));
	for (i = 0; i < MIGR_STREAMS_MAX; i++) {
		unix_pair(pair);
		stream[i] = (int)CALL(migration_add_stream_id(migration, pair[0], 0, (__u32)i));
	}
	unix_pair(pair);
	CALL_ERR(migration_add_stream_id(migration, pair[0], 0, 64), EBUSY);
	SYS(close(stream[3]));
	/* A number is used once. */
	CALL_ERR(migration_add_stream_id(migration, pair[0], 0, 3), EEXIST);
	CALL(migration_add_stream_id(migration, pair[0], 0, MIGR_STREAM_IDS - 1));
	CALL_ERR(migration_add_stream_id(migration, pair[0], 0, MIGR_STREAM_IDS), EINVAL);
	/* What was refused is none the worse. */
	CHECK_EQ(send(pair[1], "x", 1, MSG_NOSIGNAL), 1);
}

static const struct test_case cases[] = {
	CASE(two_share),
	CASE(eight_share),
	CASE(all_share),
	CASE(work_is_divided),
	CASE(unix_streams_die),
	CASE(tcp_streams_die),
	CASE(all_die),
	CASE(stuck_stream),
	CASE(come_and_go),
	CASE(old_page_does_not_overtake),
	CASE(dead_before_it_came),
	CASE(shut_down_waiting),
	CASE(all_is_sent_again),
	CASE(cut_stream_gives_back),
	CASE(done_arrives_late),
	CASE(shut_down_in_chunk),
	CASE(unix_ends_with_full_queue),
	CASE(tcp_ends_with_full_queue),
	CASE(tcp6_ends_with_full_queue),
	CASE(vsock_ends_with_full_queue),
	CASE(late_gone),
	CASE(done_too_early),
	CASE(replayed),
	CASE(unix_raving_sources),
	CASE(tcp_raving_sources),
	CASE(empty_passes),
	CASE(passes_cost_one_round_trip),
	CASE(acknowledged_meanwhile),
	CASE(limits),
};

int main(int argc, char **argv)
{
	return workload_main(cases, ARRAY_SIZE(cases), argc, argv);
}
