// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connections that are sockets: TCP, UNIX and vsock. They come connected, by
 * descriptor, from user space, which may keep one of its own. A TCP socket may be
 * a kTLS socket, with the keys of TLS 1.3 in it: then what passes through here is
 * encrypted and decrypted below, by record.
 *
 * The only lock taken here is the socket's own, in set_lowat() and socket_shutdown().
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/net.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <net/af_unix.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/tls.h>

#include "compat.h"
#include "inject.h"
#include "transport.h"

/*
 * How many records may be encrypted with one key of AES-GCM: RFC 8446, 5.5, says
 * 2^24.5. What is sent at once has less than the 1024 by which this is below.
 */
#define TLS_RECORDS_MAX	(23726566ULL - 1024)

/**
 * struct migr_socket - a socket as a transport
 * @transport: the transport
 * @sock: the socket
 * @file: reference that keeps @sock
 */
struct migr_socket {
	struct migr_transport transport;
	struct socket *sock;
	struct file *file;
};

static struct migr_socket *to_socket(struct migr_transport *transport)
{
	return container_of(transport, struct migr_socket, transport);
}

static bool is_tcp(const struct sock *sk)
{
	return sk->sk_family == AF_INET || sk->sk_family == AF_INET6;
}

/* Whether something, TLS for instance, is between the socket and its bytes. */
static bool has_ulp(struct sock *sk)
{
	return is_tcp(sk) && inet_csk_has_ulp(sk);
}

/* Whether the key of a TLS socket has been used for all that is safe. */
static bool key_is_worn(struct sock *sk)
{
	const struct tls_context *tls;
	__be64 records;

	if (!has_ulp(sk) || strcmp(inet_csk(sk)->icsk_ulp_ops->name, "tls"))
		return false;
	tls = tls_get_ctx(sk);
	if (tls->tx_conf == TLS_BASE ||
	    tls->prot_info.cipher_type == TLS_CIPHER_CHACHA20_POLY1305)
		return false;
	memcpy(&records, tls->tx.rec_seq, sizeof(records));
	return be64_to_cpu(records) >= TLS_RECORDS_MAX;
}

/* What the socket said, as RUN tells it. */
static int socket_error(int ret)
{
	switch (ret) {
	case -EINTR:
		/* A socket with a timeout says this instead. */
		return -ERESTARTSYS;
	case -EAGAIN:
		return -ETIMEDOUT;
	case -EPIPE:
		/* EPIPE is for a stream that had failed before. */
		return -ECONNRESET;
	default:
		return ret;
	}
}

static int socket_send(struct migr_transport *transport, struct iov_iter *iter,
		       unsigned int flags)
{
	struct socket *sock = to_socket(transport)->sock;

	if (key_is_worn(sock->sk))
		return -EKEYEXPIRED;
	while (iov_iter_count(iter)) {
		struct msghdr msg = {
			.msg_flags = MSG_NOSIGNAL |
				     (flags & MIGR_SEND_MORE ? MSG_MORE : 0),
			.msg_iter = *iter,
		};
		int ret;

		/*
		 * TLS says so once, or not at all if it has taken something then;
		 * afterwards it takes, and keeps, whatever it is given.
		 */
		if (READ_ONCE(sock->sk->sk_shutdown) & SEND_SHUTDOWN)
			return socket_error(sock_error(sock->sk) ?: -EPIPE);
		if (flags & MIGR_SEND_LEND)
			ret = migr_sock_lend(sock, &msg);
		else
			ret = sock_sendmsg(sock, &msg);
		if (ret < 0)
			return socket_error(ret);
		iov_iter_advance(iter, ret);
	}
	return 0;
}

static int socket_recv(struct migr_transport *transport, struct iov_iter *iter)
{
	struct socket *sock = to_socket(transport)->sock;

	while (iov_iter_count(iter)) {
		struct msghdr msg = { .msg_iter = *iter };
		int ret;

		ret = sock_recvmsg(sock, &msg, MSG_WAITALL);
		if (ret < 0)
			return socket_error(ret);
		if (!ret)
			return -ECONNRESET;
		iov_iter_advance(iter, ret);
	}
	return 0;
}

/*
 * Wake who waits once this much is there. Not under TLS, which would not hear of
 * a record that is complete but not that long.
 */
