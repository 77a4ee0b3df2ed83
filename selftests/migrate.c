// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration inside one kernel: that what arrives equals what was sent, that
 * the statistics add up, and that whatever happens to either side, or is sent
 * by a peer that means harm, ends in an error and leaves the source as it was.
 */
#include "migration.h"

#include <endian.h>
#include <sys/swap.h>

#include "../kmod/wire.h"

#define MASK_WORDS (MIGR_WIRE_CHUNK_PAGES / 64)

static void expect_untracked(const struct mem *m)
{
	struct migr_region_info info;

	CALL(region_info(m->fd, &info));
	CHECK_EQ(info.state, 0);
}

/* A second attempt after a failure has to succeed. */
static void expect_migrates(const struct mem *m)
{
	struct mem copy = mem_new(m->pages);
	struct link l;

	expect_untracked(m);
	link_open(&l, unix_pair, 0, m, &copy, 1);
	link_run(&l);
	expect_equal(m, &copy);
	link_close(&l);
	mem_free(&copy);
}

/* ------------------------------------------------------------------ content */

/* A third each of data, of zeroes and of holes, in a random order. */
static void fill_mixed(struct mem *m, __u64 seed, __u64 count[3])
{
	__u64 page;

	for (page = 0; page < m->pages; page++) {
		unsigned int kind = rnd(&seed) % 3;

		/* One of the data pages has nothing but its last byte. */
		if (kind == 0 && !count[0])
			mem_page(m, page)[TEST_PAGE - 1] = 1;
		else if (kind == 0)
			fill_random(mem_page(m, page), TEST_PAGE, &seed);
		else if (kind == 1)
			memset(mem_page(m, page), 0, TEST_PAGE);
		count[kind]++;
	}
}

static void mixed(pair_fn pair, __u32 flags)
{
	struct mem from = mem_new(3000), fresh = mem_new(3000), junk = mem_new(3000);
	__u64 count[3] = { 0 }, seed = test_seed + 1;
	struct link l;

	fill_mixed(&from, test_seed, count);
	link_open(&l, pair, flags, &from, &fresh, 1);
	link_run(&l);
	expect_equal(&from, &fresh);
	link_close(&l);

	/* What was there before gives way, to zeroes as well. */
	fill_random(junk.p, junk.len, &seed);
	link_open(&l, pair, flags, &from, &junk, 1);
	link_run(&l);
	expect_equal(&from, &junk);
	link_close(&l);
	expect_untracked(&from);
}

static void unix_lent(void)
{
	mixed(unix_pair, 0);
}

static void unix_copied(void)
{
	mixed(unix_pair, MIGR_STREAM_COPY);
}

static void tcp_lent(void)
{
	mixed(tcp_pair, 0);
}

static void tcp_copied(void)
{
	mixed(tcp_pair, MIGR_STREAM_COPY);
}

static void tcp6_lent(void)
{
	mixed(tcp6_pair, 0);
}

static void vsock_lent(void)
{
	mixed(vsock_pair, 0);
}

static void vsock_copied(void)
{
	mixed(vsock_pair, MIGR_STREAM_COPY);
}

static void several_regions(void)
{
	static const __u64 pages[] = { 1, 513, 64, 511, 512, 1025, 2 };
	struct mem from[ARRAY_SIZE(pages)], to[ARRAY_SIZE(pages)];
	struct migr_migration_status st;
	__u64 seed = test_seed, total = 0;
	struct link l;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		from[i] = mem_new(pages[i]);
		to[i] = mem_new(pages[i]);
		fill_random(from[i].p, from[i].len, &seed);
		memset(mem_page(&from[i], pages[i] / 2), 0, TEST_PAGE);
		fill_random(to[i].p, to[i].len, &seed);
		total += pages[i];
	}
	link_open(&l, tcp_pair, 0, from, to, ARRAY_SIZE(pages));
	st = link_status(l.source);
	CHECK_EQ(st.total_pages, total);
	CHECK_EQ(st.dirty_pages, total);
	link_run(&l);
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		expect_equal(&from[i], &to[i]);
	CHECK_EQ(link_status(l.destination).total_pages, total);
}

static void sparse(void)
{
	const __u64 data = 4096;
	struct mem from = mem_new(32768), to = mem_new(32768);
	struct migr_migration_status st;
	struct migr_region_info info;
	__u64 seed = test_seed, i;
	struct link l;

	for (i = 0; i < data; i++) {
		__u64 page = i * 8 + rnd(&seed) % 8;

		fill_random(mem_page(&from, page), TEST_PAGE, &seed);
	}
	link_open(&l, unix_pair, 0, &from, &to, 1);
	lru_drain();
	link_run(&l);
	st = link_status(l.source);
	diag("%llu bytes for %llu of data", (unsigned long long)st.wire_bytes,
	     (unsigned long long)(data * TEST_PAGE));
	CHECK(st.wire_bytes <= data * TEST_PAGE * 102 / 100, "%llu bytes for %llu of data",
	      (unsigned long long)st.wire_bytes, (unsigned long long)(data * TEST_PAGE));
	/* Holes became holes, on both sides: looking costs no memory. */
	CALL(region_info(to.fd, &info));
	CHECK_EQ(info.resident, data * TEST_PAGE);
	CALL(region_info(from.fd, &info));
	CHECK_EQ(info.resident, data * TEST_PAGE);
	expect_equal(&from, &to);
}

/* ---------------------------------------------------------------- statistics */

static void statistics(void)
{
	struct mem from = mem_new(3000), to = mem_new(3000);
	__u64 count[3] = { 0 }, sent, bytes, pinned, i;
	struct migr_migration_status s, d;
	struct link l;

	fill_mixed(&from, test_seed, count);
	lru_drain();
	link_open(&l, unix_pair, 0, &from, &to, 1);
	s = link_status(l.source);
	CHECK_EQ(s.state, MIGR_STATE_SETUP);
	CHECK_EQ(s.error, 0);
	CHECK_EQ(s.passes, 0);
	CHECK_EQ(s.total_pages, from.pages);
	CHECK_EQ(s.dirty_pages, from.pages);
	CHECK_EQ(s.data_pages + s.zero_pages + s.hole_pages + s.wire_bytes, 0);
	d = link_status(l.destination);
	CHECK_EQ(d.state, MIGR_STATE_SETUP);
	CHECK_EQ(d.total_pages, to.pages);

	link_receive_start(&l);
	link_pass(&l, 0);
	s = link_status(l.source);
	CHECK_EQ(s.state, MIGR_STATE_BETWEEN);
	CHECK_EQ(s.passes, 1);
	CHECK_EQ(s.data_pages, count[0]);
	CHECK_EQ(s.zero_pages, count[1]);
	CHECK_EQ(s.hole_pages, count[2]);
	CHECK_EQ(s.pass_pages, from.pages);
	CHECK_EQ(s.pass_sent_pages, from.pages);
	CHECK_EQ(s.wire_bytes, s.pass_wire_bytes);
	CHECK(s.wire_bytes > s.data_pages * TEST_PAGE, "fewer bytes than data");
	CHECK_EQ(s.dirty_pages, s.pinned_pages);
	CHECK(s.pass_ns > 0 && s.pass_ns <= s.total_ns, "pass of %llu ns in %llu ns",
	      (unsigned long long)s.pass_ns, (unsigned long long)s.total_ns);
	sent = s.pass_sent_pages;
	bytes = s.pass_wire_bytes;
	pinned = s.pinned_pages;

	/* Those not there yet are seen arriving. */
	WAIT_FOR(link_status(l.destination).wire_bytes == s.wire_bytes, RUN_S);

	for (i = 0; i < 100; i++)
		from.p[i * TEST_PAGE + 3]++;
	s = link_status(l.source);
	CHECK(s.dirty_pages >= 100 && s.dirty_pages <= 100 + pinned, "%llu dirty pages",
	      (unsigned long long)s.dirty_pages);
	CHECK(s.pass_dirtied_pages >= 100 && s.pass_dirtied_pages <= 100 + pinned,
	      "%llu dirtied pages", (unsigned long long)s.pass_dirtied_pages);

	lru_drain();
	link_last(&l);
	s = link_status(l.source);
	d = link_status(l.destination);
	CHECK_EQ(s.state, MIGR_STATE_COMPLETE);
	CHECK_EQ(d.state, MIGR_STATE_COMPLETE);
	CHECK_EQ(s.error, 0);
	CHECK_EQ(s.passes, 2);
	CHECK_EQ(d.passes, 2);
	CHECK(s.pass_sent_pages >= 100 && s.pass_sent_pages <= 100 + pinned, "%llu sent",
	      (unsigned long long)s.pass_sent_pages);
	CHECK_EQ(s.dirty_pages, 0);
	CHECK_EQ(sent + s.pass_sent_pages, s.data_pages + s.zero_pages + s.hole_pages);
	CHECK_EQ(bytes + s.pass_wire_bytes, s.wire_bytes);
	CHECK_EQ(d.data_pages, s.data_pages);
	CHECK_EQ(d.zero_pages, s.zero_pages + s.hole_pages);
	CHECK_EQ(d.hole_pages, 0);
	CHECK_EQ(d.wire_bytes, s.wire_bytes);
	CHECK(s.total_ns >= s.pass_ns, "the last pass took longer than all");
	/* The clock has stopped. */
	CHECK_EQ(link_status(l.source).total_ns, s.total_ns);
	expect_equal(&from, &to);
}

