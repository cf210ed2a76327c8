/* SPDX-License-Identifier: MIT */
/*
 * The command line of uffd-stress. Whatever is wrong with it is said in one line that names the
 * option, the value, and what would be right.
 */
#include "stress.h"

#include <uffdwp.h>

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOUNCE 1u
#define SIGBUS_CMD 2u
#define EVENTS 4u
#define PROBE 8u
#define TRACK 16u
#define SNAPSHOT 32u
#define STRESS (BOUNCE | SIGBUS_CMD | EVENTS | TRACK | SNAPSHOT)
#define ANY (STRESS | PROBE)

#define SIZE_MIN (UINT64_C(64) << 10)
#define SIZE_MAX_ARG (UINT64_C(1) << 40)

static const char help[] =
	"Usage: uffd-stress COMMAND [OPTION]...\n"
	"       uffd-stress probe [OPTION]... [PREFIX]...\n"
	"Prove on real memory that libuffdwp and the kernel keep their promises.\n"
	"\n"
	"Commands:\n"
	"  bounce   threads lock and count in every page while it is placed, protected and written\n"
	"  sigbus   faults served in the faulting thread, in parent and forked child\n"
	"  events   fork, mremap, discard and unmap while faults are in flight\n"
	"  track    dirty tracking: no write is lost, none is invented, whatever happens meanwhile\n"
	"  snapshot live snapshots: what is called complete is what memory was, whatever happens\n"
	"  probe    a table of what the kernel promises about write protection; all rows, or those\n"
	"           whose names begin with a PREFIX\n"
	"\n"
	"Options:\n"
	"  --mem=LIST        anon,thp,shmem,memfd-private,hugetlb,hugetlb-private, or all (default)\n"
	"  --size=SIZE       of one area, with suffix K, M or G (default 64M)\n"
	"  --bounces=N       of each memory type; 0: as many as --duration allows\n"
	"                    (default: every case once)\n"
	"  --duration=SEC    stop after so many seconds (default 0: not limited)\n"
	"  --handlers=N      serving threads (default 0: one a CPU)\n"
	"  --serve=WAY       threads, caller or sigbus (default: bounce and events take turns\n"
	"                    between threads and caller, snapshot between all)\n"
	"  --modes=LIST      which bounces: random,racing,verify,poll or any of them, joined by '+'\n"
	"                    for several combinations; plain: none of them; all: every\n"
	"                    combination in turn (default)\n"
	"  --mode=LIST       how writes are tracked: async,sync,caller,sigbus, or all (default)\n"
	"  --strategy=LIST   how snapshots are taken: cow,precopy (precopy-sync,precopy-async), or\n"
	"                    all (default)\n"
	"  --run=N           most pages a write operation gets at once (default 1)\n"
	"  --seed=N          repeat the random choices of an earlier run\n"
	"  --watchdog=SEC    end with a report if a thread makes no step for so long (default 30)\n"
	"  --json            one object a line on stdout, prose on stderr\n"
	"  --sandbox         serving threads run under a seccomp filter that kills at any system call\n"
	"                    but those that uffdwp(7) lists\n"
	"  --no-progress     no progress line on a terminal\n"
	"  --list            print the names of the cases and stop\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0 passed, 1 wrong result, 2 misuse, 77 unsupported here, 99 harness error.\n";

enum option_id {
	MEM = 256,
	SIZE,
	BOUNCES,
	DURATION,
	HANDLERS,
	SERVE,
	MODES,
	MODE,
	STRATEGY,
	RUN,
	SEED,
	WATCHDOG,
	JSON,
	SANDBOX,
	NO_PROGRESS,
	LIST,
	HELP,
	VERSION
};

