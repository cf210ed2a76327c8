/* SPDX-License-Identifier: MIT */
/*
 * Opening and adopting: checking options, getting a descriptor, and the handshake in which the
 * kernel says what it can. What fails says why in words, for whoever set the options.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "handle.h"
#include "sys.h"
#include "util.h"

/* What changes nothing for a program that does not use it. */
#define FEATURES_DEFAULT                                                       \
	(UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | UFFDWP_FEATURE_MISSING_HUGETLBFS | \
	 UFFDWP_FEATURE_MISSING_SHMEM | UFFDWP_FEATURE_THREAD_ID |             \
	 UFFDWP_FEATURE_MINOR_HUGETLBFS | UFFDWP_FEATURE_MINOR_SHMEM |         \
	 UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM | UFFDWP_FEATURE_WP_UNPOPULATED |   \
	 UFFDWP_FEATURE_POISON | UFFDWP_FEATURE_MOVE)

/* ---- Options ---- */

static const struct {
	uint64_t bit;
	const char *name;
} features[] = {
	{ UFFDWP_FEATURE_PAGEFAULT_FLAG_WP,
	  "PAGEFAULT_FLAG_WP (Linux 5.7, x86-64; later elsewhere)" },
	{ UFFDWP_FEATURE_EVENT_FORK, "EVENT_FORK (4.11)" },
	{ UFFDWP_FEATURE_EVENT_REMAP, "EVENT_REMAP (4.11)" },
	{ UFFDWP_FEATURE_EVENT_REMOVE, "EVENT_REMOVE (4.11)" },
	{ UFFDWP_FEATURE_MISSING_HUGETLBFS, "MISSING_HUGETLBFS (4.11)" },
	{ UFFDWP_FEATURE_MISSING_SHMEM, "MISSING_SHMEM (4.11)" },
	{ UFFDWP_FEATURE_EVENT_UNMAP, "EVENT_UNMAP (4.11)" },
	{ UFFDWP_FEATURE_SIGBUS, "SIGBUS (4.14)" },
	{ UFFDWP_FEATURE_THREAD_ID, "THREAD_ID (4.14)" },
	{ UFFDWP_FEATURE_MINOR_HUGETLBFS, "MINOR_HUGETLBFS (5.13)" },
	{ UFFDWP_FEATURE_MINOR_SHMEM, "MINOR_SHMEM (5.14)" },
	{ UFFDWP_FEATURE_EXACT_ADDRESS, "EXACT_ADDRESS (5.18)" },
	{ UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM (5.19)" },
	{ UFFDWP_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED (6.4)" },
	{ UFFDWP_FEATURE_POISON, "POISON (6.6)" },
	{ UFFDWP_FEATURE_WP_ASYNC, "WP_ASYNC (6.7)" },
	{ UFFDWP_FEATURE_MOVE, "MOVE (6.8)" },
};

__cold static const char *feature_name(uint64_t bits)
{
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		if (bits & features[i].bit)
			return features[i].name;
	return "unknown to this library";
}

__cold static int check_cpus(const struct uffdwp_opts *o)
{
	if (o->placement != UFFDWP_PLACE_PIN)
		return 0;
	if (!o->cpus || !o->ncpus)
		FAIL(-EINVAL, "cpus, ncpus: placement UFFDWP_PLACE_PIN needs at least one CPU");
	for (size_t i = 0; i < o->ncpus; i++)
		if (o->cpus[i] < 0 || o->cpus[i] >= CPU_SETSIZE)
			FAIL(-EINVAL, "cpus[%zu] %d: must be a CPU from 0 to %d", i, o->cpus[i],
			     CPU_SETSIZE - 1);
	return 0;
}

__cold static int check_serving(const struct uffdwp_opts *o)
{
	uint64_t wanted = o->required | o->optional;
	bool sigbus = o->serve == UFFDWP_SERVE_SIGBUS;

	if (o->blocking && wanted & UFFDWP__EVENTS)
		FAIL(-EINVAL,
		     "blocking 1: can not be with EVENT_* features, who waits in read(2) can not serve them in time");
	if (sigbus && wanted & (UFFDWP__EVENTS | UFFDWP_FEATURE_WP_ASYNC))
		FAIL(-EINVAL,
		     "required, optional 0x%llx: UFFDWP_SERVE_SIGBUS reads no events and needs sync faults",
		     (unsigned long long)wanted);
	if (!sigbus && wanted & UFFDWP_FEATURE_SIGBUS)
		FAIL(-EINVAL,
		     "required, optional 0x%llx: FEATURE_SIGBUS comes with serve UFFDWP_SERVE_SIGBUS alone",
		     (unsigned long long)wanted);
	if (o->threads > UFFDWP_THREADS_MAX)
		FAIL(-EINVAL, "threads %u: must be at most %d", o->threads, UFFDWP_THREADS_MAX);
	if (o->batch > UFFDWP_BATCH_MAX)
		FAIL(-EINVAL, "batch %u: must be at most %d", o->batch, UFFDWP_BATCH_MAX);
	if (o->blocking > 1 || (o->blocking && o->serve != UFFDWP_SERVE_CALLER))
		FAIL(-EINVAL, "blocking %u: must be 0, or 1 with serve UFFDWP_SERVE_CALLER",
		     o->blocking);
	return check_cpus(o);
}

__cold static int check_opts(const struct uffdwp_opts *o)
{
	if (o->source > UFFDWP_SOURCE_SYSCALL)
		FAIL(-EINVAL, "source %u: must be UFFDWP_SOURCE_AUTO, _DEVICE or _SYSCALL",
		     o->source);
	if (o->faults > UFFDWP_FAULTS_ANY)
		FAIL(-EINVAL, "faults %u: must be UFFDWP_FAULTS_KERNEL, _USER or _ANY", o->faults);
	if (o->serve > UFFDWP_SERVE_SIGBUS)
		FAIL(-EINVAL, "serve %u: must be UFFDWP_SERVE_THREADS, _CALLER or _SIGBUS",
		     o->serve);
	if (o->placement > UFFDWP_PLACE_PIN)
		FAIL(-EINVAL, "placement %u: must be UFFDWP_PLACE_AUTO, _SCHED, _FOLLOW or _PIN",
		     o->placement);
	return check_serving(o);
}

/* ---- Getting a descriptor ---- */

__cold static int fd_device(const struct uffdwp_opts *o, bool user)
{
	int fd = uffdwp__sys_open_device(user);

	if (fd >= 0)
		return fd;
	if (fd == -ENOENT)
		FAIL(fd,
		     "/dev/userfaultfd: not there: needs Linux 6.1, CONFIG_USERFAULTFD, and the node in this "
		     "container");
	if (fd == -EACCES || fd == -EPERM)
		FAIL(fd,
		     "/dev/userfaultfd: no permission: needs root, or read and write permission on the node");
	FAIL(fd, "/dev/userfaultfd: %s", strerror(-fd));
}

__cold static int fd_syscall(const struct uffdwp_opts *o, bool user)
{
	int fd = uffdwp__sys_open_syscall(user);

	if (fd >= 0)
		return fd;
	if (fd == -ENOSYS)
		FAIL(fd,
		     "userfaultfd(2): not there: needs CONFIG_USERFAULTFD, and a seccomp profile that allows it");
	if (fd == -EPERM && user)
		FAIL(fd,
		     "userfaultfd(2): no permission even for user-mode faults: a seccomp profile denies it");
	if (fd == -EPERM)
		FAIL(fd,
		     "userfaultfd(2): no permission to catch kernel-mode faults: needs CAP_SYS_PTRACE, or sysctl "
		     "vm.unprivileged_userfaultfd=1, or /dev/userfaultfd (Linux 6.1), and a seccomp profile that "
		     "allows it; or take UFFDWP_FAULTS_USER");
	if (fd == -EINVAL && user)
		FAIL(-EOPNOTSUPP, "userfaultfd(2): user-mode only faults need Linux 5.11");
	FAIL(fd, "userfaultfd(2): %s", strerror(-fd));
}

__cold static int fd_from(struct uffdwp *h, const struct uffdwp_opts *o, bool user)
{
	int fd = -ENOENT;

	h->faults = user ? UFFDWP_FAULTS_USER : UFFDWP_FAULTS_KERNEL;
	h->source = UFFDWP_SOURCE_DEVICE;
	if (o->source != UFFDWP_SOURCE_SYSCALL)
		fd = fd_device(o, user);
	if (fd >= 0 || o->source == UFFDWP_SOURCE_DEVICE)
		return fd;
	h->source = UFFDWP_SOURCE_SYSCALL;
	return fd_syscall(o, user);
}

__cold static int fd_open(struct uffdwp *h, const struct uffdwp_opts *o)
{
	/* SIGBUS catches no kernel-mode faults, whatever the descriptor can. */
	bool any = o->faults == UFFDWP_FAULTS_ANY || o->serve == UFFDWP_SERVE_SIGBUS;
	int fd = fd_from(h, o, o->faults == UFFDWP_FAULTS_USER);

	if (fd < 0 && any)
		fd = fd_from(h, o, true);
	return fd;
}

/* ---- The handshake ---- */

__cold static int choose_features(struct uffdwp *h, const struct uffdwp_opts *o, uint64_t known)
{
	uint64_t have = known & ~o->masked;
	uint64_t need = o->required | UFFDWP_FEATURE_PAGEFAULT_FLAG_WP;

	if (o->serve == UFFDWP_SERVE_SIGBUS)
		need |= UFFDWP_FEATURE_SIGBUS;
	if (o->placement == UFFDWP_PLACE_FOLLOW && o->serve == UFFDWP_SERVE_THREADS)
		need |= UFFDWP_FEATURE_THREAD_ID;
	if (need & ~have)
		FAIL(-EOPNOTSUPP, "features: %s%s", feature_name(need & ~have),
		     need & ~have & o->masked ? " is required and masked"
					      : " is required, the kernel lacks it");
	h->features = need | ((o->optional | FEATURES_DEFAULT) & have);
	/* The kernel does the same. */
	if (h->features & UFFDWP_FEATURE_WP_ASYNC)
		h->features |= UFFDWP_FEATURE_WP_UNPOPULATED & have;
	return 0;
}

/*
 * A descriptor can be asked once: with features 0 it tells which it has, and is used up. It may
 * stay as the scout.
 */
__cold static int probe(struct uffdwp *h, const struct uffdwp_opts *o)
{
	uint64_t got, ioctls;
	int err, fd = fd_open(h, o);

	if (fd < 0)
		return fd;
	h->scout = fd;
	err = uffdwp__sys_api(fd, 0, &got, &ioctls);
	if (err)
		FAIL(err, "UFFDIO_API: %s", strerror(-err));
	h->supported = got & ~o->masked;
	h->kernel = got;
	return choose_features(h, o, got);
}

/*
 * Only who catches the kernel's faults too may register memory that is in use, if only for a
 * moment.
 */
__cold static void scout_stays(struct uffdwp *h, bool may)
{
	const uint64_t minor = UFFDWP_FEATURE_MINOR_SHMEM | UFFDWP_FEATURE_MINOR_HUGETLBFS;
	const uint64_t markers = UFFDWP_FEATURE_WP_UNPOPULATED | UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM;

	if (may && h->faults == UFFDWP_FAULTS_KERNEL && (h->kernel & minor) == minor &&
	    (h->features & markers) != markers)
		return;
	uffdwp__sys_close(h->scout);
	h->scout = -1;
}

__cold static int handshake(struct uffdwp *h, const struct uffdwp_opts *o)
{
	uint64_t got;
	int err = uffdwp__sys_api(h->fd, h->features, &got, &h->ioctls);

	if (err == -EPERM && h->features & ~o->required & UFFDWP_FEATURE_EVENT_FORK) {
		h->features &= ~UFFDWP_FEATURE_EVENT_FORK;
		err = uffdwp__sys_api(h->fd, h->features, &got, &h->ioctls);
	}
	if (err == -EPERM)
		FAIL(err, "UFFDIO_API: EVENT_FORK needs CAP_SYS_PTRACE");
	if (err)
		FAIL(err, "UFFDIO_API with features 0x%llx: %s", (unsigned long long)h->features,
		     strerror(-err));
	return 0;
}

/* ---- Opening ---- */

__cold static int open_fd(struct uffdwp *h, const struct uffdwp_opts *o)
{
	int err = probe(h, o);

	if (err)
		return err;
	scout_stays(h, true);
	h->fd = fd_open(h, o);
	if (h->fd < 0)
		return h->fd;
	err = handshake(h, o);
	if (err || !o->blocking)
		return err;
	err = uffdwp__sys_nonblock(h->fd, false);
	if (err < 0)
		FAIL(err, "fcntl: %s", strerror(-err));
	return 0;
}

UFFDWP_PUBLIC __cold int uffdwp_open(struct uffdwp **out, const struct uffdwp_opts *opts)
{
	struct uffdwp_opts copy, *o = &copy;
	struct uffdwp *h;
	int err;

	if (!out)
		return -EINVAL;
	*out = NULL;
	err = uffdwp__opts(o, sizeof(*o), opts, sizeof(*o));
	if (err)
		return err;
	err = check_opts(o);
	if (err)
		return err;
	h = uffdwp__create();
	if (!h)
		FAIL(-ENOMEM, "out of memory");
	err = open_fd(h, o);
	if (!err) {
		uffdwp__set_opts(h, o);
		err = uffdwp__start(h, o);
	}
	if (err)
		uffdwp__destroy(h, false);
	else
		*out = h;
	return err;
}

/* ---- Adopting ---- */

__cold static int check_uffd(const struct uffdwp_adopt_opts *a, const struct uffdwp_opts *o, int fd)
{
	int done = uffdwp__sys_is_uffd(fd);

	if (done == -EINVAL)
		FAIL(done, "fd %d: not a userfaultfd", fd);
	if (done < 0)
		FAIL(done, "fd %d: %s", fd, strerror(-done));
	if (done == !!a->handshake)
		FAIL(-EINVAL, "fd %d, handshake %u: UFFDIO_API was %s", fd, a->handshake,
		     done ? "done by the other process already" : "not done yet");
	return 0;
}

__cold static int adopt_fd(struct uffdwp *h, const struct uffdwp_adopt_opts *a,
			   const struct uffdwp_opts *o, int fd)
{
	int err = check_uffd(a, o, fd);

	if (err)
		return err;
	h->source = UFFDWP_SOURCE_ADOPTED;
	h->pid = a->pid;
	if (a->handshake) {
		err = probe(h, o);
		h->source = UFFDWP_SOURCE_ADOPTED;
		h->fd = fd;
		if (!err) {
			scout_stays(h, false);
			err = handshake(h, o);
		}
		return err;
	}
	/* What the other process obtained is what there is. */
	h->fd = fd;
	h->features = a->features & ~(o->masked & ~UFFDWP__EVENTS);
	if (o->required & ~h->features)
		FAIL(-EOPNOTSUPP,
		     "opts.required: %s is not in features 0x%llx of the other process",
		     feature_name(o->required & ~h->features), (unsigned long long)h->features);
	return 0;
}

__cold static int check_adopt(const struct uffdwp_adopt_opts *a, const struct uffdwp_opts *o,
			      int fd)
{
	if (fd < 0)
		FAIL(-EBADF, "fd %d: must be an open descriptor", fd);
	if (a->handshake > 1)
		FAIL(-EINVAL, "handshake %u: must be 0 or 1", a->handshake);
	if (a->pid < 0)
		FAIL(-EINVAL, "pid %d: must be a process, or 0", a->pid);
	if (o->serve == UFFDWP_SERVE_SIGBUS)
		FAIL(-EOPNOTSUPP,
		     "opts.serve: another process's threads can not be served by UFFDWP_SERVE_SIGBUS");
	if (a->features & UFFDWP_FEATURE_SIGBUS)
		FAIL(-EINVAL, "features 0x%llx: with SIGBUS there are no messages to serve",
		     (unsigned long long)a->features);
	if (a->features & UFFDWP__EVENTS && o->blocking)
		FAIL(-EINVAL, "features 0x%llx: EVENT_* can not be with opts.blocking",
		     (unsigned long long)a->features);
	return check_opts(o);
}

/*
 * The options inside have a size of their own, and what is missing of them is as missing of the
 * whole.
 */
__cold static int adopt_opts(struct uffdwp_adopt_opts *a, struct uffdwp_opts *o,
			     const struct uffdwp_adopt_opts *from)
{
	int err = from ? uffdwp__opts(a, sizeof(*a), from, offsetof(struct uffdwp_adopt_opts, opts))
		       : -EINVAL;

	if (!err)
		err = uffdwp__opts(o, sizeof(*o), a->opts.sz ? &a->opts : NULL, sizeof(*o));
	o->source = o->faults = 0;
	return err;
}

UFFDWP_PUBLIC __cold int uffdwp_adopt(struct uffdwp **out, int fd,
				      const struct uffdwp_adopt_opts *opts)
{
	struct uffdwp_adopt_opts a;
	struct uffdwp_opts o;
	struct uffdwp *h;
	int err, was = -1;

	if (!out)
		return -EINVAL;
	*out = NULL;
	err = adopt_opts(&a, &o, opts);
	if (!err)
		err = check_adopt(&a, &o, fd);
	if (err)
		return err;
	h = uffdwp__create();
	if (!h)
		return -ENOMEM;
	err = adopt_fd(h, &a, &o, fd);
	if (!err) {
		was = uffdwp__sys_nonblock(fd, !o.blocking);
		uffdwp__set_opts(h, &o);
		err = was < 0 ? was : uffdwp__start(h, &o);
	}
	if (err) {
		h->fd = -1; /* still the caller's, and as it was */
		uffdwp__destroy(h, false);
		if (was >= 0)
			uffdwp__sys_nonblock(fd, was);
	} else {
		uffdwp__sys_cloexec(fd);
		*out = h;
	}
	return err;
}