static void many_passes(void)
{
	struct mem from = mem_new(2048), to = mem_new(2048);
	__u64 seed = test_seed;
	struct link l;
	int pass, i;

	fill_random(from.p, from.len, &seed);
	link_open(&l, tcp_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	for (pass = 1; pass < 30; pass++) {
		link_pass(&l, 0);
		for (i = 0; i < 50; i++) {
			unsigned char *p = mem_page(&from, rnd(&seed) % from.pages);

			if (i % 3 == 0)
				SYS(madvise(p, TEST_PAGE, MADV_REMOVE));
			else if (i % 3 == 1)
				memset(p, 0, TEST_PAGE);
			else
				fill_random(p, TEST_PAGE, &seed);
		}
	}
	link_last(&l);
	expect_equal(&from, &to);
}

#define SWAP_DEVICE	"/dev/zram0"
#define SWAP_MIB	64

static void copy_has(const struct mem *m, const struct mem *copy, __u64 from, __u64 to, bool want)
{
	__u64 page;

	for (page = from; page < to; page++)
		CHECK(!memcmp(mem_page(m, page), mem_page(copy, page), TEST_PAGE) == want,
		      "page %llu is %s", (unsigned long long)page,
		      want ? "missing" : "there although nobody reported it");
}

/* The tracking of reported writes sees those, and holes, and nothing else. */
static void reported_writes(void)
{
	struct mem m = mem_new(1024 + 32), copy = mem_new(1024 + 32);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map)), seed = test_seed, i;
	struct migr_migration_status st;
	struct migr_region_merge merge;
	struct migr_region_info info;
	struct link l;

	fill_random(m.p, m.len, &seed);
	link_open_regions(&l, unix_pair, &m, &copy, 1, MIGR_WRITES_REPORTED);
	link_join(&l, (struct migr_migration_add_stream){ 0 });
	link_receive_start(&l);
	/* Before the first pass: all of it is going to be sent. */
	bit_set(map, 3);
	CALL(region_merge(m.fd, 0, 64, map, &merge));
	CHECK_EQ(merge.dirtied_pages, 0);
	link_pass(&l, 0);
	CALL(region_info(m.fd, &info));
	CHECK_EQ(info.state, MIGR_REGION_TRACKED);
	st = link_status(l.source);
	CHECK_EQ(st.dirty_pages, 0);
	CHECK_EQ(st.pinned_pages, 0);
	copy_has(&m, &copy, 0, m.pages, true);

	/* All written, by mappings old and new; some reported, others punched. */
	SYS(madvise(m.p, m.len / 2, MADV_DONTNEED));
	fill_random(m.p, m.len, &seed);
	SYS(madvise(mem_page(&m, 512), 10 * TEST_PAGE, MADV_REMOVE));
	memset(map, 0, bitmap_words(m.pages) * sizeof(*map));
	for (i = 64; i < 192; i++)
		bit_set(map, i);
	CALL(region_merge(m.fd, 0, m.pages, map, &merge));
	CHECK_EQ(merge.dirtied_pages, 128);
	st = link_status(l.source);
	CHECK_EQ(st.dirty_pages, 138);
	CHECK_EQ(st.pass_dirtied_pages, 138);
	link_pass(&l, 0);
	st = link_status(l.source);
	CHECK_EQ(st.pass_sent_pages, 138);
	CHECK_EQ(st.dirty_pages, 0);
	copy_has(&m, &copy, 0, 64, false);
	copy_has(&m, &copy, 64, 192, true);
	copy_has(&m, &copy, 192, 512, false);
	copy_has(&m, &copy, 512, 522, true);
	copy_has(&m, &copy, 522, m.pages, false);

	memset(map, 0xff, bitmap_words(m.pages) * sizeof(*map));
	CALL(region_merge(m.fd, 0, m.pages, map, NULL));
	link_last(&l);
	expect_equal(&m, &copy);
	link_close(&l);
	expect_untracked(&m);
	expect_migrates(&m);
}

static void swap_start(void)
{
	unsigned char *header = private_alloc(TEST_PAGE);
	__u32 *words = (__u32 *)(header + 1024);
	int fd;

	if (run_command("modprobe zram 2>/dev/null") || access(SWAP_DEVICE, F_OK))
		test_skip("no zram module: nothing to swap to");
	if (!file_write("/sys/block/zram0/disksize", "64M"))
		test_skip("zram0 is in use");
	words[0] = 1;
	words[1] = SWAP_MIB * 256 - 1;
	memcpy(header + TEST_PAGE - 10, "SWAPSPACE2", 10);
	fd = (int)SYS(open(SWAP_DEVICE, O_RDWR | O_CLOEXEC));
	SYS(pwrite(fd, header, TEST_PAGE, 0));
	SYS(fsync(fd));
	SYS(close(fd));
	SYS(swapon(SWAP_DEVICE, 0));
}

static __u64 page_out(struct mem *m)
{
	struct migr_region_info info;

	lru_drain();
	SYS(madvise(m->p, m->len, MADV_PAGEOUT));
	CALL(region_info(m->fd, &info));
	return m->pages - info.resident / TEST_PAGE;
}

/* Swapped-out pages are data on the source, and not holes on the destination. */
static void swapped_pages(void)
{
	struct mem from = mem_new(2048), to = mem_new(2048);
	unsigned char *shadow = private_alloc(from.len);
	__u64 seed = test_seed, out, i;
	struct migr_migration_status st;
	struct link l;

	swap_start();
	fill_random(from.p, from.len, &seed);
	fill_random(to.p, to.len, &seed);
	memcpy(shadow, from.p, from.len);
	memset(mem_page(&from, 600), 0, 100 * TEST_PAGE);
	memset(shadow + 600 * TEST_PAGE, 0, 100 * TEST_PAGE);
	out = page_out(&from);
	diag("%llu of the source's and %llu of the destination's pages swapped out",
	     (unsigned long long)out, (unsigned long long)page_out(&to));
	if (!out)
		test_skip("nothing was swapped out");

	link_open(&l, unix_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	st = link_status(l.source);
	CHECK_EQ(st.hole_pages, 0);
	CHECK_EQ(st.data_pages, from.pages - 100);
	/* Written, and swapped out before it could be fetched. */
	for (i = 0; i < from.pages; i += 3) {
		from.p[i * TEST_PAGE + 8]++;
		shadow[i * TEST_PAGE + 8]++;
	}
	diag("%llu of the source's pages swapped out again", (unsigned long long)page_out(&from));
	link_last(&l);
	CHECK(first_difference(shadow, to.p, to.len) < 0, "page %lld did not arrive",
	      first_difference(shadow, to.p, to.len) / (long long)TEST_PAGE);
	expect_equal(&from, &to);
	SYS(swapoff(SWAP_DEVICE));
}

/* ------------------------------------------------------------------- frames */

struct head {
	struct migr_wire_hdr hdr;
	struct migr_wire_masks masks;
};

static void send_all(int sock, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = send(sock, (const char *)buf + done, len - done, MSG_NOSIGNAL);

		/* Whom we harm may hang up before all of it is there. */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return;
		SYS(n);
		done += (size_t)n;
	}
}

