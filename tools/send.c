// SPDX-License-Identifier: GPL-2.0-only
/*
 * migr send: move a running VM to another host.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

static const char help[] =
"Usage: migr send [options] PID|NAME HOST[:PORT]|unix:PATH|vsock:CID:PORT\n"
"\n"
"Move a running VM, given by its process or by QEMU's -name, to the host where\n"
"'migr receive' waits. A number is a process if that has memory on /dev/migr, else\n"
"a name. Interrupted (Ctrl-C), the VM goes on running here; Ctrl-Z, which could\n"
"leave it paused, is ignored meanwhile.\n"
"\n"
"      --downtime-limit MS  stop the VM when its pause would be this short (300)\n"
"      --pass-limit N       passes before it is stopped anyway (30)\n"
"      --timeout S          without progress or an answer, give up (30)\n"
"      --streams N          connections that share the work (as many as the links need)\n"
"      --links IF[,IF...]   use these interfaces at once (all; with --insecure that of\n"
"                           the address)\n"
"      --network CIDR[,...] use links in these networks, and no others\n"
"                          (\"networks\" of " CONFIG_FILE ")\n"
"      --max-bandwidth RATE send at most so many bits a second, like 500M (any number)\n"
"      --compress ALGORITHM compress what pays: lz4, zstd, auto or off (off)\n"
"      --compress-cpu N     percent of the CPUs' time for it, if they are idle (50);\n"
"                           any: however busy they are\n"
"      --no-slowdown        do not slow down a VM that writes faster than is sent\n"
"      --verify             in the pause, compare digests of the memory\n"
"      --keep               leave the source's QEMU, paused; default: end it\n"
"      --copy               copy pages into the socket instead of lending them\n"
"      --ca FILE            who has signed the destination's certificate\n"
"      --cert FILE          our certificate\n"
"      --key FILE           its key; default: ca.pem, cert.pem, key.pem of /etc/migr\n"
"      --peer NAME          name that the destination's certificate has (HOST)\n"
"      --cipher NAME        AES-128-GCM, AES-256-GCM or CHACHA20-POLY1305 alone\n"
"      --insecure           no certificates and no encryption, on both sides\n"
"      --qmp PATH           QEMU's QMP socket, if it cannot be found\n"
"      --json               one JSON object a line; default without a terminal\n"
"      --report FILE        write the final JSON object there as well\n"
"      --help               show this\n"
"\n"
"Exit status: 0 moved; 1 failed, the VM runs on here; 2 wrong usage; 3 it is\n"
"unknown who has the VM, it stays paused here; 4 failed, and the VM could not be\n"
"resumed here; 128+n interrupted by signal n, the VM runs on here.\n";

struct arguments {
	struct migr_source_options options;
	const char *vm, *host, *qmp;
	FILE *report;
	bool keep, json;
};

static struct migr_source *running;	/* for the signal handler */
static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
	interrupted = signal;
	migr_source_cancel(running);
}

static void handle_signals(struct migr_source *s)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = s ? interrupt : SIG_IGN };

	running = s;
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Ctrl-Z would leave a VM paused. */
	signal(SIGTSTP, SIG_IGN);
}

static bool parse_compression(const char *text, uint32_t *compression)
{
	const char *name;

	*compression = MIGR_COMPRESSION_AUTO;
	if (!strcmp(text, "auto"))
		return true;
	*compression = MIGR_COMPRESSION_NONE;
	if (!strcmp(text, "off"))
		return true;
	while ((name = migr_compression_name(++*compression)))
		if (!strcmp(text, name))
			return true;
	complain("--compress needs lz4, zstd, auto or off, not '%s'", text);
	return false;
}

static bool parse_percent(const char *text, uint32_t *percent)
{
	if (!strcmp(text, "any")) {
		*percent = MIGR_COMPRESSION_ALWAYS;
		return true;
	}
	return parse_number("--compress-cpu", text, 1, 100, percent);
}

