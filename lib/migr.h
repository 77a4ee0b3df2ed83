/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libmigr: guest memory on /dev/migr, its write tracking, and the moving of a
 * running virtual machine to another host.
 *
 * Conventions
 *   - Functions that can fail return a negative errno, or 0, a count or a
 *     descriptor. The handle they were given then holds a sentence that says
 *     what was wrong; it stays until the next failure on that handle.
 *   - No global state. A handle is used by one thread at a time, except
 *     migr_source_cancel() and migr_destination_cancel(), which any thread and
 *     any signal handler may call while the handle exists.
 *   - Regions and trackers are plain file descriptors: close() ends the use.
 *     Every descriptor returned is close-on-exec.
 *   - The library writes to sockets with MSG_NOSIGNAL and never prints. Its
 *     only threads are those that carry a stream, and of a destination those
 *     that meet who connects; all signals are blocked in them.
 *   - Times are in nanoseconds of CLOCK_MONOTONIC unless the name says ms.
 */
#ifndef LIBMIGR_H
#define LIBMIGR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/migr.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define MIGR_DEVICE		"/dev/migr"
#define MIGR_DEFAULT_PORT	"4242"
#define MIGR_VM_NAME_MAX	256

/* ---- the device ------------------------------------------------------- */

/* An open /dev/migr. */
struct migr;

/*
 * Open the device and check that the module speaks this library's interface.
 *
 * On failure *m is a handle that only migr_error() and migr_close() take (NULL
 * after -ENOMEM). -ENOENT, -ENODEV or -ENXIO: the module is not loaded.
 * -EACCES: not in the device's group. -EPROTONOSUPPORT: another interface.
 */
int migr_open(struct migr **m);
void migr_close(struct migr *m);

/* The sentence about the last failure; "" before the first. */
const char *migr_error(const struct migr *m);

/* What the module can do; valid while the handle exists. */
const struct migr_info *migr_info(const struct migr *m);

/* ---- regions ---------------------------------------------------------- */

/*
 * Make a region of length bytes (a multiple of the page size), all zero.
 * name is for people: printable ASCII, below MIGR_NAME_MAX, may be empty.
 * Returns its descriptor.
 */
int migr_region_create(struct migr *m, const char *name, uint64_t length);

/* Map all of a region, shared, readable and writable. */
int migr_region_map(struct migr *m, int region, void **address, size_t *length);

/* Length, resident bytes, number and name of a region; tracked or not. */
int migr_region_info(struct migr *m, int region, struct migr_region_info *info);

/*
 * The region that belongs to a descriptor: of /dev/migr through which it was
 * mapped, or of the region itself. Returns a new descriptor. -ENOENT: nothing
 * has been mapped through it. -ENOTTY: it is neither.
 */
int migr_region_get(struct migr *m, int fd);

struct migr_region {
	int fd;				/* the caller closes it */
	struct migr_region_info info;
};

/*
 * Take the regions of another process, in the order in which they were made.
 * Needs the permission to ptrace it. Returns how many were stored, at most
 * max. -ENOENT: the process has none. -ESRCH: there is no such process.
 * -EPERM, -EACCES: not permitted. -E2BIG: there are more than max.
 */
int migr_region_take(struct migr *m, pid_t pid, struct migr_region *regions,
		     unsigned int max);

/*
 * How many pages of a region are pinned for DMA now, which looks through all of
 * its memory. They are sent in every pass. See struct migr_region_pinned.
 */
int migr_region_pinned(struct migr *m, int region, uint64_t *pages);

/* XXH3, 128 bit, high half first. */
struct migr_digest {
	uint8_t bytes[16];
};

/* Size of a digest in hexadecimal, with its terminating NUL. */
#define MIGR_DIGEST_HEX		33

/*
 * Digest of the content of a region: over the index (64 bit, little-endian)
 * and digest of every page that is not all zero, so a hole and a page of
 * zeroes are alike. Holes are not populated. Writers should be stopped.
 */
int migr_region_digest(struct migr *m, int region, struct migr_digest *digest);
void migr_digest_hex(const struct migr_digest *digest, char hex[MIGR_DIGEST_HEX]);

/* ---- write tracking --------------------------------------------------- */

/*
 * Start to track the writes to a region; returns a tracker, whose close()
 * stops it. -EBUSY: tracked already.
 */
int migr_tracker_start(struct migr *m, int region);

/*
 * Fetch and clear: which of the pages [first, first + count) have been written
 * since the last fetch of them. first is a multiple of 64, count too unless
 * the range ends with the region; bitmap has (count + 63) / 64 words. dirty and
 * pinned may be NULL; see struct migr_tracker_fetch for what they count.
 */
