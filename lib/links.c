// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Links: the pairs of interfaces over which two hosts reach each other, and how
 * many streams each of them gets.
 *
 * The interfaces and their addresses come from rtnetlink, their speed from ethtool; all
 * else here is computed from that, and from what the peer says of itself, without looking
 * at the host.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <libmnl/libmnl.h>

#include "internal.h"

/* What one stream is taken to be able to carry; faster links have several. */
#define STREAM_MBITS	10000
/* The most that a link has if nobody says how many. */
#define LINK_STREAMS	8
/* The share of a link whose speed nobody knows. */
#define UNKNOWN_MBITS	1000
#define BYTES_OF_MBIT	125000
/* Addresses that come and go, or are not to be used yet. */
#define FLEETING	(IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TEMPORARY)

/* ---- networks --------------------------------------------------------- */

static unsigned int family_bits(int family)
{
	return family == AF_INET ? 32 : 128;
}

/* Whether the first bits of both are equal. */
static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned int bits)
{
	unsigned int rest = bits % 8;

	return !memcmp(a, b, bits / 8) &&
	       (!rest || !((a[bits / 8] ^ b[bits / 8]) >> (8 - rest)));
}

static bool same_address(const struct host_address *a, const struct host_address *b)
{
	return a->family == b->family && same_bits(a->bytes, b->bytes, family_bits(a->family));
}

bool links_parse_address(const char *text, struct host_address *a)
{
	static const int families[] = { AF_INET, AF_INET6 };

	for (int i = 0; i < 2; i++)
		if (inet_pton(families[i], text, a->bytes) == 1) {
			a->family = families[i];
			a->prefix = family_bits(a->family);
			return true;
		}
	return false;
}

static bool parse_network(char *text, struct host_address *network)
{
	char *slash = strchr(text, '/'), *end;
	unsigned long prefix;

	if (slash)
		*slash = '\0';
	*network = (struct host_address){ .prefix = 0 };
	if (!links_parse_address(text, network))
		return false;
	if (!slash)
		return true;
	prefix = strtoul(slash + 1, &end, 10);
	if (slash[1] < '0' || slash[1] > '9' || *end || prefix > network->prefix)
		return false;
	network->prefix = prefix;
	return true;
}

/* The next of words separated by commas, in word; false after the last. */
static bool next_word(const char **list, char *word, size_t size)
{
	size_t length = *list ? strcspn(*list, ",") : 0;

	if (!*list)
		return false;
	/* One that is too long is cut, and then is no word that means anything. */
	snprintf(word, size, "%.*s", (int)length, *list);
	*list = (*list)[length] ? *list + length + 1 : NULL;
	return true;
}

int links_check_networks(const char *networks, struct error *e)
{
	struct host_address network;
	const char *rest = networks;
	char word[64], copy[64];

	while (next_word(&rest, word, sizeof(word))) {
		strcpy(copy, word);
		if (!parse_network(copy, &network))
			return error_set(e, -EINVAL, "not a network: '%s' (like 192.0.2.0/24, with commas between several)",
					 word);
	}
	return 0;
}

bool links_in_network(const struct host_address *a, const struct host_address *network)
{
	return a->family == network->family &&
	       same_bits(a->bytes, network->bytes, network->prefix);
}

static bool in_networks(const struct host_address *a, const char *networks)
{
	struct host_address network;
	char word[64];

	while (next_word(&networks, word, sizeof(word)))
		if (parse_network(word, &network) && links_in_network(a, &network))
			return true;
	return false;
}

int links_check_names(const char *names, struct error *e)
{
	char word[IF_NAMESIZE + 1];

	while (next_word(&names, word, sizeof(word)))
		if (!if_nametoindex(word))
			return error_set(e, -ENODEV, "there is no network interface '%s'", word);
	return 0;
}

static bool in_names(const char *name, const char *names)
{
	char word[IF_NAMESIZE + 1];

	while (next_word(&names, word, sizeof(word)))
		if (!strcmp(word, name))
			return true;
	return false;
}

