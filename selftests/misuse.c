// SPDX-License-Identifier: GPL-2.0-only
/*
 * Misuse of the ioctls: whatever is wrong with a call, it gets the errno that
 * <linux/migr.h> promises, changes nothing and leaks nothing; and many threads
 * that call everything on everything cannot hurt the kernel.
 */
#include "migr_test.h"

#include <stddef.h>
#include <sys/resource.h>

enum kind {
	KIND_DEVICE,
	KIND_REGION,
	KIND_TRACKER,
	KIND_SOURCE,
	KIND_DESTINATION,
	KIND_STREAM,
	KIND_NULL,
	KIND_SOCKET,
	KIND_FILE,
	KINDS,
};

static const char *const kind_names[KINDS] = {
	"device", "region", "tracker", "source", "destination", "stream", "/dev/null",
	"socket", "file",
};

/* One of each, connected with each other as far as that is possible. */
struct objects {
	int fd[KINDS];
	int fresh_region;
	int bare_region;	/* a /dev/migr that has been mapped */
	int peer;		/* the other end of the stream's socket */
	int peer_stream;	/* the destination's stream */
	__u64 bitmap[16];
};

static struct objects objects_new(void)
{
	struct objects o;
	int pair[2], second;

	o.fd[KIND_DEVICE] = (int)CALL(dev_open());
	o.fd[KIND_REGION] = (int)CALL(region_create(o.fd[KIND_DEVICE], 64 * TEST_PAGE, "one"));
	second = (int)CALL(region_create(o.fd[KIND_DEVICE], 64 * TEST_PAGE, "two"));
	o.fresh_region = (int)CALL(region_create(o.fd[KIND_DEVICE], 64 * TEST_PAGE, "three"));
	o.bare_region = (int)CALL(dev_open());
	map_shared(o.bare_region, TEST_PAGE);
	o.fd[KIND_TRACKER] = (int)CALL(region_track(o.fd[KIND_REGION]));
	o.fd[KIND_SOURCE] = (int)CALL(migration_create(o.fd[KIND_DEVICE], MIGR_ROLE_SOURCE));
	o.fd[KIND_DESTINATION] =
		(int)CALL(migration_create(o.fd[KIND_DEVICE], MIGR_ROLE_DESTINATION));
	CALL(migration_add_region(o.fd[KIND_SOURCE], second, 0));
	unix_pair(pair);
	o.fd[KIND_STREAM] = (int)CALL(migration_add_stream(o.fd[KIND_SOURCE], pair[0], 0));
	o.fd[KIND_NULL] = (int)SYS(open("/dev/null", O_RDWR | O_CLOEXEC));
	o.fd[KIND_SOCKET] = pair[0];
	o.fd[KIND_FILE] = (int)SYS(memfd_create("file", MFD_CLOEXEC));
	o.peer = pair[1];
	CALL(migration_add_region(o.fd[KIND_DESTINATION], o.fresh_region, 0));
	o.peer_stream = (int)CALL(migration_add_stream(o.fd[KIND_DESTINATION], o.peer, 0));
	close(second);
	return o;
}

union arg {
	__u32 size;
	struct migr_info info;
	struct migr_region_create region_create;
	struct migr_region_get region_get;
	struct migr_migration_create migration_create;
	struct migr_region_info region_info;
	struct migr_region_track region_track;
	struct migr_region_merge region_merge;
	struct migr_tracker_fetch tracker_fetch;
	struct migr_limit limit;
	struct migr_migration_add_region add_region;
	struct migr_migration_add_stream add_stream;
	struct migr_migration_pass pass;
	struct migr_migration_status status;
	struct migr_stream_run run;
	struct migr_stream_shutdown shutdown;
	unsigned char bytes[3 * TEST_PAGE];
};

/*
 * A call that would succeed, on fresh objects: prepares its argument and
 * returns the descriptor to call it on. RUN alone cannot succeed without a
 * peer that answers: its peer is gone, and it has to find out.
 */
typedef int (*prepare_fn)(union arg *arg);

static int prepare_info(union arg *arg)
{
	(void)arg;
	return (int)CALL(dev_open());
}

static int prepare_region_create(union arg *arg)
{
	arg->region_create.length = TEST_PAGE;
	return (int)CALL(dev_open());
}

/* The mapping goes at once: the open has its region for good. */
static int prepare_region_get(union arg *arg)
{
	int dev = (int)CALL(dev_open());

	(void)arg;
	SYS(munmap(map_shared(dev, TEST_PAGE), TEST_PAGE));
	return dev;
}

static int prepare_migration_create(union arg *arg)
{
	arg->migration_create.role = MIGR_ROLE_SOURCE;
	return (int)CALL(dev_open());
}

static int prepare_region(union arg *arg)
{
	(void)arg;
	return (int)CALL(region_create((int)CALL(dev_open()), 64 * TEST_PAGE, ""));
}

static int prepare_region_merge(union arg *arg)
{
	static __u64 bitmap[1] = { 1 };

	arg->region_merge.nr_pages = 64;
	arg->region_merge.bitmap = (uintptr_t)bitmap;
	return prepare_region(arg);
}

