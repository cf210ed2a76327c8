/* SPDX-License-Identifier: MIT */
/*
 * Handles: making, asking and ending them. Opening goes in steps, and each knows how to be undone by
 * destroy(), which takes a handle in any state.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>

#include "call.h"
#include "fault.h"
#include "pool.h"
#include "region.h"
#include "sigbus.h"
#include "sys.h"
#include "util.h"

#define STR2(x) #x
#define STR(x) STR2(x)

#define BATCH_DEFAULT 16
#define SAMPLE_DEFAULT 8
#define THREADS_DEFAULT 8

/* What changes nothing for a program that does not use it. */
#define FEATURES_DEFAULT                                                       \
	(UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | UFFDWP_FEATURE_MISSING_HUGETLBFS | \
	 UFFDWP_FEATURE_MISSING_SHMEM | UFFDWP_FEATURE_THREAD_ID |             \
	 UFFDWP_FEATURE_MINOR_HUGETLBFS | UFFDWP_FEATURE_MINOR_SHMEM |         \
	 UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM | UFFDWP_FEATURE_WP_UNPOPULATED |   \
	 UFFDWP_FEATURE_POISON | UFFDWP_FEATURE_MOVE)

#define FAIL(err, ...)                                                  \
	do {                                                            \
		uffdwp__reason(o->reason, o->reason_size, __VA_ARGS__); \
		return err;                                             \
	} while (0)

UFFDWP_PUBLIC const char *uffdwp_version(void)
{
	return STR(UFFDWP_VERSION_MAJOR) "." STR(UFFDWP_VERSION_MINOR) "." STR(
		UFFDWP_VERSION_PATCH);
}

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

/* A descriptor can be asked once: with features 0 it tells which it has, and is used up. */
__cold static int probe(struct uffdwp *h, const struct uffdwp_opts *o)
{
	uint64_t got, ioctls;
	int err, fd = fd_open(h, o);

	if (fd < 0)
		return fd;
	err = uffdwp__sys_api(fd, 0, &got, &ioctls);
	uffdwp__sys_close(fd);
	if (err)
		FAIL(err, "UFFDIO_API: %s", strerror(-err));
	h->supported = got & ~o->masked;
	return choose_features(h, o, got);
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

/* ---- Making and ending ---- */

__cold static void close_stashed(struct uffdwp *h)
{
	struct uffd_msg m;

	while (h->stash && uffdwp__stash_take(h, &m, 1))
		if (m.event == UFFD_EVENT_FORK)
			uffdwp__sys_close((int)m.arg.fork.ufd);
}

/* inert: in a forked child, where only memory and descriptors are ours. */
__cold static void destroy(struct uffdwp *h, bool inert)
{
	if (inert) {
		uffdwp__pool_drop(h);
		uffdwp__sigbus_drop(h);
	} else {
		uffdwp__pool_stop(h);
		uffdwp__regions_detach(h);
		uffdwp__sigbus_remove(h);
	}
	uffdwp__regions_free(h);
	close_stashed(h);
	if (h->epoll >= 0)
		uffdwp__sys_close(h->epoll);
	if (h->kick >= 0)
		uffdwp__sys_close(h->kick);
	if (h->fd >= 0)
		uffdwp__sys_close(h->fd);
	uffdwp__sys_free(h->stash, UFFDWP__STASH * sizeof(*h->stash));
	uffdwp__sys_free((void *)h->alive, uffdwp__sys_page_size());
	uffdwp__sys_free(h, sizeof(*h));
}

__cold static struct uffdwp *create(void)
{
	struct uffdwp *h = uffdwp__sys_alloc(sizeof(*h));

	if (!h)
		return NULL;
	h->fd = h->kick = h->epoll = -1;
	h->stats.shared = 1;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->stash_lock, NULL);
	h->alive = uffdwp__sys_alloc(uffdwp__sys_page_size());
	if (!h->alive || uffdwp__sys_wipe_on_fork((void *)h->alive, uffdwp__sys_page_size()) ||
	    uffdwp__table_reserve(h, 1)) {
		destroy(h, false);
		return NULL;
	}
	atomic_store_explicit(h->alive, 1, memory_order_relaxed);
	return h;
}

