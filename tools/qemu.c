// SPDX-License-Identifier: GPL-2.0-only
/*
 * The QEMU driver: what libmigr asks of a VMM, said in QMP.
 *
 * The capability x-ignore-shared keeps the RAM, which is shared with /dev/migr,
 * out of QEMU's own migration stream; what is left is the device state, which
 * goes to and comes from a memfd. With pause-before-switchover QEMU does its
 * setting up while the guest still runs, then stops it and waits for us.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define MS		1000000ull
#define SWITCHOVER_MS	30000
#define START_MS	60000
#define RESCUE_MS	60000
#define RETRY_MS	1000
#define POLL_MS		10
#define STATE_FD	"migr-state"
/* Above this it is not device state, but memory that is not on /dev/migr. */
#define STATE_MAX	(1ull << 30)

/* What QMP says went wrong becomes what libmigr says. */
static int source_fail(struct migr_source *s, const struct qemu *q)
{
	return migr_source_fail(s, -EIO, "%s", q->qmp.error.s);
}

static int destination_fail(struct migr_destination *d, const struct qemu *q)
{
	return migr_destination_fail(d, -EIO, "%s", q->qmp.error.s);
}

/*
 * The destination's QEMU may take the disks only when it is told to go on: until
 * COMMIT they are the source's, which may have to go on itself.
 */
static bool set_capabilities(struct qemu *q, bool source, bool on)
{
	json_t *list = json_pack("[{s:s, s:b}, {s:s, s:b}, {s:s, s:b}]",
				 "capability", "x-ignore-shared", "state", on,
				 "capability", "events", "state", on,
				 "capability", source ? "pause-before-switchover" :
				 "late-block-activate", "state", on);

	return qmp_command(&q->qmp, "migrate-set-capabilities",
			   json_pack("{s:o}", "capabilities", list), NULL);
}

static bool vm_status(struct qemu *q, struct text *status)
{
	json_auto_t *result = NULL;
	const char *text;

	if (!qmp_command(&q->qmp, "query-status", NULL, &result))
		return false;
	text = json_string_value(json_object_get(result, "status"));
	text_set(status, "%s", text ? text : "");
	return true;
}

/* Why QEMU's own migration failed, as far as it says. */
static bool migration_failed(struct qemu *q, const char *what)
{
	json_auto_t *result = NULL;
	const char *text = NULL;

	if (!qmp_command(&q->qmp, "query-migrate", NULL, &result))
		return false;
	text = json_string_value(json_object_get(result, "error-desc"));
	return text_set(&q->qmp.error, "QEMU could not %s: %s", what, text ? text : "it did not say why");
}

/* When an event happened, on our clock. */
static uint64_t event_ns(const json_t *event)
{
	json_int_t seconds, microseconds;
	struct timespec t;
	int64_t ago;

	if (json_unpack((json_t *)event, "{s:{s:I, s:I}}", "timestamp", "seconds", &seconds,
			"microseconds", &microseconds))
		return clock_ns();
	clock_gettime(CLOCK_REALTIME, &t);
	ago = (t.tv_sec - seconds) * 1000000000ll + t.tv_nsec - microseconds * 1000;
	return clock_ns() - (ago > 0 ? ago : 0);
}

/*
 * Wait until QEMU's migration reaches a status. If it ends in another way
 * q->error says "QEMU could not <what>: why". *stopped_ns: when the guest
 * stopped, if it did meanwhile; may be NULL.
 */
static bool wait_migration(struct qemu *q, const char *status, const char *what,
			   uint64_t *stopped_ns)
{
	uint64_t deadline = clock_ns() + SWITCHOVER_MS * MS;
	const char *name, *now;
	json_t *event;

	while ((event = qmp_event(&q->qmp, deadline))) {
		json_auto_t *drop = event;

		name = json_string_value(json_object_get(event, "event"));
		if (name && !strcmp(name, "STOP") && stopped_ns)
			*stopped_ns = event_ns(event);
		if (!name || strcmp(name, "MIGRATION"))
			continue;
		now = json_string_value(json_object_get(json_object_get(drop, "data"), "status"));
		if (!now)
			continue;
		if (!strcmp(now, status))
			return true;
		if (!strcmp(now, "failed") || !strcmp(now, "cancelled") ||
		    !strcmp(now, "completed"))
			return migration_failed(q, what);
	}
	return false;
}

