// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * When to stop the VM: how long the pause would be, and whether one more pass
 * would make it shorter. What the VM may write meanwhile, if it would not.
 */
#include <math.h>

#include "internal.h"

/* A pass below this many bytes is mostly fixed cost: no measure of the rate. */
#define RATE_BYTES_MIN	(4u << 20)

/* So many passes in a row that leave no fewer pages dirty: it does not converge. */
#define STALLED_PASSES	3

/* Passes in which a VM that is slowed down shall get there. */
#define SLOWED_PASSES	5
/* It shall get a little below the limit, not just to it. */
#define SLOWED_MARGIN	0.8
/* Never slower than this part of the link's rate: few passes are enough then. */
#define SLOWEST		0.25
/* The part of the pause that hot pages may take. */
#define HOT_SHARE	0.5

/* Bytes a nanosecond; 0: not known. */
static double rate(const struct prediction *p)
{
	if (p->rate_bytes)
		return (double)p->rate_bytes / p->rate_ns;
	return p->all_bytes ? (double)p->all_bytes / p->all_ns : 0;
}

/* Pages that can be sent in a pause that is just within the limit. */
static double pages_in_limit(const struct prediction *p, uint32_t page_size, uint64_t fixed_ns,
			     uint64_t limit_ns)
{
	return limit_ns > fixed_ns ? (limit_ns - fixed_ns) * rate(p) / page_size : 0;
}

/* What the link and the compression together have carried in a pass. */
static uint64_t carried(const struct migr_migration_status *status)
{
	return status->pass_wire_bytes + status->pass_saved_bytes;
}

/* Account for a pass; returns the downtime predicted if the VM were stopped now. */
uint64_t prediction_after_pass(struct prediction *p,
			       const struct migr_migration_status *status,
			       uint32_t page_size, uint64_t fixed_ns)
{
	p->passes++;
	p->all_bytes += carried(status);
	p->all_ns += status->pass_ns;
	if (carried(status) >= RATE_BYTES_MIN) {
		p->rate_bytes = carried(status);
		p->rate_ns = status->pass_ns;
	}
	/* A twentieth fewer is the least that counts as progress. */
	if (p->passes == 1 || status->dirty_pages < p->least_dirty - p->least_dirty / 20) {
		p->least_dirty = status->dirty_pages;
		p->stalled = 0;
	} else {
		p->stalled++;
	}
	if (!rate(p))
		return fixed_ns;
	return fixed_ns + status->dirty_pages * (double)page_size / rate(p);
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

/*
 * After a pass that is to be followed by another: the pages a second that the
 * VM may make dirty, or 0 for no limit.
 *
 * A pass sends the pages left at the link's rate, and leaves as many as the VM
 * may write in that time: so from pass to pass they become fewer by the ratio of
 * its rate to the link's. The limit is the highest that gets them below what
 * the pause has time for in SLOWED_PASSES passes. It is computed anew after each of
 * them, from what is left then and for the passes that remain: so it is lowered
 * where that was too little, step by step, and raised where it was too much.
 */
uint64_t prediction_slow(struct prediction *p, const struct migr_migration_status *status,
			 uint32_t page_size, uint64_t fixed_ns, uint64_t limit_ns,
			 uint32_t pass_limit)
{
	double target = SLOWED_MARGIN * pages_in_limit(p, page_size, fixed_ns, limit_ns);
	double left = status->dirty_pages, hot = status->pass_hot_pages, ratio;
	uint32_t passes;

	/* Only where it does not converge by itself, and could at all. */
	if ((!p->stalled && !p->slowed) || !target)
		return 0;
	if (!p->slowed) {
		p->stalled = 0;
		p->least_dirty = status->dirty_pages;
	}
	passes = p->slowed < SLOWED_PASSES ? SLOWED_PASSES - p->slowed : 1;
	if (passes > pass_limit - p->passes)
		passes = pass_limit - p->passes;
	p->slowed++;
	/* Hot pages are sent in the pause only, and cost no faults until then. */
	ratio = target > hot && left > hot ? pow((target - hot) / (left - hot), 1.0 / passes) : 0;
	ratio = ratio > SLOWEST ? ratio : SLOWEST;
	ratio = ratio < 1 ? ratio : 1;
	return ratio * rate(p) * NS_PER_S / page_size + 1;
}

/* The hot pages that may be left to the pause; none until a rate is known. */
uint64_t prediction_hot_pages(const struct prediction *p, uint32_t page_size, uint64_t fixed_ns,
			      uint64_t limit_ns)
{
	return HOT_SHARE * pages_in_limit(p, page_size, fixed_ns, limit_ns);
}
