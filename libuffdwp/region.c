/* SPDX-License-Identifier: MIT */
/* Regions: adding, removing and asking them. */
#include "region.h"

#include <errno.h>
#include <string.h>

#include "call.h"
#include "piece.h"
#include "sys.h"
#include "util.h"

/* ---- Making a region ---- */

__cold static int ops_of(struct uffdwp_ops *to, const struct uffdwp_ops *from)
{
	return uffdwp__opts(to, sizeof(*to), from, sizeof(*to));
}

__cold struct uffdwp_region *
uffdwp__region_new(struct uffdwp *h, const struct uffdwp_region_opts *o, uint64_t kernel_page)
{
	bool states = o->mode & UFFDWP_MODE_WP && !(h->features & UFFDWP_FEATURE_WP_ASYNC);
	uint64_t n = states ? o->len / o->page_size : 0;
	size_t size = sizeof(struct uffdwp_region) + uffdwp__pages_bytes(n);
	struct uffdwp_region *r = uffdwp__sys_alloc(size);

	if (!r)
		return NULL;
	r->h = h;
	r->base = o->addr;
	r->len = o->len;
	r->mem = o->mem				      ? (uintptr_t)o->mem
		 : h->source == UFFDWP_SOURCE_ADOPTED ? 0
						      : (uintptr_t)o->addr;
	r->mem_is_addr = r->mem == o->addr && h->source != UFFDWP_SOURCE_ADOPTED;
	r->size = o->len;
	r->page_size = o->page_size;
	r->kernel_page = kernel_page;
	r->shift = (unsigned int)__builtin_ctzll(o->page_size);
	r->mode = o->mode;
	r->run = r->own_run = o->run ? o->run : 1;
	r->granule = 1;
	r->program = &r->programs[0];
	r->programs[0].ctx = o->ctx;
	for (int i = 0; i < UFFDWP__STRIPES; i++)
		pthread_mutex_init(&r->stripe[i], NULL);
	r->pages.n = n;
	r->pages.w = (_Atomic uint64_t *)(r + 1);
	r->alloc_size = size;
	uffdwp__pages_fill(&r->pages, o->armed ? UFFDWP__ARMED : UFFDWP__FREE);
	if (ops_of(&r->programs[0].ops, o->ops))
		goto fail;
	if (o->mode & UFFDWP_MODE_MISSING) {
		r->zeros_size = kernel_page;
		r->zeros = uffdwp__sys_alloc_zeros(kernel_page);
		if (!r->zeros)
			goto fail;
	}
	return r;
fail:
	uffdwp__sys_free(r, size);
	return NULL;
}

__cold void uffdwp__region_free(struct uffdwp_region *r)
{
	uffdwp__sys_free(r->zeros, r->zeros_size);
	uffdwp__sys_free(r, r->alloc_size);
}

__cold void uffdwp__region_link(struct uffdwp *h, struct uffdwp_region *r)
{
	r->next = h->regions;
	h->regions = r;
	atomic_fetch_add_explicit(&h->nregions, 1, memory_order_relaxed);
	uffdwp__table_insert(h, r);
}

/* ---- Adding ---- */

__cold static int check_range(const struct uffdwp_region_opts *o)
{
	uint64_t base = uffdwp__sys_page_size(), ps = o->page_size;

	if (!is_pow2(ps) || ps < base)
		FAIL(-EINVAL, "page_size %llu: must be a power of two and at least %llu",
		     (unsigned long long)ps, (unsigned long long)base);
	if (o->addr % ps)
		FAIL(-EINVAL, "addr 0x%llx: must be a multiple of page_size %llu",
		     (unsigned long long)o->addr, (unsigned long long)ps);
	if (!o->len || o->len % ps)
		FAIL(-EINVAL, "len %llu: must be a positive multiple of page_size %llu",
		     (unsigned long long)o->len, (unsigned long long)ps);
	if (o->addr + o->len < o->addr)
		FAIL(-EINVAL, "addr 0x%llx + len %llu: beyond the address space",
		     (unsigned long long)o->addr, (unsigned long long)o->len);
	return 0;
}

