// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A VMM in one file that moves its guest with libmigr alone.
 *
 *	ringvmm receive ADDRESS
 *	ringvmm send [--verify] [--forget] ADDRESS
 *
 * The guest has two vCPUs and no operating system: see ringvmm_guest.h. Its
 * memory is a region of /dev/migr. Which pages it writes is learnt from KVM's
 * dirty rings and reported to the region, which is not write-protected.
 *
 * Most VMMs need nothing of the rings: without collect() and options.reported
 * the module sees every write to the memory by itself, whoever does it. With
 * them the VMM vouches for all writers, its own threads and vhost included. This
 * one has no devices, so the vCPUs are all there is.
 *
 * --verify compares the memory of both sides in the pause. --forget harvests
 * the rings and reports nothing, to show what comes of that.
 *
 * Exit status: 0 if the guest moved (send), or arrived and went on (receive);
 * 2 if it did not move and goes on here; 1 if anything else is wrong.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <migr.h>

#include "ringvmm_guest.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define VCPUS		2
#define PAGE		4096u
#define PAGES		4096u			/* 16 MiB */
#define MEMORY_BYTES	((uint64_t)PAGES * PAGE)
#define REGION_ID	0

/* Entries of a vCPU's ring: few, so that it gets full now and then. */
#define RING_ENTRIES	1024u
#define RING_BYTES	(RING_ENTRIES * sizeof(struct kvm_dirty_gfn))

/* What the guest has to get done to be seen to go on. */
#define GOES_ON_STEPS	20000u
#define GOES_ON_SECONDS	60

struct vcpu {
	struct vm *vm;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	struct kvm_dirty_gfn *ring;
	uint32_t next;				/* entry to harvest */
};

struct vm {
	struct migr *m;
	int region;
	uint8_t *memory;
	int kvm, fd;
	struct vcpu vcpus[VCPUS];
	atomic_bool stop;			/* vCPUs shall leave KVM_RUN for good */
	atomic_bool broken;			/* the guest or KVM is not well */
	atomic_uint harvested, ring_full;

	bool logging;				/* KVM logs the writes */
	bool forget;
	pthread_mutex_t log_lock;		/* of the log and of taking from rings */
	uint64_t log[PAGES / 64];		/* written and not yet reported */
};

/* ---- the log ---------------------------------------------------------- */

/*
 * Take what is in the rings over into vm->log, and have KVM log the next write to
 * each of these pages again.
 *
 * A page that is in a ring can be written on and on without another entry, until
 * the reset. So nobody may read it as "what was written" before the reset, and
 * that means: reset first, report after. A page reported before its reset could
 * be sent, be written again unseen, and be out of date on the other side.
 */
static int harvest(struct vm *vm)
{
	int error = 0;

	pthread_mutex_lock(&vm->log_lock);
	for (struct vcpu *v = vm->vcpus; v < vm->vcpus + VCPUS; v++) {
		struct kvm_dirty_gfn *entry = &v->ring[v->next % RING_ENTRIES];

		while (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY) {
			/* There is one slot, and it is all of the region. */
			vm->log[entry->offset / 64] |= 1ull << entry->offset % 64;
			__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			vm->harvested++;
			entry = &v->ring[++v->next % RING_ENTRIES];
		}
	}
	if (ioctl(vm->fd, KVM_RESET_DIRTY_RINGS) < 0)
		error = -errno;
	pthread_mutex_unlock(&vm->log_lock);
	return error;
}

/* Report to the region what has been harvested, here and when a ring was full. */
static int report(struct vm *vm)
{
	int error = 0;

	pthread_mutex_lock(&vm->log_lock);
	if (!vm->forget)
		error = migr_region_merge(vm->m, vm->region, 0, PAGES, vm->log, NULL);
	if (!error)
		memset(vm->log, 0, sizeof(vm->log));
	pthread_mutex_unlock(&vm->log_lock);
	return error;
}

static int set_memory(struct vm *vm, bool logging)
{
	struct kvm_userspace_memory_region slot = {
		.flags = logging ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.memory_size = MEMORY_BYTES,
		.userspace_addr = (uintptr_t)vm->memory,
	};

	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	vm->logging = logging;
	return 0;
}

/* ---- the virtual machine ---------------------------------------------- */

