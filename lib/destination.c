// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The destination of a migration: listening, preparing the VM, receiving, and
 * resuming on COMMIT alone.
 */
#define _GNU_SOURCE
#include <errno.h>
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
/* For a newcomer to say what it wants. */
#define GREETING_MS	1000
/* The same where a VM may be paused meanwhile. */
#define NEWCOMER_MS	50
#define TOKEN_BYTES	16
/* Before another try to accept what could not be. */
#define LATER_MS	500
/* The least that the source may be silent, whatever the time limit. */
#define SILENCE_MS	30000ull

struct migr_destination {
	struct error error;
	struct migration migration;
	struct control control;
	int listen_fd;
	int cancel_fd;
	atomic_int state;		/* enum run_state */
	char path[108];			/* of a UNIX listener, to take it away */

	const struct migr_destination_ops *ops;
	void *data;
	uint32_t timeout_ms;
	struct migr_result *result;
	struct migr_progress progress;
	struct migr_request request;
	uint64_t begun_ns;
	char tokens[MIGR_STREAMS_MAX][2 * TOKEN_BYTES + 1];
	uint32_t nr_streams;		/* that the source asked for */
	uint32_t compression;		/* chosen from what it offered */
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

/* The next connection; 0 for deadline_ns: wait for ever. */
static int accept_one(struct migr_destination *d, uint64_t deadline_ns)
{
	enum accept_failure failure;
	int fd, error;

	for (;;) {
		error = socket_wait(d->listen_fd, POLLIN, d->cancel_fd, deadline_ns);
		if (!error) {
			fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);
			if (fd >= 0)
				break;
			failure = accept_failure(errno);
			if (failure == ACCEPT_NEVER)
				return error_set(&d->error, -errno, "cannot accept a connection: %s",
						 strerror(errno));
			/* It would be there again at once. */
			if (failure == ACCEPT_LATER)
				error = socket_wait(-1, 0, d->cancel_fd,
						    now_ns() + LATER_MS * NS_PER_MS);
			if (error == -ETIMEDOUT && (!deadline_ns || now_ns() < deadline_ns))
				error = 0;
		}
		if (error == -ECANCELED)
			return error_set(&d->error, error, "cancelled");
		if (error)
			return error_set(&d->error, error, "no connection came: %s",
					 strerror(-error));
	}
	error = socket_options(fd, d->timeout_ms);
	if (error) {
		close(fd);
		return error_set(&d->error, error, "cannot set up a connection: %s",
				 strerror(-error));
	}
	return fd;
}

/* What a new connection wants, said in time. */
static int greeting(struct migr_destination *d, int fd, struct control *c, uint32_t timeout_ms,
		    json_t **message)
{
	*c = d->control;
	c->fd = fd;
	return control_receive(c, timeout_ms, message);
}

/* ---- the request ------------------------------------------------------ */

static int answer_hello(struct migr_destination *d, json_t *hello)
{
	const struct migr_info *info = &d->migration.m->info;
	json_int_t version, wire;
	int error;

	if (strcmp(control_type(hello), "hello"))
		return error_set(&d->error, -EPROTO, "the connection did not begin with a hello");
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
	if (streams < 1 || streams > MIGR_STREAMS_MAX)
		return error_set(&d->error, -EPROTO, "the source wants %lld streams, not 1 to %u",
				 (long long)streams, MIGR_STREAMS_MAX);
	d->nr_streams = streams;
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

static int make_tokens(struct migr_destination *d)
{
	uint8_t bytes[TOKEN_BYTES];

	for (uint32_t n = 0; n < d->nr_streams; n++) {
		if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
			return error_set(&d->error, -EIO, "no random bytes for a token");
		for (size_t i = 0; i < sizeof(bytes); i++)
			sprintf(d->tokens[n] + 2 * i, "%02x", bytes[i]);
	}
	return 0;
}

/* The first token alone, too, for a source that knows of one stream only. */
static json_t *ready(const struct migr_destination *d)
{
	json_t *tokens = json_array();

	for (uint32_t n = 0; n < d->nr_streams; n++)
		json_array_append_new(tokens, json_string(d->tokens[n]));
	return json_pack("{s:s, s:s, s:s*, s:o}", "type", "ready", "token", d->tokens[0],
			 "compression",
			 d->compression ? migr_compression_name(d->compression) : NULL, "tokens",
			 tokens);
}

/* That of the next stream, in constant time: a token is all that admits one. */
static bool token_is(const struct migr_destination *d, const char *token)
{
	const char *due = d->tokens[d->migration.nr_streams];
	unsigned char differ = 0;

	if (!token || strlen(token) != sizeof(d->tokens[0]) - 1)
		return false;
	for (size_t i = 0; i < sizeof(d->tokens[0]); i++)
		differ |= token[i] ^ due[i];
	return !differ;
}

static int take_stream(struct migr_destination *d, struct control *c)
{
	int error;

	error = migration_add_stream(&d->migration, c->fd, 0, d->compression, 0);
	if (!error)
		error = control_send(c, json_pack("{s:s}", "type", "go"));
	close(c->fd);
	if (!error)
		error = migration_start(&d->migration);
	return error;
}

/* Wait for the connection that presents the next token; send others away. */
static int accept_stream(struct migr_destination *d)
{
	uint64_t deadline = now_ns() + d->timeout_ms * NS_PER_MS;
	struct control c;
	json_t *message;
	bool ours;
	int fd;

	for (;;) {
		if (now_ns() >= deadline)
			return error_set(&d->error, -ETIMEDOUT, "no connection came: %s",
					 strerror(ETIMEDOUT));
		fd = accept_one(d, deadline);
		if (fd < 0)
			return fd;
		if (greeting(d, fd, &c, GREETING_MS, &message)) {
			close(fd);
			continue;
		}
		ours = !strcmp(control_type(message), "stream") &&
		       token_is(d, json_string_value(json_object_get(message, "token")));
		json_decref(message);
		if (ours)
			return take_stream(d, &c);
		control_send_error(&c, "busy: another migration is arriving here");
		close(fd);
	}
}

static int set_up(struct migr_destination *d, json_t *hello)
{
	int error;

	phase(d, MIGR_PHASE_PREPARE);
	error = answer_hello(d, hello);
	if (!error)
		error = read_request(d);
	if (!error)
		error = make_tokens(d);
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
		error = control_send(&d->control, ready(d));
	for (uint32_t n = 0; n < d->nr_streams && !error; n++)
		error = accept_stream(d);
	return error;
}

/* ---- passes ----------------------------------------------------------- */

/* How long the source may say nothing; its signs of life keep no time limit of ours. */
static uint64_t silence_ms(const struct migr_destination *d)
{
	uint64_t twice = 2ull * d->timeout_ms;

	return twice > SILENCE_MS ? twice : SILENCE_MS;
}

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
	theirs = control_receive(&d->control, GREETING_MS, &message);
	json_decref(message);
	if (theirs == -EREMOTEIO || theirs == -ECANCELED)
		return theirs;
	d->error = ours;
	return error;
}

