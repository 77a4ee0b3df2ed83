// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Both sides of a migration over a UNIX socket, on a device in user space: that
 * the VM ends up on one side only, and where it must, whatever fails.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <poll.h>
#include <time.h>

#include <cmocka.h>

#include "internal.h"
#include "fake_device.h"

#define LENGTH		(4u << 20)
#define STATE_BYTES	(3u << 20)	/* more than one message */
#define LATE_US		1000000ull
#define TIMEOUT_MS	1000

/* A VM of the test, on either side, and what shall fail. */
struct side {
	int region;
	uint8_t *memory;
	uint32_t length;
	int fail_passes, fail_pause, fail_save, fail_resume, fail_prepare, fail_load;
	unsigned int paused, resumed, aborted;
	bool tamper;			/* destination: change memory before its digest */
	bool cancel_in_save, hang_in_resume, break_stream;
	struct migr *m;
	uint64_t log[LENGTH / FAKE_PAGE / 64];	/* pages written, not yet reported */
	unsigned int collected;
	int fail_collect;		/* at that call */
	bool forget, write_in_save;
	uint64_t paused_ns, resumed_ns;
	atomic_bool state_begun;	/* source: some of it has been written */
	atomic_uint reports;		/* destination */
	uint64_t seed;
	enum migr_phase last_phase;
	int error;
	struct migr_result result;
	char text[512];
};

struct fixture {
	struct migr *m;
	struct migr_destination *d;
	char path[64], address[80];
	pthread_t thread;
	struct side source, destination;
	const struct migr_source_ops *ops;
	struct migr_source_options options;
	struct migr_destination_options destination_options;
};

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void scribble(void *data)
{
	struct side *side = data;

	for (size_t i = 0; i < side->length; i += 256)
		*(uint64_t *)(side->memory + i) = next_random(&side->seed);
}

/* As KVM would with its dirty ring. */
static void scribble_logged(void *data)
{
	struct side *side = data;
	uint64_t page;

	for (int i = 0; i < 20; i++) {
		page = next_random(&side->seed) % (LENGTH / FAKE_PAGE);
		side->memory[page * FAKE_PAGE + i] = next_random(&side->seed);
		side->log[page / 64] |= 1ull << page % 64;
	}
}

static uint8_t state_byte(size_t i)
{
	return i * 7 + (i >> 13);
}

/* ---- the VMM of the source -------------------------------------------- */

static int vm_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	struct side *side = data;

	assert_true(*stopped_ns > 0);
	side->paused++;
	side->paused_ns = now_ns();
	if (side->break_stream)
		fake_receive_error = ECONNRESET;
	return side->fail_pause ? migr_source_fail(s, side->fail_pause, "will not stop") : 0;
}

static int vm_collect(struct migr_source *s, void *data)
{
	struct side *side = data;

	side->collected++;
	if (side->fail_collect == (int)side->collected)
		return migr_source_fail(s, -EIO, "lost the log");
	if (!side->forget)
		assert_int_equal(migr_region_merge(side->m, side->region, 0, LENGTH / FAKE_PAGE,
						   side->log, NULL), 0);
	memset(side->log, 0, sizeof(side->log));
	return 0;
}

static int vm_save(struct migr_source *s, void *data)
{
	static uint8_t bytes[STATE_BYTES];
	struct side *side = data;
	int error;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = state_byte(i);
	if (side->cancel_in_save)
		migr_source_cancel(s);
	if (side->write_in_save)
		scribble_logged(side);
	if (side->fail_save)
		return migr_source_fail(s, side->fail_save, "will not be saved");
	error = migr_source_write_state(s, bytes, 1);
	side->state_begun = true;
	return error ? error : migr_source_write_state(s, bytes + 1, sizeof(bytes) - 1);
}

static int vm_resume_here(struct migr_source *s, void *data)
{
	struct side *side = data;

	side->resumed++;
	side->resumed_ns = now_ns();
	return side->fail_resume ? migr_source_fail(s, side->fail_resume, "will not go on") : 0;
}

