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
#include <dlfcn.h>
#include <poll.h>
#include <sched.h>
#include <time.h>

#include <cmocka.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "internal.h"
#include "fake_device.h"

#define LENGTH		(4u << 20)
#define STATE_BYTES	(3u << 20)	/* more than one message */
#define LATE_US		1000000ull
#define TIMEOUT_MS	20000
/* Where somebody is silent on purpose. */
#define SILENCE_MS	2000

/* A VM of the test, on either side, and what shall fail. */
struct side {
	int region;
	uint8_t *memory;
	uint32_t length;
	int fail_passes, fail_pause, fail_save, fail_resume, fail_prepare, fail_load;
	unsigned int paused, resumed, aborted;
	bool tamper;			/* destination: change memory before its digest */
	bool cancel_in_save, cancel_in_verify, break_stream;
	struct migr *m;
	uint64_t log[LENGTH / FAKE_PAGE / 64];	/* pages written, not yet reported */
	unsigned int collected;
	int fail_collect;		/* at that call */
	bool forget, write_in_save;
	uint64_t paused_ns, resumed_ns;
	atomic_bool over;		/* source: it has ended */
	const atomic_bool *hangs_in_resume;	/* destination: until then */
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
	struct tls *tls;		/* of a source that the test plays itself */
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
	if (side->cancel_in_verify && p->phase == MIGR_PHASE_VERIFY)
		migr_source_cancel(s);
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
	while (side->hangs_in_resume && !*side->hangs_in_resume)
		usleep(1000);
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
		.options = {
			.vm_name = "test", .timeout_ms = TIMEOUT_MS, .tls.insecure = true,
		},
		.destination_options = { .timeout_ms = TIMEOUT_MS, .tls.insecure = true },
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

