// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the commands tell: sentences and a live line for people, one JSON object
 * a line for programs.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tool.h"

#define BAR_WIDTH	10

static bool line_open;

void end_progress(void)
{
	if (line_open)
		fputc('\n', stdout);
	line_open = false;
	fflush(stdout);
}

static bool is_utf8(const char *s, size_t bytes)
{
	json_t *string = json_stringn(s, bytes);

	json_decref(string);
	return string;
}

void text_clean(char *s)
{
	size_t n;

	for (; *s; s += n) {
		n = 1;
		while (n < 4 && *s & 0x80 && (s[n] & 0xc0) == 0x80)
			n++;
		/* Of two bytes as well: U+0080 to U+009F. */
		if ((unsigned char)*s < ' ' || *s == 0x7f || !is_utf8(s, n) ||
		    (*s == '\xc2' && !(s[1] & 0x20)))
			memset(s, '?', n);
	}
}

int complain(const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	text_clean(text);
	end_progress();
	fprintf(stderr, "migr: %s\n", text);
	return EXIT_HERE;
}

bool text_set(struct text *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(t->s, sizeof(t->s), format, args);
	va_end(args);
	return false;
}

bool parse_number(const char *option, const char *text, unsigned long min,
		  unsigned long max, uint32_t *value)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text >= '0' && *text <= '9' && !*end && n >= min && n <= max) {
		*value = n;
		return true;
	}
	complain("%s needs a number from %lu to %lu, not '%s'", option, min, max, text);
	return false;
}

bool parse_rate(const char *option, const char *text, uint64_t *value)
{
	static const char units[] = "KMG";
	unsigned long n = strtoul(text, NULL, 10);
	size_t digits = strspn(text, "0123456789");
	const char *unit = text[digits] ? strchr(units, text[digits]) : NULL;
	double bits = n;

	for (ptrdiff_t i = 0; unit && i <= unit - units; i++)
		bits *= 1000;
	if (digits && (!text[digits] || (unit && !text[digits + 1])) && bits >= 1e5 &&
	    bits <= 1e13) {
		*value = bits / 8;
		return true;
	}
	complain("%s needs bits a second from 100K to 10000G, not '%s'", option, text);
	return false;
}

static void write_json(const json_t *object, FILE *to)
{
	json_dumpf(object, to, JSON_COMPACT | JSON_REAL_PRECISION(9));
	fputc('\n', to);
	fflush(to);
}

void print_json(json_t *object)
{
	write_json(object, stdout);
	json_decref(object);
}

static double ms(uint64_t ns)
{
	return ns / 1e6;
}

static double mib(uint64_t bytes)
{
	return bytes / 1048576.0;
}

/* Pages of the current pass that are still to go, at most. */
static uint64_t pages_left(const struct migr_migration_status *st)
{
	uint64_t done = st->pass_sent_pages + st->pass_hot_pages;

	return st->pass_pages > done ? st->pass_pages - done : 0;
}

static void progress_json(const struct migr_progress *p)
{
	const struct migr_migration_status *st = &p->status;

	print_json(json_pack("{s:s, s:s, s:f, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:f}",
			     "type", "progress",
			     "phase", migr_phase_name(p->phase),
			     "elapsed_ms", ms(p->elapsed_ns),
			     "streams", (int)p->streams,
			     "links", (int)p->links,
			     "pass", (int)st->passes,
			     "total_pages", (json_int_t)st->total_pages,
			     "dirty_pages", (json_int_t)st->dirty_pages,
			     "pass_pages", (json_int_t)st->pass_pages,
			     "pass_sent_pages", (json_int_t)st->pass_sent_pages,
			     "pass_dirtied_pages", (json_int_t)st->pass_dirtied_pages,
			     "sent_bytes", (json_int_t)st->wire_bytes,
			     "bytes_per_second", (json_int_t)p->bytes_per_second,
			     "pass_ms", ms(st->pass_ns),
			     "predicted_downtime_ms", ms(p->predicted_downtime_ns),
			     "hot_pages", (json_int_t)st->pass_hot_pages,
			     "limit_pages_per_second", (json_int_t)st->limit,
			     "slept_ms", ms(st->slept_ns)));
}

