/* SPDX-License-Identifier: MIT */
/*
 * The main() of a fuzzer's target where there is no fuzzer: runs it on each input that it is given, as `make check`
 * does. An argument is a file that is one input, or, if its name ends in .corpus, has one in each line, in
 * hexadecimal digits. What is wrong ends the program.
 */
#include <ctype.h>
#include <string.h>

#include "fuzz.h"

#define INPUT_MAX ((size_t)1 << 20)

static unsigned int inputs;

static void run(const uint8_t *data, size_t size)
{
	/* Of its exact size, for AddressSanitizer. */
	uint8_t *copy = malloc(size ? size : 1);

	FUZZ_REQUIRE(copy);
	for (size_t i = 0; i < size; i++)
		copy[i] = data[i];
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
	inputs++;
}

static unsigned int digit(char c)
{
	FUZZ_REQUIRE(isxdigit((unsigned char)c));
	return c <= '9' ? (unsigned int)(c - '0') : (unsigned int)(c - 'a') + 10;
}

static void run_line(const char *line, size_t n)
{
	uint8_t *data = malloc(n / 2 + 1);

	FUZZ_REQUIRE(data && n % 2 == 0);
	for (size_t i = 0; i < n / 2; i++)
		data[i] = (uint8_t)(digit(line[2 * i]) << 4 | digit(line[2 * i + 1]));
	run(data, n / 2);
	free(data);
}

static void run_file(const char *path)
{
	static char buf[INPUT_MAX];
	const char *dot = strrchr(path, '.');
	FILE *f = fopen(path, "rbe");
	size_t n;

	FUZZ_REQUIRE(f);
	n = fread(buf, 1, sizeof(buf), f);
	FUZZ_REQUIRE(n < sizeof(buf));
	fclose(f);
	if (!dot || strcmp(dot, ".corpus") != 0) {
		run((uint8_t *)buf, n);
		return;
	}
	for (char *line = buf, *end; (end = memchr(line, '\n', n - (size_t)(line - buf)));
	     line = end + 1)
		run_line(line, (size_t)(end - line));
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		run_file(argv[i]);
	printf("%u inputs, nothing wrong\n", inputs);
	printf("%d passed, 0 failed, 0 skipped\n", !!inputs);
	return inputs ? 0 : 2;
}
