/* SPDX-License-Identifier: MIT */
/*
 * The queue of reads and writes. The kernel is asked to do each as soon as there is room: the pieces are
 * large enough for the system call not to matter, and the disk begins at once. Small writes are over when
 * they are in the page cache.
 */
#include "queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define IOVEC_MAX ((size_t)1 << 30) /* the kernel's limit of a registered buffer */
#define IOVECS 64
#define SMALL (UINT64_C(64) << 10)   /* copied sooner than a disk does one more write */
#define REFUSALS 1000		     /* about a second */
#define PART_MAX (UINT64_C(1) << 30) /* of one system call */

static void list_add(struct uffdwp__list *l, struct uffdwp__io *io)
{
	io->next = NULL;
	*l->tail = io;
	l->tail = &io->next;
}

static struct uffdwp__io *list_take(struct uffdwp__list *l)
{
	struct uffdwp__io *io = l->head;

	if (io)
		l->head = io->next;
	if (!l->head)
		l->tail = &l->head;
	return io;
}

static bool set_direct(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && !fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/* What is not permitted, or more than may be locked, is done without. */
static void register_fixed(struct uffdwp__queue *q)
{
	struct iovec iov[IOVECS];
	unsigned int n = 0;

	for (size_t pos = 0; pos < q->fixed_size && n < IOVECS; pos += IOVEC_MAX, n++) {
		size_t left = q->fixed_size - pos;

		iov[n].iov_base = q->fixed + pos;
		iov[n].iov_len = left < IOVEC_MAX ? left : IOVEC_MAX;
	}
	q->registered = n && !io_uring_register_buffers(&q->ring, iov, n);
}

int uffdwp__queue_init(struct uffdwp__queue *q, int fd, unsigned int depth, bool direct,
		       void *fixed, size_t fixed_size)
{
	int err;

	memset(q, 0, sizeof(*q));
	q->fd = fd;
	q->cached = -1;
	q->depth = depth;
	q->fixed = fixed;
	q->fixed_size = fixed ? fixed_size : 0;
	q->waiting.tail = &q->waiting.head;
	q->finished.tail = &q->finished.head;
	q->direct = q->was_direct = direct && set_direct(fd, true);
	if (!depth)
		return 0;
	err = io_uring_queue_init(depth, &q->ring, 0);
	/* No io_uring, forbidden by the sysctl, or by a seccomp filter, or in want of locked memory. */
	if (err == -ENOSYS || err == -EPERM || err == -EACCES || err == -ENOMEM)
		return 0;
	if (err)
		return err;
	q->uring = true;
	register_fixed(q);
	return 0;
}

void uffdwp__queue_exit(struct uffdwp__queue *q)
{
	if (q->uring)
		io_uring_queue_exit(&q->ring);
	q->uring = false;
}

bool uffdwp__queue_idle(const struct uffdwp__queue *q)
{
	return !q->inflight && !q->waiting.head && !q->finished.head;
}

static unsigned int part(const struct uffdwp__io *io)
{
	uint64_t left = io->len - io->done;

	return (unsigned int)(left < PART_MAX ? left : PART_MAX);
}

/* The buffers that n bytes have filled or emptied. */
static void skip(struct uffdwp__io *io, size_t n)
{
	while (io->niov && n >= io->iov->iov_len) {
		n -= io->iov->iov_len;
		io->iov++;
		io->niov--;
	}
	if (n) {
		io->iov->iov_base = (char *)io->iov->iov_base + n;
		io->iov->iov_len -= n;
	}
}

/*
 * Notes what the kernel said: n bytes, or -errno. True: the rest is to be done by another call.
 */
static bool go_on(struct uffdwp__queue *q, struct uffdwp__io *io, int n)
{
	if (n == -EINVAL && q->was_direct && !io->plain && set_direct(q->fd, false)) {
		q->direct = false;
		io->plain = true;
		return true;
	}
	if (n == -EINTR || n == -EAGAIN)
		return true;
	if (n <= 0 && io->done < io->len)
		io->err = n ? n : io->write ? -EIO : -EBADMSG;
	else
		io->done += (uint64_t)n;
	if (!io->err && !io->buf)
		skip(io, (size_t)n);
	/* Some file systems write in part up to a limit of their own, others because of an error. */
	return !io->err && io->done < io->len;
}

static bool is_small(const struct uffdwp__queue *q, const struct uffdwp__io *io)
{
	return io->write && io->len < SMALL && q->cached >= 0;
}

static void do_now(struct uffdwp__queue *q, struct uffdwp__io *io)
{
	int fd = is_small(q, io) ? q->cached : q->fd;
	ssize_t n;

	do {
		struct iovec one = { (char *)io->buf + io->done, part(io) };
		const struct iovec *iov = io->buf ? &one : io->iov;
		int niov = io->buf ? 1 : (int)io->niov;
		off_t at = (off_t)(io->offset + io->done);

		n = io->write ? pwritev(fd, iov, niov, at) : preadv(fd, iov, niov, at);
	} while (go_on(q, io, n < 0 ? -errno : (int)n));
	list_add(&q->finished, io);
}

/* The registered buffer that holds all of [at, at + len), or -1. */
static int fixed_index(const struct uffdwp__queue *q, const char *at, size_t len)
{
	uintptr_t from = (uintptr_t)at - (uintptr_t)q->fixed;

	if (!q->registered || from >= q->fixed_size || len > q->fixed_size - from ||
	    from / IOVEC_MAX >= IOVECS || from / IOVEC_MAX != (from + len - 1) / IOVEC_MAX)
		return -1;
	return (int)(from / IOVEC_MAX);
}

static void prepare(struct uffdwp__queue *q, struct io_uring_sqe *sqe, struct uffdwp__io *io)
{
	uint64_t offset = io->offset + io->done;
	char *at = (char *)io->buf + io->done;
	unsigned int len = part(io);
	int index = fixed_index(q, at, len);

	if (!io->buf && io->write)
		io_uring_prep_writev(sqe, q->fd, io->iov, io->niov, offset);
	else if (!io->buf)
		io_uring_prep_readv(sqe, q->fd, io->iov, io->niov, offset);
	else if (index >= 0 && io->write)
		io_uring_prep_write_fixed(sqe, q->fd, at, len, offset, index);
	else if (index >= 0)
		io_uring_prep_read_fixed(sqe, q->fd, at, len, offset, index);
	else if (io->write)
		io_uring_prep_write(sqe, q->fd, at, len, offset);
	else
		io_uring_prep_read(sqe, q->fd, at, len, offset);
	io_uring_sqe_set_data(sqe, io);
}

/*
 * The kernel takes nothing more: what it has not taken is done here, and so is all that comes. What it has taken it
 * finishes.
 */
__attribute__((cold)) static void do_without(struct uffdwp__queue *q)
{
	const struct io_uring_sq *sq = &q->ring.sq;
	unsigned int i = __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE);

	q->refused = true;
	for (; i != sq->sqe_tail; i++) {
		q->inflight--;
		do_now(q, (struct uffdwp__io *)(uintptr_t)sq->sqes[i & *sq->kring_mask].user_data);
	}
}

