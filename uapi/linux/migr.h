/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * migr: moving the memory of running virtual machines between hosts.
 *
 * Every object is a file descriptor:
 *
 *   /dev/migr    the right to make the others; mmap() of a fresh open makes one
 *                region of that length and maps it
 *   region       guest memory: mmap(), fallocate(), lseek(SEEK_DATA), pread()
 *   tracker      write tracking of one region; closing it stops the tracking
 *   migration    one move of one VM, seen from one side
 *   stream       one connection of a migration; runs in the thread that calls
 *                %MIGR_STREAM_RUN
 *
 * Every ioctl takes a pointer to a structure that begins with its own size.
 * A kernel that knows a longer structure takes the missing tail as zero; one
 * that knows a shorter structure takes the call if the unknown tail is zero,
 * and fails with E2BIG if it is not. Unknown flags fail with EOPNOTSUPP.
 * Every descriptor the kernel returns is close-on-exec.
 *
 * Errors common to all: EFAULT (a bad pointer), EINVAL (a size below the first
 * version of the structure, a reserved field not zero), E2BIG, EOPNOTSUPP,
 * ENOMEM, EMFILE and ENFILE (no descriptor left), ENOTTY (the descriptor is of
 * another kind).
 */
#ifndef _UAPI_LINUX_MIGR_H
#define _UAPI_LINUX_MIGR_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * System calls on /dev/migr and on regions do, and fail, as they do on other
 * files, but for these:
 *
 * mmap() of /dev/migr or a region, which is shared memory and nothing else:
 *   EINVAL: MAP_PRIVATE, whatever the protection; a range that is not inside
 *   the region; for the mmap() that makes a region, an offset other than 0.
 *   EFBIG: that one is longer than &migr_info.region_max. ENOMEM.
 *   Later mappings of the same open are of the same region, at any offset in
 *   it; another open of /dev/migr makes another.
 *
 * fallocate() of a region allocates or, with FALLOC_FL_PUNCH_HOLE, makes a
 *   hole, as MADV_REMOVE does: these pages are zero and have no memory, and
 *   count as written. Punching beyond the end does nothing. EPERM: allocating
 *   beyond the end. /dev/migr has none: ENODEV.
 *
 * ftruncate(), truncate() and open() with O_TRUNC of a region: EPERM, unless
 *   the size stays the same. Of /dev/migr ftruncate() is EINVAL.
 *
 * write() of a region or /dev/migr and all its relatives, copy_file_range(),
 *   sendfile() and splice() to them included: EINVAL. Memory is written through
 *   mappings, which is where writes are tracked.
 *
 * read() of a region reads holes as zeroes and allocates none; of /dev/migr it
 *   is EINVAL. lseek() in a region finds data and holes; in /dev/migr it
 *   succeeds and does nothing.
 */

/** define MIGR_IOCTL_TYPE - the type of all ioctls here, see ioctl(2) */
#define MIGR_IOCTL_TYPE (0xE9)

/**
 * enum migr_cmd - the numbers of the ioctls
 * @MIGR_CMD_INFO: %MIGR_INFO
 * @MIGR_CMD_REGION_CREATE: %MIGR_REGION_CREATE
 * @MIGR_CMD_REGION_GET: %MIGR_REGION_GET
 * @MIGR_CMD_MIGRATION_CREATE: %MIGR_MIGRATION_CREATE
 * @MIGR_CMD_REGION_INFO: %MIGR_REGION_INFO
 * @MIGR_CMD_REGION_TRACK: %MIGR_REGION_TRACK
 * @MIGR_CMD_REGION_MERGE: %MIGR_REGION_MERGE
 * @MIGR_CMD_REGION_PINNED: %MIGR_REGION_PINNED
 * @MIGR_CMD_TRACKER_FETCH: %MIGR_TRACKER_FETCH
 * @MIGR_CMD_TRACKER_LIMIT: %MIGR_TRACKER_LIMIT
 * @MIGR_CMD_MIGRATION_ADD_REGION: %MIGR_MIGRATION_ADD_REGION
 * @MIGR_CMD_MIGRATION_ADD_STREAM: %MIGR_MIGRATION_ADD_STREAM
 * @MIGR_CMD_MIGRATION_PASS: %MIGR_MIGRATION_PASS
 * @MIGR_CMD_MIGRATION_STATUS: %MIGR_MIGRATION_STATUS
 * @MIGR_CMD_MIGRATION_LIMIT: %MIGR_MIGRATION_LIMIT
 * @MIGR_CMD_STREAM_RUN: %MIGR_STREAM_RUN
 * @MIGR_CMD_STREAM_SHUTDOWN: %MIGR_STREAM_SHUTDOWN
 *
 * Those of the device, of regions, trackers, migrations and streams begin at
 * 0x00, 0x10, 0x20, 0x30 and 0x40.
 */