static void source_progress(struct migr_source *s, void *data, const struct migr_progress *p)
{
	struct side *side = data;

	side->last_phase = p->phase;
	if (side->fail_passes && p->phase == MIGR_PHASE_PASSES)
		migr_source_fail(s, side->fail_passes, "has died");
}

static const struct migr_source_ops source_ops = {
	.pause = vm_pause, .save = vm_save, .resume = vm_resume_here, .progress = source_progress,
};

static const struct migr_source_ops reporting_ops = {
	.collect = vm_collect, .pause = vm_pause, .save = vm_save, .resume = vm_resume_here,
};

/* ---- the VMM of the destination --------------------------------------- */

static int vm_prepare(struct migr_destination *d, void *data, const struct migr_request *q)
{
	struct side *side = data;

	assert_string_equal(q->vm_name, "test");
	assert_int_equal(q->nr_regions, 1);
	assert_string_equal(q->regions[0].name, "memory");
	if (side->fail_prepare)
		return migr_destination_fail(d, side->fail_prepare, "no place");
	return migr_destination_add_region(d, side->region, 5);
}

static int vm_load(struct migr_destination *d, void *data)
{
	struct side *side = data;
	uint8_t buffer[5000];
	size_t total = 0;
	ssize_t n;

	if (side->fail_load)
		return migr_destination_fail(d, side->fail_load, "will not load");
	while ((n = migr_destination_read_state(d, buffer, sizeof(buffer))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (buffer[i] != state_byte(total + i))
				return migr_destination_fail(d, -EIO, "wrong byte");
		total += n;
	}
	if (n < 0)
		return n;
	return total == STATE_BYTES ? 0 : migr_destination_fail(d, -EIO, "wrong length");
}

static int vm_resume_there(struct migr_destination *d, void *data)
{
	struct side *side = data;

	side->resumed++;
	if (side->hang_in_resume)
		/* Longer than the source waits. */
		nanosleep(&(struct timespec){ .tv_sec = 2 * TIMEOUT_MS / 1000 }, NULL);
	return side->fail_resume ? migr_destination_fail(d, side->fail_resume, "will not run") : 0;
}

static void vm_abort(struct migr_destination *d, void *data)
{
	struct side *side = data;

	(void)d;
	side->aborted++;
}

static int destination_progress(struct migr_destination *d, void *data,
				const struct migr_progress *p)
{
	struct side *side = data;

	(void)d;
	side->last_phase = p->phase;
	side->reports++;
	if (side->tamper && p->phase == MIGR_PHASE_VERIFY)
		side->memory[12345] ^= 1;
	return 0;
}

static const struct migr_destination_ops destination_ops = {
	.prepare = vm_prepare, .load = vm_load, .resume = vm_resume_there, .abort = vm_abort,
	.progress = destination_progress,
};

/* ---- the fixture ------------------------------------------------------ */

static void new_side(struct side *side, uint32_t length)
{
	*side = (struct side){
		.region = fake_memfd(FAKE_NAME),
		.length = length,
		.seed = 88172645463325252ull,
	};
	assert_int_equal(ftruncate(side->region, length), 0);
	side->memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, side->region, 0);
	assert_true(side->memory != MAP_FAILED);
}

