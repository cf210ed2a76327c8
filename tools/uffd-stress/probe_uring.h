/* SPDX-License-Identifier: MIT */
/*
 * io_uring for the checks of `uffd-stress probe`: the bare system calls, one request at a time.
 */
#ifndef PROBE_URING_H
#define PROBE_URING_H

#include <stddef.h>
#include <stdint.h>

struct io_uring_sqe;
struct io_uring_cqe;

struct probe_uring {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

/* The row is unsupported where io_uring is not permitted. */
void probe_uring_open(struct probe_uring *u);

/* Makes memory fixed buffer 0, which pins its pages: 0 or -errno. */
int probe_uring_pin(struct probe_uring *u, void *addr, size_t len);

/* Reads from fd at offset 0, by the fixed buffer or not, and waits for it: bytes or -errno. */
long probe_uring_read(struct probe_uring *u, int fd, void *to, size_t len, int fixed);

#endif
