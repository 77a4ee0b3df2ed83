// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The destination of a migration: listening, preparing the VM, receiving, and
 * resuming on COMMIT alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

#define POLL_MS		200
/* For the source to say why a stream broke. */
#define REASON_MS	1000
#define TOKEN_BYTES	16
/* Before another try to accept what could not be. */
#define LATER_MS	500
/* The least that the source may be silent, whatever the time limit. */
#define SILENCE_MS	30000ull

struct migr_destination {
	struct error error;
	struct migration migration;
	struct control control;
	struct newcomers newcomers;
	struct tls_identity identity;	/* of the source, with tls */
	int listen_fd;
	uint64_t accept_ns;		/* no earlier than this again */
	int cancel_fd;
	atomic_int state;		/* enum run_state */
	const char *kind;		/* what it listens on, if not TCP */
	char path[108];			/* of a UNIX listener, to take it away */

	const struct migr_destination_ops *ops;
	void *data;
	uint32_t timeout_ms;
	const char *networks;
	struct migr_result *result;
	struct migr_progress progress;
	struct migr_request request;
	uint64_t begun_ns;
	char tokens[MIGR_STREAMS_MAX][2 * TOKEN_BYTES + 1];	/* "": used */
	uint32_t nr_tokens;
	uint32_t first_id;		/* of the stream that the first of them admits */
	uint32_t compression;		/* chosen from what the source offered */
	bool prepare_called;
	json_t *pending;		/* a message that came before its time */
	uint64_t chunk_left;		/* of the device state */
	bool state_ended;
};

int migr_destination_new(struct migr *m, struct migr_destination **destination)
{
	struct migr_destination *d = calloc(1, sizeof(*d));
	int error;

	*destination = NULL;
	if (!d)
		return error_set(&m->error, -ENOMEM, "no memory");
	d->listen_fd = -1;
	d->control.fd = -1;
	d->control.peer = "source";
	d->control.error = &d->error;
	d->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = d->cancel_fd < 0 ? -errno : migration_init(&d->migration, m, &d->error);
	if (error) {
		if (d->cancel_fd >= 0)
			close(d->cancel_fd);
		free(d);
		return error_set(&m->error, error, "cannot make an eventfd: %s", strerror(-error));
	}
	*destination = d;
	return 0;
}

void migr_destination_free(struct migr_destination *d)
{
	if (!d)
		return;
	migration_destroy(&d->migration);
	if (d->listen_fd >= 0)
		close(d->listen_fd);
	if (d->path[0])
		unlink(d->path);
	close(d->cancel_fd);
	free(d);
}

const char *migr_destination_error(const struct migr_destination *d)
{
	return d->error.text;
}

int migr_destination_fail(struct migr_destination *d, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	error_vset(&d->error, error, format, args);
	va_end(args);
	return error;
}

int migr_destination_listen(struct migr_destination *d, const char *address)
{
	int fd;

	if (d->listen_fd >= 0)
		return error_set(&d->error, -EBUSY, "it listens already");
	fd = socket_listen(address, &d->error);
	if (fd < 0)
		return fd;
	d->listen_fd = fd;
	d->kind = socket_kind(address);
	if (!strncmp(address, "unix:", 5))
		snprintf(d->path, sizeof(d->path), "%s", address + 5);
	return 0;
}

int migr_destination_add_region(struct migr_destination *d, int region, uint32_t id)
{
	for (uint32_t i = 0; i < d->request.nr_regions; i++)
		if (d->request.regions[i].id == id)
			return migration_add_region(&d->migration, region, id,
						    d->request.regions[i].name);
	return error_set(&d->error, -EINVAL, "the source has no region %u", id);
}

void migr_destination_cancel(struct migr_destination *d)
{
	run_cancel(&d->state, d->cancel_fd);
}

static int report(struct migr_destination *d)
{
	struct migr_progress *p = &d->progress;

	if (!d->ops->progress)
		return 0;
	p->elapsed_ns = now_ns() - d->begun_ns;
	p->streams = migration_nr_alive(&d->migration);
	p->bytes_per_second = p->status.pass_ns ?
		p->status.pass_wire_bytes * (double)NS_PER_S / p->status.pass_ns : 0;
	return d->ops->progress(d, d->data, p);
}

