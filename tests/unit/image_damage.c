/* SPDX-License-Identifier: MIT */
/*
 * Damaged and hostile images: every byte of the header, the index and the table flipped, every length cut
 * off, and headers that lie with a checksum that is right. Each is refused with words, or gives the same data,
 * or, where only the table is damaged, none.
 */
#include "image_dir.h"

#include <elf.h>

#include "image/format.h"

static struct dir dir;
static struct image_part part[2] = {
	{ 0x7f0000400000, 8 * 4096, 4096, NULL },
	{ 0x7f0000000000, 4096, 4096, NULL },
};
static char *file; /* the whole image */
static size_t size;
static uint64_t header_size, crc_at, index_at, table_at, table_end;

static void begin_test(void)
{
	struct stat st;
	int fd;

	dir_make(&dir, NULL);
	for (int i = 0; i < 2; i++) {
		char *data = malloc(part[i].len);

		ck_assert_ptr_nonnull(data);
		image_fill(data, part[i].len, 3 + (uint64_t)i, i ? 0 : 3);
		part[i].data = data;
	}
	ck_assert_int_eq(image_make(dir.image, NULL, part, 2), 0);
	fd = open(dir.image, O_RDONLY);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	size = (size_t)st.st_size;
	file = malloc(size);
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(pread(fd, file, size, 0), (ssize_t)size);
	close(fd);
	crc_at = uffdwp__meta_crc_at(file, size, &header_size);
	ck_assert_uint_gt(crc_at, 0);
	index_at = (header_size + 4095) / 4096 * 4096;
	table_at = index_at + 4096;
	table_end = table_at + 4096;
	ck_assert_uint_eq(size, table_end + part[0].len + part[1].len);
}

static void end_test(void)
{
	free(file);
	for (int i = 0; i < 2; i++)
		free((void *)(uintptr_t)part[i].data);
	dir_remove(&dir);
}

static int open_fd(struct uffdwp_image **img, int fd, char *why, size_t why_size)
{
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = why_size };

	why[0] = '\0';
	return uffdwp_image_fdopen(img, fd, &o);
}

/* A file to be damaged, in memory. */
static int copy_of(const void *bytes, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, bytes, len), (ssize_t)len);
	return fd;
}

/* Every byte, or some of all kinds where a system call takes long. */
static size_t stride(void)
{
	return getenv("UFFDWP_BRIEF") ? 7 : 1;
}

static void put_byte(int fd, size_t at, int byte)
{
	char c = (char)byte;

	ck_assert_int_eq(pwrite(fd, &c, 1, (off_t)at), 1);
}

static int open_bytes(struct uffdwp_image **img, const void *bytes, size_t len, char *why,
		      size_t why_size)
{
	int fd = copy_of(bytes, len), err;

	err = open_fd(img, fd, why, why_size);
	close(fd);
	return err;
}

/* Refused with a reason, or the same data. Returns whether refused. */
static bool refused_or_same(int fd)
{
	struct uffdwp_image *img;
	char why[256], got[8 * 4096];
	int err = open_fd(&img, fd, why, sizeof(why));

	if (err) {
		ck_assert_msg(err == -EBADMSG || err == -EOPNOTSUPP, "error %d", err);
		ck_assert_ptr_null(img);
		ck_assert_msg(strlen(why) > 10, "no reason, but \"%s\"", why);
		return true;
	}
	for (uint32_t i = 0; i < 2; i++) {
		err = uffdwp_image_read(img, i, 0, got, part[i].len, NULL);
		ck_assert_int_eq(err, 0);
		ck_assert_int_eq(memcmp(got, part[i].data, part[i].len), 0);
	}
	uffdwp_image_close(img);
	return false;
}

START_TEST(every_byte_flipped)
{
	size_t same = 0, between = 0;
	int fd;

	begin_test();
	fd = copy_of(file, size);
	for (size_t at = 0; at < table_at; at += stride()) {
		between += at >= header_size && at < index_at;
		put_byte(fd, at, ~file[at]);
		if (!refused_or_same(fd)) {
			/* Between the header and the index nothing counts. */
			ck_assert_uint_ge(at, header_size);
			ck_assert_uint_lt(at, index_at);
			same++;
		}
		put_byte(fd, at, file[at]);
	}
	ck_assert_uint_gt(between, 0);
	ck_assert_uint_eq(same, between);
	ck_assert(!refused_or_same(fd));
	close(fd);
	end_test();
}
END_TEST

