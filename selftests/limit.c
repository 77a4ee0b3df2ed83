// SPDX-License-Identifier: GPL-2.0-only
/*
 * The limit to how fast pages become dirty: that it is kept, that threads share
 * it, that who sleeps for it holds nothing up and can be woken, and that no
 * write is lost under it.
 */
#include "workload.h"

#define PAGES		1024UL
#define THREADS		4U
/* Fetched so often that a page is seldom written twice in between. */
#define FETCH_US	2000
/* What counts as at once; a sleep is a second long, see slow_start(). */
#define AT_ONCE_NS	500000000ULL

/* ---------------------------------------------------------------- writers */

/* Threads that write to pages of their own, one after the other. */
struct crowd {
	struct mem m;
	int tracker;
	__u64 *bitmap;
	__u64 pinned;	/* of the latest fetch */
	bool ended;
	unsigned int nr;
	struct member {
		struct crowd *crowd;
		pthread_t thread;
		pid_t tid;
		__u64 first;
		__u64 pages;
		__u64 writes;
	} members[THREADS];
};

static void *member_thread(void *arg)
{
	struct member *w = arg;
	struct crowd *c = w->crowd;
	__u64 i;

	__atomic_store_n(&w->tid, gettid(), __ATOMIC_RELEASE);
	for (i = 0; !__atomic_load_n(&c->ended, __ATOMIC_ACQUIRE); i++) {
		__atomic_store_n((__u64 *)mem_page(&c->m, w->first + i % w->pages), i,
				 __ATOMIC_RELAXED);
		__atomic_add_fetch(&w->writes, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static __u64 crowd_fetch(struct crowd *c)
{
	struct migr_tracker_fetch f;

	CALL(tracker_fetch(c->tracker, 0, c->m.pages, c->bitmap, &f));
	c->pinned = f.pinned_pages;
	return f.dirty_pages;
}

/* With every page present and fetched once. */
static void crowd_start(struct crowd *c, unsigned int nr)
{
	unsigned int i;

	memset(c, 0, sizeof(*c));
	c->m = mem_new(PAGES);
	memset(c->m.p, 1, c->m.len);
	c->bitmap = private_alloc(bitmap_words(PAGES) * sizeof(*c->bitmap));
	c->tracker = (int)CALL(region_track(c->m.fd));
	tracker_settle(c->tracker, PAGES);
	c->nr = nr;
	for (i = 0; i < nr; i++) {
		struct member *w = &c->members[i];

		w->crowd = c;
		w->pages = PAGES / nr;
		w->first = i * w->pages;
	}
}

static void crowd_write(struct crowd *c)
{
	unsigned int i;

	for (i = 0; i < c->nr; i++)
		c->members[i].thread = thread_start(member_thread, &c->members[i]);
}

static void crowd_join(struct crowd *c)
{
	unsigned int i;

	__atomic_store_n(&c->ended, true, __ATOMIC_RELEASE);
	for (i = 0; i < c->nr; i++)
		thread_join(c->members[i].thread);
}

/* Pages a second that become dirty, for some time. */
static __u64 crowd_rate(struct crowd *c, unsigned int seconds)
{
	__u64 begun, dirty = 0;

	crowd_fetch(c);
	begun = now_ns();
	while (now_ns() < begun + seconds * 1000000000ULL) {
		usleep(FETCH_US);
		/* What a fault holds on to looks pinned, and is reported again. */
		dirty += crowd_fetch(c) - c->pinned;
	}
	return dirty * 1000000000ULL / (now_ns() - begun);
}

static struct migr_limit crowd_limit(const struct crowd *c)
{
	struct migr_limit limit;

	CALL(limit_read(c->tracker, MIGR_TRACKER_LIMIT, &limit));
	return limit;
}

static void crowd_set(const struct crowd *c, __u64 rate)
{
	CALL(limit_set(c->tracker, MIGR_TRACKER_LIMIT, rate));
}

/*
 * A thread that has just gone to sleep, for a second: at one page a second, it
 * has no more than so long a sleep for all that it has written.
 */
static void slow_start(struct crowd *c)
{
	crowd_start(c, 1);
	crowd_set(c, 1);
	crowd_write(c);
	WAIT_FOR(__atomic_load_n(&c->members[0].tid, __ATOMIC_ACQUIRE) &&
		 writer_sleeps(c->members[0].tid), RUN_S);
}

/* ------------------------------------------------------------ how fast */

static void rate_is_kept(void)
{
	static const unsigned int parts[] = { 20, 5, 100 };
	__u64 unlimited, limit, rate, end = deadline_in(RUN_S);
	struct crowd c;
	size_t i;

	crowd_start(&c, 3);
	crowd_write(&c);
	unlimited = crowd_rate(&c, 2);
	diag("no limit: %llu pages/s", (unsigned long long)unlimited);
	CHECK(unlimited > 100, "this machine is too slow to limit anything");
	CHECK_EQ(crowd_limit(&c).sleeps, 0);
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		limit = unlimited / parts[i];
		/* Less than the least that is kept. */
		if (limit < 10 * c.nr)
			limit = 10 * c.nr;
		crowd_set(&c, limit);
		CHECK_EQ(crowd_limit(&c).pages_per_second, limit);
		/* Never more; and as much, when others let them run. */
		do {
			rate = crowd_rate(&c, 4);
			diag("limit %llu: %llu pages/s", (unsigned long long)limit,
			     (unsigned long long)rate);
			/* A tenth, and what every thread may write at first. */
			CHECK(rate <= limit + limit / 10 + 2 * c.nr,
			      "%llu pages/s at a limit of %llu", (unsigned long long)rate,
			      (unsigned long long)limit);
		} while (rate < limit - limit / 5 && now_ns() < end);
		CHECK(rate >= limit - limit / 5, "%llu pages/s at a limit of %llu",
		      (unsigned long long)rate, (unsigned long long)limit);
	}
	CHECK(crowd_limit(&c).slept_ns > 0, "nobody has slept");
	crowd_set(&c, 0);
	rate = crowd_rate(&c, 2);
	CHECK(rate > 2 * limit, "without a limit again: %llu pages/s", (unsigned long long)rate);
	crowd_join(&c);
}

static void threads_share(void)
{
	__u64 least = ~0ULL, most = 0;
	unsigned int i;
	struct crowd c;

	crowd_start(&c, THREADS);
	crowd_set(&c, 400);
	crowd_write(&c);
	crowd_rate(&c, 4);
	for (i = 0; i < c.nr; i++) {
		__u64 writes = __atomic_load_n(&c.members[i].writes, __ATOMIC_RELAXED);

		diag("thread %u: %llu writes", i, (unsigned long long)writes);
		least = writes < least ? writes : least;
		most = writes > most ? writes : most;
	}
	CHECK(least * 3 >= most, "one wrote %llu times, another %llu times",
	      (unsigned long long)least, (unsigned long long)most);
	crowd_join(&c);
}

/* What is dirty is free, and so is what is never limited. */
static void dirty_pages_are_free(void)
{
	struct crowd c;
	unsigned int i;

	crowd_start(&c, 1);
	for (i = 0; i < PAGES; i++)
		*(volatile unsigned char *)mem_page(&c.m, i) = 2;
	crowd_set(&c, 1);
	for (i = 0; i < PAGES; i++)
		*(volatile unsigned char *)mem_page(&c.m, i) = 3;
	CHECK_EQ(crowd_limit(&c).sleeps, 0);
	crowd_fetch(&c);
	for (i = 0; i < 16; i++)
		*(volatile unsigned char *)mem_page(&c.m, i) = 4;
	CHECK(crowd_limit(&c).sleeps > 0, "a clean page is free as well");
}

/*
 * A store across the end of a page needs both pages at once, and while it sleeps
 * for one of them, both are fetched: it must get through all the same.
 */
static void writers_get_on(void)
{
	struct crowd c;
	__u64 i, end;
	pid_t pid;

	crowd_start(&c, 1);
	crowd_set(&c, 16);
	pid = child_start();
	if (!pid) {
		for (i = 1; i <= 20; i++)
			*(volatile __u64 *)(mem_page(&c.m, i) - 4) = i;
		_exit(0);
	}
	end = deadline_in(RUN_S);
	while (!waitpid(pid, NULL, WNOHANG)) {
		CHECK(now_ns() < end, "20 stores take more than a minute");
		crowd_fetch(&c);
		poll_pause();
	}
}

/* ------------------------------------------------------- asleep and awake */

/* The best of some attempts: others run on this machine too. */
#define AT_ONCE(expr)							\
	do {								\
		__u64 best_ = ~0ULL, took_;				\
		int try_;						\
									\
		for (try_ = 0; try_ < 3 && best_ > AT_ONCE_NS; try_++) {	\
			took_ = (expr);					\
			best_ = took_ < best_ ? took_ : best_;		\
		}							\
		diag("%s: %llu ms", #expr, (unsigned long long)best_ / 1000000); \
		CHECK(best_ <= AT_ONCE_NS, "%s: it slept on for %llu ms", #expr, \
		      (unsigned long long)best_ / 1000000);		\
	} while (0)

static __u64 wakes_when_killed(void)
{
	__u64 begun;
	pid_t pid;
	struct crowd c;

	crowd_start(&c, 1);
	crowd_set(&c, 1);
	pid = child_start();
	if (!pid)
		member_thread(&(struct member){ .crowd = &c, .pages = PAGES });
	WAIT_FOR(writer_sleeps(pid), RUN_S);
	begun = now_ns();
	SYS(kill(pid, SIGKILL));
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
	begun = now_ns() - begun;
	SYS(close(c.tracker));
	return begun;
}

static void killed(void)
{
	AT_ONCE(wakes_when_killed());
}

static __u64 signalled_ns;

static void signal_handler(int sig)
{
	(void)sig;
	__atomic_store_n(&signalled_ns, now_ns(), __ATOMIC_RELEASE);
}

static __u64 wakes_for_signal(void)
{
	struct sigaction sa = { .sa_handler = signal_handler };
	struct crowd c;
	__u64 begun;

	SYS(sigaction(SIGUSR1, &sa, NULL));
	slow_start(&c);
	__atomic_store_n(&signalled_ns, 0, __ATOMIC_RELEASE);
	begun = now_ns();
	pthread_kill(c.members[0].thread, SIGUSR1);
	WAIT_FOR(__atomic_load_n(&signalled_ns, __ATOMIC_ACQUIRE), RUN_S);
	begun = signalled_ns - begun;
	SYS(close(c.tracker));
	crowd_join(&c);
	return begun;
}

static void signalled(void)
{
	AT_ONCE(wakes_for_signal());
}

/* All of its pages in a row: it gets there once it need not sleep any more. */
static __u64 wakes_after(void (*change)(struct crowd *c))
{
	__u64 begun, writes;
	struct crowd c;

	slow_start(&c);
	writes = __atomic_load_n(&c.members[0].writes, __ATOMIC_RELAXED) + PAGES;
	begun = now_ns();
	change(&c);
	WAIT_FOR(__atomic_load_n(&c.members[0].writes, __ATOMIC_RELAXED) > writes, RUN_S);
	begun = now_ns() - begun;
	crowd_join(&c);
	close(c.tracker);
	return begun;
}

static void stop_tracking(struct crowd *c)
{
	SYS(close(c->tracker));
	c->tracker = -1;
}

static void end_limit(struct crowd *c)
{
	crowd_set(c, 0);
}

static void raise_limit(struct crowd *c)
{
	crowd_set(c, 1000000);
}

static void tracking_stopped(void)
{
	AT_ONCE(wakes_after(stop_tracking));
}

static void limit_changed(void)
{
	AT_ONCE(wakes_after(end_limit));
	AT_ONCE(wakes_after(raise_limit));
}

/* Other threads map and unmap, all of the region as well, while it sleeps. */
static void holds_nothing(void)
{
	bool through = false;
	struct crowd c;
	__u64 sleeps_before;
	void *p;
	int i;

	slow_start(&c);
	for (i = 0; i < 5 && !through; i++) {
		WAIT_FOR(writer_sleeps(c.members[0].tid), RUN_S);
		sleeps_before = crowd_limit(&c).sleeps;
		p = map_shared(c.m.fd, c.m.len);
		SYS(mprotect(p, c.m.len, PROT_READ));
		SYS(munmap(p, c.m.len));
		SYS(mprotect(c.m.p, c.m.len, PROT_READ | PROT_WRITE));
		crowd_fetch(&c);
		through = crowd_limit(&c).sleeps == sleeps_before &&
			  writer_sleeps(c.members[0].tid);
	}
	CHECK(through, "mmap() and munmap() wait for a thread that sleeps");
	SYS(close(c.tracker));
	crowd_join(&c);
}

/* ------------------------------------------------- writes from the kernel */

#define READ_PAGES	64UL

static void fill_file(int fd, unsigned char *copy)
{
	__u64 seed = test_seed;

	fill_random(copy, READ_PAGES * TEST_PAGE, &seed);
	CHECK_EQ(pwrite(fd, copy, READ_PAGES * TEST_PAGE, 0), READ_PAGES * TEST_PAGE);
	SYS(fsync(fd));
}

/* Each makes many pages dirty in one system call, and sleeps once, after it. */
static void kernel_writes(void)
{
	unsigned char *copy = private_alloc(READ_PAGES * TEST_PAGE);
	struct iovec from = { copy, READ_PAGES * TEST_PAGE }, to;
	struct migr_limit before, after;
	struct crowd c;
	int fd, how;
	long n;

	fd = (int)SYS(memfd_create("file", MFD_CLOEXEC));
	fill_file(fd, copy);
	crowd_start(&c, 1);
	to = (struct iovec){ c.m.p, READ_PAGES * TEST_PAGE };
	crowd_set(&c, 1000);
	for (how = 0; how < 2; how++) {
		before = crowd_limit(&c);
		if (how)
			n = process_vm_writev(getpid(), &from, 1, &to, 1, 0);
		else
			n = pread(fd, c.m.p, READ_PAGES * TEST_PAGE, 0);
		CHECK_EQ(n, READ_PAGES * TEST_PAGE);
		after = crowd_limit(&c);
		CHECK_EQ(after.sleeps, before.sleeps + 1);
		CHECK(first_difference(c.m.p, copy, READ_PAGES * TEST_PAGE) < 0,
		      "not what was in the file");
		CHECK_EQ(crowd_fetch(&c) >= READ_PAGES, true);
		memset(c.m.p, 0, READ_PAGES * TEST_PAGE);
		crowd_fetch(&c);
	}
}

/* -------------------------------------------------------- nothing is lost */

#define NOLOST_PAGES	1024UL
#define NOLOST_RATE	3000

static void no_lost_write(void)
{
	struct mem m = mem_new(NOLOST_PAGES);
	struct migr_limit limit;
	struct workload w;
	struct shadow s;
	unsigned int i;

	workload_start(&w, &m, MEET_PARALLEL);
	shadow_start(&s, &m);
	CALL(limit_set(s.tracker, MIGR_TRACKER_LIMIT, NOLOST_RATE));
	for (i = 0; i < 5; i++) {
		__u64 lost = shadow_round(&s, &w, 10);

		CHECK(!lost, "round %u: %llu pages lost a write", i, (unsigned long long)lost);
	}
	CALL(limit_read(s.tracker, MIGR_TRACKER_LIMIT, &limit));
	diag("%llu pages copied, %llu sleeps, %llu ms", (unsigned long long)s.copied,
	     (unsigned long long)limit.sleeps, (unsigned long long)limit.slept_ns / 1000000);
	CHECK(limit.sleeps > 0, "nobody was above the limit");
	workload_stop(&w);
}

static const struct test_case cases[] = {
	CASE_TIMED(rate_is_kept),
	CASE_TIMED(threads_share),
	CASE(dirty_pages_are_free),
	CASE(writers_get_on),
	CASE(killed),
	CASE(signalled),
	CASE(tracking_stopped),
	CASE(limit_changed),
	CASE(holds_nothing),
	CASE(kernel_writes),
	CASE(no_lost_write),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