static void *run_vcpu(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;

	while (!vm->stop) {
		if (ioctl(v->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				continue;
			warn("KVM_RUN");
			break;
		}
		if (v->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) {
			/* A VMM with devices serves them here. */
			warnx("the guest exits for reason %u", v->run->exit_reason);
			break;
		}
		if (harvest(vm))
			break;
		vm->ring_full++;
	}
	if (!vm->stop)
		vm->broken = true;
	return NULL;
}

static void vm_start(struct vm *vm)
{
	vm->stop = false;
	for (struct vcpu *v = vm->vcpus; v < vm->vcpus + VCPUS; v++) {
		v->run->immediate_exit = 0;
		if (pthread_create(&v->thread, NULL, run_vcpu, v))
			errx(1, "no thread for a vCPU");
	}
}

/*
 * On return no vCPU is in KVM_RUN: the guest writes nothing any more, and all it
 * has written is in the rings, what the CPU had buffered included. A VMM with
 * devices has to wait for their I/O as well.
 */
static void vm_stop(struct vm *vm)
{
	vm->stop = true;
	for (struct vcpu *v = vm->vcpus; v < vm->vcpus + VCPUS; v++) {
		v->run->immediate_exit = 1;
		pthread_kill(v->thread, SIGUSR1);
		pthread_join(v->thread, NULL);
	}
}

static void *map(int fd, size_t length, off_t offset)
{
	void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void vcpu_create(struct vm *vm, unsigned int number)
{
	struct vcpu *v = &vm->vcpus[number];

	v->vm = vm;
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, number);
	if (v->fd < 0)
		err(1, "KVM_CREATE_VCPU");
	v->run = map(v->fd, ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), 0);
	v->ring = map(v->fd, RING_BYTES, KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
}

/* A stopped machine, its memory in this region. */
static void vm_create(struct vm *vm, int region)
{
	struct kvm_enable_cap rings = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { RING_BYTES } };
	void *memory;
	size_t length;

	vm->region = region;
	if (migr_region_map(vm->m, region, &memory, &length))
		errx(1, "%s", migr_error(vm->m));
	vm->memory = memory;
	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0)
		err(1, "/dev/kvm");
	vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		err(1, "KVM_CREATE_VM");
	/* Before there is a vCPU. */
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &rings) < 0)
		err(1, "this kernel has no dirty rings");
	if (set_memory(vm, false))
		err(1, "KVM_SET_USER_MEMORY_REGION");
	for (unsigned int i = 0; i < VCPUS; i++)
		vcpu_create(vm, i);
}

static void vm_destroy(struct vm *vm)
{
	for (struct vcpu *v = vm->vcpus; v < vm->vcpus + VCPUS; v++)
		close(v->fd);
	close(vm->fd);
	close(vm->kvm);
	munmap(vm->memory, MEMORY_BYTES);
	close(vm->region);
}

/* ---- the guest -------------------------------------------------------- */

static void flat(struct kvm_segment *s, uint8_t type)
{
	*s = (struct kvm_segment) {
		.limit = 0xffffffff, .selector = 8, .type = type, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
}

static void guest_boot(struct vm *vm)
{
	memcpy(vm->memory, guest_begin, guest_end - guest_begin);
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct kvm_regs regs = {
			.rip = 0, .rflags = 2, .rax = 0x9e3779b9 + i, .rdi = i,
			.rbp = GUEST_TABLES + i * GUEST_TABLE,
		};
		struct kvm_sregs sregs;

		if (ioctl(vm->vcpus[i].fd, KVM_GET_SREGS, &sregs) < 0)
			err(1, "KVM_GET_SREGS");
		flat(&sregs.cs, 0xb);
		flat(&sregs.ds, 0x3);
		sregs.es = sregs.ds;
		sregs.fs = sregs.ds;
		sregs.gs = sregs.ds;
		sregs.ss = sregs.ds;
		sregs.cr0 = 0x33;	/* PE, MP, ET, NE */
		sregs.cr4 = 0x600;	/* OSFXSR, OSXMMEXCPT */
		if (ioctl(vm->vcpus[i].fd, KVM_SET_SREGS, &sregs) < 0 ||
		    ioctl(vm->vcpus[i].fd, KVM_SET_REGS, &regs) < 0)
			err(1, "a vCPU's first state");
	}
}

/* ---- its state -------------------------------------------------------- */

/*
 * What is saved and loaded, in this order. A guest with an operating system has
 * more: CPUID, which must be the same on both sides, MSRs, interrupt controllers,
 * timers, devices.
 */
struct part {
	const char *name;
	unsigned long get, set;
	size_t size;
};

static const struct part vm_part = {
	"clock", KVM_GET_CLOCK, KVM_SET_CLOCK, sizeof(struct kvm_clock_data)
};

static const struct part vcpu_parts[] = {
	{ "sregs", KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs) },
	{ "regs", KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs) },
	{ "xcrs", KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs) },
	{ "xsave", KVM_GET_XSAVE, KVM_SET_XSAVE, sizeof(struct kvm_xsave) },
	{ "debugregs", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs) },
	{ "events", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events) },
	{ "mp_state", KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(struct kvm_mp_state) },
};