/* Opening does not look at the table; whoever needs it finds out, and no page of it is given out. */
START_TEST(table_flipped)
{
	struct uffdwp_image *img;
	char why[256], got[4096];
	int fd;

	begin_test();
	fd = copy_of(file, size);
	for (size_t at = table_at; at < table_end; at += stride()) {
		struct uffdwp_image_damage d = { .sz = sizeof(d) };
		uint64_t bad = 99;

		put_byte(fd, at, ~file[at]);
		ck_assert_int_eq(open_fd(&img, fd, why, sizeof(why)), 0);
		for (uint64_t page = 0; page < 9; page++) {
			uint64_t offset = page < 8 ? page * 4096 : 0;

			ck_assert_int_eq(uffdwp_image_read(img, page == 8, offset, got, 4096, &bad),
					 -EBADMSG);
			ck_assert_uint_eq(bad, offset);
		}
		/* Which takes its time. */
		if (at % 64 == 0) {
			ck_assert_int_eq(uffdwp_image_verify(img, &d), -EBADMSG);
			ck_assert_uint_eq(d.bytes, part[0].len + part[1].len);
		}
		uffdwp_image_close(img);
		put_byte(fd, at, file[at]);
	}
	close(fd);
	end_test();
}
END_TEST

START_TEST(every_length)
{
	int fd;

	begin_test();
	fd = copy_of(file, size);
	put_byte(fd, size, 0);
	ck_assert(refused_or_same(fd));
	for (size_t len = size - 1, less; len; len -= min_u64(len, less)) {
		ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
		ck_assert(refused_or_same(fd));
		less = len <= table_end ? stride() : min_u64(511, len - table_end);
	}
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert(refused_or_same(fd));
	close(fd);
	end_test();
}
END_TEST

/* Damage in a page is found, told where it is, and does not touch the others; in a hole it does not count. */
START_TEST(pages)
{
	struct uffdwp_image *img;
	char why[256], got[8 * 4096];

	begin_test();
	for (uint64_t page = 0; page < 8; page++) {
		struct uffdwp_image_damage d = { .sz = sizeof(d) };
		char *at = file + table_end + page * 4096 + page * 500;
		bool zero = !*at && !memcmp(at - page * 500, got, 0) && !at[1] && !at[2] && !at[3];
		uint64_t bad = 99;
		int want = zero ? 0 : -EBADMSG;

		*at = (char)~*at;
		ck_assert_int_eq(open_bytes(&img, file, size, why, sizeof(why)), 0);
		ck_assert_int_eq(uffdwp_image_read(img, 0, 0, got, part[0].len, &bad), want);
		ck_assert_uint_eq(bad, want ? page * 4096 : 99);
		ck_assert_int_eq(memcmp(got, part[0].data, want ? page * 4096 : part[0].len), 0);
		ck_assert_int_eq(uffdwp_image_verify(img, &d), want);
		ck_assert_uint_eq(d.bytes, want ? 4096 : 0);
		ck_assert_uint_eq(d.offset, want ? page * 4096 : 0);
		ck_assert_int_eq(d.error, want);
		/* One byte beside it, and one in it. */
		ck_assert_int_eq(uffdwp_image_read(img, 0, page ? 0 : 4096, got, 4096, NULL), 0);
		ck_assert_int_eq(uffdwp_image_read(img, 0, page * 4096 + 4095, got, 1, NULL), want);
		uffdwp_image_close(img);
		*at = (char)~*at;
	}
	end_test();
}
END_TEST

/* ---- Lies with the right checksum ---- */

struct lie {
	const char *what;
	size_t at; /* in the ELF header, or behind it as below */
	size_t width;
	uint64_t value;
	int err;
	const char *word;
};

#define PHDR(n, field) (sizeof(Elf64_Ehdr) + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))
#define NOTE ((size_t)1 << 32) /* added: an offset in our note's description */

