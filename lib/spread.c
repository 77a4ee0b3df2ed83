// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The streams of a source, spread over the links to the destination: which links
 * those are, opening the streams, noticing that a link is dead, and opening it
 * again when it is back.
 *
 * The kernel sends over other streams what one that dies had not seen acknowledged,
 * so nothing here is more than a matter of speed, as long as one is left.
 */
#include <arpa/inet.h>
#include <errno.h>
/* Not netinet/tcp.h, which knows the beginning of struct tcp_info alone. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

/* For a connection over a link that may be dead, where there are others. */
#define CONNECT_MS	2000
/*
 * For the destination to let in a stream that is opened anew, while all else here
 * waits; the same with a handshake first, with certificates to be checked.
 */
#define ADMIT_MS	1000
#define ADMIT_TLS_MS	2000
/* Before the first pass, where nothing waits. */
#define HANDSHAKE_MS	5000
/* Until a link that has failed is tried again, twice as long each time, up to 64 s. */
#define RETRY_MS	1000
#define DOUBLED_MAX	6
#define WATCH_MS	500
/*
 * What a stream may have claimed and not sent yet, where there are several links:
 * the end of each pass waits for it, on the slowest.
 */
#define UNSENT_BYTES	(256 << 10)
/*
 * Records that a stream may have encrypted before another is opened in its place: a
 * third of those with which the kernel ends it.
 */
#define RECORDS_MAX	(1ull << 23)
/* A link without a carrier, from which nothing has come for so long, is dead. */
#define CARRIER_MS	1000

void spread_init(struct spread *sp, struct migration *g, struct control *control,
		 const struct migr_source_options *options)
{
	*sp = (struct spread){
		.g = g, .control = control, .options = options, .opening_fd = -1,
		.answer_ns = UINT64_MAX, .records_max = RECORDS_MAX,
	};
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++)
		sp->sockets[i].fd = -1;
}

void spread_close(struct spread *sp)
{
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++)
		if (sp->sockets[i].fd >= 0)
			close(sp->sockets[i].fd);
	if (sp->opening_fd >= 0)
		close(sp->opening_fd);
	json_decref(sp->tokens);
	spread_init(sp, sp->g, sp->control, sp->options);
}

/* ---- which links ------------------------------------------------------ */

/* The way that the control channel takes; false if it is not IP. */
static bool control_path(struct spread *sp, const struct host_address *there,
			 unsigned int nr_there, struct host_link *path)
{
	struct host_address here[ADDRESSES_MAX];
	const struct host_address *known;
	struct error unknown;
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);

	*path = (struct host_link){ .bound = false };
	sp->peer_length = sizeof(sp->peer);
	if (getpeername(sp->control->fd, (struct sockaddr *)&sp->peer, &sp->peer_length) < 0 ||
	    getsockname(sp->control->fd, (struct sockaddr *)&name, &length) < 0 ||
	    !links_from_socket(&sp->peer, &path->there) || !links_from_socket(&name, &path->here))
		return false;
	known = links_find_address(there, nr_there, &path->there);
	if (known)
		path->there = *known;
	if (links_find(here, &path->here, NULL, NULL, &unknown) > 0)
		path->here = here[0];
	path->speed = links_speed(&path->here, &path->there);
	return true;
}