static const struct option longs[] = {
	{ "mem", required_argument, NULL, MEM },
	{ "size", required_argument, NULL, SIZE },
	{ "bounces", required_argument, NULL, BOUNCES },
	{ "duration", required_argument, NULL, DURATION },
	{ "handlers", required_argument, NULL, HANDLERS },
	{ "serve", required_argument, NULL, SERVE },
	{ "modes", required_argument, NULL, MODES },
	{ "mode", required_argument, NULL, MODE },
	{ "strategy", required_argument, NULL, STRATEGY },
	{ "run", required_argument, NULL, RUN },
	{ "seed", required_argument, NULL, SEED },
	{ "watchdog", required_argument, NULL, WATCHDOG },
	{ "json", no_argument, NULL, JSON },
	{ "sandbox", no_argument, NULL, SANDBOX },
	{ "no-progress", no_argument, NULL, NO_PROGRESS },
	{ "list", no_argument, NULL, LIST },
	{ "help", no_argument, NULL, HELP },
	{ "version", no_argument, NULL, VERSION },
	{ NULL, 0, NULL, 0 },
};

static const struct {
	const char *name;
	unsigned int bit;
} commands[] = {
	{ "bounce", BOUNCE }, { "sigbus", SIGBUS_CMD }, { "events", EVENTS },
	{ "track", TRACK },   { "snapshot", SNAPSHOT }, { "probe", PROBE },
};

/* Which commands an option means something to. */
static unsigned int takers(int id)
{
	switch (id) {
	case MODES:
	case RUN:
		return BOUNCE;
	case SERVE:
		return BOUNCE | EVENTS | SNAPSHOT;
	case HANDLERS:
		return BOUNCE | EVENTS | TRACK | SNAPSHOT;
	case STRATEGY:
		return SNAPSHOT;
	case SANDBOX:
		return BOUNCE | EVENTS | TRACK | SNAPSHOT;
	case MODE:
		return TRACK;
	case BOUNCES:
	case DURATION:
		return STRESS;
	default:
		return ANY;
	}
}

__attribute__((format(printf, 1, 2))) static int misuse(const char *fmt, ...)
{
	va_list ap;

	fputs("uffd-stress: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs("; see uffd-stress --help\n", stderr);
	return EXIT_MISUSE;
}

/* ---- Values ---- */

/* Digits only, so no sign and no space as strtoull() would take them. */
static bool number(const char *s, uint64_t *out, const char **end)
{
	char *e;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	*out = strtoull(s, &e, 0);
	*end = e;
	return !errno;
}

static int take_number(const char *name, const char *s, uint64_t lo, uint64_t hi, uint64_t *out)
{
	const char *end;

	if (number(s, out, &end) && !*end && *out >= lo && *out <= hi)
		return -1;
	return misuse("--%s=%s: want a whole number from %llu to %llu", name, s,
		      (unsigned long long)lo, (unsigned long long)hi);
}

static int take_uint(const char *name, const char *s, unsigned int lo, unsigned int hi,
		     unsigned int *out)
{
	uint64_t n = 0;
	int rc = take_number(name, s, lo, hi, &n);

	*out = (unsigned int)n;
	return rc;
}

static unsigned int suffix_shift(const char **end)
{
	static const char suffixes[] = "KkMmGg";
	const char *p = **end ? strchr(suffixes, **end) : NULL;

	if (!p)
		return 0;
	++*end;
	return 10 * (1 + (unsigned int)(p - suffixes) / 2);
}

static int take_size(const char *s, size_t *out)
{
	unsigned int shift;
	const char *end;
	uint64_t n;

	if (number(s, &n, &end)) {
		shift = suffix_shift(&end);
		if (!*end && n <= SIZE_MAX_ARG >> shift && n << shift >= SIZE_MIN) {
			*out = (size_t)(n << shift);
			return -1;
		}
	}
	return misuse("--size=%s: want a size from 64K to 1024G, such as 64M", s);
}

static int take_serve(const char *s, unsigned int allowed, unsigned int *out)
{
	static const char *const ways[] = {
		[UFFDWP_SERVE_THREADS] = "threads",
		[UFFDWP_SERVE_CALLER] = "caller",
		[UFFDWP_SERVE_SIGBUS] = "sigbus",
	};
	unsigned int i;

	for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (!strcmp(s, ways[i]) && (allowed & 1u << i)) {
			*out = 1u << i;
			return -1;
		}
	}
	return misuse("--serve=%s: want threads%s", s,
		      allowed & 1u << UFFDWP_SERVE_SIGBUS ? ", caller or sigbus" : " or caller");
}

