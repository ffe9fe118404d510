/* Where the leader of an engine that a launcher started comes in (comm/wire/join.h): listens, hears each that knocks
 * out, and lets one in that has the token. Then it is shut. Owner: loop thread. */
#ifndef SK_DOOR_H
#define SK_DOOR_H
#include "comm/base/err.h"

struct uv_loop_s;
struct sk_door;

struct sk_door_conf {
    const char *addr, *token; /* copied */
    int board_fd;             /* for who comes in; -1 = none. Borrowed */
    void *arg;
    void (*on_leader)(void *arg, int fd); /* the callee's. May close the door */
};
/* Listens and is open. Errors of sk_join_listen, -SK_ENOMEM. */
int sk_door_make(struct uv_loop_s *loop, const struct sk_door_conf *conf, struct sk_door **ret, struct sk_err *err);
const char *sk_door_name(const struct sk_door *d); /* its address, with the port that it got */
/* No callback after this one; memory goes when the loop has closed the handles. NULL is allowed. */
void sk_door_close(struct sk_door *d);

#endif