/* ---- source ----------------------------------------------------------- */

static bool check_migratable(struct qemu *q)
{
	json_auto_t *result = NULL;
	const char *text;

	if (!qmp_command(&q->qmp, "query-migrate", NULL, &result))
		return false;
	text = json_string_value(json_array_get(json_object_get(result, "blocked-reasons"), 0));
	if (text)
		return text_set(&q->qmp.error, "QEMU cannot migrate this VM: %s", text);
	text = json_string_value(json_object_get(result, "status"));
	if (text && (!strcmp(text, "setup") || !strcmp(text, "active") ||
		     !strcmp(text, "pre-switchover") || !strcmp(text, "device") ||
		     !strcmp(text, "cancelling")))
		return text_set(&q->qmp.error, "QEMU is busy with a migration of its own (%s)",
				text);
	return true;
}

static bool check_memory(struct qemu *q, uint64_t ram_bytes)
{
	json_auto_t *result = NULL;
	json_int_t base = 0, plugged = 0;

	if (!qmp_command(&q->qmp, "query-memory-size-summary", NULL, &result))
		return false;
	json_unpack(result, "{s:I, s?I}", "base-memory", &base, "plugged-memory", &plugged);
	if ((uint64_t)(base + plugged) != ram_bytes)
		return text_set(&q->qmp.error, "%llu of the VM's %llu MiB are on " MIGR_DEVICE "; all of it must be: start it with 'migr run'",
			    (unsigned long long)ram_bytes >> 20,
			    (unsigned long long)(base + plugged) >> 20);
	return true;
}

/* The destination's QEMU must know its memory by the same name. */
static bool read_backend(struct qemu *q)
{
	json_auto_t *result = NULL;
	const char *id;

	if (!qmp_command(&q->qmp, "query-memdev", NULL, &result))
		return false;
	if (json_array_size(result) != 1)
		return text_set(&q->qmp.error, "the VM's memory is in %zu memory backends: only a VM with one can be moved",
				json_array_size(result));
	id = json_string_value(json_object_get(json_array_get(result, 0), "id"));
	text_set(&q->backend, "%s", id ? id : MIGR_BACKEND);
	return true;
}

static bool read_name(struct qemu *q)
{
	json_auto_t *result = NULL;
	const char *text;

	if (!qmp_command(&q->qmp, "query-name", NULL, &result))
		return false;
	text = json_string_value(json_object_get(result, "name"));
	snprintf(q->vm_name.s, MIGR_VM_NAME_MAX, "%s", text ? text : "");
	return true;
}

/*
 * Two VMs can have been given one path, which then is the latter's. Who listens may be
 * neither, but whoever started QEMU.
 */
static bool check_listener(struct qemu *q, struct migr *m, const struct vm *vm, const char *path)
{
	struct ucred listener;
	socklen_t size = sizeof(listener);
	struct vm other;
	bool has_memory;

	if (getsockopt(q->qmp.fd, SOL_SOCKET, SO_PEERCRED, &listener, &size) < 0 ||
	    listener.pid <= 0 || listener.pid == vm->pid)
		return true;
	other.nr_regions = migr_region_take(m, listener.pid, other.regions, VM_REGIONS_MAX);
	has_memory = other.nr_regions > 0;
	vm_release(&other);
	return !has_memory || text_set(&q->qmp.error, "the QMP socket %.200s is that of process %d, another VM, not of %d",
				       path, listener.pid, vm->pid);
}

