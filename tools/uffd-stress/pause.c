/* SPDX-License-Identifier: MIT */
/* A pause of threads, see pause.h. */
#include "pause.h"
#include "stress.h"

void pause_init(struct pause *p)
{
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	atomic_store(&p->on, false);
	p->members = p->parked = 0;
}

void pause_destroy(struct pause *p)
{
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
}

void pause_join(struct pause *p)
{
	pthread_mutex_lock(&p->lock);
	p->members++;
	pthread_mutex_unlock(&p->lock);
}

void pause_leave(struct pause *p)
{
	pthread_mutex_lock(&p->lock);
	p->members--;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

void pause_check(struct pause *p)
{
	if (!atomic_load_explicit(&p->on, memory_order_relaxed))
		return;
	watchdog_rest("is paused");
	pthread_mutex_lock(&p->lock);
	p->parked++;
	pthread_cond_broadcast(&p->cond);
	while (atomic_load(&p->on))
		pthread_cond_wait(&p->cond, &p->lock);
	p->parked--;
	pthread_mutex_unlock(&p->lock);
	watchdog_step("goes on", 0);
}

void pause_begin(struct pause *p)
{
	watchdog_rest("waits for the others to pause");
	pthread_mutex_lock(&p->lock);
	atomic_store(&p->on, true);
	while (p->parked < p->members)
		pthread_cond_wait(&p->cond, &p->lock);
	pthread_mutex_unlock(&p->lock);
	watchdog_step("goes on", 0);
}

void pause_end(struct pause *p)
{
	pthread_mutex_lock(&p->lock);
	atomic_store(&p->on, false);
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
}
