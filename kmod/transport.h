/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a stream needs of the connection behind it. Its calls come from the thread
 * that runs the stream, but for shutdown() and free(), which come from any.
 */
#ifndef _MIGR_TRANSPORT_H
#define _MIGR_TRANSPORT_H

#include <linux/types.h>

struct iov_iter;
struct migr_transport;

/* How to send. */
#define MIGR_SEND_MORE	0x1	/* more follows at once */
#define MIGR_SEND_LEND	0x2	/* the pages may be kept, and may change */

/**
 * struct migr_transport_ops - the operations of a kind of connection
 * @send: send what @iter has, %MIGR_SEND_* in @flags. Returns 0 once all has been
 *	taken; @iter is left at what has not if it is interrupted
 * @recv: receive into all of @iter, likewise
 * @recv_some: receive what is there. With @expect, how many bytes are known to
 *	come, it waits for @iter to be filled, and would rather be woken once for
 *	all of them. Returns how much, 0 if the peer has closed, -EAGAIN if there is
 *	nothing and @expect is 0
 * @queued: how many bytes recv_some() would find, as far as is known
 * @exclusive: nobody else has the connection, or can get it any more
 * @shutdown: end the connection, both ways: no call above waits any more, nor does
 *	the peer for room for what it sends. With @drop what has not reached the peer
 *	need not, and is let go of
 * @free: let go of it
 *
 * Errors: -ERESTARTSYS or -EINTR for a signal, -ETIMEDOUT, -ECONNRESET if the
 * peer is gone, or what the connection says.
 */
struct migr_transport_ops {
	int (*send)(struct migr_transport *transport, struct iov_iter *iter,
		    unsigned int flags);
	int (*recv)(struct migr_transport *transport, struct iov_iter *iter);
	int (*recv_some)(struct migr_transport *transport,
			 struct iov_iter *iter, size_t expect);
	size_t (*queued)(struct migr_transport *transport);
	bool (*exclusive)(struct migr_transport *transport);
	void (*shutdown)(struct migr_transport *transport, bool drop);
	void (*free)(struct migr_transport *transport);
};

/**
 * struct migr_transport - a connection; embedded in what is known of its kind
 * @ops: its operations
 */
struct migr_transport {
	const struct migr_transport_ops *ops;
};

struct migr_transport *migr_socket_open(int fd);

#endif /* _MIGR_TRANSPORT_H */