static int prepare_tracker(union arg *arg)
{
	return (int)CALL(region_track(prepare_region(arg)));
}

static int prepare_tracker_fetch(union arg *arg)
{
	static __u64 bitmap[1];

	arg->tracker_fetch.nr_pages = 64;
	arg->tracker_fetch.bitmap = (uintptr_t)bitmap;
	return prepare_tracker(arg);
}

static int prepare_migration(union arg *arg)
{
	(void)arg;
	return (int)CALL(migration_create((int)CALL(dev_open()), MIGR_ROLE_SOURCE));
}

static int prepare_add_region(union arg *arg)
{
	arg->add_region.region_fd = prepare_region(arg);
	return prepare_migration(arg);
}

static int prepare_add_stream(union arg *arg)
{
	int migration = prepare_migration(arg), pair[2];

	CALL(migration_add_region(migration, prepare_region(arg), 0));
	unix_pair(pair);
	arg->add_stream.socket_fd = pair[0];
	return migration;
}

static int prepare_pass(union arg *arg)
{
	int migration = prepare_migration(arg), pair[2];

	CALL(migration_add_region(migration, prepare_region(arg), 0));
	unix_pair(pair);
	CALL(migration_add_stream(migration, pair[0], 0));
	return migration;
}

static int prepare_run(union arg *arg)
{
	int migration = prepare_migration(arg), stream, pair[2];

	CALL(migration_add_region(migration, prepare_region(arg), 0));
	unix_pair(pair);
	stream = (int)CALL(migration_add_stream(migration, pair[0], 0));
	SYS(close(pair[1]));
	CALL(migration_pass(migration, 0));
	return stream;
}

#define NO_FIELD ((size_t)-1)

