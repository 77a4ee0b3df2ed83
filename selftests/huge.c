// SPDX-License-Identifier: GPL-2.0-only
/*
 * Huge pages: a region that is idle may have them and is mapped by huge entries,
 * which the tracking must not let a write escape through. What the kernel gives
 * by itself depends on its setting for shared memory; where that is nothing,
 * MADV_COLLAPSE asks for them.
 */
#include "migration.h"
#include "workload.h"

#define SHMEM_THP	"/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define HUGE_PAGES	512UL
#define HUGE_SIZE	(HUGE_PAGES * TEST_PAGE)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

static bool mapped_huge(const void *p)
{
	char line[256];
	bool here = false;
	long kib = 0;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	CHECK(smaps, "smaps: %s", strerror(errno));
	while (fgets(line, sizeof(line), smaps)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = from == (uintptr_t)p;
		else if (here && sscanf(line, "ShmemPmdMapped: %ld kB", &kib) == 1)
			break;
	}
	fclose(smaps);
	return kib > 0;
}

/* Somebody may hold one of the pages for a moment. */
static bool make_huge(const struct mem *m)
{
	__u64 end = deadline_in(RUN_S / 2);

	while (!mapped_huge(m->p) && madvise(m->p, m->len, MADV_COLLAPSE)) {
		if ((errno != EAGAIN && errno != EBUSY && errno != ENOMEM) || now_ns() > end)
			return false;
		poll_pause();
	}
	return mapped_huge(m->p);
}

/* In place of what is mapped there. */
static void map_there(const struct mem *m)
{
	CHECK(mmap(m->p, m->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0) == m->p,
	      "mmap: %s", strerror(errno));
}

static struct mem huge_region(const char *mode)
{
	const __u64 pages = 4 * HUGE_PAGES;
	struct mem m = { .pages = pages, .len = pages * TEST_PAGE };
	__u64 seed = test_seed;
	unsigned char *room;

