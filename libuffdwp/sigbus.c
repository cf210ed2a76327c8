/* SPDX-License-Identifier: MIT */
/*
 * SIGBUS: with UFFD_FEATURE_SIGBUS the kernel sends no message but kills the access, and the
 * handler, in the very thread that faulted, does what a message would have caused; then the
 * access is repeated.
 *
 * A process has one handler for a signal. So there is one for all handles, and this file has the
 * library's only global state: the list of handles, and the handler that was there before, which
 * gets every SIGBUS that is not ours. Handlers are readers, counted as in region.h but for all
 * handles together, so that a handle can be taken off the list while others are in use.
 *
 * The signal tells an address and no reason. Where a region can have more than one, the page is
 * read through the kernel: it is missing if that fails. And the signal may come late, when the
 * region that it was for is gone: so an access to nobody's address is tried once more before it
 * is passed on. For the same reason the handler stays installed when the last handle is closed,
 * and only passes on.
 */
#include "sigbus.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "call.h"
#include "fault.h"
#include "sys.h"
#include "util.h"

/*
 * So often an access is tried again that should have been resolved: it may be poison, or hugetlb
 * out of pages.
 */
#define DOUBTS 16

/*
 * In si_errno, which the kernel leaves zero: the handler that it was passed on to has called ours
 * with it.
 */
#define PASSED 0x75666664

enum outcome {
	FOREIGN,  /* nobody's */
	PROGRESS, /* resolved */
	WAIT,	  /* will be, by another thread */
	DOUBT,	  /* should be */
};

/*
 * The access that this thread tried last in vain. initial-exec: a signal handler can not
 * allocate.
 */
static _Thread_local struct {
	uint64_t addr;
	uint32_t generation, times;
} vain __attribute__((tls_model("initial-exec")));

static struct {
	_Atomic(struct uffdwp *) handle[UFFDWP__SIGBUS_MAX];
	struct uffdwp__readers readers;
	_Atomic int pid;      /* whose all this is; 0: nobody's yet, negative: about to be */
	pthread_mutex_t lock; /* the rest */
	bool installed;
	struct sigaction before; /* the handler that ours replaced last */
	struct sigaction first;	 /* and at first: where a chain that leads back to ours ends */
} chain = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- Serving ---- */

/* Through the kernel, which says EFAULT where an access of ours would be the next signal. */
static bool present(uint64_t addr)
{
	char byte;

	return uffdwp__sys_read_process(uffdwp__sys_pid(), addr, &byte, 1) == 1;
}

/*
 * x86 says whether the page was in the page table: then only protection can have failed. Swapped
 * pages were not.
 */
static bool protection_fault(const ucontext_t *uc)
{
#if defined(__x86_64__) || defined(__i386__)
	return uc->uc_mcontext.gregs[REG_ERR] & 1;
#else
	(void)uc;
	return false;
#endif
}

static bool read_fault(const ucontext_t *uc)
{
#if defined(__x86_64__) || defined(__i386__)
	return !(uc->uc_mcontext.gregs[REG_ERR] & 2);
#else
	(void)uc;
	return false;
#endif
}

static enum outcome serve_write(struct uffdwp__server *s, struct uffdwp_region *r, uint64_t page,
				uint64_t addr)
{
	uint64_t n;

	if (uffdwp__pages_get(&r->pages, page) == UFFDWP__FREE && !present(addr))
		return FOREIGN;
	uffdwp__count(s->st, COUNT_WRITE, 1);
	switch (uffdwp__serve_write(s, r, page, 1, 0, &n)) {
	case UFFDWP__ARMED:
		return PROGRESS;
	case UFFDWP__FREE:
		return DOUBT;
	default:
		uffdwp__sys_yield();
		return WAIT;
	}
}

