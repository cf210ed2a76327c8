/* SPDX-License-Identifier: MIT */
/*
 * A libFuzzer target: any bytes as the messages of a userfaultfd. They take the place of what the kernel gives to
 * the library's read(2); all else is real: the descriptor, the regions, what the library asks of the kernel because
 * of a message. No message may make it hang, use memory that is not its own, keep a descriptor, or get
 * its books wrong.
 *
 * The first bytes say how the handle is made and what is on its regions, see struct shape. Then come messages as the
 * kernel has them, but that an address counts from where the regions are, unless its highest byte is 0xff; and
 * that a descriptor is one that the fuzzer makes, as the kernel does. What is handed out is at most half of what is
 * left, and one, as threads may leave messages to each other.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <uffdwp.h>
#include <uffdwp/snapshot.h>
#include <uffdwp/track.h>

#include "call.h"
#include "core.h"
#include "fuzz.h"

#define PAGE ((uint64_t)4096)
#define PAGES 64u
#define MESSAGES_MAX 256u
#define REGIONS 3u

int __wrap_uffdwp__sys_read(int fd, struct uffd_msg *msg, unsigned int max);
int __real_uffdwp__sys_read(int fd, struct uffd_msg *msg, unsigned int max);

struct shape {
	uint8_t events; /* which EVENT_* features, as adopted or opened */
	uint8_t how;	/* HOW_* */
	uint8_t batch;
	uint8_t answer; /* of the operations */
};

enum {
	HOW_ADOPTED = 1,
	HOW_LIES = 2, /* the features told are not those obtained */
	HOW_OPS = 4,
	HOW_TRACKED = 8,
	HOW_SNAPSHOT = 16,
	HOW_CHILDREN = 32, /* forked() is given */
	HOW_LATE_REMOVE = 64,
	HOW_USED = 128, /* between messages */
};

static struct {
	struct uffd_msg m[MESSAGES_MAX];
	unsigned int n, at;
	int fd;
} feed;

static char *arena;
static struct uffdwp *children[MESSAGES_MAX];
static unsigned int nchildren;

/* ---- In the kernel's place ---- */

static int fresh_uffd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	FUZZ_REQUIRE(fd >= 0 && !ioctl(fd, UFFDIO_API, &api));
	return fd;
}

int __wrap_uffdwp__sys_read(int fd, struct uffd_msg *msg, unsigned int max)
{
	unsigned int left = feed.n - feed.at, n = (left + 1) / 2;

	if (fd != feed.fd || !left)
		return __real_uffdwp__sys_read(fd, msg, max);
	n = n < max ? n : max;
	memcpy(msg, &feed.m[feed.at], n * sizeof(*msg));
	feed.at += n;
	for (unsigned int i = 0; i < n; i++)
		if (msg[i].event == UFFD_EVENT_FORK)
			msg[i].arg.fork.ufd = (uint32_t)fresh_uffd(0);
	return (int)n;
}

static void relate(void *field)
{
	uint64_t v;

	memcpy(&v, field, sizeof(v));
	if (v >> 56 != 0xff)
		v = (uint64_t)(uintptr_t)arena + v % ((PAGES + 8) * PAGE) - 4 * PAGE;
	memcpy(field, &v, sizeof(v));
}

static void take_messages(const uint8_t *data, size_t size)
{
	feed.at = feed.n = 0;
	for (; size >= sizeof(feed.m[0]) && feed.n < MESSAGES_MAX; size -= sizeof(feed.m[0])) {
		struct uffd_msg *m = &feed.m[feed.n++];

		memcpy(m, data, sizeof(*m));
		data += sizeof(*m);
		m->reserved3 = 0; /* as the kernel leaves it */
		switch (m->event) {
		case UFFD_EVENT_PAGEFAULT:
			relate((char *)&m->arg + 8);
			break;
		case UFFD_EVENT_REMAP:
			relate((char *)&m->arg);
			relate((char *)&m->arg + 8);
			m->arg.remap.len %= (uint64_t)1 << (m->reserved1 % 64);
			break;
		case UFFD_EVENT_REMOVE:
		case UFFD_EVENT_UNMAP:
			relate((char *)&m->arg);
			relate((char *)&m->arg + 8);
			break;
		default:
			break;
		}
	}
}

