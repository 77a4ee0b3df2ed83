/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the test programs share: a KTAP runner, thin wrappers over the ioctls
 * of <linux/migr.h>, and small helpers for memory, threads and sockets.
 *
 * Each case runs in a process of its own, in its own process group, with a
 * time limit: a case may simply return or fail in the middle, and whatever it
 * held is released by its exit. After each case the module's reference count
 * has to be what it was before, so every case is a test for leaks as well.
 *
 * The ioctl wrappers return a descriptor or 0, or a negative errno.
 */
#ifndef MIGR_TEST_H
#define MIGR_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/migr.h>
#include <linux/vm_sockets.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define TEST_DEVICE	"/dev/migr"
#define TEST_PAGE	4096UL
#define TEST_WORD_PAGES	64UL

enum {
	TEST_PASS = 0,
	TEST_FAIL = 1,
	TEST_SKIP = 4,
};

struct test_case {
	const char *name;
	void (*fn)(void);
	unsigned int timeout_s;
	unsigned int tries;
};

/*
 * What is to end nothing but a hang, in seconds: a connection, a thread that has one,
 * a test. An emulated machine has been seen to do nothing for half a minute, and a
 * busy one to take nine times as long as others.
 */
#define SOCKET_S		60
#define RUN_S			65
#define CASE_S			240

#define CASE(fn)		{ #fn, fn, CASE_S, 1 }
#define CASE_WITHIN(fn, s)	{ #fn, fn, s, 1 }
/* It measures time, which others take from it: one good try of three is enough. */
#define CASE_TIMED(fn)		{ #fn, fn, CASE_S, 3 }

/* What may be waited for may take so many times longer: there are slow kernels. */
static unsigned int test_patience = 1;

/* Where a case leaves the reason why it was skipped; shared with the runner. */
static char *test_skip_reason;
#define TEST_REASON_MAX 256

/* ------------------------------------------------------------ reporting */

#define diag(...)							\
	do {								\
		char text_[512];					\
									\
		snprintf(text_, sizeof(text_), __VA_ARGS__);		\
		printf("# %s\n", text_);				\
	} while (0)

/* From any thread of the case. */
#define test_fail(file, line, ...)					\
	do {								\
		char why_[400];						\
									\
		snprintf(why_, sizeof(why_), __VA_ARGS__);		\
		diag("%s:%d: %s", file, line, why_);			\
		_exit(TEST_FAIL);					\
	} while (0)

#define test_skip(...)							\
	do {								\
		snprintf(test_skip_reason, TEST_REASON_MAX, __VA_ARGS__); \
		_exit(TEST_SKIP);					\
	} while (0)

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(cond, ...)						\
	do {								\
		if (!(cond))						\
			test_fail(__FILE__, __LINE__, __VA_ARGS__);	\
	} while (0)

#define CHECK_EQ(have, want)						\
	do {								\
		long long have_ = (long long)(have);			\
		long long want_ = (long long)(want);			\
									\
		if (have_ != want_)					\
			test_fail(__FILE__, __LINE__,			\
				  "%s is %lld, not %lld", #have, have_, want_); \
	} while (0)

/* For calls that return a negative errno. */
#define CALL(expr)							\
	({								\
		long call_ = (long)(expr);				\
									\
		if (call_ < 0)						\
			test_fail(__FILE__, __LINE__, "%s: %s", #expr,	\
				  strerror((int)-call_));		\
		call_;							\
	})

#define CALL_ERR(expr, err)						\
	do {								\
		long call_ = (long)(expr);				\
		int want_ = (err);					\
									\
		if (call_ != -want_)					\
			test_fail(__FILE__, __LINE__, "%s: %s, not %s",	\
				  #expr, call_ < 0 ?			\
				  strerror((int)-call_) : "success",	\
				  strerror(want_));			\
	} while (0)

/* For calls that return -1 and set errno. */
#define SYS(expr)							\
	({								\
		long sys_ = (long)(expr);				\
									\
		if (sys_ == -1)						\
			test_fail(__FILE__, __LINE__, "%s: %s", #expr,	\
				  strerror(errno));			\
		sys_;							\
	})

#define SYS_ERR(expr, err)						\
	do {								\
		long sys_ = (long)(expr);				\
		int want_ = (err);					\
									\
		if (sys_ != -1 || errno != want_)			\
			test_fail(__FILE__, __LINE__, "%s: %s, not %s",	\
				  #expr, sys_ == -1 ? strerror(errno) : \
				  "success", strerror(want_));		\
	} while (0)

/* ----------------------------------------------------------------- time */

static inline __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (__u64)ts.tv_sec * 1000000000ULL + (__u64)ts.tv_nsec;
}

