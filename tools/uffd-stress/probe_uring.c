/* SPDX-License-Identifier: MIT */
/*
 * io_uring for the checks of `uffd-stress probe`, see probe_uring.h.
 */
#include "probe_uring.h"
#include "probe.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ENTRIES 4

static void *map_ring(int fd, size_t size, off_t what)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	PROBE_CHECK(p != MAP_FAILED, "mapping the io_uring: %s", strerror(errno));
	return p;
}

void probe_uring_open(struct probe_uring *u)
{
	struct io_uring_params p = { 0 };
	char *sq, *cq;

	u->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &p);
	if (u->fd < 0)
		probe_unsupported("io_uring: %s", strerror(errno));
	sq = map_ring(u->fd, p.sq_off.array + p.sq_entries * sizeof(unsigned int),
		      IORING_OFF_SQ_RING);
	cq = map_ring(u->fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
		      IORING_OFF_CQ_RING);
	u->sqes = map_ring(u->fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	u->sq_tail = (unsigned int *)(sq + p.sq_off.tail);
	u->sq_mask = (unsigned int *)(sq + p.sq_off.ring_mask);
	u->sq_array = (unsigned int *)(sq + p.sq_off.array);
	u->cq_head = (unsigned int *)(cq + p.cq_off.head);
	u->cq_tail = (unsigned int *)(cq + p.cq_off.tail);
	u->cq_mask = (unsigned int *)(cq + p.cq_off.ring_mask);
	u->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

int probe_uring_pin(struct probe_uring *u, void *addr, size_t len)
{
	struct iovec iov = { addr, len };

	return syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_BUFFERS, &iov, 1) ? -errno : 0;
}

long probe_uring_read(struct probe_uring *u, int fd, void *to, size_t len, int fixed)
{
	unsigned int tail = *u->sq_tail, slot = tail & *u->sq_mask, head = *u->cq_head;
	struct io_uring_sqe *sqe = &u->sqes[slot];
	long ret;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = fixed ? IORING_OP_READ_FIXED : IORING_OP_READ;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)to;
	sqe->len = (uint32_t)len;
	u->sq_array[slot] = slot;
	__atomic_store_n(u->sq_tail, tail + 1,
			 __ATOMIC_RELEASE); /* the kernel reads it acquiring */
	if (syscall(SYS_io_uring_enter, u->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	if (__atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE) == head) /* the kernel released it */
		return -EIO;
	ret = u->cqes[head & *u->cq_mask].res;
	__atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
	return ret;
}
