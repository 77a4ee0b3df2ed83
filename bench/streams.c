// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to get memory to another region, over TCP on the loopback: migr's
 * streams beside what a program can do about it, which is to send() a shared
 * mapping and recv() into a fresh one, or to sendfile() it. Of each a few, in
 * turn, another one first each time. And what the end of a pass costs, beside one
 * round trip.
 *
 * The first argument names the file of the results; what else it is told is in
 * samples.h.
 */
#include "migration.h"
#include "samples.h"

#include <sys/sendfile.h>

#define PAGES		65536UL
#define LEN		(PAGES * TEST_PAGE)
/* What the program sends and receives at once. */
#define AT_ONCE		(256UL << 10)
#define BARRIERS	200U
#define GIB		((double)(1UL << 30))

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

struct cost {
	__u64 ns;
	__u64 cpu_ns[2];
};

static struct cost by_program(const struct mem *from, const struct mem *to, unsigned int nr,
			      void (*send)(struct flow *f))
{
	struct flow flows[BUNDLE_MAX] = { 0 };
	struct cost cost = { 0 };
	unsigned int i;
	int side;

	for (i = 0; i < nr; i++) {
		struct flow *f = &flows[i];

		*f = (struct flow){
			.send = send, .from = from, .to = to,
			.first = LEN / nr * i, .end = LEN / nr * (i + 1),
		};
		tcp_pair(f->sock);
	}
	cost.ns = now_ns();
	for (i = 0; i < nr; i++) {
		flows[i].thread[1] = thread_start(flow_destination, &flows[i]);
		flows[i].thread[0] = thread_start(flow_source, &flows[i]);
	}
	for (i = 0; i < nr; i++)
		for (side = 0; side < 2; side++) {
			thread_join_within(flows[i].thread[side], 60, "a program's thread");
			cost.cpu_ns[side] += flows[i].cpu_ns[side];
		}
	cost.ns = now_ns() - cost.ns;
	for (i = 0; i < nr; i++)
		for (side = 0; side < 2; side++)
			SYS(close(flows[i].sock[side]));
	return cost;
}

static struct cost by_send_loop(const struct mem *from, const struct mem *to, unsigned int nr)
{
	return by_program(from, to, nr, by_send);
}

static struct cost by_sendfile_loop(const struct mem *from, const struct mem *to, unsigned int nr)
{
	return by_program(from, to, nr, by_sendfile);
}

static struct cost by_streams(const struct mem *from, const struct mem *to, unsigned int nr,
			      __u32 flags)
{
	struct cost cost = { 0 };
	struct bundle b;
	unsigned int i;
	__u64 cpu;
	int side;

	bundle_open(&b, from, to);
	for (i = 0; i < nr; i++)
		bundle_add(&b, tcp_pair, flags);
	cost.ns = now_ns();
	/* Tracking starts here, and is part of it. */
	cpu = thread_cpu_ns();
	bundle_start(&b, MIGR_PASS_LAST);
	cost.cpu_ns[0] = thread_cpu_ns() - cpu;
	bundle_finish(&b);
	bundle_receive_join(&b);
	cost.ns = now_ns() - cost.ns;
	for (i = 0; i < nr; i++)
		for (side = 0; side < 2; side++) {
			CHECK_EQ(b.strands[i].ret[side], 0);
			cost.cpu_ns[side] += b.strands[i].cpu_ns[side];
		}
	bundle_close(&b);
	return cost;
}

static struct cost by_lending_streams(const struct mem *from, const struct mem *to,
				      unsigned int nr)
{
	return by_streams(from, to, nr, 0);
}

static struct cost by_copying_streams(const struct mem *from, const struct mem *to,
				      unsigned int nr)
{
	return by_streams(from, to, nr, MIGR_STREAM_COPY);
}

static const struct {
	const char *name;
	bool region;
	struct cost (*move)(const struct mem *from, const struct mem *to, unsigned int nr);
} movers[] = {
	{ OURS, true, by_lending_streams },
	{ "migr, copying", true, by_copying_streams },
	{ "send() and recv()", false, by_send_loop },
	{ "sendfile()", false, by_sendfile_loop },
};

/* ---------------------------------------------------------------- the data */

static void fill_text(unsigned char *p)
{
	static const char * const words[] = {
		"the ", "page ", "of ", "memory ", "is ", "written ", "to ", "guest ", "and ",
		"host ", "kernel ", "0x", "00", "error: ", "ok\n", ", ",
	};
	__u64 seed = test_seed;
	size_t at = 0, len;

	while (at < LEN) {
		const char *word = words[rnd(&seed) % ARRAY_SIZE(words)];

		len = strnlen(word, LEN - at);
		memcpy(p + at, word, len);
		at += len;
	}
}

