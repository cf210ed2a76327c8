/* SPDX-License-Identifier: MIT */
/*
 * The runner behind live.h. Each case runs in a forked child, so that one which hangs or crashes
 * takes nothing with it; the parent has no threads, and reports where the child's threads sleep
 * before it ends a child that is late.
 */
#include "live.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef LIVE_ASAN
#include <sanitizer/lsan_interface.h>
#endif

#define SKIP 77
#define HUGE_BYTES (64u << 20)

/* ---- In the child ---- */

_Noreturn void live_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	flockfile(stderr);
	fprintf(stderr, "  %s:%d: ", file, line);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	funlockfile(stderr);
	va_end(ap);
	_exit(1);
}

/* Where it is not to be seen, a discard past the library is not either. */
void live_needs_wp_bit(void)
{
	if (!mem_shows_wp())
		live_skip("pagemap does not show protection before Linux 5.14");
}

/* The probe's row event.none-fork. */
bool live_can_fork(const struct live *t, struct uffdwp *h)
{
	struct uffdwp_info info;

	live_info(h, &info);
	return t->mem.kind != MEM_HUGETLB_PRIVATE || info.supported & UFFDWP_FEATURE_WP_UNPOPULATED;
}

void live_needs_fork(const struct live *t, struct uffdwp *h)
{
	if (!live_can_fork(t, h))
		live_skip(
			"a child's private hugetlb stays protected, and it sleeps for ever (Linux 6.1)");
}

_Noreturn void live_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("  skipped: ", stdout);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
	_exit(SKIP);
}

uint64_t live_random(uint64_t *s)
{
	uint64_t z = *s += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

void live_fill(void *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len / 8; i++)
		live_store((uint64_t *)p + i, live_random(&seed));
}

struct uffdwp *live_open_opts(struct uffdwp_opts *o)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	char reason[256] = "";
	struct uffdwp *h;
	int err;

	o->sz = sizeof(*o);
	o->reason = reason;
	o->reason_size = sizeof(reason);
	err = uffdwp_open(&h, o);
	if (err)
		FAIL("uffdwp_open: %s: %s", strerror(-err), reason);
	CHECK_EQ(uffdwp_info(h, &info), 0);
	CHECK_EQ(info.serve, o->serve);
	CHECK_EQ(info.faults, o->serve == UFFDWP_SERVE_SIGBUS ? UFFDWP_FAULTS_USER : o->faults);
	CHECK_EQ(info.features & o->required, o->required);
	CHECK_EQ(info.threads > 0, o->serve == UFFDWP_SERVE_THREADS);
	CHECK_EQ(info.async, 0);
	return h;
}

struct uffdwp *live_open(uint32_t serve, uint64_t required)
{
	struct uffdwp_opts o = { .serve = serve, .required = required, .threads = 2 };

	if (serve != UFFDWP_SERVE_THREADS)
		o.threads = 0;
	return live_open_opts(&o);
}

struct uffdwp_region *live_region(struct live *t, struct uffdwp *h, uint32_t mode, uint32_t run,
				  const struct uffdwp_ops *ops, void *ctx)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)t->mem.addr,
					.len = t->mem.size,
					.page_size = t->page,
					.mode = mode,
					.run = run,
					.ops = ops,
					.ctx = ctx };
	struct uffdwp_region *r;

	CHECK_EQ(uffdwp_region_add(h, &o, &r), 0);
	return r;
}

void live_protect(struct live *t, struct uffdwp_region *r)
{
	uint64_t done = 0;

	CHECK_EQ(uffdwp_protect(r, (uintptr_t)t->mem.addr, t->mem.size, &done), 0);
	CHECK_EQ(done, t->mem.size);
}

/* A writer goes on before its fault is counted: read until nothing changes any more. */
void live_stats(struct uffdwp *h, struct uffdwp_stats *st)
{
	struct uffdwp_stats before;

	memset(st, 0, sizeof(*st));
	do {
		before = *st;
		st->sz = sizeof(*st);
		CHECK_EQ(uffdwp_stats(h, UFFDWP_ALL_WORKERS, st), 0);
		live_msleep(5);
	} while (memcmp(&before, st, sizeof(before)));
}

