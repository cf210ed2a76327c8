/* SPDX-License-Identifier: MIT */
/*
 * uffdwp.h - write protection of memory by userfaultfd(2): a program decides
 * what happens at the first write to each page.
 *
 *	static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
 *	{
 *		return uffdwp_read(r, f->addr, (char *)ctx + f->offset, f->len, NULL);
 *	}
 *	...
 *	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
 *	struct uffdwp_region_opts o = { .sz = sizeof(o), .addr = (uintptr_t)mem, .len = len,
 *					.mode = UFFDWP_MODE_WP, .ops = &ops, .ctx = copy };
 *	uffdwp_open(&h, NULL);
 *	uffdwp_region_add(h, &o, &r);
 *	uffdwp_protect(r, o.addr, o.len, NULL);	// from here a write saves its page first
 *
 * The header goes from simple to advanced: open, regions, protect, the calls,
 * serving without threads, statistics, other processes.
 *
 * Conventions. Functions return 0 or a positive number, or -errno; objects come
 * through out-parameters, which are NULL on failure. Addresses are uint64_t,
 * because a region may live in another process; lengths are bytes. Option
 * structs begin with their own size: set sz = sizeof(the struct), leave the
 * rest zero for the defaults; a struct longer than the library knows is -E2BIG
 * if its unknown tail is not all zero. Any function may return -ENOMEM, or what a seccomp filter of
 * the program's denies with (-EPERM, -ENOSYS). After fork(2) every call on the parent's
 * handle returns -ECHILD in the child, except uffdwp_close(), which is safe there.
 *
 * Caveats: what write protection can not see. Protection belongs to a mapping:
 * a second mapping of the same file, write(2) to that file, and a child forked
 * on MAP_SHARED memory change the content with no fault. So do writes to pinned
 * pages (io_uring fixed buffers, RDMA, VFIO, vhost). KSM may replace a page and
 * lose its protection: madvise(MADV_UNMERGEABLE) what you protect. Discards
 * (MADV_DONTNEED, MADV_REMOVE, hole punching) destroy content without a write
 * fault: use uffdwp_discard(). mremap(2) loses protection unless
 * UFFDWP_FEATURE_EVENT_REMAP is on. See uffdwp(7).
 */
#ifndef UFFDWP_H
#define UFFDWP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UFFDWP_VERSION_MAJOR 0
#define UFFDWP_VERSION_MINOR 1
#define UFFDWP_VERSION_PATCH 0

struct uffdwp;	      /* one userfaultfd, its regions, its way of serving faults */
struct uffdwp_region; /* a page-aligned range and what happens at its faults */

/* The library that runs, as "0.1.0". Thread-safe. */
const char *uffdwp_version(void);

/* ---- Open ------------------------------------------------------------- */

/* Features of userfaultfd, with the kernel's own values, and the Linux that has them first. */
#define UFFDWP_FEATURE_PAGEFAULT_FLAG_WP (UINT64_C(1) << 0)   /* 5.7, always required */
#define UFFDWP_FEATURE_EVENT_FORK (UINT64_C(1) << 1)	      /* 4.11; needs CAP_SYS_PTRACE */
#define UFFDWP_FEATURE_EVENT_REMAP (UINT64_C(1) << 2)	      /* 4.11 */
#define UFFDWP_FEATURE_EVENT_REMOVE (UINT64_C(1) << 3)	      /* 4.11 */
#define UFFDWP_FEATURE_MISSING_HUGETLBFS (UINT64_C(1) << 4)   /* 4.11 */
#define UFFDWP_FEATURE_MISSING_SHMEM (UINT64_C(1) << 5)	      /* 4.11 */
#define UFFDWP_FEATURE_EVENT_UNMAP (UINT64_C(1) << 6)	      /* 4.11 */
#define UFFDWP_FEATURE_SIGBUS (UINT64_C(1) << 7)	      /* 4.14; set by UFFDWP_SERVE_SIGBUS */
#define UFFDWP_FEATURE_THREAD_ID (UINT64_C(1) << 8)	      /* 4.14 */
#define UFFDWP_FEATURE_MINOR_HUGETLBFS (UINT64_C(1) << 9)     /* 5.13 */
#define UFFDWP_FEATURE_MINOR_SHMEM (UINT64_C(1) << 10)	      /* 5.14 */
#define UFFDWP_FEATURE_EXACT_ADDRESS (UINT64_C(1) << 11)      /* 5.18 */
#define UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12) /* 5.19 */
#define UFFDWP_FEATURE_WP_UNPOPULATED (UINT64_C(1) << 13)     /* 6.4 */
#define UFFDWP_FEATURE_POISON (UINT64_C(1) << 14)	      /* 6.6 */
#define UFFDWP_FEATURE_WP_ASYNC (UINT64_C(1) << 15)	      /* 6.7 */
#define UFFDWP_FEATURE_MOVE (UINT64_C(1) << 16)		      /* 6.8 */