static const struct command {
	const char *name;
	unsigned long cmd;
	size_t size;
	size_t first;		/* size in the first version */
	size_t reserved;	/* offset of a __u32 that must be 0 */
	unsigned int kinds;	/* what it may be called on */
	prepare_fn prepare;
} commands[] = {
#define COMMAND(name, type, reserved, kinds, prepare) \
	{ #name, name, sizeof(struct type), sizeof(struct type), reserved, kinds, prepare }
/* Its first version ended before a field. */
#define COMMAND_GROWN(name, type, field, kinds, prepare) \
	{ #name, name, sizeof(struct type), offsetof(struct type, field), NO_FIELD, kinds, prepare }
#define ON(kind) (1U << KIND_##kind)
	COMMAND_GROWN(MIGR_INFO, migr_info, compressions, ON(DEVICE), prepare_info),
	COMMAND(MIGR_REGION_CREATE, migr_region_create,
		offsetof(struct migr_region_create, __reserved), ON(DEVICE),
		prepare_region_create),
	COMMAND(MIGR_REGION_GET, migr_region_get,
		offsetof(struct migr_region_get, __reserved), ON(DEVICE), prepare_region_get),
	COMMAND(MIGR_MIGRATION_CREATE, migr_migration_create, NO_FIELD, ON(DEVICE),
		prepare_migration_create),
	COMMAND(MIGR_REGION_INFO, migr_region_info,
		offsetof(struct migr_region_info, __reserved), ON(REGION), prepare_region),
	COMMAND(MIGR_REGION_TRACK, migr_region_track,
		offsetof(struct migr_region_track, __reserved), ON(REGION), prepare_region),
	COMMAND(MIGR_REGION_MERGE, migr_region_merge, NO_FIELD, ON(REGION),
		prepare_region_merge),
	COMMAND(MIGR_REGION_PINNED, migr_region_pinned, NO_FIELD, ON(REGION), prepare_region),
	COMMAND(MIGR_TRACKER_FETCH, migr_tracker_fetch, NO_FIELD, ON(TRACKER),
		prepare_tracker_fetch),
	COMMAND(MIGR_TRACKER_LIMIT, migr_limit, NO_FIELD, ON(TRACKER), prepare_tracker),
	COMMAND(MIGR_MIGRATION_ADD_REGION, migr_migration_add_region, NO_FIELD,
		ON(SOURCE) | ON(DESTINATION), prepare_add_region),
	COMMAND_GROWN(MIGR_MIGRATION_ADD_STREAM, migr_migration_add_stream, id,
		      ON(SOURCE) | ON(DESTINATION), prepare_add_stream),
	COMMAND_GROWN(MIGR_MIGRATION_PASS, migr_migration_pass, hot_pages_max,
		      ON(SOURCE) | ON(DESTINATION), prepare_pass),
	COMMAND_GROWN(MIGR_MIGRATION_STATUS, migr_migration_status, limit,
		      ON(SOURCE) | ON(DESTINATION), prepare_migration),
	COMMAND(MIGR_MIGRATION_LIMIT, migr_limit, NO_FIELD, ON(SOURCE) | ON(DESTINATION),
		prepare_migration),
	COMMAND(MIGR_STREAM_RUN, migr_stream_run, NO_FIELD, ON(STREAM), prepare_run),
	COMMAND(MIGR_STREAM_SHUTDOWN, migr_stream_shutdown, NO_FIELD, ON(STREAM), prepare_run),
};

/* A page whose end is the end of what is mapped. */
static unsigned char *last_page(void)
{
	unsigned char *p = private_alloc(2 * TEST_PAGE);

	SYS(munmap(p + TEST_PAGE, TEST_PAGE));
	return p;
}

/* Prepares the command's argument and descriptor. */
static int prepare(const struct command *c, union arg *arg)
{
	memset(arg, 0, sizeof(*arg));
	arg->size = (__u32)c->size;
	return c->prepare(arg);
}

/* How a call whose argument is well-formed ends. */
static bool is_accepted(const struct command *c, int ret)
{
	if (c->cmd == MIGR_STREAM_RUN)
		return ret == -ECONNRESET;
	return ret == 0;
}

static void wrong_kinds(void)
{
	struct objects o = objects_new();
	union arg *arg = private_alloc(sizeof(*arg));
	size_t i, kind;
	int ret;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		for (kind = 0; kind < KINDS; kind++) {
			if (commands[i].kinds & 1U << kind)
				continue;
			memset(arg, 0, sizeof(*arg));
			arg->size = (__u32)commands[i].size;
			ret = test_ioctl(o.fd[kind], commands[i].cmd, arg);
			CHECK(ret == -ENOTTY, "%s on a %s: %d", commands[i].name,
			      kind_names[kind], ret);
		}
		CALL_ERR(test_ioctl(-1, commands[i].cmd, arg), EBADF);
		CALL_ERR(test_ioctl(4000, commands[i].cmd, arg), EBADF);
	}
}

static void unknown_commands(void)
{
	struct objects o = objects_new();
	union arg *arg = private_alloc(sizeof(*arg));
	size_t kind, i;
	int nr, ret;

	for (kind = 0; kind <= KIND_STREAM; kind++) {
		for (nr = 0; nr < 256; nr++) {
			unsigned long cmd = _IO(MIGR_IOCTL_TYPE, nr);

			for (i = 0; i < ARRAY_SIZE(commands); i++)
				if (commands[i].cmd == cmd)
					break;
			if (i < ARRAY_SIZE(commands))
				continue;
			arg->size = 64;
			ret = test_ioctl(o.fd[kind], cmd, arg);
			CHECK(ret == -ENOTTY, "command 0x%02x on a %s: %d", nr,
			      kind_names[kind], ret);
		}
		CALL_ERR(test_ioctl(o.fd[kind], _IOW(MIGR_IOCTL_TYPE, 0, __u64), arg), ENOTTY);
		CALL_ERR(test_ioctl(o.fd[kind], _IO('T', 0), arg), ENOTTY);
	}
}

static void sizes(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	size_t i;
	__u32 n;
	int ret;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd = prepare(c, arg);

		for (n = 0; n < c->first; n++) {
			arg->size = n;
			ret = test_ioctl(fd, c->cmd, arg);
			CHECK(ret == -EINVAL, "%s with size %u of %zu: %d", c->name, n, c->first,
			      ret);
		}
		/* More than anybody will ever need. */
		arg->size = ~0U;
		CALL_ERR(test_ioctl(fd, c->cmd, arg), E2BIG);
		arg->size = TEST_PAGE + 1;
		CALL_ERR(test_ioctl(fd, c->cmd, arg), E2BIG);
		arg->size = 2 * TEST_PAGE;
		CALL_ERR(test_ioctl(fd, c->cmd, arg), E2BIG);

		/* A newer program's structure: with something in it, or not. */
		arg->size = (__u32)c->size + 8;
		arg->bytes[c->size] = 1;
		CALL_ERR(test_ioctl(fd, c->cmd, arg), E2BIG);
		arg->bytes[c->size] = 0;
		arg->bytes[c->size + 7] = 1;
		CALL_ERR(test_ioctl(fd, c->cmd, arg), E2BIG);
		arg->bytes[c->size + 7] = 0;
		arg->size = TEST_PAGE;
		arg->bytes[TEST_PAGE - 1] = 1;
		CALL_ERR(test_ioctl(fd, c->cmd, arg), E2BIG);
		arg->bytes[TEST_PAGE - 1] = 0;
		ret = test_ioctl(fd, c->cmd, arg);
		CHECK(is_accepted(c, ret), "%s with a zero tail: %d", c->name, ret);
		CHECK(is_zero(arg->bytes + c->size, TEST_PAGE - c->size),
		      "%s wrote behind its structure", c->name);

		fd = prepare(c, arg);
		ret = test_ioctl(fd, c->cmd, arg);
		CHECK(is_accepted(c, ret), "%s with its own size: %d", c->name, ret);

		/* An older program's, which ends earlier. */
		fd = prepare(c, arg);
		arg->size = (__u32)c->first;
		memset(arg->bytes + c->first, 0xff, TEST_PAGE - c->first);
		ret = test_ioctl(fd, c->cmd, arg);
		CHECK(is_accepted(c, ret), "%s with its first size: %d", c->name, ret);
		CHECK(arg->bytes[c->first] == 0xff, "%s wrote behind its first version", c->name);
		memset(arg->bytes + c->first, 0, TEST_PAGE - c->first);
	}
}