enum migr_cmd {
	MIGR_CMD_INFO = 0x00,
	MIGR_CMD_REGION_CREATE,
	MIGR_CMD_REGION_GET,
	MIGR_CMD_MIGRATION_CREATE,

	MIGR_CMD_REGION_INFO = 0x10,
	MIGR_CMD_REGION_TRACK,
	MIGR_CMD_REGION_MERGE,
	MIGR_CMD_REGION_PINNED,

	MIGR_CMD_TRACKER_FETCH = 0x20,
	MIGR_CMD_TRACKER_LIMIT,

	MIGR_CMD_MIGRATION_ADD_REGION = 0x30,
	MIGR_CMD_MIGRATION_ADD_STREAM,
	MIGR_CMD_MIGRATION_PASS,
	MIGR_CMD_MIGRATION_STATUS,
	MIGR_CMD_MIGRATION_LIMIT,

	MIGR_CMD_STREAM_RUN = 0x40,
	MIGR_CMD_STREAM_SHUTDOWN,
};

/** define MIGR_ABI_VERSION - version of this interface */
#define MIGR_ABI_VERSION	1

/** define MIGR_NAME_MAX - size of a region's name, with its terminating NUL */
#define MIGR_NAME_MAX		64

/** define MIGR_REGIONS_MAX - how many regions one migration can have */
#define MIGR_REGIONS_MAX	64

/** define MIGR_CHUNK_PAGES - pages in a chunk, the unit of claiming and sending */
#define MIGR_CHUNK_PAGES	512

/* In flags of struct migr_info. */
/** define MIGR_INFO_COMPRESSIONS - look what there is to compress with, too */
#define MIGR_INFO_COMPRESSIONS	(1u << 0)

/**
 * struct migr_info - ioctl(MIGR_INFO) on /dev/migr
 * @size: sizeof(struct migr_info)
 * @flags: %MIGR_INFO_COMPRESSIONS or 0
 * @abi_version: out, %MIGR_ABI_VERSION of the module
 * @wire_version: out, newest version of the wire protocol it speaks
 * @page_size: out, bytes in a page
 * @chunk_pages: out, pages in a chunk, %MIGR_CHUNK_PAGES
 * @region_max: out, largest region in bytes
 * @compressions: out, with %MIGR_INFO_COMPRESSIONS: bit n is set if this kernel has
 *	number n of enum migr_compression; their modules are loaded for it. Else 0
 * @__reserved: must be 0
 *
 * What the module can do.
 */
struct migr_info {
	__u32 size;
	__u32 flags;
	__u32 abi_version;
	__u32 wire_version;
	__u32 page_size;
	__u32 chunk_pages;
	__aligned_u64 region_max;
	__u32 compressions;
	__u32 __reserved;
};

#define MIGR_INFO _IO(MIGR_IOCTL_TYPE, MIGR_CMD_INFO)