static void phase(struct migr_destination *d, enum migr_phase phase)
{
	d->progress.phase = phase;
	report(d);
}

/* How long the source may say nothing; its signs of life keep no time limit of ours. */
static uint64_t silence_ms(const struct migr_destination *d)
{
	uint64_t twice = 2ull * d->timeout_ms;

	return twice > SILENCE_MS ? twice : SILENCE_MS;
}

/* ---- connections ------------------------------------------------------ */

/* Why accept() brought nothing, and what to do about it. */
enum accept_failure {
	ACCEPT_NEXT,	/* a connection that went away again, or its network */
	ACCEPT_LATER,	/* the connection waits until we have room for it */
	ACCEPT_NEVER,
};

static enum accept_failure accept_failure(int error)
{
	switch (error) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
	case EPERM:
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENOPROTOOPT:
	case EOPNOTSUPP:
	case ENONET:
		return ACCEPT_NEXT;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		return ACCEPT_LATER;
	default:
		return ACCEPT_NEVER;
	}
}

/* ---- the request ------------------------------------------------------ */

static int answer_hello(struct migr_destination *d, json_t *hello)
{
	const struct migr_info *info = &d->migration.m->info;
	json_int_t version, wire;
	int error;

	error = control_unpack(&d->control, hello, "{s:I, s:I}", "version", &version,
			       "wire_version", &wire);
	if (error)
		return error;
	/* The source decides: an older one can move to a newer destination. */
	if (version > CONTROL_VERSION || wire > info->wire_version)
		return error_set(&d->error, -EPROTONOSUPPORT,
				 "the source is newer: it speaks control version %lld and wire version %lld, this side %d and %u",
				 (long long)version, (long long)wire, CONTROL_VERSION,
				 info->wire_version);
	return control_send(&d->control, json_pack("{s:s, s:i, s:I}", "type", "hello", "version",
						   CONTROL_VERSION, "wire_version",
						   (json_int_t)info->wire_version));
}

static int read_region(struct migr_destination *d, json_t *item, struct migr_request_region *r)
{
	const uint64_t page = d->migration.m->info.page_size;
	json_int_t id, length;
	const char *name;

	if (json_unpack(item, "{s:I, s:s, s:I}", "id", &id, "name", &name, "length", &length))
		return error_set(&d->error, -EPROTO, "the source described a region badly");
	if (id < 0 || id >= MIGR_REGIONS_MAX || strlen(name) >= sizeof(r->name) || length <= 0 ||
	    length % page || (uint64_t)length > d->migration.m->info.region_max)
		return error_set(&d->error, -EPROTO,
				 "the source has an impossible region: number %lld, %lld bytes",
				 (long long)id, (long long)length);
	r->id = id;
	r->length = length;
	strcpy(r->name, name);
	control_clean(r->name);
	return 0;
}

/* The first that this kernel has, too; it is not asked for nothing. */
static uint32_t choose_compression(const struct migr_destination *d, const json_t *offered)
{
	uint32_t has, c;
	const json_t *item;
	size_t i;

	if (!json_array_size(offered))
		return MIGR_COMPRESSION_NONE;
	has = migration_compressions(&d->migration);
	json_array_foreach(offered, i, item) {
		c = compression_find(json_string_value(item));
		if (c && has >> c & 1)
			return c;
	}
	return MIGR_COMPRESSION_NONE;
}

/*
 * Tokens for so many more streams; those of before, if there are any left, are good
 * for nothing any more.
 */