unsigned int links_filter(struct host_address *addresses, unsigned int nr, const char *names,
			  const char *networks)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < nr; i++)
		if ((!names || in_names(addresses[i].name, names)) &&
		    (!networks || in_networks(&addresses[i], networks)))
			addresses[kept++] = addresses[i];
	return kept;
}

/* ---- matching --------------------------------------------------------- */

const struct host_address *links_find_address(const struct host_address *addresses,
					      unsigned int nr, const struct host_address *a)
{
	for (unsigned int i = 0; i < nr; i++)
		if (same_address(&addresses[i], a))
			return &addresses[i];
	return NULL;
}

/* Only one that both know counts for both. */
uint32_t links_speed(const struct host_address *a, const struct host_address *b)
{
	if (!a->speed || !b->speed)
		return a->speed ? a->speed : b->speed;
	return a->speed < b->speed ? a->speed : b->speed;
}

/* Two hosts that each have an address of their own there, not both the same one. */
static bool on_one_network(const struct host_address *a, const struct host_address *b)
{
	return a->family == b->family && a->prefix == b->prefix && !same_address(a, b) &&
	       same_bits(a->bytes, b->bytes, a->prefix);
}

/* Of two equally good pairs the one that came first stays. */
static bool is_better(const struct host_address *here, const struct host_address *there,
		      const struct host_link *than)
{
	uint32_t speed = links_speed(here, there);

	if (speed != than->speed)
		return speed > than->speed;
	return here->mtu + there->mtu > than->here.mtu + than->there.mtu;
}

static bool is_used(const struct host_link *links, unsigned int nr, const struct host_address *here,
		    const struct host_address *there)
{
	for (unsigned int i = 0; i < nr; i++)
		if (!strcmp(links[i].here.name, here->name) ||
		    !strcmp(links[i].there.name, there->name))
			return true;
	return false;
}

static bool best_pair(const struct host_address *here, unsigned int nr_here,
		      const struct host_address *there, unsigned int nr_there,
		      const struct host_link *links, unsigned int nr, struct host_link *best)
{
	bool found = false;

	for (unsigned int i = 0; i < nr_here; i++)
		for (unsigned int j = 0; j < nr_there; j++) {
			if (!on_one_network(&here[i], &there[j]) ||
			    is_used(links, nr, &here[i], &there[j]) ||
			    (found && !is_better(&here[i], &there[j], best)))
				continue;
			*best = (struct host_link){
				.here = here[i],
				.there = there[j],
				.bound = true,
				.speed = links_speed(&here[i], &there[j]),
			};
			found = true;
		}
	return found;
}

unsigned int links_match(const struct host_address *here, unsigned int nr_here,
			 const struct host_address *there, unsigned int nr_there,
			 struct host_link links[LINKS_MAX])
{
	unsigned int nr = 0;

	while (nr < LINKS_MAX &&
	       best_pair(here, nr_here, there, nr_there, links, nr, &links[nr]))
		nr++;
	return nr;
}

static bool path_is_wanted(const struct host_link *path, const char *names, const char *networks)
{
	return (!names || in_names(path->here.name, names)) &&
	       (!networks || (in_networks(&path->here, networks) &&
			      in_networks(&path->there, networks)));
}

/* The way that is known to work, or the pair of interfaces that it leads over. */
static void put_first(struct host_link *links, unsigned int nr, const struct host_link *path)
{
	struct host_link found;

	for (unsigned int i = 0; i < nr; i++)
		if (!strcmp(links[i].here.name, path->here.name) &&
		    !strcmp(links[i].there.name, path->there.name)) {
			found = links[i];
			links[i] = links[0];
			links[0] = found;
			return;
		}
}

unsigned int links_choose(struct host_address *here, unsigned int nr_here,
			  struct host_address *there, unsigned int nr_there,
			  const struct host_link *path, const struct links_wanted *wanted,
			  struct host_link links[LINKS_MAX])
{
	bool may_path = !wanted->restricted || links_find_address(there, nr_there, &path->there);
	const char *names = wanted->names, *networks = wanted->networks;
	unsigned int nr;

