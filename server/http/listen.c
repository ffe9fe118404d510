#include "server/http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A peer whose host is gone sends no FIN: its sequence is freed after idle + n * interval. */
enum { PROBE_IDLE_S = 60, PROBE_INTERVAL_S = 10, PROBE_COUNT = 6 };

/* --- what a socket is called --- */

static int name_unix(const struct sockaddr_un *un, socklen_t len, char *ret, size_t n)
{
    size_t n_path = len > offsetof(struct sockaddr_un, sun_path) ? len - offsetof(struct sockaddr_un, sun_path) : 0;
    if (n_path > 0 && un->sun_path[0] == '\0') /* abstract; shown as systemd does */
        return snprintf(ret, n, "unix:@%.*s", (int)n_path - 1, un->sun_path + 1);
    return snprintf(ret, n, "unix:%.*s", (int)n_path, un->sun_path);
}

/* -1: neither TCP nor Unix. */
static int name_of(int fd, bool *ret_unix, char *ret, size_t n)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } sa = {0};
    socklen_t len = sizeof sa;
    char host[INET6_ADDRSTRLEN] = "";
    if (getsockname(fd, &sa.any, &len) != 0)
        return -1;
    *ret_unix = sa.any.sa_family == AF_UNIX;
    switch (sa.any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &sa.in.sin_addr, host, sizeof host);
        return snprintf(ret, n, "%s:%d", host, ntohs(sa.in.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &sa.in6.sin6_addr, host, sizeof host);
        return snprintf(ret, n, "[%s]:%d", host, ntohs(sa.in6.sin6_port));
    case AF_UNIX:
        return name_unix(&sa.un, len < sizeof sa.un ? len : sizeof sa.un, ret, n);
    default:
        return -1;
    }
}

/* What is set here is inherited by the connections. On a Unix socket it fails, and does not matter. */
static void probe_peers(int fd)
{
    static const int options[][3] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                                     {IPPROTO_TCP, TCP_KEEPIDLE, PROBE_IDLE_S},
                                     {IPPROTO_TCP, TCP_KEEPINTVL, PROBE_INTERVAL_S},
                                     {IPPROTO_TCP, TCP_KEEPCNT, PROBE_COUNT}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        setsockopt(fd, options[i][0], options[i][1], &options[i][2], sizeof(int));
}

static void fill(int fd, struct sk_listen *ret)
{
    *ret = (struct sk_listen){.fd = fd};
    name_of(fd, &ret->is_unix, ret->name, sizeof ret->name);
    if (!ret->is_unix)
        probe_peers(fd);
}

/* --- TCP --- */

static int listen_on(const struct addrinfo *ai)
{
    int one = 1, off = 0;
    int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, ai->ai_protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* The IPv6 wildcard first: it takes IPv4 too. */
static const struct addrinfo *preferred(const struct addrinfo *list, const char *host)
{
    for (const struct addrinfo *ai = list; ai && !*host; ai = ai->ai_next) {
        if (ai->ai_family == AF_INET6)
            return ai;
    }
    return list;
}

static int listen_tcp(const char *host, int port, struct sk_listen *ret, struct sk_err *err)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(*host ? host : NULL, service, &hints, &list);
    if (rc != 0)
        return sk_err_set(err, SK_EINVAL, "listen", "cannot listen on \"%s\": %s", host, gai_strerror(rc));

    int fd = listen_on(preferred(list, host));
    for (const struct addrinfo *ai = list; fd < 0 && ai && errno != EADDRINUSE; ai = ai->ai_next)
        fd = listen_on(ai);
    if (fd < 0)
        rc = sk_err_errno(err, errno == EADDRINUSE ? SK_EBUSY : SK_EIO, "listen", "cannot listen on %s port %d",
                          *host ? host : "any address", port);
    else
        fill(fd, ret);
    freeaddrinfo(list);
    return rc;
}

enum { MAX_HOST_BYTES = 256 };

