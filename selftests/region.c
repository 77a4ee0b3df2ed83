// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions: making, naming, mapping and reopening them, what is refused, how
 * long they live, and that the module stays while one does.
 */
#include "migr_test.h"

static __u64 resident(int fd)
{
	struct migr_region_info info;

	CALL(region_info(fd, &info));
	return info.resident;
}

static void create(void)
{
	struct migr_region_info info, other;
	struct mem m = mem_new(3);
	struct migr_info dev;
	int fd;

	CALL(dev_info(m.dev, &dev));
	CHECK_EQ(dev.abi_version, MIGR_ABI_VERSION);
	CHECK_EQ(dev.page_size, sysconf(_SC_PAGESIZE));
	CHECK_EQ(dev.page_size, TEST_PAGE);
	CHECK_EQ(dev.chunk_pages, MIGR_CHUNK_PAGES);
	CHECK(dev.wire_version >= 1, "no wire version");
	CHECK(dev.region_max >= 1ULL << 40, "region_max is %llu",
	      (unsigned long long)dev.region_max);

	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, 0);
	CHECK_EQ(info.length, m.len);
	CHECK_EQ(info.resident, 0);
	CHECK(!strcmp((char *)info.name, "test"), "name is '%s'", info.name);
	CHECK(is_zero(m.p, m.len), "a new region is not zero");

	m.p[TEST_PAGE] = 1;
	/* All three have been touched by now. */
	CHECK_EQ(resident(m.fd), 3 * TEST_PAGE);

	fd = (int)CALL(region_create(m.dev, TEST_PAGE, "other"));
	CALL(region_info(fd, &other));
	CHECK(other.id != info.id, "two regions with id %llu", (unsigned long long)info.id);
	CHECK_EQ(other.length, TEST_PAGE);
}

static void bare_mmap(void)
{
	struct migr_region_info info;
	unsigned char *p, *again;
	int dev, fd;

	dev = (int)CALL(dev_open());
	CALL_ERR(region_get(dev), ENOENT);
	p = map_shared(dev, 16 * TEST_PAGE);
	memset(p, 0x5a, 16 * TEST_PAGE);

	fd = (int)CALL(region_get(dev));
	CALL(region_info(fd, &info));
	CHECK_EQ(info.length, 16 * TEST_PAGE);
	CHECK_EQ(info.name[0], 0);
	again = map_shared(fd, info.length);
	CHECK(first_difference(p, again, info.length) < 0, "not the same memory");
	again[5 * TEST_PAGE + 7] = 0xa5;
	CHECK_EQ(p[5 * TEST_PAGE + 7], 0xa5);
}

static void refuse_range(int fd, size_t pages, off_t first)
{
	SYS_ERR(mmap(NULL, pages * TEST_PAGE, PROT_READ, MAP_SHARED, fd, first * TEST_PAGE),
		EINVAL);
}

static void bare_mmap_again(void)
{
	unsigned char *p, *again;
	int dev, fd, other;

	dev = (int)CALL(dev_open());
	p = map_shared(dev, 16 * TEST_PAGE);
	p[3 * TEST_PAGE] = 3;
	p[0] = 1;

	again = map_shared(dev, 16 * TEST_PAGE);
	CHECK_EQ(again[3 * TEST_PAGE], 3);
	again = map_shared(dev, TEST_PAGE);
	CHECK_EQ(again[0], 1);
	again = mmap(NULL, TEST_PAGE, PROT_READ, MAP_SHARED, dev, 3 * TEST_PAGE);
	CHECK(again != MAP_FAILED, "mmap at an offset: %s", strerror(errno));
	CHECK_EQ(again[0], 3);

	/* More than the region, across its end, behind it, and far behind. */
	refuse_range(dev, 17, 0);
	refuse_range(dev, 2, 15);
	refuse_range(dev, 1, 16);
	refuse_range(dev, 1, (off_t)(INT64_MAX / TEST_PAGE));
	fd = (int)CALL(region_get(dev));
	refuse_range(fd, 17, 0);
	refuse_range(fd, 2, 15);
	refuse_range(fd, 1, 16);

	/* Another open of the device is another region. */
	other = (int)CALL(dev_open());
	again = map_shared(other, 16 * TEST_PAGE);
	CHECK_EQ(again[0], 0);
}

