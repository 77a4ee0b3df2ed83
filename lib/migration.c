// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One side of a migration in the kernel: its regions, its streams, and the
 * threads that run them.
 *
 * A thread owns nothing but its call of MIGR_STREAM_RUN; it leaves the result in
 * its stream before it signals done_fd, and is joined before that is read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int migration_init(struct migration *g, struct migr *m, struct error *e)
{
	g->m = m;
	g->error = e;
	g->fd = -1;
	g->nr_streams = 0;
	g->nr_regions = 0;
	g->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return g->done_fd < 0 ? -errno : 0;
}

void migration_reset(struct migration *g)
{
	migration_stop(g);
	while (g->nr_streams)
		close_fd(&g->streams[--g->nr_streams].fd);
	close_fd(&g->fd);
	while (g->nr_regions)
		close(g->regions[--g->nr_regions].fd);
}

void migration_destroy(struct migration *g)
{
	migration_reset(g);
	close_fd(&g->done_fd);
}

struct migration_region *migration_region(struct migration *g, uint32_t id)
{
	for (uint32_t i = 0; i < g->nr_regions; i++)
		if (g->regions[i].id == id)
			return &g->regions[i];
	return NULL;
}

int migration_add_region(struct migration *g, int region, uint32_t id, const char *name)
{
	struct migration_region *r = &g->regions[g->nr_regions];
	struct migr_region_info info = { .size = sizeof(info) };
	int error;

	if (id >= MIGR_REGIONS_MAX)
		return error_set(g->error, -EINVAL, "region number %u is too large (at most %u)",
				 id, MIGR_REGIONS_MAX - 1);
	if (migration_region(g, id))
		return error_set(g->error, -EEXIST, "there is a region %u already", id);
	if (ioctl(region, MIGR_REGION_INFO, &info) < 0) {
		error = errno;
		return error_set(g->error, -error, "descriptor %d is not a region: %s", region,
				 strerror(error));
	}
	r->fd = fcntl(region, F_DUPFD_CLOEXEC, 0);
	if (r->fd < 0) {
		error = errno;
		return error_set(g->error, -error, "cannot duplicate a region: %s",
				 strerror(error));
	}
	r->id = id;
	r->length = info.length;
	snprintf(r->name, sizeof(r->name), "%s", name);
	g->nr_regions++;
	return 0;
}

uint64_t migration_ram_bytes(const struct migration *g)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < g->nr_regions; i++)
		bytes += g->regions[i].length;
	return bytes;
}

int migration_create(struct migration *g, enum migr_role role, uint32_t region_flags)
{
	struct migr_migration_create create = { .size = sizeof(create), .role = role };
	int error;

	if (ioctl(g->m->fd, MIGR_MIGRATION_CREATE, &create) < 0) {
		error = errno;
		return error_set(g->error, -error, "the kernel refused a migration: %s",
				 strerror(error));
	}
	g->fd = create.fd;
	for (uint32_t i = 0; i < g->nr_regions; i++) {
		struct migr_migration_add_region add = {
			.size = sizeof(add),
			.flags = region_flags,
			.region_fd = g->regions[i].fd,
			.id = g->regions[i].id,
		};

		if (!ioctl(g->fd, MIGR_MIGRATION_ADD_REGION, &add))
			continue;
		error = errno;
		return error_set(g->error, -error, "the kernel refused region %u '%s': %s", add.id,
				 g->regions[i].name, strerror(error));
	}
	return 0;
}

/* That of a stream which died, or a new one. */
static int free_place(const struct migration *g)
{
	for (uint32_t i = 0; i < g->nr_streams; i++)
		if (g->streams[i].fd < 0 && !g->streams[i].running)
			return i;
	return g->nr_streams < MIGR_STREAMS_MAX ? (int)g->nr_streams : -EBUSY;
}

/* The stream receives faster once the caller, too, has closed the socket. */
int migration_add_stream(struct migration *g, int socket, uint32_t id, uint32_t flags,
			 uint32_t compression, uint32_t compression_cpu)
{
	struct migr_migration_add_stream add = {
		.size = sizeof(add),
		.flags = flags,
		.socket_fd = socket,
		.id = id,
		.compression = compression,
		.compression_cpu = compression_cpu,
	};
	int place = free_place(g);
	int error;

	if (place < 0 || ioctl(g->fd, MIGR_MIGRATION_ADD_STREAM, &add) < 0) {
		error = place < 0 ? place : -errno;
		return error_set(g->error, error, "the kernel refused stream %u: %s", id,
				 strerror(-error));
	}
	if ((uint32_t)place == g->nr_streams)
		g->nr_streams++;
	g->streams[place] = (struct migration_stream){ .g = g, .fd = add.fd };
	return place;
}