/* CPU time of this thread. */
static inline __u64 thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (__u64)ts.tv_sec * 1000000000ULL + (__u64)ts.tv_nsec;
}

static inline __u64 deadline_in(unsigned int seconds)
{
	return now_ns() + seconds * test_patience * 1000000000ULL;
}

/* Between two looks at a condition that somebody else makes true. */
static inline void poll_pause(void)
{
	struct timespec ts = { .tv_nsec = 1000000 };

	nanosleep(&ts, NULL);
}

/* Where all threads of a process group are, one of which is stuck, for the log. */
static inline void dump_stacks(pid_t group)
{
	char command[200];

	snprintf(command, sizeof(command),
		 "for t in $(pgrep -g %d | sed 's|.*|/proc/&/task/*|'); do echo $t $(cut -d' ' -f3,14,15 $t/stat); cat $t/stack; done 2>/dev/null | sed 's/^/#   /'",
		 group);
	if (system(command))
		diag("no stacks of %d", group);
}

#define WAIT_FOR(cond, seconds)						\
	do {								\
		unsigned int limit_ = (seconds);				\
		__u64 end_ = deadline_in(limit_);			\
									\
		while (!(cond)) {					\
			if (now_ns() > end_) {				\
				dump_stacks(getpgrp());			\
				test_fail(__FILE__, __LINE__,		\
					  "after %u s still not: %s",	\
					  limit_ * test_patience, #cond); \
			}						\
			poll_pause();					\
		}							\
	} while (0)

/* --------------------------------------------------------------- random */

static __u64 test_seed = 0x6d696772;

/* splitmix64: one word of state, good enough to choose pages with. */
static inline __u64 rnd(__u64 *state)
{
	__u64 z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static inline void fill_random(void *p, size_t len, __u64 *state)
{
	__u64 *word = p;
	size_t i;

	for (i = 0; i < len / sizeof(*word); i++)
		word[i] = rnd(state);
}

/* --------------------------------------------------------------- ioctls */

static inline int test_ioctl(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) < 0 ? -errno : 0;
}

static inline int dev_open(void)
{
	int fd = open(TEST_DEVICE, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static inline int dev_info_flags(int dev, __u32 flags, struct migr_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	info->flags = flags;
	return test_ioctl(dev, MIGR_INFO, info);
}

static inline int dev_info(int dev, struct migr_info *info)
{
	return dev_info_flags(dev, 0, info);
}

static inline int region_create(int dev, __u64 length, const char *name)
{
	struct migr_region_create arg = { .size = sizeof(arg), .length = length };
	int ret;

	memcpy(arg.name, name, strnlen(name, sizeof(arg.name)));
	ret = test_ioctl(dev, MIGR_REGION_CREATE, &arg);
	return ret ? ret : arg.fd;
}

static inline int region_get(int dev)
{
	struct migr_region_get arg = { .size = sizeof(arg) };
	int ret = test_ioctl(dev, MIGR_REGION_GET, &arg);

	return ret ? ret : arg.fd;
}

static inline int region_info(int region, struct migr_region_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	return test_ioctl(region, MIGR_REGION_INFO, info);
}

static inline int region_track(int region)
{
	struct migr_region_track arg = { .size = sizeof(arg) };
	int ret = test_ioctl(region, MIGR_REGION_TRACK, &arg);

	return ret ? ret : arg.fd;
}

static inline int tracker_fetch(int tracker, __u64 first, __u64 nr, void *bitmap,
				struct migr_tracker_fetch *out)
{
	struct migr_tracker_fetch arg = {
		.size = sizeof(arg),
		.first_page = first,
		.nr_pages = nr,
		.bitmap = (uintptr_t)bitmap,
	};
	int ret = test_ioctl(tracker, MIGR_TRACKER_FETCH, &arg);

	if (out)
		*out = arg;
	return ret;
}

static inline int region_merge(int region, __u64 first, __u64 nr, const void *bitmap,
			       struct migr_region_merge *out)
{
	struct migr_region_merge arg = {
		.size = sizeof(arg),
		.first_page = first,
		.nr_pages = nr,
		.bitmap = (uintptr_t)bitmap,
	};
	int ret = test_ioctl(region, MIGR_REGION_MERGE, &arg);

	if (out)
		*out = arg;
	return ret;
}

/* On a tracker or on a source; 0: no limit. */
static inline int limit_set(int fd, unsigned long cmd, __u64 rate)
{
	struct migr_limit arg = {
		.size = sizeof(arg),
		.flags = MIGR_LIMIT_SET,
		.pages_per_second = rate,
	};

	return test_ioctl(fd, cmd, &arg);
}

static inline int limit_read(int fd, unsigned long cmd, struct migr_limit *out)
{
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	return test_ioctl(fd, cmd, out);
}

static inline int migration_create(int dev, __u32 role)
{
	struct migr_migration_create arg = { .size = sizeof(arg), .role = role };
	int ret = test_ioctl(dev, MIGR_MIGRATION_CREATE, &arg);

	return ret ? ret : arg.fd;
}

static inline int migration_add_region_flags(int migration, int region, __u32 id, __u32 flags)
{
	struct migr_migration_add_region arg = {
		.size = sizeof(arg),
		.flags = flags,
		.region_fd = region,
		.id = id,
	};

	return test_ioctl(migration, MIGR_MIGRATION_ADD_REGION, &arg);
}

static inline int migration_add_region(int migration, int region, __u32 id)
{
	return migration_add_region_flags(migration, region, id, 0);
}

static inline int migration_add_stream_arg(int migration, struct migr_migration_add_stream arg)
{
	int ret;

	arg.size = sizeof(arg);
	ret = test_ioctl(migration, MIGR_MIGRATION_ADD_STREAM, &arg);
	return ret ? ret : arg.fd;
}

static inline int migration_add_stream_id(int migration, int sock, __u32 flags, __u32 id)
{
	return migration_add_stream_arg(migration, (struct migr_migration_add_stream){
		.flags = flags, .socket_fd = sock, .id = id });
}

static inline int migration_add_stream_compressed(int migration, int sock, __u32 id,
						  __u32 compression, __u32 cpu)
{
	return migration_add_stream_arg(migration, (struct migr_migration_add_stream){
		.socket_fd = sock, .id = id, .compression = compression,
		.compression_cpu = cpu });
}

static inline int migration_add_stream(int migration, int sock, __u32 flags)
{
	return migration_add_stream_id(migration, sock, flags, 0);
}

static inline int migration_pass_hot(int migration, __u32 flags, __u64 hot_pages_max)
{
	struct migr_migration_pass arg = {
		.size = sizeof(arg),
		.flags = flags,
		.hot_pages_max = hot_pages_max,
	};

	return test_ioctl(migration, MIGR_MIGRATION_PASS, &arg);
}

static inline int migration_pass(int migration, __u32 flags)
{
	return migration_pass_hot(migration, flags, 0);
}

static inline int migration_status(int migration, struct migr_migration_status *st)
{
	memset(st, 0, sizeof(*st));
	st->size = sizeof(*st);
	return test_ioctl(migration, MIGR_MIGRATION_STATUS, st);
}

static inline int stream_run(int stream)
{
	struct migr_stream_run arg = { .size = sizeof(arg) };

	return test_ioctl(stream, MIGR_STREAM_RUN, &arg);
}

/* On after each interruption; counts them. */
static inline int stream_run_through(int stream, unsigned int *interrupted)
{
	int ret;

	while ((ret = stream_run(stream)) == -EINTR)
		(*interrupted)++;
	return ret;
}

static inline int stream_shutdown(int stream)
{
	struct migr_stream_shutdown arg = { .size = sizeof(arg) };

	return test_ioctl(stream, MIGR_STREAM_SHUTDOWN, &arg);
}

/* --------------------------------------------------------------- memory */

/* A region and one mapping of all of it. */
struct mem {
	int dev;
	int fd;
	__u64 len;
	__u64 pages;
	unsigned char *p;
};

static inline void *map_shared(int fd, __u64 len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED, "mmap of %llu bytes of descriptor %d: %s",
	      (unsigned long long)len, fd, strerror(errno));
	return p;
}

static inline struct mem mem_new(__u64 pages)
{
	struct mem m = { .pages = pages, .len = pages * TEST_PAGE };

	m.dev = (int)CALL(dev_open());
	m.fd = (int)CALL(region_create(m.dev, m.len, "test"));
	m.p = map_shared(m.fd, m.len);
	return m;
}

/* The same of plain shared memory. */
static inline struct mem memfd_new(__u64 pages)
{
	struct mem m = { .dev = -1, .pages = pages, .len = pages * TEST_PAGE };

	m.fd = (int)SYS(memfd_create("test", MFD_CLOEXEC));
	SYS(ftruncate(m.fd, (off_t)m.len));
	m.p = map_shared(m.fd, m.len);
	return m;
}

static inline void mem_free(struct mem *m)
{
	SYS(munmap(m->p, m->len));
	SYS(close(m->fd));
	if (m->dev >= 0)
		SYS(close(m->dev));
}

static inline unsigned char *mem_page(const struct mem *m, __u64 page)
{
	return m->p + page * TEST_PAGE;
}

static inline void *private_alloc(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED, "no memory for %zu bytes", len);
	return p;
}

/* Memory that the processes of a case share and that is not a region. */
static inline void *shared_alloc(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED, "no memory for %zu bytes", len);
	return p;
}

