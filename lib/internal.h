/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of libmigr share; nothing of it is exported.
 */
#ifndef LIBMIGR_INTERNAL_H
#define LIBMIGR_INTERNAL_H

#include <net/if.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

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
/* Until then; 0 if that is over. */
uint32_t left_ms(uint64_t deadline_ns);

/* A thread that handles no signals; a negative errno if there can be none. */
int thread_start(pthread_t *thread, void *(*run)(void *), void *arg);

struct migr {
	int fd;
	struct migr_info info;
	struct error error;
};

/* As long as stop(), unless NULL, says no, which is asked now and then; 1: it said yes. */
int digest_region(int region, uint32_t page_size, bool (*stop)(const void *data), const void *data,
		  struct migr_digest *digest);
void digest_combine(const struct migr_digest *digests, unsigned int count,
		    struct migr_digest *out);
int digest_parse(const char *hex, struct migr_digest *digest);

/*
 * Sockets. Addresses are as migr_source_run() describes them. Waiting ends
 * with -ECANCELED when cancel_fd (an eventfd, or -1) becomes readable.
 */
#define SOCKET_HOST_MAX	256

int socket_connect(const char *address, int cancel_fd, uint32_t timeout_ms,
		   struct error *e);
/*
 * Begin to connect, from an address of the same family and over a device unless
 * they are NULL; finish once it can be written to.
 */
int socket_start(const struct sockaddr *to, socklen_t length, const struct sockaddr *from,
		 const char *device);
int socket_finish(int fd, uint32_t timeout_ms);
int socket_listen(const char *address, struct error *e);
int socket_options(int fd, uint32_t timeout_ms);
void socket_peer(int fd, char *text, size_t size);
/* What an address is of, if not of TCP: "a UNIX socket"; else NULL. */
const char *socket_kind(const char *address);
/* What follows "vsock:", of an address to listen on if it is passive. */
struct sockaddr_vm;
int socket_vsock(const char *text, bool passive, struct sockaddr_vm *svm, struct error *e);
/* The host of an address of TCP. */
int socket_host(const char *address, char host[SOCKET_HOST_MAX], struct error *e);
/*
 * Wait for one of events on fd until deadline_ns (0: for ever). What is ready when
 * that has passed already is late.
 */
int socket_wait(int fd, short events, int cancel_fd, uint64_t deadline_ns);

/*
 * Links: who is at which address, which of two hosts' interfaces reach each
 * other, and how many streams go over them.
 */
#define ADDRESSES_MAX	64		/* that a host offers */
#define LINKS_MAX	16

/* An address of an interface, or, by its prefix, a network. */
struct host_address {
	char name[IF_NAMESIZE];
	int family;
	uint8_t bytes[16];
	uint8_t prefix;
	uint32_t mtu;
	uint32_t speed;			/* Mbit/s; 0: unknown */
	uint16_t port;			/* to connect to there; 0: nothing is known of it */
};

struct host_link {
	struct host_address here, there;
	bool bound;			/* its connections keep to the interface */
	uint32_t speed;			/* the slower side's */
	unsigned int streams;		/* that it is to have */
};

/*
 * The addresses of this host that others can reach now, which are in a network, and on an
 * interface and in a network of lists; NULL: any. No others count, where there are more
 * than can be told of. How many, or an error.
 */
int links_find(struct host_address addresses[ADDRESSES_MAX], const struct host_address *within,
	       const char *names, const char *networks, struct error *e);
bool links_is_running(const char *name);
bool links_in_network(const struct host_address *a, const struct host_address *network);
/* Lists of names and of networks, separated by commas. */
int links_check_names(const char *names, struct error *e);
int links_check_networks(const char *networks, struct error *e);
/* Keep those on an interface and in a network that are in the lists; NULL: any. */
unsigned int links_filter(struct host_address *addresses, unsigned int nr, const char *names,
			  const char *networks);
const struct host_address *links_find_address(const struct host_address *addresses,
					      unsigned int nr, const struct host_address *a);
/* Pairs on one network, the fastest first; no interface is in two of them. */
unsigned int links_match(const struct host_address *here, unsigned int nr_here,
			 const struct host_address *there, unsigned int nr_there,
			 struct host_link links[LINKS_MAX]);
struct links_wanted {
	const char *names, *networks;	/* lists; NULL: any */
	bool restricted;		/* the other side's addresses are all that it allows */
	bool named_only;		/* without a list the path of the control channel alone */
};