static int set_up(void **state)
{
	static struct fixture f;

	f = (struct fixture){
		.ops = &source_ops,
		.options = { .vm_name = "test", .timeout_ms = TIMEOUT_MS },
		.destination_options = { .timeout_ms = TIMEOUT_MS },
	};
	fake_receive_error = 0;
	fake_guest = NULL;
	fake_received = NULL;
	assert_int_equal(migr_open(&f.m), 0);
	snprintf(f.path, sizeof(f.path), "/tmp/migr-test-%d.sock", getpid());
	snprintf(f.address, sizeof(f.address), "unix:%s", f.path);
	new_side(&f.source, LENGTH);
	f.source.m = f.m;
	new_side(&f.destination, LENGTH);
	scribble(&f.source);
	memset(f.source.memory + LENGTH / 2, 0, LENGTH / 4);
	assert_int_equal(migr_destination_new(f.m, &f.d), 0);
	assert_int_equal(migr_destination_listen(f.d, f.address), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	migr_destination_free(f->d);
	migr_close(f->m);
	munmap(f->source.memory, f->source.length);
	munmap(f->destination.memory, f->destination.length);
	close(f->source.region);
	close(f->destination.region);
	assert_int_equal(access(f->path, F_OK), -1);
	return 0;
}

static void *run_destination(void *arg)
{
	struct fixture *f = arg;
	struct side *side = &f->destination;

	side->error = migr_destination_run(f->d, &f->destination_options, &destination_ops, side,
					   &side->result);
	snprintf(side->text, sizeof(side->text), "%s", migr_destination_error(f->d));
	return NULL;
}

static void start_destination(struct fixture *f)
{
	assert_int_equal(pthread_create(&f->thread, NULL, run_destination, f), 0);
}

static void run_source(struct fixture *f)
{
	struct side *side = &f->source;
	struct migr_source *s;

	assert_int_equal(migr_source_new(f->m, &s), 0);
	assert_int_equal(migr_source_add_region(s, side->region, 5, "memory"), 0);
	side->error = migr_source_run(s, f->address, &f->options, f->ops, side,
				      &side->result);
	snprintf(side->text, sizeof(side->text), "%s", migr_source_error(s));
	migr_source_free(s);
}

static void run_both(struct fixture *f)
{
	start_destination(f);
	run_source(f);
	pthread_join(f->thread, NULL);
}

/* It failed before COMMIT: the VM is on the source, and nowhere else. */
static void assert_here(struct fixture *f, int error, const char *words)
{
	assert_int_equal(f->source.error, error);
	assert_non_null(strstr(f->source.text, words));
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_HERE);
	assert_int_equal(f->destination.result.outcome, MIGR_OUTCOME_HERE);
	assert_int_equal(f->source.resumed, f->source.paused);
	assert_int_equal(f->destination.resumed, 0);
	assert_true(f->destination.error < 0);
}

static void assert_moved(struct fixture *f)
{
	assert_string_equal(f->source.text, "");
	assert_string_equal(f->destination.text, "");
	assert_int_equal(f->source.error, 0);
	assert_int_equal(f->destination.error, 0);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_MOVED);
	assert_int_equal(f->destination.result.outcome, MIGR_OUTCOME_MOVED);
	assert_int_equal(f->source.resumed, 0);
	assert_int_equal(f->destination.resumed, 1);
	assert_int_equal(f->destination.aborted, 0);
	assert_memory_equal(f->source.memory, f->destination.memory, LENGTH);
}

/* ---- the tests -------------------------------------------------------- */

static void test_moves(void **state)
{
	struct fixture *f = *state;
	struct migr_result *r = &f->source.result;

	f->options.verify = true;
	run_both(f);
	assert_moved(f);
	assert_true(r->verified && r->identical);
	assert_int_equal(r->ram_bytes, LENGTH);
	assert_int_equal(r->state_bytes, STATE_BYTES);
	assert_int_equal(f->destination.result.state_bytes, STATE_BYTES);
	assert_int_equal(r->nr_passes, 2);
	assert_false(r->limit_exceeded);
	assert_true(r->downtime_ns > 0 && r->verify_ns > 0 && r->total_ns > r->downtime_ns);
	assert_int_equal(f->source.last_phase, MIGR_PHASE_DONE);
	assert_int_equal(f->destination.last_phase, MIGR_PHASE_DONE);
	assert_int_equal(fake_stream_flags, 0);
}

/* It is still busy with what was before, and then is not. */
static void *run_late_destination(void *arg)
{
	usleep(LATE_US);
	return run_destination(arg);
}

