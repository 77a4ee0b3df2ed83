// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The source of a migration: its phases, the decision to stop the VM, and the
 * commit.
 *
 * One rule stands above the rest: the VM runs on one side only. Before COMMIT
 * every failure ends with resume(); once it is sent, nothing here does.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

#define POLL_MS		200
#define HEARTBEAT_NS	(5 * NS_PER_S)
/* How long to wait for the destination's own word on why the stream broke. */
#define REASON_MS	2000
/* To wait that long for tokens is not worth another pass. */
#define SETTLE_NS	(10 * NS_PER_MS)
/* That the pause waits for: the last pass, loaded, resumed. */
#define PAUSE_ROUND_TRIPS	3
/* Slower than this a digest is not computed. */
#define DIGEST_BYTES_PER_MS	(32u << 10)
/* Less than that, in bytes a second, for all streams leaves one of them next to nothing. */
#define BANDWIDTH_MIN	12500u

struct migr_source {
	struct error error;
	struct migration migration;
	struct control control;
	struct tls *tls;		/* NULL: insecure */
	char host[SOCKET_HOST_MAX];	/* the destination's, with tls */
	int cancel_fd;
	atomic_int state;		/* enum run_state */

	const struct migr_source_ops *ops;
	void *data;
	struct migr_source_options options;
	struct migr_result *result;
	struct migr_progress progress;
	struct prediction prediction;
	struct spread spread;
	struct migr_pass *passes;
	uint64_t begun_ns, stopped_ns, heartbeat_ns;
	uint64_t round_trip_ns;
	bool pause_called;
	bool settled;			/* no more streams are opened */
	bool stream_broke;		/* the destination may say why */
	int failed;			/* what the VMM reported last */
};

int migr_source_new(struct migr *m, struct migr_source **source)
{
	struct migr_source *s = calloc(1, sizeof(*s));
	int error;

	*source = NULL;
	if (!s)
		return error_set(&m->error, -ENOMEM, "no memory");
	s->control.fd = -1;
	s->control.peer = "destination";
	s->control.error = &s->error;
	s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = s->cancel_fd < 0 ? -errno : migration_init(&s->migration, m, &s->error);
	if (error) {
		if (s->cancel_fd >= 0)
			close(s->cancel_fd);
		free(s);
		return error_set(&m->error, error, "cannot make an eventfd: %s", strerror(-error));
	}
	spread_init(&s->spread, &s->migration, &s->control, &s->options);
	*source = s;
	return 0;
}

void migr_source_free(struct migr_source *s)
{
	if (!s)
		return;
	migration_destroy(&s->migration);
	close(s->cancel_fd);
	free(s->passes);
	free(s);
}

const char *migr_source_error(const struct migr_source *s)
{
	return s->error.text;
}

int migr_source_fail(struct migr_source *s, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	error_vset(&s->error, error, format, args);
	va_end(args);
	s->failed = error;
	return error;
}

int migr_source_add_region(struct migr_source *s, int region, uint32_t id, const char *name)
{
	return migration_add_region(&s->migration, region, id, name);
}

void migr_source_cancel(struct migr_source *s)
{
	run_cancel(&s->state, s->cancel_fd);
}

static int report(struct migr_source *s)
{
	struct migr_progress *p = &s->progress;

	if (!s->ops->progress)
		return 0;
	p->elapsed_ns = now_ns() - s->begun_ns;
	p->streams = migration_nr_alive(&s->migration);
	p->links = spread_nr_links(&s->spread);
	p->bytes_per_second = p->status.pass_ns ?
		p->status.pass_wire_bytes * (double)NS_PER_S / p->status.pass_ns : 0;
	s->failed = 0;
	s->ops->progress(s, s->data, p);
	return s->failed;
}

static void phase(struct migr_source *s, enum migr_phase phase)
{
	s->progress.phase = phase;
	report(s);
}

/* ---- connecting ------------------------------------------------------- */

static int prepare_tls(struct migr_source *s, const char *address)
{
	int error = tls_open(&s->options.tls, &s->tls, &s->error);
	const char *kind = socket_kind(address);

	if (error || !s->tls)
		return error;
	if (kind)
		return error_set(&s->error, -EPROTONOSUPPORT,
				 "%s cannot be encrypted: say --insecure", kind);
	s->spread.tls = s->tls;
	s->spread.host = s->host;
	return socket_host(address, s->host, &s->error);
}