/* ---- The program ---- */

static struct shape shape;

static const struct plan {
	unsigned int first, n;
	uint32_t mode;
	uint64_t page_size;
} plan[REGIONS] = {
	{ 4, 16, UFFDWP_MODE_WP, PAGE },
	{ 20, 16, UFFDWP_MODE_WP | UFFDWP_MODE_MISSING, 0 },
	{ 40, 16, UFFDWP_MODE_WP | UFFDWP_MODE_MINOR, 2 * PAGE },
};

/*
 * Whether its memory can be used: where the messages say that it moved to, others' is in truth, and where pages may
 * be missing there is nobody else to place them.
 */
static bool usable(const struct uffdwp_region *r)
{
	const struct plan *p = &plan[0];

	return r->mode == p->mode && r->base == (uintptr_t)arena + p->first * PAGE;
}

static int on_fault(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	static char page[4 * 4096];

	(void)ctx;
	/* An operation is never about memory that is not its region's. */
	FUZZ_REQUIRE(f->len && f->offset % PAGE == 0 && f->len % PAGE == 0);
	FUZZ_REQUIRE(f->offset + f->len <= r->size);
	if (f->kind == UFFDWP_FAULT_WRITE && f->len <= sizeof(page) && usable(r))
		(void)uffdwp_read(r, f->addr, page, f->len, NULL);
	if (f->kind == UFFDWP_FAULT_MISSING)
		(void)uffdwp_zeropage(r, f->addr, f->len, 0, NULL);
	if (f->kind == UFFDWP_FAULT_MINOR)
		(void)uffdwp_continue(r, f->addr, f->len, 0, NULL);
	switch (shape.answer & 3) {
	case 1:
		return UFFDWP_LATER;
	case 2:
		return -EIO;
	default:
		return 0;
	}
}

static int on_event(struct uffdwp_region *r, const struct uffdwp_event *e, void *ctx)
{
	(void)ctx;
	FUZZ_REQUIRE(e->len && e->len <= r->size);
	FUZZ_REQUIRE(e->kind == UFFDWP_EVENT_REMAP || !e->to);
	return shape.answer & 4 ? -EIO : 0;
}

static void on_fork(struct uffdwp *parent, struct uffdwp *child, void *arg)
{
	(void)parent;
	(void)arg;
	FUZZ_REQUIRE(nchildren < MESSAGES_MAX);
	children[nchildren++] = child;
}

static uint64_t events(uint8_t bits)
{
	return (bits & 1 ? UFFDWP_FEATURE_EVENT_FORK : 0) |
	       (bits & 2 ? UFFDWP_FEATURE_EVENT_REMAP : 0) |
	       (bits & 4 ? UFFDWP_FEATURE_EVENT_REMOVE : 0) |
	       (bits & 8 ? UFFDWP_FEATURE_EVENT_UNMAP : 0);
}

/* The kernel itself tells of no fork: a sanitizer that has something to say forks, and would sleep for ever. */
static struct uffdwp *make_handle(void)
{
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .serve = UFFDWP_SERVE_CALLER,
				 .batch = shape.batch % (UFFDWP_BATCH_MAX + 1),
				 .masked = (uint64_t)(shape.events & 0x70) << 9,
				 .forked = shape.how & HOW_CHILDREN ? on_fork : NULL };
	struct uffdwp_adopt_opts a = { .sz = sizeof(a), .opts = o };
	uint64_t features = UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | events(shape.events);
	struct uffdwp *h;

	if (!(shape.how & HOW_ADOPTED)) {
		o.required = events(shape.events) & ~UFFDWP_FEATURE_EVENT_FORK;
		FUZZ_REQUIRE(!uffdwp_open(&h, &o));
		return h;
	}
	a.pid = shape.answer & 8 ? getpid() : 0;
	a.features = shape.how & HOW_LIES ? features ^ events(shape.answer >> 4) : features;
	FUZZ_REQUIRE(!uffdwp_adopt(&h, fresh_uffd(features & ~UFFDWP_FEATURE_EVENT_FORK), &a));
	return h;
}

