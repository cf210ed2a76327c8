/* SPDX-License-Identifier: MIT */
/* What gdb wants to know of the process whose memory is in an image. */
#include "format.h"

#include <fcntl.h>
#include <unistd.h>

static size_t read_some(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t n = 1;

	while (fd >= 0 && have < size && n > 0) {
		n = read(fd, buf + have, size - have);
		if (n > 0)
			have += (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	return n < 0 ? 0 : have;
}

void uffdwp__process_read(struct uffdwp__process *p, int32_t pid)
{
	char path[64];

	p->pid = pid ? pid : getpid();
	p->auxv_size = 0;
	if (pid < 0)
		return;
	(void)snprintf(path, sizeof(path), "/proc/%d/auxv", p->pid);
	p->auxv_size = read_some(path, p->auxv, sizeof(p->auxv));
}