	if (may_path && wanted->named_only && !names && !networks) {
		links[0] = *path;
		return 1;
	}
	nr_here = links_filter(here, nr_here, names, networks);
	nr_there = links_filter(there, nr_there, NULL, networks);
	nr = links_match(here, nr_here, there, nr_there, links);
	if (may_path && path_is_wanted(path, names, networks) && nr < LINKS_MAX &&
	    !is_used(links, nr, &path->here, &path->there))
		links[nr++] = *path;
	put_first(links, nr, path);
	return nr;
}

/* ---- shares ----------------------------------------------------------- */

static uint64_t links_weight(const struct host_link *link)
{
	return link->speed ? link->speed : UNKNOWN_MBITS;
}

/* The one that has the fewest streams for its speed. */
static struct host_link *neediest(struct host_link *links, unsigned int nr)
{
	struct host_link *found = &links[0];

	for (unsigned int i = 1; i < nr; i++) {
		struct host_link *l = &links[i];

		/* Whoever has none comes before all that have some. */
		if (!l->streams != !found->streams ? !l->streams :
		    links_weight(l) * (found->streams + 1) >
		    links_weight(found) * (l->streams + 1))
			found = l;
	}
	return found;
}

/* What a link can use by itself. */
static unsigned int useful_streams(const struct host_link *link)
{
	uint64_t streams = ((uint64_t)link->speed + STREAM_MBITS - 1) / STREAM_MBITS;

	return !streams ? 1 : streams > LINK_STREAMS ? LINK_STREAMS : streams;
}

unsigned int links_share(struct host_link *links, unsigned int nr, unsigned int streams)
{
	unsigned int useful = 0;

	for (unsigned int i = 0; i < nr; i++) {
		useful += useful_streams(&links[i]);
		links[i].streams = 0;
	}
	if (!streams)
		streams = useful < MIGR_STREAMS_MAX ? useful : MIGR_STREAMS_MAX;
	for (unsigned int i = 0; i < streams; i++)
		neediest(links, nr)->streams++;
	return streams;
}

void links_limit(struct host_link *links, unsigned int nr, uint64_t limit)
{
	uint64_t most = limit > BYTES_OF_MBIT ? limit / BYTES_OF_MBIT : 1;

	for (unsigned int i = 0; i < nr; i++)
		if (links_weight(&links[i]) > most)
			links[i].speed = most;
}

uint64_t links_pace(const struct host_link *links, const unsigned int *alive, unsigned int nr,
		    unsigned int link, uint64_t limit)
{
	double all = 0, share;

	for (unsigned int i = 0; i < nr; i++)
		if (alive[i])
			all += links_weight(&links[i]);
	share = limit * (links_weight(&links[link]) / all) / alive[link];
	/* Nothing, and all that there are numbers for, would be no limit. */
	if (share < 1)
		return 1;
	if (share >= INT64_MAX)
		return INT64_MAX;
	return share;
}

/* ---- this host -------------------------------------------------------- */

/* For changes of what is being read, after which it is read again. */
#define TRIES	5

struct found {
	struct host_address *addresses;
	unsigned int nr;
	/* What is not in these is not worth a place; NULL: any. */
	const struct host_address *within;
	const char *names, *networks;
};

/*
 * Have rtnetlink answer a request, and a look at each answer. -EINTR: they changed
 * meanwhile.
 */
