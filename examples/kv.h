/* SPDX-License-Identifier: MIT */
/*
 * The program that live_snapshot.c takes snapshots of: a key-value store in one piece of memory, and
 * threads that put records into it as fast as they can, 99 of 100 into one hundredth of the keys. It
 * knows nothing of snapshots but that it can be paused between two puts.
 *
 * Put n of thread t follows from t and n alone. So whoever knows how many puts each thread had made at
 * some instant can work out every byte of the store at that instant, without having looked at it.
 */
#ifndef KV_H
#define KV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KV_THREADS_MAX 16

struct kv_record {
	uint64_t key, version, value[30];
};

/* Log-linear: sixteen buckets an octave. */
struct kv_latency {
	uint64_t bucket[1024], count, max;
};

enum kv_phase { KV_BEFORE, KV_DURING, KV_AFTER, KV_PHASES };

struct kv;

struct kv_thread {
	struct kv *kv;
	pthread_t thread;
	uint64_t id, puts; /* so far; for others to read while paused */
	struct kv_latency latency[KV_PHASES];
};

/* All that there is to know about a store at an instant. */
struct kv_instant {
	uint64_t nrecords, nthreads, puts[KV_THREADS_MAX];
};

struct kv {
	struct kv_record *records;
	uint64_t nrecords, nthreads;
	struct kv_thread thread[KV_THREADS_MAX];
	atomic_int phase, pausing, stopping;
	uint64_t paused;
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

static inline size_t kv_bytes(const struct kv *kv)
{
	return kv->nrecords * sizeof(*kv->records);
}

static inline uint64_t kv_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static inline uint64_t kv_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What a record is after version puts by its thread; 0: as it was filled. */
static inline void kv_fill(struct kv_record *r, uint64_t key, uint64_t version)
{
	uint64_t x = kv_mix(key * 0x9e3779b97f4a7c15 + version);

	r->key = key;
	r->version = version;
	for (int i = 0; i < 30; i++)
		r->value[i] = x += 0x9e3779b97f4a7c15;
}

/*
 * The key of a thread's n-th put. No two threads share keys. Of every 1600 keys of a thread sixteen
 * are hot: a page's worth, so that one hundredth of the pages is hot, and they lie all over the store.
 */
static inline uint64_t kv_key(uint64_t nrecords, uint64_t nthreads, uint64_t thread, uint64_t n)
{
	uint64_t h = kv_mix(thread << 48 | n), own = nrecords / nthreads;
	uint64_t hot = (h >> 8) % (own / 1600) * 1600 + (h >> 4) % 16;

	return (h % 100 ? hot : (h >> 8) % own) * nthreads + thread;
}

static inline void kv_count(struct kv_latency *l, uint64_t ns)
{
	unsigned int octave = 63 - (unsigned int)__builtin_clzll(ns | 16);

	l->bucket[(octave - 4) * 16 + (ns >> (octave - 4))]++;
	l->count++;
	l->max = l->max > ns ? l->max : ns;
}

/* In nanoseconds, exact to 1/16. */
static inline uint64_t kv_percentile(const struct kv_latency *l, double percent)
{
	uint64_t want = (uint64_t)((double)l->count * percent / 100), seen = 0, i = 0;

	while (i < 1023 && (seen += l->bucket[i]) <= want)
		i++;
	return i < 32 ? i : (i % 16 + 16) << (i / 16 - 1);
}

/* The safe point: here a thread is between two puts. */
static inline void kv_park(struct kv *kv)
{
	pthread_mutex_lock(&kv->lock);
	kv->paused++;
	pthread_cond_broadcast(&kv->changed);
	while (atomic_load(&kv->pausing))
		pthread_cond_wait(&kv->changed, &kv->lock);
	kv->paused--;
	pthread_mutex_unlock(&kv->lock);
}

static inline void *kv_main(void *arg)
{
	struct kv_thread *t = arg;
	uint64_t then = kv_now(), now;

	while (!atomic_load(&t->kv->stopping)) {
		uint64_t key = kv_key(t->kv->nrecords, t->kv->nthreads, t->id, ++t->puts);

		kv_fill(&t->kv->records[key], key, t->puts);
		if (atomic_load(&t->kv->pausing))
			kv_park(t->kv);
		now = kv_now(); /* a pause counts as a part of the put that it delays */
		kv_count(&t->latency[atomic_load(&t->kv->phase)], now - then);
		then = now;
	}
	return NULL;
}

static inline void kv_pause(struct kv *kv)
{
	pthread_mutex_lock(&kv->lock);
	atomic_store(&kv->pausing, 1);
	while (kv->paused < kv->nthreads)
		pthread_cond_wait(&kv->changed, &kv->lock);
	pthread_mutex_unlock(&kv->lock);
}

/* While paused. */
static inline struct kv_instant kv_instant(const struct kv *kv)
{
	struct kv_instant at = { .nrecords = kv->nrecords, .nthreads = kv->nthreads };

	for (uint64_t i = 0; i < kv->nthreads; i++)
		at.puts[i] = kv->thread[i].puts;
	return at;
}

static inline void kv_resume(struct kv *kv)
{
	pthread_mutex_lock(&kv->lock);
	atomic_store(&kv->pausing, 0);
	pthread_cond_broadcast(&kv->changed);
	pthread_mutex_unlock(&kv->lock);
}

/* These three tell the time. */
static inline uint64_t kv_start(struct kv *kv)
{
	atomic_store(&kv->phase, KV_BEFORE);
	atomic_store(&kv->stopping, 0);
	for (uint64_t i = 0; i < kv->nthreads; i++) {
		struct kv_thread *t = &kv->thread[i];

		memset(t->latency, 0, sizeof(t->latency));
		t->kv = kv;
		t->id = i;
		if (pthread_create(&t->thread, NULL, kv_main, t))
			abort();
	}
	return kv_now();
}

static inline uint64_t kv_enter(struct kv *kv, enum kv_phase phase)
{
	atomic_store(&kv->phase, phase);
	return kv_now();
}

static inline uint64_t kv_stop(struct kv *kv)
{
	uint64_t now = kv_now();

	atomic_store(&kv->stopping, 1);
	for (uint64_t i = 0; i < kv->nthreads; i++)
		pthread_join(kv->thread[i].thread, NULL);
	return now;
}

/* All threads' latencies of a phase. */
static inline void kv_sum(const struct kv *kv, enum kv_phase phase, struct kv_latency *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (uint64_t t = 0; t < kv->nthreads; t++) {
		const struct kv_latency *l = &kv->thread[t].latency[phase];

		for (int i = 0; i < 1024; i++)
			sum->bucket[i] += l->bucket[i];
		sum->count += l->count;
		sum->max = sum->max > l->max ? sum->max : l->max;
	}
}

/* How many records are not, byte for byte, what they were at that instant. */
static inline uint64_t kv_wrong(const struct kv_instant *at, const struct kv_record *records)
{
	uint64_t *last = calloc(at->nrecords, sizeof(*last)), wrong = 0;
	struct kv_record want;

	if (!last)
		abort();
	for (uint64_t t = 0; t < at->nthreads; t++)
		for (uint64_t n = 1; n <= at->puts[t]; n++)
			last[kv_key(at->nrecords, at->nthreads, t, n)] = n;
	for (uint64_t key = 0; key < at->nrecords; key++) {
		kv_fill(&want, key, last[key]);
		wrong += memcmp(&want, &records[key], sizeof(want)) != 0;
	}
	free(last);
	return wrong;
}

#endif
