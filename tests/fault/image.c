/* SPDX-License-Identifier: MIT */
/*
 * Images: what appears under its name is complete and good, what failed leaves the old file, and nothing else; a page
 * that is read or restored is right, or an error, never wrong.
 */
#include "scenes.h"

#include <dirent.h>
#include <setjmp.h>
#include <uffdwp/image.h>

#include "../common/deny.h"
#include "../common/image.h"
#include "scene.h"

#define CONTENT UINT64_C(0x4400)
#define AFTER UINT64_C(0x5500)
#define FILE_ERRORS                                                                        \
	EACCES, EMFILE, ENFILE, ENOENT, EIO, ENOSPC, EINVAL, EAGAIN, ENOLCK, EBUSY, EROFS, \
		EWOULDBLOCK, EBADMSG

struct picture {
	struct uffdwp *h;
	struct uffdwp_region *r;
	char dir[64], path[96], *mem;
	bool zeroed; /* the last page is something before arming, and zeros at the seal */
};

/* ---- Files; none of it is the library's ---- */

static void make_dir(struct picture *p)
{
	memset(p, 0, sizeof(*p));
	snprintf(p->dir, sizeof(p->dir), "%s/files", fault_dir());
	CHECK_EQ(mkdir(p->dir, 0700), 0);
	snprintf(p->path, sizeof(p->path), "%s/image", p->dir);
}

/* How many files there are besides the image. Takes all away. */
static unsigned int clear_dir(struct picture *p)
{
	DIR *d = opendir(p->dir);
	struct dirent *e;
	unsigned int others = 0;

	CHECK(d);
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		others += strcmp(e->d_name, "image") != 0;
		unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
	rmdir(p->dir);
	return others;
}

static void fill(char *mem)
{
	for (size_t i = 0; i + 1 < PAGES; i++)
		scene_fill(mem + i * PAGE, CONTENT + i);
}

static uint64_t content(size_t page)
{
	return page + 1 < PAGES ? CONTENT + page : 0;
}

/* Before anything fails. */
static void make_image(struct picture *p)
{
	char *data = scene_map(PAGES, MAP_PRIVATE);
	struct image_part part = {
		.addr = (uintptr_t)p->mem, .len = PAGES * PAGE, .page_size = PAGE, .data = data
	};

	fill(data);
	CHECK_EQ(image_make(p->path, NULL, &part, 1), 0);
	scene_unmap(data, PAGES);
}

/* ---- Writing ---- */

/* Under the image's name there is nothing, or all of it. */
static void check_file(struct picture *p, bool complete)
{
	struct uffdwp_image *img;
	char page[PAGE];

	if (access(p->path, F_OK)) {
		CHECK(!complete);
		return;
	}
	CHECK_EQ(uffdwp_image_open(&img, p->path, NULL), 0);
	CHECK_EQ(uffdwp_image_verify(img, NULL), 0);
	for (size_t i = 0; i < PAGES; i++) {
		CHECK_EQ(uffdwp_image_read(img, 0, i * PAGE, page, PAGE, NULL), 0);
		CHECK(scene_holds(page, content(i)));
	}
	uffdwp_image_close(img);
}

static enum uffdwp_snapshot_verdict shoot(struct picture *p, struct uffdwp_sink *sink, bool cancel)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct uffdwp_snapshot_opts o = { .sz = sizeof(o),
					  .sink = sink,
					  .staging = UFFDWP_SNAPSHOT_STAGING_MIN };
	struct uffdwp_snapshot *s;
	struct scene_writer w;
	int err = uffdwp_snapshot_new(&s, &p->r, 1, &o);

	if (!scene_good("uffdwp_snapshot_new", err, (const int[]){ FILE_ERRORS, EOPNOTSUPP, 0 })) {
		sink->free(sink->ctx);
		return UFFDWP_SNAPSHOT_FAILED;
	}
	uffdwp_snapshot_arm(s);
	if (p->zeroed)
		scene_fill(p->mem + (PAGES - 1) * PAGE, 0);
	if (cancel)
		CHECK_EQ(uffdwp_snapshot_cancel(s), 0);
	uffdwp_snapshot_seal(s);
	scene_write(&w, p->mem, PAGES, 2, AFTER);
	scene_written(&w);
	CHECK_EQ(uffdwp_snapshot_wait(s, &res), 0);
	CHECK_EQ(uffdwp_snapshot_free(s), 0);
	return res.verdict;
}