/* A first answer that took so long says nothing of the link. */
static void test_late_hello(void **state)
{
	struct fixture *f = *state;

	f->options.timeout_ms = 10 * LATE_US / 1000;
	assert_int_equal(pthread_create(&f->thread, NULL, run_late_destination, f), 0);
	run_source(f);
	pthread_join(f->thread, NULL);
	assert_moved(f);
	assert_true(f->source.result.total_ns > LATE_US * 1000);
	assert_true(f->source.result.predicted_downtime_ns < 2 * LATE_US * 1000);
}

static void test_copies(void **state)
{
	struct fixture *f = *state;

	f->options.copy = true;
	run_both(f);
	assert_moved(f);
	assert_int_equal(fake_stream_flags, MIGR_STREAM_COPY);
}

#define LZ4	(1u << MIGR_COMPRESSION_LZ4)
#define ZSTD	(1u << MIGR_COMPRESSION_ZSTD)

/* What is wanted and what the kernels have makes what both sides use. */
static void test_compresses(void **state)
{
	static const struct {
		uint32_t wanted, source, destination, used;
	} some[] = {
		{ MIGR_COMPRESSION_LZ4, LZ4 | ZSTD, LZ4 | ZSTD, MIGR_COMPRESSION_LZ4 },
		{ MIGR_COMPRESSION_ZSTD, LZ4 | ZSTD, LZ4 | ZSTD, MIGR_COMPRESSION_ZSTD },
		{ MIGR_COMPRESSION_AUTO, LZ4 | ZSTD, LZ4 | ZSTD, MIGR_COMPRESSION_LZ4 },
		{ MIGR_COMPRESSION_AUTO, LZ4 | ZSTD, ZSTD, MIGR_COMPRESSION_ZSTD },
		{ MIGR_COMPRESSION_AUTO, LZ4, ZSTD, MIGR_COMPRESSION_NONE },
		{ MIGR_COMPRESSION_ZSTD, LZ4 | ZSTD, LZ4, MIGR_COMPRESSION_NONE },
		{ MIGR_COMPRESSION_LZ4, ZSTD, LZ4 | ZSTD, MIGR_COMPRESSION_NONE },
		{ MIGR_COMPRESSION_LZ4, LZ4, 0, MIGR_COMPRESSION_NONE },
		{ MIGR_COMPRESSION_NONE, LZ4 | ZSTD, LZ4 | ZSTD, MIGR_COMPRESSION_NONE },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(some) / sizeof(*some); i++) {
		if (i) {
			tear_down(state);
			set_up(state);
		}
		f->options.compression = some[i].wanted;
		fake_compressions[0] = some[i].source;
		fake_compressions[1] = some[i].destination;
		fake_asked = 0;
		run_both(f);
		assert_moved(f);
		for (int side = 0; side < 2; side++)
			assert_int_equal(fake_stream_compression[side], some[i].used);
		assert_int_equal(f->source.result.compression, some[i].used);
		assert_int_equal(f->destination.result.compression, some[i].used);
		assert_int_equal(fake_stream_cpu[0], 50);
		assert_int_equal(fake_stream_cpu[1], 0);
	}
	tear_down(state);
	set_up(state);
	f->options.compression_percent = MIGR_COMPRESSION_ALWAYS;
	run_both(f);
	assert_int_equal(fake_stream_cpu[0], 0);
}

/* Hold the end of the stream's run until the other channel has been looked at. */
static void let_state_overtake(void *data)
{
	uint64_t deadline = now_ns() + 5 * NS_PER_S;
	struct fixture *f = data;
	unsigned int reports;

	while (!f->source.state_begun && now_ns() < deadline)
		usleep(1000);
	for (reports = f->destination.reports; now_ns() < deadline; usleep(1000))
		if (f->destination.reports >= reports + 2)
			break;
}

static void test_state_overtakes_passes(void **state)
{
	struct fixture *f = *state;

	fake_received = let_state_overtake;
	fake_received_data = f;
	run_both(f);
	assert_moved(f);
}

