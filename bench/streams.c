// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to get memory to another region, over TCP on the loopback: migr's
 * streams beside what a program can do about it, which is to send() a shared
 * mapping, or to sendfile() it, and in another process to recv() into a fresh one. Of
 * each a few, in turn, another one first each time; then one of each, with sockets
 * that the kernel encrypts, and one of ours that compresses. And what the end of a
 * pass costs, beside one round trip, here and to somewhere far away.
 *
 * The first argument names the file of the results; what else it is told is in
 * samples.h.
 */
#include "ktls.h"
#include "samples.h"

#include <sys/sendfile.h>

#define PAGES		65536UL
/* Of what an emulated CPU does slowly. */
#define SLOW_PAGES	8192UL
/* What the program sends and receives at once. */
#define AT_ONCE		(256UL << 10)
#define GIB		((double)(1UL << 30))

/* What is done to the data on its way by streams, and in a socket by everyone. */
static const struct mode {
	const char *name;
	unsigned long pages;
	pair_fn pair;
	__u32 compression;
} modes[] = {
	{ "", PAGES, tcp_pair, MIGR_COMPRESSION_NONE },
	{ ", AES-128-GCM", SLOW_PAGES, aes_128_pair, MIGR_COMPRESSION_NONE },
	{ ", lz4", SLOW_PAGES, tcp_pair, MIGR_COMPRESSION_LZ4 },
	{ ", zstd", SLOW_PAGES, tcp_pair, MIGR_COMPRESSION_ZSTD },
};

/* ------------------------------------------------------------- the peers */

/* A part of the memory, and the connection that it goes over. */
struct flow {
	void (*send)(struct flow *f);
	const struct mem *from;
	const struct mem *to;
	__u64 first;
	__u64 end;
	int sock[2];
	pthread_t thread[2];
	__u64 cpu_ns[2];
};

static size_t at_once(size_t left)
{
	return left < AT_ONCE ? left : AT_ONCE;
}

static void by_send(struct flow *f)
{
	__u64 at;

	for (at = f->first; at < f->end;)
		at += (__u64)SYS(send(f->sock[0], f->from->p + at, at_once(f->end - at), 0));
}

static void by_sendfile(struct flow *f)
{
	off_t at = (off_t)f->first;

	while (at < (off_t)f->end)
		SYS(sendfile(f->sock[0], f->from->fd, &at, f->end - (__u64)at));
}

static void *flow_source(void *arg)
{
	struct flow *f = arg;
	__u64 begun = thread_cpu_ns();

	f->send(f);
	f->cpu_ns[0] = thread_cpu_ns() - begun;
	return NULL;
}

static void *flow_destination(void *arg)
{
	struct flow *f = arg;
	__u64 begun = thread_cpu_ns(), at;

	for (at = f->first; at < f->end;)
		at += (__u64)SYS(recv(f->sock[1], f->to->p + at, at_once(f->end - at), 0));
	f->cpu_ns[1] = thread_cpu_ns() - begun;
	return NULL;
}

/* -------------------------------------------------------- what is measured */

/* Streams, or the connections of programs. */
static struct sides {
	struct bundle streams;
	struct flow flows[BUNDLE_MAX];
	unsigned int nr;
	__u64 received_ns;	/* when all was there */
} *sides;

struct cost {
	__u64 ns;
	__u64 cpu_ns[2];
};

/*
 * Who receives is another process, as in earnest: one with the page tables of what is
 * sent would be interrupted whenever they change.
 */
static pid_t receiver_start(const struct mem *from, void (*receive)(void))
{
	pid_t pid = child_start();

	if (!pid) {
		SYS(munmap(from->p, from->len));
		receive();
		sides->received_ns = now_ns();
		_exit(0);
	}
	return pid;
}

/* Returns when all was there. */
static __u64 receiver_join(pid_t pid)
{
	__u64 sent = now_ns();

	child_join(pid);
	return sides->received_ns > sent ? sides->received_ns : sent;
}

static void receive_flows(void)
{
	unsigned int i;

	for (i = 0; i < sides->nr; i++)
		sides->flows[i].thread[1] = thread_start(flow_destination, &sides->flows[i]);
	for (i = 0; i < sides->nr; i++)
		thread_join_within(sides->flows[i].thread[1], 60, "a program's receiver");
}

static struct cost by_program(const struct mem *from, const struct mem *to, unsigned int nr,
			      const struct mode *mode, void (*send)(struct flow *f))
{
	struct cost cost = { 0 };
	unsigned int i;
	pid_t receiver;
	__u64 begun;

	sides->nr = nr;
	for (i = 0; i < nr; i++) {
		struct flow *f = &sides->flows[i];

		*f = (struct flow){
			.send = send, .from = from, .to = to,
			.first = from->len / nr * i, .end = from->len / nr * (i + 1),
		};
		mode->pair(f->sock);
	}
	receiver = receiver_start(from, receive_flows);
	begun = now_ns();
	for (i = 0; i < nr; i++)
		sides->flows[i].thread[0] = thread_start(flow_source, &sides->flows[i]);
	for (i = 0; i < nr; i++)
		thread_join_within(sides->flows[i].thread[0], 60, "a program's sender");
	cost.ns = receiver_join(receiver) - begun;
	for (i = 0; i < nr; i++) {
		struct flow *f = &sides->flows[i];

		cost.cpu_ns[0] += f->cpu_ns[0];
		cost.cpu_ns[1] += f->cpu_ns[1];
		SYS(close(f->sock[0]));
		SYS(close(f->sock[1]));
	}
	return cost;
}

