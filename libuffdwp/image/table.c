/* SPDX-License-Identifier: MIT */
/* Reading the index, and blocks of the table when they are needed. */
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crc32c.h"

#define PIECE (256u << 10) /* of the index */
#define AHEAD 32	   /* blocks */
#define YIELDS 1000

int uffdwp__read_all(int fd, void *buf, uint64_t len, uint64_t offset)
{
	for (uint64_t done = 0; done < len;) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EBADMSG;
		done += (uint64_t)n;
	}
	return 0;
}

/* ---- The index ---- */

static bool is_zero(const void *buf, size_t len)
{
	return !*(const char *)buf && !memcmp(buf, (const char *)buf + 1, len - 1);
}

/*
 * Where the index goes on with data; its end if there is no more. A hole can be skipped because it is
 * zeros, however large somebody has made it.
 */
static uint64_t next_data(const struct uffdwp__table *t, uint64_t pos)
{
	const struct uffdwp__meta *m = t->meta;
	off_t at = lseek(t->fd, (off_t)(m->index_offset + pos), SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? m->index_size : pos;
	at -= (off_t)m->index_offset;
	return min_u64((uint64_t)at & ~(uint64_t)(m->page_size - 1), m->index_size);
}

/* Adds up the data that a page of the index tells of, in pages. False: more than there can be. */
static bool add_data(const struct uffdwp__meta *m, uint64_t block, const struct uffdwp__index *x,
		     uint64_t *data)
{
	uint64_t n = m->page_size / sizeof(*x), blocks = uffdwp__blocks(m);

	for (uint64_t i = 0; i < n; i++) {
		uint64_t first = (block + i) * UFFDWP__BLOCK;
		uint64_t most = block + i < blocks && first < m->pages
					? min_u64(m->pages - first, UFFDWP__BLOCK)
					: 0;

		if (x[i].data > most)
			return false;
		*data += x[i].data;
	}
	return true;
}

struct sum {
	struct uffdwp__index_crc crc;
	uint64_t data;
	bool possible;
};

/* One piece of the index: only what is not zeros takes memory. */
static int read_piece(struct uffdwp__table *t, uint64_t pos, uint64_t len, char *buf,
		      struct sum *sum)
{
	uint32_t page = t->meta->page_size;
	int err = uffdwp__read_all(t->fd, buf, len, t->meta->index_offset + pos);

	for (uint64_t i = 0; !err && i < len; i += page) {
		char *to = (char *)t->index + pos + i;
		bool zero = is_zero(buf + i, page);

		uffdwp__index_crc_add(&sum->crc, zero ? NULL : buf + i);
		if (zero)
			continue;
		memcpy(to, buf + i, page);
		sum->possible &= add_data(t->meta, (pos + i) / sizeof(*t->index),
					  (struct uffdwp__index *)(void *)to, &sum->data);
	}
	return err;
}

static int read_pieces(struct uffdwp__table *t, struct sum *sum)
{
	const struct uffdwp__meta *m = t->meta;
	uint64_t size = min_u64(m->index_size, PIECE), len;
	char *buf = malloc(size);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t pos = 0; !err && pos < m->index_size; pos += len) {
		for (uint64_t to = next_data(t, pos); pos < to; pos += m->page_size)
			uffdwp__index_crc_add(&sum->crc, NULL);
		len = min_u64(m->index_size - pos, size);
		if (len)
			err = read_piece(t, pos, len, buf, sum);
	}
	free(buf);
	return err;
}

static int read_index(struct uffdwp__table *t, struct uffdwp__why *why)
{
	const struct uffdwp__meta *m = t->meta;
	struct sum sum = { .possible = true };
	uint64_t data = 0;
	int err;

	uffdwp__index_crc_begin(&sum.crc, m->page_size);
	err = read_pieces(t, &sum);
	if (err)
		return err;
	if (sum.crc.crc != m->index_crc)
		REFUSE(why, -EBADMSG,
		       "bytes %llu to %llu: index damaged: checksum %08x, should be %08x",
		       (unsigned long long)m->index_offset,
		       (unsigned long long)(m->index_offset + m->index_size), sum.crc.crc,
		       m->index_crc);
	for (uint32_t i = 0; i < m->nregions; i++)
		data += m->regions[i].data >> m->shift;
	if (!sum.possible || data != sum.data)
		REFUSE(why, -EBADMSG, "byte %llu: the index has other data than the regions",
		       (unsigned long long)m->index_offset);
	return 0;
}

