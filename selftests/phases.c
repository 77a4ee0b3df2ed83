// SPDX-License-Identifier: GPL-2.0-only
/*
 * The destination dies in each phase of a migration through libmigr, killed
 * without warning. Before COMMIT the VM, here a thread that writes, goes on
 * where it was and a second attempt succeeds; after COMMIT it stays paused.
 */
#include "migr_test.h"
#include "migr.h"

#define VM_PAGES	2048
#define STATE_BYTES	200000

/* Where the destination's process kills itself. */
enum death {
	NOWHERE,
	IN_PREPARE,
	IN_LOAD,
	IN_RESUME,
};

/* No phase of the source: it does not kill the destination. */
#define NO_PHASE	((enum migr_phase)-1)

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
	enum migr_phase killed_in;
	bool writes_in_save;	/* of the source's VMM */
	pid_t pid;
	char address[64];
} peer;

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
	vm.mem = mem_new(VM_PAGES);
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
	__u64 deadline = deadline_in(10), since = vm_writes();
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
	struct migr_destination_options options = { .timeout_ms = 5000 };
	struct migr_destination *d;
	struct migr_result result;
	struct migr *m;
	int dev = CALL(dev_open());

	CALL(migr_open(&m));
	CALL(migr_destination_new(m, &d));
	CALL(migr_destination_listen(d, peer.address));
	CHECK_EQ(write(ready, "r", 1), 1);
	CHECK(!migr_destination_run(d, &options, &dst_ops, &dev, &result), "%s",
	      migr_destination_error(d));
	_exit(result.outcome == MIGR_OUTCOME_MOVED ? TEST_PASS : TEST_FAIL);
}

static void destination_start(enum death death, enum migr_phase killed_in)
{
	struct pollfd p = { .events = POLLIN };
	int pipes[2];

	peer.death = death;
	peer.killed_in = killed_in;
	snprintf(peer.address, sizeof(peer.address), "unix:/tmp/migr-phases.%d", getpid());
	unlink(peer.address + strlen("unix:"));
	CHECK_EQ(pipe2(pipes, O_CLOEXEC), 0);
	peer.pid = child_start();
	if (!peer.pid)
		destination(pipes[1]);
	p.fd = pipes[0];
	CHECK_EQ(poll(&p, 1, 10000), 1);
	close(pipes[0]);
	close(pipes[1]);
}

static int destination_end(void)
{
	int status;

	CHECK_EQ(waitpid(peer.pid, &status, 0), peer.pid);
	unlink(peer.address + strlen("unix:"));
	return status;
}

/* --------------------------------------------------------------- source */

static int src_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	(void)s;
	(void)data;
	(void)stopped_ns;
	vm.pauses++;
	vm_stop(true);
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
	if (p->phase != peer.killed_in)
		return;
	peer.killed_in = NO_PHASE;
	kill(peer.pid, SIGKILL);
	CHECK_EQ(waitid(P_PID, peer.pid, &info, WEXITED | WNOWAIT), 0);
}

static const struct migr_source_ops src_ops = {
	.pause = src_pause,
	.save = src_save,
	.resume = src_resume,
	.progress = src_progress,
};

static enum migr_outcome source(void)
{
	struct migr_source_options options = { .timeout_ms = 5000, .verify = true };
	struct migr_source *s;
	struct migr_result result;
	struct migr *m;

	vm.pauses = 0;
	vm.resumes = 0;
	CALL(migr_open(&m));
	CALL(migr_source_new(m, &s));
	CALL(migr_source_add_region(s, vm.mem.fd, 0, "ram"));
	migr_source_run(s, peer.address, &options, &src_ops, NULL, &result);
	diag("outcome %d: %s", result.outcome, migr_source_error(s));
	CHECK(result.outcome != MIGR_OUTCOME_MOVED || result.identical,
	      "moved without having been compared");
	migr_source_free(s);
	migr_close(m);
	return result.outcome;
}

static void moves_after_all(void)
{
	destination_start(NOWHERE, NO_PHASE);
	CHECK_EQ(source(), MIGR_OUTCOME_MOVED);
	CHECK_EQ(vm.pauses, 1);
	CHECK_EQ(vm.resumes, 0);
	CHECK_EQ(destination_end(), 0);
}

static void dies(enum death death, enum migr_phase killed_in, int pauses)
{
	vm_start();
	destination_start(death, killed_in);
	CHECK_EQ(source(), MIGR_OUTCOME_HERE);
	CHECK_EQ(WTERMSIG(destination_end()), SIGKILL);
	CHECK_EQ(vm.pauses, pauses);
	CHECK_EQ(vm.resumes, pauses);
	vm_is_well();
	moves_after_all();
}

static void nobody_listens(void)
{
	vm_start();
	strcpy(peer.address, "unix:/tmp/migr-phases.none");
	peer.killed_in = NO_PHASE;
	CHECK_EQ(source(), MIGR_OUTCOME_HERE);
	CHECK_EQ(vm.pauses, 0);
	vm_is_well();
	moves_after_all();
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

/* What a VMM writes once the memory is gone would be lost. */
static void writes_while_saving(void)
{
	vm_start();
	destination_start(NOWHERE, NO_PHASE);
	peer.writes_in_save = true;
	CHECK_EQ(source(), MIGR_OUTCOME_HERE);
	peer.writes_in_save = false;
	CHECK(destination_end(), "the destination took it");
	CHECK_EQ(vm.resumes, 1);
	vm_is_well();
	moves_after_all();
}

/* It may have resumed the VM before it died: nobody here can know. */
static void dies_after_commit(void)
{
	__u64 writes;

	vm_start();
	destination_start(IN_RESUME, NO_PHASE);
	CHECK_EQ(source(), MIGR_OUTCOME_UNKNOWN);
	CHECK_EQ(WTERMSIG(destination_end()), SIGKILL);
	CHECK_EQ(vm.pauses, 1);
	CHECK_EQ(vm.resumes, 0);
	writes = vm_writes();
	usleep(100000);
	CHECK_EQ(vm_writes(), writes);
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
	CASE(writes_while_saving),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