static struct cost by_send_loop(const struct mem *from, const struct mem *to, unsigned int nr,
				const struct mode *mode)
{
	return by_program(from, to, nr, mode, by_send);
}

static struct cost by_sendfile_loop(const struct mem *from, const struct mem *to,
				    unsigned int nr, const struct mode *mode)
{
	return by_program(from, to, nr, mode, by_sendfile);
}

static void receive_streams(void)
{
	struct bundle *b = &sides->streams;
	unsigned int i;

	for (i = 0; i < b->nr; i++)
		strand_receive(&b->strands[i]);
	bundle_receive_join(b);
}

static struct cost by_streams(const struct mem *from, const struct mem *to, unsigned int nr,
			      pair_fn pair, struct migr_migration_add_stream arg)
{
	struct bundle *b = &sides->streams;
	struct cost cost = { 0 };
	unsigned int i;
	pid_t receiver;
	__u64 begun, cpu;

	bundle_open(b, from, to);
	for (i = 0; i < nr; i++) {
		bundle_join_arg(b, pair, arg);
		/* As libmigr does: nobody else has what a stream receives from. */
		SYS(close(b->strands[i].sock[1]));
		b->strands[i].sock[1] = -1;
	}
	receiver = receiver_start(from, receive_streams);
	begun = now_ns();
	/* Tracking starts here, and is part of it. */
	cpu = thread_cpu_ns();
	bundle_start(b, MIGR_PASS_LAST);
	cost.cpu_ns[0] = thread_cpu_ns() - cpu;
	bundle_finish(b);
	cost.ns = receiver_join(receiver) - begun;
	bundle_check(b);
	for (i = 0; i < nr; i++) {
		cost.cpu_ns[0] += b->strands[i].cpu_ns[0];
		cost.cpu_ns[1] += b->strands[i].cpu_ns[1];
	}
	bundle_close(b);
	return cost;
}

static struct cost by_lending_streams(const struct mem *from, const struct mem *to,
				      unsigned int nr, const struct mode *mode)
{
	return by_streams(from, to, nr, mode->pair, (struct migr_migration_add_stream){
		.compression = mode->compression,
	});
}

/* Without compression in any case. */
static struct cost by_copying_streams(const struct mem *from, const struct mem *to,
				      unsigned int nr, const struct mode *mode)
{
	return by_streams(from, to, nr, mode->pair, (struct migr_migration_add_stream){
		.flags = MIGR_STREAM_COPY,
	});
}

static const struct {
	const char *name;
	bool region;
	struct cost (*move)(const struct mem *from, const struct mem *to, unsigned int nr,
			    const struct mode *mode);
} movers[] = {
	{ OURS, true, by_lending_streams },
	{ "migr, copying", true, by_copying_streams },
	{ "send() and recv()", false, by_send_loop },
	{ "sendfile()", false, by_sendfile_loop },
};

/* ---------------------------------------------------------------- the data */

static void fill_text(const struct mem *m)
{
	static const char * const words[] = {
		"the ", "page ", "of ", "memory ", "is ", "written ", "to ", "guest ", "and ",
		"host ", "kernel ", "0x", "00", "error: ", "ok\n", ", ",
	};
	__u64 seed = test_seed;
	size_t at = 0, len;

	while (at < m->len) {
		const char *word = words[rnd(&seed) % ARRAY_SIZE(words)];

		len = strnlen(word, m->len - at);
		memcpy(m->p + at, word, len);
		at += len;
	}
}

static void fill_any(const struct mem *m)
{
	__u64 seed = test_seed;

	fill_random(m->p, m->len, &seed);
}

/* There, but nothing in it. */
static void fill_zero(const struct mem *m)
{
	memset(m->p, 0, m->len);
}

static const struct {
	const char *name;
	void (*fill)(const struct mem *m);
} contents[] = {
	{ "random", fill_any },
	{ "text", fill_text },
	{ "zero", fill_zero },
};

/* @from is the same twice: in plain shared memory, and in a region. */
static struct cost move(const struct mem *from, unsigned int nr, const struct mode *mode,
			size_t mover)
{
	bool region = movers[mover].region;
	struct mem to = region ? mem_new(mode->pages) : memfd_new(mode->pages);
	struct cost cost = movers[mover].move(&from[region], &to, nr, mode);

	expect_equal(&from[region], &to);
	mem_free(&to);
	return cost;
}

