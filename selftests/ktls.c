// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streams over kTLS sockets, with keys that nobody had to agree on: each cipher,
 * records of any size, and what ends a stream: a record that is no data, one that
 * the peer has not encrypted, a key that has been used enough.
 */
#include "ktls.h"

#define TLS_ALERT	21

static void aes_256_pair(int fd[2])
{
	ktls_pair(fd, TLS_CIPHER_AES_GCM_256, 0);
}

static void chacha_pair(int fd[2])
{
	ktls_pair(fd, TLS_CIPHER_CHACHA20_POLY1305, 0);
}

/* ---------------------------------------------------------------- content */

/* Every third page has data. */
static struct mem mem_filled(__u64 pages)
{
	struct mem m = mem_new(pages);
	__u64 seed = test_seed;

	for (__u64 i = 0; i < pages; i++)
		if (i % 3)
			fill_random(mem_page(&m, i), TEST_PAGE, &seed);
	return m;
}

/* Passes between which some pages change, one of them of one page. */
static void move(struct link *l, const struct mem *from)
{
	__u64 seed = test_seed + 1;

	link_receive_start(l);
	link_pass(l, 0);
	for (int i = 0; i < 200; i++)
		fill_random(mem_page(from, rnd(&seed) % from->pages), TEST_PAGE, &seed);
	link_pass(l, 0);
	mem_page(from, 0)[1]++;
	link_last(l);
}

static void moves(pair_fn pair, __u32 flags)
{
	struct mem from = mem_filled(3000), to = mem_new(3000);
	__u64 begun = now_ns();
	struct link l;

	link_open(&l, pair, flags, &from, &to, 1);
	move(&l, &from);
	diag("%llu bytes in %llu ms", (unsigned long long)link_status(l.source).wire_bytes,
	     (unsigned long long)(now_ns() - begun) / 1000000);
	expect_equal(&from, &to);
	link_close(&l);
}

static void unencrypted(void)
{
	moves(tcp_pair, 0);
}

static void aes_128_lent(void)
{
	moves(aes_128_pair, 0);
}

static void aes_128_copied(void)
{
	moves(aes_128_pair, MIGR_STREAM_COPY);
}

static void aes_256_lent(void)
{
	moves(aes_256_pair, 0);
}

static void aes_256_copied(void)
{
	moves(aes_256_pair, MIGR_STREAM_COPY);
}

static void chacha_lent(void)
{
	moves(chacha_pair, 0);
}

static void chacha_copied(void)
{
	moves(chacha_pair, MIGR_STREAM_COPY);
}

/* As libmigr does: then only the stream has the sockets, and pages are locked. */
static void exclusive_sockets(void)
{
	struct mem from = mem_filled(3000), to = mem_new(3000);
	int one = 1;
	struct link l;

	link_open(&l, aes_128_pair, 0, &from, &to, 1);
	setsockopt(l.sock[1], SOL_TLS, TLS_RX_EXPECT_NO_PAD, &one, sizeof(one));
	SYS(close(l.sock[0]));
	SYS(close(l.sock[1]));
	move(&l, &from);
	expect_equal(&from, &to);
	SYS(close(l.source_stream));
	SYS(close(l.destination_stream));
}

/* ---------------------------------------------------------------- records */

struct piecewise {
	int from, to;
};

/* In pieces of any size, so that frames begin and end anywhere in a record. */
static void *carry(void *arg)
{
	const struct piecewise *p = arg;
	__u64 seed = test_seed;
	char bytes[65536];
	ssize_t n, sent, piece;

	while ((n = recv(p->from, bytes, sizeof(bytes), 0)) > 0)
		for (sent = 0; sent < n; sent += piece) {
			piece = 1 + rnd(&seed) % (rnd(&seed) % 8 ? 9000 : 20);
			piece = piece < n - sent ? piece : n - sent;
			if (send(p->to, bytes + sent, piece, MSG_NOSIGNAL) != piece)
				return NULL;
		}
	return NULL;
}

/* The source's end is not encrypted; the destination's is, by who carries the bytes. */
static void piecewise_pair(int fd[2])
{
	static struct piecewise there, back;
	int near[2], far[2];

	unix_pair(near);
	aes_128_pair(far);
	there = (struct piecewise){ near[1], far[0] };
	back = (struct piecewise){ far[0], near[1] };
	thread_start(carry, &there);
	thread_start(carry, &back);
	fd[0] = near[0];
	fd[1] = far[1];
}

static void records_of_any_size(void)
{
	moves(piecewise_pair, 0);
}