	tls_close(f->tls);
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
	side->over = true;
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

/* A path that the destination has by another name. */
static void test_relative_path(void **state)
{
	struct fixture *f = *state;
	char *here = getcwd(NULL, 0);

	migr_destination_free(f->d);
	assert_int_equal(migr_destination_new(f->m, &f->d), 0);
	assert_int_equal(chdir("/tmp"), 0);
	snprintf(f->address, sizeof(f->address), "unix:%s", strrchr(f->path, '/') + 1);
	assert_int_equal(migr_destination_listen(f->d, f->address), 0);
	assert_int_equal(chdir("/"), 0);
	snprintf(f->address, sizeof(f->address), "unix:%s", f->path);
	run_both(f);
	/* Where the destination finds it again. */
	assert_int_equal(chdir("/tmp"), 0);
	migr_destination_free(f->d);
	f->d = NULL;
	assert_int_equal(chdir(here), 0);
	free(here);
	assert_moved(f);
}

/* What is found wrong before anything is connected; each says what it is. */
static void test_wrong_options(void **state)
{
	static const struct {
		struct migr_source_options options;
		int error;
		const char *words;
	} some[] = {
		{ { .max_bandwidth = 12499 }, -EINVAL, "12499 bytes a second are too few" },
		{ { .streams = MIGR_STREAMS_MAX + 1 }, -EINVAL, "65 streams are too many" },
		{ { .links = "lo,nowhere0" }, -ENODEV, "no network interface 'nowhere0'" },
		{ { .networks = "192.0.2.0/33" }, -EINVAL, "not a network" },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(some) / sizeof(*some); i++) {
		f->options = some[i].options;
		run_source(f);
		assert_int_equal(f->source.error, some[i].error);
		assert_non_null(strstr(f->source.text, some[i].words));
		assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_HERE);
	}
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

/* Before it has computed what nobody needs any more. */
static void test_cancelled_in_verify(void **state)
{
	static const struct migr_digest none;
	struct fixture *f = *state;

	f->options.verify = true;
	f->source.cancel_in_verify = true;
	run_both(f);
	assert_here(f, -ECANCELED, "cancelled");
	assert_memory_equal(&f->source.result.source_digest, &none, sizeof(none));
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

	f->options.timeout_ms = SILENCE_MS;
	f->destination.hangs_in_resume = &f->source.over;
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

	if (socket_wait(r->listener, POLLIN, -1, now_ns() + TIMEOUT_MS * NS_PER_MS))
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

	f->options.timeout_ms = SILENCE_MS;
	rogue_destination(f, NULL, 0, false);
	assert_int_equal(f->source.error, -ETIMEDOUT);
	f->options.timeout_ms = TIMEOUT_MS;
	rogue_destination(f, NULL, 0, true);
	assert_int_equal(f->source.error, -ECONNRESET);
	rogue_destination(f, huge, sizeof(huge), false);
	assert_int_equal(f->source.error, -EPROTO);
	rogue_destination(f, http, sizeof(http) - 1, false);
	assert_int_equal(f->source.error, -EPROTO);
	rogue_destination(f, early, sizeof(early) - 1, false);
	assert_int_equal(f->source.error, -EPROTO);
}

/* One that takes any source, and so has to be told by what it says of itself. */
static void test_older_destination(void **state)
{
	static const char hello[] =
		"\x2d\0\0\0{\"type\":\"hello\",\"version\":1,\"wire_version\":0}";
	struct fixture *f = *state;

	rogue_destination(f, hello, sizeof(hello) - 1, false);
	assert_int_equal(f->source.error, -EPROTONOSUPPORT);
	assert_non_null(strstr(f->source.text,
			       "the destination is too old: it speaks control version"));
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
	a = socket_connect(f->address, -1, TIMEOUT_MS, &e);
	assert_int_equal(send(a, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	b = socket_connect(f->address, -1, TIMEOUT_MS, &e);
	close(b);
	run_source(f);
	pthread_join(f->thread, NULL);
	close(a);
	assert_moved(f);
}

/* A UNIX socket does not wait for room in the queue of those who come. */
static int reach(struct fixture *f)
{
	uint64_t end = now_ns() + 5 * NS_PER_S;
	struct error e;
	int fd;

	do {
		fd = socket_connect(f->address, -1, 5000, &e);
	} while (fd == -EAGAIN && now_ns() < end);
	assert_true(fd >= 0);
	return fd;
}

/* A connection to the destination, with the certificate of tls, if that is any. */
static void join(struct fixture *f, struct control *c, struct tls *tls)
{
	struct tls_identity identity;

	c->fd = reach(f);
	if (tls)
		assert_int_equal(tls_connect(tls, c, "127.0.0.1", &identity), 0);
}

/* Be a source, up to where the streams are due; the control channel. Takes "ready". */
static int ask(struct fixture *f, struct control *c, json_t **ready)
{
	json_t *message;

	join(f, c, f->tls);
	assert_int_equal(control_send(c, json_pack("{s:s, s:i, s:i}", "type", "hello", "version",
						   CONTROL_VERSION, "wire_version", 1)), 0);
	assert_int_equal(control_expect(c, "hello", TIMEOUT_MS, &message), 0);
	json_decref(message);
	assert_int_equal(control_send(c, json_pack("{s:s, s:s, s:i, s:i, s:[{s:i, s:s, s:i}]}",
						   "type", "request", "vm", "test", "page_size",
						   FAKE_PAGE, "streams", 2, "regions", "id", 5,
						   "name", "memory", "length", LENGTH)), 0);
	assert_int_equal(control_expect(c, "ready", TIMEOUT_MS, ready), 0);
	return c->fd;
}

static const char *token_of(const json_t *message, int n)
{
	return json_string_value(json_array_get(json_object_get(message, "tokens"), n));
}

/* What a stream that comes with a token is told: 0, or that it is refused; its socket. */
static int present(struct fixture *f, struct tls *tls, const char *token, int *fd)
{
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	json_t *message;
	int error;

	join(f, &c, tls);
	assert_int_equal(control_send(&c, json_pack("{s:s, s:s}", "type", "stream", "token",
						    token)), 0);
	error = control_expect(&c, "go", 5000, &message);
	json_decref(message);
	if (error)
		assert_non_null(strstr(e.text, "busy"));
	*fd = c.fd;
	return error;
}

/* A destination of which the kernel speaks that much more than the source's. */
static void move_between(struct fixture *f, int newer)
{
	struct migr *m;

	assert_int_equal(migr_open(&m), 0);
	m->info.wire_version += newer;
	migr_destination_free(f->d);
	assert_int_equal(migr_destination_new(m, &f->d), 0);
	assert_int_equal(migr_destination_listen(f->d, f->address), 0);
	run_both(f);
	migr_destination_free(f->d);
	f->d = NULL;
	migr_close(m);
}

static void test_older_source(void **state)
{
	move_between(*state, 1);
	assert_moved(*state);
}

static void test_newer_source(void **state)
{
	struct fixture *f = *state;

	f->m->info.wire_version++;
	move_between(f, 0);
	assert_here(f, -EREMOTEIO, "destination: the source is newer: it speaks control version");
	assert_int_equal(f->source.paused, 0);
	assert_int_equal(f->destination.aborted, 0);
}

/* One that has never heard of several streams, of links or of compression. */
static void test_oldest_request(void **state)
{
	struct fixture *f = *state;
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	json_t *message;
	int fd;

	start_destination(f);
	join(f, &c, NULL);
	assert_int_equal(control_send(&c, json_pack("{s:s, s:i, s:i}", "type", "hello", "version",
						    1, "wire_version", 1)), 0);
	assert_int_equal(control_expect(&c, "hello", 5000, &message), 0);
	json_decref(message);
	assert_int_equal(control_send(&c, json_pack("{s:s, s:s, s:i, s:[{s:i, s:s, s:i}]}", "type",
						    "request", "vm", "test", "page_size",
						    FAKE_PAGE, "regions", "id", 5, "name",
						    "memory", "length", LENGTH)), 0);
	assert_int_equal(control_expect(&c, "ready", 5000, &message), 0);
	assert_null(json_object_get(message, "compression"));
	assert_int_equal(present(f, NULL, json_string_value(json_object_get(message, "token")),
				 &fd), 0);
	json_decref(message);
	migr_destination_cancel(f->d);
	close(fd);
	close(c.fd);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -ECANCELED);
}

static void leave(const int *fds, int nr)
{
	for (int i = 0; i < nr; i++)
		close(fds[i]);
}

/* Nor does a stream get in without the token, or with one that was used. */
static void present_tokens(struct fixture *f, struct tls *thief)
{
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	const char *first, *second;
	json_t *ready;
	int fds[7];

	start_destination(f);
	ask(f, &c, &ready);
	first = token_of(ready, 0);
	second = token_of(ready, 1);
	assert_int_equal(present(f, f->tls, "00000000000000000000000000000000", &fds[0]),
			 -EREMOTEIO);
	assert_int_equal(present(f, f->tls, "", &fds[1]), -EREMOTEIO);
	assert_int_equal(present(f, thief ? thief : f->tls, thief ? first : "", &fds[2]),
			 -EREMOTEIO);
	assert_int_equal(present(f, f->tls, first, &fds[3]), 0);
	/* From here on during the passes. */
	assert_int_equal(present(f, f->tls, first, &fds[4]), -EREMOTEIO);
	assert_int_equal(present(f, thief ? thief : f->tls, thief ? second : "", &fds[5]),
			 -EREMOTEIO);
	assert_int_equal(present(f, f->tls, second, &fds[6]), 0);
	migr_destination_cancel(f->d);
	/* The device has one stream: of the first only we can tell that it is over. */
	leave(fds, 7);
	close(c.fd);
	pthread_join(f->thread, NULL);
	json_decref(ready);
	assert_int_equal(f->destination.error, -ECANCELED);
	assert_int_equal(f->destination.aborted, 1);
}

static void test_tokens(void **state)
{
	present_tokens(*state, NULL);
}

/* Nor with one of the migration before. */
static void test_tokens_of_another(void **state)
{
	struct fixture *f = *state;
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	json_t *before, *ready;
	int fds[2];

	start_destination(f);
	ask(f, &c, &before);
	close(c.fd);
	pthread_join(f->thread, NULL);
	start_destination(f);
	ask(f, &c, &ready);
	assert_int_equal(present(f, NULL, token_of(before, 0), &fds[0]), -EREMOTEIO);
	assert_int_equal(present(f, NULL, token_of(ready, 0), &fds[1]), 0);
	migr_destination_cancel(f->d);
	leave(fds, 2);
	close(c.fd);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -ECANCELED);
	json_decref(before);
	json_decref(ready);
}

static json_t *more(struct control *c, int streams)
{
	json_t *message;

	assert_int_equal(control_send(c, json_pack("{s:s, s:i}", "type", "more", "streams",
						   streams)), 0);
	assert_int_equal(control_expect(c, "tokens", TIMEOUT_MS, &message), 0);
	return message;
}

/* A token is good once, and until there are others; there are as many as numbers. */
static void test_more_tokens(void **state)
{
	struct fixture *f = *state;
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = TIMEOUT_MS, .peer = "destination", .error = &e,
	};
	json_t *ready, *tokens, *rest;
	int fds[4];