static void add_regions(struct uffdwp *h, struct uffdwp_region **r)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops),
				  .missing = on_fault,
				  .write = shape.how & (HOW_TRACKED | HOW_SNAPSHOT) ? NULL
										    : on_fault,
				  .minor = on_fault,
				  .event = on_event };

	for (unsigned int i = 0; i < REGIONS; i++) {
		struct uffdwp_region_opts o = { .sz = sizeof(o),
						.addr = (uintptr_t)arena + plan[i].first * PAGE,
						.mem = shape.how & HOW_ADOPTED
							       ? arena + plan[i].first * PAGE
							       : NULL,
						.len = plan[i].n * PAGE,
						.page_size = plan[i].page_size,
						.mode = plan[i].mode,
						.run = 8,
						.ops = shape.how & HOW_OPS ? &ops : NULL };

		FUZZ_REQUIRE(!uffdwp_region_add(h, &o, &r[i]));
	}
}

/* ---- The books ---- */

static bool known(const struct uffdwp *h, const struct uffdwp_region *r)
{
	const struct uffdwp_region *i = h->regions;

	while (i && i != r)
		i = i->next;
	return i;
}

static void check_entry(const struct uffdwp *h, const struct uffdwp__entry *e)
{
	FUZZ_REQUIRE(known(h, e->r) && !e->r->gone);
	FUZZ_REQUIRE(e->start < e->end && e->base == e->r->base);
	FUZZ_REQUIRE(e->start - e->base <= e->r->size && e->end - e->base <= e->r->size);
	FUZZ_REQUIRE(e->start - e->base >= e->r->head &&
		     e->end - e->base - e->r->head <= e->r->len);
	FUZZ_REQUIRE(!e->r->pages.n || e->r->pages.n << e->r->shift == e->r->size);
}

static void check_books(const struct uffdwp *h)
{
	const struct uffdwp__table *t = h->table;

	for (uint32_t i = 0; i < t->n; i++) {
		check_entry(h, &t->e[i]);
		FUZZ_REQUIRE(!i || t->e[i - 1].end <= t->e[i].start);
	}
	for (const struct uffdwp_region *r = h->regions; r; r = r->next) {
		bool later = shape.how & HOW_OPS && (shape.answer & 3) == 1;

		for (uint64_t i = 0; i < r->pages.n && !later && !(shape.how & HOW_SNAPSHOT); i++)
			FUZZ_REQUIRE(uffdwp__pages_get(&r->pages, i) < UFFDWP__BUSY);
	}
	FUZZ_REQUIRE(h->readers.count[0] == 0 && h->readers.count[1] == 0);
	for (unsigned int i = 0; i < UFFDWP__SERVERS; i++)
		FUZZ_REQUIRE(!h->servers[i]);
}

/* ---- A run ---- */