/**
 * struct migr_region_create - ioctl(MIGR_REGION_CREATE) on /dev/migr
 * @size: sizeof(struct migr_region_create)
 * @flags: must be 0
 * @length: bytes; a multiple of the page size, above 0, at most
 *	&migr_info.region_max
 * @name: NUL-terminated name of printable ASCII, for people; may be empty
 * @fd: out, the region
 * @__reserved: must be 0
 *
 * Make a region: zero-filled shared memory of a fixed size. Nothing is
 * allocated until it is touched. It lives until its last descriptor and
 * mapping are gone.
 *
 * EINVAL: @length is 0 or not a multiple of the page size, or @name is not
 * as described. EFBIG: @length is above the limit.
 */
struct migr_region_create {
	__u32 size;
	__u32 flags;
	__aligned_u64 length;
	__u8 name[MIGR_NAME_MAX];
	__s32 fd;
	__u32 __reserved;
};

#define MIGR_REGION_CREATE _IO(MIGR_IOCTL_TYPE, MIGR_CMD_REGION_CREATE)

/**
 * struct migr_region_get - ioctl(MIGR_REGION_GET) on /dev/migr
 * @size: sizeof(struct migr_region_get)
 * @flags: must be 0
 * @fd: out, the region
 * @__reserved: must be 0
 *
 * The region that an mmap() of this open of /dev/migr made, which is how to
 * come by the memory of a VMM that knows nothing of migr.
 *
 * ENOENT: nothing has been mapped through this open. EBADF: it is not open for
 * reading and writing.
 */
struct migr_region_get {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 __reserved;
};

#define MIGR_REGION_GET _IO(MIGR_IOCTL_TYPE, MIGR_CMD_REGION_GET)

/**
 * enum migr_role - which side of a migration
 * @MIGR_ROLE_SOURCE: memory leaves from here
 * @MIGR_ROLE_DESTINATION: memory arrives here
 */
enum migr_role {
	MIGR_ROLE_SOURCE = 1,
	MIGR_ROLE_DESTINATION = 2,
};

/**
 * struct migr_migration_create - ioctl(MIGR_MIGRATION_CREATE) on /dev/migr
 * @size: sizeof(struct migr_migration_create)
 * @flags: must be 0
 * @role: one of enum migr_role
 * @fd: out, the migration
 *
 * Make one side of a migration. Closing its last descriptor (streams hold it
 * as well) stops the tracking of its regions; nothing else is undone.
 *
 * EINVAL: @role is not a role.
 */
struct migr_migration_create {
	__u32 size;
	__u32 flags;
	__u32 role;
	__s32 fd;
};

#define MIGR_MIGRATION_CREATE _IO(MIGR_IOCTL_TYPE, MIGR_CMD_MIGRATION_CREATE)

/* In state of struct migr_region_info. */
/** define MIGR_REGION_TRACKED - writes to the region are being tracked */
#define MIGR_REGION_TRACKED	(1u << 0)

/**
 * struct migr_region_info - ioctl(MIGR_REGION_INFO) on a region
 * @size: sizeof(struct migr_region_info)
 * @flags: must be 0
 * @length: out, bytes
 * @resident: out, bytes in memory now: neither holes nor swapped out
 * @id: out, number of the region, unique until the module is unloaded
 * @name: out, the name it was made with; "" if mmap() made it
 * @state: out, %MIGR_REGION_TRACKED if writes are tracked now
 * @__reserved: must be 0
 */
struct migr_region_info {
	__u32 size;
	__u32 flags;
	__aligned_u64 length;
	__aligned_u64 resident;
	__aligned_u64 id;
	__u8 name[MIGR_NAME_MAX];
	__u32 state;
	__u32 __reserved;
};

#define MIGR_REGION_INFO _IO(MIGR_IOCTL_TYPE, MIGR_CMD_REGION_INFO)

/**
 * struct migr_region_track - ioctl(MIGR_REGION_TRACK) on a region
 * @size: sizeof(struct migr_region_track)
 * @flags: must be 0
 * @fd: out, the tracker
 * @__reserved: must be 0
 *
 * Start to track writes. At first every page counts as dirty, and a page
 * costs its writers nothing until it has been fetched once. Closing the
 * tracker stops the tracking and makes the region plain shared memory again.
 *
 * EBUSY: tracked already, by another tracker or by a migration. EBADF: the
 * region's descriptor is not open for writing.
 * EINTR: a fatal signal came while waiting for a mapping's lock.
 */
