// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Who the two sides are, and the keys between them: a handshake of TLS 1.3, after
 * which the kernel encrypts and decrypts what goes through the socket (kTLS).
 * Whoever has the descriptor then uses it as any other.
 *
 * GnuTLS does the handshake and the certificates, and is done with a connection
 * before the first message: nothing that it has read or promised is left behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "internal.h"

#ifndef SOL_TLS
#define SOL_TLS		282
#endif

/* With the ciphers that the kernel knows as well, and no key that is all too short. */
#define PRIORITY	"NORMAL:%PROFILE_MEDIUM:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL"
#define CIPHERS		"AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"

struct tls {
	atomic_uint users;
	gnutls_certificate_credentials_t credentials;
	gnutls_priority_t priority;
	const char *peer;		/* the name that the peer must have, or NULL */
	const char *files[3];
	struct timespec changed[3];	/* before they were read */
};

/* A handshake that is going on. */
struct handshake {
	gnutls_session_t session;
	struct control *control;
	uint64_t deadline_ns;
	bool answered;			/* the peer has said something */
};

/* ---- who we are ------------------------------------------------------- */

/* The kernel looks for the module before it finds that nobody is connected. */
static int check_kernel(struct error *e)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = 0;

	if (fd < 0)
		return error_set(e, -errno, "cannot make a socket: %s", strerror(errno));
	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) < 0 && errno != ENOTCONN)
		error = error_set(e, -EPROTONOSUPPORT,
				  "this kernel does not encrypt sockets: load its module (modprobe tls)");
	close(fd);
	return error;
}

static int check_file(const char *what, const char *path, struct error *e)
{
	if (!access(path, R_OK))
		return 0;
	return error_set(e, -errno,
			 "cannot read %s %s: %s (see 'migr pki', or say --insecure on both sides)",
			 what, path, strerror(errno));
}

static struct timespec when_changed(const char *path)
{
	struct stat st = { 0 };

	stat(path, &st);
	return st.st_ctim;
}

static int load(struct tls *t, const struct migr_tls *options, struct error *e)
{
	const char *ca = t->files[0] = options->ca ?: MIGR_TLS_CA;
	const char *certificate = t->files[1] = options->certificate ?: MIGR_TLS_CERTIFICATE;
	const char *key = t->files[2] = options->key ?: MIGR_TLS_KEY;
	int n;

	for (n = 0; n < 3; n++)
		t->changed[n] = when_changed(t->files[n]);

	if (check_file("the certificate authority", ca, e) ||
	    check_file("the certificate", certificate, e) || check_file("the key", key, e))
		return -ENOKEY;
	n = gnutls_certificate_set_x509_trust_file(t->credentials, ca, GNUTLS_X509_FMT_PEM);
	if (n <= 0)
		return error_set(e, -ENOKEY, "there is no certificate in %s: %s", ca,
				 n ? gnutls_strerror(n) : "nothing");
	n = gnutls_certificate_set_x509_key_file(t->credentials, certificate, key,
						 GNUTLS_X509_FMT_PEM);
	if (n < 0)
		return error_set(e, -ENOKEY, "cannot use the certificate %s with the key %s: %s",
				 certificate, key, gnutls_strerror(n));
	return 0;
}

static int set_ciphers(struct tls *t, const char *cipher, struct error *e)
{
	char priority[sizeof(PRIORITY) + sizeof(CIPHERS) + 2];

	if (cipher && strcmp(cipher, "AES-128-GCM") && strcmp(cipher, "AES-256-GCM") &&
	    strcmp(cipher, "CHACHA20-POLY1305"))
		return error_set(e, -EINVAL,
				 "there is no cipher '%s', but AES-128-GCM, AES-256-GCM and CHACHA20-POLY1305",
				 cipher);
	snprintf(priority, sizeof(priority), "%s:+%s", PRIORITY, cipher ? cipher : CIPHERS);
	if (gnutls_priority_init(&t->priority, priority, NULL) < 0)
		return error_set(e, -EPROTONOSUPPORT, "GnuTLS has none of these: %s", priority);
	return 0;
}

int tls_open(const struct migr_tls *options, struct tls **tls, struct error *e)
{
	struct tls *t;
	int error;

	*tls = NULL;
	if (options->insecure)
		return 0;
	t = calloc(1, sizeof(*t));
	if (!t || gnutls_certificate_allocate_credentials(&t->credentials) < 0) {
		free(t);
		return error_set(e, -ENOMEM, "no memory");
	}
	atomic_init(&t->users, 1);
	error = load(t, options, e);
	if (!error)
		error = set_ciphers(t, options->cipher, e);
	if (!error)
		error = check_kernel(e);
	if (error) {
		tls_close(t);
		return error;
	}
	t->peer = options->peer;
	*tls = t;
	return 0;
}

