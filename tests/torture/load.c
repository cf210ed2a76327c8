/* SPDX-License-Identifier: MIT */
/*
 * Load: many writers on many regions, many handles, handles opened and closed over and over, one snapshot after
 * another. What is counted must be exact, and what the process uses must not grow.
 *
 *	load [--short] [--only=NAME] [--size=MIB] [--seconds=N] [--seed=N]
 *
 * Each part prints one line of what was done. Exit: 0, 1 wrong, 2 misuse, 77 unsupported.
 */
#include <dirent.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../common/live.h"
#include <uffdwp/snapshot.h>

#define PAGE ((size_t)4096)
#define WRITERS_MAX 64

/* Sanitizers keep books of their own, which grow. */
#if defined(LIVE_ASAN) || defined(LIVE_TSAN)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static struct {
	bool brief;
	uint64_t seed;
	size_t mib;	      /* of the snapshots; 0: the part's own */
	unsigned int seconds; /* of each part that repeats; 0: its own */
} opts;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t end_after(unsigned int brief, unsigned int full)
{
	unsigned int s = opts.seconds ? opts.seconds : opts.brief ? brief : full;

	return now_ns() + s * UINT64_C(1000000000);
}

/* ---- What the process uses ---- */

struct usage {
	uint64_t rss, data; /* KiB; resident or swapped out */
	int fds, threads;
};

static struct usage usage(void)
{
	struct usage u = { .fds = live_count("/proc/self/fd"),
			   .threads = live_count("/proc/self/task") };
	FILE *f = fopen("/proc/self/status", "re");
	uint64_t swap = 0;
	char line[128];

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		sscanf(line, "VmRSS: %" SCNu64, &u.rss);
		sscanf(line, "VmSwap: %" SCNu64, &swap);
		sscanf(line, "VmData: %" SCNu64, &u.data);
	}
	fclose(f);
	u.rss += swap;
	return u;
}

/* A joined thread may be there for a moment longer. */
static void check_flat(const struct usage *before, const char *what, uint64_t slack_kib)
{
	struct usage now;

	live_count_threads(before->threads);
	now = usage();
	if (SANITIZED)
		now.data = now.rss = 0;
	if (now.fds != before->fds || now.threads != before->threads ||
	    now.data > before->data + slack_kib || now.rss > before->rss + slack_kib)
		FAIL("%s: descriptors %d -> %d, threads %d -> %d, VmData %" PRIu64 " -> %" PRIu64
		     " KiB, VmRSS %" PRIu64 " -> %" PRIu64 " KiB",
		     what, before->fds, now.fds, before->threads, now.threads, before->data,
		     now.data, before->rss, now.rss);
}

/* ---- Pages that are counted in ---- */

struct field {
	char *mem;
	size_t pages;
	_Atomic uint32_t *calls; /* of the write operation, for each page */
	_Atomic uint64_t value;	 /* that each page has at the begin of the round */
	_Atomic int wrong;
	unsigned int writers;
	uint64_t round;
};

static int check_page(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct field *d = ctx;
	uint64_t word = 0;
	int err = uffdwp_read(r, f->addr, &word, sizeof(word), NULL);

	if (err || word != atomic_load(&d->value))
		atomic_fetch_add(&d->wrong, 1);
	atomic_fetch_add(&d->calls[(f->addr - (uintptr_t)d->mem) / PAGE], 1);
	return err;
}

static struct field field_make(size_t pages, unsigned int writers)
{
	struct field d = { .pages = pages, .writers = writers };

	d.mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	d.calls = calloc(pages, sizeof(*d.calls));
	CHECK(d.mem != MAP_FAILED && d.calls);
	return d;
}

static void field_free(struct field *d)
{
	munmap(d->mem, d->pages * PAGE);
	free((void *)d->calls);
}

struct writer {
	struct field *d;
	unsigned int index;
};