static void test_again_after_failure(void **state)
{
	struct fixture *f = *state;

	f->destination.fail_load = -EIO;
	run_both(f);
	assert_here(f, -EREMOTEIO, "destination: will not load");
	assert_int_equal(f->destination.aborted, 1);
	f->destination.fail_load = 0;
	f->source.paused = 0;
	f->source.resumed = 0;
	f->destination.aborted = 0;
	run_both(f);
	assert_moved(f);
}

static void test_restless(void **state)
{
	struct fixture *f = *state;

	fake_guest = scribble;
	fake_guest_data = &f->source;
	f->options.downtime_limit_ms = 51;
	f->options.state_ms = 50;
	f->options.pass_limit = 3;
	run_both(f);
	assert_moved(f);
	assert_true(f->source.result.limit_exceeded);
	assert_int_equal(f->source.result.nr_passes, 4);
}

/* The VMM reports the writes of a guest that writes in every pass. */
static void report_writes(struct fixture *f)
{
	f->ops = &reporting_ops;
	f->options.reported = true;
	f->options.verify = true;
	f->options.downtime_limit_ms = 51;
	f->options.state_ms = 50;
	f->options.pass_limit = 3;
	fake_guest = scribble_logged;
	fake_guest_data = &f->source;
}

static void test_reports(void **state)
{
	struct fixture *f = *state;
	struct migr_result *r = &f->source.result;

	report_writes(f);
	run_both(f);
	assert_moved(f);
	assert_true(r->identical);
	/* Before the first pass, after each, after pause() and after save(). */
	assert_int_equal(f->source.collected, 1 + r->nr_passes + 2);
	assert_in_range(r->status.pass_pages, 1, 20);
}

static void test_forgets_to_report(void **state)
{
	struct fixture *f = *state;

	report_writes(f);
	f->source.forget = true;
	run_both(f);
	assert_here(f, -EILSEQ, "differs");
}

static void test_reports_late(void **state)
{
	struct fixture *f = *state;

	report_writes(f);
	f->source.write_in_save = true;
	run_both(f);
	assert_here(f, -EBUSY, "wrote to the memory");
}

/* At the first call, after a pass, in the pause: at every one there is. */
static void test_collect_fails(void **state)
{
	struct fixture *f = *state;
	int *n = &f->source.fail_collect;

	report_writes(f);
	for (*n = 1;; ++*n) {
		f->source.collected = 0;
		f->source.resumed = 0;
		f->source.paused = 0;
		f->destination.aborted = 0;
		run_both(f);
		if ((int)f->source.collected < *n)
			break;
		assert_here(f, -EIO, "lost the log");
	}
	assert_moved(f);
	assert_true(*n > 5);
}

static void test_nobody_reports(void **state)
{
	struct fixture *f = *state;

	f->options.reported = true;
	run_source(f);
	assert_int_equal(f->source.error, -EINVAL);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_HERE);
	assert_non_null(strstr(f->source.text, "nobody would report"));
}

static void test_too_small(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(ftruncate(f->destination.region, LENGTH / 2), 0);
	run_both(f);
	assert_here(f, -EREMOTEIO,
		    "destination: region 5 'memory': the source has 4 MiB, this side 2 MiB");
	assert_int_equal(f->source.paused, 0);
	assert_int_equal(f->destination.aborted, 1);
}

static void test_prepare_fails(void **state)
{
	struct fixture *f = *state;

	f->destination.fail_prepare = -ENOMEM;
	run_both(f);
	assert_here(f, -EREMOTEIO, "destination: no place");
	assert_int_equal(f->destination.aborted, 1);
}

static void test_kernel_refuses(void **state)
{
	struct fixture *f = *state;

	fake_receive_error = ENOMEM;
	run_both(f);
	assert_here(f, -EREMOTEIO, "destination: no memory for the pages");
	assert_int_equal(f->source.paused, 0);
	assert_int_equal(f->destination.aborted, 1);
}