/* Where the descriptor comes from. The two are separate permissions. */
enum uffdwp_source {
	UFFDWP_SOURCE_AUTO = 0, /* the device node, then the system call */
	UFFDWP_SOURCE_DEVICE,	/* /dev/userfaultfd only, Linux 6.1 */
	UFFDWP_SOURCE_SYSCALL,	/* userfaultfd(2) only */
	UFFDWP_SOURCE_ADOPTED,	/* uffdwp_info() only: came from another process */
};

/* Whose faults are caught. */
enum uffdwp_faults {
	/* user mode and kernel mode (read(2) into a page, KVM); privileged */
	UFFDWP_FAULTS_KERNEL = 0,
	UFFDWP_FAULTS_USER, /* user mode only (5.11): kernel-mode access fails with EFAULT */
	UFFDWP_FAULTS_ANY,  /* the first if permitted, else the second; uffdwp_info() tells */
};

/* How faults are served. */
enum uffdwp_serve {
	UFFDWP_SERVE_THREADS = 0, /* by a pool of threads */
	UFFDWP_SERVE_CALLER,	  /* by whoever calls uffdwp_dispatch() */
	/*
	 * Inside the faulting thread, which must be of this process; user-mode faults only. The
	 * library's SIGBUS handler passes on what is not its own, and stays installed for the
	 * life of the process. Threads must not block SIGBUS; an alternate signal stack needs 8
	 * KiB besides what the operations use.
	 */
	UFFDWP_SERVE_SIGBUS,
};

/* On which CPUs the pool's threads run. */
enum uffdwp_placement {
	/* FOLLOW for faults of this process, if UFFDWP_FEATURE_THREAD_ID is there; else SCHED. */
	UFFDWP_PLACE_AUTO = 0,
	/* Left to the scheduler. */
	UFFDWP_PLACE_SCHED,
	/*
	 * Left to the scheduler, unless the threads whose faults are served are bound to one CPU:
	 * then the serving thread is bound to it too. From another CPU a fault takes several
	 * times as long.
	 */
	UFFDWP_PLACE_FOLLOW,
	/* Thread i on cpus[i % ncpus]. */
	UFFDWP_PLACE_PIN,
};