static void bad_length(void)
{
	struct migr_info info;
	int dev = (int)CALL(dev_open());
	int fd;

	CALL(dev_info(dev, &info));
	CALL_ERR(region_create(dev, 0, ""), EINVAL);
	CALL_ERR(region_create(dev, 1, ""), EINVAL);
	CALL_ERR(region_create(dev, TEST_PAGE - 1, ""), EINVAL);
	CALL_ERR(region_create(dev, TEST_PAGE + 1, ""), EINVAL);
	CALL_ERR(region_create(dev, info.region_max + TEST_PAGE, ""), EFBIG);
	CALL_ERR(region_create(dev, 1ULL << 63, ""), EFBIG);
	CALL_ERR(region_create(dev, ~0ULL << 12, ""), EFBIG);

	/* The largest may be refused by the overcommit policy, and only so. */
	fd = region_create(dev, info.region_max, "");
	CHECK(fd >= 0 || fd == -ENOMEM, "region_max: %s", strerror(-fd));

	SYS_ERR(mmap(NULL, info.region_max + TEST_PAGE, PROT_READ, MAP_SHARED, dev, 0), EFBIG);
	SYS_ERR(mmap(NULL, 1UL << 46, PROT_READ | PROT_WRITE, MAP_SHARED, dev, 0), EFBIG);
	/* The first mmap takes no offset. */
	refuse_range(dev, 1, 1);
	CALL_ERR(region_get(dev), ENOENT);
}

static int create_named(int dev, const void *name)
{
	struct migr_region_create arg = { .size = sizeof(arg), .length = TEST_PAGE };
	int ret;

	memcpy(arg.name, name, MIGR_NAME_MAX);
	ret = test_ioctl(dev, MIGR_REGION_CREATE, &arg);
	return ret ? ret : arg.fd;
}

static void names(void)
{
	int dev = (int)CALL(dev_open());
	struct migr_region_info info;
	char name[MIGR_NAME_MAX];
	int c, fd;

	memset(name, 'x', sizeof(name));
	CALL_ERR(create_named(dev, name), EINVAL);

	name[MIGR_NAME_MAX - 1] = '\0';
	fd = (int)CALL(create_named(dev, name));
	CALL(region_info(fd, &info));
	CHECK(!memcmp(info.name, name, sizeof(name)), "the longest name came back as '%s'",
	      info.name);

	for (c = 1; c < 256; c++) {
		bool printable = c >= 0x20 && c < 0x7f;

		memset(name, 0, sizeof(name));
		name[0] = 'a';
		name[1] = (char)c;
		fd = create_named(dev, name);
		if (printable) {
			CHECK(fd >= 0, "character 0x%02x refused: %s", c, strerror(-fd));
			close(fd);
		} else {
			CHECK(fd == -EINVAL, "character 0x%02x gives %d", c, fd);
		}
	}

	/* What stands behind the NUL is no part of the name. */
	memset(name, 0xff, sizeof(name));
	memcpy(name, "short", 6);
	fd = create_named(dev, name);
	if (fd < 0) {
		CHECK_EQ(fd, -EINVAL);
	} else {
		CALL(region_info(fd, &info));
		CHECK(!strcmp((char *)info.name, "short"), "name is '%s'", info.name);
		CHECK(is_zero(info.name + 5, sizeof(info.name) - 5), "junk behind the name");
	}
}

static void refuse_private(int fd)
{
	static const int prots[] = {
		PROT_READ | PROT_WRITE, PROT_READ, PROT_WRITE, PROT_NONE,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		errno = 0;
		CHECK(mmap(NULL, TEST_PAGE, prots[i], MAP_PRIVATE, fd, 0) == MAP_FAILED,
		      "mapped privately with protection %d", prots[i]);
		CHECK_EQ(errno, EINVAL);
	}
}