	start_destination(f);
	ask(f, &c, &ready);
	assert_true(json_is_array(json_object_get(ready, "links")));
	assert_null(json_object_get(ready, "port"));
	assert_int_equal(present(f, NULL, token_of(ready, 0), &fds[0]), 0);
	assert_int_equal(present(f, NULL, token_of(ready, 0), &fds[1]), -EREMOTEIO);
	tokens = more(&c, 2);
	assert_int_equal(json_array_size(json_object_get(tokens, "tokens")), 2);
	assert_int_equal(present(f, NULL, token_of(tokens, 1), &fds[2]), 0);
	for (int n = 4; n < MIGR_STREAM_IDS - MIGR_STREAMS_MAX; n += MIGR_STREAMS_MAX)
		json_decref(more(&c, MIGR_STREAMS_MAX));
	assert_int_equal(present(f, NULL, token_of(tokens, 0), &fds[3]), -EREMOTEIO);
	rest = more(&c, MIGR_STREAMS_MAX);
	assert_int_equal(json_array_size(json_object_get(rest, "tokens")),
			 (MIGR_STREAM_IDS - 4) % MIGR_STREAMS_MAX);
	json_decref(rest);
	rest = more(&c, 1);
	assert_int_equal(json_array_size(json_object_get(rest, "tokens")), 0);
	assert_int_equal(control_send(&c, json_pack("{s:s, s:i}", "type", "more", "streams",
						    MIGR_STREAMS_MAX + 1)), 0);
	json_decref(rest);
	assert_int_equal(control_receive(&c, TIMEOUT_MS, &rest), -EREMOTEIO);
	/* The device has one stream: of the first only we can tell that it is over. */
	leave(fds, 4);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -EPROTO);
	assert_int_equal(f->destination.aborted, 1);
	close(c.fd);
	json_decref(tokens);
	json_decref(ready);
}

/* Connections that say nothing more than bytes. */
static void stray(struct fixture *f, int *fds, int nr, const char *bytes)
{
	for (int i = 0; i < nr; i++) {
		fds[i] = reach(f);
		assert_int_equal(send(fds[i], bytes, strlen(bytes), MSG_NOSIGNAL), strlen(bytes));
	}
}

/*
 * Those who connect and say nothing keep nobody waiting, be they more than are waited
 * for; with the beginning of a handshake, or of a message.
 */
static void strays_hold_nobody(struct fixture *f, const char *bytes)
{
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	int strays[3][NEWCOMERS_MAX + 4], streams[2];
	uint64_t begun = now_ns();
	json_t *ready;

	start_destination(f);
	stray(f, strays[0], NEWCOMERS_MAX + 4, bytes);
	ask(f, &c, &ready);
	stray(f, strays[1], NEWCOMERS_MAX + 4, bytes);
	assert_int_equal(present(f, f->tls, token_of(ready, 0), &streams[0]), 0);
	stray(f, strays[2], NEWCOMERS_MAX + 4, bytes);
	assert_int_equal(present(f, f->tls, token_of(ready, 1), &streams[1]), 0);
	/* They still wait for an answer. */
	assert_int_equal(recv(strays[2][NEWCOMERS_MAX + 3], &e, 1, MSG_DONTWAIT), -1);
	close(c.fd);
	leave(streams, 2);
	pthread_join(f->thread, NULL);
	for (int i = 0; i < 3; i++)
		leave(strays[i], NEWCOMERS_MAX + 4);
	json_decref(ready);
	assert_int_equal(f->destination.error, -ECONNRESET);
	assert_int_equal(f->destination.aborted, 1);
	assert_true(now_ns() - begun < (f->tls ? 20 : 5) * NS_PER_S);
}

static void test_silent_strays(void **state)
{
	strays_hold_nobody(*state, "");
}

static void test_halting_strays(void **state)
{
	strays_hold_nobody(*state, "\x16");
}

/* Who begins with anything but a hello ends nothing. */
static void test_rude_strays(void **state)
{
	struct fixture *f = *state;
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = TIMEOUT_MS, .peer = "destination", .error = &e,
	};
	json_t *message;
	int fds[2];

	start_destination(f);
	join(f, &c, NULL);
	assert_int_equal(control_send(&c, json_pack("{s:s, s:s}", "type", "stream", "token", "")),
			 0);
	assert_int_equal(control_receive(&c, TIMEOUT_MS, &message), -EREMOTEIO);
	assert_non_null(strstr(e.text, "no migration is arriving here"));
	close(c.fd);
	stray(f, &fds[0], 1, "GET / HTTP/1.0\r\n\r\n");
	/* The source gives up before it has a stream: that is noticed at once. */
	close(ask(f, &c, &message));
	json_decref(message);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -ECONNRESET);
	close(fds[0]);
	/* The first of them, if not what it said, is told of. */
	assert_non_null(strstr(f->destination.text, "closed"));
}