struct migr_region_track {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 __reserved;
};

#define MIGR_REGION_TRACK _IO(MIGR_IOCTL_TYPE, MIGR_CMD_REGION_TRACK)

/**
 * struct migr_region_merge - ioctl(MIGR_REGION_MERGE) on a region
 * @size: sizeof(struct migr_region_merge)
 * @flags: must be 0
 * @first_page: first page of the range, in pages from the region's start; a
 *	multiple of 64
 * @nr_pages: pages in the range, above 0; a multiple of 64, or up to the
 *	region's end
 * @bitmap: pointer to the user's bitmap: an array of __u64, bit n of it is
 *	page @first_page + n; bits beyond the range are ignored
 * @dirtied_pages: out, how many of its pages were not dirty before
 *
 * Report writes that took no fault, such as those of a device that logs what
 * it writes: the pages become dirty for whoever tracks the region now, a
 * tracker or a migration. If nobody does there is nothing to do, since
 * tracking begins with every page dirty.
 *
 * Report a write after it has happened, and after what logged it would log
 * the next one to that page: an early report can be fetched, and the page
 * read, before the write.
 *
 * EINVAL: the range is empty, not aligned, or not inside the region. EBADF:
 * the region's descriptor is not open for writing. EFAULT or EINTR (a fatal
 * signal): some of the pages may be dirty now; merging all of them again does
 * no harm.
 */
struct migr_region_merge {
	__u32 size;
	__u32 flags;
	__aligned_u64 first_page;
	__aligned_u64 nr_pages;
	__aligned_u64 bitmap;
	__aligned_u64 dirtied_pages;
};

#define MIGR_REGION_MERGE _IO(MIGR_IOCTL_TYPE, MIGR_CMD_REGION_MERGE)

/**
 * struct migr_region_pinned - ioctl(MIGR_REGION_PINNED) on a region
 * @size: sizeof(struct migr_region_pinned)
 * @flags: must be 0
 * @pages: out, pages that are pinned for DMA now
 *
 * Look through all of the region's memory for pages that a device may write at
 * any time: those of an assigned device, of a registered RDMA or io_uring
 * buffer, or just of a direct read in flight. Tracking never reports them clean,
 * so a VM with many of them does not come to the end of its passes.
 *
 * EINTR: a fatal signal came.
 */
struct migr_region_pinned {
	__u32 size;
	__u32 flags;
	__aligned_u64 pages;
};

#define MIGR_REGION_PINNED _IO(MIGR_IOCTL_TYPE, MIGR_CMD_REGION_PINNED)

/**
 * struct migr_tracker_fetch - ioctl(MIGR_TRACKER_FETCH) on a tracker
 * @size: sizeof(struct migr_tracker_fetch)
 * @flags: must be 0
 * @first_page: first page of the range, in pages from the region's start; a
 *	multiple of 64
 * @nr_pages: pages in the range, above 0; a multiple of 64, or up to the
 *	region's end
 * @bitmap: pointer to the user's bitmap: an array of __u64, bit n of it is
 *	page @first_page + n; every word that the range touches is written
 * @dirty_pages: out, how many bits are set
 * @pinned_pages: out, how many of them may still be written by DMA, and were
 *	left dirty for the next fetch as well
 *
 * Fetch and clear: which pages of the range have been written since they were
 * last fetched. When it returns, all other pages are write-protected, and so
 * are the fetched ones: whoever reads a fetched page now and sees its bit
 * clear at the next fetch has its content.
 *
 * EINVAL: the range is empty, not aligned, or not inside the region. EFAULT
 * or EINTR (a fatal signal): what had been fetched is dirty again, nothing is
 * lost.
 */
struct migr_tracker_fetch {
	__u32 size;
	__u32 flags;
	__aligned_u64 first_page;
	__aligned_u64 nr_pages;
	__aligned_u64 bitmap;
	__aligned_u64 dirty_pages;
	__aligned_u64 pinned_pages;
};

