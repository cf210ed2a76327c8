/* SPDX-License-Identifier: MIT */
/*
 * A libFuzzer target: any bytes, of any size, as the structs that begin with their size. Each call must work or give
 * an error that its header documents, read no more than the struct's size says, write no more than that, and leave
 * nothing behind.
 *
 * The first byte says which struct, two more its size; the rest are its bytes. What no library can check is made right:
 * a pointer is NULL, or, if its lowest bit is set, to something of its kind; a size of what it points to is at most
 * that. Memory is on the heap in its exact size, so that AddressSanitizer sees who goes beyond it. Of the system's
 * memory there are 256 MiB, so that what asks for more sees what it would see of a smaller machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <uffdwp.h>
#include <uffdwp/image.h>
#include <uffdwp/snapshot.h>
#include <uffdwp/track.h>

#include "../common/image.h"
#include "fuzz.h"
#include "sys.h"

#define PAGE ((uint64_t)4096)
#define PAGES 32u
#define REASON 48u
#define CPUS 4u
#define RANGES 4u
#define MEMORY_MAX ((size_t)256 << 20)

void *__wrap_uffdwp__sys_alloc(size_t size);
void *__real_uffdwp__sys_alloc(size_t size);
void *__wrap_uffdwp__sys_alloc_zeros(size_t size);
void *__real_uffdwp__sys_alloc_zeros(size_t size);
void *__wrap_uffdwp__sys_alloc_staging(size_t size);
void *__real_uffdwp__sys_alloc_staging(size_t size);
void __wrap_uffdwp__sys_free(void *p, size_t size);
void __real_uffdwp__sys_free(void *p, size_t size);

/* ---- The memory that there is ---- */

static _Atomic size_t mapped;

static void *counted(void *p, size_t size)
{
	if (p)
		mapped += size;
	return p;
}

void *__wrap_uffdwp__sys_alloc(size_t size)
{
	return size > MEMORY_MAX ? NULL : counted(__real_uffdwp__sys_alloc(size), size);
}

void *__wrap_uffdwp__sys_alloc_zeros(size_t size)
{
	return size > MEMORY_MAX ? NULL : counted(__real_uffdwp__sys_alloc_zeros(size), size);
}

void *__wrap_uffdwp__sys_alloc_staging(size_t size)
{
	return size > MEMORY_MAX ? NULL : counted(__real_uffdwp__sys_alloc_staging(size), size);
}

void __wrap_uffdwp__sys_free(void *p, size_t size)
{
	if (p)
		mapped -= size;
	__real_uffdwp__sys_free(p, size);
}

/* ---- Structs ---- */

/* A field that is made right. to NULL: a number of at most max. */
struct field {
	size_t offset, size;
	const void *to;
	uint64_t max;
};

#define POINTER(type, name, to)                             \
	{                                                   \
		offsetof(type, name), sizeof(void *), to, 0 \
	}
#define NUMBER(type, name, max)                                            \
	{                                                                  \
		offsetof(type, name), sizeof(((type *)0)->name), NULL, max \
	}

static const uint8_t *input;
static size_t input_size;

static unsigned int take_byte(void)
{
	if (!input_size)
		return 0;
	input_size--;
	return *input++;
}

static void fix_field(char *s, size_t sz, const struct field *f)
{
	uint64_t number = 0;
	const void *to = f->to;

	if (f->offset >= sz)
		return;
	memcpy(&number, s + f->offset, f->size < sz - f->offset ? f->size : sz - f->offset);
	if (f->to && !(number & 1))
		to = NULL;
	if (!f->to)
		number %= f->max + 1;
	memcpy(s + f->offset, f->to ? (const void *)&to : (const void *)&number,
	       f->size < sz - f->offset ? f->size : sz - f->offset);
}

/* A struct of the size that the input says, on the heap; the caller frees it. */
static void *make(size_t known, const struct field *fields, size_t n)
{
	size_t sz = take_byte() | take_byte() << 8, space, i;
	char *s;

	sz %= known + 64;
	space = sz < sizeof(sz) ? sizeof(sz) : sz;
	s = calloc(1, space);
	FUZZ_REQUIRE(s);
	for (i = 0; i < space && input_size; i++)
		s[i] = (char)take_byte();
	memcpy(s, &sz, sizeof(sz));
	for (i = 0; i < n; i++)
		fix_field(s, space, &fields[i]);
	return s;
}

