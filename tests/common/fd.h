/* SPDX-License-Identifier: MIT */
/* Descriptors passed between processes over a socket (SCM_RIGHTS). */
#ifndef TESTS_FD_H
#define TESTS_FD_H

/* In the other process, where nothing is checked as in a test: ends it with 99 on failure. */
void fd_send(int sock, int fd);
int fd_receive(int sock);

#endif
