/* Requests over libcurl's multi interface: https, as libcurl knows it. */
#ifndef SK_MULTI_H
#define SK_MULTI_H
#include "clients/bench/net.h"

struct sk_multi; /* one thread */

int sk_multi_open(struct sk_multi **ret, const struct sk_net_conf *c, struct sk_err *err); /* -SK_ENOMEM */
/* As those of net.h. */
void sk_multi_send(struct sk_multi *m, struct sk_turn *x);
void sk_multi_drop(struct sk_multi *m, struct sk_turn *x);
int sk_multi_poll(struct sk_multi *m, int64_t timeout_ns, uint64_t *ret_woke_ns, struct sk_err *err);
void sk_multi_close(struct sk_multi *m);

#endif
