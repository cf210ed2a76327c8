/* SPDX-License-Identifier: MIT */
/*
 * What uffd-stress prints: prose, a progress line that exists on terminals only, and JSON, one
 * object a line on stdout, where prose gives way to stderr.
 */
#include "stress.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool line_open; /* a progress line stands on stderr */

static void end_progress_locked(void)
{
	if (line_open)
		fputs("\r\033[K", stderr);
	line_open = false;
}

void out_say(const struct stress_opts *o, const char *fmt, ...)
{
	FILE *f = o->json ? stderr : stdout;
	va_list ap;

	pthread_mutex_lock(&lock);
	end_progress_locked();
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fflush(f);
	pthread_mutex_unlock(&lock);
}

void out_fail(const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&lock);
	end_progress_locked();
	fputs("uffd-stress: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	pthread_mutex_unlock(&lock);
}

void out_progress(const struct stress_opts *o, const char *fmt, ...)
{
	va_list ap;

	if (!o->progress)
		return;
	pthread_mutex_lock(&lock);
	end_progress_locked();
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fflush(stderr);
	line_open = true;
	pthread_mutex_unlock(&lock);
}

static void put_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			printf("\\u%04x", (unsigned char)*s);
		else
			putchar(*s);
	}
	putchar('"');
}

static void put_key(const char *key)
{
	putchar(',');
	put_string(key);
	putchar(':');
}

void json_begin(const struct stress_opts *o)
{
	if (!o->json)
		return;
	printf("{\"schema\":1");
	json_str(o, "command", o->command);
}

void json_str(const struct stress_opts *o, const char *key, const char *value)
{
	if (!o->json)
		return;
	put_key(key);
	put_string(value);
}

void json_u64(const struct stress_opts *o, const char *key, uint64_t value)
{
	if (!o->json)
		return;
	put_key(key);
	printf("%" PRIu64, value);
}

void json_bool(const struct stress_opts *o, const char *key, bool value)
{
	if (!o->json)
		return;
	put_key(key);
	fputs(value ? "true" : "false", stdout);
}

void json_end(const struct stress_opts *o)
{
	if (!o->json)
		return;
	puts("}");
	fflush(stdout);
}