struct uffdwp_opts {
	size_t sz;
	/*
	 * Features: required ones fail the open with -EOPNOTSUPP where the kernel
	 * lacks them; optional ones are taken if it has them. Besides these, the
	 * library takes every feature that changes nothing for a program that does
	 * not use it: THREAD_ID, WP_UNPOPULATED, WP_HUGETLBFS_SHMEM, MISSING_*,
	 * MINOR_*, POISON, MOVE. Masked ones count as lacking, to test fallbacks.
	 */
	uint64_t required, optional, masked;
	uint32_t source;    /* enum uffdwp_source */
	uint32_t faults;    /* enum uffdwp_faults */
	uint32_t serve;	    /* enum uffdwp_serve */
	uint32_t placement; /* enum uffdwp_placement; threads only */
	/*
	 * Size of the pool, at most UFFDWP_THREADS_MAX; 0: one a CPU, at most 8. One thread
	 * serves as long as it can; the others help while an operation takes long, or faults come
	 * faster.
	 */
	uint32_t threads;
	uint32_t batch;	   /* messages a read, at most UFFDWP_BATCH_MAX; 0: 16 */
	uint32_t sample;   /* one batch in so many is timed for the histogram; 0: 8, 1: all */
	uint32_t blocking; /* caller without EVENT_*: 1: uffdwp_dispatch() waits, see there */
	const int *cpus;   /* PLACE_PIN only; copied */
	size_t ncpus;
	/*
	 * Called first in each serving thread, before it serves: names, priorities,
	 * seccomp filters. Not 0: the open fails with that value if it is -errno,
	 * with -ECANCELED otherwise.
	 */
	int (*thread_start)(unsigned int worker, void *arg);
	void *thread_arg;
	/*
	 * With UFFDWP_FEATURE_EVENT_FORK: called in a serving thread with a new handle
	 * for the forked child, which this process serves with uffdwp_dispatch(), and
	 * closes. Its regions are at the same addresses with the same operations; find them
	 * with uffdwp_region_find(). Every page of theirs counts as protected. fork(2) sleeps
	 * until the event is read, with glibc's malloc locked: who serves must not allocate before
	 * that. NULL: children are left alone, their memory is unprotected.
	 */
	void (*forked)(struct uffdwp *parent, struct uffdwp *child, void *arg);
	void *forked_arg;
	/* Where a failed open says in words why and what would help; may be NULL. */
	char *reason;
	size_t reason_size;
};

#define UFFDWP_THREADS_MAX 64
#define UFFDWP_BATCH_MAX 64

/*
 * Open a userfaultfd and begin to serve. opts may be NULL. The caller owns *out and
 * ends it with uffdwp_close().
 * -EINVAL: an option is out of its range; -E2BIG: see Conventions; -EPERM, -EACCES: not permitted;
 * -ENOSYS: the kernel has no userfaultfd; -ENOENT: no device node, and it was the only source;
 * -EOPNOTSUPP: the kernel lacks a required feature; -EMFILE, -ENFILE, -ENOMEM, -ENOSPC (of epoll's
 * watches), -EAGAIN: no descriptor, memory or thread. The reason buffer says more.
 * Thread-safe.
 */
int uffdwp_open(struct uffdwp **out, const struct uffdwp_opts *opts);

/*
 * Stop serving, release every page and every sleeping thread, free the regions and the handle.
 * Works from any state, with threads blocked in faults: they go on. What was missing and never
 * placed then reads as zeros. NULL is allowed. In a forked child: frees the child's copy, the
 * parent notices nothing. -EDEADLK: called from a fault operation; -EBUSY: a tracker or a snapshot
 * is still there; nothing was done. Nobody may use the handle or its regions during or after it.
 */
int uffdwp_close(struct uffdwp *h);

struct uffdwp_info {
	size_t sz;
	uint64_t features;  /* obtained */
	uint64_t supported; /* by the kernel, less the masked; 0: adopted after its handshake */
	uint64_t ioctls;    /* as UFFDIO_API said: bit n is the ioctl with number n */
	uint32_t source;    /* enum uffdwp_source: DEVICE, SYSCALL or ADOPTED */
	uint32_t faults;    /* KERNEL or USER */
	uint32_t serve;	    /* enum uffdwp_serve */
	uint32_t placement; /* SCHED, FOLLOW or PIN */
	uint32_t threads;   /* in the pool; 0 if there is none */
	uint32_t batch;	    /* messages a read */
	uint32_t async;	    /* 1: the kernel resolves write faults itself, there are no messages */
	/* 1: uffdwp_protect() populates anonymous memory, for want of markers */
	uint32_t populates;
	uint32_t regions; /* now */
	int32_t error;	  /* uffdwp_error() */
};

/*
 * What was obtained. Set info->sz = sizeof(*info) first; as much is written.
 * -EINVAL: NULL, or sz smaller than the first version's. Thread-safe.
 */
int uffdwp_info(struct uffdwp *h, struct uffdwp_info *info);

/*
 * The first fatal error, as -errno, or 0. It is what a fault operation returned, or a failure to
 * read messages, or -EPROTO, see struct uffdwp_adopt_opts. From then on operations are not called
 * any more: written pages are released, missing ones poisoned (SIGBUS) where the kernel can (6.6),
 * else zero-filled; no thread stays asleep but those whose page an operation holds by UFFDWP_LATER.
 * Where the kernel refuses even that, or to be read, as under a filter that forgets a call, the
 * handle gives its descriptor up: everybody goes on, and calls are -ECANCELED from then on.
 * Thread-safe.
 */
