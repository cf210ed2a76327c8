/* SPDX-License-Identifier: MIT */
/*
 * A batch of messages: events first, as what they tell may be over the sooner; then the faults,
 * sorted by address, so that neighbours are one call of an operation and one release.
 *
 * A thread that faulted sleeps until its page is released or it is woken. Every message read here
 * ends in one of: a release, a page placed, a wake, or the state CONTENDED, with which whoever
 * holds the page owes the wake.
 */
#include "fault.h"

#include <errno.h>

#include "call.h"
#include "event.h"
#include "sys.h"
#include "util.h"

/*
 * A sequential writer has this many released pages behind it before the ones ahead are released
 * with its fault.
 */
#define BEHIND_MIN 4
/*
 * With EVENT_REMAP a fault may come before the event that tells whose it is: it is sent back
 * first, so often, counted from the last event.
 */
#define STRAY_RETRIES 1000
#define KEPT_TRIES 10 /* of a second each, to place a page that somebody keeps */
/* So many reads that fail, one after another, are the end. */
#define UNREAD_MAX 16
/* Batches of which one is timed: two looks at the clock are two percent of a fault. */
#define SAMPLE 8

struct fault {
	uint64_t addr;
	uint32_t flags, tid;
};

struct batch {
	unsigned int n;
	struct fault f[UFFDWP_BATCH_MAX];
};

/* ---- Write faults ---- */

static bool is_write(const struct fault *f)
{
	return f->flags & UFFD_PAGEFAULT_FLAG_WP;
}

/*
 * How many pages to release with this fault: those that faulted with it; or, for a writer that
 * comes from the pages before, as many as it has behind it. A random writer rarely has, until there
 * is little left to release.
 */
static uint64_t window(const struct uffdwp_region *r, uint64_t page, uint64_t want)
{
	uint64_t run = atomic_load_explicit(&r->run, memory_order_relaxed), behind;

	if (run == 1)
		return 1;
	/*
	 * Pages that were never there may be protected too, and reading one would be a fault of
	 * its own.
	 */
	if (uffdwp__places(r) || atomic_load_explicit(&r->exact, memory_order_relaxed))
		return min_u64(run, want);
	behind = uffdwp__pages_behind(&r->pages, page, run);
	return min_u64(run, behind >= BEHIND_MIN ? max_u64(want, behind) : want);
}

/* The rest of the granule of pages [page, page + n), which are released. */
static void serve_granule(struct uffdwp__server *s, struct uffdwp_region *r, uint64_t page,
			  uint64_t n, uint64_t granule)
{
	uint64_t i = page & ~(granule - 1), end = (page + n + granule - 1) & ~(granule - 1);

	end = min_u64(end, r->pages.n);
	for (uint64_t k; i < end; i += k ? k : 1) {
		struct uffdwp_fault f = { .worker = s->worker };

		k = uffdwp__pages_claim(&r->pages, i, end - i);
		if (k)
			uffdwp__deliver(r, i, k, &f, s->st);
	}
}

/*
 * A snapshot would read pages of it that may never have been there, and wait for who places them, who may be this
 * thread. They stay protected: at worst each faults for itself.
 */
static bool reads_absent(const struct uffdwp_region *r)
{
	return uffdwp__places(r) && uffdwp__layer(r, UFFDWP__SNAPSHOT);
}

