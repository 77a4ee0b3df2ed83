// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guardians: processes that wait for word from us, and act if we end without
 * one, kill -9 included.
 *
 * Between us and a VMM that we start for a VM that arrives stands one that
 * kills the VMM, so that a half-arrived VM never stays behind; from COMMIT on
 * it lets the VM run instead. Released, the VMM belongs to nobody but init, in a
 * session of its own. Beside a VM that leaves stands one that lets it go on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tool.h"

/* The words. */
#define COMMITTED	'c'
#define RELEASED	'r'

static void tell(int fd, char word)
{
	send(fd, &word, 1, MSG_NOSIGNAL);
}

static void default_signals(void)
{
	static const int changed[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGTSTP };

	for (size_t i = 0; i < sizeof(changed) / sizeof(*changed); i++)
		signal(changed[i], SIG_DFL);
}

static void run_vmm(char *const *argv, const char *backend, int control_fd,
		    bool stdout_to_stderr)
{
	struct text error;

	default_signals();
	if (stdout_to_stderr)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	fcntl(control_fd, F_SETFD, 0);
	vm_become(argv, backend, control_fd, &error);
	complain("%s", error.s);
	_exit(127);
}

/* Keep nothing but the post: returns the descriptor that word comes by. */
static int man_post(int fd)
{
	int null = open("/dev/null", O_RDWR);

	prctl(PR_SET_NAME, MIGR_GUARDIAN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	dup2(fd, 3);
	close_range(4, ~0u, 0);
	return 3;
}

/* What we are told; 0 if whoever would tell us has ended. */
static char next_word(int fd)
{
	char word;
	ssize_t n;

	do {
		n = recv(fd, &word, 1, 0);
	} while (n < 0 && errno == EINTR);
	return n == 1 ? word : 0;
}

static void guard_vmm(pid_t pid, int guard_fd)
{
	struct pollfd p[2] = {
		{ .fd = guard_fd, .events = POLLIN },
		{ .fd = syscall(SYS_pidfd_open, pid, 0), .events = POLLIN },
	};
	bool committed = false, ended = false;
	struct text path, error;
	char word;

	while (!ended) {
		if (poll(p, 2, -1) < 0)
			continue;
		word = p[0].revents ? next_word(guard_fd) : 0;
		if (word == RELEASED)
			_exit(0);
		committed |= word == COMMITTED;
		ended = !word;
	}
	if (!vm_qmp_path(pid, &path, &error))
		path.s[0] = '\0';
	if (committed && !p[1].revents) {
		qemu_let_run(path.s);
		_exit(0);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	/* Killed, it could not do this itself. */
	unlink(path.s);
	_exit(0);
}

/* In the guardian's process: start the VMM, then keep nothing but our post. */
static void guardian(int guard_fd, char *const *argv, const char *backend, int control_fd,
		     bool stdout_to_stderr)
{
	pid_t pid;

	setsid();
	pid = fork();
	if (!pid)
		run_vmm(argv, backend, control_fd, stdout_to_stderr);
	if (send(guard_fd, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid) || pid < 0) {
		if (pid > 0)
			kill(pid, SIGKILL);
		_exit(1);
	}
	guard_vmm(pid, man_post(guard_fd));
}

bool child_start(struct child *c, char *const *argv, const char *backend,
		 bool stdout_to_stderr, struct text *error)
{
	int guard_fds[2] = { -1, -1 }, control_fds[2] = { -1, -1 };

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, guard_fds) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control_fds) < 0)
		goto failed;
	c->guardian = fork();
	if (c->guardian < 0)
		goto failed;
	if (!c->guardian) {
		/* Ours would keep us from seeing that the other end is gone. */
		close(guard_fds[0]);
		close(control_fds[0]);
		guardian(guard_fds[1], argv, backend, control_fds[1], stdout_to_stderr);
	}
	close(guard_fds[1]);
	close(control_fds[1]);
	c->guard_fd = guard_fds[0];
	c->control_fd = control_fds[0];
	c->pid_fd = -1;
	if (recv(c->guard_fd, &c->pid, sizeof(c->pid), 0) == sizeof(c->pid) && c->pid > 0) {
		c->pid_fd = syscall(SYS_pidfd_open, c->pid, 0);
		return true;
	}
	close(c->control_fd);
	child_kill(c);
	text_set(error, "cannot start a process for the VM");
	return false;
failed:
	text_set(error, "cannot start a process for the VM: %s",
		 strerror(errno));
	for (int i = 0; i < 2; i++) {
		if (guard_fds[i] >= 0)
			close(guard_fds[i]);
		if (control_fds[i] >= 0)
			close(control_fds[i]);
	}
	return false;
}

static void end_guardian(struct child *c)
{
	close(c->guard_fd);
	while (waitpid(c->guardian, NULL, 0) < 0 && errno == EINTR)
		;
}

static void forget_vmm(struct child *c)
{
	if (c->pid_fd >= 0)
		close(c->pid_fd);
}

void child_kill(struct child *c)
{
	end_guardian(c);
	/* It has done so, unless it had been killed itself. */
	if (c->pid_fd >= 0)
		syscall(SYS_pidfd_send_signal, c->pid_fd, SIGKILL, NULL, 0);
	forget_vmm(c);
}

void child_commit(struct child *c)
{
	tell(c->guard_fd, COMMITTED);
}

void child_release(struct child *c)
{
	tell(c->guard_fd, RELEASED);
	end_guardian(c);
	forget_vmm(c);
}

bool watch_start(struct watch *w, const char *qmp_path, struct text *error)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return text_set(error, "cannot make a socket: %s", strerror(errno));
	w->guardian = fork();
	if (w->guardian < 0) {
		close(fds[0]);
		close(fds[1]);
		return text_set(error, "cannot make a process: %s", strerror(errno));
	}
	if (!w->guardian) {
		setsid();
		close(fds[0]);
		if (!next_word(man_post(fds[1])))
			qemu_rescue(qmp_path);
		_exit(0);
	}
	close(fds[1]);
	w->fd = fds[0];
	return true;
}

void watch_end(struct watch *w)
{
	if (w->fd < 0)
		return;
	tell(w->fd, RELEASED);
	close(w->fd);
	w->fd = -1;
	while (waitpid(w->guardian, NULL, 0) < 0 && errno == EINTR)
		;
}
