/* SPDX-License-Identifier: MIT */
/*
 * A live snapshot into a plain file: threads write to memory all the time, and are paused for the
 * seal alone. Then the file is compared with a copy that was made while they were paused.
 *
 *	snapshot [FILE]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uffdwp.h>
#include <uffdwp/snapshot.h>

#define SIZE (64u << 20)
#define PAGE 4096u
#define WRITERS 2

struct program {
	_Atomic uint64_t *mem;
	char *shadow;
	pthread_rwlock_t running; /* writers hold it for reading, a pause for writing */
	_Atomic int stop;
	_Atomic uint64_t writes, written_sealed; /* all; between the seal and the end */
	_Atomic int sealed;
};

static void *writer(void *arg)
{
	struct program *p = arg;
	uint64_t rnd = (uintptr_t)&rnd;

	while (!atomic_load(&p->stop)) {
		pthread_rwlock_rdlock(&p->running);
		for (int i = 0; i < 64; i++) {
			rnd = rnd * UINT64_C(6364136223846793005) + 1442695040888963407;
			/* A hot set: the first sixteenth of the memory. */
			atomic_store_explicit(&p->mem[(rnd >> 33) % (SIZE / 16 / 8)], rnd,
					      memory_order_relaxed);
		}
		pthread_rwlock_unlock(&p->running);
		atomic_fetch_add(atomic_load(&p->sealed) ? &p->written_sealed : &p->writes, 64);
	}
	return NULL;
}

static int seal(struct program *p, struct uffdwp_snapshot *s)
{
	int err;

	pthread_rwlock_wrlock(&p->running);
	memcpy(p->shadow, (const void *)p->mem, SIZE); /* only to compare with later */
	err = uffdwp_snapshot_seal(s);
	atomic_store(&p->sealed, 1);
	pthread_rwlock_unlock(&p->running);
	return err;
}

static int compare(const struct program *p, int fd)
{
	char *image = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
	int same;

	if (image == MAP_FAILED)
		return 0;
	same = !memcmp(image, p->shadow, SIZE);
	munmap(image, SIZE);
	return same;
}

static int report(const struct uffdwp_snapshot_result *r)
{
	if (r->verdict != UFFDWP_SNAPSHOT_COMPLETE) {
		printf("not complete: why %u, %s\n", r->why, strerror(-r->error));
		return 1;
	}
	printf("complete, by %s: pause %.3f ms, all in %.0f ms\n",
	       r->strategy == UFFDWP_SNAPSHOT_COW ? "copy on write" : "precopy",
	       (double)r->pause_ns / 1e6, (double)r->total_ns / 1e6);
	printf("saved at the seal %llu KiB, by faults %llu KiB, by the sweep %llu KiB\n",
	       (unsigned long long)r->by_seal >> 10, (unsigned long long)r->by_fault >> 10,
	       (unsigned long long)r->by_sweep >> 10);
	printf("a write waited %.1f us at most, 99 of 100 less than %.1f us\n",
	       (double)r->waits.max / 1e3, (double)uffdwp_hist_percentile(&r->waits, 99) / 1e3);
	return 0;
}

/* Everything from here to the verdict is what a program has to do. */
static int snapshot(struct program *p, struct uffdwp_region *r, int fd)
{
	struct uffdwp_sink sink;
	char reason[256] = "";
	struct uffdwp_snapshot_opts o = {
		.sz = sizeof(o), .sink = &sink, .reason = reason, .reason_size = sizeof(reason)
	};
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct uffdwp_snapshot *s;
	int err = uffdwp_sink_file(&sink, fd);

	if (err)
		return err;
	err = uffdwp_snapshot_new(&s, &r, 1, &o);
	if (err) {
		fprintf(stderr, "snapshot: %s\n", reason);
		sink.free(sink.ctx);
		return err;
	}
	err = uffdwp_snapshot_arm(s);
	if (!err)
		err = seal(p, s);
	if (!err)
		err = uffdwp_snapshot_wait(s, &res);
	atomic_store(&p->sealed, 0);
	if (!err)
		err = report(&res);
	uffdwp_snapshot_free(s);
	return err;
}

static int run(struct program *p, int fd)
{
	char reason[256] = "";
	struct uffdwp_opts ho = { .sz = sizeof(ho),
				  .faults = UFFDWP_FAULTS_ANY,
				  .reason = reason,
				  .reason_size = sizeof(reason) };
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .addr = (uintptr_t)p->mem, .len = SIZE, .mode = UFFDWP_MODE_WP
	};
	struct uffdwp_region *r;
	struct uffdwp *h;
	int err = uffdwp_open(&h, &ho);

	if (err) {
		printf("skipped: %s\n", reason);
		return 77;
	}
	err = uffdwp_region_add(h, &ro, &r);
	if (!err)
		err = snapshot(p, r, fd);
	uffdwp_close(h);
	return err ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct program p = { .stop = 0 };
	FILE *f = argc > 1 ? fopen(argv[1], "w+e") : tmpfile();
	pthread_t t[WRITERS];
	int status;

	p.mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p.shadow = malloc(SIZE);
	if (!f || (void *)p.mem == MAP_FAILED || !p.shadow) {
		perror("snapshot");
		free(p.shadow);
		return 99;
	}
	/* Half of it is never written: the file has a hole there. */
	for (size_t i = 0; i < SIZE / 2 / 8; i++)
		p.mem[i] = i + 1;
	pthread_rwlock_init(&p.running, NULL);
	for (int i = 0; i < WRITERS; i++)
		pthread_create(&t[i], NULL, writer, &p);
	status = run(&p, fileno(f));
	atomic_store(&p.stop, 1);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(t[i], NULL);
	if (!status) {
		printf("%llu words were written while it was being saved\n",
		       (unsigned long long)p.written_sealed);
		status = !compare(&p, fileno(f));
		printf("the file is %s the memory was at the seal\n", status ? "NOT what" : "what");
	}
	fclose(f);
	free(p.shadow);
	return status;
}
