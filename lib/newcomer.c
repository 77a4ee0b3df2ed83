// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Newcomers: who has connected and not said yet what for. Each has a thread that
 * makes the handshake and waits for the first message, so that those who are slow,
 * or mean no good, hold up neither each other nor a migration.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

/* For the handshake and the first message. Nobody waits for it. */
#define GREETING_MS	10000
/* For one that is refused to take notice. */
#define REFUSAL_MS	1000

static int greet(struct newcomer *n)
{
	uint64_t deadline = now_ns() + GREETING_MS * NS_PER_MS;
	int error = n->tls ? tls_accept(n->tls, &n->control, GREETING_MS, &n->identity) : 0;

	if (error == -EKEYREJECTED || error == -EPROTONOSUPPORT)
		control_goodbye(&n->control, REFUSAL_MS);
	if (error)
		return error;
	return control_receive(&n->control, left_ms(deadline), &n->message);
}

static void *run(void *arg)
{
	struct newcomer_thread *t = arg;

	t->newcomer.failed = greet(&t->newcomer);
	atomic_store(&t->done, true);
	eventfd_write(t->all->ready_fd, 1);
	return NULL;
}

int newcomers_init(struct newcomers *all, const struct migr_tls *options, const char *peer,
		   int cancel_fd, struct error *e)
{
	int error;

	*all = (struct newcomers){ .options = options, .peer = peer, .cancel_fd = cancel_fd };
	error = tls_open(options, &all->tls, e);
	if (error)
		return error;
	all->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (all->ready_fd >= 0)
		return 0;
	tls_close(all->tls);
	return error_set(e, -errno, "cannot make an eventfd: %s", strerror(errno));
}

/* Its thread is over, or soon is. */
static void join(struct newcomer_thread *t)
{
	pthread_join(t->thread, NULL);
	t->used = false;
}

static void dismiss(struct newcomer_thread *t)
{
	shutdown(t->newcomer.control.fd, SHUT_RDWR);
	join(t);
	newcomer_close(&t->newcomer);
}

void newcomers_exit(struct newcomers *all)
{
	for (unsigned int i = 0; i < NEWCOMERS_MAX; i++)
		if (all->threads[i].used)
			dismiss(&all->threads[i]);
	tls_close(all->tls);
	close(all->ready_fd);
}

/*
 * The longest here makes room: who has something to say takes less time, and whoever
 * has said it is left alone, as long as there are others.
 */
static struct newcomer_thread *make_room(struct newcomers *all)
{
	struct newcomer_thread *worst = NULL;

	for (unsigned int i = 0; i < NEWCOMERS_MAX; i++) {
		struct newcomer_thread *t = &all->threads[i];
		bool done = atomic_load(&t->done);

		if (!t->used)
			return t;
		if (!worst || (done == worst->done ? t->number < worst->number : !done))
			worst = t;
	}
	dismiss(worst);
	return worst;
}

/* Certificates are replaced while we wait; one that is not yet complete is left alone. */
static void renew_tls(struct newcomers *all)
{
	struct error ignored;
	struct tls *tls;

	if (!all->tls || all->settled || tls_is_current(all->tls) ||
	    tls_open(all->options, &tls, &ignored))
		return;
	tls_close(all->tls);
	all->tls = tls;
}

void newcomers_greet(struct newcomers *all, int fd, uint32_t timeout_ms)
{
	struct newcomer_thread *t = make_room(all);
	struct newcomer *n = &t->newcomer;

	renew_tls(all);
	*t = (struct newcomer_thread){
		.all = all, .number = all->nr++, .newcomer.tls = tls_get(all->tls),
	};
	n->control = (struct control){
		.fd = fd, .cancel_fd = all->cancel_fd, .timeout_ms = timeout_ms,
		.peer = all->peer, .error = &n->error,
	};
	/* Once it has closed nobody knows any more. */
	socket_peer(fd, n->from, sizeof(n->from));
	t->used = !thread_start(&t->thread, run, t);
	if (!t->used)
		newcomer_close(n);
}

bool newcomers_next(struct newcomers *all, struct newcomer *next)
{
	eventfd_t value;

	eventfd_read(all->ready_fd, &value);
	for (unsigned int i = 0; i < NEWCOMERS_MAX; i++) {
		struct newcomer_thread *t = &all->threads[i];

		if (!t->used || !atomic_load(&t->done))
			continue;
		join(t);
		*next = t->newcomer;
		/* There may be more. */
		eventfd_write(all->ready_fd, 1);
		return true;
	}
	return false;
}

void newcomer_close(struct newcomer *n)
{
	json_decref(n->message);
	n->message = NULL;
	tls_close(n->tls);
	close(n->control.fd);
}

void newcomers_settle(struct newcomers *all, struct newcomer *n)
{
	tls_close(all->tls);
	all->tls = n->tls;
	all->settled = true;
}