__cold static int check_opts(const struct uffdwp *h, const struct uffdwp_region_opts *o)
{
	uint32_t modes = UFFDWP_MODE_MISSING | UFFDWP_MODE_WP | UFFDWP_MODE_MINOR;
	struct uffdwp_ops ops;
	int err;

	if (!o->mode || o->mode & ~modes)
		FAIL(-EINVAL, "mode 0x%x: must be one or more of UFFDWP_MODE_MISSING, _WP, _MINOR",
		     o->mode);
	if (o->run > UFFDWP_RUN_MAX)
		FAIL(-EINVAL, "run %u: must be at most %u", o->run, UFFDWP_RUN_MAX);
	if (o->armed > 1)
		FAIL(-EINVAL, "armed %u: must be 0 or 1", o->armed);
	err = ops_of(&ops, o->ops);
	if (err)
		FAIL(err, "ops->sz: must be sizeof(struct uffdwp_ops), %zu", sizeof(ops));
	if (h->serve == UFFDWP_SERVE_SIGBUS && o->mode & UFFDWP_MODE_MINOR &&
	    o->mode & UFFDWP_MODE_MISSING)
		FAIL(-EOPNOTSUPP,
		     "mode 0x%x: SIGBUS does not tell MISSING from MINOR; take one of them",
		     o->mode);
	return check_range(o);
}

/*
 * Whether it matters that memory is anonymous; finding out may read /proc, in a time that grows with
 * the number of mappings. A kernel that can not protect other memory refuses it when it is registered.
 */
__cold static bool needs_kind(const struct uffdwp *h, uint32_t mode)
{
	uint64_t markers = UFFDWP_FEATURE_WP_UNPOPULATED | UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM;

	if (h->source == UFFDWP_SOURCE_ADOPTED || !(mode & UFFDWP_MODE_WP))
		return false;
	return (h->features & markers) != markers && h->kernel & UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM;
}

#define WP_OF_FILES "mode WP on shared or hugetlb memory: needs WP_HUGETLBFS_SHMEM (Linux 5.19)"

__cold static int find_kind(struct uffdwp_region *r, const struct uffdwp_region_opts *o)
{
	uint64_t features = r->h->features;
	int anonymous = 1;

	if (needs_kind(r->h, r->mode)) {
		anonymous = -EBADF;
		if (r->h->scout >= 0)
			anonymous = uffdwp__sys_takes_no_minor(r->h->scout, o->addr, o->len);
		if (anonymous < 0)
			anonymous = uffdwp__sys_is_anonymous(o->addr);
	}
	if (anonymous == -ENOENT)
		FAIL(-EINVAL, "addr 0x%llx: nothing is mapped there", (unsigned long long)o->addr);
	if (anonymous < 0)
		FAIL(anonymous, "/proc/self/maps: can not be read: %s", strerror(-anonymous));
	if (!anonymous && !(features & UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM))
		FAIL(-EOPNOTSUPP, WP_OF_FILES);
	/* With missing faults pages are protected as they come. */
	r->populate = anonymous &&
		      !(features & (UFFDWP_FEATURE_WP_UNPOPULATED | UFFDWP_FEATURE_WP_ASYNC)) &&
		      r->mode == UFFDWP_MODE_WP && r->h->source != UFFDWP_SOURCE_ADOPTED;
	return 0;
}

__cold static const char *register_hint(int err)
{
	switch (err) {
	case -EBUSY:
		return "another userfaultfd has it, or it was registered for write protection before";
	case -EPERM:
		return "shared memory must be writable to be registered";
	case -ENOMEM:
		return "nothing is mapped there, or memory is short";
	case -EINVAL:
		return "nothing is mapped there, or it is not anonymous, shmem or hugetlb memory, or hugetlb "
		       "memory not aligned to its page, or the kernel lacks the mode for it";
	default:
		return "UFFDIO_REGISTER failed";
	}
}

__cold static int register_region(struct uffdwp_region *r, const struct uffdwp_region_opts *o)
{
	uint64_t ioctls, need = r->mode & UFFDWP_MODE_WP ? UINT64_C(1) << _UFFDIO_WRITEPROTECT : 0;
	bool hugetlb;
	int err = uffdwp__sys_register(r->h->fd, o->addr, o->len, r->mode, &ioctls);

	if (err == -EINVAL && r->mode & UFFDWP_MODE_WP && r->h->kernel &&
	    !(r->h->kernel & UFFDWP_FEATURE_WP_HUGETLBFS_SHMEM) &&
	    !uffdwp__sys_is_anonymous(o->addr))
		FAIL(-EOPNOTSUPP, WP_OF_FILES);
	if (err)
		FAIL(err, "addr 0x%llx len %llu mode 0x%x: %s", (unsigned long long)o->addr,
		     (unsigned long long)o->len, o->mode, register_hint(err));
	if (r->mode & UFFDWP_MODE_MINOR)
		need |= UINT64_C(1) << 7; /* CONTINUE */
	/* Of all the kinds, hugetlb memory alone has no ZEROPAGE. */
	hugetlb = !(ioctls & UINT64_C(1) << _UFFDIO_ZEROPAGE);
	if ((ioctls & need) == need && (!hugetlb || r->page_size > uffdwp__sys_page_size())) {
		r->kernel_page = hugetlb ? r->page_size : uffdwp__sys_page_size();
		return 0;
	}
	uffdwp__sys_unregister(r->h->fd, o->addr, o->len);
	if (hugetlb && (ioctls & need) == need)
		FAIL(-EINVAL, "page_size %llu: hugetlb memory needs the size of its huge pages",
		     (unsigned long long)o->page_size);
	FAIL(-EOPNOTSUPP, "mode 0x%x: the kernel does not have it for this memory", o->mode);
}