static bool add_flag(const char *s, size_t len, unsigned int *mode)
{
	static const char *const flags[] = { "random", "racing", "verify", "poll" };
	unsigned int i;

	for (i = 0; i < 4; i++) {
		if (strlen(flags[i]) == len && !memcmp(flags[i], s, len)) {
			*mode |= 1u << i;
			return true;
		}
	}
	return len == 5 && !memcmp(s, "plain", 5);
}

/* "random,poll+racing" is two combinations. */
static int take_modes(const char *s, unsigned int *out)
{
	unsigned int mode = 0;
	const char *p = s;
	size_t len;

	*out = 0;
	if (!strcmp(s, "all")) {
		*out = (1u << BOUNCE_MODES) - 1;
		return -1;
	}
	for (;; p += len + 1) {
		len = strcspn(p, ",+");
		if (!add_flag(p, len, &mode))
			return misuse(
				"--modes=%s: want all, plain, or some of random,racing,verify,poll",
				s);
		if (p[len] == ',')
			continue;
		*out |= 1u << mode;
		mode = 0;
		if (!p[len])
			return -1;
	}
}

/* Some of the names, separated by commas, or all of them. */
static bool take_list(const char *s, const char *const *names, unsigned int n, unsigned int *out)
{
	unsigned int i;
	size_t len;

	*out = (1u << n) - 1;
	if (!strcmp(s, "all"))
		return true;
	for (*out = 0;; s += len + 1) {
		len = strcspn(s, ",");
		for (i = 0; i < n && (strlen(names[i]) != len || memcmp(names[i], s, len)); i++)
			;
		if (i == n)
			return false;
		*out |= 1u << i;
		if (!s[len])
			return true;
	}
}

static int take_mode(const char *s, unsigned int *out)
{
	static const char *const names[] = { "async", "sync", "caller", "sigbus" };

	if (take_list(s, names, 4, out))
		return -1;
	return misuse("--mode=%s: want all, or some of async,sync,caller,sigbus", s);
}

static int take_strategy(const char *s, unsigned int *out)
{
	static const char *const names[] = { "cow", "precopy-sync", "precopy-async", "precopy" };
	unsigned int list;

	if (!take_list(s, names, 4, &list))
		return misuse("--strategy=%s: want all, or some of cow,precopy,precopy-sync,"
			      "precopy-async",
			      s);
	*out = list & 8 ? (list | STRATEGY_SYNC | STRATEGY_ASYNC) & STRATEGIES : list;
	return -1;
}

/* ---- The line ---- */

struct parse {
	struct stress_opts *o;
	unsigned int command;
	bool bounces_given, serve_given;
};

static int take_mem(const char *s, unsigned int *out)
{
	*out = mem_parse(s);
	if (*out)
		return -1;
	return misuse("--mem=%s: want all, or some of anon,thp,shmem,memfd-private,hugetlb,"
		      "hugetlb-private",
		      s);
}

static int take_flag(struct stress_opts *o, int id)
{
	if (id == JSON)
		o->json = true;
	else if (id == SANDBOX)
		o->sandbox = true;
	else if (id == NO_PROGRESS)
		o->progress = false;
	else
		o->list = true;
	return -1;
}

static int take(struct parse *p, int id, const char *v)
{
	const unsigned int both = 1u << UFFDWP_SERVE_THREADS | 1u << UFFDWP_SERVE_CALLER;
	struct stress_opts *o = p->o;

	switch (id) {
	case MEM:
		return take_mem(v, &o->kinds);
	case SIZE:
		return take_size(v, &o->size);
	case BOUNCES:
		p->bounces_given = true;
		return take_uint("bounces", v, 0, 1000000000, &o->bounces);
	case DURATION:
		return take_uint("duration", v, 0, 10000000, &o->duration);
	case HANDLERS:
		return take_uint("handlers", v, 0, UFFDWP_THREADS_MAX, &o->handlers);
	case SERVE:
		p->serve_given = true;
		return take_serve(v, p->command == EVENTS ? both : both | 1u << UFFDWP_SERVE_SIGBUS,
				  &o->serves);
	case MODES:
		return take_modes(v, &o->modes);
	case MODE:
		return take_mode(v, &o->track_modes);
	case STRATEGY:
		return take_strategy(v, &o->strategies);
	case RUN:
		return take_uint("run", v, 1, UFFDWP_RUN_MAX, &o->run);
	case SEED:
		return take_number("seed", v, 0, UINT64_MAX, &o->seed);
	case WATCHDOG:
		return take_uint("watchdog", v, 1, 86400, &o->stall);
	default:
		return take_flag(o, id);
	}
}

