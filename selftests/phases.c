// SPDX-License-Identifier: GPL-2.0-only
/*
 * In each phase of a migration through libmigr the destination is killed without
 * warning, the connection is cut, or falls silent. Before COMMIT the VM, here a
 * thread that writes, goes on where it was and a second attempt succeeds; after
 * COMMIT it stays paused.
 */
#include "migr_test.h"
#include "migr.h"

#include <sys/un.h>

#define VM_PAGES	2048
#define STATE_BYTES	200000
/* How long a silent connection costs each side; and where none is to be silent. */
#define SILENCE_MS	10000
#define PATIENCE_MS	(RUN_S * 1000)
#define ADDRESS_MAX	64

/* Where the destination's process kills itself. */
enum death {
	NOWHERE,
	IN_PREPARE,
	IN_LOAD,
	IN_RESUME,
};

/* How the destination's process ends otherwise. */
enum {
	ENDED_MOVED = TEST_PASS,
	ENDED_HERE = 10,	/* the VM never ran there */
};

/* No phase of the source: nothing happens. */
#define NO_PHASE	((enum migr_phase)-1)

/* Of each side that starts now. */
static unsigned int timeout_ms = PATIENCE_MS;

static struct {
	int dev;
	struct mem mem;
	__u64 *expected;	/* a stamp a page */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop, end;		/* wanted */
	bool stopped;		/* is */
	__u64 writes;
	int pauses, resumes;
} vm;

static struct {
	enum death death;
	bool read_only;		/* its VMM gives memory that it may not write to */
	bool writes_in_save;	/* of the source's VMM */
	int strangers;		/* come while the VM is paused, and say too little */
	__u32 streams;
	pid_t pid;
	char address[ADDRESS_MAX];
} peer;

/* What happens when the source reaches a phase: a process gets a signal. */
static struct {
	enum migr_phase phase;
	pid_t pid;
	int signal;
} blow = { .phase = NO_PHASE };

/* Between the two, a process that carries their bytes. */
static struct {
	pid_t pid;
	char address[ADDRESS_MAX];
} relay;

static void *vm_thread(void *arg)
{
	__u64 seed = 1, page;

	(void)arg;
	pthread_mutex_lock(&vm.lock);
	while (!vm.end) {
		if (vm.stop) {
			vm.stopped = true;
			pthread_cond_broadcast(&vm.changed);
			pthread_cond_wait(&vm.changed, &vm.lock);
			continue;
		}
		vm.stopped = false;
		for (int i = 0; i < 8; i++) {
			page = rnd(&seed) % VM_PAGES;
			vm.expected[page]++;
			*(volatile __u64 *)mem_page(&vm.mem, page) = vm.expected[page];
			vm.writes++;
		}
		pthread_mutex_unlock(&vm.lock);
		/* Slower than the stream, so that passes converge. */
		usleep(1000);
		pthread_mutex_lock(&vm.lock);
	}
	pthread_mutex_unlock(&vm.lock);
	return NULL;
}

static void vm_stop(bool stop)
{
	pthread_mutex_lock(&vm.lock);
	vm.stop = stop;
	pthread_cond_broadcast(&vm.changed);
	while (stop && !vm.stopped)
		pthread_cond_wait(&vm.changed, &vm.lock);
	pthread_mutex_unlock(&vm.lock);
}

static void vm_start(void)
{
	__u64 seed = 7;

	vm.dev = CALL(dev_open());
	/* And one that it does not write to. */
	vm.mem = mem_new(VM_PAGES + 1);
	vm.expected = private_alloc(VM_PAGES * sizeof(__u64));
	for (__u64 i = 0; i < VM_PAGES; i++) {
		fill_random(mem_page(&vm.mem, i), TEST_PAGE, &seed);
		vm.expected[i] = *(__u64 *)mem_page(&vm.mem, i) >>= 1;
	}
	pthread_mutex_init(&vm.lock, NULL);
	pthread_cond_init(&vm.changed, NULL);
	vm.thread = thread_start(vm_thread, NULL);
}