/* A connection that finds no room waits, and the destination does not spin. */
static void test_accept_fails(void **state)
{
	struct fixture *f = *state;
	struct error e;
	uint64_t begun = now_ns();
	int stray, accepts;

	fake_accept_error = EMFILE;
	fake_accepts = 0;
	start_destination(f);
	stray = socket_connect(f->address, -1, TIMEOUT_MS, &e);
	assert_true(stray >= 0);
	do {
		usleep(1000);
		accepts = fake_accepts;
	} while (accepts < 3 && now_ns() - begun < TIMEOUT_MS * NS_PER_MS);
	/* Twice a second. */
	assert_in_range(accepts, 3, 1 + (now_ns() - begun) / (450 * NS_PER_MS));
	close(stray);
	fake_accept_error = 0;
	run_source(f);
	pthread_join(f->thread, NULL);
	assert_moved(f);

	/* Of what does not pass the caller hears. */
	fake_accept_error = EINVAL;
	start_destination(f);
	stray = socket_connect(f->address, -1, TIMEOUT_MS, &e);
	pthread_join(f->thread, NULL);
	close(stray);
	fake_accept_error = 0;
	assert_int_equal(f->destination.error, -EINVAL);
	assert_int_equal(f->destination.result.total_ns, 0);
}

/* ---- networks --------------------------------------------------------- */

static int home;		/* the namespace that all else is in; -1: we are there */
static bool no_network;

static bool await_carrier(void)
{
	uint64_t end = now_ns() + 5 * NS_PER_S;

	while (!links_is_running("v0") && now_ns() < end)
		usleep(1000);
	return links_is_running("v0");
}

/* A namespace of its own, with an interface; gone with what was in it. */
static int enter_network(void **state)
{
	int error = set_up(state);

	home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (unshare(CLONE_NEWNET)) {
		close(home);
		home = -1;
	}
	no_network = home < 0 || system("ip link set lo up") ||
		     system("ip link add v0 type veth peer name v1") ||
		     system("ip link set v0 up && ip link set v1 up") || !await_carrier();
	return error;
}

static int leave_network(void **state)
{
	if (home >= 0) {
		assert_int_equal(setns(home, CLONE_NEWNET), 0);
		close(home);
	}
	return tear_down(state);
}

static void listen_at(struct fixture *f, const char *address)
{
	migr_destination_free(f->d);
	assert_int_equal(migr_destination_new(f->m, &f->d), 0);
	assert_int_equal(migr_destination_listen(f->d, address), 0);
}

/* What the destination says of where it can be reached. */
static json_t *hear_ready(struct fixture *f)
{
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	json_t *ready;

	start_destination(f);
	close(ask(f, &c, &ready));
	pthread_join(f->thread, NULL);
	return ready;
}

static void assert_offers(struct fixture *f, const char *address)
{
	json_auto_t *ready = hear_ready(f);
	json_t *links = json_object_get(ready, "links");
	json_t *link = json_array_get(links, 0);

	assert_int_equal(json_array_size(links), 1);
	assert_string_equal(json_string_value(json_object_get(link, "address")), address);
	assert_int_equal(json_integer_value(json_object_get(ready, "port")), 4300);
}

/* A network that is meant for it is found, however many others come before. */
static void test_many_addresses(void **state)
{
	struct fixture *f = *state;

	if (no_network ||
	    system("for i in $(seq 70); do ip address add 10.0.$i.1/24 dev v0; done") ||
	    system("ip address add 192.0.2.1/24 dev v0"))
		skip();
	strcpy(f->address, "192.0.2.1:4300");
	f->destination_options.networks = "192.0.2.0/24";
	listen_at(f, ":4300");
	assert_offers(f, "192.0.2.1");
	f->destination_options.networks = NULL;
	listen_at(f, f->address);
	assert_offers(f, "192.0.2.1");
}

/* A destination that offers 192.0.2.2, and sees where the first stream comes. */
struct far_host {
	int control, streams;		/* listeners */
	json_t *port;			/* that it tells; NULL: none */
	bool came;
};

static void *run_far_host(void *arg)
{
	struct far_host *h = arg;
	struct error e;
	struct control c = {
		.fd = accept(h->control, NULL, NULL), .cancel_fd = -1, .timeout_ms = 5000,
		.peer = "source", .error = &e,
	};
	json_auto_t *hello = NULL, *request = NULL;

	if (!control_expect(&c, "hello", 5000, &hello) && !control_send(&c, json_incref(hello)) &&
	    !control_expect(&c, "request", 5000, &request) &&
	    !control_send(&c, json_pack("{s:s, s:[s], s:[{s:s, s:s, s:i}], s:O*}", "type", "ready",
					"tokens", "token", "links", "name", "x", "address",
					"192.0.2.2", "prefix", 24, "port", h->port)))
		h->came = !socket_wait(h->streams, POLLIN, c.fd, now_ns() + 5 * NS_PER_S);
	if (h->came)
		close(accept(h->streams, NULL, NULL));
	close(c.fd);
	return NULL;
}

/* Whether a stream comes to where it is due. */
static bool stream_comes(struct fixture *f, int control, int streams, json_t *port)
{
	struct far_host h = { .control = control, .streams = streams, .port = port };
	pthread_t thread;

	f->options.networks = "192.0.2.0/24";
	assert_int_equal(pthread_create(&thread, NULL, run_far_host, &h), 0);
	run_source(f);
	pthread_join(thread, NULL);
	json_decref(port);
	return h.came;
}

static int listen_there(const char *address)
{
	struct error e;
	int fd = socket_listen(address, &e);

	if (fd < 0)
		fail_msg("it said: %s", e.text);
	/* Somebody is to be waited for. */
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	return fd;
}

/*
 * The other end of the interface goes to a namespace of its own, which we are in then.
 * Ours has more addresses before than can be told of.
 */