enum uffdwp__state uffdwp__serve_write(struct uffdwp__server *s, struct uffdwp_region *r,
				       uint64_t page, uint64_t want, uint32_t tid, uint64_t *n)
{
	struct uffdwp_fault f = { .tid = tid, .worker = s->worker };
	enum uffdwp__state was = uffdwp__pages_fault(&r->pages, page);
	uint64_t granule;

	*n = was == UFFDWP__BUSY ? 0 : 1;
	if (likely(was == UFFDWP__ARMED)) {
		*n += uffdwp__pages_claim(&r->pages, page + 1, window(r, page, want) - 1);
		/* The rest first: once the writer goes on, all that its write marks is marked. */
		granule = atomic_load_explicit(&r->granule, memory_order_relaxed);
		if (unlikely(granule > 1) && !reads_absent(r))
			serve_granule(s, r, page, *n, granule);
		uffdwp__deliver(r, page, *n, &f, s->st);
		return was;
	}
	uffdwp__count(s->st, COUNT_DUPLICATES, 1);
	/*
	 * It was delivered and released after this thread had faulted; to release it again does
	 * no harm.
	 */
	if (was == UFFDWP__FREE)
		uffdwp__release(r, page, 1, s->st);
	return was;
}

/* ---- Missing and minor faults ---- */

/*
 * The handle has failed, and with it whoever knew the content: an error at the access rather than
 * wrong data.
 */
__cold static int last_resort(struct uffdwp_region *r, uint64_t addr, enum uffdwp_fault_kind kind)
{
	int err = uffdwp_poison(r, addr, r->page_size, NULL);

	if (err == -EOPNOTSUPP || err == -EINVAL)
		err = kind == UFFDWP_FAULT_MISSING
			      ? uffdwp_zeropage(r, addr, r->page_size, 0, NULL)
			      : uffdwp_continue(r, addr, r->page_size, 0, NULL);
	return err;
}

static int place_default(struct uffdwp_region *r, uint64_t addr, enum uffdwp_fault_kind kind)
{
	if (kind == UFFDWP_FAULT_MISSING)
		return uffdwp_zeropage(r, addr, r->page_size, 0, NULL);
	return uffdwp_continue(r, addr, r->page_size, 0, NULL);
}

static int ask_once(struct uffdwp_region *r, const struct uffdwp__program *p,
		    const struct uffdwp_fault *f)
{
	int (*op)(struct uffdwp_region *, const struct uffdwp_fault *,
		  void *) = f->kind == UFFDWP_FAULT_MISSING ? p->ops.missing : p->ops.minor;

	return op ? op(r, f, p->ctx) : place_default(r, f->addr, f->kind);
}

/*
 * EBUSY comes from who keeps a page for longer than a call waits, as where a disk or a CPU stands still: asked again
 * then, but not for ever, as who keeps it may be waiting for it. Or it comes at once, and means something else.
 */
static int ask(struct uffdwp_region *r, const struct uffdwp__program *p,
	       const struct uffdwp_fault *f)
{
	int err = ask_once(r, p, f);

	for (int again = 0; unlikely(err == -EBUSY) && again < KEPT_TRIES; again++) {
		uint64_t began = uffdwp__sys_now();

		if (atomic_load_explicit(&r->h->stopping, memory_order_relaxed))
			break;
		err = ask_once(r, p, f);
		if (err == -EBUSY && uffdwp__sys_now() - began < UFFDWP__BUSY_NS / 2)
			break;
	}
	return err;
}

int uffdwp__serve_absent(struct uffdwp__server *s, struct uffdwp_region *r, uint64_t page,
			 enum uffdwp_fault_kind kind, bool write, uint32_t tid)
{
	uint64_t addr = uffdwp__addr_of(r, page);
	uintptr_t mem = atomic_load_explicit(&r->mem, memory_order_relaxed);
	struct uffdwp_fault f = { .addr = addr,
				  .offset = page << r->shift,
				  .len = r->page_size,
				  .kind = kind,
				  .mem = mem ? (char *)mem + (page << r->shift) : NULL,
				  .write = write,
				  .tid = tid,
				  .worker = s->worker };
	const struct uffdwp__program *p = uffdwp__program(r);
	int err = -ECANCELED;

