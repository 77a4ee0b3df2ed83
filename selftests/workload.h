/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The writers of the "no lost write" tests: threads in two processes that
 * write ever-growing stamps into one region, and a gate that stops them all
 * between two stores.
 *
 * Every writer has words of its own in each page, so a stamp is only ever
 * replaced by its own writer, and one that a copy misses shows.
 */
#ifndef MIGR_WORKLOAD_H
#define MIGR_WORKLOAD_H

#include "migr_test.h"

#include <linux/mempolicy.h>
#include <sys/resource.h>

/* ----------------------------------------------------------------- gate */

/* In memory that all writers share. */
struct gate {
	unsigned int writers;
	unsigned int parked;
	bool closed;
	bool ended;
};

/* Called by a writer before each store; false: return. */
static inline bool gate_pass(struct gate *g)
{
	if (!__atomic_load_n(&g->closed, __ATOMIC_ACQUIRE))
		return true;
	__atomic_add_fetch(&g->parked, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&g->closed, __ATOMIC_ACQUIRE) &&
	       !__atomic_load_n(&g->ended, __ATOMIC_ACQUIRE))
		poll_pause();
	__atomic_sub_fetch(&g->parked, 1, __ATOMIC_ACQ_REL);
	return !__atomic_load_n(&g->ended, __ATOMIC_ACQUIRE);
}

/* On return nobody writes. */
static inline void gate_close(struct gate *g)
{
	__atomic_store_n(&g->closed, true, __ATOMIC_RELEASE);
	WAIT_FOR(__atomic_load_n(&g->parked, __ATOMIC_ACQUIRE) == g->writers, RUN_S);
}

static inline void gate_open(struct gate *g)
{
	__atomic_store_n(&g->closed, false, __ATOMIC_RELEASE);
	WAIT_FOR(!__atomic_load_n(&g->parked, __ATOMIC_ACQUIRE), RUN_S);
}

/* Closed before: the writers return. */
static inline void gate_end(struct gate *g)
{
	__atomic_store_n(&g->ended, true, __ATOMIC_RELEASE);
}

/* ---------------------------------------------------- writes that may fault */

/*
 * For a mapping that another thread makes read-only and writable again: a
 * store that hits the wrong moment is simply tried again.
 */
static struct {
	unsigned char *from;
	unsigned char *to;
} retry_range;

static inline void retry_handler(int sig, siginfo_t *info, void *context)
{
	unsigned char *addr = info->si_addr;

	(void)context;
	if (addr >= retry_range.from && addr < retry_range.to) {
		sched_yield();
		return;
	}
	signal(sig, SIG_DFL);
}

static inline void retry_faults_in(void *from, size_t len)
{
	struct sigaction sa = { .sa_sigaction = retry_handler, .sa_flags = SA_SIGINFO };

	retry_range.from = from;
	retry_range.to = retry_range.from + len;
	sigemptyset(&sa.sa_mask);
	SYS(sigaction(SIGSEGV, &sa, NULL));
}

/* -------------------------------------------------------------- writers */

enum writer_kind {
	WRITER_WALK,	/* every page once, in a random order, then another order */
	WRITER_RANDOM,	/* random pages */
	WRITER_HOT,	/* the same few pages */
	WRITER_FLIP,	/* some pages, through a mapping that it makes read-only and back */
};

/* Pages that all hot writers share: the first of the region. */
#define HOT_PAGES	4UL
/* Where the flipping ones write. */
#define FLIP_PAGES	256UL
#define STAMP_WORDS	16UL
/* What every writer gets done between two passes, at least. */
#define TURN_STAMPS	16UL

struct writer {
	struct gate *gate;
	const struct mem *mem;
	unsigned char *p;
	enum writer_kind kind;
	unsigned int id;
	__u64 seed;
	__u64 stamp;	/* the last it wrote; workload_turn() looks on */
	__u64 step;
	__u64 seen;
};

static inline void writer_stamp(struct writer *w, __u64 page)
{
	__u64 *words = (__u64 *)(w->p + page * TEST_PAGE);
	__u64 word = w->id * STAMP_WORDS + rnd(&w->seed) % STAMP_WORDS;
	__u64 stamp = w->stamp + 1;

	__atomic_store_n(&words[word], stamp, __ATOMIC_RELAXED);
	__atomic_store_n(&w->stamp, stamp, __ATOMIC_RELAXED);
}

/* The pages are a power of two: a full-period congruence visits each once. */
static inline __u64 writer_walk(struct writer *w, __u64 page)
{
	if (w->stamp % w->mem->pages == 0)
		w->step = rnd(&w->seed) | 1;
	return (page * 5 + w->step) & (w->mem->pages - 1);
}