int uffdwp_error(struct uffdwp *h);

/* ---- Regions ---------------------------------------------------------- */

/* Which faults of a region are caught. */
#define UFFDWP_MODE_MISSING 1u /* access to a page that was never there */
#define UFFDWP_MODE_WP 2u      /* write to a protected page */
#define UFFDWP_MODE_MINOR 4u   /* page in the page cache, not in the page table; shmem, hugetlb */

enum uffdwp_fault_kind {
	UFFDWP_FAULT_MISSING = 1,
	UFFDWP_FAULT_WRITE,
	UFFDWP_FAULT_MINOR,
};

struct uffdwp_fault {
	uint64_t addr;	 /* first page, where the fault arrived */
	uint64_t offset; /* of it from where the region began when it was added */
	uint64_t len;	 /* bytes: one page, or up to the region's run of them */
	void *mem;	 /* the same memory in this process, or NULL */
	uint32_t kind;	 /* enum uffdwp_fault_kind */
	uint32_t write;	 /* 1: the access was a write */
	uint32_t tid;	 /* who faults, in its own PID namespace; 0: unknown, or a sweep */
	uint32_t worker; /* index of the serving thread; UFFDWP_NO_WORKER outside the pool */
};

#define UFFDWP_NO_WORKER UINT32_MAX

enum uffdwp_event_kind {
	/* mremap(2) is done; the region is at its new address already. */
	UFFDWP_EVENT_REMAP = 1,
	/*
	 * A discard begins; the content may be gone already. Anonymous memory loses its protection
	 * with it; its pages count as protected still, and an operation may get them later, with
	 * newer content.
	 */
	UFFDWP_EVENT_REMOVE,
	/* munmap(2) is done. A region with nothing left gets no more faults. */
	UFFDWP_EVENT_UNMAP,
};

struct uffdwp_event {
	uint32_t kind;	    /* enum uffdwp_event_kind */
	uint32_t whole;	    /* 1: all of the region */
	uint64_t addr, len; /* the part of this region that is meant, at its old address */
	uint64_t to;	    /* REMAP: where addr is now */
};

/*
 * What an operation returns besides 0 (done) and -errno: fatal, see uffdwp_error(), unless all of
 * its page was unmapped or moved meanwhile. Then who waits goes on, and write is called again for
 * what there is, where it is.
 */
#define UFFDWP_LATER 1 /* the operation resolves it itself, later */

/*
 * What happens at a fault. Operations run in the serving thread while the faulting threads
 * sleep. They must not write to protected memory, nor wait for a thread that
 * might, nor remove the region or close the handle. With UFFDWP_SERVE_SIGBUS they run in a signal
 * handler and may only do what signal-safety(7) allows and the calls of this header.
 *
 * missing: place the page with uffdwp_copy(), uffdwp_zeropage() or uffdwp_move(), return 0. A
 *   page may be asked for more than once, by several threads. -EBUSY, of a page that somebody
 *   keeps: it is asked for again, for ten seconds. UFFDWP_LATER: any thread places it
 *   later, which wakes who waits (with UFFDWP_SERVE_SIGBUS the access is tried again meanwhile).
 *   NULL: zero-fill.
 * write: called exactly once for each page between its protection and its release, with up to
 *   opts.run pages that nobody has written since: save them, return 0; they are released then.
 *   UFFDWP_LATER: the pages stay protected and their writers asleep until uffdwp_release().
 *   NULL: release.
 * minor: the page cache holds what it should: return 0 after uffdwp_continue(), -EBUSY or
 * UFFDWP_LATER as above.
 *   NULL: continue.
 * event: the address space changed. Faults may wait for it: be short. NULL: ignore. What the
 *   library's own books need is done in any case.
 */
struct uffdwp_ops {
	size_t sz;
	int (*missing)(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx);
	int (*write)(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx);
	int (*minor)(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx);
	int (*event)(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx);
};