static void progress_line(const struct migr_progress *p)
{
	const struct migr_migration_status *st = &p->status;
	double done = st->pass_pages ? 1 - (double)pages_left(st) / st->pass_pages : 0;
	double per_second = st->pass_ns ? 1e9 / st->pass_ns : 0;
	double rate = st->pass_sent_pages * per_second;
	double dirtied = mib(st->pass_dirtied_pages * p->page_size) * per_second;
	char bar[BAR_WIDTH + 1];

	/* The destination only learns what has come. */
	if (!st->pass_pages) {
		printf("\r\033[K%-9s %8.1f MiB received", migr_phase_name(p->phase),
		       mib(st->wire_bytes));
	} else {
		memset(bar, '.', BAR_WIDTH);
		memset(bar, '#', done * BAR_WIDTH);
		bar[BAR_WIDTH] = '\0';
		printf("\r\033[K%-9s pass %-2u [%s] %3.0f%% %7.1f MiB/s  dirty %.1f MiB/s, %llu pages  ETA %.1f s",
		       migr_phase_name(p->phase), st->passes, bar, done * 100,
		       mib(p->bytes_per_second), dirtied, (unsigned long long)st->dirty_pages,
		       rate ? pages_left(st) / rate : 0);
	}
	line_open = true;
	fflush(stdout);
}

/* Nobody may keep a VM paused, or slowed down, by not reading how it gets on. */
static bool would_block(void)
{
	struct pollfd p = { .fd = STDOUT_FILENO, .events = POLLOUT };

	return !poll(&p, 1, 0);
}

void print_progress(const struct migr_progress *p, bool json)
{
	if (would_block())
		return;
	if (json)
		progress_json(p);
	else if (isatty(STDOUT_FILENO))
		progress_line(p);
}

static double cpu_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
	       (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
}

static json_t *digest_json(const struct migr_digest *digest, bool known)
{
	char hex[MIGR_DIGEST_HEX];

	if (!known)
		return json_null();
	migr_digest_hex(digest, hex);
	return json_string(hex);
}

static json_t *passes_json(const struct migr_result *r)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < r->nr_passes; i++) {
		const struct migr_pass *p = &r->passes[i];

		json_array_append_new(list,
				      json_pack("{s:I, s:I, s:I, s:I, s:f, s:I, s:I}",
						"pages", (json_int_t)p->pages,
						"sent_pages", (json_int_t)p->sent_pages,
						"dirtied_pages", (json_int_t)p->dirtied_pages,
						"wire_bytes", (json_int_t)p->wire_bytes,
						"ms", ms(p->ns),
						"hot_pages", (json_int_t)p->hot_pages,
						"limit_pages_per_second", (json_int_t)p->limit));
	}
	return list;
}

static double megabits_per_second(const struct migr_result *r)
{
	return r->send_ns ? r->status.wire_bytes * 8e3 / r->send_ns : 0;
}

static const char *outcome_name(enum migr_outcome outcome)
{
	static const char *const names[] = {
		[MIGR_OUTCOME_HERE] = "here",
		[MIGR_OUTCOME_MOVED] = "moved",
		[MIGR_OUTCOME_UNKNOWN] = "unknown",
		[MIGR_OUTCOME_STUCK] = "stuck",
	};

	return names[outcome];
}

