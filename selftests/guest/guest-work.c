// SPDX-License-Identifier: GPL-2.0-only
/*
 * The worker of the test guest: fills memory with data that cannot be
 * compressed, keeps rewriting pages of it at random, and keeps checking that
 * every page holds what was last written to it. Says so on the console once
 * a second. Its parameters are on the kernel's command line:
 *
 *   migr.fill=SIZE   bytes to fill, with K, M or G (default 64M)
 *   migr.rate=N      pages to rewrite in a second (default 1000; 0: at full speed)
 *   migr.check=N     pages to check in a second (default 20000; 0: at full speed)
 *   migr.disk=DEVICE fill it as well, and read it into memory that is checked
 *   migr.idle        neither: only say once a second that time goes by
 *
 * After a mark that all have, a page's content follows from its number and its
 * generation, which grows with every rewriting. The generation stands in the page
 * and, apart from it, in a table: a page that went back in time, is torn, or is
 * somebody else's is an error. One thread does it all, so nothing else can be the
 * cause.
 *
 * A disk has such pages too. They are read directly into slots, which nothing
 * else writes, and every slot is checked as often as the other pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES	4096UL
#define NSEC_PER_SEC	UINT64_C(1000000000)
#define SLOTS		2048UL
/* Pages that one read of the disk is for. */
#define READ_PAGES	16UL
/* Of what is on the disk: no page that is rewritten gets so far. */
#define DISK_GENERATION	UINT32_MAX
/* Errors reported one by one; after that they are only counted. */
#define ERRORS_SHOWN	20

/* By this whoever looks at what travels knows that it is ours. */
#define MARK		"guest-work page"
#define DATA_WORDS	((PAGE_BYTES - sizeof(MARK)) / sizeof(uint64_t) - 2)

struct page {
	char mark[sizeof(MARK)];
	uint64_t number;
	uint64_t generation;
	uint64_t data[DATA_WORDS];
};

struct options {
	uint64_t fill;
	uint64_t rate;
	uint64_t check;
	const char *disk;
	bool idle;
};

static struct page *pages;
static uint32_t *generations;
static uint64_t nr_pages;
static struct page *slots;
static uint64_t *slot_pages;	/* which page of the disk each has */
static uint64_t nr_slots, nr_disk_pages;
static int disk;
static uint64_t writes, reads, checks, sweeps, errors;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void die(const char *what)
{
	printf("guest: failed: %s: %s\n", what, strerror(errno));
	/* The kernel panics when its first process ends: stay, and be silent. */
	for (;;)
		pause();
}

/* splitmix64: every state, so every page and generation, starts elsewhere. */
static inline uint64_t mix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static uint64_t page_seed(uint64_t number, uint32_t generation)
{
	uint64_t state = number << 32 | generation;

	return mix(&state);
}

static void fill_page(struct page *page, uint64_t number, uint32_t generation)
{
	uint64_t seed = page_seed(number, generation);
	size_t i;

	memcpy(page->mark, MARK, sizeof(MARK));
	page->number = number;
	page->generation = generation;
	for (i = 0; i < DATA_WORDS; i++)
		page->data[i] = mix(&seed);
}

static bool page_is(const struct page *page, uint64_t number, uint32_t generation)
{
	uint64_t seed = page_seed(number, generation);
	uint64_t wrong = 0;
	size_t i;

	for (i = 0; i < DATA_WORDS; i++)
		wrong += page->data[i] != mix(&seed);
	if (!memcmp(page->mark, MARK, sizeof(MARK)) && page->number == number &&
	    page->generation == generation && !wrong)
		return true;
	if (errors++ < ERRORS_SHOWN)
		printf("guest: error: page %" PRIu64 " generation %" PRIu32
		       ": found page %" PRIu64 " generation %" PRIu64
		       ", %" PRIu64 " words wrong\n", number, generation,
		       page->number, page->generation, wrong);
	return false;
}

static void write_page(uint64_t number)
{
	fill_page(&pages[number], number, ++generations[number]);
}

static void check_page(uint64_t number)
{
	/* One fault is to be one error, not one each sweep. */
	if (!page_is(&pages[number], number, generations[number]))
		write_page(number);
}

/* Into the slots from this one on. */
static void read_disk(uint64_t slot, uint64_t number)
{
	uint64_t i;

	if (pread(disk, &slots[slot], READ_PAGES * PAGE_BYTES, number * PAGE_BYTES) !=
	    (ssize_t)(READ_PAGES * PAGE_BYTES))
		die("pread");
	for (i = 0; i < READ_PAGES; i++)
		slot_pages[slot + i] = number + i;
	reads++;
}

static void check_slot(uint64_t slot)
{
	uint64_t first = slot / READ_PAGES * READ_PAGES;

	if (!page_is(&slots[slot], slot_pages[slot], DISK_GENERATION))
		read_disk(first, slot_pages[first]);
}

static uint64_t size_value(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	switch (*end) {
	case 'G':
		value <<= 10;
		/* fall through */
	case 'M':
		value <<= 10;
		/* fall through */
	case 'K':
		value <<= 10;
		end++;
	}
	if (*end || end == text) {
		errno = EINVAL;
		die(text);
	}
	return value;
}

