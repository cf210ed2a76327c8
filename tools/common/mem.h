/* SPDX-License-Identifier: MIT */
/*
 * Memory of every type that userfaultfd knows, for tools and tests: mapping it, checking that it
 * really is what it is called, and reserving hugepages so that they are given back on every exit.
 */
#ifndef COMMON_MEM_H
#define COMMON_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mem_kind {
	MEM_ANON,	     /* private anonymous, MADV_NOHUGEPAGE */
	MEM_THP,	     /* private anonymous, 2 MiB aligned, MADV_HUGEPAGE */
	MEM_SHMEM,	     /* memfd, MAP_SHARED */
	MEM_MEMFD_PRIVATE,   /* memfd, really MAP_PRIVATE */
	MEM_HUGETLB_SHARED,  /* memfd with MFD_HUGETLB, MAP_SHARED */
	MEM_HUGETLB_PRIVATE, /* the same, MAP_PRIVATE */
	MEM_KINDS
};

struct mem {
	enum mem_kind kind;
	char *addr;	  /* of the mapping */
	size_t size;	  /* rounded up to page_size (THP: to 2 MiB) */
	size_t page_size; /* at which the kernel faults: base page, or the huge page of hugetlb */
	int fd;		  /* -1 for anonymous memory */
};

/* "anon", "thp", "shmem", "memfd-private", "hugetlb", "hugetlb-private". */
const char *mem_name(enum mem_kind kind);

/*
 * Parses "all" or a comma-separated list of names into a bit mask of kinds, 0 if one is unknown.
 */
unsigned int mem_parse(const char *list);

/*
 * The features (UFFDWP_FEATURE_*) that write protection, and missing faults, need on this memory.
 */
uint64_t mem_wp_features(enum mem_kind kind);
uint64_t mem_missing_features(enum mem_kind kind);

/* Whether the pagemap shows protection: Linux 5.14. */
bool mem_shows_wp(void);

/*
 * Maps size bytes. 0 or -errno; -ENOMEM for hugetlb means that no hugepages are free, see
 * mem_hugepages_reserve(). Nothing is populated.
 */
int mem_map(struct mem *m, enum mem_kind kind, size_t size);
void mem_unmap(struct mem *m);

/*
 * Raises nr_hugepages (2 MiB) so that bytes more are free, and registers an atexit() and fatal-
 * signal path that puts the old value back; call it once per process, before threads, with the most
 * that will be needed. A guard child process restores it too if the process is killed by SIGKILL.
 * 0; -EPERM: not root; -ENOMEM: the kernel could not find them.
 */
int mem_hugepages_reserve(size_t bytes);
void mem_hugepages_restore(void);

/*
 * Bytes of m that are backed by transparent huge pages now (from /proc/self/smaps), for asserting
 * the mode.
 */
size_t mem_thp_bytes(const struct mem *m);

#endif