static const struct lie lies[] = {
	{ "class", EI_CLASS, 1, ELFCLASS32, -EBADMSG, "64-bit" },
	{ "byte order", EI_DATA, 1, ELFDATA2MSB, -EOPNOTSUPP, "byte order" },
	{ "type", offsetof(Elf64_Ehdr, e_type), 2, ET_EXEC, -EBADMSG, "not a core" },
	{ "no segments", offsetof(Elf64_Ehdr, e_phnum), 2, 1, -EBADMSG, "program headers" },
	{ "fewer segments", offsetof(Elf64_Ehdr, e_phnum), 2, 2, -EBADMSG, "notes" },
	{ "many segments", offsetof(Elf64_Ehdr, e_phnum), 2, 0xffff, -EBADMSG, "program headers" },
	{ "headers elsewhere", offsetof(Elf64_Ehdr, e_phoff), 8, 1u << 30, -EBADMSG, "headers" },
	{ "header size", offsetof(Elf64_Ehdr, e_phentsize), 2, 0, -EBADMSG, "program headers" },
	{ "notes elsewhere", PHDR(0, p_offset), 8, 0, -EBADMSG, "notes" },
	{ "notes huge", PHDR(0, p_filesz), 8, UINT64_MAX, -EBADMSG, "notes" },
	{ "notes large", PHDR(0, p_filesz), 8, 3u << 20, -EBADMSG, "truncated" },
	{ "no notes", PHDR(0, p_filesz), 8, 0, -EBADMSG, "without libuffdwp's note" },
	{ "load type", PHDR(1, p_type), 4, PT_NULL, -EBADMSG, "disagree" },
	{ "load address", PHDR(1, p_vaddr), 8, 4096, -EBADMSG, "disagree" },
	{ "load offset", PHDR(2, p_offset), 8, 0, -EBADMSG, "disagree" },
	{ "load size", PHDR(1, p_filesz), 8, 4096, -EBADMSG, "disagree" },
	{ "load memory", PHDR(2, p_memsz), 8, 8192, -EBADMSG, "disagree" },
	{ "version", NOTE + 0, 4, 3, -EOPNOTSUPP, "format 3" },
	{ "flags", NOTE + 4, 4, 1, -EOPNOTSUPP, "flags 0x1" },
	{ "index checksum", NOTE + 12, 4, 0, -EBADMSG, "index damaged" },
	{ "header", NOTE + 24, 8, 64, -EBADMSG, "sizes" },
	{ "table offset", NOTE + 32, 8, 0, -EBADMSG, "sizes" },
	{ "table size", NOTE + 40, 8, UINT64_MAX, -EBADMSG, "sizes" },
	{ "file size", NOTE + 48, 8, 4096, -EBADMSG, "sizes" },
	{ "page size 0", NOTE + 56, 4, 0, -EBADMSG, "page size" },
	{ "page size 512", NOTE + 56, 4, 512, -EBADMSG, "page size" },
	{ "page size odd", NOTE + 56, 4, 4097, -EBADMSG, "page size" },
	{ "page size 2M", NOTE + 56, 4, 2u << 20, -EBADMSG, "page size" },
	{ "page size 64K", NOTE + 56, 4, 65536, -EBADMSG, "page size" },
	{ "no regions", NOTE + 60, 4, 0, -EBADMSG, "regions" },
	{ "many regions", NOTE + 60, 4, UINT32_MAX, -EBADMSG, "regions" },
	{ "address unaligned", NOTE + 64, 8, 1, -EBADMSG, "address" },
	{ "address at the end", NOTE + 64, 8, 0 - UINT64_C(4096), -EBADMSG, "address" },
	{ "overlap", NOTE + 64, 8, 0x7f0000000000, -EBADMSG, "overlap" },
	{ "length 0", NOTE + 72, 8, 0, -EBADMSG, "length" },
	{ "length huge", NOTE + 72, 8, UINT64_C(1) << 63, -EBADMSG, "too large" },
	{ "length large", NOTE + 72, 8, UINT64_C(1) << 46, -EBADMSG, "overlap|sizes" },
	{ "region page 0", NOTE + 80, 8, 0, -EBADMSG, "page size" },
	{ "region page huge", NOTE + 80, 8, UINT64_C(1) << 63, -EBADMSG, "address" },
	{ "region offset", NOTE + 88, 8, 0, -EBADMSG, "disagree" },
	{ "no region data", NOTE + 96, 8, 0, -EBADMSG, "other data" },
	{ "region data odd", NOTE + 96, 8, 1, -EBADMSG, "bytes of data" },
	{ "region data huge", NOTE + 96, 8, UINT64_MAX << 12, -EBADMSG, "bytes of data" },
};

