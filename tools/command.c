// SPDX-License-Identifier: GPL-2.0-only
/*
 * QEMU's command line: reading from it what a VM is, and putting its RAM on
 * /dev/migr.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define DEFAULT_MEMORY	(128ull << 20)
/* QEMU rounds the size of the RAM up to this. */
#define MEMORY_ALIGN	8192ull
/* So many words, and no more, command_on_migr() adds to a command. */
#define ADDED_MAX	16

/* The option at argv[i], without its dashes; NULL if it is none. */
static const char *option(char *const *argv, size_t i)
{
	if (argv[i][0] != '-')
		return NULL;
	return argv[i] + (argv[i][1] == '-' ? 2 : 1);
}

static bool is(const char *option, const char *name)
{
	return option && !strcmp(option, name);
}

/* The value of key in "first,key=value,..."; an empty key is the first word. */
static bool suboption(const char *text, const char *key, struct text *value)
{
	size_t key_length = strlen(key), n;
	bool first = true, match;

	for (; *text; first = false) {
		match = !key_length && first && strcspn(text, ",") <= strcspn(text, "=");
		if (key_length && !strncmp(text, key, key_length) && text[key_length] == '=') {
			match = true;
			text += key_length + 1;
		}
		for (n = 0; *text; text++) {
			if (*text == ',') {
				if (text[1] != ',')
					break;
				text++;		/* a doubled comma is one */
			}
			if (n < sizeof(value->s) - 1 && match)
				value->s[n++] = *text;
		}
		if (match) {
			value->s[n] = '\0';
			return true;
		}
		if (*text == ',')
			text++;
	}
	return false;
}

static bool parse_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "bkmgtpe";
	const char *suffix;
	double value, unit = 1 << 20;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	value = strtod(text, &end);
	if (*end) {
		suffix = strchr(suffixes, tolower((unsigned char)*end));
		if (!suffix || end[1])
			return false;
		unit = ldexp(1, 10 * (suffix - suffixes));
	}
	value *= unit;
	if (!(value >= 0 && value < 0x1p62))
		return false;
	*bytes = value;
	return true;
}

bool memory_size(const char *value, uint64_t *bytes)
{
	struct text size;

	*bytes = DEFAULT_MEMORY;
	if (!suboption(value, "", &size) && !suboption(value, "size", &size))
		return *value;
	if (!parse_size(size.s, bytes))
		return false;
	if (!*bytes)
		*bytes = DEFAULT_MEMORY;
	*bytes = (*bytes + MEMORY_ALIGN - 1) / MEMORY_ALIGN * MEMORY_ALIGN;
	return true;
}

/* What makes a command one whose memory we cannot place. */
static bool conflict(const char *opt, const char *value, bool incoming, struct text *error)
{
	const char *why = NULL;

	if (is(opt, "mem-path"))
		why = "it places the RAM itself, which migr has to do";
	else if (is(opt, "object") && strstr(value, "memory-backend"))
		why = "it has a memory backend of its own";
	else if ((is(opt, "machine") || is(opt, "M")) && strstr(value, "memory-backend"))
		why = "it names a memory backend of its own";
	else if (is(opt, "numa") && strstr(value, "memdev"))
		why = "its NUMA nodes have memory backends of their own";
	else if (incoming && is(opt, "incoming"))
		why = "'migr receive' itself makes it wait for a migration";
	else if (incoming && is(opt, "daemonize"))
		why = "'migr receive' looks after the process it has started";
	if (why)
		text_set(error, "the command has '-%s %s': %s; leave that out", opt,
			 is(opt, "daemonize") ? "" : value, why);
	return why;
}

bool command_check(char *const *argv, bool incoming, uint64_t *bytes, struct text *error)
{
	const char *opt, *value;

	*bytes = DEFAULT_MEMORY;
	if (!argv[0] || argv[0][0] == '-') {
		text_set(error, "it must begin with the program: qemu-system-x86_64 ...");
		return false;
	}
	for (size_t i = 1; argv[i]; i++) {
		opt = option(argv, i);
		if (!opt)
			continue;
		value = argv[i + 1] ? argv[i + 1] : "";
		if (conflict(opt, value, incoming, error))
			return false;
		if (is(opt, "m") && !memory_size(value, bytes)) {
			text_set(error, "not a memory size: '-m %s'", value);
			return false;
		}
	}
	return true;
}

