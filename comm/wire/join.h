/* How rank 0 of an engine that mpirun (or another launcher) started comes to its daemon: inherited descriptors do not
 * get through launchers, so it connects to an address and says the job's token. Over a Unix socket the daemon then
 * hands it the board (comm/wire/board.h); over TCP there is none, and seats go by frames. After that the socket is what
 * an inherited one is from the start: frames, HELLO first. */
#ifndef SK_JOIN_H
#define SK_JOIN_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/err.h"

enum { SK_JOIN_TOKEN = 64 }; /* hex digits */
struct sk_join_hello { /* rank 0 to daemon; nothing follows until the answer, one byte with the board's descriptor */
    char magic[8];
    char token[SK_JOIN_TOKEN];
};
#define SK_JOIN_MAGIC "SKEINJ1\0"

/* Rank 0: addr is unix:PATH or HOST:PORT. *ret_board_fd = -1 over TCP. Blocks, at most 10 s besides looking a name up.
 * -SK_EIO with the reason (refused, nobody there, a wrong token). The socket is then non-blocking. */
int sk_join_connect(const char *addr, const char *token, int *ret_fd, int *ret_board_fd, struct sk_err *err);
void sk_join_make_token(char ret[SK_JOIN_TOKEN + 1]);
/* Is it SK_JOIN_TOKEN hex digits? NULL is none. */
bool sk_join_is_token(const char *token);
/* The daemon: a non-blocking socket that listens at such an address, in a folder of its own with mode 0600; port 0
 * takes a free one. ret_name (at least 300 bytes): where that is. -SK_EINVAL: no address; -SK_EIO. */
int sk_join_listen(const char *addr, int *ret_fd, char *ret_name, struct sk_err *err);
/* The daemon: the next that knocks, non-blocking; over TCP a link that is cut is noticed within seconds. -1: none now.
 */
int sk_join_accept(int fd);
/* The daemon, when n bytes have come of a new connection: 1 = the token is right, 0 = more are needed, -SK_EPROTO. */
int sk_join_check(const void *p, size_t n, const char *token);
/* The daemon's answer, with board_fd unless it is -1. -SK_EIO. */
int sk_join_answer(int fd, int board_fd);

#endif