static bool has_word(const char *why, const char *words)
{
	char copy[64], *rest = copy, *w;

	(void)snprintf(copy, sizeof(copy), "%s", words);
	while ((w = strsep(&rest, "|")))
		if (strstr(why, w))
			return true;
	return false;
}

START_TEST(liar)
{
	const struct lie *l = &lies[_i];
	size_t note = NOTE;
	struct uffdwp_image *img;
	char why[256], *at;
	uint64_t now = header_size;
	uint32_t crc;
	int err;

	begin_test();
	at = file + (l->at >= note ? l->at - note + crc_at - 8 : l->at);
	memcpy(at, &l->value, l->width);
	/* Where the header is said to end elsewhere, its checksum ends there too. */
	if (uffdwp__meta_crc_at(file, size, &now) == crc_at) {
		crc = uffdwp__meta_crc(file, now, crc_at);
		memcpy(file + crc_at, &crc, sizeof(crc));
	}
	err = open_bytes(&img, file, size, why, sizeof(why));
	ck_assert_msg(err == l->err, "%s: %d, should be %d: %s", l->what, err, l->err, why);
	ck_assert_msg(has_word(why, l->word), "%s: \"%s\" has no \"%s\"", l->what, why, l->word);
	end_test();
}
END_TEST

/* ---- Other files ---- */