bool qemu_source_open(struct qemu *q, struct migr *m, const struct vm *vm, const char *qmp_path)
{
	uint64_t ram_bytes = 0;
	struct text status;

	for (int i = 0; i < vm->nr_regions; i++)
		ram_bytes += vm->regions[i].info.length;
	*q = (struct qemu){ .state_fd = -1, .qmp.fd = -1, .watch.fd = -1 };
	if (!qmp_open(&q->qmp, qmp_path) || !check_listener(q, m, vm, qmp_path) ||
	    !vm_status(q, &status) || !read_name(q))
		goto failed;
	if (strcmp(status.s, "running")) {
		text_set(&q->qmp.error, "the VM is not running: QEMU calls it '%s'", status.s);
		goto failed;
	}
	if (!check_memory(q, ram_bytes) || !read_backend(q) || !check_migratable(q) ||
	    !set_capabilities(q, true, true))
		goto failed;
	if (watch_start(&q->watch, qmp_path, &q->qmp.error))
		return true;
	set_capabilities(q, true, false);
failed:
	qmp_close(&q->qmp);
	return false;
}

static int source_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	struct qemu *q = data;
	struct text status;

	if (!vm_status(q, &status))
		return source_fail(s, q);
	if (strcmp(status.s, "running"))
		return migr_source_fail(s, -EBUSY,
					"the VM was stopped meanwhile, not by migr: QEMU calls it '%s'",
					status.s);
	q->state_fd = memfd_create("migr-state", MFD_CLOEXEC);
	if (q->state_fd < 0)
		return migr_source_fail(s, -errno, "no file for the device state: %s",
					strerror(errno));
	qmp_drop_events(&q->qmp);
	if (!qmp_command_fd(&q->qmp, "getfd", json_pack("{s:s}", "fdname", STATE_FD),
			    q->state_fd) ||
	    !qmp_command(&q->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" STATE_FD), NULL) ||
	    !wait_migration(q, "pre-switchover", "stop the VM", stopped_ns))
		return source_fail(s, q);
	return 0;
}

static int send_file(struct migr_source *s, int fd)
{
	static char buffer[1 << 20];
	off_t offset = 0;
	ssize_t n;
	int error;

	while ((n = pread(fd, buffer, sizeof(buffer), offset)) > 0) {
		error = migr_source_write_state(s, buffer, n);
		if (error)
			return error;
		offset += n;
	}
	return n < 0 ? migr_source_fail(s, -errno, "cannot read the device state back: %s",
					strerror(errno)) : 0;
}

static int source_save(struct migr_source *s, void *data)
{
	struct qemu *q = data;

	if (!qmp_command(&q->qmp, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"),
			 NULL) ||
	    !wait_migration(q, "completed", "save the device state", NULL))
		return source_fail(s, q);
	return send_file(s, q->state_fd);
}

/* End what pause() or save() may have left under way. */
static bool cancel_migration(struct qemu *q)
{
	static const char *const over[] = { "none", "cancelled", "failed", "completed" };
	uint64_t deadline = clock_ns() + SWITCHOVER_MS * MS;
	json_t *event;

	if (!qmp_command(&q->qmp, "migrate_cancel", NULL, NULL))
		return false;
	for (;;) {
		json_auto_t *result = NULL;
		const char *status;

		if (!qmp_command(&q->qmp, "query-migrate", NULL, &result))
			return false;
		status = json_string_value(json_object_get(result, "status"));
		for (size_t i = 0; i < sizeof(over) / sizeof(*over); i++)
			if (!status || !strcmp(status, over[i]))
				return true;
		/* Each step it makes comes with an event. */
		event = qmp_event(&q->qmp, deadline);
		if (!event)
			return false;
		json_decref(event);
	}
}

/*
 * The VM's status once its migration is over. QEMU tells of that end before it
 * has left finish-migrate, in which it refuses to go on.
 */
static bool final_status(struct qemu *q, struct text *status)
{
	uint64_t now = clock_ns(), deadline = now + SWITCHOVER_MS * MS;

	while (vm_status(q, status)) {
		if (strcmp(status->s, "finish-migrate") || now >= deadline)
			return true;
		/* It resumes with an event, but comes to postmigrate without. */
		json_decref(qmp_event(&q->qmp, now + POLL_MS * MS));
		now = clock_ns();
	}
	return false;
}

