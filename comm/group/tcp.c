#define _GNU_SOURCE /* accept4 */
#include "comm/group/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/base/alive.h"
#include "comm/base/clock.h"

/* One that is connected to and does not answer is given up after TRY_MS; one that connects and says nothing much
 * sooner, since others stand behind it. */
enum { BACKLOG = 256, TRY_MS = 1500, HELLO_MS = 200, IDLE_MS = 10, PAUSE_MS = 50 };

struct hello { /* what comes first on a connection; the answer is key[1] alone */
    char magic[8];
    uint8_t key[SK_TCP_KEY];
    uint32_t rank, zero;
};
#define MAGIC "SKEINC1\0"

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t address_bytes(const union address *a)
{
    return a->any.sa_family == AF_INET ? sizeof a->v4 : sizeof a->v6;
}

static bool address_parse(const char *text, uint16_t port, union address *ret)
{
    memset(ret, 0, sizeof *ret);
    if (inet_pton(AF_INET, text, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons(port);
        return true;
    }
    if (inet_pton(AF_INET6, text, &ret->v6.sin6_addr) == 1) {
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons(port);
        return true;
    }
    return false;
}

static const uint8_t *address_data(const struct sockaddr *a, size_t *ret_n)
{
    if (a->sa_family == AF_INET) {
        *ret_n = 4;
        return (const uint8_t *)&((const struct sockaddr_in *)a)->sin_addr;
    }
    *ret_n = 16;
    return (const uint8_t *)&((const struct sockaddr_in6 *)a)->sin6_addr;
}

/* Of an interface that another host may come by. Link-local addresses say nothing without the link's name, which is
 * another one there. */
static bool is_reachable(const struct ifaddrs *i)
{
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK))
        return false;
    if (i->ifa_addr->sa_family == AF_INET)
        return true;
    return i->ifa_addr->sa_family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)i->ifa_addr)->sin6_addr);
}

static bool same_network(const struct ifaddrs *i, const union address *a)
{
    if (!is_reachable(i) || !i->ifa_netmask || i->ifa_addr->sa_family != a->any.sa_family)
        return false;
    size_t n;
    const uint8_t *mine = address_data(i->ifa_addr, &n), *theirs = address_data(&a->any, &n);
    const uint8_t *mask = address_data(i->ifa_netmask, &n);
    /* A private network of its own, such as a bridge for containers, has often the same address on every host. */
    if (!memcmp(mine, theirs, n))
        return false;
    for (size_t k = 0; k < n; k++) {
        if ((mine[k] ^ theirs[k]) & mask[k])
            return false;
    }
    return true;
}

static bool is_near(const struct ifaddrs *list, const union address *a)
{
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        if (same_network(i, a))
            return true;
    }
    return false;
}

static int left_ms(uint64_t until_us)
{
    uint64_t now = sk_clock_us();
    return now < until_us ? (int)((until_us - now + 999) / 1000) : 0;
}

/* False, with errno: not all of it came in time. */
static bool read_all(int fd, void *p, size_t n, uint64_t until_us)
{
    for (size_t done = 0; done < n;) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        int rc = poll(&pfd, 1, left_ms(until_us));
        if (rc < 0 && errno == EINTR)
            continue;
        if (rc == 0)
            errno = ETIMEDOUT;
        if (rc <= 0)
            return false;
        ssize_t got = recv(fd, (char *)p + done, n - done, MSG_DONTWAIT);
        if (got == 0)
            errno = ECONNRESET;
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        if (got > 0)
            done += (size_t)got;
    }
    return true;
}

int sk_tcp_send(int fd, const void *p, size_t n, void (*idle)(void *arg), void *arg)
{
    for (size_t done = 0; done < n;) {
        ssize_t sent = send(fd, (const char *)p + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            done += (size_t)sent;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -SK_EIO;
        if (idle)
            idle(arg);
        struct pollfd pfd = {.fd = fd, .events = POLLOUT};
        poll(&pfd, 1, idle ? IDLE_MS : -1);
    }
    return 0;
}

static bool same_key(const uint8_t *a, const uint8_t *b)
{
    uint8_t differ = 0; /* no shortcut: how long it takes tells nothing */
    for (int i = 0; i < SK_TCP_KEY; i++)
        differ |= a[i] ^ b[i];
    return !differ;
}

/* Both families on one port where there is IPv6. */
static int listen_any(uint16_t *ret_port)
{
    union address a = {.v6 = {.sin6_family = AF_INET6}};
    int off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
        bind(fd, &a.any, sizeof a.v6) == 0 && listen(fd, BACKLOG) == 0)
        goto name;
    if (fd >= 0)
        close(fd);
    a = (union address){.v4 = {.sin_family = AF_INET}};
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, &a.any, sizeof a.v4) || listen(fd, BACKLOG))
        goto fail;
name:;
    socklen_t n = sizeof a;
    if (getsockname(fd, &a.any, &n))
        goto fail;
    *ret_port = ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
    return fd;
fail:
    close(fd);
    return -1;
}