/* A warning that could be ignored is no data either. */
static void send_alert(int fd)
{
	char control[CMSG_SPACE(1)] = { 0 }, alert[] = { 1, 90 };
	struct iovec iov = { alert, sizeof(alert) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_TLS;
	cmsg->cmsg_type = TLS_SET_RECORD_TYPE;
	cmsg->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(cmsg) = TLS_ALERT;
	SYS(sendmsg(fd, &msg, MSG_NOSIGNAL));
}

static void alert(void)
{
	struct mem from = mem_filled(100), to = mem_new(100);
	struct link l;

	link_open(&l, aes_128_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	link_pass(&l, 0);
	send_alert(l.sock[0]);
	link_receive_join(&l);
	CHECK_EQ(l.received, -EIO);
	CHECK_EQ(link_status(l.destination).error, EIO);
	link_close(&l);
}

/* Somebody else's bytes, who does not know the key. */
static void foreign_pair(int fd[2])
{
	tcp_pair(fd);
	ktls_end(fd[0], TLS_CIPHER_AES_GCM_128, 1, 1, 0);
	ktls_end(fd[1], TLS_CIPHER_AES_GCM_128, 2, 2, 0);
}

static void foreign_records(void)
{
	struct mem from = mem_filled(100), to = mem_new(100);
	struct link l;

	link_open(&l, foreign_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	CALL(migration_pass(l.source, 0));
	CHECK(stream_run(l.source_stream) < 0, "it was acknowledged");
	link_receive_join(&l);
	CHECK_EQ(l.received, -EBADMSG);
	CHECK(is_zero(to.p, to.len), "some of it is in the memory");
	link_close(&l);
}

/* As many records as RFC 8446 allows, but for some that are kept back, and one more. */
#define LAST_RECORD	(23726566 - 1025)

static void worn_pair(int fd[2])
{
	ktls_pair(fd, TLS_CIPHER_AES_GCM_256, LAST_RECORD);
}

static void worn_chacha_pair(int fd[2])
{
	ktls_pair(fd, TLS_CIPHER_CHACHA20_POLY1305, LAST_RECORD);
}

static void worn_key(void)
{
	struct mem from = mem_filled(2000), to = mem_new(2000);
	struct link l;

	link_open(&l, worn_pair, 0, &from, &to, 1);
	link_receive_start(&l);
	CALL(migration_pass(l.source, 0));
	CHECK_EQ(stream_run(l.source_stream), -EKEYEXPIRED);
	link_receive_join(&l);
	CHECK_EQ(l.received, -ECONNRESET);
	CHECK_EQ(link_status(l.source).error, EKEYEXPIRED);
	link_close(&l);
}

/* What one stream may not send any more goes over another. */
static void worn_key_of_one(void)
{
	struct mem from = mem_filled(3000), to = mem_new(3000);
	struct strand *worn, *other;
	struct bundle b;

	bundle_open(&b, &from, &to);
	worn = bundle_join(&b, worn_pair, 0);
	other = bundle_join(&b, aes_256_pair, 0);
	bundle_start(&b, 0);
	/* Meanwhile the other does not get far. */
	thread_join_within(worn->thread[0], RUN_S, "a source with a worn key");
	worn->thread[0] = 0;
	strand_receive(worn);
	strand_receive(other);
	bundle_finish(&b);
	CHECK_EQ(b.strands[0].ret[0], -EKEYEXPIRED);
	bundle_pass(&b, MIGR_PASS_LAST);
	CHECK_EQ(b.strands[1].ret[0], 0);
	bundle_receive_join(&b);
	CHECK_EQ(b.strands[1].ret[1], 0);
	expect_equal(&from, &to);
	bundle_close(&b);
}

/* The limit is that of AES-GCM. */
static void chacha_does_not_wear(void)
{
	moves(worn_chacha_pair, 0);
}

static void aes_128_ends_with_full_queue(void)
{
	ends_with_full_queue(aes_128_pair);
}

static const struct test_case cases[] = {
	CASE(unencrypted),
	CASE(aes_128_lent),
	CASE(aes_128_copied),
	CASE(aes_256_lent),
	CASE(aes_256_copied),
	CASE(chacha_lent),
	CASE(chacha_copied),
	CASE(exclusive_sockets),
	CASE(records_of_any_size),
	CASE(alert),
	CASE(foreign_records),
	CASE(worn_key),
	CASE(worn_key_of_one),
	CASE(chacha_does_not_wear),
	CASE(aes_128_ends_with_full_queue),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