static void private_refused(void)
{
	struct mem m = mem_new(4);
	char path[128];
	int fd;

	refuse_private(m.dev);
	CALL_ERR(region_get(m.dev), ENOENT);
	refuse_private(m.fd);
	refuse_private((int)CALL(reopen(m.fd, O_RDWR)));
	refuse_private((int)CALL(reopen(m.fd, O_RDONLY)));

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
		 (unsigned long)m.p, (unsigned long)(m.p + m.len));
	fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0, "%s: %s", path, strerror(errno));
	refuse_private(fd);
}

static void reopened(void)
{
	struct migr_region_info info, again;
	struct migr_tracker_fetch f;
	struct mem m = mem_new(64);
	unsigned char *p;
	__u64 map;
	int fd, t;

	CALL(region_info(m.fd, &info));
	fd = (int)CALL(reopen(m.fd, O_RDWR));
	CALL(region_info(fd, &again));
	CHECK_EQ(again.id, info.id);
	CHECK_EQ(again.length, info.length);
	p = map_shared(fd, m.len);
	m.p[9] = 1;
	CHECK_EQ(p[9], 1);

	/* Tracking through one descriptor sees the mappings of the other. */
	t = (int)CALL(region_track(fd));
	tracker_settle(t, m.pages);
	m.p[2 * TEST_PAGE] = 1;
	p[3 * TEST_PAGE] = 1;
	CALL(tracker_fetch(t, 0, m.pages, &map, &f));
	CHECK((map & 0xc) == 0xc, "bitmap is %llx", (unsigned long long)map);
	CALL(region_info(m.fd, &again));
	CHECK_EQ(again.state, MIGR_REGION_TRACKED);
}

static void reopened_read_only(void)
{
	struct migr_region_info info;
	struct mem m = mem_new(4);
	unsigned char *p;
	int fd;

	fd = (int)CALL(reopen(m.fd, O_RDONLY));
	CALL(region_info(fd, &info));
	CHECK_EQ(info.length, m.len);
	errno = 0;
	CHECK(mmap(NULL, m.len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED,
	      "mapped for writing through a read-only descriptor");
	CHECK_EQ(errno, EACCES);
	p = mmap(NULL, m.len, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	m.p[TEST_PAGE] = 7;
	CHECK_EQ(p[TEST_PAGE], 7);
	SYS_ERR(mprotect(p, m.len, PROT_READ | PROT_WRITE), EACCES);
}

static void punch(void)
{
	struct mem m = mem_new(16);
	__u64 seed = test_seed;

	fill_random(m.p, m.len, &seed);
	CHECK_EQ(resident(m.fd), m.len);
	SYS(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * TEST_PAGE,
		      3 * TEST_PAGE));
	CHECK_EQ(resident(m.fd), m.len - 3 * TEST_PAGE);
	CHECK(is_zero(mem_page(&m, 4), 3 * TEST_PAGE), "punched pages are not zero");
	CHECK(!is_zero(mem_page(&m, 3), TEST_PAGE), "page before the hole is gone");
	CHECK(!is_zero(mem_page(&m, 7), TEST_PAGE), "page behind the hole is gone");

	/* Allocating keeps the size. */
	SYS(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)m.len));
	CHECK_EQ(resident(m.fd), 0);
	SYS(fallocate(m.fd, 0, 0, 2 * TEST_PAGE));
	CHECK_EQ(resident(m.fd), 2 * TEST_PAGE);
	SYS_ERR(fallocate(m.fd, 0, 0, (off_t)m.len + 1), EPERM);
	SYS_ERR(fallocate(m.fd, 0, (off_t)m.len, TEST_PAGE), EPERM);
	SYS_ERR(fallocate(m.fd, FALLOC_FL_KEEP_SIZE, (off_t)m.len, TEST_PAGE), EPERM);
	SYS(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)m.len, TEST_PAGE));
	CHECK_EQ(resident(m.fd), 2 * TEST_PAGE);
	SYS_ERR(fallocate(m.dev, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, TEST_PAGE), ENODEV);
}