struct builder {
	char **argv;
	size_t count;
	bool failed;
};

static void add(struct builder *b, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void add(struct builder *b, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (vasprintf(&b->argv[b->count], format, args) < 0) {
		b->argv[b->count] = NULL;
		b->failed = true;
	} else {
		b->count++;
	}
	va_end(args);
}

/* As a value within a QEMU option: commas doubled. */
static void add_path(struct builder *b, const char *before, const char *path, const char *after)
{
	struct text escaped;
	size_t n = 0;

	for (; *path && n < sizeof(escaped.s) - 2; path++) {
		if (*path == ',')
			escaped.s[n++] = ',';
		escaped.s[n++] = *path;
	}
	escaped.s[n] = '\0';
	add(b, "%s%s%s", before, escaped.s, after);
}

bool backend_valid(const char *name)
{
	if (!isalpha((unsigned char)*name))
		return false;
	while (isalnum((unsigned char)*name) || (*name && strchr("-._", *name)))
		name++;
	return !*name;
}

char **command_on_migr(char *const *argv, const char *backend, int memory_fd, uint64_t bytes,
		       const char *qmp_path, int control_fd)
{
	struct builder b = { 0 };
	size_t count;

	for (count = 0; argv[count]; count++)
		;
	b.argv = calloc(count + ADDED_MAX + 1, sizeof(*b.argv));
	if (!b.argv)
		return NULL;
	for (size_t i = 0; i < count; i++)
		add(&b, "%s", argv[i]);
	add(&b, "-object");
	/*
	 * Not the device, into which QEMU could punch no holes for a balloon; and
	 * aligned, or it would have no huge pages wherever these are allowed.
	 */
	add(&b, "memory-backend-file,id=%s,mem-path=/proc/self/fd/%d,size=%llu,align=2M,share=on",
	    backend, memory_fd, (unsigned long long)bytes);
	add(&b, "-machine");
	add(&b, "memory-backend=%s", backend);
	add(&b, "-qmp");
	add_path(&b, "unix:", qmp_path, ",server=on,wait=off");
	if (control_fd >= 0) {
		add(&b, "-chardev");
		add(&b, "socket,id=migr-control,fd=%d", control_fd);
		add(&b, "-mon");
		add(&b, "chardev=migr-control,mode=control");
		add(&b, "-S");
		add(&b, "-incoming");
		add(&b, "defer");
	}
	if (b.failed) {
		command_free(b.argv);
		return NULL;
	}
	return b.argv;
}

void command_free(char **argv)
{
	for (size_t i = 0; argv && argv[i]; i++)
		free(argv[i]);
	free(argv);
}

void command_name(char *const *argv, struct text *name)
{
	name->s[0] = '\0';
	for (size_t i = 0; argv[i] && argv[i + 1]; i++)
		if (is(option(argv, i), "name") && !suboption(argv[i + 1], "", name))
			suboption(argv[i + 1], "guest", name);
}

/* The path of the socket chardev with this id. */
static bool chardev_path(char *const *argv, const char *id, struct text *path)
{
	struct text value;

	for (size_t i = 0; argv[i] && argv[i + 1]; i++)
		if (is(option(argv, i), "chardev") && suboption(argv[i + 1], "id", &value) &&
		    !strcmp(value.s, id) && suboption(argv[i + 1], "path", path))
			return true;
	return false;
}

/* The last one wins: it is migr's own where there is one. */
void command_qmp(char *const *argv, struct text *path)
{
	struct text value;
	const char *opt;

	path->s[0] = '\0';
	for (size_t i = 0; argv[i] && argv[i + 1]; i++) {
		opt = option(argv, i);
		if (is(opt, "qmp") && !strncmp(argv[i + 1], "unix:", 5))
			suboption(argv[i + 1] + 5, "", path);
		else if (is(opt, "mon") && suboption(argv[i + 1], "mode", &value) &&
			 !strcmp(value.s, "control") &&
			 (suboption(argv[i + 1], "chardev", &value) ||
			  suboption(argv[i + 1], "", &value)))
			chardev_path(argv, value.s, path);
	}
}
