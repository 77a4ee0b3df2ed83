// SPDX-License-Identifier: GPL-2.0-only
/*
 * lib/control.c against Documentation/control-protocol.rst: which messages it
 * takes from a peer that sends any bytes, what it makes of them, and that no
 * sentence about them could harm a terminal. JSON itself is left to jansson.
 *
 * Input: a byte, then what the peer sends. If that byte is odd the peer puts
 * the right length before it, which mutations of the text seldom do.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "internal.h"

/* Far below what a socket takes at once; fuzz.sh asks for none longer. */
#define INPUT_MAX	512

struct sent {
	uint8_t bytes[4 + INPUT_MAX];
	size_t length, read;
};

static uint32_t get_length(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_length(uint8_t *p, uint32_t length)
{
	for (int i = 0; i < 4; i++)
		p[i] = length >> 8 * i;
}

/* What the page says of the next message, how much of it is read, and a good one. */
static int verdict(struct sent *s, json_t **message)
{
	size_t left = s->length - s->read;
	const uint8_t *p = s->bytes + s->read;
	const char *type;
	uint32_t length;

	*message = NULL;
	s->read = s->length;
	if (left < 4)
		return -ECONNRESET;
	length = get_length(p);
	if (!length || length > 1048576) {
		s->read -= left - 4;
		return -EPROTO;
	}
	if (left - 4 < length)
		return -ECONNRESET;
	s->read -= left - 4 - length;
	*message = json_loadb((const char *)p + 4, length, JSON_REJECT_DUPLICATES, NULL);
	type = json_string_value(json_object_get(*message, "type"));
	if (type && strcmp(type, "error"))
		return 0;
	json_decref(*message);
	*message = NULL;
	return type ? -EREMOTEIO : -EPROTO;
}

/* Peers whose bad lengths are overlooked, for the test of this test. */
static void overlook(struct sent *s)
{
	bool bad = false;

	if (s->length < 4)
		return;
#ifdef BROKEN_EMPTY
	bad |= !get_length(s->bytes);
#endif
#ifdef BROKEN_LONG
	bad |= get_length(s->bytes) > 1048576;
#endif
	if (bad)
		put_length(s->bytes, s->length - 4);
}

static void check_sentence(const struct error *e)
{
	assert(e->text[0]);
	for (const char *c = e->text; *c; c++)
		assert(*c >= ' ' && *c <= '~');
}

/* A number and a string that a message may have: taken if and only if they are there. */
static void check_unpack(struct control *c, json_t *message)
{
	json_t *bytes = json_object_get(message, "bytes");
	json_t *token = json_object_get(message, "token");
	const char *text;
	json_int_t n;

	if (json_is_integer(bytes)) {
		assert(!control_unpack(c, message, "{s:I}", "bytes", &n));
		assert(n == json_integer_value(bytes));
	} else {
		assert(control_unpack(c, message, "{s:I}", "bytes", &n) == -EPROTO);
		check_sentence(c->error);
	}
	if (json_is_string(token)) {
		assert(!control_unpack(c, message, "{s:s}", "token", &text));
		assert(text == json_string_value(token));
	} else {
		assert(control_unpack(c, message, "{s:s}", "token", &text) == -EPROTO);
		check_sentence(c->error);
	}
}

static void peer_sends(struct sent *s, int fd)
{
	struct sent seen = *s;

	overlook(&seen);
	assert(send(fd, seen.bytes, seen.length, MSG_DONTWAIT) == (ssize_t)seen.length);
	shutdown(fd, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct error error = { "" };
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 1000, .peer = "peer", .error = &error,
	};
	struct sent s = { .length = 0 };
	json_t *message, *due;
	int fds[2], expected;

	if (size < 2 || size > INPUT_MAX)
		return 0;
	if (*bytes & 1) {
		put_length(s.bytes, size - 1);
		s.length = 4;
	}
	memcpy(s.bytes + s.length, bytes + 1, size - 1);
	s.length += size - 1;
	assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	c.fd = fds[0];
	peer_sends(&s, fds[1]);
	do {
		expected = verdict(&s, &due);
		assert(control_receive(&c, 1000, &message) == expected);
		assert(expected ? !message : json_equal(message, due));
		if (expected)
			check_sentence(&error);
		else
			check_unpack(&c, message);
		json_decref(message);
		json_decref(due);
	} while (!expected);
	/* It has taken these messages, and nothing of what follows. */
	assert(recv(c.fd, s.bytes, sizeof(s.bytes), MSG_DONTWAIT) ==
	       (ssize_t)(s.length - s.read));
	close(fds[0]);
	close(fds[1]);
	return 0;
}
