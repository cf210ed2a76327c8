/* SPDX-License-Identifier: MIT */
/* uffd-image info and verify. */
#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tool.h"

static const char *machine_name(uint32_t machine, char *buf, size_t size)
{
	switch (machine) {
	case EM_X86_64:
		return "x86-64";
	case EM_AARCH64:
		return "aarch64";
	case EM_RISCV:
		return "riscv";
	default:
		(void)snprintf(buf, size, "machine %" PRIu32, machine);
		return buf;
	}
}

static void time_text(uint64_t ns, char *buf, size_t size)
{
	time_t s = (time_t)(ns / 1000000000);
	struct tm tm;
	size_t n = gmtime_r(&s, &tm) ? strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm) : 0;

	(void)snprintf(buf + n, size - n, ".%09" PRIu64 "Z", ns % 1000000000);
}

static void info_text(const struct tool *t, const char *machine, const char *sealed)
{
	const struct uffdwp_image_info *i = &t->info;

	printf("image    %s\n", t->file);
	printf("format   %" PRIu32 ", %s, pages of %" PRIu32 "\n", i->version, machine,
	       i->page_size);
	printf("sealed   %s\n", sealed);
	printf("memory   %" PRIu64 " bytes in %" PRIu32 " regions, %" PRIu64 " not zeros\n",
	       i->size, i->regions, i->data);
	printf("file     %" PRIu64 " bytes, %" PRIu64 " on disk\n", i->file_size, i->file_bytes);
}

static void info_json(const struct tool *t, const char *machine, const char *sealed)
{
	const struct uffdwp_image_info *i = &t->info;

	printf("{\"schema\":1,\"file\":");
	tool_json_string(t->file);
	printf(",\"ok\":true,\"version\":%" PRIu32 ",\"machine\":\"%s\",\"page_size\":%" PRIu32
	       ",\"sealed\":\"%s\",\"sealed_ns\":%" PRIu64 ",\"regions\":%" PRIu32
	       ",\"size\":%" PRIu64 ",\"data\":%" PRIu64 ",\"file_size\":%" PRIu64
	       ",\"file_bytes\":%" PRIu64 "}\n",
	       i->version, machine, i->page_size, sealed, i->sealed_ns, i->regions, i->size,
	       i->data, i->file_size, i->file_bytes);
}

static void region_line(const struct tool *t, uint32_t n)
{
	struct uffdwp_image_region r = { .sz = sizeof(r) };

	uffdwp_image_region(t->img, n, &r);
	if (t->json)
		printf("{\"schema\":1,\"region\":%" PRIu32 ",\"addr\":%" PRIu64 ",\"len\":%" PRIu64
		       ",\"page_size\":%" PRIu64 ",\"data\":%" PRIu64 ",\"offset\":%" PRIu64 "}\n",
		       n, r.addr, r.len, r.page_size, r.data, r.offset);
	else
		printf("region %" PRIu32 " 0x%" PRIx64 ", %" PRIu64 " bytes, pages of %" PRIu64
		       ", %" PRIu64 " not zeros, at %" PRIu64 " in the file\n",
		       n, r.addr, r.len, r.page_size, r.data, r.offset);
}

int tool_info(struct tool *t)
{
	char sealed[80], other[32];
	const char *machine = machine_name(t->info.machine, other, sizeof(other));

	time_text(t->info.sealed_ns, sealed, sizeof(sealed));
	if (t->json)
		info_json(t, machine, sealed);
	else
		info_text(t, machine, sealed);
	for (uint32_t i = 0; i < t->info.regions; i++)
		region_line(t, i);
	return EXIT_WELL;
}

int tool_verify(struct tool *t)
{
	struct uffdwp_image_damage d = { .sz = sizeof(d) };
	int err = uffdwp_image_verify(t->img, &d);

	if (err && d.bytes)
		return tool_fail(t, err,
				 "%" PRIu64 " bytes damaged, the first in region %" PRIu32
				 " at offset %" PRIu64 ": %s",
				 d.bytes, d.region, d.offset, strerror(-d.error));
	if (err)
		return tool_fail(t, err, "%s", strerror(-err));
	if (t->json) {
		printf("{\"schema\":1,\"file\":");
		tool_json_string(t->file);
		printf(",\"ok\":true,\"data\":%" PRIu64 "}\n", t->info.data);
	} else {
		printf("%s: all %" PRIu64 " bytes that are not zeros are as they were written\n",
		       t->file, t->info.data);
	}
	return EXIT_WELL;
}
