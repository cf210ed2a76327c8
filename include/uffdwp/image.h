/* SPDX-License-Identifier: MIT */
/*
 * uffdwp/image.h - snapshot images on disk, and restore from them. In libuffdwp-image, which needs
 * liburing.
 *
 *	uffdwp_image_sink(&sink, "vm.img", NULL);	// then as any sink, see uffdwp/snapshot.h
 *	...
 *	uffdwp_image_open(&img, "vm.img", NULL);
 *	struct uffdwp_restore_opts o = { .sz = sizeof(o), .image = img, .handle = h };
 *	uffdwp_restore_start(&rs, &o);	// the memory can be used at once; pages come as they are needed
 *	uffdwp_restore_wait(rs, NULL);	// until all are there
 *	uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE);
 *
 * An image is an ELF core file: one PT_LOAD for each region at its address, page-aligned in the file,
 * holes for zeros, and a note of name "uffdwp" with what the library needs besides, so that gdb,
 * readelf and eu-readelf read it. Each page has a checksum. The image appears under its name by
 * rename(2), after everything is on stable storage: a crash leaves the old file or the new one. See
 * uffdwp_image(3) for the format.
 */
#ifndef UFFDWP_IMAGE_H
#define UFFDWP_IMAGE_H

#include <uffdwp.h>
#include <uffdwp/snapshot.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Writing ---------------------------------------------------------- */

struct uffdwp_image_opts {
	size_t sz;
	uint32_t depth; /* writes in flight, at most 1024; 0: 32, on tmpfs one, without io_uring */
	uint32_t buffered; /* 1: through the page cache; 0: O_DIRECT where the file system has it */
	uint32_t mode;	   /* permissions of the new file, less the umask; 0: 0600 */
	/*
	 * Whose memory it is, so that gdb finds the variables of its program: 0: this process; -1: not to
	 * be told.
	 */
	int32_t pid;
	/* Where a failed call says in words what is wrong; may be NULL. */
	char *reason;
	size_t reason_size;
};

/*
 * A sink that writes an image to path. A temporary file ".NAME.XXXXXX" is next to it until the end, or
 * for ever after a crash; while its writer lives it is locked by flock(2). Errors: -EINVAL,
 * -E2BIG, -ENOMEM, -ENAMETOOLONG, -EISDIR, those of open(2); see opts.reason. begin() fails with -EINVAL
 * for more than UFFDWP_IMAGE_REGIONS_MAX regions. Thread-safe.
 */
int uffdwp_image_sink(struct uffdwp_sink *out, const char *path,
		      const struct uffdwp_image_opts *opts);

#define UFFDWP_IMAGE_REGIONS_MAX 16384u

struct uffdwp_image_stats {
	size_t sz;
	uint64_t writes, bytes;		/* of pages, to the file; neighbours are one write */
	uint32_t direct;		/* 1: O_DIRECT was used, but for small writes */
	uint32_t registered;		/* 1: io_uring, with registered buffers */
	uint64_t file_size, file_bytes; /* after a complete end: apparent, and allocated on disk */
};

/*
 * Of a sink made by uffdwp_image_sink(), until it is freed. Set st->sz first. -EINVAL: another
 * sink, NULL, or sz smaller than the first version's. From the thread that calls the sink.
 */
int uffdwp_image_sink_stats(const struct uffdwp_sink *sink, struct uffdwp_image_stats *st);

/* ---- Reading ---------------------------------------------------------- */

struct uffdwp_image; /* an image opened for reading */

struct uffdwp_image_open_opts {
	size_t sz;
	char *reason; /* what is wrong with the file, and where; may be NULL */
	size_t reason_size;
};

/*
 * Open and check everything but the pages and their checksums, which are read when they are needed: where
 * they are damaged their pages count as damaged. -EBADMSG: not an image, truncated, damaged or
 * inconsistent, see the reason; -EOPNOTSUPP: of another format, or another byte order; -E2BIG,
 * -EINVAL, -ENOMEM, errors of open(2) and read(2). Never reads outside the file, or allocates more than
 * its data, whatever is in it. fdopen reopens fd, which stays the caller's. Thread-safe.
 */
int uffdwp_image_open(struct uffdwp_image **out, const char *path,
		      const struct uffdwp_image_open_opts *opts);
int uffdwp_image_fdopen(struct uffdwp_image **out, int fd,
			const struct uffdwp_image_open_opts *opts);
void uffdwp_image_close(struct uffdwp_image *img); /* NULL is allowed */

struct uffdwp_image_info {
	size_t sz;
	uint32_t version;		/* of the format */
	uint32_t regions;		/* how many */
	uint64_t sealed_ns;		/* the instant that it shows, CLOCK_REALTIME */
	uint64_t size;			/* of all regions */
	uint64_t data;			/* of it, bytes that are not zeros known to be zeros */
	uint64_t file_size, file_bytes; /* apparent, and allocated on disk */
	uint32_t machine;		/* ELF's e_machine */
	uint32_t page_size; /* base page of the machine that wrote it; of the checksums */
};

struct uffdwp_image_region {
	size_t sz;
	uint64_t addr, len, page_size; /* as the snapshot had it */
	uint64_t data;
	uint64_t offset; /* in the file */
};

/* Set sz first. -EINVAL: NULL, sz, or no such region. Thread-safe. */
int uffdwp_image_info(const struct uffdwp_image *img, struct uffdwp_image_info *info);
int uffdwp_image_region(const struct uffdwp_image *img, uint32_t region,
			struct uffdwp_image_region *out);