void migration_drop_stream(struct migration *g, uint32_t place)
{
	close_fd(&g->streams[place].fd);
}

void migration_cut_stream(struct migration *g, uint32_t place)
{
	struct migr_stream_shutdown shutdown = { .size = sizeof(shutdown) };

	ioctl(g->streams[place].fd, MIGR_STREAM_SHUTDOWN, &shutdown);
}

uint32_t migration_compressions(const struct migration *g)
{
	struct migr_info info = { .size = sizeof(info), .flags = MIGR_INFO_COMPRESSIONS };

	/* A module that is older than the question has none. */
	return ioctl(g->m->fd, MIGR_INFO, &info) < 0 ? 0 : info.compressions;
}

uint32_t migration_nr_alive(const struct migration *g)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < g->nr_streams; i++)
		nr += g->streams[i].fd >= 0;
	return nr;
}

int migration_pass(struct migration *g, uint32_t flags, uint64_t hot_pages_max)
{
	struct migr_migration_pass pass = {
		.size = sizeof(pass),
		.flags = flags,
		.hot_pages_max = hot_pages_max,
	};
	int error;

	if (!ioctl(g->fd, MIGR_MIGRATION_PASS, &pass))
		return 0;
	error = errno;
	if (error == EBUSY)
		return error_set(g->error, -error,
				 "the writes to this memory are tracked already: is it being migrated or backed up?");
	return error_set(g->error, -error, "the kernel refused a pass: %s", strerror(error));
}

int migration_limit(struct migration *g, uint64_t pages_per_second)
{
	struct migr_limit limit = {
		.size = sizeof(limit),
		.flags = MIGR_LIMIT_SET,
		.pages_per_second = pages_per_second,
	};
	int error;

	if (!ioctl(g->fd, MIGR_MIGRATION_LIMIT, &limit))
		return 0;
	error = errno;
	return error_set(g->error, -error, "cannot limit what the VM writes: %s",
			 strerror(error));
}

int migration_status(struct migration *g, struct migr_migration_status *status)
{
	int error;

	*status = (struct migr_migration_status){ .size = sizeof(*status) };
	if (!ioctl(g->fd, MIGR_MIGRATION_STATUS, status))
		return 0;
	error = errno;
	return error_set(g->error, -error, "cannot read the state of the migration: %s",
			 strerror(error));
}

static bool is_in_vain(const void *data)
{
	const struct control *c = data;
	struct pollfd p[2] = {
		{ .fd = c->cancel_fd, .events = POLLIN },
		{ .fd = c->fd, .events = POLLRDHUP },
	};

	return poll(p, 2, 0) > 0;
}

static int why_in_vain(struct control *c)
{
	json_t *message;
	int error;

	if (socket_wait(-1, 0, c->cancel_fd, now_ns()) == -ECANCELED)
		return error_set(c->error, -ECANCELED, "cancelled");
	/* The peer may have said why, after something else. */
	do {
		error = control_receive(c, c->timeout_ms, &message);
		json_decref(message);
	} while (!error);
	return error;
}

int migration_digest(struct migration *g, struct control *c, struct migr_digest *digest)
{
	struct migr_digest digests[MIGR_REGIONS_MAX];
	struct migration_region *r;
	uint32_t id, n = 0;
	int error;

	for (id = 0; id < MIGR_REGIONS_MAX; id++) {
		r = migration_region(g, id);
		if (!r)
			continue;
		error = digest_region(r->fd, g->m->info.page_size, is_in_vain, c, &digests[n++]);
		if (error > 0)
			return why_in_vain(c);
		if (error)
			return error_set(g->error, error, "cannot read region %u '%s' for its digest: %s",
					 id, r->name, strerror(-error));
	}
	digest_combine(digests, n, digest);
	return 0;
}

static void *run_stream(void *arg)
{
	struct migr_stream_run run = { .size = sizeof(run) };
	struct migration_stream *s = arg;
	int ret;

	do {
		ret = ioctl(s->fd, MIGR_STREAM_RUN, &run);
	} while (ret < 0 && errno == EINTR);
	s->error = ret < 0 ? -errno : 0;
	atomic_store(&s->returned, true);
	eventfd_write(s->g->done_fd, 1);
	return NULL;
}

static int start_stream(struct migration_stream *s)
{
	int error;

	atomic_store(&s->returned, false);
	error = thread_start(&s->thread, run_stream, s);
	if (error)
		return error_set(s->g->error, error, "cannot make a thread for a stream: %s",
				 strerror(-error));
	s->running = true;
	return 0;
}