struct uffdwp_region_opts {
	size_t sz;
	uint64_t addr, len; /* where faults arrive; multiples of page_size, len > 0 */
	void *mem;	    /* the same memory in this process if it is not addr itself; borrowed */
	/* 0: the base page. hugetlb: its huge page. THP: 2 MiB to release huge pages whole. */
	uint64_t page_size;
	uint32_t mode; /* UFFDWP_MODE_*, at least one */
	/*
	 * Most pages that a write operation gets at once, at most UFFDWP_RUN_MAX; 0: 1. Above 1,
	 * neighbours that fault together are one call, and a sequential writer gets the pages ahead
	 * of it released too (not in regions with MISSING or MINOR, where they may not be there).
	 */
	uint32_t run;
	uint32_t armed; /* 1: the process that the handle came from has protected all pages */
	const struct uffdwp_ops *ops; /* copied; NULL: every default */
	void *ctx; /* handed to the operations; borrowed until the region is removed */
	/* Where a failed call says in words what is wrong with which option; may be NULL. */
	char *reason;
	size_t reason_size;
};

#define UFFDWP_RUN_MAX 512u

/*
 * Register a range of anonymous, shmem, memfd or hugetlb memory. It begins unprotected. *out
 * belongs to the handle and lives until uffdwp_region_remove() or uffdwp_close(). -EINVAL: bad
 * alignment, mode, page size (hugetlb memory wants its own), or memory that can not be registered
 * so; -EOPNOTSUPP: the kernel lacks the mode for this memory, or SIGBUS serving was asked
 * together with MINOR and MISSING; -EEXIST: overlaps a region of this handle; -EBUSY: another
 * userfaultfd has it; -EPERM: read-only shared memory; -EMFILE, -EACCES: /proc can not be read,
 * which older kernels need for it; -ECANCELED: the handle failed and gave up; -ENOMEM. Thread-safe,
 * not from operations (-EDEADLK).
 */
int uffdwp_region_add(struct uffdwp *h, const struct uffdwp_region_opts *opts,
		      struct uffdwp_region **out);

/*
 * Release every page and thread of the region, unregister it, free it. Faults in flight are
 * finished first: no operation runs after it returns. -EDEADLK: called from an operation; -EBUSY: a
 * tracker or a snapshot is on it. Nobody else may use r during or after it.
 */
int uffdwp_region_remove(struct uffdwp_region *r);

/*
 * Give the region other operations and another context; ops NULL: every default. When it returns,
 * nobody is in the old ones. -EINVAL, -E2BIG: see Conventions; -EBUSY: a write operation, while a
 * tracker or a snapshot is on the region; -EDEADLK: called from an operation. Thread-safe.
 */
int uffdwp_region_set_ops(struct uffdwp_region *r, const struct uffdwp_ops *ops, void *ctx);

/*
 * The region that holds addr, or NULL. It may be removed by another thread right after.
 * Thread-safe.
 */
struct uffdwp_region *uffdwp_region_find(struct uffdwp *h, uint64_t addr);

/* Its address and length now (they follow mremap and munmap), page size, context. Thread-safe. */
uint64_t uffdwp_region_addr(const struct uffdwp_region *r);
uint64_t uffdwp_region_len(const struct uffdwp_region *r);
uint64_t uffdwp_region_page_size(const struct uffdwp_region *r);
void *uffdwp_region_ctx(const struct uffdwp_region *r);
struct uffdwp *uffdwp_region_handle(const struct uffdwp_region *r);

/* ---- Calls ------------------------------------------------------------ */

/*
 * All of them: addr and len are multiples of the page size and inside the region, else -EINVAL.
 * done, which may be NULL, gets the bytes finished from addr on, also when the call fails. Long
 * ranges go in pieces, so that other threads' mmap(2) is not held up. -EAGAIN and -EINTR of the
 * kernel are handled; -EAGAIN comes back only if the address space kept changing for five seconds.
 * -ENOENT: part of it is not mapped any more; done tells where. -ESRCH: the process that is watched
 * has ended. -EBUSY: pages in the range stayed in an operation, or held by UFFDWP_LATER, for a
 * second; or, of protect, unprotect, sweep and release, a tracker or a snapshot is on the region.
 * -ECANCELED: the handle failed and gave up. Thread-safe, and allowed in operations on other pages
 * than the operation's own.
 */

