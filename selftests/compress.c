// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streams that compress: what arrives equals what was sent, only what pays is
 * compressed and only while the CPUs have time, and no peer can harm with it.
 */
#include "ktls.h"
#include "workload.h"
#include "../kmod/wire.h"

#include <endian.h>
#include <stddef.h>

#define CHUNK	((__u64)MIGR_CHUNK_PAGES)

static const __u32 both[] = { MIGR_COMPRESSION_LZ4, MIGR_COMPRESSION_ZSTD };

/* What compresses to less than half: words out of sixteen. */
static void fill_text(void *p, size_t len, __u64 *seed)
{
	static const char words[][9] = {
		"memory, ", "the page", " of a   ", "guest   ", "written ", "migrate ",
		"source. ", "stream: ", "between ", "another ", "chunks, ", "kernel; ",
		"virtual ", "machine ", "\n\n\n\n    ", "address ",
	};
	size_t i;

	for (i = 0; i < len; i += 8)
		memcpy((char *)p + i, words[rnd(seed) % ARRAY_SIZE(words)], 8);
}

/* ------------------------------------------------------------------ content */

static void text_over(pair_fn pair, __u32 compression)
{
	struct mem from = mem_new(5 * CHUNK + 100), fresh = mem_new(from.pages);
	struct mem junk = mem_new(from.pages);
	struct migr_migration_status s, d;
	__u64 seed = test_seed;
	struct link l;

	fill_text(from.p, from.len, &seed);
	fill_random(junk.p, junk.len, &seed);
	/* Holes in it, and zeroes, are bits as ever. */
	SYS(madvise(mem_page(&from, 100), 30 * TEST_PAGE, MADV_REMOVE));
	memset(mem_page(&from, 700), 0, 20 * TEST_PAGE);
	lru_drain();
	link_open_compressed(&l, pair, &from, &fresh, compression, 0);
	link_run(&l);
	expect_equal(&from, &fresh);
	s = link_status(l.source);
	d = link_status(l.destination);
	diag("%llu bytes to %llu", (unsigned long long)s.compressed_bytes,
	     (unsigned long long)s.compressed_wire_bytes);
	CHECK_EQ(s.hole_pages, 30);
	CHECK_EQ(s.zero_pages, 20);
	CHECK_EQ(s.incompressible_chunks, 0);
	CHECK(s.compressed_chunks >= 6, "%llu chunks", (unsigned long long)s.compressed_chunks);
	CHECK_EQ(s.compressed_bytes, s.data_pages * TEST_PAGE);
	CHECK(s.compressed_wire_bytes && s.compressed_wire_bytes < s.compressed_bytes / 2,
	      "%llu bytes to %llu", (unsigned long long)s.compressed_bytes,
	      (unsigned long long)s.compressed_wire_bytes);
	CHECK(s.wire_bytes < s.compressed_wire_bytes + 4096, "%llu bytes on the wire",
	      (unsigned long long)s.wire_bytes);
	CHECK(s.compression_ns, "it took no time");
	CHECK_EQ(d.compressed_chunks, s.compressed_chunks);
	CHECK_EQ(d.compressed_bytes, s.compressed_bytes);
	CHECK_EQ(d.compressed_wire_bytes, s.compressed_wire_bytes);
	CHECK_EQ(d.wire_bytes, s.wire_bytes);
	link_close(&l);

	link_open_compressed(&l, pair, &from, &junk, compression, 0);
	link_run(&l);
	expect_equal(&from, &junk);
	link_close(&l);
}

static void lz4_text(void)
{
	text_over(unix_pair, MIGR_COMPRESSION_LZ4);
}

static void zstd_text(void)
{
	text_over(tcp_pair, MIGR_COMPRESSION_ZSTD);
}

static void encrypted_text(void)
{
	text_over(aes_128_pair, MIGR_COMPRESSION_LZ4);
}

