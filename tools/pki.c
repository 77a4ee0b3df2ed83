// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr pki: an authority of one's own, and certificates for hosts.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/crypto.h>
#include <gnutls/x509.h>

#include "tool.h"

#define DEFAULT_FOLDER	"pki"
#define DEFAULT_DAYS	365
#define AUTHORITY_DAYS	3650
#define DAY_S		(24 * 3600)
/* Hosts' clocks differ. */
#define EARLIER_S	DAY_S

static const char help[] =
"Usage: migr pki [options] HOST[,NAME|ADDRESS]...\n"
"\n"
"Make an authority, unless the folder has one, and for each host a folder with what\n"
"belongs into /etc/migr there: ca.pem, cert.pem and key.pem. 'migr send' checks that\n"
"the certificate of the host it connects to has the name or address it was given.\n"
"The authority's own key is ca-key.pem: who has it can be any host.\n"
"\n"
"      --dir FOLDER  where to make them (" DEFAULT_FOLDER ")\n"
"      --days N      how long those of hosts are valid (365); 0: they have expired\n"
"      --help        show this\n"
"\n"
"Exit status: 0 made; 1 it failed; 2 wrong usage.\n";

/* A certificate with its key. */
struct identity {
	gnutls_x509_crt_t crt;
	gnutls_x509_privkey_t key;
};

static bool failed(const char *what, int ret)
{
	complain("pki: %s: %s", what, gnutls_strerror(ret));
	return false;
}

static void release(struct identity *i)
{
	gnutls_x509_crt_deinit(i->crt);
	gnutls_x509_privkey_deinit(i->key);
}

/* ---- files ------------------------------------------------------------ */

/* What a file is called until all of it is there. */
#define NEW	".new"

struct folder {
	const char *path;
	int fd;
};

static bool cannot(const char *what, const struct folder *f, const char *name)
{
	complain("pki: cannot %s %s/%s: %s", what, f->path, name, strerror(errno));
	return false;
}

/* Made, if it is not there, and ours alone. */
static bool open_folder(struct folder *f, const char *path)
{
	*f = (struct folder){ .path = path, .fd = -1 };
	if (!mkdir(path, 0755) || errno == EEXIST)
		f->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->fd >= 0 && !flock(f->fd, LOCK_EX | LOCK_NB))
		return true;
	complain("pki: cannot use the folder %s: %s", path,
		 errno == EWOULDBLOCK ? "another 'migr pki' does" : strerror(errno));
	if (f->fd >= 0)
		close(f->fd);
	return false;
}

static bool write_all(int fd, const gnutls_datum_t *text)
{
	unsigned int done = 0;
	ssize_t n;

	while (done < text->size) {
		n = write(fd, text->data + done, text->size - done);
		if (n > 0)
			done += n;
		else if (errno != EINTR)
			return false;
	}
	return !fsync(fd);
}

/* Under its new name: a key is never open to others, not even for a moment. */
static bool write_file(const struct folder *f, const char *name, const gnutls_datum_t *text,
		       mode_t mode)
{
	char new[NAME_MAX];
	int fd, error;

	snprintf(new, sizeof(new), "%s" NEW, name);
	unlinkat(f->fd, new, 0);
	fd = openat(f->fd, new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return cannot("make", f, new);
	error = write_all(fd, text) ? 0 : errno;
	if (close(fd) && !error)
		error = errno;
	if (!error)
		return true;
	unlinkat(f->fd, new, 0);
	errno = error;
	return cannot("write", f, new);
}

/* In the place of what is there. */
static bool publish(const struct folder *f, const char *name)
{
	char new[NAME_MAX];

	snprintf(new, sizeof(new), "%s" NEW, name);
	return !renameat(f->fd, new, f->fd, name) || cannot("make", f, name);
}

static bool write_certificate(const struct folder *f, const char *name, gnutls_x509_crt_t crt)
{
	gnutls_datum_t text;
	int ret = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text);
	bool done;

	if (ret < 0)
		return failed("cannot write a certificate", ret);
	done = write_file(f, name, &text, 0644);
	gnutls_free(text.data);
	return done;
}