static struct migr_wire_hdr frame_hdr(unsigned int type)
{
	return (struct migr_wire_hdr) {
		.magic = htole32(MIGR_WIRE_MAGIC),
		.version = MIGR_WIRE_VERSION,
		.type = type,
		.pass = htole32(1),
	};
}

/* A chunk of region 0 with pages 0 and 1 in it. */
static struct head frame_chunk(__u64 chunk)
{
	struct head h = { .hdr = frame_hdr(MIGR_WIRE_CHUNK) };

	h.hdr.value = htole64(chunk);
	h.hdr.length = htole32(sizeof(h.masks) + 2 * TEST_PAGE);
	h.masks.data[0] = htole64(3);
	return h;
}

/* Takes all frames of a pass. Returns how many chunks it had, or -1. */
static long long drain_pass(int sock, struct migr_wire_hdr *end)
{
	static unsigned char buf[sizeof(struct migr_wire_masks) +
				 MIGR_WIRE_CHUNK_PAGES * TEST_PAGE];
	long long chunks = 0;

	while (recv_all(sock, end, sizeof(*end))) {
		CHECK_EQ(le32toh(end->magic), MIGR_WIRE_MAGIC);
		CHECK_EQ(end->version, MIGR_WIRE_VERSION);
		if (end->type == MIGR_WIRE_PASS_END)
			return chunks;
		CHECK_EQ(end->type, MIGR_WIRE_CHUNK);
		CHECK(le32toh(end->length) <= sizeof(buf), "a frame of %u bytes",
		      le32toh(end->length));
		if (!recv_all(sock, buf, le32toh(end->length)))
			return -1;
		chunks++;
	}
	return -1;
}

/* -------------------------------------------------------------- failing peers */

/* A source whose peer is the test itself. */
struct lone_source {
	struct mem m;
	unsigned char *before;
	int migration;
	int stream;
	int sock;	/* the source's */
	int peer;
};

static struct lone_source lone_source(pair_fn pair, __u64 pages)
{
	struct lone_source s = { .m = mem_new(pages) };
	__u64 seed = test_seed;
	int fd[2];

	fill_random(s.m.p, s.m.len, &seed);
	s.before = private_alloc(s.m.len);
	memcpy(s.before, s.m.p, s.m.len);
	pair(fd);
	s.sock = fd[0];
	s.peer = fd[1];
	s.migration = (int)CALL(migration_create(s.m.dev, MIGR_ROLE_SOURCE));
	CALL(migration_add_region(s.migration, s.m.fd, 0));
	s.stream = (int)CALL(migration_add_stream(s.migration, s.sock, 0));
	return s;
}

/* It has failed with @error, for good, and the region is none the worse. */
static void expect_failed(struct lone_source *s, int error)
{
	struct migr_migration_status st = link_status(s->migration);

	CHECK_EQ(st.state, MIGR_STATE_FAILED);
	CHECK_EQ(st.error, error);
	CALL_ERR(stream_run(s->stream), EPIPE);
	CALL_ERR(migration_pass(s->migration, 0), EPIPE);
	SYS(close(s->stream));
	SYS(close(s->migration));
	SYS(close(s->sock));
	CHECK(first_difference(s->before, s->m.p, s->m.len) < 0, "the source has changed");
	expect_migrates(&s->m);
	CHECK(first_difference(s->before, s->m.p, s->m.len) < 0, "the source has changed");
}

static void peer_gone_before_run(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);

	SYS(close(s.peer));
	CALL(migration_pass(s.migration, 0));
	CALL_ERR(stream_run(s.stream), ECONNRESET);
	expect_failed(&s, ECONNRESET);
}

/* Takes some of it, and goes. */
static void *take_some(void *arg)
{
	int peer = *(int *)arg;
	char buf[4096];
	int i;

	for (i = 0; i < 100; i++)
		CHECK(recv_all(peer, buf, sizeof(buf)), "only %d pages came", i);
	SYS(close(peer));
	return NULL;
}

static void gone_in_pass(pair_fn pair)
{
	/* More than any socket's buffers hold. */
	struct lone_source s = lone_source(pair, 8192);
	pthread_t thread = thread_start(take_some, &s.peer);

	CALL(migration_pass(s.migration, 0));
	CALL_ERR(stream_run(s.stream), ECONNRESET);
	thread_join(thread);
	expect_failed(&s, ECONNRESET);
}

static void unix_peer_gone_in_pass(void)
{
	gone_in_pass(unix_pair);
}

static void tcp_peer_gone_in_pass(void)
{
	gone_in_pass(tcp_pair);
}

static void vsock_peer_gone_in_pass(void)
{
	gone_in_pass(vsock_pair);
}

/* A destination that hangs up when it cannot go on, and what stopped it. */
struct taker {
	int stream, sock, received;
	bool begun;
};

static void *take_all(void *arg)
{
	struct taker *t = arg;

	__atomic_store_n(&t->begun, true, __ATOMIC_RELEASE);
	t->received = stream_run(t->stream);
	shutdown(t->sock, SHUT_RDWR);
	return NULL;
}

#define OVERCOMMIT	"/proc/sys/vm/overcommit_"

/* Let the kernel promise no memory any more; what is there stays usable. */
static void promise_memory(bool yes)
{
	CHECK(file_write(OVERCOMMIT "kbytes", yes ? "0" : "1") &&
	      file_write(OVERCOMMIT "memory", yes ? "0" : "2"), "cannot set " OVERCOMMIT "*");
}

/* The destination is full: it says so, and the source is as it was. */
static void destination_is_full(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);
	struct mem full = mem_new(s.m.pages);
	int migration = (int)CALL(migration_create(full.dev, MIGR_ROLE_DESTINATION)), sent;
	struct taker t = { .sock = s.peer };
	pthread_t thread;

	CALL(migration_add_region(migration, full.fd, 0));
	t.stream = (int)CALL(migration_add_stream(migration, s.peer, 0));
	CALL(migration_pass(s.migration, 0));
	thread = thread_start(take_all, &t);
	WAIT_FOR(__atomic_load_n(&t.begun, __ATOMIC_ACQUIRE), RUN_S);
	promise_memory(false);
	sent = stream_run(s.stream);
	thread_join(thread);
	promise_memory(true);

	CHECK(t.received == -ENOSPC || t.received == -ENOMEM, "the destination's run: %s",
	      strerror(-t.received));
	CHECK_EQ(link_status(migration).state, MIGR_STATE_FAILED);
	CHECK_EQ(link_status(migration).error, -t.received);
	CALL_ERR(sent, ECONNRESET);
	SYS(close(t.stream));
	SYS(close(migration));
	expect_failed(&s, ECONNRESET);
}

/* What a peer answers to the end of a pass. */
struct answer {
	int peer;
	void (*spoil)(struct migr_wire_hdr *ack);
	size_t length;
	int error;
	long long chunks;
};

static void *answer_pass(void *arg)
{
	struct answer *a = arg;
	struct migr_wire_hdr hdr;

	a->chunks = drain_pass(a->peer, &hdr);
	CHECK(a->chunks >= 0, "the pass did not end");
	CHECK_EQ(le64toh(hdr.value), a->chunks);
	hdr.type = MIGR_WIRE_PASS_ACK;
	if (a->spoil)
		a->spoil(&hdr);
	send_all(a->peer, &hdr, a->length);
	/* A source that has failed by then has reset the connection. */
	CHECK(!shutdown(a->peer, SHUT_WR) || errno == ENOTCONN, "shutdown: %s", strerror(errno));
	return NULL;
}

