// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write tracking: what sets a page's bit and what does not, and that nothing
 * is lost when mappings, protections and the tracking itself change meanwhile.
 */
#include "workload.h"

/* A populated region under a tracker, with nothing dirty. */
struct tracked {
	struct mem m;
	int tracker;
	__u64 *map;
	__u64 *want;
};

static struct tracked tracked_new(__u64 pages)
{
	struct tracked t = { .m = mem_new(pages) };
	__u64 seed = test_seed;

	fill_random(t.m.p, t.m.len, &seed);
	t.map = private_alloc((bitmap_words(pages) + 1) * sizeof(*t.map));
	t.want = private_alloc(bitmap_words(pages) * sizeof(*t.want));
	t.tracker = (int)CALL(region_track(t.m.fd));
	tracker_settle(t.tracker, pages);
	return t;
}

/* The pages in want, and no others, are dirty. Forgets them. */
static void expect(struct tracked *t, const char *what)
{
	struct migr_tracker_fetch f;
	__u64 i;

	CALL(tracker_fetch(t->tracker, 0, t->m.pages, t->map, &f));
	for (i = 0; i < t->m.pages; i++) {
		bool dirty = bit_test(t->map, i), want = bit_test(t->want, i);

		CHECK(dirty || !want, "%s: page %llu was written, its bit is clear", what,
		      (unsigned long long)i);
		CHECK(want || !dirty, "%s: page %llu was not written, its bit is set", what,
		      (unsigned long long)i);
	}
	CHECK_EQ(f.dirty_pages, bit_count(t->want, t->m.pages));
	memset(t->want, 0, bitmap_words(t->m.pages) * sizeof(*t->want));
	tracker_settle(t->tracker, t->m.pages);
}

/* The pages in want, and perhaps others, are dirty. Forgets them. */
static void expect_at_least(struct tracked *t, const char *what)
{
	__u64 i;

	CALL(tracker_fetch(t->tracker, 0, t->m.pages, t->map, NULL));
	for (i = 0; i < t->m.pages; i++)
		CHECK(bit_test(t->map, i) || !bit_test(t->want, i),
		      "%s: page %llu was written, its bit is clear", what,
		      (unsigned long long)i);
	memset(t->want, 0, bitmap_words(t->m.pages) * sizeof(*t->want));
	tracker_settle(t->tracker, t->m.pages);
}

/* Write some pages through a mapping of the whole region. */
static void scribble(struct tracked *t, unsigned char *p, __u64 *seed)
{
	int i;

	for (i = 0; i < 40; i++) {
		__u64 page = rnd(seed) % t->m.pages;

		*(__u64 *)(p + page * TEST_PAGE + rnd(seed) % 512 * 8) = rnd(seed);
		bit_set(t->want, page);
	}
}

static void first_fetch_is_everything(void)
{
	/* Not a multiple of 64 pages, mostly holes. */
	struct mem m = mem_new(1000);
	__u64 *map = private_alloc((bitmap_words(m.pages) + 1) * sizeof(*map));
	struct migr_region_info info;
	struct migr_tracker_fetch f;
	int t;

	m.p[5 * TEST_PAGE] = 1;
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, 0);
	t = (int)CALL(region_track(m.fd));
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, MIGR_REGION_TRACKED);

	memset(map, 0x55, (bitmap_words(m.pages) + 1) * sizeof(*map));
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	CHECK_EQ(f.dirty_pages, m.pages);
	CHECK_EQ(bit_count(map, m.pages), m.pages);
	CHECK(map[m.pages / 64] == (1ULL << m.pages % 64) - 1,
	      "bits behind the region's end: %llx", (unsigned long long)map[m.pages / 64]);
	CHECK(map[bitmap_words(m.pages)] == 0x5555555555555555ULL,
	      "written behind the bitmap's end");

	tracker_settle(t, m.pages);
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	CHECK_EQ(f.dirty_pages, 0);
	CHECK_EQ(f.pinned_pages, 0);
	CHECK_EQ(bit_count(map, m.pages), 0);
}

static void own_writes(void)
{
	struct tracked t = tracked_new(2048);
	__u64 seed = test_seed;
	int i;

	for (i = 0; i < 20; i++) {
		scribble(&t, t.m.p, &seed);
		expect(&t, "store");
	}
	bit_set(t.want, 0);
	bit_set(t.want, t.m.pages - 1);
	t.m.p[0]++;
	t.m.p[t.m.len - 1]++;
	expect(&t, "first and last byte");
	/* The same value is a write too. */
	__atomic_store_n(&t.m.p[9 * TEST_PAGE], t.m.p[9 * TEST_PAGE], __ATOMIC_SEQ_CST);
	bit_set(t.want, 9);
	expect(&t, "same value");
}

