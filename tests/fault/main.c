/* SPDX-License-Identifier: MIT */
/*
 * Every system call of the library fails in turn: the plan, and what came of it. See fault.h.
 *
 *	inject [--short] [--seed=N] [--scenario=PREFIX] [--only=SCENARIO:SITE:CALL:INDEX:ERROR[+]] [--list]
 *
 * --short: each call once, with one of its errors, that the seed picks. A failure is printed as the --only that
 * repeats it; the + means: from then on.
 */
#include "fault.h"

#include <getopt.h>
#include <inttypes.h>

#include "../common/live.h"
#include "scenes.h"

/* A call that comes more often than this is failed at its first times, and at the last. */
#define TIMES_MAX 12
/* So often a call is tried again that did not come this time: threads decide who calls. */
#define MISSES 4

static const struct fault_scenario *const scenes[] = {
	scenes_serve, scenes_place, scenes_events, scenes_track, scenes_snapshot, scenes_image
};

struct tally {
	unsigned int runs, passed, failed, skipped, missed, partly;
};

static struct {
	bool brief, list;
	uint64_t seed;
	const char *scenario, *only;
	struct tally sum;
	unsigned int calls, scenarios;
	bool *site_failed;
} all;

/* ---- Names ---- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void call_name(char *buf, size_t size, const struct fault_scenario *s,
		      const struct fault_call *c)
{
	const struct fault_site *site = fault_site((unsigned int)c->site);
	const struct fault_kind *k = fault_kind(c->nr, c->request);
	const char *request = fault_request_name(c->nr, c->request);

	snprintf(buf, size, "%s:%s/%d:%s%s%s", s->name, site->function, site->line, k->name,
		 request ? "-" : "", request ? request : "");
}

static void target_name(char *buf, size_t size, const struct fault_scenario *s,
			const struct fault_target *t)
{
	struct fault_call c = { t->site, t->nr, t->request, 0 };
	size_t n;

	call_name(buf, size, s, &c);
	n = strlen(buf);
	snprintf(buf + n, size - n, ":%u:%s%s", t->index, fault_error_name(t->error),
		 t->on ? "+" : "");
}

/* ---- Runs ---- */

static void count(enum fault_result r)
{
	all.sum.runs++;
	all.sum.passed += r == FAULT_PASS;
	all.sum.failed += r == FAULT_FAIL;
	all.sum.skipped += r == FAULT_SKIP;
	all.sum.missed += r == FAULT_MISSED;
}

static void try_target(const struct fault_scenario *s, const struct fault_target *t)
{
	static struct fault_run run;
	enum fault_result r = FAULT_MISSED;
	char name[256];

	target_name(name, sizeof(name), s, t);
	if (all.only && strcmp(all.only, name) != 0)
		return;
	if (all.list) {
		puts(name);
		return;
	}
	for (int i = 0; i < MISSES && r == FAULT_MISSED; i++)
		r = fault_supervise(s, t, all.seed, &run);
	count(r);
	all.sum.partly += t->error == FAULT_SHORT || t->error == FAULT_ZERO;
	if (r != FAULT_MISSED)
		all.site_failed[t->site] = true;
	if (r == FAULT_FAIL)
		printf("FAIL --only=%s --seed=%" PRIu64 "\n%s", name, all.seed, run.text);
	else if (all.only)
		printf("%s%s\n", run.text, r == FAULT_PASS ? "passed" : "was not called so often");
}

static bool wants(const int *errors, int err)
{
	for (int i = 0; i < FAULT_ERRORS; i++)
		if (errors[i] == err)
			return true;
	return false;
}

/* EAGAIN for ever is five seconds of trying: once is enough. */
static bool slow(int err, unsigned int index)
{
	return err == EAGAIN && index;
}

/* What a kernel, or a filter, does not know it never did. */
static bool lacking(int err)
{
	return err == ENOSYS || err == ENOTTY;
}

