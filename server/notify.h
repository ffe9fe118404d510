/* What a service manager and its daemon say to each other, spoken directly (no libsystemd): datagrams of KEY=value
 * lines to $NOTIFY_SOCKET (sd_notify(3)), sockets that come in by inheritance (sd_listen_fds(3)), and the manager's
 * store of descriptors, which outlives the daemon. Owner: loop thread. */
#ifndef SK_NOTIFY_H
#define SK_NOTIFY_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { SK_NOTIFY_MAX_NAME = 256, SK_NOTIFY_MAX_BYTES = 2048 };

struct sk_notify {
    int fd; /* -1 = nobody wants to know: nothing is sent */
    struct sockaddr_un to;
    socklen_t n_to;
    uint64_t watchdog_us; /* the manager ends us when it hears nothing for so long; 0 = it does not */
};
/* Takes $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID out of the environment, where children would find them. A
 * socket that is neither a path nor an abstract name is not used. */
void sk_notify_open(struct sk_notify *n);
void sk_notify_close(struct sk_notify *n);
/* Sends `KEY=value` lines, cut at SK_NOTIFY_MAX_BYTES. Never waits: false = the manager does not listen just now (or
 * there is none). */
bool sk_notify_send(const struct sk_notify *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Gives the manager a copy of a descriptor to keep under `name` (ASCII without control characters and colons): the next
 * daemon finds it among its inherited sockets. */
bool sk_notify_store(const struct sk_notify *n, int fd, const char *name);
void sk_notify_unstore(const struct sk_notify *n, const char *name);

struct sk_notify_socket {
    int fd;
    char name[SK_NOTIFY_MAX_NAME]; /* FileDescriptorName= of its unit, or that of sk_notify_store */
};
/* The descriptors that the manager passed to this very process ($LISTEN_FDS, $LISTEN_PID, $LISTEN_FDNAMES, which leave
 * the environment); they become close-on-exec and the caller's. Those beyond `max` are closed. Returns how many. */
uint32_t sk_notify_sockets(struct sk_notify_socket *ret, uint32_t max);

#endif
