/* SPDX-License-Identifier: MIT */
/*
 * Opening, and serving write faults in each way. Whatever fails: what was protected is saved once and as it was, or
 * the handle says that it failed; writers go on.
 */
#include "scenes.h"

#include <linux/userfaultfd.h>
#include <seccomp.h>

#include "scene.h"

#define OLD UINT64_C(0x1000)
#define NEW UINT64_C(0x2000)
#define NEWER UINT64_C(0x3000)

struct serve {
	struct uffdwp *h;
	struct uffdwp_region *r;
	struct live_server server;
	char *mem;
	char saved[PAGES][PAGE];
	_Atomic int calls[PAGES];
};

/* ---- Opening alone ---- */

static void open_close(struct uffdwp_opts o)
{
	struct uffdwp *h;

	scene_begin();
	if (scene_open(&h, &o))
		CHECK_EQ(uffdwp_close(h), 0);
	scene_end();
}

static void open_device(void)
{
	open_close((struct uffdwp_opts){ .source = UFFDWP_SOURCE_DEVICE, .threads = 2 });
}

static void open_any(void)
{
	open_close(
		(struct uffdwp_opts){ .faults = UFFDWP_FAULTS_ANY, .serve = UFFDWP_SERVE_CALLER });
}

static void open_syscall(void)
{
	open_close((struct uffdwp_opts){
		.source = UFFDWP_SOURCE_SYSCALL, .serve = UFFDWP_SERVE_CALLER, .blocking = 1 });
}

static void open_events(void)
{
	open_close((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER,
					 .optional = UFFDWP_FEATURE_EVENT_REMAP |
						     UFFDWP_FEATURE_EVENT_FORK });
}

static void open_sigbus(void)
{
	open_close((struct uffdwp_opts){ .serve = UFFDWP_SERVE_SIGBUS });
}

static void open_pinned(void)
{
	const int cpus[] = { 0 };

	open_close((struct uffdwp_opts){
		.placement = UFFDWP_PLACE_PIN, .cpus = cpus, .ncpus = 1, .threads = 2 });
}

static void open_default(void)
{
	open_close((struct uffdwp_opts){ 0 });
}

/* ---- Serving ---- */

static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	struct serve *s = ctx;
	int err = uffdwp_read(r, f->addr, s->saved[f->offset / PAGE], f->len, NULL);

	for (uint64_t i = 0; !err && i < f->len / PAGE; i++)
		atomic_fetch_add(&s->calls[f->offset / PAGE + i], 1);
	return err;
}

static bool add_region(struct serve *s)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)s->mem,
					.len = PAGES * PAGE,
					.mode = UFFDWP_MODE_WP,
					.run = 2,
					.ops = &ops,
					.ctx = s };

	return scene_add(s->h, &o, &s->r);
}

/* Pages [0, done) were protected and written since, unless the handle failed. */
static void check_saved(struct serve *s, size_t protected, uint64_t old)
{
	bool failed = scene_error(s->h);

	for (size_t i = 0; i < PAGES; i++) {
		int calls = atomic_load(&s->calls[i]);

		if (calls > 1 || (i < protected && !failed && calls != 1) ||
		    (calls && !scene_holds(s->saved[i], old + i)))
			FAIL("page %zu of %zu protected: saved %d times, handle %s", i, protected,
			     calls, failed ? "failed" : "good");
		atomic_store(&s->calls[i], 0);
	}
}

static bool protect(struct serve *s, size_t *pages)
{
	uint64_t done = 0;
	int err = uffdwp_protect(s->r, (uintptr_t)s->mem, PAGES * PAGE, &done);

	*pages = done / PAGE;
	CHECK(err || done == PAGES * PAGE);
	return scene_good("uffdwp_protect", err,
			  (const int[]){ EAGAIN, ENOENT, EBUSY, ECANCELED, 0 });
}

static void write_all(struct serve *s, uint64_t old, uint64_t value)
{
	struct scene_writer w[2];
	size_t pages;

	protect(s, &pages);
	scene_write(&w[0], s->mem, PAGES, 1, value);
	scene_write(&w[1], s->mem, PAGES, 2, value);
	scene_written(&w[0]);
	scene_written(&w[1]);
	check_saved(s, pages, old);
}

static void sweep_all(struct serve *s, uint64_t old)
{
	uint64_t done = 0;
	size_t pages;
	int err;

	if (!protect(s, &pages))
		uffdwp_unprotect(s->r, (uintptr_t)s->mem, PAGES * PAGE, NULL);
	err = uffdwp_sweep(s->r, (uintptr_t)s->mem, PAGES * PAGE, &done);
	scene_good("uffdwp_sweep", err, (const int[]){ ENOENT, EBUSY, ECANCELED, 0 });
	if (!err && pages == PAGES)
		check_saved(s, PAGES, old);
}

