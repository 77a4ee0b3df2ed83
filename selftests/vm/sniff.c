// SPDX-License-Identifier: GPL-2.0-only
/*
 * Look at every packet of an interface of this host, as somebody on the way could. With
 * a file that is made when it looks, and words: of the memory of a VM, or of what the
 * two sides say. When it is told to end it prints how many packets it has looked at,
 * how many had each of the words, and how many it has missed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS_MAX	4

static volatile sig_atomic_t ended;

static void end(int signal)
{
	(void)signal;
	ended = 1;
}

static int look_at(const char *interface)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = if_nametoindex(interface),
	};
	/* Nothing is to be missed while others have the CPU. */
	int fd = socket(AF_PACKET, SOCK_RAW, 0), room = 256 << 20;
	struct timeval t = { .tv_usec = 100000 };

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "cannot look at %s", interface);
	return fd;
}

int main(int argc, char **argv)
{
	const struct sigaction action = { .sa_handler = end };
	static char packet[1 << 18];
	unsigned long packets = 0, seen[WORDS_MAX] = { 0 };
	struct tpacket_stats stats;
	socklen_t size = sizeof(stats);
	ssize_t n;
	int fd;

	if (argc < 4 || argc > 3 + WORDS_MAX)
		errx(1, "usage: sniff INTERFACE READY WORD...");
	fd = look_at(argv[1]);
	sigaction(SIGTERM, &action, NULL);
	if (close(open(argv[2], O_WRONLY | O_CREAT, 0644)))
		err(1, "%s", argv[2]);
	/* What has come by the time that it is told is looked at as well. */
	while ((n = recv(fd, packet, sizeof(packet), 0)) >= 0 || !ended) {
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			err(1, "recv");
		packets += n > 0;
		for (int i = 3; i < argc; i++)
			seen[i - 3] += n > 0 && memmem(packet, n, argv[i], strlen(argv[i]));
	}
	if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size))
		err(1, "PACKET_STATISTICS");
	printf("packets=%lu", packets);
	for (int i = 3; i < argc; i++)
		printf(" %s=%lu", argv[i], seen[i - 3]);
	printf(" missed=%u\n", stats.tp_drops);
	return 0;
}
