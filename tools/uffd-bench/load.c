/* SPDX-License-Identifier: MIT */
/*
 * Memory with known content and threads that write to some of it, see load.h. A thread looks at the clock
 * once a write: where one ends the next begins, so a pause, a fault, or time without a CPU counts in the
 * write that it delayed. A paced thread's write begins when it is due, whether or not the thread can begin it
 * then: being late counts too. It waits by looking at the clock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "load.h"
#include "side.h"

#define LINE 64u

uint64_t load_clock(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* ---- Content ---- */

/* Before any write. No page is all zeros, no two are the same. */
static void fill_page(char *to, size_t page)
{
	uint64_t *word = (uint64_t *)to, x = mix(page + 1);

	for (unsigned int i = 0; i < LOAD_PAGE / sizeof(x); i++)
		word[i] = x += 0x9e3779b97f4a7c15;
}

static void store(char *line, uint64_t value)
{
	uint64_t *word = (uint64_t *)line;

	for (unsigned int i = 0; i < LINE / sizeof(value); i++)
		word[i] = value + i;
}

/* Where write n of a thread goes, as an index of the hot pages, and which line of it. */
static size_t target(const struct load *l, unsigned int thread, uint64_t n, unsigned int *line,
		     uint64_t *value)
{
	size_t from = writers_part(l->hot, thread, l->writers);
	size_t to = writers_part(l->hot, thread + 1, l->writers);

	*value = mix((uint64_t)thread << 56 | n);
	*line = (unsigned int)(*value >> 32) % (LOAD_PAGE / LINE);
	return from + *value % (to - from);
}

static void fill(struct load *l)
{
	for (size_t page = 0; page < l->pages; page++)
		fill_page(l->mem.addr + page * LOAD_PAGE, page);
	for (size_t i = 0; i < l->hot; i++)
		fill_page(l->shadow + i * LOAD_PAGE, l->page[i]);
	for (unsigned int t = 0; t < l->writers; t++)
		l->done.writes[t] = l->writer[t].writes;
}

/* One page in each part of the memory, anywhere in it; dealt out so that all threads write all over. */
static void choose_hot(struct load *l)
{
	size_t n = 0;

	for (unsigned int t = 0; t < l->writers; t++)
		for (size_t i = t; i < l->hot; i += l->writers) {
			size_t from = l->pages * i / l->hot, to = l->pages * (i + 1) / l->hot;

			l->page[n++] = (uint32_t)(from + mix(i + 7) % (to - from));
		}
}

/* ---- Life ---- */

bool load_can(const struct bench_opts *o)
{
	if (!(o->mem & (1u << MEM_HUGETLB_SHARED | 1u << MEM_HUGETLB_PRIVATE)))
		return true;
	fprintf(stderr, "uffd-bench: hugetlb memory is not measured by this command; see --mem\n");
	return false;
}

static bool whole(const struct load *l)
{
	return l->mem.kind != MEM_THP || mem_thp_bytes(&l->mem) == l->mem.size;
}

void load_make_whole(struct load *l)
{
	if (whole(l))
		return;
	if (madvise(l->mem.addr, l->mem.size, MADV_DONTNEED))
		die("MADV_DONTNEED", errno);
	fill(l);
	if (!whole(l))
		die("memory in huge pages", ENOMEM);
}

static bool allocate(struct load *l)
{
	l->page = calloc(l->hot, sizeof(*l->page));
	l->shadow = malloc(l->hot * LOAD_PAGE);
	l->writer = aligned_alloc(64, l->writers * sizeof(*l->writer));
	if (!l->page || !l->shadow || !l->writer)
		return false;
	memset(l->writer, 0, l->writers * sizeof(*l->writer));
	for (unsigned int t = 0; t < l->writers; t++) {
		l->writer[t].load = l;
		l->writer[t].id = t;
		l->writer[t].bin = malloc(LOAD_BINS * sizeof(struct load_bin));
		if (!l->writer[t].bin)
			return false;
	}
	return true;
}

struct load *load_new(enum mem_kind kind, size_t size, size_t hot, unsigned int writers, int *error)
{
	struct load *l = aligned_alloc(64, sizeof(*l));

