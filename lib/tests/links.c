// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which links two made-up hosts share, how many streams each gets, and what is a
 * network.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <libmnl/libmnl.h>

#include "internal.h"

static struct host_address address(const char *name, const char *text, unsigned int prefix,
				   uint32_t speed)
{
	struct host_address a = { .mtu = 1500, .speed = speed };

	strcpy(a.name, name);
	assert_true(links_parse_address(text, &a));
	a.prefix = prefix;
	return a;
}

static void assert_pair(const struct host_link *l, const char *here, const char *there,
			uint32_t speed)
{
	assert_string_equal(l->here.name, here);
	assert_string_equal(l->there.name, there);
	assert_int_equal(l->speed, speed);
	assert_true(l->bound);
}

static void test_match(void **state)
{
	struct host_address here[] = {
		address("lan0", "192.0.2.1", 24, 1000),
		address("fast0", "198.51.100.1", 25, 100000),
		address("other0", "203.0.113.1", 24, 10000),
		address("wide0", "10.1.0.1", 16, 10000),
	};
	struct host_address there[] = {
		address("eth1", "198.51.100.2", 25, 25000),
		address("eth0", "192.0.2.2", 24, 0),
		/* The same network, but half of it: who knows what is in between. */
		address("eth2", "10.1.0.2", 24, 10000),
	};
	struct host_link links[LINKS_MAX];

	(void)state;
	assert_int_equal(links_match(here, 4, there, 3, links), 2);
	/* The slower side's speed, or that which is known. */
	assert_pair(&links[0], "fast0", "eth1", 25000);
	assert_pair(&links[1], "lan0", "eth0", 1000);
	assert_int_equal(links_match(here, 0, there, 3, links), 0);
	assert_int_equal(links_match(here, 4, there, 0, links), 0);
}

/* Hosts that have the same bridge for guests of their own do not share it. */
static void test_same_address(void **state)
{
	struct host_address here = address("virbr0", "192.168.122.1", 24, 0);
	struct host_link links[LINKS_MAX];

	(void)state;
	assert_int_equal(links_match(&here, 1, &here, 1, links), 0);
}

/* Both protocols on one cable are one link, and so are two networks on it. */
static void test_interface_once(void **state)
{
	struct host_address here[] = {
		address("a", "192.0.2.1", 24, 1000), address("a", "2001:db8::1", 64, 1000),
		address("b", "198.51.100.1", 24, 1000), address("b", "203.0.113.1", 24, 1000),
	};
	struct host_address there[] = {
		address("x", "2001:db8::2", 64, 1000), address("x", "192.0.2.2", 24, 1000),
		address("x", "198.51.100.2", 24, 1000), address("y", "203.0.113.2", 24, 1000),
	};
	struct host_link links[LINKS_MAX];

	(void)state;
	assert_int_equal(links_match(here, 4, there, 4, links), 2);
	assert_pair(&links[0], "a", "x", 1000);
	assert_int_equal(links[0].here.family, AF_INET);
	assert_pair(&links[1], "b", "y", 1000);
}

/* Three cables into one switch: pairs, the fast ones together. */
static void test_flat_network(void **state)
{
	struct host_address here[] = {
		address("a", "192.0.2.1", 24, 1000), address("b", "192.0.2.2", 24, 10000),
		address("c", "192.0.2.3", 24, 10000),
	};
	struct host_address there[] = {
		address("x", "192.0.2.11", 24, 10000), address("y", "192.0.2.12", 24, 1000),
		address("z", "192.0.2.13", 24, 10000),
	};
	struct host_link links[LINKS_MAX];

	(void)state;
	there[2].mtu = 9000;
	assert_int_equal(links_match(here, 3, there, 3, links), 3);
	assert_pair(&links[0], "b", "z", 10000);
	assert_pair(&links[1], "c", "x", 10000);
	assert_pair(&links[2], "a", "y", 1000);
}

