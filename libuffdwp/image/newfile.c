/* SPDX-License-Identifier: MIT */
/* Atomic replacement of a file. */
#include "newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 100
#define RANDOM_CHARS 6

static int open_dir(struct uffdwp__newfile *f, const char *path, struct uffdwp__why *why)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char dir[4096] = ".";

	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		REFUSE(why, -EINVAL, "path \"%s\": names no file", path);
	if (strlen(name) >= sizeof(f->name) || (size_t)(name - path) >= sizeof(dir))
		REFUSE(why, -ENAMETOOLONG, "path: a name is too long");
	memcpy(f->name, name, strlen(name) + 1);
	if (slash) {
		/* With the slash: of a file in the root that is all there is. */
		memcpy(dir, path, (size_t)(name - path));
		dir[name - path] = '\0';
	}
	f->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->dir < 0)
		REFUSE(why, -errno, "directory \"%s\": %s", dir, strerror(errno));
	return 0;
}

/* rename(2) would put a file in the place of a device, and fail on a directory at the very end. */
static int check_name(const struct uffdwp__newfile *f, struct uffdwp__why *why)
{
	struct stat st;

	if (!fstatat(f->dir, f->name, &st, 0) && !S_ISREG(st.st_mode))
		REFUSE(why, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
		       "\"%s\" is there, and not a regular file", f->name);
	return 0;
}

static bool make_temp_name(struct uffdwp__newfile *f)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	unsigned char random[RANDOM_CHARS];
	char tail[RANDOM_CHARS + 1] = "";

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return false;
	for (int i = 0; i < RANDOM_CHARS; i++)
		tail[i] = chars[random[i] % (sizeof(chars) - 1)];
	/* A name may have as many bytes as the directory allows already. */
	(void)snprintf(f->temp, sizeof(f->temp), ".%.*s.%s", 255 - RANDOM_CHARS - 2, f->name, tail);
	return true;
}

int uffdwp__newfile_create(struct uffdwp__newfile *f, const char *path, uint32_t mode,
			   struct uffdwp__why *why)
{
	int err;

	memset(f, 0, sizeof(*f));
	f->fd = f->dir = -1;
	f->owner = getpid();
	err = open_dir(f, path, why);
	if (!err)
		err = check_name(f, why);
	for (int i = 0; !err && f->fd < 0 && i < TRIES; i++) {
		if (make_temp_name(f))
			f->fd = openat(f->dir, f->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
				       (mode_t)mode);
		if (f->fd < 0 && errno != EEXIST)
			break;
	}
	if (!err && f->fd < 0) {
		err = -errno;
		f->temp[0] = '\0';
		uffdwp__newfile_close(f);
		REFUSE(why, err, "\"%s\": %s", path, strerror(-err));
	}
	/* Who finds such a file can tell by the lock whether somebody still writes it. */
	if (!err)
		(void)flock(f->fd, LOCK_EX | LOCK_NB);
	else
		uffdwp__newfile_close(f);
	return err;
}

int uffdwp__reopen(int fd, int flags)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

int uffdwp__newfile_publish(struct uffdwp__newfile *f)
{
	if (fsync(f->fd) || renameat(f->dir, f->temp, f->dir, f->name))
		return -errno;
	f->temp[0] = '\0';
	return fsync(f->dir) ? -errno : 0;
}

void uffdwp__newfile_close(struct uffdwp__newfile *f)
{
	if (f->temp[0] && f->owner == getpid())
		unlinkat(f->dir, f->temp, 0);
	f->temp[0] = '\0';
	if (f->fd >= 0)
		close(f->fd);
	if (f->dir >= 0)
		close(f->dir);
	f->fd = f->dir = -1;
}