static bool watch(struct picture *p)
{
	struct uffdwp_opts o = { .threads = p->zeroed ? 0 : 1,
				 .serve = p->zeroed ? UFFDWP_SERVE_CALLER : UFFDWP_SERVE_THREADS,
				 .required = p->zeroed ? UFFDWP_FEATURE_WP_ASYNC : 0 };
	struct uffdwp_region_opts ro = { .sz = sizeof(ro),
					 .addr = (uintptr_t)p->mem,
					 .len = PAGES * PAGE,
					 .mode = UFFDWP_MODE_WP };

	return scene_open(&p->h, &o) && scene_add(p->h, &ro, &p->r);
}

enum { URING = 1, BUFFERED = 2, CANCEL = 4, PRECOPY = 8 };

static void write_image(unsigned int how)
{
	struct uffdwp_image_opts io = { .sz = sizeof(io), .buffered = !!(how & BUFFERED) };
	enum uffdwp_snapshot_verdict verdict = UFFDWP_SNAPSHOT_FAILED;
	static struct picture p;
	struct uffdwp_sink sink;
	unsigned int others;

	make_dir(&p);
	p.zeroed = how & PRECOPY;
	if (!(how & URING))
		deny(SYS_io_uring_setup, -1, 0, ENOSYS);
	scene_begin();
	p.mem = scene_map(PAGES, MAP_PRIVATE);
	fill(p.mem);
	if (p.zeroed)
		scene_fill(p.mem + (PAGES - 1) * PAGE, CONTENT);
	if (watch(&p) && GOOD(uffdwp_image_sink(&sink, p.path, &io), FILE_ERRORS))
		verdict = shoot(&p, &sink, how & CANCEL);
	if (p.h)
		CHECK_EQ(uffdwp_close(p.h), 0);
	fault_over();
	check_file(&p, verdict == UFFDWP_SNAPSHOT_COMPLETE);
	others = clear_dir(&p);
	/* Who may not unlink leaves it. */
	if (fault_current->nr != SYS_unlinkat)
		CHECK_EQ(others, 0);
	scene_unmap(p.mem, PAGES);
	scene_end();
}

static void write_direct(void)
{
	write_image(URING);
}

static void write_buffered(void)
{
	write_image(URING | BUFFERED);
}

static void write_plain(void)
{
	write_image(0);
}

static void write_cancelled(void)
{
	write_image(URING | CANCEL);
}

static void write_precopy(void)
{
	write_image(URING | PRECOPY);
}

/* ---- Reading ---- */