/* What the kernel could not take now, for want of memory, it takes with a later call, if that is soon. */
__attribute__((cold)) static void not_taken(struct uffdwp__queue *q)
{
	if (++q->refusals > REFUSALS)
		do_without(q);
	else
		(void)poll(NULL, 0, 1);
}

/* Starts what waits, as much as there is room for. */
static void start(struct uffdwp__queue *q)
{
	while (q->refused && q->waiting.head)
		do_now(q, list_take(&q->waiting));
	if (q->refused)
		return;
	while (q->waiting.head && q->inflight < q->depth) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

		if (!sqe)
			break;
		prepare(q, sqe, list_take(&q->waiting));
		q->inflight++;
	}
	if (!io_uring_sq_ready(&q->ring))
		return;
	if (io_uring_submit(&q->ring) < 0)
		not_taken(q);
	else
		q->refusals = 0;
}

void uffdwp__queue_add(struct uffdwp__queue *q, struct uffdwp__io *io)
{
	io->done = 0;
	io->err = 0;
	if (!q->uring || is_small(q, io)) {
		do_now(q, io);
		return;
	}
	list_add(&q->waiting, io);
	start(q);
}

/* Looks at what the kernel has finished. */
static void collect(struct uffdwp__queue *q)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&q->ring, &cqe)) {
		struct uffdwp__io *io = io_uring_cqe_get_data(cqe);
		int n = cqe->res;

		io_uring_cqe_seen(&q->ring, cqe);
		q->inflight--;
		list_add(go_on(q, io, n) ? &q->waiting : &q->finished, io);
	}
	start(q);
}

/* Without end if ms is below 0. */
static void wait_for_one(struct uffdwp__queue *q, int ms)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;

	if (q->refused)
		(void)poll(NULL, 0, 1);
	else
		io_uring_submit_and_wait_timeout(&q->ring, &cqe, 1, ms < 0 ? NULL : &ts, NULL);
}

struct uffdwp__io *uffdwp__queue_take(struct uffdwp__queue *q, int ms)
{
	if (q->uring && !q->finished.head)
		collect(q);
	while (ms && !q->finished.head && q->inflight) {
		wait_for_one(q, ms);
		collect(q);
		if (ms > 0)
			break;
	}
	return list_take(&q->finished);
}
