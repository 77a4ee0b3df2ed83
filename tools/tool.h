/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the migr command share.
 */
#ifndef MIGR_TOOL_H
#define MIGR_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <jansson.h>

#include "migr.h"

/* Exit statuses; a signal adds 128 to its number. */
enum {
	EXIT_MOVED = 0,
	EXIT_HERE = 1,		/* failed: nothing has changed */
	EXIT_USAGE = 2,
	EXIT_UNKNOWN = 3,	/* COMMIT was sent and not confirmed */
	EXIT_STUCK = 4,		/* the VM is paused and could not be resumed */
};

/* A path, or a sentence about what went wrong. */
struct text {
	char s[512];
};

/* Set it, cut to fit; returns false for those that report a failure. */
bool text_set(struct text *t, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The commands, each with its own argv[0]. */
int cmd_run(int argc, char **argv);
int cmd_receive(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_pki(int argc, char **argv);

/* ---- migr.c and report.c ---------------------------------------------- */

/* Make text safe to print: a question mark for what is no UTF-8 or controls a terminal. */
void text_clean(char *s);
/* "migr: ..." on standard error; returns EXIT_HERE. */
int complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A number of an option; says what is wrong and returns false otherwise. */
bool parse_number(const char *option, const char *text, unsigned long min,
		  unsigned long max, uint32_t *value);

/* Bits a second, with K, M or G for the powers of 1000; *value is in bytes. */
bool parse_rate(const char *option, const char *text, uint64_t *value);

/* One JSON object on a line of standard output. Steals the reference. */
void print_json(json_t *object);
void print_progress(const struct migr_progress *p, bool json);
/* End the progress line on a terminal, if there is one. */
void end_progress(void);
/* What a run came to; sentence is NULL if it succeeded. report may be NULL. */
void print_result(const struct migr_result *r, const char *vm, const char *sentence,
		  bool source, bool json, FILE *report);

/* ---- tls.c: options of send and receive ------------------------------- */

/* As what getopt_long() returns, beside a command's own. */
enum { TLS_CA = 100, TLS_CERT, TLS_KEY, TLS_PEER, TLS_CIPHER, TLS_INSECURE };

/* Take it, if it is one of these. */
bool tls_option(int option, const char *value, struct migr_tls *tls);

/* ---- config.c: what holds for all migrations of this host -------------- */

#define CONFIG_FILE	"/etc/migr/config.json"

struct config {
	struct text networks;	/* as --network takes them; "": none */
};

/* A file that is not there configures nothing; if there is something wrong, a sentence. */
bool config_read(const char *path, struct config *config, struct text *error);
/* What an address is of, if not of TCP: "a UNIX socket"; else NULL. */
const char *not_tcp(const char *address);
/*
 * *networks, unless an option has set it, or the address is none of a network;
 * complains of CONFIG_FILE and returns false.
 */
bool config_networks(const char *address, const char **networks);

/* ---- command.c: QEMU's command line ----------------------------------- */

/* The value of -m in bytes, as QEMU reads it. */
bool memory_size(const char *value, uint64_t *bytes);

/*
 * Whether a QEMU command can be taken as it is, and how much RAM it asks for;
 * if not, a sentence in error.
 */
bool command_check(char *const *argv, bool incoming, uint64_t *bytes, struct text *error);

/* What 'migr run' calls the memory of a VM. */
#define MIGR_BACKEND	"migr-ram"

/* Whether QEMU takes this as the name of a memory backend. */
bool backend_valid(const char *name);

/*
 * A copy of a checked QEMU command with its RAM in a region, as the memory backend
 * of that name, and a QMP socket at qmp_path. control_fd, unless -1, is the
 * connected socket of a second monitor, and makes it a command that waits for a
 * migration. NULL if there is no memory for it. The caller frees it with
 * command_free().
 */
char **command_on_migr(char *const *argv, const char *backend, int memory_fd, uint64_t bytes,
		       const char *qmp_path, int control_fd);
void command_free(char **argv);

/* What a command line says of the VM's name and QMP socket; "" if nothing. */
void command_name(char *const *argv, struct text *name);
void command_qmp(char *const *argv, struct text *path);

/* ---- vm.c: the VMs of this host --------------------------------------- */

#define VM_REGIONS_MAX	MIGR_REGIONS_MAX

struct vm {
	pid_t pid;
	struct text name;
	struct text qmp;	/* path; "" if it has no QMP socket */
	struct migr_region regions[VM_REGIONS_MAX];
	int nr_regions;
};

/*
 * Become a QEMU command on a region of its own, waiting for a migration if it
 * has a control_fd (else -1). Returns only to tell why it could not.
 */
void vm_become(char *const *argv, const char *backend, int control_fd, struct text *error);
/* Make the folder of QMP sockets; the path of this process's one. */
bool vm_qmp_path(pid_t pid, struct text *path, struct text *error);
/*
 * A VM by process or by QEMU's -name, with its regions taken. A number is a
 * process if that has memory on /dev/migr, else a name.
 */
bool vm_find(struct migr *m, const char *which, struct vm *vm, struct text *error);
void vm_release(struct vm *vm);
/* Call for each VM on /dev/migr that may be looked at; its regions are lent. */
void vm_each(struct migr *m, void (*each)(const struct vm *vm, void *data), void *data);

/* ---- child.c: guardians, and a VMM of our own ------------------------- */

/* As /proc calls them: who kills all that is called migr does not mean these. */
#define MIGR_GUARDIAN	"migr-guardian"

struct child {
	pid_t guardian;
	pid_t pid;		/* of the VMM */
	int pid_fd;
	int guard_fd;
	int control_fd;		/* its monitor */
};

/*
 * Start a QEMU command on /dev/migr that waits for a migration. It dies with
 * this process until committed, and is told to run then, unless released.
 */
bool child_start(struct child *c, char *const *argv, const char *backend,
		 bool stdout_to_stderr, struct text *error);
void child_kill(struct child *c);
void child_commit(struct child *c);
void child_release(struct child *c);

/* Whoever lets the VM go on if 'migr send' ends before it could. */
struct watch {
	pid_t guardian;
	int fd;			/* -1: ended */
};

bool watch_start(struct watch *w, const char *qmp_path, struct text *error);
/* We take care ourselves from here on, or need not any more. */
void watch_end(struct watch *w);

/* ---- qmp.c ------------------------------------------------------------ */

struct qmp {
	int fd;
	char *buffer;
	size_t length, size;
	json_t *events;		/* that have come and nobody asked for yet */
	json_int_t last_id;	/* of the latest command */
	struct text error;
};

/* Take over a connected monitor: wait for its greeting, negotiate. */
bool qmp_attach(struct qmp *q, int fd, uint32_t timeout_ms);
/* Connect and attach. If q->fd is -1 afterwards nobody listens, or took us in time. */
bool qmp_open_within(struct qmp *q, const char *path, uint32_t timeout_ms);
bool qmp_open(struct qmp *q, const char *path);
void qmp_close(struct qmp *q);
/* Run a command. Steals arguments (may be NULL). result may be NULL. */
bool qmp_command(struct qmp *q, const char *command, json_t *arguments, json_t **result);
/* The same, with a descriptor for QEMU. */
bool qmp_command_fd(struct qmp *q, const char *command, json_t *arguments, int fd);
/* The next event, of any kind, in the order they came; NULL and q->error else. */
json_t *qmp_event(struct qmp *q, uint64_t deadline_ns);
/* Whether QEMU still has its end of the monitor open. */
bool qmp_alive(struct qmp *q);
void qmp_drop_events(struct qmp *q);

uint64_t clock_ns(void);

/* ---- qemu.c: the QEMU driver ------------------------------------------ */

struct qemu {
	struct qmp qmp;
	int state_fd;		/* memfd with the device state */
	struct watch watch;	/* source */
	struct child child;	/* destination */
	char *const *argv;	/* destination: the command to start */
	struct migr *m;		/* destination */
	bool json;
	bool left_stopped;	/* source: somebody else stopped the VM: not ours to resume */
	struct text vm_name;
	struct text backend;	/* source: what QEMU calls its memory */
};

extern const struct migr_source_ops qemu_source_ops;
extern const struct migr_destination_ops qemu_destination_ops;

/*
 * Make sure that the VM can be migrated now, all of its memory and its own monitor
 * being what was found, and get QEMU ready for it. On failure QEMU is as before.
 */
bool qemu_source_open(struct qemu *q, struct migr *m, const struct vm *vm, const char *qmp_path);
/* The VM has gone: end QEMU, or leave it paused. */
bool qemu_source_finish(struct qemu *q, bool keep);
/* From a process of its own: end what a 'migr send' that died had begun. */
void qemu_rescue(const char *qmp_path);
/* The same for a 'migr receive' that had COMMIT: let the VM run. */
void qemu_let_run(const char *qmp_path);
/* Undo what qemu_source_open() changed, and close. */
void qemu_source_close(struct qemu *q);
/* The VM runs here: make the network find the guest. */
bool qemu_destination_finish(struct qemu *q);
/* COMMIT has come: leave QEMU as one that was never migrated, and close. */
void qemu_destination_close(struct qemu *q);

#endif /* MIGR_TOOL_H */