/* What is chosen of two hosts with three links, reached over the first or a router. */
static void assert_chosen_of(bool routed, const struct links_wanted *wanted, const char *chosen)
{
	struct host_address here[] = {
		address("a0", "192.0.2.1", 24, 3000), address("b0", "198.51.100.1", 24, 2000),
		address("c0", "203.0.113.1", 24, 1000),
	};
	struct host_address there[] = {
		address("x0", "192.0.2.2", 24, 3000), address("y0", "198.51.100.2", 24, 2000),
		address("z0", "203.0.113.2", 24, 1000),
	};
	struct host_link path = { .here = here[0], .there = there[0] }, links[LINKS_MAX];
	unsigned int nr;

	if (routed) {
		path.here = address("r0", "10.0.0.1", 24, 0);
		path.there = address("", "10.9.0.1", 32, 0);
	}
	/* The destination offers the last two alone. */
	nr = links_choose(here, 3, there + wanted->restricted, 3 - wanted->restricted, &path,
			  wanted, links);
	assert_int_equal(nr, strlen(chosen));
	for (unsigned int i = 0; i < nr; i++)
		assert_int_equal(links[i].here.name[0], chosen[i]);
}

static void assert_chosen(bool routed, bool restricted, const char *names, const char *networks,
			  const char *chosen)
{
	const struct links_wanted wanted = {
		.names = names, .networks = networks, .restricted = restricted,
	};

	assert_chosen_of(routed, &wanted, chosen);
}

static void test_choose(void **state)
{
	(void)state;
	/* Nobody said anything: all, and the way that the control channel takes first. */
	assert_chosen(false, false, NULL, NULL, "abc");
	assert_chosen(true, false, NULL, NULL, "rbca");
	/* The destination would not have that. */
	assert_chosen(false, true, NULL, NULL, "bc");
	assert_chosen(true, true, NULL, NULL, "bc");
	assert_chosen(false, true, "a0", NULL, "");
	assert_chosen(false, true, "a0,c0", NULL, "c");
	assert_chosen(false, false, "c0,b0", NULL, "bc");
	assert_chosen(false, false, NULL, "0.0.0.0/0", "abc");
	assert_chosen(false, false, NULL, "203.0.113.0/24,192.0.2.0/24", "ac");
	assert_chosen(false, false, "a0,b0", "203.0.113.0/24,192.0.2.0/24", "a");
	assert_chosen(false, false, NULL, "10.0.0.0/8", "");
	/* One end of a link is not enough. */
	assert_chosen(false, false, NULL, "198.51.100.1/32", "");
	/* A way over a router is one more, if it is wanted. */
	assert_chosen(true, false, NULL, "0.0.0.0/0", "rbca");
	assert_chosen(true, false, "r0", NULL, "r");
	assert_chosen(true, false, NULL, "10.0.0.0/24", "");
	assert_chosen(true, false, NULL, "10.0.0.0/8", "r");
}

/* Where nothing is to be used that nobody has named. */
static void test_choose_named(void **state)
{
	struct links_wanted wanted = { .named_only = true };

	(void)state;
	assert_chosen_of(false, &wanted, "a");
	assert_chosen_of(true, &wanted, "r");
	wanted.networks = "0.0.0.0/0";
	assert_chosen_of(false, &wanted, "abc");
	wanted.networks = NULL;
	wanted.restricted = true;
	assert_chosen_of(false, &wanted, "bc");
}

static void test_too_many(void **state)
{
	struct host_address here[LINKS_MAX + 4], there[LINKS_MAX + 4];
	struct host_link links[LINKS_MAX];
	char name[8], text[32];

	(void)state;
	for (int i = 0; i < LINKS_MAX + 4; i++) {
		snprintf(name, sizeof(name), "e%d", i);
		snprintf(text, sizeof(text), "10.0.%d.1", i);
		here[i] = address(name, text, 24, 0);
		snprintf(text, sizeof(text), "10.0.%d.2", i);
		there[i] = address(name, text, 24, 0);
	}
	assert_int_equal(links_match(here, LINKS_MAX + 4, there, LINKS_MAX + 4, links), LINKS_MAX);
}

/* Speeds up to a 0xffffffff at the end, and the streams of each. */
static void assert_shares(unsigned int streams, const uint32_t *speeds,
			  const unsigned int *expected)
{
	struct host_link links[LINKS_MAX] = { 0 };
	unsigned int nr, total = 0;

	for (nr = 0; speeds[nr] != UINT32_MAX; nr++) {
		links[nr].speed = speeds[nr];
		links[nr].streams = 77;
		total += expected[nr];
	}
	assert_int_equal(links_share(links, nr, streams), total);
	for (unsigned int i = 0; i < nr; i++)
		assert_int_equal(links[i].streams, expected[i]);
}

#define SPEEDS(...)	((const uint32_t[]){ __VA_ARGS__, UINT32_MAX })
#define SHARES(...)	((const unsigned int[]){ __VA_ARGS__ })