static bool write_key(const struct folder *f, const char *name, gnutls_x509_privkey_t key)
{
	gnutls_datum_t text;
	int ret = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL,
						    GNUTLS_PKCS_PLAIN, &text);
	bool done;

	if (ret < 0)
		return failed("cannot write a key", ret);
	done = write_file(f, name, &text, 0600);
	gnutls_memset(text.data, 0, text.size);
	gnutls_free(text.data);
	return done;
}

static bool find_file(const struct folder *f, const char *name, bool *there)
{
	struct stat st;

	*there = !fstatat(f->fd, name, &st, AT_SYMLINK_NOFOLLOW);
	return *there || errno == ENOENT || cannot("look for", f, name);
}

static bool read_file(const struct folder *f, const char *name, gnutls_datum_t *text)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	return gnutls_load_file(path, text) >= 0 || cannot("read", f, name);
}

/* ---- certificates ----------------------------------------------------- */

/* A key, and what every certificate says. */
static bool begin(struct identity *i, const char *name, unsigned int days)
{
	time_t now = time(NULL);
	unsigned char serial[16];
	int ret;

	gnutls_x509_crt_init(&i->crt);
	gnutls_x509_privkey_init(&i->key);
	ret = gnutls_x509_privkey_generate(i->key, GNUTLS_PK_ECDSA,
					   GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (!ret)
		ret = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));
	/* A positive number. */
	serial[0] &= 0x7f;
	if (!ret)
		ret = gnutls_x509_crt_set_serial(i->crt, serial, sizeof(serial));
	if (!ret)
		ret = gnutls_x509_crt_set_version(i->crt, 3);
	if (!ret)
		ret = gnutls_x509_crt_set_dn_by_oid(i->crt, GNUTLS_OID_X520_COMMON_NAME, 0, name,
						    strlen(name));
	if (!ret)
		ret = gnutls_x509_crt_set_activation_time(i->crt, now - EARLIER_S);
	if (!ret)
		ret = gnutls_x509_crt_set_expiration_time(i->crt, now - !days + days * DAY_S);
	if (!ret)
		ret = gnutls_x509_crt_set_key(i->crt, i->key);
	return ret ? failed("cannot make a certificate", ret) : true;
}

static bool finish(struct identity *i, const struct identity *authority)
{
	unsigned char id[64];
	size_t size = sizeof(id);
	int ret;

	ret = gnutls_x509_crt_get_key_id(i->crt, GNUTLS_KEYID_USE_SHA256, id, &size);
	if (!ret)
		ret = gnutls_x509_crt_set_subject_key_id(i->crt, id, size);
	size = sizeof(id);
	if (!ret)
		ret = gnutls_x509_crt_get_key_id(authority->crt, GNUTLS_KEYID_USE_SHA256, id,
						 &size);
	if (!ret)
		ret = gnutls_x509_crt_set_authority_key_id(i->crt, id, size);
	if (!ret)
		ret = gnutls_x509_crt_sign2(i->crt, authority->crt, authority->key,
					    GNUTLS_DIG_SHA256, 0);
	return ret ? failed("cannot sign a certificate", ret) : true;
}

/* ---- the authority ---------------------------------------------------- */

static const char *const ca_names[] = { "ca.pem", "ca-key.pem" };

static bool make_authority(struct identity *ca, const struct folder *f)
{
	int ret;

	if (!begin(ca, "migr", AUTHORITY_DAYS))
		return false;
	ret = gnutls_x509_crt_set_basic_constraints(ca->crt, 1, 0);
	if (!ret)
		ret = gnutls_x509_crt_set_key_usage(ca->crt, GNUTLS_KEY_KEY_CERT_SIGN |
						    GNUTLS_KEY_CRL_SIGN);
	if (ret)
		return failed("cannot make a certificate", ret);
	return finish(ca, ca) && write_certificate(f, "ca.pem", ca->crt) &&
	       write_key(f, "ca-key.pem", ca->key) && publish(f, "ca-key.pem") &&
	       publish(f, "ca.pem");
}