static int make_tokens(struct migr_destination *d, json_int_t streams)
{
	uint8_t bytes[TOKEN_BYTES];

	if (streams < 1 || streams > MIGR_STREAMS_MAX)
		return error_set(&d->error, -EPROTO, "the source wants %lld streams, not 1 to %u",
				 (long long)streams, MIGR_STREAMS_MAX);
	d->first_id += d->nr_tokens;
	d->nr_tokens = streams;
	if (d->nr_tokens > MIGR_STREAM_IDS - d->first_id)
		d->nr_tokens = MIGR_STREAM_IDS - d->first_id;
	for (uint32_t n = 0; n < d->nr_tokens; n++) {
		if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
			return error_set(&d->error, -EIO, "no random bytes for a token");
		for (size_t i = 0; i < sizeof(bytes); i++)
			sprintf(d->tokens[n] + 2 * i, "%02x", bytes[i]);
	}
	return 0;
}

static int read_request(struct migr_destination *d)
{
	const uint32_t page = d->migration.m->info.page_size;
	struct migr_request *q = &d->request;
	json_auto_t *message = NULL;
	json_t *regions, *item, *offered = NULL;
	json_int_t page_size, streams = 1;
	const char *vm;
	size_t i;
	int error;

	error = control_expect(&d->control, "request", d->timeout_ms, &message);
	if (!error)
		error = control_unpack(&d->control, message, "{s:s, s:I, s?I, s?o, s:o}", "vm", &vm,
				       "page_size", &page_size, "streams", &streams,
				       "compressions", &offered, "regions", &regions);
	if (error)
		return error;
	if (page_size != page)
		return error_set(&d->error, -EPROTONOSUPPORT,
				 "the source has pages of %lld bytes, this side of %u",
				 (long long)page_size, page);
	error = make_tokens(d, streams);
	if (error)
		return error;
	if (strlen(vm) >= sizeof(q->vm_name) || !json_array_size(regions) ||
	    json_array_size(regions) > MIGR_REGIONS_MAX)
		return error_set(&d->error, -EPROTO,
				 "the source sent a bad request: 1 to %u regions and a short name are due",
				 MIGR_REGIONS_MAX);
	strcpy(q->vm_name, vm);
	control_clean(q->vm_name);
	json_array_foreach(regions, i, item) {
		error = read_region(d, item, &q->regions[i]);
		if (error)
			return error;
	}
	q->nr_regions = json_array_size(regions);
	d->compression = choose_compression(d, offered);
	d->result->compression = d->compression;
	return 0;
}

static int check_regions(struct migr_destination *d)
{
	struct migr_request_region *q;
	struct migration_region *r;

	for (uint32_t i = 0; i < d->request.nr_regions; i++) {
		q = &d->request.regions[i];
		r = migration_region(&d->migration, q->id);
		if (!r)
			return error_set(&d->error, -EINVAL, "region %u '%s': this side has none",
					 q->id, q->name);
		if (r->length != q->length)
			return error_set(&d->error, -EINVAL,
					 "region %u '%s': the source has %.6g MiB, this side %.6g MiB",
					 q->id, q->name, q->length / 1048576.0,
					 r->length / 1048576.0);
	}
	return 0;
}

static json_t *pack_tokens(const struct migr_destination *d)
{
	json_t *tokens = json_array();

	for (uint32_t n = 0; n < d->nr_tokens; n++)
		json_array_append_new(tokens, json_string(d->tokens[n]));
	return tokens;
}

/* Where the source may have its streams connect: where we listen. No port is 0. */
static int find_links(struct migr_destination *d, struct host_address found[ADDRESSES_MAX],
		      uint16_t *port)
{
	static const uint8_t any[sizeof(found->bytes)];
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	struct host_address listens;
	bool all;
	int nr;

	if (getsockname(d->listen_fd, (struct sockaddr *)&name, &length) < 0 ||
	    !links_from_socket(&name, &listens))
		return 0;
	/* It is at the same place for both families. */
	*port = ntohs(((struct sockaddr_in *)&name)->sin_port);
	if (!memcmp(listens.bytes, any, sizeof(any)))
		listens.prefix = 0;
	/* IPv6's wildcard takes both. */
	all = listens.family == AF_INET6 && !listens.prefix;
	nr = links_find(found, all ? NULL : &listens, NULL, d->networks, &d->error);
	/* Whoever does not restrict them needs none. */
	return nr < 0 && !d->networks ? 0 : nr;
}

