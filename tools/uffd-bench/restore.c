/* SPDX-License-Identifier: MIT */
/*
 * uffd-bench restore: how soon a program can use memory that comes from an image, and when all of it is
 * there. The library's two ways, lazy and eager, and reading everything first, and mapping the image, take
 * turns with one image, which is out of the page cache at the beginning of each turn where it is on a
 * disk. The first operation is a write to a page somewhere in the memory. All of it is compared at the end of
 * each turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uffdwp/image.h>

#include "place.h"
#include "saver.h"
#include "side.h"

#define PIECE (4UL << 20)

enum figure { FIRST, SPEED, FIGURES };

static const struct {
	const char *name, *unit;
} figures[FIGURES] = { [FIRST] = { "first", "us" }, [SPEED] = { "all", "MiB/s" } };

struct show;

/* One way to bring it back. It notes the first operation, and returns when everything is there. */
struct way {
	const char *name, *serve;
	void (*restore)(struct show *s);
};

struct show {
	const struct bench_opts *o;
	struct load *load; /* what was saved, as it was */
	struct place place;
	struct rounds play;
	char label[48];
	size_t size, touched; /* touched: the first operation's page, this turn */
	uint64_t offset;      /* of the memory in the file */
	/* Of a turn. */
	struct mem mem;
	int fd;
	uint64_t began, first, all;
};

/* ---- The ways ---- */

/* What a program does that wants to go on: the page's content is needed, and changed. */
static void operate(struct show *s, char *mem)
{
	volatile char *at = mem + s->touched;

	*at = (char)(*at + 1);
	s->first = load_clock();
}

static void restore_lazy(struct show *s)
{
	struct uffdwp_opts ho = { .sz = sizeof(ho) };
	uint64_t addr = (uintptr_t)s->mem.addr;
	struct uffdwp_restore_opts o = { .sz = sizeof(o), .addrs = &addr };
	struct uffdwp_restore *rs;
	struct uffdwp_image *img;
	int err = uffdwp_open(&o.handle, &ho);

	if (!err)
		err = uffdwp_image_open(&img, s->place.path, NULL);
	if (err)
		die("uffdwp_image_open", -err);
	o.image = img;
	err = uffdwp_restore_start(&rs, &o);
	if (err)
		die("uffdwp_restore_start", -err);
	operate(s, s->mem.addr);
	err = uffdwp_restore_wait(rs, NULL);
	s->all = load_clock();
	if (!err)
		err = uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE);
	if (err)
		die("uffdwp_restore_wait", -err);
	uffdwp_image_close(img);
	uffdwp_close(o.handle);
}

static void restore_eager(struct show *s)
{
	uint64_t addr = (uintptr_t)s->mem.addr;
	struct uffdwp_restore_opts o = { .sz = sizeof(o), .addrs = &addr, .eager = 1 };
	struct uffdwp_restore *rs;
	struct uffdwp_image *img;
	int err = uffdwp_image_open(&img, s->place.path, NULL);

	if (err)
		die("uffdwp_image_open", -err);
	o.image = img;
	err = uffdwp_restore_start(&rs, &o);
	if (err)
		die("uffdwp_restore_start", -err);
	s->all = load_clock();
	operate(s, s->mem.addr);
	uffdwp_restore_free(rs, UFFDWP_RESTORE_KEEP);
	uffdwp_image_close(img);
}