static __u64 vm_writes(void)
{
	__u64 writes;

	pthread_mutex_lock(&vm.lock);
	writes = vm.writes;
	pthread_mutex_unlock(&vm.lock);
	return writes;
}

/* It writes, its memory is what it wrote, and nobody tracks it. */
static void vm_is_well(void)
{
	__u64 deadline = deadline_in(RUN_S), since = vm_writes();
	struct migr_region_info info;

	while (vm_writes() == since) {
		CHECK(now_ns() < deadline, "the VM does not go on");
		poll_pause();
	}
	vm_stop(true);
	for (__u64 i = 0; i < VM_PAGES; i++)
		CHECK_EQ(*(__u64 *)mem_page(&vm.mem, i), vm.expected[i]);
	vm_stop(false);
	CALL(region_info(vm.mem.fd, &info));
	CHECK(!(info.state & MIGR_REGION_TRACKED), "the region is still tracked");
}

/* ---------------------------------------------------------- destination */

static void die(enum death where)
{
	if (peer.death == where)
		raise(SIGKILL);
}

static int dst_prepare(struct migr_destination *d, void *data,
		       const struct migr_request *request)
{
	int region;

	die(IN_PREPARE);
	region = CALL(region_create(*(int *)data, request->regions[0].length, "arrived"));
	if (peer.read_only)
		region = CALL(reopen(region, O_RDONLY));
	return migr_destination_add_region(d, region, request->regions[0].id);
}

static int dst_load(struct migr_destination *d, void *data)
{
	unsigned char buf[4096];
	size_t total = 0;
	ssize_t n;

	(void)data;
	while ((n = migr_destination_read_state(d, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++, total++)
			if (buf[i] != (unsigned char)(total * 7))
				return migr_destination_fail(d, -EIO, "bad state at %zu", total);
		die(IN_LOAD);
	}
	if (!n && total != STATE_BYTES)
		return migr_destination_fail(d, -EIO, "%zu bytes of state", total);
	return n;
}

static int dst_resume(struct migr_destination *d, void *data)
{
	(void)d;
	(void)data;
	die(IN_RESUME);
	return 0;
}

static void dst_abort(struct migr_destination *d, void *data)
{
	(void)d;
	(void)data;
}

static const struct migr_destination_ops dst_ops = {
	.prepare = dst_prepare,
	.load = dst_load,
	.resume = dst_resume,
	.abort = dst_abort,
};

static void destination(int ready)
{
	struct migr_destination_options options = {
		.timeout_ms = timeout_ms,
		.tls.insecure = true,
	};
	struct migr_destination *d;
	struct migr_result result;
	struct migr *m;
	int dev = CALL(dev_open());

	CALL(migr_open(&m));
	CALL(migr_destination_new(m, &d));
	CALL(migr_destination_listen(d, peer.address));
	CHECK_EQ(write(ready, "r", 1), 1);
	migr_destination_run(d, &options, &dst_ops, &dev, &result);
	diag("destination: outcome %d: %s", result.outcome, migr_destination_error(d));
	_exit(result.outcome == MIGR_OUTCOME_MOVED ? ENDED_MOVED : ENDED_HERE);
}

/* Start a process that listens, and wait until it does. */
static pid_t listener_start(char address[ADDRESS_MAX], const char *name, void (*fn)(int ready))
{
	struct pollfd p = { .events = POLLIN };
	int pipes[2];
	pid_t pid;

	snprintf(address, ADDRESS_MAX, "unix:/tmp/migr-phases.%s.%d", name, getpid());
	unlink(address + strlen("unix:"));
	CHECK_EQ(pipe2(pipes, O_CLOEXEC), 0);
	pid = child_start();
	if (!pid)
		fn(pipes[1]);
	p.fd = pipes[0];
	CHECK_EQ(poll(&p, 1, RUN_S * 1000), 1);
	close(pipes[0]);
	close(pipes[1]);
	return pid;
}

static void destination_start(enum death death)
{
	peer.death = death;
	peer.pid = listener_start(peer.address, "destination", destination);
}

static int destination_end(void)
{
	int status;

	CHECK_EQ(waitpid(peer.pid, &status, 0), peer.pid);
	unlink(peer.address + strlen("unix:"));
	return status;
}

static void destination_ended(int how)
{
	int status = destination_end();

	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == how,
	      "the destination ended with status 0x%x", status);
}