static void pointers(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	unsigned char *edge = last_page() + TEST_PAGE;
	void *bad[] = { NULL, (void *)1, (void *)(TEST_PAGE * 15), edge, (void *)(1UL << 63),
			(void *)~7UL, (void *)~0UL };
	size_t i, n;
	int ret;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd = prepare(c, arg);

		for (n = 0; n < ARRAY_SIZE(bad); n++)
			CALL_ERR(test_ioctl(fd, c->cmd, bad[n]), EFAULT);

		/* The size can be read, and no more; then all but the end. */
		memcpy(edge - 4, arg, 4);
		CALL_ERR(test_ioctl(fd, c->cmd, edge - 4), EFAULT);
		memcpy(edge - c->size + 1, arg, c->size - 1);
		CALL_ERR(test_ioctl(fd, c->cmd, edge - c->size + 1), EFAULT);
		/* A tail that cannot be read. */
		arg->size += 64;
		memcpy(edge - c->size, arg, c->size);
		ret = test_ioctl(fd, c->cmd, edge - c->size);
		CHECK(ret == -EFAULT || ret == -E2BIG, "%s with an unmapped tail: %d", c->name,
		      ret);
		arg->size -= 64;

		/* And just so it fits. */
		memcpy(edge - c->size, arg, c->size);
		ret = test_ioctl(fd, c->cmd, edge - c->size);
		CHECK(is_accepted(c, ret), "%s at the edge of a mapping: %d", c->name, ret);
	}
}

/* What cannot be answered has not happened: no descriptor appears. */
static void read_only_arguments(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	int fds, ret;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd = prepare(c, arg);

		fds = open_fd_count();
		SYS(mprotect(arg, sizeof(*arg), PROT_READ));
		ret = test_ioctl(fd, c->cmd, arg);
		SYS(mprotect(arg, sizeof(*arg), PROT_READ | PROT_WRITE));
		if (c->cmd == MIGR_STREAM_RUN || c->cmd == MIGR_STREAM_SHUTDOWN ||
		    c->cmd == MIGR_MIGRATION_PASS || c->cmd == MIGR_MIGRATION_ADD_REGION)
			CHECK(is_accepted(c, ret), "%s has no answer to give: %d", c->name, ret);
		else
			CHECK(ret == -EFAULT, "%s with a read-only argument: %d", c->name, ret);
		CHECK_EQ(open_fd_count(), fds);
	}
}

static void flags_and_reserved(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	unsigned int bit;
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd = prepare(c, arg);
		__u32 *words = (__u32 *)arg;

		for (bit = 0; bit < 32; bit++) {
			if (bit == 0 && (c->cmd == MIGR_INFO ||
					 c->cmd == MIGR_MIGRATION_PASS ||
					 c->cmd == MIGR_MIGRATION_ADD_REGION ||
					 c->cmd == MIGR_TRACKER_LIMIT ||
					 c->cmd == MIGR_MIGRATION_LIMIT ||
					 c->cmd == MIGR_MIGRATION_ADD_STREAM))
				continue;
			words[1] = 1U << bit;
			ret = test_ioctl(fd, c->cmd, arg);
			CHECK(ret == -EOPNOTSUPP, "%s with flag %u: %d", c->name, bit, ret);
		}
		words[1] = 0;
		if (c->reserved != NO_FIELD) {
			words[c->reserved / 4] = 1;
			CALL_ERR(test_ioctl(fd, c->cmd, arg), EINVAL);
			words[c->reserved / 4] = 0x80000000;
			CALL_ERR(test_ioctl(fd, c->cmd, arg), EINVAL);
			words[c->reserved / 4] = 0;
		}
		ret = test_ioctl(fd, c->cmd, arg);
		CHECK(is_accepted(c, ret), "%s afterwards: %d", c->name, ret);
	}

	/* A destination has nothing to copy, and nobody writes there. */
	{
		int dev = (int)CALL(dev_open()), pair[2];
		int mig = (int)CALL(migration_create(dev, MIGR_ROLE_DESTINATION)), region;

		CALL(migration_add_region(mig, (int)CALL(region_create(dev, TEST_PAGE, "")), 0));
		unix_pair(pair);
		ret = migration_add_stream(mig, pair[0], MIGR_STREAM_COPY);
		CHECK(ret == -EOPNOTSUPP || ret == -EINVAL, "COPY on a destination: %d", ret);
		region = (int)CALL(region_create(dev, TEST_PAGE, ""));
		CALL_ERR(migration_add_region_flags(mig, region, 1, MIGR_WRITES_REPORTED),
			 EOPNOTSUPP);
	}
}

static void roles(void)
{
	int dev = (int)CALL(dev_open());

	CALL_ERR(migration_create(dev, 0), EINVAL);
	CALL_ERR(migration_create(dev, 3), EINVAL);
	CALL_ERR(migration_create(dev, ~0U), EINVAL);
	CALL(migration_create(dev, MIGR_ROLE_SOURCE));
	CALL(migration_create(dev, MIGR_ROLE_DESTINATION));
}

