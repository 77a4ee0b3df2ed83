// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device back ends: who writes guest memory on a VMM's behalf and from outside
 * of it. vhost-net puts received packets there from a thread of the kernel, a
 * vhost-user back end from a process of its own that got the region's
 * descriptor over a socket.
 */
#include "workload.h"

#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <net/ethernet.h>
#include <sys/eventfd.h>

/* Fetch while one writer, whose progress this is, goes on; in the end it returns. */
static void fetch_meanwhile(const struct mem *m, struct gate *gate, const __u64 *progress)
{
	struct shadow s;
	unsigned int round;
	int i;

	gate->writers = 1;
	shadow_start(&s, m);
	for (round = 0; round < 20; round++) {
		for (i = 0; i < 5; i++) {
			__u64 seen = __atomic_load_n(progress, __ATOMIC_RELAXED);

			shadow_pass(&s);
			WAIT_FOR(__atomic_load_n(progress, __ATOMIC_RELAXED) > seen + 1, RUN_S);
		}
		shadow_check(&s, gate, round);
	}
	gate_close(gate);
	gate_end(gate);
	diag("%llu passes, %llu pages copied", (unsigned long long)s.passes,
	     (unsigned long long)s.copied);
}

/* -------------------------------------------------------------- vhost-net */

#define TAP_NAME	"migr-tap"
#define RING		64U
/* In pages of the region: the receive queue, then what packets go into. */
#define DESC_PAGE	0UL
#define AVAIL_PAGE	1UL
#define USED_PAGE	2UL
#define BUFFER_PAGE	8UL
#define FRAME_BYTES	1400UL
#define FRAME_TYPE	0x88b5	/* for local experiments */
#define HEADER_BYTES	sizeof(struct virtio_net_hdr_v1)

struct card {
	const struct mem *mem;
	int vhost;
	int tap;
	int kick;
	int sender;	/* what is sent here is received by the card */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	__u16 posted;
	__u64 seed;
};

