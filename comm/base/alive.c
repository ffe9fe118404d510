#include "comm/base/alive.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>

bool sk_alive_set(int fd)
{
    enum { IDLE_S = 2, INTERVAL_S = 1, PROBES = 3 };
    const struct {
        int level, name, value;
    } option[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},       {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S}, {IPPROTO_TCP, TCP_KEEPINTVL, INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, PROBES},  {IPPROTO_TCP, TCP_USER_TIMEOUT, (IDLE_S + PROBES * INTERVAL_S) * 1000},
    };
    bool ok = true;
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        ok &= setsockopt(fd, option[i].level, option[i].name, &option[i].value, sizeof option[i].value) == 0;
    return ok;
}