#define MAKE(type, ...)                                                                    \
	__extension__({                                                                    \
		const struct field fields_[] = { __VA_ARGS__ };                            \
		(type *)make(sizeof(type), fields_, sizeof(fields_) / sizeof(fields_[0])); \
	})
#define REASONS(type) POINTER(type, reason, reason), NUMBER(type, reason_size, REASON)

/* 0 or more, or an error that is documented; what a filter denies with is documented for every function. */
static bool good(const char *function, int err, const int *documented)
{
	if (err >= 0)
		return true;
	for (; *documented; documented++)
		if (err == -*documented)
			return false;
	fprintf(stderr, "%s: %s, which is not documented\n", function, strerror(-err));
	abort();
}
#define GOOD(call, ...) good(#call, (call), (const int[]){ EINVAL, E2BIG, ENOMEM, __VA_ARGS__, 0 })

/* ---- What they are about ---- */

static char *arena, *reason;
static int *cpus;
static char image_path[64], dir[48];

static int on_fault(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	(void)r, (void)f, (void)ctx;
	return 0;
}

static int on_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	(void)r, (void)e, (void)ctx;
	return 0;
}

static void on_fork(struct uffdwp *parent, struct uffdwp *child, void *arg)
{
	(void)parent, (void)arg;
	uffdwp_close(child);
}

static int on_start(unsigned int worker, void *arg)
{
	(void)worker;
	return arg ? -EACCES : 0;
}

static struct uffdwp *open_caller(void)
{
	struct uffdwp_opts o = { .sz = sizeof(o), .serve = UFFDWP_SERVE_CALLER };
	struct uffdwp *h;

	FUZZ_REQUIRE(!uffdwp_open(&h, &o));
	return h;
}

static struct uffdwp_region *add(struct uffdwp *h)
{
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = (uintptr_t)arena,
					.len = PAGES * PAGE,
					.mode = UFFDWP_MODE_WP };
	struct uffdwp_region *r;

	FUZZ_REQUIRE(!uffdwp_region_add(h, &o, &r));
	return r;
}

/* ---- Each struct ---- */

#define OPTS(type, prefix)                                                                  \
	POINTER(type, prefix cpus, cpus), NUMBER(type, prefix ncpus, CPUS),                 \
		POINTER(type, prefix thread_start, (const void *)(uintptr_t)on_start),      \
		POINTER(type, prefix thread_arg, ""),                                       \
		POINTER(type, prefix forked, (const void *)(uintptr_t)on_fork),             \
		POINTER(type, prefix forked_arg, ""), POINTER(type, prefix reason, reason), \
		NUMBER(type, prefix reason_size, REASON)
#define OPEN_ERRORS \
	EPERM, EACCES, ENOSYS, ENOENT, EOPNOTSUPP, EMFILE, ENFILE, ENOSPC, EAGAIN, ECANCELED

static void open_opts(void)
{
	struct uffdwp_opts *o = MAKE(struct uffdwp_opts, OPTS(struct uffdwp_opts, ));
	struct uffdwp *h;

	/* A fork of the sanitizer's would wait for somebody to read of it. */
	if (o->sz >= offsetof(struct uffdwp_opts, masked))
		o->required &= ~UFFDWP_FEATURE_EVENT_FORK,
			o->optional &= ~UFFDWP_FEATURE_EVENT_FORK;
	if (GOOD(uffdwp_open(&h, o), OPEN_ERRORS))
		FUZZ_REQUIRE(!uffdwp_close(h));
	else
		FUZZ_REQUIRE(!h);
	free(o);
}

