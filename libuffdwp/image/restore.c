/* SPDX-License-Identifier: MIT */
/* Beginning, watching and ending a restore. */
#include "restore.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX 256
#define BUFFERS_MIN 4 /* for callers of uffdwp_dispatch(), as many as they may be */
#define BUFFERS_MAX 64

uint64_t uffdwp__now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void uffdwp__restore_error(struct uffdwp_restore *rs, int err)
{
	int none = 0;

	atomic_compare_exchange_strong(&rs->error, &none, err);
}

/* ---- Memory ---- */

/* Not from malloc: most of it is never touched, and it may be what fault operations use. */
static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static size_t bits_size(uint64_t n)
{
	return (size_t)((n + 63) / 64 * 8);
}

static int map_buffers(struct uffdwp_restore *rs, unsigned int threads)
{
	rs->nbuffers = threads > BUFFERS_MIN ? threads : BUFFERS_MIN;
	rs->nbuffers = rs->nbuffers > BUFFERS_MAX ? BUFFERS_MAX : rs->nbuffers;
	rs->buffer_size = rs->unit_max > UFFDWP__WINDOW_MAX ? rs->unit_max : UFFDWP__WINDOW_MAX;
	rs->map_size = rs->nbuffers * rs->buffer_size + UFFDWP__HUGE;
	rs->map = map(rs->map_size);
	if (!rs->map)
		return -ENOMEM;
	/* Whole huge pages can be moved from aligned ones alone. */
	rs->buffers = rs->map + (-(uintptr_t)rs->map & (UFFDWP__HUGE - 1));
	if (rs->unit_max >= UFFDWP__HUGE)
		(void)madvise(rs->buffers, rs->nbuffers * rs->buffer_size, MADV_HUGEPAGE);
	atomic_init(&rs->buffers_free, UINT64_MAX >> (64 - rs->nbuffers));
	sem_init(&rs->buffers_sem, 0, rs->nbuffers);
	return 0;
}

static int map_target(struct uffdwp__target *t)
{
	t->claimed = map(bits_size(t->units));
	t->placed = map(bits_size(t->units));
	t->poisoned = map(bits_size(t->units)); /* costs nothing as long as nothing is damaged */
	return t->claimed && t->placed && t->poisoned ? 0 : -ENOMEM;
}

static void unmap_all(struct uffdwp_restore *rs)
{
	for (uint32_t i = 0; rs->targets && i < rs->img->meta.nregions; i++) {
		struct uffdwp__target *t = &rs->targets[i];

		if (t->claimed)
			munmap((void *)t->claimed, bits_size(t->units));
		if (t->placed)
			munmap((void *)t->placed, bits_size(t->units));
		if (t->poisoned)
			munmap((void *)t->poisoned, bits_size(t->units));
	}
	if (rs->asked)
		munmap(rs->asked, rs->asked_max * sizeof(*rs->asked));
	if (rs->map) {
		munmap(rs->map, rs->map_size);
		sem_destroy(&rs->buffers_sem);
	}
	free(rs->targets);
	free(rs->order);
	/* In a forked child they may look as if somebody waited. */
	if (rs->owner == getpid()) {
		pthread_cond_destroy(&rs->cond);
		pthread_mutex_destroy(&rs->lock);
	}
	free(rs);
}

/* ---- Beginning ---- */

static int check_order(const struct uffdwp_restore_opts *o, struct uffdwp__why *why)
{
	const struct uffdwp__meta *m = &o->image->meta;

	for (size_t i = 0; i < o->norder; i++) {
		const struct uffdwp_restore_range *r = &o->order[i];

		if (r->region >= m->nregions || !r->len || r->offset > m->regions[r->region].len ||
		    r->len > m->regions[r->region].len - r->offset)
			REFUSE(why, -EINVAL,
			       "order[%zu]: region %u, offset %llu, length %llu: must be in the image",
			       i, r->region, (unsigned long long)r->offset,
			       (unsigned long long)r->len);
	}
	return 0;
}

