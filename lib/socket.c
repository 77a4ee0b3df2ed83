// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Sockets of a migration: addresses, connecting, listening, time limits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "internal.h"

/* For one who has connected to say something. */
#define DEFER_S	5

int socket_wait(int fd, short events, int cancel_fd, uint64_t deadline_ns)
{
	struct pollfd p[2] = {
		{ .fd = fd, .events = events },
		{ .fd = cancel_fd, .events = POLLIN },
	};
	uint64_t now;
	int left, n;

	for (;;) {
		left = -1;
		if (deadline_ns) {
			now = now_ns();
			left = now < deadline_ns ? (deadline_ns - now) / NS_PER_MS + 1 : 0;
		}
		n = poll(p, 2, left);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && p[1].revents)
			return -ECANCELED;
		/* Even if it is ready: whoever comes again and again has had their time. */
		if (!n || !left)
			return -ETIMEDOUT;
		if (n > 0)
			return 0;
	}
}

/* An address that names its kind; all others are of TCP. */
union local_address {
	struct sockaddr sa;
	struct sockaddr_un un;
	struct sockaddr_vm vm;
};

static const char *after(const char *address, const char *kind)
{
	size_t length = strlen(kind);

	return strncmp(address, kind, length) ? NULL : address + length;
}

const char *socket_kind(const char *address)
{
	return after(address, "unix:") ? "a UNIX socket" :
	       after(address, "vsock:") ? "a vsock socket" : NULL;
}

static int unix_address(const char *path, struct sockaddr_un *sun, struct error *e)
{
	*sun = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!*path || strlen(path) >= sizeof(sun->sun_path))
		return error_set(e, -EINVAL, "the path of a UNIX socket has 1 to %zu characters: '%s'",
				 sizeof(sun->sun_path) - 1, path);
	memcpy(sun->sun_path, path, strlen(path));
	return 0;
}

/* Up to its end; the highest of 32 bits is no CID, and no port. */
static const char *vsock_number(const char *text, char end, unsigned int *number)
{
	unsigned long long value;
	char *rest;

	if (*text < '0' || *text > '9')
		return NULL;
	value = strtoull(text, &rest, 10);
	*number = value;
	return value < UINT32_MAX && *rest == end ? rest + 1 : NULL;
}

int socket_vsock(const char *text, bool passive, struct sockaddr_vm *svm, struct error *e)
{
	const char *port = text;

	*svm = (struct sockaddr_vm){ .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	if (!passive || strchr(text, ':'))
		port = vsock_number(text, ':', &svm->svm_cid);
	if (port && vsock_number(port, '\0', &svm->svm_port))
		return 0;
	return error_set(e, -EINVAL,
			 "an address of vsock is %s, with numbers from 0 to %u, not 'vsock:%s'",
			 passive ? "vsock:[CID:]PORT" : "vsock:CID:PORT", UINT32_MAX - 1, text);
}

/* Its length; 0: it is one of TCP. */
static int local_address(const char *address, bool passive, union local_address *a,
			 struct error *e)
{
	const char *path = after(address, "unix:"), *numbers = after(address, "vsock:");
	int error;

	if (path) {
		error = unix_address(path, &a->un, e);
		return error ? error : (int)sizeof(a->un);
	}
	if (numbers) {
		error = socket_vsock(numbers, passive, &a->vm, e);
		return error ? error : (int)sizeof(a->vm);
	}
	return 0;
}

/* "host", "host:port", ":port", "[v6]", "[v6]:port" or a bare v6 address. */
static int split(const char *address, char host[SOCKET_HOST_MAX], const char **port,
		 struct error *e)
{
	char *colon, *end;

	*port = MIGR_DEFAULT_PORT;
	if (strlen(address) >= SOCKET_HOST_MAX)
		return error_set(e, -EINVAL, "address too long: '%s'", address);
	strcpy(host, address);
	if (host[0] == '[') {
		end = strchr(host, ']');
		if (!end || (end[1] && end[1] != ':'))
			return error_set(e, -EINVAL, "not an address: '%s'", address);
		if (end[1])
			*port = address + (end + 2 - host);
		*end = '\0';
		memmove(host, host + 1, end - host);
	} else {
		colon = strchr(host, ':');
		if (colon && !strchr(colon + 1, ':')) {
			*colon = '\0';
			*port = address + (colon + 1 - host);
		}
	}
	if (!**port)
		return error_set(e, -EINVAL, "no port in address '%s'", address);
	return 0;
}

int socket_host(const char *address, char host[SOCKET_HOST_MAX], struct error *e)
{
	const char *port;

	return split(address, host, &port, e);
}

static int resolve(const char *address, int flags, struct addrinfo **list, struct error *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags };
	char host[SOCKET_HOST_MAX];
	const char *port;
	int error;

	error = split(address, host, &port, e);
	if (error)
		return error;
	if (!*host && !(flags & AI_PASSIVE))
		return error_set(e, -EINVAL, "no host in address '%s'", address);
	error = getaddrinfo(*host ? host : NULL, port, &hints, list);
	if (error)
		return error_set(e, error == EAI_SYSTEM ? -errno : -EHOSTUNREACH,
				 "cannot resolve '%s': %s", address,
				 error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
	return 0;
}

int socket_start(const struct sockaddr *to, socklen_t length, const struct sockaddr *from,
		 const char *device)
{
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -errno;
	/* Not everyone may; the address alone decides well enough in most networks. */
	if (device)
		setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device));
	if ((!from || !bind(fd, from, length)) &&
	    (!connect(fd, to, length) || errno == EINPROGRESS))
		return fd;
	error = -errno;
	close(fd);
	return error;
}