static void size_is_fixed(void)
{
	struct migr_region_info info;
	struct mem m = mem_new(4);
	struct stat st;
	int fd;

	memset(m.p, 1, m.len);
	fd = (int)CALL(reopen(m.fd, O_RDWR));
	SYS_ERR(ftruncate(m.fd, 0), EPERM);
	SYS_ERR(ftruncate(m.fd, (off_t)m.len - 1), EPERM);
	SYS_ERR(ftruncate(m.fd, (off_t)m.len + 1), EPERM);
	SYS_ERR(ftruncate(fd, TEST_PAGE), EPERM);
	CALL_ERR(reopen(m.fd, O_RDWR | O_TRUNC), EPERM);
	SYS_ERR(ftruncate(m.dev, (off_t)m.len), EINVAL);
	SYS(ftruncate(m.fd, (off_t)m.len));
	SYS(fstat(m.fd, &st));
	CHECK_EQ(st.st_size, m.len);
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.length, m.len);
	CHECK_EQ(info.resident, m.len);
}

static void refuse_writes(int fd)
{
	char byte = 1;
	struct iovec iov = { &byte, 1 };
	loff_t off = 0;
	int pipefd[2];

	SYS_ERR(write(fd, &byte, 1), EINVAL);
	SYS_ERR(pwrite(fd, &byte, 1, 0), EINVAL);
	SYS_ERR(pwritev(fd, &iov, 1, 0), EINVAL);
	SYS(pipe(pipefd));
	SYS(write(pipefd[1], &byte, 1));
	SYS_ERR(splice(pipefd[0], NULL, fd, &off, 1, 0), EINVAL);
	close(pipefd[0]);
	close(pipefd[1]);
}

static void write_refused(void)
{
	struct mem m = mem_new(2), other = mem_new(2);
	loff_t zero = 0;

	refuse_writes(m.fd);
	refuse_writes((int)CALL(reopen(m.fd, O_RDWR)));
	refuse_writes(m.dev);
	other.p[0] = 9;
	SYS_ERR(sendfile(m.fd, other.fd, &zero, 16), EINVAL);
	SYS_ERR(copy_file_range(other.fd, NULL, m.fd, NULL, 16, 0), EINVAL);
	CHECK_EQ(resident(m.fd), 0);
	CHECK(is_zero(m.p, m.len), "something was written");
}

static void reading(void)
{
	struct mem m = mem_new(8);
	__u64 seed = test_seed;
	unsigned char *buf = private_alloc(m.len);

	fill_random(mem_page(&m, 2), 3 * TEST_PAGE, &seed);
	CHECK_EQ(SYS(pread(m.fd, buf, m.len, 0)), m.len);
	CHECK_EQ(resident(m.fd), 3 * TEST_PAGE);
	CHECK(first_difference(buf, m.p, m.len) < 0, "pread() reads something else");
	CHECK_EQ(pread(m.fd, buf, m.len, (off_t)m.len), 0);
	SYS_ERR(read(m.dev, buf, m.len), EINVAL);
}

static void seeking(void)
{
	struct mem m = mem_new(64);

	SYS_ERR(lseek(m.fd, 0, SEEK_DATA), ENXIO);
	CHECK_EQ(lseek(m.fd, 0, SEEK_HOLE), 0);
	m.p[10 * TEST_PAGE] = 1;
	m.p[11 * TEST_PAGE] = 1;
	CHECK_EQ(lseek(m.fd, 0, SEEK_DATA), 10 * TEST_PAGE);
	CHECK_EQ(lseek(m.fd, 10 * TEST_PAGE, SEEK_HOLE), 12 * TEST_PAGE);
	SYS_ERR(lseek(m.fd, 12 * TEST_PAGE, SEEK_DATA), ENXIO);
	CHECK_EQ(lseek(m.fd, 0, SEEK_END), m.len);
	/* What VMMs do to learn a device's size must not fail. */
	SYS(lseek(m.dev, 0, SEEK_END));
}

