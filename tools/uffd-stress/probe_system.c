/* SPDX-License-Identifier: MIT */
/*
 * Changes that checks of `uffd-stress probe` make to the system, and how they are undone: by a
 * guard process outside the check's group, which waits until the check and all its children are
 * gone, whatever ended them, and puts everything back in reverse. It holds the pipe that the
 * runner waits for.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#define MAX_UNDO 16
#define SWAP_SIZE ((size_t)128 << 20)

enum undo_kind { UNDO_NONE, UNDO_WRITE, UNDO_UNLINK, UNDO_SWAPOFF };

struct undo {
	atomic_int kind; /* enum undo_kind, set last: this process may be killed at any moment */
	char path[128], value[128];
};

/* Shared with the guard; a check is one process, so there is one list. */
static struct undo *undos;
static unsigned int n_undos;

int probe_undone = -1;

static int write_string(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int undo_one(const struct undo *u)
{
	if (u->kind == UNDO_WRITE)
		return write_string(u->path, u->value);
	if (u->kind == UNDO_UNLINK)
		return unlink(u->path) ? -errno : 0;
	/* ENOENT, EINVAL: it was not on yet. */
	return swapoff(u->path) && errno != EINVAL && errno != ENOENT ? -errno : 0;
}

_Noreturn static void guard(int gone)
{
	sigset_t all;
	char end;
	int i;

	setsid();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	while (read(gone, &end, 1) < 0 && errno == EINTR)
		;
	for (i = MAX_UNDO - 1; i >= 0; i--) {
		if (undos[i].kind != UNDO_NONE && undo_one(&undos[i]))
			fprintf(stderr, "uffd-stress: could not put back %s\n", undos[i].path);
	}
	_exit(0);
}

/* One check at a time changes the system, or one would keep what another has set. */
static void lock_system(void)
{
	int fd = open("/sys/kernel/mm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		probe_unsupported("/sys/kernel/mm: %s", strerror(errno));
	/* The guard shares the lock, so it lasts until everything is undone. */
	while (flock(fd, LOCK_EX) && errno == EINTR)
		;
}

/* Until the guard is out of the group the runner could kill it, so the check waits for that. */
static void guard_start(void)
{
	int pair[2], ready[2];
	char c;
	pid_t pid;

	if (undos)
		return;
	lock_system();
	undos = mmap(NULL, MAX_UNDO * sizeof(*undos), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	PROBE_CHECK(undos != MAP_FAILED, "mmap: %s", strerror(errno));
	PROBE_CHECK(!pipe2(pair, O_CLOEXEC) && !pipe2(ready, O_CLOEXEC), "pipe: %s",
		    strerror(errno));
	pid = fork();
	PROBE_CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		close(pair[1]);
		close(ready[0]);
		setpgid(0, 0);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		close(ready[1]);
		guard(pair[0]);
	}
	close(pair[0]);
	close(ready[1]);
	PROBE_CHECK(read(ready[0], &c, 1) == 1, "no guard");
	close(ready[0]);
}

static void undo_later(enum undo_kind kind, const char *path, const char *value)
{
	struct undo *u;

	PROBE_CHECK(n_undos < MAX_UNDO, "too many changes");
	u = &undos[n_undos++];
	snprintf(u->path, sizeof(u->path), "%s", path);
	snprintf(u->value, sizeof(u->value), "%s", value);
	atomic_store(&u->kind, kind);
}

/* Of a list like "always [madvise] never" the chosen word. */
static void read_setting(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);
	char *open_at, *close_at;

	if (n < 0)
		probe_unsupported("%s: %s", path, strerror(errno));
	close(fd);
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	open_at = strchr(buf, '[');
	close_at = open_at ? strchr(open_at, ']') : NULL;
	if (!close_at)
		return;
	*close_at = '\0';
	memmove(buf, open_at + 1, strlen(open_at + 1) + 1);
}

void probe_setting(const char *path, const char *value)
{
	char old[128];
	int err;

	guard_start();
	read_setting(path, old, sizeof(old));
	if (!strcmp(old, value))
		return;
	undo_later(UNDO_WRITE, path, old);
	err = write_string(path, value);
	if (err)
		probe_unsupported("%s: %s", path, strerror(-err));
}

void probe_command(const char *path, const char *value)
{
	int err = write_string(path, value);

	if (err)
		probe_unsupported("%s: %s", path, strerror(-err));
}

long probe_number(const char *path)
{
	char buf[64];

	read_setting(path, buf, sizeof(buf));
	return strtol(buf, NULL, 10);
}

static bool swap_is_on(void)
{
	FILE *f = fopen("/proc/swaps", "re");
	int lines = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		lines++;
	if (f)
		fclose(f);
	return lines > 1;
}

/*
 * The header that swapon(2) looks for: version, last page, and the magic at the first page's end.
 */
static void swap_header(int fd)
{
	size_t page = (size_t)getpagesize();
	uint32_t info[3] = { 1, (uint32_t)(SWAP_SIZE / page - 1), 0 };

	PROBE_CHECK(pwrite(fd, info, sizeof(info), 1024) == (ssize_t)sizeof(info) &&
			    pwrite(fd, "SWAPSPACE2", 10, (off_t)page - 10) == 10,
		    "writing the swap header: %s", strerror(errno));
}

static int swap_on_file(void)
{
	char path[] = "/var/tmp/uffd-stress-swap.XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		return -errno;
	undo_later(UNDO_UNLINK, path, "");
	if (posix_fallocate(fd, 0, (off_t)SWAP_SIZE)) {
		close(fd);
		return -ENOSPC;
	}
	swap_header(fd);
	fsync(fd);
	close(fd);
	undo_later(UNDO_SWAPOFF, path, "");
	return swapon(path, 0) ? -errno : 0;
}

/* For machines whose file systems can not hold swap (overlay, tmpfs). */
static int swap_on_zram(void)
{
	char path[64], number[16], size[32];
	long n = probe_number("/sys/class/zram-control/hot_add"); /* reading it makes one */
	int fd, err;

	snprintf(number, sizeof(number), "%ld", n);
	undo_later(UNDO_WRITE, "/sys/class/zram-control/hot_remove", number);
	snprintf(path, sizeof(path), "/sys/block/zram%ld/disksize", n);
	snprintf(size, sizeof(size), "%zu", SWAP_SIZE);
	err = write_string(path, size);
	if (err)
		return err;
	snprintf(path, sizeof(path), "/dev/zram%ld", n);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	swap_header(fd);
	fsync(fd);
	close(fd);
	undo_later(UNDO_SWAPOFF, path, "");
	return swapon(path, 0) ? -errno : 0;
}

void probe_swap(void)
{
	int err;

	guard_start();
	if (swap_is_on())
		return;
	err = swap_on_file();
	if (err)
		err = swap_on_zram();
	if (err)
		probe_unsupported("no swap, neither a file in /var/tmp nor zram: %s",
				  strerror(-err));
}