static int make_child(struct uffdwp *parent, int fd, struct uffdwp **out);

__cold static void set_opts(struct uffdwp *h, const struct uffdwp_opts *o)
{
	bool pool = o->serve == UFFDWP_SERVE_THREADS;

	h->serve = o->serve;
	if (h->serve == UFFDWP_SERVE_SIGBUS)
		h->faults = UFFDWP_FAULTS_USER;
	h->blocking = o->blocking;
	h->batch = o->batch ? o->batch : BATCH_DEFAULT;
	h->sample = o->sample ? o->sample : SAMPLE_DEFAULT;
	h->threads = !pool	  ? 0
		     : o->threads ? o->threads
				  : (uint32_t)min_u64(uffdwp__sys_cpus(), THREADS_DEFAULT);
	h->thread_start = o->thread_start;
	h->thread_arg = o->thread_arg;
	h->forked = o->forked;
	h->child = make_child;
	h->forked_arg = o->forked_arg;
	h->placement = !pool					? UFFDWP_PLACE_SCHED
		       : o->placement				? o->placement
		       : h->features & UFFDWP_FEATURE_THREAD_ID ? UFFDWP_PLACE_FOLLOW
								: UFFDWP_PLACE_SCHED;
}

/* What callers of uffdwp_dispatch() poll: messages, and the stash where there is one. */
__cold static int caller_epoll(struct uffdwp *h)
{
	int err;

	if (!h->stash)
		return 0;
	h->epoll = uffdwp__sys_epoll();
	if (h->epoll < 0)
		return h->epoll;
	err = uffdwp__sys_epoll_add(h->epoll, h->fd, EPOLLIN);
	return err ? err : uffdwp__sys_epoll_add(h->epoll, h->kick, EPOLLIN);
}

__cold static int start(struct uffdwp *h, const struct uffdwp_opts *o)
{
	int err = 0;

	if (h->features & UFFDWP__EVENTS) {
		h->stash = uffdwp__sys_alloc(UFFDWP__STASH * sizeof(*h->stash));
		if (!h->stash)
			FAIL(-ENOMEM, "out of memory");
	}
	h->kick = uffdwp__sys_eventfd(false);
	if (h->kick < 0)
		FAIL(h->kick, "eventfd: %s", strerror(-h->kick));
	if (h->serve == UFFDWP_SERVE_THREADS)
		err = uffdwp__pool_start(h, o->cpus,
					 o->placement == UFFDWP_PLACE_PIN ? o->ncpus : 0);
	else if (h->serve == UFFDWP_SERVE_CALLER)
		err = caller_epoll(h);
	else
		err = uffdwp__sigbus_add(h);
	if (err && h->thread_start && h->refused)
		FAIL(err, "thread_start: refused, in thread %u", h->refused - 1);
	if (err)
		FAIL(err, "serving could not be started: %s", strerror(-err));
	return 0;
}

__cold static int open_fd(struct uffdwp *h, const struct uffdwp_opts *o)
{
	int err = probe(h, o);

	if (err)
		return err;
	h->fd = fd_open(h, o);
	if (h->fd < 0)
		return h->fd;
	err = handshake(h, o);
	return err ? err : uffdwp__sys_nonblock(h->fd, !o->blocking);
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
	h = create();
	if (!h)
		FAIL(-ENOMEM, "out of memory");
	err = open_fd(h, o);
	if (!err) {
		set_opts(h, o);
		err = start(h, o);
	}
	if (err)
		destroy(h, false);
	else
		*out = h;
	return err;
}

