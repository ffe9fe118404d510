/* Listening sockets. */
#ifndef SK_LISTEN_H
#define SK_LISTEN_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"

enum { SK_LISTEN_MAX_NAME = 160 };
struct sk_listen {
    int fd; /* non-blocking, close-on-exec; the owner's */
    bool is_unix;
    char name[SK_LISTEN_MAX_NAME]; /* for people: "127.0.0.1:8080", "unix:/run/skein/skein.sock" */
    uint64_t dev, ino;             /* of the file that sk_listen_open made; ino 0 = none */
    int64_t made_ns;               /* when: inode numbers are used again */
};

/* Binds and listens at `addr`: "HOST:PORT", "[IPV6]:PORT", ":PORT" (every address; IPv6 and IPv4 where both exist) or
 * "unix:PATH". Port 0 takes a free one, which `name` then says. A socket file that nobody listens at any more is
 * replaced; mode: permissions of a new one. -SK_EBUSY (in use; the message names the address), -SK_EINVAL, -SK_EIO. */
int sk_listen_open(const char *addr, unsigned mode, struct sk_listen *ret, struct sk_err *err);
/* Whether `addr` is written as sk_listen_open wants it; opens nothing. -SK_EINVAL. */
int sk_listen_check(const char *addr, struct sk_err *err);
/* Takes over a TCP or Unix socket that was bound and listens already (from a service manager). -SK_EINVAL: it is not
 * one, and stays open. */
int sk_listen_take(int fd, struct sk_listen *ret, struct sk_err *err);
/* Closes it, unless fd is -1; the file of a Unix socket that sk_listen_open made goes with `unlink_file`, but not if
 * another's has taken its place. */
void sk_listen_close(struct sk_listen *l, bool unlink_file);

#endif