static void spoil_magic(struct migr_wire_hdr *ack)
{
	ack->magic ^= htole32(1);
}

static void spoil_version(struct migr_wire_hdr *ack)
{
	ack->version++;
}

static void spoil_type(struct migr_wire_hdr *ack)
{
	ack->type = MIGR_WIRE_PASS_END;
}

static void spoil_flags(struct migr_wire_hdr *ack)
{
	ack->flags ^= htole16(MIGR_WIRE_LAST);
}

static void spoil_more_flags(struct migr_wire_hdr *ack)
{
	ack->flags ^= htole16(0x8000);
}

static void spoil_pass(struct migr_wire_hdr *ack)
{
	ack->pass = htole32(le32toh(ack->pass) + 1);
}

static void spoil_value(struct migr_wire_hdr *ack)
{
	ack->value = htole64(le64toh(ack->value) - 1);
}

static void spoil_length(struct migr_wire_hdr *ack)
{
	ack->length = htole32(4096);
}

static void spoil_region(struct migr_wire_hdr *ack)
{
	ack->region = htole32(1);
}

static void spoil_reserved(struct migr_wire_hdr *ack)
{
	ack->reserved = htole32(1);
}

static void bad_answers(void)
{
	static const struct {
		void (*spoil)(struct migr_wire_hdr *ack);
		size_t length;
		int error;
	} bad[] = {
		{ NULL, 0, ECONNRESET },
		{ NULL, 1, ECONNRESET },
		{ NULL, sizeof(struct migr_wire_hdr) - 1, ECONNRESET },
		{ spoil_magic, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_version, sizeof(struct migr_wire_hdr), EPROTONOSUPPORT },
		{ spoil_type, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_flags, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_more_flags, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_pass, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_value, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_length, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_region, sizeof(struct migr_wire_hdr), EPROTO },
		{ spoil_reserved, sizeof(struct migr_wire_hdr), EPROTO },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct lone_source s = lone_source(i & 1 ? unix_pair : tcp_pair, 600);
		struct answer a = {
			.peer = s.peer,
			.spoil = bad[i].spoil,
			.length = bad[i].length,
		};
		pthread_t thread = thread_start(answer_pass, &a);
		int ret;

		CALL(migration_pass(s.migration, MIGR_PASS_LAST));
		ret = stream_run(s.stream);
		CHECK(ret == -bad[i].error, "answer %zu: %d, not %d", i, ret,
		      -bad[i].error);
		thread_join(thread);
		expect_failed(&s, bad[i].error);
		SYS(close(s.peer));
		mem_free(&s.m);
		SYS(munmap(s.before, s.m.len));
	}
}

/* And that the answers above failed for what was wrong with them. */
static void good_answer(void)
{
	struct lone_source s = lone_source(tcp_pair, 600);
	struct answer a = { .peer = s.peer, .length = sizeof(struct migr_wire_hdr) };
	pthread_t thread = thread_start(answer_pass, &a);

	CALL(migration_pass(s.migration, MIGR_PASS_LAST));
	CALL(stream_run(s.stream));
	thread_join(thread);
	CHECK_EQ(link_status(s.migration).state, MIGR_STATE_COMPLETE);
	CHECK_EQ(a.chunks, 2);
}

static void *drain_only(void *arg)
{
	struct migr_wire_hdr hdr;

	drain_pass(*(int *)arg, &hdr);
	return NULL;
}

static void source_times_out(void)
{
	struct lone_source s = lone_source(tcp_pair, 600);
	pthread_t thread = thread_start(drain_only, &s.peer);

	socket_timeout(s.sock, 500);
	CALL(migration_pass(s.migration, 0));
	CALL_ERR(stream_run(s.stream), ETIMEDOUT);
	thread_join(thread);
	expect_failed(&s, ETIMEDOUT);

	/* And when nobody takes anything. */
	s = lone_source(unix_pair, 1000);
	socket_timeout(s.sock, 500);
	CALL(migration_pass(s.migration, 0));
	CALL_ERR(stream_run(s.stream), ETIMEDOUT);
	expect_failed(&s, ETIMEDOUT);
}

struct runner {
	int stream;
	int ret;
	pthread_t thread;
};

static void *runner_thread(void *arg)
{
	struct runner *r = arg;

	r->ret = stream_run(r->stream);
	return NULL;
}

/* Runs a source whose peer takes nothing; returns when it is well under way. */
static void runner_start(struct runner *r, struct lone_source *s)
{
	struct pollfd pfd = { .fd = s->peer, .events = POLLIN };

	r->stream = s->stream;
	CALL(migration_pass(s->migration, MIGR_PASS_LAST));
	r->thread = thread_start(runner_thread, r);
	CHECK(poll(&pfd, 1, RUN_S * 1000) == 1, "nothing is sent");
}

static void two_runners(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);
	struct runner r;
	int i;

	runner_start(&r, &s);
	for (i = 0; i < 100; i++)
		CALL_ERR(stream_run(s.stream), EBUSY);
	/* The socket's owner can end it. */
	SYS(shutdown(s.sock, SHUT_RDWR));
	thread_join(r.thread);
	CHECK_EQ(r.ret, -ECONNRESET);
	expect_failed(&s, ECONNRESET);
}

/* The same by the stream alone, as often as one likes. */
static void shut_down(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);
	struct runner r;

	runner_start(&r, &s);
	CALL(stream_shutdown(s.stream));
	CALL(stream_shutdown(s.stream));
	thread_join(r.thread);
	CHECK_EQ(r.ret, -ECONNRESET);
	expect_failed(&s, ECONNRESET);
}

/* Closing descriptors in any order during a run does not end it. */
static void closed_meanwhile(void)
{
	struct lone_source s = lone_source(tcp_pair, 8192);
	struct answer a = { .peer = s.peer, .length = sizeof(struct migr_wire_hdr) };
	int refs = module_refcnt();
	pthread_t thread;
	struct runner r;

	runner_start(&r, &s);
	SYS(close(s.migration));
	SYS(close(s.sock));
	SYS(close(s.stream));
	SYS(close(s.m.fd));
	SYS(close(s.m.dev));
	thread = thread_start(answer_pass, &a);
	thread_join(r.thread);
	thread_join(thread);
	CHECK_EQ(r.ret, 0);
	CHECK_EQ(a.chunks, 16);
	WAIT_FOR(module_refcnt() < refs, RUN_S);
	CHECK(first_difference(s.before, s.m.p, s.m.len) < 0, "the source has changed");
}

/* ------------------------------------------------------------------ signals */

static unsigned int signals;

static void count_signal(int sig)
{
	(void)sig;
	__atomic_add_fetch(&signals, 1, __ATOMIC_RELAXED);
}

static void handle_signals(int flags)
{
	struct sigaction sa = { .sa_handler = count_signal, .sa_flags = flags };

	sigemptyset(&sa.sa_mask);
	SYS(sigaction(SIGUSR1, &sa, NULL));
}

static void signal_restarts(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);
	struct answer a = { .peer = s.peer, .length = sizeof(struct migr_wire_hdr) };
	pthread_t thread;
	struct runner r;
	unsigned int i;

	handle_signals(SA_RESTART);
	runner_start(&r, &s);
	for (i = 1; i <= 20; i++) {
		CHECK(!pthread_kill(r.thread, SIGUSR1), "the run has ended");
		WAIT_FOR(__atomic_load_n(&signals, __ATOMIC_RELAXED) == i, RUN_S);
	}
	thread = thread_start(answer_pass, &a);
	thread_join(r.thread);
	thread_join(thread);
	CHECK_EQ(r.ret, 0);
	CHECK_EQ(link_status(s.migration).state, MIGR_STATE_COMPLETE);
}

