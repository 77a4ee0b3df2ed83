/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sockets that the kernel encrypts, with keys that nobody had to agree on.
 */
#ifndef MIGR_KTLS_H
#define MIGR_KTLS_H

#include "migration.h"

#include <linux/tls.h>
#include <netinet/tcp.h>

#ifndef SOL_TLS
#define SOL_TLS	282
#endif

union ktls_key {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 aes_128;
	struct tls12_crypto_info_aes_gcm_256 aes_256;
	struct tls12_crypto_info_chacha20_poly1305 chacha;
};

/* A key of a cipher that is about to encrypt or decrypt this record; its size. */
static inline socklen_t ktls_key(union ktls_key *key, int cipher, int secret, __u64 record)
{
	__u64 sequence = htobe64(record);

	memset(key, secret, sizeof(*key));
	key->info.version = TLS_1_3_VERSION;
	key->info.cipher_type = cipher;
	switch (cipher) {
	case TLS_CIPHER_AES_GCM_128:
		memcpy(key->aes_128.rec_seq, &sequence, sizeof(sequence));
		return sizeof(key->aes_128);
	case TLS_CIPHER_AES_GCM_256:
		memcpy(key->aes_256.rec_seq, &sequence, sizeof(sequence));
		return sizeof(key->aes_256);
	default:
		memcpy(key->chacha.rec_seq, &sequence, sizeof(sequence));
		return sizeof(key->chacha);
	}
}

/* One way of a socket: TLS_TX or TLS_RX. */
static inline void ktls_way(int fd, int way, int cipher, int secret, __u64 record)
{
	union ktls_key key;
	socklen_t size = ktls_key(&key, cipher, secret, record);

	SYS(setsockopt(fd, SOL_TLS, way, &key, size));
}

/* One end, with a secret for either direction. */
static inline void ktls_end(int fd, int cipher, int tx, int rx, __u64 record)
{
	SYS(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")));
	ktls_way(fd, TLS_TX, cipher, tx, record);
	ktls_way(fd, TLS_RX, cipher, rx, record);
}

static inline void ktls_pair(int fd[2], int cipher, __u64 record)
{
	tcp_pair(fd);
	ktls_end(fd[0], cipher, 1, 2, record);
	ktls_end(fd[1], cipher, 2, 1, record);
}

static inline void aes_128_pair(int fd[2])
{
	ktls_pair(fd, TLS_CIPHER_AES_GCM_128, 0);
}

#endif /* MIGR_KTLS_H */
