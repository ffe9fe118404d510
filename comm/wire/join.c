#define _GNU_SOURCE /* accept4 */
#include "comm/wire/join.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "comm/base/alive.h"
#include "comm/base/clock.h"

enum { TIMEOUT_MS = 10000, BACKLOG = 16, MAX_NAME = 300, MAX_HOST = 256, MAX_PORT = 32, MAX_ADDRESS = 8 };

static const char UNIX[] = "unix:";

/* ---- addresses ---- */

struct address {
    struct sockaddr_storage sa;
    socklen_t n;
};

static int unix_address(const char *path, struct address *ret, struct sk_err *err)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&ret->sa;
    memset(ret, 0, sizeof *ret);
    if (!*path || strlen(path) >= sizeof un->sun_path)
        return sk_err_set(err, SK_EINVAL, NULL, "unix:%.120s: a path has 1 to %zu bytes", path,
                          sizeof un->sun_path - 1);
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, path);
    ret->n = sizeof *un;
    return 0;
}

/* HOST:PORT or [HOST]:PORT. */
/* All that a name stands for, at most MAX_ADDRESS: a daemon may listen on one of them only. */
static int tcp_addresses(const char *addr, struct address *ret, int *ret_n, struct sk_err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const char *colon = strrchr(addr, ':');
    char host[MAX_HOST], port[MAX_PORT];
    struct addrinfo *list = NULL;
    size_t n = colon ? (size_t)(colon - addr) : 0;
    bool bracketed = n > 2 && addr[0] == '[' && addr[n - 1] == ']';
    if (n == 0 || n >= sizeof host || (size_t)snprintf(port, sizeof port, "%s", colon + 1) >= sizeof port || !*port)
        return sk_err_set(err, SK_EINVAL, NULL, "%.200s is no address: HOST:PORT or unix:PATH", addr);
    snprintf(host, sizeof host, "%.*s", (int)(bracketed ? n - 2 : n), addr + bracketed);
    int e = getaddrinfo(host, port, &hints, &list);
    if (e != 0)
        return sk_err_set(err, SK_EINVAL, NULL, "%.200s: %s", addr, gai_strerror(e));
    int n_found = 0;
    for (const struct addrinfo *i = list; i && n_found < MAX_ADDRESS; i = i->ai_next) {
        struct address *a = &ret[n_found++];
        *a = (struct address){.n = i->ai_addrlen};
        memcpy(&a->sa, i->ai_addr, i->ai_addrlen);
    }
    freeaddrinfo(list);
    *ret_n = n_found;
    return 0;
}

static int resolve(const char *addr, struct address ret[MAX_ADDRESS], int *ret_n, struct sk_err *err)
{
    if (strncmp(addr, UNIX, strlen(UNIX)) != 0)
        return tcp_addresses(addr, ret, ret_n, err);
    *ret_n = 1;
    return unix_address(addr + strlen(UNIX), ret, err);
}

static int open_socket(const struct address *a, int flags)
{
    return socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
}

/* Of a TCP socket; of others nothing. */
static void tune(int fd)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    if (getsockname(fd, (struct sockaddr *)&sa, &n) == 0 && sa.ss_family != AF_UNIX)
        sk_alive_set(fd);
}

/* ---- rank 0 ---- */

/* Waits for the socket until the deadline. */
static bool wait_for(int fd, short events, uint64_t until_us)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = sk_clock_us();
        int n = poll(&p, 1, now < until_us ? (int)((until_us - now) / 1000 + 1) : 0);
        if (n >= 0 || errno != EINTR)
            return n > 0;
    }
}

static int connect_to(int fd, const struct address *a, uint64_t until_us)
{
    int e = 0;
    socklen_t n = sizeof e;
    if (connect(fd, (const struct sockaddr *)&a->sa, a->n) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return -1;
    if (!wait_for(fd, POLLOUT, until_us)) {
        errno = ETIMEDOUT;
        return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0)
        return -1;
    errno = e;
    return e ? -1 : 0;
}

/* One byte, and the board where there is one. */
static ssize_t receive_answer(int fd, int *ret_board_fd)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    *ret_board_fd = -1;
    for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(ret_board_fd, CMSG_DATA(c), sizeof(int));
    }
    return n;
}

