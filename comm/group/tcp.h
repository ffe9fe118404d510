/* TCP connections from a job's leader to the ranks of other hosts. The leader opens a door on a free port and tells
 * the others about it by means they have in common (MPI); who then comes proves with the door's first key that it was
 * told, and the leader answers with the second: a port that happens to be somebody else's is noticed. After that bytes
 * go as they are. A link that was cut is noticed within 10 seconds. */
#ifndef SK_TCP_H
#define SK_TCP_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"

enum { SK_TCP_KEY = 32, SK_TCP_MAX_ADDR = 16 };
struct sk_tcp_door { /* plain bytes, to be sent as they are between machines of one kind */
    uint8_t key[2][SK_TCP_KEY];
    uint16_t port, n_addr;
    char addr[SK_TCP_MAX_ADDR][48]; /* of this host's interfaces, numeric; loopback is not among them */
};

/* The leader. accept: until n ranks have come, at most max_ms; each one's socket at fd[its rank], which are -1 before;
 * on an error those that came stay there. -SK_EIO. */
int sk_tcp_listen(struct sk_tcp_door *ret_door, int *ret_fd, struct sk_err *err);
int sk_tcp_accept(int listen_fd, const struct sk_tcp_door *door, int n, int *fd, int size, uint32_t max_ms,
                  struct sk_err *err);
/* Another rank: tries the door's addresses, those of networks that this host is in first. -SK_EIO: which, and why not.
 */
int sk_tcp_connect(const struct sk_tcp_door *door, int rank, uint32_t max_ms, int *ret_fd, struct sk_err *err);

/* Sends all; where the peer takes nothing, calls `idle` (may be NULL) now and then. -SK_EIO. */
int sk_tcp_send(int fd, const void *p, size_t n, void (*idle)(void *arg), void *arg);

#endif