static int choose_links(struct spread *sp, const char *address, const json_t *offer,
			bool restricted)
{
	const struct migr_source_options *o = sp->options;
	/* What is not encrypted goes nowhere that nobody has thought of. */
	const struct links_wanted wanted = {
		.names = o->links, .networks = o->networks, .restricted = restricted,
		.named_only = !sp->tls,
	};
	struct host_address here[ADDRESSES_MAX], there[ADDRESSES_MAX];
	struct host_link path, links[LINKS_MAX];
	int nr_here, nr_there = 0;

	nr_here = links_find(here, NULL, o->links, o->networks, sp->g->error);
	/* Where no choice depends on them, nothing does. */
	if (nr_here < 0 && (o->links || o->networks || restricted))
		return nr_here;
	nr_here = nr_here < 0 ? 0 : nr_here;
	if (offer) {
		nr_there = links_unpack(offer, there);
		if (nr_there < 0)
			return error_set(sp->g->error, -EPROTO,
					 "the destination described its links badly");
	}
	if (control_path(sp, there, nr_there, &path)) {
		sp->nr_links = links_choose(here, nr_here, there, nr_there, &path, &wanted, links);
	} else {
		if (o->links || o->networks || o->max_bandwidth)
			return error_set(sp->g->error, -EINVAL,
					 "links can be chosen, and the bandwidth limited, only where the destination is reached by TCP");
		links[0] = path;
		sp->nr_links = 1;
		sp->address = address;
	}
	if (!sp->nr_links)
		return error_set(sp->g->error, -ENETUNREACH,
				 "this host and the destination share none of the links that may be used");
	if (o->max_bandwidth)
		links_limit(links, sp->nr_links, o->max_bandwidth);
	for (uint32_t i = 0; i < sp->nr_links; i++)
		sp->links[i].link = links[i];
	return 0;
}

static void share(struct spread *sp, uint32_t streams)
{
	struct host_link links[LINKS_MAX];

	for (uint32_t i = 0; i < sp->nr_links; i++)
		links[i] = sp->links[i].link;
	links_share(links, sp->nr_links, streams);
	for (uint32_t i = 0; i < sp->nr_links; i++)
		sp->links[i].link.streams = links[i].streams;
}

int spread_plan(struct spread *sp, const char *address, json_t *ready)
{
	json_t *offer = json_object_get(ready, "links");
	int error;

	error = spread_tokens(sp, ready);
	if (!error && !json_array_size(sp->tokens))
		error = error_set(sp->g->error, -EPROTO, "the destination sent no token");
	if (!error)
		error = choose_links(sp, address, offer,
				     json_is_true(json_object_get(ready, "restricted")));
	if (error)
		return error;
	sp->renewable = offer;
	/* One that gives no more wants a stream for each. */
	share(sp, sp->renewable ? sp->options->streams : json_array_size(sp->tokens));
	return 0;
}

/* ---- tokens ----------------------------------------------------------- */

static uint32_t nr_alive(const struct spread *sp, uint32_t link)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++)
		nr += sp->sockets[i].fd >= 0 && sp->sockets[i].link == link;
	return nr;
}

/* Those that nothing is to take the place of. */
static uint32_t nr_lasting(const struct spread *sp, uint32_t link)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++)
		nr += sp->sockets[i].fd >= 0 && sp->sockets[i].link == link &&
		      !sp->sockets[i].worn;
	return nr;
}

/* Without a stream, and not for the first time unless nothing else carries on meanwhile. */
static bool is_lost(const struct spread *sp, uint32_t link)
{
	return !nr_alive(sp, link) &&
	       sp->links[link].failures > (migration_nr_alive(sp->g) ? 1 : 0);
}

/*
 * How many streams of lost links are to be had by others: those without a share, which
 * there are where streams are fewer than links. Negative: some have one that is given back
 * when the pass is complete.
 */
static int nr_left(const struct spread *sp)
{
	int nr = 0;

	for (uint32_t i = 0; i < sp->nr_links; i++) {
		if (!sp->links[i].link.streams)
			nr -= nr_lasting(sp, i);
		else if (is_lost(sp, i))
			nr += sp->links[i].link.streams;
	}
	return nr;
}

/* How many streams a link lacks. */
static uint32_t nr_missing(const struct spread *sp, uint32_t link)
{
	uint32_t nr = nr_lasting(sp, link), wanted = sp->links[link].link.streams;

	if (!wanted)
		return !nr && nr_left(sp) > 0;
	return nr < wanted ? wanted - nr : 0;
}

static bool has_token(const struct spread *sp)
{
	return sp->next_token < json_array_size(sp->tokens);
}