/* False if there is no use in trying the next one. */
static bool refuse_newcomer(struct migr_destination *d)
{
	int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct error saved = d->error;
	struct control c;
	json_t *message;

	if (fd < 0)
		return accept_failure(errno) == ACCEPT_NEXT;
	if (!greeting(d, fd, &c, NEWCOMER_MS, &message)) {
		json_decref(message);
		control_send_error(&c, "busy: another migration is arriving here");
	}
	close(fd);
	d->error = saved;
	return true;
}

/* Until the stream has brought the last pass. */
static int receive_passes(struct migr_destination *d)
{
	struct migration *g = &d->migration;
	struct pollfd p[4] = {
		{ .fd = g->done_fd, .events = POLLIN },
		{ .fd = d->cancel_fd, .events = POLLIN },
		{ .fd = d->control.fd, .events = POLLIN },
		{ .fd = d->listen_fd, .events = POLLIN },
	};
	uint64_t heard = now_ns();
	bool over;
	int n, error;

	phase(d, MIGR_PHASE_PASSES);
	for (;;) {
		n = poll(p, 4, POLL_MS);
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
			/* What follows the passes may overtake the end of our run. */
			if (strcmp(control_type(d->pending), "progress"))
				p[2].fd = -1;
			else
				json_decref(d->pending), d->pending = NULL;
		}
		if (n > 0 && p[3].revents && !refuse_newcomer(d))
			p[3].fd = -1;
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
	error = migration_digest(&d->migration, &d->result->destination_digest);
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

/*
 * It failed before COMMIT: tell the source, throw the VM away, and read what
 * the source still sends. Closing with bytes unread could destroy our words.
 */
static void give_up(struct migr_destination *d)
{
	struct error why = d->error;
	struct control rest = d->control;
	uint64_t deadline;
	char bytes[4096];

	control_send_error(&d->control, why.text);
	shutdown(d->control.fd, SHUT_WR);
	migration_stop(&d->migration);
	if (d->prepare_called)
		d->ops->abort(d, d->data);
	rest.cancel_fd = -1;
	deadline = now_ns() + FAREWELL_MS * NS_PER_MS;
	while (now_ns() < deadline && !control_read(&rest, bytes, sizeof(bytes), deadline))
		;
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
	d->prepare_called = false;
	d->chunk_left = 0;
	d->state_ended = false;
	if (d->control.fd >= 0)
		close(d->control.fd);
	d->control.fd = -1;
	eventfd_read(d->cancel_fd, &value);
	atomic_store(&d->state, RUN_IDLE);
}

int migr_destination_run(struct migr_destination *d,
			 const struct migr_destination_options *options,
			 const struct migr_destination_ops *ops, void *data,
			 struct migr_result *result)
{
	int fd, error, idle = RUN_IDLE;
	json_t *hello = NULL;

	*result = (struct migr_result){ .outcome = MIGR_OUTCOME_HERE };
	if (d->listen_fd < 0)
		return error_set(&d->error, -EINVAL, "it does not listen");
	if (!atomic_compare_exchange_strong(&d->state, &idle, RUN_GOING)) {
		reset(d);
		return error_set(&d->error, -ECANCELED, "cancelled");
	}
	d->ops = ops;
	d->data = data;
	d->result = result;
	d->timeout_ms = options->timeout_ms ? options->timeout_ms : 30000;
	d->control.timeout_ms = d->timeout_ms;
	d->control.cancel_fd = d->cancel_fd;
	d->begun_ns = now_ns();
	d->progress.page_size = d->migration.m->info.page_size;
	phase(d, MIGR_PHASE_CONNECT);

	/* Who connects and says nothing sensible is not a source. */
	do {
		fd = accept_one(d, 0);
		error = fd < 0 ? fd : greeting(d, fd, &d->control, GREETING_MS, &hello);
		if (fd >= 0 && error)
			close(fd);
	} while (fd >= 0 && error && error != -ECANCELED);
	if (error) {
		d->control.fd = -1;
	} else {
		error = serve(d, hello);
		json_decref(hello);
	}
	reset(d);
	return error;
}
