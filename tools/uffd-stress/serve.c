/* SPDX-License-Identifier: MIT */
/* Serving threads, see serve.h. */
#include "serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "../common/sandbox.h"

#define CPUS_MAX 8

/* What the subcommands that take --sandbox make serving threads do. */
#define SANDBOX \
	(SANDBOX_PLACEMENT | SANDBOX_ABSENT | SANDBOX_FOREIGN | SANDBOX_FORK | SANDBOX_FORKED)

static unsigned int sandbox = SANDBOX;

/* Only who serves a snapshot's faults looks into page tables. */
static void choose_sandbox(const struct stress_opts *o)
{
	if (!strcmp(o->command, "snapshot"))
		sandbox = SANDBOX | SANDBOX_SNAPSHOT;
}

unsigned int server_threads(const struct stress_opts *o)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (o->handlers)
		return o->handlers;
	return cpus < 1 ? 1 : cpus > CPUS_MAX ? CPUS_MAX : (unsigned int)cpus;
}

/* Interrupts a blocking read, nothing else. */
static void on_interrupt(int sig)
{
	(void)sig;
}

static bool wait_by_poll(struct server *s)
{
	struct pollfd p[2] = {
		{ .fd = s->fd, .events = POLLIN },
		{ .fd = s->stop, .events = POLLIN },
	};

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	return !p[1].revents;
}

/*
 * Not watched: a handler sleeps as long as nobody faults, and one that hangs shows as a
 * locker that does.
 */
static void *handler(void *arg)
{
	const struct timespec tick = { 0, 1000000 };
	struct server *s = arg;
	int rc = s->sandboxed ? sandbox_enter(sandbox | SANDBOX_LOOP) : 0, err;

	if (rc)
		atomic_store(&s->error, rc);
	while (!rc && !atomic_load(&s->stopping)) {
		if (s->poll && !wait_by_poll(s))
			break;
		err = uffdwp_dispatch(s->h);
		if (err >= 0)
			continue;
		/* It is told at the end; until then it has served all the same, and nobody stays asleep. */
		atomic_store(&s->error, err);
		nanosleep(&tick, NULL);
	}
	return NULL;
}

static int start_own(struct server *s, unsigned int n)
{
	struct sigaction sa;

	memset(&sa, 0, sizeof(sa));
	sa.sa_handler = on_interrupt; /* and no SA_RESTART */
	sigaction(SIGUSR1, &sa, NULL);
	s->fd = s->poll ? uffdwp_fd(s->h) : -1;
	s->stop = eventfd(0, EFD_CLOEXEC);
	if ((s->poll && s->fd < 0) || s->stop < 0)
		return -1;
	for (s->n = 0; s->n < n; s->n++) {
		if (pthread_create(&s->threads[s->n], NULL, handler, s))
			return -1;
	}
	return 0;
}

/* A signal may come just before the thread blocks, and is lost then: repeat it. */
static void interrupt_and_join(pthread_t t)
{
	const struct timespec tick = { 0, 200000 };

	do {
		pthread_kill(t, SIGUSR1);
		nanosleep(&tick, NULL);
	} while (pthread_tryjoin_np(t, NULL));
}

void server_stop(struct server *s)
{
	unsigned int i;

	if (s->stop < 0)
		return;
	atomic_store(&s->stopping, true);
	eventfd_write(s->stop, 1);
	for (i = 0; i < s->n; i++) {
		if (s->poll)
			pthread_join(s->threads[i], NULL);
		else
			interrupt_and_join(s->threads[i]);
	}
	s->n = 0;
	close(s->stop);
	s->stop = -1;
}

bool server_close(struct server *s)
{
	int err = s->h ? uffdwp_error(s->h) : 0, rc;
	bool good = !err;

	server_stop(s);
	if (err)
		out_fail("the handle failed: %s", strerror(-err));
	if (atomic_load(&s->error) && atomic_load(&s->error) != err) {
		out_fail("uffdwp_dispatch: %s", strerror(-atomic_load(&s->error)));
		good = false;
	}
	rc = uffdwp_close(s->h);
	s->h = NULL;
	if (rc)
		out_fail("uffdwp_close: %s", strerror(-rc));
	return good && !rc;
}

/* A mode that was asked for and not obtained would prove nothing. */
static bool obtained(const struct server *s, uint32_t serve, unsigned int n, bool async)
{
	struct uffdwp_info info = { .sz = sizeof(info) };

	if (!uffdwp_info(s->h, &info) && info.serve == serve && info.async == async &&
	    info.threads == (serve == UFFDWP_SERVE_THREADS ? n : 0))
		return true;
	out_fail("asked to serve in way %u with %u threads, obtained way %u with %u", serve, n,
		 info.serve, info.threads);
	return false;
}

static int open_failed(enum mem_kind kind, int err, const char *reason)
{
	bool lacks = err == -EOPNOTSUPP || err == -ENOSYS || err == -EPERM || err == -EACCES;

	out_fail("%s%s: %s (%s)", lacks ? "unsupported: " : "", mem_name(kind), reason,
		 strerror(-err));
	return lacks ? EXIT_UNSUPPORTED : EXIT_HARNESS;
}

int server_start(struct server *s, const struct stress_opts *o, enum mem_kind kind, uint32_t serve,
		 bool by_poll, const struct uffdwp_opts *more)
{
	struct uffdwp_opts opts = { .sz = sizeof(opts) };
	unsigned int n = more && more->threads && !o->handlers ? more->threads : server_threads(o);
	char reason[256] = "";
	int err;

	memset(s, 0, sizeof(*s));
	s->stop = -1;
	s->poll = by_poll;
	if (more)
		opts = *more;
	opts.required |= mem_wp_features(kind) | mem_missing_features(kind);
	opts.serve = serve;
	opts.sample = 1;
	opts.blocking = serve == UFFDWP_SERVE_CALLER && !by_poll;
	opts.threads = serve == UFFDWP_SERVE_THREADS ? n : 0;
	s->sandboxed = o->sandbox;
	choose_sandbox(o);
	if (o->sandbox && serve == UFFDWP_SERVE_THREADS) {
		opts.thread_start = sandbox_thread_start;
		opts.thread_arg = &sandbox;
	}
	opts.reason = reason;
	opts.reason_size = sizeof(reason);
	err = uffdwp_open(&s->h, &opts);
	if (err)
		return open_failed(kind, err, reason);
	if (!obtained(s, serve, n, opts.required & UFFDWP_FEATURE_WP_ASYNC)) {
		server_close(s);
		return EXIT_WRONG;
	}
	if (serve != UFFDWP_SERVE_CALLER || !start_own(s, n))
		return EXIT_PASS;
	out_fail("own serving threads do not start");
	server_close(s);
	return EXIT_HARNESS;
}