/* Sparse, and as large as a file can be: nothing may be allocated for what is not there. */
START_TEST(huge)
{
	struct uffdwp__extent e = { .addr = 4096, .len = UINT64_C(1) << 40, .page_size = 4096 };
	struct uffdwp__meta m = {
		.version = UFFDWP__IMAGE_VERSION, .page_size = 4096, .nregions = 1, .regions = &e
	};
	struct uffdwp__process p = { .pid = -1 };
	struct uffdwp__why none = { 0 };
	struct uffdwp__index_crc crc;
	struct uffdwp_image_info info = { .sz = sizeof(info) };
	struct uffdwp_image *img;
	char header[4096], byte = 1;
	int fd = memfd_create("huge", MFD_CLOEXEC);

	ck_assert_int_eq(uffdwp__meta_layout(&m, 0, &none), 0);
	uffdwp__index_crc_begin(&crc, m.page_size);
	for (uint64_t i = 0; i < m.index_size / m.page_size; i++)
		uffdwp__index_crc_add(&crc, NULL);
	m.index_crc = crc.crc;
	uffdwp__meta_encode(&m, &p, header);
	ck_assert_int_eq(ftruncate(fd, (off_t)m.file_size), 0);
	ck_assert_int_eq(pwrite(fd, header, m.header_size, 0), (ssize_t)m.header_size);
	ck_assert_int_eq(uffdwp_image_fdopen(&img, fd, NULL), 0);
	ck_assert_int_eq(uffdwp_image_info(img, &info), 0);
	ck_assert_uint_eq(info.size, UINT64_C(1) << 40);
	ck_assert_uint_eq(info.data, 0);
	ck_assert_int_eq(uffdwp_image_read(img, 0, (UINT64_C(1) << 40) - 1, &byte, 1, NULL), 0);
	ck_assert_int_eq(byte, 0);
	ck_assert_int_eq(uffdwp_image_read(img, 0, UINT64_C(1) << 40, &byte, 1, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_read(img, 0, UINT64_MAX, &byte, 1, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_verify(img, NULL), 0);
	uffdwp_image_close(img);
	close(fd);
}
END_TEST

static void expect_refused(const char *path, int want, const char *word)
{
	char why[256] = "";
	struct uffdwp_image_open_opts o = { .sz = sizeof(o),
					    .reason = why,
					    .reason_size = sizeof(why) };
	struct uffdwp_image *img;

	ck_assert_int_eq(uffdwp_image_open(&img, path, &o), want);
	ck_assert_msg(strstr(why, word), "%s: \"%s\" has no \"%s\"", path, why, word);
}

START_TEST(foreign)
{
	char path[256];

	begin_test();
	expect_refused("/proc/self/exe", -EBADMSG, "not a core file");
	expect_refused("/dev/zero", -EBADMSG, "regular");
	expect_refused(dir.path, -EBADMSG, "regular");
	expect_refused("/nowhere/vm.img", -ENOENT, "/nowhere");
	(void)snprintf(path, sizeof(path), "%s/pipe", dir.path);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	expect_refused(path, -EBADMSG, "regular");
	end_test();
}
END_TEST

/* Cut after it was opened, before its pages or before its table: an error, not the end of the program. */
START_TEST(cut_while_open)
{
	struct uffdwp_image_damage d = { .sz = sizeof(d) };
	struct uffdwp_image *img;
	char got[4096];

	begin_test();
	for (uint64_t len = table_end, i = 0; i < 2; i++, len = table_at) {
		ck_assert_int_eq(image_make(dir.image, NULL, part, 2), 0);
		ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
		ck_assert_int_eq(truncate(dir.image, (off_t)len), 0);
		ck_assert_int_eq(uffdwp_image_read(img, 1, 0, got, sizeof(got), NULL), -EBADMSG);
		ck_assert_int_eq(uffdwp_image_verify(img, &d), -EBADMSG);
		ck_assert_int_eq(d.error, -EBADMSG);
		ck_assert_uint_gt(d.bytes, 0);
		uffdwp_image_close(img);
	}
	end_test();
}
END_TEST

START_TEST(arguments)
{
	struct uffdwp_image_open_opts o = { .sz = sizeof(o) }, *longer;
	struct uffdwp_image_region r = { .sz = sizeof(r) };
	struct uffdwp_image_info info = { .sz = 4 };
	struct uffdwp_image_damage d = { .sz = 4 };
	struct uffdwp_image *img;
	char byte;

	begin_test();
	ck_assert_int_eq(uffdwp_image_open(NULL, dir.image, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_open(&img, NULL, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_fdopen(&img, -1, NULL), -EBADF);
	longer = args_longer(&o, sizeof(o), 1);
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, longer), -E2BIG);
	free(longer);
	o.sz = 8;
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, &o), -EINVAL);
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	ck_assert_int_eq(uffdwp_image_info(img, &info), -EINVAL);
	ck_assert_int_eq(uffdwp_image_info(img, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_info(NULL, &info), -EINVAL);
	ck_assert_int_eq(uffdwp_image_region(img, 2, &r), -EINVAL);
	ck_assert_int_eq(uffdwp_image_region(NULL, 0, &r), -EINVAL);
	ck_assert_int_eq(uffdwp_image_read(NULL, 0, 0, &byte, 1, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_read(img, 2, 0, &byte, 1, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_read(img, 0, 0, NULL, 1, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_read(img, 0, part[0].len, NULL, 0, NULL), 0);
	ck_assert_int_eq(uffdwp_image_verify(NULL, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_image_verify(img, &d), -EINVAL);
	uffdwp_image_close(img);
	uffdwp_image_close(NULL);
	end_test();
}
END_TEST

/* Reads of any alignment give what reading all gives. */
START_TEST(unaligned)
{
	uint64_t x = 1;
	struct uffdwp_image *img;
	char got[3 * 4096];

	begin_test();
	ck_assert_int_eq(uffdwp_image_open(&img, dir.image, NULL), 0);
	for (int i = 0; i < 3000; i++) {
		uint64_t at, n;

		x = x * 6364136223846793005u + 1442695040888963407u;
		at = (x >> 33) % (part[0].len - sizeof(got));
		n = (x >> 20) % sizeof(got);
		ck_assert_int_eq(uffdwp_image_read(img, 0, at, got, n, NULL), 0);
		ck_assert_int_eq(memcmp(got, part[0].data + at, n), 0);
	}
	uffdwp_image_close(img);
	end_test();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		every_byte_flipped, table_flipped, every_length, pages, huge, foreign,
		cut_while_open,	    arguments,	   unaligned
	};

	return args_run("image_damage", tests, sizeof(tests) / sizeof(tests[0]), liar,
			sizeof(lies) / sizeof(lies[0]));
}
