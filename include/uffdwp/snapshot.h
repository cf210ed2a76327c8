/* SPDX-License-Identifier: MIT */
/*
 * uffdwp/snapshot.h - live snapshot: the memory of a running program as it was at one instant.
 *
 *	uffdwp_sink_file(&sink, fd);
 *	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &sink };
 *	uffdwp_snapshot_new(&s, regions, n, &o);
 *	uffdwp_snapshot_arm(s);		// the program runs
 *	pause_writers();
 *	uffdwp_snapshot_seal(s);	// the instant that the image shows
 *	resume_writers();
 *	uffdwp_snapshot_wait(s, &result);	// result.verdict: complete, or why not
 *	uffdwp_snapshot_free(s);
 *
 * The promise: verdict COMPLETE means that the sink has got, for every byte of the regions, what it
 * was at the seal. Whatever keeps the library from that makes the verdict CANCELLED, with the
 * reason and the range, or FAILED, with the error; the program runs on undisturbed in any case.
 *
 * Two strategies, with the same semantics:
 *
 *	cow	(a handle without UFFDWP_FEATURE_WP_ASYNC) memory is protected; after the seal a
 *		page's first write saves the page first. Shortest pause: it depends on what the
 *		program writes, not on how much memory it has.
 *	precopy	(a handle with UFFDWP_FEATURE_WP_ASYNC, Linux 6.7; others can too, at the cost of a
 *		fault for each page's first write in each pass) memory is written out while the
 *		program runs, then what it wrote meanwhile, until little is left; the seal copies
 *		that. No write waits for it after the seal.
 *
 * Caveats: those of uffdwp.h. A discard through uffdwp_discard() saves first. Another one cancels
 * the snapshot where it may have destroyed a page not saved yet, if it can be seen: of private
 * memory without a file always (Linux 5.14), of other memory by MADV_REMOVE and MADV_DONTNEED with
 * UFFDWP_FEATURE_EVENT_REMOVE; a hole punched, or a truncation, through the file can not be seen.
 * In regions with UFFDWP_MODE_MISSING or _MINOR discard by uffdwp_discard() alone during a snapshot:
 * another discard can leave a page missing that is being saved, which makes the handle fail.
 * Memory that is unmapped or moved during a snapshot needs UFFDWP_FEATURE_EVENT_UNMAP and
 * UFFDWP_FEATURE_EVENT_REMAP.
 *
 * Memory that was never populated is not read where that can be told: private memory without a
 * file, for who has CAP_SYS_ADMIN. Elsewhere reading it maps pages of zeros; of shared memory and
 * of hugetlb it allocates them.
 */
#ifndef UFFDWP_SNAPSHOT_H
#define UFFDWP_SNAPSHOT_H

#include <uffdwp.h>

