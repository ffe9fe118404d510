/* Plain HTTP/1.1 over kept connections on epoll, for benchmarks: one read, one clock and one parser between the socket
 * and the figures. libcurl carries https (multi.h). It is not used here because a request of its multi interface takes
 * 18 us of CPU time over 64 connections and 35 us over 1,000, against 10 us here with everything that is measured
 * (libcurl 7.88, loopback, a mock server beside it on two shared cores), its waits are in milliseconds, and it says
 * when it hands bytes on, not when it read them. */
#ifndef SK_DIRECT_H
#define SK_DIRECT_H
#include "clients/bench/net.h"

struct sk_direct; /* one thread */

/* Looks the host up and tries it once: -SK_EUNAVAIL naming it, -SK_ENOMEM. */
int sk_direct_open(struct sk_direct **ret, const struct sk_net_conf *c, struct sk_err *err);
/* As those of net.h. */
void sk_direct_send(struct sk_direct *d, struct sk_turn *x);
void sk_direct_drop(struct sk_direct *d, struct sk_turn *x);
int sk_direct_poll(struct sk_direct *d, int64_t timeout_ns, uint64_t *ret_woke_ns, struct sk_err *err);
void sk_direct_close(struct sk_direct *d);

#endif
