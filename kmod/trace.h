/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM migr

#if !defined(_MIGR_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _MIGR_TRACE_H

#include <linux/tracepoint.h>

#include "migration.h"
#include "region.h"

/* A page is about to become writable; @nr pages of its folio became dirty. */
TRACE_EVENT(migr_fault,
	TP_PROTO(const struct migr_region *region, pgoff_t page,
		 unsigned long nr),
	TP_ARGS(region, page, nr),
	TP_STRUCT__entry(
		__field(u64, region)
		__field(unsigned long, page)
		__field(unsigned long, nr)
	),
	TP_fast_assign(
		__entry->region = region->id;
		__entry->page = page;
		__entry->nr = nr;
	),
	TP_printk("region=%llu page=%lu nr=%lu", __entry->region,
		  __entry->page, __entry->nr)
);

/* The dirty pages of a chunk were collected. */
TRACE_EVENT(migr_collect,
	TP_PROTO(const struct migr_region *region, pgoff_t first,
		 unsigned int dirty, unsigned int pinned),
	TP_ARGS(region, first, dirty, pinned),
	TP_STRUCT__entry(
		__field(u64, region)
		__field(unsigned long, first)
		__field(unsigned int, dirty)
		__field(unsigned int, pinned)
	),
	TP_fast_assign(
		__entry->region = region->id;
		__entry->first = first;
		__entry->dirty = dirty;
		__entry->pinned = pinned;
	),
	TP_printk("region=%llu first=%lu dirty=%u pinned=%u", __entry->region,
		  __entry->first, __entry->dirty, __entry->pinned)
);

DECLARE_EVENT_CLASS(migr_chunk,
	TP_PROTO(unsigned int region, u64 chunk, unsigned int data,
		 unsigned int zero, size_t bytes),
	TP_ARGS(region, chunk, data, zero, bytes),
	TP_STRUCT__entry(
		__field(unsigned int, region)
		__field(u64, chunk)
		__field(unsigned int, data)
		__field(unsigned int, zero)
		__field(size_t, bytes)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->chunk = chunk;
		__entry->data = data;
		__entry->zero = zero;
		__entry->bytes = bytes;
	),
	TP_printk("region=%u chunk=%llu data=%u zero=%u bytes=%zu",
		  __entry->region, __entry->chunk, __entry->data,
		  __entry->zero, __entry->bytes)
);

/* Pages of a chunk were compressed; @packed is 0 if that was not worth it. */
TRACE_EVENT(migr_compress,
	TP_PROTO(unsigned int plain, unsigned int packed, u64 ns),
	TP_ARGS(plain, packed, ns),
	TP_STRUCT__entry(
		__field(unsigned int, plain)
		__field(unsigned int, packed)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->plain = plain;
		__entry->packed = packed;
		__entry->ns = ns;
	),
	TP_printk("plain=%u packed=%u ns=%llu", __entry->plain,
		  __entry->packed, __entry->ns)
);

/* The socket has taken all of a chunk; @region is its number on the wire. */
DEFINE_EVENT(migr_chunk, migr_chunk_sent,
	TP_PROTO(unsigned int region, u64 chunk, unsigned int data,
		 unsigned int zero, size_t bytes),
	TP_ARGS(region, chunk, data, zero, bytes)
);

/* All of a chunk is in the region. */
DEFINE_EVENT(migr_chunk, migr_chunk_received,
	TP_PROTO(unsigned int region, u64 chunk, unsigned int data,
		 unsigned int zero, size_t bytes),
	TP_ARGS(region, chunk, data, zero, bytes)
);

/* A pass was acknowledged; times and counts as in migr_migration_status. */
TRACE_EVENT(migr_pass_done,
	TP_PROTO(unsigned int pass, u64 pages, u64 bytes, u64 ns, bool last),
	TP_ARGS(pass, pages, bytes, ns, last),
	TP_STRUCT__entry(
		__field(unsigned int, pass)
		__field(u64, pages)
		__field(u64, bytes)
		__field(u64, ns)
		__field(bool, last)
	),
	TP_fast_assign(
		__entry->pass = pass;
		__entry->pages = pages;
		__entry->bytes = bytes;
		__entry->ns = ns;
		__entry->last = last;
	),
	TP_printk("pass=%u pages=%llu bytes=%llu ns=%llu%s", __entry->pass,
		  __entry->pages, __entry->bytes, __entry->ns,
		  __entry->last ? " last" : "")
);

/* Writers are held to @rate pages a second from now on; 0: to none. */
TRACE_EVENT(migr_limit,
	TP_PROTO(u64 rate),
	TP_ARGS(rate),
	TP_STRUCT__entry(__field(u64, rate)),
	TP_fast_assign(__entry->rate = rate;),
	TP_printk("rate=%llu", __entry->rate)
);

/* A writer above the limit has slept. */
TRACE_EVENT(migr_slept,
	TP_PROTO(u64 ns),
	TP_ARGS(ns),
	TP_STRUCT__entry(__field(u64, ns)),
	TP_fast_assign(__entry->ns = ns;),
	TP_printk("ns=%llu", __entry->ns)
);

#endif /* _MIGR_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
