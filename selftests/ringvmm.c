// SPDX-License-Identifier: GPL-2.0-only
/*
 * The example VMM, tools/examples/ringvmm.c, moves its guest from one process to
 * another; and the writes that it does not report are found missing, by the
 * digests and by the guest.
 */
#include "migr_test.h"

#define SECONDS		100
#define ATTEMPTS	3

/* Started with its output in a file; dies with the case. */
struct vmm {
	pid_t pid;
	char log[64];
};

static struct vmm vmm_start(const char *log, char *const argv[])
{
	struct vmm vmm;
	char program[PATH_MAX];
	int fd;

	if (access("/dev/kvm", R_OK | W_OK))
		test_skip("no /dev/kvm: %s", strerror(errno));
	snprintf(program, sizeof(program), "%s/build/examples/ringvmm", getenv("MIGR_TOP") ?: ".");
	snprintf(vmm.log, sizeof(vmm.log), "/tmp/ringvmm.%d.%s", getpid(), log);
	fd = (int)SYS(open(vmm.log, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	vmm.pid = child_start();
	if (!vmm.pid) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		execv(program, argv);
		_exit(127);
	}
	close(fd);
	return vmm;
}

static bool vmm_said(const struct vmm *vmm, const char *words)
{
	char text[8192];

	return strstr(file_read(vmm->log, text, sizeof(text)), words);
}

/* Its exit status; what it said goes into our log. */
static int vmm_join(struct vmm *vmm)
{
	char text[8192], *line, *rest;
	int status;

	CHECK(waitpid(vmm->pid, &status, 0) == vmm->pid, "waitpid: %s", strerror(errno));
	file_read(vmm->log, text, sizeof(text));
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		diag("%s: %s", strrchr(vmm->log, '.') + 1, line);
	CHECK(WIFEXITED(status), "killed by signal %d", WTERMSIG(status));
	return WEXITSTATUS(status);
}

struct pair {
	struct vmm source, destination;
	int sent, received;
};

static struct pair move(char *address, char *option, char *more)
{
	char *const receive[] = { "ringvmm", "receive", address, NULL };
	char *const send[] = {
		"ringvmm", "send", option, more ?: address, more ? address : NULL, NULL
	};
	struct pair p;

	p.destination = vmm_start("destination", receive);
	WAIT_FOR(vmm_said(&p.destination, "listening"), RUN_S);
	p.source = vmm_start("source", send);
	p.sent = vmm_join(&p.source);
	p.received = vmm_join(&p.destination);
	return p;
}

/* A guest whose vCPUs were not run meanwhile has reported nothing: it moves again. */
static void moves_over(char *address)
{
	unsigned int attempt = 0;
	struct pair p;

	do {
		p = move(address, "--verify", NULL);
		CHECK_EQ(p.sent, 0);
		CHECK_EQ(p.received, 0);
		CHECK(vmm_said(&p.source, "identical=1"), "the memory was not compared");
	} while (vmm_said(&p.source, "harvested=0 ") && ++attempt < ATTEMPTS);
	CHECK(attempt < ATTEMPTS, "no ring had an entry");
}

static void moves_over_unix(void)
{
	char address[64];

	snprintf(address, sizeof(address), "unix:/tmp/ringvmm.%d.socket", getpid());
	moves_over(address);
}

static void moves_over_tcp(void)
{
	loopback_up();
	moves_over("127.0.0.1:4242");
}

/* The digests tell, and the guest goes on where it was. One that lost nothing moves. */
static void forgotten_reports_show_in_digests(void)
{
	unsigned int attempt;
	char address[64];
	struct pair p;

	snprintf(address, sizeof(address), "unix:/tmp/ringvmm.%d.socket", getpid());
	for (attempt = 0; attempt < ATTEMPTS; attempt++) {
		p = move(address, "--verify", "--forget");
		if (p.sent)
			break;
		CHECK_EQ(p.received, 0);
		CHECK(vmm_said(&p.source, "identical=1"), "the memory was not compared");
	}
	CHECK_EQ(p.sent, 2);
	CHECK(vmm_said(&p.source, "the digests are not equal"), "another error");
	/* It writes more pages than the rings of both vCPUs have entries. */
	CHECK(vmm_said(&p.source, "ring-full="), "the guest did not go on");
	CHECK(!vmm_said(&p.source, "ring-full=0"), "no ring was ever full");
	CHECK_EQ(p.received, 1);
}

/*
 * Not compared, the guest moves: and finds that it lost writes. If it was not run
 * between the first pass and the pause it has lost none, and moves again.
 */
static void forgotten_reports_show_in_guest(void)
{
	unsigned int attempt;
	char address[64];
	struct pair p;

	snprintf(address, sizeof(address), "unix:/tmp/ringvmm.%d.socket", getpid());
	for (attempt = 0; attempt < ATTEMPTS; attempt++) {
		p = move(address, "--forget", NULL);
		CHECK_EQ(p.sent, 0);
		if (p.received)
			break;
	}
	CHECK_EQ(p.received, 1);
	CHECK(vmm_said(&p.destination, "the guest exits for reason"), "another error");
}

static const struct test_case cases[] = {
	CASE_WITHIN(moves_over_unix, ATTEMPTS * SECONDS),
	CASE_WITHIN(moves_over_tcp, ATTEMPTS * SECONDS),
	CASE_WITHIN(forgotten_reports_show_in_digests, ATTEMPTS * SECONDS),
	CASE_WITHIN(forgotten_reports_show_in_guest, ATTEMPTS * SECONDS),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