	/* From before this region, when there was another one here. */
	if (unlikely(!(r->mode &
		       (kind == UFFDWP_FAULT_MISSING ? UFFDWP_MODE_MISSING : UFFDWP_MODE_MINOR)))) {
		uffdwp__wake(s->h, addr, r->page_size);
		return 0;
	}
	if (likely(!uffdwp__error(r->h))) {
		err = ask(r, p, &f);
		if (err == 0 || err == UFFDWP_LATER)
			return err;
		/* Unmapped or moved meanwhile, or the process ended: nobody's failure. */
		if (!uffdwp__page_is_at(r, page, addr))
			err = -ENOENT;
		if (err != -ENOENT && err != -ESRCH)
			uffdwp__fail(r->h, err < 0 ? err : -EINVAL);
	}
	if (err != -ENOENT && err != -ESRCH)
		err = last_resort(r, addr, kind);
	if (err && err != -ENOENT && err != -ESRCH && err != -EAGAIN)
		uffdwp__give_up(r->h, err);
	if (err)
		uffdwp__wake(s->h, addr, r->page_size);
	return err < 0 ? err : -ECANCELED;
}

/* ---- Faults of nobody ---- */

/*
 * Memory that a mapping grew by, or left behind, stays registered, and belongs to no region. Page
 * sizes: see hugetlb.
 */
__cold static void disown(struct uffdwp *h, uint64_t addr)
{
	uint64_t sizes[] = { uffdwp__sys_page_size(), UINT64_C(2) << 20, UINT64_C(1) << 30 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t start = addr & ~(sizes[i] - 1);

		if (uffdwp__watches(h, start, sizes[i]) ||
		    !uffdwp__sys_unregister(h->fd, start, sizes[i]))
			return;
	}
}

/*
 * A fault in no region. The event that says whose it is may be on its way, so it is sent back
 * first; another process's memory may get its region yet. Else nobody will ever serve it: nobody
 * may stay asleep.
 */
__cold static void stray(struct uffdwp__server *s, const struct fault *f)
{
	struct uffdwp *h = s->h;
	uint64_t page = uffdwp__sys_page_size(), addr = f->addr & ~(page - 1);
	uint32_t before = atomic_fetch_add_explicit(&h->strays, 1, memory_order_relaxed);

	uffdwp__count(s->st, COUNT_STRAYS, 1);
	if (h->source == UFFDWP_SOURCE_ADOPTED ||
	    (h->features & UFFDWP_FEATURE_EVENT_REMAP && before < STRAY_RETRIES)) {
		uffdwp__sys_yield();
	} else {
		if (is_write(f))
			uffdwp__sys_writeprotect(h->fd, addr, page, false);
		else
			disown(h, addr);
	}
	uffdwp__wake(h, addr, page);
}

/* ---- A batch ---- */

static void insert_sorted(struct batch *b, const struct uffd_msg *m)
{
	struct fault f = { .addr = m->arg.pagefault.address,
			   .flags = (uint32_t)m->arg.pagefault.flags,
			   .tid = m->arg.pagefault.feat.ptid };
	unsigned int i = b->n++;

	for (; i && b->f[i - 1].addr > f.addr; i--)
		b->f[i] = b->f[i - 1];
	b->f[i] = f;
}

static void count_kinds(struct uffdwp__stats *st, const struct batch *b)
{
	unsigned int write = 0, minor = 0;

	for (unsigned int i = 0; i < b->n; i++) {
		write += is_write(&b->f[i]);
		minor += !!(b->f[i].flags & UFFD_PAGEFAULT_FLAG_MINOR);
	}
	uffdwp__count(st, COUNT_WRITE, write);
	if (write == b->n)
		return;
	uffdwp__count(st, COUNT_MINOR, minor);
	uffdwp__count(st, COUNT_MISSING, b->n - write - minor);
}

/*
 * The number of neighbouring pages, fault i's among them, on which write faults follow one
 * another.
 */
static uint64_t neighbours(const struct batch *b, unsigned int i, const struct uffdwp_region *r)
{
	uint64_t last = b->f[i].addr >> r->shift, n = 1;

	for (i++; i < b->n && is_write(&b->f[i]); i++) {
		uint64_t page = b->f[i].addr >> r->shift;

		if (page > last + 1)
			break;
		n += page - last;
		last = page;
	}
	return n;
}