static enum outcome serve_absent(struct uffdwp__server *s, struct uffdwp_region *r, uint64_t page,
				 uint64_t addr)
{
	bool minor = r->mode & UFFDWP_MODE_MINOR;
	int err;

	uffdwp__count(s->st, minor ? COUNT_MINOR : COUNT_MISSING, 1);
	err = uffdwp__serve_absent(s, r, page, minor ? UFFDWP_FAULT_MINOR : UFFDWP_FAULT_MISSING,
				   false, 0);
	if (err == UFFDWP_LATER) {
		uffdwp__sys_yield();
		return WAIT;
	}
	return err || (vain.times && !present(addr)) ? DOUBT : PROGRESS;
}

static enum outcome serve_region(struct uffdwp__server *s, const struct uffdwp__entry *e,
				 uint64_t addr, const ucontext_t *uc)
{
	struct uffdwp_region *r = e->r;
	uint64_t page = (addr - e->base) >> r->shift;
	bool absent = uffdwp__places(r);

	if (r->pages.n && (!absent || protection_fault(uc) || present(addr))) {
		/* A reader that waited for the page, which another thread has placed by now. */
		return absent && read_fault(uc) ? WAIT : serve_write(s, r, page, addr);
	}
	return absent ? serve_absent(s, r, page, addr) : FOREIGN;
}

static enum outcome serve_handle(struct uffdwp *h, uint64_t addr, const ucontext_t *uc,
				 uint32_t *generation)
{
	struct uffdwp__server s = { .h = h, .st = &h->stats, .worker = UFFDWP_NO_WORKER };
	const struct uffdwp__entry *e;
	uint64_t since = uffdwp__sampled(s.st, COUNT_WRITE, h->sample) ? uffdwp__sys_now() : 0;
	enum outcome out = FOREIGN;
	unsigned int phase;
	int slot;

	slot = uffdwp__serving_begin(h);
	phase = uffdwp__enter(h);
	e = uffdwp__lookup(h, addr);
	if (e) {
		out = serve_region(&s, e, addr, uc);
		/* After the page's state: who finds it FREE again sees the protection in between counted. */
		*generation += atomic_load_explicit(&e->r->protections, memory_order_relaxed);
	}
	uffdwp__leave(h, phase);
	uffdwp__serving_end(h, slot);
	if (since && out != FOREIGN)
		uffdwp__hist_record(&h->stats.latency, uffdwp__sys_now() - since, 1, 1);
	return out;
}

/*
 * Tells in *generation which regions there were, and how often the address's own was protected: a number that grows
 * with every change.
 */
static enum outcome serve(uint64_t addr, const ucontext_t *uc, uint32_t *generation)
{
	unsigned int phase = uffdwp__readers_enter(&chain.readers);
	enum outcome out = FOREIGN;

	*generation = atomic_load_explicit(&chain.readers.phase, memory_order_relaxed);
	for (int i = 0; i < UFFDWP__SIGBUS_MAX && out == FOREIGN; i++) {
		struct uffdwp *h = atomic_load_explicit(&chain.handle[i], memory_order_seq_cst);

		if (!h || uffdwp__check(h))
			continue;
		*generation += atomic_load_explicit(&h->readers.phase, memory_order_relaxed);
		out = serve_handle(h, addr, uc, generation);
	}
	uffdwp__readers_leave(&chain.readers, phase);
	return out;
}

/*
 * Whether to let the access be tried again. One that comes after another protection is another one: a thread that
 * never gets its page first, and faults nowhere else, has only such.
 */
static bool try_again(uint64_t addr, enum outcome out, uint32_t generation)
{
	if (out == PROGRESS)
		vain.times = 0;
	if (out == PROGRESS || out == WAIT)
		return true;
	if (vain.addr != addr || vain.generation != generation)
		vain.times = 0;
	vain.addr = addr;
	vain.generation = generation;
	return vain.times++ < (out == FOREIGN ? 1 : DOUBTS);
}

static bool ours(uint64_t addr, const ucontext_t *uc)
{
	uint32_t generation;
	enum outcome out;

	uffdwp__prefetch(addr);
	if (vain.addr != addr)
		vain.times = 0;
	out = serve(addr, uc, &generation);
	return try_again(addr, out, generation);
}

/* ---- The signal ---- */

/*
 * As if the handler before were the handler now. The default action is death; an access that is
 * ignored never ends.
 */