#define MIGR_TRACKER_FETCH _IO(MIGR_IOCTL_TYPE, MIGR_CMD_TRACKER_FETCH)

/* In flags of struct migr_limit. */
/** define MIGR_LIMIT_SET - set the limit; without it, only look */
#define MIGR_LIMIT_SET		(1u << 0)

/**
 * struct migr_limit - ioctl(MIGR_TRACKER_LIMIT), ioctl(MIGR_MIGRATION_LIMIT)
 * @size: sizeof(struct migr_limit)
 * @flags: %MIGR_LIMIT_SET or 0
 * @pages_per_second: the limit, 0: none; in with %MIGR_LIMIT_SET, else out
 * @slept_ns: out, nanoseconds that writers have slept, all threads together
 * @sleeps: out, how often one did
 *
 * On a tracker or on a migration's source: slow the writers down to so many
 * pages a second that become dirty, of the tracker's region or of all regions of
 * the migration together. A page that is dirty already costs its writers nothing.
 *
 * A thread that made more than its share of pages dirty sleeps before it goes
 * back to user mode or into a guest, where it holds no lock. All threads that
 * write get the same share. A signal ends the sleep, so does any change of the
 * limit, and so does the end of the tracking. No sleep is longer than a
 * second, so that a limit of less than about ten pages a second for each
 * thread is not kept. Kernel threads, and workers of io_uring and vhost, never
 * sleep, but what they write is counted, and others sleep for it. What is merged
 * is not: its writers take no fault.
 *
 * EINVAL: the migration is not a source.
 */
struct migr_limit {
	__u32 size;
	__u32 flags;
	__aligned_u64 pages_per_second;
	__aligned_u64 slept_ns;
	__aligned_u64 sleeps;
};

#define MIGR_TRACKER_LIMIT _IO(MIGR_IOCTL_TYPE, MIGR_CMD_TRACKER_LIMIT)
#define MIGR_MIGRATION_LIMIT _IO(MIGR_IOCTL_TYPE, MIGR_CMD_MIGRATION_LIMIT)

/* In flags of struct migr_migration_add_region. */
/**
 * define MIGR_WRITES_REPORTED - the caller reports the writes to the region
 *
 * Its mappings are left alone: a write through them costs nothing and is not
 * seen. Every one of them has to be reported with %MIGR_REGION_MERGE: those of
 * vCPUs, of the VMM's own threads, of vhost and of devices. The log that
 * they are reported from begins before the first pass does; the last report is
 * made after all writers have stopped and before the last pass begins. A write
 * that is not reported in time is missing on the destination. Punched holes
 * need no report.
 */
#define MIGR_WRITES_REPORTED	(1u << 0)

/**
 * struct migr_migration_add_region - ioctl(MIGR_MIGRATION_ADD_REGION) on a migration
 * @size: sizeof(struct migr_migration_add_region)
 * @flags: %MIGR_WRITES_REPORTED, on a source only
 * @region_fd: the region
 * @id: its number on the wire, below %MIGR_REGIONS_MAX; both sides give the
 *	same memory the same number
 *
 * EBADF: @region_fd is not a descriptor open for writing. EINVAL: it is not a region, or
 * @id is too large. EEXIST: the region, or the number, is in the migration
 * already. EBUSY: a stream has been added already.
 */
struct migr_migration_add_region {
	__u32 size;
	__u32 flags;
	__s32 region_fd;
	__u32 id;
};

#define MIGR_MIGRATION_ADD_REGION _IO(MIGR_IOCTL_TYPE, MIGR_CMD_MIGRATION_ADD_REGION)

/** define MIGR_STREAMS_MAX - how many streams a migration can have at once */
#define MIGR_STREAMS_MAX	64

/** define MIGR_STREAM_IDS - how many streams it can have in all */
#define MIGR_STREAM_IDS		1024

/* In flags of struct migr_migration_add_stream. */
/** define MIGR_STREAM_COPY - copy pages into the socket instead of lending them */
#define MIGR_STREAM_COPY	(1u << 0)

