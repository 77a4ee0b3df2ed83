// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each call of the module that can fail does so in turn: the first one in an
 * operation, then the second, until the operation gets by without. A failed
 * operation says why, leaves nothing behind and loses no write, and succeeds
 * when it is tried again. Needs the module built for tests. Where the kernel can
 * inject failures, so does each allocation and copy that it makes for the operation.
 */
#include "migration.h"

#define PARAMETER	"/sys/module/migr/parameters/fail_nth"
#define FAIL_NTH	"/proc/thread-self/fail-nth"
#define DEBUG		"/sys/kernel/debug/"
/* More than any operation here has. */
#define CALLS_MAX	1000
/* Two chunks and a part of one. */
#define PAGES		(2 * MIGR_CHUNK_PAGES + 100)

/* The file that takes the number of the call that is to fail. */
static int nth;

static void fail_nth(unsigned int n)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u", n);

	/* What fails may be this very call, which was told to by the one before. */
	while (pwrite(nth, text, (size_t)length, 0) != length)
		CHECK_EQ(errno, EFAULT);
}

/* Whether the one that was to fail has; none does any more. */
static bool has_failed(void)
{
	char text[16] = "";
	bool failed = pread(nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	fail_nth(0);
	return failed;
}

/* What each_fails() lets fail. */
struct operation {
	void (*prepare)(void *arg);
	/* A negative errno, or what it made. */
	long (*run)(void *arg);
	/* Told what run() returned, takes everything back. */
	void (*finish)(void *arg, long ret);
};

static void nothing(void *arg)
{
	(void)arg;
}

static void close_made(void *arg, long ret)
{
	(void)arg;
	if (ret >= 0)
		SYS(close((int)ret));
}

/* Success, or an error that says what failed, here or at the other end. */
static bool may_be(long ret)
{
	switch (ret) {
	case -ENOMEM:
	case -ENFILE:
	case -EMFILE:
	case -EINTR:
	case -EFAULT:
	case -ENOBUFS:
	case -ECONNRESET:
	/* This is how shmem says that it gets no inode. */
	case -ENOSPC:
		return true;
	default:
		return ret >= 0;
	}
}

static void each_of(const char *file, const struct operation *op, void *arg,
		    unsigned int calls)
{
	unsigned int n, failures = 0;
	int refs, fds;
	bool failed;
	long ret;

	nth = (int)SYS(open(file, O_RDWR | O_CLOEXEC));
	refs = module_refcnt();
	fds = open_fd_count();
	for (n = 1; n < CALLS_MAX; n++) {
		op->prepare(arg);
		fail_nth(n);
		ret = op->run(arg);
		failed = has_failed();
		op->finish(arg, ret);
		CHECK(may_be(ret), "call %u: %s", n, strerror((int)-ret));
		failures += ret < 0;
		CHECK(refcnt_returns_to(refs), "call %u: %d references, not %d", n,
		      module_refcnt(), refs);
		CHECK_EQ(open_fd_count(), fds);
		if (!failed)
			break;
	}
	CHECK(ret >= 0, "it fails when no call does: %s", strerror((int)-ret));
	CHECK(n > 1, "it called nothing that can fail");
	diag("%u of %u calls made it fail", failures, n - 1);
	CHECK(failures >= calls, "only %u failures, not %u", failures, calls);
	SYS(close(nth));
}

/* The kernel fails allocations of any size and kind, and copies; it need not tell. */
static void kernel_fails_all(void)
{
	static const char * const settings[][2] = {
		{ DEBUG "failslab/ignore-gfp-wait", "N" },
		{ DEBUG "failslab/verbose", "0" },
		{ DEBUG "fail_page_alloc/ignore-gfp-wait", "N" },
		{ DEBUG "fail_page_alloc/min-order", "0" },
		{ DEBUG "fail_page_alloc/verbose", "0" },
		{ DEBUG "fail_usercopy/verbose", "0" },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(settings); i++)
		CHECK(file_write(settings[i][0], settings[i][1]), "%s: %s", settings[i][0],
		      strerror(errno));
}

/* At least @calls of those of the module that can fail make the operation fail. */
static void each_fails(const struct operation *op, void *arg, unsigned int calls)
{
	CHECK(!access(PARAMETER, F_OK), "this module cannot fail on demand: not built for tests");
	each_of(PARAMETER, op, arg, calls);
	if (!access(FAIL_NTH, F_OK)) {
		kernel_fails_all();
		each_of(FAIL_NTH, op, arg, 1);
	}
}

/* ---- regions ---- */

static long create_region(void *arg)
{
	return region_create(*(int *)arg, PAGES * TEST_PAGE, "faults");
}

static void creating_a_region(void)
{
	int dev = (int)CALL(dev_open());

	each_fails(&(struct operation){ nothing, create_region, close_made }, &dev, 3);
}

static long map_device(void *arg)
{
	int dev = dev_open(), error;
	void *p;

	if (dev < 0)
		return dev;
	p = mmap(NULL, PAGES * TEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dev, 0);
	error = errno;
	SYS(close(dev));
	*(void **)arg = p;
	return p == MAP_FAILED ? -error : 0;
}

static void unmap_device(void *arg, long ret)
{
	if (!ret)
		SYS(munmap(*(void **)arg, PAGES * TEST_PAGE));
}

static void mapping_the_device(void)
{
	void *p;

	each_fails(&(struct operation){ nothing, map_device, unmap_device }, &p, 3);
}

/* ---- tracking ---- */

static long track(void *arg)
{
	struct mem *m = arg;
	int ret = region_track(m->fd);
	struct migr_region_info info;

	if (ret < 0) {
		CALL(region_info(m->fd, &info));
		CHECK(!(info.state & MIGR_REGION_TRACKED), "it failed and tracks");
	}
	/* Writers must not notice. */
	memset(m->p, 1, m->len);
	return ret;
}

static void starting_to_track(void)
{
	struct mem m = mem_new(PAGES);

	each_fails(&(struct operation){ nothing, track, close_made }, &m, 6);
}

struct tracked {
	struct mem mem;
	int tracker;
	__u64 seed;
	void *p;
	__u64 written[PAGES / 64 + 1];
};

static void track_clean(struct tracked *t)
{
	memset(t, 0, sizeof(*t));
	t->mem = mem_new(PAGES);
	memset(t->mem.p, 1, t->mem.len);
	t->tracker = (int)CALL(region_track(t->mem.fd));
	tracker_settle(t->tracker, PAGES);
}

static void write_some(struct tracked *t, unsigned char *p)
{
	unsigned int i;

	for (i = 0; i < 50; i++) {
		__u64 page = rnd(&t->seed) % PAGES;

		p[page * TEST_PAGE]++;
		bit_set(t->written, page);
	}
}

/* All that was written is reported, now or by what failed before. */
static void check_written(struct tracked *t)
{
	__u64 dirty[PAGES / 64 + 1], page;

	CALL(tracker_fetch(t->tracker, 0, PAGES, dirty, NULL));
	for (page = 0; page < PAGES; page++)
		CHECK(!bit_test(t->written, page) || bit_test(dirty, page),
		      "the write to page %llu was lost", (unsigned long long)page);
	memset(t->written, 0, sizeof(t->written));
}

static long map_tracked(void *arg)
{
	struct tracked *t = arg;

	t->p = mmap(NULL, t->mem.len, PROT_READ | PROT_WRITE, MAP_SHARED, t->mem.fd, 0);
	if (t->p == MAP_FAILED)
		return -errno;
	write_some(t, t->p);
	return 0;
}

static void unmap_tracked(void *arg, long ret)
{
	struct tracked *t = arg;

	if (ret)
		return;
	check_written(t);
	SYS(munmap(t->p, t->mem.len));
}

static void mapping_a_tracked_region(void)
{
	struct tracked t;

	track_clean(&t);
	each_fails(&(struct operation){ nothing, map_tracked, unmap_tracked }, &t, 1);
}

static void write_to_mem(void *arg)
{
	struct tracked *t = arg;

	write_some(t, t->mem.p);
}

static long fetch(void *arg)
{
	__u64 dirty[PAGES / 64 + 1];
	struct tracked *t = arg;

	return tracker_fetch(t->tracker, 0, PAGES, dirty, NULL);
}

static void fetch_again(void *arg, long ret)
{
	struct tracked *t = arg;

	if (ret)
		check_written(t);
	else
		memset(t->written, 0, sizeof(t->written));
}

static void collecting(void)
{
	struct tracked t;

	track_clean(&t);
	/* A buffer, a mutex, and the locks of the folios. */
	each_fails(&(struct operation){ write_to_mem, fetch, fetch_again }, &t, 20);
}

static void choose_some(void *arg)
{
	struct tracked *t = arg;
	unsigned int i;

	for (i = 0; i < 50; i++)
		bit_set(t->written, rnd(&t->seed) % PAGES);
}

static long merge(void *arg)
{
	struct tracked *t = arg;

	return region_merge(t->mem.fd, 0, PAGES, t->written, NULL);
}

/* What failed is merged again. */
static void merge_again(void *arg, long ret)
{
	if (ret)
		CALL(merge(arg));
	check_written(arg);
}

static void merging(void)
{
	struct tracked t;

	track_clean(&t);
	each_fails(&(struct operation){ choose_some, merge, merge_again }, &t, 1);
}

/* ---- migrations ---- */

static long create_migration(void *arg)
{
	return migration_create(*(int *)arg, MIGR_ROLE_SOURCE);
}

static void creating_a_migration(void)
{
	int dev = (int)CALL(dev_open());

	each_fails(&(struct operation){ nothing, create_migration, close_made }, &dev, 3);
}

struct move {
	struct mem from;
	struct mem to;
	struct link link;
	int sock[2];
	__u32 compression;
	__u64 not_compressed;
};

static void prepare_stream(void *arg)
{
	struct move *move = arg;

	unix_pair(move->sock);
	move->link.source = (int)CALL(migration_create(move->from.dev, MIGR_ROLE_SOURCE));
	CALL(migration_add_region(move->link.source, move->from.fd, 0));
}

static long add_stream(void *arg)
{
	struct move *move = arg;

	return migration_add_stream_compressed(move->link.source, move->sock[0], 0,
					       move->compression, 0);
}

static void close_stream(void *arg, long ret)
{
	struct move *move = arg;

	close_made(arg, ret);
	SYS(close(move->link.source));
	SYS(close(move->sock[0]));
	SYS(close(move->sock[1]));
}

static void adding_a_stream(void)
{
	struct move move = { .from = mem_new(PAGES) };

	each_fails(&(struct operation){ prepare_stream, add_stream, close_stream }, &move, 3);
}

static void adding_a_compressed_stream(void)
{
	struct move move = { .from = mem_new(PAGES), .compression = MIGR_COMPRESSION_LZ4 };

	/* The compressor, its algorithm, and its memory before and after. */
	each_fails(&(struct operation){ prepare_stream, add_stream, close_stream }, &move, 7);
}

static void *receive(void *arg)
{
	struct link *l = arg;

	l->received = stream_run_through(l->destination_stream, &(unsigned int){ 0 });
	return NULL;
}

static void prepare_move(void *arg)
{
	struct move *move = arg;

	SYS(fallocate(move->to.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      move->to.len));
	link_open_compressed(&move->link, unix_pair, &move->from, &move->to,
			     move->compression, 0);
	move->link.receiver = thread_start(receive, &move->link);
}

/* All of it in one pass. What a lock that is not taken ends can be resumed. */
static long migrate(void *arg)
{
	struct move *move = arg;
	struct link *l = &move->link;
	long ret;

	ret = migration_pass(l->source, MIGR_PASS_LAST);
	if (!ret)
		ret = stream_run_through(l->source_stream, &(unsigned int){ 0 });
	if (ret)
		SYS(shutdown(l->sock[0], SHUT_RDWR));
	return ret;
}

static void end_move(void *arg, long ret)
{
	struct move *move = arg;

	link_receive_join(&move->link);
	CHECK(may_be(move->link.received), "the destination: %s",
	      strerror(-move->link.received));
	link_close(&move->link);
	if (!ret)
		CHECK_EQ(first_difference(move->from.p, move->to.p, move->from.len), -1);
}

static void migrating(void)
{
	/* Each page is some calls of its own. */
	struct move move = { .from = mem_new(20), .to = mem_new(20) };
	__u64 seed = 1;

	fill_random(move.from.p, move.from.len, &seed);
	each_fails(&(struct operation){ prepare_move, migrate, end_move }, &move, 7);
}

/* What the algorithm fails to compress is sent as it is. */
static void end_compressed(void *arg, long ret)
{
	struct move *move = arg;
	struct migr_migration_status st = link_status(move->link.source);

	if (!ret)
		CHECK_EQ(st.compressed_chunks + st.incompressible_chunks, 1);
	move->not_compressed += st.incompressible_chunks;
	end_move(arg, ret);
}

static void migrating_compressed(void)
{
	struct move move = { .from = mem_new(20), .to = mem_new(20),
			     .compression = MIGR_COMPRESSION_LZ4 };

	memset(move.from.p, 1, move.from.len);
	each_fails(&(struct operation){ prepare_move, migrate, end_compressed }, &move, 7);
	CHECK_EQ(move.not_compressed, 1);
}

static long write_limited(void *arg)
{
	struct tracked *t = arg;
	int ret = limit_set(t->tracker, MIGR_TRACKER_LIMIT, 1000000);

	write_some(t, t->mem.p);
	return ret;
}

static void check_limited(void *arg, long ret)
{
	(void)ret;
	check_written(arg);
}

/* A writer whom there is no memory to slow down is not, and that is all. */
static void writing_under_a_limit(void)
{
	struct tracked t;

	track_clean(&t);
	each_fails(&(struct operation){ nothing, write_limited, check_limited }, &t, 0);
}

static const struct test_case cases[] = {
	CASE(creating_a_region),
	CASE(mapping_the_device),
	CASE(starting_to_track),
	CASE(mapping_a_tracked_region),
	CASE(collecting),
	CASE(writing_under_a_limit),
	CASE(merging),
	CASE(creating_a_migration),
	CASE(adding_a_stream),
	CASE(adding_a_compressed_stream),
	CASE(migrating),
	CASE(migrating_compressed),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
