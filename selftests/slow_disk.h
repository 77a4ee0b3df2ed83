/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk whose reads take as long as the test says: a network block device
 * whose server is a thread of the test. There is one at a time.
 */
#ifndef MIGR_SELFTEST_SLOW_DISK_H
#define MIGR_SELFTEST_SLOW_DISK_H

#include "migr_test.h"

#include <linux/nbd.h>

#define SLOW_DISK	"/dev/nbd0"
#define SLOW_DISK_SIZE	"/sys/block/nbd0/size"
#define SLOW_DISK_BYTES	0x800000UL

struct slow_disk {
	int fd;
	int sock;
	unsigned char *data;
	bool hold;		/* reads wait */
	__u32 held;		/* bytes of the read that waits */
	__u32 delay_ns;		/* others take up to that long */
	__u64 reads;
	pthread_t server;
	pthread_t runner;
};

static inline bool transfer_all(int fd, void *buf, size_t len,
				ssize_t (*transfer)(int fd, void *buf, size_t len))
{
	ssize_t n;

	for (; len; buf = (char *)buf + n, len -= (size_t)n) {
		n = transfer(fd, buf, len);
		if (n <= 0)
			return false;
	}
	return true;
}

static inline ssize_t write_some(int fd, void *buf, size_t len)
{
	return write(fd, buf, len);
}

static inline void slow_disk_wait(struct slow_disk *d, __u32 len, __u64 *seed)
{
	struct timespec ts = { 0 };

	if (__atomic_load_n(&d->hold, __ATOMIC_ACQUIRE)) {
		__atomic_store_n(&d->held, len, __ATOMIC_RELEASE);
		WAIT_FOR(!__atomic_load_n(&d->hold, __ATOMIC_ACQUIRE), RUN_S);
		__atomic_store_n(&d->held, 0, __ATOMIC_RELEASE);
	}
	if (d->delay_ns) {
		ts.tv_nsec = (long)(rnd(seed) % d->delay_ns);
		nanosleep(&ts, NULL);
	}
}

static inline void *slow_disk_serve(void *arg)
{
	struct slow_disk *d = arg;
	struct nbd_request request;
	__u64 seed = test_seed;
	bool more = true;

	while (more && transfer_all(d->sock, &request, sizeof(request), read)) {
		struct nbd_reply reply = { .magic = htonl(NBD_REPLY_MAGIC) };
		__u64 from = __builtin_bswap64(request.from);
		__u32 len = ntohl(request.len);

		memcpy(&reply.handle, &request.handle, sizeof(reply.handle));
		CHECK(from <= SLOW_DISK_BYTES && len <= SLOW_DISK_BYTES - from,
		      "a request for %u bytes at %llu", len, (unsigned long long)from);
		switch (ntohl(request.type)) {
		case NBD_CMD_READ:
			slow_disk_wait(d, len, &seed);
			more = transfer_all(d->sock, &reply, sizeof(reply), write_some) &&
			       transfer_all(d->sock, d->data + from, len, write_some);
			d->reads++;
			break;
		case NBD_CMD_WRITE:
			more = transfer_all(d->sock, d->data + from, len, read) &&
			       transfer_all(d->sock, &reply, sizeof(reply), write_some);
			break;
		case NBD_CMD_DISC:
			more = false;
			break;
		default:
			FAIL("disk request %u", ntohl(request.type));
		}
	}
	return NULL;
}

static inline void *slow_disk_run(void *arg)
{
	struct slow_disk *d = arg;

	ioctl(d->fd, NBD_DO_IT);
	return NULL;
}

/* A disk of random content, or the case is skipped. */
static inline void slow_disk_open(struct slow_disk *d)
{
	__u64 seed = test_seed;
	char size[16];
	int pair[2];

	memset(d, 0, sizeof(*d));
	/* Anew, so that nothing of an earlier use is left. */
	WAIT_FOR(!run_command("modprobe -q -r nbd"), RUN_S);
	if (run_command("modprobe -q nbd nbds_max=1"))
		test_skip("no nbd module: no disk whose reads can be held");
	WAIT_FOR(access(SLOW_DISK, R_OK) == 0, RUN_S);
	d->data = private_alloc(SLOW_DISK_BYTES);
	fill_random(d->data, SLOW_DISK_BYTES, &seed);
	d->fd = (int)SYS(open(SLOW_DISK, O_RDWR | O_CLOEXEC));
	SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	d->sock = pair[1];
	SYS(ioctl(d->fd, NBD_SET_BLKSIZE, TEST_PAGE));
	SYS(ioctl(d->fd, NBD_SET_SIZE_BLOCKS, SLOW_DISK_BYTES / TEST_PAGE));
	SYS(ioctl(d->fd, NBD_SET_SOCK, pair[0]));
	d->server = thread_start(slow_disk_serve, d);
	d->runner = thread_start(slow_disk_run, d);
	/* The other thread makes the disk as large as it is. */
	WAIT_FOR(atoi(file_read(SLOW_DISK_SIZE, size, sizeof(size))), RUN_S);
}

/* From here on a read waits for slow_disk_release(). */
static inline void slow_disk_hold(struct slow_disk *d)
{
	__atomic_store_n(&d->hold, true, __ATOMIC_RELEASE);
}

static inline void slow_disk_await(struct slow_disk *d, __u32 len)
{
	WAIT_FOR(__atomic_load_n(&d->held, __ATOMIC_ACQUIRE) == len, RUN_S);
}

static inline void slow_disk_release(struct slow_disk *d)
{
	__atomic_store_n(&d->hold, false, __ATOMIC_RELEASE);
}

static inline void slow_disk_close(struct slow_disk *d)
{
	ioctl(d->fd, NBD_DISCONNECT);
	ioctl(d->fd, NBD_CLEAR_SOCK);
	thread_join(d->server);
	thread_join(d->runner);
	SYS(close(d->fd));
}

#endif /* MIGR_SELFTEST_SLOW_DISK_H */