static int ask(uint16_t type, uint16_t flags, const void *request, size_t size, mnl_cb_t look,
	       void *data)
{
	/* The largest piece of an answer that the kernel makes. */
	char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
	int more = MNL_CB_OK, error;
	ssize_t n;

	if (!nl)
		return -errno;
	message->nlmsg_type = type;
	message->nlmsg_flags = NLM_F_REQUEST | flags;
	message->nlmsg_seq = 1;
	memcpy(mnl_nlmsg_put_extra_header(message, size), request, size);
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ||
	    mnl_socket_sendto(nl, message, message->nlmsg_len) < 0)
		more = MNL_CB_ERROR;
	while (more > MNL_CB_STOP) {
		n = mnl_socket_recvfrom(nl, buffer, sizeof(buffer));
		more = n < 0 ? MNL_CB_ERROR :
		       mnl_cb_run(buffer, n, 1, mnl_socket_get_portid(nl), look, data);
	}
	error = more == MNL_CB_ERROR ? -errno : 0;
	mnl_socket_close(nl);
	return error;
}

struct interface {
	char name[IF_NAMESIZE];
	uint32_t flags, mtu;
};

static int interface_found(const struct nlmsghdr *message, void *data)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	const struct nlattr *attribute;
	struct interface *i = data;

	i->flags = info->ifi_flags;
	mnl_attr_for_each(attribute, message, sizeof(*info)) {
		if (mnl_attr_get_type(attribute) == IFLA_IFNAME)
			snprintf(i->name, sizeof(i->name), "%s", mnl_attr_get_str(attribute));
		else if (mnl_attr_get_type(attribute) == IFLA_MTU)
			i->mtu = mnl_attr_get_u32(attribute);
	}
	return MNL_CB_OK;
}

/* False if it carries nothing, or is gone. */
static bool is_running(int index, struct interface *i)
{
	struct ifinfomsg request = { .ifi_index = index };

	*i = (struct interface){ .flags = 0 };
	return !ask(RTM_GETLINK, NLM_F_ACK, &request, sizeof(request), interface_found, i) &&
	       i->flags & IFF_UP && i->flags & IFF_RUNNING;
}

/* In Mbit/s; 0 if nobody knows. Rtnetlink does not tell it, any socket does. */
static uint32_t interface_speed(const char *name)
{
	struct ethtool_cmd settings = { .cmd = ETHTOOL_GSET };
	struct ifreq request = { .ifr_data = (char *)&settings };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint32_t speed = 0;

	strcpy(request.ifr_name, name);
	if (fd >= 0 && !ioctl(fd, SIOCETHTOOL, &request))
		speed = ethtool_cmd_speed(&settings);
	if (fd >= 0)
		close(fd);
	return speed == (uint32_t)SPEED_UNKNOWN || speed == UINT16_MAX ? 0 : speed;
}

/* Of which interface an address is; false if that is not to be used. */
static bool describe(int index, struct host_address *a)
{
	struct interface i;

	if (!is_running(index, &i) || i.flags & IFF_LOOPBACK)
		return false;
	strcpy(a->name, i.name);
	a->mtu = i.mtu;
	a->speed = interface_speed(i.name);
	return true;
}

static int address_found(const struct nlmsghdr *message, void *data)
{
	const struct ifaddrmsg *info = mnl_nlmsg_get_payload(message);
	const struct nlattr *attribute, *local = NULL;
	uint32_t flags = info->ifa_flags;
	struct found *f = data;
	struct host_address *a = &f->addresses[f->nr];

	/* An address of one link alone is nothing to offer. */
	if (f->nr == ADDRESSES_MAX || info->ifa_scope != RT_SCOPE_UNIVERSE ||
	    (info->ifa_family != AF_INET && info->ifa_family != AF_INET6))
		return MNL_CB_OK;
	mnl_attr_for_each(attribute, message, sizeof(*info)) {
		switch (mnl_attr_get_type(attribute)) {
		case IFA_ADDRESS:
			/* Of the peer, where there is a local one too. */
			if (!local)
				local = attribute;
			break;
		case IFA_LOCAL:
			local = attribute;
			break;
		case IFA_FLAGS:
			flags = mnl_attr_get_u32(attribute);
			break;
		}
	}
	if (!local || flags & FLEETING ||
	    mnl_attr_get_payload_len(local) != family_bits(info->ifa_family) / 8)
		return MNL_CB_OK;
	*a = (struct host_address){ .family = info->ifa_family, .prefix = info->ifa_prefixlen };
	memcpy(a->bytes, mnl_attr_get_payload(local), mnl_attr_get_payload_len(local));
	if ((!f->within || links_in_network(a, f->within)) && describe(info->ifa_index, a) &&
	    links_filter(a, 1, f->names, f->networks))
		f->nr++;
	return MNL_CB_OK;
}