int migr_tracker_fetch(struct migr *m, int tracker, uint64_t first, uint64_t count,
		       uint64_t *bitmap, uint64_t *dirty, uint64_t *pinned);

/*
 * Report writes to a region that its tracking, by a tracker or a migration,
 * cannot see: bit n of the bitmap stands for page first + n. first and count are
 * as above. dirtied, which may be NULL, counts the pages not known to be dirty
 * before. A write is reported after it has happened, and after its log has been
 * reset to log the next one. See struct migr_region_merge.
 */
int migr_region_merge(struct migr *m, int region, uint64_t first, uint64_t count,
		      const uint64_t *bitmap, uint64_t *dirtied);

/*
 * Slow writers down to so many pages a second that become dirty, all threads
 * together; 0: no limit. See struct migr_limit.
 */
int migr_tracker_limit(struct migr *m, int tracker, uint64_t pages_per_second);

/* ---- a migration: what both sides share ------------------------------- */

enum migr_phase {
	MIGR_PHASE_CONNECT,		/* connecting, or waiting for a source */
	MIGR_PHASE_PREPARE,		/* the destination prepares the VM */
	MIGR_PHASE_PASSES,		/* the VM runs, its memory is copied */
	MIGR_PHASE_PAUSE,		/* the VM is being stopped */
	MIGR_PHASE_LAST_PASS,		/* it is stopped, the rest is copied */
	MIGR_PHASE_VERIFY,		/* digests of both sides are compared */
	MIGR_PHASE_STATE,		/* device state moves */
	MIGR_PHASE_COMMIT,		/* the destination has been told to go on */
	MIGR_PHASE_DONE,
};

/* A word for people and programs: "connect", "last-pass", ... */
const char *migr_phase_name(enum migr_phase phase);

struct migr_progress {
	enum migr_phase phase;
	uint32_t page_size;
	uint64_t elapsed_ns;		/* since the run began */
	uint64_t bytes_per_second;	/* on the wire, in the pass of now */
	uint64_t predicted_downtime_ns;	/* after the latest pass; 0: unknown yet */
	uint32_t streams;		/* that have not failed */
	uint32_t links;			/* source: over how many links */
	struct migr_migration_status status;	/* zero before the first pass */
};

/* What came of a migration. */
enum migr_outcome {
	MIGR_OUTCOME_HERE,	/* the source runs it on; nobody else ever did */
	MIGR_OUTCOME_MOVED,	/* the destination runs it */
	MIGR_OUTCOME_UNKNOWN,	/* COMMIT was sent and not confirmed: the source stays paused */
	MIGR_OUTCOME_STUCK,	/* it was to go on here and could not be resumed */
};

/* "none", "lz4" or "zstd", for an enum migr_compression; NULL if there is no such. */
const char *migr_compression_name(uint32_t compression);

/* One pass over the memory; the last one is the one in the pause. */
struct migr_pass {
	uint64_t pages;			/* dirty when it began */
	uint64_t sent_pages;
	uint64_t dirtied_pages;		/* written since it began */
	uint64_t wire_bytes;
	uint64_t ns;
	uint64_t hot_pages;		/* written in every pass, and left to the last one */
	uint64_t limit;			/* pages a second the VM might write; 0: any number */
};

/* Filled by the run of either side, as far as it came. */
struct migr_result {
	enum migr_outcome outcome;
	uint32_t page_size;
	uint64_t ram_bytes;		/* of all regions */
	uint64_t total_ns;		/* from connection to the end */
	/*
	 * Source only: from the moment the VM stopped to the destination's word
	 * that it runs, without verify_ns.
	 */
	uint64_t downtime_ns;
	uint64_t verify_ns;		/* of the pause, spent on digests alone */
	uint64_t predicted_downtime_ns;	/* source: when it decided to stop the VM */
	bool limit_exceeded;		/* source: and that was above the limit */
	uint64_t send_ns;		/* all passes together */
	uint64_t state_bytes;		/* device state */
	uint32_t compression;		/* agreed on: an enum migr_compression */
	struct migr_migration_status status;
	const struct migr_pass *passes;	/* source; lives as long as the handle */
	uint32_t nr_passes;
	bool verified;			/* digests were compared */
	bool identical;			/* and were equal */
	struct migr_digest source_digest;
	struct migr_digest destination_digest;
};

/*
 * Who we are and whom we trust: files in PEM. Both sides show a certificate and
 * check the other's, and the kernels encrypt all that goes between them with TLS
 * 1.3. Zero in a field means its default.
 */
#define MIGR_TLS_CA		"/etc/migr/ca.pem"
#define MIGR_TLS_CERTIFICATE	"/etc/migr/cert.pem"
#define MIGR_TLS_KEY		"/etc/migr/key.pem"