static void try_error(const struct fault_scenario *s, const struct fault_call *c, unsigned int i,
		      int err, bool on)
{
	struct fault_target t = { c->site, c->nr, c->request, i, err, on };

	if (lacking(err) && (i || !on))
		return;
	if (on && (slow(err, i) || (s->must_read && c->nr == SYS_read)))
		return;
	try_target(s, &t);
}

static void try_time(const struct fault_scenario *s, const struct fault_call *c, unsigned int i)
{
	struct fault_kind k = *fault_kind(c->nr, c->request);

	for (int e = 0; e < FAULT_ERRORS; e++) {
		if (k.errors[e]) {
			try_error(s, c, i, k.errors[e], false);
			try_error(s, c, i, k.errors[e], true);
		}
		if (k.passing[e] && !wants(k.errors, k.passing[e]))
			try_error(s, c, i, k.passing[e], false);
	}
}

/* One error, at one of its times: which, the seed says, and the call's place in the plan. */
static void try_brief(const struct fault_scenario *s, const struct fault_call *c)
{
	struct fault_kind k = *fault_kind(c->nr, c->request);
	uint64_t state = all.seed + all.calls, pick;
	int errors[2 * FAULT_ERRORS], n = 0;

	for (int e = 0; e < FAULT_ERRORS; e++) {
		if (k.errors[e])
			errors[n++] = k.errors[e];
		if (k.passing[e])
			errors[n++] = k.passing[e];
	}
	pick = live_random(&state);
	n = errors[pick % (unsigned int)n];
	try_error(s, c, 0, n,
		  lacking(n) || ((pick >> 32 & 1) && wants(k.errors, n) && n != EAGAIN));
}

static void try_call(const struct fault_scenario *s, const struct fault_call *c)
{
	all.calls++;
	if (all.brief && !all.only) {
		try_brief(s, c);
		return;
	}
	for (unsigned int i = 0; i < c->count; i++)
		if (i < TIMES_MAX - 1 || i == c->count - 1)
			try_time(s, c, i);
}

static bool selected(const struct fault_scenario *s)
{
	size_t n = strlen(s->name);

	if (all.only)
		return !strncmp(all.only, s->name, n) && all.only[n] == ':';
	return !all.scenario || !strncmp(s->name, all.scenario, strlen(all.scenario));
}

static void run_scenario(const struct fault_scenario *s)
{
	static const struct fault_target none = { .site = -1 };
	static struct fault_run plan;
	struct tally before = all.sum;
	unsigned int calls = all.calls;
	enum fault_result r = fault_supervise(s, &none, all.seed, &plan);

	count(r);
	if (r == FAULT_FAIL || r == FAULT_SKIP)
		printf("%s %s, without a fault\n%s", r == FAULT_FAIL ? "FAIL" : "skip", s->name,
		       plan.text);
	if (r != FAULT_PASS)
		return;
	all.scenarios++;
	for (unsigned int i = 0; i < plan.ncalls; i++)
		try_call(s, &plan.calls[i]);
	if (!all.list && !all.only)
		printf("%-18s %3u calls, %4u runs, %u failed, %u not reached\n", s->name,
		       all.calls - calls, all.sum.runs - before.runs,
		       all.sum.failed - before.failed, all.sum.missed - before.missed);
	fflush(stdout);
}

/* ---- Sites that no scenario reaches ---- */

/* On a kernel that lacks something, what needs it is refused at the start, and not reached. */
static bool kernel_has_all(void)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp_opts o = { .sz = sizeof(o), .serve = UFFDWP_SERVE_CALLER };
	const uint64_t all_of_them = 2 * UFFDWP_FEATURE_MOVE - 1;
	struct uffdwp *h;

	if (uffdwp_open(&h, &o))
		return false;
	uffdwp_info(h, &info);
	uffdwp_close(h);
	return (info.supported & all_of_them) == all_of_them;
}

