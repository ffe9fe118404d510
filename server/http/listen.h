/* A listening TCP socket. */
#ifndef SK_LISTEN_H
#define SK_LISTEN_H
#include "comm/base/err.h"

/* Binds and listens, non-blocking and close-on-exec. `host` is a numeric address or a name; "" = every address (IPv6
 * and IPv4 where both exist). Port 0 takes a free one; *ret_port is what it became. -SK_EBUSY (in use; the message
 * names the address), -SK_EINVAL, -SK_EIO. */
int sk_listen(const char *host, int port, int *ret_fd, int *ret_port, struct sk_err *err);

#endif