/* What does not compress is looked at ever more seldom, but is looked at again. */
static void random_data(void)
{
	struct mem from = mem_new(32 * CHUNK), to = mem_new(32 * CHUNK);
	const __u64 data = 32 * 16 * TEST_PAGE;
	struct migr_migration_status st;
	__u64 seed = test_seed, i;
	struct link l;

	for (i = 0; i < from.pages; i += CHUNK)
		fill_random(mem_page(&from, i), 16 * TEST_PAGE, &seed);
	link_open_compressed(&l, tcp_pair, &from, &to, MIGR_COMPRESSION_LZ4, 0);
	link_receive_start(&l);
	link_pass(&l, 0);
	st = link_status(l.source);
	CHECK_EQ(st.compressed_chunks, 0);
	/* Chunks 0, 2, 5, 10 and 19; the 16 after that are passed over. */
	CHECK_EQ(st.incompressible_chunks, 5);
	CHECK_EQ(st.pass_saved_bytes, 0);
	CHECK(st.wire_bytes > data, "%llu bytes", (unsigned long long)st.wire_bytes);
	for (i = 0; i < from.pages; i += CHUNK)
		fill_text(mem_page(&from, i), 16 * TEST_PAGE, &seed);
	link_pass(&l, 0);
	st = link_status(l.source);
	CHECK_EQ(st.compressed_chunks, 32 - 4);
	CHECK_EQ(st.incompressible_chunks, 5);
	CHECK_EQ(st.pass_saved_bytes, st.compressed_bytes - st.compressed_wire_bytes);
	CHECK(st.pass_saved_bytes > data / 3, "%llu bytes saved",
	      (unsigned long long)st.pass_saved_bytes);
	link_last(&l);
	expect_equal(&from, &to);
}

/* A few pages are not worth it. */
static void few_pages(void)
{
	struct mem from = mem_new(4 * CHUNK), to = mem_new(4 * CHUNK);
	struct migr_migration_status st;
	__u64 seed = test_seed, i;
	struct link l;

	for (i = 0; i < 4; i++)
		fill_text(mem_page(&from, i * CHUNK), 3 * TEST_PAGE, &seed);
	link_open_compressed(&l, unix_pair, &from, &to, MIGR_COMPRESSION_ZSTD, 0);
	link_run(&l);
	st = link_status(l.source);
	CHECK_EQ(st.compressed_chunks, 0);
	CHECK_EQ(st.incompressible_chunks, 0);
	expect_equal(&from, &to);
}

/* Two streams with an algorithm each and one without, under writers. */
static void under_writers(void)
{
	struct mem from = mem_new(8 * CHUNK), to = mem_new(8 * CHUNK);
	struct migr_migration_status st;
	__u64 seed = test_seed;
	struct workload w;
	struct bundle b;
	unsigned int i;

	fill_text(from.p, from.len, &seed);
	workload_start(&w, &from, MEET_PARALLEL);
	gate_open(w.gate);
	bundle_open(&b, &from, &to);
	for (i = 0; i < 3; i++) {
		struct migr_migration_add_stream arg = { .compression = i };
		struct strand *s = bundle_join_arg(&b, tcp_pair, arg);

		strand_receive(s);
	}
	for (i = 0; i < 4; i++) {
		workload_turn(&w);
		bundle_pass(&b, 0);
		CHECK_EQ(link_status(b.side[0]).state, MIGR_STATE_BETWEEN);
	}
	gate_close(w.gate);
	bundle_last(&b);
	bundle_check(&b);
	st = link_status(b.side[0]);
	diag("%llu chunks compressed, %llu not worth it", (unsigned long long)st.compressed_chunks,
	     (unsigned long long)st.incompressible_chunks);
	CHECK(st.compressed_chunks, "nothing was compressed");
	expect_equal(&from, &to);
	workload_stop(&w);
	bundle_close(&b);
}

/* ------------------------------------------------------------------ signals */

static void ignored(int sig)
{
	(void)sig;
}

struct interrupted {
	int stream, ret;
	unsigned int times, ended;
};