static json_t *result_json(const struct migr_result *r, const char *vm, const char *sentence,
			   bool source)
{
	const struct migr_migration_status *st = &r->status;
	/* The destination computes its digest, the source compares. */
	bool have_digest = source ? r->verified : r->verify_ns;
	json_t *o;

	o = json_pack("{s:s, s:s, s:s, s:f, s:f, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}",
		      "type", sentence ? "error" : "result",
		      "vm", vm,
		      "outcome", outcome_name(r->outcome),
		      "total_ms", ms(r->total_ns),
		      "verify_ms", ms(r->verify_ns),
		      "passes", (int)st->passes,
		      "page_size", (json_int_t)r->page_size,
		      "ram_bytes", (json_int_t)r->ram_bytes,
		      "data_pages", (json_int_t)st->data_pages,
		      "zero_pages", (json_int_t)st->zero_pages,
		      "hole_pages", (json_int_t)st->hole_pages,
		      "pinned_pages", (json_int_t)st->pinned_pages,
		      "state_bytes", (json_int_t)r->state_bytes,
		      "throughput_mbps", megabits_per_second(r),
		      "cpu_ms", cpu_ms());
	json_object_set_new(o, source ? "sent_bytes" : "received_bytes",
			    json_integer(st->wire_bytes));
	json_object_set_new(o, "compression", json_string(migr_compression_name(r->compression)));
	json_object_set_new(o, "compressed_bytes", json_integer(st->compressed_bytes));
	json_object_set_new(o, "compressed_wire_bytes", json_integer(st->compressed_wire_bytes));
	json_object_set_new(o, "destination_digest",
			    digest_json(&r->destination_digest, have_digest));
	if (source) {
		json_object_set_new(o, "source_digest",
				    digest_json(&r->source_digest, have_digest));
		json_object_set_new(o, "ram_identical",
				    r->verified ? json_boolean(r->identical) : json_null());
		json_object_set_new(o, "downtime_ms", json_real(ms(r->downtime_ns)));
		json_object_set_new(o, "predicted_downtime_ms",
				    json_real(ms(r->predicted_downtime_ns)));
		json_object_set_new(o, "downtime_limit_exceeded", json_boolean(r->limit_exceeded));
		json_object_set_new(o, "slept_ms", json_real(ms(st->slept_ns)));
		json_object_set_new(o, "compressed_chunks", json_integer(st->compressed_chunks));
		json_object_set_new(o, "incompressible_chunks",
				    json_integer(st->incompressible_chunks));
		json_object_set_new(o, "compression_ms", json_real(ms(st->compression_ns)));
		json_object_set_new(o, "pass_list", passes_json(r));
	}
	if (sentence)
		json_object_set_new(o, "error", json_string(sentence));
	return o;
}

static void summary(const struct migr_result *r, const char *vm, bool source)
{
	const struct migr_migration_status *st = &r->status;
	char hex[MIGR_DIGEST_HEX];

	printf("VM '%s' %s in %.2f s\n", vm, source ? "has moved" : "has arrived and runs",
	       r->total_ns / 1e9);
	if (source)
		printf("  downtime    %.0f ms%s (predicted %.0f ms%s)\n", ms(r->downtime_ns),
		       r->verified ? ", without the digests" : "", ms(r->predicted_downtime_ns),
		       r->limit_exceeded ? ", above the limit: it did not converge" : "");
	printf("  memory      %.0f MiB: %llu pages of data, %llu of zeroes, %llu holes\n",
	       mib(r->ram_bytes), (unsigned long long)st->data_pages,
	       (unsigned long long)st->zero_pages, (unsigned long long)st->hole_pages);
	printf("  stream      %.1f MiB in %u passes, %.0f Mbit/s\n", mib(st->wire_bytes),
	       st->passes, megabits_per_second(r));
	if (st->compressed_chunks)
		printf("  compressed  %.1f MiB to %.1f MiB, %s\n", mib(st->compressed_bytes),
		       mib(st->compressed_wire_bytes), migr_compression_name(r->compression));
	if (source && st->slept_ns)
		printf("  slowdown    in the end to %llu pages a second; its threads slept %.1f s\n",
		       (unsigned long long)st->limit, st->slept_ns / 1e9);
	printf("  state       %.1f KiB\n", r->state_bytes / 1024.0);
	if (r->verified) {
		migr_digest_hex(&r->source_digest, hex);
		printf("  verified    %s on both sides (%.0f ms)\n", hex, ms(r->verify_ns));
	}
	fflush(stdout);
}

void print_result(const struct migr_result *r, const char *vm, const char *sentence,
		  bool source, bool json, FILE *report)
{
	struct text name, error;
	json_t *o;

	/* What QEMU or the other side says, cut to fit, need not be UTF-8. */
	text_set(&name, "%s", vm);
	text_clean(name.s);
	text_set(&error, "%s", sentence ? sentence : "");
	text_clean(error.s);
	o = result_json(r, name.s, sentence ? error.s : NULL, source);
	end_progress();
	if (report)
		write_json(o, report);
	if (json)
		print_json(json_incref(o));
	json_decref(o);
	if (sentence)
		complain("%s", error.s);
	else if (!json)
		summary(r, name.s, source);
}
