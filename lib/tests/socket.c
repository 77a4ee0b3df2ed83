// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Connecting, to a name that has several addresses, listening on all addresses, and
 * the addresses of vsock.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/vm_sockets.h>

#include "internal.h"

#define TIMEOUT_MS	6000
#define SILENT		2	/* addresses */

/* What "name" is resolved to. */
static struct sockaddr_in fake_addresses[SILENT + 1];

/* Each is freed as one of the library's own. */
int getaddrinfo(const char *restrict node, const char *restrict service,
		const struct addrinfo *restrict hints, struct addrinfo **restrict list)
{
	typeof(getaddrinfo) *real = (typeof(real))dlsym(RTLD_NEXT, "getaddrinfo");
	struct addrinfo *a;

	if (!node || strcmp(node, "name"))
		return real(node, service, hints, list);
	*list = NULL;
	for (int i = SILENT; i >= 0; i--) {
		a = calloc(1, sizeof(*a));
		*a = (struct addrinfo){
			.ai_family = AF_INET, .ai_addr = (struct sockaddr *)&fake_addresses[i],
			.ai_addrlen = sizeof(fake_addresses[i]), .ai_next = *list,
		};
		*list = a;
	}
	return 0;
}

/* A socket that listens, and its address. */
static int listen_at(struct sockaddr_in *address, int backlog)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t size = sizeof(*address);

	*address = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	assert_int_equal(bind(fd, (struct sockaddr *)address, size), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)address, &size), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

/* The last of them has an answer: there must be time left to hear it. */
static void test_silent_addresses(void **state)
{
	int listeners[SILENT + 1], fillers[SILENT], fd;
	uint64_t begun = now_ns();
	struct error e;

	(void)state;
	for (int i = 0; i < SILENT; i++) {
		listeners[i] = listen_at(&fake_addresses[i], 0);
		/* It has no room for more, and says nothing. */
		fillers[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(fillers[i], (struct sockaddr *)&fake_addresses[i],
					 sizeof(fake_addresses[i])), 0);
	}
	listeners[SILENT] = listen_at(&fake_addresses[SILENT], 1);
	fd = socket_connect("name", -1, TIMEOUT_MS, &e);
	if (fd < 0)
		fail_msg("it said: %s", e.text);
	/* They were silent indeed, and had their share of the time. */
	assert_in_range(now_ns() - begun, TIMEOUT_MS / 2 * NS_PER_MS, TIMEOUT_MS * NS_PER_MS);
	close(fd);
	close(listeners[SILENT]);
	fd = socket_connect("name", -1, TIMEOUT_MS, &e);
	assert_int_equal(fd, -ECONNREFUSED);
	for (int i = 0; i < SILENT; i++) {
		close(fillers[i]);
		close(listeners[i]);
	}
}

static void assert_reaches(const char *address)
{
	struct error e;
	int fd = socket_connect(address, -1, TIMEOUT_MS, &e);

	if (fd < 0)
		fail_msg("it said: %s", e.text);
	close(fd);
}

/* Also where a socket of IPv6 is for that alone, unless it says otherwise. */
static void test_all_addresses(void **state)
{
	static const char *const all[] = { ":4300", "[::]:4300" };
	struct error e;
	int fd;

	(void)state;
	if (unshare(CLONE_NEWNET) || system("ip link set lo up") ||
	    system("echo 1 > /proc/sys/net/ipv6/bindv6only"))
		skip();
	for (int i = 0; i < 2; i++) {
		fd = socket_listen(all[i], &e);
		assert_true(fd >= 0);
		assert_reaches("127.0.0.1:4300");
		assert_reaches("[::1]:4300");
		close(fd);
	}
}

static void assert_vsock(const char *text, bool passive, unsigned int cid, unsigned int port)
{
	struct sockaddr_vm svm;
	struct error e;

	assert_int_equal(socket_vsock(text, passive, &svm, &e), 0);
	assert_int_equal(svm.svm_family, AF_VSOCK);
	assert_int_equal(svm.svm_cid, cid);
	assert_int_equal(svm.svm_port, port);
}

static void assert_no_vsock(int error, const struct error *e, const char *text)
{
	assert_int_equal(error, -EINVAL);
	if (!strstr(e->text, text))
		fail_msg("it said: %s", e->text);
}

static void test_vsock_addresses(void **state)
{
	static const char *const bad[] = {
		"", ":", "1", "1:", ":1", "1:2:", "1:2:3", "1:2x", "1x:2", " 1:2", "1: 2", "1:-2",
		"-1:2", "+1:2", "1:0x2", "any:2", "4294967295:2", "1:4294967295", "1:4294967296",
		"18446744073709551617:2", "1:99999999999999999999999",
	};
	char address[64];
	struct error e;

	(void)state;
	assert_vsock("1:4242", false, VMADDR_CID_LOCAL, 4242);
	assert_vsock("0:0", false, 0, 0);
	assert_vsock("4294967294:4294967294", false, UINT32_MAX - 1, UINT32_MAX - 1);
	assert_vsock("2:4242", true, VMADDR_CID_HOST, 4242);
	assert_vsock("4242", true, VMADDR_CID_ANY, 4242);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		snprintf(address, sizeof(address), "vsock:%s", bad[i]);
		assert_no_vsock(socket_connect(address, -1, TIMEOUT_MS, &e), &e, address);
		if (strcmp(bad[i], "1"))
			assert_no_vsock(socket_listen(address, &e), &e, address);
	}
	assert_no_vsock(socket_listen("vsock:4294967295", &e), &e, "vsock:[CID:]PORT");
	assert_no_vsock(socket_connect("vsock:4242", -1, TIMEOUT_MS, &e), &e, "vsock:CID:PORT");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_silent_addresses), cmocka_unit_test(test_vsock_addresses),
		cmocka_unit_test(test_all_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