/* ----------------------------------------------------------------- relay */

static int unix_socket(const char *address, struct sockaddr_un *sun)
{
	*sun = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(sun->sun_path, address + strlen("unix:"));
	return (int)SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

/* One way of one connection. */
struct way {
	int from, to;
};

static void *carry(void *arg)
{
	struct way *w = arg;
	char bytes[65536];
	ssize_t n;

	while ((n = recv(w->from, bytes, sizeof(bytes), 0)) > 0)
		if (send(w->to, bytes, n, MSG_NOSIGNAL) != n)
			break;
	shutdown(w->to, SHUT_WR);
	return NULL;
}

static void carry_all(int ready)
{
	struct sockaddr_un sun;
	int listener = unix_socket(relay.address, &sun), i;
	static struct way ways[4];

	SYS(bind(listener, (struct sockaddr *)&sun, sizeof(sun)));
	SYS(listen(listener, 2));
	CHECK_EQ(write(ready, "r", 1), 1);
	/* The control channel and the stream. */
	for (i = 0; i < 4; i += 2) {
		ways[i].from = (int)SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		ways[i].to = unix_socket(peer.address, &sun);
		SYS(connect(ways[i].to, (struct sockaddr *)&sun, sizeof(sun)));
		ways[i + 1] = (struct way){ ways[i].to, ways[i].from };
		thread_start(carry, &ways[i]);
		thread_start(carry, &ways[i + 1]);
	}
	for (;;)
		pause();
}

static void relay_start(void)
{
	relay.pid = listener_start(relay.address, "relay", carry_all);
}

static void relay_end(void)
{
	kill(relay.pid, SIGKILL);
	waitpid(relay.pid, NULL, 0);
	unlink(relay.address + strlen("unix:"));
}

/* --------------------------------------------------------------- source */

static int src_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	struct sockaddr_un sun;
	int i, fd;

	(void)s;
	(void)data;
	(void)stopped_ns;
	vm.pauses++;
	vm_stop(true);
	for (i = 0; i < peer.strangers; i++) {
		fd = unix_socket(peer.address, &sun);
		SYS(connect(fd, (struct sockaddr *)&sun, sizeof(sun)));
		CHECK_EQ(send(fd, "{", 1, MSG_NOSIGNAL), 1);
	}
	return 0;
}

static int src_save(struct migr_source *s, void *data)
{
	unsigned char state[STATE_BYTES];

	(void)data;
	if (peer.writes_in_save)
		*(volatile __u64 *)mem_page(&vm.mem, 3) = ++vm.expected[3];
	for (size_t i = 0; i < sizeof(state); i++)
		state[i] = i * 7;
	return migr_source_write_state(s, state, sizeof(state));
}

static int src_resume(struct migr_source *s, void *data)
{
	(void)s;
	(void)data;
	vm.resumes++;
	vm_stop(false);
	return 0;
}

static void src_progress(struct migr_source *s, void *data, const struct migr_progress *p)
{
	siginfo_t info;

	(void)s;
	(void)data;
	if (p->phase != blow.phase)
		return;
	blow.phase = NO_PHASE;
	kill(blow.pid, blow.signal);
	CHECK_EQ(waitid(P_PID, blow.pid, &info, WEXITED | WSTOPPED | WNOWAIT), 0);
}

static const struct migr_source_ops src_ops = {
	.pause = src_pause,
	.save = src_save,
	.resume = src_resume,
	.progress = src_progress,
};

/* What the latest one said. */
static char source_error[256];

static enum migr_outcome source(const char *address)
{
	struct migr_source_options options = {
		.timeout_ms = timeout_ms,
		.prepare_timeout_ms = timeout_ms,
		.verify = true,
		.streams = peer.streams,
		.tls.insecure = true,
	};
	struct migr_source *s;
	struct migr_result result;
	struct migr *m;

