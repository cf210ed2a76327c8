/* SPDX-License-Identifier: MIT */
/*
 * uffdwp/image.h - snapshot images on disk. In libuffdwp-image, which needs
 * liburing.
 *
 *	uffdwp_image_sink(&sink, "vm.img", NULL);	// then as any sink, see uffdwp/snapshot.h
 *	...
 *	uffdwp_image_open(&img, "vm.img", NULL);
 *	uffdwp_image_read(img, 0, 0, buf, len, NULL);	// of region 0
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
	uint32_t depth;	   /* writes in flight, at most 1024; 0: 32 */
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
	uint64_t writes, bytes;		/* of pages, to the file */
	uint32_t direct;		/* 1: O_DIRECT was used */
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
 * Open and check everything but the pages' contents. -EBADMSG: not an image, truncated, damaged or
 * inconsistent, see the reason; -EOPNOTSUPP: of a newer format, or another byte order; -E2BIG,
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

#ifdef __cplusplus
}
#endif

#endif