static void sockets(void)
{
	int dev = (int)CALL(dev_open()), mig, fd, pair[2], listener;
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(9),
	};

	mig = (int)CALL(migration_create(dev, MIGR_ROLE_SOURCE));
	unix_pair(pair);
	/* Nothing to send yet. */
	CALL_ERR(migration_add_stream(mig, pair[0], 0), EINVAL);
	CALL(migration_add_region(mig, (int)CALL(region_create(dev, TEST_PAGE, "")), 0));

	CALL_ERR(migration_add_stream(mig, -1, 0), EBADF);
	CALL_ERR(migration_add_stream(mig, 4000, 0), EBADF);
	CALL_ERR(migration_add_stream(mig, INT_MIN, 0), EBADF);
	CALL_ERR(migration_add_stream(mig, dev, 0), ENOTSOCK);
	CALL_ERR(migration_add_stream(mig, mig, 0), ENOTSOCK);

	loopback_up();
	fd = (int)SYS(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	CALL_ERR(migration_add_stream(mig, fd, 0), EPROTONOSUPPORT);
	SYS(connect(fd, (struct sockaddr *)&sin, sizeof(sin)));
	CALL_ERR(migration_add_stream(mig, fd, 0), EPROTONOSUPPORT);
	SYS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	CALL_ERR(migration_add_stream(mig, pair[0], 0), EPROTONOSUPPORT);
	SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CALL_ERR(migration_add_stream(mig, pair[0], 0), EPROTONOSUPPORT);
	fd = (int)SYS(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
	CALL_ERR(migration_add_stream(mig, fd, 0), EPROTONOSUPPORT);

	fd = (int)SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CALL_ERR(migration_add_stream(mig, fd, 0), ENOTCONN);
	listener = (int)SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	SYS(listen(listener, 1));
	CALL_ERR(migration_add_stream(mig, listener, 0), ENOTCONN);
	fd = (int)SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CALL_ERR(migration_add_stream(mig, fd, 0), ENOTCONN);

	/* After all that it still takes a good one. */
	tcp_pair(pair);
	CALL(migration_add_stream(mig, pair[0], 0));
}

static void regions(void)
{
	int dev = (int)CALL(dev_open());
	int one = (int)CALL(region_create(dev, TEST_PAGE, "one"));
	int two = (int)CALL(region_create(dev, TEST_PAGE, "two"));
	int mig = (int)CALL(migration_create(dev, MIGR_ROLE_SOURCE));
	__u32 id;

	CALL_ERR(migration_add_region(mig, -1, 0), EBADF);
	CALL_ERR(migration_add_region(mig, 4000, 0), EBADF);
	CALL_ERR(migration_add_region(mig, dev, 0), EINVAL);
	CALL_ERR(migration_add_region(mig, mig, 0), EINVAL);
	CALL_ERR(migration_add_region(mig, (int)SYS(open("/dev/null", O_RDWR)), 0), EINVAL);
	CALL_ERR(migration_add_region(mig, (int)CALL(region_track(two)), 0), EINVAL);
	CALL_ERR(migration_add_region(mig, (int)SYS(memfd_create("x", 0)), 0), EINVAL);
	CALL_ERR(migration_add_region(mig, one, MIGR_REGIONS_MAX), EINVAL);
	CALL_ERR(migration_add_region(mig, one, ~0U), EINVAL);

	CALL(migration_add_region(mig, one, 0));
	CALL_ERR(migration_add_region(mig, one, 0), EEXIST);
	CALL_ERR(migration_add_region(mig, one, 1), EEXIST);
	CALL_ERR(migration_add_region(mig, two, 0), EEXIST);
	CALL_ERR(migration_add_region(mig, dup(one), 1), EEXIST);
	CALL(migration_add_region(mig, two, MIGR_REGIONS_MAX - 1));
	for (id = 1; id < MIGR_REGIONS_MAX - 1; id++)
		CALL(migration_add_region(mig, (int)CALL(region_create(dev, TEST_PAGE, "")), id));
	CALL_ERR(migration_add_region(mig, (int)CALL(region_create(dev, TEST_PAGE, "")), 5),
		 EEXIST);
}

/* Who may only read a region may neither slow its writers down nor fill it. */
static void read_only_descriptors(void)
{
	int dev = (int)CALL(dev_open()), fd, mig;
	int region = (int)CALL(region_create(dev, TEST_PAGE, ""));
	int read_only = (int)CALL(reopen(region, O_RDONLY));
	struct migr_region_info info;
	__u32 role;

	CALL(region_info(read_only, &info));
	CALL_ERR(region_track(read_only), EBADF);
	CALL_ERR(region_track((int)SYS(open("/dev/null", O_RDONLY))), ENOTTY);
	for (role = MIGR_ROLE_SOURCE; role <= MIGR_ROLE_DESTINATION; role++) {
		mig = (int)CALL(migration_create(dev, role));
		CALL_ERR(migration_add_region(mig, read_only, 0), EBADF);
		CALL(migration_add_region(mig, region, 0));
	}
	SYS(close((int)CALL(region_track((int)CALL(reopen(region, O_WRONLY))))));

	/* Nor does an open of the device hand out more than it may do. */
	fd = (int)SYS(open("/dev/migr", O_RDONLY | O_CLOEXEC));
	CHECK(mmap(NULL, TEST_PAGE, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED, "mmap: %s",
	      strerror(errno));
	CALL_ERR(region_get(fd), EBADF);
	fd = (int)SYS(open("/dev/migr", O_WRONLY | O_CLOEXEC));
	CALL_ERR(region_get(fd), EBADF);
}

static void states(void)
{
	int dev = (int)CALL(dev_open()), pair[2], src, dst, ss, ds, region, other;
	struct migr_migration_status st;

	src = (int)CALL(migration_create(dev, MIGR_ROLE_SOURCE));
	dst = (int)CALL(migration_create(dev, MIGR_ROLE_DESTINATION));
	region = (int)CALL(region_create(dev, TEST_PAGE, ""));
	other = (int)CALL(region_create(dev, TEST_PAGE, ""));
	unix_pair(pair);

	CALL_ERR(migration_pass(src, 0), EINVAL);
	CALL_ERR(migration_pass(dst, 0), EINVAL);
	CALL_ERR(limit_set(dst, MIGR_MIGRATION_LIMIT, 1000), EINVAL);
	CALL(migration_add_region(src, region, 0));
	CALL(migration_add_region(dst, other, 0));
	CALL_ERR(migration_pass(src, 0), EINVAL);

	ss = (int)CALL(migration_add_stream(src, pair[0], 0));
	ds = (int)CALL(migration_add_stream(dst, pair[1], 0));
	CALL_ERR(migration_add_stream(src, pair[0], 0), EEXIST);
	CALL_ERR(migration_add_stream(dst, pair[1], 0), EEXIST);
	CALL_ERR(migration_add_stream_id(src, pair[0], 0, MIGR_STREAM_IDS), EINVAL);
	CALL_ERR(migration_add_region(src, other, 1), EBUSY);
	CALL_ERR(migration_add_region(dst, region, 1), EBUSY);
	CALL_ERR(migration_pass(dst, 0), EINVAL);
	CALL_ERR(stream_run(ss), EINVAL);

	CALL(migration_status(src, &st));
	CHECK_EQ(st.state, MIGR_STATE_SETUP);
	CHECK_EQ(st.passes, 0);
	CALL(migration_pass(src, MIGR_PASS_LAST));
	CALL_ERR(migration_pass(src, 0), EBUSY);
	CALL_ERR(migration_pass(src, MIGR_PASS_LAST), EBUSY);
	CALL(migration_status(src, &st));
	CHECK_EQ(st.state, MIGR_STATE_PASS);
	CHECK_EQ(st.passes, 1);

	/* One page that is a hole: both ends fit into the socket's buffer. */
	{
		pid_t pid = child_start();

		if (!pid)
			_exit(stream_run(ds) ? TEST_FAIL : 0);
		CALL(stream_run(ss));
		child_join(pid);
	}
	CALL(migration_status(src, &st));
	CHECK_EQ(st.state, MIGR_STATE_COMPLETE);
	CALL(migration_status(dst, &st));
	CHECK_EQ(st.state, MIGR_STATE_COMPLETE);
	CALL_ERR(migration_pass(src, 0), EALREADY);
	CALL_ERR(migration_pass(src, MIGR_PASS_LAST), EALREADY);
	CALL_ERR(migration_add_region(src, other, 1), EBUSY);
	CALL_ERR(migration_add_stream_id(src, pair[0], 0, 1), EALREADY);
	CALL_ERR(migration_add_stream_id(dst, pair[1], 0, 1), EALREADY);
	/* Nothing is left to do. */
	CALL(stream_run(ss));
	CALL(stream_run(ds));
}

static void close_on_exec(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd, before, n;

		if (c->cmd == MIGR_STREAM_RUN)
			continue;
		fd = prepare(c, arg);
		before = open_fd_count();
		CALL(test_ioctl(fd, c->cmd, arg));
		CHECK(open_fd_count() <= before + 1, "%s made %d descriptors", c->name,
		      open_fd_count() - before);
		for (n = 3; n < 4096; n++) {
			int flags = fcntl(n, F_GETFD);

			CHECK(flags < 0 || flags & FD_CLOEXEC, "%s made a descriptor for exec",
			      c->name);
		}
	}
}

static bool makes_descriptor(const struct command *c)
{
	return c->cmd == MIGR_REGION_CREATE || c->cmd == MIGR_REGION_GET ||
	       c->cmd == MIGR_MIGRATION_CREATE || c->cmd == MIGR_REGION_TRACK ||
	       c->cmd == MIGR_MIGRATION_ADD_STREAM;
}

static void no_descriptor_left(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	struct rlimit limit, low;
	size_t i;

	SYS(getrlimit(RLIMIT_NOFILE, &limit));
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd, top;

		if (!makes_descriptor(c))
			continue;
		fd = prepare(c, arg);
		/* The lowest free number is the limit. */
		top = (int)SYS(dup(fd));
		SYS(close(top));
		low = limit;
		low.rlim_cur = (rlim_t)top;
		SYS(setrlimit(RLIMIT_NOFILE, &low));
		CALL_ERR(test_ioctl(fd, c->cmd, arg), EMFILE);
		SYS(setrlimit(RLIMIT_NOFILE, &limit));
	}
}

