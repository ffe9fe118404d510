#include "server/notify.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_FD = 3, MAX_FDS = 1024 };

/* --- the environment --- */

/* Absent or not a number: 0. */
static uint64_t number_of(const char *name)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 10) : 0;
}

/* A path, or "@name" for the abstract namespace. */
static bool set_address(struct sk_notify *n, const char *path)
{
    size_t len = path ? strlen(path) : 0;
    if (len < 2 || len >= sizeof n->to.sun_path || (path[0] != '/' && path[0] != '@'))
        return false;
    n->to = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(n->to.sun_path, path, len);
    n->n_to = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] == '/'));
    if (path[0] == '@')
        n->to.sun_path[0] = '\0';
    return true;
}

void sk_notify_open(struct sk_notify *n)
{
    *n = (struct sk_notify){.fd = -1};
    if (set_address(n, getenv("NOTIFY_SOCKET")))
        n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (n->fd >= 0 && (!getenv("WATCHDOG_PID") || number_of("WATCHDOG_PID") == (uint64_t)getpid()))
        n->watchdog_us = number_of("WATCHDOG_USEC");
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void sk_notify_close(struct sk_notify *n)
{
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

/* --- inherited sockets --- */

uint32_t sk_notify_sockets(struct sk_notify_socket *ret, uint32_t max)
{
    const char *names = getenv("LISTEN_FDNAMES");
    uint64_t n_given = number_of("LISTEN_PID") == (uint64_t)getpid() ? number_of("LISTEN_FDS") : 0;
    uint32_t n = 0;
    for (int fd = FIRST_FD; fd < FIRST_FD + MAX_FDS && (uint64_t)(fd - FIRST_FD) < n_given; fd++) {
        int len = names ? (int)strcspn(names, ":") : 0;
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) { /* it is there */
            if (n < max) {
                ret[n].fd = fd;
                snprintf(ret[n++].name, SK_NOTIFY_MAX_NAME, "%.*s", len, names ? names : "");
            } else {
                close(fd);
            }
        }
        if (names)
            names += len + (names[len] == ':');
    }
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
    return n;
}

/* --- sending --- */

/* fd: a descriptor that goes along; -1 = none. */
static bool send_message(const struct sk_notify *n, const char *text, size_t len, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (char *)text, .iov_len = len};
    struct msghdr m = {.msg_name = (void *)&n->to, .msg_namelen = n->n_to, .msg_iov = &iov, .msg_iovlen = 1};
    if (n->fd < 0)
        return false;
    if (fd >= 0) {
        m.msg_control = &control;
        m.msg_controllen = sizeof control.room;
        control.head =
            (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    }
    return sendmsg(n->fd, &m, MSG_NOSIGNAL) == (ssize_t)len;
}

bool sk_notify_send(const struct sk_notify *n, const char *fmt, ...)
{
    char text[SK_NOTIFY_MAX_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return send_message(n, text, len < (int)sizeof text ? (size_t)len : sizeof text - 1, -1);
}

bool sk_notify_store(const struct sk_notify *n, int fd, const char *name)
{
    char text[SK_NOTIFY_MAX_NAME + 32];
    int len = snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%.*s", SK_NOTIFY_MAX_NAME - 1, name);
    return send_message(n, text, (size_t)len, fd);
}

void sk_notify_unstore(const struct sk_notify *n, const char *name)
{
    sk_notify_send(n, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}