	vm.pauses = 0;
	vm.resumes = 0;
	CALL(migr_open(&m));
	CALL(migr_source_new(m, &s));
	CALL(migr_source_add_region(s, vm.mem.fd, 0, "ram"));
	migr_source_run(s, address, &options, &src_ops, NULL, &result);
	snprintf(source_error, sizeof(source_error), "%s", migr_source_error(s));
	diag("outcome %d: %s", result.outcome, source_error);
	CHECK(result.outcome != MIGR_OUTCOME_MOVED || result.identical,
	      "moved without having been compared");
	migr_source_free(s);
	migr_close(m);
	return result.outcome;
}

static void moves_after_all(void)
{
	destination_start(NOWHERE);
	CHECK_EQ(source(peer.address), MIGR_OUTCOME_MOVED);
	CHECK_EQ(vm.pauses, 1);
	CHECK_EQ(vm.resumes, 0);
	destination_ended(ENDED_MOVED);
}

/* The VM is where it was, and moves at the second attempt. */
static void stayed(int pauses)
{
	CHECK_EQ(vm.pauses, pauses);
	CHECK_EQ(vm.resumes, pauses);
	vm_is_well();
	moves_after_all();
}

/* ------------------------------------------------- the destination dies */

static void dies(enum death death, enum migr_phase killed_in, int pauses)
{
	vm_start();
	destination_start(death);
	blow.phase = killed_in;
	blow.pid = peer.pid;
	blow.signal = SIGKILL;
	CHECK_EQ(source(peer.address), MIGR_OUTCOME_HERE);
	CHECK_EQ(WTERMSIG(destination_end()), SIGKILL);
	stayed(pauses);
}

static void nobody_listens(void)
{
	vm_start();
	CHECK_EQ(source("unix:/tmp/migr-phases.none"), MIGR_OUTCOME_HERE);
	stayed(0);
}

static void dies_in_prepare(void)
{
	dies(IN_PREPARE, NO_PHASE, 0);
}

static void dies_in_first_pass(void)
{
	dies(NOWHERE, MIGR_PHASE_PASSES, 0);
}

static void dies_in_last_pass(void)
{
	dies(NOWHERE, MIGR_PHASE_LAST_PASS, 1);
}

static void dies_in_verify(void)
{
	dies(NOWHERE, MIGR_PHASE_VERIFY, 1);
}

static void dies_in_load(void)
{
	dies(IN_LOAD, NO_PHASE, 1);
}

static void dies_before_commit(void)
{
	dies(NOWHERE, MIGR_PHASE_COMMIT, 1);
}

static void stays_paused(void)
{
	__u64 writes = vm_writes();

	CHECK_EQ(vm.pauses, 1);
	CHECK_EQ(vm.resumes, 0);
	usleep(100000);
	CHECK_EQ(vm_writes(), writes);
}

/* It may have resumed the VM before it died: nobody here can know. */
static void dies_after_commit(void)
{
	vm_start();
	destination_start(IN_RESUME);
	CHECK_EQ(source(peer.address), MIGR_OUTCOME_UNKNOWN);
	CHECK_EQ(WTERMSIG(destination_end()), SIGKILL);
	stays_paused();
}

/* ------------------------------------------------- the connection breaks */

/* Its carrier is killed or stopped as the source enters the phase. */
static enum migr_outcome breaks(enum migr_phase phase, int signal)
{
	enum migr_outcome outcome;

	timeout_ms = signal == SIGSTOP ? SILENCE_MS : PATIENCE_MS;
	destination_start(NOWHERE);
	relay_start();
	blow.phase = phase;
	blow.pid = relay.pid;
	blow.signal = signal;
	outcome = source(relay.address);
	timeout_ms = PATIENCE_MS;
	return outcome;
}

static void breaks_in(enum migr_phase phase, int signal)
{
	vm_start();
	CHECK_EQ(breaks(phase, signal), MIGR_OUTCOME_HERE);
	relay_end();
	if (phase == MIGR_PHASE_CONNECT) {
		/* Nobody has reached it. */
		kill(peer.pid, SIGKILL);
		destination_end();
	} else {
		destination_ended(ENDED_HERE);
	}
	stayed(phase >= MIGR_PHASE_PAUSE);
}