/* Past the page cache where the file system can, which saves a copy. */
static void restore_read(struct show *s)
{
	int fd = open(s->place.path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	size_t done = 0;

	if (fd < 0)
		fd = open(s->place.path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && done < s->size) {
		size_t len = s->size - done < PIECE ? s->size - done : PIECE;
		ssize_t n = pread(fd, s->mem.addr + done, len, (off_t)(s->offset + done));

		if (n <= 0)
			die("reading an image", errno);
		done += (size_t)n;
	}
	s->all = load_clock();
	if (fd < 0)
		die(s->place.path, errno);
	operate(s, s->mem.addr);
	close(fd);
}

/* Pages come in as they are touched, from the page cache, which reads ahead. */
static void restore_map(struct show *s)
{
	char *mem = mmap(s->mem.addr, s->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			 s->fd, (off_t)s->offset);
	volatile char sum = 0;

	if (mem == MAP_FAILED)
		die("mmap of an image", errno);
	operate(s, mem);
	for (size_t at = 0; at < s->size; at += LOAD_PAGE)
		sum = (char)(sum + mem[at]);
	s->all = load_clock();
}

static const struct way ways[] = {
	{ "ours lazy", "lazy", restore_lazy },
	{ "ours eager", "eager", restore_eager },
	{ "read first", NULL, restore_read },
	{ "mmap", NULL, restore_map },
};

#define NWAYS (sizeof(ways) / sizeof(ways[0]))
#define READ_FIRST 2

/* ---- A turn ---- */

/* The first operation's page is another one in every turn, the same for all ways of a round. */
static void next_page(struct show *s, unsigned int side)
{
	static uint64_t state = 1;

	if (side == 0)
		state = state * 6364136223846793005 + 1442695040888963407;
	s->touched = (state >> 33) % (s->size / LOAD_PAGE) * LOAD_PAGE;
}

/* Clean pages of a file go when they are not needed any more; on tmpfs they are the file, and stay. */
static void make_cold(const struct show *s)
{
	if (fsync(s->fd) || posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED))
		die("dropping an image from the page cache", errno);
}

static void turn(void *ctx, unsigned int side, bool counted, double *figure)
{
	struct show *s = ctx;
	int err = mem_map(&s->mem, s->load->mem.kind, s->size);

	(void)counted;
	if (err)
		die("memory", -err);
	next_page(s, side);
	make_cold(s);
	s->began = load_clock();
	ways[side].restore(s);
	figure[FIRST] = (double)(s->first - s->began) / 1e3;
	figure[SPEED] = (double)(s->size >> 20) / ((double)(s->all - s->began) / 1e9);
	s->mem.addr[s->touched]--;
	if (!load_verify_memory(s->load, s->mem.addr)) {
		fprintf(stderr, "uffd-bench: wrong result: %s: not what was saved\n",
			ways[side].name);
		exit(EXIT_WRONG);
	}
	mem_unmap(&s->mem);
}

/* ---- Rows ---- */

static void name_row(const struct show *s, unsigned int figure, char *out, size_t size)
{
	snprintf(out, size, "%s%s", figures[figure].name, s->label);
}

static void print_row(const struct show *s, unsigned int figure, unsigned int ours,
		      unsigned int theirs)
{
	bool goal = ours == 0 && theirs == READ_FIRST;
	char name[80];
	struct row row = { .bench = "restore",
			   .name = name,
			   .serve = ways[ours].serve,
			   .peer = ways[theirs].name,
			   .unit = figures[figure].unit,
			   .ours = s->play.value[ours][figure],
			   .theirs = s->play.value[theirs][figure],
			   .rounds = s->play.rounds,
			   .target = !goal	       ? NULL
				     : figure == FIRST ? "<=0.01"
						       : ">=0.9",
			   .limit = figure == FIRST ? 0.01 : 0.9,
			   .more = figure == SPEED,
			   .writers_on = "any",
			   .ours_on = "any",
			   .theirs_on = "any" };

	name_row(s, figure, name, sizeof(name));
	if (bench_wants(s->o, name))
		report_row(&row, s->o->json);
}

static void print(const struct show *s)
{
	char title[256];

	for (unsigned int ours = 0; ours < READ_FIRST; ours++) {
		snprintf(title, sizeof(title), "%s, %zu MiB, image in %s (%s): %s",
			 mem_name(s->load->mem.kind), s->size >> 20, s->place.dir, s->place.type,
			 ways[ours].name);
		report_header(title, s->o->json);
		for (unsigned int figure = 0; figure < FIGURES; figure++)
			for (unsigned int i = READ_FIRST; i < NWAYS; i++)
				print_row(s, figure, ours, i);
	}
}

/* ---- Contests ---- */

