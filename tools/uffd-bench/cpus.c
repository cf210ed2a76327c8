/* SPDX-License-Identifier: MIT */
/*
 * The CPUs that this process was given. Writers and handlers are placed on these only, so that a
 * bench under taskset(1) or in a cpuset measures what was meant.
 */
#include <sched.h>
#include <stdio.h>

#include "bench.h"

static int list[BENCH_CPUS_MAX];
static int count;

static void read_allowed(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		for (int cpu = 0; cpu < CPU_SETSIZE && count < BENCH_CPUS_MAX; cpu++)
			if (CPU_ISSET(cpu, &set))
				list[count++] = cpu;
	if (count == 0)
		list[count++] = 0;
}

int cpus_allowed(const int **cpus)
{
	if (count == 0)
		read_allowed();
	if (cpus)
		*cpus = list;
	return count;
}

int cpus_nth(unsigned int i)
{
	unsigned int n = (unsigned int)cpus_allowed(NULL);

	return list[i % n];
}

void cpus_name(const unsigned long served[BENCH_CPUS_MAX], char *out, size_t size)
{
	unsigned long sum = 0, used = 0;
	size_t at = 0;

	for (int cpu = 0; cpu < BENCH_CPUS_MAX; cpu++)
		sum += served[cpu];
	out[0] = '\0';
	for (int cpu = 0; cpu < BENCH_CPUS_MAX; cpu++) {
		if (served[cpu] == 0 || served[cpu] * 20 < sum)
			continue;
		used++;
		if (at < size)
			at += (size_t)snprintf(out + at, size - at, "%s%d", at ? "," : "", cpu);
	}
	if (at >= size || used > 4)
		snprintf(out, size, "%lu CPUs", used);
}
