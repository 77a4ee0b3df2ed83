// SPDX-License-Identifier: GPL-2.0-only
/*
 * A client of QEMU's monitor protocol: commands one at a time, events kept in
 * the order they came. Every wait is bounded.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define MS			1000000ull
#define COMMAND_MS		30000
/* A monitor that serves another client lets us connect, and stays silent. */
#define GREETING_MS		5000
#define LINE_MAX_BYTES		(4u << 20)

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 * MS + t.tv_nsec;
}

static bool wait_readable(struct qmp *q, uint64_t deadline_ns)
{
	struct pollfd p = { .fd = q->fd, .events = POLLIN };
	uint64_t now;
	int n;

	do {
		now = clock_ns();
		n = poll(&p, 1, now < deadline_ns ? (deadline_ns - now) / MS + 1 : 0);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return true;
	return text_set(&q->error, "QEMU does not answer");
}

static bool closed(struct qmp *q)
{
	return text_set(&q->error, "QEMU closed its monitor: it has ended");
}

static bool fill(struct qmp *q, uint64_t deadline_ns)
{
	ssize_t n;
	char *b;

	if (q->length == q->size) {
		if (q->size >= LINE_MAX_BYTES)
			return text_set(&q->error, "QEMU's monitor sent a line without end");
		b = realloc(q->buffer, q->size ? 2 * q->size : 4096);
		if (!b)
			return text_set(&q->error, "no memory");
		q->buffer = b;
		q->size = q->size ? 2 * q->size : 4096;
	}
	if (!wait_readable(q, deadline_ns))
		return false;
	n = recv(q->fd, q->buffer + q->length, q->size - q->length, MSG_DONTWAIT);
	if (n > 0) {
		q->length += n;
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	return closed(q);
}

/* The end of the first line that ends behind from; NULL if none does. */
static char *line_end(struct qmp *q, size_t from)
{
	return q->length > from ? memchr(q->buffer + from, '\n', q->length - from) : NULL;
}

/* The next object, whatever it is. A pretty monitor's takes several lines. */
static json_t *next(struct qmp *q, uint64_t deadline_ns)
{
	json_error_t error;
	json_t *object;
	size_t length = 0;
	char *end;

	do {
		while (!(end = line_end(q, length)))
			if (!fill(q, deadline_ns))
				return NULL;
		length = end + 1 - q->buffer;
		object = json_loadb(q->buffer, length, 0, &error);
	} while (!object && json_error_code(&error) == json_error_premature_end_of_input);
	q->length -= length;
	memmove(q->buffer, q->buffer + length, q->length);
	if (!object)
		text_set(&q->error, "QEMU's monitor sent something else than JSON");
	return object;
}

/* Send a line, with a descriptor unless it is -1. */
static bool send_line(struct qmp *q, json_t *object, int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char *line = json_dumps(object, JSON_COMPACT);
	struct iovec iov = { .iov_base = line, .iov_len = line ? strlen(line) : 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (!line)
		return text_set(&q->error, "no memory for a command");
	if (fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	/* Commands are short: what QEMU does not take at once, it never takes. */
	do {
		n = sendmsg(q->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	free(line);
	if (n == (ssize_t)iov.iov_len)
		return true;
	return text_set(&q->error, "cannot talk to QEMU: %s", n < 0 ? strerror(errno) : "its monitor is stuck");
}

static bool execute(struct qmp *q, const char *command, json_t *arguments, int fd,
		    json_t **result)
{
	uint64_t deadline = clock_ns() + COMMAND_MS * MS;
	json_t *object, *value, *id;
	const char *text;
	bool sent;

	if (!arguments)
		arguments = json_object();
	object = json_pack("{s:s, s:o, s:I}", "execute", command, "arguments", arguments,
			   "id", ++q->last_id);
	sent = object && send_line(q, object, fd);
	json_decref(object);
	if (!sent)
		return false;
	while ((object = next(q, deadline))) {
		if (json_object_get(object, "event")) {
			json_array_append_new(q->events, object);
			continue;
		}
		/* Late, to a command that was given up. */
		id = json_object_get(object, "id");
		if (id && json_integer_value(id) != q->last_id) {
			json_decref(object);
			continue;
		}
		value = json_object_get(object, "return");
		if (value) {
			if (result)
				*result = json_incref(value);
			json_decref(object);
			return true;
		}
		text = json_string_value(json_object_get(json_object_get(object, "error"), "desc"));
		text_set(&q->error, "QEMU refused '%s': %s", command, text ? text : "it did not say why");
		json_decref(object);
		return false;
	}
	return false;
}

bool qmp_command(struct qmp *q, const char *command, json_t *arguments, json_t **result)
{
	return execute(q, command, arguments, -1, result);
}

bool qmp_command_fd(struct qmp *q, const char *command, json_t *arguments, int fd)
{
	return execute(q, command, arguments, fd, NULL);
}

json_t *qmp_event(struct qmp *q, uint64_t deadline_ns)
{
	json_t *object;

	if (json_array_size(q->events)) {
		object = json_incref(json_array_get(q->events, 0));
		json_array_remove(q->events, 0);
		return object;
	}
	while ((object = next(q, deadline_ns)) && !json_object_get(object, "event"))
		json_decref(object);
	return object;
}

bool qmp_alive(struct qmp *q)
{
	/* Its last words, which nobody has read yet, do not count. */
	struct pollfd p = { .fd = q->fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) <= 0 || closed(q);
}

void qmp_drop_events(struct qmp *q)
{
	json_array_clear(q->events);
}

bool qmp_attach(struct qmp *q, int fd, uint32_t timeout_ms)
{
	json_t *greeting;
	bool good;

	*q = (struct qmp){ .fd = fd, .events = json_array() };
	greeting = next(q, clock_ns() + timeout_ms * MS);
	if (!greeting)
		return false;
	good = json_object_get(greeting, "QMP");
	json_decref(greeting);
	if (!good)
		return text_set(&q->error, "it does not greet as QEMU's monitor does");
	return qmp_command(q, "qmp_capabilities", NULL, NULL);
}

bool qmp_open_within(struct qmp *q, const char *path, uint32_t timeout_ms)
{
	struct timeval t = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	uint64_t now, deadline = clock_ns() + timeout_ms * MS;
	int fd;

	*q = (struct qmp){ .fd = -1 };
	if (strlen(path) >= sizeof(sun.sun_path))
		return text_set(&q->error, "the path of the QMP socket is too long: %s", path);
	strcpy(sun.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) < 0 ||
	    connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		text_set(&q->error, errno == EAGAIN ? "the QMP socket %s is busy: %s" :
		     "cannot connect to the QMP socket %s: %s", path,
		     errno == EAGAIN ? "another program uses it" : strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	now = clock_ns();
	if (qmp_attach(q, fd, now < deadline ? (deadline - now) / MS : 0))
		return true;
	if (!strcmp(q->error.s, "QEMU does not answer"))
		text_set(&q->error,
			 "the QMP socket %s is busy: another program uses it, or QEMU hangs", path);
	return false;
}

bool qmp_open(struct qmp *q, const char *path)
{
	return qmp_open_within(q, path, GREETING_MS);
}

void qmp_close(struct qmp *q)
{
	if (q->fd >= 0)
		close(q->fd);
	q->fd = -1;
	free(q->buffer);
	q->buffer = NULL;
	q->length = 0;
	q->size = 0;
	json_decref(q->events);
	q->events = NULL;
}
