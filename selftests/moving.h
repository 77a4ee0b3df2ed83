/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A region moves through libmigr from this process to another, over the loopback.
 */
#ifndef MIGR_SELFTEST_MOVING_H
#define MIGR_SELFTEST_MOVING_H

#include "migr_test.h"
#include "migr.h"

#define MOVING_ADDRESS	"127.0.0.1:4242"

/* ---------------------------------------------------------- destination */

static inline int dst_prepare(struct migr_destination *d, void *data,
			      const struct migr_request *request)
{
	int region = (int)CALL(region_create(*(int *)data, request->regions[0].length, ""));

	return migr_destination_add_region(d, region, request->regions[0].id);
}

static inline int dst_load(struct migr_destination *d, void *data)
{
	char c;

	(void)data;
	return (int)migr_destination_read_state(d, &c, 1);
}

static inline int dst_resume(struct migr_destination *d, void *data)
{
	(void)d;
	(void)data;
	return 0;
}

static inline void dst_abort(struct migr_destination *d, void *data)
{
	(void)d;
	(void)data;
}

static inline void destination(int ready, const struct migr_tls *tls)
{
	static const struct migr_destination_ops ops = {
		.prepare = dst_prepare,
		.load = dst_load,
		.resume = dst_resume,
		.abort = dst_abort,
	};
	struct migr_destination_options options = { .tls = *tls };
	struct migr_destination *d;
	struct migr_result result;
	int dev = (int)CALL(dev_open());
	struct migr *m;

	CALL(migr_open(&m));
	CALL(migr_destination_new(m, &d));
	CALL(migr_destination_listen(d, MOVING_ADDRESS));
	CHECK_EQ(write(ready, "r", 1), 1);
	CHECK(!migr_destination_run(d, &options, &ops, &dev, &result), "%s",
	      migr_destination_error(d));
	_exit(0);
}

static inline pid_t destination_start(const struct migr_tls *tls)
{
	struct pollfd p = { .events = POLLIN };
	int pipes[2];
	pid_t pid;

	SYS(pipe2(pipes, O_CLOEXEC));
	pid = child_start();
	if (!pid)
		destination(pipes[1], tls);
	p.fd = pipes[0];
	CHECK_EQ(poll(&p, 1, RUN_S * 1000), 1);
	close(pipes[0]);
	close(pipes[1]);
	return pid;
}

/* --------------------------------------------------------------- source */

static inline int src_save(struct migr_source *s, void *data)
{
	(void)s;
	(void)data;
	return 0;
}

/* The result lasts as long as @s. */
static inline struct migr_result move(const struct mem *mem,
				      const struct migr_source_options *options,
				      const struct migr_source_ops *ops, struct migr_source **s)
{
	struct migr_result r;
	struct migr *m;
	pid_t pid;

	CALL(migr_open(&m));
	CALL(migr_source_new(m, s));
	CALL(migr_source_add_region(*s, mem->fd, 0, "ram"));
	pid = destination_start(&options->tls);
	CHECK(!migr_source_run(*s, MOVING_ADDRESS, options, ops, NULL, &r), "%s",
	      migr_source_error(*s));
	child_join(pid);
	CHECK_EQ(r.outcome, MIGR_OUTCOME_MOVED);
	CHECK(r.identical, "the digests differ");
	return r;
}

#endif /* MIGR_SELFTEST_MOVING_H */
