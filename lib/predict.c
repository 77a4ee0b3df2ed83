// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * When to stop the VM: how long the pause would be, and whether one more pass
 * would make it shorter.
 */
#include "internal.h"

/* A pass below this many bytes is mostly fixed cost: no measure of the rate. */
#define RATE_BYTES_MIN	(4u << 20)

/* So many passes in a row that leave no fewer pages dirty: it does not converge. */
#define STALLED_PASSES	3

/* Account for a pass; returns the downtime predicted if the VM were stopped now. */
uint64_t prediction_after_pass(struct prediction *p,
			       const struct migr_migration_status *status,
			       uint32_t page_size, uint64_t fixed_ns)
{
	double bytes, ns;

	p->passes++;
	p->all_bytes += status->pass_wire_bytes;
	p->all_ns += status->pass_ns;
	if (status->pass_wire_bytes >= RATE_BYTES_MIN) {
		p->rate_bytes = status->pass_wire_bytes;
		p->rate_ns = status->pass_ns;
	}
	/* A twentieth fewer is the least that counts as progress. */
	if (p->passes == 1 || status->dirty_pages < p->least_dirty - p->least_dirty / 20) {
		p->least_dirty = status->dirty_pages;
		p->stalled = 0;
	} else {
		p->stalled++;
	}
	bytes = p->rate_bytes ? p->rate_bytes : p->all_bytes;
	ns = p->rate_bytes ? p->rate_ns : p->all_ns;
	if (!bytes)
		return fixed_ns;
	return fixed_ns + status->dirty_pages * (double)page_size * ns / bytes;
}

enum verdict prediction_verdict(const struct prediction *p, uint64_t predicted_ns,
				uint64_t limit_ns, uint32_t pass_limit)
{
	if (predicted_ns <= limit_ns)
		return VERDICT_FITS;
	if (p->passes >= pass_limit || p->stalled >= STALLED_PASSES)
		return VERDICT_EXCEEDS;
	return VERDICT_AGAIN;
}
