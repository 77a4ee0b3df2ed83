/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A /dev/migr in user space, for tests of what is above the kernel: it takes
 * the place of open(), ioctl() and accept4(). A region is a memfd; what is dirty
 * is found by comparing it with what was sent, or is what was reported; frames are
 * not those of the kernel.
 */
#ifndef MIGR_FAKE_DEVICE_H
#define MIGR_FAKE_DEVICE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/migr.h>

#define FAKE_PAGE	4096
#define FAKE_NAME	"migr-fake-region"
#define FAKE_MAX	16

/* What a test can make fail, on the destination: errno of its run, or 0. */
static int fake_receive_error;
/* What accept4() fails with, or 0, and how often it has. */
static atomic_int fake_accept_error, fake_accepts;
/* With which the latest stream of a source was added. */
static uint32_t fake_stream_flags;
/* The same, for a source [0] and a destination [1]. */
static uint32_t fake_stream_compression[2], fake_stream_cpu[2];
/* What their kernels can do; they are asked in turn, the source's first. */
static uint32_t fake_compressions[2];
static atomic_uint fake_asked;
/* Called in the middle of every pass but the last: the guest at work. */
static void (*fake_guest)(void *data);
static void *fake_guest_data;
/* Called on the destination before the run that had all of it returns. */
static void (*fake_received)(void *data);
static void *fake_received_data;

struct fake_frame {
	uint32_t kind;			/* 0 page, 1 end of pass, 2 end of last pass */
	uint32_t region;
	uint64_t page;
};

struct fake_migration {
	int fd, stream, socket;
	uint32_t role, nr;
	uint32_t pass_flags;
	struct {
		uint32_t id;
		ino_t inode;
		bool reported;
		uint8_t *memory, *sent, *dirty;	/* a byte a page, if reported */
		size_t length;
	} regions[FAKE_MAX];
	struct migr_migration_status status;
};

static struct fake_migration fake_migrations[FAKE_MAX];
static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

static int fake_fail(int error)
{
	errno = error;
	return -1;
}

static int fake_memfd(const char *name)
{
	return syscall(SYS_memfd_create, name, MFD_CLOEXEC);
}

static bool fake_is(int fd, const char *name)
{
	char path[64], link[128];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return false;
	link[n] = '\0';
	return strstr(link, name);
}

static struct fake_migration *fake_find(int fd, bool stream)
{
	struct fake_migration *found = NULL;

	pthread_mutex_lock(&fake_lock);
	for (int i = 0; i < FAKE_MAX; i++)
		if (fd > 0 && (stream ? fake_migrations[i].stream : fake_migrations[i].fd) == fd)
			found = &fake_migrations[i];
	pthread_mutex_unlock(&fake_lock);
	return found;
}

/*
 * Descriptors are closed behind our back: what still claims a new one's number
 * is gone.
 */
static void fake_claim(int fd)
{
	pthread_mutex_lock(&fake_lock);
	for (int i = 0; i < FAKE_MAX; i++)
		if (fake_migrations[i].fd == fd || fake_migrations[i].stream == fd) {
			close(fake_migrations[i].socket);
			fake_migrations[i] = (struct fake_migration){ 0 };
		}
	pthread_mutex_unlock(&fake_lock);
}

static int fake_create(struct migr_migration_create *a)
{
	int fd = fake_memfd("migr-fake-migration");
	struct fake_migration *g = NULL;

	fake_claim(fd);
	pthread_mutex_lock(&fake_lock);
	for (int i = 0; i < FAKE_MAX && !g; i++)
		if (!fake_migrations[i].fd)
			g = &fake_migrations[i];
	if (g)
		*g = (struct fake_migration){ .fd = fd, .socket = -1, .role = a->role };
	pthread_mutex_unlock(&fake_lock);
	a->fd = fd;
	return g ? 0 : fake_fail(ENFILE);
}

static int fake_add_region(struct fake_migration *g, struct migr_migration_add_region *a)
{
	struct stat st;

	if (fstat(a->region_fd, &st) < 0)
		return fake_fail(EBADF);
	g->regions[g->nr].id = a->id;
	g->regions[g->nr].length = st.st_size;
	g->regions[g->nr].inode = st.st_ino;
	g->regions[g->nr].reported = a->flags & MIGR_WRITES_REPORTED;
	g->regions[g->nr].dirty = malloc(st.st_size / FAKE_PAGE);
	memset(g->regions[g->nr].dirty, 1, st.st_size / FAKE_PAGE);
	g->regions[g->nr].memory = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
					a->region_fd, 0);
	g->regions[g->nr].sent = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->nr++;
	g->status.total_pages += st.st_size / FAKE_PAGE;
	g->status.dirty_pages = g->status.total_pages;
	return 0;
}