static bool go_on(struct qemu *q)
{
	struct text status;

	if (!cancel_migration(q) || !final_status(q, &status))
		return false;
	if (!strcmp(status.s, "running"))
		return true;
	/* A migration stops it so; in any other state it was not us. */
	q->left_stopped = strcmp(status.s, "finish-migrate") && strcmp(status.s, "postmigrate");
	if (q->left_stopped)
		return true;
	if (!qmp_command(&q->qmp, "cont", NULL, NULL) || !vm_status(q, &status))
		return false;
	return !strcmp(status.s, "running") ||
	       text_set(&q->qmp.error, "QEMU was told to go on, and is '%s'", status.s);
}

static int source_resume(struct migr_source *s, void *data)
{
	struct qemu *q = data;

	return go_on(q) ? 0 : source_fail(s, q);
}

/* Until it is done, or QEMU has ended, or for too long. */
static void insist(const char *qmp_path, bool source, bool (*done)(struct qemu *q))
{
	uint64_t now = clock_ns(), deadline = now + RESCUE_MS * MS;
	bool over;

	do {
		struct qemu q = { .state_fd = -1, .watch.fd = -1 };

		if (qmp_open_within(&q.qmp, qmp_path, (deadline - now) / MS)) {
			over = done(&q);
			/* What it does next may let us; it tells of it. */
			if (!over)
				json_decref(qmp_event(&q.qmp, clock_ns() + RETRY_MS * MS));
			set_capabilities(&q, source, false);
		} else {
			/* Nobody listens: it has ended. */
			over = q.qmp.fd < 0;
		}
		qmp_close(&q.qmp);
		now = clock_ns();
	} while (!over && now < deadline);
}

void qemu_rescue(const char *qmp_path)
{
	insist(qmp_path, true, go_on);
}

bool qemu_source_finish(struct qemu *q, bool keep)
{
	return keep || qmp_command(&q->qmp, "quit", NULL, NULL);
}

void qemu_source_close(struct qemu *q)
{
	watch_end(&q->watch);
	/* A QEMU that has ended needs no undoing. */
	if (q->qmp.fd >= 0)
		set_capabilities(q, true, false);
	if (q->state_fd >= 0)
		close(q->state_fd);
	qmp_close(&q->qmp);
}

static void progress(const struct qemu *q, const struct migr_progress *p)
{
	print_progress(p, q->json);
}

static void source_progress(struct migr_source *s, void *data, const struct migr_progress *p)
{
	struct qemu *q = data;

	/* From COMMIT on nobody resumes it here. */
	if (p->phase == MIGR_PHASE_COMMIT)
		watch_end(&q->watch);
	progress(q, p);
	if (p->phase == MIGR_PHASE_PASSES && !qmp_alive(&q->qmp))
		source_fail(s, q);
}

const struct migr_source_ops qemu_source_ops = {
	.pause = source_pause,
	.save = source_save,
	.resume = source_resume,
	.progress = source_progress,
};

/* ---- destination ------------------------------------------------------ */

/* Give QEMU's memory to the migration: region n of the VM is number n. */
static int add_regions(struct migr_destination *d, struct qemu *q)
{
	struct migr_region regions[MIGR_REGIONS_MAX];
	int n, error = 0;

	n = migr_region_take(q->m, q->child.pid, regions, MIGR_REGIONS_MAX);
	if (n < 0)
		return migr_destination_fail(d, n, "%s", migr_error(q->m));
	for (int i = 0; i < n; i++) {
		if (!error)
			error = migr_destination_add_region(d, regions[i].fd, i);
		close(regions[i].fd);
	}
	return error;
}

static int destination_prepare(struct migr_destination *d, void *data,
			       const struct migr_request *request)
{
	struct qemu *q = data;
	struct text error;

	text_set(&q->vm_name, "%s", request->vm_name);
	q->state_fd = -1;
	q->qmp = (struct qmp){ .fd = -1 };
	q->child.pid = 0;
	if (!backend_valid(request->regions[0].name))
		return migr_destination_fail(d, -EINVAL, "no memory can be called '%s' here",
					     request->regions[0].name);
	if (!child_start(&q->child, q->argv, request->regions[0].name, q->json, &error)) {
		q->child.pid = 0;
		return migr_destination_fail(d, -EIO, "%s", error.s);
	}
	if (!qmp_attach(&q->qmp, q->child.control_fd, START_MS))
		return migr_destination_fail(d, -EIO, "QEMU did not start on the destination: %s (its own message is in the output of 'migr receive')",
					     q->qmp.error.s);
	if (!set_capabilities(q, false, true))
		return destination_fail(d, q);
	return add_regions(d, q);
}