/*
 * Read and check; offset and len in bytes, of any alignment. -EBADMSG: a page is damaged, bad is
 * its offset, and what was before it is in buf; -EINVAL: not inside the region; -ENOMEM, errors of
 * read(2). bad may be NULL. Thread-safe.
 */
int uffdwp_image_read(const struct uffdwp_image *img, uint32_t region, uint64_t offset, void *buf,
		      uint64_t len, uint64_t *bad);

struct uffdwp_image_damage {
	size_t sz;
	uint64_t bytes; /* of damaged pages, in all */
	uint32_t region, reserved;
	uint64_t offset; /* the first one */
	int32_t error;	 /* -EBADMSG, or what reading it gave */
	uint32_t reserved2;
};

/* Check every page. -EBADMSG, or the first error: see damage, which may be NULL. Thread-safe. */
int uffdwp_image_verify(const struct uffdwp_image *img, struct uffdwp_image_damage *damage);

/* ---- Restoring -------------------------------------------------------- */

struct uffdwp_restore; /* an image being brought into memory */

struct uffdwp_restore_range {
	uint32_t region, reserved;
	uint64_t offset, len;
};

struct uffdwp_restore_opts {
	size_t sz;
	const struct uffdwp_image *image; /* borrowed until uffdwp_restore_free() */
	struct uffdwp *handle;		  /* borrowed; eager: NULL */
	/*
	 * Where each region of the image goes: memory of its length and page size that was never written.
	 * NULL: the addresses in the image.
	 */
	const uint64_t *addrs;
	uint32_t eager; /* 1: read all of it now, checked, without faults; no region is added */
	/* 1: regions are write-protected too, and pages arrive protected: for a tracker or a snapshot */
	uint32_t protect;
	uint32_t prefetch; /* 0: a thread fills in the rest; 1: none does, before wait or free */
	uint32_t buffered; /* 1: that thread reads through the page cache, 0: O_DIRECT if possible */
	uint32_t depth; /* reads of it in flight, at most 256; 0: 8, fewer while there are faults */
	uint32_t reserved;
	uint64_t rate; /* bytes a second, at most, by the thread; 0: no limit */
	/* What the thread begins with: as uffdwp_restore_order() recorded it; copied. */
	const struct uffdwp_restore_range *order;
	size_t norder;
	char *reason; /* what is wrong; may be NULL */
	size_t reason_size;
};

/*
 * Begin. Lazy: each region of the image is added to the handle, with missing faults, and can be used at
 * once. A page that is damaged, or can not be read, is poisoned (SIGBUS), or made inaccessible
 * (SIGSEGV) by kernels that can not (before 6.6); never wrong. Not for a handle served by SIGBUS
 * (-EOPNOTSUPP), nor an image of another machine or page size. Discards of memory that is
 * not there yet are undone by its arrival.
 * Errors: -EINVAL, -E2BIG, -ENOMEM, -EAGAIN, those of uffdwp_region_add(); eager: -EBADMSG and
 * errors of read(2), memory is undefined then. After an error nothing stays registered.
 * Not from operations (-EDEADLK). Thread-safe.
 */
int uffdwp_restore_start(struct uffdwp_restore **out, const struct uffdwp_restore_opts *opts);

/* The region that a region of the image became; NULL: eager, or there is none. Thread-safe. */
struct uffdwp_region *uffdwp_restore_region(struct uffdwp_restore *rs, uint32_t region);

struct uffdwp_restore_stats {
	size_t sz;
	int32_t error;			/* the first one; 0: none */
	uint32_t done;			/* 1: every page is there that is not zeros */
	uint64_t size;			/* to be placed: the image's data */
	uint64_t bytes;			/* of it, placed so far, damaged ones among them */
	uint64_t by_fault, by_prefetch; /* placed because somebody waited, or before */
	uint64_t faults;		/* served, those on zeros among them */
	uint64_t damaged;		/* bytes */
	/* Durations, ns: of uffdwp_restore_start(); from its begin until all was there, or 0. */
	uint64_t start_ns, done_ns;
};

/* Set st->sz first. -EINVAL: NULL, or sz smaller than the first version's. Thread-safe. */
int uffdwp_restore_stats(struct uffdwp_restore *rs, struct uffdwp_restore_stats *st);

/*
 * Wait until every page is there; reads it in the calling thread if there is no other. 0, or the
 * first error, -EBADMSG for damaged pages: also then all is there that could be. st, which may be
 * NULL, as uffdwp_restore_stats(). Not from operations. Thread-safe.
 */
int uffdwp_restore_wait(struct uffdwp_restore *rs, struct uffdwp_restore_stats *st);

/*
 * In which order pages were asked for by faults, from the beginning on: writes at most n ranges, returns
 * how many there are, or -EINVAL. Thread-safe.
 */
int64_t uffdwp_restore_order(struct uffdwp_restore *rs, struct uffdwp_restore_range *ranges,
			     size_t n);

/* How a restore ends. */
enum uffdwp_restore_end {
	UFFDWP_RESTORE_KEEP = 0, /* read the rest; the regions stay, with default operations */
	UFFDWP_RESTORE_REMOVE,	 /* read the rest; the regions are removed */
	UFFDWP_RESTORE_ABANDON,	 /* read nothing; the regions are removed, the rest is lost */
};

/*
 * End, and free rs; NULL is allowed. Returns what uffdwp_restore_wait() would. -EINVAL: how; -EDEADLK:
 * called from an operation; nothing was done then. Nobody else may use rs during or after it.
 */
int uffdwp_restore_free(struct uffdwp_restore *rs, uint32_t how);

#ifdef __cplusplus
}
#endif

#endif