static size_t common_factor(size_t a, size_t b)
{
	while (b) {
		size_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* Every page once, in an order of its own: a stride that has no factor in common with their number. */
static void *count_in_all(void *arg)
{
	struct writer *w = arg;
	struct field *d = w->d;
	uint64_t state = opts.seed ^ d->round << 8 ^ w->index;
	size_t at = live_random(&state) % d->pages, step = live_random(&state) % d->pages | 1;

	while (common_factor(d->pages, step) != 1)
		step += 2;
	for (size_t i = 0; i < d->pages; i++, at = (at + step) % d->pages)
		atomic_fetch_add((_Atomic uint64_t *)(void *)(d->mem + at * PAGE), 1);
	return NULL;
}

static void write_round(struct field *d)
{
	pthread_t threads[WRITERS_MAX];
	struct writer w[WRITERS_MAX];

	for (unsigned int i = 0; i < d->writers; i++) {
		w[i] = (struct writer){ d, i };
		live_thread(&threads[i], count_in_all, &w[i]);
	}
	for (unsigned int i = 0; i < d->writers; i++)
		live_join(threads[i]);
}

/* Each page was delivered once and with what it had, and holds what was written. */
static void check_round(struct field *d)
{
	uint64_t sum = 0, want = 0;

	CHECK_EQ(atomic_load(&d->wrong), 0);
	for (size_t i = 0; i < d->pages; i++) {
		if (atomic_exchange(&d->calls[i], 0) != 1)
			FAIL("page %zu was not delivered once", i);
		sum += live_load(d->mem + i * PAGE);
	}
	atomic_fetch_add(&d->value, d->writers);
	want = atomic_load(&d->value) * d->pages;
	CHECK_EQ(sum, want);
	d->round++;
}

static struct uffdwp_region *watch(struct uffdwp *h, struct field *d, size_t first, size_t pages)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = check_page };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)d->mem + first * PAGE,
					.len = pages * PAGE,
					.mode = UFFDWP_MODE_WP,
					.ops = &ops,
					.ctx = d };
	struct uffdwp_region *r;

	CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
	return r;
}

static void protect(struct uffdwp_region *r)
{
	CHECK_EQ(uffdwp_protect(r, uffdwp_region_addr(r), uffdwp_region_len(r), NULL), 0);
}

/* ---- Writers on regions ---- */

static void regions(void)
{
	size_t n = opts.brief ? 1000 : 10000, each = opts.mib ? (opts.mib << 8) / n : 4;
	struct field d = field_make(n * each, WRITERS_MAX);
	struct uffdwp_region **r = calloc(n, sizeof(struct uffdwp_region *));
	uint64_t end = end_after(3, 60);
	struct uffdwp *h = live_open(UFFDWP_SERVE_THREADS, 0);
	struct usage before;
	struct uffdwp_stats st;

	CHECK(r);
	for (size_t i = 0; i < n; i++)
		r[i] = watch(h, &d, i * each, each);
	do {
		for (size_t i = 0; i < n; i++)
			protect(r[i]);
		write_round(&d);
		check_round(&d);
		if (d.round == 1)
			before = usage();
	} while (now_ns() < end || d.round < 2);
	live_stats(h, &st);
	CHECK_EQ(st.op_pages, d.round * d.pages);
	check_flat(&before, "regions", 2048);
	for (size_t i = 0; i < n; i += 2) /* the others by closing */
		CHECK_EQ(uffdwp_region_remove(r[i]), 0);
	CHECK_EQ(uffdwp_close(h), 0);
	printf("regions: %u writers on %zu regions, %" PRIu64 " rounds, %" PRIu64
	       " pages saved, 0 lost\n",
	       d.writers, n, d.round, d.round * d.pages);
	free(r);
	field_free(&d);
}

/* ---- Handles at once ---- */

#define HANDLES 32u

