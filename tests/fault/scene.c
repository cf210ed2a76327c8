/* SPDX-License-Identifier: MIT */
/* What scenarios share, see scene.h. */
#include "scene.h"

#include <malloc.h>

#ifdef LIVE_ASAN
#include <sanitizer/lsan_interface.h>
#endif

#define THREADS 8
#define WRITER_SECONDS 12 /* more than who serves waits for EAGAIN to end */

struct balance {
	int fds, threads;
	long size; /* of the address space, pages */
	size_t heap;
};

static struct balance before;
bool scene_denies;

/* ---- The balance ---- */

static void *touch_heap(void *arg)
{
	pthread_barrier_t *b = arg;

	free(malloc(64));
	pthread_barrier_wait(b);
	return NULL;
}

/* The C library keeps stacks of threads that have ended, and an arena of the heap for each. */
static void warm_up(void)
{
	pthread_barrier_t b;
	pthread_t t[THREADS];

	pthread_barrier_init(&b, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		live_thread(&t[i], touch_heap, &b);
	for (int i = 0; i < THREADS; i++)
		live_join(t[i]);
	pthread_barrier_destroy(&b);
	live_count_threads(1);
}

static long address_space(void)
{
	char buf[128] = "";
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		FAIL("/proc/self/statm: %s", strerror(errno));
	close(fd);
	return strtol(buf, NULL, 10);
}

static struct balance balance(int threads)
{
	struct balance b;

	b.threads = live_count_threads(threads);
	b.fds = live_count("/proc/self/fd");
	malloc_trim(0);
	b.heap = mallinfo2().uordblks;
	b.size = address_space();
	return b;
}

void scene_begin(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	warm_up();
	fault_watch_from_here();
	balance(0);
	before = balance(0);
}

#if defined(LIVE_ASAN) || defined(LIVE_TSAN)
#define EXACT false /* the sanitizer maps what it likes */
#else
#define EXACT true
#endif

void scene_end(void)
{
	struct balance now = balance(before.threads);

	CHECK_EQ(now.fds, before.fds);
	CHECK_EQ(now.threads, before.threads);
#ifdef LIVE_ASAN
	if (__lsan_do_recoverable_leak_check())
		FAIL("leak");
#endif
	if (!EXACT)
		return;
	CHECK_EQ(now.heap, before.heap);
	CHECK_EQ(now.size, before.size);
}

/* ---- Errors ---- */

bool scene_good(const char *function, int err, const int *documented)
{
	static const int always[] = { EPERM, ENOSYS, ENOMEM };

	if (err >= 0)
		return true;
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		if (err == -always[i])
			return false;
	for (; *documented; documented++)
		if (err == -*documented)
			return false;
	FAIL("%s: %s, which is not documented", function, strerrorname_np(-err));
}

char *scene_map(size_t pages, int flags)
{
	char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

void scene_unmap(char *mem, size_t pages)
{
	CHECK_EQ(munmap(mem, pages * PAGE), 0);
}

bool scene_open(struct uffdwp **h, struct uffdwp_opts *o)
{
	char reason[256] = "";
	int err;

	o->sz = sizeof(*o);
	o->reason = reason;
	o->reason_size = sizeof(reason);
	err = uffdwp_open(h, o);
	CHECK_EQ(!*h, !!err);
	if (err)
		CHECK(reason[0]);
	if (o->placement == UFFDWP_PLACE_PIN && err == -EINVAL)
		return false; /* a CPU that may not be used */
	return scene_good("uffdwp_open", err,
			  (const int[]){ EACCES, EOPNOTSUPP, EMFILE, ENFILE, EAGAIN, ENOENT, ENOSPC,
					 0 });
}

bool scene_add(struct uffdwp *h, const struct uffdwp_region_opts *o, struct uffdwp_region **r)
{
	int err = uffdwp_region_add(h, o, r);

	CHECK_EQ(!*r, !!err);
	return scene_good("uffdwp_region_add", err,
			  (const int[]){ EINVAL, EOPNOTSUPP, EBUSY, EMFILE, EACCES, ECANCELED, 0 });
}

int scene_error(struct uffdwp *h)
{
	int err = uffdwp_error(h);

	if (err && fault_current->site < 0 && !scene_denies)
		FAIL("the handle failed with nothing injected: %s", strerror(-err));
	return err;
}

/* ---- Writers ---- */

void scene_fill(char *page, uint64_t value)
{
	for (size_t i = 0; i < PAGE; i += 8)
		live_store(page + i, value);
}

bool scene_holds(const char *page, uint64_t value)
{
	for (size_t i = 0; i < PAGE; i += 8)
		if (live_load(page + i) != value)
			return false;
	return true;
}

static void *writer(void *arg)
{
	struct scene_writer *w = arg;

	for (size_t i = 0; i < w->pages; i += w->step)
		scene_fill(w->mem + i * PAGE, w->value + i);
	return NULL;
}

void scene_write(struct scene_writer *w, char *mem, size_t pages, size_t step, uint64_t value)
{
	*w = (struct scene_writer){ .mem = mem, .pages = pages, .step = step, .value = value };
	live_thread(&w->thread, writer, w);
}

bool scene_written(struct scene_writer *w)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += WRITER_SECONDS * LIVE_SLOWER;
	w->joined = !pthread_timedjoin_np(w->thread, NULL, &end);
	if (!w->joined) {
		live_report(getpid());
		FAIL("a writer was left asleep");
	}
	return w->joined;
}

void scene_join(struct scene_writer *w)
{
	if (!w->joined)
		live_join(w->thread);
	w->joined = true;
}