int migration_start(struct migration *g)
{
	int error = 0;

	for (uint32_t i = 0; i < g->nr_streams && !error; i++)
		if (g->streams[i].fd >= 0 && !g->streams[i].running)
			error = start_stream(&g->streams[i]);
	return error;
}

/* The error that a run returned, or, if it was ended for another's, that one. */
static int run_failed(struct migration *g, int error)
{
	struct migr_migration_status status;

	if (!migration_status(g, &status) && status.error)
		error = -(int)status.error;
	switch (error) {
	case -EPROTO:
		return error_set(g->error, error, "the peer sent a bad frame on the stream");
	case -EPROTONOSUPPORT:
		return error_set(g->error, error, "the peer's kernel module speaks another version of the stream");
	case -EPIPE:
	case -ECONNRESET:
		return error_set(g->error, -ECONNRESET, "the stream's connection was closed by the peer");
	case -ETIMEDOUT:
	case -EAGAIN:
		return error_set(g->error, -ETIMEDOUT, "nothing moved on the stream for too long");
	case -EKEYEXPIRED:
		return error_set(g->error, error,
				 "the stream's key has encrypted as much as is safe: have more streams, or CHACHA20-POLY1305");
	case -EBADMSG:
		return error_set(g->error, error, "what came on the stream cannot be decrypted or expanded");
	case -ENOMEM:
	case -ENOSPC:
		return error_set(g->error, error, "no memory for the pages: %s", strerror(-error));
	default:
		return error_set(g->error, error, "the stream failed: %s", strerror(-error));
	}
}

/* One that failed is of no more use. */
static void join_stream(struct migration_stream *s)
{
	pthread_join(s->thread, NULL);
	s->running = false;
	if (!s->error)
		return;
	s->g->run_error = s->error;
	close_fd(&s->fd);
}

int migration_join(struct migration *g, bool any, bool *over)
{
	bool succeeded = false, running = false;
	eventfd_t value;

	eventfd_read(g->done_fd, &value);
	for (uint32_t i = 0; i < g->nr_streams; i++) {
		struct migration_stream *s = &g->streams[i];

		if (s->running && atomic_load(&s->returned))
			join_stream(s);
		running |= s->running;
		succeeded |= s->fd >= 0 && !s->running;
	}
	*over = !running || (any && succeeded);
	return *over && !succeeded ? run_failed(g, g->run_error) : 0;
}

void migration_stop(struct migration *g)
{
	eventfd_t value;
	uint32_t i;

	for (i = 0; i < g->nr_streams; i++)
		if (g->streams[i].running)
			migration_cut_stream(g, i);
	for (i = 0; i < g->nr_streams; i++)
		if (g->streams[i].running)
			join_stream(&g->streams[i]);
	eventfd_read(g->done_fd, &value);
}

bool run_cancel(atomic_int *state, int cancel_fd)
{
	int going = RUN_GOING, idle = RUN_IDLE;

	if (!atomic_compare_exchange_strong(state, &going, RUN_CANCELLED) &&
	    !atomic_compare_exchange_strong(state, &idle, RUN_CANCELLED))
		return false;
	eventfd_write(cancel_fd, 1);
	return true;
}

const char *migr_phase_name(enum migr_phase phase)
{
	static const char *const names[] = {
		[MIGR_PHASE_CONNECT] = "connect",
		[MIGR_PHASE_PREPARE] = "prepare",
		[MIGR_PHASE_PASSES] = "passes",
		[MIGR_PHASE_PAUSE] = "pause",
		[MIGR_PHASE_LAST_PASS] = "last-pass",
		[MIGR_PHASE_VERIFY] = "verify",
		[MIGR_PHASE_STATE] = "state",
		[MIGR_PHASE_COMMIT] = "commit",
		[MIGR_PHASE_DONE] = "done",
	};

	return (unsigned int)phase < sizeof(names) / sizeof(*names) ? names[phase] : "?";
}

const char *migr_compression_name(uint32_t compression)
{
	static const char *const names[] = {
		[MIGR_COMPRESSION_NONE] = "none",
		[MIGR_COMPRESSION_LZ4] = "lz4",
		[MIGR_COMPRESSION_ZSTD] = "zstd",
	};

	return compression < sizeof(names) / sizeof(*names) ? names[compression] : NULL;
}

uint32_t compression_find(const char *name)
{
	const char *other;
	uint32_t c;

	for (c = MIGR_COMPRESSION_LZ4; (other = migr_compression_name(c)); c++)
		if (name && !strcmp(name, other))
			return c;
	return MIGR_COMPRESSION_NONE;
}