static void mapping_outlives_descriptors(void)
{
	int start = module_refcnt();
	struct mem m = mem_new(64);
	unsigned char *bare;
	int dev = (int)CALL(dev_open());
	char path[128];
	int fd;

	bare = map_shared(dev, 4 * TEST_PAGE);
	memset(m.p, 0x11, m.len);
	memset(bare, 0x22, 4 * TEST_PAGE);
	SYS(close(m.fd));
	SYS(close(m.dev));
	SYS(close(dev));
	CHECK(module_refcnt() > start, "no reference for a mapped region");
	m.p[5] = 0x33;
	CHECK_EQ(m.p[6], 0x11);
	CHECK_EQ(bare[4 * TEST_PAGE - 1], 0x22);
	SYS(munmap(bare, 4 * TEST_PAGE));

	/* A mapping alone is enough to come by the region again. */
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
		 (unsigned long)m.p, (unsigned long)(m.p + m.len));
	fd = (int)SYS(open(path, O_RDWR | O_CLOEXEC));
	CHECK_EQ(resident(fd), m.len);
	SYS(munmap(m.p, m.len));
	CHECK_EQ(resident(fd), m.len);
	SYS(close(fd));
	WAIT_FOR(module_refcnt() == start, RUN_S);
}

static int remove_module(void)
{
	return syscall(SYS_delete_module, "migr", O_NONBLOCK) ? -errno : 0;
}

static void refuse_removal(const char *why)
{
	int ret = remove_module();

	CHECK(ret == -EWOULDBLOCK || ret == -EBUSY, "rmmod %s: %s", why,
	      ret ? strerror(-ret) : "done");
}

static void path_handle(void)
{
	int start = module_refcnt();
	struct mem m = mem_new(4);
	int handle, fd;

	m.p[0] = 0x77;
	handle = (int)CALL(reopen(m.fd, O_PATH));
	SYS(close(m.fd));
	SYS(close(m.dev));
	SYS(munmap(m.p, m.len));
	CHECK(module_refcnt() > start, "no reference for a region that a path still reaches");
	refuse_removal("with a handle");

	/* And the handle still opens it. */
	fd = (int)CALL(reopen(handle, O_RDWR));
	m.p = map_shared(fd, m.len);
	CHECK_EQ(m.p[0], 0x77);
	SYS(munmap(m.p, m.len));
	SYS(close(fd));
	CHECK(module_refcnt() > start, "no reference for the handle");
	SYS(close(handle));
	WAIT_FOR(module_refcnt() == start, RUN_S);
}

static void removal_refused(void)
{
	struct mem m = mem_new(4);
	int t;

	refuse_removal("with everything open");
	SYS(close(m.dev));
	refuse_removal("with a region open and mapped");
	t = (int)CALL(region_track(m.fd));
	SYS(close(m.fd));
	refuse_removal("with a region mapped and tracked");
	SYS(close(t));
	refuse_removal("with a region mapped");
	m.p[0] = 1;
	CHECK_EQ(m.p[0], 1);
}

static void fork_writes(void)
{
	struct mem m = mem_new(16);
	pid_t pid;

	m.p[0] = 1;
	pid = child_start();
	if (!pid) {
		CHECK_EQ(m.p[0], 1);
		m.p[1] = 2;
		m.p[15 * TEST_PAGE] = 3;
		_exit(0);
	}
	child_join(pid);
	CHECK_EQ(m.p[1], 2);
	CHECK_EQ(m.p[15 * TEST_PAGE], 3);
}

static void remapping(void)
{
	struct mem m = mem_new(16);
	unsigned char *p, *whole;

	m.p[0] = 1;
	m.p[15 * TEST_PAGE] = 15;
	whole = map_shared(m.fd, m.len);
	p = mremap(m.p, m.len, 8 * TEST_PAGE, 0);
	CHECK(p == m.p, "mremap to half the size: %s", strerror(errno));
	/* Back to the full size, wherever there is room. */
	p = mremap(p, 8 * TEST_PAGE, m.len, MREMAP_MAYMOVE);
	CHECK(p != MAP_FAILED, "mremap to the full size: %s", strerror(errno));
	CHECK_EQ(p[15 * TEST_PAGE], 15);
	p[4 * TEST_PAGE] = 4;
	CHECK_EQ(whole[4 * TEST_PAGE], 4);
	/* A second mapping of the same, as mremap() makes of an old size of 0. */
	p = mremap(p, 0, m.len, MREMAP_MAYMOVE);
	CHECK(p != MAP_FAILED, "mremap that duplicates: %s", strerror(errno));
	CHECK_EQ(p[4 * TEST_PAGE], 4);
}