static bool enter_far_network(void)
{
	int near = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), far, error;
	char command[256];

	assert_int_equal(unshare(CLONE_NEWNET), 0);
	far = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	snprintf(command, sizeof(command),
		 "for i in $(seq 70); do ip address add 10.0.$i.1/24 dev v0; done; "
		 "ip link set v1 netns /proc/%d/fd/%d && ip address add 192.0.2.1/24 dev v0",
		 getpid(), far);
	assert_int_equal(setns(near, CLONE_NEWNET), 0);
	error = system(command);
	assert_int_equal(setns(far, CLONE_NEWNET), 0);
	close(near);
	close(far);
	return !error && !system("ip address add 192.0.2.2/24 dev v1 && ip link set v1 up");
}

/* Another port than the one that is listened on leads there by the one address alone. */
static void test_forwarded_port(void **state)
{
	static const struct {
		json_int_t port;
		const char *words;
	} wrong[] = { { 0, "port 0," }, { -1, "port -1," }, { 65536, "port 65536," } };
	struct fixture *f = *state;
	int near = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	int there, listens, forwarded;

	if (no_network || !enter_far_network())
		skip();
	there = listen_there("192.0.2.2:4300");
	listens = listen_there("192.0.2.2:4301");
	assert_int_equal(setns(near, CLONE_NEWNET), 0);
	assert_true(await_carrier());
	forwarded = listen_there("127.0.0.1:4300");
	strcpy(f->address, "127.0.0.1:4300");
	assert_true(stream_comes(f, forwarded, listens, json_integer(4301)));
	/* One that tells none is older: it has to be the same. */
	assert_true(stream_comes(f, forwarded, there, NULL));
	/* That address itself is forwarded. */
	strcpy(f->address, "192.0.2.2:4300");
	assert_true(stream_comes(f, there, there, json_integer(4301)));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		assert_false(stream_comes(f, there, there, json_integer(wrong[i].port)));
		assert_int_equal(f->source.error, -EPROTO);
		assert_non_null(strstr(f->source.text, wrong[i].words));
	}
	assert_false(stream_comes(f, there, there, json_string("4301")));
	assert_int_equal(f->source.error, -EPROTO);
	close(forwarded);
	close(listens);
	close(there);
	close(near);
}

/* ---- encryption ------------------------------------------------------- */

#define TLS_TIMEOUT_MS	20000

static char pki_folder[64], key_log[80];

/* Certificates of two authorities, made once by the command that makes them. */
static const char *pki(void)
{
	static const char *const commands[] = {
		"%s/build/bin/migr pki --dir %s 127.0.0.1,destination source,spare thief > /dev/null",
		"%s/build/bin/migr pki --dir %s --days 0 expired,127.0.0.1 > /dev/null",
		"%s/build/bin/migr pki --dir %s/other 127.0.0.1 source > /dev/null",
	};
	char command[512];

	if (pki_folder[0])
		return pki_folder;
	strcpy(pki_folder, "/tmp/migr-test-pki.XXXXXX");
	assert_non_null(mkdtemp(pki_folder));
	snprintf(key_log, sizeof(key_log), "%s/keys", pki_folder);
	assert_int_equal(setenv("SSLKEYLOGFILE", key_log, true), 0);
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		snprintf(command, sizeof(command), commands[i], getenv("MIGR_TOP") ?: ".",
			 pki_folder);
		assert_int_equal(system(command), 0);
	}
	return pki_folder;
}

static int remove_pki(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", pki_folder);
	return pki_folder[0] ? system(command) : 0;
}

/* What is in the folder of a host, made if it is asked for the first time. */
static struct migr_tls host(const char *name)
{
	static struct {
		char name[32], ca[128], certificate[128], key[128];
	} hosts[8];
	unsigned int i;

	for (i = 0; hosts[i].name[0] && strcmp(hosts[i].name, name); i++)
		assert_true(i < 7);
	strcpy(hosts[i].name, name);
	snprintf(hosts[i].ca, sizeof(hosts[i].ca), "%s/%s/ca.pem", pki(), name);
	snprintf(hosts[i].certificate, sizeof(hosts[i].certificate), "%s/%s/cert.pem", pki(), name);
	snprintf(hosts[i].key, sizeof(hosts[i].key), "%s/%s/key.pem", pki(), name);
	return (struct migr_tls){
		.ca = hosts[i].ca, .certificate = hosts[i].certificate, .key = hosts[i].key,
	};
}

static gnutls_datum_t load(const char *folder, const char *name)
{
	gnutls_datum_t text;
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_int_equal(gnutls_load_file(path, &text), 0);
	return text;
}

static void store(const char *path, gnutls_datum_t text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(text.data, 1, text.size, file), text.size);
	assert_int_equal(fclose(file), 0);
	gnutls_free(text.data);
}

/* What 'migr pki' does not make: for 127.0.0.1, with such a key and for one purpose. */
static struct migr_tls sign(const char *name, gnutls_pk_algorithm_t algorithm,
			    unsigned int bits, const char *purpose)
{
	struct migr_tls tls = host("thief");
	static char crt_path[128], key_path[128];
	gnutls_x509_privkey_t ca_key, key;
	gnutls_x509_crt_t ca, crt;
	gnutls_datum_t ca_text = load(pki(), "ca.pem"), key_text = load(pki(), "ca-key.pem");

	gnutls_x509_crt_init(&ca);
	gnutls_x509_crt_init(&crt);
	gnutls_x509_privkey_init(&ca_key);
	gnutls_x509_privkey_init(&key);
	assert_int_equal(gnutls_x509_crt_import(ca, &ca_text, GNUTLS_X509_FMT_PEM), 0);
	assert_int_equal(gnutls_x509_privkey_import(ca_key, &key_text, GNUTLS_X509_FMT_PEM), 0);
	assert_int_equal(gnutls_x509_privkey_generate(key, algorithm, bits, 0), 0);
	assert_int_equal(gnutls_x509_crt_set_version(crt, 3), 0);
	assert_int_equal(gnutls_x509_crt_set_serial(crt, "1", 1), 0);
	gnutls_x509_crt_set_activation_time(crt, time(NULL) - 1000);
	gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 1000);
	gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, "\x7f\0\0\1", 4, 0);
	gnutls_x509_crt_set_key_purpose_oid(crt, purpose, 0);
	assert_int_equal(gnutls_x509_crt_set_key(crt, key), 0);
	assert_int_equal(gnutls_x509_crt_sign2(crt, ca, ca_key, GNUTLS_DIG_SHA256, 0), 0);
	gnutls_free(ca_text.data);
	gnutls_free(key_text.data);
	assert_int_equal(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &ca_text), 0);
	assert_int_equal(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &key_text), 0);
	snprintf(crt_path, sizeof(crt_path), "%s/%s.pem", pki(), name);
	snprintf(key_path, sizeof(key_path), "%s/%s-key.pem", pki(), name);
	store(crt_path, ca_text);
	store(key_path, key_text);
	gnutls_x509_crt_deinit(ca);
	gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(ca_key);
	gnutls_x509_privkey_deinit(key);
	tls.certificate = crt_path;
	tls.key = key_path;
	return tls;
}