static void read_options(struct options *options)
{
	static char line[4096];
	char *word, *rest = line;
	ssize_t length;
	int fd;

	fd = open("/proc/cmdline", O_RDONLY);
	length = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (length < 0)
		die("/proc/cmdline");
	close(fd);

	while ((word = strsep(&rest, "\n "))) {
		if (!strncmp(word, "migr.fill=", 10))
			options->fill = size_value(word + 10);
		else if (!strncmp(word, "migr.rate=", 10))
			options->rate = size_value(word + 10);
		else if (!strncmp(word, "migr.check=", 11))
			options->check = size_value(word + 11);
		else if (!strncmp(word, "migr.disk=", 10))
			options->disk = word + 10;
		else if (!strcmp(word, "migr.idle"))
			options->idle = true;
	}
}

static void *allocate(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	/* Only quicker: the guest's own page faults are what filling costs. */
	madvise(memory, size, MADV_HUGEPAGE);
	return memory;
}

static void fill(uint64_t bytes)
{
	uint64_t begin = now();
	uint64_t i;

	nr_pages = bytes / PAGE_BYTES;
	if (!nr_pages) {
		errno = EINVAL;
		die("migr.fill");
	}
	pages = allocate(nr_pages * PAGE_BYTES);
	generations = allocate(nr_pages * sizeof(*generations));
	for (i = 0; i < nr_pages; i++)
		write_page(i);
	printf("guest: filled pages=%" PRIu64 " ms=%" PRIu64 "\n", nr_pages,
	       (now() - begin) / 1000000);
}

static void fill_disk(const char *path)
{
	uint64_t begin = now();
	off_t size;
	uint64_t i, n;

	disk = open(path, O_RDWR | O_DIRECT);
	size = disk < 0 ? -1 : lseek(disk, 0, SEEK_END);
	if (size < (off_t)(READ_PAGES * PAGE_BYTES))
		die(path);
	nr_disk_pages = size / PAGE_BYTES;
	slots = allocate(SLOTS * PAGE_BYTES);
	slot_pages = allocate(SLOTS * sizeof(*slot_pages));
	for (i = 0; i + READ_PAGES <= nr_disk_pages; i += READ_PAGES) {
		for (n = 0; n < READ_PAGES; n++)
			fill_page(&slots[n], i + n, DISK_GENERATION);
		if (pwrite(disk, slots, READ_PAGES * PAGE_BYTES, i * PAGE_BYTES) !=
		    (ssize_t)(READ_PAGES * PAGE_BYTES))
			die("pwrite");
	}
	for (nr_slots = 0; nr_slots < SLOTS; nr_slots += READ_PAGES)
		read_disk(nr_slots, nr_slots % (nr_disk_pages - READ_PAGES));
	printf("guest: disk pages=%" PRIu64 " ms=%" PRIu64 "\n", nr_disk_pages,
	       (now() - begin) / 1000000);
}

static void heartbeat(void)
{
	printf("guest: up=%" PRIu64 " writes=%" PRIu64 " reads=%" PRIu64 " checks=%" PRIu64
	       " sweeps=%" PRIu64 " errors=%" PRIu64 "\n",
	       now() / NSEC_PER_SEC, writes, reads, checks, sweeps, errors);
}

/*
 * How many of a kind of work are due, at most a batch: what a pause has made
 * late is not made up for, or the guest would burst on arrival.
 */
static uint64_t due(uint64_t rate, uint64_t elapsed, uint64_t *credit)
{
	const uint64_t batch = 64;
	uint64_t count;

	if (!rate)
		return batch;
	*credit += rate * (elapsed < NSEC_PER_SEC / 10 ? elapsed : NSEC_PER_SEC / 10);
	count = *credit / NSEC_PER_SEC;
	*credit -= count * NSEC_PER_SEC;
	return count;
}

static void work(const struct options *options)
{
	uint64_t write_credit = 0, check_credit = 0, cursor = 0, random = 1;
	uint64_t last = now(), beat = last + NSEC_PER_SEC;
	const struct timespec tick = { .tv_nsec = 1000000 };

	for (;;) {
		uint64_t time = now();
		uint64_t to_write = due(options->rate, time - last, &write_credit);
		uint64_t to_check = due(options->check, time - last, &check_credit);

		last = time;
		/* A disk is read all the time, and waited for. */
		if (nr_slots)
			read_disk(mix(&random) % (nr_slots / READ_PAGES) * READ_PAGES,
				  mix(&random) % (nr_disk_pages - READ_PAGES));
		else if (!to_write && !to_check)
			nanosleep(&tick, NULL);
		for (; to_write; to_write--, writes++)
			write_page(mix(&random) % nr_pages);
		for (; to_check; to_check--, checks++) {
			if (cursor < nr_pages)
				check_page(cursor);
			else
				check_slot(cursor - nr_pages);
			if (++cursor == nr_pages + nr_slots) {
				cursor = 0;
				sweeps++;
			}
		}
		if (time >= beat) {
			heartbeat();
			/* Not one line for each second of a pause. */
			beat = time + NSEC_PER_SEC;
		}
	}
}

int main(void)
{
	struct options options = {
		.fill = 64UL << 20,
		.rate = 1000,
		.check = 20000,
	};

	setlinebuf(stdout);
	read_options(&options);
	printf("guest: started\n");
	if (!options.idle) {
		if (options.disk)
			fill_disk(options.disk);
		fill(options.fill);
		work(&options);
	}
	for (;;) {
		sleep(1);
		heartbeat();
	}
}