static int connect_control(struct migr_source *s, const char *address)
{
	struct control *c = &s->control;
	int error;

	c->fd = socket_connect(address, s->cancel_fd, s->options.timeout_ms, &s->error);
	if (c->fd < 0)
		return c->fd;
	error = s->tls ? tls_connect(s->tls, c, s->host, &s->spread.identity) : 0;
	/* What is to be said would not be encrypted, or for we do not know whom. */
	if (error) {
		close(c->fd);
		c->fd = -1;
	}
	return error;
}

static int hello(struct migr_source *s)
{
	const struct migr_info *info = &s->migration.m->info;
	json_auto_t *answer = NULL;
	json_int_t version, wire;
	uint64_t sent = now_ns();
	int error;

	error = control_send(&s->control, json_pack("{s:s, s:i, s:I}", "type", "hello", "version",
						    CONTROL_VERSION, "wire_version",
						    (json_int_t)info->wire_version));
	if (!error)
		error = control_expect(&s->control, "hello", s->options.timeout_ms, &answer);
	if (!error)
		error = control_unpack(&s->control, answer, "{s:I, s:I}", "version", &version,
				       "wire_version", &wire);
	if (error)
		return error;
	s->round_trip_ns = now_ns() - sent;
	if (version < CONTROL_VERSION || wire < info->wire_version)
		return error_set(&s->error, -EPROTONOSUPPORT,
				 "the destination is too old: it speaks control version %lld and wire version %lld, this side %d and %u",
				 (long long)version, (long long)wire, CONTROL_VERSION,
				 info->wire_version);
	return 0;
}

/*
 * The names of what the stream may be compressed with, best first: the higher the
 * number the more time it takes.
 */
static json_t *compressions(const struct migr_source *s)
{
	uint32_t wanted = s->options.compression, has;
	json_t *names = json_array();
	const char *name;

	if (wanted == MIGR_COMPRESSION_NONE)
		return names;
	has = migration_compressions(&s->migration);
	for (uint32_t c = MIGR_COMPRESSION_LZ4; (name = migr_compression_name(c)); c++)
		if (has >> c & 1 && (wanted == c || wanted == MIGR_COMPRESSION_AUTO))
			json_array_append_new(names, json_string(name));
	return names;
}

/* What the destination has chosen of them, if it has. */
static int read_compression(struct migr_source *s, json_t *ready, const json_t *offered)
{
	const char *chosen = NULL;
	const json_t *item;
	size_t i;
	int error;

	error = control_unpack(&s->control, ready, "{s?s}", "compression", &chosen);
	if (error || !chosen)
		return error;
	json_array_foreach(offered, i, item)
		if (!strcmp(json_string_value(item), chosen))
			s->spread.compression = compression_find(chosen);
	if (!s->spread.compression)
		return error_set(&s->error, -EPROTO,
				 "the destination chose a compression that was not offered");
	s->result->compression = s->spread.compression;
	return 0;
}

/* Ask for the VM; the tokens that admit the streams come back. */
static int request(struct migr_source *s, json_t **ready)
{
	/* Nobody knows yet how many links there are, nor which of them fail. */
	uint32_t some = s->options.links || s->options.networks ? LINKS_MAX : 1;
	uint32_t streams = s->options.streams ? s->options.streams : some;
	struct migration *g = &s->migration;
	json_auto_t *offered = compressions(s);
	json_t *regions = json_array();
	int error;

	for (uint32_t i = 0; i < g->nr_regions; i++)
		json_array_append_new(regions,
				      json_pack("{s:I, s:s, s:I}",
						"id", (json_int_t)g->regions[i].id,
						"name", g->regions[i].name,
						"length", (json_int_t)g->regions[i].length));
	error = control_send(&s->control,
			     json_pack("{s:s, s:s, s:I, s:I, s:O, s:o}", "type", "request", "vm",
				       s->options.vm_name, "page_size",
				       (json_int_t)g->m->info.page_size, "streams",
				       (json_int_t)streams, "compressions", offered, "regions",
				       regions));
	if (!error)
		error = control_expect(&s->control, "ready", s->options.prepare_timeout_ms, ready);
	if (!error)
		error = read_compression(s, *ready, offered);
	return error;
}

/*
 * Where the destination listens. The address that it was reached at has the port that
 * we were given, which may be forwarded; no other has it because of that.
 */
