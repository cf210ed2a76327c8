/* SPDX-License-Identifier: MIT */
/* Checking every page of an image, as fast as the disk reads. */
#include <errno.h>

#include "fill.h"

#define DEPTH 8
#define CHUNK (1u << 20)

struct verify {
	struct uffdwp__walk walk;
	struct uffdwp_image_damage damage;
};

static bool next(void *arg, struct uffdwp__run *run)
{
	struct uffdwp__walk *w = &((struct verify *)arg)->walk;
	const struct uffdwp__meta *m = &w->img->meta;

	while (!uffdwp__walk_next(w, 1, CHUNK >> m->shift, run)) {
		if (w->region + 1 == m->nregions)
			return false;
		w->region++;
		w->page = 0;
		w->end = m->regions[w->region].len >> m->shift;
	}
	return true;
}

/* Runs may be done in any order, and the first damaged page is the one with the lowest offset. */
static void note(struct uffdwp_image_damage *d, uint32_t region, uint64_t offset, int err)
{
	if (d->bytes && (d->region < region || (d->region == region && d->offset < offset)))
		return;
	d->region = region;
	d->offset = offset;
	d->error = err;
}

static void got(void *arg, const struct uffdwp__run *run, void *buf, int err)
{
	struct verify *v = arg;
	unsigned int shift = v->walk.img->meta.shift;
	struct uffdwp__run rest = *run;

	while (rest.n) {
		uint64_t good = 0, page = (uint64_t)1 << shift, bad = page;
		char *at = (char *)buf + ((rest.first - run->first) << shift);

		if (!err)
			good = uffdwp__run_check(v->walk.img, &rest, at);
		if (good == rest.n)
			break;
		if (err)
			bad = rest.n << shift;
		note(&v->damage, rest.region, (rest.first + good) << shift, err ? err : -EBADMSG);
		v->damage.bytes += bad;
		rest.first += good + (bad >> shift);
		rest.n -= good + (bad >> shift);
	}
}

UFFDWP_PUBLIC int uffdwp_image_verify(const struct uffdwp_image *img,
				      struct uffdwp_image_damage *damage)
{
	struct verify v = { .walk = { .img = img } };
	struct uffdwp__fill f = {
		.img = img, .depth = DEPTH, .chunk = CHUNK, .arg = &v, .next = next, .got = got
	};
	int err;

	if (!img)
		return -EINVAL;
	v.walk.end = img->meta.regions[0].len >> img->meta.shift;
	err = uffdwp__fill_run(&f);
	if (err)
		return err;
	if (damage)
		err = uffdwp__image_result(damage, &v.damage, sizeof(v.damage),
					   SIZE_UP_TO(struct uffdwp_image_damage, reserved2));
	return err ? err : v.damage.error;
}
