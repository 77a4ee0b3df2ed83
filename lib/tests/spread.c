// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The streams of a source over links that fail: each link is an address of the
 * loopback device, behind which the test plays a destination. There is no kernel,
 * and no encryption.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "internal.h"

#define NR_LINKS	3
#define TIMEOUT_MS	5000

/* What a link does with a stream. */
enum behaviour {
	LETS_IN,
	REFUSES,
	IS_SILENT,			/* once it has the token */
};

struct fixture {
	struct migr_source_options options;
	struct error error, ignored;
	struct migration migration;
	struct control control, peer;	/* both ends of the control channel */
	struct spread spread;
	int listeners[NR_LINKS];
	atomic_int behaviours[NR_LINKS];	/* enum behaviour */
	atomic_uint lets_in[NR_LINKS];	/* so many, and then refuses */
	atomic_uint came[NR_LINKS];	/* connections */
	atomic_int latest[NR_LINKS];	/* of those let in */
	atomic_uint stray;		/* that came from another address than the link's */
	atomic_bool mute;		/* gives no more tokens */
	int stop_fd;
	pthread_t destination;
	int cuts;			/* of streams, with the fewest alive after one */
	uint32_t least;
	int fail_start;			/* of the threads of streams */
	uint32_t handshake_ms;		/* how long one takes */
	struct tls_identity identity;	/* with which one ends */
	int worn[4];			/* sockets whose keys have been used for long; 0: none */
	uint64_t since_ns;		/* before links failed that are looked at next */
};

static struct fixture fixture;

/* ---- the kernel's side ------------------------------------------------ */

int migration_add_stream(struct migration *g, int socket, uint32_t id, uint32_t flags,
			 uint32_t compression, uint32_t compression_cpu)
{
	uint32_t place = 0;

	(void)id;
	(void)flags;
	(void)compression;
	(void)compression_cpu;
	while (place < g->nr_streams && g->streams[place].fd >= 0)
		place++;
	if (place == MIGR_STREAMS_MAX)
		return -EBUSY;
	if (place == g->nr_streams)
		g->nr_streams++;
	g->streams[place].fd = socket;
	return place;
}

uint32_t migration_nr_alive(const struct migration *g)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < g->nr_streams; i++)
		nr += g->streams[i].fd >= 0;
	return nr;
}

void migration_cut_stream(struct migration *g, uint32_t place)
{
	/* Its number may be another's next. */
	for (int i = 0; i < 4; i++)
		if (fixture.worn[i] == g->streams[place].fd)
			fixture.worn[i] = 0;
	g->streams[place].fd = -1;
	fixture.cuts++;
	if (migration_nr_alive(g) < fixture.least)
		fixture.least = migration_nr_alive(g);
}

void migration_drop_stream(struct migration *g, uint32_t place)
{
	g->streams[place].fd = -1;
}

int migration_start(struct migration *g)
{
	return error_set(g->error, fixture.fail_start, "no thread");
}

int tls_connect(struct tls *tls, struct control *c, const char *host,
		struct tls_identity *identity)
{
	(void)tls;
	(void)host;
	*identity = fixture.identity;
	return socket_wait(-1, 0, c->cancel_fd,
			   now_ns() + fixture.handshake_ms * NS_PER_MS) == -ETIMEDOUT ? 0 : -EIO;
}

uint64_t tls_records(int fd)
{
	for (int i = 0; i < 4; i++)
		if (fixture.worn[i] == fd)
			return 1ull << 23;
	return 1;
}

/* ---- the destination's ------------------------------------------------ */

static void greet(struct fixture *f, unsigned int link)
{
	struct sockaddr_in from = { 0 };
	socklen_t length = sizeof(from);
	struct control c = {
		.fd = accept(f->listeners[link], (struct sockaddr *)&from, &length),
		.cancel_fd = -1,
		.timeout_ms = TIMEOUT_MS, .peer = "source", .error = &f->ignored,
	};
	enum behaviour behaviour = f->behaviours[link];
	json_t *message;

	f->came[link]++;
	f->stray += memcmp(&from.sin_addr, f->spread.links[link].link.here.bytes, 4) != 0;
	if (control_expect(&c, "stream", TIMEOUT_MS, &message))
		behaviour = REFUSES;
	json_decref(message);
	if (behaviour == LETS_IN && f->lets_in[link]) {
		f->lets_in[link]--;
		f->latest[link] = c.fd;
		control_send(&c, json_pack("{s:s}", "type", "go"));
	} else if (behaviour != IS_SILENT) {
		control_send_error(&c, "busy");
		close(c.fd);
	}
	/* What is open stays open until the program ends. */
}

