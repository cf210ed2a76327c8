/* SPDX-License-Identifier: MIT */
/*
 * A process that writes one image after the other under one name is killed at random moments: what
 * is under the name is always an image, whole and of one moment.
 */
#include "image_dir.h"

#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <time.h>

#define KILLS 50
#define KILLS_MAX 500 /* on a machine so busy that little gets done */
#define SLEEP_MAX 50000
#define WORDS (96u * 512) /* of one region: 96 pages */

static struct dir dir;

/* Every word of the image numbered n is n. */
static void write_image(uint64_t n, uint64_t *words)
{
	struct image_part part[2] = {
		{ 0x10000000, WORDS * 8, 4096, (const char *)words },
		{ 0x20000000, WORDS * 8, 4096, (const char *)words },
	};

	for (uint64_t i = 0; i < WORDS; i++)
		words[i] = n;
	if (image_make(dir.image, NULL, part, 2))
		_exit(1);
}

static void writer(uint64_t n)
{
	uint64_t *words = malloc(WORDS * 8);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (words)
		write_image(++n, words);
	_exit(1);
}

/* The number of the image. */
static uint64_t check_image(void)
{
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = sizeof(why) };
	uint64_t *words = malloc(WORDS * 8), n = 0;
	struct uffdwp_image *img;
	int err = uffdwp_image_open(&img, dir.image, &o);

	ck_assert_ptr_nonnull(words);
	ck_assert_msg(!err, "%s: %s", strerror(-err), why);
	for (uint32_t r = 0; r < 2; r++) {
		ck_assert_int_eq(uffdwp_image_read(img, r, 0, words, WORDS * 8, NULL), 0);
		if (!r)
			n = words[0];
		for (uint64_t i = 0; i < WORDS; i++)
			if (words[i] != n)
				ck_abort_msg("word %llu is %llu in image %llu",
					     (unsigned long long)i, (unsigned long long)words[i],
					     (unsigned long long)n);
	}
	uffdwp_image_close(img);
	free(words);
	return n;
}

/* What the dead leave can be told from what the living write, and from images. */
static int check_left(void)
{
	DIR *d = opendir(dir.path);
	struct dirent *e;
	int left = 0;

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d))) {
		int fd;

		if (strncmp(e->d_name, ".vm.img.", 8) != 0)
			continue;
		fd = openat(dirfd(d), e->d_name, O_RDONLY);
		ck_assert_int_ge(fd, 0);
		/* The kernel finishes what was in flight, for a moment longer. */
		ck_assert_int_eq(flock(fd, LOCK_EX), 0);
		close(fd);
		ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
		left++;
	}
	closedir(d);
	return left;
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void sleep_us(uint64_t us)
{
	struct timespec ts = { .tv_nsec = (long)us * 1000 };

	nanosleep(&ts, NULL);
}

/* On the disk, and where nothing waits for one. */
static const char *const where[] = { NULL, "/dev/shm" };

START_TEST(killed)
{
	uint64_t x = (uint64_t)time(NULL), n = 0, first, range;
	uint64_t *words = malloc(WORDS * 8);
	int left = 0;

	ck_assert_ptr_nonnull(words);
	printf("seed %llu\n", (unsigned long long)x);
	dir_make(&dir, where[_i]);
	range = now_us();
	write_image(1, words);
	range = 3 * (now_us() - range);
	range = range < SLEEP_MAX ? range : SLEEP_MAX;
	first = n = check_image();
	/* It is to be killed in the middle, and to have got on. */
	for (int i = 0; i < KILLS || (i < KILLS_MAX && (!left || n == first)); i++) {
		int status;
		pid_t pid = fork();

		ck_assert_int_ge(pid, 0);
		if (!pid)
			writer(n);
		x = x * 6364136223846793005u + 1442695040888963407u;
		sleep_us((x >> 33) % range);
		ck_assert_int_eq(kill(pid, SIGKILL), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSIGNALED(status));
		left += check_left();
		ck_assert_uint_ge(check_image(), n);
		n = check_image();
	}
	ck_assert_int_gt(left, 0);
	ck_assert_uint_gt(n, first);
	ck_assert_int_eq(dir_entries(&dir, false), 1);
	dir_remove(&dir);
	free(words);
}
END_TEST

int main(void)
{
	return args_run("image_crash", NULL, 0, killed, sizeof(where) / sizeof(where[0]));
}
