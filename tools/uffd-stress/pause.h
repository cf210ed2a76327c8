/* SPDX-License-Identifier: MIT */
/*
 * A pause of threads: each of them asks, between two things that it does, whether there is one, and
 * waits then until it is over. So nobody who is paused is within anything.
 */
#ifndef STRESS_PAUSE_H
#define STRESS_PAUSE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct pause {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	_Atomic bool on;
	unsigned int members, parked; /* under the lock */
};

void pause_init(struct pause *p);
void pause_destroy(struct pause *p);

/* A member comes and goes; one that goes is not waited for any more. */
void pause_join(struct pause *p);
void pause_leave(struct pause *p);

/* Of a member: waits while there is a pause. */
void pause_check(struct pause *p);

/* Of one thread that is no member: returns when all members wait; lets them go on. */
void pause_begin(struct pause *p);
void pause_end(struct pause *p);

#endif