static void test_vmm_dies(void **state)
{
	struct fixture *f = *state;

	f->source.fail_passes = -EIO;
	run_both(f);
	assert_here(f, -EIO, "has died");
	assert_int_equal(f->source.paused, 0);
	assert_string_equal(f->destination.text, "source: has died");
}

/* The destination says why only a second later: the VM does not wait for it. */
static void test_stream_breaks_in_pause(void **state)
{
	struct fixture *f = *state;

	f->source.break_stream = true;
	run_both(f);
	assert_here(f, -EREMOTEIO, "destination: the stream's connection was closed");
	assert_int_equal(f->source.resumed, 1);
	assert_true(f->source.resumed_ns - f->source.paused_ns < NS_PER_S);
	assert_int_equal(f->destination.aborted, 1);
}

static void test_pause_fails(void **state)
{
	struct fixture *f = *state;

	f->source.fail_pause = -EIO;
	run_both(f);
	assert_here(f, -EIO, "will not stop");
	assert_int_equal(f->source.paused, 1);
	assert_string_equal(f->destination.text, "source: will not stop");
	assert_int_equal(f->destination.aborted, 1);
}

static void test_save_fails(void **state)
{
	struct fixture *f = *state;

	f->source.fail_save = -EIO;
	run_both(f);
	assert_here(f, -EIO, "will not be saved");
	assert_string_equal(f->destination.text, "source: will not be saved");
	assert_int_equal(f->destination.aborted, 1);
}

static void test_stuck(void **state)
{
	struct fixture *f = *state;

	f->source.fail_save = -EIO;
	f->source.fail_resume = -ENOENT;
	run_both(f);
	assert_int_equal(f->source.error, -EIO);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_STUCK);
	assert_string_equal(f->source.text,
			    "will not be saved; then the VM could not be resumed here: will not go on");
}

static void test_digests_differ(void **state)
{
	struct fixture *f = *state;

	f->options.verify = true;
	f->destination.tamper = true;
	run_both(f);
	assert_here(f, -EILSEQ, "differs");
	assert_true(f->source.result.verified);
	assert_false(f->source.result.identical);
	assert_int_equal(f->source.resumed, 1);
	assert_int_equal(f->destination.aborted, 1);
}

static void test_cancelled(void **state)
{
	struct fixture *f = *state;

	f->source.cancel_in_save = true;
	run_both(f);
	assert_here(f, -ECANCELED, "cancelled");
	assert_int_equal(f->source.resumed, 1);
	assert_int_equal(f->destination.aborted, 1);
}

static void test_destination_cancelled(void **state)
{
	struct fixture *f = *state;

	start_destination(f);
	migr_destination_cancel(f->d);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -ECANCELED);
	assert_int_equal(f->destination.aborted, 0);
}

/* After COMMIT: an error as the answer. */
static void test_committed_and_failed(void **state)
{
	struct fixture *f = *state;

	f->destination.fail_resume = -EIO;
	run_both(f);
	assert_int_equal(f->source.error, -EREMOTEIO);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_UNKNOWN);
	assert_int_equal(f->source.paused, 1);
	assert_int_equal(f->source.resumed, 0);
	assert_non_null(strstr(f->source.text, "COMMIT was sent and not confirmed"));
	assert_non_null(strstr(f->source.text, "will not run"));
	assert_int_equal(f->destination.result.outcome, MIGR_OUTCOME_STUCK);
	assert_int_equal(f->destination.aborted, 0);
}

/* After COMMIT: no answer. */
static void test_committed_and_silent(void **state)
{
	struct fixture *f = *state;

	f->destination.hang_in_resume = true;
	run_both(f);
	assert_int_equal(f->source.error, -ETIMEDOUT);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_UNKNOWN);
	assert_int_equal(f->source.resumed, 0);
	assert_non_null(strstr(f->source.text, "stays paused here"));
	assert_int_equal(f->destination.result.outcome, MIGR_OUTCOME_MOVED);
}

/* A peer that sends some bytes to whoever connects, then hangs up or waits. */
struct rogue {
	int listener;
	const void *bytes;
	size_t length;
	bool hang_up;
};