static void fresh_pages(void)
{
	struct tracked t = { .m = mem_new(1024) };
	__u64 seed = test_seed;

	t.map = private_alloc(bitmap_words(t.m.pages) * sizeof(*t.map));
	t.want = private_alloc(bitmap_words(t.m.pages) * sizeof(*t.want));
	t.tracker = (int)CALL(region_track(t.m.fd));
	tracker_settle(t.tracker, t.m.pages);
	/* First writes to holes. */
	scribble(&t, t.m.p, &seed);
	expect(&t, "holes written");
	scribble(&t, t.m.p, &seed);
	expect(&t, "some holes written");
}

static void partial_ranges(void)
{
	struct tracked t = tracked_new(2048 + 32);
	__u64 guard = 0x5555555555555555ULL;
	struct migr_tracker_fetch f;
	__u64 map[3], i;

	for (i = 0; i < t.m.pages; i += 16)
		t.m.p[i * TEST_PAGE]++;
	map[0] = 0;
	map[1] = guard;
	CALL(tracker_fetch(t.tracker, 512, 64, map, &f));
	CHECK_EQ(f.dirty_pages, 4);
	CHECK_EQ(map[0], 0x0001000100010001LL);
	CHECK(map[1] == guard, "written behind the bitmap's end");
	CALL(tracker_fetch(t.tracker, 512, 64, map, &f));
	CHECK_EQ(f.dirty_pages, 0);
	/* Across a chunk's end. */
	CALL(tracker_fetch(t.tracker, 1024 - 64, 128, map, &f));
	CHECK_EQ(f.dirty_pages, 8);
	CHECK_EQ(map[1], 0x0001000100010001LL);
	/* Up to the end. */
	CALL(tracker_fetch(t.tracker, 2048, 32, map, &f));
	CHECK_EQ(f.dirty_pages, 2);
	CHECK_EQ(map[0], 0x00010001);
	/* All the others are still to be had. */
	for (i = 0; i < t.m.pages; i += 16)
		if (i / 64 != 512 / 64 && (i < 1024 - 64 || i >= 1024 + 64) && i < 2048)
			bit_set(t.want, i);
	expect(&t, "the rest");
}

static void reads_do_not_count(void)
{
	struct tracked t = tracked_new(1024);
	unsigned char *buf = private_alloc(t.m.len), *p;
	struct iovec local = { buf, t.m.len }, remote = { t.m.p, t.m.len };
	int pipefd[2];

	p = map_shared(t.m.fd, t.m.len);
	memcpy(buf, p, t.m.len);
	expect(&t, "loads");
	CHECK_EQ(pread(t.m.fd, buf, t.m.len, 0), t.m.len);
	expect(&t, "pread");
	CHECK_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), t.m.len);
	expect(&t, "process_vm_readv");
	SYS(pipe(pipefd));
	CHECK_EQ(write(pipefd[1], t.m.p, 8 * TEST_PAGE), 8 * TEST_PAGE);
	expect(&t, "write to a pipe");
	SYS(madvise(t.m.p, t.m.len, MADV_DONTNEED));
	expect(&t, "MADV_DONTNEED");
}

static void second_mapping(void)
{
	struct tracked t = tracked_new(1024);
	__u64 seed = test_seed;
	unsigned char *after;

	after = map_shared(t.m.fd, t.m.len);
	scribble(&t, after, &seed);
	expect(&t, "mapping made after the start");
	scribble(&t, t.m.p, &seed);
	scribble(&t, after, &seed);
	expect(&t, "both mappings");
}