/* First byte where two buffers differ, or -1. */
static inline long long first_difference(const void *a, const void *b, size_t len)
{
	const unsigned char *x = a, *y = b;
	size_t page, i;

	for (page = 0; page < len; page += TEST_PAGE) {
		if (!memcmp(x + page, y + page, TEST_PAGE))
			continue;
		for (i = page; x[i] == y[i]; i++)
			;
		return (long long)i;
	}
	return -1;
}

/* What was sent, and what is there. */
static inline void expect_equal(const struct mem *from, const struct mem *to)
{
	long long at = first_difference(from->p, to->p, from->len);

	CHECK(at < 0, "differs at byte %lld, page %lld: 0x%02x sent, 0x%02x there", at,
	      at / (long long)TEST_PAGE, from->p[at], to->p[at]);
}

static inline bool is_zero(const void *p, size_t len)
{
	const unsigned char *b = p;

	return !len || (!b[0] && !memcmp(b, b + 1, len - 1));
}

/* -------------------------------------------------------------- bitmaps */

static inline size_t bitmap_words(__u64 pages)
{
	return (pages + TEST_WORD_PAGES - 1) / TEST_WORD_PAGES;
}

static inline bool bit_test(const __u64 *map, __u64 n)
{
	return map[n / 64] >> (n % 64) & 1;
}