static void pass_on(const struct sigaction *to, int sig, siginfo_t *info, void *uc)
{
	if (to->sa_flags & SA_SIGINFO) {
		to->sa_sigaction(sig, info, uc);
	} else if (to->sa_handler != SIG_DFL && to->sa_handler != SIG_IGN) {
		to->sa_handler(sig);
	} else if (to->sa_handler == SIG_DFL || info->si_code > 0) {
		signal(sig, SIG_DFL);
		if (info->si_code <= 0) /* sent by kill(2): it does not come again by itself */
			raise(sig);
	}
}

static void handler(int sig, siginfo_t *info, void *uc)
{
	int saved = errno;

	if (info->si_errno == PASSED) {
		pass_on(&chain.first, sig, info, uc);
	} else if (info->si_code != BUS_ADRERR || !ours((uintptr_t)info->si_addr, uc)) {
		info->si_errno = PASSED;
		pass_on(&chain.before, sig, info, uc);
	}
	errno = saved;
}

/* ---- The list ---- */

/*
 * Again if the program has put another handler in its place since: that one is then the one
 * before.
 */
__cold static int install(void)
{
	struct sigaction sa = { .sa_sigaction = handler,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	struct sigaction now;

	if (sigaction(SIGBUS, NULL, &now))
		return -errno;
	if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == handler)
		return 0;
	chain.before = now;
	if (!chain.installed)
		chain.first = now;
	sigfillset(&sa.sa_mask);
	if (sigaction(SIGBUS, &sa, NULL))
		return -errno;
	chain.installed = true;
	return 0;
}

/* In a child of fork(2): what threads of its parent held or counted, nobody there gives back. */
__cold static void renew(void)
{
	int self = uffdwp__sys_pid(), was = atomic_load_explicit(&chain.pid, memory_order_relaxed);

	if (was != self && was != -self &&
	    atomic_compare_exchange_strong_explicit(&chain.pid, &was, -self, memory_order_relaxed,
						    memory_order_relaxed)) {
		pthread_mutex_init(&chain.lock, NULL);
		for (int i = 0; i < 2; i++)
			atomic_store_explicit(&chain.readers.count[i], 0, memory_order_relaxed);
		/* Release: pairs with the acquire of another thread that opens its first one. */
		atomic_store_explicit(&chain.pid, self, memory_order_release);
	}
	for (unsigned int n = 0; atomic_load_explicit(&chain.pid, memory_order_acquire) != self;
	     n++)
		uffdwp__pause(n);
}

__cold int uffdwp__sigbus_add(struct uffdwp *h)
{
	int i = 0, err = 0;

	renew();
	pthread_mutex_lock(&chain.lock);
	while (i < UFFDWP__SIGBUS_MAX &&
	       atomic_load_explicit(&chain.handle[i], memory_order_relaxed))
		i++;
	if (i == UFFDWP__SIGBUS_MAX)
		err = -EMFILE;
	else
		err = install();
	if (!err)
		atomic_store_explicit(&chain.handle[i], h, memory_order_seq_cst);
	pthread_mutex_unlock(&chain.lock);
	return err;
}

__cold void uffdwp__sigbus_remove(struct uffdwp *h)
{
	pthread_mutex_lock(&chain.lock);
	for (int i = 0; i < UFFDWP__SIGBUS_MAX; i++) {
		if (atomic_load_explicit(&chain.handle[i], memory_order_relaxed) != h)
			continue;
		atomic_store_explicit(&chain.handle[i], NULL, memory_order_seq_cst);
		uffdwp__readers_wait(&chain.readers);
		break;
	}
	pthread_mutex_unlock(&chain.lock);
}

/*
 * Nobody else uses the list of a child that is new; its lock may be a thread's that is not there.
 */
__cold void uffdwp__sigbus_drop(struct uffdwp *h)
{
	for (int i = 0; i < UFFDWP__SIGBUS_MAX; i++) {
		if (atomic_load_explicit(&chain.handle[i], memory_order_relaxed) == h)
			atomic_store_explicit(&chain.handle[i], NULL, memory_order_seq_cst);
	}
}