static json_t *make_tokens(unsigned int nr)
{
	json_t *tokens = json_array();

	for (unsigned int i = 0; i < nr; i++)
		json_array_append_new(tokens, json_string("token"));
	return tokens;
}

static void answer(struct fixture *f)
{
	json_auto_t *message = NULL;
	json_int_t streams;

	if (control_expect(&f->peer, "more", TIMEOUT_MS, &message) ||
	    json_unpack(message, "{s:I}", "streams", &streams) || f->mute)
		return;
	control_send(&f->peer, json_pack("{s:s, s:o}", "type", "tokens", "tokens",
					 make_tokens(streams)));
}

static void *run_destination(void *arg)
{
	struct fixture *f = arg;
	struct pollfd p[NR_LINKS + 2];

	for (unsigned int i = 0; i < NR_LINKS; i++)
		p[i] = (struct pollfd){ .fd = f->listeners[i], .events = POLLIN };
	p[NR_LINKS] = (struct pollfd){ .fd = f->peer.fd, .events = POLLIN };
	p[NR_LINKS + 1] = (struct pollfd){ .fd = f->stop_fd, .events = POLLIN };
	while (poll(p, NR_LINKS + 2, -1) > 0 && !p[NR_LINKS + 1].revents) {
		for (unsigned int i = 0; i < NR_LINKS; i++)
			if (p[i].revents)
				greet(f, i);
		if (p[NR_LINKS].revents)
			answer(f);
	}
	return NULL;
}

/* ---- the fixture ------------------------------------------------------ */

static void listen_on(struct fixture *f, unsigned int link, uint16_t *port)
{
	struct host_address a = { .family = AF_INET, .bytes = { 127, 0, 0, link + 1 } };
	struct sockaddr_storage name;
	socklen_t length = links_to_socket(&a, *port, &name);

	f->listeners[link] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->listeners[link], (struct sockaddr *)&name, length), 0);
	assert_int_equal(listen(f->listeners[link], 16), 0);
	assert_int_equal(getsockname(f->listeners[link], (struct sockaddr *)&name, &length), 0);
	*port = ntohs(((struct sockaddr_in *)&name)->sin_port);
	f->spread.links[link].link = (struct host_link){
		.here = { .family = AF_INET, .bytes = { 127, 0, 1, link + 1 }, .name = "lo" },
		.there = a,
		.bound = true,
		.streams = 1,
	};
	f->lets_in[link] = UINT32_MAX;
}