bool tls_is_current(const struct tls *t)
{
	for (int n = 0; n < 3; n++) {
		struct timespec now = when_changed(t->files[n]);

		if (now.tv_sec != t->changed[n].tv_sec || now.tv_nsec != t->changed[n].tv_nsec)
			return false;
	}
	return true;
}

struct tls *tls_get(struct tls *t)
{
	if (t)
		atomic_fetch_add(&t->users, 1);
	return t;
}

void tls_close(struct tls *t)
{
	if (!t || atomic_fetch_sub(&t->users, 1) > 1)
		return;
	if (t->priority)
		gnutls_priority_deinit(t->priority);
	gnutls_certificate_free_credentials(t->credentials);
	free(t);
}

int migr_tls_check(struct migr *m, const struct migr_tls *options)
{
	struct tls *tls;
	int error = tls_open(options, &tls, &m->error);

	tls_close(tls);
	return error;
}

/* ---- the handshake ---------------------------------------------------- */

static ssize_t pull(gnutls_transport_ptr_t transport, void *bytes, size_t length)
{
	struct handshake *h = transport;
	ssize_t n;

	/* Even of one that never stops, and so is never waited for. */
	if (now_ns() >= h->deadline_ns) {
		errno = EAGAIN;
		return -1;
	}
	n = recv(h->control->fd, bytes, length, MSG_DONTWAIT);
	h->answered |= n > 0;
	return n;
}

