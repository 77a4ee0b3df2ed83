// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Write tracking of a region: what a tracker reports, and what it is told.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "internal.h"

int migr_tracker_start(struct migr *m, int region)
{
	struct migr_region_track a = { .size = sizeof(a) };
	int error;

	if (!ioctl(region, MIGR_REGION_TRACK, &a))
		return a.fd;
	error = errno;
	if (error == EBUSY)
		return error_set(&m->error, -error,
				 "the writes to this region are tracked already, by a tracker or a migration");
	return error_set(&m->error, -error, "cannot track a region: %s", strerror(error));
}

int migr_tracker_fetch(struct migr *m, int tracker, uint64_t first, uint64_t count,
		       uint64_t *bitmap, uint64_t *dirty, uint64_t *pinned)
{
	struct migr_tracker_fetch a = {
		.size = sizeof(a),
		.first_page = first,
		.nr_pages = count,
		.bitmap = (uintptr_t)bitmap,
	};
	int error;

	if (ioctl(tracker, MIGR_TRACKER_FETCH, &a)) {
		error = errno;
		return error_set(&m->error, -error,
				 "cannot fetch what was written of pages %llu to %llu: %s",
				 (unsigned long long)first, (unsigned long long)(first + count),
				 strerror(error));
	}
	if (dirty)
		*dirty = a.dirty_pages;
	if (pinned)
		*pinned = a.pinned_pages;
	return 0;
}

int migr_region_merge(struct migr *m, int region, uint64_t first, uint64_t count,
		      const uint64_t *bitmap, uint64_t *dirtied)
{
	struct migr_region_merge a = {
		.size = sizeof(a),
		.first_page = first,
		.nr_pages = count,
		.bitmap = (uintptr_t)bitmap,
	};
	int error;

	if (ioctl(region, MIGR_REGION_MERGE, &a)) {
		error = errno;
		return error_set(&m->error, -error,
				 "cannot report what was written of pages %llu to %llu: %s",
				 (unsigned long long)first, (unsigned long long)(first + count),
				 strerror(error));
	}
	if (dirtied)
		*dirtied = a.dirtied_pages;
	return 0;
}

int migr_tracker_limit(struct migr *m, int tracker, uint64_t pages_per_second)
{
	struct migr_limit a = {
		.size = sizeof(a),
		.flags = MIGR_LIMIT_SET,
		.pages_per_second = pages_per_second,
	};
	int error;

	if (!ioctl(tracker, MIGR_TRACKER_LIMIT, &a))
		return 0;
	error = errno;
	return error_set(&m->error, -error, "cannot limit the writes to a region: %s",
			 strerror(error));
}