static void adopt_opts(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdwp_adopt_opts *o;
	struct uffdwp *h;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	FUZZ_REQUIRE(fd >= 0);
	if (take_byte() & 1)
		FUZZ_REQUIRE(!ioctl(fd, UFFDIO_API, &api));
	o = MAKE(struct uffdwp_adopt_opts, OPTS(struct uffdwp_adopt_opts, opts.),
		 NUMBER(struct uffdwp_adopt_opts, opts.sz, sizeof(struct uffdwp_opts)));
	if (o->sz >= sizeof(*o))
		o->opts.required &= ~UFFDWP_FEATURE_EVENT_FORK,
			o->opts.optional &= ~UFFDWP_FEATURE_EVENT_FORK;
	if (GOOD(uffdwp_adopt(&h, fd, o), OPEN_ERRORS, EBADF)) {
		FUZZ_REQUIRE(!uffdwp_close(h));
	} else {
		FUZZ_REQUIRE(!h);
		FUZZ_REQUIRE(!close(fd));
	}
	free(o);
}

static struct uffdwp_ops *make_ops(void)
{
	struct uffdwp_ops *ops;

	if (!(take_byte() & 1))
		return NULL;
	ops = MAKE(struct uffdwp_ops,
		   POINTER(struct uffdwp_ops, missing, (const void *)(uintptr_t)on_fault),
		   POINTER(struct uffdwp_ops, write, (const void *)(uintptr_t)on_fault),
		   POINTER(struct uffdwp_ops, minor, (const void *)(uintptr_t)on_fault),
		   POINTER(struct uffdwp_ops, event, (const void *)(uintptr_t)on_event));
	return ops;
}

/* Addresses count from the arena, unless their highest byte is 0xff. */
static void relate(uint64_t *addr)
{
	if (*addr >> 56 != 0xff)
		*addr += (uintptr_t)arena;
}

static void region_opts(void)
{
	struct uffdwp_ops *ops = make_ops();
	struct uffdwp_region_opts *o = MAKE(
		struct uffdwp_region_opts, REASONS(struct uffdwp_region_opts),
		POINTER(struct uffdwp_region_opts, ops, ops ? (const void *)ops : ""),
		POINTER(struct uffdwp_region_opts, mem, arena));
	struct uffdwp *h = open_caller();
	struct uffdwp_region *r;

	if (o->sz >= offsetof(struct uffdwp_region_opts, ctx) && !ops)
		o->ops = NULL;
	if (o->sz >= offsetof(struct uffdwp_region_opts, len))
		relate(&o->addr);
	if (GOOD(uffdwp_region_add(h, o, &r), EOPNOTSUPP, EEXIST, EBUSY, EPERM, EMFILE, EACCES)) {
		GOOD(uffdwp_protect(r, uffdwp_region_addr(r), uffdwp_region_len(r), NULL),
		     EOPNOTSUPP, ENOENT);
		FUZZ_REQUIRE(!uffdwp_region_remove(r));
	} else {
		FUZZ_REQUIRE(!r);
	}
	FUZZ_REQUIRE(!uffdwp_close(h));
	free(o);
	free(ops);
}

static void set_ops(void)
{
	struct uffdwp_ops *ops = make_ops();
	struct uffdwp *h = open_caller();

	GOOD(uffdwp_region_set_ops(add(h), ops, NULL), EBUSY);
	FUZZ_REQUIRE(!uffdwp_close(h));
	free(ops);
}

static void track_opts(void)
{
	struct uffdwp_track_opts *o = MAKE(struct uffdwp_track_opts,
					   REASONS(struct uffdwp_track_opts));
	struct uffdwp *h = open_caller();
	struct uffdwp_region *r = add(h);
	struct uffdwp_track *t;

	if (GOOD(uffdwp_track_start(&t, &r, take_byte() & 1, o), EOPNOTSUPP, EBUSY, EACCES, EMFILE))
		FUZZ_REQUIRE(!uffdwp_track_stop(t));
	else
		FUZZ_REQUIRE(!t);
	FUZZ_REQUIRE(!uffdwp_close(h));
	free(o);
}

static int on_range(struct uffdwp_region *r, uint64_t addr, uint64_t len, void *arg)
{
	(void)arg;
	FUZZ_REQUIRE(len && addr >= uffdwp_region_addr(r) &&
		     addr + len <= uffdwp_region_addr(r) + uffdwp_region_len(r));
	return 0;
}