static void measure(const char *content, const struct mem *from, unsigned int nr,
		    const struct mode *mode, size_t mover)
{
	struct cost cost = move(from, nr, mode, mover);
	const char *who = movers[mover].name;
	double bytes = (double)from->len;
	char test[48];

	snprintf(test, sizeof(test), "%s, %u stream%s%s", content, nr, nr > 1 ? "s" : "",
		 mode->name);
	sample(test, who, "MiB/s", bytes / (1 << 20) / ((double)cost.ns / 1e9))
		->higher_is_better = true;
	snprintf(test, sizeof(test), "%s, %u%s: sender", content, nr, mode->name);
	sample(test, who, "CPU-ms/GiB", (double)cost.cpu_ns[0] / 1e6 * (GIB / bytes));
	snprintf(test, sizeof(test), "%s, %u%s: receiver", content, nr, mode->name);
	sample(test, who, "CPU-ms/GiB", (double)cost.cpu_ns[1] / 1e6 * (GIB / bytes));
}

static void measure_mode(const struct mode *mode, size_t content, unsigned int runs)
{
	struct mem from[2] = { memfd_new(mode->pages), mem_new(mode->pages) };
	unsigned int run, nr;
	size_t m;

	contents[content].fill(&from[0]);
	memcpy(from[1].p, from[0].p, from[0].len);
	/* Who touches an emulated machine's memory first pays for it. */
	for (m = 0; !content && m < ARRAY_SIZE(movers); m++)
		move(from, 1, mode, m);
	for (nr = 1; nr <= 4; nr *= 2)
		for (run = 0; run < runs; run++)
			for (m = 0; m < ARRAY_SIZE(movers); m++)
				measure(contents[content].name, from, nr, mode,
					(run + m) % ARRAY_SIZE(movers));
	mem_free(&from[0]);
	mem_free(&from[1]);
}

/* ------------------------------------------------------ the end of a pass */

static const struct distance {
	const char *name;
	unsigned int barriers;
	int round_trip_ms;
} distances[] = {
	{ "pass of one page", 200, 0 },
	{ "pass of one page, far away", 20, 20 },
};

/* The loopback has what leaves and what arrives pass once. */
static void go_to(const struct distance *d)
{
	char command[80];

	run_command("tc qdisc del dev lo root 2>/dev/null");
	if (!d->round_trip_ms)
		return;
	snprintf(command, sizeof(command), "tc qdisc add dev lo root netem delay %dms",
		 d->round_trip_ms / 2);
	CHECK_EQ(run_command(command), 0);
}

static void *answer(void *arg)
{
	const int *sock = arg;
	char byte;

	while (recv(*sock, &byte, 1, 0) == 1)
		CHECK_EQ(send(*sock, &byte, 1, 0), 1);
	return NULL;
}

static void measure_pass(const struct distance *d)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	__u64 begun, passes = 0;
	unsigned int i;
	struct link l;

	/* With a page in each: a pass in which nothing was dirty has no frame. */
	link_open(&l, tcp_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	for (i = 0; i < d->barriers; i++) {
		from.p[0]++;
		begun = now_ns();
		link_pass(&l, 0);
		passes += now_ns() - begun;
	}
	link_pass(&l, MIGR_PASS_LAST);
	link_receive_join(&l);
	link_close(&l);
	mem_free(&from);
	mem_free(&to);
	sample(d->name, OURS, "us", (double)passes / d->barriers / 1e3);
}

static void measure_round_trip(const struct distance *d)
{
	pthread_t thread;
	unsigned int i;
	char byte = 0;
	int sock[2];
	__u64 begun;

	tcp_pair(sock);
	thread = thread_start(answer, &sock[1]);
	begun = now_ns();
	for (i = 0; i < d->barriers; i++) {
		CHECK_EQ(send(sock[0], &byte, 1, 0), 1);
		CHECK_EQ(recv(sock[0], &byte, 1, 0), 1);
	}
	sample(d->name, "a round trip", "us", (double)(now_ns() - begun) / d->barriers / 1e3);
	SYS(close(sock[0]));
	thread_join(thread);
	SYS(close(sock[1]));
}

static void (*const pass_ends[])(const struct distance *d) = {
	measure_pass, measure_round_trip,
};

static void measure_pass_ends(const struct distance *d, unsigned int runs)
{
	unsigned int run;
	size_t m;

	go_to(d);
	for (run = 0; run < runs; run++)
		for (m = 0; m < ARRAY_SIZE(pass_ends); m++)
			pass_ends[(run + m) % ARRAY_SIZE(pass_ends)](d);
	go_to(&distances[0]);
}

int main(int argc, char **argv)
{
	unsigned int runs;
	size_t c, m;

	if (argc != 2) {
		fprintf(stderr, "usage: %s FILE\n", argv[0]);
		return 2;
	}
	runs = samples_open();
	sides = shared_alloc(sizeof(*sides));
	for (m = 0; m < ARRAY_SIZE(modes); m++)
		for (c = 0; c < ARRAY_SIZE(contents); c++)
			measure_mode(&modes[m], c, runs);
	for (m = 0; m < ARRAY_SIZE(distances); m++)
		measure_pass_ends(&distances[m], runs);
	samples_report(argv[1], "transfer");
	return 0;
}