static int check_opts(const struct uffdwp_restore_opts *o, struct uffdwp__why *why)
{
	const struct uffdwp__meta *m;

	if (!o->image)
		REFUSE(why, -EINVAL, "image: must be an open one");
	if (!o->handle && !o->eager)
		REFUSE(why, -EINVAL, "handle: must be one, but for eager 1");
	if (o->eager > 1 || o->protect > 1 || o->prefetch > 1 || o->buffered > 1)
		REFUSE(why, -EINVAL,
		       "eager %u, protect %u, prefetch %u, buffered %u: must be 0 or 1", o->eager,
		       o->protect, o->prefetch, o->buffered);
	if (o->eager && (o->handle || o->protect || o->norder || o->rate))
		REFUSE(why, -EINVAL, "eager 1: can not take a handle, protect, order or rate");
	if (o->depth > DEPTH_MAX)
		REFUSE(why, -EINVAL, "depth %u: must be at most %d", o->depth, DEPTH_MAX);
	if (o->norder && !o->order)
		REFUSE(why, -EINVAL, "norder %zu: needs order", o->norder);
	m = &o->image->meta;
	if (m->machine != uffdwp__machine() || m->page_size != (uint32_t)sysconf(_SC_PAGESIZE))
		REFUSE(why, -EOPNOTSUPP,
		       "image: of machine %u with pages of %u bytes: must be of this machine",
		       m->machine, m->page_size);
	return check_order(o, why);
}

static void init_targets(struct uffdwp_restore *rs)
{
	const struct uffdwp__meta *m = &rs->img->meta;

	rs->unit_max = m->page_size;
	for (uint32_t i = 0; i < m->nregions; i++) {
		struct uffdwp__target *t = &rs->targets[i];
		uint64_t unit = rs->o.eager ? m->page_size : m->regions[i].page_size;

		t->rs = rs;
		t->index = i;
		atomic_init(&t->base, rs->o.addrs ? rs->o.addrs[i] : m->regions[i].addr);
		atomic_init(&t->told, atomic_load(&t->base));
		t->shift = (unsigned int)__builtin_ctzll(unit);
		t->units = m->regions[i].len >> t->shift;
		t->unit_pages = unit / m->page_size;
		rs->asked_max += t->units;
		rs->unit_max = unit > rs->unit_max ? unit : rs->unit_max;
		rs->size += m->regions[i].data;
	}
}

static int allocate(struct uffdwp_restore *rs, const struct uffdwp_info *info)
{
	int err = map_buffers(rs, info->threads);

	for (uint32_t i = 0; !err && i < rs->img->meta.nregions; i++)
		err = map_target(&rs->targets[i]);
	if (err)
		return err;
	rs->asked = map(rs->asked_max * sizeof(*rs->asked));
	return rs->asked ? 0 : -ENOMEM;
}

static int add_region(struct uffdwp__target *t, const struct uffdwp_info *info,
		      struct uffdwp__why *why)
{
	struct uffdwp_restore *rs = t->rs;
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.addr = atomic_load(&t->base),
					.len = t->units << t->shift,
					.page_size = UINT64_C(1) << t->shift,
					.mode = UFFDWP_MODE_MISSING |
						(rs->o.protect ? UFFDWP_MODE_WP : 0),
					.ops = &uffdwp__restore_ops,
					.ctx = t };
	struct uffdwp_region *r;
	char text[200] = "";
	int err;

	/* Of huge pages on hugetlb memory the first try fails, and takes this back. */
	atomic_init(&t->moves, rs->local && !rs->o.protect && t->shift >= 21 &&
				       info->features & UFFDWP_FEATURE_MOVE);
	o.reason = text;
	o.reason_size = sizeof(text);
	err = uffdwp_region_add(rs->h, &o, &r);
	if (err)
		REFUSE(why, err, "region %u: %s", t->index, text);
	/* A fault may have been faster, and told by itself. */
	atomic_store(&t->r, r);
	rs->ntargets++;
	return 0;
}

