/* SPDX-License-Identifier: MIT */
/*
 * uffdwp_adopt(): each argument wrong in turn. Whenever it fails the descriptor still belongs to the
 * caller, as it was; when it succeeds it is the handle's.
 */
#include "args.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEATURES (UFFDWP_FEATURE_PAGEFAULT_FLAG_WP | UFFDWP_FEATURE_THREAD_ID)

static int raw(int handshake)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert(!handshake || !ioctl(fd, UFFDIO_API, &api));
	return fd;
}

static struct uffdwp_adopt_opts options(void)
{
	struct uffdwp_adopt_opts o = { .sz = sizeof(o),
				       .features = FEATURES,
				       .pid = getpid(),
				       .opts = { .sz = sizeof(o.opts),
						 .serve = UFFDWP_SERVE_CALLER } };

	return o;
}

static void refused(int fd, const struct uffdwp_adopt_opts *o, int err)
{
	struct uffdwp *h = (void *)&fd;
	int before = fcntl(fd, F_GETFL), got = uffdwp_adopt(&h, fd, o);

	ck_assert_msg(got == err, "%d, should be %d", got, err);
	ck_assert_ptr_null(h);
	ck_assert_int_eq(fcntl(fd, F_GETFL), before);
}

START_TEST(descriptors)
{
	struct uffdwp_adopt_opts o = options();
	char reason[256] = "";
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fd = raw(1), pipes[2];

	o.opts.reason = reason;
	o.opts.reason_size = sizeof(reason);
	refused(-1, &o, -EBADF);
	args_reason(reason, "fd", "-1");
	refused(1000, &o, -EBADF);
	ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
	for (int handshake = 0; handshake < 2; handshake++) {
		o.handshake = (uint32_t)handshake;
		reason[0] = '\0';
		refused(null, &o, -EINVAL);
		ck_assert(strstr(reason, "userfaultfd"));
		refused(pipes[0], &o, -EINVAL);
	}
	ck_assert_int_eq(uffdwp_adopt(NULL, fd, &o), -EINVAL);
	refused(fd, NULL, -EINVAL);
	close(null);
	close(fd);
	close(pipes[0]);
	close(pipes[1]);
}
END_TEST

/* Whoever hands over a descriptor chooses its name, and would write the messages. */
START_TEST(lookalike)
{
	static const char message[32] = { 0x13 };
	struct uffdwp_adopt_opts o = options();
	int fd = memfd_create("[userfaultfd]", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, message, sizeof(message), 0), sizeof(message));
	refused(fd, &o, -EINVAL);
	o.handshake = 1;
	refused(fd, &o, -EINVAL);
	close(fd);
}
END_TEST

START_TEST(handshakes)
{
	struct uffdwp_adopt_opts o = options();
	int done = raw(1), not_yet = raw(0);

	refused(not_yet, &o, -EINVAL);
	o.handshake = 1;
	refused(done, &o, -EINVAL);
	o.handshake = 2;
	refused(not_yet, &o, -EINVAL);
	close(done);
	close(not_yet);
}
END_TEST

START_TEST(opts_sizes)
{
	const size_t sizes[] = { 0, 1, sizeof(size_t),
				 offsetof(struct uffdwp_adopt_opts, opts) - 1 };
	struct uffdwp_adopt_opts o = options(), *longer;
	struct uffdwp *h;
	int fd = raw(1);

	ck_assert_int_eq(fcntl(fd, F_SETFD, 0), 0);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		o.sz = sizes[i];
		refused(fd, &o, -EINVAL);
	}
	o = options();
	longer = args_longer(&o, sizeof(o), 1);
	refused(fd, longer, -E2BIG);
	free(longer);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_adopt(&h, fd, longer), 0);
	free(longer);
	ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	ck_assert_int_ge(uffdwp_fd(h), 0);
	ck_assert_int_eq(uffdwp_close(h), 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}
END_TEST

START_TEST(options_inside)
{
	struct uffdwp_adopt_opts o = options();
	int fd = raw(1);

	o.opts.sz = 1;
	refused(fd, &o, -EINVAL);
	o.opts.sz = sizeof(o.opts) - 1;
	refused(fd, &o, -EINVAL);
	o = options();
	o.opts.serve = UFFDWP_SERVE_SIGBUS;
	refused(fd, &o, -EOPNOTSUPP);
	o.opts.serve = 17;
	refused(fd, &o, -EINVAL);
	o = options();
	o.opts.threads = UFFDWP_THREADS_MAX + 1;
	refused(fd, &o, -EINVAL);
	o = options();
	o.opts.required = UFFDWP_FEATURE_MOVE; /* which the other process did not obtain */
	refused(fd, &o, -EOPNOTSUPP);
	o = options();
	o.features = 0; /* as the other process says; then there is nothing to require */
	o.opts.required = UFFDWP_FEATURE_THREAD_ID;
	refused(fd, &o, -EOPNOTSUPP);
	o = options();
	o.pid = -5;
	refused(fd, &o, -EINVAL);
	close(fd);
}
END_TEST

START_TEST(pids)
{
	struct uffdwp_adopt_opts o = options();
	struct uffdwp *h;
	int fd = raw(1);

	ck_assert_int_eq(uffdwp_set_pid(NULL, 1), -EINVAL);
	ck_assert_int_eq(uffdwp_adopt(&h, fd, &o), 0);
	ck_assert_int_eq(uffdwp_set_pid(h, -1), -EINVAL);
	ck_assert_int_eq(uffdwp_set_pid(h, 0), 0);
	ck_assert_int_eq(uffdwp_set_pid(h, getpid()), 0);
	ck_assert_int_eq(uffdwp_close(h), 0);
	/* This process's own memory needs none. */
	ck_assert_int_eq(uffdwp_open(&h, NULL), 0);
	ck_assert_int_eq(uffdwp_set_pid(h, getpid()), -EOPNOTSUPP);
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

/* source and faults are ignored, as the header says. */
START_TEST(ignored)
{
	struct uffdwp_adopt_opts o = options();
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp *h;
	int fd = raw(1);

	o.opts.source = 99;
	o.opts.faults = 99;
	ck_assert_int_eq(uffdwp_adopt(&h, fd, &o), 0);
	ck_assert_int_eq(uffdwp_info(h, &info), 0);
	ck_assert_uint_eq(info.source, UFFDWP_SOURCE_ADOPTED);
	ck_assert_uint_eq(info.features, FEATURES);
	ck_assert_uint_eq(info.supported, 0);
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { descriptors,    lookalike, handshakes, opts_sizes,
				       options_inside, pids,	  ignored };

	return args_run("args_adopt", tests, sizeof(tests) / sizeof(tests[0]), NULL, 0);
}