static inline void writer_flip(struct writer *w)
{
	__u64 first = w->id % 4 * FLIP_PAGES;
	unsigned char *p = w->p + first * TEST_PAGE;
	int i;

	SYS(mprotect(p, FLIP_PAGES * TEST_PAGE, PROT_READ));
	SYS(mprotect(p, FLIP_PAGES * TEST_PAGE, PROT_READ | PROT_WRITE));
	for (i = 0; i < 64; i++)
		writer_stamp(w, first + rnd(&w->seed) % FLIP_PAGES);
}

static inline void *writer_thread(void *arg)
{
	struct writer *w = arg;
	__u64 page = 0;

	/* Each has a mapping of its own: more page tables to keep right. */
	w->p = map_shared(w->mem->fd, w->mem->len);
	while (gate_pass(w->gate)) {
		switch (w->kind) {
		case WRITER_WALK:
			page = writer_walk(w, page);
			writer_stamp(w, page);
			break;
		case WRITER_RANDOM:
			writer_stamp(w, rnd(&w->seed) % w->mem->pages);
			break;
		case WRITER_HOT:
			writer_stamp(w, rnd(&w->seed) % HOT_PAGES);
			break;
		case WRITER_FLIP:
			writer_flip(w);
			break;
		}
	}
	munmap(w->p, w->mem->len);
	return NULL;
}

/* Random pages of the mapping it was given. */
static inline void *hammer_thread(void *arg)
{
	struct writer *w = arg;

	while (gate_pass(w->gate))
		writer_stamp(w, rnd(&w->seed) % w->mem->pages);
	return NULL;
}

/* Maps, writes a little and unmaps, again and again. */
static inline void *mapper_thread(void *arg)
{
	struct writer *w = arg;
	int i;

	while (gate_pass(w->gate)) {
		w->p = map_shared(w->mem->fd, w->mem->len);
		for (i = 0; i < 8; i++)
			writer_stamp(w, rnd(&w->seed) % w->mem->pages);
		SYS(munmap(w->p, w->mem->len));
	}
	return NULL;
}

/* ------------------------------------------------------------- workload */

#define WORKLOAD_THREADS 3

#define PREEMPT_MODE	"/sys/kernel/debug/sched/preempt"

/*
 * How what collects meets the writers: on other CPUs than it at the same time,
 * or on its own, where it preempts them wherever it wakes up. In the middle of
 * a fault as well: what must not come between a fault's steps does.
 */
enum meeting {
	MEET_PARALLEL,
	MEET_PREEMPTED,
};

/* Three writers here and three in a child. */
struct workload {
	enum meeting how;
	struct gate *gate;
	struct writer (*writers)[WORKLOAD_THREADS];
	pthread_t threads[WORKLOAD_THREADS];
	pid_t child;
};

static inline void workload_run(struct workload *w, unsigned int process)
{
	unsigned int i;

	for (i = 0; i < WORKLOAD_THREADS; i++)
		w->threads[i] = thread_start(writer_thread, &w->writers[process][i]);
}

/* The child waits here as long as the test runs. */
static inline void workload_join(struct workload *w)
{
	unsigned int i;

	for (i = 0; i < WORKLOAD_THREADS; i++)
		pthread_join(w->threads[i], NULL);
}

/* "none voluntary (full)": the chosen one stands in parentheses. */
static inline void preempt_mode_save(char *mode, size_t size)
{
	file_read(PREEMPT_MODE, mode, size);
}

static inline void preempt_mode_restore(char *mode)
{
	char *from = strchr(mode, '('), *to = from ? strchr(from, ')') : NULL;

	if (!to)
		return;
	*to = '\0';
	file_write(PREEMPT_MODE, from + 1);
}

/* Before the writers are made: they inherit the CPU. */
static inline void meet_on_one_cpu(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	SYS(sched_setaffinity(0, sizeof(cpus), &cpus));
	if (!file_write(PREEMPT_MODE, "full"))
		diag("%s: %s: the kernel is not preempted", PREEMPT_MODE, strerror(errno));
}