static int read_port(struct migr_source *s, json_t *ready)
{
	struct spread *sp = &s->spread;
	struct host_address reached;
	json_int_t port;
	int error;

	if (!json_object_get(ready, "port"))
		return 0;
	error = control_unpack(&s->control, ready, "{s:I}", "port", &port);
	if (error)
		return error;
	if (port < 1 || port > UINT16_MAX)
		return error_set(&s->error, -EPROTO,
				 "the destination listens on port %lld, it says: 1 to %u are ports",
				 (long long)port, UINT16_MAX);
	if (!links_from_socket(&sp->peer, &reached))
		return 0;
	for (uint32_t i = 0; i < sp->nr_links; i++)
		if (!links_find_address(&sp->links[i].link.there, 1, &reached))
			sp->links[i].link.there.port = port;
	return 0;
}

static int set_up(struct migr_source *s, const char *address)
{
	json_auto_t *ready = NULL;
	int error;

	phase(s, MIGR_PHASE_CONNECT);
	error = prepare_tls(s, address);
	if (!error)
		error = connect_control(s, address);
	if (!error)
		error = hello(s);
	if (error)
		return error;
	phase(s, MIGR_PHASE_PREPARE);
	error = request(s, &ready);
	if (!error)
		error = migration_create(&s->migration, MIGR_ROLE_SOURCE,
					 s->options.reported ? MIGR_WRITES_REPORTED : 0);
	if (!error)
		error = spread_plan(&s->spread, address, ready);
	if (!error)
		error = read_port(s, ready);
	if (!error)
		error = spread_open(&s->spread);
	/* The first answer may have waited until the destination was done with another. */
	if (!error && s->spread.answer_ns < s->round_trip_ns)
		s->round_trip_ns = s->spread.answer_ns;
	return error;
}

/* ---- passes ----------------------------------------------------------- */

/* Anything but tokens that comes before it was asked for is an error, or the end. */
static int unexpected(struct migr_source *s)
{
	json_auto_t *message = NULL;
	int error = control_receive(&s->control, s->options.timeout_ms, &message);

	if (error)
		return error;
	if (s->spread.asked && !strcmp(control_type(message), "tokens"))
		return spread_tokens(&s->spread, message);
	return error_set(&s->error, -EPROTO, "the destination sent a message that was not due");
}

static int heartbeat(struct migr_source *s)
{
	if (now_ns() - s->heartbeat_ns < HEARTBEAT_NS)
		return 0;
	s->heartbeat_ns = now_ns();
	return control_send(&s->control, json_pack("{s:s}", "type", "progress"));
}

/* A connection broke; the destination may have said why. */
static int better_reason(struct migr_source *s, int error)
{
	struct error ours = s->error;
	json_t *message;
	int theirs = control_receive(&s->control, REASON_MS, &message);

	json_decref(message);
	if (theirs == -EREMOTEIO || theirs == -ECANCELED)
		return theirs;
	s->error = ours;
	return error;
}

/* Wait for the pass, with an eye on the destination, and report. */
static int wait_pass(struct migr_source *s)
{
	struct migration *g = &s->migration;
	bool over;
	struct pollfd p[4] = {
		{ .fd = g->done_fd, .events = POLLIN },
		{ .fd = s->cancel_fd, .events = POLLIN },
		{ .fd = s->control.fd, .events = POLLIN },
		{ .events = POLLOUT },
	};
	int n, error;

	for (;;) {
		p[3].fd = s->spread.opening_fd;
		n = poll(p, 4, POLL_MS);
		if (n < 0 && errno != EINTR)
			return error_set(&s->error, -errno, "poll failed: %s", strerror(errno));
		if (n > 0 && p[1].revents)
			return error_set(&s->error, -ECANCELED, "cancelled");
		if (n > 0 && p[0].revents) {
			error = migration_join(g, false, &over);
			/* Of another failure we know more than it. */
			s->stream_broke = error == -ECONNRESET || error == -ETIMEDOUT;
			if (over)
				return error;
		}
		error = n > 0 && p[2].revents ? unexpected(s) : 0;
		if (!error)
			error = spread_tend(&s->spread, !s->settled);
		if (!error)
			error = migration_status(g, &s->progress.status);
		if (!error)
			error = heartbeat(s);
		if (!error)
			error = report(s);
		if (error < 0)
			return error;
	}
}

/* What the VMM knows of writes; counts for the statistics read after it. */
static int collect(struct migr_source *s)
{
	int error;

	if (!s->ops->collect)
		return 0;
	error_set(&s->error, 0, "the VMM could not tell what has been written");
	error = s->ops->collect(s, s->data);
	return error < 0 ? error : 0;
}