void live_info(struct uffdwp *h, struct uffdwp_info *info)
{
	memset(info, 0, sizeof(*info));
	info->sz = sizeof(*info);
	CHECK_EQ(uffdwp_info(h, info), 0);
}

/* A kernel built without memory failure handling has no better code. */
int live_poison_code(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	int code = BUS_ADRERR;
	char line[128];

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "HardwareCorrupted:", 18))
			code = BUS_MCEERR_AR;
	}
	if (f)
		fclose(f);
	return code;
}

static void *serve_main(void *arg)
{
	struct live_server *s = arg;
	struct pollfd p[2] = { { .fd = uffdwp_fd(s->h), .events = POLLIN },
			       { .fd = s->stop, .events = POLLIN } };

	while (!p[1].revents) {
		/* An error of the handle is the test's to judge; serving goes on in any case. */
		if (poll(p, 2, -1) > 0 && p[0].revents)
			uffdwp_dispatch(s->h);
	}
	return NULL;
}

void live_serve(struct live_server *s, struct uffdwp *h)
{
	struct uffdwp_info info;

	memset(s, 0, sizeof(*s));
	live_info(h, &info);
	if (info.serve != UFFDWP_SERVE_CALLER)
		return;
	s->h = h;
	s->running = true;
	s->stop = eventfd(0, EFD_CLOEXEC);
	CHECK(s->stop >= 0);
	live_thread(&s->thread, serve_main, s);
}

void live_serve_stop(struct live_server *s)
{
	uint64_t one = 1;

	if (!s->running)
		return;
	CHECK_EQ(write(s->stop, &one, sizeof(one)), sizeof(one));
	live_join(s->thread);
	close(s->stop);
	s->running = false;
}

void live_thread(pthread_t *t, void *(*fn)(void *), void *arg)
{
	CHECK_EQ(pthread_create(t, NULL, fn, arg), 0);
}

void live_join(pthread_t t)
{
	CHECK_EQ(pthread_join(t, NULL), 0);
}

void live_msleep(unsigned int ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

void live_until(_Atomic int *v, int want)
{
	while (atomic_load(v) < want)
		live_msleep(1);
}

static void *sleeper_main(void *arg)
{
	struct live_sleeper *s = arg;

	atomic_store(&s->tid, (int)syscall(SYS_gettid));
	s->fn(s->arg);
	atomic_store(&s->done, 1);
	return NULL;
}

/* -1 is what the kernel says of a thread that sleeps, and not in a system call: in a fault. */
bool live_asleep(struct live_sleeper *s)
{
	char path[64], where[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", atomic_load(&s->tid));
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(where, sizeof(where), f))
		where[0] = '\0';
	fclose(f);
	return !strncmp(where, "-1 ", 3);
}

void live_sleeper(struct live_sleeper *s, void *(*fn)(void *), void *arg)
{
	memset(s, 0, sizeof(*s));
	s->fn = fn;
	s->arg = arg;
	live_thread(&s->thread, sleeper_main, s);
	while (!live_asleep(s)) {
		if (atomic_load(&s->done))
			FAIL("the thread was to sleep in a fault, and finished");
		live_msleep(1);
	}
}

static int count(const char *dir, bool (*leave_out)(const char *name))
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	if (!d)
		return -1;
	while ((e = readdir(d)))
		n += e->d_name[0] != '.' && !(leave_out && leave_out(e->d_name));
	closedir(d);
	return n;
}

int live_count(const char *dir)
{
	return count(dir, NULL);
}

/* The kernel keeps its own for io_uring for some seconds after the ring is gone. */
static bool is_kernels(const char *tid)
{
	char path[64], name[16] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, name, sizeof(name) - 1) < 0)
		name[0] = '\0';
	if (fd >= 0)
		close(fd);
	return !strncmp(name, "iou-", 4);
}