static int parse_tcp(const char *addr, char ret_host[MAX_HOST_BYTES], int *ret_port, struct sk_err *err)
{
    const char *colon = strrchr(addr, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : -1;
    if (!colon || end == colon + 1 || *end || port < 0 || port > 65535 || colon - addr >= MAX_HOST_BYTES)
        return sk_err_set(err, SK_EINVAL, "listen", "%s: HOST:PORT or unix:PATH is expected, the port in 0..65535",
                          addr);
    int n = (int)(colon - addr);
    bool bracketed = n >= 2 && addr[0] == '[' && addr[n - 1] == ']';
    snprintf(ret_host, MAX_HOST_BYTES, "%.*s", bracketed ? n - 2 : n, bracketed ? addr + 1 : addr);
    if (strpbrk(ret_host, "[]"))
        return sk_err_set(err, SK_EINVAL, "listen", "%s: an IPv6 address is written as [ADDRESS]:PORT", addr);
    *ret_port = (int)port;
    return 0;
}

static int open_tcp(const char *addr, struct sk_listen *ret, struct sk_err *err)
{
    char host[MAX_HOST_BYTES];
    int port;
    int rc = parse_tcp(addr, host, &port, err);
    return rc != 0 ? rc : listen_tcp(host, port, ret, err);
}

/* --- Unix --- */

/* A socket file outlives the process that made it; then connections to it are refused. */
static bool is_stale(const struct sockaddr_un *un)
{
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool stale = lstat(un->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
                 connect(fd, (const struct sockaddr *)un, sizeof *un) != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

/* Nobody can connect before listen, so the permissions are right from the first moment. */
static int bind_unix(int fd, const struct sockaddr_un *un, unsigned mode)
{
    const struct sockaddr *sa = (const struct sockaddr *)un;
    if (bind(fd, sa, sizeof *un) != 0) {
        if (errno != EADDRINUSE)
            return -1;
        if (!is_stale(un)) {
            errno = EADDRINUSE;
            return -1;
        }
        if (unlink(un->sun_path) != 0 || bind(fd, sa, sizeof *un) != 0)
            return -1;
    }
    if (chmod(un->sun_path, mode) == 0 && listen(fd, SOMAXCONN) == 0)
        return 0;
    int e = errno;
    unlink(un->sun_path);
    errno = e;
    return -1;
}

static int parse_unix(const char *path, struct sockaddr_un *ret, struct sk_err *err)
{
    if (!*path || strlen(path) >= sizeof ret->sun_path)
        return sk_err_set(err, SK_EINVAL, "listen", "unix:%s: a path of 1 to %zu bytes is expected", path,
                          sizeof ret->sun_path - 1);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, strlen(path) + 1);
    return 0;
}

static int64_t made_ns(const struct stat *st)
{
    return st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec;
}

static int open_unix(const char *path, unsigned mode, struct sk_listen *ret, struct sk_err *err)
{
    struct sockaddr_un un;
    struct stat st;
    int rc = parse_unix(path, &un, err);
    if (rc != 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return sk_err_errno(err, SK_EIO, "listen", "cannot make a socket for unix:%s", path);
    if (bind_unix(fd, &un, mode) != 0) {
        rc = sk_err_errno(err, errno == EADDRINUSE ? SK_EBUSY : SK_EIO, "listen", "cannot listen on unix:%s", path);
        close(fd);
        return rc;
    }
    fill(fd, ret);
    if (stat(path, &st) == 0) {
        ret->dev = st.st_dev;
        ret->ino = st.st_ino;
        ret->made_ns = made_ns(&st);
    }
    return 0;
}

/* --- */

int sk_listen_check(const char *addr, struct sk_err *err)
{
    char host[MAX_HOST_BYTES];
    struct sockaddr_un un;
    int port;
    return strncmp(addr, "unix:", 5) == 0 ? parse_unix(addr + 5, &un, err) : parse_tcp(addr, host, &port, err);
}

int sk_listen_open(const char *addr, unsigned mode, struct sk_listen *ret, struct sk_err *err)
{
    return strncmp(addr, "unix:", 5) == 0 ? open_unix(addr + 5, mode, ret, err) : open_tcp(addr, ret, err);
}

int sk_listen_take(int fd, struct sk_listen *ret, struct sk_err *err)
{
    int on = 0, type = 0;
    bool is_unix;
    char name[SK_LISTEN_MAX_NAME];
    socklen_t len = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) != 0 || !on ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM ||
        name_of(fd, &is_unix, name, sizeof name) < 0)
        return sk_err_set(err, SK_EINVAL, NULL, "descriptor %d is not a listening TCP or Unix socket", fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return sk_err_errno(err, SK_EINVAL, NULL, "descriptor %d", fd);
    fill(fd, ret);
    return 0;
}

void sk_listen_close(struct sk_listen *l, bool unlink_file)
{
    struct stat st;
    const char *path = l->name + strlen("unix:");
    if (l->fd >= 0)
        close(l->fd);
    if (unlink_file && l->ino && lstat(path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino &&
        made_ns(&st) == l->made_ns)
        unlink(path);
    l->fd = -1;
    l->ino = 0;
}