__cold static int add_locked(struct uffdwp *h, struct uffdwp_region *r,
			     const struct uffdwp_region_opts *o)
{
	const struct uffdwp__table *t = atomic_load_explicit(&h->table, memory_order_relaxed);
	int err;

	if (uffdwp__watches(h, o->addr, o->len))
		FAIL(-EEXIST, "addr 0x%llx len %llu: overlaps a region of this handle",
		     (unsigned long long)o->addr, (unsigned long long)o->len);
	err = uffdwp__table_reserve(h, t->n + 1);
	if (!err)
		err = register_region(r, o);
	if (!err)
		uffdwp__region_link(h, r);
	return err;
}

/* The caller's memory is not touched under the lock: it may be protected. */
__cold static int add(struct uffdwp *h, struct uffdwp_region *r, const struct uffdwp_region_opts *o)
{
	struct uffdwp_region_opts copy = *o;
	char why[256] = "";
	int err;

	copy.reason = why;
	copy.reason_size = sizeof(why);
	r->born = uffdwp__events_now(h);
	pthread_mutex_lock(&h->lock);
	err = add_locked(h, r, &copy);
	pthread_mutex_unlock(&h->lock);
	if (err)
		uffdwp__reason(o->reason, o->reason_size, "%s", *why ? why : "out of memory");
	return err;
}

UFFDWP_PUBLIC __cold int uffdwp_region_add(struct uffdwp *h, const struct uffdwp_region_opts *opts,
					   struct uffdwp_region **out)
{
	struct uffdwp_region_opts copy, *o = &copy;
	struct uffdwp_region *r;
	int err = uffdwp__check(h);

	if (out)
		*out = NULL;
	if (err || !out || !opts)
		return err ? err : -EINVAL;
	err = uffdwp__opts(o, sizeof(*o), opts, offsetof(struct uffdwp_region_opts, reason));
	if (err)
		return err;
	if (uffdwp__serving(h))
		FAIL(-EDEADLK, "called from a fault operation");
	if (atomic_load_explicit(&h->given_up, memory_order_relaxed))
		FAIL(-ECANCELED, "the handle has failed");
	if (!o->page_size)
		o->page_size = uffdwp__sys_page_size();
	err = check_opts(h, o);
	if (err)
		return err;
	r = uffdwp__region_new(h, o, o->page_size);
	if (!r)
		FAIL(-ENOMEM, "out of memory");
	err = find_kind(r, o);
	if (!err)
		err = add(h, r, o);
	if (err)
		uffdwp__region_free(r);
	else
		*out = r;
	return err;
}

/* ---- Removing ---- */

/*
 * Waits for operations that still read their pages, but not for pages held by UFFDWP_LATER;
 * nothing is delivered after.
 */
__cold static void quiesce(struct uffdwp_region *r, uint64_t limit)
{
	uint64_t end = r->base + r->size;

	for (uint64_t addr = r->base; r->pages.n && addr < end;) {
		struct uffdwp__piece p;

		if (uffdwp__piece_lock(&p, r, addr, end - addr, limit))
			return;
		uffdwp__piece_unlock(&p, 0, p.n, UFFDWP__FREE);
		addr += p.len;
	}
}

/*
 * While the region can still be found, so that no fault, or late SIGBUS, ever finds it registered and nobody's. Part by
 * part: what another region was moved onto is not its own any more.
 */
__cold static void detach(struct uffdwp_region *r, uint64_t limit)
{
	const struct uffdwp__table *t = atomic_load_explicit(&r->h->table, memory_order_relaxed);

	quiesce(r, limit);
	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].r == r)
			uffdwp__let_go(r, t->e[i].start, t->e[i].end - t->e[i].start);
}