/* -1: go on; else an exit status. */
static int parse(int argc, char **argv, struct arguments *a)
{
	enum {
		DOWNTIME = 1, PASSES, TIMEOUT, STREAMS, LINKS, NETWORK, BANDWIDTH, COMPRESS,
		COMPRESS_CPU, NO_SLOWDOWN, VERIFY, KEEP, COPY, QMP, JSON, REPORT, HELP
	};
	static const struct option options[] = {
		{ "downtime-limit", required_argument, NULL, DOWNTIME },
		{ "pass-limit", required_argument, NULL, PASSES },
		{ "timeout", required_argument, NULL, TIMEOUT },
		{ "streams", required_argument, NULL, STREAMS },
		{ "links", required_argument, NULL, LINKS },
		{ "network", required_argument, NULL, NETWORK },
		{ "max-bandwidth", required_argument, NULL, BANDWIDTH },
		{ "compress", required_argument, NULL, COMPRESS },
		{ "compress-cpu", required_argument, NULL, COMPRESS_CPU },
		{ "no-slowdown", no_argument, NULL, NO_SLOWDOWN },
		{ "verify", no_argument, NULL, VERIFY },
		{ "keep", no_argument, NULL, KEEP },
		{ "copy", no_argument, NULL, COPY },
		{ "ca", required_argument, NULL, TLS_CA },
		{ "cert", required_argument, NULL, TLS_CERT },
		{ "key", required_argument, NULL, TLS_KEY },
		{ "peer", required_argument, NULL, TLS_PEER },
		{ "cipher", required_argument, NULL, TLS_CIPHER },
		{ "insecure", no_argument, NULL, TLS_INSECURE },
		{ "qmp", required_argument, NULL, QMP },
		{ "json", no_argument, NULL, JSON },
		{ "report", required_argument, NULL, REPORT },
		{ "help", no_argument, NULL, HELP },
		{ 0 }
	};
	struct migr_source_options *o = &a->options;
	uint32_t seconds;
	int c;

	a->json = !isatty(STDOUT_FILENO);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == DOWNTIME && !parse_number("--downtime-limit", optarg, 1, 3600000,
						   &o->downtime_limit_ms))
			return EXIT_USAGE;
		if (c == PASSES && !parse_number("--pass-limit", optarg, 1, 1000000,
						 &o->pass_limit))
			return EXIT_USAGE;
		if (c == TIMEOUT) {
			if (!parse_number("--timeout", optarg, 1, 3600, &seconds))
				return EXIT_USAGE;
			o->timeout_ms = seconds * 1000;
		}
		if (c == STREAMS && !parse_number("--streams", optarg, 1, MIGR_STREAMS_MAX,
						  &o->streams))
			return EXIT_USAGE;
		if (c == LINKS)
			o->links = optarg;
		if (c == NETWORK)
			o->networks = optarg;
		if (c == BANDWIDTH && !parse_rate("--max-bandwidth", optarg, &o->max_bandwidth))
			return EXIT_USAGE;
		if (c == COMPRESS && !parse_compression(optarg, &o->compression))
			return EXIT_USAGE;
		if (c == COMPRESS_CPU && !parse_percent(optarg, &o->compression_percent))
			return EXIT_USAGE;
		tls_option(c, optarg, &o->tls);
		o->no_slowdown |= c == NO_SLOWDOWN;
		o->verify |= c == VERIFY;
		o->copy |= c == COPY;
		a->keep |= c == KEEP;
		a->json |= c == JSON;
		if (c == QMP)
			a->qmp = optarg;
		/* Find fault with it before anything moves. */
		if (c == REPORT) {
			a->report = fopen(optarg, "we");
			if (!a->report) {
				complain("cannot write %s: %s", optarg, strerror(errno));
				return EXIT_USAGE;
			}
		}
		if (c == HELP) {
			fputs(help, stdout);
			return 0;
		}
		if (c == '?')
			return EXIT_USAGE;
	}
	if (argc - optind != 2) {
		complain("send: which VM, and where to? (see 'migr send --help')");
		return EXIT_USAGE;
	}
	a->vm = argv[optind];
	a->host = argv[optind + 1];
	return -1;
}

static int exit_status(const struct migr_result *r)
{
	switch (r->outcome) {
	case MIGR_OUTCOME_MOVED:
		return EXIT_MOVED;
	case MIGR_OUTCOME_UNKNOWN:
		return EXIT_UNKNOWN;
	case MIGR_OUTCOME_STUCK:
		return EXIT_STUCK;
	default:
		return interrupted ? 128 + interrupted : EXIT_HERE;
	}
}