/**
 * enum migr_compression - what a stream may compress with
 * @MIGR_COMPRESSION_NONE: nothing
 * @MIGR_COMPRESSION_LZ4: LZ4, which is fast
 * @MIGR_COMPRESSION_ZSTD: Zstandard, which saves more
 */
enum migr_compression {
	MIGR_COMPRESSION_NONE = 0,
	MIGR_COMPRESSION_LZ4 = 1,
	MIGR_COMPRESSION_ZSTD = 2,
};

/**
 * struct migr_migration_add_stream - ioctl(MIGR_MIGRATION_ADD_STREAM) on a migration
 * @size: sizeof(struct migr_migration_add_stream)
 * @flags: %MIGR_STREAM_COPY, on a source only
 * @socket_fd: a connected TCP, UNIX or vsock stream socket. The stream keeps a
 *	reference; the caller may close its descriptor, or keep it and use
 *	shutdown() to end a run. SO_SNDTIMEO and SO_RCVTIMEO bound how long a run
 *	waits for the peer.
 * @fd: out, the stream
 * @id: the stream's number, below %MIGR_STREAM_IDS; both sides give the same
 *	connection the same number, and use none twice
 * @compression: one of enum migr_compression; both sides give the same
 *	connection the same
 * @compression_cpu: on a source: compress only while CPUs are idle, and for at most
 *	so many percent of the time of the CPUs that the stream may run on, all
 *	streams together; 0: whatever the CPUs do. At most 100
 * @__reserved: must be 0
 *
 * A stream can be added at any time until the last pass has been. Closing its
 * descriptor takes it away: what it had sent and not seen acknowledged goes over
 * the others.
 *
 * With a compression the source decides for each chunk whether to use it: not if
 * the CPUs have no time, nor if it does not save an eighth. After a chunk that was not
 * worth it, it passes over one, then 2, 4, ..., up to 64 before it tries another.
 * A stream with a compression has 2 MiB and 128 KiB of memory on either side, besides
 * what the algorithm needs; the kernel's software takes 256 KiB more for each CPU from
 * the first such stream until the module is removed.
 *
 * EBADF: @socket_fd is not an open descriptor. ENOTSOCK: it is not a socket.
 * EPROTONOSUPPORT: it is not TCP, UNIX SOCK_STREAM or vsock. ENOTCONN: it is not
 * connected. EINVAL: the migration has no region, @id or @compression_cpu is too
 * large, or there is no such @compression. ENOENT: this kernel does not have it.
 * EEXIST: @id has been used. EBUSY: there are %MIGR_STREAMS_MAX streams. EPIPE: the
 * migration has failed. EALREADY: it is complete.
 */
struct migr_migration_add_stream {
	__u32 size;
	__u32 flags;
	__s32 socket_fd;
	__s32 fd;
	__u32 id;
	__u32 compression;
	__u32 compression_cpu;
	__u32 __reserved;
};

#define MIGR_MIGRATION_ADD_STREAM _IO(MIGR_IOCTL_TYPE, MIGR_CMD_MIGRATION_ADD_STREAM)

/* In flags of struct migr_migration_pass. */
/**
 * define MIGR_PASS_LAST - nothing writes any more
 *
 * The caller has stopped every writer, I/O in flight included: pages that
 * look pinned are sent and counted instead of being left dirty. After it the
 * destination's run returns.
 */
#define MIGR_PASS_LAST		(1u << 0)

/**
 * struct migr_migration_pass - ioctl(MIGR_MIGRATION_PASS) on a source
 * @size: sizeof(struct migr_migration_pass)
 * @flags: %MIGR_PASS_LAST or 0
 * @hot_pages_max: how many hot pages the pass may leave; nothing with
 *	%MIGR_PASS_LAST, which leaves none
 *
 * Begin the next pass over what is dirty now; the first one starts the
 * tracking and covers everything. The runs of the streams then carry it out.
 *
 * A page is hot if it is dirty when its turn comes in this pass, and was so in
 * the pass before, the first pass not counted: sending it is no use while it is
 * written again each time. One that is left stays dirty, costs its writers
 * nothing, and is left again by the passes that follow, up to the last.
 *
 * EINVAL: not a source, or no stream. EBUSY: the pass before has not been
 * carried out, or a region is tracked by someone else. EPIPE: the migration has
 * failed. EALREADY: the last pass has been. EINTR: a fatal signal came while
 * the tracking was being started.
 */