/* For all streams that there are not. */
static int ask(struct spread *sp)
{
	uint32_t missing = 0;

	for (uint32_t i = 0; i < sp->nr_links; i++)
		missing += nr_missing(sp, i);
	sp->asked = true;
	return control_send(sp->control, json_pack("{s:s, s:I}", "type", "more", "streams",
						   (json_int_t)missing));
}

int spread_tokens(struct spread *sp, json_t *message)
{
	json_t *tokens = json_object_get(message, "tokens"), *token;
	size_t i;

	if (!json_is_array(tokens) || json_array_size(tokens) > MIGR_STREAMS_MAX)
		return error_set(sp->g->error, -EPROTO, "the destination sent bad tokens");
	json_array_foreach(tokens, i, token)
		if (!json_is_string(token))
			return error_set(sp->g->error, -EPROTO, "the destination sent a bad token");
	/* What is left of those before admits nothing any more. */
	sp->next_id += json_array_size(sp->tokens) - sp->next_token;
	sp->next_token = 0;
	json_decref(sp->tokens);
	sp->tokens = json_incref(tokens);
	sp->asked = false;
	/* It has none left, as the stream numbers have an end. */
	if (!json_array_size(tokens))
		sp->renewable = false;
	return 0;
}

/* ---- opening ---------------------------------------------------------- */

/*
 * One that connects and carries nothing holds a pass up each time, until that is
 * noticed. Streams that die together are one failure.
 */
static void put_off(struct spread *sp, uint32_t link)
{
	struct spread_link *l = &sp->links[link];

	if (now_ns() < l->retry_ns)
		return;
	l->retry_ns = now_ns() + (RETRY_MS * NS_PER_MS << l->failures);
	if (l->failures < DOUBLED_MAX)
		l->failures++;
}

static int start(const struct spread *sp, const struct host_link *l)
{
	struct sockaddr_storage to, from;
	const struct sockaddr_in *peer = (const struct sockaddr_in *)&sp->peer;
	socklen_t length;

	/* The name of a peer's UNIX socket is what that calls it. */
	if (sp->address)
		return socket_connect(sp->address, sp->control->cancel_fd,
				      sp->control->timeout_ms, sp->control->error);
	if (!l->bound)
		return socket_start((const struct sockaddr *)&sp->peer, sp->peer_length, NULL,
				    NULL);
	/* The port is at the same place for both families. */
	length = links_to_socket(&l->there, ntohs(peer->sin_port), &to);
	links_to_socket(&l->here, 0, &from);
	return socket_start((const struct sockaddr *)&to, length, (const struct sockaddr *)&from,
			    l->here.name);
}

/* Divide what all may send among those that are alive. No TCP socket refuses it. */
static void pace(const struct spread *sp)
{
	struct host_link links[LINKS_MAX];
	unsigned int alive[LINKS_MAX];
	uint64_t rate;

	if (!sp->options->max_bandwidth)
		return;
	for (uint32_t i = 0; i < sp->nr_links; i++) {
		links[i] = sp->links[i].link;
		alive[i] = nr_alive(sp, i);
	}
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++) {
		if (sp->sockets[i].fd < 0)
			continue;
		rate = links_pace(links, alive, sp->nr_links, sp->sockets[i].link,
				  sp->options->max_bandwidth);
		setsockopt(sp->sockets[i].fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate));
	}
}

/*
 * Whether something has come over a stream since this was last asked: the destination
 * answers to what it was sent of a pass, and to nothing else. What is not TCP does not
 * tell, and is believed.
 */