static inline void bit_set(__u64 *map, __u64 n)
{
	map[n / 64] |= 1ULL << (n % 64);
}

static inline __u64 bit_count(const __u64 *map, __u64 pages)
{
	__u64 n = 0;
	size_t i;

	for (i = 0; i < bitmap_words(pages); i++)
		n += (__u64)__builtin_popcountll(map[i]);
	return n;
}

/* -------------------------------------------------- processes and threads */

static inline pthread_t thread_start(void *(*fn)(void *arg), void *arg)
{
	pthread_t thread;
	int err = pthread_create(&thread, NULL, fn, arg);

	CHECK(!err, "pthread_create: %s", strerror(err));
	return thread;
}

static inline void thread_join_within(pthread_t thread, unsigned int seconds,
				      const char *what)
{
	struct timespec ts;
	int err;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += seconds * test_patience;
	err = pthread_timedjoin_np(thread, NULL, &ts);
	CHECK(!err, "%s: %s", what, strerror(err));
}

#define thread_join(thread) thread_join_within(thread, RUN_S, #thread)

/* fork(); the child dies with its parent. */
static inline pid_t child_start(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(TEST_FAIL);
	}
	return pid;
}

static inline void child_join(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status),
	      "child %d ended with status 0x%x", pid, status);
}