/*
 * The links to use. The path of the control channel comes first, unless the other side
 * does not allow it. It is no pair of interfaces if a router is in it.
 */
unsigned int links_choose(struct host_address *here, unsigned int nr_here,
			  struct host_address *there, unsigned int nr_there,
			  const struct host_link *path, const struct links_wanted *wanted,
			  struct host_link links[LINKS_MAX]);
/*
 * Share streams out by speed, one for each link before any has two; 0: as many as
 * the links can use. Returns how many there are.
 */
unsigned int links_share(struct host_link *links, unsigned int nr, unsigned int streams);
/* Only what both know of it counts for both. */
uint32_t links_speed(const struct host_address *here, const struct host_address *there);
/*
 * None counts for more than all may send together, in bytes a second: a slow one would
 * have next to no share, and be what each pass waits for.
 */
void links_limit(struct host_link *links, unsigned int nr, uint64_t limit);
/* The share of a limit that each of the streams that are alive on a link has. */
uint64_t links_pace(const struct host_link *links, const unsigned int *alive, unsigned int nr,
		    unsigned int link, uint64_t limit);
bool links_parse_address(const char *text, struct host_address *a);
/* False if a socket's address is not of IP. */
bool links_from_socket(const struct sockaddr_storage *socket, struct host_address *a);
/* With port, unless that of the address is known. */
socklen_t links_to_socket(const struct host_address *a, uint16_t port,
			  struct sockaddr_storage *socket);
json_t *links_pack(const struct host_address *addresses, unsigned int nr);
/* What a peer says of itself; how many, or -EPROTO. */
int links_unpack(const json_t *list, struct host_address addresses[ADDRESSES_MAX]);

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
/*
 * End what we say, and read what the peer still sends, until it closes: to close with
 * bytes unread could destroy our words.
 */
void control_goodbye(const struct control *c, uint32_t timeout_ms);
/* Make text safe to print and to send: ASCII without control characters. */
void control_clean(char *text);

/*
 * Encryption: our certificate and those whom we trust. Both sides make a handshake
 * before the first message of a connection, which then is one that the kernel
 * encrypts; c says what is read and written, and how long that may take.
 */
struct tls;

/* Of whom has a certificate: its digest. */
struct tls_identity {
	unsigned char bytes[32];
};

/* NULL if it shall be insecure. What options name is used as long as it exists. */
int tls_open(const struct migr_tls *options, struct tls **tls, struct error *e);
/* One more user, who closes it as well. */
struct tls *tls_get(struct tls *tls);
void tls_close(struct tls *tls);
/* Whether the files are still those that were read. */
bool tls_is_current(const struct tls *tls);
/* host: the name that the destination must have, unless options say another. */
int tls_connect(struct tls *tls, struct control *c, const char *host,
		struct tls_identity *identity);
int tls_accept(struct tls *tls, struct control *c, uint32_t timeout_ms,
	       struct tls_identity *identity);
/* How many a socket has encrypted with its key; 0 if there may be any number. */
uint64_t tls_records(int fd);

/*
 * Connections of whom it is not known yet what they want. When ready_fd is readable
 * one has said it, or will not.
 */
#define NEWCOMERS_MAX	32

struct newcomer {
	struct control control;		/* whose error is to be replaced */
	struct error error;
	struct tls *tls;		/* that it was met with, or NULL */
	struct tls_identity identity;	/* with tls */
	char from[SOCKET_HOST_MAX];	/* its address */
	json_t *message;		/* the first one */
	int failed;			/* or why there is none */
};

struct newcomer_thread {
	struct newcomers *all;
	struct newcomer newcomer;
	pthread_t thread;
	bool used;
	atomic_bool done;
	uint64_t number;		/* in the order of their coming */
};

struct newcomers {
	const struct migr_tls *options;
	struct tls *tls;		/* NULL: insecure */
	bool settled;			/* on that, whatever becomes of the files */
	const char *peer;
	int cancel_fd;
	int ready_fd;
	uint64_t nr;			/* that have come */
	struct newcomer_thread threads[NEWCOMERS_MAX];
};

/* Options and peer are used as long as they are there. */
int newcomers_init(struct newcomers *all, const struct migr_tls *options, const char *peer,
		   int cancel_fd, struct error *e);
