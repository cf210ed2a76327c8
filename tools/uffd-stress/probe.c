/* SPDX-License-Identifier: MIT */
/*
 * `uffd-stress probe`: what the kernel promises about write protection, a row a promise, checked on
 * the kernel that runs. A row that names kinds of memory is checked on each of them. What
 * libuffdwp does about a promise that is awkward stands beside it.
 */
#include "probe.h"
#include "stress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#define WIDTH 100
#define INDENT 8

static const struct probe_group *const groups[] = {
	&probe_open,  &probe_protect, &probe_thp,    &probe_fault,    &probe_place, &probe_move,
	&probe_event, &probe_discard, &probe_escape, &probe_teardown, &probe_async, &probe_reclaim,
};

#define N_GROUPS (sizeof(groups) / sizeof(groups[0]))

/* Of one invocation. */
struct run {
	const struct stress_opts *o;
	uint64_t features;
	int open_err; /* why features could not be asked */
	bool no_thp;  /* transparent huge pages are switched off */
	unsigned int count[PROBE_ERROR + 1];
	struct probe_outcome *out; /* shared with the checks, by kind */
	FILE *bad;		   /* a line for each check that failed */
	char *bad_text;
	size_t bad_size;
};

static const char *const words[] = {
	[PROBE_NONE] = "none",	 [PROBE_PASS] = "PASS",
	[PROBE_FAIL] = "FAIL",	 [PROBE_UNSUPPORTED] = "unsupported",
	[PROBE_ERROR] = "ERROR",
};

static const char *const json_words[] = {
	[PROBE_NONE] = "none",	 [PROBE_PASS] = "pass",
	[PROBE_FAIL] = "fail",	 [PROBE_UNSUPPORTED] = "unsupported",
	[PROBE_ERROR] = "error",
};

static bool selected(const struct stress_opts *o, const struct probe_row *row)
{
	char *const *arg = o->args;

	if (row->kinds && !(row->kinds & o->kinds))
		return false;
	if (!arg || !*arg)
		return true;
	for (; *arg; arg++) {
		if (!strncmp(row->id, *arg, strlen(*arg)))
			return true;
	}
	return false;
}

/* ---- Why a row can not be checked here ---- */

static bool unsupported(const struct run *r, const struct probe_row *row, enum mem_kind kind,
			char *why, size_t size)
{
	uint64_t needs = row->needs;

	if (row->kinds)
		needs |= mem_wp_features(kind);
	why[0] = '\0';
	if (r->open_err)
		snprintf(why, size, "userfaultfd: %s", strerror(-r->open_err));
	else if (needs & ~r->features)
		snprintf(why, size, "the kernel lacks the features %#llx",
			 (unsigned long long)(needs & ~r->features));
	else if (row->kinds && kind == MEM_THP && r->no_thp)
		snprintf(why, size,
			 "transparent huge pages are off (transparent_hugepage/enabled)");
	return why[0];
}

static void check(struct run *r, const struct probe_row *row, enum mem_kind kind)
{
	struct probe_outcome *out = &r->out[kind];
	char why[sizeof(out->text)];

	if (unsupported(r, row, kind, why, sizeof(why))) {
		memcpy(out->text, why, sizeof(why));
		atomic_store(&out->verdict, PROBE_UNSUPPORTED);
	} else {
		probe_run_row(row, kind, out);
	}
	r->count[atomic_load(&out->verdict)]++;
	if (atomic_load(&out->verdict) >= PROBE_FAIL)
		fprintf(r->bad, "%s %s%s%s: %s\n", words[atomic_load(&out->verdict)], row->id,
			row->kinds ? " on " : "", row->kinds ? mem_name(kind) : "", out->text);
}

/* ---- Output ---- */

/* Text from column `indent` on; the first line has `used` columns already. */
static void wrap(const struct stress_opts *o, const char *text, int used)
{
	int col = used;

	while (*text) {
		int len = (int)strcspn(text, " ");

		if (col > INDENT && col + 1 + len > WIDTH) {
			out_say(o, "\n%*s", INDENT, "");
			col = INDENT;
		}
		out_say(o, "%s%.*s", col > INDENT ? " " : "", len, text);
		col += len + (col > INDENT);
		text += len;
		text += strspn(text, " ");
	}
	out_say(o, "\n");
}

static void say_line(const struct stress_opts *o, const char *label, const char *text)
{
	out_say(o, "%*s%s", INDENT, "", label);
	wrap(o, text, INDENT + (int)strlen(label));
}

/* "PASS: anon, thp" for the kinds with that verdict. */
static void say_kinds(const struct run *r, const struct probe_row *row, int verdict)
{
	bool first = true;
	int kind;

	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (!(row->kinds & r->o->kinds & PROBE_BIT(kind)) ||
		    atomic_load(&r->out[kind].verdict) != verdict)
			continue;
		if (first)
			out_say(r->o, "%*s%s on", INDENT, "", words[verdict]);
		out_say(r->o, "%s %s", first ? "" : ",", mem_name((enum mem_kind)kind));
		first = false;
	}
	if (!first)
		out_say(r->o, "\n");
}

static void say_text(const struct run *r, const struct probe_row *row, int kind)
{
	const struct probe_outcome *out = &r->out[kind];
	char label[64];

	if (!out->text[0])
		return;
	snprintf(label, sizeof(label), "%s%s%s:", words[atomic_load(&out->verdict)],
		 row->kinds ? " on " : "", row->kinds ? mem_name((enum mem_kind)kind) : "");
	say_line(r->o, label, out->text);
}