/* The first token alone, too, for a source that knows of one stream only. */
static int send_ready(struct migr_destination *d)
{
	struct host_address found[ADDRESSES_MAX];
	uint16_t port = 0;
	int nr = find_links(d, found, &port);

	if (nr < 0)
		return nr;
	return control_send(&d->control, json_pack("{s:s, s:s, s:s*, s:o, s:o, s:o*, s:b}", "type",
						   "ready", "token", d->tokens[0], "compression",
						   d->compression ?
						   migr_compression_name(d->compression) : NULL,
						   "tokens", pack_tokens(d), "links",
						   links_pack(found, nr), "port",
						   port ? json_integer(port) : NULL,
						   "restricted", !!d->networks));
}

/* The source opens a stream anew, or more of them. */
static int answer_more(struct migr_destination *d, json_t *message)
{
	json_int_t streams;
	int error;

	error = control_unpack(&d->control, message, "{s:I}", "streams", &streams);
	if (!error)
		error = make_tokens(d, streams);
	if (error)
		return error;
	return control_send(&d->control, json_pack("{s:s, s:o}", "type", "tokens", "tokens",
						   pack_tokens(d)));
}

/* ---- newcomers -------------------------------------------------------- */

/* What the source says during the passes, if it belongs there. */
static int take_message(struct migr_destination *d)
{
	const char *type = control_type(d->pending);
	int error = 0;

	if (!strcmp(type, "more"))
		error = answer_more(d, d->pending);
	else if (strcmp(type, "progress"))
		return 0;
	json_decref(d->pending);
	d->pending = NULL;
	return error;
}

/* Before the passes it has little to say. */
static int hear_source(struct migr_destination *d)
{
	int error = control_receive(&d->control, d->timeout_ms, &d->pending);

	if (!error)
		error = take_message(d);
	if (!error && d->pending)
		error = error_set(&d->error, -EPROTO, "the source sent a message that was not due");
	return error;
}

/* For poll(): that somebody comes, and that one who has says what for. */
static void watch_newcomers(const struct migr_destination *d, struct pollfd p[2])
{
	p[0] = (struct pollfd){ .events = POLLIN };
	p[0].fd = now_ns() < d->accept_ns ? -1 : d->listen_fd;
	p[1] = (struct pollfd){ .fd = d->newcomers.ready_fd, .events = POLLIN };
}

static int accept_newcomer(struct migr_destination *d)
{
	int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd >= 0) {
		if (socket_options(fd, d->timeout_ms))
			close(fd);
		else
			newcomers_greet(&d->newcomers, fd, d->timeout_ms);
		return 0;
	}
	switch (accept_failure(errno)) {
	case ACCEPT_NEXT:
		return 0;
	case ACCEPT_LATER:
		/* It would be there again at once. */
		d->accept_ns = now_ns() + LATER_MS * NS_PER_MS;
		return 0;
	default:
		d->accept_ns = UINT64_MAX;
		return error_set(&d->error, -errno, "cannot accept a connection: %s",
				 strerror(errno));
	}
}

/* Have the VMM tell of those whom it should know about: not of everyone who knocks. */
static void tell_of_refusal(struct migr_destination *d, const struct newcomer *n)
{
	if (!d->ops->refused || n->failed == -ECONNRESET || n->failed == -ETIMEDOUT ||
	    n->failed == -ECANCELED)
		return;
	d->ops->refused(d, d->data, n->from, n->error.text);
}

/* The next who has said what it wants. */
static bool next_newcomer(struct migr_destination *d, struct newcomer *n)
{
	while (newcomers_next(&d->newcomers, n)) {
		n->control.error = &n->error;
		if (!n->failed)
			return true;
		tell_of_refusal(d, n);
		newcomer_close(n);
	}
	return false;
}