static bool has_answered(struct spread *sp, uint32_t place)
{
	uint64_t before = sp->sockets[place].answered_bytes;
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	if (getsockopt(sp->sockets[place].fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return true;
	sp->sockets[place].answered_bytes = info.tcpi_bytes_received;
	return info.tcpi_bytes_received > before;
}

/*
 * Present the next token on a new connection, which then is the kernel's alone; its
 * place.
 */
static int admit(struct spread *sp, int fd, uint32_t link, uint32_t timeout_ms)
{
	uint32_t limit = sp->options->timeout_ms, percent = sp->options->compression_percent;
	struct timeval t = { limit / 1000, limit % 1000 * 1000 };
	struct control c = *sp->control;
	struct tls_identity identity;
	json_auto_t *go = NULL;
	const char *token;
	int second = 1, unsent = UNSENT_BYTES, place, error;
	uint64_t deadline = now_ns() + timeout_ms * NS_PER_MS, sent;
	uint32_t id;

	c.fd = fd;
	c.timeout_ms = timeout_ms;
	/* The name of the host is the same over each link. */
	error = sp->tls ? tls_connect(sp->tls, &c, sp->host, &identity) : 0;
	if (error)
		return error;
	/* A name may stand for several hosts; the memory goes to one. */
	if (sp->tls && memcmp(&identity, &sp->identity, sizeof(identity)))
		return error_set(c.error, -EKEYREJECTED,
				 "a stream reached another host than the destination: their certificates differ");
	token = json_string_value(json_array_get(sp->tokens, sp->next_token++));
	id = sp->next_id++;
	sent = now_ns();
	error = control_send(&c, json_pack("{s:s, s:s}", "type", "stream", "token", token));
	if (!error)
		error = control_expect(&c, "go", left_ms(deadline), &go);
	if (!error && now_ns() - sent < sp->answer_ns)
		sp->answer_ns = now_ns() - sent;
	/* Here a pass is always answered in time. */
	if (!error && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) < 0)
		error = error_set(c.error, -errno, "cannot set the stream's time limit");
	if (error)
		return error;
	place = migration_add_stream(sp->g, fd, id, sp->options->copy ? MIGR_STREAM_COPY : 0,
				     sp->compression,
				     percent == MIGR_COMPRESSION_ALWAYS ? 0 : percent);
	if (place < 0)
		return place;
	/* An idle link is to be heard of as often as a busy one; see watch(). */
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &second, sizeof(second));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &second, sizeof(second));
	if (sp->nr_links > 1)
		setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	sp->sockets[place].fd = fd;
	sp->sockets[place].link = link;
	sp->sockets[place].since_ns = now_ns();
	sp->sockets[place].answered_bytes = 0;
	has_answered(sp, place);
	sp->sockets[place].worn = false;
	pace(sp);
	return place;
}

static void say_unreachable(struct spread *sp, uint32_t link, int error)
{
	const struct host_link *l = &sp->links[link].link;
	char to[INET6_ADDRSTRLEN];

	/* socket_connect() has said it. */
	if (sp->address)
		return;
	inet_ntop(l->there.family, l->there.bytes, to, sizeof(to));
	error_set(sp->control->error, error, "cannot connect a stream to %s%s%s: %s", to,
		  *l->here.name ? " over " : "", l->here.name, strerror(-error));
}

static int open_one(struct spread *sp, uint32_t link)
{
	struct control *control = sp->control;
	uint32_t limit = control->timeout_ms, greeting = limit;
	int fd, error;

	/* The first is known to work, and may be slow. */
	if (link || migration_nr_alive(sp->g)) {
		limit = limit < CONNECT_MS ? limit : CONNECT_MS;
		greeting = greeting < HANDSHAKE_MS ? greeting : HANDSHAKE_MS;
	}
	fd = start(sp, &sp->links[link].link);
	error = fd < 0 ? fd : 0;
	if (!error)
		error = socket_wait(fd, POLLOUT, control->cancel_fd, now_ns() + limit * NS_PER_MS);
	if (!error)
		error = socket_finish(fd, sp->options->timeout_ms);
	if (error == -ECANCELED)
		error_set(control->error, error, "cancelled");
	else if (error)
		say_unreachable(sp, link, error);
	else
		error = admit(sp, fd, link, greeting);
	if (error < 0 && fd >= 0)
		close(fd);
	return error < 0 ? error : 0;
}