#define FILE_MAX	"/proc/sys/fs/file-max"
#define NOBODY		65534

/* All files that the system may have are open; an administrator may have more. */
static void no_file_left(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	int refs, fds, ret;
	char max[64];
	size_t i;

	CHECK(file_read(FILE_MAX, max, sizeof(max)), "cannot read " FILE_MAX);
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int fd;

		/* Getting a region makes a descriptor, but no file. */
		if (!makes_descriptor(c) || c->cmd == MIGR_REGION_GET)
			continue;
		fd = prepare(c, arg);
		refs = module_refcnt();
		fds = open_fd_count();
		CHECK(file_write(FILE_MAX, "1"), "cannot write " FILE_MAX);
		SYS(seteuid(NOBODY));
		ret = test_ioctl(fd, c->cmd, arg);
		SYS(seteuid(0));
		CHECK(file_write(FILE_MAX, max), "cannot write " FILE_MAX);
		CHECK(ret == -ENFILE, "%s: %d", c->name, ret);
		CHECK_EQ(open_fd_count(), fds);
		WAIT_FOR(module_refcnt() == refs, RUN_S);
	}
}

/* Made, used and closed in ever another order. */
static void nothing_leaks(void)
{
	union arg *arg = private_alloc(sizeof(*arg));
	int refs = module_refcnt(), fds = open_fd_count(), round, i, n;

	CHECK(refs >= 0, "the module's reference count cannot be read");
	for (round = 0; round < 40; round++) {
		__u64 seed = test_seed + (__u64)round;

		for (i = 0; i < (int)ARRAY_SIZE(commands); i++) {
			int fd = prepare(&commands[i], arg);

			test_ioctl(fd, commands[i].cmd, arg);
		}
		for (i = 0; i < 1000; i++) {
			n = 3 + (int)(rnd(&seed) % 128);
			if (fcntl(n, F_GETFD) == FD_CLOEXEC)
				close(n);
		}
		for (n = 3; n < 256; n++)
			if (fcntl(n, F_GETFD) == FD_CLOEXEC)
				close(n);
		CHECK_EQ(open_fd_count(), fds);
	}
	WAIT_FOR(module_refcnt() == refs, RUN_S);
}