struct migr_migration_pass {
	__u32 size;
	__u32 flags;
	__aligned_u64 hot_pages_max;
};

#define MIGR_MIGRATION_PASS _IO(MIGR_IOCTL_TYPE, MIGR_CMD_MIGRATION_PASS)

/**
 * enum migr_state - where a migration stands
 * @MIGR_STATE_SETUP: no pass has begun, or nothing has arrived
 * @MIGR_STATE_PASS: a pass is being carried out
 * @MIGR_STATE_BETWEEN: source: a pass is complete and acknowledged; the next has
 *	not begun
 * @MIGR_STATE_COMPLETE: the last pass is complete and acknowledged
 * @MIGR_STATE_FAILED: the last stream failed, or one for a reason that all share;
 *	&migr_migration_status.error says how
 */
enum migr_state {
	MIGR_STATE_SETUP = 0,
	MIGR_STATE_PASS = 1,
	MIGR_STATE_BETWEEN = 2,
	MIGR_STATE_COMPLETE = 3,
	MIGR_STATE_FAILED = 4,
};

/**
 * struct migr_migration_status - ioctl(MIGR_MIGRATION_STATUS) on a migration
 * @size: sizeof(struct migr_migration_status)
 * @flags: must be 0
 * @state: out, one of enum migr_state
 * @error: out, a positive errno if the migration has failed, else 0
 * @passes: out, passes begun
 * @__reserved: must be 0
 * @total_pages: out, pages in all regions
 * @data_pages: out, pages sent or received with their content, all passes
 * @zero_pages: out, pages sent or received as a bit because they hold only
 *	zeroes; the destination cannot tell them from holes and counts both here
 * @hole_pages: out, pages that had no memory at all on the source; 0 on the
 *	destination
 * @pinned_pages: out, pages left dirty because DMA may still write them, each
 *	time it happened; in the last pass, pages sent although they looked pinned
 * @wire_bytes: out, bytes sent and received, headers and acknowledgments included
 * @dirty_pages: out, source: pages dirty now, that is, left to send; before the
 *	first pass every page
 * @pass_pages: out, pages dirty when the current or latest pass began
 * @pass_sent_pages: out, of @pass_pages and those written meanwhile, sent in it
 *	in any form
 * @pass_dirtied_pages: out, pages that became dirty since that pass began, those
 *	that a failed stream had not seen acknowledged included
 * @pass_wire_bytes: out, bytes of that pass
 * @pass_ns: out, nanoseconds that pass has taken, until its acknowledgment
 * @total_ns: out, nanoseconds from the first pass's begin to now, or to the
 *	last pass's acknowledgment
 * @limit: out, pages a second that writers are held to, 0: no limit; see
 *	&struct migr_limit
 * @slept_ns: out, nanoseconds that writers have slept for it
 * @pass_hot_pages: out, hot pages that pass has left, see
 *	&struct migr_migration_pass; they are among @dirty_pages
 * @compressed_chunks: out, chunks sent or received compressed
 * @incompressible_chunks: out, source: chunks that were tried, and sent as they are
 *	because it was not worth it
 * @compressed_bytes: out, bytes of the pages in @compressed_chunks
 * @compressed_wire_bytes: out, and what they were compressed to
 * @compression_ns: out, source: nanoseconds that compression has taken, of chunks
 *	that were not worth it as well
 * @pass_saved_bytes: out, bytes that compression has kept off the wire in that pass
 *
 * All of it is counted by the kernel as it happens and read without stopping
 * anything; fields may be some pages apart from each other during a run.
 */