/* One that can never be written must not hide those that come after it. */
static void behind_read_only_mapping(void)
{
	struct tracked t = tracked_new(2048);
	__u64 seed = test_seed, i;
	char path[64];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", t.m.fd);
	fd = (int)SYS(open(path, O_RDONLY | O_CLOEXEC));
	p = mmap(NULL, t.m.len, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	p = map_shared(t.m.fd, t.m.len);
	for (i = 0; i < 5; i++) {
		scribble(&t, p, &seed);
		expect(&t, "few pages");
		memset(p, (int)i, t.m.len / 2);
		memset(t.want, 0xff, bitmap_words(t.m.pages) * sizeof(*t.want) / 2);
		expect(&t, "many pages");
	}
}

static void other_process(void)
{
	struct tracked t = tracked_new(1024);
	__u64 seed = test_seed, again;
	pid_t pid;

	again = seed;
	pid = child_start();
	if (!pid) {
		scribble(&t, t.m.p, &seed);
		_exit(0);
	}
	child_join(pid);
	memset(t.want, 0, bitmap_words(t.m.pages) * sizeof(*t.want));
	/* The same pages again, to learn which they were. */
	{
		unsigned char *scratch = private_alloc(t.m.len);

		scribble(&t, scratch, &again);
	}
	expect(&t, "inherited mapping");

	again = seed;
	pid = child_start();
	if (!pid) {
		scribble(&t, map_shared(t.m.fd, t.m.len), &seed);
		_exit(0);
	}
	child_join(pid);
	{
		unsigned char *scratch = private_alloc(t.m.len);

		scribble(&t, scratch, &again);
	}
	expect(&t, "own mapping");
}

static void kernel_writes(void)
{
	struct tracked t = tracked_new(1024);
	unsigned char *buf = private_alloc(16 * TEST_PAGE);
	struct iovec local = { buf, 3 * TEST_PAGE };
	struct iovec remote = { mem_page(&t.m, 200), 3 * TEST_PAGE };
	int fd, pipefd[2], i;

	memset(buf, 0x3c, 16 * TEST_PAGE);

	fd = (int)SYS(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	CHECK_EQ(pwrite(fd, buf, 2 * TEST_PAGE, (off_t)(uintptr_t)mem_page(&t.m, 100) + 100),
		 2 * TEST_PAGE);
	for (i = 100; i < 103; i++)
		bit_set(t.want, (__u64)i);
	expect(&t, "/proc/self/mem");

	CHECK_EQ(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), 3 * TEST_PAGE);
	for (i = 200; i < 203; i++)
		bit_set(t.want, (__u64)i);
	expect(&t, "process_vm_writev");

	SYS(pipe(pipefd));
	CHECK_EQ(write(pipefd[1], buf, 3 * TEST_PAGE), 3 * TEST_PAGE);
	CHECK_EQ(read(pipefd[0], mem_page(&t.m, 300), 3 * TEST_PAGE), 3 * TEST_PAGE);
	for (i = 300; i < 303; i++)
		bit_set(t.want, (__u64)i);
	expect(&t, "read from a pipe");

	fd = (int)SYS(memfd_create("file", MFD_CLOEXEC));
	CHECK_EQ(write(fd, buf, 4 * TEST_PAGE), 4 * TEST_PAGE);
	CHECK_EQ(pread(fd, mem_page(&t.m, 400) + 1, 4 * TEST_PAGE - 1, 0), 4 * TEST_PAGE - 1);
	for (i = 400; i < 404; i++)
		bit_set(t.want, (__u64)i);
	expect(&t, "read from a file");

	/* What the kernel could not write did not happen. */
	CHECK(!memcmp(mem_page(&t.m, 201), buf, TEST_PAGE), "not written");
	CHECK(!memcmp(mem_page(&t.m, 301), buf, TEST_PAGE), "not written");
}

static void holes_count(void)
{
	struct tracked t = tracked_new(1024);
	__u64 i;

	SYS(fallocate(t.m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 64 * TEST_PAGE,
		      10 * TEST_PAGE));
	for (i = 64; i < 74; i++)
		bit_set(t.want, i);
	expect(&t, "punch");

	SYS(madvise(mem_page(&t.m, 600), 20 * TEST_PAGE, MADV_REMOVE));
	for (i = 600; i < 620; i++)
		bit_set(t.want, i);
	expect(&t, "MADV_REMOVE");

	/* Parts of pages are zeroed in place. */
	SYS(fallocate(t.m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 700 * TEST_PAGE + 100,
		      2 * TEST_PAGE));
	for (i = 700; i < 703; i++)
		bit_set(t.want, i);
	expect_at_least(&t, "unaligned punch");
	CHECK(is_zero(mem_page(&t.m, 701), TEST_PAGE), "not punched");

	/* And a hole that is written is a write. */
	t.m.p[65 * TEST_PAGE] = 1;
	bit_set(t.want, 65);
	expect(&t, "write to a punched page");
}

/* Rule 3: a dirty read-only entry would become writable without a fault. */
static void protection_changes(void)
{
	struct tracked t = tracked_new(1024);
	__u64 i;
	int round;

	for (round = 0; round < 10; round++) {
		for (i = 0; i < t.m.pages; i++)
			t.m.p[i * TEST_PAGE]++;
		CALL(tracker_fetch(t.tracker, 0, t.m.pages, t.map, NULL));
		SYS(mprotect(t.m.p, t.m.len, PROT_READ));
		SYS(mprotect(t.m.p, t.m.len, PROT_READ | PROT_WRITE));
		for (i = 0; i < t.m.pages; i++) {
			t.m.p[i * TEST_PAGE + 1]++;
			bit_set(t.want, i);
		}
		expect(&t, "mprotect after the fetch");

		/* Read-only during the fetch. */
		for (i = 0; i < t.m.pages; i++)
			t.m.p[i * TEST_PAGE]++;
		SYS(mprotect(t.m.p, t.m.len, PROT_READ));
		CALL(tracker_fetch(t.tracker, 0, t.m.pages, t.map, NULL));
		SYS(mprotect(t.m.p, t.m.len, PROT_READ | PROT_WRITE));
		for (i = 0; i < t.m.pages; i++) {
			t.m.p[i * TEST_PAGE + 1]++;
			bit_set(t.want, i);
		}
		expect(&t, "mprotect around the fetch");
	}
}

struct flipper {
	struct gate *gate;
	unsigned char *p;
	size_t len;
};

static void *flip_thread(void *arg)
{
	struct flipper *f = arg;

	while (gate_pass(f->gate)) {
		SYS(mprotect(f->p, f->len, PROT_READ));
		SYS(mprotect(f->p, f->len, PROT_READ | PROT_WRITE));
	}
	return NULL;
}

static void protection_changes_meanwhile(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct mem m = mem_new(256);
	struct writer w = { .gate = gate, .mem = &m, .p = m.p, .seed = test_seed };
	struct flipper f = { .gate = gate, .p = m.p, .len = m.len };
	pthread_t flipper, writer;
	struct mem view = m;
	__u64 end = deadline_in(RUN_S);
	struct shadow s;
	int round, i;

	/* The copy is read through a mapping that nobody changes. */
	view.p = map_shared(m.fd, m.len);
	retry_faults_in(m.p, m.len);
	gate->writers = 2;
	shadow_start(&s, &view);
	flipper = thread_start(flip_thread, &f);
	writer = thread_start(hammer_thread, &w);
	for (round = 0; round < 30 ||
	     (__atomic_load_n(&w.stamp, __ATOMIC_RELAXED) <= 1000 && now_ns() < end); round++) {
		for (i = 0; i < 20; i++)
			shadow_pass(&s);
		shadow_check(&s, gate, round);
	}
	gate_close(gate);
	gate_end(gate);
	thread_join(flipper);
	thread_join(writer);
	diag("%llu stamps, %llu pages copied", (unsigned long long)w.stamp,
	     (unsigned long long)s.copied);
	CHECK(w.stamp > 1000, "the writer hardly ran");
}

static void forked_while_tracked(void)
{
	struct tracked t = tracked_new(512);
	int go[2];
	pid_t pid;
	char c;

	SYS(pipe(go));
	/* The child's page tables are filled by its own faults. */
	pid = child_start();
	if (!pid) {
		SYS(read(go[0], &c, 1));
		t.m.p[10 * TEST_PAGE]++;
		t.m.p[11 * TEST_PAGE]++;
		_exit(0);
	}
	t.m.p[12 * TEST_PAGE]++;
	bit_set(t.want, 12);
	expect(&t, "parent");
	SYS(write(go[1], "x", 1));
	child_join(pid);
	bit_set(t.want, 10);
	bit_set(t.want, 11);
	expect(&t, "child");
}

static void moved_mappings(void)
{
	struct tracked t = tracked_new(512);
	__u64 seed = test_seed;
	unsigned char *p, *low;

	low = t.m.p;
	p = mremap(t.m.p, t.m.len, t.m.len, MREMAP_MAYMOVE | MREMAP_FIXED,
		   private_alloc(t.m.len));
	CHECK(p != MAP_FAILED, "mremap: %s", strerror(errno));
	CHECK(p != low, "did not move");
	scribble(&t, p, &seed);
	expect(&t, "moved mapping");

	/* Split in three by protections, and by a hole. */
	SYS(mprotect(p + 100 * TEST_PAGE, 50 * TEST_PAGE, PROT_READ));
	SYS(munmap(p + 300 * TEST_PAGE, 10 * TEST_PAGE));
	p[99 * TEST_PAGE]++;
	p[150 * TEST_PAGE]++;
	p[310 * TEST_PAGE]++;
	bit_set(t.want, 99);
	bit_set(t.want, 150);
	bit_set(t.want, 310);
	expect(&t, "split mapping");

	p = mremap(p, 0, 64 * TEST_PAGE, MREMAP_MAYMOVE);
	CHECK(p != MAP_FAILED, "mremap that duplicates: %s", strerror(errno));
	p[20 * TEST_PAGE]++;
	bit_set(t.want, 20);
	expect(&t, "duplicated mapping");
}

static void one_tracker(void)
{
	struct mem m = mem_new(64);
	struct migr_region_info info;
	int t, mig, pair[2];

	t = (int)CALL(region_track(m.fd));
	CALL_ERR(region_track(m.fd), EBUSY);

	unix_pair(pair);
	mig = (int)CALL(migration_create(m.dev, MIGR_ROLE_SOURCE));
	CALL(migration_add_region(mig, m.fd, 0));
	CALL(migration_add_stream(mig, pair[0], 0));
	CALL_ERR(migration_pass(mig, 0), EBUSY);

	SYS(close(t));
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, 0);
	/* Now it is the migration's. */
	CALL(migration_pass(mig, 0));
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, MIGR_REGION_TRACKED);
	CALL_ERR(region_track(m.fd), EBUSY);
}