static int renew(struct spread *sp)
{
	json_auto_t *message = NULL;
	int error = sp->asked ? 0 : ask(sp);

	if (!error)
		error = control_expect(sp->control, "tokens", sp->control->timeout_ms, &message);
	return error ? error : spread_tokens(sp, message);
}

/*
 * A link that fails takes none of the others along, as long as there is a stream. If
 * there is none, links that were to have none are tried in the end.
 */
int spread_open(struct spread *sp)
{
	int error = 0, last = 0;

	for (uint32_t n = 0; n < 2 * sp->nr_links; n++, error = 0) {
		uint32_t i = n % sp->nr_links;

		if (n >= sp->nr_links && sp->links[i].link.streams)
			continue;
		/* Nobody has asked for more: they can wait until the passes have begun. */
		if (!sp->options->links && !sp->options->networks && migration_nr_alive(sp->g))
			break;
		while (!error && nr_missing(sp, i)) {
			if (has_token(sp)) {
				error = open_one(sp, i);
				continue;
			}
			if (!sp->renewable)
				break;
			error = renew(sp);
			if (error)
				return error;
		}
		if (error == -ECANCELED)
			return error;
		if (error) {
			last = error;
			put_off(sp, i);
		}
	}
	return migration_nr_alive(sp->g) ? 0 : last;
}

uint32_t spread_nr_links(const struct spread *sp)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < sp->nr_links; i++)
		nr += nr_alive(sp, i) > 0;
	return nr;
}

/* ---- while it runs ---------------------------------------------------- */

/* What its run has ended with an error is of no more use. */
static void reap(struct spread *sp)
{
	bool died = false;

	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++) {
		if (sp->sockets[i].fd < 0 || sp->g->streams[i].fd >= 0)
			continue;
		close(sp->sockets[i].fd);
		sp->sockets[i].fd = -1;
		if (!sp->sockets[i].worn)
			put_off(sp, sp->sockets[i].link);
		died = true;
	}
	if (died)
		pace(sp);
}

/* For how long nothing has come from the peer, which owes us something. */
static uint32_t silence_ms(int fd, bool *owes)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	*owes = false;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return 0;
	/* One that takes nothing more still answers when asked. */
	*owes = info.tcpi_unacked || info.tcpi_probes > 1;
	return info.tcpi_last_ack_recv;
}

/* Since when the destination has been heard over another link; UINT32_MAX: never. */
static uint32_t others_silence_ms(const struct spread *sp, uint32_t link)
{
	uint32_t least = UINT32_MAX, ms;
	bool owes;

	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++) {
		if (sp->sockets[i].fd < 0 || sp->sockets[i].link == link)
			continue;
		ms = silence_ms(sp->sockets[i].fd, &owes);
		if (ms < least)
			least = ms;
	}
	return least;
}

static bool has_room(const struct spread *sp)
{
	return migration_nr_alive(sp->g) < MIGR_STREAMS_MAX;
}

/*
 * The kernel ends a stream whose key has encrypted all that is safe. Cut it before,
 * once another is there, or has to have its place: one at a time, as what it has not
 * seen acknowledged is sent again.
 */
static void replace_worn(struct spread *sp)
{
	bool cut = false;

	if (!sp->tls)
		return;
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++) {
		if (sp->sockets[i].fd < 0)
			continue;
		if (tls_records(sp->sockets[i].fd) >= sp->records_max)
			sp->sockets[i].worn = true;
		if (!sp->sockets[i].worn || cut ||
		    (nr_missing(sp, sp->sockets[i].link) && has_room(sp)))
			continue;
		migration_cut_stream(sp->g, i);
		cut = true;
	}
}

/*
 * Cut the streams of a link that is silent while others are not. A migration with
 * one link has all of its time limit to wait for that; here each pass would wait
 * for the slowest to be given up.
 */
