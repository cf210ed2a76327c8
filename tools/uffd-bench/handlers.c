/* SPDX-License-Identifier: MIT */
/*
 * Threads on the CPUs that a placement names. The poll loop is the event loop of a program that
 * serves faults without a pool; the library and its peer run the very same one.
 */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "side.h"

void thread_start(pthread_t *t, int cpu, void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	cpu_set_t set;
	int err;

	pthread_attr_init(&attr);
	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	err = pthread_create(t, &attr, run, arg);
	pthread_attr_destroy(&attr);
	if (err)
		die("pthread_create", err);
}

static unsigned int smaller(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

/* Where the writers leave no CPU free, the other one is the last writer's. */
static unsigned int handlers_elsewhere(unsigned int writers, unsigned int ncpus, int *cpus)
{
	unsigned int n = writers < ncpus ? smaller(writers, ncpus - writers) : 1;

	for (unsigned int i = 0; i < n; i++)
		cpus[i] = cpus_nth(writers < ncpus ? writers + i : ncpus - 1);
	return n;
}

unsigned int side_handlers(const struct side *s, int cpus[BENCH_WRITERS_MAX])
{
	unsigned int ncpus = (unsigned int)cpus_allowed(NULL);
	unsigned int n = smaller(s->writers->count, ncpus);

	if (s->place == PLACE_PIN_OTHER)
		return handlers_elsewhere(n, ncpus, cpus);
	if (s->place == PLACE_PIN_ONE)
		n = 1;
	for (unsigned int i = 0; i < n; i++)
		cpus[i] = s->place == PLACE_SCHED ? -1 : cpus_nth(i);
	return n;
}

void handlers_start(struct handlers *h, const struct side *s, void *(*run)(void *), void *arg)
{
	int cpus[BENCH_WRITERS_MAX] = { 0 };

	h->count = side_handlers(s, cpus);
	for (unsigned int i = 0; i < h->count; i++)
		thread_start(&h->threads[i], cpus[i], run, arg);
}

void handlers_join(struct handlers *h)
{
	for (unsigned int i = 0; i < h->count; i++)
		pthread_join(h->threads[i], NULL);
}

static void *poll_loop(void *arg)
{
	struct poller *p = arg;
	struct pollfd fds[2] = { { .fd = p->fd, .events = POLLIN },
				 { .fd = p->stop, .events = POLLIN } };

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll", errno);
		if (fds[0].revents & POLLIN)
			p->serve(p->ctx);
		else if (fds[0].revents)
			die("poll of the userfaultfd", EIO);
		else if (fds[1].revents)
			return NULL;
	}
}

void poller_start(struct poller *p, const struct side *s)
{
	p->stop = eventfd(0, EFD_CLOEXEC);
	if (p->stop < 0)
		die("eventfd", errno);
	handlers_start(&p->handlers, s, poll_loop, p);
}

void poller_stop(struct poller *p)
{
	uint64_t one = 1;

	if (write(p->stop, &one, sizeof(one)) != sizeof(one))
		die("eventfd", errno);
	handlers_join(&p->handlers);
	close(p->stop);
}