void newcomers_exit(struct newcomers *all);
/* Takes fd over. timeout_ms: what the time limit of its control channel shall be. */
void newcomers_greet(struct newcomers *all, int fd, uint32_t timeout_ms);
/* One that needs to be waited for no more, which is the caller's to close; false: none. */
bool newcomers_next(struct newcomers *all, struct newcomer *next);
void newcomer_close(struct newcomer *n);
/* Meet all others as this one, whose connection and message are kept. */
void newcomers_settle(struct newcomers *all, struct newcomer *n);

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
	uint32_t nr_streams;		/* places that have been used */
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
/* The same number on both sides. Returns its place in streams. */
int migration_add_stream(struct migration *g, int socket, uint32_t id, uint32_t flags,
			 uint32_t compression, uint32_t compression_cpu);
/* Take one away that no run has been started for. */
void migration_drop_stream(struct migration *g, uint32_t place);
/* Cut its connection: its run, if there is one, fails. */
void migration_cut_stream(struct migration *g, uint32_t place);
/* What this kernel can compress with: bit n for number n of enum migr_compression. */
uint32_t migration_compressions(const struct migration *g);
uint32_t migration_nr_alive(const struct migration *g);
int migration_pass(struct migration *g, uint32_t flags, uint64_t hot_pages_max);
/* Pages a second that the VM may make dirty; 0: no limit. */
int migration_limit(struct migration *g, uint64_t pages_per_second);
int migration_status(struct migration *g, struct migr_migration_status *status);
/* Ends early if the run is cancelled or the peer is gone. */
int migration_digest(struct migration *g, struct control *c, struct migr_digest *digest);
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

/*
 * The streams of a source, spread over the links to the destination.
 */
struct spread_link {
	struct host_link link;
	uint64_t retry_ns;		/* not to be tried before */
	uint32_t failures;		/* since it last carried its part of a pass */
};

struct spread {
	struct migration *g;
	struct control *control;
	const struct migr_source_options *options;
	struct tls *tls;		/* NULL: insecure */
	const char *host;		/* whose certificate it has to be, with tls */
	struct tls_identity identity;	/* of the control channel's, with tls */
	const char *address;		/* of the destination, unless by IP */
	struct sockaddr_storage peer;	/* of the control channel */
	socklen_t peer_length;
	struct spread_link links[LINKS_MAX];
	uint32_t nr_links;
	uint32_t compression;		/* of all streams */
	struct {
		int fd;			/* the stream's socket; -1: none */
		uint32_t link;
		uint64_t since_ns;
		uint64_t answered_bytes;	/* that had come by the end of the last pass */
		bool worn;		/* another is to take its place, or has */
	} sockets[MIGR_STREAMS_MAX];
	bool renewable;			/* the destination gives more tokens if asked */
	bool asked;			/* and has been */
	json_t *tokens;
	size_t next_token;		/* of tokens, the first not used */
	uint32_t next_id;		/* of the stream that it admits */
	int opening_fd;			/* connection being made; -1: none */
	uint32_t opening_link;
	uint64_t opening_deadline_ns;
	uint64_t watched_ns;
	uint64_t records_max;		/* with one key, from which on it is worn */
	uint64_t answer_ns;		/* the least that the destination took for one */
};

void spread_init(struct spread *sp, struct migration *g, struct control *control,
		 const struct migr_source_options *options);
/* Choose the links to the destination, at address, from what its "ready" says. */
int spread_plan(struct spread *sp, const char *address, json_t *ready);
/* Open the streams, as many as can be; an error if that is none. */
int spread_open(struct spread *sp);
/* More tokens have come. */
int spread_tokens(struct spread *sp, json_t *message);
/*
 * From time to time, and when opening_fd can be written to: see to streams that
 * died, cut those whose link did, and open them anew.
 */
int spread_tend(struct spread *sp, bool reopen);
/* A pass that began then is complete: what carried a part of it all along works. */
void spread_passed(struct spread *sp, uint64_t begun_ns);
/* Open no more. */
int spread_settle(struct spread *sp);
/* Over how many it has streams. */
uint32_t spread_nr_links(const struct spread *sp);
void spread_close(struct spread *sp);

/* Cancelling against committing: whichever comes first wins. */
enum run_state { RUN_IDLE, RUN_GOING, RUN_CANCELLED, RUN_COMMITTED };

bool run_cancel(atomic_int *state, int cancel_fd);

#endif /* LIBMIGR_INTERNAL_H */