/* ---- Open and close ---- */

/* Memory for what may be much, and mostly is nothing. */
static void *map(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static uint64_t blocks_size(const struct uffdwp__meta *m)
{
	return sizeof(struct uffdwp__blocks) + uffdwp__blocks(m);
}

int uffdwp__table_open(struct uffdwp__table *t, int fd, const struct uffdwp__meta *m,
		       struct uffdwp__why *why)
{
	off_t was;
	int err;

	*t = (struct uffdwp__table){ .fd = fd, .meta = m };
	t->index = map(m->index_size);
	t->entries = map(m->table_size);
	t->blocks = map(blocks_size(m));
	if (!t->index || !t->entries || !t->blocks)
		return -ENOMEM;
	was = lseek(fd, 0, SEEK_CUR);
	err = read_index(t, why);
	/* Without /proc it is the caller's offset too. */
	(void)lseek(fd, was, SEEK_SET);
	return err;
}

void uffdwp__table_close(struct uffdwp__table *t)
{
	if (t->index)
		munmap(t->index, t->meta->index_size);
	if (t->entries)
		munmap(t->entries, t->meta->table_size);
	if (t->blocks)
		munmap(t->blocks, blocks_size(t->meta));
}

/* ---- Blocks ---- */

/* Whoever goes over all pages in order meets each of these blocks. */
static void read_ahead(const struct uffdwp__table *t, uint64_t block)
{
	uint64_t size = UFFDWP__BLOCK * sizeof(*t->entries);

	if (block % AHEAD == 0)
		(void)posix_fadvise(t->fd, (off_t)(t->meta->table_offset + block * size),
				    (off_t)(AHEAD * size), POSIX_FADV_WILLNEED);
}

/* Pages that a block is about. */
static uint64_t block_pages(const struct uffdwp__table *t, uint64_t block)
{
	return min_u64(t->meta->pages - block * UFFDWP__BLOCK, UFFDWP__BLOCK);
}

static bool read_block(const struct uffdwp__table *t, uint64_t block, uint32_t *e)
{
	uint64_t size = UFFDWP__BLOCK * sizeof(*e);
	struct uffdwp__index x;

	read_ahead(t, block);
	if (uffdwp__read_all(t->fd, e, size, t->meta->table_offset + block * size))
		return false;
	x = uffdwp__index_of(e);
	/* Behind the last page there is nothing. */
	for (uint64_t i = block_pages(t, block); i < UFFDWP__BLOCK; i++)
		if (e[i])
			return false;
	return x.crc == t->index[block].crc && x.data == t->index[block].data;
}

/* Of a damaged block nobody knows which pages were zeros. */
static uint64_t lost_pages(const struct uffdwp__table *t, uint64_t block)
{
	return block_pages(t, block) - t->index[block].data;
}

/*
 * Another thread has read the same and is copying it, which takes no longer than until it runs again. In a
 * child that was forked meanwhile it never does.
 */
static bool comes(const struct uffdwp__table *t, uint64_t block)
{
	for (int i = 0; i < YIELDS; i++) {
		if (atomic_load_explicit(&t->blocks->state[block], memory_order_acquire) ==
		    UFFDWP__BLOCK_THERE)
			return true;
		(void)sched_yield();
	}
	return false;
}

__attribute__((cold)) void uffdwp__table_load(const struct uffdwp__table *t, uint64_t block)
{
	uint8_t state = UFFDWP__BLOCK_ABSENT;
	uint32_t e[UFFDWP__BLOCK];
	bool good = read_block(t, block, e);

	for (unsigned int i = 0; !good && i < UFFDWP__BLOCK; i++)
		e[i] = UFFDWP__PAGE_LOST;
	/* Acquire: pairs with the release below. */
	if (atomic_compare_exchange_strong_explicit(&t->blocks->state[block], &state,
						    UFFDWP__BLOCK_COMING, memory_order_acquire,
						    memory_order_acquire))
		atomic_fetch_add(&t->blocks->lost, good ? 0 : lost_pages(t, block));
	else if (comes(t, block) || !good)
		return;
	memcpy(t->entries + block * UFFDWP__BLOCK, e, sizeof(e));
	/* Release: pairs with the acquire in uffdwp__table_entries(), and above. */
	atomic_store_explicit(&t->blocks->state[block], UFFDWP__BLOCK_THERE, memory_order_release);
}