int sk_join_connect(const char *addr, const char *token, int *ret_fd, int *ret_board_fd, struct sk_err *err)
{
    struct sk_join_hello hello = {.magic = SK_JOIN_MAGIC};
    uint64_t until_us = sk_clock_us() + TIMEOUT_MS * UINT64_C(1000);
    struct address a[MAX_ADDRESS];
    int n_address, fd = -1, board_fd = -1;
    if (!sk_join_is_token(token))
        return sk_err_set(err, SK_EIO, "connect", "no token to say to the daemon at %s: %d hex digits", addr,
                          SK_JOIN_TOKEN);
    memcpy(hello.token, token, sizeof hello.token);
    int rc = resolve(addr, a, &n_address, err);
    if (rc != 0)
        return rc;
    for (int i = 0; i < n_address && fd < 0; i++) {
        fd = open_socket(&a[i], SOCK_NONBLOCK);
        if (fd >= 0 && connect_to(fd, &a[i], until_us) != 0) {
            int error = errno;
            close(fd);
            fd = -1;
            errno = error;
        }
    }
    if (fd < 0)
        return sk_err_errno(err, SK_EIO, "connect", "no daemon at %s", addr);
    tune(fd);
    ssize_t n = send(fd, &hello, sizeof hello, MSG_NOSIGNAL); /* the socket is empty: all of it goes in at once */
    if (n != (ssize_t)sizeof hello) {
        rc = sk_err_errno(err, SK_EIO, "connect", "the daemon at %s does not listen", addr);
    } else if (!wait_for(fd, POLLIN, until_us)) {
        rc = sk_err_set(err, SK_EIO, "connect", "the daemon at %s does not answer", addr);
    } else if (receive_answer(fd, &board_fd) != 1) {
        rc = sk_err_set(err, SK_EIO, "connect", "the daemon at %s refuses us: the token is another one's", addr);
    }
    if (rc == 0) {
        *ret_fd = fd;
        *ret_board_fd = board_fd;
    } else {
        close(fd);
    }
    return rc;
}

/* ---- tokens ---- */

void sk_join_make_token(char ret[SK_JOIN_TOKEN + 1])
{
    unsigned char raw[SK_JOIN_TOKEN / 2];
    sk_assert(getrandom(raw, sizeof raw, 0) == (ssize_t)sizeof raw); /* cannot be cut short below 256 bytes */
    for (size_t i = 0; i < sizeof raw; i++)
        snprintf(ret + 2 * i, 3, "%02x", raw[i]);
}

bool sk_join_is_token(const char *token)
{
    return token && strlen(token) == SK_JOIN_TOKEN && strspn(token, "0123456789abcdefABCDEF") == SK_JOIN_TOKEN;
}

/* In a time that does not tell where the first wrong digit is. */
int sk_join_check(const void *p, size_t n, const char *token)
{
    const struct sk_join_hello *h = p;
    unsigned differ = 0;
    if (n > sizeof *h || memcmp(p, SK_JOIN_MAGIC, n < sizeof h->magic ? n : sizeof h->magic) != 0)
        return -SK_EPROTO;
    if (n < sizeof *h)
        return 0;
    for (size_t i = 0; i < sizeof h->token; i++)
        differ |= (unsigned char)(h->token[i] ^ token[i]);
    return differ ? -SK_EPROTO : 1;
}

/* ---- the daemon ---- */

/* A Unix socket is nobody else's from its first moment on: umask is the process's, but fchmod before bind is Linux's
 * way for this one (unix(7)). */
static int bind_to(int fd, const struct address *a)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
    int on = 1;
    if (a->sa.ss_family == AF_UNIX) {
        unlink(un->sun_path);
        if (fchmod(fd, 0600) != 0)
            return -1;
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    return bind(fd, (const struct sockaddr *)&a->sa, a->n) == 0 ? listen(fd, BACKLOG) : -1;
}

static void name_of(int fd, const char *addr, char *ret)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    char host[MAX_HOST], port[MAX_PORT];
    if (getsockname(fd, (struct sockaddr *)&sa, &n) != 0 || sa.ss_family == AF_UNIX ||
        getnameinfo((struct sockaddr *)&sa, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
        snprintf(ret, MAX_NAME, "%s", addr);
    else
        snprintf(ret, MAX_NAME, sa.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

int sk_join_listen(const char *addr, int *ret_fd, char *ret_name, struct sk_err *err)
{
    struct address a[MAX_ADDRESS];
    int n_address;
    int rc = resolve(addr, a, &n_address, err);
    if (rc != 0)
        return rc;
    int fd = open_socket(&a[0], SOCK_NONBLOCK);
    if (fd < 0 || bind_to(fd, &a[0]) != 0) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot listen at %s", addr);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    name_of(fd, addr, ret_name);
    *ret_fd = fd;
    return 0;
}

int sk_join_accept(int fd)
{
    int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (peer >= 0)
        tune(peer);
    return peer;
}

int sk_join_answer(int fd, int board_fd)
{
    char byte = 1, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (board_fd >= 0) {
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &board_fd, sizeof(int));
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL) == 1 ? 0 : -SK_EIO;
}
