#include "server/http/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

static int port_of(int fd)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return -1;
    return ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                          : ((struct sockaddr_in *)&sa)->sin_port);
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

int sk_listen(const char *host, int port, int *ret_fd, int *ret_port, struct sk_err *err)
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
    freeaddrinfo(list);
    if (fd < 0)
        return rc;
    *ret_port = port_of(fd);
    *ret_fd = fd;
    return 0;
}
