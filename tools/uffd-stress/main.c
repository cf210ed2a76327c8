/* SPDX-License-Identifier: MIT */
/*
 * uffd-stress: picks the subcommand, provides hugepages and the watchdog around it, and turns its
 * result into the exit code.
 */
#include "stress.h"

#include <uffdwp.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HUGETLB_KINDS (1u << MEM_HUGETLB_SHARED | 1u << MEM_HUGETLB_PRIVATE)
#define HUGE_SIZE ((size_t)2 << 20)

/*
 * Two areas, each rounded up to whole pages for every CPU, as often again for what a forked child
 * copies of private ones, and something for single pages.
 */
static size_t hugepages_needed(const struct stress_opts *o)
{
	return 4 * (o->size > 32 * HUGE_SIZE ? o->size : 32 * HUGE_SIZE) + 16 * HUGE_SIZE;
}

/*
 * Without hugepages the other types are still worth running, but the result is then not more than
 * "unsupported".
 */
static int provide_hugepages(struct stress_opts *o)
{
	int err;

	if (!(o->kinds & HUGETLB_KINDS) || o->list)
		return EXIT_PASS;
	err = mem_hugepages_reserve(hugepages_needed(o));
	if (!err)
		return EXIT_PASS;
	out_fail("unsupported: hugetlb: %zu MiB of hugepages can not be reserved (%s)",
		 hugepages_needed(o) >> 20, strerror(-err));
	o->kinds &= ~HUGETLB_KINDS;
	return EXIT_UNSUPPORTED;
}

static int run(const struct stress_opts *o)
{
	if (!strcmp(o->command, "bounce"))
		return bounce_run(o);
	if (!strcmp(o->command, "sigbus"))
		return sigbus_run(o);
	if (!strcmp(o->command, "events"))
		return events_run(o);
	if (!strcmp(o->command, "track"))
		return track_run(o);
	if (!strcmp(o->command, "snapshot"))
		return snapshot_run(o);
	return probe_run(o);
}

static int run_watched(const struct stress_opts *o)
{
	int err = watchdog_start(o->stall), rc;

	if (err) {
		out_fail("the watchdog does not start: %s", strerror(-err));
		return EXIT_HARNESS;
	}
	watchdog_enter("main", 0);
	rc = run(o);
	watchdog_leave();
	watchdog_stop();
	return rc;
}

static int finish(const struct stress_opts *o, int rc)
{
	json_begin(o);
	json_str(o, "result", exit_word(rc));
	json_u64(o, "seed", o->seed);
	json_end(o);
	out_say(o, "%s: %s\n", o->command, exit_word(rc));
	if (fflush(stdout) || ferror(stdout)) {
		out_fail("stdout can not be written");
		return rc ? rc : EXIT_HARNESS;
	}
	return rc;
}

int main(int argc, char **argv)
{
	struct stress_opts o;
	int rc, missing;

	rc = options_parse(&o, argc, argv);
	if (rc >= 0)
		return rc;
	if (o.list)
		return run(&o);
	missing = provide_hugepages(&o);
	out_say(&o, "uffd-stress %s, seed %" PRIu64 " (--seed=%" PRIu64 " repeats it)\n", o.command,
		o.seed, o.seed);
	rc = o.kinds ? run_watched(&o) : EXIT_UNSUPPORTED;
	return finish(&o, rc ? rc : missing);
}