static void stop_and_start(void)
{
	struct tracked t = tracked_new(512);
	struct migr_tracker_fetch f;
	__u64 seed = test_seed;

	SYS(close(t.tracker));
	scribble(&t, t.m.p, &seed);
	t.tracker = (int)CALL(region_track(t.m.fd));
	CALL(tracker_fetch(t.tracker, 0, t.m.pages, t.map, &f));
	CHECK_EQ(f.dirty_pages, t.m.pages);
	memset(t.want, 0, bitmap_words(t.m.pages) * sizeof(*t.want));
	tracker_settle(t.tracker, t.m.pages);
	scribble(&t, t.m.p, &seed);
	expect(&t, "after the second start");

	/* The tracker goes on without the region's descriptor. */
	SYS(close(t.m.fd));
	scribble(&t, t.m.p, &seed);
	expect(&t, "without the region's descriptor");
	/* And without any mapping. */
	SYS(munmap(t.m.p, t.m.len));
	expect(&t, "without a mapping");
}

static void bad_ranges(void)
{
	struct tracked t = tracked_new(1000);
	static const struct {
		__u64 first, nr;
	} bad[] = {
		{ 0, 0 }, { 64, 0 }, { 1, 64 }, { 63, 1 }, { 32, 64 },
		{ 0, 1 }, { 0, 63 }, { 0, 65 }, { 0, 999 }, { 0, 1001 },
		{ 0, 1024 }, { 960, 41 }, { 960, 39 }, { 960, 64 }, { 1000, 1 },
		{ 1024, 64 }, { 0, ~0ULL }, { 64, ~0ULL }, { 64, ~0ULL - 63 },
		{ ~0ULL - 63, 64 }, { ~0ULL - 63, 128 }, { ~0ULL, 1 },
		{ 1ULL << 63, 64 }, { 64, 1ULL << 63 }, { 1ULL << 52, 64 },
	};
	size_t i;

	t.m.p[0]++;
	bit_set(t.want, 0);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		int ret = tracker_fetch(t.tracker, bad[i].first, bad[i].nr, t.map, NULL);

		CHECK(ret == -EINVAL, "pages %llu + %llu: %d", (unsigned long long)bad[i].first,
		      (unsigned long long)bad[i].nr, ret);
		ret = region_merge(t.m.fd, bad[i].first, bad[i].nr, t.want, NULL);
		CHECK(ret == -EINVAL, "merge of pages %llu + %llu: %d",
		      (unsigned long long)bad[i].first, (unsigned long long)bad[i].nr, ret);
	}
	CALL(tracker_fetch(t.tracker, 960, 40, t.map, NULL));
	expect(&t, "after bad ranges");
}