/* The same, waited for, which the source may end; 0 for deadline_ns: for ever. */
static int await_newcomer(struct migr_destination *d, uint64_t deadline_ns, struct newcomer *n)
{
	struct pollfd p[4];
	int nr, error = 0;

	while (!next_newcomer(d, n)) {
		if (deadline_ns && now_ns() >= deadline_ns)
			return error_set(&d->error, -ETIMEDOUT, "no connection came: %s",
					 strerror(ETIMEDOUT));
		watch_newcomers(d, p);
		p[2] = (struct pollfd){ .fd = d->cancel_fd, .events = POLLIN };
		p[3] = (struct pollfd){ .fd = d->control.fd, .events = POLLIN };
		nr = poll(p, 4, POLL_MS);
		if (nr < 0 && errno != EINTR)
			return error_set(&d->error, -errno, "poll failed: %s", strerror(errno));
		if (nr > 0 && p[2].revents)
			return error_set(&d->error, -ECANCELED, "cancelled");
		if (nr > 0 && p[0].revents)
			error = accept_newcomer(d);
		if (!error && nr > 0 && p[3].revents)
			error = hear_source(d);
		if (error)
			return error;
	}
	return 0;
}

static void send_away(struct newcomer *n, const char *why)
{
	control_send_error(&n->control, why);
	newcomer_close(n);
}

/* In constant time: without tls a token is all that admits a stream. */
static bool token_is(const char *due, const char *token)
{
	unsigned char differ = 0;

	for (size_t i = 0; i < 2 * TOKEN_BYTES; i++)
		differ |= token[i] ^ due[i];
	return !differ;
}

/*
 * Which of the tokens a message presents, and uses up; -1: none. They are for whom
 * they were given to.
 */
static int use_token(struct migr_destination *d, const struct newcomer *from)
{
	const char *token = json_string_value(json_object_get(from->message, "token"));

	if (strcmp(control_type(from->message), "stream") || !token ||
	    strlen(token) != 2 * TOKEN_BYTES ||
	    memcmp(&from->identity, &d->identity, sizeof(d->identity)))
		return -1;
	for (uint32_t n = 0; n < d->nr_tokens; n++)
		if (token_is(d->tokens[n], token)) {
			d->tokens[n][0] = '\0';
			return n;
		}
	return -1;
}

/* Whether it came over one of the networks that are for that. */
static bool network_is_allowed(const struct migr_destination *d, int fd)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	struct host_address a;

	return !d->networks || (!getsockname(fd, (struct sockaddr *)&name, &length) &&
				links_from_socket(&name, &a) &&
				links_filter(&a, 1, NULL, d->networks));
}

/* One more stream; an error if it cannot be. */
static int take_stream(struct migr_destination *d, const struct control *c, int token)
{
	struct control stream = *c;
	int place, error;

	place = migration_add_stream(&d->migration, c->fd, d->first_id + token, 0, d->compression,
				     0);
	if (place < 0)
		return place;
	stream.error = &d->error;
	error = control_send(&stream, json_pack("{s:s}", "type", "go"));
	if (!error)
		error = migration_start(&d->migration);
	if (error && !d->migration.streams[place].running)
		migration_drop_stream(&d->migration, place);
	return error;
}

/* Who has said what it wants is one more stream, or is sent away. */
static void meet_newcomer(struct migr_destination *d, struct newcomer *n)
{
	int token = use_token(d, n);

	if (token < 0)
		send_away(n, "busy: another migration is arriving here");
	else if (!network_is_allowed(d, n->control.fd))
		send_away(n, "streams may not come over this network");
	else if (take_stream(d, &n->control, token))
		send_away(n, d->error.text);
	else
		newcomer_close(n);
}

/* Wait for the first stream. */
static int accept_stream(struct migr_destination *d)
{
	uint64_t deadline = now_ns() + silence_ms(d) * NS_PER_MS;
	struct newcomer n;
	int error;

	do {
		error = await_newcomer(d, deadline, &n);
		if (error)
			return error;
		meet_newcomer(d, &n);
	} while (!migration_nr_alive(&d->migration));
	return 0;
}

