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

#include "internal.h"

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
		if (n > 0)
			return p[1].revents ? -ECANCELED : 0;
		if (!n)
			return -ETIMEDOUT;
	}
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

/* "host", "host:port", ":port", "[v6]", "[v6]:port" or a bare v6 address. */
static int resolve(const char *address, int flags, struct addrinfo **list, struct error *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags };
	const char *port = MIGR_DEFAULT_PORT;
	char host[256], *colon, *end;
	int error;

	if (strlen(address) >= sizeof(host))
		return error_set(e, -EINVAL, "address too long: '%s'", address);
	strcpy(host, address);
	if (host[0] == '[') {
		end = strchr(host, ']');
		if (!end || (end[1] && end[1] != ':'))
			return error_set(e, -EINVAL, "not an address: '%s'", address);
		if (end[1])
			port = end + 2;
		*end = '\0';
		memmove(host, host + 1, end - host);
	} else {
		colon = strchr(host, ':');
		if (colon && !strchr(colon + 1, ':')) {
			*colon = '\0';
			port = colon + 1;
		}
	}
	if (!*port)
		return error_set(e, -EINVAL, "no port in address '%s'", address);
	if (!*host && !(flags & AI_PASSIVE))
		return error_set(e, -EINVAL, "no host in address '%s'", address);
	error = getaddrinfo(*host ? host : NULL, port, &hints, list);
	if (error)
		return error_set(e, error == EAI_SYSTEM ? -errno : -EHOSTUNREACH,
				 "cannot resolve '%s': %s", address,
				 error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
	return 0;
}

static int connect_one(int fd, const struct sockaddr *sa, socklen_t length, int cancel_fd,
		       uint64_t deadline_ns)
{
	socklen_t size = sizeof(int);
	int error;

	if (!connect(fd, sa, length))
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	error = socket_wait(fd, POLLOUT, cancel_fd, deadline_ns);
	if (error)
		return error;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		return -errno;
	return -error;
}

static int connect_new(const struct sockaddr *sa, socklen_t length, int cancel_fd,
		       uint32_t timeout_ms, uint64_t deadline_ns)
{
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -errno;
	error = connect_one(fd, sa, length, cancel_fd, deadline_ns);
	/* Blocking from here on: the kernel's stream shall wait, not return. */
	if (!error && fcntl(fd, F_SETFL, 0) < 0)
		error = -errno;
	if (!error)
		error = socket_options(fd, timeout_ms);
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

int socket_connect(const char *address, int cancel_fd, uint32_t timeout_ms, struct error *e)
{
	uint64_t deadline = now_ns() + timeout_ms * NS_PER_MS;
	struct addrinfo *list, *a;
	struct sockaddr_un sun;
	int fd, error;

	if (!strncmp(address, "unix:", 5)) {
		error = unix_address(address + 5, &sun, e);
		if (error)
			return error;
		fd = connect_new((struct sockaddr *)&sun, sizeof(sun), cancel_fd, timeout_ms,
				 deadline);
	} else {
		error = resolve(address, 0, &list, e);
		if (error)
			return error;
		fd = -EHOSTUNREACH;
		for (a = list; a && fd < 0 && fd != -ECANCELED; a = a->ai_next)
			fd = connect_new(a->ai_addr, a->ai_addrlen, cancel_fd, timeout_ms,
					 deadline);
		freeaddrinfo(list);
	}
	if (fd == -ECANCELED)
		return error_set(e, fd, "cancelled");
	if (fd < 0)
		return error_set(e, fd, "cannot connect to %s: %s (is 'migr receive' running there?)",
				 address, strerror(-fd));
	return fd;
}

static int listen_new(const struct sockaddr *sa, socklen_t length)
{
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, defer_s = 5, error;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	/* Who comes says something at once; one that does not need not be looked at. */
	setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer_s, sizeof(defer_s));
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
	struct addrinfo *list, *a;
	struct sockaddr_un sun;
	int fd, error;

	if (!strncmp(address, "unix:", 5)) {
		error = unix_address(address + 5, &sun, e);
		if (error)
			return error;
		unlink_stale(&sun);
		fd = listen_new((struct sockaddr *)&sun, sizeof(sun));
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

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) ? -errno : 0;
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
	if (domain == AF_UNIX)
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
	struct sockaddr_storage ss;
	socklen_t length = sizeof(ss);
	char host[64], port[8];

	if (getpeername(fd, (struct sockaddr *)&ss, &length) == 0 && ss.ss_family != AF_UNIX &&
	    !getnameinfo((struct sockaddr *)&ss, length, host, sizeof(host), port, sizeof(port),
			 NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(text, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	else
		snprintf(text, size, "a local process");
}
