// SPDX-License-Identifier: GPL-2.0-only
/*
 * The configuration: what holds for all migrations of this host, unless an option
 * says something else. An object of JSON, of which each key is in the manual page.
 */
#include <errno.h>
#include <string.h>

#include "tool.h"

static bool wrong(struct text *error, const char *path, const char *what)
{
	return text_set(error, "%s: %s", path, what);
}

/* As --network takes them. */
static bool join_networks(const char *path, const json_t *networks, struct config *c,
			  struct text *error)
{
	const json_t *network;
	size_t i, length = 0;

	if (!json_array_size(networks))
		return wrong(error, path, "\"networks\" is no list of networks");
	json_array_foreach(networks, i, network) {
		if (!json_string_length(network))
			return wrong(error, path, "\"networks\" has what is no network");
		length += snprintf(c->networks.s + length, sizeof(c->networks.s) - length, "%s%s",
				   i ? "," : "", json_string_value(network));
		if (length >= sizeof(c->networks.s))
			return wrong(error, path, "\"networks\" is too long");
	}
	return true;
}

bool config_read(const char *path, struct config *c, struct text *error)
{
	json_auto_t *root = NULL;
	json_error_t e;
	const char *key;
	json_t *value;
	FILE *file;

	*c = (struct config){ 0 };
	file = fopen(path, "re");
	if (!file && errno == ENOENT)
		return true;
	if (!file)
		return wrong(error, path, strerror(errno));
	root = json_loadf(file, JSON_REJECT_DUPLICATES, &e);
	fclose(file);
	if (!root)
		return text_set(error, "%s, line %d: %s", path, e.line, e.text);
	if (!json_is_object(root))
		return wrong(error, path, "not an object");
	json_object_foreach(root, key, value) {
		if (strcmp(key, "networks"))
			return text_set(error, "%s: there is no \"%s\" to be configured", path,
					key);
		if (!join_networks(path, value, c, error))
			return false;
	}
	return true;
}

const char *not_tcp(const char *address)
{
	return !strncmp(address, "unix:", 5) ? "a UNIX socket" :
	       !strncmp(address, "vsock:", 6) ? "a vsock socket" : NULL;
}

bool config_networks(const char *address, const char **networks)
{
	static struct config config;
	struct text error;

	if (!config_read(CONFIG_FILE, &config, &error)) {
		complain("%s", error.s);
		return false;
	}
	if (!*networks && config.networks.s[0] && !not_tcp(address))
		*networks = config.networks.s;
	return true;
}