/* A joined thread may stay visible for a moment, until the kernel has taken it apart. */
int live_count_threads(int want)
{
	int n = count("/proc/self/task", is_kernels);

	for (int i = 0; want && n > want && i < 1000; i++) {
		live_msleep(1);
		n = count("/proc/self/task", is_kernels);
	}
	return n;
}

bool live_brief(void)
{
	return getenv("UFFDWP_BRIEF");
}

unsigned int live_times(unsigned int n)
{
	return !live_brief() ? n : n > 4 ? n / 4 : 1;
}

static void map(struct live *t, enum mem_kind kind, size_t size)
{
	CHECK_EQ(mem_map(&t->mem, kind, size), 0);
	t->page = t->mem.page_size;
	t->pages = t->mem.size / t->page;
}

void live_at_least(struct live *t, size_t size)
{
	enum mem_kind kind = t->mem.kind;

	if (t->mem.size >= size)
		return;
	mem_unmap(&t->mem);
	map(t, kind, size);
}

static void run_mapped(const struct live_case *c, struct live *t, int kind)
{
	size_t size = kind == MEM_THP ? 4u << 20 : 1u << 20;

	if (kind < 0) {
		t->page = 4096;
		c->run(t);
		return;
	}
	if (live_brief())
		size /= 2;
	if (BIT(kind) & KINDS_HUGETLB)
		size = live_brief() ? 12u << 20 : 16u << 20;
	map(t, (enum mem_kind)kind, size);
	c->run(t);
	mem_unmap(&t->mem);
}

#ifdef LIVE_TSAN
static void *nothing(void *arg)
{
	*(int *)arg = (int)syscall(SYS_gettid);
	return NULL;
}

/* The sanitizer starts a thread of its own with the first one of ours, and keeps it. */
static void warm_up(void)
{
	char path[64];
	pthread_t t;
	int tid;

	live_thread(&t, nothing, &tid);
	live_join(t);
	/* It may be there for a moment longer. */
	snprintf(path, sizeof(path), "/proc/self/task/%d", tid);
	while (!access(path, F_OK))
		live_msleep(1);
}
#else
static void warm_up(void)
{
}
#endif

static _Noreturn void child(const struct live_case *c, int kind, uint64_t seed)
{
	struct live t = { .name = c->name, .seed = seed };
	int fds = live_count("/proc/self/fd"), threads;

	warm_up();
	threads = live_count_threads(0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	run_mapped(c, &t, kind);
	CHECK_EQ(live_count("/proc/self/fd"), fds);
	CHECK_EQ(live_count_threads(threads), threads);
#ifdef LIVE_ASAN
	/* _exit() is right in a forked child, and goes past the leak check. */
	if (__lsan_do_recoverable_leak_check())
		FAIL("leak");
#endif
	fflush(stdout);
	_exit(0);
}

/* ---- In the parent ---- */

struct tally {
	unsigned int passed, failed, skipped;
};

static uint64_t kernel_features(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		api.features = 0;
	if (fd >= 0)
		close(fd);
	return api.features;
}

static void print_file(const char *path)
{
	char line[128];
	FILE *f = fopen(path, "re");

	if (f && fgets(line, sizeof(line), f))
		fprintf(stderr, " %.*s", (int)strcspn(line, "\n"), line);
	if (f)
		fclose(f);
}

/* Which thread of a late child sleeps where. */
void live_report(pid_t pid)
{
	char path[300];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		fprintf(stderr, "  thread %s:", e->d_name);
		for (int i = 0; i < 3; i++) {
			static const char *const files[] = { "comm", "wchan", "syscall" };

			snprintf(path, sizeof(path), "/proc/%d/task/%s/%s", (int)pid, e->d_name,
				 files[i]);
			print_file(path);
		}
		fputc('\n', stderr);
	}
	if (d)
		closedir(d);
}

static bool wait_for(pid_t pid, unsigned int seconds, int *status)
{
	for (unsigned long ms = 0; ms < seconds * 1000ul; ms += 2) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		live_msleep(2);
	}
	fprintf(stderr, "  hangs after %u s\n", seconds);
	live_report(pid);
	kill(pid, SIGKILL);
	waitpid(pid, status, 0);
	return false;
}