static bool read_authority(struct identity *ca, const struct folder *f, const char *crt_name,
			   const char *key_name)
{
	gnutls_datum_t crt, key;
	int ret;

	if (!read_file(f, crt_name, &crt))
		return false;
	if (!read_file(f, key_name, &key)) {
		gnutls_free(crt.data);
		return false;
	}
	gnutls_x509_crt_init(&ca->crt);
	gnutls_x509_privkey_init(&ca->key);
	ret = gnutls_x509_crt_import(ca->crt, &crt, GNUTLS_X509_FMT_PEM);
	if (!ret)
		ret = gnutls_x509_privkey_import(ca->key, &key, GNUTLS_X509_FMT_PEM);
	gnutls_free(crt.data);
	gnutls_memset(key.data, 0, key.size);
	gnutls_free(key.data);
	return ret ? failed("cannot use the authority that is there", ret) : true;
}

static bool is_pair(const struct identity *i)
{
	unsigned char of_crt[64], of_key[64];
	size_t crt_size = sizeof(of_crt), key_size = sizeof(of_key);

	return !gnutls_x509_crt_get_key_id(i->crt, GNUTLS_KEYID_USE_SHA256, of_crt, &crt_size) &&
	       !gnutls_x509_privkey_get_key_id(i->key, GNUTLS_KEYID_USE_SHA256, of_key,
					       &key_size) &&
	       crt_size == key_size && !memcmp(of_crt, of_key, key_size);
}

/*
 * The folder's. Of the two files one may still have its new name, after a run that
 * was interrupted. But one that is missing has been taken away: without it there
 * is nothing to be done, and the other is not ours to replace.
 */
static bool find_authority(struct identity *ca, const struct folder *f, const bool there[2])
{
	const char *names[2];
	char new[2][NAME_MAX];
	bool has_new;

	for (int i = 0; i < 2; i++) {
		names[i] = there[i] ? ca_names[i] : new[i];
		snprintf(new[i], sizeof(new[i]), "%s" NEW, ca_names[i]);
		if (there[i])
			continue;
		if (!find_file(f, new[i], &has_new))
			return false;
		if (!has_new) {
			complain("pki: %s has %s, but no %s: put that back, or take both away for a new authority",
				 f->path, ca_names[!i], ca_names[i]);
			return false;
		}
	}
	if (!read_authority(ca, f, names[0], names[1]))
		return false;
	if (!is_pair(ca)) {
		complain("pki: %s/%s is not the key of %s/%s", f->path, names[1], f->path,
			 names[0]);
		return false;
	}
	return (there[0] || publish(f, ca_names[0])) && (there[1] || publish(f, ca_names[1]));
}

/* One that outlives what it is to sign. */
static bool check_authority(const struct identity *ca, const struct folder *f,
			    unsigned int days)
{
	time_t now = time(NULL), end = gnutls_x509_crt_get_expiration_time(ca->crt);

	if (gnutls_x509_crt_get_ca_status(ca->crt, NULL) <= 0)
		complain("pki: %s/ca.pem is not the certificate of an authority", f->path);
	else if (end <= now)
		complain("pki: the authority of %s has expired: take ca.pem and ca-key.pem away for a new one",
			 f->path);
	else if (days > (end - now + DAY_S - 1) / DAY_S)
		complain("pki: the authority of %s is valid for another %lld days: that is the most for --days",
			 f->path, (long long)(end - now + DAY_S - 1) / DAY_S);
	else
		return true;
	return false;
}

