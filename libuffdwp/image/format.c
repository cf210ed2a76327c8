/* SPDX-License-Identifier: MIT */
/* The image file's header: where everything lies, encoding it, and decoding what may be anything. */
#include "format.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>

#include "crc32c.h"

#define PAGE_MIN 4096u
#define PAGE_MAX 65536u
#define NAME_SIZE sizeof(UFFDWP__NOTE_NAME)
#define ALIGN4(n) (((n) + 3) & ~(uint64_t)3)
#define NOTE_SIZE(name_size, size) (sizeof(Elf64_Nhdr) + ALIGN4(name_size) + ALIGN4(size))

/* The note's beginning, then a disk_region for each region. Where crc is does not change, ever. */
struct disk_note {
	uint32_t version;
	uint32_t flags;	     /* none yet; what a reader does not know it refuses */
	uint32_t header_crc; /* of the first header_size bytes, with this as 0 */
	uint32_t index_crc;
	uint64_t sealed_ns;
	uint64_t header_size;
	uint64_t table_offset, table_size;
	uint64_t file_size;
	uint32_t page_size, regions;
};

struct disk_region {
	uint64_t addr, len, page_size, offset, data;
};

_Static_assert(sizeof(struct disk_note) == 64 && sizeof(struct disk_region) == 40, "no padding");

uint32_t uffdwp__machine(void)
{
#if defined(__x86_64__)
	return EM_X86_64;
#elif defined(__aarch64__)
	return EM_AARCH64;
#elif defined(__riscv)
	return EM_RISCV;
#else
	return EM_NONE;
#endif
}

/* ---- Checksums ---- */

void uffdwp__entries(const void *buf, uint32_t page_size, uint64_t n, uint32_t *entries)
{
	uffdwp__crc32c_pages(buf, page_size, n, entries);
	for (uint64_t i = 0; i < n; i++)
		entries[i] = uffdwp__entry(entries[i]);
}

struct uffdwp__index uffdwp__index_of(const uint32_t *block)
{
	struct uffdwp__index x = { 0 };

	for (unsigned int i = 0; i < UFFDWP__BLOCK; i++)
		x.data += block[i] != UFFDWP__PAGE_ZERO;
	if (x.data)
		x.crc = uffdwp__crc32c(0, block, UFFDWP__BLOCK * sizeof(*block));
	return x;
}

void uffdwp__index_crc_begin(struct uffdwp__index_crc *t, uint32_t page_size)
{
	static const char zeros[PAGE_MIN];

	*t = (struct uffdwp__index_crc){ .page_size = page_size };
	for (uint32_t pos = 0; pos < page_size; pos += PAGE_MIN)
		t->zero = uffdwp__crc32c(t->zero, zeros, PAGE_MIN);
}

void uffdwp__index_crc_add(struct uffdwp__index_crc *t, const void *page)
{
	uint32_t crc = page ? uffdwp__crc32c(0, page, t->page_size) : t->zero;

	t->crc = uffdwp__crc32c(t->crc, &crc, sizeof(crc));
}

uint32_t uffdwp__meta_crc(const void *buf, size_t header_size, size_t crc_at)
{
	static const uint32_t zero = 0;
	uint32_t crc = uffdwp__crc32c(0, buf, crc_at);

	crc = uffdwp__crc32c(crc, &zero, sizeof(zero));
	crc_at += sizeof(zero);
	return uffdwp__crc32c(crc, (const char *)buf + crc_at, header_size - crc_at);
}

/* ---- Layout ---- */

static uint64_t headers_size(uint32_t nregions)
{
	return sizeof(Elf64_Ehdr) + (nregions + UINT64_C(1)) * sizeof(Elf64_Phdr);
}

static uint64_t note_size(uint32_t nregions)
{
	return NOTE_SIZE(NAME_SIZE,
			 sizeof(struct disk_note) + nregions * sizeof(struct disk_region));
}

static int check_region(const struct uffdwp__meta *m, uint32_t i, struct uffdwp__why *why)
{
	const struct uffdwp__extent *e = &m->regions[i];
	uint64_t end;

	if (!is_pow2(e->page_size) || e->page_size < m->page_size)
		REFUSE(why, -EINVAL, "region %u: page size %llu", i,
		       (unsigned long long)e->page_size);
	if (!e->len || (e->addr | e->len) & (e->page_size - 1) ||
	    __builtin_add_overflow(e->addr, e->len, &end))
		REFUSE(why, -EINVAL, "region %u: address 0x%llx, length %llu", i,
		       (unsigned long long)e->addr, (unsigned long long)e->len);
	return 0;
}