union any_part {
	uint8_t bytes[sizeof(struct kvm_xsave)];
	struct kvm_xsave aligned;
};

static int save_part(struct migr_source *s, int fd, const struct part *part)
{
	union any_part any = { 0 };

	if (ioctl(fd, part->get, &any) < 0)
		return migr_source_fail(s, -errno, "cannot get %s: %s", part->name,
					strerror(errno));
	return migr_source_write_state(s, &any, part->size);
}

static int load_part(struct migr_destination *d, int fd, const struct part *part)
{
	union any_part any;
	size_t have = 0;
	ssize_t n;

	for (; have < part->size; have += n) {
		n = migr_destination_read_state(d, any.bytes + have, part->size - have);
		if (n < 0)
			return n;
		if (!n)
			return migr_destination_fail(d, -EIO, "the state ends at %s", part->name);
	}
	if (ioctl(fd, part->set, &any) < 0)
		return migr_destination_fail(d, -errno, "cannot set %s: %s", part->name,
					     strerror(errno));
	return 0;
}

/* ---- the source ------------------------------------------------------- */

static int source_collect(struct migr_source *s, void *data)
{
	struct vm *vm = data;
	int error;

	/* The first call: what is written from now on is in the log. */
	if (!vm->logging) {
		error = set_memory(vm, true);
		if (error)
			return migr_source_fail(s, error, "cannot log writes: %s",
						strerror(-error));
	}
	error = harvest(vm);
	if (error)
		return migr_source_fail(s, error, "cannot reset the rings: %s", strerror(-error));
	error = report(vm);
	return error ? migr_source_fail(s, error, "%s", migr_error(vm->m)) : 0;
}

static int source_pause(struct migr_source *s, void *data, uint64_t *stopped_ns)
{
	(void)s;
	(void)stopped_ns;
	vm_stop(data);
	return 0;
}

static int source_save(struct migr_source *s, void *data)
{
	struct vm *vm = data;
	int error;

	error = save_part(s, vm->fd, &vm_part);
	for (unsigned int i = 0; i < VCPUS && !error; i++)
		for (unsigned int n = 0; n < ARRAY_SIZE(vcpu_parts) && !error; n++)
			error = save_part(s, vm->vcpus[i].fd, &vcpu_parts[n]);
	return error;
}

static int source_resume(struct migr_source *s, void *data)
{
	(void)s;
	vm_start(data);
	return 0;
}

static const struct migr_source_ops source_ops = {
	.collect = source_collect,
	.pause = source_pause,
	.save = source_save,
	.resume = source_resume,
};

/* ---- the destination -------------------------------------------------- */

static int destination_prepare(struct migr_destination *d, void *data,
			       const struct migr_request *request)
{
	struct vm *vm = data;
	int region;

	if (request->nr_regions != 1 || request->regions[0].length != MEMORY_BYTES)
		return migr_destination_fail(d, -EINVAL, "not a machine of this VMM");
	region = migr_region_create(vm->m, request->regions[0].name, MEMORY_BYTES);
	if (region < 0)
		return migr_destination_fail(d, region, "%s", migr_error(vm->m));
	vm_create(vm, region);
	return migr_destination_add_region(d, region, request->regions[0].id);
}

static int destination_load(struct migr_destination *d, void *data)
{
	struct vm *vm = data;
	uint8_t more;
	int error;

	error = load_part(d, vm->fd, &vm_part);
	for (unsigned int i = 0; i < VCPUS && !error; i++)
		for (unsigned int n = 0; n < ARRAY_SIZE(vcpu_parts) && !error; n++)
			error = load_part(d, vm->vcpus[i].fd, &vcpu_parts[n]);
	if (error)
		return error;
	if (migr_destination_read_state(d, &more, 1))
		return migr_destination_fail(d, -EIO, "more state than this VMM knows");
	return 0;
}

static int destination_resume(struct migr_destination *d, void *data)
{
	(void)d;
	vm_start(data);
	return 0;
}

static void destination_abort(struct migr_destination *d, void *data)
{
	struct vm *vm = data;

	(void)d;
	if (vm->memory)
		vm_destroy(vm);
}

static const struct migr_destination_ops destination_ops = {
	.prepare = destination_prepare,
	.load = destination_load,
	.resume = destination_resume,
	.abort = destination_abort,
};

/* ---- both ------------------------------------------------------------- */