static uint32_t way(unsigned int i)
{
	static const uint32_t ways[] = { UFFDWP_SERVE_THREADS, UFFDWP_SERVE_CALLER,
					 UFFDWP_SERVE_SIGBUS, UFFDWP_SERVE_THREADS };

	return ways[i % 4];
}

static void handles(void)
{
	size_t each = opts.mib ? (opts.mib << 8) / HANDLES : 64;
	struct field d = field_make(HANDLES * each, 16);
	struct live_server server[HANDLES];
	struct uffdwp_region *r[HANDLES];
	struct uffdwp *h[HANDLES];
	uint64_t end = end_after(3, 30);
	struct usage before;

	for (unsigned int i = 0; i < HANDLES; i++) {
		h[i] = live_open(way(i), 0);
		r[i] = watch(h[i], &d, i * each, each);
		live_serve(&server[i], h[i]);
	}
	do {
		for (unsigned int i = 0; i < HANDLES; i++)
			protect(r[i]);
		write_round(&d);
		check_round(&d);
		if (d.round == 1)
			before = usage();
	} while (now_ns() < end || d.round < 2);
	check_flat(&before, "handles", 2048);
	for (unsigned int i = 0; i < HANDLES; i++) {
		live_serve_stop(&server[i]);
		CHECK_EQ(uffdwp_close(h[i]), 0);
	}
	printf("handles: %u at once, %" PRIu64 " rounds, %" PRIu64 " pages saved, 0 lost\n",
	       HANDLES, d.round, d.round * d.pages);
	field_free(&d);
}

/* ---- Handles one after another ---- */

static void open_once(struct field *d, unsigned int i)
{
	struct uffdwp_opts o = { .serve = way(i),
				 .threads = way(i) == UFFDWP_SERVE_THREADS ? 1 + i % 3 : 0,
				 .optional = i % 8 == 1 ? UFFDWP_FEATURE_EVENT_REMAP : 0 };
	struct uffdwp *h = live_open_opts(&o);
	struct live_server server = { 0 };
	struct uffdwp_region *r = watch(h, d, 0, 1);

	/* A caller's loop costs a thread; one way or another, some do not fault. */
	if (i / 3 % 2) {
		protect(r);
		live_serve(&server, h);
		atomic_fetch_add((_Atomic uint64_t *)(void *)d->mem, 1);
		live_serve_stop(&server);
		atomic_fetch_add(&d->value, 1);
	}
	if (i % 3 == 0)
		CHECK_EQ(uffdwp_region_remove(r), 0);
	CHECK_EQ(uffdwp_close(h), 0);
}

static void churn(void)
{
	unsigned int n = opts.brief ? 2000 : 100000, i;
	struct field d = field_make(1, 1);
	struct usage before;

	for (i = 0; i < n / 10; i++)
		open_once(&d, i);
	live_count_threads(1);
	before = usage();
	for (; i < n; i++)
		open_once(&d, i);
	CHECK_EQ(atomic_load(&d.wrong), 0);
	CHECK_EQ(atomic_load(&d.calls[0]), atomic_load(&d.value));
	CHECK(atomic_load(&d.value) > n / 3);
	check_flat(&before, "churn", 256);
	printf("churn: %u handles opened and closed, %u pages saved, 0 lost, nothing left\n", n,
	       (unsigned int)atomic_load(&d.value));
	field_free(&d);
}

/* ---- Snapshots ---- */

/* Writers count in random pages between two gates; the sum of all pages is the number of counts. */
struct shots {
	struct field d;
	pthread_rwlock_t gate;
	_Atomic bool stop;
	_Atomic uint64_t counted;
	uint64_t *seen; /* the first word of each page, as the sink got it last */
	_Atomic uint64_t pieces;
};

static int take(void *ctx, struct uffdwp_sink_write *w)
{
	struct shots *s = ctx;

	for (uint64_t i = 0; i < w->len / PAGE; i++)
		s->seen[w->offset / PAGE + i] = live_load((const char *)w->data + i * PAGE);
	atomic_fetch_add(&s->pieces, 1);
	return 0;
}