static int by_addr(const void *a, const void *b)
{
	const struct uffdwp__extent *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int check_overlaps(const struct uffdwp__meta *m, struct uffdwp__why *why)
{
	struct uffdwp__extent *sorted = calloc(m->nregions, sizeof(*sorted));
	uint32_t i;

	if (!sorted)
		return -ENOMEM;
	memcpy(sorted, m->regions, m->nregions * sizeof(*sorted));
	qsort(sorted, m->nregions, sizeof(*sorted), by_addr);
	for (i = 1; i < m->nregions; i++)
		if (sorted[i - 1].addr + sorted[i - 1].len > sorted[i].addr)
			break;
	free(sorted);
	if (i < m->nregions)
		REFUSE(why, -EINVAL, "regions overlap");
	return 0;
}

static bool place_table(struct uffdwp__meta *m)
{
	uint64_t bytes;

	return !__builtin_mul_overflow(m->pages, sizeof(uint32_t), &bytes) &&
	       round_up(bytes, m->page_size, &m->table_size) &&
	       round_up(uffdwp__blocks(m) * sizeof(struct uffdwp__index), m->page_size,
			&m->index_size) &&
	       round_up(m->header_size, m->page_size, &m->index_offset) &&
	       !__builtin_add_overflow(m->index_offset, m->index_size, &m->table_offset) &&
	       !__builtin_add_overflow(m->table_offset, m->table_size, &m->file_size);
}

static bool place_regions(struct uffdwp__meta *m)
{
	for (uint32_t i = 0; i < m->nregions; i++) {
		m->regions[i].offset = m->file_size;
		if (__builtin_add_overflow(m->file_size, m->regions[i].len, &m->file_size))
			return false;
	}
	return m->file_size <= INT64_MAX;
}

int uffdwp__meta_layout(struct uffdwp__meta *m, uint64_t notes, struct uffdwp__why *why)
{
	int err = 0;

	if (!is_pow2(m->page_size) || m->page_size < PAGE_MIN || m->page_size > PAGE_MAX)
		REFUSE(why, -EINVAL, "page size %u", m->page_size);
	if (!m->nregions || m->nregions > UFFDWP__REGIONS_MAX)
		REFUSE(why, -EINVAL, "%u regions, can be 1 to %d", m->nregions,
		       UFFDWP__REGIONS_MAX);
	m->shift = (unsigned int)__builtin_ctz(m->page_size);
	m->header_size = headers_size(m->nregions) + notes + note_size(m->nregions);
	m->pages = m->size = 0;
	for (uint32_t i = 0; !err && i < m->nregions; i++) {
		err = check_region(m, i, why);
		m->regions[i].first = m->pages;
		m->pages += m->regions[i].len >> m->shift;
		m->size += m->regions[i].len;
	}
	if (!err)
		err = check_overlaps(m, why);
	if (!err && !(place_table(m) && place_regions(m)))
		REFUSE(why, -EINVAL, "the regions are too large for a file");
	return err;
}

/* ---- Encoding ---- */

uint64_t uffdwp__process_notes_size(const struct uffdwp__process *p)
{
	uint64_t size = 0;

	if (p->pid >= 0)
		size += NOTE_SIZE(sizeof("CORE"), sizeof(struct elf_prstatus));
	if (p->auxv_size)
		size += NOTE_SIZE(sizeof("CORE"), p->auxv_size);
	return size;
}

/* Appends a note of size bytes, to a buffer that is zero, and returns where its description goes. */
static char *put_note(char **at, const char *name, uint32_t type, uint64_t size)
{
	Elf64_Nhdr n = { .n_namesz = (uint32_t)strlen(name) + 1,
			 .n_descsz = (uint32_t)size,
			 .n_type = type };
	char *desc = *at + sizeof(n) + ALIGN4(n.n_namesz);

	memcpy(*at, &n, sizeof(n));
	memcpy(*at + sizeof(n), name, n.n_namesz);
	*at = desc + ALIGN4(size);
	return desc;
}

/* Without a thread gdb complains, without AT_ENTRY it can not tell where a PIE program was. */
static void put_process(char **at, const struct uffdwp__process *p)
{
	struct elf_prstatus status;

	memset(&status, 0, sizeof(status));
	status.pr_pid = p->pid;
	if (p->pid >= 0)
		memcpy(put_note(at, "CORE", NT_PRSTATUS, sizeof(status)), &status, sizeof(status));
	if (p->auxv_size)
		memcpy(put_note(at, "CORE", NT_AUXV, p->auxv_size), p->auxv, p->auxv_size);
}

static void put_headers(const struct uffdwp__meta *m, char *buf)
{
	Elf64_Ehdr eh = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				       EV_CURRENT },
			  .e_type = ET_CORE,
			  .e_machine = (uint16_t)m->machine,
			  .e_version = EV_CURRENT,
			  .e_phoff = sizeof(eh),
			  .e_ehsize = sizeof(eh),
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = (uint16_t)(m->nregions + 1) };
	uint64_t at = headers_size(m->nregions);
	Elf64_Phdr ph = { .p_type = PT_NOTE,
			  .p_flags = PF_R,
			  .p_offset = at,
			  .p_filesz = m->header_size - at,
			  .p_align = 4 };

	memcpy(buf, &eh, sizeof(eh));
	memcpy(buf + sizeof(eh), &ph, sizeof(ph));
	for (uint32_t i = 0; i < m->nregions; i++) {
		const struct uffdwp__extent *e = &m->regions[i];

		ph = (Elf64_Phdr){ .p_type = PT_LOAD,
				   .p_flags = PF_R | PF_W,
				   .p_offset = e->offset,
				   .p_vaddr = e->addr,
				   .p_filesz = e->len,
				   .p_memsz = e->len,
				   .p_align = m->page_size };
		memcpy(buf + sizeof(eh) + (i + 1) * sizeof(ph), &ph, sizeof(ph));
	}
}