static int fake_merge(int fd, struct migr_region_merge *a)
{
	const uint64_t *bitmap = (const uint64_t *)(uintptr_t)a->bitmap;
	struct stat st;

	if (!fake_is(fd, FAKE_NAME) || fstat(fd, &st) < 0)
		return fake_fail(ENOTTY);
	if (a->first_page % 64 || a->first_page + a->nr_pages > (uint64_t)st.st_size / FAKE_PAGE)
		return fake_fail(EINVAL);
	a->dirtied_pages = 0;
	pthread_mutex_lock(&fake_lock);
	for (int i = 0; i < FAKE_MAX; i++) {
		struct fake_migration *g = &fake_migrations[i];

		for (uint32_t r = 0; r < g->nr && g->role == MIGR_ROLE_SOURCE; r++)
			for (uint64_t p = 0; p < a->nr_pages; p++) {
				uint8_t *dirty = g->regions[r].dirty + a->first_page + p;

				if (g->regions[r].inode != st.st_ino ||
				    !(bitmap[p / 64] >> p % 64 & 1))
					continue;
				a->dirtied_pages += !*dirty;
				g->status.dirty_pages += !*dirty;
				*dirty = 1;
			}
	}
	pthread_mutex_unlock(&fake_lock);
	return 0;
}

static bool fake_io(int fd, void *bytes, size_t length, bool out)
{
	ssize_t n;

	while (length) {
		n = out ? send(fd, bytes, length, MSG_NOSIGNAL) : recv(fd, bytes, length, 0);
		if (n <= 0) {
			if (!n)
				errno = ECONNRESET;
			return false;
		}
		bytes = (char *)bytes + n;
		length -= n;
	}
	return true;
}

static bool fake_dirty(struct fake_migration *g, uint32_t r, uint64_t page)
{
	size_t at = page * FAKE_PAGE;

	if (g->regions[r].reported)
		return g->regions[r].dirty[page];
	return memcmp(g->regions[r].memory + at, g->regions[r].sent + at, FAKE_PAGE);
}

static uint64_t fake_count(struct fake_migration *g)
{
	uint64_t count = 0;

	for (uint32_t r = 0; r < g->nr; r++)
		for (uint64_t p = 0; p < g->regions[r].length / FAKE_PAGE; p++)
			count += fake_dirty(g, r, p);
	return count;
}

static int fake_send(struct fake_migration *g)
{
	struct fake_frame f = { 0 };
	char ack;

	for (uint32_t r = 0; r < g->nr; r++) {
		for (uint64_t p = 0; p < g->regions[r].length / FAKE_PAGE; p++) {
			if (!fake_dirty(g, r, p))
				continue;
			g->regions[r].dirty[p] = 0;
			memcpy(g->regions[r].sent + p * FAKE_PAGE,
			       g->regions[r].memory + p * FAKE_PAGE, FAKE_PAGE);
			f.region = g->regions[r].id;
			f.page = p;
			if (!fake_io(g->socket, &f, sizeof(f), true) ||
			    !fake_io(g->socket, g->regions[r].sent + p * FAKE_PAGE, FAKE_PAGE,
				     true))
				return -1;
			g->status.pass_sent_pages++;
			g->status.data_pages++;
			g->status.pass_wire_bytes += sizeof(f) + FAKE_PAGE;
			g->status.wire_bytes += sizeof(f) + FAKE_PAGE;
			g->status.pass_ns += 10000;
		}
	}
	f.kind = g->pass_flags & MIGR_PASS_LAST ? 2 : 1;
	if (f.kind == 1 && fake_guest)
		fake_guest(fake_guest_data);
	if (!fake_io(g->socket, &f, sizeof(f), true) || !fake_io(g->socket, &ack, 1, false))
		return -1;
	g->status.dirty_pages = fake_count(g);
	g->status.state = f.kind == 2 ? MIGR_STATE_COMPLETE : MIGR_STATE_BETWEEN;
	return 0;
}