static int set_up(void **state)
{
	struct fixture *f = &fixture;
	uint16_t port = 0;
	int pair[2];

	*f = (struct fixture){
		.options = { .timeout_ms = 30000, .networks = "127.0.0.0/8" },
		.stop_fd = eventfd(0, EFD_CLOEXEC),
		.least = UINT32_MAX,
	};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->control = (struct control){
		.fd = pair[0], .cancel_fd = -1, .timeout_ms = TIMEOUT_MS,
		.peer = "destination", .error = &f->error,
	};
	f->peer = f->control;
	f->peer.fd = pair[1];
	f->peer.error = &f->ignored;
	f->migration.error = &f->error;
	spread_init(&f->spread, &f->migration, &f->control, &f->options);
	for (unsigned int i = 0; i < NR_LINKS; i++)
		listen_on(f, i, &port);
	f->spread.nr_links = NR_LINKS;
	f->spread.peer_length = links_to_socket(&f->spread.links[0].link.there, port,
						&f->spread.peer);
	f->spread.renewable = true;
	f->spread.tokens = make_tokens(NR_LINKS);
	assert_int_equal(pthread_create(&f->destination, NULL, run_destination, f), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	spread_close(&f->spread);
	eventfd_write(f->stop_fd, 1);
	pthread_join(f->destination, NULL);
	/* Whatever a route says, a link's streams come from its address. */
	assert_int_equal(f->stray, 0);
	for (unsigned int i = 0; i < NR_LINKS; i++)
		close(f->listeners[i]);
	close(f->control.fd);
	close(f->peer.fd);
	close(f->stop_fd);
	return 0;
}

static unsigned int alive_on(const struct fixture *f, unsigned int link)
{
	unsigned int nr = 0;

	for (uint32_t i = 0; i < f->migration.nr_streams; i++)
		nr += f->spread.sockets[i].fd >= 0 && f->spread.sockets[i].link == link;
	return nr;
}

static void assert_alive(const struct fixture *f, unsigned int first, unsigned int second,
			 unsigned int third)
{
	assert_int_equal(alive_on(f, 0), first);
	assert_int_equal(alive_on(f, 1), second);
	assert_int_equal(alive_on(f, 2), third);
}

/* As a source does in a pass. */
static void tend(struct fixture *f)
{
	struct pollfd p[2] = {
		{ .fd = f->control.fd, .events = POLLIN },
		{ .fd = f->spread.opening_fd, .events = POLLOUT },
	};
	json_t *message;

	poll(p, 2, 10);
	if (p[0].revents) {
		assert_int_equal(control_receive(&f->control, TIMEOUT_MS, &message), 0);
		assert_int_equal(spread_tokens(&f->spread, message), 0);
		json_decref(message);
	}
	assert_int_equal(spread_tend(&f->spread, true), 0);
}

/* And no connection is on its way. */
#define TEND_UNTIL(f, condition)						\
	do {									\
		struct fixture *f_ = (f);					\
		uint64_t deadline;						\
										\
		f_->since_ns = now_ns();					\
		deadline = f_->since_ns + 20 * NS_PER_S;			\
		while (!(condition) || f_->spread.opening_fd >= 0) {		\
			assert_true(now_ns() < deadline);			\
			tend(f_);						\
		}								\
	} while (0)

static void kill_streams(struct fixture *f, unsigned int link)
{
	f->since_ns = now_ns();
	for (uint32_t i = 0; i < f->migration.nr_streams; i++)
		if (f->spread.sockets[i].link == link)
			f->migration.streams[i].fd = -1;
	spread_tend(&f->spread, false);
	assert_int_equal(alive_on(f, link), 0);
}

/* The kernel of the destination answers to what it has got of a pass. */
static void carry(struct fixture *f, unsigned int link)
{
	assert_int_equal(send(f->latest[link], "answer", 6, 0), 6);
}

/* A link that has failed is tried again in so many seconds; have them over. */
static void assert_retry(struct fixture *f, unsigned int link, unsigned int seconds)
{
	assert_in_range(f->spread.links[link].retry_ns, f->since_ns + seconds * NS_PER_S,
			now_ns() + seconds * NS_PER_S);
	f->spread.links[link].retry_ns = 0;
}

/* ---- the tests -------------------------------------------------------- */

static void test_opens(void **state)
{
	struct fixture *f = *state;
	char device[IFNAMSIZ];
	socklen_t length = sizeof(device);

	f->spread.links[2].link.streams = 3;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 1, 1, 3);
	assert_int_equal(spread_nr_links(&f->spread), 3);
	/* And go through its interface. */
	assert_int_equal(getsockopt(f->spread.sockets[0].fd, SOL_SOCKET, SO_BINDTODEVICE, device,
				    &length), 0);
	assert_string_equal(device, geteuid() ? "" : "lo");
}

/* Unless they were asked for, those that may fail have the first pass wait for nothing. */
static void test_opens_later(void **state)
{
	struct fixture *f = *state;

	f->options.networks = NULL;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 1, 0, 0);
	TEND_UNTIL(f, alive_on(f, 1) && alive_on(f, 2));
	assert_alive(f, 1, 1, 1);
}

/* Nor is the first one's token all that there is for the others. */
static void test_token_is_spent(void **state)
{
	struct fixture *f = *state;

	json_decref(f->spread.tokens);
	f->spread.tokens = make_tokens(1);
	f->behaviours[0] = REFUSES;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 0, 1, 1);
}