	if (!file_write(SHMEM_THP, mode))
		test_skip("no %s", SHMEM_THP);
	m.dev = (int)CALL(dev_open());
	m.fd = (int)CALL(region_create(m.dev, m.len, "huge"));
	room = private_alloc(m.len + HUGE_SIZE);
	m.p = (unsigned char *)(((uintptr_t)room + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	map_there(&m);
	if (!strcmp(mode, "advise"))
		SYS(madvise(m.p, m.len, MADV_HUGEPAGE));
	fill_random(m.p, m.len, &seed);
	diag("%s: %s", mode, mapped_huge(m.p) ? "huge by itself" : "to be collapsed");
	if (!make_huge(&m))
		test_skip("no huge mapping: %s", strerror(errno));
	return m;
}

/* What is written is dirty, and what is not is not unless a huge entry maps it. */
static void write_and_fetch(const struct mem *m, int tracker)
{
	unsigned char *copy = private_alloc(m->len), *alias = map_shared(m->fd, m->len);
	__u64 *map = private_alloc(bitmap_words(m->pages) * sizeof(*map));
	__u64 *wrote = private_alloc(bitmap_words(m->pages) * sizeof(*wrote));
	__u64 seed = test_seed, i, extra = 0;
	/* Before 6.12 it is mapped huge whatever we say. */
	bool huge = kernel_before(6, 12);
	int round;

	memcpy(copy, m->p, m->len);
	for (round = 0; round < 5; round++) {
		tracker_settle(tracker, m->pages);
		memset(wrote, 0, bitmap_words(m->pages) * sizeof(*wrote));
		for (i = 0; i < 200; i++) {
			__u64 page = rnd(&seed) % m->pages;
			unsigned char *where = i & 1 ? alias : m->p;

			*(__u64 *)(where + page * TEST_PAGE + i * 8) = rnd(&seed);
			bit_set(wrote, page);
		}
		huge |= mapped_huge(m->p) || mapped_huge(alias);
		CALL(tracker_fetch(tracker, 0, m->pages, map, NULL));
		for (i = 0; i < m->pages; i++) {
			if (bit_test(map, i))
				memcpy(copy + i * TEST_PAGE, mem_page(m, i), TEST_PAGE);
			CHECK(bit_test(map, i) || !bit_test(wrote, i),
			      "round %d: the write to page %llu was lost", round,
			      (unsigned long long)i);
			extra += bit_test(map, i) && !bit_test(wrote, i);
		}
		CHECK(first_difference(copy, m->p, m->len) < 0, "round %d: contents differ",
		      round);
	}
	diag("mapped huge while tracked: %s; %llu pages reported that were not written",
	     huge ? "yes" : "no", (unsigned long long)extra);
	CHECK(!extra || huge, "pages are reported that were not written");
	SYS(munmap(alias, m->len));
}

static void tracked(const char *mode)
{
	struct mem m = huge_region(mode);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	struct migr_tracker_fetch f;
	__u64 i;
	int t;

	t = (int)CALL(region_track(m.fd));
	for (i = 0; i < m.pages; i += 7)
		*(__u64 *)mem_page(&m, i) = i;
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	CHECK_EQ(f.dirty_pages, m.pages);
	write_and_fetch(&m, t);

	/* Idle again, it is mapped huge again as soon as it is mapped anew. */
	SYS(close(t));
	SYS(madvise(m.p, m.len, MADV_DONTNEED));
	m.p[0]++;
	m.p[m.len - 1]++;
	CHECK(make_huge(&m), "not mapped huge any more: %s", strerror(errno));
	/* And once more from the start. */
	t = (int)CALL(region_track(m.fd));
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	m.p[HUGE_SIZE]++;
	CALL(tracker_fetch(t, 0, m.pages, map, &f));
	CHECK(bit_test(map, HUGE_PAGES), "a write after the second start was lost");
}

static void always(void)
{
	tracked("always");
}

static void advise(void)
{
	tracked("advise");
}

static void never(void)
{
	tracked("never");
}

/* The VMM asks for huge entries in the middle of it. */
static void advised_while_tracked(void)
{
	struct mem m = huge_region("always");
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	int t = (int)CALL(region_track(m.fd));

	CALL(tracker_fetch(t, 0, m.pages, map, NULL));
	SYS(madvise(m.p, m.len, MADV_HUGEPAGE));
	write_and_fetch(&m, t);
}

/* Returns how much is there then: to look at holes fills them. */
static __u64 arrive(const struct mem *from, const struct mem *to)
{
	struct migr_region_info info;
	struct link l;

	link_open(&l, unix_pair, 0, from, to, 1);
	link_receive_start(&l);
	link_last(&l);
	CALL(region_info(to->fd, &info));
	expect_equal(from, to);
	link_close(&l);
	return info.resident;
}

/* What arrives in huge pages stays in them, the zero pages among it included. */
static void arrives(void)
{
	struct mem to = huge_region("always"), from = mem_new(to.pages);
	__u64 seed = test_seed, i;
	unsigned int n;

	/* Over what is there already, and into nothing. */
	for (n = 0; n < 2; n++) {
		fill_random(from.p, from.len, &seed);
		for (i = 0; i < from.pages; i += 2)
			memset(mem_page(&from, i), 0, TEST_PAGE);
		if (n)
			SYS(madvise(to.p, to.len, MADV_REMOVE));
		arrive(&from, &to);
		/* Before 6.12 it is given small ones. */
		CHECK(mapped_huge(to.p) || (n && kernel_before(6, 12)), "not huge any more");
	}
}

/* A page of each huge one does not keep the others, and nothing keeps none. */
static void sparse_arrives(void)
{
	struct mem to = huge_region("always"), from = mem_new(to.pages);
	__u64 seed = test_seed, i;

	memset(from.p, 0, from.len);
	for (i = 0; i < from.pages; i += HUGE_PAGES)
		fill_random(mem_page(&from, i), TEST_PAGE, &seed);
	CHECK_EQ(arrive(&from, &to), to.len / HUGE_PAGES);
	memset(from.p, 0, from.len);
	CHECK_EQ(arrive(&from, &to), 0);
}

#define STARTS		20
#define PASSES		10

/*
 * A thread and a process write through huge mappings while tracking starts, goes
 * on and stops. Idle again, what is mapped anew is mapped huge.
 */
static void switched_meanwhile(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct writer *w = shared_alloc(2 * sizeof(*w));
	struct mem m = huge_region("always");
	unsigned int start, i;
	pthread_t thread;
	struct shadow s;
	pid_t pid;

	for (i = 0; i < 2; i++)
		w[i] = (struct writer){
			.gate = gate, .mem = &m, .p = m.p, .id = i, .seed = test_seed + i,
		};
	gate->writers = 2;
	pid = child_start();
	if (!pid) {
		mapper_thread(&w[1]);
		_exit(0);
	}
	thread = thread_start(hammer_thread, &w[0]);
	shadow_start(&s, &m);
	for (start = 1; ; start++) {
		for (i = 0; i < PASSES; i++) {
			__u64 seen = __atomic_load_n(&w[i % 2].stamp, __ATOMIC_RELAXED);

			shadow_pass(&s);
			WAIT_FOR(__atomic_load_n(&w[i % 2].stamp, __ATOMIC_RELAXED) >
				 seen + TURN_STAMPS, RUN_S);
		}
		shadow_check(&s, gate, start);
		SYS(close(s.tracker));
		if (start == STARTS)
			break;
		map_there(&m);
		WAIT_FOR(mapped_huge(m.p), RUN_S);
		s.tracker = (int)CALL(region_track(m.fd));
	}
	gate_close(gate);
	gate_end(gate);
	thread_join(thread);
	child_join(pid);
	diag("%llu and %llu stamps, %llu pages copied", (unsigned long long)w[0].stamp,
	     (unsigned long long)w[1].stamp, (unsigned long long)s.copied);
}

static const struct test_case cases[] = {
	CASE(always),
	CASE(advise),
	CASE(never),
	CASE(advised_while_tracked),
	CASE(switched_meanwhile),
	CASE(arrives),
	CASE(sparse_arrives),
};

int main(int argc, char **argv)
{
	char thp[128], *from, *to = NULL;
	int ret;

	file_read(SHMEM_THP, thp, sizeof(thp));
	ret = test_main(cases, ARRAY_SIZE(cases), argc, argv);
	/* "always [advise] never": the chosen one stands in brackets. */
	from = strchr(thp, '[');
	if (from)
		to = strchr(++from, ']');
	if (to) {
		*to = '\0';
		file_write(SHMEM_THP, from);
	}
	return ret;
}