/* What a failure before COMMIT means for the VM. */
static const char *consequence(struct qemu *q)
{
	if (!qmp_alive(&q->qmp))
		return "";
	return q->left_stopped ? "; the VM stays here, stopped as it was" : "; the VM runs on here";
}

static void tell(const struct arguments *a, struct qemu *q, struct migr_source *s,
		 const struct migr_result *r)
{
	const char *name = q->vm_name.s[0] ? q->vm_name.s : a->vm;
	const char *end = r->outcome == MIGR_OUTCOME_HERE ? consequence(q) : "";
	struct text sentence;

	/* What has become of the VM is never cut off. */
	text_set(&sentence, "%.*s%s", (int)(sizeof(sentence.s) - 1 - strlen(end)),
		 migr_source_error(s), end);
	print_result(r, name, r->outcome == MIGR_OUTCOME_MOVED ? NULL : sentence.s, true, a->json,
		     a->report);
}

/* That a device can write to the VM's memory behind our back, if any can. */
static bool tell_pinned(struct migr *m, const struct arguments *a, const struct vm *vm)
{
	uint64_t pinned = 0, pages;

	for (int i = 0; i < vm->nr_regions; i++) {
		if (migr_region_pinned(m, vm->regions[i].fd, &pages)) {
			complain("%s", migr_error(m));
			return false;
		}
		pinned += pages;
	}
	if (a->json)
		print_json(json_pack("{s:s, s:I}", "type", "preflight", "pinned_pages",
				     (json_int_t)pinned));
	else if (pinned)
		printf("%llu pages are pinned for DMA, by an assigned device or a registered buffer: they are sent in every pass\n",
		       (unsigned long long)pinned);
	return true;
}

static int send_vm(struct migr *m, struct arguments *a, const struct vm *vm, struct qemu *q)
{
	struct migr_source *s;
	struct migr_result r;
	int error = 0;

	if (migr_source_new(m, &s))
		return complain("%s", migr_error(m));
	for (int i = 0; i < vm->nr_regions && !error; i++)
		error = migr_source_add_region(s, vm->regions[i].fd, i, q->backend.s);
	if (error) {
		complain("%s", migr_source_error(s));
		migr_source_free(s);
		return EXIT_HERE;
	}
	a->options.vm_name = q->vm_name.s;
	q->json = a->json;
	handle_signals(s);
	migr_source_run(s, a->host, &a->options, &qemu_source_ops, q, &r);
	handle_signals(NULL);
	tell(a, q, s, &r);
	if (r.outcome == MIGR_OUTCOME_MOVED && !qemu_source_finish(q, a->keep))
		complain("the VM has moved, but its old process %d would not end: %s", vm->pid,
			 q->qmp.error.s);
	migr_source_free(s);
	return exit_status(&r);
}

/* Find the VM's monitor and get QEMU ready. */
static int send_found(struct migr *m, struct arguments *a, const struct vm *vm)
{
	const char *path = a->qmp ? a->qmp : vm->qmp.s;
	struct qemu q;
	int status;

	if (!*path)
		return complain("process %d has no QMP socket that can be found: give it with --qmp, or start the VM with 'migr run'",
				vm->pid);
	if (!tell_pinned(m, a, vm))
		return EXIT_HERE;
	if (!qemu_source_open(&q, m, vm, path))
		return complain("%s", q.qmp.error.s);
	status = send_vm(m, a, vm, &q);
	qemu_source_close(&q);
	return status;
}

int cmd_send(int argc, char **argv)
{
	struct arguments a = { 0 };
	struct text error;
	struct migr *m;
	struct vm vm;
	int status;

	status = parse(argc, argv, &a);
	if (status >= 0)
		return status;
	if (!a.options.links && !config_networks(a.host, &a.options.networks))
		return EXIT_USAGE;
	if (migr_open(&m) < 0) {
		status = complain("%s", m ? migr_error(m) : "no memory");
	} else if (!vm_find(m, a.vm, &vm, &error)) {
		status = complain("%s", error.s);
	} else {
		status = send_found(m, &a, &vm);
		vm_release(&vm);
	}
	migr_close(m);
	return status;
}