static void set_lowat(struct socket *sock, size_t bytes)
{
	if (!sock->ops->set_rcvlowat || has_ulp(sock->sk))
		return;
	lock_sock(sock->sk);
	sock->ops->set_rcvlowat(sock->sk, bytes);
	release_sock(sock->sk);
}

static int socket_recv_some(struct migr_transport *transport,
			    struct iov_iter *iter, size_t expect)
{
	struct socket *sock = to_socket(transport)->sock;
	struct msghdr msg = { .msg_iter = *iter };
	size_t wanted = iov_iter_count(iter);
	int ret;

	if (!expect)
		return sock_recvmsg(sock, &msg, MSG_DONTWAIT);
	/* Less than is wanted may be taken before it waits for the rest. */
	if (expect > wanted)
		set_lowat(sock, expect - wanted);
	ret = sock_recvmsg(sock, &msg, MSG_WAITALL);
	if (expect > wanted)
		set_lowat(sock, 1);
	return ret < 0 ? socket_error(ret) : ret;
}

/* Only a hint: others can read from it too. */
static size_t socket_queued(struct migr_transport *transport)
{
	struct sock *sk = to_socket(transport)->sock->sk;
	long queued = 0;

	switch (sk->sk_family) {
	case AF_UNIX:
		queued = unix_inq_len(sk);
		break;
	case AF_INET:
	case AF_INET6:
		queued = tcp_inq(sk);
		break;
	}
	return max(queued, 0L);
}

static bool socket_exclusive(struct migr_transport *transport)
{
	return file_count(to_socket(transport)->file) == 1;
}

static void socket_shutdown(struct migr_transport *transport, bool drop)
{
	struct socket *sock = to_socket(transport)->sock;

	kernel_sock_shutdown(sock, SHUT_RDWR);
	if (!is_tcp(sock->sk))
		return;
	/*
	 * That wakes no TCP peer that waits for room in a queue which nobody
	 * empties any more. As when it is closed, what is unread resets it; what
	 * comes from now on does so by itself. And what the peer does not
	 * acknowledge is kept for minutes: lent pages, which look as if somebody
	 * might write to them as long (rule 4).
	 */
	if (tcp_inq(sock->sk) ||
	    (drop && !tcp_rtx_and_write_queues_empty(sock->sk)))
		tcp_abort(sock->sk, ECONNRESET);
}

static void socket_free(struct migr_transport *transport)
{
	struct migr_socket *socket = to_socket(transport);

	fput(socket->file);
	kfree(socket);
}

static const struct migr_transport_ops socket_ops = {
	.send = socket_send,
	.recv = socket_recv,
	.recv_some = socket_recv_some,
	.queued = socket_queued,
	.exclusive = socket_exclusive,
	.shutdown = socket_shutdown,
	.free = socket_free,
};

static int check_socket(const struct socket *sock)
{
	const struct sock *sk = sock->sk;

	if (sock->type != SOCK_STREAM)
		return -EPROTONOSUPPORT;
	switch (sk->sk_family) {
	case AF_UNIX:
	case AF_VSOCK:
		break;
	case AF_INET:
	case AF_INET6:
		if (sk->sk_protocol == IPPROTO_TCP)
			break;
		fallthrough;
	default:
		return -EPROTONOSUPPORT;
	}
	/* Of all of them; sock->state lags behind a connect() that did not wait. */
	return READ_ONCE(sk->sk_state) == TCP_ESTABLISHED ? 0 : -ENOTCONN;
}

/**
 * migr_socket_open() - make a transport of a socket
 * @fd: the socket, connected
 *
 * Return: it, or an error pointer: -EBADF, -ENOTSOCK, -EPROTONOSUPPORT,
 * -ENOTCONN, -ENOMEM.
 */
struct migr_transport *migr_socket_open(int fd)
{
	struct migr_socket *socket;
	struct socket *sock;
	struct file *file;
	int ret;

	file = fget(fd);
	if (!file)
		return ERR_PTR(-EBADF);
	sock = sock_from_file(file);
	ret = sock ? check_socket(sock) : -ENOTSOCK;
	if (ret)
		goto err_put;
	socket = migr_may_fail(kzalloc(sizeof(*socket), GFP_KERNEL_ACCOUNT),
			       NULL);
	if (!socket) {
		ret = -ENOMEM;
		goto err_put;
	}
	socket->transport.ops = &socket_ops;
	socket->sock = sock;
	socket->file = file;
	return &socket->transport;

err_put:
	fput(file);
	return ERR_PTR(ret);
}
