// SPDX-License-Identifier: GPL-2.0-only
/*
 * What tracking writes costs, beside the kernel's own facilities for it, in
 * turn, another one first each time, and on shared memory of the same kind.
 *
 * Everything that is measured is measured in a child of its own: what one
 * facility does to an address space must not slow the next one down. The first
 * argument names the file of the results, the others tests; all are run if there
 * are none. What else it is told is in samples.h.
 */
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>

#include "kvm_guest.h"
#include "samples.h"

#define PAGES		65536UL
#define GIB_PAGES	(1UL << 18)

/* Newer than the headers of Debian 12. */
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_UNPOPULATED	(1 << 13)
#define UFFD_FEATURE_WP_ASYNC		(1 << 15)
#endif
#ifndef PAGEMAP_SCAN
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

#define PAGEMAP_SCAN		_IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WRITTEN		(1 << 1)
#define PM_SCAN_WP_MATCHING	(1 << 0)
#define PM_SCAN_CHECK_WPASYNC	(1 << 1)
#endif

/* ----------------------------------------------------------- facilities */

/* Memory whose writes are tracked. */
struct arena {
	struct mem m;
	__u64 *dirty;
	int fd;
	struct page_region *vec;
	__u64 *pagemap;
};

struct facility {
	const char *name;
	bool region;
	/* The pages whose faults are timed, for what takes very long. */
	unsigned long fault_pages;
	void (*start)(struct arena *a);
	/* Fetch, clear and protect; returns how many were dirty. */
	unsigned long (*collect)(struct arena *a);
	/* As a write to every page would leave it, if that takes very long. */
	void (*write_all)(struct arena *a);
};

static size_t bitmap_bytes(const struct arena *a)
{
	return bitmap_words(a->m.pages) * sizeof(*a->dirty);
}

static void migr_start(struct arena *a)
{
	a->fd = (int)CALL(region_track(a->m.fd));
}

static unsigned long migr_collect(struct arena *a)
{
	struct migr_tracker_fetch f;

	CALL(tracker_fetch(a->fd, 0, a->m.pages, a->dirty, &f));
	return f.dirty_pages;
}

