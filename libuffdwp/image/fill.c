/* SPDX-License-Identifier: MIT */
/* Bulk reading: a set of buffers, each with a read in flight or waiting for one. */
#include "fill.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "queue.h"

#define GAP 16 /* pages of zeros that are read rather than begun after */
#define HUGE (UINT64_C(2) << 20)

struct slot {
	struct uffdwp__io io; /* first: the queue gives it back */
	struct uffdwp__run run;
	char *buf;
	struct slot *next;
};

struct state {
	const struct uffdwp__fill *f;
	struct uffdwp__queue queue;
	struct slot *slots, *spare;
	unsigned int inflight;
	char *map, *buffers;
	size_t map_size;
};

/* Huge pages need room to be aligned in. */
static int map_buffers(struct state *s)
{
	size_t size = s->f->depth * s->f->chunk;

	if (s->f->to)
		return 0;
	s->map_size = size + (s->f->huge ? HUGE : 0);
	s->map = mmap(NULL, s->map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (s->map == MAP_FAILED) {
		s->map = NULL;
		return -ENOMEM;
	}
	s->buffers = s->map;
	if (s->f->huge) {
		s->buffers += -(uintptr_t)s->map & (HUGE - 1);
		(void)madvise(s->buffers, size, MADV_HUGEPAGE);
	}
	return 0;
}

static int start(struct state *s)
{
	const struct uffdwp__fill *f = s->f;
	bool direct = !f->buffered && f->img->direct >= 0;
	int err = map_buffers(s);

	s->slots = calloc(f->depth, sizeof(*s->slots));
	if (!s->slots)
		err = -ENOMEM;
	for (unsigned int i = 0; !err && i < f->depth; i++) {
		s->slots[i].buf = f->to ? NULL : s->buffers + i * f->chunk;
		s->slots[i].next = s->spare;
		s->spare = &s->slots[i];
	}
	/* Pinned pages can not be moved. */
	if (!err)
		err = uffdwp__queue_init(&s->queue, direct ? f->img->direct : f->img->fd, f->depth,
					 direct, f->huge ? NULL : s->buffers, f->depth * f->chunk);
	return err;
}

static bool submit(struct state *s)
{
	const struct uffdwp__fill *f = s->f;
	struct slot *slot = s->spare;

	if (!slot || (f->more && s->inflight && !f->more(f->arg, s->inflight)) ||
	    !f->next(f->arg, &slot->run))
		return false;
	s->spare = slot->next;
	if (f->to)
		slot->buf = f->to(f->arg, &slot->run);
	slot->io = (struct uffdwp__io){ .buf = slot->buf,
					.offset = uffdwp__run_offset(f->img, &slot->run),
					.len = slot->run.n << f->img->meta.shift };
	s->inflight++;
	uffdwp__queue_add(&s->queue, &slot->io);
	return true;
}

int uffdwp__fill_run(const struct uffdwp__fill *f)
{
	struct state s = { .f = f };
	int err = start(&s);

	while (!err) {
		struct slot *slot;

		while (submit(&s))
			;
		if (!s.inflight)
			break;
		slot = (struct slot *)uffdwp__queue_take(&s.queue, -1);
		f->got(f->arg, &slot->run, slot->buf, slot->io.err);
		s.inflight--;
		slot->next = s.spare;
		s.spare = slot;
	}
	uffdwp__queue_exit(&s.queue);
	free(s.slots);
	if (s.map)
		munmap(s.map, s.map_size);
	return err;
}

/* Whether any page of the unit is not zeros. */
static bool has_data(const struct uffdwp__walk *w, uint64_t page, uint64_t unit)
{
	const uint32_t *e = uffdwp__entries_at(w->img, w->region, page, unit);

	for (uint64_t i = 0; i < unit; i++)
		if (e[i])
			return true;
	return false;
}

/* Blocks of the table that are a hole need not be looked at. */
static uint64_t hole(const struct uffdwp__walk *w, uint64_t unit)
{
	uint64_t at = w->img->meta.regions[w->region].first + w->page, n = 0;

	if (!w->img->table.index[at / UFFDWP__BLOCK].data)
		n = (UFFDWP__BLOCK - at % UFFDWP__BLOCK) / unit * unit;
	return n;
}

static void skip_zeros(struct uffdwp__walk *w, uint64_t unit)
{
	uint64_t n;

	for (; w->page < w->end; w->page += n) {
		n = hole(w, unit);
		if (!n && has_data(w, w->page, unit))
			break;
		n = n ? n : unit;
	}
}

bool uffdwp__walk_next(struct uffdwp__walk *w, uint64_t unit, uint64_t max, struct uffdwp__run *run)
{
	uint64_t last;

	skip_zeros(w, unit);
	if (w->page >= w->end)
		return false;
	*run = (struct uffdwp__run){ w->region, w->page, unit };
	last = w->page;
	for (uint64_t p = w->page + unit;
	     p < w->end && p - run->first < max && p - last <= GAP + unit; p += unit)
		if (has_data(w, p, unit)) {
			last = p;
			run->n = p + unit - run->first;
		}
	w->page = run->first + run->n;
	return true;
}
