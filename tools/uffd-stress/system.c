/* SPDX-License-Identifier: MIT */
/*
 * Changes to the system, and the guard that undoes them, see system.h. It is outside of this
 * process's group, and waits for the end of a pipe that this process and its children hold open.
 */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_UNDO 16
#define SWAP_SIZE ((size_t)128 << 20)

enum undo_kind { UNDO_NONE, UNDO_WRITE, UNDO_UNLINK, UNDO_SWAPOFF };

struct undo {
	atomic_int kind; /* enum undo_kind, set last: this process may be killed at any moment */
	char path[128], value[128];
};

/* Shared with the guard; a process has one list. */
static struct undo *undos;
static unsigned int n_undos;
static struct {
	pid_t pid;
	int alive; /* its end is what the guard waits for */
	int lock; /* one program at a time changes the system, or one would keep what another set */
} guard = { 0, -1, -1 };

int system_write(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		err = -errno;
	close(fd);
	return err;
}

int system_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);
	int err = n < 0 ? -errno : 0;
	char *open_at, *close_at;

	if (fd >= 0)
		close(fd);
	if (err)
		return err;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	open_at = strchr(buf, '[');
	close_at = open_at ? strchr(open_at, ']') : NULL;
	if (!close_at)
		return 0;
	*close_at = '\0';
	memmove(buf, open_at + 1, strlen(open_at + 1) + 1);
	return 0;
}

/* ---- The guard ---- */

static int undo_one(const struct undo *u)
{
	if (u->kind == UNDO_WRITE)
		return system_write(u->path, u->value);
	if (u->kind == UNDO_UNLINK)
		return unlink(u->path) ? -errno : 0;
	/* ENOENT, EINVAL: it was not on yet. */
	return swapoff(u->path) && errno != EINVAL && errno != ENOENT ? -errno : 0;
}

_Noreturn static void guard_main(int gone)
{
	int i, status = 0;
	sigset_t all;
	char end;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	while (read(gone, &end, 1) < 0 && errno == EINTR)
		;
	for (i = MAX_UNDO - 1; i >= 0; i--) {
		if (undos[i].kind == UNDO_NONE || !undo_one(&undos[i]))
			continue;
		fprintf(stderr, "uffd-stress: could not put back %s\n", undos[i].path);
		status = 1;
	}
	_exit(status);
}

