/* SPDX-License-Identifier: MIT */
/*
 * Which addresses are whose: the handle's state that every floor above shares, and the table of its
 * regions.
 *
 * DESIGN
 *
 * The table is an array sorted by address, never changed once published; look-up is a binary
 * search without a lock. Who serves faults is a reader: it enters, looks up, calls operations,
 * leaves. A change builds the spare array, publishes it, and waits until every reader that may
 * have seen the old one has left; then the old one is the spare. So a region that was taken out
 * is not in any operation when that wait is over. The wait is over readers counted in two phases,
 * as in sleepable RCU; readers never wait.
 *
 * Lock order: lock (changes of the table, by programs and by events) is the only one. Serving
 * threads take it for events, outside of the reader section, and never while they hold pages.
 * Nothing that waits for a serving thread to read messages is done under it.
 *
 * Memory comes from mmap, never from malloc: the program's heap may be what is protected.
 *
 * The stash: calls meet EAGAIN until somebody has read the events that are pending. Any thread
 * that meets it reads messages into the stash itself, so no thread depends on another one, which
 * may be waiting too.
 *
 * Events change the books in the order in which they were read, whoever serves them: each has a
 * number, and waits for its turn. A region knows the number of the last event before it was
 * added: those are not about it, though the addresses may be the same.
 */
#ifndef UFFDWP_CORE_H
#define UFFDWP_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "bitmap.h"
#include "stats.h"
#include "uapi.h"
#include "uffdwp.h"

#define UFFDWP__STASH 4096 /* messages: one for each sleeping thread, one for each event */
#define UFFDWP__SERVERS UFFDWP_THREADS_MAX

struct uffdwp__pool;
struct uffdwp__layer; /* see layer.h */

/*
 * What may be on a region besides, or in place of, the program's operations: in order of delivery.
 */
enum uffdwp__who { UFFDWP__SNAPSHOT, UFFDWP__TRACK, UFFDWP__LAYERS };

/* Stripes of the marks' lock: collecting one does not hold up collecting another. */
#define UFFDWP__STRIPES 8

/* The program's operations. Readers take the pointer once and use what it points to. */
struct uffdwp__program {
	struct uffdwp_ops ops;
	void *ctx;
};

struct uffdwp__entry {
	uint64_t start, end;
	uint64_t base; /* the address of page 0 of the region's states */
	struct uffdwp_region *r;
};

struct uffdwp__table {
	uint32_t n;
	struct uffdwp__entry e[];
};

struct uffdwp_region {
	struct uffdwp *h;
	/*
	 * These change by events only, under the lock: where its page 0 is, or was, and what is left of
	 * it: len from base + head on. A move changes base alone, so that an address and what is at it are
	 * never of two times.
	 */
	_Atomic uint64_t base, head, len;
	_Atomic uintptr_t mem; /* of page 0; 0: can not be read directly */
	uint64_t size;	       /* when it was added: from base on */
	uint64_t page_size;    /* one page state stands for so much */
	uint64_t kernel_page;  /* the kernel faults and places so much */
	unsigned int shift;    /* of page_size */
	uint32_t mode;
	/*
	 * How many pages a write fault takes along: at most run, and with exact only those that
	 * were written; then all of its granule. Set by the layers that are there, else run is
	 * own_run.
	 */
	_Atomic uint32_t run, exact, granule;
	uint32_t own_run;
	bool mem_is_addr;
	/* So often pages of it became ARMED: counted where signals serve. */
	_Atomic uint32_t protections;
	uint32_t born;		    /* the last event before it was added */
	bool populate;		    /* before protecting */
	_Atomic bool gone;	    /* all of it was unmapped: it is not in the table any more */
	struct uffdwp_region *next; /* in the handle's list */
	_Atomic(const struct uffdwp__program *) program;
	struct uffdwp__program programs[2];
	/* Changed under the lock; used by readers. */
	_Atomic(struct uffdwp__layer *) layer[UFFDWP__LAYERS];
	pthread_mutex_t stripe[UFFDWP__STRIPES];
	struct uffdwp__pages
		pages; /* n is 0 without UFFDWP_MODE_WP, or when the kernel resolves writes */
	void *zeros;   /* kernel_page bytes, only where missing pages are placed */
	size_t alloc_size, zeros_size;
};

