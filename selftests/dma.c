// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes that take no fault when they happen: direct reads into guest memory,
 * which land long after the page was taken, and buffers that are pinned for as
 * long as their owner likes. A page they may write is never reported clean.
 */
#include "migration.h"
#include "slow_disk.h"
#include "workload.h"
#include "migr.h"

#include <libaio.h>
#include <liburing.h>
#include <linux/loop.h>
#include <sys/mount.h>

#define READ_PAGES	4UL

/* ---------------------------------------------------------- ways to read */

struct direct_read {
	int fd;
	unsigned char *to;
	size_t len;
	__u64 from;
	ssize_t ret;
	pthread_t thread;
	io_context_t aio;
	struct io_uring ring;
};

/* One read at a time, begun and ended; and what comes before and after all. */
struct engine {
	const char *name;
	void (*open)(struct direct_read *r);
	void (*begin)(struct direct_read *r);
	ssize_t (*end)(struct direct_read *r);
};

static void no_open(struct direct_read *r)
{
	(void)r;
}

static void *pread_thread(void *arg)
{
	struct direct_read *r = arg;

	r->ret = pread(r->fd, r->to, r->len, (off_t)r->from);
	if (r->ret < 0)
		r->ret = -errno;
	return NULL;
}

static void pread_begin(struct direct_read *r)
{
	r->thread = thread_start(pread_thread, r);
}

static ssize_t pread_end(struct direct_read *r)
{
	thread_join(r->thread);
	return r->ret;
}

static void aio_open(struct direct_read *r)
{
	CALL(io_setup(1, &r->aio));
}

static void aio_begin(struct direct_read *r)
{
	struct iocb iocb, *iocbs = &iocb;

	io_prep_pread(&iocb, r->fd, r->to, r->len, (long long)r->from);
	CHECK_EQ(io_submit(r->aio, 1, &iocbs), 1);
}

static ssize_t aio_end(struct direct_read *r)
{
	struct timespec limit = { .tv_sec = RUN_S };
	struct io_event event;

	CHECK_EQ(io_getevents(r->aio, 1, 1, &event, &limit), 1);
	return (ssize_t)event.res;
}

static void uring_open(struct direct_read *r)
{
	CALL(io_uring_queue_init(1, &r->ring, 0));
}

static void uring_begin(struct direct_read *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	io_uring_prep_read(sqe, r->fd, r->to, (unsigned int)r->len, r->from);
	CHECK_EQ(io_uring_submit(&r->ring), 1);
}

static ssize_t uring_end(struct direct_read *r)
{
	struct __kernel_timespec limit = { .tv_sec = RUN_S };
	struct io_uring_cqe *cqe;
	ssize_t ret;

	CALL(io_uring_wait_cqe_timeout(&r->ring, &cqe, &limit));
	ret = cqe->res;
	io_uring_cqe_seen(&r->ring, cqe);
	return ret;
}

/* Into the first buffer that was registered. */
static void uring_fixed_begin(struct direct_read *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	io_uring_prep_read_fixed(sqe, r->fd, r->to, (unsigned int)r->len, r->from, 0);
	CHECK_EQ(io_uring_submit(&r->ring), 1);
}

static const struct engine engines[] = {
	{ "pread", no_open, pread_begin, pread_end },
	{ "libaio", aio_open, aio_begin, aio_end },
	{ "io_uring", uring_open, uring_begin, uring_end },
};

static const struct engine uring_fixed = {
	"a fixed buffer of io_uring", uring_open, uring_fixed_begin, uring_end
};

/* -------------------------------------------------------- reads in flight */

static int open_direct(const char *path)
{
	return (int)SYS(open(path, O_RDONLY | O_DIRECT | O_CLOEXEC));
}