static void merge_then_fetch(void)
{
	struct tracked t = tracked_new(2048 + 32);
	size_t words = bitmap_words(t.m.pages), bytes = words * sizeof(*t.map);
	__u64 *merged = private_alloc(bytes), seed = test_seed, page, want;
	struct migr_region_merge merge;
	int round, i;

	for (round = 0; round < 20; round++) {
		/* Some before the merge and some after it, some of both kinds. */
		scribble(&t, t.m.p, &seed);
		memset(merged, 0, bytes);
		for (i = 0; i < 40; i++)
			bit_set(merged, rnd(&seed) % t.m.pages);
		want = 0;
		for (page = 0; page < t.m.pages; page++) {
			if (!bit_test(merged, page))
				continue;
			want += !bit_test(t.want, page);
			bit_set(t.want, page);
		}
		CALL(region_merge(t.m.fd, 0, t.m.pages, merged, &merge));
		CHECK_EQ(merge.dirtied_pages, want);
		scribble(&t, t.m.p, &seed);
		/* Again: nothing that was not dirty. */
		CALL(region_merge(t.m.fd, 0, t.m.pages, merged, &merge));
		CHECK_EQ(merge.dirtied_pages, 0);
		expect(&t, "union of writes and merges");
	}

	/* A range of it: the bitmap begins with the range. */
	merged[0] = 1ULL << 63 | 1;
	CALL(region_merge(t.m.fd, 960, 64, merged, NULL));
	bit_set(t.want, 960);
	bit_set(t.want, 960 + 63);
	expect(&t, "merge of a range");

	/* The last word ends with the region, whatever it says. */
	memset(merged, 0xff, bytes);
	CALL(region_merge(t.m.fd, 2048, 32, merged, &merge));
	CHECK_EQ(merge.dirtied_pages, 32);
	for (page = 2048; page < t.m.pages; page++)
		bit_set(t.want, page);
	expect(&t, "merge of bits beyond the end");
	CALL(region_merge(t.m.fd, 0, t.m.pages, merged, &merge));
	CHECK_EQ(merge.dirtied_pages, t.m.pages);
	for (page = 0; page < t.m.pages; page++)
		bit_set(t.want, page);
	expect(&t, "merge of everything");
}