/* Where what is left of the region begins. Acquire: pairs with uffdwp__table_move(), as in uffdwp__addr_of(). */
static inline uint64_t uffdwp__start_of(const struct uffdwp_region *r)
{
	return atomic_load_explicit(&r->base, memory_order_acquire) +
	       atomic_load_explicit(&r->head, memory_order_relaxed);
}

/* Who may be using what is about to be changed; see the design. */
struct uffdwp__readers {
	_Atomic uint32_t phase; /* grows with every change */
	_Alignas(64) _Atomic uint64_t count[2];
};

struct uffdwp {
	_Atomic uint32_t *alive; /* a page of its own, wiped in a forked child */
	int fd;
	int scout;	 /* another userfaultfd, to ask of memory what it is, or -1 */
	_Atomic int pid; /* to read memory with, or 0 */
	uint64_t features, supported, ioctls;
	uint64_t kernel; /* features that the kernel has, masked or not; 0: not asked */
	uint32_t source, faults, serve, placement, threads, batch, sample;
	_Atomic int error;
	_Atomic bool given_up;	 /* fd is not the userfaultfd any more */
	_Atomic uint32_t unread; /* reads that failed, since the last one that did not */

	_Atomic(struct uffdwp__table *) table;
	struct uffdwp__table *spare;
	uint32_t table_cap;
	size_t table_size;	       /* bytes of each of the two */
	struct uffdwp_region *regions; /* all, also those with nothing left; under the lock */
	_Atomic uint32_t nregions, nlayers;
	pthread_mutex_t lock;

	struct uffdwp__readers readers;
	_Atomic uintptr_t servers[UFFDWP__SERVERS]; /* pthread_self() of who is in operations now */

	_Alignas(64) pthread_mutex_t stash_lock;
	uint32_t stashed, stash_head;
	uint32_t events_read;	/* which numbers them */
	struct uffd_msg *stash; /* UFFDWP__STASH of them, only where events are on */
	_Atomic uint32_t events_done;
	_Atomic uint32_t strays; /* since the last event */
	_Atomic bool stopping;	 /* the pool */

	struct uffdwp__stats stats; /* of who is not in the pool */
	struct uffdwp__pool *pool;
	int kick;	  /* eventfd: there is a stash, or the pool stops */
	bool blocking;	  /* callers wait in read(2) */
	uint32_t refused; /* 1 + the thread whose start hook refused */
	int epoll;	  /* what uffdwp_fd() gives, -1 unless callers serve */
	int (*thread_start)(unsigned int worker, void *arg);
	void *thread_arg;
	void (*forked)(struct uffdwp *parent, struct uffdwp *child, void *arg);
	void *forked_arg;
	int (*child)(struct uffdwp *parent, int fd,
		     struct uffdwp **out); /* makes what forked is given */
};

#define UFFDWP__EVENTS                                                                          \
	(UFFDWP_FEATURE_EVENT_FORK | UFFDWP_FEATURE_EVENT_REMAP | UFFDWP_FEATURE_EVENT_REMOVE | \
	 UFFDWP_FEATURE_EVENT_UNMAP)

/* Waits a little, longer when it is called with a larger count. */
void uffdwp__pause(unsigned int count);

static inline unsigned int uffdwp__readers_enter(struct uffdwp__readers *r)
{
	unsigned int phase = atomic_load_explicit(&r->phase, memory_order_relaxed) & 1;

	/* Pairs with uffdwp__readers_wait(): either it sees us, or we see what it has published. */
	atomic_fetch_add_explicit(&r->count[phase], 1, memory_order_seq_cst);
	return phase;
}

static inline void uffdwp__readers_leave(struct uffdwp__readers *r, unsigned int phase)
{
	/* Pairs with the load in uffdwp__readers_wait(): what we did is before its end. */
	atomic_fetch_sub_explicit(&r->count[phase], 1, memory_order_release);
}

/* Waits until who entered before has left. */
void uffdwp__readers_wait(struct uffdwp__readers *r);

/* Readers of the table. */
static inline unsigned int uffdwp__enter(struct uffdwp *h)
{
	return uffdwp__readers_enter(&h->readers);
}