static int set_up(struct migr_destination *d, json_t *hello)
{
	int error;

	phase(d, MIGR_PHASE_PREPARE);
	error = answer_hello(d, hello);
	if (!error)
		error = read_request(d);
	if (error)
		return error;
	d->result->page_size = d->migration.m->info.page_size;
	socket_peer(d->control.fd, d->request.peer, sizeof(d->request.peer));
	error_set(&d->error, 0, "the VMM could not be prepared");
	d->prepare_called = true;
	error = d->ops->prepare(d, d->data, &d->request);
	if (error < 0)
		return error;
	error = check_regions(d);
	if (error)
		return error;
	d->result->ram_bytes = migration_ram_bytes(&d->migration);
	error = migration_create(&d->migration, MIGR_ROLE_DESTINATION, 0);
	if (!error)
		error = send_ready(d);
	/* The others come while it already receives. */
	return error ? error : accept_stream(d);
}

/* ---- passes ----------------------------------------------------------- */

/* The next message that is not a mere sign of life. */
static int next_message(struct migr_destination *d, json_t **message)
{
	int error;

	do {
		*message = d->pending;
		d->pending = NULL;
		error = *message ? 0 : control_receive(&d->control, silence_ms(d), message);
		if (error)
			return error;
		if (strcmp(control_type(*message), "progress"))
			return 0;
		json_decref(*message);
	} while (true);
}

/* The stream broke; the source may say why. */
static int better_reason(struct migr_destination *d, int error)
{
	struct error ours = d->error;
	json_t *message;
	int theirs;

	/* Our failure: the source shall hear of it at once. */
	if (error != -ECONNRESET && error != -ETIMEDOUT)
		return error;
	theirs = control_receive(&d->control, REASON_MS, &message);
	json_decref(message);
	if (theirs == -EREMOTEIO || theirs == -ECANCELED)
		return theirs;
	d->error = ours;
	return error;
}

/* What fails here is not the migration. */
static void tend_newcomers(struct migr_destination *d, const struct pollfd p[2])
{
	struct error saved = d->error;
	struct newcomer n;

	while (p[1].revents && next_newcomer(d, &n))
		meet_newcomer(d, &n);
	if (p[0].revents)
		accept_newcomer(d);
	d->error = saved;
}

/* Until the stream has brought the last pass. */
static int receive_passes(struct migr_destination *d)
{
	struct migration *g = &d->migration;
	struct pollfd p[5] = {
		{ .fd = g->done_fd, .events = POLLIN },
		{ .fd = d->cancel_fd, .events = POLLIN },
		{ .fd = d->control.fd, .events = POLLIN },
	};
	uint64_t heard = now_ns();
	bool over;
	int n, error;

	phase(d, MIGR_PHASE_PASSES);
	for (;;) {
		watch_newcomers(d, p + 3);
		n = poll(p, 5, POLL_MS);
		if (n < 0 && errno != EINTR)
			return error_set(&d->error, -errno, "poll failed: %s", strerror(errno));
		if (n > 0 && p[1].revents)
			return error_set(&d->error, -ECANCELED, "cancelled");
		if (n > 0 && p[0].revents) {
			error = migration_join(g, true, &over);
			/* All is there once one was told so: the rest may be stuck. */
			if (over) {
				migration_stop(g);
				return error ? better_reason(d, error) : 0;
			}
		}
		if (n > 0 && p[2].revents) {
			error = control_receive(&d->control, d->timeout_ms, &d->pending);
			if (error)
				return error;
			heard = now_ns();
			error = take_message(d);
			if (error)
				return error;
			/* What follows the passes may overtake the end of our run. */
			if (d->pending)
				p[2].fd = -1;
		}
		if (n > 0 && (p[3].revents || p[4].revents))
			tend_newcomers(d, p + 3);
		if (now_ns() - heard > silence_ms(d) * NS_PER_MS)
			return error_set(&d->error, -ETIMEDOUT, "no word from the source in time");
		error = migration_status(g, &d->progress.status);
		if (!error)
			error = report(d);
		if (error < 0)
			return error;
	}
}

/* ---- the pause -------------------------------------------------------- */