struct migr_tls {
	const char *ca;			/* who has signed the peers' certificates */
	const char *certificate;	/* ours, and those between it and the CA's */
	const char *key;		/* its private key */
	/*
	 * Name or address that the peer's certificate must have. Default on the
	 * source: the host of the address that it connects to; on the
	 * destination: any.
	 */
	const char *peer;
	/* "AES-128-GCM", "AES-256-GCM" or "CHACHA20-POLY1305"; default: any of them */
	const char *cipher;
	bool insecure;			/* no certificates, and nothing is encrypted */
};

/* Find fault with them now: the errors of a run that could not use them. */
int migr_tls_check(struct migr *m, const struct migr_tls *tls);

/* ---- source ----------------------------------------------------------- */

struct migr_source;

/*
 * What the library asks of the VMM. A callback that fails returns a negative
 * errno and can say more with migr_source_fail().
 */
struct migr_source_ops {
	/*
	 * Report, with migr_region_merge(), what the VMM knows to have been
	 * written since the last call. Called before the first pass, when a log of
	 * writes has to begin; after each pass; when pause() and when save() have
	 * returned. May be NULL, unless options.reported is set.
	 */
	int (*collect)(struct migr_source *s, void *data);
	/*
	 * Stop the VM. When it returns 0 nothing writes to its memory any more,
	 * I/O in flight included. *stopped_ns is set to now; a VMM that knows
	 * better when the guest stopped changes it.
	 */
	int (*pause)(struct migr_source *s, void *data, uint64_t *stopped_ns);
	/*
	 * Give the device state with migr_source_write_state(). The memory has
	 * been sent: should it be written to, the migration fails (-EBUSY).
	 */
	int (*save)(struct migr_source *s, void *data);
	/*
	 * Let the VM go on here after a failure. Called once, if pause() had been
	 * called, whether or not it had succeeded; never once COMMIT is sent.
	 */
	int (*resume)(struct migr_source *s, void *data);
	/*
	 * About every 200 ms during passes and at each new phase; may be NULL.
	 * During passes migr_source_fail(), because the VMM has died say, ends
	 * the run.
	 */
	void (*progress)(struct migr_source *s, void *data, const struct migr_progress *p);
};

/* In compression of struct migr_source_options: the fastest that both sides have. */
#define MIGR_COMPRESSION_AUTO		UINT32_MAX
/* In compression_percent: however busy the CPUs are. */
#define MIGR_COMPRESSION_ALWAYS		UINT32_MAX

/* Zero in a field means its default. */
struct migr_source_options {
	const char *vm_name;		/* told to the destination; below MIGR_VM_NAME_MAX */
	uint32_t downtime_limit_ms;	/* 300 */
	uint32_t pass_limit;		/* 30: passes before the VM is stopped anyway */
	uint32_t state_ms;		/* 50: expected for saving and loading device state */
	uint32_t timeout_ms;		/* 30000: without progress of the connection or an answer */
	uint32_t prepare_timeout_ms;	/* 120000: for the destination to start its VMM */
	/*
	 * Connections to share the work, up to MIGR_STREAMS_MAX; by default one for
	 * each 10 Gbit/s that a link has, at most 8 for one link.
	 */
	uint32_t streams;
	/*
	 * Which links to use, separated by commas: this host's interfaces ("eth1,eth2");
	 * networks that both ends have to be in ("192.0.2.0/24"). By default all that
	 * both hosts have, of which that of the address is opened first, and the
	 * others once it carries the first pass; that alone if it is insecure.
	 */
	const char *links;
	const char *networks;
	/* Bytes a second, of all streams, from 12500; TCP only. By default any. */
	uint64_t max_bandwidth;
	/*
	 * MIGR_COMPRESSION_NONE: what to compress with where that pays. If one of
	 * the sides does not have it, nothing is compressed.
	 */
	uint32_t compression;
	uint32_t compression_percent;	/* 50: of the CPUs' time, if they are idle */
	bool verify;			/* compare digests in the pause */
	bool copy;			/* MIGR_STREAM_COPY */
	bool no_slowdown;		/* never slow the VM's writes down: the pause may be long */
	/*
	 * MIGR_WRITES_REPORTED: the memory is not write-protected, collect()
	 * tells of every write, or it is lost.
	 */
	bool reported;
	struct migr_tls tls;
};

int migr_source_new(struct migr *m, struct migr_source **s);
void migr_source_free(struct migr_source *s);
const char *migr_source_error(const struct migr_source *s);