/* --------------------------------------------------------------- hammering */

#define SLOTS		48
#define HAMMERS		6
#define HAMMER_MS	6000

/* Descriptors that all threads use, and close under each other's hands. */
static int slots[SLOTS];
static bool hammer_end;

static void slot_put(__u64 *seed, int fd)
{
	int old;

	if (fd < 0)
		return;
	old = __atomic_exchange_n(&slots[rnd(seed) % SLOTS], fd, __ATOMIC_ACQ_REL);
	if (old >= 0)
		close(old);
}

static int slot_get(__u64 *seed)
{
	return __atomic_load_n(&slots[rnd(seed) % SLOTS], __ATOMIC_ACQUIRE);
}

static void hammer_socket(__u64 *seed)
{
	int pair[2];

	if (rnd(seed) % 4 == 0)
		tcp_pair(pair);
	else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return;
	/* A run that waits for nobody must not outlast the test. */
	socket_timeout(pair[0], 30);
	socket_timeout(pair[1], 30);
	slot_put(seed, pair[0]);
	slot_put(seed, pair[1]);
}

/* A small value that may mean something, or anything at all. */
static __u64 hammer_value(__u64 *seed)
{
	switch (rnd(seed) % 8) {
	case 0:
		return rnd(seed);
	case 1:
		return 1ULL << rnd(seed) % 64;
	case 2:
	case 3:
		return (__u64)(rnd(seed) % 64) * 64;
	case 4:
		return (__u64)slot_get(seed);
	default:
		return rnd(seed) % 4;
	}
}