static int take_checked(struct parse *p, int id, int index, const char *v)
{
	/* --help and --version are answered before, so that they work without a command */
	if (!(takers(id) & p->command))
		return misuse("--%s means nothing to the command %s", longs[index].name,
			      p->o->command);
	return take(p, id, v);
}

static int parse_options(struct parse *p, int argc, char **argv)
{
	int id, index = 0, rc;

	opterr = 0;
	optind = 2;
	while ((id = getopt_long(argc, argv, ":", longs, &index)) != -1) {
		if (id == ':')
			return misuse("%s: wants a value", argv[optind - 1]);
		if (id == '?')
			return misuse("%s: no such option, or a value where none belongs",
				      argv[optind - 1]);
		rc = take_checked(p, id, index, optarg);
		if (rc >= 0)
			return rc;
	}
	p->o->args = argv + optind;
	if (optind < argc && p->command != PROBE)
		return misuse("%s: unexpected argument after the command %s", argv[optind],
			      p->o->command);
	return -1;
}

/* Bit m for each m that has BOUNCE_POLL. */
#define POLLING 0xff00u

static int settle(struct parse *p)
{
	struct stress_opts *o = p->o;

	if (p->command == SNAPSHOT && !p->serve_given)
		o->serves |= 1u << UFFDWP_SERVE_SIGBUS;
	if (p->command == SNAPSHOT && o->strategies == STRATEGY_ASYNC &&
	    !(o->serves & 1u << UFFDWP_SERVE_THREADS))
		return misuse("--strategy=precopy-async: wants --serve=threads");
	if (p->bounces_given && !o->bounces && !o->duration)
		return misuse("--bounces=0: wants --duration=SECONDS with it");
	if (o->serves == 1u << UFFDWP_SERVE_THREADS && !(o->modes & POLLING))
		return misuse("--serve=threads: its threads wait by poll, want poll in --modes");
	if (o->serves == 1u << UFFDWP_SERVE_SIGBUS && !(o->modes & ~POLLING))
		return misuse("--serve=sigbus: nobody waits, want no poll in --modes");
	return -1;
}

static int find_command(struct parse *p, const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (!strcmp(name, commands[i].name)) {
			p->command = commands[i].bit;
			p->o->command = commands[i].name;
			return -1;
		}
	}
	return misuse("%s: no such command, want bounce, sigbus, events, track, snapshot or probe",
		      name);
}

static bool asked(int argc, char **argv, const char *what)
{
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], what))
			return true;
	}
	return false;
}

static void defaults(struct stress_opts *o)
{
	memset(o, 0, sizeof(*o));
	o->kinds = mem_parse("all");
	o->size = (size_t)64 << 20;
	o->serves = 1u << UFFDWP_SERVE_THREADS | 1u << UFFDWP_SERVE_CALLER;
	o->modes = (1u << BOUNCE_MODES) - 1;
	o->track_modes = (1u << 4) - 1;
	o->strategies = STRATEGIES;
	o->run = 1;
	o->stall = 30;
	o->seed = now_ns() ^ (uint64_t)getpid() << 40;
	o->progress = isatty(STDERR_FILENO);
}

int options_parse(struct stress_opts *o, int argc, char **argv)
{
	struct parse p = { .o = o };
	int rc;

	defaults(o);
	if (asked(argc, argv, "--help")) {
		fputs(help, stdout);
		return EXIT_PASS;
	}
	if (asked(argc, argv, "--version")) {
		printf("uffd-stress %s\n", uffdwp_version());
		return EXIT_PASS;
	}
	if (argc < 2)
		return misuse("no command, want bounce, sigbus, events, track, snapshot or probe");
	rc = find_command(&p, argv[1]);
	if (rc < 0)
		rc = parse_options(&p, argc, argv);
	return rc < 0 ? settle(&p) : rc;
}