static int record_pass(struct migr_source *s)
{
	struct migr_migration_status *st = &s->progress.status;
	struct migr_result *r = s->result;
	struct migr_pass *passes;

	passes = realloc(s->passes, (r->nr_passes + 1) * sizeof(*passes));
	if (!passes)
		return error_set(&s->error, -ENOMEM, "no memory");
	passes[r->nr_passes++] = (struct migr_pass){
		.pages = st->pass_pages,
		.sent_pages = st->pass_sent_pages,
		.dirtied_pages = st->pass_dirtied_pages,
		.wire_bytes = st->pass_wire_bytes,
		.ns = st->pass_ns,
		.hot_pages = st->pass_hot_pages,
		.limit = st->limit,
	};
	s->passes = passes;
	r->passes = passes;
	r->send_ns += st->pass_ns;
	return 0;
}

static int pass(struct migr_source *s, uint32_t flags, uint64_t hot_pages_max)
{
	uint64_t begun = now_ns();
	int error;

	error = migration_pass(&s->migration, flags, hot_pages_max);
	if (!error)
		error = migration_start(&s->migration);
	if (!error)
		error = wait_pass(s);
	if (error)
		return error;
	spread_passed(&s->spread, begun);
	error = collect(s);
	if (!error)
		error = migration_status(&s->migration, &s->progress.status);
	if (!error)
		error = record_pass(s);
	return error;
}

/* Have the VM write less, if it writes too much for one more pass to help. */
static int slow_down(struct migr_source *s, uint64_t fixed, uint64_t limit)
{
	struct migr_migration_status *st = &s->progress.status;
	uint64_t pages;

	/* Writes that are reported take no fault to be slowed down in. */
	if (s->options.no_slowdown || s->options.reported)
		return 0;
	pages = prediction_slow(&s->prediction, st, s->progress.page_size, fixed, limit,
				s->options.pass_limit);
	return pages == st->limit ? 0 : migration_limit(&s->migration, pages);
}

/*
 * Open no more streams, now that the VM is to be stopped. If that takes time, what it
 * writes meanwhile would all fall into the pause: then another pass pays.
 */
static int settle(struct migr_source *s, enum verdict *verdict)
{
	bool asked = s->spread.asked;
	uint64_t begun = now_ns();
	int error;

	if (s->settled)
		return 0;
	s->settled = true;
	error = spread_settle(&s->spread);
	if (asked && now_ns() - begun > SETTLE_NS)
		*verdict = VERDICT_AGAIN;
	return error;
}

/* Passes while the VM runs, until stopping it is short enough, or no more helps. */
static int live_passes(struct migr_source *s)
{
	uint32_t page_size = s->progress.page_size;
	uint64_t fixed = PAUSE_ROUND_TRIPS * s->round_trip_ns + s->options.state_ms * NS_PER_MS;
	uint64_t limit = s->options.downtime_limit_ms * NS_PER_MS;
	enum verdict verdict;
	uint64_t predicted;
	int error;

	phase(s, MIGR_PHASE_PASSES);
	error = collect(s);
	if (error)
		return error;
	do {
		error = pass(s, 0, prediction_hot_pages(&s->prediction, page_size, fixed, limit));
		if (error)
			return error;
		predicted = prediction_after_pass(&s->prediction, &s->progress.status, page_size,
						  fixed);
		s->progress.predicted_downtime_ns = predicted;
		error = report(s);
		if (error < 0)
			return error;
		verdict = prediction_verdict(&s->prediction, predicted, limit,
					     s->options.pass_limit);
		if (verdict == VERDICT_AGAIN) {
			s->settled = false;
			error = slow_down(s, fixed, limit);
		} else {
			error = settle(s, &verdict);
		}
		if (error)
			return error;
	} while (verdict == VERDICT_AGAIN);
	s->result->predicted_downtime_ns = predicted;
	s->result->limit_exceeded = verdict == VERDICT_EXCEEDS;
	return 0;
}

/* ---- the pause -------------------------------------------------------- */

static int stop_vm(struct migr_source *s)
{
	int error;

	phase(s, MIGR_PHASE_PAUSE);
	error_set(&s->error, 0, "the VMM could not stop the VM");
	s->stopped_ns = now_ns();
	s->pause_called = true;
	error = s->ops->pause(s, s->data, &s->stopped_ns);
	return error < 0 ? error : collect(s);
}