/* Saved while nobody writes: what is to be restored is what the load was filled with. */
static int make_image(struct show *s)
{
	char reason[256] = "";
	struct saving saving = { .load = s->load,
				 .path = s->place.path,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	int err;

	s->load->rate = 1; /* paced so slowly that none becomes due but the first */
	load_start(s->load);
	err = saver_cow.save(&saving);
	load_stop(s->load);
	if (err) {
		fprintf(stderr, "uffd-bench: restore%s: unsupported: %s (%s)\n", s->label,
			strerror(-err), reason);
		return EXIT_UNSUPPORTED;
	}
	s->fd = open(s->place.path, O_RDONLY | O_CLOEXEC);
	s->offset = s->fd < 0 ? 0 : image_offset(s->fd, (uintptr_t)s->load->mem.addr);
	if (s->offset == 0 || !load_verify(s->load, s->fd, s->offset, &saving.at)) {
		fprintf(stderr, "uffd-bench: wrong result: the image is not what was saved\n");
		exit(EXIT_WRONG);
	}
	return EXIT_MEASURED;
}

static int contest(struct show *s, enum mem_kind kind)
{
	int err, result;

	s->load = load_new(kind, s->size, 1, 1, &err);
	if (!s->load) {
		fprintf(stderr, "uffd-bench: restore%s: unsupported: %s\n", s->label,
			strerror(-err));
		return EXIT_UNSUPPORTED;
	}
	result = make_image(s);
	/* Its memory is not needed any more, only what it was. */
	if (result == EXIT_MEASURED && madvise(s->load->mem.addr, s->size, MADV_DONTNEED))
		die("MADV_DONTNEED", errno);
	if (result == EXIT_MEASURED) {
		s->play = (struct rounds){ .sides = NWAYS,
					   .figures = FIGURES,
					   .rounds = s->o->rounds,
					   .turns = 1,
					   .turn = turn,
					   .ctx = s };
		rounds_play(&s->play);
		print(s);
		rounds_free(&s->play);
		close(s->fd);
	}
	place_leave();
	load_free(s->load);
	return result;
}

static void name_show(struct show *s, enum mem_kind kind, unsigned int to)
{
	size_t mib = s->size >> 20;
	char size[24];

	snprintf(size, sizeof(size), mib % 1024 ? "%zuM" : "%zuG", mib % 1024 ? mib : mib >> 10);
	snprintf(s->label, sizeof(s->label), "%s%s %s %s", kind == MEM_ANON ? "" : " ",
		 kind == MEM_ANON ? "" : mem_name(kind), size, to == TO_TMPFS ? "tmpfs" : "disk");
}

static int visit(struct show *s, enum mem_kind kind, unsigned int to, unsigned int *seen)
{
	bool any = false;

	name_show(s, kind, to);
	for (unsigned int f = 0; f < FIGURES; f++) {
		char name[80];

		name_row(s, f, name, sizeof(name));
		if (!bench_wants(s->o, name))
			continue;
		any = true;
		if (s->o->list)
			printf("%s\n", name);
	}
	*seen += any;
	if (!any || s->o->list)
		return EXIT_MEASURED;
	if (!place_find(&s->place, to, s->o, s->size + (64UL << 20)))
		return EXIT_UNSUPPORTED;
	return contest(s, kind);
}

static int run(const struct bench_opts *o)
{
	int worst = EXIT_MEASURED;
	unsigned int seen = 0;

	if (!load_can(o))
		return EXIT_MISUSE;
	for (unsigned int kind = 0; kind < MEM_KINDS; kind++)
		for (unsigned int to = TO_TMPFS; (o->mem & 1u << kind) && to <= TO_DISK; to <<= 1)
			for (size_t i = 0; (o->to & to) && i < o->nsizes; i++) {
				struct show s = { .o = o, .size = o->sizes[i] };
				int result = visit(&s, (enum mem_kind)kind, to, &seen);

				worst = result > worst ? result : worst;
			}
	return seen == 0 && worst == EXIT_MEASURED ? bench_no_case(o) : worst;
}

const struct bench_cmd bench_restore = {
	.name = "restore",
	.summary = "how soon memory from an image can be used, and is there",
	.run = run,
	.mem = 1u << MEM_ANON,
	.size = 1UL << 30,
	.writers = 1,
};