static void serve(struct uffdwp_opts o, int map)
{
	static struct serve s;

	scene_begin();
	s.mem = scene_map(PAGES, map);
	for (size_t i = 0; i < PAGES; i++)
		scene_fill(s.mem + i * PAGE, OLD + i);
	if (scene_open(&s.h, &o)) {
		if (add_region(&s)) {
			live_serve(&s.server, s.h);
			write_all(&s, OLD, NEW);
			sweep_all(&s, NEW);
			CHECK_EQ(uffdwp_region_remove(s.r), 0);
			live_serve_stop(&s.server);
		}
		CHECK_EQ(uffdwp_close(s.h), 0);
		for (size_t i = 0; i < PAGES; i++)
			scene_fill(s.mem + i * PAGE, NEWER);
	}
	scene_unmap(s.mem, PAGES);
	scene_end();
}

static void serve_threads(void)
{
	serve((struct uffdwp_opts){ .threads = 2 }, MAP_PRIVATE);
}

static void serve_shared(void)
{
	serve((struct uffdwp_opts){ .threads = 1 }, MAP_SHARED);
}

static void serve_caller(void)
{
	serve((struct uffdwp_opts){ .serve = UFFDWP_SERVE_CALLER }, MAP_PRIVATE);
}

/*
 * A serving thread looks where the writers are bound, after some hundred faults. The writer is bound before it is
 * served, and the page that it writes is protected again and again.
 */
static int nothing(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r;
	(void)f;
	atomic_fetch_add((_Atomic int *)ctx, 1);
	return 0;
}

#define FOLLOWED 160

static void serve_follow(void)
{
	struct uffdwp_opts o = { .threads = 1 };
	_Atomic int calls = 0;
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = nothing };
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .len = PAGE, .mode = UFFDWP_MODE_WP, .ops = &ops, .ctx = &calls
	};
	struct uffdwp_region *r;
	struct uffdwp *h;
	cpu_set_t set;
	int protected = 0;
	char *mem;

	scene_begin();
	mem = scene_map(1, MAP_PRIVATE);
	ro.addr = (uintptr_t)mem;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
	if (scene_open(&h, &o)) {
		bool added = scene_add(h, &ro, &r);

		for (int i = 0; added && i < FOLLOWED; i++) {
			added = GOOD(uffdwp_protect(r, ro.addr, PAGE, NULL), EAGAIN, ENOENT, EBUSY,
				     ECANCELED);
			protected += added;
			live_store(mem, (uint64_t)i);
		}
		if (!scene_error(h))
			CHECK_EQ(atomic_load(&calls), protected);
		CHECK_EQ(uffdwp_close(h), 0);
	}
	scene_unmap(mem, 1);
	scene_end();
}

/* A policy that forgets a call: who serves can not release. Nobody may sleep, and nothing be said to be good. */
static int forget(unsigned int worker, void *arg)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int err = ctx ? 0 : -ENOMEM;

	(void)worker;
	(void)arg;
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
				       SCMP_A1_32(SCMP_CMP_EQ, (uint32_t)UFFDIO_WRITEPROTECT, 0));
	if (!err)
		err = seccomp_load(ctx);
	seccomp_release(ctx);
	return err;
}

static void serve_denied(void)
{
	scene_denies = true;
	serve((struct uffdwp_opts){ .threads = 2, .thread_start = forget }, MAP_PRIVATE);
}

static void serve_sigbus(void)
{
	serve((struct uffdwp_opts){ .serve = UFFDWP_SERVE_SIGBUS }, MAP_PRIVATE);
}

/* What older kernels lack: pages are populated first, and who unregisters must unprotect. */
static void serve_old(void)
{
	serve((struct uffdwp_opts){ .threads = 1,
				    .masked = UFFDWP_FEATURE_WP_UNPOPULATED |
					      UFFDWP_FEATURE_THREAD_ID },
	      MAP_PRIVATE);
}

const struct fault_scenario scenes_serve[] = {
	{ "open", open_default, false },
	{ "open-device", open_device, false },
	{ "open-syscall", open_syscall, false },
	{ "open-any", open_any, false },
	{ "open-events", open_events, false },
	{ "open-sigbus", open_sigbus, false },
	{ "open-pinned", open_pinned, false },
	{ "serve-threads", serve_threads, false },
	{ "serve-shared", serve_shared, false },
	{ "serve-caller", serve_caller, false },
	{ "serve-sigbus", serve_sigbus, false },
	{ "serve-denied", serve_denied, false },
	{ "serve-old", serve_old, false },
	{ "serve-follow", serve_follow, false },
	{ NULL, NULL, false },
};
