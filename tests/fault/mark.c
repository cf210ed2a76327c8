/* SPDX-License-Identifier: MIT */
/* The marks of threads that are in the library's calls, see site.h. */
#include "fault.h"

#include <liburing.h>

#define SLOTS 1024

struct mark {
	_Atomic pid_t tid;     /* 0: free */
	_Atomic uint32_t site; /* 1 added; 0: in none */
	_Atomic bool failed;
};

static struct mark *marks;

extern const struct fault_site *__start_fault_sites[];
extern const struct fault_site *__stop_fault_sites[];

unsigned int fault_sites(void)
{
	return (unsigned int)(__stop_fault_sites - __start_fault_sites);
}

const struct fault_site *fault_site(unsigned int i)
{
	return __start_fault_sites[i];
}

void fault_marks_make(void)
{
	marks = mmap(NULL, (SLOTS + 1) * sizeof(*marks), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (marks == MAP_FAILED)
		abort();
}

void fault_marks_clear(void)
{
	memset((void *)marks, 0, (SLOTS + 1) * sizeof(*marks));
}

/* The mark behind the last thread's. */
void fault_over(void)
{
	atomic_store(&marks[SLOTS].failed, true);
}

/* Threads never give their slot up; there are few in a run. */
static struct mark *mark_of(pid_t tid, bool make)
{
	for (unsigned int i = (unsigned int)tid % SLOTS, n = 0; n < SLOTS;
	     i = (i + 1) % SLOTS, n++) {
		pid_t at = atomic_load(&marks[i].tid);

		if (!at && !make)
			return NULL;
		if (!at && atomic_compare_exchange_strong(&marks[i].tid, &at, tid))
			return &marks[i];
		if (at == tid)
			return &marks[i];
	}
	return NULL;
}

/* A system call each time: a child of fork() is another thread, whatever its memory says. */
static struct mark *mine(void)
{
	struct mark *m = marks ? mark_of((pid_t)syscall(SYS_gettid), true) : NULL;

	if (!m)
		abort();
	return m;
}

uint32_t fault_enter(const struct fault_site *const *here)
{
	return atomic_exchange(
		&mine()->site,
		1 + (uint32_t)(here - (const struct fault_site *const *)__start_fault_sites));
}

bool fault_leave(uint32_t before)
{
	struct mark *m = mine();

	atomic_store(&m->site, before);
	return atomic_exchange(&m->failed, false);
}

int fault_marked(pid_t tid, bool fail)
{
	struct mark *m = mark_of(tid, false);
	int site = m && !atomic_load(&marks[SLOTS].failed) ? (int)atomic_load(&m->site) - 1 : -1;

	if (site >= 0 && fail)
		atomic_store(&m->failed, true);
	return site;
}

/* A close(2) that fails has closed all the same. The mark is gone here, so that these do not fail. */
void fault_closed(int fd)
{
	int saved = errno;

	close(fd);
	errno = saved;
}

/* A munmap(2) that fails has not unmapped, and there is nothing that a program can do: no leak of its making. */
void fault_unmapped(void *p, size_t size)
{
	int saved = errno;

	munmap(p, size);
	errno = saved;
}

/* ---- Calls that do a part ---- */

size_t fault_part(size_t n)
{
	static const size_t units[] = { 4096, 512, 32, 8 };

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (n >= 2 * units[i])
			return n / 2 & ~(units[i] - 1);
	return n;
}

/* ---- Completions ---- */

#define PENDING 64

/* Those queued that are to fail. */
static struct {
	pthread_mutex_t lock;
	struct {
		uint64_t io;
		int res;
	} e[PENDING];
} pending = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* What was noted of io, which is none of it any more; then res is, unless it is 0. */
static int note(uint64_t io, int res)
{
	int was = 0;

	pthread_mutex_lock(&pending.lock);
	for (unsigned int i = 0; i < PENDING; i++) {
		if (pending.e[i].res && pending.e[i].io == io) {
			was = pending.e[i].res;
			pending.e[i].res = 0;
		}
		if (res && !pending.e[i].res) {
			pending.e[i].io = io;
			pending.e[i].res = res;
			res = 0;
		}
	}
	pthread_mutex_unlock(&pending.lock);
	if (res)
		abort();
	return was;
}

static bool writes(const struct io_uring_sqe *sqe)
{
	return sqe->opcode == IORING_OP_WRITE || sqe->opcode == IORING_OP_WRITE_FIXED;
}

/* What fails does nothing. */
int fault_queue(struct io_uring_sqe *sqe, void *io)
{
	int saved = errno, err = 0;

	io_uring_sqe_set_data(sqe, io);
	if (syscall(FAULT_COMPLETION, writes(sqe) ? FAULT_COMPLETE_WRITE : FAULT_COMPLETE_READ) < 0)
		err = errno;
	errno = saved;
	if (err == FAULT_SHORT)
		sqe->len = (uint32_t)fault_part(sqe->len);
	else if (err)
		sqe->len = 0;
	note(sqe->user_data, err == FAULT_SHORT || err == FAULT_ZERO ? 0 : -err);
	return 0;
}

int fault_peek(struct io_uring *ring, struct io_uring_cqe **cqe)
{
	int ret = io_uring_peek_cqe(ring, cqe), res;

	if (!ret) {
		res = note((*cqe)->user_data, 0);
		if (res)
			(*cqe)->res = res;
	}
	return ret;
}
