/* SPDX-License-Identifier: MIT */
/* Reading the memory that is watched, and making it present. */
#include "access.h"

#include <errno.h>
#include <string.h>

#include "piece.h"
#include "sys.h"
#include "util.h"

/*
 * The one way in which the library reads a program's page. A page whose writer sleeps in a fault
 * is not being written, but ThreadSanitizer can not know; so this one function is not
 * instrumented.
 */
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

#ifdef UNDER_TSAN
__attribute__((no_sanitize("thread"), noinline)) static void copy_memory(void *to, const void *from,
									 size_t n)
{
	volatile const unsigned char *f = from;
	unsigned char *t = to;

	while (n && ((uintptr_t)f & 7)) {
		*t++ = *f++;
		n--;
	}
	for (; n >= 8; n -= 8, t += 8, f += 8) {
		uint64_t w = *(volatile const uint64_t *)f;

		__builtin_memcpy(t, &w, 8);
	}
	while (n--)
		*t++ = *f++;
}
#else
static inline void copy_memory(void *to, const void *from, size_t n)
{
	memcpy(to, from, n);
}
#endif

static int read_by_kernel(int pid, uint64_t addr, char *buf, uint64_t len, uint64_t *got)
{
	for (*got = 0; *got < len;) {
		int64_t n = uffdwp__sys_read_process(pid, addr + *got, buf + *got, len - *got);

		if (n <= 0)
			return n ? (int)n : -EFAULT;
		*got += (uint64_t)n;
	}
	return 0;
}

/*
 * The process to read through the kernel, or 0: by copying. Memory that may be moved away must
 * not be touched.
 */
static int read_from(const struct uffdwp_region *r)
{
	uint64_t moves = UFFDWP_FEATURE_EVENT_REMAP | UFFDWP_FEATURE_EVENT_UNMAP;

	if (r->mem_is_addr)
		return r->h->features & moves ? uffdwp__sys_pid() : 0;
	return atomic_load_explicit(&r->mem, memory_order_relaxed) ? 0 : r->h->pid;
}

UFFDWP_PUBLIC int uffdwp_read(struct uffdwp_region *r, uint64_t addr, void *buf, uint64_t len,
			      uint64_t *done)
{
	int err = uffdwp__check_range(r, addr, len, done), pid;
	uint64_t offset, got = len;
	uintptr_t mem;

	if (err || !buf)
		return err ? err : -EINVAL;
	offset = uffdwp__offset_of(r, addr);
	if (offset > r->size || len > r->size - offset)
		return -ENOENT;
	mem = atomic_load_explicit(&r->mem, memory_order_relaxed);
	pid = read_from(r);
	if (pid)
		err = read_by_kernel(pid, addr, buf, len, &got);
	else if (likely(mem))
		copy_memory(buf, (const char *)mem + offset, len);
	else
		return -EOPNOTSUPP;
	if (done)
		*done = got;
	return err;
}

/*
 * Without MADV_POPULATE_READ (5.14): by reading each page, through the kernel, so that a bad one
 * is an error.
 */
static int populate_by_reading(struct uffdwp_region *r, int pid, uint64_t addr, uint64_t len,
			       uint64_t *done)
{
	for (*done = 0; *done < len; *done += r->kernel_page) {
		char byte;
		int64_t n = uffdwp__sys_read_process(pid, addr + *done, &byte, 1);

		if (n != 1)
			return n ? (int)n : -EFAULT;
	}
	return 0;
}

int uffdwp__populate_piece(struct uffdwp_region *r, uint64_t addr, uint64_t len, uint64_t *done)
{
	int err;

	*done = 0;
	if (!r->mem_is_addr)
		return r->h->pid ? populate_by_reading(r, r->h->pid, addr, len, done) : -EOPNOTSUPP;
	err = uffdwp__sys_populate_read((void *)(uintptr_t)addr, len);
	if (err == -EINVAL || err == -ENOSYS || err == -EPERM)
		err = populate_by_reading(r, uffdwp__sys_pid(), addr, len, done);
	else if (!err)
		*done = len;
	return err;
}

UFFDWP_PUBLIC int uffdwp_populate(struct uffdwp_region *r, uint64_t addr, uint64_t len,
				  uint64_t *done)
{
	int err = uffdwp__check_pages(r, addr, len, done);

	for (uint64_t pos = 0, n = 0; !err && pos < len; pos += n) {
		uint64_t most = max_u64(UFFDWP__PIECE, r->page_size);

		err = uffdwp__populate_piece(r, addr + pos, min_u64(most, len - pos), &n);
		if (done)
			*done += n;
	}
	return err;
}