static void *run_rogue(void *arg)
{
	struct rogue *r = arg;
	char byte;
	int fd;

	if (socket_wait(r->listener, POLLIN, -1, now_ns() + NS_PER_S))
		return NULL;
	fd = accept(r->listener, NULL, NULL);
	if (send(fd, r->bytes, r->length, MSG_NOSIGNAL) == (ssize_t)r->length && !r->hang_up)
		while (recv(fd, &byte, 1, 0) > 0)
			;
	close(fd);
	return NULL;
}

static void rogue_destination(struct fixture *f, const void *bytes, size_t length, bool hang_up)
{
	struct rogue r = { .bytes = bytes, .length = length, .hang_up = hang_up };
	pthread_t thread;

	snprintf(f->address, sizeof(f->address), "unix:/tmp/migr-test-%d.rogue", getpid());
	r.listener = socket_listen(f->address, &(struct error){ "" });
	assert_true(r.listener >= 0);
	assert_int_equal(pthread_create(&thread, NULL, run_rogue, &r), 0);
	run_source(f);
	pthread_join(thread, NULL);
	close(r.listener);
	unlink(f->address + 5);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_HERE);
	assert_int_equal(f->source.paused, 0);
}

static void test_rogue_destinations(void **state)
{
	static const uint8_t huge[] = { 0xff, 0xff, 0xff, 0x7f, '{' };
	static const char http[] = "HTTP/1.0 400 Bad Request\r\n\r\n";
	static const uint8_t early[] = "\x0f\0\0\0{\"type\":\"ready\"}";
	struct fixture *f = *state;

	rogue_destination(f, NULL, 0, false);
	assert_int_equal(f->source.error, -ETIMEDOUT);
	rogue_destination(f, NULL, 0, true);
	assert_int_equal(f->source.error, -ECONNRESET);
	rogue_destination(f, huge, sizeof(huge), false);
	assert_int_equal(f->source.error, -EPROTO);
	rogue_destination(f, http, sizeof(http) - 1, false);
	assert_int_equal(f->source.error, -EPROTO);
	rogue_destination(f, early, sizeof(early) - 1, false);
	assert_int_equal(f->source.error, -EPROTO);
}

static void test_nobody_there(void **state)
{
	struct fixture *f = *state;

	snprintf(f->address, sizeof(f->address), "unix:/tmp/migr-test-%d.none", getpid());
	run_source(f);
	assert_int_equal(f->source.error, -ENOENT);
	snprintf(f->address, sizeof(f->address), "127.0.0.1:1");
	run_source(f);
	assert_int_equal(f->source.error, -ECONNREFUSED);
	assert_non_null(strstr(f->source.text, "127.0.0.1:1"));
	snprintf(f->address, sizeof(f->address), "[::1");
	run_source(f);
	assert_int_equal(f->source.error, -EINVAL);
}

/* Whoever comes with nonsense is sent away, and a source still gets in. */
static void test_rogue_sources(void **state)
{
	struct fixture *f = *state;
	struct error e;
	int a, b;

	start_destination(f);
	a = socket_connect(f->address, -1, 1000, &e);
	assert_int_equal(send(a, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	b = socket_connect(f->address, -1, 1000, &e);
	close(b);
	run_source(f);
	pthread_join(f->thread, NULL);
	close(a);
	assert_moved(f);
}

/* Be a source, up to where the stream is due; the control channel. */
static int ask(struct fixture *f, struct control *c)
{
	json_t *message;

	c->fd = socket_connect(f->address, -1, 1000, c->error);
	assert_int_equal(control_send(c, json_pack("{s:s, s:i, s:i}", "type", "hello", "version",
						   CONTROL_VERSION, "wire_version", 1)), 0);
	assert_int_equal(control_expect(c, "hello", 1000, &message), 0);
	json_decref(message);
	assert_int_equal(control_send(c, json_pack("{s:s, s:s, s:i, s:[{s:i, s:s, s:i}]}", "type",
						   "request", "vm", "test", "page_size", FAKE_PAGE,
						   "regions", "id", 5, "name", "memory", "length",
						   LENGTH)), 0);
	assert_int_equal(control_expect(c, "ready", 1000, &message), 0);
	json_decref(message);
	return c->fd;
}

/* Nor does a stream get in without the token. */
static void test_wrong_token(void **state)
{
	struct fixture *f = *state;
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 1000, .peer = "destination", .error = &e,
	};
	json_t *message;
	int control;

	start_destination(f);
	control = ask(f, &c);
	c.fd = socket_connect(f->address, -1, 1000, &e);
	assert_int_equal(control_send(&c, json_pack("{s:s, s:s}", "type", "stream", "token",
						    "00000000000000000000000000000000")), 0);
	assert_int_equal(control_expect(&c, "go", 1000, &message), -EREMOTEIO);
	assert_non_null(strstr(e.text, "busy"));
	close(c.fd);
	close(control);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -ETIMEDOUT);
	assert_int_equal(f->destination.aborted, 1);
}

