// SPDX-License-Identifier: GPL-2.0-only
/*
 * No lost write while a VMM changes its mappings and its memory: what track.c
 * does one step at a time happens here while six writers write and the region
 * is fetched.
 */
#include "workload.h"

static void disturbed(void (*once)(struct disturber *d))
{
	struct mem m = mem_new(DISTURBED_PAGES);

	workload_disturbed(&m, once, 40);
}

static void punch_once(struct disturber *d)
{
	SYS(fallocate(d->mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(rnd(&d->seed) % (d->mem->len - 8 * TEST_PAGE)), 8 * TEST_PAGE));
}

static void punches(void)
{
	disturbed(punch_once);
}

static void remove_once(struct disturber *d)
{
	__u64 page = rnd(&d->seed) % (d->mem->pages - 8);

	SYS(madvise(mem_page(d->mem, page), 8 * TEST_PAGE, MADV_REMOVE));
}

static void removals(void)
{
	disturbed(remove_once);
}

static void drop_once(struct disturber *d)
{
	SYS(madvise(d->mem->p, d->mem->len, MADV_DONTNEED));
	disturber_scribble(d, d->mem->p);
}

static void dropped_entries(void)
{
	disturbed(drop_once);
}

static void fork_once(struct disturber *d)
{
	pid_t pid = child_start();

	if (!pid) {
		disturber_scribble(d, d->mem->p);
		_exit(0);
	}
	disturber_scribble(d, d->mem->p);
	child_join(pid);
	rnd(&d->seed);
}

static void forks(void)
{
	disturbed(fork_once);
}

/* A mapping is made, moved, taken apart, duplicated. */
static void remap_once(struct disturber *d)
{
	unsigned char *p = map_shared(d->mem->fd, d->mem->len), *to, *part;
	__u64 half = d->mem->len / 2;

	disturber_scribble(d, p);
	to = private_alloc(d->mem->len);
	CHECK(mremap(p, d->mem->len, d->mem->len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to,
	      "mremap: %s", strerror(errno));
	disturber_scribble(d, to);
	SYS(munmap(to + half - TEST_PAGE, TEST_PAGE));
	*(to + half - 2 * TEST_PAGE) = (unsigned char)rnd(&d->seed);
	*(to + half) = (unsigned char)rnd(&d->seed);
	part = mremap(to, 0, half / 2, MREMAP_MAYMOVE);
	CHECK(part != MAP_FAILED, "mremap: %s", strerror(errno));
	*(part + rnd(&d->seed) % (half / 2)) = (unsigned char)rnd(&d->seed);
	SYS(munmap(part, half / 2));
	SYS(munmap(to, d->mem->len));
}

static void remaps(void)
{
	disturbed(remap_once);
}

static void protect_once(struct disturber *d)
{
	__u64 page = rnd(&d->seed) % (d->mem->pages - 64);

	SYS(mprotect(mem_page(d->mem, page), 64 * TEST_PAGE, PROT_READ));
	SYS(mprotect(mem_page(d->mem, page), 64 * TEST_PAGE, PROT_READ | PROT_WRITE));
	disturber_scribble(d, d->mem->p);
}

static void protections(void)
{
	disturbed(protect_once);
}

static void lock_once(struct disturber *d)
{
	SYS(mlock(d->mem->p, d->mem->len));
	disturber_scribble(d, d->mem->p);
	SYS(munlock(d->mem->p, d->mem->len));
	disturber_scribble(d, d->mem->p);
}

static void locks(void)
{
	disturbed(lock_once);
}

static const struct test_case cases[] = {
	CASE(punches),
	CASE(removals),
	CASE(dropped_entries),
	CASE(forks),
	CASE(remaps),
	CASE(protections),
	CASE(locks),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
