/* SPDX-License-Identifier: MIT */
/*
 * The library's savers: a snapshot by either strategy into an image, with every default.
 */
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <uffdwp/image.h>

#include "saver.h"

uint64_t image_offset(int fd, uint64_t addr)
{
	Elf64_Ehdr e;
	Elf64_Phdr p;

	if (pread(fd, &e, sizeof(e), 0) != sizeof(e) || memcmp(e.e_ident, ELFMAG, SELFMAG))
		return 0;
	for (off_t i = 0; i < e.e_phnum; i++) {
		off_t at = (off_t)e.e_phoff + i * e.e_phentsize;

		if (pread(fd, &p, sizeof(p), at) != sizeof(p))
			return 0;
		if (p.p_type == PT_LOAD && p.p_vaddr == addr)
			return p.p_offset;
	}
	return 0;
}

/* The resident memory and page tables of this process beyond those at the last call with peak NULL. */
static void look(double *peak)
{
	static double before;
	uint64_t resident, tables;

	saver_usage(getpid(), &resident, &tables);
	if (!peak)
		before = (double)(resident + tables);
	else if (*peak < (double)(resident + tables) - before)
		*peak = (double)(resident + tables) - before;
}

static void seal(struct saving *s, struct uffdwp_snapshot *snapshot)
{
	uint64_t begin;
	int err;

	load_pause(s->load);
	begin = load_clock();
	err = uffdwp_snapshot_seal(snapshot);
	s->pause_ns = (double)(load_clock() - begin);
	s->at = load_now(s->load);
	load_resume(s->load);
	if (err)
		die("uffdwp_snapshot_seal", -err);
}

static int snapshot(struct saving *s, struct uffdwp_region *r, uint32_t strategy)
{
	struct uffdwp_image_opts io = { .sz = sizeof(io),
					.reason = s->reason,
					.reason_size = s->reason_size };
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .strategy = strategy,
					  .sink = &sink,
					  .reason = s->reason,
					  .reason_size = s->reason_size };
	struct uffdwp_snapshot *snap;
	int err = uffdwp_image_sink(&sink, s->path, &io);

	if (err)
		return err;
	load_enter(s->load, LOAD_DURING);
	err = uffdwp_snapshot_new(&snap, &r, 1, &o);
	if (err) {
		sink.free(sink.ctx);
		return err;
	}
	err = uffdwp_snapshot_arm(snap);
	if (err)
		die("uffdwp_snapshot_arm", -err);
	seal(s, snap);
	look(&s->extra_bytes);
	s->result.sz = sizeof(s->result);
	err = uffdwp_snapshot_wait(snap, &s->result);
	load_enter(s->load, LOAD_AFTER);
	look(&s->extra_bytes);
	uffdwp_snapshot_free(snap);
	return err;
}

static int save(struct saving *s, uint32_t strategy, uint64_t features)
{
	struct uffdwp_opts ho = { .sz = sizeof(ho),
				  .required = features | mem_wp_features(s->load->mem.kind),
				  .reason = s->reason,
				  .reason_size = s->reason_size };
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)s->load->mem.addr,
					 .len = s->load->mem.size,
					 .mode = UFFDWP_MODE_WP,
					 .reason = s->reason,
					 .reason_size = s->reason_size };
	struct uffdwp_region *r;
	struct uffdwp *h;
	int err;

	look(NULL);
	err = uffdwp_open(&h, &ho);
	if (err)
		return err;
	err = uffdwp_region_add(h, &ro, &r);
	if (!err)
		err = snapshot(s, r, strategy);
	uffdwp_close(h);
	if (!err && s->result.verdict != UFFDWP_SNAPSHOT_COMPLETE) {
		snprintf(s->reason, s->reason_size, "verdict %u, why %u", s->result.verdict,
			 s->result.why);
		err = s->result.error ? s->result.error : -ECANCELED;
	}
	return err;
}

static int save_cow(struct saving *s)
{
	return save(s, UFFDWP_SNAPSHOT_COW, 0);
}

static int save_precopy(struct saving *s)
{
	return save(s, UFFDWP_SNAPSHOT_PRECOPY, UFFDWP_FEATURE_WP_ASYNC);
}

const struct saver saver_cow = { .name = "ours cow", .serve = "cow", .save = save_cow };
const struct saver saver_precopy = { .name = "ours precopy",
				     .serve = "precopy",
				     .save = save_precopy };