/* A destination that is not the one behind a link sends the stream away. */
static void test_one_refuses(void **state)
{
	struct fixture *f = *state;

	f->behaviours[0] = REFUSES;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 0, 1, 1);
}

static void test_one_is_silent(void **state)
{
	struct fixture *f = *state;
	uint64_t begun = now_ns();

	f->behaviours[1] = IS_SILENT;
	f->control.timeout_ms = 30000;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_true(now_ns() - begun < 10 * NS_PER_S);
	assert_alive(f, 1, 0, 1);
}

/* The first, which may be slow, has all of the time limit, and then the others are tried. */
static void test_first_is_silent(void **state)
{
	struct fixture *f = *state;
	uint64_t begun = now_ns();

	f->behaviours[0] = IS_SILENT;
	f->control.timeout_ms = 7000;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_in_range(now_ns() - begun, 7 * NS_PER_S, 12 * NS_PER_S);
	assert_alive(f, 0, 1, 1);
}

static void test_all_refuse(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < NR_LINKS; i++)
		f->behaviours[i] = REFUSES;
	assert_int_equal(spread_open(&f->spread), -EREMOTEIO);
	assert_string_equal(f->error.text, "destination: busy");
	for (unsigned int i = 0; i < NR_LINKS; i++)
		assert_int_equal(f->came[i], 1);
}

/* One link is worth as many streams as there are. */
static void test_fewer_than_wanted(void **state)
{
	struct fixture *f = *state;

	f->spread.nr_links = 1;
	f->spread.links[0].link.streams = 8;
	f->lets_in[0] = 4;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 4, 0, 0);
	assert_int_equal(f->came[0], 5);
}

/* One that knows of no links waits for as many streams as it has given tokens. */
static void test_older_destination(void **state)
{
	json_auto_t *ready = json_pack("{s:o}", "tokens", make_tokens(4));
	struct fixture *f = *state;

	f->options.networks = NULL;
	assert_int_equal(spread_plan(&f->spread, "unix:nowhere", ready), 0);
	assert_int_equal(f->spread.nr_links, 1);
	assert_int_equal(f->spread.links[0].link.streams, 4);
}

/* That the control channel fails is no link's fault, and is waited for once. */
static void test_no_tokens(void **state)
{
	struct fixture *f = *state;
	uint64_t begun = now_ns();

	for (unsigned int i = 0; i < NR_LINKS; i++)
		f->spread.links[i].link.streams = 2;
	f->mute = true;
	assert_int_equal(spread_open(&f->spread), -ETIMEDOUT);
	assert_true(now_ns() - begun < 2 * TIMEOUT_MS * NS_PER_MS);
}

/* The longer a link does not work the less it is in the way of those that do. */
static void test_backs_off(void **state)
{
	static const unsigned int seconds[] = { 1, 2, 4, 8, 16, 32, 64, 64 };
	struct fixture *f = *state;
	unsigned int came;
	uint64_t begun;

	f->spread.links[0].link.streams = 8;
	json_decref(f->spread.tokens);
	f->spread.tokens = make_tokens(8 + 2);
	assert_int_equal(spread_open(&f->spread), 0);
	for (unsigned int i = 0; i < 8; i++) {
		begun = now_ns();
		kill_streams(f, 0);
		assert_retry(f, 0, seconds[i]);
		TEND_UNTIL(f, alive_on(f, 0) == 8);
		carry(f, 0);
		/* They came in this pass: that it is complete says nothing of them. */
		spread_passed(&f->spread, begun);
	}
	/* Nor does one for which they had nothing to carry. */
	spread_passed(&f->spread, now_ns());
	kill_streams(f, 0);
	assert_retry(f, 0, 64);
	TEND_UNTIL(f, alive_on(f, 0) == 8);
	carry(f, 0);
	spread_passed(&f->spread, now_ns());
	kill_streams(f, 0);
	assert_retry(f, 0, 1);
	/* Nor is a connection that cannot be made tried as often as can be. */
	f->behaviours[0] = REFUSES;
	came = f->came[0];
	TEND_UNTIL(f, f->came[0] > came);
	assert_retry(f, 0, 2);
	assert_alive(f, 0, 1, 1);
}