static void *fill_main(void *arg)
{
	struct uffdwp_restore *rs = arg;
	int err = uffdwp__restore_fill(rs);

	if (err)
		uffdwp__restore_error(rs, err);
	pthread_mutex_lock(&rs->lock);
	rs->filling = false;
	rs->filled = rs->filled && !err && !atomic_load(&rs->stop);
	pthread_cond_broadcast(&rs->cond);
	pthread_mutex_unlock(&rs->lock);
	return NULL;
}

/* No signal of the program's may be handled in it. */
static int start_thread(struct uffdwp_restore *rs)
{
	sigset_t all, was;
	int err;

	sigfillset(&all);
	rs->filling = rs->filled = true;
	pthread_sigmask(SIG_SETMASK, &all, &was);
	err = pthread_create(&rs->thread, NULL, fill_main, rs);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	rs->has_thread = !err;
	return -err;
}

static int get_info(struct uffdwp_restore *rs, struct uffdwp_info *info, struct uffdwp__why *why)
{
	int err = uffdwp_info(rs->h, info);

	if (err)
		return err;
	if (info->serve == UFFDWP_SERVE_SIGBUS)
		REFUSE(why, -EOPNOTSUPP,
		       "handle: can not be served by SIGBUS: reading takes locks");
	rs->local = info->source != UFFDWP_SOURCE_ADOPTED;
	return 0;
}

/* Regions that were added go first, so that nobody is in their operations. */
static int remove_regions(struct uffdwp_restore *rs)
{
	int err = 0;

	for (uint32_t i = 0; i < rs->ntargets; i++) {
		struct uffdwp_region *r = rs->targets[i].r;
		int e = uffdwp_region_remove(r);

		/* A tracker or a snapshot is on it: it stays, but not with our operations. */
		if (e == -EBUSY)
			uffdwp_region_set_ops(r, NULL, NULL);
		err = err ? err : e;
	}
	return err;
}

static int start_lazy(struct uffdwp_restore *rs, struct uffdwp__why *why)
{
	struct uffdwp_info info = { .sz = sizeof(info) };
	int err = get_info(rs, &info, why);

	if (!err)
		err = allocate(rs, &info);
	for (uint32_t i = 0; !err && i < rs->img->meta.nregions; i++)
		err = add_region(&rs->targets[i], &info, why);
	/* An image of zeros is there already. */
	if (!err && !rs->size)
		atomic_store(&rs->done_ns, 1);
	if (!err && !rs->o.prefetch)
		err = start_thread(rs);
	if (err)
		remove_regions(rs);
	return err;
}

static int start_eager(struct uffdwp_restore *rs)
{
	int err = uffdwp__restore_eager(rs);

	atomic_store(&rs->done_ns, uffdwp__now_ns() - rs->began_ns);
	return err;
}

static void init_cond(struct uffdwp_restore *rs)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&rs->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&rs->cond, &attr);
	pthread_condattr_destroy(&attr);
}

static struct uffdwp_restore *restore_new(const struct uffdwp_restore_opts *o)
{
	struct uffdwp_restore *rs = calloc(1, sizeof(*rs));

	if (!rs)
		return NULL;
	init_cond(rs);
	rs->began_ns = uffdwp__now_ns();
	rs->owner = getpid();
	rs->o = *o;
	rs->img = o->image;
	rs->h = o->handle;
	rs->flags = o->protect ? UFFDWP_COPY_WP : 0;
	rs->targets = calloc(rs->img->meta.nregions, sizeof(*rs->targets));
	rs->order = calloc(o->norder + 1, sizeof(*rs->order));
	if (!rs->targets || !rs->order) {
		unmap_all(rs);
		return NULL;
	}
	if (o->norder)
		memcpy(rs->order, o->order, o->norder * sizeof(*rs->order));
	init_targets(rs);
	return rs;
}