/* Shared memory in the middle, for minor faults; the rest is private. */
static void make_arena(void)
{
	int fd = memfd_create("arena", MFD_CLOEXEC);

	arena = mmap(NULL, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);
	FUZZ_REQUIRE(arena != MAP_FAILED && fd >= 0 && !ftruncate(fd, (off_t)(16 * PAGE)));
	arena += -(uintptr_t)arena % (PAGES * PAGE);
	FUZZ_REQUIRE(mmap(arena + 40 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
	close(fd);
	for (unsigned int i = 40; i < 56; i++)
		arena[i * PAGE] = 1;
}

struct layers {
	struct uffdwp_track *t;
	struct uffdwp_snapshot *s;
};

static void begin_layers(struct layers *l, struct uffdwp_region **r)
{
	static char copies[REGIONS][16 * 4096];
	void *to[] = { copies[0], copies[1], copies[2] };
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .sink = &sink,
					  .by_caller = 1,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN };

	memset(l, 0, sizeof(*l));
	if (shape.how & HOW_TRACKED)
		FUZZ_REQUIRE(!uffdwp_track_start(&l->t, r, 1, NULL));
	if (!(shape.how & HOW_SNAPSHOT))
		return;
	FUZZ_REQUIRE(!uffdwp_sink_memory(&sink, to, 1));
	FUZZ_REQUIRE(!uffdwp_snapshot_new(&l->s, r, 1, &o));
	(void)uffdwp_snapshot_arm(l->s);
	(void)uffdwp_snapshot_seal(l->s);
}

static void end_layers(struct layers *l, const struct uffdwp_region *r)
{
	if (l->t) {
		if (usable(r))
			(void)uffdwp_track_collect(l->t, NULL);
		FUZZ_REQUIRE(!uffdwp_track_stop(l->t));
	}
	if (!l->s)
		return;
	for (int i = 0; i < 4 && usable(r) && !uffdwp_snapshot_step(l->s, 1); i++)
		;
	FUZZ_REQUIRE(!uffdwp_snapshot_free(l->s));
}

static void use_between(struct uffdwp *h, struct uffdwp_region *r)
{
	uint64_t addr = uffdwp_region_addr(r), len = uffdwp_region_len(r);

	(void)uffdwp_region_find(h, addr);
	/* What an operation keeps is waited for, a second. */
	if (len && usable(r) && (shape.answer & 3) != 1)
		(void)uffdwp_protect(r, addr, len, NULL);
}

/* What an operation kept by UFFDWP_LATER, wherever it is now: who closes would wait for it. */
static void release_held(struct uffdwp_region *r)
{
	for (uint64_t i = 0; i < r->pages.n; i++)
		if (uffdwp__pages_get(&r->pages, i) >= UFFDWP__BUSY)
			(void)uffdwp__release(r, i, 1, &r->h->stats);
}

static void run(void)
{
	struct uffdwp_region *r[REGIONS];
	struct layers layers;
	struct uffdwp *h = make_handle();
	unsigned int last;

	nchildren = 0;
	add_regions(h, r);
	begin_layers(&layers, r);
	for (unsigned int i = 0; i < REGIONS && !layers.t && !layers.s; i++)
		(void)uffdwp_protect(r[i], uffdwp_region_addr(r[i]), uffdwp_region_len(r[i]), NULL);
	feed.fd = h->fd;
	do {
		last = feed.at;
		(void)uffdwp_dispatch(h);
		check_books(h);
		if (shape.how & HOW_USED && !layers.t && !layers.s)
			use_between(h, r[0]);
	} while (feed.at != last);
	feed.fd = -1;
	for (unsigned int i = 0; i < REGIONS && (shape.answer & 3) == 1; i++)
		release_held(r[i]);
	end_layers(&layers, r[0]);
	for (unsigned int i = 0; i < nchildren; i++) {
		(void)uffdwp_dispatch(children[i]);
		check_books(children[i]);
		FUZZ_REQUIRE(!uffdwp_close(children[i]));
	}
	for (unsigned int i = 0; i < REGIONS && shape.how & HOW_LATE_REMOVE; i++)
		FUZZ_REQUIRE(!uffdwp_region_remove(r[i]));
	FUZZ_REQUIRE(!uffdwp_close(h));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned int before;

	if (size < sizeof(shape))
		return 0;
	if (!arena)
		make_arena();
	memcpy(&shape, data, sizeof(shape));
	take_messages(data + sizeof(shape), size - sizeof(shape));
	before = fuzz_count("/proc/self/fd");
	run();
	FUZZ_REQUIRE(fuzz_count("/proc/self/fd") == before);
	/* What was poisoned is as new, and nobody sleeps at what was let go. */
	FUZZ_REQUIRE(!madvise(arena, PAGES * PAGE, MADV_DONTNEED));
	for (unsigned int i = 0; i < PAGES; i++)
		arena[i * PAGE]++;
	FUZZ_REQUIRE(!madvise(arena, 40 * PAGE, MADV_DONTNEED));
	return 0;
}