static int take_zeros(void *ctx, uint32_t region, uint64_t offset, uint64_t len)
{
	struct shots *s = ctx;

	(void)region;
	memset(s->seen + offset / PAGE, 0, len / PAGE * sizeof(*s->seen));
	return 0;
}

static void *count_at_random(void *arg)
{
	struct shots *s = arg;
	uint64_t state = opts.seed ^ (uintptr_t)pthread_self();

	while (!atomic_load(&s->stop)) {
		pthread_rwlock_rdlock(&s->gate);
		for (int i = 0; i < 64; i++) {
			size_t page = live_random(&state) % s->d.pages;

			atomic_fetch_add((_Atomic uint64_t *)(void *)(s->d.mem + page * PAGE), 1);
		}
		atomic_fetch_add(&s->counted, 64);
		pthread_rwlock_unlock(&s->gate);
		usleep(1000);
	}
	return NULL;
}

static void check_sum(struct shots *s, uint64_t at_seal)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->d.pages; i++)
		sum += s->seen[i];
	if (sum != at_seal)
		FAIL("a complete snapshot holds %" PRIu64 " counts of %" PRIu64, sum, at_seal);
}

static void shoot(struct shots *s, struct uffdwp_region *r, struct uffdwp_snapshot_result *res)
{
	struct uffdwp_sink sink = {
		.sz = sizeof(sink), .ctx = s, .write = take, .zero = take_zeros
	};
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o), .sink = &sink };
	struct uffdwp_snapshot *shot;
	uint64_t at_seal;

	CHECK_EQ(uffdwp_snapshot_new(&shot, &r, 1, &o), 0);
	CHECK_EQ(uffdwp_snapshot_arm(shot), 0);
	pthread_rwlock_wrlock(&s->gate);
	CHECK_EQ(uffdwp_snapshot_seal(shot), 0);
	at_seal = atomic_load(&s->counted);
	pthread_rwlock_unlock(&s->gate);
	*res = (struct uffdwp_snapshot_result){ .sz = sizeof(*res) };
	CHECK_EQ(uffdwp_snapshot_wait(shot, res), 0);
	CHECK_EQ(res->verdict, UFFDWP_SNAPSHOT_COMPLETE);
	CHECK_EQ(uffdwp_snapshot_free(shot), 0);
	check_sum(s, at_seal);
}

/* Also what the page cache would give back. */
static size_t available_mib(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	size_t kib = 0;
	char line[128];

	CHECK(f);
	while (!kib && fgets(line, sizeof(line), f))
		sscanf(line, "MemAvailable: %zu", &kib);
	fclose(f);
	return kib >> 10;
}

/* Not more than half of what there is, unless it was asked for. */
static size_t snapshot_pages(void)
{
	size_t mib = opts.brief ? 64 : 8192, half;

	if (opts.mib)
		return opts.mib << 8;
	half = available_mib() / 2;
	CHECK(half > 0);
	if (half < mib)
		printf("snapshots: of %zu MiB, not %zu, for want of memory\n", half, mib);
	return (half < mib ? half : mib) << 8;
}

static void wait_until(uint64_t ns)
{
	uint64_t now = now_ns();

	if (now < ns)
		usleep((useconds_t)((ns - now) / 1000));
}

