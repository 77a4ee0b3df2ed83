// SPDX-License-Identifier: GPL-2.0-only
/*
 * Wait for the lock of a file, as two QEMUs would want it, and keep it until
 * killed. Arguments: the file, and one to make once it is locked.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd;

	if (argc != 3)
		return 1;
	fd = open(argv[1], O_RDWR);
	if (fd < 0 || fcntl(fd, F_SETLKW, &all)) {
		perror("hold_lock");
		return 1;
	}
	if (open(argv[2], O_CREAT | O_WRONLY, 0600) < 0)
		return 1;
	pause();
	return 0;
}
