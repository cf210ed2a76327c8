/* SPDX-License-Identifier: MIT */
/*
 * Which errors a system call is made to fail with: those that its manual page, or the kernel's source, has for a
 * call that is well-formed, and the EPERM or ENOSYS of a filter. An error that only a wrong argument gives is not
 * among them. Reads and writes also do a part, or nothing, once and from then on.
 */
#include "fault.h"

#include <linux/userfaultfd.h>

#include "common/uapi-extra.h"

/* A request of ioctl() etc. that has errors of its own. */
struct request {
	int nr;
	uint64_t request;
	const char *name;
	int errors[FAULT_ERRORS], passing[FAULT_ERRORS];
};

/*
 * ENOENT: nothing is mapped there, which is not true for ever where something is; what is restored then counts as
 * unmapped, and rightly.
 */
static const struct request requests[] = {
	{ SYS_ioctl, USERFAULTFD_IOC_NEW, "NEW", { EMFILE, ENOMEM, EPERM }, { 0 } },
	{ SYS_ioctl, UFFDIO_API, "API", { EPERM }, { 0 } },
	{ SYS_ioctl, UFFDIO_REGISTER, "REGISTER", { ENOMEM, EBUSY, EPERM, EINVAL }, { 0 } },
	{ SYS_ioctl, UFFDIO_UNREGISTER, "UNREGISTER", { ENOMEM, EPERM }, { 0 } },
	{ SYS_ioctl, UFFDIO_WAKE, "WAKE", { EPERM }, { EINTR } },
	{ SYS_ioctl,
	  UFFDIO_WRITEPROTECT,
	  "WRITEPROTECT",
	  { ENOMEM, EPERM },
	  { EINTR, ENOENT, EAGAIN } },
	{ SYS_ioctl, UFFDIO_COPY, "COPY", { ENOMEM, ENOSPC, EPERM }, { EINTR, EAGAIN } },
	{ SYS_ioctl, UFFDIO_ZEROPAGE, "ZEROPAGE", { ENOMEM, EPERM }, { EINTR, ENOENT, EAGAIN } },
	{ SYS_ioctl,
	  UX_UFFDIO_CONTINUE,
	  "CONTINUE",
	  { ENOMEM, EFAULT, EPERM },
	  { EINTR, ENOENT, EAGAIN } },
	{ SYS_ioctl, UX_UFFDIO_MOVE, "MOVE", { ENOMEM, EAGAIN, EBUSY, EPERM }, { EINTR, ENOENT } },
	{ SYS_ioctl, UX_UFFDIO_POISON, "POISON", { ENOMEM, EPERM }, { EINTR, ENOENT, EAGAIN } },
	{ SYS_ioctl, UX_PAGEMAP_SCAN, "PAGEMAP_SCAN", { ENOTTY, ENOMEM, EPERM }, { 0 } },
	{ SYS_read, FAULT_EVENTFD, "eventfd", { 0 }, { EPERM, EAGAIN, EINTR } },
	{ SYS_write, FAULT_EVENTFD, "eventfd", { 0 }, { EPERM, EAGAIN, EINTR } },
	{ SYS_read, FAULT_MESSAGES, "messages", { EIO, ENOMEM, FAULT_SHORT }, { EINTR, EAGAIN } },
	{ FAULT_COMPLETION,
	  FAULT_COMPLETE_READ,
	  "read",
	  { EIO, ENOMEM, FAULT_SHORT, FAULT_ZERO },
	  { EINTR, EAGAIN } },
	{ FAULT_COMPLETION,
	  FAULT_COMPLETE_WRITE,
	  "write",
	  { EIO, ENOSPC, FAULT_SHORT, FAULT_ZERO },
	  { EINTR, EAGAIN } },
	{ SYS_fcntl, F_SETFD, "SETFD", { EPERM }, { 0 } },
	{ SYS_fcntl, F_GETFL, "GETFL", { EPERM }, { 0 } },
	{ SYS_fcntl, F_SETFL, "SETFL", { EPERM }, { 0 } },
	{ SYS_madvise, MADV_DONTNEED, "DONTNEED", { ENOMEM, EAGAIN, EPERM }, { 0 } },
	{ SYS_madvise, MADV_REMOVE, "REMOVE", { ENOMEM, EAGAIN, ENOSPC, EPERM }, { 0 } },
	{ SYS_madvise, MADV_WIPEONFORK, "WIPEONFORK", { ENOMEM, EAGAIN }, { 0 } },
	{ SYS_madvise, MADV_POPULATE_READ, "POPULATE_READ", { ENOMEM, EINVAL, EPERM }, { 0 } },
};