int sk_tcp_listen(struct sk_tcp_door *ret_door, int *ret_fd, struct sk_err *err)
{
    struct sk_tcp_door door = {0};
    struct ifaddrs *list;
    if (getrandom(door.key, sizeof door.key, 0) != sizeof door.key)
        return sk_err_errno(err, SK_EIO, NULL, "no random bytes");
    int fd = listen_any(&door.port);
    if (fd < 0)
        return sk_err_errno(err, SK_EIO, NULL, "cannot listen for the ranks of other hosts");
    if (getifaddrs(&list)) {
        close(fd);
        return sk_err_errno(err, SK_EIO, NULL, "cannot list this host's network interfaces");
    }
    for (const struct ifaddrs *i = list; i && door.n_addr < SK_TCP_MAX_ADDR; i = i->ifa_next) {
        size_t n;
        if (is_reachable(i))
            inet_ntop(i->ifa_addr->sa_family, address_data(i->ifa_addr, &n), door.addr[door.n_addr++],
                      sizeof door.addr[0]);
    }
    freeifaddrs(list);
    *ret_door = door;
    *ret_fd = fd;
    return 0;
}

int sk_tcp_accept(int listen_fd, const struct sk_tcp_door *door, int n, int *fd, int size, uint32_t max_ms,
                  struct sk_err *err)
{
    uint64_t until_us = sk_clock_us() + (uint64_t)max_ms * 1000;
    for (int come = 0; come < n;) {
        struct pollfd pfd = {.fd = listen_fd, .events = POLLIN};
        int rc = poll(&pfd, 1, left_ms(until_us));
        if (rc == 0)
            return sk_err_set(err, SK_EIO, NULL, "only %d of %d ranks of other hosts connected to port %d within %u s",
                              come, n, door->port, (max_ms + 999) / 1000);
        if (rc < 0 && errno == EINTR)
            continue;
        int s = rc > 0 ? accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (s < 0 && rc > 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            continue; /* it has gone again */
        if (s < 0)
            return sk_err_errno(err, SK_EIO, NULL, "cannot wait for the ranks of other hosts");
        struct hello h;
        if (sk_alive_set(s) && read_all(s, &h, sizeof h, sk_clock_us() + HELLO_MS * 1000) &&
            !memcmp(h.magic, MAGIC, sizeof h.magic) && same_key(h.key, door->key[0]) && h.rank < (uint32_t)size &&
            sk_tcp_send(s, door->key[1], SK_TCP_KEY, NULL, NULL) == 0) {
            /* Who comes twice had given the first one up. */
            if (fd[h.rank] >= 0)
                close(fd[h.rank]);
            else
                come++;
            fd[h.rank] = s;
        } else {
            close(s);
        }
    }
    return 0;
}

/* The socket, or -1 with errno. */
static int try_address(const union address *a, const struct sk_tcp_door *door, int rank, uint64_t until_us)
{
    struct hello h = {.rank = (uint32_t)rank};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    memcpy(h.key, door->key[0], sizeof h.key);
    uint8_t answer[SK_TCP_KEY];
    int error, fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t n = sizeof error;
    if (fd < 0)
        return -1;
    if (connect(fd, &a->any, address_bytes(a)) && errno != EINPROGRESS)
        goto fail;
    struct pollfd pfd = {.fd = fd, .events = POLLOUT};
    int rc = poll(&pfd, 1, left_ms(until_us));
    if (rc == 0)
        errno = ETIMEDOUT;
    if (rc <= 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n))
        goto fail;
    errno = error;
    if (error || !sk_alive_set(fd) || sk_tcp_send(fd, &h, sizeof h, NULL, NULL) ||
        !read_all(fd, answer, sizeof answer, until_us))
        goto fail;
    errno = EPERM;
    if (same_key(answer, door->key[1]))
        return fd;
fail:
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int sk_tcp_connect(const struct sk_tcp_door *door, int rank, uint32_t max_ms, int *ret_fd, struct sk_err *err)
{
    uint64_t until_us = sk_clock_us() + (uint64_t)max_ms * 1000;
    struct ifaddrs *list = NULL;
    char text[160] = "";
    if (getifaddrs(&list))
        return sk_err_errno(err, SK_EIO, NULL, "cannot list this host's network interfaces");
    int fd = -1;
    errno = EHOSTUNREACH;
    while (fd < 0 && door->n_addr && left_ms(until_us)) {
        for (int i = 0; i < 2 * door->n_addr && fd < 0; i++) { /* near ones, then the others */
            union address a;
            uint64_t give_up_us = sk_clock_us() + TRY_MS * 1000;
            if (address_parse(door->addr[i % door->n_addr], door->port, &a) && is_near(list, &a) == (i < door->n_addr))
                fd = try_address(&a, door, rank, give_up_us < until_us ? give_up_us : until_us);
        }
        if (fd < 0)
            poll(NULL, 0, PAUSE_MS);
    }
    int error = errno;
    freeifaddrs(list);
    if (fd >= 0) {
        *ret_fd = fd;
        return 0;
    }
    for (int i = 0; i < door->n_addr && strlen(text) + 50 < sizeof text; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? ", " : "", door->addr[i]);
    errno = error;
    return sk_err_errno(err, SK_EIO, NULL, "cannot connect to rank 0 at %s, port %d", *text ? text : "no address",
                        door->port);
}