UFFDWP_PUBLIC __cold int uffdwp_close(struct uffdwp *h)
{
	int err = uffdwp__check(h);

	if (!h)
		return 0;
	if (!err && uffdwp__serving(h))
		return -EDEADLK;
	destroy(h, err == -ECHILD);
	return 0;
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

	if (!err)
		err = uffdwp__sys_nonblock(fd, !o->blocking);
	if (err)
		return err;
	h->source = UFFDWP_SOURCE_ADOPTED;
	h->pid = a->pid;
	if (a->handshake) {
		err = probe(h, o);
		h->source = UFFDWP_SOURCE_ADOPTED;
		h->fd = fd;
		if (!err)
			err = handshake(h, o);
		return err;
	}
	/* What the other process obtained is what there is. */
	h->fd = fd;
	h->features = a->features & ~o->masked;
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
	return check_opts(o);
}

/* The options inside have a size of their own, and what is missing of them is as missing of the whole. */
__cold static int adopt_opts(struct uffdwp_adopt_opts *a, struct uffdwp_opts *o,
			     const struct uffdwp_adopt_opts *from)
{
	int err = from ? uffdwp__opts(a, sizeof(*a), from, offsetof(struct uffdwp_adopt_opts, opts))
		       : -EINVAL;

	if (err)
		return err;
	return uffdwp__opts(o, sizeof(*o), a->opts.sz ? &a->opts : NULL, sizeof(*o));
}

UFFDWP_PUBLIC __cold int uffdwp_adopt(struct uffdwp **out, int fd,
				      const struct uffdwp_adopt_opts *opts)
{
	struct uffdwp_adopt_opts a;
	struct uffdwp_opts o;
	struct uffdwp *h;
	int err;

	if (!out)
		return -EINVAL;
	*out = NULL;
	err = adopt_opts(&a, &o, opts);
	if (!err)
		err = check_adopt(&a, &o, fd);
	if (err)
		return err;
	h = create();
	if (!h)
		return -ENOMEM;
	err = adopt_fd(h, &a, &o, fd);
	if (!err) {
		set_opts(h, &o);
		err = start(h, &o);
	}
	if (err) {
		h->fd = -1; /* still the caller's */
		destroy(h, false);
	} else {
		*out = h;
	}
	return err;
}

/* ---- The child of a fork ---- */

__cold static int child_region(struct uffdwp *child, const struct uffdwp__entry *e)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = e->start,
					.len = e->end - e->start,
					.page_size = e->r->page_size,
					.mode = e->r->mode,
					.run = e->r->run,
					.armed = 1,
					.ops = &e->r->ops,
					.ctx = e->r->ctx };
	struct uffdwp_region *r = uffdwp__region_new(child, &o, e->r->kernel_page);

	if (!r)
		return -ENOMEM;
	r->anonymous = e->r->anonymous;
	uffdwp__table_insert(child, r);
	return 0;
}

/* Under the parent's lock, so that its table stays as it is. */
__cold static int child_regions(struct uffdwp *child, struct uffdwp *parent)
{
	const struct uffdwp__table *t = atomic_load_explicit(&parent->table, memory_order_relaxed);
	int err = uffdwp__table_reserve(child, t->n + 1);

	for (uint32_t i = 0; !err && i < t->n; i++)
		err = child_region(child, &t->e[i]);
	return err;
}

/* What a serving thread makes when it reads that a child was forked; owns fd on success. */
static int make_child(struct uffdwp *parent, int fd, struct uffdwp **out)
{
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = UFFDWP_SERVE_CALLER,
				 .batch = parent->batch,
				 .sample = parent->sample,
				 .forked = parent->forked,
				 .forked_arg = parent->forked_arg };
	struct uffdwp *h = create();
	int err;

	if (!h)
		return -ENOMEM;
	h->source = UFFDWP_SOURCE_ADOPTED;
	h->faults = parent->faults;
	h->features = parent->features;
	h->ioctls = parent->ioctls;
	set_opts(h, &o);
	pthread_mutex_lock(&parent->lock);
	err = child_regions(h, parent);
	pthread_mutex_unlock(&parent->lock);
	if (!err)
		err = uffdwp__sys_nonblock(fd, true);
	h->fd = fd;
	if (!err)
		err = start(h, &o);
	if (err) {
		h->fd = -1; /* the caller closes it, which releases the child */
		destroy(h, false);
		return err;
	}
	*out = h;
	return 0;
}