static const struct fault_kind kinds[] = {
	{ SYS_openat, "openat", false, { EMFILE, EACCES, ENOENT, ENOMEM, EPERM }, { 0 } },
	{ SYS_userfaultfd, "userfaultfd", false, { EMFILE, EPERM, ENOSYS, ENOMEM }, { 0 } },
	{ SYS_ioctl, "ioctl", true, { EPERM }, { EINTR } },
	{ SYS_close, "close", false, { EIO }, { EINTR } },
	{ SYS_flock, "flock", false, { ENOLCK, EPERM }, { EINTR, EWOULDBLOCK } },
	{ SYS_getrandom, "getrandom", false, { ENOSYS, EPERM }, { 0 } },
	{ SYS_fadvise64, "fadvise64", false, { EINVAL, EPERM }, { 0 } },
	{ SYS_dup3, "dup3", false, { EPERM, EMFILE }, { EINTR, EBUSY } },
	{ SYS_fcntl, "fcntl", true, { EPERM }, { 0 } },
#ifdef SYS_readlink
	{ SYS_readlink, "readlink", false, { ENOENT, EACCES, ENOMEM, EPERM }, { 0 } },
#endif
#ifdef SYS_poll
	{ SYS_poll, "poll", false, { EINVAL, ENOMEM, EPERM }, { EINTR } },
#endif
	{ SYS_ppoll, "ppoll", false, { EINVAL, ENOMEM, EPERM }, { EINTR } },
	{ SYS_readlinkat, "readlinkat", false, { ENOENT, EACCES, ENOMEM, EPERM }, { 0 } },
	{ SYS_eventfd2, "eventfd2", false, { EMFILE, ENFILE, ENOMEM, EPERM }, { 0 } },
	{ SYS_epoll_create1, "epoll_create1", false, { EMFILE, ENFILE, ENOMEM, EPERM }, { 0 } },
	{ SYS_epoll_ctl, "epoll_ctl", false, { ENOMEM, ENOSPC, EPERM }, { 0 } },
	{ SYS_read,
	  "read",
	  true,
	  { EIO, ENOMEM, FAULT_SHORT, FAULT_ZERO, EPERM },
	  { EINTR, EAGAIN } },
	{ SYS_write, "write", true, { EIO, ENOSPC, EPERM }, { EINTR, EAGAIN } },
	{ SYS_pread64, "pread", false, { EIO, ENOMEM, FAULT_SHORT, FAULT_ZERO, EPERM }, { EINTR } },
	{ SYS_pwrite64,
	  "pwrite",
	  false,
	  { EIO, ENOSPC, FAULT_SHORT, FAULT_ZERO, EPERM },
	  { EINTR } },
	{ SYS_preadv, "preadv", false, { EIO, ENOMEM, EPERM }, { EINTR } },
	{ SYS_preadv2, "preadv2", false, { EPERM, ENOSYS, EOPNOTSUPP, EIO }, { EINTR, EAGAIN } },
	{ SYS_pwritev, "pwritev", false, { EIO, ENOSPC, EPERM }, { EINTR } },
	{ SYS_lseek, "lseek", false, { EINVAL, EPERM }, { 0 } },
#ifdef SYS_newfstatat
	{ SYS_newfstatat, "fstat", false, { ENOMEM, EPERM }, { 0 } },
#endif
	{ SYS_fstat, "fstat", false, { ENOMEM, EPERM }, { 0 } },
	{ SYS_fsync, "fsync", false, { EIO, ENOSPC, EPERM }, { EINTR } },
	{ SYS_fdatasync, "fdatasync", false, { EIO, ENOSPC, EPERM }, { EINTR } },
	{ SYS_ftruncate, "ftruncate", false, { EIO, EPERM }, { EINTR } },
	{ SYS_fallocate, "fallocate", false, { EIO, ENOSPC, EOPNOTSUPP, EPERM }, { EINTR } },
	{ SYS_linkat, "linkat", false, { EIO, ENOSPC, EPERM }, { 0 } },
#ifdef SYS_renameat
	{ SYS_renameat, "renameat", false, { EIO, ENOSPC, EPERM }, { 0 } },
#endif
	{ SYS_renameat2, "renameat2", false, { EIO, ENOSPC, EPERM }, { 0 } },
	{ SYS_unlinkat, "unlinkat", false, { EIO, EPERM }, { 0 } },
	{ SYS_io_uring_setup, "io_uring_setup", false, { EMFILE, ENOMEM, EPERM, ENOSYS }, { 0 } },
	{ SYS_io_uring_enter, "io_uring_enter", false, { ENOMEM, EPERM }, { EINTR, EAGAIN, EBUSY } },
	{ SYS_io_uring_register,
	  "io_uring_register",
	  false,
	  { EMFILE, ENOMEM, EINVAL, EPERM },
	  { 0 } },
	{ SYS_mmap, "mmap", false, { ENOMEM, EAGAIN, EPERM }, { 0 } },
	{ SYS_munmap, "munmap", false, { ENOMEM, EPERM }, { 0 } },
	{ SYS_mprotect, "mprotect", false, { ENOMEM, EPERM }, { 0 } },
	{ SYS_madvise, "madvise", true, { ENOMEM }, { 0 } },
	{ SYS_clone3, "clone3", false, { EAGAIN, ENOMEM, ENOSYS, EPERM }, { 0 } },
	{ SYS_clone, "clone", false, { EAGAIN, ENOMEM, EPERM }, { 0 } },
	{ SYS_process_vm_readv, "process_vm_readv", false, { EPERM, ESRCH, ENOMEM, ENOSYS }, { 0 } },
	{ FAULT_COMPLETION, "completion", true, { EIO }, { 0 } },
	{ SYS_prctl, "prctl", false, { EPERM }, { 0 } },
	{ SYS_sched_getaffinity, "sched_getaffinity", false, { EPERM, ESRCH }, { 0 } },
	{ SYS_sched_setaffinity, "sched_setaffinity", false, { EPERM, EINVAL }, { 0 } },
	{ SYS_sched_setscheduler, "sched_setscheduler", false, { EPERM, EINVAL }, { 0 } },
	{ SYS_rt_sigaction, "rt_sigaction", false, { EPERM }, { 0 } },
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct request *find_request(int nr, uint64_t request)
{
	for (size_t i = 0; i < COUNT(requests); i++)
		if (requests[i].nr == nr && requests[i].request == request)
			return &requests[i];
	return NULL;
}

const struct fault_kind *fault_kind(int nr, uint64_t request)
{
	static struct fault_kind with;
	const struct request *r;

	for (size_t i = 0; i < COUNT(kinds); i++) {
		if (kinds[i].nr != nr)
			continue;
		r = kinds[i].requests ? find_request(nr, request) : NULL;
		if (!r)
			return &kinds[i];
		with = kinds[i];
		memcpy(with.errors, r->errors, sizeof(with.errors));
		if (r->passing[0])
			memcpy(with.passing, r->passing, sizeof(with.passing));
		return &with;
	}
	return NULL;
}

const char *fault_request_name(int nr, uint64_t request)
{
	const struct request *r = find_request(nr, request);

	return r ? r->name : NULL;
}

const char *fault_error_name(int err)
{
	return err == FAULT_SHORT ? "short" : err == FAULT_ZERO ? "zero" : strerrorname_np(err);
}

const int *fault_syscalls(void)
{
	static int nrs[COUNT(kinds) + 1];

	for (size_t i = 0; i < COUNT(kinds); i++)
		nrs[i] = kinds[i].nr;
	nrs[COUNT(kinds)] = -1;
	return nrs;
}