static void test_share(void **state)
{
	(void)state;
	/* Nobody said how many: what the links can use. */
	assert_shares(0, SPEEDS(0), SHARES(1));
	assert_shares(0, SPEEDS(1000), SHARES(1));
	assert_shares(0, SPEEDS(10000), SHARES(1));
	assert_shares(0, SPEEDS(25000), SHARES(3));
	assert_shares(0, SPEEDS(100000), SHARES(8));
	assert_shares(0, SPEEDS(400000, 10000, 0), SHARES(8, 1, 1));
	assert_shares(0, SPEEDS(UINT32_MAX - 1, 10), SHARES(8, 1));
	/* A number: each has one, and the rest goes by speed. */
	assert_shares(1, SPEEDS(25000, 10000), SHARES(1, 0));
	assert_shares(1, SPEEDS(10000, 25000), SHARES(0, 1));
	assert_shares(3, SPEEDS(100000, 1000, 1000), SHARES(1, 1, 1));
	assert_shares(11, SPEEDS(10000, 1000), SHARES(10, 1));
	assert_shares(12, SPEEDS(1000, 2000, 3000), SHARES(2, 4, 6));
	assert_shares(4, SPEEDS(0, 0), SHARES(2, 2));
	/* Unknown is a gigabit. */
	assert_shares(8, SPEEDS(0, 3000), SHARES(2, 6));
	assert_shares(64, SPEEDS(10), SHARES(64));
}

/* More fast links than a migration can have streams. */
static void test_share_most(void **state)
{
	struct host_link links[LINKS_MAX] = { 0 };
	unsigned int total = 0;

	(void)state;
	for (int i = 0; i < LINKS_MAX; i++)
		links[i].speed = 100000;
	assert_int_equal(links_share(links, LINKS_MAX, 0), MIGR_STREAMS_MAX);
	for (int i = 0; i < LINKS_MAX; i++)
		total += links[i].streams;
	assert_int_equal(total, MIGR_STREAMS_MAX);
}

static void test_pace(void **state)
{
	struct host_link links[] = {
		{ .speed = 10000 }, { .speed = 0 }, { .speed = 4000 }, { .speed = 25000 },
	};
	const unsigned int all[] = { 2, 1, 1, 0 }, one[] = { 0, 1, 0, 0 };

	(void)state;
	assert_int_equal(links_pace(links, all, 4, 0, 15000), 5000);
	assert_int_equal(links_pace(links, all, 4, 1, 15000), 1000);
	assert_int_equal(links_pace(links, all, 4, 2, 15000), 4000);
	/* What is left has all of it. */
	assert_int_equal(links_pace(links, one, 4, 1, 15000), 15000);
	/* However little or much it is, it is a limit. */
	assert_int_equal(links_pace(links, all, 4, 1, 1), 1);
	assert_int_equal(links_pace(links, one, 4, 1, UINT64_MAX), INT64_MAX);
}

/* Links that each could carry all that is allowed have the same share. */
static void test_limit(void **state)
{
	struct host_link links[] = { { .speed = 100000 }, { .speed = 1000 }, { .speed = 0 } };
	struct host_link slow[] = { { .speed = 1000 }, { .speed = 10 } };
	const unsigned int alive[] = { 1, 1, 1 };

	(void)state;
	links_limit(links, 3, 12500000);
	for (int i = 0; i < 3; i++)
		assert_int_equal(links_pace(links, alive, 3, i, 12500000), 12500000 / 3);
	/* One that could not is left what it carries. */
	links_limit(slow, 2, 12500000);
	assert_int_equal(slow[0].speed, 100);
	assert_int_equal(slow[1].speed, 10);
	links_limit(slow, 2, 12500);
	assert_int_equal(links_pace(slow, alive, 2, 1, 12500), 6250);
}

static void test_networks(void **state)
{
	static const char *const good[] = {
		"192.0.2.0/24", "192.0.2.77/24", "0.0.0.0/0", "192.0.2.1", "::/0", "2001:db8::/33",
		"192.0.2.1/32,2001:db8::1/128", "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16",
	};
	static const char *const bad[] = {
		"", ",", "192.0.2.0/24,", ",192.0.2.0/24", "192.0.2.0/33", "192.0.2.0/-1",
		"192.0.2.0/", "192.0.2.0/ 8", "192.0.2.0/8x", "192.0.2/24", "::/129", "eth0",
		"192.0.2.0/24 192.0.3.0/24", "2001:db8:0000:0000:0000:0000:0000:0000:0000:0000/64",
		"192.0.2.0/18446744073709551624",
		"00000000000000000000000000000000000000000000000000000000000000192.0.2.0/24",
	};
	struct error e;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_int_equal(links_check_networks(good[i], &e), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(links_check_networks(bad[i], &e), -EINVAL);
		assert_non_null(strstr(e.text, "not a network"));
	}
}

