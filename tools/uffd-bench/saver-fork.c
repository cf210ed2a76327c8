/* SPDX-License-Identifier: MIT */
/*
 * Two peers of a snapshot. fork(2) gives a child the memory of that instant, which writes it to the file in
 * large pieces; the kernel copies each page that is written first meanwhile. And the plain write of as many
 * bytes while the load runs, which is of no instant: how fast the file can be written at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "saver.h"

#define PIECE (4UL << 20)

int saver_create(const char *path, bool direct)
{
	int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
	int fd = open(path, flags | (direct ? O_DIRECT : 0), 0600);

	if (fd < 0 && direct && errno == EINVAL)
		fd = open(path, flags & ~O_EXCL, 0600);
	return fd < 0 ? -errno : fd;
}

bool saver_write(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len < PIECE ? len : PIECE);

		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return fsync(fd) == 0;
}

void saver_usage(int pid, uint64_t *resident, uint64_t *tables)
{
	char path[64], line[256];
	FILE *f;

	*resident = *tables = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	if (!f)
		die(path, errno);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %" SCNu64, resident) == 1)
			*resident <<= 10;
		else if (sscanf(line, "VmPTE: %" SCNu64, tables) == 1)
			*tables <<= 10;
	fclose(f);
}

static uint64_t faults_now(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)u.ru_minflt;
}

/* Tells when the file is complete, and stays until it is let go, so that its memory can be looked at. */
static _Noreturn void child(const struct load *l, int fd, int told, int leave)
{
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	byte = saver_write(fd, l->mem.addr, l->mem.size);

	if (write(told, &byte, 1) != 1)
		_exit(1);
	while (read(leave, &byte, 1) > 0)
		;
	_exit(0);
}

/*
 * What the child cost: its page tables, and a page for each fault of this process since the fork, all of whose
 * memory was there, so that a fault is a copy.
 */
static double cost_of(pid_t pid, uint64_t faults_before)
{
	uint64_t faults = faults_now() - faults_before, resident, tables;

	saver_usage(pid, &resident, &tables);
	return (double)(faults * LOAD_PAGE + tables);
}

static int wait_child(struct saving *s, pid_t pid, int told, int leave, uint64_t faults_before)
{
	char good = 0;
	int status;

	if (read(told, &good, 1) != 1)
		good = 0;
	load_enter(s->load, LOAD_AFTER);
	if (good)
		s->extra_bytes = cost_of(pid, faults_before);
	close(leave);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid", errno);
	return good ? 0 : -EIO;
}

static int save_fork(struct saving *s)
{
	int fd = saver_create(s->path, true), told[2], leave[2], err;
	uint64_t faults, begin;
	pid_t pid;

	if (fd < 0)
		return fd;
	if (pipe(told) || pipe(leave))
		die("pipe", errno);
	load_enter(s->load, LOAD_DURING);
	load_pause(s->load);
	faults = faults_now();
	begin = load_clock();
	pid = fork();
	if (pid == 0) {
		close(leave[1]);
		child(s->load, fd, told[1], leave[0]);
	}
	s->pause_ns = (double)(load_clock() - begin);
	s->at = load_now(s->load);
	load_resume(s->load);
	if (pid < 0)
		die("fork", errno);
	close(told[1]);
	close(leave[0]);
	err = wait_child(s, pid, told[0], leave[1], faults);
	close(told[0]);
	close(fd);
	return err;
}

static int save_plain(struct saving *s)
{
	int fd = saver_create(s->path, true);
	bool good;

	if (fd < 0)
		return fd;
	load_enter(s->load, LOAD_DURING);
	good = saver_write(fd, s->load->mem.addr, s->load->mem.size);
	load_enter(s->load, LOAD_AFTER);
	close(fd);
	return good ? 0 : -EIO;
}

const struct saver saver_fork = { .name = "fork", .save = save_fork };
const struct saver saver_plain = { .name = "plain write", .no_instant = true, .save = save_plain };