/* A handshake and the answer after it have their time together. */
static void test_slow_link(void **state)
{
	struct fixture *f = *state;
	uint64_t begun;

	assert_int_equal(spread_open(&f->spread), 0);
	kill_streams(f, 0);
	f->spread.links[0].retry_ns = 0;
	f->spread.tls = (struct tls *)f;
	f->handshake_ms = 1500;
	f->behaviours[0] = IS_SILENT;
	/* A busy machine has three tries. */
	for (unsigned int n = 2; n <= 4; n++) {
		f->spread.links[0].retry_ns = 0;
		begun = now_ns();
		TEND_UNTIL(f, f->came[0] == n);
		if (now_ns() - begun < 3 * NS_PER_S)
			return;
	}
	fail_msg("it took more than three seconds");
}

/* However often one is to be tried, the others have their turn. */
static void test_in_turn(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < NR_LINKS; i++)
		f->behaviours[i] = REFUSES;
	for (unsigned int n = 1; n <= 2 * NR_LINKS; n++) {
		for (unsigned int i = 0; i < NR_LINKS; i++)
			f->spread.links[i].retry_ns = 0;
		TEND_UNTIL(f, f->came[0] + f->came[1] + f->came[2] == n);
	}
	for (unsigned int i = 0; i < NR_LINKS; i++)
		assert_int_equal(f->came[i], 2);
}

/* Nobody else is told a token, whatever their certificate says. */
static void test_other_host(void **state)
{
	struct fixture *f = *state;

	f->spread.tls = (struct tls *)f;
	f->identity.bytes[31] = 1;
	assert_int_equal(spread_open(&f->spread), -EKEYREJECTED);
	assert_int_equal(f->spread.next_token, 0);
	f->spread.identity = f->identity;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 1, 1, 1);
}

/* Keys that are worn are replaced, and no link has less than its share meanwhile. */
static void test_worn(void **state)
{
	struct fixture *f = *state;

	f->spread.tls = (struct tls *)f;
	assert_int_equal(spread_open(&f->spread), 0);
	f->worn[0] = f->spread.sockets[0].fd;
	TEND_UNTIL(f, f->cuts && alive_on(f, 0) == 1);
	assert_int_equal(f->cuts, 1);
	assert_int_equal(f->least, NR_LINKS);
	assert_int_equal(f->spread.links[0].failures, 0);
	assert_alive(f, 1, 1, 1);
}

/* Where there is no room for another before. */
static void test_all_worn(void **state)
{
	struct fixture *f = *state;

	f->spread.tls = (struct tls *)f;
	f->spread.links[1].link.streams = MIGR_STREAMS_MAX - 2;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_int_equal(migration_nr_alive(&f->migration), MIGR_STREAMS_MAX);
	for (unsigned int i = 0; i < 4; i++)
		f->worn[i] = f->spread.sockets[i].fd;
	TEND_UNTIL(f, f->cuts == 4 && migration_nr_alive(&f->migration) == MIGR_STREAMS_MAX);
	assert_int_equal(f->least, MIGR_STREAMS_MAX - 1);
	assert_int_equal(f->spread.links[1].failures, 0);
	assert_alive(f, 1, MIGR_STREAMS_MAX - 2, 1);
}