static void signal_interrupts(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);
	struct answer a = { .peer = s.peer, .length = sizeof(struct migr_wire_hdr) };
	pthread_t thread;
	struct runner r;

	handle_signals(0);
	runner_start(&r, &s);
	CHECK(!pthread_kill(r.thread, SIGUSR1), "the run has ended");
	thread_join(r.thread);
	CHECK_EQ(r.ret, -EINTR);
	CHECK_EQ(link_status(s.migration).state, MIGR_STATE_PASS);
	CALL_ERR(migration_pass(s.migration, 0), EBUSY);
	thread = thread_start(answer_pass, &a);
	CALL(stream_run(s.stream));
	thread_join(thread);
	CHECK_EQ(link_status(s.migration).state, MIGR_STATE_COMPLETE);
}

static void stop_and_continue(void)
{
	struct lone_source s = lone_source(unix_pair, 1000);
	struct answer a = { .peer = s.peer, .length = sizeof(struct migr_wire_hdr) };
	struct pollfd pfd = { .fd = s.peer, .events = POLLIN };
	pthread_t thread;
	int i, status;
	pid_t pid;

	CALL(migration_pass(s.migration, MIGR_PASS_LAST));
	pid = child_start();
	if (!pid) {
		CALL(stream_run(s.stream));
		_exit(0);
	}
	CHECK(poll(&pfd, 1, RUN_S * 1000) == 1, "nothing is sent");
	for (i = 0; i < 5; i++) {
		SYS(kill(pid, SIGSTOP));
		CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status),
		      "did not stop");
		SYS(kill(pid, SIGCONT));
		CHECK(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status),
		      "did not continue");
	}
	thread = thread_start(answer_pass, &a);
	child_join(pid);
	thread_join(thread);
	CHECK_EQ(link_status(s.migration).state, MIGR_STATE_COMPLETE);
}

struct storm {
	struct link *link;
	struct mem *from;
	unsigned int interrupted[2];
	int ret[2];
	unsigned int ended;
};

