/* SPDX-License-Identifier: MIT */
/*
 * Copy before write, the whole idea in one page: memory is protected, threads write to it, and
 * each page is saved just before its first write changes it.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <uffdwp.h>

#define PAGE 4096
#define PAGES 8

static char saved[PAGES * PAGE];

/* Runs while the writer sleeps; the page still has its old content. */
static int save(struct uffdwp_region *r, const struct uffdwp_fault *f, void *ctx)
{
	return uffdwp_read(r, f->addr, (char *)ctx + f->offset, f->len, NULL);
}

static void *writer(void *page)
{
	strcpy(page, "new");
	return NULL;
}

int main(void)
{
	struct uffdwp_ops ops = { .sz = sizeof(ops), .write = save };
	struct uffdwp_region_opts o = { .sz = sizeof(o),
					.len = PAGES * PAGE,
					.mode = UFFDWP_MODE_WP,
					.ops = &ops,
					.ctx = saved };
	char *mem = mmap(NULL, o.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdwp_region *r;
	struct uffdwp *h;
	pthread_t t[PAGES];

	if (mem == MAP_FAILED || uffdwp_open(&h, NULL)) {
		puts("no memory, or no userfaultfd for this user: examples/capture.c says which");
		return 77;
	}
	for (int i = 0; i < PAGES; i++)
		strcpy(mem + i * PAGE, "old");
	o.addr = (uintptr_t)mem;
	if (uffdwp_region_add(h, &o, &r) || uffdwp_protect(r, o.addr, o.len, NULL))
		return 1;
	for (int i = 0; i < PAGES; i += 2) /* every other page is written */
		pthread_create(&t[i], NULL, writer, mem + i * PAGE);
	for (int i = 0; i < PAGES; i += 2)
		pthread_join(t[i], NULL);
	for (int i = 0; i < PAGES; i++)
		printf("page %d: now \"%s\", saved \"%s\"\n", i, mem + i * PAGE, saved + i * PAGE);
	return uffdwp_close(h) ? 1 : 0;
}