static int take_lock(void)
{
	guard.lock = open("/sys/kernel/mm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (guard.lock < 0)
		return -errno;
	/* The guard shares the lock, so it lasts until everything is undone. */
	while (flock(guard.lock, LOCK_EX) && errno == EINTR)
		;
	return 0;
}

static void forget(void)
{
	if (undos)
		munmap(undos, MAX_UNDO * sizeof(*undos));
	if (guard.lock >= 0)
		close(guard.lock);
	undos = NULL;
	n_undos = 0;
	guard.lock = guard.alive = -1;
	guard.pid = 0;
}

/* Until the guard is out of the group it could be killed with it, so the caller waits for that. */
static int guard_start(int gone[2], int ready[2])
{
	ssize_t n;
	char c;

	guard.pid = fork();
	if (guard.pid < 0)
		return -errno;
	if (!guard.pid) {
		close(gone[1]);
		close(ready[0]);
		setpgid(0, 0);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		close(ready[1]);
		guard_main(gone[0]);
	}
	close(ready[1]);
	ready[1] = -1;
	while ((n = read(ready[0], &c, 1)) < 0 && errno == EINTR)
		;
	return n == 1 ? 0 : -EAGAIN;
}

static int guard_pipes(void)
{
	int gone[2], ready[2] = { -1, -1 }, err;

	if (pipe2(gone, O_CLOEXEC))
		return -errno;
	err = pipe2(ready, O_CLOEXEC) ? -errno : guard_start(gone, ready);
	if (ready[1] >= 0)
		close(ready[1]);
	if (ready[0] >= 0)
		close(ready[0]);
	close(gone[0]);
	guard.alive = gone[1];
	if (err)
		close(gone[1]);
	return err;
}

int system_begin(void)
{
	int err;

	if (undos)
		return 0;
	err = take_lock();
	if (err)
		return err;
	undos = mmap(NULL, MAX_UNDO * sizeof(*undos), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (undos == MAP_FAILED) {
		undos = NULL;
		err = -ENOMEM;
	}
	if (!err)
		err = guard_pipes();
	if (err)
		forget();
	return err;
}

int system_end(void)
{
	int status = 0;

	if (!undos)
		return 0;
	close(guard.alive);
	while (waitpid(guard.pid, &status, 0) < 0 && errno == EINTR)
		;
	forget();
	return status ? -EIO : 0;
}

static int undo_later(enum undo_kind kind, const char *path, const char *value)
{
	struct undo *u;

	if (!undos || n_undos == MAX_UNDO)
		return -ENOSPC;
	u = &undos[n_undos++];
	snprintf(u->path, sizeof(u->path), "%s", path);
	snprintf(u->value, sizeof(u->value), "%s", value);
	atomic_store(&u->kind, (int)kind);
	return 0;
}

int system_set(const char *path, const char *value)
{
	char old[128];
	int err = system_read(path, old, sizeof(old));

	if (err || !strcmp(old, value))
		return err;
	err = undo_later(UNDO_WRITE, path, old);
	return err ? err : system_write(path, value);
}

/* ---- Swap ---- */

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
static int swap_header(int fd)
{
	size_t page = (size_t)getpagesize();
	uint32_t info[3] = { 1, (uint32_t)(SWAP_SIZE / page - 1), 0 };

	if (pwrite(fd, info, sizeof(info), 1024) != (ssize_t)sizeof(info) ||
	    pwrite(fd, "SWAPSPACE2", 10, (off_t)page - 10) != 10 || fsync(fd))
		return -EIO;
	return 0;
}

static int swap_on_file(void)
{
	char path[] = "/var/tmp/uffd-stress-swap.XXXXXX";
	int fd = mkstemp(path), err;

	if (fd < 0)
		return -errno;
	err = undo_later(UNDO_UNLINK, path, "");
	if (!err)
		err = -posix_fallocate(fd, 0, (off_t)SWAP_SIZE);
	if (!err)
		err = swap_header(fd);
	close(fd);
	if (!err)
		err = undo_later(UNDO_SWAPOFF, path, "");
	if (err)
		return err;
	return swapon(path, 0) ? -errno : 0;
}

static int zram_fill(long n)
{
	char path[64], size[32];
	int fd, err;

	snprintf(path, sizeof(path), "/sys/block/zram%ld/disksize", n);
	snprintf(size, sizeof(size), "%zu", SWAP_SIZE);
	err = system_write(path, size);
	if (err)
		return err;
	snprintf(path, sizeof(path), "/dev/zram%ld", n);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = swap_header(fd);
	close(fd);
	if (!err)
		err = undo_later(UNDO_SWAPOFF, path, "");
	if (err)
		return err;
	return swapon(path, 0) ? -errno : 0;
}

/* For machines whose file systems can not hold swap (overlay, tmpfs). */
static int swap_on_zram(void)
{
	char number[16];
	/* Reading it makes a device. */
	int err = system_read("/sys/class/zram-control/hot_add", number, sizeof(number));

	if (!err)
		err = undo_later(UNDO_WRITE, "/sys/class/zram-control/hot_remove", number);
	return err ? err : zram_fill(strtol(number, NULL, 10));
}

int system_swap_on(bool zram_first)
{
	int err;

	if (swap_is_on())
		return 0;
	err = zram_first ? swap_on_zram() : swap_on_file();
	if (err)
		err = zram_first ? swap_on_file() : swap_on_zram();
	return err;
}