static struct disk_note disk_note(const struct uffdwp__meta *m)
{
	return (struct disk_note){ .version = m->version,
				   .flags = m->flags,
				   .index_crc = m->index_crc,
				   .sealed_ns = m->sealed_ns,
				   .header_size = m->header_size,
				   .table_offset = m->table_offset,
				   .table_size = m->table_size,
				   .file_size = m->file_size,
				   .page_size = m->page_size,
				   .regions = m->nregions };
}

void uffdwp__meta_encode(const struct uffdwp__meta *m, const struct uffdwp__process *p, void *buf)
{
	char *at = (char *)buf + headers_size(m->nregions), *desc;
	struct disk_note d = disk_note(m);
	size_t crc_at;
	uint32_t crc;

	memset(buf, 0, m->header_size);
	put_headers(m, buf);
	put_process(&at, p);
	desc = put_note(&at, UFFDWP__NOTE_NAME, UFFDWP__NOTE_TYPE,
			sizeof(d) + m->nregions * sizeof(struct disk_region));
	memcpy(desc, &d, sizeof(d));
	for (uint32_t i = 0; i < m->nregions; i++) {
		const struct uffdwp__extent *e = &m->regions[i];
		struct disk_region r = { e->addr, e->len, e->page_size, e->offset, e->data };

		memcpy(desc + sizeof(d) + i * sizeof(r), &r, sizeof(r));
	}
	crc_at = (size_t)(desc - (char *)buf) + offsetof(struct disk_note, header_crc);
	crc = uffdwp__meta_crc(buf, m->header_size, crc_at);
	memcpy((char *)buf + crc_at, &crc, sizeof(crc));
}

/* ---- Decoding ---- */

struct header {
	const char *buf;
	size_t len; /* of buf */
	uint64_t file_size;
	uint64_t size;	/* of the header: the end of the notes */
	uint64_t notes; /* where they begin */
	uint64_t desc;	/* where our note's description begins, after find_note() */
	uint64_t desc_size;
	uint32_t nregions;
	uint32_t machine;
};

static int check_ident(const struct header *h, struct uffdwp__why *why)
{
	const unsigned char *id = (const unsigned char *)h->buf;

	if (h->len < sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr))
		REFUSE(why, -EBADMSG, "%llu bytes: shorter than any ELF core file",
		       (unsigned long long)h->file_size);
	if (memcmp(id, ELFMAG, SELFMAG))
		REFUSE(why, -EBADMSG, "not an ELF file: it begins with %02x %02x %02x %02x", id[0],
		       id[1], id[2], id[3]);
	if (id[EI_CLASS] == ELFCLASS64 && id[EI_DATA] == ELFDATA2MSB)
		REFUSE(why, -EOPNOTSUPP, "byte 5: of the other byte order");
	if (id[EI_CLASS] != ELFCLASS64 || id[EI_DATA] != ELFDATA2LSB)
		REFUSE(why, -EBADMSG, "byte 4: ELF class %u, data %u: not a 64-bit one",
		       id[EI_CLASS], id[EI_DATA]);
	return 0;
}

