/* SPDX-License-Identifier: MIT */
/*
 * One run: the child with its filter, and the supervisor that answers each of its system calls: go on, or an
 * error in the kernel's name. The supervisor is the watchdog too: a child that is late hangs.
 */
#include "fault.h"

#include <ftw.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "../common/live.h"

#define SECONDS (40u * LIVE_SLOWER) /* what waits for EAGAIN waits five, and there are some of it */

uint64_t fault_seed;
const struct fault_target *fault_current;

static int channel = -1; /* to the supervisor, in the child */

/* ---- Files ---- */

static char dir[64]; /* of this run; a child that is killed can not take it away */

const char *fault_dir(void)
{
	return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/var/tmp/uffdwp-fault.XXXXXX");
	if (!mkdtemp(dir))
		abort();
}

static void remove_dir(void)
{
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* By another program: who was interrupted may be within malloc. */
static void on_end(int sig)
{
	pid_t pid = fork();

	if (!pid) {
		execl("/bin/rm", "rm", "-rf", dir, (char *)NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
	signal(sig, SIG_DFL);
	raise(sig);
}

/* A run that is interrupted leaves none either. */
static void remove_at_end(void)
{
	static bool done;

	if (done)
		return;
	done = true;
	signal(SIGINT, on_end);
	signal(SIGTERM, on_end);
}

/* ---- The child ---- */

static void send_fd(int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = { 0 };
	char byte = 0;
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = space,
			    .msg_controllen = sizeof(space) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	CHECK_EQ(sendmsg(channel, &m, 0), 1);
}

/*
 * A call that the filter asks about waits for the supervisor, who has no descriptor to answer on before it is
 * sent: neither sendmsg() nor recvmsg() are among those.
 */
void fault_watch_from_here(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	const int *nr = fault_syscalls();
	int fd;

	CHECK(ctx);
	for (; *nr >= 0; nr++)
		CHECK_EQ(seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, *nr, 0), 0);
	CHECK_EQ(seccomp_load(ctx), 0);
	fd = seccomp_notify_fd(ctx);
	CHECK(fd >= 0);
	send_fd(fd);
	seccomp_release(ctx); /* which closes fd */
	close(channel);
	channel = -1;
}

static _Noreturn void child(const struct fault_scenario *s, int text)
{
	dup2(text, STDOUT_FILENO);
	dup2(text, STDERR_FILENO);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	s->run();
	fflush(NULL);
	_exit(0);
}

/* ---- The supervisor ---- */

struct supervisor {
	const struct fault_target *target;
	struct fault_run *run;
	struct seccomp_notif *req;
	struct seccomp_notif_resp *resp;
	unsigned int times; /* that the target was called */
	pid_t pid;
	int listener;
};

/* What tells a call from others of the same number. */
static uint64_t request_of(const struct seccomp_notif *n, int site)
{
	const struct fault_site *at = fault_site((unsigned int)site);

	switch (n->data.nr) {
	case SYS_read:
	case SYS_write:
		if (!strcmp(at->function, "uffdwp__sys_read"))
			return FAULT_MESSAGES;
		return strstr(at->function, "eventfd") ? FAULT_EVENTFD : 0;
	case FAULT_COMPLETION:
		return n->data.args[0];
	case SYS_madvise:
		return n->data.args[2];
	case SYS_ioctl:
	case SYS_fcntl:
		return (uint32_t)n->data.args[1];
	default:
		return 0;
	}
}

static void count_call(struct fault_run *run, int site, int nr, uint64_t request)
{
	struct fault_call *c = run->calls;

	for (unsigned int i = 0; i < run->ncalls; i++, c++) {
		if (c->site == site && c->nr == nr && c->request == request) {
			c->count++;
			return;
		}
	}
	if (run->ncalls == FAULT_CALLS)
		abort();
	*c = (struct fault_call){ site, nr, request, 1 };
	run->ncalls++;
}

static bool is_target(struct supervisor *s, int site, int nr, uint64_t request)
{
	const struct fault_target *t = s->target;
	unsigned int i;

	if (t->site != site || t->nr != nr || t->request != request)
		return false;
	i = s->times++;
	return i == t->index || (t->on && i > t->index);
}

/* A sanitizer starts threads in its own way, and ends the program when that fails. */
static bool ours(int site, int nr)
{
#if defined(LIVE_ASAN) || defined(LIVE_TSAN)
	return strcmp(fault_site((unsigned int)site)->call, "pthread_create") != 0 ||
	       nr == SYS_clone || nr == SYS_clone3;
#else
	(void)site;
	(void)nr;
	return true;
#endif
}

static void answer(struct supervisor *s)
{
	uint64_t request = 0;
	bool fail = false;
	int site, nr;

	memset(s->req, 0, sizeof(*s->req));
	if (seccomp_notify_receive(s->listener, s->req))
		return; /* its thread has ended */
	nr = s->req->data.nr;
	site = fault_marked((pid_t)s->req->pid, false);
	if (site >= 0 && ours(site, nr)) {
		request = request_of(s->req, site);
		count_call(s->run, site, nr, request);
		fail = is_target(s, site, nr, request);
	}
	if (fail) {
		fault_marked((pid_t)s->req->pid, true);
		s->run->failed++;
	}
	s->resp->id = s->req->id;
	s->resp->val = 0;
	s->resp->error = fail ? -s->target->error : 0;
	s->resp->flags = fail ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	seccomp_notify_respond(s->listener, s->resp);
}

static int receive_fd(int from)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = space,
			    .msg_controllen = sizeof(space) };
	int fd = -1;

	if (recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Answers until the child has ended. False: it hangs. */
static bool serve(struct supervisor *s, int from, int *status)
{
	uint64_t end = now_ms() + SECONDS * 1000;

	while (waitpid(s->pid, status, WNOHANG) != s->pid) {
		struct pollfd p = { .fd = s->listener < 0 ? from : s->listener, .events = POLLIN };

		if (now_ms() > end)
			return false;
		if (poll(&p, 1, 10) <= 0)
			continue;
		if (s->listener >= 0 && p.revents & POLLIN)
			answer(s);
		else if (s->listener < 0)
			s->listener = receive_fd(from);
		/* All that are under the filter have ended, or the child has without one. */
		if (!(p.revents & POLLIN) || (s->listener < 0 && p.revents & POLLHUP))
			live_msleep(1);
	}
	return true;
}

static void read_text(int fd, char *text, size_t size)
{
	ssize_t n = pread(fd, text, size - 1, 0);

	text[n > 0 ? n : 0] = '\0';
}

static enum fault_result result_of(struct supervisor *s, int status)
{
	bool wanted = s->target->site >= 0;

	if (WIFSIGNALED(status)) {
		size_t n = strlen(s->run->text);

		snprintf(s->run->text + n, sizeof(s->run->text) - n, "  ended by %s\n",
			 strsignal(WTERMSIG(status)));
		return FAULT_FAIL;
	}
	if (WEXITSTATUS(status) == 77)
		return FAULT_SKIP;
	if (WEXITSTATUS(status))
		return FAULT_FAIL;
	return wanted && !s->run->failed ? FAULT_MISSED : FAULT_PASS;
}

static enum fault_result supervise(struct supervisor *s, int from, int text)
{
	int status = 0;
	bool ended = serve(s, from, &status);

	if (!ended) {
		fprintf(stderr, "  hangs after %u s\n", SECONDS);
		live_report(s->pid);
		kill(s->pid, SIGKILL);
		waitpid(s->pid, &status, 0);
	}
	read_text(text, s->run->text, sizeof(s->run->text));
	return ended ? result_of(s, status) : FAULT_FAIL;
}

enum fault_result fault_supervise(const struct fault_scenario *sc, const struct fault_target *t,
				  uint64_t seed, struct fault_run *run)
{
	struct supervisor s = { .target = t, .run = run, .listener = -1 };
	int text = memfd_create("text", MFD_CLOEXEC), pair[2];
	enum fault_result result;

	memset(run, 0, sizeof(*run));
	fault_marks_clear();
	if (text < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) ||
	    seccomp_notify_alloc(&s.req, &s.resp))
		abort();
	remove_at_end();
	make_dir();
	fflush(NULL);
	s.pid = fork();
	if (!s.pid) {
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		close(pair[0]);
		channel = pair[1];
		fault_seed = seed;
		fault_current = t;
		child(sc, text);
	}
	close(pair[1]);
	result = supervise(&s, pair[0], text);
	seccomp_notify_free(s.req, s.resp);
	if (s.listener >= 0)
		close(s.listener);
	close(pair[0]);
	close(text);
	remove_dir();
	return result;
}