static void snapshots_on(struct shots *s, uint64_t required, uint64_t end, const char *name)
{
	struct uffdwp_opts o = { .required = required,
				 .threads = required ? 0 : 2,
				 .serve = required ? UFFDWP_SERVE_CALLER : UFFDWP_SERVE_THREADS,
				 .sz = sizeof(o) };
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)s->d.mem,
					 .len = s->d.pages * PAGE,
					 .mode = UFFDWP_MODE_WP };
	struct uffdwp_snapshot_result res;
	struct usage before = { 0 };
	struct uffdwp_region *r;
	uint64_t n = 0, pause = 0, start;
	struct uffdwp *h;

	CHECK_EQ(uffdwp_open(&h, &o), 0);
	CHECK_EQ(uffdwp_region_add(h, &ro, &r), 0);
	do {
		start = now_ns();
		shoot(s, r, &res);
		pause = res.pause_ns > pause ? res.pause_ns : pause;
		if (++n == 2)
			before = usage();
		wait_until(start + (opts.brief ? 100 : 1000) * UINT64_C(1000000));
	} while (now_ns() < end || n < 3);
	check_flat(&before, name, s->d.pages * 4 / 100 + 8192);
	CHECK_EQ(uffdwp_close(h), 0);
	printf("%s: %" PRIu64 " snapshots of %zu MiB, %" PRIu64
	       " counts, all complete and exact, longest pause %" PRIu64 " us\n",
	       name, n, s->d.pages >> 8, atomic_load(&s->counted), pause / 1000);
}

static void snapshots(void)
{
	static struct shots s;
	pthread_t threads[2];
	unsigned int seconds = opts.seconds ? opts.seconds : opts.brief ? 3 : 600;

	s.d = field_make(snapshot_pages(), 1);
	s.seen = calloc(s.d.pages, sizeof(*s.seen));
	CHECK(s.seen);
	pthread_rwlock_init(&s.gate, NULL);
	/* Resident from the start, or what comes in would look like growth. */
	for (size_t i = 0; i < s.d.pages; i++) {
		live_store(s.d.mem + i * PAGE + 8, i + 1);
		s.seen[i] = 0;
	}
	for (int i = 0; i < 2; i++)
		live_thread(&threads[i], count_at_random, &s);
	snapshots_on(&s, 0, now_ns() + seconds * UINT64_C(500000000), "snapshots cow");
	snapshots_on(&s, UFFDWP_FEATURE_WP_ASYNC, now_ns() + seconds * UINT64_C(500000000),
		     "snapshots precopy");
	atomic_store(&s.stop, true);
	for (int i = 0; i < 2; i++)
		live_join(threads[i]);
	free(s.seen);
	field_free(&s.d);
}

/* ---- All ---- */

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "regions", regions },
	{ "handles", handles },
	{ "churn", churn },
	{ "snapshots", snapshots },
};

static const struct option longs[] = {
	{ "short", no_argument, NULL, 's' },	  { "only", required_argument, NULL, 'o' },
	{ "size", required_argument, NULL, 'm' }, { "seconds", required_argument, NULL, 't' },
	{ "seed", required_argument, NULL, 'S' }, { NULL, 0, NULL, 0 },
};

static bool supported(void)
{
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = UFFDWP_SERVE_CALLER,
				 .required = UFFDWP_FEATURE_WP_ASYNC };
	char reason[256] = "";
	struct uffdwp *h;
	int err;

	o.reason = reason;
	o.reason_size = sizeof(reason);
	err = uffdwp_open(&h, &o);
	if (err)
		printf("skipped: %s\n", reason);
	else
		uffdwp_close(h);
	return !err;
}

int main(int argc, char **argv)
{
	const char *only = NULL;
	int id, ran = 0;

	opts.seed = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	while ((id = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (id) {
		case 's':
			opts.brief = true;
			break;
		case 'o':
			only = optarg;
			break;
		case 'm':
			opts.mib = strtoul(optarg, NULL, 0);
			break;
		case 't':
			opts.seconds = (unsigned int)strtoul(optarg, NULL, 0);
			break;
		case 'S':
			opts.seed = strtoull(optarg, NULL, 0);
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("seed %" PRIu64 "\n", opts.seed);
	if (!supported())
		return 77;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (only && strcmp(only, parts[i].name) != 0)
			continue;
		parts[i].run();
		ran++;
	}
	printf("%d passed, 0 failed, 0 skipped\n", ran);
	return ran ? 0 : 2;
}