static int verify(struct migr_source *s)
{
	struct migr_result *r = s->result;
	uint64_t begun = now_ns();
	json_auto_t *answer = NULL;
	const char *hex;
	int error;

	phase(s, MIGR_PHASE_VERIFY);
	/* Both sides compute at the same time. */
	error = control_send(&s->control, json_pack("{s:s}", "type", "verify"));
	if (!error)
		error = migration_digest(&s->migration, &s->control, &r->source_digest);
	if (!error)
		error = control_expect(&s->control, "digest", s->options.timeout_ms +
				       r->ram_bytes / DIGEST_BYTES_PER_MS, &answer);
	if (!error)
		error = control_unpack(&s->control, answer, "{s:s}", "digest", &hex);
	if (!error && digest_parse(hex, &r->destination_digest))
		error = error_set(&s->error, -EPROTO, "the destination sent a bad digest");
	if (error)
		return error;
	r->verify_ns = now_ns() - begun;
	r->verified = true;
	r->identical = !memcmp(&r->source_digest, &r->destination_digest,
			       sizeof(r->source_digest));
	if (!r->identical)
		return error_set(&s->error, -EILSEQ,
				 "the memory arrived differs from the memory sent: the digests are not equal");
	return 0;
}

int migr_source_write_state(struct migr_source *s, const void *bytes, size_t length)
{
	size_t n;
	int error;

	for (; length; length -= n, bytes = (const char *)bytes + n) {
		n = length < CONTROL_MESSAGE_MAX ? length : CONTROL_MESSAGE_MAX;
		error = control_send(&s->control, json_pack("{s:s, s:I}", "type", "state", "bytes",
							    (json_int_t)n));
		if (!error)
			error = control_write(&s->control, bytes, n);
		if (error)
			return error;
		s->result->state_bytes += n;
	}
	return 0;
}

/* What is written after the last pass would be missing on the other side. */
static int check_quiet(struct migr_source *s)
{
	uint64_t dirty;
	int error;

	error = migration_status(&s->migration, &s->progress.status);
	dirty = s->progress.status.dirty_pages;
	if (!error && dirty)
		error = error_set(&s->error, -EBUSY,
				  "the VMM wrote to the memory of the VM after it had stopped it (pages: %llu)",
				  (unsigned long long)dirty);
	return error;
}

static int send_state(struct migr_source *s)
{
	json_auto_t *loaded = NULL;
	int error;

	phase(s, MIGR_PHASE_STATE);
	error_set(&s->error, 0, "the VMM could not save the device state");
	error = s->ops->save(s, s->data);
	if (error < 0)
		return error;
	error = collect(s);
	if (!error)
		error = check_quiet(s);
	if (!error)
		error = control_send(&s->control, json_pack("{s:s}", "type", "state-end"));
	if (!error)
		error = control_expect(&s->control, "loaded", s->options.timeout_ms, &loaded);
	return error;
}

/*
 * The point of no return. From the attempt to send on, the destination may
 * have it and may run the VM.
 */
static int commit(struct migr_source *s)
{
	struct pollfd p = { .fd = s->control.fd, .events = POLLIN };
	json_auto_t *resumed = NULL;
	int going = RUN_GOING;
	struct error why;
	int error;

	if (poll(&p, 1, 0) > 0)
		return unexpected(s);
	if (!atomic_compare_exchange_strong(&s->state, &going, RUN_COMMITTED))
		return error_set(&s->error, -ECANCELED, "cancelled");
	s->control.cancel_fd = -1;
	s->result->outcome = MIGR_OUTCOME_UNKNOWN;
	error = control_send(&s->control, json_pack("{s:s}", "type", "commit"));
	if (!error)
		error = control_expect(&s->control, "resumed", s->options.timeout_ms, &resumed);
	if (error) {
		why = s->error;
		return error_set(&s->error, error,
				 "COMMIT was sent and not confirmed, so the VM stays paused here: look whether it runs on the destination before resuming it (%s)",
				 why.text);
	}
	s->result->downtime_ns = now_ns() - s->stopped_ns - s->result->verify_ns;
	s->result->outcome = MIGR_OUTCOME_MOVED;
	return 0;
}

static int migrate(struct migr_source *s, const char *address)
{
	int error;

	error = set_up(s, address);
	if (!error)
		error = live_passes(s);
	if (!error)
		error = stop_vm(s);
	if (error)
		return error;
	phase(s, MIGR_PHASE_LAST_PASS);
	error = pass(s, MIGR_PASS_LAST, 0);
	if (!error && s->options.verify)
		error = verify(s);
	if (!error)
		error = send_state(s);
	if (error)
		return error;
	phase(s, MIGR_PHASE_COMMIT);
	return commit(s);
}