/* Nor do those who connect and say nothing keep the destination waiting. */
static void test_silent_strays(void **state)
{
	struct fixture *f = *state;
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 1000, .peer = "destination", .error = &e,
	};
	int control, strays[8];

	start_destination(f);
	control = ask(f, &c);
	for (int i = 0; i < 8; i++)
		strays[i] = socket_connect(f->address, -1, 1000, &e);
	close(control);
	pthread_join(f->thread, NULL);
	for (int i = 0; i < 8; i++)
		close(strays[i]);
	assert_int_equal(f->destination.error, -ETIMEDOUT);
	/* Each would cost a second. */
	assert_true(f->destination.result.total_ns < 5 * NS_PER_S);
	assert_int_equal(f->destination.aborted, 1);
}

/* A connection that finds no room waits, and the destination does not spin. */
static void test_accept_fails(void **state)
{
	struct fixture *f = *state;
	struct error e;
	uint64_t begun = now_ns();
	int stray;

	fake_accept_error = EMFILE;
	fake_accepts = 0;
	start_destination(f);
	stray = socket_connect(f->address, -1, 1000, &e);
	assert_true(stray >= 0);
	while (fake_accepts < 3 && now_ns() - begun < 10 * NS_PER_S)
		usleep(1000);
	assert_int_equal(fake_accepts, 3);
	assert_true(now_ns() - begun > 900 * NS_PER_MS);
	close(stray);
	fake_accept_error = 0;
	run_source(f);
	pthread_join(f->thread, NULL);
	assert_moved(f);

	/* Of what does not pass the caller hears. */
	fake_accept_error = EINVAL;
	start_destination(f);
	stray = socket_connect(f->address, -1, 1000, &e);
	pthread_join(f->thread, NULL);
	close(stray);
	fake_accept_error = 0;
	assert_int_equal(f->destination.error, -EINVAL);
	assert_int_equal(f->destination.result.total_ns, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_moves), TEST(test_late_hello), TEST(test_copies),
		TEST(test_compresses),
		TEST(test_state_overtakes_passes), TEST(test_again_after_failure),
		TEST(test_restless), TEST(test_reports), TEST(test_forgets_to_report),
		TEST(test_reports_late), TEST(test_collect_fails), TEST(test_nobody_reports),
		TEST(test_too_small), TEST(test_prepare_fails), TEST(test_kernel_refuses),
		TEST(test_vmm_dies), TEST(test_pause_fails),
		TEST(test_stream_breaks_in_pause), TEST(test_save_fails), TEST(test_stuck),
		TEST(test_digests_differ), TEST(test_cancelled),
		TEST(test_destination_cancelled), TEST(test_committed_and_failed),
		TEST(test_committed_and_silent), TEST(test_rogue_destinations),
		TEST(test_nobody_there), TEST(test_rogue_sources), TEST(test_wrong_token),
		TEST(test_silent_strays), TEST(test_accept_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