static void *storm_source(void *arg)
{
	struct storm *s = arg;
	__u64 seed = test_seed;
	int pass, i;

	for (pass = 0; pass < 5; pass++) {
		for (i = 0; i < 1000; i++)
			*(__u64 *)mem_page(s->from, rnd(&seed) % s->from->pages) = rnd(&seed);
		CALL(migration_pass(s->link->source, pass == 4 ? MIGR_PASS_LAST : 0));
		s->ret[0] = stream_run_through(s->link->source_stream, &s->interrupted[0]);
		if (s->ret[0])
			break;
	}
	__atomic_add_fetch(&s->ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void *storm_destination(void *arg)
{
	struct storm *s = arg;

	s->ret[1] = stream_run_through(s->link->destination_stream, &s->interrupted[1]);
	__atomic_add_fetch(&s->ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void signal_storm_over(pair_fn pair)
{
	struct mem from = mem_new(8192), to = mem_new(8192);
	pthread_t source, destination;
	__u64 seed = test_seed;
	struct storm s = { 0 };
	struct link l;

	handle_signals(0);
	fill_random(from.p, from.len, &seed);
	link_open(&l, pair, 0, &from, &to, 1);
	s.link = &l;
	s.from = &from;
	source = thread_start(storm_source, &s);
	destination = thread_start(storm_destination, &s);
	while (__atomic_load_n(&s.ended, __ATOMIC_ACQUIRE) < 2) {
		pthread_kill(source, SIGUSR1);
		pthread_kill(destination, SIGUSR1);
		poll_pause();
	}
	thread_join(source);
	thread_join(destination);
	diag("interrupted %u and %u times", s.interrupted[0], s.interrupted[1]);
	CHECK_EQ(s.ret[0], 0);
	CHECK_EQ(s.ret[1], 0);
	CHECK(s.interrupted[0] + s.interrupted[1] > 0, "no signal hit a run");
	expect_equal(&from, &to);
	link_close(&l);
	mem_free(&from);
	mem_free(&to);
}

static void signal_storm(void)
{
	signal_storm_over(unix_pair);
	signal_storm_over(tcp_pair);
}

static void killed_source(void)
{
	int start = module_refcnt();
	struct lone_source s = lone_source(unix_pair, 1000);
	struct pollfd pfd = { .fd = s.peer, .events = POLLIN };
	int status;
	pid_t pid;

	CALL(migration_pass(s.migration, 0));
	pid = child_start();
	if (!pid) {
		stream_run(s.stream);
		_exit(0);
	}
	/* Nobody but the child has the migration. */
	SYS(close(s.stream));
	SYS(close(s.migration));
	SYS(close(s.sock));
	CHECK(poll(&pfd, 1, RUN_S * 1000) == 1, "nothing is sent");
	SYS(kill(pid, SIGKILL));
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "was not killed");
	expect_untracked(&s.m);
	CHECK(first_difference(s.before, s.m.p, s.m.len) < 0, "the source has changed");
	expect_migrates(&s.m);
	mem_free(&s.m);
	WAIT_FOR(module_refcnt() == start, RUN_S);
}

static void killed_destination(void)
{
	struct mem from = mem_new(8192), to = mem_new(8192);
	__u64 seed = test_seed;
	struct link l;
	int status;
	pid_t pid;

	fill_random(from.p, from.len, &seed);
	link_open(&l, tcp_pair, 0, &from, &to, 1);
	pid = child_start();
	if (!pid) {
		stream_run(l.destination_stream);
		_exit(0);
	}
	SYS(close(l.destination_stream));
	SYS(close(l.sock[1]));
	CALL(migration_pass(l.source, 0));
	/* The pass is acknowledged only by one who lives. */
	SYS(kill(pid, SIGKILL));
	CALL_ERR(stream_run(l.source_stream), ECONNRESET);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "was not killed");
	CHECK_EQ(link_status(l.source).state, MIGR_STATE_FAILED);
	CHECK_EQ(link_status(l.destination).state, MIGR_STATE_FAILED);
	SYS(close(l.source_stream));
	SYS(close(l.source));
	expect_migrates(&from);
}

/* ------------------------------------------------------------ hostile sources */

/* A destination whose source is the test itself. */
struct lone_destination {
	int migration;
	int stream;
	int sock;
	int peer;
};

static struct lone_destination lone_destination_over(pair_fn pair, const struct mem *m)
{
	struct lone_destination d;
	int fd[2];

	pair(fd);
	d.sock = fd[0];
	d.peer = fd[1];
	d.migration = (int)CALL(migration_create(m->dev, MIGR_ROLE_DESTINATION));
	CALL(migration_add_region(d.migration, m->fd, 0));
	d.stream = (int)CALL(migration_add_stream(d.migration, d.sock, 0));
	return d;
}

static struct lone_destination lone_destination(const struct mem *m)
{
	return lone_destination_over(unix_pair, m);
}

static void lone_destination_close(struct lone_destination *d)
{
	SYS(close(d->stream));
	SYS(close(d->migration));
	SYS(close(d->sock));
	SYS(close(d->peer));
}

/* What is sent ends the run with @error, and nothing has changed. */
static void expect_refused(const struct mem *m, const unsigned char *before, const char *what,
			   const void *bytes, size_t len, int error)
{
	struct lone_destination d = lone_destination(m);
	int ret;

	send_all(d.peer, bytes, len);
	SYS(shutdown(d.peer, SHUT_WR));
	ret = stream_run(d.stream);
	CHECK(ret == -error, "%s: %d (%s), not %d (%s)", what, ret,
	      ret < 0 ? strerror(-ret) : "success", -error, strerror(error));
	CHECK_EQ(link_status(d.migration).state, MIGR_STATE_FAILED);
	CHECK_EQ(link_status(d.migration).error, error);
	ret = stream_run(d.stream);
	CHECK(ret == -EPIPE, "%s: run again: %d", what, ret);
	CHECK(first_difference(before, m->p, m->len) < 0, "%s changed page %lld", what,
	      first_difference(before, m->p, m->len) / (long long)TEST_PAGE);
	lone_destination_close(&d);
}

/* One that breaks only what is named; the rest is as it has to be. */
static void bad_frames(void)
{
	/* Two chunks, of 512 and of 488 pages. */
	struct mem m = mem_new(1000), neighbour = mem_new(1000);
	struct {
		struct head head;
		unsigned char pages[4 * TEST_PAGE];
	} f;
	unsigned char *before = private_alloc(m.len), *beside = private_alloc(m.len);
	__u64 seed = test_seed;
	const size_t chunk = sizeof(f.head) + 2 * TEST_PAGE;

	fill_random(m.p, m.len, &seed);
	fill_random(neighbour.p, neighbour.len, &seed);
	memcpy(before, m.p, m.len);
	memcpy(beside, neighbour.p, m.len);
	memset(f.pages, 0xbd, sizeof(f.pages));

#define REFUSE(what, error, len, ...)					\
	do {								\
		f.head = frame_chunk(1);				\
		__VA_ARGS__;						\
		expect_refused(&m, before, what, &f, len, error);	\
	} while (0)
#define REFUSE_END(what, error, len, ...)				\
	REFUSE(what, error, len, f.head.hdr = frame_hdr(MIGR_WIRE_PASS_END); __VA_ARGS__)

	REFUSE("nothing at all", ECONNRESET, 0);
	REFUSE("a byte", ECONNRESET, 1);
	REFUSE("a header short of a byte", ECONNRESET, sizeof(f.head.hdr) - 1);
	REFUSE("no masks", ECONNRESET, sizeof(f.head.hdr));
	REFUSE("half the masks", ECONNRESET, sizeof(f.head.hdr) + 64);
	REFUSE("magic", EPROTO, chunk, f.head.hdr.magic ^= htole32(0x100));
	REFUSE("version 0", EPROTONOSUPPORT, chunk, f.head.hdr.version = 0);
	REFUSE("next version", EPROTONOSUPPORT, chunk, f.head.hdr.version++);
	REFUSE("type 0", EPROTO, chunk, f.head.hdr.type = 0);
	REFUSE("type 6", EPROTO, chunk, f.head.hdr.type = 6);
	REFUSE("type 255", EPROTO, chunk, f.head.hdr.type = 255);
	REFUSE("flags on a chunk", EPROTO, chunk, f.head.hdr.flags = htole16(MIGR_WIRE_LAST));
	REFUSE("unknown flag on a chunk", EPROTO, chunk, f.head.hdr.flags = htole16(4));
	REFUSE("region 1", EPROTO, chunk, f.head.hdr.region = htole32(1));
	REFUSE("region 63", EPROTO, chunk, f.head.hdr.region = htole32(63));
	REFUSE("region 64", EPROTO, chunk, f.head.hdr.region = htole32(64));
	REFUSE("region ~0", EPROTO, chunk, f.head.hdr.region = ~0U);
	REFUSE("pass 0", EPROTO, chunk, f.head.hdr.pass = 0);
	REFUSE("pass 2", EPROTO, chunk, f.head.hdr.pass = htole32(2));
	REFUSE("chunk behind the end", EPROTO, chunk, f.head.hdr.value = htole64(2));
	REFUSE("chunk ~0", EPROTO, chunk, f.head.hdr.value = ~0ULL);
	REFUSE("chunk 2^55", EPROTO, chunk, f.head.hdr.value = htole64(1ULL << 55));
	REFUSE("chunk 2^63", EPROTO, chunk, f.head.hdr.value = htole64(1ULL << 63));
	REFUSE("reserved field", EPROTO, chunk, f.head.hdr.reserved = htole32(1));
	REFUSE("length 0", EPROTO, chunk, f.head.hdr.length = 0);
	REFUSE("length below the masks", EPROTO, chunk, f.head.hdr.length = htole32(127));
	REFUSE("length of half a page", EPROTO, chunk,
	       f.head.hdr.length = htole32(sizeof(f.head.masks) + TEST_PAGE / 2));
	REFUSE("length of 513 pages", EPROTO, chunk,
	       f.head.hdr.length = htole32(sizeof(f.head.masks) + 513 * TEST_PAGE));
	REFUSE("length ~0", EPROTO, chunk, f.head.hdr.length = ~0U);
	REFUSE("a page more than the mask", EPROTO, chunk,
	       f.head.hdr.length = htole32(sizeof(f.head.masks) + 3 * TEST_PAGE));
	REFUSE("a page less than the mask", EPROTO, chunk,
	       f.head.hdr.length = htole32(sizeof(f.head.masks) + TEST_PAGE));
	REFUSE("data and zero at once", EPROTO, chunk, f.head.masks.zero[0] = htole64(2));
	REFUSE("data behind the end", EPROTO, chunk,
	       f.head.masks.data[0] = htole64(1); f.head.masks.data[7] = htole64(1ULL << 40));
	REFUSE("last data bit", EPROTO, chunk,
	       f.head.masks.data[0] = htole64(1); f.head.masks.data[7] = htole64(1ULL << 63));
	REFUSE("zero behind the end", EPROTO, chunk,
	       f.head.masks.zero[7] = htole64(1ULL << 40));
	REFUSE("all zero", EPROTO, chunk,
	       memset(&f.head.masks.zero, 0xff, sizeof(f.head.masks.zero));
	       f.head.masks.zero[0] = htole64(~3ULL));
	REFUSE_END("end of a pass with a chunk too many", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.value = htole64(1));
	REFUSE_END("end of pass 2", EPROTO, sizeof(f.head.hdr), f.head.hdr.pass = htole32(2));
	REFUSE_END("end with a length", EPROTO, chunk, f.head.hdr.length = htole32(128));
	REFUSE_END("end with a region", EPROTO, chunk, f.head.hdr.region = htole32(1));
	REFUSE_END("end with an unknown flag", EPROTO, chunk, f.head.hdr.flags = htole16(2));
	REFUSE_END("end with a flag of version 1", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.flags = htole16(MIGR_WIRE_LAST));
	REFUSE_END("gone: itself", EPROTO, sizeof(f.head.hdr), f.head.hdr.type = MIGR_WIRE_GONE);
	REFUSE_END("gone: number 1024", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_GONE; f.head.hdr.value = htole64(MIGR_STREAM_IDS));
	REFUSE_END("gone: number 2^32", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_GONE; f.head.hdr.value = htole64(1ULL << 32));
	REFUSE_END("gone with a region", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_GONE; f.head.hdr.value = htole64(1);
		   f.head.hdr.region = htole32(1));
	REFUSE_END("gone in version 1", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_GONE; f.head.hdr.value = htole64(1);
		   f.head.hdr.version = 1);
	REFUSE_END("done before it began", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_DONE);
	REFUSE_END("done with a value", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_DONE; f.head.hdr.value = htole64(1));
	REFUSE_END("done in version 1", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_DONE; f.head.hdr.version = 1);
	REFUSE_END("answer", EPROTO, sizeof(f.head.hdr),
		   f.head.hdr.type = MIGR_WIRE_PASS_ACK);

	CHECK(first_difference(beside, neighbour.p, m.len) < 0, "the neighbour has changed");
#undef REFUSE
#undef REFUSE_END
}

/* What a source says last, in each version; an older one may move here. */
static void good_frames(unsigned int version)
{
	struct mem m = mem_new(1000);
	struct lone_destination d = lone_destination(&m);
	struct runner r = { .stream = d.stream };
	struct head h = frame_chunk(1);
	unsigned char pages[2 * TEST_PAGE];
	struct migr_wire_hdr end, done;

	memset(m.p, 0x11, m.len);
	memset(pages, 0xbd, sizeof(pages));
	h.hdr.version = version;
	h.masks.zero[0] = htole64(4);
	send_all(d.peer, &h, sizeof(h));
	send_all(d.peer, pages, sizeof(pages));
	end = frame_hdr(MIGR_WIRE_PASS_END);
	end.version = version;
	end.value = htole64(1);
	end.flags = htole16(version == 1 ? MIGR_WIRE_LAST : 0);
	send_all(d.peer, &end, sizeof(end));
	r.thread = thread_start(runner_thread, &r);
	CHECK(recv_all(d.peer, &end, sizeof(end)), "no answer");
	CHECK_EQ(end.version, version);
	CHECK_EQ(end.type, MIGR_WIRE_PASS_ACK);
	CHECK_EQ(le16toh(end.flags), version == 1 ? MIGR_WIRE_LAST : 0);
	CHECK_EQ(le64toh(end.value), 1);
	if (version > 1) {
		done = frame_hdr(MIGR_WIRE_DONE);
		send_all(d.peer, &done, sizeof(done));
	}
	thread_join(r.thread);
	CHECK_EQ(r.ret, 0);
	CHECK_EQ(link_status(d.migration).state, MIGR_STATE_COMPLETE);
	CHECK_EQ(m.p[511 * TEST_PAGE], 0x11);
	CHECK(!memcmp(mem_page(&m, 512), pages, sizeof(pages)), "the pages are not there");
	CHECK(is_zero(mem_page(&m, 514), TEST_PAGE), "the zero page is not there");
	CHECK_EQ(m.p[515 * TEST_PAGE], 0x11);
}

static void good_frame(void)
{
	good_frames(MIGR_WIRE_VERSION);
}

static void older_source(void)
{
	good_frames(1);
}

/* A chunk as a source of version 1 sends it: what is dirty. Returns how many frames that is. */
static unsigned int older_chunk(int sock, const struct mem *m, const __u64 *dirty, __u32 pass,
				__u64 chunk, __u64 sent[2])
{
	__u64 first = chunk * MIGR_WIRE_CHUNK_PAGES, data[MASK_WORDS] = { 0 }, nr[2] = { 0 };
	struct head h = { .hdr = frame_hdr(MIGR_WIRE_CHUNK) };
	unsigned int i;

	for (i = 0; i < MIGR_WIRE_CHUNK_PAGES && first + i < m->pages; i++) {
		bool zero = is_zero(mem_page(m, first + i), TEST_PAGE);

		if (!bit_test(dirty, first + i))
			continue;
		nr[zero]++;
		if (zero)
			h.masks.zero[i / 64] |= htole64(1ULL << i % 64);
		else
			bit_set(data, i);
	}
	if (!nr[0] && !nr[1])
		return 0;
	h.hdr.version = 1;
	h.hdr.pass = htole32(pass);
	h.hdr.value = htole64(chunk);
	h.hdr.length = htole32(sizeof(h.masks) + nr[0] * TEST_PAGE);
	for (i = 0; i < MASK_WORDS; i++)
		h.masks.data[i] = htole64(data[i]);
	send_all(sock, &h, sizeof(h));
	for (i = 0; i < MIGR_WIRE_CHUNK_PAGES; i++)
		if (bit_test(data, i))
			send_all(sock, mem_page(m, first + i), TEST_PAGE);
	sent[0] += nr[0];
	sent[1] += nr[1];
	return 1;
}

/* One of its passes, which is acknowledged. */
static void older_pass(int sock, const struct mem *m, const __u64 *dirty, __u32 pass, bool last,
		       __u64 sent[2])
{
	struct migr_wire_hdr end = frame_hdr(MIGR_WIRE_PASS_END), ack;
	__u64 chunk, frames = 0;

	for (chunk = 0; chunk * MIGR_WIRE_CHUNK_PAGES < m->pages; chunk++)
		frames += older_chunk(sock, m, dirty, pass, chunk, sent);
	end.version = 1;
	end.flags = htole16(last ? MIGR_WIRE_LAST : 0);
	end.pass = htole32(pass);
	end.value = htole64(frames);
	send_all(sock, &end, sizeof(end));
	CHECK(recv_all(sock, &ack, sizeof(ack)), "pass %u is not acknowledged", pass);
	end.type = MIGR_WIRE_PASS_ACK;
	CHECK(!memcmp(&ack, &end, sizeof(end)), "pass %u is acknowledged as another", pass);
}

/* And its guest: pages are filled, cleared, and given back. */
static void older_guest(const struct mem *m, __u64 *dirty, __u64 *seed)
{
	unsigned int i;

	for (i = 0; i < 300; i++) {
		__u64 page = rnd(seed) % m->pages;

		if (i % 3 == 0)
			fill_random(mem_page(m, page), TEST_PAGE, seed);
		else if (i % 3 == 1)
			memset(mem_page(m, page), 0, TEST_PAGE);
		else
			SYS(madvise(mem_page(m, page), TEST_PAGE, MADV_REMOVE));
		bit_set(dirty, page);
	}
}

/* All of a memory, from its first pass to the last; in one of them nothing is dirty. */
static void older_source_moves(void)
{
	struct mem from = memfd_new(3000), to = mem_new(3000);
	size_t words = bitmap_words(from.pages);
	__u64 *dirty = private_alloc(words * sizeof(*dirty));
	__u64 seed = test_seed + 1, kinds[3] = { 0 }, sent[2] = { 0 };
	struct lone_destination d = lone_destination(&to);
	struct runner r = { .stream = d.stream };
	struct migr_migration_status st;
	__u32 pass, passes = 4;

	fill_mixed(&from, test_seed, kinds);
	fill_random(to.p, to.len, &seed);
	memset(dirty, 0xff, words * sizeof(*dirty));
	r.thread = thread_start(runner_thread, &r);
	for (pass = 1; pass <= passes; pass++) {
		older_pass(d.peer, &from, dirty, pass, pass == passes, sent);
		expect_equal(&from, &to);
		memset(dirty, 0, words * sizeof(*dirty));
		if (pass == 1 || pass == passes - 1)
			older_guest(&from, dirty, &seed);
	}
	thread_join(r.thread);
	CHECK_EQ(r.ret, 0);
	st = link_status(d.migration);
	CHECK_EQ(st.state, MIGR_STATE_COMPLETE);
	CHECK_EQ(st.passes, passes);
	CHECK_EQ(st.data_pages, sent[0]);
	CHECK_EQ(st.zero_pages, sent[1]);
	lone_destination_close(&d);
}

/* Cut off at every length: what is missing must not be waited for or made up. */
static void cut_off(void)
{
	struct mem m = mem_new(1000), neighbour = mem_new(1000);
	unsigned char pages[2 * TEST_PAGE];
	struct head h = frame_chunk(1);
	size_t len;

	memset(m.p, 0x11, m.len);
	memset(neighbour.p, 0x22, neighbour.len);
	memset(pages, 0xbd, sizeof(pages));
	for (len = 0; len <= sizeof(h) + sizeof(pages); len += len < sizeof(h) ? 7 : 1021) {
		struct lone_destination d = lone_destination(&m);
		int ret;

		send_all(d.peer, &h, len < sizeof(h) ? len : sizeof(h));
		if (len > sizeof(h))
			send_all(d.peer, pages, len - sizeof(h));
		SYS(shutdown(d.peer, SHUT_WR));
		ret = stream_run(d.stream);
		CHECK(ret == -ECONNRESET, "after %zu bytes: %d", len, ret);
		CHECK(m.p[512 * TEST_PAGE - 1] == 0x11 && m.p[514 * TEST_PAGE] == 0x11,
		      "after %zu bytes: the wrong pages changed", len);
		lone_destination_close(&d);
	}
	CHECK(neighbour.p[0] == 0x22 && !memcmp(neighbour.p, neighbour.p + 1, neighbour.len - 1),
	      "the neighbour has changed");
}

static void garbage(pair_fn pair)
{
	struct mem m = mem_new(1000), neighbour = mem_new(1000);
	unsigned char *beside = private_alloc(m.len), *bytes = private_alloc(0x10000);
	__u64 seed = test_seed;
	unsigned int i, n;

	fill_random(neighbour.p, neighbour.len, &seed);
	memcpy(beside, neighbour.p, neighbour.len);
	for (i = 0; i < 1000; i++) {
		struct lone_destination d = lone_destination_over(pair, &m);
		size_t len = rnd(&seed) % 0x4000;
		int ret;

		if (i % 4 == 0) {
			fill_random(bytes, 0x4000, &seed);
		} else {
			/* Good frames, and some bits of the first's head turned. */
			struct head h = frame_chunk(rnd(&seed) % 2);
			struct migr_wire_hdr end = frame_hdr(MIGR_WIRE_PASS_END);

			end.value = htole64(1);
			memcpy(bytes, &h, sizeof(h));
			memset(bytes + sizeof(h), 0xee, 2 * TEST_PAGE);
			memcpy(bytes + sizeof(h) + 2 * TEST_PAGE, &end, sizeof(end));
			len = sizeof(h) + 2 * TEST_PAGE + sizeof(end);
			for (n = 1 + rnd(&seed) % 4; n; n--) {
				__u64 bit = rnd(&seed) % (sizeof(h) * 8);

				bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
			}
		}
		send_all(d.peer, bytes, len);
		SYS(shutdown(d.peer, SHUT_WR));
		ret = stream_run(d.stream);
		CHECK(ret == -EPROTO || ret == -ECONNRESET || ret == -EPROTONOSUPPORT,
		      "attempt %u: %d (%s)", i, ret, ret < 0 ? strerror(-ret) : "success");
		CHECK_EQ(link_status(d.migration).state, MIGR_STATE_FAILED);
		lone_destination_close(&d);
	}
	CHECK(first_difference(beside, neighbour.p, m.len) < 0, "the neighbour has changed");
	expect_migrates(&m);
}

static void unix_garbage(void)
{
	garbage(unix_pair);
}

static void tcp_garbage(void)
{
	garbage(tcp_pair);
}

/* The destination's memory is smaller than what comes, or another. */
static void regions_do_not_match(void)
{
	struct mem from = mem_new(1000), small = mem_new(100), other = mem_new(1000);
	unsigned char *before = private_alloc(from.len);
	__u64 seed = test_seed;
	struct link l;
	int ret;

	fill_random(from.p, from.len, &seed);
	memcpy(before, from.p, from.len);
	memset(other.p, 0x33, other.len);
	link_open(&l, unix_pair, 0, &from, &small, 1);
	link_receive_start(&l);
	CALL(migration_pass(l.source, 0));
	ret = stream_run(l.source_stream);
	CHECK(ret == -ECONNRESET, "source: %d", ret);
	link_receive_join(&l);
	CHECK_EQ(l.received, -EPROTO);
	CHECK(other.p[0] == 0x33 && !memcmp(other.p, other.p + 1, other.len - 1),
	      "another region has changed");
	CHECK(first_difference(before, from.p, from.len) < 0, "the source has changed");
	link_close(&l);
	expect_migrates(&from);
}

static void destination_times_out(void)
{
	struct mem m = mem_new(100);
	struct lone_destination d = lone_destination(&m);

	socket_timeout(d.sock, 500);
	CALL_ERR(stream_run(d.stream), ETIMEDOUT);
	CHECK_EQ(link_status(d.migration).error, ETIMEDOUT);
}

static void destination_shut_down(void)
{
	struct mem m = mem_new(100);
	struct lone_destination d = lone_destination(&m);
	struct runner r = { .stream = d.stream };

	r.thread = thread_start(runner_thread, &r);
	CALL(stream_shutdown(d.stream));
	thread_join(r.thread);
	CHECK_EQ(r.ret, -ECONNRESET);
	CHECK_EQ(link_status(d.migration).error, ECONNRESET);
}

/* What has come before the connection was lost is in memory all the same. */
static void part_of_chunk(void)
{
	struct mem m = mem_new(MIGR_WIRE_CHUNK_PAGES);
	struct lone_destination d = lone_destination(&m);
	__u64 map[MIGR_WIRE_CHUNK_PAGES / TEST_WORD_PAGES];
	struct head h = frame_chunk(0);
	unsigned char pages[TEST_PAGE + TEST_PAGE / 2];
	struct migr_tracker_fetch f;
	int tracker;

	memset(m.p, 0x11, m.len);
	tracker = (int)CALL(region_track(m.fd));
	tracker_settle(tracker, m.pages);
	memset(pages, 0xbd, sizeof(pages));
	send_all(d.peer, &h, sizeof(h));
	send_all(d.peer, pages, sizeof(pages));
	SYS(shutdown(d.peer, SHUT_WR));
	CALL_ERR(stream_run(d.stream), ECONNRESET);
	CALL(tracker_fetch(tracker, 0, m.pages, map, &f));
	CHECK_EQ(m.p[0], 0xbd);
	CHECK(bit_test(map, 0), "a page has come, its bit is clear");
	CHECK(m.p[TEST_PAGE] == 0x11 || bit_test(map, 1), "part of a page has come, its bit is clear");
	CHECK(f.dirty_pages <= 2, "%llu pages are dirty", (unsigned long long)f.dirty_pages);
	SYS(close(tracker));
	lone_destination_close(&d);
}

/*
 * Who holds the socket and waits for a page, and who holds the page and waits for
 * the socket, would wait for ever.
 */
static void somebody_else_receives(void)
{
	/* What waits in the socket, without making the sender wait. */
	size_t len = 32 * TEST_PAGE;
	unsigned char *pages = private_alloc(len);
	__u64 end = deadline_in(RUN_S);
	unsigned int i, stolen = 0;
	struct stat st;

	memset(pages, 0xbd, len);
	for (i = 0; i < 200 || (!stolen && now_ns() < end); i++) {
		struct mem m = mem_new(MIGR_WIRE_CHUNK_PAGES);
		struct lone_destination d = lone_destination(&m);
		struct runner r = { .stream = d.stream };
		struct head h = frame_chunk(0);

		memset(h.masks.data, 0xff, sizeof(h.masks.data));
		h.hdr.length = htole32(sizeof(h.masks) + MIGR_WIRE_CHUNK_PAGES * TEST_PAGE);
		send_all(d.peer, &h, sizeof(h));
		send_all(d.peer, pages, len);
		r.thread = thread_start(runner_thread, &r);
		/* It has taken the first page. */
		do {
			SYS(fstat(m.fd, &st));
		} while (!st.st_blocks);
		stolen += recv(d.sock, m.p, len, MSG_DONTWAIT) > 0;
		SYS(shutdown(d.peer, SHUT_WR));
		thread_join(r.thread);
		CHECK_EQ(r.ret, -ECONNRESET);
		lone_destination_close(&d);
		mem_free(&m);
	}
	CHECK(stolen, "the stream was always first");
}

static const struct test_case cases[] = {
	CASE(unix_lent),
	CASE(unix_copied),
	CASE(tcp_lent),
	CASE(tcp_copied),
	CASE(tcp6_lent),
	CASE(vsock_lent),
	CASE(vsock_copied),
	CASE(several_regions),
	CASE(sparse),
	CASE(statistics),
	CASE(many_passes),
	CASE(reported_writes),
	CASE(swapped_pages),
	CASE(peer_gone_before_run),
	CASE(unix_peer_gone_in_pass),
	CASE(tcp_peer_gone_in_pass),
	CASE(vsock_peer_gone_in_pass),
	CASE(destination_is_full),
	CASE(bad_answers),
	CASE(good_answer),
	CASE(source_times_out),
	CASE(two_runners),
	CASE(shut_down),
	CASE(closed_meanwhile),
	CASE(signal_restarts),
	CASE(signal_interrupts),
	CASE(stop_and_continue),
	CASE(signal_storm),
	CASE(killed_source),
	CASE(killed_destination),
	CASE(bad_frames),
	CASE(good_frame),
	CASE(older_source),
	CASE(older_source_moves),
	CASE(cut_off),
	CASE(part_of_chunk),
	CASE(unix_garbage),
	CASE(tcp_garbage),
	CASE(regions_do_not_match),
	CASE(destination_times_out),
	CASE(destination_shut_down),
	CASE(somebody_else_receives),
};

int main(int argc, char **argv)
{
	int ret = test_main(cases, ARRAY_SIZE(cases), argc, argv);

	/* In case the one that needs it did not get to its end. */
	swapoff(SWAP_DEVICE);
	return ret;
}
