/* SPDX-License-Identifier: MIT */
/*
 * uffd-bench: measures libuffdwp against a few honest lines that do the same job without it. This
 * file reads the command line; each subcommand has a file of its own name.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static const struct bench_cmd *const commands[] = { &bench_fault, &bench_track, &bench_snapshot,
						    &bench_restore };

/* What --size=all means: 256 MiB, and the double, up to 8 GiB. */
#define SMALLEST (256UL << 20)
#define ALL_SIZES 6

#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

struct word {
	const char *name;
	unsigned int value;
};

static const struct word patterns[] = {
	{ "seq", PATTERN_SEQ }, { "random", PATTERN_RANDOM }, { "all", PATTERN_ALL }, { NULL, 0 }
};
static const struct word serves[] = { { "threads", SERVE_THREADS }, { "caller", SERVE_CALLER },
				      { "sigbus", SERVE_SIGBUS },   { "async", SERVE_ASYNC },
				      { "all", SERVE_ALL },	    { NULL, 0 } };
static const struct word places[] = {
	{ "auto", PLACE_AUTO },	      { "sched", PLACE_SCHED },
	{ "follow", PLACE_FOLLOW },   { "pin-same", PLACE_PIN_SAME },
	{ "pin-one", PLACE_PIN_ONE }, { "pin-other", PLACE_PIN_OTHER },
	{ "all", PLACE_ALL },	      { NULL, 0 }
};
static const struct word works[] = { { "copy", 1 }, { "none", 0 }, { NULL, 0 } };

static const struct word paces[] = {
	{ "paced", PACE_PACED }, { "full", PACE_FULL }, { "all", PACE_ALL }, { NULL, 0 }
};
static const struct word tos[] = {
	{ "tmpfs", TO_TMPFS }, { "disk", TO_DISK }, { "all", TO_ALL }, { NULL, 0 }
};

static const char *word_of(const struct word *w, unsigned int value)
{
	while (w->name && w->value != value)
		w++;
	return w->name ? w->name : "?";
}

const char *bench_serve_name(unsigned int serve)
{
	return word_of(serves, serve);
}

const char *bench_place_name(enum bench_place place)
{
	return word_of(places, place);
}

bool bench_wants(const struct bench_opts *o, const char *name)
{
	const char *part = o->cases;

	while (part && *part) {
		size_t n = strcspn(part, ",");

		if (n > 0 && memmem(name, strlen(name), part, n))
			return true;
		part += n + (part[n] == ',');
	}
	return !o->cases;
}

void bench_reserve_hugepages(const struct bench_opts *o)
{
	unsigned int hugetlb = 1u << MEM_HUGETLB_SHARED | 1u << MEM_HUGETLB_PRIVATE;
	size_t most = 0;

	for (size_t i = 0; i < o->nsizes; i++)
		most = o->sizes[i] > most ? o->sizes[i] : most;
	if ((o->mem & hugetlb) && !o->list && mem_hugepages_reserve(most + (4UL << 20)))
		fprintf(stderr, "uffd-bench: no hugepages could be reserved\n");
}

int bench_no_case(const struct bench_opts *o)
{
	fprintf(stderr, "uffd-bench: no case for these options%s%s\n",
		o->cases ? " has a name with any of: " : "", o->cases ? o->cases : "");
	return EXIT_MISUSE;
}

static bool parse_word(const struct word *w, const char *text, unsigned int *value)
{
	for (; w->name; w++)
		if (strcmp(w->name, text) == 0) {
			*value = w->value;
			return true;
		}
	return false;
}

static bool parse_number(const char *text, char **end, unsigned long min, unsigned long max,
			 unsigned long *value)
{
	errno = 0;
	*value = strtoul(text, end, 10);
	return text[0] >= '0' && text[0] <= '9' && errno == 0 && *value >= min && *value <= max;
}

static bool parse_size(const char *text, char **end, size_t *size)
{
	static const char units[] = "KMG";
	unsigned long value;
	const char *unit;

	if (!parse_number(text, end, 1, 1UL << 40, &value))
		return false;
	unit = **end ? strchr(units, **end) : NULL;
	*end += unit != NULL;
	*size = value << (unit ? 10 * (unit - units + 1) : 0);
	return *size >= 1UL << 20 && *size <= 1UL << 40;
}