	if (!l)
		die("memory", ENOMEM);
	memset(l, 0, sizeof(*l));
	*error = mem_map(&l->mem, kind, size);
	if (*error) {
		free(l);
		return NULL;
	}
	l->pages = l->mem.size / LOAD_PAGE;
	l->hot = hot;
	l->writers = writers;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	if (!allocate(l))
		die("memory", ENOMEM);
	choose_hot(l);
	fill(l);
	if (!whole(l)) {
		*error = -EOPNOTSUPP;
		load_free(l);
		return NULL;
	}
	return l;
}

void load_free(struct load *l)
{
	if (!l)
		return;
	mem_unmap(&l->mem);
	for (unsigned int t = 0; t < l->writers; t++)
		free(l->writer[t].bin);
	free(l->writer);
	free(l->shadow);
	free(l->page);
	free(l);
}

/* ---- The threads ---- */

static void note(struct load_writer *w, uint64_t begin, uint64_t end)
{
	struct load_hist *h = &w->hist[atomic_load_explicit(&w->load->phase, memory_order_relaxed)];
	uint64_t ns = end > begin ? end - begin : 0, at = (end - w->load->began) / LOAD_BIN_NS;
	struct load_bin *bin = &w->bin[at < LOAD_BINS ? at : LOAD_BINS - 1];
	unsigned int octave = 63 - (unsigned int)__builtin_clzll(ns | 32);

	h->bucket[(octave - 5) * 32 + (ns >> (octave - 5))]++;
	h->count++;
	h->max = h->max > ns ? h->max : ns;
	bin->writes++;
	if (bin->max_ns < ns)
		bin->max_ns = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static void park(struct load *l)
{
	pthread_mutex_lock(&l->lock);
	l->parked++;
	pthread_cond_broadcast(&l->changed);
	while (atomic_load(&l->stop) == 1)
		pthread_cond_wait(&l->changed, &l->lock);
	l->parked--;
	pthread_mutex_unlock(&l->lock);
}

/* True if the thread is to go on, after a pause if there is one. */
static bool going(struct load *l)
{
	if (__builtin_expect(atomic_load_explicit(&l->stop, memory_order_relaxed) == 1, 0))
		park(l);
	return atomic_load_explicit(&l->stop, memory_order_relaxed) != 2;
}

static void write_once(struct load_writer *w)
{
	struct load *l = w->load;
	unsigned int line;
	uint64_t value;
	size_t i = target(l, w->id, w->writes + 1, &line, &value);

	store(l->mem.addr + (size_t)l->page[i] * LOAD_PAGE + line * LINE, value);
	w->writes++;
}

static void *write_main(void *arg)
{
	struct load_writer *w = arg;
	struct load *l = w->load;
	uint64_t step = l->rate ? 1000000000u * (uint64_t)l->writers / l->rate : 0;
	uint64_t now = l->began, due = now;

	while (going(l)) {
		if (step && now < due) {
			now = load_clock();
			continue;
		}
		write_once(w);
		due = step ? due : now;
		now = load_clock();
		note(w, due, now);
		due += step;
	}
	return NULL;
}

void load_start(struct load *l)
{
	atomic_store(&l->stop, 0);
	for (unsigned int t = 0; t < l->writers; t++) {
		memset(l->writer[t].hist, 0, sizeof(l->writer[t].hist));
		memset(l->writer[t].bin, 0, LOAD_BINS * sizeof(struct load_bin));
	}
	load_enter(l, LOAD_BEFORE);
	l->began = load_clock();
	for (unsigned int t = 0; t < l->writers; t++)
		thread_start(&l->writer[t].thread, cpus_nth(t), write_main, &l->writer[t]);
}

void load_enter(struct load *l, enum load_phase phase)
{
	atomic_store(&l->phase, phase);
	l->entered[phase] = load_clock();
}

void load_pause(struct load *l)
{
	pthread_mutex_lock(&l->lock);
	atomic_store(&l->stop, 1);
	while (l->parked < l->writers)
		pthread_cond_wait(&l->changed, &l->lock);
	pthread_mutex_unlock(&l->lock);
}

static void set_going(struct load *l, unsigned int how)
{
	pthread_mutex_lock(&l->lock);
	atomic_store(&l->stop, how);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

void load_resume(struct load *l)
{
	set_going(l, 0);
}

struct load_instant load_now(const struct load *l)
{
	struct load_instant at = { { 0 } };

	for (unsigned int t = 0; t < l->writers; t++)
		at.writes[t] = l->writer[t].writes;
	return at;
}

void load_stop(struct load *l)
{
	l->entered[LOAD_PHASES] = load_clock();
	set_going(l, 2);
	for (unsigned int t = 0; t < l->writers; t++)
		pthread_join(l->writer[t].thread, NULL);
}

/* ---- Figures ---- */

void load_sum(const struct load *l, enum load_phase phase, struct load_hist *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (unsigned int t = 0; t < l->writers; t++) {
		const struct load_hist *h = &l->writer[t].hist[phase];

		for (unsigned int i = 0; i < LOAD_BUCKETS; i++)
			sum->bucket[i] += h->bucket[i];
		sum->count += h->count;
		sum->max = sum->max > h->max ? sum->max : h->max;
	}
}

double load_seconds(const struct load *l, enum load_phase phase)
{
	return (double)(l->entered[phase + 1] - l->entered[phase]) / 1e9;
}

double load_percentile(const struct load_hist *h, double percent)
{
	uint64_t want = (uint64_t)((double)h->count * percent / 100), seen = 0;
	unsigned int i = 0;

	while (i < LOAD_BUCKETS - 1 && (seen += h->bucket[i]) <= want)
		i++;
	return i < 64 ? i : (double)((uint64_t)(i % 32 + 32) << (i / 32 - 1));
}

struct load_bin load_bin(const struct load *l, size_t i)
{
	struct load_bin sum = { 0, 0 };

	for (unsigned int t = 0; t < l->writers && i < LOAD_BINS; t++) {
		const struct load_bin *b = &l->writer[t].bin[i];

		sum.writes += b->writes;
		sum.max_ns = sum.max_ns > b->max_ns ? sum.max_ns : b->max_ns;
	}
	return sum;
}

/* ---- Verification ---- */

/* Brings the shadow from one instant to a later one. */
static void replay(struct load *l, const struct load_instant *at)
{
	for (unsigned int t = 0; t < l->writers; t++)
		for (uint64_t n = l->done.writes[t] + 1; n <= at->writes[t]; n++) {
			unsigned int line;
			uint64_t value;
			size_t i = target(l, t, n, &line, &value);

			store(l->shadow + i * LOAD_PAGE + line * LINE, value);
		}
	l->done = *at;
}

/* For each page: 0, or one more than its index among the hot ones. */
static uint32_t *index_hot(const struct load *l)
{
	uint32_t *index = calloc(l->pages, sizeof(*index));

	if (!index)
		die("memory", ENOMEM);
	for (size_t i = 0; i < l->hot; i++)
		index[l->page[i]] = (uint32_t)i + 1;
	return index;
}

static bool same(const struct load *l, const uint32_t *index, const char *is, size_t page, bool hot)
{
	char want[LOAD_PAGE];

	if (index[page])
		return !hot || memcmp(is, l->shadow + (size_t)(index[page] - 1) * LOAD_PAGE,
				      LOAD_PAGE) == 0;
	fill_page(want, page);
	return memcmp(is, want, LOAD_PAGE) == 0;
}

bool load_verify(struct load *l, int fd, uint64_t offset, const struct load_instant *at)
{
	static char piece[256 * LOAD_PAGE];
	uint32_t *index = index_hot(l);
	bool good = true;

	if (at)
		replay(l, at);
	for (size_t page = 0; good && page < l->pages;) {
		ssize_t n = pread(fd, piece, sizeof(piece), (off_t)(offset + page * LOAD_PAGE));

		good = n >= (ssize_t)LOAD_PAGE;
		for (ssize_t i = 0; good && i + (ssize_t)LOAD_PAGE <= n && page < l->pages;
		     i += LOAD_PAGE)
			good = same(l, index, piece + i, page++, at);
	}
	free(index);
	return good;
}

bool load_verify_memory(const struct load *l, const char *mem)
{
	uint32_t *index = index_hot(l);
	bool good = true;

	for (size_t page = 0; good && page < l->pages; page++)
		good = same(l, index, mem + page * LOAD_PAGE, page, true);
	free(index);
	return good;
}