#define BREAKS(name, phase)						\
static void cut_##name(void)						\
{									\
	breaks_in(MIGR_PHASE_##phase, SIGKILL);				\
}									\
									\
static void silent_##name(void)						\
{									\
	breaks_in(MIGR_PHASE_##phase, SIGSTOP);				\
}

BREAKS(in_connect, CONNECT)
BREAKS(in_prepare, PREPARE)
BREAKS(in_first_pass, PASSES)
BREAKS(in_pause, PAUSE)
BREAKS(in_last_pass, LAST_PASS)
BREAKS(in_verify, VERIFY)
BREAKS(in_state, STATE)

static void cut_before_commit(void)
{
	breaks_in(MIGR_PHASE_COMMIT, SIGKILL);
}

/* COMMIT does not arrive. The source cannot know; the destination does not run it. */
static void commit_is_lost(void)
{
	vm_start();
	CHECK_EQ(breaks(MIGR_PHASE_COMMIT, SIGSTOP), MIGR_OUTCOME_UNKNOWN);
	relay_end();
	destination_ended(ENDED_HERE);
	stays_paused();
	/* That it does not run there is for the operator to see. */
	vm_stop(false);
	vm_is_well();
	moves_after_all();
}

/* ---------------------------------------------------------------- others */

/* The kernel takes no memory for a destination that may not be written to. */
static void module_refuses(void)
{
	vm_start();
	peer.read_only = true;
	destination_start(NOWHERE);
	CHECK_EQ(source(peer.address), MIGR_OUTCOME_HERE);
	destination_ended(ENDED_HERE);
	peer.read_only = false;
	stayed(0);
}

/* What a VMM writes once the memory is gone would be lost. */
static void writes_while_saving(void)
{
	vm_start();
	destination_start(NOWHERE);
	peer.writes_in_save = true;
	CHECK_EQ(source(peer.address), MIGR_OUTCOME_HERE);
	peer.writes_in_save = false;
	destination_ended(ENDED_HERE);
	stayed(1);
}

/* Who keeps the destination waiting does not keep the VM. */
static void strangers_come(void)
{
	vm_start();
	peer.strangers = 10;
	moves_after_all();
}

/* The cause is told, not that the other stream was ended for it. */
static void memory_fails(void)
{
	vm_start();
	mem_page(&vm.mem, VM_PAGES)[0] = 1;
	poison(&vm.mem, VM_PAGES);
	peer.streams = 2;
	destination_start(NOWHERE);
	CHECK_EQ(source(peer.address), MIGR_OUTCOME_HERE);
	CHECK(strstr(source_error, strerror(EHWPOISON)), "it said: %s", source_error);
	destination_ended(ENDED_HERE);
	SYS(madvise(mem_page(&vm.mem, VM_PAGES), TEST_PAGE, MADV_REMOVE));
	stayed(0);
}

static const struct test_case cases[] = {
	CASE(nobody_listens),
	CASE(dies_in_prepare),
	CASE(dies_in_first_pass),
	CASE(dies_in_last_pass),
	CASE(dies_in_verify),
	CASE(dies_in_load),
	CASE(dies_before_commit),
	CASE(dies_after_commit),
	CASE(cut_in_connect),
	CASE(cut_in_prepare),
	CASE(cut_in_first_pass),
	CASE(cut_in_pause),
	CASE(cut_in_last_pass),
	CASE(cut_in_verify),
	CASE(cut_in_state),
	CASE(cut_before_commit),
	CASE(silent_in_connect),
	CASE(silent_in_prepare),
	CASE(silent_in_first_pass),
	CASE(silent_in_pause),
	CASE(silent_in_last_pass),
	CASE(silent_in_verify),
	CASE(silent_in_state),
	CASE(commit_is_lost),
	CASE(module_refuses),
	CASE(writes_while_saving),
	CASE(strangers_come),
	CASE(memory_fails),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
