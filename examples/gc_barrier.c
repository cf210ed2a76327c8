/* SPDX-License-Identifier: MIT */
/*
 * A generational mark-sweep collector whose only write barrier is page tracking: the program stores
 * pointers as it likes. Cells do not move; who survives a collection keeps its mark, and is old by
 * that. A minor collection marks from the roots and from the old cells on pages that were written since the
 * last one, because nowhere else can be a pointer from an old cell to a young one.
 *
 * Three heaps run one program in turns, with three ways to know where to look: the tracker, mprotect(2)
 * with SIGSEGV, and everywhere. After each step they must have the very same cells.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <uffdwp/track.h>

#define PAGE 4096
#define CELLS (1u << 20)
#define A_PAGE (PAGE / sizeof(struct cell))
#define PAGES (CELLS / A_PAGE)
#define YOUNG (CELLS / 32) /* are born between two collections */
#define DEPTH 17	   /* of the tree whose leaves change, roots[0] */
#define KEPT 16		   /* smaller trees, each replaced now and then */
#define STEPS 60
#define MINORS_MAX 1000

struct cell {
	struct cell *child[2];
	uint64_t data[2];
};

static const char *const names[] = { "tracker", "mprotect+SIGSEGV", "everywhere" };
enum { TRACKER, MPROTECT, EVERYWHERE, BARRIERS };

static struct heap {
	int barrier;
	struct cell *cells, *roots[64], **stack;
	uint64_t used[CELLS / 64], marked[CELLS / 64], written[PAGES / 64];
	size_t nroots, born, cursor, minors, majors, looked;
	double minor_us[MINORS_MAX], program_us;
	struct uffdwp_region *region;
	struct uffdwp_track *track;
} heaps[BARRIERS];

static int verify;

static _Noreturn void die(const char *what, const char *why, int code)
{
	printf("%s: %s\n", what, why);
	exit(code);
}