/* Another open of the same file; a negative errno if it is refused. */
static inline int reopen(int fd, int flags)
{
	char path[64];
	int copy;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	copy = open(path, flags | O_CLOEXEC);
	return copy < 0 ? -errno : copy;
}

static inline int open_fd_count(void)
{
	int i, n = 0;

	for (i = 0; i < 4096; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

static inline int run_command(const char *command)
{
	int status = system(command);

	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Contents of a small file, or an empty string. */
static inline char *file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

/* Whether a task sleeps in a function of the kernel. */
static inline bool task_sleeps_in(pid_t tid, const char *function)
{
	char path[64], stack[4096];

	snprintf(path, sizeof(path), "/proc/%d/stack", tid);
	return strstr(file_read(path, stack, sizeof(stack)), function);
}

/* Whether one of our threads sleeps in a function of the module. */
static inline bool any_sleeps_in(const char *function)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;
	bool found = false;

	CHECK(tasks, "/proc/self/task: %s", strerror(errno));
	while (!found && (task = readdir(tasks)))
		found = task_sleeps_in(atoi(task->d_name), function);
	closedir(tasks);
	return found;
}

/* Whether a task sleeps since it has written more than the limit allows. */
static inline bool writer_sleeps(pid_t tid)
{
	return task_sleeps_in(tid, "writer_work");
}

static inline bool file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

static inline bool kernel_before(int major, int minor)
{
	struct utsname name;
	int x, y;

	SYS(uname(&name));
	CHECK(sscanf(name.release, "%d.%d", &x, &y) == 2, "release %s", name.release);
	return x < major || (x == major && y < minor);
}

static inline int module_refcnt(void)
{
	char buf[32];

	file_read("/sys/module/migr/refcnt", buf, sizeof(buf));
	return buf[0] ? atoi(buf) : -1;
}

/* --------------------------------------------------- failed memory */

static inline bool can_read(const struct mem *m, __u64 page)
{
	char byte;

	return pread(m->fd, &byte, 1, (off_t)(page * TEST_PAGE)) == 1;
}

static inline void told_of_it(int sig)
{
	(void)sig;
}

/* The memory of a page fails, or pretends to. */
static inline void poison(const struct mem *m, __u64 page)
{
	/* Who maps it is told, and ended unless it listens. */
	SYS(sigaction(SIGBUS, &(struct sigaction){ .sa_handler = told_of_it }, NULL));
	if (madvise(mem_page(m, page), TEST_PAGE, MADV_HWPOISON))
		test_skip("MADV_HWPOISON: %s", strerror(errno));
	CHECK(!can_read(m, page), "the page can still be read");
}

/* -------------------------------------------------------------- sockets */

static inline void socket_timeout(int fd, unsigned int ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	SYS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	SYS(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
}

/* A connected pair, each end with a timeout so that no run waits for ever. */
static inline void unix_pair(int fd[2])
{
	SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
	socket_timeout(fd[0], SOCKET_S * 1000 * test_patience);
	socket_timeout(fd[1], SOCKET_S * 1000 * test_patience);
}

static inline void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = (int)SYS(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	if (!ioctl(fd, SIOCGIFFLAGS, &ifr) && !(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		SYS(ioctl(fd, SIOCSIFFLAGS, &ifr));
	}
	close(fd);
}

/* @address is where to listen, which connect() can be told as well. */
static inline void connected_pair(int fd[2], void *address, socklen_t len)
{
	struct sockaddr *sa = address;
	int listener = (int)SYS(socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));

	SYS(bind(listener, sa, len));
	SYS(listen(listener, 1));
	SYS(getsockname(listener, sa, &len));
	fd[0] = (int)SYS(socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
	socket_timeout(fd[0], SOCKET_S * 1000 * test_patience);
	SYS(connect(fd[0], sa, len));
	fd[1] = (int)SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	socket_timeout(fd[1], SOCKET_S * 1000 * test_patience);
	close(listener);
}

static inline void loopback_pair(int fd[2], void *address, socklen_t len)
{
	int one = 1;

	loopback_up();
	connected_pair(fd, address, len);
	SYS(setsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	SYS(setsockopt(fd[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
}

static inline void tcp_pair(int fd[2])
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	loopback_pair(fd, &sin, sizeof(sin));
}

static inline void tcp6_pair(int fd[2])
{
	struct sockaddr_in6 sin = {
		.sin6_family = AF_INET6,
		.sin6_addr = IN6ADDR_LOOPBACK_INIT,
	};

	loopback_pair(fd, &sin, sizeof(sin));
}

static inline void vsock_pair(int fd[2])
{
	struct sockaddr_vm svm = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_LOCAL,
		.svm_port = VMADDR_PORT_ANY,
	};

	connected_pair(fd, &svm, sizeof(svm));
}

static inline bool recv_all(int sock, void *buf, size_t len)
{
	ssize_t n;

	/* MSG_WAITALL is not kept if there is a signal, of a child that stops say. */
	for (; len && (n = recv(sock, buf, len, 0)) > 0; len -= n)
		buf = (char *)buf + n;
	return !len;
}

/* --------------------------------------------------------------- tracking */

/*
 * Fresh pages wait in per-CPU batches of the LRU and look pinned while they
 * do. move_pages() empties the batches of all CPUs first thing.
 */
static inline void lru_drain(void)
{
	void *page = private_alloc(TEST_PAGE);
	int node = 0, status = 0;

	*(char *)page = 1;
	syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, 1 << 1);
	munmap(page, TEST_PAGE);
}

/* Fetch until nothing is dirty any more: the caller has stopped all writers. */
static inline void tracker_settle(int tracker, __u64 pages)
{
	__u64 *bitmap = private_alloc(bitmap_words(pages) * sizeof(*bitmap));
	struct migr_tracker_fetch f;
	__u64 end = deadline_in(RUN_S);

	for (;;) {
		lru_drain();
		CALL(tracker_fetch(tracker, 0, pages, bitmap, &f));
		if (!f.dirty_pages)
			break;
		CHECK(now_ns() < end, "%llu pages (%llu pinned) still dirty after a minute of rest",
		      (unsigned long long)f.dirty_pages, (unsigned long long)f.pinned_pages);
	}
	munmap(bitmap, bitmap_words(pages) * sizeof(*bitmap));
}

/* --------------------------------------------------------------- runner */

static inline int case_wait(pid_t pid, unsigned int timeout_s)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };
	int status = 0;

	if (pidfd < 0 || poll(&pfd, 1, (int)timeout_s * 1000) == 0) {
		diag("not done after %u s, killed", timeout_s);
		dump_stacks(pid);
		kill(-pid, SIGKILL);
		status = -1;
	}
	if (pidfd >= 0) {
		/* Killed and still there: report it instead of waiting for ever. */
		if (poll(&pfd, 1, 10000) == 0) {
			diag("process %d cannot be killed", pid);
			dump_stacks(pid);
			close(pidfd);
			return -1;
		}
		close(pidfd);
	}
	if (status) {
		waitpid(pid, NULL, 0);
		return -1;
	}
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	kill(-pid, SIGKILL);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	diag("killed by signal %d", WTERMSIG(status));
	return -1;
}

static inline bool refcnt_returns_to(int refs)
{
	__u64 end = deadline_in(RUN_S);

	while (module_refcnt() != refs) {
		if (now_ns() > end)
			return false;
		poll_pause();
	}
	return true;
}

static inline int case_run(const struct test_case *c)
{
	int refs = module_refcnt();
	int result;
	pid_t pid;

	test_skip_reason[0] = '\0';
	pid = fork();
	if (pid < 0) {
		diag("fork: %s", strerror(errno));
		return TEST_FAIL;
	}
	if (!pid) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		c->fn();
		_exit(TEST_PASS);
	}
	setpgid(pid, pid);
	result = case_wait(pid, c->timeout_s * test_patience);
	if (!refcnt_returns_to(refs)) {
		diag("module references: %d before, %d after", refs, module_refcnt());
		return TEST_FAIL;
	}
	return result;
}

/* Runs all cases, or those whose names are given. */
static inline int test_main(const struct test_case *cases, size_t nr, int argc, char **argv)
{
	unsigned int passed = 0, failed = 0, skipped = 0, number = 0, tries;
	const char *seed = getenv("MIGR_SEED"), *patience = getenv("MIGR_PATIENCE");
	size_t i;
	int fd, a;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (seed)
		test_seed = strtoull(seed, NULL, 0);
	if (patience)
		test_patience = (unsigned int)atoi(patience);
	test_skip_reason = mmap(NULL, TEST_REASON_MAX, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	printf("KTAP version 1\n");
	fd = dev_open();
	if (fd < 0 || test_skip_reason == MAP_FAILED) {
		printf("Bail out! %s: %s\n", TEST_DEVICE, strerror(fd < 0 ? -fd : ENOMEM));
		return 1;
	}
	close(fd);
	for (i = 0; i < nr; i++) {
		for (a = 1; a < argc && strcmp(argv[a], cases[i].name); a++)
			;
		number += argc == 1 || a < argc;
	}
	printf("1..%u\n", number);
	diag("seed 0x%llx (set MIGR_SEED for another)", (unsigned long long)test_seed);
	number = 0;
	for (i = 0; i < nr; i++) {
		__u64 start = now_ns();
		int result;

		for (a = 1; a < argc && strcmp(argv[a], cases[i].name); a++)
			;
		if (argc > 1 && a == argc)
			continue;
		number++;
		tries = 0;
		do {
			result = case_run(&cases[i]);
		} while (result != TEST_PASS && result != TEST_SKIP &&
			 ++tries < cases[i].tries);
		diag("%s took %llu ms", cases[i].name,
		     (unsigned long long)(now_ns() - start) / 1000000);
		if (result == TEST_PASS) {
			passed++;
			printf("ok %u %s\n", number, cases[i].name);
		} else if (result == TEST_SKIP) {
			skipped++;
			printf("ok %u %s # SKIP %s\n", number, cases[i].name, test_skip_reason);
		} else {
			failed++;
			printf("not ok %u %s\n", number, cases[i].name);
		}
	}
	printf("# Totals: pass:%u fail:%u xfail:0 xpass:0 skip:%u error:0\n",
	       passed, failed, skipped);
	return failed || !number;
}

#endif /* MIGR_TEST_H */