/* Both sides with certificates, on TCP. */
static void encrypt(struct fixture *f)
{
	struct migr_tls tls = host("source");
	struct error e;

	if (tls_open(&tls, &f->tls, &e) == -EPROTONOSUPPORT)
		skip();
	assert_non_null(f->tls);
	f->options.tls = tls;
	f->options.timeout_ms = TLS_TIMEOUT_MS;
	f->destination_options.tls = host("127.0.0.1");
	f->destination_options.timeout_ms = TLS_TIMEOUT_MS;
	snprintf(f->address, sizeof(f->address), "127.0.0.1:%d", 20000 + getpid() % 10000);
	listen_at(f, f->address);
}

static void moves_encrypted(struct fixture *f, const char *cipher)
{
	encrypt(f);
	f->options.verify = true;
	f->options.tls.cipher = cipher;
	run_both(f);
	assert_moved(f);
	assert_true(f->source.result.identical);
}

/* How many records there have been is known of a cipher that has a limit. */
static void counts_records(struct fixture *f, const char *cipher, bool limit)
{
	struct error e;
	struct control c = {
		.cancel_fd = -1, .timeout_ms = 5000, .peer = "destination", .error = &e,
	};
	uint64_t before;

	encrypt(f);
	f->options.tls.cipher = cipher;
	tls_close(f->tls);
	assert_int_equal(tls_open(&f->options.tls, &f->tls, &e), 0);
	start_destination(f);
	join(f, &c, f->tls);
	before = tls_records(c.fd);
	assert_int_equal(send(c.fd, "{}", 2, 0), 2);
	assert_int_equal(send(c.fd, "{}", 2, 0), 2);
	assert_int_equal(tls_records(c.fd), limit ? before + 2 : 0);
	migr_destination_cancel(f->d);
	pthread_join(f->thread, NULL);
	close(c.fd);
}

static void test_tls_records_aes_128(void **state)
{
	counts_records(*state, "AES-128-GCM", true);
}

static void test_tls_records_aes_256(void **state)
{
	counts_records(*state, "AES-256-GCM", true);
}

static void test_tls_records_chacha(void **state)
{
	counts_records(*state, "CHACHA20-POLY1305", false);
}

static void test_tls_any(void **state)
{
	moves_encrypted(*state, NULL);
}

static void test_tls_aes_128(void **state)
{
	moves_encrypted(*state, "AES-128-GCM");
}

static void test_tls_aes_256(void **state)
{
	moves_encrypted(*state, "AES-256-GCM");
}

static void test_tls_chacha(void **state)
{
	moves_encrypted(*state, "CHACHA20-POLY1305");
}

/* The source fails before anything has happened to the VM. */
static void assert_refused(struct fixture *f, int error, const char *words)
{
	run_source(f);
	assert_int_equal(f->source.error, error);
	if (!strstr(f->source.text, words))
		fail_msg("it said: %s", f->source.text);
	assert_int_equal(f->source.result.outcome, MIGR_OUTCOME_HERE);
	assert_int_equal(f->source.paused, 0);
}

/* A destination refuses this source, and takes the next one, that is right. */
static void refuses_source(struct fixture *f, struct migr_tls tls, const char *words)
{
	struct migr_tls right = f->options.tls;

	start_destination(f);
	f->options.tls = tls;
	assert_refused(f, -EREMOTEIO, words);
	f->options.tls = right;
	run_source(f);
	pthread_join(f->thread, NULL);
	assert_moved(f);
}

/* A source refuses this destination. */
static void refuses_destination(struct fixture *f, struct migr_tls tls, int error,
				const char *words)
{
	f->destination_options.tls = tls;
	start_destination(f);
	assert_refused(f, error, words);
	migr_destination_cancel(f->d);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->destination.error, -ECANCELED);
	assert_int_equal(f->destination.aborted, 0);
}

static void test_tls_wrong_authority(void **state)
{
	struct fixture *f = *state;
	struct migr_tls tls;

	encrypt(f);
	refuses_destination(f, host("other/127.0.0.1"), -EKEYREJECTED,
			    "certificate of the destination, which should be '127.0.0.1', is refused: The certificate is NOT trusted. The certificate issuer is unknown.");
	/* It trusts the destination, but not the other way. */
	tls = host("other/source");
	tls.ca = host("source").ca;
	f->destination_options.tls = host("127.0.0.1");
	refuses_source(f, tls, "destination: the certificate of the source is refused: The certificate is NOT trusted. The certificate issuer is unknown.");
}

/* A certificate is good for what it says alone. */
static void test_tls_wrong_purpose(void **state)
{
	struct fixture *f = *state;

	encrypt(f);
	refuses_destination(f, sign("source-only", GNUTLS_PK_ECDSA, 256, GNUTLS_KP_TLS_WWW_CLIENT),
			    -EKEYREJECTED, "does not match the intended purpose");
	f->destination_options.tls = host("127.0.0.1");
	refuses_source(f, sign("destination-only", GNUTLS_PK_ECDSA, 256,
			       GNUTLS_KP_TLS_WWW_SERVER), "does not match the intended purpose");
}