/* Mostly holes, and clean: what is merged is found, and nothing else. */
static void merge_into_clean_gigabyte(void)
{
	struct tracked t = { .m = mem_new(1UL << 18) };
	size_t bytes = bitmap_words(t.m.pages) * sizeof(*t.map);
	__u64 *merged = private_alloc(bytes), seed = test_seed;
	struct migr_region_merge merge;
	int i;

	t.map = private_alloc(bytes);
	t.want = private_alloc(bytes);
	t.tracker = (int)CALL(region_track(t.m.fd));
	tracker_settle(t.tracker, t.m.pages);
	CALL(region_merge(t.m.fd, 0, t.m.pages, merged, &merge));
	CHECK_EQ(merge.dirtied_pages, 0);
	expect(&t, "nothing merged");
	for (i = 0; i < 100; i++)
		bit_set(merged, rnd(&seed) % t.m.pages);
	bit_set(merged, t.m.pages - 1);
	memcpy(t.want, merged, bytes);
	CALL(region_merge(t.m.fd, 0, t.m.pages, merged, &merge));
	CHECK_EQ(merge.dirtied_pages, bit_count(merged, t.m.pages));
	expect(&t, "merged into a clean gigabyte");
}

/* Only who may write to the region can say that it was written. */
static void merge_without_tracker(void)
{
	struct tracked t = tracked_new(1000);
	struct migr_region_merge merge;
	__u64 bit = 1;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", t.m.fd);
	fd = (int)SYS(open(path, O_RDONLY | O_CLOEXEC));
	CALL_ERR(region_merge(fd, 0, 64, &bit, NULL), EBADF);
	expect(&t, "refused merge");

	SYS(close(t.tracker));
	CALL(region_merge(t.m.fd, 0, 64, &bit, &merge));
	CHECK_EQ(merge.dirtied_pages, 0);
	t.tracker = (int)CALL(region_track(t.m.fd));
	CALL(tracker_fetch(t.tracker, 0, t.m.pages, t.map, NULL));
	CHECK_EQ(bit_count(t.map, t.m.pages), t.m.pages);
}

/* Each merges pages of its own, one at a time, into words that all share. */
struct merger {
	const struct mem *mem;
	unsigned int id;
	bool *stop;
	__u64 merges;
	__u64 dirtied;
};

#define MERGERS		4U
#define MERGE_FETCHES	100