/* Half of it was written: what takes up marks without a writer is a discard. */
static void track_query(void)
{
	struct uffdwp *h = open_caller();
	struct uffdwp_region *r = add(h);
	void *ranges = calloc(RANGES, sizeof(struct uffdwp_track_range));
	void *bitmap = calloc(1, PAGES * PAGE / 8 + 8);
	struct uffdwp_track *t;
	struct uffdwp_track_query *q;
	unsigned int peek = take_byte();

	FUZZ_REQUIRE(ranges && bitmap);
	FUZZ_REQUIRE(!uffdwp_track_start(&t, &r, 1, NULL));
	FUZZ_REQUIRE(!uffdwp_discard(r, (uintptr_t)arena, PAGES / 2 * PAGE, 0, NULL));
	q = MAKE(struct uffdwp_track_query, POINTER(struct uffdwp_track_query, region, r),
		 POINTER(struct uffdwp_track_query, range, (const void *)(uintptr_t)on_range),
		 POINTER(struct uffdwp_track_query, ranges, ranges),
		 NUMBER(struct uffdwp_track_query, nranges, RANGES),
		 POINTER(struct uffdwp_track_query, bitmap, bitmap));
	if (q->sz >= offsetof(struct uffdwp_track_query, len) && q->addr)
		relate(&q->addr);
	if (q->sz >= sizeof(*q) && q->resume)
		relate(&q->resume);
	for (int i = 0; i < 3; i++)
		if (!GOOD(peek & 1 ? uffdwp_track_peek(t, q) : uffdwp_track_collect(t, q), ENOENT,
			  EBUSY))
			break;
	FUZZ_REQUIRE(!uffdwp_track_stop(t));
	FUZZ_REQUIRE(!uffdwp_close(h));
	free(q);
	free(ranges);
	free(bitmap);
}

static unsigned int sinks_freed;

static int on_write(void *ctx, struct uffdwp_sink_write *w)
{
	(void)ctx;
	FUZZ_REQUIRE(w->len && w->offset + w->len <= PAGES * PAGE);
	return 0;
}

static void on_free(void *ctx)
{
	(void)ctx;
	sinks_freed++;
}

static void snapshot_opts(void)
{
	struct uffdwp_sink *sink = MAKE(
		struct uffdwp_sink, POINTER(struct uffdwp_sink, ctx, arena),
		POINTER(struct uffdwp_sink, begin, NULL),
		POINTER(struct uffdwp_sink, write, (const void *)(uintptr_t)on_write),
		POINTER(struct uffdwp_sink, zero, NULL), POINTER(struct uffdwp_sink, wait, NULL),
		POINTER(struct uffdwp_sink, sealed, NULL), POINTER(struct uffdwp_sink, end, NULL),
		POINTER(struct uffdwp_sink, free, (const void *)(uintptr_t)on_free));
	struct uffdwp_snapshot_opts *o = MAKE(struct uffdwp_snapshot_opts,
					      POINTER(struct uffdwp_snapshot_opts, sink, sink),
					      REASONS(struct uffdwp_snapshot_opts));
	struct uffdwp *h = open_caller();
	struct uffdwp_region *r = add(h);
	struct uffdwp_snapshot *s;
	unsigned int freed = sinks_freed;

	/* A byte a second is what may be asked for, and takes its time. */
	if (o->sz >= offsetof(struct uffdwp_snapshot_opts, settle) && o->rate)
		o->rate |= 1u << 30;
	if (GOOD(uffdwp_snapshot_new(&s, &r, 1, o), EOPNOTSUPP, EBUSY, EAGAIN)) {
		GOOD(uffdwp_snapshot_arm(s), ECANCELED);
		GOOD(uffdwp_snapshot_seal(s), ECANCELED);
		FUZZ_REQUIRE(!uffdwp_snapshot_free(s));
		FUZZ_REQUIRE(sinks_freed == freed + !!sink->free);
	} else {
		FUZZ_REQUIRE(!s && sinks_freed == freed);
	}
	FUZZ_REQUIRE(!uffdwp_close(h));
	free(o);
	free(sink);
}

