/* Carries the requests of a benchmark to one server. Whichever way an exchange ends, `done` is called with it, once and
 * out of send or poll; it may not call back into the net. */
#ifndef SK_NET_H
#define SK_NET_H
#include <stdint.h>

#include "clients/bench/turn.h"
#include "clients/client/target.h"

struct sk_net_conf { /* borrowed until close */
    const struct sk_target *target;
    const char *path; /* after the target's URL: "/completions" */
    void (*done)(void *arg, struct sk_turn *x);
    void *arg;
};

struct sk_net {
    struct sk_direct *direct; /* http:// and unix: */
    struct sk_multi *multi;   /* https:// */
};

/* -SK_EUNAVAIL, -SK_ENOMEM. */
int sk_net_open(struct sk_net *n, const struct sk_net_conf *c, struct sk_err *err);
/* Sends x->body, which stays until the end. x->rec.sent_ns is set. */
void sk_net_send(struct sk_net *n, struct sk_turn *x);
/* Closes the connection of an exchange that has ended by itself (sk_turn_over); `done` is called. */
void sk_net_drop(struct sk_net *n, struct sk_turn *x);
/* Waits at most `timeout_ns` for the sockets and does what they ask for; a signal ends the wait too.
 * *ret_woke_ns is the clock (sk_clock_ns) when the wait was over. -SK_EIO. */
int sk_net_poll(struct sk_net *n, int64_t timeout_ns, uint64_t *ret_woke_ns, struct sk_err *err);
void sk_net_close(struct sk_net *n); /* without calls of `done` */

#endif