static void tap_open(struct card *c)
{
	struct ifreq ifr = { .ifr_name = TAP_NAME, .ifr_flags = IFF_TAP | IFF_NO_PI };
	struct sockaddr_ll address = { .sll_family = AF_PACKET };

	run_command("modprobe -q tun");
	c->tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (c->tap < 0)
		test_skip("no /dev/net/tun: %s", strerror(errno));
	SYS(ioctl(c->tap, TUNSETIFF, &ifr));
	c->sender = (int)SYS(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
	/* Nothing of the kernel's own is to be received. */
	file_write("/proc/sys/net/ipv6/conf/" TAP_NAME "/disable_ipv6", "1");
	SYS(ioctl(c->sender, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	SYS(ioctl(c->sender, SIOCSIFFLAGS, &ifr));
	address.sll_ifindex = (int)if_nametoindex(TAP_NAME);
	SYS(bind(c->sender, (struct sockaddr *)&address, sizeof(address)));
}

/* What a VMM does for its guest: the queue is where the guest says. */
static void card_open(struct card *c, const struct mem *m)
{
	struct {
		struct vhost_memory memory;
		struct vhost_memory_region region;
	} table = {
		.memory.nregions = 1,
		.region = {
			.memory_size = m->len, .userspace_addr = (uintptr_t)m->p,
		},
	};
	struct vhost_vring_addr addr = {
		.desc_user_addr = (uintptr_t)mem_page(m, DESC_PAGE),
		.avail_user_addr = (uintptr_t)mem_page(m, AVAIL_PAGE),
		.used_user_addr = (uintptr_t)mem_page(m, USED_PAGE),
	};
	__u64 features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VHOST_NET_F_VIRTIO_NET_HDR;
	struct vhost_vring_state num = { .num = RING }, base = { 0 };
	struct vhost_vring_file file = { 0 };

	memset(c, 0, sizeof(*c));
	c->mem = m;
	c->seed = test_seed;
	c->desc = (struct vring_desc *)mem_page(m, DESC_PAGE);
	c->avail = (struct vring_avail *)mem_page(m, AVAIL_PAGE);
	c->used = (struct vring_used *)mem_page(m, USED_PAGE);
	tap_open(c);
	run_command("modprobe -q vhost_net");
	c->vhost = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
	if (c->vhost < 0)
		test_skip("no /dev/vhost-net: %s", strerror(errno));
	c->kick = (int)SYS(eventfd(0, EFD_CLOEXEC));
	SYS(ioctl(c->vhost, VHOST_SET_OWNER, NULL));
	SYS(ioctl(c->vhost, VHOST_SET_FEATURES, &features));
	SYS(ioctl(c->vhost, VHOST_SET_MEM_TABLE, &table));
	SYS(ioctl(c->vhost, VHOST_SET_VRING_NUM, &num));
	SYS(ioctl(c->vhost, VHOST_SET_VRING_BASE, &base));
	SYS(ioctl(c->vhost, VHOST_SET_VRING_ADDR, &addr));
	file.fd = c->kick;
	SYS(ioctl(c->vhost, VHOST_SET_VRING_KICK, &file));
	file.fd = c->tap;
	SYS(ioctl(c->vhost, VHOST_NET_SET_BACKEND, &file));
}

/* The guest's part: room for one more packet, anywhere. */
static __u64 card_post(struct card *c)
{
	__u64 room = c->mem->len - BUFFER_PAGE * TEST_PAGE - FRAME_BYTES - HEADER_BYTES;
	__u64 at = BUFFER_PAGE * TEST_PAGE + rnd(&c->seed) % room;
	__u64 one = 1;

	c->desc[c->posted % RING] = (struct vring_desc){
		.addr = at, .len = FRAME_BYTES + HEADER_BYTES, .flags = VRING_DESC_F_WRITE,
	};
	c->avail->ring[c->posted % RING] = c->posted % RING;
	__atomic_store_n(&c->avail->idx, ++c->posted, __ATOMIC_RELEASE);
	SYS(write(c->kick, &one, sizeof(one)));
	return at;
}

/* A packet arrives at the card; when this returns it is in memory. */
static void card_receive(struct card *c, __u64 at)
{
	unsigned char frame[FRAME_BYTES];
	struct ether_header *header = (struct ether_header *)frame;

	fill_random(frame, sizeof(frame), &c->seed);
	memset(header->ether_dhost, 0xff, sizeof(header->ether_dhost));
	header->ether_type = htons(FRAME_TYPE);
	CHECK_EQ(send(c->sender, frame, sizeof(frame), 0), sizeof(frame));
	WAIT_FOR(__atomic_load_n(&c->used->idx, __ATOMIC_ACQUIRE) == c->posted, RUN_S);
	CHECK(!memcmp(c->mem->p + at + HEADER_BYTES, frame, sizeof(frame)),
	      "received something else");
}

static void received_packets(void)
{
	struct mem m = mem_new(256);
	__u64 *map = private_alloc(bitmap_words(m.pages) * sizeof(*map));
	struct card c;
	int i, t;

	card_open(&c, &m);
	/* As a guest that has been running has it: all of it is mapped. */
	memset(mem_page(&m, BUFFER_PAGE), 1, m.len - BUFFER_PAGE * TEST_PAGE);
	t = (int)CALL(region_track(m.fd));
	for (i = 0; i < 40; i++) {
		__u64 at = card_post(&c), page;

		tracker_settle(t, m.pages);
		card_receive(&c, at);
		CALL(tracker_fetch(t, 0, m.pages, map, NULL));
		CHECK(bit_test(map, USED_PAGE), "packet %d: the bit of the queue is clear", i);
		for (page = at / TEST_PAGE;
		     page <= (at + HEADER_BYTES + FRAME_BYTES - 1) / TEST_PAGE; page++)
			CHECK(bit_test(map, page), "packet %d is in page %llu, whose bit is clear",
			      i, (unsigned long long)page);
	}
}

struct receiver {
	struct gate *gate;
	struct card card;
	__u64 packets;
};

static void *receiver_thread(void *arg)
{
	struct receiver *r = arg;

	while (gate_pass(r->gate)) {
		card_receive(&r->card, card_post(&r->card));
		__atomic_add_fetch(&r->packets, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void received_meanwhile(void)
{
	struct receiver r = { .gate = shared_alloc(sizeof(*r.gate)) };
	struct mem m = mem_new(256);
	pthread_t thread;

	card_open(&r.card, &m);
	thread = thread_start(receiver_thread, &r);
	fetch_meanwhile(&m, r.gate, &r.packets);
	thread_join(thread);
	diag("%llu packets", (unsigned long long)r.packets);
}

/* ------------------------------------------------------------- vhost-user */

#define STAMPS_A_MAPPING	64

static void fd_send(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = "", byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	CHECK_EQ(sendmsg(sock, &msg, 0), 1);
}

static int fd_receive(int sock)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd;

	CHECK_EQ(recvmsg(sock, &msg, MSG_CMSG_CLOEXEC), 1);
	CHECK(CMSG_FIRSTHDR(&msg), "no descriptor came");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/*
 * It was there before the region was, and maps what it is sent: before tracking
 * starts or after, so again and again.
 */
static void back_end(int sock, struct writer *w, __u64 pages)
{
	struct mem m = { .pages = pages, .len = pages * TEST_PAGE };

	m.fd = fd_receive(sock);
	w->mem = &m;
	while (gate_pass(w->gate)) {
		if (w->stamp % STAMPS_A_MAPPING == 0) {
			if (w->p)
				SYS(munmap(w->p, m.len));
			w->p = map_shared(m.fd, m.len);
		}
		writer_stamp(w, rnd(&w->seed) % pages);
	}
	_exit(0);
}

static void other_process(void)
{
	struct gate *gate = shared_alloc(sizeof(*gate));
	struct writer *w = shared_alloc(sizeof(*w));
	struct mem m;
	int pair[2];
	pid_t pid;

	unix_pair(pair);
	*w = (struct writer){ .gate = gate, .seed = test_seed };
	pid = child_start();
	if (!pid)
		back_end(pair[1], w, 512);
	m = mem_new(512);
	memset(m.p, 1, m.len);
	fd_send(pair[0], m.fd);
	fetch_meanwhile(&m, gate, &w->stamp);
	child_join(pid);
	diag("%llu stamps", (unsigned long long)w->stamp);
}

static const struct test_case cases[] = {
	CASE(received_packets),
	CASE(received_meanwhile),
	CASE(other_process),
};

int main(int argc, char **argv)
{
	return test_main(cases, ARRAY_SIZE(cases), argc, argv);
}