static int receive_file(struct migr_destination *d, int fd)
{
	static char buffer[1 << 20];
	uint64_t total = 0;
	ssize_t n;

	while ((n = migr_destination_read_state(d, buffer, sizeof(buffer))) > 0) {
		total += n;
		if (total > STATE_MAX)
			return migr_destination_fail(d, -EFBIG, "the device state is too large");
		if (write(fd, buffer, n) != n)
			return migr_destination_fail(d, -ENOSPC, "cannot keep the device state: %s",
						     strerror(errno));
	}
	if (n < 0)
		return n;
	return lseek(fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

static int destination_load(struct migr_destination *d, void *data)
{
	struct qemu *q = data;
	int error;

	q->state_fd = memfd_create("migr-state", MFD_CLOEXEC);
	if (q->state_fd < 0)
		return migr_destination_fail(d, -errno, "no file for the device state: %s",
					     strerror(errno));
	error = receive_file(d, q->state_fd);
	if (error)
		return error;
	if (!qmp_command_fd(&q->qmp, "getfd", json_pack("{s:s}", "fdname", STATE_FD),
			    q->state_fd) ||
	    !qmp_command(&q->qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" STATE_FD),
			 NULL) ||
	    !wait_migration(q, "completed", "load the device state", NULL))
		return migr_destination_fail(d, -EIO, "%s (is its command the same as the source's?)",
					     q->qmp.error.s);
	return 0;
}

static int destination_resume(struct migr_destination *d, void *data)
{
	struct qemu *q = data;

	bool running;

	/* From COMMIT on it must not be killed, least of all once it runs. */
	child_commit(&q->child);
	running = qmp_command(&q->qmp, "cont", NULL, NULL);
	child_release(&q->child);
	return running ? 0 : destination_fail(d, q);
}

static void close_destination(struct qemu *q)
{
	if (q->state_fd >= 0)
		close(q->state_fd);
	q->state_fd = -1;
	qmp_close(&q->qmp);
}

static void destination_abort(struct migr_destination *d, void *data)
{
	struct qemu *q = data;

	(void)d;
	close_destination(q);
	if (q->child.pid)
		child_kill(&q->child);
}

bool qemu_destination_finish(struct qemu *q)
{
	return qmp_command(&q->qmp, "announce-self",
			   json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550,
				     "rounds", 5, "step", 100), NULL);
}

static bool let_run(struct qemu *q)
{
	return qmp_command(&q->qmp, "cont", NULL, NULL) && qemu_destination_finish(q);
}

void qemu_let_run(const char *qmp_path)
{
	insist(qmp_path, false, let_run);
}

void qemu_destination_close(struct qemu *q)
{
	set_capabilities(q, false, false);
	close_destination(q);
}

static int destination_progress(struct migr_destination *d, void *data,
				const struct migr_progress *p)
{
	struct qemu *q = data;

	progress(q, p);
	/* Better now, while the VM still runs at the source. */
	if (p->phase == MIGR_PHASE_PASSES && !qmp_alive(&q->qmp))
		return destination_fail(d, q);
	return 0;
}

static void destination_refused(struct migr_destination *d, void *data, const char *peer,
				const char *why)
{
	const struct qemu *q = data;

	(void)d;
	complain("sent away %s: %s", peer, why);
	if (q->json)
		print_json(json_pack("{s:s, s:s, s:s}", "type", "refused", "peer", peer, "error",
				     why));
}

const struct migr_destination_ops qemu_destination_ops = {
	.prepare = destination_prepare,
	.load = destination_load,
	.resume = destination_resume,
	.abort = destination_abort,
	.progress = destination_progress,
	.refused = destination_refused,
};