static void *run_interrupted(void *arg)
{
	struct interrupted *r = arg;

	r->ret = stream_run_through(r->stream, &r->times);
	__atomic_store_n(&r->ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* A signal may come anywhere; the run goes on from there. */
static void signals(void)
{
	struct mem from = mem_new(8 * CHUNK), to = mem_new(8 * CHUNK);
	struct sigaction sa = { .sa_handler = ignored };
	struct interrupted r[2] = { 0 };
	pthread_t threads[2];
	__u64 seed = test_seed;
	struct link l;
	int i;

	SYS(sigaction(SIGUSR1, &sa, NULL));
	fill_text(from.p, from.len, &seed);
	link_open_compressed(&l, unix_pair, &from, &to, MIGR_COMPRESSION_LZ4, 0);
	CALL(migration_pass(l.source, MIGR_PASS_LAST));
	r[0].stream = l.source_stream;
	r[1].stream = l.destination_stream;
	for (i = 0; i < 2; i++)
		threads[i] = thread_start(run_interrupted, &r[i]);
	while (!__atomic_load_n(&r[0].ended, __ATOMIC_ACQUIRE) ||
	       !__atomic_load_n(&r[1].ended, __ATOMIC_ACQUIRE)) {
		for (i = 0; i < 2; i++)
			pthread_kill(threads[i], SIGUSR1);
		poll_pause();
	}
	for (i = 0; i < 2; i++) {
		thread_join(threads[i]);
		CHECK_EQ(r[i].ret, 0);
	}
	diag("interrupted %u and %u times", r[0].times, r[1].times);
	CHECK(r[0].times + r[1].times, "no signal hit a run");
	CHECK(link_status(l.source).compressed_chunks >= 8, "not all was compressed");
	expect_equal(&from, &to);
}

/* ----------------------------------------------------------------------- CPU */

struct hog {
	unsigned int cpu;
	unsigned int turns, end;
};

static void *hog_cpu(void *arg)
{
	struct hog *h = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(h->cpu, &set);
	SYS(sched_setaffinity(0, sizeof(set), &set));
	while (!__atomic_load_n(&h->end, __ATOMIC_RELAXED))
		__atomic_add_fetch(&h->turns, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* One more pass, all of it text again. */
static struct migr_migration_status text_pass(struct link *l, struct mem *from, __u64 *seed)
{
	fill_text(from->p, from->len, seed);
	link_pass(l, 0);
	return link_status(l->source);
}

/* Not while the CPUs have something else to do, and as soon as they have not. */
static void busy_cpus(void)
{
	struct mem from = mem_new(2 * CHUNK), to = mem_new(2 * CHUNK);
	unsigned int nr = (unsigned int)SYS(sysconf(_SC_NPROCESSORS_ONLN)), i;
	struct hog *hogs = private_alloc(nr * sizeof(*hogs));
	pthread_t *threads = private_alloc(nr * sizeof(*threads));
	struct migr_migration_status st;
	__u64 seed = test_seed, end;
	struct link l;

	for (i = 0; i < nr; i++) {
		hogs[i].cpu = i;
		threads[i] = thread_start(hog_cpu, &hogs[i]);
		WAIT_FOR(__atomic_load_n(&hogs[i].turns, __ATOMIC_RELAXED) > 1000, RUN_S);
	}
	link_open_compressed(&l, unix_pair, &from, &to, MIGR_COMPRESSION_LZ4, 100);
	link_receive_start(&l);
	end = now_ns() + 1000000000;
	do {
		st = text_pass(&l, &from, &seed);
	} while (now_ns() < end);
	CHECK_EQ(st.compressed_chunks + st.incompressible_chunks, 0);
	for (i = 0; i < nr; i++)
		__atomic_store_n(&hogs[i].end, 1, __ATOMIC_RELAXED);
	for (i = 0; i < nr; i++)
		thread_join(threads[i]);
	WAIT_FOR(text_pass(&l, &from, &seed).compressed_chunks, RUN_S);
	link_last(&l);
	expect_equal(&from, &to);
}

/* No more than its share, however idle they are. */
static void share_of_cpus(void)
{
	struct mem from = mem_new(CHUNK / 4), to = mem_new(CHUNK / 4);
	__u64 seed = test_seed, begun = now_ns(), most;
	long nr = SYS(sysconf(_SC_NPROCESSORS_ONLN));
	struct migr_migration_status st;
	struct link l;

	link_open_compressed(&l, unix_pair, &from, &to, MIGR_COMPRESSION_ZSTD, 1);
	link_receive_start(&l);
	do {
		st = text_pass(&l, &from, &seed);
	} while (now_ns() < begun + 3000000000);
	diag("%llu chunks in %llu ms", (unsigned long long)st.compressed_chunks,
	     (unsigned long long)st.compression_ns / 1000000);
	/* The one that takes it beyond included, which may be slower than most. */
	most = (now_ns() - begun) / 100 * (__u64)nr;
	if (st.compressed_chunks > 1)
		most += 3 * st.compression_ns / st.compressed_chunks;
	else
		most += st.compression_ns;
	CHECK(st.compressed_chunks, "nothing was compressed");
	CHECK(st.compression_ns <= most, "%llu ns of at most %llu",
	      (unsigned long long)st.compression_ns, (unsigned long long)most);
	CHECK(st.compressed_chunks < st.passes, "every chunk was compressed");
	link_last(&l);
	expect_equal(&from, &to);
}

/* ------------------------------------------------------------ hostile sources */

#define PACKED_PAGES	16
#define REGION_PAGES	64

/* A chunk on the wire: header, masks and as many bytes of content. */
struct packed {
	struct migr_wire_hdr hdr;
	struct migr_wire_masks masks;
	union {
		__le32 units[MIGR_WIRE_UNITS];
		unsigned char body[REGION_PAGES * TEST_PAGE];
	};
	size_t bytes;
};

static void set_body(struct packed *p, size_t bytes)
{
	p->bytes = bytes;
	p->hdr.length = htole32((__u32)(sizeof(p->masks) + bytes));
}

/* A chunk of one unit has this one, of as many bytes. */
static void set_unit(struct packed *p, size_t bytes)
{
	p->units[0] = htole32((__u32)bytes);
	set_body(p, sizeof(*p->units) + bytes);
}

static void set_units(struct packed *p, size_t bytes, size_t more)
{
	p->units[1] = htole32((__u32)more);
	set_unit(p, bytes);
	set_body(p, p->bytes + sizeof(*p->units) + more);
}

static size_t unit_bytes(const struct packed *p, unsigned int unit)
{
	return le32toh(p->units[unit]);
}

/* What a source makes of a chunk of @m. */
static struct packed capture(const struct mem *m, __u32 compression)
{
	int migration = (int)CALL(migration_create(m->dev, MIGR_ROLE_SOURCE));
	struct packed p = { 0 };
	struct strand s;

	unix_pair(s.sock);
	CALL(migration_add_region(migration, m->fd, 0));
	s.stream[0] = (int)CALL(migration_add_stream_compressed(migration, s.sock[0], 0,
								compression, 0));
	CALL(migration_pass(migration, 0));
	s.thread[0] = thread_start(run_source, &s);
	CHECK(recv_all(s.sock[1], &p, offsetof(struct packed, body)), "no chunk came");
	p.bytes = le32toh(p.hdr.length) - sizeof(p.masks);
	CHECK(p.bytes && p.bytes <= sizeof(p.body), "%zu bytes", p.bytes);
	CHECK(recv_all(s.sock[1], p.body, p.bytes), "not all of the content came");
	CALL(stream_shutdown(s.stream[0]));
	thread_join(s.thread[0]);
	SYS(close(s.stream[0]));
	SYS(close(migration));
	SYS(close(s.sock[0]));
	SYS(close(s.sock[1]));
	return p;
}

/* The first pages of a region are text; a chunk with them, compressed. */
static struct packed capture_text(struct mem *m, unsigned int pages, __u32 compression)
{
	__u64 seed = test_seed;
	struct packed p;

	*m = mem_new(REGION_PAGES);
	fill_text(m->p, pages * TEST_PAGE, &seed);
	p = capture(m, compression);
	CHECK_EQ(le16toh(p.hdr.flags), MIGR_WIRE_COMPRESSED);
	CHECK(p.bytes < pages * TEST_PAGE / 2, "%zu bytes", p.bytes);
	CHECK_EQ(le64toh(p.masks.data[0]), ~0ULL >> (64 - pages));
	/* What is not sent is not looked at. */
	memset(&p.masks.zero, 0, sizeof(p.masks.zero));
	return p;
}

/* What a destination's run says to the first @bytes of it. */
static int give(const struct mem *m, __u32 compression, const struct packed *p, size_t bytes)
{
	int migration = (int)CALL(migration_create(m->dev, MIGR_ROLE_DESTINATION));
	int pair[2], stream, ret;

	unix_pair(pair);
	CALL(migration_add_region(migration, m->fd, 0));
	stream = (int)CALL(migration_add_stream_compressed(migration, pair[0], 0, compression, 0));
	CHECK_EQ(send(pair[1], p, bytes, MSG_NOSIGNAL), (long long)bytes);
	SYS(shutdown(pair[1], SHUT_WR));
	ret = stream_run(stream);
	CHECK_EQ(link_status(migration).state, MIGR_STATE_FAILED);
	SYS(close(stream));
	SYS(close(migration));
	SYS(close(pair[0]));
	SYS(close(pair[1]));
	return ret;
}

static size_t all_of(const struct packed *p)
{
	return offsetof(struct packed, body) + p->bytes;
}

/* A region that a bad frame must not change, nor its neighbour. */
struct victim {
	struct mem m, neighbour;
	unsigned char *before, *beside;
};

static struct victim victim(void)
{
	struct victim v = { .m = mem_new(REGION_PAGES), .neighbour = mem_new(REGION_PAGES) };
	__u64 seed = test_seed + 1;

	fill_random(v.m.p, v.m.len, &seed);
	fill_random(v.neighbour.p, v.neighbour.len, &seed);
	v.before = private_alloc(v.m.len);
	v.beside = private_alloc(v.m.len);
	memcpy(v.before, v.m.p, v.m.len);
	memcpy(v.beside, v.neighbour.p, v.m.len);
	return v;
}

static void expect_unchanged(const struct victim *v, const char *what)
{
	CHECK(first_difference(v->before, v->m.p, v->m.len) < 0, "%s changed page %lld", what,
	      first_difference(v->before, v->m.p, v->m.len) / (long long)TEST_PAGE);
	CHECK(first_difference(v->beside, v->neighbour.p, v->m.len) < 0,
	      "%s changed the neighbour", what);
}

/* The pages that a frame names may have changed when it is found to be bad. */
static void restore_named(const struct victim *v, const struct packed *p)
{
	unsigned int i;

	for (i = 0; i < REGION_PAGES; i++)
		if (le64toh(p->masks.data[0]) >> i & 1)
			memcpy(mem_page(&v->m, i), v->before + i * TEST_PAGE, TEST_PAGE);
}

static void expect_refused(const struct victim *v, __u32 compression, const char *what,
			   const struct packed *p, size_t bytes, int error)
{
	int ret = give(&v->m, compression, p, bytes);

	CHECK(ret == -error, "%s: %d (%s), not %s", what, ret, strerror(-ret), strerror(error));
	if (error == EBADMSG)
		restore_named(v, p);
	expect_unchanged(v, what);
}

static void bad_frames_of(__u32 compression, __u32 other)
{
	struct victim v = victim();
	struct packed good, p;
	struct mem text;
	size_t len;

	good = capture_text(&text, PACKED_PAGES, compression);
	/* It is what is wrong with the others that is refused. */
	CHECK_EQ(give(&v.m, compression, &good, all_of(&good)), -ECONNRESET);
	CHECK(!memcmp(v.m.p, text.p, PACKED_PAGES * TEST_PAGE), "the good one did not arrive");
	CHECK_EQ(first_difference(v.before + PACKED_PAGES * TEST_PAGE,
				  v.m.p + PACKED_PAGES * TEST_PAGE,
				  v.m.len - PACKED_PAGES * TEST_PAGE), -1);
	memcpy(v.m.p, v.before, v.m.len);

#define REFUSE(what, error, ...)						\
	do {									\
		p = good;							\
		__VA_ARGS__;							\
		expect_refused(&v, compression, what, &p, all_of(&p), error);	\
	} while (0)

	REFUSE("compressed in version 1", EPROTO, p.hdr.version = 1);
	REFUSE("one more flag", EPROTO, p.hdr.flags |= htole16(4));
	REFUSE("LAST as well", EPROTO, p.hdr.flags |= htole16(MIGR_WIRE_LAST));
	REFUSE("no content", EPROTO, set_body(&p, 0));
	REFUSE("as much as the pages", EPROTO, set_body(&p, PACKED_PAGES * TEST_PAGE));
	REFUSE("a length beyond a chunk", EPROTO,
	       p.hdr.length = htole32(sizeof(p.masks) + CHUNK * TEST_PAGE));
	REFUSE("no pages", EPROTO, p.masks.data[0] = 0);
	REFUSE("a compressed end of a pass", EPROTO,
	       p.hdr.type = MIGR_WIRE_PASS_END; p.hdr.length = 0);
	REFUSE("a page more", EBADMSG, p.masks.data[0] = htole64((2ULL << PACKED_PAGES) - 1));
	REFUSE("a page less", EBADMSG, p.masks.data[0] = htole64((1ULL << PACKED_PAGES) / 2 - 1));
	REFUSE("a byte less", EPROTO, set_body(&p, p.bytes - 1));
	REFUSE("a byte more", EPROTO, set_body(&p, p.bytes + 1));
	REFUSE("no room for how long it is", EPROTO, set_body(&p, sizeof(*p.units) - 1));
	REFUSE("a unit of nothing", EPROTO, set_unit(&p, 0));
	REFUSE("a unit too many", EPROTO,
	       memcpy(p.body + p.bytes, p.body, p.bytes); set_body(&p, 2 * p.bytes));
	REFUSE("a unit too few", EPROTO, p.masks.data[0] = htole64(~0ULL));
	REFUSE("a unit a byte shorter", EBADMSG, set_unit(&p, unit_bytes(&p, 0) - 1));
	REFUSE("half of a unit", EBADMSG, set_unit(&p, unit_bytes(&p, 0) / 2));
	REFUSE("a byte of a unit", EBADMSG, set_unit(&p, 1));
	REFUSE("a unit a byte longer", EBADMSG,
	       set_unit(&p, unit_bytes(&p, 0) + 1); p.body[p.bytes - 1] = 0x5a);
	REFUSE("a unit twice in one", EBADMSG,
	       memcpy(p.body + p.bytes, &p.units[1], unit_bytes(&p, 0));
	       set_unit(&p, 2 * unit_bytes(&p, 0)));
#undef REFUSE
	for (len = 0; len < all_of(&good); len += len < offsetof(struct packed, body) ? 31 : 997)
		expect_refused(&v, compression, "cut off", &good, len, ECONNRESET);
	expect_refused(&v, MIGR_COMPRESSION_NONE, "not agreed on", &good, all_of(&good), EPROTO);
	expect_refused(&v, other, "the other algorithm", &good, all_of(&good), EBADMSG);
}

static void bad_lz4_frames(void)
{
	bad_frames_of(MIGR_COMPRESSION_LZ4, MIGR_COMPRESSION_ZSTD);
}

static void bad_zstd_frames(void)
{
	bad_frames_of(MIGR_COMPRESSION_ZSTD, MIGR_COMPRESSION_LZ4);
}

/* As many pages as the algorithms take at once, of which one is said to be there. */
static void bombs(void)
{
	struct mem m = mem_new(MIGR_WIRE_UNIT_PAGES);
	struct victim v = victim();
	struct packed p;
	unsigned int i;

	memset(m.p, 0x11, m.len);
	for (i = 0; i < ARRAY_SIZE(both); i++) {
		p = capture(&m, both[i]);
		CHECK(p.bytes < m.len / 100, "%zu bytes", p.bytes);
		memset(&p.masks, 0, sizeof(p.masks));
		p.masks.data[0] = htole64(1);
		expect_refused(&v, both[i], "a bomb", &p, all_of(&p), EBADMSG);
	}
}

/*
 * A little more than a whole unit, for which the memory that it is expanded in is just
 * large enough: what were written beyond it, a kernel that checks each access would see.
 */
static void too_much(void)
{
	struct mem m = mem_new(MIGR_WIRE_UNIT_PAGES);
	struct victim v = victim();
	struct packed good, p;
	unsigned int i, longer;
	unsigned char *unit = (unsigned char *)&p.units[1];
	size_t bytes;

	memset(m.p, 0x11, m.len);
	for (i = 0; i < ARRAY_SIZE(both); i++) {
		good = capture(&m, both[i]);
		bytes = unit_bytes(&good, 0);
		/* To lz4 each is 255 bytes of a run. */
		for (longer = 1; longer <= 20; longer++) {
			p = good;
			memset(unit + bytes / 2, 0xff, longer);
			memcpy(unit + bytes / 2 + longer,
			       (unsigned char *)&good.units[1] + bytes / 2, bytes - bytes / 2);
			set_unit(&p, bytes + longer);
			expect_refused(&v, both[i], "too long a run", &p, all_of(&p), EBADMSG);
		}
		p = good;
		memcpy(unit + bytes, unit, bytes);
		set_unit(&p, 2 * bytes);
		expect_refused(&v, both[i], "two units in one", &p, all_of(&p), EBADMSG);
	}
}

/*
 * Units that are good are in their pages already when a later one is found to be bad: who
 * tracks the region is told.
 */
static void bad_unit(void)
{
	struct victim v = victim();
	int tracker = (int)CALL(region_track(v.m.fd));
	struct migr_tracker_fetch f;
	struct packed good, p;
	__u64 written;
	struct mem text;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(both); i++) {
		good = capture_text(&text, REGION_PAGES, both[i]);
		CHECK_EQ(2 * sizeof(*good.units) + unit_bytes(&good, 0) + unit_bytes(&good, 1),
			 good.bytes);
		CHECK_EQ(give(&v.m, both[i], &good, all_of(&good)), -ECONNRESET);
		CHECK_EQ(first_difference(text.p, v.m.p, v.m.len), -1);
		memcpy(v.m.p, v.before, v.m.len);

		p = good;
		set_units(&p, unit_bytes(&p, 0), unit_bytes(&p, 1) - 1);
		tracker_settle(tracker, REGION_PAGES);
		CHECK_EQ(give(&v.m, both[i], &p, all_of(&p)), -EBADMSG);
		CHECK(!memcmp(text.p, v.m.p, MIGR_WIRE_UNIT_PAGES * TEST_PAGE),
		      "the first unit is not in its pages");
		CALL(tracker_fetch(tracker, 0, REGION_PAGES, &written, &f));
		CHECK(!(~written & UINT32_MAX), "%#llx were written", (unsigned long long)written);
		memcpy(v.m.p, v.before, MIGR_WIRE_UNIT_PAGES * TEST_PAGE);
		expect_unchanged(&v, "the second unit");

		p = good;
		set_units(&p, MIGR_WIRE_UNIT_PAGES * TEST_PAGE + 1, 1);
		expect_refused(&v, both[i], "a unit larger than its pages", &p, all_of(&p), EPROTO);
		p.masks.data[0] = htole64(~0ULL >> (63 - MIGR_WIRE_UNIT_PAGES));
		set_units(&p, 1, TEST_PAGE + 1);
		expect_refused(&v, both[i], "a last one larger than its page", &p, all_of(&p),
			       EPROTO);
		p = good;
		p.units[1] = htole32((__u32)unit_bytes(&p, 1) + 1);
		expect_refused(&v, both[i], "more than there is", &p, all_of(&p), EPROTO);
		mem_free(&text);
	}
	SYS(close(tracker));
}

/* What cannot be compressed is no reason not to compress the rest. */
static void mixed_units(void)
{
	struct mem from = mem_new(CHUNK + 40), to = mem_new(CHUNK + 40);
	struct migr_migration_status st;
	__u64 seed = test_seed;
	struct link l;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(both); i++) {
		fill_text(from.p, from.len, &seed);
		/* Not by units, but for all of a small one. */
		fill_random(mem_page(&from, 80), 90 * TEST_PAGE, &seed);
		fill_random(mem_page(&from, CHUNK + MIGR_WIRE_UNIT_PAGES), 8 * TEST_PAGE, &seed);
		lru_drain();
		link_open_compressed(&l, unix_pair, &from, &to, both[i], 0);
		link_run(&l);
		st = link_status(l.source);
		CHECK(st.compressed_chunks >= 2, "not all was compressed");
		CHECK_EQ(st.incompressible_chunks, 0);
		CHECK(st.compressed_wire_bytes > 90 * TEST_PAGE, "%llu bytes",
		      (unsigned long long)st.compressed_wire_bytes);
		expect_equal(&from, &to);
		link_close(&l);
	}
}

/* Any bytes at all: they are refused, or change the pages that they name alone. */
static void garbage(void)
{
	struct packed good[2], p;
	struct victim v = victim();
	__u64 seed = test_seed;
	struct mem text;
	unsigned int i, k, taken = 0, expanded = 0;

	for (i = 0; i < 2; i++)
		good[i] = capture_text(&text, PACKED_PAGES, both[i]);
	for (i = 0; i < 200; i++) {
		unsigned int which = i % 2;
		int ret;

		p = good[which];
		if (i % 8 < 2) {
			fill_random(p.body, sizeof(p.body), &seed);
			set_unit(&p, 1 + rnd(&seed) % (PACKED_PAGES * TEST_PAGE - 5));
		} else {
			for (k = 1 + rnd(&seed) % 4; k; k--)
				p.body[rnd(&seed) % p.bytes] ^= 1 << rnd(&seed) % 8;
		}
		ret = give(&v.m, both[which], &p, all_of(&p));
		CHECK(ret == -EBADMSG || ret == -ECONNRESET || ret == -EPROTO, "attempt %u: %d",
		      i, ret);
		taken += ret == -ECONNRESET;
		if (ret != -EPROTO) {
			expanded++;
			restore_named(&v, &p);
		}
		expect_unchanged(&v, "garbage");
	}
	diag("%u of %u were as good as any", taken, expanded);
	CHECK(expanded > 100 && taken < expanded, "too few were refused for their content");
}

/* ------------------------------------------------------------------ the rest */

/* Without a word about compression, frames are plain. */
static void not_asked_for(void)
{
	struct mem m = mem_new(REGION_PAGES);
	__u64 seed = test_seed;
	struct packed p;

	fill_text(m.p, PACKED_PAGES * TEST_PAGE, &seed);
	p = capture(&m, MIGR_COMPRESSION_NONE);
	CHECK_EQ(p.hdr.flags, 0);
	CHECK_EQ(p.bytes, PACKED_PAGES * TEST_PAGE);
	CHECK(!memcmp(p.body, m.p, p.bytes), "these are not the pages");
}

static void interface(void)
{
	struct mem m = mem_new(1);
	int mig[2] = { (int)CALL(migration_create(m.dev, MIGR_ROLE_SOURCE)),
		       (int)CALL(migration_create(m.dev, MIGR_ROLE_DESTINATION)) };
	struct migr_migration_add_stream arg = { .compression = 1, .__reserved = 1 };
	struct migr_info info;
	int pair[2], i;

	memset(&info, 0, sizeof(info));
	info.size = sizeof(info);
	info.__reserved = 1;
	CALL_ERR(test_ioctl(m.dev, MIGR_INFO, &info), EINVAL);
	CALL(dev_info(m.dev, &info));
	CHECK_EQ(info.compressions, 0);
	CALL(dev_info_flags(m.dev, MIGR_INFO_COMPRESSIONS, &info));
	CHECK_EQ(info.compressions, 1 << MIGR_COMPRESSION_LZ4 | 1 << MIGR_COMPRESSION_ZSTD);
	unix_pair(pair);
	for (i = 0; i < 2; i++) {
		CALL(migration_add_region(mig[i], m.fd, 0));
		CALL_ERR(migration_add_stream_compressed(mig[i], pair[i], 0, 3, 0), EINVAL);
		CALL_ERR(migration_add_stream_compressed(mig[i], pair[i], 0, ~0U, 0), EINVAL);
		CALL_ERR(migration_add_stream_compressed(mig[i], pair[i], 0, 1, 101), EINVAL);
		arg.socket_fd = pair[i];
		CALL_ERR(migration_add_stream_arg(mig[i], arg), EINVAL);
	}
	CALL_ERR(migration_add_stream_compressed(mig[1], pair[1], 0, 1, 50), EINVAL);
	/* What failed has used no number. */
	CALL(migration_add_stream_compressed(mig[0], pair[0], 0, 1, 100));
	CALL(migration_add_stream_compressed(mig[1], pair[1], 0, 1, 0));
}

static const struct test_case cases[] = {
	CASE(interface),
	CASE(lz4_text),
	CASE(zstd_text),
	CASE(encrypted_text),
	CASE(random_data),
	CASE(few_pages),
	CASE(under_writers),
	CASE(signals),
	CASE(busy_cpus),
	CASE_TIMED(share_of_cpus),
	CASE(bad_lz4_frames),
	CASE(bad_zstd_frames),
	CASE(bombs),
	CASE(too_much),
	CASE(bad_unit),
	CASE(mixed_units),
	CASE(garbage),
	CASE(not_asked_for),
};

int main(int argc, char **argv)
{
	struct migr_info info;
	int dev = dev_open();

	/* The modules of the algorithms take longer to load than some tests wait. */
	dev_info_flags(dev, MIGR_INFO_COMPRESSIONS, &info);
	close(dev);
	return workload_main(cases, ARRAY_SIZE(cases), argc, argv);
}
