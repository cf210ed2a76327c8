/* SPDX-License-Identifier: MIT */
/* The marks of threads that are in the library's calls, see site.h. */
#include "fault.h"

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
