/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes of one file, many at a time: by io_uring, with registered buffers where that is
 * permitted, else one after another by pread(2) and pwrite(2). What the kernel does in part is
 * finished here. One thread at a time.
 */
#ifndef UFFDWP_IMAGE_QUEUE_H
#define UFFDWP_IMAGE_QUEUE_H

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* One read or write. It is the queue's from uffdwp__queue_add() until uffdwp__queue_take() returns it. */
struct uffdwp__io {
	void *buf;
	uint64_t offset, len;
	struct iovec *iov; /* where buf is NULL: niov buffers, len in all; changed on the way */
	unsigned int niov;
	bool write;
	bool plain;    /* was refused with O_DIRECT, and is tried without */
	int err;       /* 0 or -errno; -EBADMSG: the file ends before */
	uint64_t done; /* bytes */
	struct uffdwp__io *next;
};

struct uffdwp__list {
	struct uffdwp__io *head, **tail;
};

struct uffdwp__queue {
	int fd;
	/*
	 * For small writes where fd is O_DIRECT: the same file through the page cache, which puts neighbours
	 * together. The owner's to set and to close; -1: there is none.
	 */
	int cached;
	unsigned int depth, inflight;
	bool uring;	       /* else synchronous */
	bool refused;	       /* the kernel takes no more: synchronous from here on */
	unsigned int refusals; /* one after another */
	bool registered;       /* [fixed, fixed + fixed_size) */
	bool direct;	       /* fd is O_DIRECT */
	bool was_direct; /* and was at first: what is under way may have been refused for it */
	char *fixed;
	size_t fixed_size;
	struct io_uring ring;
	struct uffdwp__list waiting, finished;
};

/*
 * depth: how many at a time; 0: without io_uring. direct: try O_DIRECT, which the queue then sets on fd, and drops where the file system refuses. fixed:
 * memory to register, or NULL. fd is borrowed. 0 or -errno.
 */
int uffdwp__queue_init(struct uffdwp__queue *q, int fd, unsigned int depth, bool direct,
		       void *fixed, size_t fixed_size);

/* Nothing may be in flight, see uffdwp__queue_idle(); or in a forked child, where nothing is. */
void uffdwp__queue_exit(struct uffdwp__queue *q);

/* Starts it, or keeps it until another one is finished. */
void uffdwp__queue_add(struct uffdwp__queue *q, struct uffdwp__io *io);

/* One that is finished. Waits about ms milliseconds, -1 for ever, if none is. NULL: none. */
struct uffdwp__io *uffdwp__queue_take(struct uffdwp__queue *q, int ms);

/* Nothing was added that was not taken. */
bool uffdwp__queue_idle(const struct uffdwp__queue *q);

#endif