/* ---- Asking ---- */

UFFDWP_PUBLIC int uffdwp_error(struct uffdwp *h)
{
	int err = uffdwp__check(h);

	return err ? err : uffdwp__error(h);
}

__cold static void fill_info(struct uffdwp *h, struct uffdwp_info *i)
{
	i->features = h->features;
	i->supported = h->supported;
	i->ioctls = h->ioctls;
	i->source = h->source;
	i->faults = h->faults;
	i->serve = h->serve;
	i->placement = h->placement;
	i->threads = h->threads;
	i->batch = h->batch;
	i->async = !!(h->features & UFFDWP_FEATURE_WP_ASYNC);
	i->populates = !(h->features & UFFDWP_FEATURE_WP_UNPOPULATED);
	i->error = uffdwp__error(h);
	pthread_mutex_lock(&h->lock);
	i->regions = atomic_load_explicit(&h->table, memory_order_relaxed)->n;
	pthread_mutex_unlock(&h->lock);
}

UFFDWP_PUBLIC __cold int uffdwp_info(struct uffdwp *h, struct uffdwp_info *info)
{
	struct uffdwp_info i = { 0 };
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (!info || info->sz < sizeof(i))
		return -EINVAL;
	i.sz = info->sz;
	fill_info(h, &i);
	memcpy(info, &i, sizeof(i));
	return 0;
}

UFFDWP_PUBLIC __cold int uffdwp_stats(struct uffdwp *h, uint32_t worker, struct uffdwp_stats *st)
{
	struct uffdwp_stats sum = { 0 };
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (!st || st->sz < sizeof(sum) || (worker != UFFDWP_ALL_WORKERS && worker >= h->threads))
		return -EINVAL;
	sum.sz = st->sz;
	for (uint32_t i = 0; i < h->threads; i++)
		if (worker == UFFDWP_ALL_WORKERS || worker == i)
			uffdwp__stats_add(&sum, uffdwp__pool_stats(h, i));
	if (worker == UFFDWP_ALL_WORKERS)
		uffdwp__stats_add(&sum, &h->stats);
	memcpy(st, &sum, sizeof(sum));
	return 0;
}

/* ---- Serving by the caller ---- */

UFFDWP_PUBLIC int uffdwp_fd(struct uffdwp *h)
{
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (h->serve != UFFDWP_SERVE_CALLER || h->blocking)
		return -EOPNOTSUPP;
	return h->epoll >= 0 ? h->epoll : h->fd;
}

UFFDWP_PUBLIC int uffdwp_dispatch(struct uffdwp *h)
{
	struct uffdwp__server s = { .h = h, .worker = UFFDWP_NO_WORKER };
	int err = uffdwp__check(h), n;

	if (err)
		return err;
	if (h->serve != UFFDWP_SERVE_CALLER)
		return -EOPNOTSUPP;
	s.st = &h->stats;
	if (unlikely(atomic_load_explicit(&h->stashed, memory_order_relaxed)))
		uffdwp__sys_eventfd_clear(h->kick);
	n = uffdwp__serve(&s);
	if (unlikely(atomic_load_explicit(&h->stashed, memory_order_relaxed)))
		uffdwp__sys_eventfd_add(h->kick);
	if (unlikely(n < 0))
		uffdwp__fail(h, n);
	err = uffdwp__error(h);
	return err ? err : n;
}

UFFDWP_PUBLIC int uffdwp_set_pid(struct uffdwp *h, int32_t pid)
{
	int err = uffdwp__check(h);

	if (err)
		return err;
	if (pid < 0)
		return -EINVAL;
	if (h->source != UFFDWP_SOURCE_ADOPTED)
		return -EOPNOTSUPP;
	atomic_store_explicit(&h->pid, pid, memory_order_relaxed);
	return 0;
}
