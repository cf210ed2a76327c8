/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd for the checks of `uffd-stress probe`: the bare ioctls, with -errno for a result.
 * Nothing is retried here, because what the kernel answers is what is checked.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

int probe_descriptor(int flags)
{
	int node = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (node < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);
	else
		fd = ioctl(node, USERFAULTFD_IOC_NEW, O_CLOEXEC | flags);
	if (fd < 0)
		probe_unsupported("no userfaultfd: %s; root may, or who can open /dev/userfaultfd",
				  strerror(errno));
	if (node >= 0)
		close(node);
	return fd;
}

int probe_handshake(int fd, uint64_t features, struct uffdio_api *api)
{
	memset(api, 0, sizeof(*api));
	api->api = UFFD_API;
	api->features = features;
	return ioctl(fd, UFFDIO_API, api) ? -errno : 0;
}

int probe_uffd(uint64_t features)
{
	int fd = probe_descriptor(O_NONBLOCK);
	struct uffdio_api api;

	probe_expect_err(probe_handshake(fd, features, &api), 0, "UFFDIO_API");
	return fd;
}

/* Not for checks: it has no verdict to give. */
uint64_t probe_features(int *err)
{
	int node = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;
	struct uffdio_api api = { .features = 0 };

	if (node >= 0)
		fd = ioctl(node, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	/* Linux before 5.11 does not know that flag. */
	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	*err = fd < 0 ? -errno : probe_handshake(fd, 0, &api);
	if (node >= 0)
		close(node);
	if (fd >= 0)
		close(fd);
	return *err ? 0 : api.features;
}

int probe_register(int fd, const void *addr, size_t len, uint64_t mode, uint64_t *ioctls)
{
	struct uffdio_register r = { .range = { (uintptr_t)addr, len }, .mode = mode };
	int err = ioctl(fd, UFFDIO_REGISTER, &r) ? -errno : 0;

	if (ioctls)
		*ioctls = r.ioctls;
	return err;
}

int probe_unregister(int fd, const void *addr, size_t len)
{
	struct uffdio_range r = { (uintptr_t)addr, len };

	return ioctl(fd, UFFDIO_UNREGISTER, &r) ? -errno : 0;
}

int probe_wp(int fd, const void *addr, size_t len, uint64_t mode)
{
	struct uffdio_writeprotect w = { .range = { (uintptr_t)addr, len }, .mode = mode };

	return ioctl(fd, UFFDIO_WRITEPROTECT, &w) ? -errno : 0;
}

int probe_wake(int fd, const void *addr, size_t len)
{
	struct uffdio_range r = { (uintptr_t)addr, len };

	return ioctl(fd, UFFDIO_WAKE, &r) ? -errno : 0;
}

/* Right after the ioctl: errno is still its own. */
static int finish(int ret, int64_t got, int64_t *done)
{
	int err = ret ? -errno : 0;

	if (done)
		*done = got;
	return err;
}

int probe_copy(int fd, void *dst, const void *src, size_t len, uint64_t mode, int64_t *done)
{
	struct uffdio_copy c = { .dst = (uintptr_t)dst, .src = (uintptr_t)src };
	int ret;

	c.len = len;
	c.mode = mode;
	ret = ioctl(fd, UFFDIO_COPY, &c);
	return finish(ret, c.copy, done);
}

int probe_zero(int fd, void *dst, size_t len, uint64_t mode, int64_t *done)
{
	struct uffdio_zeropage z = { .range = { (uintptr_t)dst, len }, .mode = mode };
	int ret;

	ret = ioctl(fd, UFFDIO_ZEROPAGE, &z);
	return finish(ret, z.zeropage, done);
}

int probe_continue(int fd, void *dst, size_t len, uint64_t mode, int64_t *done)
{
	struct ux_continue c = { .range = { (uintptr_t)dst, len }, .mode = mode };
	int ret;

	ret = ioctl(fd, UX_UFFDIO_CONTINUE, &c);
	return finish(ret, c.mapped, done);
}

int probe_poison(int fd, void *dst, size_t len, int64_t *done)
{
	struct ux_poison p = { .range = { (uintptr_t)dst, len } };
	int ret;

	ret = ioctl(fd, UX_UFFDIO_POISON, &p);
	return finish(ret, p.updated, done);
}

int probe_move_pages(int fd, void *dst, void *src, size_t len, uint64_t mode, int64_t *done)
{
	struct ux_move m = { .dst = (uintptr_t)dst, .src = (uintptr_t)src };
	int ret;

	m.len = len;
	m.mode = mode;
	ret = ioctl(fd, UX_UFFDIO_MOVE, &m);
	return finish(ret, m.move, done);
}

void probe_must_register(int fd, const void *addr, size_t len, uint64_t mode)
{
	probe_expect_err(probe_register(fd, addr, len, mode, NULL), 0, "UFFDIO_REGISTER");
}

void probe_protect_range(int fd, const void *addr, size_t len)
{
	probe_expect_err(probe_wp(fd, addr, len, UFFDIO_WRITEPROTECT_MODE_WP), 0, "protecting");
}

void probe_release_range(int fd, const void *addr, size_t len)
{
	probe_expect_err(probe_wp(fd, addr, len, 0), 0, "unprotecting");
}

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) > 0 && p.revents & POLLIN;
}

bool probe_message(int fd, struct uffd_msg *msg, int ms)
{
	return readable(fd, ms) && read(fd, msg, sizeof(*msg)) == (ssize_t)sizeof(*msg);
}

void probe_event_message(int fd, struct uffd_msg *msg, uint8_t event)
{
	PROBE_CHECK(probe_message(fd, msg, PROBE_WAIT_MS), "no message came, expected event 0x%x",
		    event);
	PROBE_CHECK(msg->event == event, "the message is event 0x%x, expected 0x%x", msg->event,
		    event);
}

void probe_fault_message(int fd, const void *addr, uint64_t flags)
{
	struct uffd_msg msg;

	probe_event_message(fd, &msg, UFFD_EVENT_PAGEFAULT);
	PROBE_CHECK(msg.arg.pagefault.address == (uintptr_t)addr,
		    "the message is about %#llx, expected %p",
		    (unsigned long long)msg.arg.pagefault.address, addr);
	PROBE_CHECK(msg.arg.pagefault.flags == flags, "the message has flags %#llx, expected %#llx",
		    (unsigned long long)msg.arg.pagefault.flags, (unsigned long long)flags);
}

void probe_pending(int fd)
{
	PROBE_CHECK(readable(fd, PROBE_WAIT_MS), "no message came");
}

void probe_silent(int fd)
{
	struct uffd_msg msg;

	if (probe_message(fd, &msg, 20))
		probe_fail("an unexpected message came: event 0x%x", msg.event);
}