/* What the disk has, as a file of a file system on it. */
static int file_on_disk(char *path, size_t size)
{
	unsigned char *data = private_alloc(16 * TEST_PAGE);
	char folder[] = "/tmp/migr-dma.XXXXXX";
	__u64 seed = ~test_seed;
	int fd;

	CHECK(mkdtemp(folder), "%s: %s", folder, strerror(errno));
	CHECK(!run_command("mkfs.ext4 -q -b 4096 -O ^has_journal -E nodiscard,lazy_itable_init=0 "
			   SLOW_DISK), "mkfs.ext4 failed");
	/* The mount is gone with the case. */
	SYS(unshare(CLONE_NEWNS));
	SYS(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	run_command("modprobe -q ext4");
	SYS(mount(SLOW_DISK, folder, "ext4", MS_NOATIME, NULL));
	snprintf(path, size, "%s/file", folder);
	fd = (int)SYS(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	fill_random(data, 16 * TEST_PAGE, &seed);
	CHECK_EQ(write(fd, data, 16 * TEST_PAGE), 16 * TEST_PAGE);
	SYS(fsync(fd));
	return fd;
}

/* A loop device that reads that file directly, and is gone once it is closed. */
static int loop_on_disk(void)
{
	struct loop_config config = {
		.block_size = TEST_PAGE,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};
	struct loop_info64 info;
	char file[64], path[32];
	int control, loop;

	close(file_on_disk(file, sizeof(file)));
	run_command("modprobe -q loop");
	control = (int)SYS(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
	snprintf(path, sizeof(path), "/dev/loop%ld", SYS(ioctl(control, LOOP_CTL_GET_FREE)));
	loop = (int)SYS(open(path, O_RDWR | O_CLOEXEC));
	config.fd = (__u32)SYS(open(file, O_RDWR | O_CLOEXEC));
	SYS(ioctl(loop, LOOP_CONFIGURE, &config));
	SYS(close((int)config.fd));
	SYS(ioctl(loop, LOOP_GET_STATUS64, &info));
	CHECK(info.lo_flags & LO_FLAGS_DIRECT_IO, "%s does not read its file directly", path);
	return open_direct(path);
}

/* Fetch as often as a migration might: what is read into is dirty each time. */
static void fetch_in_flight(struct shadow *s, __u64 first, __u64 pages, const char *what)
{
	struct migr_tracker_fetch f;
	__u64 i;
	int n;

	for (n = 0; n < 5; n++) {
		lru_drain();
		CALL(tracker_fetch(s->tracker, 0, s->mem->pages, s->bitmap, &f));
		for (i = first; i < first + pages; i++)
			CHECK(bit_test(s->bitmap, i),
			      "%s, fetch %d: page %llu may be written and counts as clean", what, n,
			      (unsigned long long)i);
		for (i = 0; i < s->mem->pages; i++)
			if (bit_test(s->bitmap, i))
				memcpy(s->copy + i * TEST_PAGE, mem_page(s->mem, i), TEST_PAGE);
	}
	CHECK(f.pinned_pages >= pages, "%s: only %llu pinned pages", what,
	      (unsigned long long)f.pinned_pages);
}

/* A read is begun, the memory fetched again and again, and only then it lands. */
static void read_in_flight(struct slow_disk *d, struct shadow *s, const struct engine *e,
			   struct direct_read *r)
{
	unsigned char *before = private_alloc(r->len), *want = private_alloc(r->len);
	__u64 first = (__u64)(r->to - s->mem->p) / TEST_PAGE;

	CHECK_EQ(pread(r->fd, want, r->len, (off_t)r->from), r->len);
	slow_disk_hold(d);
	e->begin(r);
	slow_disk_await(d, (__u32)r->len);
	memcpy(before, r->to, r->len);
	if (s->tracker < 0)
		s->tracker = (int)CALL(region_track(s->mem->fd));
	fetch_in_flight(s, first, r->len / TEST_PAGE, e->name);
	CHECK(!memcmp(before, r->to, r->len), "%s: the read was not held", e->name);

	slow_disk_release(d);
	CHECK_EQ(e->end(r), r->len);
	CHECK(!memcmp(r->to, want, r->len), "%s: read something else", e->name);
	shadow_pass(s);
	CHECK(first_difference(s->copy, s->mem->p, s->mem->len) < 0,
	      "%s: what was read is lost", e->name);
	munmap(before, r->len);
	munmap(want, r->len);
}

static struct mem filled(__u64 pages)
{
	struct mem m = mem_new(pages);
	__u64 seed = test_seed;

	fill_random(m.p, m.len, &seed);
	return m;
}

static void reads_in_flight(struct slow_disk *d, int fd)
{
	struct mem m = filled(512);
	struct shadow s;
	size_t i;

	shadow_start(&s, &m);
	shadow_pass(&s);
	for (i = 0; i < ARRAY_SIZE(engines); i++) {
		struct direct_read r = {
			.fd = fd, .to = mem_page(&m, 70 + 100 * i),
			.len = READ_PAGES * TEST_PAGE, .from = i * READ_PAGES * TEST_PAGE,
		};

		engines[i].open(&r);
		tracker_settle(s.tracker, m.pages);
		read_in_flight(d, &s, &engines[i], &r);
		/* And then it is over. */
		tracker_settle(s.tracker, m.pages);
	}
	SYS(close(fd));
}

static void disk_reads(void)
{
	struct slow_disk d;

	slow_disk_open(&d);
	reads_in_flight(&d, open_direct(SLOW_DISK));
	slow_disk_close(&d);
}

static void file_reads(void)
{
	struct slow_disk d;
	char path[64];

	slow_disk_open(&d);
	close(file_on_disk(path, sizeof(path)));
	reads_in_flight(&d, open_direct(path));
	*strrchr(path, '/') = '\0';
	SYS(umount(path));
	slow_disk_close(&d);
}

static void loop_reads(void)
{
	struct slow_disk d;

	slow_disk_open(&d);
	reads_in_flight(&d, loop_on_disk());
	/* The file system is in use until the loop device is: not unmounted. */
}

static void read_before_start(void)
{
	struct mem m = filled(512);
	struct direct_read r = { .to = mem_page(&m, 70), .len = READ_PAGES * TEST_PAGE };
	struct shadow s = { .mem = &m, .tracker = -1, .seed = test_seed };
	struct slow_disk d;

	s.copy = private_alloc(m.len);
	s.bitmap = private_alloc(bitmap_words(m.pages) * sizeof(*s.bitmap));
	slow_disk_open(&d);
	r.fd = open_direct(SLOW_DISK);
	read_in_flight(&d, &s, &engines[0], &r);
	tracker_settle(s.tracker, m.pages);
	SYS(close(r.fd));
	slow_disk_close(&d);
}

/* ------------------------------------------------------- reads meanwhile */

struct reader {
	struct gate *gate;
	const struct mem *mem;
	const struct engine *engine;
	__u64 seed;
	__u64 reads;
};

static void *reader_thread(void *arg)
{
	struct reader *w = arg;
	struct direct_read r = { .fd = open_direct(SLOW_DISK) };

	w->engine->open(&r);
	while (gate_pass(w->gate)) {
		r.len = (1 + rnd(&w->seed) % 8) * TEST_PAGE;
		r.to = mem_page(w->mem, rnd(&w->seed) % (w->mem->pages - 8));
		r.from = rnd(&w->seed) % (SLOW_DISK_BYTES / TEST_PAGE - 8) * TEST_PAGE;
		w->engine->begin(&r);
		CHECK_EQ(w->engine->end(&r), r.len);
		__atomic_add_fetch(&w->reads, 1, __ATOMIC_RELAXED);
	}
	SYS(close(r.fd));
	return NULL;
}

/* Reads land anywhere and at any time while the memory is fetched. */
static void reads_meanwhile(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct reader readers[ARRAY_SIZE(engines)];
	pthread_t threads[ARRAY_SIZE(engines)];
	struct mem m = filled(1024);
	struct slow_disk d;
	struct shadow s;
	unsigned int round;
	size_t i;

	slow_disk_open(&d);
	d.delay_ns = 2000000;
	gate->writers = ARRAY_SIZE(engines);
	shadow_start(&s, &m);
	for (i = 0; i < ARRAY_SIZE(engines); i++) {
		readers[i] = (struct reader){
			.gate = gate, .mem = &m, .engine = &engines[i], .seed = test_seed + i,
		};
		threads[i] = thread_start(reader_thread, &readers[i]);
	}
	for (round = 0; round < 8; round++) {
		__u64 before[ARRAY_SIZE(engines)];

		for (i = 0; i < ARRAY_SIZE(engines); i++)
			before[i] = __atomic_load_n(&readers[i].reads, __ATOMIC_RELAXED);
		for (i = 0; i < ARRAY_SIZE(engines); ) {
			shadow_pass(&s);
			shadow_pause(&s);
			i += __atomic_load_n(&readers[i].reads, __ATOMIC_RELAXED) > before[i] + 4;
		}
		shadow_check(&s, gate, round);
	}
	gate_close(gate);
	gate_end(gate);
	for (i = 0; i < ARRAY_SIZE(engines); i++) {
		thread_join(threads[i]);
		diag("%s: %llu reads", engines[i].name, (unsigned long long)readers[i].reads);
	}
	diag("%llu passes, %llu pages copied", (unsigned long long)s.passes,
	     (unsigned long long)s.copied);
	slow_disk_close(&d);
}

/* --------------------------------------------------------- long-term pins */

/* Pages as a device that is assigned to the VM has them. */
static void pin(struct direct_read *r)
{
	struct iovec iov = { r->to, r->len };

	r->ret = io_uring_register_buffers(&r->ring, &iov, 1);
}

static void pinned_while_idle(void)
{
	struct mem m = filled(512);
	struct direct_read r = { .to = mem_page(&m, 130), .len = READ_PAGES * TEST_PAGE };
	struct migr_tracker_fetch f;
	struct slow_disk d;
	struct migr *migr;
	struct shadow s;
	uint64_t pages;

	slow_disk_open(&d);
	r.fd = open_direct(SLOW_DISK);
	CALL(migr_open(&migr));
	CALL(migr_region_pinned(migr, m.fd, &pages));
	CHECK_EQ(pages, 0);
	uring_open(&r);
	pin(&r);
	CHECK_EQ(r.ret, 0);
	CALL(migr_region_pinned(migr, m.fd, &pages));
	CHECK_EQ(pages, READ_PAGES);
	shadow_start(&s, &m);
	shadow_pass(&s);
	/* Nothing is being read, but something could be at any time. */
	fetch_in_flight(&s, 130, READ_PAGES, "at rest");
	CALL(tracker_fetch(s.tracker, 0, m.pages, s.bitmap, &f));
	CHECK_EQ(f.dirty_pages, READ_PAGES);
	CHECK_EQ(f.pinned_pages, READ_PAGES);
	read_in_flight(&d, &s, &uring_fixed, &r);

	CALL(io_uring_unregister_buffers(&r.ring));
	tracker_settle(s.tracker, m.pages);
	CALL(migr_region_pinned(migr, m.fd, &pages));
	CHECK_EQ(pages, 0);
	SYS(close(r.fd));
	slow_disk_close(&d);
}

/* Of what is refused nothing stays pinned. */
static void pin_is_refused(struct shadow *s, struct direct_read *r)
{
	pin(r);
	/* Before, io_uring itself looks whether the mapping is shmem's. */
	CHECK_EQ(r->ret, kernel_before(6, 5) ? -EOPNOTSUPP : -EFAULT);
	tracker_settle(s->tracker, s->mem->pages);
}

/* Since 6.5 only who finds an entry protected looks at the mapping. */
static void pin_while_writable(struct shadow *s, struct direct_read *r)
{
	if (kernel_before(6, 5)) {
		pin_is_refused(s, r);
		return;
	}
	pin(r);
	CHECK_EQ(r->ret, 0);
	fetch_in_flight(s, (__u64)(r->to - s->mem->p) / TEST_PAGE, READ_PAGES, "at rest");
	CALL(io_uring_unregister_buffers(&r->ring));
	tracker_settle(s->tracker, s->mem->pages);
}

/* Before the first fetch nothing is protected. */
static void pinned_before_fetch(void)
{
	struct mem m = filled(512);
	struct direct_read r = { .to = mem_page(&m, 130), .len = READ_PAGES * TEST_PAGE };
	struct shadow s;

	uring_open(&r);
	shadow_start(&s, &m);
	pin_while_writable(&s, &r);
}

/* And what has been written to since is so no more. */
static void pinned_after_fetch(void)
{
	struct mem m = filled(512);
	struct direct_read r = { .to = mem_page(&m, 130), .len = READ_PAGES * TEST_PAGE };
	struct shadow s;
	__u64 i;

	uring_open(&r);
	shadow_start(&s, &m);
	tracker_settle(s.tracker, m.pages);
	pin_is_refused(&s, &r);
	for (i = 0; i < READ_PAGES - 1; i++)
		r.to[i * TEST_PAGE]++;
	pin_is_refused(&s, &r);
	for (i = 0; i < READ_PAGES; i++)
		r.to[i * TEST_PAGE]++;
	pin_while_writable(&s, &r);
}

/* Through a mapping made before, and one made meanwhile. */
static void pinned_after_tracking(void)
{
	struct mem m = filled(512);
	struct direct_read r = { .len = READ_PAGES * TEST_PAGE };
	unsigned char *mapped[2] = { m.p };
	struct migr *migr;
	struct shadow s;
	uint64_t pages;
	size_t i;

	CALL(migr_open(&migr));
	uring_open(&r);
	shadow_start(&s, &m);
	mapped[1] = map_shared(m.fd, m.len);
	shadow_pass(&s);
	SYS(close(s.tracker));
	for (i = 0; i < ARRAY_SIZE(mapped); i++) {
		r.to = mapped[i] + 130 * TEST_PAGE;
		pin(&r);
		CHECK_EQ(r.ret, 0);
		CALL(migr_region_pinned(migr, m.fd, &pages));
		CHECK_EQ(pages, READ_PAGES);
		CALL(io_uring_unregister_buffers(&r.ring));
	}
}

static void pinned_in_migration(void)
{
	struct mem m = filled(512), copy = mem_new(512);
	struct direct_read r = { .to = mem_page(&m, 130), .len = READ_PAGES * TEST_PAGE };
	struct migr_migration_status st;
	__u64 pinned = 0;
	struct slow_disk d;
	struct link l;
	int pass;

	slow_disk_open(&d);
	r.fd = open_direct(SLOW_DISK);
	uring_open(&r);
	pin(&r);
	CHECK_EQ(r.ret, 0);
	link_open(&l, unix_pair, 0, &m, &copy, 1);
	link_receive_start(&l);
	for (pass = 0; pass < 3; pass++) {
		lru_drain();
		link_pass(&l, 0);
		st = link_status(l.source);
		CHECK(st.pinned_pages >= pinned + READ_PAGES, "pass %d: %llu pinned pages", pass,
		      (unsigned long long)st.pinned_pages);
		CHECK(st.dirty_pages >= READ_PAGES, "pass %d: %llu dirty pages", pass,
		      (unsigned long long)st.dirty_pages);
		pinned = st.pinned_pages;
		/* Without a fault. */
		r.from += r.len;
		uring_fixed_begin(&r);
		CHECK_EQ(uring_end(&r), r.len);
	}
	link_last(&l);
	st = link_status(l.source);
	CHECK_EQ(st.state, MIGR_STATE_COMPLETE);
	CHECK(st.pinned_pages >= pinned + READ_PAGES, "last pass: %llu pinned pages",
	      (unsigned long long)st.pinned_pages);
	CHECK(!memcmp(r.to, d.data + r.from, r.len), "read something else");
	CHECK(first_difference(m.p, copy.p, m.len) < 0, "page %lld differs",
	      first_difference(m.p, copy.p, m.len) / (long long)TEST_PAGE);
	link_close(&l);
	SYS(close(r.fd));
	slow_disk_close(&d);
}

static const struct test_case cases[] = {
	CASE(disk_reads),
	CASE(file_reads),
	CASE(loop_reads),
	CASE(read_before_start),
	CASE(reads_meanwhile),
	CASE(pinned_while_idle),
	CASE(pinned_before_fetch),
	CASE(pinned_after_fetch),
	CASE(pinned_after_tracking),
	CASE(pinned_in_migration),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
