/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of libmigr share; nothing of it is exported.
 */
#ifndef LIBMIGR_INTERNAL_H
#define LIBMIGR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include <jansson.h>

#include "migr.h"

#define NS_PER_MS	1000000ull
#define NS_PER_S	1000000000ull

/* The sentence about the last failure of a handle. */
struct error {
	char text[512];
};

int error_set(struct error *e, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int error_vset(struct error *e, int error, const char *format, va_list args)
	__attribute__((format(printf, 3, 0)));

uint64_t now_ns(void);

struct migr {
	int fd;
	struct migr_info info;
	struct error error;
};

int digest_region(int region, uint32_t page_size, struct migr_digest *digest);
void digest_combine(const struct migr_digest *digests, unsigned int count,
		    struct migr_digest *out);
int digest_parse(const char *hex, struct migr_digest *digest);

/*
 * Sockets. Addresses are as migr_source_run() describes them. Waiting ends
 * with -ECANCELED when cancel_fd (an eventfd, or -1) becomes readable.
 */
int socket_connect(const char *address, int cancel_fd, uint32_t timeout_ms,
		   struct error *e);
int socket_listen(const char *address, struct error *e);
int socket_options(int fd, uint32_t timeout_ms);
void socket_peer(int fd, char *text, size_t size);
/* Wait for one of events on fd until deadline_ns (0: for ever). */
int socket_wait(int fd, short events, int cancel_fd, uint64_t deadline_ns);

/*
 * The control channel: messages of a 4-byte little-endian length and a JSON
 * object with a string "type". See Documentation/control-protocol.rst.
 */
#define CONTROL_VERSION		1
#define CONTROL_MESSAGE_MAX	(1u << 20)
/* How long the last word to a failing peer may take. */
#define FAREWELL_MS		2000

struct control {
	int fd;
	int cancel_fd;
	uint32_t timeout_ms;
	const char *peer;		/* "destination" or "source", for sentences */
	struct error *error;
};

int control_write(struct control *c, const void *bytes, size_t length);
int control_read(struct control *c, void *bytes, size_t length, uint64_t deadline_ns);
/* Steals the reference to message. */
int control_send(struct control *c, json_t *message);
/* The next message; an "error" of the peer becomes -EREMOTEIO and its sentence. */
int control_receive(struct control *c, uint64_t timeout_ms, json_t **message);
/* The next message, which must be of this type. */
int control_expect(struct control *c, const char *type, uint64_t timeout_ms,
		   json_t **message);
const char *control_type(const json_t *message);
/* json_unpack() of the fields of a message; what it gives lives as long as that. */
int control_unpack(struct control *c, json_t *message, const char *format, ...);
/* Tell the peer what went wrong; best effort. */
void control_send_error(struct control *c, const char *text);
/* Make text safe to print and to send: ASCII without control characters. */
void control_clean(char *text);

/*
 * When to stop the VM. The rate is that of the latest pass that was long
 * enough to measure, else of all passes together.
 */
struct prediction {
	uint64_t rate_bytes, rate_ns;	/* of the pass the rate is from */
	uint64_t all_bytes, all_ns;
	uint64_t least_dirty;		/* fewest dirty pages left after a pass */
	uint32_t stalled;		/* passes since then */
	uint32_t passes;
	uint32_t slowed;		/* passes with a limit to what the VM writes */
};

enum verdict {
	VERDICT_AGAIN,			/* another pass pays */
	VERDICT_FITS,			/* stop the VM: within the limit */
	VERDICT_EXCEEDS,		/* stop it: more passes are no help, or not allowed */
};

uint64_t prediction_after_pass(struct prediction *p,
			       const struct migr_migration_status *status,
			       uint32_t page_size, uint64_t fixed_ns);
enum verdict prediction_verdict(const struct prediction *p, uint64_t predicted_ns,
				uint64_t limit_ns, uint32_t pass_limit);
uint64_t prediction_slow(struct prediction *p, const struct migr_migration_status *status,
			 uint32_t page_size, uint64_t fixed_ns, uint64_t limit_ns,
			 uint32_t pass_limit);
uint64_t prediction_hot_pages(const struct prediction *p, uint32_t page_size, uint64_t fixed_ns,
			      uint64_t limit_ns);

/*
 * One side of a migration in the kernel, with the threads that run its streams.
 */
struct migration_region {
	int fd;
	uint32_t id;
	uint64_t length;
	char name[MIGR_NAME_MAX];
};

struct migration_stream {
	struct migration *g;
	int fd;				/* the kernel's stream; -1: none, or dead */
	pthread_t thread;
	bool running;			/* there is a thread to be joined */
	atomic_bool returned;		/* which will not take long */
	int error;			/* negative errno of the run */
};

struct migration {
	struct migr *m;
	struct error *error;
	int fd;				/* the kernel's migration */
	int done_fd;			/* eventfd: a run has returned */
	struct migration_stream streams[MIGR_STREAMS_MAX];
	uint32_t nr_streams;
	int run_error;			/* of the stream that failed last */
	struct migration_region regions[MIGR_REGIONS_MAX];
	uint32_t nr_regions;
};

int migration_init(struct migration *g, struct migr *m, struct error *e);
void migration_reset(struct migration *g);	/* back to before the first region */
void migration_destroy(struct migration *g);
/* region must be open: it is duplicated. */
int migration_add_region(struct migration *g, int region, uint32_t id, const char *name);
struct migration_region *migration_region(struct migration *g, uint32_t id);
uint64_t migration_ram_bytes(const struct migration *g);
int migration_create(struct migration *g, enum migr_role role, uint32_t region_flags);
/* Its number is how many there were before, on both sides. */
int migration_add_stream(struct migration *g, int socket, uint32_t flags,
			 uint32_t compression, uint32_t compression_cpu);
/* What this kernel can compress with: bit n for number n of enum migr_compression. */
uint32_t migration_compressions(const struct migration *g);
uint32_t migration_nr_alive(const struct migration *g);
int migration_pass(struct migration *g, uint32_t flags, uint64_t hot_pages_max);
/* Pages a second that the VM may make dirty; 0: no limit. */
int migration_limit(struct migration *g, uint64_t pages_per_second);
int migration_status(struct migration *g, struct migr_migration_status *status);
int migration_digest(struct migration *g, struct migr_digest *digest);
/* Start a thread for each stream that has none; done_fd tells when runs return. */
int migration_start(struct migration *g);
/*
 * After done_fd: join the threads of runs that have returned. Sets *over, and
 * returns how it went, once none is running, or, if any is set, one has succeeded.
 */
int migration_join(struct migration *g, bool any, bool *over);
/* Cut the connections, so that all runs return, and join them. */
void migration_stop(struct migration *g);

/* Its number by its name, which may be NULL; MIGR_COMPRESSION_NONE if there is none. */
uint32_t compression_find(const char *name);

/* Cancelling against committing: whichever comes first wins. */
enum run_state { RUN_IDLE, RUN_GOING, RUN_CANCELLED, RUN_COMMITTED };

bool run_cancel(atomic_int *state, int cancel_fd);

#endif /* LIBMIGR_INTERNAL_H */