struct migr_migration_status {
	__u32 size;
	__u32 flags;
	__u32 state;
	__u32 error;
	__u32 passes;
	__u32 __reserved;
	__aligned_u64 total_pages;
	__aligned_u64 data_pages;
	__aligned_u64 zero_pages;
	__aligned_u64 hole_pages;
	__aligned_u64 pinned_pages;
	__aligned_u64 wire_bytes;
	__aligned_u64 dirty_pages;
	__aligned_u64 pass_pages;
	__aligned_u64 pass_sent_pages;
	__aligned_u64 pass_dirtied_pages;
	__aligned_u64 pass_wire_bytes;
	__aligned_u64 pass_ns;
	__aligned_u64 total_ns;
	__aligned_u64 limit;
	__aligned_u64 slept_ns;
	__aligned_u64 pass_hot_pages;
	__aligned_u64 compressed_chunks;
	__aligned_u64 incompressible_chunks;
	__aligned_u64 compressed_bytes;
	__aligned_u64 compressed_wire_bytes;
	__aligned_u64 compression_ns;
	__aligned_u64 pass_saved_bytes;
};

#define MIGR_MIGRATION_STATUS _IO(MIGR_IOCTL_TYPE, MIGR_CMD_MIGRATION_STATUS)

/**
 * struct migr_stream_run - ioctl(MIGR_STREAM_RUN) on a stream
 * @size: sizeof(struct migr_stream_run)
 * @flags: must be 0
 *
 * Run the stream in the calling thread. On a source it takes part in the pass
 * that was begun, and returns once the destination has acknowledged all of the
 * pass, whichever stream brought it; at once if it has already. After the last
 * pass each stream is to be run, if only to tell the destination's run that it
 * was the last. On a destination it receives and acknowledges, and returns when
 * it is told so. Once one run of a destination has returned 0, all is there: those
 * of other streams, which may hang on a link that is gone, can be shut down.
 *
 * A signal stops it: with SA_RESTART, or when stopped and continued, it goes
 * on where it was; EINTR leaves it ready to be run again.
 *
 * EBUSY: another thread runs it. EINVAL: on a source, no pass has been begun.
 * EPIPE: it had failed before. Any other error ends the stream: EPROTO (the peer
 * sent what it must not), EPROTONOSUPPORT (the peer speaks another version),
 * EBADMSG (what was compressed is broken), ECONNRESET (the peer is gone, or says
 * that this stream is), ETIMEDOUT (the socket's timeout passed), of a kTLS socket
 * EKEYEXPIRED (its key has encrypted as much as is safe), EBADMSG (what came was
 * not encrypted by the peer) and EIO (a record that is no data), and what the
 * socket reports. On a source, what it had
 * sent and not seen acknowledged becomes dirty again and goes over the other
 * streams. If there is none, the migration fails; and so it does, whatever the
 * other streams, with ENOSPC or ENOMEM (no memory), EHWPOISON (memory that is
 * to be sent has failed) and EIO (memory could not be swapped in, or what is to be
 * written to has failed). ECANCELED: the migration is over.
 */
struct migr_stream_run {
	__u32 size;
	__u32 flags;
};

#define MIGR_STREAM_RUN _IO(MIGR_IOCTL_TYPE, MIGR_CMD_STREAM_RUN)

/**
 * struct migr_stream_shutdown - ioctl(MIGR_STREAM_SHUTDOWN) on a stream
 * @size: sizeof(struct migr_stream_shutdown)
 * @flags: must be 0
 *
 * Shut its connection down both ways, from any thread: who runs it, or would
 * next, gets ECONNRESET, and so does the peer. Does not wait, and succeeds if
 * the connection is gone already. So nobody has to keep the socket: one that
 * only the stream has is received from faster.
 */
struct migr_stream_shutdown {
	__u32 size;
	__u32 flags;
};

#define MIGR_STREAM_SHUTDOWN _IO(MIGR_IOCTL_TYPE, MIGR_CMD_STREAM_SHUTDOWN)

#endif /* _UAPI_LINUX_MIGR_H */