#ifdef __cplusplus
extern "C" {
#endif

struct uffdwp_snapshot;

/* ---- Sinks ------------------------------------------------------------ */

/* One region as the sink sees it: by index in the order of uffdwp_snapshot_new(). */
struct uffdwp_sink_region {
	uint64_t addr, len; /* where it was when the snapshot was made */
	uint64_t page_size; /* offsets and lengths are multiples of it */
};

struct uffdwp_sink_layout {
	size_t sz;
	const struct uffdwp_sink_region *regions; /* valid until end() */
	size_t nregions;
	/*
	 * All data handed to write() lies in here, page-aligned: to register with the kernel.
	 * Mapped and populated, not inherited by forked children.
	 */
	void *staging;
	size_t staging_size;
	uint32_t rewrites; /* 1: a range may come more than once, the last counts (precopy) */
};

/* A piece of memory for the sink. Its fields stay as they are until it is done. */
struct uffdwp_sink_write {
	uint32_t region;
	uint32_t reserved;
	uint64_t offset; /* from the region's beginning, in bytes */
	uint64_t len;
	const void *data;
	/*
	 * To be called once by a sink that answered UFFDWP_SINK_LATER: err 0 or -errno. From any
	 * thread, also from within wait(). w is gone then.
	 */
	void (*done)(struct uffdwp_sink_write *w, int err);
	void *sink_data[2]; /* for the sink's use, zero at first */
};

/* What write() returns besides 0 and -errno: w->done() will tell. */
#define UFFDWP_SINK_LATER 1

struct uffdwp_snapshot_result;

/*
 * Where pages go. All but free() are called by one thread at a time, never from a fault: they may
 * take locks and allocate, but neither they nor threads of the sink's own may write to the memory of
 * the snapshot: where staging is full, the write would wait for the sink itself. An error of any
 * makes the snapshot FAILED. NULL: nothing to do, except for write. In a forked child none is
 * called.
 */
struct uffdwp_sink {
	size_t sz;
	void *ctx;
	/* Before anything is protected. */
	int (*begin)(void *ctx, const struct uffdwp_sink_layout *layout);
	/*
	 * 0: taken, the data is not needed any more; UFFDWP_SINK_LATER: it is in use until
	 * w->done(w, err), from any thread. Writes may finish in any order, but two of the
	 * same range are never in flight together.
	 */
	int (*write)(void *ctx, struct uffdwp_sink_write *w);
	/* A range is zeros; with rewrites it may have been something else before. NULL: written. */
	int (*zero)(void *ctx, uint32_t region, uint64_t offset, uint64_t len);
	/*
	 * Wait until a write in flight is done, at most about ms milliseconds: there is nothing
	 * else to do. ms 0: only see to those that are done already. NULL: done() comes from
	 * another thread.
	 */
	int (*wait)(void *ctx, unsigned int ms);
	/* The seal is over: the instant, in ns of CLOCK_REALTIME. */
	int (*sealed)(void *ctx, uint64_t realtime_ns);
	/*
	 * Last, with no write in flight, once if begin() returned 0. result->verdict COMPLETE: make
	 * it durable and publish it; an error here makes the verdict FAILED. Else throw it away.
	 */
	int (*end)(void *ctx, const struct uffdwp_snapshot_result *result);
	/*
	 * Frees ctx. Called once, by uffdwp_snapshot_free(); by who made the sink if
	 * uffdwp_snapshot_new() failed or was not called.
	 */
	void (*free)(void *ctx);
};

/*
 * A sink into memory: region i goes to copies[i], which is borrowed, has the region's length, and
 * is outside of the regions. -EINVAL: NULL; -ENOMEM. Thread-safe.
 */
int uffdwp_sink_memory(struct uffdwp_sink *out, void *const *copies, size_t n);

/*
 * A sink into a plain file: the regions one after another from offset 0 on, zeros as holes; at the
 * end of a complete snapshot the file is truncated to their size and fsync'ed. fd is borrowed.
 * Write to libuffdwp-image's sink for a format with a name, checksums and an atomic end. -EINVAL:
 * NULL; -EBADF; -ENOMEM. Thread-safe.
 */
int uffdwp_sink_file(struct uffdwp_sink *out, int fd);

/* ---- Snapshots -------------------------------------------------------- */

enum uffdwp_snapshot_strategy {
	UFFDWP_SNAPSHOT_AUTO = 0, /* precopy on a handle with UFFDWP_FEATURE_WP_ASYNC, else cow */
	UFFDWP_SNAPSHOT_COW,
	UFFDWP_SNAPSHOT_PRECOPY,
};

struct uffdwp_snapshot_opts {
	size_t sz;
	uint32_t strategy; /* enum uffdwp_snapshot_strategy */
	/*
	 * 0: a thread of the library saves, SCHED_BATCH so that the seal, which wakes it, is not preempted,
	 * SCHED_OTHER once it runs. 1: none; who calls uffdwp_snapshot_step(), or uffdwp_snapshot_wait(), saves.
	 */
	uint32_t by_caller;
	const struct uffdwp_sink *sink; /* copied; taken over on success; required */
	/*
	 * Bytes for pages on their way to the sink, mapped and populated before anything is
	 * protected; at least UFFDWP_SNAPSHOT_STAGING_MIN. It is made at least four of the largest
	 * page. When it is full, writers wait. 0: a hundredth of the memory, from 1 to 64 MiB.
	 */
	uint64_t staging;
	uint64_t rate; /* bytes a second, at most, that are saved in the background; 0: no limit */
	/*
	 * Arming goes over what was written meanwhile again, until that is at most settle bytes, or
	 * stops shrinking, or passes were made. Cow then leaves it to the seal, which copies it: what
	 * is written most does not fault after the seal either. 0: eight pages with cow, 1 MiB
	 * with precopy; and 8.
	 */
	uint64_t settle;
	uint32_t passes;
	uint32_t reserved;
	/* Where a failed call says in words what is wrong with which option; may be NULL. */
	char *reason;
	size_t reason_size;
};

#define UFFDWP_SNAPSHOT_STAGING_MIN (UINT64_C(1) << 20)

/*
 * Prepare a snapshot of n regions of one handle, without a write operation of the program's own.
 * The caller ends it with uffdwp_snapshot_free() before the regions are removed or the handle is
 * closed (these are -EBUSY until then); it is for one snapshot. One snapshot a region at a time; a
 * tracker may run besides it. From here on uffdwp_protect(), uffdwp_unprotect(), uffdwp_sweep() and
 * uffdwp_release() on the regions are -EBUSY. -EINVAL: an argument, see opts.reason; -E2BIG: see
 * uffdwp.h; -EOPNOTSUPP: cow on a handle with UFFDWP_FEATURE_WP_ASYNC, or memory that can not be
 * read; -EBUSY: a region has a snapshot, or a write operation; -EDEADLK: called from an operation;
 * -ENOMEM, -EAGAIN: no memory or thread; what opening the process's pagemap gave (-EMFILE, -EACCES, -ENOENT);
 * what the sink's begin() returned. Thread-safe.
 */
int uffdwp_snapshot_new(struct uffdwp_snapshot **out, struct uffdwp_region *const *regions,
			size_t n, const struct uffdwp_snapshot_opts *opts);

/*
 * Get ready while the program runs: protect everything (cow) or write everything out (precopy),
 * then what was written meanwhile. Returns when a seal will be short. May be called again, to get
 * ready once more before a late seal. May be left out: the seal is as long as its work then.
 * -EALREADY: sealed; -ECANCELED: the snapshot has ended, see its result; another error: why
 * it ends now. Not from an operation (-EDEADLK).
 */
int uffdwp_snapshot_arm(struct uffdwp_snapshot *s);

/*
 * The instant. The caller has paused every writer of the regions, none of them within a fault or a
 * discard, and resumes them after it returned. Errors as uffdwp_snapshot_arm(), and -EBUSY: for five
 * seconds nobody carried out what an event told before; after any error there is no seal.
 */
int uffdwp_snapshot_seal(struct uffdwp_snapshot *s);

enum uffdwp_snapshot_verdict {
	UFFDWP_SNAPSHOT_RUNNING = 0,
	UFFDWP_SNAPSHOT_COMPLETE,
	UFFDWP_SNAPSHOT_CANCELLED,
	UFFDWP_SNAPSHOT_FAILED,
};

enum uffdwp_snapshot_why {
	UFFDWP_SNAPSHOT_WHY_NONE = 0,
	UFFDWP_SNAPSHOT_WHY_CALLER,    /* uffdwp_snapshot_cancel(), or freed before its end */
	UFFDWP_SNAPSHOT_WHY_DISCARDED, /* discarded, or unprotected, before it was saved */
	UFFDWP_SNAPSHOT_WHY_UNMAPPED,  /* a page went away */
	UFFDWP_SNAPSHOT_WHY_MOVED,     /* mremap(2) */
	UFFDWP_SNAPSHOT_WHY_SINK,      /* the sink's error */
	UFFDWP_SNAPSHOT_WHY_HANDLE,    /* the handle failed */
	UFFDWP_SNAPSHOT_WHY_PROCESS,   /* the process that is watched has ended */
	UFFDWP_SNAPSHOT_WHY_SYSTEM,    /* a system call's error */
};

struct uffdwp_snapshot_result {
	size_t sz;
	uint32_t verdict;   /* enum uffdwp_snapshot_verdict */
	uint32_t why;	    /* enum uffdwp_snapshot_why */
	int32_t error;	    /* FAILED: -errno */
	uint32_t strategy;  /* COW or PRECOPY: which one ran */
	uint64_t addr, len; /* the range that a cancellation is about; 0, 0: none */
	uint64_t sealed_ns; /* the instant, CLOCK_REALTIME; 0: there was none */
	/* Durations, ns. */
	uint64_t arm_ns, pause_ns, total_ns; /* all arms, the seal, from the first arm to the end */
	/* Bytes. */
	uint64_t size;	       /* of the regions */
	uint64_t saved;	       /* to the sink, zeros not among them; precopy: each time */
	uint64_t zero;	       /* found to be zeros, or never populated */
	uint64_t by_fault;     /* saved because of a write, or a discard, after the seal */
	uint64_t by_sweep;     /* saved in the background */
	uint64_t by_seal;      /* saved during the pause */
	uint64_t staging_peak; /* most that was on its way to the sink, as staging is divided */
	uint64_t memory;       /* bytes that the snapshot itself took, staging among them */
	uint32_t passes;       /* of arming */
	uint32_t held;	       /* times that a writer waited because staging was full */
	struct uffdwp_hist
		waits; /* of writers after the seal: from reading the fault to its release, ns */
};

/*
 * How far it is: set res->sz = sizeof(*res). Returns 1 when it has ended, 0 while it has not, or
 * -EINVAL. Thread-safe.
 */
int uffdwp_snapshot_poll(struct uffdwp_snapshot *s, struct uffdwp_snapshot_result *res);

/*
 * With opts.by_caller: save for about ms milliseconds, or until there is nothing to do now. Returns
 * as uffdwp_snapshot_poll(). -EOPNOTSUPP: a thread does it. One thread at a time. Not from an
 * operation (-EDEADLK).
 */
int uffdwp_snapshot_step(struct uffdwp_snapshot *s, unsigned int ms);

/*
 * Wait for the end. Returns 0 when the snapshot has ended, whatever its verdict, which is in res
 * (which may be NULL). -EINVAL; -EDEADLK: called from an operation, or before the seal.
 * Thread-safe.
 */
int uffdwp_snapshot_wait(struct uffdwp_snapshot *s, struct uffdwp_snapshot_result *res);

/*
 * End it now: from any state, by any thread. Protection is dropped, nobody waits any more. 0: it
 * is cancelled, or had ended before. Does not wait. Thread-safe.
 */
int uffdwp_snapshot_cancel(struct uffdwp_snapshot *s);

/*
 * Cancel if it runs, wait, free. NULL is allowed. -EDEADLK: called from an operation; nothing was
 * done. In a forked child: frees the child's copy. Nobody else may use s during or after it.
 */
int uffdwp_snapshot_free(struct uffdwp_snapshot *s);

#ifdef __cplusplus
}
#endif

#endif