UFFDWP_PUBLIC int uffdwp_restore_start(struct uffdwp_restore **out,
				       const struct uffdwp_restore_opts *opts)
{
	struct uffdwp_restore_opts o;
	struct uffdwp_restore *rs;
	struct uffdwp__why why;
	int err;

	if (!out)
		return -EINVAL;
	*out = NULL;
	err = uffdwp__image_opts(&o, sizeof(o), opts,
				 SIZE_UP_TO(struct uffdwp_restore_opts, reason_size));
	why = (struct uffdwp__why){ o.reason, o.reason_size };
	if (!err)
		err = check_opts(&o, &why);
	if (err)
		return err;
	rs = restore_new(&o);
	if (!rs)
		return -ENOMEM;
	err = o.eager ? start_eager(rs) : start_lazy(rs, &why);
	rs->start_ns = uffdwp__now_ns() - rs->began_ns;
	if (err)
		unmap_all(rs);
	else
		*out = rs;
	return err;
}

/* ---- Watching ---- */

UFFDWP_PUBLIC struct uffdwp_region *uffdwp_restore_region(struct uffdwp_restore *rs,
							  uint32_t region)
{
	return rs && region < rs->ntargets ? rs->targets[region].r : NULL;
}

UFFDWP_PUBLIC int uffdwp_restore_stats(struct uffdwp_restore *rs, struct uffdwp_restore_stats *st)
{
	struct uffdwp_restore_stats s;

	if (!rs)
		return -EINVAL;
	s = (struct uffdwp_restore_stats){ .error = atomic_load(&rs->error),
					   .done = atomic_load(&rs->done_ns) != 0,
					   .size = uffdwp__restore_size(rs),
					   .bytes = atomic_load(&rs->bytes),
					   .by_fault = atomic_load(&rs->by_fault),
					   .by_prefetch = atomic_load(&rs->by_prefetch),
					   .faults = atomic_load(&rs->faults),
					   .damaged = atomic_load(&rs->damaged),
					   .start_ns = rs->start_ns,
					   .done_ns = atomic_load(&rs->done_ns) };
	return uffdwp__image_result(st, &s, sizeof(s),
				    SIZE_UP_TO(struct uffdwp_restore_stats, done_ns));
}

/* Runs the fill here if nobody does and nobody has. Under the lock, which it drops meanwhile. */
static int fill_here_locked(struct uffdwp_restore *rs)
{
	int err;

	rs->filling = rs->filled = true;
	pthread_mutex_unlock(&rs->lock);
	err = uffdwp__restore_fill(rs);
	pthread_mutex_lock(&rs->lock);
	rs->filling = false;
	rs->filled = rs->filled && !err && !atomic_load(&rs->stop);
	pthread_cond_broadcast(&rs->cond);
	return err;
}

/* Until all is there, or nothing can be done for it. */
static int wait_all(struct uffdwp_restore *rs)
{
	int err = 0;

	pthread_mutex_lock(&rs->lock);
	while (!err && !atomic_load(&rs->done_ns)) {
		if (rs->filling || rs->filled)
			pthread_cond_wait(&rs->cond, &rs->lock);
		else if (atomic_load(&rs->stop))
			err = -ECANCELED;
		else
			err = fill_here_locked(rs);
		/* What was given back waits for an event, and this may be the thread that serves. */
		if (!err && !rs->filling && !rs->filled && uffdwp_fd(rs->h) >= 0) {
			pthread_mutex_unlock(&rs->lock);
			uffdwp_dispatch(rs->h);
			pthread_mutex_lock(&rs->lock);
		}
	}
	pthread_mutex_unlock(&rs->lock);
	if (err)
		uffdwp__restore_error(rs, err);
	return atomic_load(&rs->error);
}

UFFDWP_PUBLIC int uffdwp_restore_wait(struct uffdwp_restore *rs, struct uffdwp_restore_stats *st)
{
	int err, bad = 0;

	if (!rs)
		return -EINVAL;
	if (rs->owner != getpid())
		return -ECHILD;
	err = wait_all(rs);
	if (st)
		bad = uffdwp_restore_stats(rs, st);
	return bad ? bad : err;
}

static bool adjacent(const struct uffdwp_restore_range *last, const struct uffdwp_restore_range *r)
{
	return last->region == r->region && last->offset + last->len == r->offset;
}