/* An emulated machine says by how much; a sanitizer is known when this is built. */
static unsigned int slower(void)
{
	const char *env = getenv("UFFDWP_SLOWER");
	int n = env ? atoi(env) : 1;

	return LIVE_SLOWER * (unsigned int)(n > 1 ? n : 1);
}

static void run_one(const struct live_case *c, int kind, uint64_t seed, struct tally *sum)
{
	const char *mem = kind < 0 ? "-" : mem_name((enum mem_kind)kind);
	const char *verdict = "FAIL";
	int status = 0;
	pid_t pid;
	bool ended;

	fflush(NULL);
	pid = fork();
	if (!pid)
		child(c, kind, seed);
	ended = pid > 0 && wait_for(pid, (c->seconds ? c->seconds : 20) * slower(), &status);
	if (ended && WIFEXITED(status) && !WEXITSTATUS(status)) {
		verdict = "pass";
		sum->passed++;
	} else if (ended && WIFEXITED(status) && WEXITSTATUS(status) == SKIP) {
		verdict = "skip";
		sum->skipped++;
	} else {
		if (ended && WIFSIGNALED(status))
			fprintf(stderr, "  ended by %s\n", strsignal(WTERMSIG(status)));
		sum->failed++;
	}
	fflush(stderr);
	printf("%s %s %s\n", verdict, c->name, mem);
}

static void skip(const struct live_case *c, int kind, struct tally *sum, const char *why,
		 uint64_t what)
{
	printf("skip %s %s: %s %#llx\n", c->name, kind < 0 ? "-" : mem_name((enum mem_kind)kind),
	       why, (unsigned long long)what);
	sum->skipped++;
}

static bool selected(const struct live_case *c, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strncmp(c->name, argv[i], strlen(argv[i])))
			return true;
	}
	return argc < 2;
}

static void run_case(const struct live_case *c, uint64_t seed, uint64_t have, int huge,
		     struct tally *sum)
{
	for (int kind = c->kinds ? 0 : -1; kind < (c->kinds ? (int)MEM_KINDS : 0); kind++) {
		uint64_t need = c->features;

		if (kind >= 0 && !(c->kinds & BIT(kind)))
			continue;
		if (kind >= 0)
			need |= mem_wp_features((enum mem_kind)kind) |
				mem_missing_features((enum mem_kind)kind);
		if (need & ~have)
			skip(c, kind, sum, "the kernel lacks the features", need & ~have);
		else if (kind >= 0 && BIT(kind) & KINDS_HUGETLB && huge)
			skip(c, kind, sum, "hugepages can not be had, errno", (uint64_t)-huge);
		else
			run_one(c, kind, seed, sum);
	}
}

static uint64_t seed_get(void)
{
	const char *env = getenv("UFFDWP_SEED");
	struct timespec ts;

	if (env)
		return strtoull(env, NULL, 0);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000007u ^ (uint64_t)ts.tv_nsec;
}

int live_main(int argc, char **argv, const struct live_case *cases, size_t n)
{
	uint64_t seed = seed_get(), have = kernel_features();
	struct tally sum = { 0 };
	unsigned int kinds = 0;
	int huge = 0;

	if (!have) {
		printf("skipped: no userfaultfd for this user: %s\n", strerror(errno));
		return SKIP;
	}
	for (size_t i = 0; i < n; i++)
		kinds |= selected(&cases[i], argc, argv) ? cases[i].kinds : 0;
	if (kinds & KINDS_HUGETLB)
		huge = mem_hugepages_reserve(HUGE_BYTES);
	printf("seed %#llx\n", (unsigned long long)seed);
	for (size_t i = 0; i < n; i++) {
		if (selected(&cases[i], argc, argv))
			run_case(&cases[i], seed, have, huge, &sum);
	}
	printf("%u passed, %u skipped, %u failed\n", sum.passed, sum.skipped, sum.failed);
	if (!(sum.passed + sum.failed + sum.skipped))
		return 2;
	return sum.failed ? 1 : sum.skipped ? SKIP : 0;
}