static int bit(const uint64_t *bits, size_t i)
{
	return bits[i / 64] >> i % 64 & 1;
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* ---- The barriers ---- */

static void on_write(int sig, siginfo_t *info, void *context)
{
	struct heap *h = &heaps[MPROTECT];
	size_t page = ((uintptr_t)info->si_addr - (uintptr_t)h->cells) / PAGE;

	(void)context;
	if (page >= PAGES || mprotect(h->cells + page * A_PAGE, PAGE, PROT_READ | PROT_WRITE))
		signal(sig, SIG_DFL); /* not a barrier but a bug: let it crash */
	else
		h->written[page / 64] |= UINT64_C(1) << page % 64;
}

static void start_barrier(struct heap *h)
{
	char why[256] = "";
	struct uffdwp_opts opts = { .sz = sizeof(opts), .optional = UFFDWP_FEATURE_WP_ASYNC };
	struct uffdwp_region_opts o = { .sz = sizeof(o), .mode = UFFDWP_MODE_WP };
	struct sigaction sa = { .sa_sigaction = on_write, .sa_flags = SA_SIGINFO };
	struct uffdwp *u;

	o.addr = (uintptr_t)h->cells;
	o.len = CELLS * sizeof(struct cell);
	opts.faults = UFFDWP_FAULTS_ANY;
	opts.reason = why;
	opts.reason_size = sizeof(why);
	if (h->barrier == TRACKER && uffdwp_open(&u, &opts))
		die("uffdwp_open", why, 77);
	if (h->barrier == TRACKER && (uffdwp_region_add(u, &o, &h->region) ||
				      uffdwp_track_start(&h->track, &h->region, 1, NULL)))
		die(names[h->barrier], "can not start", 1);
	if (h->barrier == MPROTECT &&
	    (sigaction(SIGSEGV, &sa, NULL) || mprotect(h->cells, o.len, PROT_READ)))
		die(names[h->barrier], "can not start", 1);
}

/* Sets in `look` the pages written since the last call, and begins to watch anew. */
static void take_written(struct heap *h, uint64_t *look)
{
	struct uffdwp_track_query q = { .sz = sizeof(q), .region = h->region, .bitmap = look };

	memset(look, h->barrier == EVERYWHERE ? 0xff : 0, PAGES / 8);
	if (h->barrier == TRACKER && uffdwp_track_collect(h->track, &q))
		die(names[h->barrier], "can not collect", 1);
	if (h->barrier != MPROTECT)
		return;
	memcpy(look, h->written, PAGES / 8);
	memset(h->written, 0, PAGES / 8);
	for (size_t i = 0, n; i < PAGES; i += n + !n) {
		for (n = 0; i + n < PAGES && bit(look, i + n); n++)
			;
		if (n && mprotect(h->cells + i * A_PAGE, n * PAGE, PROT_READ))
			die(names[h->barrier], "can not protect", 1);
	}
}

/* ---- The collector ---- */

static size_t push(struct heap *h, size_t n, const struct cell *c)
{
	h->stack[n] = c->child[0];
	h->stack[n + 1] = c->child[1];
	return n + 2;
}

/* Marks what n cells on the stack lead to and is not marked yet. */
static void mark(struct heap *h, uint64_t *marked, size_t n)
{
	while (n) {
		const struct cell *c = h->stack[--n];
		size_t i = c ? (size_t)(c - h->cells) : 0;

		if (!c || bit(marked, i))
			continue;
		if (!bit(h->used, i))
			die(names[h->barrier], "FAIL: a cell that can be reached was freed", 1);
		marked[i / 64] |= UINT64_C(1) << i % 64;
		n = push(h, n, c);
	}
}

static void mark_roots(struct heap *h, uint64_t *marked)
{
	for (size_t i = 0; i < h->nroots; i++)
		h->stack[i] = h->roots[i];
	mark(h, marked, h->nroots);
}

/* Frees what has no mark: how many cells are left. */
static size_t sweep(struct heap *h)
{
	size_t left = 0;

	for (size_t i = 0; i < CELLS / 64; i++) {
		h->used[i] = h->marked[i];
		left += (size_t)__builtin_popcountll(h->used[i]);
	}
	return left;
}

static size_t minor(struct heap *h)
{
	static uint64_t look[PAGES / 64];
	double begin = now_us();
	size_t left;

	take_written(h, look);
	for (size_t page = 0; page < PAGES; page++) {
		size_t n = 0, end = (page + 1) * A_PAGE;

		h->looked += (size_t)bit(look, page);
		for (size_t i = page * A_PAGE; bit(look, page) && i < end; i++)
			if (bit(h->marked, i))
				n = push(h, n, &h->cells[i]);
		mark(h, h->marked, n);
	}
	mark_roots(h, h->marked);
	left = sweep(h);
	h->minor_us[h->minors++ % MINORS_MAX] = now_us() - begin;
	return left;
}

static void collect(struct heap *h)
{
	static uint64_t reached[CELLS / 64];

	if (minor(h) > CELLS / 2) {
		memset(h->marked, 0, sizeof(h->marked));
		mark_roots(h, h->marked);
		sweep(h);
		h->majors++;
	}
	memset(reached, 0, sizeof(reached));
	if (verify)
		mark_roots(h, reached);
	h->born = h->cursor = 0;
}

static struct cell *new_cell(struct heap *h)
{
	size_t i;

	if (h->born++ == YOUNG)
		collect(h);
	while (!~h->used[h->cursor])
		if (++h->cursor == CELLS / 64)
			die(names[h->barrier], "out of memory", 1);
	i = h->cursor * 64 + (size_t)__builtin_ctzll(~h->used[h->cursor]);
	h->used[i / 64] |= UINT64_C(1) << i % 64;
	memset(&h->cells[i], 0, sizeof(h->cells[i]));
	return &h->cells[i];
}

/* ---- The program ---- */

static struct cell *tree(struct heap *h, int depth)
{
	struct cell *c = new_cell(h);

	h->roots[h->nroots++] = c;
	for (int i = 0; depth && i < 2; i++)
		c->child[i] = tree(h, depth - 1);
	h->nroots--;
	return c;
}

static size_t count(const struct cell *c)
{
	return c ? 1 + count(c->child[0]) + count(c->child[1]) : 0;
}

/* Some trees for a moment, one for longer, and a hundred new cells at leaves of the old one. */
static void step(struct heap *h, size_t n)
{
	double begin = now_us();

	for (int i = 0; i < 8; i++)
		if (count(tree(h, 10)) != 2047)
			die(names[h->barrier], "FAIL: a tree lost cells", 1);
	h->roots[1 + n % KEPT] = tree(h, 12);
	for (uint64_t i = 0; i < 100; i++) {
		uint64_t way = (n * 100 + i) * UINT64_C(0x9e3779b97f4a7c15) >> 40;
		struct cell *c = new_cell(h), *leaf = h->roots[0];

		for (int k = 0; k < DEPTH; k++)
			leaf = leaf->child[way >> k & 1];
		leaf->child[0] = c;
	}
	h->program_us += now_us() - begin;
}

/* ---- Three of it ---- */

static void start(struct heap *h, int barrier)
{
	size_t size = CELLS * sizeof(struct cell), stack = 2 * CELLS * sizeof(void *);

	h->barrier = barrier;
	h->cells = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	h->stack = mmap(NULL, stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->cells == MAP_FAILED || h->stack == MAP_FAILED)
		die(names[barrier], "no memory", 99);
	start_barrier(h);
	h->nroots = 1 + KEPT;
	h->roots[0] = tree(h, DEPTH);
	h->minors = h->majors = h->looked = 0;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median_us(struct heap *h)
{
	qsort(h->minor_us, h->minors, sizeof(h->minor_us[0]), ascending);
	return h->minor_us[h->minors / 2];
}

int main(int argc, char **argv)
{
	double tracker;

	verify = argc == 2 && strcmp(argv[1], "--verify") == 0;
	if (argc > 1 && !verify)
		return fprintf(stderr, "usage: gc_barrier [--verify]\n"), 2;
	for (int b = 0; b < BARRIERS; b++)
		start(&heaps[b], b);
	for (size_t n = 0; n < STEPS; n++) {
		for (size_t b = 0; b < BARRIERS; b++)
			step(&heaps[(n + b) % BARRIERS], n);
		for (int b = 1; b < BARRIERS; b++)
			if (memcmp(heaps[b].used, heaps[0].used, sizeof(heaps[b].used)) != 0)
				die(names[b], "FAIL: other cells than with the tracker", 1);
	}
	tracker = median_us(&heaps[TRACKER]);
	for (int b = 0; b < BARRIERS; b++) {
		struct heap *h = &heaps[b];

		printf("%-17s %zu minor collections of %.0f us (%.2f of the tracker's), each looked at "
		       "%zu of %zu pages; %zu major; the program took %.0f ms\n",
		       names[b], h->minors, median_us(h), median_us(h) / tracker,
		       h->looked / h->minors, PAGES, h->majors, h->program_us / 1e3);
	}
	printf("all heaps are the same%s\n",
	       verify ? "; nothing that can be reached was freed" : "");
	return 0;
}