static int answer_verify(struct migr_destination *d)
{
	char hex[MIGR_DIGEST_HEX];
	uint64_t begun = now_ns();
	int error;

	phase(d, MIGR_PHASE_VERIFY);
	error = migration_digest(&d->migration, &d->control, &d->result->destination_digest);
	if (error)
		return error;
	d->result->verify_ns = now_ns() - begun;
	migr_digest_hex(&d->result->destination_digest, hex);
	return control_send(&d->control, json_pack("{s:s, s:s}", "type", "digest", "digest", hex));
}

/* Open the next chunk of the device state, or find its end. */
static int next_chunk(struct migr_destination *d)
{
	json_auto_t *message = NULL;
	json_int_t bytes;
	int error;

	error = next_message(d, &message);
	if (error)
		return error;
	if (!strcmp(control_type(message), "state-end")) {
		d->state_ended = true;
		return 0;
	}
	if (strcmp(control_type(message), "state"))
		return error_set(&d->error, -EPROTO, "the source sent something else within the device state");
	error = control_unpack(&d->control, message, "{s:I}", "bytes", &bytes);
	if (error)
		return error;
	if (bytes <= 0 || bytes > CONTROL_MESSAGE_MAX)
		return error_set(&d->error, -EPROTO, "the source sent a piece of device state of %lld bytes",
				 (long long)bytes);
	d->chunk_left = bytes;
	return 0;
}

ssize_t migr_destination_read_state(struct migr_destination *d, void *bytes, size_t max)
{
	int error;

	if (!d->chunk_left && !d->state_ended) {
		error = next_chunk(d);
		if (error)
			return error;
	}
	if (max > d->chunk_left)
		max = d->chunk_left;
	if (!max)
		return 0;
	error = control_read(&d->control, bytes, max, now_ns() + d->timeout_ms * NS_PER_MS);
	if (error)
		return error;
	d->chunk_left -= max;
	d->result->state_bytes += max;
	return max;
}

static int load_state(struct migr_destination *d)
{
	int error;

	phase(d, MIGR_PHASE_STATE);
	error_set(&d->error, 0, "the VMM could not load the device state");
	error = d->ops->load(d, d->data);
	if (error < 0)
		return error;
	if (!d->state_ended)
		return error_set(&d->error, -EIO, "the VMM did not take all of the device state");
	return control_send(&d->control, json_pack("{s:s}", "type", "loaded"));
}

static int wait_commit(struct migr_destination *d)
{
	json_auto_t *message = NULL;
	int going = RUN_GOING;
	int error;

	error = control_expect(&d->control, "commit", d->timeout_ms, &message);
	if (error)
		return error;
	if (!atomic_compare_exchange_strong(&d->state, &going, RUN_COMMITTED))
		return error_set(&d->error, -ECANCELED, "cancelled");
	d->control.cancel_fd = -1;
	return 0;
}

/* From COMMIT on the VM is ours. */
static int resume(struct migr_destination *d)
{
	int error;

	phase(d, MIGR_PHASE_COMMIT);
	d->result->outcome = MIGR_OUTCOME_STUCK;
	error_set(&d->error, 0, "the VMM could not resume it");
	error = d->ops->resume(d, d->data);
	if (error < 0) {
		control_send_error(&d->control, d->error.text);
		return error;
	}
	d->result->outcome = MIGR_OUTCOME_MOVED;
	/* If the source does not hear of it, it stays paused; the VM runs here. */
	control_send(&d->control, json_pack("{s:s}", "type", "resumed"));
	return 0;
}

static int receive(struct migr_destination *d, json_t *hello)
{
	json_t *message;
	int error;

	error = set_up(d, hello);
	if (!error)
		error = receive_passes(d);
	if (!error)
		error = migration_status(&d->migration, &d->progress.status);
	if (error)
		return error;
	d->result->send_ns = d->progress.status.total_ns;

	error = next_message(d, &message);
	if (error)
		return error;
	if (!strcmp(control_type(message), "verify")) {
		json_decref(message);
		error = answer_verify(d);
	} else {
		d->pending = message;
	}
	if (!error)
		error = load_state(d);
	if (!error)
		error = wait_commit(d);
	return error ? error : resume(d);
}