static int fake_receive(struct fake_migration *g)
{
	struct fake_frame f;
	uint32_t r;

	for (;;) {
		if (!fake_io(g->socket, &f, sizeof(f), false))
			return -1;
		if (fake_receive_error) {
			shutdown(g->socket, SHUT_RDWR);
			return fake_fail(fake_receive_error);
		}
		if (f.kind) {
			g->status.passes++;
			if (!fake_io(g->socket, "a", 1, true))
				return -1;
			if (f.kind != 2)
				continue;
			if (fake_received)
				fake_received(fake_received_data);
			return 0;
		}
		for (r = 0; r < g->nr && g->regions[r].id != f.region; r++)
			;
		if (r == g->nr || f.page >= g->regions[r].length / FAKE_PAGE)
			return fake_fail(EPROTO);
		if (!fake_io(g->socket, g->regions[r].memory + f.page * FAKE_PAGE, FAKE_PAGE,
			     false))
			return -1;
		g->status.data_pages++;
		g->status.wire_bytes += sizeof(f) + FAKE_PAGE;
	}
}

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	struct fake_migration *g = fake_find(fd, false);

	if (request == MIGR_MIGRATION_ADD_REGION && g)
		return fake_add_region(g, arg);
	if (request == MIGR_MIGRATION_ADD_STREAM && g) {
		struct migr_migration_add_stream *a = arg;

		a->fd = fake_memfd("migr-fake-stream");
		fake_claim(a->fd);
		g->stream = a->fd;
		g->socket = dup(a->socket_fd);
		if (g->role == MIGR_ROLE_SOURCE)
			fake_stream_flags = a->flags;
		fake_stream_compression[g->role - 1] = a->compression;
		fake_stream_cpu[g->role - 1] = a->compression_cpu;
		return 0;
	}
	if (request == MIGR_MIGRATION_PASS && g) {
		g->pass_flags = ((struct migr_migration_pass *)arg)->flags;
		g->status.passes++;
		g->status.pass_pages = fake_count(g);
		g->status.pass_sent_pages = 0;
		g->status.pass_wire_bytes = 0;
		g->status.pass_ns = 1;
		return 0;
	}
	if (request == MIGR_MIGRATION_STATUS && g) {
		*(struct migr_migration_status *)arg = g->status;
		return 0;
	}
	if (request == MIGR_MIGRATION_LIMIT && g) {
		g->status.limit = ((struct migr_limit *)arg)->pages_per_second;
		return 0;
	}
	if (request == MIGR_STREAM_RUN) {
		g = fake_find(fd, true);
		if (!g)
			return fake_fail(ENOTTY);
		return g->role == MIGR_ROLE_SOURCE ? fake_send(g) : fake_receive(g);
	}
	if (request == MIGR_STREAM_SHUTDOWN) {
		g = fake_find(fd, true);
		if (!g)
			return fake_fail(ENOTTY);
		shutdown(g->socket, SHUT_RDWR);
		return 0;
	}
	if (request == MIGR_REGION_INFO && fake_is(fd, FAKE_NAME)) {
		struct migr_region_info *info = arg;
		struct stat st;

		fstat(fd, &st);
		info->length = st.st_size;
		info->id = st.st_ino;
		return 0;
	}
	if (request == MIGR_REGION_CREATE) {
		struct migr_region_create *a = arg;

		a->fd = fake_memfd(FAKE_NAME);
		return ftruncate(a->fd, a->length);
	}
	if (request == MIGR_REGION_MERGE)
		return fake_merge(fd, arg);
	if (request == MIGR_MIGRATION_CREATE)
		return fake_create(arg);
	if (request == MIGR_INFO) {
		uint32_t compressions = 0;

		if (((struct migr_info *)arg)->flags & MIGR_INFO_COMPRESSIONS)
			compressions = fake_compressions[atomic_fetch_xor(&fake_asked, 1)];
		*(struct migr_info *)arg = (struct migr_info){
			.size = sizeof(struct migr_info),
			.abi_version = MIGR_ABI_VERSION,
			.wire_version = 1,
			.page_size = FAKE_PAGE,
			.chunk_pages = MIGR_CHUNK_PAGES,
			.region_max = 1ull << 40,
			.compressions = compressions,
		};
		return 0;
	}
	return fake_fail(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if ((request >> 8 & 0xff) == MIGR_IOCTL_TYPE)
		return fake_ioctl(fd, request, arg);
	return syscall(SYS_ioctl, fd, request, arg);
}

int accept4(int fd, __SOCKADDR_ARG address, socklen_t *__restrict length, int flags)
{
	if (!fake_accept_error)
		return syscall(SYS_accept4, fd, address.__sockaddr__, length, flags);
	fake_accepts++;
	return fake_fail(fake_accept_error);
}

int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list args;

	if (!strcmp(path, "/dev/migr"))
		return fake_memfd(FAKE_NAME);
	if (flags & (O_CREAT | O_TMPFILE)) {
		va_start(args, flags);
		mode = va_arg(args, mode_t);
		va_end(args);
	}
	return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#endif /* MIGR_FAKE_DEVICE_H */