static inline void uffdwp__leave(struct uffdwp *h, unsigned int phase)
{
	uffdwp__readers_leave(&h->readers, phase);
}

/* The program's operations and context, in a reader section. */
static inline const struct uffdwp__program *uffdwp__program(const struct uffdwp_region *r)
{
	/* Pairs with the release in uffdwp_region_set_ops(). */
	return atomic_load_explicit(&r->program, memory_order_acquire);
}

/* Whether pages of it may be missing, or not mapped, until who serves the fault has placed them. */
static inline bool uffdwp__places(const struct uffdwp_region *r)
{
	return r->mode & (UFFDWP_MODE_MISSING | UFFDWP_MODE_MINOR);
}

/* In a reader section, or under the lock: seq_cst as the table, see uffdwp__readers_wait(). */
static inline struct uffdwp__layer *uffdwp__layer(const struct uffdwp_region *r,
						  enum uffdwp__who who)
{
	return atomic_load_explicit(&r->layer[who], memory_order_seq_cst);
}

static inline bool uffdwp__layered(const struct uffdwp_region *r)
{
	return uffdwp__layer(r, UFFDWP__SNAPSHOT) || uffdwp__layer(r, UFFDWP__TRACK);
}

/* In a reader section, or under the lock. NULL: nobody's. */
const struct uffdwp__entry *uffdwp__lookup(struct uffdwp *h, uint64_t addr);

/* Whether any of it is a region's. */
bool uffdwp__watches(struct uffdwp *h, uint64_t addr, uint64_t len);

/* 0, -EINVAL for NULL, -ECHILD in a forked child. */
int uffdwp__check(const struct uffdwp *h);

/* Whether the caller is in an operation of this handle, and the marks for it. */
bool uffdwp__serving(struct uffdwp *h);
int uffdwp__serving_begin(struct uffdwp *h);
void uffdwp__serving_end(struct uffdwp *h, int slot);

/* Table changes; under the lock. insert needs room, which reserve makes. */
int uffdwp__table_reserve(struct uffdwp *h, uint32_t n);
void uffdwp__table_insert(struct uffdwp *h, struct uffdwp_region *r);
void uffdwp__table_remove(struct uffdwp *h, struct uffdwp_region *r);
/*
 * Takes [start, end) away from a region, which may leave it in two parts. False: nothing is left
 * of it.
 */
bool uffdwp__table_cut(struct uffdwp *h, struct uffdwp_region *r, uint64_t start, uint64_t end);
void uffdwp__table_move(struct uffdwp *h, struct uffdwp_region *r, uint64_t delta);

/*
 * Messages: from the stash if there are any, else read, without waiting. Their number, 0 when
 * none, or -errno.
 */
int uffdwp__take(struct uffdwp *h, struct uffd_msg *msg, unsigned int max);

/*
 * Reads what is pending into the stash, so that who waits for events to be read need not wait for
 * another thread.
 */
void uffdwp__stash_fill(struct uffdwp *h);
void uffdwp__stash_close(struct uffdwp *h);

/*
 * Waits until every event before this one was carried out; says that this one was; the last that
 * was read.
 */
void uffdwp__events_turn(struct uffdwp *h, uint32_t number);
void uffdwp__events_done(struct uffdwp *h, uint32_t number);
uint32_t uffdwp__events_now(struct uffdwp *h);
/* Whether that one, and all before it, were carried out. */
bool uffdwp__events_reached(struct uffdwp *h, uint32_t number);

/*
 * Whether every event that has been read was carried out. False also when that can not be told now.
 */
bool uffdwp__events_settled(struct uffdwp *h);

/* Copies an option struct of the caller's size into ours: 0, -EINVAL, -E2BIG. */
int uffdwp__opts(void *to, size_t to_size, const void *from, size_t min_size);

/* Writes a reason into a caller's buffer, if there is one. */
__attribute__((format(printf, 3, 4))) void uffdwp__reason(char *buf, size_t size, const char *fmt,
							  ...);

/* Returns err from a function whose options are *o, having said why. */
#define FAIL(err, ...)                                                  \
	do {                                                            \
		uffdwp__reason(o->reason, o->reason_size, __VA_ARGS__); \
		return err;                                             \
	} while (0)

#endif