/* Fewer streams than links: those of a link that fails are had by one that has none. */
static void test_few_streams(void **state)
{
	struct fixture *f = *state;
	uint64_t begun;

	f->spread.links[0].link.streams = 0;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 0, 1, 1);
	f->behaviours[1] = REFUSES;
	kill_streams(f, 1);
	TEND_UNTIL(f, alive_on(f, 0));
	assert_alive(f, 1, 0, 1);
	/* Another fails, and there is no link left for its stream. */
	f->behaviours[2] = REFUSES;
	kill_streams(f, 2);
	TEND_UNTIL(f, f->came[1] == 4 && f->came[2] == 3);
	assert_alive(f, 1, 0, 0);
	f->behaviours[1] = LETS_IN;
	TEND_UNTIL(f, alive_on(f, 1));
	assert_alive(f, 1, 1, 0);
	/* With both back it carries on until they have carried, for all of a pass. */
	f->behaviours[2] = LETS_IN;
	begun = now_ns();
	TEND_UNTIL(f, alive_on(f, 2));
	carry(f, 1);
	carry(f, 2);
	spread_passed(&f->spread, begun);
	tend(f);
	assert_alive(f, 1, 1, 1);
	carry(f, 1);
	spread_passed(&f->spread, now_ns());
	tend(f);
	assert_alive(f, 1, 1, 1);
	carry(f, 2);
	spread_passed(&f->spread, now_ns());
	/* It goes, which is no failure, and is not opened again. */
	TEND_UNTIL(f, !alive_on(f, 0));
	assert_alive(f, 0, 1, 1);
	assert_int_equal(f->cuts, 0);
	assert_int_equal(f->spread.links[0].failures, 0);
	begun = now_ns();
	TEND_UNTIL(f, f->spread.watched_ns > begun);
	assert_int_equal(f->came[0], 1);
}

/* Where the only one cannot be opened to begin with, all links are tried. */
static void test_one_stream(void **state)
{
	struct fixture *f = *state;

	f->spread.links[0].link.streams = 0;
	f->spread.links[2].link.streams = 0;
	f->behaviours[1] = REFUSES;
	f->behaviours[2] = REFUSES;
	assert_int_equal(spread_open(&f->spread), 0);
	assert_alive(f, 1, 0, 0);
	for (unsigned int i = 0; i < NR_LINKS; i++)
		assert_int_equal(f->came[i], 1);
	/* It is all there is, however often the other is tried. */
	TEND_UNTIL(f, f->came[1] == 3);
	assert_alive(f, 1, 0, 0);
	assert_int_equal(f->cuts, 0);
	f->behaviours[1] = LETS_IN;
	TEND_UNTIL(f, alive_on(f, 1));
	carry(f, 1);
	spread_passed(&f->spread, now_ns());
	TEND_UNTIL(f, !alive_on(f, 0));
	assert_alive(f, 0, 1, 0);
	assert_int_equal(f->cuts, 0);
}

/* A stream that has no thread is none, and the others carry on. */
static void test_no_thread(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(spread_open(&f->spread), 0);
	kill_streams(f, 0);
	assert_retry(f, 0, 1);
	f->fail_start = -EAGAIN;
	TEND_UNTIL(f, f->came[0] == 2 && f->spread.links[0].retry_ns);
	assert_retry(f, 0, 2);
	assert_alive(f, 0, 1, 1);
	f->fail_start = 0;
	TEND_UNTIL(f, alive_on(f, 0) == 1);
}

/* Where it is that nobody can be reached is said. */
static void test_unreachable(void **state)
{
	struct fixture *f = *state;
	struct host_address *there = &f->spread.links[0].link.there;

	f->spread.nr_links = 1;
	there->bytes[3] = 99;
	f->spread.links[0].link.here.name[0] = '\0';
	assert_int_equal(spread_open(&f->spread), -ECONNREFUSED);
	assert_string_equal(f->error.text,
			    "cannot connect a stream to 127.0.0.99: Connection refused");
	strcpy(f->spread.links[0].link.here.name, "lo");
	assert_int_equal(spread_open(&f->spread), -ECONNREFUSED);
	assert_string_equal(f->error.text,
			    "cannot connect a stream to 127.0.0.99 over lo: Connection refused");
}

int main(int argc, char **argv)
{
#define TEST(name)	cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_opens), TEST(test_opens_later), TEST(test_token_is_spent),
		TEST(test_one_refuses),
		TEST(test_one_is_silent), TEST(test_first_is_silent),
		TEST(test_all_refuse), TEST(test_fewer_than_wanted), TEST(test_no_tokens),
		TEST(test_older_destination),
		TEST(test_backs_off), TEST(test_slow_link), TEST(test_in_turn),
		TEST(test_other_host), TEST(test_worn), TEST(test_all_worn), TEST(test_no_thread),
		TEST(test_unreachable), TEST(test_few_streams), TEST(test_one_stream),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