int socket_finish(int fd, uint32_t timeout_ms)
{
	socklen_t size = sizeof(int);
	int error;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		return -errno;
	if (error)
		return -error;
	/* Blocking from here on: the kernel's stream shall wait, not return. */
	if (fcntl(fd, F_SETFL, 0) < 0)
		return -errno;
	return socket_options(fd, timeout_ms);
}

static int connect_new(const struct sockaddr *sa, socklen_t length, int cancel_fd,
		       uint32_t timeout_ms, uint64_t deadline_ns)
{
	int fd = socket_start(sa, length, NULL, NULL);
	int error;

	if (fd < 0)
		return fd;
	error = socket_wait(fd, POLLOUT, cancel_fd, deadline_ns);
	if (!error)
		error = socket_finish(fd, timeout_ms);
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

/* An address of a name that does not answer leaves time for the others. */
static int connect_any(const struct addrinfo *list, int cancel_fd, uint32_t timeout_ms,
		       uint64_t deadline_ns)
{
	const struct addrinfo *a;
	unsigned int left = 0;
	int fd = -EHOSTUNREACH;
	uint64_t now;

	for (a = list; a; a = a->ai_next)
		left++;
	for (a = list; a && fd < 0 && fd != -ECANCELED; a = a->ai_next) {
		now = now_ns();
		if (now < deadline_ns)
			now += (deadline_ns - now) / left;
		left--;
		fd = connect_new(a->ai_addr, a->ai_addrlen, cancel_fd, timeout_ms, now);
	}
	return fd;
}

int socket_connect(const char *address, int cancel_fd, uint32_t timeout_ms, struct error *e)
{
	uint64_t deadline = now_ns() + timeout_ms * NS_PER_MS;
	union local_address local;
	int length = local_address(address, false, &local, e);
	struct addrinfo *list;
	int fd, error;

	if (length < 0)
		return length;
	if (length) {
		fd = connect_new(&local.sa, length, cancel_fd, timeout_ms, deadline);
	} else {
		error = resolve(address, 0, &list, e);
		if (error)
			return error;
		fd = connect_any(list, cancel_fd, timeout_ms, deadline);
		freeaddrinfo(list);
	}
	if (fd == -ECANCELED)
		return error_set(e, fd, "cancelled");
	if (fd < 0)
		return error_set(e, fd, "cannot connect to %s: %s (is 'migr receive' running there?)",
				 address, strerror(-fd));
	return fd;
}

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) ? -errno : 0;
}

static int listen_new(const struct sockaddr *sa, socklen_t length)
{
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -errno;
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	/* Who comes says something at once; one that does not need not be looked at. */
	set_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, DEFER_S);
	/* The wildcard is for IPv4 too, whatever net.ipv6.bindv6only says. */
	if (sa->sa_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	if (bind(fd, sa, length) < 0 || listen(fd, 16) < 0) {
		error = -errno;
		close(fd);
		return error;
	}
	return fd;
}

/* Take away a socket that nobody listens on any more. */
static void unlink_stale(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd;

	if (lstat(sun->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 && errno == ECONNREFUSED)
		unlink(sun->sun_path);
	close(fd);
}

int socket_listen(const char *address, struct error *e)
{
	union local_address local;
	int length = local_address(address, true, &local, e);
	struct addrinfo *list, *a;
	int fd, error;

	if (length < 0)
		return length;
	if (length) {
		if (local.sa.sa_family == AF_UNIX)
			unlink_stale(&local.un);
		fd = listen_new(&local.sa, length);
	} else {
		error = resolve(address, AI_PASSIVE, &list, e);
		if (error)
			return error;
		/* Where there is IPv6, its wildcard takes IPv4 too. */
		fd = -EADDRNOTAVAIL;
		for (a = list; a && fd < 0; a = a->ai_next)
			if (a->ai_family == AF_INET6)
				fd = listen_new(a->ai_addr, a->ai_addrlen);
		for (a = list; a && fd < 0; a = a->ai_next)
			if (a->ai_family == AF_INET)
				fd = listen_new(a->ai_addr, a->ai_addrlen);
		freeaddrinfo(list);
	}
	if (fd < 0)
		return error_set(e, fd, "cannot listen on %s: %s", address, strerror(-fd));
	return fd;
}

/*
 * A peer that is gone without a word is noticed while sending (user timeout)
 * and while silent (keepalive). SO_SNDTIMEO also bounds the kernel's stream;
 * SO_RCVTIMEO is for the side that knows an answer is due.
 */
int socket_options(int fd, uint32_t timeout_ms)
{
	struct timeval t = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
	int third = timeout_ms / 3000 ? timeout_ms / 3000 : 1;
	int domain, error;
	socklen_t size = sizeof(domain);

	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
		return -errno;
	if (domain != AF_INET && domain != AF_INET6)
		return 0;
	error = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (!error)
		error = set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	if (!error)
		error = set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, third);
	if (!error)
		error = set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, third);
	if (!error)
		error = set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
	if (!error)
		error = set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms);
	return error;
}

void socket_peer(int fd, char *text, size_t size)
{
	struct sockaddr_storage ss = { .ss_family = AF_UNSPEC };
	const struct sockaddr_vm *svm = (const struct sockaddr_vm *)&ss;
	socklen_t length = sizeof(ss);
	char host[64], port[8];

	getpeername(fd, (struct sockaddr *)&ss, &length);
	if (ss.ss_family == AF_VSOCK)
		snprintf(text, size, "vsock:%u:%u", svm->svm_cid, svm->svm_port);
	else if (ss.ss_family != AF_UNIX &&
		 !getnameinfo((struct sockaddr *)&ss, length, host, sizeof(host), port,
			      sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(text, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	else
		snprintf(text, size, "a local process");
}
