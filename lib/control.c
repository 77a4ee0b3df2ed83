// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The control channel: framing, checking and reading of messages.
 *
 * Nothing that arrives is trusted. Every read and write goes through
 * control_read() and control_write(), is bounded in time, and ends early when
 * the run is cancelled.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "internal.h"

/* Between two looks at a connection that says it is ready, and is not. */
#define LOOK_AGAIN_MS	1

static int transfer_error(struct control *c, int error)
{
	switch (error) {
	case -ECANCELED:
		return error_set(c->error, error, "cancelled");
	case -ETIMEDOUT:
		return error_set(c->error, error, "no word from the %s in time", c->peer);
	case -EPIPE:
	case -ECONNRESET:
		return error_set(c->error, -ECONNRESET, "the %s closed the connection", c->peer);
	default:
		return error_set(c->error, error, "the connection to the %s failed: %s", c->peer,
				 strerror(-error));
	}
}

/*
 * After EAGAIN. A part of an encrypted record counts as readable, on some kernels,
 * and cannot be read: if it was ready before, wait a little whatever it says.
 */
static int wait_for(struct control *c, short events, bool was_ready, uint64_t deadline_ns)
{
	int error = -ETIMEDOUT;

	if (was_ready)
		error = socket_wait(-1, 0, c->cancel_fd, now_ns() + LOOK_AGAIN_MS * NS_PER_MS);
	if (error == -ETIMEDOUT)
		error = socket_wait(c->fd, events, c->cancel_fd, deadline_ns);
	return error ? transfer_error(c, error) : 0;
}

int control_write(struct control *c, const void *bytes, size_t length)
{
	uint64_t deadline = now_ns() + c->timeout_ms * NS_PER_MS;
	bool ready = false;
	ssize_t n;
	int error;

	while (length) {
		n = send(c->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			bytes = (const char *)bytes + n;
			length -= n;
			ready = false;
			continue;
		}
		if (errno == EAGAIN) {
			error = wait_for(c, POLLOUT, ready, deadline);
			if (error)
				return error;
			ready = true;
		} else if (errno != EINTR) {
			return transfer_error(c, -errno);
		}
	}
	return 0;
}

int control_read(struct control *c, void *bytes, size_t length, uint64_t deadline_ns)
{
	bool ready = false;
	ssize_t n;
	int error;

	while (length) {
		n = recv(c->fd, bytes, length, MSG_DONTWAIT);
		if (n > 0) {
			bytes = (char *)bytes + n;
			length -= n;
			ready = false;
			continue;
		}
		if (!n)
			return transfer_error(c, -ECONNRESET);
		if (errno == EAGAIN) {
			error = wait_for(c, POLLIN, ready, deadline_ns);
			if (error)
				return error;
			ready = true;
		} else if (errno != EINTR) {
			return transfer_error(c, -errno);
		}
	}
	return 0;
}

int control_send(struct control *c, json_t *message)
{
	uint8_t *frame = NULL;
	size_t length = 0;
	int error;

	if (message)
		length = json_dumpb(message, NULL, 0, JSON_COMPACT);
	if (length && length <= CONTROL_MESSAGE_MAX)
		frame = malloc(4 + length);
	if (!frame) {
		json_decref(message);
		return error_set(c->error, -ENOMEM, "cannot make a message to the %s", c->peer);
	}
	json_dumpb(message, (char *)frame + 4, length, JSON_COMPACT);
	json_decref(message);
	frame[0] = length;
	frame[1] = length >> 8;
	frame[2] = length >> 16;
	frame[3] = length >> 24;
	error = control_write(c, frame, 4 + length);
	free(frame);
	return error;
}