static void test_tls_short_key(void **state)
{
	struct fixture *f = *state;

	encrypt(f);
	refuses_destination(f, sign("short", GNUTLS_PK_RSA, 1024, GNUTLS_KP_TLS_WWW_SERVER),
			    -EKEYREJECTED, "insecure algorithm");
	f->destination_options.tls = host("127.0.0.1");
	refuses_source(f, sign("short", GNUTLS_PK_RSA, 1024, GNUTLS_KP_TLS_WWW_CLIENT),
		       "insecure algorithm");
}

/* A handshake that the other side has finished with all that it had to say. */
static atomic_int goodbyes = -1;

int shutdown(int fd, int how)
{
	int ret = syscall(SYS_shutdown, fd, how);

	if (goodbyes >= 0)
		goodbyes++;
	return ret;
}

int gnutls_handshake(gnutls_session_t session)
{
	int (*handshake)(gnutls_session_t session) = dlsym(RTLD_NEXT, "gnutls_handshake");
	uint64_t deadline = now_ns() + 5 * NS_PER_S;
	int ret = handshake(session);

	/* Of the test's own thread, which is the source. */
	while (!ret && !goodbyes && syscall(SYS_gettid) == getpid() && now_ns() < deadline)
		usleep(1000);
	return ret;
}

static void test_tls_refused_early(void **state)
{
	struct fixture *f = *state;
	struct migr_tls tls = host("other/source");

	encrypt(f);
	tls.ca = host("source").ca;
	goodbyes = 0;
	refuses_source(f, tls, "destination: the certificate of the source is refused");
	assert_true(goodbyes > 0);
	goodbyes = -1;
}

static void test_tls_expired(void **state)
{
	struct fixture *f = *state;

	encrypt(f);
	refuses_destination(f, host("expired"), -EKEYREJECTED, "expired");
	f->destination_options.tls = host("127.0.0.1");
	refuses_source(f, host("expired"), "expired");
}

static void test_tls_wrong_name(void **state)
{
	struct fixture *f = *state;
	struct migr_tls tls;

	encrypt(f);
	refuses_destination(f, host("thief"), -EKEYREJECTED, "'127.0.0.1', is refused");
	/* Names that are asked for instead of the address, or where there is none. */
	f->destination_options.tls = host("127.0.0.1");
	f->destination_options.tls.peer = "spare";
	f->options.tls.peer = "destination";
	tls = host("thief");
	refuses_source(f, tls, "'spare', is refused");
}

static void test_tls_one_insecure(void **state)
{
	const struct migr_tls insecure = { .insecure = true };
	struct fixture *f = *state;

	encrypt(f);
	refuses_destination(f, insecure, -ECONNRESET, "does it say --insecure?");
	f->destination_options.tls = host("127.0.0.1");
	refuses_source(f, insecure, "destination: the source does not encrypt");
}

static void test_tls_no_common_cipher(void **state)
{
	struct migr_tls tls = host("127.0.0.1");
	struct fixture *f = *state;

	encrypt(f);
	f->options.tls.cipher = "AES-256-GCM";
	tls.cipher = "CHACHA20-POLY1305";
	refuses_destination(f, tls, -EPROTO, "is --cipher the same on both sides?");
}

static void test_tls_tokens(void **state)
{
	struct migr_tls tls = host("thief");
	struct fixture *f = *state;
	struct tls *thief;
	struct error e;

	encrypt(f);
	assert_int_equal(tls_open(&tls, &thief, &e), 0);
	present_tokens(f, thief);
	tls_close(thief);
}

/* Nobody can have an older version, which the kernel's part is not made for. */
static void test_tls_old_version(void **state)
{
	struct fixture *f = *state;
	struct migr_tls source = host("source");
	gnutls_certificate_credentials_t credentials;
	gnutls_session_t session;
	int fd, ret;

	encrypt(f);
	start_destination(f);
	fd = reach(f);
	assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
	assert_int_equal(gnutls_certificate_set_x509_key_file(credentials, source.certificate,
							      source.key,
							      GNUTLS_X509_FMT_PEM), 0);
	assert_int_equal(gnutls_init(&session, GNUTLS_CLIENT), 0);
	assert_int_equal(gnutls_priority_set_direct(session, "NORMAL:-VERS-ALL:+VERS-TLS1.2",
						    NULL), 0);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_transport_set_int(session, fd);
	gnutls_handshake_set_timeout(session, TLS_TIMEOUT_MS);
	do {
		ret = gnutls_handshake(session);
	} while (ret < 0 && !gnutls_error_is_fatal(ret));
	assert_int_equal(ret, GNUTLS_E_FATAL_ALERT_RECEIVED);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(credentials);
	close(fd);
	run_source(f);
	pthread_join(f->thread, NULL);
	assert_moved(f);
}

static void test_tls_strays(void **state)
{
	encrypt(*state);
	strays_hold_nobody(*state, "\x16");
}

/* What a destination that waits has to show and to check with is replaced. */
static void test_tls_replaced(void **state)
{
	struct fixture *f = *state;
	const struct migr_tls *used = &f->destination_options.tls;
	char command[512];

	encrypt(f);
	snprintf(command, sizeof(command), "cd %s && cp -r expired replaced", pki());
	assert_int_equal(system(command), 0);
	f->destination_options.tls = host("replaced");
	start_destination(f);
	assert_refused(f, -EKEYREJECTED, "expired");
	snprintf(command, sizeof(command), "cd %s && cp 127.0.0.1/* replaced", pki());
	assert_int_equal(system(command), 0);
	assert_true(used->certificate == host("replaced").certificate);
	run_source(f);
	pthread_join(f->thread, NULL);
	assert_moved(f);
}