static void image_opts(void)
{
	struct uffdwp_image_opts *o = MAKE(struct uffdwp_image_opts,
					   REASONS(struct uffdwp_image_opts));
	struct uffdwp_sink sink;
	char path[64];

	(void)snprintf(path, sizeof(path), "%s/new", dir);
	if (GOOD(uffdwp_image_sink(&sink, path, o), ESRCH, ENOENT, EACCES))
		sink.free(sink.ctx);
	free(o);
}

static struct uffdwp_image *open_image(void)
{
	struct uffdwp_image *img;

	FUZZ_REQUIRE(!uffdwp_image_open(&img, image_path, NULL));
	return img;
}

static void open_image_opts(void)
{
	struct uffdwp_image_open_opts *o = MAKE(struct uffdwp_image_open_opts,
						REASONS(struct uffdwp_image_open_opts));
	struct uffdwp_image *img;

	if (GOOD(uffdwp_image_open(&img, image_path, o), EBADMSG))
		uffdwp_image_close(img);
	else
		FUZZ_REQUIRE(!img);
	free(o);
}

static void restore_opts(void)
{
	struct uffdwp_image *img = open_image();
	struct uffdwp *h = open_caller();
	struct uffdwp_restore_range *order = calloc(RANGES, sizeof(*order));
	uint64_t *addrs = calloc(1, sizeof(*addrs));
	struct uffdwp_restore_opts *o;
	struct uffdwp_restore *rs;

	FUZZ_REQUIRE(order && addrs);
	addrs[0] = (uintptr_t)arena + take_byte() % 3 * (PAGE / 2);
	for (unsigned int i = 0; i < RANGES; i++)
		order[i] = (struct uffdwp_restore_range){ take_byte() / 128, 0,
							  take_byte() * PAGE / 32,
							  take_byte() * PAGE / 32 };
	o = MAKE(struct uffdwp_restore_opts, POINTER(struct uffdwp_restore_opts, image, img),
		 POINTER(struct uffdwp_restore_opts, handle, h),
		 POINTER(struct uffdwp_restore_opts, addrs, addrs),
		 POINTER(struct uffdwp_restore_opts, order, order),
		 NUMBER(struct uffdwp_restore_opts, norder, RANGES),
		 REASONS(struct uffdwp_restore_opts));
	if (GOOD(uffdwp_restore_start(&rs, o), EAGAIN, EOPNOTSUPP, EEXIST, EBUSY, EPERM, EBADMSG,
		 EFAULT)) {
		int err = uffdwp_restore_free(rs, UFFDWP_RESTORE_ABANDON);

		FUZZ_REQUIRE(!err || err == -ECANCELED);
	} else {
		FUZZ_REQUIRE(!rs);
	}
	FUZZ_REQUIRE(!uffdwp_close(h));
	uffdwp_image_close(img);
	free(o);
	free(order);
	free(addrs);
}

/* What is written to: no more than what there is. */
#define RESULT(type, call, ...)                \
	do {                                   \
		type *out = MAKE(type, { 0 }); \
		size_t sz = out->sz;           \
		GOOD(call, __VA_ARGS__);       \
		FUZZ_REQUIRE(out->sz == sz);   \
		free(out);                     \
	} while (0)

static void results(void)
{
	struct uffdwp *h = open_caller();
	struct uffdwp_region *r = add(h);
	struct uffdwp_track *t;

	FUZZ_REQUIRE(!uffdwp_track_start(&t, &r, 1, NULL));
	switch (take_byte() % 3) {
	case 0:
		RESULT(struct uffdwp_info, uffdwp_info(h, out), EINVAL);
		break;
	case 1:
		RESULT(struct uffdwp_stats, uffdwp_stats(h, UFFDWP_ALL_WORKERS, out), EINVAL);
		break;
	default:
		RESULT(struct uffdwp_track_info, uffdwp_track_info(t, out), EINVAL);
	}
	FUZZ_REQUIRE(!uffdwp_track_stop(t));
	FUZZ_REQUIRE(!uffdwp_close(h));
}