/* The folder's, or a new one. */
static bool get_authority(struct identity *ca, const struct folder *f, unsigned int days)
{
	bool there[2], done;

	if (!find_file(f, ca_names[0], &there[0]) || !find_file(f, ca_names[1], &there[1]))
		return false;
	if (there[0] || there[1])
		done = find_authority(ca, f, there);
	else
		done = make_authority(ca, f);
	return done && check_authority(ca, f, days) && (!fsync(f->fd) || cannot("write", f, ""));
}

/* ---- hosts ------------------------------------------------------------ */

static int add_name(gnutls_x509_crt_t crt, const char *name)
{
	unsigned char address[16];
	int size = inet_pton(AF_INET, name, address) == 1 ? 4 :
		   inet_pton(AF_INET6, name, address) == 1 ? 16 : 0;

	if (size)
		return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, address,
							    size, GNUTLS_FSAN_APPEND);
	return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, name, strlen(name),
						    GNUTLS_FSAN_APPEND);
}

/* names is cut into them; the first is the host's. */
static bool make_host(const struct identity *ca, const char *folder, char *names,
		      unsigned int days)
{
	char path[PATH_MAX], *rest, *name = strtok_r(names, ",", &rest);
	struct identity host;
	struct folder f;
	int ret = 0;
	bool done;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (!open_folder(&f, path))
		return false;
	done = begin(&host, name, days);
	for (; done && name && !ret; name = strtok_r(NULL, ",", &rest))
		ret = add_name(host.crt, name);
	if (!ret)
		ret = gnutls_x509_crt_set_key_usage(host.crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
	if (!ret)
		ret = gnutls_x509_crt_set_key_purpose_oid(host.crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
	if (!ret)
		ret = gnutls_x509_crt_set_key_purpose_oid(host.crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
	if (!ret)
		ret = gnutls_x509_crt_set_basic_constraints(host.crt, 0, -1);
	if (ret)
		done = failed("cannot make a certificate", ret);
	done = done && finish(&host, ca) && write_certificate(&f, "ca.pem", ca->crt) &&
	       write_certificate(&f, "cert.pem", host.crt) &&
	       write_key(&f, "key.pem", host.key) && publish(&f, "ca.pem") &&
	       publish(&f, "cert.pem") && publish(&f, "key.pem") &&
	       (!fsync(f.fd) || cannot("write", &f, ""));
	release(&host);
	close(f.fd);
	if (done)
		printf("%s: copy it to /etc/migr there\n", path);
	return done;
}

/* The first name is that of a folder. */
static bool valid_host(const char *names)
{
	return *names && *names != ',' && *names != '.' && !strchr(names, '/');
}

int cmd_pki(int argc, char **argv)
{
	enum { DIR = 1, DAYS, HELP };
	static const struct option options[] = {
		{ "dir", required_argument, NULL, DIR },
		{ "days", required_argument, NULL, DAYS },
		{ "help", no_argument, NULL, HELP },
		{ 0 }
	};
	const char *path = DEFAULT_FOLDER;
	struct folder folder;
	uint32_t days = DEFAULT_DAYS;
	struct identity ca = { 0 };
	bool done;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == DIR)
			path = optarg;
		if (c == DAYS && !parse_number("--days", optarg, 0, AUTHORITY_DAYS, &days))
			return EXIT_USAGE;
		if (c == HELP) {
			fputs(help, stdout);
			return 0;
		}
		if (c == '?')
			return EXIT_USAGE;
	}
	if (optind == argc) {
		complain("pki: for which hosts? (see 'migr pki --help')");
		return EXIT_USAGE;
	}
	for (int i = optind; i < argc; i++)
		if (!valid_host(argv[i])) {
			complain("pki: not a host: '%s'", argv[i]);
			return EXIT_USAGE;
		}
	if (!open_folder(&folder, path))
		return EXIT_HERE;
	done = get_authority(&ca, &folder, days);
	for (int i = optind; i < argc && done; i++)
		done = make_host(&ca, path, argv[i], days);
	release(&ca);
	close(folder.fd);
	return done ? 0 : EXIT_HERE;
}