/* It failed before COMMIT: tell the source, and throw the VM away. */
static void give_up(struct migr_destination *d)
{
	struct error why = d->error;

	control_send_error(&d->control, why.text);
	shutdown(d->control.fd, SHUT_WR);
	migration_stop(&d->migration);
	if (d->prepare_called)
		d->ops->abort(d, d->data);
	control_goodbye(&d->control, FAREWELL_MS);
	d->error = why;
}

/* One source that connected, from its hello to the end. */
static int serve(struct migr_destination *d, json_t *hello)
{
	int error;

	d->begun_ns = now_ns();
	error = receive(d, hello);
	if (error && d->result->outcome == MIGR_OUTCOME_HERE)
		give_up(d);
	d->result->total_ns = now_ns() - d->begun_ns;
	d->result->status = d->progress.status;
	if (!error) {
		/* What had been prepared in case it failed. */
		error_set(&d->error, 0, "%s", "");
		phase(d, MIGR_PHASE_DONE);
	}
	return error;
}

static void reset(struct migr_destination *d)
{
	eventfd_t value;

	migration_reset(&d->migration);
	memset(&d->progress, 0, sizeof(d->progress));
	memset(&d->request, 0, sizeof(d->request));
	json_decref(d->pending);
	d->pending = NULL;
	d->nr_tokens = 0;
	d->first_id = 0;
	d->prepare_called = false;
	d->chunk_left = 0;
	d->state_ended = false;
	if (d->control.fd >= 0)
		close(d->control.fd);
	d->control.fd = -1;
	eventfd_read(d->cancel_fd, &value);
	atomic_store(&d->state, RUN_IDLE);
}

static int wait_for_source(struct migr_destination *d, json_t **hello)
{
	struct newcomer n;
	int error;

	phase(d, MIGR_PHASE_CONNECT);
	for (;;) {
		error = await_newcomer(d, 0, &n);
		if (error)
			return error;
		if (!strcmp(control_type(n.message), "hello"))
			break;
		/* A stream of before, say. */
		send_away(&n, "no migration is arriving here");
	}
	/* To its streams we are who we are to it. */
	newcomers_settle(&d->newcomers, &n);
	d->control = n.control;
	d->control.error = &d->error;
	d->identity = n.identity;
	*hello = n.message;
	return 0;
}

int migr_destination_run(struct migr_destination *d,
			 const struct migr_destination_options *options,
			 const struct migr_destination_ops *ops, void *data,
			 struct migr_result *result)
{
	int error, idle = RUN_IDLE;
	json_t *hello = NULL;

	*result = (struct migr_result){ .outcome = MIGR_OUTCOME_HERE };
	if (d->listen_fd < 0)
		return error_set(&d->error, -EINVAL, "it does not listen");
	if (d->kind && !options->tls.insecure)
		return error_set(&d->error, -EPROTONOSUPPORT,
				 "%s cannot be encrypted: say --insecure", d->kind);
	error = links_check_networks(options->networks, &d->error);
	if (error)
		return error;
	if (!atomic_compare_exchange_strong(&d->state, &idle, RUN_GOING)) {
		reset(d);
		return error_set(&d->error, -ECANCELED, "cancelled");
	}
	d->ops = ops;
	d->data = data;
	d->result = result;
	d->timeout_ms = options->timeout_ms ? options->timeout_ms : 30000;
	d->networks = options->networks;
	d->control.timeout_ms = d->timeout_ms;
	d->control.cancel_fd = d->cancel_fd;
	d->begun_ns = now_ns();
	d->progress.page_size = d->migration.m->info.page_size;
	d->accept_ns = 0;
	error = newcomers_init(&d->newcomers, &options->tls, d->control.peer, d->cancel_fd,
			       &d->error);
	if (!error) {
		error = wait_for_source(d, &hello);
		if (!error)
			error = serve(d, hello);
		json_decref(hello);
		newcomers_exit(&d->newcomers);
	}
	reset(d);
	return error;
}