static void hammer_ioctl(__u64 *seed, union arg *arg, __u64 *bitmap)
{
	const struct command *c = &commands[rnd(seed) % ARRAY_SIZE(commands)];
	bool wild = rnd(seed) % 4 == 0;
	__u64 *words = (__u64 *)arg;
	size_t i;
	int ret;

	memset(arg, 0, 512);
	arg->size = (__u32)(wild ? hammer_value(seed) : c->size);
	for (i = 1; wild && i < c->size / 8; i++)
		words[i] = hammer_value(seed);
	if (!wild) {
		switch (c->cmd) {
		case MIGR_REGION_CREATE:
			arg->region_create.length = (1 + rnd(seed) % 1024) * TEST_PAGE;
			break;
		case MIGR_MIGRATION_CREATE:
			arg->migration_create.role = 1 + rnd(seed) % 2;
			break;
		case MIGR_REGION_MERGE:
			arg->region_merge.first_page = rnd(seed) % 4 * 64;
			arg->region_merge.nr_pages = (1 + rnd(seed) % 4) * 64;
			arg->region_merge.bitmap = (uintptr_t)bitmap;
			break;
		case MIGR_TRACKER_FETCH:
			arg->tracker_fetch.first_page = rnd(seed) % 4 * 64;
			arg->tracker_fetch.nr_pages = (1 + rnd(seed) % 4) * 64;
			arg->tracker_fetch.bitmap = (uintptr_t)bitmap;
			break;
		case MIGR_MIGRATION_ADD_REGION:
			arg->add_region.region_fd = slot_get(seed);
			arg->add_region.id = rnd(seed) % 3;
			arg->add_region.flags = rnd(seed) % 2;
			break;
		case MIGR_MIGRATION_ADD_STREAM:
			arg->add_stream.socket_fd = slot_get(seed);
			arg->add_stream.flags = rnd(seed) % 2;
			arg->add_stream.compression = rnd(seed) % 4;
			break;
		case MIGR_MIGRATION_PASS:
			arg->pass.flags = rnd(seed) % 4 == 0;
			arg->pass.hot_pages_max = rnd(seed) % 64;
			break;
		case MIGR_TRACKER_LIMIT:
		case MIGR_MIGRATION_LIMIT:
			arg->limit.flags = rnd(seed) % 2;
			arg->limit.pages_per_second = rnd(seed) % 4 * 1000;
			break;
		}
	}
	/* Most of them where they belong, or few would get anywhere. */
	ret = -ENOTTY;
	for (i = 0; i < SLOTS && ret == -ENOTTY; i++)
		ret = test_ioctl(slot_get(seed), c->cmd, arg);
	if (ret)
		return;
	switch (c->cmd) {
	case MIGR_REGION_CREATE:
		slot_put(seed, arg->region_create.fd);
		break;
	case MIGR_REGION_GET:
		slot_put(seed, arg->region_get.fd);
		break;
	case MIGR_MIGRATION_CREATE:
		slot_put(seed, arg->migration_create.fd);
		break;
	case MIGR_REGION_TRACK:
		slot_put(seed, arg->region_track.fd);
		break;
	case MIGR_MIGRATION_ADD_STREAM:
		slot_put(seed, arg->add_stream.fd);
		break;
	}
}

/* Writes through a mapping of whatever it is, if it can be mapped. */
static void hammer_map(__u64 *seed)
{
	size_t len = (1 + rnd(seed) % 64) * TEST_PAGE;
	unsigned char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, slot_get(seed), 0);
	size_t i;

	if (p == MAP_FAILED)
		return;
	for (i = 0; i < len; i += TEST_PAGE * (1 + rnd(seed) % 4))
		__atomic_store_n(&p[i], 1, __ATOMIC_RELAXED);
	if (rnd(seed) % 2)
		madvise(p, len, MADV_REMOVE);
	munmap(p, len);
}

static void *hammer_thread(void *arg)
{
	__u64 seed = test_seed + (uintptr_t)arg, calls = 0;
	union arg *buf = private_alloc(sizeof(*buf));
	__u64 *bitmap = private_alloc(TEST_PAGE);

	while (!__atomic_load_n(&hammer_end, __ATOMIC_ACQUIRE)) {
		switch (rnd(&seed) % 16) {
		case 0:
			slot_put(&seed, dev_open());
			break;
		case 1:
			hammer_socket(&seed);
			break;
		case 2: {
			int old = __atomic_exchange_n(&slots[rnd(&seed) % SLOTS], -1,
						      __ATOMIC_ACQ_REL);

			if (old >= 0)
				close(old);
			break;
		}
		case 3:
			hammer_map(&seed);
			break;
		case 4:
			slot_put(&seed, fcntl(slot_get(&seed), F_DUPFD_CLOEXEC, 3));
			break;
		case 5:
			fallocate(slot_get(&seed), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				  (off_t)((1 + rnd(&seed) % 64) * TEST_PAGE));
			break;
		default:
			hammer_ioctl(&seed, buf, bitmap);
			break;
		}
		calls++;
	}
	return (void *)(uintptr_t)calls;
}

static void many_threads(void)
{
	pthread_t threads[HAMMERS];
	__u64 end = now_ns() + HAMMER_MS * 1000000ULL;
	int refs = module_refcnt(), i;
	unsigned long calls = 0;

	/* Writing to a socket whose peer is gone is part of the game. */
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < SLOTS; i++)
		slots[i] = -1;
	for (i = 0; i < HAMMERS; i++)
		threads[i] = thread_start(hammer_thread, (void *)(uintptr_t)i);
	while (now_ns() < end)
		poll_pause();
	__atomic_store_n(&hammer_end, true, __ATOMIC_RELEASE);
	for (i = 0; i < HAMMERS; i++) {
		void *result;
		struct timespec ts;

		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_sec += RUN_S;
		CHECK(!pthread_timedjoin_np(threads[i], &result, &ts), "thread %d hangs", i);
		calls += (uintptr_t)result;
	}
	diag("%lu calls", calls);
	for (i = 0; i < SLOTS; i++)
		if (slots[i] >= 0)
			close(slots[i]);
	WAIT_FOR(module_refcnt() == refs, RUN_S);
}

static const struct test_case cases[] = {
	CASE(wrong_kinds),
	CASE(unknown_commands),
	CASE(sizes),
	CASE(pointers),
	CASE(read_only_arguments),
	CASE(flags_and_reserved),
	CASE(roles),
	CASE(sockets),
	CASE(regions),
	CASE(read_only_descriptors),
	CASE(states),
	CASE(close_on_exec),
	CASE(no_descriptor_left),
	CASE(no_file_left),
	CASE(nothing_leaks),
	CASE(many_threads),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