static void read_fd(struct picture *p)
{
	struct uffdwp_image *img;
	int fd = open(p->path, O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	if (GOOD(uffdwp_image_fdopen(&img, fd, NULL), FILE_ERRORS))
		uffdwp_image_close(img);
	close(fd);
}

static void read_image(void)
{
	static struct picture p;
	struct uffdwp_image_info info = { .sz = sizeof(info) };
	struct uffdwp_image *img;
	char page[PAGE];

	make_dir(&p);
	p.mem = scene_map(PAGES, MAP_PRIVATE);
	make_image(&p);
	scene_begin();
	if (GOOD(uffdwp_image_open(&img, p.path, NULL), FILE_ERRORS)) {
		CHECK_EQ(uffdwp_image_info(img, &info), 0);
		CHECK_EQ(info.size, PAGES * PAGE);
		GOOD(uffdwp_image_verify(img, NULL), FILE_ERRORS);
		for (size_t i = 0; i < PAGES; i++)
			if (GOOD(uffdwp_image_read(img, 0, i * PAGE, page, PAGE, NULL),
				 FILE_ERRORS))
				CHECK(scene_holds(page, content(i)));
		uffdwp_image_close(img);
	}
	read_fd(&p);
	clear_dir(&p);
	scene_end();
}

/* ---- Restoring ---- */

static sigjmp_buf lost;

static _Atomic unsigned int losses;

static void on_lost(int sig)
{
	(void)sig;
	losses++;
	siglongjmp(lost, 1);
}

/* Zeros in the place of what is lost: a handle that failed, on a kernel without poison. */
static struct uffdwp *may_be_zeros;

/* Right, or a signal. */
static void check_page(const char *page, uint64_t value)
{
	if (sigsetjmp(lost, 1))
		return;
	if (!scene_holds(page, value) &&
	    !(may_be_zeros && uffdwp_error(may_be_zeros) && scene_holds(page, 0)))
		FAIL("a page that was restored is wrong: %#llx",
		     (unsigned long long)live_load(page));
}

static void *check_pages(void *arg)
{
	for (size_t i = 0; i < PAGES; i++)
		check_page((char *)arg + i * PAGE, content(i));
	return NULL;
}

/* A byte of page 1, which is somewhere in the file by itself. */
static void damage_image(struct picture *p)
{
	int fd = open(p->path, O_RDWR | O_CLOEXEC);
	uint64_t word;
	off_t at = 0;

	CHECK(fd >= 0);
	while (pread(fd, &word, sizeof(word), at) == sizeof(word) && word != CONTENT + 1)
		at += (off_t)PAGE;
	CHECK_EQ(word, CONTENT + 1);
	word = 0;
	CHECK_EQ(pwrite(fd, &word, sizeof(word), at + 64), sizeof(word));
	close(fd);
}

enum { EAGER = 16, DAMAGED = 32 };

static void restore(unsigned int how)
{
	bool eager = how & EAGER;
	struct sigaction sa = { .sa_handler = on_lost };
	struct uffdwp_opts o = { .threads = 1 };
	struct uffdwp_restore_stats st = { .sz = sizeof(st) };
	struct uffdwp_restore *rs = NULL;
	struct uffdwp_image *img = NULL;
	static struct picture p;
	pthread_t thread;
	int err = -ECANCELED;

	make_dir(&p);
	p.mem = scene_map(PAGES, MAP_PRIVATE);
	make_image(&p);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	if (how & DAMAGED)
		damage_image(&p);
	o.masked = how & DAMAGED ? UFFDWP_FEATURE_POISON : 0;
	if (!(how & URING))
		deny(SYS_io_uring_setup, -1, 0, ENOSYS);
	scene_begin();
	if ((eager || scene_open(&p.h, &o)) &&
	    GOOD(uffdwp_image_open(&img, p.path, NULL), FILE_ERRORS)) {
		struct uffdwp_restore_opts ro = {
			.sz = sizeof(ro), .image = img, .handle = p.h, .eager = eager
		};

		err = uffdwp_restore_start(&rs, &ro);
		CHECK_EQ(!rs, !!err);
		scene_good("uffdwp_restore_start", err,
			   (const int[]){ FILE_ERRORS, EOPNOTSUPP, 0 });
	}
	may_be_zeros = how & DAMAGED ? p.h : NULL;
	if (rs) {
		live_thread(&thread, check_pages, p.mem);
		live_join(thread);
		err = uffdwp_restore_wait(rs, &st);
		if (err && fault_current->site < 0 && !(how & DAMAGED))
			FAIL("restore: %s", strerror(-err));
		if (fault_current->site < 0 && losses != !!(how & DAMAGED))
			FAIL("%u pages of the restore are lost", losses);
		if (losses && !err && !st.damaged && !(p.h && uffdwp_error(p.h)))
			FAIL("%u pages of the restore are lost, and it does not say so", losses);
		uffdwp_restore_free(rs, UFFDWP_RESTORE_KEEP);
		check_pages(p.mem);
	}
	uffdwp_image_close(img);
	if (p.h)
		CHECK_EQ(uffdwp_close(p.h), 0);
	clear_dir(&p);
	scene_end();
}

static void restore_lazy(void)
{
	restore(URING);
}

static void restore_plain(void)
{
	restore(0);
}

static void restore_eager(void)
{
	restore(URING | EAGER);
}

static void restore_eager_plain(void)
{
	restore(EAGER);
}

static void restore_damaged(void)
{
	restore(URING | DAMAGED);
}

const struct fault_scenario scenes_image[] = {
	{ "image-write", write_direct, false },
	{ "image-write-buffered", write_buffered, false },
	{ "image-write-plain", write_plain, false },
	{ "image-write-cancelled", write_cancelled, false },
	{ "image-write-precopy", write_precopy, false },
	{ "image-read", read_image, false },
	{ "restore-lazy", restore_lazy, false },
	{ "restore-plain", restore_plain, false },
	{ "restore-eager", restore_eager, false },
	{ "restore-eager-plain", restore_eager_plain, false },
	{ "restore-damaged", restore_damaged, false },
	{ NULL, NULL, false },
};