void control_clean(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

/* A sentence that quotes the peer. */
static int __attribute__((format(printf, 3, 4)))
quote(struct control *c, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	error_vset(c->error, error, format, args);
	va_end(args);
	control_clean(c->error->text);
	return error;
}

/* What the peer reports in an "error" message becomes our sentence. */
static int remote_error(struct control *c, const json_t *message)
{
	const char *text = json_string_value(json_object_get(message, "text"));

	if (!text)
		return error_set(c->error, -EREMOTEIO, "the %s failed and did not say why",
				 c->peer);
	/* With room for what is to be said here: what becomes of the VM. */
	return quote(c, -EREMOTEIO, "%s: %.300s", c->peer, text);
}

static int read_message(struct control *c, uint64_t deadline, char **body, uint32_t *length)
{
	uint8_t header[4];
	int error;

	error = control_read(c, header, sizeof(header), deadline);
	if (error)
		return error;
	*length = header[0] | header[1] << 8 | header[2] << 16 | (uint32_t)header[3] << 24;
	if (!*length || *length > CONTROL_MESSAGE_MAX)
		return error_set(c->error, -EPROTO,
				 "the %s sent a message of %u bytes (1 to %u are allowed): not a migr of this kind?",
				 c->peer, *length, CONTROL_MESSAGE_MAX);
	*body = malloc(*length);
	if (!*body)
		return error_set(c->error, -ENOMEM, "no memory for a message of %u bytes", *length);
	error = control_read(c, *body, *length, deadline);
	if (error)
		free(*body);
	return error;
}

int control_receive(struct control *c, uint64_t timeout_ms, json_t **message)
{
	uint64_t deadline = now_ns() + timeout_ms * NS_PER_MS;
	uint32_t length;
	json_error_t je;
	char *body;
	int error;

	*message = NULL;
	error = read_message(c, deadline, &body, &length);
	if (error)
		return error;
	*message = json_loadb(body, length, JSON_REJECT_DUPLICATES, &je);
	free(body);
	if (!*message)
		return quote(c, -EPROTO, "the %s sent a message that is not JSON: %s", c->peer,
			     je.text);
	if (!json_is_string(json_object_get(*message, "type"))) {
		error = error_set(c->error, -EPROTO, "the %s sent a message without a type",
				  c->peer);
	} else if (!strcmp(control_type(*message), "error")) {
		error = remote_error(c, *message);
	}
	if (error) {
		json_decref(*message);
		*message = NULL;
	}
	return error;
}

const char *control_type(const json_t *message)
{
	return json_string_value(json_object_get(message, "type"));
}

int control_expect(struct control *c, const char *type, uint64_t timeout_ms,
		   json_t **message)
{
	int error;

	error = control_receive(c, timeout_ms, message);
	if (error || !strcmp(control_type(*message), type))
		return error;
	error = quote(c, -EPROTO, "the %s sent '%.31s' where '%s' was due", c->peer,
		      control_type(*message), type);
	json_decref(*message);
	*message = NULL;
	return error;
}

int control_unpack(struct control *c, json_t *message, const char *format, ...)
{
	json_error_t je;
	va_list args;
	int n;

	va_start(args, format);
	n = json_vunpack_ex(message, &je, 0, format, args);
	va_end(args);
	if (n < 0)
		return quote(c, -EPROTO, "the %s sent a bad '%s' message: %s", c->peer,
			     control_type(message), je.text);
	return 0;
}

void control_send_error(struct control *c, const char *text)
{
	struct error ignored, copy;
	struct control farewell = {
		.fd = c->fd,
		.cancel_fd = -1,
		.timeout_ms = FAREWELL_MS,
		.peer = c->peer,
		.error = &ignored,
	};

	error_set(&copy, 0, "%s", text);
	control_clean(copy.text);
	control_send(&farewell, json_pack("{s:s, s:s}", "type", "error", "text", copy.text));
}

void control_goodbye(const struct control *c, uint32_t timeout_ms)
{
	uint64_t deadline = now_ns() + timeout_ms * NS_PER_MS;
	struct error ignored;
	struct control rest = { .fd = c->fd, .cancel_fd = -1, .peer = c->peer, .error = &ignored };
	char bytes[4096];

	shutdown(c->fd, SHUT_WR);
	while (now_ns() < deadline && !control_read(&rest, bytes, sizeof(bytes), deadline))
		;
}