static void *merge_thread(void *arg)
{
	struct migr_region_merge merge;
	struct merger *me = arg;
	__u64 page, map[1];

	for (page = me->id; !__atomic_load_n(me->stop, __ATOMIC_ACQUIRE);
	     page = (page + MERGERS) % me->mem->pages) {
		map[0] = 1ULL << page % 64;
		CALL(region_merge(me->mem->fd, page - page % 64, 64, map, &merge));
		me->dirtied += merge.dirtied_pages;
		__atomic_add_fetch(&me->merges, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static __u64 all_merges(const struct merger *mergers)
{
	__u64 merges = 0;
	unsigned int n;

	for (n = 0; n < MERGERS; n++)
		merges += __atomic_load_n(&mergers[n].merges, __ATOMIC_ACQUIRE);
	return merges;
}

/* What merges make dirty is fetched once each. All holes: no page looks pinned. */
static void merges_meanwhile(void)
{
	struct mem m = mem_new(4096);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	__u64 fetched = 0, dirtied = 0, seen = 0;
	struct merger mergers[MERGERS];
	pthread_t threads[MERGERS];
	struct migr_tracker_fetch f;
	bool stop = false;
	unsigned int n;
	int t, i;

	t = (int)CALL(region_track(m.fd));
	tracker_settle(t, m.pages);
	for (n = 0; n < MERGERS; n++) {
		mergers[n] = (struct merger){ .mem = &m, .id = n, .stop = &stop };
		threads[n] = thread_start(merge_thread, &mergers[n]);
	}
	for (i = 0; i < MERGE_FETCHES; i++) {
		WAIT_FOR(all_merges(mergers) > seen, RUN_S);
		seen = all_merges(mergers);
		CALL(tracker_fetch(t, 0, m.pages, map, &f));
		CHECK_EQ(f.dirty_pages, bit_count(map, m.pages));
		fetched += f.dirty_pages;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	for (n = 0; n < MERGERS; n++) {
		thread_join(threads[n]);
		dirtied += mergers[n].dirtied;
	}
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	CHECK_EQ(fetched + f.dirty_pages, dirtied);
	diag("%llu merges, %llu pages", (unsigned long long)all_merges(mergers),
	     (unsigned long long)dirtied);
}

/* A merge that cannot read its bitmap: merged again, nothing is missing. */
static void bad_merges(void)
{
	/* Just as many pages as a page of bitmap has bits. */
	struct tracked t = tracked_new(8 * TEST_PAGE);
	unsigned char *page = private_alloc(2 * TEST_PAGE);
	void *bad[] = {
		NULL, (void *)8, (void *)(TEST_PAGE * 15), page + TEST_PAGE,
		(void *)(1UL << 63), (void *)~7UL, page + 8,
	};
	__u64 *map = private_alloc(TEST_PAGE), last;
	struct migr_region_merge merge;
	size_t i;

	SYS(munmap(page + TEST_PAGE, TEST_PAGE));
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		CALL_ERR(region_merge(t.m.fd, 0, t.m.pages, bad[i], NULL), EFAULT);
	expect(&t, "merge of a bad bitmap");

	/* The first half can be read. */
	memset(page + TEST_PAGE / 2, 0xff, TEST_PAGE / 2);
	CALL_ERR(region_merge(t.m.fd, 0, t.m.pages, page + TEST_PAGE / 2, NULL), EFAULT);
	CALL(tracker_fetch(t.tracker, 0, t.m.pages, t.map, NULL));
	last = t.m.pages / 2;
	CHECK(is_zero(t.map + last / 64, TEST_PAGE / 2), "merged what could not be read");
	CALL_ERR(region_merge(t.m.fd, 0, t.m.pages, page + TEST_PAGE / 2, NULL), EFAULT);
	memset(map, 0xff, TEST_PAGE / 2);
	CALL(region_merge(t.m.fd, 0, t.m.pages, map, &merge));
	CHECK(merge.dirtied_pages <= last, "%llu pages dirtied",
	      (unsigned long long)merge.dirtied_pages);
	for (i = 0; i < last; i++)
		bit_set(t.want, i);
	expect(&t, "merge after a failed one");

	/* Reading is enough, and from the region itself. */
	SYS(mprotect(map, TEST_PAGE, PROT_READ));
	CALL(region_merge(t.m.fd, 0, t.m.pages, map, NULL));
	for (i = 0; i < last; i++)
		bit_set(t.want, i);
	expect(&t, "read-only bitmap");
	memcpy(mem_page(&t.m, 9), map, TEST_PAGE);
	tracker_settle(t.tracker, t.m.pages);
	CALL(region_merge(t.m.fd, 0, t.m.pages, mem_page(&t.m, 9), NULL));
	for (i = 0; i < last; i++)
		bit_set(t.want, i);
	expect(&t, "bitmap in the region");
}

static void bad_bitmap(void)
{
	/* Just as many pages as a page of bitmap has bits. */
	struct tracked t = tracked_new(8 * TEST_PAGE);
	unsigned char *page = private_alloc(3 * TEST_PAGE);
	void *bad[] = {
		NULL, (void *)8, (void *)(TEST_PAGE * 15), page + TEST_PAGE,
		(void *)(1UL << 63), (void *)~7UL,
		/* The first half can be written. */
		page + TEST_PAGE / 2,
		/* All but the last word. */
		page + 8,
	};
	__u64 seed = test_seed;
	size_t i;

	SYS(munmap(page + TEST_PAGE, 2 * TEST_PAGE));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		scribble(&t, t.m.p, &seed);
		CALL_ERR(tracker_fetch(t.tracker, 0, t.m.pages, bad[i], NULL), EFAULT);
		expect_at_least(&t, "bad bitmap");
	}
	/* Mapped, but not for writing. */
	SYS(mprotect(page, TEST_PAGE, PROT_READ));
	scribble(&t, t.m.p, &seed);
	CALL_ERR(tracker_fetch(t.tracker, 0, t.m.pages, page, NULL), EFAULT);
	expect_at_least(&t, "read-only bitmap");
}

/* The fetch itself dirties the page it reports into. */
static void bitmap_in_region(void)
{
	struct mem m = mem_new(1024);
	struct shadow s, inside;
	__u64 seed = test_seed;
	int round;

	shadow_start(&s, &m);
	shadow_pass(&s);
	inside = s;
	for (round = 0; round < 100; round++) {
		__u64 i, page = rnd(&seed) % m.pages;

		for (i = 0; i < 20; i++)
			*(__u64 *)mem_page(&m, rnd(&seed) % m.pages) = rnd(&seed);
		inside.bitmap = (__u64 *)mem_page(&m, page);
		shadow_pass(&inside);
		shadow_pass(&s);
		CHECK(first_difference(s.copy, m.p, m.len) < 0,
		      "round %d, bitmap in page %llu: contents differ at byte %lld", round,
		      (unsigned long long)page, first_difference(s.copy, m.p, m.len));
	}
}

/* Fetch, compare, and stop and start while the gate's writers write. */
static void switch_rounds(const struct mem *m, struct gate *gate, int rounds, int passes)
{
	struct shadow s;
	int round, i;

	shadow_start(&s, m);
	for (round = 0; round < rounds; round++) {
		for (i = 0; i < passes; i++)
			shadow_pass(&s);
		shadow_check(&s, gate, round);
		SYS(close(s.tracker));
		s.tracker = (int)CALL(region_track(m->fd));
	}
	gate_close(gate);
	gate_end(gate);
}

static void switching(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct mem m = mem_new(512);
	struct writer w[2] = {
		{ .gate = gate, .mem = &m, .p = m.p, .id = 0, .seed = test_seed },
		{ .gate = gate, .mem = &m, .id = 1, .seed = test_seed + 1 },
	};
	pthread_t threads[2];

	memset(m.p, 1, m.len);
	w[1].p = map_shared(m.fd, m.len);
	gate->writers = 2;
	threads[0] = thread_start(hammer_thread, &w[0]);
	threads[1] = thread_start(hammer_thread, &w[1]);
	switch_rounds(&m, gate, 1000, 2);
	thread_join(threads[0]);
	thread_join(threads[1]);
	diag("%llu and %llu stamps", (unsigned long long)w[0].stamp,
	     (unsigned long long)w[1].stamp);
}

/* The same from another address space that is forked, and so copied. */
static void fork_writer(struct writer *w)
{
	while (gate_pass(w->gate)) {
		pid_t pid = child_start();
		int i;

		if (!pid) {
			for (i = 0; i < 8; i++)
				writer_stamp(w, rnd(&w->seed) % w->mem->pages);
			_exit(0);
		}
		child_join(pid);
		/* The stamps of each child begin where the last one's ended. */
		w->stamp += 8;
		w->seed++;
	}
	_exit(0);
}

static void mapping_meanwhile(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct mem m = mem_new(256);
	struct writer mapper = { .gate = gate, .mem = &m, .id = 0, .seed = test_seed };
	struct writer forker = { .gate = gate, .mem = &m, .p = m.p, .id = 1, .seed = test_seed };
	pthread_t thread;
	pid_t pid;

	memset(m.p, 1, m.len);
	gate->writers = 2;
	pid = child_start();
	if (!pid)
		fork_writer(&forker);
	thread = thread_start(mapper_thread, &mapper);
	switch_rounds(&m, gate, 200, 6);
	thread_join(thread);
	child_join(pid);
	diag("%llu stamps", (unsigned long long)mapper.stamp);
}

/*
 * More address spaces than have their entries changed at a time, which write
 * runs of pages that are protected as a range.
 */
#define PROCESSES	6U
#define RUN		16UL

static void many_processes(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct mem m = mem_new(1024);
	struct writer *w = shared_alloc(PROCESSES * sizeof(*w));
	pid_t pids[PROCESSES];
	struct shadow s;
	unsigned int i;
	int round, pass;

	gate->writers = PROCESSES;
	for (i = 0; i < PROCESSES; i++) {
		w[i] = (struct writer){
			.gate = gate, .mem = &m, .id = i, .seed = test_seed + i,
		};
		pids[i] = child_start();
		if (pids[i])
			continue;
		w[i].p = map_shared(m.fd, m.len);
		while (gate_pass(gate)) {
			__u64 page = rnd(&w[i].seed) % (m.pages - RUN), n;

			for (n = 0; n < RUN; n++)
				writer_stamp(&w[i], page + n);
		}
		_exit(0);
	}
	shadow_start(&s, &m);
	for (round = 0; round < 5; round++) {
		for (pass = 0; pass < 20; pass++) {
			__u64 *stamp = &w[pass % PROCESSES].stamp;
			__u64 seen = __atomic_load_n(stamp, __ATOMIC_RELAXED);

			shadow_pass(&s);
			WAIT_FOR(__atomic_load_n(stamp, __ATOMIC_RELAXED) > seen, RUN_S);
		}
		shadow_check(&s, gate, round);
	}
	gate_close(gate);
	gate_end(gate);
	for (i = 0; i < PROCESSES; i++)
		child_join(pids[i]);
}

static const struct test_case cases[] = {
	CASE(first_fetch_is_everything),
	CASE(own_writes),
	CASE(fresh_pages),
	CASE(partial_ranges),
	CASE(reads_do_not_count),
	CASE(second_mapping),
	CASE(behind_read_only_mapping),
	CASE(other_process),
	CASE(kernel_writes),
	CASE(holes_count),
	CASE(protection_changes),
	CASE(protection_changes_meanwhile),
	CASE(forked_while_tracked),
	CASE(moved_mappings),
	CASE(one_tracker),
	CASE(stop_and_start),
	CASE(bad_ranges),
	CASE(bad_bitmap),
	CASE(merge_then_fetch),
	CASE(merge_into_clean_gigabyte),
	CASE(merge_without_tracker),
	CASE(merges_meanwhile),
	CASE(bad_merges),
	CASE(bitmap_in_region),
	CASE(switching),
	CASE(mapping_meanwhile),
	CASE(many_processes),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