/* Before COMMIT: the VM first, then the peer. */
static int fail_back(struct migr_source *s, int error)
{
	struct error why, stuck = { "" };
	int resumed = 0;

	why = s->error;
	migration_stop(&s->migration);
	if (s->prediction.slowed)
		migration_limit(&s->migration, 0);
	if (s->pause_called) {
		error_set(&s->error, 0, "the VMM could not resume it");
		resumed = s->ops->resume(s, s->data);
		stuck = s->error;
	}
	s->error = why;
	if (s->control.fd >= 0) {
		if (s->stream_broke || error == -ECONNRESET)
			error = better_reason(s, error);
		control_send_error(&s->control, s->error.text);
	}
	if (resumed >= 0)
		return error;
	s->result->outcome = MIGR_OUTCOME_STUCK;
	why = s->error;
	return error_set(&s->error, error, "%s; then the VM could not be resumed here: %s",
			 why.text, stuck.text);
}

static int check_run(struct migr_source *s)
{
	int idle = RUN_IDLE, error;

	if (!s->migration.nr_regions)
		return error_set(&s->error, -EINVAL, "a migration needs a region");
	if (strlen(s->options.vm_name) >= MIGR_VM_NAME_MAX)
		return error_set(&s->error, -EINVAL, "the name of the VM is too long");
	if (s->options.streams > MIGR_STREAMS_MAX)
		return error_set(&s->error, -EINVAL, "%u streams are too many (at most %u)",
				 s->options.streams, MIGR_STREAMS_MAX);
	if (s->options.max_bandwidth && s->options.max_bandwidth < BANDWIDTH_MIN)
		return error_set(&s->error, -EINVAL,
				 "%llu bytes a second are too few (at least %u)",
				 (unsigned long long)s->options.max_bandwidth, BANDWIDTH_MIN);
	if (s->options.reported && !s->ops->collect)
		return error_set(&s->error, -EINVAL, "nobody would report the writes");
	error = links_check_names(s->options.links, &s->error);
	if (!error)
		error = links_check_networks(s->options.networks, &s->error);
	if (error)
		return error;
	if (atomic_compare_exchange_strong(&s->state, &idle, RUN_GOING))
		return 0;
	if (idle == RUN_CANCELLED)
		return error_set(&s->error, -ECANCELED, "cancelled");
	return error_set(&s->error, -EBUSY, "a source runs once");
}

int migr_source_run(struct migr_source *s, const char *address,
		    const struct migr_source_options *options,
		    const struct migr_source_ops *ops, void *data,
		    struct migr_result *result)
{
	struct migr_source_options *o = &s->options;
	int error;

	*result = (struct migr_result){
		.outcome = MIGR_OUTCOME_HERE,
		.page_size = s->migration.m->info.page_size,
		.ram_bytes = migration_ram_bytes(&s->migration),
	};
	*o = *options;
	o->vm_name = o->vm_name ? o->vm_name : "";
	o->downtime_limit_ms = o->downtime_limit_ms ? o->downtime_limit_ms : 300;
	o->compression_percent = o->compression_percent ? o->compression_percent : 50;
	o->pass_limit = o->pass_limit ? o->pass_limit : 30;
	o->state_ms = o->state_ms ? o->state_ms : 50;
	o->timeout_ms = o->timeout_ms ? o->timeout_ms : 30000;
	o->prepare_timeout_ms = o->prepare_timeout_ms ? o->prepare_timeout_ms : 120000;
	s->ops = ops;
	s->data = data;
	error = check_run(s);
	if (error)
		return error;
	s->result = result;
	s->progress.page_size = result->page_size;
	s->control.timeout_ms = o->timeout_ms;
	s->control.cancel_fd = s->cancel_fd;
	s->begun_ns = now_ns();

	error = migrate(s, address);
	if (error && result->outcome == MIGR_OUTCOME_HERE)
		error = fail_back(s, error);
	migration_reset(&s->migration);
	spread_close(&s->spread);
	if (s->control.fd >= 0)
		close(s->control.fd);
	s->control.fd = -1;
	tls_close(s->tls);
	s->tls = NULL;
	result->total_ns = now_ns() - s->begun_ns;
	result->status = s->progress.status;
	if (!error) {
		/* What had been prepared in case it failed. */
		error_set(&s->error, 0, "%s", "");
		phase(s, MIGR_PHASE_DONE);
	}
	return error;
}