static int check_headers(struct header *h, struct uffdwp__why *why)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;

	memcpy(&eh, h->buf, sizeof(eh));
	memcpy(&ph, h->buf + sizeof(eh), sizeof(ph));
	if (eh.e_type != ET_CORE)
		REFUSE(why, -EBADMSG, "byte 16: ELF type %u: not a core file", eh.e_type);
	if (eh.e_phoff != sizeof(eh) || eh.e_phentsize != sizeof(ph) || eh.e_phnum < 2 ||
	    eh.e_phnum > UFFDWP__REGIONS_MAX + 1)
		REFUSE(why, -EBADMSG, "byte 32: %u program headers of %u bytes at %llu", eh.e_phnum,
		       eh.e_phentsize, (unsigned long long)eh.e_phoff);
	h->machine = eh.e_machine;
	h->nregions = eh.e_phnum - 1u;
	h->notes = headers_size(h->nregions);
	if (ph.p_type != PT_NOTE || ph.p_offset != h->notes ||
	    ph.p_filesz > UFFDWP__HEADER_MAX - h->notes)
		REFUSE(why, -EBADMSG, "byte 64: no notes after the program headers");
	h->size = h->notes + ph.p_filesz;
	if (h->size > h->len)
		REFUSE(why, -EBADMSG, "truncated: a header of %llu bytes in a file of %llu",
		       (unsigned long long)h->size, (unsigned long long)h->file_size);
	return 0;
}

static int find_note(struct header *h, struct uffdwp__why *why)
{
	uint64_t at = h->notes;
	Elf64_Nhdr n;

	while (h->size - at >= sizeof(n)) {
		uint64_t desc, end;

		memcpy(&n, h->buf + at, sizeof(n));
		desc = at + NOTE_SIZE(n.n_namesz, 0);
		end = desc + ALIGN4(n.n_descsz);
		if (end > h->size)
			REFUSE(why, -EBADMSG, "byte %llu: a note passes the end of the notes",
			       (unsigned long long)at);
		if (n.n_type == UFFDWP__NOTE_TYPE && n.n_namesz == NAME_SIZE &&
		    !memcmp(h->buf + at + sizeof(n), UFFDWP__NOTE_NAME, NAME_SIZE)) {
			h->desc = desc;
			h->desc_size = n.n_descsz;
			return 0;
		}
		at = end;
	}
	REFUSE(why, -EBADMSG, "an ELF core file without libuffdwp's note: not an image");
}

static int check_note(const struct header *h, struct disk_note *d, struct uffdwp__why *why)
{
	size_t crc_at = h->desc + offsetof(struct disk_note, header_crc);
	uint32_t crc;

	if (h->desc_size < sizeof(*d))
		REFUSE(why, -EBADMSG, "byte %llu: a note of %llu bytes is too short",
		       (unsigned long long)h->desc, (unsigned long long)h->desc_size);
	memcpy(d, h->buf + h->desc, sizeof(*d));
	crc = uffdwp__meta_crc(h->buf, h->size, crc_at);
	if (crc != d->header_crc)
		REFUSE(why, -EBADMSG, "bytes 0 to %llu: damaged: checksum %08x, should be %08x",
		       (unsigned long long)h->size, crc, d->header_crc);
	if (d->version != UFFDWP__IMAGE_VERSION || d->flags)
		REFUSE(why, -EOPNOTSUPP, "of format %u, flags 0x%x: this library knows format %d",
		       d->version, d->flags, UFFDWP__IMAGE_VERSION);
	if (d->regions != h->nregions ||
	    h->desc_size != sizeof(*d) + d->regions * sizeof(struct disk_region))
		REFUSE(why, -EBADMSG, "byte %llu: %u regions in a note of %llu bytes",
		       (unsigned long long)h->desc, d->regions, (unsigned long long)h->desc_size);
	return 0;
}

static void get_regions(const struct header *h, struct uffdwp__meta *m)
{
	const char *at = h->buf + h->desc + sizeof(struct disk_note);

	for (uint32_t i = 0; i < m->nregions; i++) {
		struct disk_region r;

		memcpy(&r, at + i * sizeof(r), sizeof(r));
		m->regions[i].addr = r.addr;
		m->regions[i].len = r.len;
		m->regions[i].page_size = r.page_size;
		m->regions[i].data = r.data;
	}
}