/*
 * gettid(2) can not fail; looking at a ring is no system call, unless it has overflowed; huge pages are asked for
 * where images have them, and a failure is not looked at; nor is there a second failure, after that of calloc(), or of /proc.
 */
static bool exempt(const struct fault_site *s)
{
	static const char *const those[][2] = {
		{ "uffdwp__sys_tid", "syscall" },  { "collect", "fault_peek" },
		{ "wait_for_one", "poll" },	   { "not_taken", "poll" },
		{ "map_buffers", "madvise" },	   { "open_fd", "close" },
		{ "uffdwp_image_fdopen", "fcntl" }
	};

	for (size_t i = 0; i < sizeof(those) / sizeof(those[0]); i++)
		if (!strcmp(s->function, those[i][0]) && !strcmp(s->call, those[i][1]))
			return true;
	return false;
}

static void check_sites(void)
{
	if (!kernel_has_all()) {
		puts("skip sites: not all can be reached, the kernel lacks features");
		all.sum.skipped++;
		return;
	}
	for (unsigned int i = 0; i < fault_sites(); i++) {
		const struct fault_site *s = fault_site(i);

		if (all.site_failed[i] || exempt(s))
			continue;
		printf("FAIL %s:%d: %s() in %s() was never made to fail: it wants a scenario\n",
		       base_name(s->file), s->line, s->call, s->function);
		all.sum.failed++;
	}
}

/* ---- The line ---- */

static const struct option longs[] = {
	{ "short", no_argument, NULL, 's' },	  { "list", no_argument, NULL, 'l' },
	{ "seed", required_argument, NULL, 'S' }, { "scenario", required_argument, NULL, 'c' },
	{ "only", required_argument, NULL, 'o' }, { NULL, 0, NULL, 0 },
};

static bool parse(int argc, char **argv)
{
	const char *env = getenv("UFFDWP_SEED");
	int id;

	all.seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	while ((id = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (id) {
		case 's':
			all.brief = true;
			break;
		case 'l':
			all.list = true;
			break;
		case 'S':
			all.seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			all.scenario = optarg;
			break;
		case 'o':
			all.only = optarg;
			break;
		default:
			return false;
		}
	}
	return optind == argc;
}

static unsigned int sites_failed(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < fault_sites(); i++)
		n += all.site_failed[i];
	return n;
}

/*
 * Children compare what the heap holds before and after. So it must not keep what was freed, nor have an arena for
 * each thread; glibc is told so at the start only.
 */
static void exact_heap(char **argv)
{
	static const char tunables[] = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
	const char *now = getenv("GLIBC_TUNABLES");

	if (now && !strcmp(now, tunables))
		return;
	setenv("GLIBC_TUNABLES", tunables, 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	const struct tally *t = &all.sum;

	if (!parse(argc, argv))
		return 2;
	exact_heap(argv);
	fault_marks_make();
	all.site_failed = calloc(fault_sites(), sizeof(*all.site_failed));
	if (!all.site_failed)
		return 99;
	if (!all.list)
		printf("seed %" PRIu64 "\n", all.seed);
	for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
		for (const struct fault_scenario *s = scenes[i]; s->name; s++)
			if (selected(s))
				run_scenario(s);
	if (all.list)
		return 0;
	if (!all.scenario && !all.only)
		check_sites();
	printf("fault: %u scenarios, %u calls at %u of %u sites, %u runs (%u with short or empty transfers), "
	       "%u not reached, %s lost, %u findings\n",
	       all.scenarios, all.calls, sites_failed(), fault_sites(), t->runs, t->partly,
	       t->missed, t->failed ? "something" : "nothing", t->failed);
	printf("%u passed, %u failed, %u skipped\n", t->passed, t->failed, t->skipped);
	free(all.site_failed);
	return t->failed ? 1 : t->skipped ? 77 : 0;
}