static void test_names(void **state)
{
	struct error e;

	(void)state;
	assert_int_equal(links_check_names("lo", &e), 0);
	assert_int_equal(links_check_names("lo,lo", &e), 0);
	assert_int_equal(links_check_names("lo,nosuchlink0", &e), -ENODEV);
	assert_string_equal(e.text, "there is no network interface 'nosuchlink0'");
	assert_int_equal(links_check_names("", &e), -ENODEV);
	assert_int_equal(links_check_names("longer-than-a-name-can-be", &e), -ENODEV);
}

/* What is left of four addresses, by the first letters of their interfaces. */
static void assert_left(const char *names, const char *networks, const char *left)
{
	struct host_address a[] = {
		address("a0", "192.0.2.1", 24, 0), address("b0", "198.51.100.129", 25, 0),
		address("c0", "2001:db8::1", 64, 0), address("d0", "10.200.0.1", 16, 0),
	};

	assert_int_equal(links_filter(a, 4, names, networks), strlen(left));
	for (size_t i = 0; left[i]; i++)
		assert_int_equal(a[i].name[0], left[i]);
}

static void test_filter(void **state)
{
	(void)state;
	assert_left(NULL, NULL, "abcd");
	assert_left("b0", NULL, "b");
	assert_left("d0,a0", NULL, "ad");
	assert_left("a", NULL, "");
	assert_left(NULL, "192.0.2.0/24", "a");
	assert_left(NULL, "198.51.100.0/25", "");
	assert_left(NULL, "198.51.100.128/25", "b");
	assert_left(NULL, "0.0.0.0/0", "abd");
	assert_left(NULL, "::/0", "c");
	assert_left(NULL, "10.192.0.0/12,2001:db8::/33", "cd");
	assert_left(NULL, "10.200.0.1", "d");
	assert_left("a0,b0,c0", "10.0.0.0/8,2001:db8::1/128", "c");
}

static void test_sockets(void **state)
{
	struct host_address four = address("", "192.0.2.1", 32, 0), back;
	struct host_address six = address("", "2001:db8::1", 128, 0);
	struct sockaddr_storage ss;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;

	(void)state;
	assert_int_equal(links_to_socket(&four, 4242, &ss), sizeof(struct sockaddr_in));
	assert_int_equal(ntohs(((struct sockaddr_in *)&ss)->sin_port), 4242);
	assert_true(links_from_socket(&ss, &back));
	assert_non_null(links_find_address(&four, 1, &back));
	assert_null(links_find_address(&six, 1, &back));
	assert_int_equal(links_to_socket(&six, 1, &ss), sizeof(struct sockaddr_in6));
	assert_true(links_from_socket(&ss, &back));
	assert_non_null(links_find_address(&six, 1, &back));
	/* What a socket for both says of one for the older. */
	assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.1", &in6->sin6_addr), 1);
	assert_true(links_from_socket(&ss, &back));
	assert_non_null(links_find_address(&four, 1, &back));
	ss.ss_family = AF_UNIX;
	assert_false(links_from_socket(&ss, &back));
}

