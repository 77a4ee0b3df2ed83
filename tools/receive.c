// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr receive: wait for VMs, and run each that arrives in a QEMU of its own.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define DEFAULT_LISTEN	":" MIGR_DEFAULT_PORT

static const char help[] =
"Usage: migr receive [options] [--] qemu-system-x86_64 ...\n"
"\n"
"Wait for a VM that 'migr send' moves here, and run it in the given QEMU, which\n"
"is started for it with its RAM on " MIGR_DEVICE ". The command is the one that the VM\n"
"was started with on its source; it never comes from the network. An arrived VM\n"
"runs in a session of its own and outlives this program.\n"
"\n"
"      --listen [ADDR][:PORT]|unix:PATH|vsock:[CID:]PORT\n"
"                   where to wait (" DEFAULT_LISTEN ")\n"
"      --network CIDR[,CIDR...]  have memory arrive over links in these networks alone\n"
"                                (\"networks\" of " CONFIG_FILE ")\n"
"      --once       end after one attempt: 0 if the VM arrived and runs\n"
"      --timeout S  without progress or an answer, give it up (30)\n"
"      --ca FILE    who has signed the sources' certificates\n"
"      --cert FILE  our certificate\n"
"      --key FILE   its key; default: ca.pem, cert.pem, key.pem of /etc/migr\n"
"      --peer NAME  name that the source's certificate must have (any)\n"
"      --cipher NAME  AES-128-GCM, AES-256-GCM or CHACHA20-POLY1305 alone\n"
"      --insecure   no certificates and no encryption, on both sides\n"
"      --json       one JSON object a line; QEMU's output goes to standard error\n"
"      --help       show this\n"
"\n"
"Exit status: 0 the VM runs here; 1 it does not; 2 wrong usage; 4 it is here and\n"
"could not be resumed; 128+n interrupted by signal n. Without --once it ends only\n"
"by a signal, or where it cannot wait.\n";

struct arguments {
	struct migr_destination_options options;
	const char *listen;
	bool once, json;
};

static struct migr_destination *running;	/* for the signal handler */
static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
	interrupted = signal;
	migr_destination_cancel(running);
}

static void handle_signals(struct migr_destination *d)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = d ? interrupt : SIG_IGN };

	running = d;
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Ctrl-Z would leave a VM paused. */
	signal(SIGTSTP, SIG_IGN);
}

/* -1: go on; else an exit status. */
static int parse(int argc, char **argv, struct arguments *a)
{
	enum { LISTEN = 1, NETWORK, ONCE, TIMEOUT, JSON, HELP };
	static const struct option options[] = {
		{ "listen", required_argument, NULL, LISTEN },
		{ "network", required_argument, NULL, NETWORK },
		{ "once", no_argument, NULL, ONCE },
		{ "timeout", required_argument, NULL, TIMEOUT },
		{ "ca", required_argument, NULL, TLS_CA },
		{ "cert", required_argument, NULL, TLS_CERT },
		{ "key", required_argument, NULL, TLS_KEY },
		{ "peer", required_argument, NULL, TLS_PEER },
		{ "cipher", required_argument, NULL, TLS_CIPHER },
		{ "insecure", no_argument, NULL, TLS_INSECURE },
		{ "json", no_argument, NULL, JSON },
		{ "help", no_argument, NULL, HELP },
		{ 0 }
	};
	uint32_t seconds;
	int c;

	a->listen = DEFAULT_LISTEN;
	/* Up to the first word that is no option: what follows is QEMU's. */
	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (c == LISTEN)
			a->listen = optarg;
		if (c == NETWORK)
			a->options.networks = optarg;
		if (c == TIMEOUT) {
			if (!parse_number("--timeout", optarg, 1, 3600, &seconds))
				return EXIT_USAGE;
			a->options.timeout_ms = seconds * 1000;
		}
		tls_option(c, optarg, &a->options.tls);
		a->once |= c == ONCE;
		a->json |= c == JSON;
		if (c == HELP) {
			fputs(help, stdout);
			return 0;
		}
		if (c == '?')
			return EXIT_USAGE;
	}
	if (optind == argc) {
		complain("receive: which command runs the VM? (see 'migr receive --help')");
		return EXIT_USAGE;
	}
	/* Before anybody is told that it waits there. */
	if (not_tcp(a->listen) && !a->options.tls.insecure) {
		complain("receive: %s cannot be encrypted: say --insecure", not_tcp(a->listen));
		return EXIT_USAGE;
	}
	return -1;
}

/* *connected: a source has; what failed then may work for the next one. */
static int receive_one(struct migr_destination *d, const struct arguments *a, struct qemu *q,
		       bool *connected)
{
	struct migr_result r;
	const char *sentence = NULL;
	int error;

	/* Not that of the VM before. */
	q->vm_name.s[0] = '\0';
	error = migr_destination_run(d, &a->options, &qemu_destination_ops, q, &r);
	*connected = r.total_ns;
	if (r.outcome == MIGR_OUTCOME_MOVED && !qemu_destination_finish(q))
		complain("the VM has arrived; afterwards: %s", q->qmp.error.s);
	if (r.outcome != MIGR_OUTCOME_HERE)
		qemu_destination_close(q);
	if (error)
		sentence = migr_destination_error(d);
	print_result(&r, q->vm_name.s, sentence, false, a->json, NULL);
	if (r.outcome == MIGR_OUTCOME_STUCK)
		return EXIT_STUCK;
	return error ? EXIT_HERE : 0;
}

static int receive_all(struct migr *m, const struct arguments *a, char **argv)
{
	struct migr_destination *d;
	struct qemu q = { .argv = argv, .m = m, .json = a->json };
	bool connected;
	int status;

	/* Before anybody is told that it waits. */
	if (migr_tls_check(m, &a->options.tls) || migr_destination_new(m, &d))
		return complain("%s", migr_error(m));
	if (migr_destination_listen(d, a->listen)) {
		complain("%s", migr_destination_error(d));
		migr_destination_free(d);
		return EXIT_HERE;
	}
	handle_signals(d);
	if (a->json)
		print_json(json_pack("{s:s, s:s}", "type", "listening", "address", a->listen));
	else
		printf("waiting for a VM on %s\n", a->listen), fflush(stdout);
	do {
		status = receive_one(d, a, &q, &connected);
	} while (!a->once && !interrupted && connected);
	handle_signals(NULL);
	migr_destination_free(d);
	return interrupted && status == EXIT_HERE ? 128 + interrupted : status;
}

int cmd_receive(int argc, char **argv)
{
	struct arguments a = { 0 };
	struct text error;
	struct migr *m;
	uint64_t bytes;
	int status;

	status = parse(argc, argv, &a);
	if (status >= 0)
		return status;
	if (!config_networks(a.listen, &a.options.networks))
		return EXIT_USAGE;
	/* Find fault with the command now, not when a VM arrives. */
	if (!command_check(argv + optind, true, &bytes, &error)) {
		complain("receive: %s", error.s);
		return EXIT_USAGE;
	}
	if (migr_open(&m) < 0)
		status = complain("%s", m ? migr_error(m) : "no memory");
	else
		status = receive_all(m, &a, argv + optind);
	migr_close(m);
	return status;
}