/* How many faults from i on are below end. */
static unsigned int covered(const struct batch *b, unsigned int i, uint64_t end)
{
	unsigned int n = 0;

	while (i + n < b->n && b->f[i + n].addr < end && is_write(&b->f[i + n]))
		n++;
	return n;
}

/* Serves fault i, and with it all those that its release covers. Returns their number. */
static unsigned int serve_at(struct uffdwp__server *s, const struct batch *b, unsigned int i)
{
	const struct fault *f = &b->f[i];
	const struct uffdwp__entry *e = uffdwp__lookup(s->h, f->addr);
	uint64_t page, n;
	unsigned int k = 1;

	if (unlikely(!e)) {
		stray(s, f);
		return 1;
	}
	page = (f->addr - e->base) >> e->r->shift;
	if (is_write(f) && e->r->pages.n) {
		uffdwp__serve_write(s, e->r, page, neighbours(b, i, e->r), f->tid, &n);
		if (n > 0)
			k = covered(b, i, min_u64(e->end, e->base + ((page + n) << e->r->shift)));
		uffdwp__count(s->st, COUNT_DUPLICATES, k > n && n ? k - n : 0);
	} else {
		uffdwp__serve_absent(s, e->r, page,
				     f->flags & UFFD_PAGEFAULT_FLAG_MINOR ? UFFDWP_FAULT_MINOR
									  : UFFDWP_FAULT_MISSING,
				     f->flags & UFFD_PAGEFAULT_FLAG_WRITE, f->tid);
	}
	return k;
}

static void serve_faults(struct uffdwp__server *s, const struct batch *b, uint64_t since)
{
	/* Threads of the pool are marked for as long as they live. */
	int slot = s->worker == UFFDWP_NO_WORKER ? uffdwp__serving_begin(s->h) : -1;
	unsigned int phase = uffdwp__enter(s->h), n;

	count_kinds(s->st, b);
	for (unsigned int i = 0; i < b->n; i += n) {
		n = serve_at(s, b, i);
		if (since) {
			s->last_ns = uffdwp__sys_now() - since;
			uffdwp__hist_record(&s->st->latency, s->last_ns, n, s->st->shared);
		}
	}
	s->last_tid = b->f[b->n - 1].tid;
	uffdwp__leave(s->h, phase);
	uffdwp__serving_end(s->h, slot);
}

/*
 * Messages that can not be read are threads that sleep. An error that stays will not end by itself: nothing but a
 * filter gives one.
 */
__cold static int unread(struct uffdwp *h, int err)
{
	if (atomic_fetch_add_explicit(&h->unread, 1, memory_order_relaxed) == UNREAD_MAX)
		uffdwp__give_up(h, err);
	return err;
}

int uffdwp__serve(struct uffdwp__server *s)
{
	struct uffd_msg msg[UFFDWP_BATCH_MAX];
	struct batch b;
	int n = uffdwp__take(s->h, msg, s->h->batch);
	uint64_t since;

	if (unlikely(n < 0))
		return unread(s->h, n);
	if (!n)
		return 0;
	if (unlikely(atomic_load_explicit(&s->h->unread, memory_order_relaxed)))
		atomic_store_explicit(&s->h->unread, 0, memory_order_relaxed);
	uffdwp__prefetch(msg[0].arg.pagefault.address);
	since = uffdwp__sampled(s->st, COUNT_READS, s->h->sample) ? uffdwp__sys_now() : 0;
	uffdwp__count(s->st, COUNT_READS, 1);
	b.n = 0;
	for (int i = 0; i < n; i++) {
		if (likely(msg[i].event == UFFD_EVENT_PAGEFAULT))
			insert_sorted(&b, &msg[i]);
		else
			uffdwp__serve_event(s->h, s->st, &msg[i]);
	}
	if (b.n)
		serve_faults(s, &b, since);
	return n;
}