static ssize_t push(gnutls_transport_ptr_t transport, const void *bytes, size_t length)
{
	const struct handshake *h = transport;

	return send(h->control->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int alerted(struct handshake *h)
{
	gnutls_alert_description_t alert = gnutls_alert_get(h->session);
	struct control *c = h->control;

	return error_set(c->error, -EPROTO, "the %s will not encrypt: %s%s", c->peer,
			 gnutls_alert_get_name(alert), alert != GNUTLS_A_HANDSHAKE_FAILURE ? "" :
			 " (is --cipher the same on both sides?)");
}

static int handshake_error(struct handshake *h, int ret)
{
	struct control *c = h->control;

	switch (ret) {
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return error_set(c->error, -ECONNRESET, h->answered ?
				 "the %s closed the connection during the handshake" :
				 "the %s closed the connection instead of encrypting it (does it say --insecure?)",
				 c->peer);
	case GNUTLS_E_WARNING_ALERT_RECEIVED:
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return alerted(h);
	default:
		/* Or all that it would hear is that we have gone. */
		gnutls_alert_send_appropriate(h->session, ret);
		return error_set(c->error, -EPROTO, "cannot agree with the %s on encryption: %s",
				 c->peer, gnutls_strerror(ret));
	}
}

static int shake_hands(struct handshake *h)
{
	struct control *c = h->control;
	int ret, error;
	short events;

	while ((ret = gnutls_handshake(h->session)) == GNUTLS_E_AGAIN) {
		events = gnutls_record_get_direction(h->session) ? POLLOUT : POLLIN;
		error = socket_wait(c->fd, events, c->cancel_fd, h->deadline_ns);
		if (error == -ECANCELED)
			return error_set(c->error, error, "cancelled");
		if (error)
			return error_set(c->error, error, "no word from the %s in time", c->peer);
	}
	return ret < 0 ? handshake_error(h, ret) : 0;
}

/* ---- the kernel's part ------------------------------------------------ */

#define NONCE_BYTES	12
#define SEQUENCE_BYTES	8
#define KEY_BYTES_MAX	32

/*
 * What the kernel wants of a cipher: struct tls12_crypto_info_..., which is the info,
 * the nonce but for its beginning, the key, that beginning (the salt), the sequence.
 */
struct secrets {
	struct tls_crypto_info info;
	unsigned char bytes[NONCE_BYTES + KEY_BYTES_MAX + SEQUENCE_BYTES];
};

_Static_assert(sizeof(struct secrets) == sizeof(struct tls12_crypto_info_aes_gcm_256) &&
	       sizeof(struct secrets) == sizeof(struct tls12_crypto_info_chacha20_poly1305) &&
	       sizeof(struct secrets) == sizeof(struct tls12_crypto_info_aes_gcm_128) + 16, "");

static const struct cipher {
	gnutls_cipher_algorithm_t gnutls;
	uint16_t kernel;
	size_t salt_bytes;
} ciphers[] = {
	{ GNUTLS_CIPHER_AES_128_GCM, TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_128_SALT_SIZE },
	{ GNUTLS_CIPHER_AES_256_GCM, TLS_CIPHER_AES_GCM_256, TLS_CIPHER_AES_GCM_256_SALT_SIZE },
	{ GNUTLS_CIPHER_CHACHA20_POLY1305, TLS_CIPHER_CHACHA20_POLY1305,
	  TLS_CIPHER_CHACHA20_POLY1305_SALT_SIZE },
};

static const struct cipher *find_cipher(gnutls_session_t session)
{
	for (size_t i = 0; i < sizeof(ciphers) / sizeof(*ciphers); i++)
		if (ciphers[i].gnutls == gnutls_cipher_get(session))
			return &ciphers[i];
	return NULL;
}

/* Those of one way; their size, or 0. */
static socklen_t get_secrets(gnutls_session_t session, bool read, struct secrets *s)
{
	const struct cipher *cipher = find_cipher(session);
	unsigned char sequence[SEQUENCE_BYTES], *p = s->bytes;
	gnutls_datum_t nonce, key;

	if (!cipher || gnutls_record_get_state(session, read, NULL, &nonce, &key, sequence) < 0 ||
	    nonce.size != NONCE_BYTES || key.size > KEY_BYTES_MAX)
		return 0;
	s->info.version = TLS_1_3_VERSION;
	s->info.cipher_type = cipher->kernel;
	p = mempcpy(p, nonce.data + cipher->salt_bytes, NONCE_BYTES - cipher->salt_bytes);
	p = mempcpy(p, key.data, key.size);
	p = mempcpy(p, nonce.data, cipher->salt_bytes);
	p = mempcpy(p, sequence, SEQUENCE_BYTES);
	return p - (unsigned char *)s;
}

static int set_way(struct handshake *h, int way)
{
	struct control *c = h->control;
	struct secrets secrets;
	socklen_t size = get_secrets(h->session, way == TLS_RX, &secrets);
	int error = 0;

	if (!size || setsockopt(c->fd, SOL_TLS, way, &secrets, size) < 0)
		error = error_set(c->error, size ? -errno : -EPROTONOSUPPORT,
				  "the kernel does not take the cipher: %s",
				  strerror(size ? errno : EPROTONOSUPPORT));
	explicit_bzero(&secrets, sizeof(secrets));
	return error;
}

/*
 * Make it a socket that takes keys; as long as it has none it is as any other. That is
 * for one whose peer is still there, as it need not be after the handshake: it may have
 * refused us, and said why.
 */
static int prepare(struct handshake *h)
{
	struct control *c = h->control;

	if (!setsockopt(c->fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")))
		return 0;
	if (errno == ENOTCONN)
		return error_set(c->error, -ECONNRESET, "the %s closed the connection", c->peer);
	return error_set(c->error, -errno, "the kernel does not encrypt the connection: %s",
			 strerror(errno));
}

static int hand_over(struct handshake *h)
{
	struct control *c = h->control;
	int one = 1, error;

	/* It could not be read any more. */
	if (gnutls_record_check_pending(h->session))
		return error_set(c->error, -EPROTO, "the %s spoke before its time", c->peer);
	error = set_way(h, TLS_TX);
	if (!error)
		error = set_way(h, TLS_RX);
	/* A hint, for kernels that take it: nobody pads, so decrypt to where it goes. */
	setsockopt(c->fd, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &one, sizeof(one));
	return error;
}

uint64_t tls_records(int fd)
{
	socklen_t size = sizeof(struct tls_crypto_info);
	struct secrets secrets;
	uint64_t sequence = 0;
	unsigned char *p;

	if (getsockopt(fd, SOL_TLS, TLS_TX, &secrets.info, &size) < 0)
		return 0;
	switch (secrets.info.cipher_type) {
	case TLS_CIPHER_AES_GCM_128:
		size = sizeof(struct tls12_crypto_info_aes_gcm_128);
		break;
	case TLS_CIPHER_AES_GCM_256:
		size = sizeof(struct tls12_crypto_info_aes_gcm_256);
		break;
	default:
		return 0;
	}
	if (!getsockopt(fd, SOL_TLS, TLS_TX, &secrets, &size))
		for (p = (unsigned char *)&secrets + size - SEQUENCE_BYTES;
		     p < (unsigned char *)&secrets + size; p++)
			sequence = sequence << 8 | *p;
	explicit_bzero(&secrets, sizeof(secrets));
	return sequence;
}

/* ---- who the peer is -------------------------------------------------- */

/* What the verification says, without the blank at its end. */
static void refuse(struct control *c, const char *name, unsigned int status)
{
	gnutls_datum_t why = { NULL, 0 };
	int length;

	gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &why, 0);
	length = why.data ? strlen((char *)why.data) : 0;
	while (length && why.data[length - 1] == ' ')
		length--;
	if (name)
		error_set(c->error, 0,
			  "the certificate of the %s, which should be '%s', is refused: %.*s",
			  c->peer, name, length, (char *)why.data);
	else
		error_set(c->error, 0, "the certificate of the %s is refused: %.*s", c->peer,
			  length, (char *)why.data);
	gnutls_free(why.data);
}

static int check_peer(struct handshake *h, const char *name, const char *purpose,
		      struct tls_identity *identity)
{
	gnutls_typed_vdata_st data[] = {
		{ GNUTLS_DT_KEY_PURPOSE_OID, (unsigned char *)purpose, 0 },
		{ GNUTLS_DT_DNS_HOSTNAME, (unsigned char *)name, 0 },
	};
	const gnutls_datum_t *certificate = gnutls_certificate_get_peers(h->session, NULL);
	size_t size = sizeof(identity->bytes);
	unsigned int status;

	if (!certificate ||
	    gnutls_certificate_verify_peers(h->session, data, name ? 2 : 1, &status) < 0 ||
	    gnutls_fingerprint(GNUTLS_DIG_SHA256, certificate, identity->bytes, &size) < 0)
		return error_set(h->control->error, -EKEYREJECTED,
				 "the %s has no certificate that can be checked", h->control->peer);
	if (!status)
		return 0;
	refuse(h->control, name, status);
	return -EKEYREJECTED;
}

/*
 * The certificate is checked when the connection is encrypted, so that the peer can
 * be told what is wrong with it; nothing that it says has been read by then.
 */
static int secure(struct tls *t, struct handshake *h, unsigned int side, const char *name,
		  const char *purpose, struct tls_identity *identity)
{
	struct control *c = h->control;
	int error;

	if (gnutls_init(&h->session, side | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS) < 0)
		return error_set(c->error, -ENOMEM, "no memory");
	gnutls_priority_set(h->session, t->priority);
	gnutls_credentials_set(h->session, GNUTLS_CRD_CERTIFICATE, t->credentials);
	if (side == GNUTLS_SERVER) {
		gnutls_certificate_server_set_request(h->session, GNUTLS_CERT_REQUIRE);
		/* A client keeps back what is not of an authority that it is told of. */
		gnutls_certificate_send_x509_rdn_sequence(h->session, 1);
	}
	/* Or whoever sets SSLKEYLOGFILE would have the keys written there. */
	gnutls_session_set_keylog_function(h->session, NULL);
	gnutls_transport_set_ptr(h->session, h);
	gnutls_transport_set_pull_function(h->session, pull);
	gnutls_transport_set_push_function(h->session, push);
	error = prepare(h);
	if (!error)
		error = shake_hands(h);
	if (!error)
		error = hand_over(h);
	if (!error) {
		error = check_peer(h, name, purpose, identity);
		if (error)
			control_send_error(c, c->error->text);
	}
	gnutls_deinit(h->session);
	return error;
}

int tls_connect(struct tls *t, struct control *c, const char *host,
		struct tls_identity *identity)
{
	struct handshake h = {
		.control = c, .deadline_ns = now_ns() + c->timeout_ms * NS_PER_MS,
	};

	return secure(t, &h, GNUTLS_CLIENT, t->peer ? t->peer : host, GNUTLS_KP_TLS_WWW_SERVER,
		      identity);
}

/* A handshake begins with 22 and 3, which no message of ours does. */
static int expect_handshake(struct control *c, uint64_t deadline_ns)
{
	unsigned char bytes[2];
	ssize_t n;
	int error;

	error = socket_wait(c->fd, POLLIN, c->cancel_fd, deadline_ns);
	if (error)
		return error_set(c->error, error, error == -ECANCELED ? "cancelled" :
				 "no word from the %s in time", c->peer);
	n = recv(c->fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
	if (n <= 0)
		return error_set(c->error, -ECONNRESET, "the %s closed the connection", c->peer);
	if (bytes[0] == 22 && (n == 1 || bytes[1] == 3))
		return 0;
	error_set(c->error, 0,
		  "the %s does not encrypt: it and this side need certificates, or both --insecure",
		  c->peer);
	control_send_error(c, c->error->text);
	return -EPROTONOSUPPORT;
}

int tls_accept(struct tls *t, struct control *c, uint32_t timeout_ms,
	       struct tls_identity *identity)
{
	struct handshake h = { .control = c, .deadline_ns = now_ns() + timeout_ms * NS_PER_MS };
	int error;

	error = expect_handshake(c, h.deadline_ns);
	if (error)
		return error;
	return secure(t, &h, GNUTLS_SERVER, t->peer, GNUTLS_KP_TLS_WWW_CLIENT, identity);
}