int links_find(struct host_address addresses[ADDRESSES_MAX], const struct host_address *within,
	       const char *names, const char *networks, struct error *e)
{
	struct found f = {
		.addresses = addresses, .within = within, .names = names, .networks = networks,
	};
	const struct rtgenmsg any = { .rtgen_family = AF_UNSPEC };
	int error = -EINTR;

	for (int i = 0; i < TRIES && error == -EINTR; i++) {
		f.nr = 0;
		error = ask(RTM_GETADDR, NLM_F_DUMP, &any, sizeof(any), address_found, &f);
	}
	if (error)
		return error_set(e, error, "cannot find the network interfaces: %s",
				 strerror(-error));
	return f.nr;
}

bool links_is_running(const char *name)
{
	struct interface i;

	return is_running(if_nametoindex(name), &i);
}

/* ---- addresses of sockets, and in messages ----------------------------- */

bool links_from_socket(const struct sockaddr_storage *socket, struct host_address *a)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)socket;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)socket;
	bool mapped;

	*a = (struct host_address){ .family = socket->ss_family };
	switch (socket->ss_family) {
	case AF_INET:
		memcpy(a->bytes, &in->sin_addr, 4);
		break;
	case AF_INET6:
		mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
		a->family = mapped ? AF_INET : AF_INET6;
		memcpy(a->bytes, in6->sin6_addr.s6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
		break;
	default:
		return false;
	}
	a->prefix = family_bits(a->family);
	return true;
}

socklen_t links_to_socket(const struct host_address *a, uint16_t port,
			  struct sockaddr_storage *socket)
{
	struct sockaddr_in *in = (struct sockaddr_in *)socket;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)socket;

	*socket = (struct sockaddr_storage){ .ss_family = a->family };
	port = a->port ? a->port : port;
	if (a->family == AF_INET) {
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, a->bytes, 4);
		return sizeof(*in);
	}
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, a->bytes, 16);
	return sizeof(*in6);
}

json_t *links_pack(const struct host_address *addresses, unsigned int nr)
{
	json_t *list = json_array();
	char text[INET6_ADDRSTRLEN];

	for (unsigned int i = 0; i < nr; i++) {
		const struct host_address *a = &addresses[i];

		inet_ntop(a->family, a->bytes, text, sizeof(text));
		json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I, s:I}", "name", a->name,
						      "address", text, "prefix", a->prefix, "mtu",
						      (json_int_t)a->mtu, "speed",
						      (json_int_t)a->speed));
	}
	return list;
}

int links_unpack(const json_t *list, struct host_address addresses[ADDRESSES_MAX])
{
	json_int_t prefix, mtu = 0, speed = 0;
	const char *name, *text;
	unsigned int nr = 0;
	json_t *item;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) > ADDRESSES_MAX)
		return -EPROTO;
	json_array_foreach(list, i, item) {
		struct host_address *a = &addresses[nr++];

		*a = (struct host_address){ .family = 0 };
		if (json_unpack(item, "{s:s, s:s, s:I, s?I, s?I}", "name", &name, "address",
				&text, "prefix", &prefix, "mtu", &mtu, "speed", &speed) ||
		    strlen(name) >= sizeof(a->name) || !links_parse_address(text, a) ||
		    prefix < 0 || prefix > a->prefix || mtu < 0 || mtu > UINT32_MAX ||
		    speed < 0 || speed > UINT32_MAX)
			return -EPROTO;
		strcpy(a->name, name);
		a->prefix = prefix;
		a->mtu = mtu;
		a->speed = speed;
		mtu = 0;
		speed = 0;
	}
	return nr;
}
