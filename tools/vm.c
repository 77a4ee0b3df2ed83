// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VMs of this host: processes with memory on /dev/migr, their names and
 * QMP sockets.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

bool vm_qmp_path(pid_t pid, struct text *path, struct text *error)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	struct text folder;

	if (geteuid() == 0)
		text_set(&folder, "/run/migr");
	else if (runtime && *runtime == '/' && strlen(runtime) < 64)
		text_set(&folder, "%s/migr", runtime);
	else
		return text_set(error, "no place for a QMP socket: XDG_RUNTIME_DIR is not set, and only root has /run/migr");
	if (mkdir(folder.s, 0750) < 0 && errno != EEXIST) {
		text_set(error, "cannot make %.64s: %s", folder.s,
			 strerror(errno));
		return false;
	}
	text_set(path, "%.100s/%d.qmp", folder.s, pid);
	return true;
}

/* A region that the program which we become inherits. */
static int inherited_region(uint64_t bytes, struct text *error)
{
	struct migr *m;
	int fd = -1;

	if (migr_open(&m) == 0)
		fd = migr_region_create(m, "ram", bytes);
	if (fd < 0)
		text_set(error, "%.500s", m ? migr_error(m) : "no memory");
	else
		fcntl(fd, F_SETFD, 0);
	migr_close(m);
	return fd;
}

void vm_become(char *const *argv, const char *backend, int control_fd, struct text *error)
{
	struct text path;
	uint64_t bytes;
	char **command;
	int fd;

	if (!command_check(argv, control_fd >= 0, &bytes, error) ||
	    !vm_qmp_path(getpid(), &path, error))
		return;
	fd = inherited_region(bytes, error);
	if (fd < 0)
		return;
	command = command_on_migr(argv, backend, fd, bytes, path.s, control_fd);
	if (command) {
		execvp(command[0], command);
		text_set(error, "cannot run %s: %s", command[0], strerror(errno));
		command_free(command);
	} else {
		text_set(error, "no memory");
	}
	close(fd);
}

/* The command line of a process as an argv; free() frees all of it. */
static char **read_argv(pid_t pid)
{
	size_t length = 0, size = 1 << 16, count = 0, i;
	char path[64], *bytes;
	char **argv = NULL;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	bytes = malloc(size);
	while (bytes && length < size - 1 && (n = read(fd, bytes + length, size - 1 - length)) > 0)
		length += n;
	close(fd);
	if (!bytes)
		return NULL;
	bytes[length] = '\0';
	for (i = 0; i < length; i++)
		count += !bytes[i];
	/* The words follow the pointers to them. */
	argv = malloc((count + 2) * sizeof(*argv) + length + 1);
	if (argv) {
		char *copy = (char *)(argv + count + 2);

		memcpy(copy, bytes, length + 1);
		for (i = 0, count = 0; i < length; i += strlen(copy + i) + 1)
			argv[count++] = copy + i;
		argv[count] = NULL;
	}
	free(bytes);
	return argv;
}

/* This very program: it may hold a region, but is no VM. */
static bool is_migr(pid_t pid)
{
	char path[64], comm[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (!f)
		return true;
	if (!fgets(comm, sizeof(comm), f))
		comm[0] = '\0';
	fclose(f);
	return !strcmp(comm, "migr\n") || !strcmp(comm, MIGR_GUARDIAN "\n");
}

static void describe(struct vm *vm, pid_t pid)
{
	char **argv = read_argv(pid);
	struct text path;

	vm->pid = pid;
	vm->name.s[0] = '\0';
	vm->qmp.s[0] = '\0';
	if (!argv)
		return;
	command_name(argv, &vm->name);
	command_qmp(argv, &path);
	if (path.s[0] == '/')
		vm->qmp = path;
	else if (path.s[0])	/* seen from the VM's folder */
		text_set(&vm->qmp, "/proc/%d/cwd/%.400s", pid, path.s);
	free(argv);
}

void vm_release(struct vm *vm)
{
	while (vm->nr_regions > 0)
		close(vm->regions[--vm->nr_regions].fd);
}

static pid_t next_process(DIR *proc)
{
	struct dirent *entry;

	while ((entry = readdir(proc)))
		if (isdigit((unsigned char)entry->d_name[0]) && !is_migr(atoi(entry->d_name)))
			return atoi(entry->d_name);
	return 0;
}

void vm_each(struct migr *m, void (*each)(const struct vm *vm, void *data), void *data)
{
	DIR *proc = opendir("/proc");
	struct vm vm;
	pid_t pid;

	while (proc && (pid = next_process(proc))) {
		vm.nr_regions = migr_region_take(m, pid, vm.regions, VM_REGIONS_MAX);
		if (vm.nr_regions < 0)
			continue;
		describe(&vm, pid);
		each(&vm, data);
		vm_release(&vm);
	}
	if (proc)
		closedir(proc);
}

static bool take(struct migr *m, struct vm *vm, struct text *error)
{
	vm->nr_regions = migr_region_take(m, vm->pid, vm->regions, VM_REGIONS_MAX);
	if (vm->nr_regions > 0)
		return true;
	if (vm->nr_regions == -ENOENT)
		text_set(error, "process %d has its memory elsewhere, not on " MIGR_DEVICE "; start the VM with 'migr run qemu-system-x86_64 ...' so that it can be moved",
			 vm->pid);
	else
		text_set(error, "%.500s", migr_error(m));
	return false;
}

/* Several processes can carry a VM's name, wrappers say; one has the memory. */
static bool find_name(struct migr *m, const char *name, struct vm *vm, struct text *error)
{
	DIR *proc = opendir("/proc");
	struct vm other;
	bool found = false;
	pid_t pid;

	text_set(error, "there is no VM named '%.64s' (see 'migr ls')", name);
	while (proc && (pid = next_process(proc))) {
		describe(&other, pid);
		if (strcmp(other.name.s, name) || !take(m, &other, error))
			continue;
		if (found) {
			text_set(error, "several VMs are named '%.64s': processes %d and %d; give a process",
				 name, vm->pid, other.pid);
			vm_release(&other);
			vm_release(vm);
			found = false;
			break;
		}
		*vm = other;
		found = true;
	}
	if (proc)
		closedir(proc);
	return found;
}

bool vm_find(struct migr *m, const char *which, struct vm *vm, struct text *error)
{
	struct text by_number, by_name;
	char *end;
	long pid = strtol(which, &end, 10);

	if (*end || end == which || pid <= 0)
		return find_name(m, which, vm, error);
	if (pid > INT_MAX) {
		text_set(&by_number, "no process has the number %.64s", which);
	} else {
		describe(vm, pid);
		if (take(m, vm, &by_number))
			return true;
		/* One that may not be looked at can still be the one that is meant. */
		if (vm->nr_regions != -ESRCH && vm->nr_regions != -EINVAL &&
		    vm->nr_regions != -ENOENT) {
			*error = by_number;
			return false;
		}
	}
	/* A name may be a number. */
	if (find_name(m, which, vm, &by_name))
		return true;
	return text_set(error, "%.200s; %.300s", by_name.s, by_number.s);
}