static int worst(const struct run *r, unsigned int ran)
{
	int verdict = PROBE_NONE, kind;

	for (kind = 0; kind < MEM_KINDS; kind++) {
		int v = atomic_load(&r->out[kind].verdict);

		if (ran & PROBE_BIT(kind) && v > verdict)
			verdict = v;
	}
	return verdict;
}

static void say_row(const struct run *r, const struct probe_row *row, unsigned int ran)
{
	int kind;

	out_say(r->o, "%-7.6s %s (Linux %s)\n", words[worst(r, ran)], row->id, row->since);
	say_line(r->o, "", row->promise);
	for (kind = PROBE_PASS; row->kinds && kind <= PROBE_ERROR; kind++)
		say_kinds(r, row, kind);
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (ran & PROBE_BIT(kind))
			say_text(r, row, kind);
	}
	if (row->library)
		say_line(r->o, "library:", row->library);
}

static void json_row(const struct run *r, const struct probe_row *row, int kind)
{
	const struct probe_outcome *out = &r->out[kind];

	json_begin(r->o);
	json_str(r->o, "id", row->id);
	if (row->kinds)
		json_str(r->o, "mem", mem_name((enum mem_kind)kind));
	json_str(r->o, "result", json_words[atomic_load(&out->verdict)]);
	json_str(r->o, "promise", row->promise);
	json_str(r->o, "since", row->since);
	json_str(r->o, "workaround", row->library ? row->library : "-");
	json_str(r->o, "text", out->text);
	json_end(r->o);
}

/* ---- The run ---- */

static void run_row(struct run *r, const struct probe_row *row)
{
	unsigned int ran = row->kinds ? row->kinds & r->o->kinds : 1;
	int kind;

	memset(r->out, 0, MEM_KINDS * sizeof(*r->out));
	for (kind = 0; kind < MEM_KINDS; kind++) {
		if (!(ran & PROBE_BIT(kind)))
			continue;
		out_progress(r->o, "%s %s", row->id,
			     row->kinds ? mem_name((enum mem_kind)kind) : "");
		check(r, row, (enum mem_kind)kind);
		json_row(r, row, kind);
	}
	if (!r->o->json)
		say_row(r, row, ran);
}

static void run_group(struct run *r, const struct probe_group *g)
{
	bool titled = false;
	size_t i;

	for (i = 0; i < g->n; i++) {
		if (!selected(r->o, &g->rows[i]))
			continue;
		if (!titled && !r->o->json)
			out_say(r->o, "\n%s: %s\n\n", g->name, g->title);
		titled = true;
		run_row(r, &g->rows[i]);
	}
}

static void list_group(const struct stress_opts *o, const struct probe_group *g)
{
	size_t i;

	for (i = 0; i < g->n; i++) {
		if (selected(o, &g->rows[i]))
			printf("%s\n", g->rows[i].id);
	}
}

static int conclude(const struct run *r)
{
	const unsigned int *n = r->count;
	unsigned int checks = n[PROBE_PASS] + n[PROBE_FAIL] + n[PROBE_UNSUPPORTED] + n[PROBE_ERROR];
	struct utsname u;

	if (uname(&u))
		u.release[0] = '\0';
	out_say(r->o, "\nprobe: Linux %s: %u checks: %u PASS, %u FAIL, %u unsupported, %u ERROR\n",
		u.release, checks, n[PROBE_PASS], n[PROBE_FAIL], n[PROBE_UNSUPPORTED],
		n[PROBE_ERROR]);
	if (r->bad_size)
		out_say(r->o, "%s", r->bad_text);
	if (!checks) {
		out_fail("probe: no row has an id that begins so; see --list");
		return EXIT_MISUSE;
	}
	if (n[PROBE_ERROR])
		return EXIT_HARNESS;
	if (n[PROBE_FAIL])
		return EXIT_WRONG;
	return n[PROBE_PASS] ? EXIT_PASS : EXIT_UNSUPPORTED;
}

static bool thp_is_off(void)
{
	char buf[64] = "";
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");

	if (!f)
		return true;
	if (!fgets(buf, sizeof(buf), f))
		buf[0] = '\0';
	fclose(f);
	return strstr(buf, "[never]");
}

static int prepare(struct run *r)
{
	r->features = probe_features(&r->open_err);
	r->no_thp = thp_is_off();
	r->out = mmap(NULL, MEM_KINDS * sizeof(*r->out), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	r->bad = open_memstream(&r->bad_text, &r->bad_size);
	if (r->out != MAP_FAILED && r->bad)
		return 0;
	out_fail("probe: out of memory");
	return -1;
}

int probe_run(const struct stress_opts *o)
{
	struct run r = { .o = o };
	int ret;
	size_t i;

	for (i = 0; o->list && i < N_GROUPS; i++)
		list_group(o, groups[i]);
	if (o->list)
		return EXIT_PASS;
	if (prepare(&r))
		return EXIT_HARNESS;
	/* Checks have limits of their own, and children start threads: they want a parent with one. */
	watchdog_stop();
	for (i = 0; i < N_GROUPS; i++)
		run_group(&r, groups[i]);
	fclose(r.bad);
	ret = conclude(&r);
	free(r.bad_text);
	munmap(r.out, MEM_KINDS * sizeof(*r.out));
	return ret;
}