/* Encrypted by GnuTLS: what the kernel would not send can be sent then. */
static int join_below(struct fixture *f, const char *name)
{
	gnutls_certificate_credentials_t credentials;
	struct migr_tls tls = host(name);
	gnutls_session_t session;
	struct error e;
	int fd = socket_connect(f->address, -1, TIMEOUT_MS, &e);

	assert_true(fd >= 0);
	assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
	assert_true(gnutls_certificate_set_x509_key_file(credentials, tls.certificate, tls.key,
							 GNUTLS_X509_FMT_PEM) >= 0);
	assert_int_equal(gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL), 0);
	assert_int_equal(gnutls_set_default_priority(session), 0);
	assert_int_equal(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials), 0);
	gnutls_transport_set_int(session, fd);
	gnutls_handshake_set_timeout(session, TLS_TIMEOUT_MS);
	assert_int_equal(gnutls_handshake(session), 0);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(credentials);
	return fd;
}

/* The environment does not have them written where others read them. */
static void test_tls_keys_stay(void **state)
{
	struct fixture *f = *state;

	moves_encrypted(f, NULL);
	assert_int_equal(access(key_log, F_OK), -1);
	/* As those of others are. */
	start_destination(f);
	close(join_below(f, "source"));
	migr_destination_cancel(f->d);
	pthread_join(f->thread, NULL);
	assert_int_equal(unlink(key_log), 0);
}

/* Neither one who is refused nor one who is not holds others up with a part of a record. */
static void test_tls_part_of_record(void **state)
{
	static const char *const names[] = { "other/source", "source" };
	static const uint8_t part[] = { 0x17, 3, 3, 0x40, 0 };
	struct fixture *f = *state;
	int fds[2];

	encrypt(f);
	start_destination(f);
	for (int i = 0; i < 2; i++) {
		fds[i] = join_below(f, names[i]);
		assert_int_equal(send(fds[i], part, sizeof(part), 0), sizeof(part));
	}
	run_source(f);
	for (int i = 0; i < 2; i++)
		close(fds[i]);
	pthread_join(f->thread, NULL);
	assert_moved(f);
}

/* What cannot be used is found before anybody is connected to. */
static void test_tls_not_usable(void **state)
{
	struct fixture *f = *state;

	f->options.tls = host("127.0.0.1");
	f->options.tls.key = "/nowhere/key.pem";
	assert_refused(f, -ENOKEY, "cannot read the key /nowhere/key.pem: No such file");
	f->options.tls.key = host("thief").key;
	assert_refused(f, -ENOKEY, "cannot use the certificate");
	f->options.tls = host("thief");
	f->options.tls.ca = f->options.tls.key;
	assert_refused(f, -ENOKEY, "there is no certificate in");
	f->options.tls = host("thief");
	f->options.tls.cipher = "ROT13";
	assert_refused(f, -EINVAL, "there is no cipher 'ROT13'");
}

/* Nor is what is not TCP taken for what is encrypted. */
static void test_tls_not_tcp(void **state)
{
	struct fixture *f = *state;

	encrypt(f);
	strcpy(f->address, "unix:/tmp/nobody");
	assert_refused(f, -EPROTONOSUPPORT, "a UNIX socket cannot be encrypted");
	strcpy(f->address, "vsock:1:4242");
	assert_refused(f, -EPROTONOSUPPORT, "a vsock socket cannot be encrypted");
}

int main(int argc, char **argv)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
#define NETWORK_TEST(f) cmocka_unit_test_setup_teardown(f, enter_network, leave_network)
	const struct CMUnitTest tests[] = {
		TEST(test_moves), TEST(test_late_hello), TEST(test_copies),
		TEST(test_compresses),
		TEST(test_state_overtakes_passes), TEST(test_again_after_failure),
		TEST(test_restless), TEST(test_reports), TEST(test_forgets_to_report),
		TEST(test_reports_late), TEST(test_collect_fails), TEST(test_nobody_reports),
		TEST(test_relative_path), TEST(test_wrong_options), TEST(test_too_small),
		TEST(test_prepare_fails), TEST(test_kernel_refuses),
		TEST(test_vmm_dies), TEST(test_pause_fails),
		TEST(test_stream_breaks_in_pause), TEST(test_save_fails), TEST(test_stuck),
		TEST(test_digests_differ), TEST(test_cancelled),
		TEST(test_cancelled_in_verify),
		TEST(test_destination_cancelled), TEST(test_committed_and_failed),
		TEST(test_committed_and_silent), TEST(test_rogue_destinations),
		TEST(test_older_destination),
		TEST(test_nobody_there), TEST(test_rogue_sources), TEST(test_tokens),
		TEST(test_tokens_of_another),
		TEST(test_more_tokens), TEST(test_older_source), TEST(test_newer_source),
		TEST(test_oldest_request), TEST(test_silent_strays), TEST(test_halting_strays),
		TEST(test_rude_strays), TEST(test_accept_fails),
		NETWORK_TEST(test_many_addresses), NETWORK_TEST(test_forwarded_port),
		/* Before any that makes keys which may be in there. */
		TEST(test_tls_keys_stay),
		TEST(test_tls_any), TEST(test_tls_aes_128), TEST(test_tls_aes_256),
		TEST(test_tls_chacha), TEST(test_tls_wrong_authority), TEST(test_tls_expired),
		TEST(test_tls_wrong_name), TEST(test_tls_one_insecure), TEST(test_tls_tokens),
		TEST(test_tls_strays), TEST(test_tls_replaced), TEST(test_tls_refused_early),
		TEST(test_tls_old_version),
		TEST(test_tls_no_common_cipher), TEST(test_tls_part_of_record),
		TEST(test_tls_wrong_purpose), TEST(test_tls_short_key),
		TEST(test_tls_not_usable), TEST(test_tls_not_tcp), TEST(test_tls_records_aes_128),
		TEST(test_tls_records_aes_256), TEST(test_tls_records_chacha),
	};

	/* Where the kernel encrypts, some of them are done again. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, remove_pki);
}