static void watch(struct spread *sp, bool reopen)
{
	uint32_t silent, others, limit = sp->options->timeout_ms / 6;
	bool owes;

	if (now_ns() - sp->watched_ns < WATCH_MS * NS_PER_MS)
		return;
	sp->watched_ns = now_ns();
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++) {
		struct host_link *l = &sp->links[sp->sockets[i].link].link;

		if (sp->sockets[i].fd < 0)
			continue;
		silent = silence_ms(sp->sockets[i].fd, &owes);
		others = others_silence_ms(sp, sp->sockets[i].link);
		if (!owes || silent < CARRIER_MS || silent - CARRIER_MS < others)
			continue;
		if (silent - others >= (limit > CARRIER_MS ? limit : CARRIER_MS) ||
		    (l->here.name[0] && !links_is_running(l->here.name)))
			migration_cut_stream(sp->g, i);
	}
	if (reopen)
		replace_worn(sp);
}

/* Until the link is tried again. */
static void stop_opening(struct spread *sp)
{
	if (sp->opening_fd >= 0)
		close(sp->opening_fd);
	sp->opening_fd = -1;
	put_off(sp, sp->opening_link);
}

/* The connection is there, or never will be. */
static void finish_opening(struct spread *sp)
{
	int place = socket_finish(sp->opening_fd, sp->options->timeout_ms);

	if (!place)
		place = admit(sp, sp->opening_fd, sp->opening_link,
			      sp->tls ? ADMIT_TLS_MS : ADMIT_MS);
	if (place < 0) {
		stop_opening(sp);
		return;
	}
	sp->opening_fd = -1;
	/* That nobody can run it now is no trouble for the others; see reap(). */
	if (migration_start(sp->g) && !sp->g->streams[place].running)
		migration_drop_stream(sp->g, place);
}

/* Begin with the next link that has less than its share, in turn. */
static int begin_opening(struct spread *sp)
{
	for (uint32_t n = 1; n <= sp->nr_links && has_room(sp); n++) {
		uint32_t i = (sp->opening_link + n) % sp->nr_links;

		if (!nr_missing(sp, i) || now_ns() < sp->links[i].retry_ns)
			continue;
		if (!has_token(sp))
			return sp->asked ? 0 : ask(sp);
		sp->opening_link = i;
		sp->opening_fd = start(sp, &sp->links[i].link);
		sp->opening_deadline_ns = now_ns() + CONNECT_MS * NS_PER_MS;
		if (sp->opening_fd >= 0)
			return 0;
		stop_opening(sp);
	}
	return 0;
}

int spread_tend(struct spread *sp, bool reopen)
{
	struct pollfd p = { .fd = sp->opening_fd, .events = POLLOUT };

	reopen = reopen && sp->renewable;
	reap(sp);
	watch(sp, reopen);
	if (!reopen)
		return 0;
	if (p.fd < 0)
		return begin_opening(sp);
	if (poll(&p, 1, 0) > 0)
		finish_opening(sp);
	else if (now_ns() >= sp->opening_deadline_ns)
		stop_opening(sp);
	return 0;
}

/*
 * What links without a share had is needed no more when those with one work again. In a
 * pass all that such a stream has sent in it would have to be sent again.
 */
static void give_back(struct spread *sp)
{
	for (uint32_t i = 0; i < sp->nr_links; i++)
		if (sp->links[i].link.streams &&
		    (sp->links[i].failures || nr_alive(sp, i) < sp->links[i].link.streams))
			return;
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++)
		if (sp->sockets[i].fd >= 0 && !sp->links[sp->sockets[i].link].link.streams) {
			sp->sockets[i].worn = true;
			migration_drop_stream(sp->g, i);
		}
}

void spread_passed(struct spread *sp, uint64_t begun_ns)
{
	for (uint32_t i = 0; i < MIGR_STREAMS_MAX; i++)
		if (sp->sockets[i].fd >= 0 && sp->g->streams[i].fd >= 0 && has_answered(sp, i) &&
		    sp->sockets[i].since_ns < begun_ns)
			sp->links[sp->sockets[i].link].failures = 0;
	give_back(sp);
}

int spread_settle(struct spread *sp)
{
	if (sp->opening_fd >= 0)
		stop_opening(sp);
	return sp->asked ? renew(sp) : 0;
}