/* For callbacks: set the error sentence, return error. */
int migr_source_fail(struct migr_source *s, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Add memory under a number that both sides know it by. The handle takes a
 * duplicate of the descriptor.
 */
int migr_source_add_region(struct migr_source *s, int region, uint32_t id,
			   const char *name);

/*
 * Move the VM to address ("host", "host:port", "[v6]:port", "unix:path" or
 * "vsock:cid:port") and return when it is known what came of it; result->outcome
 * says so, whatever is returned. A handle runs once.
 *
 * -ECANCELED: migr_source_cancel(). -EREMOTEIO: the destination refused or
 * failed; the sentence is its own. -ETIMEDOUT: no answer or no progress in time.
 * -EILSEQ: the digests differ. -EPROTO: it answered with nonsense. -ENOKEY: what
 * options.tls names cannot be used. -EKEYREJECTED: its certificate is refused.
 *
 * Until COMMIT is sent every failure leaves the VM running here. From then on
 * this side never resumes it by itself: if no answer comes the outcome is
 * MIGR_OUTCOME_UNKNOWN, and only the operator can know who has the VM.
 */
int migr_source_run(struct migr_source *s, const char *address,
		    const struct migr_source_options *options,
		    const struct migr_source_ops *ops, void *data,
		    struct migr_result *result);

/* In save(): the next bytes of the device state. */
int migr_source_write_state(struct migr_source *s, const void *bytes, size_t length);

/* End the run soon, with the VM running here; no effect once COMMIT is sent. */
void migr_source_cancel(struct migr_source *s);

/* ---- destination ------------------------------------------------------ */

struct migr_destination;

struct migr_request_region {
	uint32_t id;
	uint64_t length;
	char name[MIGR_NAME_MAX];
};

/* What a source wants to send. */
struct migr_request {
	char peer[128];			/* address of the source */
	char vm_name[MIGR_VM_NAME_MAX];	/* printable; may be empty */
	uint32_t nr_regions;
	struct migr_request_region regions[MIGR_REGIONS_MAX];
};

struct migr_destination_ops {
	/*
	 * Make a stopped VM and give every requested region with
	 * migr_destination_add_region().
	 */
	int (*prepare)(struct migr_destination *d, void *data,
		       const struct migr_request *request);
	/*
	 * All memory has arrived: take the device state, reading it to its end
	 * with migr_destination_read_state(). When it returns 0 the VM needs
	 * nothing more than resume().
	 */
	int (*load)(struct migr_destination *d, void *data);
	/* COMMIT has come: let the VM run. */
	int (*resume)(struct migr_destination *d, void *data);
	/*
	 * It failed before COMMIT: throw the VM away. Called once, if prepare()
	 * had been called.
	 */
	void (*abort)(struct migr_destination *d, void *data);
	/*
	 * As on the source; may be NULL. During passes a negative errno, because
	 * the VMM has died say, ends the run.
	 */
	int (*progress)(struct migr_destination *d, void *data,
			const struct migr_progress *p);
	/*
	 * Somebody connected and was sent away: why, and from where, as text that is
	 * safe to print. Not called for those who said nothing. May be NULL.
	 */
	void (*refused)(struct migr_destination *d, void *data, const char *peer,
			const char *why);
};

/* Zero in a field means its default. */
struct migr_destination_options {
	uint32_t timeout_ms;		/* 30000: as on the source */
	const char *networks;		/* those that streams shall use, as on the source; any */
	struct migr_tls tls;
};

int migr_destination_new(struct migr *m, struct migr_destination **d);
void migr_destination_free(struct migr_destination *d);
const char *migr_destination_error(const struct migr_destination *d);
int migr_destination_fail(struct migr_destination *d, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Listen on "address:port", ":port", "address", "unix:path", "vsock:port" or
 * "vsock:cid:port" from now on.
 */
int migr_destination_listen(struct migr_destination *d, const char *address);

/* In prepare(): the memory for a requested number. Takes a duplicate. */
int migr_destination_add_region(struct migr_destination *d, int region, uint32_t id);

/*
 * Wait for a source, without limit, and take one VM from it. Can be run again,
 * for the next one. result->outcome is MIGR_OUTCOME_MOVED if the VM runs here
 * now, MIGR_OUTCOME_STUCK if COMMIT came and resume() failed. The errors are
 * those of migr_source_run().
 */
int migr_destination_run(struct migr_destination *d,
			 const struct migr_destination_options *options,
			 const struct migr_destination_ops *ops, void *data,
			 struct migr_result *result);

/* In load(): the next bytes of the device state; 0 at its end. */
ssize_t migr_destination_read_state(struct migr_destination *d, void *bytes, size_t max);

/* End the run soon; no effect once COMMIT has come. */
void migr_destination_cancel(struct migr_destination *d);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif /* LIBMIGR_H */