/* Starts the writers with the gate closed. */
static inline void workload_start(struct workload *w, const struct mem *mem, enum meeting how)
{
	static const enum writer_kind kinds[2][WORKLOAD_THREADS] = {
		{ WRITER_WALK, WRITER_HOT, WRITER_FLIP },
		{ WRITER_RANDOM, WRITER_HOT, WRITER_FLIP },
	};
	struct sched_param first = { .sched_priority = 1 };
	unsigned int process, i;

	memset(w, 0, sizeof(*w));
	w->how = how;
	if (how == MEET_PREEMPTED)
		meet_on_one_cpu();
	w->gate = shared_alloc(sizeof(*w->gate));
	w->writers = shared_alloc(2 * sizeof(*w->writers));
	w->gate->writers = 2 * WORKLOAD_THREADS;
	w->gate->closed = true;
	for (process = 0; process < 2; process++) {
		for (i = 0; i < WORKLOAD_THREADS; i++) {
			struct writer *writer = &w->writers[process][i];

			writer->gate = w->gate;
			writer->mem = mem;
			writer->kind = kinds[process][i];
			writer->id = process * WORKLOAD_THREADS + i;
			writer->seed = test_seed + writer->id;
		}
	}
	w->child = child_start();
	if (!w->child) {
		workload_run(w, 1);
		workload_join(w);
		_exit(0);
	}
	workload_run(w, 0);
	gate_close(w->gate);
	if (how == MEET_PREEMPTED)
		SYS(sched_setscheduler(0, SCHED_FIFO, &first));
	else
		SYS(setpriority(PRIO_PROCESS, 0, -5));
}

/* Returns when every writer has written something since the last call. */
static inline void workload_turn(struct workload *w)
{
	unsigned int i;

	for (i = 0; i < 2 * WORKLOAD_THREADS; i++) {
		struct writer *writer = &w->writers[0][i];
		__u64 seen = writer->seen;

		/* An emulated machine has been seen to leave one out for half a minute. */
		WAIT_FOR(__atomic_load_n(&writer->stamp, __ATOMIC_RELAXED) >= seen + TURN_STAMPS,
			 60);
		writer->seen = __atomic_load_n(&writer->stamp, __ATOMIC_RELAXED);
	}
}

static inline void workload_stop(struct workload *w)
{
	gate_close(w->gate);
	gate_end(w->gate);
	workload_join(w);
	child_join(w->child);
}

/* --------------------------------------------------------------- shadow */

/* A copy of a region, kept up to date from what a tracker reports. */
struct shadow {
	const struct mem *mem;
	int tracker;
	unsigned char *copy;
	__u64 *bitmap;
	__u64 copied;
	__u64 passes;
	__u64 seed;
};

#define CLOSE_PASSES	200

static inline void shadow_start(struct shadow *s, const struct mem *mem)
{
	memset(s, 0, sizeof(*s));
	s->mem = mem;
	s->seed = test_seed;
	s->copy = private_alloc(mem->len);
	s->bitmap = private_alloc(bitmap_words(mem->pages) * sizeof(*s->bitmap));
	s->tracker = (int)CALL(region_track(mem->fd));
}

static inline void shadow_fetch(struct shadow *s, __u64 first, __u64 nr)
{
	struct migr_tracker_fetch f;
	__u64 i;

	CALL(tracker_fetch(s->tracker, first, nr, s->bitmap, &f));
	for (i = 0; i < nr; i++) {
		__u64 offset = (first + i) * TEST_PAGE;

		if (!s->bitmap[i / 64]) {
			i |= 63;
			continue;
		}
		if (!bit_test(s->bitmap, i))
			continue;
		memcpy(s->copy + offset, s->mem->p + offset, TEST_PAGE);
		s->copied++;
	}
}

static inline void shadow_pass(struct shadow *s)
{
	shadow_fetch(s, 0, s->mem->pages);
	s->passes++;
}

/* Pages that the copy has wrong. */
static inline __u64 shadow_lost(const struct shadow *s)
{
	__u64 page, lost = 0;

	for (page = 0; page < s->mem->pages; page++)
		lost += !!memcmp(s->copy + page * TEST_PAGE, s->mem->p + page * TEST_PAGE,
				 TEST_PAGE);
	return lost;
}

/* Stop the writers and take what is left: what is missing now is lost. */
static inline __u64 shadow_finish(struct shadow *s, struct gate *g)
{
	gate_close(g);
	shadow_pass(s);
	return shadow_lost(s);
}

/* The end of a round: nothing is lost, and the writers go on. */
static inline void shadow_check(struct shadow *s, struct gate *g, unsigned int round)
{
	__u64 lost = shadow_finish(s, g);

	CHECK(!lost, "round %u: %llu pages lost a write", round, (unsigned long long)lost);
	gate_open(g);
}

/* For some ten microseconds the writers have the CPUs. */
static inline void shadow_pause(struct shadow *s)
{
	struct timespec ts = { .tv_nsec = 20000 + (long)(rnd(&s->seed) % 100000) };

	nanosleep(&ts, NULL);
}