static void snapshot_result(void)
{
	static char copy[PAGES * 4096];
	void *to = copy;
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .sink = &sink,
					  .by_caller = 1,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct uffdwp *h = open_caller();
	struct uffdwp_region *r = add(h);
	struct uffdwp_snapshot *s;

	FUZZ_REQUIRE(!uffdwp_sink_memory(&sink, &to, 1));
	FUZZ_REQUIRE(!uffdwp_snapshot_new(&s, &r, 1, &o));
	RESULT(struct uffdwp_snapshot_result, uffdwp_snapshot_poll(s, out), EINVAL);
	FUZZ_REQUIRE(!uffdwp_snapshot_free(s));
	FUZZ_REQUIRE(!uffdwp_close(h));
}

static void image_results(void)
{
	struct uffdwp_image *img = open_image();
	struct uffdwp_sink sink;
	char path[64];

	(void)snprintf(path, sizeof(path), "%s/new", dir);
	switch (take_byte() % 4) {
	case 0:
		RESULT(struct uffdwp_image_info, uffdwp_image_info(img, out), EINVAL);
		break;
	case 1:
		RESULT(struct uffdwp_image_region, uffdwp_image_region(img, take_byte() & 1, out),
		       EINVAL);
		break;
	case 2:
		RESULT(struct uffdwp_image_damage, uffdwp_image_verify(img, out), EINVAL);
		break;
	default:
		FUZZ_REQUIRE(!uffdwp_image_sink(&sink, path, NULL));
		RESULT(struct uffdwp_image_stats, uffdwp_image_sink_stats(&sink, out), EINVAL);
		sink.free(sink.ctx);
	}
	uffdwp_image_close(img);
}

static void restore_stats(void)
{
	struct uffdwp_image *img = open_image();
	struct uffdwp *h = open_caller();
	uint64_t addr = (uintptr_t)arena;
	struct uffdwp_restore_opts o = {
		.sz = sizeof(o), .image = img, .handle = h, .addrs = &addr, .prefetch = 1
	};
	struct uffdwp_restore *rs;

	FUZZ_REQUIRE(!uffdwp_restore_start(&rs, &o));
	RESULT(struct uffdwp_restore_stats, uffdwp_restore_stats(rs, out), EINVAL);
	(void)uffdwp_restore_free(rs, UFFDWP_RESTORE_ABANDON);
	FUZZ_REQUIRE(!uffdwp_close(h));
	uffdwp_image_close(img);
}

/* ---- A run ---- */

static void (*const structs[])(void) = {
	open_opts,   adopt_opts,      region_opts,   set_ops,	      track_opts,
	track_query, snapshot_opts,   image_opts,    open_image_opts, restore_opts,
	results,     snapshot_result, image_results, restore_stats,
};

static void remove_files(void)
{
	unlink(image_path);
	rmdir(dir);
}

static void set_up(void)
{
	static char pages[8 * 4096];
	struct image_part part = { 0x10000, sizeof(pages), PAGE, pages };
	struct uffdwp_image_opts o = { .sz = sizeof(o), .pid = -1 };

	arena = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	FUZZ_REQUIRE(arena != MAP_FAILED);
	(void)snprintf(dir, sizeof(dir), "/tmp/uffdwp-fuzz.XXXXXX");
	FUZZ_REQUIRE(mkdtemp(dir));
	(void)snprintf(image_path, sizeof(image_path), "%s/image", dir);
	atexit(remove_files);
	image_fill(pages, sizeof(pages), 1, 3);
	FUZZ_REQUIRE(!image_make(image_path, &o, &part, 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned int fds;
	unsigned int which;
	size_t before;

	if (!size)
		return 0;
	if (!arena)
		set_up();
	fds = fuzz_count("/proc/self/fd");
	input = data;
	input_size = size;
	which = take_byte() % (sizeof(structs) / sizeof(structs[0]));
	reason = malloc(REASON);
	cpus = calloc(CPUS, sizeof(*cpus));
	FUZZ_REQUIRE(reason && cpus);
	for (unsigned int i = 0; i < CPUS && which < 2; i++)
		cpus[i] = (int)take_byte() - 1;
	before = mapped;
	structs[which]();
	FUZZ_REQUIRE(mapped == before);
	FUZZ_REQUIRE(fuzz_count("/proc/self/fd") == fds);
	FUZZ_REQUIRE(!madvise(arena, PAGES * PAGE, MADV_DONTNEED));
	free(reason);
	free(cpus);
	return 0;
}