static void partial_unmap(void)
{
	struct mem m = mem_new(16);
	unsigned char *p;

	memset(m.p, 0x42, m.len);
	SYS(munmap(mem_page(&m, 4), 4 * TEST_PAGE));
	m.p[3 * TEST_PAGE] = 3;
	m.p[8 * TEST_PAGE] = 8;
	p = map_shared(m.fd, m.len);
	CHECK_EQ(p[3 * TEST_PAGE], 3);
	CHECK_EQ(p[5 * TEST_PAGE], 0x42);
	CHECK_EQ(p[8 * TEST_PAGE], 8);
	SYS(close(m.fd));
	SYS(munmap(p, m.len));
	CHECK_EQ(m.p[15 * TEST_PAGE], 0x42);
}

static void advice(void)
{
	struct mem m = mem_new(16);
	unsigned char *copy = private_alloc(m.len);
	__u64 seed = test_seed;

	fill_random(m.p, m.len, &seed);
	memcpy(copy, m.p, m.len);
	SYS(madvise(m.p, m.len, MADV_DONTNEED));
	CHECK(first_difference(copy, m.p, m.len) < 0, "MADV_DONTNEED lost data");
	CHECK_EQ(resident(m.fd), m.len);
	SYS(madvise(mem_page(&m, 2), 2 * TEST_PAGE, MADV_REMOVE));
	CHECK(is_zero(mem_page(&m, 2), 2 * TEST_PAGE), "MADV_REMOVE left data");
	memset(copy + 2 * TEST_PAGE, 0, 2 * TEST_PAGE);
	CHECK(first_difference(copy, m.p, m.len) < 0, "MADV_REMOVE removed too much");
}

static void locked_memory(void)
{
	struct mem m = mem_new(16);
	unsigned char *p;

	SYS(mlock(m.p, m.len));
	CHECK_EQ(resident(m.fd), m.len);
	m.p[0] = 1;
	SYS(munlock(m.p, m.len));
	p = mmap(NULL, m.len, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_POPULATE | MAP_LOCKED, m.fd, 0);
	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	CHECK_EQ(p[0], 1);
}

/* Unloads the module and loads it again, so it comes last. */
static void removal(void)
{
	const char *path = getenv("MIGR_KO");
	int ko, dev;

	if (!path)
		test_skip("MIGR_KO does not name the module's file");
	ko = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(ko >= 0, "%s: %s", path, strerror(errno));
	{
		struct mem m = mem_new(64);
		int t = (int)CALL(region_track(m.fd));

		memset(m.p, 1, m.len);
		tracker_settle(t, m.pages);
		refuse_removal("in use");
		SYS(munmap(m.p, m.len));
		SYS(close(t));
		SYS(close(m.fd));
		SYS(close(m.dev));
	}
	WAIT_FOR(module_refcnt() == 0, RUN_S);
	CALL(remove_module());
	CHECK(access(TEST_DEVICE, F_OK) == -1, "%s is still there", TEST_DEVICE);
	CHECK(!syscall(SYS_finit_module, ko, "", 0), "loading %s again: %s", path,
	      strerror(errno));
	WAIT_FOR(access(TEST_DEVICE, R_OK | W_OK) == 0, RUN_S);
	dev = (int)CALL(dev_open());
	CALL(region_create(dev, TEST_PAGE, "again"));
}

static const struct test_case cases[] = {
	CASE(create),
	CASE(bare_mmap),
	CASE(bare_mmap_again),
	CASE(bad_length),
	CASE(names),
	CASE(private_refused),
	CASE(reopened),
	CASE(reopened_read_only),
	CASE(punch),
	CASE(size_is_fixed),
	CASE(write_refused),
	CASE(reading),
	CASE(seeking),
	CASE(mapping_outlives_descriptors),
	CASE(path_handle),
	CASE(removal_refused),
	CASE(fork_writes),
	CASE(remapping),
	CASE(partial_unmap),
	CASE(advice),
	CASE(locked_memory),
	CASE(removal),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