static uint32_t guest_steps(const struct vm *vm, unsigned int vcpu)
{
	return __atomic_load_n((uint32_t *)(vm->memory + GUEST_STEPS) + vcpu, __ATOMIC_RELAXED);
}

/* Whether every vCPU gets on from here, and finds its memory as it left it. */
static bool guest_goes_on(struct vm *vm, uint32_t steps)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	time_t end = time(NULL) + GOES_ON_SECONDS;
	uint32_t from[VCPUS];

	for (unsigned int i = 0; i < VCPUS; i++)
		from[i] = guest_steps(vm, i);
	for (unsigned int i = 0; i < VCPUS; i++)
		while (!vm->broken && guest_steps(vm, i) - from[i] < steps) {
			if (time(NULL) > end) {
				warnx("vCPU %u has done %u of %u steps", i,
				      guest_steps(vm, i) - from[i], steps);
				return false;
			}
			nanosleep(&pause, NULL);
		}
	for (unsigned int i = 0; i < VCPUS; i++)
		printf("vCPU %u went on from step %u to %u\n", i, from[i], guest_steps(vm, i));
	return !vm->broken;
}

static void print_passes(const struct vm *vm, const struct migr_result *result)
{
	for (uint32_t i = 0; i < result->nr_passes; i++)
		printf("pass %u: %llu of %u pages\n", i + 1,
		       (unsigned long long)result->passes[i].pages, PAGES);
	printf("harvested=%u identical=%d\n", vm->harvested, result->identical);
}

static int send_vm(struct vm *vm, const char *address, bool verify)
{
	const struct migr_source_options options = {
		.vm_name = "ringvmm",
		.verify = verify,
		.reported = true,
		.tls.insecure = true,
	};
	struct migr_result result;
	struct migr_source *s;
	int region;
	bool well;

	region = migr_region_create(vm->m, "memory", MEMORY_BYTES);
	if (region < 0)
		errx(1, "%s", migr_error(vm->m));
	vm_create(vm, region);
	guest_boot(vm);
	vm_start(vm);
	if (!guest_goes_on(vm, GOES_ON_STEPS))
		return 1;

	if (migr_source_new(vm->m, &s) ||
	    migr_source_add_region(s, region, REGION_ID, "memory"))
		errx(1, "%s", migr_error(vm->m));
	migr_source_run(s, address, &options, &source_ops, vm, &result);
	print_passes(vm, &result);
	if (result.outcome == MIGR_OUTCOME_MOVED)
		return 0;
	warnx("%s", migr_source_error(s));
	if (result.outcome != MIGR_OUTCOME_HERE)
		return 1;
	/*
	 * It could stop logging first. This way there are more pages written than
	 * the rings have room for, and run_vcpu() sees to it.
	 */
	well = guest_goes_on(vm, GOES_ON_STEPS);
	printf("ring-full=%u\n", vm->ring_full);
	if (set_memory(vm, false) || harvest(vm))
		return 1;
	return well ? 2 : 1;
}

static int receive_vm(struct vm *vm, const char *address)
{
	const struct migr_destination_options options = { .tls.insecure = true };
	struct migr_destination *d;
	struct migr_result result;

	if (migr_destination_new(vm->m, &d))
		errx(1, "%s", migr_error(vm->m));
	if (migr_destination_listen(d, address))
		errx(1, "%s", migr_destination_error(d));
	puts("listening");
	if (migr_destination_run(d, &options, &destination_ops, vm, &result))
		errx(1, "%s", migr_destination_error(d));
	if (!guest_goes_on(vm, GOES_ON_STEPS))
		return 1;
	vm_stop(vm);
	vm_destroy(vm);
	migr_destination_free(d);
	return 0;
}

static void kick(int signal)
{
	(void)signal;
}

int main(int argc, char **argv)
{
	static struct vm vm;
	/* It has to interrupt KVM_RUN, and nothing more. */
	const struct sigaction action = { .sa_handler = kick };
	bool verify = false;
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 2; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--verify"))
			verify = true;
		else if (!strcmp(argv[i], "--forget"))
			vm.forget = true;
		else
			break;
	}
	if (i != argc - 1)
		errx(1, "usage: ringvmm receive ADDRESS | send [--verify] [--forget] ADDRESS");
	pthread_mutex_init(&vm.log_lock, NULL);
	sigaction(SIGUSR1, &action, NULL);
	if (migr_open(&vm.m))
		errx(1, "%s", migr_error(vm.m));
	if (!strcmp(argv[1], "send"))
		return send_vm(&vm, argv[i], verify);
	if (!strcmp(argv[1], "receive"))
		return receive_vm(&vm, argv[i]);
	errx(1, "neither send nor receive: %s", argv[1]);
}