/*
 * Let the writers run for @passes passes, stop them, take what is left and
 * compare. Where the writers are preempted, most passes follow each other
 * closely: so a fetch most often comes between the steps of a fault.
 */
static inline __u64 shadow_round(struct shadow *s, struct workload *w, unsigned int passes)
{
	unsigned int i, n;

	gate_open(w->gate);
	for (i = 0; i < passes; i++) {
		workload_turn(w);
		shadow_pass(s);
		for (n = 0; w->how == MEET_PREEMPTED && n < CLOSE_PASSES; n++) {
			shadow_pause(s);
			shadow_pass(s);
		}
	}
	return shadow_finish(s, w->gate);
}

/* test_main() for programs whose workload changes how kernels preempt. */
static inline int workload_main(const struct test_case *cases, size_t nr, int argc, char **argv)
{
	char mode[128];
	int ret;

	preempt_mode_save(mode, sizeof(mode));
	ret = test_main(cases, nr, argc, argv);
	preempt_mode_restore(mode);
	return ret;
}

/* ------------------------------------------------------------ disturbers */

/* Who does something to the memory while it is written and fetched, at most so often. */
struct disturber {
	struct gate *gate;
	const struct mem *mem;
	void (*once)(struct disturber *d);
	__u64 seed;
	__u64 times;
	__u64 limit;
};

#define DISTURBED_PAGES		1024UL
#define DISTURBED_ROUNDS	3
#define DISTURBED_PASSES	4

static inline void *disturber_thread(void *arg)
{
	struct disturber *d = arg;

	while (gate_pass(d->gate)) {
		if (d->times >= __atomic_load_n(&d->limit, __ATOMIC_RELAXED)) {
			poll_pause();
			continue;
		}
		d->once(d);
		__atomic_add_fetch(&d->times, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Writes to some pages through a mapping of the whole region. */
static inline void disturber_scribble(struct disturber *d, unsigned char *p)
{
	int i;

	for (i = 0; i < 8; i++)
		*(__u64 *)(p + rnd(&d->seed) % d->mem->pages * TEST_PAGE) = rnd(&d->seed);
}

/* That this is done meanwhile, up to so many times a round, loses no write. */
static inline void workload_disturbed(const struct mem *m, void (*once)(struct disturber *d),
				      unsigned int times_a_round)
{
	struct disturber d = { .mem = m, .once = once, .seed = test_seed };
	struct workload w;
	struct shadow s;
	pthread_t thread;
	unsigned int i, n;

	workload_start(&w, m, MEET_PARALLEL);
	d.gate = w.gate;
	w.gate->writers++;
	thread = thread_start(disturber_thread, &d);
	gate_close(w.gate);
	shadow_start(&s, m);
	gate_open(w.gate);
	for (i = 0; i < DISTURBED_ROUNDS; i++) {
		__u64 times = __atomic_load_n(&d.times, __ATOMIC_RELAXED);

		__atomic_store_n(&d.limit, times + times_a_round, __ATOMIC_RELAXED);
		for (n = 0; n < DISTURBED_PASSES ||
		     __atomic_load_n(&d.times, __ATOMIC_RELAXED) == times; n++) {
			workload_turn(&w);
			shadow_pass(&s);
		}
		shadow_check(&s, w.gate, i);
	}
	workload_stop(&w);
	thread_join(thread);
	diag("disturbed %llu times in %llu passes, %llu pages copied",
	     (unsigned long long)d.times, (unsigned long long)s.passes,
	     (unsigned long long)s.copied);
}

static inline void need_two_nodes(void)
{
	if (access("/sys/devices/system/node/node1", F_OK))
		test_skip("only one NUMA node");
}

/* Whoever maps them; busy ones are left where they are. */
static inline void move_some_pages(const struct mem *m, __u64 *seed)
{
	void *pages[64];
	int nodes[64], status[64];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		pages[i] = mem_page(m, rnd(seed) % m->pages);
		nodes[i] = rnd(seed) & 1;
	}
	SYS(syscall(SYS_move_pages, 0, ARRAY_SIZE(pages), pages, nodes, status,
		    MPOL_MF_MOVE_ALL));
}

/* A counter of the kernel. */
static inline __u64 vmstat(const char *name)
{
	FILE *f = fopen("/proc/vmstat", "re");
	unsigned long long value;
	char line[64];

	CHECK(f, "/proc/vmstat: %s", strerror(errno));
	while (fscanf(f, "%63s %llu", line, &value) == 2) {
		if (strcmp(line, name))
			continue;
		fclose(f);
		return value;
	}
	FAIL("/proc/vmstat has no %s", name);
}

#endif /* MIGR_WORKLOAD_H */