static bool parse_sizes(struct bench_opts *o, const char *text)
{
	char *end;

	for (o->nsizes = 0; strcmp(text, "all") == 0 && o->nsizes < ALL_SIZES; o->nsizes++)
		o->sizes[o->nsizes] = SMALLEST << o->nsizes;
	if (o->nsizes)
		return true;
	for (; o->nsizes < BENCH_SIZES_MAX; text = end + 1) {
		if (!parse_size(text, &end, &o->sizes[o->nsizes++]))
			return false;
		if (*end != ',')
			return *end == '\0';
	}
	return false;
}

static bool parse_writers(struct bench_opts *o, const char *text)
{
	unsigned long value;
	char *end;

	for (o->nwriters = 0; o->nwriters < BENCH_WRITERS_MAX; text = end + 1) {
		if (!parse_number(text, &end, 1, BENCH_WRITERS_MAX, &value))
			return false;
		o->writers[o->nwriters++] = (unsigned int)value;
		if (*end != ',')
			return *end == '\0';
	}
	return false;
}

static bool parse_rounds(struct bench_opts *o, const char *text)
{
	unsigned long value;
	char *end;

	if (!parse_number(text, &end, BENCH_ROUNDS_MIN, BENCH_ROUNDS_MAX, &value) || *end)
		return false;
	o->rounds = (unsigned int)value;
	return true;
}

static void print_help(void)
{
	printf("usage: uffd-bench COMMAND [options]\n\nCommands:\n");
	for (size_t i = 0; i < NCOMMANDS; i++)
		printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
	printf("\nOptions:\n"
	       "  --pattern=seq|random|all          order of the writes (all)\n"
	       "  --writers=N[,N...]                numbers of writing threads (fault: 1,2; else 1)\n"
	       "  --serve=threads|caller|sigbus|async|all\n"
	       "                                    who serves the faults (all)\n"
	       "  --placement=PLACE                 CPUs of the handlers: auto, sched, follow, pin-same,\n"
	       "                                    pin-one, pin-other, or all to compare them (all)\n"
	       "  --mem=KIND[,KIND...]|all          anon, thp, shmem, memfd-private, hugetlb,\n"
	       "                                    hugetlb-private (track: anon,thp; else anon)\n"
	       "  --size=BYTES[,BYTES...]|all       memory watched, with K, M or G (fault: 4M;\n"
	       "                                    track: 256M; else 1G); all: 256M to 8G\n"
	       "  --pace=paced|full|all             snapshot: 100000 writes a second, or at full speed (all)\n"
	       "  --to=tmpfs|disk|all               snapshot, restore: where images are (all)\n"
	       "  --dir=DIRECTORY                   on a disk (/var/tmp)\n"
	       "  --rounds=N                        rounds, at least 7 (7)\n"
	       "  --work=copy|none                  what a handler does with a page (copy)\n"
	       "  --cases=TEXT[,TEXT...]            only cases whose name contains one of them\n"
	       "  --plot=FILE.svg                   track, snapshot: draw the results, with gnuplot\n"
	       "  --json                            one JSON object a line\n"
	       "  --list                            print the cases, run none\n"
	       "  --help                            print this\n\n"
	       "Exits 0 when it could measure, whether or not a target is met.\n");
}

enum {
	OPT_PATTERN = 1,
	OPT_WRITERS,
	OPT_SERVE,
	OPT_PLACEMENT,
	OPT_MEM,
	OPT_SIZE,
	OPT_PACE,
	OPT_TO,
	OPT_DIR,
	OPT_ROUNDS,
	OPT_WORK,
	OPT_CASES,
	OPT_PLOT,
	OPT_JSON,
	OPT_LIST,
	OPT_HELP
};