static void uffd_open(struct arena *a, __u64 features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register reg = {
		.range = { (unsigned long)a->m.p, a->m.len },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	a->fd = (int)SYS(syscall(SYS_userfaultfd, O_CLOEXEC));
	if (ioctl(a->fd, UFFDIO_API, &api))
		test_skip("no such userfaultfd: %s", strerror(errno));
	SYS(ioctl(a->fd, UFFDIO_REGISTER, &reg));
}

static void uffd_protect(struct arena *a, unsigned long first, unsigned long nr, bool protect)
{
	struct uffdio_writeprotect wp = {
		.range = { (unsigned long)mem_page(&a->m, first), nr * TEST_PAGE },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	SYS(ioctl(a->fd, UFFDIO_WRITEPROTECT, &wp));
}

static void async_start(struct arena *a)
{
	uffd_open(a, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
		     UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	uffd_protect(a, 0, a->m.pages, true);
	a->vec = private_alloc(a->m.pages * sizeof(*a->vec));
	a->pagemap = NULL;
}

static unsigned long async_collect(struct arena *a)
{
	static int pagemap = -1;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (unsigned long)a->m.p,
		.end = (unsigned long)a->m.p + a->m.len,
		.vec = (unsigned long)a->vec,
		.vec_len = a->m.pages,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	unsigned long pages = 0;
	long i, nr;

	if (pagemap < 0)
		pagemap = (int)SYS(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	nr = SYS(ioctl(pagemap, PAGEMAP_SCAN, &arg));
	for (i = 0; i < nr; i++)
		pages += (a->vec[i].end - a->vec[i].start) / TEST_PAGE;
	return pages;
}

/* Protect every run of dirty pages, and forget them. */
static unsigned long protect_dirty(struct arena *a,
				   void (*protect)(struct arena *a, unsigned long first,
						   unsigned long nr))
{
	unsigned long page, first, pages = 0;

	for (page = 0; page < a->m.pages;) {
		if (!a->dirty[page / 64]) {
			page += 64;
			continue;
		}
		if (!bit_test(a->dirty, page)) {
			page++;
			continue;
		}
		for (first = page; page < a->m.pages && bit_test(a->dirty, page); page++)
			;
		protect(a, first, page - first);
		pages += page - first;
	}
	memset(a->dirty, 0, bitmap_bytes(a));
	return pages;
}

static void *sync_thread(void *arg)
{
	struct arena *a = arg;
	struct uffd_msg msg;

	while (read(a->fd, &msg, sizeof(msg)) == sizeof(msg)) {
		unsigned long page = (msg.arg.pagefault.address - (unsigned long)a->m.p) /
				     TEST_PAGE;

		bit_set(a->dirty, page);
		uffd_protect(a, page, 1, false);
	}
	return NULL;
}

static void sync_start(struct arena *a)
{
	uffd_open(a, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	uffd_protect(a, 0, a->m.pages, true);
	thread_start(sync_thread, a);
}

static void sync_protect(struct arena *a, unsigned long first, unsigned long nr)
{
	uffd_protect(a, first, nr, true);
}

static unsigned long sync_collect(struct arena *a)
{
	return protect_dirty(a, sync_protect);
}

static void touch(const struct arena *a, unsigned long page)
{
	volatile __u64 *word = (void *)mem_page(&a->m, page);

	*word += 1;
}

static void touch_all(struct arena *a)
{
	unsigned long page;

	memset(a->dirty, 0xff, bitmap_bytes(a));
	for (page = 0; page < a->m.pages; page++)
		touch(a, page);
}

static void sync_write_all(struct arena *a)
{
	uffd_protect(a, 0, a->m.pages, false);
	touch_all(a);
}

static void clear_refs(void)
{
	CHECK(file_write("/proc/self/clear_refs", "4"), "clear_refs: %s", strerror(errno));
}

static void soft_start(struct arena *a)
{
	a->fd = (int)SYS(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	a->pagemap = private_alloc(a->m.pages * sizeof(*a->pagemap));
	memset(a->pagemap, 0, a->m.pages * sizeof(*a->pagemap));
	clear_refs();
}

static unsigned long soft_collect(struct arena *a)
{
	size_t bytes = a->m.pages * sizeof(*a->pagemap);
	unsigned long page, pages = 0;

	CHECK(pread(a->fd, a->pagemap, bytes, (unsigned long)a->m.p / TEST_PAGE *
		    (off_t)sizeof(*a->pagemap)) == (ssize_t)bytes,
	      "pagemap: %s", strerror(errno));
	clear_refs();
	for (page = 0; page < a->m.pages; page++)
		pages += a->pagemap[page] >> 55 & 1;
	return pages;
}

static struct arena *mprotect_arena;

static void mprotect_handler(int sig, siginfo_t *info, void *context)
{
	struct arena *a = mprotect_arena;
	unsigned long page = ((unsigned char *)info->si_addr - a->m.p) / TEST_PAGE;

	(void)context;
	if (page >= a->m.pages) {
		signal(sig, SIG_DFL);
		return;
	}
	bit_set(a->dirty, page);
	SYS(mprotect(mem_page(&a->m, page), TEST_PAGE, PROT_READ | PROT_WRITE));
}

static void mprotect_protect(struct arena *a, unsigned long first, unsigned long nr)
{
	SYS(mprotect(mem_page(&a->m, first), nr * TEST_PAGE, PROT_READ));
}

static void mprotect_start(struct arena *a)
{
	struct sigaction action = {
		.sa_sigaction = mprotect_handler, .sa_flags = SA_SIGINFO,
	};

	mprotect_arena = a;
	SYS(sigaction(SIGSEGV, &action, NULL));
	mprotect_protect(a, 0, a->m.pages);
}

static unsigned long mprotect_collect(struct arena *a)
{
	return protect_dirty(a, mprotect_protect);
}

static void mprotect_write_all(struct arena *a)
{
	SYS(mprotect(a->m.p, a->m.len, PROT_READ | PROT_WRITE));
	touch_all(a);
}

static const struct facility facilities[] = {
	{ OURS, true, PAGES, migr_start, migr_collect, NULL },
	{ "uffd-wp-async", false, PAGES, async_start, async_collect, NULL },
	{ "soft-dirty", false, PAGES, soft_start, soft_collect, NULL },
	{ "uffd-wp-sync", false, 128, sync_start, sync_collect, sync_write_all },
	{ "mprotect", false, 2048, mprotect_start, mprotect_collect, mprotect_write_all },
};

static void arena_start(struct arena *a, const struct facility *f, unsigned long pages)
{
	memset(a, 0, sizeof(*a));
	a->fd = -1;
	a->m = f->region ? mem_new(pages) : memfd_new(pages);
	a->dirty = private_alloc(bitmap_bytes(a));
	memset(a->dirty, 0, bitmap_bytes(a));
}

static void arena_track(struct arena *a, const struct facility *f)
{
	__u64 end = deadline_in(60);

	f->start(a);
	/* What looks pinned is reported until it no longer does. */
	do {
		lru_drain();
		CHECK(now_ns() < end, "%s: still dirty after 60 s of rest", f->name);
	} while (f->collect(a));
}

/* A figure of what does not see the writes would be worth nothing. */
static double timed_collect(struct arena *a, const struct facility *f, unsigned long want)
{
	__u64 begin = now_ns();
	unsigned long pages = f->collect(a);
	double ns = (double)(now_ns() - begin);

	CHECK(pages == want, "%s: %lu pages dirty, %lu written", f->name, pages, want);
	return ns / 1000;
}

/* -------------------------------------------------------------- the tests */

static void test_pages(const struct facility *f)
{
	static const struct {
		const char *name;
		unsigned long nr;
	} shares[] = {
		{ "collect-0%", 0 },
		{ "collect-0.1%", PAGES / 1000 },
		{ "collect-1%", PAGES / 100 },
		{ "collect-10%", PAGES / 10 },
	};
	unsigned long page, i;
	__u64 seed = test_seed, begin;
	struct arena a;
	size_t s;

	arena_start(&a, f, PAGES);
	for (page = 0; page < PAGES; page++)
		touch(&a, page);
	arena_track(&a, f);

	for (s = 0; s < ARRAY_SIZE(shares); s++) {
		for (i = 0; i < shares[s].nr; i++) {
			unsigned long stride = PAGES / shares[s].nr;

			touch(&a, i * stride + rnd(&seed) % stride);
		}
		sample(shares[s].name, f->name, "us", timed_collect(&a, f, shares[s].nr));
	}

	begin = now_ns();
	for (page = 0; page < f->fault_pages; page++)
		touch(&a, page);
	sample("write-fault", f->name, "ns/page", (double)(now_ns() - begin) / f->fault_pages);
	if (f->write_all)
		f->write_all(&a);
	sample("collect-100%", f->name, "us", timed_collect(&a, f, PAGES));
}

/* Runs of four pages, each in another chunk, whatever the size. */
static void test_sparse(const struct facility *f)
{
	static const unsigned long gib[] = { 1, 4, 16 };
	const unsigned long runs = 256;
	unsigned long i, page;
	struct arena a;
	char name[32];
	size_t s;

	for (s = 0; s < ARRAY_SIZE(gib); s++) {
		unsigned long stride = gib[s] * GIB_PAGES / runs;

		arena_start(&a, f, gib[s] * GIB_PAGES);
		for (i = 0; i < runs; i++)
			for (page = 0; page < 4; page++)
				touch(&a, i * stride + page);
		arena_track(&a, f);
		for (i = 0; i < runs; i++)
			for (page = 0; page < 4; page++)
				touch(&a, i * stride + page);
		snprintf(name, sizeof(name), "collect-1024-of-%lu-GiB", gib[s]);
		sample(name, f->name, "us", timed_collect(&a, f, runs * 4));
		close(a.fd);
		munmap(a.m.p, a.m.len);
		close(a.m.fd);
	}
}

static void pin(const struct mem *m, const char *who)
{
	struct io_uring_params params = { 0 };
	struct iovec iov = { m->p, m->len };
	int ring = (int)SYS(syscall(SYS_io_uring_setup, 1, &params));
	__u64 begin = now_ns();

	SYS(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1));
	sample("idle-pin", who, "ns/page", (double)(now_ns() - begin) / m->pages);
	SYS(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
	close(ring);
}

#define SHMEM_ENABLED	"/sys/kernel/mm/transparent_hugepage/shmem_enabled"

static double first_writes(const struct mem *m)
{
	__u64 begin = now_ns();
	unsigned long page;

	for (page = 0; page < m->pages; page++)
		m->p[page * TEST_PAGE] = 1;
	return (double)(now_ns() - begin) / m->pages;
}

/* A region that is not tracked is to be like any shared memory. */
static void test_idle(const struct facility *f)
{
	const char *who = f->region ? f->name : "memfd";
	struct mem m = f->region ? mem_new(PAGES) : memfd_new(PAGES);

	sample("idle-first-write", who, "ns/page", first_writes(&m));
	pin(&m, who);
	munmap(m.p, m.len);
	close(m.fd);

	CHECK(file_write(SHMEM_ENABLED, "advise"), "%s: %s", SHMEM_ENABLED, strerror(errno));
	m = f->region ? mem_new(PAGES) : memfd_new(PAGES);
	SYS(madvise(m.p, m.len, MADV_HUGEPAGE));
	sample("idle-huge-first-write", who, "ns/page", first_writes(&m));
	CHECK(file_write(SHMEM_ENABLED, "never"), "%s: %s", SHMEM_ENABLED, strerror(errno));
}

/* What the kernel has charged to the cgroup we are in for its own use. */
static unsigned long kernel_memory(void)
{
	char text[4096], *line;

	file_read("/sys/fs/cgroup/bench/memory.stat", text, sizeof(text));
	line = strstr(text, "\nkernel ");
	CHECK(line, "memory.stat has no line for the kernel's memory");
	return strtoul(line + 8, NULL, 10);
}

static void enter_cgroup(void)
{
	const char *path = "/sys/fs/cgroup/bench";

	file_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	CHECK(!mkdir(path, 0755) || errno == EEXIST, "%s: %s", path, strerror(errno));
	CHECK(file_write("/sys/fs/cgroup/bench/cgroup.procs", "0"), "%s: %s", path,
	      strerror(errno));
}

/* Large, so that what the charges are rounded to is nothing. */
#define MEMORY_GIB	64

static double memory_since(unsigned long before)
{
	return (double)(kernel_memory() - before) / 1024 / MEMORY_GIB;
}

/* All that a migration has from its first pass on, its tracker included. */
static void sample_migration_memory(const char *who)
{
	struct mem m = mem_new(MEMORY_GIB * GIB_PAGES);
	unsigned long before = kernel_memory();
	int migration = (int)CALL(migration_create(m.dev, MIGR_ROLE_SOURCE));
	int sock[2];

	unix_pair(sock);
	CALL(migration_add_region(migration, m.fd, 0));
	CALL(migration_add_stream(migration, sock[0], 0));
	CALL(migration_pass(migration, 0));
	sample("memory-migration", who, "KiB/GiB", memory_since(before));
}

static void kvm_log(int vm, const struct mem *m)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
	};
	struct kvm_userspace_memory_region slot = {
		.flags = KVM_MEM_LOG_DIRTY_PAGES,
		.memory_size = m->len, .userspace_addr = (unsigned long)m->p,
	};

	SYS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	SYS(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
}

static void test_memory(const struct facility *f)
{
	struct mem m = f->region ? mem_new(MEMORY_GIB * GIB_PAGES) :
				   memfd_new(MEMORY_GIB * GIB_PAGES);
	unsigned long before;

	enter_cgroup();
	if (f->region) {
		before = kernel_memory();
		CALL(region_track(m.fd));
		sample("memory", f->name, "KiB/GiB", memory_since(before));
		sample_migration_memory(f->name);
	} else {
		struct vcpu vcpus[VCPUS];
		int vm = vm_make(&m, vcpus);
		double log;

		before = kernel_memory();
		kvm_log(vm, &m);
		log = memory_since(before);
		/* A migration of QEMU's has bitmaps of its own besides, in user space. */
		sample("memory", "kvm-dirty-log", "KiB/GiB", log);
		sample("memory-migration", "kvm-dirty-log", "KiB/GiB", log);
	}
}

/* As QEMU does: get the log, then clear and protect what it says. */
static void kvm_fetch(int vm, const struct mem *m, __u64 *dirty)
{
	struct kvm_dirty_log get = { .dirty_bitmap = dirty };
	struct kvm_clear_dirty_log clear = {
		.num_pages = (__u32)m->pages, .dirty_bitmap = dirty,
	};

	SYS(ioctl(vm, KVM_GET_DIRTY_LOG, &get));
	SYS(ioctl(vm, KVM_CLEAR_DIRTY_LOG, &clear));
}

static __u64 guest_work(struct vcpu *vcpus)
{
	struct kvm_regs regs;
	__u64 work = 0;
	int i;

	for (i = 0; i < VCPUS; i++) {
		SYS(ioctl(vcpus[i].fd, KVM_GET_REGS, &regs));
		work += regs.rcx & 0xffffffff;
	}
	return work;
}

enum log { LOG_NONE, LOG_KVM, LOG_MIGR };

#define GUEST_RUN_MEM	8192UL

/* Two vCPUs write to random pages; a pass every half a second. */
static void guest_runs(const char *who, enum log log)
{
	struct mem m = log == LOG_MIGR ? mem_new(GUEST_RUN_MEM) : memfd_new(GUEST_RUN_MEM);
	struct timespec pause = { .tv_nsec = 500000000 };
	__u64 *dirty = private_alloc(m.pages / 8), begin;
	struct vcpu vcpus[VCPUS];
	atomic_bool stop;
	int vm = vm_make(&m, vcpus), tracker = -1, i;

	if (log == LOG_KVM)
		kvm_log(vm, &m);
	if (log == LOG_MIGR)
		tracker = (int)CALL(region_track(m.fd));
	begin = now_ns();
	vcpus_start(vcpus, &stop);
	for (i = 0; i < 6; i++) {
		nanosleep(&pause, NULL);
		if (log == LOG_KVM)
			kvm_fetch(vm, &m, dirty);
		if (log == LOG_MIGR)
			CALL(tracker_fetch(tracker, 0, m.pages, dirty, NULL));
	}
	vcpus_stop(vcpus, &stop);
	sample("guest-work", who, "k/s",
	       (double)guest_work(vcpus) / ((double)(now_ns() - begin) / 1e6))
		->higher_is_better = true;
}

static void test_guest(const struct facility *f)
{
	if (f->region) {
		guest_runs(f->name, LOG_MIGR);
		return;
	}
	guest_runs("kvm-dirty-log", LOG_KVM);
	guest_runs("untracked", LOG_NONE);
}

/* Each with the first so many facilities: us, and whoever else. */
static const struct {
	const char *name;
	void (*fn)(const struct facility *f);
	size_t nr;
} tests[] = {
	{ "pages", test_pages, ARRAY_SIZE(facilities) },
	{ "sparse", test_sparse, ARRAY_SIZE(facilities) },
	{ "idle", test_idle, 2 },
	{ "memory", test_memory, 2 },
	{ "guest", test_guest, 2 },
};

static void run_test(size_t t, size_t f)
{
	pid_t pid = child_start();
	int status;

	if (!pid) {
		tests[t].fn(&facilities[f]);
		_exit(TEST_PASS);
	}
	SYS(waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIP)
		printf("%s: skipped: %s\n", tests[t].name, test_skip_reason);
	else
		CHECK(!status, "%s: status 0x%x", tests[t].name, status);
}

static void run_tests(size_t t, unsigned int runs)
{
	unsigned int run, before = samples->nr;
	size_t f;

	/* Who touches an emulated machine's memory first pays for it. */
	for (f = 0; f < tests[t].nr; f++)
		run_test(t, f);
	samples->nr = before;
	printf("%s: these were not counted\n", tests[t].name);
	for (run = 0; run < runs; run++)
		for (f = 0; f < tests[t].nr; f++)
			run_test(t, (run + f) % tests[t].nr);
}

int main(int argc, char **argv)
{
	unsigned int runs;
	size_t t;

	if (argc < 2) {
		fprintf(stderr, "usage: %s FILE [TEST...]\n", argv[0]);
		return 2;
	}
	runs = samples_open();
	for (t = 0; t < ARRAY_SIZE(tests); t++) {
		bool wanted = argc == 2;
		int a;

		for (a = 2; a < argc; a++)
			wanted |= !strcmp(argv[a], tests[t].name);
		if (wanted)
			run_tests(t, runs);
	}
	samples_report(argv[1], "tracking");
	return 0;
}