/* Whether the file says of region i what follows from the lengths, twice. */
static bool region_agrees(const struct header *h, const struct uffdwp__meta *m, uint32_t i)
{
	const struct uffdwp__extent *e = &m->regions[i];
	struct disk_region r;
	Elf64_Phdr ph;

	memcpy(&r, h->buf + h->desc + sizeof(struct disk_note) + i * sizeof(r), sizeof(r));
	memcpy(&ph, h->buf + sizeof(Elf64_Ehdr) + (i + 1) * sizeof(ph), sizeof(ph));
	return r.offset == e->offset && ph.p_type == PT_LOAD && ph.p_offset == e->offset &&
	       ph.p_vaddr == e->addr && ph.p_filesz == e->len && ph.p_memsz == e->len;
}

static int check_layout(const struct header *h, const struct uffdwp__meta *m,
			const struct disk_note *d, struct uffdwp__why *why)
{
	if (d->header_size != m->header_size || m->header_size != h->size ||
	    d->table_offset != m->table_offset || d->table_size != m->table_size ||
	    d->file_size != m->file_size)
		REFUSE(why, -EBADMSG, "byte %llu: sizes that do not follow from the regions",
		       (unsigned long long)h->desc);
	for (uint32_t i = 0; i < m->nregions; i++)
		if (!region_agrees(h, m, i))
			REFUSE(why, -EBADMSG, "region %u: note and program headers disagree", i);
	for (uint32_t i = 0; i < m->nregions; i++)
		if (m->regions[i].data > m->regions[i].len ||
		    m->regions[i].data & (m->page_size - 1))
			REFUSE(why, -EBADMSG, "region %u: %llu bytes of data", i,
			       (unsigned long long)m->regions[i].data);
	if (h->file_size != m->file_size)
		REFUSE(why, -EBADMSG, "%s: %llu bytes, should be %llu",
		       h->file_size < m->file_size ? "truncated" : "too long",
		       (unsigned long long)h->file_size, (unsigned long long)m->file_size);
	return 0;
}

/* Everything is computed again from what can not be: the regions, and the size of other notes. */
static int decode(const struct header *h, struct uffdwp__meta *m, const struct disk_note *d,
		  struct uffdwp__why *why)
{
	uint64_t own = note_size(h->nregions);
	int err;

	m->version = d->version;
	m->machine = h->machine;
	m->page_size = d->page_size;
	m->nregions = d->regions;
	m->sealed_ns = d->sealed_ns;
	m->index_crc = d->index_crc;
	m->regions = calloc(m->nregions, sizeof(*m->regions));
	if (!m->regions)
		return -ENOMEM;
	get_regions(h, m);
	err = uffdwp__meta_layout(m, h->size - h->notes - own, why);
	if (err == -EINVAL)
		err = -EBADMSG;
	return err ? err : check_layout(h, m, d, why);
}

uint64_t uffdwp__meta_need(const void *buf, size_t len)
{
	Elf64_Phdr ph;

	if (len < sizeof(Elf64_Ehdr) + sizeof(ph))
		return len;
	memcpy(&ph, (const char *)buf + sizeof(Elf64_Ehdr), sizeof(ph));
	if (ph.p_offset > UFFDWP__HEADER_MAX || ph.p_filesz > UFFDWP__HEADER_MAX - ph.p_offset)
		return len;
	return ph.p_offset + ph.p_filesz;
}

int uffdwp__meta_decode(struct uffdwp__meta *m, const void *buf, size_t len, uint64_t file_size,
			struct uffdwp__why *why)
{
	struct header h = { .buf = buf, .len = len, .file_size = file_size };
	struct disk_note d;
	int err;

	memset(m, 0, sizeof(*m));
	if ((err = check_ident(&h, why)) || (err = check_headers(&h, why)) ||
	    (err = find_note(&h, why)) || (err = check_note(&h, &d, why)))
		return err;
	return decode(&h, m, &d, why);
}

size_t uffdwp__meta_crc_at(const void *buf, size_t len, uint64_t *header_size)
{
	struct header h = { .buf = buf, .len = len, .file_size = len };
	struct uffdwp__why none = { 0 };

	if (check_ident(&h, &none) || check_headers(&h, &none) || find_note(&h, &none) ||
	    h.desc_size < sizeof(struct disk_note))
		return 0;
	*header_size = h.size;
	return h.desc + offsetof(struct disk_note, header_crc);
}
