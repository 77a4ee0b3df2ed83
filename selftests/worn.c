// SPDX-License-Identifier: GPL-2.0-only
/*
 * While a VM moves, the keys of its streams have encrypted what a key may: other
 * streams take their place, and all of the memory arrives. Through libmigr,
 * with keys of which the kernel is told that nearly all of that has been.
 */
#include "ktls.h"
#include "moving.h"

#define PAGES		4096UL
/* A pass takes some seconds: libmigr looks at the streams twice a second. */
#define BANDWIDTH	(PAGES * TEST_PAGE / 3)
#define STREAMS		2
/*
 * Of those that libmigr lets a key have, all but what a pass takes and a few more: cut
 * in each pass, no stream would ever get it done.
 */
#define RECORD		16384
#define RECORDS_BEFORE	((1ULL << 23) - PAGES * TEST_PAGE / RECORD / STREAMS - 100)

static struct mem vm;
static bool paused;
/* Connections that this process has encrypted. */
static unsigned int encrypted;

/* In place of the C library's. Both sides count the records of a key from there. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	unsigned char key[sizeof(struct tls12_crypto_info_aes_gcm_128)];
	__u64 record;

	if (level != SOL_TLS || (name != TLS_TX && name != TLS_RX))
		return (int)syscall(SYS_setsockopt, fd, level, name, value, size);
	CHECK_EQ(size, sizeof(key));
	memcpy(key, value, sizeof(key));
	/* Its end is the number of the next record. */
	memcpy(&record, key + sizeof(key) - sizeof(record), sizeof(record));
	record = htobe64(be64toh(record) + RECORDS_BEFORE);
	memcpy(key + sizeof(key) - sizeof(record), &record, sizeof(record));
	encrypted += name == TLS_TX;
	return (int)syscall(SYS_setsockopt, fd, level, name, key, sizeof(key));
}

/* One is the control channel's. */
static unsigned int streams_opened(void)
{
	return encrypted - 1;
}

static int src_resume(struct migr_source *s, void *data)
{
	(void)s;
	(void)data;
	return 0;
}

static int src_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	(void)s;
	(void)data;
	(void)stopped_ns;
	paused = true;
	return 0;
}

/* The VM writes to all of it between passes, until each of the first streams is replaced. */
static int src_collect(struct migr_source *s, void *data)
{
	static __u64 seed = 1;

	(void)s;
	(void)data;
	if (!paused && streams_opened() < 2 * STREAMS)
		fill_random(vm.p, vm.len, &seed);
	return 0;
}

static const struct migr_source_ops src_ops = {
	.collect = src_collect,
	.pause = src_pause,
	.save = src_save,
	.resume = src_resume,
};

#define CERTIFICATES	"/tmp/migr-worn"

/* Those of this host, which is both sides. */
static void certify(void)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "rm -rf " CERTIFICATES " && %s/build/bin/migr pki --dir " CERTIFICATES " host,127.0.0.1 >&2",
		 getenv("MIGR_TOP") ?: ".");
	CHECK_EQ(run_command(command), 0);
}

static void replaced_in_passes(void)
{
	struct migr_source_options options = {
		.streams = STREAMS,
		.max_bandwidth = BANDWIDTH,
		.verify = true,
		.no_slowdown = true,
		.tls = {
			.ca = CERTIFICATES "/host/ca.pem",
			.certificate = CERTIFICATES "/host/cert.pem",
			.key = CERTIFICATES "/host/key.pem",
			.cipher = "AES-128-GCM",
		},
	};
	struct migr_source *s;
	struct migr_result r;

	certify();
	loopback_up();
	vm = mem_new(PAGES);
	r = move(&vm, &options, &src_ops, &s);
	diag("%u passes, %u streams", r.nr_passes, streams_opened());
	CHECK(streams_opened() >= 2 * STREAMS, "%u streams, though the first %u were worn",
	      streams_opened(), STREAMS);
	migr_source_free(s);
	CHECK_EQ(run_command("rm -r " CERTIFICATES), 0);
}

static const struct test_case cases[] = {
	CASE(replaced_in_passes),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