static void test_messages(void **state)
{
	static const char *const bad[] = {
		"{}", "[1]", "[{}]", "[{\"name\":\"a\",\"address\":\"x\",\"prefix\":24}]",
		"[{\"name\":\"a\",\"address\":\"192.0.2.1\",\"prefix\":33}]",
		"[{\"name\":\"a\",\"address\":\"192.0.2.1\",\"prefix\":-1}]",
		"[{\"name\":\"a\",\"address\":\"192.0.2.1\",\"prefix\":24,\"speed\":-1}]",
		"[{\"name\":\"a\",\"address\":\"192.0.2.1\",\"prefix\":24,\"mtu\":4294967296}]",
		"[{\"name\":\"0123456789abcdef\",\"address\":\"192.0.2.1\",\"prefix\":24}]",
	};
	struct host_address a[] = {
		address("a0", "192.0.2.1", 24, 1000), address("b0", "2001:db8::1", 64, 0),
	};
	struct host_address back[ADDRESSES_MAX];
	json_t *list = links_pack(a, 2);

	(void)state;
	assert_int_equal(links_unpack(list, back), 2);
	for (int i = 0; i < 2; i++) {
		assert_string_equal(back[i].name, a[i].name);
		assert_non_null(links_find_address(&a[i], 1, &back[i]));
		assert_int_equal(back[i].prefix, a[i].prefix);
		assert_int_equal(back[i].mtu, 1500);
		assert_int_equal(back[i].speed, a[i].speed);
	}
	for (int i = 0; i < ADDRESSES_MAX; i++)
		json_array_append(list, json_array_get(list, 0));
	assert_int_equal(links_unpack(list, back), -EPROTO);
	json_decref(list);
	assert_int_equal(links_unpack(NULL, back), -EPROTO);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		list = json_loads(bad[i], 0, NULL);
		assert_non_null(list);
		assert_int_equal(links_unpack(list, back), -EPROTO);
		json_decref(list);
	}
}

/* Whatever this host has, the loopback interface is no link to another. */
static void test_this_host(void **state)
{
	struct host_address a[ADDRESSES_MAX];
	struct error e = { "" };
	int nr = links_find(a, NULL, NULL, NULL, &e);

	(void)state;
	assert_in_range(nr, 0, ADDRESSES_MAX);
	for (int i = 0; i < nr; i++) {
		assert_string_not_equal(a[i].name, "lo");
		assert_true(links_is_running(a[i].name));
		assert_int_not_equal(a[i].mtu, 0);
	}
	assert_true(links_is_running("lo"));
	assert_false(links_is_running("nosuchlink0"));
}

/* What reads the answers of the kernel; here as if they had changed meanwhile. */
static unsigned int interruptions;

int mnl_cb_run(const void *buffer, size_t length, unsigned int seq, unsigned int port,
	       mnl_cb_t callback, void *data)
{
	static typeof(mnl_cb_run) *real;

	if (!real)
		real = (typeof(real))dlsym(RTLD_NEXT, "mnl_cb_run");
	if (!interruptions)
		return real(buffer, length, seq, port, callback, data);
	interruptions--;
	errno = EINTR;
	return MNL_CB_ERROR;
}

static void test_changes_meanwhile(void **state)
{
	struct host_address a[ADDRESSES_MAX];
	struct error e = { "" };
	int nr = links_find(a, NULL, NULL, NULL, &e);

	(void)state;
	interruptions = 4;
	assert_int_equal(links_find(a, NULL, NULL, NULL, &e), nr);
	interruptions = 5;
	assert_int_equal(links_find(a, NULL, NULL, NULL, &e), -EINTR);
	assert_string_equal(e.text, "cannot find the network interfaces: Interrupted system call");
}

/* Many interfaces without an address, as those of guests, are in nobody's way. */
static void test_crowded_host(void **state)
{
	uint64_t end = now_ns() + 20 * NS_PER_S;
	struct host_address a[ADDRESSES_MAX];
	struct error e = { "" };

	(void)state;
	if (unshare(CLONE_NEWNET) ||
	    system("for i in $(seq 40); do ip link add a$i up type veth peer name b$i; done") ||
	    system("for i in $(seq 40); do ip link set b$i up; done") ||
	    system("ip address add 192.0.2.1/24 dev b40"))
		skip();
	while (!links_is_running("b40") && now_ns() < end)
		usleep(1000);
	assert_int_equal(links_find(a, NULL, NULL, NULL, &e), 1);
	assert_string_equal(a[0].name, "b40");
	assert_int_equal(a[0].prefix, 24);
	assert_int_equal(a[0].mtu, 1500);
	/* What a veth says of itself. */
	assert_int_equal(a[0].speed, 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_match), cmocka_unit_test(test_same_address),
		cmocka_unit_test(test_interface_once), cmocka_unit_test(test_flat_network),
		cmocka_unit_test(test_choose), cmocka_unit_test(test_choose_named),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_share),
		cmocka_unit_test(test_share_most), cmocka_unit_test(test_pace),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_networks),
		cmocka_unit_test(test_names), cmocka_unit_test(test_filter),
		cmocka_unit_test(test_sockets), cmocka_unit_test(test_messages),
		cmocka_unit_test(test_this_host), cmocka_unit_test(test_changes_meanwhile),
		cmocka_unit_test(test_crowded_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