static const struct option long_options[] = {
	{ "pattern", required_argument, NULL, OPT_PATTERN },
	{ "writers", required_argument, NULL, OPT_WRITERS },
	{ "serve", required_argument, NULL, OPT_SERVE },
	{ "placement", required_argument, NULL, OPT_PLACEMENT },
	{ "mem", required_argument, NULL, OPT_MEM },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "pace", required_argument, NULL, OPT_PACE },
	{ "to", required_argument, NULL, OPT_TO },
	{ "dir", required_argument, NULL, OPT_DIR },
	{ "rounds", required_argument, NULL, OPT_ROUNDS },
	{ "work", required_argument, NULL, OPT_WORK },
	{ "cases", required_argument, NULL, OPT_CASES },
	{ "plot", required_argument, NULL, OPT_PLOT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "list", no_argument, NULL, OPT_LIST },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

/* True if the option was understood; what takes no argument can not be wrong. */
static bool apply_option(struct bench_opts *o, int opt, const char *arg)
{
	unsigned int value;
	bool good = true;

	switch (opt) {
	case OPT_PATTERN:
		return parse_word(patterns, arg, &o->pattern);
	case OPT_WRITERS:
		return parse_writers(o, arg);
	case OPT_SERVE:
		return parse_word(serves, arg, &o->serve);
	case OPT_PLACEMENT:
		good = parse_word(places, arg, &value);
		o->place = good ? (enum bench_place)value : o->place;
		return good;
	case OPT_MEM:
		o->mem = mem_parse(arg);
		return o->mem != 0;
	case OPT_SIZE:
		return parse_sizes(o, arg);
	case OPT_PACE:
		return parse_word(paces, arg, &o->pace);
	case OPT_TO:
		return parse_word(tos, arg, &o->to);
	case OPT_DIR:
		o->dir = arg;
		return arg[0] != '\0';
	case OPT_ROUNDS:
		return parse_rounds(o, arg);
	case OPT_WORK:
		good = parse_word(works, arg, &value);
		o->copy = good && value;
		return good;
	case OPT_CASES:
		o->cases = arg;
		return arg[0] != '\0';
	case OPT_PLOT:
		o->plot = arg;
		return arg[0] != '\0';
	case OPT_JSON:
		return o->json = true;
	case OPT_LIST:
		return o->list = true;
	default:
		return false;
	}
}

static int misuse(const char *what, const char *which)
{
	fprintf(stderr, "uffd-bench: %s%s; see uffd-bench --help\n", what, which);
	return EXIT_MISUSE;
}

/* Returns -1 to go on, or the exit value. */
static int read_options(struct bench_opts *o, int argc, char **argv)
{
	int opt, index = 0;

	while ((opt = getopt_long(argc, argv, "", long_options, &index)) != -1) {
		if (opt == OPT_HELP) {
			print_help();
			return EXIT_MEASURED;
		}
		if (opt == '?')
			return EXIT_MISUSE;
		if (!apply_option(o, opt, optarg)) {
			fprintf(stderr, "uffd-bench: bad value '%s' for --%s\n", optarg,
				long_options[index].name);
			return EXIT_MISUSE;
		}
	}
	return -1;
}

static const struct bench_cmd *find_command(const char *name)
{
	for (size_t i = 0; i < NCOMMANDS; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

static void apply_defaults(struct bench_opts *o, const struct bench_cmd *cmd)
{
	if (!o->mem)
		o->mem = cmd->mem;
	if (!o->nsizes)
		o->sizes[o->nsizes++] = cmd->size;
	if (!o->nwriters)
		for (; o->nwriters < cmd->writers; o->nwriters++)
			o->writers[o->nwriters] = (unsigned int)o->nwriters + 1;
}

int main(int argc, char **argv)
{
	struct bench_opts o = { .pattern = PATTERN_ALL,
				.serve = SERVE_ALL,
				.place = PLACE_ALL,
				.pace = PACE_ALL,
				.to = TO_ALL,
				.dir = "/var/tmp",
				.rounds = BENCH_ROUNDS_MIN,
				.copy = true };
	const struct bench_cmd *cmd;
	int end = read_options(&o, argc, argv);

	if (end >= 0)
		return end;
	if (optind >= argc)
		return misuse("which command?", "");
	cmd = find_command(argv[optind]);
	if (!cmd)
		return misuse("no such command: ", argv[optind]);
	if (optind + 1 < argc)
		return misuse("too many arguments: ", argv[optind + 1]);
	if (o.plot && !cmd->plots)
		return misuse("no --plot for ", cmd->name);
	apply_defaults(&o, cmd);
	return cmd->run(&o);
}