/* Under the lock. */
__cold static void unlink_region(struct uffdwp *h, const struct uffdwp_region *r)
{
	struct uffdwp_region **p = &h->regions;

	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
	atomic_fetch_sub_explicit(&h->nregions, 1, memory_order_relaxed);
}

UFFDWP_PUBLIC __cold int uffdwp_region_remove(struct uffdwp_region *r)
{
	struct uffdwp *h;
	int err;

	if (!r)
		return -EINVAL;
	h = r->h;
	err = uffdwp__check(h);
	if (err)
		return err;
	if (uffdwp__serving(h))
		return -EDEADLK;
	pthread_mutex_lock(&h->lock);
	if (uffdwp__layered(r)) {
		pthread_mutex_unlock(&h->lock);
		return -EBUSY;
	}
	if (!atomic_load_explicit(&r->gone, memory_order_relaxed)) {
		detach(r, UFFDWP__BUSY_NS);
		uffdwp__table_remove(h, r);
	} else {
		uffdwp__readers_wait(&h->readers);
	}
	unlink_region(h, r);
	pthread_mutex_unlock(&h->lock);
	uffdwp__region_free(r);
	return 0;
}

/* What is held by UFFDWP_LATER stays so, as nobody serves any more: it is not waited for once for each region. */
__cold void uffdwp__regions_detach(struct uffdwp *h)
{
	uint64_t until = uffdwp__sys_now() + UFFDWP__BUSY_NS, now;

	for (struct uffdwp_region *r = h->regions; r; r = r->next) {
		now = uffdwp__sys_now();
		if (!atomic_load_explicit(&r->gone, memory_order_relaxed))
			detach(r, until > now ? until - now : 0);
	}
}

__cold void uffdwp__regions_free(struct uffdwp *h)
{
	while (h->regions) {
		struct uffdwp_region *r = h->regions;

		h->regions = r->next;
		uffdwp__region_free(r);
	}
	uffdwp__sys_free(atomic_load_explicit(&h->table, memory_order_relaxed), h->table_size);
	uffdwp__sys_free(h->spare, h->table_size);
}

/* ---- Other operations ---- */

UFFDWP_PUBLIC __cold int uffdwp_region_set_ops(struct uffdwp_region *r,
					       const struct uffdwp_ops *ops, void *ctx)
{
	struct uffdwp__program *p;
	struct uffdwp_ops copy;
	int err = r ? uffdwp__check(r->h) : -EINVAL;

	if (!err)
		err = ops_of(&copy, ops);
	if (err)
		return err;
	if (uffdwp__serving(r->h))
		return -EDEADLK;
	pthread_mutex_lock(&r->h->lock);
	if (copy.write && uffdwp__layered(r)) {
		err = -EBUSY;
	} else {
		p = &r->programs[uffdwp__program(r) == &r->programs[0]];
		p->ops = copy;
		p->ctx = ctx;
		/* Pairs with uffdwp__program(). */
		atomic_store_explicit(&r->program, p, memory_order_seq_cst);
		uffdwp__readers_wait(&r->h->readers);
	}
	pthread_mutex_unlock(&r->h->lock);
	return err;
}

/* ---- Asking ---- */

UFFDWP_PUBLIC struct uffdwp_region *uffdwp_region_find(struct uffdwp *h, uint64_t addr)
{
	const struct uffdwp__entry *e;
	struct uffdwp_region *r;
	unsigned int phase;

	if (uffdwp__check(h))
		return NULL;
	phase = uffdwp__enter(h);
	e = uffdwp__lookup(h, addr);
	r = e ? e->r : NULL;
	uffdwp__leave(h, phase);
	return r;
}

UFFDWP_PUBLIC uint64_t uffdwp_region_addr(const struct uffdwp_region *r)
{
	return r ? uffdwp__start_of(r) : 0;
}

UFFDWP_PUBLIC uint64_t uffdwp_region_len(const struct uffdwp_region *r)
{
	if (!r || atomic_load_explicit(&r->gone, memory_order_relaxed))
		return 0;
	return atomic_load_explicit(&r->len, memory_order_relaxed);
}

UFFDWP_PUBLIC uint64_t uffdwp_region_page_size(const struct uffdwp_region *r)
{
	return r ? r->page_size : 0;
}

UFFDWP_PUBLIC void *uffdwp_region_ctx(const struct uffdwp_region *r)
{
	return r ? uffdwp__program(r)->ctx : NULL;
}

UFFDWP_PUBLIC struct uffdwp *uffdwp_region_handle(const struct uffdwp_region *r)
{
	return r ? r->h : NULL;
}