UFFDWP_PUBLIC int64_t uffdwp_restore_order(struct uffdwp_restore *rs,
					   struct uffdwp_restore_range *ranges, size_t n)
{
	struct uffdwp_restore_range last = { 0 };
	uint64_t asked;
	int64_t have = 0;

	if (!rs || (n && !ranges))
		return -EINVAL;
	asked = min_u64(atomic_load(&rs->nasked), rs->asked_max);
	for (uint64_t i = 0; i < asked; i++) {
		const struct uffdwp__asked *a = &rs->asked[i];
		uint32_t units = atomic_load_explicit(&a->n, memory_order_acquire);
		struct uffdwp_restore_range r = { .region = a->region };

		if (!units)
			break;
		r.offset = a->unit << rs->targets[a->region].shift;
		r.len = (uint64_t)units << rs->targets[a->region].shift;
		if (have && adjacent(&last, &r)) {
			last.len += r.len;
		} else {
			last = r;
			have++;
		}
		if ((uint64_t)have <= n)
			ranges[have - 1] = last;
	}
	return have;
}

/* ---- The end ---- */

static void stop_thread(struct uffdwp_restore *rs, bool abandon)
{
	if (abandon)
		atomic_store(&rs->stop, true);
	atomic_store(&rs->hurry, true);
	pthread_mutex_lock(&rs->lock);
	pthread_cond_broadcast(&rs->cond);
	pthread_mutex_unlock(&rs->lock);
	if (rs->has_thread)
		pthread_join(rs->thread, NULL);
	rs->has_thread = false;
}

/*
 * The bulk reading has failed, for want of memory perhaps. One unit after another needs none; what
 * can not be placed all the same is asked for in vain later, but never read wrong.
 */
__attribute__((cold)) static int rescue(struct uffdwp__target *t)
{
	const struct uffdwp__placer by = { .fault = false };
	int err = 0;

	for (uint64_t i = 0; i < t->units; i++) {
		char *buf;

		if (!uffdwp__unit_data(t, i) || uffdwp__claim(t, i) != UFFDWP__CLAIM_MINE)
			continue;
		buf = uffdwp__buffer_get(t->rs);
		err = uffdwp__fetch(t, &by, i, 1, buf);
		uffdwp__buffer_put(t->rs, buf);
		if (err && err != -ENOENT)
			return err;
	}
	return 0;
}

static int keep_regions(struct uffdwp_restore *rs)
{
	int err = 0;

	for (uint32_t i = 0; i < rs->ntargets; i++) {
		struct uffdwp__target *t = &rs->targets[i];
		bool lost = !atomic_load(&rs->done_ns) && rescue(t);
		int e = uffdwp_region_set_ops(t->r, lost ? &uffdwp__lost_ops : NULL, NULL);

		err = err ? err : e;
	}
	return err;
}

/* In an operation nothing can be waited for; the region itself tells whether this is one. */
static int check_caller(struct uffdwp_restore *rs)
{
	if (!rs->ntargets)
		return 0;
	return uffdwp_region_set_ops(rs->targets[0].r, &uffdwp__restore_ops, &rs->targets[0]);
}

UFFDWP_PUBLIC int uffdwp_restore_free(struct uffdwp_restore *rs, uint32_t how)
{
	int err = 0, end;

	if (!rs)
		return 0;
	if (how > UFFDWP_RESTORE_ABANDON)
		return -EINVAL;
	if (rs->owner != getpid() || rs->o.eager) {
		unmap_all(rs);
		return 0;
	}
	if (check_caller(rs) == -EDEADLK)
		return -EDEADLK;
	stop_thread(rs, how == UFFDWP_RESTORE_ABANDON);
	if (how != UFFDWP_RESTORE_ABANDON)
		err = wait_all(rs);
	/* Keeping is the first step of removing too: what was not there is then. */
	end = how == UFFDWP_RESTORE_ABANDON ? 0 : keep_regions(rs);
	if (how != UFFDWP_RESTORE_KEEP)
		end = remove_regions(rs);
	err = err ? err : end;
	unmap_all(rs);
	return err;
}