/*
 * Protect: each page's next write calls the write operation. Reset your own books before, not
 * after it. Never populated pages are protected too: by markers (6.4), or else by populating
 * them, which can not be done to another process: there only pages that exist are protected then.
 * -EOPNOTSUPP: no UFFDWP_MODE_WP; -ECANCELED: the handle has failed, nothing would be delivered.
 */
int uffdwp_protect(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

/* Unprotect and wake without calling the operation. */
int uffdwp_unprotect(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

/*
 * Call the write operation for each page that is still protected, then release it: what a
 * background saver does. done counts up to the last page looked at. In a region with MISSING a
 * page that was never there is placed first, by its own operation: another thread must serve that
 * fault. -ECANCELED: the handle failed.
 */
int uffdwp_sweep(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

/* Release pages that an operation holds by UFFDWP_LATER. -EINVAL: one of them is not held. */
int uffdwp_release(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

#define UFFDWP_COPY_WP 1u /* the pages placed are protected from the start */

/*
 * Place missing pages from src (in this process), or zeros, or from the page cache. A page that
 * is there already is left alone and counts as done; threads waiting are woken in any case. A
 * page that was protected before it was there stays so. flags: 0 or UFFDWP_COPY_WP.
 */
int uffdwp_copy(struct uffdwp_region *r, uint64_t addr, const void *src, uint64_t len,
		uint32_t flags, uint64_t *done);
int uffdwp_zeropage(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint32_t flags,
		    uint64_t *done);
int uffdwp_continue(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint32_t flags,
		    uint64_t *done);

/*
 * Place missing pages by moving them from src, private anonymous memory of the process watched,
 * which has a hole there afterwards (6.8). A page that is protected is copied, which keeps it so.
 * -EOPNOTSUPP: the kernel or the memory can not, or a page of another process is protected;
 * -EBUSY: pinned.
 */
int uffdwp_move(struct uffdwp_region *r, uint64_t addr, uint64_t src, uint64_t len, uint64_t *done);

/* Make access to missing pages a SIGBUS, for data that is lost (6.6, else -EOPNOTSUPP). */
int uffdwp_poison(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

/* Wake the threads that sleep in faults on the range; they fault again if nothing has changed. */
int uffdwp_wake(struct uffdwp_region *r, uint64_t addr, uint64_t len);

/*
 * Make every page present without writing: MADV_POPULATE_READ (5.14), else by reading each. Not
 * for missing pages from within operations. -EFAULT: can not be populated (a missing page in
 * user-mode or SIGBUS serving); -ENOMEM.
 */
int uffdwp_populate(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done);

enum uffdwp_discard_how {
	UFFDWP_DISCARD_DONTNEED = 0, /* MADV_DONTNEED: this mapping's pages */
	UFFDWP_DISCARD_REMOVE,	     /* MADV_REMOVE: the content of shared memory */
};

/*
 * Discard content safely: protected pages get their write operation first, as if written. With
 * UFFDWP_FEATURE_EVENT_REMOVE, not from the thread that serves (it would wait for itself).
 * -EINVAL: memory that can not be discarded so; -EOPNOTSUPP: adopted.
 */
int uffdwp_discard(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint32_t how,
		   uint64_t *done);

/*
 * Copy the region's memory to buf, from mem or, if adopted, by process_vm_readv(2). The one way
 * to read a page whose writer sleeps that is safe everywhere: also in operations, and under
 * ThreadSanitizer. addr and len need no alignment. -EOPNOTSUPP: no way to read it.
 */
int uffdwp_read(struct uffdwp_region *r, uint64_t addr, void *buf, uint64_t len, uint64_t *done);

/* ---- Serving without threads ------------------------------------------ */

/*
 * A descriptor to poll for POLLIN: there is something to dispatch. It belongs to the handle.
 * -EOPNOTSUPP: not UFFDWP_SERVE_CALLER, or opts.blocking. Thread-safe.
 */
int uffdwp_fd(struct uffdwp *h);

/*
 * Read what is there and serve it, without waiting; with opts.blocking wait for a message, which
 * saves a poll each time, until a signal handler has run. Returns the number of messages (0:
 * none), or the handle's error, after having served; keep calling it or close. Any number of
 * threads may. -EOPNOTSUPP: not UFFDWP_SERVE_CALLER; -EDEADLK: called from an operation.
 */
int uffdwp_dispatch(struct uffdwp *h);

/* ---- Statistics ------------------------------------------------------- */

/* Log-linear: eight buckets an octave, so a percentile is exact to 12.5 %. Nanoseconds. */
#define UFFDWP_HIST_BUCKETS 312

struct uffdwp_hist {
	uint64_t count, sum, max;
	uint64_t bucket[UFFDWP_HIST_BUCKETS];
};

/*
 * The value that p percent (0 to 100) of the samples do not exceed, as the upper end of its
 * bucket, at most max; 0 without samples. Thread-safe on a histogram nobody changes.
 */
uint64_t uffdwp_hist_percentile(const struct uffdwp_hist *hist, double p);

struct uffdwp_stats {
	size_t sz;
	uint64_t missing, write, minor; /* faults: messages read (or signals) */
	uint64_t duplicates; /* of them: another thread's fault on the page was being served */
	uint64_t strays;     /* of them: in no region */
	uint64_t remap, remove, unmap, fork; /* events */
	uint64_t reads;	   /* reads that gave messages; messages are missing+write+minor+events */
	uint64_t op_calls; /* operations called for write faults */
	uint64_t op_pages; /* pages given to them */
	uint64_t resolves; /* unprotect calls that released them */
	uint64_t wakes;	   /* explicit wake calls */
	uint64_t eagain;   /* retries while the address space was changing */
	uint64_t eexist;   /* pages that were already there */
	uint64_t moves;	   /* of serving threads to another CPU by UFFDWP_PLACE_FOLLOW */
	struct uffdwp_hist
		latency; /* of the batches timed: from reading a message to its resolution, ns */
};

#define UFFDWP_ALL_WORKERS UINT32_MAX

/*
 * The counters of one serving thread, or with UFFDWP_ALL_WORKERS the sum of all and of what was
 * counted outside the pool. Set st->sz = sizeof(*st) first. Serving threads pay nothing for it;
 * faults that are being served may be in some counters already and not in others. -EINVAL: no
 * such worker, or sz smaller than the first version's. Thread-safe.
 */
int uffdwp_stats(struct uffdwp *h, uint32_t worker, struct uffdwp_stats *st);

/* ---- Other processes -------------------------------------------------- */

struct uffdwp_adopt_opts {
	size_t sz;
	/*
	 * What the other process obtained, if it did the UFFDIO_API handshake. An event that none
	 * of them is for makes the handle fail with -EPROTO.
	 */
	uint64_t features;
	uint32_t handshake;	 /* 1: it did not; do it here, with opts.required and optional */
	int32_t pid;		 /* to read its memory by process_vm_readv(2); 0: can not */
	struct uffdwp_opts opts; /* as for uffdwp_open(); source and faults are ignored */
};

/*
 * Serve a userfaultfd received from another process (SCM_RIGHTS, pidfd_getfd(2)). On success the
 * handle owns fd and makes it O_NONBLOCK and FD_CLOEXEC (before Linux 6.10 the other process must
 * not change that, or a serving thread may sleep until the next message); on failure it still
 * belongs to the caller. Errors as uffdwp_open(), and -EBADF, -EINVAL: fd is not a userfaultfd, or
 * its handshake was done already, or not yet. SIGBUS: -EOPNOTSUPP. Thread-safe.
 */
int uffdwp_adopt(struct uffdwp **out, int fd, const struct uffdwp_adopt_opts *opts);

/*
 * Whose memory uffdwp_read() reads, once it is known: the handle of a forked child comes before
 * fork(2) has told its PID. 0: nobody's. -EOPNOTSUPP: not adopted. Thread-safe.
 */
int uffdwp_set_pid(struct uffdwp *h, int32_t pid);

#ifdef __cplusplus
}
#endif

#endif