static void fill_any(unsigned char *p)
{
	__u64 seed = test_seed;

	fill_random(p, LEN, &seed);
}

/* There, but nothing in it. */
static void fill_zero(unsigned char *p)
{
	memset(p, 0, LEN);
}

static const struct {
	const char *name;
	void (*fill)(unsigned char *p);
} contents[] = {
	{ "random", fill_any },
	{ "text", fill_text },
	{ "zero", fill_zero },
};

/* @from is the same twice: in plain shared memory, and in a region. */
static struct cost move(const struct mem *from, unsigned int nr, size_t mover)
{
	bool region = movers[mover].region;
	struct mem to = region ? mem_new(PAGES) : memfd_new(PAGES);
	struct cost cost = movers[mover].move(&from[region], &to, nr);

	expect_equal(&from[region], &to);
	mem_free(&to);
	return cost;
}

static void measure(const char *content, const struct mem *from, unsigned int nr, size_t mover)
{
	struct cost cost = move(from, nr, mover);
	const char *who = movers[mover].name;
	char test[32];

	snprintf(test, sizeof(test), "%s, %u stream%s", content, nr, nr > 1 ? "s" : "");
	sample(test, who, "MiB/s", (double)(LEN >> 20) / ((double)cost.ns / 1e9))
		->higher_is_better = true;
	snprintf(test, sizeof(test), "%s, %u: sender", content, nr);
	sample(test, who, "CPU-ms/GiB", (double)cost.cpu_ns[0] / 1e6 * (GIB / LEN));
	snprintf(test, sizeof(test), "%s, %u: receiver", content, nr);
	sample(test, who, "CPU-ms/GiB", (double)cost.cpu_ns[1] / 1e6 * (GIB / LEN));
}

/* ------------------------------------------------------ the end of a pass */

static void *answer(void *arg)
{
	const int *sock = arg;
	unsigned int i;
	char byte;

	for (i = 0; i < BARRIERS; i++) {
		CHECK_EQ(recv(*sock, &byte, 1, 0), 1);
		CHECK_EQ(send(*sock, &byte, 1, 0), 1);
	}
	return NULL;
}

static void measure_pass(void)
{
	struct mem from = mem_new(PAGES), to = mem_new(PAGES);
	__u64 begun, passes = 0;
	unsigned int i;
	struct link l;

	/* With a page in each: a pass in which nothing was dirty has no frame. */
	link_open(&l, tcp_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	for (i = 0; i < BARRIERS; i++) {
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
	sample("pass of one page", OURS, "us", (double)passes / BARRIERS / 1e3);
}

static void measure_round_trip(void)
{
	pthread_t thread;
	unsigned int i;
	char byte = 0;
	int sock[2];
	__u64 begun;

	tcp_pair(sock);
	thread = thread_start(answer, &sock[1]);
	begun = now_ns();
	for (i = 0; i < BARRIERS; i++) {
		CHECK_EQ(send(sock[0], &byte, 1, 0), 1);
		CHECK_EQ(recv(sock[0], &byte, 1, 0), 1);
	}
	sample("pass of one page", "a round trip", "us",
	       (double)(now_ns() - begun) / BARRIERS / 1e3);
	thread_join(thread);
	SYS(close(sock[0]));
	SYS(close(sock[1]));
}

static void (*const pass_ends[])(void) = { measure_pass, measure_round_trip };

int main(int argc, char **argv)
{
	unsigned int runs, run, nr;
	size_t c, m;

	if (argc != 2) {
		fprintf(stderr, "usage: %s FILE\n", argv[0]);
		return 2;
	}
	runs = samples_open();
	for (c = 0; c < ARRAY_SIZE(contents); c++) {
		struct mem from[2] = { memfd_new(PAGES), mem_new(PAGES) };

		contents[c].fill(from[0].p);
		memcpy(from[1].p, from[0].p, LEN);
		/* Who touches an emulated machine's memory first pays for it. */
		for (m = 0; !c && m < ARRAY_SIZE(movers); m++)
			move(from, 1, m);
		for (nr = 1; nr <= 4; nr *= 2)
			for (run = 0; run < runs; run++)
				for (m = 0; m < ARRAY_SIZE(movers); m++)
					measure(contents[c].name, from, nr,
						(run + m) % ARRAY_SIZE(movers));
		mem_free(&from[0]);
		mem_free(&from[1]);
	}
	for (run = 0; run < runs; run++)
		for (m = 0; m < ARRAY_SIZE(pass_ends); m++)
			pass_ends[(run + m) % ARRAY_SIZE(pass_ends)]();
	samples_report(argv[1], "transfer");
	return 0;
}
